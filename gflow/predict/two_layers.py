"""Two layers, one data point: where the flow ends, in closed form (Yun et al. 2021, Theorems 3 and 6)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..networks import LinearTensorNetwork, with_weights
from ..problems import Classification, Problem, Regression
from .faces import apart
from .prediction import Hypothesis, Prediction, Refusal, require_served


def two_layer_limit(network: LinearTensorNetwork, problem: Regression) -> Prediction:
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
    require_served(problem, Regression)
    x, y, U_1, s, U_2, a, b = singular_basis(network, problem, "Theorem 6")
    v_1, v_2 = (np.asarray(v, np.float64).ravel() for v in network.weights)
    nu = root(s, a, b, y)
    ends = (
        U_1 @ turned(a, b, s * nu) + (v_1 - U_1 @ a),
        U_2 @ turned(b, a, s * nu) + (v_2 - U_2 @ b),
    )
    beta = _coefficients(network, ends)
    return Prediction(
        coefficients=beta,
        theorem="Theorem 6",
        is_direction=False,
        residual=abs(float(x @ beta) - y) / max(float(np.abs(x) @ np.abs(beta) + abs(y)), np.finfo(float).tiny),
        hypotheses=(_dominance(s, a, b), _reach(a, b, y)),
    )


def two_layer_direction(network: LinearTensorNetwork, problem: Classification) -> Prediction:
    """The limit direction of a two-layer network, of any architecture, on one data point.

    ρ minimises ‖ρ‖_1 subject to y sᵀρ ≥ 1, so only the largest singular value of M(x) survives. Where it
    is multiple, the minimiser is not unique and the start decides: η_1 ± η_2 grow like e^{±s_j ν}, so
    v_1 → U_1 (a ± b) and v_2 → ± U_2 (a ± b) on the largest singular value, with ± = y.

    The theorem assumes a_j² − b_j² ≥ λ > 0; as in `two_layer_limit` it holds without, as long as some
    a_j ± b_j is not zero. `residual` is that of the singular-vector equations.

    **Raises** ValueError if the network has not two layers, the problem not one data point, or if the
    loss does not converge to zero from this start.

    Yun et al. 2021, Theorem 3; Corollary 4 for convolutions with filters of length 1 and 2.

    ```python
    gflow.predict.two_layer_direction(network, gflow.Classification(X=[[1.0, 2.0]], y=[1])).coefficients
    ```
    """
    require_served(problem, Classification)
    x, y, U_1, s, U_2, a, b = singular_basis(network, problem, "Theorem 3")
    reach = _reach(a, b, y)
    if not reach.holds:
        raise Refusal(f"The flow from this start never separates the data: {reach.statement} is {reach.value:.3g}.")
    growing = a + y * b
    alive = np.abs(growing) > 0
    top = alive & (s >= s[alive].max() * (1 - _TIE))
    unit = np.where(top, growing, 0.0) / np.linalg.norm(growing[top])
    v_1, v_2 = U_1 @ unit, y * (U_2 @ unit)
    beta = _coefficients(network, (v_1, v_2))
    M = y * (U_1 * s) @ U_2.T
    errors = (np.linalg.norm(M @ v_2 - s[top][0] * v_1), np.linalg.norm(M.T @ v_1 - s[top][0] * v_2))
    return Prediction(
        coefficients=beta / (y * (x @ beta)),
        theorem="Theorem 3",
        is_direction=True,
        residual=float(max(errors) / s[top][0]),
        hypotheses=(_dominance(s, a, b), reach, apart(_APART, float(1 - s[alive & ~top].max(initial=0.0) / s[top][0]))),
    )


_TIE = 1e-12  # relative difference below which singular values count as equal: hundreds of times their round-off
_APART = "the largest singular value whose modes grow is larger than the others"


class SingularBasis(NamedTuple):
    """x and y, the compact SVD of M(x), and the modes a = U_1ᵀv_1, b = U_2ᵀv_2 of the start."""

    x: np.ndarray
    y: float
    U_1: np.ndarray
    s: np.ndarray
    U_2: np.ndarray
    a: np.ndarray
    b: np.ndarray


def singular_basis(network: LinearTensorNetwork, problem: Problem, theorem: str) -> SingularBasis:
    """The singular basis of M(x) for a network of two layers and a problem of one data point, which `theorem` needs."""
    if not isinstance(network, LinearTensorNetwork):
        raise Refusal(
            f"{theorem} is for linear tensor networks; {type(network).__name__} is not multilinear in its weights. Use "
            "gflow.flow or gflow.limit alone."
        )
    if len(network.weights) != 2 or problem.y.shape != (1,):
        raise Refusal(
            f"{theorem} is for two layers and one data point; got {len(network.weights)} layers and {problem.y.size} "
            "data points. Ask gflow.predict.limit which theorem serves this problem."
        )
    x, y = np.asarray(problem.X[0], np.float64), float(problem.y[0])
    v_1, v_2 = (np.asarray(v, np.float64).ravel() for v in network.weights)
    U_1, s, U_2 = np.linalg.svd(np.asarray(network.data_tensor(problem.X[0]), np.float64), full_matrices=False)
    positive = s > s.max() * s.size * np.finfo(s.dtype).eps
    U_1, s, U_2 = U_1[:, positive], s[positive], U_2[positive].T
    a, b = U_1.T @ v_1, U_2.T @ v_2
    # Layers that are equal or opposite stay so, and round-off must not tell them apart.
    round_off = 1e-14 * max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    b = np.where(np.abs(np.abs(a) - np.abs(b)) <= round_off, np.copysign(a, b), b)
    return SingularBasis(x, y, U_1, s, U_2, a, b)


def _coefficients(network: LinearTensorNetwork, vectors: tuple[np.ndarray, ...]) -> np.ndarray:
    shaped = (jnp.asarray(e.reshape(v.shape), v.dtype) for e, v in zip(vectors, network.weights, strict=True))
    return np.asarray(with_weights(network, tuple(shaped)).coefficients(), np.float64)


def root(s: np.ndarray, a: np.ndarray, b: np.ndarray, y: float) -> float:
    """The ν with g(ν) = y."""
    reach = _reach(a, b, y)
    if not reach.holds:
        raise Refusal(
            f"The flow from this start never reaches y = {y}: {reach.statement} is {reach.value:.3g}. "
            "Change the initial directions, for instance to ones where no two layers are equal or opposite."
        )

    def excess(nu: float) -> float:
        # s_j times ½(a² + b²) sinh(2 s_j ν) + a b cosh(2 s_j ν)
        return float(np.sum(s * turned(a * b, (a**2 + b**2) / 2, 2 * s * nu)) - y)

    from scipy.optimize import root_scalar  # late: it takes a quarter of a second to import

    far, near = 1 / s.max(), -1 / s.max()
    while excess(far) < 0 and 4 * far * s.max() < _LARGEST_EXPONENT:
        far *= 2
    while excess(near) > 0 and -4 * near * s.max() < _LARGEST_EXPONENT:
        near *= 2
    if not excess(near) <= 0 <= excess(far):
        raise Refusal(
            f"The limit is out of float64's range: y = {y} is over e^{_LARGEST_EXPONENT:.0f} times the output of the "
            f"start, whose largest weight is {max(np.abs(a).max(), np.abs(b).max()):.1e}. Use a larger scale."
        )
    return root_scalar(excess, bracket=(near, far), xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500).root


_LARGEST_EXPONENT = 600.0


def turned(a: np.ndarray, b: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """a cosh(angle) + b sinh(angle); far from 0 by growing and falling parts, of which neither cancels."""
    size = np.minimum(np.abs(angle), _LARGEST_EXPONENT)
    with_sign = b * np.sign(angle)
    far = (a + with_sign) / 2 * np.exp(size) + (a - with_sign) / 2 * np.exp(-size)
    return np.where(size < 1, a * np.cosh(size) + with_sign * np.sinh(size), far)


def _reach(a: np.ndarray, b: np.ndarray, y: float) -> Hypothesis:
    up, down = float(np.max(np.abs(a + b))), float(np.max(np.abs(a - b)))
    value = min([up] if y > 0 else [down] if y < 0 else [up, down])
    return Hypothesis("g reaches y: max |a_j + b_j| (for y > 0) or max |a_j − b_j| (for y < 0)", value > 0, value)


def _dominance(s: np.ndarray, a: np.ndarray, b: np.ndarray) -> Hypothesis:
    """λ = min_j (a_j² − b_j²) in the best singular basis.

    Within a group of equal singular values the basis is free, and some choice makes all differences of
    the group equal (Schur and Horn): so a group counts with its mean.
    """
    groups = np.split(np.arange(s.size), np.flatnonzero(-np.diff(s) > _TIE * s[0]) + 1)
    value = min(float(np.mean(a[g] ** 2 - b[g] ** 2)) for g in groups)
    return Hypothesis("λ = min_j (a_j² − b_j²) is positive", value > 0, value)
