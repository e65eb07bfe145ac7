"""Full-length convolutions in the coordinates in which they are diagonal."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from .network import LinearTensorNetwork

LONGEST = 512  # filters of which the basis is written out, 2 MiB then


def real_fourier(d: int) -> np.ndarray:
    """The orthogonal Q with Qᵀv the real, then the imaginary parts of the unitary transform of v at the frequencies
    0, …, d/2; those that stand for their conjugates as well are √2 times as large."""
    frequencies, with_phase = np.arange(d // 2 + 1), _with_phase(d)
    angles = 2 * np.pi * (np.outer(np.arange(d), frequencies) % d) / d
    return np.hstack([np.cos(angles) * _sizes(d), -np.sqrt(2) * np.sin(angles[:, with_phase])]) / np.sqrt(d)


def transformed(v: Float[Array, "*b d"], Q: Float[Array, "d d"]) -> Float[Array, "*b d"]:
    """v Q. Imaginary parts of even vectors, v[j] = v[−j mod d], are 0 to the last bit: a mode that they turn by as much
    as round-off may go around zero where it should pass through."""
    reversed_v, real = jnp.roll(v[..., ::-1], 1, axis=-1), v.shape[-1] // 2 + 1
    return jnp.concatenate([(v + reversed_v) / 2 @ Q[:, :real], (v - reversed_v) / 2 @ Q[:, real:]], axis=-1)


def _with_phase(d: int) -> slice:
    """Which of the frequencies 0, …, d/2 are not real."""
    return slice(1, (d + 1) // 2)


def _sizes(d: int) -> np.ndarray:
    sizes = np.ones(d // 2 + 1)
    sizes[_with_phase(d)] = np.sqrt(2)
    return sizes


class Spectral(LinearTensorNetwork):
    """A full-length convolution whose filters and coefficients are v = Q a with the Q of `real_fourier`.

    Its modes are products of a few weights each, so that those asleep, however small, are as accurate as those awake.
    Sums over the entries of a filter leave of them what is above the round-off of the largest.
    """

    weights: tuple[Float[Array, " d"], ...]

    def coefficients(self) -> Float[Array, " d"]:
        d = self.weights[-1].size
        sizes, with_phase = _sizes(d), _with_phase(d)

        def frequencies(a: Float[Array, " d"]) -> Inexact[Array, " m"]:
            real = a[: sizes.size] / sizes
            return real + 1j * jnp.zeros_like(real).at[with_phase].set(a[sizes.size :] / np.sqrt(2))

        rho = d ** ((self.depth - 1) / 2) * functools.reduce(jnp.multiply, map(frequencies, self.weights))
        return jnp.concatenate([rho.real * sizes, rho.imag[with_phase] * np.sqrt(2)])
