"""Differences of powers, β = w_+^L − w_−^L: Theorems 1 and 3 of Woodworth et al. 2020, any depth and positive start.

With a = w_+(0) and b = w_−(0), ζ = Xᵀν and k = L − 2 the flow is that of one scalar system a coordinate,

    L = 2:  ρ = a² e^{4ζ} − b² e^{−4ζ};  L ≥ 3:  ρ = P^{−L/k} − N^{−L/k},  P = a^{−k} − Lkζ,  N = b^{−k} + Lkζ,

and the limit minimises Q(β) = Σ_j ∫ ζ_j dρ_j subject to Xβ = y; for a = b = α w̄ it is Woodworth et al.'s Q. It is
solved here by its dual, maximise yᵀν − Σ_j ψ(ζ_j) with ψ′ = ρ, by cvxpy, and refined by Newton's method.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..networks import DifferenceOfPowers, Network
from ..problems import Regression
from .norms import data, require_full_row_rank
from .prediction import Hypothesis, Prediction, Refusal, require_served

Vector = Float[np.ndarray, " d"]
ACCEPTED_GAP = 1e-8


def power_limit(network: Network, problem: Regression) -> Prediction:
    """The limit point of a `DifferenceOfPowers` whose weights start positive.

    Woodworth et al. 2020, Theorem 1 (L = 2) and Theorem 3 (L ≥ 3), which are about w_+(0) = w_−(0); the same program
    with the potential's Bregman divergence serves unequal starts, and one layer is the solution nearest to the start.
    `network` is the initialisation, scale included.

    **Raises** `gflow.predict.Refusal` if a weight is not positive or X has not full row rank; RuntimeError if no answer
    is certified by a relative duality gap of 1e-8.

    ```python
    network = gflow.DifferenceOfPowers((jnp.full(2, 0.1),) * 2, depth=3)
    gflow.predict.power_limit(network, problem).coefficients
    ```
    """
    require_served(problem, Regression)
    if not isinstance(network, DifferenceOfPowers):
        raise Refusal(
            f"This prediction is about DifferenceOfPowers; got {type(network).__name__}. Ask gflow.predict.limit."
        )
    X, y = data(problem)
    require_full_row_rank(X)
    a, b = (np.asarray(w, np.float64) for w in network.weights)
    L = network.depth
    if L == 1:
        beta = a - b + np.linalg.lstsq(X, y - X @ (a - b), rcond=None)[0]
        residual = float(np.abs(X @ beta - y).max() / max(np.abs(y).max(), np.finfo(float).tiny))
        return Prediction(beta, "linear model: the solution nearest to the start", False, residual)
    smallest = min(float(a.min()), float(b.min()))
    positive = Hypothesis("all weights start positive", bool(smallest > 0), smallest)
    if not positive.holds:
        raise Refusal(f"Woodworth et al. 2020 do not apply: {positive}. Pass the absolute values where L is even.")
    equal = "" if np.array_equal(a, b) else ", for unequal starts"
    theorem = f"Woodworth et al. 2020, Theorem {1 if L == 2 else 3}{equal}"
    unit = max(float(np.abs(y).max()), float(np.abs(X).max() * max(a.max(), b.max()) ** L)) / float(np.abs(X).max())
    size = unit ** (1 / L)
    systems = _Systems(a / size, b / size, L)
    tried = []
    for solver, nu in _candidates(X, y / unit, systems):
        t, nu = _refined(X, y / unit, systems, nu)
        residual, gap = _certificate(X, y / unit, systems, t, nu)
        tried.append(f"{solver}: gap {gap:.1e}, residual {residual:.1e}")
        if max(gap, residual) <= ACCEPTED_GAP:
            return Prediction(unit * systems.rho(t), theorem, False, residual, gap, (positive,))
    raise RuntimeError(
        f"No answer to the program of {theorem} could be certified to {ACCEPTED_GAP:.0e} ({'; '.join(tried)}). Rescale "
        "X and y, or compare with gflow.limit."
    )


class _Systems(NamedTuple):
    """The scalar systems, by a coordinate t in which nothing cancels: t = 4ζ for L = 2, else P = c / (1 + e^t)."""

    a: Vector
    b: Vector
    L: int

    def parts(self, t: Vector) -> tuple[Vector, Vector, Vector]:
        """P, N and their sum c, for L ≥ 3."""
        k = self.L - 2
        c = self.a**-k + self.b**-k
        return c * np.exp(-np.logaddexp(0, t)), c * np.exp(-np.logaddexp(0, -t)), c

    def rho(self, t: Vector) -> Vector:
        if self.L == 2:
            return self.a**2 * np.exp(t) - self.b**2 * np.exp(-t)
        P, N, _ = self.parts(t)
        power = -self.L / (self.L - 2)
        return P**power - N**power

    def rho_slope(self, t: Vector) -> Vector:
        if self.L == 2:
            return self.a**2 * np.exp(t) + self.b**2 * np.exp(-t)
        P, N, c = self.parts(t)
        power = -self.L / (self.L - 2)
        return -power * (P**power * N + N**power * P) / c

    def zeta(self, t: Vector) -> Vector:
        if self.L == 2:
            return t / 4
        k = self.L - 2
        P, N, _ = self.parts(t)
        # From the larger of the two, which holds all digits.
        return np.where(P > N, self.a**-k - P, N - self.b**-k) / (self.L * k)

    def zeta_slope(self, t: Vector) -> Vector:
        if self.L == 2:
            return np.full_like(t, 0.25)
        P, N, c = self.parts(t)
        return P * N / c / (self.L * (self.L - 2))

    def psi(self, t: Vector) -> Vector:
        """∫₀^ζ ρ."""
        if self.L == 2:
            return (self.a**2 * np.expm1(t) + self.b**2 * np.expm1(-t)) / 4
        P, N, _ = self.parts(t)
        power = -2 / (self.L - 2)
        return (P**power + N**power - self.a**2 - self.b**2) / (2 * self.L)

    def angle(self, zeta: Vector) -> Vector:
        """t at ζ, within the bounds."""
        if self.L == 2:
            return 4 * zeta
        k = self.L - 2
        P = np.maximum(self.a**-k - self.L * k * zeta, 1e-12 * self.a**-k)
        N = np.maximum(self.b**-k + self.L * k * zeta, 1e-12 * self.b**-k)
        return np.log(N) - np.log(P)


def _candidates(X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], systems: _Systems) -> Iterator[tuple]:
    """ν near the maximiser, by cvxpy; and 0, from which Newton's method gets far by itself."""
    import cvxpy as cp

    a, b, L = systems
    k = L - 2
    nu = cp.Variable(len(y))
    zeta = X.T @ nu
    if L == 2:
        psi = cp.multiply(a**2, cp.exp(4 * zeta)) + cp.multiply(b**2, cp.exp(-4 * zeta))
        program = cp.Problem(cp.Minimize(cp.sum(psi) / 4 - y @ nu))
    else:
        left, right = 1 - cp.multiply(L * k * a**k, zeta), 1 + cp.multiply(L * k * b**k, zeta)
        psi = cp.multiply(a**2, cp.power(left, -2 / k)) + cp.multiply(b**2, cp.power(right, -2 / k))
        program = cp.Problem(cp.Minimize(cp.sum(psi) / (2 * L) - y @ nu))
    for solver in (cp.CLARABEL, cp.SCS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccuracy: the certificate measures it
            try:
                program.solve(solver=solver)
            except (cp.SolverError, ValueError):
                continue
        if nu.value is not None:
            yield solver, np.asarray(nu.value)
    yield "Newton from the start", np.zeros(len(y))


_NEWTON_STEPS = 300


def _refined(X: np.ndarray, y: np.ndarray, systems: _Systems, nu: np.ndarray) -> tuple[Vector, np.ndarray]:
    t = systems.angle(X.T @ nu)
    for _ in range(_NEWTON_STEPS):
        late = systems.zeta(t) - X.T @ nu
        slope, clock = systems.rho_slope(t), systems.zeta_slope(t)
        D = slope / clock
        _, R = np.linalg.qr(np.sqrt(D / D.max())[:, None] * X.T)
        right = (y - X @ systems.rho(t) + X @ (D * late)) / D.max()
        nu_step = np.linalg.lstsq(R, np.linalg.lstsq(R.T, right, rcond=None)[0], rcond=None)[0]
        t_step = (X.T @ nu_step - late) / clock
        t = t + t_step * min(1.0, 1.0 / max(float(np.abs(t_step).max()), 1e-300))
        nu = nu + nu_step
        if not np.isfinite(t).all() or np.abs(t_step).max() <= 1e-14 * (1 + np.abs(t).max()):
            break
    return t, nu


def _certificate(X: np.ndarray, y: np.ndarray, systems: _Systems, t: Vector, nu: np.ndarray) -> tuple[float, float]:
    """The KKT residual and the relative duality gap, ψ at Xᵀν taken to second order around t."""
    rho, zeta, slack = systems.rho(t), systems.zeta(t), X.T @ nu - systems.zeta(t)
    primal = float(np.sum(rho * zeta - systems.psi(t)))
    D = systems.rho_slope(t) / systems.zeta_slope(t)
    dual = float(y @ nu - np.sum(systems.psi(t) + rho * slack + D * slack**2 / 2))
    infeasible = np.abs(X @ rho - y).max() / max(float(np.abs(y).max()), float((np.abs(X) @ np.abs(rho)).max()))
    residual = float(max(infeasible, np.abs(slack).max() / max(float(np.abs(zeta).max()), 1e-300)))
    gap = abs(primal - dual) / max(abs(primal), 1e-300)
    return (residual, gap) if np.isfinite(residual + gap) else (np.inf, np.inf)
