"""Networks of Assumption 1, given by their decomposition."""

import math
from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, Shaped

from .._checks import as_tuple, as_weights, is_concrete, shapes, to_inexact
from .network import LinearTensorNetwork, Modes, with_weights


class Orthogonal(LinearTensorNetwork):
    """An orthogonally decomposable network (Yun et al. 2021, Assumption 1).

    M(x) = Σ_j [Sx]_j U_1[:, j] ⊗ … ⊗ U_L[:, j], so β = Sᵀρ with ρ = ⊙_l U_lᵀv_l.

    - `weights`: real vectors v_l of lengths k_l.
    - `S`: real or complex, shape (m, d), of full rank: with m ≥ d as Assumption 1 has it, or with m < d, where only
      coefficients in the row space of S can be expressed (`gflow.orthogonal_form` makes such networks).
    - `U`: real or complex matrices U_l of shapes (k_l, m) with orthonormal columns, U_lᴴU_l = I.

    **Raises** ValueError for wrong shapes and, where values can be seen, for an S without full
    rank, columns that are not orthonormal and a complex M(x).

    ```python
    S = jnp.array([[1.0, 1.0], [0.0, 2.0]])
    network = gflow.Orthogonal((jnp.ones(2), jnp.ones(2)), S=S, U=(jnp.eye(2), jnp.eye(2)))
    assert jnp.allclose(network.coefficients(), S.T @ jnp.ones(2))
    ```
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_weights)
    S: Inexact[Array, "m d"] = eqx.field(converter=to_inexact)
    U: tuple[Inexact[Array, "_k m"], ...] = eqx.field(converter=as_tuple)

    def __check_init__(self) -> None:
        if self.S.ndim != 2 or [u.shape for u in self.U] != [(v.size, self.S.shape[0]) for v in self.weights]:
            raise ValueError(
                "Orthogonal needs S of shape (m, d) and for every weight v_l of shape (k_l,) a U_l of shape (k_l, m); "
                f"got S {self.S.shape}, U {shapes(self.U)} and weights {shapes(self.weights)}."
            )
        if all(map(is_concrete, (self.S, *self.U))):
            _check_assumption_1(self)

    def coefficients(self) -> Float[Array, " d"]:
        return _complex_coefficients(self).real

    def modes(self) -> Modes:
        return Modes(self.S, tuple(u.T @ v for u, v in zip(self.U, self.weights, strict=True)))


def _complex_coefficients(network: Orthogonal) -> Inexact[Array, " d"]:
    return network.S.T @ math.prod(u.T @ v for u, v in zip(network.U, network.weights, strict=True))


def _check_assumption_1(network: Orthogonal) -> None:
    S = np.asarray(network.S)
    eps = float(np.finfo(S.dtype).eps)
    singular = np.linalg.svd(S, compute_uv=False)
    if singular[-1] <= len(S) * eps * singular[0]:
        raise ValueError(
            f"S must have full rank; it has shape {S.shape} and singular values from {singular[0]:.3g} down to "
            f"{singular[-1]:.3g}. Drop rows that are combinations of others."
        )
    for layer, u in enumerate(map(np.asarray, network.U)):
        error = float(np.abs(u.conj().T @ u - np.eye(u.shape[1])).max())
        if error > 100 * len(u) * eps:
            raise ValueError(
                f"U[{layer}] must have orthonormal columns; the largest entry of |U^H U - I| is {error:.1e}. "
                "Orthonormalise it, for instance Q of jnp.linalg.qr, and move the scales into S."
            )
    # β is a polynomial in the weights: it is real for all of them if it is real for generic ones.
    rng = np.random.default_rng(0)
    generic = [jnp.asarray(rng.normal(size=(3, v.size)), v.dtype) for v in network.weights]
    for weights in zip(*generic, strict=True):
        beta = _complex_coefficients(with_weights(network, weights))
        error = float(jnp.linalg.norm(beta.imag) / jnp.linalg.norm(beta))
        if error > 1e4 * eps:
            raise ValueError(
                f"S and U give a data tensor M(x) that is not real: coefficients at random weights have an imaginary "
                f"part of relative size {error:.1e}. Complex columns of U must come in conjugate pairs, with "
                "conjugate rows of S."
            )


def sparsifying(T: Shaped[ArrayLike, "_d _d"], weights: Iterable[Shaped[ArrayLike, " d"]]) -> Orthogonal:
    """The network whose implicit bias is sparsity under the transform T: the limit β has a sparse Tβ.

    By Theorems 2 and 5 the Assumption 1 network with U_l = I is biased to a small norm of S^{−ᵀ}β; so
    S = T^{−ᵀ}, which is T itself for an orthogonal T. `T` is real and invertible, shape (d, d).

    Yun et al. 2021, remark 3 (which says S = T: right for orthogonal T).

    ```python
    T = jnp.array([[1.0, 0.0], [-1.0, 1.0]])  # differences: β is to have few steps
    network = gflow.sparsifying(T, (jnp.ones(2), jnp.zeros(2)))
    ```
    """
    T, weights = to_inexact(T), as_weights(weights)
    if T.ndim != 2 or T.shape[0] != T.shape[1] or jnp.iscomplexobj(T):
        raise ValueError(
            f"T must be a real square matrix; got shape {T.shape} and dtype {T.dtype}. For sparsity in an overcomplete "
            "dictionary D, β = Dρ, build Orthogonal with S = D.T; for the Fourier transform use Convolutional."
        )
    identity = jnp.eye(len(T), dtype=T.dtype)
    return Orthogonal(weights, S=jnp.linalg.inv(T).T, U=(identity,) * len(weights))
