"""Derivatives of a limit: implicit, through the integrated flow, and by central differences."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import normals

import gflow


def setup(L):
    rng = np.random.default_rng(L)
    X = jnp.asarray(rng.normal(size=(3, 6)))
    weights = tuple(jnp.asarray(rng.normal(size=6)) for _ in range(L))
    return X, jnp.array([1.0, -0.5, 0.7]), jnp.asarray(-0.4), weights


def dual_end(X, y, log_alpha, weights):
    return gflow.limit(gflow.Diagonal(weights), gflow.Regression(X, y), log_alpha=log_alpha).coefficients


def integrated_end(X, y, log_alpha, weights):
    start = gflow.scale(gflow.Diagonal(weights), jnp.exp(log_alpha))
    forward = gflow.Weights(adjoint=diffrax.ForwardMode())
    return gflow.limit(start, gflow.Regression(X, y), method=forward).coefficients


def objective(*arguments):
    return jnp.sum(jnp.sin(dual_end(*arguments)))


# Values are read with the derivatives, by one program: compilation is all that these tests cost.
value_and_gradient = jax.value_and_grad(objective, argnums=(0, 1, 2, 3))


def direction(arguments, seed):
    leaves, tree = jax.tree.flatten(arguments)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=v.shape)) for v in leaves])


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3])
def test_reverse_derivatives_agree_with_central_differences(L):
    arguments = setup(L)
    _, gradient = value_and_gradient(*arguments)
    for seed in range(3):
        towards = direction(arguments, seed)
        h = 1e-4

        def at(t, towards=towards):
            return value_and_gradient(*jax.tree.map(lambda v, w: v + t * w, arguments, towards))[0]

        numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        exact = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards), strict=True))
        assert float(numeric) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("L", [2, 3])
def test_implicit_derivatives_agree_with_those_through_the_flow(L):
    arguments = setup(L)
    towards = direction(arguments, 0)
    _, implicit = jax.jvp(dual_end, arguments, towards)
    _, through = jax.jvp(integrated_end, arguments, towards)
    np.testing.assert_allclose(implicit, through, rtol=0, atol=1e-6 * np.abs(implicit).max())


@pytest.mark.slow
def test_reverse_derivatives_through_the_flow_agree_with_central_differences():
    X, y, log_alpha, _ = setup(2)
    rng = np.random.default_rng(5)
    weights = (jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=2)))

    def objective(X, y, log_alpha, weights):
        end = gflow.limit(gflow.FullyConnected(weights), gflow.Regression(X, y), log_alpha=log_alpha)
        return jnp.sum(jnp.sin(end.network.coefficients()))

    arguments = (X, y, log_alpha, weights)
    both = jax.value_and_grad(objective, argnums=(0, 1, 2, 3))
    _, gradient = both(*arguments)
    towards, h = direction(arguments, 0), 1e-3
    at = [both(*jax.tree.map(lambda v, w, t=t: v + t * h * w, arguments, towards))[0] for t in (-2, -1, 1, 2)]
    numeric = (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * h)
    exact = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards), strict=True))
    assert float(numeric) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.slow
def test_jacobians_batch_and_agree_in_both_modes():
    X, y, _, weights = setup(2)
    scales = jnp.log(jnp.array([1e-3, 0.1, 1.0]))

    def jacobian(mode):
        return jax.vmap(lambda a: mode(dual_end, argnums=1)(X, y, a, weights))(scales)

    forward, reverse = jacobian(jax.jacfwd), jacobian(jax.jacrev)
    np.testing.assert_allclose(forward, reverse, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(X @ forward, jnp.broadcast_to(jnp.eye(3), (3, 3, 3)), rtol=0, atol=1e-9)  # Xβ = y


@pytest.mark.slow
def test_second_derivatives_are_those_of_the_solution():
    X, y, log_alpha, weights = setup(2)
    first = jax.grad(lambda y: jnp.sum(jnp.sin(dual_end(X, y, log_alpha, weights))))
    h = 1e-5
    for e in jnp.eye(3):
        (_, column), (above, _), (below, _) = (jax.jvp(first, (y + t * e,), (e,)) for t in (0.0, h, -h))
        np.testing.assert_allclose(column, (above - below) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gradients_at_a_tiny_scale_are_finite():
    X, y, _, weights = setup(3)
    _, (_, by_y, *_) = value_and_gradient(X, y, jnp.asarray(-1000 * np.log(10.0)), weights)
    assert jnp.isfinite(by_y).all()


def end_of_theorem_5(X, y):
    return gflow.limit(gflow.Diagonal(([1.0, 0.7], [0.0, 0.0])), gflow.Regression(X, y)).coefficients


@pytest.mark.slow
@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_targets_and_inputs_of_zero_have_the_derivatives_of_the_closed_form(jacobian):
    derivatives = jax.jit(jacobian(end_of_theorem_5, argnums=(0, 1)))
    for unit in (1e-3, 1.0, 3e40):  # of a row, which is scaled by a power of two
        X, y = jnp.diag(jnp.array([unit, 2.0])), jnp.array([0.0, 0.6])
        by_X, by_y = derivatives(X, y)  # of β = X⁻¹y
        np.testing.assert_allclose(by_y, np.diag([1 / unit, 0.5]), rtol=1e-12)
        np.testing.assert_allclose(by_X[:, 0, 1], [-0.3 / unit, 0.0], rtol=1e-12)


# A limit as the next task's start: pretraining, then fine-tuning.

FIRST, SECOND = (gflow.Regression(*normals(seed, (2, 4), 2)) for seed in (5, 6))


def fine_tuned(log_alpha, weights, size=1.0):
    first, second = (gflow.Regression(p.X, size * p.y) for p in (FIRST, SECOND))
    end = gflow.limit(gflow.Diagonal(weights), first, log_alpha=log_alpha)
    return gflow.limit(end.network, second, log_alpha=end.log_scale).coefficients, end.log_scale


@pytest.mark.slow
def test_derivatives_go_through_pretraining_and_fine_tuning():
    end = jax.jit(jax.value_and_grad(lambda *start: jnp.sum(jnp.sin(fine_tuned(*start)[0])), argnums=(0, 1)))
    start, h = (jnp.asarray(-0.3), normals(7, 4, 4)), 1e-4
    towards = direction(start, 1)

    def at(t):
        return end(*jax.tree.map(lambda v, w: v + t * w, start, towards))[0]

    numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    gradient = end(*start)[1]
    exact = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards), strict=True))
    assert float(numeric) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.slow
def test_fine_tuning_carries_the_scale_of_weights_that_have_no_float():
    """The flow is homogeneous: c times the targets and √c times the weights of two layers give c times β."""
    weights, size = normals(7, 4, 4), 1e290
    expected, unit = fine_tuned(jnp.asarray(-0.3), weights)
    found, large = fine_tuned(jnp.asarray(-0.3 + np.log(size) / 2), weights, size)
    assert unit == 0
    assert large > 300
    np.testing.assert_allclose(found / size, expected, rtol=1e-9)
