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
# # Matrix sensing against the nuclear norm
#
# A 6 × 6 matrix of rank one is measured by sixteen random sensors, y_i = ⟨A_i, B⟩. It is fitted by a product
# W_1 W_2 ⋯ W_L of matrices that start at αI, but the last at zero. Nothing in the loss asks for a low rank. Does the
# flow find the matrix of least nuclear norm all the same?

# %%
import cvxpy as cp
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gflow

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(gflow.plot.FONT)

d, n = 6, 16
keys = jax.random.split(jax.random.key(0), 3)
u = jax.random.normal(keys[0], (d,))
truth = jnp.outer(u, u) / d
sensors = jax.random.normal(keys[1], (n, d, d))
problem = gflow.Regression(sensors.reshape(n, -1), jnp.sum(sensors * truth, axis=(1, 2)))

B = cp.Variable((d, d))  # the least nuclear norm, by convex programming
fits = np.asarray(problem.X) @ cp.vec(B, order="C") == np.asarray(problem.y)
least = cp.Problem(cp.Minimize(cp.normNuc(B)), [fits])
least.solve(solver=cp.CLARABEL)
print(f"least nuclear norm {least.value:.6f}, of the truth {jnp.linalg.norm(truth, 'nuc'):.6f}")

# %% [markdown]
# ## Two factors and three, over four decades of the scale

# %%
scales = jnp.logspace(-3, 1, 17)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
for L, colour, look in ((2, "#0072B2", "--"), (3, "#D55E00", "-")):
    network = gflow.MatrixProduct((*(jnp.eye(d),) * (L - 1), jnp.zeros((d, d))))
    ends = jax.lax.map(lambda a, network=network: gflow.limit(gflow.scale(network, a), problem), scales)
    found = ends.coefficients.reshape(-1, d, d)
    sizes = np.linalg.svd(found, compute_uv=False)
    excess = sizes.sum(axis=1) / jnp.linalg.norm(truth, "nuc") - 1
    print(f"L = {L}:", ends)
    print("  α = 1e-3: from the truth", f"{gflow.measures.distance(found[0].ravel(), truth.ravel()):.1e},",
          f"excess of the nuclear norm {excess[0]:.1e}")  # fmt: skip
    left.plot(scales, sizes, look, color=colour, lw=1.2)
    left.plot([], [], look, color=colour, label=f"L = {L}")
    right.plot(scales, excess, look, color=colour, marker="o", ms=3)
left.set(xscale="log", xlabel="initial scale α", ylabel="singular values of the limit")
left.legend(frameon=False, loc="center left")
right.set(xscale="log", yscale="log", xlabel="initial scale α", ylabel="nuclear norm / least − 1")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# *Left: the six singular values of the limit. Right: by how much its nuclear norm exceeds the least.*
#
# It does. At α = 1 and above the limit has full rank; below, five singular values die out and the flow finds the truth,
# which is the matrix of least nuclear norm. Three factors come near like α³, to 2·10⁻⁹ at α = 10⁻³; two factors are
# slow, and still two per cent off. No theorem of the paper speaks of sensors such as these, which do not commute: it is
# an observation, on a matrix of rank one.
#
# ## Where theory is exact
#
# If the sensors are symmetric and commute, the flow decouples in their eigenbasis, and Corollary 7 predicts its end at
# every scale.

# %%
Q = jnp.linalg.qr(jax.random.normal(keys[2], (d, d)))[0]
commuting = jnp.einsum("ik,nk,jk->nij", Q, jax.random.normal(keys[1], (3, d)), Q)
problem = gflow.Regression(commuting.reshape(3, -1), jnp.array([1.0, -0.5, 0.3]))
network = gflow.MatrixProduct((jnp.eye(d), jnp.zeros((d, d))))
for alpha in (1.0, 0.1, 0.01):
    start = gflow.scale(network, alpha)
    end, expected = gflow.limit(start, problem), gflow.predict.limit(start, problem)
    print(f"α = {alpha:4}: {expected.theorem}, {gflow.compare(end, expected).distance:.0e} from integrated weights, "
          f"nuclear norm {jnp.linalg.norm(end.coefficients.reshape(d, d), 'nuc'):.4f}")  # fmt: skip
least = gflow.predict.small_scale_limit(network, problem)
print(f"least nuclear norm {np.linalg.norm(least.coefficients.reshape(d, d), 'nuc'):.4f}")

# %% [markdown]
# Integrated weights and Corollary 7 agree to thirteen digits. At α = 0.01 the nuclear norm is still 0.7 per cent above
# the least.
