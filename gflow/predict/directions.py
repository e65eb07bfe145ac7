"""Limit directions of classification: Corollary 1, and Theorem 2 with its Corollaries 2 and 3 for two layers."""

import dataclasses

import numpy as np

from ..networks import LinearNetwork, Modes, Network
from ..problems import Classification
from .fully_connected import balance_hypotheses
from .names import theorem_2
from .norms import maximum_margin
from .prediction import Hypothesis, Prediction, Refusal, require_served, require_true_modes


def orthogonal_direction(network: Network, problem: Classification) -> Prediction:
    """The limit direction of a two-layer orthogonally decomposable network: the maximum ℓ1 margin of ρ.

    Theorem 2; Corollary 2 for diagonal networks (ℓ1), Corollary 3 for full-length convolutions (ℓ1 of
    the Fourier coefficients). The theorem assumes that one layer is smaller than the other in every
    mode, |η_1|² − |η_2|² ≥ λ > 0. It needs that only to show that the loss converges to zero, and holds
    without where it does (Remark 1): `hypotheses` says which.

    **Raises** ValueError if the network has no orthogonal decomposition or not two layers: for more, the
    limit is some stationary point of a quasi-norm, see `stationary_points` and `stationarity`.

    ```python
    gflow.predict.orthogonal_direction(gflow.Diagonal((v_1, v_2)), problem).coefficients
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
    margin = maximum_margin(problem, 1, np.asarray(found.matrix()))
    return dataclasses.replace(margin, theorem=theorem_2(network), hypotheses=(dominance(found),))


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
    gflow.predict.fully_connected_direction(network, problem).coefficients
    ```
    """
    require_served(problem, Classification)
    start = -float(problem.log_loss(network(problem.X)))
    balance = balance_hypotheses(network)
    dominated = min((h.value for h in balance if not h.holds), default=balance[-1].value)
    value = max(start, float(dominated))
    separates = Hypothesis("the loss gets below 1: −log L(Θ(0)), or Theorem 7's λ, is positive", bool(value > 0), value)
    return dataclasses.replace(maximum_margin(problem, 2), theorem="Corollary 1", hypotheses=(separates,))
