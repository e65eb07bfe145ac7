"""Records as columns: what a sweep keeps of a lane."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._compare import Comparison, compare
from .._limit import limit
from ..networks import LinearNetwork, Network
from ..predict import Prediction
from ..predict import limit as predicted_limit
from ..problems import Problem
from ..records import Path, Route, Solution, Status


class Eager(NamedTuple):
    """A verb that is called lane by lane and is not compiled: one that looks at values.

    `gflow.predict`'s functions and `gflow.compare` need no `Eager` around them; one's own function of them does.

    ```python
    gflow.Eager(lambda network, problem: gflow.predict.minimum_norm(problem, 1))
    ```
    """

    function: Callable[[Network, Problem], Any]

    def __call__(self, network: Network, problem: Problem) -> Any:
        return self.function(network, problem)


def as_verb(verb: Callable) -> Callable:
    """What is called: `gflow.compare` compares the limit with what is predicted; predictions are eager."""
    if verb is compare:
        return Eager(_compared)
    inner = verb.func if isinstance(verb, functools.partial) else verb
    return Eager(verb) if getattr(inner, "__module__", "").startswith("gflow.predict.") else verb


def _compared(network: Network, problem: Problem) -> Comparison:
    return compare(limit(network, problem), predicted_limit(network, problem))


# Codes of lanes without a result. Those of results are those of gflow.Status.
NOT_COMPUTED, CRASHED, REFUSED = -1, -2, -3
_OTHERS = {REFUSED: "refused", CRASHED: "crashed", NOT_COMPUTED: "not computed"}
TEXT_BYTES = 64  # of a theorem's name


class Column(NamedTuple):
    """One variable of a lane: its value, the names of its axes, and what is known of it."""

    value: Any
    dims: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = MappingProxyType({})


def columns(result: Any) -> dict[str, Column]:
    """The variables of one lane's result: of gflow's records their fields, of other pytrees the leaves by their paths.

    Every result has a `status`: that of its record, or `finished`. **Raises** ValueError for what is no array.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(result, is_leaf=_is_record)[0]:
        prefix = jax.tree_util.keystr(path, simple=True, separator="_")
        for name, column in _columns_of(leaf).items():
            name = "_".join(filter(None, (prefix, name))) or "value"
            if name in found:
                raise ValueError(f"a verb of a sweep returns two variables of the name {name!r}; rename one of them.")
            found[name] = column
    if "status" in found and not is_status(found["status"].attrs):
        raise ValueError("the variable 'status' of a sweep tells of every lane how it ended; return yours as another.")
    return found if "status" in found else found | {"status": _status(Status.finished)}


def is_status(attrs: Mapping[str, Any]) -> bool:
    """Whether a variable tells how lanes ended, and is no number of one's own that has such a name."""
    return REFUSED in attrs.get("flag_values", ())


def arrays(found: dict[str, Column]) -> dict[str, Any]:
    return {name: column.value for name, column in found.items()}


def blank(dtype: Any) -> Any:
    """What stands where nothing has been computed: NaN, and among integers −1."""
    kind = np.dtype(dtype).kind
    return np.dtype(dtype).type(np.nan if kind in "fc" else -1 if kind == "i" else 0)


def refused(like: dict[str, Column]) -> dict[str, Any]:
    """The row of a lane about which a theorem says nothing."""
    return {name: np.full_like(column.value, blank_of(column)) for name, column in like.items()}


def blank_of(column: Column) -> Any:
    """What stands where lanes are refused."""
    return np.int8(REFUSED) if is_status(column.attrs) else blank(column.value.dtype)


def _is_record(leaf: Any) -> bool:
    return isinstance(leaf, Solution | Path | Comparison | Prediction) or _is_enumerated(leaf)


def _is_enumerated(leaf: Any) -> bool:
    return isinstance(leaf, Status) or isinstance(leaf, Route)  # noqa: SIM101 (no classes to be joined by |)


@functools.singledispatch
def _columns_of(leaf: Any) -> dict[str, Column]:
    if _is_enumerated(leaf):
        return {"": _status(leaf) if isinstance(leaf, Status) else _flags(leaf, Route)}
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int | complex):
        raise ValueError(f"a verb of a sweep must return numbers and gflow's records; got {type(leaf).__name__}.")
    return {"": Column(jnp.asarray(leaf))}


@_columns_of.register
def _(end: Solution) -> dict[str, Column]:
    return _state(end, "") | _scalars(end)


@_columns_of.register
def _(path: Path) -> dict[str, Column]:
    rows = {
        "log_times": Column(path.log_times, ("row",), {"long_name": "log t"}),
        "log_losses": Column(path.log_losses, ("row",), {"long_name": "log L"}),
        "decades": Column(path.decades, ("row",), {"long_name": "log10(-log L)"}),
    }
    if isinstance(path.network, LinearNetwork):
        rows["coefficients"] = Column(path.coefficients, ("row", "input"), {"long_name": "linear coefficients"})
        rows["directions"] = Column(path.directions, ("row", "input"), {"long_name": "direction of the coefficients"})
    return rows | _state(path.end, "end_") | _scalars(path.end)


@_columns_of.register
def _(found: Comparison) -> dict[str, Column]:
    return {
        "distance": Column(found.distance, (), {"units": "1", "long_name": "relative distance to the prediction"}),
        "angle": Column(found.angle, (), {"units": "rad", "long_name": "angle to the prediction"}),
        "theorem": _text(found.theorem),
        "residual": Column(found.residual, (), {"long_name": "residual of the prediction"}),
        "status": _status(found.status),
    }


@_columns_of.register
def _(found: Prediction) -> dict[str, Column]:
    return {
        "coefficients": Column(jnp.asarray(found.coefficients), ("input",), {"long_name": "predicted coefficients"}),
        "is_direction": Column(jnp.asarray(found.is_direction)),
        "theorem": _text(found.theorem),
        "residual": Column(jnp.asarray(found.residual), (), {"units": "1"}),
        "gap": Column(jnp.asarray(found.gap), (), {"units": "1", "long_name": "relative duality gap"}),
    }


def _state(end: Solution, prefix: str) -> dict[str, Column]:
    if not isinstance(end.network, LinearNetwork):
        return {f"{prefix}weights_{i}": Column(v) for i, v in enumerate(end.network.weights)}
    return {
        f"{prefix}coefficients": Column(end.coefficients, ("input",), {"long_name": "linear coefficients"}),
        f"{prefix}direction": Column(end.direction, ("input",), {"long_name": "direction of the coefficients"}),
    }


def _scalars(end: Solution) -> dict[str, Column]:
    certificate = {f"certificate_{n}": Column(v) for n, v in end.certificate._asdict().items()}
    return {
        "log_loss": Column(end.log_loss, (), {"long_name": "log L"}),
        "log_time": Column(end.log_time, (), {"long_name": "log t"}),
        "status": _status(end.status),
        "route": _flags(end.route, Route),
        "error": Column(end.error, (), {"long_name": "error bound"}),
        **certificate,
        "steps": Column(end.steps, (), {"units": "1"}),
        "rejected_steps": Column(end.rejected_steps, (), {"units": "1"}),
    }


def _flags(item: Any, kind: Any, others: dict[int, str] | None = None) -> Column:
    (code,), structure = jax.tree.flatten(item)
    labels = dict(others or {}) | {
        i: kind[jax.tree.unflatten(structure, [np.array(i, np.int32)])] for i in range(len(kind))
    }
    attrs = {"flag_values": [*labels], "flag_meanings": " ".join(label.replace(" ", "_") for label in labels.values())}
    return Column(jnp.asarray(code).astype(jnp.int8), (), attrs)


def _status(status: Any) -> Column:
    return _flags(status, Status, _OTHERS)


def _text(text: str) -> Column:
    return Column(np.frombuffer(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES), np.uint8), ("text",))
