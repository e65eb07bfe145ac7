"""A computed end against a predicted one."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .measures import angle, distance
from .networks import LinearNetwork
from .predict import Prediction
from .records import Path, Solution, Status


class Comparison(eqx.Module):
    """How far a computed end lies from the predicted limit; batched where the end is.

    - `distance`: ‖β − β⋆‖ / ‖β⋆‖ for limit points (‖β‖ where β⋆ = 0); NaN where only a direction is predicted.
    - `angle`: the angle between β and β⋆ in radians, accurate also where it is tiny.
    - `theorem`, `residual`: which theorem predicted, and the residual of its own conditions.
    - `status`: how the computed run ended.

    ```python
    found = gflow.compare(end, expected)
    assert found.theorem == "Theorem 6" and found.distance < 1e-9
    ```
    """

    distance: Float[Array, "*lanes"]
    angle: Float[Array, "*lanes"]
    theorem: str = eqx.field(static=True)
    residual: Float[Array, ""]
    status: Status

    def __str__(self) -> str:
        if self.angle.ndim:
            worst = jnp.max(self.angle if jnp.isnan(self.distance).all() else self.distance)
            return f"{self.theorem} against {self.angle.size} computed ends: at most {float(worst):.1e} apart"
        found = (
            f"angle {float(self.angle):.1e} rad"
            if jnp.isnan(self.distance)
            else f"relative distance {float(self.distance):.1e}"
        )
        status = Status[self.status]
        return f"{self.theorem} (residual {float(self.residual):.1e}) against the computed end ({status}): {found}"


def compare(end: Solution | Path, prediction: Prediction) -> Comparison:
    """Compares the end of a flow, a limit or a descent with a prediction.

    ```python
    print(gflow.compare(gflow.limit(start, problem), gflow.predict.limit(start, problem)))
    ```

    Compiled once for each shape. A batch of ends may be compared with one prediction.
    **Raises** ValueError if the two have coefficients of different lengths, or the network has none.
    """
    if isinstance(end, Path):
        end = end.end
    if not isinstance(end, Solution) or not isinstance(prediction, Prediction):
        raise ValueError(
            "compare needs the result of gflow.flow, gflow.limit or gflow.descend first and a prediction second; got "
            f"{type(end).__name__} and {type(prediction).__name__}."
        )
    if not isinstance(end.network, LinearNetwork):
        raise ValueError(f"{type(end.network).__name__} has no linear coefficients to compare.")
    apart, turned = _compare(end, jnp.asarray(prediction.coefficients))
    apart = jnp.full_like(apart, jnp.nan) if prediction.is_direction else apart
    return Comparison(apart, turned, prediction.theorem, jnp.asarray(prediction.residual), end.status)


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=None)
def _compare(end: Solution, expected: Float[Array, " d"]) -> tuple[Array, Array]:
    """The relative distance and the angle."""
    direction = end.direction
    if direction.shape[-1:] != expected.shape:
        raise ValueError(
            "compare needs an end and its own prediction; got coefficients of shapes "
            f"{direction.shape} and {expected.shape}."
        )
    return distance(end.coefficients, expected), angle(direction, expected)
