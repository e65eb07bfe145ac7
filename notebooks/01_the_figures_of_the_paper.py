# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper's figures
#
# Three two-layer networks, a fully-connected, a diagonal and a convolutional one, compute the same function at the
# start, and after training do not. That is the experiment of section 6 of Yun, Krishnan and Mobahi 2021, in two
# dimensions, where everything can be seen. `gflow reproduce` runs all of it; here are its main figures.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gflow
from gflow.plot import DESCENT, DIRECTION, FLOW, GLOBAL_MINIMA, LIMIT, START, STYLES

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)

makers = {
    "fully-connected": gflow.initial.fully_connected,
    "diagonal": gflow.initial.diagonal,
    "convolutional": gflow.initial.convolutional,
}
z = jax.random.normal(jax.random.key(25), (4, 2))  # at scale α all three start at the coefficients α² z


def from_all(name, scales, verb):
    """What `verb` finds from each scale and each direction."""
    return jax.lax.map(lambda a: jax.lax.map(lambda z: verb(gflow.scale(makers[name](z), a)), z), scales)


# %% [markdown]
# ## Regression: one point, x = (1, 2), y = 1
#
# Gradient descent at a step size of 10⁻³ (broad), gradient flow at every time in closed form (thin), and where it ends
# (open markers), both by Theorem 6, for a small and a large initial scale.

# %%
problem, scales = gflow.Regression([[1.0, 2.0]], [1.0]), jnp.array([0.01, 1.0])
steps, optimizer = jnp.arange(0, 5001, 20), optax.sgd(1e-3)
figure, axes = plt.subplots(1, 2, figsize=(6.6, 3.5), layout="constrained")
for name, style in STYLES.items():
    descents = from_all(name, scales, lambda start: gflow.descend(start, problem, optimizer, steps=steps))
    starts = [[gflow.scale(makers[name](direction), a) for direction in z] for a in scales]
    flows = np.array([[gflow.predict.path(one, problem, 1e-3 * steps).coefficients for one in row] for row in starts])
    ends = np.array([[gflow.predict.limit(one, problem).coefficients for one in row] for row in starts])
    print(f"{name}: between descent and flow at equal times at most {np.abs(descents.coefficients - flows).max():.0e}, "
          f"between descent and the end {np.abs(descents.end.coefficients - ends).max():.0e}")  # fmt: skip
    for ax, descent, flow, end in zip(axes, descents.coefficients, flows, ends, strict=True):
        ax.plot(*descent.T, color=style["color"], **DESCENT)
        ax.plot(*flow.T, **FLOW)
        ax.plot(*end.T, marker=style["marker"], mec=style["color"], **LIMIT, label=name)
for ax, a in zip(axes, scales, strict=True):
    ax.axline((0.0, 0.5), slope=-0.5, **GLOBAL_MINIMA)
    ax.plot(*(a**2 * z).T, **START)
    ax.set(xlabel="β₁", ylabel="β₂", aspect="equal")
    ax.set_title(f"α = {a:g}", loc="left")
axes[0].set(xlim=(-0.07, 0.43), ylim=(-0.02, 0.56))
legend = figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)

# %% [markdown]
# *Yellow: where the loss is zero; dots: starts.*
#
# Nothing in the loss prefers one point of the line to another, and yet each architecture has a favourite. From a small
# scale the start hardly matters, and the fully-connected network ends near the least ℓ2 norm, (0.2, 0.4), the diagonal
# one near the least ℓ1 norm, (0, 0.5), the convolutional one near the least ℓ1 norm of the Fourier transform,
# (1/3, 1/3). From a large scale the start decides. Theorem 6 knows every end.
#
# ## Classification: two points
#
# Now the weights grow for ever and only their direction has a limit: the maximum margin in the ℓ2 norm, the ℓ1
# norm, and the ℓ1 norm of the Fourier transform (Corollaries 1, 2 and 3).

# %%
labels = gflow.Classification([[1.0, 2.0], [0.0, -3.0]], [1.0, -1.0])
figure, axes = plt.subplots(1, 2, figsize=(6.6, 3.5), layout="constrained")
far = gflow.LogLoss(-1e6)
for name, style in STYLES.items():
    flows = from_all(name, scales, lambda start: gflow.flow(start, labels, until=far))
    assert flows.converged.all()
    expected = gflow.predict.limit(makers[name](z[0]), labels)
    angles = gflow.angle(flows.directions, jnp.asarray(expected.coefficients))
    paper = np.abs(flows.log_losses + 5 * np.log(10)).argmin(-1)[..., None]
    there = jnp.take_along_axis(angles, paper, -1)
    print(f"{name}, {expected.theorem}: at a loss of 1e-5 at most {there.max():.2f} rad off, "
          f"at 10^-434294 at most {angles[..., -1].max():.0e}")  # fmt: skip
    for ax, flow in zip(axes, flows.coefficients, strict=True):
        ax.plot(*flow.T, color=style["color"], lw=1.2)
        ax.axline((0, 0), expected.coefficients, color=style["color"], **DIRECTION, label=name)
for ax, a in zip(axes, scales, strict=True):
    ax.plot(*(a**2 * z).T, **START)
    ax.set(xlim=(-1.3, 3.7), ylim=(-1.3, 3.7), xlabel="β₁", ylabel="β₂", aspect="equal")
    ax.set_title(f"α = {a:g}", loc="left")
legend = figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)

# %% [markdown]
# *Lines: the flow; dashed: the limits of its direction.*
#
# Where the paper's descent stops, at a loss near 10⁻⁵, directions are up to half a radian off: the curves still turn.
# At a loss of 10^(−434,294) they are within a thousandth of a radian. gflow integrates along the arc and keeps the
# logarithm of the loss, so that such a loss is an ordinary number.
