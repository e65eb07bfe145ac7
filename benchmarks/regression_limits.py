"""Limits of hostile regressions: how many are answered, and whether an answer is ever wrong.

    python benchmarks/regression_limits.py [lanes] [seed]

One line a category, over depths, shapes and scales from 10^−40 to 10^6: lanes, answered (converged, or a certified
least-squares point), solvable but unanswered, and of a sample the answers that are further than their bound, or than
1e-9, from the truth; and the statuses of what is unanswered. The truth is y itself for square identities, SciPy's for
least squares, and for two layers that of Newton's method in 100 digits and more.
"""

import collections
import functools
import sys

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from scipy.optimize import nnls

import gflow

jax.config.update("jax_enable_x64", True)

SHAPES = [(1, 3), (2, 2), (3, 8), (5, 12), (10, 15), (10, 30), (6, 4)]
INPUTS = ["gaussian", "identity", "sparse", "scaled rows", "scaled columns", "collinear", "duplicated", "zeros"]
TARGETS = ["gaussian", "sparse", "graded", "zero", "tiny", "huge", "near the start"]
UNANSWERED = ["step_limit", "not_certified", "not_finite", "no_descent"]
STARTS = ["random", "last layer zero", "equal", "tied", "near ties", "zeros", "graded layers", "graded coordinates"]


def draw(rng, lanes, L, n, d, inputs, targets, starts):
    """Starts η, inputs X and targets y that can be reached, but for more points than coordinates."""
    size = np.abs(rng.normal(size=(lanes, L, d))) + 0.1
    eta = size * rng.choice([-1.0, 1.0], size=size.shape)
    if starts == "last layer zero":
        eta[:, -1] = 0
    if starts == "equal":
        eta = np.repeat(size[:, :1], L, axis=1)
    if starts == "tied":
        eta[:, :2] = size[:, :1] / 2
    if starts == "near ties":
        eta = size[:, :1] * (1 + 10 ** rng.uniform(-15, -2, size=(lanes, 1, 1)) * rng.normal(size=eta.shape))
    if starts == "zeros":
        eta[rng.random(eta.shape) < 0.2] = 0
    if starts == "graded layers":
        eta *= 10 ** rng.uniform(-4, 4, size=(lanes, L, 1))
    if starts == "graded coordinates":
        eta *= 10 ** rng.uniform(-4, 4, size=(lanes, 1, d))
    X = rng.normal(size=(lanes, n, d))
    if inputs == "identity":
        X = np.tile(np.eye(n, d), (lanes, 1, 1))
    if inputs == "sparse":
        X = np.where(rng.random(X.shape) < 0.4, X, 0.0) + np.eye(n, d)
    if inputs == "scaled rows":
        X *= 10 ** rng.uniform(-8, 8, size=(lanes, n, 1))
    if inputs == "scaled columns":
        X *= 10 ** rng.uniform(-4, 4, size=(lanes, 1, d))
    if inputs == "collinear":
        X[:, -1] = X[:, 0] + 10 ** rng.uniform(-8, 0, size=(lanes, 1)) * X[:, -1]
    if inputs == "duplicated":
        X[:, -1] = 2 * X[:, 0]
    if inputs == "zeros":
        X[:, -1], X[:, :, 0] = 0, 0
    beta = rng.normal(size=(lanes, d))
    if targets == "sparse":
        beta *= rng.random((lanes, d)) < 0.3
    if targets == "graded":
        beta *= 10 ** rng.uniform(-8, 2, size=(lanes, d))
    if targets in ("zero", "tiny", "huge"):
        beta *= {"zero": 0.0, "tiny": 1e-30, "huge": 1e30}[targets]
    log_alpha = np.log(10) * rng.uniform(-40, 6, size=lanes)
    if targets == "near the start":
        log_alpha = np.log(10) * rng.uniform(-3, 1, size=lanes)
        beta = np.exp(L * log_alpha)[:, None] * np.prod(eta, axis=1) + 1e-6 * beta
    ranked = np.sort(np.abs(eta), axis=1)
    held = ranked[:, 0] == ranked[:, 1]  # ties keep their sign, and two zeros stay
    beta = np.where(held, np.abs(beta) * np.sign(np.prod(eta, axis=1)), beta)
    return eta, X, np.einsum("bnd,bd->bn", X, beta), log_alpha


@functools.partial(jax.jit)
def limits(eta, X, y, log_alpha):
    def one(eta, X, y, log_alpha):
        end = gflow.limit(gflow.Diagonal(tuple(eta)), gflow.Regression(X, y), log_alpha=log_alpha)
        weights = jnp.stack(end.network.weights)
        least_squares = end.status == gflow.Status.least_squares
        others = jnp.stack([end.status == getattr(gflow.Status, name) for name in UNANSWERED])
        return weights, end.coefficients, end.error, end.converged, least_squares, others

    return jax.vmap(one)(eta, X, y, log_alpha)


def exact_two_layers(eta, X, y, log_alpha, weights):
    """β for L = 2 in many digits, from the ζ that the returned weights have: 4ρ = p e^{2ζ} − m e^{−2ζ}."""
    with mp.workdps(100 + int(2 * abs(log_alpha))):
        alpha = mp.e ** mp.mpf(float(log_alpha))
        start = [(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in eta.T]
        plus, minus = [alpha * (a + b) for a, b in start], [alpha * (a - b) for a, b in start]
        zeta = []
        for j, (a, b) in enumerate(weights.T):
            p, m = mp.mpf(float(a)) + mp.mpf(float(b)), mp.mpf(float(a)) - mp.mpf(float(b))
            grown = abs(p) * abs(minus[j]) >= abs(m) * abs(plus[j])
            one, before = (p, plus[j]) if grown else (m, minus[j])
            zeta.append((1 if grown else -1) * mp.log(abs(one / before)) if one and before else mp.mpf(0))
        A, target = mp.matrix(X.tolist()), mp.matrix(y.tolist())
        nu = mp.lu_solve(A.T, mp.matrix(zeta)) if len(y) < len(zeta) else mp.lu_solve(A * A.T, A * mp.matrix(zeta))
        for _ in range(60):
            clock = A.T * nu
            e = [mp.e ** (2 * v) for v in clock]
            rho = mp.matrix([(p**2 * v - m**2 / v) / 4 for p, m, v in zip(plus, minus, e, strict=True)])
            D = mp.diag([(p**2 * v + m**2 / v) / 2 for p, m, v in zip(plus, minus, e, strict=True)])
            step = mp.lu_solve(A * D * A.T, target - A * rho)
            turn = max(abs(v) for v in A.T * step)
            nu += step * min(mp.mpf(1), 1 / turn)
            if turn < mp.mpf(10) ** -60:  # where a large start has to cancel to something tiny
                return np.array([float(v) for v in rho])
    return None


def exact_least_squares(X, y):
    with mp.workdps(80):
        A = mp.matrix(X.tolist())
        return np.array([float(v) for v in mp.lu_solve(A.T * A, A.T * mp.matrix(y.tolist()))])


def wrong(lane, eta, X, y, log_alpha, found):
    """Whether the answer of a lane is further from the truth than it says; None where there is no reference here."""
    weights, beta, error, converged, _, _ = (v[lane] for v in found)
    eta, X, y, log_alpha = eta[lane], X[lane], y[lane], log_alpha[lane]
    n, d = X.shape
    if n == d and np.array_equal(X, np.eye(n)) and converged:
        truth = y
    elif n > d and (np.linalg.matrix_rank(X) == d) and len(eta) == 2:
        sign = np.where(np.abs(eta[0]) == np.abs(eta[1]), np.sign(np.prod(eta, axis=0)), 0)
        if (sign != 0).any() and (sign == 0).any():
            return None
        # SciPy says which live; what they are, many digits.
        alive = (sign == 0) | (nnls(X * sign, y)[0] > 0)
        truth = np.zeros(d)
        truth[alive] = exact_least_squares(X[:, alive], y)
    elif len(eta) == 2 and converged and np.linalg.matrix_rank(X) == n:
        try:
            truth = exact_two_layers(eta, X, y, log_alpha, weights)
        except ZeroDivisionError:
            return None
        if truth is None:
            return None
    else:
        return None
    start = np.exp(len(eta) * log_alpha) * np.prod(eta, axis=0) * (X != 0).any(axis=0)
    size = np.linalg.norm(truth) if y.any() else np.linalg.norm(start) or 1.0
    return np.linalg.norm(beta - truth) / size > max(float(error), 1e-9)


def main(lanes=20, seed=0):
    rng = np.random.default_rng(seed)
    table = collections.defaultdict(collections.Counter)
    for L in (2, 3, 4, 5):
        for n, d in SHAPES:
            for inputs in INPUTS:
                for starts in STARTS:
                    targets = TARGETS[rng.integers(len(TARGETS))]
                    made = draw(rng, lanes, L, n, d, inputs, targets, starts)
                    found = tuple(map(np.asarray, limits(*made)))
                    answered, others = found[3] | found[4], found[5].sum(axis=0).tolist()
                    verdicts = [wrong(lane, *made, found) for lane in np.flatnonzero(answered)[:2]]
                    for category in (f"L = {L}", f"X {inputs}", f"y {targets}", f"start {starts}", "all"):
                        row = table[category]
                        row.update(dict(zip(UNANSWERED, others, strict=True)))
                        row["lanes"] += lanes
                        row["answered"] += int(answered.sum())
                        row["checked"] += sum(v is not None for v in verdicts)
                        row["wrong"] += sum(bool(v) for v in verdicts)
                    for lane, verdict in zip(np.flatnonzero(answered)[:2], verdicts, strict=True):
                        if verdict:
                            print("WRONG", L, n, d, inputs, targets, starts, "lane", lane, found[2][lane], flush=True)
    print(
        f"{'category':28s}{'lanes':>8s}{'answered':>10s}{'unanswered':>12s}{'checked':>9s}{'wrong':>7s}  unanswered as"
    )
    for category in sorted(table, key=lambda name: (name == "all", name)):
        row = table[category]
        left = row["lanes"] - row["answered"]
        statuses = ", ".join(f"{row[name]} {name}" for name in UNANSWERED if row[name])
        print(
            f"{category:28s}{row['lanes']:8d}{row['answered'] / row['lanes']:10.4f}{left:12d}"
            f"{row['checked']:9d}{row['wrong']:7d}  {statuses}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
