"""A variable of a store in the order of the grid, read when it is asked for."""

from typing import Any

import numpy as np
from jaxtyping import Int


def placed(rows: Any, at: Int[np.ndarray, "..."]) -> Any:
    """The rows of a zarr array at the positions of the lanes, as xarray takes a variable that is read lazily.

    xarray's own lazy indexing by an array would hold two indices for every number of the variable.
    """
    from xarray.core import indexing

    return indexing.LazilyIndexedArray(_array(rows, at))


def _array(rows: Any, at: Int[np.ndarray, "..."]) -> Any:
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Placed(BackendArray):
        shape, dtype = (*at.shape, *rows.shape[1:]), rows.dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            support = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, self.shape, support, lambda key: _read(rows, at, key))

        def __reduce__(self) -> tuple:
            return _array, (rows, at)

    return Placed()


def _read(rows: Any, at: Int[np.ndarray, "..."], key: tuple) -> np.ndarray:
    """The values at a number, a slice or an array of indices along each axis."""
    found = _taken(at, key[: at.ndim])
    read, which = np.unique(found, return_inverse=True)
    values = np.asarray(rows.oindex[read][which.reshape(found.shape)])  # NumPy gives a number for an array of none
    return _taken(values, (*[slice(None)] * found.ndim, *key[at.ndim :]))


def _taken(values: np.ndarray, key: tuple) -> np.ndarray:
    for axis in reversed(range(len(key))):  # a number takes its axis away, and shifts those behind it
        values = np.asarray(values[(*[slice(None)] * axis, key[axis])])
    return values
