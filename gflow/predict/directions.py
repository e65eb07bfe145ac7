"""Limit directions of classification: Corollary 1, and Theorem 2 with its Corollaries 2 and 3 for two layers."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ..networks import LinearNetwork, Modes, Network
from ..problems import Classification
from .fully_connected import balance_hypotheses
from .margins import margin, maximum_margin
from .names import theorem_2
from .norms import data
from .prediction import Hypothesis, Prediction, Refusal, require_served, require_true_modes


def orthogonal_direction(network: Network, problem: Classification) -> Prediction:
    """The limit direction of a two-layer orthogonally decomposable network: the maximum ℓ1 margin of ρ.

    Theorem 2; Corollary 2 for diagonal networks (ℓ1), Corollary 3 for full-length convolutions (ℓ1 of
    the Fourier coefficients). The theorem assumes that one layer is smaller than the other in every
    mode, |η_1|² − |η_2|² ≥ λ > 0. It needs that only to show that the loss converges to zero, and holds
    without where it does (Remark 1): `hypotheses` says which.

    Where modes have equal inputs, z_j = ± z_k for all data, they stay tied and the start decides, as in Theorem 3's
    ties: their ρ share the sum like (η_1 ± η_2)², ± = sign ρ_j. Where the maximum is attained by several directions for
    another reason, the theorem leaves the limit open, and a hypothesis fails with the distance between them.

    **Raises** ValueError if the network has no orthogonal decomposition or not two layers: for more, the
    limit is some stationary point of a quasi-norm, see `stationary_points` and `stationarity`. NotSeparable and
    Undecided as `maximum_margin`.

    ```python
    gflow.predict.orthogonal_direction(network, labels).coefficients  # β = (0, ½), at unit margin
    ```
    """
    require_served(problem, Classification)
    found = require_modes(network)
    L = len(network.weights)
    if L != 2:
        raise Refusal(
            f"Theorem 2 determines the direction for two layers; this network has {L}. For more it says only that the "
            f"limit is a stationary point of the ℓ_{{2/{L}}} quasi-norm: test an end with gflow.predict.stationarity, "
            "or search with gflow.predict.stationary_points."
        )
    hypotheses = (dominance(found),)
    if not found.is_real:
        best = maximum_margin(problem, 1, np.asarray(found.matrix()))
        return dataclasses.replace(best, theorem=theorem_2(network), hypotheses=(*hypotheses, *best.hypotheses))
    S, (a, b) = np.asarray(found.matrix(), np.float64), (np.asarray(e, np.float64) for e in found.eta)
    Z = data(problem)[0] @ S.T
    first, sign = _tied_modes(Z)
    kept = np.unique(first)
    best = margin(problem, 1, None if found.S is None and kept.size == len(S) else S[kept])
    rho = np.zeros(len(S))
    rho[kept] = best.rho
    rho = _shared(sign * rho[first], first, a, b)
    return Prediction(S.T @ rho, theorem_2(network), True, best.residual, best.gap, (*hypotheses, best.unique))


def _tied_modes(Z: Float[np.ndarray, "n m"]) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """For every mode the first one with the same inputs up to a sign, and that sign."""
    first, sign = np.arange(Z.shape[1]), np.ones(Z.shape[1])
    for j in range(Z.shape[1]):
        for s in (1.0, -1.0):
            same = np.abs(Z - s * Z[:, [j]]).max(axis=0) <= _ROUND_OFF * np.abs(Z[:, j]).max()
            new = same & (first == np.arange(first.size)) & (first > j)
            first[new], sign[new] = j, s
    return first, sign


_ROUND_OFF = 1e-14  # relative, of X Sᵀ


def _shared(rho: Float[np.ndarray, " m"], first: np.ndarray, a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " m"]:
    """ρ whose tied modes, each given the sum of their sizes, share it like (η_1 ± η_2)²."""
    alone = np.bincount(first)[first] == 1
    growing = np.where(alone, 1.0, (a + np.sign(rho) * b) ** 2)
    total = np.bincount(first, growing)[first]
    dead = (rho != 0) & (total == 0)
    if dead.any():
        raise Refusal(
            f"the start keeps the modes {np.flatnonzero(dead).tolist()} from growing, which the maximum margin needs: "
            "their layers are equal or opposite. Change the initial directions."
        )
    return np.where(rho != 0, rho * growing / np.where(total > 0, total, 1.0), 0.0)


def require_modes(network: Network) -> Modes:
    """The modes of a network that satisfies Assumption 1; ValueError for another."""
    found = network.modes()
    if found is None:
        raise Refusal(
            f"Theorem 2 is for orthogonally decomposable networks (Assumption 1); this {type(network).__name__} with "
            f"weights of sizes {[v.size for v in network.weights]} has no such decomposition. For a convolution all "
            "filters must have full length."
        )
    require_true_modes(network)
    return found


def dominance(found: Modes) -> Hypothesis:
    """Theorem 2's: one layer is smaller than all others in every mode, by λ in squares (and Remark 1)."""
    squares = np.stack([np.abs(np.asarray(e, np.complex128)) ** 2 for e in found.eta])
    value = max(float(np.min(np.delete(squares, layer, 0) - squares[layer])) for layer in range(len(squares)))
    statement = "λ = min_{l, j} |[U_lᵀv_l]_j|² − |[U_kᵀv_k]_j|² is positive for one layer k"
    return Hypothesis(
        statement, bool(value > 0), value, "start with gflow.initial.diagonal, .convolutional or .last_layer_zero"
    )


def fully_connected_direction(network: LinearNetwork, problem: Classification) -> Prediction:
    """The limit direction of a fully-connected network of any depth: the maximum ℓ2 margin.

    Corollary 1 assumes that the loss gets below 1 at some time. That is certain if it is below 1 at the
    start, or if every layer dominates the next as in Theorem 7: `hypotheses` carries the better of the two.

    ```python
    network = gflow.initial.fully_connected(jnp.array([0.3, -0.1]))
    gflow.predict.fully_connected_direction(network, labels).coefficients
    ```
    """
    require_served(problem, Classification)
    start = -float(problem.log_loss(network(problem.X)))
    balance = balance_hypotheses(network)
    dominated = min((h.value for h in balance if not h.holds), default=balance[-1].value)
    value = max(start, float(dominated))
    separates = Hypothesis("the loss gets below 1: −log L(Θ(0)), or Theorem 7's λ, is positive", bool(value > 0), value)
    return dataclasses.replace(maximum_margin(problem, 2), theorem="Corollary 1", hypotheses=(separates,))
