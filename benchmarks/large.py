"""Convolutions by FFT, d = 2⁴ to 2¹⁶, against SciPy and diffrax; and limits of up to a million coordinates.

    python -u benchmarks/large.py [convolution] [coordinates]        (some ten minutes)

Convolution: two layers, a filter as long as the input, four Gaussian points; the truth is SciPy's DOP853 at rtol 1e-12.
Coordinates: a diagonal network, 100 points, α = 1e-3, each size in a process of its own, whose peak memory is shown;
the truth are the equations Xρ = y and Xᵀν = ζ(ρ) themselves, in NumPy.
"""

import json
import resource
import subprocess
import sys

import jax
import numpy as np
import rivals
from harness import Contender, contest, growth, keep, loosest, timed

import gflow

TARGET = 1e-6


def convolution(d):
    rng = np.random.default_rng(d)
    X, y = rng.normal(size=(4, d)) / np.sqrt(d), rng.normal(size=4)
    network = gflow.Convolutional((rng.normal(size=d) / np.sqrt(d), rng.normal(size=d) / np.sqrt(d)))
    problem = gflow.Regression(X, y)
    expected = rivals.scipy_limit(network, problem, "DOP853", 1e-12, residual=1e-11)[None]

    def own(tolerance):
        return lambda: gflow.limit(network, problem, tolerance=tolerance).coefficients[None]

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
    return contest("convolution by FFT", {"d": d}, contenders, expected)


def one(d, n=100, alpha=1e-3):
    """The limit of a first call in this process, and how far its equations are from zero."""
    X = np.random.default_rng(1).normal(size=(n, d)) / np.sqrt(n)
    y = X[:, :5].sum(axis=1)
    problem, network = gflow.Regression(X, y), gflow.Diagonal((np.ones(d), np.zeros(d)))
    seconds, end = timed(lambda: gflow.limit(network, problem, log_alpha=np.log(alpha)))
    beta = np.asarray(end.coefficients)
    zeta = np.arcsinh(2 * beta / alpha**2) / 2
    heaviest = np.argsort(-np.abs(beta))[: 2 * n]  # ν is what those that matter most say
    nu = np.linalg.lstsq(X[:, heaviest].T, zeta[heaviest], rcond=None)[0]
    off = max(np.linalg.norm(X @ beta - y) / np.linalg.norm(y), np.abs(X.T @ nu - zeta).max() / np.abs(zeta).max())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([seconds, float(off), memory, bool(end.converged), int(end.steps), float(end.error)]))


def coordinates():
    sizes, times = (10**3, 10**4, 10**5, 10**6), []
    for d in sizes:
        run = subprocess.run([sys.executable, __file__, str(d)], capture_output=True, text=True, check=True)
        seconds, off, memory, converged, steps, error = json.loads(run.stdout.splitlines()[-1])
        times.append(seconds)
        note = f"{steps} steps, own bound {error:.0e}, {memory:.2f} GiB"
        row = {"contender": "gflow.limit, first call", "lanes": 1, "rounds": 1, "ratio": 1.0, "note": note}
        row |= dict.fromkeys(("first", "seconds", "low", "high"), seconds)
        row |= {"error": off, "median_error": off, "unanswered": int(not converged)}
        keep("limits of many coordinates", {"d": d, "n": 100}, [row])
        print(f"d = {d}: {seconds:.1f} s with compilation, equations {off:.0e}, {row['note']}", flush=True)
    print(f"seconds grow like d^{growth(sizes[1:], times[1:]):.2f}")


def main(*parts):
    if parts and parts[0].isdigit():
        return one(int(parts[0]))
    if not parts or "convolution" in parts:
        sizes = [2**k for k in range(4, 17, 2)]
        times = [convolution(d)[0]["seconds"] for d in sizes]
        print(f"convolution: seconds grow like d^{growth(sizes[3:], times[3:]):.2f} from d = {sizes[3]} on")
    if not parts or "coordinates" in parts:
        coordinates()


if __name__ == "__main__":
    main(*sys.argv[1:])
