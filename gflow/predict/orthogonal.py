"""Orthogonally decomposable networks, regression: Theorem 5 and Corollaries 5, 6, 7 of Yun et al. 2021.

With the start's scale inside η_j = [U_lᵀv_l(0)]_j (l < L), and v_L(0) = 0, the limit is β = Sᵀρ where ρ solves

    minimise Q(ρ) = Σ_j η_j² H_L(ρ_j / |η_j|^L)   subject to   Aρ = y,   A = X Sᵀ,
    dual:    maximise yᵀν − Σ_j η_j² G_L(κ_j ζ_j),   ζ = Aᵀν,   κ_j = |η_j|^{L−2}.

Both are solved here by cvxpy and then refined by Newton's method on the optimality conditions
h_L^{−1}(ρ_j / |η_j|^L) = κ_j ζ_j, Aρ = y.
"""

import functools
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import potential
from .._forms import real_modes
from ..networks import Modes, Network
from ..problems import Regression
from .names import theorem_5
from .norms import data, minimum_norm, require_full_row_rank
from .prediction import Hypothesis, Prediction, Refusal, require_served, require_true_modes

Modal = Float[np.ndarray, " m"]
Data = Float[np.ndarray, " n"]
Matrix = Float[np.ndarray, "n m"]

ACCEPTED_GAP = 1e-8
_ROUND_OFF = 1e-10  # relative; what the hypotheses that are equations may miss


def orthogonal_limit(network: Network, problem: Regression) -> Prediction:
    """The limit point of a real orthogonally decomposable network whose last layer starts at zero.

    Theorem 5; Corollary 5 for diagonal networks, 6 for full-length convolutions with even data, 7 for
    products of matrices with commuting symmetric sensors. `network` is the initialisation, scale
    included: v_l = U_l η for l < L and v_L = 0.

    **Raises** ValueError if a hypothesis fails, naming it, or if X has not full row rank; RuntimeError
    if no answer is certified by a relative duality gap of 1e-8.

    ```python
    eta = jnp.array([1.0, 0.5])
    network = gflow.Diagonal((eta, eta, jnp.zeros(2)))
    gflow.predict.orthogonal_limit(gflow.scale(network, 0.1), problem).coefficients
    ```
    """
    S, eta, A, y, hypotheses = _program(network, problem)
    tried = []
    for solver, rho in _candidates(A, y, eta, len(network.weights)):
        rho, nu = refine(A, y, eta, len(network.weights), rho)
        rho, residual, gap = certificate(A, y, eta, len(network.weights), rho, nu)
        tried.append(f"{solver}: gap {gap:.1e}, residual {residual:.1e}")
        if max(gap, residual) <= ACCEPTED_GAP:
            return Prediction(S.T @ rho, theorem_5(network), False, residual, gap, hypotheses)
    raise RuntimeError(
        f"No answer to the program of {theorem_5(network)} could be certified to {ACCEPTED_GAP:.0e} "
        f"({'; '.join(tried)}). Rescale X and y, or compare with gflow.limit."
    )


def large_scale_limit(network: Network, problem: Regression) -> Prediction:
    """What Theorem 5 tends to as α → ∞: the minimum of Σ_j ρ_j² / |η_j|^{2L−2} with X Sᵀρ = y.

    For a product of matrices started at the identity it is the minimum Frobenius norm (Corollary 7).
    Errors as for `orthogonal_limit`. The other end, α → 0, is `small_scale_limit`.

    ```python
    gflow.predict.large_scale_limit(gflow.initial.last_layer_zero(network), problem).coefficients
    ```
    """
    S, eta, _, _, hypotheses = _program(network, problem)
    weight = (np.abs(eta) / np.abs(eta).max()) ** (len(network.weights) - 1)
    found = minimum_norm(problem, 2, weight[:, None] * S)  # ρ = weight ⊙ z with the smallest ‖z‖
    hypotheses = (*hypotheses, *found.hypotheses)
    return Prediction(found.coefficients, f"{theorem_5(network)}, α → ∞", False, found.residual, found.gap, hypotheses)


def _program(
    network: Network, problem: Regression
) -> tuple[Float[np.ndarray, "m d"], Modal, Matrix, Data, tuple[Hypothesis, ...]]:
    """S, η, A = X Sᵀ, y and the hypotheses, all of which hold."""
    require_served(problem, Regression)
    if len(network.weights) < 2:
        raise Refusal("Theorem 5 needs at least two layers; for one ask gflow.predict.linear_limit.")
    require_true_modes(network)
    found = real_modes(network, problem)
    if found is None:
        raise Refusal(
            "Theorem 5 is for networks with a real orthogonal decomposition (Assumption 1); this "
            f"{type(network).__name__} has none. Use gflow.limit, or ask gflow.predict.limit which theorem serves it."
        )
    X, y = data(problem)
    require_full_row_rank(X)
    found, errors = found
    _require_double(found.eta[0].dtype)
    hypotheses = initial_hypotheses(found, errors)
    failing = [str(h) for h in hypotheses if not h.holds]
    if failing:
        raise Refusal(f"{theorem_5(network)} does not apply: {'; '.join(failing)}.")
    S = np.asarray(found.matrix())
    return S, np.asarray(found.eta[0]), X @ S.T, y, hypotheses


def _require_double(dtype: Any) -> None:
    if jnp.finfo(dtype).bits < 64:
        raise Refusal(
            f"A prediction is certified in float64, and the network is in {jnp.dtype(dtype).name}. Type "
            "jax.config.update('jax_enable_x64', True) first, and make the network anew."
        )


def initial_hypotheses(found: Modes, errors: Mapping[str, Any]) -> tuple[Hypothesis, ...]:
    """Theorem 5's: the decomposition is exact, v_l = U_l η for l < L, all |η_j| > 0, and v_L = 0."""
    first, *others, last = (np.asarray(e) for e in found.eta)
    size = max(float(np.abs(first).max()), np.finfo(float).tiny)
    unequal = max((float(np.abs(e - first).max()) / size for e in others), default=0.0)
    equations = {
        **{statement: float(error) for statement, error in errors.items()},
        "layers 1 … L−1 start equal in the decomposition: U_lᵀv_l = η": unequal,
        _LAST: float(np.abs(last).max()) / size,
    }
    smallest = float(np.abs(first).min()) / size
    return (
        *(
            Hypothesis(s, bool(e <= _ROUND_OFF), float(_ROUND_OFF - e), _REMEDIES.get(s, ""))
            for s, e in equations.items()
        ),
        Hypothesis("min_j |η_j| / max_j |η_j| is positive", bool(smallest > _ROUND_OFF), float(smallest)),
    )


_LAST = "the last layer starts at zero"
_REMEDIES = {_LAST: "start with gflow.initial.last_layer_zero(network)"}


# The programs. Each gives a ρ near the minimiser.


def _candidates(A: Matrix, y: Data, eta: Modal, L: int) -> Iterator[tuple[str, Modal]]:
    import cvxpy as cp

    if not y.any():
        yield "closed form", np.zeros(eta.size)
        return
    program = conic_dual if L == 2 else functools.partial(reweighted_least_squares, L=L)
    for solver in (cp.CLARABEL, cp.SCS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccuracy: the certificate measures it
            try:
                rho = program(A, y, eta, solver=solver)
            except (cp.SolverError, ValueError):
                continue
        yield solver, rho


def conic_dual(A: Matrix, y: Data, eta: Modal, solver: str = "CLARABEL") -> Modal:
    """ρ by the dual program for L = 2, minimise Σ_j η_j² (cosh 2ζ_j − 1)/4 − yᵀν, as second-order cones.

    cosh z − 1 = E_0 with E_{k−1} = 4E_k + 2E_k² (the doubling formula) from E_K = cosh(z/2^K) − 1, which
    four terms of its series give to round-off as |z|/2^K ≤ 1/4. Every E_k is taken in units of its own size.
    So accuracy is lost neither at small z, where exponential cones see 1 + z + … and lose z² (they are wrong
    by 1e-2 at α = 10), nor at large z.
    """
    import cvxpy as cp

    least_squares = eta**2 * (A.T @ np.linalg.solve((A * eta**2) @ A.T, y))  # ρ as α → ∞
    z_max = max(float(np.arcsinh(2 * np.abs(least_squares) / eta**2).max()), np.finfo(float).tiny)
    doublings = max(0, math.ceil(math.log2(4 * z_max)))
    unit = z_max / 2**doublings  # z/2^K = unit · σ
    nu, sigma, square = cp.Variable(y.size), cp.Variable(eta.size), cp.Variable(eta.size)
    terms = [square**k * (unit ** (2 * k - 2) / math.factorial(2 * k)) for k in (1, 2, 3, 4)]
    constraints = [sigma == A.T @ nu, square >= cp.square(sigma)]
    excess = sum(terms)  # E_K / unit²
    for _ in range(doublings):
        E = cp.Variable(eta.size)
        constraints.append(excess <= E)
        excess = E + unit**2 / 2 * cp.square(E)
        unit = 2 * unit
    size = np.abs(least_squares).max()
    cost = cp.sum(cp.multiply(eta**2 * z_max / (2 * size), excess)) - (y / size) @ nu
    options = {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13} if solver == "CLARABEL" else {}
    cp.Problem(cp.Minimize(cost), constraints).solve(solver=solver, **options)
    return eta**2 * np.sinh(z_max * (A.T @ _found(nu.value))) / 2


def reweighted_least_squares(A: Matrix, y: Data, eta: Modal, L: int, *, solver: str = "CLARABEL") -> Modal:
    """ρ for any L by a sequence of quadratic programs, each a majorant of Q that touches it at the last ρ.

    H_L(√·) is concave, so H_L(τ) ≤ H_L(τ_k) + (τ² − τ_k²) h_L^{−1}(τ_k) / (2τ_k): every step lowers Q.
    """
    import cvxpy as cp

    spread = cp.Parameter(eta.size, nonneg=True)
    z = cp.Variable(eta.size)
    size = np.abs(y).max()
    fit = cp.multiply(spread, z) @ A.T == y / size  # ρ = spread ⊙ z, in units of size
    program = cp.Problem(cp.Minimize(cp.sum_squares(z)), [fit])
    curvature = np.abs(eta) ** (2 - 2 * L)  # of Q at ρ = 0
    rho = np.zeros(eta.size)
    for _ in range(_MAJORANTS):
        spread.value = 1 / np.sqrt(curvature)
        spread.value = spread.value / spread.value.max()
        program.solve(solver=solver)
        previous, rho = rho, spread.value * _found(z.value) * size
        tau = rho / np.abs(eta) ** L
        slope = np.where(tau == 0, 1.0, np.asarray(potential.h_inverse(tau, L)) / np.where(tau == 0, 1.0, tau))
        curvature = slope * np.abs(eta) ** (2 - 2 * L)
        if np.abs(rho - previous).max() <= 1e-4 * np.abs(rho).max():
            break
    return rho


_MAJORANTS = 100


def _found(value: np.ndarray | None) -> np.ndarray:
    if value is None:
        raise ValueError("the solver returned no point")
    return value


# The refinement and the certificate, on the program's own optimality conditions.


def refine(A: Matrix, y: Data, eta: Modal, L: int, rho: Modal) -> tuple[Modal, Data]:
    """ρ and ν by Newton's method on h_L^{−1}(ρ_j / |η_j|^L) = κ_j ζ_j and Aρ = y, from a ρ nearby.

    The unknowns are ν and the angles x_j with ρ_j = |η_j|^L sinh x_j cosh^{L−1} x_j. In them a coordinate
    is accurate both near zero and, for L ≥ 3, where κζ is too close to the blow-up time c_L for its ρ to
    be read from ν.
    """
    kappa, c = np.abs(eta) ** (L - 2), np.abs(eta) ** L
    x, nu = _angle(rho / c, L), np.zeros(y.size)
    for _ in range(_NEWTON_STEPS):
        p, q = np.cosh(x), np.sinh(x)
        late = np.asarray(potential.s(q, L)) - kappa * (A.T @ nu)
        slope = c * _slope(p, q, L)
        nu_step = _solve(A, slope * kappa, y - A @ (c * q * p ** (L - 1)) + A @ (slope * late))
        x_step = (kappa * (A.T @ nu_step) - late) * p ** (L - 2)
        x = x + x_step * min(1.0, 1.0 / max(float(np.abs(x_step).max()), 1e-300))
        nu = nu + nu_step
        if np.abs(x_step).max() <= 1e-15 * np.abs(x).max():
            break
    return c * np.sinh(x) * np.cosh(x) ** (L - 1), nu


def _slope(p: Modal, q: Modal, L: int) -> Modal:
    """h_L′ = p^{2L−4} (p² + (L−1) q²)."""
    return p ** (2 * L - 4) * (p**2 + (L - 1) * q**2)


def _solve(A: Matrix, D: Modal, right: Data) -> Data:
    """The solution of A diag(D) Aᵀ z = right."""
    _, R = np.linalg.qr(np.sqrt(D)[:, None] * A.T)
    return np.linalg.solve(R, np.linalg.solve(R.T, right))


def _angle(tau: Modal, L: int) -> Modal:
    """x with sinh x cosh^{L−1} x = τ, to the accuracy that a start needs."""
    last = potential.blow_up(L) * (1 - 1e-15)
    return np.arcsinh(np.asarray(potential.q_of(np.clip(np.asarray(potential.h_inverse(tau, L)), -last, last), L)))


_NEWTON_STEPS = 50


def certificate(A: Matrix, y: Data, eta: Modal, L: int, rho: Modal, nu: Data) -> tuple[Modal, float, float]:
    """A feasible point next to ρ, its KKT residual, and its relative duality gap (Q − dual) / Q with ν."""
    if not y.any():
        return np.zeros(eta.size), 0.0, 0.0
    x = _angle(rho / np.abs(eta) ** L, L)
    spread = np.abs(eta) ** (2 * L - 2) * _slope(np.cosh(x), np.sinh(x), L)  # so that small ρ_j move little
    rho = rho + spread * (A.T @ _solve(A, spread, y - A @ rho))
    times, clock = np.asarray(potential.h_inverse(rho / np.abs(eta) ** L, L)), np.abs(eta) ** (L - 2) * (A.T @ nu)
    primal = float(eta**2 @ np.asarray(potential.H(rho / np.abs(eta) ** L, L)))
    dual = float(y @ nu - eta**2 @ np.asarray(potential.G(clock, L)))
    infeasible = np.abs(A @ rho - y).max() / np.abs(y).max()
    not_stationary = np.abs(times - clock).max() / np.abs(clock).max()
    residual = float(max(infeasible, not_stationary))
    gap = (primal - dual) / primal
    return rho, residual if np.isfinite(residual) else math.inf, gap if np.isfinite(gap) else math.inf
