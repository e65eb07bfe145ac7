"""What is computed after what, and what not at all.

On CPUs jaxlib (as of 0.10) splits the LAPACK calls of a batch into tasks for the very threads that wait for them. As
many such calls at a time as there are threads, two on a small machine, wait for ever. A program runs two calls at a
time if neither needs the other's result: so here each needs that of the one before.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def after(first: Float[Array, "..."], v: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """v, but not before `first` is known; NaN where `first` has a NaN."""
    return jnp.where(jnp.isnan(first).any(), jnp.nan, v)


def or_else(is_good: Bool[Array, ""], found: Any, search: Callable[[Any], Any], operands: Any) -> Any:
    """`found` where it is good, and else search(operands), which a batch of nothing but good ones does without: a loop
    of one round, where `cond` would become a choice between two results."""

    def once(state: tuple) -> tuple:
        # After the loop has begun: XLA would do what no state changes before it, whether or not it begins.
        arrays, others = eqx.partition(operands, eqx.is_array)
        arrays, _ = jax.lax.optimization_barrier((arrays, state[0]))
        return jnp.array(True), search(eqx.combine(arrays, others))

    return jax.lax.while_loop(lambda state: ~state[0], once, (is_good, jax.lax.stop_gradient(found)))[1]
