"""Claims about clocks: they run wherever a flow may start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.flows.clocks import LossClock


@pytest.mark.parametrize("output", [-1e5, -800.0, 0.0, 800.0, 1e5])
def test_the_loss_clock_runs_at_any_loss(output):
    """e^{±log L} under- or overflows in float64 beyond 745 or 709."""
    problem = gflow.Classification([[1.0, 0.5]], [1.0])
    size = abs(output) ** 0.25
    network = gflow.Diagonal(([np.sign(output) * size, 0.1], *([size, 0.1],) * 3))
    clock = LossClock(network, problem)
    start = clock.start()
    velocity, change = jax.jvp(lambda state: clock(jnp.zeros(()), state), (start,), (start,))
    assert all(jnp.isfinite(v).all() for v in jax.tree.leaves((velocity, change)))
    assert jnp.any(velocity.theta != 0) | (velocity.log_norm != 0)
