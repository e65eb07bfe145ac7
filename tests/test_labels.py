"""Every number stands under its own label: lanes of sweeps, of records, of figures. Verbs return their coordinates."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import plot
from gflow.predict import Refusal

pytest.importorskip("zarr")
pytest.importorskip("xarray")

AXES = {
    "floats": [0.5, -2.0, 0.5, 7.25],
    "ints": [3, -1, 12],
    "texts": ["b", "a", "b"],
    "bools": [True, False],
    "odd": [np.nan, -0.0, 0.0, np.inf],
    "rows": [[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]],
    "mixed": [1, True, 1.0, None, (1, 2)],
}


def code(value):
    """A number for text and Python objects, 1 and True apart."""
    return float(sum(i * b for i, b in enumerate(f"{type(value).__name__}{value!r}".encode())))


def make(**coordinates):
    return {n: v if isinstance(v, jax.Array) else jnp.asarray(code(v)) for n, v in sorted(coordinates.items())}, None


def said(lane, _):
    first = jnp.stack([jnp.ravel(v)[0].astype(float) for v in lane.values()])
    return {f"{n}_again": v for n, v in lane.items()} | {"steps": jnp.sum(jnp.isnan(first) + first.astype(int) ** 2)}


@gflow.Eager
def some(lane, _):
    steps = said(lane, _)["steps"]
    if int(steps) % 3 == 0:
        raise Refusal("of every third")
    return {"of": steps}


def random_grid(choose):
    grid, sizes = {}, {}
    for name in choose.sample(["alpha", "Beta", "seed", "zz", "_x"], choose.randint(1, 3)):
        kind = choose.choice([*AXES])
        values = np.empty(5, object) if kind == "mixed" else np.asarray(AXES[kind])
        values[:] = AXES[kind]
        dim = choose.choice([*sizes, f"of_{name}"] if kind == "rows" else [*sizes, name, f"of_{name}"])
        values = values[[choose.randrange(len(values)) for _ in range(sizes.setdefault(dim, choose.randint(1, 5)))]]
        grid[name] = (dim, values, {"units": name})
    return grid


def lanes(grid):
    """(index, coordinates) of every lane."""
    sizes = {dim: len(values) for dim, values, _ in grid.values()}
    for index in itertools.product(*map(range, sizes.values())):
        at = dict(zip(sizes, index, strict=True))
        rows = {name: values[at[dim]] for name, (dim, values, _) in grid.items()}
        yield at, {n: jnp.asarray(v) if grid[n][1].dtype.kind not in "OU" else as_is(v) for n, v in rows.items()}


def as_is(value):
    return str(value) if isinstance(value, np.str_) else value


def check(found, grid):
    sizes = {dim: len(values) for dim, values, _ in grid.values()}
    for name, (dim, values, attrs) in grid.items():
        assert found[name].dims[0] == dim
        assert found[name].attrs == attrs
        assert values.dtype == object or np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f")
    for variable in found.data_vars.values():
        assert variable.dims[: len(sizes)] == tuple(sizes)
    for at, coordinates in lanes(grid):
        here, (lane, _) = found.isel(at), make(**coordinates)
        for name, value in said(lane, _).items():
            assert np.array_equal(here[f"said_{name}"], value, equal_nan=value.dtype.kind == "f"), (name, at)
            assert np.array_equal(np.signbit(here[f"said_{name}"]), np.signbit(value))
            assert found[f"said_{name}"].dtype == value.dtype
        refused = int(here.said_steps) % 3 == 0
        assert int(here.some_status) == (-3 if refused else 1)
        assert int(here.some_of) == (-1 if refused else int(here.said_steps))


@pytest.mark.parametrize("seed", range(12))
def test_a_lane_of_a_sweep_is_that_of_its_label(tmp_path, seed, unchecked_types):
    choose = random.Random(seed)
    grid, verbs = random_grid(choose), {"said": said, "some": some}
    if all(int(said(make(**coordinates)[0], None)["steps"]) % 3 == 0 for _, coordinates in lanes(grid)):
        pytest.skip("every lane is refused")
    options = {"chunk": choose.choice([1, 2, 3, 200]), "progress": False}
    found = gflow.sweep(make, verbs, grid, **options)
    check(found, grid)
    assert gflow.sweep(make, verbs, grid, store=tmp_path, **options).load().identical(found)
    lines = (tmp_path / "ledger").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger").write_bytes(b"".join(line for line in lines if choose.random() < 0.5))
    other = dict(choose.sample([*grid.items()], len(grid)))
    assert gflow.sweep(make, verbs, other, store=tmp_path, **options).load().identical(found)
    assert gflow.open_sweep(tmp_path).load().identical(found)


def coded(k):
    return jnp.asarray(code(k)), None


def first(x, _):
    return x


def objects(*values):
    found = np.empty(len(values), object)
    found[:] = values
    return found


def test_objects_that_are_equal_and_not_the_same_have_programs_of_their_own():
    found = gflow.sweep(coded, first, {"k": objects(1, True, 1.0, 0.0, -0.0)})
    assert np.array_equal(found.value, [code(k) for k in (1, True, 1.0, 0.0, -0.0)])


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (objects(None, 2), ["None", "2"]),
        (objects((1, 2), (3, 4)), ["(1, 2)", "(3, 4)"]),
        (objects([1], [2, 3]), ["[1]", "[2, 3]"]),
        (objects(gflow.Diagonal, gflow.FullyConnected), ["Diagonal", "FullyConnected"]),
        (objects(2, 3), [2, 3]),
    ],
)
def test_objects_are_kept_by_numbers_or_names(tmp_path, values, labels):
    grid = {"k": ("d", values)}
    whole = gflow.sweep(coded, first, grid)
    assert whole.k.values.tolist() == labels
    assert np.array_equal(whole.value, [*map(code, values)])
    for _ in range(2):
        assert gflow.sweep(coded, first, grid, store=tmp_path).load().identical(whole)


def test_a_global_that_changes_is_seen_in_the_same_process():
    space = {"by": 2.0}
    exec("def make(a):\n    return a * by, None", space)
    for by in (2.0, 5.0):
        space["by"] = by
        assert np.array_equal(gflow.sweep(space["make"], first, {"a": [1.0, 3.0]}).value, [by, 3 * by])


@pytest.mark.parametrize(
    ("grid", "verb", "message"),
    [
        ({"value": [1.0, 2.0]}, lambda x, _: x, "'value' is a variable that the verb returns"),
        ({"a": ("value", [1.0, 2.0])}, lambda x, _: x, "'value' is a variable that the verb returns"),
        ({"a": ("theorem_0", [1.0])}, lambda x, _: {"theorem": x * jnp.ones(3)}, "an axis of 'theorem' too"),
        ({"a": [1.0]}, lambda x, _: {"a": {"b_c": x}, "a_b": {"c": -x}}, "two variables of the name 'a_b_c'"),
        ({"a": [1.0]}, {"a": lambda x, _: {"b_c": x}, "a_b": lambda x, _: {"c": -x}}, "two verbs have a variable"),
        ({"a": [1.0]}, lambda x, _: {"status": x}, "return yours as another"),
    ],
)
def test_a_name_stands_for_one_thing(grid, verb, message):
    with pytest.raises(ValueError, match=message):
        gflow.sweep(lambda **k: (next(iter(k.values())), None), verb, grid)


@pytest.mark.parametrize("values", [[1, 2**32 + 1], np.array([1, 2**63 + 5], np.uint64), [1e-3, 1e-60], [1.0, 1e300]])
def test_a_value_that_make_would_get_as_another_is_refused(values):
    assert np.array_equal(gflow.sweep(lambda a: (a, None), first, {"a": values}).value, values)
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        gflow.sweep(lambda a: (a, None), first, {"a": values})


def test_refused_lanes_are_called_so_in_every_status(unchecked_types):
    @gflow.Eager
    def verb(x, _):
        if x < 3:
            raise Refusal("small")
        return {"x": x, "how": gflow.Status.finished, "steps": x}

    found = gflow.sweep(lambda a: (a, None), verb, {"a": np.arange(40.0)}, chunk=2)
    assert found.how.values.tolist() == found.status.values.tolist() == [-3] * 3 + [1] * 37


def test_numbers_of_ones_own_may_be_called_as_those_of_records(tmp_path):
    def verb(x, _):
        return {"my_status": x * jnp.arange(3.0), "steps": x * jnp.arange(2.0)}

    found = gflow.sweep(lambda a: (a, None), verb, {"a": np.arange(40.0)}, chunk=2, store=tmp_path)
    assert np.array_equal(found.my_status, np.outer(np.arange(40.0), np.arange(3.0)))
    assert np.array_equal(found.steps, np.outer(np.arange(40.0), np.arange(2.0)))


def test_a_batch_ends_where_its_lanes_do():
    network = gflow.Diagonal((jnp.array([1.0, 0.5]), jnp.array([0.3, -0.2])))
    problem = gflow.Regression(X=jnp.array([[1.0, 2.0]]), y=jnp.array([1.0]))
    ends = jax.vmap(lambda a: gflow.limit(gflow.scale(network, a), problem))(jnp.array([0.5, 1.0, 2.0]))
    for lane, scale in zip(ends, (0.5, 1.0, 2.0), strict=True):
        assert jnp.allclose(
            lane.coefficients, gflow.limit(gflow.scale(network, scale), problem).coefficients, rtol=1e-12
        )
    assert np.array_equal(ends[-1].coefficients, ends[2].coefficients)
    for beyond in (3, -4):
        with pytest.raises(IndexError, match="out of bounds"):
            ends[beyond]


SCALES, SEEDS = np.array([1.0, 1e-3, 0.1, 1e-2]), np.array([30, 10, 20])
ENTRIES = 11  # more than matplotlib's ten colours


def drawn(order):
    """A sweep whose scales and seeds are not sorted, with axes in one of two orders: the grid's or another."""

    def verb(x, _):
        alpha, seed = x
        entries, rows = jnp.arange(ENTRIES), jnp.arange(5)
        return {
            "v": alpha + 1000 * seed + entries,
            "w": -alpha - 1000 * seed - entries,
            "distance": alpha**2 * seed,
            "angle": alpha * seed,
            "path": alpha + 1000 * seed + rows[:, None] / 8 + 100 * jnp.arange(2),
        }

    grid = {"seed": SEEDS, "alpha": SCALES} if order else {"alpha": SCALES, "seed": SEEDS}
    found = gflow.sweep(lambda alpha, seed: ((alpha, seed), None), verb, grid, progress=False)
    found.distance.attrs["long_name"] = found.angle.attrs["long_name"] = "distance to it"
    return found.transpose(*sorted(found.sizes, reverse=True)) if order == 2 else found


@pytest.fixture(params=[0, 1, 2])
def figure(request):
    from matplotlib.figure import Figure

    return Figure().add_subplot(), drawn(request.param)


def test_lines_against_the_scale_are_those_of_their_entries(figure):
    ax, found = figure
    lines = plot.against_scale(ax, found, "v", expected="w").lines
    ends = {(line.get_color(), round(float(line.get_ydata()[0]), 3)) for line in lines[: ENTRIES * 3]}
    colours = plot._COLOURS
    assert ends == {(colours[i % len(colours)], 1.0 + 1000 * seed + i) for i in range(ENTRIES) for seed in SEEDS}
    for line in lines:
        y = np.sign(line.get_ydata()[0]) * line.get_ydata()
        assert np.array_equal(line.get_xdata(), SCALES)
        assert np.allclose(y - y[0], SCALES - SCALES[0], rtol=0, atol=1e-9)


def test_distances_are_medians_with_their_names(figure):
    ax, found = figure
    legend = plot.distances(ax, found, ["distance", "angle", *["distance"] * 3]).get_legend().texts
    assert len(ax.lines) == 5
    assert np.allclose(ax.lines[0].get_ydata(), SCALES**2 * 20, rtol=1e-12)
    assert np.allclose(ax.lines[1].get_ydata(), SCALES * 20, rtol=1e-12)
    assert legend[0].get_text() == "distance: distance to it, slope 2"
    assert legend[1].get_text() == "angle: distance to it, slope 1"
    ax.clear()
    assert plot.distances(ax, found, ["angle"]).get_legend().texts[0].get_text() == "distance to it, slope 1"


def test_trajectories_are_rows_of_entries(figure):
    ax, found = figure
    starts = set()
    for line in plot.trajectories(ax, found, "path", entries=(1, 0)).lines[::2]:
        x, y = line.get_data()
        assert np.allclose(x - y, 100)
        assert np.allclose(np.diff(x), 1 / 8)
        starts.add(round(float(y[0]), 6))
    assert starts == {alpha + 1000 * seed for alpha in SCALES for seed in SEEDS}


def test_cells_of_a_map_stand_at_their_scale_beside_their_seed(figure):
    ax, found = figure
    mesh = plot.heat_map(ax, found, "distance").collections[0]
    assert np.allclose(mesh.get_array(), np.outer([10, 20, 30], np.sort(SCALES) ** 2), rtol=1e-12)
    assert np.all(np.diff(mesh.get_coordinates()[0, :, 0]) > 0)
    assert [ax.yaxis.get_major_formatter()(i) for i in (-1, 0, 1, 2, 0.5, 3)] == ["", "10", "20", "30", "", ""]


def test_a_map_over_what_is_no_scale_counts_and_names_columns():
    from matplotlib.figure import Figure

    grid = {"kind": ["b", "a"], "shift": [1.0, -1.0, 0.0]}
    verb = lambda x, _: x  # noqa: E731
    found = gflow.sweep(lambda kind, shift: (shift + (10 if kind == "a" else 20), None), verb, grid, progress=False)
    for x, y in (("kind", "shift"), ("shift", "kind")):
        ax = Figure().add_subplot()
        mesh = plot.heat_map(ax, found, "value", x=x, y=y).collections[0].get_array()
        for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
            labels = [axis.get_major_formatter()(i) for i in range(found.sizes[name])]
            assert labels == (["b", "a"] if name == "kind" else ["-1", "0", "1"])
        assert np.array_equal(mesh if y == "kind" else mesh.T, [[19, 20, 21], [9, 10, 11]])


def test_a_figure_of_a_sweep_has_its_map_in_every_order():
    for order in range(3):
        axes = plot.sweep_figure(drawn(order)).axes
        assert any(len(ax.collections) and ax.get_ylabel() == "seed" for ax in axes), order
