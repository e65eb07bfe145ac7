"""The flow of a regression in dual coordinates, and its limit without integration.

With ν = −∫₀ᵗ r and Z = X Sᵀ the flow of all weights is exactly ν̇ = −r(Zρ(Zᵀν)), in n unknowns, and its limit
the minimum of a convex function of ν, whatever the loss. That holds for every initialisation. Yun et al. 2021,
Theorem 5, is the case in which the last layer starts at zero.
"""

import math
from typing import Any, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Scalar

from ..flows import implicit
from ..flows.clocks import log_time_at
from ..flows.engine import Integration, integrate
from ..flows.rows import AtTaus, Saving
from ..flows.tail import moving
from ..flows.weights import path_of
from ..networks import Network
from ..problems import Problem, Regression, SquaredLoss
from ..records import Certificate, Path, Route, Solution, Status, first_of, status_of
from .coordinates import Coordinates
from .decoupled import Decoupled, lift
from .newton import newton, scaled
from .steps import held_exp

NetworkT = TypeVar("NetworkT", bound=Network)


def limit(
    network: NetworkT,
    problem: Any,
    found: Decoupled,
    log_alpha: Scalar,
    *,
    tolerance: float | Scalar,
    max_steps: int,
    begun: Coordinates | None = None,
    only_plain: bool = False,
) -> Solution[NetworkT]:
    """The limit point of gradient flow from e^`log_alpha` times `network`, by Newton's method.

    `begun`: where it starts, if not there. `only_plain`: see `newton`.

    Its derivatives are those of the equations that the limit solves. (To differentiate the limit as a steady state of
    the flow, as the adjoints made for steady states do, is wrong: the steady states form a continuum, and the start
    decides which is reached.)
    """
    elsewhere = begun is not None
    begun = begun if elsewhere else Coordinates.of(found.eta, log_alpha)
    coordinates, end, log_u = newton(begun, found.Z, problem.y, max_iterations=max_steps, only_plain=only_plain)
    L = coordinates.depth
    eta, log_eta = coordinates.unit_eta(end.angles)
    log_eta = log_eta + log_u / L
    # Weights beyond this, whose outputs cannot be represented, are given in units of their size.
    room = 0.9 * math.log(float(jnp.finfo(found.Z.dtype).max)) / L
    log_unit = jax.lax.stop_gradient(jnp.where(log_eta > room, log_eta, 0.0))
    eta = eta * jnp.exp(log_eta - log_unit)
    if not elsewhere:  # what no row sees is exactly what it was
        eta = jnp.where(jnp.any(found.Z != 0, axis=0), eta, found.eta * jnp.exp(log_alpha - log_unit))
    last: Any = lift(network, eta, log_alpha, log_unit, found.X)

    # What is returned must fit by its own outputs, row by row: coordinates that are not the network's prove nothing.
    outputs, beta = last(problem.X), found.modes.coefficients(coordinates.rho(end.angles))
    start, log_start = begun.unit_rho(coordinates.start)
    start = found.modes.coefficients(scaled(start, log_start - log_u))
    fits_nothing = ~jnp.any(end.fitted != 0)  # then what is left of the start is the only size there is
    beta, start = (jnp.where(jnp.any(problem.X != 0, axis=0), v, 0.0) for v in (beta, start))
    sizes = jnp.max(jnp.abs(problem.X), axis=1) * jnp.max(jnp.abs(beta) + jnp.where(fits_nothing, jnp.abs(start), 0.0))
    sizes = sizes + jnp.abs(end.fitted)
    off = jnp.abs(scaled(outputs, L * log_unit - log_u) - end.fitted) / jnp.where(sizes > 0, sizes, 1.0)
    residual = jnp.max(jnp.where(off == 0, 0.0, off))
    bound = jnp.linalg.norm(found.modes.bound(end.errors))
    if found.X is not None:
        beta, bound = scaled(last.coefficients(), L * log_unit - log_u), bound + _beside(last, eta, end.errors)
    unit = jnp.linalg.norm(beta) + jnp.where(fits_nothing, jnp.linalg.norm(start), 0.0)
    error = jnp.where(bound == 0, 0.0, bound / unit)
    proved = (error <= tolerance) & (jnp.maximum(residual, end.residual) <= tolerance)
    fits = end.misfit <= tolerance
    log_loss = _log_loss(problem, outputs, L * log_unit)
    return Solution(
        network=last,
        log_scale=log_unit,
        log_loss=log_loss,
        log_time=jnp.full_like(log_loss, jnp.inf),
        status=first_of(
            (~end.finite, Status.not_finite),
            (~fits & ~jnp.any(found.Z != 0) | ~fits & coordinates.frozen.all(), Status.no_descent),
            (proved & fits, Status.converged),
            (proved & jnp.asarray(isinstance(problem.loss, SquaredLoss)), Status.least_squares),
            (end.iterations < max_steps, Status.not_certified),
            otherwise=Status.step_limit,
        ),
        route=Route.dual,
        error=error,
        certificate=Certificate.of(log_loss, residual=residual, dual_residual=end.dual_residual, gap=end.gap),
        steps=end.iterations,
        rejected_steps=jnp.zeros_like(end.iterations),
    )


def _beside(network: Network, eta: Array, errors: Array) -> Scalar:
    """A bound on what β has besides modes of two layers, where ρ has `errors`: ‖Θ‖ of the weights outside the modes,
    which are at rest, times ‖δη_2‖ ≤ ‖δρ / √(η_1² + η_2²)‖, since η_1² − η_2² is conserved."""
    outside = sum(jnp.sum(v**2) for v in network.weights) - jnp.sum(eta**2)
    size = jnp.hypot(*eta)
    return jnp.sqrt(jnp.maximum(outside, 0.0)) * jnp.linalg.norm(errors / jnp.where(size > 0, size, 1.0))


def _log_loss(problem: Regression, outputs: Array, log_unit: Scalar) -> Scalar:
    """The log-loss of outputs given in a unit, which for losses other than squares must be 1."""
    if not isinstance(problem.loss, SquaredLoss):
        return jnp.where(log_unit == 0, problem.log_loss(outputs), jnp.nan)
    return Regression(problem.X, problem.y * jnp.exp(-log_unit)).log_loss(outputs) + 2 * log_unit


class DualRegression(eqx.Module):
    """The flow in the clock u = log(1 + t̂), t = e^log_unit t̂.

    The state is the angles, or for two layers Tν with Z = TᵀQ, the angles' displacement in an orthonormal basis Q: what
    a change of it means does not depend on how long rows are or how alike. Any constant T would do.
    """

    coordinates: Coordinates
    found: Decoupled
    problem: Problem
    T: Float[Array, "n n"]
    Q: Float[Array, "n m"]

    @staticmethod
    def of(coordinates: Coordinates, found: Decoupled, problem: Problem) -> "DualRegression":
        T = jax.lax.stop_gradient(_triangle(found.Z))
        return DualRegression(coordinates, found, problem, T, jax.scipy.linalg.solve_triangular(T, found.Z, trans=1))

    @property
    def log_unit(self) -> Scalar:
        return (2 - self.coordinates.depth) * self.coordinates.log_scale

    def start(self) -> Array:
        return jnp.zeros_like(self.problem.y) if self.coordinates.depth == 2 else self.coordinates.start

    def angles(self, state: Array) -> Array:
        return self.coordinates.start + state @ self.Q if self.coordinates.depth == 2 else state

    def outputs(self, state: Array) -> Array:
        return self.found.Z @ self.coordinates.rho(self.angles(state))

    def unit(self) -> Scalar:
        """What a change of the state may be for outputs to change by their own size: ρ grows like e^{Lx} where it is
        large, and like x from weights that are large already."""
        start = self.start()
        size = jnp.linalg.norm(self.problem.discrepancy(self.outputs(start)))
        slope = jnp.linalg.norm(jax.jacfwd(self.outputs)(start))
        return jnp.where((size > 0) & (slope > size), size / jnp.where(slope > 0, slope, 1.0), 1.0)

    def way_left(self, state: Array) -> Scalar:
        """How far ρ is from its end, to first order, relative to the largest there is or was. Where rows all but depend
        on each other that is far more than their residuals."""
        at, angles = self.coordinates, self.angles(state)
        rho, rates = at.rho(angles), held_exp((at.log_rho_slope(angles) - at.log_zeta_slope(angles)) / 2)
        J = self.found.Z * rates
        sizes, V = moving(J)
        left = rates * (V @ (self.problem.discrepancy(self.found.Z @ rho) @ V / sizes / sizes) @ J)
        largest = jnp.max(jnp.abs(rho) + jnp.abs(at.rho(at.start)))
        return jnp.max(jnp.abs(left)) / jnp.where(largest > 0, largest, 1.0)

    def __call__(self, tau: Scalar, state: Array) -> Array:
        nu_dot = -self.found.modes.copies * jnp.exp(tau) * self.problem.residual(self.outputs(state))
        if self.coordinates.depth == 2:
            return self.T @ nu_dot
        return nu_dot @ self.found.Z * jnp.exp(-jnp.maximum(self.coordinates.log_zeta_slope(state), _FLATTEST))


def _triangle(Z: Float[Array, "n m"]) -> Float[Array, "n n"]:
    """T of Zᵀ = QᵀT; rows that depend on those before them have a 1 for the round-off that is left of them."""
    size = jnp.linalg.norm(Z, axis=1)
    size = jnp.where(size > 0, size, 1.0)
    T = jnp.linalg.qr(Z.T / size, mode="r")
    diagonal = jnp.diagonal(T)
    dependent = jnp.abs(diagonal) < 100 * len(Z) * jnp.finfo(Z.dtype).eps
    return size * (T + jnp.diag(jnp.where(dependent, 1.0 - diagonal, 0.0)))


_STAYS = 1e-6  # of the largest coordinate: less than that is left of a way that is not followed further
_FLATTEST = float(np.log(1e-6))  # of dζ/dx, beyond which a weight that has blown up just follows


def _reach(angles: Array) -> Array:
    """By how much angles may change in a step. Where they are large they move so fast, and so evenly, that a step would
    pass over small ones, at which coordinates wait, without seeing them."""
    return jnp.maximum(2.0, 0.5 * jnp.abs(angles))


class _Arrived(eqx.Module):
    """Whether every residual is that of the end: beyond, round-off times t would steer the steps.

    Residuals are those of the orthonormal rows of `Q`, in which rows that are all but alike have different ones, and
    are at rest beside their own terms, or the round-off that is in them.
    """

    dual: DualRegression
    size: float = eqx.field(static=True)

    def __call__(self, tau: Scalar, state: Array) -> Bool[Array, ""]:
        dual, at = self.dual, self.dual.coordinates
        rho, begun = at.rho(dual.angles(state)), at.rho(at.start)
        inverse = jax.scipy.linalg.solve_triangular(dual.T, jnp.eye(len(dual.T), dtype=rho.dtype), trans=1)
        off = inverse @ dual.problem.discrepancy(dual.found.Z @ rho)
        both = jnp.abs(rho) + jnp.abs(begun)
        rounded = jnp.abs(inverse) @ (jnp.abs(dual.found.Z) @ both + _targets(dual.problem))
        allowed = self.size * (jnp.abs(dual.Q) @ both) + 100 * jnp.finfo(rho.dtype).eps * rounded
        return jnp.all(jnp.abs(off) <= allowed)


def _targets(problem: Problem) -> Array:
    return jnp.abs(problem.discrepancy(jnp.zeros_like(problem.y)))


def rest(dtype: Any) -> float:
    """The relative residual at which a flow has come to rest: 1e-10, or a thousand units of round-off."""
    return max(1e-10, 1e3 * float(jnp.finfo(dtype).eps))


class _LossBelow(eqx.Module):
    dual: DualRegression
    value: Scalar

    def __call__(self, tau: Scalar, state: Array) -> Bool[Array, ""]:
        return self.dual.problem.log_loss(self.dual.outputs(state)) < self.value


def _implicit(depth: int) -> diffrax.AbstractSolver:
    """In ν equations change little within a step, and one Jacobian is enough; in angles they may change a lot."""
    return implicit.chord() if depth == 2 else implicit.newton()


def flow(
    network: NetworkT,
    problem: Problem,
    found: Decoupled,
    log_alpha: Scalar,
    *,
    saving: Saving,
    last_log_time: Scalar | None,
    log_loss: Scalar | None,
    rtol: float | Scalar,
    max_steps: int,
    explicit: bool,
) -> Path[NetworkT]:
    """The path of gradient flow from e^`log_alpha` times `network`, until log t or log L is the one given.

    - `saving`: a rule for rows; its `taus`, where there are such, are values of log t.
    - `explicit`: whether by explicit steps.
    """
    dtype = found.Z.dtype
    coordinates = Coordinates.of(found.eta, log_alpha)
    dual = DualRegression.of(coordinates, found, problem)

    def clock(log_time: Array) -> Array:
        return jax.nn.softplus(jnp.asarray(log_time, dtype) - dual.log_unit)

    if isinstance(saving, AtTaus):
        saving = AtTaus(clock(saving.taus))
    largest = float(np.log(jnp.finfo(dtype).max)) - 20.0
    last = jnp.minimum(largest, jnp.inf if last_log_time is None else clock(last_log_time))
    stops: list[Any] = [] if log_loss is None else [_LossBelow(dual, log_loss)]
    arrives = log_loss is None or last_log_time is not None
    if arrives:
        stops.append(_Arrived(dual, rest(dtype)))
    run = integrate(
        Integration(
            field=dual,
            solver=diffrax.Dopri8() if explicit else _implicit(coordinates.depth),
            start=dual.start(),
            first=jnp.zeros((), dtype),
            last=jnp.asarray(last, dtype),
            rtol=jnp.asarray(10 * jnp.finfo(dtype).eps, dtype),
            atol=jnp.asarray(rtol, dtype) * dual.unit(),
            stops=tuple(stops),
            saving=saving,
            clip_to=saving.taus if isinstance(saving, AtTaus) else None,  # between steps all is of third order only
            reach=None if coordinates.depth == 2 else _reach,
            max_steps=max_steps,
        )
    )

    def read(tau: Scalar, state: Array) -> tuple[NetworkT, Scalar]:
        return lift(network, coordinates.eta(dual.angles(state)), log_alpha), log_time_at(tau) + dual.log_unit

    end, _ = read(run.tau, run.state)
    final = problem.log_loss(end(problem.X))
    met = jnp.zeros((), bool) if log_loss is None else final < log_loss
    # A flow that has arrived stays: it is there at all later times that were asked for.
    stays = (run.result == diffrax.RESULTS.event_occurred) & ~met
    end_tau = run.tau if last_log_time is None else jnp.where(stays, last, run.tau)
    on_its_way = stays & ~(dual.way_left(run.state) <= _STAYS) if arrives else jnp.zeros((), bool)
    rows = run.rows.filled_up(end_tau, run.state)
    taus = jnp.where(stays, saving.taus, rows.taus) if isinstance(saving, AtTaus) else rows.taus
    networks, log_times = jax.vmap(read)(taus, rows.states)
    _, log_time = read(end_tau, run.state)
    return path_of(
        networks,
        log_times,
        problem,
        Solution(
            network=end,
            log_scale=jnp.zeros_like(final),
            log_loss=final,
            log_time=jnp.asarray(log_time, final.dtype),
            status=first_of(
                (jnp.isnan(final) | (final == jnp.inf), Status.not_finite),
                (met, Status.converged),
                (on_its_way, Status.not_certified),
                otherwise=status_of(run.result),
            ),
            route=Route.dual,
            error=jnp.full_like(final, jnp.nan),
            certificate=Certificate.of(final),
            steps=run.steps,
            rejected_steps=run.rejected_steps,
        ),
    )
