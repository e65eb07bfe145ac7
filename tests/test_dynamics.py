"""Flows beside gradient flow, against SciPy's integration of their weights, and weight decay's end against cvxpy."""

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from truth import distance, normals

import gflow

N, D = 3, 8
END = 1500.0


@pytest.fixture(scope="module")
def problem():
    X, y = normals(0, (N, D), (N,))
    return gflow.Regression(X / np.sqrt(D), y / 2)


def diagonal(depth, size):
    return gflow.Diagonal(tuple(size * v for v in normals(depth, *[(D,)] * depth)))


TWO, THREE = diagonal(2, 0.3), diagonal(3, 0.6)
POWERS = gflow.DifferenceOfPowers(tuple(0.3 * jnp.abs(v) for v in normals(5, (D,), (D,))), depth=2)


def scipy_weights(network, problem, dynamics, times):
    """The weights at `times`, shape (T, number of layers, d)."""
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    start = np.stack(network.weights)

    def gradient(v):
        if isinstance(network, gflow.DifferenceOfPowers):
            g = (X @ (v[0] ** 2 - v[1] ** 2) - y) @ X
            return 2 * np.stack([g * v[0], -g * v[1]])
        g = (X @ np.prod(v, axis=0) - y) @ X
        return np.stack([g * np.prod(np.delete(v, k, axis=0), axis=0) for k in range(len(v))])

    def field(t, state):
        v = state[: start.size].reshape(start.shape)
        if isinstance(dynamics, gflow.Momentum):
            velocity = state[start.size :]
            return np.concatenate([velocity, (-gradient(v).ravel() - velocity) / float(dynamics.inertia)])
        if isinstance(dynamics, gflow.SharpnessAware):
            return -gradient(v + float(dynamics.radius) * gradient(v)).ravel()
        on = isinstance(dynamics, gflow.WeightDecay) and (dynamics.until is None or t < dynamics.until)
        rate = dynamics.rate(t) if on and callable(dynamics.rate) else float(dynamics.rate) if on else 0.0
        return (-gradient(v) - rate * v).ravel()

    state, t, rows = start.ravel(), 0.0, []
    if isinstance(dynamics, gflow.Momentum):
        state = np.concatenate([state, np.zeros(start.size)])
    switch = getattr(dynamics, "until", None)
    for last in sorted({*times, *([] if switch is None else [float(switch)])}):
        if last > t:
            run = solve_ivp(field, (t, np.nextafter(last, 0)), state, "DOP853", rtol=1e-12, atol=1e-15)
            t, state = last, run.y[:, -1]
        if last in times:
            rows.append(state[: start.size].reshape(start.shape))
    return np.stack(rows)


def scipy_end(network, problem, dynamics=None):
    return gflow.with_weights(network, tuple(map(jnp.asarray, scipy_weights(network, problem, dynamics, [END])[-1])))


def fading(t):
    return 0.1 * jnp.exp(-t / 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "dynamics"),
    [
        (TWO, gflow.WeightDecay(0.05, until=3.0)),
        (THREE, gflow.WeightDecay(fading, until=7.0)),
        (TWO, gflow.Momentum(0.3)),
        (TWO, gflow.SharpnessAware(0.5)),
        (POWERS, gflow.Momentum(0.3)),
        (POWERS, gflow.SharpnessAware(0.5)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_limits_are_where_the_weights_end(network, dynamics, problem):
    end = gflow.limit(network, problem, dynamics=dynamics)
    truth = scipy_end(network, problem, dynamics)
    assert end.converged
    assert distance(end.coefficients, truth.coefficients()) < min(1e-10, float(end.error) + 1e-12)
    for found, expected in zip(end.network.weights, truth.weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert distance(scipy_end(network, problem).coefficients(), truth.coefficients()) > 1e-3


@pytest.mark.slow
def test_momentum_keeps_layers_that_start_equal_in_size_to_their_signs(problem):
    v = jnp.abs(TWO.weights[0])
    network = gflow.Diagonal((v, v * jnp.array([1, 1, 1, 1, -1, -1, 1, 1.0])))
    dynamics = gflow.Momentum(0.3)
    end = gflow.limit(network, problem, dynamics=dynamics)
    assert end.converged
    assert distance(end.coefficients, scipy_end(network, problem, dynamics).coefficients()) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("inertia", [1.0, 8.0])
def test_momentum_that_passes_zero_says_so(inertia, problem):
    dynamics = gflow.Momentum(inertia)
    end = gflow.limit(TWO, problem, dynamics=dynamics)
    v, w = scipy_weights(TWO, problem, dynamics, np.linspace(0, 200, 2001).tolist()).transpose(1, 0, 2)
    passes = any((np.sign(u) != np.sign(u[0])).any() for u in (v + w, v - w))
    assert gflow.Status[end.status] == ("passed zero" if passes else "converged")
    assert passes == (inertia > 2)
    assert passes == bool(jnp.isinf(end.error))


@pytest.mark.slow
def test_few_steps_are_a_status(problem):
    end = gflow.limit(TWO, problem, dynamics=gflow.Momentum(1e-5), method=gflow.Dual(max_steps=80))
    assert gflow.Status[end.status] == "step limit"


@pytest.mark.slow
def test_momentum_of_little_inertia_ends_where_gradient_flow_does(problem):
    end, plain = gflow.limit(TWO, problem, dynamics=gflow.Momentum(1e-5)), gflow.limit(TWO, problem)
    assert end.converged
    assert 1e-8 < distance(end.coefficients, plain.coefficients) < 1e-5


def lasso(problem, rate, sign=None):
    beta = cp.Variable(D)
    signs = [] if sign is None else [cp.multiply(sign, beta) >= 0]
    cost = cp.sum_squares(np.asarray(problem.X) @ beta - np.asarray(problem.y)) / 2 + rate * cp.norm1(beta)
    cp.Problem(cp.Minimize(cost), signs).solve(cp.CLARABEL, tol_gap_abs=1e-14, tol_gap_rel=1e-14, tol_feas=1e-14)
    return beta.value


@pytest.mark.parametrize("rate", [1e-3, 0.02, 0.1])
def test_two_layers_that_decay_for_ever_end_at_the_lasso(rate, problem):
    end = gflow.limit(TWO, problem, dynamics=gflow.WeightDecay(rate))
    assert end.converged
    assert end.certificate.kkt_residual < 1e-9
    assert distance(end.coefficients, lasso(problem, rate)) < 1e-6
    if rate == 0.1:  # the smaller it is the longer it takes
        truth = scipy_end(TWO, problem, gflow.WeightDecay(rate))
        for found, expected in zip(end.network.weights, truth.weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_decay_stronger_than_the_data_ends_at_zero(problem):
    rate = 1.01 * float(jnp.max(jnp.abs(problem.y @ problem.X)))
    end = gflow.limit(TWO, problem, dynamics=gflow.WeightDecay(rate))
    assert end.converged
    assert (end.coefficients == 0).all()
    weaker = gflow.limit(TWO, problem, dynamics=gflow.WeightDecay(0.98 * rate))
    assert (weaker.coefficients != 0).sum() == 1


def test_layers_of_equal_size_end_at_the_lasso_of_their_signs(problem):
    sign = np.array([1, 1, 1, -1, 1, 1, -1, -1.0])
    v = jnp.abs(TWO.weights[0])
    end = gflow.limit(gflow.Diagonal((v, v * sign)), problem, dynamics=gflow.WeightDecay(0.02))
    assert end.converged
    assert distance(end.coefficients, lasso(problem, 0.02, sign)) < 1e-6
    assert distance(lasso(problem, 0.02), lasso(problem, 0.02, sign)) > 1e-3


def test_shared_weights_decay_for_ever_with_half_the_penalty(problem):
    end = gflow.limit(POWERS, problem, dynamics=gflow.WeightDecay(0.04))
    assert end.converged
    assert distance(end.coefficients, lasso(problem, 0.02)) < 1e-6


@pytest.mark.parametrize("size", [0.02, 1.0, 1.5])
def test_three_layers_that_decay_for_ever_end_where_their_weights_do(size, problem):
    dynamics, network = gflow.WeightDecay(0.02), gflow.scale(THREE, size)
    end = gflow.limit(network, problem, dynamics=dynamics)
    truth = scipy_end(network, problem, dynamics)
    assert end.converged
    for found, expected in zip(end.network.weights, truth.weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    assert (end.coefficients != 0).any() == (size > 0.5)  # zero attracts small starts
    assert end.certificate.kkt_residual < 1e-9


@pytest.mark.parametrize(
    "dynamics",
    [gflow.WeightDecay(0.2, until=3.0), gflow.Momentum(2.0), gflow.SharpnessAware(0.5)],
    ids=lambda v: type(v).__name__,
)
def test_paths_are_those_of_the_weights(dynamics, problem):
    times = [0.0, 1.0, 3.5, 10.0]
    path = gflow.flow(TWO, problem, save=gflow.Times(times), dynamics=dynamics, method=gflow.Weights(rtol=1e-10))
    expected = scipy_weights(TWO, problem, dynamics, times)
    np.testing.assert_allclose(np.stack(path.networks.weights, axis=1), expected, rtol=0, atol=1e-8)
    assert gflow.Status[path.status] == "finished"
    assert np.abs(expected - scipy_weights(TWO, problem, None, times)).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "least", "dynamics", "log_loss"),
    [
        (20, 0.02, gflow.Momentum(0.05), -60.0),  # rates over 1 : 2500
        (20, 0.02, gflow.SharpnessAware(0.3), -60.0),
        (300, 0.5, gflow.Momentum(1.0), -35.0),  # too many weights for an implicit method's matrices
    ],
)
def test_stiff_flows_come_to_their_end(d, least, dynamics, log_loss):
    X = np.diag([1.0, 0.5, least]) @ np.linalg.qr(normals(6, (d, 3))[0])[0].T
    problem = gflow.Regression(X, X @ np.full(d, 2 / d**0.5))
    start = gflow.scale(gflow.Diagonal((jnp.ones(d), jnp.zeros(d))), 0.5)
    end = gflow.limit(start, problem, dynamics=dynamics)
    assert end.converged
    path = gflow.flow(start, problem, dynamics=dynamics, until=gflow.LogLoss(log_loss))
    assert path.converged
    assert path.end.steps < 2000
    assert distance(path.end.coefficients, end.coefficients) < 1e-6


def test_a_path_that_is_given_no_end_stops_where_the_data_fit(problem):
    path = gflow.flow(TWO, problem, dynamics=gflow.SharpnessAware(0.5))
    assert path.converged
    with pytest.raises(ValueError, match="say where the flow stops"):
        gflow.flow(TWO, problem, dynamics=gflow.WeightDecay(0.1, until=1.0))


class Huber(gflow.RegressionLoss):
    def __call__(self, r):
        return jnp.sqrt(1 + r**2) - 1


def test_what_has_no_known_limit_is_refused_by_name(problem, two_points, unchecked_types):
    momentum, decay = gflow.Momentum(0.1), gflow.WeightDecay(0.1)
    huber = gflow.Regression(problem.X, problem.y, Huber())
    matrix = gflow.FullyConnected(normals(0, (D, 2), (2,)))
    for make, message in (
        (lambda: gflow.limit(THREE, problem, dynamics=momentum), "two layers; got 3"),
        (lambda: gflow.limit(THREE, problem, dynamics=gflow.SharpnessAware(0.1)), "two layers; got 3"),
        (lambda: gflow.limit(TWO, huber, dynamics=momentum), "Huber"),
        (lambda: gflow.limit(TWO, huber, dynamics=decay), "Huber"),
        (lambda: gflow.limit(matrix, problem, dynamics=momentum), "real modes"),
        (lambda: gflow.limit(diagonal(2, 1.0), two_points, dynamics=momentum), "Regression"),
        (lambda: gflow.limit(TWO, problem, dynamics=momentum, method=gflow.Weights()), "gflow.Weights"),
        (lambda: gflow.limit(TWO, problem, dynamics=0.1), "gflow.Momentum"),
        (lambda: gflow.limit(TWO, problem, dynamics=gflow.WeightDecay(fading)), "until="),
        (lambda: gflow.flow(TWO, problem, dynamics="momentum"), "gflow.Momentum"),
        (lambda: gflow.flow(TWO, problem, dynamics=momentum, method=gflow.Dual()), "gradient flow"),
        (lambda: gflow.Momentum(0.0), "inertia must be positive"),
        (lambda: gflow.SharpnessAware(-1.0), "radius must be positive"),
        (lambda: gflow.WeightDecay(-0.1), "rate must be positive"),
        (lambda: gflow.WeightDecay(0.1, until=0.0), "until must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
