"""Whether two functions compute the same: a digest of their code and of all that it refers to.

gflow's and other installed functions are their names (their versions are on record beside); functions of one's own
are code, constants, defaults, what they close over and the globals that they name. Comments and places in a file do
not count.
"""

import dataclasses
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_REST = (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS)
_INSTALLED = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], sysconfig.get_paths()["stdlib"])


def fingerprint(value: Any) -> str:
    """A digest of anything that a sweep is made of."""
    return _digest(value, {}).hex()


def _digest(value: Any, seen: dict[int, tuple[Any, bytes]]) -> bytes:
    """A digest that knows whatever it has met, of which `seen` holds the value too: the address of one that is gone may
    be another's. What is still being digested stands by its number, as do functions that call each other."""
    if id(value) in seen:
        return seen[id(value)][1]
    parts = _simple(value)
    if parts is None:
        seen[id(value)] = value, f"number {len(seen)}".encode()
        parts = [_digest(part, seen) for part in _composed(value)]
        seen[id(value)] = value, _hash(value, parts)
        return seen[id(value)][1]
    return _hash(value, parts)


def _hash(value: Any, parts: Iterable[bytes]) -> bytes:
    every = (type(value).__qualname__.encode(), *parts)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in every)).digest()


def _simple(value: Any) -> tuple[bytes, ...] | None:
    """What has no parts, as bytes."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and value.dtype != object:
        array = np.asarray(value)
        return f"{array.dtype} {array.shape}".encode(), array.tobytes()
    if isinstance(value, str | bytes | int | float | complex | types.NoneType | types.EllipsisType):
        return (repr(value).encode(),)
    return (value.__name__.encode(),) if isinstance(value, types.ModuleType) else None


def _composed(value: Any) -> Iterator[Any]:
    """What a value consists of."""
    if isinstance(value, types.CodeType):
        yield from (value.co_code, [c for c in value.co_consts if not isinstance(c, str) or c != value.co_name])
        yield from (value.co_names, _arguments(value))
    elif isinstance(value, np.ndarray):  # of Python objects
        yield from (value.shape, value.ravel().tolist())
    elif isinstance(value, dict):
        yield from (part for item in value.items() for part in item)
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, classmethod | staticmethod):
        yield value.__func__
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__code__")):
        yield f"{value.__module__}.{value.__qualname__}" if _is_installed(value.__module__ or "") else _code(value)
    elif dataclasses.is_dataclass(value):
        yield type(value)
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))
    elif callable(value) and (inner := getattr(value, "__wrapped__", None)) is not None:
        yield inner
    else:
        leaves, structure = jax.tree.flatten(value)
        if len(leaves) != 1 or leaves[0] is not value:
            yield from (str(structure), leaves)
        elif _is_installed(type(value).__module__) or not hasattr(value, "__dict__"):
            yield repr(value)
        else:  # what an object of one's own holds, and not its address, which the repr of all objects has
            own = type(value).__repr__ is not object.__repr__
            yield from (type(value), vars(value), repr(value) if own else "")


def _is_installed(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return False
    file = getattr(module, "__file__", None)
    built_in = file is None and not hasattr(module, "__path__")
    return name.split(".")[0] == "gflow" or built_in or (file or "").startswith(_INSTALLED)


def _code(value: Any) -> Any:
    if isinstance(value, type):
        own = {name: v for name, v in vars(value).items() if name != "_abc_impl"}
        return (value.__bases__, {name: v for name, v in own.items() if callable(v) or not name.startswith("__")})
    cells = tuple(_content(cell) for cell in value.__closure__ or ())
    names = _names(value.__code__)
    return (value.__code__, value.__defaults__, value.__kwdefaults__, cells, _named(value.__globals__, sorted(names)))


def _named(space: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """What names are for; of a module of one's own what they are for in it."""
    found = {name: space[name] for name in names if name in space}
    modules = {n: v for n, v in found.items() if isinstance(v, types.ModuleType) and not _is_installed(v.__name__)}
    others = [name for name in names if name not in modules]  # so that modules that name each other end
    return found | {name: _named(vars(module), others) for name, module in modules.items()}


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return ...


def _arguments(code: types.CodeType) -> tuple:
    """By which names it is called: code itself has only their places."""
    count = code.co_argcount + code.co_kwonlyargcount + sum(bool(code.co_flags & flag) for flag in _REST)
    return (code.co_varnames[:count], code.co_posonlyargcount, code.co_argcount, code.co_flags & sum(_REST))


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)
