"""Sweeps in one process: what they return, and that no lane touches another. Verbs are toys where the engine of a
flow is not what is tested."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow._sweep import verb as verb_module
from gflow._sweep import work

pytest.importorskip("xarray")

PROBLEM = gflow.Regression(X=[[1.0, 2.0]], y=[1.0])
ALPHAS = np.logspace(-2, 0, 4)


def start(alpha, seed):
    z = jax.random.normal(jax.random.key(seed), (2,))
    return gflow.scale(gflow.initial.fully_connected(z), alpha), PROBLEM


def pair(**coordinates):
    return coordinates, None


def product(coordinates, _):
    return {"product": coordinates["a"] * coordinates["b"], "vector": coordinates["a"] * jnp.ones(3)}


@pytest.mark.slow
def test_several_verbs_at_once_with_labels_and_provenance():
    verbs = {"end": gflow.limit, "expected": gflow.predict.limit, "apart": gflow.compare, "beta": lambda n, p: n(p.X)}
    grid = {"alpha": ("alpha", ALPHAS, {"units": "1"}), "seed": np.arange(3)}
    found = gflow.sweep(start, verbs, grid)
    assert found.end_coefficients.dims == ("alpha", "seed", "input")
    assert found.beta_value.dims == ("alpha", "seed", "beta_value_0")
    for i, alpha in enumerate(ALPHAS):
        for seed in range(3):
            expected = gflow.predict.limit(*start(alpha, seed)).coefficients
            lane = found.isel(alpha=i, seed=seed)
            assert np.allclose(lane.expected_coefficients, expected, rtol=1e-12, atol=0)
            assert np.allclose(lane.end_coefficients, expected, rtol=1e-11, atol=1e-12)
    assert found.apart_distance.max() < 1e-11
    assert set(found.apart_theorem.values.ravel()) == {"Theorem 6"}
    assert (found.end_status == 0).all()
    labels = found.end_status.attrs
    labels = dict(zip(labels["flag_values"], labels["flag_meanings"].split(), strict=True))
    assert labels[0] == "converged"
    assert labels[-1] == "not_computed"
    assert found.alpha.attrs["units"] == "1"
    assert found.attrs["gflow"] == gflow.__version__
    assert found.attrs["x64"] == 1
    assert found.attrs["verb_end"] == "gflow.limit"
    assert "jax.random.key(seed)" in found.attrs["make"]


def test_paths_and_descents_have_rows():
    import optax

    optimizer = optax.sgd(1e-3)
    verbs = {
        "path": lambda n, p: gflow.flow(n, p, save=gflow.Times([0.0, 1.0, 2.0])),
        "descent": lambda n, p: gflow.descend(n, p, optimizer, steps=jnp.array([0, 1000, 2000])),
    }
    found = gflow.sweep(start, verbs, {"alpha": ALPHAS[:2], "seed": [0]})
    assert found.path_coefficients.dims == ("alpha", "seed", "row", "input")
    assert np.abs(found.path_coefficients - found.descent_coefficients).max() < 1e-2
    assert np.array_equal(found.descent_log_loss, found.descent_log_losses[..., -1])


def test_what_no_theorem_predicts_is_refused_lane_by_lane():
    X = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])

    def make(last):
        network = gflow.Diagonal((jnp.ones(3), last * jnp.ones(3)))
        return network, gflow.Regression(X, jnp.array([1.0, 1.0]))

    found = gflow.sweep(make, gflow.predict.limit, {"last": [1.0, 0.0]})
    labels = found.status.attrs["flag_meanings"].split()
    names = [labels[found.status.attrs["flag_values"].index(s)] for s in found.status.values]
    assert names == ["refused", "finished"]
    assert np.isnan(found.coefficients[0]).all()
    assert np.allclose(X @ found.coefficients.values[1], 1.0, rtol=1e-12)
    with pytest.raises(gflow.predict.Refusal):
        gflow.sweep(make, gflow.predict.limit, {"last": [1.0, 1.0]})


def test_strings_and_objects_reach_make_as_they_are():
    def make(kind, depth, a):
        assert isinstance(kind, str)
        assert isinstance(depth, int)
        return a * depth * {"one": 1, "ten": 10}[kind], None

    grid = {"a": np.arange(1.0, 6.0), "kind": ["one", "ten"], "depth": np.array([2, 3], object)}
    found = gflow.sweep(make, lambda x, _: x, grid, chunk=2)
    expected = np.arange(1.0, 6.0)[:, None, None] * np.array([1, 10])[:, None] * np.array([2, 3])
    assert np.array_equal(found.value, expected)
    assert found.value.dims == ("a", "kind", "depth")
    alone = gflow.sweep(lambda kind: (len(kind), None), lambda x, _: jnp.array(x), {"kind": ["a", "bcd"]})
    assert alone.value.values.tolist() == [1, 3]


def test_one_program_serves_all_chunks():
    traces = []

    def verb(coordinates, _):
        traces.append(1)
        return coordinates["a"] + coordinates["b"]

    found = gflow.sweep(pair, verb, {"a": np.arange(10.0), "b": np.arange(7.0)}, chunk=16)
    assert np.array_equal(found.value, np.add.outer(np.arange(10.0), np.arange(7.0)))
    assert len(traces) == 2  # for the shapes, and for the program


@pytest.mark.parametrize("lanes", [1, 256, 257, 700])
def test_groups_and_padding_lose_no_lane(lanes):
    found = gflow.sweep(pair, product, {"a": np.arange(lanes) + 1.0, "b": [2.0]}, chunk=300)
    assert np.array_equal(found["product"][:, 0], 2.0 * (np.arange(lanes) + 1))
    assert found.vector.dims == ("a", "b", "vector_0")


def test_a_lane_that_is_nan_or_diverges_touches_no_other():
    def make(w):
        return gflow.FullyConnected((w * jnp.eye(2), jnp.array([1.0, 0.5]))), PROBLEM

    good = np.linspace(0.5, 1.5, 6)
    spoilt = np.concatenate([good[:3], [np.nan, 1e200], good[3:]])

    def verb(network, problem):
        return gflow.flow(network, problem, save=gflow.Steps(4), method=gflow.Weights(max_steps=512)).end

    ends = gflow.sweep(make, verb, {"w": spoilt})
    alone = gflow.sweep(make, verb, {"w": good})
    kept = [0, 1, 2, 5, 6, 7]
    assert np.array_equal(ends.coefficients[kept], alone.coefficients)
    assert set(ends.status.values[[3, 4]].tolist()) <= {2, 3}
    assert (ends.status.values[kept] == 0).all()


def test_lanes_that_cost_alike_share_chunks():
    def collatz(coordinates, _):
        """A loop whose length is the coordinate."""
        steps = jax.lax.while_loop(lambda i: i < coordinates["length"], lambda i: i + 1, 0)
        return {"steps": steps}

    lengths = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 16))
    grid = verb_module.as_grid({"length": lengths})
    job = work.Job(pair, {"": collatz})
    fields = verb_module._fields(job, grid)
    sent = work.parcel(job, leaves=False)
    run = lambda tasks: ((i, work.work(sent, *task)) for i, task in enumerate(tasks))  # noqa: E731
    many = verb_module._sorted(grid, 16, fields, run)
    few = verb_module._sorted(grid, 17, fields, run)
    assert np.array_equal(few.order, np.arange(128))
    assert not np.array_equal(many.order, np.arange(128))


def test_a_chunk_that_fits_no_memory_is_halved(monkeypatch):
    sizes, true = [], work._padded

    def small(program, coordinates, lanes, width):
        sizes.append(width)
        if width > 5:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return true(program, coordinates, lanes, width)

    monkeypatch.setattr(work, "_padded", small)
    found = gflow.sweep(pair, product, {"a": np.arange(40.0), "b": [1.0]}, chunk=20)
    assert np.array_equal(found["product"][:, 0], np.arange(40.0))
    assert sizes == [20, 10] + [5] * 8
    monkeypatch.setattr(work, "_padded", lambda *_: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("another")))
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"):
        gflow.sweep(pair, lambda c, _: c["a"] - 1, {"a": np.arange(40.0)})


@pytest.mark.parametrize("memory", [10**9, 10**3])
def test_a_sweep_that_will_not_fit_is_cut_or_refused_with_the_figures(monkeypatch, memory):
    monkeypatch.setattr(verb_module, "_free_memory", lambda: memory)
    grid = verb_module.as_grid({"a": np.arange(1000.0), "b": [1.0]})
    fields = verb_module._fields(work.Job(pair, {"": product}), grid)
    assert verb_module._bytes_a_lane(fields) == 33
    assert verb_module._default_chunk(grid, fields) == (63 if memory == 10**9 else 3)
    groups = verb_module.as_grid({"a": np.arange(1000.0), "b": ["one", "two", "three"]})
    assert verb_module._default_chunk(groups, fields) == (63 if memory == 10**9 else 3)  # each group is worth a sample
    call = lambda **options: gflow.sweep(pair, product, {"a": np.arange(1000.0), "b": [1.0]}, **options)  # noqa: E731
    if memory == 10**9:
        assert call().sizes["a"] == 1000
    else:
        with pytest.raises(ValueError, match=r"1000 lanes of 33 B make 33 kB, and there are 1 kB of free memory: pass"):
            call()
        with pytest.raises(ValueError, match=r"a chunk of 100 lanes makes 3.3 kB.*Pass chunk=3 or less"):
            call(chunk=100)


@pytest.mark.parametrize(
    ("verb", "grid", "message"),
    [
        (None, {"a": [1.0]}, "must be a function"),
        ({}, {"a": [1.0]}, "names no function"),
        (lambda c, _: "text", {"a": [1.0]}, "must return numbers"),
        (lambda c, _: jnp.zeros(len(c["kind"])), {"kind": ["a", "bb"]}, "must have the same variables"),
    ],
)
def test_bad_calls_say_so(verb, grid, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        gflow.sweep(pair, verb, grid)
    with pytest.raises(ValueError, match="chunk must be a positive integer"):
        gflow.sweep(pair, product, {"a": [1.0], "b": [1.0]}, chunk=0)
    with pytest.raises(ValueError, match=r"make\(a\) takes other names than those of the grid, b: .*'a'"):
        gflow.sweep(lambda a: None, gflow.limit, {"b": [1.0]})
    with pytest.raises(ValueError, match=r"make must return \(network, problem\)"):
        gflow.sweep(lambda a: a, product, {"a": [1.0]})
    for looks in (lambda a: (float(a), a), lambda a: (np.random.default_rng(a), a)):
        with pytest.raises(TypeError) as caught:
            gflow.sweep(looks, product, {"a": [1]})
        assert "must be pure JAX" in "".join(caught.value.__notes__)


def test_without_the_extra_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: gflow.sweep(pair, product, {"a": [1.0]}), lambda: gflow.open_sweep(tmp_path)):
        with pytest.raises(ImportError, match=r"sweeps need xarray, zarr, cloudpickle: pip install 'gflow\[sweep\]'"):
            call()


DEVICES = """
    import jax, numpy as np, gflow, jax.numpy as jnp, lineax
    from gflow._sweep import work
    jax.config.update("jax_enable_x64", True)
    assert len(jax.devices()) == 2

    def solved(A, b):
        operator = lineax.MatrixLinearOperator(A)
        def body(v):
            return lineax.linear_solve(operator, v + b, lineax.AutoLinearSolver(well_posed=None), throw=False).value
        return jax.lax.while_loop(lambda v: v.sum() > b.min(), body, b)

    make = lambda a: (jnp.array([[4.0, 1.0], [0.0, 3.0]]) * a, jnp.array([a, 1.0]))
    a = np.linspace(1.0, 2.0, 5)
    found = gflow.sweep(make, solved, {"a": a}, chunk=4)
    one = jax.vmap(lambda a: solved(*make(a)))(jnp.asarray(a))
    assert np.allclose(found.value, one, rtol=1e-14, atol=0)
    program = work._program(work.Job(make, {}), solved, {})
    text = jax.jit(program).lower({"a": jnp.asarray(a[:4]), "": jnp.arange(4)}).compile().as_text()
    assert text.count("while(") > 0 and not any(word in text for word in ("all-reduce", "all-gather", "collective"))
"""


def test_several_devices_share_a_chunk_without_a_word_between_them(pytestconfig):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("xla")),
    }
    subprocess.run([sys.executable, "-c", textwrap.dedent(DEVICES)], check=True, env=environment)
