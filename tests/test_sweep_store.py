"""The store of a sweep: killed, cut, altered, locked, of another sweep. Verbs are toys."""

import contextlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow._sweep import Damaged, store

pytest.importorskip("zarr")
xr = pytest.importorskip("xarray")

A = np.arange(10.0)
GRID = {"a": ("a", A, {"units": "m"}), "kind": ["one", "ten"]}


def make(a, kind):
    return a * {"one": 1, "ten": 10}[kind], None


def verb(x, _):
    return {"square": x**2, "vector": x * jnp.arange(3.0)}


def call(path, **options):
    return gflow.sweep(make, verb, GRID, chunk=4, store=path, **options).load()


@pytest.fixture(scope="module")
def whole():
    return gflow.sweep(make, verb, GRID, chunk=4)


def test_a_store_holds_what_memory_would(tmp_path, whole):
    found = call(tmp_path / "s")
    assert found.identical(whole)
    assert gflow.open_sweep(tmp_path / "s").load().identical(whole)
    assert np.array_equal(found.square, np.outer(A, [1, 10]) ** 2)
    assert found.a.attrs == {"units": "m"}


def test_a_store_keeps_the_order_of_the_grid_whatever_its_names(tmp_path, monkeypatch):
    grid = {"kind": GRID["kind"], "c": ("b", np.arange(3.0)), "a": A}

    def three(a, c, kind):
        return make(a + 100 * c, kind)

    whole = gflow.sweep(three, verb, grid, chunk=4)
    assert whole.square.dims == ("kind", "b", "a")
    assert np.array_equal(whole.square.sel(kind="ten", a=2.0), (10 * (2 + 100 * np.arange(3.0))) ** 2)
    assert gflow.sweep(three, verb, grid, chunk=4, store=tmp_path).load().identical(whole)
    assert gflow.open_sweep(tmp_path).load().identical(whole)
    other = dict(reversed(grid.items()))  # the same sweep: its lanes keep the numbers that they have in the store
    crop(tmp_path / "ledger")
    assert gflow.sweep(three, verb, other, chunk=4, store=tmp_path).load().identical(whole)
    monkeypatch.setattr(store.Store, "write", lambda *_: pytest.fail("computed again"))
    assert gflow.sweep(three, verb, other, chunk=4, store=tmp_path).load().identical(whole)


def crop(ledger):
    """As a process that was killed would have left it: without its last lines."""
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[: len(lines) // 2]))


def test_a_finished_sweep_is_not_computed_again(tmp_path, whole, monkeypatch):
    call(tmp_path)
    monkeypatch.setattr(store.Store, "write", lambda *_: pytest.fail("computed again"))
    assert call(tmp_path).identical(whole)


class Death(BaseException):
    """What ends a process where a test wants it to."""


def test_a_death_at_any_moment_of_writing_loses_only_the_chunk_in_flight(tmp_path, whole, monkeypatch):
    """At each call of the system that puts something on disk, one after the other."""
    true, left = os.fsync, [0]

    def fsync(descriptor):
        if not left[0]:
            raise Death
        left[0] -= 1
        true(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    moments = 0
    while moments < 200:
        left[0], path = moments, tmp_path / str(moments)
        try:
            call(path)
            break
        except Death:
            left[0] = 10**9
            with contextlib.suppress(ValueError):  # before there is a sweep
                found = gflow.open_sweep(path).load()
                there = found.status == 1
                assert there.sum() % 2 == 0
                assert found.square.where(there, 0).equals(whole.square.where(there, 0))
                assert np.isnan(found.square.where(~there, np.nan)).all()
            assert call(path).identical(whole)
        moments += 9
    assert moments > 40
    assert left[0] < 9


def test_data_are_on_disk_before_the_ledger_says_so(tmp_path, monkeypatch):
    synced, true = [], store._sync
    monkeypatch.setattr(store, "_sync", lambda file: (true(file), synced.append(pathlib.Path(file))))
    append = store.Store._append

    def checked(self, entry):
        for name in entry["files"]:
            assert self.path / name in synced
            assert (self.path / name).parent in synced
        append(self, entry)

    monkeypatch.setattr(store.Store, "_append", checked)
    call(tmp_path)


KILLED = """
    import sys, jax, numpy as np
    jax.config.update("jax_enable_x64", True)
    sys.path.insert(0, sys.argv[2])
    import test_sweep_store as module
    print("ready", flush=True)
    module.long(sys.argv[1])
"""


def long(path):
    return gflow.sweep(make, verb, {"a": np.arange(200.0), "kind": ["one"]}, chunk=2, store=path)


@pytest.mark.parametrize("seconds", [1.5])
def test_a_sweep_that_is_killed_goes_on(tmp_path, seconds, monkeypatch):
    code = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "s"), str(pathlib.Path(__file__).parent)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, cwd=pathlib.Path(__file__).parents[1]) as child:
        child.stdout.readline()
        time.sleep(seconds)
        os.kill(child.pid, signal.SIGKILL)
    ledger = tmp_path / "s" / "ledger"
    done = ledger.read_bytes().count(b"\n") if ledger.exists() else 0
    written, true = [], store.Store.write
    monkeypatch.setattr(store.Store, "write", lambda self, k, columns: (written.append(k), true(self, k, columns)))
    found = long(tmp_path / "s").load()
    assert len(written) == 100 - done
    assert np.array_equal(found.square[:, 0], np.arange(200.0) ** 2)


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")


def flip(content, random):
    bit = random.integers(8 * len(content))
    return content[: bit // 8] + bytes([content[bit // 8] ^ (1 << bit % 8)]) + content[bit // 8 + 1 :]


def cut(content, random):
    return content[: random.integers(len(content))]


def looked_at(path, whole):
    """How a reader sees that something is wrong. Never by a wrong number."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = gflow.open_sweep(path).load()
        except ValueError as error:
            return str(error)
    there = found.status == 1
    assert found.square.where(there, 0).equals(whole.square.where(there, 0))
    assert found.vector.where(there, 0).equals(whole.vector.where(there, 0))
    return " ".join(str(w.message) for w in said) + ("" if there.all() else " not computed")


@pytest.mark.slow
def test_whatever_is_altered_in_a_store_is_seen_and_repaired(tmp_path, whole):
    call(tmp_path)
    random = np.random.default_rng(0)
    for file in files(tmp_path):
        content = file.read_bytes()
        for spoil in (flip, cut, flip, cut, random.choice([flip, cut])):
            file.write_bytes(spoil(content, random))
            assert looked_at(tmp_path, whole), file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Damaged)
            assert call(tmp_path).identical(whole), file
        assert not looked_at(tmp_path, whole)


def test_what_is_damaged_is_named_and_computed_again(tmp_path, whole, monkeypatch):
    call(tmp_path)
    file = tmp_path / "data" / "square" / "2"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(Damaged, match="data/square/2 is not what was written; their lanes count as not computed"):
        found = gflow.open_sweep(tmp_path)
    assert (found.status == -1).sum() == 2
    written, true = [], store.Store.write
    monkeypatch.setattr(store.Store, "write", lambda self, k, columns: (written.append(k), true(self, k, columns)))
    with pytest.warns(Damaged, match="data/square/2 .*computed again"):
        assert call(tmp_path).identical(whole)
    assert written == [2]


def test_a_chunk_that_is_altered_after_its_store_was_opened_is_not_read(tmp_path):
    call(tmp_path)
    found = gflow.open_sweep(tmp_path)
    random, file = np.random.default_rng(0), tmp_path / "data" / "square" / "2"
    content = file.read_bytes()
    for _ in range(20):
        file.write_bytes(flip(content, random))
        with pytest.raises(ValueError, match="checksum"):
            found.copy(deep=False).square.load()


@pytest.mark.parametrize(
    "index",
    [
        {"a": 3, "kind": 1, "vector_0": 2},
        {"a": slice(7, None, -3), "vector_0": slice(1)},
        {"a": [8, 0, 8], "kind": [1], "vector_0": [2, 0]},
        {"a": [], "vector_0": 1},
        {"a": np.arange(10) % 3 == 1},
        {"a": xr.DataArray([9, 2, 2], dims="point"), "kind": xr.DataArray([0, 1, 0], dims="point")},
    ],
)
def test_a_part_that_is_read_is_that_part_of_the_whole(tmp_path, whole, index):
    call(tmp_path)
    found = gflow.open_sweep(tmp_path)
    for name in "square", "status":  # nothing but the lanes' axes: indices at both leave a number
        at = {axis: index[axis] for axis in ("a", "kind") if axis in index}
        assert found[name].isel(at).identical(whole[name].isel(at))
    found = found.vector
    assert found.isel(index).identical(whole.vector.isel(index))
    assert pickle.loads(pickle.dumps(found.isel(index))).identical(whole.vector.isel(index))
    odd = slice(1, None, 2)
    assert found.isel(a=odd).isel(a=[0, 3]).identical(whole.vector.isel(a=odd).isel(a=[0, 3]))


def test_opening_a_store_takes_a_position_a_lane_and_no_variable(tmp_path):
    lanes = 100_000
    gflow.sweep(lambda a: (a, None), lambda a, _: a * jnp.ones(30), {"a": np.arange(1.0 * lanes)}, store=tmp_path)
    tracemalloc.start()
    found = gflow.open_sweep(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.value.shape == (lanes, 30)
    assert kept < 30 * lanes  # of 241 bytes a lane: the coordinate, its index and the positions
    assert peak < 60 * lanes


def test_a_chunk_that_is_missing_or_not_in_the_ledger_does_not_exist(tmp_path, whole):
    call(tmp_path)
    lines = (tmp_path / "ledger").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger").write_bytes(b"".join(lines[1:]))
    found = gflow.open_sweep(tmp_path)
    assert (found.status == -1).sum() == 4
    assert np.isnan(found.square.where(found.status == -1, drop=True)).all()
    (tmp_path / "data" / "vector" / "1.0").unlink()
    with pytest.warns(Damaged, match=r"data/vector/1\.0"):
        assert (gflow.open_sweep(tmp_path).status == -1).sum() == 8


def test_a_store_of_another_sweep_is_refused_by_name(tmp_path):
    call(tmp_path)
    other = lambda x, _: {"square": x**2, "vector": x * jnp.arange(3.0) + 1}  # noqa: E731
    for message, request in {
        "grid a is not the same": (make, verb, GRID | {"a": A + 1}, 4),
        "grid b": (lambda a, kind, b: (a, b), verb, GRID | {"b": [1]}, 4),
        "make": (lambda a, kind: (a, None), verb, GRID, 4),
        "verb": (make, other, GRID, 4),
        "verb x is nothing": (make, {"x": verb}, GRID, 4),
        "chunk is 4 there and 5 here": (make, verb, GRID, 5),
    }.items():
        make_, verb_, grid, chunk = request
        with pytest.raises(ValueError, match=f"holds another sweep: {message}"):
            gflow.sweep(make_, verb_, grid, chunk=chunk, store=tmp_path)
    with jax.enable_x64(False), pytest.raises(ValueError, match="x64 is True there and False here"):
        call(tmp_path)
    manifest = json.loads((tmp_path / "sweep.json").read_bytes().rpartition(b" ")[0])
    manifest["request"]["jax"] = "0.0.1"
    (tmp_path / "sweep.json").write_bytes(store._line(manifest))
    with pytest.raises(ValueError, match=r"jax is 0\.0\.1 there"):
        call(tmp_path)


def test_a_directory_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex' and no sweep"):
        call(tmp_path)
    with pytest.raises(ValueError, match="holds no sweep"):
        gflow.open_sweep(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_sweep_that_has_just_begun_is_worth_waiting_for(tmp_path):
    with store.locked(tmp_path), pytest.raises(ValueError, match=r"holds no sweep: .* or wait until the sweep that"):
        gflow.open_sweep(tmp_path)


def test_a_reader_counts_lanes_while_they_are_written(tmp_path, monkeypatch):
    there, true = [], store.Store.write

    def counted(self, k, columns):
        true(self, k, columns)
        there.append(int((gflow.open_sweep(tmp_path).status != -1).sum()))

    monkeypatch.setattr(store.Store, "write", counted)
    call(tmp_path)
    assert there == [4, 8, 10, 14, 18, 20]


def test_a_second_process_is_refused(tmp_path, whole):
    with store.locked(tmp_path), pytest.raises(ValueError, match="is being written by another process"):
        call(tmp_path)
    assert call(tmp_path).identical(whole)


def test_an_interrupt_says_how_to_go_on(tmp_path, whole, monkeypatch):
    true, written = store.Store.write, []

    def interrupted(self, k, columns):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(k)
        true(self, k, columns)

    monkeypatch.setattr(store.Store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"10 of 20 lanes were done and are kept in .*: the same call goes on"):
        call(tmp_path)
    found = gflow.open_sweep(tmp_path)
    assert (found.status == 1).sum() == 10
    monkeypatch.setattr(store.Store, "write", true)
    assert call(tmp_path).identical(whole)
    monkeypatch.setattr(store.Memory, "write", interrupted)
    with pytest.raises(KeyboardInterrupt, match="are lost: pass store"):
        gflow.sweep(make, verb, GRID, chunk=4)
