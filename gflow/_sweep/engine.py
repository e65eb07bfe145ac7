"""Tasks on any executor, and what happens when one crashes."""

import collections
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import Any

# Tasks in flight, by how often the next of them has crashed: a pool that breaks takes all of them with it, and only a
# task that runs alone shows that it is the one. 64 keep machines busy while the caller writes.
WINDOWS = (64, 8, 1)
_POLL = 0.2  # seconds between two looks at jobs that are no futures, such as those of a queue of batches


class Here(Executor):
    """Runs each task when it is submitted."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@functools.cache
def end_with_parent() -> None:
    """Ends this worker when the process that made it is gone: it would wait for tasks for ever."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _bound(caller: int, function: Callable, *task: Any) -> Any:
    """`function` of a task, in a worker that ends with its caller if that has made it."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == caller:
        end_with_parent()
    return function(*task)


class Broken(RuntimeError):
    """An executor has broken, and there is no function that makes another."""


def computed(executor: Any, function: Callable, tasks: Iterable[tuple]) -> Iterator[tuple[int, Any]]:
    """(i, function(*tasks[i])) in the order in which they end; (i, None) for a task that has crashed three times.

    An exception of a future is a crash: `function` must not raise. `executor` is None, an executor, or a function that
    makes one, which is called again whenever one has broken, and whose processes end with this one.
    """
    make = executor if executor is not None and not hasattr(executor, "submit") else None
    function = functools.partial(_bound, os.getpid(), function) if make else function
    pool: Any = Here() if executor is None else make() if make else executor
    numbered = enumerate(tasks)  # made when they are sent: a sweep of millions of lanes holds few of them
    waiting, flying, crashes, broken = collections.deque(), {}, collections.Counter(), False

    def ready() -> bool:
        """Whether there is a task to send now."""
        if not waiting and (following := next(numbered, None)):
            waiting.append(following)
        if not waiting or isinstance(pool, Here):
            return bool(waiting) and not flying
        return len(flying) < min(WINDOWS[crashes[i]] for i, _ in (waiting[0], *flying.values()))

    try:
        while ready() or flying:
            if broken and not flying:
                if make is None:
                    raise Broken(f"{type(pool).__name__} has broken: a worker died and took all others with it.")
                _shut(pool)
                pool, broken = make(), False
            while not broken and ready():
                try:
                    flying[pool.submit(function, *waiting[0][1])] = waiting[0]
                    waiting.popleft()
                except BrokenExecutor:
                    broken = True
            for future in _ended(list(flying)):
                i, task = flying.pop(future)
                try:
                    yield i, future.result()
                except (Exception, CancelledError) as error:
                    broken |= isinstance(error, BrokenExecutor)
                    crashes[i] += 1
                    if crashes[i] == len(WINDOWS):
                        yield i, None
                    else:
                        waiting.appendleft((i, task))
    finally:
        for future in flying:
            future.cancel()
        if make is not None:
            _shut(pool)


def _shut(pool: Any) -> None:
    pool.shutdown(wait=True, cancel_futures=True)


def _ended(futures: list[Any]) -> list[Any]:
    if not futures:
        return []
    if all(isinstance(future, Future) for future in futures):
        done = wait(futures, return_when=FIRST_COMPLETED).done
        return [future for future in futures if future in done]
    while not (done := [future for future in futures if future.done()]):
        time.sleep(_POLL)
    return done
