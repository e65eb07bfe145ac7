"""The site's formulas: indices and powers are set, names and code are left alone; in headless Chromium."""

import html
import pathlib
import re

import pytest
from test_explorer import rendered

SCRIPT = pathlib.Path(__file__).parents[1] / "docs" / "assets" / "formulas.js"
PROSE = {
    "v_l(0) = α v̄_l": "v<sub>l</sub>(0) = α v̄<sub>l</sub>",
    "W_1ᵀW_1 − W_2W_2ᵀ = λI": "W<sub>1</sub>ᵀW<sub>1</sub> − W<sub>2</sub>W<sub>2</sub>ᵀ = λI",
    "L(0) exp(−2 α^{2L−2} s_min(X)² t)": "L(0) exp(−2 α<sup>2L−2</sup> s<sub>min</sub>(X)² t)",
    "w_± e^{c_±}": "w<sub>±</sub> e<sup>c<sub>±</sub></sup>",
    "w_+^{⊙L} − w_−^{⊙L}": "w<sub>+</sub><sup>⊙L</sup> − w<sub>−</sub><sup>⊙L</sup>",
    "min ‖ρ‖_{2/L}, Σ_j |η_j|^{L−2}": "min ‖ρ‖<sub>2/L</sub>, Σ<sub>j</sub> |η<sub>j</sub>|<sup>L−2</sup>",
    "η̄_{l,j}, U_lᵀv_l, y_i x_i": "η̄<sub>l,j</sub>, U<sub>l</sub>ᵀv<sub>l</sub>, y<sub>i</sub> x<sub>i</sub>",
    "a_j cosh s_jν, min_j λ": "a<sub>j</sub> cosh s<sub>j</sub>ν, min<sub>j</sub> λ",
    "dv_l/dt = ∫_0^τ": "dv<sub>l</sub>/dt = ∫<sub>0</sub><sup>τ</sup>",
    "e^−3m, 10^(434,294).": "e<sup>−3m</sup>, 10<sup>434,294</sup>.",
    "e^{log_scale} times": "e<sup>log_scale</sup> times",
    "log_alpha, two_layer_limit, __init__, x_64_y": "log_alpha, two_layer_limit, __init__, x<sub>64</sub>_y",
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formulas")
    prose = "".join(f"<p>{html.escape(text)}</p>" for text in PROSE)
    blocks = '<h3 class="doc doc-heading">q_of</h3><code>x_1</code>'
    blocks += '<div class="language-python highlight"><pre>v_1</pre></div>'
    blocks += '<div class="language-text highlight"><pre><code>min x_i</code></pre></div>'
    (folder / "page.html").write_text(
        f'<!doctype html><meta charset="utf-8"><div class="md-content">{prose}{blocks}</div>'
        f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        encoding="utf-8",
    )
    return rendered((folder / "page.html").as_uri(), folder / "profile")


def test_indices_and_powers_are_set_and_names_are_not(page):
    assert re.findall("<p>(.*?)</p>", page) == list(PROSE.values())


def test_code_is_left_alone_and_displayed_formulas_are_not(page):
    assert '<h3 class="doc doc-heading">q_of</h3>' in page
    assert "<code>x_1</code>" in page
    assert "<pre>v_1</pre>" in page
    assert "<code>min x<sub>i</sub></code>" in page
