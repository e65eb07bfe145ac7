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
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int, Scalar

from .._order import after
from . import basis as bases
from . import cone, plain, projection
from .basis import Basis
from .coordinates import Coordinates
from .digits import difference, exponent_of, ldexp, resolution

MOST_ITERATIONS = 1000  # 545 are the most that were seen, at α = 10^−1000


class Limit(eqx.Module):
    """Where Newton's method ended, with the evidence.

    - `angles`, `nu`: x of shape (m,) and α^{L−2} ν of shape (n,). Only `angles` and `fitted` have derivatives.
    - `errors`: a bound on |δρ|, shape (m,), from the equations' residuals and the round-off in them.
    - `residual`: max_i |Zρ − y|_i / (max_j |Z_ij| max |ρ| + |y_i|), where y = 0 relative to the start's |ρ| as well.
    - `dual_residual`: max_j |Zᵀν − ζ|_j / max |ζ|.
    - `gap`: the duality gap over the potential Q(ρ), to first order in the primal and second in the dual residual.
    - `fitted`, `misfit`: y′, the nearest outputs to y in the range of Z, and how far they are from y in a row,
      relative to max_j |Z_ij| max |ρ| + |y_i|.
    - `iterations`; `finite`.
    """

    angles: Float[Array, " m"]
    nu: Float[Array, " n"]
    errors: Float[Array, " m"]
    residual: Scalar
    dual_residual: Scalar
    gap: Scalar
    fitted: Float[Array, " n"]
    misfit: Scalar
    iterations: Int[Array, ""]
    finite: Bool[Array, ""]


class _Equations(NamedTuple):
    """The equations' residuals at the angles x: misfit A(ρ* − ρ) in the basis' rows, and slack Aᵀζ_B − ζ."""

    rho: Float[Array, " m"]
    zeta: Float[Array, " m"]
    misfit: Float[Array, " n"]
    slack: Float[Array, " m"]


class _Slopes(NamedTuple):
    """log dρ/dx, log dζ/dx, and the weights w = √(dρ/dζ) over the largest."""

    log_rho: Float[Array, " m"]
    log_zeta: Float[Array, " m"]
    w: Float[Array, " m"]


def _exp(v: Array) -> Array:
    """e^v, held within what can be represented."""
    return jnp.exp(
        jnp.clip(v, 0.98 * math.log(float(jnp.finfo(v.dtype).tiny)), 0.98 * math.log(float(jnp.finfo(v.dtype).max)))
    )


def _slopes(coordinates: Coordinates, x: Array) -> _Slopes:
    log_rho, log_zeta = coordinates.log_rho_slope(x), coordinates.log_zeta_slope(x)
    log_D = jnp.where(coordinates.frozen, -jnp.inf, log_rho - log_zeta)
    # A column lighter than e^{−1200} times the heaviest is taken for that heavy, which moves nothing that shows.
    lightest = 0.85 * math.log(float(jnp.finfo(x.dtype).tiny))
    heaviest = jnp.maximum(jnp.max(log_D), jnp.finfo(x.dtype).min)
    w = jnp.exp(jnp.maximum((log_D - heaviest) / 2, lightest))
    return _Slopes(log_rho, log_zeta, jax.lax.optimization_barrier(w))  # to be computed once, not n times


def _solve(
    basis: Basis,
    slopes: _Slopes,
    misfit: Float[Array, "*k n"],
    slack: Float[Array, "*k m"],
    inverse_gram: Float[Array, "n n"] | None = None,
) -> tuple[Float[Array, "*k m"], Float[Array, "*k n"]]:
    """δρ, and the change of ζ at the basis' columns, with A δρ = misfit and δζ − Aᵀδζ_B = slack."""
    M, w = basis.ratios(slopes.w), basis.of_rows(slopes.w, 1.0)
    shifts = slack * _exp(slopes.log_rho - slopes.log_zeta)  # D · slack, which is 0 at the basis' columns
    right = jnp.where(basis.active, (misfit - shifts @ basis.A.T) / w, 0.0)
    known = inverse_gram is not None
    t = right @ inverse_gram if known else cho_solve(cho_factor(_gram(basis, slopes)), right.T).T
    rho_B = t * w
    rho = basis.at_columns(slopes.w * (t @ M) + shifts, rho_B)
    inverse_D = _exp(basis.of_rows(slopes.log_zeta - slopes.log_rho, 0.0))
    return rho, jnp.where(basis.active, rho_B * inverse_D, 0.0)


def _gram(basis: Basis, slopes: _Slopes) -> Float[Array, "n n"]:
    M = basis.ratios(slopes.w)
    return M @ M.T + jnp.diag(jnp.where(basis.active, 0.0, 1.0)).astype(M.dtype)


class _State(NamedTuple):
    log_scale: Scalar
    x: Float[Array, " m"]
    basis: Basis
    stride: Scalar  # how far to go in log α next
    tries: Int[Array, ""]  # steps since the last stride
    size: Scalar  # of the last step
    iterations: Int[Array, ""]  # before the last steps
    done: Bool[Array, ""]


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
    coordinates = _at(coordinates, coordinates.log_scale - log_u / coordinates.depth)

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
    coordinates = dataclasses.replace(coordinates, frozen=coordinates.frozen | ~_seen(Z))
    found = plain.solve(coordinates, Z, target)
    fixed, Z, target, x, nu = jax.lax.stop_gradient((coordinates, Z, target, found.angles, found.nu))
    rho, zeta = fixed.rho(x), fixed.zeta(x)
    equations = _Equations(rho, zeta, difference(target, Z, rho), nu @ Z - zeta)
    end = _evidence(fixed, Z, target, found.angles, nu, equations, nu @ equations.misfit)
    return found.is_good & end.finite, dataclasses.replace(end, errors=found.errors, iterations=found.iterations)


@eqx.filter_custom_jvp
def _or_else(is_good: Bool[Array, ""], found: Limit, search: Callable, operands: tuple) -> Limit:
    """`found` where it is good, and else search(operands), which a batch of nothing but good ones does without: a loop
    of one round, where `cond` would become a choice between two results."""

    def once(state: tuple) -> tuple:
        # After the loop has begun: XLA would do what no state changes before it, whether or not it begins.
        arrays, others = eqx.partition(operands, eqx.is_array)
        arrays, _ = jax.lax.optimization_barrier((arrays, state[0]))
        return jnp.array(True), search(eqx.combine(arrays, others))

    return jax.lax.while_loop(lambda state: ~state[0], once, (is_good, jax.lax.stop_gradient(found)))[1]


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

    return jax.lax.cond(is_good, lambda: (found, _tangents(found, moved)), of_search)


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
    first = bases.improved(bases.start(Z), _slopes(coordinates, coordinates.start).w, 2.0)
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
    state = _solved(*jax.lax.stop_gradient((coordinates, Z, y, equations.basis)), max_iterations)
    basis, x = state.basis, state.x
    inverse_gram = jnp.linalg.inv(jax.lax.stop_gradient(_gram(basis, _slopes(coordinates, x))))
    x = _implicit(coordinates, Z, y, basis, inverse_gram, x)
    end = _certify(*jax.lax.stop_gradient((coordinates, equations)), basis, inverse_gram, x, state.iterations)
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


def _at(coordinates: Coordinates, log_scale: Scalar) -> Coordinates:
    return dataclasses.replace(coordinates, log_scale=log_scale)


def _felt(basis: Basis, misfit: Array, rho: Array, noise: Array, least: float | Scalar = 4.0) -> Bool[Array, " n"]:
    """The rows whose misfit is more than `least` units of round-off, which is nothing to follow: where it is all that y
    asks of a basic, as where y is sparse, ρ_j would swing by its own size for ever. There any balance of what is small
    will do."""
    dormant = jnp.abs(basis.of_rows(rho, 0.0)) <= _DORMANT * noise
    return jnp.abs(misfit) > jnp.where(dormant, _DORMANT, least) * noise


def _noise(basis: Basis, target: Array, sizes: Array) -> Float[Array, " n"]:
    """A unit of round-off in `_misfit`, of terms of the `sizes`."""
    noise = jnp.abs(basis.inverse) @ jnp.abs(target) + jnp.abs(basis.A) @ sizes
    return float(jnp.finfo(noise.dtype).eps) * noise


def _noise_at_end(basis: Basis, Z: Array, target: Array, rho: Array, largest: Scalar) -> Float[Array, " n"]:
    """That in `_misfit_of_data`, and at least that of the largest ρ: by more than what is small beside it no row need
    fit, though y and all coordinates that it sees be small."""
    of_sums = resolution(Z.shape[1], Z.dtype) * jnp.max(jnp.abs(Z), axis=1) * largest
    least = float(jnp.finfo(Z.dtype).eps) * largest
    most = least + jnp.abs(basis.inverse) @ of_sums
    return jnp.clip(_noise(basis, target, jnp.abs(rho)), least, most)


_CENTRED = 0.1  # relative size of a step from which Newton's method converges, so that the scale may move on
_IN_ORDER = 1e-7  # relative size of Zᵀν − ζ from which the last steps clear it
_ROOM = 4.0  # by how much of its own range ζ may move in a step
_TO_THE_BOUNDARY = 0.95  # a basic loses no more of its size than this in a step, in which others may grow
_PATIENCE = 6  # steps before every third is halved, which breaks cycles
_DORMANT = 1e3  # round-off of a row, in whose units its basic and its misfit are nothing that y determines


def _solved(coordinates: Coordinates, Z: Array, target: Array, first: Basis, max_iterations: int) -> _State:
    """The end of the continuation, and there the basis computed anew and a few last steps, whose residuals are from the
    data themselves. Both are rounds of one loop over one program."""
    L, last = coordinates.depth, coordinates.log_scale
    eps = float(jnp.finfo(Z.dtype).eps)
    start = coordinates.rho(coordinates.start)
    none = jnp.zeros_like(coordinates.start)
    seen = _seen(Z)
    left = _left_of_start(coordinates, Z, target)

    def step(is_last: Array, state: _State) -> _State:
        here, x, basis = _at(coordinates, state.log_scale), state.x, state.basis
        begun, slopes = here.rho(here.start), _slopes(here, x)
        shift = jnp.where(state.log_scale == last, 0.0, begun - start)
        rho, zeta = here.rho(x), here.zeta(x)
        largest = jnp.max(jnp.where(seen, jnp.abs(rho), 0.0))
        arrived = state.log_scale == last
        misfit = jax.lax.cond(arrived, _misfit_of_data, _misfit, Z, target, basis, rho, shift)
        noise = _noise(basis, target, jnp.abs(rho) + jnp.abs(shift))
        noise = jnp.where(arrived, _noise_at_end(basis, Z, target, rho, largest), noise)
        felt = _felt(basis, misfit, rho, noise, jnp.where(is_last, 0.0, 4.0))
        felt &= basis.active & (~is_last | (jnp.abs(misfit) > eps * largest))
        equations = _Equations(rho, zeta, jnp.where(felt, misfit, 0.0), _slack(basis, zeta))
        # The equations' residuals, and their derivatives by log α.
        pull = basis.A @ (rho - begun)
        noise = _noise(basis, target, jnp.abs(rho) + jnp.abs(begun))
        pull = jnp.where(_felt(basis, pull, rho, noise), pull, 0.0)
        misfits = jnp.stack([equations.misfit, -L * pull])
        drhos, dzeta_B = _solve(basis, slopes, misfits, jnp.stack([equations.slack, none]))
        room = jnp.where(is_last, jnp.inf, _ROOM * (jnp.max(jnp.abs(zeta)) + jnp.max(_exp(slopes.log_zeta))))
        dzetas = jnp.clip(dzeta_B, -room, room) @ basis.A + jnp.stack([equations.slack, none])

        move = jnp.max(jnp.abs(drhos[0]))
        size = jnp.where(move == 0, 0.0, move / jnp.maximum(largest, left))
        off = _out_of_order(here, equations, x, slopes)
        centred = ~is_last & (jnp.maximum(size, off) < _CENTRED)  # false for NaN
        log_scale = jnp.maximum(last, state.log_scale - jnp.where(centred, state.stride, 0.0))
        stride = log_scale - state.log_scale

        ahead = stride * (L * rho + drhos[1])
        falls = ahead * jnp.sign(rho) < 0  # then as a power of α, which does not turn the sign
        kept = jnp.exp(jnp.where(falls, ahead / jnp.where(falls, rho, 1.0), 0.0))
        ahead = drhos[0] + jnp.where(falls, 0.0, ahead)
        change = rho * (kept - 1) + ahead
        there, scale = _at(coordinates, log_scale), jnp.maximum(largest, jnp.max(jnp.abs(basis.inverse @ target)))
        firm = basis.basic & ((here.side != 0) | (jnp.abs(x) > 1)) & (jnp.abs(rho) > 50 * eps * scale)
        loss = jnp.max(jnp.where(firm, -change / jnp.where(firm, rho, 1.0), 0.0))
        halved = (state.tries >= _PATIENCE) & (state.tries % 3 == 1)
        damping = jnp.minimum(jnp.where(halved, 0.5, 1.0), _TO_THE_BOUNDARY / jnp.maximum(loss, 0.1))
        damping = jnp.where(is_last, 1.0, damping)
        dx = (dzetas[0] + stride * dzetas[1]) * _exp(-slopes.log_zeta)
        unit = jnp.where(is_last, largest, scale)
        by_rho = rho * (1 - damping + damping * kept) + damping * ahead  # falls to much less are exact
        moved = _moved(there, x, rho, by_rho, damping * dx, basis.basic, unit)
        travels = jnp.any(basis.basic & (jnp.abs(moved - x) > 1))  # to another sign of ρ, say, whose size is nothing
        stalled = (size < eps**0.5) & (size >= state.size) & ~travels
        solved = arrived & ((size <= 1e3 * eps) | stalled) & (off <= _IN_ORDER)
        x = jnp.where(seen & (~is_last | (size <= _CENTRED)), moved, x)  # what no row sees stays, to the last bit
        tries = state.tries + 1
        return _State(
            log_scale,
            x,
            bases.improved(basis, _slopes(there, x).w),
            state.stride * jnp.where(centred, jnp.where(state.tries == 0, 3.0, 1.5), 1.0),
            jnp.where(centred, 0, tries),
            jnp.where(stride == 0, size, jnp.inf),
            state.iterations + jnp.where(is_last, 0, 1),
            jnp.isnan(x).any()
            | jnp.where(is_last, (tries >= 4) & ((tries >= _MOST_LAST_STEPS) | ~(off > 1e5 * eps)), solved),
        )

    def rounds(i: Array, state: _State) -> _State:
        is_last = i == 1
        renewed = jax.lax.cond(is_last, lambda basis: bases.renewed(basis, Z), lambda basis: basis, state.basis)
        return jax.lax.while_loop(
            lambda state: ~state.done & (is_last | (state.iterations < max_iterations)),
            lambda state: step(is_last, state),
            state._replace(
                log_scale=jnp.where(is_last, last, state.log_scale),
                basis=renewed,
                tries=jnp.array(0),
                done=jnp.array(False),
            ),
        )

    unit = _at(coordinates, jnp.zeros_like(last))
    slopes = _slopes(unit, unit.start)
    _, dzeta_B = _solve(first, slopes, jnp.where(first.active, first.inverse @ target - first.A @ start, 0.0), none)
    turns = jnp.max(jnp.abs(dzeta_B @ first.A) * _exp(-slopes.log_zeta))
    easy = jnp.maximum(last, jnp.log(10 * turns) / L)
    one = jnp.ones_like(last)
    begin = _State(easy, coordinates.start, first, one / L, jnp.array(0), one * jnp.inf, jnp.array(0), jnp.array(False))
    return jax.lax.fori_loop(0, 2, rounds, begin)


def _misfit(Z: Array, target: Array, basis: Basis, rho: Array, shift: Array) -> Float[Array, " n"]:
    """That of Zρ = target + Z shift, in the basis' rows."""
    return basis.inverse @ target - basis.A @ (rho - shift)


def _misfit_of_data(Z: Array, target: Array, basis: Basis, rho: Array, shift: Array) -> Float[Array, " n"]:
    """The same where there is no shift, to the data's own round-off."""
    return basis.inverse @ difference(target, Z, jnp.where(_seen(Z), rho, 0.0))


def _seen(Z: Array) -> Bool[Array, " m"]:
    """Whether any row sees a coordinate. What none sees has no part in the outputs' round-off, however large it is."""
    return jnp.any(Z != 0, axis=0)


def _left_of_start(coordinates: Coordinates, Z: Array, target: Array) -> Scalar:
    """max |ρ| at the start where y = 0, and 0 elsewhere: the only size there is then, since ρ itself may go to 0."""
    start = jnp.abs(coordinates.rho(coordinates.start))
    return jnp.where(jnp.any(target != 0), 0.0, jnp.max(jnp.where(_seen(Z), start, 0.0)))


def _slack(basis: Basis, zeta: Array) -> Float[Array, " m"]:
    return jnp.where(basis.basic, 0.0, basis.of_rows(zeta, 0.0) @ basis.A - zeta)


def _moved(
    coordinates: Coordinates, x: Array, rho: Array, by_rho: Array, dx: Array, basic: Array, scale: Scalar
) -> Array:
    """The angles after a step by which ρ would become `by_rho`, and by which ζ would to first order turn x by `dx`."""
    tied, size = coordinates.side != 0, coordinates.size(x)
    out = jnp.where(tied, coordinates.side, jnp.where(x != 0, jnp.sign(x), jnp.sign(dx)))
    grows = out * dx > 0
    by_zeta = _turned(coordinates, x, dx)
    rho_by_zeta = coordinates.rho(by_zeta)

    crosses = ~grows & (by_rho * out <= 0)
    sinks = ~grows & ~(by_rho * out > 0.1 * jnp.abs(rho))
    negligible = _NEGLIGIBLE * scale
    free = ~basic & (tied | (size >= 1))
    stays = ~basic & ~tied & (jnp.maximum(size, jnp.abs(by_zeta)) < 1.5)  # where ρ is all but linear in ζ
    # Basics that y asks nothing of are at tiny scales smaller than what can be represented: then only ζ is known.
    vanishes = jnp.maximum(jnp.abs(by_rho), jnp.abs(rho_by_zeta)) < float(jnp.finfo(rho.dtype).tiny) ** 0.9
    use_zeta = (stays | vanishes) | jnp.where(
        free,
        sinks | (jnp.abs(rho_by_zeta) <= negligible),
        ~tied & crosses & (jnp.abs(rho_by_zeta) < jnp.abs(by_rho)),  # what turns sign must not overshoot
    )
    least = jnp.where(free & grows, jnp.minimum(negligible, jnp.abs(rho_by_zeta)), 0.0)
    by_rho = jnp.where(least > jnp.abs(by_rho), out * least, by_rho)
    by_rho = jnp.where(tied & (by_rho * coordinates.side <= 0), 0.1 * rho, by_rho)  # ties keep their sign
    return jnp.where(use_zeta, by_zeta, coordinates.angle_of(by_rho))


def _turned(coordinates: Coordinates, x: Array, dx: Array) -> Array:
    """The angles after ζ has changed as it would to first order for `dx`. For L ≥ 3 it is a bound less e^{−(L−2)|x|}:
    exactly so for ties, and where |x| is large."""
    tied, size, k = coordinates.side != 0, coordinates.size(x), coordinates.depth - 2
    out = jnp.where(tied, coordinates.side, jnp.where(x != 0, jnp.sign(x), jnp.sign(dx)))
    turn = jnp.abs(dx)
    sink = jnp.log1p(k * turn) / k if k else turn
    rise = jnp.where(k * turn < 0.999, -jnp.log1p(-jnp.minimum(k * turn, 0.999)) / k, _FARTHEST) if k else turn
    across = -out * (1 + jnp.log(jnp.maximum(sink - size, 1.0)))  # no farther beyond 0 than that
    inward = jnp.where(tied | (sink - size < 1), x - out * sink, across)
    return jnp.where(out * dx > 0, out * (size + jnp.minimum(rise, _FARTHEST)), inward)


_FARTHEST = 1e5  # that an angle grows in a step
_NEGLIGIBLE = 1e-20  # ρ in units of the largest, below which it is no part of Zρ


_MOST_LAST_STEPS = 40  # four are enough but where y is sparse to round-off, and ν is determined by what lies below it


def _out_of_order(coordinates: Coordinates, equations: _Equations, x: Array, slopes: _Slopes) -> Scalar:
    """max |Zᵀν − ζ| / max |ζ|, without ties that are negligible and sink on: they have nothing to wait for. Nor have
    angles that would have to move by less than their own round-off, as where a coordinate is much smaller than others
    for L ≥ 3, and its ζ so much steeper."""
    eps = float(jnp.finfo(x.dtype).eps)
    rho, zeta = jnp.abs(equations.rho), jnp.abs(equations.zeta)
    waits = (coordinates.side * equations.slack >= 0) | (rho > 50 * eps * jnp.max(rho))
    waits &= jnp.abs(equations.slack) > 4 * eps * jnp.abs(x) * _exp(slopes.log_zeta)
    off = jnp.max(jnp.where(waits, jnp.abs(equations.slack), 0.0)) / jnp.max(zeta)
    return jnp.where(jnp.isnan(off), 0.0, off)


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
    slopes = _slopes(coordinates, x)
    nu = basis.inverse.T @ basis.of_rows(coordinates.zeta(x), 0.0)

    def equations(coordinates: Coordinates, Z: Array, target: Array) -> tuple[Array, Array]:
        return target - Z @ coordinates.rho(x), nu @ Z - coordinates.zeta(x)

    _, (misfit, slack) = jax.jvp(equations, primals[:3], tangents[:3])
    misfit = jnp.where(basis.active, basis.inverse @ misfit, 0.0)
    slack = slack - basis.of_rows(slack, 0.0) @ basis.A  # ν moves so that there is none at the basis' columns
    slack = jnp.where(basis.basic, 0.0, slack)
    inverse_gram = bases.inverse_depending_on(_gram(basis, slopes), inverse_gram)
    drho, dzeta_B = _solve(basis, slopes, misfit, slack, inverse_gram)
    dx = basis.at_columns(
        (dzeta_B @ basis.A + slack) * _exp(-slopes.log_zeta), basis.of_rows(drho * _exp(-slopes.log_rho), 0.0)
    )
    return x, jnp.where(coordinates.frozen, 0.0, dx)


def _certify(
    coordinates: Coordinates,
    solved: projection.Equations,
    basis: Basis,
    inverse_gram: Array,
    angles: Array,
    iterations: Array,
) -> Limit:
    Z, target = solved.Z, solved.target
    x = jax.lax.stop_gradient(angles)
    rho, zeta = coordinates.rho(x), coordinates.zeta(x)
    seen = jnp.where(_seen(Z), rho, 0.0)
    misfit = jnp.where(basis.active, basis.inverse @ difference(target, Z, seen), 0.0)
    equations = _Equations(rho, zeta, misfit, _slack(basis, zeta))
    zeta_B, outputs = basis.of_rows(zeta, 0.0), jnp.where(basis.active, target, 0.0)
    end = _evidence(coordinates, Z, outputs, angles, basis.inverse.T @ zeta_B, equations, zeta_B @ misfit)
    errors = _errors(coordinates, solved, basis, inverse_gram, x, equations)
    return dataclasses.replace(end, errors=errors, iterations=iterations)


def _evidence(
    coordinates: Coordinates, Z: Array, target: Array, angles: Array, nu: Array, equations: _Equations, pairing: Scalar
) -> Limit:
    """What the equations' residuals say of the limit; `pairing` is ν times the misfit. Without `errors`."""
    x, rho, zeta = jax.lax.stop_gradient(angles), equations.rho, equations.zeta
    D = _exp(coordinates.log_rho_slope(x) - coordinates.log_zeta_slope(x))
    gap = jnp.abs(pairing) + jnp.sum(D * equations.slack**2) / 2
    potential = rho @ zeta - jnp.sum(coordinates.conjugate(x))
    largest = jnp.max(jnp.where(_seen(Z), jnp.abs(rho), 0.0)) + _left_of_start(coordinates, Z, target)
    sizes = jnp.max(jnp.abs(Z), axis=1) * largest + jnp.abs(target)
    off = jnp.abs(target - Z @ rho) / jnp.where(sizes > 0, sizes, 1.0)
    largest = jnp.max(jnp.abs(zeta))
    return Limit(
        angles=angles,
        nu=nu,
        errors=jnp.full_like(rho, jnp.inf),
        residual=jnp.max(off),
        dual_residual=jnp.max(jnp.abs(equations.slack)) / jnp.where(largest > 0, largest, 1.0),
        gap=gap / jnp.where(potential > 0, potential, 1.0),
        fitted=target,
        misfit=jnp.zeros_like(gap),
        iterations=jnp.array(0),
        finite=jnp.isfinite(rho).all() & jnp.isfinite(zeta).all(),
    )


def _errors(
    coordinates: Coordinates,
    solved: projection.Equations,
    basis: Basis,
    inverse_gram: Array,
    x: Array,
    equations: _Equations,
) -> Float[Array, " m"]:
    """A bound on |δρ|: the solution of Newton's equations for the residuals and all round-off in them, with every
    term's absolute value taken. Twice that, since D changes on the way."""
    Z = solved.Z
    n, m = Z.shape
    eps = projection.ROUND_OFF * float(jnp.finfo(x.dtype).eps)
    slopes, rho, zeta = _slopes(coordinates, x), jnp.abs(equations.rho), jnp.abs(equations.zeta)
    reach, B = jnp.abs(basis.inverse), bases.columns_of(basis, Z)
    zeta_B = basis.of_rows(zeta, 0.0)
    largest = jnp.max(jnp.where(_seen(Z), rho, 0.0))
    of_sums = resolution(m, x.dtype) * jnp.max(jnp.abs(Z), axis=1) * largest
    of_A = resolution(n, x.dtype) * jnp.max(jnp.abs(B), axis=1)[:, None] * jnp.max(jnp.abs(basis.A), axis=0)
    of_data = solved.noise + solved.relative * (jnp.abs(Z) @ jnp.where(_seen(Z), rho, 0.0))
    misfit = jnp.abs(equations.misfit) + reach @ (of_sums + of_data)
    slack = jnp.abs(equations.slack) + eps * (zeta_B @ jnp.abs(basis.A) + zeta) + zeta_B @ (reach @ of_A)
    slack = jnp.where(basis.basic, 0.0, slack)
    shifts = slack * _exp(slopes.log_rho - slopes.log_zeta)
    # D is that of the neighbourhood only. But a tie that sinks, sinks by no more than all of it.
    sinks = coordinates.side * equations.slack < 0
    turns = slack * _exp(-slopes.log_zeta)
    out = jnp.where(coordinates.side != 0, coordinates.side, jnp.where(x < 0, -1.0, 1.0))
    grown = jnp.abs(coordinates.rho(_turned(coordinates, x, out * turns)))
    shifts = jnp.where(turns <= 0.1, shifts, rho + grown)
    shifts = jnp.where(sinks, jnp.minimum(shifts, rho), shifts)
    M, w = jnp.abs(basis.ratios(slopes.w)), basis.of_rows(slopes.w, 1.0)
    t = jnp.abs(inverse_gram) @ jnp.where(basis.active, (misfit + jnp.abs(basis.A) @ shifts) / w, 0.0)
    errors = 2 * basis.at_columns(slopes.w * (t @ M) + shifts, t * w)
    trusted = jnp.max(jnp.abs(basis.inverse @ B - jnp.eye(n, dtype=x.dtype))) < 1e-3
    return jnp.where(trusted & ~jnp.isnan(errors), errors, jnp.inf)
