"""Directions of largest margin as vertices: min Σ c_j|ρ_j| s.t. Aρ ≥ 1.

With ρ = u − v, u, v ≥ 0, and slacks s = Aρ − 1 ≥ 0 it is a linear program in the columns P = [A, −A, −I]. The dual
simplex method goes from the basis of all slacks, which is optimal but for signs, along exchanges of one column each.
Rows and columns are scaled by powers of two first: a row that is given in another unit has the same path.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .basis import inverse_depending_on
from .digits import difference, exponent_of, ldexp, resolution


class Vertex(NamedTuple):
    """The solution of min Σ c_j|ρ_j| s.t. Aρ ≥ 1.

    - `rho`: shape (m,), with derivatives by A, in a unit of its own; `errors`: a bound on |δρ|.
    - `shares`: λ/Σλ, where Aᵀλ = c_j sign ρ_j on the coordinates that take part.
    - `is_unique`: whether that is shown: all signs and inequalities hold strictly, by more than round-off.
    """

    rho: Float[Array, " m"]
    errors: Float[Array, " m"]
    shares: Float[Array, " n"]
    is_unique: Bool[Array, ""]
    exchanges: Int[Array, ""]


class _Tableau(NamedTuple):
    """B⁻¹P, the basics' values B⁻¹b, the reduced costs c − c_Bᵀ B⁻¹P, and which column is basic in which row."""

    T: Float[Array, "n M"]
    values: Float[Array, " n"]
    costs: Float[Array, " M"]
    basis: Int[Array, " n"]
    exchanges: Int[Array, ""]
    done: Bool[Array, ""]


def vertex(A: Float[Array, "n m"], right: Float[Array, " m"], left: Float[Array, " m"]) -> Vertex:
    """The vertex for costs c_j of `right` where ρ_j > 0 and `left` where ρ_j < 0; ∞ where that is not allowed."""
    n, m = A.shape
    rows = exponent_of(jnp.max(jnp.abs(A), axis=1))
    b = ldexp(jnp.ones(n, A.dtype), jnp.min(rows) - rows)
    A = ldexp(A, -rows[:, None])
    columns = exponent_of(jnp.max(jnp.abs(A), axis=0))
    A = ldexp(A, -columns)
    costs = ldexp(jnp.concatenate([right, left]), -jnp.tile(columns, 2))
    allowed = jnp.append(jnp.isfinite(costs), jnp.ones(n, bool))
    c = jnp.where(allowed, jnp.append(costs, jnp.zeros(n, A.dtype)), 1.0)
    P = jnp.where(allowed, jnp.concatenate([A, -A, -jnp.eye(n, dtype=A.dtype)], axis=1), 0.0)

    end = _dual_simplex(*jax.lax.stop_gradient((P, b, c)))
    B, inverse = P[:, end.basis], -end.T[:, 2 * m :]
    for _ in range(2):
        inverse = inverse + inverse @ difference(jnp.eye(n, dtype=A.dtype), *jax.lax.stop_gradient((B, inverse)))
    trusted = jnp.max(jnp.abs(inverse @ B - jnp.eye(n, dtype=A.dtype))) < 1e-3  # each correction squares it
    inverse = inverse_depending_on(B, inverse)
    values = inverse @ b
    values = values + inverse @ difference(b, B, values)
    multipliers = inverse.T @ c[end.basis]
    multipliers = multipliers + inverse.T @ difference(c[end.basis], B.T, multipliers)

    reach, digits = jnp.abs(inverse), resolution(n, A.dtype)
    errors = digits * (reach @ (jnp.abs(B) @ jnp.abs(values) + b)) + jnp.finfo(A.dtype).eps * jnp.abs(values)
    of_multipliers = digits * (reach.T @ (jnp.abs(B).T @ jnp.abs(multipliers) + c[end.basis]))
    room = c - multipliers @ P
    of_room = of_multipliers @ jnp.abs(P) + 4 * jnp.finfo(A.dtype).eps * (c + jnp.abs(multipliers) @ jnp.abs(P))
    basic = jnp.zeros(len(c), bool).at[end.basis].set(True)
    strict = jnp.all(jnp.where(allowed & ~basic, room > of_room, True)) & jnp.all(values >= -errors)

    def rho_of(values: Array) -> tuple[Array, Array]:
        parts = jnp.zeros_like(c).at[end.basis].set(values)
        return ldexp(parts[:m], -columns), ldexp(parts[m : 2 * m], -columns)

    (u, v), (of_u, of_v) = rho_of(values), rho_of(errors)
    multipliers = ldexp(multipliers, jnp.min(rows) - rows)
    return Vertex(
        rho=u - v,
        errors=jnp.where(trusted, of_u + of_v, jnp.inf),
        shares=multipliers / jnp.sum(multipliers),
        is_unique=end.done & trusted & strict,
        exchanges=end.exchanges,
    )


def _dual_simplex(P: Float[Array, "n M"], b: Float[Array, " n"], c: Float[Array, " M"]) -> _Tableau:
    """From the basis of all slacks to the optimal one; not `done` where there is none."""
    n, M = P.shape
    eps = float(jnp.finfo(P.dtype).eps)

    def leaving(at: _Tableau) -> tuple[Array, Array]:
        """The row whose basic is the most negative, by the size of the row; and whether it is, beyond round-off."""
        inverse = at.T[:, M - n :]
        noise = _ROUND_OFF * n * eps * (jnp.abs(inverse) @ b)
        below = jnp.where(at.values < -noise, at.values / jnp.max(jnp.abs(at.T), axis=1), 0.0)
        row = jnp.argmin(below)
        return row, below[row] < 0

    def exchange(at: _Tableau) -> _Tableau:
        row, _ = leaving(at)
        entries = at.T[row]
        may = entries < -_ROUND_OFF * n * eps * jnp.max(jnp.abs(entries))
        ratios = jnp.where(may, at.costs / jnp.where(may, -entries, 1.0), jnp.inf)
        tied = may & (ratios <= jnp.min(ratios) * (1 + _ROUND_OFF * eps))
        column = jnp.argmin(jnp.where(tied, entries, 0.0))  # the largest pivot
        pivot_row, along = entries / entries[column], at.T[:, column]
        value, cost = at.values[row] / entries[column], at.costs[column]
        new = _Tableau(
            T=(at.T - along[:, None] * pivot_row).at[row].set(pivot_row),
            values=(at.values - along * value).at[row].set(value),
            costs=jnp.maximum(at.costs - cost * pivot_row, 0.0),
            basis=at.basis.at[row].set(column),
            exchanges=at.exchanges + 1,
            done=at.done,
        )
        new = new._replace(done=~leaving(new)[1])
        stop = at._replace(exchanges=jnp.full_like(at.exchanges, most))  # no column can enter: not separable
        return jax.tree.map(lambda v, w: jnp.where(jnp.any(may), v, w), new, stop)

    most = 20 * M
    slacks = _Tableau(-P, -b, c, M - n + jnp.arange(n), jnp.array(0), jnp.array(False))
    return jax.lax.while_loop(lambda at: ~at.done & (at.exchanges < most), exchange, slacks)


_ROUND_OFF = 1e3  # units of it, for each row, that are nothing: exchanges let it grow
