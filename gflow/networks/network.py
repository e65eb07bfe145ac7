"""What a network is: weights in, outputs out, and what its author knows of its structure."""

import abc
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, Scalar, Shaped

from .._checks import all_concrete, to_float


class Modes(NamedTuple):
    """A network in the basis where its coordinates decouple: β = Sᵀρ with ρ = ⊙_l η_l and η_l = U_lᵀv_l.

    - `S`: shape (m, d), real or complex; a vector (m,) for diag(S), None for the identity.
    - `eta`: one vector of length m a layer, linear in that layer's weights. The U_l themselves must have orthonormal
      columns; they need not be given.
    - `copies`: how many layers share each weight; its η then moves so many times as fast.

    Yun et al. 2021, Assumption 1.

    ```python
    modes = network.modes()
    assert jnp.allclose(modes.coefficients(modes.rho()), network.coefficients())
    ```
    """

    S: Inexact[Array, "m d"] | Inexact[Array, " m"] | None
    eta: tuple[Inexact[Array, " m"], ...]
    copies: int = 1

    def rho(self) -> Inexact[Array, " m"]:
        """ρ = ⊙_l η_l."""
        return jnp.prod(jnp.stack(self.eta), axis=0)

    def inputs(self, X: Float[Array, "n d"]) -> Inexact[Array, "n m"]:
        """Z = X Sᵀ, with outputs Xβ = Zρ."""
        return X if self.S is None else X * self.S if self.S.ndim == 1 else X @ self.S.T

    def coefficients(self, rho: Inexact[Array, " m"]) -> Inexact[Array, " d"]:
        """β = Sᵀρ."""
        return rho if self.S is None else self.S * rho if self.S.ndim == 1 else self.S.T @ rho

    def bound(self, errors: Float[Array, " m"]) -> Float[Array, " d"]:
        """A bound on |δβ| where |δρ| is at most `errors`."""
        return self._replace(S=None if self.S is None else jnp.abs(self.S)).coefficients(errors)

    def matrix(self) -> Inexact[Array, "m d"]:
        """S written out."""
        if self.S is None:
            return jnp.eye(self.eta[0].size, dtype=self.eta[0].dtype)
        return jnp.diag(self.S) if self.S.ndim == 1 else self.S

    @property
    def is_real(self) -> bool:
        """Whether S and all η_l are real by type: then the flow decouples whatever the data."""
        return not any(jnp.iscomplexobj(v) for v in (self.S, *self.eta) if v is not None)


class Network(eqx.Module):
    """A network: weights in, outputs f(x; Θ) out.

    A network is frozen and is a pytree, so `jax.jit`, `jax.vmap` and `jax.grad` take it whole; state,
    initialisation and limit of a flow are all of this type.

    To add one, subclass this class, `LinearNetwork` or `LinearTensorNetwork`: give `weights` and the abstract
    method. That serves flow, limit and descent. What more you know of its structure is a method with a default:
    `modes` (then it takes the dual route and Theorems 2 and 5 apply), `layers` (Theorem 7, Corollary 1), and `reduced`
    and `narrowed` (then a smaller network is integrated in its place).
    A network that can be built is final: to subclass one raises TypeError, since what gflow knows
    of its structure would no longer be true.

    ```python
    class ResidualLinear(gflow.LinearNetwork):
        weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

        def coefficients(self):
            *matrices, beta = self.weights
            for W in reversed(matrices):
                beta = beta + W @ beta
            return beta
    ```
    """

    weights: eqx.AbstractVar[tuple[Array, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__bases__:
            if issubclass(base, Network) and base.__module__ != cls.__module__ and not inspect.isabstract(base):
                raise TypeError(
                    f"{base.__name__} is final: gflow knows the structure of what it computes, and {cls.__name__} may "
                    "compute something else. Subclass gflow.LinearTensorNetwork, gflow.LinearNetwork or gflow.Network "
                    f"and write its methods; wrap a {base.__name__} in a field if you need one."
                )

    @abc.abstractmethod
    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        """The outputs f(x_i; Θ) for the rows x_i of X, one or several for each."""

    def modes(self) -> Modes | None:
        """The basis in which the coordinates decouple for all data (Assumption 1), real or complex; None if unknown."""
        return None

    def modes_on(self, X: Float[Array, "n d"]) -> Modes | None:
        """Modes of two layers that hold on the inputs X: Xβ = XSᵀρ. What β has besides must be linear in the second
        layer, by a map no larger than the weights that no U_l has. By default those of all data; a matter of shapes
        alone."""
        return self.modes()

    def layers(self) -> tuple[Float[Array, "_a _b"], ...] | None:
        """Matrices W_1, …, W_L, the weights of each layer, whose product W_1 ⋯ W_L is β in row order; None if
        unknown."""
        return None

    def reduced(self, X: Float[Array, "n d"]) -> "Reduced | None":
        """A network with fewer weights, or weights that are followed more exactly, that flows as this one does on the
        inputs X; None if there is none, or unknown.

        A matter of shapes alone. It must be differentiable by the weights, whatever they are, as a basis of the rows
        of X is, which does not depend on them (`gflow.row_basis`).
        """
        return None

    def narrowed(self) -> "Reduced | None":
        """A network with fewer weights that flows as this one does on all inputs; None if there is none, or unknown.

        A matter of shapes alone. Its bases may depend on the weights: derivatives do not go through them.
        """
        return None

    @property
    def degree(self) -> int | None:
        """The degree to which f is homogeneous in Θ; None if it is not, or unknown."""
        return None


class LinearNetwork(Network):
    """A network that is linear in its input, f(x; Θ) = xᵀβ(Θ).

    ```python
    assert jnp.allclose(network(problem.X), problem.X @ network.coefficients())
    ```
    """

    @abc.abstractmethod
    def coefficients(self) -> Float[Array, " d"]:
        """The linear coefficients β(Θ), with f(x; Θ) = xᵀβ(Θ)."""

    def __call__(self, X: Float[ArrayLike, "n d"]) -> Float[Array, " n"]:
        """The outputs f(x_i; Θ) for the rows x_i of X."""
        return _outputs(self, jnp.asarray(X))


@eqx.filter_jit
def _outputs(network: LinearNetwork, X: Float[Array, "... d"]) -> Float[Array, "..."]:
    return X @ network.coefficients()


class LinearTensorNetwork(LinearNetwork):
    """A network with f(x; Θ) = xᵀβ(Θ) = M(x)∘(v_1, …, v_L), linear in x and in each of its weights.

    The theorems of Yun et al. 2021 (section 3, eq. 6) are about these.

    ```python
    M = network.data_tensor(problem.X[0])
    assert jnp.allclose(network.weights[0] @ M @ network.weights[1], network(problem.X)[0])
    ```
    """

    @property
    def depth(self) -> int:
        """The number of layers L, which is the degree of f in Θ."""
        return len(self.weights)

    @property
    def degree(self) -> int:
        return self.depth

    def hidden(self, x: Float[Array, " d"]) -> Array:
        """H_0, from which `layer` computes the outputs layer by layer. By default M(x)."""
        return self.data_tensor(x)

    def layer(self, hidden: Array, v: Array) -> Array:
        """H∘(v, I, …), one layer. By default that of the data tensor."""
        return jnp.tensordot(v.ravel(), hidden, 1)

    def data_tensor(self, x: Float[Array, " d"]) -> Float[Array, "..."]:
        """The data tensor M(x) = ∂ᴸ(xᵀβ) / ∂v_1 … ∂v_L, with f(x; Θ) = M(x)∘(v_1, …, v_L).

        Matrix weights count as vectors in row-major order, so the shape is
        (weights[0].size, …, weights[L−1].size). **Raises** ValueError if f is seen not to be M(x)∘(v_1, …, v_L), which
        is to say not linear in each of the weights. Yun et al. 2021, section 3.
        """
        M = _data_tensor(self, x)
        if all_concrete((self, x)):
            _check_multilinear(self, x, np.asarray(M))
        return M


@eqx.filter_jit
def _data_tensor(network: LinearTensorNetwork, x: Float[Array, " d"]) -> Float[Array, "..."]:
    def output(*weights: Array) -> Scalar:
        return x @ with_weights(network, weights).coefficients()

    derivative: Callable = output
    for layer in range(network.depth):
        derivative = jax.jacfwd(derivative, argnums=layer)
    return derivative(*network.weights).reshape([v.size for v in network.weights])


def _check_multilinear(network: LinearTensorNetwork, x: Float[Array, " d"], M: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    generic = tuple(jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in network.weights)
    expected = M
    for v in generic:
        expected = np.tensordot(np.asarray(v).ravel(), expected, 1)
    found = float(_outputs(with_weights(network, generic), x))
    size = max(abs(found), float(np.linalg.norm(M)))
    if abs(found - expected) > 1e6 * float(np.finfo(M.dtype).eps) * size:
        raise ValueError(
            f"{type(network).__name__} is not linear in each of its weights: at random ones f(x) is {found:.6g} and "
            f"M(x)∘(v_1, …, v_L) is {float(expected):.6g}. Subclass gflow.LinearNetwork instead, which promises less."
        )


Basis: TypeAlias = Float[Array, "_a _b"] | None


class Reduced(eqx.Module):
    """A smaller network that flows as a given one does, and the way back.

    - `whole`: the given network, at its start.
    - `network`: the smaller one, at its start.
    - `bases`: for each weight v_l a pair (P, R) of matrices with orthonormal columns, or None for the identity, with

          v_l(t) = v_l(0) + P (ṽ_l(t) − ṽ_l(0)) Rᵀ.

      A weight with neither is that of the smaller network.
    - `X`: the inputs of the smaller network, one row for each of the given one's; None where they are the same.

    What P and R leave out of v_l(0) never moves, to the last bit but for that one addition.

    ```python
    wide = gflow.FullyConnected((jnp.ones((5, 2)), jnp.ones(2)))
    smaller = wide.reduced(jnp.ones((1, 5)))
    assert smaller.network.weights[0].shape == (1, 2)
    assert smaller.lift(smaller.network).weights[0].shape == (5, 2)
    ```
    """

    whole: Network
    network: Network
    bases: tuple[tuple[Basis, Basis], ...]
    X: Float[Array, "n m"] | None = None

    def lift(self, small: Network) -> Any:
        """The given network at the time when the smaller one is `small`."""
        starts = zip(self.whole.weights, self.network.weights, small.weights, self.bases, strict=True)
        return with_weights(self.whole, tuple(_moved(*start) for start in starts))

    def coefficients(self, small: Network) -> Float[Array, " d"]:
        """β of `lift(small)`. Where it is the product of `layers`, their first matrix W_1, the largest, is not written
        out: β = W_1(0) h + P (W̃_1(t) − W̃_1(0)) Rᵀ h with h the product of the others."""
        whole, layers = self.lift(small), self.whole.layers()
        if layers is None or len(layers) == 1 or layers[0].shape != self.whole.weights[0].shape:
            return whole.coefficients()
        (P, R), moved = self.bases[0], small.weights[0] - self.network.weights[0]
        if P is None and R is None:
            return whole.coefficients()
        h = functools.reduce(jnp.matmul, whole.layers()[1:])
        inner = moved @ (h if R is None else R.T @ h)
        return (layers[0] @ h + (inner if P is None else P @ inner)).ravel()

    def at_rest(self) -> Scalar:
        """‖Θ‖² of the part of the weights that never moves and that the smaller network leaves out."""
        sizes = [sum(jnp.sum(v**2) for v in network.weights) for network in (self.whole, self.network)]
        return jnp.maximum(sizes[0] - sizes[1], 0.0)

    def then(self, further: "Reduced") -> "Reduced":
        """This reduction followed by one of its smaller network by weights alone."""
        bases = zip(self.bases, further.bases, strict=True)
        both = tuple((_product(P, Q), _product(R, S)) for (P, R), (Q, S) in bases)
        return Reduced(self.whole, further.network, both, self.X)


def _moved(whole: Array, start: Array, end: Array, bases: tuple[Basis, Basis]) -> Array:
    P, R = bases
    if P is None and R is None:
        return end
    moved = end - start
    moved = moved if P is None else P @ moved
    return whole + (moved if R is None else moved @ R.T)


def _product(P: Basis, Q: Basis) -> Basis:
    return Q if P is None else P if Q is None else P @ Q


NetworkT = TypeVar("NetworkT", bound=Network)


def with_weights(network: NetworkT, weights: tuple[Array, ...]) -> NetworkT:
    """The same architecture with other weights of the same shapes.

    ```python
    v_1, v_2 = network.weights
    swapped = gflow.with_weights(network, (v_2, v_1))
    ```
    """
    return eqx.tree_at(lambda n: n.weights, network, tuple(weights))


def scale(network: NetworkT, alpha: Shaped[ArrayLike, ""] | tuple[Shaped[ArrayLike, ""], ...]) -> NetworkT:
    """The initialisation v_l(0) = α v̄_l from initial directions v̄_l.

    `alpha` is one number, which multiplies every weight, so the coefficients of L layers are multiplied by α^L; or a
    tuple of one number a weight, v_l(0) = α_l v̄_l. **Raises** ValueError for anything else: for several scales use
    `jax.vmap`.

    ```python
    start = gflow.scale(gflow.Diagonal(([1.0, 0.5], [0.3, -0.2])), 0.01)
    start = gflow.scale(gflow.Diagonal(([1.0, 0.5], [0.3, -0.2])), (0.1, 0.001))
    ```
    """
    if not isinstance(network, Network):
        raise ValueError(f"scale needs a network first and a number second; got {type(network).__name__}.")
    alphas = alpha if isinstance(alpha, tuple) else (alpha,) * len(network.weights)
    if any(isinstance(a, str) or np.shape(a) != () for a in alphas) or len(alphas) != len(network.weights):
        raise ValueError(
            f"alpha must be one number, or a tuple of one for each of the {len(network.weights)} weights; got "
            f"{alpha!r}. For several scales: jax.vmap(lambda a: gflow.scale(network, a))."
        )
    if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in network.weights):
        raise ValueError(
            "weights must be floating-point arrays; declare them as eqx.field(converter=gflow.as_weights)."
        )
    scales = (to_float(a).astype(v.dtype) for a, v in zip(alphas, network.weights, strict=True))
    return with_weights(network, tuple(a * v for a, v in zip(scales, network.weights, strict=True)))
