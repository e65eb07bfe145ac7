"""Theorem 2 for more than two layers: stationary points of the ℓ_{2/L} quasi-norm at unit margin.

minimise Σ_j |ρ_j|^{2/L} subject to y_i x_iᵀSᵀρ ≥ 1 is not convex, and the theorem promises some stationary
point: there are μ ≥ 0 on the smallest margins with u = conj(S Σ_i μ_i y_i x_i) and u_j = |ρ_j|^{2/L−2} ρ_j
wherever ρ_j ≠ 0. So an end can be tested, and candidates can be searched, but none can be promised.
"""

import warnings

import numpy as np
from jaxtyping import Inexact

from ..measures import kkt_residual
from ..networks import Network
from ..problems import Classification
from .directions import dominance, require_modes
from .norms import data
from .prediction import Prediction, Refusal

Modal = Inexact[np.ndarray, " m"]


def stationarity(network: Network, problem: Classification) -> Prediction:
    """How nearly the coefficients of `network`, the end of a flow, are a stationary point as in Theorem 2.

    The prediction returned is that end itself, at unit margin; its `residual` is `gflow.measures.kkt_residual`
    at the μ ≥ 0 that fit best, found from the end alone. Along a flow it falls to zero with the loss (slowly for
    L ≥ 3, where coordinates die out like powers of the margin).

    **Raises** ValueError if the network has no orthogonal decomposition, or does not separate the data.

    ```python
    gflow.predict.stationarity(gflow.flow(start, problem, log_loss=-1e6).network, problem).residual
    ```
    """
    found = require_modes(network)
    S, eta = np.asarray(found.matrix()), [np.asarray(e) for e in found.eta]
    size = max(float(np.abs(e).max()) for e in eta)
    rho = np.prod([e / size for e in eta], axis=0)
    B = _margin_matrix(problem, S)
    margins = (B @ rho).real
    if margins.min() <= 0:
        raise Refusal(
            f"the network does not separate the data: its smallest margin y_i f(x_i) is {margins.min():.3g} in units "
            "of its largest weight. Carry the flow on to a smaller loss."
        )
    rho = rho / margins.min()
    L = len(found.eta)
    residual = _kkt_residual(B, rho, L)
    return Prediction((S.T @ rho).real, f"Theorem 2, L = {L}: the end itself", True, residual)


def stationary_points(
    network: Network, problem: Classification, *, starts: int = 20, seed: int = 0
) -> list[Prediction]:
    """Stationary points of Theorem 2's problem for any L, by iteratively reweighted ℓ1 from random starts.

    Each step solves min Σ_j |ρ_j| |ρ_j^{old}|^{2/L−1} at unit margin, by cvxpy; the quasi-norm falls at
    every step. The list is sorted by it, without repetitions; nothing says that it is complete, nor
    which of its points a flow reaches: compare them with the flow's end.

    **Raises** ValueError if the network has no orthogonal decomposition, or the data are not separable.

    ```python
    points = gflow.predict.stationary_points(network, problem)
    angles = [gflow.compare(end, point).angle for point in points]
    ```
    """
    import cvxpy as cp

    found = require_modes(network)
    S, L = np.asarray(found.matrix()), len(network.weights)
    B = _margin_matrix(problem, S)
    weight = cp.Parameter(len(S), nonneg=True)
    rho = cp.Variable(len(S), complex=np.iscomplexobj(S))
    fit = [cp.real(B @ rho) >= 1, cp.imag(S.T @ rho) == 0] if np.iscomplexobj(S) else [B @ rho >= 1]
    program = cp.Problem(cp.Minimize(cp.sum(cp.multiply(weight, cp.abs(rho)))), fit)
    rng, points = np.random.default_rng(seed), []
    for _ in range(starts):
        weight.value = np.exp(rng.normal(size=len(S)))
        point = _descend(program, weight, rho, 2 / L)
        if all(np.linalg.norm(point - other) > 1e-4 * np.linalg.norm(point) for other in points):
            points.append(point)
    points.sort(key=lambda z: float(np.sum(np.abs(z) ** (2 / L))))
    theorem = f"Theorem 2, L = {L}: a stationary point"
    hypotheses = (dominance(found),)
    return [Prediction((S.T @ z).real, theorem, True, _kkt_residual(B, z, L), hypotheses=hypotheses) for z in points]


def _descend(program, weight, rho, p: float) -> Modal:
    import cvxpy as cp

    size = np.ones(weight.shape)
    for _ in range(_REWEIGHTINGS):
        previous = weight.value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccuracy: the KKT residual measures it
            program.solve(solver=cp.CLARABEL)
        if rho.value is None:
            raise Refusal(
                f"No ρ has unit margins (the solver says {program.status}): the data are not linearly separable. Check "
                "the labels, or remove the points that conflict."
            )
        size = np.abs(rho.value)
        weight.value = np.maximum(size / size.max(), _DEAD) ** (p - 1)
        if np.abs(weight.value - previous).max() <= 1e-9 * weight.value.max():
            break
    return np.where(size > _DEAD * size.max(), rho.value, 0)


_REWEIGHTINGS = 50
_DEAD = 1e-6  # relative size below which a coordinate of a solver's answer is zero


def _margin_matrix(problem: Classification, S: Inexact[np.ndarray, "m d"]) -> Inexact[np.ndarray, "n m"]:
    X, y = data(problem)
    return y[:, None] * (X @ S.T)


def _kkt_residual(B: Inexact[np.ndarray, "n m"], rho: Modal, L: int) -> float:
    """The residual at the μ ≥ 0 that fit best, for margins Re(Bρ) of which the smallest is 1."""
    from scipy.optimize import nnls

    size = np.abs(rho)
    phase = np.where(size > 0, rho / np.where(size > 0, size, 1.0), 0.0)
    left, right = np.transpose(np.conj(B) * size), size ** (2 / L) * phase  # left @ μ = u ⊙ |ρ|
    slack = np.maximum(np.real(B @ rho) - 1, 0.0)
    stacked = np.concatenate([np.real(left), np.imag(left), np.diag(slack)])
    mu, _ = nnls(stacked, np.concatenate([np.real(right), np.imag(right), np.zeros(slack.size)]))
    return float(kkt_residual(rho, mu, B, L))
