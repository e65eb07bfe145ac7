"""Where angles go in a Newton step, which says how ρ and ζ should change: both cannot be had."""

import jax.numpy as jnp
from jaxtyping import Array, Scalar

from .coordinates import Coordinates


def moved_angles(
    coordinates: Coordinates, x: Array, rho: Array, by_rho: Array, dx: Array, basic: Array, scale: Scalar
) -> Array:
    """The angles after a step by which ρ would become `by_rho`, and by which ζ would to first order turn x by `dx`."""
    tied, size = coordinates.side != 0, coordinates.size(x)
    out = jnp.where(tied, coordinates.side, jnp.where(x != 0, jnp.sign(x), jnp.sign(dx)))
    grows = out * dx > 0
    by_zeta = turned_angles(coordinates, x, dx)
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


def turned_angles(coordinates: Coordinates, x: Array, dx: Array) -> Array:
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
