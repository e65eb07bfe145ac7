"""The main job's parts; the whole command runs in CI, which checks its verdict."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from gflow import cli, plot
from gflow.experiments import section_6 as reproduce


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "regression"


@pytest.fixture(scope="module")
def runs(store):
    regression, _ = reproduce.tasks()
    return reproduce.experiment(regression, ["diagonal"], store)


@pytest.mark.slow
def test_a_second_call_reads_what_the_first_has_kept(runs, store, monkeypatch):
    monkeypatch.setattr("gflow._sweep.verb.work", lambda *chunk: pytest.fail("computed again"))
    again = reproduce.experiment(reproduce.tasks()[0], ["diagonal"], store)
    assert [run.row() for run in again] == [run.row() for run in runs]


@pytest.mark.slow
def test_runs_start_at_the_prescribed_coefficients_and_agree(runs):
    assert len(runs) == 12
    z = reproduce.directions()
    for run in runs:
        assert np.max(np.abs(run.start - run.alpha**2 * z[run.direction])) <= 1e-14
        assert run.flow_error <= 1e-9
        assert run.agrees


@pytest.mark.slow
def test_a_disagreement_is_said(runs):
    tasks = ["regression", "classification"] * 6
    wrong = [
        dataclasses.replace(run, flow_error=0.1, descent_error=0.1, task=task)
        for run, task in zip(runs, tasks, strict=True)
    ]
    assert "DISAGREE in 12 of 12" in reproduce.verdict(wrong)
    assert "limit is within 1e-01 of Theorem 6" in reproduce.findings(wrong)
    assert "agree in all 12 runs" in reproduce.verdict(runs)
    unfinished = dataclasses.replace(runs[0], flow_status="step limit")
    assert not unfinished.agrees
    assert not dataclasses.replace(runs[0], direction=1).agrees  # the run of another start


@pytest.mark.slow
def test_what_is_said_at_the_end_fits_a_terminal(runs):
    both = [dataclasses.replace(run, task=task) for run in runs for task in ("regression", "classification")] * 3
    said = f"{reproduce.WHAT_TO_LOOK_AT}\n{reproduce.findings(both)}\n{reproduce.verdict(both)}"
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.slow
def test_figures_show_every_run(runs):
    figure = plot.section_6_figure(runs, [("regression", 0.01), ("regression", 1.0)], columns=2)
    assert len(figure.axes) == 2
    assert all(len(ax.lines) == 1 + 2 * 4 + 4 + 1 for ax in figure.axes)


def test_files_appear_whole_or_not_at_all(tmp_path):
    cli.write(tmp_path / "a.txt", b"whole")
    assert (tmp_path / "a.txt").read_bytes() == b"whole"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        cli.write(tmp_path / "folder", b"cannot replace a folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_a_folder_that_cannot_be_written_is_reported_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(cli.main, ["reproduce", "--out", str(tmp_path / "file" / "results")])
    assert result.exit_code == 1
    assert "Cannot write to" in result.output


def test_importing_gflow_is_light_and_changes_no_configuration():
    check = (
        "import sys, jax, gflow;"
        "heavy = {'cvxpy', 'matplotlib', 'xarray', 'zarr', 'click', 'tqdm'} & set(sys.modules);"
        "assert not heavy, heavy; assert not jax.config.jax_enable_x64"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
