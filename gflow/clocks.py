"""The clocks of gradient flow: reparametrisations of time in which the same path can be followed.

Imports networks, problems.

The *time clock* u = log(1 + t) serves regression, and whenever times are asked for. The *arc-length clock*
dσ = ‖dΘ‖ / ‖Θ‖ carries a classification on to losses like 10^(−10^10), where t itself would overflow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Bool, Scalar

from .networks import Network, with_weights
from .problems import Problem, loss_gradient
from .problems import log_loss as log_loss_at

Weights = tuple[Array, ...]


class Clock(NamedTuple):
    """A clock τ: its state at the start, the state's derivative by τ, and what a state means."""

    start: Callable[[Network, Problem], Any]
    field: Callable[[Any, Any, Any], Any]  # τ, state, (network, problem) -> state
    read: Callable[[Any, Any, tuple[Network, Problem]], tuple[Weights, Scalar]]  # Θ and log(1 + t)
    unit: Callable[[Network], Scalar]  # parts of the state that are smaller are resolved absolutely
    solver: diffrax.AbstractSolver
    pcoeff: float  # of the step size controller
    icoeff: float


def norm(weights: Weights) -> Scalar:
    """‖Θ‖ of all weights together."""
    return jnp.sqrt(sum(jnp.sum(v**2) for v in weights))


def _resolution(network: Network) -> Scalar:
    """A thousandth of the initial weights' root mean square: smaller weights need not keep relative accuracy."""
    return 1e-3 * norm(network.weights) / jnp.sqrt(sum(v.size for v in network.weights))


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
    return 1e-3 * jnp.clip(norm(network.weights), 1e-2, 1.0) / jnp.sqrt(sum(v.size for v in network.weights))


def _arc_start(network: Network, problem: Problem) -> tuple[Weights, Scalar, Scalar]:
    size = norm(network.weights)
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
    slope = norm(gradient)
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


def is_stationary(weights: Weights, network: Network, problem: Problem) -> Bool[Array, ""]:
    """Whether the gradients of the data points cancel in ∇L to nine digits, or all vanish, while L ≥ 1.

    With L < 1 a homogeneous network classifies every point, and its loss always falls.
    """
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), weights)
    shares = jax.grad(problem.log_loss)(outputs)
    each = jax.vmap(lambda one: norm(pull_back(one)[0]))(jnp.diag(shares))
    return (norm(pull_back(shares)[0]) <= 1e-9 * jnp.sum(each)) & (problem.log_loss(outputs) > -1e-9)
