"""The limit against Theorem 6, an independent closed form, and its two known traps."""

import diffrax
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gflow
from gflow import initial
from gflow._limit_point import lose_alike


def entries(*shape):
    return arrays(float, shape, elements=st.floats(-2, 2).map(lambda v: round(v, 3)))


ARCHITECTURES = {
    "diagonal": (gflow.Diagonal, [(3,), (3,)]),
    "convolutional": (gflow.Convolutional, [(2,), (3,)]),
    "full-length": (gflow.Convolutional, [(3,), (3,)]),
    "fully-connected": (gflow.FullyConnected, [(3, 2), (2,)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=12)
def test_the_limit_is_the_one_of_theorem_6(name, data):
    architecture, shapes = ARCHITECTURES[name]
    weights = [data.draw(entries(*shape)) for shape in shapes]
    x = data.draw(arrays(float, 3, elements=st.sampled_from([-2.0, -0.5, 0.3, 1.0, 1.7])))
    y = data.draw(st.sampled_from([-3.0, -0.2, 0.4, 2.0]))
    problem = gflow.Regression(x[None], [y])
    network = architecture(tuple(jnp.asarray(w) for w in weights))
    try:
        expected = gflow.predict.limit(network, problem)
    except ValueError:  # g never reaches y
        assert not gflow.limit(network, problem).converged
        return
    end = gflow.limit(network, problem)
    if next(h.value for h in expected.hypotheses if h.statement.startswith("g reaches")) > 1e-3:
        assert end.converged
    if end.converged:
        assert gflow.compare(end, expected).distance <= 1e-9


@pytest.mark.parametrize("make", [initial.diagonal, initial.convolutional, initial.fully_connected])
def test_every_initial_scale_ends_where_theorem_6_says(make, one_point):
    network = make(jnp.array([0.6, -0.3]))
    for alpha in np.logspace(-6, 2, 9):
        start = gflow.scale(network, alpha)
        end = gflow.limit(start, one_point)
        assert end.converged
        assert gflow.compare(end, gflow.predict.limit(start, one_point)).distance <= 1e-9


@pytest.mark.parametrize("method", [gflow.Weights(), gflow.Dual()], ids=["weights", "dual"])
def test_the_saddle_at_zero_is_not_taken_for_the_end(method, one_point):
    start = gflow.scale(initial.diagonal(jnp.array([0.6, -0.3])), 1e-12)
    end = gflow.limit(start, one_point, method=method)
    assert end.converged
    assert gflow.compare(end, gflow.predict.limit(start, one_point)).distance <= 1e-9
    stuck = gflow.limit(gflow.scale(start, 0.0), one_point, method=method)
    assert not stuck.converged


@pytest.mark.parametrize("method", [gflow.Weights(), gflow.Dual()], ids=["weights", "dual"])
def test_the_error_estimate_bounds_the_error(method, one_point):
    network = initial.diagonal(jnp.array([0.6, -0.3]))
    for tolerance in (1e-3, 1e-6, 1e-9):
        for alpha in (1e-3, 1.0):
            start = gflow.scale(network, alpha)
            end = gflow.limit(start, one_point, tolerance=tolerance, method=method)
            assert end.converged
            assert gflow.compare(end, gflow.predict.limit(start, one_point)).distance <= tolerance


def test_a_limit_is_a_solution_at_infinite_time(one_point):
    end = gflow.limit(initial.diagonal(jnp.array([0.6, -0.3])), one_point)
    assert end.log_time == jnp.inf
    assert end.log_scale == 0
    np.testing.assert_array_equal(end.coefficients, end.network.coefficients())


@pytest.mark.parametrize("method", [gflow.Weights(max_steps=300), gflow.Dual()], ids=["weights", "dual"])
def test_contradictory_data_have_no_certified_limit(method):
    contradiction = gflow.Regression([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0])
    assert not gflow.limit(initial.diagonal(jnp.array([0.6, -0.3])), contradiction, method=method).converged


def test_refusals_say_what_to_do(one_point):
    start = initial.diagonal(jnp.array([0.6, -0.3]))
    single = gflow.Diagonal(tuple(v.astype(jnp.float32) for v in start.weights))
    data = gflow.Regression(one_point.X.astype("f4"), one_point.y.astype("f4"))
    with pytest.raises(ValueError, match=r"tolerance=1.0e-09 asks for more than float32"):
        gflow.limit(single, data)
    assert gflow.limit(single, data, tolerance=0.01).converged


@pytest.mark.slow
def test_more_points_than_inputs_are_fitted_where_they_can_be():
    X, beta = np.random.default_rng(0).normal(size=(8, 3)), np.array([1.0, -1.0, 2.0])
    for start in (initial.diagonal(jnp.full(3, 0.1)), initial.fully_connected(jnp.full(3, 0.1))):
        end = gflow.limit(start, gflow.Regression(X, X @ beta))
        assert end.converged
        np.testing.assert_allclose(end.network.coefficients(), beta, rtol=1e-9)


def test_a_lane_that_fails_keeps_its_integrated_weights():
    contradiction = gflow.Regression([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0])
    end = gflow.limit(
        initial.fully_connected(jnp.array([0.6, -0.3])), contradiction, method=gflow.Weights(max_steps=200)
    )
    assert not end.converged
    assert end.error == jnp.inf
    np.testing.assert_allclose(end.network(contradiction.X), 1.5, rtol=0, atol=1e-3)  # the least-squares fit


def test_a_start_without_loss_is_its_own_limit():
    nothing = gflow.Regression([[1.0, 2.0]], [0.0])
    for start in (
        gflow.Diagonal(([1.0, 0.5], [0.0, 0.0])),
        gflow.FullyConnected((jnp.eye(2), jnp.zeros(2))),
    ):
        end = gflow.limit(start, nothing)
        assert end.converged
        assert not end.network.coefficients().any()


def test_inputs_of_another_length_are_named(one_point):
    with pytest.raises(ValueError, match=r"weights of shapes \(3,\), \(3,\) cannot take X of shape \(1, 2\)"):
        gflow.limit(initial.diagonal(jnp.ones(3)), one_point)


def test_targets_in_a_column_are_named(one_point):
    with pytest.raises(ValueError, match=r"Pass y\[:, 0\]"):
        gflow.limit(initial.diagonal(jnp.ones(2)), gflow.Regression(one_point.X, one_point.y[:, None]))


def test_a_network_that_cannot_be_traced_says_so(one_point):
    class Numpy(gflow.LinearNetwork):
        weights: tuple[jax.Array, ...]

        def coefficients(self):
            return jnp.asarray(np.asarray(self.weights[0]))

    class Branches(gflow.LinearNetwork):
        weights: tuple[jax.Array, ...]

        def coefficients(self):
            return self.weights[0] if self.weights[0][0] > 0 else -self.weights[0]

    for network in (Numpy((jnp.ones(2),)), Branches((jnp.ones(2),))):
        with pytest.raises(ValueError, match=r"cannot be traced by JAX.*Use jax\.numpy"):
            gflow.limit(network, one_point)


@pytest.mark.slow
def test_rows_that_all_but_depend_on_each_other_are_not_taken_for_fitted():
    """Both stopping points lie before their difference has moved, and so does a residual of nine digits."""
    network = gflow.Diagonal((jnp.array([1.0, 0.8, 0.6]), jnp.array([0.3, -0.2, 0.4])))

    for gap in (1.0, 1e-7, 1e-8, 1e-9, 1e-11, 0.0):
        X = jnp.array([[1.0, 0.2, 0.1], [1.0, 0.2 + gap, 0.1 + 0.5 * gap]])
        problem = gflow.Regression(X, jnp.array([1.0, 1.0 + 0.7 * gap]))
        end = gflow.limit(network, problem, method=gflow.Weights(max_steps=512))
        exact = gflow.limit(network, problem)
        assert exact.converged
        assert end.converged == (gap in (0.0, 1.0))  # a row that is there twice is no trouble
        assert gflow.measures.distance(end.coefficients, exact.coefficients) <= end.error


@pytest.mark.parametrize(("start", "status"), [(0.0, gflow.Status.no_descent), (1.0, gflow.Status.converged)])
def test_a_start_at_zero_never_moves(start, status):
    network = gflow.FullyConnected((start * jnp.eye(2), start * jnp.ones(2)))
    end = gflow.limit(network, gflow.Regression([[1.0, 2.0]], [1.0]), method=gflow.Weights())
    assert end.status == status


@pytest.mark.parametrize("log_alpha", [jnp.inf, -jnp.inf])
def test_an_infinite_log_scale_is_refused(log_alpha):
    with pytest.raises(ValueError, match="no flow starts"):
        gflow.limit(gflow.Diagonal(([1.0], [0.5])), gflow.Regression([[1.0]], [1.0]), log_alpha=log_alpha)


class Coarse(diffrax.Dopri5):
    """Steps whose results have 13 bits."""

    def step(self, *args, **kwargs):
        end, *others = super().step(*args, **kwargs)

        def rounded(v):
            mantissa, exponent = jnp.frexp(v)
            return jnp.ldexp(jnp.round(mantissa * 2.0**13), exponent - 13)

        return jax.tree.map(rounded, end), *others


def test_trajectories_that_lose_alike_what_the_flow_conserves_prove_nothing():
    """Both tie the third coordinate's layers, so that neither lets it turn round: they agree on a wrong end."""
    network = gflow.Diagonal(([0.659009, 0.85544, 0.730178], [0.168474, 0.468144, 0.232445]))
    problem = gflow.Regression(
        [[-0.007211, -0.561198, -0.867617], [3.066037, -0.077345, -2.016661]], [-0.648601, 0.67804]
    )
    truth = gflow.limit(network, problem, log_alpha=np.log(1e-8))
    coarse = gflow.Weights(solver=Coarse())
    end = gflow.limit(network, problem, log_alpha=np.log(1e-8), method=coarse, tolerance=1e-3)
    assert truth.converged
    assert np.linalg.norm(end.coefficients - truth.coefficients) > 0.1
    assert end.status == gflow.Status.not_certified

    large = gflow.limit(network, problem, method=coarse, tolerance=3e-3)  # at α = 1 thirteen bits are enough
    there = gflow.limit(network, problem).coefficients
    assert large.converged
    assert np.linalg.norm(large.coefficients - there) <= 3e-3 * np.linalg.norm(there)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (0.0, 0.0, True),  # tied by both
        (0.0, 0.05, False),  # what is left has another size
        (0.0, 0.005, True),
        (-3.0, -3.03, True),
        (-3.0, -3.2, False),
        (1.0005, 1.0005, False),  # kept by both
        (1.002, 1.002, True),
        (1.0, 0.0, False),  # kept by one
        (np.nan, 0.0, True),
    ],
)
def test_what_is_lost_alike(one, other, alike):
    """A difference of squares of 1e-12 at the start, and so many times as much at two ends."""

    def with_difference(c):
        first, second = jnp.sqrt(1e-12 * jnp.maximum(jnp.array([c, -c]), 0.0))
        return gflow.Diagonal((jnp.array([1.4, first]), jnp.array([1.0, second])))

    assert lose_alike(*map(with_difference, (1.0, one, other))) == alike


_TENSOR = jnp.zeros((4,) * 4).at[(jnp.arange(4),) * 4].set(1.0)
_COMING_BACK = (
    ([-1.0, -1.3, -1.1, 1.9], [0.6, 1.0, -2.0, -2.5], [-1.2, 1.1, 1.2, -2.0]),
    gflow.Regression([[-1.8, 0.7, 0.2, 0.4], [0.7, -1.0, 0.1, -0.3]], [12.3, -3.4]),
)


_TURNS = [np.linalg.qr(np.random.default_rng(i).normal(size=(4, 4)))[0] for i in range(3)]


def _turned(weights):
    """A tensor that is diagonal for no entry of the weights."""
    tensor = jnp.einsum("jabc,pa,qb,rc->jpqr", _TENSOR, *_TURNS)
    return gflow.Multilinear(tuple(U @ jnp.asarray(v) for U, v in zip(_TURNS, weights, strict=True)), tensor)


_KINDS = {"modes": gflow.Diagonal, "weights": lambda v: gflow.Multilinear(v, _TENSOR), "turned": _turned}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(("log_alpha", "is_held"), [(-30.0, False), (-2.0, True)])
def test_a_coordinate_that_comes_back_from_where_nothing_is_known_proves_nothing(kind, log_alpha, is_held):
    """At e^−30 a coordinate has been of size 1 when it passes zero, and two trajectories agree on an end with it, where
    another should have been there first."""
    weights, problem = _COMING_BACK
    end = gflow.limit(_KINDS[kind](weights), problem, log_alpha=log_alpha, method=gflow.Weights())
    truth = gflow.limit(gflow.Diagonal(weights), problem, log_alpha=log_alpha)
    assert truth.converged
    assert end.converged == is_held
    if is_held:
        assert gflow.measures.distance(end.coefficients, truth.coefficients) <= 1e-9


def test_coordinates_that_wait_their_turn_are_no_such():
    """At e^−20 one grows after the other, and none comes back."""
    weights = ([0.6, 1.0, 0.8, 1.2], [0.5, 0.7, 1.1, 0.4], [0.1, -0.3, 0.2, 0.5])
    problem = gflow.Regression([[1.0, 0.2, -0.1, 0.3], [0.1, 0.5, 0.2, -0.2]], [1.0, 0.6])
    end = gflow.limit(gflow.Multilinear(weights, _TENSOR), problem, log_alpha=-20.0)
    truth = gflow.limit(gflow.Diagonal(weights), problem, log_alpha=-20.0)
    assert jnp.sum(jnp.abs(truth.coefficients) > 0.1) == 2
    assert end.converged
    assert gflow.measures.distance(end.coefficients, truth.coefficients) <= end.error + truth.error


@pytest.mark.parametrize(("second_row", "is_enough"), [([-0.5, 1.0, 2.0], True), ([1.0, 0.5, -0.2], False)])
def test_implicit_steps_take_over_where_a_few_explicit_ones_do_not_arrive(second_row, is_enough):
    X, y = jnp.array([[1.0, 0.5, -0.3], second_row]), jnp.array([1.0, 0.9])
    B = jnp.zeros((3, 3, 3)).at[(jnp.arange(3),) * 3].set(1.0)
    network = gflow.Multilinear(([0.6, -0.3, 0.2], [0.1, 0.4, -0.5]), B)

    def limit(X, method=gflow.Auto()):  # noqa: B008 (frozen)
        return gflow.limit(network, gflow.Regression(X, y), method=method)

    attempt = limit(X, gflow.Weights(solver=diffrax.Dopri8(), max_steps=128))
    assert attempt.converged == is_enough
    end, traced = limit(X), jax.jit(limit)(X)
    truth = gflow.limit(gflow.Diagonal(network.weights), gflow.Regression(X, y))
    assert end.converged
    assert traced.converged
    assert truth.converged
    assert end.steps == traced.steps
    assert (end.steps == attempt.steps) == is_enough
    assert gflow.measures.distance(end.coefficients, traced.coefficients) < 1e-12
    assert gflow.measures.distance(end.coefficients, truth.coefficients) <= end.error + truth.error
    found, expected = (
        jax.grad(lambda y, of=of: gflow.limit(of, gflow.Regression(X, y)).coefficients.sum())(y)
        for of in (network, gflow.Diagonal(network.weights))
    )
    assert np.allclose(found, expected, rtol=1e-6)


def test_nothing_more_is_followed_once_nothing_can_be_claimed(one_point):
    start = gflow.scale(initial.fully_connected(jnp.array([0.6, -0.3])), 1e-3)
    method = gflow.Weights(solver=diffrax.Dopri8(), max_steps=8)
    end = gflow.limit(start, one_point, method=method)
    assert gflow.Status[end.status] == "step limit"
    assert end.error == jnp.inf
    assert end.steps <= 8 + 3  # the looser trajectory's first stop, and one step for each that is left


def test_coefficients_that_cancel_are_known_to_the_round_off_of_the_start(one_point):
    """β = w_+² − w_−² is 1e-8 of its terms, and α w is rounded; at rest there is nothing else to be wrong."""
    still = gflow.Regression(0.0 * one_point.X, 0.0 * one_point.y)
    network = gflow.DifferenceOfPowers(([1.1, 0.3], [1.1 + 1e-8, 0.3 - 1e-8]), 2)
    end = gflow.limit(network, still, log_alpha=-3.3, method=gflow.Weights())
    plus, minus = ([mp.mpf(float(v)) for v in w] for w in network.weights)
    with mp.workdps(40):
        truth = np.array([float(mp.exp(2 * mp.mpf(-3.3)) * (p**2 - m**2)) for p, m in zip(plus, minus, strict=True)])
    off = np.linalg.norm(end.coefficients - truth) / np.linalg.norm(truth)
    assert 1e-10 < off <= end.error
    assert end.error > 1e-9
    assert gflow.limit(gflow.DifferenceOfPowers(([1.1, 0.3], [0.7, 0.5]), 2), still, method=gflow.Weights()).converged
