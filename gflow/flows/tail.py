"""The rest of a regression's flow from near its end, which need not be integrated."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Scalar

from ..networks import Network, with_weights
from ..problems import Problem
from .radau import MOST_OUTPUTS

NetworkT = TypeVar("NetworkT", bound=Network)


def minimum_norm_correction(network: NetworkT, problem: Problem) -> NetworkT:
    """The weights Θ − Jᵀ(JJᵀ)⁺ δ, with J = ∂f/∂Θ and δ the discrepancy: the rest of the way to zero loss, up to
    O(‖δ‖²).

    It holds for every loss, since the flow moves in the rows of J. The condition number of JJᵀ is the square of J's;
    made once more in a basis of left singular vectors it shows rates that are below round-off in the first, as rows
    that all but depend on each other have. A second correction clears what the first has left.
    """
    for _ in range(2):
        network = _correct(network, problem)
    return network


def way_left(network: Network, problem: Problem) -> Scalar:
    """‖Jᵀ(JJᵀ)⁺ δ‖, the length of the minimum-norm correction, without what no weight moves to round-off."""
    outputs, backward, gram = _linearised(network, problem)
    sizes, V = _moving(outputs, backward, gram)
    return jnp.linalg.norm(V.T @ problem.discrepancy(outputs).ravel() / sizes)


def with_errors(network: NetworkT, problem: Problem, errors: Array) -> NetworkT:
    """The network with the outputs changed by at most these `errors`, in the direction of every rate at once."""
    outputs, backward, gram = _linearised(network, problem)
    sizes, V = _moving(outputs, backward, gram)
    change = V @ (jnp.abs(V).T @ errors.ravel() / sizes / sizes)
    return _moved(network, backward(change.reshape(outputs.shape))[0])


def _moving(
    outputs: Array, backward: Callable[[Array], Any], gram: Callable[[Array], Array]
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """What `moving` says of J.

    Singular vectors of J itself tell what moves slowly, by up to 10^13 times, from what does not move, as combinations
    of more rows than coordinates do; eigenvectors of JJᵀ mix the two. But J of many outputs, so many times as large as
    the weights, is never in memory.
    """
    if outputs.size <= MOST_OUTPUTS:
        return moving(_jacobian(outputs, backward))
    K = jax.lax.stop_gradient(gram(jnp.eye(outputs.size, dtype=outputs.dtype)))
    scale = _scale(K)
    V = jnp.linalg.eigh(K / scale / scale[:, None])[1] / scale[:, None]
    return _without_still(jnp.sqrt(jnp.maximum(jnp.diagonal(jax.lax.stop_gradient(gram(V))), 0.0)), V)


def moving(J: Float[Array, "n N"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Singular values σ and left singular vectors V of J, for rows brought to unit size: (JJᵀ)⁺ = V diag(1/σ²) Vᵀ.
    σ = ∞ where no weight moves but by round-off."""
    J = jax.lax.stop_gradient(J)  # any basis would do: vectors need not have derivatives where sizes are equal
    scale = _positive(jnp.linalg.norm(J, axis=1))
    sizes, V = jnp.linalg.svd(jnp.linalg.qr(J.T / scale, mode="r"))[1:]
    sizes = jnp.pad(sizes, (0, len(J) - sizes.size))  # fewer weights than outputs
    return _without_still(sizes, V.T / scale[:, None])


def _jacobian(outputs: Array, backward: Callable[[Array], Any]) -> Float[Array, "n N"]:
    identity = jnp.eye(outputs.size, dtype=outputs.dtype)
    return jax.vmap(lambda e: ravel_pytree(backward(e.reshape(outputs.shape))[0])[0])(identity)


def _without_still(sizes: Float[Array, " n"], V: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    moving = _is_moving(sizes)
    return jnp.where(moving, sizes, jnp.inf), jnp.where(moving, V, 0.0)


def _is_moving(sizes: Float[Array, " n"]) -> Bool[Array, " n"]:
    return sizes > _DEPENDENT * sizes.size * jnp.finfo(sizes.dtype).eps * jnp.max(sizes)


_DEPENDENT = 100.0  # round-off, by which combinations of rows move, that no weight moves


def tail(network: NetworkT, problem: Problem, elapsed: Float[Array, " T"]) -> NetworkT:
    """The networks after the times `elapsed` since `network`, which is near the end of the flow of ½‖δ‖².

    There δ̇ = −JJᵀδ, so Θ moves by −Jᵀ (JJᵀ)⁻¹(1 − e^{−JJᵀ s}) δ, up to O(‖δ‖²): however stiff, no steps are needed.
    The result has a leading axis of length T.
    """
    outputs, backward, gram = _linearised(network, problem)
    rates, vectors = _rates(outputs, backward, gram)
    along = vectors.T @ problem.discrepancy(outputs).ravel()

    def at(s: Array) -> NetworkT:
        # (1 − e^{−λs}) / λ, which is s as λ → 0; a rate of 0 belongs to outputs that no weight moves.
        still = rates * s < 1e-12
        gone = jnp.where(still, jnp.where(rates > 0, s, 0.0), -jnp.expm1(-rates * s) / jnp.where(rates > 0, rates, 1.0))
        return _moved(network, backward((vectors @ (gone * along)).reshape(outputs.shape))[0])

    return jax.vmap(at)(elapsed)


def _rates(
    outputs: Array, backward: Callable[[Array], Any], gram: Callable[[Array], Array]
) -> tuple[Float[Array, " k"], Float[Array, "n k"]]:
    """Eigenvalues of JJᵀ, all that are not 0, and eigenvectors. By the singular values of J, as in `_moving`, rates
    below the round-off of the largest keep their digits."""
    if outputs.size > MOST_OUTPUTS:
        rates, vectors = jnp.linalg.eigh(gram(jnp.eye(outputs.size, dtype=outputs.dtype)))
        return jnp.maximum(rates, 0.0), vectors
    vectors, sizes, _ = jnp.linalg.svd(_jacobian(outputs, backward), full_matrices=False)
    return jnp.where(_is_moving(sizes), sizes, 0.0) ** 2, vectors


def _correct(network: NetworkT, problem: Problem) -> NetworkT:
    outputs, backward, gram = _linearised(network, problem)
    V = _moving(outputs, backward, gram)[1]
    along = V @ (_pseudo_inverse(gram(V)) @ (V.T @ problem.discrepancy(outputs).ravel()))
    return _moved(network, backward(along.reshape(outputs.shape))[0])


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
    return _positive(jnp.sqrt(jnp.diagonal(K)))


def _positive(sizes: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(sizes > 0, sizes, 1.0)
