"""Limits by weights from tiny scales, where coordinates are asleep at sizes that float64 may lose: is one wrong?

    python -u benchmarks/sleeping_coordinates.py [lanes] [seed] [words of a row's name …]

Half an hour for the 100 lanes that are the default. Gaussian data and starts, of which half have layers graded to 1e-4,
targets from 1e-3 to 1e3. The networks are diagonal ones, as they are and behind other types: a tensor that is diagonal,
one that is so for no entry of the weights, a convolution of even filters. The truth is the limit of the diagonal one in
dual coordinates. Wrong is an answer further from it than both errors and 1e-9.
"""

import collections
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)


# A network with its problem, the diagonal one that it is with its own, and what turns the latter's β into the former's.


def diagonal(rng, v, X, y):
    problem = gflow.Regression(X, y)
    return gflow.Diagonal(tuple(v)), problem, gflow.Diagonal(tuple(v)), problem, np.eye(v.shape[1])


def tensor(rng, v, X, y):
    d = v.shape[1]
    B = jnp.zeros((d,) * (len(v) + 1)).at[(jnp.arange(d),) * (len(v) + 1)].set(1.0)
    return gflow.Multilinear(tuple(v), B), *diagonal(rng, v, X, y)[1:]


def turned(rng, v, X, y):
    d, letters = v.shape[1], "abcdefg"[: len(v) + 1]
    Q = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in letters]
    B = np.einsum(",".join(f"{letter}z" for letter in letters) + "->" + letters, *Q)
    network = gflow.Multilinear(tuple(U @ w for U, w in zip(Q[1:], v, strict=True)), B)
    return network, gflow.Regression(X @ Q[0].T, y), gflow.Diagonal(tuple(v)), gflow.Regression(X, y), Q[0]


def even(rng, v, X, y):
    v, X = ((w + np.roll(w[:, ::-1], 1, axis=1)) / 2 for w in (v, X))
    network, problem = gflow.Convolutional(tuple(v)), gflow.Regression(X, y)
    return network, problem, gflow.orthogonal_form(network, problem), problem, np.eye(v.shape[1])


# Name, network, L, n, d, log10 α from and to.
ROWS = [
    ("diagonal, L = 3", diagonal, 3, 3, 8, -12, -6),
    ("diagonal tensor, L = 2", tensor, 2, 3, 8, -12, -4),
    ("diagonal tensor, L = 3", tensor, 3, 3, 8, -12, -6),
    ("diagonal tensor, L = 3", tensor, 3, 2, 3, -12, 0),
    ("diagonal tensor, L = 3", tensor, 3, 5, 8, -10, -4),
    ("diagonal tensor, L = 4", tensor, 4, 3, 6, -8, -2),
    ("even convolution, L = 2", even, 2, 3, 9, -12, -3),
    ("even convolution, L = 3", even, 3, 3, 9, -10, -4),
    ("even convolution, L = 3", even, 3, 4, 10, -6, -1),
    ("turned tensor, L = 2", turned, 2, 3, 8, -12, -3),
    ("turned tensor, L = 2", turned, 2, 3, 8, -3, 0),
    ("turned tensor, L = 3", turned, 3, 3, 8, -12, -6),
    ("turned tensor, L = 3", turned, 3, 3, 8, -4, -0.5),
    ("turned tensor, L = 4", turned, 4, 3, 7, -6, -2),
]


def main(lanes=100, seed=0, words=()):
    print(f"{'network':26}{'n × d':8}{'log10 α':12}{'lanes':>6}{'answered':>10}{'wrong':>7}")
    for name, make, L, n, d, low, high in ROWS:
        if not all(word in name for word in words):
            continue
        rng = np.random.default_rng([seed, L, n, d, *name.encode()])
        begun, counts = time.perf_counter(), collections.Counter()
        for _ in range(lanes):
            v = rng.normal(size=(L, d))
            if rng.random() < 0.5:
                v *= 10 ** rng.uniform(-4, 0, size=(L, 1))
            X, y = rng.normal(size=(n, d)), rng.normal(size=n) * 10 ** rng.uniform(-3, 3)
            log_alpha = np.log(10) * rng.uniform(low, high)
            network, problem, form, known, turn = make(rng, v, X, y)
            end = gflow.limit(network, problem, log_alpha=log_alpha, method=gflow.Weights())
            truth = gflow.limit(form, known, log_alpha=log_alpha)
            counts["answered"] += bool(end.converged)
            if end.converged and truth.converged:
                off = gflow.measures.distance(end.coefficients, turn @ truth.coefficients)
                counts["wrong"] += bool(off > end.error + truth.error + 1e-9)
        print(f"{name:26}{f'{n} × {d}':8}{f'{low} … {high}':12}{lanes:6}{counts['answered']:10}{counts['wrong']:7}"
              f"   {time.perf_counter() - begun:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    numbers = [int(v) for v in sys.argv[1:3]]
    main(*numbers, words=sys.argv[3:])
