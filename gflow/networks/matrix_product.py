"""Deep matrix sensing."""

import functools
from itertools import pairwise

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearTensorNetwork


class MatrixProduct(LinearTensorNetwork):
    """Deep matrix sensing, β = vec(W_1 W_2 ⋯ W_L) (Yun et al. 2021, eq. 13).

    `weights`: matrices W_l of shapes (d_l, d_{l+1}). An input is a sensor matrix A of shape
    (d_1, d_{L+1}), flattened row by row: f = ⟨A, W_1 ⋯ W_L⟩, X = A.reshape(n, -1).

    ```python
    network = gflow.MatrixProduct((jnp.eye(3), jnp.zeros((3, 3))))
    problem = gflow.Regression(X=sensors.reshape(len(sensors), -1), y=y)
    product = network.coefficients().reshape(3, 3)
    ```
    """

    weights: tuple[Float[Array, "_a _b"], ...] = eqx.field(converter=as_weights)

    def __check_init__(self) -> None:
        matrices = all(W.ndim == 2 for W in self.weights)
        if not matrices or any(W.shape[1] != V.shape[0] for W, V in pairwise(self.weights)):
            raise ValueError(
                "MatrixProduct needs matrices of shapes (d_l, d_{l+1}) that chain; "
                f"got shapes {shapes(self.weights)}. For a last vector use FullyConnected."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return functools.reduce(jnp.matmul, self.weights).ravel()

    def layers(self) -> tuple[Float[Array, "_a _b"], ...]:
        return self.weights
