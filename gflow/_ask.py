"""What the verbs check before they start, and which method serves."""

import dataclasses
from typing import Any, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from ._checks import is_concrete, require_precision, to_scalar
from .dual.decoupled import decoupled
from .dynamics import Dynamics
from .flows.radau import MOST_OUTPUTS
from .methods import Auto, Dual, Method, Weights
from .networks import Network, with_weights
from .problems import Classification, Problem, Regression

NetworkT = TypeVar("NetworkT", bound=Network)
ProblemT = TypeVar("ProblemT", bound=Problem)


def checked(network: NetworkT, problem: ProblemT) -> tuple[NetworkT, ProblemT]:
    """The two with all real numbers in one dtype. **Raises** ValueError for anything else in their places."""
    if isinstance(network, Problem) and isinstance(problem, Network):
        raise ValueError("the network comes first and the problem second; they are swapped.")
    for name, value, kind in (("network", network, Network), ("problem", problem, Problem)):
        if not isinstance(value, kind):
            what = f"the class {value.__name__}, not an instance" if isinstance(value, type) else type(value).__name__
            hint = " Pass its .network." if hasattr(value, "network") and name == "network" else ""
            raise ValueError(f"{name} must be a gflow.{kind.__name__}; got {what}.{hint}")
    _check_weights(network)
    dtype = jnp.result_type(
        *network.weights, *(v for v in (problem.X, problem.y) if jnp.issubdtype(v.dtype, jnp.inexact))
    )
    return jax.tree.map(lambda v: _cast(v, dtype), (network, problem))


def _check_weights(network: Network) -> None:
    weights = network.weights
    if not isinstance(weights, tuple) or not weights:
        raise ValueError(
            f"weights of {type(network).__name__} must be a tuple of arrays; got {weights!r}. {_CONVERTER}"
        )
    for v in weights:
        if not eqx.is_array(v) or not jnp.issubdtype(v.dtype, jnp.floating):
            kind = getattr(v, "dtype", type(v).__name__)
            raise ValueError(
                f"weights of {type(network).__name__} must be real floating-point arrays; got {kind}. {_CONVERTER}"
            )


_CONVERTER = "Declare them as eqx.field(converter=gflow.as_weights)."


def _cast(v: Any, dtype: Any) -> Any:
    if not eqx.is_inexact_array(v) or v.dtype == dtype:
        return v
    return v.astype(jnp.result_type(dtype, jnp.complex64)) if jnp.iscomplexobj(v) else v.astype(dtype)


def log_scale(log_alpha: Any, network: Network) -> Scalar:
    """`log_alpha` as a scalar of the weights' dtype. **Raises** ValueError where it is seen to be infinite."""
    log_alpha = to_scalar("log_alpha", log_alpha).astype(jnp.result_type(*network.weights))
    if is_concrete(log_alpha) and jnp.isinf(log_alpha):
        raise ValueError(
            f"log_alpha={float(log_alpha):g} is a scale of 0 or ∞, from which no flow starts; pass a finite number. "
            "In dual coordinates −2302 (10^−1000) is an ordinary one."
        )
    return log_alpha


def scaled(network: NetworkT, log_alpha: Scalar) -> NetworkT:
    """e^log_alpha times the network. **Raises** ValueError where that is seen to underflow or overflow."""
    if is_concrete(log_alpha):
        finfo = jnp.finfo(log_alpha.dtype)
        room = float(jnp.log(finfo.max)) - 10.0
        if abs(float(log_alpha)) > room:
            raise ValueError(
                f"log_alpha={float(log_alpha):g} is beyond what weights in {log_alpha.dtype} can hold, ±{room:.0f}. "
                "Only dual coordinates go further: gflow.Diagonal, a real gflow.Orthogonal, or gflow.orthogonal_form "
                "of a network."
            )
        if log_alpha == 0.0:
            return network  # which may fill the memory: not a second time
    alpha = jnp.exp(log_alpha)
    return with_weights(network, tuple(alpha * v for v in network.weights))


def dual_form(network: Network, problem: Problem, method: Method, *, path: bool = False) -> Any:
    """The `Decoupled` form to be followed, or None where weights are. A matter of types and shapes alone.

    More data points than coordinates have a limit like others, but the dual state of a path to it runs to infinity.
    The limit of a regression is followed in modes that hold on its data alone, too.

    **Raises** ValueError where `Dual` is asked for and is not exact.
    """
    if not isinstance(method, Weights | Dual | Auto):
        raise ValueError(f"method must be gflow.Auto(), gflow.Weights(…) or gflow.Dual(…); got {method!r}.")
    if not isinstance(method, Auto) and method.rtol is not None:
        require_precision("rtol", method.rtol, jnp.result_type(*network.weights))
    if isinstance(method, Weights):
        return None
    found = None
    if isinstance(problem, Regression | Classification):
        found = decoupled(network, problem, on_data=not path and isinstance(problem, Regression))
    many = path and found is not None and isinstance(problem, Regression) and found.Z.shape[0] > found.Z.shape[1]
    if isinstance(method, Auto):
        return None if many else found
    if found is None:
        raise ValueError(
            f"{type(network).__name__} with {len(network.weights)} layers on this {type(problem).__name__} has no "
            "exact dual flow: that needs a Regression or Classification and a network with real modes() and two layers "
            "or more, such as Diagonal and real Orthogonal. If data and weights are even, or commute, pass "
            "gflow.orthogonal_form(network, problem); else method=gflow.Weights()."
        )
    if many:
        raise ValueError(
            f"{found.Z.shape[0]} data points for {found.Z.shape[1]} coordinates need not be fitted by any weights, and "
            "then the dual state has no end. Pass method=gflow.Weights(), or ask gflow.limit."
        )
    return found


def is_implicit(problem: Problem, method: Weights) -> bool:
    """Whether weights are followed by implicit steps: a matter of types and shapes alone."""
    # Whose loss separates into outputs, as they need it.
    return method.solver is None and isinstance(problem, Regression) and problem.y.size <= MOST_OUTPUTS


def explicit_attempt(method: Weights, steps: int) -> Weights:
    """As many explicit `steps`, worth a try where those of `method` are implicit."""
    return dataclasses.replace(method, solver=diffrax.Dopri8(), max_steps=min(steps, method.max_steps))


def dynamics(value: Any, dtype: Any) -> Dynamics:
    """The dynamics with all numbers in the weights' dtype. **Raises** ValueError for what is none."""
    if not isinstance(value, Dynamics):
        raise ValueError(
            "dynamics must be gflow.WeightDecay(…), gflow.Momentum(…) or gflow.SharpnessAware(…); pass none for "
            f"gradient flow; got {value!r}."
        )
    # Not weakly typed, as a Python float is: two calls that differ in that would be two programs.
    return jax.tree.map(lambda v: v.astype(dtype) if eqx.is_inexact_array(v) else v, value)


def default_tolerance(dtype: Any, double: float, single: float) -> float:
    """A default by precision."""
    return double if jnp.finfo(dtype).bits == 64 else single


def cap(method: Dual, dtype: Any) -> Scalar:
    """The cap asked for, or the default."""
    return jnp.asarray(default_tolerance(dtype, 1e4, 100.0) if method.cap is None else method.cap, dtype)


def dual_rtol(method: Dual, dtype: Any, double: float, single: float) -> Scalar:
    """The tolerance asked for, or the default."""
    return jnp.asarray(default_tolerance(dtype, double, single) if method.rtol is None else method.rtol, dtype)
