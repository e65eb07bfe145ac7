"""Assumption 1: which networks are orthogonally decomposable, and their weights in that basis.

Imports networks, problems, coordinates.

M(x) = Σ_j [Sx]_j U_1[:, j] ⊗ … ⊗ U_L[:, j], so that β = Sᵀρ with ρ = ⊙_l η_l and the modes η_l = U_lᵀv_l.
"""

import contextlib
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Scalar

from ._checks import is_concrete
from .coordinates import TIE
from .networks import Convolutional, Diagonal, MatrixProduct, Network, Orthogonal, with_weights
from .problems import Problem, require_fit

NetworkT = TypeVar("NetworkT", bound=Network)


class Modes(NamedTuple):
    """A network's start in the basis where its coordinates decouple: β = Sᵀρ, ρ = ⊙_l eta[l].

    `errors` maps every condition that this rests on to the relative size of its violation; each must
    be 0 up to round-off.
    """

    S: Inexact[Array, "m d"]
    eta: tuple[Inexact[Array, " m"], ...]
    errors: dict[str, Scalar]


def modes(network: Network) -> Modes | None:
    """The modes of a network for which Assumption 1 holds whatever the data; None for others.

    Diagonal: S = U_l = I. Full-length convolution, with the unitary DFT matrix F: S = d^{(L−1)/2} F and
    U_l = F*. Yun et al. 2021, appendices D.2 and D.3.

    ```python
    rho = jnp.prod(jnp.stack(gflow.decomposition.modes(network).eta), axis=0)
    ```
    """
    if isinstance(network, Diagonal):
        return Modes(jnp.eye(network.weights[0].size, dtype=network.weights[0].dtype), network.weights, {})
    if isinstance(network, Orthogonal):
        return Modes(network.S, tuple(u.T @ v for u, v in zip(network.U, network.weights, strict=True)), {})
    if isinstance(network, Convolutional) and len({w.size for w in network.weights}) == 1:
        eta = tuple(jnp.fft.fft(w, norm="ortho").conj() for w in network.weights)
        return Modes(_fourier(network), eta, {})
    return None


def real_modes(network: Network, problem: Problem) -> Modes | None:
    """The modes of a network that on this problem flows as one with real S and U_l; None for others.

    Besides diagonal networks and real `Orthogonal` ones: a full-length convolution where all inputs and
    weights are even, x[j] = x[−j mod d] (Yun et al. 2021, Corollary 6), and a product of square matrices
    where sensors are symmetric and commute, and weights are diagonal in their eigenbasis (Corollary 7).
    """
    if isinstance(network, MatrixProduct):
        return _commuting_modes(network, problem.X)
    found = modes(network)
    if isinstance(network, Convolutional) and found is not None:
        errors = {
            "every input is even: x[j] = x[−j mod d]": _unevenness(problem.X),
            "every filter is even: w_l[j] = w_l[−j mod d]": _unevenness(jnp.stack(network.weights)),
        }
        return Modes(found.S.real, tuple(e.real for e in found.eta), errors)
    return None if found is None or any(map(jnp.iscomplexobj, (found.S, *found.eta))) else found


class Decomposition(NamedTuple):
    """A problem in real coordinates in which its flow decouples: outputs Zρ, with Z = X Sᵀ and ρ = Π_l η_l.

    `S` is None for the identity: a diagonal network may have a million coordinates.
    """

    Z: Float[Array, "n m"]
    eta: Float[Array, "L m"]
    S: Float[Array, "m d"] | None

    def coefficients(self, rho: Float[Array, " m"]) -> Float[Array, " d"]:
        """β = Sᵀρ."""
        return rho if self.S is None else self.S.T @ rho


def decompose(network: Network, problem: Problem) -> Decomposition | None:
    """The decomposition of a network that on this problem flows as one with real S and U_l.

    None where the dual flow is not exact, or cannot be seen to be:

    - `Diagonal` and real `Orthogonal` networks have one for all data. A convolution or a matrix product has one
      if data and weights are even, or commute (`real_modes`). That is a matter of their values: where `jax.jit`,
      `jax.vmap` or `jax.grad` hide them, the answer is None. Close over data and weights, so that they are
      constants, or write the network as an `Orthogonal`.
    - In every coordinate one layer must be strictly smaller than the others. Where values can be seen and it is
      not, the answer is None; where they cannot, a lane in which a tie matters has the status `tied`.
    - There must be two layers or more.
    """
    if len(network.weights) < 2:
        return None
    require_fit(network, problem)
    seen = all(map(is_concrete, jax.tree.leaves((network, problem))))
    with jax.ensure_compile_time_eval() if seen else contextlib.nullcontext():  # constants of a jit stay visible
        return _decompose(network, problem)


def _decompose(network: Network, problem: Problem) -> Decomposition | None:
    if isinstance(network, Diagonal):
        stack = np.stack if all(map(is_concrete, network.weights)) else jnp.stack  # jnp's values hide in a trace
        Z, eta, S = problem.X, stack(network.weights), None
    else:
        found = real_modes(network, problem)
        if found is None or not all(map(_vanishes, found.errors.values())):
            return None
        Z, eta, S = problem.X @ found.S.T, jnp.stack(found.eta), found.S
    return Decomposition(Z, jnp.asarray(eta), S) if not is_concrete(eta) or _dominated(np.asarray(eta)) else None


def lift(network: NetworkT, problem: Problem, eta: Float[Array, "L m"], log_alpha: float | Scalar = 0.0) -> NetworkT:
    """The network with the modes `eta`; its part outside the column space of U_l stays what e^log_alpha v_l has."""
    if isinstance(network, Diagonal):
        return with_weights(network, tuple(eta))

    def modes_of(weights: tuple[Array, ...]) -> Array:
        found = real_modes(with_weights(network, weights), problem)
        assert found is not None  # `decompose` has found them
        return jnp.stack(found.eta)

    start, transposed = jax.vjp(modes_of, network.weights)  # η_l = U_lᵀv_l, and U_l η_l is its transpose
    (inside,), (ends,) = transposed(start), transposed(eta)
    alpha = jnp.exp(log_alpha)
    return with_weights(
        network, tuple(alpha * (v - u) + w for v, u, w in zip(network.weights, inside, ends, strict=True))
    )


def _vanishes(error: Scalar) -> bool:
    return is_concrete(error) and float(error) <= 1e4 * float(jnp.finfo(error.dtype).eps)


def _dominated(eta: np.ndarray) -> bool:
    least, second = np.sort(np.abs(eta), axis=0)[:2]
    return bool((second - least > TIE * second).all())


def _fourier(network: Convolutional) -> Inexact[Array, "d d"]:
    d = network.weights[-1].size
    return d ** ((network.depth - 1) / 2) * jnp.fft.fft(jnp.eye(d, dtype=network.weights[-1].dtype), norm="ortho")


def _unevenness(X: Float[Array, "n d"]) -> Scalar:
    return _relative(X - jnp.roll(X[:, ::-1], 1, axis=1), X)


def _commuting_modes(network: MatrixProduct, X: Float[Array, "n d"]) -> Modes | None:
    k = network.weights[0].shape[0]
    if any(W.shape != (k, k) for W in network.weights):
        return None
    sensors = X.reshape(-1, k, k)
    # A generic combination of commuting symmetric matrices has their common eigenvectors.
    generic = jnp.asarray(np.random.default_rng(0).normal(size=len(sensors)), X.dtype)
    mixed = jnp.tensordot(generic, sensors, 1)
    _, Q = jnp.linalg.eigh((mixed + mixed.T) / 2)
    rotated = [Q.T @ W @ Q for W in network.weights]
    errors = {
        "every sensor matrix A_i is symmetric": _relative(sensors - sensors.mT, sensors),
        "the sensor matrices commute": _off_diagonal(Q.T @ sensors @ Q),
        "every W_l is diagonal in their eigenbasis": _off_diagonal(jnp.stack(rotated)),
    }
    S = jnp.einsum("aj,bj->jab", Q, Q).reshape(k, k * k)
    return Modes(S, tuple(jnp.diagonal(W) for W in rotated), errors)


def _off_diagonal(matrices: Float[Array, "n k k"]) -> Scalar:
    return _relative(matrices * (1 - jnp.eye(matrices.shape[-1], dtype=matrices.dtype)), matrices)


def _relative(error: Array, of: Array) -> Scalar:
    size = jnp.abs(of).max()
    return jnp.abs(error).max() / jnp.where(size > 0, size, 1.0)
