"""Implicit solvers for the stiff ends of flows: Kvaerno's fifth-order method with iterations that end at round-off.

A correction far below the tolerance counts as convergence. The iterations that diffrax and optimistix have ask for a
rate of convergence, or for a small function value: corrections at round-off level have no rate, and round-off times a
large stiffness is not small, so that steps then fail at every size.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import optimistix
from jaxtyping import Array, Bool, Int, PyTree, Scalar


class _State(eqx.Module):
    jacobian: Any  # of the function, with its factors, where it is computed once a step
    change: Scalar  # the last correction, in units of the tolerance
    previous: Scalar
    of_state: Scalar  # the last change of the ODE's state, likewise: the unknowns are derivatives by its clock
    result: optimistix.RESULTS
    step: Int[Array, ""]


class RoundOffNewton(optimistix.AbstractRootFinder):
    """Newton's method, whose Jacobian is computed anew in each iteration or `once` a step of the ODE solver.

    A change below `kappa` of the tolerance, made or expected, is the end; growth by a factor of two is divergence. The
    end is also where a change shrinks no more and moves the ODE's state by less than a hundredth of the tolerance:
    round-off in derivatives, which are the unknowns, is no error in short steps.
    """

    rtol: Any
    atol: Any
    norm: Any = optimistix.max_norm
    kappa: float = 1e-2
    once: bool = eqx.field(static=True, default=True)

    def init(
        self,
        fn: Callable,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        f_struct: PyTree,
        aux_struct: PyTree,
        tags: frozenset[object],
    ) -> _State:
        if "init_state" in options:  # how diffrax hands on what was computed at the step's first stage
            return options["init_state"]
        dtype = jnp.result_type(*jax.tree.leaves(y))
        infinite = jnp.full((), jnp.inf, dtype)
        factors = _factor(fn, y, args, tags) if self.once else None
        return _State(factors, infinite, infinite, infinite, optimistix.RESULTS.successful, jnp.array(0))

    def step(
        self, fn: Callable, y: PyTree, args: PyTree, options: dict[str, Any], state: _State, tags: frozenset[object]
    ) -> tuple[PyTree, _State, PyTree]:
        value, aux = fn(y, args)
        operator, factors, units = state.jacobian if self.once else _factor(fn, y, args, tags)
        solved = lineax.linear_solve(operator, value / units, _SOLVER, state=factors, throw=False)
        new = jax.tree.map(lambda v, change: v - change, y, solved.value)
        in_units = jax.tree.map(lambda c, v: c / (self.atol + self.rtol * jnp.abs(v)), solved.value, new)
        change = self.norm(in_units)
        result = optimistix.RESULTS.promote(solved.result)
        return new, _State(state.jacobian, change, state.change, args[-1] * change, result, state.step + 1), aux

    def terminate(
        self, fn: Callable, y: PyTree, args: PyTree, options: dict[str, Any], state: _State, tags: frozenset[object]
    ) -> tuple[Bool[Array, ""], optimistix.RESULTS]:
        rate = state.change / state.previous
        remaining = state.change * rate / (1 - rate)
        known = state.step >= 2
        done = (state.change < self.kappa) | (known & (rate < 1) & (remaining < self.kappa))
        done |= known & (rate > 0.5) & (state.of_state < 1e-2)
        diverged = known & ~done & ~(rate <= 2)
        failed = state.result != optimistix.RESULTS.successful
        found = optimistix.RESULTS.where(
            diverged, optimistix.RESULTS.nonlinear_divergence, optimistix.RESULTS.successful
        )
        return done | diverged | failed, optimistix.RESULTS.where(failed, state.result, found)

    def postprocess(
        self,
        fn: Callable,
        y: PyTree,
        aux: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: _State,
        tags: frozenset[object],
        result: optimistix.RESULTS,
    ) -> tuple[PyTree, PyTree, dict[str, Any]]:
        return y, aux, {}


MOST_UNKNOWNS = 512  # beyond, the factors of one step take longer than the tens of explicit steps that it saves

_SOLVER = lineax.AutoLinearSolver(well_posed=None)


def _factor(fn: Callable, y: Array, args: PyTree, tags: frozenset[object]) -> tuple[Any, Any, Array]:
    """The Jacobian, its rows divided by their largest entries, its factors, and those: the rows of fast variables would
    be taken for pivots because of their units alone."""
    matrix = lineax.JacobianLinearOperator(lambda y, args: fn(y, args)[0], y, args, tags=tags).as_matrix()
    units = jnp.max(jnp.abs(matrix), axis=1)
    units = jax.lax.stop_gradient(jnp.where(units > 0, units, 1.0))
    operator = lineax.MatrixLinearOperator(matrix / units[:, None])
    dynamic, static = eqx.partition(_SOLVER.init(operator, options={}), eqx.is_array)
    return operator, eqx.combine(jax.lax.stop_gradient(dynamic), static), units


def chord() -> diffrax.Kvaerno5:
    """One Jacobian a step: for many unknowns."""
    return diffrax.Kvaerno5(root_finder=diffrax.with_stepsize_controller_tols(RoundOffNewton)())


def newton(kappa: float = 0.1) -> diffrax.Kvaerno5:
    """One Jacobian an iteration: for equations so nonlinear that they change within a step.

    Its corrections converge quadratically: the one after a correction of `kappa` tolerances is far smaller.
    """
    finder = diffrax.with_stepsize_controller_tols(RoundOffNewton)(kappa=kappa, once=False)
    return diffrax.Kvaerno5(root_finder=finder)
