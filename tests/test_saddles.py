"""The staircase of saddles as α → 0, the horizons that decide it, and the lasso path of its time averages."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.integrate import quad
from scipy.special import elliprf
from truth import distance, jump_log_times, normals

import gflow
from gflow.predict.horizons import horizons

TOY = gflow.Regression(jnp.array([[1.0, 0.5, 0.7, 0.0], [0.5, 1.0, 0.1, 0.7]]), jnp.array([1.0, 0.0]))
ONES, ZEROS = jnp.ones(4), jnp.zeros(4)
STAIRCASE = [[0, 0, 0, 0], [0.8, 0, 0, 0], [0, 0, 1.4, 0], [0, 0, 10 / 7, -10 / 49]]


def drawn(seed, L, n=3, d=7):
    X, y, *weights = normals(seed, (n, d), n, *(d,) * L)
    return gflow.Diagonal(tuple(weights)), gflow.Regression(X, y)


# Horizons.


@settings(max_examples=30)
@given(st.integers(3, 6), st.integers(0, 10**6))
def test_horizons_are_integrals_of_the_clock(L, seed):
    (eta,) = normals(seed, (L, 1))
    eta = np.asarray(eta)
    size = np.sort(np.abs(eta[:, 0]))
    q, c = size[0] * np.prod(np.sign(eta)), size[1:] ** 2 - size[0] ** 2

    def speed(x):  # in q = √c_1 sinh x, where the integrand falls exponentially
        return np.sqrt(c[0]) * np.cosh(x) / np.prod(np.sqrt(c[0] * np.sinh(x) ** 2 + c))

    x, far = np.arcsinh(q / np.sqrt(c[0])), 60.0
    for found, (a, b) in zip(horizons(eta), ((x, far), (-far, x)), strict=True):
        points = sorted({a, b, *(p for p in (-5.0, 0.0, 5.0) if a < p < b)})
        expected = sum(quad(speed, *ends, epsabs=0, epsrel=1e-11, limit=200)[0] for ends in itertools.pairwise(points))
        assert found[0] == pytest.approx(expected, rel=1e-8)


def test_horizons_of_three_layers_are_carlsons_elliptic_integral():
    """Also over sizes from 1e-150 to 1e150."""
    eta = np.array([[1e-150, 0.3, 0.0, 2.0], [1.0, -0.5, 1e-9, 3.0], [1e150, 2.0, 5.0, 5.0]])
    size = np.abs(eta) / np.max(np.abs(eta), axis=0)
    near = elliprf(*size**2) / np.max(np.abs(eta), axis=0)
    negative = np.prod(np.sign(eta), axis=0) < 0
    np.testing.assert_allclose(np.where(negative, horizons(eta)[1], horizons(eta)[0]), near, rtol=1e-13)


def test_horizons_of_tied_layers_are_one_sided_and_two_zeros_never_move():
    for L in (2, 3, 4):
        eta = np.ones((L, 3))
        eta[0] = [1.0, -1.0, 0.0]
        eta[1, 2] = 0.0
        plus, minus = horizons(eta)
        near = 1.0 if L == 2 else 1 / (L - 2)  # ∫_1^∞ q^{1−L} dq
        np.testing.assert_allclose(plus, [near, np.inf, np.inf], rtol=1e-14)
        np.testing.assert_allclose(minus, [np.inf, near, np.inf], rtol=1e-14)


# Saddles.


@pytest.mark.parametrize("L", [2, 3, 4])
def test_the_toy_visits_its_saddles_and_one_coordinate_leaves_again(L):
    found = gflow.predict.saddles(gflow.Diagonal((*(ONES,) * (L - 1), ZEROS)), TOY)
    np.testing.assert_allclose(found.coefficients, STAIRCASE, rtol=0, atol=1e-14)
    c_L = {2: 1.0, 3: np.pi / 2, 4: 1.0}[L]
    np.testing.assert_allclose(found.waits, c_L * np.array([1, 3, 80 / 49]), rtol=1e-13)
    assert found.residual < 1e-14
    assert abs(found.gap) < 1e-14
    assert found.hypotheses[0].value == pytest.approx(4 / 21)  # 25/7 after 3


def followed(problem, log_alpha):
    """The staircase of two layers, and the dual path to five times the last jump, every step of it."""
    network = gflow.Diagonal((ONES, ZEROS))
    found = gflow.predict.saddles(network, problem)
    until = gflow.LogTime(found.log_times(log_alpha)[-1] + np.log(5.0))
    return found, gflow.flow(network, problem, log_alpha=log_alpha, save=gflow.Steps(2048), until=until)


@pytest.mark.slow
def test_jumps_come_when_the_flow_in_dual_coordinates_jumps():
    found, path = followed(TOY, -2300.0)
    assert path.steps < 2048
    log_times = found.log_times(-2300.0)
    jumps = jump_log_times(path.log_times, path.coefficients, found.coefficients)
    np.testing.assert_allclose(jumps, log_times, rtol=0, atol=0.01)  # 1 % in time
    for rest, (begin, end) in zip(found.coefficients[1:], itertools.pairwise([*log_times, np.inf]), strict=True):
        between = (path.log_times > begin + 0.02) & (path.log_times < end - 0.02)
        assert np.abs(path.coefficients[between] - rest).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("L", "seed"), [(3, 0), (3, 8), (4, 3)])
def test_deep_coordinates_that_return_to_zero_wait_before_they_jump_again(L, seed):
    # A step from far beyond one bound to far beyond the other would miss the wait between them.
    network, problem = drawn(seed, L)
    found = gflow.predict.saddles(network, problem)
    assert ((found.rho[:-1] != 0) & (found.rho[1:] == 0)).any()
    until = gflow.LogTime(found.log_times(-2300.0)[-1] + np.log(3.0))
    method = gflow.Dual(rtol=1e-5)
    path = gflow.flow(network, problem, log_alpha=-2300.0, save=gflow.Steps(2048), until=until, method=method)
    assert path.status == gflow.Status.finished
    assert distance(path.coefficients[-1], found.end) < 1e-6
    jumps = jump_log_times(path.log_times, path.coefficients, found.coefficients)
    np.testing.assert_allclose(jumps, found.log_times(-2300.0), rtol=0, atol=0.01)  # 1 % in time


@pytest.mark.parametrize("L", [2, 3, 4])
def test_the_staircase_ends_at_the_minimum_of_the_linear_program(L):
    left = 0
    for seed in range(20):
        network, problem = drawn(seed, L)
        found = gflow.predict.saddles(network, problem)
        assert found.residual < 1e-12
        assert distance(gflow.predict.small_scale_limit(network, problem).coefficients, found.end) < 1e-11
        left += int(((found.rho[:-1] != 0) & (found.rho[1:] == 0)).sum())
    assert left > 0  # some coordinate leaves again


@pytest.mark.slow
def test_the_staircase_ends_where_the_limit_of_a_tiny_scale_is():
    for seed in range(6):
        network, problem = drawn(seed, 3)
        end = gflow.limit(network, problem, log_alpha=-690.8)
        assert distance(end.coefficients, gflow.predict.saddles(network, problem).end) < 1e-11


def test_weights_of_the_two_signs_decide_the_end():
    """One data point, two coordinates of equal size: the nearer horizon wins, by the sign of the target."""
    network = gflow.Diagonal((jnp.array([0.5, -0.5]), jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0])))
    for y, winner in ((1.0, 0), (-1.0, 1)):
        problem = gflow.Regression(jnp.array([[1.0, 1.0]]), jnp.array([y]))
        expected = y * np.eye(2)[winner]
        np.testing.assert_allclose(gflow.predict.saddles(network, problem).end, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            gflow.predict.small_scale_limit(network, problem).coefficients, expected, rtol=0, atol=1e-12
        )


def test_starts_that_keep_their_signs_end_at_the_nonnegative_least_squares_point():
    from scipy.optimize import nnls

    found = gflow.predict.saddles(gflow.Diagonal((ONES, ONES)), TOY)
    np.testing.assert_allclose(found.end, nnls(np.asarray(TOY.X), np.asarray(TOY.y))[0], rtol=0, atol=1e-12)
    assert found.residual < 1e-12
    assert np.isnan(found.gap)
    with pytest.raises(gflow.predict.Refusal, match="No weights of the signs"):
        gflow.predict.small_scale_limit(gflow.Diagonal((ONES, ONES)), TOY)


def test_a_difference_of_powers_moves_as_many_times_faster_as_layers_are_tied():
    """Woodworth et al.'s network is 2d tied products of L layers that share one weight."""
    tied = gflow.predict.saddles(gflow.DifferenceOfPowers((ONES, ONES), depth=2), TOY)
    untied = gflow.predict.saddles(gflow.Diagonal((ONES, ZEROS)), TOY)
    np.testing.assert_allclose(tied.coefficients, untied.coefficients, rtol=0, atol=1e-14)
    np.testing.assert_allclose(tied.waits, untied.waits / 2, rtol=1e-13)


def test_saddles_refuse_what_they_are_not_about():
    with pytest.raises(gflow.predict.Refusal, match="FullyConnected with 2 weights has none"):
        gflow.predict.saddles(gflow.FullyConnected((jnp.eye(4), ONES)), TOY)
    twins = gflow.Regression(jnp.array([[1.0, 1.0, 0.0, 0.0]]), jnp.array([1.0]))
    with pytest.raises(gflow.predict.Refusal, match=r"\[0, 1\] leave 0 together"):
        gflow.predict.saddles(gflow.Diagonal((ONES, ZEROS)), twins)
    with pytest.raises(ValueError, match="log_alpha=0 is no small scale"):
        gflow.predict.saddles(gflow.Diagonal((ONES, ZEROS)), TOY).log_times(0.0)


# The lasso path.


def lasso(X, y, penalties):
    """By accelerated proximal gradient descent, restarted where it turns back."""
    step, beta, ahead, speed = 1 / np.linalg.norm(X, 2) ** 2, np.zeros(X.shape[1]), np.zeros(X.shape[1]), 1.0
    for _ in range(20000):
        z = ahead + step * X.T @ (y - X @ ahead)
        new = np.maximum(z - step * penalties[0], 0) - np.maximum(-z - step * penalties[1], 0)
        back = (ahead - new) @ (new - beta) > 0
        faster = 1.0 if back else (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = new + (0.0 if back else (speed - 1) / faster) * (new - beta)
        beta, speed = new, faster
    return beta


def test_the_lasso_residual_vanishes_at_the_lasso_alone():
    X, y, _ = map(np.asarray, normals(20, (3, 5), 3, 5))
    penalties = np.array([0.3, 0.1])[:, None] * np.abs(X.T @ y).max() * np.ones((2, 5))
    beta = lasso(X, y, penalties)
    assert (beta != 0).any()
    assert (beta == 0).any()
    assert gflow.measures.lasso_residual(X, y, beta, penalties) < 1e-12
    assert gflow.measures.lasso_residual(X, y, beta, 1.01 * penalties) > 1e-4
    assert gflow.measures.lasso_residual(X, y, 1.01 * beta, penalties) > 1e-4
    assert gflow.measures.lasso_residual(X, y, beta + 1e-3 * (beta == 0), penalties) > 1e-4
    zero = gflow.measures.lasso_residual(X, y, 0 * beta, np.ones((2, 5)) * 1.01 * np.abs(X.T @ y).max())
    assert zero == 0


@pytest.mark.parametrize(("few", "colours"), [(True, ["#0072B2", "black"]), (False, ["#0072B2", "#D55E00"])])
def test_a_coefficient_has_the_colour_of_its_number_while_there_are_colours_enough(few, colours):
    """Coefficients 1 and 4 are ever seen, of four or of nine."""
    X = np.concatenate([[[1.0, 0.5, 0.7, 0.0], [0.5, 1.0, 0.1, 0.7]], np.zeros((2, 0 if few else 5))], axis=1)
    eta = jnp.array([1.0, 0.8, 0.6, 0.7] + ([] if few else [1.0] * 5))
    found = gflow.predict.saddles(gflow.Diagonal((eta, eta, 0 * eta)), gflow.Regression(X, [1.0, 0.0]))
    ax = Figure().add_subplot()
    gflow.plot.staircase(ax, found, -50.0)
    assert [line.get_color() for line in ax.lines if line.get_linestyle() == "--"] == colours


@pytest.mark.parametrize("L", [2, 3])
def test_averages_of_the_staircase_are_the_lasso_unless_a_coordinate_returns(L):
    """With unequal penalties for the two signs where L = 3."""
    kinds = set()
    for seed in range(12):
        network, problem = drawn(seed, L)
        found = gflow.predict.saddles(network, problem)
        times = found.times[0] * np.geomspace(0.5, 1e3, 20)
        residuals = [
            gflow.measures.lasso_residual(problem.X, problem.y, x, found.horizons / t)
            for x, t in zip(found.averages(times), times, strict=True)
        ]
        returned = bool(((found.rho[:-1] != 0) & (found.rho[1:] == 0)).any())
        assert (max(residuals) < 1e-11) == (not returned)
        kinds.add(returned)
    assert kinds == {False, True}


@pytest.mark.slow
def test_averages_of_the_dual_flow_near_the_lasso_like_one_over_log_alpha():
    X, y = normals(42, (2, 4), 2)
    problem = gflow.Regression(X, y)
    worst = []
    for log_alpha in (-230.0, -2300.0):
        found, path = followed(problem, log_alpha)
        late = path.log_times > found.log_times(log_alpha)[0] - 0.5
        averages = gflow.measures.time_averages(path.log_times, path.coefficients)[late]
        penalties = found.penalties(path.log_times[late], log_alpha)
        residuals = jax.vmap(gflow.measures.lasso_residual, (None, None, 0, 0))(X, y, averages, penalties)
        worst.append(-log_alpha * float(residuals.max()))
    assert 0.05 < worst[1] < 2
    assert worst[1] == pytest.approx(worst[0], rel=0.15)


def test_time_averages_are_exact_for_straight_lines_whatever_the_times():
    t = np.array([0.0, 1.0, 1.0, 3.0, 4.0])
    values = np.stack([2 * t, 1 - t], axis=1)
    with np.errstate(divide="ignore"):
        found = gflow.measures.time_averages(np.log(t), values)
        late = gflow.measures.time_averages(np.log(t) + 2300.0, values)
    np.testing.assert_allclose(found, np.stack([t, 1 - t / 2], axis=1), rtol=1e-14)
    np.testing.assert_allclose(late, found, rtol=1e-12)
