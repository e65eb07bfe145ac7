"""Classification to the very end: every figure of gflow's claims about directions, printed as tables.

Run as `python benchmarks/classification.py [FIGURE.png]`; about five minutes on two cores, most of it compilation.
Angles in radians; `s` is −log L.
"""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import gflow
import gflow.plot
from gflow import measures

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from truth import even, maximum_l1_margin

jax.config.update("jax_enable_x64", True)
np.set_printoptions(formatter={"float": "{:.1e}".format}, linewidth=150)
EVERY_STEP = gflow.Steps(4096)


def timed(f, *args):
    start = time.perf_counter()
    compiled = jax.jit(f).lower(*args).compile()
    compilation = time.perf_counter() - start
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(*args))
    return result, compilation, time.perf_counter() - start


def angles_at_decades(paths, expected, decades):
    """The angle at the first saved step beyond each decade of s."""
    angles = gflow.angle(paths.directions, jnp.asarray(expected))
    first = jnp.stack([jnp.argmax(paths.decades >= decade, axis=-1) for decade in decades], axis=-1)
    return np.take_along_axis(np.asarray(angles), np.asarray(first), axis=-1)


def paper_data():
    print(
        "\n1. The paper's two points, weights integrated to log L = -1e10; five random z, starts with beta = alpha^L z"
    )
    problem = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
    expected = {"diagonal": [0.0, 1.0], "convolution": [1.0, 1.0], "fully-connected": [1.0, 2.0]}
    decades = np.arange(1, 11)
    alphas = jnp.array([0.01, 0.5, 1.0])  # of the paper's section 6
    z = jax.random.normal(jax.random.key(1), (5, 2))
    for L in (2, 3, 4):
        for name, make in (
            ("diagonal", gflow.initial.diagonal),
            ("convolution", gflow.initial.convolutional),
            ("fully-connected", lambda z, L: gflow.initial.fully_connected(z, (2,) * (L - 1))),
        ):

            def run(alpha, z, L=L, make=make):
                return gflow.flow(
                    gflow.scale(make(z, L), alpha),
                    problem,
                    save=EVERY_STEP,
                    until=gflow.LogLoss(-1e10),
                    method=gflow.Weights(max_steps=1500),
                )

            paths, compilation, seconds = timed(jax.vmap(jax.vmap(run, (None, 0)), (0, None)), alphas, z)
            print(f"L={L} {name}: {seconds:.2f} s (+{compilation:.0f} s compilation)")
            for i, alpha in enumerate(alphas):
                some = paths[i]
                steps = np.asarray(some.steps + some.rejected_steps)
                residual = jax.vmap(lambda end: measures.singular_vector_residual(end, problem))(some.network)
                print(
                    f"   alpha = {alpha:g}: converged {int(some.converged.sum())}/5, steps {steps.min()}..{steps.max()}"
                    f", Theorem 1 residual at most {float(residual.max()):.1e}"
                )
                if L == 2 or name == "fully-connected":
                    curve = angles_at_decades(some, expected[name], decades)
                    falling = (np.diff(curve, axis=1) < 0).all(axis=1)
                    print(f"      angle falls at every decade: {falling.sum()}/5; largest at s = 1e1 ... 1e10:")
                    print("     ", curve.max(axis=0))
                    for j in np.flatnonzero(~falling):
                        print(f"      start {j}, which does not:", curve[j])
                        sign_changes(some[j], gflow.scale(make(z[j], L), alpha), problem, expected[name])


def sign_changes(path, start, problem, expected):
    """The signed angle at s = 3 ... 100, by three routes: |angle| rises once it has passed through zero."""

    def signed(beta):
        return np.arctan2(expected[1] * beta[:, 0] - expected[0] * beta[:, 1], beta @ np.array(expected))

    s = -np.asarray(path.log_losses)
    rows = np.array([np.argmax(s >= wanted) for wanted in (3, 5, 10, 20, 30, 50, 100)])
    times = jnp.exp(path.log_times[rows])
    plain = gflow.flow(start, problem, save=gflow.Times(times), method=gflow.Weights(rtol=1e-11, max_steps=200_000))
    dual = gflow.flow(start, problem, save=gflow.Decades(jnp.log10(s[rows])), method=gflow.Dual(rtol=1e-10))
    print("         signed, at s =", s[rows].round())
    print("         weights      ", signed(np.asarray(path.coefficients)[rows]))
    print("         in plain time", signed(np.asarray(plain.coefficients)))
    print("         dual         ", signed(np.asarray(dual.directions)))


def gaussian():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 50)), rng.choice([-1.0, 1.0], 20)
    return gflow.Classification(X, y)


def far_end(problem, figure):
    print("\n2. Gaussian X, n = 20, d = 50, random labels: diagonal L = 2 in dual coordinates, alpha = 0.1")
    network = gflow.Diagonal((jnp.ones(50), jnp.zeros(50)))
    expected = maximum_l1_margin(problem.y[:, None] * problem.X)
    parts = (0.31, 4, 20), (4.2, 29, 20), (30, 290, 60), (300, 1000, 8)
    decades = jnp.concatenate([jnp.geomspace(*part) for part in parts])

    def follow(log_alpha, decades=decades, cap=1e4):
        return gflow.flow(
            network, problem, log_alpha=log_alpha, save=gflow.Decades(decades), method=gflow.Dual(cap=cap)
        )

    curve, compilation, seconds = timed(follow, jnp.log(0.1))
    angles = gflow.angle(curve.directions, expected)
    print(f"log L = -10^1000: {seconds:.2f} s (+{compilation:.0f} s compilation), {gflow.Status[curve.status]}")
    print(f"{int(curve.steps)} steps and {int(curve.rejected_steps)} rejected, both caps together; "
          f"angle to the maximum l1 margin at the end {float(angles[-1]):.1e}; correction of the cap "
          f"{float(curve.errors[-1]):.1e}")  # fmt: skip
    for wanted in (0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-5):
        needed = measures.decades_for_angle(decades, angles, wanted)
        print(f"   within {wanted:g} rad from log10(-log L) = {needed:.1f}")
    print("   the cap: angle to the maximum l1 margin at log10(-log L) = 1000, and the correction reported")
    for cap in (1e3, 1e4, 1e5):
        end = follow(jnp.log(0.1), jnp.array([1000.0]), cap)
        angle = gflow.angle(end.directions, expected)[0]
        print(f"   kappa = {cap:.0e}: {float(angle):.1e}, {float(end.errors[0]):.1e}")

    print("\n3. The same, alpha from 1e-6 to 10, 64 values in one batch, 108 losses each")
    alphas = jnp.logspace(-6, 1, 64)
    # map, not vmap: every lane then takes its own number of steps
    curves, compilation, seconds = timed(lambda logs: jax.lax.map(follow, logs), jnp.log(alphas))
    every = gflow.angle(curves.directions, expected)
    needed = jax.vmap(measures.decades_for_angle, (None, 0, None))(decades, every, 1e-2)
    converged = int((curves.status == gflow.Status.converged).sum())
    print(
        f"{converged} of 64 converged; {seconds:.1f} s, {seconds / 64:.2f} s a lane (+{compilation:.0f} s compilation)"
    )
    print(f"largest angle at the end {float(jnp.max(every[:, -1])):.1e}, "
          f"largest correction {float(jnp.nanmax(curves.errors)):.1e}")  # fmt: skip
    A = problem.y[:, None] * problem.X
    minimum = float(jnp.sum(jnp.abs(expected)) / jnp.min(A @ expected))
    excess = jax.vmap(lambda rho: measures.excess_norm(rho, A, 1.0, minimum))(curves.directions)
    rows = [int(jnp.argmin(jnp.abs(decades - decade))) for decade in (1, 2, 4, 10, 30, 100, 300, 1000)]
    print("   log10(-log L) =", np.asarray(decades[jnp.array(rows)]))
    for i in range(0, 64, 9):
        print(f"   alpha = {alphas[i]:.1e}: within 0.01 rad from log10(-log L) = {needed[i]:.1f}; "
              f"excess of the l1 norm {np.asarray(excess[i, jnp.array(rows)])}")  # fmt: skip
    if figure:
        draw(figure, curves, expected, alphas)


def fully_connected(problem):
    print("\n4. The same data, fully-connected L = 2 of width 5, random start scaled by 0.1, to log L = -1e8")
    network = gflow.FullyConnected((jnp.zeros((50, 5)), jnp.zeros(5)))
    start = gflow.scale(gflow.initial.random_directions(jax.random.key(0), network), 0.1)
    expected = gflow.predict.maximum_margin(problem, 2).coefficients
    until, method = gflow.LogLoss(-1e8), gflow.Weights(max_steps=1500)
    path, compilation, seconds = timed(
        lambda s: gflow.flow(s, problem, save=EVERY_STEP, until=until, method=method), start
    )
    curve = angles_at_decades(path, expected, np.arange(1, 9))
    print(f"{gflow.Status[path.status]}; {int(path.steps)} steps, {seconds:.1f} s (+{compilation:.0f} s compilation)")
    print("   angle to the maximum l2 margin at s = 1e1 ... 1e8:", curve)


def kkt(problem):
    print("\n5. KKT residual of min |rho|_{2/L}, falling along the run")
    decades = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
    print("   dual coordinates, alpha = 0.1, log10(-log L) =", np.asarray(decades))
    for L in (2, 3, 4):
        network = gflow.Diagonal((jnp.ones(50),) * (L - 1) + (jnp.zeros(50),))
        kkt_of_dual(f"diagonal L={L}", network, problem, decades)
    rng = np.random.default_rng(3)
    mirrored = gflow.Classification(even(rng.standard_normal((10, 32))), rng.choice([-1.0, 1.0], 10))
    filters = tuple(even(rng.standard_normal(32)) for _ in range(2))
    kkt_of_dual("even full convolution L=2, n=10, d=32", gflow.Convolutional(filters), mirrored, decades)
    print("   full convolution L = 2, general data, by weights; dying frequencies decay like powers of s")
    convolution_kkt(n=2, d=5, alpha=0.01)
    convolution_kkt(n=5, d=8, alpha=0.01)
    convolution_kkt(n=5, d=8, alpha=0.5)


def convolution_kkt(n, d, alpha):
    rng = np.random.default_rng(3)
    problem = gflow.Classification(rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n))
    S = d**0.5 * gflow.predict.dft(d)
    A = jnp.asarray(problem.y[:, None] * (problem.X @ S.T))
    start = gflow.scale(gflow.initial.convolutional(jnp.asarray(rng.standard_normal(d))), alpha)
    path, _, seconds = timed(lambda s: gflow.flow(s, problem, save=EVERY_STEP, until=gflow.LogLoss(-1e10)), start)

    def residual(network):
        rho = jnp.asarray(S.conj()) @ network.coefficients() / d
        return measures.kkt_residual(rho, measures.multipliers(network, problem), A, 2)

    s = -np.asarray(path.log_losses)
    # Beyond 1e8 the ties of margins in float64 no longer tell the multipliers to two digits.
    wanted = [s_k for s_k in (1e1, 1e2, 1e4, 1e6, 1e8) if s[-1] >= s_k]
    rows = np.array([np.argmax(s >= least) for least in wanted])
    residuals = np.asarray(jax.vmap(residual)(jax.tree.map(lambda v: v[rows], path.networks)))
    print(f"   n = {n}, d = {d}, alpha = {alpha}: {gflow.Status[path.status]}; {int(path.steps + path.rejected_steps)} "
          f"steps, {seconds:.2f} s")  # fmt: skip
    print(f"      at s = {np.array(wanted)}: {residuals}; falling: {bool((np.diff(residuals) < 0).all())}")


def kkt_of_dual(name, network, problem, decades):
    form = gflow.orthogonal_form(network, problem)
    curve = gflow.flow(form, problem, log_alpha=jnp.log(0.1), save=gflow.Decades(decades))
    A, rho = problem.y[:, None] * form.modes().inputs(problem.X), jax.vmap(lambda n: n.modes().rho())(curve.networks)
    residuals = jax.vmap(lambda r, q: measures.kkt_residual(r, q, A, network.depth))(rho, curve.multipliers)
    print(f"   {name}: {np.asarray(residuals)} {gflow.Status[curve.status]}")


def agreement():
    print("\n6. Clocks, margins and descent")
    two_points = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
    rng = np.random.default_rng(0)
    several = gflow.Classification(rng.standard_normal((6, 10)), rng.choice([-1.0, 1.0], 6))
    agree(
        "the paper's two points, diagonal",
        two_points,
        gflow.scale(gflow.initial.diagonal(jnp.array([0.6, -0.4])), 0.5),
    )
    agree(
        "Gaussian n = 6, d = 10, four support vectors, diagonal, alpha = 0.1",
        several,
        gflow.Diagonal((jnp.full(10, 0.1), jnp.zeros(10))),
    )


def agree(name, problem, start):
    print(f"   {name}")
    path = gflow.flow(start, problem, until=gflow.LogLoss(-15.0), method=gflow.Weights(rtol=1e-10))
    plain = gflow.flow(
        start,
        problem,
        save=gflow.Times(jnp.exp(path.log_time)[None]),
        method=gflow.Weights(rtol=1e-12, max_steps=100_000),
    )
    print(f"      log L at log t = {float(path.log_time):.6f}: {float(path.log_loss):.10f} in the loss clock, "
          f"{float(plain.log_loss):.10f} in the time clock")  # fmt: skip
    far = gflow.flow(start, problem, save=EVERY_STEP, until=gflow.LogLoss(-1e10))
    margins = np.asarray(jax.vmap(lambda n: gflow.invariants.smoothed_margin(n, problem))(far.networks))
    small = np.asarray(far.log_losses) < 0
    print(f"      to log L = {float(far.log_loss):.1e} in {int(far.steps + far.rejected_steps)} steps: largest "
          f"relative decrease of the smoothed margin in a step after L < 1: "
          f"{max(0.0, -np.min(np.diff(margins[small]) / margins[small][1:])):.1e}")  # fmt: skip
    import optax

    flow_end = gflow.flow(start, problem, save=gflow.Times([100.0])).end.coefficients
    for size in (1e-2, 1e-3, 1e-4):
        steps = jnp.array([round(100 / size)])
        descent = gflow.descend(start, problem, optax.sgd(size), steps=steps).end.coefficients
        distance = float(jnp.linalg.norm(descent - flow_end))
        print(f"      descent, step {size:g}, at t = 100: distance to the flow {distance:.1e}")


def draw(figure, curves, expected, alphas):
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(gflow.plot.FONT):
        page = Figure(figsize=(7.4, 3.1), layout="constrained")
        left, right = page.subplots(1, 2, width_ratios=(1.25, 1))
        some = curves[::9]  # one a decade of alpha
        gflow.plot.angle_against_loss(left, some, expected, alphas[::9], angle=0.01)
        left.set_xlim(2, 1000)
        gflow.plot.loss_for_angle(right, curves, expected, alphas)
        page.savefig(figure, dpi=200)


if __name__ == "__main__":
    paper_data()
    far_end(gaussian(), sys.argv[1] if len(sys.argv) > 1 else None)
    fully_connected(gaussian())
    kkt(gaussian())
    agreement()
