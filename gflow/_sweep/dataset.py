"""Results as an `xarray.Dataset` with the grid's own dimensions."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .columns import CRASHED, TEXT_BYTES
from .grid import Grid, Plan
from .store import Fields, Memory, dims_of, reading

if TYPE_CHECKING:
    import xarray as xr


def require_libraries() -> None:
    """Raises ImportError where what sweeps need is not installed."""
    missing = [name for name in ("xarray", "zarr", "cloudpickle") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"sweeps need {', '.join(missing)}: pip install 'gflow[sweep]'.")


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

    path = Path(store)
    manifest, grid, plan, done, crashed = reading(path)
    lanes = xr.open_dataset(
        str(path / "data"), engine="zarr", consolidated=False, chunks=None, decode_cf=False, zarr_format=3
    )
    variables = {name: lanes[name].variable for name in manifest["fields"]}
    for name, field in manifest["fields"].items():
        variables[name].attrs = field["attrs"]
    return _assembled(grid, plan, variables, done, crashed, manifest["attrs"])


def of_memory(grid: Grid, plan: Plan, fields: Fields, results: Memory, attrs: dict[str, Any]) -> "xr.Dataset":
    """The data set of a sweep that is not kept."""
    import xarray as xr

    variables = {
        name: xr.Variable(("lane", *dims_of(name, fields[name])), column, fields[name].attrs)
        for name, column in results.columns.items()
    }
    return _assembled(grid, plan, variables, results.done, results.crashed, attrs)


def _assembled(
    grid: Grid, plan: Plan, variables: dict[str, "xr.Variable"], done: set[int], crashed: set[int], attrs: dict
) -> "xr.Dataset":
    import xarray as xr

    shape, dims = tuple(grid.sizes.values()), tuple(grid.sizes)
    at = xr.Variable(dims, plan.positions(done).reshape(shape))
    found = xr.Dataset(variables).isel(lane=at)
    has_crashed = np.zeros(grid.lanes, bool)
    for k in crashed:
        has_crashed[plan.lanes(k)] = True
    for name, variable in found.data_vars.items():
        if str(name).split("_")[-1] == "status":
            found[name] = variable.where(~xr.Variable(dims, has_crashed.reshape(shape)), CRASHED).astype(np.int8)
            found[name].attrs = variable.attrs
        elif variable.dims[-1:] == ("text",):
            found[name] = (variable.dims[:-1], _text(variable.values), variable.attrs)
    coordinates = {
        name: ((c.dim, *(f"{name}_{i}" for i in range(c.values.ndim - 1))), _plain(c.values), c.attrs)
        for name, c in grid.coordinates.items()
    }
    return found.assign_coords(coordinates).assign_attrs(attrs)


def _text(codes: np.ndarray) -> np.ndarray:
    joined = np.ascontiguousarray(codes).view(f"S{TEXT_BYTES}")[..., 0]
    return np.char.strip(np.char.decode(joined))


def _plain(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.tolist()) if values.dtype == object else values
