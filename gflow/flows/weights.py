"""The weights themselves, integrated in a clock."""

import dataclasses
from typing import TypeVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from ..networks import Network, with_weights
from ..problems import Classification, Problem, loss_gradient
from ..records import Certificate, Path, Route, Solution, Status, first_of, status_of
from .clocks import Clock, LossClock, norm
from .engine import Integration, Run, integrate
from .rows import OnlyEnd, Saving
from .stopping import Stationary, Stop, Until, is_stationary
from .tail import tail, way_left

NetworkT = TypeVar("NetworkT", bound=Network)


def follow(
    clock: Clock,
    until: tuple[Until, ...],
    *,
    rtol: float | Scalar,
    max_steps: int,
    last: float | Scalar | None = None,
    saving: Saving | None = None,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Run:
    """Integrates from the clock's start until one of `until` holds or τ = `last`, the clock's end by default."""
    network, problem = clock.network, clock.problem
    dtype = jnp.result_type(*network.weights)
    rules = until
    last = clock.last() if last is None else last
    if isinstance(clock, LossClock):  # no stationary point hurts the time clock
        rules = (*until, Stationary())
        last = jnp.where(is_stationary(network.weights, network, problem), 0.0, last)  # the clock cannot start there
    return integrate(
        Integration(
            field=clock,
            solver=clock.solver() if solver is None else solver,
            start=clock.start(),
            first=jnp.zeros((), dtype),  # a clock in another dtype would promote the weights
            last=jnp.asarray(last, dtype),
            rtol=jnp.asarray(rtol, dtype),
            atol=rtol * clock.unit(),
            stops=tuple(Stop(clock, rule) for rule in rules),
            saving=OnlyEnd() if saving is None else saving,
            pcoeff=clock.pcoeff,
            icoeff=clock.icoeff,
            max_steps=max_steps,
        ),
        adjoint,
    )


def solution(clock: Clock, until: tuple[Until, ...], run: Run) -> Solution:
    """The end of a run. Its status is decided on the network that is returned, whatever the solver says of its run."""
    weights = clock.weights(run.state)
    end, log_time = with_weights(clock.network, weights), clock.log_time(run.tau, run.state)
    problem = clock.problem
    log_loss = problem.log_loss(end(problem.X))
    met = jnp.zeros((), bool)
    for rule in until:
        if rule.is_convergence:
            met |= rule.met(weights, log_time, end, problem)
    if isinstance(problem, Classification):
        hopeless = is_stationary(weights, end, problem)
    else:  # where the gradient is 0 to the last bit nothing has ever moved, or ever will
        hopeless = norm(loss_gradient(weights, end, problem)) == 0
    return Solution(
        network=end,
        log_scale=jnp.zeros_like(log_loss),
        log_loss=log_loss,
        log_time=log_time,
        status=first_of(
            (jnp.isnan(log_loss) | (log_loss == jnp.inf), Status.not_finite),
            (met, Status.converged),
            (hopeless, Status.no_descent),
            otherwise=status_of(run.result),
        ),
        route=Route.weights,
        error=jnp.full_like(log_loss, jnp.nan),
        certificate=Certificate.of(log_loss),
        steps=run.steps,
        rejected_steps=run.rejected_steps,
    )


def path(clock: Clock, until: tuple[Until, ...], run: Run) -> Path:
    """The rows of a run, and its end."""
    end = solution(clock, until, run)
    rows = run.rows.filled_up(run.tau, run.state)

    def read(tau: Scalar, state: tuple) -> tuple[Network, Scalar]:
        return with_weights(clock.network, clock.weights(state)), clock.log_time(tau, state)

    networks, log_times = jax.vmap(read)(rows.taus, rows.states)
    return path_of(networks, log_times, clock.problem, end)


def path_with_tail(clock: Clock, until: tuple[Until, ...], run: Run, taus: Array, rtol: Scalar) -> Path:
    """The path with rows at τ = `taus` of a run that has stopped near the end of a regression, in its `tail`.

    A run that has stopped for another reason is as in `path`.
    """
    found = path(clock, until, run)
    in_tail = (run.result == diffrax.RESULTS.event_occurred) & ~found.converged
    log_times = jax.vmap(lambda tau: clock.log_time(tau, run.state))(taus)
    elapsed = jnp.exp(log_times) - jnp.exp(found.end.log_time)
    elapsed = jnp.clip(elapsed, 0.0, jnp.finfo(elapsed.dtype).max)  # rates of 0 times infinity would be NaN
    later = tail(found.end.network, clock.problem, elapsed)
    # Where rows all but depend on each other outputs are at rest long before weights are. What J changes by on the way
    # is of second order in it.
    near = way_left(found.end.network, clock.problem) <= jnp.sqrt(rtol) * norm(found.end.network.weights)

    def choose(late: Array, early: Array) -> Array:
        return jnp.where((in_tail & ~run.rows.kept).reshape(-1, *[1] * (late.ndim - 1)), late, early)

    networks = jax.tree.map(choose, later, found.followed)
    end = jax.tree.map(lambda late, reached: jnp.where(in_tail, late[-1], reached), networks, found.end.network)
    end = dataclasses.replace(
        found.end,
        network=end,
        log_loss=clock.problem.log_loss(end(clock.problem.X)),
        log_time=jnp.where(in_tail, log_times[-1], found.end.log_time),
        status=Status.where(in_tail & ~near, Status.not_certified, found.end.status),
    )
    return path_of(networks, choose(log_times, found.log_times), clock.problem, end)


def path_of(networks: Network, log_times: Array, problem: Problem, end: Solution) -> Path:
    """The path through `networks`, whose leading axis is that of the rows."""
    log_losses = jax.vmap(lambda network: problem.log_loss(network(problem.X)))(networks)
    return Path(
        followed=networks,
        log_scales=jnp.zeros_like(log_losses),
        log_times=jnp.asarray(log_times, log_losses.dtype),
        log_losses=log_losses,
        decades=decades_of(log_losses),
        multipliers=jnp.full((log_losses.size, len(problem.y)), jnp.nan, log_losses.dtype),
        errors=jnp.zeros_like(log_losses),
        end=end,
    )


def decades_of(log_losses: Array) -> Array:
    """log₁₀(−log L); NaN where L ≥ 1."""
    small = log_losses < 0
    return jnp.where(small, jnp.log10(-jnp.where(small, log_losses, -1.0)), jnp.nan)
