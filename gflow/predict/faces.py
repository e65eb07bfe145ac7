"""Whether a program min ‖ρ‖_1 has one solution alone.

All solutions have ρ_j = r_j e^{iφ_j} with r ≥ 0, where the multipliers μ fix φ, and say which r_j are zero and which
inequalities are equations: a polytope, whose width in each coefficient is two linear programs.
"""

import numpy as np
from jaxtyping import Bool, Float, Inexact

from .prediction import Hypothesis

NEAR = 1e-6  # below, a tie that is none is reported as near
CONE = 1e-6  # what a cone program's multipliers are right to


def apart(statement: str, value: float) -> Hypothesis:
    """The hypothesis that nothing is tied, where `value` > 0 is the distance from a tie: at 0 it fails."""
    return Hypothesis(f"{statement}, by a near tie" if 0 < value <= NEAR else statement, bool(value > 0), value)


def tied(statement: str, width: float) -> Hypothesis:
    """The hypothesis that fails by the `width` of the set of solutions."""
    return Hypothesis(
        statement, False, -width, "this is how far its solutions are apart in a coefficient, by the largest"
    )


def uniqueness(
    statement: str,
    A: Inexact[np.ndarray, "n m"],
    b: Float[np.ndarray, " n"],
    tight: Bool[np.ndarray, " n"],
    u: Inexact[np.ndarray, " m"],
    S: Inexact[np.ndarray, "m d"],
) -> Hypothesis:
    """Of β = Sᵀρ with the smallest ‖ρ‖_1 and Aρ ≥ b, with equality where `tight`; u = Aᴴμ, |u_j| ≤ 1, to `CONE`.

    A and b are in units in which rows of A and ρ are of size 1.
    """
    size = np.abs(u)
    face = size > 1 - CONE
    phase = u[face] / size[face]
    parts = S.T[:, face] * phase
    C = np.real(A[:, face] * phase)
    if np.linalg.matrix_rank(np.vstack([C[tight], parts.imag]), tol=CONE) < face.sum():
        width = width_of(C, b, tight, parts.real, parts.imag)
        if width > np.sqrt(CONE):
            return tied(statement, width)
    return apart(statement, float((1 - size[~face]).min(initial=1.0)))


def width_of(
    C: Float[np.ndarray, "n k"],
    b: Float[np.ndarray, " n"],
    tight: Bool[np.ndarray, " n"],
    coefficients: Float[np.ndarray, "d k"],
    zero: Float[np.ndarray, "l k"] | None = None,
) -> float:
    """max_j (max − min of β_j) / max |β|, over β = coefficients r with r ≥ 0, Cr ≥ b, equal where tight, zero r = 0."""
    from scipy.optimize import linprog

    equal = C[tight] if zero is None else np.vstack([C[tight], zero])
    right = np.concatenate([b[tight], np.zeros(len(equal) - int(tight.sum()))])
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    rows = [row for row in coefficients if row.any()]
    ends = []
    for row in rows:
        for sign in (1.0, -1.0):
            found = linprog(
                sign * row, A_ub=-C[~tight], b_ub=-b[~tight], A_eq=equal, b_eq=right, method="highs", options=options
            )
            if found.fun is None:
                return np.inf
            ends.append(sign * found.fun)
    low, high = np.array(ends[::2]), np.array(ends[1::2])
    return float((high - low).max() / max(np.abs(low).max(), np.abs(high).max()))
