"""The circular convolutional network."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearTensorNetwork, Modes, Reduced
from .spectral import LONGEST, Spectral, real_fourier, transformed

# Below this many multiplications per layer, a circular convolution is one small matrix product;
# above, XLA's FFT is faster (measured in benchmarks/convolution.py).
_DIRECT_CONVOLUTION = 2048


class Convolutional(LinearTensorNetwork):
    """The circular convolutional network β = w_1 * … * w_L (Yun et al. 2021, eq. 4 and 12).

    `weights`: filters of lengths k_l ≤ d, the last of length d; `*` is circular convolution in R^d of
    the filters padded with zeros. The layers compute [h ⋆ w]_i = Σ_j h[(i+j) mod d] w[j] on the input,
    which composes to this β.

    ```python
    network = gflow.Convolutional(([1.0, 0.5], [0.3, -0.2, 0.4]))  # a filter of length 2, inputs of length 3
    assert jnp.allclose(network.coefficients(), jnp.array([0.5, -0.05, 0.3]))
    ```
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_weights)

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

    def modes(self) -> Modes | None:
        """For filters of full length: S = d^{(L−1)/2} F and U_l = F*, with the unitary DFT matrix F. Up to d = 2 it is
        real, so that the flow decouples for all data.

        Yun et al. 2021, appendix D.3.
        """
        d, dtype = self.weights[-1].size, self.weights[-1].dtype
        if any(w.size != d for w in self.weights):
            return None
        size = d ** ((self.depth - 1) / 2)
        if d <= 2:
            F = jnp.asarray(real_fourier(d), dtype)
            return Modes(size * F, tuple(F @ w for w in self.weights))
        S = size * jnp.fft.fft(jnp.eye(d, dtype=dtype), norm="ortho")
        return Modes(S, tuple(jnp.fft.fft(w, norm="ortho").conj() for w in self.weights))

    def reduced(self, X: Float[Array, "n d"]) -> Reduced | None:
        """For filters of full length, up to 512: not smaller, but a network whose modes keep their digits while asleep,
        and whose outputs take no convolution."""
        d, dtype = self.weights[-1].size, self.weights[-1].dtype
        if d > LONGEST or any(w.size != d for w in self.weights):
            return None
        Q = jnp.asarray(real_fourier(d), dtype)
        filters = Spectral(tuple(transformed(w, Q) for w in self.weights))
        return Reduced(self, filters, ((Q, None),) * self.depth, transformed(X, Q))

    def hidden(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x

    def layer(self, hidden: Float[Array, " d"], v: Float[Array, " k"]) -> Float[Array, " d"]:
        """[h ⋆ v]_i = Σ_j h[(i + j) mod d] v[j]."""
        (d,), (k,) = hidden.shape, v.shape
        return hidden[(jnp.arange(d)[:, None] + jnp.arange(k)) % d] @ v


def _circular_convolution(w: Float[Array, " k"], v: Float[Array, " d"]) -> Float[Array, " d"]:
    (k,), (d,) = w.shape, v.shape
    if k * d <= _DIRECT_CONVOLUTION:
        shifts = (jnp.arange(d)[:, None] - jnp.arange(k)) % d
        return v[shifts] @ w
    return jnp.fft.irfft(jnp.fft.rfft(w, d) * jnp.fft.rfft(v), d)
