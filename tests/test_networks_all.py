"""Each network is its data tensor, and equals the networks that it generalises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from truth import normals

import gflow

D = 4
FOURIER = np.fft.fft(np.eye(D)) / np.sqrt(D)  # unitary, symmetric


def orthonormal(seed, k, m):
    return jnp.linalg.qr(normals(seed, (k, m))[0])[0]


def real_orthogonal(L):
    U = tuple(orthonormal(layer, D + 1 + layer, D + 1) for layer in range(L))
    (S,) = normals(9, (D + 1, D))
    return gflow.Orthogonal(normals(8, *(u.shape[0] for u in U)), S=S, U=U)


def fourier(L):
    return gflow.Orthogonal(normals(8, *[D] * L), S=D ** ((L - 1) / 2) * FOURIER, U=(FOURIER.conj(),) * L)


NETWORKS = {
    "linear model": gflow.Diagonal(normals(0, D)),
    "diagonal 3": gflow.Diagonal(normals(0, D, D, D)),
    "convolution 2": gflow.Convolutional(normals(0, 2, D)),
    "convolution 3": gflow.Convolutional(normals(0, 3, 1, D)),
    "fully-connected 2": gflow.FullyConnected(normals(0, (D, 3), 3)),
    "fully-connected 4": gflow.FullyConnected(normals(0, (D, 3), (3, 2), (2, 4), 4)),
    "matrix product 1": gflow.MatrixProduct(normals(0, (2, 2))),
    "matrix product 3": gflow.MatrixProduct(normals(0, (2, 3), (3, 4), (4, 2))),
    "orthogonal 2": real_orthogonal(2),
    "orthogonal 3": real_orthogonal(3),
    "complex orthogonal 2": fourier(2),
    "complex orthogonal 3": fourier(3),
    "multilinear 1": gflow.Multilinear(normals(0, 3), *normals(1, (D, 3))),
    "multilinear 3": gflow.Multilinear(normals(0, 3, 2, 5), *normals(1, (D, 3, 2, 5))),
}
INPUT = normals(7, D)[0]


def contract(M, weights):
    """M∘(v_1, …, v_L), one layer at a time."""
    for v in weights:
        M = jnp.tensordot(v.ravel(), M, 1)
    return M


@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_the_data_tensor_applied_to_the_weights(name):
    network = NETWORKS[name]
    M = network.data_tensor(INPUT)
    assert M.shape == tuple(v.size for v in network.weights)
    np.testing.assert_allclose(contract(M, network.weights), network(INPUT[None])[0], rtol=1e-12)


def diagonal_tensor(x, L):
    return np.array([x[j[0]] if len(set(j)) == 1 else 0.0 for j in np.ndindex((x.size,) * L)]).reshape((x.size,) * L)


def convolutional_tensor(x, lengths):
    return np.array([x[sum(j) % x.size] for j in np.ndindex(*lengths)]).reshape(lengths)


def fully_connected_tensor(x, widths):
    """Appendix B: T_1 = x; T_l repeats T_{l−1} in d_l diagonal blocks of its last two axes.

    The appendix stacks the columns of W_l; here weights are flattened row by row, so that the block
    index runs fastest.
    """
    T = np.asarray(x)
    for d in widths:
        blocks = np.zeros((*T.shape, d, d))
        for j in range(d):
            blocks[..., j, j] = T
        T = blocks.reshape(*T.shape[:-1], T.shape[-1] * d, d)
    return T


def orthogonal_tensor(x, S, U):
    letters = "abc"[: len(U)]
    return np.einsum(",".join(["j", *(f"{a}j" for a in letters)]) + "->" + letters, S @ x, *U)


EXPLICIT = {
    "linear model": INPUT,
    "diagonal 3": diagonal_tensor(INPUT, 3),
    "convolution 2": convolutional_tensor(INPUT, (2, D)),
    "convolution 3": convolutional_tensor(INPUT, (3, 1, D)),
    "fully-connected 2": fully_connected_tensor(INPUT, (3,)),
    "fully-connected 4": fully_connected_tensor(INPUT, (3, 2, 4)),
    "matrix product 1": INPUT,
    "orthogonal 3": orthogonal_tensor(INPUT, NETWORKS["orthogonal 3"].S, NETWORKS["orthogonal 3"].U),
    "complex orthogonal 3": convolutional_tensor(INPUT, (D, D, D)),
    "multilinear 3": np.tensordot(INPUT, NETWORKS["multilinear 3"].tensor, 1),
}


@pytest.mark.parametrize("name", EXPLICIT)
def test_data_tensor_is_the_papers(name):
    np.testing.assert_allclose(NETWORKS[name].data_tensor(INPUT), EXPLICIT[name], rtol=0, atol=1e-13)


def test_the_matrix_product_with_a_column_at_its_end_is_fully_connected():
    weights = normals(3, (D, 3), (3, 2), (2,))
    product = gflow.MatrixProduct((*weights[:-1], weights[-1][:, None]))
    np.testing.assert_allclose(product.coefficients(), gflow.FullyConnected(weights).coefficients(), rtol=1e-14)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_full_length_convolution_is_orthogonal_in_fourier_space(seed, L):
    weights = normals(seed, *[D] * L)
    network = gflow.Orthogonal(weights, S=D ** ((L - 1) / 2) * FOURIER, U=(FOURIER.conj(),) * L)
    np.testing.assert_allclose(network.coefficients(), gflow.Convolutional(weights).coefficients(), rtol=0, atol=1e-11)


def test_difference_of_two_squares_is_diagonal():
    plus, minus = normals(4, D, D)
    tied = gflow.DifferenceOfPowers((plus, minus), depth=2)
    diagonal = gflow.Diagonal((plus + minus, plus - minus))
    np.testing.assert_allclose(tied.coefficients(), diagonal.coefficients(), rtol=0, atol=1e-14)
    cubes = gflow.DifferenceOfPowers((plus, minus), depth=3)
    np.testing.assert_allclose(gflow.scale(cubes, 2.0).coefficients(), 8 * cubes.coefficients(), rtol=1e-14)


def test_the_flow_of_a_difference_of_squares_is_the_diagonal_one_at_half_the_time():
    plus, minus = normals(4, D, D)
    problem = gflow.Regression(*normals(5, (2, D), 2))
    tied = gflow.flow(
        gflow.DifferenceOfPowers((plus, minus), depth=2),
        problem,
        save=gflow.Times(jnp.array([0.5])),
        method=gflow.Weights(rtol=1e-11),
    )
    diagonal = gflow.flow(
        gflow.Diagonal((plus + minus, plus - minus)),
        problem,
        save=gflow.Times(jnp.array([1.0])),
        method=gflow.Weights(rtol=1e-11),
    )
    np.testing.assert_allclose(tied.network.coefficients(), diagonal.network.coefficients(), rtol=1e-9)


def test_the_linear_model_is_the_diagonal_network_of_one_layer():
    """Its flow is β(t) = β* + e^{−tXᵀX}(β(0) − β*) with X β* = y."""
    start, X = normals(6, D, (2, D))
    y = X @ jnp.ones(D)
    end = gflow.flow(
        gflow.Diagonal((start,)),
        gflow.Regression(X, y),
        save=gflow.Times(jnp.array([0.7])),
        method=gflow.Weights(rtol=1e-11),
    ).network
    expected = 1 + jax.scipy.linalg.expm(-0.7 * X.T @ X) @ (start - 1)
    np.testing.assert_allclose(end.coefficients(), expected, rtol=1e-9)


@pytest.mark.slow
def test_the_flow_of_a_complex_decomposition_is_that_of_the_real_network():
    problem = gflow.Regression(*normals(5, (2, D), 2))
    network = fourier(3)
    both = (network, gflow.Convolutional(network.weights))
    ends = [gflow.flow(n, problem, save=gflow.Times(jnp.array([0.3])), method=gflow.Weights(rtol=1e-11)) for n in both]
    np.testing.assert_allclose(*(end.network.coefficients() for end in ends), rtol=1e-9)


def test_sparsifying_puts_the_transform_of_the_coefficients_in_rho():
    (T,) = normals(2, (D, D))
    network = gflow.sparsifying(T, normals(3, D, D, D))
    np.testing.assert_allclose(T @ network.coefficients(), np.prod(network.weights, axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gflow.MatrixProduct(normals(0, (2, 3), (2, 3))), "chain"),
        (lambda: gflow.Orthogonal(normals(0, 3, 3), S=np.ones((3, 2)), U=(np.eye(3),) * 2), "full rank"),
        (lambda: gflow.Orthogonal(normals(0, 3, 3), S=np.ones((2, 3)), U=(np.eye(3)[:, :2],) * 2), "full rank"),
        (lambda: gflow.Orthogonal(normals(0, 3, 3), S=np.eye(3), U=(np.eye(3), 2 * np.eye(3))), "orthonormal"),
        (lambda: gflow.Orthogonal(normals(0, D, D), S=FOURIER, U=(np.eye(D), FOURIER)), "not real"),
        (lambda: gflow.Orthogonal(normals(0, 3), S=np.eye(3), U=(np.eye(3),) * 2), "for every weight"),
        (lambda: gflow.Multilinear(normals(0, 3, 3), tensor=np.ones((2, 3, 4))), "tensor of shape"),
        (lambda: gflow.DifferenceOfPowers(normals(0, 3, 2), depth=2), "one length"),
        (lambda: gflow.DifferenceOfPowers(normals(0, 3, 3), depth=0), "at least 1"),
        (lambda: gflow.sparsifying(np.ones((3, 2)), normals(0, 2)), "square"),
    ],
)
def test_a_network_that_is_none_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("L", [2, 3])
@pytest.mark.parametrize(("d", "route"), [(1, gflow.Route.dual), (2, gflow.Route.dual), (3, gflow.Route.weights)])
def test_convolutions_of_up_to_two_inputs_decouple_for_all_data(d, route, L):
    network, (X, beta) = gflow.Convolutional(normals(2, *[d] * L)), normals(3, (1, d), d)
    problem = gflow.Regression(X, X @ beta)
    end, other = gflow.limit(network, problem), gflow.limit(network, problem, method=gflow.Weights())
    assert end.route == route
    assert end.converged
    assert other.converged
    for v, w in zip(end.network.weights, other.network.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=0, atol=1e-8)
