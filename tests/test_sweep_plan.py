"""The planner of sweeps: indices alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflow._sweep.grid import _index_type, as_grid, expected_log_costs, plan

NAMES = "abcd"


@st.composite
def grids(draw):
    """Axes of up to three dimensions, some of which several coordinates share, some of strings."""
    axes = {}
    for i, size in enumerate(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))):
        kind = draw(st.sampled_from(["own", "shared", "strings"]))
        values = np.arange(size) + 10.0 * i
        if kind == "own":
            axes[NAMES[i]] = values
        elif kind == "strings":
            axes[NAMES[i]] = [f"{i}{j}" for j in range(size)]
        else:
            axes[NAMES[i]] = (f"dim {i}", values)
            axes[NAMES[i] * 2] = (f"dim {i}", np.stack([values, -values], axis=1), {"units": "m"})
    return axes


def values_of(axis):
    return axis[1] if isinstance(axis, tuple) else axis


def rows(grid, lanes):
    """Each lane's coordinates as a tuple of plain values, by name."""
    for lane in lanes:
        static, others = grid.at(np.array([lane]))
        merged = static | {name: v[0] for name, v in others.items()}
        yield tuple((name, np.asarray(merged[name]).tolist()) for name in grid.coordinates)


@given(grids())
def test_dimensions_multiply_and_shared_ones_zip(axes):
    grid = as_grid(axes)
    dims = {}
    for name, axis in axes.items():
        dims.setdefault(axis[0] if isinstance(axis, tuple) else name, []).append((name, values_of(axis)))
    expected = [
        tuple((name, np.asarray(v).tolist()) for part in combination for name, v in part)
        for combination in itertools.product(
            *([[(name, v[i]) for name, v in members] for i in range(len(members[0][1]))] for members in dims.values())
        )
    ]
    assert list(rows(grid, range(grid.lanes))) == expected


@given(grids(), st.integers(1, 7), st.randoms(use_true_random=False))
def test_chunks_hold_every_lane_once_and_one_group_each(axes, chunk, random):
    grid = as_grid(axes)
    groups = grid.groups()
    samples = [(g, np.array([random.random() * 100 for _ in g])) for g in groups]
    for chunks in (plan(grid, chunk), plan(grid, chunk, samples)):
        members = [chunks.lanes(k) for k in range(len(chunks))]
        assert sorted(np.concatenate(members).tolist()) == list(range(grid.lanes))
        assert all(0 < len(lanes) <= chunk for lanes in members)
        assert sum(len(lanes) < chunk for lanes in members) <= len(groups)
        for lanes in members:
            assert len({tuple(grid.at(np.array([lane]))[0].items()) for lane in lanes}) == 1


@given(grids(), st.integers(1, 7), st.data())
def test_positions_are_those_of_chunks_that_are_there(axes, chunk, data):
    grid = as_grid(axes)
    chunks = plan(grid, chunk)
    there = data.draw(st.sets(st.integers(0, len(chunks) - 1)))
    positions = chunks.positions(there)
    table = np.full(chunks.rows, -1)
    for k in range(len(chunks)):
        lanes = chunks.lanes(k)
        table[k * chunk : k * chunk + len(lanes)] = lanes
    present = np.isin(np.arange(grid.lanes), np.concatenate([chunks.lanes(k) for k in there] or [[]]))
    assert np.array_equal(table[positions], np.where(present, np.arange(grid.lanes), -1))


def test_lanes_are_sorted_by_a_cost_that_is_a_product_over_dimensions():
    grid = as_grid({"alpha": np.logspace(-4, 1, 50), "seed": np.arange(20)})
    lanes = np.arange(grid.lanes)
    at = grid.indices(lanes)
    costs = 1e3 * np.exp(-at["alpha"] / 10) * (1 + at["seed"])
    sampled = np.random.default_rng(0).choice(lanes, 300, replace=False)
    found = plan(grid, 10, [(sampled, costs[sampled])])
    sums = [costs[found.lanes(k)] for k in range(len(found))]
    waiting = sum(len(c) * c.max() for c in sums) / costs.sum()
    unsorted = plan(grid, 10)
    assert waiting < 1.4
    assert sum(10 * costs[unsorted.lanes(k)].max() for k in range(len(unsorted))) / costs.sum() > 1.4
    error = expected_log_costs(grid, lanes, sampled, costs[sampled]) - np.log(costs)
    assert np.std(error) < 0.3


def test_lanes_that_are_drawn_at_random_are_sorted_by_their_values():
    lengths = np.where(np.random.default_rng(0).random(1000) < 0.05, 100, 1)
    grid = as_grid({"a": ("draw", np.arange(1000.0)), "length": ("draw", lengths)})
    sampled = np.arange(0, 1000, 7)
    found = plan(grid, 10, [(sampled, lengths[sampled].astype(float))])
    assert (np.diff(lengths[found.order]) >= 0).all()


def test_equal_costs_leave_the_grids_order():
    grid = as_grid({"alpha": np.arange(6.0), "seed": np.arange(3)})
    lanes = np.arange(grid.lanes)
    assert np.array_equal(plan(grid, 4, [(lanes, np.ones(18))]).order, lanes)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "at least one axis"),
        ({"alpha": []}, "'alpha' must hold at least one value"),
        ({"alpha": 3.0}, "'alpha' must hold at least one value"),
        ({"X": np.zeros((3, 2))}, r"'X' has shape \(3, 2\)"),
        ({"a": ("k", [1, 2]), "b": ("k", [1, 2, 3])}, "'a' has 2 values along 'k', and another coordinate 3"),
    ],
)
def test_a_grid_that_is_none_is_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        as_grid(axes)


def test_indices_are_as_short_as_lanes_allow():
    assert _index_type(2**31) is np.int32  # whose largest is 2^31 − 1
    assert _index_type(2**31 + 1) is np.int64
    assert as_grid({"a": np.arange(3)}).groups()[0].dtype == np.int32
