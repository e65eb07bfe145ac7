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
# # A network and a loss of your own
#
# A network with skip connections, β = (I + W_1)(I + W_2) w, is in no theorem. Nor is a loss that forgives outliers.
# What biases do they have? A network is a record of weights with a method; so is a loss.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import gflow

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)


class Residual(gflow.LinearNetwork):
    weights: tuple[jax.Array, ...] = eqx.field(converter=gflow.as_weights)

    def coefficients(self):
        W_1, W_2, w = self.weights
        beta = w + W_2 @ w
        return beta + W_1 @ beta


class Robust(gflow.RegressionLoss):
    def __call__(self, r):
        return 0.05 * (jnp.sqrt(1 + (r / 0.05) ** 2) - 1)  # grows like |r|


keys = jax.random.split(jax.random.key(0), 4)
X, y = jax.random.normal(keys[0], (3, 6)), jnp.array([2.0, -1.0, 1.4])
problems = {"squares": gflow.Regression(X, y), "robust": gflow.Regression(X, y, Robust())}
network = Residual(tuple(jax.random.normal(key, s) for key, s in zip(keys[1:], ((6, 6), (6, 6), (6,)), strict=True)))

# %% [markdown]
# ## Where it ends
#
# `limit` takes them as they are. Its errors are bounded as ever; a theorem is not claimed.

# %%
try:
    gflow.predict.limit(network, problems["robust"])
except gflow.predict.Refusal as refusal:
    print(refusal)

scales, least = jnp.logspace(-4, 0, 25), gflow.predict.minimum_norm(problems["squares"], 2).coefficients
ends = {}
for name, problem in problems.items():
    ends[name] = jax.lax.map(lambda a, problem=problem: gflow.limit(gflow.scale(network, a), problem), scales)
    print(f"{name}: {ends[name]}")

# %%
figure, ax = plt.subplots(figsize=(4.2, 3.0), layout="constrained")
for name, style in (("squares", {"lw": 1.4}), ("robust", {"lw": 0, "marker": "o", "ms": 4, "mfc": "white"})):
    distances = gflow.measures.distance(ends[name].coefficients, jnp.asarray(least))
    print(f"{name}: from the least norm, α = 1e-4, 1e-3, 1e-2:", *(f"{one:.1e}" for one in distances[:13:6]))
    ax.plot(scales, distances, color="#0072B2", label=f"{name}, from the least ℓ2 norm", **style)
apart = gflow.measures.distance(ends["robust"].coefficients, ends["squares"].coefficients)
print("between the two, α = 1e-4, 1e-3, 1e-2:", *(f"{one:.1e}" for one in apart[:13:6]), f"at most {apart.max():.1e}")
ax.plot(scales, apart, "--", color="#D55E00", label="between the two")
ax.set(xscale="log", yscale="log", xlabel="initial scale α", ylabel="relative distance")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# From a small scale the network ends near the solution of least ℓ2 norm, at a distance in proportion to α, as Theorem 7
# says of fully-connected networks without skips. The loss matters too, a tenth as much: the ends of the two losses
# differ by up to two per cent. For networks that decouple it would not matter at all.
#
# ## A network that tells more
#
# And a method `modes` says that a network decouples. Then Theorem 5 serves it, here inputs of unequal weights c.


# %%
class Weighted(gflow.LinearTensorNetwork):
    weights: tuple[jax.Array, ...] = eqx.field(converter=gflow.as_weights)
    c: jax.Array

    def coefficients(self):
        v_1, v_2 = self.weights
        return self.c * v_1 * v_2

    def modes(self):
        return gflow.Modes(self.c, self.weights)


start = Weighted((0.1 * jnp.ones(6), jnp.zeros(6)), c=jnp.array([1.0, 2.0, 0.5, 1.0, 3.0, 0.2]))
expected = gflow.predict.limit(start, problems["squares"])
print(expected)
print(gflow.compare(gflow.limit(start, problems["squares"], method=gflow.Weights()), expected))
