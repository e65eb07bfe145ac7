"""What has been computed: in memory, or in a directory that no crash can spoil.

    sweep.json     what was asked for, and the digests of the next two
    plan.npz       the grid's coordinates and the order of its lanes
    data/          a zarr group: one chunk of lanes is one chunk of each variable
    ledger         a line for every chunk that is there, written after its data are on disk
    lock           held by the one process that writes

The ledger decides what exists: zarr reads a chunk that is missing as fill values. Each line and `sweep.json` end with
their own checksum, and a line holds those of its chunk's files; so that whatever is altered or cut is found.
"""

import contextlib
import hashlib
import io
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .columns import Column, blank
from .grid import Coordinate, Grid, Plan

Fields = Mapping[str, Column]  # with shapes and dtypes for values


class Memory:
    """Columns of a sweep that is not kept, in the grid's order; blank for lanes without a result."""

    def __init__(self, plan: Plan, fields: Fields) -> None:
        self.plan = plan
        self.done, self.crashed = set[int](), set[int]()
        self.columns = {
            name: np.full((len(plan.order), *c.value.shape), blank(c.value.dtype), c.value.dtype)
            for name, c in fields.items()
        }

    def write(self, k: int, columns: dict[str, np.ndarray]) -> None:
        for name, column in self.columns.items():
            column[self.plan.lanes(k)] = columns[name]
        self.done.add(k)

    def crash(self, k: int) -> None:
        self.crashed.add(k)


class Damaged(UserWarning):
    """Files of a store are not what was written: their chunks count as not computed."""


class Store:
    """A directory that is being written. Open it by `writing`."""

    def __init__(self, path: Path, plan: Plan, fields: Fields, key: str) -> None:
        import zarr

        self.path, self.plan, self.fields, self._key = path, plan, fields, key
        config: Any = {"write_empty_chunks": True}  # of nothing but fill values, which are results too
        self._arrays = {
            name: zarr.open_array(path / "data" / name, mode="r+", zarr_format=3).with_config(config) for name in fields
        }
        self.crashed = set[int]()
        entries, damaged = _intact(path, key)
        self.done = set(entries)
        _warn(path, damaged, "their chunks are computed again")
        kept = [_line({"key": key, "chunk": k, "files": entries[k]}) for k in sorted(self.done)]
        _replace(path / "ledger", b"".join(kept))
        self._ledger = open(path / "ledger", "ab")  # noqa: SIM115 (closed by `writing`)
        self._writers = ThreadPoolExecutor(8)  # which wait for the disk at the same time

    def close(self) -> None:
        self._writers.shutdown()
        self._ledger.close()

    def write(self, k: int, columns: dict[str, np.ndarray]) -> None:
        files = dict(self._writers.map(lambda name: self._write(k, name, columns[name]), self._arrays))
        self._append({"key": self._key, "chunk": k, "files": files})
        self.done.add(k)

    def _write(self, k: int, name: str, values: np.ndarray) -> tuple[str, list[int]]:
        """Puts a variable's chunk on disk: its file's name, size and checksum."""
        chunk, folder = self.plan.chunk, self.path / "data" / name
        self._arrays[name][k * chunk : (k + 1) * chunk] = _filled(values, chunk)
        file = folder / ".".join(str(i) for i in (k, *[0] * (values.ndim - 1)))
        _sync(file)
        _sync(folder)
        return str(file.relative_to(self.path)), _size_and_checksum(file)

    def crash(self, k: int) -> None:
        self._append({"key": self._key, "chunk": k, "files": None})
        self.crashed.add(k)

    def _append(self, entry: dict[str, Any]) -> None:
        self._ledger.write(_line(entry))
        self._ledger.flush()
        os.fsync(self._ledger.fileno())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a store for writing: until the process ends, however it does.

    **Raises** ValueError where another process does.
    """
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"{path} is being written by another process. Wait for it, stop it, or pass another store; "
                "gflow.open_sweep reads it meanwhile."
            ) from None
        yield


_OURS = {"lock", "sweep.json", "plan.npz", "data", "ledger"}


def known(path: Path, request: dict[str, Any], chunk: int | None) -> dict[str, Any] | None:
    """The manifest of the store that is there; None where there is none, or none that is whole.

    **Raises** ValueError for a store of another sweep, with the key that differs, and for files that are none of ours.
    """
    others = sorted(file.name for file in path.iterdir() if file.name not in _OURS and not file.name.startswith("."))
    if others and not (path / "sweep.json").exists():
        raise ValueError(f"{path} holds {others[0]!r} and no sweep. Pass an empty or a new directory as store.")
    manifest = _read_manifest(path)
    if manifest is None:
        if (path / "sweep.json").exists():
            _warn(path, ["sweep.json"], "it is written again")
        return None
    before = manifest["request"] | {"chunk": manifest["chunk"]}
    request = request | {"chunk": manifest["chunk"] if chunk is None else chunk}
    for name in {**request, **before}:
        there, here = before.get(name), request.get(name)
        if there != here:
            digests = all(isinstance(value, str) and len(value) == 64 for value in (there, here))
            differs = "is not the same" if digests else f"is {_brief(there)} there and {_brief(here)} here"
            raise ValueError(
                f"{path} holds another sweep: {name} {differs}. Pass another store, or call with what it was made with."
            )
    return manifest


def planned(path: Path, manifest: dict[str, Any]) -> tuple[Grid, Plan] | None:
    """The grid and the plan of a store, None if they are not as they were written."""
    content = (path / "plan.npz").read_bytes() if (path / "plan.npz").exists() else b""
    if _digest(content) != manifest["digests"]["plan.npz"]:
        return None
    found = np.load(io.BytesIO(content), allow_pickle=False)
    coordinates = {}
    for file in found.files:  # in the grid's order, by which lanes are numbered; sweep.json has names sorted
        if file.startswith("coordinate "):
            name, values = file.removeprefix("coordinate "), found[file]
            c = manifest["coordinates"][name]
            coordinates[name] = Coordinate(c["dim"], values, c["attrs"])
    return Grid(coordinates), Plan(found["order"], tuple(manifest["sizes"]), manifest["chunk"])


@contextlib.contextmanager
def writing(
    path: Path, request: dict[str, Any], grid: Grid, plan: Plan, fields: Fields, attrs: dict[str, Any]
) -> Iterator[Store]:
    """The store, made or repaired. It must be `locked`, and what it is `known` to hold be the same sweep."""
    key = _described(path, request, grid, plan, fields, attrs)
    store = Store(path, plan, fields, key)
    try:
        yield store
    finally:
        store.close()


def _described(
    path: Path, request: dict[str, Any], grid: Grid, plan: Plan, fields: Fields, attrs: dict[str, Any]
) -> str:
    """Writes what describes a sweep wherever it is not there as it should be; the key of the ledger's lines."""
    before = _read_manifest(path)
    content = _plan_bytes(grid, plan)
    metadata = _metadata(plan, fields)
    key = _digest(json.dumps([request, plan.chunk, _digest(content)], sort_keys=True).encode())[:16]
    if before is not None:
        for name, digest in before["digests"].items():
            if not (path / name).exists() or _digest((path / name).read_bytes()) != digest:
                _warn(path, [name], "it is written again")
        if before["key"] != key and (path / "ledger").exists():
            _warn(path, ["plan.npz"], "lanes are in another order now: all are computed again")
            _replace(path / "ledger", b"")
    elif any(entry["key"] != key for entry in _lines(path)[0]):
        raise ValueError(
            f"{path} has a ledger of another sweep, or lanes in another order, and sweep.json, which would tell, is "
            "gone. Pass another store."
        )
    digests = {"plan.npz": _digest(content)} | {f"data/{name}": _digest(v) for name, v in metadata.items()}
    for name, value in ({"plan.npz": content} | {f"data/{n}": v for n, v in metadata.items()}).items():
        if not (path / name).exists() or (path / name).read_bytes() != value:
            _replace(path / name, value)
    manifest = {
        "format": 1,
        "key": key,
        "request": request,
        "coordinates": {name: {"dim": c.dim, "attrs": c.attrs} for name, c in grid.coordinates.items()},
        "sizes": list(plan.sizes),
        "chunk": plan.chunk,
        "attrs": attrs,
        "fields": {name: {"dims": list(c.dims), "attrs": dict(c.attrs)} for name, c in fields.items()},
        "digests": digests,
    }
    _replace(path / "sweep.json", _line(manifest))
    return key


def reading(path: Path) -> tuple[dict[str, Any], Grid, Plan, set[int], set[int]]:
    """Manifest, grid, plan, chunks that are there and chunks that crashed.

    **Raises** ValueError where there is no store, or what describes it is damaged.
    """
    if not (path / "sweep.json").exists():
        begun = " or wait until the sweep that has begun there writes it" if (path / "lock").exists() else ""
        raise ValueError(f"{path} holds no sweep: it has no sweep.json. Pass the directory given as store{begun}.")
    manifest = _read_manifest(path)
    spoiled = ["sweep.json"] if manifest is None else []
    for name, digest in (manifest or {"digests": {}})["digests"].items():
        if not (path / name).exists() or _digest((path / name).read_bytes()) != digest:
            spoiled.append(name)
    found = None if spoiled or manifest is None else planned(path, manifest)
    if manifest is None or found is None:
        raise ValueError(
            f"{path}: {', '.join(spoiled)} is not what was written. The call of gflow.sweep that made the store "
            "writes it again."
        )
    entries, damaged = _intact(path, manifest["key"])
    crashed = {entry["chunk"] for entry in _lines(path)[0] if entry["files"] is None}
    done = set(entries)
    _warn(path, damaged, "their lanes count as not computed")
    return manifest, *found, done, crashed - done


def _metadata(plan: Plan, fields: Fields) -> dict[str, bytes]:
    """What zarr writes into a new group, by the names of its files."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(files), zarr_format=3)
    for name, c in fields.items():
        group.create_array(
            name,
            shape=(plan.rows, *c.value.shape),
            chunks=(plan.chunk, *c.value.shape),
            dtype=c.value.dtype,
            fill_value=blank(c.value.dtype),
            compressors=(ZstdCodec(level=1), Crc32cCodec()),
            chunk_key_encoding={"name": "v2", "separator": "."},  # one directory a variable
            dimension_names=["lane", *dims_of(name, c)],
        )
    return {name: value.to_bytes() for name, value in files.items()}


def dims_of(name: str, column: Column) -> list[str]:
    """Names of a variable's axes after that of the lanes."""
    if len(column.dims) == len(column.value.shape):
        return [*column.dims]
    return [f"{name}_{i}" for i in range(len(column.value.shape))]


def _plan_bytes(grid: Grid, plan: Plan) -> bytes:
    buffer = io.BytesIO()
    values: dict[str, Any] = {f"coordinate {name}": c.labels for name, c in grid.coordinates.items()}
    np.savez(buffer, order=plan.order, **values)
    return buffer.getvalue()


def _filled(values: np.ndarray, rows: int) -> np.ndarray:
    short = rows - len(values)
    return np.concatenate([values, np.full((short, *values.shape[1:]), blank(values.dtype), values.dtype)])


def _intact(path: Path, key: str) -> tuple[dict[int, dict[str, list[int]]], list[str]]:
    """The files of each chunk that is as it was written, and what else is damaged."""
    lines, damaged = _lines(path)
    entries = {entry["chunk"]: entry["files"] for entry in lines if entry["key"] == key and entry["files"] is not None}
    for k, files in list(entries.items()):
        bad = [name for name, seen in files.items() if _size_and_checksum(path / name) != seen]
        damaged += bad
        if bad:
            del entries[k]
    return entries, damaged


def _lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The ledger's lines, and those that are damaged. A last line that is cut is none of them: that is how a process
    ends that is killed."""
    if not (path / "ledger").exists():
        return [], []
    *whole, rest = (path / "ledger").read_bytes().split(b"\n")
    del rest  # empty, or cut
    parsed = [_parse(line) for line in whole]
    damaged = [f"line {i + 1} of the ledger" for i, entry in enumerate(parsed) if entry is None]
    return [entry for entry in parsed if entry is not None], damaged


def _read_manifest(path: Path) -> dict[str, Any] | None:
    if not (path / "sweep.json").exists():
        return None
    content = (path / "sweep.json").read_bytes()
    return _parse(content[:-1]) if content.endswith(b"\n") else None


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, sort_keys=True).encode()
    return text + b" " + f"{zlib.crc32(text):08x}".encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    text, _, checksum = line.rpartition(b" ")
    return json.loads(text) if checksum == f"{zlib.crc32(text):08x}".encode() else None


def _size_and_checksum(file: Path) -> list[int]:
    content = file.read_bytes() if file.exists() else b""
    return [len(content), zlib.crc32(content)]


def _warn(path: Path, damaged: list[str], what_follows: str) -> None:
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        warnings.warn(
            f"{path}: {', '.join(damaged[:3])}{more} is not what was written; {what_follows}.", Damaged, stacklevel=4
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:12]}…"


def _replace(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all, and on disk before anything that is written later."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_bytes(content)
    _sync(temporary)
    temporary.replace(file)
    _sync(file.parent)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
