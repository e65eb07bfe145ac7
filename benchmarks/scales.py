"""A sweep of 57 initial scales on one data set: limits, paths on the way, and gradients of limits.

    python -u benchmarks/scales.py [limits] [paths] [gradients]        (some five minutes)

X Gaussian, 40 × 100, over √40; y from a 5-sparse signal; two layers, (1, 0) times α, α from 1e-5 to 100. The truth is
Newton's method in NumPy on Xρ(Xᵀν) = y with ρ = α² sinh(2x)/2, and on the way SciPy's Radau on ν̇ = y − Xρ(Xᵀν).
"""

import os
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads gain nothing at these sizes, and wait for each other

import cvxpy as cp
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import rivals
from harness import Contender, contest, loosest
from scipy.integrate import solve_ivp

import gflow

rng = np.random.default_rng(0)
n, d = 40, 100
X = rng.normal(size=(n, d)) / np.sqrt(n)
signal = np.zeros(d)
signal[rng.choice(d, 5, replace=False)] = rng.normal(size=5)
y = X @ signal
ALPHAS = np.logspace(-5, 2, 57)
LOG_ALPHAS = jnp.log(ALPHAS)
LOG_TIMES = np.linspace(-10.0, 6.0, 33)
TARGET = 1e-6  # the error at which rivals are compared
problem = gflow.Regression(X, y)
network = gflow.Diagonal((np.ones(d), np.zeros(d)))
SIZES = {"n": n, "d": d, "scales": len(ALPHAS)}
FEW = np.array([20, 32, 44, 56])  # α = 3e-3 … 100, for rivals that take seconds a lane


def rho(x, alpha):
    return alpha**2 / 2 * np.sinh(2 * x)


def slope(x, alpha):
    return alpha**2 * np.cosh(2 * x)


def truth():
    """β and ν at each scale, from the largest to the smallest, each begun at the one before."""
    nu, found = np.zeros(n), []
    for alpha in ALPHAS[::-1]:
        for _ in range(500):
            x = X.T @ nu
            off = y - X @ rho(x, alpha)
            step = np.linalg.solve((X * slope(x, alpha)) @ X.T, off)
            nu = nu + step * min(1.0, 1 / np.max(np.abs(X.T @ step)))
            if np.linalg.norm(off) < 1e-13 * np.linalg.norm(y):
                break
        found.append((rho(X.T @ nu, alpha), nu))
    betas, nus = zip(*found[::-1], strict=True)
    return np.array(betas), np.array(nus)


def path_of(alpha):
    """β at LOG_TIMES, in the clock log t."""

    def field(tau, nu):
        return np.exp(tau) * (y - X @ rho(X.T @ nu, alpha))

    def jacobian(tau, nu):
        return -np.exp(tau) * (X * slope(X.T @ nu, alpha)) @ X.T

    begun = np.exp(-30.0) * y  # ν at log t = −30, to first order
    run = solve_ivp(
        field, (-30.0, LOG_TIMES[-1]), begun, "Radau", LOG_TIMES, jac=jacobian, rtol=1e-11, atol=1e-13
    )  # fmt: skip
    return rho(run.y.T @ X, alpha)


def swept(function, arguments=LOG_ALPHAS):
    """All scales in one batch."""
    run = jax.jit(jax.vmap(function))
    return lambda: run(arguments)


def in_turn(function, arguments=LOG_ALPHAS):
    """One scale after the other, in one program."""
    run = jax.jit(lambda arguments: jax.lax.map(function, arguments))
    return lambda: run(arguments)


def start(alpha):
    return gflow.scale(network, alpha)


def by_cvxpy(alpha):
    """Theorem 5's program as an exponential cone: ρ = p − m, the least relative entropies of p and m."""
    plus, minus, unit = cp.Variable(d), cp.Variable(d), alpha**2 / 4
    entropy = cp.sum(cp.kl_div(plus, unit) + cp.kl_div(minus, unit)) / max(1.0, unit)
    cp.Problem(cp.Minimize(entropy), [X @ (plus - minus) == y]).solve(solver=cp.CLARABEL)
    return plus.value - minus.value


def jacobian(v):
    """Of the weights' velocity, which saves LSODA 200 evaluations."""
    u, w, P = v[:d], v[d:], X.T @ X
    off = np.diag(X.T @ (y - X @ (u * w)))
    return np.block(
        [[-(w[:, None] * P * w), off - w[:, None] * P * u], [off - u[:, None] * P * w, -(u[:, None] * P * u)]]
    )


def limits():
    expected, _ = truth()

    def lsoda(lanes, rtol):
        return lambda: np.array([rivals.scipy_limit(start(a), problem, "LSODA", rtol, jacobian) for a in ALPHAS[lanes]])

    def limit(log_alpha):
        return gflow.limit(network, problem, log_alpha=log_alpha).coefficients

    def kvaerno(alpha):
        return rivals.diffrax_limit(start(alpha), problem, 1e-8, diffrax.Kvaerno5())

    rtol, _ = loosest(lambda rtol: lsoda(FEW, rtol), expected[FEW], TARGET, (1e-6, 1e-7, 1e-8, 1e-9))
    contenders = [
        Contender("gflow under vmap", swept(limit)),
        Contender("gflow one by one", in_turn(limit)),
        Contender(f"SciPy LSODA with its Jacobian, {rtol:.0e}", lsoda(slice(None), rtol)),
        Contender("diffrax Kvaerno5 under vmap, 1e-08", swept(kvaerno, ALPHAS[FEW]), FEW),
        Contender("cvxpy, Clarabel", lambda: np.array([by_cvxpy(a) for a in ALPHAS[FEW]]), FEW),
    ]
    contest("57 scales, limits", SIZES, contenders, expected)


def paths():
    expected = np.array([path_of(a) for a in ALPHAS])
    save, times = gflow.LogTimes(LOG_TIMES), np.exp(LOG_TIMES)

    def dual(rtol):
        def path(log_alpha):
            return gflow.flow(
                network, problem, log_alpha=log_alpha, save=save, method=gflow.Dual(rtol=rtol)
            ).coefficients

        return path

    def lsoda(lanes, rtol):
        return lambda: np.array(
            [rivals.scipy_path(start(a), problem, times, "LSODA", rtol, jacobian) for a in ALPHAS[lanes]]
        )

    def kvaerno(alpha):
        return rivals.diffrax_path(start(alpha), problem, jnp.asarray(times), 1e-7, diffrax.Kvaerno5())

    tolerances = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
    own, in_a_batch = loosest(lambda rtol: swept(dual(rtol)), expected, TARGET, tolerances)
    theirs, _ = loosest(lambda rtol: lsoda(FEW, rtol), expected[FEW], TARGET, tolerances)
    contenders = [
        Contender(f"gflow, dual, one by one, {own:.0e}", in_turn(dual(own))),
        Contender(f"gflow, dual, under vmap, {own:.0e}", in_a_batch),
        Contender(f"SciPy LSODA with its Jacobian, {theirs:.0e}", lsoda(slice(None), theirs)),
        Contender("diffrax Kvaerno5 under vmap, 1e-07", swept(kvaerno, ALPHAS[FEW]), FEW),
    ]
    contest("57 scales, paths", SIZES, contenders, expected)


def gradients():
    """‖β‖² and its derivative by log α: dβ = 2β + D Xᵀ dν with X dβ = 0."""
    betas, nus = truth()
    expected = []
    for alpha, beta, nu in zip(ALPHAS, betas, nus, strict=True):
        D = slope(X.T @ nu, alpha)
        dnu = -np.linalg.solve((X * D) @ X.T, 2 * X @ beta)
        expected.append((beta @ beta, 2 * beta @ (2 * beta + D * (X.T @ dnu))))

    def total(log_alpha):
        return jnp.sum(gflow.limit(network, problem, log_alpha=log_alpha).coefficients ** 2)

    contenders = [
        Contender("the limits alone, one by one", in_turn(total), truth=np.sum(betas**2, axis=1, keepdims=True)),
        Contender("with their gradient, reverse", in_turn(jax.value_and_grad(total))),
        Contender("with their gradient, forward", in_turn(lambda a: jax.jvp(total, (a,), (jnp.ones_like(a),)))),
        Contender("with their gradient, reverse, under vmap", swept(jax.value_and_grad(total))),
    ]
    contest("57 scales, gradients", SIZES, contenders, np.array(expected))


def main(*parts):
    for part in parts or ("limits", "paths", "gradients"):
        {"limits": limits, "paths": paths, "gradients": gradients}[part]()


if __name__ == "__main__":
    main(*sys.argv[1:])
