"""The flow dv_l/dt = −∂L/∂v_l as an exact ODE, in a clock that suits it, integrated by diffrax.

Imports networks, problems, clocks.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from ._checks import require_increasing, require_precision, to_float
from .clocks import ARC_LENGTH, LAST_LOG_TIME, LONGEST_ARC, TIME, Clock, Weights, is_stationary, norm
from .networks import Network, with_weights
from .problems import Classification, Problem, Regression, require_fit
from .problems import log_loss as log_loss_at

NetworkT = TypeVar("NetworkT", bound=Network)
REVERSE = diffrax.RecursiveCheckpointAdjoint()


class Status(eqx.Enumeration):
    """How a flow ended, one for every lane. `gflow.Status[status]` is the message of one lane."""

    converged = "converged: the loss criterion was met"
    finished = "finished: the last time asked for was reached"
    step_limit = "step limit: the solver used all its steps; pass a larger max_steps"
    not_finite = "not finite: the solver met infinite numbers or NaN, or could not go on"
    no_descent = "no descent: the gradient vanished first; the data are not separable or the start is stationary"
    tied = (
        "tied: two layers start equally small in a coordinate, where the dual route is not exact; keep the network "
        "out of jit and vmap and pass the scale as log_alpha"
    )
    not_certified = "not certified: the loss criterion was met, but the error estimate exceeds the tolerance"


class Solution(eqx.Module, Generic[NetworkT]):
    """Where a flow went.

    The end:

    - `network`: the network with its final weights.
    - `log_loss`, `log_time`: log L and log t there; log t = ∞ for a limit.
    - `status`: a `gflow.Status`; `converged` tells whether it is `Status.converged`.
    - `steps`, `rejected_steps`: of the ODE solver.
    - `route`: "weights" where the weights were integrated, "dual" where the dual equations were (`gflow.dual`).
    - `error`: an estimate of the error of the coefficients, relative to their norm; NaN where none was
      made, as for a path.
    - `certificate`: named evidence for a limit, recomputed from its point; empty for a path.

    The path, with a leading time axis: `networks`, `log_times`, `log_losses`. Entries after the end
    repeat the end. A limit's path is its end alone.
    """

    network: NetworkT
    log_loss: Float[Array, "*lanes"]
    log_time: Float[Array, "*lanes"]
    status: Status
    steps: Int[Array, "*lanes"]
    rejected_steps: Int[Array, "*lanes"]
    error: Float[Array, "*lanes"]
    networks: NetworkT
    log_times: Float[Array, "*lanes T"]
    log_losses: Float[Array, "*lanes T"]
    certificate: dict[str, Float[Array, "*lanes"]] = eqx.field(default_factory=dict)
    route: str = eqx.field(static=True, default="weights")

    @property
    def converged(self) -> Bool[Array, "*lanes"]:
        return self.status == Status.converged


def flow(
    network: NetworkT,
    problem: Problem,
    *,
    times: Float[ArrayLike, " T"] | None = None,
    log_loss: float | Scalar | None = None,
    log_time: float | Scalar | None = None,
    turning: float | Scalar | None = None,
    rtol: float | Scalar = 1e-8,
    max_steps: int = 4096,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: diffrax.AbstractAdjoint = REVERSE,
) -> Solution[NetworkT]:
    """The path of gradient flow from `network`, the initialisation (see `gflow.scale`).

    May be compiled and batched; every lane of `jax.vmap` keeps its own steps, status and end.

    - `times`: increasing times t ≥ 0 to save at, by the solver's own interpolation. Without them every
      step of the solver is saved: the path then has `max_steps + 1` entries.
    - `log_loss`: stop at the first step with log L below this. The default, where no times are given,
      is −30 for regression (a residual of 4e-7) and −100 for classification.
    - `log_time`: stop at the first step with log t above this.
    - `turning`: stop at the first step with L < 1 where the direction of the weights turns by less than this,
      in radians, while −log L grows by a factor e. It counts as converged.
    - `rtol`: tolerance on a step, relative to each weight or to a thousandth of the initial weights'
      root mean square, whichever is larger: so weights that start tiny or die out are resolved. The
      default leaves paths good to about seven digits.
    - `solver`: any diffrax solver. The default is the explicit `Dopri8` in the time clock and the
      implicit `Kvaerno5` in the arc-length clock, which is stiff: margins of support vectors are pinned
      to each other.
    - `adjoint`: how derivatives go through the flow. The default serves `jax.grad`; for `jax.jvp` and `jax.jacfwd` pass
      `diffrax.ForwardMode()`.

    **Raises** ValueError for times that are negative or do not increase, and for an `rtol` that the
    dtype of the weights cannot deliver. All else is in the `status`.

    ```python
    path = gflow.flow(gflow.scale(network, 0.01), problem)
    betas = jax.vmap(gflow.Diagonal.coefficients)(path.networks)
    ```

    Yun et al. 2021, section 2.1.
    """
    if times is not None:
        clock, target = TIME, -jnp.inf
        times = to_float(times)
        require_increasing("times", times)
        taus = jnp.log1p(times)
        saved, end = diffrax.SubSaveAt(ts=taus), taus[-1]
    elif isinstance(problem, Regression):
        clock, target = TIME, -30.0
        saved, end = diffrax.SubSaveAt(t0=True, steps=True), LAST_LOG_TIME
    else:
        clock, target = ARC_LENGTH, -100.0 if log_time is None and turning is None else -jnp.inf
        saved, end = diffrax.SubSaveAt(t0=True, steps=True), LONGEST_ARC
    if log_loss is not None:
        target = log_loss
    stop = Stop(target, log_time, turning)
    return integrate(network, problem, clock, end, stop, rtol, max_steps, saved, solver, adjoint)


class Stop(NamedTuple):
    """When to stop before the clock's end: see `flow`. None is never."""

    log_loss: float | Scalar
    log_time: float | Scalar | None = None
    turning: float | Scalar | None = None

    def met(self, weights: Weights, network: Network, problem: Problem) -> Bool[Array, ""]:
        """Whether a criterion of convergence is met."""
        met = log_loss_at(weights, network, problem) < self.log_loss
        return met if self.turning is None else met | (turning_rate(weights, network, problem) < self.turning)


def turning_rate(weights: Weights, network: Network, problem: Problem) -> Scalar:
    """By how many radians the direction of Θ turns while −log L grows by a factor e; ∞ while L ≥ 1."""
    log_loss, gradient = jax.value_and_grad(log_loss_at)(weights, network, problem)
    slope, size = norm(gradient), norm(weights)
    radial = sum(jnp.sum(g * v) for g, v in zip(gradient, weights, strict=True)) / size**2
    tangential = norm(tuple(g - radial * v for g, v in zip(gradient, weights, strict=True)))
    return jnp.where(log_loss < 0, -log_loss * tangential / (slope**2 * size), jnp.inf)


@contextlib.contextmanager
def _complex_constants() -> Iterator[None]:
    """The state of every flow is real; the S and U of an Orthogonal network may be complex, and diffrax warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Complex dtype support", UserWarning)
        yield


@_complex_constants()
def integrate(
    network: NetworkT,
    problem: Problem,
    clock: Clock,
    end: float | Scalar,
    stop: Stop,
    rtol: float | Scalar,
    max_steps: int,
    saved: diffrax.SubSaveAt,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: diffrax.AbstractAdjoint = REVERSE,
) -> Solution[NetworkT]:
    """Integrates from τ = 0 until `stop` or τ = `end`, saving the path as `saved` says."""
    dtype = jnp.result_type(*network.weights)
    require_precision("rtol", rtol, dtype)
    require_fit(network, problem)
    args = (network, problem)
    start = clock.start(network, problem)
    stops = [lambda t, y, args, **_: stop.met(clock.read(t, y, args)[0], *args)]
    if (last_time := stop.log_time) is not None:
        stops.append(lambda t, y, args, **_: log_time_at(clock.read(t, y, args)[1]) > last_time)
    if clock is ARC_LENGTH and isinstance(problem, Classification):  # no stationary point hurts the time clock
        stops.append(lambda t, y, args, **_: is_stationary(clock.read(t, y, args)[0], *args))
        end = jnp.where(is_stationary(network.weights, network, problem), 0.0, end)  # the clock cannot start there
    run = diffrax.diffeqsolve(
        diffrax.ODETerm(clock.field),
        clock.solver if solver is None else solver,
        t0=jnp.zeros((), dtype),  # a clock in another dtype would promote the weights
        t1=jnp.asarray(end, dtype),
        dt0=None,
        y0=start,
        args=args,
        saveat=diffrax.SaveAt(subs=(saved, diffrax.SubSaveAt(t1=True))),
        stepsize_controller=diffrax.PIDController(
            rtol=rtol,
            atol=rtol * clock.unit(network),
            pcoeff=clock.pcoeff,
            icoeff=clock.icoeff,
        ),
        event=diffrax.Event(tuple(stops)),
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
    )
    assert run.ts is not None
    assert run.ys is not None
    (taus, end_tau), (states, end_state) = run.ts, run.ys

    def read(tau: Scalar, state: Any) -> tuple[NetworkT, Scalar, Scalar]:
        weights, u = clock.read(tau, state, args)
        return with_weights(network, weights), log_time_at(u), log_loss_at(weights, *args)

    reached = jnp.isfinite(taus)  # diffrax fills saves that it did not reach with infinities

    def repeat_end(path: Array, last: Array) -> Array:
        return jnp.where(reached.reshape(-1, *[1] * (path.ndim - 1)), path, last)

    networks, log_times, log_losses = jax.vmap(read)(*jax.tree.map(repeat_end, (taus, states), (end_tau, end_state)))
    last, log_time, log_loss = read(*jax.tree.map(lambda v: v[0], (end_tau, end_state)))
    return Solution(
        network=last,
        log_loss=log_loss,
        log_time=log_time,
        status=_status(run.result, last, problem, stop),
        steps=run.stats["num_accepted_steps"],
        rejected_steps=run.stats["num_rejected_steps"],
        error=jnp.full_like(log_loss, jnp.nan),
        networks=networks,
        log_times=log_times,
        log_losses=log_losses,
    )


def log_time_at(u: Scalar) -> Scalar:
    """log t as a function of u = log(1 + t)."""
    return u + jnp.log(-jnp.expm1(-jnp.maximum(u, 0.0)))


def _status(result: diffrax.RESULTS, last: Network, problem: Problem, stop: Stop) -> Status:
    # The criteria are tested on the state that is returned, whatever the solver says of its run.
    log_loss = problem.log_loss(last(problem.X))
    ended = (result == diffrax.RESULTS.successful) | (result == diffrax.RESULTS.event_occurred)
    ran_out = Status.where(result == diffrax.RESULTS.max_steps_reached, Status.step_limit, Status.not_finite)
    unmet = Status.where(ended, Status.finished, ran_out)
    if isinstance(problem, Classification):
        unmet = Status.where(is_stationary(last.weights, last, problem), Status.no_descent, unmet)
    met = Status.where(stop.met(last.weights, last, problem), Status.converged, unmet)
    return Status.where(jnp.isnan(log_loss) | (log_loss == jnp.inf), Status.not_finite, met)
