"""Networks of one layer, the linear model: β = Bv."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..networks import LinearTensorNetwork
from ..problems import Classification, Regression
from .margins import maximum_margin
from .norms import data, require_full_row_rank
from .prediction import Prediction, Refusal, require_served


def linear_limit(network: LinearTensorNetwork, problem: Regression) -> Prediction:
    """The limit point of a network of one layer: in v, the solution nearest to the start, v(0) + (XB)⁺(y − Xβ(0)).

    **Raises** ValueError if XB has not full row rank.

    ```python
    gflow.predict.linear_limit(gflow.Diagonal((jnp.array([0.3, -0.1]),)), problem).coefficients
    ```
    """
    require_served(problem, Regression)
    B = linear_map(network)
    X, y = data(problem)
    require_full_row_rank(X @ B)
    start = np.asarray(network.weights[0], np.float64).ravel()
    beta = B @ (start + np.linalg.lstsq(X @ B, y - X @ (B @ start), rcond=None)[0])
    residual = np.linalg.norm(X @ beta - y) / max(np.linalg.norm(y), np.finfo(float).tiny)
    return Prediction(beta, "linear model: the solution nearest to the start", False, float(residual))


def linear_direction(network: LinearTensorNetwork, problem: Classification) -> Prediction:
    """The limit direction of a network of one layer: in v, the maximum ℓ2 margin, from any start.

    Soudry et al. 2018, Theorem 3.

    ```python
    gflow.predict.linear_direction(gflow.Diagonal((jnp.zeros(2),)), labels).coefficients
    ```
    """
    require_served(problem, Classification)
    B = linear_map(network)
    X, y = data(problem)
    found = maximum_margin(Classification(X @ B, y), 2)
    return dataclasses.replace(found, coefficients=B @ found.coefficients, theorem="Soudry et al. 2018, Theorem 3")


def linear_map(network: LinearTensorNetwork) -> Float[np.ndarray, "d k"]:
    """B, of which the data tensor M(x) = Bᵀx."""
    if not isinstance(network, LinearTensorNetwork) or network.depth != 1:
        raise Refusal(
            f"the linear model has one layer, as Diagonal((v,)); got {type(network).__name__} with "
            f"{len(network.weights)} layers. Ask gflow.predict.limit which theorem serves this network."
        )
    d = network.coefficients().size
    return np.stack(
        [np.asarray(network.data_tensor(e), np.float64) for e in jnp.eye(d, dtype=network.weights[0].dtype)]
    )
