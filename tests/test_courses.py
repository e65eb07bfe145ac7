"""Time courses in closed form against integrated weights, at every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from truth import distance, normals

import gflow

TIMES = np.array([0.0, 1e-9, 0.05, 0.3, 1.0, 2.5, 6.0, 20.0])


def integrated_pairs(W_1, W_2, gradient, times):
    """The two weights at the times, by SciPy, where −∂L/∂(W_1, W_2) = gradient(W_1, W_2)."""
    W_1, W_2 = np.asarray(W_1), np.asarray(W_2)

    def split(z):
        return z[: W_1.size].reshape(W_1.shape), z[W_1.size :].reshape(W_2.shape)

    def field(_, z):
        return np.concatenate([g.ravel() for g in gradient(*split(z))])

    start = np.concatenate([W_1.ravel(), W_2.ravel()])
    # Short steps, for it interpolates to the times with 7th order: 2.5e-10 off where modes of size 1e-3 wake up.
    run = solve_ivp(field, (0, times[-1]), start, "DOP853", times, rtol=1e-13, atol=1e-16, max_step=0.05)
    return [split(z) for z in run.y.T]


def integrated_products(W_1, W_2, Y, times, c=1.0):
    def gradient(A, B):
        missing = c * (Y - A @ B)
        return missing @ B.T, A.T @ missing

    return np.stack([(A @ B).ravel() for A, B in integrated_pairs(W_1, W_2, gradient, times)])


WIDTHS = [((4, 3, 5), 0.0), ((4, 3, 5), 1.0), ((4, 3, 5), -1.0), ((2, 6, 3), 0.0)]


@pytest.mark.parametrize("alpha", [1.0, 1e-3])
@pytest.mark.parametrize(("widths", "lambda_"), WIDTHS)
def test_a_balanced_product_is_where_the_integrated_weights_are(widths, lambda_, alpha):
    start = gflow.scale(gflow.initial.balanced(jax.random.key(1), widths, lambda_), alpha)
    (Y,) = map(np.asarray, normals(2, (widths[0], widths[2])))
    found = gflow.predict.path(start, gflow.Regression(jnp.eye(Y.size), Y.ravel()), TIMES)
    assert found.residual < 1e-12
    np.testing.assert_allclose(found.coefficients, integrated_products(*start.weights, Y, TIMES), rtol=0, atol=1e-10)


def test_targets_of_low_rank_leave_modes_that_decay_like_one_over_t():
    """Also what is not at zero: eigenvalues of F that are zero, or twice the same."""
    start = gflow.initial.balanced(jax.random.key(1), (4, 3, 4), 0.0)
    for Y in (np.diag([2.0, 2.0, 0.0, 0.0]), np.zeros((4, 4))):
        found = gflow.predict.path(start, gflow.Regression(jnp.eye(16), Y.ravel()), TIMES)
        np.testing.assert_allclose(
            found.coefficients, integrated_products(*start.weights, Y, TIMES), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("alpha", [1.0, 1e-8, 1e-150])
def test_late_times_and_tiny_scales_neither_overflow_nor_lose_small_modes(alpha):
    """The end is the best approximation of rank h (Eckart and Young); at α = 1e-150 it takes t ~ log(1/α)."""
    start = gflow.scale(gflow.initial.balanced(jax.random.key(1), (4, 3, 5), 0.0), alpha)
    (Y,) = map(np.asarray, normals(2, (4, 5)))
    U, s, Vt = np.linalg.svd(Y)
    problem = gflow.Regression(jnp.eye(20), Y.ravel())
    found = gflow.predict.path(start, problem, [1e4, 1e8, 1e300])
    best = ((U[:, :3] * s[:3]) @ Vt[:3]).ravel()
    np.testing.assert_allclose(found.coefficients, np.broadcast_to(best, (3, 20)), rtol=0, atol=1e-13)


def test_whitened_inputs_of_any_scale_and_several_outputs():
    """A fully-connected network on XᵀX = cI, and f(x) = W_2ᵀW_1ᵀx as a product with the sensors x e_jᵀ."""
    inputs = np.linalg.qr(np.asarray(normals(3, (9, 4))[0]))[0] * 1.5
    first, second = gflow.initial.balanced(jax.random.key(2), (4, 3, 1), 1.0).weights
    (y, Y) = map(np.asarray, normals(4, 9, (9, 2)))
    found = gflow.predict.path(gflow.FullyConnected((first, second[:, 0])), gflow.Regression(inputs, y), TIMES)
    expected = integrated_products(first, second, inputs.T @ y[:, None] / 2.25, TIMES, 2.25)
    np.testing.assert_allclose(found.coefficients, expected, rtol=0, atol=1e-10)
    start = gflow.initial.balanced(jax.random.key(2), (4, 3, 2), 1.0)
    found = gflow.predict.path(start, gflow.Regression(np.kron(inputs, np.eye(2)), Y.ravel()), TIMES)
    expected = integrated_products(*start.weights, inputs.T @ Y / 2.25, TIMES, 2.25)
    np.testing.assert_allclose(found.coefficients, expected, rtol=0, atol=1e-10)


ONE_POINT = [
    gflow.Diagonal(normals(5, 4, 4)),
    gflow.Convolutional(normals(6, 2, 4)),
    gflow.Multilinear(normals(8, 3, 4), *normals(9, (4, 3, 4))),
]


@pytest.mark.parametrize("network", ONE_POINT, ids=lambda network: type(network).__name__)
@pytest.mark.parametrize("alpha", [1.0, 1e-4])
def test_theorem_6_holds_at_every_time(network, alpha):
    y = 1.3 if alpha == 1.0 else -0.7
    start = gflow.scale(network, alpha)
    (x,) = normals(10, network.coefficients().size)
    M = np.asarray(network.data_tensor(x))

    def gradient(v, w):
        missing = y - v.ravel() @ M @ w.ravel()
        return missing * (M @ w.ravel()), missing * (M.T @ v.ravel())

    found = gflow.predict.path(start, gflow.Regression(x[None], jnp.array([y])), TIMES)
    assert found.residual < 1e-13
    pairs = integrated_pairs(*start.weights, gradient, TIMES)
    expected = [gflow.with_weights(start, tuple(map(jnp.asarray, pair))).coefficients() for pair in pairs]
    np.testing.assert_allclose(found.coefficients, np.stack(expected), rtol=0, atol=1e-10)


def test_theorem_6_ends_at_its_limit_and_stays_where_it_has_arrived():
    x = jnp.array([[1.0, 2.0, -0.3, 0.7]])
    problem = gflow.Regression(x, jnp.array([1.0]))
    end = gflow.predict.path(ONE_POINT[0], problem, [1e300]).coefficients[0]
    assert distance(end, gflow.predict.two_layer_limit(ONE_POINT[0], problem).coefficients) < 1e-14
    arrived = gflow.predict.path(ONE_POINT[0], gflow.Regression(x, ONE_POINT[0](x)), TIMES).coefficients
    np.testing.assert_allclose(arrived - ONE_POINT[0].coefficients(), 0, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", [3, 7])
def test_the_linear_model_relaxes_by_the_exponential_of_its_gram_matrix(n):
    X, y, v = map(np.asarray, normals(11, (n, 5), n, 5))
    found = gflow.predict.path(gflow.Diagonal((v,)), gflow.Regression(X, y), TIMES)
    best = v + np.linalg.lstsq(X, y - X @ v)[0]
    expected = np.stack([best + expm(-X.T @ X * t) @ (v - best) for t in TIMES])
    np.testing.assert_allclose(found.coefficients, expected, rtol=0, atol=1e-12)
    assert found.residual < 1e-13


def test_what_has_no_time_course_is_refused_with_the_number(unchecked_types):
    X, y = normals(12, (3, 4), 3)
    problem = gflow.Regression(X, y)
    skewed = gflow.MatrixProduct(normals(13, (2, 2), (2, 2)))
    for network, where, message in (
        (skewed, gflow.Regression(jnp.eye(4), jnp.ones(4)), r"FAILS by .*: the start is balanced"),
        (gflow.initial.balanced(jax.random.key(0), (2, 2, 2)), problem, r"FAILS by .*: inputs are whitened"),
        (gflow.Diagonal(normals(13, 4, 4)), problem, "Exact time courses are those of"),
    ):
        with pytest.raises(gflow.predict.Refusal, match=message):
            gflow.predict.path(network, where, [1.0])
    for times in ([-1.0], [np.inf], [[1.0]]):
        with pytest.raises(ValueError, match="times must"):
            gflow.predict.path(gflow.Diagonal((y,)), gflow.Regression(jnp.eye(3), y), times)


@pytest.mark.parametrize(("widths", "lambda_"), WIDTHS)
def test_balanced_starts_are_balanced_and_of_full_rank(widths, lambda_):
    W_1, W_2 = gflow.initial.balanced(jax.random.key(3), widths, lambda_).weights
    np.testing.assert_allclose(W_1.T @ W_1 - W_2 @ W_2.T, lambda_ * np.eye(widths[1]), rtol=0, atol=1e-14)
    assert np.linalg.matrix_rank(W_1 @ W_2) == min(widths)


@pytest.mark.parametrize(("widths", "lambda_"), [((2, 3, 4), 1.0), ((4, 3, 2), -1.0), ((3, 3), 0.0)])
def test_starts_that_cannot_be_balanced_are_refused(widths, lambda_, unchecked_types):
    with pytest.raises(ValueError, match="widths"):
        gflow.initial.balanced(jax.random.key(3), widths, lambda_)
