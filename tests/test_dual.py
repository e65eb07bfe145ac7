"""Limits and paths in dual coordinates against 60-digit Newton, integrated weights, and linear programs."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import linprog, nnls
from truth import distance, even, exact_theorem_5, normals

import gflow
from gflow.dual import coordinates
from gflow.dual.coordinates import Coordinates
from gflow.dual.decoupled import decoupled
from gflow.dual.newton import newton

LOG10 = np.log(10.0)
DUAL, WEIGHTS = gflow.Dual(), gflow.Weights()


@jax.jit
def certify(network, problem, log_alpha):
    """ρ, and Newton's own record, with angles and ν."""
    found = decoupled(network, problem)
    systems, end, log_unit = newton(Coordinates.of(found.eta, log_alpha), found.Z, problem.y)
    return systems.rho(end.angles) * jnp.exp(log_unit), end


def regression(n=4, d=9, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) / np.sqrt(n)
    return gflow.Regression(jnp.asarray(X), jnp.asarray(X[:, :2] @ [1.0, -0.6] + 0.1 * rng.normal(size=n)))


def last_layer_zero(d, L, eta=1.0):
    return gflow.Diagonal((*[eta * jnp.ones(d)] * (L - 1), jnp.zeros(d)))


@pytest.mark.parametrize("L", [2, 3, 4, 5])
@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 10.0])
def test_theorem_5_limits_agree_with_many_digits(L, alpha):
    problem = regression()
    network = last_layer_zero(9, L)
    rho, end = certify(network, problem, np.log(alpha))
    bound = float(jnp.linalg.norm(end.errors) / jnp.linalg.norm(rho))
    assert bound <= 1e-9
    assert distance(rho, exact_theorem_5(problem, L, alpha, end.angles, end.nu)) <= bound


@pytest.mark.parametrize("L", [2, 3, 4, 5])
def test_any_initialisation_ends_where_the_weights_end(L):
    rng = np.random.default_rng(L)
    network = gflow.Diagonal(tuple(jnp.asarray(rng.normal(size=6)) for _ in range(L)))
    problem = regression(3, 6)
    end = gflow.limit(network, problem)
    integrated = gflow.limit(network, problem, method=WEIGHTS)
    assert end.route == gflow.Route.dual
    assert end.converged
    assert integrated.converged
    assert distance(end.coefficients, integrated.coefficients) <= 1e-9
    for v, w in zip(end.network.weights, integrated.network.weights, strict=True):
        np.testing.assert_allclose(v, w, atol=1e-8)


def commuting_sensors():
    rng = np.random.default_rng(5)
    Q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    sensors = np.einsum("ab,ib,cb->iac", Q, rng.normal(size=(2, 3)), Q)
    weights = (jnp.asarray(Q @ np.diag([1.0, 0.7, 1.2]) @ Q.T), jnp.asarray(Q @ np.diag([0.1, 0.0, -0.2]) @ Q.T))
    return gflow.MatrixProduct(weights), gflow.Regression(jnp.asarray(sensors.reshape(2, -1)), jnp.array([1.0, -0.5]))


def even_convolution():
    rng = np.random.default_rng(6)
    weights = tuple(2 * even(jnp.asarray(rng.normal(size=6))) for _ in range(3))
    return gflow.Convolutional(weights), gflow.Regression(
        2 * even(jnp.asarray(rng.normal(size=(2, 6)))), jnp.array([1.0, -0.5])
    )


def orthogonal():
    rng = np.random.default_rng(7)
    U = tuple(jnp.asarray(np.linalg.qr(rng.normal(size=(7, 5)))[0]) for _ in range(2))  # v_l sticks out of U_l
    weights = tuple(jnp.asarray(rng.normal(size=7)) for _ in range(2))
    return gflow.Orthogonal(weights, S=jnp.asarray(rng.normal(size=(5, 4))), U=U), regression(2, 4)


@pytest.mark.parametrize("make", [even_convolution, commuting_sensors, orthogonal])
def test_every_real_decomposable_network_goes_through_the_same_engine(make):
    network, problem = make()
    end = gflow.limit(gflow.orthogonal_form(network, problem), problem)
    integrated = gflow.limit(network, problem, method=WEIGHTS)
    assert end.route == gflow.Route.dual
    assert end.converged
    assert integrated.converged
    for v, w in zip(end.network.weights, integrated.network.weights, strict=True):
        np.testing.assert_allclose(v, w.ravel(), atol=1e-8)


def test_the_dual_route_is_refused_where_it_is_not_exact():
    network, problem = even_convolution()
    uneven = gflow.Regression(problem.X.at[0, 1].add(0.1), problem.y)
    assert gflow.orthogonal_form(network, problem).weights is not None
    with pytest.raises(ValueError, match="every input is even"):
        gflow.orthogonal_form(network, uneven)
    assert decoupled(gflow.FullyConnected((jnp.ones((6, 2)), jnp.ones(2))), uneven) is None
    with pytest.raises(ValueError, match="Convolutional with 3 layers on this Regression has no exact dual flow"):
        gflow.limit(network, uneven, method=DUAL)


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


def test_signs_of_ties_are_kept_and_what_two_zero_layers_hold_stays():
    # Column by column: a tie of product −1, two zeros, a tie of product +1, no tie.
    network = gflow.Diagonal(([1.0, 0.0, -0.5, 0.3], [-1.0, 0.0, -0.5, 1.0], [1.0, 2.0, 2.0, 0.2]))
    problem = gflow.Regression(jnp.asarray([[1.0, 1.0, 1.0, 0.5], [1.0, 1.0, -1.0, 0.2]]), jnp.asarray([1.0, -2.0]))
    end, integrated = gflow.limit(network, problem), gflow.limit(network, problem, method=WEIGHTS)
    assert end.converged
    assert end.coefficients[1] == 0
    assert end.coefficients[0] < 0 < end.coefficients[2]
    for v, w in zip(end.network.weights, integrated.network.weights, strict=True):
        np.testing.assert_allclose(v, w, atol=1e-8)


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


@pytest.mark.parametrize(("second", "target"), [([1.0, 2, 3], 1.0), ([0.0, 0, 0], 0.0)])
def test_dependent_rows_are_solved_like_others(second, target):
    rows, y = [[1.0, 2, 3], second], [1.0, target]
    network = last_layer_zero(3, 2)
    end = gflow.limit(network, gflow.Regression(jnp.asarray(rows), jnp.asarray(y)))
    alone = gflow.limit(network, gflow.Regression(jnp.asarray(rows[:1]), jnp.asarray(y[:1])))
    assert end.converged
    assert distance(end.coefficients, alone.coefficients) <= 1e-14


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


@pytest.mark.parametrize(("n", "d"), [(3, 5), (6, 4), (8, 12)])
def test_equal_layers_that_cannot_fit_end_at_nonnegative_least_squares(n, d):
    X, y = normals(10 * n, (20, n, d), (20, n))
    ends = jax.vmap(lambda X, y: gflow.limit(gflow.Diagonal((jnp.ones(d),) * 3), gflow.Regression(X, y)))(X, y)
    for i in range(20):
        beta, misfit = nnls(np.asarray(X[i]), np.asarray(y[i]))
        assert ends[i].status == (gflow.Status.least_squares if misfit > 1e-9 else gflow.Status.converged)
        np.testing.assert_allclose(X[i] @ ends[i].coefficients, X[i] @ beta, atol=1e-9)
    assert (ends.error <= 1e-9).all()


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


@pytest.mark.parametrize("L", [3, 4, 5, 6])
def test_targets_of_few_columns(L):
    # So few that most basics are there for round-off only, at α where they are smaller than that, and larger.
    rng = np.random.default_rng(L)
    X = jnp.asarray(rng.normal(size=(8, 20, 60)))
    beta = np.zeros((8, 60))
    beta[:, :2] = rng.normal(size=(8, 2))
    log_alphas = jnp.linspace(-8, 0, 8) * LOG10
    network = gflow.Diagonal(tuple(rng.normal(size=(L, 60))))

    def limit(lane):
        X, y, log_alpha = lane
        return gflow.limit(network, gflow.Regression(X, y), log_alpha=log_alpha)

    ends = jax.lax.map(limit, (X, jnp.einsum("bnd,bd->bn", X, beta), log_alphas))
    assert ends.converged.all(), ends.counts()
    assert (ends.error <= 1e-9).all()
    sparse = gflow.limit(last_layer_zero(60, L), gflow.Regression(X[0], X[0] @ beta[0]), log_alpha=log_alphas[0])
    assert sparse.converged
    np.testing.assert_allclose(sparse.coefficients, beta[0], atol=1e-6)


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
def test_at_alpha_ten_to_minus_1000_the_limit_is_the_weighted_l1_solution(L):
    problem = regression()
    eta = np.random.default_rng(1).uniform(0.5, 2.0, size=9)
    end = gflow.limit(last_layer_zero(9, L, jnp.asarray(eta)), problem, log_alpha=-1000 * LOG10)
    assert end.converged
    weight = np.tile(eta ** (2.0 - L), 2)
    X = np.asarray(problem.X)
    program = linprog(weight, A_eq=np.hstack([X, -X]), b_eq=np.asarray(problem.y), method="highs")
    assert distance(end.coefficients, program.x[:9] - program.x[9:]) <= 1e-9


def test_certificate_and_batches():
    problem, network = regression(), last_layer_zero(9, 3)
    scales = jnp.log(jnp.logspace(-4, 1, 6)).at[2].set(jnp.nan)
    rhos, batch = jax.vmap(lambda a: certify(network, problem, a))(scales)
    assert not (jnp.linalg.norm(batch.errors[2]) <= 1.0)
    for i in (0, 1, 3, 4, 5):
        rho, _ = certify(network, problem, scales[i])
        assert jnp.linalg.norm(batch.errors[i]) <= 1e-9 * jnp.linalg.norm(rho)
        assert distance(rhos[i], rho) <= 1e-9
        assert batch.residual[i] <= 1e-9
        assert batch.gap[i] <= 1e-8


@pytest.mark.parametrize("log_b", [[[0.0], [0.0]], [[0.0], [7.0]], [[0.0], [1.0], [9.0]]])
def test_the_clock_of_a_coordinate_is_its_integral(log_b):
    for x in (1e-6, 0.7, 4.0, 9.5, 300.0):
        Z = coordinates._Z(jnp.zeros(1), jnp.array([x]), jnp.array(log_b), jnp.zeros(1))
        stops = [0, *np.arange(0.5, min(x, 60), 0.5), min(x, 60)]
        with mp.workdps(30):
            exact = mp.quad(lambda z: mp.fprod((mp.sinh(z) ** 2 + mp.exp(2 * v[0])) ** -0.5 for v in log_b[1:]), stops)
        assert float(Z[0]) == pytest.approx(float(exact), rel=2e-14)


def test_coordinates_start_at_the_weights():
    eta = jnp.asarray(np.random.default_rng(2).normal(size=(4, 6)))
    start = Coordinates.of(eta, -0.3)
    np.testing.assert_allclose(start.eta(start.start), np.exp(-0.3) * eta, rtol=1e-13)
    np.testing.assert_allclose(start.rho(start.start), np.exp(-1.2) * jnp.prod(eta, axis=0), rtol=1e-13)


@pytest.mark.parametrize("L", [2, 3])
def test_the_dual_path_is_the_path_of_the_weights(L):
    rng = np.random.default_rng(L)
    network = gflow.Diagonal(tuple(jnp.asarray(rng.normal(size=6)) for _ in range(L)))
    problem, times = regression(3, 6), jnp.array([0.3, 1.0, 4.0, 20.0])
    path = gflow.flow(network, problem, save=gflow.Times(times))
    weights = gflow.flow(network, problem, save=gflow.Times(times), method=gflow.Weights(rtol=1e-10))
    assert path.status == gflow.Status.finished
    for v, w in zip(path.networks.weights, weights.networks.weights, strict=True):
        np.testing.assert_allclose(v, w, atol=1e-6)
    np.testing.assert_allclose(path.log_losses, weights.log_losses, atol=1e-4)


@pytest.mark.parametrize(("L", "log10_alpha"), [(2, -1000), (3, -1000), (3, -6)])
def test_jumps_from_saddle_to_saddle_come_at_the_predicted_log_times(L, log10_alpha):
    # Orthogonal inputs: coordinate j moves by itself, ζ_j = y_j t, and has jumped when ζ_j is at its bound:
    # log(2√ρ_j / α) for L = 2 (within O(1)), c_L α^{2−L} for L ≥ 3.
    y, log_alpha = jnp.array([2.0, 1.0, 0.5]), log10_alpha * LOG10
    problem, network = gflow.Regression(jnp.eye(3), y), last_layer_zero(3, L)
    bound = np.log(-log_alpha) if L == 2 else np.log(gflow.potential.blow_up(L)) + (2 - L) * log_alpha
    predicted = bound - np.log(y)
    width = 0.02 if L == 2 else 5e-3  # the dual flow loses 1e-6 log(1/α) of the time at a jump if L ≥ 3
    save = gflow.LogTimes(jnp.sort(jnp.concatenate([predicted - width, predicted + width])))
    path = gflow.flow(network, problem, log_alpha=log_alpha, save=save, method=gflow.Dual(rtol=1e-4))
    rho = np.asarray(path.coefficients)
    assert path.status == gflow.Status.finished
    for jump in range(3):
        np.testing.assert_allclose(rho[2 * jump], np.where(np.arange(3) < jump, y, 0), atol=1e-2)
        np.testing.assert_allclose(rho[2 * jump + 1], np.where(np.arange(3) <= jump, y, 0), atol=1e-2)


@pytest.mark.parametrize("L", [2, 3])
def test_a_path_arrives_at_the_limit_and_stays(L):
    problem, network = regression(), last_layer_zero(9, L)
    log_alpha = np.log(1e-5)
    log_times = jnp.linspace(0.0, 25.0, 6) + (2 - L) * log_alpha
    path = gflow.flow(network, problem, log_alpha=log_alpha, save=gflow.LogTimes(log_times))
    end = gflow.limit(network, problem, log_alpha=log_alpha)
    assert path.status == gflow.Status.finished
    betas = path.coefficients
    assert jnp.array_equal(betas[-1], betas[-2])
    assert distance(betas[-1], end.coefficients) < 1e-8
    assert jnp.all(jnp.diff(path.log_losses) <= 0)
