"""The pictures of the page on each theorem: `python docs/figures/theorems.py [1 2 3 5 7]`, about three minutes."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import gflow
from gflow import plot

jax.config.update("jax_enable_x64", True)
FOLDER = pathlib.Path(__file__).parent
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
rng = np.random.default_rng(0)


def two_panels():
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.1), layout="constrained")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def theorem_1():
    """Short filters: weights become singular vectors of M(−u)."""
    problem = gflow.Classification(rng.normal(size=(4, 6)), [1.0, -1.0, 1.0, -1.0])
    network = gflow.Convolutional((jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=6))))
    path = gflow.flow(network, problem, until=gflow.LogLoss(-1e8))
    residual = jax.vmap(lambda one: gflow.measures.singular_vector_residual(one, problem))(path.networks)
    alignment = jax.vmap(lambda one: gflow.invariants.alignment(one, problem))(path.networks)
    s = -np.asarray(path.log_losses)
    late = s > 1
    figure, (left, right) = two_panels()
    left.loglog(s[late], residual[late], color=BLUE)
    left.set(xlabel="−log L", ylabel="residual", title="singular vectors of M(−u)")
    right.loglog(s[late], 1 - alignment[late], color=RED)
    right.set(xlabel="−log L", ylabel="1 − ⟨Θ, −∇L⟩ / ‖Θ‖‖∇L‖", title="alignment with the gradient")
    return figure


def theorem_2():
    """The balls that touch Xβ = y, and the paper's two points in the plane."""
    figure, (left, right) = two_panels()
    x = np.linspace(-0.2, 1.05, 400)
    left.plot(x, (1 - x) / 2, color="#F0E442", lw=6, zorder=0, label="margin 1: ρ₁ + 2ρ₂ = 1")
    for L, colour in ((1, BLUE), (2, RED), (3, GREEN), (4, GREY)):
        p = 2 / L
        size = (0.2**2 + 0.4**2) ** 0.5 if L == 1 else 0.5
        phi = np.linspace(-np.pi, np.pi, 2001)
        ball = np.array([np.cos(phi), np.sin(phi)])
        ball = size * ball / np.sum(np.abs(ball) ** p, axis=0) ** (1 / p)
        left.plot(*ball, color=colour, lw=1.3, label=f"L = {L}, p = {p:.2g}")
    left.set(aspect="equal", xlim=(-0.65, 1.15), ylim=(-0.6, 1.15), xlabel="ρ₁", ylabel="ρ₂")
    left.set_title("the smallest balls that touch the margin")
    left.legend(frameon=False, fontsize=7, loc="upper right")
    problem = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
    names = {"fully-connected": "Corollary 1", "diagonal": "Corollary 2", "convolutional": "Corollary 3"}
    for name, make in gflow.experiments.section_6.NETWORKS.items():
        start = gflow.scale(make(jnp.array([0.9, -0.4])), 1.0)
        expected = gflow.predict.limit(start, problem)
        path = gflow.flow(start, problem, until=gflow.LogLoss(-1e6))
        s, off = -np.asarray(path.log_losses), np.asarray(gflow.angle(path.directions, expected.coefficients))
        late = s > 1
        right.loglog(s[late], off[late], color=plot.STYLES[name]["color"], label=f"{name}: {names[name]}")
    right.set(xlabel="−log L", ylabel="angle (rad)", title="angle to the predicted direction")
    right.legend(frameon=False, fontsize=7)
    return figure


def theorem_3():
    """One point, convolutions with filters of growing length."""
    x = np.array([1.0, 2.0, 0.5, -1.0, 0.3, 0.8])
    problem = gflow.Classification(x[None], [1.0])
    figure, axes = two_panels()
    for ax, lengths in zip(axes, ((1, 2), (4, 6)), strict=True):
        for k, colour, shift in zip(lengths, (BLUE, RED), (-0.18, 0.18), strict=True):
            network = gflow.Convolutional((jnp.asarray(rng.normal(size=k)), jnp.asarray(0.3 * rng.normal(size=6))))
            beta = gflow.predict.limit(network, problem).coefficients
            ax.bar(np.arange(6) + shift, beta / np.linalg.norm(beta), 0.34, color=colour, label=f"k₁ = {k}")
        ax.plot(np.arange(6), x / np.linalg.norm(x), "_", color="black", ms=22, label="x / ‖x‖")
        ax.axhline(0, color="black", lw=0.6)
        ax.set(xlabel="coordinate", ylabel="limit direction", title="the longer the filter, the purer the tone")
        ax.legend(frameon=False, fontsize=7)
    axes[0].set_title("filters of length 1 and 2 (Corollary 4)")
    axes[1].set_title("filters of length 4 and 6 (Theorem 3)")
    return figure


def theorem_5():
    """The potentials, and limits from ℓ1 to weighted ℓ2."""
    figure, (left, right) = two_panels()
    tau = np.logspace(-2, 6, 300)
    for L, colour in ((2, BLUE), (3, RED), (4, GREEN)):
        left.loglog(tau, gflow.potential.H(jnp.asarray(tau), L), color=colour, label=f"L = {L}")
    left.set(xlabel="τ = ρ / (α|η|)ᴸ", ylabel="$H_L(τ)$", title="quadratic near 0, about |τ| far away")
    left.legend(frameon=False, fontsize=7)
    problem = gflow.Regression(rng.normal(size=(3, 8)), rng.normal(size=3))
    scales = np.logspace(-6, 1.5, 61)
    l1 = np.sum(np.abs(gflow.predict.minimum_norm(problem, 1).coefficients))

    def excess(beta):
        return np.sum(np.abs(beta), axis=-1) / l1 - 1

    for L, colour in ((2, BLUE), (3, RED), (4, GREEN)):
        network = gflow.initial.last_layer_zero(gflow.Diagonal((jnp.ones(8),) * L))
        ends = jax.lax.map(lambda a, n=network: gflow.limit(n, problem, log_alpha=a), jnp.log(scales))
        assert ends.converged.all()
        right.loglog(scales, excess(ends.coefficients), color=colour, label=f"flow, L = {L}")
        for alpha in scales[::6]:
            beta = gflow.predict.limit(gflow.scale(network, alpha), problem).coefficients
            (dot,) = right.plot(alpha, excess(beta), "o", mfc="white", mec=colour, ms=4.5)
    dot.set_label("Corollary 5")
    right.set(
        xlabel="initial scale α", ylabel="‖β‖₁ / its minimum − 1", title="limits of diagonal networks", ylim=(1e-10, 1)
    )
    right.legend(frameon=False, fontsize=7)
    return figure


def theorem_7():
    """Distance to the least norm, and the loss under its bound."""
    problem = gflow.Regression(rng.normal(size=(3, 5)), rng.normal(size=3))
    nearest = gflow.predict.minimum_norm(problem, 2).coefficients
    scales = np.logspace(-4, 0, 17)
    figure, (left, right) = two_panels()
    for L, colour in ((2, BLUE), (3, RED)):
        network = gflow.initial.fully_connected(jnp.asarray(rng.normal(size=5)), widths=(5,) * (L - 1))
        ends = jax.lax.map(lambda a, n=network: gflow.limit(gflow.scale(n, a), problem), jnp.asarray(scales))
        far = np.asarray(gflow.measures.distance(ends.coefficients, nearest))
        slope = np.polyfit(np.log(scales[:8]), np.log(far[:8]), 1)[0]
        left.loglog(scales, far, color=colour, label=f"L = {L}, slope {slope:.2f}")
        start = gflow.scale(network, 1.0)
        t = jnp.linspace(0.0, 3.0, 200)
        path = gflow.flow(start, problem, save=gflow.Times(t))
        right.plot(t, path.log_losses, color=colour, label=f"L = {L}")
        right.plot(t, gflow.invariants.regression_bound(start, problem, t), color=colour, ls=(0, (4, 3)), lw=1)
    right.plot([], [], color=GREY, ls=(0, (4, 3)), lw=1, label="its upper bound")
    left.set(xlabel="initial scale α", ylabel="relative distance", title="to the solution of least ℓ2 norm")
    right.set(xlabel="time t", ylabel="log L", title="the loss at α = 1", ylim=(-10, 4))
    left.legend(frameon=False, fontsize=7)
    right.legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    pictures = {"1": theorem_1, "2": theorem_2, "3": theorem_3, "5": theorem_5, "7": theorem_7}
    with matplotlib.rc_context(plot.FONT):
        for number in sys.argv[1:] or pictures:
            rng = np.random.default_rng(int(number))
            pictures[number]().savefig(FOLDER / f"theorem_{number}.png", dpi=150)
