"""Saddles and jump times, time courses and the lasso path against integrations: what gflow.predict says as α → 0.

    python -u benchmarks/saddles.py [folder for figures]          (about five minutes)

Gaussian data, n = 3 points and d = 7 coefficients, Gaussian starts of a diagonal network of depth 2, 3 and 4.

- toy: two points, four coefficients; a coordinate leaves again.
- saddles: the end against gflow.limit at α = 1e-300, and log t of each jump against the flow in dual coordinates, where
  it gets to three times the last jump and to the same end. For three layers and more at log α = −2300 that flow passes
  over waits of coordinates that have returned to zero, and may end elsewhere; at −20 it does not.
- courses: coefficients against integrated weights (SciPy's DOP853 at rtol 1e-13).
- lasso: the time average along the dual flow, from instances in which no coordinate leaves again: the KKT residual
  as a lasso at the worst time, times log 1/α, and the distance to cvxpy's lasso.
"""

import itertools
import pathlib
import sys
import time
import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

import gflow

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from test_courses import integrated_pairs, integrated_products
from truth import distance, jump_log_times, normals

jax.config.update("jax_enable_x64", True)

TOY = gflow.Regression([[1.0, 0.5, 0.7, 0.0], [0.5, 1.0, 0.1, 0.7]], [1.0, 0.0])
TOY_NETWORK = gflow.Diagonal((jnp.ones(4), jnp.zeros(4)))
N, D = 3, 7


def drawn(seed, L):
    X, y, *weights = normals(seed, (N, D), N, *(D,) * L)
    return gflow.Diagonal(tuple(weights)), gflow.Regression(X, y)


def leaving(found):
    return int(((found.rho[:-1] != 0) & (found.rho[1:] == 0)).sum())


def toy():
    found = gflow.predict.saddles(TOY_NETWORK, TOY)
    exact = np.array([[0, 0, 0, 0], [0.8, 0, 0, 0], [0, 0, 1.4, 0], [0, 0, 10 / 7, -10 / 49]])
    print(f"toy: saddles off by {np.abs(found.coefficients - exact).max():.1e}, waits (for Σ r²/2) by "
          f"{np.abs(found.waits - [1, 3, 80 / 49]).max():.1e}, {leaving(found)} coordinate leaves again")  # fmt: skip


def followed(network, problem, found, log_alpha):
    """The path in dual coordinates to three times the last jump, at the first tolerance at which it arrives."""
    until = gflow.LogTime(found.log_times(log_alpha)[-1] + np.log(3.0))
    for rtol in (1e-8, 1e-6, 1e-5, 1e-4):
        method = gflow.Dual(rtol=rtol, max_steps=4096)
        path = gflow.flow(network, problem, log_alpha=log_alpha, save=gflow.Steps(4096), until=until, method=method)
        if path.status == gflow.Status.finished:
            return path, rtol
    return None, np.nan


def jump_error(network, problem, found, log_alpha):
    """The largest |log t − log t predicted| of a jump; None where the flow did not get there, ∞ where it went
    elsewhere."""
    path, rtol = followed(network, problem, found, log_alpha)
    if path is None:
        return None, rtol
    if distance(path.coefficients[-1], found.end) > 1e-3:
        return np.inf, rtol
    jumps = jump_log_times(path.log_times, path.coefficients, found.coefficients)
    return float(np.abs(jumps - found.log_times(log_alpha)).max()), rtol


def saddles():
    print(f"{'L':>2s} {'instances':>9s} {'jumps':>5s} {'leave':>5s} | {'end':>8s} {'KKT':>8s} {'gap':>8s} | "
          f"{'log α':>6s} {'compared':>8s} {'median':>8s} {'largest':>8s} "
          f"{'not there':>9s} {'elsewhere':>9s}")  # fmt: skip
    for L, count in ((2, 17), (3, 17), (4, 16)):
        ends, residuals, gaps, jumps, left = [], [], [], 0, 0
        errors = {log_alpha: [] for log_alpha in (-20.0, -2300.0)}
        for seed in range(count):
            network, problem = drawn(100 * L + seed, L)
            found = gflow.predict.saddles(network, problem)
            end = gflow.limit(network, problem, log_alpha=-300 * np.log(10))
            ends.append(distance(end.coefficients, found.end))
            residuals.append(found.residual)
            gaps.append(abs(found.gap))
            jumps, left = jumps + len(found.waits), left + (leaving(found) > 0)
            for log_alpha, seen in errors.items():
                if log_alpha == -2300.0 or L > 2:  # at −20 two layers are O(1/20) off
                    seen.append(jump_error(network, problem, found, log_alpha)[0])
        for log_alpha, seen in errors.items():
            if seen:
                there = [e for e in seen if e is not None and np.isfinite(e)]
                print(f"{L:2d} {count:9d} {jumps:5d} {left:5d} | {max(ends):8.1e} {max(residuals):8.1e} "
                      f"{max(gaps):8.1e} | {log_alpha:6.0f} {len(there):8d} {np.median(there):8.1e} {max(there):8.1e} "
                      f"{seen.count(None):9d} {seen.count(np.inf):9d}", flush=True)  # fmt: skip


TIMES = np.concatenate([[0.0, 1e-6], np.linspace(0.1, 12.0, 60)])


def courses():
    print("time courses: widths, λ, α | largest error, residual, seconds predicted")
    for widths, lambda_, alpha in [
        *itertools.product(((4, 3, 5), (5, 3, 3), (3, 3, 6)), (0.0, 1.0, -1.0), (1.0,)),
        *itertools.product(((4, 3, 5), (2, 6, 3)), (0.0,), (1e-3,)),
    ]:
        start = gflow.scale(gflow.initial.balanced(jax.random.key(1), widths, lambda_), alpha)
        Y = np.asarray(normals(2, (widths[0], widths[2]))[0])
        began = time.perf_counter()
        found = gflow.predict.path(start, gflow.Regression(jnp.eye(Y.size), Y.ravel()), TIMES)
        seconds = time.perf_counter() - began
        error = np.abs(found.coefficients - integrated_products(*start.weights, Y, TIMES)).max()
        print(
            f"  {widths!s:10s} {lambda_:4.1f} {alpha:6.0e} | {error:.1e} {found.residual:.1e} {seconds:.3f}", flush=True
        )
    x, y = normals(3, 4)[0], 1.3
    for alpha in (1.0, 1e-2, 1e-6):
        start = gflow.scale(gflow.Diagonal(normals(4, 4, 4)), alpha)
        found = gflow.predict.path(start, gflow.Regression(x[None], [y]), TIMES)
        M = np.diag(x)

        def gradient(v, w, M=M):
            missing = y - v @ M @ w
            return missing * (M @ w), missing * (M @ v)

        exact = np.stack([v * w for v, w in integrated_pairs(*start.weights, gradient, TIMES)])
        print(f"  Theorem 6       {alpha:6.0e} | {np.abs(found.coefficients - exact).max():.1e} {found.residual:.1e}")


def cvxpy_lasso(X, y, penalty):
    beta = cp.Variable(X.shape[1])
    program = cp.Problem(cp.Minimize(cp.sum_squares(X @ beta - y) / 2 + penalty * cp.norm1(beta)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program.solve(solver=cp.CLARABEL)
    return beta.value


def lasso():
    network = gflow.Diagonal((jnp.ones(D), jnp.zeros(D)))
    residual = jax.jit(jax.vmap(gflow.measures.lasso_residual, (None, None, 0, 0)))
    worst = {log_alpha: [] for log_alpha in (-23.0, -230.0, -2300.0)}
    apart, staircase, lost, seed = [], [], 0, 0
    while len(staircase) < 20:
        X, y = normals(500 + seed, (N, D), N)
        seed += 1
        problem = gflow.Regression(X, y)
        found = gflow.predict.saddles(network, problem)
        if leaving(found):
            continue
        times = np.geomspace(found.times[0] / 2, 10 * found.times[-1], 50)
        staircase.append(float(residual(X, y, found.averages(times), found.horizons / times[:, None, None]).max()))
        for log_alpha, seen in worst.items():
            path, _ = followed(network, problem, found, log_alpha)
            if path is None:
                lost += 1
                continue
            late = np.asarray(path.log_times) > found.log_times(log_alpha)[0] - np.log(2.0)
            averages = np.asarray(gflow.measures.time_averages(path.log_times, path.coefficients))[late]
            penalties = found.penalties(path.log_times[late], log_alpha)
            seen.append(-log_alpha * float(residual(X, y, averages, penalties).max()))
        if path is not None:
            rows = np.linspace(0, len(averages) - 1, 8).astype(int)
            exact = [cvxpy_lasso(np.asarray(X), np.asarray(y), penalties[i, 0, 0]) for i in rows]
            apart.append(np.abs(averages[rows] - exact).max() / np.abs(found.end).max())
    print(f"lasso: 20 instances of {seed} in which no coordinate leaves; the staircase's averages: KKT "
          f"{max(staircase):.1e}; {lost} paths not there")  # fmt: skip
    for log_alpha, seen in worst.items():
        print(f"  log α = {log_alpha:6.0f}: KKT residual × log 1/α: {min(seen):.3f} … {max(seen):.3f}")
    print(f"  log α = -2300: from cvxpy's lasso, relative: median {np.median(apart):.1e}, most {max(apart):.1e}")


def figures(folder):
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(gflow.plot.FONT):
        figure = Figure(figsize=(10.5, 3.1), layout="constrained")
        axes = figure.subplots(1, 3)
        found, log_alpha = gflow.predict.saddles(TOY_NETWORK, TOY), -100.0
        path, _ = followed(TOY_NETWORK, TOY, found, log_alpha)
        gflow.plot.staircase(axes[0], found, log_alpha, path)
        axes[0].set_title("Saddles and jump times, α = e⁻¹⁰⁰")
        start = gflow.scale(gflow.initial.balanced(jax.random.key(5), (2, 3, 3)), 1e-3)
        problem = gflow.Regression(jnp.eye(6), normals(5, 6)[0])
        times = np.linspace(0, 40, 400)
        run = gflow.flow(start, problem, save=gflow.Times(times[::20]))
        gflow.plot.time_course(axes[1], gflow.predict.path(start, problem, times), run)
        axes[1].set_title("A balanced pair of layers, α = 10⁻³")
        X, y = normals(503, (N, D), N)
        problem, network = gflow.Regression(X, y), gflow.Diagonal((jnp.ones(D), jnp.zeros(D)))
        found = gflow.predict.saddles(network, problem)
        rows = np.log(np.geomspace(found.times[0] / 2, 20 * found.times[-1], 25))
        path, _ = followed(network, problem, found, -2300.0)
        log_times = rows + np.log(2300.0)
        keep = log_times < path.log_times[-1]
        every = np.union1d(path.log_times, log_times[keep])
        lines = [np.interp(np.exp(every), np.exp(path.log_times), line) for line in np.asarray(path.coefficients).T]
        averages = np.asarray(gflow.measures.time_averages(every, np.stack(lines, axis=1)))
        at = averages[np.searchsorted(every, log_times[keep])]
        penalties = found.penalties(log_times[keep], -2300.0)[:, 0, 0]
        exact = np.stack([cvxpy_lasso(np.asarray(X), np.asarray(y), p) for p in penalties])
        gflow.plot.lasso_path(axes[2], penalties, at, exact)
        axes[2].set_title("Time averages and the lasso, α = 10⁻⁹⁹⁹")
    figure.savefig(pathlib.Path(folder) / "vanishing_scales.png", dpi=110)


if __name__ == "__main__":
    toy()
    saddles()
    courses()
    lasso()
    if len(sys.argv) > 1:
        figures(sys.argv[1])
