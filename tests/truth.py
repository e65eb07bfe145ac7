"""What the tests and benchmarks hold gflow against: independent routes to the same numbers."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.optimize import linprog

import gflow


def normals(seed, *shapes):
    """Standard normal arrays, one a shape."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def even(x):
    """The even part of the rows of x."""
    return (x + jnp.roll(x[..., ::-1], 1, axis=-1)) / 2


def distance(a, b):
    """‖a − b‖ / ‖b‖."""
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


def maximum_l1_margin(A):
    """The β of least ℓ1 norm with Aβ ≥ 1, by a linear program; the rows of A are y_i x_i."""
    A = np.asarray(A)
    n, d = A.shape
    x = linprog(np.ones(2 * d), A_ub=-np.hstack([A, -A]), b_ub=-np.ones(n)).x
    return jnp.asarray(x[:d] - x[d:])


def integrated(network, problem):
    """The coefficients where the weights' flow ends, by SciPy, with the residual's Jacobian spelled out."""
    flat, unravel = ravel_pytree(network.weights)
    outputs = jax.jit(lambda z: gflow.with_weights(network, unravel(z))(problem.X))
    slopes = jax.jit(jax.jacrev(outputs))
    y = np.asarray(problem.y)
    run = solve_ivp(
        lambda u, z: -np.exp(u) * (np.asarray(slopes(z)).T @ (np.asarray(outputs(z)) - y)),
        (0, 14), np.asarray(flat), "LSODA", rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    return gflow.with_weights(network, unravel(jnp.asarray(run.y[:, -1]))).coefficients()


def jump_log_times(log_times, beta, staircase):
    """log t of each jump of a path from one point of the staircase to the next: where it is first as near to the one as
    to the other, at rows after the jump before."""
    found, row = [], 0
    for before, after in itertools.pairwise(np.asarray(staircase)):
        progress = (np.asarray(beta)[row:] - (before + after) / 2) @ (after - before)
        below = int(np.argmax(progress < 0))
        ahead = below + int(np.argmax(progress[below:] >= 0))
        assert progress[below] < 0 <= progress[ahead]
        row += ahead
        found.append(float(np.mean(np.asarray(log_times)[row - 1 : row + 1])))
    return np.array(found)


def exact_theorem_5(problem, L, alpha, angles, nu):
    """ρ = α^L h_L, X ρ = y, Xᵀν = s_L (η = 1) by Newton's method in 60 to 140 digits, polishing a float64 start."""
    with mp.workdps(60 + int(-8 * min(0.0, np.log10(alpha)))):
        X, y = mp.matrix(problem.X.tolist()), mp.matrix(problem.y.tolist())
        x, nu, scale = mp.matrix(angles.tolist()), mp.matrix(nu.tolist()), mp.mpf(alpha) ** L
        d = len(x)
        for _ in range(200):
            s = mp.matrix([exact_time(v, L) for v in x])
            rho = mp.matrix([scale * mp.sinh(v) * mp.cosh(v) ** (L - 1) for v in x])
            slope = [scale * mp.cosh(v) ** (L - 2) * (mp.cosh(v) ** 2 + (L - 1) * mp.sinh(v) ** 2) for v in x]
            speed = [mp.cosh(v) ** (L - 2) for v in x]
            D = mp.diag([a * b for a, b in zip(slope, speed, strict=True)])
            slack = X.T * nu - s
            dnu = mp.lu_solve(X * D * X.T, y - X * rho - X * (D * slack))
            dx = X.T * dnu + slack
            dx = mp.matrix([v * a for v, a in zip(dx, speed, strict=True)])
            damping = min(1, 1 / max(abs(v) for v in dx))
            x, nu = x + damping * dx, nu + damping * dnu
            if max(abs(v) for v in dx) < mp.mpf(10) ** -25:
                rho = [scale * mp.sinh(x[j]) * mp.cosh(x[j]) ** (L - 1) for j in range(d)]
                return np.array(rho, float)
    raise AssertionError("the reference did not converge")


def exact_time(x, L):
    """s_L at the hyperbolic angle x, in mpmath's digits."""
    gudermann = mp.atan(mp.sinh(x))
    sech = 1 / mp.cosh(x)
    return {2: x, 3: gudermann, 4: mp.tanh(x), 5: (sech * mp.tanh(x) + gudermann) / 2}[L]


def solved(M, r):
    """The x with Mx = r in fractions, free unknowns zero; None where there is none."""
    n, m = len(M), len(M[0]) if M else 0
    rows = [[*row, right] for row, right in zip(M, r, strict=True)]
    pivots, top = [], 0
    for j in range(m):
        found = next((i for i in range(top, n) if rows[i][j] != 0), None)
        if found is None:
            continue
        rows[top], rows[found] = rows[found], rows[top]
        for i in range(n):
            if i != top and rows[i][j] != 0:
                factor = rows[i][j] / rows[top][j]
                rows[i] = [a - factor * b if b else a for a, b in zip(rows[i], rows[top], strict=True)]
        pivots.append(j)
        top += 1
    if any(rows[i][m] != 0 for i in range(top, n)):
        return None
    x = [Fraction(0)] * m
    for i, j in enumerate(pivots):
        x[j] = rows[i][m] / rows[i][j]
    return x


def fractions(A):
    return [[Fraction(float(a)) for a in row] for row in A]


def dot(a, b):
    return sum((x * y for x, y in zip(a, b, strict=True) if x and y), Fraction(0))


def exact_margin(A, beta, p):
    """The β of least ℓp norm with Aβ ≥ 1 in fractions, on the support and the tight rows of the `beta` given; None
    where its signs do not prove it optimal. The rows of A are y_i x_i."""
    E, size = fractions(A), np.abs(A) @ np.abs(beta) + 1
    tight = np.flatnonzero(np.abs(A @ beta - 1) <= len(beta) * np.finfo(float).eps * size).tolist()
    one = [Fraction(1)] * len(tight)
    if p == 2:
        gram = [[dot(E[i], E[k]) for k in tight] for i in tight]
        mu = solved(gram, one)
        exact = None if mu is None else [dot(mu, [E[i][j] for i in tight]) for j in range(len(beta))]
    else:
        J = np.flatnonzero(beta).tolist()
        pulling, at_bound, signs = tight, J, np.sign(beta)
        if len(tight) > len(J):  # more multipliers than are determined: those of a vertex of the dual program
            rows = A[tight] / np.linalg.norm(A[tight], axis=1)[:, None]
            dual = linprog(-1 / np.linalg.norm(A[tight], axis=1), np.hstack([rows, -rows]).T, np.ones(2 * len(beta))).x
            pulls = dual @ rows
            pulling = np.array(tight)[dual > 1e-9 * dual.max()].tolist()
            at_bound, signs = np.flatnonzero(np.abs(np.abs(pulls) - 1) < 1e-9).tolist(), np.sign(pulls)
            if not set(J) <= set(at_bound) or (signs[J] != np.sign(beta[J])).any():
                return None
        mu = solved([[E[i][j] for i in pulling] for j in at_bound], [Fraction(int(signs[j])) for j in at_bound])
        inside = solved([[E[i][j] for j in J] for i in tight], one)
        exact = None if inside is None else [Fraction(0)] * len(beta)
        for j, value in zip(J, inside or [], strict=False):
            exact[j] = value
        if mu and any(abs(dot(mu, [E[i][j] for i in pulling])) > 1 for j in range(len(beta))):
            return None
    if mu is None or exact is None or min(mu) < 0 or any(dot(row, exact) < 1 for row in E):
        return None
    return exact


def contradicts(A, mu):
    """Whether a positive combination of the rows of A in the support of μ is zero, in fractions."""
    support = np.flatnonzero(mu).tolist()
    E = fractions(A[support])
    *others, last = E
    if not others:
        return not any(last)
    c = solved([[row[j] for row in others] for j in range(A.shape[1])], [-a for a in last])
    return c is not None and min(c) >= 0
