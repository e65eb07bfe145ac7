"""Results as an `xarray.Dataset` with the grid's own dimensions."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .columns import CRASHED, TEXT_BYTES, is_status
from .grid import Grid, Plan
from .store import Fields, Memory, dims_of, reading

if TYPE_CHECKING:
    import xarray as xr


def require_libraries() -> None:
    """Raises ImportError where what sweeps need is not installed."""
    missing = [name for name in ("xarray", "zarr", "cloudpickle") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"sweeps need {', '.join(missing)}: pip install 'gflow[sweep]'.")


def require_names(grid: Grid, fields: Fields) -> None:
    """Raises ValueError where one name would stand for two things in the data set."""
    sizes = dict(grid.sizes)
    inner = [(name, c.dims(name)[1:], c.values.shape[1:]) for name, c in grid.coordinates.items()]
    inner += [(name, tuple(dims_of(name, c)), c.value.shape) for name, c in fields.items()]
    for name, dims, shape in inner:
        for dim, size in zip(dims, shape, strict=True):
            if dim in grid.sizes:
                raise ValueError(f"grid: {dim!r} is an axis of {name!r} too. Call the dimension otherwise.")
            if sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"{name!r} has {size} numbers along {dim!r}, and another variable {sizes[dim]}. Let all "
                    "return equal numbers of them, or make two sweeps."
                )
    for name in fields:
        if name in grid.coordinates or name in grid.sizes:
            raise ValueError(f"grid: {name!r} is a variable that the verb returns. Call the coordinate otherwise.")


def open_sweep(store: str | Path) -> "xr.Dataset":
    """The data set of a sweep's directory, finished or not, also while it is being written.

    Lanes that are not there yet hold NaN, and −1 among integers; their `status` is `not computed`. Variables are read
    when they are asked for; `.load()` reads all. Every file is compared with its checksum before.

    **Raises** ValueError where there is no sweep, or where the files that describe it are damaged; chunks that are
    damaged are named in a warning and count as not computed.

    ```python
    def make(alpha):
        return gflow.scale(network, alpha), problem

    gflow.sweep(make, lambda network, problem: network(problem.X), {"alpha": [0.1, 1.0]}, store="two")
    gflow.open_sweep("two")
    ```
    """
    require_libraries()
    import xarray as xr
    import zarr

    from .placed import placed

    path = Path(store)
    manifest, grid, plan, done, crashed = reading(path)
    at = plan.positions(done).reshape(tuple(grid.sizes.values()))
    variables = {}
    for name, field in manifest["fields"].items():
        rows: Any = zarr.open_array(path / "data" / name, mode="r", zarr_format=3)
        dims = (*grid.sizes, *rows.metadata.dimension_names[1:])
        variables[name] = xr.Variable(dims, placed(rows, at), field["attrs"])
    return _assembled(grid, plan, variables, crashed, manifest["attrs"])


def of_memory(grid: Grid, plan: Plan, fields: Fields, results: Memory, attrs: dict[str, Any]) -> "xr.Dataset":
    """The data set of a sweep that is not kept."""
    import xarray as xr

    shape = tuple(grid.sizes.values())
    variables = {
        name: xr.Variable(
            (*grid.sizes, *dims_of(name, fields[name])), column.reshape(*shape, *column.shape[1:]), fields[name].attrs
        )
        for name, column in results.columns.items()
    }
    return _assembled(grid, plan, variables, results.crashed, attrs)


def _assembled(
    grid: Grid, plan: Plan, variables: dict[str, "xr.Variable"], crashed: set[int], attrs: dict
) -> "xr.Dataset":
    import xarray as xr

    found = xr.Dataset(variables)
    for name, variable in found.data_vars.items():
        if crashed and is_status(variable.attrs):  # only then: it is read
            values = np.where(_among(grid, plan, crashed), np.int8(CRASHED), variable.values)
            found[name] = (variable.dims, values, variable.attrs)
        elif variable.dims[-1:] == ("text",):
            found[name] = (variable.dims[:-1], _text(variable.values), variable.attrs)
    coordinates = {name: (c.dims(name), c.labels, c.attrs) for name, c in grid.coordinates.items()}
    return found.assign_coords(coordinates).assign_attrs(attrs)


def _among(grid: Grid, plan: Plan, chunks: set[int]) -> np.ndarray:
    """Whether lanes are in one of these chunks, in the grid's shape."""
    found = np.zeros(grid.lanes, bool)
    for k in chunks:
        found[plan.lanes(k)] = True
    return found.reshape(tuple(grid.sizes.values()))


def _text(codes: np.ndarray) -> np.ndarray:
    """Few texts of many lanes: each is decoded once, and takes no more room than the longest."""
    joined = np.ascontiguousarray(codes).view(f"S{TEXT_BYTES}")[..., 0]
    texts, which = np.unique(joined, return_inverse=True)
    return np.array([text.decode().strip() for text in texts])[which].reshape(joined.shape)
