"""What the theory says, with the evidence for it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..networks import LinearNetwork, Network, with_weights
from ..problems import Classification, ExponentialLoss, LogisticLoss, Problem, Regression, SquaredLoss

Number = float | Float[Array | np.ndarray, ""]


class Refusal(ValueError):
    """A theorem does not apply, or predicts nothing that is unique: the message says what fails and what to do.

    ```python
    try:
        gflow.predict.limit(gflow.Nonlinear(network, jnp.tanh), problem)
    except gflow.predict.Refusal as refusal:
        print(refusal)
    ```
    """


def require_served(problem: Problem, kind: type[Problem] = Problem) -> None:
    """Raises Refusal unless theorems are about this problem and its loss, and this one about problems of its `kind`."""
    if not isinstance(problem, kind):
        raise Refusal(
            f"This prediction is about a {kind.__name__}; got {type(problem).__name__}. Ask gflow.predict.limit which "
            "theorem serves this problem."
        )
    known = (isinstance(problem, Regression) and isinstance(problem.loss, SquaredLoss) and problem.y.ndim == 1) or (
        isinstance(problem, Classification) and isinstance(problem.loss, ExponentialLoss | LogisticLoss)
    )
    if not known:
        loss = f" with the loss {type(getattr(problem, 'loss', None)).__name__}" if hasattr(problem, "loss") else ""
        raise Refusal(
            f"No theorem here is about {type(problem).__name__}{loss}: they are about squares of one output, and the "
            "exponential and the logistic loss. Use gflow.flow or gflow.limit alone."
        )


def require_true_modes(network: Network) -> None:
    """Raises ValueError where the `modes` that an author wrote are seen not to be those of the coefficients.

    Both are polynomials in the weights: they are the same if they agree at generic ones.
    """
    if network.modes() is None or not isinstance(network, LinearNetwork):
        return
    rng = np.random.default_rng(0)
    generic = with_weights(network, tuple(jnp.asarray(rng.normal(size=v.shape), v.dtype) for v in network.weights))
    modes: Any = generic.modes()
    expected = np.asarray(generic.coefficients())
    found = np.asarray(modes.coefficients(modes.rho()))
    error = np.linalg.norm(found - expected) / max(np.linalg.norm(expected), np.finfo(expected.dtype).tiny)
    if not error <= 1e6 * np.finfo(expected.dtype).eps:
        raise ValueError(
            f"modes() of {type(network).__name__} are not those of its coefficients(): at random weights Sᵀρ differs "
            f"from β by {error:.1e} of its norm. Correct S or the η_l."
        )


class Hypothesis(eqx.Module):
    """One hypothesis of a theorem: its statement, whether it holds here, and the number found.

    `value` is the margin by which it holds: positive or zero where it holds, negative by as much as it
    fails. `remedy` says what to change where it does not.

    ```python
    for hypothesis in gflow.predict.limit(start, problem).hypotheses:
        print(hypothesis)
    ```
    """

    statement: str = eqx.field(static=True)
    holds: bool | Array
    value: Number
    remedy: str = eqx.field(static=True, default="")

    def __str__(self) -> str:
        if self.holds:
            return f"holds ({float(self.value):.3g}): {self.statement}"
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"FAILS by {abs(float(self.value)):.3g}: {self.statement}{remedy}"


class Prediction(eqx.Module):
    """The limit of a gradient flow according to a theorem.

    - `coefficients`: the limit point β, or, where `is_direction`, a vector whose direction
      is the limit of β/‖β‖ (scaled to a smallest margin of 1).
    - `theorem`: its name in Yun et al. 2021.
    - `residual`: how far the returned point is from the theorem's optimality conditions or defining
      equation, relative, recomputed in float64.
    - `gap`: the relative duality gap of the theorem's convex program at the returned point; NaN where
      the theorem gives a closed form.
    - `hypotheses`: what the theorem assumes, with the numbers found.

    ```python
    expected = gflow.predict.limit(start, problem)
    print(expected)  # the theorem, its residual and the hypotheses
    assert expected.theorem == "Theorem 6" and not expected.is_direction
    ```
    """

    coefficients: Float[np.ndarray | Array, " d"]
    theorem: str = eqx.field(static=True)
    is_direction: bool = eqx.field(static=True)
    residual: Number
    gap: Number = float("nan")
    hypotheses: tuple[Hypothesis, ...] = ()

    def __str__(self) -> str:
        kind = "direction" if self.is_direction else "point"
        residual, gap = float(self.residual), float(self.gap)
        evidence = f"residual {residual:.1e}" + ("" if np.isnan(gap) else f", duality gap {gap:.1e}")
        lines = [f"{self.theorem}: limit {kind}, {evidence}"]
        return "\n  ".join(lines + [str(h) for h in self.hypotheses])
