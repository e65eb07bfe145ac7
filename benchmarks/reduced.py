"""Limits of fully-connected networks and matrix products by the smaller network that flows alike, against the same
limits by all of their weights.

    python -u benchmarks/reduced.py           (about five minutes on two cores; 5 GB of memory)

Twenty Gaussian points (ten sensors), rows and layers scaled so that outputs are of order 1. A first call compiles and
is not timed; then it is the median of three calls or more. The whole network is the same product of
matrices in a class of which gflow knows no structure; where it has too many weights to be integrated there is none.
"""

import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import gflow

jax.config.update("jax_enable_x64", True)

N = 20


class Whole(gflow.LinearNetwork):
    weights: tuple[Array, ...] = eqx.field(converter=gflow.as_weights)

    def coefficients(self):
        product = self.weights[-1]
        for W in reversed(self.weights[:-1]):
            product = W @ product
        return product.ravel()


def start(kind, shapes):
    """Weights whose layers map unit vectors to about unit vectors."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return kind(tuple(jax.random.normal(k, s) / np.sqrt(s[-1]) for k, s in zip(keys, shapes, strict=True)))


def regression(network, n):
    keys = jax.random.split(jax.random.key(1), 2)
    d = network.coefficients().size
    return gflow.Regression(jax.random.normal(keys[0], (n, d)) / np.sqrt(d), jax.random.normal(keys[1], (n,)))


def classification(network, n):
    problem = regression(network, n)
    return gflow.Classification(problem.X, jnp.sign(problem.y))


def timed(network, problem):
    """The limit, and the median time of a call in seconds."""
    end, times = jax.block_until_ready(gflow.limit(network, problem)), []
    while len(times) < 3 or (sum(times) < 2.0 and len(times) < 20):
        began = time.perf_counter()
        jax.block_until_ready(gflow.limit(network, problem))
        times.append(time.perf_counter() - began)
    return end, statistics.median(times)


FC, MP = gflow.FullyConnected, gflow.MatrixProduct
CASES = (
    # name, architecture, shapes of its weights, problem, points, whether the whole network is integrated too
    ("fully-connected L=2, d=200, width 200", FC, ((200, 200), (200,)), regression, N, True),
    ("fully-connected L=2, d=200, width 20", FC, ((200, 20), (20,)), regression, N, True),
    ("fully-connected L=3, d=200, width 20", FC, ((200, 20), (20, 20), (20,)), regression, N, True),
    ("fully-connected L=3, d=1e5, width 50", FC, ((100_000, 50), (50, 50), (50,)), regression, N, False),
    ("fully-connected L=2, d=1e5, width 1e3", FC, ((100_000, 1000), (1000,)), regression, N, False),
    ("matrix product L=2, 200 x 4, width 50", MP, ((200, 50), (50, 4)), regression, 10, True),
    ("fully-connected L=2, d=1e5, width 1e3, labels", FC, ((100_000, 1000), (1000,)), classification, N, False),
)


def main():
    print(f"{'limit of':46s} {'seconds':>9s} {'whole':>9s} {'ratio':>7s} {'weights differ by':>18s}")
    for name, kind, shapes, problem_of, n, is_small in CASES:
        network = start(kind, shapes)
        problem = problem_of(network, n)
        end, seconds = timed(network, problem)
        line = f"{name:46s} {seconds:9.4f}"
        if is_small:
            whole, whole_seconds = timed(Whole(network.weights), problem)
            pairs = zip(end.network.weights, whole.network.weights, strict=True)
            size = max(float(jnp.abs(v).max()) for v in whole.network.weights)
            furthest = max(float(jnp.abs(v - w).max()) for v, w in pairs) / size
            line += f" {whole_seconds:9.4f} {whole_seconds / seconds:7.1f} {furthest:18.1e}"
        statuses = {gflow.Status[end.status]} | ({gflow.Status[whole.status]} if is_small else set())
        print(f"{line}   {', '.join(sorted(statuses))}", flush=True)


if __name__ == "__main__":
    main()
