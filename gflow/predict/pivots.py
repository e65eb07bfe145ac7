"""Maximum margins, min ‖ρ‖_p subject to Aρ ≥ b for p = 1 and 2, and whether there is one: by pivots that float64 cannot
mislead.

A solver of float64 numbers proposes a basis, the rows that are tight (p = 2) or with them the coordinates that are not
zero (p = 1). Its equations are solved to fifty digits (`digits`), a sign that is wrong says which row or coordinate to
exchange, and when no sign is wrong the basis is optimal. The criss-cross rule, always the first wrong sign in a fixed
order, never cycles and starts anywhere (Terlaky 1985; for the quadratic program Klafszky and Terlaky 1992). Where no
exchange is left the data are not separable, and the rows say why: μ ≥ 0, not zero, with Aᵀμ = 0 (Farkas).
"""

from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float

from .digits import BITS, LARGEST_ELIMINATION, ZERO, Fixed, Matrix, eliminate, fixed, floats, integers, refined, solve
from .prediction import Refusal


class NotSeparable(Refusal):
    """The data are not linearly separable. `multipliers` μ ≥ 0, not all zero, prove it: Σ_i μ_i y_i x_i = 0.

    ```python
    both = gflow.Classification(X=[[1.0, 2.0], [1.0, 2.0]], y=[1, -1])
    try:
        gflow.predict.maximum_margin(both, p=2)
    except gflow.predict.NotSeparable as proof:
        assert jnp.allclose(proof.multipliers @ (both.y[:, None] * both.X), 0.0)
    ```
    """

    def __init__(self, message: str, multipliers: Float[np.ndarray, " n"]) -> None:
        super().__init__(message)
        self.multipliers = multipliers


class Undecided(Refusal):
    """Neither a separating vector nor a proof that there is none could be certified.

    ```python
    try:
        gflow.predict.maximum_margin(labels, p=2)
    except gflow.predict.Undecided:
        print("rescale the rows")
    ```
    """


class Rows(NamedTuple):
    """Aρ ≥ 1 in units in which every row has a largest entry in [1, 2) and the largest right side is 1: Âσ ≥ b.

    Units are powers of two, so that this rounds nothing: Â = A / size, b = smallest / size, ρ = σ / smallest.
    """

    A: Float[np.ndarray, "n m"]
    exact: Matrix
    b: Float[np.ndarray, " n"]
    size: Float[np.ndarray, " n"]
    smallest: float


def scaled(A: Float[np.ndarray, "n m"]) -> Rows:
    """The rows of A in their own units; `Undecided` where these differ beyond `_LARGEST_RATIO`."""
    largest = np.abs(A).max(axis=1, initial=0.0)
    size = np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)
    if size.max() / _LARGEST_RATIO > size.min():
        raise Undecided(
            f"the largest entries of rows of X range from {largest.min():.1e} to {largest.max():.1e}; margins are "
            f"certified up to a ratio of {_LARGEST_RATIO:.0e}. Drop the largest rows, which no margin depends on, or "
            "rescale the rows."
        )
    return Rows(A / size[:, None], integers(A / size[:, None]), size.min() / size, size, float(size.min()))


_LARGEST_RATIO = 2.0**100  # of row sizes, so that right sides are far above `digits.ZERO`
_PIVOTS = 20_000  # the rule needs no such end; a caller does


# p = 2: a basis is a set P of tight rows, independent of each other, and ρ = Σ_{i ∈ P} μ_i a_i the shortest on them.


def largest_l2_margin(rows: Rows) -> tuple[Fixed, Fixed]:
    """σ and μ with σ = Âᵀμ shortest such that Âσ ≥ b.

    **Raises** NotSeparable with a proof, Undecided where the proof fails or the equations cannot be solved.
    """
    support = _proposed_rows(rows)
    P = sorted(support[i] for i in _independent(rows.A[support].T))
    for i in [i for i in support if i not in P][:1]:
        _exchanged(rows, P, i)  # raises if these rows contradict each other, which the method ends with
    for _ in range(_PIVOTS):
        sigma, mu = _shortest(rows, P)
        slack = rows.exact.times(sigma) - fixed(rows.b)
        values, scale = floats(slack), float(np.abs(floats(sigma)).max(initial=1.0))
        values[P] = floats(mu) / max(float(np.abs(floats(mu)).max(initial=0.0)), 1e-300)
        wrong = [i for i, value in enumerate(values) if value < -ZERO * (1 if i in P else scale)]
        if not wrong:
            return sigma, _spread(mu, P, len(rows.b))
        P = _exchanged(rows, P, wrong[0])
    raise Undecided(f"no basis was found optimal after {_PIVOTS} exchanges of rows. Remove rows that repeat others.")


def _proposed_rows(rows: Rows) -> list[int]:
    """Rows that are tight or contradict each other, by least squares with μ ≥ 0 (Lawson and Hanson 1974, ch. 23)."""
    from scipy.optimize import nnls

    try:
        mu, _ = nnls(np.vstack([rows.A.T, rows.b]), np.append(np.zeros(rows.A.shape[1]), 1.0))
    except RuntimeError:  # its iterations ran out
        return []
    return np.flatnonzero(mu).tolist()


_DEPENDENT = 1e-13  # relative to a row: what float64 cannot tell from dependent is left to the pivots


def _shortest(rows: Rows, P: list[int]) -> tuple[Fixed, Fixed]:
    """The shortest σ with a_i σ = b_i on P, and its μ."""
    return _augmented(rows, P, fixed(np.zeros(rows.A.shape[1])), fixed(rows.b[P]))


def _augmented(rows: Rows, P: list[int], f: Fixed, g: Fixed) -> tuple[Fixed, Fixed]:
    """z and μ with z − A_Pᵀμ = f and A_P z = g."""
    A, m = rows.exact.rows(P), rows.A.shape[1]
    Q, R = np.linalg.qr(rows.A[P].T)

    def residual(x: Fixed) -> Fixed:
        return np.concatenate([f - x[:m] + A.transposed_times(x[m:]), g - A.times(x[:m])])

    def correct(r: np.ndarray) -> np.ndarray:
        along, down = Q.T @ r[:m], np.linalg.solve(R.T, r[m:])
        return np.concatenate([r[:m] + Q @ (down - along), np.linalg.solve(R, down - along)])

    try:
        x = refined(residual, correct, m + len(P))
    except np.linalg.LinAlgError:
        x = None
    if x is not None:
        return x[:m], x[m:]
    gram = Matrix(A.numbers @ A.numbers.T, 2 * A.shift)
    mu = solve(gram, g - A.times(f))
    if mu is None:
        raise Undecided(
            f"{len(P)} rows of X depend on each other to within {_DEPENDENT:.0e}, and more than {LARGEST_ELIMINATION} "
            "cannot be told apart. Remove rows that all but repeat combinations of others."
        )
    return f + A.transposed_times(mu), mu


def _exchanged(rows: Rows, P: list[int], i: int) -> list[int]:
    """The basis after row i, whose sign is wrong, has left or entered."""
    if i in P:
        return [p for p in P if p != i]
    z, minus_c = _augmented(rows, P, fixed(rows.A[i]), fixed(np.zeros(len(P))))
    if np.abs(floats(z)).max() > ZERO:
        return sorted([*P, i])
    c = -floats(minus_c)  # a_i = Σ c_p a_p
    falling = [p for p, value in zip(P, c, strict=True) if value > ZERO * np.abs(c).max()]
    if not falling:
        raise not_separable(rows, P, i, c)
    return sorted([*(p for p in P if p != falling[0]), i])


def _spread(mu: Fixed, P: list[int], n: int) -> Fixed:
    found = fixed(np.zeros(n))
    found[P] = mu
    return found


# The proof that there is no margin.


def not_separable(rows: Rows, P: list[int], i: int, c: Float[np.ndarray, " k"]) -> Refusal:
    """The error for a_i = Σ_p c_p a_p with all c_p ≤ 0: `NotSeparable` if integers confirm it, else `Undecided`."""
    support = [p for p, value in zip(P, c, strict=True) if value != 0 and abs(value) > ZERO * np.abs(c).max()]
    found = _farkas(rows, support, i)
    if found is None:
        return Undecided(
            f"rows {[*support, i]} of X look as if a positive combination of them were zero, so that the data were not "
            "separable, and float64 cannot prove it. Remove one of them, or points that all but repeat others."
        )
    mu = np.zeros(len(rows.b))
    mu[[*support, i]] = found / rows.size[[*support, i]]
    mu = mu / mu.sum()
    named = ", ".join(f"{mu[k]:.3g} on point {k}" for k in np.argsort(-mu)[:4] if mu[k] > 0)
    more = "" if len(support) < 4 else f" and {len(support) - 3} more"
    return NotSeparable(
        "The data are not linearly separable: no β has y_i x_iᵀβ > 0 for all i, since Σ μ_i y_i x_i = 0 with μ = "
        f"{named}{more}. Check the labels, or remove one of these points.",
        mu,
    )


def _farkas(rows: Rows, P: list[int], i: int) -> Float[np.ndarray, " k"] | None:
    """μ > 0 on P and i with Σ μ â = 0 exactly, the last one 1; None where that is not shown.

    As many independent rows as columns have a combination for every â_i: then fifty digits of it tell its signs. Else
    that there is one is itself in question, and only integers without rounding answer it.
    """
    N, shift = rows.exact
    if len(P) == rows.A.shape[1]:
        c = solve(Matrix(N[P].T, shift), fixed(rows.A[i]))
        values = None if c is None else floats(c)
    else:
        columns = sorted(_pivoted_columns(rows.A[P])[0][: len(P)])
        found = eliminate(Matrix(N[np.ix_(P, columns)].T, 0), N[i, columns])
        if found is None or (N[P].T @ found[0] != found[1] * N[i]).any():
            return None
        values = np.array([x / found[1] for x in found[0]], float)
    if values is None or (values > -ZERO * np.abs(values).max(initial=0.0)).any():
        return None
    return np.append(-values, 1.0)


# p = 1: the linear program min 1ᵀx, Mx = b, x ≥ 0 with M = [Â, −Â, −I] and x = (σ⁺, σ⁻, slack), n basic columns.


class Vertex(NamedTuple):
    """An optimal basis of the linear program: x and the reduced costs of all columns, and the multipliers."""

    basis: list[int]
    x: Fixed
    reduced: Fixed
    mu: Fixed

    @property
    def sigma(self) -> Fixed:
        m = (len(self.x) - len(self.mu)) // 2
        return self.x[:m] - self.x[m : 2 * m]


def largest_l1_margin(rows: Rows, unit: float) -> Vertex:
    """The optimal vertex of min ‖σ‖_1 such that Âσ ≥ b, for separable data. `unit` is a guess of the size of σ.

    **Raises** Undecided where its equations cannot be solved.
    """
    n, m = rows.A.shape
    N = rows.exact.numbers
    identity = np.array([[int(i == j) << rows.exact.shift for j in range(n)] for i in range(n)], object)
    M = Matrix(np.concatenate([N, -N, -identity], axis=1), rows.exact.shift)
    cost, b = fixed(np.append(np.ones(2 * m), np.zeros(n))), fixed(rows.b)
    basis = _proposed_columns(rows, unit)
    for _ in range(_PIVOTS):
        B = Matrix(M.numbers[:, basis], M.shift)
        x, mu = fixed(np.zeros(2 * m + n)), _solved(Matrix(B.numbers.T, B.shift), cost[basis])
        x[basis] = _solved(B, b)
        reduced = cost - M.transposed_times(mu)
        reduced[basis] = 0
        signs = floats(x) / max(float(np.abs(floats(x)).max()), 1e-300) + floats(reduced)  # one of the two is zero
        wrong = np.flatnonzero(signs < -ZERO)
        if not wrong.size:
            return Vertex(basis, x, reduced, mu)
        basis = _pivoted(M, B, basis, int(wrong[0]))
    raise Undecided(
        f"no basis was found optimal after {_PIVOTS} exchanges of coordinates. Remove rows that repeat others."
    )


def _pivoted(M: Matrix, B: Matrix, basis: list[int], k: int) -> list[int]:
    """The basis after column k, whose sign is wrong, has left or entered, against the first column that allows it."""
    if k in basis:
        row = np.array([int(j == k) for j in basis], object)
        y = _solved(Matrix(B.numbers.T, B.shift), fixed(row.astype(float)))
        allowed = np.flatnonzero(floats(M.transposed_times(y)) < -ZERO)
        leaving, entering = k, next((int(j) for j in allowed if j not in basis), None)
    else:
        column = floats(_solved(B, (M.numbers[:, k] << BITS) >> M.shift))
        leaving, entering = min((j for j, value in zip(basis, column, strict=True) if value > ZERO), default=None), k
    if leaving is None or entering is None:
        raise Undecided("the linear program of the ℓ1 margin has no solution although the data are separable.")
    return sorted([*(j for j in basis if j != leaving), entering])


def _solved(B: Matrix, b: Fixed) -> Fixed:
    found = solve(B, b)
    if found is None:
        raise Undecided(
            f"{len(b)} rows of X depend on each other to within float64's round-off, and more than "
            f"{LARGEST_ELIMINATION} cannot be told apart. Remove rows that all but repeat combinations of others."
        )
    return found


def _proposed_columns(rows: Rows, unit: float) -> list[int]:
    """A basis near the optimum, by SciPy's HiGHS; that of the slacks where it finds none."""
    from scipy.optimize import linprog

    n, m = rows.A.shape
    found = linprog(np.ones(2 * m), A_ub=np.hstack([-rows.A, rows.A]), b_ub=-rows.b / unit, method="highs-ds")
    if found.x is None:
        return list(range(2 * m, 2 * m + n))
    J = [int(j) for j in np.flatnonzero(found.x > 0)]
    columns = np.hstack([rows.A, -rows.A])[:, J]
    tight = np.flatnonzero(found.slack <= _TIGHT)
    spanning = tight[_independent(columns[tight].T)]
    kept = _independent(columns[spanning])
    used = {int(i) for i in spanning}
    return sorted([*(J[j] for j in kept), *(2 * m + i for i in range(n) if i not in used)])


_TIGHT = 1e-7  # the feasibility that HiGHS promises


def _independent(A: Float[np.ndarray, "k l"]) -> list[int]:
    """Columns of A that are independent of each other, the most so first."""
    order, size = _pivoted_columns(A)
    return order[: int(np.sum(size > _DEPENDENT * size.max(initial=0.0)))]


def _pivoted_columns(A: Float[np.ndarray, "k l"]) -> tuple[list[int], Float[np.ndarray, " r"]]:
    """The order in which QR with pivoting takes the columns of A, and how long each is off the span of those before."""
    from scipy.linalg import qr

    if not A.size:
        return [], np.zeros(0)
    R, order = cast(tuple[np.ndarray, np.ndarray], qr(A, mode="r", pivoting=True))
    return [int(j) for j in order], np.abs(np.diag(R))
