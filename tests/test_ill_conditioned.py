"""Limits by weights of ill-conditioned data, against the dual equations, SciPy's LSODA and known coefficients."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gflow
from gflow.flows.radau import _EIGENVALUES, MOST_OUTPUTS, _inverses


def decaying(n, d, cond):
    """Rows whose singular values decay evenly to 1/cond of the largest."""
    rng = np.random.default_rng(n * d)
    U, V = np.linalg.qr(rng.normal(size=(n, n)))[0], np.linalg.qr(rng.normal(size=(d, n)))[0]
    return U * np.logspace(0, -np.log10(cond), n) @ V.T


@pytest.mark.slow
def test_diagonal_networks_end_where_the_dual_equations_say():
    rng = np.random.default_rng(0)
    network, beta = gflow.Diagonal(tuple(rng.normal(size=(2, 10)))), rng.normal(size=10)
    rows = rng.normal(size=(8, 10)) * np.logspace(0, -4, 8)[:, None]
    columns = rng.normal(size=(8, 10)) + np.logspace(0, 3, 10)
    X = jnp.asarray([*(decaying(8, 10, cond) for cond in (1e2, 1e4, 1e5)), rows, columns])

    def ends(X, log_alpha):
        problem = gflow.Regression(X, X @ beta)
        end = gflow.limit(network, problem, log_alpha=log_alpha, method=gflow.Weights(max_steps=512))
        exact = gflow.limit(network, problem, log_alpha=log_alpha).coefficients
        return end.converged, end.steps, end.error, gflow.measures.distance(end.coefficients, exact)

    over_scales = jax.vmap(ends, (None, 0))
    converged, steps, error, distance = jax.jit(jax.vmap(over_scales, (0, None)))(X, jnp.log(jnp.logspace(-3, 2, 6)))
    assert converged.all()
    assert steps.max() <= 300
    assert (distance <= error).all()
    assert error.max() <= 1e-9


def test_fully_connected_networks_end_where_all_weights_do():
    rng = np.random.default_rng(1)
    X, W, w = 3 * decaying(3, 5, 1e3), rng.normal(size=(5, 2)), rng.normal(size=2)
    y = X @ rng.normal(size=5)
    end = gflow.limit(gflow.FullyConnected((W, w)), gflow.Regression(X, y))

    def field(u, theta):
        W, w = theta[:10].reshape(5, 2), theta[10:]
        g = X.T @ (X @ W @ w - y)
        return -np.exp(u) * np.append(np.outer(g, w), W.T @ g)

    run = solve_ivp(field, (0.0, 18.0), np.append(W, w), "LSODA", rtol=1e-12, atol=1e-14)
    W, w = run.y[:10, -1].reshape(5, 2), run.y[10:, -1]
    assert end.converged
    assert end.steps <= 200
    assert gflow.measures.distance(end.coefficients, W @ w) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("n", [MOST_OUTPUTS, MOST_OUTPUTS + 1])
def test_many_outputs_are_served_on_either_side(n):
    X, beta = np.random.default_rng(2).normal(size=(n, 2)), jnp.array([1.0, -2.0])
    end = gflow.limit(gflow.FullyConnected((jnp.eye(2), jnp.ones(2))), gflow.Regression(X, X @ beta))
    assert end.converged
    np.testing.assert_allclose(end.coefficients, beta, rtol=1e-9)


def graded():
    """Rows over fifteen orders, whose rates are spread over thirty."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(3, 8)) * np.array([1e-7, 1e8, 1e3])[:, None]
    return gflow.Regression(X, X @ rng.normal(size=8)), rng.normal(size=(2, 8))


def test_rows_over_many_orders_are_followed_to_their_end():
    problem, v = graded()
    network = gflow.scale(gflow.DifferenceOfPowers(tuple(np.abs(v)), 2), 0.1)
    end, exact = gflow.limit(network, problem, method=gflow.Weights(max_steps=1024)), gflow.limit(network, problem)
    assert end.converged
    assert gflow.measures.distance(end.coefficients, exact.coefficients) <= end.error <= 1e-9


@pytest.mark.parametrize("h", [1e-300, 1e-12, 1.0, 1e14, 1e295])
def test_the_systems_of_a_step_are_inverted_whatever_the_sizes_of_rows(h):
    J = np.vstack([graded()[0].X, np.zeros(8)])
    found = _inverses(jnp.asarray(J), jnp.asarray(h))
    with mp.workdps(700):
        K = mp.matrix(J.tolist())
        for mu, inverse in zip(_EIGENVALUES, found, strict=True):
            exact = (mp.eye(4) + mp.mpf(h) * mp.mpmathify(complex(mu)) * K * K.T) ** -1
            for (i, j), value in np.ndenumerate(np.asarray(inverse)):
                size = mp.sqrt(abs(exact[i, i] * exact[j, j]))
                assert abs(mp.mpmathify(complex(value)) - exact[i, j]) <= 1e-13 * size + 1e-290


class Huber(gflow.RegressionLoss):
    def __call__(self, r):
        return jnp.sqrt(1 + r**2) - 1


def test_other_losses_are_followed_by_the_slopes_of_their_residuals():
    X, beta = decaying(4, 4, 1e3), jnp.array([100.0, 50.0, -20.0, 30.0])
    network = gflow.FullyConnected((jnp.eye(4), jnp.ones(4)))
    end = gflow.limit(network, gflow.Regression(X, X @ beta, loss=Huber()))
    assert end.converged
    assert end.steps <= 400
    np.testing.assert_allclose(end.coefficients, beta, rtol=1e-9, atol=1e-7)
