"""Limit directions of hostile classifications: how many are answered, and whether any is wrong.

    python -u benchmarks/hostile_directions.py [lanes] [words of a row's name, this|or that …]

An hour and more for the 30 lanes a row that are the default, most of it for lanes that use all their steps.

A row is a network at one shape of data, which is compiled once; its lanes go through all kinds of data, all starts and
all scales. Whether data can be separated is known by construction. Wrong is a lane that is converged and differs by
more than its `error` from the maximum ℓ2 or ℓ1 margin, in exact fractions, or that of the spectrum, where a theorem
names it; that is farther than that from the other route's limit; whose network does not solve min ‖Θ‖² s.t. y f ≥ 1 at
a minimum, here in plain NumPy; or that is said to be separable, or not to be, when it is the other way round. Each
wrong or unanswered lane is printed, with what draws it again: `lane(row, index)`.
"""

import dataclasses
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import linprog, minimize, nnls

import gflow

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from truth import exact_margin

jax.config.update("jax_enable_x64", True)

KINDS = ("gaussian", "near", "ties", "duplicates", "ternary", "sparse", "narrow", "rows", "one class", "inseparable")
STARTS = ("random", "zero", "balanced", "misclassifying")
SCALES = (1e-12, 1e-8, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3)


# Data: rows A = diag(y) X and a β with Aβ > 0, or None.


def data(kind, n, d, rng):
    b, A = rng.normal(size=d), rng.normal(size=(n, d))
    if kind == "gaussian" and n <= d:
        return A, np.linalg.pinv(A) @ np.ones(n)
    if kind == "near":
        return b + 10 ** rng.uniform(-8, -2) * A, b
    if kind == "ties":
        base = rng.choice([-1.0, 0.0, 1.0, 2.0], d)
        base[0] += max(0.0, 1 - base.sum())
        return np.stack([np.roll(base, i) for i in range(n)]), np.ones(d)
    if kind == "ternary":
        A = rng.choice([-1.0, 0.0, 1.0], (n, d))
        A[:, 0] = 1.0
        return A, np.eye(d)[0]
    if kind == "narrow":
        b /= np.linalg.norm(b)
        A -= np.outer(A @ b, b)
        A[(n + 1) // 2 :] = -A[: n // 2]
        return A + 10 ** rng.uniform(-8, -1) * rng.uniform(1, 2, (n, 1)) * b, b
    if kind == "inseparable":
        A = np.round(8 * A)
        k = int(rng.integers(2, n + 1)) if n > 1 else 1
        A[k - 1] = -A[: k - 1].sum(axis=0)
        return A * 2.0 ** rng.integers(-3, 4, (n, 1)), None
    if kind == "sparse":
        A *= rng.random((n, d)) < 0.3
        A[np.arange(n), np.arange(n) % d] += 0.5
    A *= np.where(A @ b > 0, 1.0, -1.0)[:, None]
    if kind == "duplicates":
        A[(n + 1) // 2 :] = A[: n // 2] * rng.choice([1.0, 2.0], (n // 2, 1))
    if kind == "rows":
        A *= 10 ** rng.uniform(-6, 6, (n, 1))
    return A, b


# Starts: of weights of these shapes.


def coordinatewise(shapes, start, b, rng):
    """Of networks whose layers are multiplied entry by entry; tied layers keep the sign of b."""
    v = [rng.normal(size=s) for s in shapes]
    if start == "zero":
        v[-1] *= 0
    if start == "balanced":
        sign = np.sign(b) + (b == 0)
        v = [np.abs(v[0]) * s for s in rng.choice([-1.0, 1.0], (len(v), *shapes[0]))]
        v[-1] *= sign * np.sign(np.prod(v, axis=0))
    if start == "misclassifying":
        v[-1] = -b / np.linalg.norm(b) / np.prod(v[:-1], axis=0)
    return v


def powers(shapes, start, b, rng):
    v = [np.abs(rng.normal(size=s)) for s in shapes]
    if start == "balanced":
        v = [v[0], v[0]]
    if start == "misclassifying":
        v = [v[0] + np.maximum(-b, 0.0), v[1] + np.maximum(b, 0.0)]
    return v


def layered(shapes, start, b, rng):
    """Of all others: balanced is a chain of matrices of rank one and equal size, or layers of equal size."""
    v = [rng.normal(size=s) / np.sqrt(s[-1]) for s in shapes]
    if start == "zero":
        v[-1] *= 0
    if start == "balanced" and len(shapes[0]) == 2:
        ends = [rng.normal(size=k) for k in (shapes[0][0], *(s[-1] for s in shapes if len(s) == 2))]
        ends = [u / np.linalg.norm(u) for u in ends]
        v = [np.outer(ends[i], ends[i + 1]) if len(s) == 2 else ends[i] for i, s in enumerate(shapes)]
    elif start == "balanced":
        v = [u / np.linalg.norm(u) for u in v]
    return v


@dataclasses.dataclass
class Row:
    name: str
    make: Callable
    shapes: list
    n: int
    d: int
    starts: Callable = layered
    method: gflow.Weights | gflow.Dual = gflow.Weights()  # noqa: RUF009 (frozen)
    truth: str = "network"
    other: Callable | None = None  # the same network on the other route
    far: bool = False  # whether 10^−1000 is one of the scales

    def __post_init__(self):
        self.solve = lambda network, problem, log_alpha: gflow.limit(
            network, problem, log_alpha=log_alpha, method=self.method
        )


def lane(row, index):
    """The kind and the start, the rows and whether they are separable, the network, the problem and log α."""
    rng = np.random.default_rng([index, *row.name.encode()])
    kind, start = KINDS[index % len(KINDS)], STARTS[(index // len(KINDS) + index) % len(STARTS)]
    A, b = data(kind, row.n, row.d, rng)
    y = np.ones(row.n) if kind == "one class" else rng.choice([-1.0, 1.0], row.n)
    problem = gflow.Classification(jnp.asarray(A * y[:, None]), jnp.asarray(y))
    weights = row.starts(row.shapes, start, np.ones(row.d) if b is None else b, rng)
    network = row.make(tuple(jnp.asarray(v) for v in weights))
    if start == "misclassifying" and float(jnp.sum(problem.margins(network(problem.X)) > 0)) > row.n / 2:
        network = row.make((-network.weights[0], *network.weights[1:]))
    scales = [*np.log(SCALES), -2302.585] if row.far else np.log(SCALES)
    return kind, start, A, b is not None, network, problem, float(rng.choice(scales))


# Truths.


def l2(A, found, network, problem):
    return by_margin(A, gflow.predict.maximum_margin(problem, 2), 2, found)


def l1(A, found, network, problem):
    return by_margin(A, gflow.predict.maximum_margin(problem, 1), 1, found)


def by_margin(A, expected, p, found):
    """Radians from the exact maximum margin, or by how much its norm is missed where many directions attain it."""
    exact = exact_margin(A, np.asarray(expected.coefficients), p)
    assert exact is not None, "the prediction is not optimal"
    truth = np.array([float(v) for v in exact])
    if expected.hypotheses[0].holds:
        return float(gflow.angle(found, truth))
    return excess(A, np.asarray(found), lambda v: np.abs(v).sum(), np.abs(truth).sum())


def excess(A, found, norm, least):
    margin = (A @ found + np.finfo(float).eps * np.abs(A) @ np.abs(found)).min()  # as large as round-off allows
    return norm(found) / margin / least - 1 if margin > 0 else np.inf


def one_sided_l1(A, found, network, problem):
    """Tied layers keep the signs of β."""
    signs = np.sign(np.asarray(network.coefficients()))
    size = np.linalg.norm(A, axis=1)
    limits = np.ones(A.shape[1]), -(A * signs) / size[:, None], -size.min() / size
    exactly = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    least = linprog(*limits, options=exactly).fun
    beyond = excess(A / size.min(), np.asarray(found), lambda v: np.abs(v).sum(), least)
    return max(beyond - 1e-9, 0.0)  # HiGHS solves to that


def spectrum(A, found, network, problem):
    d = A.shape[1]
    S = d**0.5 * np.asarray(gflow.predict.dft(d))
    try:
        expected = gflow.predict.maximum_margin(problem, 1, S)
    except RuntimeError:  # no solver's answer could be certified
        return None
    norm = lambda v: np.abs(np.fft.fft(v)).sum()  # noqa: E731
    least = norm(expected.coefficients) / (A @ expected.coefficients).min()
    beyond = excess(A, np.asarray(found), norm, least)
    # Where margins are small the program's own solution is not exact: less of the norm is nearer to the truth.
    return float(gflow.angle(found, expected.coefficients)) if expected.hypotheses[0].holds and beyond > 0 else beyond


@jax.jit
def _derivatives(network, X, y):
    theta, unravel = ravel_pytree(network.weights)
    margins = lambda v: y * gflow.with_weights(network, unravel(v))(X)  # noqa: E731
    return theta, margins(theta), jax.jacrev(margins)(theta), jax.jacfwd(jax.jacrev(margins))(theta)


def by_network(end, problem):
    """The KKT residual of min ½‖Θ‖² s.t. y f ≥ 1 at the network returned, ∞ where it is no minimum. Where that is more
    than is claimed of β, the angle to that of a minimum next to it."""
    residual = stationarity(end.network, problem)
    if residual <= float(end.error) + ROUND_OFF["network"]:
        return residual
    nearest = minimum(end.network, problem)
    off = stationarity(nearest, problem)
    return off + float(gflow.angle(end.direction, nearest.coefficients())) if off < residual else residual


def minimum(network, problem):
    theta, unravel = ravel_pytree(network.weights)
    margins = jax.jit(lambda v: problem.margins(gflow.with_weights(network, unravel(v))(problem.X)))
    slopes = jax.jit(jax.jacrev(margins))
    unit = float(margins(theta).min())
    start = np.asarray(theta) / unit ** (1 / network.degree)
    size = np.linalg.norm(slopes(start), axis=1)  # rows may differ by many orders
    units = 1e4 * size.min() / size
    within = {
        "type": "ineq",
        "fun": lambda v: units * (np.asarray(margins(v)) - 1),
        "jac": lambda v: units[:, None] * np.asarray(slopes(v)),
    }
    found = minimize(
        lambda v: v @ v / 2, start, jac=lambda v: v, constraints=[within], method="SLSQP", options={"ftol": 1e-18}
    )
    return gflow.with_weights(network, unravel(jnp.asarray(found.x)))


def stationarity(network, problem):
    theta, m, G, curvature = (np.asarray(v) for v in _derivatives(network, problem.X, problem.y))
    if not m.min() > 0:
        return np.inf
    rounded = 10 * np.finfo(float).eps * np.linalg.norm(G, axis=1) * np.linalg.norm(theta)  # of the terms of margins
    active = m <= (1 + 1e-7) * (m + rounded).min() + rounded
    norm = np.linalg.norm(theta)
    theta, G = theta / norm, G / m.min()
    size = np.linalg.norm(G[active], axis=1)
    mu, residual = nnls((G[active] / size[:, None]).T, theta, maxiter=10_000)
    mu = mu / size
    H = np.eye(theta.size) - norm * np.tensordot(mu, curvature[active] / m.min(), 1)  # where Θ = ‖Θ‖ Σ μ_i ∇m_i
    tight = G[active][mu * size > 1e-9 * (mu * size).max()]
    _, s, V = np.linalg.svd(tight / np.linalg.norm(tight, axis=1)[:, None])
    along = V[(s > 1e-7).sum() :]
    lowest = np.linalg.eigvalsh(along @ H @ along.T).min() if len(along) else 0.0
    return float(residual) if lowest >= -1e-6 else np.inf


def off(row, start, A, network, problem, log_alpha, end):
    if row.other is not None:
        there = row.other(network, problem, log_alpha)
        if there.converged:
            return max(float(gflow.angle(end.direction, there.direction)) - float(there.error), 0.0)
    sided = start == "balanced" and row.starts is coordinatewise
    truth = {"l2": l2, "l1": one_sided_l1 if sided else l1, "spectrum": spectrum}.get(row.truth)
    found = None if truth is None else truth(A, end.direction, network, problem)
    return by_network(end, problem) if found is None else found


def verdict(row, start, A, separable, network, problem, log_alpha, end):
    hopeless = bool(end.status == gflow.Status.no_descent)
    if not separable:
        return ("named" if hopeless else "wrong" if end.converged else "unnamed"), 0.0
    if not end.converged:
        return ("unanswered" if not hopeless else "hopeless"), 0.0
    angle = off(row, start, A, network, problem, log_alpha, end)
    return ("right" if angle <= float(end.error) + ROUND_OFF[row.truth] else "wrong"), angle


# Of the references: exact programs; a conic one, whose objective holds angles to the root of its round-off (a lane that
# it had off by 4e-9 is within 2e-13 of Newton's solution in 60 digits); and Newton's own.
ROUND_OFF = {"l2": 1e-14, "l1": 1e-14, "spectrum": 1e-8, "network": 1e-7}


def dual(network, problem, log_alpha):
    return gflow.limit(network, problem, log_alpha=log_alpha)


def diagonal_of(network, problem, log_alpha):
    return gflow.limit(gflow.Diagonal(network.weights), problem, log_alpha=log_alpha)


def rows():
    w, u = gflow.Weights(), gflow.Dual()
    for L in (2, 3, 4, 5):
        truth = "l1" if L == 2 else "network"
        for n, d in ((4, 6), (12, 30), *[(1, 2), (20, 60)] * (L == 2)):
            yield Row(
                f"diagonal {L} dual {n}x{d}", gflow.Diagonal, [(d,)] * L, n, d, coordinatewise, u, truth, far=True
            )
    for L in (2, 3, 4):
        truth, other = ("l1", None) if L == 2 else ("network", dual)
        make = lambda v, L=L: gflow.DifferenceOfPowers(v, L)  # noqa: E731
        yield Row(f"powers {L} dual 4x6", make, [(6,)] * 2, 4, 6, powers, u, truth, far=True)
        yield Row(f"powers {L} weights 4x6", make, [(6,)] * 2, 4, 6, powers, w, truth, other)
        yield Row(f"diagonal {L} weights 4x6", gflow.Diagonal, [(6,)] * L, 4, 6, coordinatewise, w, truth, other)
        B = diagonal_tensor(6, L)
        make = lambda v, B=B: gflow.Multilinear(v, B)  # noqa: E731
        name = f"diagonal tensor {L} weights 4x6"
        yield Row(name, make, [(6,)] * L, 4, 6, coordinatewise, w, "network", diagonal_of)
    yield Row("diagonal 1 weights 4x6", gflow.Diagonal, [(6,)], 4, 6, layered, w, "l2")
    for L in (2, 3, 4):
        shapes = [(6, 3), *[(3, 3)] * (L - 2), (3,)]
        yield Row(f"fully-connected {L} weights 4x6", gflow.FullyConnected, shapes, 4, 6, layered, w, "l2")
        truth = "spectrum" if L == 2 else "network"
        yield Row(f"convolution {L} weights 3x6", gflow.Convolutional, [(6,)] * L, 3, 6, layered, w, truth)
        yield Row(f"short filters {L} weights 3x6", gflow.Convolutional, [*[(3,)] * (L - 1), (6,)], 3, 6)
        B = jnp.asarray(np.random.default_rng(L).normal(size=(6, 3, 4, 2, 3)[: L + 1]))
        make = lambda v, B=B: gflow.Multilinear(v, B)  # noqa: E731
        yield Row(f"multilinear {L} weights 3x6", make, [(k,) for k in B.shape[1:]], 3, 6)
        yield Row(f"matrix product {L} weights 3x9", gflow.MatrixProduct, [(3, 3)] * L, 3, 9)


def diagonal_tensor(d, L):
    return jnp.zeros((d,) * (L + 1)).at[(jnp.arange(d),) * (L + 1)].set(1.0)


def ask(row, lanes):
    counts, seconds, worst = Counter(), [], 0.0
    for index in range(lanes):
        kind, start, A, separable, network, problem, log_alpha = lane(row, index)
        if row.starts is powers and start == "zero":
            continue  # its coordinates would be dead
        begun = time.perf_counter()
        end = jax.block_until_ready(row.solve(network, problem, log_alpha))
        seconds.append(time.perf_counter() - begun)
        found, angle = verdict(row, start, A, separable, network, problem, log_alpha, end)
        counts[found] += 1
        worst = max(worst, angle) if found == "right" else worst
        if found not in ("right", "named"):
            print(f"    {found:10} {row.name} #{index}: {kind}, {start}, log10 α {log_alpha / np.log(10):.0f}, "
                  f"{gflow.Status[end.status]}, error {float(end.error):.1e}, off {angle:.1e}, log-loss "
                  f"{float(end.log_loss):.1e}, {int(end.steps)} steps", flush=True)  # fmt: skip
    separable = sum(counts[k] for k in ("right", "wrong", "unanswered", "hopeless"))
    print(f"{row.name:32} {sum(counts.values()):5} {separable:9} {counts['right']:8} {counts['wrong']:5} "
          f"{counts['unanswered']:10} {counts['hopeless']:8} {counts['named']:5} {counts['unnamed']:7} {worst:8.1e} "
          f"{seconds[0]:6.1f} {np.median(seconds):6.2f}", flush=True)  # fmt: skip
    return counts


if __name__ == "__main__":
    lanes, words = int(sys.argv[1]) if sys.argv[1:] else 30, sys.argv[2:]
    print(f"{'':32} {'lanes':>5} {'separable':>9} {'answered':>8} {'wrong':>5} {'unanswered':>10} {'hopeless':>8} "
          f"{'named':>5} {'unnamed':>7} {'worst':>8} {'first':>6} {'median':>6}")  # fmt: skip
    total = Counter()
    for row in rows():
        if all(any(one in row.name for one in word.split("|")) for word in words):
            total += ask(row, lanes)
            jax.clear_caches()  # hundreds of programs use up the memory maps of a process
    print(dict(total))
