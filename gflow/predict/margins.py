"""Maximum margins: min ‖ρ‖_p with β = Sᵀρ and Aρ ≥ 1, A = diag(y) X Sᵀ, p = 1 or 2, S real or complex.

The dual is max Σμ with ‖Aᴴμ‖_q ≤ 1 in the dual norm and μ ≥ 0. Real programs, and p = 2, end at an optimal basis by
`pivots`; ℓ1 of complex numbers is a cone program, solved by cvxpy. Both are certified in float64 at the point returned.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Inexact

from ..problems import Classification
from .digits import ZERO, Fixed, floats
from .faces import CONE, apart, tied, uniqueness, width_of
from .norms import certified, data, smallest
from .pivots import Rows, Undecided, Vertex, largest_l1_margin, largest_l2_margin, scaled
from .prediction import Hypothesis, Prediction

ACCEPTED = 1e-12  # of residual and gap, which are a few times float64's round-off where the basis is optimal


class Margin(NamedTuple):
    """ρ at a smallest margin of 1, the residual and the gap of its certificate, and whether it is the only one."""

    rho: Inexact[np.ndarray, " m"]
    residual: float
    gap: float
    unique: Hypothesis


def maximum_margin(problem: Classification, p: int, S: Inexact[np.ndarray, "m d"] | None = None) -> Prediction:
    """The direction β = Sᵀρ of largest min_i y_i x_iᵀβ / ‖ρ‖_p; `p` is 1 or 2.

    The coefficients returned are right to round-off, each by itself, and have a smallest margin of 1 (up to round-off
    in the terms that it sums, which cancel where the margin is narrow and rows differ in length). `residual` is the
    largest violation of the optimality conditions at this point, each relative to the size of the terms it sums, row by
    row, so that rows of any size count alike; `gap` is the relative duality gap. The hypothesis says whether the
    maximum is attained by this β alone (for p = 2 it always is): where it is not, by how far two solutions differ in a
    coefficient, relative to the largest.

    **Raises** `gflow.predict.NotSeparable` if the data are not linearly separable, with `multipliers` that prove it,
    and `gflow.predict.Undecided` if neither that nor a margin can be certified; both are ValueErrors. RuntimeError if
    no answer to the cone program of a complex S is certified.

    ```python
    gflow.predict.maximum_margin(labels, p=2).coefficients
    ```
    """
    found = margin(problem, p, S)
    beta = found.rho if S is None else np.real(S.T @ found.rho)
    return Prediction(beta, f"maximum ℓ{p} margin", True, found.residual, found.gap, (found.unique,))


def margin(problem: Classification, p: int, S: Inexact[np.ndarray, "m d"] | None = None) -> Margin:
    """The ρ of `maximum_margin`."""
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, where the program is convex and a theorem uses it; got {p}.")
    X, y = data(problem)
    rows = scaled(y[:, None] * X)
    shortest, mu = largest_l2_margin(rows)  # whether the data are separable is a question about X alone
    if S is None:
        return _margin(rows, p, shortest, mu)
    A = y[:, None] * (X @ S.T)
    basis = _real_basis(S)
    rows = scaled(np.real(A @ basis))
    shortest, mu = largest_l2_margin(rows)
    _require_above_round_off(X, S, A, basis @ floats(shortest) / rows.smallest)
    if np.iscomplexobj(S) and p == 1:
        return _complex_l1_margin(A, S, basis, rows, float(np.linalg.norm(floats(shortest))))
    found = _margin(rows, p, shortest, mu)
    return found._replace(rho=basis @ found.rho)


def _real_basis(S: Inexact[np.ndarray, "m d"]) -> Inexact[np.ndarray, "m k"]:
    """Columns, orthonormal over the reals, that span the ρ with Im Sᵀρ = 0: the identity for real S."""
    from scipy.linalg import null_space

    m = len(S)
    if not np.iscomplexobj(S):
        return np.eye(m)
    parts = null_space(np.hstack([np.imag(S).T, np.real(S).T]))  # Im Sᵀ(a + ib)
    return parts[:m] + 1j * parts[m:]


def _require_above_round_off(X: np.ndarray, S: np.ndarray, A: np.ndarray, rho: np.ndarray) -> None:
    """Raises Undecided where round-off in A = diag(y) X Sᵀ can turn the sign of a margin of ρ."""
    error = 4 * X.shape[1] * np.finfo(float).eps * (np.abs(X) @ (np.abs(S.T) @ np.abs(rho)))
    share = float((error / np.maximum(np.real(A @ rho), np.finfo(float).tiny)).max())
    if share >= 1:
        raise Undecided(
            f"a margin under S is of the size of round-off in X Sᵀ, which is {share:.1g} times as large. Scale the "
            "inputs alike, or use an S of smaller condition number."
        )


def _margin(rows: Rows, p: int, shortest: Fixed, mu: Fixed) -> Margin:
    if p == 2:
        sigma, unique = _rounded(shortest), Hypothesis(UNIQUE, True, 1.0)
    else:
        vertex = largest_l1_margin(rows, float(np.abs(floats(shortest)).max()))
        sigma, mu, unique = _rounded(vertex.sigma), vertex.mu, _uniqueness(rows, vertex)
    _require_visible(rows, sigma)
    residual, gap = certificate(rows, sigma, _rounded(mu), p)
    if not max(residual, abs(gap)) <= ACCEPTED:
        raise Undecided(
            f"the maximum margin was found, but float64 holds it only to a residual of {residual:.1e} and a duality "
            f"gap of {gap:.1e}; accepted is {ACCEPTED:.0e}. Rescale the columns of X to like sizes."
        )
    with np.errstate(over="ignore"):
        rho = sigma / rows.smallest
    if not np.isfinite(rho).all():
        raise Undecided(f"ρ of unit margin is over float64's range: rows of X are as small as {rows.smallest:.1e}.")
    return Margin(rho, residual, gap, unique)


def _require_visible(rows: Rows, sigma: Float[np.ndarray, " m"]) -> None:
    """Raises Undecided where round-off in Âσ, in float64, may be all of the margin of the shortest row, which is 1."""
    terms = float((np.abs(rows.A) @ np.abs(sigma)).max())
    if 2 * (sigma.size + 1) * np.finfo(float).eps * terms >= 1:
        raise Undecided(
            f"the data are separable by so little, {1 / terms:.1e} of a row, that no coefficients in float64 show it. "
            "Remove points that contradict each other but for round-off."
        )


def _rounded(x: Fixed) -> Float[np.ndarray, " k"]:
    """In float64, zeros as zeros."""
    values = floats(x)
    return np.where(np.abs(values) > ZERO * np.abs(values).max(), values, 0.0)


def certificate(rows: Rows, sigma: Float[np.ndarray, " m"], mu: Float[np.ndarray, " n"], p: int) -> tuple[float, float]:
    """The residual of the optimality conditions, relative to the terms of each sum, and the relative duality gap.

    Âσ ≥ b; μ ≥ 0; Σ μ_i (âᵢσ − b_i) = 0; and with u = Âᵀμ, u = σ for p = 2, |u_j| ≤ 1 and u_j = sign σ_j on the support
    for p = 1.
    """
    A, b = rows.A, rows.b
    outputs, u = A @ sigma, A.T @ mu
    terms, load = np.abs(A) @ np.abs(sigma) + b, np.abs(A).T @ np.abs(mu)
    if p == 1:
        wrong = np.where(sigma != 0, np.abs(u - np.sign(sigma)), np.maximum(np.abs(u) - 1, 0.0)) / (1 + load)
        gap = 1 - b @ mu / np.abs(sigma).sum()
    else:
        wrong = np.abs(u - sigma) / np.maximum(load + np.abs(sigma), np.finfo(float).tiny)
        gap = 1 - np.sqrt(max(0.0, b @ mu)) / np.linalg.norm(sigma)
    infeasible = np.maximum(b - outputs, 0.0) / terms
    negative = max(0.0, -float(mu.min())) / float(np.abs(mu).max())
    complementary = np.abs(mu) @ np.abs(outputs - b) / (np.abs(mu) @ terms)
    return float(max(infeasible.max(), wrong.max(), complementary, negative)), float(gap)


UNIQUE = "the maximum margin is attained by one direction alone"
TIE = 1e-12  # relative: a multiplier or a reduced cost below may be zero but for the round-off in the data


def _uniqueness(rows: Rows, vertex: Vertex) -> Hypothesis:
    """Whether no other vertex is as good: reduced costs outside the basis are positive, or lead nowhere."""
    m = rows.A.shape[1]
    costs = floats(vertex.reduced)
    costs[2 * m :] /= costs[2 * m :].max()
    costs[vertex.basis] = 0.0
    outside = np.delete(costs, vertex.basis)
    if outside.min() > TIE:
        return apart(UNIQUE, float(outside.min()))
    face = np.flatnonzero(costs[: 2 * m] <= TIE)
    sign, j = np.where(face < m, 1.0, -1.0), face % m
    unit = float(np.abs(floats(vertex.sigma)).max())
    coefficients = np.zeros((m, face.size))
    coefficients[j, np.arange(face.size)] = sign
    width = width_of(rows.A[:, j] * sign, rows.b / unit, costs[2 * m :] > TIE, coefficients)
    return tied(UNIQUE, width) if width > _SAME else apart(UNIQUE, float(outside[outside > TIE].min()))


_SAME = 1e-6  # relative width of a single solution, which HiGHS finds to 1e-10 times a condition number

# ℓ1 of complex numbers.


def _complex_l1_margin(
    A: Inexact[np.ndarray, "n m"],
    S: Inexact[np.ndarray, "m d"],
    basis: Inexact[np.ndarray, "m k"],
    rows: Rows,
    unit: float,
) -> Margin:
    """The cone program, of rows and right sides in their own units and ρ in those of the shortest one."""
    scaled_A, b = A / rows.size[:, None], rows.b / unit
    solved = smallest(scaled_A, b, 1, S, margins=True)
    refined = certified(scaled_A, b, *_newton(scaled_A, b, basis, *solved[:2]), 1, margins=True)
    rho, mu, residual, gap = min(solved, refined, key=lambda found: found[2])
    unique = uniqueness(UNIQUE, scaled_A, b, mu > CONE * mu.max(), scaled_A.conj().T @ mu, S)
    return Margin(rho * unit / rows.smallest, residual, gap, unique)


def _newton(
    A: Inexact[np.ndarray, "n m"],
    b: Float[np.ndarray, " n"],
    basis: Inexact[np.ndarray, "m k"],
    rho: Inexact[np.ndarray, " m"],
    mu: Float[np.ndarray, " n"],
) -> tuple[Inexact[np.ndarray, " m"], Float[np.ndarray, " n"]]:
    """ρ and μ by Newton's method for Σ|ρ_j| on the support of ρ and the tight rows, from a ρ nearby."""
    from scipy.linalg import null_space

    alive, tight = np.abs(rho) > CONE * np.abs(rho).max(), mu > CONE * mu.max()
    dead = basis[~alive]
    inside = basis @ null_space(np.vstack([np.real(dead), np.imag(dead)]))  # ρ = inside z vanishes off the support
    W, G = inside[alive], np.real(A[tight] @ inside)
    z, k = np.real(inside.conj().T @ rho), inside.shape[1]
    multipliers = mu[tight]
    for _ in range(_NEWTON_STEPS):
        w = W @ z
        along = np.real(np.conj(w / np.abs(w))[:, None] * W)  # d|w| / dz
        across = np.imag(np.conj(w / np.abs(w))[:, None] * W)
        hessian = across.T @ (across / np.abs(w)[:, None])
        KKT = np.block([[hessian, -G.T], [G, np.zeros((len(G), len(G)))]])
        step = np.linalg.lstsq(KKT, np.append(-along.sum(axis=0), b[tight] - G @ z), rcond=None)[0]
        z, multipliers = z + step[:k], step[k:]
        if np.abs(step[:k]).max() <= np.finfo(float).eps * np.abs(z).max():
            break
    found = np.zeros(len(mu))
    found[tight] = multipliers
    return inside @ z, found


_NEWTON_STEPS = 10  # from six digits, two are enough
