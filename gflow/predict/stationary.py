"""Theorem 2 for more than two layers: stationary points of the ℓ_{2/L} quasi-norm at unit margin.

minimise Σ_j |ρ_j|^{2/L} subject to y_i x_iᵀSᵀρ ≥ 1 is not convex, and the theorem promises some stationary
point: there are μ ≥ 0 on the smallest margins with u = conj(S Σ_i μ_i y_i x_i) and u_j = |ρ_j|^{2/L−2} ρ_j
wherever ρ_j ≠ 0. So an end can be tested, and candidates can be listed, but none can be promised.

On a support J, with signs σ and multipliers on rows I, ρ_j = sign(u_j) |u_j|^{−L/(L−2)} is a function of μ, and
A_I ρ = 1 says that μ minimises

    G(μ) = (L−2)/2 Σ_{j ∈ J} |u_j|^{−2/(L−2)} + Σ_{i ∈ I} μ_i,   u = A_Iᵀμ,

which is convex where u keeps its signs and infinite where a u_j is zero. So each (J, I, σ) has one stationary point or
none, and where some μ with these signs has Σμ ≤ 0, along which G falls for ever, it has none.
"""

import itertools
import math
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Inexact, Int

from ..measures import kkt_residual
from ..networks import Network
from ..problems import Classification
from .directions import dominance, require_modes
from .margins import margin
from .norms import data
from .prediction import Hypothesis, Prediction, Refusal

Modal = Inexact[np.ndarray, " m"]


def stationarity(network: Network, problem: Classification) -> Prediction:
    """How nearly the coefficients of `network`, the end of a flow, are a stationary point as in Theorem 2.

    The prediction returned is that end itself, at unit margin; its `residual` is `gflow.measures.kkt_residual`
    at the μ ≥ 0 that fit best, found from the end alone. Along a flow it falls to zero with the loss (slowly for
    L ≥ 3, where coordinates die out like powers of the margin).

    **Raises** ValueError if the network has no orthogonal decomposition, or does not separate the data.

    ```python
    path = gflow.flow(network, labels, until=(gflow.Turning(1e-3), gflow.LogLoss(-1e6)))
    gflow.predict.stationarity(path.network, labels).residual
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
    """Stationary points of Theorem 2's problem for L ≥ 3, sorted by their quasi-norm, without repetitions.

    For real networks of at most 12 modes all supports, signs and sets of rows are enumerated, as long as these are at
    most 1e6 (up to four points in 12 dimensions, ten in six). Then the hypothesis that the list is complete holds,
    or says how many cases stayed open. Elsewhere points are sampled, by iteratively reweighted ℓ1 from `starts` random
    weights (Σ_j |ρ_j| |ρ_j^{old}|^{2/L−1} at unit margin, by cvxpy, under which the quasi-norm falls at every step),
    and that hypothesis fails. Nothing says which of the points a flow reaches: compare them with its end.

    **Raises** ValueError if the network has no orthogonal decomposition or fewer than three layers; NotSeparable and
    Undecided as `maximum_margin`; RuntimeError if no point is found.

    ```python
    network = gflow.Diagonal((jnp.ones(2), jnp.ones(2), jnp.zeros(2)))
    points = gflow.predict.stationary_points(network, labels)
    angles = [gflow.compare(end, point).angle for point in points]
    ```
    """
    found = require_modes(network)
    L = len(network.weights)
    if L < 3:
        raise Refusal(
            f"Theorem 2's quasi-norm has stationary points to list for three layers or more; this network has {L}: "
            "ask gflow.predict.orthogonal_direction."
        )
    margin(problem, 2)  # raises where the data are not separable
    S = np.asarray(found.matrix())
    A = _margin_matrix(problem, S)
    if found.is_real and A.shape[1] <= _LARGEST and _cases(*A.shape) <= _CASES:
        points, unsolved = _enumerated(A, L)
        how, accepted = "enumerated", 1e-8
    else:
        points, unsolved = _sampled(A, S, L, starts, seed), math.inf
        how, accepted = "sampled", 1e-5  # what a cone program reaches
    residuals = [_kkt_residual(A, z, L) for z in points]
    kept = [(z, residual) for z, residual in zip(points, residuals, strict=True) if residual <= accepted]
    if not kept:
        raise RuntimeError("No stationary point was found, though there is one. Rescale the columns of X.")
    unsolved += len(points) - len(kept)
    why = "so many cases were not decided" if how == "enumerated" else "it was sampled"
    complete = Hypothesis(COMPLETE, unsolved == 0, 0.0 - unsolved, why)
    kept.sort(key=lambda point: float(np.sum(np.abs(point[0]) ** (2 / L))))
    theorem = f"Theorem 2, L = {L}: a stationary point, {how}"
    hypotheses = (dominance(found), complete)
    return [Prediction(np.real(S.T @ z), theorem, True, residual, hypotheses=hypotheses) for z, residual in kept]


COMPLETE = "the list of stationary points is complete"
_LARGEST = 12  # modes whose supports are enumerated: 4095
_CASES = 1_000_000  # a minute or two


def _cases(n: int, m: int) -> int:
    """A bound on the number of supports J, rows I and signs: k rows cut the signs of s coordinates into so many cells
    with μ > 0, of which half of all cells is one."""
    return sum(
        math.comb(n, k) * math.comb(m, s) * sum(math.comb(s - 1, i) for i in range(k))
        for k in range(1, min(n, m) + 1)
        for s in range(k, m + 1)
    )


def _enumerated(A: Float[np.ndarray, "n m"], L: int) -> tuple[list[Modal], int]:
    """All stationary points, and of how many cases it is not known whether they have one."""
    n, m = A.shape
    size = np.abs(A).max(axis=1)
    rows, b = A / size[:, None], size.min() / size
    found: dict[tuple, list[Modal]] = {}  # by signs
    unresolved = 0
    for k in range(1, min(n, m) + 1):
        for chosen in map(list, itertools.combinations(range(n), k)):
            cells = _cells(rows[chosen])
            for s in range(k, m + 1):
                batch = _batch(rows[chosen], cells, s)
                if not len(batch.mu):
                    continue
                with np.errstate(all="ignore"):  # what over- or underflows does not arrive
                    rho, unsolved = _critical(batch, b[chosen], L)
                unresolved += unsolved
                points = np.zeros((len(rho), m))
                np.put_along_axis(points, batch.J, rho, axis=1)
                terms = np.abs(points) @ np.abs(rows.T) + b
                fits = (points @ rows.T >= b - _ROUND_OFF * terms).all(axis=1)  # false for NaN
                for z in points[fits] / size.min():
                    same = found.setdefault(tuple(np.sign(z)), [])
                    if all(np.abs(z - other).max() > _EQUAL * np.abs(z).max() for other in same):
                        same.append(z)
    return [z for same in found.values() for z in same], unresolved


_ROUND_OFF = 1e-11  # relative to the terms of a margin, of which Newton's method leaves 1e-12
_EQUAL = 1e-7  # relative: a point on more tight rows than it needs is found from several of them


class _Batch(NamedTuple):
    """Cases of one I and one size of J: the columns J of A_I, the signs of u on them, and a μ with these signs."""

    J: Int[np.ndarray, "c s"]
    A: Float[np.ndarray, "c k s"]
    sign: Float[np.ndarray, "c s"]
    mu: Float[np.ndarray, "c k"]


def _cells(A: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "c k"]:
    """A μ > 0 for every pattern of signs that u = Aᵀμ takes there without zeros, but for columns that vanish."""
    from scipy.optimize import linprog

    k = len(A)
    cells = [(np.eye(k), np.full(k, 1 / k))]  # what is positive in the cell, and the point that is so the most
    for a in A.T[np.abs(A).max(axis=0) > 0]:
        a = a / np.abs(a).max()
        halves = []
        for positive, _ in cells:
            for sign in (1.0, -1.0):
                half = np.vstack([positive, sign * a])
                # max t: half μ ≥ t, Σμ = 1
                found = linprog(
                    np.append(np.zeros(k), -1.0),
                    A_ub=np.hstack([-half, np.ones((len(half), 1))]),
                    b_ub=np.zeros(len(half)),
                    A_eq=[[1.0] * k + [0.0]],
                    b_eq=[1.0],
                    bounds=(None, None),
                )
                if found.x is not None and found.x[k] > _THIN:
                    halves.append((half, found.x[:k]))
        cells = halves
    return np.array([mu for _, mu in cells]).reshape(-1, k)


_THIN = 1e-9  # of a cell: thinner ones cannot be told from hyperplanes that meet


def _batch(A: Float[np.ndarray, "k m"], cells: Float[np.ndarray, "c k"], s: int) -> _Batch:
    """The cases of all J of size s whose columns are not zero and give A_I full row rank."""
    alive = np.flatnonzero(np.abs(A).max(axis=0) > 0)
    Js, mus = [], []
    for J in itertools.combinations(alive, s):
        if np.linalg.matrix_rank(A[:, J], tol=_THIN) < len(A):
            continue
        _, first = np.unique(np.sign(cells @ A[:, J]), axis=0, return_index=True)
        Js += [J] * len(first)
        mus += list(cells[first])
    J, mu = np.array(Js, int).reshape(-1, s), np.array(mus).reshape(-1, len(A))
    columns = np.moveaxis(A[:, J], 0, 1)
    return _Batch(J, columns, np.sign(np.einsum("cks,ck->cs", columns, mu)), mu)


def _critical(batch: _Batch, b: Float[np.ndarray, " k"], L: int) -> tuple[Float[np.ndarray, "c s"], int]:
    """ρ of each case, NaN where there is none with μ > 0, and how many stayed open: by damped Newton on G."""
    q = 2 / (L - 2)
    signed = batch.A * batch.sign[:, None, :]

    def u_of(mu: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.einsum("cks,ck->cs", signed[at], mu)

    def value(mu: np.ndarray, at: np.ndarray) -> np.ndarray:
        u = u_of(mu, at)
        return np.where((u > 0).all(axis=1), np.sum(np.maximum(u, 1e-300) ** -q, axis=1) / q + mu @ b, np.inf)

    mu = batch.mu * ((u_of(batch.mu, np.arange(len(batch.mu))) ** -q).sum(axis=1) / (batch.mu @ b))[:, None] ** (
        1 / (1 + q)
    )  # the best multiple
    going, arrived = np.arange(len(mu)), np.zeros(len(mu), bool)
    for _ in range(_NEWTON_STEPS):
        at, u = going, u_of(mu[going], going)
        outputs = np.einsum("cks,cs->ck", signed[at], u ** (-q - 1))
        terms = np.einsum("cks,cs->ck", np.abs(signed[at]), u ** (-q - 1)) + b
        gradient = b - outputs
        H = np.einsum("cks,cs,cls->ckl", signed[at], (q + 1) * u ** (-q - 2), signed[at])
        step = -_solve(H, gradient)
        falling = np.minimum(np.einsum("ck,ck->c", gradient, step), 0.0)
        change = u_of(step, at) / u
        length = np.minimum(1.0, 0.9 / np.maximum(-change.min(axis=1), 0.9))
        before = value(mu[at], at)
        for _ in range(_HALVINGS):
            high = value(mu[at] + length[:, None] * step, at) > before * (1 + 1e-14) + 1e-4 * length * falling
            if not high.any():
                break
            length = np.where(high, length / 2, length)
        mu[at] += length[:, None] * step
        small = (np.abs(change).max(axis=1) <= 1e-8) & (np.abs(gradient) <= 1e-12 * terms).all(axis=1)
        arrived[at] = small
        going = at[~small & ~(mu[at] @ b <= 0)]  # with NaN, which stay open
        if not going.size:
            break
    rho = batch.sign * u_of(mu, np.arange(len(mu))) ** (-q - 1)
    return np.where((arrived & (mu > 0).all(axis=1))[:, None], rho, np.nan), len(going)


def _solve(H: Float[np.ndarray, "c k k"], g: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "c k"]:
    """H⁻¹g with H's diagonal in units of 1, and so much added to it that round-off leaves no H singular."""
    D = np.sqrt(np.einsum("ckk->ck", H))
    unit = H / (D[:, :, None] * D[:, None, :]) + 1e-15 * np.eye(H.shape[-1])
    return np.linalg.solve(unit, (g / D)[..., None])[..., 0] / D


_NEWTON_STEPS = 200
_HALVINGS = 40


def _sampled(
    A: Inexact[np.ndarray, "n m"], S: Inexact[np.ndarray, "m d"], L: int, starts: int, seed: int
) -> list[Modal]:
    """Points where iteratively reweighted ℓ1 from random weights ends."""
    import cvxpy as cp

    weight = cp.Parameter(len(S), nonneg=True)
    rho = cp.Variable(len(S), complex=np.iscomplexobj(S))
    fit = [cp.real(A @ rho) >= 1, cp.imag(S.T @ rho) == 0] if np.iscomplexobj(S) else [A @ rho >= 1]
    program = cp.Problem(cp.Minimize(cp.sum(cp.multiply(weight, cp.abs(rho)))), fit)
    rng, points = np.random.default_rng(seed), []
    for _ in range(starts):
        weight.value = np.exp(rng.normal(size=len(S)))
        point = _descend(program, weight, rho, 2 / L)
        if point is not None and all(np.linalg.norm(point - z) > 1e-4 * np.linalg.norm(point) for z in points):
            points.append(point)
    return points


def _descend(program, weight, rho, p: float) -> Modal | None:
    """The end of one descent; None where the solver finds no point."""
    import cvxpy as cp

    size = np.ones(weight.shape)
    for _ in range(_REWEIGHTINGS):
        previous = weight.value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inaccuracy: the KKT residual measures it
            program.solve(solver=cp.CLARABEL)
        if rho.value is None:
            return None
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
