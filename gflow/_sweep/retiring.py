"""Lanes side by side in loops that a lane leaves when it has ended, and another enters.

Under `jax.vmap` a loop goes on until the last of its lanes has ended. Here a function's equations are mapped one after
another instead: those between loops in groups of lanes, and each loop by places that lanes take in turn.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from equinox.internal import finalise_jaxpr_as_fn
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

# How long places may stand idle before others enter: so many steps of all places, about what it costs to fill them.
PATIENCE = 4
# The last lanes go on in one of so many places: a step of 16 costs a seventh to a twelfth of one of 256, of the paper's
# toys on a CPU.
FEW = 16

_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint"}


class _Values(NamedTuple):
    """Values, each with an axis of lanes first or shared by all of them."""

    values: list[Any]
    of_lanes: list[bool]


def retiring_map(one: Callable, lanes: Any, width: int) -> Any:
    """`jax.vmap(one)(lanes)` with at most `width` lanes at a time, of which none waits long for another.

    `one` must not be differentiated. Equations without loops are those of `jax.vmap`, lane by lane the same.
    """
    leaves, structure = jax.tree.flatten(lanes)
    row = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for v in leaves])
    closed, shape = jax.make_jaxpr(one, return_shape=True)(row)
    count = len(leaves[0])
    found = _evaluate(_inlined(closed), _Values(leaves, [True] * len(leaves)), count, width)
    return jax.tree.unflatten(jax.tree.structure(shape), _full(found, count))


def _full(some: _Values, count: int) -> list[Any]:
    return [v if own else _repeated(v, count) for v, own in zip(*some, strict=True)]


def _repeated(v: Any, count: int) -> Any:
    return jnp.broadcast_to(v, (count, *jnp.shape(v)))


def _inlined(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same with the equations of calls in their place, where they contain a loop."""
    if not any(map(_hides_loop, closed.jaxpr.eqns)):
        return closed

    def flat(*arguments: Any) -> list[Any]:
        jaxpr = closed.jaxpr
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))
        for piece in _pieces(jaxpr, jaxpr.eqns, _hides_loop):
            if _hides_loop(call := piece.eqns[0]):
                inner, outputs = _inlined(_called(call)), call.outvars
                found = eval_jaxpr(inner.jaxpr, inner.consts, *(_read(known, v) for v in call.invars))
            else:
                outputs, found = piece.outvars, eval_jaxpr(piece, [], *(known[v] for v in piece.invars))
            known.update(zip(outputs, found, strict=True))
        return [_read(known, v) for v in jaxpr.outvars]

    return jax.make_jaxpr(flat)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars))


def _read(known: dict[Var, Any], v: Any) -> Any:
    return known[v] if isinstance(v, Var) else v.val


def _hides_loop(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in _CALLS and _has_loop(_called(eqn).jaxpr.eqns)


def _called(eqn: JaxprEqn) -> ClosedJaxpr:
    inner = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])


def _has_loop(eqns: Iterable[JaxprEqn]) -> bool:
    return any(_is_loop(eqn) or _hides_loop(eqn) for eqn in eqns)


def _is_loop(eqn: JaxprEqn) -> bool:
    """Whether lanes may leave the equation at different times, or a loop in it."""
    if eqn.primitive.name == "scan":
        return _has_loop(eqn.params["jaxpr"].jaxpr.eqns)
    return eqn.primitive.name == "while" and not _has_loop(eqn.params["cond_jaxpr"].jaxpr.eqns)


def _pieces(jaxpr: Jaxpr, eqns: Sequence[JaxprEqn], alone: Callable[[JaxprEqn], bool]) -> list[Jaxpr]:
    """The equations in runs, between which stand those that are to be alone."""
    runs = []
    for single, run in itertools.groupby(eqns, alone):
        together = list(run)
        runs.extend([[eqn] for eqn in together] if single else [together])
    pieces, used = [], set(_variables(jaxpr.outvars))
    for run in reversed(runs):
        pieces.append(_piece(jaxpr, run, used))
        used.update(pieces[-1].invars)
    return pieces[::-1]


def _piece(jaxpr: Jaxpr, eqns: list[JaxprEqn], used: set[Var]) -> Jaxpr:
    """Some of the equations, with those of their outputs that are used."""
    made = [v for eqn in eqns for v in eqn.outvars]
    taken = dict.fromkeys(v for eqn in eqns for v in _variables(eqn.invars))
    inputs = [v for v in taken if v not in set(made)]
    return jaxpr.replace(constvars=[], invars=inputs, outvars=[v for v in made if v in used], eqns=eqns)


def _variables(some: Iterable[Any]) -> list[Var]:
    return [v for v in some if isinstance(v, Var)]


def _of_lanes(jaxpr: Jaxpr, given: list[bool]) -> set[Var]:
    """What depends on lanes, if those that are given do."""
    found = {v for v, own in zip(jaxpr.invars, given, strict=True) if own}
    for eqn in jaxpr.eqns:
        if not found.isdisjoint(_variables(eqn.invars)):
            found.update(eqn.outvars)
    return found


def _evaluate(closed: ClosedJaxpr, given: _Values, count: int, width: int) -> _Values:
    """The outputs for all lanes. What depends on none is computed once."""
    jaxpr, of_lanes = closed.jaxpr, _of_lanes(closed.jaxpr, given.of_lanes)
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *given.values], strict=True))

    def values(some: Sequence[Any]) -> _Values:
        return _Values([_read(known, v) for v in some], [isinstance(v, Var) and v in of_lanes for v in some])

    own = [eqn for eqn in jaxpr.eqns if not of_lanes.isdisjoint(_variables(eqn.invars))]
    used = set(_variables([v for eqn in own for v in eqn.invars] + jaxpr.outvars))
    shared = _piece(jaxpr, [eqn for eqn in jaxpr.eqns if of_lanes.isdisjoint(_variables(eqn.invars))], used)
    found = eval_jaxpr(shared, [], *(known[v] for v in shared.invars))
    known.update(zip(shared.outvars, found, strict=True))
    for piece in _pieces(jaxpr, own, _is_loop):
        if _is_loop(eqn := piece.eqns[0]):
            loop = _scan if eqn.primitive.name == "scan" else _while
            outputs, found = eqn.outvars, loop(eqn, values(eqn.invars), count, width)
        else:
            outputs, found = piece.outvars, _in_groups(piece, values(piece.invars), width)
        known.update(zip(outputs, found, strict=True))
    return values(jaxpr.outvars)


def _in_groups(piece: Jaxpr, given: _Values, width: int) -> list[Any]:
    own, joined = _divided(given)
    return jax.lax.map(lambda own: eval_jaxpr(piece, [], *joined(own)), own, batch_size=width)


def _divided(given: _Values) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
    """What lanes have of their own, and what makes all of it with a lane's."""

    def joined(some: list[Any]) -> list[Any]:
        rest = iter(some)
        return [next(rest) if own else v for v, own in zip(*given, strict=True)]

    return [v for v, own in zip(*given, strict=True) if own], joined


def _scan(eqn: JaxprEqn, given: _Values, count: int, width: int) -> list[Any]:
    """Turns that lanes take together, with loops that they take by themselves."""
    body = _inlined(eqn.params["jaxpr"])
    # What is turned through has one axis more outside; how many there are of each kind has other names in every JAX.
    carries = sum(map(_alike, eqn.outvars, body.jaxpr.outvars))
    last = sum(map(_alike, eqn.invars, body.jaxpr.invars))
    first = last - carries
    own = given.of_lanes
    while (after := _after(body.jaxpr, own, first, last)) != own:
        own = after

    def turn(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        found = _evaluate(body, _Values([*given.values[:first], *carry, *x], own), count, width)
        carry = _spread(found.values[:carries], found.of_lanes[:carries], own[first:last], count)
        return carry, _full(_Values(found.values[carries:], found.of_lanes[carries:]), count)

    start = _spread(given.values[first:last], given.of_lanes[first:last], own[first:last], count)
    turns = [jnp.moveaxis(v, 1, 0) if of else v for v, of in zip(given.values[last:], own[last:], strict=True)]
    carry, found = jax.lax.scan(turn, start, turns, eqn.params["length"], eqn.params["reverse"])
    found = [jnp.moveaxis(v, 0, 1) for v in found]
    return [*_full(_Values(carry, own[first:last]), count), *found]


def _alike(one: Any, other: Any) -> bool:
    return one.aval.shape == other.aval.shape


def _after(body: Jaxpr, own: list[bool], first: int, last: int) -> list[bool]:
    """Of a scan's inputs those that depend on lanes after a turn."""
    found = _of_lanes(body, own)
    carry = [isinstance(v, Var) and v in found for v in body.outvars[: last - first]]
    return [*own[:first], *(a or b for a, b in zip(own[first:last], carry, strict=True)), *own[last:]]


def _spread(values: list[Any], are: list[bool], become: list[bool], count: int) -> list[Any]:
    return [
        _repeated(v, count) if own and not before else v for v, before, own in zip(values, are, become, strict=True)
    ]


def _while(eqn: JaxprEqn, given: _Values, count: int, width: int) -> list[Any]:
    ask, step = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    first, last = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    kept, joined = _divided(_Values(given.values[:last], given.of_lanes[:last]))
    carry = _full(_Values(given.values[last:], given.of_lanes[last:]), count)

    def test(kept: list[Any], carry: list[Any]) -> Any:
        # Loops of Equinox ask whether any lane goes on, and count the steps of all. A lane by itself counts its own.
        return finalise_jaxpr_as_fn(ask)(*joined(kept)[:first], *carry)[0]

    def move(kept: list[Any], carry: list[Any]) -> list[Any]:
        return eval_jaxpr(step.jaxpr, step.consts, *joined(kept)[first:], *carry)

    return retiring_loop(test, move, kept, carry, width)[0]


class _Places(NamedTuple):
    """Lanes side by side. `lane` is their number, and beyond the last in a place that stays empty."""

    lane: Any
    kept: Any
    carry: Any
    going: Any


class _State(NamedTuple):
    """`ended` are numbers and carries of `written` lanes; `steps` counts those of places."""

    places: _Places
    ended: Any
    written: Any
    following: Any
    steps: Any


def retiring_loop(test: Callable, move: Callable, kept: Any, carry: Any, width: int) -> tuple[Any, Any]:
    """`jax.lax.while_loop` of each lane, and the number of steps of places, idle ones too.

    `test(kept, carry)` and `move(kept, carry)` are of one lane, `kept` and `carry` of all.
    """
    count = len(jax.tree.leaves(carry)[0])
    width = min(width, count)
    few = width // FEW
    # Those that never go round are not to take a place from others.
    goes = jax.lax.map(lambda mine: test(*mine), (kept, carry), batch_size=width)
    line, following = jnp.argsort(goes), count - goes.sum()

    def enter(position: Any) -> _Places:
        lane = jnp.where(position < count, jnp.take(line, position, mode="clip"), count)
        mine = jax.tree.map(lambda v: jnp.take(v, lane, 0, mode="clip"), (kept, carry))
        return _Places(lane, mine[0], mine[1], jax.vmap(test)(*mine) & (lane < count))

    def stay(state: _State, fewest: int) -> _State:
        """Steps until others should enter or, where none wait, until few go on."""
        size = len(state.places.lane)

        def worth(at: tuple) -> Any:
            places, idle, _ = at
            going = places.going.sum()
            return jnp.where(state.following < count, (going > 0) & (idle < PATIENCE * size), going > fewest)

        def step(at: tuple) -> tuple:
            places, idle, steps = at
            moved = jax.vmap(move)(places.kept, places.carry)
            moved = jax.tree.map(functools.partial(_where, places.going), moved, places.carry)
            going = places.going & jax.vmap(test)(places.kept, moved)
            return places._replace(carry=moved, going=going), idle + size - going.sum(), steps + size

        places, _, steps = jax.lax.while_loop(worth, step, (state.places, jnp.zeros((), int), state.steps))
        return _left(state._replace(places=places, steps=steps), count)

    def exchange(state: _State) -> _State:
        state = stay(state, few)
        room = ~state.places.going  # the first places, since those that go on are last
        entering = enter(state.following + jnp.arange(width))
        places = jax.tree.map(functools.partial(_where, room), entering, state.places)
        return state._replace(places=places, following=state.following + room.sum())

    def full(state: _State) -> Any:
        """Whether more than a few go on, or one is to be written down; both fail only when no lane waits."""
        places = state.places
        ready = (~places.going & (places.lane < count)).any()
        return (places.going.sum() > few) | ready

    ended = jax.tree.map(lambda v: jnp.concatenate([jnp.take(v, line, 0), v[:width]]), (jnp.arange(count), carry))
    places = enter(following + jnp.arange(width))
    state = _State(places, ended, following, following + width, jnp.zeros((), int))
    state = jax.lax.while_loop(full, exchange, state)
    if few:
        last = jnp.argsort(state.places.going)[-few:]
        state = stay(state._replace(places=jax.tree.map(lambda v: jnp.take(v, last, 0), state.places)), 0)
    lane, carry = state.ended
    return jax.tree.map(lambda v: v[jnp.argsort(lane[:count])], carry), state.steps


def _left(state: _State, count: int) -> _State:
    """Writes down what has ended, first of all places, and puts what goes on last."""
    places = state.places
    order = jnp.argsort(2 * places.going + (places.lane >= count))
    places = jax.tree.map(lambda v: jnp.take(v, order, 0), places)
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.written, axis=0)
    ended = jax.tree.map(write, state.ended, (places.lane, places.carry))
    written = state.written + (~places.going & (places.lane < count)).sum()
    return state._replace(places=places, ended=ended, written=written)


def _where(choice: Any, a: Any, b: Any) -> Any:
    return jnp.where(choice.reshape(-1, *[1] * (a.ndim - 1)), a, b)
