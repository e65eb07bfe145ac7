"""The linear model β = v, which is the diagonal network of one layer.

Imports networks, problems.
"""

import dataclasses

import numpy as np

from ..networks import Diagonal, Network
from ..problems import Classification, Regression
from .norms import data, maximum_margin, require_full_row_rank
from .prediction import Prediction


def linear_limit(network: Network, problem: Regression) -> Prediction:
    """The limit point of the linear model: the solution nearest to the start, β(0) + X⁺(y − Xβ(0)).

    **Raises** ValueError if X has not full row rank.

    ```python
    gflow.predict.linear_limit(gflow.Diagonal((v,)), problem).coefficients
    ```
    """
    _require_linear_model(network)
    X, y = data(problem)
    require_full_row_rank(X)
    start = np.asarray(network.weights[0], np.float64)
    beta = start + np.linalg.lstsq(X, y - X @ start, rcond=None)[0]
    residual = np.linalg.norm(X @ beta - y) / max(np.linalg.norm(y), np.finfo(float).tiny)
    return Prediction(beta, "linear model: the solution nearest to the start", False, float(residual))


def linear_direction(network: Network, problem: Classification) -> Prediction:
    """The limit direction of the linear model β = v, one layer: the maximum ℓ2 margin, from any start.

    Soudry et al. 2018, Theorem 3.
    """
    _require_linear_model(network)
    return dataclasses.replace(maximum_margin(problem, 2), theorem="Soudry et al. 2018, Theorem 3")


def _require_linear_model(network: Network) -> None:
    if not (isinstance(network, Diagonal) and len(network.weights) == 1):
        raise ValueError(
            f"the linear model is Diagonal((v,)), with one layer; got {type(network).__name__} with "
            f"{len(network.weights)} layers. Ask gflow.predict.limit which theorem serves this network."
        )
