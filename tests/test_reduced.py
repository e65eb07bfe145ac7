"""A smaller network is integrated where one flows exactly as the given one, and its weights are lifted back."""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from truth import normals

import gflow
from gflow.flows.smaller import Followed
from gflow.flows.stopping import turning_rate
from gflow.problems import loss_gradient


class Whole(gflow.LinearTensorNetwork):
    """A product of matrices, the last perhaps a vector, of whose structure gflow is told nothing."""

    weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

    def coefficients(self):
        product = self.weights[-1]
        for W in reversed(self.weights[:-1]):
            product = W @ product
        return product.ravel()

    def hidden(self, x):
        return x

    def layer(self, hidden, v):
        return hidden @ v


def fully_connected(*shapes, seed=0, size=0.4):
    return gflow.FullyConnected(tuple(size * v for v in normals(seed, *shapes)))


def convolution(*lengths):
    return gflow.Convolutional(tuple(v / v.size for v in normals(3, *lengths)))


def matrix_product(*shapes, seed=0):
    return gflow.MatrixProduct(tuple(0.4 * v for v in normals(seed, *shapes)))


def whole(network):
    return Whole(network.weights)


def furthest(a, b):
    """The largest difference between the weights of two networks."""
    return max(float(jnp.abs(v - w).max()) for v, w in zip(a.weights, b.weights, strict=True))


N, D = 3, 8
X, Y = normals(7, (N, D), N)
LABELS = gflow.Classification(X, jnp.array([1.0, -1.0, 1.0]))
SENSORS = normals(8, (2, 9, 2))[0]  # two sensors of 9 × 2: their columns span 4 dimensions of 9
TALL, WIDE = SENSORS.reshape(2, -1), SENSORS.mT.reshape(2, -1)
SQUARE = normals(9, (3, 9))[0]  # three sensors of 3 × 3, whose columns span all

# A network, its inputs, and the shapes of the network that is integrated.
CASES = {
    "fewer points than inputs": (fully_connected((8, 4), 4), X, ((3, 4), (4,))),
    "as many points as inputs": (fully_connected((3, 4), 4), X[:, :3], None),
    "one point fewer than inputs": (fully_connected((4, 4), 4), X[:, :4], ((3, 4), (4,))),
    "one hidden unit too many": (fully_connected((8, 5), 5), X, ((3, 4), (4,))),
    "many hidden units": (fully_connected((8, 20), 20), X, ((3, 4), (4,))),
    "many hidden units, many points": (fully_connected((2, 9), 9), X[:, :2], ((2, 3), (3,))),
    "one layer": (fully_connected(8), X, ((3,),)),
    "three layers": (fully_connected((8, 4), (4, 5), 5), X, ((3, 4), (4, 5), (5,))),
    "three layers, the last wide": (fully_connected((8, 4), (4, 6), 6), X, ((3, 4), (4, 5), (5,))),
    "three layers, the first wide": (fully_connected((8, 9), (9, 2), 2), X, ((3, 5), (5, 2), (2,))),
    "nonlinear": (gflow.Nonlinear(fully_connected((8, 9), 9), jnp.tanh), X, ((3, 9), (9,))),
    "nonlinear, as many points as inputs": (gflow.Nonlinear(fully_connected((3, 9), 9), jnp.tanh), X[:, :3], None),
    "tall sensors": (matrix_product((9, 3), (3, 2)), TALL, ((4, 3), (3, 2))),
    "wide sensors": (matrix_product((2, 3), (3, 9)), WIDE, ((2, 3), (3, 4))),
    "tall sensors, many hidden units": (matrix_product((9, 7), (7, 2)), TALL, ((4, 6), (6, 2))),
    "wide sensors, three layers": (matrix_product((2, 3), (3, 4), (4, 9)), WIDE, ((2, 3), (3, 4), (4, 4))),
    "tall sensors, one layer": (matrix_product((9, 2)), TALL, ((4, 2),)),
    "square sensors": (matrix_product((3, 6), (6, 3)), SQUARE, None),
    "square sensors, many hidden units": (matrix_product((3, 7), (7, 3)), SQUARE, ((3, 6), (6, 3))),
    "nonlinear, tall sensors": (gflow.Nonlinear(matrix_product((9, 3), (3, 2)), jnp.tanh), TALL, ((4, 3), (3, 2))),
    "nonlinear, wide sensors": (gflow.Nonlinear(matrix_product((2, 3), (3, 9)), jnp.tanh), WIDE, None),
    "convolution, even length": (convolution(8, 8), X, ((8,), (8,))),
    "convolution, odd length": (convolution(7, 7, 7), X[:, :7], ((7,), (7,), (7,))),
    "convolution, two entries": (convolution(2, 2), X[:, :2], ((2,), (2,))),
    "convolution, one entry": (convolution(1, 1, 1), X[:, :1], ((1,), (1,), (1,))),
    "convolution, one layer": (convolution(8), X, ((8,),)),
    "convolution, short filters": (convolution(7, 8), X, None),
    "longest convolution": (convolution(512, 512), normals(2, (2, 512))[0], ((512,), (512,))),
    "too long a convolution": (convolution(513, 513), normals(2, (2, 513))[0], None),
    "nonlinear convolution": (gflow.Nonlinear(convolution(8, 8), jnp.tanh), X, None),
    "nonlinear diagonal": (gflow.Nonlinear(gflow.Diagonal(normals(0, 8, 8)), jnp.tanh), X, None),
}


def reduction(network, inputs):
    found = network.reduced(inputs)
    further = (network if found is None else found.network).narrowed()
    return further if found is None else found if further is None else found.then(further)


@pytest.mark.parametrize("name", CASES)
def test_shapes_alone_decide_which_network_is_integrated(name):
    network, inputs, shapes = CASES[name]
    found = reduction(network, inputs)
    assert (None if found is None else tuple(v.shape for v in found.network.weights)) == shapes


@pytest.mark.parametrize("name", [name for name, (_, _, shapes) in CASES.items() if shapes])
def test_the_smaller_network_has_the_outputs_and_the_flow_of_the_whole_one(name):
    """At any later time: the velocity of the lifted weights is that of the smaller ones, lifted."""
    network, inputs, _ = CASES[name]
    found = reduction(network, inputs)
    later = gflow.with_weights(found.network, tuple(v + 0.3 * jnp.sin(7 * v) for v in found.network.weights))
    lifted, problem = found.lift(later), gflow.Regression(inputs, jnp.ones(len(inputs)))
    small = inputs if found.X is None else found.X
    np.testing.assert_allclose(lifted(inputs), later(small), rtol=0, atol=1e-13)
    velocity = loss_gradient(lifted.weights, lifted, problem)
    inner = loss_gradient(later.weights, later, problem.with_inputs(small))
    for v, u, (P, R) in zip(velocity, inner, found.bases, strict=True):
        left = u if P is None else P @ u
        np.testing.assert_allclose(v, left if R is None else left @ R.T, rtol=0, atol=1e-13)
    sizes = [sum(float(jnp.sum(v**2)) for v in n.weights) for n in (lifted, later)]
    assert sizes[0] == pytest.approx(sizes[1] + float(found.at_rest()), rel=1e-13)
    if isinstance(network, gflow.LinearNetwork):
        np.testing.assert_allclose(found.coefficients(later), lifted.coefficients(), rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["many hidden units", "many hidden units, many points", "three layers, the last wide", "tall sensors"]
)
def test_a_regression_ends_where_the_whole_network_does(name):
    network, inputs, _ = CASES[name]
    problem = gflow.Regression(inputs, inputs @ normals(4, inputs.shape[1])[0])
    end, exact = (gflow.limit(n, problem, tolerance=2e-11) for n in (network, whole(network)))
    assert end.converged
    assert exact.converged
    assert furthest(end.network, exact.network) < 1e-10
    assert end.log_loss == problem.log_loss(end.network(inputs))  # of the network that is returned
    path, whole_path = (
        gflow.flow(n, problem, save=gflow.Times([0.3, 2.0]), method=gflow.Weights(rtol=1e-12))
        for n in (network, whole(network))
    )
    assert furthest(path.networks, whole_path.networks) < 1e-10
    assert furthest(path.network, whole_path.network) < 1e-10


@pytest.mark.slow
def test_a_nonlinear_regression_ends_where_the_whole_network_does():
    network, problem = CASES["nonlinear"][0], gflow.Regression(X, jnp.array([0.5, -0.3, 0.2]))
    exact = gflow.limit(gflow.Nonlinear(whole(network.network), jnp.tanh), problem, tolerance=2e-11)
    end = gflow.limit(network, problem, tolerance=2e-11)
    assert end.converged
    assert furthest(end.network, exact.network) < 1e-10
    assert float(end.error) == pytest.approx(float(exact.error), rel=0.5)  # relative to all weights, moving or not


@pytest.mark.slow
@pytest.mark.parametrize("name", ["many hidden units", "three layers"])
def test_a_classification_flows_as_the_whole_network_does(name):
    network = CASES[name][0]
    path, exact = (
        gflow.flow(n, LABELS, save=gflow.Times([0.3, 10.0]), method=gflow.Weights(rtol=1e-12))
        for n in (network, whole(network))
    )
    assert furthest(path.networks, exact.networks) < 1e-10


@pytest.mark.slow
def test_a_direction_and_its_certificate_are_those_of_the_whole_network():
    end = gflow.limit(CASES["many hidden units"][0], LABELS)
    assert end.converged
    assert gflow.angle(end.direction, gflow.predict.maximum_margin(LABELS, 2).coefficients) <= end.error
    assert end.log_loss == LABELS.log_loss(end.network(X))
    # β = Σ μ_i y_i x_i gives the multipliers, which margins that are equal do not.
    multipliers = jnp.linalg.lstsq(X.T * LABELS.y, end.direction)[0]
    found = gflow.measures.singular_vector_residual(end.network, LABELS, multipliers / jnp.sum(multipliers))
    assert max(float(found), float(end.certificate.singular_vector_residual)) < 1e-12
    assert end.certificate.kkt_residual <= end.error


# Inputs.


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-200])
def test_a_basis_holds_every_row_to_round_off_of_its_own_size(size):
    """Also where a row is tiny, or all but parallel to another one."""
    rows = jnp.stack([X[0], size * X[1], X[0] + 1e-9 * X[2]])
    Q = gflow.row_basis(rows)
    unit = rows / jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ Q @ Q.T, unit, rtol=0, atol=1e-14)
    np.testing.assert_allclose(Q.T @ Q, jnp.eye(3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-200])
def test_a_basis_moves_with_rows_of_any_size(size):
    rows = X.at[1].multiply(size)
    change = jnp.cos(X).at[1].multiply(size)
    Q, moved = jax.jvp(gflow.row_basis, (rows,), (change,))
    outside = change - rows @ moved @ Q.T - change @ Q @ Q.T - rows @ Q @ moved.T  # of d(X − XQQᵀ) = 0
    np.testing.assert_allclose(outside / jnp.max(jnp.abs(rows), axis=1, keepdims=True), 0.0, rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved.T @ Q + Q.T @ moved, 0.0, rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("row", [X[0], -2 * X[0], jnp.zeros(D)], ids=["repeated", "multiple", "zero"])
def test_dependent_rows_have_a_basis_and_the_same_limit(row):
    inputs = jnp.stack([X[0], row, X[1]])
    Q = gflow.row_basis(inputs)
    np.testing.assert_allclose(inputs @ Q @ Q.T, inputs, rtol=0, atol=1e-13)
    network = CASES["many hidden units"][0]
    problem = gflow.Regression(inputs, inputs @ normals(3, D)[0])
    end, exact = (gflow.limit(n, problem, tolerance=2e-11) for n in (network, whole(network)))
    assert end.converged
    assert furthest(end.network, exact.network) < 1e-10


def test_a_small_row_is_fitted():
    inputs = X.at[1].multiply(0.1)
    network = fully_connected((D, 20), 20, seed=1)
    problem = gflow.Regression(inputs, Y.at[1].multiply(0.1))
    end = gflow.limit(network, problem)
    assert end.converged
    np.testing.assert_allclose(end.network(inputs) / problem.y, jnp.ones(N), rtol=1e-9)


@pytest.mark.slow
def test_what_no_input_sees_never_moves():
    network = CASES["three layers"][0]
    end = gflow.limit(network, gflow.Regression(X, Y)).network
    Q = gflow.row_basis(X)
    outside = jnp.eye(D) - Q @ Q.T
    np.testing.assert_allclose(outside @ (end.weights[0] - network.weights[0]), 0.0, rtol=0, atol=1e-15)
    seen = X.at[:, 3:].set(0.0)[:2]  # rows of zeros in the basis: those weights stay to the last bit
    end = gflow.limit(network, gflow.Regression(seen, Y[:2])).network
    assert (end.weights[0][3:] == network.weights[0][3:]).all()


# Records.


def test_rows_of_a_path_are_small_until_they_are_asked_for():
    network = CASES["many hidden units"][0]
    path = gflow.flow(network, gflow.Regression(X, Y))
    assert [v.shape for v in path.followed.weights] == [(128, 3, 4), (128, 4)]
    assert [v.shape for v in path.networks.weights] == [(128, D, 20), (128, 20)]
    assert isinstance(path.networks, gflow.FullyConnected)
    coefficients = jax.vmap(lambda n: n.coefficients())(path.networks)
    np.testing.assert_allclose(path.coefficients, coefficients, rtol=0, atol=1e-14)
    sizes = jnp.linalg.norm(coefficients, axis=1, keepdims=True)
    np.testing.assert_allclose(path.directions, coefficients / sizes, rtol=0, atol=1e-13)
    assert max(gflow.invariants.drift(path.networks, gflow.Regression(X, Y)).values()) < 1e-6
    unmoved = dataclasses.replace(path, followed=jax.tree.map(lambda v: v[:1], path.followed)).networks
    np.testing.assert_allclose(unmoved.weights[0][0], network.weights[0], rtol=0, atol=0)


@pytest.mark.slow
def test_lanes_are_those_of_single_calls():
    network, scales = CASES["many hidden units"][0], jnp.array([0.3, 1.0])
    problem = gflow.Regression(X, Y)
    paths = jax.vmap(lambda a: gflow.flow(gflow.scale(network, a), problem))(scales)
    ends = jax.vmap(lambda a: gflow.limit(gflow.scale(network, a), problem))(scales)
    assert paths.networks.weights[0].shape == (2, 128, D, 20)
    assert paths.coefficients.shape == (2, 128, D)
    for lane, scale in enumerate(scales):
        start = gflow.scale(network, scale)
        one = gflow.flow(start, problem)
        np.testing.assert_allclose(paths[lane].coefficients, one.coefficients, rtol=0, atol=1e-12)
        np.testing.assert_allclose(paths.networks.weights[0][lane], one.networks.weights[0], rtol=0, atol=1e-12)
        assert furthest(ends[lane].network, gflow.limit(start, problem).network) < 1e-10


def test_the_rows_of_a_nonlinear_network_have_no_coefficients():
    path = gflow.flow(CASES["nonlinear"][0], gflow.Regression(X, Y), save=gflow.Times([1.0]))
    assert path.networks.weights[0].shape == (1, D, 9)
    with pytest.raises(ValueError, match="Nonlinear has no linear coefficients"):
        path.coefficients  # noqa: B018 (a property)


# What has converged is the whole network.


def test_a_loss_that_the_whole_network_misses_is_not_certified():
    """Weights of 1e12 that no input sees are there in its outputs, by their round-off."""
    network = CASES["fewer points than inputs"][0]
    Q = gflow.row_basis(X)
    hidden = normals(1, (D, 4))[0]
    far = 1e12 * (hidden - Q @ (Q.T @ hidden))
    heavy = gflow.with_weights(network, (network.weights[0] + far, network.weights[1]))
    problem, until = gflow.Regression(X, Y), gflow.LogLoss(-30.0)
    assert gflow.flow(network, problem, until=until).converged
    path = gflow.flow(heavy, problem, until=until)
    assert path.log_loss == problem.log_loss(path.network(X))
    assert path.log_loss > -30
    assert path.status == gflow.Status.not_certified


@pytest.mark.slow
def test_a_turn_is_that_of_all_weights():
    found = CASES["nonlinear"][0].reduced(X)
    problem = LABELS.with_inputs(found.X)
    small = gflow.flow(found.network, problem, until=gflow.LogLoss(-3.0)).network
    lifted = found.lift(small)
    exact = float(turning_rate(lifted.weights, lifted, LABELS, jnp.zeros(())))
    rule = gflow.Turning(1.0).beside(found.at_rest())
    assert float(turning_rate(small.weights, small, problem, rule.at_rest)) == pytest.approx(exact, rel=1e-10)
    assert float(turning_rate(small.weights, small, problem, jnp.zeros(()))) != pytest.approx(exact, rel=0.01)


@pytest.mark.slow
def test_a_flow_until_it_turns_no_more_ends_where_the_whole_network_says_so():
    network, until = gflow.Nonlinear(fully_connected((D, 4), 4, size=1.0), jnp.tanh), gflow.Turning(0.3)
    path = gflow.flow(network, LABELS, until=until)
    assert path.converged
    end = path.network
    assert turning_rate(end.weights, end, LABELS, jnp.zeros(())) < 0.3


# Derivatives.


def ends(X, y, log_alpha, weights, method=gflow.Auto()):  # noqa: B008 (frozen)
    end = gflow.limit(gflow.FullyConnected(weights), gflow.Regression(X, y), log_alpha=log_alpha, method=method)
    return jnp.sum(jnp.sin(ravel_pytree(end.network.weights)[0]))


def numeric(function, arguments, towards):
    h = 1e-3
    at = [function(*jax.tree.map(lambda v, w, t=t: v + t * h * w, arguments, towards)) for t in (-2, -1, 1, 2)]
    return (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * h)


@pytest.mark.slow
@pytest.mark.parametrize("last", [1.0, 0.0], ids=["generic", "last layer zero"])
def test_derivatives_of_all_weights_agree_with_central_differences(last):
    """Of a network so wide that it is narrowed, also where the layers have no basis that moves with them."""
    W, w = normals(3, (6, 9), 9)
    arguments = (X[:, :6], Y, jnp.asarray(-0.4), (W, last * w))
    gradient = jax.grad(ends, argnums=(0, 1, 2, 3))(*arguments)
    towards = jax.tree.map(lambda v: jnp.cos(3 * v + jnp.arange(v.size).reshape(v.shape)), arguments)
    exact = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards), strict=True))
    assert float(numeric(ends, arguments, towards)) == pytest.approx(float(exact), rel=1e-6)


def of_path(weights, method=gflow.Weights()):  # noqa: B008 (frozen)
    path = gflow.flow(
        gflow.FullyConnected(weights), gflow.Regression(X, Y), save=gflow.Times([0.1, 1.0]), method=method
    )
    return jnp.sum(jnp.sin(path.coefficients))


@pytest.mark.slow
@pytest.mark.parametrize("width", [6, 9], ids=["not worth narrowing", "narrowed"])
def test_derivatives_of_a_path_follow_all_hidden_units(width):
    weights = normals(3, (D, width), width)
    in_full = gflow.Weights(adjoint=diffrax.RecursiveCheckpointAdjoint())
    towards = jax.tree.map(jnp.cos, weights)
    gradient = jax.grad(of_path)(weights, in_full)
    exact = sum(jnp.sum(g * d) for g, d in zip(gradient, towards, strict=True))
    assert float(numeric(of_path, (weights,), (towards,))) == pytest.approx(float(exact), rel=1e-6)
    if width == 6:
        by_default = jax.grad(of_path)(weights)
        assert all(jnp.abs(v - w).max() < 1e-6 for v, w in zip(by_default, gradient, strict=True))
    else:
        with pytest.raises(ValueError, match=r"adjoint=diffrax.RecursiveCheckpointAdjoint\(\)"):
            jax.grad(of_path)(weights)


@pytest.mark.slow
def test_forward_derivatives_by_a_named_adjoint_are_those_of_reverse_mode():
    arguments = (X[:, :6], Y, jnp.asarray(-0.4), normals(3, (6, 9), 9))
    towards = jax.tree.map(jnp.cos, arguments)
    method = gflow.Weights(adjoint=diffrax.ForwardMode())
    _, forward = jax.jvp(lambda *a: ends(*a, method=method), arguments, towards)
    gradient = jax.grad(ends, argnums=(0, 1, 2, 3))(*arguments)
    reverse = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards), strict=True))
    assert float(forward) == pytest.approx(float(reverse), rel=1e-6)


@pytest.mark.slow
def test_dependent_rows_have_derivatives_but_none_by_the_inputs():
    inputs = X.at[1].set(X[0])
    weights = normals(3, (D, 9), 9)
    arguments = (inputs, Y.at[1].set(Y[0]), jnp.asarray(-0.4), weights)
    by_inputs, by_scale, by_weights = jax.grad(ends, argnums=(0, 2, 3))(*arguments)
    towards = jax.tree.map(jnp.zeros_like, arguments)
    towards = (*towards[:2], jnp.ones(()), jax.tree.map(jnp.cos, weights))
    exact = by_scale + sum(jnp.sum(g * jnp.cos(v)) for g, v in zip(by_weights, weights, strict=True))
    assert float(numeric(ends, arguments, towards)) == pytest.approx(float(exact), rel=1e-6)
    assert jnp.isnan(by_inputs).all()


# Problems and networks of one's own.


class Weighed(gflow.Regression):
    """A loss that looks at the inputs: each squared residual counts as much as its row is long."""

    def log_loss(self, outputs):
        return jnp.log(self.discrepancy(outputs) @ self.residual(outputs) / 2)

    def residual(self, outputs):
        return jnp.linalg.norm(self.X, axis=1) * self.discrepancy(outputs)


def test_a_loss_that_may_look_at_the_inputs_keeps_them():
    """The network is narrowed all the same, which no loss can see."""
    network = CASES["many hidden units"][0]
    assert Weighed(X, Y).with_inputs(X) is None
    options = {"save": gflow.Times([0.1, 1.0]), "method": gflow.Weights(rtol=1e-12)}
    path, exact = (gflow.flow(n, Weighed(X, Y), **options) for n in (network, whole(network)))
    assert path.followed.weights[0].shape == (2, D, D + 1)
    assert furthest(path.networks, exact.networks) < 1e-10


@pytest.mark.parametrize("problem", [gflow.Regression(X, Y), LABELS], ids=["regression", "classification"])
def test_gflows_own_problems_take_other_inputs(problem):
    small = problem.with_inputs(X[:, :2])
    assert type(small) is type(problem)
    assert small.X.shape == (N, 2)
    assert (small.y == problem.y).all()


def test_even_filters_and_inputs_have_no_phase_to_the_last_bit():
    even, odd = (jnp.roll(X[:, ::-1], 1, axis=1), -jnp.roll(X[:, ::-1], 1, axis=1))
    for other, vanishing in ((even, slice(5, None)), (odd, slice(0, 5))):
        rows = (X + other) / 2
        found = gflow.Convolutional((rows[0], rows[1])).reduced(rows)
        assert (found.X[:, vanishing] == 0).all()
        assert all((v[vanishing] == 0).all() for v in found.network.weights)
        assert found.X.any()


def test_what_is_shaken_is_what_has_been_rounded():
    """Weights in a new basis by their largest, others each by itself; zeros, as those of symmetry, not at all."""
    graded = jnp.array([1.0, 1e-9, 0.0, 0.5])
    spectral = gflow.Convolutional((graded, jnp.ones(4))).reduced(jnp.ones((1, 4)))
    small = gflow.with_weights(spectral.network, (graded, graded))
    problem = gflow.Regression(jnp.array([[0.0, 1e-9, 1.0, 0.3]]), [1.0])
    turned = dataclasses.replace(spectral, network=small, X=problem.X)
    off, inputs = Followed(small, problem, problem, turned).shaken(jnp.array(1e-3))
    for change, size in ((off.weights[0] - graded, graded), ((inputs.X - problem.X)[0], problem.X[0])):
        assert (abs(change) < 1e-2).all()
        assert (abs(change[size > 0]) > 1e-5).all()
        assert (change[size == 0] == 0).all()
    alone, same = Followed(small, problem, problem, None).shaken(jnp.array(1e-3))
    assert same is problem
    assert (abs(alone.weights[0] - graded) <= 1e-2 * graded).all()
    assert alone.weights[0][1] != graded[1]
    still, _ = Followed(small, problem, problem, turned).shaken(jnp.array(0.0))
    assert furthest(still, small) == 0


def test_a_network_without_reductions_is_integrated_itself():
    path = gflow.flow(whole(CASES["one layer"][0]), gflow.Regression(X, Y), save=gflow.Times([1.0]))
    assert path.reduction is None
    assert path.networks is path.followed
    assert Followed(path.network, LABELS, LABELS, None).at_rest() == 0
