"""Which theorem: the strongest one whose hypotheses hold.

Imports networks, problems and the theorem families.
"""

from collections.abc import Callable

from ..networks import Diagonal, FullyConnected, LinearTensorNetwork, Network
from ..problems import Problem, Regression
from .directions import fully_connected_direction, orthogonal_direction
from .fully_connected import fully_connected_limit
from .linear_model import linear_direction, linear_limit
from .orthogonal import orthogonal_limit
from .prediction import Prediction
from .two_layers import two_layer_direction, two_layer_limit


def limit(network: Network, problem: Problem) -> Prediction:
    """The limit of gradient flow from `network` by the theory alone, and the theorem that says so.

    Regression, a limit point, by the first that applies:

    - two layers, one data point, any architecture: Theorem 6;
    - orthogonally decomposable with a real decomposition, last layer zero: Theorem 5, Corollaries 5, 6, 7;
    - fully-connected: Theorem 7, which is about α → 0;
    - one layer: the solution nearest to the start.

    Classification, a limit direction:

    - two layers, one data point, any architecture: Theorem 3, Corollary 4;
    - fully-connected: Corollary 1, the maximum ℓ2 margin;
    - orthogonally decomposable, two layers: Theorem 2, Corollaries 2 and 3, the maximum ℓ1 margin of ρ;
    - one layer: the maximum ℓ2 margin.

    `network` is the initialisation, scale included. **Raises** ValueError where no theorem applies, with
    the hypotheses that fail and the numbers found, where the network is not a linear tensor network,
    and where the data are not separable or X has not full row rank.

    ```python
    expected = gflow.predict.limit(gflow.scale(network, 0.01), problem)
    print(expected)
    ```
    """
    if not isinstance(network, LinearTensorNetwork):
        raise ValueError(
            f"No theorem applies to {type(network).__name__}: all are about linear tensor networks, multilinear in "
            "their weights. Use gflow.flow or gflow.limit alone."
        )
    refusals = []
    for theorem in _candidates(network, problem):
        try:
            found = theorem(network, problem)
        except ValueError as refusal:
            refusals.append(str(refusal))
            continue
        failing = [str(h) for h in found.hypotheses if not h.holds]
        if not failing or theorem in _EXACT_WITHOUT_DOMINANCE:
            return found
        refusals.append(
            f"{found.theorem}: {'; '.join(failing)}. If the loss converges to zero all the same, the theorem holds "
            f"(Remark 1): then ask gflow.predict.{theorem.__name__} itself."
        )
    raise ValueError("No theorem predicts this limit.\n" + "\n".join(f"- {refusal}" for refusal in refusals))


# Where their λ is not positive they still hold if g reaches y, which they check themselves.
_EXACT_WITHOUT_DOMINANCE = (two_layer_limit, two_layer_direction)


def _candidates(network: LinearTensorNetwork, problem: Problem) -> tuple[Callable[..., Prediction], ...]:
    regression = isinstance(problem, Regression)
    if isinstance(network, Diagonal) and len(network.weights) == 1:
        return (linear_limit if regression else linear_direction,)
    special = (two_layer_limit if regression else two_layer_direction,) if problem.y.shape == (1,) else ()
    if isinstance(network, FullyConnected):
        return (*special, fully_connected_limit if regression else fully_connected_direction)
    return (*special, orthogonal_limit if regression else orthogonal_direction)
