"""The limit point of a regression by integrated weights."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Scalar

from ._order import after
from .flows.clocks import GradientClock, norm
from .flows.radau import MOST_OUTPUTS, Radau
from .flows.smaller import Followed
from .flows.stopping import Fitted, Near, discrepancy_size
from .flows.tail import minimum_norm_correction, with_errors
from .flows.weights import follow, solution
from .invariants import conserved
from .measures import distance
from .methods import Weights
from .networks import LinearNetwork, Network
from .problems import Problem, Regression
from .records import Certificate, Solution, Status

_SECOND_STOP = 1e-2  # the second stopping point's residual, in units of the first's
_LOOSER = 30.0  # the second trajectory's tolerance in units of the first's: its error is that many times as large
_LEAST = 1.2  # rtol: the error that steps may leave whatever the two trajectories say (benchmarks/limit_tolerance.py)


def point_of_weights(followed: Followed, options: tuple[Scalar, Weights]) -> Solution:
    network, problem, (tolerance, method) = followed.network, followed.problem, options
    dtype = tolerance.dtype
    # Of the residual, to stop at. A loose integrator stalls above the second, and so stops at the first for good.
    fractions = 0.3 * jnp.sqrt(tolerance) * jnp.array([[1.0, 1.0], [1.0, _SECOND_STOP]], dtype)
    outputs = network(problem.X)
    start, nothing = discrepancy_size(problem, outputs), discrepancy_size(problem, jnp.zeros_like(outputs))
    units = jnp.abs(problem.discrepancy(outputs)) + jnp.abs(problem.discrepancy(jnp.zeros_like(outputs)))
    largest = jnp.where(jnp.max(units) > 0, jnp.max(units), 1.0)
    units = jnp.where(units > jnp.finfo(dtype).eps * largest, units, largest)
    rtol = 0.1 * tolerance if method.rtol is None else method.rtol.astype(dtype)
    # What the flow conserves are differences of squares, of size α². Where α is so small that steps' errors hide them,
    # these decide where it goes; then so do rates that differ by as little, and the two trajectories part.
    uneven = 0.3 * jnp.array([rtol, 0.0])
    separates = isinstance(problem, Regression)  # into outputs, as the implicit steps need it
    implicit = method.solver is None and separates and outputs.size <= MOST_OUTPUTS

    # Where zero is what is to be fitted, nothing may be left at the end: the start is the only size there is, of what
    # the rows see of it.
    beginning = jax.lax.stop_gradient(jnp.linalg.norm(_seen(followed, network)))  # no derivative where it is 0
    beginning = jnp.where(nothing > 0, 0.0, beginning)
    least = jnp.where(nothing > 0, 0.0, jax.lax.stop_gradient(norm(network.weights)))

    def apart(one: Network, other: Network) -> Scalar:
        other_measured = _measured(followed, other)
        size = jnp.linalg.norm(other_measured) + beginning
        off = jnp.linalg.norm(_measured(followed, one) - other_measured)
        return off / jnp.maximum(size, jnp.finfo(dtype).tiny)  # beside an end of nothing everything is large

    def trajectory(steps: tuple[Scalar, Array, Scalar]) -> tuple[Solution, Network]:
        rtol, fractions, uneven = steps
        rates = _rates(network.weights, uneven)

        def leg(stop: Network, fraction: Scalar) -> tuple[Network, tuple[Solution, Network]]:
            clock, fitted = GradientClock(stop, problem, rates), Fitted(fraction, units)
            solver, until = (Radau(rtol, clock.unit()), Near(fitted, least)) if implicit else (method.solver, fitted)
            run = follow(clock, (until,), rtol=rtol, max_steps=method.max_steps, solver=solver, adjoint=method.adjoint)
            reached = solution(clock, (until,), run)
            until_decided = partial(after, reached.converged.astype(dtype))
            corrected = minimum_norm_correction(jax.tree.map(until_decided, reached.network), problem)
            end = jax.tree.map(lambda new, old: jnp.where(reached.converged, new, old), corrected, reached.network)
            return reached.network, (reached, end)

        return jax.lax.scan(leg, network, fractions)[1]

    rtols = rtol * jnp.array([jnp.minimum(_LOOSER, 0.1 / rtol), 1.0])
    runs, ends = jax.lax.map(trajectory, (rtols, fractions, uneven))
    loose, first, end = (jax.tree.map(lambda v, at=at: v[at], ends) for at in ((0, 1), (1, 0), (1, 1)))
    run = jax.tree.map(lambda v: v[1, 1], runs)
    # The correction's error is quadratic in the residual; to claim only the first power is the safe side. But two stops
    # with a small residual may both lie far from the end where rows all but depend on each other: so the way that was
    # corrected is claimed as well, times that of the weights, by which J has changed.
    of_correction = _SECOND_STOP * apart(first, end)
    turned = distance(*(ravel_pytree(network.weights)[0] for network in (run.network, end)))
    of_correction += turned * apart(run.network, end)
    of_steps = apart(loose, first)  # both corrected from the first stop
    rounded = with_errors(end, problem, jnp.where(start > 0, jnp.finfo(dtype).eps * units, 0.0))
    of_round_off = jax.lax.stop_gradient(apart(rounded, end))
    error = of_correction + jnp.maximum(of_steps, _LEAST * rtol) + of_round_off
    one, other = (jax.tree.map(lambda v, at=at: v[at], runs.network) for at in ((0, 1), (1, 1)))
    error = jnp.where(runs.converged.all() & ~lose_alike(network, one, other, problem), error, jnp.inf)
    sizes = nothing + start
    if isinstance(network, LinearNetwork):  # a start may be so large that an end of any size is fitted beside it
        sizes = jnp.minimum(sizes, _terms(followed, end) + jnp.where(nothing > 0, 0.0, _terms(followed, network)))
    end, given = followed.lift(end), followed.given
    outputs = end(given.X)  # of what is returned
    log_loss, left = given.log_loss(outputs), discrepancy_size(given, outputs)
    proved = (error <= tolerance) & jnp.all(jnp.abs(given.discrepancy(outputs)) <= tolerance * sizes)
    proved &= left <= tolerance * (nothing + start)
    size = jnp.where(nothing > 0, nothing, 1.0)
    return dataclasses.replace(
        run,
        network=end,
        log_loss=log_loss,
        log_time=jnp.full_like(log_loss, jnp.inf),
        status=Status.where(run.converged & ~proved, Status.not_certified, run.status),
        error=error,
        certificate=Certificate.of(log_loss, residual=left / size),
        steps=jnp.sum(runs.steps),
        rejected_steps=jnp.sum(runs.rejected_steps),
    )


def lose_alike(start: Network, one: Network, other: Network, problem: Problem) -> Bool[Array, ""]:
    """Whether something that the flow conserves is lost on the way to `one` and to `other` by the same amount.

    A difference of squares far below them is soon lost to round-off, mostly without any harm; but where a coordinate
    turns round it decides when. That two ends agree which have lost it by different amounts shows that it does not.
    """

    def kept(network: Network) -> Array:
        network = jax.lax.stop_gradient(network)
        found = conserved(network, problem)
        found.pop("outside row(X)", None)  # which stays as it is to the last bit
        return ravel_pytree(found)[0]

    began, *ended = map(kept, (start, one, other))
    lost = jnp.minimum(*(jnp.abs(end - began) for end in ended))
    return jnp.any(~(lost <= _HELD * jnp.abs(began)) & ~(jnp.abs(ended[0] - ended[1]) > _ALIKE * lost))


# Of its own size: less is felt in proportion, and so in the distance of the two ends.
_HELD = 1e-3
# Of what both have lost: times of turning go with the logarithm of what is left, or faster, so that ends which differ
# by more have parted by 1e-2 / log(1e16), 10^5 times as much as is accepted.
_ALIKE = 1e-2


def _rates(weights: tuple[Array, ...], spread: Scalar) -> tuple[Array, ...]:
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
