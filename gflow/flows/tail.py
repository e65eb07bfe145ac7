"""The rest of a regression's flow from near its end, which need not be integrated."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..networks import Network, with_weights
from ..problems import Problem

NetworkT = TypeVar("NetworkT", bound=Network)


def minimum_norm_correction(network: NetworkT, problem: Problem) -> NetworkT:
    """The weights Θ − Jᵀ(JJᵀ)⁺ δ, with J = ∂f/∂Θ and δ the discrepancy: the rest of the way to zero loss, up to
    O(‖δ‖²).

    It holds for every loss, since the flow moves in the rows of J. The n × n matrix JJᵀ is made by n products with
    J and Jᵀ, and J itself, n times as large as the weights, is never in memory. A second correction clears what its
    condition number, the square of J's, has left of the first.
    """
    for _ in range(2):
        network = _correct(network, problem)
    return network


def tail(network: NetworkT, problem: Problem, elapsed: Float[Array, " T"]) -> NetworkT:
    """The networks after the times `elapsed` since `network`, which is near the end of the flow of ½‖δ‖².

    There δ̇ = −JJᵀδ, so Θ moves by −Jᵀ (JJᵀ)⁻¹(1 − e^{−JJᵀ s}) δ, up to O(‖δ‖²): however stiff, no steps are needed.
    The result has a leading axis of length T.
    """
    outputs, backward, gram = _linearised(network, problem)
    rates, vectors = jnp.linalg.eigh(gram)
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
    along = _pseudo_solve(gram, problem.discrepancy(outputs).ravel()).reshape(outputs.shape)
    return _moved(network, backward(along)[0])


def _linearised(network: Network, problem: Problem) -> tuple[Array, Callable[[Array], Any], Float[Array, "n n"]]:
    """The outputs, Jᵀ and JJᵀ."""
    outputs, forward = jax.linearize(lambda v: with_weights(network, v)(problem.X), network.weights)
    backward = jax.linear_transpose(forward, network.weights)
    unit = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(outputs.size, *outputs.shape)
    gram = jax.lax.map(lambda e: forward(backward(e)[0]).ravel(), unit)
    return outputs, backward, (gram + gram.T) / 2


def _moved(network: NetworkT, steps: tuple[Array, ...]) -> NetworkT:
    return with_weights(network, tuple(v - step for v, step in zip(network.weights, steps, strict=True)))


def _pseudo_solve(K: Float[Array, "n n"], b: Float[Array, " n"]) -> Float[Array, " n"]:
    """K⁺b for a positive semidefinite K, after its rows and columns have been brought to unit diagonal."""
    scale = jnp.sqrt(jnp.diagonal(K))
    scale = jnp.where(scale > 0, scale, 1.0)
    values, vectors = jnp.linalg.eigh(K / scale / scale[:, None])
    large = values > len(K) * jnp.finfo(K.dtype).eps * values[-1]
    inverse = jnp.where(large, 1 / jnp.where(large, values, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ (b / scale))) / scale
