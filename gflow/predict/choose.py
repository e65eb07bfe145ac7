"""Which theorem: the strongest one whose hypotheses hold.

Imports networks, problems and the theorem families.
"""

import dataclasses

import numpy as np
from jaxtyping import Inexact

from ..networks import Convolutional, Diagonal, FullyConnected, Network
from ..problems import Classification, Problem, Regression
from .norms import dft, maximum_margin
from .prediction import Hypothesis, Prediction
from .two_layers import two_layer_limit


def limit(network: Network, problem: Problem) -> Prediction:
    """The limit of gradient flow from `network` by the theory alone, and the theorem that says so.

    - Regression, two layers, one data point: Theorem 6, a limit point in closed form.
    - Classification, fully-connected: Corollary 1, the maximum ℓ2 margin direction.
    - Classification, two layers, diagonal: Corollary 2, the maximum ℓ1 margin direction.
    - Classification, two layers, full-length convolution: Corollary 3, the same in the Fourier domain.

    `network` is the initialisation, scale included. **Raises** ValueError where no theorem applies, with
    the hypothesis that fails and the number found, and where the data are not separable.

    ```python
    expected = gflow.predict.limit(gflow.scale(network, 0.01), problem)
    print(expected)
    ```
    """
    if isinstance(problem, Regression):
        return two_layer_limit(network, problem)
    assert isinstance(problem, Classification)
    if isinstance(network, FullyConnected):
        return dataclasses.replace(maximum_margin(problem, p=2), theorem="Corollary 1")
    if isinstance(network, Diagonal) and network.depth == 2:
        return _corollary(network, problem, "Corollary 2", np.eye(problem.X.shape[1]))
    if isinstance(network, Convolutional) and network.depth == 2 and network.weights[0].shape == problem.X.shape[1:]:
        return _corollary(network, problem, "Corollary 3", dft(problem.X.shape[1]))
    raise ValueError(
        f"No theorem predicts this limit: {type(network).__name__} with weights of sizes "
        f"{[v.size for v in network.weights]} on a {type(problem).__name__}. Theorems serve fully-connected networks "
        "of any depth and two-layer diagonal and full-length convolutional ones."
    )


def _corollary(
    network: Network, problem: Classification, theorem: str, transform: Inexact[np.ndarray, "d d"]
) -> Prediction:
    *others, last = (np.abs(transform @ np.asarray(v, np.float64)) ** 2 for v in network.weights)
    value = float(min(np.min(other - last) for other in others))
    dominance = Hypothesis("λ = min_{l<L, j} |[U_lᵀv_l]_j|² − |[U_Lᵀv_L]_j|² is positive", value > 0, value)
    if not dominance.holds:
        raise ValueError(
            f"{theorem} does not apply: {dominance.statement} fails, it is {value:.3g}. "
            "Start from a smaller last layer; gflow.initial.last_layer_zero makes one."
        )
    S = transform * (1.0 if transform.dtype == float else problem.X.shape[1] ** 0.5)
    return dataclasses.replace(maximum_margin(problem, 1, S), theorem=theorem, hypotheses=(dominance,))
