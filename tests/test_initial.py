"""Initial directions have the coefficients that were asked for, and the balance that theorems assume."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gflow
from gflow import initial

VECTORS = st.integers(1, 6).flatmap(lambda d: arrays(float, d, elements=st.floats(-1e3, 1e3)))
DEPTHS = st.integers(2, 5)


@pytest.mark.slow
@given(VECTORS, DEPTHS)
@settings(max_examples=40)
def test_prescribed_coefficients_are_exact(z, depth):
    for network in (
        initial.diagonal(z, depth),
        initial.convolutional(z, depth),
        initial.fully_connected(z, (z.size + 1,) * (depth - 1)),
        initial.fully_connected(z, (1,) * (depth - 1)),
    ):
        assert network.depth == depth
        np.testing.assert_allclose(network.coefficients(), z, rtol=0, atol=2e-15 * (1 + np.linalg.norm(z)))


@pytest.mark.slow
@given(VECTORS, DEPTHS)
@settings(max_examples=40)
def test_first_layers_dominate_the_last(z, depth):
    *others, last = initial.diagonal(z, depth).weights
    assert all(np.all(v**2 - last**2 >= 1 - 1e-9 * last**2) for v in others)
    *others, last = (np.abs(np.fft.fft(w)) for w in initial.convolutional(z, depth).weights)
    assert all(np.all(v**2 - last**2 >= 1 - 1e-9 * (1 + last**2)) for v in others)
    *matrices, last = initial.fully_connected(z, (z.size,) * (depth - 1)).weights
    chain = [*(np.asarray(W) for W in matrices), np.asarray(last)[:, None]]
    for layer, (W, V) in enumerate(itertools.pairwise(chain)):
        least = np.linalg.eigvalsh(W.T @ W - V @ V.T).min()
        assert least >= (1 if layer == depth - 2 else 0) - 1e-9 * (1 + np.linalg.norm(z) ** 2)


def test_last_layer_zero_and_random_directions_keep_the_architecture():
    pattern = gflow.FullyConnected((jnp.ones((3, 2)), jnp.ones(2)))
    network = initial.random_directions(jax.random.key(0), pattern)
    assert isinstance(network, gflow.FullyConnected)
    assert network.weights[0].shape == (3, 2)
    assert not np.any(initial.last_layer_zero(network).coefficients())
    assert np.array_equal(initial.last_layer_zero(network).weights[0], network.weights[0])


def test_a_depth_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2; got 1"):
        initial.diagonal(np.ones(2), 1)
