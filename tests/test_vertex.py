"""Limit directions in dual coordinates as vertices: the linear program itself, and that they are the flow's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from truth import maximum_l1_margin

import gflow
from gflow import _limit
from gflow.dual import classification
from gflow.dual.coordinates import Coordinates
from gflow.dual.vertex import vertex

SOLVE = jax.jit(jax.vmap(lambda A: vertex(A, jnp.ones(A.shape[1]), jnp.ones(A.shape[1]))))


def tables(kind, n=4, d=6, count=10):
    """Rows y_i x_i of separable data."""
    rng = np.random.default_rng(3)
    A = rng.normal(size=(count, n, d))
    if kind == "rows of very different length":
        A *= 10 ** rng.uniform(-6, 6, size=(count, n, 1))
    if kind == "columns of very different length":
        A *= 10 ** rng.uniform(-4, 4, size=(count, 1, d))
    if kind == "separable by 1e-8":
        A[:, 1] = -A[:, 0] + 1e-8 * rng.normal(size=(count, d))
    if kind == "separable by 1e-4":
        A[:, 1] = -A[:, 0] + 1e-4 * rng.normal(size=(count, d))
    if kind == "duplicates":
        A[:, 1] = A[:, 0]
    return A


@pytest.mark.parametrize(
    "kind",
    [
        "Gaussian",
        "rows of very different length",
        "columns of very different length",
        "separable by 1e-8",
        "duplicates",
    ],
)
def test_the_vertex_is_the_exact_one_within_its_errors(kind):
    A = tables(kind)
    found = SOLVE(jnp.asarray(A))
    assert found.is_unique.all()
    for i, rows in enumerate(A):
        exact = gflow.predict.maximum_margin(gflow.Classification(jnp.asarray(rows), jnp.ones(len(rows))), 1)
        rho, wanted = np.asarray(found.rho[i]), np.asarray(exact.coefficients)
        j = np.argmax(np.abs(wanted))
        off = np.abs(rho - wanted * (rho[j] / wanted[j]))
        assert np.all(off <= found.errors[i] + found.errors[i][j] * np.abs(wanted / wanted[j]) + 1e-15 * np.abs(rho))


def test_data_that_are_not_separable_have_no_vertex():
    A = tables("Gaussian")
    A[:, 1] = -2 * A[:, 0]
    assert not SOLVE(jnp.asarray(A)).is_unique.any()


@pytest.mark.slow
@pytest.mark.parametrize(("left", "right", "unique"), [(1.0, 1.0, False), (1.0, 1.1, True), (1.0, jnp.inf, True)])
def test_a_vertex_is_unique_where_no_other_costs_as_little(left, right, unique):
    found = vertex(jnp.array([[1.0, 1.0]]), jnp.array([left, right]), jnp.ones(2))
    assert found.is_unique == unique
    if unique:
        assert found.rho[0] > 0
        assert found.rho[1] == 0


@pytest.mark.slow
def test_a_vertex_has_the_derivative_by_its_data():
    A, towards = jnp.asarray(tables("Gaussian")[0]), jnp.asarray(tables("Gaussian")[1])

    def rho(t):
        return vertex(A + t * towards, jnp.ones(6), jnp.ones(6)).rho

    h = 1e-5
    np.testing.assert_allclose(jax.jacfwd(rho)(0.0), (rho(h) - rho(-h)) / (2 * h), rtol=1e-6, atol=1e-8)


LIMITS = jax.jit(
    jax.vmap(
        lambda A, weights, log_alpha: gflow.limit(
            gflow.Diagonal(tuple(weights)), gflow.Classification(A, jnp.ones(len(A))), log_alpha=log_alpha
        )
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Gaussian", "rows of very different length", "separable by 1e-8"])
def test_two_layers_are_answered_at_every_scale(kind):
    A = jnp.asarray(tables(kind))
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(10, 2, 6)))
    ends = LIMITS(A, weights, jnp.linspace(-2302.0, 14.0, 10))
    assert ends.converged.all()
    found = SOLVE(A).rho
    assert jnp.max(gflow.angle(ends.coefficients, found)) <= 1e-14
    assert jnp.max(jnp.abs(ends.log_loss / -1e100 - 1)) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("log_alpha", [-30.0, -60.0, -2302.585])
def test_where_many_vertices_cost_as_little_no_step_passes_over_the_losses(log_alpha):
    """In ν nothing bends before the loss is small, and steps grow: at e^−60 one ended beyond a log-loss of −10^100."""
    X = jnp.array([[1, -1, 0, 1, -1, 1], [1, 1, -1, 1, -1, 1], [1, 1, -1, -1, 1, 1], [1, 1, 1, 0, 1, -1.0]])
    weights = ([0.3, -0.8, 1.1, 0.4, -0.6, 0.9], [0.7, 0.2, -0.5, 0.3, 0.8, -1.2])
    problem = gflow.Classification(X, jnp.ones(4))
    end = gflow.limit(gflow.Diagonal(weights), problem, log_alpha=log_alpha)
    assert end.converged
    least = gflow.predict.maximum_margin(problem, 1).coefficients
    norm = jnp.sum(jnp.abs(end.direction)) / jnp.min(X @ end.direction)
    assert norm <= (1 + 1e-5) * np.abs(least).sum() / (X @ least).min()


def test_equal_layers_keep_their_signs():
    A, signs = jnp.asarray(tables("Gaussian")), jnp.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    ends = LIMITS(A, jnp.stack([jnp.ones((10, 6)), jnp.tile(signs, (10, 1))], axis=1), jnp.zeros(10))
    found = jax.vmap(lambda A: vertex(A, jnp.where(signs > 0, 1.0, jnp.inf), jnp.where(signs < 0, 1.0, jnp.inf)))(A)
    assert (ends.converged == found.is_unique).all()
    assert 2 <= ends.converged.sum() < 10
    betas = jnp.where(ends.converged[:, None], ends.coefficients, 0.0)
    assert jnp.all(betas * signs >= 0)
    for rows, beta, converged in zip(A * signs, betas * signs, ends.converged, strict=True):
        if converged:
            positive = jnp.where(beta > 0, rows, 0.0)
            assert gflow.angle(beta, maximum_l1_margin(positive)) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("log_alpha", [-2302.0, -27.6, -2.3, 2.3, 13.8])
def test_three_layers_end_at_the_vertex_that_the_flow_approaches(log_alpha):
    A = jnp.asarray(tables("Gaussian"))
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(10, 3, 6)))
    ends = LIMITS(A, weights, jnp.full(10, log_alpha))
    assert ends.converged.sum() >= 9
    residuals = jnp.where(ends.converged, ends.certificate.kkt_residual, 0.0)
    assert jnp.max(residuals) <= 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows of very different length", "separable by 1e-4", "duplicates"])
def test_three_layers_are_answered_where_margins_are_small_beside_their_terms(kind):
    """There a step's equations are nonlinear in the angles alone at 1e-10 and less of them."""
    A = tables(kind)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(10, 3, 6)))
    ends = LIMITS(jnp.asarray(A), weights, jnp.linspace(-27.6, 6.9, 10))
    assert ends.converged.sum() >= 9
    assert jnp.max(jnp.where(ends.converged, ends.certificate.kkt_residual, 0.0)) <= 1e-6


def capped_flow(A, loss=gflow.exponential, exact=True, log_alpha=1.0):
    eta = jnp.asarray(np.random.default_rng(4).uniform(0.5, 1.5, size=(3, A.shape[1])))
    problem = gflow.Classification(A, jnp.ones(len(A)), loss)
    coordinates = Coordinates.of(eta, log_alpha)
    return classification._CappedFlow(coordinates, A, problem, jnp.array(1e4), jnp.array(1e-7), exact)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("loss", [gflow.exponential, gflow.logistic])
def test_the_logarithm_of_minus_the_log_loss_is_the_clock(loss, exact):
    flow = capped_flow(jnp.abs(jnp.asarray(tables("Gaussian")[0])), loss, exact)
    place = flow.start
    tau = flow.log_s(place)
    field = classification._Clocked(flow, jnp.array(True), jnp.ones(()))
    state = flow.state_of(place, field.wanted(tau, flow.state_of(place, jnp.zeros(4))))
    field = classification._Clocked(flow, jnp.array(True), field.pace(tau, state))
    velocity = field(tau, state)
    assert jnp.abs(jax.jvp(flow.log_s, (place,), (velocity.place,))[1] - 1) <= 1e-10
    assert jnp.max(jnp.abs(velocity.logits)) <= 0.1  # they are where they want to be: 1e-15 over their lag


def test_logits_on_either_side_of_zero_are_those_of_their_state():
    flow, logits = capped_flow(jnp.eye(4, 6)), jnp.array([-1e12, -1.0, 0.0, 30.0])
    np.testing.assert_allclose(flow.logits(flow.state_of(flow.start, logits)), logits, rtol=1e-13)


@pytest.mark.parametrize(("gap", "is_small"), [(1e-6, True), (1e-15, False)])
def test_a_loss_is_small_where_margins_are_more_than_round_off_of_their_terms(gap, is_small):
    """Row by row: a long row's terms do not hide a short one's margin."""
    flow = capped_flow(jnp.array([[1e-9, 0.0], [1.0, -1.0]]), log_alpha=20.0)
    rho, R = flow.coordinates.unit_rho(flow.start)
    even = flow.A.at[1].set(jnp.array([1 / rho[0], (gap - 1) / rho[1]]))
    flow = classification._CappedFlow(flow.coordinates, even, flow.problem, flow.cap, flow.tolerance, True)
    assert jnp.exp(R) * jnp.min(flow.A @ rho) > 1
    assert (flow.loss_is_small(flow.start) > 0) == is_small


@pytest.mark.slow
def test_the_vertex_of_three_layers_is_that_of_the_flow_at_a_log_loss_of_minus_1e300():
    A = jnp.asarray(tables("Gaussian")[:4])
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(4, 3, 6)))

    def both(A, weights):
        network, problem = gflow.Diagonal(tuple(weights)), gflow.Classification(A, jnp.ones(len(A)))
        path = gflow.flow(network, problem, log_alpha=-3.0, save=gflow.Decades(jnp.array([100.0, 300.0])))
        end = gflow.limit(network, problem, log_alpha=-3.0)
        return gflow.angle(path.directions[-1], end.coefficients), path.errors[-1], end.converged

    angles, errors, converged = jax.jit(jax.vmap(both))(A, weights)
    assert converged.all()
    assert jnp.max(angles) <= 1e-6
    assert jnp.all(angles <= errors + 1e-7)  # the tolerance of steps


@pytest.mark.slow
@pytest.mark.parametrize(("X", "unique"), [([[1.0, 2.0], [0.5, -0.2]], True), ([[1.0, 1.0], [1.0, 1.0]], False)])
def test_where_values_are_seen_no_flow_is_compiled_for_a_certain_vertex_and_the_result_is_the_same(X, unique):
    network, problem = gflow.Diagonal(([1.0, 0.5], [0.2, 0.1])), gflow.Classification(X, [1.0, 1.0])
    known = _limit._known(network, problem, gflow.Dual())
    assert (known is not None) == unique
    seen, traced = gflow.limit(network, problem), jax.jit(gflow.limit)(network, problem)
    assert seen.converged
    assert jax.tree.structure(seen) == jax.tree.structure(traced)
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(traced), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12)
