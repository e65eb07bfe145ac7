"""Effective starts: where a descent ends, against where gradient flow ends from the start that its steps make."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from truth import distance, normals

import gflow

N, D = 3, 8
KEY = jax.random.key(0)
SGD = optax.sgd(0.3)


@pytest.fixture(scope="module")
def problem():
    X, y = normals(0, (N, D), (N,))
    return gflow.Regression(X / np.sqrt(D), y / 2)


@pytest.fixture(scope="module")
def start():
    return gflow.Diagonal(tuple(0.3 * v for v in normals(1, (D,), (D,))))


def first_steps_of(size):
    """A schedule whose first three steps are of this size."""
    return optax.sgd(lambda k: jnp.where(k < 3, size, 0.3))


CASES = {
    "full batch": (SGD, {}),
    "factors that turn signs": (first_steps_of(4.0), {}),
    "a schedule, clipped": (optax.chain(optax.clip_by_global_norm(0.1), first_steps_of(2.0)), {}),
    "batches by index": (SGD, {"batches": gflow.Batches(jnp.array([[0, 1], [2, 0]]))}),
    "label noise": (SGD, {"label_noise": gflow.LabelNoise(KEY, 0.3, 10_000)}),
    "noisy labels in batches by key": (
        SGD,
        {"batches": gflow.RandomBatches(KEY, 2), "label_noise": gflow.LabelNoise(KEY, 0.3, 10_000)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_descent_ends_at_the_limit_from_its_effective_start(case, start, problem):
    optimizer, data = CASES[case]
    run = gflow.descend(start, problem, optimizer, steps=jnp.array([20_000]), effective=True, **data)
    expected = gflow.predict.effective(run, problem)
    assert all(h.holds for h in expected.hypotheses)
    assert distance(run.end.coefficients, expected.coefficients) < 1e-11
    assert max(expected.residual, expected.gap) < 1e-12
    # By the other route, and not at the plain flow's limit.
    assert distance(gflow.limit(run.effective.network, problem).coefficients, expected.coefficients) < 1e-11
    assert distance(gflow.limit(start, problem).coefficients, expected.coefficients) > 1e-3


def test_the_effective_start_is_the_product_of_a_plain_loop(start, problem):
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    v, w = (np.asarray(u) for u in start.weights)
    both, factors = np.stack([v + w, v - w]), np.ones((2, D))
    turned = 0
    for k in range(40):
        u = (4.0 if k < 3 else 0.3) * (X @ (v * w) - y) @ X
        v, w = v - u * w, w - u * v
        factors *= np.stack([1 - u, 1 + u])
        both *= np.stack([(1 - u) * np.exp(u), (1 + u) * np.exp(-u)])
        turned += (np.abs(u) > 1).sum()
    assert turned > 0
    run = gflow.descend(start, problem, first_steps_of(4.0), steps=jnp.array([0, 40]), effective=True)
    np.testing.assert_allclose(run.effective.signs * jnp.exp(run.effective.log_sizes), both, rtol=1e-12)
    np.testing.assert_allclose(run.effective.network.weights[0], (both[0] + both[1]) / 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(run.network.weights, np.stack([v, w]), rtol=0, atol=1e-14)


def test_a_run_at_rest_keeps_its_effective_start():
    X, y, v, w = normals(2, (N, D), (N,), (D,), (D,))
    start, problem = gflow.Diagonal((0.3 * v, 0.3 * w)), gflow.Regression(X / np.sqrt(D), y / 2)
    short, long = (
        gflow.descend(start, problem, SGD, steps=jnp.array([steps]), effective=True).effective
        for steps in (20_000, 1_000_000)
    )
    np.testing.assert_allclose(long.log_sizes, short.log_sizes, rtol=1e-13)


def test_a_weight_that_a_step_makes_zero_stays_zero():
    problem = gflow.Regression([[1.0, 0.5, 0.25]], [1.0])
    start = gflow.Diagonal((jnp.array([1.0, 1.0, -1.0]), jnp.zeros(3)))
    optimizer = optax.sgd(lambda k: jnp.where(k < 1, 1.0, 0.1))
    run = gflow.descend(start, problem, optimizer, steps=jnp.array([1000]), effective=True)
    assert run.effective.log_sizes[1, 0] == -jnp.inf
    assert jnp.isfinite(run.effective.log_sizes).sum() == 5
    expected = gflow.predict.effective(run, problem)
    assert distance(run.end.coefficients, expected.coefficients) < 1e-12


@pytest.mark.parametrize(
    "network",
    [
        gflow.DifferenceOfPowers(normals(2, (D,), (D,)), depth=2),
        gflow.sparsifying(jnp.eye(D) + normals(3, (D, D))[0] / 10, normals(4, (D,), (D,))),
    ],
    ids=lambda network: type(network).__name__,
)
def test_whatever_has_two_layers_of_modes_has_an_effective_start(network, problem):
    run = gflow.descend(gflow.scale(network, 0.3), problem, SGD, steps=jnp.array([20_000]), effective=True)
    assert distance(run.end.coefficients, gflow.predict.effective(run, problem).coefficients) < 1e-11


def test_lanes_have_their_own_effective_start(start, problem):
    def run(alpha):
        return gflow.descend(gflow.scale(start, alpha), problem, SGD, steps=jnp.array([20_000]), effective=True)

    lanes = jax.vmap(run)(jnp.array([0.1, 1.0]))
    with pytest.raises(ValueError, match=r"run\[i\]"):
        gflow.predict.effective(lanes, problem)
    for i in range(2):
        assert distance(lanes[i].end.coefficients, gflow.predict.effective(lanes[i], problem).coefficients) < 1e-11


def test_logarithms_neither_overflow_nor_underflow(start, problem):
    noise = gflow.LabelNoise(KEY, 3.0, 10_000)
    run = gflow.descend(start, problem, optax.sgd(0.1), steps=jnp.array([20_000]), label_noise=noise, effective=True)
    assert jnp.exp(2 * run.effective.log_sizes.min()) == 0
    expected = gflow.predict.effective(run, problem)
    assert distance(run.end.coefficients, expected.coefficients) < 1e-10


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (optax.adam(0.1), "ScaleByAdamState"),
        (optax.adamw(0.1), "ScaleByAdamState"),
        (optax.sgd(0.1, momentum=0.9), "TraceState"),
        (optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)), "optax.sgd without momentum"),
        (optax.chain(optax.clip(1.0), optax.sgd(0.1)), "clip_by_global_norm"),
    ],
)
def test_optimizers_that_leave_the_gradients_direction_are_refused_by_name(optimizer, name, start, problem):
    with pytest.raises(ValueError, match=name):
        gflow.descend(start, problem, optimizer, steps=jnp.array([1]), effective=True)


def test_networks_without_two_layers_of_modes_are_refused(problem):
    for network in (gflow.Diagonal(normals(0, (D,), (D,), (D,))), gflow.FullyConnected(normals(0, (D, 2), (2,)))):
        with pytest.raises(ValueError, match="no effective start"):
            gflow.descend(network, problem, SGD, steps=jnp.array([1]), effective=True)


def test_runs_that_prove_nothing_are_told_apart(start, problem):
    steps = jnp.array([10])
    run = gflow.descend(start, problem, SGD, steps=steps, effective=True)
    assert not gflow.predict.effective(run, problem).hypotheses[1].holds
    with pytest.raises(gflow.predict.Refusal, match="effective=True"):
        gflow.predict.effective(gflow.descend(start, problem, SGD, steps=steps), problem)
    diverged = gflow.descend(start, problem, optax.sgd(1e4), steps=jnp.array([1000]), effective=True)
    with pytest.raises(gflow.predict.Refusal, match="diverged"):
        gflow.predict.effective(diverged, problem)
    # Clipping of single entries that no random gradient of the check is large enough for.
    clipped, large = optax.chain(optax.clip(1e4), optax.sgd(1e-9)), gflow.scale(start, 1000.0)
    run = gflow.descend(large, problem, clipped, steps=steps, effective=True)
    with pytest.raises(gflow.predict.Refusal, match="direction"):
        gflow.predict.effective(run, problem)


def test_steps_see_their_batch_and_their_noise(start, problem):
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    noise = gflow.LabelNoise(KEY, 0.5, 2)
    v, w = (np.asarray(u) for u in start.weights)
    for k, rows in enumerate(([0, 1], [2, 0], [0, 1])):
        noisy = y + (0.5 * np.asarray(jax.random.normal(jax.random.fold_in(KEY, k), (N,))) if k < 2 else 0.0)
        g = N / 2 * (X[rows] @ (v * w) - noisy[rows]) @ X[rows]
        v, w = v - 0.3 * g * w, w - 0.3 * g * v
    batches = gflow.Batches(jnp.array([[0, 1], [2, 0]]))
    run = gflow.descend(start, problem, SGD, steps=jnp.array([3]), batches=batches, label_noise=noise)
    np.testing.assert_allclose(run.network.weights, np.stack([v, w]), rtol=1e-12)


def test_random_batches_differ_from_step_to_step_and_hold_no_point_twice():
    for size in (1, 3):
        batches = gflow.RandomBatches(KEY, size)
        rows = np.stack([batches.rows(jnp.array(k), 5) for k in range(40)])
        assert rows.shape == (40, size)
        assert set(rows.ravel()) == set(range(5))
        assert all(len(set(row)) == size for row in rows)


def test_bad_batches_and_noise_are_named(start, problem, two_points, unchecked_types):
    def run(problem=problem, **data):
        return gflow.descend(start, problem, SGD, steps=jnp.array([1]), **data)

    for make, message in (
        (lambda: run(batches=[0, 1]), "gflow.Batches"),
        (lambda: run(batches=gflow.Batches(jnp.array([[3]]))), "3 data points"),
        (lambda: run(batches=gflow.RandomBatches(KEY, 4)), "size=4"),
        (lambda: gflow.Batches(jnp.array([0])), r"\(K, b\)"),
        (lambda: run(label_noise=0.1), "gflow.LabelNoise"),
        (lambda: run(problem=two_points, label_noise=gflow.LabelNoise(KEY, 1.0, 1)), "targets"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
