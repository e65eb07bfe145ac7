"""Claims about classification far beyond the losses that gradient descent reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import gflow
from gflow import finite_loss

PAPER = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
START = gflow.scale(gflow.initial.diagonal(jnp.array([0.6, -0.4])), 0.5)


@pytest.fixture(scope="module")
def far():
    return jax.jit(lambda start: gflow.flow(start, PAPER, log_loss=-1e10, max_steps=1500))(START)


@pytest.fixture(scope="module")
def gaussian():
    rng = np.random.default_rng(0)
    return gflow.Classification(rng.standard_normal((6, 10)), rng.choice([-1.0, 1.0], 6))


@pytest.fixture(scope="module")
def curve(gaussian):
    network = gflow.scale(gflow.Diagonal((jnp.ones(10), jnp.zeros(10))), 0.1)
    decades = jnp.array([1.0, 2.0, 3.0, 4.5, 8.0, 100.0, 1000.0])
    return jax.jit(lambda n: gflow.direction_flow(n, gaussian, decades, cap=1e4))(network), network


def maximum_l1_margin(problem):
    A = np.asarray(problem.y[:, None] * problem.X)
    n, d = A.shape
    x = linprog(np.ones(2 * d), A_ub=-np.hstack([A, -A]), b_ub=-np.ones(n)).x
    return jnp.asarray(x[:d] - x[d:])


def test_the_flow_reaches_log_loss_minus_1e10_at_the_maximum_l1_margin(far):
    assert far.converged
    assert far.steps + far.rejected_steps <= 1500
    assert gflow.angle(np.asarray(far.network.coefficients()), np.array([0.0, 1.0])) < 1e-5


def test_the_smoothed_margin_never_decreases_once_the_loss_is_below_one(far):
    margins = jax.vmap(lambda network: gflow.invariants.smoothed_margin(network, PAPER))(far.networks)
    margins = margins[far.log_losses < 0]
    assert jnp.all(jnp.diff(margins) >= -1e-7 * margins[1:])


def test_singular_vector_residual_falls_along_the_flow(far):
    rows = [int(jnp.argmax(-far.log_losses >= s)) for s in (1e1, 1e3, 1e6, 1e9)]
    networks = jax.tree.map(lambda v: v[jnp.array(rows)], far.networks)
    residuals = jax.vmap(lambda network: gflow.predict.singular_vector_residual(network, PAPER))(networks)
    assert jnp.all(jnp.diff(residuals) < 0)


def test_log_time_agrees_with_integration_in_plain_time():
    path = jax.jit(lambda start: gflow.flow(start, PAPER, log_loss=-10.0, rtol=1e-10))(START)
    plain = gflow.flow(START, PAPER, times=jnp.exp(path.log_time)[None], rtol=1e-12, max_steps=100_000)
    assert abs(path.log_loss - plain.log_loss) < 1e-8


def test_flow_stops_on_log_time_and_on_turning():
    by_time = jax.jit(lambda start: gflow.flow(start, PAPER, log_time=5.0))(START)
    assert gflow.Status[by_time.status].startswith("finished")
    assert by_time.log_times[by_time.steps - 1] <= 5 < by_time.log_time
    by_turning = jax.jit(lambda start: gflow.flow(start, PAPER, turning=1e-3))(START)
    assert by_turning.converged
    assert by_turning.log_loss < 0


def test_data_that_are_not_separable_end_without_descent():
    X = [[1.0, 0.3], [-1.0, 0.2], [0.1, 1.0], [0.0, -1.0], [0.5, 0.5]]
    problem = gflow.Classification(X, [1.0, 1.0, -1.0, -1.0, -1.0])
    path = jax.jit(lambda start: gflow.flow(start, problem))(START)
    assert gflow.Status[path.status].startswith("no descent")
    curve = gflow.direction_flow(START, problem, jnp.array([1.0, 10.0]))
    assert gflow.Status[curve.status].startswith("no descent")
    assert jnp.isnan(curve.directions).all()


@pytest.mark.parametrize("weights", [([0.0, 0.0], [0.0, 0.0]), ([1.0, 0.5], [0.0, 0.0], [0.0, 0.0])])
def test_a_start_at_a_stationary_point_ends_without_descent(weights):
    network = gflow.Diagonal(weights)
    path = jax.jit(lambda start: gflow.flow(start, PAPER))(network)
    assert gflow.Status[path.status].startswith("no descent")
    for end, start in zip(path.network.weights, network.weights, strict=True):
        assert jnp.array_equal(end, start)


@pytest.mark.parametrize("loss", [gflow.exponential, gflow.logistic])
def test_a_point_that_no_weights_classify_ends_without_descent(loss):
    problem = gflow.Classification([[1.0, 2.0], [0.0, 0.0]], [1.0, 1.0], loss)
    path = jax.jit(lambda start: gflow.flow(start, problem))(START)
    assert gflow.Status[path.status].startswith("no descent")
    assert abs(path.log_loss - loss(jnp.zeros(()))) < 1e-8  # the other point's loss is gone


def test_a_plateau_at_a_tiny_scale_is_not_an_end():
    """At scale 1e-6 the first coordinate is learned long before the second, which waits at its saddle."""
    problem = gflow.Classification([[1.0, 0.0], [0.0, 1e-3]], [1.0, 1.0])
    start = gflow.scale(gflow.Diagonal((jnp.ones(2), jnp.ones(2), jnp.array([1.0, 0.5]))), 1e-6)
    path = jax.jit(lambda start: gflow.flow(start, problem, log_loss=-100.0))(start)
    assert path.converged


def test_identical_labels_duplicates_and_ties_are_no_obstacle():
    X = jnp.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    problem = gflow.Classification(X, jnp.ones(3), gflow.logistic)
    start = gflow.Diagonal((jnp.array([1.0, 0.5]), jnp.zeros(2)))
    path = jax.jit(lambda start: gflow.flow(start, problem, log_loss=-1e10))(start)
    assert path.converged, gflow.Status[path.status]
    assert gflow.angle(np.asarray(path.network.coefficients()), np.ones(2)) < 1e-8


@pytest.mark.parametrize("loss", [gflow.exponential, gflow.logistic])
def test_nonlinear_homogeneous_networks_follow_the_same_flow(loss):
    """Squared relu: homogeneous of degree 3 in the weights of two layers, with a continuous field."""
    rng = np.random.default_rng(2)
    problem = gflow.Classification(rng.standard_normal((6, 3)), rng.choice([-1.0, 1.0], 6), loss)
    layers = gflow.FullyConnected((rng.standard_normal((3, 12)), rng.standard_normal(12)))
    start = gflow.Nonlinear(layers, lambda h: jax.nn.relu(h) ** 2)
    path = jax.jit(lambda start: gflow.flow(start, problem, log_loss=-1e6, max_steps=1500))(start)
    assert path.converged
    assert jnp.isclose(path.log_time, -path.log_loss, rtol=1e-3)
    sizes = sum(jnp.sum(v**2, axis=range(1, v.ndim)) for v in path.networks.weights)
    margins = (-path.log_losses / sizes**1.5)[path.log_losses < np.log(0.5)]
    assert jnp.all(jnp.diff(margins) >= -1e-7 * margins[1:])


def test_full_convolutions_of_general_data_approach_a_stationary_point():
    """Corollary 3, where the dual route does not apply; several support vectors."""
    rng = np.random.default_rng(3)
    problem = gflow.Classification(rng.standard_normal((5, 8)), rng.choice([-1.0, 1.0], 5))
    S = 8**0.5 * gflow.predict.dft(8)
    A = jnp.asarray(problem.y[:, None] * (problem.X @ S.T))
    start = gflow.scale(gflow.initial.convolutional(jnp.asarray(rng.standard_normal(8))), 0.01)
    path = jax.jit(lambda start: gflow.flow(start, problem, log_loss=-1e10, max_steps=1500))(start)
    assert path.converged
    rows = jnp.array([jnp.argmax(-path.log_losses >= s) for s in (1e1, 1e2, 1e4, 1e6, 1e8)])

    def residual(network):
        rho = jnp.asarray(S.conj()) @ network.coefficients() / 8
        return finite_loss.kkt_residual(rho, finite_loss.multipliers(network, problem), A, 2)

    residuals = jax.vmap(residual)(jax.tree.map(lambda v: v[rows], path.networks))
    assert jnp.all(jnp.diff(residuals) < 0)
    assert residuals[-1] < 0.1


def test_dual_coordinates_reach_a_loss_of_minus_ten_to_the_thousand(curve, gaussian):
    path, _ = curve
    assert path.status == gflow.Status.converged
    assert float(finite_loss.angles(path.directions, maximum_l1_margin(gaussian))[-1]) < 1e-5


def test_dual_coordinates_agree_with_the_weights_below_and_beyond_the_cap(curve, gaussian):
    path, network = curve
    run = jax.jit(lambda target: gflow.flow(network, gaussian, log_loss=target))
    for row, decade in enumerate((1, 2, 3, 4.5, 8)):
        weights = run(-(10.0**decade))
        at = jnp.log10(-weights.log_losses)
        betas = jax.vmap(lambda n: n.coefficients())(weights.networks)
        directions = betas / jnp.linalg.norm(betas, axis=1, keepdims=True)
        i = int(weights.steps)
        assert at[i - 1] <= decade <= at[i]
        # Between two steps the direction lies between theirs, up to the cap's own error.
        between = jnp.linalg.norm(directions[i] - directions[i - 1])
        distance = jnp.linalg.norm(path.directions[row] - directions[i])
        assert distance <= between + path.errors[row] + 1e-6


def test_two_caps_agree_to_the_error_reported(curve, gaussian):
    path, network = curve
    exact = jax.jit(lambda n: gflow.direction_flow(n, gaussian, path.decades, cap=1e5))(network)
    distances = jnp.linalg.norm(path.directions - exact.directions, axis=1)
    assert jnp.all(distances <= path.errors + 1e-5)


@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_diagonal_networks_end_at_stationary_points_of_the_quasi_norm(depth, gaussian):
    network = gflow.scale(gflow.Diagonal((jnp.ones(10),) * (depth - 1) + (jnp.zeros(10),)), 0.1)
    path = jax.jit(lambda n: gflow.direction_flow(n, gaussian, jnp.array([1.0, 4.0, 40.0, 400.0])))(network)
    A = gaussian.y[:, None] * gaussian.X
    residuals = jax.vmap(lambda r, q: finite_loss.kkt_residual(r, q, A, depth))(path.rho, path.multipliers)
    assert residuals[-1] < 1e-3
    assert jnp.all(jnp.diff(residuals[:3]) < 0)


def test_a_scale_of_ten_to_the_minus_thousand_is_an_ordinary_number(gaussian):
    network = gflow.Diagonal((jnp.ones(10), jnp.zeros(10)))
    log_scale = -1000 * np.log(10.0)
    path = jax.jit(lambda n: gflow.direction_flow(n, gaussian, jnp.array([1.0, 3000.0]), log_alpha=log_scale))(network)
    assert path.status == gflow.Status.converged
    assert float(finite_loss.angles(path.directions, maximum_l1_margin(gaussian))[-1]) < 1e-4


def test_the_linear_model_follows_soudry_and_others():
    problem = gflow.Classification([[1.0, 2.0], [0.0, -3.0], [3.0, 3.0]], [1.0, -1.0, 1.0])
    path = jax.jit(lambda start: gflow.flow(start, problem, log_loss=-1e6))(gflow.Diagonal(([0.3, -0.2],)))
    w_hat = gflow.predict.maximum_margin(problem, 2).coefficients  # (1/5, 2/5), supported by the first point alone
    support = jnp.array([0.2, 0.0, 0.0])
    ratios = finite_loss.soudry_residual(
        problem, support, jnp.asarray(w_hat), path.network.coefficients(), path.log_time
    )
    assert jnp.allclose(ratios[0], 1.0, atol=1e-4)
    assert jnp.isnan(ratios[1:]).all()


def test_decades_for_angle_finds_the_last_crossing():
    decades, angles = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([jnp.nan, 1.0, 0.1, 0.01])
    assert jnp.allclose(finite_loss.decades_for_angle(decades, angles, 10**-0.5), 2.5)
    assert finite_loss.decades_for_angle(decades, angles, 1e-3) == jnp.inf
    assert finite_loss.decades_for_angle(decades, angles, 2.0) == 2.0


def test_the_excess_norm_of_the_optimum_is_zero(gaussian):
    best = maximum_l1_margin(gaussian)
    A = gaussian.y[:, None] * gaussian.X
    minimum = jnp.sum(jnp.abs(best)) / jnp.min(A @ best)
    excess = finite_loss.excess_norm(jnp.stack([7 * best, best + 0.1, -best]), A, 1.0, minimum)
    assert abs(excess[0]) < 1e-12
    assert excess[1] > 0
    assert excess[2] == jnp.inf


def test_limit_of_a_classification_is_a_direction_with_its_error():
    network = gflow.scale(gflow.initial.fully_connected(jnp.array([0.6, -0.4])), 0.5)
    end = jax.jit(lambda n: gflow.limit(n, PAPER))(network)
    assert end.converged
    assert end.log_loss < -1e10
    assert gflow.angle(np.asarray(end.network.coefficients()), np.array([1.0, 2.0])) <= end.error


def test_direction_flow_refuses_what_it_cannot_do():
    decades = jnp.array([1.0, 2.0])
    with pytest.raises(ValueError, match="needs a Diagonal"):
        gflow.direction_flow(gflow.initial.fully_connected(jnp.ones(2)), PAPER, decades)
    with pytest.raises(ValueError, match="strictly smallest"):
        gflow.direction_flow(gflow.Diagonal(([1.0, 1.0], [1.0, 0.5])), PAPER, decades)
    with pytest.raises(ValueError, match="must increase"):
        gflow.direction_flow(START, PAPER, decades[::-1])
