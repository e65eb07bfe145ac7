"""Where descent, noise, weight decay, momentum and sharpness-aware flows end: runs against predictions.

    python -u benchmarks/successors.py           (about ten minutes on two cores)

Twenty random instances a row, half of 3 points in 8 dimensions and half of 8 in 30. Descents are run by gflow, from
step sizes of a fiftieth to 0.9 of the largest that converges; flows are integrated by SciPy, weights and all. Beside
each row is how far its ends are from the plain flow's limit: what a prediction that knows nothing of the dynamics would
miss.
"""

import time

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.integrate import solve_ivp

import gflow

jax.config.update("jax_enable_x64", True)

SHAPES = ((3, 8), (8, 30))
UNIT_STEP = optax.sgd(1.0)  # a step size γ is that of 1 on data times √γ
KEY = jax.random.key(0)


def instances(depth):
    """(data X and y, a start), ten of each shape."""
    for shape in SHAPES:
        for seed in range(10):
            rng = np.random.default_rng([seed, *shape])
            X, y = rng.normal(size=shape) / np.sqrt(shape[1]), rng.normal(size=shape[0]) / 2
            yield rng, X, y, gflow.Diagonal(tuple((0.3, 0.6, 0.8)[depth - 2] * rng.normal(size=(depth, shape[1]))))


def distance(a, b):
    return float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b))


def row(name, errors, from_plain, remark=""):
    print(
        f"{name:44s} {len(errors):3d}   {np.median(errors):8.1e} {np.max(errors):8.1e}   "
        f"{np.median(from_plain):8.1e}   {remark}", flush=True
    )  # fmt: skip


# Descents


def descents(name, data_of):
    errors, from_plain, at_work, turned = [], [], [], 0
    for i, (_, X, y, start) in enumerate(instances(2)):

        def run(gamma, steps, X=X, y=y, start=start):
            problem = gflow.Regression(np.sqrt(gamma) * X, np.sqrt(gamma) * y)
            data = data_of(len(y), np.sqrt(gamma))
            run = gflow.descend(start, problem, UNIT_STEP, steps=jnp.array([steps]), effective=True, **data)
            return run, problem

        plain = gflow.limit(start, gflow.Regression(X, y))
        v, w = (np.asarray(u) for u in plain.network.weights)
        low, high = np.log(np.array([0.01, 8.0]) / np.linalg.norm((X * (v**2 + w**2)) @ X.T, 2))
        for _ in range(7):  # the largest step size that converges
            middle = (low + high) / 2
            good = run(np.exp(middle), 40_000)[0].log_loss < -20
            low, high = (middle, high) if good else (low, middle)
        gamma = np.geomspace(0.02, 0.9, 10)[i % 10] * np.exp(low)
        end, problem = run(gamma, 400_000)
        expected = gflow.predict.effective(end, problem)
        at_work.append(all(h.holds for h in expected.hypotheses))
        turned += bool((end.effective.signs != run(gamma, 0)[0].effective.signs).any())
        errors.append(distance(end.end.coefficients, expected.coefficients))
        from_plain.append(distance(plain.coefficients, expected.coefficients))
    row(name, errors, from_plain, f"{sum(at_work)} at rest, {turned} with a sign that turned")


# Flows


def scipy_end(X, y, start, phases):
    """The weights after `phases` of (time, rate of decay, inertia, radius), the last until nothing moves; and whether a
    w_± has passed zero."""
    v = np.stack(start.weights)
    shape, size, passed = v.shape, v.size, False

    def gradient(v):
        g = (X @ np.prod(v, axis=0) - y) @ X
        if len(v) == 2:
            return g * v[::-1]
        return np.stack([g * np.prod(np.delete(v, k, axis=0), axis=0) for k in range(len(v))])

    state = v.ravel()
    for last, rate, inertia, radius in phases:

        def field(t, z, rate=rate, inertia=inertia, radius=radius):
            v = z[:size].reshape(shape)
            g = gradient(v)
            g = gradient(v + radius * g) if radius else g
            if inertia:
                return np.concatenate([z[size:], (-g.ravel() - z[size:]) / inertia])
            return -(g + rate * v).ravel()

        def rest(t, z, field=field, rate=rate):
            v = z[:size].reshape(shape)
            moves = 0.0 if z.size == size else np.abs(z[size:]).max()
            return 1.0 if rate else np.linalg.norm(X @ np.prod(v, axis=0) - y) + moves - 1e-13

        rest.terminal = True
        begin = np.concatenate([state, np.zeros(size)]) if inertia else state
        run = solve_ivp(field, (0, last), begin, "DOP853", events=rest, rtol=1e-13, atol=1e-16)
        if inertia:
            w = run.y[:size].reshape(*shape, -1)
            passed = any((np.sign(u) != np.sign(u[:, :1])).any() for u in (w[0] + w[1], w[0] - w[1]))
        state = run.y[:size, -1]
    return np.prod(state.reshape(shape), axis=0), passed


def flows(name, depth, draw):
    """`draw(rng)` gives dynamics and phases for SciPy."""
    errors, bounds, from_plain, statuses, agree = [], [], [], [], 0
    for rng, X, y, start in instances(depth):
        dynamics, phases = draw(rng)
        problem = gflow.Regression(X, y)
        end = gflow.limit(start, problem, dynamics=dynamics)
        truth, passed = scipy_end(X, y, start, phases)
        statuses.append(gflow.Status[end.status])
        agree += passed == (statuses[-1] == "passed zero")
        if end.converged:
            errors.append(distance(end.coefficients, truth))
            bounds.append(float(end.error))
            from_plain.append(distance(gflow.limit(start, problem).coefficients, truth))
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses))
    remark = f"claimed ≤ {max(bounds):.0e}; {counts}"
    row(name, errors, from_plain, remark + (f"; {agree} signs agree" if "Momentum" in name else ""))


FOR_EVER = 1e5


def decay(rng):
    rate, until = rng.uniform(0.01, 0.1), rng.uniform(1.0, 20.0)
    return gflow.WeightDecay(rate, until=until), ((until, rate, 0, 0), (FOR_EVER, 0, 0, 0))


def momentum(least, most):
    def draw(rng):
        inertia = np.exp(rng.uniform(np.log(least), np.log(most)))
        return gflow.Momentum(inertia), ((FOR_EVER, 0, inertia, 0),)

    return draw


def sharpness(rng):
    radius = rng.uniform(0.3, 1.0)
    return gflow.SharpnessAware(radius), ((FOR_EVER, 0, 0, radius),)


def lassos():
    errors, from_plain, residuals, statuses = [], [], [], []
    for rng, X, y, start in instances(2):
        rate, problem = np.abs(X.T @ y).max() * np.exp(rng.uniform(np.log(1e-2), 0)), gflow.Regression(X, y)
        end = gflow.limit(start, problem, dynamics=gflow.WeightDecay(rate))
        beta = cp.Variable(X.shape[1])
        cost = cp.sum_squares(X @ beta - y) / 2 + rate * cp.norm1(beta)
        cp.Problem(cp.Minimize(cost)).solve(cp.CLARABEL, tol_gap_abs=1e-14, tol_gap_rel=1e-14, tol_feas=1e-14)
        errors.append(distance(end.coefficients, beta.value))
        residuals.append(float(end.certificate.kkt_residual))
        statuses.append(gflow.Status[end.status])
        from_plain.append(distance(gflow.limit(start, problem).coefficients, beta.value))
    remark = f"KKT residual ≤ {max(residuals):.0e}; {statuses.count('converged')} converged"
    row("weight decay for ever, L=2 (cvxpy's lasso)", errors, from_plain, remark)


def stationary(depth):
    errors, from_plain, residuals, statuses = [], [], [], []
    for _, X, y, start in instances(depth):
        rate, problem = 0.1 * np.abs(X.T @ y).max(), gflow.Regression(X, y)
        end = gflow.limit(start, problem, dynamics=gflow.WeightDecay(rate))
        truth, _ = scipy_end(X, y, start, ((40 / rate, rate, 0, 0),))
        statuses.append(gflow.Status[end.status])
        if end.converged:
            errors.append(distance(end.coefficients, truth))
            residuals.append(float(end.certificate.kkt_residual))
            from_plain.append(distance(gflow.limit(start, problem).coefficients, truth))
    remark = f"KKT residual ≤ {max(residuals):.0e}; {statuses.count('converged')} converged"
    row(f"weight decay for ever, L={depth}", errors, from_plain, remark)


def main():
    began = time.perf_counter()
    print(f"{'run against prediction':44s}   n     median  largest   from the plain flow's limit (median)")
    descents("descent", lambda n, unit: {})
    descents("stochastic descent, batches of 2", lambda n, unit: {"batches": gflow.RandomBatches(KEY, 2)})
    noise = gflow.LabelNoise
    descents("label noise, then clean", lambda n, unit: {"label_noise": noise(KEY, 0.2 * unit, 20_000)})
    lassos()
    flows("weight decay until T, L=2", 2, decay)
    flows("Momentum, inertia 0.02 to 1", 2, momentum(0.02, 1.0))
    flows("Momentum, inertia 1 to 20", 2, momentum(1.0, 20.0))
    flows("sharpness-aware flow, radius 0.3 to 1", 2, sharpness)
    for depth in (3, 4):
        flows(f"weight decay until T, L={depth}", depth, decay)
        stationary(depth)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
