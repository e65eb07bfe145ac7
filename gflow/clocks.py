"""The clocks of gradient flow: reparametrisations of time in which the same path can be followed.

Imports networks, problems, implicit.

The *time clock* u = log(1 + t) serves regression, and whenever times are asked for. The *arc-length clock*
dσ = ‖dΘ‖ / ‖Θ‖ carries a classification on to losses like 10^(−10^10), where t itself would overflow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Scalar

from .implicit import CHORD
from .networks import Network, with_weights
from .problems import Classification, Problem, loss_gradient
from .problems import log_loss as log_loss_at

Weights = tuple[Array, ...]


class Clock(NamedTuple):
    """A clock τ: its state at the start, the state's derivative by τ, and what a state means."""

    start: Callable[[Any, Any], Any]  # network, problem -> state
    field: Callable[[Any, Any, Any], Any]  # τ, state, (network, problem) -> state
    read: Callable[[Any, Any, Any], tuple[Weights, Scalar]]  # τ, state, (network, problem) -> Θ and log(1 + t)
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


# The arc-length clock: the state is θ = Θ/‖Θ‖, log ‖Θ‖, w = log((1 + t) L) and the logits λ_i = log(q_i / Σq) of the
# shares q_i = −∂ log L/∂m_i of the data points. It moves by −∇ log L = Jᵀq, which neither underflows nor overflows.
#
# The logits are functions of the margins. As state of their own they keep the field smooth: if q were read from margins
# of size s, an error δ of θ would be one of sδ in its exponents, and steps would have to shrink like 1/s.
# They are kept in units of √(1 + (10⁻⁶ log L)²), for the round-off of their derivatives is in proportion to log L.
# log t itself grows like −log L and is pinned to it; w stays small.
# To the arc is added log(1 + log(1 + t)), which carries the flow over plateaus, where it hardly moves for a long time.
# θ is kept in units of its resolution: then the tolerance for the other parts, which pass through zero, is `rtol`.


class _Arc(NamedTuple):
    theta: Weights
    log_norm: Scalar
    w: Scalar
    logits: Float[Array, " n"]


def _arc_unit(network: Network) -> Scalar:
    # Below a hundredth of a thousandth, the tolerance would be below the round-off of θ.
    return 1e-3 * jnp.clip(norm(network.weights), 1e-2, 1.0) / jnp.sqrt(sum(v.size for v in network.weights))


def _logit_unit(log_loss: Scalar) -> Scalar:
    return jnp.sqrt(1 + (1e-6 * log_loss) ** 2)


def _arc_start(network: Network, problem: Classification) -> _Arc:
    size = norm(network.weights)
    size = jnp.where(size > 0, size, 1.0)  # the zero network is stationary and stays where it is
    theta = tuple(v / (size * _arc_unit(network)) for v in network.weights)
    outputs = network(problem.X)
    log_loss = problem.log_loss(outputs)
    logits = jax.nn.log_softmax(problem.log_slopes(problem.margins(outputs)))
    return _Arc(theta, jnp.log(size), log_loss, logits / _logit_unit(log_loss))


def _arc_weights(state: _Arc, network: Network) -> Weights:
    return tuple(jnp.exp(state.log_norm) * _arc_unit(network) * v for v in state.theta)


def _arc_field(sigma: Scalar, state: _Arc, args: tuple[Network, Classification]) -> _Arc:
    network, problem = args
    weights, size = _arc_weights(state, network), jnp.exp(state.log_norm)
    outputs, forward = jax.linearize(lambda v: with_weights(network, v)(problem.X), weights)
    backward = jax.linear_transpose(forward, weights)
    log_loss, shares = jax.value_and_grad(problem.log_loss)(outputs)
    total = -jnp.sum(problem.y * shares)  # Σq, which is 1 for the exponential loss and does not feel ties
    logits = state.logits * _logit_unit(log_loss)
    q = total * jax.nn.softmax(logits)
    ascent = backward(problem.y * q)[0]  # −∇ log L = dΘ/dτ with dτ = L dt
    slope = norm(ascent)
    patience = jnp.exp(-state.w) / (1 + jax.nn.relu(state.w - log_loss))
    rate = 1 / (slope / size + patience)  # dτ/dσ
    radial = jnp.sum(jnp.stack([jnp.sum(g * v) for g, v in zip(ascent, weights, strict=True)])) / size**2
    tangential = tuple(g / size - radial * v / size for g, v in zip(ascent, weights, strict=True))

    log_slopes, change = jax.jvp(problem.log_slopes, (problem.margins(outputs),), (problem.margins(forward(ascent)),))
    change -= jax.nn.softmax(logits) @ change
    # Two terms that are zero: they keep round-off out of the logits' common part, which nothing else does, and
    # errors out of all of them while L > 1, where the flow may come to rest.
    change -= slope**2 * jax.nn.logsumexp(logits)
    back = jnp.exp(jnp.minimum(log_loss, 0.0)) * (jax.nn.log_softmax(log_slopes) - logits)
    unit, unit_change = jax.jvp(_logit_unit, (log_loss,), (-rate * slope**2,))
    return _Arc(
        theta=tuple(rate / _arc_unit(network) * v for v in tangential),
        log_norm=rate * radial,
        w=rate * (jnp.exp(-state.w) - slope**2),
        logits=(rate * change + back - state.logits * unit_change) / unit,
    )


def _arc_read(sigma: Scalar, state: _Arc, args: tuple[Network, Classification]) -> tuple[Weights, Scalar]:
    weights = _arc_weights(state, args[0])
    return weights, state.w - log_loss_at(weights, *args)


ARC_LENGTH = Clock(
    start=_arc_start,
    field=_arc_field,
    read=_arc_read,
    unit=lambda network: jnp.ones(()),
    solver=CHORD,
    pcoeff=0.3,  # halves the rejected steps
    icoeff=0.4,
)
LONGEST_ARC = 1e4  # log ‖Θ‖ is at most σ; float64 ends at log ‖Θ‖ = 709


def is_stationary(weights: Weights, network: Network, problem: Classification) -> Bool[Array, ""]:
    """Whether the flow cannot make the loss fall any further, although it does not classify every point.

    That is where the gradients of the data points cancel in ∇L to nine digits, or all vanish. A function xᵀβ also
    cannot where Σ q_i y_i x_i vanishes to nine digits of the longest x_i, with q_i the points' shares in ∇L: its norm
    bounds the margin of every unit β (Gordan), so the data are not separable. A plateau meets neither.
    """
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), weights)
    log_loss, shares = jax.value_and_grad(problem.log_loss)(outputs)
    each = jax.vmap(lambda one: norm(pull_back(one)[0]))(jnp.diag(shares))
    stationary = norm(pull_back(shares)[0]) <= 1e-9 * jnp.sum(each)
    if hasattr(network, "coefficients"):
        longest = jnp.max(jnp.linalg.norm(problem.X, axis=1))
        stationary |= jnp.linalg.norm(shares @ problem.X) <= 1e-9 * longest * jnp.sum(jnp.abs(shares))
    # A loss below that of a single margin of zero classifies every point, and falls for ever.
    return stationary & (log_loss > problem.log_of_loss(jnp.zeros(())) - 1e-9)
