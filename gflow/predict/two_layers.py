"""Two layers, one data point: the limit point in closed form (Yun et al. 2021, Theorem 6).

Imports networks, problems.
"""

import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

from ..networks import Network, with_weights
from ..problems import Regression
from .prediction import Hypothesis, Prediction


def two_layer_limit(network: Network, problem: Regression) -> Prediction:
    """The limit point of a two-layer network, of any architecture, on one data point.

    With M(x) = U_1 diag(s) U_2ᵀ, a = U_1ᵀv_1 and b = U_2ᵀv_2 at the start, the flow turns each pair
    (a_j, b_j) by the hyperbolic angle s_j ν, and stops where the output g(ν) is y:

        g(ν) = Σ_j s_j [½(a_j² + b_j²) sinh(2 s_j ν) + a_j b_j cosh(2 s_j ν)].

    The theorem assumes a_j² − b_j² ≥ λ > 0. Where this fails the formula still holds as long as g,
    which always increases, reaches y (the paper's Remark 1); `hypotheses` says which of the two holds.

    **Raises** ValueError if the network has not two layers, the problem not one data point, or if g
    never reaches y: then the flow does not fit the data.

    Yun et al. 2021, Theorem 6. `network` is the initialisation, scale included.

    ```python
    gflow.predict.two_layer_limit(gflow.scale(network, 0.01), problem).coefficients
    ```
    """
    if network.depth != 2 or problem.y.shape != (1,):
        raise ValueError(
            f"Theorem 6 is for two layers and one data point; got {network.depth} layers and {problem.y.size} "
            "data points. Ask gflow.predict.limit which theorem serves this problem."
        )
    x, y = problem.X[0], float(problem.y[0])
    v_1, v_2 = (np.asarray(v, np.float64).ravel() for v in network.weights)
    U_1, s, U_2 = np.linalg.svd(np.asarray(network.data_tensor(x), np.float64), full_matrices=False)
    positive = s > s.max() * s.size * np.finfo(s.dtype).eps
    U_1, s, U_2 = U_1[:, positive], s[positive], U_2[positive].T
    a, b = U_1.T @ v_1, U_2.T @ v_2
    nu = _root(s, a, b, y)
    # a cosh(s ν) + b sinh(s ν), and the same with a and b exchanged, without cancellation:
    growing, falling = (a + b) / 2 * np.exp(s * nu), (a - b) / 2 * np.exp(-s * nu)
    ends = (
        U_1 @ (growing + falling) + (v_1 - U_1 @ a),
        U_2 @ (growing - falling) + (v_2 - U_2 @ b),
    )
    end = with_weights(
        network, tuple(jnp.asarray(e.reshape(v.shape), v.dtype) for e, v in zip(ends, network.weights, strict=True))
    )
    beta = np.asarray(end.coefficients(), np.float64)
    x = np.asarray(x, np.float64)
    return Prediction(
        coefficients=beta,
        theorem="Theorem 6",
        is_direction=False,
        residual=abs(float(x @ beta) - y) / float(np.abs(x) @ np.abs(beta) + abs(y)),
        hypotheses=(_dominance(s, a, b), _reach(a, b, y)),
    )


def _root(s: np.ndarray, a: np.ndarray, b: np.ndarray, y: float) -> float:
    """The ν with g(ν) = y."""
    reach = _reach(a, b, y)
    if not reach.holds:
        raise ValueError(
            f"The flow from this start never reaches y = {y}: {reach.statement} is {reach.value:.3g}. "
            "Change the initial directions, for instance to ones where no two layers are equal or opposite."
        )

    def excess(nu: float) -> float:
        up, down = np.minimum(2 * s * nu, 600.0), np.minimum(-2 * s * nu, 600.0)
        return float(np.sum(s * ((a + b) ** 2 * np.exp(up) - (a - b) ** 2 * np.exp(down))) / 4 - y)

    far = 1 / s.max()
    while excess(far) < 0:
        far *= 2
    near = -1 / s.max()
    while excess(near) > 0:
        near *= 2
    return root_scalar(excess, bracket=(near, far), xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500).root


def _reach(a: np.ndarray, b: np.ndarray, y: float) -> Hypothesis:
    up, down = float(np.max(np.abs(a + b))), float(np.max(np.abs(a - b)))
    value = min([up] if y > 0 else [down] if y < 0 else [up, down])
    return Hypothesis("g reaches y: max |a_j + b_j| (for y > 0) or max |a_j − b_j| (for y < 0)", value > 0, value)


def _dominance(s: np.ndarray, a: np.ndarray, b: np.ndarray) -> Hypothesis:
    """λ = min_j (a_j² − b_j²) in the best singular basis.

    Within a group of equal singular values the basis is free, and some choice makes all differences of
    the group equal (Schur and Horn): so a group counts with its mean.
    """
    groups = np.split(np.arange(s.size), np.flatnonzero(-np.diff(s) > 1e-9 * s[0]) + 1)
    value = min(float(np.mean(a[g] ** 2 - b[g] ** 2)) for g in groups)
    return Hypothesis("λ = min_j (a_j² − b_j²) is positive", value > 0, value)
