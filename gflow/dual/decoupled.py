"""A problem in the coordinates in which a network's flow decouples, and the way back."""

from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ..networks import Modes, Network, with_weights
from ..problems import Problem

NetworkT = TypeVar("NetworkT", bound=Network)


class Decoupled(NamedTuple):
    """Outputs Zρ with Z = X Sᵀ and ρ = Π_l η_l, over the reals; `eta` is the start's.

    `X`: the inputs on which the `modes` hold; None where they do on all.
    """

    Z: Float[Array, "n m"]
    eta: Float[Array, "L m"]
    modes: Modes
    X: Float[Array, "n d"] | None = None


def decoupled(network: Network, problem: Problem, *, on_data: bool = False) -> Decoupled | None:
    """The decoupled form of a network with real `modes`, or such `on_data`, and two layers or more; None for others.

    It is a matter of types and shapes alone.
    """
    X = problem.X if on_data and eqx.filter_eval_shape(_modes, network, None) is None else None
    kind = eqx.filter_eval_shape(_modes, network, X)  # complex S of long filters fill the memory
    if kind is None or not kind.is_real or len(kind.eta) < 2:
        return None
    modes = _modes(network, X)
    return Decoupled(modes.inputs(problem.X), jnp.stack(modes.eta), modes, X)


def _modes(network: Network, X: Array | None) -> Any:
    return network.modes() if X is None else network.modes_on(X)


def lift(
    network: NetworkT,
    eta: Float[Array, "L m"],
    log_alpha: Scalar,
    log_unit: float | Scalar = 0.0,
    X: Float[Array, "n d"] | None = None,
) -> NetworkT:
    """The network whose modes, on all inputs or on `X`, are e^log_unit `eta`, all of it in units of e^log_unit.

    The part of its weights outside the column spaces of the U_l stays what e^log_alpha times `network` has.
    """

    def modes_of(weights: tuple[Array, ...]) -> Any:
        return _modes(with_weights(network, weights), X)

    def eta_of(weights: tuple[Array, ...]) -> Array:
        return jnp.stack(modes_of(weights).eta)

    start, transposed = jax.vjp(eta_of, network.weights)  # η_l = U_lᵀv_l, and U_l η_l is its transpose
    (inside,), (ends,) = transposed(start), transposed(eta)
    alpha, copies = jnp.exp(log_alpha - log_unit), modes_of(network.weights).copies
    return with_weights(
        network,
        tuple(alpha * (v - u / copies) + w / copies for v, u, w in zip(network.weights, inside, ends, strict=True)),
    )
