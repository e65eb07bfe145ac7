"""Sweeps on executors whose workers die. Verbs are toys."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import gflow
from gflow._sweep.engine import WINDOWS, Broken, computed

pytest.importorskip("xarray")

A = np.arange(24.0)


def pool(workers=2):
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def crash_at(bad, directory=""):
    """A make whose worker dies at a lane: each time, or only the first if there is a `directory` to remember it."""

    def look(a):
        mark = pathlib.Path(directory, "died")
        if bad in a and not (directory and mark.exists()):
            if directory:
                mark.touch()
            os._exit(1)
        return a

    def verb(coordinates, _):
        import jax

        a = coordinates["a"]
        shape = jax.ShapeDtypeStruct(a.shape, a.dtype)
        return 2 * jax.pure_callback(lambda a: look(np.asarray(a)), shape, a, vmap_method="broadcast_all")

    return verb


def pair(**coordinates):
    return coordinates, None


@pytest.mark.slow
def test_a_chunk_whose_worker_dies_three_times_is_crashed_and_no_other(tmp_path):
    found = gflow.sweep(pair, crash_at(5.0), {"a": A}, chunk=4, executor=pool, store=tmp_path)
    crashed = (A >= 4) & (A < 8)
    assert np.array_equal(found.status, np.where(crashed, -2, 1))
    assert np.array_equal(found.value, np.where(crashed, np.nan, 2 * A), equal_nan=True)
    assert gflow.open_sweep(tmp_path).identical(found)


SLOW = """
    import functools, os, time, jax, numpy as np
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    def make(a):
        return a, None

    def verb(a, _):
        def sleep(a):
            os.write(1, b"working\\n")
            time.sleep(300)
            return a

        return jax.pure_callback(sleep, jax.ShapeDtypeStruct((), a.dtype), a, vmap_method="sequential")

    if __name__ == "__main__":
        import gflow, gflow.cli

        {call}
"""
TOML = """
    make = "slow.py:make"
    verb = "slow.py:verb"
    store = "ends"
    processes = 2
    grid = { a = [1.0] }
"""
POOL = "functools.partial(ProcessPoolExecutor, 2, mp_context=get_context('spawn'))"


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        f"gflow.sweep(make, verb, {{'a': np.arange(8.0)}}, chunk=1, executor={POOL})",
        "gflow.cli.main(['sweep', 'slow.toml'])",  # of which one worker has no task
    ],
)
def test_workers_end_when_their_caller_is_killed(tmp_path, call):
    (tmp_path / "slow.toml").write_text(textwrap.dedent(TOML))
    (tmp_path / "slow.py").write_text(textwrap.dedent(SLOW).replace("{call}", call))
    code = [sys.executable, "slow.py"]
    with subprocess.Popen(code, stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True) as caller:
        try:
            assert caller.stdout.readline() == b"working\n"
            caller.kill()
            caller.communicate(timeout=60)  # until nobody is left who could write
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(caller.pid, signal.SIGKILL)


def test_a_pool_that_breaks_and_has_no_successor_says_how_to_go_on(tmp_path):
    verb = crash_at(5.0)
    with pool(1) as executor, pytest.raises(Broken, match=r"of 24 lanes were done and are kept in .*: the same call"):
        gflow.sweep(pair, verb, {"a": A}, chunk=4, executor=executor, store=tmp_path)


def test_an_error_of_ones_own_is_raised_and_no_crash():
    def verb(coordinates, _):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        gflow.sweep(pair, verb, {"a": A})


def test_threads_keep_the_callers_configuration():
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        found = gflow.sweep(pair, lambda c, _: c["a"] ** 2, {"a": A}, chunk=2, executor=executor)
    assert np.array_equal(found.value, A**2)


def test_workers_have_the_callers_dtype_and_results_of_every_executor_are_equal(dask_client):
    def verb(coordinates, _):
        import jax.numpy as jnp

        return jnp.sin(coordinates["a"]) ** 2

    here = gflow.sweep(pair, verb, {"a": A}, chunk=4)
    with pool(1) as executor:
        assert gflow.sweep(pair, verb, {"a": A}, chunk=4, executor=executor).identical(here)
    assert gflow.sweep(pair, verb, {"a": A}, chunk=4, executor=dask_client.get_executor()).identical(here)
    assert here.value.dtype == float


@pytest.fixture
def dask_client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_dask_worker_that_is_killed_loses_no_lane(dask_client, tmp_path):
    found = gflow.sweep(pair, crash_at(13.0, str(tmp_path)), {"a": A}, chunk=4, executor=dask_client.get_executor())
    assert (tmp_path / "died").exists()
    assert np.array_equal(found.value, 2 * A)


class Scripted(concurrent.futures.Executor):
    """Fails its tasks as told: by task, how often."""

    def __init__(self, failures):
        self.failures, self.most = failures, 0

    def submit(self, function, task):
        future = concurrent.futures.Future()
        if self.failures.get(task, 0) > 0:
            self.failures[task] -= 1
            future.set_exception(OSError("the machine is gone"))
        else:
            future.set_result(function(task))
        return future


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_a_task_is_tried_three_times(failures):
    found = dict(computed(Scripted({2: failures}), lambda task: 10 * task, [(i,) for i in range(5)]))
    assert found == {0: 0, 1: 10, 2: 20 if failures < len(WINDOWS) else None, 3: 30, 4: 40}


class Fragile(concurrent.futures.Executor):
    """A pool that breaks at one task, and takes all tasks with it that are in flight."""

    def __init__(self, deadly):
        self.deadly, self.flying, self.broken = deadly, {}, False

    def submit(self, function, task):
        if self.broken:
            raise concurrent.futures.BrokenExecutor
        future = concurrent.futures.Future()
        self.flying[future] = task
        threading.Timer(0.01, self.run, [function]).start()
        return future

    def run(self, function):
        self.broken |= self.deadly in self.flying.values()
        for future, task in list(self.flying.items()):
            if self.flying.pop(future, None) is None:
                continue  # another thread has it
            if self.broken:
                future.set_exception(concurrent.futures.BrokenExecutor())
            else:
                future.set_result(function(task))


def test_a_task_that_breaks_pools_takes_no_other_with_it():
    made = []
    found = dict(computed(lambda: made.append(1) or Fragile(3), lambda task: -task, [(i,) for i in range(100)]))
    assert found == {i: -i if i != 3 else None for i in range(100)}
    assert 3 <= len(made) <= 5


class Batch:
    """A job of a queue: no future of concurrent.futures."""

    def __init__(self, value):
        self.value, self.ready = value, time.monotonic() + 0.05

    def done(self):
        return time.monotonic() > self.ready

    def result(self):
        return self.value

    def cancel(self):
        pass


def test_jobs_that_are_no_futures_are_looked_at_now_and_then():
    class Queue:
        def submit(self, function, task):
            return Batch(function(task))

    assert dict(computed(Queue(), lambda task: -task, [(1,), (2,)])) == {0: -1, 1: -2}
