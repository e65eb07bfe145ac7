"""Gradient descent by optax: the flow's discrete counterpart.

Imports networks, problems.
"""

from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from ._checks import require_increasing
from .networks import Network, with_weights
from .problems import Problem, log_loss, loss_gradient

NetworkT = TypeVar("NetworkT", bound=Network)


class Descent(eqx.Module, Generic[NetworkT]):
    """Where a descent went: its end `network` with `log_loss`, and the saved iterates.

    `steps`, `networks` and `log_losses` have a leading axis, one entry for every iterate saved. The
    flow is comparable at the time t = step size × steps.
    """

    network: NetworkT
    log_loss: Float[Array, "*lanes"]
    networks: NetworkT
    log_losses: Float[Array, "*lanes T"]
    steps: Int[Array, "*lanes T"]


def descend(
    network: NetworkT,
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    steps: Int[ArrayLike, " T"],
) -> Descent[NetworkT]:
    """Full-batch descent of the loss L from `network` with any optax `optimizer`, as one compiled loop.

    - `steps`: the increasing numbers of steps after which to save the iterate; 0 is the start.

    May be compiled and batched. **Raises** ValueError for `steps` that are negative or do not increase.

    ```python
    grid = jnp.arange(0, 5001, 50)
    descent = gflow.descend(start, problem, optax.sgd(1e-3), steps=grid)
    path = gflow.flow(start, problem, times=1e-3 * grid)
    ```

    Yun et al. 2021, section 6.
    """
    steps = jnp.asarray(steps)
    require_increasing("steps", steps)
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise ValueError(f"steps must be integers, numbers of iterations; got {steps.dtype}.")

    def step(_: Int[Array, ""], state: tuple) -> tuple:
        weights, memory = state
        updates, memory = optimizer.update(loss_gradient(weights, network, problem), memory, weights)
        return optax.apply_updates(weights, updates), memory

    def to_next_save(state: tuple, count: Int[Array, ""]) -> tuple[tuple, tuple[Array, ...]]:
        state = jax.lax.fori_loop(0, count, step, state)
        return state, state[0]

    start = (network.weights, optimizer.init(network.weights))
    (weights, _), saved = jax.lax.scan(to_next_save, start, jnp.diff(steps, prepend=0))
    networks = with_weights(network, saved)
    log_losses = jax.vmap(lambda weights: log_loss(weights, network, problem))(saved)
    return Descent(with_weights(network, weights), log_losses[-1], networks, log_losses, steps)
