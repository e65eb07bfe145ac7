"""What a classification's direction is at a finite loss, and how far from optimal (as asked by Moroshko et al. 2020).

Imports networks, problems, flow. Pure functions of arrays: one lane, to be batched by `jax.vmap`. Losses enter as
`decades`, log₁₀(−log L), the only form in which −10^1000 fits into a float.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Scalar

from .flow import Solution
from .networks import Network
from .problems import Classification


def direction_curve(path: Solution) -> tuple[Float[Array, " T"], Float[Array, "T d"]]:
    """`decades` and the directions β/‖β‖ along the path of a `gflow.flow`; decades are NaN while L ≥ 1."""
    betas = jax.vmap(lambda network: network.coefficients())(path.networks)
    return jnp.log10(-path.log_losses), betas / jnp.linalg.norm(betas, axis=-1, keepdims=True)


def angles(directions: Float[Array, "T d"], expected: Float[Array, " d"]) -> Float[Array, " T"]:
    """The angles to `expected` in radians, accurate also where they are tiny.

    ```python
    expected = gflow.predict.limit(network, problem).coefficients
    jax.vmap(gflow.finite_loss.angles, (0, None))(paths.directions, expected)
    ```
    """
    a = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    b = expected / jnp.linalg.norm(expected)
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))


def decades_for_angle(
    decades: Float[Array, " T"], angles: Float[Array, " T"], wanted: float | Scalar
) -> Float[Array, ""]:
    """The loss, as log₁₀(−log L), from which on the angle stays below `wanted`; ∞ if it does not within the curve.

    Between the rows it interpolates log angle linearly in decades. NaN rows, which were not reached, are passed over.
    """
    above = angles > wanted
    last = jnp.max(jnp.where(above, jnp.arange(angles.size), -1))
    i = jnp.clip(last, 0, angles.size - 2)
    high, low = jnp.log(angles[i]), jnp.log(angles[i + 1])
    crossing = decades[i] + (decades[i + 1] - decades[i]) * (high - jnp.log(wanted)) / (high - low)
    first = decades[jnp.argmax(jnp.isfinite(angles))]
    ends_below = angles[-1] <= wanted
    return jnp.where(ends_below, jnp.where(last < 0, first, crossing), jnp.inf)


def excess_norm(
    rho: Float[Array, "T m"], A: Float[Array, "n m"], p: float, minimum: float | Scalar
) -> Float[Array, " T"]:
    """By which share ‖ρ‖_p at unit margin, ‖ρ‖_p / min Aρ, exceeds its `minimum`. `A` is diag(y) X Sᵀ.

    For the theorem's norm p = 2/L. Negative margins give ∞.
    """
    norms = jnp.sum(jnp.abs(rho) ** p, axis=-1) ** (1 / p)
    margins = jnp.min(rho @ A.T, axis=-1)
    return jnp.where(margins > 0, norms / jnp.where(margins > 0, margins, 1.0) / minimum - 1, jnp.inf)


def kkt_residual(
    rho: Inexact[Array, " m"], multipliers: Float[Array, " n"], A: Inexact[Array, "n m"], depth: int
) -> Float[Array, ""]:
    """How far ρ is from a stationary point of min ‖ρ‖_{2/L} s.t. Aρ ≥ 1 (Yun et al. 2021, Theorem 2), free of scale.

    With u = Aᴴμ, μ the `multipliers` ≥ 0, stationary means u_j ρ̄_j = c |ρ_j|^{2/L} for all j and μ_i > 0 on
    the smallest margins alone, and for L = 2 also |u_j| ≤ c where ρ_j = 0. The residual is the largest of the
    relative violations.
    """
    u, margins = A.conj().T @ multipliers, jnp.real(A @ rho)
    found, wanted = u * jnp.conj(rho), jnp.abs(rho) ** (2 / depth)
    c = jnp.sum(jnp.real(found)) / jnp.sum(wanted)
    stationarity = jnp.sum(jnp.abs(found - c * wanted)) / jnp.sum(jnp.abs(c) * wanted)
    complementarity = multipliers @ (margins - jnp.min(margins)) / jnp.abs(multipliers @ margins)
    dual = jnp.max(jnp.abs(u)) / c - 1 if depth == 2 else jnp.zeros(())
    return jnp.maximum(jnp.maximum(stationarity, complementarity), dual)


def multipliers(network: Network, problem: Classification) -> Float[Array, " n"]:
    """The share of each data point in −∇ log L, |r_i| / Σ|r|, without under- or overflow."""
    q = jnp.abs(jax.grad(problem.log_loss)(network(problem.X)))
    return q / jnp.sum(q)


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
