"""Claims about limit directions: the dual engine for every real decomposition, `limit`, and figures of curves."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import gflow
from gflow import decomposition, finite_loss, invariants

RNG = np.random.default_rng(5)
DECADES = jnp.array([1.0, 3.0, 10.0, 100.0])


def even(x):
    return (x + np.roll(x[..., ::-1], 1, axis=-1)) / 2


def labels(n):
    return RNG.choice([-1.0, 1.0], n)


def even_convolution():
    problem = gflow.Classification(even(RNG.standard_normal((3, 7))), labels(3))
    return gflow.Convolutional(tuple(0.3 * even(RNG.standard_normal(7)) for _ in range(2))), problem


def commuting_product():
    Q, _ = np.linalg.qr(RNG.standard_normal((4, 4)))
    W_1, W_2, W_3, *sensors = [(Q * RNG.standard_normal(4)) @ Q.T for _ in range(5)]
    problem = gflow.Classification(np.stack(sensors).reshape(2, -1), labels(2))
    return gflow.scale(gflow.MatrixProduct((W_1, W_2, W_3)), 0.5), problem


def sparsifying():
    problem = gflow.Classification(RNG.standard_normal((7, 4)), np.ones(7))  # more points than coordinates
    X = problem.X * jnp.sign(problem.X @ jnp.array([1.0, -2.0, 0.5, 1.0]))[:, None]
    network = gflow.sparsifying(RNG.standard_normal((4, 4)), RNG.standard_normal((2, 4)))
    return gflow.scale(network, 0.3), gflow.Classification(X, problem.y)


CASES = {make.__name__: make() for make in (even_convolution, commuting_product, sparsifying)}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    network, problem = CASES[request.param]
    path = jax.jit(lambda n: gflow.flow(n, problem, log_loss=-1.1e3, max_steps=400))(network)
    decades, directions = finite_loss.direction_curve(path)
    rows = jnp.array([jnp.argmax(decades >= decade) for decade in (1.0, 3.0)])
    # The dual flow is read at the losses at which the weights have been saved.
    at = jnp.concatenate([decades[rows], DECADES[2:]])
    curve = jax.jit(lambda log_alpha: gflow.direction_flow(network, problem, at, log_alpha=log_alpha))(0.0)
    return network, problem, directions[rows], curve


def test_dual_coordinates_follow_the_weights_of_every_real_decomposition(case):
    _, _, directions, curve = case
    assert curve.status == gflow.Status.converged
    assert jnp.max(jax.vmap(finite_loss.angles)(curve.directions[:2], directions)) < 1e-5
    assert jnp.all(curve.errors[:2] == 0)


def test_the_kkt_residual_falls_to_the_error_of_the_cap(case):
    network, problem, _, curve = case
    found = decomposition.decompose(network, problem)
    A = problem.y[:, None] * found.Z
    residuals = jax.vmap(lambda r, q: invariants.kkt_residual(r, q, A, network.depth))(curve.rho, curve.multipliers)
    assert residuals[-1] < 1e-2 * residuals[0]
    assert residuals[-1] < 1e-5 + curve.errors[-1]
