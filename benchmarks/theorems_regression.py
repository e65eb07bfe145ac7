"""Limit points: every regression theorem of the paper against the integrated weights.

    python benchmarks/theorems_regression.py [6] [certificates] [7] [5] [sensing]

The integrator of the tables on Theorem 5 is SciPy's LSODA on all weights, which shares no code with gflow's
flow or predictions.
"""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import gflow
from gflow.predict import orthogonal

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from truth import distance, even

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape))


@jax.jit
def residual(z, network, problem):
    weights = jax.flatten_util.ravel_pytree(network.weights)[1](z)
    return problem.residual(gflow.with_weights(network, weights)(problem.X))


@jax.jit
def field(u, z, network, problem):
    r, pull = jax.vjp(lambda z: residual(z, network, problem), z)
    return -jnp.exp(u) * pull(r)[0]


jacobian = jax.jit(jax.jacfwd(field, argnums=1))


def integrated(network, problem, rtol=1e-12):
    """The end of the weights' flow in the clock log(1 + t), by LSODA with the exact Jacobian."""
    flat, unravel = jax.flatten_util.ravel_pytree(network.weights)
    small = 1e-11 * float(jnp.abs(problem.y).max())

    def fitted(u, z, *args):
        return float(jnp.abs(residual(z, *args)).max()) - small

    fitted.terminal = True
    run = solve_ivp(
        lambda *args: np.asarray(field(*args)), (0, 60), np.asarray(flat), "LSODA", rtol=rtol, events=fitted,
        atol=1e-3 * rtol * float(jnp.abs(flat).max()), jac=lambda *args: np.asarray(jacobian(*args)),
        args=(network, problem),
    )  # fmt: skip
    assert run.status == 1, run.message
    return gflow.with_weights(network, unravel(jnp.asarray(run.y[:, -1]))).coefficients()


def instances(L):
    """Five networks with η > 0 and last layer zero, each with data that its theorem asks for."""

    def started(eta):
        return (eta,) * (L - 1) + (jnp.zeros_like(eta),)

    for n, d in ((5, 20), (10, 30)):
        yield gflow.Diagonal(started(jnp.exp(0.3 * normal(d)))), gflow.Regression(normal(n, d), normal(n))
    n, d, m = 4, 8, 10
    U = [jnp.linalg.qr(normal(m + 2, m))[0] for _ in range(L)]
    weights = [u @ v for u, v in zip(U, started(jnp.exp(0.3 * normal(m))), strict=True)]
    yield gflow.Orthogonal(weights, normal(m, d) / d**0.5, U), gflow.Regression(normal(n, d), normal(n))
    n, d = 3, 12
    filters = jnp.zeros(d).at[0].set(1.5).at[jnp.array([1, d - 1])].set(0.3)  # even; η_j = (1.5 + 0.6 cos) / √d
    yield gflow.Convolutional(started(filters)), gflow.Regression(even(normal(n, d)), normal(n))
    n, k = 3, 5
    Q = jnp.linalg.qr(normal(k, k))[0]
    sensors = jnp.einsum("ab,nb,cb->nac", Q, normal(n, k), Q)
    yield gflow.MatrixProduct(started(jnp.eye(k))), gflow.Regression(sensors.reshape(n, -1), normal(n))


def in_eigenbasis(network, problem):
    """The same flow in orthogonal coordinates in which commuting sensors are diagonal, and the way back.

    In any other basis round-off makes off-diagonal entries, and for L ≥ 3 at small α these grow: the
    invariant set of Corollary 7 is unstable. See `sensing`.
    """
    k = network.weights[0].shape[0]
    mixed = np.tensordot(rng.normal(size=len(problem.X)), np.asarray(problem.X).reshape(-1, k, k), 1)
    Q = np.linalg.eigh((mixed + mixed.T) / 2)[1]
    sensors = jnp.stack([jnp.diag(jnp.diag(Q.T @ A.reshape(k, k) @ Q)) for A in problem.X])
    rotated = gflow.Regression(sensors.reshape(len(sensors), -1), problem.y)
    return rotated, lambda beta: (Q @ np.asarray(beta).reshape(k, k) @ Q.T).ravel()


def theorem_5():
    print(
        "\nTheorem 5 and Corollaries 5, 6, 7: relative distance of the integrated weights to theory, largest distance"
    )
    print("of cvxpy's answer before refinement, largest gap and KKT residual after it, seconds of LSODA and of theory")
    print(
        "  L      α | diagonal  diagonal orthogonal  even conv   sensing | cvxpy alone |     gap | residual | seconds"
    )
    for L in (2, 3, 4, 5):
        cases = list(instances(L))
        for alpha in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0):
            if (alpha == 1e-3 and L > 3) or (alpha == 100 and L > 2):
                continue
            distances, rows, spent = [], [], np.zeros(2)
            for network, problem in cases:
                start, begun = gflow.scale(network, alpha), time.perf_counter()
                theory = gflow.predict.orthogonal_limit(start, problem)
                spent[1] += time.perf_counter() - begun
                S, eta, A, y, _ = orthogonal._program(start, problem)
                _, rho = next(orthogonal._candidates(A, y, eta, L))
                rows.append((distance(S.T @ rho, theory.coefficients), theory.gap, theory.residual))
                begun, back = time.perf_counter(), np.asarray
                if isinstance(network, gflow.MatrixProduct):
                    problem, back = in_eigenbasis(network, problem)
                distances.append(distance(back(integrated(start, problem)), theory.coefficients))
                spent[0] += time.perf_counter() - begun
            worst = np.max(np.abs(rows), axis=0)
            columns = " ".join(f"{r:9.1e}" for r in distances)
            checks = f"{worst[0]:11.1e} | {worst[1]:7.0e} | {worst[2]:8.0e}"
            print(f"  {L} {alpha:6g} | {columns} | {checks} | {spent[0]:.1f} {spent[1]:.1f}", flush=True)


def sensing():
    print(
        "\nCorollary 7 where the sensors are not diagonal: relative off-diagonal part of the integrated weights' end in"
    )
    print("the sensors' eigenbasis (0 in exact arithmetic), and the distance to theory")
    for L in (2, 3, 4):
        network, problem = list(instances(L))[-1]
        for alpha in (1.0, 0.1, 0.03, 0.01):
            start = gflow.scale(network, alpha)
            beta = integrated(start, problem)
            theory = gflow.predict.orthogonal_limit(start, problem).coefficients
            S = np.asarray(gflow.orthogonal_form(start, problem).modes().matrix())
            outside = np.asarray(beta) - S.T @ (S @ np.asarray(beta))
            print(f"  L = {L}, α = {alpha:5g}: {np.linalg.norm(outside) / np.linalg.norm(beta):.1e} "
                  f"{distance(beta, theory):.1e}", flush=True)  # fmt: skip


def theorem_6():
    print("\nTheorem 6: gflow.limit against the closed form, relative distance, for α = 0.1 and 1")
    d = 6
    cases = {f"convolution k_1 = {k}": gflow.Convolutional((normal(k), normal(d))) for k in range(1, d + 1)}
    cases |= {f"fully-connected, width {k}": gflow.FullyConnected((normal(d, k), normal(k))) for k in (1, 3, 9)}
    cases["matrix product 2×4, 4×3"] = gflow.MatrixProduct((normal(2, 4), normal(4, 3)))
    cases["multilinear 4, 7"] = gflow.Multilinear((normal(4), normal(7)), normal(d, 4, 7))
    problem = gflow.Regression(normal(1, d), normal(1))
    for name, network in cases.items():
        scales = jnp.array([0.1, 1.0])
        found = jax.vmap(lambda a, n=network: gflow.limit(gflow.scale(n, a), problem, tolerance=1e-10))(scales)
        expected = [gflow.predict.two_layer_limit(gflow.scale(network, a), problem).coefficients for a in scales]
        errors = list(map(distance, found.coefficients, expected))
        print(f"  {name:26s} {errors[0]:.1e} {errors[1]:.1e}  all converged: {bool(found.converged.all())}", flush=True)


def dominated(L, d):
    """W_lᵀW_l ⪰ W_{l+1}W_{l+1}ᵀ and W_{L−1}ᵀW_{L−1} − w_L w_Lᵀ ⪰ λI, generic otherwise."""
    sizes = [jnp.linspace(1, 1.2, d) * 1.3 ** (L - layer) for layer in range(1, L)]
    bases = [(jnp.linalg.qr(normal(d, d))[0], jnp.linalg.qr(normal(d, d))[0]) for _ in sizes]
    last = normal(d)
    return gflow.FullyConnected(
        (*((U * s) @ V for (U, V), s in zip(bases, sizes, strict=True)), last / jnp.linalg.norm(last))
    )


def theorem_7():
    print("\nTheorem 7: relative distance of the limit to the minimum ℓ2 norm solution, and its power of α")
    d, n, scales, method = 6, 3, jnp.logspace(0, -3, 7), gflow.Weights(max_steps=100_000)
    problem = gflow.Regression(normal(n, d), normal(n))
    print("  L | " + " ".join(f"α={a:7.1e}" for a in scales) + " | power from the last two decades | converged")
    for L in (2, 3, 4):
        network = dominated(L, d)
        expected = gflow.predict.limit(network, problem)
        assert all(h.holds for h in expected.hypotheses)
        found = jax.vmap(lambda a, n=network: gflow.limit(gflow.scale(n, a), problem, method=method))(scales)
        distances = np.asarray(gflow.measures.distance(found.coefficients, expected.coefficients))
        power = np.polyfit(np.log(scales[2:]), np.log(distances[2:]), 1)[0]
        columns = " ".join(f"{r:9.2e}" for r in distances)
        print(f"  {L} | {columns} | {power:.3f} | {np.asarray(found.converged)}", flush=True)


def certificates():
    print("\nInvariants and rates along the flow (rtol 1e-12, 60 saved times): largest relative drift; smallest")
    print("log(bound / loss), which must not be negative; the guaranteed rate c of ‖∇L‖² ≥ c ‖Xᵀr‖²")
    d, n = 6, 3
    X, y = normal(n, d), normal(n)
    eta = jnp.exp(0.3 * normal(d))
    cases = {
        "diagonal L=2": gflow.initial.diagonal(normal(d), 2),
        "diagonal L=4": gflow.initial.diagonal(normal(d), 4),
        "convolution L=3": gflow.initial.convolutional(normal(d), 3),
        "convolution k_1=2, n=1": gflow.Convolutional((2 + normal(2), 0.1 * normal(d))),
        "fully-connected L=2": dominated(2, d),
        "fully-connected L=3": dominated(3, d),
        "matrix product L=2, n=1": gflow.MatrixProduct((2 * jnp.eye(3), 0.1 * normal(3, 2))),
        "orthogonal L=3": gflow.sparsifying(normal(d, d), (eta, eta, 0 * eta)),
    }
    for name, network in cases.items():
        rows = 1 if "n=1" in name else n
        problem = gflow.Regression(X[:rows], y[:rows])
        save = gflow.Times(jnp.concatenate([jnp.zeros(1), jnp.logspace(-3, 2, 60)]))
        path = gflow.flow(network, problem, save=save, method=gflow.Weights(rtol=1e-12))
        drift = max(float(v) for v in gflow.invariants.drift(path.networks, problem).values())
        slack = gflow.invariants.regression_bound(network, problem, jnp.exp(path.log_times)) - path.log_losses
        above = path.log_losses > path.log_losses[0] - 41  # a residual of 1e-9; below, it is the integration's error
        c = float(gflow.invariants.steepness(network, problem))
        print(
            f"  {name:24s} drift {drift:.1e}   log(bound/loss) ≥ {float(slack[above].min()):9.2e}   c = {c:.2e}",
            flush=True,
        )


if __name__ == "__main__":
    tables = {"6": theorem_6, "certificates": certificates, "7": theorem_7, "5": theorem_5, "sensing": sensing}
    for name in sys.argv[1:] or tables:
        tables[name]()
