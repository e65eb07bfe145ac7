"""Which theorem: the strongest one whose hypotheses hold."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .._ask import checked
from .._checks import all_concrete
from ..networks import DifferenceOfPowers, LinearTensorNetwork, Network
from ..problems import Problem, Regression
from .directions import fully_connected_direction, orthogonal_direction
from .fully_connected import fully_connected_limit
from .linear_model import linear_direction, linear_limit
from .margins import UNIQUE
from .orthogonal import orthogonal_limit
from .pivots import NotSeparable
from .powers import power_limit
from .prediction import Prediction, Refusal, require_served
from .two_layers import two_layer_direction, two_layer_limit


class Theorem(NamedTuple):
    """A theorem's function, and the facts of a network and problem without which it is not asked.

    `exact_without_hypotheses`: where these fail it still holds if the loss converges, which it checks itself.
    """

    predict: Callable[[Any, Any], Prediction]
    serves: Callable[[Any, Problem], bool]
    exact_without_hypotheses: bool = False


def _one_layer(network: Any, problem: Problem) -> bool:
    return network.depth == 1 and not _powers(network, problem)


def _powers(network: Any, problem: Problem) -> bool:
    return isinstance(network, DifferenceOfPowers)


def _one_point(network: Any, problem: Problem) -> bool:
    return network.depth > 1 and problem.y.shape == (1,) and not _powers(network, problem)


def _fully_connected(network: Any, problem: Problem) -> bool:
    layers = network.layers()
    return layers is not None and len(layers) > 1 and layers[-1].shape[1] == 1


def _several_layers(network: Any, problem: Problem) -> bool:
    return network.depth > 1 and not _fully_connected(network, problem) and not _powers(network, problem)


# In order of strength.
REGRESSION = (
    Theorem(power_limit, _powers),
    Theorem(linear_limit, _one_layer),
    Theorem(two_layer_limit, _one_point, exact_without_hypotheses=True),
    Theorem(fully_connected_limit, _fully_connected),
    Theorem(orthogonal_limit, _several_layers),
)
CLASSIFICATION = (
    Theorem(linear_direction, _one_layer),
    Theorem(two_layer_direction, _one_point, exact_without_hypotheses=True),
    Theorem(fully_connected_direction, _fully_connected),
    Theorem(orthogonal_direction, _several_layers),
)


def limit(network: Network, problem: Problem) -> Prediction:
    """The limit of gradient flow from `network` by the theory alone, and the theorem that says so.

    Regression, a limit point, by the first that applies:

    - `DifferenceOfPowers`: Theorems 1 and 3 of Woodworth et al. 2020;
    - one layer: the solution nearest to the start;
    - two layers, one data point, any architecture: Theorem 6;
    - fully-connected (`layers` to one output): Theorem 7, which is about α → 0;
    - orthogonally decomposable with a real decomposition, last layer zero: Theorem 5, Corollaries 5, 6, 7.

    Classification, a limit direction:

    - one layer: the maximum ℓ2 margin;
    - two layers, one data point, any architecture: Theorem 3, Corollary 4;
    - fully-connected: Corollary 1, the maximum ℓ2 margin;
    - orthogonally decomposable, two layers: Theorem 2, Corollaries 2 and 3, the maximum ℓ1 margin of ρ.

    `network` is the initialisation, scale included. **Raises** `gflow.predict.Refusal`, a ValueError, where no theorem
    applies, with the hypotheses that fail and the numbers found: where the network is not a linear tensor network,
    where the loss is not one that the theorems are about, where the data are not separable (`NotSeparable`, with the
    proof) or X has not full row rank, and where the limit is one of several that the theorem does not tell apart; and a
    plain ValueError for anything but a network and a problem, as `gflow.limit` does.

    ```python
    expected = gflow.predict.limit(gflow.scale(network, 0.01), problem)
    print(expected)
    ```
    """
    network, problem = checked(network, problem)
    _require_known(network, problem)
    refusals = []
    for theorem in REGRESSION if isinstance(problem, Regression) else CLASSIFICATION:
        if not theorem.serves(network, problem):
            continue
        try:
            found = theorem.predict(network, problem)
        except NotSeparable:
            raise  # which no other theorem changes, and whose proof is worth having
        except Refusal as refusal:
            refusals.append(str(refusal))
            continue
        failing = [h for h in found.hypotheses if not h.holds]
        if not failing or theorem.exact_without_hypotheses:
            return found
        remark = "If the loss converges to zero all the same, the theorem holds (Remark 1): then"
        remark = "The limit is one of them; for one" if any(h.statement == UNIQUE for h in failing) else remark
        refusals.append(
            f"{found.theorem}: {'; '.join(map(str, failing))}. {remark} ask gflow.predict.{theorem.predict.__name__} "
            "itself."
        )
    raise Refusal("No theorem predicts this limit.\n" + "\n".join(f"- {refusal}" for refusal in refusals))


def _require_known(network: Network, problem: Problem) -> None:
    served = LinearTensorNetwork | (DifferenceOfPowers if isinstance(problem, Regression) else LinearTensorNetwork)
    if not isinstance(network, served):
        raise Refusal(
            f"No theorem applies to {type(network).__name__}: all are about linear tensor networks, multilinear in "
            "their weights. Use gflow.flow or gflow.limit alone."
        )
    require_served(problem)
    if not all_concrete((network, problem)):
        raise ValueError("predict looks at values and calls other solvers; call it outside jit, vmap and grad.")
