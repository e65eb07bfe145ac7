"""Limits of flows other than gradient flow, in dual coordinates: they are limits of gradient flow from another start.

*Weight decay* v̇_l = −∂L/∂v_l − λ(t) v_l. With a = ∫λ and v_l = e^{−a}ṽ_l the ṽ_l move in clocks of their own as those
of gradient flow do, ν̃' = −e^{−(L−2)a} r. So where decay is switched off at T the state is e^{−a(T)} times one of
gradient flow, at every depth, and what follows is gradient flow.

Of two layers, with w_± = η_1 ± η_2 and g = Zᵀr, every flow with d log w_± = ± Zᵀdν + dc_± ends where gradient flow
ends from w_±(0) e^{c_±}:

*Momentum* λẅ + ẇ = ∓ g w from rest: with p_± = ẇ_±/w_±, λ(ṗ_± + p_±²) + p_± = ∓ g, so c_± = −λ ∫ p_±², until a w_±
passes through zero (Papazov, Pesme & Flammarion 2024).

*Sharpness-aware*, dv_l/dt = −∂L/∂v_l at Θ + ϱ∇L(Θ): ŵ_± = w_±(1 ± ϱg), ẇ_± = ∓ ĝ ŵ_±, so c_± = −ϱ ∫ g ⊙ ĝ.

The equations are exact; what is integrated is only the time until gradient flow's own limit is known. It is integrated
a second time, more loosely, and the difference of the two limits is part of the `error`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from ..flows import implicit
from ..flows.engine import Integration, Run, integrate
from ..networks import Network
from ..records import Solution, Status, first_of, status_of
from . import regression
from .coordinates import Coordinates
from .decoupled import Decoupled
from .newton import MOST_ITERATIONS

NetworkT = TypeVar("NetworkT", bound=Network)


class Begun(NamedTuple):
    """The start of gradient flow that ends where another flow does, and how that was found.

    - `log_shrinkage`: by how much weights that never move have shrunk meanwhile.
    - `status`: `finished`, or why it was not found.
    - `rtol`: of the integrator's steps.
    """

    coordinates: Coordinates
    log_shrinkage: Float[Array, "*two"]
    status: Status
    rtol: Float[Array, "*two"]
    steps: Int[Array, "*two"]
    rejected_steps: Int[Array, "*two"]


class Options(NamedTuple):
    """The limit's tolerance; that of the integrator's steps, and how many steps it and Newton's method have, if not by
    default."""

    tolerance: Scalar
    rtol: Scalar | None
    max_steps: int | None


class Accuracy(NamedTuple):
    """How accurately the time before is integrated: a step's tolerance, and the relative residual at which to stop,
    whose square is the error that stopping leaves."""

    rtol: Scalar
    rest: Scalar


class Flow(NamedTuple):
    """What is integrated: a problem in dual coordinates, how accurately, and in how many steps."""

    coordinates: Coordinates
    found: Decoupled
    problem: Any
    accuracy: Accuracy
    max_steps: int


_FINER = 1e-3  # the integrator's tolerance in units of the limit's: errors of many steps add up
_REST = 1e-2  # the residual at which to stop, in units of the limit's tolerance's root
_LOOSER = 30.0  # the second integration's tolerance, in units of the first's
_EARLIER = 10.0  # its residual


def begun(found: Decoupled, problem: Any, log_alpha: Scalar, begin: Callable[[Flow], Begun], options: Options) -> Begun:
    """The start that `begin` finds for another flow from e^`log_alpha` times the network, and more loosely once more:
    two of all numbers."""
    tolerance, rtol, max_steps = options
    finest = 50 * float(jnp.finfo(found.Z.dtype).eps)
    fine = jnp.maximum(_FINER * tolerance, finest) if rtol is None else rtol.astype(found.Z.dtype)
    rests = _REST * jnp.sqrt(tolerance) * jnp.array([1.0, _EARLIER], found.Z.dtype)
    accuracies = Accuracy(fine * jnp.array([1.0, _LOOSER], found.Z.dtype), rests)
    coordinates, max_steps = Coordinates.of(found.eta, log_alpha), 16384 if max_steps is None else max_steps
    return jax.lax.map(lambda accuracy: begin(Flow(coordinates, found, problem, accuracy, max_steps)), accuracies)


def limit(
    network: NetworkT, problem: Any, found: Decoupled, log_alpha: Scalar, starts: Begun, options: Options
) -> Solution[NetworkT]:
    """The limit of gradient flow from what `begun` has found for another flow from e^`log_alpha` times `network`."""
    tolerance = options.tolerance
    max_steps = MOST_ITERATIONS if options.max_steps is None else options.max_steps

    def one(start: Begun) -> tuple[Solution, Array]:
        end = regression.limit(
            network,
            problem,
            found,
            log_alpha - start.log_shrinkage,
            tolerance=tolerance,
            max_steps=max_steps,
            begun=start.coordinates,
        )
        return end, end.coefficients

    ends, betas = jax.lax.map(one, starts)
    end, start = jax.tree.map(lambda v: v[0], (ends, starts))
    size = jnp.linalg.norm(betas[0])
    apart = jnp.linalg.norm(betas[0] - betas[1]) / jnp.where(size > 0, size, 1.0)
    error = end.error + apart + start.rtol
    certain = end.converged | (end.status == Status.least_squares)
    found_start = (starts.status == Status.finished).all()
    return dataclasses.replace(
        end,
        status=first_of(
            (start.status != Status.finished, start.status),
            (certain & ~(found_start & (error <= tolerance)), Status.not_certified),
            otherwise=end.status,
        ),
        error=jnp.where(found_start, error, jnp.inf),
        steps=end.steps + start.steps,
        rejected_steps=start.rejected_steps,
    )


class Decaying(eqx.Module):
    """Weight decay in the clock t̂ = t / unit. The state is ν̃ for two layers and the angles for more, and a."""

    coordinates: Coordinates
    found: Decoupled
    problem: Any
    rate: Callable[[Scalar], Scalar]

    @property
    def log_unit(self) -> Scalar:
        return (2 - self.coordinates.depth) * self.coordinates.log_scale

    def start(self) -> tuple[Array, Scalar]:
        two = self.coordinates.depth == 2
        return jnp.zeros_like(self.problem.y) if two else self.coordinates.start, jnp.zeros_like(self.log_unit)

    def angles(self, state: Array) -> Array:
        return self.coordinates.start + state @ self.found.Z if self.coordinates.depth == 2 else state

    def __call__(self, tau: Scalar, state: tuple[Array, Scalar]) -> tuple[Array, Scalar]:
        at, a = state
        here = dataclasses.replace(self.coordinates, log_scale=self.coordinates.log_scale - a)
        nu_dot = -self.found.modes.copies * self.problem.residual(self.found.Z @ here.rho(self.angles(at)))
        a_dot = jnp.exp(self.log_unit) * self.rate(jnp.exp(self.log_unit) * tau)
        if here.depth == 2:
            return nu_dot, a_dot
        return nu_dot @ self.found.Z * jnp.exp((2 - here.depth) * a - here.log_zeta_slope(at)), a_dot


def after_decay(flow: Flow, rate: Callable[[Scalar], Scalar], until: Any) -> Begun:
    """Gradient flow's start at the time `until`, when decay is switched off."""
    field = Decaying(flow.coordinates, flow.found, flow.problem, rate)
    last = until * jnp.exp(-field.log_unit)
    run = _integrated(flow, field, last, (), diffrax.Dopri8(), flow.max_steps)
    at, a = run.state
    return _begun(flow, flow.coordinates.restarted(field.angles(at), -a), a, status_of(run.result), run)


def _log_sizes(coordinates: Coordinates) -> Float[Array, "2 m"]:
    """log |w_±| of two layers: e^{2 log |w_+|} − e^{2 log |w_−|} = 4ρ."""
    log_a, side, x = coordinates.log_scale + coordinates.log_a, coordinates.side, coordinates.start
    both = jnp.stack([log_a + x, log_a - x])
    there = jnp.stack([side >= 0, side <= 0]) & ~coordinates.frozen
    return jnp.where(there, both, -jnp.inf)


def _grown(coordinates: Coordinates, c: Float[Array, "2 m"]) -> Coordinates:
    """The systems of two layers that start at w_± e^{c_±}."""
    plus, minus = jnp.where(jnp.isfinite(_log_sizes(coordinates)), c, 0.0)
    both = coordinates.side == 0
    x = coordinates.start + jnp.where(both, (plus - minus) / 2, 0.0)
    return coordinates.restarted(x, jnp.where(both, (plus + minus) / 2, plus + minus))


def _both(v: Float[Array, " m"]) -> Float[Array, "2 m"]:
    """What w_+ and w_− feel of opposite signs."""
    return jnp.stack([v, -v])


class Inertial(eqx.Module):
    """Momentum. The state is log |w_±| since the start, its rate p_±, and ν = −∫ r."""

    log_sizes: Float[Array, "2 m"]
    found: Decoupled
    problem: Any
    inertia: Scalar

    def start(self) -> tuple[Array, Array, Array]:
        zero = jnp.zeros_like(self.log_sizes)
        return zero, zero, jnp.zeros_like(self.problem.y)

    def outputs(self, growth: Array) -> Array:
        plus, minus = jnp.exp(2 * (self.log_sizes + growth)) / 4
        return self.found.Z @ (plus - minus)

    def __call__(self, tau: Scalar, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        growth, p, _ = state
        r = self.found.modes.copies * self.problem.residual(self.outputs(growth))
        p_dot = (-_both(r @ self.found.Z) - p) / self.inertia - p**2
        return p, jnp.where(jnp.isfinite(self.log_sizes), p_dot, 0.0), -r

    def passes_zero(self, state: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        """Whether a w_± is certain to pass through zero: λp falls for ever once λp(1 + λp) > λ|g|, and the energy
        L + λ‖Θ̇‖²/2 never grows, so that |g_j| ≤ ‖z_j‖ ‖r(0)‖ at all times."""
        r = self.problem.residual(self.outputs(self.start()[0]))
        bound = self.found.modes.copies * jnp.linalg.norm(self.found.Z, axis=0) * jnp.linalg.norm(r)
        return jnp.any(self.inertia * state[1] <= -(1 + jnp.sqrt(1 + 4 * self.inertia * bound)))

    def at_rest(self, state: tuple[Array, Array, Array], rest: Scalar) -> Bool[Array, ""]:
        still = self.inertia * jnp.max(jnp.abs(state[1])) <= rest
        return still & (_misfit(self.problem, self.outputs(state[0])) <= rest * self.size())

    def size(self) -> Scalar:
        return _size(self.problem, self.outputs(self.start()[0]))


class Sharpened(eqx.Module):
    """Sharpness-aware flow. The state is ν = −∫ r̂ and C = ϱ ∫ g ⊙ ĝ."""

    log_sizes: Float[Array, "2 m"]
    found: Decoupled
    problem: Any
    radius: Scalar

    def start(self) -> tuple[Array, Array]:
        return jnp.zeros_like(self.problem.y), jnp.zeros_like(self.log_sizes[0])

    def _squares(self, state: tuple[Array, Array]) -> Array:
        nu, C = state
        return jnp.exp(2 * (self.log_sizes + _both(nu @ self.found.Z) - C)) / 4

    def outputs(self, state: tuple[Array, Array]) -> Array:
        plus, minus = self._squares(state)
        return self.found.Z @ (plus - minus)

    def __call__(self, tau: Scalar, state: tuple[Array, Array]) -> tuple[Array, Array]:
        Z, copies = self.found.Z, self.found.modes.copies
        g = copies * (self.problem.residual(self.outputs(state)) @ Z)
        plus, minus = self._squares(state) * (1 + self.radius * _both(g)) ** 2
        r = copies * self.problem.residual(Z @ (plus - minus))
        return -r, self.radius * g * (r @ Z)

    def at_rest(self, state: tuple[Array, Array], rest: Scalar) -> Bool[Array, ""]:
        size = _size(self.problem, self.outputs(self.start()))
        return _misfit(self.problem, self.outputs(state)) <= rest * size


def _misfit(problem: Any, outputs: Array) -> Scalar:
    return jnp.linalg.norm(problem.discrepancy(outputs))


def _size(problem: Any, outputs: Array) -> Scalar:
    return _misfit(problem, outputs) + _misfit(problem, jnp.zeros_like(outputs))


class _AtRest(eqx.Module):
    field: Any
    rest: Scalar

    def __call__(self, tau: Scalar, state: Any) -> Bool[Array, ""]:
        return self.field.at_rest(state, self.rest)


class _PassesZero(eqx.Module):
    field: Inertial

    def __call__(self, tau: Scalar, state: Any) -> Bool[Array, ""]:
        return self.field.passes_zero(state)


def after_momentum(flow: Flow, inertia: Scalar) -> Begun:
    """Gradient flow's start for a momentum flow of two layers that begins at rest."""
    field = Inertial(_log_sizes(flow.coordinates), flow.found, flow.problem, inertia)
    run = _to_rest(flow, field, (_AtRest(field, flow.accuracy.rest), _PassesZero(field)))
    growth, p, nu = run.state
    c = growth + inertia * p - _both(nu @ flow.found.Z)
    status = Status.where(field.passes_zero(run.state), Status.passed_zero, _rested(run))
    return _begun(flow, _grown(flow.coordinates, c), jnp.zeros_like(c[0, 0]), status, run)


def after_sharpness(flow: Flow, radius: Scalar) -> Begun:
    """Gradient flow's start for a sharpness-aware flow of two layers."""
    field = Sharpened(_log_sizes(flow.coordinates), flow.found, flow.problem, radius)
    run = _to_rest(flow, field, (_AtRest(field, flow.accuracy.rest),))
    c = -jnp.stack([run.state[1]] * 2)
    return _begun(flow, _grown(flow.coordinates, c), jnp.zeros_like(c[0, 0]), _rested(run), run)


def _rested(run: Run) -> Status:
    """A run that no stop has ended has not come to rest."""
    stopped = run.result == diffrax.RESULTS.event_occurred
    failed = Status.where(run.result == diffrax.RESULTS.successful, Status.step_limit, status_of(run.result))
    return Status.where(stopped, Status.finished, failed)


def _to_rest(flow: Flow, field: Any, stops: tuple[Any, ...]) -> Run:
    """Until a stop: in explicit steps, and where a quarter of all steps are not enough, as where rates differ by
    thousands, in implicit ones from there on."""
    last = float(jnp.finfo(flow.found.Z.dtype).max) ** 0.5
    if sum(v.size for v in jax.tree.leaves(field.start())) > implicit.MOST_UNKNOWNS:
        return _integrated(flow, field, last, stops, diffrax.Dopri8(), flow.max_steps)
    few = flow.max_steps // 4
    begun = _integrated(flow, field, last, stops, diffrax.Dopri8(), few)

    def go_on(run: Run) -> Run:
        more = _integrated(flow, field, last, stops, implicit.chord(), flow.max_steps - few, run)
        steps, rejected_steps = run.steps + more.steps, run.rejected_steps + more.rejected_steps
        return more._replace(steps=steps, rejected_steps=rejected_steps)

    return jax.lax.cond(begun.result == diffrax.RESULTS.max_steps_reached, go_on, lambda run: run, begun)


def _integrated(
    flow: Flow,
    field: Any,
    last: float | Scalar,
    stops: tuple[Any, ...],
    solver: diffrax.AbstractSolver,
    max_steps: int,
    begun: Run | None = None,
) -> Run:
    dtype, accuracy = flow.found.Z.dtype, flow.accuracy
    return integrate(
        Integration(
            field=field,
            solver=solver,
            start=field.start() if begun is None else begun.state,
            first=jnp.zeros((), dtype) if begun is None else begun.tau,
            last=jnp.asarray(last, dtype),
            rtol=accuracy.rtol,
            atol=accuracy.rtol,
            stops=stops,
            pcoeff=0.0,
            icoeff=1.0,
            max_steps=max_steps,
        )
    )


def _begun(flow: Flow, coordinates: Coordinates, log_shrinkage: Scalar, status: Status, run: Run) -> Begun:
    finite = jnp.isfinite(coordinates.start).all() & jnp.isfinite(coordinates.log_a).all()
    status = first_of((status != Status.finished, status), (finite, status), otherwise=Status.not_finite)
    return Begun(coordinates, log_shrinkage, status, flow.accuracy.rtol, run.steps, run.rejected_steps)
