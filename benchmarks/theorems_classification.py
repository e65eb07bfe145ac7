"""Limit directions: every classification theorem of the paper against the flow carried to log-loss −1e6.

    python benchmarks/theorems_classification.py [3] [2] [three] [1]

Table 1 is about the runs of the tables before it.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
STOPS = (-1e1, -1e2, -1e3, -1e4, -1e6)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape))


def states(network, problem):
    """The networks on the flow's path where the log-loss first passes each stop that it reaches."""
    begun, until, method = time.perf_counter(), gflow.LogLoss(STOPS[-1]), gflow.Weights(max_steps=6000)
    path = gflow.flow(network, problem, save=gflow.Steps(8192), until=until, method=method)  # every step
    path.log_loss.block_until_ready()
    at = [int(np.argmax(np.asarray(path.log_losses) <= stop)) for stop in STOPS if path.log_loss <= stop]
    found = [jax.tree.map(lambda v, i=i: v[i], path.networks) for i in at]
    return found, path, time.perf_counter() - begun


def row(name, values, path, seconds):
    run = f"{int(path.steps)} steps to {float(path.log_loss):.0e}, {seconds:.0f} s with compilation"
    print(
        f"  {name:34s} " + " ".join(f"{v:9.1e}" for v in values) + " " * 10 * (len(STOPS) - len(values)) + f"   {run}",
        flush=True,
    )


def report(title, cases):
    print(f"\n{title}\n  {'angle to the prediction at log-loss':34s} " + " ".join(f"{s:9.0e}" for s in STOPS))
    for name, (network, problem) in cases.items():
        expected = gflow.predict.limit(network, problem)
        found, path, seconds = states(network, problem)
        angles = [gflow.angle(n.coefficients(), expected.coefficients) for n in found]
        row(f"{name}: {expected.theorem}", angles, path, seconds)
        witnesses.append((name, found, problem))


witnesses = []  # every run, for Theorem 1


def theorem_3():
    d = 6
    smooth = 1 + 0.02 * normal(d)  # xᵀx_← > 0, singular values of M(x) far apart: their squares are ‖x‖² ± xᵀx_←
    rough = smooth * jnp.array([1, -1] * 3)  # xᵀx_← < 0
    last, pair = jnp.zeros(d), jnp.array([0.7, 0.4])
    near_rank_one = normal(d, 1, 1) * normal(4, 1) * normal(7) + 0.01 * normal(d, 4, 7)

    def point(x, y):
        return gflow.Classification(x[None], jnp.array([y]))

    report(
        "Theorem 3 and Corollary 4: one data point, two layers, top singular value separated",
        {
            "k_1 = 1": (gflow.Convolutional((jnp.array([0.7]), last)), point(smooth, 1.0)),
            "k_1 = 2, xᵀx_← > 0": (gflow.Convolutional((pair, last)), point(smooth, 1.0)),
            "k_1 = 2, xᵀx_← < 0": (gflow.Convolutional((pair * jnp.array([1, -1]), last)), point(rough, -1.0)),
            "multilinear": (gflow.Multilinear((normal(4), 0.1 * normal(7)), near_rank_one), point(smooth, -1.0)),
        },
    )


def separable(n, d):
    return gflow.Classification(normal(n, d), jnp.sign(normal(n)))


def theorem_2():
    d = 6
    problem = separable(3, d)
    eye, zero = jnp.eye(d), jnp.zeros(d)
    report(
        "Corollary 1 and Theorem 2, two layers: random separable data, n = 3, d = 6",
        {
            "fully-connected L=2": (gflow.FullyConnected((eye + 0.1 * normal(d, d), zero)), problem),
            "fully-connected L=3": (gflow.FullyConnected((1.5 * eye, eye + 0.1 * normal(d, d), zero)), problem),
            "diagonal L=2": (gflow.Diagonal((1 + 0.3 * normal(d), zero)), problem),
            "convolution L=2": (gflow.Convolutional((normal(d), zero)), problem),
            "sparsifying T L=2": (gflow.sparsifying(normal(d, d), (1 + 0.3 * normal(d), zero)), problem),
            "linear model": (gflow.Diagonal((normal(d),)), problem),
        },
    )


def three_layers():
    d = 6
    problem = separable(3, d)
    print(f"\nTheorem 2, L = 3\n  {'KKT residual at log-loss':34s} " + " ".join(f"{s:9.0e}" for s in STOPS))
    cases = {
        "diagonal": gflow.Diagonal((1 + 0.3 * normal(d), 1 + 0.3 * normal(d), jnp.zeros(d))),
        "convolution": gflow.Convolutional((normal(d), normal(d), jnp.zeros(d))),
    }
    for name, network in cases.items():
        found, path, seconds = states(network, problem)
        row(name, [gflow.predict.stationarity(n, problem).residual for n in found], path, seconds)
        witnesses.append((f"{name} L=3", found, problem))
        points = gflow.predict.stationary_points(network, problem)
        angles = [gflow.angle(found[-1].coefficients(), p.coefficients) for p in points]
        nearest = int(np.argmin(angles))
        worst = max(p.residual for p in points)
        print(f"    the search found {len(points)} stationary points, KKT residuals at most {worst:.0e}; the end is")
        print(f"    nearest to number {nearest + 1} by quasi-norm, at an angle of {angles[nearest]:.1e}", flush=True)


def theorem_1():
    print(f"\nTheorem 1\n  {'singular-vector residual at':34s} " + " ".join(f"{s:9.0e}" for s in STOPS)
          + "   and 1 − alignment at the last")  # fmt: skip
    for name, found, problem in witnesses:
        values = [float(gflow.measures.singular_vector_residual(n, problem)) for n in found]
        off = 1 - float(gflow.invariants.alignment(found[-1], problem))
        print(f"  {name:34s} " + " ".join(f"{v:9.1e}" for v in values) + f"   {off:.0e}", flush=True)


if __name__ == "__main__":
    tables = {"3": theorem_3, "2": theorem_2, "three": three_layers, "1": theorem_1}
    for name in sys.argv[1:] or tables:
        tables[name]()
