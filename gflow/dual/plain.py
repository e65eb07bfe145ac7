"""Newton's method in ν alone, for two layers: where nothing is extreme.

With two layers the angles are x = x_0 + Zᵀν, so Zρ(x_0 + Zᵀν) = y are n equations in n unknowns; an iteration is one
Cholesky factor of the matrix Z D Zᵀ with D = dρ/dζ. Where that matrix is as good as singular, as where rows depend on
each other or few coordinates are awake at a tiny scale, its factor says nothing: `_errors` tells, and `newton` then
goes on with a basis of columns.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int, Scalar

from . import basis as bases
from .coordinates import Coordinates
from .digits import difference, resolution
from .projection import ROUND_OFF

MOST_ITERATIONS = 40  # ordinary lanes take 3 to 20; those that take more are handed on, not kept waiting for


class Plain(NamedTuple):
    """Where it ended: the angles and ν, which have derivatives; a bound on |δρ|; and whether that is small."""

    angles: Float[Array, " m"]
    nu: Float[Array, " n"]
    errors: Float[Array, " m"]
    is_good: Bool[Array, ""]
    iterations: Int[Array, ""]


def solve(coordinates: Coordinates, Z: Float[Array, "n m"], y: Float[Array, " n"]) -> Plain:
    """The angles at which Zρ = y, with the derivatives that the equations give them. Those of the start where it is not
    good."""
    fixed, Z_fixed, y_fixed = jax.lax.stop_gradient((coordinates, Z, y))
    nu, iterations = _search(fixed, Z_fixed, y_fixed)
    x = fixed.start + nu @ Z_fixed
    inverse = jnp.linalg.inv(_matrix(Z_fixed, _slopes(fixed, x)[0]))
    errors, rho = _errors(fixed, Z_fixed, y_fixed, nu, inverse), fixed.rho(x)
    is_good = jnp.linalg.norm(errors) <= _GOOD * float(jnp.finfo(rho.dtype).eps) * jnp.linalg.norm(rho)
    is_good &= jnp.isfinite(x).all()
    # A NaN would reach derivatives that nobody asks for: zero times it is not zero.
    angles, nu = _implicit(coordinates, Z, y, jnp.where(is_good, nu, 0.0), jnp.where(is_good, inverse, 0.0))
    return Plain(angles, nu, errors, is_good, iterations)


# Units of round-off: 2e-11, below what is accepted by far. On ordinary data the bound is 1e-14 to 1e-12, and 4e-12 with
# a million coordinates, where the basis of columns takes twice the memory and four times as long.
_GOOD = 1e5


def _errors(
    coordinates: Coordinates, Z: Float[Array, "n m"], y: Float[Array, " n"], nu: Array, inverse: Array
) -> Float[Array, " m"]:
    """A bound on |δρ|; ∞ where the inverse is none, or an angle may be so far off that D is not what it was taken for.

    δρ = Y r for a residual r, with Y = D Zᵀ(Z D Zᵀ)⁻¹, which is of moderate size whatever D is (Stewart 1989). Twice
    that, as for a basis.
    """
    eps = ROUND_OFF * float(jnp.finfo(Z.dtype).eps)
    x = coordinates.start + nu @ Z
    rho, (D, log_unit) = coordinates.rho(x), _slopes(coordinates, x)
    Y = D[:, None] * (Z.T @ inverse)
    largest, sizes = jnp.max(jnp.abs(rho)), jnp.max(jnp.abs(Z), axis=1)
    # Rounded are the angle and what it is made of, which moves ρ by D times as much, and log a in its exponent.
    terms = jnp.abs(nu) @ jnp.abs(Z) + jnp.abs(coordinates.start) + jnp.abs(x)
    shifts = eps * D * jnp.exp(log_unit) * terms
    shifts = shifts + eps * jnp.abs(coordinates.depth * (coordinates.log_scale + coordinates.log_a) * rho)
    off = jnp.abs(difference(y, Z, rho)) + resolution(len(rho), Z.dtype) * sizes * largest + jnp.abs(Z) @ shifts
    bound = 2 * (jnp.abs(Y) @ off + shifts)
    # Y is right to what ZY − I is: far less than the factor of two that is left.
    is_inverse = jnp.max(jnp.sum(jnp.abs(Z @ Y - jnp.eye(len(y), dtype=Z.dtype)), axis=1)) < 1e-3
    turns = jnp.where(D > 0, bound / jnp.where(D > 0, D, 1.0) * jnp.exp(-log_unit), 0.0)
    return jnp.where(is_inverse & (jnp.max(turns) <= 0.1), bound, jnp.inf)  # D changes by e^{0.2}, less than twice


class _State(NamedTuple):
    log_scale: Scalar
    nu: Float[Array, " n"]
    stride: Scalar  # how far to go in log α next
    at_once: Bool[Array, ""]  # whether the last stride needed no step of its own
    iterations: Int[Array, ""]
    done: Bool[Array, ""]


def _search(coordinates: Coordinates, Z: Array, y: Array) -> tuple[Array, Array]:
    """ν, by the continuation in the initial scale that `newton` describes."""
    last, L = coordinates.log_scale, coordinates.depth
    eps = float(jnp.finfo(Z.dtype).eps)
    outputs = Z @ coordinates.rho(coordinates.start)

    def steps(log_scale: Scalar, nu: Array) -> tuple[Array, Array, Scalar]:
        """Newton's step in ν, that for a log α smaller by 1, and by how much the first changes ρ, relatively."""
        here, x = dataclasses.replace(coordinates, log_scale=log_scale), coordinates.start + nu @ Z
        rho, (D, log_unit) = here.rho(x), _slopes(here, x)
        moved, begun = Z @ rho, Z @ here.rho(here.start)
        right = jnp.stack([y - outputs - (moved - begun), L * (moved - begun)], axis=1)
        dnu, ahead = cho_solve(cho_factor(_matrix(Z, D)), right).T * jnp.exp(-log_unit)
        change = jnp.max(D * jnp.abs(dnu @ Z)) * jnp.exp(log_unit)
        return dnu, ahead, change / jnp.maximum(jnp.max(jnp.abs(rho)), jnp.max(jnp.abs(y)))

    def step(state: _State) -> _State:
        dnu, ahead, size = steps(state.log_scale, state.nu)
        turn = jnp.max(jnp.abs(dnu @ Z))
        centred = jnp.maximum(size, turn / _TURN) < _CENTRED
        log_scale = jnp.maximum(last, state.log_scale - jnp.where(centred, state.stride, 0.0))
        damping = jnp.minimum(1.0, _TURN / turn)
        return _State(
            log_scale,
            state.nu + damping * dnu + (state.log_scale - log_scale) * ahead,
            state.stride * jnp.where(centred, jnp.where(state.at_once, 3.0, 1.5), 1.0),
            centred,
            state.iterations + 1,
            (state.log_scale == last) & (size <= 1e3 * eps) | jnp.isnan(size),
        )

    unit = jnp.zeros_like(last)
    D, log_unit = _slopes(dataclasses.replace(coordinates, log_scale=unit), coordinates.start)
    first = cho_solve(cho_factor(_matrix(Z, D)), y - outputs) * jnp.exp(-log_unit)
    easy = jnp.maximum(last, jnp.log(2 * jnp.max(jnp.abs(first @ Z))) / L)
    begin = _State(easy, jnp.zeros_like(y), unit + 1 / L, jnp.array(True), jnp.array(0), jnp.isnan(easy))
    end = jax.lax.while_loop(lambda state: ~state.done & (state.iterations < MOST_ITERATIONS), step, begin)
    return end.nu, end.iterations


_CENTRED = 0.3  # relative size of a step from which Newton's method converges, so that the scale may move on
_TURN = 2.0  # of an angle in a step: ρ grows like e^{2x}


def _slopes(coordinates: Coordinates, x: Array) -> tuple[Float[Array, " m"], Scalar]:
    """D = dρ/dζ over its largest entry, and the logarithm of that."""
    log_D = jnp.where(coordinates.frozen, -jnp.inf, coordinates.log_rho_slope(x))
    largest = jax.lax.stop_gradient(jnp.max(log_D))
    return jnp.exp(log_D - largest), largest


def _matrix(Z: Array, D: Array) -> Float[Array, "n n"]:
    return (Z * D) @ Z.T


@jax.custom_jvp
def _implicit(
    coordinates: Coordinates, Z: Array, y: Array, nu: Array, inverse: Array
) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """The angles, and ν as it is, with the derivatives that the equations give them; `inverse` is (Z D Zᵀ)⁻¹ there, for
    D over the largest."""
    return coordinates.start + nu @ Z, nu


@_implicit.defjvp
def _implicit_jvp(primals: tuple, tangents: tuple) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    coordinates, Z, _, _, inverse = primals
    x, nu = _implicit(*primals)

    def equations(coordinates: Coordinates, Z: Array, y: Array) -> tuple[Array, Array]:
        """What the outputs lack, and the angles, if ν stays as it is."""
        angles = coordinates.start + nu @ Z
        return y - Z @ coordinates.rho(angles), angles

    _, (lack, moved) = jax.jvp(equations, primals[:3], tangents[:3])
    D, log_unit = _slopes(coordinates, x)
    G = _matrix(Z, D)
    inverse = bases.inverse_depending_on(G, inverse)
    lack = lack * jnp.exp(-log_unit)
    dnu = lack @ inverse
    dnu = dnu + (lack - G @ dnu) @ inverse
    return (x, nu), (moved + dnu @ Z, dnu)
