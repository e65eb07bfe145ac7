"""What a flow does as the initial scale tends to 0: a staircase of saddles, and the end that it leads to.

From a start of size α the flow rests near points k that fit as well as they can with the coordinates that they have,
and jumps from one to the next (Pesme & Flammarion 2023 for two layers; Zhao et al. 2026). With the clocks ζ of the
coordinates in units of h, their horizons t⁺ and t⁻ (`horizons`), and Z = X Sᵀ:

    k = 0, s = 0;  repeat:  u = Zᵀ(y − Zk);
        δ_i = (t_i⁺ − s_i)/u_i where u_i > 0, (t_i⁻ + s_i)/|u_i| where u_i < 0, for each k_i = 0;
        s ← s + δu with δ = min δ_i, and coordinate j, where it is attained, may leave 0 in the direction of u_j;
        k ← argmin ‖Zk − y‖² over k that keep their signs, with the other k_i = 0.

A jump comes at time h Σδ. The last k minimises Σ_i t_i⁺ k_i⁺ + t_i⁻ k_i⁻ subject to Zk = y.
"""

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Float

from ..networks import Network
from ..problems import Regression
from .horizons import horizons, real_start
from .margins import apart
from .names import theorem_5
from .norms import require_full_row_rank
from .prediction import Hypothesis, Prediction, Refusal

Modal = Float[np.ndarray, " m"]
Data = Float[np.ndarray, " n"]
Matrix = Float[np.ndarray, "n m"]


class Saddles(eqx.Module):
    """The staircase of saddles of a regression from a start of vanishing scale, as `saddles` finds it.

    - `coefficients`: β at the K + 1 points of rest, shape (K + 1, d): the origin first, the end last.
    - `rho`: the same in the basis that decouples, shape (K + 1, m).
    - `waits`: how long the flow rests at each but the last, shape (K,), in units of h(α): log(1/α) for two layers and
      α^{2−L} for L ≥ 3, with `network` the initial directions and α their scale. Times are those of the loss Σ r²/2.
    - `horizons`: t⁺ and t⁻ of each coordinate, shape (2, m), in the same units of time.
    - `theorem`: the source.
    - `residual`: how far the end is from the optimality conditions of min Σ t_i⁺ k_i⁺ + t_i⁻ k_i⁻ subject to Zk = y;
      where no weights of these signs fit, from those of the least-squares problem. Relative, in float64.
    - `gap`: the relative duality gap of that minimum; NaN where no weights fit.
    - `hypotheses`: how far from a tie each choice was made.
    - `depth`: L.

    ```python
    found = gflow.predict.saddles(network, problem)
    found.coefficients, found.waits
    ```
    """

    coefficients: Float[np.ndarray, "K1 d"]
    rho: Float[np.ndarray, "K1 m"]
    waits: Float[np.ndarray, " K"]
    horizons: Float[np.ndarray, "2 m"]
    theorem: str = eqx.field(static=True)
    residual: float
    gap: float
    hypotheses: tuple[Hypothesis, ...]
    depth: int = eqx.field(static=True)

    @property
    def end(self) -> Float[np.ndarray, " d"]:
        """The last of the saddles, the limit of limits as α → 0."""
        return self.coefficients[-1]

    @property
    def times(self) -> Float[np.ndarray, " K"]:
        """When each jump comes, in units of h(α)."""
        return np.cumsum(self.waits)

    def log_times(self, log_alpha: float) -> Float[np.ndarray, " K"]:
        """log t of each jump from e^`log_alpha` times the directions, up to O(1/log(1/α)) for two layers and O(α^L)
        relative for more.

        **Raises** ValueError unless log_alpha < 0."""
        return self._log_unit(log_alpha) + np.log(self.times)

    def penalties(self, log_times: Float[ArrayLike, " T"], log_alpha: float) -> Float[np.ndarray, "T 2 m"]:
        """p⁺ and p⁻ of the lasso min ½‖y − Zρ‖² + Σ_i p_i⁺ρ_i⁺ + p_i⁻ρ_i⁻ that the time average of ρ at e^`log_times`
        tends to as α → 0, as long as no coordinate has returned to zero: h(α)/t times the horizons.

        ```python
        found.penalties(path.log_times, log_alpha=-2300.0)  # for gflow.measures.lasso_residual
        ```

        Berthier 2025, for two layers.
        """
        return np.exp(self._log_unit(log_alpha) - np.asarray(log_times))[:, None, None] * self.horizons

    def _log_unit(self, log_alpha: float) -> float:
        if not log_alpha < 0:
            raise ValueError(f"log_alpha={log_alpha:g} is no small scale; saddles need α < 1, such as log_alpha=-50.0.")
        return np.log(-log_alpha) if self.depth == 2 else (2 - self.depth) * log_alpha

    def averages(self, times: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T d"]:
        """(1/t) ∫_0^t β of the staircase at times t > 0 in units of h(α), shape (T, d).

        As long as no coordinate has returned to zero it is the lasso with the penalties `horizons` / t.
        """
        starts = np.concatenate([[0.0], self.times])
        ends = np.append(self.times, np.inf)
        t = np.asarray(times, np.float64)[:, None]
        return (np.clip(t, starts, ends) - starts) / t @ self.coefficients

    def __str__(self) -> str:
        lines = [f"{self.theorem}: {len(self.waits)} jumps, residual {self.residual:.1e}, duality gap {self.gap:.1e}"]
        return "\n  ".join(lines + [str(h) for h in self.hypotheses])


def saddles(network: Network, problem: Regression) -> Saddles:
    """The saddles that gradient flow from α times `network` visits as α → 0, when it jumps, and where it ends.

    For networks of two layers or more that decouple over the reals (`modes`, or `gflow.orthogonal_form`), of any depth
    and start. Where two layers tie for the smallest in a coordinate it keeps its sign, and where two are zero it never
    moves. If no weights of these signs fit, the end is the least-squares point.

    **Raises** ValueError where the network does not decouple, and where coordinates that jump together depend on each
    other, so that the start and not its limit decides how they share; RuntimeError if SciPy's bounded least squares
    leaves its KKT conditions by more than 1e-9.

    ```python
    found = gflow.predict.saddles(gflow.Diagonal((jnp.ones(2), jnp.zeros(2))), problem)
    found.coefficients, found.log_times(log_alpha=-2300.0)
    ```

    Pesme & Flammarion 2023 for two layers; Zhao et al. 2026.
    """
    modes, Z, y = real_start(network, problem)
    eta = np.stack([np.asarray(e, np.float64) for e in modes.eta])
    plus, minus = horizons(eta)
    k, s, visited, waits, distances = np.zeros(Z.shape[1]), np.zeros(Z.shape[1]), [], [], []
    while True:
        visited.append(k)
        u = _slopes(Z, y, k)
        wait, joining, distance = _first(u, s, plus, minus, k)
        if not np.isfinite(wait):
            break
        waits.append(wait)
        distances.append(distance)
        s = s + wait * u
        s = np.where(joining, np.where(u > 0, plus, -minus), s)
        k = _refit(Z, y, np.where(joining, np.sign(u), np.sign(k)))
        if not np.linalg.norm(Z @ k - y) < np.linalg.norm(Z @ visited[-1] - y):
            raise RuntimeError("A jump did not lower the loss: round-off hides the next saddle. Rescale X and y.")
    rho = np.stack(visited)
    residual, gap, slack = _certificate(Z, y, k, s, plus, minus)
    source = "Pesme & Flammarion 2023" if len(eta) == 2 else "Zhao et al. 2026"
    return Saddles(
        coefficients=rho @ np.asarray(modes.matrix()),
        rho=rho,
        waits=np.array(waits) / modes.copies,
        horizons=np.stack([plus, minus]) / modes.copies,
        theorem=f"{source}, α → 0",
        residual=residual,
        gap=gap,
        hypotheses=(apart(_APART, min(distances, default=np.inf)), apart(_ENDS_APART, slack)),
        depth=len(eta),
    )


_APART = "no two coordinates jump at once, by the relative distance of their waits"
_ENDS_APART = "coordinates that end at zero are inside their horizons, by the relative distance"
_TIE = 1e-10  # relative difference of waits that round-off explains
_ROUND_OFF = 1e-12  # of u relative to |Z|ᵀ|y|


def _slopes(Z: Matrix, y: Data, k: Modal) -> Modal:
    """u = Zᵀ(y − Zk), zero where it is round-off, and where k is not zero: there k is stationary."""
    u = Z.T @ (y - Z @ k)
    size = np.abs(Z).T @ (np.abs(y) + np.abs(Z) @ np.abs(k))
    return np.where((k != 0) | (np.abs(u) <= _ROUND_OFF * size), 0.0, u)


def _first(u: Modal, s: Modal, plus: Modal, minus: Modal, k: Modal) -> tuple[float, np.ndarray, float]:
    """The wait until the first coordinate reaches a horizon, which do, and by how much the next one is later."""
    room = np.where(u > 0, plus - s, minus + s)
    waits = np.where(u == 0, np.inf, room / np.where(u == 0, 1.0, np.abs(u)))
    wait = waits.min(initial=np.inf)
    if not np.isfinite(wait):
        return wait, np.zeros(u.size, bool), np.inf
    joining = waits <= wait * (1 + _TIE)
    later = waits[~joining].min(initial=np.inf)
    return wait, joining, 0.0 if joining.sum() > 1 else later / wait - 1 if wait > 0 else np.inf


def _refit(Z: Matrix, y: Data, signs: Modal) -> Modal:
    """argmin ‖Zk − y‖² over k of these signs, zero where the sign is: bounded least squares, certified by its KKT
    conditions."""
    from scipy.optimize import lsq_linear  # late: it takes a quarter of a second to import

    allowed = np.flatnonzero(signs)
    A = Z[:, allowed] * signs[allowed]  # now k ≥ 0
    if np.linalg.matrix_rank(A / np.linalg.norm(A, axis=0), tol=1e-10) < allowed.size:
        raise Refusal(
            f"Coordinates {allowed.tolist()} leave 0 together and depend on each other on these data: how they share "
            "is decided by the start itself. Ask gflow.limit with a small log_alpha."
        )
    unit = np.linalg.norm(A, axis=0)
    found = lsq_linear(A / unit, y, (0.0, np.inf), method="bvls", tol=1e-14).x
    free = found > 1e-12 * np.abs(found).max(initial=0.0)
    inside = np.linalg.lstsq(A[:, free], y, rcond=None)[0]  # without the bounds' round-off
    multipliers = (A / unit).T @ (y - A[:, free] @ inside)
    violation = max(-inside.min(initial=0.0) * unit.max(), multipliers[~free].max(initial=0.0)) / np.linalg.norm(y)
    if violation > 1e-9:
        raise RuntimeError(f"Bounded least squares leaves its KKT conditions by {violation:.1e}. Rescale X and y.")
    k = np.zeros(Z.shape[1])
    k[allowed[free]] = inside * signs[allowed[free]]
    return k


def _certificate(Z: Matrix, y: Data, k: Modal, s: Modal, plus: Modal, minus: Modal) -> tuple[float, float, float]:
    """KKT residual and relative duality gap of min Σ t⁺k⁺ + t⁻k⁻ s.t. Zk = y at k and the point s of the range of Zᵀ,
    and how far the coordinates at zero are from their horizons, relative to these.

    k ≥ 0 where the negative horizon is infinite, and the reverse. Where no such k fits, the residual is that of
    min ‖Zk − y‖² over them, and there is no gap.
    """
    nu = np.linalg.lstsq(Z.T, s, rcond=None)[0]
    clock, horizon = Z.T @ nu, np.where(k > 0, plus, minus)
    outside = np.maximum(clock - plus, -minus - clock)
    off = np.where(k == 0, np.maximum(outside, 0.0), np.abs(clock - np.sign(k) * np.where(k == 0, 1.0, horizon)))
    size = max(np.abs(s).max(), np.finfo(float).tiny)
    slack = np.minimum(1 - clock / plus, 1 + clock / minus)[k == 0].min(initial=np.inf)
    u = Z.T @ (y - Z @ k)
    misfit = np.linalg.norm(Z @ k - y) / max(float(np.linalg.norm(y)), np.finfo(float).tiny)
    if misfit > _FITS:
        free = (k != 0) | ((u > 0) & np.isfinite(plus)) | ((u < 0) & np.isfinite(minus))
        return float(np.abs(u[free]).max(initial=0.0) / np.abs(Z.T @ y).max()), np.nan, float(slack)
    primal = float(np.sum(np.abs(k) * np.where(k == 0, 0.0, horizon)))
    gap = (primal - float(y @ nu)) / primal if primal > 0 else 0.0
    return float(max(off.max() / size, misfit)), gap, float(slack)


_FITS = 1e-9  # relative misfit of outputs that is round-off and no least-squares end


def small_scale_limit(network: Network, problem: Regression) -> Prediction:
    """What the limit point tends to as α → 0: the minimum of Σ_i t_i⁺ ρ_i⁺ + t_i⁻ ρ_i⁻ subject to X Sᵀρ = y.

    The horizons t⁺ and t⁻ are those of the start, whatever it is: equal for both signs where ρ(0) = 0, and then, for
    Theorem 5's start, in proportion to 1 / |η_i|^{L−2}. For a product of matrices started at the identity it is the
    minimum nuclear norm (Corollary 7). It is approached like a power of α, for L = 2 a small one where the multiplier
    of a coefficient that ends at 0 is near its bound.

    A linear program, solved by SciPy's HiGHS and certified by its duality gap. **Raises** ValueError as `saddles` does,
    if X has not full row rank, and if no weights of the signs that the start allows fit; RuntimeError if the gap
    exceeds 1e-8.

    ```python
    gflow.predict.small_scale_limit(network, problem).coefficients
    ```

    Yun et al. 2021, Theorem 5; Pesme & Flammarion 2023 and Zhao et al. 2026 for other starts.
    """
    from scipy.optimize import linprog  # late: it takes a quarter of a second to import

    modes, Z, y = real_start(network, problem)
    require_full_row_rank(np.asarray(problem.X, np.float64))
    plus, minus = horizons(np.stack([np.asarray(e, np.float64) for e in modes.eta]))
    up, down = np.flatnonzero(np.isfinite(plus)), np.flatnonzero(np.isfinite(minus))
    cost = np.concatenate([plus[up], minus[down]])
    A = np.concatenate([Z[:, up], -Z[:, down]], axis=1)
    unit_y, unit_A = np.abs(y).max() or 1.0, np.abs(A).max(initial=0.0) or 1.0
    found = linprog(cost, A_eq=A / unit_A, b_eq=y / unit_y, method="highs") if cost.size else None
    if found is None or found.x is None:
        raise Refusal(
            "No weights of the signs that this start allows fit the data: layers that tie for the smallest keep their "
            "sign. gflow.predict.saddles has the least-squares point where the flow ends."
        )
    basic = found.x > 1e-12 * found.x.max(initial=0.0)
    k = np.zeros(Z.shape[1])
    exact = np.linalg.lstsq(A[:, basic], y, rcond=None)[0]  # without the solver's round-off
    np.add.at(k, np.concatenate([up, down])[basic], exact * np.where(np.arange(cost.size) < up.size, 1.0, -1.0)[basic])
    s = Z.T @ found.eqlin.marginals / unit_A
    residual, gap, slack = _certificate(Z, y, k, s, plus, minus)
    if not (residual <= 1e-8 and abs(gap) <= 1e-8):  # a NaN is a failure
        raise RuntimeError(f"HiGHS's answer has KKT residual {residual:.1e} and gap {gap:.1e}. Rescale X and y.")
    beta = np.asarray(modes.matrix()).T @ k
    return Prediction(beta, f"{theorem_5(network)}, α → 0", False, residual, gap, (apart(_ENDS_APART, slack),))
