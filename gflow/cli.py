"""The command line."""

import csv
import io
import json
import math
import os
import sys
import tempfile
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
    and the three are compared. Writes figure_1 and figure_2 (PNG and PDF) and runs (CSV and JSON); takes
    a minute or two. Ends with status 1 if the three disagree.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    from tqdm import tqdm

    from . import plot
    from .experiments import section_6

    _writable(out)
    batches = [(task, name) for task in section_6.tasks() for name in section_6.NETWORKS]
    runs = []
    try:
        with tqdm(batches, unit="batch of 12 runs") as progress:
            for task, name in progress:
                progress.set_description(f"{task.name}, {name}")
                runs += section_6.experiment(task, name)
                _write_tables(out, [run.row() for run in runs])  # so that an interrupt loses no batch that is done
    except KeyboardInterrupt:
        raise click.ClickException(
            f"Interrupted. The {len(runs)} runs that were done are in {out}{os.sep}runs.csv and runs.json; run the "
            "command again for all of them."
        ) from None
    rows = [run.row() for run in runs]
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
    click.echo(section_6.verdict(runs))
    sys.exit(0 if all(run.agrees for run in runs) else 1)


def _writable(out: Path) -> None:
    """Makes the folder now, so that a wrong path is reported before the work and not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise click.ClickException(
            f"Cannot write to {out}: {error.strerror}. Pass another folder with --out."
        ) from error


def _write_tables(out: Path, rows: list[dict[str, Any]]) -> None:
    write(out / "runs.csv", _csv(rows))
    write(out / "runs.json", _json(rows))


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
