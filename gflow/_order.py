"""Linear algebra in turn.

On CPUs jaxlib (as of 0.10) splits the LAPACK calls of a batch into tasks for the very threads that wait for them. As
many such calls at a time as there are threads, two on a small machine, wait for ever. A program runs two calls at a
time if neither needs the other's result: so here each needs that of the one before.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def after(first: Float[Array, "..."], v: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """v, but not before `first` is known; NaN where `first` has a NaN."""
    return jnp.where(jnp.isnan(first).any(), jnp.nan, v)
