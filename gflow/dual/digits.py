"""Differences C − AB with half as many digits again as the arithmetic has.

A and B are split into leading parts of so few bits that their product is exact, whatever the order of its sums, and a
rest (Ozaki et al. 2012, with two parts). What cancels is exact, and round-off is as small as the rest.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def difference(C: Float[Array, "n *k"], A: Float[Array, "n m"], B: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
    """C − AB, off by about `resolution(m, dtype)` times the largest entries of A's row and B's column."""
    bits = _bits(A.shape[1], A.dtype)
    A_1, B_1 = _leading(A, 1, bits), _leading(B, 0, bits)
    return ((C - A_1 @ B_1) - A_1 @ (B - B_1)) - (A - A_1) @ B


def resolution(m: int, dtype: object) -> float:
    """The error of a `difference` of sums of m products, in units of the largest product."""
    return m * float(jnp.finfo(dtype).eps) * 2.0 ** (1 - _bits(m, dtype))


def _bits(m: int, dtype: object) -> int:
    return (jnp.finfo(dtype).nmant + 1 - math.ceil(math.log2(m + 1))) // 2


def _leading(v: Array, axis: int, bits: int) -> Array:
    """v rounded to `bits` bits of the largest entry along `axis`."""
    largest = jnp.max(jnp.abs(v), axis=axis, keepdims=True)
    unit = jnp.exp2(jnp.ceil(jnp.log2(jnp.where(largest > 0, largest, 1.0))) - bits)
    return jnp.round(v / unit) * unit
