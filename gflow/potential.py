"""The potentials of Yun et al. 2021, Lemma 4, for every depth L ≥ 2 and every representable argument.

Lemma 4 defines ṗ = p^{L−2} q, q̇ = p^{L−1}, p(0) = 1, q(0) = 0, h_L = p^{L−1} q and H_L(τ) = ∫₀^τ h_L⁻¹.
Since p² − q² = 1, all of it is a function of one hyperbolic angle x with p = cosh x and q = sinh x:

    h_L = sinh x cosh^{L−1} x,    s_L = ∫₀^x cosh^{−(L−2)},    H_L(h_L) = h_L s_L − ½ sinh² x,    G_L(s_L) = ½ sinh² x.

The angle stays below 711 over the whole range of float64, so nothing here overflows unless its value does.
Every function is elementwise, odd or even as its formula, and made for `jax.jit`, `jax.vmap` and `jax.grad`;
`L` is a Python integer.
"""

import functools
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from ._checks import to_float

Numbers: TypeAlias = Shaped[ArrayLike, "..."]
Elementwise: TypeAlias = Float[Array, "..."]

# Newton in log x on the convex functions below reaches round-off in at most 5 steps from the starts used.
_NEWTON_STEPS = 8
# The integrand of `_tail` is analytic in a Bernstein ellipse of size 4.6: 24 nodes leave 4.6^−48.
_NODES, _WEIGHTS = (0.5 * a for a in np.polynomial.legendre.leggauss(24))
_NODES = _NODES + 0.5

# One program for a function, depth and shape, where the functions op by op would be dozens.
_compiled = functools.partial(jax.jit, static_argnames="L")


def blow_up(L: int) -> float:
    """The time c_L = sup s_L at which h_L becomes infinite: ∞ for L = 2, then π/2, 1, π/4, 2/3, …

    ```python
    assert gflow.potential.blow_up(2) == jnp.inf
    assert jnp.allclose(gflow.potential.blow_up(3), jnp.pi / 2)
    ```
    """
    _check_depth(L)
    if L == 2:
        return math.inf
    return math.sqrt(math.pi) * math.exp(math.lgamma((L - 2) / 2) - math.lgamma((L - 1) / 2)) / 2


@_compiled
def s(q: Numbers, L: int) -> Elementwise:
    """The time s_L(q) = ∫₀^q (1 + z²)^{−(L−1)/2} dz at which Lemma 4's q(t) has the value `q`.

    Its inverse is `q_of`. Source: Yun et al. 2021, Lemma 4.

    ```python
    assert jnp.allclose(gflow.potential.s(1.0, L=3), jnp.pi / 4)
    ```
    """
    _check_depth(L)
    return _s(jnp.arcsinh(q), L)


@_compiled
def q_of(time: Numbers, L: int) -> Elementwise:
    """Lemma 4's q at the time `time`, the inverse of `s`; ±∞ at and beyond the blow-up ±c_L.

    ```python
    assert jnp.allclose(gflow.potential.q_of(gflow.potential.s(0.7, L=4), L=4), 0.7)
    ```
    """
    return jnp.sinh(_angle_at_time(time, L))


@_compiled
def h(time: Numbers, L: int) -> Elementwise:
    """h_L(time) = p^{L−1} q; ±∞ at and beyond the blow-up ±c_L. Yun et al. 2021, Lemma 4.

    ```python
    assert jnp.allclose(gflow.potential.h(0.3, L=2), jnp.sinh(0.6) / 2)
    ```
    """
    x = _angle_at_time(time, L)
    zero = x == 0  # where the logarithm has no derivative, and h_L′ = 1
    return jnp.where(zero, x, jnp.sign(x) * jnp.exp(_log_h(jnp.where(zero, 1.0, jnp.abs(x)), L)))


@_compiled
def h_prime(time: Numbers, L: int) -> Elementwise:
    """h_L′(time) = p^{2L−4} (p² + (L−1) q²).

    ```python
    assert jnp.allclose(gflow.potential.h_prime(0.3, L=2), jnp.cosh(0.6))
    ```
    """
    return jnp.exp(_log_h_prime(_angle_at_time(time, L), L))


@_compiled
def h_inverse(tau: Numbers, L: int) -> Elementwise:
    """h_L⁻¹(τ) = H_L′(τ), the time at which h_L has the value `tau`.

    ```python
    assert jnp.allclose(gflow.potential.h_inverse(gflow.potential.h(0.3, L=3), L=3), 0.3)
    ```
    """
    return _h_inverse(to_float(tau), _check_depth(L))


@_compiled
def H(tau: Numbers, L: int) -> Elementwise:
    """H_L(τ) = ∫₀^τ h_L⁻¹, the potential of Yun et al. 2021, Theorem 5.

    Near 0 it is τ²/2, so it underflows to 0 below |τ| ~ 1e-162: use `log_H` there.

    ```python
    assert jnp.allclose(gflow.potential.H(0.5, L=2), 0.5 * (jnp.arcsinh(1.0) / 2) - (2**0.5 - 1) / 4)
    ```
    """
    return _H(to_float(tau), _check_depth(L))


@_compiled
def log_H(log_tau: Numbers, L: int) -> Elementwise:
    """log H_L(τ) as a function of log τ, for every real `log_tau` (τ itself need not be representable).

    ```python
    assert jnp.allclose(gflow.potential.log_H(jnp.log(2.0), L=3), jnp.log(gflow.potential.H(2.0, L=3)))
    ```
    """
    _check_depth(L)
    log_tau = to_float(log_tau)
    near = log_tau < -40  # there H = τ²/2 to round-off
    x = jnp.exp(_log_angle(jnp.where(near, 0.0, log_tau), L))
    return log_tau + jnp.where(near, log_tau - math.log(2), jnp.log(_H_over_tau(x, L)))


@_compiled
def G(time: Numbers, L: int) -> Elementwise:
    """G_L(time) = q²/2, the convex conjugate of H_L; +∞ at and beyond the blow-up ±c_L.

    ```python
    assert jnp.allclose(gflow.potential.G(gflow.potential.s(0.7, L=4), L=4), 0.7**2 / 2)
    ```
    """
    return q_of(time, L) ** 2 / 2


def _H_value(tau, L):
    return jnp.abs(tau) * _H_over_tau(jnp.abs(_angle(tau, L)), L)


_H = jax.custom_jvp(_H_value, nondiff_argnums=(1,))


@_H.defjvp
def _H_jvp(L, primals, tangents):
    return _H(primals[0], L), _h_inverse(primals[0], L) * tangents[0]


def _h_inverse_value(tau, L):
    return _s(_angle(tau, L), L)


_h_inverse = jax.custom_jvp(_h_inverse_value, nondiff_argnums=(1,))


@_h_inverse.defjvp
def _h_inverse_jvp(L, primals, tangents):
    slope = jnp.exp(-_log_h_prime(_angle(primals[0], L), L))
    return _h_inverse(primals[0], L), slope * tangents[0]


def _check_depth(L: int) -> int:
    if not isinstance(L, int | np.integer) or L < 2:
        raise ValueError(f"the depth L must be a Python integer of at least 2; got {L!r}. Pass network.depth.")
    return int(L)


def _sech(x):
    return 2 * jnp.exp(-jnp.abs(x)) / (1 + jnp.exp(-2 * jnp.abs(x)))


def _log_cosh(x):
    return jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - math.log(2)


def _log_h(x, L):
    """log h_L at the angle x ≥ 0; −∞ at x = 0."""
    return x + jnp.log(-jnp.expm1(-2 * x)) - math.log(2) + (L - 1) * _log_cosh(x)


def _log_h_prime(x, L):
    return (2 * L - 2) * _log_cosh(x) + jnp.log1p((L - 1) * jnp.tanh(x) ** 2)


def _s(x, L):
    """∫₀^x cosh^{−k} with k = L − 2: I_k = (sech^{k−1} tanh + (k−2) I_{k−2}) / (k−1), a sum of positive terms."""
    if L == 2:
        return x
    first, integral = (2, jnp.tanh(x)) if L % 2 == 0 else (1, 2 * jnp.arctan(jnp.tanh(x / 2)))
    for k in range(first + 2, L - 1, 2):
        integral = (_sech(x) ** (k - 2) * jnp.tanh(x) + (k - 2) * integral) / (k - 1)
    return integral


def _log_tail(x, L):
    """log ∫_x^∞ cosh^{−k} for k = L − 2 ≥ 1 and x ≥ 0.

    With z = e^{x−x′} the integral is (2e^{−x})^k ∫₀¹ z^{k−1} (1 + e^{−2x} z²)^{−k} dz.
    """
    k = L - 2
    x = x[..., None]
    nodes, weights = jnp.asarray(_NODES, x.dtype), jnp.asarray(_WEIGHTS, x.dtype)
    integral = jnp.sum(weights * nodes ** (k - 1) * (1 + jnp.exp(-2 * x) * nodes**2) ** -k, axis=-1)
    return k * (math.log(2) - x[..., 0]) + jnp.log(integral)


def _H_over_tau(x, L):
    return _s(x, L) - jnp.tanh(x) * _sech(x) ** (L - 2) / 2


def _log_angle(log_tau, L):
    """log x with log h_L(x) = log τ. In log x the equation is convex and increasing, so Newton cannot fail."""
    large = log_tau > 1.0
    w = jnp.where(large, jnp.log(jnp.where(large, log_tau, 1.0) / L + math.log(2)), jnp.minimum(log_tau, 0.0))
    for _ in range(_NEWTON_STEPS):
        x = jnp.exp(w)
        w = w - (_log_h(x, L) - log_tau) / (x / jnp.tanh(x) + (L - 1) * x * jnp.tanh(x))
    return w


def _angle(tau, L):
    """The angle x with h_L(x) = τ."""
    zero = tau == 0
    size = jnp.where(zero, 1.0, jnp.abs(tau))
    x = jnp.exp(_log_angle(jnp.log(size), L))
    # The logarithm of a small number keeps its absolute, not its relative, accuracy: one Newton step without it.
    small = jnp.minimum(x, 1.0)
    excess = jnp.sinh(small) * jnp.cosh(small) ** (L - 1) / size - 1
    slope = small / jnp.tanh(small) + (L - 1) * small * jnp.tanh(small)
    x = jnp.where(x < 1.0, x * (1 - excess / slope), x)
    return jnp.where(zero, tau, jnp.sign(tau) * x)


def _angle_at_time(time, L):
    """The angle x with s_L(x) = time; ±∞ at and beyond the blow-up."""
    _check_depth(L)
    time = to_float(time)
    c = blow_up(L)
    beyond = jnp.abs(time) >= c
    t = jnp.where(beyond, 0.0, time)
    if L == 2:
        x = t
    elif L == 3:
        x = jnp.arcsinh(jnp.tan(t))
    elif L == 4:
        x = jnp.arctanh(t)
    else:
        x = _angle_by_newton(t, L)
    return jnp.where(beyond, jnp.sign(time) * jnp.inf, x)


def _angle_by_newton_value(t, L):
    """Newton in log x on log(s/(c − s)), whose slope runs from 1 at x = 0 to (L−2)x at infinity."""
    zero = t == 0
    target = jnp.abs(jnp.where(zero, 0.5, t))
    left = blow_up(L) - target
    log_odds = jnp.log(target) - jnp.log(left)
    w = jnp.log(target + jax.nn.relu(log_odds) / (L - 2))
    for _ in range(_NEWTON_STEPS):
        x = jnp.exp(w)
        time, log_tail = _s(x, L), _log_tail(x, L)
        slope = x * _sech(x) ** (L - 2) * (1 / time + jnp.exp(-log_tail))
        w = w - (jnp.log(time) - log_tail - log_odds) / slope
    return jnp.where(zero, t, jnp.sign(t) * jnp.exp(w))


_angle_by_newton = jax.custom_jvp(_angle_by_newton_value, nondiff_argnums=(1,))


@_angle_by_newton.defjvp
def _angle_by_newton_jvp(L, primals, tangents):
    x = _angle_by_newton(primals[0], L)
    return x, tangents[0] * jnp.exp((L - 2) * _log_cosh(x))
