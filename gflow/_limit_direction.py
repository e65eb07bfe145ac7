"""The limit direction of a classification by integrated weights."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Scalar

from . import _ask
from ._order import after
from .dual.classification import READINGS
from .dual.cone import is_balanced
from .flows.beyond import limit_direction
from .flows.clocks import LossClock, norm
from .flows.polish import ACTIVE, can_polish
from .flows.smaller import Followed
from .flows.stopping import AtLogLosses, LogLoss
from .flows.weights import follow, solution
from .measures import (
    homogeneous_kkt_residual,
    kkt_residual,
    multipliers,
    remaining_angle,
    singular_vector_residual,
)
from .methods import Weights
from .networks import LinearNetwork, LinearTensorNetwork, Network, with_weights
from .problems import Classification
from .records import Certificate, Solution, Status


def direction_of_weights(followed: Followed, options: tuple[Scalar, Weights]) -> Solution:
    tolerance, method = options
    network: Any = followed.network
    problem: Any = followed.problem
    dtype = tolerance.dtype
    farthest = _ask.default_tolerance(dtype, 1e10, 1e3)  # −log L, beyond which round-off in ties of margins is felt
    clock = LossClock(network, problem)
    rtol = _ask.default_tolerance(dtype, 1e-8, 1e-5) if method.rtol is None else method.rtol

    log_losses = -(farthest ** jnp.array(READINGS, dtype))
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
