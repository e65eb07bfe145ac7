"""Every page of the documentation with code runs as it is written, its blocks in order as one script."""

import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert any("assert" in block for block in blocks)
    exec(compile("\n".join(blocks), str(page), "exec"), {"__name__": "page"})


def test_every_extension_has_its_page():
    assert {page.stem for page in PAGES} >= {
        "extend_network",
        "extend_unstructured_network",
        "extend_loss",
        "several_outputs",
        "sweeps",
    }
