"""Where a regression's flow is at each time, in closed form: time courses, not only limits.

*Two layers, whitened inputs, a balanced start* (Saxe et al. 2014; Braun et al. 2022; Dominé et al. 2025). The product
W_1W_2 of shapes (a, h) and (h, b) is fitted to Y under XᵀX = cI, and W_1ᵀW_1 − W_2W_2ᵀ = λI. In the time ct,
Q = [W_1; W_2ᵀ] and P = QQᵀ,

    Q̇ = FQ − ½ PQ,    F = [[λ/2 I, Y], [Yᵀ, −λ/2 I]],
    P(t) = e^{Ft} Q_0 [I + Q_0ᵀ (∫_0^t e^{2Fs} ds) Q_0]^{−1} Q_0ᵀ e^{Ft}.

*Two layers, one data point* (Yun et al. 2021, Theorem 6): the modes turn by the angles s_j ν with ν̇ = y − g(ν).

*One layer*: v̇ = −Aᵀ(Av − y), which the singular values of A solve.
"""

import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from .._ask import checked
from ..networks import LinearTensorNetwork, Network, with_weights
from ..problems import Regression
from .linear_model import linear_map
from .norms import data
from .prediction import Hypothesis, Refusal, require_served
from .two_layers import SingularBasis, root, singular_basis, turned

Times = Float[np.ndarray, " T"]
Rows = Float[np.ndarray, "T d"]


class TimeCourse(eqx.Module):
    """The linear coefficients of a flow at given times, as theory has them.

    - `times`: t, shape (T,), of the loss Σ r²/2.
    - `coefficients`: β(t), shape (T, d).
    - `theorem`: the source.
    - `residual`: how far the returned values are from an equation that they were not computed from, relative, in
      float64.
    - `hypotheses`: what is assumed, with the numbers found.

    ```python
    course = gflow.predict.path(gflow.Diagonal((jnp.array([1.0, 0.5]),)), problem, jnp.linspace(0.0, 3.0, 30))
    course.coefficients, course.residual
    ```
    """

    times: Times
    coefficients: Rows
    theorem: str = eqx.field(static=True)
    residual: float
    hypotheses: tuple[Hypothesis, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.theorem}: {len(self.times)} times, residual {self.residual:.1e}"]
        return "\n  ".join(lines + [str(h) for h in self.hypotheses])


def path(network: Network, problem: Regression, times: Float[ArrayLike, " T"] | Sequence[float]) -> TimeCourse:
    """β(t) of gradient flow from `network` at the given `times`, exactly, where theory has it:

    - one layer, any data;
    - two layers of any architecture, one data point: Theorem 6, its angle as a function of time by quadrature;
    - two layers that chain (`MatrixProduct`, `FullyConnected`, `layers`) of any widths, with whitened inputs, XᵀX = cI,
      and a balanced start, W_1ᵀW_1 − W_2W_2ᵀ = λI (`gflow.initial.balanced`). A product of matrices with all entries
      observed has X = I; a two-layer network of k outputs, f(x) = W_2ᵀW_1ᵀx on whitened inputs, is the product of
      matrices with the sensors x e_jᵀ, X = kron(inputs, I_k).

    `times` are finite and not negative, in any order. **Raises** ValueError for others, and `gflow.predict.Refusal`
    where none of the three applies, with the numbers found.

    ```python
    start = gflow.initial.balanced(jax.random.key(0), (4, 3, 5), lambda_=1.0)
    problem = gflow.Regression(jnp.eye(20), Y.ravel())
    gflow.predict.path(start, problem, jnp.linspace(0.0, 10.0, 100)).coefficients
    ```

    Yun et al. 2021, Theorem 6; Saxe et al. 2014; Braun et al. 2022; Dominé et al. 2025.
    """
    network, problem = checked(network, problem)
    require_served(problem, Regression)
    t = np.asarray(times, np.float64)
    if t.ndim != 1 or t.size == 0 or not (np.isfinite(t) & (t >= 0)).all():
        raise ValueError(f"times must have shape (T,), T ≥ 1, and hold finite numbers t ≥ 0; got {t}.")
    if isinstance(network, LinearTensorNetwork) and network.depth == 1:
        return _linear(network, problem, t)
    if isinstance(network, LinearTensorNetwork) and network.depth == 2 and problem.y.shape == (1,):
        return _one_point(network, problem, t)
    layers = network.layers()
    if layers is not None and len(layers) == 2:
        return _balanced(network, problem, t)
    raise Refusal(
        "Exact time courses are those of one layer, of two layers on one data point, and of two layers that chain, "
        f"from a balanced start on whitened inputs; got {type(network).__name__} with {len(network.weights)} weights "
        f"on {problem.y.size} data points. Use gflow.flow with save=gflow.Times(…)."
    )


# One layer.


def _linear(network: LinearTensorNetwork, problem: Regression, t: Times) -> TimeCourse:
    B, (X, y) = linear_map(network), data(problem)
    start = np.asarray(network.weights[0], np.float64).ravel()
    A = X @ B
    left, sigma, right = np.linalg.svd(A, full_matrices=False)
    residual = left.T @ (y - A @ start)
    decay = -np.expm1(-np.outer(t, sigma**2))  # 1 − e^{−σ²t}
    nearly = sigma > sigma.max(initial=0.0) * max(A.shape) * np.finfo(float).eps
    moved = np.where(nearly, decay / np.where(nearly, sigma, 1.0), 0.0) * residual
    v = start + moved @ right
    # The outputs' own equation, ḟ = −AAᵀ(f − y), solved by its eigenvectors.
    values, vectors = np.linalg.eigh(A @ A.T)
    outputs = (np.exp(-np.outer(t, np.maximum(values, 0.0))) * (vectors.T @ (A @ start - y))) @ vectors.T + y
    size = max(float(np.linalg.norm(y) + np.linalg.norm(A @ start)), np.finfo(float).tiny)
    error = float(np.linalg.norm(v @ A.T - outputs, axis=1).max()) / size
    return TimeCourse(t, v @ B.T, "linear model", error)


# Two layers, one data point.


def _one_point(network: LinearTensorNetwork, problem: Regression, t: Times) -> TimeCourse:
    basis = singular_basis(network, problem, "Theorem 6")
    nu, error = _angles(basis, t)
    angles = nu[:, None] * basis.s
    v_1, v_2 = (np.asarray(v, np.float64).ravel() for v in network.weights)
    a, b, U_1, U_2 = basis.a, basis.b, basis.U_1, basis.U_2
    ends = (turned(a, b, angles) @ U_1.T + (v_1 - U_1 @ a), turned(b, a, angles) @ U_2.T + (v_2 - U_2 @ b))
    rows = tuple(jnp.asarray(e.reshape(-1, *v.shape), v.dtype) for e, v in zip(ends, network.weights, strict=True))
    beta = jax.vmap(lambda *weights: with_weights(network, weights).coefficients())(*rows)
    return TimeCourse(t, np.asarray(beta, np.float64), "Theorem 6, at every time", error)


def _angles(basis: SingularBasis, t: Times) -> tuple[Times, float]:
    """ν(t), and how much its times differ by two quadratures, relative.

    With ν* its limit, ν = ν*(1 − e^{−w}) and dt = dw / φ(w), φ(w) = (g(ν*) − g(ν)) / (ν* − ν). φ is smooth in w and
    tends to g′(ν*); its zeros lie π/2 or more off the axis.
    """
    end = root(basis.s, basis.a, basis.b, basis.y)
    knots = np.arange(0.0, _LAST + _PANEL, _PANEL)
    speed = functools.partial(_speed, basis, end)
    near, far = (_times_from(speed, knots[:-1], knots[1:], nodes) for nodes in (12, 16))
    at = np.concatenate([[0.0], np.cumsum(far)])
    index = np.clip(np.searchsorted(at, t, side="right") - 1, 0, len(knots) - 2)
    w = knots[index] + (t - at[index]) * speed(knots[index])
    for _ in range(_NEWTON_STEPS):
        inside = np.clip(w, knots[index], np.where(index == len(knots) - 2, np.inf, knots[index + 1]))
        w = inside - (at[index] + _times_from(speed, knots[index], inside) - t) * speed(inside)
    return -end * np.expm1(-w), float(np.abs(near / far - 1).max())


_PANEL = 0.25
_LAST = 40.0  # of w: beyond, φ is constant to round-off
_NEWTON_STEPS = 6  # from the secant of a panel: errors square, and start below 0.1


def _times_from(speed: Callable[[Times], Times], start: Times, w: Times, nodes: int = 16) -> Times:
    """∫ dw / φ from `start` to `w`, by Gauss and Legendre."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    at = start + (w - start) * (points[:, None] + 1) / 2
    return (w - start) / 2 * (weights @ (1 / speed(at.ravel()).reshape(at.shape)))


def _speed(basis: SingularBasis, end: float, w: Times) -> Times:
    """φ(w): the secant of g between ν* and ν = ν* − gap, by the difference of hyperbolic functions as a product."""
    s, a, b = basis.s, basis.a, basis.b
    gap = end * np.exp(-w)[:, None]
    x = s * gap
    sinhc = np.where(x == 0, 1.0, np.sinh(x) / np.where(x == 0, 1.0, x))
    return np.sum(2 * s**2 * sinhc * turned((a**2 + b**2) / 2, a * b, s * (2 * end - gap)), axis=1)


# Two layers that chain, whitened inputs, a balanced start.


def _balanced(network: Network, problem: Regression, t: Times) -> TimeCourse:
    W_1, W_2 = (np.asarray(W, np.float64) for W in network.layers() or ())
    X, y = data(problem)
    gram = X.T @ X
    c = float(np.trace(gram)) / len(gram)
    scale = max(np.sum(W_1**2), np.sum(W_2**2), np.finfo(float).tiny)
    balance = W_1.T @ W_1 - W_2 @ W_2.T
    lambda_ = float(np.trace(balance)) / len(balance)
    hypotheses = (
        _small(
            "inputs are whitened, XᵀX = cI",
            np.abs(gram / (c or 1.0) - np.eye(len(gram))).max(),
            "observe all entries, X = I, or whiten the inputs",
        ),
        _small(
            "the start is balanced, W_1ᵀW_1 − W_2W_2ᵀ = λI",
            np.abs(balance - lambda_ * np.eye(len(balance))).max() / scale,
            "start with gflow.initial.balanced",
        ),
    )
    failing = [str(h) for h in hypotheses if not h.holds]
    if failing:
        raise Refusal(f"The time course of two layers that chain does not apply: {'; '.join(failing)}.")
    Y = (X.T @ y / c).reshape(W_1.shape[0], W_2.shape[1])
    P = balanced_products(W_1, W_2, Y, lambda_, c * t)
    a = len(W_1)
    J = np.where(np.arange(P.shape[1]) < a, 1.0, -1.0)
    size = np.linalg.norm(P, axis=(1, 2))
    error = np.linalg.norm((P * J) @ P - lambda_ * P, axis=(1, 2)) / np.where(size > 0, size, 1.0) ** 2
    return TimeCourse(
        t, P[:, :a, a:].reshape(len(t), -1), "balanced two layers on whitened inputs", float(error.max()), hypotheses
    )


def _small(statement: str, error: float, remedy: str) -> Hypothesis:
    return Hypothesis(statement, bool(error <= _ROUND_OFF), float(_ROUND_OFF - error), remedy)


_ROUND_OFF = 1e-10  # relative; what the hypotheses, which are equations, may miss


def balanced_products(
    W_1: Float[np.ndarray, "a h"], W_2: Float[np.ndarray, "h b"], Y: Float[np.ndarray, "a b"], lambda_: float, t: Times
) -> Float[np.ndarray, "T a+b a+b"]:
    """P(t) = QQᵀ of the module's docstring, for any t ≥ 0.

    In F's eigenvectors, with D = e^{ft}, E = ∫_0^t e^{2fs} ds and N = E^{1/2} VᵀQ_0, it is
    (D E^{−1/2}) [N (I + NᵀN)^{−1} Nᵀ] (D E^{−1/2}), with bounded outer factors. The rows of N differ by e^{ft}, which
    overflows and hides small ones. Rotations of its columns make it lower triangular in an order of rows by size, and
    then every column is taken in units of its pivot.
    """
    f, V = _eigen(Y, lambda_)
    A = V.T @ np.concatenate([W_1, W_2.T])
    return np.stack([V @ _grown(A, f, time) @ V.T for time in t])


def _grown(A: np.ndarray, f: np.ndarray, t: float) -> np.ndarray:
    """VᵀPV at the time t."""
    if t == 0:
        return A @ A.T
    x = 2 * f * t
    size = np.where(x == 0, 1.0, np.abs(x))
    log_bounded = (np.where(x == 0, 0.0, np.log(-np.expm1(-size) / size)) + np.log(t)) / 2
    log_growth = np.maximum(x, 0.0) / 2 + log_bounded  # log √E
    outer = np.exp(np.minimum(x, 0.0) / 2 - log_bounded)  # D / √E
    return outer[:, None] * _projector(A, log_growth) * outer


def _eigen(Y: np.ndarray, lambda_: float) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues and eigenvectors of F, ±√(σ² + λ²/4) for each singular value σ of Y and ±λ/2 for the rest."""
    (a, b), (U, sigma, Wt) = Y.shape, np.linalg.svd(Y)
    r, half = len(sigma), lambda_ / 2
    turn = np.arctan2(sigma, half) / 2
    u, w = U[:, :r], Wt[:r].T
    up, down = (np.concatenate([u * np.cos(v), w * np.sin(v)]) for v in (turn, turn + np.pi / 2))
    rest = np.zeros((a + b, a + b - 2 * r))
    rest[:a, : a - r], rest[a:, a - r :] = U[:, r:], Wt[r:].T
    f = np.hypot(sigma, half)
    return np.concatenate([f, -f, np.full(a - r, half), np.full(b - r, -half)]), np.concatenate(
        [up, down, rest], axis=1
    )


def _projector(A: np.ndarray, log_rows: np.ndarray) -> np.ndarray:
    """N (I + NᵀN)^{−1} Nᵀ with N = diag(e^log_rows) A, whatever the size of the rows."""
    L, (m, h) = A.copy(), A.shape
    left, log_pivots = np.ones(m, bool), np.full(h, -np.inf)
    for j in range(min(m, h)):
        with np.errstate(divide="ignore"):
            size = np.where(left, log_rows + np.log(np.linalg.norm(L[:, j:], axis=1)), -np.inf)
        row = int(np.argmax(size))
        if size[row] == -np.inf:
            break
        normal = L[row, j:].copy()
        length = np.linalg.norm(normal)
        normal[0] += np.copysign(length, normal[0])
        normal /= np.linalg.norm(normal)
        L[:, j:] -= 2 * np.outer(L[:, j:] @ normal, normal)
        L[row, j + 1 :] = 0.0
        left[row], log_pivots[j] = False, size[row]
    L[left, min(m, h) :] = 0.0
    units = np.maximum(log_pivots, 0.0)
    with np.errstate(divide="ignore"):
        N = np.sign(L) * np.exp(log_rows[:, None] + np.log(np.abs(L)) - units)
    R = np.linalg.qr(np.concatenate([N, np.diag(np.exp(-units))]))[1]
    half = np.linalg.solve(R.T, N.T)  # and no factor Q, which is accurate to the size of 1 and not of N
    return half.T @ half
