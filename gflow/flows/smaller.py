"""Smaller networks, integrated in the place of larger ones that they flow as."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ..networks import Network, Reduced, with_weights
from ..problems import Problem
from ..records import Path, Solution, Status, first_of
from .engine import with_derivatives_of
from .stopping import Until


class Followed(eqx.Module):
    """`network` and `problem` are integrated; by the `reduction`, if there is one, they stand for its whole network and
    the `given` problem."""

    network: Network
    problem: Problem
    given: Problem
    reduction: Reduced | None

    def shaken(self, by: Scalar) -> tuple[Any, Problem]:
        """The network and the problem with random errors, `by` times what they are rounded from: themselves, or the
        vectors of which a change of basis has made them. What is 0 is so by symmetry, and stays."""
        weights, problem = self.network.weights, self.problem
        turned, X = (False,) * len(weights), None
        if self.reduction is not None:
            turned, X = (basis != (None, None) for basis in self.reduction.bases), self.reduction.X

        def shake(key: Array, v: Array, size: Array) -> Array:
            return v + by * jax.random.normal(key, v.shape, v.dtype) * jnp.where(v == 0, 0.0, size)

        *keys, last = jax.random.split(jax.random.key(0), len(weights) + 1)
        shaken = (
            shake(key, v, jnp.max(jnp.abs(v)) if is_turned else v)
            for key, v, is_turned in zip(keys, weights, turned, strict=True)
        )
        if X is not None:
            moved = problem.with_inputs(shake(last, X, jnp.max(jnp.abs(X), axis=1, keepdims=True)))
            problem = problem if moved is None else moved
        return with_weights(self.network, tuple(shaken)), problem

    def lift(self, small: Any) -> Any:
        """The whole network, where the one that is integrated is `small`."""
        return small if self.reduction is None else self.reduction.lift(small)

    def coefficients(self, small: Any) -> Float[Array, " d"]:
        """β of the whole network."""
        return small.coefficients() if self.reduction is None else self.reduction.coefficients(small)

    def at_rest(self) -> Scalar:
        """The sum of the squares of the weights that are not integrated."""
        zero = jnp.zeros((), jnp.result_type(*self.network.weights))
        return zero if self.reduction is None else self.reduction.at_rest()

    def rules(self, until: tuple[Until, ...]) -> tuple[Until, ...]:
        """The stopping rules of the whole network as those of the smaller one."""
        return until if self.reduction is None else tuple(rule.beside(self.reduction.at_rest()) for rule in until)

    def whole_end(self, end: Solution, until: tuple[Until, ...]) -> Solution:
        """The end of the whole network. Whether it has converged is decided by its own outputs."""
        if self.reduction is None:
            return end
        network = self.lift(end.network)
        log_loss, met = self.given.log_loss(network(self.given.X)), jnp.zeros((), bool)
        for rule in until:
            if rule.is_convergence:
                met |= rule.met(network.weights, end.log_time, network, self.given)
        return dataclasses.replace(
            end,
            network=network,
            log_loss=log_loss,
            status=first_of(
                (jnp.isnan(log_loss) | (log_loss == jnp.inf), Status.not_finite),
                (end.converged & ~met, Status.not_certified),
                otherwise=end.status,
            ),
        )

    def whole_path(self, path: Path, until: tuple[Until, ...]) -> Path:
        """The path of the whole network, whose rows stay as small as they are."""
        return dataclasses.replace(path, reduction=self.reduction, end=self.whole_end(path.end, until))


def on_smaller(
    core: Callable[[Followed, Any], Any],
    network: Network,
    problem: Problem,
    options: Any,
    adjoint: diffrax.AbstractAdjoint | None,
    *,
    rows: bool = False,
) -> Any:
    """core(followed, options) for the smallest network that is known to flow as the given one. A matter of types and
    shapes alone.

    A basis that depends on the weights has no derivatives where they are zero or dependent. So where derivatives are
    asked for, by `jax.grad` or an `adjoint`, the hidden layers are integrated as wide as they are. If the core keeps
    `rows` of what it integrates, those are of another shape; so a path is narrowed only where that is worth it.
    """

    def fewer_inputs(what: tuple[Network, Problem, Any]) -> Any:
        network, problem, options = what
        return core(_with_fewer_inputs(network, problem), options)

    def narrow(what: tuple[Network, Problem, Any]) -> Any:
        network, problem, options = what
        return core(_narrowed(_with_fewer_inputs(network, problem)), options)

    what = (network, problem, options)
    wide, narrower = eqx.filter_eval_shape(_both, network, problem)
    if adjoint is not None or narrower is None or (rows and 2 * _size(narrower.network) > _size(wide)):
        return fewer_inputs(what)
    return with_derivatives_of(_refused if rows else fewer_inputs, narrow)(what)


def _both(network: Network, problem: Problem) -> tuple[Network, Reduced | None]:
    wide = _with_fewer_inputs(network, problem).network
    return wide, wide.narrowed()


def _size(network: Network) -> int:
    return sum(v.size for v in network.weights)


def _refused(what: Any) -> Any:
    raise ValueError(
        "This path is followed with fewer hidden units than its network has, in a basis without derivatives. Pass "
        "method=gflow.Weights(adjoint=diffrax.RecursiveCheckpointAdjoint()), which follows all of them, or "
        "differentiate gflow.limit."
    )


def _with_fewer_inputs(network: Network, problem: Problem) -> Followed:
    found, small = network.reduced(problem.X), problem
    if found is not None and found.X is not None:
        small = problem.with_inputs(found.X)
    if found is None or small is None:
        return Followed(network, problem, problem, None)
    return Followed(found.network, small, problem, found)


def _narrowed(followed: Followed) -> Followed:
    found = followed.network.narrowed()
    assert found is not None
    reduction = found if followed.reduction is None else followed.reduction.then(found)
    return Followed(found.network, followed.problem, followed.given, reduction)
