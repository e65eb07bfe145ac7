"""The architectures. A network is a pytree whose `weights` are the state of the flow.

Imports nothing of gflow.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, Scalar, Shaped

from ._checks import as_float, is_concrete, shapes, to_float

# Below this many multiplications per layer, a circular convolution is one small matrix product;
# above, XLA's FFT is faster (measured in benchmarks/convolution.py).
_DIRECT_CONVOLUTION = 2048


class Network(eqx.Module):
    """A network: weights in, outputs f(x; Θ) out.

    A network is frozen and is a pytree, so `jax.jit`, `jax.vmap` and `jax.grad` take it whole; state,
    initialisation and limit of a flow are all of this type. The flow needs no more than this class.
    """

    weights: eqx.AbstractVar[tuple[Array, ...]]

    @abc.abstractmethod
    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The outputs f(x_i; Θ) for the rows x_i of X."""


class LinearTensorNetwork(Network):
    """A network with f(x; Θ) = xᵀβ(Θ) = M(x)∘(v_1, …, v_L), linear in x and in each of its weights.

    The theorems of Yun et al. 2021 (section 3, eq. 6) are about these.
    """

    @abc.abstractmethod
    def coefficients(self) -> Float[Array, " d"]:
        """The linear coefficients β(Θ), with f(x; Θ) = xᵀβ(Θ)."""

    def __call__(self, X: Float[ArrayLike, "n d"]) -> Float[Array, " n"]:
        """The outputs f(x_i; Θ) for the rows x_i of X."""
        return jnp.asarray(X) @ self.coefficients()

    @property
    def depth(self) -> int:
        """The number of layers L, which is the degree of f in Θ."""
        return len(self.weights)

    def data_tensor(self, x: Float[Array, " d"]) -> Float[Array, "..."]:
        """The data tensor M(x) = ∂ᴸ(xᵀβ) / ∂v_1 … ∂v_L, with f(x; Θ) = M(x)∘(v_1, …, v_L).

        Matrix weights count as vectors in row-major order, so the shape is
        (weights[0].size, …, weights[L−1].size). Yun et al. 2021, section 3.
        """

        def output(*weights: Array) -> Scalar:
            return x @ with_weights(self, weights).coefficients()

        derivative: Callable = output
        for layer in range(self.depth):
            derivative = jax.jacfwd(derivative, argnums=layer)
        return derivative(*self.weights).reshape([v.size for v in self.weights])


NetworkT = TypeVar("NetworkT", bound=Network)


def with_weights(network: NetworkT, weights: tuple[Array, ...]) -> NetworkT:
    """The same architecture with other weights of the same shapes."""
    return eqx.tree_at(lambda n: n.weights, network, tuple(weights))


def scale(network: NetworkT, alpha: Shaped[ArrayLike, ""]) -> NetworkT:
    """The initialisation v_l(0) = α v̄_l from initial directions v̄_l.

    `alpha` multiplies every weight, so the coefficients are multiplied by α^L.

    ```python
    start = gflow.scale(gflow.Diagonal(([1.0, 0.5], [0.3, -0.2])), 0.01)
    ```
    """
    return with_weights(network, tuple(jnp.asarray(alpha, v.dtype) * v for v in network.weights))


class Diagonal(LinearTensorNetwork):
    """The diagonal network β = v_1 ⊙ … ⊙ v_L (Yun et al. 2021, eq. 3 and 11).

    `weights`: L ≥ 1 vectors of length d.
    """

    weights: tuple[Float[Array, " d"], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        if any(v.ndim != 1 or v.shape != self.weights[0].shape for v in self.weights):
            raise ValueError(
                f"Diagonal needs vectors of one length; got shapes {shapes(self.weights)}. "
                "Pass a tuple (v_1, …, v_L) of arrays of shape (d,)."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return math.prod(self.weights[1:], start=self.weights[0])


class Convolutional(LinearTensorNetwork):
    """The circular convolutional network β = w_1 * … * w_L (Yun et al. 2021, eq. 4 and 12).

    `weights`: filters of lengths k_l ≤ d, the last of length d; `*` is circular convolution in R^d of
    the filters padded with zeros. The layers compute [h ⋆ w]_i = Σ_j h[(i+j) mod d] w[j] on the input,
    which composes to this β.
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        d = self.weights[-1].size
        if any(w.ndim != 1 or not 1 <= w.size <= d for w in self.weights):
            raise ValueError(
                "Convolutional needs filters (vectors) no longer than the last one, whose length is d; "
                f"got shapes {shapes(self.weights)}. Make the last filter as long as an input."
            )

    def coefficients(self) -> Float[Array, " d"]:
        *filters, beta = self.weights
        for w in reversed(filters):
            beta = _circular_convolution(w, beta)
        return beta


def _circular_convolution(w: Float[Array, " k"], v: Float[Array, " d"]) -> Float[Array, " d"]:
    (k,), (d,) = w.shape, v.shape
    if k * d <= _DIRECT_CONVOLUTION:
        shifts = (jnp.arange(d)[:, None] - jnp.arange(k)) % d
        return v[shifts] @ w
    return jnp.fft.irfft(jnp.fft.rfft(w, d) * jnp.fft.rfft(v), d)


class FullyConnected(LinearTensorNetwork):
    """The fully-connected network β = W_1 W_2 ⋯ W_{L−1} w_L (Yun et al. 2021, eq. 5 and 10).

    `weights`: matrices W_l of shape (d_l, d_{l+1}), d_1 = d, and a last vector w_L of length d_L.
    """

    weights: tuple[Float[Array, "..."], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        *matrices, last = self.weights
        chained = all(W.ndim == 2 and W.shape[1] == V.shape[0] for W, V in zip(matrices, self.weights[1:], strict=True))
        if last.ndim != 1 or not chained:
            raise ValueError(
                "FullyConnected needs matrices of shapes (d_l, d_{l+1}) that chain and a last vector; "
                f"got shapes {shapes(self.weights)}. For two layers pass (W_1 of shape (d, k), w_2 of shape (k,))."
            )

    def coefficients(self) -> Float[Array, " d"]:
        *matrices, beta = self.weights
        for W in reversed(matrices):
            beta = W @ beta
        return beta


class MatrixProduct(LinearTensorNetwork):
    """Deep matrix sensing, β = vec(W_1 W_2 ⋯ W_L) (Yun et al. 2021, eq. 13).

    `weights`: matrices W_l of shapes (d_l, d_{l+1}). An input is a sensor matrix A of shape
    (d_1, d_{L+1}), flattened row by row: f = ⟨A, W_1 ⋯ W_L⟩, X = A.reshape(n, -1).

    ```python
    network = gflow.MatrixProduct((jnp.eye(3), jnp.zeros((3, 3))))
    problem = gflow.Regression(X=sensors.reshape(len(sensors), -1), y=y)
    product = network.coefficients().reshape(3, 3)
    ```
    """

    weights: tuple[Float[Array, "_a _b"], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        matrices = all(W.ndim == 2 for W in self.weights)
        if not matrices or any(W.shape[1] != V.shape[0] for W, V in pairwise(self.weights)):
            raise ValueError(
                "MatrixProduct needs matrices of shapes (d_l, d_{l+1}) that chain; "
                f"got shapes {shapes(self.weights)}. For a last vector use FullyConnected."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return functools.reduce(jnp.matmul, self.weights).ravel()


class Orthogonal(LinearTensorNetwork):
    """An orthogonally decomposable network (Yun et al. 2021, Assumption 1).

    M(x) = Σ_j [Sx]_j U_1[:, j] ⊗ … ⊗ U_L[:, j], so β = Sᵀρ with ρ = ⊙_l U_lᵀv_l.

    - `weights`: real vectors v_l of lengths k_l.
    - `S`: real or complex, shape (m, d), of full column rank.
    - `U`: real or complex matrices U_l of shapes (k_l, m) with orthonormal columns, U_lᴴU_l = I.

    **Raises** ValueError for wrong shapes and, where values can be seen, for an S without full column
    rank, columns that are not orthonormal and a complex M(x).

    ```python
    network = gflow.Orthogonal((v_1, v_2), S=S, U=(jnp.eye(5), jnp.eye(5)))
    ```
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_float)
    S: Inexact[Array, "m d"] = eqx.field(converter=to_float)
    U: tuple[Inexact[Array, "_k m"], ...] = eqx.field(converter=as_float)

    def __check_init__(self) -> None:
        if self.S.ndim != 2 or [u.shape for u in self.U] != [(v.size, self.S.shape[0]) for v in self.weights]:
            raise ValueError(
                "Orthogonal needs S of shape (m, d) and for every weight v_l of shape (k_l,) a U_l of shape (k_l, m); "
                f"got S {self.S.shape}, U {shapes(self.U)} and weights {shapes(self.weights)}."
            )
        if all(map(is_concrete, (self.S, *self.U))):
            _check_assumption_1(self)

    def coefficients(self) -> Float[Array, " d"]:
        return self._complex_coefficients().real

    def _complex_coefficients(self) -> Inexact[Array, " d"]:
        return self.S.T @ math.prod(u.T @ v for u, v in zip(self.U, self.weights, strict=True))


def _check_assumption_1(network: Orthogonal) -> None:
    S = np.asarray(network.S)
    eps = float(np.finfo(S.dtype).eps)
    singular = np.linalg.svd(S, compute_uv=False)
    if S.shape[0] < S.shape[1] or singular[-1] <= len(S) * eps * singular[0]:
        raise ValueError(
            f"S must have full column rank; it has shape {S.shape} and singular values from {singular[0]:.3g} down to "
            f"{singular[-1]:.3g}. Coefficients outside the row space of S cannot be expressed."
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
        beta = with_weights(network, weights)._complex_coefficients()
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
    network = gflow.sparsifying(T, (jnp.ones(d), jnp.zeros(d)))
    ```
    """
    T, weights = to_float(T), as_float(weights)
    if T.ndim != 2 or T.shape[0] != T.shape[1] or jnp.iscomplexobj(T):
        raise ValueError(
            f"T must be a real square matrix; got shape {T.shape} and dtype {T.dtype}. For sparsity in an overcomplete "
            "dictionary D, β = Dρ, build Orthogonal with S = D.T; for the Fourier transform use Convolutional."
        )
    identity = jnp.eye(len(T), dtype=T.dtype)
    return Orthogonal(weights, S=jnp.linalg.inv(T).T, U=(identity,) * len(weights))


class Multilinear(LinearTensorNetwork):
    """Any other linear tensor network, given by its tensor: β_i = B[i]∘(v_1, …, v_L).

    - `weights`: vectors v_l of lengths k_l.
    - `tensor`: B of shape (d, k_1, …, k_L). The data tensor is M(x) = Σ_i x_i B[i].

    ```python
    network = gflow.Multilinear((v_1, v_2), tensor=B)
    ```
    """

    weights: tuple[Float[Array, " _k"], ...] = eqx.field(converter=as_float)
    tensor: Float[Array, "d ..."] = eqx.field(converter=to_float)

    def __check_init__(self) -> None:
        if self.tensor.shape[1:] != tuple(v.size for v in self.weights) or any(v.ndim != 1 for v in self.weights):
            raise ValueError(
                "Multilinear needs vectors v_l of lengths k_l and a tensor of shape (d, k_1, …, k_L); "
                f"got weights {shapes(self.weights)} and tensor {self.tensor.shape}."
            )

    def coefficients(self) -> Float[Array, " d"]:
        return functools.reduce(jnp.matmul, reversed(self.weights), self.tensor)


class DifferenceOfPowers(Network):
    """The tied network f = xᵀ(w_+^{⊙L} − w_−^{⊙L}) of Woodworth et al. 2020.

    `weights`: the two vectors (w_+, w_−) of length d; `depth`: L ≥ 1. It is linear in x and homogeneous
    of degree L, but not multilinear in its weights: it has coefficients, but no data tensor.

    ```python
    network = gflow.DifferenceOfPowers((jnp.ones(5), jnp.ones(5)), depth=2)
    ```
    """

    weights: tuple[Float[Array, " d"], ...] = eqx.field(converter=as_float)
    depth: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if len(self.weights) != 2 or self.weights[0].ndim != 1 or self.weights[0].shape != self.weights[1].shape:
            raise ValueError(
                f"DifferenceOfPowers needs two vectors (w_+, w_-) of one length; got shapes {shapes(self.weights)}."
            )
        if not isinstance(self.depth, int) or self.depth < 1:
            raise ValueError(f"depth must be an integer of at least 1; got {self.depth!r}.")

    def coefficients(self) -> Float[Array, " d"]:
        """The linear coefficients w_+^{⊙L} − w_−^{⊙L}."""
        positive, negative = self.weights
        return positive**self.depth - negative**self.depth

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, " n"]:
        return X @ self.coefficients()
