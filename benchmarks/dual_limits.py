"""Exact limits without integration: gflow's dual engine, and its rivals, in one run.

Most of it on one problem: X Gaussian, 40 × 100, scaled by 1/√40; y from a 5-sparse signal; a diagonal network with
η = 1; 57 initial scales α from 1e-5 to 1e2. Errors are relative, of the coefficients: against Newton's method in 50
digits and more at some α (python-flint, whose matrices make that fast: `pip install python-flint`), elsewhere against
gflow's limit.

    python -u benchmarks/dual_limits.py           (some ten minutes; each row is printed when it is known)
"""

import os
import resource
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads gain nothing at these sizes, and wait for each other

import cvxpy as cp
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flint import arb, arb_mat, ctx
from scipy.integrate import solve_ivp
from scipy.optimize import linprog

import gflow
from gflow.dual.coordinates import Coordinates
from gflow.dual.decoupled import decoupled
from gflow.dual.newton import newton

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


def compiled(function, *arguments, repeats=2):
    """(result, seconds to run, seconds to compile) of a function of arrays."""
    start = time.perf_counter()
    run = jax.jit(function).lower(*arguments).compile()
    compilation = time.perf_counter() - start
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - start)
    return result, min(times), compilation


def dual_end(network, log_alpha):
    """The dual limit with its angles and ν, from which the reference starts; ρ; and the bound on its error."""
    found = decoupled(network, problem)
    systems, end, log_unit = newton(Coordinates.of(found.eta, log_alpha), found.Z, problem.y)
    rho = systems.rho(end.angles) * jnp.exp(log_unit)
    return end, rho, jnp.linalg.norm(end.errors) / jnp.linalg.norm(systems.rho(end.angles))


def exact(alphas, end, L=2):
    """ρ at the last of the `alphas` in 50 digits and more, followed from the first, where float64 found `end`."""
    ctx.dps = 50 + int(8 * max(0.0, -np.log10(alphas[-1])))
    x, nu = column(end.angles.tolist()), column(end.nu.tolist())
    for alpha in alphas:
        x, nu = exact_step(arb(float(alpha)) ** L, x, nu, L)
    return np.array([float(arb(float(alphas[-1])) ** L * v.sinh() * v.cosh() ** (L - 1)) for v in x.entries()])


def exact_step(scale, x, nu, L):
    """(x, ν) by Newton: ρ = α^L sinh x cosh^{L−1} x, Xρ = y, Xᵀν = s_L(x)."""
    A, target = arb_mat(X.tolist()), column(y.tolist())
    for _ in range(100):
        sinh, cosh = [v.sinh() for v in x.entries()], [v.cosh() for v in x.entries()]
        speed = [c ** (L - 2) for c in cosh]
        rho = column([scale * s * c ** (L - 1) for s, c in zip(sinh, cosh, strict=True)])
        slope = [scale * v * (c**2 + (L - 1) * s**2) for v, s, c in zip(speed, sinh, cosh, strict=True)]
        slack = A.transpose() * nu - column([exact_time(v, L) for v in x.entries()])
        D = [a * b for a, b in zip(slope, speed, strict=True)]
        AD = arb_mat([[a * b for a, b in zip(row, D, strict=True)] for row in A.tolist()])
        dnu = (AD * A.transpose()).mid().solve((target - A * rho - AD * slack).mid())
        dx = A.transpose() * dnu + slack
        dx = column([a * v for a, v in zip(dx.entries(), speed, strict=True)])
        largest = max(abs(float(v)) for v in dx.entries())
        damping = arb(min(1.0, 1 / largest))
        x, nu = (x + dx * damping).mid(), (nu + dnu * damping).mid()
        if largest < 1e-20:
            return x, nu
    raise RuntimeError("the reference did not converge")


def column(entries):
    return arb_mat(len(entries), 1, [arb(v) for v in entries])


def exact_time(x, L):
    gudermann, sech = x.sinh().atan(), x.sech()
    return {2: x, 3: gudermann, 4: x.tanh(), 5: (sech * x.tanh() + gudermann) / 2}[L]


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
    extra = {"jac": jacobian} if method == "LSODA" else {"first_step": 1e-3 / (1 + alpha**2)}  # its own overflows
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


def path_end(log_alpha, rtol):
    """The dual path saved at LOG_TIMES: at its last entries the residual is below RESIDUAL."""
    save, method = gflow.LogTimes(LOG_TIMES), gflow.Dual(rtol=rtol)
    path = gflow.flow(network, problem, log_alpha=log_alpha, save=save, method=method)
    return path.end.coefficients, jnp.exp(path.log_loss / 2), path.coefficients


LOG_TIMES = jnp.linspace(-2.0, 20.0, 45)


def main():
    rivals()
    deeper()
    smallest_scale()
    gradients()
    random_initialisations()
    fully_connected()
    many()


def rivals():
    log_alphas = jnp.log(jnp.asarray(alphas))
    proofs = jax.vmap(lambda a: gflow.limit(network, problem, log_alpha=a))(log_alphas)
    print(f"gflow.limit of 57 scales: {int(proofs.steps.min())} to {int(proofs.steps.max())} iterations, "
          f"{proofs.counts()}, largest duality gap {float(proofs.certificate.gap.max()):.1e}")  # fmt: skip
    some = {i: exact([alphas[i]], dual_end(network, log_alphas[i])[0]) for i in (0, 28, 56)}
    heads = f"{'seconds':>10s}{'compile':>9s}{'error':>10s}{'/ (A)':>8s}{'/ (B)':>8s}"
    print(f"\n{'57 limits':52s}{heads}")
    ends, t_limit, compilation = compiled(
        jax.vmap(lambda a: gflow.limit(network, problem, log_alpha=a).coefficients), log_alphas
    )
    reference = np.asarray(ends)
    paths = [  # lane after lane: under vmap all would wait for the slowest at every step
        compiled(lambda logs, rtol=rtol: jax.lax.map(lambda a: path_end(a, rtol), logs), log_alphas)
        for rtol in (1e-4, 1e-6, 1e-8)
    ]
    t_path = paths[0][1]

    def row(name, seconds, compilation, ends, expected):
        error = max(map(distance, ends, expected))
        print(
            f"{name:52s}{seconds:10.3f}{compilation:9.1f}{error:10.1e}{seconds / t_limit:8.0f}{seconds / t_path:8.1f}"
        )

    chosen = list(some)
    row("(A) gflow.limit (error at 3 of 57, many digits)", t_limit, compilation, reference[chosen], some.values())
    finest = paths[-1][0][2]
    for rtol, ((ends, residuals, betas), seconds, compilation) in zip((1e-4, 1e-6, 1e-8), paths, strict=True):
        row(f"(B) gflow.flow in dual coordinates, rtol {rtol:.0e}", seconds, compilation, ends, reference)
        lag = float(jnp.max(jnp.linalg.norm(betas - finest, axis=-1)) / jnp.linalg.norm(signal))
        print(f"{'':8s}residual {float(residuals.max()):.0e}; on the way at most {lag:.0e} from the path at 1e-8")
    start = time.perf_counter()
    lsoda = [scipy_limit(a, "LSODA", 1e-9) for a in alphas]
    row("(i) SciPy LSODA on the weights, Jacobian", time.perf_counter() - start, 0, lsoda, reference)

    for name, solve, few in (  # explicit DOP853 does not end at small α, nor, at 1e-9, below the residual
        ("(iv) cvxpy, Clarabel (3 of 57)", cvxpy_limit, [8, 32, 56]),
        ("(iii) SciPy DOP853 on the weights (3 with α ≥ 0.1)", lambda a: scipy_limit(a, "DOP853", 1e-12), [32, 44, 56]),
    ):
        start = time.perf_counter()
        found = [solve(alphas[i]) for i in few]
        row(name, (time.perf_counter() - start) * 57 / len(few), 0, found, reference[few])

    lanes = [32, 44, 56]  # α ≥ 0.1, the cheap ones: at α = 1e-3 a lane takes four times the steps
    found, seconds, compilation = compiled(jax.vmap(kvaerno_end), jnp.asarray(alphas[lanes]), repeats=1)
    name = "(ii) diffrax Kvaerno5 on the weights (3, α ≥ 0.1)"
    row(name, seconds * 57 / 3, compilation, found, reference[lanes])


def kvaerno_end(alpha):
    """The full weights by diffrax, until the residual is small."""

    def field(t, v, args):
        back = (problem.y - problem.X @ (v[0] * v[1])) @ problem.X
        return back * v[1], back * v[0]

    def small(t, v, args, **kwargs):
        return jnp.linalg.norm(problem.X @ (v[0] * v[1]) - problem.y) < RESIDUAL * jnp.linalg.norm(problem.y)

    controller = diffrax.PIDController(rtol=1e-9, atol=1e-12 * alpha, pcoeff=0.3, icoeff=0.4)
    run = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Kvaerno5(), 0.0, 1e9, None, (alpha * jnp.ones(d), jnp.zeros(d)),
        stepsize_controller=controller, event=diffrax.Event(small), max_steps=20_000, throw=False,
    )  # fmt: skip
    return run.ys[0][-1] * run.ys[1][-1]


def deeper():
    print("\ndeeper networks: error of ρ against many digits")
    for L in (3, 4, 5):
        solve = jax.jit(lambda a, L=L: dual_end(last_layer_zero(L), a))
        first, _, _ = solve(jnp.log(1e-2))
        for alpha in (1e-2, 1e-6):
            (end, rho, bound), seconds = timed(solve, jnp.log(alpha))
            expected = exact(np.geomspace(1e-2, alpha, 1 if alpha == 1e-2 else 33), first, L)
            print(f"L = {L}, α = {alpha:.0e}: {distance(rho, expected):.1e} in {seconds:.3f} s, "
                  f"{int(end.iterations)} iterations, own bound {float(bound):.1e}")  # fmt: skip


def last_layer_zero(L):
    return gflow.Diagonal((*[jnp.ones(d)] * (L - 1), jnp.zeros(d)))


def smallest_scale():
    program = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y, method="highs").x
    for L in (2, 3):
        end = gflow.limit(last_layer_zero(L), problem, log_alpha=-1000 * np.log(10.0))
        print(f"α = 10^-1000, L = {L}: distance to the least ℓ1 norm "
              f"{distance(end.coefficients, program[:d] - program[d:]):.1e}, "
              f"converged {bool(end.converged)}, {int(end.steps)} iterations")  # fmt: skip


def gradients():
    def total(log_alpha, y):
        end = gflow.limit(network, gflow.Regression(problem.X, y), log_alpha=log_alpha)
        return jnp.sum(end.coefficients**2)

    a, h = jnp.log(0.1), 1e-5  # so small, since what y is cannot fit without new entries bends the limit at 1e-2
    towards = jnp.asarray(np.random.default_rng(2).normal(size=n))
    _, t_one, _ = compiled(total, a, problem.y, repeats=20)
    slope, t_gradient, _ = compiled(jax.grad(total, argnums=(0, 1)), a, problem.y, repeats=20)
    at = jax.jit(lambda t: total(a + t, problem.y + t * towards))
    numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    analytic = slope[0] + slope[1] @ towards
    print(f"\none gradient (by log α and y) costs {t_gradient / t_one:.2f} limits ({t_gradient * 1e3:.2f} ms); "
          f"from central differences it is {abs(float(numeric / analytic) - 1):.1e} away")  # fmt: skip


def random_initialisations():
    data = gflow.Regression(problem.X[:5, :12], problem.y[:5])
    print("\nrandom initialisations, 5 × 12: dual limit against integrated weights, the worst of 5")
    for L in (2, 3, 4, 5):
        weights = jnp.asarray(np.random.default_rng(L).normal(size=(5, L, 12)))

        def both(v, L=L):
            start = gflow.Diagonal(tuple(v[k] for k in range(L)))
            return gflow.limit(start, data), gflow.limit(start, data, method=gflow.Weights())

        dual, integrated = jax.vmap(both)(weights)
        print(f"L = {L}: {max(map(distance, dual.coefficients, np.asarray(integrated.coefficients))):.1e}, converged "
              f"{int(dual.converged.sum())} and {int(integrated.converged.sum())} of 5")  # fmt: skip


def fully_connected():
    """gflow.limit where the dual route is not exact, and ways of integrating to the end instead."""
    generator = np.random.default_rng(3)
    data = gflow.Regression(jnp.asarray(generator.normal(size=(5, 20))), jnp.asarray(generator.normal(size=5)))
    size = np.linalg.norm(data.y)
    print("\nfully-connected, d = 20, widths 20, n = 5: steps (with rejected ones), milliseconds and error of "
          "gflow.limit(tolerance=1e-8), and\nof its own solver integrating on to a relative residual: at the same rtol "
          "to 1e-12 (16,384 steps are the limit), at the rtol\nthat gets there to 1e-12, at the same rtol to 1e-9; "
          "and of SciPy at rtol 1e-10 to 1e-9")  # fmt: skip
    for L in (2, 3):
        shapes = [(20, 20)] * (L - 1) + [(20,)]
        start = gflow.FullyConnected(tuple(jnp.asarray(generator.normal(size=s) / np.sqrt(20)) for s in shapes))

        def whole(alpha, rtol, residual, start=start):
            until, method = gflow.LogLoss(2 * jnp.log(residual * size) - np.log(2)), gflow.Weights(rtol=rtol)
            return gflow.flow(gflow.scale(start, alpha), data, save=gflow.Steps(2), until=until, method=method).end

        limit = jax.jit(lambda a, start=start: gflow.limit(gflow.scale(start, a), data, tolerance=1e-8))
        whole = jax.jit(whole)
        for alpha in (1.0, 0.1, 1e-2, 1e-3):
            weights = [alpha * np.asarray(v) for v in start.weights]
            expected, _ = scipy_weights(weights, data, "DOP853", 1e-13, 1e-11)
            end, t_end = timed(limit, alpha)
            steps = int(end.steps + end.rejected_steps)
            print(f"L = {L}, α = {alpha:.0e}: {steps} steps, {1e3 * t_end:.1f} ms, error "
                  f"{distance(end.coefficients, expected):.0e}, estimate {float(end.error):.0e}, "
                  f"converged {bool(end.converged)}; share of")  # fmt: skip
            for rtol, residual in ((1e-9, 1e-12), (1e-12, 1e-12), (1e-9, 1e-9)):
                run, seconds = timed(whole, alpha, rtol, residual)
                count = int(run.steps + run.rejected_steps)
                print(f"    rtol {rtol:.0e} to {residual:.0e}: {steps / count:.3f} of {count} steps, "
                      f"{t_end / seconds:.3f} of {1e3 * seconds:.1f} ms, error "
                      f"{distance(run.coefficients, expected):.0e}, "
                      f"converged {bool(run.converged)}")  # fmt: skip
            for method in ("DOP853", "LSODA"):
                found, seconds = scipy_weights(weights, data, method, 1e-10, 1e-9)
                print(f"    SciPy {method}: {t_end / seconds:.3f} of {1e3 * seconds:.1f} ms, error "
                      f"{distance(found, expected):.0e}")  # fmt: skip


def timed(function, *arguments):
    """(result, seconds) of a compiled function: the best of three calls after the first."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def scipy_weights(start, data, method, rtol, residual):
    """(coefficients, seconds) of a chain of matrices, integrated by SciPy until the relative residual is small."""
    inputs, targets = np.asarray(data.X), np.asarray(data.y)
    splits = np.cumsum([v.size for v in start])[:-1]

    def layers(flat):
        return [part.reshape(v.shape) for part, v in zip(np.split(flat, splits), start, strict=True)]

    def chain(matrix, weights):
        for v in weights:
            matrix = matrix @ v
        return matrix

    def field(t, flat):
        weights = layers(flat)
        back = (targets - chain(inputs, weights)) @ inputs
        right, parts = np.ones(()), []
        for k in range(len(weights) - 1, -1, -1):
            left = chain(back, weights[:k])
            parts.append(np.multiply.outer(left, right).ravel())
            right = weights[k] @ right if right.ndim else weights[k]
        return np.concatenate(parts[::-1])

    def small(t, flat):
        return np.linalg.norm(chain(inputs, layers(flat)) - targets) - residual * np.linalg.norm(targets)

    small.terminal = True
    flat = np.concatenate([v.ravel() for v in start])
    atol = 1e-2 * rtol * np.sqrt(np.mean(flat**2))
    begin = time.perf_counter()
    run = solve_ivp(field, (0, 1e9), flat, method, events=small, rtol=rtol, atol=atol)
    return chain(np.eye(inputs.shape[1]), layers(run.y[:, -1])), time.perf_counter() - begin


def many():
    """d = 10⁶, n = 100."""
    big = np.random.default_rng(1).normal(size=(100, 10**6)) / 10.0
    data = gflow.Regression(jnp.asarray(big), jnp.asarray(big[:, :5].sum(axis=1)))
    del big
    wide = gflow.Diagonal((jnp.ones(10**6), jnp.zeros(10**6)))
    start = time.perf_counter()
    end = jax.block_until_ready(gflow.limit(wide, data, log_alpha=jnp.log(1e-3)))
    print(f"\nd = 10^6, n = 100, alpha = 1e-3: {time.perf_counter() - start:.1f} s with compilation, "
          f"{int(end.steps)} iterations, converged {bool(end.converged)}, "
          f"residual {float(end.certificate.residual):.1e}, "
          f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
