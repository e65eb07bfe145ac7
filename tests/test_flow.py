"""The flow against closed forms, its invariants, and its manners in a batch."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import gflow
from gflow import Status, initial
from gflow._flow import _interpolated, _units
from gflow.flows.radau import MOST_OUTPUTS

EVERY = gflow.Steps(4096)  # all steps of these paths


@pytest.fixture(scope="module")
def path(one_point):
    return gflow.flow(gflow.scale(initial.fully_connected(jnp.array([0.6, -0.3])), 0.1), one_point, save=EVERY)


@pytest.fixture(scope="module")
def far(two_points):
    """Classification paths of the three networks, to log-loss −10⁶."""
    z = jnp.array([0.6, -0.3])
    starts = [initial.diagonal(z), initial.convolutional(z), initial.fully_connected(z)]
    return [gflow.flow(start, two_points, save=EVERY, until=gflow.LogLoss(-1e6)) for start in starts]


def test_the_linear_model_decays_exponentially(one_point):
    start, times = jnp.array([0.5, -1.0]), jnp.linspace(0.0, 2.0, 5)
    x, y = one_point.X[0], one_point.y[0]
    path = gflow.flow(gflow.Diagonal((start,)), one_point, save=gflow.Times(times), method=gflow.Weights(rtol=1e-11))
    residual = (start @ x - y) * jnp.exp(-(x @ x) * times)
    np.testing.assert_allclose(path.networks.weights[0] @ x - y, residual, rtol=0, atol=1e-9)
    np.testing.assert_allclose(path.log_times[1:], np.log(times[1:]), rtol=1e-12)
    assert path.log_times[0] == -jnp.inf
    assert path.status == Status.finished
    assert not path.converged


def test_a_single_weight_pair_follows_its_closed_form():
    """For d = 1, L = 2 and v_1 = v_2 = v: v² solves a logistic equation."""
    problem, times, v = gflow.Regression([[1.0]], [1.0]), jnp.linspace(0.0, 5.0, 6), 0.1
    path = gflow.flow(gflow.Diagonal(([v], [v])), problem, save=gflow.Times(times), method=gflow.Weights(rtol=1e-11))
    expected = v**2 / (v**2 + (1 - v**2) * np.exp(-2 * times))
    np.testing.assert_allclose(path.coefficients[:, 0], expected, rtol=1e-9)


@pytest.mark.slow
def test_the_loss_never_increases(path, far):
    for run in (path, *far):
        assert np.all(np.diff(run.log_losses) <= 1e-12 * np.abs(run.log_losses[1:]))
        assert np.all(np.diff(run.log_times) >= 0)


def test_fully_connected_layers_stay_balanced(path):
    W, w = path.networks.weights
    balance = jnp.swapaxes(W, 1, 2) @ W - w[:, :, None] * w[:, None, :]
    np.testing.assert_allclose(balance, np.broadcast_to(balance[0], balance.shape), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_diagonal_layers_stay_balanced_in_every_coordinate(far):
    v_1, v_2 = far[0].networks.weights
    balance, size = v_1**2 - v_2**2, jnp.max(v_1**2, axis=1, keepdims=True)
    np.testing.assert_allclose((balance - balance[0]) / size, 0, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_a_classification_reaches_losses_that_have_no_floating_point_number(far):
    for run in far:
        assert run.converged
        assert run.log_loss < -1e6
        assert run.steps < 1500
        assert run.log_loss == pytest.approx(float(run.log_losses[-1]), rel=1e-15)  # of the whole network, in its basis


@pytest.mark.slow
def test_both_clocks_trace_the_same_path(far, two_points):
    arc, start = far[2], initial.fully_connected(jnp.array([0.6, -0.3]))
    early = np.flatnonzero(np.asarray(arc.log_times) < np.log(1e4))[5::20]
    times = jnp.exp(arc.log_times[early])
    timed = gflow.flow(start, two_points, save=gflow.Times(times), method=gflow.Weights(rtol=1e-10))
    np.testing.assert_allclose(timed.log_losses, arc.log_losses[early], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(timed.coefficients, arc.coefficients[early], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", [gflow.Weights(), gflow.Dual()], ids=["weights", "dual"])
def test_lanes_agree_with_single_runs_and_compile_once(method, one_point):
    traces = []

    def ends(alpha):
        traces.append(alpha)
        start = gflow.scale(initial.diagonal(jnp.array([0.6, -0.3])), alpha)
        return gflow.flow(start, one_point, save=gflow.Times(jnp.array([0.5, 3.0])), method=method).coefficients

    alphas = jnp.array([1e-3, 0.01, 0.5, 1.0])
    single = jax.jit(ends)
    looped = jnp.stack([single(alpha) for alpha in alphas])
    assert len(traces) == 1
    batched = jax.jit(jax.vmap(ends))
    np.testing.assert_allclose(batched(alphas), looped, rtol=0, atol=1e-12)
    batched(2 * alphas)
    assert len(traces) == 2


def test_a_bad_lane_is_data_and_poisons_no_other(one_point):
    network = initial.diagonal(jnp.array([0.6, -0.3]))
    run = jax.jit(
        jax.vmap(lambda alpha: gflow.flow(gflow.scale(network, alpha), one_point, method=gflow.Weights(max_steps=60)))
    )
    alphas = jnp.array([0.1, jnp.nan, 1e-30, 1.0])
    solution = run(alphas)
    np.testing.assert_array_equal(solution.converged, [True, False, False, True])
    assert Status[solution[1].status] == "not finite"
    assert Status[solution[2].status] == "step limit"
    alone = run(jnp.array([0.1, 0.1, 0.1, 0.1]))
    np.testing.assert_allclose(solution.network.weights[0][0], alone.network.weights[0][0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", [gflow.Weights(max_steps=300), gflow.Dual()], ids=["weights", "dual"])
def test_a_flow_without_global_minimum_is_never_called_converged(method):
    contradiction = gflow.Regression([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0])
    assert not gflow.flow(initial.diagonal(jnp.array([0.6, -0.3])), contradiction, method=method).converged


@pytest.mark.slow
def test_any_diffrax_solver_serves(one_point):
    start = initial.diagonal(jnp.array([0.6, -0.3]))
    times = jnp.array([1.0])
    explicit, implicit = (
        gflow.flow(start, one_point, save=gflow.Times(times), method=gflow.Weights(solver=solver))
        for solver in (None, diffrax.Kvaerno5())
    )
    np.testing.assert_allclose(explicit.network.coefficients(), implicit.network.coefficients(), rtol=1e-6)


def test_bad_arguments_are_named(one_point, unchecked_types):
    start = initial.diagonal(jnp.array([0.6, -0.3]))
    with pytest.raises(ValueError, match="at least 0 and increase"):
        gflow.flow(start, one_point, save=gflow.Times([1.0, 0.5]))
    with pytest.raises(ValueError, match=r"shape \(T,\)"):
        gflow.flow(start, one_point, save=gflow.Times(3.0))
    single = jax.tree.map(lambda v: v.astype(jnp.float32), (start, one_point))
    with pytest.raises(ValueError, match=r"rtol=1.0e-08 .* float32 can deliver.*jax_enable_x64"):
        gflow.flow(*single, method=gflow.Weights(rtol=1e-8))


RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(3, 5))
START = tuple(RNG.normal(size=(2, 5)))


def ends(X, log_time, method):
    """The end of a path that waits that long, and how far it is from the limit."""
    problem, start = gflow.Regression(X, X @ jnp.arange(1.0, 6.0)), gflow.Diagonal(START)
    save = gflow.LogTimes(jnp.linspace(-1.0, log_time, 9))
    end = gflow.flow(start, problem, save=save, method=method).end
    return end.status, gflow.measures.distance(end.coefficients, gflow.limit(start, problem).coefficients)


@pytest.mark.parametrize(
    ("graded", "method"),
    [(graded, method) for graded in (1.0, 1e-7, 1e-12) for method in (gflow.Dual(), gflow.Weights())],
)
def test_rows_are_at_rest_together_however_their_lengths_differ(graded, method):
    X = ROWS * jnp.array([1.0, 1.0, graded])[:, None]
    status, distance = ends(X, jnp.log(1e3 / graded**2), method)
    assert status == gflow.Status.finished
    assert distance <= 1e-8


@pytest.mark.parametrize(
    ("method", "status"),
    [
        (gflow.Dual(max_steps=999), Status.step_limit),
        (gflow.Weights(max_steps=999), Status.step_limit),
        (gflow.Weights(solver=diffrax.Dopri8()), Status.not_certified),
    ],
)
@pytest.mark.parametrize(("apart", "is_there"), [(1.0, True), (1e-11, False), (0.0, True)])
def test_outputs_at_rest_do_not_say_that_weights_are(apart, is_there, method, status):
    X = jnp.asarray(ROWS).at[2].set(ROWS[0] + apart * ROWS[2])
    found, distance = ends(X, 60.0, method)
    if is_there:
        assert found == gflow.Status.finished
        assert distance <= 1e-8
    else:
        assert found == status
        assert distance >= 1e-3


def test_a_dual_path_at_rest_to_round_off_may_be_short_of_its_end():
    X = jnp.asarray(ROWS).at[2].set(ROWS[0] + 1e-7 * ROWS[2])
    status, distance = ends(X, 60.0, gflow.Dual())
    assert status == gflow.Status.not_certified
    assert 1e-6 < distance < 1e-5


@pytest.mark.parametrize(
    ("apart", "method"),
    [*((apart, gflow.Weights()) for apart in (1e-3, 1e-5, 1e-7)), *((apart, gflow.Dual()) for apart in (1e-3, 1e-5))],
)
def test_stiff_paths_are_followed_to_their_ends(apart, method):
    X = jnp.asarray(ROWS).at[2].set(ROWS[0] + apart * ROWS[2])
    status, distance = ends(X, jnp.log(1e3 / apart**2), method)
    assert status == gflow.Status.finished
    assert distance <= 1e-7


def test_explicit_steps_are_followed_by_implicit_ones_where_they_do_not_arrive():
    explicit = gflow.Weights(solver=diffrax.Dopri8(), max_steps=512)

    def both(X, log_time):
        problem, start = gflow.Regression(X, X @ jnp.arange(1.0, 6.0)), gflow.Diagonal(START)
        save = gflow.LogTimes(jnp.linspace(-3.0, log_time, 40))
        by_weights = (gflow.flow(start, problem, save=save, method=m) for m in (gflow.Weights(), explicit))
        return *by_weights, gflow.flow(start, problem, save=save, method=gflow.Dual(rtol=1e-11))

    whole, attempt, _ = both(ROWS, 5.0)
    assert attempt.status == Status.finished
    assert eqx.tree_equal(whole.coefficients, attempt.coefficients)

    whole, attempt, exact = both(jnp.asarray(ROWS).at[2].set(ROWS[0] + 1e-3 * ROWS[2]), 15.0)
    assert attempt.status == Status.step_limit
    assert whole.status == exact.status == Status.finished
    assert whole.end.steps < 200
    moved = jnp.max(jnp.abs(exact.coefficients), axis=1, keepdims=True)
    np.testing.assert_array_less(jnp.abs(whole.coefficients - exact.coefficients) / moved, 1e-6)


@pytest.mark.parametrize("n", [MOST_OUTPUTS, MOST_OUTPUTS + 1])
def test_the_end_of_a_linear_model_is_exact_for_few_and_for_many_outputs(n):
    rng = np.random.default_rng(n)
    X = np.linalg.qr(rng.normal(size=(n + 5, n)))[0].T * np.geomspace(1.0, 0.1, n)[:, None]
    y, start, times = rng.normal(size=n), rng.normal(size=n + 5), np.array([10.0, 2e3, 1e4])
    problem, save = gflow.Regression(X, y), gflow.Times(times)
    path = gflow.flow(gflow.Diagonal((start,)), problem, save=save, method=gflow.Weights(rtol=1e-10))
    assert path.status == Status.finished
    rates = np.sum(X**2, axis=1)
    gone = -np.expm1(-rates * times[:, None]) / rates
    np.testing.assert_allclose(path.coefficients, start - gone * (X @ start - y) @ X, atol=1e-8)


def test_a_row_of_zeros_leaves_a_dual_path_as_it_is():
    X, y, save = jnp.asarray(ROWS), ROWS @ jnp.arange(1.0, 6.0), gflow.LogTimes(jnp.linspace(-1.0, 20.0, 9))
    with_zeros = gflow.Regression(X.at[1].set(0.0), y.at[1].set(0.0))
    without = gflow.Regression(X[::2], y[::2])
    one, other = (gflow.flow(gflow.Diagonal(START), p, save=save, method=gflow.Dual()) for p in (with_zeros, without))
    assert one.status == other.status == Status.finished
    np.testing.assert_allclose(one.coefficients, other.coefficients, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("rtol", "expected"),
    [(1e-8, 1e-8 ** (1 / 0.7)), (1e-10, 1e4 * 2**-52), (1e-13, 1e-13)],  # then round-off, unless less is asked for
)
def test_the_tolerance_of_implicit_steps(rtol, expected):
    assert float(_interpolated(jnp.asarray(rtol))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [1, 5])
def test_the_end_has_derivatives_with_fewer_and_with_more_outputs_than_weights(n):
    X = jnp.asarray(np.random.default_rng(n).normal(size=(n, 2)))
    beta, start = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.5])

    def end(beta):
        save = gflow.Times([1e4])
        return gflow.flow(gflow.Diagonal((start,)), gflow.Regression(X, X @ beta), save=save).coefficients[-1]

    seen = jnp.linalg.pinv(X) @ X
    np.testing.assert_allclose(end(beta), start + seen @ (beta - start), rtol=1e-9)
    np.testing.assert_allclose(jax.jacrev(end)(beta), seen, atol=1e-9)


def test_a_stiff_path_is_the_same_inside_jit():
    X = jnp.asarray(ROWS).at[2].set(ROWS[0] + 1e-4 * ROWS[2])
    problem, start = gflow.Regression(X, X @ jnp.arange(1.0, 6.0)), gflow.Diagonal(START)

    def followed(start):
        return gflow.flow(start, problem, method=gflow.Weights(), save=gflow.LogTimes(jnp.array([0.0, 30.0])))

    eager, traced = followed(start), eqx.filter_jit(followed)(start)
    assert eager.status == traced.status == Status.finished
    np.testing.assert_allclose(eager.coefficients, traced.coefficients, rtol=1e-9)


@pytest.mark.slow
def test_a_stiff_path_has_derivatives():
    X = jnp.asarray(ROWS).at[2].set(ROWS[0] + 1e-3 * ROWS[2])
    save = gflow.LogTimes(jnp.array([0.0, 8.0, 25.0]))

    def read(y):
        path = gflow.flow(gflow.Diagonal(START), gflow.Regression(X, y), save=save, method=gflow.Weights())
        return jnp.sum(jnp.sin(path.coefficients))

    y, towards, h = X @ jnp.arange(1.0, 6.0), X @ jnp.cos(jnp.arange(5.0)), 1e-3
    numeric = (8 * (read(y + h * towards) - read(y - h * towards))) / (12 * h)
    numeric -= (read(y + 2 * h * towards) - read(y - 2 * h * towards)) / (12 * h)
    assert float(jax.grad(read)(y) @ towards) == pytest.approx(float(numeric), rel=1e-5)


@pytest.mark.parametrize("method", [gflow.Dual(), gflow.Weights()])
def test_a_target_of_zero_is_arrived_at_to_the_round_off_of_its_terms(method):
    problem = gflow.Regression(jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([2.0, 0.0]))
    start = gflow.Diagonal((jnp.array([1e-5, 3e-5]), jnp.zeros(2)))
    path = gflow.flow(start, problem, save=gflow.LogTimes(jnp.array([0.0, 100.0])), method=method)
    assert path.end.status == gflow.Status.finished
    np.testing.assert_allclose(path.end.coefficients, [1.0, 1.0], rtol=1e-8)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (1e-3, [2.0, 2e-3, 1.0]),  # in proportion to its input
        (1e-6, [2.0, 2e-3, 1.0]),  # smaller, and known to the round-off of its terms
        (1.0, [2.0, 2.0, 1.0]),  # as large as the others, to which it does not lend its slope
    ],
)
def test_what_outputs_are_relative_to(target, expected):
    problem = gflow.Regression(jnp.diag(jnp.array([1.0, 1e-3, 0.0])), jnp.array([1.0, target, 0.5]))
    np.testing.assert_allclose(_units(gflow.Diagonal((jnp.zeros(3),)), problem), expected, rtol=1e-12)


class Affine(gflow.Network):
    weights: tuple[Array, Array] = eqx.field(converter=gflow.as_weights)

    def __call__(self, X):
        return X @ self.weights[0] + self.weights[1]


def test_an_input_of_zero_is_at_rest_when_its_own_output_is():
    problem = gflow.Regression(jnp.array([[0.0], [1.0]]), jnp.array([1.0, 3.0]))
    start = Affine((jnp.zeros(1), jnp.zeros(())))
    path = gflow.flow(start, problem, save=gflow.LogTimes(jnp.array([0.0, 60.0])))
    assert path.end.status == gflow.Status.finished
    np.testing.assert_allclose(jnp.append(*path.end.network.weights), [2.0, 1.0], rtol=1e-9)
