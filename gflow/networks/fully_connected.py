"""The fully-connected network."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearTensorNetwork


class FullyConnected(LinearTensorNetwork):
    """The fully-connected network β = W_1 W_2 ⋯ W_{L−1} w_L (Yun et al. 2021, eq. 5 and 10).

    `weights`: matrices W_l of shape (d_l, d_{l+1}), d_1 = d, and a last vector w_L of length d_L.
    """

    weights: tuple[Float[Array, "..."], ...] = eqx.field(converter=as_weights)

    def __check_init__(self) -> None:
        *matrices, last = self.weights
        chained = all(W.ndim == 2 and W.shape[1] == V.shape[0] for W, V in zip(matrices, self.weights[1:], strict=True))
        if last.ndim != 1 or not chained:
            raise ValueError(
                "FullyConnected needs matrices of shapes (d_l, d_{l+1}) that chain and a last vector; "
                f"got shapes {shapes(self.weights)}. For two layers pass (W_1 of shape (d, k), w_2 of shape (k,))."
            )

    def coefficients(self) -> Float[Array, " d"]:
        *matrices, beta = self.weights
        for W in reversed(matrices):
            beta = W @ beta
        return beta

    def layers(self) -> tuple[Float[Array, "_a _b"], ...]:
        *matrices, last = self.weights
        return (*matrices, last[:, None])

    def hidden(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x

    def layer(self, hidden: Float[Array, " a"], v: Float[Array, "a ..."]) -> Float[Array, "..."]:
        return jnp.matmul(hidden, v)
