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
"""

import math

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
    - `log_b`: log b_k, shape (K, m) with K = L − 1, increasing from log b_1 = 0.
    - `start`: x_0, shape (m,).
    - `order`: the layers by increasing |η_l|, shape (L, m).
    - `signs`: of η_l in that order; the first is that of q / η.
    - `tied`: where two layers share the smallest |η_l|. There a = 0, and a tiny a stands for it: see `inexact`.
    """

    log_scale: Scalar
    log_a: Float[Array, " m"]
    log_b: Float[Array, "K m"]
    start: Float[Array, " m"]
    order: Int[Array, "L m"]
    signs: Float[Array, "L m"]
    tied: Bool[Array, " m"]

    @classmethod
    def of(cls, eta: Float[Array, "L m"], log_alpha: float | Scalar = 0.0) -> "Coordinates":
        """The systems that start at η_l(0) = e^log_alpha · `eta[l]`."""
        size = jnp.max(jnp.abs(eta), axis=0)
        size = jnp.where(size > 0, size, 1.0)
        order = jnp.argsort(jnp.abs(eta), axis=0)
        eta = jnp.take_along_axis(eta, order, axis=0)
        least, others = jnp.abs(eta[0]), jnp.abs(eta[1:])
        differences = (others - least) / size
        tiny = float(jnp.finfo(eta.dtype).tiny) ** 0.65  # 1e-200: a relative difference of two layers that stands for 0
        tied = differences[0] <= (tiny if len(eta) == 2 else TIE * others[0] / size)
        log_sums = jnp.log(jnp.maximum((others + least) / size, tiny))
        log_c = (jnp.log(jnp.maximum(differences, tiny)) + log_sums) / 2
        signs = jnp.where(eta < 0, -1.0, 1.0).astype(eta.dtype).at[0].set(1.0)
        signs = signs.at[0].set(jnp.prod(signs, axis=0))
        q = signs[0] * eta[0] / size
        # Of a tie, log(2q/a) has the right derivatives by both layers, arcsinh(q/a) has not.
        start = jnp.where(tied, jnp.sign(q) * (log_sums[0] - log_c[0]), jnp.arcsinh(q * jnp.exp(-log_c[0])))
        log_a = log_c[0] + jnp.log(size)
        largest = jax.lax.stop_gradient(jnp.max(log_a + jnp.abs(start)))
        return cls(
            log_scale=log_alpha + largest,
            log_a=log_a - largest,
            log_b=log_c - log_c[0],
            start=start,
            order=order,
            signs=signs,
            tied=tied,
        )

    @property
    def depth(self) -> int:
        return self.log_b.shape[0] + 1

    def inexact(self, x: Float[Array, " m"]) -> Bool[Array, ""]:
        """Whether at the angles x a tie matters.

        For two layers η_1 ± η_2 ~ e^{±ζ} holds with ties too. The tiny a that stands for 0 does not matter where
        q has kept its sign and is much larger than a, or where both layers are zero and have stayed negligible.
        """
        eps, rho = jnp.finfo(x.dtype).eps, jnp.abs(self.unit_rho(x)[0])
        grown = (jnp.exp(-2 * jnp.abs(x)) < eps) & (x * self.start > 0)
        dead = (self.start == 0) & (rho <= eps * jnp.max(rho))
        return jnp.any(self.tied & ~(grown | dead)) if self.depth == 2 else jnp.any(self.tied)

    def _log_size(self, x: Float[Array, " m"], layers: int) -> Float[Array, " m"]:
        """log of α^layers a^layers e^{layers |x|}."""
        return layers * (self.log_scale + self.log_a + jnp.where(x < 0, -x, x))

    def rho(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """ρ at the angles x."""
        mantissa, exponent = self.scaled_rho(x)
        return mantissa * jnp.exp(exponent)

    def scaled_rho(self, x: Float[Array, " m"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """ρ = mantissa · e^exponent at the angles x, |mantissa| ≤ ½, where ρ itself may overflow."""
        sinh, _, radii = _scaled(x, self.log_b)
        return sinh, self._log_size(x, self.depth) + jnp.sum(jnp.log(radii), axis=0)

    def unit_rho(self, x: Float[Array, " m"]) -> tuple[Float[Array, " m"], Scalar]:
        """ρ e^{−R} and R = log of about the largest |ρ_j|, which is held fixed in derivatives."""
        mantissa, exponent = self.scaled_rho(x)
        R = jax.lax.stop_gradient(jnp.max(exponent))
        return mantissa * jnp.exp(exponent - R), R

    def rho_slope(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """dρ/dx > 0."""
        sinh, cosh, radii = _scaled(x, self.log_b)
        growth = cosh * (1 + jnp.sum((sinh / radii) ** 2, axis=0))
        return growth * jnp.exp(self._log_size(x, self.depth) + jnp.sum(jnp.log(radii), axis=0))

    def zeta(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """α^{L−2} ζ at the angles x. (For L ≥ 3 it is bounded, and ζ = O(α^{2−L}) itself may overflow.)"""
        if self.depth == 2:
            return x - self.start
        return jnp.exp((2 - self.depth) * self.log_a) * (_Z(x, self.log_b) - _Z(self.start, self.log_b))

    def log_zeta_slope(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """log of α^{L−2} dζ/dx."""
        return (2 - self.depth) * self.log_a - _log_speed(x, self.log_b)

    def conjugate(self, x: Float[Array, " m"]) -> Float[Array, " m"]:
        """α^{L−2} ∫₀^ζ ρ dζ = α^{L−2} (q² − q_0²) / 2, the convex function whose derivative by ζ is ρ."""

        def half_square(x: Array) -> Array:
            log_q2 = self._log_size(x, 2) + (self.depth - 2) * self.log_scale
            return _scaled(x, self.log_b)[0] ** 2 * jnp.exp(log_q2) / 2

        return half_square(x) - half_square(self.start)

    def eta(self, x: Float[Array, " m"]) -> Float[Array, "L m"]:
        """The η_l at the angles x, in the layers' own order."""
        eta, log_unit = self.unit_eta(x)
        return eta * jnp.exp(log_unit)

    def unit_eta(self, x: Float[Array, " m"]) -> tuple[Float[Array, "L m"], Scalar]:
        """η e^{−R} and R = log of about the largest |η|, which may itself overflow; R is fixed in derivatives."""
        sinh, _, radii = _scaled(x, self.log_b)
        log_size = self._log_size(x, 1)
        R = jax.lax.stop_gradient(jnp.max(log_size))
        ranked = self.signs * jnp.exp(log_size - R) * jnp.concatenate([sinh[None], radii])
        return jnp.take_along_axis(ranked, jnp.argsort(self.order, axis=0), axis=0), R


TIE = 1e-8  # relative difference below which the quadrature for three layers and more degrades


def _scaled(x: Array, log_b: Array) -> tuple[Array, Array, Array]:
    """sinh x, cosh x and √(sinh²x + b_k²), each times e^{−|x|}: of moderate size for every x."""
    decay = jnp.exp(-2 * jnp.abs(x))
    sinh = jnp.where(x < 0, jnp.expm1(2 * jnp.minimum(x, 0.0)), -jnp.expm1(-2 * jnp.maximum(x, 0.0))) / 2
    radii = jnp.sqrt(sinh**2 + decay * jnp.exp(2 * log_b))
    return sinh, (1 + decay) / 2, radii


def _log_speed(x: Array, log_b: Array) -> Array:
    """−log Z′(x) = Σ_{k≥2} ½ log(sinh²x + b_k²)."""
    _, _, radii = _scaled(x, log_b[1:])
    return jnp.sum(jnp.log(radii) + jnp.abs(x), axis=0)


# Gauss-Legendre nodes on [0, 1]. On the eight panels below, each of length (1.7 + log b)/8, the integrand's
# singularities lie π/2 off the axis: 12 nodes leave 1e-15 up to b = 1e4 and 1e-13 up to 1e6.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_PANELS = 8


def _Z_value(x: Float[Array, " m"], log_b: Float[Array, "K m"]) -> Float[Array, " m"]:
    """Z(x), by quadrature up to log(2 b_{L−1}) + 1 and, beyond, by the difference of two tails."""
    nodes, weights = jnp.asarray(_NODES, x.dtype), jnp.asarray(_WEIGHTS, x.dtype)
    distance = jnp.abs(x)
    split = log_b[-1] + math.log(2) + 1
    near = jnp.minimum(distance, split)

    def panel(total: Array, first: Array) -> tuple[Array, None]:
        points = near * (first + nodes[:, None] / _PANELS)
        return total + weights @ jnp.exp(-jax.vmap(_log_speed, (0, None))(points, log_b)), None

    panels = jnp.arange(_PANELS, dtype=x.dtype) / _PANELS
    integral = near / _PANELS * jax.lax.scan(panel, jnp.zeros_like(x), panels)[0]
    far = _tail(split, log_b) - _tail(jnp.maximum(distance, split), log_b)
    return jnp.sign(x) * (integral + jnp.where(distance > split, far, 0.0))


def _tail(x: Array, log_b: Array) -> Array:
    """∫_x^∞ Z′ = q^{2−L} ∫₀¹ z^{L−3} Π_k (1 + (b_k z / q)²)^{−1/2} dz with q = sinh x > b_{L−1}."""
    L = len(log_b) + 1
    log_q = x + jnp.log(-jnp.expm1(-2 * x)) - math.log(2)
    ratios = jnp.exp(2 * (log_b - log_q))
    nodes, weights = jnp.asarray(_NODES, x.dtype), jnp.asarray(_WEIGHTS, x.dtype)
    integrand = jnp.prod(1 + ratios * nodes[:, None, None] ** 2, axis=1) ** -0.5
    return jnp.exp((2 - L) * log_q) * ((weights * nodes ** (L - 3)) @ integrand)


_Z = jax.custom_jvp(_Z_value)


@_Z.defjvp
def _Z_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, log_b), (dx, dlog_b) = primals, tangents
    Z, by_b = jax.jvp(lambda log_b: _Z_value(x, log_b), (log_b,), (dlog_b,))
    return Z, by_b + jnp.exp(-_log_speed(x, log_b)) * dx
