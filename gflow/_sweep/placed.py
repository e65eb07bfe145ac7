"""A variable of a store in the order of the grid, read when it is asked for."""

from typing import Any

import numpy as np
from jaxtyping import Int
from xarray.backends import BackendArray
from xarray.core import indexing


class _Placed(BackendArray):
    """Rows of a zarr array at the positions of the lanes. xarray's own lazy indexing by an array would hold two indices
    for every number of the variable."""

    def __init__(self, rows: Any, at: Int[np.ndarray, "..."]) -> None:
        self.rows, self.at = rows, at
        self.shape, self.dtype = (*at.shape, *rows.shape[1:]), rows.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple) -> np.ndarray:
        """The values at a number, a slice or an array of indices along each axis."""
        at = _taken(self.at, key[: self.at.ndim])
        rows, which = np.unique(at, return_inverse=True)
        values = self.rows.oindex[rows][which.reshape(at.shape)]
        return _taken(values, (*[slice(None)] * at.ndim, *key[self.at.ndim :]))


def _taken(values: np.ndarray, key: tuple) -> np.ndarray:
    for axis in reversed(range(len(key))):  # a number takes its axis away, and shifts those behind it
        values = np.asarray(values[(*[slice(None)] * axis, key[axis])])
    return values


def placed(rows: Any, at: Int[np.ndarray, "..."]) -> indexing.LazilyIndexedArray:
    """The variable whose value of each lane is the row at its position; `at` has the grid's shape."""
    return indexing.LazilyIndexedArray(_Placed(rows, at))
