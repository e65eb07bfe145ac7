"""The fully-connected network."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearTensorNetwork, Modes, Reduced
from .reductions import narrowed_chain, row_basis


class FullyConnected(LinearTensorNetwork):
    """The fully-connected network β = W_1 W_2 ⋯ W_{L−1} w_L (Yun et al. 2021, eq. 5 and 10).

    `weights`: matrices W_l of shape (d_l, d_{l+1}), d_1 = d, and a last vector w_L of length d_L.

    ```python
    network = gflow.FullyConnected(([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]], [0.3, -0.2, 0.4]))  # 2 inputs, 3 hidden units
    assert jnp.allclose(network.coefficients(), jnp.array([1.1, -0.05]))
    ```
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

    def modes_on(self, X: Float[Array, "n d"]) -> Modes | None:
        """Of two layers on one data point x: each hidden unit is a mode, Sᵀ = (x̂, …, x̂) with the unit vector x̂."""
        if len(self.weights) != 2 or len(X) != 1:
            return None
        W, w = self.weights
        Q = row_basis(X)
        unit = jnp.ones(1, w.dtype) if Q is None else Q[:, 0]
        return Modes(jnp.broadcast_to(unit, W.T.shape), (unit @ W, w))

    def reduced(self, X: Float[Array, "n d"]) -> Reduced | None:
        """Ẇ_1 = −Xᵀ(…): the first layer moves inside the span Q of the rows of X alone, so QᵀW_1 on the inputs XQ flows
        alike. It holds with any activation too."""
        Q = row_basis(X)
        if Q is None:
            return None
        first, *others = self.weights
        bases = ((Q, None), *((None, None),) * len(others))
        return Reduced(self, FullyConnected((Q.T @ first, *others)), bases, X @ Q)

    def narrowed(self) -> Reduced | None:
        found = narrowed_chain(self.layers())
        if found is None:
            return None
        (*matrices, last), bases = found
        return Reduced(self, FullyConnected((*matrices, last[:, 0])), bases)

    def hidden(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x

    def layer(self, hidden: Float[Array, " a"], v: Float[Array, "a ..."]) -> Float[Array, "..."]:
        return jnp.matmul(hidden, v)
