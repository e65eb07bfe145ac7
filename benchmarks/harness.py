"""Rivals timed in turn, in one process, each with its error; and the record of it.

    contest("toy limits", {"lanes": 1000}, [Contender("gflow", run), Contender("SciPy", slow, lanes=some)], expected)

What is timed is the second call and later ones; the first, which compiles, stands apart. Records are kept in
benchmarks/records, one file for a workload and a device; `python benchmarks/report.py` makes tables and plots of them.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
UNKNOWN = np.zeros(0)  # the truth of a contender that there is none for
RECORDS = pathlib.Path(__file__).parent / "records"


@dataclasses.dataclass
class Contender:
    """`run` returns what is compared, one row a lane. A slow one does only some `lanes` of the workload; one that
    answers another question has a `truth` of its own."""

    name: str
    run: Callable[[], Any]
    lanes: Any = ...
    note: str = ""
    truth: Any = None


def contest(workload: str, sizes: dict, contenders: list[Contender], expected: Any, rounds: int = 7, patience=10.0):
    """Calls the contenders in turn, `rounds` times or for `patience` seconds each, and records and prints the outcome.

    Ratios are to the first contender, of the times of one lane, round by round. `expected` has a row for every lane;
    errors are relative to a row's norm, and NaN counts as unanswered.
    """
    expected = np.asarray(expected)
    found, first, times = {}, {}, {c.name: [] for c in contenders}
    for c in contenders:
        first[c.name], found[c.name] = timed(c.run)
    for _ in range(rounds):
        for c in contenders:
            if sum(times[c.name]) < patience:
                times[c.name].append(timed(c.run)[0])
    leader = contenders[0]
    rows = []
    for c in contenders:
        truth = expected[c.lanes] if c.truth is None else np.asarray(c.truth)
        errors = errors_of(found[c.name], truth) if truth is not UNKNOWN else UNKNOWN
        per_lane = np.array(times[c.name]) / len(expected[c.lanes])
        ratios = [b / a for a, b in zip(_per_lane(leader, times, expected), per_lane, strict=False)]
        row = {
            "contender": c.name,
            "lanes": len(expected[c.lanes]),
            "first": first[c.name],
            "seconds": float(np.median(times[c.name])),
            "low": float(np.quantile(times[c.name], 0.25)),
            "high": float(np.quantile(times[c.name], 0.75)),
            "rounds": len(times[c.name]),
            "ratio": float(np.median(ratios)),
            "error": float(np.nanmax(errors)) if np.isfinite(errors).any() else None,
            "median_error": float(np.nanmedian(errors)) if np.isfinite(errors).any() else None,
            "unanswered": int(np.isnan(errors).sum()),
            "note": c.note,
        }
        rows.append(row)
        print(line(workload, sizes, row), flush=True)
    keep(workload, sizes, rows)
    return rows


def errors_of(found: Any, expected: Any) -> np.ndarray:
    """Of each lane, relative to its norm. Of a tuple, each entry has all lanes."""
    expected = np.asarray(expected)
    expected = expected.reshape(len(expected), -1)
    found = np.stack(found, axis=-1) if isinstance(found, tuple) else np.asarray(found, float)
    found = found.reshape(expected.shape)
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


def _per_lane(c: Contender, times: dict, expected: np.ndarray) -> np.ndarray:
    return np.array(times[c.name]) / len(expected[c.lanes])


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call, waited for."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def line(workload: str, sizes: dict, row: dict) -> str:
    size = ", ".join(f"{k} {v}" for k, v in sizes.items())
    error = "-" if row["error"] is None else f"{row['error']:.0e}"
    spread = (row["high"] - row["low"]) / 2 / row["seconds"]
    return (
        f"{workload} ({size}): {row['contender']:34s} {row['seconds'] / row['lanes']:9.2e} s a lane ±{spread:3.0%}, "
        f"{row['ratio']:8.2f} ×, error {error}, first call {row['first']:.1f} s"
        + (f", {row['unanswered']} of {row['lanes']} unanswered" if row["unanswered"] else "")
    )


def keep(workload: str, sizes: dict, rows: list[dict]) -> None:
    """Adds rows to the workload's record on this device, in the place of those of the same sizes."""
    RECORDS.mkdir(exist_ok=True)
    device = jax.devices()[0].device_kind
    device = device if jax.default_backend() != "cpu" else _cpu()
    path = RECORDS / f"{_slug(workload)}.{_slug(device)}.json"
    old = json.loads(path.read_text())["entries"] if path.exists() else []
    entry = {"sizes": sizes, "date": datetime.date.today().isoformat(), "versions": versions(), "rows": rows}
    entries = [e for e in old if e["sizes"] != sizes] + [entry]
    record = {"workload": workload, "device": device, "cores": os.cpu_count(), "dtype": "float64", "entries": entries}
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(record, indent=1) + "\n")
    scratch.replace(path)


def versions() -> dict[str, str]:
    names = ("jax", "diffrax", "scipy", "numpy", "cvxpy", "torchdiffeq", "torch")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def loosest(make: Callable[[float], Callable[[], Any]], expected: Any, target: float, rtols: Iterable[float]):
    """(rtol, call): the first call of `make(rtol)` whose errors are all within `target`, or else the last."""
    for rtol in rtols:
        call = make(rtol)
        if np.all(errors_of(call(), expected) <= target):
            break
    return rtol, call


def peak(size: int = 2048, length: int = 2**26) -> dict[str, float]:
    """What the machine does at its best: 1e9 operations a second of a matrix product, 1e9 bytes of a copy."""
    A, v = jnp.ones((size, size)), jnp.ones(length)
    product, copy = jax.jit(lambda A: A @ A), jax.jit(lambda v: v + 1)
    seconds = {}
    for name, run in (("product", lambda: product(A)), ("copy", lambda: copy(v))):
        timed(run)
        seconds[name] = min(timed(run)[0] for _ in range(5))
    return {"GFLOP/s": 2e-9 * size**3 / seconds["product"], "GB/s": 16e-9 * length / seconds["copy"]}


def growth(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """The exponent p of seconds ~ size^p, by least squares."""
    return float(np.polyfit(np.log(np.asarray(list(sizes))), np.log(np.asarray(list(seconds))), 1)[0])


def missing(package: str) -> bool:
    """Whether an optional rival is not installed, which is said."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        print(f"{package} is not installed: left out")
        return True
    return False


def _cpu() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
