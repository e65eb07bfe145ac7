"""The nearest outputs where the rows of Z depend on each other, as for more points than coordinates or duplicated ones.

With the columns B of a basis Z is BA, and outputs Zρ are nearest to y where Aρ = c, the least-squares solution of
Bc = y: as many equations as the rank, whose sizes need have nothing to do with each other. In the outputs themselves,
BAρ = Bc, round-off of what large columns do is more than all that small ones do.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from . import basis as bases
from .basis import Basis
from .digits import difference, exponent_of, ldexp, resolution

ROUND_OFF = 4.0  # units of round-off that a sum of products is allowed, relative to the sum of their sizes
_CORRECTIONS = 3  # of the least-squares solution: each makes its error smaller by ε cond B


class Equations(NamedTuple):
    """Zρ = target with a basis of Z's columns. `outputs` are what they say in y's own rows, and ν `back` is their ν.

    Round-off in them is bounded by `noise`, and `relative` to |Z||ρ| besides.
    """

    Z: Float[Array, "n m"]
    target: Float[Array, " n"]
    basis: Basis
    outputs: Float[Array, " n"]
    back: Float[Array, "n n"]
    noise: Float[Array, " n"]
    relative: Scalar


def as_they_are(basis: Basis, Z: Array, y: Array) -> Equations:
    """Zρ = y, whose rows are independent."""
    nothing = jnp.zeros_like(y)
    return Equations(Z, y, basis, y, jnp.eye(len(y), dtype=Z.dtype), nothing, nothing[0])


def nearest(basis: Basis, metric: Array, Z: Array, y: Array) -> Equations:
    """Aρ = c: the outputs are the nearest to y in the `metric`, a factor for every row."""
    n, m = Z.shape
    eps = ROUND_OFF * float(jnp.finfo(Z.dtype).eps)
    unit = jnp.eye(n, dtype=Z.dtype)
    B = jnp.where(basis.active, Z[:, basis.columns], 0.0)
    columns = exponent_of(jnp.max(jnp.abs(B), axis=0))
    B = ldexp(B, -columns)
    inverse, complete = _pseudoinverse(basis, metric, B)
    data = jnp.concatenate([Z, y[:, None]], axis=1)
    solved = correction = inverse @ data
    for _ in range(_CORRECTIONS):
        correction = inverse @ difference(data, B, solved)
        solved = solved + correction
    off = jnp.max(jnp.abs(B), axis=1) * jnp.max(jnp.abs(solved[:, m])) + jnp.abs(y)
    noise = eps * jnp.abs(solved[:, m]) + jnp.abs(correction[:, m])
    noise = noise + jnp.abs(inverse) @ (resolution(n, Z.dtype) * off)
    A = basis.at_columns(ldexp(solved[:, :m], -columns[:, None]), unit)
    return Equations(
        Z=jnp.where(basis.active[:, None], A, 0.0),
        target=ldexp(solved[:, m], -columns),
        basis=Basis(jnp.where(basis.active[:, None], A, 0.0), unit, basis.columns),
        outputs=B @ solved[:, m],
        back=ldexp(inverse, -columns[:, None]),
        noise=jnp.where(complete, ldexp(noise, -columns), jnp.inf),
        relative=jnp.full((), eps, Z.dtype),
    )


def _pseudoinverse(basis: Basis, metric: Array, B: Array) -> tuple[Array, Array]:
    """That of B, whose other columns are 0, in the metric; and whether B has rows for all its columns.

    As many rows R as B has columns are chosen such that the others are small combinations of them, in the metric: then
    the normal equations for what these rows are, (I + EᵀE) B_R c = B_R-part, are as good as they get, whatever the
    sizes of rows and columns.
    """
    metric = jnp.maximum(metric, jnp.finfo(metric.dtype).tiny)
    rows = bases.improved(bases.start(B.T), metric, 2.0)
    inverse = bases.inverse_depending_on(bases.columns_of(rows, B.T), rows.inverse).T
    chosen = rows.of_rows(metric, 1.0)
    F = jnp.where(basis.active, metric[:, None] * (B @ inverse) / chosen, 0.0)
    gram = F.T @ F + jnp.diag(jnp.where(basis.active, 0.0, 1.0)).astype(B.dtype)
    found = inverse @ (jnp.linalg.inv(gram) @ F.T * metric / chosen[:, None])
    return found, jnp.all(rows.active == basis.active)
