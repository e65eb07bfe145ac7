"""The paper's toy, 1 to a million lanes: limits in dual coordinates and by weights, and paths; and an unequal batch.

    python -u benchmarks/toy.py [most lanes]        (100,000 by default; some ten minutes)

One data point in the plane, two layers, scales from 1e-4 to 10 and random directions. The truth is bisection on the
one equation Σ_j x_j ρ_j(ν x_j) = y in NumPy, or Theorem 6's scalar equation.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import rivals
from harness import Contender, contest, growth, loosest, missing

import gflow

X, Y = np.array([[1.0, 2.0]]), np.array([1.0])
PROBLEM = gflow.Regression(X, Y)
TARGET = 1e-6  # the error at which rivals are compared


def starts(lanes):
    """Weights of two-layer diagonal networks, shape (lanes, 2, 2)."""
    rng = np.random.default_rng(0)
    alpha = np.logspace(-4, 1, lanes) if lanes > 1 else np.array([0.1])
    return rng.permutation(alpha)[:, None, None] * rng.normal(size=(lanes, 2, 2))


def truth(weights):
    """β in closed form but for one number ν, by bisection: v_1 ± v_2 grow as e^{±νx}."""
    plus, minus = (weights[:, 0] + weights[:, 1]) / 2, (weights[:, 0] - weights[:, 1]) / 2

    def beta(nu):
        return plus**2 * np.exp(2 * nu[:, None] * X) - minus**2 * np.exp(-2 * nu[:, None] * X)

    low, high = np.full(len(weights), -30.0), np.full(len(weights), 30.0)
    for _ in range(200):
        nu = (low + high) / 2
        above = (beta(nu) @ X[0]) > Y[0]
        low, high = np.where(above, low, nu), np.where(above, nu, high)
    return beta((low + high) / 2)


def diagonal(v):
    return gflow.Diagonal((v[0], v[1]))


def batched(function, weights):
    run = jax.jit(jax.vmap(lambda v: function(diagonal(v))))
    return lambda: run(weights)


def limits(lanes):
    weights, few = starts(lanes), np.random.default_rng(1).choice(lanes, min(lanes, 100), replace=False)
    expected = truth(weights)
    on_device = jnp.asarray(weights)
    contenders = [
        Contender("gflow, dual", batched(lambda n: gflow.limit(n, PROBLEM).coefficients, on_device)),
        Contender(
            "gflow, weights", batched(lambda n: gflow.limit(n, PROBLEM, method=gflow.Weights()).coefficients, on_device)
        ),
    ]
    some = np.arange(lanes)[
        :: -(-lanes // 1000)
    ]  # plain diffrax: all wait for the slowest, for minutes if there are more

    def plain(rtol, lanes):
        return batched(lambda n: rivals.diffrax_limit(n, PROBLEM, rtol), on_device[lanes])

    rtol, _ = loosest(lambda rtol: plain(rtol, few), expected[few], TARGET, (1e-7, 1e-8, 1e-9))
    contenders.append(Contender(f"diffrax Tsit5 under vmap, {rtol:.0e}", plain(rtol, some), some))
    method, rtol = rivals.best_of_scipy(diagonal(weights[few[0]]), PROBLEM, expected[few[0]], TARGET)

    def one_by_one():
        return np.array([rivals.scipy_limit(diagonal(weights[i]), PROBLEM, method, rtol) for i in few])

    contenders.append(Contender(f"SciPy {method} one by one, {rtol:.0e}", one_by_one, few))
    if lanes <= 100 and not missing("torchdiffeq"):  # its batch takes the steps of its stiffest lane: minutes for more
        call = rivals.torch_limits(weights[some], X, Y, 60.0, 1e-7)
        contenders.append(
            Contender("torchdiffeq dopri5 as one batch", call, some, "until t = 60, where slow lanes are not there")
        )
    return contest("toy limits", {"lanes": lanes}, contenders, expected)


TIMES = np.logspace(-2, 1.5, 32)


def paths(lanes):
    weights = jnp.asarray(starts(lanes))
    few = np.arange(lanes)[:: -(-lanes // 50)]
    tight = batched(lambda n: rivals.diffrax_path(n, PROBLEM, jnp.asarray(TIMES), 1e-11), weights)()
    save = gflow.Times(TIMES)

    def path(method):
        return batched(lambda n: gflow.flow(n, PROBLEM, save=save, method=method).coefficients, weights)

    contenders = [
        Contender("gflow, dual", path(gflow.Dual(rtol=1e-7))),
        Contender("gflow, weights", path(gflow.Weights(rtol=1e-7))),
    ]
    rtol, call = loosest(
        lambda rtol: batched(lambda n: rivals.diffrax_path(n, PROBLEM, jnp.asarray(TIMES), rtol), weights),
        tight, TARGET, (1e-6, 1e-7, 1e-8),
    )  # fmt: skip
    contenders.append(Contender(f"diffrax Tsit5 under vmap, {rtol:.0e}", call))

    def one_by_one():
        return np.array([rivals.scipy_path(diagonal(weights[i]), PROBLEM, TIMES, "DOP853", 1e-8) for i in few])

    contenders.append(Contender("SciPy DOP853 one by one, 1e-08", one_by_one, few))
    return contest("toy paths", {"lanes": lanes}, contenders, tight)


def main(most=100_000):
    counts = [n for n in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000) if n <= most]
    rows = [limits(n) for n in counts]
    for i, name in ((0, "dual"), (1, "weights")):
        print(
            f"limits, {name}: seconds grow like lanes^{growth(counts[-3:], [r[i]['seconds'] for r in rows[-3:]]):.2f}"
        )
    for n in counts:
        if n <= 10_000:
            paths(n)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
