"""Which theorem serves which network, and that each prediction is right by an independent route."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from truth import distance, even, integrated, normals

import gflow
from gflow.predict import orthogonal

D = 6


X, Y = normals(0, (3, D), 3)
REGRESSION, LABELS = gflow.Regression(X, Y), gflow.Classification(X, jnp.array([1.0, -1.0, 1.0]))
ONE, ONE_LABEL = gflow.Regression(X[:1], Y[:1]), gflow.Classification(X[:1], jnp.array([-1.0]))
EVEN = gflow.Regression(even(X), Y)
Q = jnp.linalg.qr(normals(1, (4, 4))[0])[0]
SENSORS = jnp.einsum("ab,nb,cb->nac", Q, normals(2, (2, 4))[0], Q)
SENSING = gflow.Regression(SENSORS.reshape(2, -1), Y[:2])
ETA = jnp.exp(0.3 * normals(3, D)[0])
ZERO = jnp.zeros(D)
FILTER = jnp.array([1.5, 0.3, 0.1, 0.2, 0.1, 0.3])
ORTHONORMAL = tuple(jnp.linalg.qr(normals(s, (D + 2, D))[0])[0] for s in (4, 5, 6))


def orthogonal_network(L):
    weights = [u @ v for u, v in zip(ORTHONORMAL, (ETA,) * (L - 1) + (ZERO,), strict=False)]
    return gflow.Orthogonal(weights, normals(7, (D, D))[0], ORTHONORMAL[:L])


LINEAR = gflow.Diagonal((ETA,))
DIAGONAL_2, DIAGONAL_3 = gflow.Diagonal((ETA, ZERO)), gflow.Diagonal((ETA, ETA, ZERO))
SHORT = gflow.Convolutional(normals(8, 2, D))
FULL_2, FULL_3 = gflow.Convolutional((FILTER, ZERO)), gflow.Convolutional((FILTER, FILTER, ZERO))
CONNECTED_2 = gflow.FullyConnected((1.3 * jnp.eye(D), 0.4 * normals(9, D)[0]))
CONNECTED_3 = gflow.FullyConnected((1.5 * jnp.eye(D), 1.3 * jnp.eye(D), 0.4 * normals(9, D)[0]))
PRODUCT_2, PRODUCT_3 = gflow.MatrixProduct(normals(10, (2, 4), (4, 3))), gflow.MatrixProduct((jnp.eye(4),) * 3)
SENSING_3 = gflow.MatrixProduct((jnp.eye(4), jnp.eye(4), jnp.zeros((4, 4))))
MULTILINEAR = gflow.Multilinear(normals(11, 4, 7), *normals(12, (D, 4, 7)))

SERVED = [
    (LINEAR, REGRESSION, "linear model: the solution nearest to the start"),
    (DIAGONAL_2, ONE, "Theorem 6"),
    (DIAGONAL_2, REGRESSION, "Corollary 5"),
    (DIAGONAL_3, REGRESSION, "Corollary 5"),
    (SHORT, ONE, "Theorem 6"),
    (FULL_2, ONE, "Theorem 6"),
    (FULL_2, EVEN, "Corollary 6"),
    (FULL_3, EVEN, "Corollary 6"),
    (CONNECTED_2, ONE, "Theorem 6"),
    (CONNECTED_2, REGRESSION, "Theorem 7, α → 0"),
    (CONNECTED_3, REGRESSION, "Theorem 7, α → 0"),
    (PRODUCT_2, ONE, "Theorem 6"),
    (SENSING_3, SENSING, "Corollary 7"),
    (orthogonal_network(2), ONE, "Theorem 6"),
    (orthogonal_network(3), REGRESSION, "Theorem 5"),
    (MULTILINEAR, ONE, "Theorem 6"),
    (LINEAR, LABELS, "Soudry et al. 2018, Theorem 3"),
    (DIAGONAL_2, ONE_LABEL, "Theorem 3"),
    (DIAGONAL_2, LABELS, "Corollary 2"),
    (SHORT, ONE_LABEL, "Theorem 3"),
    (FULL_2, ONE_LABEL, "Theorem 3"),
    (FULL_2, LABELS, "Corollary 3"),
    (CONNECTED_2, ONE_LABEL, "Theorem 3"),
    (CONNECTED_2, LABELS, "Corollary 1"),
    (CONNECTED_3, LABELS, "Corollary 1"),
    (PRODUCT_2, ONE_LABEL, "Theorem 3"),
    (orthogonal_network(2), LABELS, "Theorem 2"),
    (MULTILINEAR, ONE_LABEL, "Theorem 3"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "problem", "theorem"), SERVED)
def test_the_strongest_theorem_is_picked_and_certified(network, problem, theorem):
    found = gflow.predict.limit(network, problem)
    assert found.theorem == theorem
    assert found.residual < 1e-7
    assert not abs(found.gap) > 1e-8  # NaN where the theorem gives a closed form
    outputs = problem.X @ found.coefficients
    if found.is_direction:
        assert (problem.y * outputs).min() > 0
    else:
        np.testing.assert_allclose(outputs, problem.y, rtol=1e-9)


POINTS = [case for case in SERVED if isinstance(case[1], gflow.Regression) and "Theorem 7" not in case[2]]


@pytest.mark.parametrize(("network", "problem", "theorem"), POINTS)
def test_the_limit_point_is_where_the_integrated_weights_end(network, problem, theorem):
    start = gflow.scale(network, 0.5)
    assert distance(integrated(start, problem), gflow.predict.limit(start, problem).coefficients) < 1e-8, theorem


# Theorem 5 and its corollaries.


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(-2, 2))
def test_the_program_of_theorem_5_is_solved_at_any_depth_and_scale(seed, L, log10_alpha):
    A, y, noise = normals(seed, (3, 8), 3, 8)
    eta = 10**log10_alpha * jnp.exp(0.3 * noise)
    found = gflow.predict.orthogonal_limit(gflow.Diagonal((eta,) * (L - 1) + (0 * eta,)), gflow.Regression(A, y))
    assert found.residual < 1e-10
    assert abs(found.gap) < 1e-10


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # the point of the test is to measure that
@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0])
def test_the_conic_program_for_two_layers_is_right_before_it_is_refined(alpha):
    network = gflow.scale(DIAGONAL_2, alpha)
    rho = orthogonal.conic_dual(np.asarray(X), np.asarray(Y), np.asarray(network.weights[0]))
    assert distance(rho, gflow.predict.orthogonal_limit(network, REGRESSION).coefficients) < 1e-6


@pytest.mark.parametrize("L", [3, 4])
def test_small_and_large_scales_give_weighted_norms(L):
    network = gflow.Diagonal((ETA,) * (L - 1) + (ZERO,))
    small = gflow.predict.orthogonal_limit(gflow.scale(network, 1e-4), REGRESSION)
    large = gflow.predict.orthogonal_limit(gflow.scale(network, 1e3), REGRESSION)
    assert distance(small.coefficients, gflow.predict.small_scale_limit(network, REGRESSION).coefficients) < 2e-3
    assert distance(large.coefficients, gflow.predict.large_scale_limit(network, REGRESSION).coefficients) < 1e-5


def test_commuting_sensors_give_minimum_nuclear_and_frobenius_norms():
    import cvxpy as cp

    M = cp.Variable((4, 4), symmetric=True)
    fits = [cp.sum(cp.multiply(np.asarray(A), M)) == float(y) for A, y in zip(SENSORS, SENSING.y, strict=True)]
    cp.Problem(cp.Minimize(cp.normNuc(M)), fits).solve(solver=cp.CLARABEL)
    small = gflow.predict.small_scale_limit(SENSING_3, SENSING).coefficients
    assert distance(small, M.value.ravel()) < 1e-5
    large = gflow.predict.large_scale_limit(SENSING_3, SENSING).coefficients
    assert distance(large, np.linalg.lstsq(SENSING.X, SENSING.y)[0]) < 1e-9


def test_a_sparsifying_network_finds_the_sparse_transform():
    (T,) = normals(13, (D, D))
    network = gflow.sparsifying(T, (jnp.ones(D), jnp.ones(D), jnp.zeros(D)))
    beta = gflow.predict.orthogonal_limit(gflow.scale(network, 1e-3), REGRESSION).coefficients
    sparse = np.sort(np.abs(T @ beta))[::-1]
    assert sparse[3] < 1e-3 * sparse[0]  # three data points: three of six coefficients


# Theorem 3 and Corollary 4.


@pytest.mark.parametrize("y", [1.0, -1.0])
def test_filters_of_length_one_and_two_give_filtered_data(y):
    for x in (jnp.abs(X[0]), jnp.abs(X[0]) * jnp.array([1.0, -1.0] * 3)):
        problem = gflow.Classification(x[None], jnp.array([y]))
        left, right = jnp.roll(x, -1), jnp.roll(x, 1)
        filtered = y * (2 * x + jnp.sign(x @ left) * (left + right))
        for k, expected in ((1, y * x), (2, filtered)):
            found = gflow.predict.two_layer_direction(
                gflow.Convolutional((jnp.ones(D)[:k] * 0.7 + X[0, :k], ZERO)), problem
            )
            assert gflow.angle(found.coefficients, np.asarray(expected)) < 1e-9


def test_a_multiple_singular_value_leaves_the_choice_to_the_start():
    """Diagonal with |x_1| = |x_2| on top: ρ_j ∝ (a_j + y s_j b_j)², by the solution of the flow."""
    problem = gflow.Classification(jnp.array([[2.0, -2.0, 1.0]]), jnp.array([1.0]))
    network = gflow.Diagonal((jnp.array([1.0, 2.0, 9.0]), jnp.array([0.5, 0.5, 0.0])))
    found = gflow.predict.two_layer_direction(network, problem)
    assert gflow.angle(found.coefficients, np.array([1.5**2, -(1.5**2), 0.0])) < 1e-12


# Theorem 2.


def test_a_convex_direction_is_stationary_and_a_random_one_is_not():
    x = gflow.predict.orthogonal_direction(DIAGONAL_2, LABELS).coefficients
    root = jnp.sqrt(jnp.abs(x))
    assert gflow.predict.stationarity(gflow.Diagonal((root, root * jnp.sign(x))), LABELS).residual < 1e-6
    assert gflow.predict.stationarity(gflow.Diagonal((ETA, jnp.linalg.pinv(X) @ LABELS.y)), LABELS).residual > 1e-2


def test_the_search_for_three_layers_finds_stationary_points():
    points = gflow.predict.stationary_points(DIAGONAL_3, LABELS)
    assert points[0].hypotheses[-1].holds
    for point in points[:: len(points) // 6]:
        assert point.residual < 1e-5
        cube = jnp.cbrt(point.coefficients)
        assert gflow.predict.stationarity(gflow.Diagonal((cube,) * 3), LABELS).residual < 1e-5


@pytest.mark.parametrize("network", [FULL_3, orthogonal_network(3)], ids=["convolutional", "orthogonal"])
def test_stationary_points_are_found_in_every_basis(network):
    points = gflow.predict.stationary_points(network, LABELS, starts=3)
    assert points
    assert all(point.residual < 1e-5 for point in points)
    with pytest.raises(ValueError, match="stationary"):
        gflow.predict.limit(network, LABELS)


def test_theorem_2_for_three_layers_is_not_claimed_to_be_a_point():
    with pytest.raises(ValueError, match="stationary"):
        gflow.predict.limit(DIAGONAL_3, LABELS)


# Theorem 1.


@pytest.mark.parametrize(
    "network",
    [SHORT, PRODUCT_3, gflow.MatrixProduct(normals(10, (2, 3), (3, 3))), MULTILINEAR, CONNECTED_3, FULL_3, DIAGONAL_3],
    ids=lambda network: f"{type(network).__name__} {network.depth}",
)
def test_singular_vectors_by_power_iteration_satisfy_theorem_1(network):
    """On one data point the tensor of Theorem 1 is M(y x): alternate over its modes, entry by entry."""
    size = network.coefficients().size
    x = normals(20, size)[0]
    problem = gflow.Classification(x[None], jnp.array([-1.0]))
    tensor = -np.asarray(network.data_tensor(x))
    vectors = [np.asarray(v) for v in normals(21, *tensor.shape)]

    def end():
        weights = (jnp.asarray(v.reshape(w.shape)) for v, w in zip(vectors, network.weights, strict=True))
        return gflow.with_weights(network, tuple(weights))

    assert gflow.measures.singular_vector_residual(end(), problem) > 1e-2
    for _ in range(300):
        for layer in range(len(vectors)):
            contracted = tensor
            for other in reversed(range(len(vectors))):
                if other != layer:
                    contracted = np.tensordot(contracted, vectors[other], (other, 0))
            vectors[layer] = contracted / np.linalg.norm(contracted)
    assert gflow.measures.singular_vector_residual(end(), problem) < 1e-7


# What is refused, by name and number.


@pytest.mark.parametrize(
    ("network", "problem", "message"),
    [
        (gflow.Nonlinear(DIAGONAL_2, jnp.tanh), REGRESSION, "Nonlinear"),
        (gflow.DifferenceOfPowers((ETA, ETA), depth=2), LABELS, "DifferenceOfPowers"),
        (
            gflow.Diagonal((ETA, ETA)),
            REGRESSION,
            r"FAILS by 1: the last layer starts at zero \(start with gflow.initial.last_layer_zero",
        ),
        (gflow.Diagonal((ETA, 2 * ETA, ZERO)), REGRESSION, r"FAILS by 1: layers 1 … L−1 start equal"),
        (FULL_2, REGRESSION, r"FAILS by \d+\.\d+: every input is even"),
        (SENSING_3, gflow.Regression(normals(14, (2, 16))[0], Y[:2]), "symmetric"),
        (SHORT, REGRESSION, "Convolutional has none"),
        (PRODUCT_3, LABELS, "MatrixProduct"),
        (gflow.FullyConnected((jnp.eye(D), 3 * ETA)), REGRESSION, r"FAILS by \d+\.?\d*: λ"),
        (gflow.Diagonal((ZERO, ZERO)), LABELS, r"FAILS by 0: λ"),
        (gflow.Diagonal((ZERO, ZERO)), ONE_LABEL, "never separates"),
    ],
)
def test_what_no_theorem_serves_is_refused_with_the_reason(network, problem, message):
    with pytest.raises(ValueError, match=message):
        gflow.predict.limit(network, problem)


# Theorem 7.


def test_the_limit_nears_the_minimum_norm_like_a_power_of_the_scale():
    expected = gflow.predict.limit(CONNECTED_2, REGRESSION).coefficients
    near, far = (distance(integrated(gflow.scale(CONNECTED_2, a), REGRESSION), expected) for a in (0.05, 0.1))
    assert 0.9 < np.log2(far / near) < 1.2
