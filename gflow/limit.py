"""Where the flow ends as t → ∞.

Imports networks, problems, clocks, flow, dual, limit_direction.
"""

import dataclasses
from typing import Any, TypeVar

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Scalar

from . import dual
from ._checks import require_precision
from .clocks import LAST_LOG_TIME, TIME
from .flow import REVERSE, Solution, Status, Stop, integrate
from .limit_direction import limit_direction
from .networks import Network, scale, with_weights
from .problems import Classification, Problem

NetworkT = TypeVar("NetworkT", bound=Network)


def limit(
    network: NetworkT,
    problem: Problem,
    *,
    log_alpha: float | Scalar = 0.0,
    tolerance: float | Scalar | None = None,
    max_steps: int = 16384,
    adjoint: diffrax.AbstractAdjoint = REVERSE,
) -> Solution[NetworkT]:
    """The limit point of gradient flow on a regression, from e^`log_alpha` times `network`, as t → ∞.

    Of a classification, whose weights grow without bound, it is the direction: see `gflow.limit_direction`,
    which is what is called then.

    Where the network is orthogonally decomposable (`gflow.dual.decompose`: diagonal, `Orthogonal`, even
    convolutions, commuting sensors) the limit solves n equations, found by Newton's method: `route` is "dual".

    Elsewhere the weights are integrated until the residual is small; the rest of the way is the minimum-norm
    correction Θ − Jᵀ(JJᵀ)^{−1} r, which is exact up to O(‖r‖²): `route` is "weights". So the slow and stiff
    end is never integrated, and a saddle, where the flow is slow but the loss is not small, is never taken for
    the end. The correction is made from two stopping points, and `error` is the distance of the two.

    - `log_alpha`: logarithm of the initial scale. On the dual route 10^−1000 is an ordinary scale.
    - `tolerance`: the relative error of the coefficients that is accepted, by default 1e-9 (1e-3 radians for a
      direction). A lane whose estimate is larger has the status `not_certified`. The steps are integrated to
      a tenth of it.
    - `max_steps`: of the ODE solver, or of Newton's method, which needs at most some 100.
    - `adjoint`: how derivatives go through integrated weights. The default serves `jax.grad`; for `jax.jvp` and
      `jax.jacfwd` pass `diffrax.ForwardMode()`. The dual route of a regression has its own derivatives, in
      both modes; that of a classification only forward ones.

    The error of a network without linear coefficients is that of its weights.

    May be compiled, batched and differentiated. **Raises** ValueError for a `tolerance` that the dtype of the weights
    cannot deliver.

    ```python
    end = gflow.limit(gflow.scale(network, 0.01), problem)
    end.network.coefficients(), end.converged, end.error
    ```
    """
    if isinstance(problem, Classification):
        if not hasattr(network, "coefficients"):
            raise TypeError(
                f"The limit of a classification is the direction of its linear coefficients, which "
                f"{type(network).__name__} has not. Use gflow.flow(network, problem, turning=1e-3) and look at the "
                "network it ends with."
            )
        tolerance = 1e-3 if tolerance is None else tolerance
        linear: Any = network
        return limit_direction(
            linear, problem, log_alpha=log_alpha, tolerance=tolerance, max_steps=max_steps, adjoint=adjoint
        )
    tolerance = 1e-9 if tolerance is None else tolerance
    require_precision("tolerance", tolerance, jnp.result_type(*network.weights), epsilons=5e4)
    if dual.decompose(network, problem) is not None:
        return dual.limit(network, problem, log_alpha=log_alpha, tolerance=tolerance, max_steps=min(max_steps, 200))
    return _limit_of_weights(scale(network, jnp.exp(log_alpha)), problem, tolerance, max_steps, adjoint)


def _limit_of_weights(
    network: NetworkT,
    problem: Problem,
    tolerance: float | Scalar,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint = REVERSE,
) -> Solution[NetworkT]:
    fractions = 0.3 * jnp.sqrt(tolerance) * jnp.array([1.0, _SECOND_STOP])  # of the residual, to stop at
    start_loss = problem.log_loss(network(problem.X))
    no_network_loss = problem.log_loss(jnp.zeros_like(problem.y))
    loss_scale = jnp.where(jnp.isfinite(no_network_loss), no_network_loss, start_loss)  # y = 0 sets no scale

    def leg(stop: NetworkT, fraction: Scalar) -> tuple[NetworkT, tuple[Solution[NetworkT], NetworkT]]:
        end_only = diffrax.SubSaveAt(t1=True)
        target = jnp.maximum(loss_scale + 2 * jnp.log(fraction), -700.0)  # y = 0 = f sets none: no loss is no loss
        # The limit's error is then at most 0.12 of the tolerance (benchmarks/limit_tolerance.py).
        rtol = 0.1 * tolerance
        run = integrate(stop, problem, TIME, LAST_LOG_TIME, Stop(target), rtol, max_steps, end_only, adjoint=adjoint)
        corrected = minimum_norm_correction(run.network, problem)
        end = jax.tree.map(lambda new, old: jnp.where(run.converged, new, old), corrected, run.network)
        return run.network, (run, end)

    _, (runs, ends) = jax.lax.scan(leg, network, fractions)
    first, end = (jax.tree.map(lambda v, i=i: v[i], ends) for i in (0, 1))
    run = jax.tree.map(lambda v: v[-1], runs)
    # The correction's error is quadratic in the residual; to claim only the first power is the safe side.
    distance = _relative_size(_measured(first) - _measured(end), _measured(end))
    error = jnp.where(run.converged, _SECOND_STOP * distance, jnp.inf)
    uncertified = run.converged & ~(error <= tolerance)
    log_loss, log_time = problem.log_loss(end(problem.X)), jnp.full_like(run.log_loss, jnp.inf)
    residual = _relative_size(problem.residual(end(problem.X)), problem.y)
    return dataclasses.replace(
        run,
        network=end,
        log_loss=log_loss,
        log_time=log_time,
        status=Status.where(uncertified, Status.not_certified, run.status),
        steps=jnp.sum(runs.steps),
        rejected_steps=jnp.sum(runs.rejected_steps),
        error=error,
        certificate={"residual": residual},
        networks=jax.tree.map(lambda v: v[None], end),
        log_times=log_time[None],
        log_losses=log_loss[None],
    )


_SECOND_STOP = 1e-2  # the second stopping point's residual, in units of the first's


def minimum_norm_correction(network: NetworkT, problem: Problem) -> NetworkT:
    """The weights Θ − Jᵀ(JJᵀ)^{−1} r, with J = ∂f/∂Θ and r the residual: the rest of the way to zero loss."""
    weights, unravel = ravel_pytree(network.weights)

    def outputs(flat: Float[Array, " D"]) -> Float[Array, " n"]:
        return with_weights(network, unravel(flat))(problem.X)

    jacobian = lineax.MatrixLinearOperator(jax.jacrev(outputs)(weights))
    residual = problem.residual(outputs(weights))
    step = lineax.linear_solve(jacobian, residual, lineax.SVD(), throw=False).value
    return with_weights(network, unravel(weights - step))


def _measured(network: Any) -> Float[Array, " k"]:
    return network.coefficients() if hasattr(network, "coefficients") else ravel_pytree(network.weights)[0]


def _relative_size(a: Float[Array, " d"], b: Float[Array, " d"]) -> Scalar:
    size = jnp.linalg.norm(b)
    return jnp.linalg.norm(a) / jnp.where(size > 0, size, 1.0)
