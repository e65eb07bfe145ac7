"""Gradient descent by optax: the flow's discrete counterpart."""

from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from . import _ask
from ._checks import require_increasing
from .flows.weights import path_of
from .networks import Network, with_weights
from .problems import Problem, log_loss, loss_gradient, require_fit
from .records import Certificate, Path, Route, Solution, Status, first_of

if TYPE_CHECKING:
    import optax

NetworkT = TypeVar("NetworkT", bound=Network)


def descend(
    network: NetworkT,
    problem: Problem,
    optimizer: "optax.GradientTransformation",
    *,
    steps: Int[ArrayLike, " T"],
) -> Path[NetworkT]:
    """Full-batch descent of the loss L from `network` with any optax `optimizer`, as one compiled loop.

    - `optimizer`: an optax transformation that needs no more than gradients and weights. Make it once: one made
      anew in every call is another function to JAX, which then compiles anew.
    - `steps`: the increasing numbers of steps after which to keep the iterate; 0 is the start.

    The rows of the path are the iterates kept. Its log-times are −∞ at step 0 and NaN elsewhere: what time t a step is,
    step size × steps for plain descent, only the caller knows. The status is `finished`, or `not finite`.

    Compiled once for each shape and optimizer; may be batched. **Raises** ValueError for `steps` that are negative
    or do not increase, and for what is no optimizer of this kind.

    ```python
    grid, optimizer = jnp.arange(0, 5001, 50), optax.sgd(1e-3)
    descent = gflow.descend(start, problem, optimizer, steps=grid)
    path = gflow.flow(start, problem, save=gflow.Times(1e-3 * grid))
    ```

    Yun et al. 2021, section 6.
    """
    network, problem = _ask.checked(network, problem)
    steps = jnp.asarray(steps)
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise ValueError(f"steps must be integers, numbers of iterations; got {steps.dtype}.")
    require_increasing("steps", steps, least=0)
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"optimizer must be an optax transformation such as optax.sgd(1e-3); got {optimizer!r}.")
    try:
        jax.eval_shape(_step(network, problem, optimizer), (network.weights, optimizer.init(network.weights)))
    except TypeError as error:
        raise ValueError(
            "optimizer needs more than gradients and weights, as line searches such as optax.lbfgs do; pass one like "
            f"optax.sgd or optax.adam. ({str(error).splitlines()[0]})"
        ) from error
    return _descend(network, problem, optimizer, steps)


def _step(network: Network, problem: Problem, optimizer: "optax.GradientTransformation") -> Any:
    import optax

    def step(state: tuple) -> tuple:
        weights, memory = state
        updates, memory = optimizer.update(loss_gradient(weights, network, problem), memory, weights)
        return optax.apply_updates(weights, updates), memory

    return step


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _descend(
    network: NetworkT, problem: Problem, optimizer: "optax.GradientTransformation", steps: Int[Array, " T"]
) -> Path[NetworkT]:
    require_fit(network, problem)
    step = _step(network, problem, optimizer)

    def to_next_save(state: tuple, count: Int[Array, ""]) -> tuple[tuple, tuple[Array, ...]]:
        state = jax.lax.fori_loop(0, count, lambda _, state: step(state), state)
        return state, state[0]

    start = (network.weights, optimizer.init(network.weights))
    (weights, _), saved = jax.lax.scan(to_next_save, start, jnp.diff(steps, prepend=0))
    final = log_loss(weights, network, problem)
    log_times = jnp.where(steps == 0, -jnp.inf, jnp.nan).astype(final.dtype)
    finite = jnp.all(jnp.stack([jnp.isfinite(v).all() for v in weights]))
    finite &= ~(jnp.isnan(final) | (final == jnp.inf))
    end = Solution(
        network=with_weights(network, weights),
        log_scale=jnp.zeros_like(final),
        log_loss=final,
        log_time=log_times[-1],
        status=first_of((finite, Status.finished), otherwise=Status.not_finite),
        route=Route.descent,
        error=jnp.full_like(final, jnp.nan),
        certificate=Certificate.of(final),
        steps=steps[-1],
        rejected_steps=jnp.zeros_like(steps[-1]),
    )
    return path_of(with_weights(network, saved), log_times, problem, end)
