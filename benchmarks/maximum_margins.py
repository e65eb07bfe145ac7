"""gflow.predict.maximum_margin on hostile data, against exact rational arithmetic, and other solvers beside it.

    python -u benchmarks/maximum_margins.py [problems]          (about five minutes for 500)

Problems alternate between five kinds; n = 1 … 20 points in d = 2 … 60 dimensions, all rows times 10^±6 each:

- plain: Gaussian, each point shifted to a random side of a random direction;
- narrow: pairs of points face each other, which leaves a margin of 1e-9 to 1e-1 of the rows' lengths;
- ternary: entries −1, 0, 1, times powers of two, so that ties abound;
- crowded: Gaussian with random labels, in at most 8 dimensions, separable or not;
- contradictory: a positive combination of some points is exactly zero.

The reference solves the optimality conditions on the support of the answer in fractions, and looks at every sign: it
proves that its own point is optimal, or that it is not. Where the maximum is not attained once, norms are compared. The
proof of a contradiction is checked in the same way.
"""

import pathlib
import sys
import time
import warnings

import cvxpy as cp
import jax
import numpy as np
from scipy.optimize import linprog

import gflow

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from truth import contradicts, exact_margin

jax.config.update("jax_enable_x64", True)

KINDS = ("plain", "narrow", "ternary", "crowded", "contradictory")


def problem(seed):
    """The kind, and the rows y_i x_i."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % 5]
    n, d = int(rng.integers(1, 21)), int(rng.integers(2, 9 if kind == "crowded" else 61))
    direction = rng.normal(size=d)
    direction /= np.linalg.norm(direction)
    A = rng.normal(size=(n, d))
    if kind == "narrow":
        A -= np.outer(A @ direction, direction)
        half = (n + 1) // 2
        A[half:] = -A[: n - half]
        A += 10 ** rng.uniform(-9, -1) * rng.uniform(1, 2, (n, 1)) * direction
    elif kind == "plain":
        A *= np.where(A @ direction > 0, 1.0, -1.0)[:, None]
    elif kind != "crowded":
        A = rng.choice([-1.0, 0.0, 1.0], (n, d))
        A[:, 0] = 1.0 if kind == "ternary" else A[:, 0]  # separable by the first coordinate
    if kind == "contradictory":
        k = int(rng.integers(1, n + 1))
        A[k - 1] = -A[: k - 1].sum(axis=0)
    exact = kind in ("ternary", "contradictory")
    return kind, A * (2.0 ** rng.integers(-20, 21, (n, 1)) if exact else 10 ** rng.uniform(-6, 6, (n, 1)))


# Other solvers, asked as one would.


def by_cvxpy(A, p):
    beta = cp.Variable(A.shape[1])
    program = cp.Problem(cp.Minimize(cp.norm1(beta) if p == 1 else cp.sum_squares(beta)), [A @ beta >= 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cp.CLARABEL)
        except cp.SolverError:
            return None
    return beta.value


def by_highs(A, p):
    if p == 2:
        return None
    n, d = A.shape
    found = linprog(np.ones(2 * d), A_ub=np.hstack([-A, A]), b_ub=-np.ones(n)).x
    return None if found is None else found[:d] - found[d:]


def ask(A, p, labels):
    """β, or the error, and whether the maximum is attained once."""
    try:
        found = gflow.predict.maximum_margin(gflow.Classification(A * labels[:, None], labels), p)
    except gflow.predict.Refusal as refusal:
        return refusal, True
    return np.asarray(found.coefficients), bool(found.hypotheses[0].holds)


def main(problems=500):
    print(f"{'kind':14s} p | {'asked':>5s} {'right':>5s} {'wrong':>5s} {'refused':>7s} {'named inseparable':>17s} "
          f"{'several':>7s} | {'error':>8s} {'ms':>5s} | share of right: CLARABEL, HiGHS")  # fmt: skip
    for kind in KINDS:
        for p in (1, 2):
            row(kind, p, [seed for seed in range(problems) if KINDS[seed % 5] == kind])


def row(kind, p, seeds):
    counts = dict.fromkeys(("right", "wrong", "refused", "named", "several", "CLARABEL", "HiGHS"), 0)
    errors, seconds = [0.0], []
    for seed in seeds:
        A = problem(seed)[1]
        labels = np.random.default_rng(seed).choice([-1.0, 1.0], len(A))
        start = time.perf_counter()
        found, once = ask(A, p, labels)
        seconds.append(time.perf_counter() - start)
        if isinstance(found, gflow.predict.NotSeparable):
            counts["named" if contradicts(A, found.multipliers) else "wrong"] += 1
            continue
        if isinstance(found, Exception):
            counts["refused"] += 1
            continue
        exact = exact_margin(A, found, p)
        if exact is None or kind == "contradictory":
            counts["wrong"] += 1
            continue
        truth = np.array([float(v) for v in exact])
        errors.append(float(np.abs(found - truth).max() / np.abs(truth).max()))
        counts["right" if errors[-1] <= 1e-12 else "wrong"] += 1
        counts["several"] += not once
        for name, solver in (("CLARABEL", by_cvxpy), ("HiGHS", by_highs)):
            other = solver(A, p)
            if other is not None:
                distance = np.abs(other - truth).max() if once else abs(np.abs(other).sum() - np.abs(truth).sum())
                counts[name] += bool(distance <= 1e-6 * np.abs(truth).max())
    asked = max(counts["right"] + counts["wrong"], 1)
    others = f"{counts['CLARABEL'] / asked:.2f} " + (f"{counts['HiGHS'] / asked:.2f}" if p == 1 else "")
    print(f"{kind:14s} {p} | {len(seeds):5d} {counts['right']:5d} {counts['wrong']:5d} {counts['refused']:7d} "
          f"{counts['named']:17d} {counts['several']:7d} | {max(errors):8.1e} {1e3 * np.median(seconds):5.1f} | "
          f"{others if kind != 'contradictory' else ''}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
