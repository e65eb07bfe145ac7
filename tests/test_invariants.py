"""What a flow conserves, how fast its loss must fall, and how it aligns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import normals

import gflow

D = 4


X, Y = normals(0, (2, D), 2)
PROBLEM = gflow.Regression(X, Y)
SCALED = jnp.linspace(1, 1.2, D)
NETWORKS = {
    "diagonal": gflow.initial.diagonal(normals(1, D)[0], 3),
    "convolutional": gflow.initial.convolutional(normals(1, D)[0], 2),
    "fully-connected": gflow.FullyConnected((1.7 * jnp.diag(SCALED), 1.3 * jnp.diag(SCALED), 0.3 * normals(3, D)[0])),
    "orthogonal": gflow.sparsifying(normals(4, (D, D))[0], (SCALED, SCALED, 0 * SCALED)),
}
CONSERVED = {
    "diagonal": {"norms", "modes"},
    "convolutional": {"norms", "modes"},
    "fully-connected": {"norms", "balance 0", "balance 1", "outside row(X)"},
    "orthogonal": {"norms", "modes"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_flow_keeps_its_invariants_and_its_rate(name):
    network = NETWORKS[name]
    path = gflow.flow(
        network,
        PROBLEM,
        save=gflow.Times(jnp.concatenate([jnp.zeros(1), jnp.logspace(-3, 1, 20)])),
        method=gflow.Weights(rtol=1e-12),
    )
    drift = gflow.invariants.drift(path.networks, PROBLEM)
    assert set(drift) == CONSERVED[name]
    assert max(drift.values()) < 1e-9
    assert gflow.invariants.steepness(network, PROBLEM) > 0
    bound = gflow.invariants.regression_bound(network, PROBLEM, jnp.exp(path.log_times))
    resolved = path.log_losses > path.log_losses[0] - 41  # a residual of 1e-9; below, it is the integration's error
    assert (path.log_losses <= bound + 1e-9)[resolved].all()


def test_the_drift_notices_a_path_that_is_none():
    path = jax.tree.map(lambda *v: jnp.stack(v), NETWORKS["diagonal"], gflow.scale(NETWORKS["diagonal"], 1.1))
    assert gflow.invariants.drift(path, PROBLEM)["norms"] > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_as_steep_as_promised(name):
    c = gflow.invariants.steepness(NETWORKS[name], PROBLEM)
    gradient = jax.grad(lambda n: jnp.exp(PROBLEM.log_loss(n(X))))(NETWORKS[name]).weights
    r = PROBLEM.residual(NETWORKS[name](X))
    assert sum(jnp.sum(g**2) for g in gradient) >= c * jnp.sum((X.T @ r) ** 2)


def test_a_classification_keeps_its_rate():
    problem, network = gflow.Classification(X, jnp.array([1.0, -1.0])), NETWORKS["diagonal"]
    margin = 1 / np.linalg.norm(gflow.predict.maximum_margin(problem, p=2).coefficients)
    path = gflow.flow(network, problem, save=gflow.Times(jnp.logspace(-3, 4, 30)))
    bound = gflow.invariants.classification_bound(network, problem, jnp.exp(path.log_times), margin)
    assert (path.log_losses <= bound).all()
    smoothed = jax.vmap(lambda n: gflow.invariants.smoothed_margin(n, problem))(path.networks)
    assert (np.diff(smoothed[path.log_losses < 0]) > -1e-9).all()


def test_weights_at_singular_vectors_satisfy_theorem_1_and_are_aligned():
    """For one data point and two layers the singular vectors of M(x) are known."""
    (B,) = normals(5, (D, 3, 5))
    U, _, V = jnp.linalg.svd(jnp.tensordot(X[0], B, 1))
    problem = gflow.Classification(X[:1], jnp.array([1.0]))
    at = gflow.Multilinear((7 * U[:, 0], 7 * V[0]), B)
    assert gflow.measures.singular_vector_residual(at, problem) < 1e-13
    assert gflow.invariants.alignment(at, problem) > 1 - 1e-13
    off = gflow.Multilinear((7 * U[:, 0], 7 * V[1] + 7 * V[0]), B)
    assert gflow.measures.singular_vector_residual(off, problem) > 0.1
    assert gflow.invariants.alignment(off, problem) < 0.99
