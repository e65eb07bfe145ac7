"""Deep matrix sensing."""

import functools
from itertools import pairwise

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearTensorNetwork, Reduced
from .reductions import narrowed_chain, row_basis


class MatrixProduct(LinearTensorNetwork):
    """Deep matrix sensing, β = vec(W_1 W_2 ⋯ W_L) (Yun et al. 2021, eq. 13).

    `weights`: matrices W_l of shapes (d_l, d_{l+1}). An input is a sensor matrix A of shape
    (d_1, d_{L+1}), flattened row by row: f = ⟨A, W_1 ⋯ W_L⟩, X = A.reshape(n, -1).

    ```python
    sensors = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])  # n = 1 of shape (2, 2)
    network = gflow.MatrixProduct((jnp.eye(2), jnp.zeros((2, 2))))
    problem = gflow.Regression(X=sensors.reshape(1, -1), y=[1.0])
    product = network.coefficients().reshape(2, 2)
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

    def reduced(self, X: Float[Array, "n d"]) -> Reduced | None:
        """Ẇ_1 = −(Σ r_i A_i)(…) and Ẇ_L = −(…)(Σ r_i A_i): W_1 moves inside the span P of the columns of the sensors
        alone, W_L inside the span R of their rows, so PᵀW_1 and W_L R flow alike on the sensors PᵀA_iR."""
        n, (a, b) = len(X), (self.weights[0].shape[0], self.weights[-1].shape[1])
        A = X.reshape(n, a, b)
        P = row_basis(A.mT.reshape(n * b, a))
        A = A if P is None else P.T @ A
        R = row_basis(A.reshape(-1, b))
        A = A if R is None else A @ R
        if P is None and R is None:
            return None
        matrices = list(self.weights)
        matrices[0] = matrices[0] if P is None else P.T @ matrices[0]
        matrices[-1] = matrices[-1] if R is None else matrices[-1] @ R
        sides = (P, *(None,) * (2 * len(matrices) - 2), R)
        bases = tuple(zip(sides[::2], sides[1::2], strict=True))
        return Reduced(self, MatrixProduct(tuple(matrices)), bases, A.reshape(n, -1))

    def narrowed(self) -> Reduced | None:
        found = narrowed_chain(self.weights)
        return None if found is None else Reduced(self, MatrixProduct(found[0]), found[1])
