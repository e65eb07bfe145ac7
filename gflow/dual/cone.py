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


class _Search(NamedTuple):
    """How far `nearest` has come: whether the point itself is still to be found, what is left of y there, along which
    columns and how much of it; the sizes of the coordinates; and which of them live and are dead."""

    first: Bool[Array, ""]
    r: Float[Array, " n"]
    slopes: Float[Array, " m"]
    left: Scalar
    z: Float[Array, " m"]
    alive: Bool[Array, " m"]
    dead: Bool[Array, " m"]


def nearest(
    Z: Float[Array, "n m"], y: Float[Array, " n"], side: Float[Array, " m"], round_off: Scalar | float = 1.0
) -> Nearest:
    """The point nearest to y of {Zρ: side_j ρ_j ≥ 0 where side_j ≠ 0}, by Lawson and Hanson's (1974) method.

    `round_off` says how much of it there is in y, in units of that of the largest entry.

    Besides the coordinates below 0 those are dead that no other point with these outputs has alive, as where y = 0 or a
    ρ_j must be 0. A coordinate may live if with those that live it makes a combination that leaves the outputs as they
    are. If not, what is left of the nearest one is at right angles to all that live and stands on one side of the
    others. That is a search for a nearest point like the first, and one program serves both.
    """
    eps = float(jnp.finfo(Z.dtype).eps) * round_off
    sizes = jnp.linalg.norm(Z, axis=0)
    columns = Z / jnp.where(sizes > 0, sizes, 1.0)
    size, bound = jnp.linalg.norm(y), side != 0

    def step(state: _Search) -> _Search:
        first, alive, dead = state.first, state.alive, state.dead
        j = jnp.argmax(bound & ~alive & ~dead)
        aim = jnp.where(first, y, -side[j] * columns[:, j])
        least = jnp.where(first, 1e2 * eps * size, 1e-12)
        z, r = _with_signs(jnp.where(dead, 0.0, columns), bound & ~alive, side, aim, least)
        left = jnp.linalg.norm(r)
        r = jnp.where(first & ~(left > 1e3 * eps * size), 0.0, r)
        slopes = r @ columns / jnp.where(jnp.any(r != 0), left, 1.0)
        below, chosen = side * slopes < -_DEAD, jnp.arange(len(side)) == j
        stands_off = left > _DEAD
        lives = jnp.where(first, z > 0, alive | ~stands_off & (bound & ~dead & (z > 0) | chosen))
        dies = jnp.where(first, bound & below, dead | stands_off & (bound & ~alive & below | chosen))
        found = _Search(jnp.array(False), r, slopes, left, z, lives, dies)
        return jax.tree.map(lambda new, old: jnp.where(first, new, old), found, state)._replace(alive=lives, dead=dies)

    def unfinished(state: _Search) -> Bool[Array, ""]:
        return state.first | jnp.any(bound & ~state.alive & ~state.dead)

    none, zeros = jnp.zeros(side.shape, bool), jnp.zeros_like(side)
    begin = _Search(jnp.array(True), jnp.zeros_like(y), zeros, jnp.zeros_like(size), zeros, none, none)
    end = jax.lax.while_loop(unfinished, step, begin)
    violation = jnp.max(jnp.where(bound, side * end.slopes, jnp.abs(end.slopes)))
    # What was taken for round-off may be all that keeps a coordinate alive.
    of_round_off = jnp.where(jnp.any(end.dead) & jnp.all(end.r == 0) & (size > 0), end.left / size, 0.0)
    return Nearest(y - end.r, bound & (end.z == 0), end.dead, jnp.maximum(jnp.maximum(violation, 0.0), of_round_off))


def within_reach(
    Z: Float[Array, "n m"], y: Float[Array, " n"], side: Float[Array, " m"], metric: Float[Array, " n"]
) -> tuple[Bool[Array, ""], Nearest]:
    """Whether y is in that cone, and which coordinates are then dead; if not, the nearest point in the `metric`, a
    factor for every row.

    Whether y is in it is asked with orthonormal rows, as which the cone is the same and rows that all but depend on
    each other count like others.
    """
    eps, n = float(jnp.finfo(Z.dtype).eps), len(y)
    U, s, V = jnp.linalg.svd(Z, full_matrices=False)
    kept = s > 10 * n * eps * jnp.max(s)
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1.0), 0.0)
    inner = inverse * (U.T @ y)
    off = jnp.max(jnp.abs(y - U @ (s * inner)))  # outside the range of Z
    in_range = off <= 1e4 * eps * jnp.max(jnp.abs(y))
    V, inner = (
        jnp.pad(v, [(0, n - len(s)), *[(0, 0)] * (v.ndim - 1)]) for v in (jnp.where(kept[:, None], V, 0.0), inner)
    )
    round_off = jnp.max(s) * jnp.max(inverse)

    def look(state: tuple) -> tuple:
        count, *_ = state
        again = count > 0
        aim = jnp.where(again, y * metric, inner)
        found = nearest(jnp.where(again, Z * metric[:, None], V), aim, side, jnp.where(again, 1.0, round_off))
        return count + 1, ~again & in_range & jnp.all(found.outputs == aim), found

    def unfinished(state: tuple) -> Bool[Array, ""]:
        count, reached, _ = state
        return (count == 0) | (count == 1) & ~reached

    none = jnp.zeros(side.shape, bool)
    begin = (0, jnp.array(False), Nearest(y, none, none, jnp.zeros_like(off)))
    return jax.lax.while_loop(unfinished, look, begin)[1:]


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
