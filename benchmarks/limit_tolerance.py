"""The error of gflow.limit by integrated weights against the tolerance asked for and against its own bound on it, over
random networks and scales.

    python -u benchmarks/limit_tolerance.py           (about a minute, most of it compilation)

Twenty lanes a kind: d = 8, three Gaussian points, random directions, initial scales from 1e-4 to 2. The reference is
the same integration at a tolerance of 2e-11.
"""

import jax
import jax.numpy as jnp
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)

LANES, D = 20, 8
z = jnp.zeros
NETWORKS = {
    "fully-connected L=2": gflow.FullyConnected((z((D, D)), z(D))),
    "fully-connected L=3": gflow.FullyConnected((z((D, D)), z((D, D)), z(D))),
    "fully-connected L=4": gflow.FullyConnected((z((D, 4)), z((4, 5)), z((5, 3)), z(3))),
    "convolution 3, 8": gflow.Convolutional((z(3), z(D))),
    "convolution 2, 3, 8": gflow.Convolutional((z(2), z(3), z(D))),
    "convolution 8, 8": gflow.Convolutional((z(D), z(D))),
    "diagonal L=2": gflow.Diagonal((z(D), z(D))),
}


def main():
    for name, network in NETWORKS.items():
        rng = np.random.default_rng(1)
        X, y = jnp.asarray(rng.normal(size=(LANES, 3, D))), jnp.asarray(rng.normal(size=(LANES, 3)))
        alphas, keys = jnp.asarray(10 ** rng.uniform(-4, 0.3, LANES)), jax.random.split(jax.random.key(0), LANES)

        def end(key, alpha, X, y, tolerance, network=network):
            start = gflow.scale(gflow.initial.random_directions(key, network), alpha)
            return gflow.limit(start, gflow.Regression(X, y), tolerance=tolerance, method=gflow.Weights())

        run = jax.jit(jax.vmap(end, (0, 0, 0, 0, None)))
        exact = run(keys, alphas, X, y, 2e-11)
        for tolerance in (1e-7, 1e-8, 1e-9):
            found = run(keys, alphas, X, y, tolerance)
            both = np.asarray(found.converged & exact.converged)
            errors = np.asarray(gflow.measures.distance(found.coefficients, exact.coefficients))[both]
            bounds = np.asarray(found.error)[both]
            print(f"{name:20s} tolerance {tolerance:.0e}: {both.sum()} of {LANES} converged, error / tolerance at most "
                  f"{np.max(errors) / tolerance:.2g}, error / its bound {np.max(errors / bounds):.2g}, "
                  f"{np.mean(found.steps):.0f} steps")  # fmt: skip


if __name__ == "__main__":
    main()
