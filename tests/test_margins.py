"""Maximum margins against exact rational arithmetic; proofs that there is none; ties; all stationary points."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import fsolve, linprog
from truth import contradicts, exact_margin

import gflow
from gflow import predict
from gflow.predict import digits, margins, pivots, stationary

ROWS = {
    "one of them times 1e6": lambda rng, A: A * np.append(1e6, np.ones(len(A) - 1))[:, None],
    "over 1e±6": lambda rng, A: A * 10 ** rng.uniform(-6, 6, (len(A), 1)),
    "facing each other but for 1e-9": lambda rng, A: np.vstack([A, 1e-9 * rng.uniform(1, 2, A.shape) - A]),
    "more than columns": lambda rng, A: np.vstack([A, A[:, ::-1]]) @ np.diag(np.sign(A[0])) + 3 * np.sign(A[0]),
}


def labelled(A, seed=0):
    """A problem whose y_i x_i are the rows of A."""
    y = np.random.default_rng(seed).choice([-1.0, 1.0], len(A))
    return gflow.Classification(np.asarray(A) * y[:, None], y)


def hypothesis(found):
    """What a prediction says of being the only one."""
    return next(h for h in found.hypotheses if h.statement.startswith(margins.UNIQUE))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("seed", range(3))
def test_the_margin_is_exact_to_the_last_digit(seed, kind, p):
    rng = np.random.default_rng(seed)
    A = ROWS[kind](rng, rng.normal(size=(4, 7)))
    found = predict.maximum_margin(labelled(A), p)
    exact = exact_margin(A, found.coefficients, p)
    assert exact is not None
    np.testing.assert_allclose(found.coefficients, np.array([float(v) for v in exact]), rtol=4e-16)
    assert max(found.residual, abs(found.gap)) <= 1e-14


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("tiny", [1e-8, 1e-17])
def test_points_that_face_each_other_are_separable_by_their_small_coordinate(tiny, p):
    found = predict.maximum_margin(gflow.Classification([[1, tiny], [-1, tiny]], [1, 1]), p)
    np.testing.assert_allclose(found.coefficients, [0, 1 / tiny], rtol=1e-15)


@pytest.mark.parametrize("p", [1, 2])
def test_the_answer_does_not_depend_on_what_the_float64_solvers_propose(p, monkeypatch):
    rng = np.random.default_rng(3)
    A = np.abs(rng.normal(size=(9, 12))) * 10 ** rng.uniform(-6, 6, (9, 1))
    expected = predict.maximum_margin(labelled(A), p)
    monkeypatch.setattr(pivots, "_proposed_rows", lambda rows: [])
    monkeypatch.setattr(pivots, "_proposed_columns", lambda rows, unit: list(range(24, 33)))
    np.testing.assert_array_equal(predict.maximum_margin(labelled(A), p).coefficients, expected.coefficients)


def contradictory(name):
    rng = np.random.default_rng(0)
    A = rng.integers(-9, 10, (4, 12)).astype(float)
    return {
        "opposite points": np.vstack([A, -4 * A[:1]]),
        "a combination": np.vstack([A, -2 * A[0] - A[2] / 4]),
        "a point at zero": np.vstack([A, 0 * A[:1]]),
        "crowded": rng.normal(size=(40, 6)) * 10 ** rng.uniform(-6, 6, (40, 1)),
    }[name]


@pytest.mark.parametrize("S", [None, "fourier", "real"])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("name", ["opposite points", "a combination", "a point at zero", "crowded"])
def test_contradictions_are_named_with_a_proof(name, p, S):
    A = contradictory(name)
    d = A.shape[1]
    S = {None: None, "fourier": predict.dft(d), "real": np.random.default_rng(1).normal(size=(d, d))}[S]
    with pytest.raises(predict.NotSeparable, match="not linearly separable") as caught:
        predict.maximum_margin(labelled(A), p, S)
    mu = caught.value.multipliers
    assert mu.min() >= 0
    assert contradicts(A, mu)
    assert np.abs(mu @ A).max() <= 1e-13 * (mu @ np.abs(A)).max()


def test_a_proof_is_of_exact_dependence():
    """Without more rows than columns there is a positive combination or none; with them fifty digits tell its signs."""
    a = np.random.default_rng(0).integers(-9, 10, (2, 5)) / 7.0
    for last, proven in ((-(a[0] + a[1]) * (1 + 1e-15), False), (-4 * a[0] - a[1] / 8, True), (a[0] - a[1], False)):
        exact = np.round(a * 7) if proven else a
        last = -4 * exact[0] - exact[1] / 8 if proven else last
        found = pivots._farkas(pivots.scaled(np.vstack([exact, last])), [0, 1], 2)
        assert (found is not None) == proven
    square = np.eye(5) * np.arange(1.0, 6.0)
    for last, proven in ((-np.full(5, 0.3), True), (np.append(-np.ones(4), 1e-9), False)):
        found = pivots._farkas(pivots.scaled(np.vstack([square, last])), [0, 1, 2, 3, 4], 5)
        assert (found is not None) == proven


def test_no_limit_is_predicted_of_contradictions_but_their_proof():
    A = contradictory("opposite points")
    for network in (gflow.Diagonal((jnp.ones(12), jnp.zeros(12))), gflow.Diagonal((jnp.ones(12),))):
        with pytest.raises(predict.NotSeparable) as caught:
            predict.limit(network, labelled(A))
        assert contradicts(A, caught.value.multipliers)


@pytest.mark.parametrize("start", ["proposed", "none"])
def test_contradictions_are_found_from_any_start(start, monkeypatch):
    if start == "none":
        monkeypatch.setattr(pivots, "_proposed_rows", lambda rows: [])
    with pytest.raises(predict.NotSeparable) as caught:
        predict.maximum_margin(labelled(contradictory("crowded")), 2)
    assert contradicts(contradictory("crowded"), caught.value.multipliers)


@pytest.mark.parametrize("p", [1, 2])
def test_a_margin_of_round_off_is_neither_a_margin_nor_a_contradiction(p):
    a = np.random.default_rng(0).normal(size=(2, 10))
    A = np.vstack([a, -(a[0] + a[1])])  # rounded, which leaves a margin of 1e-17
    with pytest.raises(predict.Undecided, match=r"separable by so little.*e-17"):
        predict.maximum_margin(labelled(A), p)
    with pytest.raises(predict.Undecided, match="round-off in X Sᵀ"):
        predict.maximum_margin(labelled(A), p, np.random.default_rng(1).normal(size=(10, 10)))
    assert predict.maximum_margin(labelled(A + 1e-9), p).residual <= 1e-14


def test_what_digits_do_not_reach_is_undecided():
    with pytest.raises(predict.Undecided, match="float64 cannot prove it"):
        predict.maximum_margin(gflow.Classification([[1, 1e-200], [-1, 1e-200]], [1, 1]), 2)
    with pytest.raises(predict.Undecided, match=r"from 1.0e\+00 to 1.0e\+300"):
        predict.maximum_margin(gflow.Classification([[1e300, 1], [1, 1]], [1, 1]), 1)
    with pytest.raises(predict.Undecided, match="over float64's range"):
        predict.maximum_margin(gflow.Classification([[1e-320, 1e-320]], [1]), 1)


@pytest.mark.parametrize("p", [1, 2])
def test_a_certificate_fails_for_other_points(p):
    A = np.random.default_rng(5).normal(size=(3, 8))
    rows = pivots.scaled(A)
    sigma, mu = pivots.largest_l2_margin(rows)
    if p == 1:
        vertex = pivots.largest_l1_margin(rows, 1.0)
        sigma, mu = vertex.sigma, vertex.mu
    sigma, mu = digits.floats(sigma), digits.floats(mu)
    assert max(margins.certificate(rows, sigma, mu, p)) <= 1e-14
    for wrong in ((sigma * (1 + 1e-9), mu), (sigma, mu * (1 + 1e-9)), (np.roll(sigma, 1), mu), (sigma, -mu)):
        residual, gap = margins.certificate(rows, *wrong, p)
        assert max(residual, abs(gap)) > 1e-10 or np.isnan(gap)


# Equations in fifty digits.


def test_refinement_and_elimination_agree_beyond_float64():
    rng = np.random.default_rng(0)
    B, b = rng.normal(size=(6, 6)) * 10.0 ** rng.integers(-8, 8, 6), digits.fixed(rng.normal(size=6))
    found = digits.solve(digits.integers(B), b)
    x, D = digits.eliminate(digits.integers(B), b)
    exact = (x << digits.integers(B).shift) // D
    assert max(abs(a - e) for a, e in zip(found, exact, strict=True)) < max(map(abs, exact)) >> 190
    large = rng.normal(size=(90, 90))  # more than are eliminated
    found = digits.floats(digits.solve(digits.integers(large), digits.fixed(np.ones(90))))
    np.testing.assert_allclose(large @ found, 1, rtol=0, atol=1e-10)


def test_corrections_that_cancel_are_no_solution():
    one = digits.fixed(np.ones(2))
    assert digits.refined(lambda x: one - x, np.zeros_like, 2) is None
    np.testing.assert_array_equal(digits.refined(lambda x: one - x, np.copy, 2), one)
    np.testing.assert_array_equal(digits.refined(np.negative, np.copy, 2), 0 * one)  # nothing is to be solved


@pytest.mark.parametrize("p", [1, 2])
def test_a_point_between_two_others_has_a_margin(p):
    """Up to round-off the third row is the mean of two, and as tight as they are: corrections of 1e31 cancel."""
    A = np.random.default_rng(21).standard_normal((27, 4, 6))[26]
    A[2] = 0.5 * (A[0] + A[1])
    found = predict.maximum_margin(gflow.Classification(A, np.ones(4)), p)
    assert abs(np.min(A @ found.coefficients) - 1) <= 1e-14


def test_what_float64_takes_for_singular_is_eliminated():
    B = np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-52]])
    shifted = digits.solve(digits.integers(B), digits.fixed(np.array([0.0, 2.0**-52])))
    np.testing.assert_array_equal(digits.floats(shifted), [-1.0, 1.0])
    assert digits.solve(digits.integers(np.ones((2, 2))), digits.fixed(np.ones(2))) is None
    assert digits.eliminate(digits.integers(np.eye(81)), digits.fixed(np.ones(81))) is None
    assert digits.eliminate(digits.integers(np.eye(80)), digits.fixed(np.ones(80))) is not None


# Ties.


def test_a_tie_is_said_with_the_distance_of_its_solutions():
    found = predict.maximum_margin(gflow.Classification([[1, 1], [1, 1]], [1, 1]), 1)
    tie = hypothesis(found)
    assert not tie.holds
    assert tie.value == -1.0  # from (1, 0) to (0, 1)
    assert "FAILS by 1" in str(found)
    assert hypothesis(predict.maximum_margin(gflow.Classification([[1, 1], [1, 1]], [1, 1]), 2)).holds


def test_the_distance_is_that_of_linear_programs():
    A = np.array([[2.0, 1.0, 0.0, 0.3], [0.0, 1.0, 2.0, -0.1]])  # (0, 1, 0, 0) or (1/2, 0, 1/2, 0)
    found = predict.maximum_margin(labelled(A), 1)
    norm, B = np.abs(found.coefficients).sum(), np.hstack([A, -A])
    ends = []
    for j, sign in itertools.product(range(4), (1, -1)):
        cost = np.zeros(8)
        cost[j], cost[4 + j] = sign, -sign
        ends.append(sign * linprog(cost, A_ub=np.vstack([-B, np.ones(8)]), b_ub=np.append(-np.ones(2), norm)).fun)
    width = max(high - low for low, high in zip(ends[::2], ends[1::2], strict=True)) / np.abs(ends).max()
    assert width > 0.1
    np.testing.assert_allclose(hypothesis(found).value, -width, rtol=1e-6)


@pytest.mark.parametrize(
    ("apart", "holds", "near"), [(0.0, False, False), (1e-13, False, False), (1e-9, True, True), (1e-3, True, False)]
)
def test_near_ties_are_reported_as_near(apart, holds, near):
    tie = hypothesis(predict.maximum_margin(gflow.Classification([[1, 1 - apart]], [1]), 1))
    assert (bool(tie.holds), "near tie" in tie.statement) == (holds, near)
    singular = predict.two_layer_direction(
        gflow.Diagonal(([1.0, 2.0], [0.0, 0.0])), gflow.Classification([[1, 1 - apart]], [1])
    )
    assert ("near tie" in str(singular)) == near
    assert (singular.coefficients[1] > 0.5) == (not holds)


def test_a_degenerate_vertex_is_still_the_only_one():
    """A third row is tight by chance: its multiplier is zero, and there is no second solution."""
    found = predict.maximum_margin(gflow.Classification([[1, 0.2], [0.2, 1], [0.6, 0.6]], [1, 1, 1]), 1)
    np.testing.assert_allclose(found.coefficients, [1 / 1.2, 1 / 1.2], rtol=1e-14)
    assert hypothesis(found).holds


def test_ties_of_complex_programs_are_said():
    impulse, generic = np.eye(8)[:1], np.random.default_rng(0).normal(size=(1, 8))
    assert not hypothesis(predict.maximum_margin(gflow.Classification(impulse, [1]), 1, predict.dft(8))).holds
    found = predict.maximum_margin(gflow.Classification(generic, [1]), 1, predict.dft(8))
    assert hypothesis(found).holds
    assert found.residual <= 1e-12
    F = np.fft.fft(generic[0])  # only the largest frequency is left
    top = np.abs(F) >= np.abs(F).max() * (1 - 1e-12)
    assert gflow.angle(found.coefficients, np.fft.ifft(np.where(top, F, 0)).real) <= 1e-9


def test_a_tie_that_the_theorem_leaves_open_is_no_limit():
    A = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    network = gflow.Diagonal((jnp.arange(1.0, 4.0), jnp.zeros(3)))
    assert not hypothesis(predict.orthogonal_direction(network, labelled(A))).holds
    with pytest.raises(predict.Refusal, match=r"Corollary 2: FAILS by .* one direction alone.*one of them"):
        predict.limit(network, labelled(A))


@pytest.mark.slow
@pytest.mark.parametrize("second", [[1.0, -1.0, 0.5], [2.0, -2.0, 7.0]])
def test_the_start_decides_between_equal_inputs(second):
    """X = [[1, −1, …], …]: modes 0 and 1 have the same inputs but for the sign, and share like (η_1 ± η_2)²."""
    problem = gflow.Classification([[1.0, -1.0, 0.5], second], [1, 1])
    network = gflow.Diagonal(([1.0, 2.0, 1.0], [0.5, 0.5, 0.0]))
    expected = predict.limit(network, problem)
    assert hypothesis(expected).holds
    share = expected.coefficients[:2] / np.abs(expected.coefficients[:2]).sum()
    np.testing.assert_allclose(share, np.array([1.5**2, -(1.5**2)]) / (1.5**2 + 1.5**2), rtol=0, atol=1e-15)
    assert gflow.compare(gflow.limit(network, problem), expected).angle <= 1e-9


def test_modes_that_cannot_grow_are_refused():
    problem = gflow.Classification([[1.0, 1.0], [1.0, 1.0]], [1, 1])
    with pytest.raises(predict.Refusal, match=r"keeps the modes \[0, 1\] from growing"):
        predict.orthogonal_direction(gflow.Diagonal(([1.0, 2.0], [-1.0, -2.0])), problem)


# Stationary points.


def deep(d, L=3):
    return gflow.Diagonal((jnp.ones(d),) * (L - 1) + (jnp.zeros(d),))


@pytest.mark.parametrize("L", [3, 5])
def test_one_point_has_a_stationary_point_on_every_support(L):
    """|ρ_j|^{2/L−1} ∝ |x_j| on J: 2^d − 1 of them in closed form."""
    x = np.array([1.0, -0.5, 2.0, 0.8])
    points = predict.stationary_points(deep(4, L), gflow.Classification(x[None], [-1]))
    assert len(points) == 15
    found = {tuple(p.coefficients != 0): p.coefficients for p in points}
    for J in itertools.product([False, True], repeat=4):
        if any(J):
            rho = np.where(J, -np.sign(x) * np.abs(x) ** (-L / (L - 2)), 0.0)
            np.testing.assert_allclose(found[J], rho / -(x @ rho), rtol=1e-10)
    assert points[0].hypotheses[-1].holds
    assert "enumerated" in points[0].theorem


def test_every_solution_of_the_equations_is_listed():
    """Root finding from many starts, on each support and set of tight rows, finds the same points and no other."""
    A = np.random.default_rng(4).normal(size=(2, 3))
    points = predict.stationary_points(deep(3), labelled(A))
    assert points[0].hypotheses[-1].holds
    rng, roots = np.random.default_rng(0), []
    supports = [J for s in (1, 2, 3) for J in itertools.combinations(range(3), s)]
    for J, rows in itertools.product(supports, ([0], [1], [0, 1])):

        def equations(mu, J=J, rows=rows):
            u = A[np.ix_(rows, list(J))].T @ mu
            return A[np.ix_(rows, list(J))] @ (np.sign(u) * np.abs(u) ** -3.0) - 1

        for _ in range(60 if len(J) >= len(rows) else 0):
            mu, _, status, _ = fsolve(equations, np.exp(rng.normal(size=len(rows))), full_output=True)
            if status != 1 or mu.min() <= 0 or np.abs(equations(mu)).max() > 1e-9:
                continue
            rho, u = np.zeros(3), A[np.ix_(rows, list(J))].T @ mu
            rho[list(J)] = np.sign(u) * np.abs(u) ** -3.0
            if (A @ rho).min() > 1 - 1e-9 and all(np.abs(rho - z).max() > 1e-6 * np.abs(rho).max() for z in roots):
                roots.append(rho)
    assert len(roots) >= 5
    for z in roots:
        assert min(np.abs(z - p.coefficients).max() for p in points) <= 1e-6 * np.abs(z).max()
    assert len(points) == len(roots)


def test_what_the_sampling_finds_is_among_the_enumerated():
    A = np.random.default_rng(1).normal(size=(3, 6)) * np.array([1.0, 1e3, 1e-3])[:, None]
    points = predict.stationary_points(deep(6), labelled(A))
    assert points[0].hypotheses[-1].holds
    assert all(p.residual <= 1e-8 for p in points)
    norms = [np.sum(np.abs(p.coefficients) ** (2 / 3)) for p in points]
    assert norms == sorted(norms)
    sampled = stationary._sampled(A, np.eye(6), 3, 6, 0)
    assert len(points) > len(sampled) > 1
    for z in sampled:
        assert min(np.linalg.norm(z - p.coefficients) for p in points) <= 1e-5 * np.linalg.norm(z)


def test_narrow_patterns_of_signs_are_decided_too():
    """Some of the points have coordinates that differ by 1e8 and more."""
    rng = np.random.default_rng(1)
    A = rng.normal(size=(3, 8)) * rng.choice([-1.0, 1.0], 3)[:, None]
    points = predict.stationary_points(deep(8), labelled(A))
    assert points[0].hypotheses[-1].holds
    sizes = [np.abs(p.coefficients[p.coefficients != 0]) for p in points]
    assert max(size.max() / size.min() for size in sizes) > 1e8


def test_beyond_twelve_modes_points_are_sampled_and_it_says_so():
    for d, how in ((12, "enumerated"), (13, "sampled")):
        A = np.where(np.arange(d) < 3, 1.0, 0.0)[None]  # few supports, so that it is quick
        points = predict.stationary_points(deep(d), labelled(A), starts=2)
        assert how in points[0].theorem
        assert points[0].hypotheses[-1].holds == (how == "enumerated")
    assert stationary._cases(3, 12) <= stationary._CASES < stationary._cases(8, 12)


def test_two_layers_have_no_quasi_norm():
    with pytest.raises(predict.Refusal, match="three layers or more; this network has 2"):
        predict.stationary_points(deep(4, 2), gflow.Classification(np.eye(4)[:1], [1]))
    with pytest.raises(predict.NotSeparable):
        predict.stationary_points(deep(2), gflow.Classification([[1, 2], [1, 2]], [1, -1]))
