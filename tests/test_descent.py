"""Descent against a loop written out, and against the flow that it approximates."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow import initial


def test_iterates_are_those_of_a_plain_loop(one_point):
    start = initial.diagonal(jnp.array([0.6, -0.3]))
    descent = gflow.descend(start, one_point, optax.sgd(0.01), steps=jnp.array([0, 1, 7]))
    v, w = (np.asarray(u) for u in start.weights)
    x, y = np.asarray(one_point.X[0]), float(one_point.y[0])
    iterates = []
    for _ in range(8):
        iterates.append(v * w)
        r = x @ (v * w) - y
        v, w = v - 0.01 * r * x * w, w - 0.01 * r * x * v
    np.testing.assert_allclose(descent.coefficients, np.stack(iterates)[[0, 1, 7]], rtol=1e-13)
    np.testing.assert_allclose(descent.network.coefficients(), iterates[7], rtol=1e-13)


def test_descent_approaches_the_flow_at_first_order_in_the_step_size(one_point):
    start, t = initial.fully_connected(jnp.array([0.6, -0.3])), 0.8
    exact = gflow.flow(
        start, one_point, save=gflow.Times(jnp.array([t])), method=gflow.Weights(rtol=1e-11)
    ).network.coefficients()
    errors = []
    for step_size in (4e-3, 2e-3, 1e-3):
        steps = jnp.array([round(t / step_size)])
        end = gflow.descend(start, one_point, optax.sgd(step_size), steps=steps).network.coefficients()
        errors.append(np.linalg.norm(end - exact))
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.05)


def test_any_optimizer_serves(one_point):
    start = initial.diagonal(jnp.array([0.6, -0.3]))
    descent = gflow.descend(start, one_point, optax.adam(1e-2), steps=jnp.array([2000]))
    assert descent.log_loss < -20


def test_descent_runs_on_nonlinear_networks_and_stays_near_their_flow(one_point):
    start = gflow.Nonlinear(initial.fully_connected(jnp.array([0.6, -0.3])), jnp.tanh)
    descent = gflow.descend(start, one_point, optax.sgd(1e-3), steps=jnp.array([0, 1000]))
    path = gflow.flow(start, one_point, save=gflow.Times(jnp.array([1.0])))
    assert descent.log_loss < descent.log_losses[0]
    for found, exact in zip(descent.network.weights, path.network.weights, strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=2e-3)


def test_bad_steps_are_named(one_point, unchecked_types):
    start = initial.diagonal(jnp.array([0.6, -0.3]))
    for steps, message in (([3, 1], "increase"), ([0.5], "integers"), (7, r"shape \(T,\)")):
        with pytest.raises(ValueError, match=message):
            gflow.descend(start, one_point, optax.sgd(1e-3), steps=jnp.asarray(steps))
