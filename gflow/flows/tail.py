"""The rest of a regression's flow from near its end, which need not be integrated."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ..networks import Network, with_weights
from ..problems import Problem

NetworkT = TypeVar("NetworkT", bound=Network)


def minimum_norm_correction(network: NetworkT, problem: Problem) -> NetworkT:
    """The weights Θ − Jᵀ(JJᵀ)⁺ δ, with J = ∂f/∂Θ and δ the discrepancy: the rest of the way to zero loss, up to
    O(‖δ‖²).

    It holds for every loss, since the flow moves in the rows of J. The n × n matrix JJᵀ is made by n products with
    J and Jᵀ, and J itself, n times as large as the weights, is never in memory. Its condition number is the square of
    J's; made once more in the basis of its own eigenvectors it shows rates that are below round-off in the first, as
    rows that all but depend on each other have. A second correction clears what the first has left.
    """
    for _ in range(2):
        network = _correct(network, problem)
    return network


def way_left(network: Network, problem: Problem) -> Scalar:
    """‖Jᵀ(JJᵀ)⁺ δ‖, the length of the minimum-norm correction, without what no weight moves to round-off."""
    outputs, _, gram = _linearised(network, problem)
    rates, vectors = _moving(gram(jnp.eye(outputs.size, dtype=outputs.dtype)))
    along = vectors.T @ problem.discrepancy(outputs).ravel()
    return jnp.sqrt(jnp.sum(along**2 / rates))


def with_errors(network: NetworkT, problem: Problem, errors: Array) -> NetworkT:
    """The network with the outputs changed by at most these `errors`, in the direction of every rate at once."""
    outputs, backward, gram = _linearised(network, problem)
    rates, vectors = _moving(gram(jnp.eye(outputs.size, dtype=outputs.dtype)))
    change = vectors @ (jnp.abs(vectors).T @ errors.ravel() / rates)
    return _moved(network, backward(change.reshape(outputs.shape))[0])


def _moving(K: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Rates λ and vectors V with K⁺ = V diag(1/λ) Vᵀ, of rows brought to unit size: λ = ∞ where it is round-off."""
    scale = _scale(K)
    rates, vectors = jnp.linalg.eigh(K / scale / scale[:, None])
    large = rates > len(K) * jnp.finfo(K.dtype).eps * rates[-1]
    return jnp.where(large, rates, jnp.inf), vectors / scale[:, None]


def tail(network: NetworkT, problem: Problem, elapsed: Float[Array, " T"]) -> NetworkT:
    """The networks after the times `elapsed` since `network`, which is near the end of the flow of ½‖δ‖².

    There δ̇ = −JJᵀδ, so Θ moves by −Jᵀ (JJᵀ)⁻¹(1 − e^{−JJᵀ s}) δ, up to O(‖δ‖²): however stiff, no steps are needed.
    The result has a leading axis of length T.
    """
    outputs, backward, gram = _linearised(network, problem)
    rates, vectors = jnp.linalg.eigh(gram(jnp.eye(outputs.size, dtype=outputs.dtype)))
    rates = jnp.maximum(rates, 0.0)
    along = vectors.T @ problem.discrepancy(outputs).ravel()

    def at(s: Array) -> NetworkT:
        # (1 − e^{−λs}) / λ, which is s as λ → 0; a rate of 0 belongs to outputs that no weight moves.
        still = rates * s < 1e-12
        gone = jnp.where(still, jnp.where(rates > 0, s, 0.0), -jnp.expm1(-rates * s) / jnp.where(rates > 0, rates, 1.0))
        return _moved(network, backward(vectors @ (gone * along).reshape(outputs.shape))[0])

    return jax.vmap(at)(elapsed)


def _correct(network: NetworkT, problem: Problem) -> NetworkT:
    outputs, backward, gram = _linearised(network, problem)
    K, off = gram(jnp.eye(outputs.size, dtype=outputs.dtype)), problem.discrepancy(outputs).ravel()
    scale = _scale(K)
    V = jnp.linalg.eigh(K / scale / scale[:, None])[1] / scale[:, None]
    V = jax.lax.stop_gradient(V)  # any basis would do: eigenvectors need not have derivatives where rates are equal
    K = gram(V)
    moving = jnp.diagonal(K) > (_DEPENDENT * len(K) * jnp.finfo(K.dtype).eps) ** 2 * jnp.max(jnp.diagonal(K))
    V = jnp.where(moving, V, 0.0)
    along = V @ _pseudo_inverse(jnp.where(moving & moving[:, None], K, 0.0)) @ (V.T @ off)
    return _moved(network, backward(along.reshape(outputs.shape))[0])


_DEPENDENT = 100.0  # round-off, by which combinations of rows move, that no weight moves


def _linearised(network: Network, problem: Problem) -> tuple[Array, Callable[[Array], Any], Callable[[Array], Array]]:
    """The outputs, Jᵀ, and V ↦ VᵀJJᵀV."""
    outputs, forward = jax.linearize(lambda v: with_weights(network, v)(problem.X), network.weights)
    backward = jax.linear_transpose(forward, network.weights)

    def gram(V: Float[Array, "n n"]) -> Float[Array, "n n"]:
        image = jax.lax.map(lambda v: forward(backward(v.reshape(outputs.shape))[0]).ravel(), V.T)
        K = image @ V
        return (K + K.T) / 2

    return outputs, backward, gram


def _moved(network: NetworkT, steps: tuple[Array, ...]) -> NetworkT:
    return with_weights(network, tuple(v - step for v, step in zip(network.weights, steps, strict=True)))


@jax.custom_jvp
def _pseudo_inverse(K: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """K⁺ for a positive semidefinite K, after its rows and columns have been brought to unit diagonal."""
    scale = _scale(K)
    values, vectors = jnp.linalg.eigh(K / scale / scale[:, None])
    large = values > len(K) * jnp.finfo(K.dtype).eps * values[-1]
    inverse = jnp.where(large, 1 / jnp.where(large, values, 1.0), 0.0)
    return (vectors * inverse) @ vectors.T / scale / scale[:, None]


@_pseudo_inverse.defjvp
def _pseudo_inverse_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    inverse = _pseudo_inverse(*primals)
    return inverse, -inverse @ tangents[0] @ inverse  # of a range that stays as it is


def _scale(K: Float[Array, "n n"]) -> Float[Array, " n"]:
    """√ of the diagonal; 1 where that is 0."""
    scale = jnp.sqrt(jnp.diagonal(K))
    return jnp.where(scale > 0, scale, 1.0)
