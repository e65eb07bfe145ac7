"""Classification in dual coordinates, out to log-losses of −10^1000.

Real Assumption 1 of Yun et al. 2021, with margins m = Aρ, A = diag(y) X Sᵀ, and q = −∂ log L/∂m ≥ 0. In the clock τ
with dτ = L dt the flow is ν̇ = q, ζ = Aᵀν, and each ρ_j is a function of its angle x_j (`coordinates.py`):

    ẋ = (dx/dζ) ⊙ Aᵀq(Aρ(x)).

Angles are the state, so weights of e^{±2000} are ordinary numbers. For L = 2, x = x_0 + Aᵀν, and ν alone is the
state where it is the smaller one. From L < 1/e on the clock is log s with s = −log L, which never stands still.

*The cap.* Support vectors' margins differ by O(1) while they grow like s, so q must be read from differences far below
round-off. Beyond s = κ it is read from margins scaled down to a smallest one of κ instead: the tie is then kept to
1/κ of the margin where the flow keeps it to 1/s, and directions move by O(1/κ − 1/s). Below the cap the flow is exact,
but for large starts that misclassify a point by more than κ, which are read likewise.
Two caps, extrapolated from 1/κ to 1/s, remove the error and show its size.

*The logits.* q = softmax of logits λ = −k m. A margin may be a millionth of its terms, and λ shows an error δ of the
angles as κ 10⁶ δ: as functions of the angles the equations of an implicit step could be solved from within 10⁻¹⁰ of
the solution only. So λ is a state of its own that follows −k m at once. In x and λ together the equations are all but
linear, and Newton's method solves them as interior-point methods do linear programs with their multipliers. Where λ
is far below 0 its logarithm is the state: the step before a point takes part is then as long as the way to there.
"""

import math
from typing import Any, NamedTuple, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Bool, Float, Int, Scalar

from .._order import after
from ..flows import implicit
from ..flows.engine import Integration, Run, integrate
from ..flows.rows import AtTaus
from ..flows.stopping import STUCK
from ..measures import angle, kkt_residual, remaining_angle, singular_vector_residual
from ..networks import LinearTensorNetwork, Network, with_weights
from ..problems import Classification
from ..records import Certificate, Path, Route, Solution, Status, first_of
from . import cone
from .coordinates import Coordinates
from .decoupled import Decoupled, lift
from .digits import exponent_of, ldexp
from .vertex import Vertex, vertex

NetworkT = TypeVar("NetworkT", bound=Network)
_LN10 = math.log(10.0)


class _Directions(NamedTuple):
    """The flow of the angles at the losses asked for, with the cap extrapolated away. NaN where it was not reached.

    `multipliers` are q/Σq; `errors` the angles by which the cap turned β. The flow of inputs X from Θ is
    that of X/c from c^{1/L} Θ: `log_unit` is log c^{1/L}, the unit in which these `coordinates` give the weights.
    """

    coordinates: Coordinates
    log_unit: Scalar
    angles: Float[Array, "T m"]
    multipliers: Float[Array, "T n"]
    errors: Float[Array, " T"]
    status: Status
    steps: Int[Array, ""]
    rejected_steps: Int[Array, ""]


def _directions(
    problem: Classification,
    found: Decoupled,
    decades: Float[Array, " T"],
    log_alpha: Scalar,
    cap: Scalar,
    rtol: Scalar,
    max_steps: int,
    exact: bool = True,
) -> _Directions:
    """Rows at log₁₀(−log L) = `decades`, or about there if they need not be `exact`; `rtol` is the absolute tolerance
    on angles, hence relative on every ρ_j."""
    c = exponent_of(jnp.max(jnp.abs(found.Z)))
    log_unit = c * math.log(2) / len(found.eta)
    coordinates = Coordinates.of(found.eta, log_alpha + log_unit)
    A = problem.y[:, None] * ldexp(found.Z, -c)

    def run(cap: Scalar) -> _Run:
        return _run(_CappedFlow(coordinates, A, problem, cap, rtol, exact), decades, max_steps)

    # map, not vmap, under which both would take the steps of the slower
    runs = jax.lax.map(run, cap * jnp.array([0.1, 1.0], A.dtype))
    coarse, fine = (jax.tree.map(lambda v, i=i: v[i], runs) for i in (0, 1))
    # Margins are tied to 1/κ where the flow ties them to 1/s, and ρ and q are linear in that.
    fraction = jnp.maximum(1 - 10.0 ** (jnp.log10(cap) - decades), 0.0)[:, None] / 9
    out = coordinates.outward(fine.angles)
    growth = coordinates.depth * out * (fine.angles - coarse.angles)  # of log ρ, within 1 where alive
    further = jnp.log1p(-fraction * jnp.expm1(-jnp.clip(growth, -1.0, 1.0))) / coordinates.depth
    angles = fine.angles + out * further
    shares = jnp.maximum(fine.multipliers + fraction * (fine.multipliers - coarse.multipliers), 0.0)

    def beta(x: Float[Array, " m"]) -> Float[Array, " d"]:
        return found.modes.coefficients(coordinates.unit_rho(x)[0])

    by_cap, by_start = (angle(jax.vmap(beta)(x), jax.vmap(beta)(fine.angles)) for x in (angles, coarse.angles))
    # Rows that are capped in neither run differ by steps' errors, unless the runs parted before the loss was small.
    parted = (decades <= jnp.log10(cap) - 1) & (by_start > rtol)
    status = Status.where(coarse.status == Status.converged, fine.status, coarse.status)
    # A flow that has not arrived may have nowhere to go, or may only be slow.
    moving = after((coarse.steps + fine.steps).astype(A.dtype), jnp.where(coordinates.frozen, 0.0, A))
    hopeless = (status != Status.converged) & cone.is_balanced(moving, coordinates.side)
    status = Status.where(hopeless, Status.no_descent, status)
    return _Directions(
        coordinates=coordinates,
        log_unit=log_unit,
        angles=angles,
        multipliers=shares / jnp.sum(shares, axis=-1, keepdims=True),
        errors=jnp.where(parted, by_start / 9, by_cap),
        status=status,
        steps=coarse.steps + fine.steps,
        rejected_steps=coarse.rejected_steps + fine.rejected_steps,
    )


def flow(
    network: NetworkT,
    problem: Classification,
    found: Decoupled,
    decades: Float[Array, " T"],
    log_alpha: Scalar,
    *,
    cap: Scalar,
    rtol: Scalar,
    max_steps: int,
) -> Path[NetworkT]:
    """The path of e^`log_alpha` times `network`, with rows at log₁₀(−log L) = `decades`, up to thousands."""
    rows = _directions(problem, found, decades, log_alpha, cap, rtol, max_steps)

    def read(x: Float[Array, " m"]) -> tuple[NetworkT, Scalar]:
        eta, log_unit = rows.coordinates.unit_eta(x)
        log_unit = log_unit - rows.log_unit
        lifted = lift(network, eta, log_alpha, log_unit)
        size = jnp.sqrt(sum(jnp.sum(v**2) for v in lifted.weights))
        return with_weights(lifted, tuple(v / size for v in lifted.weights)), log_unit + jnp.log(size)

    networks, log_scales = jax.vmap(read)(rows.angles)
    log_losses = jnp.where(jnp.isfinite(log_scales), -(10.0**decades), jnp.nan)
    log_times = _log_time(log_losses, found.eta.shape[0], log_scales)
    last = jax.tree.map(lambda v: v[-1], networks)
    final = log_losses[-1]
    return Path(
        followed=networks,
        log_scales=log_scales,
        log_times=log_times,
        log_losses=log_losses,
        decades=jnp.where(jnp.isfinite(log_scales), decades, jnp.nan),
        multipliers=rows.multipliers,
        errors=rows.errors,
        end=Solution(
            network=last,
            log_scale=log_scales[-1],
            log_loss=final,
            log_time=log_times[-1],
            status=rows.status,
            route=Route.dual,
            error=jnp.full_like(final, jnp.nan),
            certificate=Certificate.of(final),
            steps=rows.steps,
            rejected_steps=rows.rejected_steps,
        ),
    )


def _log_time(log_loss: Array, depth: int, log_norm: Array) -> Array:
    """t ~ 1 / (L ‖∇ log L‖²), and the gradient is aligned with the weights: ‖∇ log L‖ ‖Θ‖ ~ −L log L, L layers."""
    return -log_loss - 2 * (jnp.log(-depth * log_loss) - log_norm)


READINGS = (0.5, 0.75, 1.0)  # powers of −log L at which `remaining_angle` reads the direction


class _Reached(NamedTuple):
    """Where a flow has come to: weights η, ρ in a unit, the points' shares, and the angle that may be left."""

    eta: Float[Array, "L m"]
    rho: Float[Array, " m"]
    shares: Float[Array, " n"]
    turns: Scalar
    status: Status
    steps: Int[Array, ""]
    rejected_steps: Int[Array, ""]


def largest_margin(problem: Classification, found: Decoupled) -> Vertex | None:
    """The vertex that two layers tend to wherever it is unique; None for more layers."""
    if len(found.eta) > 2:
        return None
    coordinates = Coordinates.of(found.eta)
    one = jnp.ones_like(coordinates.side)
    right, left = (jnp.where((coordinates.side == -sign) | coordinates.frozen, jnp.inf, one) for sign in (1.0, -1.0))
    return vertex(problem.y[:, None] * found.Z, right, left)


def direction(
    network: Any,
    problem: Classification,
    found: Decoupled,
    log_alpha: Scalar,
    *,
    log_loss: Scalar,
    tolerance: Scalar,
    cap: Scalar,
    rtol: Scalar,
    max_steps: int,
    known: Vertex | None = None,
) -> Solution:
    """The limit direction, given at `log_loss`: a vertex where that is certain, else what the flow has at that loss.

    Nothing is integrated, nor compiled for that, where the vertex is `known` for certain.
    """
    depth, margins_of = len(found.eta), problem.y[:, None] * found.Z
    coordinates = Coordinates.of(found.eta)
    reached = None
    if known is not None:
        none = jnp.zeros((), int)
        end, certain, status, steps, rejected_steps = known, jnp.array(True), Status.converged, none, none
    else:
        two_layers = largest_margin(problem, found)
        decades = jnp.log10(-log_loss) * jnp.array(READINGS, found.Z.dtype)
        if two_layers is not None:
            decades = jnp.where(two_layers.is_unique, _NOW, decades)
        reached, off = _reached(_directions(problem, found, decades, log_alpha, cap, rtol, max_steps, False), found)
        end = _vertex_near(margins_of, reached.rho, depth) if two_layers is None else two_layers
        certain = end.is_unique
        if two_layers is None:
            near = angle(found.modes.coefficients(end.rho), found.modes.coefficients(reached.rho))
            certain &= (reached.status == Status.converged) & (near + off <= _NEAR)
        status = Status.where(certain, Status.converged, reached.status)
        steps, rejected_steps = reached.steps, reached.rejected_steps

    size = ((math.log(problem.y.size) - log_loss) / jnp.min(margins_of @ end.rho)) ** (1 / depth)
    eta, rho, shares = size * coordinates.equal_layers(end.rho), end.rho, end.shares
    left = jnp.linalg.norm(found.modes.bound(end.errors)) / jnp.linalg.norm(found.modes.coefficients(rho))
    if reached is not None:
        of_flow = reached.eta, reached.rho, reached.shares, reached.turns
        eta, rho, shares, left = (
            jnp.where(certain, v, w) for v, w in zip((eta, rho, shares, left), of_flow, strict=True)
        )
    beta = found.modes.coefficients(rho)

    # Of what does not grow nothing is left in the limit.
    network = lift(network, eta, jnp.where(certain, -jnp.inf, log_alpha))
    final = problem.log_loss(network(problem.X))
    # Coordinates that keep their sign may be pushed against it by as much as there is: there they stay 0.
    pushed_back = coordinates.side * (shares @ margins_of) < 0
    residual = kkt_residual(rho, shares, jnp.where(pushed_back, 0.0, margins_of), depth)
    # What is returned must point the same way by its own coefficients, and classify every point by its own outputs.
    rounding = jnp.finfo(beta.dtype).eps  # of the coefficients that are returned, however exact the vertex
    error = jnp.maximum(left + angle(network.coefficients(), beta) + rounding, residual)
    uncertified = (status == Status.converged) & ~((error <= tolerance) & (final < 0))
    singular = (
        singular_vector_residual(network, problem, shares)
        if isinstance(network, LinearTensorNetwork)
        else jnp.full_like(final, jnp.nan)
    )
    log_norm = jnp.log(sum(jnp.sum(v**2) for v in network.weights)) / 2
    return Solution(
        network=network,
        log_scale=jnp.zeros_like(final),
        log_loss=final,
        log_time=_log_time(final, depth, log_norm),
        status=Status.where(uncertified, Status.not_certified, status),
        route=Route.dual,
        error=jnp.where(status == Status.converged, error, jnp.inf),
        certificate=Certificate.of(final, kkt_residual=residual, singular_vector_residual=singular),
        steps=steps + end.exchanges,
        rejected_steps=rejected_steps,
    )


def _reached(rows: _Directions, found: Decoupled) -> tuple[_Reached, Scalar]:
    """The last of the rows at `READINGS`, and the angle by which the cap turned it."""
    rho, _ = jax.vmap(rows.coordinates.unit_rho)(rows.angles)
    turns = remaining_angle(jax.vmap(found.modes.coefficients)(rho)) + rows.errors[-1]
    eta = rows.coordinates.eta(rows.angles[-1]) * jnp.exp(-rows.log_unit)
    last = _Reached(eta, rho[-1], rows.multipliers[-1], turns, rows.status, rows.steps, rows.rejected_steps)
    return last, rows.errors[-1]


_NEAR = 1e-3  # radians from a flow's end to a vertex with the same coordinates, at losses where all others have died


def _vertex_near(A: Float[Array, "n m"], rho: Float[Array, " m"], depth: int) -> Vertex:
    """The stationary vertex of min ‖ρ‖_{2/L} s.t. Aρ ≥ 1 on the coordinates that are alive in ρ. There the concave
    objective is least among its neighbours, and its slopes are the costs of a linear program."""
    alive = jnp.abs(rho) > _ALIVE * jnp.max(jnp.abs(rho))
    right, left = alive & (rho > 0), alive & (rho < 0)

    def again(rho: Array, _: None) -> tuple[Array, Vertex]:
        size = jnp.abs(rho) / jnp.max(jnp.abs(rho))
        costs = jnp.where(size > 0, size, 1.0) ** (2 / depth - 1)
        found = vertex(A, jnp.where(right, costs, jnp.inf), jnp.where(left, costs, jnp.inf))
        return found.rho, found

    found = jax.tree.map(lambda v: v[-1], jax.lax.scan(again, rho, length=2)[1])
    return found._replace(is_unique=found.is_unique & jnp.all((found.rho != 0) == alive))


_ALIVE = 1e-20  # ρ_j, relative: what does not grow is smaller at the losses that are reached


class _State(NamedTuple):
    """Where the flow is, ν or the angles; and the logits λ of the points' shares as u = λ or, below 0, −log(1 − λ), in
    units in which the tolerance on angles is one of 1 on u."""

    place: Array
    logits: Float[Array, " n"]


class _CappedFlow(eqx.Module):
    """The flow of the angles at one cap κ."""

    coordinates: Coordinates
    A: Float[Array, "n m"]
    problem: Classification
    cap: Scalar
    tolerance: Scalar  # on the angles
    exact: bool = eqx.field(static=True)  # whether rows are at the losses asked for, or at about these

    @property
    def nu_is_state(self) -> bool:
        """Whether ν is the state; otherwise the angles are."""
        n, m = self.A.shape
        return self.coordinates.depth == 2 and n < m

    @property
    def start(self) -> Array:
        return jnp.zeros(len(self.A), self.A.dtype) if self.nu_is_state else self.coordinates.start

    @property
    def finds_roots(self) -> bool:
        """Whether the first phase ends where −log L = 1: between two steps, where ties of margins are lost, or at a
        step."""
        return self.exact and _can_find_roots(self.A.dtype)

    def reach(self, state: _State) -> _State:
        """A step of the first phase must not pass over the rows."""
        turn = jnp.max(jnp.sum(jnp.abs(self.A), axis=0)) if self.nu_is_state else 1.0  # of angles by a step of ν
        return _State(jnp.full_like(state.place, _REACH / turn), jnp.full_like(state.logits, jnp.inf))

    def angles(self, place: Array) -> Float[Array, " m"]:
        return self.coordinates.start + self.A.T @ place if self.nu_is_state else place

    def _log_loss(self, margins: Float[Array, " n"]) -> Scalar:
        return self.problem.log_loss(self.problem.y * margins)

    def capped_margins(self, place: Array) -> tuple[Float[Array, " n"], Scalar]:
        """k e^{−R} m and log k, where k = 1 unless that would make the smallest margin exceed ±κ."""
        rho, R = self.coordinates.unit_rho(self.angles(place))
        m = self.A @ rho
        least = jnp.abs(jnp.min(m))
        log_largest = jnp.log(self.cap) - jnp.log(jnp.where(least > 0, least, 1.0))
        log_k = jnp.where(least > 0, jnp.minimum(R, log_largest), R)
        return jnp.exp(log_k) * m, R - log_k

    def log_s(self, place: Array) -> Scalar:
        """log(−log L); NaN where L > 1."""
        margins, log_shrink = self.capped_margins(place)
        return log_shrink + jnp.log(-self._log_loss(margins))

    def loss_is_small(self, place: Array) -> Scalar:
        """Positive where −log L > 1, by more than round-off makes of the terms of the margins: log s there, whose zero
        Newton's method finds from where s is e^1000 as well; with the same slope below."""
        margins, log_shrink = self.capped_margins(place)
        rho, R = self.coordinates.unit_rho(self.angles(place))
        terms = jnp.exp(R - log_shrink) * (jnp.abs(self.A) @ jnp.abs(rho))
        log_loss = self._log_loss(margins - 100 * len(rho) * jnp.finfo(rho.dtype).eps * terms)
        log_size = log_shrink + jnp.log(jnp.abs(log_loss))
        below = -jnp.log(2 - jnp.exp(jnp.minimum(log_size, 0.0)))
        return jnp.where(log_loss < 0, jnp.where(log_size > 0, log_size, below), -jnp.logaddexp(math.log(2), log_size))

    def logits(self, state: _State) -> Float[Array, " n"]:
        u = state.logits / self.tolerance
        return jnp.where(u < 0, -jnp.expm1(-jnp.minimum(u, 0.0)), u)

    def state_of(self, place: Array, logits: Float[Array, " n"]) -> _State:
        u = jnp.where(logits < 0, -jnp.log1p(-jnp.minimum(logits, 0.0)), logits)
        return _State(place, self.tolerance * u)

    def shares(self, state: _State) -> Float[Array, " n"]:
        return jax.nn.softmax(self.logits(state))

    def is_stuck(self, state: _State) -> Bool[Array, ""]:
        """Whether Aᵀq all but vanishes, relative to its terms: the flow rests, or is too slow to arrive."""
        q = self.shares(state)
        return jnp.linalg.norm(self.A.T @ q) < STUCK * jnp.sum(q * jnp.linalg.norm(self.A, axis=1))

    def rates(self, place: Array, log_fastest: Array | float = jnp.inf) -> Float[Array, " m"]:
        """dx/dζ, held below e^`log_fastest`, in units of the largest."""
        if self.nu_is_state:
            return jnp.ones_like(self.coordinates.start)
        log_rate = jnp.minimum(-self.coordinates.log_zeta_slope(place), log_fastest)
        return jnp.exp(log_rate - jax.lax.stop_gradient(jnp.max(log_rate)))

    def velocity(self, rates: Float[Array, " m"], q: Float[Array, " n"]) -> Array:
        return q if self.nu_is_state else rates * (self.A.T @ q)


class _Run(NamedTuple):
    """One cap's run: `angles` and `multipliers` have a row for every decade."""

    angles: Float[Array, "T m"]
    multipliers: Float[Array, "T n"]
    status: Status
    steps: Int[Array, ""]
    rejected_steps: Int[Array, ""]


class _Clocked(eqx.Module):
    """The flow in a clock in which no angle moves faster than 1, while points are misclassified, or in the clock log s.

    With three layers and more the coordinates that are awake move α^{2−L} times as fast as those asleep. They balance
    each other meanwhile, and do so as well where they move only `_AWAKE` κ times as fast as at the start: it shifts the
    times at which others awake by the inverse of that, which two caps show.

    In the clock log s the logits are those of the loss e^{−s} that the clock says, −k (m − s), and the velocity is
    Σ e^{λ_i} y_i x_i in a unit: where margins lag behind s, it grows. What makes s exact is a quotient by |Aᵀq|², which
    Newton's method can bear where Aᵀq is not a millionth of its terms. A lag of δ in s is one of δ/κ in all margins.
    """

    flow: _CappedFlow
    falling: Bool[Array, ""]  # whether log s is the clock
    unit: Scalar  # of the velocity in it, where rows are not exact

    def __call__(self, tau: Scalar, state: _State) -> _State:
        velocity = jax.lax.cond(self.falling, lambda: self._by_loss(tau, state), lambda: self._at_unit_speed(state))
        off = self.wanted(tau, state) - self.flow.logits(state)
        return _State(velocity, self.flow.tolerance / _LAG * off)

    def wanted(self, tau: Scalar, state: _State) -> Float[Array, " n"]:
        """The logits: log(−ℓ′(k m)), relative to ks where the loss is e^{−s} at log s = τ."""
        flow = self.flow
        margins = jnp.where(self.falling, self._falling_margins(tau, state.place), self._waiting_margins(state))
        log_slopes = flow.problem.log_slopes(margins)
        level = -flow.shares(state) @ log_slopes
        return log_slopes + jnp.where(self.falling, jnp.minimum(jnp.exp(tau), flow.cap), level)

    def _falling_margins(self, tau: Scalar, place: Array) -> Float[Array, " n"]:
        """k m where ks = min(s, κ)."""
        rho, R = self.flow.coordinates.unit_rho(self.flow.angles(place))
        return jnp.exp(R - jax.nn.relu(tau - jnp.log(self.flow.cap))) * (self.flow.A @ rho)

    def _waiting_margins(self, state: _State) -> Float[Array, " n"]:
        """k m where k is 1 unless their mean would exceed ±κ."""
        rho, R = self.flow.coordinates.unit_rho(self.flow.angles(state.place))
        m = self.flow.A @ rho
        mean = jnp.abs(self.flow.shares(state) @ m)
        log_largest = jnp.log(self.flow.cap) - jnp.log(jnp.where(mean > 0, mean, 1.0))
        return jnp.exp(jnp.where(mean > 0, jnp.minimum(R, log_largest), R)) * m

    def _at_unit_speed(self, state: _State) -> Array:
        flow, coordinates = self.flow, self.flow.coordinates
        asleep = jnp.minimum(*(coordinates.log_zeta_slope(x) for x in (coordinates.start, 0 * coordinates.start)))
        q, rates = flow.shares(state), flow.rates(state.place, math.log(_AWAKE) + jnp.log(flow.cap) - asleep)
        # The pulls of awake coordinates are balanced: the clock goes on with the others.
        tiny = jnp.finfo(q.dtype).tiny  # where both are 0 the root would have no derivative
        speeds = jnp.sqrt((flow.A.T @ q) ** 2 + (_BALANCED * (jnp.abs(flow.A).T @ q)) ** 2 + tiny)
        return flow.velocity(rates, q) / (rates @ speeds)

    def pace(self, tau: Scalar, state: _State) -> Scalar:
        """The factor of Σ e^{λ_i} y_i x_i with which d log s/dτ = 1 where the loss is e^{−s}."""
        flow, x = self.flow, self.flow.angles(state.place)
        q, rates = flow.shares(state), flow.rates(state.place)
        growth = jnp.exp(flow.coordinates.log_rho_slope(x) - tau) * rates * (flow.A.T @ q) ** 2
        slopes = jnp.exp(flow.logits(state))
        losses = slopes / -jax.vmap(jax.grad(flow.problem.loss))(self._falling_margins(tau, state.place))
        return (jnp.sum(losses) / jnp.sum(slopes)) ** 2 / jnp.sum(growth)

    def _by_loss(self, tau: Scalar, state: _State) -> Array:
        flow = self.flow
        slopes, rates = jnp.exp(flow.logits(state)), flow.rates(state.place)
        return flow.velocity(rates, slopes) * (self.pace(tau, state) if flow.exact else self.unit)


_REACH = 30.0  # of angles, for which log s grows by that times the depth: to 10^65 with five layers
_LAG = 1e-9  # of either clock, which the logits are behind: nothing that is awake moves at this scale
_ROUGH = 1e-2  # of the tolerance on angles
_BALANCED = 1e-5  # of a pull's terms: below that it does not count for the clock
_AWAKE = 1e4  # with κ = 1e4 rates of 1e8, of which float64 leaves eight digits


class _LossIsSmall(eqx.Module):
    """Changes sign, or merely turns true, where −log L = 1, unless log s is the clock."""

    flow: _CappedFlow
    falling: Bool[Array, ""]

    def __call__(self, tau: Scalar, state: _State) -> Array:
        value = jnp.where(self.falling, -1.0, self.flow.loss_is_small(state.place))
        return value if self.flow.finds_roots else value > 0


def _can_find_roots(dtype: Any) -> bool:
    """diffrax's search for an event's time needs states in JAX's default precision. Without it the first phase ends at
    a step, and rows of losses that were passed within that step are NaN."""
    return dtype == jnp.zeros(()).dtype


class _IsStuck(eqx.Module):
    flow: _CappedFlow
    falling: Bool[Array, ""]

    def __call__(self, tau: Scalar, state: _State) -> Bool[Array, ""]:
        return ~self.falling & self.flow.is_stuck(state)


def _run(flow: _CappedFlow, decades: Float[Array, " T"], max_steps: int) -> _Run:
    """First in a bounded clock until −log L = 1, then in the clock log s."""
    dtype = flow.A.dtype
    eps = float(jnp.finfo(dtype).eps)
    relative = jnp.maximum(450 * eps * flow.cap, eps)  # round-off in the angles moves q by κ times as much
    # Logits are solved for to 0.1, beyond which round-off of ill-conditioned margins moves them.
    rough = _ROUGH * flow.tolerance * jnp.append(jnp.ones_like(flow.start), jnp.full(len(flow.A), 0.1 / _ROUGH))
    solver = diffrax.Kvaerno5(
        # Full Newton: with the tie of margins a chord iteration takes ten times the steps. It stops at a change a
        # hundredth of the tolerance, 1e-9, whose square moves no margin that is 1e-12 of its terms.
        root_finder=implicit.RoundOffNewton(relative, rough, kappa=1.0, once=False)
    )
    small_from_the_start = flow.loss_is_small(flow.start) > 0
    nothing_to_wait_for = small_from_the_start | (decades[-1] <= _NOW)
    last = decades[-1] * _LN10

    def follow(place: Array, falling: Bool[Array, ""]) -> tuple[Array, tuple[Run, Scalar]]:
        log_s = flow.log_s(place)
        log_s = jnp.where(jnp.isfinite(log_s), log_s, last)  # a lane that got no farther has nothing to integrate
        times = jnp.where(falling, jnp.maximum(decades * _LN10, log_s), jnp.inf)
        wait = jnp.where(nothing_to_wait_for, 0.0, jnp.asarray(_LONGEST_WAIT, dtype))
        field, first = _Clocked(flow, falling, jnp.ones((), dtype)), jnp.where(falling, log_s, 0.0)
        capped = flow.problem.log_slopes(flow.capped_margins(place)[0])
        begin = flow.state_of(place, capped - jnp.max(capped))
        begin = flow.state_of(place, field.wanted(first, begin))
        field = eqx.tree_at(lambda f: f.unit, field, field.pace(first, begin))
        run = integrate(
            Integration(
                field=field,
                solver=solver,
                start=begin,
                first=first,
                last=jnp.where(falling, jnp.maximum(last, log_s), wait),
                rtol=relative,
                atol=flow.tolerance,
                stops=(_LossIsSmall(flow, falling), _IsStuck(flow, falling)),
                root_finder=optimistix.Newton(1e-6, 1e-6) if flow.finds_roots else None,
                reach=None if flow.exact else flow.reach,
                saving=AtTaus(times),
                # Steps end at the rows: interpolation would move tied margins, and q with them.
                clip_to=times,
                max_steps=max_steps,
            )
        )
        return run.state.place, (run, log_s)

    _, (runs, log_ss) = jax.lax.scan(follow, flow.start, jnp.array([False, True]))  # one program for both
    first, second = (jax.tree.map(lambda v, i=i: v[i], runs) for i in (0, 1))
    place, log_s = first.state.place, log_ss[1]
    kept, states = second.rows.kept, second.rows.states

    def read(state: _State, decade: Scalar, kept: Bool[Array, ""]) -> tuple[Array, Array]:
        reached = kept & (decade * _LN10 >= log_s) & (flow.loss_is_small(state.place) > -1e-3)
        found = flow.angles(state.place), flow.shares(state)
        return jax.tree.map(lambda v: jnp.where(reached, v, jnp.nan), found)

    angles, multipliers = jax.vmap(read)(states, decades, kept)
    out_of_steps = (first.result == diffrax.RESULTS.max_steps_reached) | (
        second.result == diffrax.RESULTS.max_steps_reached
    )
    # The first phase ends well only where the loss is small: at its end in vain, or all but stuck.
    ended = (first.result == diffrax.RESULTS.successful) | (first.result == diffrax.RESULTS.event_occurred)
    in_vain = ended & ~small_from_the_start & ~(flow.loss_is_small(place) > -1e-3)
    return _Run(
        angles=angles,
        multipliers=multipliers,
        status=first_of(
            (jnp.all(jnp.isfinite(angles[-1])), Status.converged),
            (out_of_steps | in_vain, Status.step_limit),
            otherwise=Status.not_finite,
        ),
        steps=first.steps + second.steps,
        rejected_steps=first.rejected_steps + second.rejected_steps,
    )


_NOW = -300.0  # of log₁₀(−log L): a loss so near to 1 has been passed at the start, and nothing is integrated
_LONGEST_WAIT = 1e12  # of the bounded clock, in which coordinates that are asleep move at 1e-8 or faster
