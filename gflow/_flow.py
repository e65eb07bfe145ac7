"""The flow dv_l/dt = −∂L/∂v_l as an exact ODE, and its path."""

import dataclasses
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from . import _ask
from ._checks import all_concrete
from .dual import classification as dual_classification
from .dual import regression as dual_regression
from .dynamics import Dynamics, WeightDecay
from .flows.clocks import Clock, GradientClock, LossClock
from .flows.engine import Run, attempted_first
from .flows.radau import ESTIMATED, Radau
from .flows.rows import AtTaus, Saving, Thinned
from .flows.smaller import Followed, on_smaller
from .flows.stopping import Arrived, LogLoss, LogTime, Turning, Until
from .flows.weights import follow, path, path_with_tail
from .methods import Auto, Decades, Dual, LogTimes, Method, Save, Steps, Weights
from .networks import Network, scale
from .problems import Classification, Problem, Regression, SquaredLoss, require_fit
from .records import Path, Status

NetworkT = TypeVar("NetworkT", bound=Network)


def flow(
    network: NetworkT,
    problem: Problem,
    *,
    log_alpha: float | Scalar = 0.0,
    save: Save = Steps(),  # noqa: B008 (frozen)
    until: Until | tuple[Until, ...] | None = None,
    method: Method = Auto(),  # noqa: B008 (frozen)
    dynamics: Dynamics | None = None,
) -> Path[NetworkT]:
    """The path of gradient flow from e^`log_alpha` times `network`, the initialisation (see `gflow.scale`).

    - `save`: which rows the path has. By default at most 128 of the solver's steps (`gflow.Steps`); or
      `gflow.Times(…)`, `gflow.LogTimes(…)`, and for a classification in dual coordinates `gflow.Decades(…)`.
    - `until`: where it stops, at the first step at which one of the rules holds: `gflow.LogLoss(…)`,
      `gflow.LogTime(…)`, `gflow.Turning(…)`, or several. By default at the last row that is asked for; with
      `gflow.Steps`, at a log-loss of −30 for a regression (a residual of 4e-7) and −100 for a classification.
    - `method`: `gflow.Auto()`, `gflow.Weights(…)` or `gflow.Dual(…)`.
    - `dynamics`: another flow in gradient flow's place, by default none: `gflow.WeightDecay(…)`, `gflow.Momentum(…)` or
      `gflow.SharpnessAware(…)`, by the weights of any network. With weight decay say where it stops.

    The status is `converged` where a log-loss or a turning asked for was reached, and `finished` at the last row or
    log-time; a regression that has come to rest before its last row is finished too, and stays where it is. Where its
    outputs are at rest but its weights have a way to go yet, as on rows that all but depend on each other, it is `not
    certified`.

    Compiled once for each shape; may be batched and differentiated. Every lane of `jax.vmap` keeps its own steps,
    status and end; on a CPU `jax.lax.map` is often faster, since lanes do not wait for the slowest.

    **Raises** ValueError for rows that do not increase, for an `rtol` that the dtype of the weights cannot deliver, for
    rows or rules that the method does not serve, and for a log-loss that the start is seen to have already.

    ```python
    path = gflow.flow(gflow.scale(network, 0.01), problem)
    path.log_times, path.coefficients
    ```

    Yun et al. 2021, section 2.1.
    """
    network, problem = _ask.checked(network, problem)
    log_alpha = _ask.log_scale(log_alpha, network)
    rules = () if until is None else until if isinstance(until, tuple) else (until,)
    if not all(isinstance(rule, LogLoss | LogTime | Turning) for rule in rules):
        raise ValueError(
            f"until must be gflow.LogLoss(…), gflow.LogTime(…), gflow.Turning(…) or a tuple of them; got {until!r}."
        )
    if not isinstance(save, Steps | LogTimes | Decades):
        raise ValueError(
            f"save must be gflow.Steps(…), gflow.Times(…), gflow.LogTimes(…) or gflow.Decades(…); got {save!r}."
        )
    if dynamics is not None:
        return _with_dynamics(network, problem, log_alpha, save, rules, method, dynamics)
    dual = _serves(method, network, problem, save, rules)
    if not rules and isinstance(save, Steps):
        rules = (LogLoss(problem.arrival),)
    elif any(isinstance(rule, LogLoss) for rule in rules):
        _require_descent_ahead(network, problem, log_alpha, rules)
    if dual is not None:
        return _of_dual(network, problem, log_alpha, save, rules, dual)
    weights = method if isinstance(method, Weights) else Weights()
    return _of_weights(_ask.scaled(network, log_alpha), problem, save, rules, weights)


def _with_dynamics(
    network: Any, problem: Problem, log_alpha: Scalar, save: Save, rules: tuple, method: Method, dynamics: Any
) -> Path:
    dynamics = _ask.dynamics(dynamics, log_alpha.dtype)
    _ask.dual_form(network, problem, Weights() if isinstance(method, Auto) else method)  # a method it must be
    if isinstance(method, Dual) or isinstance(save, Decades) or any(isinstance(rule, Turning) for rule in rules):
        raise ValueError(
            "method=gflow.Dual(), gflow.Decades and gflow.Turning are for gradient flow; with dynamics weights are "
            "followed. Pass save=gflow.Times(…) or gflow.Steps(…), until=gflow.LogTime(…) or gflow.LogLoss(…)."
        )
    if not rules and isinstance(save, Steps):
        if isinstance(dynamics, WeightDecay):
            raise ValueError(
                "While weights decay the loss does not vanish: say where the flow stops, by save=gflow.Times(…) or "
                "until=gflow.LogTime(…)."
            )
        rules = (LogLoss(problem.arrival),)
    weights = method if isinstance(method, Weights) else Weights()
    return _by_dynamics(_ask.scaled(network, log_alpha), problem, save, rules, weights, dynamics)


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _by_dynamics(
    network: NetworkT, problem: Problem, save: Any, rules: tuple[Until, ...], method: Weights, dynamics: Dynamics
) -> Path[NetworkT]:
    require_fit(network, problem)
    clock = dynamics.clock(network, problem)
    saving, last = _rows(save, clock)
    return path(clock, rules, _followed(clock, rules, method, saving, last))


def _serves(method: Method, network: Network, problem: Problem, save: Save, rules: tuple[Until, ...]) -> Dual | None:
    """The dual method to be used, or None for weights: a matter of types and shapes alone."""
    if isinstance(save, Decades) and (not isinstance(problem, Classification) or rules):
        raise ValueError("gflow.Decades is for a Classification, and ends at the last row: pass no until.")
    turning = any(isinstance(rule, Turning) for rule in rules)
    fits = isinstance(save, Decades) if isinstance(problem, Classification) else not turning
    if isinstance(method, Auto) and not fits:
        return None
    if _ask.dual_form(network, problem, method, path=True) is None:
        if isinstance(save, Decades):
            raise ValueError(
                f"gflow.Decades needs dual coordinates, and {type(network).__name__} with {len(network.weights)} "
                "layers has none for all data: real modes() and two layers or more. Pass "
                "gflow.orthogonal_form(network, problem) if the data are even or commute; else save=gflow.Steps() with "
                "until=gflow.LogLoss(…)."
            )
        return None
    if not fits:
        raise ValueError(
            "method=gflow.Dual() serves the paths of a Classification with save=gflow.Decades(…), and those of a "
            "Regression without gflow.Turning. Pass method=gflow.Weights()."
        )
    return method if isinstance(method, Dual) else Dual()


def _require_descent_ahead(network: Network, problem: Problem, log_alpha: Scalar, rules: tuple[Until, ...]) -> None:
    if not all_concrete((network, problem, log_alpha, rules)):
        return
    alpha = jnp.exp(log_alpha)  # 0 where dual coordinates go further than weights: about what the start then is
    start = problem.log_loss(scale(network, alpha)(problem.X))
    for rule in rules:
        if isinstance(rule, LogLoss) and start < rule.value:
            raise ValueError(
                f"until=LogLoss({float(rule.value):g}): the start has a log-loss of {float(start):.4g} already. log L "
                "is the natural logarithm of the loss; pass a smaller value."
            )


def _saving(save: Steps | LogTimes) -> Saving:
    return Thinned(save.rows) if isinstance(save, Steps) else AtTaus(save.log_times)


def _of_weights(
    network: NetworkT, problem: Problem, save: Any, rules: tuple[Until, ...], method: Weights
) -> Path[NetworkT]:
    """By explicit steps where so many of them arrive; else by those of `method`."""
    if method.adjoint is not None or not _ask.is_implicit(problem, method):
        return _by_weights(network, problem, save, rules, method)

    def by(method: Weights, what: tuple[NetworkT, Problem, Any, tuple[Until, ...]]) -> Path[NetworkT]:
        return _by_weights(*what, method)

    return attempted_first(
        partial(by, _ask.explicit_attempt(method, _EXPLICIT)),
        partial(by, method),
        (network, problem, save, rules),
        is_good=lambda path: (path.status != Status.step_limit) & (path.status != Status.not_certified),
    )


_EXPLICIT = 512  # steps, about as dear as the implicit ones of a whole path; ordinary flows take 30 to 300


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _by_weights(
    network: NetworkT, problem: Problem, save: Any, rules: tuple[Until, ...], method: Weights
) -> Path[NetworkT]:
    require_fit(network, problem)
    return on_smaller(_path_of_weights, network, problem, (save, rules, method), method.adjoint, rows=True)


def _path_of_weights(followed: Followed, options: tuple[Any, tuple[Until, ...], Weights]) -> Path:
    network, problem, (save, given, method) = followed.network, followed.problem, options
    rules = followed.rules(given)
    dtype = jnp.result_type(*network.weights)
    timed = isinstance(save, LogTimes)
    clock = (
        LossClock(network, problem)
        if isinstance(problem, Classification) and not timed
        else GradientClock(network, problem)
    )
    saving, last = _rows(save, clock)
    rtol = _rtol(method, dtype)
    has_tail = timed and isinstance(problem, Regression) and isinstance(problem.loss, SquaredLoss)
    implicit = _ask.is_implicit(problem, method)
    if has_tail:
        sizes = 0.01 * jnp.sqrt(rtol) * _units(network, problem)  # of squares far below the tolerance
        rules = (*rules, Arrived(sizes, jnp.sqrt(rtol) if implicit else None))
    if implicit:
        finest = _interpolated(rtol)
        method = dataclasses.replace(method, rtol=finest, solver=Radau(finest, clock.unit()))
    run = _followed(clock, rules, method, saving, last)
    found = path_with_tail(clock, rules, run, saving.taus, rtol) if has_tail else path(clock, rules, run)
    return followed.whole_path(found, given)


def _interpolated(rtol: Scalar) -> Scalar:
    """The tolerance of implicit steps for which states between them, of the order of the estimate, are good to rtol."""
    return jnp.maximum(rtol ** (1 / ESTIMATED), jnp.minimum(rtol, 1e4 * jnp.finfo(rtol.dtype).eps))


def _units(network: Network, problem: Problem) -> Float[Array, "n ..."]:
    """What outputs are relative to: the largest target or output at the start, for short inputs less in proportion, but
    no less than their own. So rows are at rest together, however their lengths differ."""
    outputs = network(problem.X)
    sizes = jnp.abs(problem.discrepancy(outputs)) + jnp.abs(problem.discrepancy(jnp.zeros_like(outputs)))
    lengths = jnp.max(jnp.abs(problem.X), axis=1).reshape(-1, *[1] * (outputs.ndim - 1))
    slope = jnp.max(jnp.where(lengths > 0, sizes / jnp.where(lengths > 0, lengths, 1.0), 0.0))
    return jnp.maximum(sizes, jnp.minimum(lengths * slope, jnp.max(sizes)))


def _rows(save: Steps | LogTimes, clock: Clock) -> tuple[Any, Scalar | None]:
    """The rule for rows in the clock u = log(1 + t), and where the last one is."""
    saving = _saving(save)
    if not isinstance(saving, AtTaus):
        return saving, None
    taus = jax.nn.softplus(saving.taus.astype(jnp.result_type(*clock.network.weights)))
    return AtTaus(taus), jnp.minimum(taus[-1], clock.last())


def _rtol(method: Weights, dtype: Any) -> Scalar:
    return jnp.asarray(_ask.default_tolerance(dtype, 1e-8, 1e-5) if method.rtol is None else method.rtol, dtype)


def _followed(clock: Clock, rules: tuple[Until, ...], method: Weights, saving: Any, last: Scalar | None) -> Run:
    return follow(
        clock,
        rules,
        rtol=_rtol(method, jnp.result_type(*clock.network.weights)),
        max_steps=method.max_steps,
        last=last,
        saving=saving,
        solver=method.solver,
        adjoint=method.adjoint,
    )


def _of_dual(
    network: NetworkT, problem: Any, log_alpha: Scalar, save: Any, rules: tuple[Until, ...], method: Dual
) -> Path[NetworkT]:
    """By explicit steps where a few of them arrive at a loss. Of two layers ν moves as evenly as residuals do; angles
    of more may wait for decades, and explicit steps would not see them awake."""
    found: Any = _ask.dual_form(network, problem, method, path=True)
    max_steps = 4096 if method.max_steps is None else method.max_steps
    what = network, problem, log_alpha, save, rules

    def by(explicit: bool, max_steps: int, what: tuple[NetworkT, Any, Scalar, Any, tuple]) -> Path[NetworkT]:
        return _by_dual(*what, method, max_steps, explicit)

    in_full = partial(by, False, max_steps)
    # At given times, or when a flow is at rest, explicit steps would stay at the edge of their stability.
    if len(found.eta) != 2 or not isinstance(save, Steps) or not all(isinstance(rule, LogLoss) for rule in rules):
        return in_full(what)
    return attempted_first(partial(by, True, min(_FEW, max_steps)), in_full, what, is_good=lambda path: path.converged)


_FEW = 256  # explicit steps, which cost a fifth of implicit ones: ordinary flows to a log-loss of −30 take 30 to 250


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _by_dual(
    network: NetworkT,
    problem: Any,
    log_alpha: Scalar,
    save: Any,
    rules: tuple[Until, ...],
    method: Dual,
    max_steps: int,
    explicit: bool,
) -> Path[NetworkT]:
    require_fit(network, problem)
    found, dtype = _ask.dual_form(network, problem, method, path=True), log_alpha.dtype
    if isinstance(save, Decades):
        return dual_classification.flow(
            network,
            problem,
            found,
            save.decades.astype(dtype),
            log_alpha,
            cap=_ask.cap(method, dtype),
            rtol=_ask.dual_rtol(method, dtype, 1e-7, 1e-3),
            max_steps=max_steps,
        )
    log_losses = [rule.value for rule in rules if isinstance(rule, LogLoss)]
    last = [rule.value for rule in rules if isinstance(rule, LogTime)]
    if isinstance(save, LogTimes):
        last.append(save.log_times[-1])
    return dual_regression.flow(
        network,
        problem,
        found,
        log_alpha,
        saving=_saving(save),
        last_log_time=jnp.min(jnp.stack(last)).astype(dtype) if last else None,
        log_loss=jnp.max(jnp.stack(log_losses)).astype(dtype) if log_losses else None,
        rtol=_ask.dual_rtol(method, dtype, 1e-8, 1e-5),
        max_steps=max_steps,
        explicit=explicit,
    )
