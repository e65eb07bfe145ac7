"""Limit directions of classifications by weights: how many are answered, and whether any is wrong.

One line a category, 16 random starts each, on Gaussian data with random labels. Wrong is a lane that is converged and
differs from the truth by more than its `error`: from the maximum ℓ2 or ℓ1 margin where a theorem names it, from the
dual route's limit for a diagonal tensor; elsewhere it is one with a singular-vector residual above 1e-10. All data are
separable. Seconds include compilation.

    python -u benchmarks/directions.py            (some twenty minutes; each row is printed when it is known)
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)

LANES = 16
rng = np.random.default_rng(0)


def starts(shapes, size=0.5):
    return tuple(jnp.asarray(size * rng.standard_normal((LANES, *shape))) for shape in shapes)


def data(n, d):
    return gflow.Classification(jnp.asarray(rng.standard_normal((n, d))), jnp.asarray(rng.choice([-1.0, 1.0], n)))


def margin(problem, p, S=None):
    """How far directions are from the maximum margin, lane by lane."""
    expected = gflow.predict.maximum_margin(problem, p, S).coefficients
    return lambda ends, weights: gflow.angle(ends.direction, jnp.broadcast_to(expected, ends.direction.shape))


def theorem_1(ends, weights):
    return jnp.where(ends.certificate.singular_vector_residual <= 1e-10, 0.0, jnp.inf)


def dual(problem):
    """How far directions are from those of the diagonal network in dual coordinates, NaN where these are unknown."""

    def off(ends, weights):
        truth = jax.vmap(lambda weights: gflow.limit(gflow.Diagonal(weights), problem))(weights)
        beyond = jnp.maximum(gflow.angle(ends.direction, truth.direction) - truth.error, 0.0)
        return jnp.where(truth.converged, beyond, jnp.nan)

    return off


def row(name, make, shapes, problem, off, scales=None):
    weights = starts(shapes)
    if scales is not None:
        weights = tuple(v * scales.reshape(-1, *[1] * (v.ndim - 1)) for v in weights)
    begun = time.perf_counter()
    ends = jax.vmap(lambda weights: gflow.limit(make(weights), problem, method=gflow.Weights()))(weights)
    jax.block_until_ready(ends.error)
    seconds = time.perf_counter() - begun
    answered, angles = ends.converged, off(ends, weights)
    wrong = int(jnp.sum(answered & (angles > ends.error)))
    worst = float(jnp.max(jnp.where(answered & jnp.isfinite(angles), angles, 0.0)))
    count = int(answered.sum())
    print(f"{name:34} {LANES:5} {count:8} {wrong:5} {LANES - count:10} {worst:9.1e} {seconds:7.1f}", flush=True)


if __name__ == "__main__":
    print(f"{'':34} {'lanes':>5} {'answered':>8} {'wrong':>5} {'unanswered':>10} {'worst':>9} {'seconds':>7}")
    problem, few = data(4, 6), data(3, 6)
    for depth in (2, 3, 4):
        shapes = [(6, 3), *[(3, 3)] * (depth - 2), (3,)]
        row(f"fully-connected, L = {depth}", gflow.FullyConnected, shapes, problem, margin(problem, 2))
    row("diagonal, L = 2", gflow.Diagonal, [(6,), (6,)], problem, margin(problem, 1))
    large = data(20, 50)
    row("diagonal, L = 2, 20 x 50", gflow.Diagonal, [(50,), (50,)], large, margin(large, 1))
    S = 6**0.5 * np.asarray(gflow.predict.dft(6))
    row("convolution, L = 2", gflow.Convolutional, [(6,), (6,)], few, margin(few, 1, S))
    row("short filters, L = 3", gflow.Convolutional, [(3,), (3,), (6,)], few, theorem_1)
    B = jnp.asarray(rng.standard_normal((6, 3, 4, 2)))
    row("multilinear, L = 3", lambda v: gflow.Multilinear(v, B), [(3,), (4,), (2,)], problem, theorem_1)
    sensing = data(3, 9)
    row("matrix product, L = 3", gflow.MatrixProduct, [(3, 3)] * 3, sensing, theorem_1)
    for depth in (2, 3):
        B = jnp.zeros((6,) * (depth + 1)).at[(jnp.arange(6),) * (depth + 1)].set(1.0)
        scales = jnp.logspace(-8, 1, LANES) ** (2 / depth)
        tensor = lambda v, B=B: gflow.Multilinear(v, B)  # noqa: E731
        row(f"diagonal tensor, L = {depth}, α 1e-8…10", tensor, [(6,)] * depth, problem, dual(problem), scales)
