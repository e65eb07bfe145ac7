"""Two fully-connected layers on one data point, which decouple."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from truth import distance, normals

import gflow
from gflow import Route


def closed_form(W, w, x, y, log_alpha=0.0):
    """The end in 60 digits. With ẋ = x/‖x‖ and s = ∫ r‖x‖ dt, η_1 ± η_2 = (ẋW ± w) e^{±s}, and Σ η_1 η_2 = y / ‖x‖."""
    with mp.workdps(60):
        W, w, x = (mp.matrix(np.asarray(v).tolist()) for v in (W, w, x))
        alpha, norm = mp.exp(mp.mpf(float(log_alpha))), mp.norm(x)
        W, w, unit = alpha * W, alpha * w, x / norm
        eta = W.T * unit
        plus, minus = sum((a + b) ** 2 for a, b in zip(eta, w)), sum((a - b) ** 2 for a, b in zip(eta, w))  # noqa: B905
        target = 4 * mp.mpf(float(y)) / norm
        growth = mp.sqrt((target + mp.sqrt(target**2 + 4 * plus * minus)) / (2 * plus))
        grown = [((a + b) * growth, (a - b) / growth) for a, b in zip(eta, w)]  # noqa: B905
        first, last = mp.matrix([(p + m) / 2 for p, m in grown]), mp.matrix([(p - m) / 2 for p, m in grown])
        return np.array([float(v) for v in (W + unit * (first - eta).T) * last])


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("alpha", [1e-8, 1e-2, 10.0])
def test_the_limit_is_the_closed_form(d, k, alpha):
    W, w, x = normals(d + 10 * k, (d, k), k, d)
    end = gflow.limit(gflow.FullyConnected((W, w)), gflow.Regression(x[None], [0.7]), log_alpha=np.log(alpha))
    assert end.route == Route.dual
    assert end.converged
    expected = closed_form(W, w, x, 0.7, np.log(alpha))
    assert distance(end.coefficients, expected) <= float(end.error) + 1e-15
    assert float(end.error) <= 1e-11


def test_what_is_beside_the_modes_counts_in_the_error():
    """Of which coefficients are differences here, 1e-10 of their terms, that the data point does not see."""
    seen, w, problem = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.3]), gflow.Regression([[1.0, 0.0]], [3.0])
    last = gflow.limit(gflow.FullyConnected((jnp.array([seen, [0.0, 0.0]]), w)), problem).network.weights[1]
    W = jnp.array([seen, 1e5 * jnp.array([last[1], -last[0]])])
    end = gflow.limit(gflow.FullyConnected((W, w)), problem)
    assert end.converged
    assert 1e-13 < distance(end.coefficients, closed_form(W, w, [1.0, 0.0], 3.0)) <= float(end.error)


def test_weights_outside_the_data_stay_and_the_others_agree_with_their_flow():
    W, w, x = normals(5, (6, 3), 3, 6)
    network, problem = gflow.FullyConnected((W, w)), gflow.Regression(x[None], [1.5])
    end, flown = (gflow.limit(network, problem, method=m) for m in (gflow.Auto(), gflow.Weights()))
    assert (end.route, flown.route) == (Route.dual, Route.weights)
    for one, other in zip(end.network.weights, flown.network.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    unit = x / jnp.linalg.norm(x)
    moved = end.network.weights[0] - W
    np.testing.assert_allclose(moved, jnp.outer(unit, unit @ moved), atol=1e-14)


def test_a_hidden_unit_of_zeros_stays_where_it_is():
    W, w, x = normals(6, (3, 2), 2, 3)
    W, w = W.at[:, 1].set(0.0), w.at[1].set(0.0)
    end = gflow.limit(gflow.FullyConnected((W, w)), gflow.Regression(x[None], [1.0]))
    assert end.converged
    assert end.network.weights[1][1] == 0.0
    assert distance(end.coefficients, closed_form(W, w, x, 1.0)) <= float(end.error) + 1e-15


def test_any_scale_is_served():
    W, w, x = normals(6, (3, 2), 2, 3)
    network, problem = gflow.FullyConnected((W, w)), gflow.Regression(x[None], [1.0])
    end = gflow.limit(network, problem, log_alpha=-1000 * np.log(10.0))
    assert end.converged
    assert distance(end.coefficients, x / (x @ x)) <= float(end.error) <= 1e-11


def test_derivatives_are_those_of_the_closed_form():
    W, w, x = normals(7, (3, 2), 2, 3)
    towards = normals(8, (3, 2), 2, 3)

    def end(t):
        at = [v + t * u for v, u in zip((W, w, x), towards, strict=True)]
        return gflow.limit(gflow.FullyConnected((at[0], at[1])), gflow.Regression(at[2][None], [1.0])).coefficients

    def exact(t):
        return closed_form(*(np.asarray(v + t * u) for v, u in zip((W, w, x), towards, strict=True)), 1.0)

    numeric = (8 * (exact(1e-3) - exact(-1e-3)) - (exact(2e-3) - exact(-2e-3))) / 12e-3
    np.testing.assert_allclose(jax.jacfwd(end)(0.0), numeric, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (((2, 3), 3), gflow.Regression([[1.0, 2.0], [0.5, 1.0]], [1.0, 0.5])),
        (((2, 3), (3, 2), 2), gflow.Regression([[1.0, 2.0]], [1.0])),
        (((2, 3), 3), gflow.Classification([[1.0, 2.0]], [1.0])),
    ],
    ids=["two points", "three layers", "a label"],
)
def test_others_are_integrated(weights, problem):
    end = gflow.limit(gflow.FullyConnected(normals(9, *weights)), problem)
    assert end.route == Route.weights
    assert end.converged


def test_a_path_is_that_of_weights():
    path = gflow.flow(gflow.FullyConnected(normals(9, (2, 3), 3)), gflow.Regression([[1.0, 2.0]], [1.0]))
    assert path.end.route == Route.weights
    assert path.converged


def test_other_dynamics_are_refused_by_name():
    network, problem = gflow.FullyConnected(normals(9, (2, 3), 3)), gflow.Regression([[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match="WeightDecay is known in dual coordinates"):
        gflow.limit(network, problem, dynamics=gflow.WeightDecay(0.1))
