"""Any linear tensor network, given by its tensor."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes, to_float
from .network import LinearTensorNetwork


class Multilinear(LinearTensorNetwork):
    """Any other linear tensor network, given by its tensor: β_i = B[i]∘(v_1, …, v_L).

    - `weights`: vectors v_l of lengths k_l.
    - `tensor`: B of shape (d, k_1, …, k_L). The data tensor is M(x) = Σ_i x_i B[i].

    ```python
    B = jnp.ones((2, 3, 4))  # d = 2, k_1 = 3, k_2 = 4
    network = gflow.Multilinear((jnp.ones(3), jnp.ones(4)), tensor=B)
    assert jnp.allclose(network.coefficients(), 12.0)
    ```
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_weights)
    tensor: Float[Array, "d ..."] = eqx.field(converter=to_float)

    def __check_init__(self) -> None:
        if self.tensor.shape[1:] != tuple(v.size for v in self.weights) or any(v.ndim != 1 for v in self.weights):
            raise ValueError(
                "Multilinear needs vectors v_l of lengths k_l and a tensor of shape (d, k_1, …, k_L); "
                f"got weights {shapes(self.weights)} and tensor {self.tensor.shape}."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return functools.reduce(jnp.matmul, reversed(self.weights), self.tensor)
