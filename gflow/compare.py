"""A computed end against a predicted one.

Imports flow, finite_loss, descent, predict.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from .descent import Descent
from .finite_loss import angles
from .flow import Solution, Status
from .predict.prediction import Prediction


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far a computed end lies from the predicted limit.

    - `distance`: ‖β − β*‖ / ‖β*‖ for limit points; NaN where only a direction is predicted.
    - `angle`: the angle between β and β* in radians, accurate also where it is tiny.
    - `theorem`, `residual`: which theorem predicted, and the residual of its own conditions.
    - `status`: how the computed run ended.
    """

    distance: float
    angle: float
    theorem: str
    residual: float
    status: str

    def __str__(self) -> str:
        found = f"angle {self.angle:.1e} rad" if np.isnan(self.distance) else f"relative distance {self.distance:.1e}"
        return f"{self.theorem} (residual {self.residual:.1e}) against the computed end ({self.status}): {found}"


def compare(end: Solution | Descent, prediction: Prediction) -> Comparison:
    """Compares the end of a flow, a limit or a descent with a prediction, for one lane.

    ```python
    print(gflow.compare(gflow.limit(start, problem), gflow.predict.limit(start, problem)))
    ```

    **Raises** ValueError if the two have coefficients of different lengths.
    """
    beta, expected = np.asarray(end.network.coefficients(), np.float64), prediction.coefficients
    if beta.shape != expected.shape:
        raise ValueError(
            "compare needs one end and its own prediction; got coefficients of shapes "
            f"{beta.shape} and {expected.shape}. "
            "Take one lane of a batch, for instance jax.tree.map(lambda v: v[0], ends)."
        )
    size = np.linalg.norm(expected)
    distance = float("nan") if prediction.is_direction else float(np.linalg.norm(beta - expected) / size)
    # Messages are found for jax arrays only, and a result may have come through jax.device_get.
    status = Status[jax.tree.map(jnp.asarray, end.status)] if isinstance(end, Solution) else "descent of fixed length"
    return Comparison(distance, angle(beta, expected), prediction.theorem, prediction.residual, status)


def angle(a: Float[ArrayLike, " d"], b: Float[ArrayLike, " d"]) -> float:
    """The angle between two vectors, in radians, as a number; for arrays of directions `gflow.finite_loss.angles`."""
    return float(angles(a, b))
