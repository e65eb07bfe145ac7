"""One door to each verb: compiled once, the same route everywhere, one record, honest in float32."""

import contextlib

import diffrax
import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow import _compare, _descend, _flow, _limit

D = 10
SGD = optax.sgd(1e-3)


def draw(seed, *shapes, dtype=float):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)


def regression(seed, n=3, d=D):
    return gflow.Regression(*draw(seed, (n, d), n))


def classification(seed, n=3, d=D):
    X, w = draw(seed, (n, d), d)
    return gflow.Classification(X, jnp.sign(X @ w))


def diagonal(seed):
    return gflow.Diagonal(draw(seed, D, D))


def fully_connected(seed):
    return gflow.scale(gflow.FullyConnected(draw(seed, (D, 4), 4)), 0.5)


VERBS = {
    "flow, dual": lambda s: gflow.flow(diagonal(s), regression(s), method=gflow.Dual(rtol=1e-8 + s * 1e-9)),
    "flow, dual, times": lambda s: gflow.flow(diagonal(s), regression(s), save=gflow.Times(jnp.arange(1.0, 9) + s)),
    "flow, weights": lambda s: gflow.flow(diagonal(s), regression(s), method=gflow.Weights(rtol=1e-8 + s * 1e-9)),
    "flow, classification": lambda s: gflow.flow(diagonal(s), classification(s), until=gflow.LogLoss(-20.0 - s)),
    "flow, decades": lambda s: gflow.flow(
        diagonal(s), classification(s), save=gflow.Decades(jnp.array([1.0, 9.0 + s]))
    ),
    "limit, dual": lambda s: gflow.limit(diagonal(s), regression(s), log_alpha=-1.0 * s, tolerance=1e-9 + s * 1e-10),
    "limit, weights": lambda s: gflow.limit(fully_connected(s), regression(s), tolerance=1e-9 + s * 1e-10),
    "direction, dual": lambda s: gflow.limit(diagonal(s), classification(s), tolerance=1e-3 + s * 1e-4),
    "direction, weights": lambda s: gflow.limit(fully_connected(s), classification(s), tolerance=1e-3 + s * 1e-4),
    "descend": lambda s: gflow.descend(diagonal(s), regression(s), SGD, steps=jnp.array([0, 10, 20 + s])),
}


@contextlib.contextmanager
def compilations():
    """A list that grows by an entry for every program that XLA compiles."""
    found, open_ = [], [True]

    def listen(event, duration, **_):
        if open_[0] and event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    open_[0] = False


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_second_eager_call_compiles_nothing(verb):
    """Other data of the same shapes, a network built anew, another tolerance."""
    VERBS[verb](1)
    with compilations() as first:
        jax.jit(lambda x: x + 1.2345)(1.0)
    assert first, "the listener hears nothing"
    with compilations() as found:
        jax.block_until_ready(jax.tree.leaves(VERBS[verb](2)))
    assert not found


def test_a_second_comparison_compiles_nothing():
    ends = [gflow.limit(diagonal(s), regression(s, n=1)) for s in (1, 2)]
    expected = [gflow.predict.limit(diagonal(s), regression(s, n=1)) for s in (1, 2)]
    gflow.compare(ends[0], expected[0])
    with compilations() as found:
        gflow.compare(ends[1], expected[1])
    assert not found


def test_every_core_counts_its_traces():
    before = eqx.debug.get_num_traces(_limit._by_dual)
    gflow.limit(gflow.Diagonal(draw(0, 13, 13)), regression(0, d=13))
    gflow.limit(gflow.Diagonal(draw(1, 13, 13)), regression(1, d=13))
    assert eqx.debug.get_num_traces(_limit._by_dual) == before + 1
    for core in (_flow._by_dual, _flow._by_weights, _limit._by_weights, _descend._descend, _compare._compare):
        assert eqx.debug.get_num_traces(core) >= 0


NETWORKS = {
    "diagonal": gflow.Diagonal(draw(0, 6, 6)),
    "diagonal, L = 3": gflow.Diagonal(draw(1, 6, 6, 6)),
    "tied": gflow.Diagonal((jnp.ones(6),) * 3),
    "convolution": gflow.Convolutional(draw(2, 2, 6)),
    "even convolution": gflow.Convolutional(tuple(v + jnp.roll(v[::-1], 1) for v in draw(3, 6, 6))),
    "fully-connected": gflow.FullyConnected(draw(4, (6, 3), 3)),
    "matrix product": gflow.MatrixProduct(draw(5, (2, 3), (3, 3))),
    "orthogonal": gflow.sparsifying(draw(6, (6, 6))[0], draw(7, 6, 6)),
    "multilinear": gflow.Multilinear(draw(8, 3, 4), *draw(9, (6, 3, 4))),
    "difference of powers": gflow.DifferenceOfPowers(tuple(1 + 0.1 * v for v in draw(10, 6, 6)), depth=2),
    "nonlinear": gflow.Nonlinear(gflow.FullyConnected(draw(11, (6, 5), 5)), jnp.tanh),
}
X, Y = draw(12, (2, 6), 2)
EVEN = gflow.Regression(X + jnp.roll(X[:, ::-1], 1, axis=1), Y)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_call_takes_the_same_route_everywhere(name):
    network, problem = NETWORKS[name], EVEN if name == "even convolution" else gflow.Regression(X, Y)
    eager = gflow.limit(network, problem)
    batch = jax.tree.map(lambda v: jnp.stack([v, 1.1 * v]), network)
    others = {
        "an argument of jit": jax.jit(lambda n, p: gflow.limit(n, p))(network, problem),
        "closed over": jax.jit(lambda: gflow.limit(network, problem))(),
        "a lane": jax.vmap(lambda n: gflow.limit(n, problem))(batch)[0],
    }
    for where, end in others.items():
        assert end.route == eager.route, where
        assert end.status == eager.status, where
        for found, expected in zip(end.network.weights, eager.network.weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * float(jnp.abs(expected).max()))


@pytest.mark.slow
def test_results_of_both_routes_are_one_record_and_stack():
    network, problem = NETWORKS["diagonal"], gflow.Regression(X, Y)
    ends = [gflow.limit(network, problem, method=method) for method in (gflow.Dual(), gflow.Weights())]
    both = jax.tree.map(lambda *v: jnp.stack(v), *ends)
    assert both.counts() == {"converged": 2}
    assert both[0].route == gflow.Route.dual
    assert both[1].route == gflow.Route.weights
    np.testing.assert_allclose(both.coefficients[0], both.coefficients[1], rtol=0, atol=1e-9)
    assert len(repr(both)) < 200
    with pytest.raises(TypeError, match="one lane"):
        both[0][0]


@pytest.mark.slow
def test_records_know_their_coefficients_under_any_leading_axes():
    network, problem = NETWORKS["fully-connected"], gflow.Regression(X, Y)
    scales = jnp.array([[0.1, 1.0], [0.3, 0.5], [0.2, 0.7]])
    ends = jax.vmap(jax.vmap(lambda a: gflow.limit(gflow.scale(network, a), problem)))(scales)
    assert ends.coefficients.shape == (3, 2, 6)
    np.testing.assert_allclose(jnp.linalg.norm(ends.direction, axis=-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(ends[1, 0].coefficients, ends.coefficients[1, 0], rtol=1e-15)
    paths = jax.vmap(lambda a: gflow.flow(gflow.scale(network, a), problem, save=gflow.Steps(8)))(scales[0])
    assert paths.coefficients.shape == (2, 8, 6)
    assert paths[1].directions.shape == (8, 6)
    np.testing.assert_allclose(paths.coefficients[:, -1], paths.end.coefficients, rtol=1e-14, atol=1e-15)


@pytest.mark.slow
def test_comparison_under_vmap():
    problem, network = regression(0, n=1), diagonal(0)
    expected = gflow.predict.limit(network, problem)
    ends = jax.vmap(lambda a: gflow.limit(network, problem, log_alpha=a))(jnp.array([0.0, 0.0, -1.0]))
    found = jax.vmap(lambda end: gflow.compare(end, expected))(ends)
    np.testing.assert_array_equal(found.distance, gflow.compare(ends, expected).distance)
    assert (found.distance[:2] < 1e-9).all()
    assert found.distance[2] > 1e-3
    assert "3 computed ends" in str(found)


def test_a_prediction_of_zero_can_be_compared_with():
    nothing = gflow.Regression(X, jnp.zeros(2))
    start = gflow.initial.last_layer_zero(NETWORKS["diagonal"])
    found = gflow.compare(gflow.limit(start, nothing), gflow.predict.limit(start, nothing))
    assert found.distance == 0


@pytest.mark.slow
@pytest.mark.parametrize("d", [64, 257, 1024])
def test_convolutions_beyond_the_direct_product(d):
    """k d > 2048: the FFT serves flow, limit, gradient, vmap and prediction alike."""
    X, w, v = draw(d, (4, d), 33, d)
    problem = gflow.Regression(X / d**0.5, jnp.ones(4))
    network = gflow.Convolutional((w / 33**0.5, v / d**0.5))
    end = gflow.limit(network, problem)
    assert end.converged
    path = gflow.flow(network, problem, until=gflow.LogLoss(-45.0))
    assert gflow.measures.distance(path.end.coefficients, end.coefficients) < 1e-6
    both = jax.vmap(lambda a: gflow.limit(gflow.scale(network, a), problem))(jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(both[0].coefficients, end.coefficients, rtol=0, atol=1e-9)
    one = gflow.Regression(problem.X[:1], problem.y[:1])
    assert gflow.compare(gflow.limit(network, one), gflow.predict.limit(network, one)).distance < 1e-9


@pytest.mark.slow
def test_the_gradient_of_a_long_convolutions_limit():
    d = 64
    X, w, v = draw(d, (2, d), 33, d)
    network = gflow.Convolutional((w / 6, v / 8))

    def total(y):
        return jnp.sum(gflow.limit(network, gflow.Regression(X, y)).coefficients ** 2)

    y, h = jnp.array([1.0, -0.5]), 1e-4
    both = jax.value_and_grad(total)
    slope = both(y)[1]
    numeric = jnp.stack([(both(y + h * e)[0] - both(y - h * e)[0]) / (2 * h) for e in jnp.eye(2)])
    np.testing.assert_allclose(slope, numeric, rtol=1e-5)


@pytest.mark.slow
def test_the_error_of_integrated_weights_bounds_the_true_one():
    """In every lane at four tolerances, against the same flow at a tolerance of 2e-12."""
    makers = (
        lambda rng: gflow.FullyConnected((rng.normal(size=(6, 3)), rng.normal(size=3))),
        lambda rng: gflow.Convolutional((rng.normal(size=2), rng.normal(size=6))),
        lambda rng: gflow.Diagonal((rng.normal(size=6), rng.normal(size=6))),
    )
    for seed, make in enumerate(makers):
        rng = np.random.default_rng(seed)
        networks = jax.tree.map(lambda *v: jnp.stack(v), *(make(rng) for _ in range(34)))
        X, y, alphas = rng.normal(size=(34, 3, 6)), rng.normal(size=(34, 3)), 10 ** rng.uniform(-2, 0.5, 34)

        def one(network, X, y, alpha, tolerance):
            problem = gflow.Regression(X, y)
            return gflow.limit(
                gflow.scale(network, alpha), problem, tolerance=tolerance, method=gflow.Weights(max_steps=3000)
            )

        run = jax.vmap(one, (0, 0, 0, 0, None))
        truth = run(networks, X, y, alphas, jnp.asarray(2e-12))
        known = truth.converged
        assert known.mean() > 0.95
        for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
            ends = run(networks, X, y, alphas, jnp.asarray(tolerance))
            assert ends.converged.mean() > 0.9
            assert (gflow.measures.distance(ends.coefficients, truth.coefficients) <= ends.error)[known].all()


@pytest.mark.slow
def test_single_precision_answers_what_it_can():
    def single(tree):
        return jax.tree.map(lambda v: v.astype("f4"), tree)

    # Labels of which single precision can go far enough to tell the best direction from the next.
    problem, labels = single(regression(3)), single(classification(3))
    for start in (single(diagonal(3)), single(fully_connected(3))):
        end = gflow.limit(start, problem, tolerance=1e-3)
        assert end.converged, gflow.explain(end.status)
        assert end.log_loss.dtype == jnp.float32
        exact = gflow.limit(*jax.tree.map(lambda v: v.astype("f8"), (start, problem)))
        assert gflow.measures.distance(end.coefficients, exact.coefficients) < 1e-3
        direction = gflow.limit(start, labels, tolerance=0.1)
        assert direction.converged, gflow.explain(direction.status)
        p = 1 if isinstance(start, gflow.Diagonal) else 2
        assert gflow.angle(direction.direction, gflow.predict.maximum_margin(labels, p).coefficients) < 0.1
        path = gflow.flow(start, problem, until=gflow.LogLoss(-8.0))
        assert path.converged
        assert path.coefficients.dtype == jnp.float32
    assert gflow.potential.H(jnp.float32(0.5), L=3).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"tolerance=1.0e-09 asks for more than float32"):
        gflow.limit(single(diagonal(0)), problem)


@pytest.mark.slow
def test_mixed_precision_is_promoted():
    weights = tuple(v.astype("f4") for v in draw(0, D, D))
    end = gflow.limit(gflow.Diagonal(weights), regression(0))
    assert end.converged
    assert end.log_loss.dtype == jnp.float64


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.03, 1.0, 10.0])
def test_times_past_a_stiff_end_are_served(alpha):
    """The explicit solver would sit on its stability boundary for ever."""
    X, beta = draw(0, (40, 100), 100)
    problem = gflow.Regression(X / 40**0.5, X @ (beta * (jnp.arange(100) < 5)) / 40**0.5)
    start = gflow.scale(gflow.Diagonal((jnp.ones(100), jnp.zeros(100))), alpha)
    end = gflow.limit(start, problem)
    save = gflow.Times(jnp.logspace(-2, 4, 60))
    for method in (gflow.Auto(), gflow.Weights()):
        path = gflow.flow(start, problem, save=save, method=method)
        assert path.status == gflow.Status.finished, method
        np.testing.assert_allclose(path.log_times, save.log_times, rtol=1e-12, atol=1e-12)
        above_round_off = path.log_losses[1:] > -40
        assert (jnp.diff(path.log_losses) <= 1e-6)[above_round_off].all()
        assert gflow.measures.distance(path.end.coefficients, end.coefficients) < 1e-6


def test_rows_are_thinned_evenly_and_end_at_the_end():
    problem, start = gflow.Regression(X, Y), gflow.scale(NETWORKS["fully-connected"], 0.1)
    every = gflow.flow(start, problem, save=gflow.Steps(1024))
    steps = int(every.steps)
    assert 16 < steps < 1023
    assert (jnp.diff(every.log_times[: steps + 1]) > 0).all()
    assert (every.log_times[steps:] == every.log_time).all()
    for rows in (2, 8, 16):
        few = gflow.flow(start, problem, save=gflow.Steps(rows))
        assert few.log_times.shape == (rows,)
        assert few.log_times[0] == -jnp.inf
        assert few.log_time == few.log_times[-1] == every.log_time
        at = [int(i) for i in jnp.searchsorted(every.log_times[: steps + 1], few.log_times)]
        strides = np.diff([i for i in at[1:-1] if i < steps])
        assert len(set(strides.tolist())) <= 1
        for v, w in zip(few.followed.weights, every.followed.weights, strict=True):
            np.testing.assert_array_equal(v, w[jnp.array(at)])


@pytest.mark.slow
def test_derivatives_go_through_paths_by_default():
    problem, start = gflow.Regression(X, Y), NETWORKS["fully-connected"]

    def last(alpha, method):
        return gflow.flow(gflow.scale(start, alpha), problem, save=gflow.Times([0.5, 1.0]), method=method).log_loss

    h = 1e-4
    (_, slope), (above, _), (below, _) = (
        jax.value_and_grad(last)(0.5 + t, gflow.Weights())
        for t in (0.0, h, -h)  # values by the same program
    )
    numeric = (above - below) / (2 * h)
    assert slope == pytest.approx(float(numeric), rel=1e-6)
    forward = gflow.Weights(adjoint=diffrax.ForwardMode())
    assert jax.jvp(lambda a: last(a, forward), (0.5,), (1.0,))[1] == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.slow
def test_orthogonal_forms_flow_as_the_network_does():
    network = NETWORKS["even convolution"]
    form = gflow.orthogonal_form(network, EVEN)
    np.testing.assert_allclose(form.coefficients(), network.coefficients(), rtol=0, atol=1e-13)
    dual, weights = gflow.limit(form, EVEN), gflow.limit(network, EVEN)
    assert dual.route == gflow.Route.dual
    assert weights.route == gflow.Route.weights
    assert gflow.measures.distance(dual.coefficients, weights.coefficients) < 1e-9
    with pytest.raises(ValueError, match=r"every input is even.*off by"):
        gflow.orthogonal_form(network, gflow.Regression(X, Y))
    tiny_and_uneven = gflow.Regression(jnp.stack([EVEN.X[0], 1e-13 * X[0]]), Y)
    with pytest.raises(ValueError, match=r"every input is even.*off by"):
        gflow.orthogonal_form(network, tiny_and_uneven)
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda n: gflow.orthogonal_form(n, EVEN).coefficients())(network)
    with pytest.raises(ValueError, match="no orthogonal decomposition"):
        gflow.orthogonal_form(NETWORKS["fully-connected"], EVEN)


def test_each_refusal_of_a_method_says_what_to_pass(unchecked_types):
    network, problem = NETWORKS["fully-connected"], gflow.Regression(X, Y)
    labels = gflow.Classification(X, jnp.sign(Y))
    refusals = {
        "real modes": lambda: gflow.limit(network, problem, method=gflow.Dual()),
        r"gflow.Auto\(\), gflow.Weights": lambda: gflow.limit(network, problem, method="dual"),
        "needs dual coordinates": lambda: gflow.flow(network, labels, save=gflow.Decades([1.0])),
        "is for a Classification": lambda: gflow.flow(network, problem, save=gflow.Decades([1.0])),
        "save must be": lambda: gflow.flow(network, problem, save=[1.0]),
        "until must be": lambda: gflow.flow(network, problem, until=-3.0),
        "already": lambda: gflow.flow(network, problem, until=gflow.LogLoss(50.0)),
        "rows must be even": lambda: gflow.Steps(7),
        "max_steps must be a positive": lambda: gflow.Weights(max_steps=0),
        "beyond what weights in float64 can hold": lambda: gflow.limit(network, problem, log_alpha=-2302.0),
        "tolerance is NaN": lambda: gflow.limit(network, problem, tolerance=jnp.nan),
        "promises nothing": lambda: gflow.limit(network, problem, tolerance=1.0),
        "linear coefficients": lambda: gflow.limit(NETWORKS["nonlinear"], labels),
    }
    for message, call in refusals.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_the_direction_of_a_difference_of_powers():
    network = gflow.DifferenceOfPowers((jnp.full(6, 0.1),) * 2, depth=2)
    labels = gflow.Classification(X, jnp.sign(Y))
    end = gflow.limit(network, labels)
    assert end.log_loss < -1e9
    assert jnp.isnan(end.certificate.singular_vector_residual)
    expected = gflow.predict.maximum_margin(labels, 1).coefficients
    assert gflow.angle(end.direction, expected) <= end.error < 0.1


def test_a_diverged_descent_has_a_status():
    start = NETWORKS["diagonal"]
    run = gflow.descend(start, gflow.Regression(X, Y), optax.sgd(1e3), steps=jnp.array([100]))
    assert run.status == gflow.Status.not_finite
    assert run.end.route == gflow.Route.descent


@pytest.mark.slow
@pytest.mark.parametrize("make", list(VERBS)[::3])
def test_a_record_is_saved_and_read_by_equinox(make, tmp_path):
    record = VERBS[make](1)
    eqx.tree_serialise_leaves(tmp_path / "record.eqx", record)
    again = eqx.tree_deserialise_leaves(tmp_path / "record.eqx", record)
    for a, b in zip(jax.tree.leaves(record), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_beyond_every_time_are_served_where_rows_of_data_repeat():
    """A rate of zero in the closed-form tail, at times whose exponential overflows."""
    problem = gflow.Regression(jnp.concatenate([X, X[:1]]), jnp.concatenate([Y, Y[:1]]))
    path = gflow.flow(NETWORKS["fully-connected"], problem, save=gflow.LogTimes([0.0, 5.0, 600.0, 1000.0]))
    assert path.status == gflow.Status.finished
    assert jnp.isfinite(path.coefficients).all()
    np.testing.assert_allclose(path.end.network(problem.X), problem.y, rtol=0, atol=1e-6)


def test_integer_weights_and_swapped_arguments_are_named(unchecked_types):
    class Bare(gflow.LinearNetwork):
        weights: tuple

        def coefficients(self):
            return self.weights[0]

    with pytest.raises(ValueError, match="as_weights"):
        gflow.scale(Bare((jnp.array([1, 2]),)), 0.1)
    with pytest.raises(ValueError, match="a network first"):
        gflow.orthogonal_form(EVEN, NETWORKS["even convolution"])
