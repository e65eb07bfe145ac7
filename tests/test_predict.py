"""Predictions against other solvers, closed forms and their own optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, nnls
from truth import normals

import gflow
from gflow import initial, predict


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(0)
    return gflow.Regression(rng.normal(size=(6, 15)), rng.normal(size=6))


@pytest.fixture(scope="module")
def classification():
    rng = np.random.default_rng(1)
    return gflow.Classification(rng.normal(size=(8, 15)), np.sign(rng.normal(size=8)))


def test_the_minimum_l2_norm_is_the_pseudo_inverse(regression):
    found = predict.minimum_norm(regression, p=2)
    np.testing.assert_allclose(found.coefficients, np.linalg.pinv(regression.X) @ regression.y, rtol=1e-9)


def test_the_minimum_l1_norm_is_that_of_a_linear_program(regression):
    X, y = np.asarray(regression.X), np.asarray(regression.y)
    parts = linprog(np.ones(30), A_eq=np.hstack([X, -X]), b_eq=y).x
    np.testing.assert_allclose(
        predict.minimum_norm(regression, p=1).coefficients, parts[:15] - parts[15:], rtol=0, atol=1e-8
    )


def test_the_maximum_l1_margin_is_that_of_a_linear_program(classification):
    A = np.asarray(classification.y)[:, None] * np.asarray(classification.X)
    parts = linprog(np.ones(30), A_ub=np.hstack([-A, A]), b_ub=-np.ones(8)).x
    found = predict.maximum_margin(classification, p=1)
    np.testing.assert_allclose(found.coefficients, parts[:15] - parts[15:], rtol=0, atol=1e-8)


def test_the_maximum_l2_margin_is_that_of_a_least_squares_dual(classification):
    """The hard-margin dual min ½ μᵀKμ − Σμ, μ ≥ 0, as non-negative least squares."""
    A = np.asarray(classification.y)[:, None] * np.asarray(classification.X)
    mu, _ = nnls(A.T, np.linalg.pinv(A) @ np.ones(8))
    np.testing.assert_allclose(predict.maximum_margin(classification, p=2).coefficients, A.T @ mu, rtol=0, atol=1e-8)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("transform", ["none", "fourier"])
def test_every_program_is_certified(p, transform, regression, classification):
    S = None if transform == "none" else predict.dft(15)
    for found in (predict.minimum_norm(regression, p, S), predict.maximum_margin(classification, p, S)):
        assert found.residual <= 1e-6
        assert abs(found.gap) <= 1e-9
    fitted = np.asarray(regression.X) @ predict.minimum_norm(regression, p, S).coefficients
    np.testing.assert_allclose(fitted, regression.y, rtol=0, atol=1e-9)


def test_a_wrong_point_has_a_large_residual(regression):
    from gflow.predict.norms import certified

    X, y = np.asarray(regression.X), np.asarray(regression.y)
    rho = np.linalg.pinv(X) @ y  # optimal for ℓ2, far from it for ℓ1
    mu = np.linalg.solve(X @ X.T, y)
    assert certified(X, y, rho, mu, 2, margins=False)[2] <= 1e-12
    assert certified(X, y, rho, mu, 1, margins=False)[2] >= 0.1


def test_minimum_norms_of_the_paper(one_point, two_points):
    """Section 6 gives ℓ2 [0.2 0.4], ℓ1 [0 0.5] and DFT-domain ℓ1 [1/3 1/3], the same as margin directions."""
    cases = ((2, None, [0.2, 0.4]), (1, None, [0, 0.5]), (1, predict.dft(2), [1 / 3, 1 / 3]))
    for p, S, expected in cases:
        np.testing.assert_allclose(predict.minimum_norm(one_point, p, S).coefficients, expected, rtol=0, atol=1e-9)
        assert gflow.angle(predict.maximum_margin(two_points, p, S).coefficients, np.array(expected)) <= 1e-9


def test_theorem_6_tells_where_its_hypothesis_fails_and_the_formula_still_holds(one_point):
    network = gflow.Diagonal(([0.3, 0.5], [0.4, -0.2]))
    expected = predict.limit(network, one_point)
    dominance, reach = expected.hypotheses
    assert not dominance.holds
    assert reach.holds
    np.testing.assert_allclose(dominance.value, 0.3**2 - 0.4**2, rtol=1e-14)
    assert "FAILS by 0.07" in str(expected)
    assert gflow.compare(gflow.limit(network, one_point), expected).distance <= 1e-9


def test_theorem_6_refuses_a_flow_that_does_not_fit(one_point):
    opposite = gflow.Diagonal(([0.3, 0.5], [-0.3, -0.5]))
    with pytest.raises(ValueError, match=r"never reaches y = 1.0.*is 0"):
        predict.limit(opposite, one_point)
    assert not gflow.limit(opposite, one_point).converged


def test_theorem_6_at_extreme_scales(one_point):
    network = initial.diagonal(jnp.array([0.6, -0.3]))
    for alpha in (1e-100, 1e-30, 1e10, 1e50):
        expected = predict.limit(gflow.scale(network, alpha), one_point)
        assert expected.residual <= 1e-12
    np.testing.assert_allclose(
        predict.limit(gflow.scale(network, 1e-100), one_point).coefficients, [0, 0.5], rtol=0, atol=1e-12
    )


def test_the_strongest_theorem_is_named(one_point, two_points):
    z = jnp.array([0.6, -0.3])
    cases = {
        "Corollary 1": initial.fully_connected,
        "Corollary 2": initial.diagonal,
        "Corollary 3": initial.convolutional,
    }
    for theorem, make in cases.items():
        found = predict.limit(make(z), two_points)
        assert found.theorem == theorem
        assert found.is_direction
        assert predict.limit(make(z), one_point).theorem == "Theorem 6"


def test_refusals_name_the_number_that_fails(regression, one_point, two_points):
    z = jnp.array([0.6, -0.3])
    crossed = gflow.Diagonal((jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])))  # neither layer dominates
    with pytest.raises(ValueError, match=r"Corollary 2: FAILS by 3: λ"):
        predict.limit(crossed, two_points)
    with pytest.raises(ValueError, match=r"Corollary 5 does not apply: FAILS .*: the last layer starts at zero"):
        predict.limit(initial.diagonal(jnp.ones(15)), regression)
    with pytest.raises(ValueError, match="No theorem predicts"):
        predict.limit(initial.diagonal(z, 3), two_points)
    with pytest.raises(ValueError, match="not linearly separable"):
        predict.maximum_margin(gflow.Classification([[1.0, 2.0], [1.0, 2.0]], [1, -1]), p=2)
    with pytest.raises(ValueError, match="n = 2 rows and d = 1 columns"):
        predict.minimum_norm(gflow.Regression([[1.0], [2.0]], [1.0, 2.0]), p=1)
    with pytest.raises(ValueError, match="not full row rank"):
        predict.minimum_norm(gflow.Regression([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0]), p=1)
    with pytest.raises(ValueError, match="p must be 1 or 2"):
        predict.minimum_norm(one_point, p=3)


def test_comparing_different_lengths_is_refused(one_point):
    expected = predict.minimum_norm(gflow.Regression(np.eye(3)[:1], [1.0]), p=2)
    end = gflow.limit(initial.diagonal(jnp.array([0.6, -0.3])), one_point)
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        gflow.compare(end, expected)


@pytest.mark.parametrize(
    ("X", "p", "transform", "width"),
    [
        ([[1.0, 1.0]], 1, False, 1.0),  # (1, 0) and (0, 1)
        ([[1.0, 1.0]], 2, False, 0.0),
        ([[1.0, 0.9]], 1, False, 0.0),
        ([[1e3, 1e3, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5]], 1, False, 1.0),
        ([[1.0, 0.0, 0.0, 0.0]], 1, True, 2.0),  # (1, 1, 1, 1) and (1, -1, 1, -1)
        ([[1.0, 0.3, 0.2, 0.5]], 1, True, 0.0),
    ],
)
def test_minimum_norms_say_whether_they_are_the_only_ones(X, p, transform, width):
    y = np.max(X, axis=1)
    (unique,) = predict.minimum_norm(gflow.Regression(X, y), p, predict.dft(4) if transform else None).hypotheses
    assert unique.holds == (width == 0.0)
    if width > 0:
        np.testing.assert_allclose(-unique.value, width, rtol=1e-6)


def test_tiny_angles_are_accurate():
    for tiny in (1e-3, 1e-9, 1e-15):
        np.testing.assert_allclose(gflow.angle(np.array([1.0, tiny]), np.array([3.0, 0.0])), tiny, rtol=1e-5)
    np.testing.assert_allclose(gflow.angle(np.array([1.0, 1.0]), np.array([-2.0, -2.0])), np.pi, rtol=1e-15)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_angles_of_vectors_of_any_size(size):
    found, slope = jax.value_and_grad(lambda t: gflow.angle(size * jnp.array([1.0, t]), jnp.array([1.0, 0.0])))(1.0)
    np.testing.assert_allclose([found, slope], [np.pi / 4, 0.5], rtol=1e-13)
    np.testing.assert_allclose(gflow.angle(jnp.full(2, 1.7e308), jnp.array([1.0, 0.0])), np.pi / 4, rtol=1e-15)


def test_the_zero_vector_has_no_angle():
    assert jnp.isnan(gflow.angle(jnp.zeros(2), jnp.ones(2)))


@pytest.mark.parametrize("alpha", [1e4, 1e6, 1e8])
def test_theorem_6_keeps_its_digits_at_large_scales(alpha, one_point):
    """Theorem 5's program, another route, at the same start."""
    start = gflow.scale(gflow.Diagonal(([1.0, 0.5], [0.0, 0.0])), alpha)
    expected = predict.orthogonal_limit(start, one_point).coefficients
    np.testing.assert_allclose(predict.two_layer_limit(start, one_point).coefficients, expected, rtol=1e-12)


def test_round_off_is_no_growing_mode():
    """Equal filters stay equal, so xᵀβ = (Σ_j v_j)² is never negative."""
    v = jnp.array([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"never reaches y = -1.0.*is 0"):
        predict.two_layer_limit(gflow.Convolutional((v, v)), gflow.Regression(jnp.ones((1, 3)), [-1.0]))


def test_a_limit_beyond_float64_is_refused(one_point):
    start = gflow.scale(initial.diagonal(jnp.array([0.6, -0.3])), 1e-140)
    with pytest.raises(ValueError, match="out of float64's range"):
        predict.two_layer_limit(start, one_point)


def test_zero_targets_keep_the_zero_start():
    zero = gflow.Diagonal((jnp.ones(4), jnp.zeros(4)))
    for X in (jnp.eye(1, 4), jnp.eye(2, 4)):
        assert not predict.limit(zero, gflow.Regression(X, jnp.zeros(len(X)))).coefficients.any()


CHECKS = {  # Woodworth et al.'s Q by other means: x = (1, 0.4), y = 1, both weights α
    (2, 1e-3): (0.99989953, 0.00025117),
    (2, 0.1): (0.97564852, 0.06087869),
    (2, 1.0): (0.86496013, 0.33759968),
    (2, 10.0): (0.86206927, 0.34482681),
    (3, 0.1): (0.99863326, 0.00341685),
    (3, 1.0): (0.86816617, 0.32958458),
}


@pytest.mark.slow
@pytest.mark.parametrize(("L", "alpha"), CHECKS)
def test_differences_of_powers_have_their_printed_limits(L, alpha):
    network = gflow.DifferenceOfPowers((jnp.full(2, alpha),) * 2, depth=L)
    problem = gflow.Regression([[1.0, 0.4]], [1.0])
    expected, end = gflow.predict.limit(network, problem), gflow.limit(network, problem)
    np.testing.assert_allclose(expected.coefficients, CHECKS[L, alpha], rtol=0, atol=5.1e-9)
    assert end.converged
    assert gflow.compare(end, expected).distance <= 1e-11
    assert expected.theorem == f"Woodworth et al. 2020, Theorem {1 if L == 2 else 3}"


@pytest.mark.slow
@pytest.mark.parametrize("L", [1, 2, 3, 4, 5])
def test_differences_of_powers_from_unequal_starts(L):
    X, y, plus, minus = normals(L, (3, 6), (3,), (6,), (6,))
    network = gflow.DifferenceOfPowers((0.3 * jnp.exp(plus / 2), 0.3 * jnp.exp(minus / 2)), depth=L)
    problem = gflow.Regression(X, y)
    expected, end = gflow.predict.limit(network, problem), gflow.limit(network, problem)
    by_weights = gflow.limit(network, problem, method=gflow.Weights())
    assert end.converged
    assert by_weights.converged
    assert gflow.compare(end, expected).distance <= 1e-9
    assert gflow.compare(by_weights, expected).distance <= 1e-9


def test_a_difference_of_powers_that_starts_negative_is_refused():
    network = gflow.DifferenceOfPowers((jnp.ones(2), -jnp.ones(2)), depth=2)
    with pytest.raises(gflow.predict.Refusal, match="all weights start positive"):
        gflow.predict.limit(network, gflow.Regression([[1.0, 0.4]], [1.0]))
