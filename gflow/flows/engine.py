"""The one caller of diffrax: a field followed from a start until a stop.

A forward call builds no machinery for reverse mode. `jax.grad` of it integrates again with checkpoints, unless the
caller names an adjoint of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree, Scalar

from .._checks import all_concrete
from .._order import or_else
from .rows import OnlyEnd, Recorded, Saving

T = TypeVar("T")


class Integration(eqx.Module):
    """What is to be integrated, as data.

    - `field`: (τ, state) ↦ the state's derivative, an equinox module.
    - `solver`, `start`, `first`, `last`: from τ = `first` to `last`.
    - `rtol`, `atol`: of a step.
    - `stops`: modules (τ, state) ↦ Bool; the integration ends at the first step after which one holds.
    - `saving`: which rows to keep.
    - `clip_to`: values of τ at which steps must end.
    - `reach`: by how much a step may change a state, beyond which the solver does not see what it steps over.
    """

    field: Callable[[Scalar, PyTree], PyTree]
    solver: diffrax.AbstractSolver
    start: PyTree
    first: Scalar
    last: Scalar
    rtol: Any
    atol: Any
    stops: tuple[Callable[[Scalar, PyTree], Array], ...] = ()
    saving: Saving = OnlyEnd()
    clip_to: Array | None = None
    reach: Callable[[PyTree], PyTree] | None = None
    pcoeff: float = 0.3  # halves the rejected steps of stiff flows
    icoeff: float = 0.4
    root_finder: Any = None  # of stops that are continuous: to the point where they change sign
    max_steps: int = eqx.field(static=True, default=4096)


class Run(NamedTuple):
    """Where an integration ended, by itself or by a stop, with its `Rows` (None if none were kept)."""

    tau: Scalar
    state: PyTree
    rows: Any
    result: diffrax.RESULTS
    steps: Int[Array, ""]
    rejected_steps: Int[Array, ""]


def integrate(what: Integration, adjoint: diffrax.AbstractAdjoint | None = None) -> Run:
    """Follows `what`. Every failure is in the `result`."""
    what = _without_complex(what)
    return _run(what, adjoint) if adjoint is not None else _forward(what)


def with_derivatives_of(substitute: Callable[[Any], Any], function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` of one pytree, with the reverse-mode derivatives of its `substitute`, which has the same values."""

    @eqx.filter_custom_vjp
    def call(what: Any) -> Any:
        return function(what)

    @call.def_fwd
    def _(perturbed: Any, what: Any) -> tuple[Any, tuple[Callable, Any]]:
        out, pull_back = eqx.filter_vjp(substitute, what)
        return out, (pull_back, jax.tree.map(jnp.zeros_like, eqx.filter(out, eqx.is_inexact_array)))

    @call.def_bwd
    def _(saved: tuple[Callable, Any], ct: Any, perturbed: Any, what: Any) -> Any:
        pull_back, zeros = saved
        # Of outputs that nothing depends on equinox hands on None, where the pull-back needs zeros.
        ct = jax.tree.map(lambda zero, c: zero if c is None else c, zeros, ct, is_leaf=lambda v: v is None)
        return pull_back(ct)[0]

    return call


def attempted_first(
    attempt: Callable[[Any], T], in_full: Callable[[Any], T], what: Any, is_good: Callable[[T], Bool[Array, ""]]
) -> T:
    """attempt(what) where that is good, else in_full(what), which has the derivatives and may cost far more.

    Where values are seen these are two programs, and the second is compiled when it is first needed. Inside `jit` both
    are in the one, and the result is the same.
    """

    def either(what: Any) -> T:
        found = attempt(what)
        return or_else(is_good(found), found, in_full, what)

    if not all_concrete(what):
        return with_derivatives_of(in_full, either)(what)
    found = attempt(what)
    return found if is_good(found) else in_full(what)


def _run(what: Integration, adjoint: diffrax.AbstractAdjoint) -> Run:
    steps = diffrax.PIDController(rtol=what.rtol, atol=what.atol, pcoeff=what.pcoeff, icoeff=what.icoeff)
    if what.clip_to is not None:
        steps = diffrax.ClipStepSizeController(steps, step_ts=what.clip_to)
    conditions = tuple(_Condition(i) for i in range(len(what.stops)))
    # One vector: of a state of many leaves diffrax would make a program as many times as large.
    start, of_vector = ravel_pytree(what.start)
    run = diffrax.diffeqsolve(
        diffrax.ODETerm(_field),
        Recorded(what.solver, what.saving, of_vector, what.reach),
        t0=what.first,
        t1=what.last,
        dt0=None,
        y0=start,
        args=(what.field, what.stops, of_vector),
        saveat=diffrax.SaveAt(t1=True, solver_state=True),
        stepsize_controller=steps,
        event=diffrax.Event(conditions, what.root_finder) if conditions else None,
        adjoint=adjoint,
        max_steps=what.max_steps,
        throw=False,
    )
    ts: Any = run.ts
    ys: Any = run.ys
    solver_state: Any = run.solver_state
    return Run(
        tau=ts[-1],
        state=of_vector(ys[-1]),
        rows=None if isinstance(what.saving, OnlyEnd) else what.saving.rows(solver_state[1]),
        result=run.result,
        steps=run.stats["num_accepted_steps"],
        rejected_steps=run.stats["num_rejected_steps"],
    )


_forward = with_derivatives_of(
    lambda what: _run(what, diffrax.RecursiveCheckpointAdjoint()), lambda what: _run(what, diffrax.ForwardMode())
)


@eqx.filter_jit  # traced once, however many times diffrax inlines it
def _field(tau: Any, y: Array, args: tuple[Callable, tuple, Callable]) -> Array:
    field, _, of_vector = args
    return ravel_pytree(with_complex(field)(tau, of_vector(y)))[0]


class _Condition(eqx.Module):
    """The i-th stop, as diffrax calls it."""

    i: int = eqx.field(static=True)

    def __call__(self, t: Scalar, y: Array, args: tuple[Callable, tuple, Callable], **_: Any) -> Array:
        return _stop(t, args[2](y), args[1][self.i])


@eqx.filter_jit  # likewise
def _stop(tau: Scalar, state: PyTree, stop: Callable) -> Array:
    return with_complex(stop)(tau, state)


class _Parts(NamedTuple):
    """A complex array as two real ones: diffrax warns of complex leaves, and the state of every flow is real."""

    real: Array
    imag: Array


def _without_complex(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda v: _Parts(v.real, v.imag) if eqx.is_array(v) and jnp.iscomplexobj(v) else v, tree)


def with_complex(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda v: jax.lax.complex(*v) if isinstance(v, _Parts) else v, tree, is_leaf=lambda v: isinstance(v, _Parts)
    )
