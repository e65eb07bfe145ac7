"""The clocks of gradient flow: reparametrisations of time in which the same path can be followed.

The *time clock* u = log(1 + t) serves every problem. The *loss clock*, about log |log L|, carries a
classification on to losses like 10^(−10^10), where t itself would overflow.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Scalar

from ..networks import Network, with_weights
from ..problems import Classification, Problem, loss_gradient
from ..problems import log_loss as log_loss_at
from . import implicit

Weights = tuple[Array, ...]


class Clock(eqx.Module):
    """A clock τ of one flow: the state's start, its derivative by τ, and what a state means."""

    network: eqx.AbstractVar[Network]  # the start
    problem: eqx.AbstractVar[Problem]
    pcoeff: ClassVar[float] = 0.3  # of the step size controller: halves the rejected steps of stiff flows
    icoeff: ClassVar[float] = 0.4

    @abc.abstractmethod
    def start(self) -> Any: ...

    @abc.abstractmethod
    def __call__(self, tau: Scalar, state: Any) -> Any:
        """The state's derivative by τ."""

    @abc.abstractmethod
    def weights(self, state: Any) -> Weights: ...

    @abc.abstractmethod
    def log_time(self, tau: Scalar, state: Any) -> Scalar:
        """log t."""

    @abc.abstractmethod
    def last(self) -> float:
        """Where the clock ends."""

    @abc.abstractmethod
    def unit(self) -> Scalar:
        """Parts of the state that are smaller are resolved absolutely."""

    @abc.abstractmethod
    def solver(self) -> diffrax.AbstractSolver: ...


def norm(weights: Weights) -> Scalar:
    """‖Θ‖ of all weights together."""
    return jnp.sqrt(sum(jnp.sum(v**2) for v in weights))


def root_mean_square(weights: Weights) -> Scalar:
    """Of all entries."""
    return norm(weights) / jnp.sqrt(sum(v.size for v in weights))


class TimeClock(Clock):
    """Those of u = log(1 + t), in which the state is Θ unless a flow has more."""

    pcoeff: ClassVar[float] = 0.0  # a proportional part remembers errors at round-off level: lanes would differ by them
    icoeff: ClassVar[float] = 1.0

    def start(self) -> Any:
        return self.network.weights

    def weights(self, state: Any) -> Weights:
        return state

    def log_time(self, tau: Scalar, state: Any) -> Scalar:
        return log_time_at(tau)

    def last(self) -> float:
        largest = jnp.finfo(jnp.result_type(*self.network.weights)).max
        return float(np.log(largest)) - 20.0  # 690 in float64: e^690 leaves room for gradients

    def unit(self) -> Scalar:
        """A thousandth of the initial weights' root mean square: smaller weights need not keep relative accuracy."""
        return 1e-3 * root_mean_square(self.network.weights)

    def solver(self) -> diffrax.AbstractSolver:
        return diffrax.Dopri8()


class GradientClock(TimeClock):
    """dΘ/du = −(1 + t) ∇L.

    `rates`: factors of the velocity, one for every weight; all 1 where there are none.
    """

    network: Network
    problem: Problem
    rates: Weights | None = None

    def __call__(self, tau: Scalar, state: Weights) -> Weights:
        gradient = loss_gradient(state, self.network, self.problem)
        if self.rates is not None:
            gradient = tuple(rate * g for rate, g in zip(self.rates, gradient, strict=True))
        return tuple(-jnp.exp(tau).astype(g.dtype) * g for g in gradient)


def log_time_at(u: Scalar) -> Scalar:
    """log t as a function of u = log(1 + t)."""
    return u + jnp.log(-jnp.expm1(-jnp.maximum(u, 0.0)))


class _Parts(NamedTuple):
    theta: Float[Array, " N"]
    log_norm: Scalar
    w: Scalar
    logits: Float[Array, " n"]


class LossClock(Clock):
    """dσ = |d log L| / (1 + |log L|) + d log(1 + log(1 + t)), with the gradient of log L.

    The second part carries the flow over plateaus, where it hardly moves for long. The first is smooth at rest, where
    the length of the way would have a kink, at which the iterations of implicit steps end nowhere. Only where weights
    grow by a factor within a millionth of log t, as those of deep networks do when they leave a tiny start, and no two
    times in float64 might lie between, that length is added in squares.

    The state is θ = Θ/‖Θ‖, log ‖Θ‖, w = log((1 + t) L) and the logits λ_i = log(q_i / Σq) of the
    shares q_i = −∂ log L/∂m_i of the data points. It moves by −∇ log L = Jᵀq, which neither underflows nor overflows.

    The logits are functions of the margins. As state of their own they keep the field smooth: if q were read from
    margins of size s, an error δ of θ would be one of sδ in its exponents, and steps would have to shrink like 1/s.
    They are kept in units of √(1 + (10⁻⁶ log L)²), for the round-off of their derivatives is in proportion to log L.
    log t itself grows like −log L and is pinned to it; w stays small. From a loss below e^−300 it starts as if the time
    were not 0 but e^−300/L: that is forgotten at once, while e^{−w} would overflow.
    θ is kept in units of its resolution: then the tolerance for the other parts, which pass through zero, is `rtol`.
    """

    network: Network
    problem: Classification  # pyright: ignore[reportIncompatibleVariableOverride] (narrower, and frozen)

    def _resolution(self) -> Scalar:
        # Below a hundredth of a thousandth, the tolerance would be below the round-off of θ.
        entries = sum(v.size for v in self.network.weights)
        return 1e-3 * jnp.clip(norm(self.network.weights), 1e-2, 1.0) / jnp.sqrt(entries)

    def start(self) -> _Parts:
        weights = self.network.weights
        size = norm(weights)
        size = jnp.where(size > 0, size, 1.0)  # the zero network is stationary and stays where it is
        theta = ravel_pytree(weights)[0] / (size * self._resolution())
        outputs = self.network(self.problem.X)
        log_loss = self.problem.log_loss(outputs)
        logits = jax.nn.log_softmax(self.problem.log_slopes(self.problem.margins(outputs)))
        w = jnp.maximum(log_loss, -_most(log_loss.dtype))
        return _Parts(theta, jnp.log(size), w, logits / _logit_unit(log_loss))

    def weights(self, state: _Parts) -> Weights:
        return ravel_pytree(self.network.weights)[1](jnp.exp(state.log_norm) * self._resolution() * state.theta)

    def __call__(self, tau: Scalar, state: _Parts) -> _Parts:
        problem, resolution = self.problem, self._resolution()
        unravel, size = ravel_pytree(self.network.weights)[1], jnp.exp(state.log_norm)
        weights = size * resolution * state.theta
        outputs, forward = jax.linearize(lambda v: with_weights(self.network, unravel(v))(problem.X), weights)
        backward = jax.linear_transpose(forward, weights)
        log_loss, shares = jax.value_and_grad(problem.log_loss)(outputs)
        total = -jnp.sum(problem.y * shares)  # Σq, which is 1 for the exponential loss and does not feel ties
        logits = state.logits * _logit_unit(log_loss)
        q = total * jax.nn.softmax(logits)
        ascent = backward(problem.y * q)[0]  # −∇ log L = dΘ/dτ with dτ = L dt
        slope = jnp.linalg.norm(ascent)
        patience = jnp.exp(-state.w) / (1 + jax.nn.relu(state.w - log_loss))
        patience = _hypotenuse(patience, _HASTE * slope / size)
        rate = 1 / (slope**2 / (1 + jnp.abs(log_loss)) + patience)  # dτ/dσ
        radial = jnp.sum(ascent * weights) / size**2
        tangential = (ascent - radial * weights) / size

        margins, moving = problem.margins(outputs), problem.margins(forward(ascent))
        log_slopes, change = jax.jvp(problem.log_slopes, (margins,), (moving,))
        change -= jax.nn.softmax(logits) @ change
        # Two terms that are zero: they keep round-off out of the logits' common part, which nothing else does, and
        # errors out of all of them while L > 1, where the flow may come to rest.
        change -= slope**2 * jax.nn.logsumexp(logits)
        back = jnp.exp(jnp.minimum(log_loss, 0.0)) * (jax.nn.log_softmax(log_slopes) - logits)
        unit, unit_change = jax.jvp(_logit_unit, (log_loss,), (-rate * slope**2,))
        return _Parts(
            theta=rate / resolution * tangential,
            log_norm=rate * radial,
            w=rate * (jnp.exp(-state.w) - slope**2),
            logits=(rate * change + back - state.logits * unit_change) / unit,
        )

    def log_time(self, tau: Scalar, state: _Parts) -> Scalar:
        return log_time_at(state.w - log_loss_at(self.weights(state), self.network, self.problem))

    def last(self) -> float:
        return 1e4  # float64 ends where log |log L|, log ‖Θ‖ or log log t is 709

    def unit(self) -> Scalar:
        return jnp.ones((), jnp.result_type(*self.network.weights))

    def solver(self) -> diffrax.AbstractSolver:
        return implicit.chord()


_HASTE = 1e-6  # of the length of the way, relative to ‖Θ‖, beside a change of log(1 + log(1 + t))


def _hypotenuse(a: Scalar, b: Scalar) -> Scalar:
    """√(a² + b²) where squares may underflow, and with them the derivatives of `jnp.hypot` become NaN."""
    unit = jax.lax.stop_gradient(jnp.maximum(a, b))
    unit = jnp.where(unit > 0, unit, 1.0)
    squares = (a / unit) ** 2 + (b / unit) ** 2
    return jnp.where(squares > 0, unit * jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def _most(dtype: Any) -> float:
    """An exponent whose exponential leaves room for its square: 300 in float64."""
    return 0.42 * float(np.log(float(jnp.finfo(dtype).max)))


def _logit_unit(log_loss: Scalar) -> Scalar:
    return jnp.sqrt(1 + (1e-6 * log_loss) ** 2)
