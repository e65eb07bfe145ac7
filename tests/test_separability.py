"""Which classifications are called hopeless, and that directions do not feel the unit of the inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.dual.cone import is_balanced
from gflow.flows.stopping import is_stationary


@pytest.mark.parametrize(("n", "d"), [(4, 8), (6, 3), (12, 5)])
def test_balance_agrees_with_exact_margins(n, d):
    rng = np.random.default_rng(n)
    A = rng.normal(size=(30, n, d))
    A[:10, 1] = -2 * A[:10, 0]
    A[10:20, 1] = -A[10:20, 0] + 1e-8 * rng.normal(size=(10, d))
    A[20:] *= 10 ** rng.uniform(-6, 6, size=(10, n, 1))
    found = jax.jit(jax.vmap(is_balanced, (0, None)))(jnp.asarray(A), jnp.zeros(d))
    for rows, balanced in zip(A, found, strict=True):
        try:
            gflow.predict.maximum_margin(gflow.Classification(jnp.asarray(rows), jnp.ones(n)), 2)
        except gflow.predict.NotSeparable:
            assert balanced
        else:
            assert not balanced


@pytest.mark.parametrize(("side", "balanced"), [([0.0, 0.0], False), ([1.0, 0.0], True), ([-1.0, 0.0], False)])
def test_signs_that_are_kept_may_leave_nothing(side, balanced):
    """Both points need ρ_0 < 0."""
    assert is_balanced(jnp.array([[-1.0, 1.0], [-1.0, -1.0]]), jnp.array(side)) == balanced


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "status"), [(1.0, gflow.Status.no_descent), (-1.0, gflow.Status.converged)])
def test_equal_layers_that_cannot_turn_are_called_hopeless(sign, status):
    X = jnp.array([[-1.0, 1.0], [-1.0, -1.0]])
    layers = jnp.array([1.0, 0.5]), jnp.array([sign, 0.2])
    end = gflow.limit(gflow.Diagonal(layers), gflow.Classification(X, jnp.ones(2)))
    assert end.status == status


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "hopeless"), [(0.0, True), (1e-8, False)])
def test_only_data_that_are_not_separable_are_called_so(gap, hopeless):
    X = jnp.array([[1.0, gap, 0.3], [-1.0, gap, -0.3]])
    end = gflow.limit(gflow.Diagonal((jnp.ones(3), 0.5 * jnp.ones(3))), gflow.Classification(X, jnp.ones(2)))
    assert (end.status == gflow.Status.no_descent) == hopeless


@pytest.mark.slow
@pytest.mark.parametrize("c", [2.0**-60, 2.0**60])
def test_inputs_in_another_unit_have_the_same_direction(c):
    """f(cx; Θ) = f(x; c^{1/L} Θ), whose flow is the same in another time."""
    X, y = jnp.array([[1.0, 0.4, 0.2], [-0.3, 1.0, 0.5]]), jnp.array([1.0, -1.0])
    network = gflow.Diagonal((jnp.array([1.0, 0.5, 0.7]), jnp.array([0.3, 0.2, 0.1])))
    end = gflow.limit(network, gflow.Classification(X, y))
    other = gflow.limit(network, gflow.Classification(c * X, y), log_alpha=-jnp.log(c) / 2)
    assert end.converged
    assert other.converged
    assert gflow.measures.angle(end.coefficients, other.coefficients) <= 1e-12
    np.testing.assert_allclose(other.network.weights[0] * c**0.5, end.network.weights[0], rtol=1e-9)


@pytest.mark.parametrize(("asleep", "stationary"), [(1e-6, False), (0.0, True)])
def test_a_plateau_is_stationary_only_without_coordinates_asleep(asleep, stationary):
    """The first coordinate is balanced: both points pull it as strongly, and the second both the same way."""
    layers = jnp.array([1.0, asleep]), jnp.array([1.0, asleep]), jnp.array([0.0, asleep])
    problem = gflow.Classification(jnp.array([[1.0, 1.0], [-1.0, 1.0]]), jnp.ones(2))
    network = gflow.Diagonal(layers)
    assert is_stationary(network.weights, network, problem) == stationary


@pytest.mark.slow
@pytest.mark.parametrize("depth", [3, 4])
def test_a_deep_network_of_tiny_weights_passes_plateaus_by_weights(depth):
    """Coordinates asleep wait for t ~ 1e6^(L−2): at rest on the way, and no end."""
    rng = np.random.default_rng(7)
    A, weights = jnp.asarray(rng.normal(size=(3, 4, 6))), jnp.asarray(rng.normal(size=(3, depth, 6)))

    @jax.jit
    def limits(method):
        def one(lane):
            A, weights = lane
            problem = gflow.Classification(A, jnp.ones(4))
            return gflow.limit(gflow.Diagonal(tuple(weights)), problem, log_alpha=-13.8, method=method)

        return jax.lax.map(one, (A, weights))

    by_weights, by_dual = limits(gflow.Weights()), limits(gflow.Dual())
    assert by_weights.converged.all()
    assert by_dual.converged.all()
    assert jnp.max(gflow.angle(by_weights.direction, by_dual.direction)) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "status"), [(0.0, gflow.Status.no_descent), (1e-8, gflow.Status.step_limit)])
def test_a_flow_by_weights_that_runs_out_of_steps_says_whether_it_had_anywhere_to_go(gap, status):
    """Where points contradict each other it comes to rest only like a power of time: sixteen steps do not see that."""
    X = jnp.array([[1.0, gap, 0.3], [-1.0, gap, -0.3], [0.2, 0.5, 1.0]])
    network = gflow.DifferenceOfPowers((1e-3 * jnp.ones(3), 2e-3 * jnp.ones(3)), 3)
    end = gflow.limit(network, gflow.Classification(X, jnp.ones(3)), method=gflow.Weights(max_steps=16))
    assert end.status == status
