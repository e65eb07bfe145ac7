"""Where a classification's direction goes as t → ∞.

Imports networks, problems, clocks, decomposition, coordinates, invariants, flow, dual_classification, finite_loss.
"""

import dataclasses
from typing import TypeVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from ._checks import is_concrete
from .clocks import ARC_LENGTH, LONGEST_ARC
from .coordinates import Coordinates
from .decomposition import Decomposition, decompose, lift, modes
from .dual_classification import direction_flow
from .finite_loss import remaining_angle
from .flow import REVERSE, Solution, Status, Stop, integrate
from .invariants import kkt_residual, multipliers, singular_vector_residual
from .networks import FullyConnected, LinearTensorNetwork, scale
from .problems import Classification

NetworkT = TypeVar("NetworkT", bound=LinearTensorNetwork)


def limit_direction(
    network: NetworkT,
    problem: Classification,
    *,
    log_alpha: float | Scalar = 0.0,
    log_loss: float | Scalar | None = None,
    tolerance: float | Scalar = 1e-3,
    max_steps: int = 4096,
    adjoint: diffrax.AbstractAdjoint = REVERSE,
) -> Solution[NetworkT]:
    """The direction of a linear network's coefficients after gradient flow from e^`log_alpha` times `network`.

    Where the network decomposes over the reals (`gflow.decomposition.decompose`) the flow is followed in dual
    coordinates: `route` is "dual". Elsewhere, or where values that decide it cannot be seen, the weights are
    integrated.

    - `log_loss`: where to read the direction, at most −2. By default −10^100 on the dual route (the largest that
      leaves room for squares of outputs) and −10^10 for weights. The record's `log_loss` says where it was read.
    - `tolerance`: a lane whose `error` exceeds it, in radians, is `not_certified`.
    - `adjoint`: as in `gflow.limit`.

    Directions converge like a power of s = −log L, so no finite loss gives the limit itself. `error` estimates the
    angle left from the turns between s^{1/2}, s^{3/4} and s (`gflow.finite_loss.remaining_angle`), plus the correction
    that the cap needed (`gflow.DirectionPath`). It is no less than the KKT residual, which sees what no turn
    shows: plateaus, over which small coordinates of a two-layer network grow for many decades. Data whose best
    direction is better than the next by a smaller share than `tolerance` may still be taken for those next ones.

    `certificate` holds, at the end, the "KKT residual" of the theorem's own problem (`gflow.invariants.kkt_residual`:
    Theorem 2 for networks with `gflow.decomposition.modes`, Corollary 1 for fully-connected ones; NaN for others)
    and the "singular-vector residual" of Theorem 1. Both fall to zero with the loss.

    May be compiled and batched. **Raises** ValueError for a `log_loss` above −2.

    ```python
    end = gflow.limit(network, problem)          # calls this for a Classification
    end.network.coefficients(), end.error, end.certificate["KKT residual"], end.log_loss
    ```
    """
    if is_concrete(log_loss) and log_loss is not None and float(log_loss) > -2:
        raise ValueError(
            f"log_loss={float(log_loss):g} is where the direction has not begun to converge; pass −2 or less, or read "
            "it off the path of gflow.flow."
        )
    found = decompose(network, problem)
    if found is None:
        target = jnp.asarray(-1e10 if log_loss is None else log_loss)
        return _by_weights(scale(network, jnp.exp(log_alpha)), problem, target, tolerance, max_steps, adjoint)
    target = jnp.asarray(-1e100 if log_loss is None else log_loss)
    return _by_dual(network, problem, found, log_alpha, target, tolerance, max_steps)


_READINGS = (0.5, 0.75, 1.0)  # powers of −log L, as `remaining_angle` has them


def _by_dual(
    network: NetworkT,
    problem: Classification,
    found: Decomposition,
    log_alpha: float | Scalar,
    target: Scalar,
    tolerance: float | Scalar,
    max_steps: int,
) -> Solution[NetworkT]:
    decades = jnp.log10(-target) * jnp.array(_READINGS)
    path = direction_flow(network, problem, decades, log_alpha=log_alpha, max_steps=max_steps)
    end = lift(network, problem, Coordinates.of(found.eta, log_alpha).eta(path.angles[-1]), log_alpha)
    log_loss = problem.log_loss(end(problem.X))
    # t ~ 1 / (L ‖∇ log L‖²), and the gradient is aligned with the weights: ‖∇ log L‖ ‖Θ‖ ~ −L log L, L layers.
    log_norm = jnp.log(sum(jnp.sum(v**2) for v in end.weights)) / 2
    log_time = -log_loss - 2 * (jnp.log(-end.depth * log_loss) - log_norm)
    residual = kkt_residual(path.rho[-1], path.multipliers[-1], problem.y[:, None] * found.Z, end.depth)
    error = jnp.maximum(remaining_angle(path.directions) + path.errors[-1], residual)
    uncertified = (path.status == Status.converged) & ~(error <= tolerance)
    return Solution(
        network=end,
        log_loss=log_loss,
        log_time=log_time,
        status=Status.where(uncertified, Status.not_certified, path.status),
        steps=path.steps,
        rejected_steps=path.rejected_steps,
        error=jnp.where(path.status == Status.converged, error, jnp.inf),
        certificate={
            "KKT residual": residual,
            "singular-vector residual": singular_vector_residual(end, problem, path.multipliers[-1]),
        },
        route="dual",
        networks=jax.tree.map(lambda v: v[None], end),
        log_times=log_time[None],
        log_losses=log_loss[None],
    )


def _by_weights(
    network: NetworkT,
    problem: Classification,
    target: Scalar,
    tolerance: float | Scalar,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint,
) -> Solution[NetworkT]:
    def run(target: Scalar) -> Solution[NetworkT]:  # from the start: the clock cannot start where L < e^−700
        end_only = diffrax.SubSaveAt(t1=True)
        stop = Stop(target)
        return integrate(network, problem, ARC_LENGTH, LONGEST_ARC, stop, 1e-8, max_steps, end_only, adjoint=adjoint)

    runs = jax.lax.map(run, -((-target) ** jnp.array(_READINGS)))
    end = jax.tree.map(lambda v: v[-1], runs)
    residual = _kkt_residual(end.network, problem)
    error = jnp.fmax(remaining_angle(jax.vmap(lambda n: n.coefficients())(runs.network)), residual)
    error = jnp.where(end.converged, error, jnp.inf)
    return dataclasses.replace(
        end,
        status=Status.where(end.converged & ~(error <= tolerance), Status.not_certified, end.status),
        steps=jnp.sum(runs.steps),
        rejected_steps=jnp.sum(runs.rejected_steps),
        error=error,
        certificate={
            "KKT residual": residual,
            "singular-vector residual": singular_vector_residual(end.network, problem),
        },
    )


def _kkt_residual(network: LinearTensorNetwork, problem: Classification) -> Scalar:
    """That of Theorem 2's problem, or of Corollary 1's, which has the ℓ2 norm of β like a single layer; else NaN."""
    if isinstance(network, FullyConnected):
        A, rho, depth = problem.X, network.coefficients(), 1
    elif (found := modes(network)) is not None:
        A, rho, depth = problem.X @ found.S.T, jnp.prod(jnp.stack(found.eta), axis=0), network.depth
    else:
        return jnp.full_like(problem.log_loss(problem.y), jnp.nan)
    return kkt_residual(rho, multipliers(network, problem), problem.y[:, None] * A, depth)
