"""The flow dv_l/dt = −∂L/∂v_l as an exact ODE, in a clock that suits it, integrated by diffrax.

Imports networks, problems.

Two clocks trace the same path. The *time clock* u = log(1 + t) serves regression, and whenever times
are asked for. The *arc-length clock* dσ = ‖dΘ‖ / ‖Θ‖ carries a classification on to losses like
10^(−10^10), where t itself would overflow.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from ._checks import require_increasing, require_precision, to_float
from .networks import Network, with_weights
from .problems import Classification, Problem, Regression, loss_gradient, require_fit
from .problems import log_loss as log_loss_at

NetworkT = TypeVar("NetworkT", bound=Network)
Weights = tuple[Array, ...]
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
    return integrate(network, problem, clock, end, Stop(target, log_time, turning), rtol, max_steps, saved, solver, adjoint)


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
    slope, size = _norm(gradient), _norm(weights)
    radial = sum(jnp.sum(g * v) for g, v in zip(gradient, weights, strict=True)) / size**2
    tangential = _norm(tuple(g - radial * v for g, v in zip(gradient, weights, strict=True)))
    return jnp.where(log_loss < 0, -log_loss * tangential / (slope**2 * size), jnp.inf)


def is_stationary(weights: Weights, network: Network, problem: Problem) -> Bool[Array, ""]:
    """Whether the gradients of the data points cancel in ∇L to nine digits, or all vanish, while L ≥ 1.

    With L < 1 a homogeneous network classifies every point, and its loss always falls.
    """
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), weights)
    shares = jax.grad(problem.log_loss)(outputs)
    each = jax.vmap(lambda one: _norm(pull_back(one)[0]))(jnp.diag(shares))
    return (_norm(pull_back(shares)[0]) <= 1e-9 * jnp.sum(each)) & (problem.log_loss(outputs) > -1e-9)


class Clock(NamedTuple):
    """A clock τ: its state at the start, the state's derivative by τ, and what a state means."""

    start: Callable[[Network, Problem], Any]
    field: Callable[[Any, Any, Any], Any]  # τ, state, (network, problem) -> state
    read: Callable[[Any, Any, tuple[Network, Problem]], tuple[Weights, Scalar]]  # Θ and log(1 + t)
    unit: Callable[[Network], Scalar]  # parts of the state that are smaller are resolved absolutely
    solver: diffrax.AbstractSolver
    pcoeff: float  # of the step size controller
    icoeff: float


def _norm(weights: Weights) -> Scalar:
    return jnp.sqrt(sum(jnp.sum(v**2) for v in weights))


def _resolution(network: Network) -> Scalar:
    """A thousandth of the initial weights' root mean square: smaller weights need not keep relative accuracy."""
    return 1e-3 * _norm(network.weights) / jnp.sqrt(sum(v.size for v in network.weights))


# The time clock: the state is Θ, and dΘ/du = −(1 + t) ∇L.


def _time_field(u: Scalar, weights: Weights, args: tuple[Network, Problem]) -> Weights:
    return tuple(-jnp.exp(u).astype(g.dtype) * g for g in loss_gradient(weights, *args))


TIME = Clock(
    start=lambda network, problem: network.weights,
    field=_time_field,
    read=lambda u, weights, args: (weights, u),
    unit=lambda network: _resolution(network),
    solver=diffrax.Dopri8(),
    pcoeff=0.0,  # a proportional part would remember errors at round-off level, and so tell lanes from single runs
    icoeff=1.0,
)
LAST_LOG_TIME = 690.0  # e^690 is near the largest float64


# The arc-length clock: the state is θ = Θ/‖Θ‖, log ‖Θ‖ and w = log((1 + t) L). It moves by −∇ log L, which
# neither underflows nor overflows. log t itself grows like −log L and is pinned to it; w stays small.
# To the arc is added log(1 + log(1 + t)), which carries the flow over plateaus, where it hardly moves for a long time.
# θ is kept in units of its resolution: then the tolerance for the two logarithms, which pass through zero, is `rtol`.


def _arc_unit(network: Network) -> Scalar:
    # Below a hundredth of a thousandth, the tolerance would be below the round-off of θ.
    return 1e-3 * jnp.clip(_norm(network.weights), 1e-2, 1.0) / jnp.sqrt(sum(v.size for v in network.weights))


def _arc_start(network: Network, problem: Problem) -> tuple[Weights, Scalar, Scalar]:
    size = _norm(network.weights)
    size = jnp.where(size > 0, size, 1.0)  # the zero network is stationary and stays where it is
    theta = tuple(v / (size * _arc_unit(network)) for v in network.weights)
    return theta, jnp.log(size), log_loss_at(network.weights, network, problem)


def _arc_weights(state: tuple[Weights, Scalar, Scalar], network: Network) -> Weights:
    theta, log_norm, _ = state
    return tuple(jnp.exp(log_norm) * _arc_unit(network) * v for v in theta)


def _arc_field(
    sigma: Scalar, state: tuple[Weights, Scalar, Scalar], args: tuple[Network, Problem]
) -> tuple[Weights, Scalar, Scalar]:
    (_, log_norm, w), (network, _) = state, args
    weights, size = _arc_weights(state, network), jnp.exp(log_norm)
    log_loss, gradient = jax.value_and_grad(log_loss_at)(weights, *args)
    slope = _norm(gradient)
    patience = jnp.exp(-w) / (1 + jax.nn.relu(w - log_loss))
    rate = 1 / (slope / size + patience)  # dτ/dσ with dτ = L dt
    radial = -jnp.sum(jnp.stack([jnp.sum(g * v) for g, v in zip(gradient, weights, strict=True)])) / size**2
    tangential = tuple((-g / size - radial * v / size) for g, v in zip(gradient, weights, strict=True))
    return tuple(rate / _arc_unit(network) * v for v in tangential), rate * radial, rate * (jnp.exp(-w) - slope**2)


def _arc_read(
    sigma: Scalar, state: tuple[Weights, Scalar, Scalar], args: tuple[Network, Problem]
) -> tuple[Weights, Scalar]:
    weights = _arc_weights(state, args[0])
    return weights, state[2] - log_loss_at(weights, *args)


ARC_LENGTH = Clock(
    start=_arc_start,
    field=_arc_field,
    read=_arc_read,
    unit=lambda network: jnp.ones(()),
    # Newton, not a chord: margins tied to each other by an exponential need it. Measured: a quarter of the steps.
    solver=diffrax.Kvaerno5(
        root_finder=diffrax.with_stepsize_controller_tols(optimistix.Newton)(cauchy_termination=False)
    ),
    pcoeff=0.3,  # halves the rejected steps
    icoeff=0.4,
)
LONGEST_ARC = 1e4  # log ‖Θ‖ is at most σ; float64 ends at log ‖Θ‖ = 709


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
    if clock is ARC_LENGTH:  # the time clock is not hurt by a stationary point
        stops.append(lambda t, y, args, **_: is_stationary(clock.read(t, y, args)[0], *args))
        end = jnp.where(is_stationary(network.weights, *args), 0.0, end)  # the clock cannot start there
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
