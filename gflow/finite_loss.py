"""What a classification's direction is at a finite loss, and how far from optimal (as asked by Moroshko et al. 2020).

Imports problems, invariants, flow, dual_classification. Pure functions: one lane, to be batched by `jax.vmap`. Losses
enter as `decades`, log₁₀(−log L), the only form in which −10^1000 fits into a float.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Scalar

from .dual_classification import DirectionPath
from .flow import Solution
from .invariants import kkt_residual as kkt_residual
from .invariants import multipliers as multipliers
from .problems import Classification


def direction_curve(path: Solution | DirectionPath) -> tuple[Float[Array, " T"], Float[Array, "T d"]]:
    """`decades` and directions β/‖β‖ along a `gflow.flow` or `gflow.direction_flow`; decades are NaN where L ≥ 1."""
    if isinstance(path, DirectionPath):
        return path.decades, path.directions
    betas = jax.vmap(lambda network: network.coefficients())(path.networks)
    return jnp.log10(-path.log_losses), betas / jnp.linalg.norm(betas, axis=-1, keepdims=True)


def angle_curve(path: Solution | DirectionPath, expected: Float[ArrayLike, " d"]) -> Float[Array, " T"]:
    """The angle to `expected` at every entry of a path: against its `decades`, or a Solution's `log_times`.

    ```python
    at = gflow.finite_loss.angle_curve(path, expected)
    gflow.finite_loss.decades_for_angle(path.log_times, at, 0.01)    # the log t from which on it is below 0.01
    ```
    """
    return angles(direction_curve(path)[1], expected)


def angles(directions: Float[ArrayLike, "*T d"], expected: Float[ArrayLike, " d"]) -> Float[Array, "*T"]:
    """The angles to `expected` in radians, without the cancellation of arccos near 0 and π.

    ```python
    expected = gflow.predict.limit(network, problem).coefficients
    jax.vmap(gflow.finite_loss.angles, (0, None))(paths.directions, expected)
    ```
    """
    a, b = jnp.asarray(directions), jnp.asarray(expected)
    a = a / jnp.linalg.norm(a, axis=-1, keepdims=True)
    b = b / jnp.linalg.norm(b)
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))


def decades_for_angle(
    decades: Float[Array, " T"], angles: Float[Array, " T"], wanted: float | Scalar
) -> Float[Array, ""]:
    """The loss, as log₁₀(−log L), from which on the angle stays below `wanted`; ∞ if it does not within the curve.

    Between the rows it interpolates log angle linearly in decades. Rows whose angle is NaN were not reached and are
    passed over. With log-times in the place of decades it is the log t needed.
    """
    above = angles > wanted
    last = jnp.max(jnp.where(above, jnp.arange(angles.size), -1))
    i = jnp.clip(last, 0, angles.size - 2)
    high, low = jnp.log(angles[i]), jnp.log(angles[i + 1])
    crossing = decades[i] + (decades[i + 1] - decades[i]) * (high - jnp.log(wanted)) / (high - low)
    crossing = jnp.where(jnp.isnan(crossing), decades[i + 1], crossing)  # from a row with L ≥ 1
    first = decades[jnp.argmax(jnp.isfinite(angles) & jnp.isfinite(decades))]
    ends_below = angles[-1] <= wanted
    return jnp.where(ends_below, jnp.where(last < 0, first, crossing), jnp.inf)


def remaining_angle(directions: Float[Array, "3 d"]) -> Scalar:
    """An estimate of the angle left from the last direction to the limit; read at s^{1/2}, s^{3/4} and s = −log L.

    Where the angle to the limit falls like a power s^{−p}, the two turns between the three have the ratio r = s^{−p/4},
    and what is left is the second turn times r / (1 − r). Sums of powers turn ever more slowly: r is taken to be at
    least ½, so that the estimate is no less than the second turn. It is ∞ where the turns do not shrink, and
    no less than 1e-6, since directions are integrated to six digits.
    """
    first, second = angles(directions[0], directions[1]), angles(directions[1], directions[2])
    r = jnp.maximum(second / jnp.where(first > 0, first, 1.0), 0.5)
    left = jnp.where(r < 1, second * r / jnp.where(r < 1, 1 - r, 1.0), jnp.inf)
    return jnp.where(second <= _RESOLUTION, _RESOLUTION, left)


_RESOLUTION = 1e-6


def excess_norm(
    rho: Float[Array, "T m"], A: Float[Array, "n m"], p: float, minimum: float | Scalar
) -> Float[Array, " T"]:
    """By which share ‖ρ‖_p at unit margin, ‖ρ‖_p / min Aρ, exceeds its `minimum`. `A` is diag(y) X Sᵀ.

    For the theorem's norm p = 2/L. Negative margins give ∞.
    """
    norms = jnp.sum(jnp.abs(rho) ** p, axis=-1) ** (1 / p)
    margins = jnp.min(rho @ A.T, axis=-1)
    return jnp.where(margins > 0, norms / jnp.where(margins > 0, margins, 1.0) / minimum - 1, jnp.inf)


def soudry_residual(
    problem: Classification,
    support: Float[Array, " n"],
    w_hat: Float[Array, " d"],
    w: Float[Array, " d"],
    log_time: Scalar,
) -> Float[Array, " n"]:
    """exp(−y_i x_iᵀ w̃) / μ_i for every support vector, with w̃ = w − ŵ log t, which tends to 1 for the linear model.

    ŵ = Σ μ_i y_i x_i is the hard-margin solution; `support` holds μ, 0 off the support vectors, where
    the result is NaN.
    Soudry et al. 2018, Theorem 1 and their equation for w̃, with step size 1 and the exponential loss.
    """
    remainder = w - w_hat * log_time
    weights = jnp.exp(-problem.margins(problem.X @ remainder))
    return jnp.where(support > 0, weights / jnp.where(support > 0, support, 1.0), jnp.nan)
