"""When the loss of a regression falls, as one number that two trajectories can be held against."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Scalar

from ..networks import with_weights
from .clocks import Clock
from .rows import Saving


class Falls(NamedTuple):
    """∫ log(1 + ‖discrepancy‖²) dτ over a path, and what the rule of integration may have made of it."""

    area: Scalar
    error: Scalar


class Timing(Saving):
    """∫ log(1 + ‖discrepancy‖²) dτ in the `units` of the discrepancies, root mean square.

    It is the area below the loss's fall by the clock, and feels when each part of the loss falls, not where the flow
    ends: a coordinate that awakes by Δτ too soon moves it by Δτ times the fall of the logarithm. So trajectories that
    end alike, but whose coordinates were asleep at sizes that errors or round-off made, are told apart, in whatever
    basis these are hidden: what is to awake first does not depend on such sizes alone, and two of different
    trajectories agree on it by chance.
    """

    clock: Clock
    units: Float[Array, "n ..."]

    def start(self, tau: Scalar, state: PyTree) -> Falls:
        zero = jnp.zeros((), self.units.dtype)
        return Falls(zero, zero)

    def after(
        self, memory: Falls, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> Falls:
        dtype = self.units.dtype
        half = (tau_1 - tau_0) / 2
        taus = tau_0 + half * (1 + jnp.asarray(_NODES, dtype))
        heights = jax.lax.stop_gradient(jax.vmap(lambda tau: self._height(between(tau)))(taus))
        highest = jnp.asarray(_HIGHEST, dtype) @ heights
        area = memory.area + half * jnp.asarray(_WEIGHTS, dtype) @ heights
        return Falls(area, memory.error + half * jnp.sum(jnp.abs(highest)))

    def rows(self, memory: Falls) -> Falls:  # pyright: ignore[reportIncompatibleMethodOverride]
        return memory

    def _height(self, state: PyTree) -> Scalar:
        network, problem = with_weights(self.clock.network, self.clock.weights(state)), self.clock.problem
        return jnp.log1p(jnp.mean((problem.discrepancy(network(problem.X)) / self.units) ** 2))


# Eight nodes are as exact as steps are. The coefficients of the last two polynomials that they tell apart are what they
# may have missed, where a step is so stiff that its interpolation does not follow the fall.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_HIGHEST = np.linalg.inv(np.polynomial.legendre.legvander(_NODES, 7))[-2:]
