"""Claims about limit directions: the dual engine for every real decomposition, `limit`, and figures of curves."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from truth import even, maximum_l1_margin

import gflow
import gflow.plot
from gflow import measures
from gflow.dual.decoupled import decoupled

RNG = np.random.default_rng(5)
DECADES = jnp.array([1.0, 2.0, 10.0, 100.0])


def labels(n):
    return RNG.choice([-1.0, 1.0], n)


def even_convolution():
    problem = gflow.Classification(even(RNG.standard_normal((3, 7))), labels(3))
    return gflow.Convolutional(tuple(0.3 * even(RNG.standard_normal(7)) for _ in range(2))), problem


def commuting_product():
    Q, _ = np.linalg.qr(RNG.standard_normal((4, 4)))
    W_1, W_2, W_3, *sensors = [(Q * RNG.standard_normal(4)) @ Q.T for _ in range(5)]
    problem = gflow.Classification(np.stack(sensors).reshape(2, -1), labels(2))
    return gflow.scale(gflow.MatrixProduct((W_1, W_2, W_3)), 0.5), problem


def sparsifying():
    problem = gflow.Classification(RNG.standard_normal((7, 4)), np.ones(7))  # more points than coordinates
    X = problem.X * jnp.sign(problem.X @ jnp.array([1.0, -2.0, 0.5, 1.0]))[:, None]
    network = gflow.sparsifying(RNG.standard_normal((4, 4)), tuple(RNG.standard_normal((2, 4))))
    return gflow.scale(network, 0.3), gflow.Classification(X, problem.y)


CASES = {make.__name__: make() for make in (even_convolution, commuting_product, sparsifying)}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    network, problem = CASES[request.param]
    explicit = diffrax.Tsit5()  # not stiff yet, and quick to compile
    path = gflow.flow(
        network, problem, until=gflow.LogLoss(-110.0), method=gflow.Weights(solver=explicit, max_steps=4000)
    )
    decades, directions = path.decades, path.directions
    rows = jnp.array([jnp.argmax(decades >= decade) for decade in (1.0, 2.0)])
    # The dual flow is read at the losses at which the weights have been saved.
    at = jnp.concatenate([decades[rows], DECADES[2:]])
    form = gflow.orthogonal_form(network, problem)
    curve = gflow.flow(form, problem, save=gflow.Decades(at))
    return form, problem, directions[rows], curve


@pytest.mark.slow
def test_dual_coordinates_follow_the_weights_of_every_real_decomposition(case):
    _, _, directions, curve = case
    assert curve.status == gflow.Status.converged
    assert jnp.max(gflow.angle(curve.directions[:2], directions)) < 1e-5
    assert jnp.all(curve.errors[:2] < 1e-15)  # below the cap the flow is exact


@pytest.mark.slow
def test_the_kkt_residual_falls_to_the_error_of_the_cap(case):
    network, problem, _, curve = case
    A = problem.y[:, None] * decoupled(network, problem).Z
    rho = jax.vmap(lambda n: n.modes().rho())(curve.networks)
    residuals = jax.vmap(lambda r, q: measures.kkt_residual(r, q, A, network.depth))(rho, curve.multipliers)
    assert residuals[-1] < 1e-2 * residuals[0]
    assert residuals[-1] < 1e-5 + curve.errors[-1]


def test_more_data_points_than_coordinates_are_followed():
    network, problem = CASES["sparsifying"]
    assert problem.X.shape[0] > network.weights[0].size
    assert decoupled(network, problem) is not None


def test_what_has_no_real_decomposition_is_refused():
    problem = gflow.Classification(RNG.standard_normal((3, 7)), labels(3))
    network, _ = CASES["even_convolution"]
    with pytest.raises(ValueError, match=r"every input is even.*off by"):
        gflow.orthogonal_form(network, problem)
    with pytest.raises(ValueError, match="needs dual coordinates"):
        gflow.flow(network, problem, save=gflow.Decades(DECADES))
    network, problem = CASES["commuting_product"]
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda n: gflow.orthogonal_form(n, problem).coefficients())(network)


@pytest.fixture(scope="module")
def solve():
    """The limit of a two-layer diagonal network on four points in six dimensions, with the logistic loss."""

    def one(X, eta, log_alpha):
        problem = gflow.Classification(X, jnp.ones(4), gflow.logistic)
        return gflow.limit(gflow.Diagonal(tuple(eta)), problem, log_alpha=log_alpha)

    return lambda X, eta, alpha=1.0: one(jnp.asarray(X), eta, jnp.log(jnp.asarray(alpha)))


ETA = jnp.array([[1.0, 0.6, -0.8, 1.2, 0.9, -1.1], [0.2, -0.3, 0.1, 0.0, -0.5, 0.4]])


@pytest.mark.parametrize("data", ["random", "duplicated", "tied"])
def test_a_limit_says_how_far_it_is(solve, data):
    X = np.random.default_rng(1).standard_normal((4, 6))
    if data == "duplicated":
        X[1] = X[0]
    if data == "tied":
        X = np.abs(np.eye(4, 6) - 0.25)  # by symmetry all margins are equal at the maximum
    for alpha in (1e-8, 1e-3, 1.0, 10.0):
        end = solve(X, ETA, alpha)
        assert end.route == gflow.Route.dual
        assert jnp.isclose(end.log_loss, -1e100, rtol=1e-3)
        distance = gflow.angle(end.network.coefficients(), maximum_l1_margin(X))
        assert distance <= end.error
        assert end.converged == (end.error <= 1e-3)
        if end.converged:
            assert end.certificate.kkt_residual < 1e-3
            assert end.certificate.singular_vector_residual < 1e-3
    assert end.converged


@pytest.mark.slow
@pytest.mark.parametrize("winners", [1, 2])
def test_a_plateau_is_passed_or_not_certified(solve, winners):
    """The second coordinate wins by a factor 1 + 1e-2 in margin, from a start that is e^-9 of the first's. Where it is
    the only one the linear program says so. Where two are as good it depends on the start, and only the flow knows."""
    X = jnp.zeros((4, 6)).at[:, 0].set(1.0).at[:, 1 : 1 + winners].set(1.01)
    eta = jnp.zeros((2, 6)).at[0].set(1e-4).at[0, 0].set(1.0)
    end = solve(X, eta)
    if winners == 1:
        assert end.converged
        assert gflow.angle(end.coefficients, jnp.eye(6)[1]) <= 1e-15
    else:
        assert end.status == gflow.Status.not_certified
        assert end.error >= 5e-3


@pytest.mark.slow
def test_data_without_a_positive_margin_end_without_descent(solve):
    X = np.random.default_rng(2).standard_normal((4, 6))
    X[1] = -X[0]  # the best margin is zero
    conflict = X.copy()
    conflict[3] = -X[2] - X[0]  # no weights classify all
    for data in (X, conflict):
        end = solve(data, ETA)
        assert end.status == gflow.Status.no_descent
        assert not end.converged
        assert jnp.isinf(end.error)


def test_a_coordinate_whose_layers_are_all_zero_stays_zero(solve):
    X = np.random.default_rng(1).standard_normal((4, 6))
    dead = ETA.at[:, 2].set(0.0)
    end = solve(X, dead)
    assert end.network.coefficients()[2] <= 1e-100 * jnp.max(end.network.coefficients())
    X[:, 2] = 0.0
    assert gflow.angle(end.network.coefficients(), maximum_l1_margin(X)) <= end.error


@pytest.mark.parametrize("power", [0.02, 0.3, 1.0])
def test_the_remaining_angle_of_a_power_law_is_not_underestimated(power):
    s = 1e60 ** jnp.array([0.5, 0.75, 1.0])
    angles = 0.1 * s**-power
    assert measures.remaining_angle(jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)) >= 0.999 * angles[-1]
    angles += 1e-3 * s ** (-power / 4)  # beside a slower power it is an estimate
    assert measures.remaining_angle(jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)) >= 0.9 * angles[-1]


def test_the_remaining_angle_of_a_turn_that_grows_is_infinite():
    angles = jnp.array([0.0, 0.1, 0.3])
    assert measures.remaining_angle(jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)) == jnp.inf


def test_the_kkt_residual_of_one_layer_is_that_of_the_l2_margin():
    A, shares = jnp.eye(2), jnp.array([0.5, 0.5])
    assert measures.kkt_residual(jnp.ones(2), shares, A, 1) < 1e-15
    assert measures.kkt_residual(jnp.array([1.0, 1.1]), shares, A, 1) > 1e-2


@pytest.mark.slow
def test_curves_are_drawn_with_what_is_needed_to_read_them():
    scales, decades = np.array([1e-3, 1.0, 10.0]), jnp.tile(jnp.linspace(1.0, 100.0, 50), (3, 1))
    angles = decades**-2.0
    directions = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    nothing = jnp.zeros_like(decades)
    networks = jax.vmap(jax.vmap(lambda v: gflow.Diagonal((v,))))(directions)
    end = gflow.limit(gflow.Diagonal(([1.0, 0.0],)), gflow.Regression([[1.0, 0.0]], [1.0]))
    ends = jax.tree.map(lambda v: jnp.broadcast_to(v, (3, *v.shape)), end)
    paths = gflow.Path(networks, nothing, nothing, nothing, decades, nothing[..., None], nothing, ends)
    left, right = Figure().subplots(1, 2)
    gflow.plot.angle_against_loss(left, paths, jnp.array([1.0, 0.0]), scales, angle=0.01)
    gflow.plot.loss_for_angle(right, paths, jnp.array([1.0, 0.0]), scales, angles=(0.01, 1e-3))
    assert len(left.lines) == 3 + 1
    np.testing.assert_allclose(left.lines[0].get_ydata(), angles[0], rtol=1e-9)
    assert left.get_xlabel() == "log₁₀(−log L)"
    assert "rad" in left.get_ylabel()
    np.testing.assert_allclose(right.lines[0].get_ydata(), 10.0, rtol=1e-2)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["0.01 rad", "0.001 rad"]


def test_a_path_of_weights_is_read_against_log_time():
    path = gflow.flow(START, PAPER, until=gflow.LogLoss(-30.0), method=gflow.Weights(solver=diffrax.Tsit5()))
    angles = gflow.angle(path.directions, jnp.array([0.0, 1.0]))
    needed = measures.decades_for_angle(path.log_times, angles, 0.1)
    row = jnp.argmax(path.log_times >= needed)
    assert angles[row] <= 0.1 < angles[row - 1]
    batch = jax.tree.map(lambda v: v[None], path)
    ax = gflow.plot.angle_against_time(Figure().subplots(), batch, jnp.array([0.0, 1.0]), np.array([0.5]))
    assert ax.get_xlabel() == "log₁₀ log t"


PAPER = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
START = gflow.scale(gflow.initial.diagonal(jnp.array([0.6, -0.4])), 0.5)
