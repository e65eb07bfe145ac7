"""Limits of regressions with ties, signs that cannot fit, dependent rows, odd units and targets of few columns."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import nnls
from truth import distance, normals

import gflow
from gflow.dual.coordinates import Coordinates
from gflow.flows.radau import MOST_OUTPUTS
from gflow.flows.tail import minimum_norm_correction, way_left

LOG10 = np.log(10.0)
DUAL, WEIGHTS = gflow.Dual(), gflow.Weights()


def last_layer_zero(d, L):
    return gflow.Diagonal((*[jnp.ones(d)] * (L - 1), jnp.zeros(d)))


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3, 4, 6])
@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-9, 1e-3])
def test_ties_and_near_ties_end_where_the_weights_end(L, gap):
    X, beta = normals(L, (3, 6), (6,))
    first = jnp.asarray([0.5, 1.2, 0.8, 1.0, 0.4, 0.7])
    layers = [first * (1 + gap * k) for k in range(L - 1)]
    network = gflow.Diagonal((*layers, first * (1.5 if L == 4 else 1.0)))
    problem = gflow.Regression(X, X @ jnp.abs(beta))  # equal layers keep their sign
    end = gflow.limit(network, problem)
    assert end.converged
    assert distance(end.coefficients, gflow.limit(network, problem, method=WEIGHTS).coefficients) <= 1e-9


@pytest.mark.slow
def test_signs_of_ties_are_kept_and_what_two_zero_layers_hold_stays():
    # Column by column: a tie of product −1, two zeros, a tie of product +1, no tie.
    network = gflow.Diagonal(([1.0, 0.0, -0.5, 0.3], [-1.0, 0.0, -0.5, 1.0], [1.0, 2.0, 2.0, 0.2]))
    problem = gflow.Regression(jnp.asarray([[1.0, 1.0, 1.0, 0.5], [1.0, 1.0, -1.0, 0.2]]), jnp.asarray([1.0, -2.0]))
    end, integrated = gflow.limit(network, problem), gflow.limit(network, problem, method=WEIGHTS)
    assert end.converged
    assert end.coefficients[1] == 0
    assert end.coefficients[0] < 0 < end.coefficients[2]
    for v, w in zip(end.network.weights, integrated.network.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_limit_at_a_positive_loss_is_the_least_squares_point():
    X, y, start = normals(3, (7, 4), (7,), (2, 4))
    end = gflow.limit(gflow.Diagonal(tuple(start)), gflow.Regression(X, y))
    assert end.status == gflow.Status.least_squares
    assert distance(end.coefficients, np.linalg.lstsq(X, y)[0]) <= 1e-12
    again = gflow.Regression(jnp.concatenate([X[:2], X[:1]]), jnp.asarray([1.0, 2.0, 3.0]))
    end = gflow.limit(gflow.Diagonal(tuple(start)), again)
    merged = gflow.limit(gflow.Diagonal(tuple(start)), gflow.Regression(X[:2], jnp.asarray([2.0, 2.0])))
    assert end.status == gflow.Status.least_squares
    assert merged.converged
    assert distance(end.coefficients, merged.coefficients) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("second", "target"), [([1.0, 2, 3], 1.0), ([0.0, 0, 0], 0.0)])
def test_dependent_rows_are_solved_like_others(second, target):
    rows, y = [[1.0, 2, 3], second], [1.0, target]
    network = last_layer_zero(3, 2)
    end = gflow.limit(network, gflow.Regression(jnp.asarray(rows), jnp.asarray(y)))
    alone = gflow.limit(network, gflow.Regression(jnp.asarray(rows[:1]), jnp.asarray(y[:1])))
    assert end.converged
    assert distance(end.coefficients, alone.coefficients) <= 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-200, 1e-160, 1e160, 1e200])
def test_units_of_the_data_do_not_matter(unit):
    X, y = jnp.asarray([[1.0, 2, 3], [0, 1, -1]]), jnp.asarray([1.0, 2.0])
    tiny = gflow.limit(last_layer_zero(3, 2), gflow.Regression(X, 1e-100 * y))  # lazy, so linear in y
    by_y = gflow.limit(last_layer_zero(3, 2), gflow.Regression(X, unit * y))
    assert by_y.converged
    if unit < 1:
        assert distance(by_y.coefficients / unit, tiny.coefficients * 1e100) <= 1e-12
    else:  # α = 0: minimum ℓ1, where the first coefficient is negligible
        assert distance(by_y.coefficients / unit, [0, 1.4, -0.6]) <= 1e-12
    assert gflow.limit(last_layer_zero(3, 2), gflow.Regression(X * unit, y)).converged


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(3, 5), (6, 4), (8, 12)])
def test_equal_layers_that_cannot_fit_end_at_nonnegative_least_squares(n, d):
    X, y = normals(10 * n, (20, n, d), (20, n))
    ends = jax.vmap(lambda X, y: gflow.limit(gflow.Diagonal((jnp.ones(d),) * 3), gflow.Regression(X, y)))(X, y)
    for i in range(20):
        beta, misfit = nnls(np.asarray(X[i]), np.asarray(y[i]))
        assert ends[i].status == (gflow.Status.least_squares if misfit > 1e-9 else gflow.Status.converged)
        np.testing.assert_allclose(X[i] @ ends[i].coefficients, X[i] @ beta, rtol=0, atol=1e-9)
    assert (ends.error <= 1e-9).all()


@pytest.mark.slow
def test_ties_on_the_boundary_of_what_can_be_fitted():
    def limit(X, y):
        return gflow.limit(gflow.Diagonal((jnp.ones(X.shape[1]),) * 3), gflow.Regression(X, y), log_alpha=-9.0)

    (X,) = normals(4, (2, 2))
    ends = [limit(X, jnp.zeros(2)), limit(jnp.eye(3), jnp.asarray([1.0, 0.0, 0.0]))]
    # The second row holds two of three coordinates at zero, however the first one ends.
    ends.append(limit(jnp.asarray([[1.0, 1.0, 2.0], [0.0, 1.0, 3.0]]), jnp.asarray([1.0, 0.0])))
    # And here none: what is zero can be made up for.
    ends.append(limit(jnp.asarray([[1.0, -1.0, 0.0]]), jnp.zeros(1)))
    for end, expected in zip(ends, [[0, 0], [1, 0, 0], [1, 0, 0], [np.exp(-27.0)] * 3], strict=True):
        assert end.converged
        np.testing.assert_allclose(end.coefficients, expected, rtol=1e-12)


@pytest.mark.parametrize("ratio", [1e-4, 1e-12])
def test_a_row_that_is_negligible_beside_another_is_fitted_all_the_same(ratio):
    X, y = jnp.asarray([[ratio, -8 * ratio], [1.0, 7.0]]), jnp.asarray([-1.2 * ratio, 2.1])
    end = gflow.limit(gflow.Diagonal((jnp.ones(2), jnp.ones(2))), gflow.Regression(X, y))
    assert end.converged
    np.testing.assert_allclose(end.coefficients, [0.56, 0.22], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("L", [3, 4, 5, 6])
def test_targets_of_few_columns(L):
    # So few that most basics are there for round-off only, at α where they are smaller than that, and larger.
    rng = np.random.default_rng(L)
    X = jnp.asarray(rng.normal(size=(8, 20, 60)))
    beta = np.zeros((8, 60))
    beta[:, :2] = rng.normal(size=(8, 2))
    log_alphas = jnp.linspace(-8, 0, 8) * LOG10
    network, zero = gflow.Diagonal(tuple(rng.normal(size=(L, 60)))), last_layer_zero(60, L)
    ends = [
        gflow.limit(start, gflow.Regression(X[i], X[i] @ beta[i]), log_alpha=log_alphas[i])
        for start, i in (*((network, i) for i in range(8)), (zero, 0))
    ]
    assert all(end.converged for end in ends)
    assert all(end.error <= 1e-9 for end in ends[:-1])
    np.testing.assert_allclose(ends[-1].coefficients, beta[0], rtol=0, atol=1e-6)


def test_a_lane_that_was_converged_with_a_coordinate_missing():
    network = gflow.Diagonal(
        (
            [1.5095137681868358, -1.4483891484161693, -0.9331802885689923],
            [1.390273869884478, -0.6980808657145713, 1.578923521831533],
        )
    )
    X = jnp.asarray([[0.0, 0.0, 0.8731382264658306], [0.0, 0.239337512037994, 0.0]])
    y = jnp.asarray([0.006480944210353842, -0.5031428260940104])
    end = gflow.limit(network, gflow.Regression(X, y), log_alpha=-51.27569196549308)
    assert end.converged
    np.testing.assert_allclose(end.coefficients[1:], [y[1] / X[1, 1], y[0] / X[0, 2]], rtol=1e-12)


@pytest.mark.parametrize("L", [2, 3])
@pytest.mark.parametrize("small", [1e-10, 1e-12, 1e-14])
def test_a_coordinate_near_round_off_is_within_its_error(L, small):
    # The second coordinate is a difference in y: above a thousand units of round-off it is followed,
    # below it need not be.
    X, y = jnp.asarray([[1.0, 0.0], [1.0, 1.0]]), jnp.asarray([1.0, 1.0 + small])
    end = gflow.limit(last_layer_zero(2, L), gflow.Regression(X, y), log_alpha=-20 * LOG10)
    assert end.converged
    expected = [1.0, float(y[1]) - 1.0]
    assert distance(end.coefficients, expected) <= end.error <= 1e-11
    assert abs(end.coefficients[1] - expected[1]) <= (1e-20 if small > 5e-13 else 1e-12)


@pytest.mark.parametrize("distance_to_zero", [1e-6, 1e-14])
def test_a_tie_is_dead_only_where_nothing_asks_for_it(distance_to_zero):
    y = jnp.asarray([1.0, distance_to_zero])
    end = gflow.limit(gflow.Diagonal((jnp.ones(2), jnp.ones(2))), gflow.Regression(jnp.eye(2), y), log_alpha=-9.0)
    assert end.converged
    assert distance(end.coefficients, y) <= max(float(end.error), 2e-14)
    # Of nearly dependent rows, what is round-off in y may be a coordinate: no answer, or a right one.
    X = jnp.asarray([[1.0, 1.0], [1.0, 1.0 + 1e-7]])
    for beta in ([1.0, 0.0], [1.0, 1e-8], [1.0, 1e-5]):
        target = gflow.Regression(X, X @ jnp.asarray(beta))
        end = gflow.limit(gflow.Diagonal((jnp.ones(2), jnp.ones(2))), target, log_alpha=-9.0)
        assert not end.converged or distance(end.coefficients, beta) <= max(1e-8, float(end.error))


def test_near_ties_of_a_few_units_of_round_off_start_where_they_are():
    # The gap, 24 units of round-off, decides the limit: divided by anything before the difference is taken, it is gone.
    first = np.array([0.3343681258116937, 1.1572338540400402, 0.17615421346956328, 0.2316963961847544])
    second = np.array([0.33436812581169273, 1.1572338540400429, 0.1761542134695632, 0.2316963961847538])
    systems = Coordinates.of(jnp.asarray([first, second]))
    with mp.workdps(50):
        pairs = [sorted((mp.mpf(float(a)), mp.mpf(float(b)))) for a, b in zip(first, second, strict=True)]
        expected = [float(mp.asinh(least / mp.sqrt(other**2 - least**2))) for least, other in pairs]
    np.testing.assert_allclose(systems.start, expected, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1.0, 1e7])
def test_round_off_in_targets_of_more_points_than_coordinates_is_in_the_error(columns):
    # y = Xβ but for its round-off: the least-squares point of what is left of it, ill-conditioned or not.
    lanes = 40
    X, beta, start = normals(9, (lanes, 6, 4), (lanes, 4), (2, 4))
    X = X.at[:, :, 0].multiply(1 / columns)
    y = jnp.einsum("bnd,bd->bn", X, beta)
    ends = jax.vmap(lambda X, y: gflow.limit(gflow.Diagonal(tuple(start)), gflow.Regression(X, y)))(X, y)
    for i in range(lanes):
        with mp.workdps(60):
            A = mp.matrix(np.asarray(X[i]).tolist())
            exact = mp.lu_solve(A.T * A, A.T * mp.matrix(np.asarray(y[i]).tolist()))
        assert distance(ends[i].coefficients, [float(v) for v in exact]) <= ends.error[i]
    assert columns > 1 or ends.converged.all()


@pytest.mark.parametrize("y", [1e-30, 0.4])
@pytest.mark.parametrize("equal", [True, False])
def test_coordinates_that_no_row_sees_stay_and_hide_nothing(equal, y):
    """They are of size 1; beside them y may be tiny."""
    weights = jnp.array([0.5, 3.0, -2.0]), jnp.array([0.5, 3.0, -2.0] if equal else [0.4, 2.0, 1.0])
    end = limit_of_two_layers(weights, jnp.array([[1.0, 0.0, 0.0]]), jnp.array([y]))
    assert bool(end.converged)
    assert float(end.error) < 1e-13
    assert float(end.coefficients[0]) == pytest.approx(y, rel=1e-13)
    np.testing.assert_array_equal(end.coefficients[1:], (weights[0] * weights[1])[1:])


def test_a_flow_whose_data_are_zero_ends_where_it_starts():
    weights = jnp.array([0.5, 3.0, -2.0]), jnp.array([0.5, 2.0, -2.0])
    end = limit_of_two_layers(weights, jnp.zeros((1, 3)), jnp.zeros(1))
    assert bool(end.converged)
    np.testing.assert_array_equal(end.coefficients, weights[0] * weights[1])


@jax.jit
def limit_of_two_layers(weights, X, y):
    return gflow.limit(gflow.Diagonal(weights), gflow.Regression(X, y))


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 8])
def test_weights_that_flow_to_zero_outputs_end_there_relative_to_their_start(d):
    """More points than coordinates leave nothing of the start, fewer what they do not see. Squares leave their start
    like a power of time, and of them no correction ever is the whole way."""
    X, *weights = normals(11, (6, d), (d,), (d,))
    squares = gflow.DifferenceOfPowers((jnp.ones(d), jnp.zeros(d)), 2)
    for start, inputs in ((gflow.Diagonal(tuple(weights)), X), (squares, jnp.eye(6, d))):
        problem = gflow.Regression(inputs, jnp.zeros(6))
        end, exact = gflow.limit(start, problem, method=WEIGHTS), gflow.limit(start, problem)
        size = np.linalg.norm(start.coefficients())
        assert end.converged
        assert np.linalg.norm(end.coefficients - exact.coefficients) <= float(end.error) * size <= 1e-9 * size


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1.0, 1e-30])
def test_an_end_that_weights_cannot_hold_beside_their_start_is_not_claimed(unit):
    """Of weights of size 1e-3 a product of 1e-30 is round-off: fitted beside the start, and still wrong."""
    X, y, W, w = normals(12, (6, 4), (4,), (4, 4), (4,))
    network = gflow.FullyConnected((1e-3 * W, 1e-3 * w))
    end = gflow.limit(network, gflow.Regression(X, unit * X @ y), method=WEIGHTS)
    assert bool(end.converged) == (unit == 1)
    assert not end.converged or distance(end.coefficients, y) <= end.error


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6])
def test_columns_of_many_sizes_end_at_their_solution(n):
    """Six rows of four columns: what does not move and what moves a million times as slowly as the rest both look like
    round-off in JJᵀ."""
    X, W, w, v_1, v_2, beta = normals(13, (n, 4), (4, 4), (4,), (4,), (4,), (4,))
    X = X * jnp.array([1e-3, 1e3, 1.0, 10.0])
    problem = gflow.Regression(X, X @ beta)
    end = gflow.limit(gflow.Diagonal((v_1, v_2)), problem, method=WEIGHTS)
    assert end.converged
    assert distance(end.coefficients, gflow.limit(gflow.Diagonal((v_1, v_2)), problem).coefficients) <= end.error
    end = gflow.limit(gflow.FullyConnected((W, w)), problem, method=WEIGHTS)
    assert end.converged
    assert n < 4 or distance(end.coefficients, beta) <= end.error


@pytest.mark.parametrize("n", [MOST_OUTPUTS, MOST_OUTPUTS + 1])
def test_the_correction_finds_the_solution_on_either_side_of_where_its_jacobian_is_in_memory(n):
    X, beta, v = normals(15, (n, 3), (3,), (2, 3))
    network, problem = gflow.Diagonal(tuple(v)), gflow.Regression(X, X @ (v[0] * v[1] + 1e-6 * beta))
    end = minimum_norm_correction(network, problem)
    np.testing.assert_allclose(end.coefficients(), v[0] * v[1] + 1e-6 * beta, rtol=0, atol=1e-14)
    assert float(way_left(end, problem)) <= 1e-13 < 1e-7 <= float(way_left(network, problem))
