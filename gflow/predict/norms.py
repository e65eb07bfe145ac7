"""Minimum-norm programs, solved by cvxpy and certified by their duality gap; `margins` asks for margins of complex ρ.

Both are min ‖ρ‖_p with β = Sᵀρ, p = 1 or 2, S real or complex (the identity where none is given):

    minimum norm:    Aρ = b,  A = X Sᵀ,            b = y
    maximum margin:  Aρ ≥ b,  A = diag(y) X Sᵀ,    b = 1.

The dual is max bᵀμ with ‖Aᴴμ‖_q ≤ 1 in the dual norm, and μ ≥ 0 for margins.
"""

import warnings

import numpy as np
from jaxtyping import Float, Inexact

from ..problems import Problem, Regression
from .faces import uniqueness
from .prediction import Hypothesis, Prediction, Refusal

# In order of accuracy; the next is tried where an answer is missing or its certificate is worse than this.
SOLVERS = (
    ("CLARABEL", {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}),
    ("SCS", {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iters": 200_000}),
)
ACCEPTED_RESIDUAL = 1e-6


def dft(d: int) -> Inexact[np.ndarray, "d d"]:
    """The unitary matrix of the discrete Fourier transform, F[j, k] = exp(−2πi jk/d) / √d.

    ```python
    F = gflow.predict.dft(4)
    assert np.allclose(F @ F.conj().T, np.eye(4))
    ```
    """
    return np.fft.fft(np.eye(d), norm="ortho")


def minimum_norm(problem: Regression, p: int, S: Inexact[np.ndarray, "m d"] | None = None) -> Prediction:
    """The coefficients β = Sᵀρ of smallest ‖ρ‖_p that fit the data; `p` is 1 or 2.

    The hypothesis says whether they are the only ones (for p = 2 they always are): where they are not, by how far two
    solutions differ in a coefficient, relative to the largest.

    **Raises** ValueError if X has not full row rank, RuntimeError if no solver's answer is certified.

    ```python
    gflow.predict.minimum_norm(problem, p=1).coefficients
    gflow.predict.minimum_norm(problem, p=1, S=gflow.predict.dft(2)).coefficients
    ```
    """
    X, y = data(problem)
    require_full_row_rank(X)
    S = np.eye(X.shape[1]) if S is None else S
    A = X @ S.T
    rho, mu, residual, gap = smallest(A, y, p, S, margins=False)
    unique = Hypothesis(UNIQUE, True, 1.0)
    if p == 1:
        rows, unit = np.abs(A).max(axis=1), np.abs(rho).max() or 1.0
        every = np.ones(len(y), bool)
        unique = uniqueness(UNIQUE, A / rows[:, None], y / rows / unit, every, A.conj().T @ mu, S)
    return Prediction(np.real(S.T @ rho), f"minimum ℓ{p} norm", False, residual, gap, (unique,))


UNIQUE = "the minimum norm is attained by one solution alone"


def data(problem: Problem) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """X and y in float64, where predictions are computed."""
    return np.asarray(problem.X, np.float64), np.asarray(problem.y, np.float64)


def require_full_row_rank(X: Float[np.ndarray, "n d"]) -> None:
    """Raises ValueError unless n ≤ d and X has rank n."""
    n, d = X.shape
    if n > d:
        raise Refusal(
            f"X has n = {n} rows and d = {d} columns; predictions of regression limits need n ≤ d, where infinitely "
            "many coefficients fit. Drop data points or add inputs."
        )
    singular_values = np.linalg.svd(X, compute_uv=False)
    if singular_values[-1] <= singular_values[0] * d * np.finfo(X.dtype).eps:
        raise Refusal(
            f"X has not full row rank: its smallest singular value is {singular_values[-1]:.1e}, its largest "
            f"{singular_values[0]:.1e}. Drop the rows that are combinations of others."
        )


def smallest(
    A: Inexact[np.ndarray, "n m"], b: Float[np.ndarray, " n"], p: int, S: Inexact[np.ndarray, "m d"], margins: bool
) -> tuple[Inexact[np.ndarray, " m"], Float[np.ndarray, " n"], float, float]:
    """ρ of smallest ‖ρ‖_p with Aρ = b, or Aρ ≥ b for margins; μ, the KKT residual and the relative duality gap."""
    import cvxpy as cp

    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, where the program is convex and a theorem uses it; got {p}.")
    if not b.any():
        return np.zeros(A.shape[1]), np.zeros(len(b)), 0.0, 0.0
    unit_A, unit_b = np.abs(A).max(), np.abs(b).max()
    if np.iscomplexobj(S):
        rho = cp.Variable(A.shape[1], complex=True)
        outputs, real_coefficients = cp.real((A / unit_A) @ rho), [cp.imag(S.T @ rho) == 0]
    else:
        rho = cp.Variable(A.shape[1])
        outputs, real_coefficients = (A / unit_A) @ rho, []
    fit = outputs >= b / unit_b if margins else outputs == b / unit_b
    # ‖ρ‖² has the same minimiser as ‖ρ‖, which a solver finds to twice as many digits.
    program = cp.Problem(cp.Minimize(cp.norm1(rho) if p == 1 else cp.sum_squares(rho)), [fit, *real_coefficients])
    best = (np.zeros(A.shape[1]), np.zeros(len(b)), np.inf, np.inf)
    tried = []
    for solver, options in SOLVERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccuracy: the certificate measures it
            try:
                program.solve(solver=solver, **options)
            except cp.SolverError as error:
                tried.append(f"{solver}: {error}")
                continue
        tried.append(f"{solver}: {program.status}")
        if rho.value is not None and fit.dual_value is not None:
            point = certified(A, b, rho.value * (unit_b / unit_A), fit.dual_value / unit_A, p, margins)
            best = min(best, point, key=lambda candidate: candidate[2])
        if best[2] <= ACCEPTED_RESIDUAL:
            return best
    raise RuntimeError(
        f"No solver's answer could be certified: the best KKT residual is {best[2]:.1e}, accepted is "
        f"{ACCEPTED_RESIDUAL:.0e} ({'; '.join(tried)}). Rescale the data, or add a solver to "
        "gflow.predict.norms.SOLVERS."
    )


def certified(
    A: Inexact[np.ndarray, "n m"],
    b: Float[np.ndarray, " n"],
    rho: Inexact[np.ndarray, " m"],
    mu: Float[np.ndarray, " n"],
    p: int,
    margins: bool,
) -> tuple[Inexact[np.ndarray, " m"], Float[np.ndarray, " n"], float, float]:
    """A feasible point near ρ, its μ, its KKT residual and its relative duality gap, which bounds ‖ρ‖_p's excess.

    ρ and μ are first moved to exact feasibility, so the gap is a bound whatever the solver said.
    """
    outputs = np.real(A @ rho)
    rho = rho / (outputs / b).min() if margins and outputs.min() > 0 else rho
    rho = rho if margins else rho + np.linalg.pinv(A) @ (b - outputs)
    size, outputs = np.linalg.norm(rho, p), np.real(A @ rho)
    mu = np.maximum(mu, 0.0) if margins else np.sign(b @ mu) * mu
    mu = mu / (np.linalg.norm(A.conj().T @ mu, np.inf if p == 1 else 2) or 1.0)
    u = A.conj().T @ mu
    infeasible = np.max(np.maximum(b - outputs, 0.0) if margins else np.abs(b - outputs)) / np.abs(b).max()
    not_stationary = np.linalg.norm(u * np.abs(rho) - rho, 1) if p == 1 else np.linalg.norm(u * size - rho)
    not_complementary = abs(mu @ (outputs - b))
    gap = 1 - b @ mu / size
    return rho, mu, float(max(infeasible, not_stationary / size, not_complementary / size)), float(gap)
