"""Circular convolution of a filter of length k with a vector of length d: gather and product, or FFT.

Prints the ratio of the two times (compilation apart), for the threshold in gflow/networks.py.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)


def direct(w, v):
    return v[(jnp.arange(v.size)[:, None] - jnp.arange(w.size)) % v.size] @ w


def fourier(w, v):
    return jnp.fft.irfft(jnp.fft.rfft(w, v.size) * jnp.fft.rfft(v), v.size)


def seconds(function, *arguments, repeats=400):
    """The median time of a call with its gradient, which is what the flow evaluates."""
    run = jax.jit(jax.grad(lambda w, v: jnp.sum(function(w, v) ** 2), argnums=(0, 1)))
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - start)
    return np.median(times)


def main():
    rng = np.random.default_rng(0)
    print(f"{'d':>6} {'k':>6} {'k d':>9} {'direct / FFT':>13} {'error':>9}")
    for d in (2, 16, 64, 256, 1024):
        for k in sorted({2, max(2, d // 8), d}):
            w, v = jnp.asarray(rng.normal(size=k)), jnp.asarray(rng.normal(size=d))
            error = jnp.max(jnp.abs(direct(w, v) - fourier(w, v)))
            ratio = seconds(direct, w, v) / seconds(fourier, w, v)
            print(f"{d:6d} {k:6d} {k * d:9d} {ratio:13.2f} {error:9.1e}")


if __name__ == "__main__":
    main()
