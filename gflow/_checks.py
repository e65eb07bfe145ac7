"""Checks shared by the nouns: conversion of inputs and the values that can be seen before a trace."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def to_inexact(x: Any) -> Array:
    """`x` as an array of floating-point or complex numbers; integers become JAX's default float."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def to_float(x: Any) -> Array:
    """`x` as an array of real floating-point numbers. **Raises** ValueError for complex ones."""
    x = to_inexact(x)
    if jnp.iscomplexobj(x):
        raise ValueError(f"real numbers are needed here; got {x.dtype}. Stack real and imaginary parts.")
    return x


def as_tuple(arrays: Any) -> tuple[Array, ...]:
    """A sequence of arrays, real or complex, as a tuple."""
    if isinstance(arrays, (str, jax.Array, np.ndarray)) or not isinstance(arrays, Iterable):
        raise ValueError(
            f"weights must be a tuple of arrays, one a layer; got {type(arrays).__name__}. For one layer write (v,)."
        )
    arrays = tuple(map(to_inexact, arrays))
    if not arrays:
        raise ValueError("weights is empty; a network needs at least one layer.")
    return arrays


def as_weights(weights: Any) -> tuple[Array, ...]:
    """A sequence of weights as a tuple of real floating-point arrays: the converter of every network's `weights`.

    **Raises** ValueError for one bare array, for no layers and for complex numbers.

    ```python
    class Mine(gflow.LinearNetwork):
        weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)
    ```
    """
    return tuple(map(to_float, as_tuple(weights)))


def shapes(arrays: Iterable[Array]) -> str:
    return ", ".join(str(a.shape) for a in arrays)


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` can be looked at now (not inside jit, vmap or grad)."""
    return not isinstance(x, Tracer)


def all_concrete(tree: Any) -> bool:
    """Whether the values of every leaf can be looked at now."""
    return all(map(is_concrete, jax.tree.leaves(tree)))


def require_finite(name: str, x: Array) -> None:
    """Raises ValueError if a concrete `x` holds a NaN or an infinity, and says where."""
    if is_concrete(x) and not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(
            f"{name} holds {np.asarray(x)[where]} at index {where}. Remove or repair that entry: "
            "a flow needs finite numbers."
        )


def to_scalar(name: str, x: Any) -> Array:
    """`x` as one real number. **Raises** ValueError for anything else, and for a NaN that can be seen."""
    if isinstance(x, (str, bytes)) or np.shape(x) != ():
        raise ValueError(f"{name} must be one number; got {x!r}. For several use jax.vmap.")
    x = to_float(x)
    if is_concrete(x) and np.isnan(x):
        raise ValueError(f"{name} is NaN; pass a number.")
    return x


def require_precision(name: str, tolerance: Any, dtype: Any, epsilons: float = 50.0) -> None:
    """Raises ValueError if a concrete `tolerance` is not below 1, or below so many units of round-off of `dtype`."""
    if not is_concrete(tolerance):
        return
    least = epsilons * float(jnp.finfo(dtype).eps)
    if not float(tolerance) < 1:
        raise ValueError(f"{name}={float(tolerance):.1e} promises nothing; pass a number between {least:.0e} and 1.")
    if float(tolerance) < least:
        wider = "" if jnp.finfo(dtype).bits == 64 else "Type jax.config.update('jax_enable_x64', True) first, or: "
        raise ValueError(
            f"{name}={float(tolerance):.1e} asks for more than {jnp.dtype(dtype).name} can deliver, about {least:.0e}. "
            f"{wider}Pass {name}={least:.0e} or more."
        )


def require_count(name: str, count: Any) -> None:
    """Raises ValueError unless `count` is a positive Python integer."""
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer; got {count!r}.")


def require_increasing(name: str, values: Array, least: float | int = -np.inf) -> None:
    """Raises ValueError unless `values` is a vector that, where concrete, starts at `least` or later and increases."""
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must have shape (T,) with T ≥ 1; got {values.shape}. For one value pass [value].")
    if is_concrete(values):
        seen = np.asarray(values)
        if not (seen[0] >= least and (np.diff(seen) > 0).all()):
            bound = "" if np.isneginf(least) else f"be at least {least:g} and "
            raise ValueError(f"{name} must {bound}increase; got {seen}. Sort them and drop repeats.")
