"""Coordinates that come back after what decides when is lost."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from ..networks import Network, with_weights
from ..problems import Problem
from .clocks import Clock
from .rows import Saving


class _Memory(NamedTuple):
    least: Float[Array, " m"]  # size from which a coordinate is not to come back
    again: Bool[Array, ""]
    largest: Float[Array, " m"]  # |ρ| so far


class Returns(Saving):
    """Whether a coordinate has grown again from where it had lost what it conserves.

    A coordinate is a mode, or weights of which all v_e ∂f/∂v_e are equal, so that differences of their squares are
    conserved. These are of size α², and let the flow take the coordinate through zero; how long it stays there depends
    on their logarithm. Weights that have been of size 1 hold them to round-off only: a coordinate that comes back does
    so at a wrong time then, and may be there before another that should have been. So does a complex mode, as of even
    filters on even inputs, that goes around zero where it should pass through, because steps' errors in its ρ when it
    was large have turned it.

    - `began`: the squares at the start. `coordinate`: to which each belongs. `rtol`: of a step.
    """

    clock: Clock
    began: Float[Array, " K"]
    coordinate: Int[Array, " K"]
    rtol: Scalar

    @staticmethod
    def of(clock: Clock, start: Network, rtol: Scalar) -> "Returns":
        """For a flow that has begun at `start`. Each leg looks for itself: between the two stops of a limit nothing
        grows that outputs could see."""
        modes = start.modes()
        if modes is None:
            return Returns(clock, _squares(start), jax.lax.stop_gradient(_alike(start, clock.problem)), rtol)
        m = modes.eta[0].size
        return Returns(clock, _squares(start), jnp.tile(jnp.arange(m), len(modes.eta)), rtol)

    def start(self, tau: Scalar, state: PyTree) -> _Memory:
        return _Memory(jnp.full_like(self.began, jnp.inf), jnp.array(False), jnp.zeros_like(self.began))

    def after(
        self, memory: _Memory, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> _Memory:
        network = with_weights(self.clock.network, self.clock.weights(state))
        squares, rho = _squares(network), _complex_rho(network, self.began)
        many, drift = self.began.size, squares - self.began
        size = jax.ops.segment_sum(squares, self.coordinate, many)
        lost = jax.ops.segment_max(drift, self.coordinate, many) + jax.ops.segment_max(-drift, self.coordinate, many)
        largest = jnp.maximum(memory.largest, rho)
        turned = self.rtol * largest > _FELT * rho
        least = jnp.where((lost > _FELT * size) | turned, jnp.minimum(memory.least, size), memory.least)
        return _Memory(least, memory.again | jnp.any(size > _GROWN * least), largest)

    def rows(self, memory: _Memory) -> Bool[Array, ""]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return memory.again


_FELT = 1e-2  # of a coordinate's squares, or of |ρ|: one that has lost less than that moves as it should, to as much
_GROWN = 4.0  # times as large as that: one that stays where it is matters no more


def _squares(network: Network) -> Float[Array, " K"]:
    modes = network.modes()
    parts = jax.lax.stop_gradient(network.weights if modes is None else modes.eta)
    return jnp.concatenate([jnp.abs(v.ravel()) ** 2 for v in parts])


def _complex_rho(network: Network, like: Float[Array, " K"]) -> Float[Array, " K"]:
    """|ρ| of complex modes; of others, which have no phase, zeros."""
    modes = network.modes()
    if modes is None or modes.is_real:
        return jnp.zeros_like(like)
    rho = jnp.abs(jax.lax.stop_gradient(modes.rho()))
    return jnp.zeros_like(like).at[: rho.size].set(rho)


def _alike(network: Network, problem: Problem) -> Int[Array, " K"]:
    """Numbers of the coordinates of weights, those of which v ∂f/∂v is the same. It is looked at once, at generic
    weights and for a generic sum of outputs, where nothing is equal by chance."""
    weights, unravel = ravel_pytree(network.weights)
    rng = np.random.default_rng(0)
    generic = jnp.asarray(rng.normal(size=weights.shape), weights.dtype)
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, unravel(v))(problem.X), generic)
    parts = generic * pull_back(jnp.asarray(rng.normal(size=outputs.shape), outputs.dtype))[0]
    order = jnp.argsort(parts)
    low, high = parts[order][:-1], parts[order][1:]
    apart = high - low > _EQUAL * jnp.finfo(parts.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    return jnp.zeros(weights.shape, int).at[order].set(jnp.append(0, jnp.cumsum(apart)))


_EQUAL = 1e4  # units of round-off, to which sums of a few terms are equal
