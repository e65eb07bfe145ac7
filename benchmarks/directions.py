"""Limit directions of classifications: how many are answered, and whether any is wrong, by category.

For every network and depth one batch of lanes, cycling through kinds of data, starts and scales: data Gaussian, nearly
degenerate, with duplicates, ternary, sparse, separable by 1e-8 only, with rows over 1e±6, of one class, or not
separable; starts random, with a layer of zeros, balanced, or misclassifying every point; α from 1e-12 to 1e3, and
10^−1000 where dual coordinates serve. Whether data are separable and the maximum margins are known in exact arithmetic
(`gflow.predict`). Wrong is

- a lane that is converged on data that are not separable, or `no descent` on data that are;
- one that is converged further than its `error` from the maximum margin that a theorem names, where that is unique;
- elsewhere one with a KKT or singular-vector residual above 1e-9, or with a margin that is not positive;
- for a diagonal network of three layers and more also one whose direction is another with a cap of 1e5.

    python -u benchmarks/directions.py [LANES [NAME]]   (lanes of a row, by default 36; rows are printed when known)
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)

LANES = int(sys.argv[1]) if len(sys.argv) > 1 else 36
ONLY = sys.argv[2] if len(sys.argv) > 2 else ""
KINDS = ("Gaussian", "rows over 1e±6", "separable by 1e-8", "nearly degenerate", "duplicates", "ternary", "sparse",
         "one class", "not separable")  # fmt: skip
STARTS = ("random", "layer of zeros", "balanced", "misclassifying")


def table(kind, rng, n, d):
    """y_i x_i, row by row."""
    A = rng.standard_normal((n, d))
    if kind == "rows over 1e±6":
        A *= 10 ** rng.uniform(-6, 6, (n, 1))
    if kind == "separable by 1e-8":
        A[1] = -A[0] + 1e-8 * rng.standard_normal(d)
    if kind == "nearly degenerate":
        A[1] = A[0] + 1e-6 * rng.standard_normal(d)
    if kind == "duplicates":
        A[1] = A[0]
    if kind == "ternary":
        A = rng.integers(-1, 2, (n, d)) + np.eye(n, d)
    if kind == "sparse":
        A *= rng.random((n, d)) < 0.4
        A[:, 0] += A[:, 0] == 0
    if kind == "not separable":
        A[1] = -2 * A[0]
    return A


def started(kind, rng, shapes, A):
    weights = [rng.standard_normal(shape) for shape in shapes]
    if kind == "layer of zeros":
        weights[-1] *= 0
    if kind == "balanced" and len(set(shapes)) == 1:
        weights = [np.sign(v) * np.abs(weights[0]) for v in weights]
    if kind == "misclassifying" and all(len(shape) == 1 for shape in shapes):  # exactly so for a diagonal network
        weights[-1] = -np.resize(A.sum(0), shapes[-1]) * np.prod(
            [np.sign(np.resize(v, shapes[-1])) for v in weights[:-1]], 0
        )
    return weights


def truth(A, p, S):
    """Whether the data are separable, and the maximum margin if it is the only one."""
    problem = gflow.Classification(A, np.ones(len(A)))
    try:
        gflow.predict.maximum_margin(problem, 2)
        found = gflow.predict.maximum_margin(problem, p, S) if p else None
    except gflow.predict.NotSeparable:
        return False, None
    except gflow.predict.Undecided:
        return True, None
    return True, found.coefficients if found and found.hypotheses[0].holds else None


def row(name, make, shapes, n, d, *, p=0, S=None, log_alphas=(-27.6, -6.9, -2.3, 0.0, 2.3, 6.9), dual=False):
    if ONLY not in name:
        return
    rng = np.random.default_rng(0)
    kinds = [KINDS[i % len(KINDS)] for i in range(LANES)]
    starts = [STARTS[(i // len(KINDS)) % len(STARTS)] for i in range(LANES)]
    tables = np.stack([table(kind, rng, n, d) for kind in kinds])
    weights = [started(kind, rng, shapes, A) for kind, A in zip(starts, tables, strict=True)]
    lanes = jnp.asarray(tables), [jnp.asarray(np.stack(v)) for v in zip(*weights, strict=True)]
    scales = jnp.asarray([log_alphas[i % len(log_alphas)] for i in range(LANES)])

    @jax.jit
    def limits(method):
        def one(lane):
            (A, weights), log_alpha = lane
            problem = gflow.Classification(A, jnp.ones(n))
            end = gflow.limit(make(tuple(weights)), problem, log_alpha=log_alpha, method=method)
            return end, jnp.min(A @ end.direction), end.direction

        return jax.lax.map(one, (lanes, scales))

    begun = time.perf_counter()
    ends, margins, betas = jax.block_until_ready(limits(gflow.Dual() if dual else gflow.Weights()))
    other, _, of_other = limits(gflow.Dual(cap=1e5)) if dual and len(shapes) > 2 else (ends, margins, betas)
    seconds = time.perf_counter() - begun
    count = {kind: np.zeros(4, int) for kind in KINDS}
    for i, kind in enumerate(kinds):
        separable, best = truth(tables[i], p, S)
        end, converged = ends[i], bool(ends.converged[i])
        kept = starts[i] == "balanced" and dual  # such coordinates keep their signs: no theorem's margin
        wrong = converged and not (separable and margins[i] > 0)
        hopeless = bool(end.status == gflow.Status.no_descent)
        wrong |= hopeless and separable and starts[i] == "random"
        if converged and best is not None and not kept:
            wrong |= bool(gflow.angle(betas[i], best) > end.error + 1e-12)
        elif converged:
            residuals = jnp.array([end.certificate.kkt_residual, end.certificate.singular_vector_residual])
            wrong |= not (jnp.nanmin(residuals) <= 1e-9)
        wrong |= converged and bool(other.converged[i]) and bool(gflow.angle(betas[i], of_other[i]) > 1e-9)
        answered = converged or (hopeless and (not separable or starts[i] != "random"))
        count[kind] += (1, answered, wrong, separable and not answered)
        if wrong:
            print(f"   WRONG: lane {i}, {kind}, {starts[i]}, log α = {scales[i]}, {end}", flush=True)
    total = sum(count.values())
    print(f"{name:32} {total[0]:5} {total[1]:8} {total[2]:5} {total[3]:10} {seconds:7.0f}", flush=True)
    for kind, (some, answered, wrong, open_) in count.items():
        if answered < some:
            print(f"    {kind:28} {some:5} {answered:8} {wrong:5} {open_:10}", flush=True)


if __name__ == "__main__":
    print(f"{'':32} {'lanes':>5} {'answered':>8} {'wrong':>5} {'unanswered':>10} {'seconds':>7}   (of separable data)")
    for depth in (2, 3, 4, 5):
        far = (-2302.6, -27.6, -6.9, -2.3, 0.0, 2.3, 6.9)
        row(
            f"dual, diagonal, L = {depth}",
            gflow.Diagonal,
            [(8,)] * depth,
            4,
            8,
            p=1 * (depth == 2),
            log_alphas=far,
            dual=True,
        )
    row("dual, diagonal, L = 2, 12 x 5", gflow.Diagonal, [(5,)] * 2, 12, 5, p=1, dual=True)
    near = (-4.6, -2.3, -0.7, 0.0, 0.7)
    row("weights, linear model", gflow.Diagonal, [(6,)], 4, 6, p=2, log_alphas=near)
    for depth in (2, 3, 4):
        shapes = [(6, 3), *[(3, 3)] * (depth - 2), (3,)]
        row(f"weights, fully-connected, L = {depth}", gflow.FullyConnected, shapes, 4, 6, p=2, log_alphas=near)
    row("weights, diagonal, L = 2", gflow.Diagonal, [(6,)] * 2, 4, 6, p=1, log_alphas=near)
    S = 6**0.5 * np.asarray(gflow.predict.dft(6))
    row("weights, convolution, L = 2", gflow.Convolutional, [(6,)] * 2, 3, 6, p=1, S=S, log_alphas=near)
    row("weights, short filters, L = 3", gflow.Convolutional, [(3,), (3,), (6,)], 3, 6, log_alphas=near)
    B = jnp.asarray(np.random.default_rng(1).standard_normal((6, 3, 4, 2)))
    row("weights, multilinear, L = 3", lambda v: gflow.Multilinear(v, B), [(3,), (4,), (2,)], 4, 6, log_alphas=near)
    row("weights, matrix product, L = 3", gflow.MatrixProduct, [(3, 3)] * 3, 3, 9, log_alphas=near)
