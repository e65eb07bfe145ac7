"""When the loss of a flow falls: the area below its fall, and what two trajectories that share it prove."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import gflow
from gflow._limit_point import _fall_together, _rtol
from gflow.flows.clocks import GradientClock
from gflow.flows.engine import Integration, integrate
from gflow.flows.radau import Radau
from gflow.flows.timing import Falls, Timing

RTOL = 1e-10


def timed(network, problem, solver, last, units):
    clock = GradientClock(network, problem)
    solver = Radau(jnp.array(RTOL), clock.unit()) if solver is None else solver
    what = Integration(
        clock, solver, clock.start(), jnp.array(0.0), jnp.array(last), RTOL, 1e-13, saving=Timing(clock, units)
    )
    return integrate(what).rows


@pytest.mark.parametrize("solver", [diffrax.Dopri8(), None], ids=["explicit", "implicit"])
@pytest.mark.parametrize("rate", [1e-3, 1.0])
def test_the_area_below_a_loss_that_falls_exponentially(solver, rate):
    """One layer, one point: the discrepancy is e^{−|x|² t}."""
    unit, last = 1e-3, float(np.log(30 / rate))
    problem = gflow.Regression([[np.sqrt(rate)]], [0.5 * np.sqrt(rate) - 1])
    falls = timed(gflow.Diagonal(([0.5],)), problem, solver, last, jnp.array([unit]))
    expected, _ = quad(lambda u: np.log1p((np.exp(-rate * np.expm1(u)) / unit) ** 2), 0, last, epsrel=1e-12, limit=500)
    assert abs(falls.area - expected) <= 1e-7 * expected + 10 * falls.error
    assert falls.error < 1e-2 * expected


def test_steps_that_do_not_follow_a_stiff_fall_say_so():
    """All of it falls in a step whose polynomial rings."""
    clock = GradientClock(gflow.Diagonal(([0.0],)), gflow.Regression([[1.0]], [-1.0]))
    timing = Timing(clock, jnp.array([1e-6]))

    def between(tau):  # the residual, from 1 to 0
        return (jnp.where(tau < 0.3, 0.0, -1.0)[None],)

    none = timing.start(jnp.array(0.0), clock.start())
    falls = timing.after(none, jnp.array(0.0), jnp.array(1.0), clock.start(), between)
    expected = 0.3 * np.log(1e12)
    assert abs(falls.area - expected) > 1e-2 * expected
    assert abs(falls.area - expected) < 10 * falls.error
    smooth = timing.after(none, jnp.array(0.0), jnp.array(1.0), clock.start(), lambda tau: (jnp.array([0.5]),))
    assert smooth.error < 1e-12 * smooth.area


@pytest.mark.parametrize(
    ("apart", "error", "expected"),
    [
        (1.1e-6, 0.0, False),
        (0.9e-6, 0.0, True),
        (1e-3, 1.1e-4, True),  # the rule may have missed as much
        (1e-3, 0.9e-4, False),
        (np.nan, 0.0, False),
    ],
)
def test_which_trajectories_fall_together(apart, error, expected):
    areas = jnp.array([[40.0 + apart, 1e-3], [40.0, 2e-3]])
    errors = jnp.array([[error, 0.0], [0.0, 0.0]])
    assert _fall_together(Falls(areas, errors), jnp.array(RTOL)) == expected


def test_steps_of_the_implicit_solver_are_followed_between_their_ends():
    network = gflow.Diagonal(([0.6, -0.3], [0.1, 0.4]))
    problem = gflow.Regression([[1.0, 0.5]], [1.0])
    clock = GradientClock(network, problem)
    solver, terms = Radau(jnp.array(1e-12), clock.unit()), diffrax.ODETerm(lambda t, y, args: y)
    start, of_vector = jax.flatten_util.ravel_pytree(network.weights)
    args = (clock, (), of_vector)
    state = solver.init(terms, 0.0, 1.0, start, args)
    end, _, info, _, _ = solver.step(terms, jnp.array(0.0), jnp.array(0.2), start, args, state, False)
    between = solver.interpolation_cls(t0=jnp.array(0.0), t1=jnp.array(0.2), **info)
    np.testing.assert_allclose(between.evaluate(jnp.array(0.2)), end, rtol=1e-13)
    np.testing.assert_allclose(between.evaluate(jnp.array(0.0)), start, rtol=1e-13)
    np.testing.assert_allclose(between.evaluate(jnp.array(0.0), jnp.array(0.2)), end - start, rtol=1e-12)
    there = gflow.flow(network, problem, save=gflow.Times([float(np.expm1(0.1))]), method=gflow.Weights(rtol=1e-12))
    expected = jax.flatten_util.ravel_pytree(jax.tree.map(lambda v: v[-1], there.networks.weights))[0]
    np.testing.assert_allclose(between.evaluate(jnp.array(0.1)), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("tolerance", "method", "expected"),
    [
        (1e-9, gflow.Weights(), 1e-11),
        (1e-11, gflow.Weights(), 1e-12),  # a hundredth would be below 1e4 units of round-off
        (np.float32(1e-3), gflow.Weights(), 1e-4),  # and in float32
        (1e-9, gflow.Weights(solver=diffrax.Dopri8()), 1e-10),
        (1e-9, gflow.Weights(rtol=1e-7), 1e-7),
    ],
)
def test_how_exact_a_step_is(tolerance, method, expected):
    tolerance = jnp.asarray(tolerance)
    assert _rtol(tolerance, gflow.Regression([[1.0]], [1.0]), method) == pytest.approx(expected, rel=1e-6)
