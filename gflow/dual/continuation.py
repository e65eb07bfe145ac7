"""From an initial scale at which one Newton step nearly solves the equations down to the scale asked for (`newton`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from . import basis as bases
from .basis import Basis
from .coordinates import Coordinates
from .digits import resolution
from .moves import moved_angles
from .steps import (
    Equations,
    Slopes,
    at_scale,
    held_exp,
    is_seen,
    left_of_start,
    misfit_of,
    misfit_of_data,
    slack_of,
    slopes_at,
    solve_step,
)


class State(NamedTuple):
    log_scale: Scalar
    x: Float[Array, " m"]
    basis: Basis
    stride: Scalar  # how far to go in log α next
    tries: Int[Array, ""]  # steps since the last stride
    size: Scalar  # of the last step
    iterations: Int[Array, ""]  # before the last steps
    done: Bool[Array, ""]


_CENTRED = 0.1  # relative size of a step from which Newton's method converges, so that the scale may move on
_IN_ORDER = 1e-7  # relative size of Zᵀν − ζ from which the last steps clear it
_ROOM = 4.0  # by how much of its own range ζ may move in a step
_TO_THE_BOUNDARY = 0.95  # a basic loses no more of its size than this in a step, in which others may grow
_PATIENCE = 6  # steps before every third is halved, which breaks cycles
_DORMANT = 1e3  # round-off of a row, in whose units its basic and its misfit are nothing that y determines
_MOST_LAST_STEPS = 40  # four are enough but where y is sparse to round-off, and ν is determined by what lies below it


class _Asked(NamedTuple):
    """The limit asked for, with ρ at the start, what any row sees, and `left_of_start`."""

    coordinates: Coordinates
    Z: Float[Array, "n m"]
    target: Float[Array, " n"]
    start: Float[Array, " m"]
    seen: Bool[Array, " m"]
    left: Scalar


class _Changes(NamedTuple):
    """Of ρ and of ζ in a Newton step; and besides by log α, of ρ above its own Lρ."""

    rho: Float[Array, " m"]
    zeta: Float[Array, " m"]
    rho_by_scale: Float[Array, " m"]
    zeta_by_scale: Float[Array, " m"]


def solved_limit(coordinates: Coordinates, Z: Array, target: Array, first: Basis, max_iterations: int) -> State:
    """The end of the continuation, and there the basis computed anew and a few last steps, whose residuals are from the
    data themselves. Both are rounds of one loop over one program."""
    last = coordinates.log_scale
    asked = _Asked(
        coordinates, Z, target, coordinates.rho(coordinates.start), is_seen(Z), left_of_start(coordinates, Z, target)
    )

    def rounds(i: Array, state: State) -> State:
        is_last = i == 1
        renewed = jax.lax.cond(is_last, lambda basis: bases.renewed(basis, Z), lambda basis: basis, state.basis)
        return jax.lax.while_loop(
            lambda state: ~state.done & (is_last | (state.iterations < max_iterations)),
            lambda state: _step(asked, is_last, state),
            state._replace(
                log_scale=jnp.where(is_last, last, state.log_scale),
                basis=renewed,
                tries=jnp.array(0),
                done=jnp.array(False),
            ),
        )

    return jax.lax.fori_loop(0, 2, rounds, _begin(asked, first))


def _begin(asked: _Asked, first: Basis) -> State:
    """At the start's angles, at a scale at which one step nearly solves the equations."""
    coordinates, _, target, start, *_ = asked
    L, last = coordinates.depth, coordinates.log_scale
    unit = at_scale(coordinates, jnp.zeros_like(last))
    slopes = slopes_at(unit, unit.start)
    way = jnp.where(first.active, first.inverse @ target - first.A @ start, 0.0)
    _, dzeta_B = solve_step(first, slopes, way, jnp.zeros_like(unit.start))
    turns = jnp.max(jnp.abs(dzeta_B @ first.A) * held_exp(-slopes.log_zeta))
    easy = jnp.maximum(last, jnp.log(10 * turns) / L)
    one = jnp.ones_like(last)
    return State(easy, coordinates.start, first, one / L, jnp.array(0), one * jnp.inf, jnp.array(0), jnp.array(False))


def _step(asked: _Asked, is_last: Array, state: State) -> State:
    """One of Newton's steps, and with it a stride to a smaller scale where the last one has all but arrived."""
    x, basis, last = state.x, state.basis, asked.coordinates.log_scale
    eps = float(jnp.finfo(x.dtype).eps)
    here = at_scale(asked.coordinates, state.log_scale)
    slopes, arrived = slopes_at(here, x), state.log_scale == last
    equations, pull = _residuals(asked, here, state, is_last)
    changes = _changes(here, basis, slopes, equations, pull, is_last)
    rho = equations.rho
    largest = jnp.max(jnp.where(asked.seen, jnp.abs(rho), 0.0))

    move = jnp.max(jnp.abs(changes.rho))
    size = jnp.where(move == 0, 0.0, move / jnp.maximum(largest, asked.left))
    off = _out_of_order(here, equations, x, slopes)
    centred = ~is_last & (jnp.maximum(size, off) < _CENTRED)  # false for NaN
    log_scale = jnp.maximum(last, state.log_scale - jnp.where(centred, state.stride, 0.0))
    stride = log_scale - state.log_scale
    there, scale = at_scale(here, log_scale), jnp.maximum(largest, jnp.max(jnp.abs(basis.inverse @ asked.target)))
    by_rho, damping = _damped(here, state, rho, changes, stride, scale, is_last)
    dx = (changes.zeta + stride * changes.zeta_by_scale) * held_exp(-slopes.log_zeta)
    moved = moved_angles(there, x, rho, by_rho, damping * dx, basis.basic, jnp.where(is_last, largest, scale))

    travels = jnp.any(basis.basic & (jnp.abs(moved - x) > 1))  # to another sign of ρ, say, whose size is nothing
    stalled = (size < eps**0.5) & (size >= state.size) & ~travels
    solved = arrived & ((size <= 1e3 * eps) | stalled) & (off <= _IN_ORDER)
    x = jnp.where(asked.seen & (~is_last | (size <= _CENTRED)), moved, x)  # what no row sees stays, to the last bit
    tries = state.tries + 1
    cleared = (tries >= 4) & ((tries >= _MOST_LAST_STEPS) | ~(off > 1e5 * eps))
    return State(
        log_scale,
        x,
        bases.improved(basis, slopes_at(there, x).w),
        state.stride * jnp.where(centred, jnp.where(state.tries == 0, 3.0, 1.5), 1.0),
        jnp.where(centred, 0, tries),
        jnp.where(stride == 0, size, jnp.inf),
        state.iterations + jnp.where(is_last, 0, 1),
        jnp.isnan(x).any() | jnp.where(is_last, cleared, solved),
    )


def _residuals(asked: _Asked, here: Coordinates, state: State, is_last: Array) -> tuple[Equations, Array]:
    """The equations' residuals without what is round-off, and A(ρ − ρ_0), of which their misfit changes by log α."""
    (_, Z, target, start, seen, _), basis = asked, state.basis
    eps = float(jnp.finfo(Z.dtype).eps)
    begun, rho, zeta = here.rho(here.start), here.rho(state.x), here.zeta(state.x)
    arrived = state.log_scale == asked.coordinates.log_scale
    shift = jnp.where(arrived, 0.0, begun - start)
    largest = jnp.max(jnp.where(seen, jnp.abs(rho), 0.0))
    misfit = jax.lax.cond(arrived, misfit_of_data, misfit_of, Z, target, basis, rho, shift)
    noise = _noise(basis, target, jnp.abs(rho) + jnp.abs(shift))
    noise = jnp.where(arrived, _noise_at_end(basis, Z, target, rho, largest), noise)
    felt = _felt(basis, misfit, rho, noise, jnp.where(is_last, 0.0, 4.0))
    felt &= basis.active & (~is_last | (jnp.abs(misfit) > eps * largest))
    pull = basis.A @ (rho - begun)
    noise = _noise(basis, target, jnp.abs(rho) + jnp.abs(begun))
    pull = jnp.where(_felt(basis, pull, rho, noise), pull, 0.0)
    return Equations(rho, zeta, jnp.where(felt, misfit, 0.0), slack_of(basis, zeta)), pull


def _changes(
    here: Coordinates, basis: Basis, slopes: Slopes, equations: Equations, pull: Array, is_last: Array
) -> _Changes:
    slacks = jnp.stack([equations.slack, jnp.zeros_like(equations.slack)])
    misfits = jnp.stack([equations.misfit, -here.depth * pull])
    drhos, dzeta_B = solve_step(basis, slopes, misfits, slacks)
    room = _ROOM * (jnp.max(jnp.abs(equations.zeta)) + jnp.max(held_exp(slopes.log_zeta)))
    room = jnp.where(is_last, jnp.inf, room)
    dzetas = jnp.clip(dzeta_B, -room, room) @ basis.A + slacks
    return _Changes(drhos[0], dzetas[0], drhos[1], dzetas[1])


def _damped(
    here: Coordinates, state: State, rho: Array, changes: _Changes, stride: Scalar, scale: Scalar, is_last: Array
) -> tuple[Float[Array, " m"], Scalar]:
    """ρ after a step and a stride, of which no basic loses more than `_TO_THE_BOUNDARY`, and by how much all of it was
    damped for that."""
    basis, eps = state.basis, float(jnp.finfo(rho.dtype).eps)
    ahead = stride * (here.depth * rho + changes.rho_by_scale)
    falls = ahead * jnp.sign(rho) < 0  # then as a power of α, which does not turn the sign
    kept = jnp.exp(jnp.where(falls, ahead / jnp.where(falls, rho, 1.0), 0.0))
    ahead = changes.rho + jnp.where(falls, 0.0, ahead)
    change = rho * (kept - 1) + ahead
    firm = basis.basic & ((here.side != 0) | (jnp.abs(state.x) > 1)) & (jnp.abs(rho) > 50 * eps * scale)
    loss = jnp.max(jnp.where(firm, -change / jnp.where(firm, rho, 1.0), 0.0))
    halved = (state.tries >= _PATIENCE) & (state.tries % 3 == 1)
    damping = jnp.minimum(jnp.where(halved, 0.5, 1.0), _TO_THE_BOUNDARY / jnp.maximum(loss, 0.1))
    damping = jnp.where(is_last, 1.0, damping)
    return rho * (1 - damping + damping * kept) + damping * ahead, damping  # falls to much less are exact


def _out_of_order(coordinates: Coordinates, equations: Equations, x: Array, slopes: Slopes) -> Scalar:
    """max |Zᵀν − ζ| / max |ζ|, without ties that are negligible and sink on: they have nothing to wait for. Nor have
    angles that would have to move by less than their own round-off, as where a coordinate is much smaller than others
    for L ≥ 3, and its ζ so much steeper."""
    eps = float(jnp.finfo(x.dtype).eps)
    rho, zeta = jnp.abs(equations.rho), jnp.abs(equations.zeta)
    waits = (coordinates.side * equations.slack >= 0) | (rho > 50 * eps * jnp.max(rho))
    waits &= jnp.abs(equations.slack) > 4 * eps * jnp.abs(x) * held_exp(slopes.log_zeta)
    off = jnp.max(jnp.where(waits, jnp.abs(equations.slack), 0.0)) / jnp.max(zeta)
    return jnp.where(jnp.isnan(off), 0.0, off)


def _felt(basis: Basis, misfit: Array, rho: Array, noise: Array, least: float | Scalar = 4.0) -> Bool[Array, " n"]:
    """The rows whose misfit is more than `least` units of round-off, which is nothing to follow: where it is all that y
    asks of a basic, as where y is sparse, ρ_j would swing by its own size for ever. There any balance of what is small
    will do."""
    dormant = jnp.abs(basis.of_rows(rho, 0.0)) <= _DORMANT * noise
    return jnp.abs(misfit) > jnp.where(dormant, _DORMANT, least) * noise


def _noise(basis: Basis, target: Array, sizes: Array) -> Float[Array, " n"]:
    """A unit of round-off in `misfit_of`, of terms of the `sizes`."""
    noise = jnp.abs(basis.inverse) @ jnp.abs(target) + jnp.abs(basis.A) @ sizes
    return float(jnp.finfo(noise.dtype).eps) * noise


def _noise_at_end(basis: Basis, Z: Array, target: Array, rho: Array, largest: Scalar) -> Float[Array, " n"]:
    """That in `misfit_of_data`, and at least that of the largest ρ: by more than what is small beside it no row need
    fit, though y and all coordinates that it sees be small."""
    of_sums = resolution(Z.shape[1], Z.dtype) * jnp.max(jnp.abs(Z), axis=1) * largest
    least = float(jnp.finfo(Z.dtype).eps) * largest
    most = least + jnp.abs(basis.inverse) @ of_sums
    return jnp.clip(_noise(basis, target, jnp.abs(rho)), least, most)
