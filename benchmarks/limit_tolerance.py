"""The error of gflow.limit by integrated weights against the tolerance asked for, over random networks and scales.

    python -u benchmarks/limit_tolerance.py           (about a minute, most of it compilation)

Twenty lanes a kind: d = 8, three Gaussian points, random directions, initial scales from 1e-4 to 2. The reference is
the same integration at a tolerance of 2e-11.
"""

import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow.limit import _limit_of_weights

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
            found = _limit_of_weights(start, gflow.Regression(X, y), tolerance, 16384)
            return found.network.coefficients(), found.converged, found.steps

        run = jax.jit(jax.vmap(end, (0, 0, 0, 0, None)))
        expected, exact, _ = run(keys, alphas, X, y, 2e-11)
        for tolerance in (1e-7, 1e-8, 1e-9):
            betas, converged, steps = run(keys, alphas, X, y, tolerance)
            errors = jnp.linalg.norm(betas - expected, axis=1) / jnp.linalg.norm(expected, axis=1)
            both = np.asarray(converged & exact)
            print(f"{name:20s} tolerance {tolerance:.0e}: {both.sum()} of {LANES} converged, error / tolerance at most "
                  f"{np.max(np.asarray(errors)[both]) / tolerance:.2g}, {np.mean(steps):.0f} steps")  # fmt: skip


if __name__ == "__main__":
    main()
