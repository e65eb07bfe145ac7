"""Gradient descent by optax: the flow's discrete counterpart."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Scalar

from . import _ask
from ._checks import all_concrete, require_increasing
from .dual.decoupled import Decoupled, decoupled, lift
from .flows.weights import path_of
from .methods import Batches, LabelNoise, RandomBatches
from .networks import Network, with_weights
from .problems import Classification, Problem, Regression, log_loss, loss_gradient, require_fit
from .records import Certificate, Effective, Path, Route, Solution, Status, first_of

if TYPE_CHECKING:
    import optax

NetworkT = TypeVar("NetworkT", bound=Network)


def descend(
    network: NetworkT,
    problem: Problem,
    optimizer: "optax.GradientTransformation",
    *,
    steps: Int[ArrayLike, " T"],
    batches: Batches | RandomBatches | None = None,
    label_noise: LabelNoise | None = None,
    effective: bool = False,
) -> Path[NetworkT]:
    """Descent of the loss L from `network` with any optax `optimizer`, as one compiled loop.

    - `optimizer`: an optax transformation that needs no more than gradients and weights. Make it once: one made
      anew in every call is another function to JAX, which then compiles anew.
    - `steps`: the increasing numbers of steps after which to keep the iterate; 0 is the start.
    - `batches`: the data points of each step, `gflow.Batches(indices)` or `gflow.RandomBatches(key, size)`; all by
      default. The gradient of a batch of b points is n/b times that of their loss, so that on average it is ∇L.
    - `label_noise`: `gflow.LabelNoise(key, size, until)` on the targets of a regression.
    - `effective`: whether to record the `gflow.Effective` start, from which gradient flow ends where this
      descent ends, exactly and at every step size (`gflow.predict.effective`; Even et al. 2023). For networks with
      real `modes` and two layers, and optimizers that only scale the gradient: `optax.sgd` without momentum, schedules,
      clipping by the global norm.

    The rows of the path are the iterates kept. Its log-times are −∞ at step 0 and NaN elsewhere: what time t a step is,
    step size × steps for plain descent, only the caller knows. The status is `finished`, or `not finite`.

    Compiled once for each shape and optimizer; may be batched. **Raises** ValueError for `steps` that are negative
    or do not increase, for what is no optimizer of this kind, for batches of other problems than `gflow.Regression` and
    `gflow.Classification`, and for an effective start where there is none.

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
        jax.eval_shape(optimizer.update, network.weights, optimizer.init(network.weights), network.weights)
    except TypeError as error:
        raise ValueError(
            "optimizer needs more than gradients and weights, as line searches such as optax.lbfgs do; pass one like "
            f"optax.sgd or optax.adam. ({str(error).splitlines()[0]})"
        ) from error
    _check_data(problem, batches, label_noise)
    if effective:
        _check_effective(network, problem, optimizer)
    return _descend(network, problem, optimizer, steps, (batches, label_noise), effective)


def _check_data(problem: Problem, batches: Any, label_noise: Any) -> None:
    if not isinstance(batches, Batches | RandomBatches | None):
        raise ValueError(
            f"batches must be gflow.Batches(indices) or gflow.RandomBatches(key, size); got {batches!r}. For all data "
            "points in every step pass none."
        )
    if not isinstance(label_noise, LabelNoise | None):
        raise ValueError(f"label_noise must be gflow.LabelNoise(key, size, until); got {label_noise!r}.")
    if batches is not None:
        if type(problem) not in (Regression, Classification):
            raise ValueError(
                f"batches are for gflow.Regression and gflow.Classification, whose loss is a sum over data points; got "
                f"{type(problem).__name__}. Pass none."
            )
        batches.check(len(problem.y))
    if label_noise is not None and type(problem) is not Regression:
        raise ValueError(f"label_noise is for the targets of a gflow.Regression; got {type(problem).__name__}.")


def _check_effective(network: Network, problem: Problem, optimizer: Any) -> None:
    if decoupled(network, problem) is None or len(_modes(network).eta) != 2:
        raise ValueError(
            f"{type(network).__name__} with {len(network.weights)} weights has no effective start: that needs real "
            "modes() and two layers, such as Diagonal, real Orthogonal and DifferenceOfPowers of depth 2. If data and "
            "weights are even, or commute, pass gflow.orthogonal_form(network, problem); else effective=False."
        )
    off = _off_at_random(network.weights, optimizer)
    if off is not None and off > along_gradient(off.dtype):
        kept = [type(part).__name__ for part in jax.tree.leaves(optimizer.init(network.weights), is_leaf=_named)]
        kept = [name for name in dict.fromkeys(kept) if name.endswith("State") and name != "EmptyState"]
        names = f" (its state: {', '.join(kept)})" if kept else ""
        raise ValueError(
            f"optimizer{names} does not keep to the gradient's direction: of an update at random gradients a share of "
            f"{float(off):.1e} is not along them, and then no start of gradient flow is known that ends at the same "
            "point. Pass optax.sgd without momentum, which may be chained with schedules and "
            "optax.clip_by_global_norm, for momentum in continuous time gflow.Momentum; or effective=False."
        )


def _named(part: Any) -> bool:
    return isinstance(part, tuple) and type(part).__name__.endswith("State") and not hasattr(part, "inner_state")


def along_gradient(dtype: Any) -> float:
    """The share of an update that may be off the gradient's direction: a thousand units of round-off."""
    return 1e3 * float(jnp.finfo(dtype).eps)


def _off_at_random(weights: tuple[Array, ...], optimizer: Any) -> Scalar | None:
    """The largest share of updates off the direction of random gradients, of several sizes since clipping sees them;
    None where the optimizer's numbers cannot be looked at."""
    rng, memory, largest = np.random.default_rng(0), optimizer.init(weights), jnp.zeros((), weights[0].dtype)
    for size in (1e-3, 1.0, 1e3):
        gradient, at = (tuple(jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in weights) for _ in range(2))
        gradient = tuple(size * g for g in gradient)
        update, memory = optimizer.update(gradient, memory, at)
        largest = jnp.maximum(largest, _along(update, gradient)[1])
    return largest if all_concrete(largest) else None


def _along(update: tuple[Array, ...], gradient: tuple[Array, ...]) -> tuple[Scalar, Scalar]:
    """γ with update ≈ −γ · gradient, and the share of the update that this leaves."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in gradient]))
    unit = jnp.where(largest > 0, largest, 1.0)  # squares of gradients in this unit do not underflow
    gradient = tuple(g / unit for g in gradient)
    dots = [_dot(u, v) for u, v in ((update, gradient), (gradient, gradient))]
    gamma = -dots[0] / jnp.where(dots[1] > 0, dots[1], 1.0)
    left = tuple(u + gamma * g for u, g in zip(update, gradient, strict=True))
    size = jnp.sqrt(_dot(update, update))
    return gamma / unit, jnp.sqrt(_dot(left, left)) / jnp.where(size > 0, size, 1.0)


def _dot(a: tuple[Array, ...], b: tuple[Array, ...]) -> Scalar:
    return jnp.sum(jnp.stack([jnp.sum(u * v) for u, v in zip(a, b, strict=True)]))


class _Tally(NamedTuple):
    """Of an effective start: log Π |1 ∓ γg| e^{±γg} and signs; the last γ|g|; the largest share off the gradient."""

    logs: Float[Array, "2 m"]
    signs: Float[Array, "2 m"]
    last: Scalar
    off: Scalar


def _modes(network: Network) -> Any:
    return network.modes()


class _Descent(eqx.Module):
    """Descent as a state (weights, memory of the optimizer, tally or None) and its k-th step."""

    network: Network
    problem: Problem
    optimizer: Any
    data: tuple[Any, Any]
    found: Decoupled | None  # where an effective start is asked for

    def start(self) -> tuple:
        return self.network.weights, self.optimizer.init(self.network.weights), self._no_tally()

    def _no_tally(self) -> _Tally | None:
        if self.found is None:
            return None
        zero = jnp.zeros_like(self.found.eta)
        return _Tally(zero, jnp.ones_like(zero), zero[0, 0], zero[0, 0])

    def step(self, k: Int[Array, ""], state: tuple) -> tuple:
        import optax

        weights, memory, tally = state
        problem, share = self._seen(k)
        gradient = loss_gradient(weights, self.network, problem)
        if share != 1:
            gradient = tuple(share * g for g in gradient)
        updates, memory = self.optimizer.update(gradient, memory, weights)
        if self.found is not None:
            tally = self._tallied(tally, problem, share, weights, gradient, updates)
        return optax.apply_updates(weights, updates), memory, tally

    def _seen(self, k: Int[Array, ""]) -> tuple[Any, float]:
        """The problem as step k sees it, and n/b."""
        problem, (batches, label_noise) = self.problem, self.data
        n = len(problem.y)
        if label_noise is not None:
            problem = eqx.tree_at(lambda p: p.y, problem, problem.y + label_noise.added(k, problem.y))
        if batches is None:
            return problem, 1.0
        rows = batches.rows(k, n)
        return eqx.tree_at(lambda p: (p.X, p.y), problem, (problem.X[rows], problem.y[rows])), n / len(rows)

    def _tallied(
        self, tally: Any, problem: Any, share: float, weights: tuple, gradient: tuple, updates: tuple
    ) -> _Tally:
        gamma, off = _along(updates, gradient)
        modes = _modes(with_weights(self.network, weights))
        residual = share * problem.residual(modes.inputs(problem.X) @ modes.rho())
        u = gamma * modes.copies * (residual @ modes.inputs(problem.X))
        u = jnp.stack([u, -u])
        small = u < 0.5  # then by log1p: of a run at rest, log(1 − u) + u would add up u, which is round-off
        log_factor = jnp.where(small, jnp.log1p(-jnp.where(small, u, 0.0)), jnp.log(jnp.abs(1 - u)))
        return _Tally(
            tally.logs + (log_factor + u),
            tally.signs * jnp.where(u > 1, -1.0, 1.0),
            jnp.max(jnp.abs(u)),
            jnp.maximum(tally.off, off),
        )

    def effective(self, tally: _Tally) -> Effective:
        eta: Any = None if self.found is None else self.found.eta
        w = jnp.stack([eta[0] + eta[1], eta[0] - eta[1]])
        # Where a factor is 0 its w is 0 for ever, whatever its logarithms add up to.
        log_sizes = jnp.log(jnp.abs(w)) + jnp.where(w == 0, 0.0, tally.logs)
        signs = tally.signs * jnp.where(w < 0, -1.0, 1.0)
        plus, minus = signs * jnp.exp(log_sizes)
        eta = jnp.stack([plus + minus, plus - minus]) / 2
        return Effective(log_sizes, signs, lift(self.network, eta, jnp.zeros_like(eta[0, 0])), tally.last, tally.off)


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _descend(
    network: NetworkT,
    problem: Problem,
    optimizer: "optax.GradientTransformation",
    steps: Int[Array, " T"],
    data: tuple[Any, Any],
    effective: bool,
) -> Path[NetworkT]:
    require_fit(network, problem)
    descent = _Descent(network, problem, optimizer, data, decoupled(network, problem) if effective else None)

    def to_next_save(state: tuple, between: tuple[Int[Array, ""], Int[Array, ""]]) -> tuple[tuple, tuple[Array, ...]]:
        state = jax.lax.fori_loop(*between, lambda k, state: descent.step(k, state), state)
        return state, state[0]

    until = jnp.concatenate([jnp.zeros_like(steps[:1]), steps])
    (weights, _, tally), saved = jax.lax.scan(to_next_save, descent.start(), (until[:-1], until[1:]))
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
    networks = jax.vmap(lambda weights: with_weights(network, weights))(saved)
    path = path_of(networks, log_times, problem, end)
    return path if tally is None else dataclasses.replace(path, effective=descent.effective(tally))
