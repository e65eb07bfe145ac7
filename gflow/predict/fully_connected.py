"""Fully-connected networks and the linear model, regression: Theorem 7 of Yun et al. 2021."""

import dataclasses

import numpy as np

from ..networks import LinearNetwork
from ..problems import Regression
from .norms import minimum_norm
from .prediction import Hypothesis, Prediction, Refusal, require_served


def fully_connected_limit(network: LinearNetwork, problem: Regression) -> Prediction:
    """What the limit point of a fully-connected network tends to as α → 0: the minimum ℓ2 norm solution.

    At α > 0 the flow ends at a distance from it that falls like a power of α. The hypotheses, layer by
    layer W_lᵀW_l ⪰ W_{l+1}W_{l+1}ᵀ and at the end W_{L−1}ᵀW_{L−1} − w_L w_Lᵀ ⪰ λI with λ > 0, serve to show
    that the loss converges to zero.

    **Raises** ValueError if X has not full row rank.

    Yun et al. 2021, Theorem 7. `network` is the initialisation, scale included.

    ```python
    network = gflow.initial.fully_connected(jnp.array([0.3, -0.1]))
    gflow.predict.fully_connected_limit(gflow.scale(network, 1e-3), problem).coefficients
    ```
    """
    require_served(problem, Regression)
    found = minimum_norm(problem, 2)
    return dataclasses.replace(found, theorem="Theorem 7, α → 0", hypotheses=balance_hypotheses(network))


def balance_hypotheses(network: LinearNetwork) -> tuple[Hypothesis, ...]:
    """Theorem 7's conditions on the start, with the smallest eigenvalues found; λ comes last."""
    layers = network.layers()
    if layers is None or len(layers) < 2 or layers[-1].shape[1] != 1:
        raise Refusal(
            "Theorem 7 and Corollary 1 are for fully-connected networks of two layers or more; "
            f"{type(network).__name__} does not say that it is one: write its layers()."
        )
    *matrices, last = (np.asarray(W, np.float64) for W in layers)
    grams = [(W.T @ W, V @ V.T) for W, V in zip(matrices, [*matrices[1:], last], strict=True)]
    smallest = [float(np.linalg.eigvalsh(a - b)[0]) for a, b in grams]
    round_off = [1e-12 * float(np.trace(a) + np.trace(b)) for a, b in grams]
    ordered = tuple(
        Hypothesis(
            f"W_{i + 1}ᵀW_{i + 1} − W_{i + 2}W_{i + 2}ᵀ is positive semidefinite", value >= -slack, value + slack
        )
        for i, (value, slack) in enumerate(zip(smallest[:-1], round_off[:-1], strict=True))
    )
    depth = len(layers)
    strict = f"λ, the smallest eigenvalue of W_{depth - 1}ᵀW_{depth - 1} − w_{depth} w_{depth}ᵀ, is positive"
    missing = matrices[0].shape[0] - last.size
    return (
        Hypothesis("the last hidden layer is as wide as an input, d_L = d", missing == 0, float(-abs(missing))),
        *ordered,
        Hypothesis(strict, smallest[-1] > round_off[-1], smallest[-1], "start with gflow.initial.fully_connected"),
    )
