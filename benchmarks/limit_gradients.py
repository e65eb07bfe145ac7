"""Derivatives of limits in dual coordinates against central differences in many digits.

    python benchmarks/limit_gradients.py [lanes] [seed]

A lane is a diagonal network of two or three layers on three data points in six inputs, and a random direction in which
weights, inputs, targets and log α move at once. One line a category: lanes, those that converged, and of their
derivatives the largest relative error in forward and in reverse mode. The reference solves the scalar systems into
which the flow falls apart by Newton's method in 60 digits, from where gflow ends, on both sides of the start.
"""

import sys

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
mp.mp.dps = 60
STEP = mp.mpf(10) ** -20  # its square is far below what float64 shows
STARTS = ["random", "last layer zero", "near ties", "small scale", "targets of zero"]


def draw(rng, L, starts):
    """η of a start, X, y, log α."""
    n, d = 3, 6
    eta = (np.abs(rng.normal(size=(L, d))) + 0.1) * rng.choice([-1.0, 1.0], size=(L, d))
    X, log_alpha = rng.normal(size=(n, d)), rng.uniform(np.log(1e-3), np.log(3.0))
    if starts == "near ties":
        eta = eta[:1] * (1 + 10 ** rng.uniform(-8, -2) * rng.normal(size=(L, d)))
    if starts == "small scale":
        log_alpha = rng.uniform(np.log(1e-12), np.log(1e-3))
    beta = rng.normal(size=d)
    if starts == "near ties":
        beta = np.abs(beta) * np.sign(np.prod(eta, axis=0))  # the other sign is a plateau away
    if starts in ("last layer zero", "targets of zero"):
        eta[-1] = 0
    if starts == "targets of zero":  # the coordinate of a target of zero ends where it began, at 0
        X, beta[0] = np.eye(n, d), 0.0
    return eta, X, X @ beta, log_alpha


def end(eta, X, y, log_alpha):
    found = gflow.limit(gflow.Diagonal(tuple(eta)), gflow.Regression(X, y), log_alpha=log_alpha)
    return found.coefficients, (found.network.weights, found.converged)


@jax.jit
@jax.vmap
def derivatives(arguments, towards, cotangent):
    beta, forward, (weights, converged) = jax.jvp(end, arguments, towards, has_aux=True)
    pulled = jax.vjp(end, *arguments, has_aux=True)[1](cotangent)
    reverse = sum(jnp.sum(a * b) for a, b in zip(pulled, towards, strict=True))
    return beta, forward, reverse, weights, converged


def time_and_speed(x, c):
    """∫ dx / Π_k √(x² + c_k) from 0 to x, and the product at x."""
    product = mp.fprod(mp.sqrt(x**2 + v) for v in c)
    least, *others = sorted(c)
    if not others:
        return mp.asinh(x / mp.sqrt(least)), product
    t = mp.asinh(x / mp.sqrt(least))  # x = √c sinh t takes the sharpest factor away
    pieces = mp.linspace(0, t, 2 + int(abs(t)))
    return mp.quad(lambda t: 1 / mp.sqrt(least * mp.sinh(t) ** 2 + others[0]), pieces), product


def solved(eta, X, y, log_alpha, layers):
    """β at the end, from the float64 weights `layers` of it."""
    d, n = X.cols, X.rows
    alpha = mp.exp(log_alpha)
    start = [[alpha * v for v in row] for row in eta]
    s = [min(range(len(eta)), key=lambda k, j=j: abs(eta[k][j])) for j in range(d)]  # the layer that may cross zero
    sign = [mp.fprod(mp.sign(row[j]) for k, row in enumerate(start) if k != s[j]) for j in range(d)]
    c = [[row[j] ** 2 - start[s[j]][j] ** 2 for k, row in enumerate(start) if k != s[j]] for j in range(d)]
    begun = [time_and_speed(start[s[j]][j], c[j])[0] for j in range(d)]
    x, nu = mp.matrix([layers[s[j]][j] for j in range(d)]), None
    for _ in range(30):
        times, speeds = zip(*(time_and_speed(x[j], c[j]) for j in range(d)), strict=True)
        zeta = mp.matrix([sign[j] * (times[j] - begun[j]) for j in range(d)])
        speed = [sign[j] * speeds[j] for j in range(d)]
        rho = mp.matrix([x[j] * speed[j] for j in range(d)])
        slope = [speed[j] * (1 + sum(x[j] ** 2 / (x[j] ** 2 + v) for v in c[j])) for j in range(d)]
        if nu is None:
            nu = mp.lu_solve(X * X.T, X * zeta)
        slack = X.T * nu - zeta
        D = mp.diag([a * b for a, b in zip(slope, speed, strict=True)])
        dnu = mp.lu_solve(X * D * X.T, y - X * rho - X * (D * slack))
        dx = X.T * dnu + slack
        dx = mp.matrix([v * a for v, a in zip(dx, speed, strict=True)])
        x, nu = x + dx, nu + dnu
        if max(abs(dx[j]) / (abs(x[j]) + alpha) for j in range(d)) < mp.mpf(10) ** -45 and n:
            return mp.matrix([x[j] * sign[j] * time_and_speed(x[j], c[j])[1] for j in range(d)])
    return None


def difference(arguments, towards, layers):
    """(β(+h) − β(−h)) / 2h along `towards`."""

    def moved(h):
        eta, X, y, log_alpha = (
            mp.matrix(np.atleast_2d(a).tolist()) + h * mp.matrix(np.atleast_2d(b).tolist())
            for a, b in zip(arguments, towards, strict=True)
        )
        return solved(eta.tolist(), X, y.T, log_alpha[0], layers)

    there, back = moved(STEP), moved(-STEP)
    return None if there is None or back is None else np.array((there - back) / (2 * STEP), float).ravel()


def main(lanes=50, seed=0):
    print(f"layers {'start':18s} {'lanes':>6s} {'converged':>10s} {'compared':>9s} {'forward':>9s} {'reverse':>9s}")
    for L in (2, 3):
        for starts in STARTS:
            rng = np.random.default_rng([seed, L, STARTS.index(starts)])
            drawn = [draw(rng, L, starts) for _ in range(lanes)]
            arguments = tuple(np.stack(part) for part in zip(*drawn, strict=True))
            towards = tuple(rng.normal(size=part.shape) for part in arguments)
            if starts == "near ties":  # in units in which they stay near
                towards = (towards[0] * arguments[0] * 1e-3, *towards[1:])
            cotangent = rng.normal(size=(lanes, arguments[1].shape[2]))
            found = jax.device_get(derivatives(arguments, towards, cotangent))
            _, forward, reverse, weights, converged = found
            worst, compared = [0.0, 0.0], 0
            for i in np.flatnonzero(converged):
                exact = difference([v[i] for v in arguments], [v[i] for v in towards], [v[i].tolist() for v in weights])
                if exact is None:
                    continue
                compared += 1
                size = np.linalg.norm(exact)
                errors = np.linalg.norm(forward[i] - exact), abs(reverse[i] - cotangent[i] @ exact)
                sizes = size, np.linalg.norm(cotangent[i]) * size
                worst = [max(w, e / s) if e == e else np.nan for w, e, s in zip(worst, errors, sizes, strict=True)]
            counts = f"{lanes:6d} {int(converged.sum()):10d} {compared:9d}"
            print(f"{L:6d} {starts:18s} {counts} {worst[0]:9.1e} {worst[1]:9.1e}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
