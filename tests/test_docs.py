"""Every page of the documentation with code runs as it is written, its blocks in order as one script."""

import ast
import inspect
import pathlib
import re

import pytest

import gflow
import gflow.plot

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]
ROOMS = (gflow.initial, gflow.measures, gflow.invariants, gflow.potential, gflow.plot)


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_into_the_repository_lead_somewhere(name):
    """Those of docs/ are checked where the site is built."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS.parent / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (DOCS.parent / link).exists()] == []


def test_the_readme_says_what_theory_each_prediction_is_of():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    table = readme.split("[start:functions]")[1].split("[end:functions]")[0]
    functions = [name.rpartition(".")[2] for name in table_of_contents(gflow.predict)]
    functions = {name for name in functions if inspect.isfunction(getattr(gflow.predict, name))}
    assert {name for name in functions - {"limit", "dft"} if not re.search(rf"`{name}[`(]", table)} == set()


def table_of_contents(module):
    """The names that a package's __init__ offers, as `from .a import b as b`; modules apart."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == alias.asname and not inspect.ismodule(getattr(module, alias.name)):
                    yield f"{module.__name__}.{alias.name}"


def public_names():
    yield from table_of_contents(gflow)
    yield from table_of_contents(gflow.predict)
    for room in ROOMS:
        name = f"gflow.{room.__name__.split('.')[-1]}"
        for function, value in vars(room).items():
            # inspect.unwrap: some are compiled
            if (
                inspect.isfunction(inspect.unwrap(value))
                and value.__module__ == room.__name__
                and not function.startswith("_")
            ):
                yield f"{name}.{function}"


def test_every_public_name_has_an_entry():
    entries = [
        entry
        for page in sorted((DOCS / "api").glob("*.md"))
        for entry in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)
    ]
    entries += ["gflow.measures.angle"]  # the same function as gflow.angle
    assert len(entries) == len(set(entries))
    assert set(entries) == set(public_names())
