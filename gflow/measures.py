"""What is measured of an end or a path: angles, optimality residuals, crossings. One lane each; batch by `jax.vmap`.

Losses enter as *decades*, log₁₀(−log L), the only form in which −10^1000 fits into a float.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Inexact, Scalar

from .networks import LinearTensorNetwork, Network, with_weights
from .problems import Classification
from .records import unit


def angle(a: Float[ArrayLike, "... d"], b: Float[ArrayLike, "... d"]) -> Float[Array, "..."]:
    """The angle between two vectors in radians, or between rows of them; accurate also near 0 and π.

    NaN where a vector is zero. Vectors of any size that float can hold will do.

    ```python
    gflow.angle(path.directions, expected.coefficients)
    ```
    """
    a, b = unit(jnp.asarray(a)), unit(jnp.asarray(b))
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=-1), jnp.linalg.norm(a + b, axis=-1))


def distance(a: Float[ArrayLike, "... d"], b: Float[ArrayLike, "... d"]) -> Float[Array, "..."]:
    """‖a − b‖ / ‖b‖, or ‖a‖ where b is zero.

    ```python
    assert gflow.measures.distance(jnp.array([3.0, 4.0]), jnp.array([3.0, 0.0])) == 4 / 3
    ```
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    size = jnp.linalg.norm(b, axis=-1)
    return jnp.linalg.norm(a - b, axis=-1) / jnp.where(size > 0, size, 1.0)


def multipliers(network: Network, problem: Classification) -> Float[Array, " n"]:
    """The share of each data point in −∇ log L, |r_i| / Σ|r|, without under- or overflow.

    Support vectors' margins differ by O(1) in them: beyond −log L = 1e12 float64 no longer tells, nor do the margins of
    a limit that was solved for, which are equal.

    ```python
    q = gflow.measures.multipliers(network, labels)
    assert jnp.allclose(jnp.sum(q), 1.0)
    ```
    """
    q = jnp.abs(jax.grad(problem.log_loss)(network(problem.X)))
    return q / jnp.sum(q)


def singular_vector_residual(
    network: LinearTensorNetwork, problem: Classification, shares: Float[Array, " n"] | None = None
) -> Scalar:
    """How nearly the weights are singular vectors of M(−u), u the direction of Xᵀr; → 0 along a flow.

    With unit vectors v̂_l = v_l/‖v_l‖, s = M(−u)∘(v̂_1, …, v̂_L): the largest of
    ‖M(−u)∘(v̂_1, …, I, …, v̂_L) − s v̂_l‖ / |s| over the L layers. May be compiled and batched over a path.

    `shares` are |r_i| / Σ|r|; by default the network's own `multipliers`.

    Yun et al. 2021, Theorem 1. Together with `alignment` it tests any linear tensor network, whatever its
    architecture.

    ```python
    path = gflow.flow(network, labels, until=(gflow.Turning(1e-3), gflow.LogLoss(-1e6)))
    jax.vmap(lambda n: gflow.measures.singular_vector_residual(n, labels))(path.networks)
    ```
    """
    if not isinstance(network, LinearTensorNetwork):
        raise ValueError(
            f"Theorem 1 is for linear tensor networks; {type(network).__name__} is not multilinear in its weights."
        )
    # The residual r = −shares · y · Σ|r| only matters up to a factor, so that no loss is too small.
    minus_u = problem.X.T @ (problem.y * (multipliers(network, problem) if shares is None else shares))
    minus_u = minus_u / jnp.linalg.norm(minus_u)
    unit = tuple(v / jnp.linalg.norm(v) for v in network.weights)

    def applied(weights: tuple[Array, ...]) -> Scalar:
        return minus_u @ with_weights(network, weights).coefficients()

    s, gradients = jax.value_and_grad(applied)(unit)
    errors = [jnp.linalg.norm(g - s * v) for g, v in zip(gradients, unit, strict=True)]
    return jnp.max(jnp.stack(errors)) / jnp.abs(s)


def kkt_residual(
    rho: Inexact[Array | np.ndarray, " m"],
    multipliers: Float[Array | np.ndarray, " n"],
    A: Inexact[Array | np.ndarray, "n m"],
    depth: int,
) -> Scalar:
    """How far ρ is from a stationary point of min ‖ρ‖_{2/L} s.t. Re Aρ ≥ 1, free of scale.

    With u = Aᴴμ, μ the `multipliers` ≥ 0, stationary means u_j ρ̄_j = c |ρ_j|^{2/L} for all j and μ_i > 0 on
    the smallest margins alone, and where ρ_j = 0 also |u_j| ≤ c for L = 2 and u_j = 0 for L = 1. The residual
    is the largest of the relative violations,

        Σ|u_j ρ̄_j − c |ρ_j|^{2/L}| / Σ c |ρ_j|^{2/L},    Σ μ_i (m_i − min m) / Σ μ_i m_i,

    max |u_j| / c − 1 for L = 2, and max |u_j − c ρ_j| / max c |ρ_j| for L = 1. `A` is diag(y) X Sᵀ.

    Yun et al. 2021, Theorem 2; for L = 1 the ℓ2 margin, as of Corollary 1 with ρ = β.

    ```python
    A = labels.y[:, None] * labels.X  # S = I, and a direction whose only tight row is the first
    assert gflow.measures.kkt_residual(jnp.array([0.0, 0.5]), jnp.array([1.0, 0.0]), A, depth=2) < 1e-12
    ```
    """
    # Methods (np.real is one), not functions of jnp: NumPy's float64 stays so also where JAX's default is float32.
    u, margins = A.conj().T @ multipliers, np.real(A @ rho)
    found, wanted = u * rho.conj(), abs(rho) ** (2 / depth)
    c = np.real(found).sum() / wanted.sum()
    violations = [
        abs(found - c * wanted).sum() / (abs(c) * wanted).sum(),
        multipliers @ (margins - margins.min()) / abs(multipliers @ margins),
    ]
    if depth == 1:
        violations.append(abs(u - c * rho).max() / abs(c * rho).max())
    if depth == 2:
        violations.append(abs(u).max() / c - 1)
    return jnp.max(jnp.stack(violations))


def homogeneous_kkt_residual(network: Network, problem: Classification, shares: Float[Array, " n"]) -> Scalar:
    """How far Θ is from a stationary point of min ½‖Θ‖² s.t. y_i f(x_i; Θ) ≥ 1, free of scale.

    For any network that is homogeneous in its weights, with g = Σ q_i ∇(y_i f(x_i; Θ)) and q the `shares`, of the
    constraints' multipliers or of the points in −∇ log L: the larger of

        ‖g/‖g‖ − Θ/‖Θ‖‖    and    Σ q_i (m_i − min m) / |Σ q_i m_i|.

    Saddles and plateaus of the flow are stationary points as well as its limits.

    Lyu & Li 2020, Theorem 4.4.

    ```python
    v = jnp.array([0.0, 0.5**0.5])  # β = (0, ½): margins 1 and 1.5
    assert gflow.measures.homogeneous_kkt_residual(gflow.Diagonal((v, v)), labels, jnp.array([1.0, 0.0])) < 1e-12
    ```
    """
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), network.weights)
    gradient, theta = (ravel_pytree(v)[0] for v in (pull_back(problem.y * shares)[0], network.weights))
    margins = problem.margins(outputs)
    turned = jnp.linalg.norm(unit(gradient) - unit(theta))
    return jnp.maximum(turned, shares @ (margins - jnp.min(margins)) / jnp.abs(shares @ margins))


def decades_for_angle(
    decades: Float[Array, " T"], angles: Float[Array, " T"], wanted: float | Scalar
) -> Float[Array, ""]:
    """The loss, as log₁₀(−log L), from which on the angle stays below `wanted`; ∞ if it does not within the curve.

    Between the rows it interpolates log angle linearly in decades. Rows whose angle is NaN were not reached and are
    passed over. With log-times in the place of decades it is the log t needed.

    ```python
    decades, angles = jnp.array([1.0, 2.0, 3.0]), jnp.array([1e-1, 1e-2, 1e-3])
    assert jnp.allclose(gflow.measures.decades_for_angle(decades, angles, 10**-1.5), 1.5)
    ```
    """
    known = jnp.isfinite(angles) & jnp.isfinite(decades)  # a row with L ≥ 1 has no decades
    first_known = jnp.argsort(~known, stable=True)
    decades, angles, known = decades[first_known], angles[first_known], known[first_known]
    last = jnp.max(jnp.where(known & (angles > wanted), jnp.arange(angles.size), -1))
    i = jnp.clip(last, 0, angles.size - 2)
    high, low = jnp.log(angles[i]), jnp.log(angles[i + 1])
    crossing = decades[i] + (decades[i + 1] - decades[i]) * (high - jnp.log(wanted)) / (high - low)
    ends_below = last + 1 < jnp.sum(known)
    return jnp.where(ends_below, jnp.where(last < 0, decades[0], crossing), jnp.inf)


def remaining_angle(directions: Float[Array, "3 d"]) -> Scalar:
    """An estimate of the angle left from the last direction to the limit; read at s^{1/2}, s^{3/4} and s = −log L.

    Where the angle to the limit falls like a power s^{−p}, the two turns between the three have the ratio r = s^{−p/4},
    and what is left is the second turn times r / (1 − r). Sums of powers turn ever more slowly: r is taken to be at
    least ½, so that the estimate is no less than the second turn. It is ∞ where the turns do not shrink, and
    no less than 1e-6, since directions are integrated to six digits.

    ```python
    turned = jnp.array([0.4, 0.2, 0.1])  # radians from the limit, halved between the rows
    left = gflow.measures.remaining_angle(jnp.stack([jnp.cos(turned), jnp.sin(turned)], axis=1))
    assert jnp.allclose(left, 0.1)
    ```
    """
    first, second = angle(directions[0], directions[1]), angle(directions[1], directions[2])
    r = jnp.maximum(second / jnp.where(first > 0, first, 1.0), 0.5)
    left = jnp.where(r < 1, second * r / jnp.where(r < 1, 1 - r, 1.0), jnp.inf)
    return jnp.where(second <= _RESOLUTION, _RESOLUTION, left)


_RESOLUTION = 1e-6


def excess_norm(
    rho: Float[Array, "T m"], A: Float[Array, "n m"], p: float, minimum: float | Scalar
) -> Float[Array, " T"]:
    """By which share ‖ρ‖_p at unit margin, ‖ρ‖_p / min Aρ, exceeds its `minimum`. `A` is diag(y) X Sᵀ.

    For the theorem's norm p = 2/L. Negative margins give ∞.

    ```python
    A = labels.y[:, None] * labels.X
    rho = jnp.array([[0.2, 0.4], [0.0, 0.5]])  # two rows, the second one of least ℓ1 norm at unit margin
    assert jnp.allclose(gflow.measures.excess_norm(rho, A, 1.0, 0.5), jnp.array([0.2, 0.0]))
    ```
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

    ```python
    mu, w_hat, log_t = jnp.array([0.2, 0.0]), jnp.array([0.2, 0.4]), jnp.array(5.0)  # one margin is tight
    w = w_hat * log_t + jnp.array([-jnp.log(0.2), 0.0])  # so that exp(−xᵀw̃) = μ
    assert jnp.allclose(gflow.measures.soudry_residual(labels, mu, w_hat, w, log_t)[0], 1.0)
    ```
    """
    remainder = w - w_hat * log_time
    weights = jnp.exp(-problem.margins(problem.X @ remainder))
    return jnp.where(support > 0, weights / jnp.where(support > 0, support, 1.0), jnp.nan)


def time_averages(log_times: Float[ArrayLike, " T"], values: Float[ArrayLike, "T d"]) -> Float[Array, "T d"]:
    """x̄(t) = (1/t) ∫_0^t of `values`, as of the coefficients of a path, at its times e^`log_times`.

    By the trapezoidal rule between rows, and as if the first row had been there from t = 0 on: keep every step,
    `save=gflow.Steps(4096)`. t itself may be 10^1000.

    Along a regression's flow ν(t) = −∫_0^t r = t (y − X x̄(t)): as α → 0 the averages run along the path of the lasso as
    long as no coordinate returns to zero (Berthier 2025). See `lasso_residual` and `gflow.predict.saddles`.

    ```python
    path = gflow.flow(network, problem, log_alpha=-2300.0, save=gflow.Steps(4096))
    gflow.measures.time_averages(path.log_times, path.coefficients)
    ```
    """
    log_times, values = jnp.asarray(log_times), jnp.asarray(values)
    earlier, later = log_times[:-1], log_times[1:]
    shares = jnp.exp(jnp.where(earlier == -jnp.inf, -jnp.inf, earlier - jnp.where(later == -jnp.inf, 0.0, later)))

    def step(average: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        share, middle = row
        average = share * average + (1 - share) * middle
        return average, average

    _, averages = jax.lax.scan(step, values[0], (shares, (values[:-1] + values[1:]) / 2))
    return jnp.concatenate([values[:1], averages])


def lasso_residual(
    X: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, " n"],
    beta: Float[ArrayLike, " d"],
    penalties: Float[ArrayLike, "2 d"],
) -> Scalar:
    """How far β is from the optimality conditions of min ½‖y − Xβ‖² + Σ_j p_j⁺β_j⁺ + p_j⁻β_j⁻, relative to ‖Xᵀy‖_∞.

    `penalties` are p⁺ and p⁻. With u = Xᵀ(y − Xβ) and x_j the columns of X, the largest
    |‖x_j‖²β_j − [‖x_j‖²β_j + u_j shrunk by p_j]|, which is |u_j ∓ p_j| where β_j is well off zero, the excess of u_j
    over its bounds where it is zero, and changes smoothly between.

    ```python
    gflow.measures.lasso_residual(problem.X, problem.y, end.coefficients, jnp.full((2, 2), 0.1))
    ```
    """
    X, y, beta, (up, down) = jnp.asarray(X), jnp.asarray(y), jnp.asarray(beta), jnp.asarray(penalties)
    here = jnp.sum(X**2, axis=0) * beta
    moved = here + X.T @ (y - X @ beta)
    shrunk = jnp.maximum(moved - up, 0.0) - jnp.maximum(-moved - down, 0.0)
    return jnp.max(jnp.abs(here - shrunk)) / jnp.max(jnp.abs(X.T @ y))
