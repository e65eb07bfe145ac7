"""Whether two functions compute the same: a digest of their code and of all that it refers to.

gflow's and other installed functions are their names (their versions are on record beside); functions of one's own
are code, constants, defaults, what they close over and the globals that they name. Comments and places in a file do
not count.
"""

import dataclasses
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_INSTALLED = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], sysconfig.get_paths()["stdlib"])


def fingerprint(value: Any) -> str:
    """A digest of anything that a sweep is made of."""
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        yield f"{array.dtype} {array.shape}".encode()
        yield repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    elif isinstance(value, str | bytes | int | float | complex | types.NoneType | types.EllipsisType):
        yield repr(value).encode()
    elif isinstance(value, types.ModuleType):
        yield value.__name__.encode()
    elif isinstance(value, types.CodeType):
        yield value.co_code
        yield from _parts([c for c in value.co_consts if not isinstance(c, str) or c != value.co_name], seen)
        yield " ".join(value.co_names).encode()
    elif id(value) in seen:
        return
    else:
        seen.add(id(value))
        for part in _composed(value):
            yield from _parts(part, seen)


def _composed(value: Any) -> Iterator[Any]:
    """What a value consists of."""
    if isinstance(value, dict):
        yield from (part for item in value.items() for part in item)
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__code__")):
        yield f"{value.__module__}.{value.__qualname__}" if _is_installed(value) else _code(value)
    elif dataclasses.is_dataclass(value):
        yield type(value)
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))
    elif callable(value) and (inner := getattr(value, "__wrapped__", None)) is not None:
        yield inner
    else:
        leaves, structure = jax.tree.flatten(value)
        yield from (repr(value),) if len(leaves) == 1 and leaves[0] is value else (str(structure), leaves)


def _is_installed(value: Any) -> bool:
    name = value.__module__ or ""
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return name.split(".")[0] == "gflow" or file is None or file.startswith(_INSTALLED)


def _code(value: Any) -> Any:
    if isinstance(value, type):
        return {name: v for name, v in vars(value).items() if callable(v) or not name.startswith("__")}
    cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
    names = _names(value.__code__)
    globals_ = {name: value.__globals__[name] for name in sorted(names) if name in value.__globals__}
    return (value.__code__, value.__defaults__, value.__kwdefaults__, cells, globals_)


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)
