"""Where weight decay ends that is never switched off: at a minimum of L + (λ/2) Σ v².

Layers become equal in size, and at equal size (λ/2) Σ_l η_l² = (λL/2) |ρ|^{2/L}, which is the least that layers with
the product ρ can have (AM–GM). With p = λ/copies, g = Zᵀ(Zρ − y) and squares for a loss,

    L = 2:  the minimum of ½‖Zρ − y‖² + p ‖ρ‖_1, the lasso, which is convex: nothing is integrated;
    L ≥ 3:  a stationary point, g_j + p sign(ρ_j) |ρ_j|^{2/L−1} = 0 where ρ_j ≠ 0: the flow tells which.
"""

import math
from typing import Any, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from ..flows.engine import Integration, integrate
from ..networks import Network
from ..records import Certificate, Route, Solution, Status, first_of, status_of
from .coordinates import Coordinates
from .decoupled import Decoupled, lift
from .newton import scaled
from .other_flows import Options

NetworkT = TypeVar("NetworkT", bound=Network)


class _End(NamedTuple):
    """Layers η of equal size; bounds on the relative error of ρ, by round-off and for each unit of the KKT residual;
    the status if that is proved."""

    eta: Float[Array, "L m"]
    error: Scalar
    sensitivity: Scalar
    status: Status
    steps: Int[Array, ""]
    rejected_steps: Int[Array, ""]


def limit(
    network: NetworkT,
    problem: Any,
    found: Decoupled,
    log_alpha: Scalar,
    rate: Scalar,
    options: Options,
) -> Solution[NetworkT]:
    """The end of the flow v̇_l = −∂L/∂v_l − `rate` v_l from e^`log_alpha` times `network`, for squares."""
    penalty, (tolerance, rtol, max_steps) = rate / found.modes.copies, options
    if len(found.eta) == 2:
        end = _lasso(found, problem.y, Coordinates.of(found.eta, log_alpha), penalty, max_steps or 200)
    else:
        fine = 0.1 * tolerance if rtol is None else rtol
        end = _stationary(found, problem.y, log_alpha, penalty, fine, max_steps or 16384)
    last = lift(network, end.eta, jnp.full_like(log_alpha, -jnp.inf))
    modes: Any = last.modes()
    residual = kkt_residual(found.Z, problem.y, modes.rho(), len(found.eta), penalty, _signs(found.eta))
    outputs = last(problem.X)
    log_loss = problem.log_loss(outputs)
    error = end.error + jnp.maximum(end.sensitivity, 1.0) * residual
    return Solution(
        network=last,
        log_scale=jnp.zeros_like(log_loss),
        log_loss=log_loss,
        log_time=jnp.full_like(log_loss, jnp.inf),
        status=first_of(
            (~jnp.isfinite(log_loss) & ~jnp.isneginf(log_loss), Status.not_finite),
            (end.status != Status.converged, end.status),
            (error <= tolerance, Status.converged),
            otherwise=Status.not_certified,
        ),
        route=Route.dual,
        error=error,
        certificate=Certificate.of(log_loss, kkt_residual=residual),
        steps=end.steps,
        rejected_steps=end.rejected_steps,
    )


def _signs(eta: Float[Array, "L m"]) -> tuple[Bool[Array, " m"], Bool[Array, " m"]]:
    """Whether ρ_j may become positive, and negative: both, but where the two smallest layers are equal in size."""
    coordinates = Coordinates.of(eta)
    return (coordinates.side >= 0) & ~coordinates.frozen, (coordinates.side <= 0) & ~coordinates.frozen


def kkt_residual(
    Z: Float[Array, "n m"],
    y: Float[Array, " n"],
    rho: Float[Array, " m"],
    L: int,
    penalty: Scalar,
    may: tuple[Bool[Array, " m"], Bool[Array, " m"]],
) -> Scalar:
    """How far ρ is from a stationary point of ½‖Zρ − y‖² + (pL/2) Σ |ρ_j|^{2/L}, relative to the penalty's slopes; for
    L = 2 that of the lasso, in which ρ_j = 0 where |g_j| ≤ p. `may`: which signs ρ_j may have."""
    g, alive = (Z @ rho - y) @ Z, rho != 0
    slope = penalty * jnp.where(alive, jnp.abs(jnp.where(alive, rho, 1.0)) ** (2 / L - 1), 1.0)
    at_work = jnp.abs(g + jnp.sign(rho) * slope) / slope
    plus, minus = may
    at_rest = jnp.maximum(jnp.where(plus, -g, 0.0), jnp.where(minus, g, 0.0)) / penalty - 1
    at_rest = jnp.maximum(at_rest, 0.0) if L == 2 else jnp.zeros_like(g)
    return jnp.max(jnp.where(alive, at_work, at_rest))


# The lasso


def _lasso(found: Decoupled, y: Array, start: Coordinates, penalty: Scalar, max_steps: int) -> _End:
    Z, may = found.Z, jnp.stack(_signs(found.eta))
    inner = _interior_point(*jax.lax.stop_gradient((Z, y, penalty)), may, max_steps)
    sign = jnp.where(inner.rho[0] > inner.rho[1], 1.0, -1.0)
    size, slack = jnp.max(inner.rho, axis=0), jnp.min(inner.slack, axis=0)
    # Complementary: one of the two is round-off, each in its own unit. Where all sizes are, ‖ρ‖_1 ≤ ‖y‖²/2p gives it.
    unit = jnp.maximum(jnp.max(size), math.sqrt(float(jnp.finfo(Z.dtype).eps)) * jnp.sum(y**2) / penalty)
    alive = size > jax.lax.stop_gradient(unit) * slack / penalty
    rho, condition, least = _on_support(Z, y, penalty, jax.lax.stop_gradient(jnp.where(alive, sign * size, 0.0)))
    rho = jnp.where(rho * sign > 0, rho, 0.0)
    largest = jnp.linalg.norm(rho)
    return _End(
        eta=start.equal_layers(rho),
        error=10 * condition * jnp.finfo(Z.dtype).eps,
        sensitivity=penalty * math.sqrt(y.size) / jnp.where(largest > 0, least * largest, jnp.inf),
        status=Status.where(inner.done, Status.converged, Status.step_limit),
        steps=inner.steps,
        rejected_steps=jnp.zeros_like(inner.steps),
    )


class _Interior(NamedTuple):
    """ρ_± ≥ 0 with ρ = ρ_+ − ρ_−, μ = y − Zρ, slacks p ∓ Zᵀμ > 0."""

    rho: Float[Array, "2 m"]
    mu: Float[Array, " n"]
    slack: Float[Array, "2 m"]
    steps: Int[Array, ""]
    done: Bool[Array, ""]


def _interior_point(Z: Array, y: Array, p: Scalar, may: Bool[Array, "2 m"], max_steps: int) -> _Interior:
    """The lasso by a primal-dual interior-point method: Newton's on ρ_± slack_± = t, μ = y − Zρ, in n unknowns."""
    eps = float(jnp.finfo(Z.dtype).eps)
    energy = jnp.sum(y**2)

    def difference(parts: Array) -> Array:
        return parts[0] - parts[1]

    def step(at: _Interior) -> _Interior:
        products = at.rho * at.slack
        target = 0.1 * jnp.sum(products) / jnp.maximum(jnp.sum(may), 1)
        missing = jnp.where(may, target - products, 0.0) / at.slack
        ratio = jnp.where(may, at.rho / at.slack, 0.0)
        misfit = y - Z @ difference(at.rho) - at.mu
        matrix = jnp.eye(y.size, dtype=y.dtype) + (Z * jnp.sum(ratio, axis=0)) @ Z.T
        dmu = jnp.linalg.solve(matrix, misfit - Z @ difference(missing))  # near the end no longer positive definite
        dslack = jnp.stack([-(dmu @ Z), dmu @ Z])
        drho = missing - ratio * dslack
        falls = jnp.stack([jnp.where(may, -drho / at.rho, 0.0), jnp.where(may, -dslack / at.slack, 0.0)])
        length = jnp.minimum(1.0, 0.99 / jnp.maximum(jnp.max(falls), eps))
        new = (at.rho + length * drho, at.mu + length * dmu)
        slack = jnp.where(may, at.slack + length * dslack, p)
        gap = jnp.sum(jnp.where(may, new[0] * slack, 0.0))
        size = jnp.maximum(p * jnp.sum(new[0]), math.sqrt(eps) * energy)  # of what is minimised, where λ is small
        new = _Interior(*new, slack, at.steps + 1, gap <= 10 * eps * size)
        # Where round-off lets no step be made any more the last one was the end, if the gap then was small.
        stays = at._replace(steps=at.steps + 1, done=jnp.sum(products) <= 100 * eps * energy)
        stuck = ~(jnp.isfinite(gap) & (length > _STUCK))
        return jax.tree.map(lambda old, new: jnp.where(stuck, old, new), stays, new)

    def unfinished(at: _Interior) -> Bool[Array, ""]:
        return ~at.done & (at.steps < max_steps)

    first = jnp.where(may, jnp.maximum(energy, jnp.finfo(Z.dtype).tiny) / (2 * may[0].size * p), 0.0)
    slack = jnp.full_like(first, 1.0) * p
    start = _Interior(first, jnp.zeros_like(y), slack, jnp.array(0), energy == 0)
    return jax.lax.while_loop(unfinished, step, start)


_STUCK = 1e-3  # of a step, that keeps ρ and the slacks positive


def _on_support(Z: Array, y: Array, penalty: Scalar, near: Float[Array, " m"]) -> tuple[Array, Scalar, Scalar]:
    """The solution of g_j + p sign(ρ_j) = 0 on the support and with the signs of `near`, at most n entries, or the
    matrix is singular; its condition number and smallest eigenvalue."""
    n, m = Z.shape
    size, columns = jax.lax.top_k(jnp.abs(near), min(n, m))
    alive = size > 0
    B = jnp.where(alive, Z[:, columns], 0.0)
    gram = B.T @ B + jnp.diag(jnp.where(alive, 0.0, 1.0)).astype(Z.dtype)
    right = B.T @ y - jnp.where(alive, penalty * jnp.sign(near[columns]), 0.0)
    values = jnp.linalg.solve(gram, right)
    too_many = jnp.sum(near != 0) > alive.size
    condition, least = _condition(jax.lax.stop_gradient(gram), alive)
    condition = jnp.where(too_many, jnp.inf, condition)
    return jnp.zeros_like(near).at[columns].set(jnp.where(alive, values, 0.0)), condition, least


def _condition(H: Array, alive: Array) -> tuple[Scalar, Scalar]:
    """Of the part of a symmetric matrix that is alive: ∞ unless it is positive definite; its smallest eigenvalue."""
    unit = jnp.where(alive.any(), jnp.max(jnp.where(alive, jnp.diagonal(H), -jnp.inf)), 1.0)
    values = jnp.linalg.eigvalsh(jnp.where(alive[:, None] & alive, H, jnp.eye(len(H), dtype=H.dtype) * unit))
    return jnp.where(values[0] > 0, values[-1] / values[0], jnp.inf), values[0]


# Three layers or more


class _Balancing(eqx.Module):
    """η̇_l = −copies g Π_{k≠l} η_k − λ η_l."""

    found: Decoupled
    y: Float[Array, " n"]
    rate: Scalar

    def slope(self, eta: Float[Array, "L m"]) -> Float[Array, " m"]:
        return self.found.modes.copies * ((self.found.Z @ jnp.prod(eta, axis=0) - self.y) @ self.found.Z)

    def __call__(self, tau: Scalar, eta: Float[Array, "L m"]) -> Float[Array, "L m"]:
        return -jax.grad(lambda eta: jnp.prod(eta, axis=0) @ jax.lax.stop_gradient(self.slope(eta)))(eta) - (
            self.rate * eta
        )

    def dead(self, eta: Float[Array, "L m"]) -> Bool[Array, " m"]:
        """Whether decay is stronger than what drives a coordinate; at rest the two are equal or it is zero."""
        driven = jnp.abs(self.slope(eta)) * jnp.max(jnp.abs(eta), axis=0) ** (len(eta) - 2)
        return driven < self.rate / 2


class _AtRest(eqx.Module):
    """Whether nothing moves but dying coordinates, in units of the weights that would fit y."""

    flow: _Balancing
    fraction: float = 1e-6

    def __call__(self, tau: Scalar, eta: Float[Array, "L m"]) -> Bool[Array, ""]:
        largest = jnp.max(jnp.abs(self.flow.found.Z))
        unit = (jnp.max(jnp.abs(self.flow.y)) / jnp.where(largest > 0, largest, 1.0)) ** (1 / len(eta))
        size = self.fraction * jnp.maximum(unit, jnp.max(jnp.abs(eta)))
        still = jnp.max(jnp.abs(self.flow(tau, eta))) <= self.flow.rate * size
        return still & (self.flow.dead(eta) | (jnp.max(jnp.abs(eta), axis=0) > size)).all()


def _stationary(found: Decoupled, y: Array, log_alpha: Scalar, penalty: Scalar, rtol: Scalar, max_steps: int) -> _End:
    """The stationary point in which the flow ends: followed to rest, twice, and then solved for."""
    start, L = scaled(found.eta, log_alpha), len(found.eta)
    flow = _Balancing(found, y, penalty * found.modes.copies)

    def one(rtol: Scalar) -> tuple:
        run = integrate(
            Integration(
                field=flow,
                solver=diffrax.Dopri8(),
                start=start,
                first=jnp.zeros((), y.dtype),
                last=jnp.asarray(jnp.finfo(y.dtype).max / 1e10, y.dtype),
                rtol=rtol,
                atol=1e-3 * rtol * jnp.max(jnp.abs(start)),
                stops=(_AtRest(flow),),
                pcoeff=0.0,
                icoeff=1.0,
                max_steps=max_steps,
            )
        )
        near = jnp.where(flow.dead(run.state), 0.0, jnp.prod(run.state, axis=0))
        rho, error = _solved(found.Z, y, penalty, L, near)
        return run, rho, error

    runs, rhos, errors = jax.lax.map(one, rtol * jnp.array([1.0, 30.0]))
    run, rho, error = jax.tree.map(lambda v: v[0], (runs, rhos, errors))
    size = jnp.linalg.norm(rho)
    same = jnp.linalg.norm(rhos[0] - rhos[1]) / jnp.where(size > 0, size, 1.0)
    return _End(
        eta=jnp.where(rho == 0, 0.0, jnp.sign(run.state) * jnp.abs(rho) ** (1 / L)),
        error=error + same,
        sensitivity=jnp.zeros_like(error),
        status=Status.where(run.result == diffrax.RESULTS.event_occurred, Status.converged, status_of(run.result)),
        steps=run.steps,
        rejected_steps=run.rejected_steps,
    )


def _solved(Z: Array, y: Array, penalty: Scalar, L: int, near: Float[Array, " m"]) -> tuple[Array, Scalar]:
    """The strict minimum next to `near` on its support, with a bound on its relative error: by Newton's method."""
    n, m = Z.shape
    size, columns = jax.lax.top_k(jnp.abs(near), min(n, m))
    alive, sign = size > 0, jnp.sign(near[columns])
    B, q = jnp.where(alive, Z[:, columns], 0.0), 2 / L - 1

    def hessian(size: Array) -> Array:
        bend = jnp.where(alive, q * penalty * size ** (q - 1), 1.0)
        return B.T @ B + jnp.diag(bend)

    def step(size: Array, _: None) -> tuple[Array, Array]:
        slope = jnp.where(alive, (B @ (sign * size) - y) @ B + sign * penalty * size**q, 0.0)
        change = -sign * jnp.linalg.solve(hessian(size), slope)
        change = jnp.where(alive, change, 0.0)
        moved = jnp.max(jnp.abs(change) / size)
        return size * jnp.exp(change / size), moved

    size = jnp.where(alive, size, 1.0)
    size, moved = jax.lax.scan(step, size, None, length=5)
    condition, _ = _condition(hessian(size), alive)
    nearby = (moved[0] <= _NEARBY) & (jnp.sum(near != 0) <= alive.size) & jnp.isfinite(condition)
    error = jnp.where(nearby, moved[-1] + 10 * condition * jnp.finfo(Z.dtype).eps, jnp.inf)
    return jnp.zeros_like(near).at[columns].set(jnp.where(alive, sign * size, 0.0)), error


_NEARBY = 1e-3  # by how much of its size a coordinate at rest may still have to move
