"""The architectures. A network is a pytree whose `weights` are the state of the flow.

Imports nothing of gflow.
"""

import abc
import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ._checks import as_float, shapes

# Below this many multiplications per layer, a circular convolution is one small matrix product;
# above, XLA's FFT is faster (measured in benchmarks/convolution.py).
_DIRECT_CONVOLUTION = 4096


class Network(eqx.Module):
    """A linear network: weights v_1, …, v_L in, linear coefficients β(Θ) out.

    Every network here is a linear tensor network (Yun et al. 2021, section 3): β is linear in each of
    its weights. A network is frozen and is a pytree, so `jax.jit`, `jax.vmap` and `jax.grad` take it
    whole; state, initialisation and limit of a flow are all of this type.
    """

    weights: eqx.AbstractVar[tuple[Array, ...]]

    @abc.abstractmethod
    def coefficients(self) -> Float[Array, " d"]:
        """The linear coefficients β(Θ), with f(x; Θ) = xᵀβ(Θ)."""

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The outputs f(x_i; Θ) for the rows x_i of X."""
        return X @ self.coefficients()

    @property
    def depth(self) -> int:
        """The number of layers L."""
        return len(self.weights)

    def data_tensor(self, x: Float[Array, " d"]) -> Float[Array, "..."]:
        """The data tensor M(x) = ∂ᴸ(xᵀβ) / ∂v_1 … ∂v_L, with f(x; Θ) = M(x)∘(v_1, …, v_L).

        Matrix weights count as vectors in row-major order, so the shape is
        (weights[0].size, …, weights[L−1].size). Yun et al. 2021, section 3.1.
        """

        def output(*weights: Array) -> Scalar:
            return x @ with_weights(self, weights).coefficients()

        derivative: Callable = output
        for layer in range(self.depth):
            derivative = jax.jacfwd(derivative, argnums=layer)
        return derivative(*self.weights).reshape([v.size for v in self.weights])


NetworkT = TypeVar("NetworkT", bound=Network)


def with_weights(network: NetworkT, weights: tuple[Array, ...]) -> NetworkT:
    """The same architecture with other weights of the same shapes."""
    return eqx.tree_at(lambda n: n.weights, network, tuple(weights))


def scale(network: NetworkT, alpha: float | Float[Array, ""]) -> NetworkT:
    """The initialisation v_l(0) = α v̄_l from initial directions v̄_l.

    `alpha` multiplies every weight, so the coefficients are multiplied by α^L.

    ```python
    start = gflow.scale(gflow.Diagonal(([1.0, 0.5], [0.3, -0.2])), 0.01)
    ```
    """
    return with_weights(network, tuple(alpha * v for v in network.weights))


class Diagonal(Network):
    """The diagonal network β = v_1 ⊙ … ⊙ v_L (Yun et al. 2021, eq. 3 and 11).

    `weights`: L ≥ 1 vectors of length d.
    """

    weights: tuple[Float[Array, " d"], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        if any(v.ndim != 1 or v.shape != self.weights[0].shape for v in self.weights):
            raise ValueError(
                f"Diagonal needs vectors of one length; got shapes {shapes(self.weights)}. "
                "Pass a tuple (v_1, …, v_L) of arrays of shape (d,)."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return math.prod(self.weights[1:], start=self.weights[0])


class Convolutional(Network):
    """The circular convolutional network β = w_1 * … * w_L (Yun et al. 2021, eq. 4 and 12).

    `weights`: filters of lengths k_l ≤ d, the last of length d; `*` is circular convolution in R^d of
    the filters padded with zeros. The layers compute [h ⋆ w]_i = Σ_j h[(i+j) mod d] w[j] on the input,
    which composes to this β.
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        d = self.weights[-1].size
        if any(w.ndim != 1 or not 1 <= w.size <= d for w in self.weights):
            raise ValueError(
                "Convolutional needs filters (vectors) no longer than the last one, whose length is d; "
                f"got shapes {shapes(self.weights)}. Make the last filter as long as an input."
            )

    def coefficients(self) -> Float[Array, " d"]:
        *filters, beta = self.weights
        for w in reversed(filters):
            beta = _circular_convolution(w, beta)
        return beta


def _circular_convolution(w: Float[Array, " k"], v: Float[Array, " d"]) -> Float[Array, " d"]:
    (k,), (d,) = w.shape, v.shape
    if k * d <= _DIRECT_CONVOLUTION:
        shifts = (jnp.arange(d)[:, None] - jnp.arange(k)) % d
        return v[shifts] @ w
    return jnp.fft.irfft(jnp.fft.rfft(w, d) * jnp.fft.rfft(v), d)


class FullyConnected(Network):
    """The fully-connected network β = W_1 W_2 ⋯ W_{L−1} w_L (Yun et al. 2021, eq. 5 and 10).

    `weights`: matrices W_l of shape (d_l, d_{l+1}), d_1 = d, and a last vector w_L of length d_L.
    """

    weights: tuple[Float[Array, "..."], ...] = eqx.field(converter=as_float)

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
