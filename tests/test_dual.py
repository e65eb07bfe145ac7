"""Limits and paths in dual coordinates against 60-digit Newton, integrated weights, and linear programs."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import linprog
from truth import distance, even, exact_theorem_5, normals

import gflow
from gflow import _flow
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


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3, 4, 5])
@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 10.0])
def test_theorem_5_limits_agree_with_many_digits(L, alpha):
    problem = regression()
    network = last_layer_zero(9, L)
    rho, end = certify(network, problem, np.log(alpha))
    bound = float(jnp.linalg.norm(end.errors) / jnp.linalg.norm(rho))
    assert bound <= 1e-9
    assert distance(rho, exact_theorem_5(problem, L, alpha, end.angles, end.nu)) <= bound


@pytest.mark.slow
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
        np.testing.assert_allclose(v, w, rtol=0, atol=1e-8)


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


@pytest.mark.slow
@pytest.mark.parametrize("make", [even_convolution, commuting_sensors, orthogonal])
def test_every_real_decomposable_network_goes_through_the_same_engine(make):
    network, problem = make()
    end = gflow.limit(gflow.orthogonal_form(network, problem), problem)
    integrated = gflow.limit(network, problem, method=WEIGHTS)
    assert end.route == gflow.Route.dual
    assert end.converged
    assert integrated.converged
    for v, w in zip(end.network.weights, integrated.network.weights, strict=True):
        np.testing.assert_allclose(v, w.ravel(), rtol=0, atol=1e-8)


def test_the_dual_route_is_refused_where_it_is_not_exact():
    network, problem = even_convolution()
    uneven = gflow.Regression(problem.X.at[0, 1].add(0.1), problem.y)
    assert gflow.orthogonal_form(network, problem).weights is not None
    with pytest.raises(ValueError, match="every input is even"):
        gflow.orthogonal_form(network, uneven)
    assert decoupled(gflow.FullyConnected((jnp.ones((6, 2)), jnp.ones(2))), uneven) is None
    with pytest.raises(ValueError, match="Convolutional with 3 layers on this Regression has no exact dual flow"):
        gflow.limit(network, uneven, method=DUAL)


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


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3, 4])
@pytest.mark.parametrize("log10_alpha", [-60, -200, -1000])
def test_basics_that_the_targets_ask_nothing_of_wait_at_any_scale(L, log10_alpha):
    # Five coordinates fit forty targets: the other basics are of size α^L, which may be no float64.
    rng = np.random.default_rng(0)
    X, beta = rng.normal(size=(40, 100)) / np.sqrt(40), np.zeros(100)
    beta[rng.choice(100, 5, replace=False)] = rng.normal(size=5)
    end = gflow.limit(last_layer_zero(100, L), gflow.Regression(X, X @ beta), log_alpha=log10_alpha * LOG10)
    assert end.converged
    program = linprog(np.ones(200), A_eq=np.hstack([X, -X]), b_eq=X @ beta, method="highs").x
    assert distance(program[:100] - program[100:], beta) < 1e-9
    assert distance(end.coefficients, beta) <= 1e-9


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3])
def test_the_dual_path_is_the_path_of_the_weights(L):
    rng = np.random.default_rng(L)
    network = gflow.Diagonal(tuple(jnp.asarray(rng.normal(size=6)) for _ in range(L)))
    problem, times = regression(3, 6), jnp.array([0.3, 1.0, 4.0, 20.0])
    path = gflow.flow(network, problem, save=gflow.Times(times))
    weights = gflow.flow(network, problem, save=gflow.Times(times), method=gflow.Weights(rtol=1e-10))
    assert path.status == gflow.Status.finished
    for v, w in zip(path.networks.weights, weights.networks.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=0, atol=1e-6)
    np.testing.assert_allclose(path.log_losses, weights.log_losses, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e-4, 0.1, 100.0])
def test_rows_of_a_dual_path_keep_the_tolerance_between_steps_and_at_large_scales(alpha):
    # Small weights grow like e^ν; large ones hardly move, and an error of ν is then felt α² times.
    x, y = np.array([1.0, 2.0]), 1.0
    log_times = np.linspace(np.log(1e-3), np.log(30.0), 12)

    def field(tau, nu):
        return [np.exp(tau) * (y - x @ (alpha**2 / 2 * np.sinh(2 * x * nu)))]

    run = solve_ivp(field, (-40.0, log_times[-1]), [np.exp(-40.0)], "Radau", log_times, rtol=1e-11, atol=1e-16)
    expected = alpha**2 / 2 * np.sinh(2 * np.outer(run.y[0], x))
    for rtol in (1e-5, 1e-7):
        save, method = gflow.LogTimes(log_times), gflow.Dual(rtol=rtol)
        network = gflow.scale(last_layer_zero(2, 2), alpha)
        path = gflow.flow(network, gflow.Regression([x], [y]), save=save, method=method)
        errors = np.linalg.norm(path.coefficients - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert errors.max() < 100 * rtol  # steps' errors add up, and grow in the jump


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
        np.testing.assert_allclose(rho[2 * jump], np.where(np.arange(3) < jump, y, 0), rtol=0, atol=1e-2)
        np.testing.assert_allclose(rho[2 * jump + 1], np.where(np.arange(3) <= jump, y, 0), rtol=0, atol=1e-2)


@pytest.mark.slow
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


@pytest.mark.parametrize("L", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.3, 0.0], ids=["free", "tied"])
def test_angles_and_products_are_inverse_from_tiny_to_huge(L, spread):
    """Two layers have a closed form, whose arcsinh has a branch at e^20."""
    start = (1 + spread * jnp.arange(L))[:, None] * jnp.array([0.7, 1.0, 1.4])
    systems = Coordinates.of(start, jnp.asarray(0.0))
    for size in (1e-12, 1e-3, 1.0, 2e8, 3e8, 1e60):
        rho = size * jnp.array([1.0, 2.0, 3.0])
        np.testing.assert_allclose(systems.rho(systems.angle_of(rho)), rho, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3])
@pytest.mark.parametrize("rows", [2, 4], ids=["fewer rows than columns", "as many"])
def test_targets_of_zero_are_reached_in_a_few_steps_and_answered(L, rows):
    """Where X is square the end is 0 itself, of which no step is a small part."""
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(rows, 4)), tuple(rng.normal(size=(L, 4)))
    for seen, log_alpha in ((X, -30.0), (X, 0.0), (0 * X, 0.0)):
        end = gflow.limit(gflow.Diagonal(weights), gflow.Regression(seen, np.zeros(rows)), log_alpha=log_alpha)
        assert end.converged
        assert end.steps < 40
        start = np.exp(L * log_alpha) * np.prod(weights, axis=0)
        assert np.abs(seen @ end.coefficients).max() <= 1e-12 * np.abs(start).max()


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3])
def test_what_collinear_rows_ask_of_small_coordinates_is_answered_to_the_data_s_own_digits(L):
    """Round-off of y, of which little is left along the columns of a basis, asks 1e8 times as much of its ρ."""
    rng, network = np.random.default_rng(0), last_layer_zero(9, L)
    for _ in range(3):
        X, beta = rng.normal(size=(6, 9)), rng.normal(size=9) * (rng.random(9) < 0.3)
        X[-1] = X[0] + 1e-8 * X[-1]
        problem = gflow.Regression(X, X @ beta)
        rho, end = certify(network, problem, np.log(1e-6))
        bound = float(jnp.linalg.norm(end.errors) / jnp.linalg.norm(rho))
        assert bound <= 1e-9
        assert distance(rho, exact_theorem_5(problem, L, 1e-6, end.angles, end.nu)) <= bound


def more_points_than_coordinates(seed):
    """Six points in four coordinates whose columns differ by 1e8 in size, and what their least squares are."""
    X, y = normals(seed, (6, 4), (6,))
    X = X * jnp.array([1e4, 1e-4, 1.0, 1.0])
    with mp.workdps(60):
        A = mp.matrix(X.tolist())
        return gflow.Regression(X, y), np.array(mp.lu_solve(A.T * A, A.T * mp.matrix(y.tolist())), float).ravel()


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3])
def test_least_squares_are_right_coordinate_by_coordinate_whatever_the_columns_sizes(L):
    weights = normals(L, *[(4,)] * L)
    for seed in range(3):
        problem, expected = more_points_than_coordinates(seed)
        end = gflow.limit(gflow.Diagonal(weights), problem, log_alpha=-9.0)
        assert end.status == gflow.Status.least_squares
        np.testing.assert_allclose(end.coefficients, expected, rtol=1e-12)
        fitting = gflow.Regression(problem.X, problem.X @ jnp.array([1e-6, 1.0, 1.0, 1.0]))
        assert gflow.limit(gflow.Diagonal(weights), fitting, log_alpha=-9.0).converged


@pytest.mark.slow
@pytest.mark.parametrize("weight", [-1.0, 0.6], ids=["free", "tied"])
def test_least_squares_have_the_derivatives_of_least_squares(weight):
    """At a positive loss the residual turns with X, and takes the outputs' range with it."""
    X, y, dX, dy = normals(0, (6, 3), (6,), (6, 3), (6,))
    beta = jnp.array([1.0, 2.0, 0.5])
    y = X @ beta + 0.1 * y
    network = gflow.Diagonal((jnp.array([0.6, 0.7, 0.8]), jnp.array([weight, 0.7, 0.8])))

    def least_squares(X, y):
        return jnp.linalg.solve(X.T @ X, X.T @ y)

    def limit(X, y):
        return gflow.limit(network, gflow.Regression(X, y)).coefficients

    ours, exact = (jax.jvp(f, (X, y), (dX, dy)) for f in (limit, least_squares))
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-10)
    np.testing.assert_allclose(ours[1], exact[1], rtol=1e-9)


def test_coordinates_whose_angles_cannot_move_are_not_waited_for():
    """From weights of 1e-4 beside some of 1e4, ζ of four layers turns 1e16 times as far with the same angle."""
    sizes = jnp.array([1e4, 1e-4, 10.0])
    network = gflow.Diagonal((-sizes, -sizes * jnp.array([1.1, 0.9, 0.2]), 0.3 * sizes, -0.8 * sizes))
    end = gflow.limit(network, gflow.Regression([[0.3, 2.0, -0.9]], [-0.1]), log_alpha=-28.0)
    assert end.converged
    np.testing.assert_allclose(end.coefficients, [-1 / 3, 0.0, 0.0], rtol=0, atol=1e-12)


WAITING = {  # to their last digits: round-off decides
    "a row without targets": (
        [[-0.7480758713757458, 1.0301347678561188, -0.66974552407011, -0.12946022980578487,
          0.6042690878836535, 1.055254307801945, -1.3050423418535362, 0.44538660999779967],
         [-0.43338172373745765, 2.001451974119072, 0.8014459167106004, 0.20092086144047755,
          -0.9091830000450527, 0.10533485943107872, 1.1457345471222316, 1.1687614934407071],
         [0.18182664356960282, -0.8598918962517681, 1.8651174683114213, -1.375732474938902,
          0.2735603128583297, -1.5391302776541962, 0.2473880478291314, -0.5510148839327701],
         [-0.5300599702598945, -1.3649065988162319, 2.0712851654597317, -1.2688798841799525,
          0.28479068875806357, -0.7425675592062758, 0.5254633000011004, 1.2383684939389576]],
        [[1.0, 0.7951644885382575, -0.3329589962398278, 0.0, 0.0, 0.0, 0.0, 0.0],
         [0.0, 0.8899883932756435, 0.33727548896764065, 0.0, -0.9748479490454132, 0.0, 0.09834915489119889,
          -1.2202547184501216],
         [0.0, 0.0, 1.0, 1.3948093437105487, -1.37456064510276, 2.121763443310198, -0.943002470231774,
          1.0101540533815985]],
        [0.0, -3.4034329951276154, 2.8174376902287426],
        -50.28285793537748,
    ),
    "a sign that round-off turns": (
        [[1.106334613033189, -1.4710449421233487, -1.4954884455764237, 0.0, 0.0, -0.4355255565682483, 0.0,
          0.3020793297216584],
         [0.1876740521726275, -0.9475856817853602, 0.5261625821924338, 0.0, -0.8801263106407637, 0.0,
          1.1137999887753756, 0.0],
         [0.0, 0.6259774967623013, 0.0, -0.6538122118381112, 0.22090464027019668, -0.9538194170520838,
          0.3258069077164706, -0.23183185430130057],
         [-1.3241673100229518, -1.1260476773641084, 0.5796367309147444, 0.0, 0.6675701504649676, 0.0,
          0.625711007196495, 1.6249289406002232]],
        [[-0.0001486734473830986, 2240.8071427836676, -0.05020098697302435, -0.0010962219326424614,
          554.3848169475353, -1.7497087170395013e-05, 0.37964141069130847, -0.24384121958800686],
         [5.9745173591566094e-05, -3994.4486532125507, -0.004896432014278109, -0.0027882580472372008,
          786.0627851263002, 7.982379061158657e-05, -0.2639142997272135, 0.2427701409990932],
         [-0.0008546496700127018, -1612.3615678388276, 0.01872841271167898, 0.007086950513802833,
          -277.4762015288906, -9.244569870203117e-05, -0.1553290982452767, 0.05760462487772476]],
        [710.2420989322286, 1.2247257422537814, -424.3207578485733],
        -55.316190817312965,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", WAITING)
def test_basics_that_only_round_off_asks_for_hold_nothing_up(case):
    eta, X, y, log_alpha = WAITING[case]
    end = gflow.limit(gflow.Diagonal(tuple(map(jnp.array, eta))), gflow.Regression(X, y), log_alpha=log_alpha)
    assert end.converged
    X, beta = np.array(X), np.asarray(end.coefficients)
    few = np.abs(beta) > 1e-9 * np.abs(beta).max()  # no more than fit y by themselves
    assert distance(beta[few], np.linalg.lstsq(X[:, few], np.array(y))[0]) < 1e-10


@pytest.mark.parametrize(
    ("second_row", "until", "save", "calls"),
    [
        ([0.4, -0.3, 1.0], None, gflow.Steps(64), [True]),
        ([1.0, 0.5, -0.3 + 3e-2], None, gflow.Steps(64), [True, False]),  # rates apart by 10^4: too stiff
        ([0.4, -0.3, 1.0], gflow.LogTime(3.0), gflow.Steps(64), [False]),  # may be at rest long before
        ([0.4, -0.3, 1.0], None, gflow.LogTimes([0.0, 3.0]), [False]),
    ],
    ids=["ordinary", "stiff", "until a time", "at times"],
)
def test_paths_of_two_layers_take_implicit_steps_where_a_few_explicit_ones_do_not_arrive(
    monkeypatch, second_row, until, save, calls
):
    problem = gflow.Regression([[1.0, 0.5, -0.3], second_row], [1.0, 0.9])
    network, made = gflow.Diagonal(([0.6, -0.3, 0.2], [0.1, 0.4, -0.5])), []
    by_dual = _flow._by_dual

    def counted(*what):
        made.append(what[-1])
        return by_dual(*what)

    monkeypatch.setattr(_flow, "_by_dual", counted)
    path = gflow.flow(network, problem, until=until, save=save)
    assert made == calls
    traced = jax.jit(lambda X: gflow.flow(network, gflow.Regression(X, problem.y), until=until, save=save))(problem.X)
    assert path.status == traced.status
    assert path.end.steps == traced.end.steps
    np.testing.assert_allclose(path.coefficients, traced.coefficients, rtol=1e-9, atol=1e-12)
    rows = np.unique(path.log_times, return_index=True)[1]
    rows = rows[np.isfinite(path.log_times[rows])]
    save = gflow.LogTimes(path.log_times[rows])
    exact = gflow.flow(network, problem, save=save, method=gflow.Weights(rtol=1e-12, max_steps=20_000))
    np.testing.assert_allclose(path.coefficients[rows], exact.coefficients, rtol=0, atol=1e-6)
