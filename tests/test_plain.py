"""Limits of two layers in ν alone, against bases of columns, which a row given twice asks for, and many digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import distance, exact_theorem_5, normals

import gflow
from gflow.dual.coordinates import Coordinates
from gflow.dual.newton import newton

LOG_ALPHAS = (-12.0, -3.0, 0.0, 6.0)


def random(seed=0, n=3, d=8):
    X, y, u, v = normals(seed, (n, d), n, d, d)
    return gflow.Diagonal((u, v)), gflow.Regression(X, y)


def twice(problem):
    """The same problem with its last row given twice."""
    return gflow.Regression(jnp.concatenate([problem.X, problem.X[-1:]]), jnp.append(problem.y, problem.y[-1]))


def limit(network, problem, log_alpha):
    return gflow.limit(network, problem, log_alpha=log_alpha)


def first_coefficient(network, problem, log_alpha):
    return limit(network, problem, log_alpha).coefficients[0]


@jax.jit
def alone(network, problem, log_alpha):
    """Whether ν alone is enough; where it ends, and the bound on its error, relative to the largest ρ."""
    coordinates = Coordinates.of(jnp.stack(network.weights), log_alpha)
    coordinates, end, log_unit = newton(coordinates, problem.X, problem.y, only_plain=True)
    rho = coordinates.rho(end.angles)
    return jnp.isfinite(end.errors).all(), rho * jnp.exp(log_unit), jnp.max(end.errors) / jnp.max(jnp.abs(rho)), end


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_ways_end_at_the_same_point(seed):
    network, problem = random(seed)
    for log_alpha in LOG_ALPHAS:
        enough, rho, *_ = alone(network, problem, log_alpha)
        end, by_basis = limit(network, problem, log_alpha), limit(network, twice(problem), log_alpha)
        assert enough
        assert end.converged
        assert by_basis.converged
        assert not alone(network, twice(problem), log_alpha)[0]
        assert distance(rho, by_basis.coefficients) <= end.error + by_basis.error <= 1e-11
        assert distance(end.coefficients, rho) <= 1e-15


@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 10.0])
def test_the_bound_holds_in_many_digits(alpha):
    _, problem = random(4)
    network = gflow.Diagonal((jnp.ones(8), jnp.zeros(8)))
    enough, rho, bound, end = alone(network, problem, np.log(alpha))
    assert enough
    assert bound <= 2e-12
    assert distance(rho, exact_theorem_5(problem, 2, alpha, end.angles, end.nu)) <= bound


@pytest.mark.parametrize(("angle", "enough"), [(0.1, True), (0.03, True), (0.01, False), (1e-5, False)])
def test_rows_that_all_but_depend_on_each_other_need_a_basis(angle, enough):
    network, problem = random(5)
    X = problem.X.at[1].set(problem.X[0] + angle * problem.X[1])
    problem = gflow.Regression(X, X @ jnp.linspace(-1.0, 1.0, 8))
    assert alone(network, problem, -1.0)[0] == enough  # whose bounds are 1e-12, 1e-11, 3e-10, 3e-4
    assert limit(network, problem, -1.0).converged


@pytest.mark.parametrize(("log_alpha", "enough"), [(-5.0, True), (-600.0, False)])
def test_few_coordinates_that_are_awake_need_a_basis(log_alpha, enough):
    network, problem = random(6)
    problem = gflow.Regression(problem.X, problem.X[:, 0])  # one column fits all rows
    assert alone(network, problem, log_alpha)[0] == enough
    assert limit(network, problem, log_alpha).converged


def test_what_has_no_end_in_nu_is_handed_on():
    ones, (_, problem) = jnp.ones(2), random()
    unreachable = gflow.Regression(jnp.eye(2), jnp.array([1.0, -1.0]))  # equal layers keep their sign
    assert not alone(gflow.Diagonal((ones, ones)), unreachable, 0.0)[0]
    end = limit(gflow.Diagonal((ones, ones)), unreachable, 0.0)
    assert gflow.Status[end.status] == "least squares"
    assert jnp.allclose(end.coefficients, jnp.array([1.0, 0.0]))
    reachable = gflow.Regression(jnp.eye(2), jnp.array([1.0, 2.0]))
    assert alone(gflow.Diagonal((ones, ones)), reachable, 0.0)[0]
    nothing = gflow.Diagonal((jnp.zeros(8), jnp.zeros(8)))  # at rest
    assert not alone(nothing, problem, 0.0)[0]
    assert gflow.Status[limit(nothing, problem, 0.0).status] == "no descent"


def test_a_coordinate_that_no_row_sees_stays_and_hides_no_error():
    network, problem = random(7)
    X = problem.X.at[:, 3].set(0.0)
    large = gflow.Diagonal((network.weights[0].at[3].set(1e9), network.weights[1].at[3].set(1e9)))
    enough, _, bound, _ = alone(large, gflow.Regression(X, problem.y), -1.0)
    assert enough
    assert bound > 0
    end, other = limit(large, gflow.Regression(X, problem.y), 0.0), limit(network, gflow.Regression(X, problem.y), 0.0)
    assert end.coefficients[3] == 1e18
    assert distance(end.coefficients.at[3].set(0), other.coefficients.at[3].set(0)) < 1e-2


def test_a_batch_of_both_kinds_is_what_its_lanes_are():
    network, problem = random(6)
    problem = gflow.Regression(problem.X, problem.X[:, 0])
    log_alphas = jnp.array([-5.0, -600.0, 1.0])
    batch = jax.vmap(limit, (None, None, 0))(network, problem, log_alphas)
    for i, log_alpha in enumerate(log_alphas):
        one = limit(network, problem, log_alpha)
        assert batch[i].converged
        assert one.converged
        assert distance(batch[i].coefficients, one.coefficients) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("log_alpha", [-3.0, 1.0])
def test_derivatives_are_those_by_a_basis_in_both_modes_and_twice(log_alpha):
    network, problem = random(8)
    for get in (
        lambda p: jax.grad(first_coefficient, argnums=2)(network, p, log_alpha),
        lambda p: jax.jvp(lambda a: first_coefficient(network, p, a), (log_alpha,), (1.0,))[1],
        lambda p: jax.grad(jax.grad(first_coefficient, argnums=2), argnums=2)(network, p, log_alpha),
        lambda p: jax.grad(first_coefficient)(network, p, log_alpha).weights[0],
        lambda p: jax.vmap(jax.grad(first_coefficient, 2), (None, None, 0))(network, p, jnp.array([log_alpha, -5.0])),
    ):
        assert distance(get(problem), get(twice(problem))) <= 1e-9
    of_rows = jax.grad(lambda X: first_coefficient(network, gflow.Regression(X, problem.y), log_alpha))(problem.X)
    step = 1e-5 * normals(9, problem.X.shape)[0]
    there, back = (
        first_coefficient(network, gflow.Regression(problem.X + s, problem.y), log_alpha) for s in (step, -step)
    )
    assert abs((there - back) / 2 - jnp.sum(of_rows * step)) <= 1e-6 * jnp.linalg.norm(of_rows) * jnp.linalg.norm(step)


@pytest.mark.slow
@pytest.mark.parametrize("log_alphas", [[-5.0, 1.0], [-5.0, -100.0]], ids=["good", "both kinds"])
def test_gradients_of_a_batch_are_those_of_its_lanes(log_alphas):
    network, problem = random(6)
    problem = gflow.Regression(problem.X, problem.X[:, 0])  # at the smaller scales one column fits all rows
    slope = jax.jit(jax.grad(lambda p, a: jnp.sum(gflow.limit(network, p, log_alpha=a).coefficients ** 2)))
    batch = jax.jit(jax.vmap(slope, (None, 0)))(problem, jnp.array(log_alphas))
    for i, log_alpha in enumerate(log_alphas):
        assert distance(batch.X[i], slope(problem, log_alpha).X) <= 1e-9


def test_outside_and_inside_jit_are_the_same():
    network, problem = random(10)
    for log_alpha in LOG_ALPHAS:
        eager, traced = limit(network, problem, log_alpha), jax.jit(limit)(network, problem, log_alpha)
        assert eager.status == traced.status
        assert eager.steps == traced.steps
        assert eager.route == traced.route
        assert distance(eager.coefficients, traced.coefficients) <= 1e-12
