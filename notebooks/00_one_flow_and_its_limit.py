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
# # One flow and its limit
#
# A regression with fewer data points than inputs has infinitely many solutions. Here is which one a
# two-layer diagonal network finds, how that depends on the initial scale α, and what theory says.
#
# Put data of your own into `x` and `y`: one data point of any dimension.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)

x = jnp.array([1.0, 2.0, -0.5, 1.5])
y = 1.0

problem = gflow.Regression(X=x[None, :], y=jnp.array([y]))
network = gflow.initial.diagonal(jnp.array([0.4, -0.3, 0.2, 0.5]))  # the coefficients it starts with, at α = 1

# %% [markdown]
# ## A path
#
# `flow` integrates dv_l/dt = −∂L/∂v_l exactly and keeps rows of its steps, or the times that are asked for. The
# coefficients stay small for a while (the origin is a saddle), then the most useful input grows first.

# %%
start = gflow.scale(network, 1e-3)
path = gflow.flow(start, problem)
print(gflow.Status[path.status], "after", path.steps, "steps")

t = jnp.linspace(0.0, 6.0, 400)
timed = gflow.flow(start, problem, save=gflow.Times(t))

looks = [{"color": c, "lw": 1.4} for c in ("#0072B2", "#D55E00", "#009E73", "black")]
figure, ax = plt.subplots(figsize=(4.2, 3.0), layout="constrained")
for j, values in enumerate(timed.coefficients.T):
    ax.plot(t, values, **looks[j % 4], label=f"$β_{{{j + 1}}}$: $x_{{{j + 1}}} = {x[j]:g}$")
ax.set(xlabel="time t", ylabel="linear coefficients, α = 0.001")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## Its limit, and what Theorem 6 says of it
#
# `limit` computes where the flow ends as t → ∞. `predict.limit` computes the same from the theory alone,
# and says which theorem it used and whether its hypotheses hold.

# %%
end = gflow.limit(start, problem)
expected = gflow.predict.limit(start, problem)
print(expected)
print(gflow.compare(end, expected))
assert end.converged
assert gflow.compare(end, expected).distance < 1e-9

# %% [markdown]
# ## A sweep over the initial scale
#
# At small α the limit is the sparsest fit (least ℓ1 norm); as α grows the start matters more and more.

# %%
scales = jnp.logspace(-6, 0, 81)
ends = jax.vmap(lambda alpha: gflow.limit(gflow.scale(network, alpha), problem))(scales)
assert ends.converged.all()
limits = ends.coefficients
predicted = np.stack([gflow.predict.limit(gflow.scale(network, a), problem).coefficients for a in scales[::8]])

figure, ax = plt.subplots(figsize=(4.2, 3.0), layout="constrained")
for j, values in enumerate(limits.T):
    ax.plot(scales, values, **looks[j % 4])
    ax.plot(scales[::8], predicted[:, j], "o", mfc="white", mec=looks[j % 4]["color"], ms=4)
ax.plot([], [], "o", mfc="white", mec="0.4", ms=4, label="Theorem 6")
ax.set(xscale="log", xlabel="initial scale α", ylabel="limit of the coefficients")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# *A line for each coefficient, in the colours of the first figure.*
