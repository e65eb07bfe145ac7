"""Where a classification's direction goes as t → ∞.

Imports networks, problems, clocks, flow, finite_loss.
"""

import dataclasses
from typing import TypeVar

import diffrax
import jax.numpy as jnp
from jaxtyping import Scalar

from .clocks import ARC_LENGTH, LONGEST_ARC
from .finite_loss import angles
from .flow import Solution, Status, Stop, integrate
from .networks import LinearTensorNetwork
from .problems import Classification

NetworkT = TypeVar("NetworkT", bound=LinearTensorNetwork)


def limit_direction(
    network: NetworkT,
    problem: Classification,
    *,
    log_loss: float | Scalar = -1e10,
    tolerance: float | Scalar = 1e-3,
    max_steps: int = 4096,
) -> Solution[NetworkT]:
    """The direction of a linear network's coefficients after gradient flow down to `log_loss`.

    Directions converge like a power of −log L, so no finite loss gives the limit itself. `error` is the angle by
    which β turned over the last factor of ten in −log L; a lane where it exceeds `tolerance` is `not_certified`.
    The record's `log_loss` says where the direction was read. For its certificates see
    `gflow.predict.stationarity` and `gflow.predict.singular_vector_residual`.

    May be compiled and batched.

    ```python
    end = gflow.limit(network, problem)          # calls this for a Classification
    end.network.coefficients(), end.error, end.log_loss
    ```
    """
    end_only = diffrax.SubSaveAt(t1=True)
    first, second = (
        integrate(network, problem, ARC_LENGTH, LONGEST_ARC, Stop(target), 1e-8, max_steps, end_only)
        for target in (0.1 * jnp.asarray(log_loss), log_loss)
    )
    turned = angles(first.network.coefficients()[None], second.network.coefficients())[0]
    uncertified = second.converged & ~(turned <= tolerance)
    turned = jnp.where(first.converged & second.converged, turned, jnp.inf)
    status = Status.where(uncertified, Status.not_certified, second.status)
    return dataclasses.replace(second, status=status, error=turned)
