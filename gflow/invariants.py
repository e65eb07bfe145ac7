"""What the flow conserves, how fast its loss must fall, and how it aligns.

Each function is about one network; batch over a path with `jax.vmap`, for instance over `path.networks`.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .networks import LinearTensorNetwork, Network, with_weights
from .problems import Classification, Problem, Regression


def balances(network: Network) -> dict[str, Array]:
    """The differences of squares that stay constant along the flow of `network` whatever the data, by name.

    - "norms": ‖v_l‖² − ‖v_L‖², any linear tensor network.
    - "balance" (one entry a pair of layers): W_lᵀW_l − W_{l+1}W_{l+1}ᵀ, networks with `layers`.
    - "modes": |[U_lᵀv_l]_j|² − |[U_Lᵀv_L]_j|², networks with `modes`.

    ```python
    gflow.invariants.balances(gflow.Diagonal(([1.0, 2.0], [0.5, 0.0])))["modes"]  # 0.75 and 4
    ```

    Yun et al. 2021, appendices C.1 and D.1.
    """
    found = {}
    if isinstance(network, LinearTensorNetwork):
        squares = jnp.stack([jnp.sum(v**2) for v in network.weights])
        found["norms"] = squares[:-1] - squares[-1]
    for layer, (W, V) in enumerate(pairwise(network.layers() or ())):
        found[f"balance {layer}"] = W.T @ W - V @ V.T
    decomposed = network.modes()
    if decomposed is not None:
        moduli = jnp.stack([jnp.abs(e) ** 2 for e in decomposed.eta])
        found["modes"] = moduli[:-1] - moduli[-1]
    return found


def conserved(network: Network, problem: Problem) -> dict[str, Array]:
    """The quantities that stay constant along the flow of `network` on `problem`, by name: its `balances`, and

    - "outside row(X)": W_1 without its part in the row space of X, networks with `layers` and one output.

    ```python
    jax.vmap(lambda n: gflow.invariants.conserved(n, problem))(path.networks)
    ```

    Yun et al. 2021, appendices C.1, D.1 and H.
    """
    found, layers = balances(network), network.layers() or ()
    if len(layers) > 1 and layers[-1].shape[1] == 1:
        basis, _ = jnp.linalg.qr(problem.X.T)
        found["outside row(X)"] = layers[0] - basis @ (basis.T @ layers[0])
    return found


def drift(networks: Network, problem: Problem) -> dict[str, Scalar]:
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

    ```python
    start = gflow.initial.diagonal(jnp.array([0.3, -0.1]))  # λ ≥ 1 in every mode, S = I
    assert gflow.invariants.steepness(start, labels) >= 1.0
    ```
    """
    bounds = [jnp.zeros((), problem.X.dtype)]
    decomposed = network.modes()
    if decomposed is not None:
        moduli = jnp.stack([jnp.abs(e) ** 2 for e in decomposed.eta])
        power = len(moduli) - 1
        above = [jnp.min(jnp.delete(moduli, k, 0) - moduli[k], initial=jnp.inf) for k in range(power + 1)]
        smallest = jnp.linalg.svd(decomposed.matrix(), compute_uv=False)[-1]
        bounds.append(jnp.maximum(jnp.max(jnp.stack(above)), 0.0) ** power * smallest**2)
    layers = network.layers() or ()
    if len(layers) > 1 and layers[-1].shape[1] == 1:
        bounds.append(_fully_connected_steepness(layers))
    if len(network.weights) == 2 and len(problem.y) == 1:
        U_1, s, U_2 = jnp.linalg.svd(network.data_tensor(problem.X[0]), full_matrices=False)
        gaps = (U_1.T @ network.weights[0].ravel()) ** 2 - (U_2 @ network.weights[1].ravel()) ** 2
        positive = s > s[0] * s.size * jnp.finfo(s.dtype).eps
        lowest = jnp.maximum(jnp.min(jnp.where(positive, gaps, jnp.inf)), jnp.min(jnp.where(positive, -gaps, jnp.inf)))
        bounds.append(jnp.maximum(lowest, 0.0) * jnp.sum(s**2) / jnp.sum(problem.X**2))
    return jnp.max(jnp.stack(bounds))


def _fully_connected_steepness(layers: tuple[Array, ...]) -> Scalar:
    *matrices, last = layers
    if last.size != matrices[0].shape[0]:
        return jnp.zeros((), last.dtype)
    grams = [(W.T @ W, V @ V.T) for W, V in pairwise(layers)]
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

    ```python
    margin = 1 / np.linalg.norm(gflow.predict.maximum_margin(labels, p=2).coefficients)
    gflow.invariants.classification_bound(network, labels, jnp.linspace(0.0, 10.0, 5), margin)
    ```
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


def smoothed_margin(network: LinearTensorNetwork, problem: Classification) -> Scalar:
    """−log L / ‖Θ‖^L, which never decreases once L < 1 (Lyu & Li 2020).

    ```python
    gflow.invariants.smoothed_margin(gflow.Diagonal(([3.0, 3.0], [3.0, 3.0])), labels)
    ```
    """
    norm = jnp.sqrt(sum(jnp.sum(v**2) for v in network.weights))
    return -problem.log_loss(network(problem.X)) / norm**network.depth
