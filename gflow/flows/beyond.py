"""The direction of a classification's flow beyond every loss, where only ratios of its margins matter.

Let f be homogeneous of degree L, θ = Θ/‖Θ‖ and m_i = y_i f(x_i; θ). In the clock log ‖Θ‖, with the points' shares q in
−∇ log L, the flow is

    dθ / d log ‖Θ‖ = Σ q_i ∇m_i / (L Σ q_i m_i) − θ.

The shares tie the smallest margins to each other, the more closely the further the flow has gone. With the margins
M_i = ‖Θ‖^L m_i of an exponential loss q_i ∝ e^{−M_i}. Here q_i ∝ (1 + M_i/κ)^{−κ} with a fixed κ, the same path up to a
relative 1/κ: at first it is the flow itself, and where M_i ≫ κ no loss or norm is left in it. Where plateaus last for
hundreds of decades of the loss this walks over them.

The logits ℓ = log q are state of their own, which the margins draw to their place: with ε = κ/‖Θ‖^L all (m_i + ε)
e^{ℓ_i/κ} are equal. In θ and ℓ these are all but linear, as an interior-point method's equations are in its unknowns
and multipliers. In θ alone κ/m_i would magnify its errors: the smaller margins are beside their terms, the shorter
steps would have to be. So they would if ℓ were followed by its derivative, as `LossClock` does: where points contradict
each other but for w, shares wrong by w times the tolerance turn the flow by as much as the tolerance.

The state is arsinh ℓ. Logits of points that have lost their shares are as large as κ, and are only known to κ times the
round-off of their margins: to a hundredth of themselves that is enough, to a hundredth of a logit it is not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from ..measures import angle
from ..networks import LinearNetwork, with_weights
from ..problems import Classification
from . import implicit
from .engine import Integration, integrate
from .polish import Polished, constant_of, polished
from .rows import Saving

_LAST = 1e4  # of log ‖Θ‖: deviations that die out like ‖Θ‖^−h are gone for h down to 3e-3
_RTOL = 1e-6
_KAPPAS = (1e4, 1e5)  # margins larger by 14/κ are told from active ones; round-off in the shares is κ times that in m
_AGREED = 1e-9  # radians, of two points each known to 1e-11 or better
_NEAR = 0.1  # radians, from where on differences are small enough to fall like 1/κ
_RESOLVED = 1.4e-4  # radians: 14/κ of the second path, to which it ties margins and by which it may miss near data
_COARSE = 1e-7  # arsinh ℓ in these units: the tolerance below which θ is absolute is then a hundredth of 1 + |ℓ|
_FAST = 1e24  # rate at which logits follow: far above 4κ Σ q_i ‖∇ log m_i‖² / L, below which the ties would swing
_FAR = 600.0  # a margin where losses are exponential to round-off; float64 holds its exponential
_BRIEF = 1e-4  # steps in which errors do not grow, and in which θ may change by less than its round-off
_STILL, _STIRRED = 1e-6, 1e-5  # speeds, by log ‖Θ‖: with a distance to a saddle like the first, errors choose the exit


class _Place(NamedTuple):
    theta: Float[Array, " N"]
    folded: Float[Array, " n"]  # arsinh ℓ, in units of 1 / _COARSE

    def logits(self) -> Float[Array, " n"]:
        return jnp.sinh(self.folded / _COARSE)


class _Shares(NamedTuple):
    """The flow's field, and what it is made of."""

    network: Any
    problem: Classification
    kappa: Scalar
    log_size: Scalar  # of ‖Θ‖^L at τ = 0

    def margins(self, theta: Float[Array, " N"]) -> Float[Array, " n"]:
        network = with_weights(self.network, ravel_pytree(self.network.weights)[1](theta))
        return self.problem.margins(network(self.problem.X))

    def start(self, theta: Float[Array, " N"]) -> _Place:
        margins = self.margins(theta)
        least, (epsilon, bend) = jnp.min(margins), self.loss_at(jnp.zeros((), theta.dtype), margins)
        logits = bend - self.kappa * jnp.log1p((margins - least) / (epsilon + least))
        return _Place(theta, _COARSE * jnp.arcsinh(jax.nn.log_softmax(logits)))

    def loss_at(self, tau: Scalar, margins: Float[Array, " n"]) -> tuple[Scalar, Float[Array, " n"]]:
        """ε, and by how much the logits of the loss differ from −k M_i, where −k is their slope far out.

        ε is in proportion to 1/k: the exponential loss that is taken to the power −κ is that of kM_i.
        """
        slopes = self.problem.log_slopes
        far = jnp.full_like(margins, _FAR)
        k = -jax.jvp(slopes, (far,), (jnp.ones_like(far),))[1][0]
        log_size = self.network.degree * tau + self.log_size
        there = jnp.minimum(jnp.exp(jnp.minimum(log_size, _FAR)) * margins, _FAR)
        return self.kappa / k * jnp.exp(-log_size), slopes(there) + k * there

    def shares(self, place: _Place) -> Float[Array, " n"]:
        return jax.nn.softmax(place.logits())

    def __call__(self, tau: Scalar, place: _Place) -> _Place:
        margins, pull_back = jax.vjp(self.margins, place.theta)
        q, logits = self.shares(place), place.logits()
        epsilon, bend = self.loss_at(tau, margins)
        tied = margins + (margins + epsilon) * jnp.expm1((logits - bend) / self.kappa)
        off = self.kappa * (tied - q @ tied) / (epsilon + q @ tied) + jax.nn.logsumexp(logits)
        return _Place(
            theta=pull_back(q)[0] / (self.network.degree * (q @ margins)) - place.theta,
            folded=-_COARSE * _FAST * off,
        )


class _Stirring(NamedTuple):
    """The least speed of a step so far, and whether the path has come to rest and moved on."""

    least: Scalar
    stirred: Bool[Array, ""]


class _AtRest(Saving):
    """Keeps no rows, but whether a path has come so near to a saddle that its errors chose where it went on to.

    Brief steps are passed over: an implicit solver starts with some in which θ does not change by its last bit.
    """

    def start(self, tau: Scalar, state: PyTree) -> _Stirring:
        return _Stirring(jnp.full_like(tau, jnp.inf), jnp.zeros((), bool))

    def after(
        self, memory: _Stirring, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> _Stirring:
        speed = jnp.linalg.norm(state.theta - between(tau_0).theta) / (tau_1 - tau_0)
        stirred = memory.stirred | ((memory.least < _STILL) & (speed > _STIRRED))
        after = _Stirring(jnp.minimum(memory.least, speed), stirred)
        return jax.tree.map(lambda new, old: jnp.where(tau_1 - tau_0 > _BRIEF, new, old), after, memory)

    def rows(self, memory: _Stirring) -> Any:
        return memory


def limit_direction(
    before: LinearNetwork, reached: LinearNetwork, problem: Classification
) -> tuple[Polished, Bool[Array, ""]]:
    """Where the direction of a flow tends to that has passed `before` and `reached`; and whether that is certain.

    Two paths are followed, from either network and with κ a tenth in the first, and each is polished. It is certain if
    both end near the same minimum, the second ten times as near, neither has come to rest on its way, and ‖Θ‖ grows in
    both networks: Σ q_i m_i > 0. It does where every point is classified, and some way before that.
    """
    before, reached, constant = jax.tree.map(constant_of, (before, reached, problem))
    starts = jax.tree.map(lambda v, w: jnp.stack([v, w]), before.weights, reached.weights)

    def one(start: tuple[tuple[Array, ...], Scalar]) -> tuple[Polished, Scalar, Bool[Array, ""]]:
        weights, kappa = start
        network, shares, straight = _followed(with_weights(reached, weights), constant, kappa)
        found = polished(network, problem, shares)
        return found, angle(network.coefficients(), found.network.coefficients()), straight

    kappas = jnp.array(_KAPPAS, jnp.result_type(*reached.weights))
    found, angles, straight = jax.lax.map(one, (starts, kappas))
    betas = jax.vmap(lambda network: network.coefficients())(found.network)
    return jax.tree.map(lambda v: v[1], found), (
        jnp.all(found.is_minimum & straight)
        & (angle(betas[0], betas[1]) <= _AGREED)
        & (angles[0] <= _NEAR)
        & (angles[1] <= jnp.maximum(0.3 * angles[0], _RESOLVED))
    )


def _followed(network: Any, problem: Any, kappa: Scalar) -> tuple[Any, Float[Array, " n"], Bool[Array, ""]]:
    """The direction at the end, the shares there, and whether the path went to it straight on."""
    theta, unravel = ravel_pytree(network.weights)
    size = jnp.linalg.norm(theta)
    theta = theta / size
    field = _Shares(network, problem, kappa, network.degree * jnp.log(size))
    place = field.start(theta)
    grows = field.shares(place) @ field.margins(theta) > 0
    run = integrate(
        Integration(
            field=field,
            solver=implicit.newton(),
            start=place,
            first=jnp.zeros((), theta.dtype),
            last=jnp.where(grows, jnp.asarray(_LAST, theta.dtype), 0.0),
            rtol=_RTOL,
            atol=1e-3 * _RTOL,
            saving=_AtRest(),
            max_steps=4096,
        )
    )
    straight = (run.result == diffrax.RESULTS.successful) & grows & ~run.rows.stirred
    return with_weights(network, unravel(run.state.theta)), field.shares(run.state), straight
