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
# # A loss of exp(−10¹⁰⁰⁰)
#
# Train a classifier on separable data and its weights grow for ever, in a direction that tends to a maximum margin. For
# a two-layer diagonal network that is the maximum ℓ1 margin (Corollary 2 of Yun, Krishnan and Mobahi). Training stops
# somewhere. How far from its limit?
#
# Ten Gaussian points in thirty dimensions, with random labels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)

n, d = 10, 30
labels = gflow.Classification(
    jax.random.normal(jax.random.key(1), (n, d)), jnp.sign(jax.random.normal(jax.random.key(101), (n,)))
)
network = gflow.Diagonal((jnp.ones(d), jnp.zeros(d)))
expected = gflow.predict.limit(network, labels)
print(expected)
print("coefficients that are not zero in the limit:", np.count_nonzero(expected.coefficients))

# %% [markdown]
# ## Along the flow
#
# A log-loss of −10^1000 does not fit into a float. Its *decades* log₁₀(−log L) = 1000 do. The flow is followed in dual
# coordinates, one unknown for each data point, and gives rows at the decades that are asked for, from five initial
# scales. Three of the rows are losses that one meets: 10⁻⁵, 10⁻¹⁶, and 10⁻³⁰⁰, near the end of floats.

# %%
met = jnp.log10(jnp.array([5.0, 16.0, 300.0]) * jnp.log(10.0))
decades = jnp.sort(jnp.concatenate([met, jnp.logspace(-0.3, 3.0, 100)]))
scales = jnp.array([1e-6, 1e-4, 1e-2, 1.0, 10.0])
paths = jax.lax.map(lambda a: gflow.flow(network, labels, log_alpha=a, save=gflow.Decades(decades)), jnp.log(scales))
print(paths.counts())

angles = gflow.angle(paths.directions, jnp.asarray(expected.coefficients))
print("angle to the limit (rad) at a loss of 1e-5, 1e-16, 1e-300, exp(-10^1000):")
for a, row in zip(scales, angles, strict=True):
    seen = [row[jnp.searchsorted(decades, one)] for one in (*met, decades[-1])]
    print(f"  α = {a:7.0e}:", " ".join(f"{one:8.1e}" for one in seen))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained", width_ratios=[1.35, 1])
gflow.plot.angle_against_loss(left, paths, expected.coefficients, scales, angle=0.01)
for decade, loss in zip(met, ("10⁻⁵", "10⁻¹⁶", "10⁻³⁰⁰"), strict=True):
    left.axvline(decade, color="0.8", lw=0.7, zorder=0)
    left.text(decade, 0.02, loss, transform=left.get_xaxis_transform(), rotation=90, ha="right", color="0.45", size=7)
gflow.plot.loss_for_angle(right, paths, expected.coefficients, scales)
right.set(yscale="linear", ylim=(0, 135))
narrow = {"columnspacing": 0.8, "handlelength": 1, "handletextpad": 0.3}
legend = right.legend(title="within", ncols=3, loc="upper center", frameon=False, **narrow)

# %% [markdown]
# *Left: the angle to the maximum ℓ1 margin; the dashed line is 0.01 rad. Right: the loss that is needed to come near.*
#
# At every loss that descent can reach, down to 10⁻³⁰⁰, the direction is 0.4 to 1 radian from its limit: what is trained
# is not what the theorem is about. To be within 0.01 rad −log L must pass 10^60 to 10^82. Beyond 10^170 all five flows
# rest at an angle of 4·10⁻⁸, which is not the flow's but what the cap on the inverse temperature leaves
# ([`gflow.Dual`](../docs/api/verbs.md#gflow.Dual)).
