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
    above fail, relative to the size of the column and of r, or by how much of y a death was decided as if it were 0."""

    outputs: Float[Array, " n"]
    zero: Bool[Array, " m"]
    dead: Bool[Array, " m"]
    violation: Scalar


def nearest(
    Z: Float[Array, "n m"], y: Float[Array, " n"], side: Float[Array, " m"], round_off: Scalar | float = 1.0
) -> Nearest:
    """The point nearest to y of {Zρ: side_j ρ_j ≥ 0 where side_j ≠ 0}, by Lawson and Hanson's (1974) method.

    `round_off` says how much of it there is in y, in units of that of the largest entry.
    """
    eps = float(jnp.finfo(Z.dtype).eps) * round_off
    sizes = jnp.linalg.norm(Z, axis=0)
    columns = Z / jnp.where(sizes > 0, sizes, 1.0)
    size, bound = jnp.linalg.norm(y), side != 0
    z, r = _with_signs(columns, bound, side, y, 1e2 * eps * size)
    left = jnp.linalg.norm(r)
    r = jnp.where(left > 1e3 * eps * size, r, 0.0)
    slopes = r @ columns / jnp.where(jnp.any(r != 0), left, 1.0)
    violation = jnp.max(jnp.where(bound, side * slopes, jnp.abs(slopes)))
    held = bound & (side * slopes < -_DEAD)
    dead = _on_the_boundary(columns, side, z > 0, held)
    # What was taken for round-off may be all that keeps a coordinate alive.
    of_round_off = jnp.where(jnp.any(dead & ~held) & jnp.all(r == 0) & (size > 0), left / size, 0.0)
    return Nearest(y - r, bound & (z == 0), dead, jnp.maximum(jnp.maximum(violation, 0.0), of_round_off))


def contains(Z: Float[Array, "n m"], y: Float[Array, " n"], side: Float[Array, " m"]) -> tuple[Scalar, Nearest]:
    """Whether y is in that cone, and which coordinates are then dead; with orthonormal rows, as which the cone is the
    same and rows that all but depend on each other count like others."""
    eps = float(jnp.finfo(Z.dtype).eps)
    U, s, V = jnp.linalg.svd(Z, full_matrices=False)
    kept = s > 10 * len(y) * eps * jnp.max(s)
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1.0), 0.0)
    inner = inverse * (U.T @ y)
    found = nearest(jnp.where(kept[:, None], V, 0.0), inner, side, jnp.max(s) * jnp.max(inverse))
    off = jnp.max(jnp.abs(y - U @ (s * inner)))  # outside the range of Z
    reached = jnp.all(found.outputs == inner) & (off <= 1e4 * eps * jnp.max(jnp.abs(y)))
    return reached, found._replace(outputs=y)


def is_balanced(A: Float[Array, "n m"], side: Float[Array, " m"]) -> Bool[Array, ""]:
    """Whether there are shares q ≥ 0, not all zero, with Aᵀq = 0 to round-off, or side · Aᵀq ≤ 0 where coordinates
    keep their sign: then no ρ of these signs has Aρ > 0 (Gordan, Farkas)."""
    n, m = A.shape
    eps = float(jnp.finfo(A.dtype).eps)
    sizes = jnp.linalg.norm(A, axis=1, keepdims=True)
    columns = jnp.concatenate([A / jnp.where(sizes > 0, sizes, 1.0), jnp.diag(side)])
    counted = (jnp.arange(n + m) < n).astype(A.dtype)
    sum_is_one = jnp.zeros(m + 1, A.dtype).at[-1].set(1.0)
    q = _nonnegative(jnp.concatenate([columns.T, counted[None]]), sum_is_one, 1e2 * eps)
    return jnp.linalg.norm(q @ columns) <= 1e2 * n * eps * (counted @ q)


def _with_signs(
    columns: Float[Array, "n m"], bound: Bool[Array, " m"], side: Array, y: Array, least: Scalar | float
) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """The sizes z of the coordinates that are bound to have the sign `side` where Zρ is nearest to y; and y − Zρ."""
    eps = float(jnp.finfo(columns.dtype).eps)
    U, s, _ = jnp.linalg.svd(jnp.where(bound, 0.0, columns), full_matrices=False)
    U = jnp.where(s > 1e4 * eps * jnp.maximum(jnp.max(s), 1.0), U, 0.0)

    def off_the_free(v: Array) -> Array:
        return v - U @ (U.T @ v)

    C = off_the_free(off_the_free(jnp.where(bound, columns * side, 0.0)))
    b = off_the_free(off_the_free(y))
    z = _nonnegative(C, b, least)
    return z, off_the_free(b - C @ z)


def _on_the_boundary(columns: Array, side: Array, alive: Array, dead: Array) -> Bool[Array, " m"]:
    """`dead` with the coordinates that no other point with these outputs has alive, as where y = 0 or a ρ_j must be 0.

    A coordinate may live if with those that live it makes a combination that leaves the outputs as they are. If not,
    what is left of the nearest one is at right angles to all that live and stands on one side of the others.
    """
    bound = side != 0

    def step(state: tuple) -> tuple:
        alive, dead = state
        j = jnp.argmax(bound & ~alive & ~dead)
        allowed = jnp.where(dead, 0.0, columns)
        z, r = _with_signs(allowed, bound & ~alive, side, -side[j] * columns[:, j], 1e-12)
        stands_off = jnp.linalg.norm(r) > _DEAD
        dies = bound & ~alive & (-side * (r @ columns) > _DEAD * jnp.linalg.norm(r))
        chosen = jnp.arange(len(side)) == j
        alive = alive | ~stands_off & (bound & ~dead & (z > 0) | chosen)
        return alive, dead | stands_off & (dies | chosen)

    def unfinished(state: tuple) -> Bool[Array, ""]:
        return jnp.any(bound & ~state[0] & ~state[1])

    return jax.lax.while_loop(unfinished, step, (alive, dead))[1]


_DEAD = 1e-9  # cosine of the angle of a column with r from which it is not at right angles to it


def _nonnegative(C: Float[Array, "n m"], b: Float[Array, " n"], least: Scalar | float) -> Float[Array, " m"]:
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
