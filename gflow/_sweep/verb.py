"""The verb: a grid of starts, and what becomes of them."""

import contextlib
import functools
import inspect
import os
import platform
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .._checks import require_count
from ..predict import Refusal
from ..records import Status
from .columns import Column, blank_of, is_status
from .dataset import of_memory, open_sweep, require_libraries, require_names
from .engine import Broken, computed
from .fingerprint import fingerprint
from .grid import Grid, Plan, as_grid, plan
from .store import Fields, Memory, Store, known, locked, planned, writing
from .work import Failure, Job, described, parcel, work, x64

if TYPE_CHECKING:
    import xarray as xr


def sweep(
    make: Callable[..., Any],
    verb: Callable | Mapping[str, Callable],
    grid: Mapping[str, Any],
    *,
    chunk: int | None = None,
    store: str | Path | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    progress: bool = True,
) -> "xr.Dataset":
    """What `verb` says of every lane of a grid, as an `xarray.Dataset`: of ten lanes or of ten million.

    - `make(**coordinates)` returns (network, problem), in pure JAX, since it is traced: of a `seed` it makes a key by
      `jax.random.key(seed)`.
    - `verb`: `gflow.flow`, `gflow.limit`, a function of `gflow.predict`, `gflow.compare` (of the limit with its
      prediction), or any function (network, problem) ↦ a pytree of arrays and records of fixed shapes. Options are
      bound: `lambda network, problem: gflow.limit(network, problem, tolerance=1e-6)`. For several pass them by names,
      which then lead those of the variables. A function that looks at values is called lane by lane as
      `gflow.Eager(function)`.
    - `grid`: values by name, or (dimension, values), or (dimension, values, attributes) as in xarray. Different
      dimensions multiply, coordinates that share one go together. Strings, and arrays of dtype object, reach `make` as
      they are, and each gets programs of its own: architectures, depths.
    - `chunk`: lanes that are computed, written and lost together, by default a 16th of those that share a
      program, from 32 to 4096. All chunks have one shape, so that nothing is compiled twice.
    - `store`: a directory. The same call goes on where an earlier one ended, however that was. See `gflow.open_sweep`.
    - `executor`: any `concurrent.futures.Executor`, or a function that makes one, which then replaces one that broke.
      By default chunks run here, on all local devices.

    Variables are the fields of records and the leaves of other results. Every one has a `status`, whose labels are in
    its attributes `flag_values` and `flag_meanings`: those of `gflow.Status`, and `refused` where no theorem applies,
    `crashed` where a chunk's worker has died three times, `not computed`.

    Lanes are sorted by the number of steps that a sample of them took, so that those of a chunk cost about the same.
    In a chunk lanes that have ended make room for others, so that none waits long for a slower one.

    **Raises** ValueError for a grid that is none, for lanes of different variables, for a result that will not fit into
    the memory or on the disk, for a store of another sweep (the difference is named) and for one that another process
    writes; and what `make` and `verb` raise.

    ```py
    def make(alpha, seed):
        network = gflow.initial.random_directions(jax.random.key(seed), gflow.Diagonal((jnp.zeros(2),) * 2))
        return gflow.scale(network, alpha), problem

    ends = gflow.sweep(make, gflow.limit, {"alpha": jnp.logspace(-4, 1, 100), "seed": jnp.arange(20)}, store="ends")
    ends.error.max("seed")
    ```
    """
    require_libraries()
    if chunk is not None:
        require_count("chunk", chunk)
    job = Job(make, _verbs(verb))
    axes = as_grid(grid)
    _require_arguments(make, list(axes.coordinates))
    _require_exact(axes)
    with contextlib.ExitStack() as stack:
        path, manifest = (None if store is None else Path(store)), None
        request = _request(job, axes)
        if path is not None:
            stack.enter_context(locked(path))
            manifest = known(path, request, chunk)
        fields = _fields(job, axes)
        require_names(axes, fields)
        size: int = chunk or (_default_chunk(axes, fields) if manifest is None else manifest["chunk"])
        _require_room(axes, fields, size, path)
        kept = None if path is None or manifest is None else planned(path, manifest)
        sent = parcel(job, leaves=executor is not None)
        run = functools.partial(computed, executor, functools.partial(work, sent))
        if kept:  # lanes are numbered by the store's order of the grid's names, which a call may give in another
            axes = Grid({name: axes.coordinates[name] for name in kept[0].coordinates})
        chosen = kept[1] if kept else _sorted(axes, size, fields, run)
        attrs = _attrs(job, axes, size)
        if path is None:
            results = Memory(chosen, fields)
        else:
            results = stack.enter_context(writing(path, request, axes, chosen, fields, attrs))
        _fill(results, axes, chosen, fields, run, progress, path)
        if isinstance(results, Memory):
            return of_memory(axes, chosen, fields, results, attrs)
    return open_sweep(Path(store or ""))


def _verbs(verb: Any) -> dict[str, Callable]:
    verbs = dict(verb) if isinstance(verb, Mapping) else {"": verb}
    for name, function in verbs.items():
        if not callable(function):
            raise ValueError(f"verb {name} must be a function (network, problem) ↦ result; got {function!r}.")
    if not verbs:
        raise ValueError("verb names no function; pass gflow.limit, or {'end': gflow.limit, …}.")
    return verbs


def _require_arguments(make: Callable, names: list[str]) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # of some callables there is none to be had
        return
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"make{signature} takes other names than those of the grid, {', '.join(names)}: {error}. Each name of the "
            "grid is an argument of make."
        ) from None


def _require_exact(grid: Grid) -> None:
    """Raises ValueError for values that `make` would not get, but others: of 64 bits where JAX has 32."""
    for name, c in grid.coordinates.items():
        if c.static:
            continue
        dtype = jax.dtypes.canonicalize_dtype(c.values.dtype)
        with np.errstate(over="ignore", under="ignore"):
            there = c.values.astype(dtype)
        same = there == c.values
        if c.values.dtype.kind in "fc":  # rounded they may be, and neither infinite nor zero
            same = (np.isfinite(there) == np.isfinite(c.values)) & ((there == 0) == (c.values == 0))
        if not same.all():
            raise ValueError(
                f"grid: {name!r} holds {c.values[~same][0]}, which {dtype} cannot. Call "
                'jax.config.update("jax_enable_x64", True) first, or leave it out.'
            )


def _request(job: Job, grid: Grid) -> dict[str, Any]:
    """What two calls must have in common to be the same sweep."""
    verbs = {f"verb {name}".rstrip(): fingerprint(verb) for name, verb in job.verbs.items()}
    axes = {f"grid {name}": fingerprint((c.dim, c.values)) for name, c in grid.coordinates.items()}
    return {**axes, "make": fingerprint(job.make), **verbs, "x64": x64(), **_versions()}


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("gflow", "jax", "jaxlib", "diffrax", "equinox", "optimistix", "lineax")}


def _attrs(job: Job, grid: Grid, chunk: int) -> dict[str, Any]:
    """What is needed to repeat a sweep, as plain text and numbers."""
    devices = jax.devices()
    return {
        **_versions(),
        "python": platform.python_version(),
        "device": f"{len(devices)} × {devices[0].device_kind}",
        "x64": int(x64()),
        "lanes": grid.lanes,
        "chunk": chunk,
        "make": _source(job.make),
        **{f"verb_{name}".rstrip("_"): _source(verb) for name, verb in job.verbs.items()},
    }


def _source(function: Any) -> str:
    """The text of one's own function, and the name of gflow's."""
    module = getattr(function, "__module__", "") or ""
    if module.split(".")[0] == "gflow" and hasattr(function, "__qualname__"):
        return (
            f"gflow.{function.__qualname__}"
            if not module.startswith("gflow.predict")
            else f"{module}.{function.__qualname__}"
        )
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return repr(function)


def _fields(job: Job, grid: Grid) -> Fields:
    """The variables, which all groups of lanes must share."""
    first: dict[str, Column] | None = None
    refusals = []
    for lanes in grid.groups():
        some = lanes[:: -(-len(lanes) // 8)]  # of which an eager verb must not refuse all in all groups
        static, coordinates = grid.at(some)
        try:
            found = described(job, static, coordinates, len(some))
        except Refusal as refusal:
            refusals.append(refusal)
            continue
        first = first or found
        there, here = ({n: (c.value.shape, str(c.value.dtype)) for n, c in f.items()} for f in (first, found))
        if there != here:
            differ = sorted(set(there.items()) ^ set(here.items()))[0][0]
            raise ValueError(
                f"lanes of one sweep must have the same variables; {differ} is {there.get(differ)} at first and "
                f"{here.get(differ)} at {static}. Let the verb return what all have, such as .coefficients."
            )
    if first is None:
        raise refusals[0]
    return first


def _bytes_a_lane(fields: Fields) -> int:
    return sum(int(np.prod(c.value.shape)) * c.value.dtype.itemsize for c in fields.values())


_SHARE = 8  # a chunk may fill an eighth of the memory: it is there twice, and XLA works on more than it returns


def _default_chunk(grid: Grid, fields: Fields) -> int:
    fits = max(1, _free_memory() // (_SHARE * _bytes_a_lane(fields)))
    smallest = min(map(len, grid.groups()))
    return min(grid.lanes, fits, max(32, min(4096, -(-smallest // _CHUNKS))))


# Of a group: the last lanes of each go on alone. Of 64 that takes half as long again, where a few cost much more.
_CHUNKS = 16


def _require_room(grid: Grid, fields: Fields, chunk: int, path: Path | None) -> None:
    """Raises ValueError for a sweep that will not fit, with the figures."""
    each, memory = _bytes_a_lane(fields), _free_memory()
    if each * chunk * _SHARE > memory and chunk > 1:
        raise ValueError(
            f"a chunk of {chunk} lanes makes {_human(each * chunk)}, more than 1/{_SHARE} of the {_human(memory)} of "
            f"free memory. Pass chunk={max(1, memory // (_SHARE * each))} or less, or let the verb return less "
            f"than the {_human(each)} of a lane."
        )
    free = memory if path is None else shutil.disk_usage(path).free
    if each * grid.lanes > free:
        where = "free memory: pass store=…, a directory" if path is None else f"{path}: pass a store with more room"
        raise ValueError(
            f"{grid.lanes} lanes of {_human(each)} make {_human(each * grid.lanes)}, and there are {_human(free)} of "
            f"{where}, or let the verb return less, such as the end of a path."
        )


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _human(size: int) -> str:
    power = min(max(len(str(size)) - 1, 0) // 3, 4)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


_WORTH = 8  # chunks of a group from which on a sample of one is worth its time


def _sorted(grid: Grid, chunk: int, fields: Fields, run: Callable) -> Plan:
    """The plan, by a sample of steps where there are any."""
    groups = grid.groups()
    counted = [name for name, c in fields.items() if name.split("_")[-1] == "steps" and c.value.shape == ()]
    if not counted or min(map(len, groups)) < _WORTH * chunk:
        return plan(grid, chunk)
    random = np.random.default_rng(0)
    sampled = [np.sort(random.choice(lanes, chunk, replace=False)) for lanes in groups]
    costs: list[Any] = [np.ones(chunk)] * len(groups)
    for i, columns in run(_tasks(grid, sampled, chunk)):
        if columns is not None:
            found = _complete(_checked(columns), fields, chunk)
            costs[i] = sum(found[name].astype(float) for name in counted)
    return plan(grid, chunk, zip(sampled, costs, strict=True))


def _tasks(grid: Grid, members: Iterable[np.ndarray], chunk: int) -> Iterator[tuple]:
    return ((*grid.at(lanes), len(lanes), chunk) for lanes in members)


def _checked(found: Any) -> dict[str, np.ndarray]:
    if isinstance(found, Failure):
        raise found.error
    return found


def _fill(
    results: Memory | Store, grid: Grid, chosen: Plan, fields: Fields, run: Callable, progress: bool, path: Path | None
) -> None:
    """Computes the chunks that are missing."""
    missing = [k for k in range(len(chosen)) if k not in results.done]
    there = grid.lanes - sum(len(chosen.lanes(k)) for k in missing)
    tasks = _tasks(grid, map(chosen.lanes, missing), chosen.chunk)
    left = 0
    with _bar(grid.lanes, there, progress) as bar:
        try:
            for i, found in run(tasks):
                k = missing[i]
                lanes = len(chosen.lanes(k))
                if found is None:
                    results.crash(k)
                    left += lanes
                else:
                    columns = _complete(_checked(found), fields, lanes)
                    results.write(k, columns)
                    left += int(np.sum(~_arrived(columns, fields)))
                bar.set_postfix_str(f"{left} not converged", refresh=False)
                bar.update(lanes)
        except (KeyboardInterrupt, Broken) as error:
            done = sum(len(chosen.lanes(k)) for k in results.done)
            kept = (
                f"are kept in {path}: the same call goes on from there"
                if path
                else "are lost: pass store=… to keep them"
            )
            raise type(error)(f"{error} {done} of {grid.lanes} lanes were done and {kept}.".strip()) from error


def _complete(columns: dict[str, np.ndarray], fields: Fields, lanes: int) -> dict[str, np.ndarray]:
    """With blanks for what is known of no lane, where all are refused."""
    full = {}
    for name, c in fields.items():
        value = columns.get(name)
        if value is None:
            value = np.full((lanes, *c.value.shape), blank_of(c), c.value.dtype)
        if value.shape != (lanes, *c.value.shape):
            raise ValueError(
                f"lanes of one sweep must have the same variables; {name} has shape {value.shape[1:]} in one chunk and "
                f"{c.value.shape} at first."
            )
        full[name] = value
    return full


def _arrived(columns: dict[str, np.ndarray], fields: Fields) -> np.ndarray:
    good = [int(jax.tree.leaves(status)[0]) for status in (Status.converged, Status.finished)]
    statuses = [values for name, values in columns.items() if is_status(fields[name].attrs)]
    return np.all([np.isin(status, good) for status in statuses], axis=0)


@contextlib.contextmanager
def _bar(lanes: int, done: int, progress: bool) -> Iterator[Any]:
    from tqdm.auto import tqdm

    quiet = None if progress else True  # None: off a terminal
    with tqdm(total=lanes, initial=done, unit=" lanes", unit_scale=True, disable=quiet, dynamic_ncols=True) as bar:
        yield bar
