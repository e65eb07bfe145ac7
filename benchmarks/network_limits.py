"""Limits of hostile regressions by integrated weights, every network: how many are answered, and whether one is wrong.

    python -u benchmarks/network_limits.py [lanes] [seed] [words of a row's name, this|or that …]

Half an hour and more for the 6 lanes that are the default (24 of the 36 rows took 14 minutes with 3). The inputs and
targets are those of `regression_limits.py`, at initial scales from 10^−12 to 10^4. A row is a network at one shape; its
lanes go through all inputs and starts. The truth is, where a network is a diagonal one in other coordinates, the
latter's limit in dual coordinates, which that other script holds to many digits, and else SciPy's LSODA on all weights,
for every sixth lane. Wrong is an answer that is further from it than its `error` and what the reference itself may be
off. Each is printed, and what is unanswered.
"""

import collections
import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from regression_limits import INPUTS, STARTS, TARGETS, draw
from scipy.integrate import solve_ivp

import gflow

jax.config.update("jax_enable_x64", True)

SHAPES = [(1, 3), (3, 8), (6, 4)]


def chain(rng, starts, shapes):
    """Weights of layers that are not multiplied entry by entry."""
    v = [rng.normal(size=s) / np.sqrt(s[-1]) for s in shapes]
    if starts == "last layer zero":
        v[-1] *= 0
    if starts in ("equal", "tied", "near ties"):  # balanced: unit vectors between the layers, rank one
        ends = [rng.normal(size=s[0]) for s in shapes]
        ends = [u / np.linalg.norm(u) for u in ends]
        v = [np.outer(a, b) for a, b in itertools.pairwise(ends)] + [ends[-1]]
    if starts == "near ties":
        v = [u + 10 ** rng.uniform(-15, -2) * rng.normal(size=u.shape) for u in v]
    if starts == "zeros":
        v = [np.where(rng.random(u.shape) < 0.2, 0.0, u) for u in v]
    if starts == "graded layers":
        v = [u * 10 ** rng.uniform(-2, 2) for u in v]
    if starts == "graded coordinates":
        v[0] = v[0] * 10 ** rng.uniform(-4, 4, size=(v[0].shape[0], *[1] * (v[0].ndim - 1)))
    return v


def separate(rng, starts, shapes):
    """Weights of layers that are contracted with a tensor: equal sizes stand for balanced ones."""
    v = [rng.normal(size=s) / np.sqrt(s[-1]) for s in shapes]
    if starts in ("equal", "tied", "near ties"):
        return [u / np.linalg.norm(u) for u in v]
    return chain(rng, starts, shapes) if starts not in ("graded coordinates",) else v


def rows():
    """Name, shape, and (η of `draw`, rng, starts) ↦ the network and, if it is known, the diagonal one that it is."""
    for n, d in SHAPES:
        for L in (2, 3):
            B = jnp.zeros((d,) * (L + 1)).at[(jnp.arange(d),) * (L + 1)].set(1.0)

            def diagonal(eta, rng, starts):
                network = gflow.Diagonal(tuple(jnp.asarray(v) for v in eta))
                return network, network

            def tensor(eta, rng, starts, B=B):
                v = tuple(jnp.asarray(v) for v in eta)
                return gflow.Multilinear(v, B), gflow.Diagonal(v)

            yield f"diagonal {L}", n, d, L, diagonal
            yield f"diagonal tensor {L}", n, d, L, tensor
        yield "powers 2", n, d, 2, powers
        for L in (2, 3):

            def layers(eta, rng, starts, L=L, d=d):
                v = chain(rng, starts, [(d, 4), *[(4, 4)] * (L - 2), (4,)])
                return gflow.FullyConnected(tuple(map(jnp.asarray, v))), None

            def filters(eta, rng, starts, L=L, d=d):
                return gflow.Convolutional(tuple(map(jnp.asarray, separate(rng, starts, [(d,)] * L)))), None

            def short(eta, rng, starts, L=L, d=d):
                v = separate(rng, starts, [*[(2,)] * (L - 1), (d,)])
                return gflow.Convolutional(tuple(map(jnp.asarray, v))), None

            yield f"fully-connected {L}", n, d, L, layers
            yield f"convolution {L}", n, d, L, filters
            yield f"short filters {L}", n, d, L, short
        B = jnp.asarray(np.random.default_rng(d).normal(size=(d, 3, 4)))

        def multilinear(eta, rng, starts, B=B):
            return gflow.Multilinear(tuple(map(jnp.asarray, separate(rng, starts, [(3,), (4,)]))), B), None

        yield "multilinear 2", n, d, 2, multilinear


def powers(eta, rng, starts):
    """w_+² − w_−² is the product of w_+ + w_− and w_+ − w_−."""
    plus, minus = np.abs(eta)
    network = gflow.DifferenceOfPowers((jnp.asarray(plus), jnp.asarray(minus)), 2)
    return network, gflow.Diagonal((jnp.asarray(plus + minus), jnp.asarray(plus - minus)))


def integrated(network, problem):
    """β by LSODA in u = log(1 + t), None where that does not arrive, and by how much it may be off."""
    theta, unravel = ravel_pytree(network.weights)

    @jax.jit
    def field(u, theta):
        outputs, pull_back = jax.vjp(lambda v: gflow.with_weights(network, unravel(v))(problem.X), theta)
        return -jnp.exp(u) * pull_back(problem.discrepancy(outputs))[0]

    slopes = jax.jit(jax.jacfwd(field, argnums=1))
    outputs = jax.jit(lambda v: jnp.abs(problem.discrepancy(gflow.with_weights(network, unravel(v))(problem.X))))
    theta = np.asarray(theta)
    units = np.asarray(outputs(theta) + jnp.abs(problem.y))
    units = np.where(units > 0, units, 1.0)

    steps = itertools.count()

    def arrived(u, theta):
        off = float((outputs(theta) / units).max() - 1e-10)
        return off if next(steps) < 100_000 else 0.0  # or has gone on for so long that it never will

    arrived.terminal = True
    atol = 1e-13 * float(np.abs(theta).max())
    run = solve_ivp(field, (0, 200), theta, "LSODA", jac=slopes, rtol=1e-12, atol=atol, events=arrived)
    if (run.status != 1 and arrived(0.0, theta) > 0) or next(steps) > 100_000:
        return None, 0.0
    singular = np.linalg.svd(problem.X, compute_uv=False)
    # Where outputs have arrived; ten times, for weights that move some coefficients more easily than others.
    left = 1e-9 * np.linalg.norm(units) / singular[singular > 1e-14 * singular[0]][-1]
    return gflow.with_weights(network, unravel(jnp.asarray(run.y[:, -1]))).coefficients(), left


def main(lanes=6, seed=0, words=()):
    table = collections.defaultdict(collections.Counter)
    for name, n, d, L, make in rows():
        full = f"{name} {n}x{d}"
        if not all(any(one in full for one in word.split("|")) for word in words):
            continue
        rng = np.random.default_rng([seed, *full.encode()])
        begun, total = time.perf_counter(), collections.Counter()
        for index in range(lanes * len(STARTS)):
            inputs, starts = INPUTS[rng.integers(len(INPUTS))], STARTS[index % len(STARTS)]
            targets = TARGETS[rng.integers(len(TARGETS) - 1)]  # the last one needs η
            eta, X, y, _ = (v[0] for v in draw(rng, 1, L, n, d, inputs, targets, starts))
            log_alpha = np.log(10) * rng.uniform(-12, 4)
            network, diagonal = make(eta, rng, starts)
            problem = gflow.Regression(jnp.asarray(X), jnp.asarray(y))
            end = gflow.limit(network, problem, log_alpha=log_alpha, method=gflow.Weights())
            status = gflow.Status[end.status]
            verdict, off = "unchecked", 0.0
            if end.converged:
                truth, slack, left = None, 1e-9, 0.0
                if diagonal is not None:
                    there = gflow.limit(diagonal, problem, log_alpha=log_alpha)
                    truth = there.coefficients if there.converged else None
                elif index % 6 == 0:
                    slack = 1e-6
                    truth, left = integrated(gflow.scale(network, np.exp(log_alpha)), problem)
                if truth is not None:
                    truth = np.asarray(truth)
                    start = np.asarray(gflow.scale(network, np.exp(log_alpha)).coefficients())
                    size = np.linalg.norm(truth) if y.any() else np.linalg.norm(start) or 1.0
                    off = float(np.linalg.norm(np.asarray(end.coefficients) - truth) / size)
                    verdict = "right" if off <= float(end.error) + slack + left / size else "wrong"
            for category in ("all", name, f"X {inputs}", f"y {targets}", f"start {starts}", f"{n}x{d}"):
                table[category].update({"lanes": 1, verdict: 1, status: 1})
            total.update({verdict: 1, status: 1})
            if verdict == "wrong" or not end.converged:
                print(f"  {verdict:9} {full} #{index}: X {inputs}, y {targets}, start {starts}, log10 α "
                      f"{log_alpha / np.log(10):.1f}, {status}, error {float(end.error):.1e}, off {off:.1e}, "
                      f"log-loss {float(end.log_loss):.1e}, {int(end.steps)} steps", flush=True)  # fmt: skip
        print(f"{full:28} {time.perf_counter() - begun:6.1f} s  {dict(total)}", flush=True)
    print(f"{'category':28}{'lanes':>7}{'converged':>11}{'right':>7}{'wrong':>7}  the others")
    for category, row in sorted(table.items(), key=lambda item: (item[0] == "all", item[0])):
        others = {k: v for k, v in row.items() if k not in ("lanes", "converged", "right", "wrong", "unchecked")}
        print(f"{category:28}{row['lanes']:7}{row['converged'] / row['lanes']:11.4f}{row['right']:7}{row['wrong']:7}"
              f"  {others}")  # fmt: skip


if __name__ == "__main__":
    numbers = [int(v) for v in sys.argv[1:3]]
    main(*numbers, words=sys.argv[3:])
