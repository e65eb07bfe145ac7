"""Where a flow stops, as data."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Scalar

from .._checks import to_scalar
from ..networks import LinearNetwork, Network, with_weights
from ..problems import Problem
from ..problems import log_loss as log_loss_at
from .clocks import Clock, Weights, norm
from .rows import Rows, Saving
from .tail import way_left


class Until(eqx.Module):
    """A rule by which a flow stops, at the first step after which it holds."""

    is_convergence: ClassVar[bool] = True  # whether a flow that it stops has converged

    @abc.abstractmethod
    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]: ...

    def beside(self, at_rest: Scalar) -> "Until":
        """The rule for a network that stands for one with more weights, at rest, whose squares sum to `at_rest`."""
        return self


class LogLoss(Until):
    """Until log L is below `value`: the flow has then converged.

    ```python
    path = gflow.flow(start, problem, until=gflow.LogLoss(-12.0))
    assert path.converged and path.log_loss < -12.0
    ```
    """

    value: Scalar = eqx.field(converter=lambda v: to_scalar("LogLoss", v))

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        return log_loss_at(weights, network, problem) < self.value


class LogTime(Until):
    """Until log t is above `value`: the flow is then finished, converged or not.

    ```python
    path = gflow.flow(start, problem, until=gflow.LogTime(1.0))
    assert gflow.Status[path.status] == "finished"
    ```
    """

    value: Scalar = eqx.field(converter=lambda v: to_scalar("LogTime", v))
    is_convergence: ClassVar[bool] = False

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        return log_time > self.value


class Turning(Until):
    """Until L < 1 and the direction of the weights turns by less than `angle`, in radians, while −log L grows by a
    factor e: the flow has then converged.

    `at_rest`: the sum of the squares of weights that never move and that the network does not have.

    ```python
    gflow.flow(network, labels, until=(gflow.Turning(1e-3), gflow.LogLoss(-1e6)))
    ```
    """

    angle: Scalar = eqx.field(converter=lambda v: to_scalar("Turning", v))
    at_rest: Scalar = eqx.field(converter=lambda v: to_scalar("at_rest", v), default=0.0, kw_only=True)

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        return turning_rate(weights, network, problem, self.at_rest) < self.angle

    def beside(self, at_rest: Scalar) -> "Turning":
        return Turning(self.angle, at_rest=at_rest)


class Fitted(Until):
    """Until every |discrepancy| ≤ `size` in its own `units`: the end of a limit."""

    size: Scalar
    units: Float[Array, "n ..."]

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        off = problem.discrepancy(with_weights(network, weights)(problem.X)) / self.units
        return jnp.max(jnp.abs(off)) <= self.size


class Near(Until):
    """Until the data are `fitted`, and the way left to the end is a tenth of that size, in units of ‖Θ‖, or of `least`
    where that is more, too.

    Where data are ill-conditioned, outputs are fitted long before the weights are near their end.
    """

    fitted: Fitted
    least: Scalar

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        left = way_left(with_weights(network, weights), problem)
        size = jnp.maximum(norm(weights), self.least)
        near = left <= 0.1 * self.fitted.size * size  # what is left once corrected is of second order in both
        return near & self.fitted.met(weights, log_time, network, problem)


class Arrived(Until):
    """Until every |discrepancy| ≤ its own of the `sizes` and, where a `way` is given, no more of it is left, in units
    of ‖Θ‖: the flow is at rest, and is then finished."""

    sizes: Float[Array, "n ..."]
    way: Scalar | None = None
    is_convergence: ClassVar[bool] = False

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        at = with_weights(network, weights)
        fitted = jnp.all(jnp.abs(problem.discrepancy(at(problem.X))) <= self.sizes)
        return fitted if self.way is None else fitted & (way_left(at, problem) <= self.way * norm(weights))


class Given(Until):
    """At once, or never."""

    holds: Bool[Array, ""]
    is_convergence: ClassVar[bool] = False

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        return self.holds


class Stationary(Until):
    """Until the loss of a classification cannot fall any further: see `is_stationary`."""

    is_convergence: ClassVar[bool] = False

    def met(self, weights: Weights, log_time: Scalar, network: Network, problem: Problem) -> Bool[Array, ""]:
        return is_stationary(weights, network, problem)


class Stop(eqx.Module):
    """A rule, read off the states of a clock."""

    clock: Clock
    rule: Until

    def __call__(self, tau: Scalar, state: tuple) -> Bool[Array, ""]:
        clock = self.clock
        return self.rule.met(clock.weights(state), clock.log_time(tau, state), clock.network, clock.problem)


class AtLogLosses(Saving):
    """Rows: the states after the first step at which log L is below each of `log_losses`, which decrease."""

    clock: Clock
    log_losses: Float[Array, " T"]

    def start(self, tau: Scalar, state: tuple) -> Rows:
        def fill(v: Array) -> Array:
            return jnp.broadcast_to(v, (self.log_losses.size, *jnp.shape(v)))

        return Rows(fill(tau), jax.tree.map(fill, state), jnp.zeros(self.log_losses.shape, bool))

    def after(
        self, memory: Rows, tau_0: Scalar, tau_1: Scalar, state: tuple, between: Callable[[Scalar], tuple]
    ) -> Rows:
        log_loss = log_loss_at(self.clock.weights(state), self.clock.network, self.clock.problem)
        new = ~memory.kept & (log_loss < self.log_losses)

        def write(rows: Array, v: Array) -> Array:
            return jnp.where(new.reshape(-1, *[1] * jnp.ndim(v)), v, rows)

        taus, states = jax.tree.map(write, (memory.taus, memory.states), (tau_1, state))
        return Rows(taus, states, memory.kept | new)

    def rows(self, memory: Rows) -> Rows:
        return memory


def discrepancy_size(problem: Problem, outputs: Array) -> Scalar:
    """‖discrepancy‖ without overflow."""
    d = jnp.ravel(problem.discrepancy(outputs))
    largest = jnp.max(jnp.abs(d))
    return largest * jnp.linalg.norm(d / jnp.where(largest > 0, largest, 1.0))


def turning_rate(weights: Weights, network: Network, problem: Problem, at_rest: Scalar) -> Scalar:
    """By how many radians the direction of Θ turns while −log L grows by a factor e; ∞ while L ≥ 1.

    To Θ belong, besides the `weights`, weights at rest whose squares sum to `at_rest`.
    """
    log_loss, gradient = jax.value_and_grad(log_loss_at)(weights, network, problem)
    slope, size = norm(gradient), jnp.sqrt(norm(weights) ** 2 + at_rest)
    radial = sum(jnp.sum(g * v) for g, v in zip(gradient, weights, strict=True)) / size**2
    moving = norm(tuple(g - radial * v for g, v in zip(gradient, weights, strict=True)))
    tangential = jnp.sqrt(moving**2 + radial**2 * at_rest)
    return jnp.where(log_loss < 0, -log_loss * tangential / (slope**2 * size), jnp.inf)


STUCK = 1e-9  # of a sum, relative to its terms: zero to the digits that a flow at rest shows


def is_stationary(weights: Weights, network: Network, problem: Any) -> Bool[Array, ""]:
    """Whether the flow of a classification cannot make its loss fall, although it does not classify every point.

    That is where the gradients of the data points cancel to nine digits in ∇L, or all vanish, by every weight for
    itself: on a plateau they cancel in those that are awake, and in sum, while those asleep, smaller by many orders,
    still grow. A function xᵀβ also cannot where Σ q_i y_i x_i vanishes to nine digits of Σ q_i ‖x_i‖, with q_i the
    points' shares in ∇L: over the latter its norm bounds the margin of every unit β for inputs of unit length (Gordan),
    so to that many digits the data are not separable.
    """
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), weights)
    log_loss, shares = jax.value_and_grad(problem.log_loss)(outputs)
    each = jax.vmap(lambda one: ravel_pytree(pull_back(one)[0])[0])(jnp.diag(shares))
    stationary = jnp.all(jnp.abs(jnp.sum(each, axis=0)) <= STUCK * jnp.sum(jnp.abs(each), axis=0))
    if isinstance(network, LinearNetwork):
        X = problem.X / jnp.maximum(jnp.max(jnp.abs(problem.X)), jnp.finfo(problem.X.dtype).tiny)  # no square overflows
        stationary |= jnp.linalg.norm(shares @ X) <= STUCK * (jnp.abs(shares) @ jnp.linalg.norm(X, axis=1))
    # A loss below that of a single margin of zero classifies every point, and falls for ever.
    return stationary & (log_loss > problem.loss(jnp.zeros_like(log_loss)) - 1e-9)
