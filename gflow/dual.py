"""The flow of an orthogonally decomposable regression in dual coordinates, and its limit without integration.

Imports networks, problems, decomposition, coordinates, newton, implicit, flow.

With ν = −∫₀ᵗ r and Z = X Sᵀ the flow of all weights is exactly ν̇ = y − Zρ(Zᵀν), in n unknowns, and its limit
the minimum of a convex function of ν. That holds for every initialisation with one strictly dominated layer per
coordinate. Yun et al. 2021, Theorem 5, is the case in which that layer starts at zero.
"""

from typing import Any, TypeVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Scalar

from . import decomposition
from ._checks import require_precision, to_float
from .coordinates import Coordinates
from .decomposition import Decomposition, lift
from .flow import Solution, Status
from .implicit import NEWTON
from .networks import Network
from .newton import Limit, newton
from .problems import Problem, Regression

NetworkT = TypeVar("NetworkT", bound=Network)


def decompose(network: Network, problem: Problem) -> Decomposition | None:
    """The decomposition that makes the dual flow of a regression exact (`gflow.decomposition.decompose`), or None.

    There must be no more data points than coordinates, since otherwise no weights need fit them.
    """
    found = decomposition.decompose(network, problem) if isinstance(problem, Regression) else None
    return None if found is None or found.Z.shape[0] > found.Z.shape[1] else found


def limit(
    network: NetworkT,
    problem: Problem,
    *,
    log_alpha: float | Scalar = 0.0,
    tolerance: float | Scalar = 1e-9,
    max_steps: int = 200,
) -> Solution[NetworkT]:
    """The limit point of gradient flow from e^`log_alpha` times `network`, by Newton's method.

    As `gflow.limit`, which calls it wherever it is exact; `steps` counts Newton's iterations. May be compiled,
    batched and differentiated by weights, data and `log_alpha`. Its derivatives are those of the equations
    that the limit solves. (To differentiate the limit as a steady state of the flow, as the adjoints made for
    steady states do, is wrong: the steady states form a continuum, and the start decides which is reached.)

    **Raises** ValueError where there is no exact decomposition.

    ```python
    end = gflow.dual.limit(network, problem, log_alpha=-1000 * jnp.log(10.0))  # α = 10^−1000
    ```
    """
    end, coordinates = _solve(network, problem, log_alpha, tolerance, max_steps)
    last = lift(network, problem, coordinates.eta(end.angles), log_alpha)
    status = Status.where(
        end.converged,
        Status.converged,
        Status.where(
            coordinates.inexact(end.angles),
            Status.tied,
            Status.where(
                ~end.finite,
                Status.not_finite,
                Status.where(end.iterations < max_steps, Status.not_certified, Status.step_limit),
            ),
        ),
    )
    log_loss = problem.log_loss(last(problem.X))
    forever = jnp.full_like(log_loss, jnp.inf)
    return Solution(
        network=last,
        log_loss=log_loss,
        log_time=forever,
        status=status,
        steps=end.iterations,
        rejected_steps=jnp.zeros_like(end.iterations),
        error=end.error,
        certificate={"residual": end.residual, "dual residual": end.dual_residual, "duality gap": end.gap},
        route="dual",
        networks=jax.tree.map(lambda v: v[None], last),
        log_times=forever[None],
        log_losses=log_loss[None],
    )


def certificate(
    network: Network,
    problem: Problem,
    *,
    log_alpha: float | Scalar = 0.0,
    tolerance: float | Scalar = 1e-9,
    max_steps: int = 200,
) -> Limit:
    """The evidence for `limit`: residuals, duality gap, the size of Newton's last step and its count."""
    return _solve(network, problem, log_alpha, tolerance, max_steps)[0]


def _solve(
    network: Network, problem: Problem, log_alpha: float | Scalar, tolerance: float | Scalar, max_steps: int
) -> tuple[Limit, Coordinates]:
    require_precision("tolerance", tolerance, jnp.result_type(*network.weights), epsilons=5e4)
    Z, eta, _ = _require_decomposition(network, problem)
    coordinates = Coordinates.of(eta, log_alpha)
    return newton(coordinates, Z, problem.y, tolerance=tolerance, max_iterations=max_steps), coordinates


def _require_decomposition(network: Network, problem: Problem) -> Decomposition:
    found = decompose(network, problem)
    if found is None:
        raise ValueError(
            f"{type(network).__name__} on this {type(problem).__name__} has no exact dual flow: it needs a regression, "
            "two layers or more, Assumption 1 with real S and U_l, one strictly smallest layer in every coordinate, "
            "and, for convolutions and matrix products, values that can be seen (no jit or vmap over them). "
            "Use gflow.limit or gflow.flow, which then integrate the weights."
        )
    return found


def flow(
    network: NetworkT,
    problem: Problem,
    log_times: Float[Array, " T"],
    *,
    log_alpha: float | Scalar = 0.0,
    rtol: float | Scalar = 1e-8,
    max_steps: int = 4096,
) -> Solution[NetworkT]:
    """The path of gradient flow from e^`log_alpha` times `network`, in dual coordinates.

    Its end forgets errors made on the way (the dual flow contracts), so for paths to the limit an `rtol` of 1e-4
    is enough. May be compiled and batched; on a CPU `jax.lax.map` is faster than `jax.vmap`, whose lanes wait for
    the slowest at every step.

    - `log_times`: increasing values of log t to save at: t itself may be 10^1000. Once the residual has fallen to
      1e-10 of the data the path has arrived, and its end is repeated.
    - `log_alpha`: as in `limit`. For two layers the path is exact at every scale. For more, η^{L−2} that has
      grown a million times drives its coordinate no faster: at most 1e-6 log(1/α) of the time is lost at a jump.
    - `rtol`: tolerance of a step, on the logarithms of the weights. Much below the default, round-off times t steers
      the steps at late times; with more than two layers and scales like 10^−1000 it does so below 1e-6.

    **Raises** ValueError where there is no exact decomposition, and for an `rtol` that the dtype cannot deliver.

    ```python
    path = gflow.dual.flow(network, problem, jnp.linspace(0.0, 20.0, 200), log_alpha=-30.0)
    betas = jax.vmap(gflow.Diagonal.coefficients)(path.networks)
    ```
    """
    require_precision("rtol", rtol, jnp.result_type(*network.weights))
    Z, eta, _ = _require_decomposition(network, problem)
    coordinates = Coordinates.of(eta, log_alpha)
    y, L = problem.y, coordinates.depth
    log_unit = (2 - L) * coordinates.log_scale  # of time: t = e^log_unit t̂, and the clock is u = log(1 + t̂)
    clock = jax.nn.softplus(to_float(log_times) - log_unit)
    start = jnp.zeros_like(y) if L == 2 else coordinates.start

    def angles(state: Array) -> Array:
        return coordinates.start + state @ Z if L == 2 else state

    def misfit(state: Array) -> Array:
        return y - Z @ coordinates.rho(angles(state))

    def field(u: Any, state: Array, args: None) -> Array:
        nu_dot = jnp.exp(u) * misfit(state)
        if L == 2:
            return nu_dot
        return nu_dot @ Z * jnp.exp(-jnp.maximum(coordinates.log_zeta_slope(state), _FLATTEST))

    arrived = _ARRIVED * (jnp.linalg.norm(y) + jnp.linalg.norm(y - misfit(start)))
    run = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        NEWTON,
        t0=0.0,
        t1=clock[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(subs=(diffrax.SubSaveAt(ts=clock), diffrax.SubSaveAt(t1=True))),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol, pcoeff=0.3, icoeff=0.4),
        # Beyond, round-off times t would steer the steps.
        event=diffrax.Event(lambda u, state, args, **_: jnp.linalg.norm(misfit(state)) <= arrived),
        max_steps=max_steps,
        throw=False,
    )

    def read(state: Array) -> tuple[NetworkT, Scalar, Bool[Array, ""]]:
        saved = lift(network, problem, coordinates.eta(angles(state)), log_alpha)
        return saved, problem.log_loss(saved(problem.X)), coordinates.inexact(angles(state))

    assert run.ys is not None
    path, end = run.ys
    reached = jnp.all(jnp.isfinite(path), axis=-1, keepdims=True)  # diffrax fills saves beyond the end with infinities
    networks, log_losses, inexact = jax.vmap(read)(jnp.where(reached, path, end))
    last, log_loss = jax.tree.map(lambda v: v[-1], (networks, log_losses))
    failed = Status.where(run.result == diffrax.RESULTS.max_steps_reached, Status.step_limit, Status.not_finite)
    ended = (run.result == diffrax.RESULTS.successful) | (run.result == diffrax.RESULTS.event_occurred)
    status = Status.where(ended, Status.finished, failed)
    return Solution(
        network=last,
        log_loss=log_loss,
        log_time=to_float(log_times)[-1],
        status=Status.where(inexact.any(), Status.tied, status),
        steps=run.stats["num_accepted_steps"],
        rejected_steps=run.stats["num_rejected_steps"],
        error=jnp.full_like(log_loss, jnp.nan),
        route="dual",
        networks=networks,
        log_times=to_float(log_times),
        log_losses=log_losses,
    )


_ARRIVED = 1e-10  # relative residual
_FLATTEST = float(np.log(1e-6))  # of dζ/dx, beyond which a weight that has blown up just follows
