"""The limit of an orthogonally decomposable regression by Newton's method: n unknowns and no integration.

With Z = X Sᵀ the flow is ν̇ = y − Zρ(Zᵀν) (`coordinates`), a gradient flow of the convex function
Ψ(ν) = Σ_j ∫₀^{ζ_j} ρ_j − yᵀν, and its limit is the minimum of Ψ, whatever the start. The equations

    Z ρ(x) = y,    Zᵀν = ζ(x)

are solved for the angles x and for ν together. In ν alone they lose all digits at small α, since ζ then lies within
round-off of its bound while ρ does not.
"""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from .coordinates import Coordinates


class Limit(eqx.Module):
    """Where Newton's method ended, with the evidence. All of it is relative and in the dtype of the data.

    - `angles`, `nu`: x of shape (m,) and α^{L−2} ν of shape (n,).
    - `rho`: ρ of shape (m,).
    - `residual`: ‖Zρ − y‖ / ‖y‖ (with the size of the start's outputs added to ‖y‖).
    - `dual_residual`: max |Zᵀν − ζ| / max |ζ|.
    - `gap`: the duality gap over the potential Q(ρ), to first order in the primal and second in the dual residual.
    - `error`: the norm of the next Newton step, that is ‖δρ‖ / ‖ρ‖.
    - `iterations`; `finite`, and `converged`: whether `error` is below the tolerance, at the scale asked for,
      and no tie of two layers matters (`Coordinates.inexact`).
    """

    angles: Float[Array, " m"]
    nu: Float[Array, " n"]
    rho: Float[Array, " m"]
    residual: Scalar
    dual_residual: Scalar
    gap: Scalar
    error: Scalar
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    finite: Bool[Array, ""]


class _Point(eqx.Module):
    """An iterate with everything Newton's step needs. `misfit` and `slack` are the two equations' residuals."""

    x: Float[Array, " m"]
    nu: Float[Array, " n"]
    rho: Float[Array, " m"]
    rho_slope: Float[Array, " m"]
    log_zeta_slope: Float[Array, " m"]
    misfit: Float[Array, " n"]  # y − Zρ
    slack: Float[Array, " m"]  # Zᵀν − ζ
    zeta: Float[Array, " m"]
    depth: int = eqx.field(static=True)


class _State(NamedTuple):
    log_scale: Scalar
    point: _Point
    merit: Scalar
    stride: Scalar  # how far to go in log α next
    damping: Scalar
    error: Scalar
    iterations: Int[Array, ""]
    accepted: Bool[Array, ""]
    done: Bool[Array, ""]


def _evaluate(coordinates: Coordinates, Z: Array, y: Array, x: Array, nu: Array) -> _Point:
    rho, zeta = coordinates.rho(x), coordinates.zeta(x)
    return _Point(
        x,
        nu,
        rho,
        coordinates.rho_slope(x),
        coordinates.log_zeta_slope(x),
        misfit=y - Z @ rho,
        slack=nu @ Z - zeta,
        zeta=zeta,
        depth=coordinates.depth,
    )


# Newton's matrix (not the equations) takes no ζ for flatter and no ρ for stiffer than these, relative to the largest:
# beyond, round-off in Zᵀν would move ρ, and round-off in Zρ would move ν.
_FLATTEST = 4.5e5  # units of round-off: 1e-10 in float64
_STIFFEST = 450.0  # 1e-13


def _solve(Z: Array, point: _Point, misfit: Array, slack: Array) -> tuple[Array, Array]:
    """(dx, dν) with Z (dρ/dx dx) = misfit and dζ/dx dx − Zᵀdν = slack, each for a stack of right-hand sides."""
    slope = jnp.exp(point.log_zeta_slope)
    largest_zeta = jnp.max(jnp.abs(point.zeta) + slope)
    largest_rho = jnp.max(jnp.abs(point.rho) + point.rho_slope)
    eps = float(jnp.finfo(Z.dtype).eps)
    inverse_slope = 1 / jnp.maximum(slope, _FLATTEST * eps * largest_zeta)
    D = point.rho_slope * inverse_slope  # dρ/dζ
    scale = jnp.max(D)
    if point.depth == 2:
        L = jnp.linalg.cholesky((Z * jnp.maximum(D / scale, _STIFFEST * eps)) @ Z.T)
    else:  # Z D Zᵀ itself has a condition number of 1e23 and more at small α; its factor has the root of that
        floor = _STIFFEST * eps * largest_rho / largest_zeta / scale
        L = jnp.linalg.qr((Z * jnp.sqrt(jnp.maximum(D / scale, floor))).T, mode="r").T

    def solve(misfit: Array, slack: Array) -> tuple[Array, Array]:
        w = solve_triangular(L, (misfit - (D * slack) @ Z.T).T / scale, lower=True)
        dnu = solve_triangular(L, w, lower=True, trans=1).T
        return (dnu @ Z + slack) * inverse_slope, dnu

    dx, dnu = solve(misfit, slack)
    for _ in range(0 if point.depth == 2 else 2):  # refined until Zρ is exact where ζ is flat
        more_x, more_nu = solve(misfit - (point.rho_slope * dx) @ Z.T, jnp.zeros_like(slack))
        dx, dnu = dx + more_x, dnu + more_nu
    return dx, dnu


def newton(
    coordinates: Coordinates,
    Z: Float[Array, "n m"],
    y: Float[Array, " n"],
    *,
    tolerance: float | Scalar = 1e-9,
    max_iterations: int = 200,
) -> Limit:
    """The limit of the flow ν̇ = y − Zρ(Zᵀν) from ν = 0.

    Newton's method, continued in the initial scale: it starts at a log α where one step nearly solves the
    equations and follows the limits down to the log α asked for. The path x(log α) is asymptotically a
    straight line, so strides triple: α = 10^−1000 takes some 10 iterations more than α = 10^−5.

    - `tolerance`: the relative ‖δρ‖ of the last step that counts as converged. The iteration itself goes on to
      round-off.

    May be compiled and batched, and differentiated (to any order) by `coordinates`, `Z` and `y`: the derivative
    is that of the equations' solution (implicit function theorem), and costs one more linear solve.
    """
    state = _continue_in_scale(*jax.lax.stop_gradient((coordinates, Z, y, tolerance)), max_iterations)
    x, nu = _implicit(coordinates, Z, y, state.point.x, state.point.nu)
    return _certify(coordinates, Z, y, x, nu, state, tolerance)


def _continue_in_scale(
    coordinates: Coordinates, Z: Array, y: Array, tolerance: float | Scalar, max_iterations: int
) -> _State:
    target, L = coordinates.log_scale, coordinates.depth
    still = jnp.zeros_like(y), jnp.zeros_like(coordinates.start)
    unit = _at(coordinates, jnp.zeros_like(target))
    outputs = Z @ unit.rho(coordinates.start)

    def merit(log_scale: Scalar, point: _Point) -> Scalar:
        size = jnp.linalg.norm(y) + jnp.exp(L * log_scale) * jnp.linalg.norm(outputs)
        primal = jnp.linalg.norm(point.misfit) / size
        dual = jnp.max(jnp.abs(point.slack)) / (jnp.max(jnp.abs(point.zeta)) + jnp.finfo(y.dtype).tiny)
        return jnp.maximum(primal, dual)

    def step(state: _State) -> _State:
        point = state.point
        misfits = jnp.stack([point.misfit, -L * (y - point.misfit)])  # of the equations, and by log α
        slacks = jnp.stack([point.slack, still[1]])
        (dx, dx_by_scale), (dnu, dnu_by_scale) = _solve(Z, point, misfits, slacks)
        error = jnp.where(
            state.log_scale == target,
            jnp.linalg.norm(point.rho_slope * dx) / jnp.maximum(jnp.linalg.norm(point.rho), jnp.finfo(y.dtype).tiny),
            jnp.inf,
        )
        centred = state.merit <= _LARGEST_MERIT
        log_scale = jnp.maximum(target, state.log_scale - jnp.where(centred, state.stride, 0.0))
        stride, damping = log_scale - state.log_scale, state.damping
        trial = _evaluate(
            _at(coordinates, log_scale),
            Z,
            y,
            _move(point.x, damping * dx + stride * dx_by_scale, L)
            if L > 2
            else point.x + damping * dx + stride * dx_by_scale,
            point.nu + damping * dnu + stride * dnu_by_scale,
        )
        trial_merit = merit(log_scale, trial)
        solved = error <= jnp.minimum(
            1e5 * jnp.finfo(y.dtype).eps, 0.1 * tolerance
        )  # and the step that is made now squares it
        # Steps below 1e-8 (in float64) that no longer shrink are round-off.
        stalled = state.accepted & (error < 0.67 * jnp.finfo(y.dtype).eps ** 0.5) & (error >= state.error)
        better = jnp.linalg.norm(trial.misfit) <= jnp.linalg.norm(point.misfit)
        accept = (better | ~(solved | stalled)) & (
            trial_merit <= jnp.maximum(_LARGEST_MERIT, (1 - damping / 4) * state.merit)
        )

        def choose(new: ArrayLike, old: ArrayLike) -> Array:
            return jnp.where(accept, new, old)

        return _State(
            log_scale=choose(log_scale, state.log_scale),
            point=jax.tree.map(choose, trial, point),
            merit=choose(trial_merit, state.merit),
            stride=state.stride * choose(3.0, 0.25),
            damping=choose(jnp.minimum(1.0, 4 * damping), damping / 4),
            error=error,
            iterations=state.iterations + 1,
            accepted=accept,
            done=solved | stalled,
        )

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.iterations < max_iterations) & ~state.done

    begin = _evaluate(unit, Z, y, coordinates.start, still[0])
    dx, _ = _solve(Z, begin, y, still[1])
    easy = jnp.maximum(target, jnp.log(2 * jnp.max(jnp.abs(dx))) / L)
    point = _evaluate(_at(coordinates, easy), Z, y, coordinates.start, still[0])
    one = jnp.ones_like(target)
    return jax.lax.while_loop(
        unfinished,
        step,
        _State(
            easy,
            point,
            merit(easy, point),
            one / L,
            one,
            one * jnp.inf,
            jnp.array(0),
            jnp.array(False),
            jnp.array(False),
        ),
    )


def _move(x: Array, dx: Array, L: int) -> Array:
    """x + dx, but where |x| > 1 shrinks, ρ ~ e^{L|x|} follows its linearisation, down to a hundredth.

    Otherwise a ρ_j that has to vanish would shrink by no more than a factor e in a step.
    """
    shrink = -jnp.sign(x) * dx
    faster = -jnp.log1p(-jnp.minimum(L * shrink, 0.99)) / L
    return jnp.where((jnp.abs(x) > 1) & (shrink > 0), x - jnp.sign(x) * jnp.maximum(shrink, faster), x + dx)


_LARGEST_MERIT = 0.3  # relative misfit at which Newton's method still converges quadratically


def _at(coordinates: Coordinates, log_scale: Scalar) -> Coordinates:
    return dataclasses.replace(coordinates, log_scale=log_scale)


def _implicit_value(coordinates: Coordinates, Z: Array, y: Array, x: Array, nu: Array) -> tuple[Array, Array]:
    """(x, ν) as they are, with the derivatives that the equations give them."""
    return x, nu


_implicit = jax.custom_jvp(_implicit_value)


@_implicit.defjvp
def _implicit_jvp(primals: tuple, tangents: tuple) -> tuple:
    coordinates, Z, y, _, _ = primals
    x, nu = _implicit(*primals)

    def equations(coordinates: Coordinates, Z: Array, y: Array) -> tuple[Array, Array]:
        point = _evaluate(coordinates, Z, y, x, nu)
        return point.misfit, point.slack

    _, changes = jax.jvp(equations, primals[:3], tangents[:3])
    return (x, nu), _solve(Z, _evaluate(coordinates, Z, y, x, nu), *changes)


def _certify(
    coordinates: Coordinates, Z: Array, y: Array, x: Array, nu: Array, state: _State, tolerance: float | Scalar
) -> Limit:
    point = _evaluate(coordinates, Z, y, x, nu)
    outputs = Z @ coordinates.rho(coordinates.start)
    D = point.rho_slope * jnp.exp(-point.log_zeta_slope)
    gap = jnp.abs(nu @ point.misfit) + jnp.sum(D * point.slack**2) / 2
    potential = point.rho @ point.zeta - jnp.sum(coordinates.conjugate(x))
    return Limit(
        angles=x,
        nu=nu,
        rho=point.rho,
        residual=jnp.linalg.norm(point.misfit) / (jnp.linalg.norm(y) + jnp.linalg.norm(outputs)),
        dual_residual=jnp.max(jnp.abs(point.slack)) / jnp.max(jnp.abs(point.zeta)),
        gap=gap / potential,
        error=state.error,
        iterations=state.iterations,
        converged=state.done & (state.error <= tolerance) & ~coordinates.inexact(x),
        finite=jnp.isfinite(point.rho).all() & jnp.isfinite(nu).all(),
    )
