"""Exact reductions: where gradients span fewer directions than the weights have."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def row_basis(rows: Float[Array, "n d"]) -> Float[Array, "d n"] | None:
    """An orthonormal basis whose span holds the rows, each to round-off of its own size; None unless n < d.

    It is the Q of a QR decomposition of the rows, each brought to unit size. No rank is decided: where rows depend on
    each other the span is larger than need be. Derivatives by the rows exist where they are independent, and are NaN
    elsewhere, where no basis of n columns follows them.

    ```python
    Q = gflow.row_basis(problem.X)
    assert Q.shape == (2, 1) and jnp.allclose(problem.X @ Q @ Q.T, problem.X)
    ```
    """
    n, d = rows.shape
    return _orthonormal(rows) if n < d else None


@jax.custom_jvp
def _orthonormal(rows: Float[Array, "n d"]) -> Float[Array, "d n"]:
    return _decomposed(rows)[0]


@_orthonormal.defjvp
def _orthonormal_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """dQ = (I − QQᵀ) dA R⁻¹ where A = QR: of all motions of a basis the one without rotation inside the span."""
    (rows,), (change,) = primals, tangents
    Q, R, size = _decomposed(rows)
    change = (change / size).T
    # A diagonal entry of R is the sine of the angle between a row and those before it: below this it is round-off.
    dependent = jnp.min(jnp.abs(jnp.diagonal(R))) < 100 * len(rows) * jnp.finfo(rows.dtype).eps
    R = jnp.where(dependent, jnp.nan, R)
    moved = change - Q @ (Q.T @ change)
    return Q, jax.scipy.linalg.solve_triangular(R, moved.T, trans=1).T


def _decomposed(rows: Float[Array, "n d"]) -> tuple[Float[Array, "d n"], Float[Array, "n n"], Float[Array, "n 1"]]:
    size = jnp.max(jnp.abs(rows), axis=1, keepdims=True)  # first, lest squares of tiny rows underflow
    size = jnp.where(size > 0, size, 1.0)
    size = size * jnp.linalg.norm(rows / size, axis=1, keepdims=True)
    size = jax.lax.stop_gradient(jnp.where(size > 0, size, 1.0))
    Q, R = jnp.linalg.qr((rows / size).T)
    return Q, R, size


def narrowed_chain(
    matrices: tuple[Float[Array, "_a _b"], ...],
) -> tuple[tuple[Array, ...], tuple[tuple[Array | None, Array | None], ...]] | None:
    """A chain W_1, …, W_L with fewer hidden units that flows as the given one does, and the bases of each matrix.

    None where there is none. With G the gradient by W_l W_{l+1}, Ẇ_l = −G W_{l+1}ᵀ and Ẇ_{l+1} = −W_lᵀ G: the rows of
    W_l and the columns of W_{l+1} stay in the space V that they span together at the start. So k hidden units between a
    and b others are a + b where k > a + b: those of W_l V and Vᵀ W_{l+1}.
    """
    chain = list(matrices)
    bases: list[Array | None] = [None] * (len(matrices) + 1)
    for l in range(len(chain) - 1):  # noqa: E741 (the mathematics' own)
        V = row_basis(jnp.concatenate([chain[l], chain[l + 1].T]))
        if V is not None:
            chain[l], chain[l + 1], bases[l + 1] = chain[l] @ V, V.T @ chain[l + 1], V
    if all(V is None for V in bases):
        return None
    return tuple(chain), tuple(pairwise(bases))
