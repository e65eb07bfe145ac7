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
# # Depth and the staircase
#
# A flow that starts very near the origin does not go straight to its end. It rests at saddles, at points that fit as
# well as they can with the coefficients that have grown so far, and jumps from one to the next. Where does it rest,
# when does it jump, and what does depth change?
#
# `predict.saddles` finds saddles and jump times as α → 0, for any depth (Pesme and Flammarion 2023 for two layers,
# Zhao et al. 2026). Here for two measurements of four coefficients, from weights η of different sizes.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)
np.set_printoptions(precision=3, suppress=True)

problem = gflow.Regression([[1.0, 0.5, 0.7, 0.0], [0.5, 1.0, 0.1, 0.7]], [1.0, 0.0])
eta = jnp.array([1.0, 0.8, 0.6, 0.7])
networks = {L: gflow.Diagonal((*(eta,) * (L - 1), jnp.zeros(4))) for L in (2, 3, 4, 5)}
saddles = {L: gflow.predict.saddles(network, problem) for L, network in networks.items()}

tiny = -100 * np.log(10)  # α = 10^-100
for L, found in saddles.items():
    print(f"L = {L}, at α = 10^-100 it jumps at log10 t =", found.log_times(tiny) / np.log(10))
    print(found.coefficients, "\n")

# %% [markdown]
# The deeper, the longer the first rest: some 10² units of time for two layers, 10^100 for three, 10^200 for four.
# And the ends differ. Two layers forget how large their weights were at the start; deeper ones minimise
# Σ |β_j| / |η_j|^(L−2), and so keep β_1, whose weights were the largest. `limit` knows nothing of saddles, and ends at
# the last of them:

# %%
end = gflow.limit(networks[5], problem, log_alpha=tiny)
print(end, "\nfrom the last saddle:", f"{gflow.measures.distance(end.coefficients, saddles[5].end):.1e}")
assert end.converged

# %% [markdown]
# ## The flow beside its saddles
#
# Two layers at α = 10⁻¹⁰⁰, and three and four at the smallest scales at which weights can be integrated in a second.

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), layout="constrained", sharey=True)
shown = {2: (tiny, "10⁻¹⁰⁰", gflow.Auto())}
shown |= {L: (np.log(a), f"{a:g}", gflow.Weights()) for L, a in {3: 0.003, 4: 0.05}.items()}
for ax, (L, (log_alpha, alpha, method)) in zip(axes.flat, shown.items(), strict=True):
    until = gflow.LogTime(saddles[L].log_times(log_alpha)[-1] + np.log(2.0))
    every = gflow.Steps(4096)
    path = gflow.flow(networks[L], problem, log_alpha=log_alpha, save=every, until=until, method=method)
    gflow.plot.staircase(ax, saddles[L], log_alpha, path)
    ax.legend(loc="lower left", handlelength=1, framealpha=1, edgecolor="none")
    ax.label_outer()
    ax.set_title(f"L = {L}, α = {alpha}", loc="left")
    off = gflow.measures.distance(path.coefficients[-1], saddles[L].end)
    assert path.status == gflow.Status.finished
    print(f"L = {L}: {gflow.Status[path.status]}, from the last saddle {off:.1e}")

# %% [markdown]
# *Lines: the flow. Dashed: the saddles. Grey: when theory says that it jumps. log is the natural logarithm.*
#
# Of two layers β_1 grows first and *leaves* again, as soon as β_3 serves better. In deeper networks it stays. The
# jumps of two layers are known up to O(1 / log 1/α), which can just be seen; those of four are sharp at α = 0.05.
