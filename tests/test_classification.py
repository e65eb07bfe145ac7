"""Claims about classification far beyond the losses that gradient descent reaches."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import maximum_l1_margin as l1_margin

import gflow
from gflow import measures

EVERY, STEPS = gflow.Steps(4096), gflow.Weights(max_steps=1500)  # 4096 rows hold every one of 1500 steps
PAPER = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
START = gflow.scale(gflow.initial.diagonal(jnp.array([0.6, -0.4])), 0.5)


@pytest.fixture(scope="module")
def far():
    return gflow.flow(START, PAPER, save=EVERY, until=gflow.LogLoss(-1e10), method=STEPS)


@pytest.fixture(scope="module")
def gaussian():
    rng = np.random.default_rng(0)
    return gflow.Classification(rng.standard_normal((6, 10)), rng.choice([-1.0, 1.0], 6))


@pytest.fixture(scope="module")
def curve(gaussian):
    network = gflow.scale(gflow.Diagonal((jnp.ones(10), jnp.zeros(10))), 0.1)
    decades = jnp.array([1.0, 2.0, 3.0, 4.5, 8.0, 100.0, 1000.0])
    return gflow.flow(network, gaussian, save=gflow.Decades(decades), method=gflow.Dual(cap=1e4)), network


def maximum_l1_margin(problem):
    return l1_margin(problem.y[:, None] * problem.X)


def rho_of(path):
    return jax.vmap(lambda network: network.modes().rho())(path.networks)


@pytest.mark.slow
def test_the_flow_reaches_log_loss_minus_1e10_at_the_maximum_l1_margin(far):
    assert far.converged
    assert far.steps + far.rejected_steps <= 1500
    assert gflow.angle(far.end.coefficients, np.array([0.0, 1.0])) < 1e-5


def test_the_smoothed_margin_never_decreases_once_the_loss_is_below_one(far):
    margins = jax.vmap(lambda network: gflow.invariants.smoothed_margin(network, PAPER))(far.networks)
    margins = margins[far.log_losses < 0]
    assert jnp.all(jnp.diff(margins) >= -1e-7 * margins[1:])


def test_singular_vector_residual_falls_along_the_flow(far):
    rows = [int(jnp.argmax(-far.log_losses >= s)) for s in (1e1, 1e3, 1e6, 1e9)]
    networks = jax.tree.map(lambda v: v[jnp.array(rows)], far.networks)
    residuals = jax.vmap(lambda network: gflow.measures.singular_vector_residual(network, PAPER))(networks)
    assert jnp.all(jnp.diff(residuals) < 0)


@pytest.mark.slow
def test_log_time_agrees_with_integration_in_plain_time():
    path = gflow.flow(START, PAPER, until=gflow.LogLoss(-10.0), method=gflow.Weights(rtol=1e-10))
    plain = gflow.flow(
        START,
        PAPER,
        save=gflow.Times(jnp.exp(path.log_time)[None]),
        method=gflow.Weights(rtol=1e-12, max_steps=100_000),
    )
    assert abs(path.log_loss - plain.log_loss) < 1e-8


@pytest.mark.slow
def test_flow_stops_on_log_time_and_on_turning():
    by_time = gflow.flow(START, PAPER, save=EVERY, until=gflow.LogTime(5.0))
    assert by_time.status == gflow.Status.finished
    assert by_time.log_times[by_time.steps - 1] <= 5 < by_time.log_time
    by_turning = gflow.flow(START, PAPER, until=gflow.Turning(0.001))
    assert by_turning.converged
    assert by_turning.log_loss < 0


@pytest.mark.slow
def test_data_that_are_not_separable_end_without_descent():
    X = [[1.0, 0.3], [-1.0, 0.2], [0.1, 1.0], [0.0, -1.0], [0.5, 0.5]]
    problem = gflow.Classification(X, [1.0, 1.0, -1.0, -1.0, -1.0])
    path = gflow.flow(START, problem)
    assert gflow.Status[path.status] == "no descent"
    curve = gflow.flow(START, problem, save=gflow.Decades(jnp.array([1.0, 10.0])))
    assert gflow.Status[curve.status] == "no descent"
    assert jnp.isnan(curve.directions).all()


@pytest.mark.parametrize("weights", [([0.0, 0.0], [0.0, 0.0]), ([1.0, 0.5], [0.0, 0.0], [0.0, 0.0])])
def test_a_start_at_a_stationary_point_ends_without_descent(weights):
    network = gflow.Diagonal(weights)
    path = gflow.flow(network, PAPER)
    assert gflow.Status[path.status] == "no descent"
    for end, start in zip(path.network.weights, network.weights, strict=True):
        assert jnp.array_equal(end, start)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [gflow.exponential, gflow.logistic])
def test_a_point_that_no_weights_classify_ends_without_descent(loss):
    problem = gflow.Classification([[1.0, 2.0], [0.0, 0.0]], [1.0, 1.0], loss)
    path = gflow.flow(START, problem)
    assert gflow.Status[path.status] == "no descent"
    assert abs(path.log_loss - loss(jnp.zeros(()))) < 1e-8  # the other point's loss is gone


def test_a_plateau_at_a_tiny_scale_is_not_an_end():
    """At scale 1e-6 the first coordinate is learned long before the second, which waits at its saddle."""
    problem = gflow.Classification([[1.0, 0.0], [0.0, 1e-3]], [1.0, 1.0])
    start = gflow.scale(gflow.Diagonal((jnp.ones(2), jnp.ones(2), jnp.array([1.0, 0.5]))), 1e-6)
    path = gflow.flow(start, problem, until=gflow.LogLoss(-100.0))
    assert path.converged


@pytest.mark.slow
def test_identical_labels_duplicates_and_ties_are_no_obstacle():
    X = jnp.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    problem = gflow.Classification(X, jnp.ones(3), gflow.logistic)
    start = gflow.Diagonal((jnp.array([1.0, 0.5]), jnp.zeros(2)))
    path = gflow.flow(start, problem, until=gflow.LogLoss(-1e10))
    assert path.converged, gflow.Status[path.status]
    assert gflow.angle(np.asarray(path.network.coefficients()), np.ones(2)) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("loss", [gflow.exponential, gflow.logistic])
def test_nonlinear_homogeneous_networks_follow_the_same_flow(loss):
    """Squared relu: homogeneous of degree 3 in the weights of two layers, with a continuous field."""
    rng = np.random.default_rng(2)
    problem = gflow.Classification(rng.standard_normal((6, 3)), rng.choice([-1.0, 1.0], 6), loss)
    layers = gflow.FullyConnected((rng.standard_normal((3, 12)), rng.standard_normal(12)))
    start = gflow.Nonlinear(layers, lambda h: jax.nn.relu(h) ** 2)
    path = gflow.flow(start, problem, save=EVERY, until=gflow.LogLoss(-1e6), method=STEPS)
    assert path.converged
    assert jnp.isclose(path.log_time, -path.log_loss, rtol=1e-3)
    sizes = sum(jnp.sum(v**2, axis=range(1, v.ndim)) for v in path.networks.weights)
    margins = (-path.log_losses / sizes**1.5)[path.log_losses < np.log(0.5)]
    assert jnp.all(jnp.diff(margins) >= -1e-7 * margins[1:])


@pytest.mark.slow
def test_full_convolutions_of_general_data_approach_a_stationary_point():
    """Corollary 3, where the dual route does not apply; several support vectors."""
    rng = np.random.default_rng(3)
    problem = gflow.Classification(rng.standard_normal((5, 8)), rng.choice([-1.0, 1.0], 5))
    S = 8**0.5 * gflow.predict.dft(8)
    A = jnp.asarray(problem.y[:, None] * (problem.X @ S.T))
    start = gflow.scale(gflow.initial.convolutional(jnp.asarray(rng.standard_normal(8))), 0.01)
    path = gflow.flow(start, problem, save=EVERY, until=gflow.LogLoss(-1e10), method=STEPS)
    assert path.converged
    rows = jnp.array([jnp.argmax(-path.log_losses >= s) for s in (1e1, 1e2, 1e4, 1e6, 1e8)])

    def residual(network):
        rho = jnp.asarray(S.conj()) @ network.coefficients() / 8
        return measures.kkt_residual(rho, measures.multipliers(network, problem), A, 2)

    residuals = jax.vmap(residual)(jax.tree.map(lambda v: v[rows], path.networks))
    assert jnp.all(jnp.diff(residuals) < 0)
    assert residuals[-1] < 0.1


def test_dual_coordinates_reach_a_loss_of_minus_ten_to_the_thousand(curve, gaussian):
    path, _ = curve
    assert path.status == gflow.Status.converged
    assert float(gflow.angle(path.directions, maximum_l1_margin(gaussian))[-1]) < 1e-5


@pytest.mark.slow
def test_dual_coordinates_agree_with_the_weights_below_and_beyond_the_cap(curve, gaussian):
    path, network = curve
    for row, decade in enumerate((1, 2, 3, 4.5, 8)):
        weights = gflow.flow(network, gaussian, save=EVERY, until=gflow.LogLoss(-(10.0**decade)))
        at, directions = weights.decades, weights.directions
        i = int(weights.steps)
        assert at[i - 1] <= decade <= at[i]
        # Between two steps the direction lies between theirs, up to the cap's own error.
        between = jnp.linalg.norm(directions[i] - directions[i - 1])
        distance = jnp.linalg.norm(path.directions[row] - directions[i])
        assert distance <= between + path.errors[row] + 1e-6


def test_two_caps_agree_to_the_error_reported(curve, gaussian):
    path, network = curve
    exact = gflow.flow(network, gaussian, save=gflow.Decades(path.decades), method=gflow.Dual(cap=1e5))
    distances = jnp.linalg.norm(path.directions - exact.directions, axis=1)
    assert jnp.all(distances <= path.errors + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_diagonal_networks_end_at_stationary_points_of_the_quasi_norm(depth, gaussian):
    network = gflow.scale(gflow.Diagonal((jnp.ones(10),) * (depth - 1) + (jnp.zeros(10),)), 0.1)
    path = gflow.flow(network, gaussian, save=gflow.Decades(jnp.array([1.0, 4.0, 40.0, 400.0])))
    A = gaussian.y[:, None] * gaussian.X
    residuals = jax.vmap(lambda r, q: measures.kkt_residual(r, q, A, depth))(rho_of(path), path.multipliers)
    assert residuals[-1] < 1e-3
    assert jnp.all(jnp.diff(residuals[:3]) < 0)


@pytest.mark.slow
def test_a_scale_of_ten_to_the_minus_thousand_is_an_ordinary_number(gaussian):
    network = gflow.Diagonal((jnp.ones(10), jnp.zeros(10)))
    log_scale = -1000 * np.log(10.0)
    path = gflow.flow(network, gaussian, save=gflow.Decades(jnp.array([1.0, 3000.0])), log_alpha=log_scale)
    assert path.status == gflow.Status.converged
    assert float(gflow.angle(path.directions, maximum_l1_margin(gaussian))[-1]) < 1e-4


@pytest.mark.slow
def test_the_linear_model_follows_soudry_and_others():
    problem = gflow.Classification([[1.0, 2.0], [0.0, -3.0], [3.0, 3.0]], [1.0, -1.0, 1.0])
    path = gflow.flow(gflow.Diagonal(([0.3, -0.2],)), problem, until=gflow.LogLoss(-1e6))
    w_hat = gflow.predict.maximum_margin(problem, 2).coefficients  # (1/5, 2/5), supported by the first point alone
    support = jnp.array([0.2, 0.0, 0.0])
    ratios = measures.soudry_residual(problem, support, jnp.asarray(w_hat), path.network.coefficients(), path.log_time)
    assert jnp.allclose(ratios[0], 1.0, rtol=0, atol=1e-4)
    assert jnp.isnan(ratios[1:]).all()


def test_decades_for_angle_finds_the_last_crossing():
    decades, angles = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([jnp.nan, 1.0, 0.1, 0.01])
    assert jnp.allclose(measures.decades_for_angle(decades, angles, 10**-0.5), 2.5, rtol=1e-12)
    assert measures.decades_for_angle(decades, angles, 1e-3) == jnp.inf
    assert measures.decades_for_angle(decades, angles, 2.0) == 2.0


def test_the_excess_norm_of_the_optimum_is_zero(gaussian):
    best = maximum_l1_margin(gaussian)
    A = gaussian.y[:, None] * gaussian.X
    minimum = jnp.sum(jnp.abs(best)) / jnp.min(A @ best)
    excess = measures.excess_norm(jnp.stack([7 * best, best + 0.1, -best]), A, 1.0, minimum)
    assert abs(excess[0]) < 1e-12
    assert excess[1] > 0
    assert excess[2] == jnp.inf


@pytest.mark.slow
def test_limit_of_a_classification_is_a_direction_with_its_error():
    network = gflow.scale(gflow.initial.fully_connected(jnp.array([0.6, -0.4])), 0.5)
    end = gflow.limit(network, PAPER)
    assert end.converged
    assert end.log_loss < -1e10
    assert gflow.angle(np.asarray(end.network.coefficients()), np.array([1.0, 2.0])) <= end.error


def test_direction_flow_refuses_what_it_cannot_do():
    decades = jnp.array([1.0, 2.0])
    with pytest.raises(ValueError, match="needs dual coordinates"):
        gflow.flow(gflow.initial.fully_connected(jnp.ones(2)), PAPER, save=gflow.Decades(decades))
    with pytest.raises(ValueError, match="is for a Classification"):
        gflow.flow(START, gflow.Regression(PAPER.X, PAPER.y), save=gflow.Decades(decades))
    with pytest.raises(ValueError, match=r"must be at least 0\.1 and increase"):
        gflow.flow(START, PAPER, save=gflow.Decades(decades[::-1]))


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 3])
def test_ties_are_exact(layers):
    ties = gflow.Diagonal(([1.0, 1.0], [1.0, 0.5], [2.0, 2.0])[:layers])
    explicit = gflow.Weights(rtol=1e-10, solver=diffrax.Dopri8())  # not stiff yet, and quick to compile
    weights = gflow.flow(ties, PAPER, save=EVERY, until=gflow.LogLoss(-100.0), method=explicit)
    rows = jnp.array([jnp.argmax(weights.decades >= decade) for decade in (0.5, 1.0, 1.9)])
    path = gflow.flow(ties, PAPER, save=gflow.Decades(weights.decades[rows]))
    assert path.converged
    assert jnp.max(gflow.angle(path.directions, weights.directions[rows])) < 1e-6
