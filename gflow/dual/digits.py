"""Differences C − AB with half as many digits again as the arithmetic has.

A and B are split into leading parts of so few bits that their product is exact, whatever the order of its sums, and a
rest (Ozaki et al. 2012, with two parts). What cancels is exact, and round-off is as small as the rest.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def difference(C: Float[Array, "n *k"], A: Float[Array, "n m"], B: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
    """C − AB, off by about `resolution(m, dtype)` times the largest entries of A's row and B's column."""
    bits = _bits(A.shape[1], A.dtype)
    A_1, B_1 = _leading(A, 1, bits), _leading(B, 0, bits)
    return ((C - A_1 @ B_1) - A_1 @ (B - B_1)) - (A - A_1) @ B


def resolution(m: int, dtype: Any) -> float:
    """The error of a `difference` of sums of m products, in units of the largest product."""
    return m * float(jnp.finfo(dtype).eps) * 2.0 ** (1 - _bits(m, dtype))


def _bits(m: int, dtype: Any) -> int:
    return (jnp.finfo(dtype).nmant + 1 - math.ceil(math.log2(m + 1))) // 2


def _leading(v: Array, axis: int, bits: int) -> Array:
    """v rounded to `bits` bits of the largest entry along `axis`."""
    largest = jnp.max(jnp.abs(v), axis=axis, keepdims=True)
    exponent = exponent_of(largest) - bits
    return ldexp(jnp.round(ldexp(v, -exponent)), exponent)


def exponent_of(v: Float[Array, "..."]) -> Int[Array, "..."]:
    """The k for which 2^k is next above |v|. To scale by 2^k rounds nothing. 0 for what is not finite, and for v = 0,
    like which XLA's arithmetic treats subnormal numbers."""
    limits, size = jnp.finfo(v.dtype), jnp.abs(jax.lax.stop_gradient(v))
    exponent = jax.lax.bitcast_convert_type(size, _integers(v.dtype)) >> limits.nmant
    is_ordinary = (size >= limits.smallest_normal) & jnp.isfinite(size)
    return jnp.where(is_ordinary, exponent - (limits.maxexp - 2), 0)


def ldexp(v: Float[Array, "..."], exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """v · 2^exponent, which rounds nothing. (The derivative of `jnp.ldexp` at v = 0 is 1, whatever the exponent.)"""
    half = exponent // 2  # 2^exponent itself may overflow where the product does not
    return v * _power_of_two(half, v.dtype) * _power_of_two(exponent - half, v.dtype)


def _power_of_two(k: Int[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """2^k, held to normal numbers, as bits: a few operations where `jnp.ldexp` has dozens. (XLA's `exp2` rounds.)"""
    limits = jnp.finfo(dtype)
    k = jnp.clip(k, limits.minexp, limits.maxexp - 1).astype(_integers(dtype))
    return jax.lax.bitcast_convert_type((k + (limits.maxexp - 1)) << limits.nmant, dtype)


def _integers(dtype: Any) -> Any:
    """The integers with as many bits."""
    return jnp.dtype(f"int{jnp.finfo(dtype).bits}")
