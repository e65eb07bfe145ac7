"""Networks, losses and problems of a user's own: served as far as they say what they are, refused by name beyond."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from scipy.integrate import solve_ivp
from truth import distance, integrated, normals

import gflow

D = 6
X, Y = normals(0, (3, D), 3)
PROBLEM, LABELS = gflow.Regression(X, Y), gflow.Classification(X, jnp.sign(Y))
ONE = gflow.Regression(X[:1], Y[:1])
ETA, ZERO = jnp.exp(0.3 * normals(1, D)[0]), jnp.zeros(D)
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)


class Weighted(gflow.LinearTensorNetwork):
    """β = c ⊙ v_1 ⊙ v_2."""

    weights: tuple[Float[Array, " d"], ...] = eqx.field(converter=gflow.as_weights)
    c: Float[Array, " d"]

    def coefficients(self):
        v_1, v_2 = self.weights
        return self.c * v_1 * v_2

    def modes(self):
        return gflow.Modes(self.c, self.weights)


class ResidualLinear(gflow.LinearNetwork):
    """β = (I + W_1) (I + W_2) w."""

    weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

    def coefficients(self):
        *matrices, beta = self.weights
        for W in reversed(matrices):
            beta = beta + W @ beta
        return beta


class Convolution2D(gflow.LinearTensorNetwork):
    """β = w_1 * w_2, circular in both axes, the second filter as large as an input."""

    weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

    def coefficients(self):
        w, image = self.weights
        shifts = [(i, j) for i in range(w.shape[0]) for j in range(w.shape[1])]
        return sum(w[shift] * jnp.roll(image, shift, (0, 1)) for shift in shifts).ravel()


class Unsaid(gflow.LinearTensorNetwork):
    """β = v_1 ⊙ v_2, with weights as they come."""

    weights: tuple

    def coefficients(self):
        v_1, v_2 = self.weights
        return v_1 * v_2


class Huber(gflow.RegressionLoss):
    delta: float = 1.0

    def __call__(self, r):
        return self.delta**2 * (jnp.sqrt(1 + (r / self.delta) ** 2) - 1)


class Quartic(gflow.RegressionLoss):
    def __call__(self, r):
        return r**4 / 4


class CubedLogistic(gflow.ClassificationLoss):
    """ℓ(m) = log(1 + e^−m)³."""

    def __call__(self, margin):
        return 3 * gflow.logistic(margin)


class MatrixValued(gflow.Network):
    """f(x) = xᵀ W_1 W_2."""

    weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

    def __call__(self, X):
        for W in self.weights:
            X = X @ W
        return X


class CrossEntropy(gflow.Problem):
    X: Float[Array, "n d"]
    y: Array

    def log_loss(self, outputs):
        return jnp.log(jnp.sum(-jax.nn.log_softmax(outputs)[jnp.arange(len(self.y)), self.y]))


WEIGHTED = Weighted((ETA, ZERO), c=jnp.array([1.0, -2.0, 0.5, 1.0, 3.0, 0.2]))
RESIDUAL = ResidualLinear(tuple(0.3 * v for v in normals(2, (D, D), (D, D), D)))
CONVOLUTION = Convolution2D(tuple(0.3 * v for v in normals(3, (2, 2), (3, 4))))
IMAGES = gflow.Regression(*normals(4, (4, 12), 4))
DIAGONAL = gflow.Diagonal((ETA, 0.2 * normals(5, D)[0]))
CONNECTED = gflow.FullyConnected(tuple(0.5 * v for v in normals(6, (D, 4), 4)))
MATRICES = MatrixValued(tuple(0.3 * v for v in normals(7, (D, 4), (4, 2))))
OUTPUTS = gflow.Regression(X, normals(8, (3, 2))[0])
CLASSES = CrossEntropy(X, jnp.array([0, 1, 1]))


def weights_at(network, loss, log_times):
    """The weights, raveled, at each log t ≥ 0 of the flow of a loss of the outputs, by SciPy."""
    flat, unravel = ravel_pytree(network.weights)
    downhill = jax.jit(jax.grad(lambda z: -loss(gflow.with_weights(network, unravel(z))(X))))
    run = solve_ivp(
        lambda u, z: np.exp(u) * np.asarray(downhill(z)),
        (-30.0, log_times[-1]), np.asarray(flat), "LSODA", t_eval=log_times, rtol=1e-13, atol=1e-15,
    )  # fmt: skip
    return run.y.T


# A network that says how it decouples.


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e-3, 0.3, 10.0])
def test_a_network_with_modes_has_the_dual_route_and_theorem_5(alpha):
    start = gflow.scale(WEIGHTED, alpha)
    end = gflow.limit(start, PROBLEM)
    assert end.converged
    assert end.route == gflow.Route.dual
    by_weights = gflow.limit(start, PROBLEM, method=gflow.Weights())
    assert by_weights.converged
    assert by_weights.route == gflow.Route.weights
    assert distance(end.coefficients, by_weights.coefficients) < 1e-9
    assert distance(end.coefficients, integrated(start, PROBLEM)) < 1e-9
    expected = gflow.predict.limit(start, PROBLEM)
    assert expected.theorem == "Theorem 5"
    assert gflow.compare(end, expected).distance < 1e-9


@pytest.mark.slow
def test_coordinates_that_are_switched_off_stay_zero():
    start = eqx.tree_at(lambda n: n.c, WEIGHTED, WEIGHTED.c.at[0].set(0.0))
    end = gflow.limit(start, PROBLEM)
    assert end.converged
    assert end.coefficients[0] == 0
    assert distance(end.coefficients, integrated(start, PROBLEM)) < 1e-9


def test_the_modes_of_a_users_network_are_conserved():
    path = gflow.flow(WEIGHTED, PROBLEM, method=gflow.Weights(rtol=1e-11))
    assert path.converged
    assert gflow.invariants.drift(path.networks, PROBLEM)["modes"] < 1e-9


@pytest.mark.slow
def test_the_direction_of_a_users_network_is_that_of_theorem_2():
    end, expected = gflow.limit(WEIGHTED, LABELS), gflow.predict.limit(WEIGHTED, LABELS)
    assert end.converged
    assert end.route == gflow.Route.dual
    assert expected.theorem == "Theorem 2"
    assert gflow.compare(end, expected).angle <= end.error
    path = gflow.flow(WEIGHTED, LABELS, save=gflow.Decades([1.0, 10.0, 100.0]))
    assert path.converged
    assert gflow.angle(path.directions[-1], expected.coefficients) < 1e-3


def test_a_start_that_theorem_5_is_not_about_is_refused_with_the_number():
    with pytest.raises(gflow.predict.Refusal, match="Theorem 5 does not apply: FAILS by 1: the last layer starts at"):
        gflow.predict.limit(Weighted((ETA, ETA), WEIGHTED.c), PROBLEM)
    remedied = gflow.initial.last_layer_zero(Weighted((ETA, ETA), WEIGHTED.c))
    assert gflow.predict.limit(remedied, PROBLEM).theorem == "Theorem 5"


def test_the_name_of_a_corollary_is_dispatched_on():
    class Named(gflow.LinearTensorNetwork):
        weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

        def coefficients(self):
            return self.weights[0] * self.weights[1]

        def modes(self):
            return gflow.Modes(None, self.weights)

    gflow.predict.names.theorem_5.register(Named, lambda network: "Corollary 5, of my own")
    assert gflow.predict.limit(Named((ETA, ZERO)), PROBLEM).theorem == "Corollary 5, of my own"


class Mistaken(gflow.LinearTensorNetwork):
    """Its modes forget c."""

    weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

    def coefficients(self):
        return WEIGHTED.c * self.weights[0] * self.weights[1]

    def modes(self):
        return gflow.Modes(None, self.weights)


def test_modes_that_are_not_those_of_the_coefficients_are_refused_by_predict():
    message = r"modes\(\) of Mistaken are not those of its coefficients"
    for family, problem in ((gflow.predict.limit, PROBLEM), (gflow.predict.orthogonal_direction, LABELS)):
        with pytest.raises(ValueError, match=message):
            family(Mistaken((ETA, ZERO)), problem)


@pytest.mark.parametrize("last", [ZERO, 0.2 * ETA], ids=["zero", "small"])
def test_an_end_whose_own_outputs_do_not_fit_is_never_called_converged(last):
    end = gflow.limit(Mistaken((ETA, last)), PROBLEM)
    assert distance(end.network(X), Y) > 0.1
    assert not end.converged


# Networks without structure.


def test_a_two_dimensional_convolution_is_one():
    w, image = CONVOLUTION.weights
    product = np.fft.fft2(np.asarray(w), image.shape) * np.fft.fft2(np.asarray(image))
    np.testing.assert_allclose(CONVOLUTION.coefficients(), np.fft.ifft2(product).real.ravel(), rtol=0, atol=1e-14)
    M = CONVOLUTION.data_tensor(IMAGES.X[0])
    np.testing.assert_allclose(w.ravel() @ M @ image.ravel(), CONVOLUTION(IMAGES.X)[0], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "problem"), [(RESIDUAL, PROBLEM), (CONVOLUTION, IMAGES)], ids=["residual", "2-d"])
def test_a_network_without_structure_has_a_path_and_a_limit_with_an_honest_error(network, problem):
    path = gflow.flow(network, problem)
    assert path.converged
    assert (jnp.diff(path.log_losses) <= 1e-9).all()
    exact = integrated(network, problem)
    assert distance(path.end.coefficients, exact) < 1e-5
    for tolerance in TOLERANCES:
        end = gflow.limit(network, problem, tolerance=tolerance)
        assert end.converged
        assert end.route == gflow.Route.weights
        assert distance(end.coefficients, exact) <= end.error <= tolerance
    with pytest.raises(gflow.predict.Refusal, match=type(network).__name__):
        gflow.predict.limit(network, problem)
    with pytest.raises(ValueError, match=f"{type(network).__name__}.*no exact dual flow.*gflow.Weights"):
        gflow.limit(network, problem, method=gflow.Dual())


@pytest.mark.slow
def test_theorem_6_serves_a_two_dimensional_convolution():
    one = gflow.Regression(IMAGES.X[:1], IMAGES.y[:1])
    expected = gflow.predict.limit(CONVOLUTION, one)
    assert expected.theorem == "Theorem 6"
    assert distance(expected.coefficients, integrated(CONVOLUTION, one)) < 1e-9
    assert gflow.compare(gflow.limit(CONVOLUTION, one), expected).distance < 1e-9


# Losses.


@pytest.mark.slow
@pytest.mark.parametrize("loss", [Huber(0.3), Quartic()], ids=["huber", "quartic"])
def test_a_diagonal_network_ends_at_one_point_under_every_regression_loss(loss):
    """ν = −∫r stays in the same n dimensions, so the limit is where Xβ = y in them."""
    problem, squares = gflow.Regression(X, Y, loss), gflow.limit(DIAGONAL, PROBLEM)
    end = gflow.limit(DIAGONAL, problem)
    by_weights = gflow.limit(DIAGONAL, problem, method=gflow.Weights())
    assert end.converged
    assert by_weights.converged
    assert end.route == gflow.Route.dual
    assert distance(end.coefficients, integrated(DIAGONAL, PROBLEM)) < 1e-9
    assert distance(end.coefficients, squares.coefficients) < 1e-12
    assert distance(by_weights.coefficients, squares.coefficients) <= by_weights.error


@pytest.mark.slow
@pytest.mark.parametrize("method", [gflow.Dual(), gflow.Weights()], ids=["dual", "weights"])
@pytest.mark.parametrize("loss", [Huber(0.3), Quartic()], ids=["huber", "quartic"])
def test_the_path_of_a_users_loss_is_that_of_scipy(loss, method):
    problem, log_times = gflow.Regression(X, Y, loss), np.array([-1.0, 0.0, 1.0, 3.0])
    path = gflow.flow(DIAGONAL, problem, save=gflow.LogTimes(log_times), method=method)
    assert path.status == gflow.Status.finished
    exact = weights_at(DIAGONAL, lambda f: jnp.sum(loss(f - Y)), log_times)
    found = jax.vmap(lambda network: ravel_pytree(network.weights)[0])(path.networks)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert gflow.flow(DIAGONAL, problem, method=method).converged


@pytest.mark.slow
@pytest.mark.parametrize("loss", [Huber(0.3), Quartic()], ids=["huber", "quartic"])
def test_the_limit_under_a_users_loss_has_an_honest_error(loss):
    problem = gflow.Regression(X, Y, loss)
    assert gflow.flow(CONNECTED, problem).converged
    exact = gflow.limit(CONNECTED, problem, tolerance=2e-12)
    assert exact.converged
    for tolerance in TOLERANCES:
        end = gflow.limit(CONNECTED, problem, tolerance=tolerance)
        assert end.converged
        assert gflow.measures.distance(end.coefficients, exact.coefficients) <= end.error <= tolerance
    # It is the loss's own, not that of squares.
    assert distance(exact.coefficients, integrated(CONNECTED, PROBLEM)) > 1e-4


def test_the_limit_under_a_huber_loss_is_that_of_scipy():
    problem = gflow.Regression(X, Y, Huber(0.3))
    exact = weights_at(CONNECTED, lambda f: jnp.sum(problem.loss(f - Y)), np.array([14.0]))[0]
    end = gflow.limit(CONNECTED, problem)
    found = gflow.with_weights(CONNECTED, ravel_pytree(CONNECTED.weights)[1](jnp.asarray(exact)))
    assert distance(end.coefficients, found.coefficients()) <= end.error


@pytest.mark.slow
def test_the_direction_under_a_users_loss_is_of_maximum_margin_within_its_error():
    """By weights; docs/extend_loss.md has it in dual coordinates."""
    start = CONNECTED
    labels = gflow.Classification(X, LABELS.y, CubedLogistic())
    path, end = gflow.flow(start, labels), gflow.limit(start, labels)
    assert path.converged
    assert (jnp.diff(path.log_losses) <= 1e-9).all()
    best = gflow.predict.maximum_margin(LABELS, 2)
    assert end.converged
    assert gflow.angle(end.direction, best.coefficients) <= end.error <= 1e-3


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        (gflow.Regression(X, Y, Huber(0.3)), "Regression with the loss Huber"),
        (gflow.Regression(X, Y, Quartic()), "Regression with the loss Quartic"),
        (gflow.Classification(X, LABELS.y, CubedLogistic()), "Classification with the loss CubedLogistic"),
        (CLASSES, "CrossEntropy"),
    ],
)
def test_no_theorem_is_claimed_for_a_users_loss(problem, name):
    with pytest.raises(gflow.predict.Refusal, match=f"No theorem here is about {name}"):
        gflow.predict.limit(gflow.Diagonal((ETA, ZERO)), problem)


FAMILIES = {
    gflow.predict.linear_limit: (gflow.Diagonal((ETA,)), "Regression"),
    gflow.predict.two_layer_limit: (DIAGONAL, "Regression"),
    gflow.predict.orthogonal_limit: (gflow.Diagonal((ETA, ZERO)), "Regression"),
    gflow.predict.small_scale_limit: (gflow.Diagonal((ETA, ZERO)), "Regression"),
    gflow.predict.saddles: (gflow.Diagonal((ETA, ZERO)), "Regression"),
    gflow.predict.large_scale_limit: (gflow.Diagonal((ETA, ZERO)), "Regression"),
    gflow.predict.fully_connected_limit: (CONNECTED, "Regression"),
    gflow.predict.linear_direction: (gflow.Diagonal((ETA,)), "Classification"),
    gflow.predict.two_layer_direction: (DIAGONAL, "Classification"),
    gflow.predict.orthogonal_direction: (DIAGONAL, "Classification"),
    gflow.predict.fully_connected_direction: (CONNECTED, "Classification"),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_theorem_asked_by_itself_refuses_what_it_is_not_about(family, unchecked_types):
    network, kind = FAMILIES[family]
    regression = kind == "Regression"
    other = gflow.Classification(X[:1], LABELS.y[:1]) if regression else ONE
    with pytest.raises(gflow.predict.Refusal, match=f"is about a {kind}; got {type(other).__name__}"):
        family(network, other)
    own = gflow.Regression(X, Y, Huber()) if regression else gflow.Classification(X, LABELS.y, CubedLogistic())
    with pytest.raises(gflow.predict.Refusal, match=type(own.loss).__name__):
        family(network, own)
    with pytest.raises(gflow.predict.Refusal, match="ResidualLinear"):
        family(RESIDUAL, ONE if regression else gflow.Classification(X[:1], LABELS.y[:1]))


# Several outputs.


@pytest.mark.slow
def test_matrix_valued_regression_has_a_path_and_a_limit_with_an_honest_error():
    path = gflow.flow(MATRICES, OUTPUTS)
    assert path.converged
    W_1, W_2 = path.networks.weights
    balance = W_1.mT @ W_1 - W_2 @ W_2.mT
    np.testing.assert_allclose(balance, jnp.broadcast_to(balance[0], balance.shape), rtol=0, atol=1e-7)
    exact = weights_at(MATRICES, lambda f: jnp.sum((f - OUTPUTS.y) ** 2) / 2, np.array([14.0]))[0]
    for tolerance in TOLERANCES:
        end = gflow.limit(MATRICES, OUTPUTS, tolerance=tolerance)
        assert end.converged
        assert distance(ravel_pytree(end.network.weights)[0], exact) <= end.error <= tolerance
    np.testing.assert_allclose(end.network(X), OUTPUTS.y, rtol=0, atol=1e-9)
    with pytest.raises(gflow.predict.Refusal, match="MatrixValued"):
        gflow.predict.limit(MATRICES, OUTPUTS)
    with pytest.raises(ValueError, match="MatrixValued has no linear coefficients"):
        end.coefficients  # noqa: B018 (a property)


def test_outputs_that_do_not_suit_the_targets_are_named():
    with pytest.raises(ValueError, match=r"MatrixValued .*outputs of shape \(3, 2\), and y has shape \(3,\)"):
        gflow.limit(MATRICES, PROBLEM)
    with pytest.raises(ValueError, match=r"Diagonal .*outputs of shape \(3,\), and y has shape \(3, 2\)"):
        gflow.flow(DIAGONAL, OUTPUTS)


@pytest.mark.slow
def test_the_flow_of_a_users_problem_falls_in_the_clock_of_time():
    path = gflow.flow(MATRICES, CLASSES, until=gflow.LogLoss(-8.0))
    assert path.converged
    assert (jnp.diff(path.log_losses) <= 1e-9).all()
    assert path.log_loss <= -8
    timed = gflow.flow(MATRICES, CLASSES, save=gflow.Times([0.5, 2.0, 20.0]))
    assert timed.status == gflow.Status.finished
    exact = weights_at(MATRICES, lambda f: jnp.exp(CLASSES.log_loss(f)), np.log([0.5, 2.0, 20.0]))
    found = jax.vmap(lambda network: ravel_pytree(network.weights)[0])(timed.networks)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_descent_serves_a_users_problem():
    run = gflow.descend(MATRICES, CLASSES, optax.sgd(0.1), steps=jnp.array([0, 10, 100]))
    assert run.status == gflow.Status.finished
    assert (jnp.diff(run.log_losses) < 0).all()


def test_a_problem_without_a_discrepancy_has_no_limit_and_says_so():
    with pytest.raises(ValueError, match=r"CrossEntropy does not say how far outputs are from zero loss.*gflow.flow"):
        gflow.limit(MATRICES, CLASSES)


# What is not a network, or not the one it claims to be.


@pytest.mark.parametrize(
    "base",
    [
        gflow.Diagonal,
        gflow.Convolutional,
        gflow.FullyConnected,
        gflow.MatrixProduct,
        gflow.Orthogonal,
        gflow.Multilinear,
        gflow.DifferenceOfPowers,
        gflow.Nonlinear,
    ],
)
def test_networks_that_can_be_built_are_final(base):
    with pytest.raises(TypeError, match=rf"{base.__name__} is final.*Subclass gflow\.LinearTensorNetwork"):

        class Mine(base):
            def coefficients(self):
                return 2 * self.weights[0]


def test_a_tensor_network_that_is_not_multilinear_is_refused():
    class Squared(gflow.LinearTensorNetwork):
        weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

        def coefficients(self):
            return self.weights[0] ** 2 * self.weights[1]

    class Affine(gflow.LinearTensorNetwork):
        weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

        def coefficients(self):
            return self.weights[0] * self.weights[1] + self.weights[1]

    for kind in (Squared, Affine):
        message = f"{kind.__name__} is not linear in each of its weights.*Subclass gflow.LinearNetwork"
        with pytest.raises(ValueError, match=message):
            kind((ETA, ETA)).data_tensor(X[0])
        with pytest.raises(ValueError, match=message):
            gflow.predict.limit(kind((ETA, ETA)), ONE)


VERBS = {
    "flow": gflow.flow,
    "limit": gflow.limit,
    "descend": lambda network, problem: gflow.descend(network, problem, optax.sgd(0.1), steps=jnp.array([0, 1])),
    "predict": gflow.predict.limit,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("weights", "seen"),
    [
        ((jnp.ones(D, int), jnp.ones(D, int)), "int64"),
        ([ETA, ETA], "must be a tuple"),
        (([1.0] * D, [1.0] * D), "got list"),
        ((1j * ETA, ETA), "complex128"),
        ((), "must be a tuple"),
    ],
    ids=["integers", "a list", "lists", "complex", "none"],
)
def test_weights_that_are_no_tuple_of_real_arrays_name_their_converter(verb, weights, seen, unchecked_types):
    with pytest.raises(ValueError, match=rf"(?s)weights of Unsaid.*{seen}.*gflow\.as_weights"):
        VERBS[verb](Unsaid(weights), PROBLEM)


def test_weights_are_converted_or_refused_by_their_converter():
    for v in Weighted(([1, 2], [3, 4]), c=jnp.ones(2)).weights:
        assert v.dtype == jnp.float64
    for make in (gflow.Diagonal, ResidualLinear):
        with pytest.raises(ValueError, match="real numbers are needed here; got complex128"):
            make((1j * ETA, ETA))
        with pytest.raises(ValueError, match=r"must be a tuple of arrays.*write \(v,\)"):
            make(ETA)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_arguments_in_each_others_place_are_named(verb, unchecked_types):
    end = gflow.limit(DIAGONAL, PROBLEM)
    path = gflow.flow(DIAGONAL, PROBLEM)
    refusals = {
        "swapped": (PROBLEM, DIAGONAL),
        r"must be a gflow.Network; got Solution. Pass its \.network": (end, PROBLEM),
        r"must be a gflow.Network; got Path. Pass its \.network": (path, PROBLEM),
        "must be a gflow.Network; got the class Diagonal, not an instance": (gflow.Diagonal, PROBLEM),
        "must be a gflow.Problem; got the class Regression, not an instance": (DIAGONAL, gflow.Regression),
        "must be a gflow.Problem; got tuple": (DIAGONAL, (X, Y)),
    }
    for message, arguments in refusals.items():
        with pytest.raises(ValueError, match=message):
            VERBS[verb](*arguments)


@pytest.mark.parametrize("alpha", ["0.1", jnp.array([0.1, 0.2]), [0.1], 1j], ids=["text", "array", "list", "complex"])
def test_scales_that_are_no_number_are_named(alpha, unchecked_types):
    with pytest.raises(ValueError, match=r"alpha must be one number|real numbers are needed here; got complex128"):
        gflow.scale(DIAGONAL, alpha)
    for verb in (gflow.flow, gflow.limit):
        with pytest.raises(ValueError, match=r"log_alpha must be one number|real numbers are needed here; got complex"):
            verb(DIAGONAL, PROBLEM, log_alpha=alpha)


@pytest.mark.parametrize("alphas", [(0.1,), (0.1, 0.2, 0.3), (0.1, jnp.ones(2))])
def test_scales_a_layer_that_do_not_suit_the_layers_are_named(alphas, unchecked_types):
    with pytest.raises(ValueError, match="one for each of the 2 weights"):
        gflow.scale(DIAGONAL, alphas)


@pytest.mark.parametrize("method", [gflow.Weights, gflow.Dual])
@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_no_steps_are_no_number_of_steps(method, steps, unchecked_types):
    with pytest.raises(ValueError, match=f"max_steps must be a positive integer; got {steps}"):
        method(max_steps=steps)


def test_a_direction_that_is_not_that_of_its_own_coefficients_is_never_called_converged():
    end = gflow.limit(Mistaken((ETA, 0.2 * ETA)), LABELS)
    assert not end.converged
