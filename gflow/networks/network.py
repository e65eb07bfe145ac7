"""What a network is: weights in, outputs out, and what its author knows of its structure."""

import abc
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

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
    `modes` (then it takes the dual route and Theorems 2 and 5 apply) and `layers` (Theorem 7, Corollary 1).
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

    def layers(self) -> tuple[Float[Array, "_a _b"], ...] | None:
        """Matrices W_1, …, W_L, the weights of each layer, whose product W_1 ⋯ W_L is β in row order; None if
        unknown."""
        return None

    @property
    def degree(self) -> int | None:
        """The degree to which f is homogeneous in Θ; None if it is not, or unknown."""
        return None


class LinearNetwork(Network):
    """A network that is linear in its input, f(x; Θ) = xᵀβ(Θ)."""

    @abc.abstractmethod
    def coefficients(self) -> Float[Array, " d"]:
        """The linear coefficients β(Θ), with f(x; Θ) = xᵀβ(Θ)."""

    def __call__(self, X: Float[ArrayLike, "n d"]) -> Float[Array, " n"]:
        """The outputs f(x_i; Θ) for the rows x_i of X."""
        return jnp.asarray(X) @ self.coefficients()


class LinearTensorNetwork(LinearNetwork):
    """A network with f(x; Θ) = xᵀβ(Θ) = M(x)∘(v_1, …, v_L), linear in x and in each of its weights.

    The theorems of Yun et al. 2021 (section 3, eq. 6) are about these.
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

        def output(*weights: Array) -> Scalar:
            return x @ with_weights(self, weights).coefficients()

        derivative: Callable = output
        for layer in range(self.depth):
            derivative = jax.jacfwd(derivative, argnums=layer)
        M = derivative(*self.weights).reshape([v.size for v in self.weights])
        if all_concrete((self, x)):
            _check_multilinear(self, np.asarray(M), output)
        return M


def _check_multilinear(network: LinearTensorNetwork, M: np.ndarray, output: Callable) -> None:
    rng = np.random.default_rng(0)
    generic = [jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in network.weights]
    expected = M
    for v in generic:
        expected = np.tensordot(np.asarray(v).ravel(), expected, 1)
    found = float(output(*generic))
    size = max(abs(found), float(np.linalg.norm(M)))
    if abs(found - expected) > 1e6 * float(np.finfo(M.dtype).eps) * size:
        raise ValueError(
            f"{type(network).__name__} is not linear in each of its weights: at random ones f(x) is {found:.6g} and "
            f"M(x)∘(v_1, …, v_L) is {float(expected):.6g}. Subclass gflow.LinearNetwork instead, which promises less."
        )


NetworkT = TypeVar("NetworkT", bound=Network)


def with_weights(network: NetworkT, weights: tuple[Array, ...]) -> NetworkT:
    """The same architecture with other weights of the same shapes."""
    return eqx.tree_at(lambda n: n.weights, network, tuple(weights))


def scale(network: NetworkT, alpha: Shaped[ArrayLike, ""]) -> NetworkT:
    """The initialisation v_l(0) = α v̄_l from initial directions v̄_l.

    `alpha` is one number. It multiplies every weight, so the coefficients of L layers are multiplied by α^L.
    **Raises** ValueError for anything but one number: for several scales use `jax.vmap`.

    ```python
    start = gflow.scale(gflow.Diagonal(([1.0, 0.5], [0.3, -0.2])), 0.01)
    ```
    """
    if not isinstance(network, Network):
        raise ValueError(f"scale needs a network first and a number second; got {type(network).__name__}.")
    if isinstance(alpha, str) or np.shape(alpha) != ():
        raise ValueError(
            f"alpha must be one number; got {alpha!r}. For several scales: jax.vmap(lambda a: gflow.scale(network, a))."
        )
    if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in network.weights):
        raise ValueError(
            "weights must be floating-point arrays; declare them as eqx.field(converter=gflow.as_weights)."
        )
    alpha = to_float(alpha)
    return with_weights(network, tuple(alpha.astype(v.dtype) * v for v in network.weights))
