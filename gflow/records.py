"""What the verbs return: where a flow ends and how it got there. Fixed pytrees, whatever the route."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._checks import all_concrete, is_concrete
from .networks import LinearNetwork, Network, Reduced, with_weights

NetworkT = TypeVar("NetworkT", bound=Network)


class Status(eqx.Enumeration):
    """How a run ended, one for every lane. `gflow.Status[status]` is the name of one lane's; see `explain`.

    ```python
    assert end.status == gflow.Status.converged
    assert gflow.Status[end.status] == "converged"
    ```
    """

    converged = "converged"
    finished = "finished"
    step_limit = "step limit"
    not_finite = "not finite"
    no_descent = "no descent"
    not_certified = "not certified"
    least_squares = "least squares"
    passed_zero = "passed zero"


_MEANINGS = {
    "converged": "the criterion was met",
    "finished": "the last row asked for, or the clock's end, was reached",
    "step limit": "the solver used all its steps first. If the loss still falls, pass a method with a larger "
    "max_steps; where it has come to rest no weights fit, or a flow slides along a kink, and more steps do not help",
    "not finite": "the solver met infinite numbers or NaN, or could not go on",
    "no descent": "the gradient vanished first: the data are not separable, or the start is stationary",
    "not certified": "an end was reached, but its error estimate exceeds the tolerance",
    "least squares": "the limit is reached and certified, but at a positive loss: no weights that the flow can reach "
    "fit the data, and the outputs are the nearest to y that there are",
    "passed zero": "a weight of the momentum flow (the sum or difference of two layers) passes through zero, and no "
    "start of gradient flow is known that ends at the same point. Pass a smaller inertia, or follow it by gflow.flow",
}


def explain(status: Status) -> str:
    """What one lane's status means, and what to do about it.

    ```python
    print(gflow.explain(end.status))
    ```
    """
    name = Status[status]
    return f"{name}: {_MEANINGS[name]}"


class Route(eqx.Enumeration):
    """What was computed: the weights themselves, the dual equations, or descent.

    ```python
    assert end.route == gflow.Route.dual
    ```
    """

    weights = "weights"
    dual = "dual"
    descent = "descent"


def status_of(result: diffrax.RESULTS) -> Status:
    """The one table from a solver's outcome to a status, before any criterion has been looked at."""
    ended = (result == diffrax.RESULTS.successful) | (result == diffrax.RESULTS.event_occurred)
    ran_out = Status.where(result == diffrax.RESULTS.max_steps_reached, Status.step_limit, Status.not_finite)
    return Status.where(ended, Status.finished, ran_out)


def first_of(*cases: tuple[Bool[Array, ""], Status], otherwise: Status) -> Status:
    """The status of the first case that holds."""
    for holds, status in reversed(cases):
        otherwise = Status.where(holds, status, otherwise)
    return otherwise


class Certificate(NamedTuple):
    """Evidence for an end, recomputed from what is returned. NaN where it does not apply.

    - `residual`: ‖f − y‖ / ‖y‖ of a regression's limit; in dual coordinates the largest |f_i − y_i| of a row, relative
      to |y_i| + max_j |X_ij| max |β| (y are the least-squares outputs where no weights fit).
    - `dual_residual`, `gap`: of the convex program that a limit in dual coordinates solves, relative.
    - `kkt_residual`: of the margin problem that a classification's direction solves (`gflow.measures.kkt_residual`, or
      where no theorem has one `gflow.measures.homogeneous_kkt_residual`), and of what weight decay minimises that is
      never switched off, relative to the penalty's slopes.
    - `singular_vector_residual`: of Yun et al. 2021, Theorem 1.

    ```python
    assert end.certificate.residual < 1e-12
    assert jnp.isnan(end.certificate.kkt_residual)  # that of classifications
    ```
    """

    residual: Float[Array, "*lanes"]
    dual_residual: Float[Array, "*lanes"]
    gap: Float[Array, "*lanes"]
    kkt_residual: Float[Array, "*lanes"]
    singular_vector_residual: Float[Array, "*lanes"]

    @classmethod
    def of(cls, like: Array, **found: Array) -> "Certificate":
        """The certificate with what was found, and NaN like `like` elsewhere."""
        nothing = jnp.full_like(like, jnp.nan)
        return cls(*(jnp.asarray(found.get(name, nothing), like.dtype) for name in cls._fields))


class Solution(eqx.Module, Generic[NetworkT]):
    """Where a flow ends.

    - `network`, `log_scale`: the final weights are e^{log_scale} times those of `network`. `log_scale` is 0 wherever
      weights can be represented.
    - `log_loss`, `log_time`: log L and log t there; log t = ∞ for a limit.
    - `status`: a `gflow.Status`; `converged` tells whether it is `Status.converged`.
    - `route`: a `gflow.Route`.
    - `error`: a bound on the error of the coefficients, relative to their norm, or of their direction in radians; NaN
      where none was made, as for a path.
    - `certificate`: a `gflow.Certificate`.
    - `steps`, `rejected_steps`: of the solver; Newton's iterations for limits in dual coordinates.

    The same pytree for every route, so that lanes stack; `end[i]` is one lane of a batch. Save one by
    `equinox.tree_serialise_leaves(path, end)`.

    ```python
    end = gflow.limit(start, problem)
    assert end.converged and end.error < 1e-9
    assert jnp.allclose(problem.X @ end.coefficients, problem.y)
    ```
    """

    network: NetworkT
    log_scale: Float[Array, "*lanes"]
    log_loss: Float[Array, "*lanes"]
    log_time: Float[Array, "*lanes"]
    status: Status
    route: Route
    error: Float[Array, "*lanes"]
    certificate: Certificate
    steps: Int[Array, "*lanes"]
    rejected_steps: Int[Array, "*lanes"]

    @property
    def converged(self) -> Bool[Array, "*lanes"]:
        return self.status == Status.converged

    @property
    def coefficients(self) -> Float[Array, "*lanes d"]:
        """The linear coefficients β."""
        return _coefficients(self.network, self.log_scale)

    @property
    def direction(self) -> Float[Array, "*lanes d"]:
        """β/‖β‖, also where β itself cannot be represented."""
        return _directions(self.network, self.log_scale)

    def counts(self) -> dict[str, int]:
        """How many lanes ended with which status."""
        return _counts(self.status)

    def __getitem__(self, lane: Any) -> "Solution[NetworkT]":
        return _lane(self, self.log_loss, lane)

    def __repr__(self) -> str:
        return f"<Solution of {type(self.network).__name__}, {_summary(self)}>"


class Effective(eqx.Module, Generic[NetworkT]):
    """The start from which gradient flow ends where a descent of two layers ends (Even et al. 2023).

    With η_l = U_lᵀv_l and w_± = η_1 ± η_2, a step with the update −γ ∇L multiplies w_± by 1 ∓ γg, where g = Sᵀ∂L/∂β.
    The start of which the same flow would pass through the last iterate is w_±(0) Π_k (1 ∓ γ_k g_k) e^{±γ_k g_k}.

    - `log_sizes`: log |w_+| and log |w_−| of that start, shape (2, m): −∞ for 0. They may be beyond what weights hold.
    - `signs`: of w_+ and w_−, shape (2, m). They turn where γ|g| > 1; where a limit ends only sizes decide.
    - `network`: the start as a network, as far as weights can hold it: w_−/w_+ below round-off is 0 there.
    - `last`: the largest γ|g_j| of the last step. The rest of the descent would move log |w_±| by about its square.
    - `off`: the largest share of an update that was not along the gradient: round-off, or the start is void.

    ```python
    run = gflow.descend(start, problem, optax.sgd(0.3), steps=jnp.array([10_000]), effective=True)
    run.effective.log_sizes
    ```
    """

    log_sizes: Float[Array, "*lanes 2 m"]
    signs: Float[Array, "*lanes 2 m"]
    network: NetworkT
    last: Float[Array, "*lanes"]
    off: Float[Array, "*lanes"]


class Path(eqx.Module, Generic[NetworkT]):
    """How a flow got to its end.

    One row a saved state, along an axis of length T after those of the lanes:

    - `networks`, `log_scales`: the weights are e^{log_scale} times those of the networks. `log_scales` are 0 but in the
      clock of `gflow.Decades`, which goes where weights overflow. `coefficients` and `directions` know.
    - `followed`, `reduction`: the rows as they are in memory. By a `gflow.Reduced` that is not None the networks stand
      for larger ones, which `networks` writes out when it is asked for: all rows of them.
    - `log_times`, `log_losses`: log t and log L; `decades`: log₁₀(−log L), which fits into a float where log L does
      not, NaN where L ≥ 1.
    - `multipliers`: the share of each data point in −∇ log L of a classification followed in dual coordinates, where
      they cannot be read from the weights; NaN elsewhere.
    - `errors`: by how far `directions` may be off, in radians, where they are followed beyond exact integration
      (`gflow.Dual`); 0 elsewhere.
    - `end`: the `Solution` at the end, whose fields `network`, `converged`, `status`, `log_loss`, … are this path's
      too.
    - `effective`: the `Effective` start of a descent that was asked for it, and None elsewhere.

    Rows after the end repeat the end; rows that a failed run did not reach do so too, or are NaN in the clock of
    `gflow.Decades`. `path[i]` is one lane of a batch.

    ```python
    path = gflow.flow(start, problem)
    assert path.coefficients.shape == (128, 2)
    assert path.converged and path.end.log_loss < -30
    ```
    """

    followed: Any
    log_scales: Float[Array, "*lanes T"]
    log_times: Float[Array, "*lanes T"]
    log_losses: Float[Array, "*lanes T"]
    decades: Float[Array, "*lanes T"]
    multipliers: Float[Array, "*lanes T n"]
    errors: Float[Array, "*lanes T"]
    end: Solution[NetworkT]
    reduction: Reduced | None = None
    effective: Effective[NetworkT] | None = None

    @property
    def networks(self) -> NetworkT:
        """The networks, row by row."""
        return self.followed if self.reduction is None else _lifted(self.reduction, self.followed, self._lanes)

    @property
    def _lanes(self) -> int:
        return jnp.ndim(self.log_losses) - 1

    @property
    def network(self) -> NetworkT:
        return self.end.network

    @property
    def converged(self) -> Bool[Array, "*lanes"]:
        return self.end.converged

    @property
    def status(self) -> Status:
        return self.end.status

    @property
    def log_loss(self) -> Float[Array, "*lanes"]:
        return self.end.log_loss

    @property
    def log_time(self) -> Float[Array, "*lanes"]:
        return self.end.log_time

    @property
    def steps(self) -> Int[Array, "*lanes"]:
        return self.end.steps

    @property
    def rejected_steps(self) -> Int[Array, "*lanes"]:
        return self.end.rejected_steps

    @property
    def coefficients(self) -> Float[Array, "*lanes T d"]:
        """The linear coefficients β, row by row."""
        if self.reduction is None:
            return _coefficients(self.followed, self.log_scales)
        _require_linear(self.end.network)
        return _lifted_coefficients(self.reduction, self.followed, self._lanes)

    @property
    def directions(self) -> Float[Array, "*lanes T d"]:
        """β/‖β‖, row by row, also where β itself cannot be represented."""
        return _directions(self.followed, self.log_scales) if self.reduction is None else unit(self.coefficients)

    def counts(self) -> dict[str, int]:
        """How many lanes ended with which status."""
        return self.end.counts()

    def __getitem__(self, lane: Any) -> "Path[NetworkT]":
        return _lane(self, self.end.log_loss, lane)

    def __repr__(self) -> str:
        rows = f"{self.log_losses.shape[-1]} rows, " if eqx.is_array(self.log_losses) else ""
        return f"<Path of {type(self.network).__name__}, {rows}{_summary(self.end)}>"


def under_lanes(function: Callable, lanes: int) -> Callable:
    """`function` of one item, for items with so many leading axes."""
    for _ in range(lanes):
        function = jax.vmap(function)
    return function


def _coefficients(network: Any, log_scale: Array) -> Array:
    _require_linear(network)

    def one(network: LinearNetwork, log_scale: Array) -> Array:
        if network.degree is not None:
            return jnp.exp(network.degree * log_scale) * network.coefficients()
        return with_weights(network, tuple(jnp.exp(log_scale) * v for v in network.weights)).coefficients()

    return under_lanes(one, jnp.ndim(log_scale))(network, log_scale)


def _directions(network: Any, log_scale: Array) -> Array:
    _require_linear(network)
    return unit(_coefficients(network, log_scale if network.degree is None else jnp.zeros_like(log_scale)))


def unit(v: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """v/‖v‖, row by row; NaN where v is zero."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=-1, keepdims=True))
    v = jnp.ldexp(v, -jnp.frexp(largest)[1])  # whose squares neither over- nor underflow; 1/largest may underflow
    return v / jnp.linalg.norm(v, axis=-1, keepdims=True)


@eqx.filter_jit
def _lifted(reduction: Reduced, rows: Network, lanes: int) -> Any:
    return under_lanes(lambda reduction, rows: jax.vmap(reduction.lift)(rows), lanes)(reduction, rows)


@eqx.filter_jit  # what of the larger networks coefficients do not need is then never in memory
def _lifted_coefficients(reduction: Reduced, rows: Network, lanes: int) -> Array:
    return under_lanes(lambda reduction, rows: jax.vmap(reduction.coefficients)(rows), lanes)(reduction, rows)


def _require_linear(network: Any) -> None:
    if not isinstance(network, LinearNetwork):
        raise ValueError(
            f"{type(network).__name__} has no linear coefficients; look at its `network` and its outputs network(X)."
        )


def _lane(record: Any, like: Array, lane: Any) -> Any:
    if jnp.ndim(like) == 0:
        raise TypeError("this is one lane, not a batch: it has no [i]. Rows of a path are those of its arrays.")
    if all_concrete(lane):
        np.broadcast_to(0, jnp.shape(like))[lane]  # raises IndexError beyond the last, where JAX gives the last
    return jax.tree.map(lambda v: v[lane], record)


def _counts(status: Status) -> dict[str, int]:
    every = {name: getattr(Status, name.replace(" ", "_")) for name in _MEANINGS}
    counts = {name: int(np.sum(status == member)) for name, member in every.items()}
    return {name: count for name, count in counts.items() if count}


def _summary(end: Solution) -> str:
    if not eqx.is_array(end.log_loss) or not is_concrete(end.log_loss):  # JAX's messages print records of anything
        return "traced"
    lanes = "" if end.log_loss.ndim == 0 else f"{' × '.join(map(str, end.log_loss.shape))} lanes: "
    counted = ", ".join(f"{count} {name}" if lanes else name for name, count in end.counts().items())
    worst = f", error at most {float(jnp.max(end.error)):.1e}" if not jnp.isnan(end.error).any() else ""
    return f"{lanes}{counted}, log-loss up to {float(jnp.max(end.log_loss)):.4g}{worst}"
