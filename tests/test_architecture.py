"""The import law, held by reading the imports."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "gflow"
# In reading order: a module imports only from the rooms above its own, and from its own.
ROOMS = (
    ("_checks", "_order"),
    ("networks",),
    ("problems",),
    ("potential",),
    ("_forms",),
    ("records",),
    ("measures", "invariants"),
    ("flows",),
    ("dual",),
    ("methods", "dynamics"),
    ("_ask",),
    ("_limit_point", "_limit_direction"),
    ("_flow", "_limit", "_descend"),
    ("predict",),
    ("_compare",),
    ("_sweep",),
    ("experiments",),
    ("plot",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]
HEAVY = {"cvxpy", "matplotlib", "xarray", "zarr", "cloudpickle", "click", "tqdm", "scipy", "optax"}


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path):
    """(room, names) of every import of gflow's own, wherever it stands in the file."""
    package = ("gflow", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                target = module[1:] or (alias.name,)
                yield target[0], alias.name, len(module) > 1


def test_every_module_has_its_room():
    assert {room(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_the_rooms_above(path):
    for target, _, _ in imports(path):
        assert RANK[target] <= RANK[room(path)], f"{room(path)} imports from {target}"
        # Rooms that share a rank stand beside each other.
        assert target == room(path) or RANK[target] < RANK[room(path)], f"{room(path)} imports from {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_crosses_rooms(path):
    for target, name, from_module in imports(path):
        assert target == room(path) or not (from_module and name.startswith("_")), f"{name} of {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_when_first_used(path):
    if room(path) in ("experiments", "cli", "__main__"):
        return
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {name.split(".")[0] for name in names if name} & HEAVY, ast.unparse(node)


def test_predictions_never_ask_the_flow():
    for path in (ROOT / "predict").glob("*.py"):
        assert not {target for target, _, _ in imports(path)} & {"_flow", "_limit", "dual", "flows"}
