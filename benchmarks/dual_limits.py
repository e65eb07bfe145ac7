"""Limits of a two-layer diagonal network for 57 initial scales: gflow's dual engine and its rivals in one run.

X Gaussian, 40 × 100, scaled by 1/√40; y from a 5-sparse signal; η = 1; α from 1e-5 to 1e2. Errors are relative, of
the coefficients: against 50-digit Newton (mpmath) at a few α, elsewhere against gflow's Newton.

    python benchmarks/dual_limits.py [--all]      (--all adds d = 10⁶, and takes some minutes)
"""

import os
import resource
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads gain nothing at these sizes, and wait for each other

import cvxpy as cp
import diffrax
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from scipy.integrate import solve_ivp

import gflow

jax.config.update("jax_enable_x64", True)

rng = np.random.default_rng(0)
n, d = 40, 100
X = rng.normal(size=(n, d)) / np.sqrt(n)
signal = np.zeros(d)
signal[rng.choice(d, 5, replace=False)] = rng.normal(size=5)
y = X @ signal
alphas = np.logspace(-5, 2, 57)
problem = gflow.Regression(jnp.asarray(X), jnp.asarray(y))
network = gflow.Diagonal((jnp.ones(d), jnp.zeros(d)))
RESIDUAL = 1e-9  # at which an integrated path ends, relative


def compiled(function, *arguments):
    """(result, seconds to run, seconds to compile) of a function of arrays."""
    start = time.perf_counter()
    run = jax.jit(function).lower(*arguments).compile()
    compilation = time.perf_counter() - start
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        result = jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - start)
    return result, min(times), compilation


def exact(alpha, rho, L=2):
    """50-digit Newton on (x, ν): ρ = α^L sinh x cosh^{L−1} x, Xρ = y, Xᵀν = s_L(x), from a float64 start."""
    with mp.workdps(50 + int(8 * max(0.0, -np.log10(alpha)))):
        A, target, scale = mp.matrix(X.tolist()), mp.matrix(y.tolist()), mp.mpf(alpha) ** L
        x, nu = mp.matrix(rho.angles.tolist()), mp.matrix(rho.nu.tolist())
        for _ in range(100):
            slope = [scale * mp.cosh(v) ** (L - 2) * (mp.cosh(v) ** 2 + (L - 1) * mp.sinh(v) ** 2) for v in x]
            speed = [mp.cosh(v) ** (L - 2) for v in x]
            misfit = target - A * mp.matrix([scale * mp.sinh(v) * mp.cosh(v) ** (L - 1) for v in x])
            slack = A.T * nu - mp.matrix([exact_time(v, L) for v in x])
            D = [a * b for a, b in zip(slope, speed, strict=True)]
            AD = mp.matrix([[A[i, j] * D[j] for j in range(d)] for i in range(n)])
            dnu = mp.lu_solve(AD * A.T, misfit - AD * slack)
            dx = A.T * dnu + slack
            dx = mp.matrix([v * a for v, a in zip(dx, speed, strict=True)])
            largest = max(abs(v) for v in dx)
            x, nu = x + dx * min(1, 1 / largest), nu + dnu * min(1, 1 / largest)
            if largest < mp.mpf(10) ** -20:
                return np.array([scale * mp.sinh(v) * mp.cosh(v) ** (L - 1) for v in x], float)
    raise RuntimeError("the reference did not converge")


def exact_time(x, L):
    gudermann, sech = mp.atan(mp.sinh(x)), 1 / mp.cosh(x)
    return {2: x, 3: gudermann, 4: mp.tanh(x), 5: (sech * mp.tanh(x) + gudermann) / 2}[L]


def distance(a, b):
    return float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b))


def scipy_limit(alpha, method, rtol):
    """The full weights by SciPy, until the residual is small."""

    def field(t, v):
        back = X.T @ (y - X @ (v[:d] * v[d:]))
        return np.concatenate([back * v[d:], back * v[:d]])

    def jacobian(t, v):
        back, P = X.T @ (y - X @ (v[:d] * v[d:])), X.T @ X
        u, w = v[:d], v[d:]
        off = np.diag(back)
        return np.block(
            [[-(w[:, None] * P * w), off - w[:, None] * P * u], [off - u[:, None] * P * w, -(u[:, None] * P * u)]]
        )

    def small(t, v):
        return np.linalg.norm(X @ (v[:d] * v[d:]) - y) - RESIDUAL * np.linalg.norm(y)

    small.terminal = True
    start = alpha * np.concatenate([np.ones(d), np.zeros(d)])
    extra = {"jac": jacobian} if method == "LSODA" else {}
    run = solve_ivp(field, (0, 1e9), start, method, events=small, rtol=rtol, atol=rtol * 1e-3 * alpha, **extra)
    return run.y[:d, -1] * run.y[d:, -1]


def cvxpy_limit(alpha):
    """Theorem 5's program as an exponential cone: Q / α² = Σ (ρ asinh(2ρ)/2 − (√(1 + 4ρ²) − 1)/4)."""
    plus, minus = cp.Variable(d), cp.Variable(d)  # ρ = p − m, Q = min Σ relative entropies with p m = α⁴/16
    unit = alpha**2 / 4
    entropy = cp.sum(cp.kl_div(plus, unit) + cp.kl_div(minus, unit))
    scale = max(1.0, unit)
    cp.Problem(cp.Minimize(entropy / scale), [X @ (plus - minus) == y]).solve(solver=cp.CLARABEL)
    return plus.value - minus.value


def path_end(log_alpha):
    """The end of the dual path, at a time when the residual is below RESIDUAL."""
    path = gflow.dual.flow(network, problem, LAST_TIMES, log_alpha=log_alpha, rtol=1e-4)
    return path.network.coefficients(), jnp.exp(path.log_loss / 2), path.steps


LAST_TIMES = jnp.log(jnp.array([1.0, 1e2, 1e4, 1e6, 1e9]))


def main():
    log_alphas = jnp.log(jnp.asarray(alphas))
    ends, t_limit, c_limit = compiled(
        jax.vmap(lambda a: gflow.limit(network, problem, log_alpha=a).network.coefficients()), log_alphas
    )
    proofs = jax.jit(jax.vmap(lambda a: gflow.dual.certificate(network, problem, log_alpha=a)))(log_alphas)
    some = [0, 56]
    references = {i: exact(alphas[i], jax.tree.map(lambda v, i=i: v[i], proofs)) for i in some}
    error_limit = max(distance(ends[i], references[i]) for i in some)
    reference = np.asarray(ends)
    print(f"(A) gflow.limit: iterations {int(proofs.iterations.min())} to {int(proofs.iterations.max())}, "
          f"converged {int(proofs.converged.sum())} of 57, largest gap {float(proofs.gap.max()):.1e}")  # fmt: skip

    (betas, residuals, _), t_path, c_path = compiled(jax.vmap(path_end), log_alphas)
    error_path = max(distance(betas[i], reference[i]) for i in range(57))

    start = time.perf_counter()
    lsoda = [scipy_limit(a, "LSODA", 1e-9) for a in alphas]
    t_lsoda = time.perf_counter() - start
    error_lsoda = max(map(distance, lsoda, reference))
    few = [8, 32, 56]
    start = time.perf_counter()
    dop = [scipy_limit(alphas[i], "DOP853", 1e-9) for i in few]
    t_dop = (time.perf_counter() - start) * 57 / len(few)
    error_dop = max(distance(v, reference[i]) for v, i in zip(dop, few, strict=True))
    start = time.perf_counter()
    programs = [cvxpy_limit(alphas[i]) for i in few]
    t_cvxpy = (time.perf_counter() - start) * 57 / len(few)
    error_cvxpy = max(distance(v, reference[i]) for v, i in zip(programs, few, strict=True))
    lanes = np.array([8, 32])

    def weights_end(alpha):
        target = 2 * np.log(RESIDUAL * np.linalg.norm(y)) - np.log(2)
        run = gflow.flow(gflow.scale(network, alpha), problem, times=jnp.array([1e9]), log_loss=target,
                         rtol=1e-9, solver=diffrax.Kvaerno5(), max_steps=4096)  # fmt: skip
        return run.network.coefficients()

    kvaerno, t_full, c_full = compiled(jax.vmap(weights_end), jnp.asarray(alphas[lanes]))
    t_full = t_full * 57 / len(lanes)
    error_full = max(distance(v, reference[i]) for v, i in zip(kvaerno, lanes, strict=True))

    print(f"\n{'57 limits':46s}{'seconds':>10s}{'compile':>9s}{'error':>10s}{'times (A)':>11s}{'times (B)':>11s}")
    rows = [
        ("(A) gflow.limit (error against 50 digits)", t_limit, c_limit, error_limit),
        (f"(B) gflow.dual.flow, residual {float(residuals.max()):.0e}", t_path, c_path, error_path),
        ("(i) SciPy LSODA on the weights, Jacobian", t_lsoda, 0, error_lsoda),
        ("(ii) diffrax Kvaerno5 on the weights (2 of 57)", t_full, c_full, error_full),
        ("(iii) SciPy DOP853 on the weights (3 of 57)", t_dop, 0, error_dop),
        ("(iv) cvxpy, Clarabel (3 of 57)", t_cvxpy, 0, error_cvxpy),
    ]
    for name, seconds, compilation, error in rows:
        ratios = f"{seconds / t_limit:11.0f}{seconds / t_path:11.1f}"
        print(f"{name:46s}{seconds:10.3f}{compilation:9.1f}{error:10.1e}{ratios}")

    print("\ndeeper networks, error of ρ against 50 digits and more")
    for L in (3, 4, 5):
        deep = gflow.Diagonal((*[jnp.ones(d)] * (L - 1), jnp.zeros(d)))
        solve = jax.jit(lambda a, deep=deep: gflow.dual.certificate(deep, problem, log_alpha=a))
        for alpha in (1e-2, 1e-6):
            end = jax.block_until_ready(solve(jnp.log(alpha)))
            start = time.perf_counter()
            jax.block_until_ready(solve(jnp.log(alpha)))
            print(f"L = {L}, alpha = {alpha:.0e}: {distance(end.rho, exact(alpha, end, L)):.1e} in "
                  f"{time.perf_counter() - start:.3f} s, {int(end.iterations)} iterations, "
                  f"own estimate {float(end.error):.1e}")  # fmt: skip

    def total(log_alpha, y):
        end = gflow.limit(network, gflow.Regression(problem.X, y), log_alpha=log_alpha)
        return jnp.sum(end.network.coefficients() ** 2)

    a = jnp.log(1e-2)
    _, t_one, _ = compiled(total, a, problem.y)
    _, t_gradient, _ = compiled(jax.grad(total, argnums=(0, 1)), a, problem.y)
    print(f"\none gradient costs {t_gradient / t_one:.2f} limits ({t_gradient * 1e3:.2f} ms)")
    if "--all" in sys.argv:
        many()


def many():
    """d = 10⁶, n = 100."""
    big = np.random.default_rng(1).normal(size=(100, 10**6)) / 10.0
    data = gflow.Regression(jnp.asarray(big), jnp.asarray(big[:, :5].sum(axis=1)))
    del big
    wide = gflow.Diagonal((jnp.ones(10**6), jnp.zeros(10**6)))
    solve = jax.jit(lambda p, a: gflow.dual.certificate(wide, p, log_alpha=a))
    start = time.perf_counter()
    end = jax.block_until_ready(solve(data, jnp.log(1e-3)))
    print(f"d = 10^6, n = 100, alpha = 1e-3: {time.perf_counter() - start:.1f} s with compilation, "
          f"{int(end.iterations)} iterations, converged {bool(end.converged)}, residual {float(end.residual):.1e}, "
          f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
