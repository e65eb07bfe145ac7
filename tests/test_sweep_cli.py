"""The sweep's command line, its bar and its figures."""

import io
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import gflow
from gflow import cli, plot

pytest.importorskip("xarray")

MINE = """
def make(alpha, seed):
    return alpha, seed

def point(alpha, seed):
    import jax.numpy as jnp
    return {"coefficients": jnp.stack([alpha, alpha**2]), "distance": alpha * (1 + seed)}
"""
TOML = """
make = "mine.py:make"
verb = "mine.py:point"
store = "ends"
chunk = 8
[grid]
alpha = { logspace = [-4, 1, 20] }
seed = [0, 1, 2]
"""


def run(*arguments):
    return CliRunner().invoke(cli.main, [*map(str, arguments)])


def test_a_file_is_swept_shown_and_gone_on_with(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    file = tmp_path / "a.toml"
    file.write_text(TOML)
    done = run("sweep", file)
    assert done.exit_code == 0, done.output
    found = gflow.open_sweep(tmp_path / "ends")
    assert np.allclose(found.distance, np.outer(np.logspace(-4, 1, 20), [1, 2, 3]), rtol=1e-15, atol=0)
    shown = run("show", tmp_path / "ends", "--out", tmp_path / "a.png")
    assert "60 lanes: 20 alpha × 3 seed" in shown.output
    assert "60 finished" in shown.output
    assert (tmp_path / "a.png").stat().st_size > 10_000
    file.write_text(TOML.replace("-4", "-3"))
    refused = run("sweep", file)
    assert refused.exit_code == 1
    assert "holds another sweep: grid alpha" in refused.output
    assert len(refused.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("store", "shop", "shop is not known"),
        ('store = "ends"', "", "store is missing"),
        ('"mine.py:point"', '"limits"', "'limits' is none of flow, limit, predict, compare"),
        ("mine.py:make", "mine.py:made", "mine.py has no function 'made'"),
        ("mine.py:make", "yours.py:make", "yours.py"),
        ("logspace", "lagspace", "an axis is a list of values"),
        ("=", "", "Expected '='"),
    ],
)
def test_errors_are_one_line(tmp_path, before, after, message):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "a.toml").write_text(TOML.replace(before, after))
    result = run("sweep", tmp_path / "a.toml")
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_an_error_in_a_file_of_ones_own_has_its_line(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("return alpha, seed", "raise ValueError('mine')"))
    (tmp_path / "a.toml").write_text(TOML)
    failed = run("sweep", tmp_path / "a.toml")
    assert failed.exit_code == 1
    assert f"Error: {tmp_path / 'mine.py'}, line 3: mine" in failed.output


def test_coordinates_of_one_dimension_are_counted_once(tmp_path):
    grid = {"seed": [3, 1, 2], "noise": ("seed", [0.1, 0.2, 0.3]), "alpha": [1.0, 2.0]}
    gflow.sweep(lambda seed, noise, alpha: (seed + noise + alpha, None), lambda x, _: x, grid, store=tmp_path / "ends")
    assert "6 lanes: 3 seed, noise × 2 alpha" in run("show", tmp_path / "ends").output


def test_a_directory_without_a_sweep_is_said_to_be_none(tmp_path):
    result = run("show", tmp_path)
    assert result.exit_code == 1
    assert "holds no sweep" in result.output


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_counts_lanes_and_is_quiet_off_a_terminal(monkeypatch, capsys, progress):
    def swept():
        gflow.sweep(lambda a: (a, None), lambda a, _: a, {"a": np.arange(10.0)}, progress=progress)

    swept()
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    swept()
    assert ("10.0/10.0" in terminal.getvalue() and "0 not converged" in terminal.getvalue()) == progress


def test_figures_of_a_sweep_show_every_lane():
    import matplotlib.figure

    def verb(alpha, seed):
        import jax.numpy as jnp

        path = jnp.linspace(0.0, 1.0, 5)[:, None] * jnp.stack([alpha, seed + 1.0])
        return {"coefficients": path[-1], "path": path, "distance": alpha**2 * (1 + seed), "error": alpha * (1 + seed)}

    grid = {"alpha": np.logspace(-3, 0, 7), "seed": np.arange(3)}
    found = gflow.sweep(lambda alpha, seed: (alpha, seed), verb, grid)
    axes = matplotlib.figure.Figure().subplots(1, 4)
    assert len(plot.against_scale(axes[0], found, "coefficients", expected="coefficients").lines) == 2 * 2 * 3
    assert "slope 2" in plot.distances(axes[1], found, ["distance"]).get_legend().texts[0].get_text()
    assert len(plot.trajectories(axes[2], found, "path").lines) == 2 * 21
    cells = plot.heat_map(axes[3], found, "error").collections[0]
    assert cells.get_array().size == 21
    edges = cells.get_coordinates()[0, :, 0]
    assert np.allclose(np.sqrt(edges[1:] * edges[:-1]), grid["alpha"])  # each in the middle of its cell
    found["bound"] = 1.2e-10 + 1e-14 * found.error  # all but constant: one colour, not that of round-off
    shades = plot.heat_map(axes[3], found, "bound").collections[-1]
    assert np.ptp(shades.norm(shades.get_array())) < 1e-3
    assert len(plot.sweep_figure(found).axes) == 3 + 2
