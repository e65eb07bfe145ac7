"""The direction that the flow of a classification tends to, solved for from near it.

For f homogeneous of degree L in Θ the limit direction solves the KKT system (Lyu & Li 2020, Theorem 4.4) of

    min ½‖Θ‖²  subject to  y_i f(x_i; Θ) ≥ 1.

On the data points that the flow leaves with a share in its gradient these are as many equations as unknowns, the
gradient of a Lagrangian in (Θ, λ). Saddles and plateaus of the flow solve them too; its second variation tells: with
H = I − Σ μ_i y_i ∇²f_i on the vectors z that change no active margin, the flow near Θ* obeys, up to higher orders,

    dδ / d log ‖Θ‖ = −Hδ   for the deviation δ of Θ/‖Θ‖,

so that its parts die out, or grow, like s^{−h/L} in s = −log L, with h the eigenvalues of H.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Scalar

from .._order import after
from ..networks import LinearNetwork, with_weights
from ..problems import Classification

LARGEST = 500  # unknowns: an eigenvalue problem of this size takes a tenth of a second, and there are about ten
ACTIVE = 1e-6  # of Θ, the size of a data point's term in it, below which it is not active; its margin is then larger
_SOLVED = 1e-13  # of the equations, whose terms are of size 1: round-off in sums of `LARGEST` terms
_ACCEPTED = 1e-11
_LOOSE = 1e-9  # by which margins are larger that are not active
_FLAT = 1e-10  # eigenvalues that are zero: round-off, with room for condition
_DEPENDENT = 1e-9  # singular value of gradients of unit length, of which round-off is a millionth
_NEWTON_STEPS = 30  # twice what was seen; from within a thousandth it takes four
_TURNING = 1e-6  # radians that β may turn for a unit of Θ along symmetries, whose vectors are known to six digits


class Polished(NamedTuple):
    """A direction that solves the KKT system, with ‖Θ‖ about 1.

    - `shares`: λ_i / Σλ, the data points' shares in −∇ log L at the limit.
    - `is_minimum`: whether the equations are solved, all multipliers are positive and all other margins larger, the
      second variation is not negative, and β is the only one nearby.
    - `error`: of β, in radians: what residual and round-off become through the inverse of the equations.
    """

    network: Any
    shares: Float[Array, " n"]
    is_minimum: Bool[Array, ""]
    error: Scalar


class _System(eqx.Module):
    """The equations in z = (θ, ν), in units in which θ, the active margins and their gradients are about 1.

    The multipliers are λ = λ_0 + Pν, where P turns the gradients of the active margins into orthonormal vectors: data
    points may be all but the same, or contradict each other but for a millionth. It leaves out what does not change
    Σ λ_i ∇margin_i, which stays what the flow has.
    """

    network: Any
    problem: Classification
    active: Bool[Array, " n"]
    unit: Scalar  # the active margins at ‖θ‖ = 1
    slopes: Float[Array, " n"]  # ‖∇margin_i‖ in this unit
    first: Float[Array, " n"]  # λ_0
    P: Float[Array, "n n"]

    def at(self, theta: Float[Array, " N"]) -> Any:
        return with_weights(self.network, ravel_pytree(self.network.weights)[1](theta))

    def margins(self, theta: Float[Array, " N"]) -> Float[Array, " n"]:
        return self.problem.margins(self.at(theta)(self.problem.X)) / self.unit

    def split(self, z: Float[Array, " M"]) -> tuple[Float[Array, " N"], Float[Array, " n"]]:
        """θ and λ."""
        theta, nu = jnp.split(z, [z.size - self.active.size])
        return theta, self.first + self.P @ nu

    def slack(self, theta: Float[Array, " N"]) -> Float[Array, " n"]:
        return jnp.where(self.active, (self.margins(theta) - 1) / self.slopes, 0.0)

    def lagrangian(self, z: Float[Array, " M"]) -> Scalar:
        theta, multipliers = self.split(z)
        unused = jnp.where(jnp.any(self.P != 0, axis=0), 0.0, z[theta.size :])
        return (theta @ theta + unused @ unused) / 2 - multipliers @ self.slack(theta)

    def terms(self) -> Scalar:
        """The size of what cancels in the residual."""
        return 1 + jnp.max(self.first) + jnp.max(jnp.abs(self.P))

    def room(self) -> Scalar:
        """Above 1 where round-off is more than in sums of terms of size 1."""
        return jnp.maximum(1.0, 1e-3 * self.terms())

    def residual(self, z: Float[Array, " M"]) -> Float[Array, " M"]:
        return jax.grad(self.lagrangian)(z)


class _Round(NamedTuple):
    """Which data points are taken for active, the solution for these, and whether none of them pulls back or, where
    their gradients depend on each other, has a larger margin."""

    active: Bool[Array, " n"]
    z: Float[Array, " M"]
    rounds: Array
    done: Bool[Array, ""]


class _Iterate(NamedTuple):
    z: Float[Array, " M"]
    left: Scalar  # of the residual, before the last step
    steps: Array


def can_polish(network: LinearNetwork, problem: Classification) -> bool:
    """Whether the network is homogeneous, small enough and in float64. A matter of types and shapes alone."""
    unknowns = sum(v.size for v in network.weights) + problem.y.size
    is_double = jnp.finfo(jnp.result_type(*network.weights)).bits == 64
    return network.degree is not None and unknowns <= LARGEST and is_double


def polished(network: Any, problem: Classification, shares: Float[Array, " n"]) -> Polished:
    """The solution of the KKT system near a flow's end, whose data points have these `shares` in −∇ log L.

    Newton's method, with steps of least norm where solutions form a manifold. Where a solution is isolated up to
    symmetries, derivatives are those of the implicit function theorem.
    """
    network, problem_here, shares = jax.tree.map(constant_of, (network, problem, shares))
    theta, system = _system(network, problem_here, shares)
    start = jnp.concatenate([theta, jnp.zeros_like(shares)])

    def solve(active: Bool[Array, " n"]) -> tuple[_System, Array]:
        some = _with_active(system, theta, active)
        begin = _Iterate(start, jnp.full((), jnp.inf, start.dtype), jnp.array(0))
        return some, jax.lax.while_loop(
            lambda at: (at.left > _SOLVED * some.room()) & (at.steps < _NEWTON_STEPS),
            lambda at: _newton(some, at),
            begin,
        ).z

    def without_the_worst(at: _Round) -> _Round:
        some, z = solve(at.active)
        at_z, multipliers = some.split(z)
        multipliers, excess = jnp.where(at.active, multipliers, 1.0), some.slopes * some.slack(at_z)
        pulls, is_loose = jnp.min(multipliers) < -ACTIVE, jnp.max(excess) > _LOOSE
        worst = jnp.where(pulls, jnp.argmin(multipliers), jnp.argmax(excess))
        done = ~(pulls | is_loose)
        return _Round(at.active & (done | (jnp.arange(shares.size) != worst)), z, at.rounds + 1, done)

    end = jax.lax.while_loop(
        lambda at: ~at.done & (at.rounds < shares.size),
        without_the_worst,
        _Round(system.active, start, jnp.array(0), jnp.array(False)),
    )
    system, z = _with_active(system, after(jnp.sum(end.z), theta), end.active), end.z
    K = jax.hessian(system.lagrangian)(z)
    values, vectors = jnp.linalg.eigh(K)
    flat = jnp.abs(values) <= _FLAT * system.room()
    inverse = jnp.where(flat, 0.0, 1 / jnp.where(flat, 1.0, values))
    # One more step, of no length, has the derivatives; what it is multiplied with needs none.
    residual = eqx.tree_at(lambda s: s.problem, system, problem).residual(z)
    z = z - vectors @ (inverse * (vectors.T @ (residual - jax.lax.stop_gradient(residual))))
    theta, multipliers = system.split(z)

    K = jnp.where(jnp.isnan(values).any(), jnp.nan, K)  # so that its eigenvalues come in turn: see `gflow._order`
    left, h = _size(system.residual(constant_of(z))), _second_variation(system, K)
    moving = _moving(system, constant_of(theta), vectors)
    rounded = left + jnp.finfo(z.dtype).eps * system.terms()
    solved = jnp.maximum(left, _size(system.slack(theta))) <= _ACCEPTED * system.room()
    positive = jnp.min(jnp.where(system.active, multipliers, 1.0)) > ACTIVE
    multipliers = multipliers / system.slopes
    others = jnp.min(jnp.where(system.active, jnp.inf, system.margins(theta))) > 1 + _LOOSE
    isolated = jnp.max(jnp.where(flat, moving, 0.0)) <= _TURNING
    return Polished(
        network=system.at(theta),
        shares=multipliers / jnp.sum(multipliers),
        is_minimum=end.done & solved & positive & others & (jnp.min(h) >= -_FLAT * system.room()) & isolated,
        error=rounded * jnp.linalg.norm(inverse * moving) + network.degree * jnp.finfo(z.dtype).eps,
    )


def constant_of(v: Any) -> Any:
    """The leaf without derivatives."""
    return jax.lax.stop_gradient(v) if eqx.is_inexact_array(v) else v


def _size(v: Array) -> Scalar:
    return jnp.max(jnp.abs(v))


def _system(network: Any, problem: Any, shares: Array) -> tuple[Array, _System]:
    """θ of the flow's end, and the equations with its multipliers: θ = Σ μ_i ∇margin_i and θᵀ∇margin_i = L, so that
    Σμ = 1/L."""
    theta = ravel_pytree(network.weights)[0]
    theta = theta / jnp.linalg.norm(theta)
    one = jnp.ones((), theta.dtype)
    n = shares.size
    nothing = jnp.zeros((n, n), shares.dtype)
    system = _System(network, problem, shares > 0, one, jnp.ones_like(shares), jnp.zeros_like(shares), nothing)
    unit = shares @ system.margins(theta)
    system = eqx.tree_at(lambda s: s.unit, system, jnp.where(unit > 0, unit, 1.0))
    slopes = jnp.linalg.norm(jax.jacrev(system.margins)(theta), axis=1)
    slopes = jnp.where(slopes > 0, slopes, 1.0)
    terms = shares * slopes / network.degree  # of rows that are a million times as long, shares are as much smaller
    return theta, eqx.tree_at(lambda s: (s.active, s.slopes, s.first), system, (terms > ACTIVE, slopes, terms))


def _with_active(system: _System, theta: Array, active: Bool[Array, " n"]) -> _System:
    """The equations with these data points active, among those that are, and the P of their gradients at θ."""
    first = jnp.where(active, system.first, 0.0)
    system = eqx.tree_at(lambda s: (s.active, s.first), system, (active, first))
    U, sizes, _ = jnp.linalg.svd(jax.jacrev(system.slack)(theta), full_matrices=False)
    kept = sizes > _DEPENDENT
    P = U * jnp.where(kept, 1 / jnp.where(kept, sizes, 1.0), 0.0)
    return eqx.tree_at(lambda s: s.P, system, jnp.pad(P, [(0, 0), (0, len(active) - len(sizes))]))


def _newton(system: _System, at: _Iterate) -> _Iterate:
    residual = system.residual(at.z)
    values, vectors = jnp.linalg.eigh(jax.hessian(system.lagrangian)(at.z))
    # Off the solution, eigenvalues of symmetries are as large as the residual.
    small = jnp.abs(values) <= _FLAT * system.room() + jnp.linalg.norm(residual)
    along = vectors.T @ residual
    z = at.z - vectors @ jnp.where(small, 0.0, along / jnp.where(small, 1.0, values))
    return _Iterate(z, _size(residual), at.steps + 1)


def _second_variation(system: _System, K: Float[Array, "M M"]) -> Float[Array, " N"]:
    """The eigenvalues of H where no active margin changes, and 1 elsewhere."""
    n = system.active.size
    H, G = K[:-n, :-n], K[:-n, -n:]
    values, vectors = jnp.linalg.eigh(G.T @ G)
    kept = values > 1e-12 * n  # of unit vectors; squares of a condition number that leaves four digits
    across = G @ (vectors * jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0))
    along = jnp.eye(len(H), dtype=H.dtype) - across @ across.T
    return jnp.linalg.eigvalsh(along @ H @ along + across @ across.T)


def _moving(system: _System, theta: Array, vectors: Float[Array, "M M"]) -> Float[Array, " M"]:
    """By how many radians β turns along each of these vectors."""
    beta, change = jax.linearize(lambda theta: system.at(theta).coefficients(), theta)
    unit = beta / jnp.linalg.norm(beta)

    def turn(v: Array) -> Scalar:
        moved = change(v)
        return jnp.linalg.norm(moved - (unit @ moved) * unit)

    return jax.vmap(turn)(vectors[: theta.size].T) / jnp.linalg.norm(beta)
