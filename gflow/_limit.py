"""Where the flow ends as t → ∞."""

from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from . import _ask
from ._checks import all_concrete, is_concrete, require_precision, to_scalar
from ._limit_direction import direction_of_weights
from ._limit_point import point_of_weights
from .dual import classification as dual_classification
from .dual import decayed, other_flows
from .dual import regression as dual_regression
from .dual.decoupled import decoupled
from .dual.newton import MOST_ITERATIONS
from .dual.vertex import Vertex
from .dynamics import Dynamics, WeightDecay
from .flows.engine import attempted_first
from .flows.smaller import on_smaller
from .methods import Auto, Dual, Method, Weights
from .networks import LinearNetwork, Network
from .problems import Classification, Problem, Regression, require_fit
from .records import Solution

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
    ill-conditioned data magnify. It is ∞ where the losses of the two trajectories do not fall at the same times, or
    where both lose something that the flow conserves by the same amount: coordinates that are asleep beside others of
    size 1 were then made by errors, and that both end alike does not show that these did not matter.

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
        return _of_weights(_ask.scaled(network, log_alpha), problem, tolerance, _weights(method))
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
    found = None if isinstance(method, Weights) else decoupled(network, problem)
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


def _of_weights(network: NetworkT, problem: Problem, tolerance: Scalar, method: Weights) -> Solution[NetworkT]:
    """By explicit steps where a few of them prove their end; else by those of `method`."""
    if method.adjoint is not None or not _ask.is_implicit(problem, method):
        return _by_weights(network, problem, tolerance, method)

    def by(method: Weights, what: tuple[NetworkT, Problem, Scalar]) -> Solution[NetworkT]:
        return _by_weights(*what, method)

    return attempted_first(
        partial(by, _ask.explicit_attempt(method, _FEW)),
        partial(by, method),
        (network, problem, tolerance),
        is_good=lambda end: end.converged,
    )


# Explicit steps to a stop. Ordinary flows take 20 to 120; the implicit ones are some 40, each of which costs as much as
# 5 to 10.
_FEW = 128


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
    core = direction_of_weights if isinstance(problem, Classification) else point_of_weights
    return on_smaller(core, network, problem, (tolerance, method), method.adjoint)
