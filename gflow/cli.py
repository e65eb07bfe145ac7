"""The command line."""

import csv
import io
import json
import math
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@click.group()
@click.version_option(package_name="gflow")
def main() -> None:
    """Gradient flow of linear networks, where it ends, and what theory predicts."""


@main.command(short_help="Run the experiments of the paper's section 6.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder for the figures and tables; made if missing.",
)
def reproduce(out: Path) -> None:
    """Run the experiments of Yun et al. 2021, section 6.

    Each of 72 runs is done three ways, by gradient descent, by exact gradient flow and by the theory,
    and the three are compared. Writes figure_1 and figure_2 (PNG and PDF) and runs (CSV and JSON), and keeps the two
    sweeps beside them; takes a minute or two. A run that was interrupted goes on where it ended. Ends with status 1 if
    the three disagree.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    from . import plot
    from .experiments import section_6

    _writable(out)
    runs = []
    try:
        for task in section_6.tasks():
            click.echo(f"The {task.name}: 36 starts by descent, by flow and by theory", err=True)
            runs += section_6.experiment(task, store=out / task.name)
    except (KeyboardInterrupt, ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    rows = [run.row() for run in runs]
    write(out / "runs.csv", _csv(rows))
    write(out / "runs.json", _json(rows))
    figures = {
        "figure_1": plot.section_6_figure(runs, [("regression", 0.01), ("regression", 1.0)], columns=2),
        "figure_2": plot.section_6_figure(
            runs, [("regression", 0.5), *(("classification", alpha) for alpha in section_6.SCALES)], columns=2
        ),
    }
    for name, figure in figures.items():
        for kind in ("png", "pdf"):
            write(out / f"{name}.{kind}", _image(figure, kind))
    click.echo(_table(rows))
    click.echo(f"Figures and tables are in {out}{os.sep}")
    click.echo(f"{section_6.WHAT_TO_LOOK_AT}\n\n{section_6.findings(runs)}\n{section_6.verdict(runs)}")
    sys.exit(0 if all(run.agrees for run in runs) else 1)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command(short_help="Run the sweep that a TOML file describes, or go on with it.")
@click.argument("file", type=_FILE)
def sweep(file: Path) -> None:
    """Run the sweep that FILE.toml describes. A sweep that was interrupted goes on where it ended.

    \b
    make = "mine.py:make"        # make(**coordinates) -> (network, problem), in a file beside this one
    verb = "limit"               # flow, limit, predict, compare, "mine.py:function", or a list of them
    store = "ends"               # the directory of the results
    processes = 2                # optional: worker processes
    chunk = 1024                 # optional: lanes that are computed together
    [grid]
    alpha = { logspace = [-4, 1, 100] }
    seed = { arange = [20] }
    width = [1.0, 2.0]
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    import concurrent.futures
    import functools
    import multiprocessing
    import tomllib

    from ._sweep import sweep as run
    from ._sweep.engine import end_with_parent

    try:
        asked = tomllib.loads(file.read_text(encoding="utf-8"))
        unknown = set(asked) - {"make", "verb", "store", "processes", "chunk", "grid"}
        missing = {"make", "verb", "store", "grid"} - set(asked)
        if unknown or missing:
            raise ValueError(
                f"it must name make, verb, store and grid; {', '.join(sorted(unknown or missing))} "
                f"{'is not known' if unknown else 'is missing'}."
            )
        verbs = asked["verb"] if isinstance(asked["verb"], list) else [asked["verb"]]
        found = {name.rpartition(":")[2]: _function(file.parent, name) for name in verbs}
        grid = {name: _axis(axis) for name, axis in asked["grid"].items()}
        pool = functools.partial(
            concurrent.futures.ProcessPoolExecutor,
            asked.get("processes"),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=end_with_parent,  # also of workers that no task has reached
        )
        run(
            _function(file.parent, asked["make"]),
            found if len(found) > 1 else next(iter(found.values())),
            grid,
            chunk=asked.get("chunk"),
            store=file.parent / asked["store"],
            executor=pool if "processes" in asked else None,
        )
    except (ValueError, OSError, RuntimeError, TypeError, KeyboardInterrupt) as error:
        notes = (note for note in getattr(error, "__notes__", []) if "gflow" in note)  # and none of JAX's
        said = " ".join(" ".join([str(error), *notes]).split())
        raise click.ClickException(f"{_place(error, file.parent) or file}: {said or type(error).__name__}") from error
    click.echo(f"Done: {file.parent / asked['store']}. Look at it by gflow show, or gflow.open_sweep.")


def _place(error: BaseException, folder: Path) -> str:
    """Where in a file of one's own, beside the TOML, it was raised."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve().parent == folder.resolve()
    ]
    return f"{folder / Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def _function(folder: Path, name: str) -> Any:
    """A verb of gflow's, or "file.py:function"."""
    import runpy

    from . import predict
    from ._compare import compare
    from ._flow import flow
    from ._limit import limit

    known = {"flow": flow, "limit": limit, "predict": predict.limit, "compare": compare}
    file, colon, function = name.rpartition(":")
    if not colon:
        if name not in known:
            raise ValueError(f'{name!r} is none of {", ".join(known)}, nor a function as "mine.py:{name}".')
        return known[name]
    found = runpy.run_path(str(folder / file))
    if not callable(found.get(function)):
        raise ValueError(f"{file} has no function {function!r}.")
    return found[function]


def _axis(axis: Any) -> Any:
    """Values, or a table of one of numpy's ranges and its arguments."""
    import numpy as np

    ranges = {"logspace": np.logspace, "geomspace": np.geomspace, "linspace": np.linspace, "arange": np.arange}
    if not isinstance(axis, dict):
        return axis
    if len(axis) != 1 or not set(axis) <= set(ranges):
        raise ValueError(f"an axis is a list of values, or a table such as {{ logspace = [-4, 1, 100] }}; got {axis}.")
    ((name, arguments),) = axis.items()
    return ranges[name](*arguments)


@main.command(short_help="Summarise a sweep's directory, and draw it.")
@click.argument("store", type=click.Path(file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File for the figure, such as sweep.png.")
def show(store: Path, out: Path | None) -> None:
    """Print what the directory STORE of a sweep holds, finished or not, and draw it with --out."""
    import numpy as np

    from ._sweep import open_sweep
    from ._sweep.columns import is_status

    try:
        found = open_sweep(store)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    along: dict[Any, list[str]] = {}
    for name, c in found.coords.items():
        along.setdefault(c.dims[0], []).append(str(name))
    sizes = " × ".join(f"{found.sizes[dim]} {', '.join(names)}" for dim, names in along.items())
    click.echo(f"{found.attrs['lanes']} lanes: {sizes}, gflow {found.attrs['gflow']}, {found.attrs['device']}")
    for name, variable in found.data_vars.items():
        if is_status(variable.attrs):
            labels = dict(zip(variable.attrs["flag_values"], variable.attrs["flag_meanings"].split(), strict=True))
            codes, counts = np.unique(variable.values, return_counts=True)
            counted = (f"{count} {labels[code].replace('_', ' ')}" for code, count in zip(codes, counts, strict=True))
            click.echo(f"{name:24} {', '.join(counted)}")
        elif variable.dtype.kind == "f" and np.isfinite(variable.values).any():
            values = variable.values[np.isfinite(variable.values)]
            click.echo(f"{name:24} from {values.min():.4g} to {values.max():.4g}, median {np.median(values):.4g}")
    if out is not None:
        from . import plot

        write(out, _image(plot.sweep_figure(found), out.suffix.lstrip(".")))
        click.echo(f"The figure is {out}.")


def _writable(out: Path) -> None:
    """Makes the folder now, so that a wrong path is reported before the work and not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise click.ClickException(
            f"Cannot write to {out}: {error.strerror}. Pass another folder with --out."
        ) from error


def write(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside `path`, then renames it: no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _image(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200)
    return buffer.getvalue()


def _json(rows: list[dict[str, Any]]) -> bytes:
    """JSON has no infinities and no NaN: they become null."""

    def value(v: Any) -> Any:
        return None if isinstance(v, float) and not math.isfinite(v) else v

    table = [{name: value(v) for name, v in row.items()} for row in rows]
    return json.dumps(table, indent=1, allow_nan=False).encode()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return buffer.getvalue().encode()


def _table(rows: list[dict[str, Any]]) -> str:
    """The runs as lines of at most 120 characters."""

    def pair(row: dict[str, Any], name: str) -> str:
        return f"{row[f'{name}_1']:10.4g} {row[f'{name}_2']:10.4g}"

    head = (
        f"{'network':15} {'α':>4} {'z':>1} {'descent ends at':>21} {'flow ends at':>21} "
        f"{'flow err':>8} {'desc err':>8} {'apart':>8} {'desc log':>8} {'flow log':>10}  flow"
    )
    lines = []
    for task, error in (
        ("regression", "relative distance to the predicted point"),
        ("classification", "angle to the predicted direction"),
    ):
        lines += ["", f"{task.capitalize()} (err: {error}; apart: descent and flow at equal time)", head]
        lines += [
            f"{row['network']:15} {row['alpha']:4g} {row['direction']:1d} "
            f"{pair(row, 'descent_end')} {pair(row, 'flow_end')} "
            f"{row['flow_error']:8.1e} {row['descent_error']:8.1e} {row['descent_to_flow']:8.1e} "
            f"{row['descent_log_loss']:8.2f} {row['flow_log_loss']:10.4g}  {row['flow_status']}"
            for row in rows
            if row["task"] == task
        ]
    return "\n".join([*lines, ""])
