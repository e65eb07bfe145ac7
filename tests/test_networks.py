"""Architectures against their definitions, written out entry by entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from truth import normals

import gflow


def star(h, w):
    """[h ⋆ w]_i = Σ_j h[(i+j) mod d] w[j], the layer of eq. 12."""
    d = len(h)
    return np.array([sum(h[(i + j) % d] * w[j] for j in range(len(w))) for i in range(d)])


def networks():
    return {
        "diagonal": gflow.Diagonal(normals(0, (4,), (4,), (4,))),
        "convolutional": gflow.Convolutional(normals(1, (2,), (3,), (4,))),
        "fully-connected": gflow.FullyConnected(normals(2, (4, 3), (3, 2), (2,))),
        "one layer": gflow.Diagonal(normals(3, (4,))),
    }


@pytest.mark.parametrize("name", networks())
def test_the_output_is_the_data_tensor_contracted_with_the_weights(name):
    network = networks()[name]
    x = normals(9, (4,))[0]
    contracted = np.asarray(network.data_tensor(x))
    assert contracted.shape == tuple(v.size for v in network.weights)
    for v in reversed(network.weights):
        contracted = contracted @ np.ravel(v)
    np.testing.assert_allclose(contracted, x @ network.coefficients(), rtol=1e-13)
    np.testing.assert_allclose(contracted, network(x[None])[0], rtol=1e-13)


def test_data_tensors_are_the_ones_of_the_paper():
    x = jnp.arange(1.0, 4.0)
    diagonal = gflow.Diagonal((jnp.ones(3), jnp.ones(3)))
    np.testing.assert_array_equal(diagonal.data_tensor(x), np.diag(x))
    convolutional = gflow.Convolutional((jnp.ones(2), jnp.ones(3)))
    shifted = [[x[(j + k) % 3] for k in range(3)] for j in range(2)]
    np.testing.assert_array_equal(convolutional.data_tensor(x), shifted)
    fully_connected = gflow.FullyConnected((jnp.ones((3, 2)), jnp.ones(2)))
    np.testing.assert_array_equal(fully_connected.data_tensor(x), np.kron(x[:, None], np.eye(2)))


@given(st.integers(1, 9).flatmap(lambda d: st.tuples(st.lists(st.integers(1, d), max_size=3), st.just(d))))
@settings(max_examples=25)
def test_convolution_composes_the_layers(lengths):
    *filters, d = [*lengths[0], lengths[1]]
    weights = normals(d, *((k,) for k in filters), (d,))
    x = np.random.default_rng(1).normal(size=d)
    h = x
    for w in weights[:-1]:
        h = star(h, np.asarray(w))
    np.testing.assert_allclose(gflow.Convolutional(weights)(x[None])[0], h @ weights[-1], rtol=1e-10, atol=1e-12)


def test_long_filters_take_the_fourier_route_to_the_same_coefficients():
    w, v = normals(4, (90,), (97,))
    direct = sum(w[j] * np.roll(v, j) for j in range(90))
    np.testing.assert_allclose(gflow.Convolutional((w, v)).coefficients(), direct, rtol=1e-11, atol=1e-12)


def test_scales_a_layer_multiply_each_weight():
    network = networks()["convolutional"]
    scales = tuple(jnp.asarray(0.5 + layer) for layer in range(network.depth))
    scaled = jax.jit(lambda scales: gflow.scale(network, scales))(scales)
    for alpha, weight, before in zip(scales, scaled.weights, network.weights, strict=True):
        np.testing.assert_array_equal(weight, alpha * before)


@given(st.floats(1e-3, 1e3), st.sampled_from(sorted(networks())))
@settings(max_examples=20)
def test_the_initial_scale_multiplies_coefficients_by_its_power_of_depth(alpha, name):
    network = networks()[name]
    scaled = gflow.scale(network, alpha).coefficients()
    np.testing.assert_allclose(scaled, alpha**network.depth * network.coefficients(), rtol=1e-12, atol=0)


def test_networks_batch_like_any_pytree():
    batch = jax.vmap(lambda a: gflow.scale(networks()["convolutional"], a))(jnp.array([1.0, 2.0]))
    betas = jax.vmap(gflow.Convolutional.coefficients)(batch)
    np.testing.assert_allclose(betas[1], 8 * betas[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("network", "weights", "message"),
    [
        (gflow.Diagonal, (np.ones(2), np.ones(3)), r"\(2,\), \(3,\)"),
        (gflow.Diagonal, (), "at least one layer"),
        (gflow.Diagonal, np.ones((2, 3)), "tuple of arrays"),
        (gflow.Convolutional, (np.ones(4), np.ones(3)), "last filter as long as an input"),
        (gflow.FullyConnected, (np.ones((3, 2)), np.ones(3)), "chain"),
        (gflow.FullyConnected, (np.ones((3, 2)),), "last vector"),
    ],
)
def test_wrong_shapes_are_named(network, weights, message):
    with pytest.raises(ValueError, match=message):
        network(weights)
