"""Classification to the very end: every figure of gflow's claims about directions, printed as tables.

Run as `python benchmarks/classification.py [FIGURE.png]`; about five minutes on two cores, most of it compilation.
Angles in radians; `s` is −log L.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

import gflow
from gflow import finite_loss
from gflow.dual_classification import direction_flow

jax.config.update("jax_enable_x64", True)
np.set_printoptions(precision=1, linewidth=150)


def timed(f, *args):
    start = time.perf_counter()
    compiled = jax.jit(f).lower(*args).compile()
    compilation = time.perf_counter() - start
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(*args))
    return result, compilation, time.perf_counter() - start


def coefficients(networks):
    return jax.vmap(lambda network: network.coefficients())(networks)


def angles_at_decades(paths, expected, decades):
    """The angle at the first saved step beyond each decade of s."""
    s, directions = jax.vmap(finite_loss.direction_curve)(paths)
    angles = jax.vmap(finite_loss.angles, (0, None))(directions, jnp.asarray(expected))
    first = jax.vmap(lambda row: jnp.stack([jnp.argmax(row >= decade) for decade in decades]))(s)
    return np.take_along_axis(np.asarray(angles), np.asarray(first), axis=1)


def paper_data():
    print("\n1. The paper's two points, five random starts scaled by 0.5, flow on the weights to log L = -1e10")
    problem = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
    expected = {"diagonal": [0.0, 1.0], "convolution": [1.0, 1.0], "fully-connected": [1.0, 2.0]}
    decades = np.arange(1, 11)
    for L in (2, 3, 4):
        for name, shapes, make in (
            ("diagonal", [(2,)] * L, gflow.Diagonal),
            ("convolution", [(2,)] * L, gflow.Convolutional),
            ("fully-connected", [(2, 2)] * (L - 1) + [(2,)], gflow.FullyConnected),
        ):
            network = make(tuple(map(jnp.zeros, shapes)))
            keys = jax.random.split(jax.random.key(1), 5)
            starts = jax.vmap(lambda key, n=network: gflow.scale(gflow.initial.random_directions(key, n), 0.5))(keys)
            run = jax.vmap(lambda start: gflow.flow(start, problem, log_loss=-1e10, max_steps=1500))
            paths, compilation, seconds = timed(run, starts)
            curve = angles_at_decades(paths, expected[name], decades)
            known = L == 2 or name == "fully-connected"
            falling = bool((np.diff(curve, axis=1) < 0).all())
            steps = np.asarray(paths.steps + paths.rejected_steps)
            residual = jax.vmap(lambda end: finite_loss.singular_vector_residual(end, problem))(paths.network)
            print(
                f"L={L} {name:16s} converged {int(paths.converged.sum())}/5, solver steps {steps.min()}..{steps.max()}, "
                f"{seconds:.2f} s (+{compilation:.0f} s compilation), Theorem 1 residual {float(residual.max()):.1e}"
                + (f", largest angle {curve[:, -1].max():.1e}, falling at every decade: {falling}" if known else "")
            )
            if known:
                print("     largest angle at s = 1e1 ... 1e10:", curve.max(axis=0))


def gaussian():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 50)), rng.choice([-1.0, 1.0], 20)
    return gflow.Classification(X, y)


def maximum_l1_margin(problem):
    A = np.asarray(problem.y[:, None] * problem.X)
    n, d = A.shape
    program = linprog(np.ones(2 * d), A_ub=-np.hstack([A, -A]), b_ub=-np.ones(n))
    return program.x[:d] - program.x[d:]


def far_end(problem, figure):
    print("\n2. Gaussian X, n = 20, d = 50, random labels: diagonal L = 2 in dual coordinates, alpha = 0.1")
    network = gflow.Diagonal((jnp.ones(50), jnp.zeros(50)))
    expected = jnp.asarray(maximum_l1_margin(problem))
    decades = jnp.concatenate([jnp.linspace(0.3, 4, 38), jnp.geomspace(4.2, 1000, 60)])
    curve, compilation, seconds = timed(
        lambda log_alpha: direction_flow(network, problem, decades, log_scale=log_alpha), jnp.log(0.1)
    )
    angles = finite_loss.angles(curve.directions, expected)
    print(f"log L = -10^1000: {seconds:.2f} s (+{compilation:.0f} s compilation), {gflow.Status[curve.status]}")
    print(f"{int(curve.steps)} steps and {int(curve.rejected_steps)} rejected; angle to the maximum l1 margin at the end "
          f"{float(angles[-1]):.1e}; correction of the cap {float(curve.errors[-1]):.1e}")  # fmt: skip
    for wanted in (0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-5):
        print(f"   within {wanted:g} rad from log10(-log L) = {finite_loss.decades_for_angle(decades, angles, wanted):.1f}")

    print("\n3. The same, alpha from 1e-6 to 10, 64 values in one batch")
    alphas = jnp.logspace(-6, 1, 64)
    curves, compilation, seconds = timed(
        jax.vmap(lambda log_alpha: direction_flow(network, problem, decades, log_scale=log_alpha)), jnp.log(alphas)
    )
    every = jax.vmap(finite_loss.angles, (0, None))(curves.directions, expected)
    needed = jax.vmap(finite_loss.decades_for_angle, (None, 0, None))(decades, every, 1e-2)
    print(f"{int((curves.status == gflow.Status.converged).sum())} "
          f"of 64 converged; {seconds:.1f} s in all, {seconds / 64:.2f} s a lane (+{compilation:.0f} s compilation)")  # fmt: skip
    print(f"largest angle at the end {float(jnp.max(every[:, -1])):.1e}, largest correction {float(jnp.nanmax(curves.errors)):.1e}")
    for i in range(0, 64, 9):
        print(f"   alpha = {alphas[i]:.1e}: within 0.01 rad from log10(-log L) = {needed[i]:.1f}")
    if figure:
        draw(figure, decades, alphas, every, needed)


def draw(figure, decades, alphas, angles, needed):
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(alphas)))
    for i in range(0, len(alphas), 9):
        left.loglog(decades, angles[i], color=shades[i], label=f"α = {alphas[i]:.0e}")
    left.set(xlabel="log₁₀(−log L)", ylabel="angle to the maximum ℓ1 margin (rad)")
    left.legend(fontsize=7)
    right.semilogx(alphas, needed, "k.-", markersize=3)
    right.set(xlabel="initial scale α", ylabel="log₁₀(−log L) needed for 0.01 rad")
    fig.savefig(figure, dpi=110)


if __name__ == "__main__":
    paper_data()
    far_end(gaussian(), sys.argv[1] if len(sys.argv) > 1 else None)
