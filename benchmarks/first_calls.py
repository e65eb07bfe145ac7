"""What the first and the second eager call of every verb cost, each in a fresh process with nothing cached.

    python benchmarks/first_calls.py            (some two minutes)

The second call has other data of the same shapes, a network built anew and another tolerance. With the environment
variable JAX_COMPILATION_CACHE_DIR set, run it twice: the second time XLA's programs come from there.
"""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)
import gflow  # noqa: E402  (x64 first)

D = 10
SGD = optax.sgd(1e-3)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=s)) for s in shapes)


def regression(seed, n=3):
    return gflow.Regression(*draw(seed, (n, D), n))


def classification(seed, n=3):
    X, w = draw(seed, (n, D), D)
    return gflow.Classification(X, jnp.sign(X @ w))


def diagonal(seed):
    return gflow.Diagonal(draw(seed, D, D))


def connected(seed):
    return gflow.scale(gflow.FullyConnected(draw(seed, (D, 4), 4)), 0.5)


def compared(seed):
    network, problem = diagonal(seed), regression(seed, 1)
    end, expected = gflow.limit(network, problem), gflow.predict.limit(network, problem)
    start = time.perf_counter()
    gflow.compare(end, expected).angle.block_until_ready()
    return time.perf_counter() - start


CALLS = {
    "flow, regression, dual": lambda s: gflow.flow(diagonal(s), regression(s), method=gflow.Dual(rtol=1e-8 * s)),
    "flow, regression, weights": lambda s: gflow.flow(connected(s), regression(s)),
    "flow at times, dual": lambda s: gflow.flow(diagonal(s), regression(s), save=gflow.Times(jnp.arange(1.0, 9) + s)),
    "flow, classification, weights": lambda s: gflow.flow(diagonal(s), classification(s)),
    "flow at decades, dual": lambda s: gflow.flow(
        diagonal(s), classification(s), save=gflow.Decades(jnp.array([1.0, 8.0 + s]))
    ),
    "limit point, dual": lambda s: gflow.limit(diagonal(s), regression(s), tolerance=1e-9 * s),
    "limit point, weights": lambda s: gflow.limit(connected(s), regression(s), tolerance=1e-9 * s),
    "limit direction, dual": lambda s: gflow.limit(diagonal(s), classification(s), tolerance=1e-3 * s),
    "limit direction, weights": lambda s: gflow.limit(connected(s), classification(s), tolerance=1e-3 * s),
    "descend": lambda s: gflow.descend(diagonal(s), regression(s), SGD, steps=jnp.array([0, 10, 20 + s])),
    "compare": compared,
}


def seconds(call, seed):
    start = time.perf_counter()
    result = jax.block_until_ready(call(seed))
    return result if isinstance(result, float) else time.perf_counter() - start


def main():
    print(f"{'verb':32s}{'first call':>12s}{'second call':>14s}")
    for name in CALLS:
        subprocess.run([sys.executable, __file__, name], check=True)


def one(name):
    draw(0, (3, D), D, 3), diagonal(0), connected(0), regression(0), classification(0)  # their own small programs
    first, *later = (seconds(CALLS[name], seed) for seed in (1, 2, 2, 2))
    print(f"{name:32s}{first:10.2f} s{1e3 * min(later):11.1f} ms", flush=True)


if __name__ == "__main__":
    one(sys.argv[1]) if len(sys.argv) > 1 else main()
