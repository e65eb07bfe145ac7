"""Flows beside gradient flow: what `gflow.flow` and `gflow.limit` follow instead, as objects."""

import abc
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Scalar

from ._checks import is_concrete, to_scalar
from .dual import other_flows
from .flows import implicit
from .flows.clocks import Clock, TimeClock
from .networks import Network
from .problems import Problem, SquaredLoss, loss_gradient

Weights = tuple[Array, ...]


class Dynamics(eqx.Module):
    """A flow other than dv_l/dt = −∂L/∂v_l: `gflow.WeightDecay`, `gflow.Momentum` or `gflow.SharpnessAware`.

    ```python
    end = gflow.limit(start, problem, dynamics=gflow.Momentum(0.1))
    ```
    """

    @abc.abstractmethod
    def clock(self, network: Network, problem: Problem) -> Clock:
        """The flow of the weights of any network."""

    @abc.abstractmethod
    def begin(self, flow: other_flows.Flow) -> other_flows.Begun:
        """The start of gradient flow that ends where this flow of a regression does."""

    @abc.abstractmethod
    def require_limit(self, problem: Any, depth: int) -> None:
        """Raises ValueError unless the limit of a regression with this problem's loss and depth is known."""


def _to_positive(name: str, value: Any) -> Any:
    value = to_scalar(name, value)
    if is_concrete(value) and not value > 0:
        raise ValueError(f"{name} must be positive; got {float(value):g}. For gradient flow pass no dynamics.")
    return value


def _to_rate(value: Any) -> Any:
    return value if callable(value) else _to_positive("rate", value)


def _to_time(value: Any) -> Any:
    return None if value is None else _to_positive("until", value)


class WeightDecay(Dynamics):
    """v̇_l = −∂L/∂v_l − λ(t) v_l, with λ = 0 from the time `until` on.

    - `rate`: λ, a number, or a function of the time t. A function made anew in every call is another one to JAX, which
      then compiles anew.
    - `until`: when decay is switched off; by default never.

    Its limit is that of gradient flow from where decay has taken the weights, at every depth. Never switched off, at a
    constant rate, two layers end at the minimum of L + λ‖ρ‖_1 and more at a stationary point of
    L + (λL/2) Σ |ρ_j|^{2/L}.

    ```python
    end = gflow.limit(start, problem, dynamics=gflow.WeightDecay(0.1, until=5.0))
    ```
    """

    rate: Any = eqx.field(converter=_to_rate)
    until: Scalar | None = eqx.field(converter=_to_time, default=None)

    def rate_at(self, t: Scalar) -> Scalar:
        """λ(t) while decay is on."""
        return jnp.asarray(self.rate(t) if callable(self.rate) else self.rate, t.dtype)

    def clock(self, network: Network, problem: Problem) -> Clock:
        return _DecayClock(network, problem, self)

    def begin(self, flow: other_flows.Flow) -> other_flows.Begun:
        return other_flows.after_decay(flow, self.rate_at, self.until)

    def require_limit(self, problem: Any, depth: int) -> None:
        if self.until is not None:
            return
        if callable(self.rate):
            raise ValueError(
                "Weight decay whose rate changes for ever has no limit: pass until=…, or a number for the rate."
            )
        _require_squares(problem, "Weight decay that is never switched off")


def _require_squares(problem: Any, what: str) -> None:
    if not isinstance(problem.loss, SquaredLoss):
        raise ValueError(f"{what} has a known limit for squares; got the loss {type(problem.loss).__name__}.")


def _require_two_layers(depth: int, what: str) -> None:
    if depth != 2:
        raise ValueError(
            f"{what} has a known limit for two layers; got {depth}. Follow it by gflow.flow(…, dynamics=…)."
        )


class Momentum(Dynamics):
    """λ v̈_l + v̇_l = −∂L/∂v_l from rest, with the `inertia` λ > 0: the limit of heavy-ball descent.

    Momentum b at the step size γ is λ = γ/(1 − b)² in the time t = γk/(1 − b). The limit of two layers is that of
    gradient flow from w_± e^{c_±}, c_± = −λ ∫ (ẇ_±/w_±)² dt, w_± = η_1 ± η_2 (Papazov, Pesme & Flammarion 2024). Where
    a w_± passes through zero, as it may at a large inertia, that is void: the status is then `passed zero`.

    ```python
    end = gflow.limit(start, problem, dynamics=gflow.Momentum(0.1))
    ```
    """

    inertia: Scalar = eqx.field(converter=lambda v: _to_positive("inertia", v))

    def clock(self, network: Network, problem: Problem) -> Clock:
        return _MomentumClock(network, problem, self.inertia)

    def begin(self, flow: other_flows.Flow) -> other_flows.Begun:
        return other_flows.after_momentum(flow, self.inertia)

    def require_limit(self, problem: Any, depth: int) -> None:
        _require_squares(problem, "Momentum")
        _require_two_layers(depth, "Momentum")


class SharpnessAware(Dynamics):
    """dv_l/dt = −∂L/∂v_l, taken at Θ + ϱ∇L(Θ) with the `radius` ϱ > 0: full-batch sharpness-aware minimisation in
    continuous time, without normalisation (Andriushchenko & Flammarion 2022).

    The limit of two layers is that of gradient flow from w_± e^c, c = −ϱ ∫ g ⊙ ĝ dt, with w_± = η_1 ± η_2 and the
    gradients g and ĝ by the coefficients at Θ and at Θ + ϱ∇L(Θ).

    ```python
    end = gflow.limit(start, problem, dynamics=gflow.SharpnessAware(0.1))
    ```
    """

    radius: Scalar = eqx.field(converter=lambda v: _to_positive("radius", v))

    def clock(self, network: Network, problem: Problem) -> Clock:
        return _SharpnessClock(network, problem, self.radius)

    def begin(self, flow: other_flows.Flow) -> other_flows.Begun:
        return other_flows.after_sharpness(flow, self.radius)

    def require_limit(self, problem: Any, depth: int) -> None:
        _require_two_layers(depth, "Sharpness-aware flow")


class _OtherClock(TimeClock):
    """Those of flows other than gradient flow. Their ends are as stiff, and have no tail in closed form: small ones are
    followed by an implicit method, to which that is nothing."""

    def solver(self) -> diffrax.AbstractSolver:
        unknowns = sum(v.size for v in jax.tree.leaves(self.start()))
        return implicit.chord() if unknowns <= implicit.MOST_UNKNOWNS else diffrax.Dopri8()


class _DecayClock(_OtherClock):
    network: Network
    problem: Problem
    dynamics: WeightDecay

    def __call__(self, tau: Scalar, state: Weights) -> Weights:
        t, until = jnp.expm1(tau), self.dynamics.until
        rate = self.dynamics.rate_at(t)
        rate = rate if until is None else jnp.where(t < until, rate, 0.0)
        gradient = loss_gradient(state, self.network, self.problem)
        return tuple(-jnp.exp(tau) * (g + rate * v) for g, v in zip(gradient, state, strict=True))


class _MomentumClock(_OtherClock):
    """The state is Θ and its velocity."""

    network: Network
    problem: Problem
    inertia: Scalar

    def start(self) -> tuple[Weights, Weights]:
        weights = self.network.weights
        return weights, tuple(jnp.zeros_like(v) for v in weights)

    def weights(self, state: tuple[Weights, Weights]) -> Weights:
        return state[0]

    def __call__(self, tau: Scalar, state: tuple[Weights, Weights]) -> tuple[Weights, Weights]:
        (weights, velocity), speed = state, jnp.exp(tau)
        gradient = loss_gradient(weights, self.network, self.problem)
        force = tuple(-speed * (g + u) / self.inertia for g, u in zip(gradient, velocity, strict=True))
        return tuple(speed * u for u in velocity), force


class _SharpnessClock(_OtherClock):
    network: Network
    problem: Problem
    radius: Scalar

    def __call__(self, tau: Scalar, state: Weights) -> Weights:
        gradient = loss_gradient(state, self.network, self.problem)
        beside = tuple(v + self.radius * g for v, g in zip(state, gradient, strict=True))
        return tuple(-jnp.exp(tau) * g for g in loss_gradient(beside, self.network, self.problem))
