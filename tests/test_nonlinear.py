"""A network with an activation, written in layers, is the paper's tensor form (eq. 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import normals

import gflow

D = 4


LAYERED = {
    "diagonal": gflow.Diagonal(normals(0, D, D, D)),
    "convolutional": gflow.Convolutional(normals(0, 2, 3, D)),
    "fully-connected": gflow.FullyConnected(normals(0, (D, 3), (3, 2), 2)),
}
GENERAL = {
    "matrix product": gflow.MatrixProduct(normals(0, (2, 3), (3, 2))),
    "multilinear": gflow.Multilinear(normals(0, 3, 2, 5), *normals(1, (D, 3, 2, 5))),
}
X, Y = normals(2, (2, D), 2)


def tensor_form(network):
    """The same network by its tensor B[i] = M(e_i) alone."""
    tensor = jax.vmap(network.data_tensor)(jnp.eye(D))
    return gflow.Multilinear(tuple(v.ravel() for v in network.weights), tensor)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, lambda t: t])
@pytest.mark.parametrize("name", LAYERED)
def test_the_layered_form_is_the_tensor_form(name, activation):
    network = LAYERED[name]
    by_layers = gflow.Nonlinear(network, activation)(X)
    by_tensor = gflow.Nonlinear(tensor_form(network), activation)(X)
    np.testing.assert_allclose(by_layers, by_tensor, rtol=1e-12)


@pytest.mark.parametrize("name", [*LAYERED, *GENERAL])
def test_the_identity_activation_gives_the_linear_network(name):
    network = (LAYERED | GENERAL)[name]
    np.testing.assert_allclose(gflow.Nonlinear(network, lambda t: t)(X), network(X), rtol=1e-12)


def test_the_flow_descends_the_loss_along_its_gradient():
    network = gflow.Nonlinear(LAYERED["fully-connected"], jnp.tanh)
    problem = gflow.Regression(X, Y)
    h = 1e-4
    path = gflow.flow(
        network, problem, save=gflow.Times(jnp.array([h, 1.0, 10.0, 100.0])), method=gflow.Weights(rtol=1e-12)
    )
    assert (np.diff(np.exp(path.log_losses)) <= 1e-12).all()
    step = [v[0] for v in path.networks.weights]
    half = gflow.with_weights(network, tuple((v + w) / 2 for v, w in zip(network.weights, step, strict=True)))
    slope = jax.grad(lambda n: jnp.exp(problem.log_loss(n(X))))(half).weights
    for v, w, g in zip(network.weights, step, slope, strict=True):
        np.testing.assert_allclose((v - w) / h, g, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["convolutional", "multilinear"])
def test_a_classification_is_learned_by_a_nonlinear_network(name):
    network = gflow.Nonlinear((LAYERED | GENERAL)[name], jnp.tanh)
    path = gflow.flow(
        network, gflow.Classification(X, jnp.array([1.0, -1.0])), save=gflow.Times(jnp.array([1.0, 10.0, 100.0]))
    )
    assert (np.diff(path.log_losses) < 0).all()
    assert path.log_loss < -3


@pytest.mark.slow
def test_the_limit_of_a_nonlinear_regression_is_where_its_flow_ends():
    network = gflow.Nonlinear(LAYERED["fully-connected"], jnp.tanh)
    problem = gflow.Regression(X, Y)
    end = gflow.limit(network, problem)
    far = gflow.flow(network, problem, until=gflow.LogLoss(-50.0), method=gflow.Weights(rtol=1e-12))
    assert end.converged
    assert far.converged
    assert end.certificate.residual < 1e-10
    for v, w in zip(end.network.weights, far.network.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-8, atol=1e-8)
