"""The limit point of a regression by integrated weights."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Scalar

from . import _ask
from ._order import after
from .flows.clocks import GradientClock, norm
from .flows.radau import Radau
from .flows.smaller import Followed
from .flows.stopping import Fitted, Given, Near, discrepancy_size
from .flows.tail import minimum_norm_correction, with_errors
from .flows.timing import Falls, Timing
from .flows.weights import follow, solution
from .invariants import balances
from .measures import distance
from .methods import Weights
from .networks import LinearNetwork, Network
from .problems import Problem
from .records import Certificate, Solution, Status

T = TypeVar("T")

_SECOND_STOP = 1e-2  # the second stopping point's residual, in units of the first's
# How small a discrepancy may be whose fall is timed, in units of the first stopping point's: of the squares whose
# logarithm is timed 1e-4 are left there, and where the last step ends matters little.
_SEEN = 100.0
_LOOSER = 30.0  # the second trajectory's tolerance in units of the first's: its error is that many times as large
_LEAST = 1.2  # rtol: the error that steps may leave whatever the two trajectories say (benchmarks/limit_tolerance.py)


class _Sizes(NamedTuple):
    """What residuals and errors are relative to.

    - `start`, `nothing`: the sizes of the discrepancy at the start, and of outputs of zero.
    - `units`: of each output.
    - `beginning`, `least`: of what is measured at the start, and of its weights, where zero is what is to be fitted:
      nothing may be left at the end then, and the start is the only size there is. 0 elsewhere.
    """

    start: Scalar
    nothing: Scalar
    units: Array
    beginning: Scalar
    least: Scalar

    @staticmethod
    def of(followed: Followed) -> "_Sizes":
        network, problem = followed.network, followed.problem
        outputs = network(problem.X)
        none = jnp.zeros_like(outputs)
        nothing = discrepancy_size(problem, none)
        units = jnp.abs(problem.discrepancy(outputs)) + jnp.abs(problem.discrepancy(none))
        largest = jnp.where(jnp.max(units) > 0, jnp.max(units), 1.0)
        units = jnp.where(units > jnp.finfo(units.dtype).eps * largest, units, largest)
        # Norms have no derivative where they are 0.
        begun = jnp.linalg.norm(_seen(followed, network)), norm(network.weights)
        begun = (jnp.where(nothing > 0, 0.0, jax.lax.stop_gradient(v)) for v in begun)
        return _Sizes(discrepancy_size(problem, outputs), nothing, units, *begun)


_Stop: TypeAlias = tuple[Solution, Network, Falls]


class _Trajectories(NamedTuple):
    """Where a looser trajectory and one at the tolerance stopped, each at two stops, those networks corrected, and when
    the losses fell on the way to each stop."""

    runs: Solution
    ends: Network
    falls: Falls

    def corrected(self, trajectory: int, stop: int) -> Network:
        return jax.tree.map(lambda v: v[trajectory, stop], self.ends)

    def stopped(self, trajectory: int, stop: int) -> Solution:
        return jax.tree.map(lambda v: v[trajectory, stop], self.runs)

    def last(self) -> tuple[Solution, Network]:
        """The last stop, or the first that was not reached."""
        each = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), (self.runs, self.ends))
        reached = each[0].converged
        at = jnp.where(reached.all(), reached.size - 1, jnp.argmin(reached))
        return jax.tree.map(lambda v: v[at], each)


def point_of_weights(followed: Followed, options: tuple[Scalar, Weights]) -> Solution:
    network, (tolerance, method) = followed.network, options
    rtol = _rtol(tolerance, followed.problem, method)
    sizes = _Sizes.of(followed)
    found = _trajectories(followed, sizes, tolerance, rtol, method)
    run, end = found.last()
    limit = followed.lift(end)
    # Evidence has no derivatives: those of a norm of zero would be NaN, also of what does not depend on it.
    followed, sizes, found, run, end, fixed = _fixed((followed, sizes, found, run, end, limit))
    given = followed.given
    error = _error(followed, sizes, rtol, found)
    allowed = sizes.nothing + sizes.start
    if isinstance(network, LinearNetwork):  # a start may be so large that an end of any size is fitted beside it
        of_start = jnp.where(sizes.nothing > 0, 0.0, _terms(followed, network))
        allowed = jnp.minimum(allowed, _terms(followed, end) + of_start)
    outputs = fixed(given.X)  # of what is returned
    log_loss, left = given.log_loss(outputs), discrepancy_size(given, outputs)
    proved = (error <= tolerance) & jnp.all(jnp.abs(given.discrepancy(outputs)) <= tolerance * allowed)
    proved &= left <= tolerance * (sizes.nothing + sizes.start)
    return dataclasses.replace(
        run,
        network=limit,
        log_loss=log_loss,
        log_time=jnp.full_like(log_loss, jnp.inf),
        status=Status.where(run.converged & ~proved, Status.not_certified, run.status),
        error=error,
        certificate=Certificate.of(log_loss, residual=left / jnp.where(sizes.nothing > 0, sizes.nothing, 1.0)),
        steps=jnp.sum(found.runs.steps),
        rejected_steps=jnp.sum(found.runs.rejected_steps),
    )


def _rtol(tolerance: Scalar, problem: Problem, method: Weights) -> Scalar:
    """A tenth of the tolerance. A hundredth for implicit steps, which are of an order to which that means few more, and
    follow what explicit ones have not answered: in most cases because their error was a few times too large."""
    if method.rtol is not None:
        return method.rtol.astype(tolerance.dtype)
    # Corrections of the stages end at a tenth of rtol, which must stay far above the round-off of weights.
    finest = 1e4 * jnp.finfo(tolerance.dtype).eps if _ask.is_implicit(problem, method) else jnp.inf
    return jnp.minimum(0.1 * tolerance, jnp.maximum(0.01 * tolerance, finest))


def _fixed(tree: T) -> T:
    return jax.tree.map(lambda v: jax.lax.stop_gradient(v) if eqx.is_array(v) else v, tree)


# Of `_fall_together`, measured on some 600 limits: right ones of ordinary scales differ by up to 6e3 rtol beyond what
# the rule may have missed, those that both trajectories had wrong by 1.5e5 and more, half of them by 1e8.
_TIMED = 1e4
# Right ones with stiff steps differ by up to 1.2 times what it may have missed; of wrong ones that is below 1e-9.
_MISSED = 10.0


def _trajectories(followed: Followed, sizes: _Sizes, tolerance: Scalar, rtol: Scalar, method: Weights) -> _Trajectories:
    network, problem, dtype = followed.network, followed.problem, tolerance.dtype
    # Of the residual, to stop at. A loose integrator stalls above the second, and so stops at the first for good.
    fractions = 0.3 * jnp.sqrt(tolerance) * jnp.array([[1.0, 1.0], [1.0, _SECOND_STOP]], dtype)
    # What the flow conserves are differences of squares, of size α². Where α is so small that steps' errors hide them,
    # these decide where it goes; then so do rates that differ by as little, and the two trajectories part.
    uneven = 0.3 * jnp.array([rtol, 0.0])
    shaken = jnp.finfo(dtype).eps * jnp.array([4.0, 0.0], dtype)  # α times weights is rounded, and may all but cancel
    implicit = _ask.is_implicit(problem, method)

    def trajectory(lost: Array, steps: tuple[Scalar, Array, Scalar, Scalar]) -> tuple[Array, _Stop]:
        rtol, fractions, uneven, shaken = steps
        rates = _spread(network.weights, uneven)
        start, problem = followed.shaken(shaken)

        def leg(begun: tuple[Network, Array], fraction: Scalar) -> tuple[Any, _Stop]:
            stop, lost = begun
            clock, until = GradientClock(stop, problem, rates), Fitted(fraction, sizes.units)
            solver, timing = method.solver, Timing(clock, _SEEN * fractions[0] * sizes.units)
            if implicit:
                solver, until = Radau(rtol, clock.unit()), Near(until, sizes.least)
            rules = until, Given(lost)
            run = follow(
                clock,
                rules,
                rtol=rtol,
                max_steps=method.max_steps,
                saving=timing,
                solver=solver,
                adjoint=method.adjoint,
            )
            reached = solution(clock, rules, run)
            until_decided = partial(after, reached.converged.astype(dtype))
            corrected = minimum_norm_correction(jax.tree.map(until_decided, reached.network), problem)
            end = jax.tree.map(lambda new, old: jnp.where(reached.converged, new, old), corrected, reached.network)
            return (reached.network, lost | ~reached.converged), (reached, end, run.rows)

        (_, lost), stops = jax.lax.scan(leg, (start, lost), fractions)
        return lost, stops

    rtols = rtol * jnp.array([jnp.minimum(_LOOSER, 0.1 / rtol), 1.0])
    # After a stop that is not reached nothing can be claimed, and nothing more is followed.
    return _Trajectories(*jax.lax.scan(trajectory, jnp.array(False), (rtols, fractions, uneven, shaken))[1])


def _error(followed: Followed, sizes: _Sizes, rtol: Scalar, found: _Trajectories) -> Scalar:
    """Of the second trajectory's end, relative."""
    problem, epsilon = followed.problem, jnp.finfo(rtol.dtype).eps
    loose, first, end = found.corrected(0, 1), found.corrected(1, 0), found.corrected(1, 1)
    stopped = found.stopped(1, 1).network

    def apart(one: Network, other: Network) -> Scalar:
        other_measured = _measured(followed, other)
        size = jnp.linalg.norm(other_measured) + sizes.beginning
        off = jnp.linalg.norm(_measured(followed, one) - other_measured)
        return off / jnp.maximum(size, jnp.finfo(rtol.dtype).tiny)  # beside an end of nothing everything is large

    # The correction's error is quadratic in the residual; to claim only the first power is the safe side. But two stops
    # with a small residual may both lie far from the end where rows all but depend on each other: so the way that was
    # corrected is claimed as well, times that of the weights, by which J has changed.
    of_correction = _SECOND_STOP * apart(first, end)
    turned = distance(*(ravel_pytree(network.weights)[0] for network in (stopped, end)))
    of_correction += turned * apart(stopped, end)
    of_steps = apart(loose, first)  # both corrected from the first stop
    rounded = with_errors(end, problem, jnp.where(sizes.start > 0, epsilon * sizes.units, 0.0))
    of_round_off = jax.lax.stop_gradient(apart(rounded, end))
    error = of_correction + jnp.maximum(of_steps, _LEAST * rtol) + of_round_off
    known = _fall_together(found.falls, rtol)
    known &= ~lose_alike(followed.network, found.stopped(0, 1).network, stopped)
    return jnp.where(found.runs.converged.all() & known, error, jnp.inf)


def _fall_together(falls: Falls, rtol: Scalar) -> Bool[Array, ""]:
    """Whether the losses of both trajectories fell at the same times on the way to the first stop.

    If not, coordinates were asleep at sizes that errors or round-off made. These decide which of them awakes first, and
    that both trajectories end alike proves nothing.
    """
    areas, errors = (v[:, 0] for v in falls)
    return jnp.abs(areas[0] - areas[1]) <= _TIMED * rtol + _MISSED * jnp.sum(errors)


def lose_alike(start: Network, one: Network, other: Network) -> Bool[Array, ""]:
    """Whether something that the flow conserves is lost on the way to `one` and to `other` by the same amount.

    A difference of squares far below them is soon lost to round-off, mostly without any harm; but where a coordinate
    turns round it decides when. That two ends agree which have lost it by different amounts shows that it does not.
    """

    def kept(network: Network) -> Array:
        return ravel_pytree(balances(jax.lax.stop_gradient(network)))[0]

    began, *ended = map(kept, (start, one, other))
    lost = jnp.minimum(*(jnp.abs(end - began) for end in ended))
    return jnp.any(~(lost <= _HELD * jnp.abs(began)) & ~(jnp.abs(ended[0] - ended[1]) > _ALIKE * lost))


# Of its own size: less is felt in proportion, and so in the distance of the two ends.
_HELD = 1e-3
# Of what both have lost: times of turning go with the logarithm of what is left, or faster, so that ends which differ
# by more have parted by 1e-2 / log(1e16), 10^5 times as much as is accepted.
_ALIKE = 1e-2


def _spread(weights: tuple[Array, ...], spread: Scalar) -> tuple[Array, ...]:
    """1 for every weight, but for a random relative `spread`."""
    keys = jax.random.split(jax.random.key(0), len(weights))
    return tuple(1 + spread * jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, weights, strict=True))


def _measured(followed: Followed, network: Network) -> Array:
    """What the error is relative to: β, or all weights, of which those at rest count as one number."""
    if isinstance(network, LinearNetwork):
        return followed.coefficients(network)
    return jnp.append(ravel_pytree(network.weights)[0], jax.lax.stop_gradient(jnp.sqrt(followed.at_rest())))


def _seen(followed: Followed, network: Network) -> Array:
    """What is `_measured`, of β without the coefficients that no row sees: they hide nothing."""
    measured = _measured(followed, network)
    return measured * jnp.any(followed.given.X != 0, axis=0) if isinstance(network, LinearNetwork) else measured


def _terms(followed: Followed, network: Network) -> Array:
    """The sizes of what outputs xᵀβ are sums of, and of their targets."""
    given = followed.given
    targets = jnp.abs(given.discrepancy(jnp.zeros(len(given.X), given.X.dtype)))
    return jnp.max(jnp.abs(given.X), axis=1) * jnp.max(jnp.abs(_measured(followed, network))) + targets
