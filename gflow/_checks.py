"""Checks shared by the nouns: conversion of inputs and the values that can be seen before a trace."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def to_float(x: Any) -> Array:
    """`x` as a floating-point array; integers become JAX's default float, other dtypes stay."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def as_float(weights: Any) -> tuple[Array, ...]:
    """A sequence of weights as a tuple of floating-point arrays."""
    if isinstance(weights, (jax.Array, np.ndarray)) or not isinstance(weights, Iterable):
        raise ValueError(
            f"weights must be a tuple of arrays, one a layer; got {type(weights).__name__}. For one layer write (v,)."
        )
    weights = tuple(map(to_float, weights))
    if not weights:
        raise ValueError("weights is empty; a network needs at least one layer.")
    return weights


def shapes(arrays: Iterable[Array]) -> str:
    return ", ".join(str(a.shape) for a in arrays)


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` can be looked at now (not inside jit, vmap or grad)."""
    return not isinstance(x, Tracer)


def require_finite(name: str, x: Array) -> None:
    """Raises ValueError if a concrete `x` holds a NaN or an infinity, and says where."""
    if is_concrete(x) and not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(
            f"{name} holds {np.asarray(x)[where]} at index {where}. Remove or repair that entry: "
            "a flow needs finite numbers."
        )


def require_precision(name: str, tolerance: Any, dtype: Any, epsilons: float = 50.0) -> None:
    """Raises ValueError if a concrete `tolerance` is below so many units of round-off of `dtype`."""
    least = epsilons * float(jnp.finfo(dtype).eps)
    if is_concrete(tolerance) and float(tolerance) < least:
        wider = "" if jnp.finfo(dtype).bits == 64 else "Type jax.config.update('jax_enable_x64', True) first, or: "
        raise ValueError(
            f"{name}={float(tolerance):.1e} asks for more than {jnp.dtype(dtype).name} can deliver, about {least:.0e}. "
            f"{wider}Pass {name}={least:.0e} or more."
        )


def require_increasing(name: str, values: Array) -> None:
    """Raises ValueError unless `values` is a vector that, where concrete, starts at 0 or later and increases."""
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must have shape (T,) with T ≥ 1; got {values.shape}. For one value pass [value].")
    if is_concrete(values):
        seen = np.asarray(values)
        if seen[0] < 0 or not (np.diff(seen) > 0).all():
            raise ValueError(f"{name} must be at least 0 and increase; got {seen}. Sort them and drop repeats.")
