"""Whether two sweeps are the same: what makes a fingerprint another, and what does not."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow._sweep.fingerprint import fingerprint


def power(exponent):
    return lambda x: x**exponent


def test_functions_that_compute_the_same_have_one_fingerprint():
    same = [power(2), lambda x: x**2]
    source = "def f(x):\n    # {}\n    return x + 1"
    spaces = [{}, {}]
    exec(source.format("one comment"), spaces[0])
    exec("\n\n" + source.format("another, elsewhere"), spaces[1])
    assert fingerprint(spaces[0]["f"]) == fingerprint(spaces[1]["f"])
    assert fingerprint(power(2)) == fingerprint(same[0])
    assert fingerprint(power(2)) != fingerprint(power(3))
    assert fingerprint(functools.partial(power(2), 1)) != fingerprint(functools.partial(power(2), 2))
    assert fingerprint(gflow.limit) != fingerprint(gflow.flow)
    assert fingerprint(jnp.arange(3)) != fingerprint(jnp.arange(3.0))
    assert fingerprint(gflow.Weights(rtol=1e-3)) != fingerprint(gflow.Weights(rtol=1e-4))
    assert fingerprint(jax.random.key(0)) != fingerprint(jax.random.key(1))
    assert fingerprint(lambda: (1, 2)) != fingerprint(lambda: (1, 3))
    assert fingerprint(lambda: power(1)) == fingerprint(lambda: power(1))


def test_a_global_that_a_function_names_counts():
    space = {"c": 1.0}
    exec("def inner(x):\n    return c * x\ndef f(x):\n    return [inner(y) for y in x]", space)
    before = fingerprint(space["f"])
    space["c"] = 2.0
    assert fingerprint(space["f"]) != before


def _swapped(a, b):
    return a - b


def test_whatever_changes_changes_the_fingerprint():
    """Also the last of many parts, which have the addresses of parts that are gone; names; and what repr cuts."""
    adds = [eval(f"lambda x: x + {i}") for i in range(12)]
    space = {f"f{i}": f for i, f in enumerate(adds)}
    exec("def f(x):\n    return [" + ", ".join(f"f{i}(x)" for i in range(12)) + "]", space)
    before = fingerprint(space["f"]), fingerprint(adds)
    for i, add in enumerate(adds):
        adds[i] = space[f"f{i}"] = lambda x: x * 3
        assert fingerprint(space["f"]) != before[0], i
        assert fingerprint(adds) != before[1], i
        adds[i] = space[f"f{i}"] = add
    assert (fingerprint(space["f"]), fingerprint(adds)) == before

    exec("def _swapped(b, a):\n    return b - a", space)  # the same code, called by other names
    assert fingerprint(_swapped) != fingerprint(space["_swapped"])
    a, b = [1], [2]
    assert fingerprint((a, b, a)) != fingerprint((a, b, b))
    assert fingerprint((a, b, a)) == fingerprint(([1], [2], [1]))
    long = [np.array([*np.arange(5000), end, *np.arange(5000)]) for end in (1, 2)]
    assert fingerprint(np.array([long[0], None], object)) != fingerprint(np.array([long[1], None], object))


def test_a_function_of_ones_own_module_and_a_class_count(tmp_path, monkeypatch):
    module = types.ModuleType("of_mine")
    module.__file__ = str(tmp_path / "of_mine.py")
    exec("def build(x):\n    return x + 1", vars(module))
    monkeypatch.setitem(sys.modules, "of_mine", module)
    space = {"of_mine": module}
    exec("def f(x):\n    return of_mine.build(x)", space)
    before = fingerprint(space["f"])
    exec("def build(x):\n    return x + 2", vars(module))
    assert fingerprint(space["f"]) != before

    source = "class A(Base):\n    @property\n    def p(self):\n        return {}\n    c = classmethod(lambda cls: 1)"
    base = "class Base:\n    def m(self):\n        return {}"
    found = []
    for one, other in ((1, 1), (1, 1), (2, 1), (1, 2)):
        space = {"__name__": "__main__"}
        exec(base.format(one), space)
        exec(source.format(other), space)
        found.append(fingerprint(space["A"]))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_an_object_of_ones_own_is_what_it_holds():
    class Depth:
        def __init__(self, layers):
            self.layers = layers

    assert fingerprint(Depth(2)) == fingerprint(Depth(2)) != fingerprint(Depth(3))
    assert fingerprint(np.exp) != fingerprint(np.log)
    assert fingerprint(jnp.exp) != fingerprint(jnp.log)


def test_functions_that_call_each_other_have_a_fingerprint():
    space = {}
    source = "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != {} and even(n - 1)"
    found = []
    for end in (0, 0, 1):
        exec(source.format(end), space := {})
        found.append(fingerprint(space["even"]))
    assert found[0] == found[1] != found[2]
