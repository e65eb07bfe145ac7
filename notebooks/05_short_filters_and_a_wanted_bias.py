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
# # Short filters, and a network designed for a bias
#
# Architecture decides which solution is found. Read the theory backwards, and it says how to build a network that finds
# what one wants.
#
# ## Short filters
#
# One signal x of sixteen samples is to be classified as +1 by a convolutional network of two layers, the first filter
# k samples long. The loss does not care how; by Theorem 3 the weights tend to the top singular vectors of the data
# tensor.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)

d = 16
x = jnp.cumsum(jax.random.normal(jax.random.key(1), (d,)))
x = (x - x.mean()) / jnp.linalg.norm(x - x.mean())
labels = gflow.Classification(x[None], jnp.array([1.0]))
keys = jax.random.split(jax.random.key(3), 2)

directions = {}
for k in (1, 2, 4, 16):
    start = gflow.Convolutional((jax.random.normal(keys[0], (k,)), 0.1 * jax.random.normal(keys[1], (d,))))
    expected = gflow.predict.limit(start, labels)
    directions[k] = expected.coefficients / np.linalg.norm(expected.coefficients)
    print(f"k = {k:2d}, {expected.theorem}: share of the largest frequency "
          f"{2 * np.abs(np.fft.rfft(directions[k])).max() ** 2 / d:.3f}")  # fmt: skip
    if k == 4:
        path = gflow.flow(start, labels, until=gflow.LogLoss(-1e6))
        off = gflow.angle(path.directions[-1], directions[k])
        print(f"        at a log-loss of -1e6 the flow is within {off:.0e} rad of it")

# %%
figure, axes = plt.subplots(1, 4, figsize=(7.2, 1.9), layout="constrained", sharey=True)
axes[0].set(ylabel="direction of β")
for ax, (k, direction) in zip(axes, directions.items(), strict=True):
    ax.plot(np.arange(1, d + 1), x, "o", color="0.65", ms=3)
    ax.plot(np.arange(1, d + 1), direction, color="#0072B2", lw=1.4)
    ax.set(xlabel="sample", xticks=(1, 6, 11, 16))
    ax.set_title(f"k = {k}", loc="left")
    ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# *Dots: the data point. Lines: the limit direction.*
#
# With a filter of one sample the direction is that of x itself, the maximum ℓ2 margin. With one as long as the signal
# it is a single frequency, the sparsest there is in the Fourier domain. Filters between smooth more or less.
#
# ## A network that likes steps
#
# A signal with two steps is measured ten times, by random sensors. A network whose bias is to few steps would find it.
# For a transform T, here differences of neighbours, `sparsifying(T, weights)` is a network whose limit has a sparse Tβ
# (remark 3). As α → 0 theory is a linear program.

# %%
j = jnp.arange(d)
steps = jnp.where(j < 5, 1.0, jnp.where(j < 11, -0.5, 0.3))
X = jax.random.normal(jax.random.key(4), (10, d))
problem = gflow.Regression(X, X @ steps)
T = jnp.eye(d) - jnp.eye(d, k=-1)  # the first sample, then differences
weights = (jnp.ones(d), jnp.ones(d), jnp.zeros(d))
networks = {"sparsifying differences": gflow.sparsifying(T, weights), "diagonal": gflow.Diagonal(weights)}

figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.4), layout="constrained", sharey=True)
for ax, (name, network) in zip(axes, networks.items(), strict=True):
    expected = gflow.predict.small_scale_limit(network, problem)
    print(f"{name}, {expected.theorem}: from the signal {gflow.measures.distance(expected.coefficients, steps):.1e}")
    ax.step(j + 1, steps, where="mid", color="0.65", lw=3, label="signal")
    ax.step(j + 1, expected.coefficients, where="mid", color="#0072B2", lw=1.2, label=name)
    ax.set(xlabel="sample", xticks=(1, 6, 11, 16), ylim=(-1.3, 1.9))
    ax.legend(frameon=False, loc="upper right")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set(ylabel="coefficients")
end = gflow.limit(networks["sparsifying differences"], problem, log_alpha=jnp.log(1e-4))
print("the flow from α = 1e-4:", end, f"\n  from the signal {gflow.measures.distance(end.coefficients, steps):.1e}")

# %% [markdown]
# The linear program finds the signal to round-off, and the flow from α = 10⁻⁴ to 7·10⁻¹², from ten numbers. The
# diagonal network, which knows nothing of steps, finds something else that fits as well.
