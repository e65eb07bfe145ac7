"""How a flow is followed, which rows of it are kept, and what a descent sees: options as objects.

`Auto`, the default, chooses between the other two by types and shapes alone: the same call takes the same route inside
and outside `jit`, `vmap` and `grad`.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, Scalar

from ._checks import is_concrete, require_count, require_increasing, to_float, to_scalar


def _optional(name: str) -> Any:
    return lambda value: None if value is None else to_scalar(name, value)


class Weights(eqx.Module):
    """The weights themselves are integrated, for any network and problem.

    Where fewer points than inputs or wide layers leave directions in which no weight moves, as in `FullyConnected` and
    `MatrixProduct`, a smaller network is integrated that flows exactly alike (`gflow.Network.reduced`, `narrowed`), and
    its weights are lifted back. Derivatives by X are then NaN where rows of X depend on each other. A `Convolutional`
    of full length, up to 512, is integrated by real and imaginary parts of its modes.

    - `rtol`: tolerance on a step, relative to each weight or to a thousandth of the initial weights' root mean
      square, whichever is larger: so weights that start tiny or die out are resolved. By default 1e-8 (1e-5 in
      float32), which leaves paths good to about seven digits; for the limit point of a regression a tenth of its
      tolerance, and a hundredth for implicit steps in float64.
    - `solver`: any diffrax solver. By default the explicit `Dopri8` in the time clock and an implicit `Kvaerno5`
      in a clock of the log-loss, which is stiff: margins of support vectors are pinned to each other. The limit of a
      regression with at most 128 outputs is tried with 128 explicit steps to a stop, and a path with 512; where these
      prove nothing or do not arrive, it is followed by an implicit method of order 13, Radau IIA, whose steps are as
      large on ill-conditioned data and whose equations are as many as outputs.
    - `max_steps`: after so many the status is `step limit`.
    - `adjoint`: how derivatives go through the flow. By default a call builds nothing for them, and `jax.grad`
      integrates again with checkpoints; for `jax.jvp` and `jax.jacfwd` pass `diffrax.ForwardMode()`, and for paths of
      hidden layers that are narrowed to half of the weights `diffrax.RecursiveCheckpointAdjoint()`.

    ```python
    end = gflow.limit(network, problem, method=gflow.Weights(max_steps=4096))
    assert end.route == gflow.Route.weights
    ```
    """

    rtol: Scalar | None = eqx.field(converter=_optional("rtol"), default=None)
    solver: diffrax.AbstractSolver | None = None
    max_steps: int = eqx.field(static=True, default=16384)
    adjoint: diffrax.AbstractAdjoint | None = None

    def __check_init__(self) -> None:
        require_count("max_steps", self.max_steps)


class Dual(eqx.Module):
    """The same flow in dual coordinates, n unknowns, for networks with real `modes` and two layers or more, and for the
    limit of two fully-connected layers on one data point.

    Every start is served exactly: one layer smallest, at zero, or several tied for smallest, which keep their signs.

    - `rtol`: tolerance of a step on the logarithms of the weights, by default 1e-8 for a regression and 1e-7 for a
      classification (1e-5 and 1e-3 in float32). The dual flow of a regression contracts: its end forgets errors made on
      the way, so for paths to the limit 1e-4 is enough.
    - `cap`: of a classification, the loss −log L above which ties of margins are smoothed, by default 1e4 (100 in
      float32). Below it the flow is exact. It is followed with a tenth of the cap too, and extrapolated.
    - `max_steps`: by default 1000 of Newton's method, and 4096 of the ODE solver. The path of a regression, two layers
      and rows at `Steps` until a log-loss, is tried with 256 explicit steps before implicit ones.

    ```python
    end = gflow.limit(start, problem, method=gflow.Dual())
    assert end.route == gflow.Route.dual
    ```
    """

    rtol: Scalar | None = eqx.field(converter=_optional("rtol"), default=None)
    cap: Scalar | None = eqx.field(converter=_optional("cap"), default=None)
    max_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.max_steps is not None:
            require_count("max_steps", self.max_steps)


class Auto(eqx.Module):
    """`Dual` where types and shapes say that it is exact and serves the question, `Weights` elsewhere.

    Dual coordinates serve networks with real `modes` of two layers or more, as diagonal ones and convolutions of two
    inputs: limits of regressions, and their paths but for `until=Turning(…)` and more data points than coordinates;
    limit directions of classifications, and their paths with rows at `Decades`. Longer convolutions and products of
    matrices may decouple on the data at hand: see `gflow.orthogonal_form`.

    ```python
    end = gflow.limit(start, problem, method=gflow.Auto())  # the default
    ```
    """


Method: TypeAlias = Weights | Dual | Auto


class Steps(eqx.Module):
    """Keep steps of the solver: the start, the end, and between them at most `rows` (even) at equal numbers of steps.

    More `rows` than steps keep every step.

    ```python
    path = gflow.flow(start, problem, save=gflow.Steps(128))  # the default
    ```
    """

    rows: int = eqx.field(static=True, default=128)

    def __check_init__(self) -> None:
        require_count("rows", self.rows)
        if self.rows % 2:
            raise ValueError(f"rows must be even; got {self.rows}.")


class LogTimes(eqx.Module):
    """Keep the states at given, increasing values of log t, by the solver's own interpolation; t itself may be
    10^1000.

    ```python
    path = gflow.flow(start, problem, save=gflow.LogTimes(jnp.linspace(-2.0, 2.0, 100)))
    ```
    """

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
    """Keep the states of a classification at given, increasing values of log₁₀(−log L), from 0.1 to thousands.

    ```python
    path = gflow.flow(network, labels, save=gflow.Decades(jnp.linspace(0.5, 100.0, 200)))
    assert path.decades[-1] == 100.0  # a loss of exp(−10^100)
    ```
    """

    decades: Float[Array, " T"] = eqx.field(converter=to_float)

    def __check_init__(self) -> None:
        require_increasing("decades", self.decades, least=0.1)


Save: TypeAlias = Steps | LogTimes | Decades


class Batches(eqx.Module):
    """The data points of every step of a descent: row k mod K of `indices`, shape (K, b), at step k = 0, 1, ….

    ```python
    epoch = gflow.Batches(jax.random.permutation(key, n).reshape(-1, 4))
    ```
    """

    indices: Int[Array, "K b"] = eqx.field(converter=jnp.asarray)

    def __check_init__(self) -> None:
        shape, dtype = self.indices.shape, self.indices.dtype
        if len(shape) != 2 or 0 in shape or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(f"indices must be integers of shape (K, b), one row a step; got {dtype} {shape}.")

    def check(self, n: int) -> None:
        if is_concrete(self.indices) and not (np.abs(self.indices + 0.5) < n).all():
            raise ValueError(
                f"indices run from {self.indices.min()} to {self.indices.max()}, and there are {n} data points: pass "
                "numbers from 0 to n − 1."
            )

    def rows(self, k: Int[Array, ""], n: int) -> Int[Array, " b"]:
        return self.indices[k % len(self.indices)]


class RandomBatches(eqx.Module):
    """At every step of a descent `size` data points, drawn anew without repeats by `key` and the step's number.

    ```python
    run = gflow.descend(start, problem, optax.sgd(1e-2), steps=jnp.array([10_000]), batches=gflow.RandomBatches(key, 1))
    ```
    """

    key: Key[Array, ""]
    size: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        require_count("size", self.size)

    def check(self, n: int) -> None:
        if self.size > n:
            raise ValueError(f"size={self.size} of a batch is more than the {n} data points. Pass {n} or fewer.")

    def rows(self, k: Int[Array, ""], n: int) -> Int[Array, " b"]:
        key = jax.random.fold_in(self.key, k)
        if self.size == 1:
            return jax.random.randint(key, (1,), 0, n)
        return jax.random.permutation(key, n)[: self.size]


class LabelNoise(eqx.Module):
    """Gaussian noise of standard deviation `size` on the targets of a regression, drawn anew by `key` at every step of
    a descent before step `until`; after that the targets are clean.

    ```python
    noise = gflow.LabelNoise(key, size=0.1, until=10_000)
    ```
    """

    key: Key[Array, ""]
    size: Scalar = eqx.field(converter=lambda v: to_scalar("size", v))
    until: Int[Array, ""] = eqx.field(converter=jnp.asarray)

    def added(self, k: Int[Array, ""], y: Float[Array, " n"]) -> Float[Array, " n"]:
        """The noise of step k."""
        noise = jax.random.normal(jax.random.fold_in(self.key, k), y.shape, y.dtype)
        return jnp.where(k < self.until, self.size.astype(y.dtype), 0.0) * noise
