"""A basis of columns that makes equations with weights of any size well-conditioned.

Newton's matrix is Z D Zᵀ with D = dρ/dζ, whose entries differ by a hundred decades and more: the matrix itself, written
out, holds nothing of its smaller entries. In the basis B of the n columns with the largest weights w = √D it does.
With A = Z_B⁻¹Z (a change of rows, under which the equations do not change) and M_ij = A_ij w_j / w_i the matrix is
Z_B W_B (M Mᵀ) W_B Z_Bᵀ, where M holds the identity and its other entries are bounded: M Mᵀ is as good as it gets,
whatever the weights. Basics are determined by the data, Zρ = y, and the others by the potential.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from .digits import difference

LARGEST_RATIO = 10.0  # of the entries of M that is let be: pivots are dear, and M Mᵀ still has a condition below 1e4 m


class Basis(NamedTuple):
    """A = Z_B⁻¹Z, Z_B⁻¹, and the columns B. A row that depends on the others has no column: −1."""

    A: Float[Array, "n m"]
    inverse: Float[Array, "n n"]
    columns: Int[Array, " n"]

    @property
    def active(self) -> Bool[Array, " n"]:
        """Which rows have a column."""
        return self.columns >= 0

    @property
    def basic(self) -> Bool[Array, " m"]:
        """Which columns are in the basis."""
        return self.at_columns(jnp.zeros(self.A.shape[1], bool), jnp.ones(len(self.A), bool))

    def of_rows(self, v: Float[Array, "*k m"], otherwise: float) -> Float[Array, "*k n"]:
        """The entries of v that belong to the rows' columns."""
        return jnp.where(self.active, v[..., self.columns], otherwise)

    def at_columns(self, v: Shaped[Array, "*k m"], rows: Shaped[Array, "*k n"]) -> Shaped[Array, "*k m"]:
        """v with its entries at the rows' columns replaced."""
        n, m = self.A.shape
        places = jnp.where(self.active, self.columns, m + jnp.arange(n))  # beyond the end for rows without a column
        padded = jnp.concatenate([v, jnp.zeros((*v.shape[:-1], n), v.dtype)], axis=-1)
        return padded.at[..., places].set(rows, unique_indices=True)[..., :m]

    def ratios(self, w: Float[Array, " m"]) -> Float[Array, "n m"]:
        """M_ij = A_ij w_j / w_i; 0 in rows without a column."""
        return jnp.where(self.active[:, None], self.A * (w / self.of_rows(w, 1.0)[:, None]), 0.0)


def start(Z: Float[Array, "n m"]) -> Basis:
    """No basis yet."""
    n = len(Z)
    return Basis(Z, jnp.eye(n, dtype=Z.dtype), jnp.full(n, -1))


def improved(basis: Basis, w: Float[Array, " m"], largest: float = LARGEST_RATIO) -> Basis:
    """The basis after exchanges of one column each, while an entry of M is larger than `largest`.

    Every exchange makes |det Z_B| Π_B w larger by that factor, so they end. Rows without a column come first.
    """
    n, m = basis.A.shape
    # Rows of Z have entries of size 1 at most: what is smaller than this in a row without a column is round-off.
    round_off = 10 * m * jnp.finfo(w.dtype).eps

    def best(basis: Basis) -> tuple[Array, Array, Array]:
        """The largest entry of M, its row and its column; first, with ∞ for the entry, of rows without a column."""
        felt = jnp.where(jnp.abs(basis.A) > round_off, jnp.abs(basis.A), 0.0) * w
        rows = jnp.max(felt, axis=1)
        free = jnp.where(basis.active, 0.0, rows)
        gains = jnp.where(jnp.any(free > 0), free, jnp.where(basis.active, rows / basis.of_rows(w, 1.0), 0.0))
        i = jnp.argmax(gains)
        return jnp.where(jnp.any(free > 0), jnp.inf, gains[i]), i, jnp.argmax(felt[i])

    def exchange(state: tuple) -> tuple:
        basis, (_, i, j), count = state
        column = basis.A[:, j]

        def pivot(V: Array) -> Array:
            row = V[i] / column[i]
            return (V - column[:, None] * row).at[i].set(row)

        unit = (jnp.arange(n) == i).astype(column.dtype)
        new = Basis(pivot(basis.A).at[:, j].set(unit), pivot(basis.inverse), basis.columns.at[i].set(j))
        return new, best(new), count + 1

    def unfinished(state: tuple) -> Bool[Array, ""]:
        _, (gain, *_), count = state
        return (gain > largest) & (count < 20 * n)

    return jax.lax.while_loop(unfinished, exchange, (basis, best(basis), 0))[0]


def renewed(basis: Basis, Z: Float[Array, "n m"]) -> Basis:
    """The same basis with A and Z_B⁻¹ computed anew, free of what exchanges and a large condition number have left."""
    B = columns_of(basis, Z)
    inverse = jnp.linalg.inv(B)
    A = inverse @ Z
    for _ in range(2):
        A = A + inverse @ difference(Z, B, A)
    A = basis.at_columns(A, jnp.eye(len(Z), dtype=Z.dtype))  # where round-off would be felt in rows with a small w
    return basis._replace(A=jnp.where(basis.active[:, None], A, 0.0), inverse=inverse)


def columns_of(basis: Basis, Z: Float[Array, "n m"]) -> Float[Array, "n n"]:
    """Z_B; a unit column in the place of a row that depends on the others."""
    return jnp.where(basis.active, Z[:, basis.columns], jnp.eye(len(Z), dtype=Z.dtype))


def depending_on(Z: Float[Array, "n m"], basis: Basis) -> Basis:
    """The basis as it is, with its derivatives by Z."""
    inverse = inverse_depending_on(columns_of(basis, Z), basis.inverse)
    A = basis.A + inverse @ Z - jax.lax.stop_gradient(inverse @ Z)
    return basis._replace(A=A, inverse=inverse)


@jax.custom_jvp
def inverse_depending_on(B: Float[Array, "n n"], inverse: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """B⁻¹, which is known, with its derivatives by B."""
    return inverse


@inverse_depending_on.defjvp
def _inverse_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    inverse = inverse_depending_on(*primals)
    return inverse, -inverse @ tangents[0] @ inverse
