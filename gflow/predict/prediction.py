"""What the theory says, with the evidence for it.

Imports nothing of gflow.
"""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One hypothesis of a theorem: its statement, whether it holds here, and the number found.

    `value` is the margin by which it holds: positive or zero where it holds, negative by as much as it
    fails.
    """

    statement: str
    holds: bool
    value: float

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'} ({self.value:.3g}): {self.statement}"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The limit of a gradient flow according to a theorem.

    - `coefficients`: the limit point of β(Θ(t)), or, where `is_direction`, a vector whose direction
      is the limit of β/‖β‖ (scaled to a smallest margin of 1).
    - `theorem`: its name in Yun et al. 2021.
    - `residual`: how far the returned point is from the theorem's optimality conditions or defining
      equation, relative, recomputed in float64.
    - `gap`: the relative duality gap of the theorem's convex program at the returned point; NaN where
      the theorem gives a closed form.
    - `hypotheses`: what the theorem assumes, with the numbers found.
    """

    coefficients: Float[np.ndarray, " d"]
    theorem: str
    is_direction: bool
    residual: float
    gap: float = float("nan")
    hypotheses: tuple[Hypothesis, ...] = ()

    def __str__(self) -> str:
        kind = "direction" if self.is_direction else "point"
        lines = [f"{self.theorem}: limit {kind}, residual {self.residual:.1e}, duality gap {self.gap:.1e}"]
        return "\n  ".join(lines + [str(h) for h in self.hypotheses])
