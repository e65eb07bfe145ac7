"""The error of exact limits without integration: against many digits, a linear program and integrated weights.

X Gaussian, 40 × 100, over √40; y from a 5-sparse signal; a diagonal network of ones and a last layer of zeros. Errors
are relative, of ρ or the coefficients; the reference is Newton's method in 50 digits and more, by python-flint, whose
matrices make that fast (`pip install python-flint`). What limits cost is in `scales.py` and `large.py`.

    python -u benchmarks/dual_limits.py           (some three minutes)
"""

import jax
import jax.numpy as jnp
import numpy as np
from flint import arb, arb_mat, ctx
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
problem = gflow.Regression(jnp.asarray(X), jnp.asarray(y))


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


def main():
    depths()
    smallest_scale()
    random_initialisations()


def depths():
    print("error of ρ against many digits")
    for L in (2, 3, 4, 5):
        solve = jax.jit(lambda a, L=L: dual_end(last_layer_zero(L), a))
        first, _, _ = solve(jnp.log(1e-2))
        for alpha in (1e-2, 1e-6):
            end, rho, bound = solve(jnp.log(alpha))
            expected = exact(np.geomspace(1e-2, alpha, 1 if alpha == 1e-2 else 33), first, L)
            print(f"L = {L}, α = {alpha:.0e}: {distance(rho, expected):.1e}, {int(end.iterations)} iterations, "
                  f"own bound {float(bound):.1e}", flush=True)  # fmt: skip


def last_layer_zero(L):
    return gflow.Diagonal((*[jnp.ones(d)] * (L - 1), jnp.zeros(d)))


def smallest_scale():
    program = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y, method="highs").x
    for L in (2, 3):
        end = gflow.limit(last_layer_zero(L), problem, log_alpha=-1000 * np.log(10.0))
        print(f"α = 10^-1000, L = {L}: distance to the least ℓ1 norm "
              f"{distance(end.coefficients, program[:d] - program[d:]):.1e}, "
              f"converged {bool(end.converged)}, {int(end.steps)} iterations")  # fmt: skip


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


if __name__ == "__main__":
    main()
