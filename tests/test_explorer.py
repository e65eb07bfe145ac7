"""The explorer's numbers against gflow's, in headless Chromium where there is one."""

import html
import json
import pathlib
import re
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.problems import loss_gradient

SCRIPT = pathlib.Path(__file__).parents[1] / "docs" / "assets" / "explorer.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STARTS = {
    "fully-connected": gflow.initial.fully_connected,
    "diagonal": gflow.initial.diagonal,
    "convolutional": gflow.initial.convolutional,
}
VIEWS = [
    {"x": x, "y": y, "z": z, "alpha": alpha}
    for x, y in (([1.0, 2.0], 1.0), ([0.5, -0.7], -2.0), ([0.0, 1.5], 0.3))
    for z in ([0.9, -0.6], [-1.2, 0.4], [0.0, 0.0], [-0.3, 0.3])
    for alpha in (1e-4, 0.1, 1.0)
]

if CHROMIUM is None:
    pytest.skip("no Chromium here: the explorer's numbers are NOT checked", allow_module_level=True)


def rendered(page, profile):
    """The page's document after its scripts have run."""
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --virtual-time-budget=5000"
    flags += f" --user-data-dir={profile}"
    done = subprocess.run([CHROMIUM, *flags.split(), "--dump-dom", page], capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the script says of every view and network: its start, limit, ν, path and weights on both sides of a place
    of the path."""
    folder = tmp_path_factory.mktemp("explorer")
    ask = f"""
        const answer = {json.dumps(VIEWS)}.map((view) => Object.fromEntries(gflowExplorer.networks.map((name) => {{
            const found = gflowExplorer.solve(name, view, 8), h = 1e-4;
            const weights = [0, found.nu / 3 - h, found.nu / 3, found.nu / 3 + h].map(
                (nu) => gflowExplorer.weights(name, view, nu));
            return [name, {{...found, weights}}];
        }})));
        document.getElementById("answer").textContent = JSON.stringify(answer);"""
    page = folder / "ask.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><pre id="answer"></pre><script>{SCRIPT.read_text(encoding="utf-8")}'
        f"</script><script>{ask}</script>",
        encoding="utf-8",
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', rendered(page.as_uri(), folder / "profile"), re.S)
    return json.loads(html.unescape(found[1]))


def start_of(name, view):
    return gflow.scale(STARTS[name](jnp.array(view["z"])), view["alpha"])


@pytest.mark.parametrize("name", STARTS)
def test_starts_are_those_of_gflow(answers, name):
    for view, answer in zip(VIEWS, answers, strict=True):
        for found, expected in zip(answer[name]["weights"][0], start_of(name, view).weights, strict=True):
            np.testing.assert_allclose(found, np.ravel(expected), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("name", STARTS)
def test_limits_are_those_of_theorem_6(answers, name):
    for view, answer in zip(VIEWS, answers, strict=True):
        problem = gflow.Regression(X=jnp.array([view["x"]]), y=jnp.array([view["y"]]))
        expected = gflow.predict.two_layer_limit(start_of(name, view), problem).coefficients
        np.testing.assert_allclose(answer[name]["limit"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STARTS)
def test_paths_follow_the_gradient(answers, name):
    """dΘ/dν = −∇L / (−r): a central difference of the script's weights against gflow's gradient."""
    for view, answer in list(zip(VIEWS, answers, strict=True))[::5]:
        problem = gflow.Regression(X=jnp.array([view["x"]]), y=jnp.array([view["y"]]))
        start = start_of(name, view)
        before, here, after = (
            tuple(np.reshape(v, w.shape) for v, w in zip(weights, start.weights, strict=True))
            for weights in answer[name]["weights"][1:]
        )
        network = gflow.with_weights(start, tuple(map(jnp.asarray, here)))
        residual = float(problem.residual(network(problem.X))[0])
        slopes = loss_gradient(network.weights, network, problem)
        size = max(float(jnp.max(jnp.abs(g))) for g in slopes) / abs(residual)
        for b, a, slope in zip(before, after, slopes, strict=True):
            assert np.max(np.abs((a - b) / 2e-4 - slope / residual)) <= 1e-6 * size


def test_the_page_shows_the_numbers_of_its_address_and_keys(tmp_path):
    page = tmp_path / "page.html"
    script = SCRIPT.read_text(encoding="utf-8")
    press = """for (const key of ["ArrowUp", "ArrowLeft", "ArrowLeft"])
        document.querySelector(".gx-handle").dispatchEvent(new KeyboardEvent("keydown", {key}));"""
    body = f'<div id="gx"></div><script>{script}</script><script>{press}</script>'
    page.write_text(f'<!doctype html><meta charset="utf-8">{body}', "utf-8")
    view = {"x": [1.0, 2.5], "y": 0.8, "z": [0.4, 0.7], "alpha": 0.3}  # from (0.42, 0.69) by the arrow keys
    document = rendered(f"{page.as_uri()}?x1=1&x2=2.5&y=0.8&z1=0.42&z2=0.69&alpha=0.3", tmp_path / "profile")
    numbers = json.loads(html.unescape(re.search(r'data-numbers="(.*?)"', document)[1]))
    problem = gflow.Regression(X=jnp.array([view["x"]]), y=jnp.array([view["y"]]))
    for name in STARTS:
        expected = gflow.predict.two_layer_limit(start_of(name, view), problem).coefficients
        np.testing.assert_allclose(numbers[name]["limit"], expected, rtol=1e-12)
        for value in expected:
            assert f"<td>{value:.4f}</td>".replace("-", "−") in document
