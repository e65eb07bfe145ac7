"""Networks with a nonlinear activation, layer by layer.

Imports networks.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .networks import Convolutional, Diagonal, FullyConnected, LinearTensorNetwork, Network


class Nonlinear(Network):
    """A linear tensor network with an activation φ after every layer but the last (Yun et al. 2021, eq. 2).

    H_1 = φ(M(x)∘(v_1, I, …)), H_l = φ(H_{l−1}∘(v_l, I, …)), f = H_{L−1}∘v_L. A diagonal, convolutional
    or fully-connected network is computed in its own layers (eq. 3, 4, 5), without M. That is the same
    function where φ(0) = 0; elsewhere the zeros of M would be activated too.

    - `network`: the linear tensor network, with its weights.
    - `activation`: φ, acting entrywise, for instance `jax.nn.relu`.

    Flow and descent run on it. It has no linear coefficients, and no theorem of the paper applies.

    ```python
    network = gflow.Nonlinear(gflow.FullyConnected((W_1, w_2)), jnp.tanh)
    ```
    """

    network: LinearTensorNetwork
    activation: Callable[[Array], Array] = eqx.field(static=True)

    @property
    def weights(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] (equinox allows it)
        return self.network.weights

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jax.vmap(self._output)(X)

    def _output(self, x: Float[Array, " d"]) -> Scalar:
        hidden, apply = _first_and_layer(self.network, x)
        *weights, last = self.network.weights
        for v in weights:
            hidden = self.activation(apply(hidden, v))
        return last.ravel() @ hidden


def _first_and_layer(
    network: LinearTensorNetwork, x: Float[Array, " d"]
) -> tuple[Array, Callable[[Array, Array], Array]]:
    """H_0 and the linear map H, v ↦ H∘(v, I, …) of one layer."""
    if isinstance(network, Diagonal):
        return x, jnp.multiply
    if isinstance(network, Convolutional):
        return x, _correlate
    if isinstance(network, FullyConnected):
        return x, jnp.matmul
    return network.data_tensor(x), lambda hidden, v: jnp.tensordot(v.ravel(), hidden, 1)


def _correlate(a: Float[Array, " d"], b: Float[Array, " k"]) -> Float[Array, " d"]:
    """[a ⋆ b]_i = Σ_j a[(i + j) mod d] b[j]."""
    (d,), (k,) = a.shape, b.shape
    return a[(jnp.arange(d)[:, None] + jnp.arange(k)) % d] @ b
