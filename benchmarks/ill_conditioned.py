"""Limits of ill-conditioned regressions by integrated weights: how many are answered, in how many steps, how far from
the truth.

    python -u benchmarks/ill_conditioned.py           (about ten minutes on two cores, most of it SciPy's)

Eight rows in ten dimensions whose singular values decay evenly to 1/cond of the largest, or with rows, or columns, in
units from 1 to 10⁻⁴, y = Xβ with a Gaussian β, and initial scales from 1e-3 to 1e2. Steps are those of both
trajectories of a limit. The truth is SciPy's LSODA on all weights at rtol 1e-12 with the full Jacobian, at three
scales; for the diagonal network it is the dual equations'. Last a table of 60 rows in 2,000 columns of unequal means.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

import gflow

jax.config.update("jax_enable_x64", True)

N, D = 8, 10
SCALES, CHECKED = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0), (1e-3, 1.0, 100.0)


def networks(rng):
    def normal(*shapes):
        return tuple(jnp.asarray(rng.normal(size=s)) / np.sqrt(s[-1]) for s in shapes)

    return {
        "fully-connected L=2": gflow.FullyConnected(normal((D, 5), (5,))),
        "fully-connected L=3": gflow.FullyConnected(normal((D, 5), (5, 5), (5,))),
        "multilinear": gflow.Multilinear(normal((D,), (D,)), tensor=normal((D, D, D))[0]),
        "matrix product": gflow.MatrixProduct(normal((5, 4), (4, 2))),
        "convolution 10, 10": gflow.Convolutional(normal((D,), (D,))),
        "convolution 4, 10": gflow.Convolutional(normal((4,), (D,))),
        "diagonal": gflow.Diagonal(normal((D,), (D,))),
    }


def tables(rng):
    U, V = np.linalg.qr(rng.normal(size=(N, N)))[0], np.linalg.qr(rng.normal(size=(D, N)))[0]
    X = {f"cond {cond:.0e}": 3 * U * np.logspace(0, -np.log10(cond), N) @ V.T for cond in (1e2, 1e4, 1e6)}
    X["rows to 1e-4"] = rng.normal(size=(N, D)) * np.logspace(0, -4, N)[:, None]
    X["column means"] = rng.normal(size=(N, D)) + np.logspace(0, 3, D)
    beta = rng.normal(size=D)
    return {name: gflow.Regression(X, X @ beta) for name, X in X.items()}


def reference(network, problem):
    """β by LSODA in u = log(1 + t), until the way left is a millionth of ‖Θ‖ and Newton's method walks it."""
    theta, unravel = ravel_pytree(network.weights)

    def discrepancy(theta):
        return problem.discrepancy(gflow.with_weights(network, unravel(theta))(problem.X))

    def field(u, theta):
        off, pull_back = jax.vjp(discrepancy, theta)
        return -jnp.exp(u) * pull_back(off)[0]

    field, jacobian = jax.jit(field), jax.jit(jax.jacfwd(field, argnums=1))
    off, J = jax.jit(discrepancy), jax.jit(jax.jacrev(discrepancy))
    theta, size, u = np.asarray(theta), float(jnp.linalg.norm(theta)), 0.0
    while np.linalg.norm(np.linalg.lstsq(J(theta), off(theta))[0]) > 1e-7 * np.linalg.norm(theta):
        if u > 80:
            return None
        run = solve_ivp(field, (u, u + 1), theta, "LSODA", jac=jacobian, rtol=1e-12, atol=1e-15 * size)
        theta, u = run.y[:, -1], u + 1
    for _ in range(2):
        theta = theta - np.linalg.lstsq(J(theta), off(theta))[0]
    return gflow.with_weights(network, unravel(theta)).coefficients()


def wide(rng, n=60, d=2000):
    U, V = np.linalg.qr(rng.normal(size=(n, n)))[0], np.linalg.qr(rng.normal(size=(d, n)))[0]
    X = 50 * U * np.logspace(0, -3, n) @ V.T + rng.lognormal(size=d)
    problem = gflow.Regression(X, rng.normal(size=n))
    weights = jnp.asarray(rng.normal(size=(2, d)))
    matrix, last = jnp.asarray(rng.normal(size=(d, 50))) / 7, jnp.asarray(rng.normal(size=50)) / 7
    for name, network in {
        "fully-connected L=2": gflow.FullyConnected((matrix, last)),
        "convolution 20, 2000": gflow.Convolutional((weights[0, :20] / 5, weights[1])),
        "diagonal": gflow.Diagonal(tuple(weights)),
    }.items():
        for alpha in SCALES:
            start, began = gflow.scale(network, alpha), time.perf_counter()
            end = jax.block_until_ready(gflow.limit(start, problem, method=gflow.Weights()))
            line = f"{name:22s} {'60 x 2000':14s} {alpha:6.0e}  {gflow.Status[end.status]:14s}{end.steps:6d}"
            print(f"{line}  bound {end.error:.1e}  {time.perf_counter() - began:6.1f} s", flush=True)


def main():
    rng = np.random.default_rng(0)
    for name, network in networks(rng).items():
        for table, problem in tables(np.random.default_rng(1)).items():

            def end(alpha, network=network, problem=problem):
                return gflow.limit(gflow.scale(network, alpha), problem, method=gflow.Weights())

            ends = jax.jit(jax.vmap(end))(jnp.asarray(SCALES))
            worst = 0.0
            for i in [SCALES.index(alpha) for alpha in CHECKED]:
                start = gflow.scale(network, SCALES[i])
                exact = gflow.limit(start, problem).coefficients if name == "diagonal" else reference(start, problem)
                if exact is not None:
                    worst = max(worst, float(gflow.measures.distance(ends[i].coefficients, exact)))
            answered = int(jnp.sum(ends.converged))
            print(f"{name:22s} {table:14s} answered {answered} of {len(SCALES)}, steps "
                  f"{int(ends.steps.min()):4d} to {int(ends.steps.max()):5d}, bound {float(ends.error.max()):.1e}, "
                  f"error {worst:.1e}, {ends.counts()}", flush=True)  # fmt: skip
    wide(rng)


if __name__ == "__main__":
    main()
