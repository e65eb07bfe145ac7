"""The equations of a limit in dual coordinates, and Newton's steps in them (`newton`)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Scalar

from .basis import Basis
from .coordinates import Coordinates
from .digits import difference


class Equations(NamedTuple):
    """The equations' residuals at the angles x: misfit A(ρ* − ρ) in the basis' rows, and slack Aᵀζ_B − ζ."""

    rho: Float[Array, " m"]
    zeta: Float[Array, " m"]
    misfit: Float[Array, " n"]
    slack: Float[Array, " m"]


class Slopes(NamedTuple):
    """log dρ/dx, log dζ/dx, and the weights w = √(dρ/dζ) over the largest."""

    log_rho: Float[Array, " m"]
    log_zeta: Float[Array, " m"]
    w: Float[Array, " m"]


def held_exp(v: Array) -> Array:
    """e^v, held within what can be represented."""
    return jnp.exp(
        jnp.clip(v, 0.98 * math.log(float(jnp.finfo(v.dtype).tiny)), 0.98 * math.log(float(jnp.finfo(v.dtype).max)))
    )


def slopes_at(coordinates: Coordinates, x: Array) -> Slopes:
    log_rho, log_zeta = coordinates.log_rho_slope(x), coordinates.log_zeta_slope(x)
    log_D = jnp.where(coordinates.frozen, -jnp.inf, log_rho - log_zeta)
    # A column lighter than e^{−1200} times the heaviest is taken for that heavy, which moves nothing that shows.
    lightest = 0.85 * math.log(float(jnp.finfo(x.dtype).tiny))
    heaviest = jnp.maximum(jnp.max(log_D), jnp.finfo(x.dtype).min)
    w = jnp.exp(jnp.maximum((log_D - heaviest) / 2, lightest))
    return Slopes(log_rho, log_zeta, jax.lax.optimization_barrier(w))  # to be computed once, not n times


def solve_step(
    basis: Basis,
    slopes: Slopes,
    misfit: Float[Array, "*k n"],
    slack: Float[Array, "*k m"],
    inverse_gram: Float[Array, "n n"] | None = None,
) -> tuple[Float[Array, "*k m"], Float[Array, "*k n"]]:
    """δρ, and the change of ζ at the basis' columns, with A δρ = misfit and δζ − Aᵀδζ_B = slack."""
    M, w = basis.ratios(slopes.w), basis.of_rows(slopes.w, 1.0)
    shifts = slack * held_exp(slopes.log_rho - slopes.log_zeta)  # D · slack, which is 0 at the basis' columns
    right = jnp.where(basis.active, (misfit - shifts @ basis.A.T) / w, 0.0)
    known = inverse_gram is not None
    t = right @ inverse_gram if known else cho_solve(cho_factor(gram_of(basis, slopes)), right.T).T
    rho_B = t * w
    rho = basis.at_columns(slopes.w * (t @ M) + shifts, rho_B)
    inverse_D = held_exp(basis.of_rows(slopes.log_zeta - slopes.log_rho, 0.0))
    return rho, jnp.where(basis.active, rho_B * inverse_D, 0.0)


def gram_of(basis: Basis, slopes: Slopes) -> Float[Array, "n n"]:
    M = basis.ratios(slopes.w)
    return M @ M.T + jnp.diag(jnp.where(basis.active, 0.0, 1.0)).astype(M.dtype)


def misfit_of(Z: Array, target: Array, basis: Basis, rho: Array, shift: Array) -> Float[Array, " n"]:
    """That of Zρ = target + Z shift, in the basis' rows."""
    return basis.inverse @ target - basis.A @ (rho - shift)


def misfit_of_data(Z: Array, target: Array, basis: Basis, rho: Array, shift: Array) -> Float[Array, " n"]:
    """The same where there is no shift, to the data's own round-off."""
    return basis.inverse @ difference(target, Z, jnp.where(is_seen(Z), rho, 0.0))


def is_seen(Z: Array) -> Bool[Array, " m"]:
    """Whether any row sees a coordinate. What none sees has no part in the outputs' round-off, however large it is."""
    return jnp.any(Z != 0, axis=0)


def left_of_start(coordinates: Coordinates, Z: Array, target: Array) -> Scalar:
    """max |ρ| at the start where y = 0, and 0 elsewhere: the only size there is then, since ρ itself may go to 0."""
    start = jnp.abs(coordinates.rho(coordinates.start))
    return jnp.where(jnp.any(target != 0), 0.0, jnp.max(jnp.where(is_seen(Z), start, 0.0)))


def slack_of(basis: Basis, zeta: Array) -> Float[Array, " m"]:
    return jnp.where(basis.basic, 0.0, basis.of_rows(zeta, 0.0) @ basis.A - zeta)


def at_scale(coordinates: Coordinates, log_scale: Scalar) -> Coordinates:
    return dataclasses.replace(coordinates, log_scale=log_scale)
