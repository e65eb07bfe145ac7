"""Claims about limit directions by weights: solved for to round-off, and at minima that the flow itself goes to."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from jax.flatten_util import ravel_pytree
from truth import exact_margin, normals

import gflow
from gflow import _limit_direction, measures
from gflow.flows import beyond, engine, implicit, polish
from gflow.flows.polish import LARGEST, can_polish

polished = jax.jit(polish.polished)
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((4, 6)), np.array([1.0, -1.0, -1.0, 1.0])
PROBLEM = gflow.Classification(X, Y)
TENSOR = RNG.standard_normal((6, 3, 4, 2))
PAIR = np.zeros((2, 2, 2))
PAIR[0, 0, 0] = PAIR[1, 1, 1] = 1.0  # β = v_1 ⊙ v_2, whose author knows of no structure


def limits(shapes, make, problem=PROBLEM, lanes=3):
    """The limits by weights from so many random starts, one by one: a batch takes twice as long to compile."""
    rng = np.random.default_rng(1)
    starts = [make(tuple(jnp.asarray(0.5 * rng.standard_normal(s)) for s in shapes)) for _ in range(lanes)]
    ends = [gflow.limit(start, problem, method=gflow.Weights()) for start in starts]
    return jax.tree.map(lambda *v: jnp.stack(v), *ends)


def angles(ends, prediction):
    return jax.vmap(lambda beta: gflow.angle(beta, prediction.coefficients))(ends.direction)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_fully_connected_directions_are_the_maximum_l2_margin(depth):
    ends = limits([(6, 3), *[(3, 3)] * (depth - 2), (3,)], gflow.FullyConnected)
    assert ends.converged.all()
    assert jnp.all(angles(ends, gflow.predict.maximum_margin(PROBLEM, 2)) <= ends.error)
    assert jnp.all(ends.error <= 1e-13)


@pytest.mark.slow
def test_diagonal_directions_are_the_maximum_l1_margin():
    ends = limits([(6,), (6,)], gflow.Diagonal)
    assert ends.converged.all()
    assert jnp.all(angles(ends, gflow.predict.maximum_margin(PROBLEM, 1)) <= ends.error)
    assert jnp.all(ends.error <= 1e-13)


@pytest.mark.slow
def test_convolutional_directions_are_the_maximum_margin_of_the_spectrum():
    ends = limits([(6,), (6,)], gflow.Convolutional)
    S = 6**0.5 * gflow.predict.dft(6)
    assert ends.converged.all()
    assert jnp.all(angles(ends, gflow.predict.maximum_margin(PROBLEM, 1, np.asarray(S))) <= 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shapes", "make"),
    [
        ([(3,), (3,), (6,)], gflow.Convolutional),
        ([(3,), (4,), (2,)], lambda weights: gflow.Multilinear(weights, jnp.asarray(TENSOR))),
    ],
    ids=["short filters", "multilinear"],
)
def test_what_no_program_predicts_solves_theorem_1_at_a_minimum(shapes, make):
    ends = limits(shapes, make)
    assert ends.converged.all()
    assert jnp.all(ends.certificate.singular_vector_residual <= 1e-10)
    assert jnp.all(ends.certificate.kkt_residual <= 1e-10)
    assert jnp.all(ends.log_loss <= -1e10)


def pair(first, second):
    return gflow.Multilinear((first, second), jnp.asarray(PAIR))


RIVALS = gflow.Classification([[1.0, 1.1], [1.0, 1.1]], [1.0, 1.0])
SHARES = jnp.array([0.5, 0.5])


@pytest.mark.slow
def test_a_plateau_of_many_decades_is_walked_over():
    """The second coordinate overtakes the first at s = 1e80, far beyond what is integrated."""
    end = gflow.limit(pair([1.0, 1e-4], [0.3, 3e-5]), RIVALS)
    assert end.converged
    assert gflow.angle(end.direction, np.array([0.0, 1.0])) <= end.error


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [pair([1.0, 0.0], [0.3, 0.0]), gflow.Multilinear(([1.0, 0.3],) * 2, jnp.asarray(PAIR * [[[1.0]], [[-1.0]]]))],
    ids=["dead coordinate", "equal layers"],
)
def test_a_saddle_that_only_round_off_would_leave_is_not_certified(network):
    end = gflow.limit(network, RIVALS)
    assert end.status == gflow.Status.not_certified
    assert end.error == jnp.inf


def test_first_order_conditions_hold_at_saddles_and_the_second_variation_tells():
    saddle, minimum = pair([1.0, 0.0], [1.0, 0.0]), pair([0.0, 1.0], [0.0, 1.0])
    for network in (saddle, minimum):
        assert measures.homogeneous_kkt_residual(network, RIVALS, SHARES) < 1e-15
    assert not polished(saddle, RIVALS, SHARES).is_minimum
    assert polished(minimum, RIVALS, SHARES).is_minimum


def test_newton_restores_what_is_off_and_its_error_bounds():
    off = pair([0.01, 1.0], [0.005, 1.02])
    assert measures.homogeneous_kkt_residual(off, RIVALS, SHARES) > 1e-3
    found = polished(off, RIVALS, SHARES)
    assert found.is_minimum
    assert gflow.angle(found.network.coefficients(), np.array([0.0, 1.0])) <= found.error < 1e-14


def test_points_with_a_negative_multiplier_or_a_smaller_margin_are_no_minimum():
    problem = gflow.Classification([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0], [0.4, 0.4]], jnp.ones(4))
    linear = gflow.Diagonal(([1.0, 1.0],))
    assert polished(linear, gflow.Classification(problem.X[:3], jnp.ones(3)), jnp.array([0.5, 0.5, 0.0])).is_minimum
    assert not polished(linear, problem, jnp.array([0.5, 0.5, 0.0, 0.0])).is_minimum  # the last margin is smaller
    leaning = gflow.Classification([[1.0, 0.0], [3.0, 1.0]], jnp.ones(2))
    assert not polished(linear, leaning, jnp.array([0.5, 0.5])).is_minimum  # (1, −2) would need μ_2 < 0


def test_a_tie_along_which_coefficients_turn_is_no_certain_limit():
    tied = gflow.Classification([[1.0, 1.0]], [1.0])
    assert not polished(pair([1.0, 0.5], [1.0, 0.5]), tied, jnp.ones(1)).is_minimum


def test_a_path_that_rests_and_moves_on_is_noticed():
    rule = beyond._AtRest()
    still, moving = (beyond._Place(jnp.full(2, speed), jnp.zeros(3)) for speed in (0.0, 1.0))

    def slowly(state, speed):
        return state._replace(theta=state.theta + speed)

    def walk(*states, brief=0):
        """Of which so many steps are brief."""
        memory, last = rule.start(jnp.zeros(()), still), still
        for i, state in enumerate(states):
            length = jnp.asarray(1e-5 if i < brief else 1.0)
            memory = rule.after(memory, jnp.zeros(()), length, state, lambda _, last=last: last)
            last = state
        return bool(memory.stirred)

    assert walk(moving, slowly(moving, 1e-7), still)
    assert not walk(moving, slowly(moving, 1e-5), still)
    assert not walk(moving, still, slowly(still, 1e-7))
    assert walk(still, moving)
    assert not walk(still, moving, brief=1)


def narrow(width, length=1.0):
    """Two pairs of points that contradict each other but for `width`, the first `length` times as long."""
    A = np.array([[1.0, 0.3, -0.2], [-1.0, -0.3, 0.2], [0.4, -1.0, 0.5], [-0.4, 1.0, -0.5]])
    b = np.cross(A[0], A[2])
    A = (A + width * np.array([[1.0], [1.5], [1.2], [1.7]]) * b) * np.array([[length], [1.0], [1.0], [1.0]])
    return A, gflow.Classification(A, jnp.ones(4))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "length"), [(1e-2, 1.0), (1e-3, 1.0), (1e-2, 1e5), (1e-4, 1.0)])
def test_margins_far_smaller_than_their_terms_are_tied_beyond_every_loss(width, length):
    A, problem = narrow(width, length)
    weights = RNG.standard_normal((3, 2)), RNG.standard_normal(2)
    end = gflow.limit(gflow.scale(gflow.FullyConnected(weights), 0.1), problem, method=gflow.Weights())
    exact = exact_margin(A, np.asarray(gflow.predict.maximum_margin(problem, 2).coefficients), 2)
    assert end.converged
    assert gflow.angle(end.direction, np.array([float(v) for v in exact])) <= end.error <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steps_that_end_where_weights_grow_are_enough(sign):
    """They grow where Σ q_i m_i > 0, and shrink where every point is misclassified."""
    b, u = gflow.predict.maximum_margin(PROBLEM, 2).coefficients + 0.1, jnp.array([1.0, 0.5])
    end = gflow.limit(gflow.FullyConnected((jnp.outer(b, u), sign * u)), PROBLEM, method=gflow.Weights(max_steps=4))
    assert end.log_loss > -10
    assert end.converged == (sign > 0)
    if end.converged:
        assert gflow.angle(end.direction, gflow.predict.maximum_margin(PROBLEM, 2).coefficients) <= end.error
    else:
        assert end.status == gflow.Status.step_limit


class Cubed(gflow.ClassificationLoss):
    """log(1 + e^−m)³, which falls like e^−3m."""

    def __call__(self, margin):
        return 3 * gflow.logistic(margin)


LOSSES = [gflow.exponential, gflow.logistic, Cubed()]


@pytest.mark.parametrize("loss", LOSSES)
def test_shares_are_those_of_the_loss_at_first_and_powers_of_margins_in_the_end(loss):
    unit = jnp.array([-0.02, 0.1, 1.0])
    unit = unit / jnp.linalg.norm(unit)
    problem = gflow.Classification(jnp.eye(3), jnp.ones(3), loss)

    def shares(kappa, log_size, theta=unit):
        field = beyond._Shares(gflow.Diagonal((theta,)), problem, jnp.asarray(kappa), jnp.asarray(log_size))
        place = field.start(theta)
        assert jnp.max(jnp.abs(field(jnp.zeros(()), place).folded)) < 1e-9 * beyond._FAST * beyond._COARSE
        return field.shares(place)

    for size in (1e-12, 1.0, 30.0):
        expected = jax.nn.softmax(problem.log_slopes(size * unit))
        np.testing.assert_allclose(shares(1e9, np.log(size)), expected, rtol=1e-5)
    positive = jnp.abs(unit)
    np.testing.assert_allclose(shares(3.0, 1e3, positive), positive**-3 / jnp.sum(positive**-3), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_the_path_beyond_every_loss_is_the_flow_itself_at_first(loss):
    problem = gflow.Classification(X, Y, loss)
    start = gflow.FullyConnected(tuple(0.5 * v for v in normals(3, (6, 2), (2,))))
    explicit = gflow.Weights(solver=diffrax.Tsit5(), rtol=1e-9)
    path = gflow.flow(start, problem, until=gflow.LogLoss(-20.0), method=explicit, save=gflow.Steps(64))
    outward = jax.vmap(lambda n: measures.multipliers(n, problem) @ problem.margins(n(problem.X)))(path.networks)
    row = int(jnp.argmax(outward > 0.1))
    first = jax.tree.map(lambda v: v[row], path.networks)
    assert problem.log_loss(first(X)) > -1
    theta, end = (ravel_pytree(n.weights)[0] for n in (first, path.end.network))
    size = jnp.linalg.norm(theta)
    field = beyond._Shares(first, problem, jnp.asarray(1e8), 2 * jnp.log(size))
    run = engine.integrate(
        engine.Integration(
            field=field,
            solver=implicit.newton(),
            start=field.start(theta / size),
            first=jnp.zeros(()),
            last=jnp.log(jnp.linalg.norm(end) / size),
            rtol=1e-8,
            atol=1e-10,
        )
    )
    np.testing.assert_allclose(run.state.theta, end / jnp.linalg.norm(end), rtol=0, atol=1e-5)
    assert gflow.angle(theta, end) > 0.1


@pytest.mark.slow
def test_what_contradicts_itself_to_round_off_is_not_answered_wrongly():
    A, problem = narrow(1e-9)
    exact = exact_margin(A, np.asarray(gflow.predict.maximum_margin(problem, 2).coefficients), 2)
    start = gflow.scale(gflow.FullyConnected((jnp.ones((3, 2)), jnp.array([1.0, -0.5]))), 0.1)
    end = gflow.limit(start, problem, method=gflow.Weights(max_steps=2048))
    assert not end.converged or gflow.angle(end.direction, np.array([float(v) for v in exact])) <= end.error


def test_round_off_is_that_of_the_rows_that_matter():
    linear = gflow.Diagonal((jnp.array([1.0, 1e-12]),))
    problem = gflow.Classification([[1.0, 0.0], [0.0, 1e12]], jnp.ones(2))
    assert _limit_direction._rounded(linear, problem, jnp.array([1.0, 0.0])) < 1e-15
    assert _limit_direction._rounded(linear, problem, jnp.array([1.0, 1e-12])) > 1e-5


def test_rows_of_implicit_equations_may_have_any_units():
    """Without them the first row would be the pivot, and the 1 of the second lost beside it."""
    A = jnp.array([[2.0, 1e25], [1.0, 1.0]])
    finder = implicit.RoundOffNewton(rtol=1e-9, atol=1e-9)
    root = optimistix.root_find(lambda z, args: A @ z - A @ jnp.ones(2), finder, jnp.zeros(2), args=(1.0,))
    np.testing.assert_allclose(root.value, 1.0, rtol=0, atol=1e-12)


def test_what_is_large_or_single_or_not_homogeneous_is_not_polished():
    small = gflow.Diagonal((jnp.ones(LARGEST // 2 - 2), jnp.ones(LARGEST // 2 - 2)))
    assert can_polish(small, PROBLEM)  # with four points LARGEST unknowns
    assert not can_polish(gflow.Diagonal((jnp.ones(LARGEST // 2 - 1), jnp.ones(LARGEST // 2 - 1))), PROBLEM)
    assert not can_polish(jax.tree.map(lambda v: v.astype(jnp.float32), small), PROBLEM)


@pytest.mark.slow
def test_derivatives_of_a_direction_are_those_of_its_equations():
    start = pair([0.8, 0.5], [0.4, -0.3])

    def direction(x, method=gflow.Weights()):  # noqa: B008 (frozen)
        problem = gflow.Classification(x, jnp.ones(2))
        return gflow.limit(start, problem, method=method).direction

    x, change = jnp.array([[1.0, 0.2], [0.3, 1.0]]), jnp.array([[0.3, -1.0], [0.7, 0.4]])
    forward = gflow.Weights(adjoint=diffrax.ForwardMode())
    (_, found), (above, _), (below, _) = (
        jax.jvp(lambda x: direction(x, forward), (x + t * change,), (change,)) for t in (0.0, 1e-5, -1e-5)
    )
    expected = (above - below) / 2e-5
    assert jnp.allclose(found, expected, rtol=0, atol=1e-8)
    assert jnp.allclose(jnp.sum(jax.jacrev(direction)(x) * change, axis=(1, 2)), expected, rtol=0, atol=1e-8)
    assert jnp.linalg.norm(expected) > 0.1


@pytest.mark.slow
def test_where_nothing_is_polished_nor_a_theorem_has_a_residual_nothing_is_certified():
    """There are turns alone in float32, and the plateau at (1, 0) hardly turns."""
    weights = tuple(jnp.array(v, jnp.float32) for v in ([1.0, 1e-4], [0.3, 3e-5]))
    network = gflow.Multilinear(weights, jnp.asarray(PAIR, jnp.float32))
    problem = gflow.Classification(jnp.array([[1.0, 1.1], [1.0, 1.1]], jnp.float32), jnp.ones(2, jnp.float32))
    assert not can_polish(network, problem)
    end = gflow.limit(network, problem)
    assert not end.converged
    assert jnp.isinf(end.error)


@pytest.mark.slow
def test_rows_of_any_length_count_by_their_terms_in_the_weights():
    """A row that is a million times as long has a share in the gradient that is as much smaller, and it is active."""
    lengths = 10.0 ** np.array([[3.0], [-3.0], [0.0], [1.0]])
    problem = gflow.Classification(lengths * X, Y)
    end = limits([(6, 3), (3,)], gflow.FullyConnected, problem, lanes=1)
    assert end.converged.all()
    assert jnp.all(angles(end, gflow.predict.maximum_margin(problem, 2)) <= end.error)
    assert jnp.all(end.error <= 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e-12, 1e3])
def test_starts_of_any_scale_are_followed_by_weights(alpha):
    """From 1e-12 the first weight grows to 1 within 1e-14 of the time that it has slept, between two float64 of log t;
    at 1e3 the loss is e^−1e12 at the start."""
    up, down = jnp.array([1.0, 0.6, 0.8, 1.2, 0.9, 1.1]), jnp.array([0.7, 0.3, 1.0, 0.5, 0.2, 0.4])
    problem = gflow.Classification(Y[:, None] * X, jnp.ones(4))
    network = gflow.scale(gflow.DifferenceOfPowers((up, down), 4), alpha)
    if alpha > 1:
        problem = gflow.Classification(jnp.sign(network(problem.X))[:, None] * problem.X, jnp.ones(4))
        assert problem.log_loss(network(problem.X)) < -1e6
    end, expected = gflow.limit(network, problem, method=gflow.Weights()), gflow.limit(network, problem)
    assert end.converged
    assert expected.converged
    assert gflow.angle(end.direction, expected.direction) <= end.error + expected.error


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-7])
def test_rows_that_are_all_but_the_same_are_told_apart(gap):
    """Near one row all margins are tied to 1/κ on the flow's end; at the limit only some of them are."""
    problem = gflow.Classification(X[:1] + gap * X, jnp.ones(4))
    end = limits([(6, 3), (3, 3), (3,)], gflow.FullyConnected, problem, lanes=1)
    assert end.converged.all()
    assert jnp.all(angles(end, gflow.predict.maximum_margin(problem, 2)) <= end.error)
    assert jnp.all(end.error <= 1e-8)


@pytest.mark.slow
def test_points_that_all_but_contradict_each_other_are_solved_for_to_their_round_off():
    """The margin is 1e-5 of the rows, whose terms in the weights cancel."""
    A = np.concatenate([X[:2], -X[:2]])
    A = A - np.outer(A @ X[2], X[2]) / (X[2] @ X[2]) + 1e-5 * np.array([[1.0], [1.3], [1.2], [1.1]]) * X[2]
    problem = gflow.Classification(A, jnp.ones(4))
    end = limits([(6, 3), (3,)], gflow.FullyConnected, problem, lanes=1)
    assert end.converged.all()
    assert jnp.all(angles(end, gflow.predict.maximum_margin(problem, 2)) <= end.error)
    assert jnp.all(end.error <= 1e-8)
