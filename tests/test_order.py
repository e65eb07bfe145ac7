"""Batched programs run one LAPACK call at a time: `gflow._order` says why. Read from the programs themselves."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

import gflow
from gflow._order import after

LAPACK = {"cholesky", "svd", "eigh", "eig", "lu", "qr", "geqrf", "householder_product", "triangular_solve"}
INLINED = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"}


def parts(equation):
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield part.jaxpr if isinstance(part, ClosedJaxpr) else part


def calls(equation):
    inner = sum(calls(e) for part in parts(equation) for e in part.eqns)
    return (equation.primitive.name in LAPACK) + inner


def unordered(program):
    """Pairs of LAPACK calls, or of loops that make some, of which neither needs the other's result."""
    found, nodes = [], []

    def run(program, needs):
        def needed(v):
            return needs.get(v, frozenset()) if isinstance(v, Var) else frozenset()

        for equation in program.eqns:
            behind = frozenset().union(*map(needed, equation.invars))
            if equation.primitive.name in INLINED:
                inner = next(parts(equation))
                arguments = equation.invars[len(equation.invars) - len(inner.invars) :]
                results = run(inner, dict(zip(inner.invars, map(needed, arguments), strict=True)))
                needs.update(zip(equation.outvars, results, strict=True))
                continue
            if calls(equation):
                name = equation.primitive.name
                found.extend((other, name) for i, other in enumerate(nodes) if i not in behind)
                behind = behind | {len(nodes)}
                nodes.append(name)
                for inner in parts(equation):
                    found.extend(unordered(inner))
            needs.update((v, behind) for v in equation.outvars)
        return [needed(v) for v in program.outvars]

    run(program, {})
    return found


KEYS = jax.random.split(jax.random.key(0), 5)
X = jax.random.normal(KEYS[0], (4, 7))
REGRESSION = gflow.Regression(X, jnp.ones(4))
CLASSIFICATION = gflow.Classification(X, jnp.array([1.0, -1.0, 1.0, -1.0]))
NETWORKS = {
    "last layer zero": gflow.Diagonal((jnp.ones(7), jnp.zeros(7))),
    "tied": gflow.Diagonal((jnp.ones(7),) * 3),
    "fully-connected": gflow.FullyConnected(
        (jax.random.normal(KEYS[1], (7, 3)), jax.random.normal(KEYS[2], (3, 3)), jax.random.normal(KEYS[3], (3,)))
    ),
    "convolution": gflow.Convolutional((jax.random.normal(KEYS[1], (7,)), jax.random.normal(KEYS[2], (7,)))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("problem", [REGRESSION, CLASSIFICATION], ids=["regression", "classification"])
@pytest.mark.parametrize("verb", [gflow.limit, gflow.flow])
def test_batches_run_linear_algebra_in_turn(name, problem, verb):
    def beta(log_alpha):
        return verb(NETWORKS[name], problem, log_alpha=log_alpha).network.coefficients()

    program = jax.make_jaxpr(jax.vmap(beta))(jnp.zeros(3)).jaxpr
    assert unordered(program) == []


@pytest.mark.slow
@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("name", ["last layer zero", "tied"])
def test_derivatives_of_limits_too(name, derivative):
    def beta(y):
        return gflow.limit(NETWORKS[name], gflow.Regression(X, y)).network.coefficients()

    program = jax.make_jaxpr(jax.vmap(derivative(beta)))(jnp.ones((3, 4))).jaxpr
    assert unordered(program) == []


def test_the_reader_sees_calls_that_run_at_a_time():
    def both(A, B):
        return jnp.linalg.cholesky(A), jnp.linalg.cholesky(B)

    def in_turn(A, B):
        first = jnp.linalg.cholesky(A)
        return first, jnp.linalg.cholesky(after(first, B))

    A = jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
    assert unordered(jax.make_jaxpr(both)(A, A).jaxpr) == [("cholesky", "cholesky")]
    assert unordered(jax.make_jaxpr(in_turn)(A, A).jaxpr) == []
    assert jnp.all(in_turn(A, 4 * A)[1] == 2 * A)
