"""One chunk of lanes, computed wherever it lands: here, in another process, on another machine."""

import dataclasses
import functools
import os
import pickle
import platform
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from ..predict import Refusal
from .columns import REFUSED, Column, Eager, arrays, as_verb, columns, refused
from .fingerprint import fingerprint
from .retiring import retiring_map

# Lanes that a CPU has side by side: of the paper's toys 256 at a time are twice as fast as 64, four times as fast as
# 16, and twice as fast as 20,000 (benchmarks/sweeps.py). Other devices have all lanes of a chunk.
GROUP = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What is done to each lane. `verbs` by name; of several the names lead those of the variables.

    Two jobs of the same functions are equal, as functions are to `jax.jit`.
    """

    make: Callable[..., Any]
    verbs: Mapping[str, Callable]

    def _key(self) -> tuple:
        return id(self.make), *((name, id(verb)) for name, verb in self.verbs.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclasses.dataclass(frozen=True)
class Parcel:
    """A job on its way, pickled unless it stays here; a digest of all that it names, since globals may change; the
    dtype and cache that its caller has, and where that is."""

    job: Job | bytes
    digest: str
    x64: bool
    cache: str | None
    home: tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error that the job itself raised, as data: an exception of the future is then one of the executor."""

    error: Exception


def parcel(job: Job, leaves: bool) -> Parcel:
    import cloudpickle

    digest = fingerprint((job.make, job.verbs))
    return Parcel(cloudpickle.dumps(job) if leaves else job, digest, x64(), _cache(), _here())


def x64() -> bool:
    return bool(getattr(jax.config, "jax_enable_x64"))  # noqa: B009 (which type checkers do not know)


def _cache() -> str | None:
    return getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009


def work(parcel: Parcel, static: dict[str, Any], coordinates: dict[str, np.ndarray], lanes: int, chunk: int) -> Any:
    """The columns of a chunk's lanes, or a `Failure`."""
    with _ONE_AT_A_TIME:
        _configure(parcel)
        try:
            return _runner(parcel.job, parcel.digest)(static, coordinates | {_LANE: np.arange(lanes)}, chunk)
        except Exception as error:
            return Failure(_picklable(error))


# Chunks that run at a time in threads of one process would share its threads for linear algebra: gflow._order.
_ONE_AT_A_TIME = threading.Lock()


_LANE = ""  # the name of one more coordinate, the lane's number in its chunk: all others may be static


def _here() -> tuple[str, int]:
    return platform.node(), os.getpid()


def _configure(parcel: Parcel) -> None:
    """Sets up a process of workers, and never the caller's own."""
    if parcel.home == _here():
        return
    jax.config.update("jax_enable_x64", parcel.x64)
    if parcel.cache is not None and _cache() is None:
        jax.config.update("jax_compilation_cache_dir", parcel.cache)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@functools.lru_cache(maxsize=8)
def _runner(job: Job | bytes, digest: str) -> "Runner":
    del digest  # by which the cache tells
    return Runner(pickle.loads(job) if isinstance(job, bytes) else job)


class Runner:
    """Runs chunks of one job, and keeps its programs: one for each verb and each group of static coordinates."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._programs: dict[Any, Callable] = {}
        self._largest: dict[Any, int] = {}  # so many lanes have been found to fit the memory

    def __call__(self, static: dict[str, Any], coordinates: dict[str, np.ndarray], chunk: int) -> dict[str, np.ndarray]:
        found, group = {}, fingerprint(static)  # 1 and True are equal, and not the same
        for name, verb in self.job.verbs.items():
            verb, key = as_verb(verb), (name, group)
            if isinstance(verb, Eager):
                result = _eagerly(
                    verb,
                    self._program(key, lambda: eqx.filter_jit(functools.partial(_made, self.job, static))),
                    coordinates,
                )
            else:
                program = self._program(key, lambda verb=verb: _program(self.job, verb, static))
                result = self._in_pieces(key, program, coordinates, chunk)
            found |= prefixed(name, result)
        return found

    def _program(self, key: Any, make: Callable[[], Callable]) -> Callable:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]

    def _in_pieces(
        self, key: Any, program: Callable, coordinates: dict[str, np.ndarray], chunk: int
    ) -> dict[str, np.ndarray]:
        """The chunk as a whole, or where that does not fit the memory by halves, quarters, …"""
        lanes = len(coordinates[_LANE])
        width = self._largest.get(key, chunk)
        try:
            pieces = [
                _padded(
                    program, jax.tree.map(lambda v, i=i: v[i : i + width], coordinates), min(width, lanes - i), width
                )
                for i in range(0, lanes, width)
            ]
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if width == 1 or not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            self._largest[key] = -(-width // 2)
            return self._in_pieces(key, program, coordinates, chunk)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)


def prefixed(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a verb, of several that have names."""
    return {f"{name}_{key}" if name else key: value for key, value in found.items()}


def lane(job: Job, verb: Callable, static: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Column]]:
    """What is done to one lane's coordinates."""
    return lambda coordinates: columns(verb(*_made(job, static, coordinates)))


def _made(job: Job, static: dict[str, Any], coordinates: dict[str, Any]) -> Any:
    made = job.make(**static, **{name: v for name, v in coordinates.items() if name != _LANE})
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ValueError(f"make must return (network, problem); got {made!r:.200}.")
    return made


def _program(job: Job, verb: Callable, static: dict[str, Any]) -> Callable:
    """All lanes of a chunk, on every local device by itself."""
    devices = jax.local_devices()

    def one(coordinates: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return arrays(lane(job, verb, static)(coordinates))

    @jax.jit
    def lanes(coordinates: dict[str, jax.Array]) -> dict[str, jax.Array]:
        count = len(coordinates[_LANE])
        return retiring_map(one, coordinates, _group(count) if devices[0].platform == "cpu" else count)

    return lanes if len(devices) == 1 else _on_each(devices, lanes)


def _on_each(devices: list[Any], lanes: Any) -> Callable:
    """`lanes` of an equal share on every device; what is sharded is a program that is traced already, since lineax (as
    of 0.1) takes arrays under a `shard_map` for ones of another structure."""
    mesh, spec = jax.sharding.Mesh(np.array(devices), ("lanes",)), jax.sharding.PartitionSpec("lanes")

    @functools.lru_cache(maxsize=4)
    def program(structure: Any, shapes: tuple) -> Callable:
        share = [jax.ShapeDtypeStruct((shape[0] // len(devices), *shape[1:]), dtype) for shape, dtype in shapes]
        call = jax.export.export(lanes)(jax.tree.unflatten(structure, share)).call
        return jax.jit(jax.shard_map(call, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))

    def on_each(coordinates: dict[str, jax.Array]) -> dict[str, jax.Array]:
        leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, coordinates))
        return program(structure, tuple((v.shape, v.dtype) for v in leaves))(coordinates)

    return on_each


def _group(lanes: int) -> int:
    """Lanes in a group: at most `GROUP`, of almost equal sizes."""
    return -(-lanes // -(-lanes // GROUP))


def _padded(program: Callable, coordinates: dict[str, np.ndarray], lanes: int, width: int) -> dict[str, np.ndarray]:
    """The results of a piece whose last lane is repeated up to `width`, and on to what devices and groups divide."""
    devices = jax.local_device_count()
    each = -(-width // devices)
    rows = devices * (-(-each // _group(each)) * _group(each))
    found = program({name: v[np.minimum(np.arange(rows), lanes - 1)] for name, v in coordinates.items()})
    return {name: np.asarray(v)[:lanes] for name, v in jax.device_get(found).items()}


def _eagerly(verb: Eager, made: Callable, coordinates: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Lane by lane. Of a chunk of which every lane is refused only the status is known."""
    rows = []
    for i in range(len(coordinates[_LANE])):
        network, problem = made({name: jnp.asarray(v[i]) for name, v in coordinates.items()})
        try:
            rows.append(columns(verb(network, problem)))
        except Refusal:
            rows.append(None)
    some = next((row for row in rows if row is not None), None)
    if some is None:
        return {"status": np.full(len(rows), REFUSED, np.int8)}
    rows = [refused(some) if row is None else arrays(row) for row in rows]
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in some}


_TRACED = (
    "gflow.sweep traces make and verb, so they must be pure JAX and cannot look at values: random numbers are those of "
    "jax.random.key(seed), a coordinate of dtype object reaches make as it is, and a verb that looks at values is "
    "gflow.Eager(verb)."
)


def described(job: Job, static: dict[str, Any], coordinates: dict[str, np.ndarray], lanes: int) -> dict[str, Column]:
    """The columns that lanes of a group will have, with shapes and dtypes for values. Only eager verbs are called.

    **Raises** the refusal of an eager verb that refuses all lanes that are given.
    """
    found = {}
    for name, verb in job.verbs.items():
        verb = as_verb(verb)
        one = lane(job, verb, static)
        rows = ({name: jnp.asarray(v[i]) for name, v in coordinates.items()} for i in range(lanes))
        if isinstance(verb, Eager):
            result = _first_not_refused(one, rows)
        else:  # as pairs, since JAX sorts what is a dictionary
            try:
                result = dict(eqx.filter_eval_shape(lambda row, one=one: tuple(one(row).items()), next(rows)))
            except TypeError as error:
                error.add_note(_TRACED)
                raise
        shapes = prefixed(name, {key: column._replace(value=_shape(column.value)) for key, column in result.items()})
        if twice := sorted({*found} & {*shapes}):
            raise ValueError(f"two verbs have a variable {twice[0]!r}: call them by other names, which lead it.")
        found |= shapes
    return found


def _first_not_refused(one: Callable, rows: Iterable[dict[str, Any]]) -> dict[str, Column]:
    refusals = []
    for row in rows:
        try:
            return one(row)
        except Refusal as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _shape(value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(value), value.dtype)
