"""Limits where the dual route is not exact: fully-connected networks and matrix sensing, against SciPy and diffrax.

    python -u benchmarks/widths.py [fully-connected] [sensing]        (some ten minutes)

Gaussian points (n = 5) and layers, scaled so that outputs are of order 1, times α = 0.1. The truth is SciPy's DOP853 at
rtol 1e-12; rivals are compared at an error of 1e-6.
"""

import sys
import warnings

import jax
import numpy as np
import rivals
from harness import Contender, contest, growth, loosest

import gflow

TARGET = 1e-6
ALPHA = 0.1


def start(rng, kind, shapes):
    return kind(tuple(ALPHA * rng.normal(size=s) / np.sqrt(s[-1]) for s in shapes))


def fully_connected(d, L, width=None):
    rng, width = np.random.default_rng(d + L), width or d
    problem = gflow.Regression(rng.normal(size=(5, d)) / np.sqrt(d), rng.normal(size=5))
    shapes = [(d, width), *[(width, width)] * (L - 2), (width,)]
    return f"fully-connected, L = {L}", {"d": d, "width": width}, start(rng, gflow.FullyConnected, shapes), problem


def sensing(d, n):
    """Gaussian sensors of a matrix of rank 2."""
    rng = np.random.default_rng(d)
    sensors = rng.normal(size=(n, d, d)) / d
    target = rng.normal(size=(d, 2)) @ rng.normal(size=(2, d))
    problem = gflow.Regression(sensors, np.einsum("nij,ij->n", sensors, target))
    return "matrix sensing", {"d": d, "n": n}, start(rng, gflow.MatrixProduct, [(d, d), (d, d)]), problem


def limit(workload, sizes, network, problem):
    expected = rivals.scipy_limit(network, problem, "DOP853", 1e-12, residual=1e-11)[None]

    def own(tolerance):
        return lambda: gflow.limit(network, problem, tolerance=tolerance).coefficients.ravel()[None]

    def plain(rtol):
        run = jax.jit(lambda network: rivals.diffrax_limit(network, problem, rtol))
        return lambda: run(network)[None]

    tolerance, call = loosest(own, expected, TARGET, (1e-3, 1e-4, 1e-5, 1e-6, 1e-7))
    contenders = [Contender(f"gflow, tolerance {tolerance:.0e}", call)]
    method, rtol = rivals.best_of_scipy(network, problem, expected[0], TARGET)
    contenders.append(
        Contender(f"SciPy {method}, {rtol:.0e}", lambda: rivals.scipy_limit(network, problem, method, rtol)[None])
    )
    rtol, call = loosest(plain, expected, TARGET, (1e-6, 1e-7, 1e-8, 1e-9))
    contenders.append(Contender(f"diffrax Tsit5, {rtol:.0e}", call))
    return contest(workload, sizes, contenders, expected)


def main(*parts):
    parts = parts or ("fully-connected", "sensing")
    if "fully-connected" in parts:
        for L in (2, 3):
            sizes = (10, 50, 200)
            times = [limit(*fully_connected(d, L))[0]["seconds"] for d in sizes]
            print(f"fully-connected, L = {L}: seconds grow like d^{growth(sizes, times):.2f}")
            limit(*fully_connected(10_000, L, 50))
    if "sensing" in parts:
        for d, n in ((20, 60), (50, 150)):
            limit(*sensing(d, n))


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(*sys.argv[1:])
