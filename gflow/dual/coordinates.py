"""The scalar systems into which the flow of an orthogonally decomposable network falls apart.

Let η_l = U_lᵀv_l (Yun et al. 2021, Assumption 1, with real S and U_l) and ζ = S Xᵀν with ν = −∫₀ᵗ r. Then
dη_l/dζ = Π_{k≠l} η_k in every coordinate j by itself, and η_k² − η_i² is constant. Let q be the smallest of the
|η_l| with the sign that makes ρ = Π_l η_l have the sign of q, and c_1 ≤ … ≤ c_{L−1} the constants η_k² − q². Then

    ρ = q Π_k √(q² + c_k),    dζ = dq / Π_k √(q² + c_k).

With q = a sinh x, a = √c_1 and b_k = √(c_k / c_1) this is, for each coordinate,

    ρ = a^L sinh x Π_k √(sinh²x + b_k²),    ζ = a^{2−L} (Z(x) − Z(x_0)),
    Z(x) = ∫₀^x Π_{k≥2} (sinh²z + b_k²)^{−1/2} dz.

The angle x is the one coordinate in which nothing cancels or overflows: q ~ e^x, and Z(x) = x for two layers.
Yun et al.'s Lemma 4 is the case b_k = 1, x_0 = 0.

*Ties.* Where two layers or more share the smallest size, c_1 = 0 and q keeps its sign for ever. It is the limit
x_0 → ±∞ of the above: with ±e^{±x}/2 in the place of sinh x, a = 2|q(0)|, b_1 = 0 and x_0 = 0 all formulas stand, and
ρ → 0 as x runs to the other end. All layers equal is the commonest case, v_l = α·1. Where two layers or more are zero
nothing moves: such a coordinate is `frozen`.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar


class Coordinates(eqx.Module):
    """m scalar systems of L layers each, as the module's docstring has them.

    - `log_scale`: log α; every η_l is α times what the other fields say. It is the only field that need
      not be of moderate size: α itself need not be representable.
    - `log_a`: log a, shape (m,), at most 0.
    - `log_b`: log b_k, shape (K, m) with K = L − 1, increasing from log b_1, which is 0; `_NEVER` for b_k = 0.
    - `start`: x_0, shape (m,).
    - `order`: the layers by increasing |η_l|, shape (L, m).
    - `signs`: of η_l in that order; the first is that of q / η.
    - `side`: the sign of ρ where the smallest layers are equal and not zero, and 0 elsewhere.
    - `frozen`: where two layers are zero; `stays` holds the η_l / α there.
    """

    log_scale: Scalar
    log_a: Float[Array, " m"]
    log_b: Float[Array, "K m"]
    start: Float[Array, " m"]
    order: Int[Array, "L m"]
    signs: Float[Array, "L m"]
    side: Float[Array, " m"]
    frozen: Bool[Array, " m"]
    stays: Float[Array, "L m"]

    @classmethod
    def of(cls, eta: Float[Array, "L m"], log_alpha: float | Scalar = 0.0) -> "Coordinates":
        """The systems that start at η_l(0) = e^log_alpha · `eta[l]`."""
        order = jnp.argsort(jnp.abs(eta), axis=0)
        ranked = jnp.take_along_axis(eta, order, axis=0)
        frozen = ranked[1] == 0
        stand_in = jnp.arange(len(eta), dtype=eta.dtype)[:, None]  # for coordinates that do not move
        ranked = jnp.where(frozen, stand_in, ranked)
        size = jax.lax.stop_gradient(jnp.abs(ranked[1]))
        least, others = jnp.abs(ranked[0]) / size, jnp.abs(ranked[1:]) / size
        differences = (jnp.abs(ranked[1:]) - jnp.abs(ranked[0])) / size  # in this order: near ties subtract exactly
        positive = differences > 0
        tied = ~positive[0]
        log_c = (jnp.log(jnp.where(positive, differences, 1.0)) + jnp.log(others + least)) / 2
        log_a = jnp.where(tied, jnp.log(others[0] + least), log_c[0])
        signs = jnp.where(ranked < 0, -1.0, 1.0).astype(eta.dtype).at[0].set(1.0)
        signs = signs.at[0].set(jnp.prod(signs, axis=0))
        q = signs[0] * ranked[0] / size
        start = jnp.where(tied, 0.0, jnp.arcsinh(q * jnp.exp(-log_c[0])))
        log_b = jnp.where(positive, log_c - log_a, _NEVER)
        log_a = log_a + jnp.log(size)
        largest = jax.lax.stop_gradient(jnp.max(jnp.where(frozen, -jnp.inf, log_a + jnp.abs(start))))
        largest = jnp.where(frozen.all(), 0.0, largest)
        return cls(
            log_scale=log_alpha + largest,
            log_a=log_a - largest,
            log_b=log_b,
            start=start,
            order=order,
            signs=signs,
            side=jnp.where(tied & ~frozen, jnp.sign(q), 0.0),
            frozen=frozen,
            stays=jnp.where(frozen, eta * jnp.exp(-largest), 0.0),
        )

    def restarted(self, x: Float[Array, " m"], log_growth: Float[Array, " m"] | Scalar) -> "Coordinates":
        """The systems that start at the angles x with all layers e^log_growth times as large (for L ≥ 3 one number)."""
        log_a = self.log_a + log_growth
        largest = jax.lax.stop_gradient(jnp.max(jnp.where(self.frozen, -jnp.inf, log_a + self.size(x))))
        largest = jnp.where(self.frozen.all(), 0.0, largest)
        stays = self.stays * jnp.exp(log_growth - largest)
        new = (self.log_scale + largest, log_a - largest, x, stays)
        return eqx.tree_at(lambda c: (c.log_scale, c.log_a, c.start, c.stays), self, new)

    @property
    def depth(self) -> int:
        return self.log_b.shape[0] + 1

    def size(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """|x|, or for ties ±x: the exponent to which q grows, with which ρ rises and falls."""
        return jnp.where(self.side != 0, self.side * x, jnp.where(x < 0, -x, x))

    def outward(self, x: Float[Array, "*rows m"]) -> Float[Array, "*rows m"]:
        """The sign with which |ρ| grows in x; 0 at x = 0 but for ties."""
        return jnp.where(self.side != 0, self.side, jnp.sign(x))

    def rho(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """ρ at the angles x."""
        mantissa, exponent = self.scaled_rho(x)
        return mantissa * jnp.exp(exponent)

    def scaled_rho(self, x: Float[Array, " m"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """ρ = mantissa · e^exponent at the angles x, |mantissa| ≤ ½, where ρ itself may overflow."""
        parts = _at(self, x)
        return jnp.where(self.frozen, 0.0, parts.sinh), parts.log_unit + jnp.sum(parts.log_radii, axis=0)

    def unit_rho(self, x: Float[Array, " m"]) -> tuple[Float[Array, " m"], Scalar]:
        """ρ e^{−R} and R = log of about the largest |ρ_j|, which is held fixed in derivatives."""
        mantissa, exponent = self.scaled_rho(x)
        R = jax.lax.stop_gradient(jnp.max(exponent))
        return mantissa * jnp.exp(exponent - R), R

    def log_rho_slope(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """log dρ/dx."""
        parts = _at(self, x)
        ratios = parts.sinh * jnp.exp(parts.size - parts.log_radii)
        growth = jnp.log(parts.cosh) + jnp.log1p(jnp.sum(ratios**2, axis=0))
        return growth + parts.log_unit + jnp.sum(parts.log_radii, axis=0)

    def zeta(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """α^{L−2} ζ at the angles x. (For L ≥ 3 it is bounded, and ζ = O(α^{2−L}) itself may overflow.)"""
        if self.depth == 2:
            return x - self.start
        return jnp.exp((2 - self.depth) * self.log_a) * _Z(self.start, x, self.log_b, self.side)

    def log_zeta_slope(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """log of α^{L−2} dζ/dx."""
        return (2 - self.depth) * self.log_a - jnp.sum(_at(self, x).log_radii[1:], axis=0)

    def conjugate(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """α^{L−2} ∫₀^ζ ρ dζ = α^{L−2} (q² − q_0²) / 2, the convex function whose derivative by ζ is ρ."""

        def half_square(x: Array) -> Array:
            parts = _at(self, x)
            return parts.sinh**2 * jnp.exp(2 * parts.log_q_unit + (self.depth - 2) * self.log_scale) / 2

        return half_square(x) - half_square(self.start)

    def angle_of(self, rho: Float[Array, " m"]) -> Float[Array, " m"]:
        """The angles at which ρ is `rho`, of the right sign for ties."""
        tied = self.side != 0
        log_rho = jnp.log(jnp.abs(rho)) - self.depth * (self.log_scale + self.log_a)
        if self.depth == 2:  # 2ρ = a² sinh 2x; for ties |ρ| = a² e^{±2x}/4
            x = jnp.where(tied, log_rho / 2 + math.log(2), _arcsinh(log_rho + math.log(2)) / 2)
        else:
            x = self._angle_of_log(log_rho, tied)
        return jnp.where(tied, self.side * x, jnp.sign(rho) * jnp.where(rho == 0, 0.0, x))

    def _angle_of_log(self, log_rho: Array, tied: Array) -> Array:
        """By Newton's method on log ρ / a^L as a function of log x or, for ties, of x: it is convex, and the start is
        where it is too large."""
        above = log_rho - jnp.sum(jnp.where(tied, 0.0, self.log_b), axis=0)  # sinh x ≤ that, since every radius is ≥ b
        first = jnp.where(tied, log_rho / self.depth + math.log(2), _arcsinh(above))
        first = jnp.where(tied, first, jnp.maximum(first, jnp.finfo(first.dtype).tiny))
        side = jnp.where(tied, 1.0, 0.0)

        def step(state: tuple) -> tuple:
            x, count, _ = state
            sinh, cosh, log_radii = _functions(x, self.log_b, side)
            excess = jnp.log(sinh) + x + jnp.sum(log_radii, axis=0) - log_rho
            slope = cosh / sinh * (1 + jnp.sum((sinh * jnp.exp(x - log_radii)) ** 2, axis=0))
            new = jnp.where(tied, x - excess / slope, x * jnp.exp(-excess / (x * slope)))
            return new, count + 1, jnp.max(jnp.where(jnp.isfinite(excess), jnp.abs(excess), 0.0))

        def unfinished(state: tuple) -> Bool[Array, ""]:
            _, count, excess = state  # before the last step, which squared it
            return (count < 10) & (excess > 1e-8)

        return jax.lax.while_loop(unfinished, step, (first, 0, jnp.full_like(self.log_scale, jnp.inf)))[0]

    def eta(self, x: Float[Array, " m"]) -> Float[Array, "L m"]:
        """The η_l at the angles x, in the layers' own order."""
        eta, log_unit = self.unit_eta(x)
        return eta * jnp.exp(log_unit)

    def unit_eta(self, x: Float[Array, " m"]) -> tuple[Float[Array, "L m"], Scalar]:
        """η e^{−R} and R = log of about the largest |η|, which may itself overflow; R is fixed in derivatives."""
        parts = _at(self, x)
        log_a = self.log_scale + self.log_a
        R = jax.lax.stop_gradient(jnp.max(log_a + parts.log_radii[-1]))
        smallest = parts.sinh * jnp.exp(log_a + parts.size - R)
        ranked = self.signs * jnp.concatenate([smallest[None], jnp.exp(log_a + parts.log_radii - R)])
        return jnp.where(self.frozen, self.stays * jnp.exp(self.log_scale - R), self._in_layers_order(ranked)), R

    def equal_layers(self, rho: Float[Array, " m"]) -> Float[Array, "L m"]:
        """Layers of equal size |ρ|^{1/L} with the product ρ, which is what they become where they grow for ever."""
        alive = rho != 0
        size = jnp.where(alive, jnp.abs(jnp.where(alive, rho, 1.0)) ** (1 / self.depth), 0.0)
        ranked = self.signs * size
        return self._in_layers_order(ranked.at[0].multiply(jnp.sign(rho)))

    def _in_layers_order(self, ranked: Float[Array, "L m"]) -> Float[Array, "L m"]:
        return jnp.take_along_axis(ranked, jnp.argsort(self.order, axis=0), axis=0)


def _arcsinh(log_v: Array) -> Array:
    """arcsinh v, where v itself may overflow."""
    return jnp.where(log_v > 20, log_v + math.log(2), jnp.arcsinh(jnp.exp(jnp.minimum(log_v, 20.0))))  # to round-off


class _Point(NamedTuple):
    """sinh x and cosh x as mantissas times e^size, log √(sinh²x + b_k²), and the logarithm of a^L e^size."""

    size: Float[Array, " m"]
    sinh: Float[Array, " m"]
    cosh: Float[Array, " m"]
    log_radii: Float[Array, "K m"]
    log_unit: Float[Array, " m"]
    log_q_unit: Float[Array, " m"]


def _at(coordinates: Coordinates, x: Array) -> _Point:
    size = coordinates.size(x)
    sinh, cosh, log_radii = _functions(x, coordinates.log_b, coordinates.side)
    log_a = coordinates.log_scale + coordinates.log_a
    return _Point(size, sinh, cosh, log_radii, coordinates.depth * log_a + size, log_a + size)


def _functions(x: Array, log_b: Array, side: Array) -> tuple[Array, Array, Array]:
    """sinh x and cosh x, each times e^{−size} (±½ and ½ for ties), and log √(sinh²x + b_k²)."""
    tied, negative = side != 0, x < 0
    # At x = 0 one branch of each `where` has all of the slope, and the other none.
    left, right = jnp.where(negative, x, 0.0), jnp.where(negative, 0.0, x)
    sinh = jnp.where(negative, jnp.expm1(2 * left), -jnp.expm1(-2 * right)) / 2
    sinh, cosh = jnp.where(tied, side / 2, sinh), jnp.where(tied, 0.5, (1 + jnp.exp(2 * (left - right))) / 2)
    size = jnp.where(tied, side * x, right - left)
    two_sided = jnp.log(sinh**2 + jnp.exp(2 * (log_b - jnp.where(tied, 0.0, size))))
    one_sided = jnp.logaddexp(-2 * math.log(2), 2 * (log_b - size))
    return sinh, cosh, size + jnp.where(tied, one_sided, two_sided) / 2


_NEVER = -1e30  # log b of a tie, in the place of −∞, which has no derivatives

# Gauss-Legendre nodes on [0, 1]. On panels no longer than 1.5 the integrand's singularities lie π/2 off the axis: 12
# nodes leave 1e-15.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_PANEL = 1.5


def _log_speed(x: Array, log_b: Array, side: Array) -> Array:
    """−log Z′(x) = Σ_{k≥2} log √(sinh²x + b_k²)."""
    return jnp.sum(_functions(x, log_b[1:], side)[2], axis=0)


def _Z_value(start: Array, x: Array, log_b: Array, side: Array) -> Array:
    """Z(x) − Z(x_0), in pieces that do not cross 0, from where the integrand is largest on."""
    tied = side != 0
    a, b = (jnp.where(tied, side * v, jnp.abs(v)) for v in (start, x))
    across = ~tied & (start * x < 0)
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    first = _from_to(jnp.where(across, 0.0, low), high, log_b, tied)
    second = _from_to(jnp.zeros_like(low), jnp.where(across, low, 0.0), jnp.where(tied, 0.0, log_b), tied & False)
    return jnp.where(x < start, -1.0, 1.0) * (first + second)


def _from_to(low: Array, high: Array, log_b: Array, tied: Array) -> Array:
    """∫_low^high Z′ for 0 ≤ low ≤ high (ties: any low): panels as far as log 2b + 1, then the difference of tails."""
    nodes, weights = jnp.asarray(_NODES, low.dtype), jnp.asarray(_WEIGHTS, low.dtype)
    side = tied.astype(low.dtype)
    split = jnp.maximum(low, log_b[-1] + math.log(2) + 1)
    beyond = high > split + 0.5  # nearer the two tails would cancel
    length = jnp.where(beyond, split, high) - low
    panels = jnp.ceil(jnp.max(length) / _PANEL)

    def panel(i: Array, total: Array) -> Array:
        points = low + length * (i + nodes[:, None]) / panels
        return total + weights @ jnp.exp(-jax.vmap(_log_speed, (0, None, None))(points, log_b, side))

    near = jax.lax.fori_loop(0, panels.astype(int), panel, jnp.zeros_like(low)) * length / jnp.maximum(panels, 1.0)
    far = _tail(split, log_b, tied) - _tail(jnp.where(beyond, high, split + 1.0), log_b, tied)
    return near + jnp.where(beyond, far, 0.0)


def _tail(x: Array, log_b: Array, tied: Array) -> Array:
    """∫_x^∞ Z′ = q^{2−L} ∫₀¹ z^{L−3} Π_k (1 + (b_k z / q)²)^{−1/2} dz with q = sinh x > b_{L−1}, or e^x/2 for ties."""
    L = len(log_b) + 1
    log_q = x + jnp.where(tied, 0.0, jnp.log(-jnp.expm1(-2 * jnp.where(tied, 1.0, x)))) - math.log(2)
    ratios = jnp.exp(2 * (log_b - log_q))
    nodes, weights = jnp.asarray(_NODES, x.dtype), jnp.asarray(_WEIGHTS, x.dtype)
    integrand = jnp.prod(1 + ratios * nodes[:, None, None] ** 2, axis=1) ** -0.5
    return jnp.exp((2 - L) * log_q) * ((weights * nodes ** (L - 3)) @ integrand)


_Z = jax.custom_jvp(_Z_value)


@_Z.defjvp
def _Z_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    start, x, log_b, side = primals
    dstart, dx, dlog_b, _ = tangents
    by_start, by_x = (jnp.exp(-_log_speed(v, log_b, side)) for v in (start, x))

    def by_b(direction: Array) -> Array:
        unit = jnp.broadcast_to(direction[:, None], log_b.shape)
        return jax.jvp(lambda log_b: _Z_value(start, x, log_b, side), (log_b,), (unit,))[1]

    slopes = jax.vmap(by_b)(jnp.eye(len(log_b), dtype=x.dtype))
    return _Z(*primals), by_x * dx - by_start * dstart + jnp.sum(slopes * dlog_b, axis=0)
