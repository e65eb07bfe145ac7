"""The diagonal network."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearTensorNetwork, Modes


class Diagonal(LinearTensorNetwork):
    """The diagonal network β = v_1 ⊙ … ⊙ v_L (Yun et al. 2021, eq. 3 and 11).

    `weights`: L ≥ 1 vectors of length d.

    ```python
    network = gflow.Diagonal(([1.0, 0.5], [0.3, -0.2]))
    assert jnp.allclose(network.coefficients(), jnp.array([0.3, -0.1]))
    ```
    """

    weights: tuple[Float[Array, " d"], ...] = eqx.field(converter=as_weights)

    def __check_init__(self) -> None:
        if any(v.ndim != 1 or v.shape != self.weights[0].shape for v in self.weights):
            raise ValueError(
                f"Diagonal needs vectors of one length; got shapes {shapes(self.weights)}. "
                "Pass a tuple (v_1, …, v_L) of arrays of shape (d,)."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return math.prod(self.weights[1:], start=self.weights[0])

    def modes(self) -> Modes:
        return Modes(None, self.weights)

    def hidden(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x

    def layer(self, hidden: Float[Array, " d"], v: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.multiply(hidden, v)
