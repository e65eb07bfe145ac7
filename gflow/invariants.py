"""What the flow conserves, how fast its loss must fall, and how it aligns.

Imports networks, problems, decomposition.

Each function is about one network; batch over a path with `jax.vmap`, for instance over `path.networks`.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Scalar

from .decomposition import modes
from .networks import FullyConnected, LinearTensorNetwork, MatrixProduct, Network, with_weights
from .problems import Classification, Problem, Regression


def conserved(network: LinearTensorNetwork, problem: Problem) -> dict[str, Array]:
    """The quantities that stay constant along the flow of `network` on `problem`, by name.

    - "norms": ‖v_l‖² − ‖v_L‖², any linear tensor network.
    - "balance" (one entry a pair of layers): W_lᵀW_l − W_{l+1}W_{l+1}ᵀ, fully-connected and matrix products.
    - "modes": |[U_lᵀv_l]_j|² − |[U_Lᵀv_L]_j|², networks that satisfy Assumption 1.
    - "outside row(X)": W_1 without its part in the row space of X, fully-connected networks.

    ```python
    jax.vmap(lambda n: gflow.invariants.conserved(n, problem))(path.networks)
    ```

    Yun et al. 2021, appendices C.1, D.1 and H.
    """
    squares = jnp.stack([jnp.sum(v**2) for v in network.weights])
    found = {"norms": squares[:-1] - squares[-1]}
    if isinstance(network, FullyConnected | MatrixProduct):
        matrices = [W if W.ndim == 2 else W[:, None] for W in network.weights]
        for layer, (W, V) in enumerate(pairwise(matrices)):
            found[f"balance {layer}"] = W.T @ W - V @ V.T
    decomposed = modes(network)
    if decomposed is not None:
        moduli = jnp.stack([jnp.abs(e) ** 2 for e in decomposed.eta])
        found["modes"] = moduli[:-1] - moduli[-1]
    if isinstance(network, FullyConnected) and len(network.weights) > 1:
        basis, _ = jnp.linalg.qr(problem.X.T)
        found["outside row(X)"] = network.weights[0] - basis @ (basis.T @ network.weights[0])
    return found


def drift(networks: LinearTensorNetwork, problem: Problem) -> dict[str, Scalar]:
    """How far the conserved quantities move along a path, a free certificate of the integration's error.

    `networks` has a leading time axis, as in `gflow.flow(…).networks`. Every number is the largest change
    since the first entry, relative to the largest ‖v_l‖² on the path (‖v_l‖ for "outside row(X)").

    ```python
    max(gflow.invariants.drift(path.networks, problem).values())
    ```
    """
    values = jax.vmap(lambda network: conserved(network, problem))(networks)
    size = jnp.max(jnp.stack([jnp.max(jnp.sum(v.reshape(len(v), -1) ** 2, axis=1)) for v in networks.weights]))
    return {
        name: jnp.max(jnp.abs(value - value[0])) / (jnp.sqrt(size) if name == "outside row(X)" else size)
        for name, value in values.items()
    }


def steepness(network: LinearTensorNetwork, problem: Problem) -> Scalar:
    """c ≥ 0 such that ‖∇L‖² ≥ c ‖Xᵀr‖² at all times of the flow from the start `network`.

    The largest of what the conserved quantities give; 0 where the start gives none. λ includes the scale
    (it is the paper's α²λ).

    - Assumption 1 with one layer k below all others in every mode, |η_l|² − |η_k|² ≥ λ: c = λ^{L−1} s_min(S)².
    - Fully-connected, d_L = d, W_lᵀW_l ⪰ W_{l+1}W_{l+1}ᵀ and W_{L−1}ᵀW_{L−1} − w_L w_Lᵀ ⪰ λI: c = λ^{L−1}.
    - Two layers, one data point, a_j² − b_j² ≥ λ (or the reverse) in a singular basis of M(x): c = λ ‖s‖² / ‖x‖².

    Yun et al. 2021, appendices D.1.1, H.1 and G.1.
    """
    bounds = [jnp.zeros((), problem.X.dtype)]
    decomposed = modes(network)
    if decomposed is not None:
        moduli = jnp.stack([jnp.abs(e) ** 2 for e in decomposed.eta])
        power = len(moduli) - 1
        above = [jnp.min(jnp.delete(moduli, k, 0) - moduli[k], initial=jnp.inf) for k in range(power + 1)]
        smallest = jnp.linalg.svd(decomposed.S, compute_uv=False)[-1]
        bounds.append(jnp.maximum(jnp.max(jnp.stack(above)), 0.0) ** power * smallest**2)
    if isinstance(network, FullyConnected) and len(network.weights) > 1:
        bounds.append(_fully_connected_steepness(network))
    if len(network.weights) == 2 and len(problem.y) == 1:
        U_1, s, U_2 = jnp.linalg.svd(network.data_tensor(problem.X[0]), full_matrices=False)
        gaps = (U_1.T @ network.weights[0].ravel()) ** 2 - (U_2 @ network.weights[1].ravel()) ** 2
        positive = s > s[0] * s.size * jnp.finfo(s.dtype).eps
        lowest = jnp.maximum(jnp.min(jnp.where(positive, gaps, jnp.inf)), jnp.min(jnp.where(positive, -gaps, jnp.inf)))
        bounds.append(jnp.maximum(lowest, 0.0) * jnp.sum(s**2) / jnp.sum(problem.X**2))
    return jnp.max(jnp.stack(bounds))


def _fully_connected_steepness(network: FullyConnected) -> Scalar:
    *matrices, last = network.weights
    if last.size != matrices[0].shape[0]:
        return jnp.zeros((), last.dtype)
    grams = [(W.T @ W, V @ V.T) for W, V in pairwise([*matrices, last[:, None]])]
    smallest = [jnp.linalg.eigvalsh(a - b)[0] for a, b in grams]
    # Equal Gram matrices, as of identities, are ordered; round-off must not deny it.
    slack = [1e2 * jnp.finfo(last.dtype).eps * (jnp.trace(a) + jnp.trace(b)) for a, b in grams]
    ordered = jnp.all(jnp.stack([jnp.asarray(True), *(m >= -e for m, e in zip(smallest[:-1], slack, strict=False))]))
    return jnp.where(ordered, jnp.maximum(smallest[-1], 0.0) ** len(matrices), 0.0)


def regression_bound(start: LinearTensorNetwork, problem: Regression, times: Float[Array, " T"]) -> Float[Array, " T"]:
    """log of the bound L(t) ≤ L(0) exp(−2 c s_min(X)² t), which every loss of the flow must obey.

    c is the `steepness` of the start. Yun et al. 2021, Theorems 5, 6 and 7, with the 2 that appendix H loses.

    ```python
    path.log_losses <= gflow.invariants.regression_bound(start, problem, jnp.exp(path.log_times))
    ```
    """
    smallest = jnp.linalg.svd(problem.X, compute_uv=False)[-1]
    return problem.log_loss(start(problem.X)) - 2 * steepness(start, problem) * smallest**2 * times


def classification_bound(
    start: LinearTensorNetwork, problem: Classification, times: Float[Array, " T"], margin: float | Scalar
) -> Float[Array, " T"]:
    """log of the bound L(t) ≤ L(0) / (1 + c γ² L(0) t) of the exponential loss.

    c is the `steepness` of the start and γ = `margin` the largest min_i y_i x_iᵀz of a unit vector z: that
    is 1 / ‖z‖ for `gflow.predict.maximum_margin(problem, p=2).coefficients` z. Any smaller γ gives a weaker bound.

    Yun et al. 2021, Theorem 2 and appendix E, where 1 + cγ²t is printed, a slip where L(0) < 1.
    """
    log_start = problem.log_loss(start(problem.X))
    return log_start - jnp.log1p(steepness(start, problem) * margin**2 * jnp.exp(log_start) * times)


def alignment(network: Network, problem: Problem) -> Scalar:
    """⟨Θ, −∇L⟩ / (‖Θ‖ ‖∇L‖), which tends to 1 along every classification whose loss gets below 1.

    Yun et al. 2021, appendix C.1 (Ji & Telgarsky 2020). Not a number where the gradient vanishes.

    ```python
    jax.vmap(lambda n: gflow.invariants.alignment(n, problem))(path.networks)
    ```
    """
    gradient = jax.grad(lambda weights: problem.log_loss(with_weights(network, weights)(problem.X)))(network.weights)
    inner = sum(jnp.sum(v * g) for v, g in zip(network.weights, gradient, strict=True))
    sizes = [jnp.sqrt(sum(jnp.sum(v**2) for v in weights)) for weights in (network.weights, gradient)]
    return -inner / (sizes[0] * sizes[1])


def multipliers(network: Network, problem: Classification) -> Float[Array, " n"]:
    """The share of each data point in −∇ log L, |r_i| / Σ|r|, without under- or overflow.

    Support vectors' margins differ by O(1) in them: beyond −log L = 1e12 float64 no longer tells.
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
    jax.vmap(lambda n: gflow.invariants.singular_vector_residual(n, problem))(path.networks)
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


def smoothed_margin(network: LinearTensorNetwork, problem: Classification) -> Scalar:
    """−log L / ‖Θ‖^L, which never decreases once L < 1 (Lyu & Li 2020)."""
    norm = jnp.sqrt(sum(jnp.sum(v**2) for v in network.weights))
    return -problem.log_loss(network(problem.X)) / norm**network.depth
