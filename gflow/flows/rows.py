"""Which states of a flow are kept as the rows of its path.

diffrax's own ways of saving would keep every step, or call back to the host; here rows are part of the solver's state.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar


class Rows(NamedTuple):
    """Times τ of a clock and the states there; `kept` says which rows have been filled."""

    taus: Float[Array, " T"]
    states: PyTree
    kept: Bool[Array, " T"]

    def filled_up(self, tau: Scalar, state: PyTree) -> "Rows":
        """With the end (τ, state) in place of the rows that were not reached."""

        def fill(rows: Array, end: Array) -> Array:
            return jnp.where(self.kept.reshape(-1, *[1] * (rows.ndim - 1)), rows, end)

        return Rows(fill(self.taus, tau), jax.tree.map(fill, self.states, state), jnp.ones_like(self.kept))


class Saving(eqx.Module):
    """A rule for rows: its memory at the start, and after a step from τ_0 to τ_1."""

    @abc.abstractmethod
    def start(self, tau: Scalar, state: PyTree) -> Any: ...

    @abc.abstractmethod
    def after(
        self, memory: Any, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> Any:
        """`state` is that at τ_1, and `between` interpolates."""

    @abc.abstractmethod
    def rows(self, memory: Any) -> Rows: ...


class _Thinned(NamedTuple):
    rows: Rows
    steps: Int[Array, ""]
    stride: Int[Array, ""]


class Thinned(Saving):
    """The start and every 2^k-th step: when the rows are full every other one is dropped, and k grows."""

    capacity: int = eqx.field(static=True)  # even

    def start(self, tau: Scalar, state: PyTree) -> _Thinned:
        def fill(v: Array) -> Array:
            return jnp.broadcast_to(v, (self.capacity, *jnp.shape(v)))

        kept = jnp.arange(self.capacity) == 0
        return _Thinned(Rows(fill(tau), jax.tree.map(fill, state), kept), jnp.array(0), jnp.array(1))

    def after(
        self, memory: _Thinned, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> _Thinned:
        steps = memory.steps + 1
        full = steps == self.capacity * memory.stride
        rows = jax.lax.cond(full, self._halved, lambda rows: rows, memory.rows)
        stride = jnp.where(full, 2 * memory.stride, memory.stride)
        # A step between two kept ones is written where the next one will be.
        at = (steps + stride - 1) // stride
        new = Rows(tau_1, state, jnp.array(True))
        rows = jax.tree.map(lambda v, w: v.at[at].set(w, mode="drop"), rows, new)
        rows = rows._replace(kept=rows.kept.at[at].set(steps % stride == 0, mode="drop"))
        return _Thinned(rows, steps, stride)

    def _halved(self, rows: Rows) -> Rows:
        def halve(v: Array) -> Array:
            return jnp.concatenate([v[::2], v[::2]])

        halved = jax.tree.map(halve, rows)
        return halved._replace(kept=jnp.arange(self.capacity) < self.capacity // 2)

    def rows(self, memory: _Thinned) -> Rows:
        return memory.rows._replace(kept=memory.rows.kept.at[-1].set(False))  # the last one is left for the end


class AtTaus(Saving):
    """The states at given, increasing times of the clock, by the solver's own interpolation."""

    taus: Float[Array, " T"]

    def start(self, tau: Scalar, state: PyTree) -> Rows:
        def fill(v: Array) -> Array:
            return jnp.broadcast_to(v, (self.taus.size, *jnp.shape(v)))

        return Rows(self.taus, jax.tree.map(fill, state), self.taus <= tau)

    def after(
        self, memory: Rows, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> Rows:
        def one(states: PyTree, i: Int[Array, ""]) -> tuple[PyTree, None]:
            def write(states: PyTree) -> PyTree:
                return jax.tree.map(lambda v, w: v.at[i].set(w), states, between(self.taus[i]))

            return jax.lax.cond(~memory.kept[i] & (self.taus[i] <= tau_1), write, lambda v: v, states), None

        states, _ = jax.lax.scan(one, memory.states, jnp.arange(self.taus.size))
        return Rows(self.taus, states, self.taus <= tau_1)

    def rows(self, memory: Rows) -> Rows:
        return memory


class OnlyEnd(Saving):
    """No rows at all."""

    def start(self, tau: Scalar, state: PyTree) -> None:
        return None

    def after(
        self, memory: None, tau_0: Scalar, tau_1: Scalar, state: PyTree, between: Callable[[Scalar], PyTree]
    ) -> None:
        return None

    def rows(self, memory: None) -> Rows:
        raise ValueError("no rows were kept")


class Recorded(diffrax.AbstractWrappedSolver):
    """A solver with the rows of its path in its state, which diffrax keeps where it accepts a step.

    `of_vector` makes states of the vectors that the solver works with. Steps beyond `reach` are tried again, shorter.
    """

    solver: Any  # pyright: ignore[reportIncompatibleVariableOverride]
    saving: Saving
    of_vector: Callable[[Array], PyTree]
    reach: Callable[[PyTree], PyTree] | None = None

    @property
    def term_structure(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.term_structure

    @property
    def interpolation_cls(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.solver.interpolation_cls

    @property
    def root_finder(self) -> Any:  # of implicit solvers, to which diffrax hands its tolerances
        return self.solver.root_finder

    @property
    def scan_kind(self) -> Any:  # of Runge-Kutta methods, which diffrax's adjoints choose
        return self.solver.scan_kind

    @property
    def root_find_max_steps(self) -> int:
        return self.solver.root_find_max_steps

    def order(self, terms: PyTree) -> int | None:
        return self.solver.order(terms)

    def error_order(self, terms: PyTree) -> Any:
        return self.solver.error_order(terms)

    def func(self, terms: PyTree, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> tuple[Any, Any]:
        return self.solver.init(terms, t0, t1, y0, args), self.saving.start(t0, self.of_vector(y0))

    def step(
        self, terms: PyTree, t0: Any, t1: Any, y0: PyTree, args: PyTree, solver_state: tuple[Any, Any], made_jump: Any
    ) -> tuple[PyTree, PyTree, Any, tuple[Any, Any], diffrax.RESULTS]:
        inner, memory = solver_state
        y1, error, info, inner, result = self.solver.step(terms, t0, t1, y0, args, inner, made_jump)
        if self.reach is not None:
            farthest = ravel_pytree(self.reach(self.of_vector(y0)))[0]
            error = jnp.where(jnp.any(jnp.abs(y1 - y0) > farthest), jnp.inf, error)
        interpolation = self.solver.interpolation_cls(t0=t0, t1=t1, **info)

        def between(tau: Scalar) -> PyTree:
            return self.of_vector(interpolation.evaluate(tau))

        return y1, error, info, (inner, self.saving.after(memory, t0, t1, self.of_vector(y1), between)), result
