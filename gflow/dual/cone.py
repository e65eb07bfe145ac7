"""The nearest outputs that can be had where some coordinates keep their sign.

Layers that are tied for the smallest keep the sign of ρ_j, so the outputs Zρ fill a cone only. Where y is outside, the
flow ends at a positive loss: ν runs to infinity, and Zρ goes to the point of the cone that is nearest to y. With
r = y − Zρ there, coordinates with a sign have sign · Zᵀr ≤ 0, and those below 0 die; the others have Zᵀr = 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Scalar


class Nearest(NamedTuple):
    """The nearest outputs; the coordinates that are zero there, and that are so for good; and how far the conditions
    above fail, relative to the size of the column and of r."""

    outputs: Float[Array, " n"]
    zero: Bool[Array, " m"]
    dead: Bool[Array, " m"]
    violation: Scalar


def nearest(Z: Float[Array, "n m"], y: Float[Array, " n"], side: Float[Array, " m"]) -> Nearest:
    """The point nearest to y of {Zρ: side_j ρ_j ≥ 0 where side_j ≠ 0}, by Lawson and Hanson's (1974) method."""
    eps = float(jnp.finfo(Z.dtype).eps)
    sizes = jnp.linalg.norm(Z, axis=0)
    columns = Z / jnp.where(sizes > 0, sizes, 1.0)
    U, s, _ = jnp.linalg.svd(jnp.where(side == 0, columns, 0.0), full_matrices=False)
    U = jnp.where(s > 1e4 * eps * jnp.maximum(jnp.max(s), 1.0), U, 0.0)

    def off_the_free(v: Array) -> Array:
        return v - U @ (U.T @ v)

    C, b = off_the_free(off_the_free(columns * side)), off_the_free(off_the_free(y))
    size = jnp.linalg.norm(y)
    z = _nonnegative(C, b, 1e2 * eps * size)
    r = off_the_free(b - C @ z)
    r = jnp.where(jnp.linalg.norm(r) > 1e3 * eps * size, r, 0.0)
    slopes = r @ columns / jnp.where(jnp.any(r != 0), jnp.linalg.norm(r), 1.0)
    violation = jnp.max(jnp.where(side != 0, side * slopes, jnp.abs(slopes)))
    return Nearest(y - r, (side != 0) & (z == 0), side * slopes < -_DEAD, jnp.maximum(violation, 0.0))


_DEAD = 1e-9  # cosine of the angle of a column with r from which it is not orthogonal to it


def _nonnegative(C: Float[Array, "n m"], b: Float[Array, " n"], least: Scalar) -> Float[Array, " m"]:
    """argmin ‖Cz − b‖ with z ≥ 0. A column enters if the residual falls along it at a rate above `least`."""
    m = C.shape[1]

    def step(state: tuple) -> tuple:
        z, passive, banned, count, _ = state
        solved = jnp.linalg.lstsq(jnp.where(passive, C, 0.0), b)[0]
        solved = jnp.where(passive, solved, 0.0)
        blocked = passive & (solved <= 0)
        feasible = ~jnp.any(blocked)
        # As far towards the solution as signs allow; what becomes zero leaves.
        ratios = jnp.where(blocked, z / jnp.where(blocked, z - solved, 1.0), jnp.inf)
        moved = jnp.where(feasible, solved, z + jnp.minimum(jnp.min(ratios), 1.0) * (solved - z))
        leaves = blocked & (ratios <= jnp.min(ratios))
        moved = jnp.where(leaves, 0.0, moved)
        gains = jnp.where(passive | banned, -jnp.inf, (b - C @ moved) @ C)
        best = jnp.arange(m) == jnp.argmax(gains)
        enters = feasible & (jnp.max(gains) > least) & best
        # A column that enters and leaves at once was round-off, until another has entered.
        banned = jnp.where(feasible, False, banned | (leaves & (z == 0)))
        return moved, (passive & ~leaves) | enters, banned, count + 1, feasible & ~jnp.any(enters)

    def unfinished(state: tuple) -> Bool[Array, ""]:
        *_, count, done = state
        return ~done & (count < 10 * (C.shape[0] + 1))

    none = jnp.zeros(m, bool)
    return jax.lax.while_loop(unfinished, step, (jnp.zeros(m, C.dtype), none, none, 0, jnp.array(False)))[0]
