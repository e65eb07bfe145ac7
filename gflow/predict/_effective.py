"""Where a descent of two layers ends, at any step size: at the limit of gradient flow from its effective start.

With w_± = η_1 ± η_2 a step with the update −γ ∇L multiplies w_± by 1 ∓ γg, g = Zᵀr, Z = X Sᵀ. So after every step
w_± = w_±^eff e^{±ζ} with ζ = Zᵀν, ν = −Σ γ r, and w_±^eff = w_±(0) Π (1 ∓ γg) e^{±γg}: the equations of the limit of
gradient flow from w_±^eff (Even et al. 2023),

    Zρ = y,    ρ_j = (e^{2(p_j + ζ_j)} − e^{2(m_j − ζ_j)}) / 4,    ζ = Zᵀν,    p, m = log |w_±^eff|,

of which there is one solution, the minimum of Ψ(ν) = Σ φ_j(ζ_j) − yᵀν, φ_j = (e^{2(p_j + ζ_j)} + e^{2(m_j − ζ_j)}) / 8.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._checks import all_concrete
from ..problems import Regression
from ..records import Path
from .norms import data, require_full_row_rank
from .prediction import Hypothesis, Prediction, Refusal, require_served

Modal = Float[np.ndarray, " m"]
Data = Float[np.ndarray, " n"]
Matrix = Float[np.ndarray, "n m"]

ACCEPTED_GAP = 1e-8
_ROUND_OFF = 1e-12  # of an update: a thousand units and more, and less than any optimizer takes off on purpose
_AT_REST = 1e-5  # γ|g| of the last step, whose square, 1e-10, is about what the rest would move log |w_±| by


def effective(run: Path, problem: Regression) -> Prediction:
    """The limit of gradient flow from the effective start of a descent, which is where the descent ends.

    `run` is a `gflow.descend(…, effective=True)` of two layers on `problem`: full batch, in batches, with label noise
    that has ended, at any step size that converges. Exact, not asymptotic; but that a run of finite length has come to
    rest is a hypothesis, as is that its optimizer kept to the gradient's direction. Factors 1 ∓ γg that are negative
    turn the sign of a w_±, of which the limit knows only the square; one that is zero makes it zero for ever. Both are
    exact.

    **Raises** `gflow.predict.Refusal` for a run without an effective start, that has diverged, or whose updates left
    the gradient's direction, for problems other than regression by squares and for X without full row rank;
    RuntimeError if no answer is certified by a relative duality gap and a residual of 1e-8.

    ```python
    run = gflow.descend(start, problem, optax.sgd(0.3), steps=jnp.array([10_000]), effective=True)
    gflow.compare(run.end, gflow.predict.effective(run, problem))
    ```

    Even, Pesme, Gunasekar & Flammarion 2023, (S)GD over diagonal linear networks; Pesme, Pillaud-Vivien & Flammarion
    2021 for stochastic gradients, Pillaud-Vivien, Reygner & Flammarion 2022 for label noise.
    """
    hypotheses = _hypotheses(run, problem)
    X, y = data(problem)
    require_full_row_rank(X)
    modes = run.network.modes()
    Z = np.asarray(modes.inputs(problem.X), np.float64)
    log_plus, log_minus = np.asarray(run.effective.log_sizes, np.float64)  # pyright: ignore[reportOptionalMemberAccess]
    rho, residual, gap = two_layer_point(Z, y, log_plus, log_minus)
    if not max(residual, gap) <= ACCEPTED_GAP:
        raise RuntimeError(
            f"The limit from the effective start could not be certified to {ACCEPTED_GAP:.0e} (gap {gap:.1e}, residual "
            f"{residual:.1e}). Where layers started equal in size, weights of their signs may not fit y. Else rescale "
            "X and y, or ask gflow.limit(run.effective.network, problem)."
        )
    beta = np.asarray(modes.coefficients(jnp.asarray(rho)))
    return Prediction(beta, "Effective start (Even et al. 2023)", False, residual, gap, hypotheses)


def _hypotheses(run: Path, problem: Regression) -> tuple[Hypothesis, ...]:
    require_served(problem, Regression)
    if not isinstance(run, Path) or run.effective is None:
        raise Refusal(
            "effective needs a run that has recorded its effective start: pass effective=True to gflow.descend; got "
            f"{run!r}."
        )
    if not all_concrete((run, problem)):
        raise ValueError("predict looks at values; call it outside jit, vmap and grad.")
    if run.log_loss.ndim > 0:
        raise ValueError("effective is about one run; pass one lane of the batch, run[i].")
    found = run.effective
    if not np.isfinite(run.log_loss) and not np.isneginf(run.log_loss):
        raise Refusal("The run has diverged: its loss is not finite, and it ends nowhere. Pass a smaller step size.")
    off, last = float(found.off), float(found.last)
    if not off <= _ROUND_OFF * np.finfo(found.off.dtype).eps / np.finfo(np.float64).eps:
        raise Refusal(
            f"The optimizer did not keep to the gradient's direction: {off:.1e} of an update was not along it, and "
            "then the run has no effective start. Pass optax.sgd without momentum, with schedules or "
            "optax.clip_by_global_norm if you wish."
        )
    remedy = "pass more steps, and end label noise before the last ones"
    return (
        Hypothesis("updates are along the gradient", True, _ROUND_OFF - off),
        Hypothesis("the run has come to rest: γ|g| of its last step", bool(last <= _AT_REST), _AT_REST - last, remedy),
    )


def two_layer_point(Z: Matrix, y: Data, log_plus: Modal, log_minus: Modal) -> tuple[Modal, float, float]:
    """ρ, its residual and its relative duality gap, for the start log |w_±|: by Newton's method from ν = 0."""
    if not y.any() and not (np.isfinite(log_plus) | np.isfinite(log_minus)).any():
        return np.zeros(log_plus.size), 0.0, 0.0
    rows = 1 / np.linalg.norm(Z, axis=1)
    Z, y = Z * rows[:, None], y * rows
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        nu = _descended(Z, y, log_plus, log_minus)
        zeta, nu = _polished(Z, y, log_plus, log_minus, nu)
        return _certified(Z, y, log_plus, log_minus, zeta, nu)


def _parts(log_plus: Modal, log_minus: Modal, zeta: Modal) -> tuple[Modal, Modal]:
    return np.exp(2 * (log_plus + zeta)) / 4, np.exp(2 * (log_minus - zeta)) / 4


def _descended(Z: Matrix, y: Data, log_plus: Modal, log_minus: Modal) -> Data:
    """ν near the minimum of Ψ. No step moves a ζ by more than 1: beyond, its model of exponentials is void."""

    def psi(nu: Data) -> float:
        return float(sum(part.sum() for part in _parts(log_plus, log_minus, Z.T @ nu)) / 2 - y @ nu)

    nu, value = np.zeros(y.size), math.inf
    for _ in range(_DESCENT_STEPS):
        plus, minus = _parts(log_plus, log_minus, Z.T @ nu)
        r = y - Z @ (plus - minus)
        H = 2 * (Z * (plus + minus)) @ Z.T
        # In units of its own H is neither tiny nor huge, whatever the start.
        unit = np.trace(H) + np.finfo(float).tiny
        # Directions whose ρ are still below round-off of the others': there the step is along ν̇ = −r.
        step = np.linalg.solve(H / unit + 1e-13 * np.eye(y.size), r)
        size = np.abs(Z.T @ step).max()
        if not size > 1e-3 * unit:
            break
        step, value = step / max(size, unit), psi(nu)
        while not psi(nu + step) <= value - 1e-4 * (r @ step):
            step = step / 2
            if not np.abs(step).max() > 1e-15 * np.abs(nu).max():
                return nu
        nu = nu + step
    return nu


_DESCENT_STEPS = 20_000  # one unit of ζ each: starts down to e^−20000


def _polished(Z: Matrix, y: Data, log_plus: Modal, log_minus: Modal, nu: Data) -> tuple[Modal, Data]:
    """ζ and ν by Newton's method on Zρ(ζ) = y and ζ = Zᵀν as equations of their own, which keeps all digits of ρ."""
    zeta = Z.T @ nu
    for _ in range(_NEWTON_STEPS):
        plus, minus = _parts(log_plus, log_minus, zeta)
        slope, late = 2 * (plus + minus), zeta - Z.T @ nu
        nu_step = _solve(Z, slope, y - Z @ (plus - minus) + Z @ (slope * late))
        step = Z.T @ nu_step - late
        size = np.abs(step).max()
        if not np.isfinite(size):
            break
        zeta, nu = zeta + step / max(size, 1.0), nu + nu_step / max(size, 1.0)
        if size <= 1e-15 * np.abs(zeta).max():
            break
    return zeta, nu


_NEWTON_STEPS = 50


def _solve(Z: Matrix, D: Modal, right: Data) -> Data:
    """The solution of Z diag(D) Zᵀ x = right; infinite where the matrix is singular."""
    _, R = np.linalg.qr(np.sqrt(D)[:, None] * Z.T)
    try:
        return np.linalg.solve(R, np.linalg.solve(R.T, right))
    except np.linalg.LinAlgError:
        return np.full(right.size, np.inf)


def _certified(
    Z: Matrix, y: Data, log_plus: Modal, log_minus: Modal, zeta: Modal, nu: Data
) -> tuple[Modal, float, float]:
    """ρ at ζ, how far Zρ is from y and ζ from Zᵀν, and the gap between the Bregman divergence of ρ from the start and
    the dual objective at ν."""
    plus, minus = _parts(log_plus, log_minus, zeta)
    rho, moving = plus - minus, np.isfinite(log_plus) | np.isfinite(log_minus)
    sizes = np.abs(Z) @ (plus + minus) + np.abs(y)
    misfit = (np.abs(Z @ rho - y) / sizes).max()
    late = np.abs(zeta - Z.T @ nu)[moving].max() / max(np.abs(zeta[moving]).max(), 1.0)
    at_nu = _parts(log_plus, log_minus, Z.T @ nu)
    at_start = sum(part.sum() for part in _parts(log_plus, log_minus, np.zeros_like(zeta)))
    primal = rho[moving] @ zeta[moving] - ((plus + minus).sum() - at_start) / 2
    dual = y @ nu - (sum(part.sum() for part in at_nu) - at_start) / 2
    size = max(abs(primal), at_start / 2, np.finfo(float).tiny)
    residual, gap = float(max(misfit, late)), float(abs(primal - dual) / size)
    return rho, residual if np.isfinite(residual) else math.inf, gap if np.isfinite(gap) else math.inf
