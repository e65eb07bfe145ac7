"""A labelled grid and the order in which its lanes are computed: no JAX, nothing but indices.

Different dimensions multiply, coordinates that share one go together. Lanes are numbered in the grid's own order, the
last dimension fastest. A plan sorts them by expected cost and cuts them into chunks of equal size, the last of a group
padded, so that one program serves all chunks of a group; only axes of strings or Python objects make several groups.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """Values along a dimension, with what is known of them (units). Static ones are strings or Python objects."""

    dim: str
    values: np.ndarray
    attrs: dict[str, Any]

    @property
    def static(self) -> bool:
        return self.values.dtype.kind in "OUS"

    @property
    def labels(self) -> np.ndarray:
        """The values as data sets and files hold them: of Python objects numbers or texts, of classes and functions
        their names."""
        if self.values.dtype != object:
            return self.values
        flat = self.values.ravel().tolist()
        numbers = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in flat)
        found = np.asarray(flat) if numbers or {*map(type, flat)} == {bool} else None
        if found is not None and found.dtype != object:
            return found.reshape(self.values.shape)
        texts = [getattr(v, "__name__", None) or str(v) for v in flat]
        return np.asarray(texts).reshape(self.values.shape)

    def dims(self, name: str) -> tuple[str, ...]:
        """Its axes in a data set in which it has this name."""
        return self.dim, *(f"{name}_{i}" for i in range(self.values.ndim - 1))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Named coordinates, and the sizes of their dimensions in the order in which these first appear."""

    coordinates: dict[str, Coordinate]

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        return {c.dim: len(c.values) for c in self.coordinates.values()}

    @property
    def lanes(self) -> int:
        return int(np.prod([*self.sizes.values()]))

    @property
    def static_dims(self) -> tuple[str, ...]:
        return tuple(d for d in self.sizes if any(c.static for c in self.coordinates.values() if c.dim == d))

    def indices(self, lanes: Int[np.ndarray, " k"]) -> dict[str, Int[np.ndarray, " k"]]:
        """Where along each dimension lanes stand."""
        return dict(zip(self.sizes, np.unravel_index(lanes, tuple(self.sizes.values())), strict=True))

    def ranks(self) -> dict[str, tuple[str, Int[np.ndarray, " size"]]]:
        """The order of each coordinate's values along its dimension; of arrays their place."""
        return {
            name: (
                c.dim,
                np.unique(c.values, return_inverse=True)[1] if c.values.ndim == 1 else np.arange(len(c.values)),
            )
            for name, c in self.coordinates.items()
            if not c.static
        }

    def at(self, lanes: Int[np.ndarray, " k"]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The static coordinates that lanes of one group share, and the others, one row a lane."""
        where = self.indices(lanes)
        static = {name: c.values[where[c.dim][0]] for name, c in self.coordinates.items() if c.static}
        static = {name: str(v) if isinstance(v, np.str_) else v for name, v in static.items()}
        return static, {name: c.values[where[c.dim]] for name, c in self.coordinates.items() if not c.static}

    def groups(self) -> list[Int[np.ndarray, " k"]]:
        """Lanes by the values of the static dimensions, each group in the grid's order."""
        lanes = np.arange(self.lanes, dtype=_index_type(self.lanes)).reshape(tuple(self.sizes.values()))
        static = self.static_dims
        ranges = [range(self.sizes[d]) if d in static else [slice(None)] for d in self.sizes]
        return [lanes[index].ravel() for index in itertools.product(*ranges)]


def _index_type(size: int) -> type:
    """Of indices below `size`: half the memory wherever they fit."""
    return np.int32 if size <= 2**31 else np.int64


def as_grid(axes: Mapping[str, Any]) -> Grid:
    """Named axes as a grid. An axis is values along a dimension of its own name, or (dim, values), or (dim, values,
    attributes) as in xarray, where several coordinates may share `dim`.

    **Raises** ValueError for no axes, for an empty one, for values of several axes without a `dim` of another name, and
    for a dimension of two lengths.
    """
    if not isinstance(axes, Mapping) or not axes:
        raise ValueError(f"grid must name at least one axis, as {{'alpha': jnp.logspace(-4, 1, 100)}}; got {axes!r}.")
    grid = Grid({str(name): _coordinate(str(name), axis) for name, axis in axes.items()})
    for name, c in grid.coordinates.items():
        if len(c.values) != grid.sizes[c.dim]:
            raise ValueError(
                f"grid: {name!r} has {len(c.values)} values along {c.dim!r}, and another coordinate "
                f"{grid.sizes[c.dim]}. Coordinates that share a dimension go together; for all pairs give each its own."
            )
    return grid


def _coordinate(name: str, axis: Any) -> Coordinate:
    dim, values, *attrs = axis if isinstance(axis, tuple) and isinstance(axis[0], str) else (name, axis)
    values = np.asarray(values)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"grid: {name!r} must hold at least one value along an axis; got {values!r}.")
    if values.ndim > 1 and dim == name:
        raise ValueError(
            f"grid: {name!r} has shape {values.shape}, one array a lane: name the dimension of its first axis, as "
            f"{{'{name}': ('draw', {name})}}."
        )
    return Coordinate(dim, values, dict(attrs[0]) if attrs else {})


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which lanes make which chunk.

    - `order`: all lanes, group after group, in each by expected cost.
    - `sizes`: of the groups.
    - `chunk`: lanes in a chunk. The k-th chunk's results stand at positions k·chunk, …
    """

    order: Int[np.ndarray, " lanes"]
    sizes: tuple[int, ...]
    chunk: int

    @functools.cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        return [
            (first, min(first + self.chunk, end))
            for start, end in itertools.pairwise(starts.tolist())
            for first in range(start, end, self.chunk)
        ]

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def rows(self) -> int:
        """Positions of all chunks, and one more, which is never written."""
        return len(self) * self.chunk + 1

    def lanes(self, k: int) -> Int[np.ndarray, " n"]:
        """The lanes of the k-th chunk, at most `chunk` of them."""
        first, end = self._bounds[k]
        return self.order[first:end]

    def positions(self, chunks: Iterable[int]) -> Int[np.ndarray, " lanes"]:
        """Where the results of each lane stand if these chunks are there: the last, blank row for all other lanes."""
        found = np.full(len(self.order), self.rows - 1, _index_type(self.rows))
        for k in chunks:
            lanes = self.lanes(k)
            found[lanes] = k * self.chunk + np.arange(len(lanes))
        return found


def plan(grid: Grid, chunk: int, samples: Iterable[tuple[np.ndarray, np.ndarray]] = ()) -> Plan:
    """Sorts lanes within their groups by the cost expected from `samples`, (lanes, costs) of each group."""
    groups = grid.groups()
    for i, (lanes, costs) in enumerate(samples if grid.ranks() else ()):
        groups[i] = groups[i][np.argsort(expected_log_costs(grid, groups[i], lanes, costs), kind="stable")]
    return Plan(np.concatenate(groups), tuple(map(len, groups)), chunk)


_BLOCK = 100_000  # lanes whose indices along all dimensions are in memory at a time
_KNOTS = 16  # of a dimension: enough for a cost that varies with log α


def expected_log_costs(
    grid: Grid, lanes: Int[np.ndarray, " k"], sampled: Int[np.ndarray, " s"], costs: Float[np.ndarray, " s"]
) -> Float[np.ndarray, " k"]:
    """The logarithm of what lanes will cost, as a sum of piecewise linear functions of the ranks of the coordinates,
    fitted to a sample."""
    ranks = grid.ranks()
    knots = {name: np.linspace(0, rank.max(), min(_KNOTS, rank.max() + 1)) for name, (_, rank) in ranks.items()}

    def at(lanes: np.ndarray, name: str) -> np.ndarray:
        dim, rank = ranks[name]
        return rank[grid.indices(lanes)[dim]]

    def hats(name: str) -> np.ndarray:
        index, x = at(sampled, name), knots[name]
        return np.stack([np.interp(index, x, hat) for hat in np.eye(len(x))], axis=1)

    basis = np.concatenate([hats(name) for name in knots], axis=1)
    heights = np.linalg.lstsq(basis, np.log(np.maximum(costs, 1.0)), rcond=None)[0]

    def at_lanes(lanes: np.ndarray) -> np.ndarray:
        total, first = np.zeros(len(lanes)), 0
        for name, x in knots.items():
            total += np.interp(at(lanes, name), x, heights[first : first + len(x)])
            first += len(x)
        return np.round(total, 6)  # equal costs keep the grid's order

    return np.concatenate([at_lanes(block) for block in np.array_split(lanes, -(-len(lanes) // _BLOCK))])
