"""Every public name has an example in its docstring, which runs as it is written."""

import dataclasses
import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_docs import public_names

import gflow
from gflow.experiments import section_6

NAMES = sorted(public_names())
# Values, whose text no docstring holds; and a verb whose example takes long, and runs on its page in docs/.
APART = {"gflow.squares", "gflow.exponential", "gflow.logistic", "gflow.sweep"}


def named(name):
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module("gflow") if module == "gflow" else getattr(gflow, module[6:]), last)


def examples(name):
    return re.findall(r"```python\n(.*?)```", inspect.getdoc(named(name)) or "", re.S)


@pytest.fixture(scope="module")
def typical():
    """What examples take for granted: a regression and a classification, a network, and what the verbs say of them."""
    import equinox as eqx
    import matplotlib.pyplot as plt
    import optax
    import xarray as xr
    from jaxtyping import Array

    problem = gflow.Regression(X=jnp.array([[1.0, 2.0]]), y=jnp.array([1.0]))
    labels = gflow.Classification(X=jnp.array([[1.0, 2.0], [0.0, -3.0]]), y=jnp.array([1.0, -1.0]))
    network = gflow.Diagonal((jnp.array([1.0, 0.5]), jnp.array([0.3, -0.2])))
    start = gflow.scale(network, 0.01)
    path, end = gflow.flow(start, problem), gflow.limit(start, problem)
    decades = jnp.linspace(0.5, 100.0, 200)
    far = gflow.flow(network, labels, save=gflow.Decades(decades))
    scales = jnp.array([0.1, 1.0])
    lanes = ("alpha", "seed")
    rng = np.random.default_rng(0)
    run = section_6.Run(
        *("regression", "diagonal", 1.0, 0, *rng.normal(size=(4, 2)), "Theorem 6", *(0.0,) * 6, "converged"),
        *rng.normal(size=(2, 5, 2)),
    )
    return {
        "jax": jax,
        "jnp": jnp,
        "np": np,
        "eqx": eqx,
        "plt": plt,
        "optax": optax,
        "Array": Array,
        "key": jax.random.key(0),
        "n": 8,
        "Y": jnp.ones((4, 5)),
        "gflow": gflow,
        "problem": problem,
        "labels": labels,
        "network": network,
        "start": start,
        "path": path,
        "end": end,
        "ends": jax.tree.map(lambda v: jnp.stack([v, v]), end),
        "expected": gflow.predict.limit(start, problem),
        "scales": scales,
        "paths": jax.tree.map(lambda v: jnp.stack([v, v]), far),
        "runs": [dataclasses.replace(run, alpha=alpha) for alpha in section_6.SCALES],
        "found": xr.Dataset(
            {
                "end_coefficients": ((*lanes, "input"), rng.normal(size=(2, 3, 2))),
                "expected_coefficients": ((*lanes, "input"), rng.normal(size=(2, 3, 2))),
                "coefficients": ((*lanes, "row", "input"), rng.normal(size=(2, 3, 5, 2))),
                "to_l1": (lanes, rng.uniform(0.1, 1.0, size=(2, 3))),
                "to_l2": (lanes, rng.uniform(0.1, 1.0, size=(2, 3))),
                "error": (lanes, rng.uniform(1e-9, 1e-3, size=(2, 3))),
            },
            coords={"alpha": np.asarray(scales), "seed": np.arange(3)},
        ),
        "__name__": "example",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, typical, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = examples(name)
    assert found or name in APART
    for code in found:
        exec(compile(code, name, "exec"), dict(typical))
