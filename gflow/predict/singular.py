"""Theorem 1: the weights of a classification become singular vectors of a tensor (Yun et al. 2021).

Imports networks, problems.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from ..networks import LinearTensorNetwork, with_weights
from ..problems import Classification


def singular_vector_residual(network: LinearTensorNetwork, problem: Classification) -> Scalar:
    """How nearly the weights are singular vectors of M(−u), u the direction of Xᵀr; → 0 along a flow.

    With unit vectors v̂_l = v_l/‖v_l‖, s = M(−u)∘(v̂_1, …, v̂_L): the largest of
    ‖M(−u)∘(v̂_1, …, I, …, v̂_L) − s v̂_l‖ / |s| over the L layers. May be compiled and batched over a path.

    Yun et al. 2021, Theorem 1. Together with `gflow.invariants.alignment` it tests any linear tensor
    network, whatever its architecture.

    ```python
    jax.vmap(lambda n: gflow.predict.singular_vector_residual(n, problem))(path.networks)
    ```
    """
    if not isinstance(network, LinearTensorNetwork):
        raise ValueError(
            f"Theorem 1 is for linear tensor networks; {type(network).__name__} is not multilinear in its weights."
        )
    # The residual r = −softmax · y · L only matters up to a factor, so that no loss is too small.
    outputs = network(problem.X)
    minus_u = -problem.X.T @ jax.grad(problem.log_loss)(outputs)
    minus_u = minus_u / jnp.linalg.norm(minus_u)
    unit = tuple(v / jnp.linalg.norm(v) for v in network.weights)

    def applied(weights: tuple[Array, ...]) -> Scalar:
        return minus_u @ with_weights(network, weights).coefficients()

    s, gradients = jax.value_and_grad(applied)(unit)
    errors = [jnp.linalg.norm(g - s * v) for g, v in zip(gradients, unit, strict=True)]
    return jnp.max(jnp.stack(errors)) / jnp.abs(s)
