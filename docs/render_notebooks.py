"""Run every notebook once and write it as a page of the site, with its figures: docs/notebooks/NAME.md.

python docs/render_notebooks.py [NAME ...]          (all by default, some minutes; before `zensical build`)
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import jax
import jupytext
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbconvert.writers import FilesWriter

REPOSITORY = pathlib.Path(__file__).parents[1]
SECONDS = 120  # for a cell: no notebook may take longer on two cores


def render(source: pathlib.Path) -> str:
    began = time.perf_counter()
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:  # what a notebook writes is not kept
        runner = ExecutePreprocessor(timeout=SECONDS, extra_arguments=["--log-level=ERROR"])
        runner.preprocess(notebook, {"metadata": {"path": folder}})
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})  # what a cell prints arrives in pieces
    pages = REPOSITORY / "docs/notebooks"
    shutil.rmtree(pages / f"{source.stem}_files", ignore_errors=True)  # of a former run
    page, resources = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": source.stem, "output_files_dir": f"{source.stem}_files"}
    )
    page = page.replace("![png](", f"![A figure of {source.stem[3:].replace('_', ' ')}](")
    page = page.replace("](../docs/", "](../")  # links of notebooks/ lead from docs/notebooks/ to the same pages
    FilesWriter(build_directory=str(pages)).write(page, resources, source.stem)
    return f"{source.stem}: {time.perf_counter() - began:.0f} s"


def main() -> None:
    # Figures are shown on the page whatever backend the caller has, and sharp.
    with tempfile.NamedTemporaryFile("w", suffix="matplotlibrc") as rc:
        rc.write("figure.dpi: 150\n")
        rc.flush()
        os.environ |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": rc.name}
        if (0, 8) <= jax.__version_info__ < (0, 11):  # half the time to compile, as in tests/conftest.py
            os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"
        named = [REPOSITORY / f"notebooks/{name}.py" for name in sys.argv[1:]]
        sources = named or sorted((REPOSITORY / "notebooks").glob("*.py"))
        with ThreadPoolExecutor(2) as two:  # a notebook compiles on one core most of its time
            for done in as_completed([two.submit(render, source) for source in sources]):
                print(done.result(), flush=True)


if __name__ == "__main__":
    main()
