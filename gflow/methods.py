"""How a flow is followed, and which rows of it are kept: options as objects.

`Auto`, the default, chooses between the other two by types and shapes alone: the same call takes the same route inside
and outside `jit`, `vmap` and `grad`.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Scalar

from ._checks import require_count, require_increasing, to_float, to_scalar


def _optional(name: str) -> Any:
    return lambda value: None if value is None else to_scalar(name, value)


class Weights(eqx.Module):
    """The weights themselves are integrated, for any network and problem.

    Where fewer points than inputs or wide layers leave directions in which no weight moves, as in `FullyConnected` and
    `MatrixProduct`, a smaller network is integrated that flows exactly alike (`gflow.Network.reduced`, `narrowed`), and
    its weights are lifted back. Derivatives by X are then NaN where rows of X depend on each other.

    - `rtol`: tolerance on a step, relative to each weight or to a thousandth of the initial weights' root mean
      square, whichever is larger: so weights that start tiny or die out are resolved. By default 1e-8 (1e-5 in
      float32), which leaves paths good to about seven digits; for the limit point of a regression a tenth of its
      tolerance.
    - `solver`: any diffrax solver. By default the explicit `Dopri8` in the time clock and an implicit `Kvaerno5`
      in the arc-length clock, which is stiff: margins of support vectors are pinned to each other. The limit of a
      regression with at most 128 outputs is followed by an implicit method of order 13, Radau IIA, whose steps are as
      large on ill-conditioned data and whose equations are as many as outputs.
    - `max_steps`: after so many the status is `step limit`.
    - `adjoint`: how derivatives go through the flow. By default a call builds nothing for them, and `jax.grad`
      integrates again with checkpoints; for `jax.jvp` and `jax.jacfwd` pass `diffrax.ForwardMode()`.
    """

    rtol: Scalar | None = eqx.field(converter=_optional("rtol"), default=None)
    solver: diffrax.AbstractSolver | None = None
    max_steps: int = eqx.field(static=True, default=16384)
    adjoint: diffrax.AbstractAdjoint | None = None

    def __check_init__(self) -> None:
        require_count("max_steps", self.max_steps)


class Dual(eqx.Module):
    """The same flow in dual coordinates, n unknowns, for networks with real `modes` and two layers or more.

    Every start is served exactly: one layer smallest, at zero, or several tied for smallest, which keep their signs.

    - `rtol`: tolerance of a step on the logarithms of the weights, by default 1e-8 for a regression and 1e-7 for a
      classification (1e-5 and 1e-3 in float32). The dual flow of a regression contracts: its end forgets errors made on
      the way, so for paths to the limit 1e-4 is enough.
    - `cap`: of a classification, the loss −log L above which ties of margins are smoothed, by default 1e4 (100 in
      float32). Below it the flow is exact. It is followed with a tenth of the cap too, and extrapolated.
    - `max_steps`: by default 400 of Newton's method, and 4096 of the ODE solver.
    """

    rtol: Scalar | None = eqx.field(converter=_optional("rtol"), default=None)
    cap: Scalar | None = eqx.field(converter=_optional("cap"), default=None)
    max_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.max_steps is not None:
            require_count("max_steps", self.max_steps)


class Auto(eqx.Module):
    """`Dual` where types and shapes say that it is exact and serves the question, `Weights` elsewhere.

    Dual coordinates serve networks with real `modes` of two layers or more: limits of regressions, and their
    paths but for `until=Turning(…)` and more data points than coordinates; limit directions of classifications, and
    their paths with rows at `Decades`. A convolution or a product of matrices may decouple on the data at hand: see
    `gflow.orthogonal_form`.
    """


Method: TypeAlias = Weights | Dual | Auto


class Steps(eqx.Module):
    """Keep steps of the solver: the start, the end, and between them at most `rows` (even) at equal numbers of steps.

    More `rows` than steps keep every step.
    """

    rows: int = eqx.field(static=True, default=128)

    def __check_init__(self) -> None:
        require_count("rows", self.rows)
        if self.rows % 2:
            raise ValueError(f"rows must be even; got {self.rows}.")


class LogTimes(eqx.Module):
    """Keep the states at given, increasing values of log t, by the solver's own interpolation; t itself may be
    10^1000."""

    log_times: Float[Array, " T"] = eqx.field(converter=to_float)

    def __check_init__(self) -> None:
        require_increasing("log_times", self.log_times)


def Times(times: Float[ArrayLike, " T"] | Sequence[float]) -> LogTimes:
    """Keep the states at given, increasing times t ≥ 0.

    ```python
    path = gflow.flow(start, problem, save=gflow.Times(jnp.linspace(0.0, 5.0, 100)))
    ```
    """
    times = to_float(times)
    require_increasing("times", times, least=0.0)
    return LogTimes(jnp.log(times))


class Decades(eqx.Module):
    """Keep the states of a classification at given, increasing values of log₁₀(−log L), from 0.1 to thousands."""

    decades: Float[Array, " T"] = eqx.field(converter=to_float)

    def __check_init__(self) -> None:
        require_increasing("decades", self.decades, least=0.1)


Save: TypeAlias = Steps | LogTimes | Decades
