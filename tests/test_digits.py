"""Scaling by powers of two, and differences with more digits than the arithmetic has."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow.dual.digits import difference, exponent_of, ldexp, resolution

DTYPES = (np.float32, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponents_are_those_of_frexp(dtype):
    limits = np.finfo(dtype)
    powers = np.ldexp(dtype(1.0), np.arange(limits.minexp, limits.maxexp))
    v = np.concatenate([powers, -powers, np.nextafter(powers[1:], 0), np.nextafter(powers, np.inf)]).astype(dtype)
    np.testing.assert_array_equal(jax.jit(exponent_of)(jnp.asarray(v)), np.frexp(v)[1])
    smaller = np.nextafter(limits.smallest_normal, dtype(0))
    np.testing.assert_array_equal(exponent_of(jnp.asarray([0.0, smaller, -smaller], dtype)), 0)
    np.testing.assert_array_equal(exponent_of(jnp.asarray([np.inf, -np.inf, np.nan], dtype)), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two_round_nothing(dtype):
    limits = np.finfo(dtype)
    v = np.asarray([1.0, -np.pi, 1 / 3, 0.0], dtype)
    for k in (-limits.maxexp + 4, -3, 0, 1, limits.maxexp - 4):
        np.testing.assert_array_equal(ldexp(jnp.asarray(v), jnp.asarray(k)), np.ldexp(v, k))
    small, large = dtype(limits.smallest_normal), dtype(limits.max)
    far = 2 * limits.maxexp - 4  # 2^far is no number of its own
    assert ldexp(jnp.asarray(small), jnp.asarray(far)) == np.ldexp(small, far)
    assert ldexp(jnp.asarray(large), jnp.asarray(-far)) == np.ldexp(large, -far)
    assert jax.grad(ldexp)(jnp.asarray(0.0, dtype), jnp.asarray(5)) == 32.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_differences_keep_half_as_many_digits_again(dtype):
    rng = np.random.default_rng(0)
    A, B = (rng.normal(size=s).astype(dtype) for s in ((3, 7), (7, 4)))
    C = (A.astype(float) @ B).astype(dtype)  # so that nearly all cancels

    def exact(C, a, b):
        return float(
            Fraction(float(C)) - sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True))
        )

    truth = np.array([[exact(C[i, j], A[i], B[:, j]) for j in range(4)] for i in range(3)])
    scale = np.abs(A).max(axis=1)[:, None] * np.abs(B).max(axis=0)
    off = np.abs(difference(*map(jnp.asarray, (C, A, B))) - truth) / scale
    plain = np.abs((C - A @ B) - truth) / scale
    assert off.max() <= resolution(7, dtype)
    assert plain.max() > resolution(7, dtype)
