"""What the equations' residuals at the end say of a limit in dual coordinates."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from . import basis as bases
from . import projection
from .basis import Basis
from .coordinates import Coordinates
from .digits import difference, resolution
from .moves import turned_angles
from .steps import Equations, held_exp, is_seen, left_of_start, slack_of, slopes_at


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


def certified(
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
    seen = jnp.where(is_seen(Z), rho, 0.0)
    misfit = jnp.where(basis.active, basis.inverse @ difference(target, Z, seen), 0.0)
    equations = Equations(rho, zeta, misfit, slack_of(basis, zeta))
    zeta_B, outputs = basis.of_rows(zeta, 0.0), jnp.where(basis.active, target, 0.0)
    end = evidence(coordinates, Z, outputs, angles, basis.inverse.T @ zeta_B, equations, zeta_B @ misfit)
    errors = _errors(coordinates, solved, basis, inverse_gram, x, equations)
    return dataclasses.replace(end, errors=errors, iterations=iterations)


def evidence(
    coordinates: Coordinates, Z: Array, target: Array, angles: Array, nu: Array, equations: Equations, pairing: Scalar
) -> Limit:
    """What the equations' residuals say of the limit; `pairing` is ν times the misfit. Without `errors`."""
    x, rho, zeta = jax.lax.stop_gradient(angles), equations.rho, equations.zeta
    D = held_exp(coordinates.log_rho_slope(x) - coordinates.log_zeta_slope(x))
    gap = jnp.abs(pairing) + jnp.sum(D * equations.slack**2) / 2
    potential = rho @ zeta - jnp.sum(coordinates.conjugate(x))
    largest = jnp.max(jnp.where(is_seen(Z), jnp.abs(rho), 0.0)) + left_of_start(coordinates, Z, target)
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
    equations: Equations,
) -> Float[Array, " m"]:
    """A bound on |δρ|: the solution of Newton's equations for the residuals and all round-off in them, with every
    term's absolute value taken. Twice that, since D changes on the way."""
    Z = solved.Z
    n, m = Z.shape
    eps = projection.ROUND_OFF * float(jnp.finfo(x.dtype).eps)
    slopes, rho, zeta = slopes_at(coordinates, x), jnp.abs(equations.rho), jnp.abs(equations.zeta)
    reach, B = jnp.abs(basis.inverse), bases.columns_of(basis, Z)
    zeta_B = basis.of_rows(zeta, 0.0)
    largest = jnp.max(jnp.where(is_seen(Z), rho, 0.0))
    of_sums = resolution(m, x.dtype) * jnp.max(jnp.abs(Z), axis=1) * largest
    of_A = resolution(n, x.dtype) * jnp.max(jnp.abs(B), axis=1)[:, None] * jnp.max(jnp.abs(basis.A), axis=0)
    of_data = solved.noise + solved.relative * (jnp.abs(Z) @ jnp.where(is_seen(Z), rho, 0.0))
    misfit = jnp.abs(equations.misfit) + reach @ (of_sums + of_data)
    slack = jnp.abs(equations.slack) + eps * (zeta_B @ jnp.abs(basis.A) + zeta) + zeta_B @ (reach @ of_A)
    slack = jnp.where(basis.basic, 0.0, slack)
    shifts = slack * held_exp(slopes.log_rho - slopes.log_zeta)
    # D is that of the neighbourhood only. But a tie that sinks, sinks by no more than all of it.
    sinks = coordinates.side * equations.slack < 0
    turns = slack * held_exp(-slopes.log_zeta)
    out = jnp.where(coordinates.side != 0, coordinates.side, jnp.where(x < 0, -1.0, 1.0))
    grown = jnp.abs(coordinates.rho(turned_angles(coordinates, x, out * turns)))
    shifts = jnp.where(turns <= 0.1, shifts, rho + grown)
    shifts = jnp.where(sinks, jnp.minimum(shifts, rho), shifts)
    M, w = jnp.abs(basis.ratios(slopes.w)), basis.of_rows(slopes.w, 1.0)
    t = jnp.abs(inverse_gram) @ jnp.where(basis.active, (misfit + jnp.abs(basis.A) @ shifts) / w, 0.0)
    errors = 2 * basis.at_columns(slopes.w * (t @ M) + shifts, t * w)
    trusted = jnp.max(jnp.abs(basis.inverse @ B - jnp.eye(n, dtype=x.dtype))) < 1e-3
    return jnp.where(trusted & ~jnp.isnan(errors), errors, jnp.inf)
