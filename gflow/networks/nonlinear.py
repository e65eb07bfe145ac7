"""Networks with a nonlinear activation, layer by layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Scalar

from .network import LinearTensorNetwork, Network, Reduced


class Nonlinear(Network):
    """A linear tensor network with an activation φ after every layer but the last (Yun et al. 2021, eq. 2).

    H_1 = φ(M(x)∘(v_1, I, …)), H_l = φ(H_{l−1}∘(v_l, I, …)), f = H_{L−1}∘v_L. A diagonal, convolutional
    or fully-connected network is computed in its own layers (eq. 3, 4, 5), without M. That is the same
    function where φ(0) = 0; elsewhere the zeros of M would be activated too.

    - `network`: the linear tensor network, with its weights.
    - `activation`: φ, acting entrywise, for instance `jax.nn.relu`. Name it once: a lambda written anew in every call
      is another function to JAX, which then compiles anew.

    Flow and descent run on it. It has no linear coefficients, and no theorem of the paper applies.

    ```python
    network = gflow.Nonlinear(gflow.FullyConnected((jnp.ones((2, 3)), jnp.ones(3))), jnp.tanh)
    assert jnp.allclose(network(jnp.array([[1.0, 2.0]])), 3 * jnp.tanh(3.0))
    ```
    """

    network: LinearTensorNetwork
    activation: Callable[[Array], Array] = eqx.field(static=True)

    @property
    def weights(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] (equinox allows it)
        return self.network.weights

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jax.vmap(self._output)(X)

    def reduced(self, X: Float[Array, "n d"]) -> Reduced | None:
        """That of the linear network, if it changes nothing behind an activation."""
        found = self.network.reduced(X)
        if found is None or jax.tree.leaves((found.bases[0][1], found.bases[1:])):
            return None
        return Reduced(self, dataclasses.replace(self, network=found.network), found.bases, found.X)

    def _output(self, x: Float[Array, " d"]) -> Scalar:
        hidden = self.network.hidden(x)
        *weights, last = self.network.weights
        for v in weights:
            hidden = self.activation(self.network.layer(hidden, v))
        return last.ravel() @ hidden
