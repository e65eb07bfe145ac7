"""Losses at every margin, and the errors of bad data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log1p

import gflow

MARGINS = st.floats(-1e12, 1e12)


@given(MARGINS)
def test_the_logistic_log_loss_is_exact_at_every_margin(margin):
    if margin < -700:
        expected = np.log(-margin)  # log(1 + e^{−m}) = −m to round-off
    elif margin > 36:
        expected = -margin  # log(1 + e) = e to round-off
    else:
        expected = np.log(log1p(np.exp(-margin)))
    found = gflow.logistic(jnp.asarray(margin))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert np.isfinite(jax.grad(gflow.logistic)(margin))


@given(MARGINS, MARGINS)
def test_the_exponential_log_loss_neither_overflows_nor_underflows(m_1, m_2):
    problem = gflow.Classification(jnp.eye(2), jnp.array([1.0, -1.0]))
    found = problem.log_loss(jnp.array([m_1, -m_2]))
    assert np.isfinite(found)
    np.testing.assert_allclose(found, np.logaddexp(-m_1, -m_2), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "problem",
    [
        gflow.Regression(jnp.eye(2), jnp.array([1.0, -2.0])),
        gflow.Classification(jnp.eye(2), jnp.array([1.0, -1.0])),
        gflow.Classification(jnp.eye(2), jnp.array([1.0, -1.0]), gflow.logistic),
    ],
)
def test_the_residual_is_the_derivative_of_the_loss(problem):
    outputs = jnp.array([0.3, 0.7])
    expected = jax.grad(lambda f: jnp.exp(problem.log_loss(f)))(outputs)
    np.testing.assert_allclose(problem.residual(outputs), expected, rtol=1e-13)


def test_losses_are_the_ones_of_the_paper():
    f, y = np.array([0.3, 0.7]), np.array([1.0, -1.0])
    regression, classification = gflow.Regression(np.eye(2), y), gflow.Classification(np.eye(2), y)
    np.testing.assert_allclose(np.exp(regression.log_loss(jnp.asarray(f))), np.sum((f - y) ** 2) / 2, rtol=1e-14)
    np.testing.assert_allclose(np.exp(classification.log_loss(jnp.asarray(f))), np.sum(np.exp(-y * f)), rtol=1e-14)
    assert regression.log_loss(jnp.asarray(y)) == -np.inf
    tiny = regression.log_loss(jnp.asarray(y) * (1 + 1e-15))
    assert np.isfinite(tiny)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gflow.Regression([[1.0, np.nan]], [1.0]), r"X holds nan at index \(0, 1\)"),
        (lambda: gflow.Regression([[1.0, 2.0]], [np.inf]), r"y holds inf at index \(0,\)"),
        (lambda: gflow.Regression([1.0, 2.0], [1.0]), r"got X \(2,\)"),
        (lambda: gflow.Regression([[1.0, 2.0]], [1.0, 2.0]), r"y \(2,\)"),
        (lambda: gflow.Classification([[1.0], [2.0]], [0, 1]), r"labels \+1 and −1; y holds 0"),
    ],
)
def test_bad_data_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [1.0, 1e10, 4e17, 5e17, 1e19, 1e99])
def test_the_log_loss_of_huge_margins_is_the_same_compiled_and_not(size):
    """On both sides of the size beyond which only the largest entry counts."""

    class Cubed(gflow.ClassificationLoss):
        def __call__(self, margin):
            return 3 * gflow.logistic(margin)

    problem = gflow.Classification(jnp.eye(3), jnp.ones(3), Cubed())
    outputs = size * jnp.array([5.88963891, 3.33337187, 3.33337188])
    expected = float(problem.log_loss(outputs))
    assert np.isfinite(expected)
    np.testing.assert_allclose(jax.jit(lambda f: problem.log_loss(f))(outputs), expected, rtol=1e-15)
    slope = jax.jit(jax.grad(lambda f: problem.log_loss(f)))(outputs)
    np.testing.assert_allclose(jnp.sum(slope), jnp.sum(jax.grad(problem.log_loss)(outputs)), rtol=1e-6)
    assert jnp.isfinite(slope).all()
