"""Where the flow ends as t → ∞."""

import dataclasses
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Scalar

from . import _ask
from ._checks import all_concrete, is_concrete, require_precision, to_scalar
from ._order import after
from .dual import classification as dual_classification
from .dual import decayed, other_flows
from .dual import regression as dual_regression
from .dual.cone import is_balanced
from .dual.decoupled import decoupled
from .dual.newton import MOST_ITERATIONS
from .dual.vertex import Vertex
from .dynamics import Dynamics, WeightDecay
from .flows.beyond import limit_direction
from .flows.clocks import GradientClock, LossClock, norm
from .flows.polish import ACTIVE, can_polish
from .flows.radau import MOST_OUTPUTS, Radau
from .flows.smaller import Followed, on_smaller
from .flows.stopping import AtLogLosses, Fitted, LogLoss, Near, discrepancy_size
from .flows.tail import minimum_norm_correction, with_errors
from .flows.weights import follow, solution
from .measures import (
    distance,
    homogeneous_kkt_residual,
    kkt_residual,
    multipliers,
    remaining_angle,
    singular_vector_residual,
)
from .methods import Auto, Dual, Method, Weights
from .networks import LinearNetwork, LinearTensorNetwork, Network, with_weights
from .problems import Classification, Problem, Regression, require_fit
from .records import Certificate, Solution, Status

NetworkT = TypeVar("NetworkT", bound=Network)


def limit(
    network: NetworkT,
    problem: Problem,
    *,
    log_alpha: float | Scalar = 0.0,
    tolerance: float | Scalar | None = None,
    method: Method = Auto(),  # noqa: B008 (frozen)
    dynamics: Dynamics | None = None,
) -> Solution[NetworkT]:
    """The limit of gradient flow from e^`log_alpha` times `network`, as t → ∞.

    *Regression*: the limit point. In dual coordinates it solves n equations, found by Newton's method, and
    nothing is integrated. By weights the flow is integrated, for at most 128 outputs by implicit steps, until the
    residual is small, and so is the way left to the end, which on ill-conditioned data is longer; that way is the
    minimum-norm correction Θ − Jᵀ(JJᵀ)⁺ r, exact up to O(‖r‖²). So the slow end is never integrated, and a saddle,
    where the flow is slow but the loss is not small, is never taken for the end. `error` comes from two stopping
    points, from a second trajectory at 30 times the integrator's tolerance and from the round-off of the outputs, which
    ill-conditioned data magnify.

    *Classification*, whose weights grow without bound: the direction of the linear coefficients. Directions converge
    like a power of s = −log L, so no finite loss gives the limit itself.

    In dual coordinates it is a vertex of a polyhedron, which is solved for. With two layers the flow is that of a
    convex function in a mirror whose horizon is the ℓ1 norm, so that its limit is the solution of a linear program
    wherever that is unique (Pesme, Dragomir & Flammarion 2024), at every scale and from every start; nothing is
    integrated. With more layers the flow is followed to s = 10^100, and the stationary point of min ‖ρ‖_{2/L} s.t.
    Aρ ≥ 1 with the same coordinates within 1e-3 radians of it is its limit: a strict local minimum. So is one that both
    caps are near at s = 10^3 already, where no other coordinate has the time to awake: that answers data separable by
    little, whose ties of margins float64 cannot hold to the end.

    By weights a network that is homogeneous (`degree`), in float64 and with the data points has at most 500 unknowns is
    followed to s = 10^10, or as far as its steps go if its weights grow there, then beyond every loss, where only
    ratios of margins matter, and its limit solves the KKT system of min ½‖Θ‖² s.t. y_i f(x_i; Θ) ≥ 1 (Lyu & Li 2020):
    `error` is then at round-off. It is claimed only at a minimum, by the second variation, that two such paths reach
    and approach at the rate they should; saddles and plateaus solve the first-order conditions too. The margins of a
    direction that was solved for are tied to round-off, and do not tell the shares of the points that its `certificate`
    has found.

    Elsewhere the direction is read at a log-loss of −10^100 in dual coordinates and −10^10 by weights; `log_loss` says
    where. `error` estimates the angle left from the turns between s^{1/2}, s^{3/4} and s
    (`gflow.measures.remaining_angle`), plus the correction that the cap needed (`gflow.Dual`). It is no less than the
    KKT residual, which sees what no turn shows: plateaus, over which small coordinates of a two-layer network grow for
    many decades; of a homogeneous network of at most 500 unknowns whose KKT residual no theorem has it is ∞.
    `certificate` holds that residual (Theorem 2 for networks with `modes`, Corollary 1 for those with `layers` to one
    output, by weights that of min ½‖Θ‖² for other homogeneous ones) and that of Theorem 1.

    - `log_alpha`: logarithm of the initial scale. In dual coordinates 10^−1000 is an ordinary scale.
    - `tolerance`: the error that is accepted, by default 1e-9 relative for a point and 1e-3 radians for a direction. A
      lane whose `error` is larger has the status `not certified`.
    - `method`: `gflow.Auto()`, `gflow.Weights(…)` or `gflow.Dual(…)`.
    - `dynamics`: another flow in gradient flow's place, by default none. In dual coordinates the limit of a regression
      is known for `gflow.WeightDecay(…)`, and with two layers for `gflow.Momentum(…)` and `gflow.SharpnessAware(…)`: it
      is gradient flow's from another start, and the flow is integrated to find that.

    A limit is the start of a next task, `gflow.limit(end.network, next, log_alpha=end.log_scale)`. Layers that end
    equal to round-off, as two do from scales below 1e-8, no longer know by how much they differ: what the next flow
    then does is that of the weights as they are.

    The error of a network without linear coefficients is that of its weights. Compiled once for each shape; may be
    batched and differentiated. In dual coordinates the limit point of a regression has derivatives in both modes by the
    implicit function theorem; by weights see `gflow.Weights`.

    **Raises** ValueError for a `tolerance` that the dtype of the weights cannot deliver, for a classification without
    linear coefficients, and for a problem without `discrepancy`.

    ```python
    end = gflow.limit(gflow.scale(network, 0.01), problem)
    end.coefficients, end.converged, end.error
    ```
    """
    network, problem = _ask.checked(network, problem)
    log_alpha = _ask.log_scale(log_alpha, network)
    found = _ask.dual_form(network, problem, method)
    directions = isinstance(problem, Classification)
    if directions and not isinstance(network, LinearNetwork):
        raise ValueError(
            "The limit of a classification is the direction of its linear coefficients, which "
            f"{type(network).__name__} has not. Use gflow.flow(network, problem, until=gflow.Turning(1e-3)) and look "
            "at the network it ends with."
        )
    dtype = log_alpha.dtype
    if tolerance is None:
        tolerance = _ask.default_tolerance(dtype, 1e-3, 0.1) if directions else 1e-9
    tolerance = to_scalar("tolerance", tolerance).astype(dtype)
    require_precision("tolerance", tolerance, dtype, epsilons=5e3)
    if dynamics is not None:
        dynamics = _ask.dynamics(dynamics, dtype)
        _check_dynamics(network, problem, dynamics, method)
        options = method if isinstance(method, Dual) else Dual()
        return _by_dynamics(network, problem, log_alpha, tolerance, options, dynamics)
    if found is None:
        return _by_weights(_ask.scaled(network, log_alpha), problem, tolerance, _weights(method))
    dual = method if isinstance(method, Dual) else Dual()
    asked = network, problem, log_alpha, tolerance, dual
    end = _at_once(*asked) if len(found.eta) == 2 else None
    return _by_dual(*asked, _known(network, problem, dual)) if end is None else end


def _require_discrepancy(network: Network, problem: Problem) -> None:
    require_fit(network, problem)
    if isinstance(problem, Classification):  # of which the limit is a direction
        return
    try:
        jax.eval_shape(lambda network, X: problem.discrepancy(network(X)), network, problem.X)
    except NotImplementedError:
        raise ValueError(
            f"{type(problem).__name__} does not say how far outputs are from zero loss: write its "
            "discrepancy(outputs), or use gflow.flow."
        ) from None


def _check_dynamics(network: Network, problem: Problem, dynamics: Any, method: Method) -> None:
    found = _ask.dual_form(network, problem, method)
    if found is None or not isinstance(problem, Regression):
        raise ValueError(
            f"The limit of {type(dynamics).__name__} is known in dual coordinates: it needs a Regression, a network "
            "with real modes() and two layers or more, and no method=gflow.Weights(); got "
            f"{type(problem).__name__} and {type(network).__name__}. Pass "
            "gflow.orthogonal_form(network, problem) if data and weights are even, or commute; else follow it by "
            "gflow.flow(…, dynamics=…, until=…)."
        )
    dynamics.require_limit(problem, len(found.eta))


def _by_dynamics(
    network: NetworkT, problem: Problem, log_alpha: Scalar, tolerance: Scalar, method: Dual, dynamics: Any
) -> Solution[NetworkT]:
    options = other_flows.Options(tolerance, method.rtol, method.max_steps)
    if isinstance(dynamics, WeightDecay) and dynamics.until is None:
        return _decayed(network, problem, log_alpha, dynamics.rate, options)
    # Two programs: the second is the same for all dynamics.
    starts = _begun(network, problem, log_alpha, dynamics, options)
    return _from_begun(network, problem, log_alpha, starts, options)


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _begun(network: Network, problem: Problem, log_alpha: Scalar, dynamics: Dynamics, options: Any) -> Any:
    require_fit(network, problem)
    return other_flows.begun(_decoupled(network, problem), problem, log_alpha, dynamics.begin, options)


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _from_begun(
    network: NetworkT, problem: Problem, log_alpha: Scalar, starts: Any, options: Any
) -> Solution[NetworkT]:
    return other_flows.limit(network, problem, _decoupled(network, problem), log_alpha, starts, options)


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _decayed(network: NetworkT, problem: Problem, log_alpha: Scalar, rate: Scalar, options: Any) -> Solution[NetworkT]:
    require_fit(network, problem)
    return decayed.limit(network, problem, _decoupled(network, problem), log_alpha, rate, options)


def _decoupled(network: Network, problem: Problem) -> Any:
    return decoupled(network, problem)


def _weights(method: Method) -> Weights:
    return method if isinstance(method, Weights) else Weights()


def _at_once(
    network: NetworkT, problem: Problem, log_alpha: Scalar, tolerance: Scalar, method: Dual
) -> Solution[NetworkT] | None:
    """The limit point of two layers where values are seen and it needs no basis of columns: most of the program is
    not compiled then. Inside `jit` it is, and the result is the same."""
    if isinstance(problem, Classification) or not all_concrete((network, problem, log_alpha, tolerance)):
        return None
    end = _by_dual(network, problem, log_alpha, tolerance, method, None, only_plain=True)
    return end if end.converged else None


def _known(network: Network, problem: Problem, method: Dual) -> Vertex | None:
    """The direction of two layers where values are seen and say that it is certain: no flow is compiled then. Inside
    `jit` both are in the program, and the result is the same."""
    if not isinstance(problem, Classification) or not all_concrete((network, problem)):
        return None
    found = _largest_margin(network, problem, method)
    return found if found is not None and is_concrete(found.is_unique) and found.is_unique else None


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _largest_margin(network: Network, problem: Classification, method: Dual) -> Vertex | None:
    _require_discrepancy(network, problem)
    return dual_classification.largest_margin(problem, _ask.dual_form(network, problem, method))


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _by_dual(
    network: NetworkT,
    problem: Problem,
    log_alpha: Scalar,
    tolerance: Scalar,
    method: Dual,
    known: Vertex | None,
    only_plain: bool = False,
) -> Solution[NetworkT]:
    _require_discrepancy(network, problem)
    found, dtype = _ask.dual_form(network, problem, method), log_alpha.dtype
    if not isinstance(problem, Classification):
        steps = MOST_ITERATIONS if method.max_steps is None else method.max_steps
        options = {"tolerance": tolerance, "max_steps": steps, "only_plain": only_plain}
        return dual_regression.limit(network, problem, found, log_alpha, **options)
    return dual_classification.direction(
        network,
        problem,
        found,
        log_alpha,
        log_loss=jnp.asarray(-_ask.default_tolerance(dtype, 1e100, 1e18), dtype),
        tolerance=tolerance,
        cap=_ask.cap(method, dtype),
        rtol=_ask.dual_rtol(method, dtype, 1e-7, 1e-3),
        max_steps=4096 if method.max_steps is None else method.max_steps,
        known=known,
    )


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _by_weights(network: NetworkT, problem: Problem, tolerance: Scalar, method: Weights) -> Solution[NetworkT]:
    _require_discrepancy(network, problem)
    core = _direction_of_weights if isinstance(problem, Classification) else _point_of_weights
    return on_smaller(core, network, problem, (tolerance, method), method.adjoint)


_SECOND_STOP = 1e-2  # the second stopping point's residual, in units of the first's
_LOOSER = 30.0  # the second trajectory's tolerance in units of the first's: its error is that many times as large
_LEAST = 1.2  # rtol: the error that steps may leave whatever the two trajectories say (benchmarks/limit_tolerance.py)


def _point_of_weights(followed: Followed, options: tuple[Scalar, Weights]) -> Solution:
    network, problem, (tolerance, method) = followed.network, followed.problem, options
    dtype = tolerance.dtype
    # Of the residual, to stop at. A loose integrator stalls above the second, and so stops at the first for good.
    fractions = 0.3 * jnp.sqrt(tolerance) * jnp.array([[1.0, 1.0], [1.0, _SECOND_STOP]], dtype)
    outputs = network(problem.X)
    start, nothing = discrepancy_size(problem, outputs), discrepancy_size(problem, jnp.zeros_like(outputs))
    units = jnp.abs(problem.discrepancy(outputs)) + jnp.abs(problem.discrepancy(jnp.zeros_like(outputs)))
    largest = jnp.where(jnp.max(units) > 0, jnp.max(units), 1.0)
    units = jnp.where(units > jnp.finfo(dtype).eps * largest, units, largest)
    rtol = 0.1 * tolerance if method.rtol is None else method.rtol.astype(dtype)
    # What the flow conserves are differences of squares, of size α². Where α is so small that steps' errors hide them,
    # these decide where it goes; then so do rates that differ by as little, and the two trajectories part.
    uneven = 0.3 * jnp.array([rtol, 0.0])
    separates = isinstance(problem, Regression)  # into outputs, as the implicit steps need it
    implicit = method.solver is None and separates and outputs.size <= MOST_OUTPUTS

    # Where zero is what is to be fitted, nothing may be left at the end: the start is the only size there is, of what
    # the rows see of it.
    beginning = jax.lax.stop_gradient(jnp.linalg.norm(_seen(followed, network)))  # no derivative where it is 0
    beginning = jnp.where(nothing > 0, 0.0, beginning)
    least = jnp.where(nothing > 0, 0.0, jax.lax.stop_gradient(norm(network.weights)))

    def apart(one: Network, other: Network) -> Scalar:
        other_measured = _measured(followed, other)
        size = jnp.linalg.norm(other_measured) + beginning
        off = jnp.linalg.norm(_measured(followed, one) - other_measured)
        return off / jnp.maximum(size, jnp.finfo(dtype).tiny)  # beside an end of nothing everything is large

    def trajectory(steps: tuple[Scalar, Array, Scalar]) -> tuple[Solution, Network]:
        rtol, fractions, uneven = steps
        rates = _rates(network.weights, uneven)

        def leg(stop: Network, fraction: Scalar) -> tuple[Network, tuple[Solution, Network]]:
            clock, fitted = GradientClock(stop, problem, rates), Fitted(fraction, units)
            solver, until = (Radau(rtol, clock.unit()), Near(fitted, least)) if implicit else (method.solver, fitted)
            run = follow(clock, (until,), rtol=rtol, max_steps=method.max_steps, solver=solver, adjoint=method.adjoint)
            reached = solution(clock, (until,), run)
            until_decided = partial(after, reached.converged.astype(dtype))
            corrected = minimum_norm_correction(jax.tree.map(until_decided, reached.network), problem)
            end = jax.tree.map(lambda new, old: jnp.where(reached.converged, new, old), corrected, reached.network)
            return reached.network, (reached, end)

        return jax.lax.scan(leg, network, fractions)[1]

    rtols = rtol * jnp.array([jnp.minimum(_LOOSER, 0.1 / rtol), 1.0])
    runs, ends = jax.lax.map(trajectory, (rtols, fractions, uneven))
    loose, first, end = (jax.tree.map(lambda v, at=at: v[at], ends) for at in ((0, 1), (1, 0), (1, 1)))
    run = jax.tree.map(lambda v: v[1, 1], runs)
    # The correction's error is quadratic in the residual; to claim only the first power is the safe side. But two stops
    # with a small residual may both lie far from the end where rows all but depend on each other: so the way that was
    # corrected is claimed as well, times that of the weights, by which J has changed.
    of_correction = _SECOND_STOP * apart(first, end)
    turned = distance(*(ravel_pytree(network.weights)[0] for network in (run.network, end)))
    of_correction += turned * apart(run.network, end)
    of_steps = apart(loose, first)  # both corrected from the first stop
    rounded = with_errors(end, problem, jnp.where(start > 0, jnp.finfo(dtype).eps * units, 0.0))
    of_round_off = jax.lax.stop_gradient(apart(rounded, end))
    error = of_correction + jnp.maximum(of_steps, _LEAST * rtol) + of_round_off
    error = jnp.where(runs.converged.all(), error, jnp.inf)
    sizes = nothing + start
    if isinstance(network, LinearNetwork):  # a start may be so large that an end of any size is fitted beside it
        sizes = jnp.minimum(sizes, _terms(followed, end) + jnp.where(nothing > 0, 0.0, _terms(followed, network)))
    end, given = followed.lift(end), followed.given
    outputs = end(given.X)  # of what is returned
    log_loss, left = given.log_loss(outputs), discrepancy_size(given, outputs)
    proved = (error <= tolerance) & jnp.all(jnp.abs(given.discrepancy(outputs)) <= tolerance * sizes)
    proved &= left <= tolerance * (nothing + start)
    size = jnp.where(nothing > 0, nothing, 1.0)
    return dataclasses.replace(
        run,
        network=end,
        log_loss=log_loss,
        log_time=jnp.full_like(log_loss, jnp.inf),
        status=Status.where(run.converged & ~proved, Status.not_certified, run.status),
        error=error,
        certificate=Certificate.of(log_loss, residual=left / size),
        steps=jnp.sum(runs.steps),
        rejected_steps=jnp.sum(runs.rejected_steps),
    )


def _rates(weights: tuple[Array, ...], spread: Scalar) -> tuple[Array, ...]:
    """1 for every weight, but for a random relative `spread`."""
    keys = jax.random.split(jax.random.key(0), len(weights))
    return tuple(1 + spread * jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, weights, strict=True))


def _measured(followed: Followed, network: Network) -> Array:
    """What the error is relative to: β, or all weights, of which those at rest count as one number."""
    if isinstance(network, LinearNetwork):
        return followed.coefficients(network)
    return jnp.append(ravel_pytree(network.weights)[0], jax.lax.stop_gradient(jnp.sqrt(followed.at_rest())))


def _seen(followed: Followed, network: Network) -> Array:
    """What is `_measured`, of β without the coefficients that no row sees: they hide nothing."""
    measured = _measured(followed, network)
    return measured * jnp.any(followed.given.X != 0, axis=0) if isinstance(network, LinearNetwork) else measured


def _terms(followed: Followed, network: Network) -> Array:
    """The sizes of what outputs xᵀβ are sums of, and of their targets."""
    given = followed.given
    targets = jnp.abs(given.discrepancy(jnp.zeros(len(given.X), given.X.dtype)))
    return jnp.max(jnp.abs(given.X), axis=1) * jnp.max(jnp.abs(_measured(followed, network))) + targets


def _direction_of_weights(followed: Followed, options: tuple[Scalar, Weights]) -> Solution:
    tolerance, method = options
    network: Any = followed.network
    problem: Any = followed.problem
    dtype = tolerance.dtype
    farthest = _ask.default_tolerance(dtype, 1e10, 1e3)  # −log L, beyond which round-off in ties of margins is felt
    clock = LossClock(network, problem)
    rtol = _ask.default_tolerance(dtype, 1e-8, 1e-5) if method.rtol is None else method.rtol

    log_losses = -(farthest ** jnp.array(dual_classification.READINGS, dtype))
    until = (LogLoss(log_losses[-1]),)
    run = follow(
        clock,
        until,
        rtol=rtol,
        max_steps=method.max_steps,
        saving=AtLogLosses(clock, log_losses),
        solver=method.solver,
        adjoint=method.adjoint,
    )
    given: Any = followed.given
    reached = solution(clock, until, run)
    end = followed.whole_end(reached, until)
    hopeless = ~end.converged & _is_inseparable(problem, unless=end.converged)
    end = dataclasses.replace(end, status=Status.where(hopeless, Status.no_descent, end.status))

    def beta(state: Any) -> Array:
        return followed.coefficients(with_weights(network, clock.weights(state)))

    betas = jax.vmap(beta)(run.rows.states)
    shares, left = multipliers(end.network, given), remaining_angle(betas)
    if _kkt_residual(end.network, given, shares) is None:
        left = jnp.full_like(left, jnp.inf)  # there is nothing but turns, and a plateau hardly turns
    turned = _with_evidence(end, given, left, tolerance, shares)
    if not can_polish(network, problem):
        return turned
    # Ties of small margins may take all steps before any reading; what is beyond follows the flow itself from anywhere.
    enough = end.converged | (end.status == Status.step_limit)
    rows = run.rows.filled_up(run.tau, run.state)
    before = jax.tree.map(lambda v: jnp.where(run.rows.kept[1], v[1], v[0]), rows.states)
    in_turn = partial(after, hopeless.astype(dtype))  # see `gflow._order`
    before, there = jax.tree.map(in_turn, (with_weights(network, clock.weights(before)), reached.network))
    found, certain = limit_direction(before, there, problem)
    there = _whole_direction(followed, found.network, end)
    there = dataclasses.replace(there, status=Status.where(enough, Status.converged, end.status))
    proved = enough & certain
    accepted = jnp.minimum(_STATIONARY + _rounded(there.network, given, found.shares), tolerance)
    proved &= homogeneous_kkt_residual(there.network, given, found.shares) <= accepted
    there = _with_evidence(there, given, found.error, tolerance, found.shares)
    return jax.tree.map(lambda v, w: jnp.where(proved, v, w), there, turned)


def _is_inseparable(problem: Classification, unless: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether no linear function classifies every point. A flow that has not arrived then has nowhere to go, although
    it may still creep towards its rest when it has used all its steps."""
    margins_of = problem.y[:, None] * problem.X
    margins_of = jnp.where(unless, 1.0, margins_of)  # of which the answer is known at once
    return is_balanced(margins_of, jnp.zeros(problem.X.shape[1], margins_of.dtype))


_STATIONARY = 1e-10  # KKT residual of the direction that is returned, whose terms are of size 1


def _rounded(network: Network, problem: Classification, shares: Array) -> Scalar:
    """Round-off in the margins that matter, relative to them: their terms may be many times as large."""
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), network.weights)
    slopes = jax.vmap(lambda one: norm(pull_back(one)[0]))(jnp.eye(outputs.size, dtype=outputs.dtype))
    terms = shares * slopes
    slope = jnp.max(jnp.where(terms > ACTIVE * jnp.max(terms), slopes, 0.0))
    epsilon = jnp.finfo(outputs.dtype).eps
    return epsilon * slope * norm(network.weights) / jnp.abs(shares @ problem.margins(outputs))


def _whole_direction(followed: Followed, small: Any, end: Solution) -> Solution:
    """The direction of `small` as an end at the log-loss of `end`. Of weights at rest nothing is left in the limit."""
    given: Any = followed.given
    far = 1e25  # beside which no start that float64 integrates is seen, and whose products it holds to ten layers
    network = followed.lift(with_weights(small, tuple(far * v for v in small.weights)))
    network = with_weights(network, tuple(v / far for v in network.weights))
    margin = jnp.min(given.margins(network(given.X)))
    size = ((jnp.log(given.y.size) - end.log_loss) / jnp.where(margin > 0, margin, 1.0)) ** (1 / small.degree)
    network = with_weights(network, tuple(size * v for v in network.weights))
    return dataclasses.replace(end, network=network, log_loss=given.log_loss(network(given.X)))


def _with_evidence(end: Solution, given: Any, error: Scalar, tolerance: Scalar, shares: Array) -> Solution:
    """The end with its certificate, for the data points' shares in the gradient, and an error no less than that of the
    theorem's problem."""
    found, residual = {}, _kkt_residual(end.network, given, shares)
    if residual is not None:
        error, found["kkt_residual"] = jnp.maximum(error, residual), residual
    elif end.network.degree is not None:
        found["kkt_residual"] = homogeneous_kkt_residual(end.network, given, shares)
    if isinstance(end.network, LinearTensorNetwork):
        found["singular_vector_residual"] = singular_vector_residual(end.network, given, shares)
    return dataclasses.replace(
        end,
        status=Status.where(end.converged & ~(error <= tolerance), Status.not_certified, end.status),
        error=jnp.where(end.converged, error, jnp.inf),
        certificate=Certificate.of(error, **found),
    )


def _kkt_residual(network: LinearNetwork, problem: Classification, shares: Array) -> Scalar | None:
    """That of Theorem 2's problem, or of Corollary 1's, which has the ℓ2 norm of β like a single layer; else None."""
    layers, modes = network.layers(), network.modes()
    if layers is not None and layers[-1].shape[1] == 1:
        A, rho, depth = problem.X, network.coefficients(), 1
    elif modes is not None:
        A, rho, depth = modes.inputs(problem.X), modes.rho(), len(modes.eta)
    else:
        return None
    return kkt_residual(rho, shares, problem.y[:, None] * A, depth)
