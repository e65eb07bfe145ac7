"""h_L, H_L, G_L, s_L against 50-digit quadrature and their own identities."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gflow import potential

DEPTHS = [2, 3, 4, 5, 7]
ARGUMENTS = np.concatenate([10.0 ** np.arange(-300, 301, 60), [0.03, 0.7, 1.0, 4.0, 1e3]])


def exact_q(tau, L):
    """q(1+q²)^{(L−1)/2} = τ by bisection-safe root finding in log q, in 50 digits."""
    tau = mp.mpf(tau)
    guess = mp.log(tau) if tau < 1 else mp.log(tau) / L
    return mp.exp(mp.findroot(lambda w: w + mp.mpf(L - 1) / 2 * mp.log1p(mp.exp(2 * w)) - mp.log(tau), guess))


def exact_s(q, L):
    return q * mp.hyp2f1(mp.mpf(1) / 2, mp.mpf(L - 1) / 2, mp.mpf(3) / 2, -q * q)


@pytest.mark.parametrize("L", DEPTHS)
def test_potential_agrees_with_fifty_digits_over_six_hundred_decades(L):
    with mp.workdps(50):
        q = [exact_q(t, L) for t in ARGUMENTS]
        s = [exact_s(v, L) for v in q]
        log_H = [mp.log(t * a - v * v / 2) for t, a, v in zip(ARGUMENTS, s, q, strict=True)]
    np.testing.assert_allclose(potential.h_inverse(ARGUMENTS, L), np.array(s, float), rtol=3e-15)
    np.testing.assert_allclose(potential.log_H(np.log(ARGUMENTS), L), np.array(log_H, float), rtol=1e-15, atol=4e-13)
    H = np.array([float(mp.exp(v)) for v in log_H])
    normal = H > 1e-290
    np.testing.assert_allclose(potential.H(ARGUMENTS, L)[normal], H[normal], rtol=1e-14)
    assert np.isfinite(potential.H(ARGUMENTS, L)).all()
    np.testing.assert_allclose(potential.H(-ARGUMENTS, L), potential.H(ARGUMENTS, L), rtol=0)


@pytest.mark.parametrize("L", DEPTHS)
def test_time_agrees_with_fifty_digits(L):
    q = np.concatenate([10.0 ** np.arange(-300, 301, 60.0), [0.03, 0.7, 1.0, 4.0]])
    with mp.workdps(50):
        s = np.array([exact_s(mp.mpf(v), L) for v in q], float)
    np.testing.assert_allclose(potential.s(q, L), s, rtol=3e-15)


@pytest.mark.parametrize("L", DEPTHS)
@settings(deadline=None, max_examples=30)
@given(log_q=hnp.arrays(float, 50, elements=st.floats(-40, 4)))
def test_q_inverts_s_and_h_inverts_its_inverse(L, log_q):
    # Close to the blow-up s has lost what q wants: q's relative error is that of s times s / (q s'(q)).
    q = np.exp(log_q) * np.resize([1, -1], 50)
    s, q_back, h = roundtrip(q, L)
    amplification = np.maximum(1, s / q * (1 + q**2) ** ((L - 1) / 2))
    assert (np.abs(q_back / q - 1) <= 1e-14 * amplification).all()
    assert (np.abs(h / (q * (1 + q**2) ** ((L - 1) / 2)) - 1) <= 1e-13 * amplification).all()


@partial(jax.jit, static_argnums=1)
def roundtrip(q, L):
    s = potential.s(q, L)
    return s, potential.q_of(s, L), potential.h(s, L)


@pytest.mark.slow
@pytest.mark.parametrize("L", DEPTHS)
def test_lemma_4_differential_equations(L):
    t = 0.6 * min(1.0, potential.blow_up(L)) * jnp.linspace(-1, 1, 7).at[3].set(0.0)
    q = potential.q_of(t, L)
    p = jnp.sqrt(1 + q**2)

    def elementwise(f):
        return jax.jit(jax.vmap(jax.grad(lambda t: f(t, L))))

    np.testing.assert_allclose(elementwise(potential.q_of)(t), p ** (L - 1), rtol=1e-12)
    np.testing.assert_allclose(elementwise(potential.h)(t), potential.h_prime(t, L), rtol=1e-12)
    np.testing.assert_allclose(elementwise(potential.G)(t), potential.h(t, L), rtol=1e-12, atol=1e-15)
    tau = jnp.array([-3e5, -0.2, 0.0, 1e-8, 5.0])
    np.testing.assert_allclose(elementwise(potential.H)(tau), potential.h_inverse(tau, L), rtol=1e-14)
    inverse_slope = 1 / potential.h_prime(potential.h_inverse(tau[1:], L), L)
    np.testing.assert_allclose(elementwise(potential.h_inverse)(tau[1:]), inverse_slope, rtol=1e-12)


@pytest.mark.parametrize("L", DEPTHS)
def test_conjugates_meet_with_equality(L):
    tau = jnp.array([-20.0, -0.3, 1e-3, 2.0])
    s = potential.h_inverse(tau, L)
    np.testing.assert_allclose(potential.H(tau, L) + potential.G(s, L), tau * s, rtol=1e-11)


@pytest.mark.parametrize(("L", "c"), [(2, np.inf), (3, np.pi / 2), (4, 1.0), (5, np.pi / 4), (6, 2 / 3)])
def test_blow_up_time(L, c):
    assert potential.blow_up(L) == pytest.approx(c, rel=1e-15)
    if L > 2:
        assert potential.h(c * 1.01, L) == np.inf
        assert potential.h(-c * 1.01, L) == -np.inf


def test_depth_must_be_an_integer_of_two_or_more():
    with pytest.raises(ValueError, match=r"at least 2; got 1"):
        potential.H(1.0, 1)


def test_log_H_beyond_the_range_of_floats():
    for L in DEPTHS:
        assert potential.log_H(-5000.0, L) == pytest.approx(-10000 - np.log(2), rel=1e-15)
    # H_L(τ) → τ c_L for L ≥ 3
    assert potential.log_H(jnp.array(1e5), 3) == pytest.approx(1e5 + np.log(np.pi / 2), rel=1e-15)
