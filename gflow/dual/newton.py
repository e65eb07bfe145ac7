"""The limit of an orthogonally decomposable regression by Newton's method: n unknowns and no integration.

With Z = X Sᵀ the flow is ν̇ = y − Zρ(Zᵀν) (`coordinates`), a gradient flow of the convex function
Ψ(ν) = Σ_j ∫₀^{ζ_j} ρ_j − yᵀν, and its limit is the minimum of Ψ, whatever the start. The unknowns are the angles x,

    Zρ(x) = y,    Zᵀν = ζ(x).

ν is read from the angles of a basis of n columns (`basis`), where the second equation so holds exactly; in ν alone
all digits would be lost at small α and L ≥ 3, where ζ lies within round-off of its bound while ρ does not. With two
layers ν alone is tried first (`plain`).

*Steps.* A Newton step says how ρ_j and ζ_j should change, and both cannot be had. Basics follow ρ, others follow ζ
while they are negligible: so a ρ_j grows from α^L to 1 in one step, and sinks from 1 to α^L in one.

*Continuation.* It starts at an initial scale at which one step nearly solves the equations for Zρ = y − Zρ(x_0) + Zρ_0,
whose right-hand side keeps the outputs' way to go the same, and follows the limits down to the scale asked for. The
path x(log α) is asymptotically a straight line, so strides triple.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.internal import unvmap_all
from jaxtyping import Array, Bool, Float, Scalar

from .._order import after, or_else
from . import basis as bases
from . import cone, plain, projection
from .basis import Basis
from .certificate import Limit, certified, evidence
from .continuation import solved_limit
from .coordinates import Coordinates
from .digits import difference, exponent_of, ldexp
from .steps import Equations, at_scale, gram_of, held_exp, is_seen, slopes_at, solve_step

MOST_ITERATIONS = 1000  # 545 are the most that were seen, at α = 10^−1000


def newton(
    coordinates: Coordinates,
    Z: Float[Array, "n m"],
    y: Float[Array, " n"],
    *,
    max_iterations: int = MOST_ITERATIONS,
    only_plain: bool = False,
) -> tuple[Coordinates, Limit, Scalar]:
    """The limit of the flow ν̇ = y − Zρ(Zᵀν) from ν = 0.

    Returns the coordinates in a unit u in which the outputs are of size 1 (α is divided by u^{1/L}), the limit in them,
    and log u. Where y is not in the range of Z it is first projected: the flow does not feel the rest. With two layers
    bases are for what `plain` cannot do; with `only_plain` there are none, and for that `errors` are ∞.

    May be compiled and batched, and differentiated (to any order) by `coordinates`, `Z` and `y`: the derivative
    is that of the equations' solution (implicit function theorem), and costs one more linear solve.
    """
    Z = jnp.where(coordinates.frozen, 0.0, Z)
    rows = exponent_of(jnp.max(jnp.abs(Z), axis=1))
    Z, target = ldexp(Z, -rows[:, None]), ldexp(y, -rows)
    mantissa, R = coordinates.unit_rho(coordinates.start)
    log_f0 = R + jnp.log(jnp.max(jnp.abs(Z @ mantissa)))
    log_u = jnp.maximum(jnp.log(jnp.max(jnp.abs(target))), log_f0)
    exponent = jax.lax.stop_gradient(jnp.where(jnp.isfinite(log_u), jnp.round(log_u / math.log(2)), 0.0)).astype(int)
    log_u = exponent * math.log(2)
    target = ldexp(target, -exponent)
    coordinates = at_scale(coordinates, coordinates.log_scale - log_u / coordinates.depth)

    metric = ldexp(jnp.ones_like(target), rows - jnp.max(rows))  # of the data, relative
    operands = coordinates, Z, target, metric, max_iterations
    if coordinates.depth == 2:
        is_good, end = _without_basis(coordinates, Z, target)
        if only_plain:
            end = dataclasses.replace(end, errors=jnp.where(is_good, end.errors, jnp.inf))
        else:
            end = _or_else(is_good, end, _by_bases, operands)
    else:
        end = _by_bases(operands)
    return coordinates, dataclasses.replace(end, nu=ldexp(end.nu, -rows), fitted=ldexp(end.fitted, rows)), log_u


def _without_basis(coordinates: Coordinates, Z: Array, target: Array) -> tuple[Bool[Array, ""], Limit]:
    """The limit of two layers by `plain`, and whether it is good."""
    # What no row sees stays where it starts, and has no part in the outputs' round-off, however large it is.
    coordinates = dataclasses.replace(coordinates, frozen=coordinates.frozen | ~is_seen(Z))
    found = plain.solve(coordinates, Z, target)
    fixed, Z, target, x, nu = jax.lax.stop_gradient((coordinates, Z, target, found.angles, found.nu))
    rho, zeta = fixed.rho(x), fixed.zeta(x)
    equations = Equations(rho, zeta, difference(target, Z, rho), nu @ Z - zeta)
    end = evidence(fixed, Z, target, found.angles, nu, equations, nu @ equations.misfit)
    return found.is_good & end.finite, dataclasses.replace(end, errors=found.errors, iterations=found.iterations)


@eqx.filter_custom_jvp
def _or_else(is_good: Bool[Array, ""], found: Limit, search: Callable, operands: tuple) -> Limit:
    return or_else(is_good, found, search, operands)


@_or_else.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Limit, Any]:
    is_good, found, search, operands = primals
    _, moved, _, operands_moved = tangents
    decided = is_good.astype(found.residual.dtype)  # a batch searches whether or not it must; see `gflow._order`
    coordinates, *data, metric, most = operands
    operands = coordinates, *(after(decided, v) for v in data), metric, most

    def of_search() -> tuple[Limit, Any]:
        end, moved = eqx.filter_jvp(search, (operands,), (operands_moved,))
        return end, _tangents(end, moved)

    def as_found() -> tuple[Limit, Any]:
        return found, _tangents(found, moved)

    # A batch of nothing but good ones does without the search here too: its condition is one for all lanes.
    return jax.lax.cond(unvmap_all(is_good), as_found, lambda: jax.lax.cond(is_good, as_found, of_search))


def _tangents(end: Limit, moved: Any) -> Any:
    """With zeros for those that are None, of what has derivatives."""

    def tangent(v: Array, t: Array | None) -> Array | None:
        return t if t is not None or not eqx.is_inexact_array(v) else jnp.zeros_like(v)

    return jax.tree.map(tangent, end, moved)


def _by_bases(operands: tuple[Coordinates, Array, Array, Array, int]) -> Limit:
    """The limit, by bases of columns."""
    coordinates, Z, target, metric, max_iterations = operands
    reach = _within_reach(coordinates.side, Z, target, metric)
    Z = jnp.where(reach.dead, 0.0, after(reach.outputs, Z))
    first = bases.improved(bases.start(Z), slopes_at(coordinates, coordinates.start).w, 2.0)
    first = jax.lax.stop_gradient(first)
    equations = jax.lax.cond(
        first.active.all(),
        lambda basis, Z, _, reached: projection.as_they_are(basis, Z, reached),
        lambda basis, Z, y, _: projection.nearest(basis, metric, Z, y),
        *(first, Z, target, reach.outputs),
    )
    basis = equations.basis._replace(A=after(equations.target, equations.basis.A))
    equations = equations._replace(basis=jax.lax.stop_gradient(basis))
    Z, y = equations.Z, equations.target
    state = solved_limit(*jax.lax.stop_gradient((coordinates, Z, y, equations.basis)), max_iterations)
    basis, x = state.basis, state.x
    inverse_gram = jnp.linalg.inv(jax.lax.stop_gradient(gram_of(basis, slopes_at(coordinates, x))))
    x = _implicit(coordinates, Z, y, basis, inverse_gram, x)
    end = certified(*jax.lax.stop_gradient((coordinates, equations)), basis, inverse_gram, x, state.iterations)
    fitted = equations.outputs
    sizes = jnp.abs(target) + jnp.max(jnp.abs(coordinates.rho(end.angles)))
    return dataclasses.replace(
        end,
        angles=jnp.where(reach.dead, -coordinates.side * _DEAD, end.angles),
        nu=jax.lax.stop_gradient(end.nu @ equations.back),
        residual=jnp.maximum(end.residual, reach.violation),
        fitted=fitted,
        misfit=jnp.max(jnp.abs(target - fitted) / jnp.where(sizes > 0, sizes, 1.0)),
    )


_DEAD = 1e4  # the angle, inwards, at which a coordinate that dies is


def _within_reach(side: Array, Z: Array, target: Array, metric: Array) -> cone.Nearest:
    """The outputs nearest to `target` among those whose coordinates keep their sign, in the metric of the data; and
    `target` itself where it is among them."""

    def nearest(target: Array) -> cone.Nearest:
        reached, found = jax.lax.stop_gradient(cone.within_reach(Z, target, side, metric))
        operands = after(found.violation, target), after(found.violation, Z)
        outputs = jax.lax.cond(reached, lambda v, _: v, lambda *v: outputs_of(found, *v), *operands)
        return found._replace(outputs=outputs)

    def outputs_of(found: cone.Nearest, target: Array, Z: Array) -> Array:
        data, y = Z * metric[:, None], target * metric
        moved = jnp.max(jnp.abs(y - found.outputs)) > 0
        # The same point by the columns that take part, which has derivatives.
        taking_part = after(found.violation, jnp.where(found.zero, 0.0, data))
        slope = taking_part @ (jnp.linalg.pinv(taking_part, rtol=1e-10) @ y)
        outputs = found.outputs + slope - jax.lax.stop_gradient(slope)
        return jnp.where(moved, outputs / metric, target)

    def all_of_it(target: Array) -> cone.Nearest:
        nothing = jnp.zeros(side.shape, bool)
        return cone.Nearest(target, nothing, nothing, jnp.zeros((), target.dtype))

    return jax.lax.cond(jnp.any(side != 0), nearest, all_of_it, target)


def scaled(v: Array, log_factor: Scalar) -> Array:
    """v e^log_factor, where the factor itself may overflow."""
    half = jnp.exp(log_factor / 2)
    return v * half * half


def _implicit_value(
    coordinates: Coordinates, Z: Array, target: Array, basis: Basis, inverse_gram: Array, x: Array
) -> Array:
    """x as it is, with the derivatives that the equations give it."""
    return x


_implicit = jax.custom_jvp(_implicit_value)


@_implicit.defjvp
def _implicit_jvp(primals: tuple, tangents: tuple) -> tuple:
    coordinates, Z, _, basis, inverse_gram, _ = primals
    x = _implicit(*primals)
    basis = bases.depending_on(Z, basis)
    slopes = slopes_at(coordinates, x)
    nu = basis.inverse.T @ basis.of_rows(coordinates.zeta(x), 0.0)

    def equations(coordinates: Coordinates, Z: Array, target: Array) -> tuple[Array, Array]:
        return target - Z @ coordinates.rho(x), nu @ Z - coordinates.zeta(x)

    _, (misfit, slack) = jax.jvp(equations, primals[:3], tangents[:3])
    misfit = jnp.where(basis.active, basis.inverse @ misfit, 0.0)
    slack = slack - basis.of_rows(slack, 0.0) @ basis.A  # ν moves so that there is none at the basis' columns
    slack = jnp.where(basis.basic, 0.0, slack)
    inverse_gram = bases.inverse_depending_on(gram_of(basis, slopes), inverse_gram)
    drho, dzeta_B = solve_step(basis, slopes, misfit, slack, inverse_gram)
    dx = basis.at_columns(
        (dzeta_B @ basis.A + slack) * held_exp(-slopes.log_zeta), basis.of_rows(drho * held_exp(-slopes.log_rho), 0.0)
    )
    return x, jnp.where(coordinates.frozen, 0.0, dx)
