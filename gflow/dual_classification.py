"""Classification in dual coordinates, out to log-losses of −10^1000.

Imports networks, problems, coordinates, decomposition, flow (for Status); diffrax and optimistix.

Real Assumption 1 of Yun et al. 2021, with margins m = Aρ, A = diag(y) X Sᵀ, and q = −∂ log L/∂m ≥ 0. In the clock τ
with dτ = L dt the flow is ν̇ = q, ζ = Aᵀν, and each ρ_j is a function of its angle x_j (`coordinates.py`):

    ẋ = (dx/dζ) ⊙ Aᵀq(Aρ(x)).

Angles are the state, so weights of e^{±2000} are ordinary numbers. For L = 2, x = x_0 + Aᵀν, and ν alone is the
state where it is the smaller one. From L < 1/e on the clock is log s with s = −log L, which never stands still.

*The cap.* Support vectors' margins differ by O(1) while they grow like s, so q must be read from differences far below
round-off. Beyond s = κ it is read from margins scaled down to a smallest one of κ instead: the tie is then kept to
1/κ of the margin where the flow keeps it to 1/s, and directions move by O(1/κ − 1/s). Below the cap the flow is exact.
Two caps, extrapolated from 1/κ to 1/s, remove the error and show its size.
"""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Bool, Float, Int, Scalar

from ._checks import is_concrete, require_precision, to_float
from .coordinates import Coordinates
from .decomposition import Decomposition, decompose
from .flow import Status
from .networks import Network
from .problems import Classification


class DirectionPath(eqx.Module):
    """The direction of a classification's coefficients as a function of its loss. One row a `decades` entry:

    - `decades`: log₁₀(−log L), the clock.
    - `directions`: β/‖β‖.
    - `rho`: ρ/‖ρ‖ in the network's own coordinates, β ∝ Sᵀρ. Its dying entries keep their relative accuracy.
    - `angles`: the coordinates' x_j (`gflow.coordinates`), about log |ρ_j| / L: they never overflow.
    - `multipliers`: q/Σq, the share of each data point in −∇ log L.
    - `errors`: the angle by which extrapolating the cap turned `directions`; 0 below the cap.

    Rows that were not reached are NaN. `status` is `Status.converged` where all were reached; `steps` and
    `rejected_steps` count those of both caps.
    """

    decades: Float[Array, "*lanes T"]
    directions: Float[Array, "*lanes T d"]
    rho: Float[Array, "*lanes T m"]
    angles: Float[Array, "*lanes T m"]
    multipliers: Float[Array, "*lanes T n"]
    errors: Float[Array, "*lanes T"]
    status: Status
    steps: Int[Array, "*lanes"]
    rejected_steps: Int[Array, "*lanes"]


def direction_flow(
    network: Network,
    problem: Classification,
    decades: Float[Array, " T"],
    *,
    log_alpha: float | Scalar = 0.0,
    cap: float | Scalar = 1e4,
    tolerance: float | Scalar = 1e-7,
    max_steps: int = 4096,
) -> DirectionPath:
    """The direction of β along gradient flow, at the losses log₁₀(−log L) = `decades`, up to thousands.

    For networks of two layers or more that decompose orthogonally over the reals and start with one strictly
    smallest layer in every coordinate (`gflow.decomposition.decompose`): `Diagonal`, real `Orthogonal`, full-length
    convolutions with even data and filters, matrix products with commuting sensors. May be compiled and batched;
    of convolutions and matrix products, whose values must be seen, only by `log_alpha`.

    - `log_alpha`: the flow starts at e^`log_alpha` times `network`'s weights; that need not be representable.
    - `cap`: the loss −log L above which ties of margins are smoothed; see this module's docstring. The second cap is a
      tenth of it.
    - `tolerance`: absolute tolerance of the solver on the angles, hence relative on every ρ_j. The default leaves
      directions good to six digits. From −log L = 10^400 on round-off in the angles, which are about
      2.3 · decades / L, adds its part: 1e-13 `cap` times the angle.

    **Raises** ValueError for other networks, for `decades` that do not increase or lie below 0.1 (the loss must be
    below 1), and for a tolerance that the dtype cannot deliver.

    ```python
    path = gflow.direction_flow(network, problem, jnp.linspace(1, 1000, 200), log_alpha=jnp.log(0.1))
    ```
    """
    found = _require_decomposition(network, problem)
    decades = _increasing(to_float(decades))
    require_precision("tolerance", tolerance, found.eta.dtype)
    coordinates = Coordinates.of(found.eta, log_alpha)
    A = problem.y[:, None] * found.Z

    def run(cap: Scalar) -> _Run:
        return _run(_CappedFlow(coordinates, A, problem, cap), decades, tolerance, max_steps)

    # map, not vmap, under which both would take the steps of the slower
    runs = jax.lax.map(run, cap * jnp.array([0.1, 1.0]))
    coarse, fine = (jax.tree.map(lambda v, i=i: v[i], runs) for i in (0, 1))
    # Margins are tied to 1/κ where the flow ties them to 1/s, and ρ and q are linear in that.
    fraction = jnp.maximum(1 - 10.0 ** (jnp.log10(cap) - decades), 0.0)[:, None] / 9
    growth = coordinates.depth * jnp.sign(fine.angles) * (fine.angles - coarse.angles)  # of log ρ, within 1 where alive
    further = jnp.log1p(-fraction * jnp.expm1(-jnp.clip(growth, -1.0, 1.0))) / coordinates.depth
    angles = fine.angles + jnp.sign(fine.angles) * further
    shares = jnp.maximum(fine.multipliers + fraction * (fine.multipliers - coarse.multipliers), 0.0)

    def unit(x: Float[Array, " m"]) -> tuple[Float[Array, " d"], Float[Array, " m"]]:
        rho, _ = coordinates.unit_rho(x)
        beta = found.coefficients(rho)
        return beta / jnp.linalg.norm(beta), rho / jnp.linalg.norm(rho)

    directions, rho = jax.vmap(unit)(angles)
    uncorrected, _ = jax.vmap(unit)(fine.angles)
    status = Status.where(coarse.status == Status.converged, fine.status, coarse.status)
    tied = jax.vmap(coordinates.inexact)(angles).any()
    return DirectionPath(
        decades=decades,
        directions=directions,
        rho=rho,
        angles=angles,
        multipliers=shares / jnp.sum(shares, axis=-1, keepdims=True),
        errors=2 * jnp.arcsin(jnp.linalg.norm(directions - uncorrected, axis=-1) / 2),
        status=Status.where(tied, Status.tied, status),
        steps=coarse.steps + fine.steps,
        rejected_steps=coarse.rejected_steps + fine.rejected_steps,
    )


class _CappedFlow(eqx.Module):
    """The flow of the angles at one cap κ."""

    coordinates: Coordinates
    A: Float[Array, "n m"]
    problem: Classification
    cap: Scalar

    @property
    def nu_is_state(self) -> bool:
        """Whether ν is the state; otherwise the angles are."""
        n, m = self.A.shape
        return self.coordinates.depth == 2 and n < m

    @property
    def start(self) -> Array:
        return jnp.zeros(len(self.A), self.A.dtype) if self.nu_is_state else self.coordinates.start

    def angles(self, state: Array) -> Float[Array, " m"]:
        return self.coordinates.start + self.A.T @ state if self.nu_is_state else state

    def _log_loss(self, margins: Float[Array, " n"]) -> Scalar:
        return self.problem.log_loss(self.problem.y * margins)

    def capped_margins(self, state: Array) -> tuple[Float[Array, " n"], Scalar]:
        """k e^{−R} m and log k, where k = 1 unless that would make the smallest margin exceed κ."""
        rho, R = self.coordinates.unit_rho(self.angles(state))
        m = self.A @ rho
        least = jnp.min(m)
        log_largest = jnp.log(self.cap) - jnp.log(jnp.where(least > 0, least, 1.0))
        log_k = jnp.where(least > 0, jnp.minimum(R, log_largest), R)
        return jnp.exp(log_k) * m, R - log_k

    def log_s(self, state: Array) -> Scalar:
        """log(−log L); NaN where L > 1."""
        margins, log_shrink = self.capped_margins(state)
        return log_shrink + jnp.log(-self._log_loss(margins))

    def loss_is_small(self, state: Array) -> Scalar:
        """Positive where −log L > 1."""
        margins, log_shrink = self.capped_margins(state)
        return jnp.exp(jnp.minimum(log_shrink, 100.0)) * -self._log_loss(margins) - 1.0

    def is_stuck(self, state: Array) -> Bool[Array, ""]:
        """Whether Aᵀq all but vanishes. Its norm bounds the maximum margin, so the data are not separable."""
        row_norms = jnp.linalg.norm(self.A, axis=1)
        return jnp.linalg.norm(self.A.T @ self.multipliers(state)) < 1e-9 * jnp.max(row_norms)

    def multipliers(self, state: Array) -> Float[Array, " n"]:
        q = -jax.grad(self._log_loss)(self.capped_margins(state)[0])
        return q / jnp.sum(q)

    def velocity(self, state: Array) -> Array:
        """The state's derivative in a clock in which no angle moves faster than 1."""
        q = self.multipliers(state) / jnp.max(jnp.linalg.norm(self.A, axis=1))
        if self.nu_is_state:
            return q
        log_rate = -self.coordinates.log_zeta_slope(state)
        return jnp.exp(log_rate - jnp.max(log_rate)) * (self.A.T @ q)

    def velocity_by_log_s(self, state: Array) -> Array:
        velocity = self.velocity(state)
        _, rate = jax.jvp(self.log_s, (state,), (velocity,))
        return velocity / rate


class _Run(NamedTuple):
    """One cap's run: `angles` and `multipliers` have a row for every decade."""

    angles: Float[Array, "T m"]
    multipliers: Float[Array, "T n"]
    status: Status
    steps: Int[Array, ""]
    rejected_steps: Int[Array, ""]


def _run(flow: _CappedFlow, decades: Float[Array, " T"], tolerance: float | Scalar, max_steps: int) -> _Run:
    """First in a bounded clock until −log L = 1, then in the clock log s."""

    relative: Any = 1e-13 * flow.cap  # round-off in the angles moves q by κ times as much
    absolute: Any = 10 * tolerance
    # Full Newton: with the tie of margins a chord iteration takes ten times the steps. It stops at a change ten times
    # the tolerance, since the next would be its square; much less would be round-off on long steps.
    solver = diffrax.Kvaerno5(root_finder=optimistix.Newton(relative, absolute))
    steps = diffrax.PIDController(rtol=relative, atol=tolerance, pcoeff=0.3, icoeff=0.4)

    def integrate(field, t0, t1, state, steps, **saves_and_events):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            solver,
            t0=t0,
            t1=t1,
            dt0=None,
            y0=state,
            stepsize_controller=steps,
            adjoint=diffrax.ForwardMode(),
            max_steps=max_steps,
            throw=False,
            **saves_and_events,
        )

    small_from_the_start = flow.loss_is_small(flow.start) > 0
    stops = (lambda t, y, args, **_: flow.loss_is_small(y), lambda t, y, args, **_: flow.is_stuck(y))
    first = integrate(
        lambda t, state, args: flow.velocity(state),
        0.0,
        jnp.where(small_from_the_start, 0.0, _LONGEST_WAIT),
        flow.start,
        steps,
        event=diffrax.Event(stops, optimistix.Newton(1e-6, 1e-6)),
    )
    assert first.ys is not None
    state = first.ys[-1]
    log_s = flow.log_s(state)
    last = decades[-1] * np.log(10.0)
    log_s = jnp.where(jnp.isfinite(log_s), log_s, last)  # a lane that did not get this far has nothing to integrate
    times = jnp.maximum(decades * np.log(10.0), log_s)
    second = integrate(
        lambda t, state, args: flow.velocity_by_log_s(state),
        log_s,
        jnp.maximum(last, log_s),
        state,
        # Steps end at the times to save at: interpolation would move tied margins, and q with them.
        diffrax.ClipStepSizeController(steps, step_ts=times),
        saveat=diffrax.SaveAt(ts=times),
    )

    def read(state: Array, decade: Scalar) -> tuple[Array, Array]:
        reached = jnp.all(jnp.isfinite(state)) & (decade * np.log(10.0) >= log_s) & (flow.loss_is_small(state) > -1e-3)
        return jax.tree.map(lambda v: jnp.where(reached, v, jnp.nan), (flow.angles(state), flow.multipliers(state)))

    assert second.ys is not None
    angles, multipliers = jax.vmap(read)(second.ys, decades)
    out_of_steps = (first.result == diffrax.RESULTS.max_steps_reached) | (
        second.result == diffrax.RESULTS.max_steps_reached
    )
    unfinished = Status.where(out_of_steps, Status.step_limit, Status.not_finite)
    in_vain = (first.result == diffrax.RESULTS.successful) & ~small_from_the_start
    unfinished = Status.where(flow.is_stuck(state) | in_vain, Status.no_descent, unfinished)
    return _Run(
        angles=angles,
        multipliers=multipliers,
        status=Status.where(jnp.all(jnp.isfinite(angles[-1])), Status.converged, unfinished),
        steps=first.stats["num_accepted_steps"] + second.stats["num_accepted_steps"],
        rejected_steps=first.stats["num_rejected_steps"] + second.stats["num_rejected_steps"],
    )


_LONGEST_WAIT = 1e9  # of the bounded clock; log s grows by about the margin in a unit of it, so that is about zero


def _require_decomposition(network: Network, problem: Classification) -> Decomposition:
    found = decompose(network, problem)
    if found is None:
        raise ValueError(
            "direction_flow needs a Diagonal or real Orthogonal network, a full-length convolution with even data and "
            "filters, or a matrix product with commuting sensors; two layers or more, one strictly smallest in every "
            "coordinate; and, for convolutions and matrix products, values that can be seen (no jit or vmap over "
            f"them). Got a {type(network).__name__} of {len(network.weights)} layers that is none of these. Use "
            "gflow.flow, which integrates the weights."
        )
    return found


def _increasing(decades: Float[Array, " T"]) -> Float[Array, " T"]:
    if decades.ndim != 1 or decades.size == 0:
        raise ValueError(f"decades must have shape (T,) with T ≥ 1; got {decades.shape}. For one loss pass [decade].")
    if is_concrete(decades) and not (np.asarray(decades)[0] >= 0.1 and (np.diff(decades) > 0).all()):
        raise ValueError(
            "decades = log₁₀(−log L) must increase and be at least 0.1: below, the loss is not yet small; "
            f"got {np.asarray(decades)}."
        )
    return decades
