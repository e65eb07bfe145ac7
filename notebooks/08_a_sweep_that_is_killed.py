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
# # A sweep that is killed
#
# Sixteen problems, drawn at random, from sixteen initial scales, by theory: 256 convex programs, on two processes. A
# sweep of weeks on a cluster is the same call. What is left of it when the machine dies?
#
# The command line takes a file that says what to compute, and the module of the functions that it names.

# %%
import os
import pathlib
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np

import gflow

plt.rcParams.update(gflow.plot.FONT)

pathlib.Path("experiment.py").write_text("""
import jax
import jax.numpy as jnp

import gflow


def make(alpha, seed):
    keys = jax.random.split(jax.random.key(seed))
    problem = gflow.Regression(jax.random.normal(keys[0], (4, 12)), jax.random.normal(keys[1], (4,)))
    return gflow.scale(gflow.Diagonal((jnp.ones(12), jnp.zeros(12))), alpha), problem
""")
pathlib.Path("scales.toml").write_text("""
make = "experiment.py:make"
verb = "predict"
store = "ends"
processes = 2
chunk = 8

[grid]
alpha = { logspace = [-3, 2, 16] }
seed = { arange = [16] }
""")
command = [sys.executable, "-m", "gflow", "sweep", "scales.toml"]

# %% [markdown]
# ## Kill
#
# After a quarter of the lanes the run and its workers get SIGKILL, which no program can catch.


# %%
def lanes_there():
    return int((gflow.open_sweep("ends").status >= 0).sum()) if pathlib.Path("ends/sweep.json").exists() else 0


run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
while lanes_there() < 64 and run.poll() is None:
    time.sleep(0.2)
os.killpg(run.pid, signal.SIGKILL)
run.wait()

left = gflow.open_sweep("ends").load()
print(f"after the kill: {int((left.status >= 0).sum())} of {left.status.size} lanes are there")

# %% [markdown]
# ## And go on
#
# The same command again. What is there is not computed again.

# %%
subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
found = gflow.open_sweep("ends").load()
kept = left.status >= 0
print(f"now {int((found.status >= 0).sum())} of {found.status.size}; those of before the same to the last bit:",
      bool(found.coefficients.where(kept).equals(left.coefficients.where(kept))))  # fmt: skip
print(f"largest duality gap: {float(abs(found.gap).max()):.1e}")

# %%
figure, (map_, lines) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
edges = np.logspace(-3 - 1 / 6, 2 + 1 / 6, 17), np.arange(17) - 0.5
map_.pcolormesh(*edges, kept.T, cmap="Greys", vmin=-0.3, vmax=2.0, edgecolor="white")
map_.set(xscale="log", xlabel="initial scale α", ylabel="seed")
norms = abs(found.coefficients).sum("input")
lines.plot(found.alpha, norms / norms.isel(alpha=0), color="#0072B2", lw=0.8)
lines.set(xscale="log", xlabel="initial scale α", ylabel="ℓ1 norm of the limit / at α = 0.001")
lines.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# *Left: the lanes that were there at the kill (dark). Right: the ℓ1 norm of each problem's limit over the scale.*
#
# Every chunk that was complete has survived, and the rest was computed as if nothing had happened. A thousand machines
# in the place of two processes is another executor: see [sweeps](../docs/sweeps.md). The answer is that of a single
# sweep: all sixteen problems leave their sparse solutions between α = 0.01 and 1, and above α = 3 no longer change.
