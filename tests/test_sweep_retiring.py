"""Lanes that retire: what `retiring_map` finds is what `jax.vmap` finds, of every lane by itself, in few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow._sweep.retiring import FEW, PATIENCE, retiring_loop, retiring_map

WIDTH = 2 * FEW
LENGTHS = np.random.default_rng(0).integers(0, 40, 300)


def repeated(n, v, step):
    return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, step(s[1])), (0, v))[1]


def wave(lane):
    return repeated(lane["n"], lane["x"], lambda v: 1.0 + jnp.sin(v))


def nested(lane):
    return repeated(lane["n"], lane["x"], lambda v: repeated(lane["n"] % 3, v, lambda u: 1.0 + jnp.sin(u)) / 2)


def several_in_calls(lane):
    @jax.jit
    def first(v):
        return wave(lane | {"x": v})

    @jax.custom_jvp
    def second(v):
        return wave({"x": v, "n": 2 * lane["n"]})

    second.defjvp(lambda primals, tangents: (second(*primals), tangents[0]))
    return first(jnp.cos(first(lane["x"]))) + jax.checkpoint(second)(lane["x"])


def in_a_scan(lane):
    def turn(carry, x):
        i, v, still = carry
        v = repeated(lane["n"] + i, v * x, lambda u: 1.0 + jnp.sin(u))
        return (i + 1, v, still), (v.sum(), i, x)

    xs = jnp.arange(3.0)
    return jax.lax.scan(turn, (0, lane["x"], jnp.ones(2)), xs, reverse=True), jax.lax.scan(turn, (0, xs, xs), xs + 1)


def with_keys(lane):
    def step(state):
        key, i = state
        return jax.random.fold_in(key, i), i + 1

    key, i = jax.lax.while_loop(lambda s: s[1] < lane["n"], step, (jax.random.key(1), 0))
    return jax.random.normal(key, (2,)), jnp.asarray(i, jnp.int8)


def branches(lane):
    return jax.lax.cond(lane["n"] > 20, wave, lambda lane: lane["x"], lane)


def without_lanes(lane):
    return repeated(5, jnp.arange(2.0), jnp.sin), lane["x"]


def without_loops(lane):
    return lane["x"] * lane["n"], lane["n"] > 3


def at_rest(lane):
    return wave({"x": lane["x"], "n": jnp.minimum(lane["n"], 0)})


def one_goes_on(lane):
    return wave({"x": lane["x"], "n": jnp.where(lane["n"] == LENGTHS.max(), 50, 0)})


FUNCTIONS = (
    wave,
    nested,
    several_in_calls,
    in_a_scan,
    with_keys,
    branches,
    without_lanes,
    without_loops,
    at_rest,
    one_goes_on,
)


def rows(count):
    return {"n": jnp.asarray(LENGTHS[:count]), "x": jnp.linspace(-1.0, 1.0, 2 * count).reshape(count, 2)}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_lanes_are_those_of_a_batch(function):
    found = jax.jit(lambda lanes: retiring_map(function, lanes, WIDTH))(rows(101))
    expected = jax.jit(jax.vmap(function))(rows(101))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.allclose(a, b, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("count", "width"),
    [(1, 1), (1, 32), (31, 32), (32, 32), (33, 32), (31, 1), (40, FEW - 1), (40, FEW), (40, FEW + 1), (100, 32)],
)
@pytest.mark.parametrize("function", [wave, at_rest, one_goes_on])
def test_none_is_lost_on_either_side_of_a_threshold(function, count, width):
    found = retiring_map(function, rows(count), width)
    assert np.allclose(found, jax.vmap(function)(rows(count)), rtol=1e-15, atol=1e-15)


def test_what_lanes_share_is_not_copied():
    X = jnp.ones((700, 30))
    program = jax.make_jaxpr(lambda lanes: retiring_map(lambda lane: repeated(lane["n"], lane["x"], shared), lanes, 8))

    def shared(v):
        return v + jnp.sin(X).sum()

    assert "[32,700,30]" not in str(program(rows(32)))
    assert "[8,700,30]" not in str(program(rows(32)))


def counted(lengths, width):
    """Steps of places, and those that lanes need."""
    lengths = jnp.asarray(lengths)

    def count(lengths):
        return retiring_loop(lambda n, i: i < n, lambda n, i: i + 1, lengths, jnp.zeros_like(lengths), width)

    found, steps = jax.jit(count)(lengths)
    assert np.array_equal(found, lengths)
    return int(steps), int(lengths.sum())


def test_places_are_seldom_idle_whatever_lanes_cost():
    costly = np.where(np.random.default_rng(1).random(4096) < 0.01, 10_000, 100)
    steps, needed = counted(costly, 64)
    longest = costly.max()
    # In a group of 64 lanes waiting for the slowest there would be twenty times as many.
    assert steps < 1.1 * needed + 64 * longest
    assert steps < 0.2 * sum(64 * group.max() for group in costly.reshape(-1, 64))


def test_the_last_lanes_do_not_keep_all_places():
    alone = np.where(np.arange(256) == 77, 100_000, 10)
    steps, _ = counted(alone, 64)
    assert steps < 1.1 * (64 // FEW) * 100_000


def test_lanes_of_one_length_go_together():
    steps, needed = counted(np.full(256, 50), 64)
    assert steps == needed
    steps, needed = counted(np.full(256, 50) + np.arange(256) % 2, 64)
    assert steps <= needed + 256 * PATIENCE


@pytest.mark.parametrize("spoilt", [jnp.nan, jnp.inf])
def test_a_lane_that_never_ends_leaves_all_others_to_the_last_bit(spoilt):
    def one(lane):
        def going(state):
            i, v = state
            return (i < 5000) & ~(jnp.abs(v - 0.1 * lane["n"]).max() < 1e-9)

        return jax.lax.while_loop(going, lambda s: (s[0] + 1, s[1] + 0.3 * (0.1 * lane["n"] - s[1])), (0, lane["x"]))

    program = jax.jit(lambda lanes: retiring_map(one, lanes, WIDTH))
    lanes = rows(100)
    steps, ends = program(lanes)
    worse_steps, worse_ends = program(lanes | {"x": lanes["x"].at[37].set(spoilt)})
    others = np.arange(100) != 37
    assert worse_steps[37] == 5000
    assert not np.isfinite(worse_ends[37]).any()
    assert np.array_equal(steps[others], worse_steps[others])
    assert np.array_equal(ends[others], worse_ends[others])


def last(network, problem):
    return gflow.flow(network, problem, save=gflow.Steps(8)).end


@pytest.mark.parametrize("verb", [pytest.param(gflow.limit, marks=pytest.mark.slow), last])
def test_flows_and_limits_are_those_of_a_batch(verb):
    problem = gflow.Regression(X=[[1.0, 2.0]], y=[1.0])

    def one(lane):
        start = gflow.initial.fully_connected(jax.random.normal(jax.random.key(lane["seed"]), (2,)))
        found = verb(gflow.scale(start, lane["alpha"]), problem)
        return found.coefficients, found.steps, jax.tree.leaves(found.status)

    lanes = {"alpha": jnp.logspace(-3, 1, 24), "seed": jnp.arange(24)}
    found = jax.jit(lambda lanes: retiring_map(one, lanes, 8))(lanes)
    expected = jax.jit(jax.vmap(one))(lanes)
    # Round-off, which differs between two programs, changes the size of steps, and by that ends within the tolerance
    # and which step is the last.
    assert np.allclose(found[0], expected[0], rtol=1e-7, atol=1e-8)
    assert np.abs(found[1] - expected[1]).max() <= 1
    assert np.array_equal(found[2], expected[2])
