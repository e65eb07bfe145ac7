"""Data and loss, and what the loss means for a flow."""

import abc
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Scalar

from ._checks import is_concrete, require_finite, to_float
from .networks import Network, with_weights


class Problem(eqx.Module):
    """Data X (n rows of d inputs), targets y, and a loss that is minimised.

    A problem may be batched by `vmap` like any pytree. To add one, subclass this class: `log_loss` alone serves flow
    and descent; `discrepancy` besides serves limits. No theorem is claimed for it.

    ```python
    class Absolute(gflow.Problem):  # L = Σ √(1 + r²) − 1
        X: Array
        y: Array

        def log_loss(self, outputs):
            return jnp.log(jnp.sum(jnp.sqrt(1 + (outputs - self.y) ** 2) - 1))

        def discrepancy(self, outputs):
            return outputs - self.y
    ```
    """

    X: eqx.AbstractVar[Float[Array, "n d"]]
    y: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def log_loss(self, outputs: Float[Array, "n ..."]) -> Scalar:
        """log L as a function of the network's outputs f(x_i)."""

    def residual(self, outputs: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """r = ∂L/∂f, so that −∇L = −Σ r_i ∇f(x_i)."""
        value, slope = jax.value_and_grad(self.log_loss)(outputs)
        return jnp.exp(value) * slope

    def discrepancy(self, outputs: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """How far the outputs are from those of zero loss. Not there by default: no outputs need have zero loss."""
        raise NotImplementedError

    def with_inputs(self, X: Float[Array, "n m"]) -> "Problem | None":
        """The same loss with other inputs, of which there are as many. None by default, since a loss may look at X:
        then no smaller network is integrated in a network's place (`gflow.Network.reduced`)."""
        return None

    @property
    def arrival(self) -> float:
        """The log-loss at which a flow is over that was given no other end."""
        return -30.0


class RegressionLoss(eqx.Module):
    """ℓ(r) of a single residual r = f − y: smooth, 0 at r = 0 and positive elsewhere, with ℓ′(r) of r's sign.

    To add one, subclass this class and write `__call__`. No theorem is claimed for it.

    ```python
    class Huber(gflow.RegressionLoss):
        delta: float = 1.0

        def __call__(self, r):
            return self.delta**2 * (jnp.sqrt(1 + (r / self.delta) ** 2) - 1)
    ```
    """

    @abc.abstractmethod
    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "..."]:
        """ℓ(r), entry by entry."""


class SquaredLoss(RegressionLoss):
    """ℓ(r) = r² / 2."""

    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "..."]:
        return r**2 / 2


class ClassificationLoss(eqx.Module):
    """log ℓ(m) of a single margin m = y f: ℓ is positive, falls, and has an exponential tail.

    To add one, subclass this class and write `__call__`, exact to round-off for every margin. No theorem is claimed
    for it.

    ```python
    class Cubed(gflow.ClassificationLoss):            # ℓ(m) = log(1 + e^−m)³ falls like e^−3m
        def __call__(self, margin):
            return 3 * gflow.logistic(margin)
    ```
    """

    @abc.abstractmethod
    def __call__(self, margin: Float[Array, "..."]) -> Float[Array, "..."]:
        """log ℓ(m), entry by entry."""


class ExponentialLoss(ClassificationLoss):
    """ℓ(m) = exp(−m)."""

    def __call__(self, margin: Float[Array, "..."]) -> Float[Array, "..."]:
        return -margin


class LogisticLoss(ClassificationLoss):
    """ℓ(m) = log(1 + exp(−m)), exact to round-off for every margin."""

    def __call__(self, margin: Float[Array, "..."]) -> Float[Array, "..."]:
        far = margin > 40.0  # there log(1 + e) = e (1 − e/2 + …) with e = exp(−m) < 1e-17
        near = jnp.where(far, 0.0, margin)
        return jnp.where(far, -margin, jnp.log(jnp.logaddexp(0.0, -near)))


squares = SquaredLoss()
"""The loss ℓ(r) = r²/2 of a residual r = f − y: a `gflow.RegressionLoss`, the default of `gflow.Regression`."""

exponential = ExponentialLoss()
"""The loss ℓ(m) = exp(−m) of a margin m = y f: a `gflow.ClassificationLoss`, the default of `gflow.Classification`."""

logistic = LogisticLoss()
"""The loss ℓ(m) = log(1 + exp(−m)) of a margin m = y f: a `gflow.ClassificationLoss`. Limit directions are those of
`gflow.exponential`."""


class Regression(Problem):
    """Regression with the loss L = Σ ℓ(f(x_i) − y_i), over all outputs where there are several.

    `X` of shape (n, d); `y` of shape (n,), or (n, k) for a network with k outputs; `loss`: ℓ, by default
    `gflow.squares`, r²/2.

    **Raises** ValueError for wrong shapes, for complex numbers and for entries that are not finite.

    ```python
    problem = gflow.Regression(X=[[1.0, 2.0]], y=[1.0])
    ```
    """

    X: Float[Array, "n d"] = eqx.field(converter=to_float)
    y: Float[Array, "n ..."] = eqx.field(converter=to_float)
    loss: RegressionLoss = squares

    def __check_init__(self) -> None:
        _check_data(self.X, self.y)
        if not isinstance(self.loss, RegressionLoss):
            raise ValueError(f"loss must be gflow.squares or a gflow.RegressionLoss of your own; got {self.loss!r}.")

    def with_inputs(self, X: Float[Array, "n m"]) -> "Regression | None":
        return _with_inputs(self, X) if type(self) is Regression else None

    def discrepancy(self, outputs: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        return outputs - self.y

    def residual(self, outputs: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        r = self.discrepancy(outputs)
        return r if isinstance(self.loss, SquaredLoss) else jax.grad(lambda r: jnp.sum(self.loss(r)))(r)

    def log_loss(self, outputs: Float[Array, "n ..."]) -> Scalar:
        r = self.discrepancy(outputs)
        if not isinstance(self.loss, SquaredLoss):
            return _log_or_minus_infinity(jnp.sum(self.loss(r)))
        largest = jnp.max(jnp.abs(r))
        unit = jnp.where(largest == 0, 1.0, largest)  # keeps squares from underflow; false for NaN, which must stay
        return _log_or_minus_infinity(jnp.sum(self.loss(r / unit))) + 2 * jnp.log(unit)


def _log_or_minus_infinity(x: Scalar) -> Scalar:
    """log x with finite derivatives at x = 0."""
    return jnp.where(x == 0, -jnp.inf, jnp.log(jnp.where(x == 0, 1.0, x)))


class Classification(Problem):
    """Binary classification with the loss L = Σ ℓ(y_i f(x_i)).

    `X` of shape (n, d); `y` of shape (n,), each +1 or −1; `loss`: ℓ, by default `gflow.exponential`; or
    `gflow.logistic`.

    **Raises** ValueError for wrong shapes, for entries that are not finite and for other labels.

    ```python
    problem = gflow.Classification(X=[[1.0, 2.0], [0.0, -3.0]], y=[1, -1])
    ```
    """

    X: Float[Array, "n d"] = eqx.field(converter=to_float)
    y: Float[Array, " n"] = eqx.field(converter=to_float)
    loss: ClassificationLoss = exponential

    def __check_init__(self) -> None:
        _check_data(self.X, self.y)
        if self.y.ndim != 1:
            raise ValueError(f"y must have shape (n,), one label a row of X; got {self.y.shape}.")
        if not isinstance(self.loss, ClassificationLoss):
            raise ValueError(
                "loss must be gflow.exponential, gflow.logistic or a gflow.ClassificationLoss of your own; "
                f"got {self.loss!r}."
            )
        if is_concrete(self.y) and not (np.abs(self.y) == 1).all():
            wrong = np.asarray(self.y)[np.abs(self.y) != 1][0]
            raise ValueError(
                f"Classification needs labels +1 and −1; y holds {wrong}. For labels 0 and 1 pass 2 * y - 1."
            )

    def with_inputs(self, X: Float[Array, "n m"]) -> "Classification | None":
        return _with_inputs(self, X) if type(self) is Classification else None

    @property
    def arrival(self) -> float:
        return -100.0

    def margins(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """m_i = y_i f(x_i)."""
        return self.y * outputs

    def log_loss(self, outputs: Float[Array, " n"]) -> Scalar:
        losses = self.loss(self.margins(outputs))
        # Beyond a hundred units of round-off the sum adds no digit to its largest entry. XLA may fuse a factor of the
        # loss into the subtraction of that entry, unrounded: at 1e99 its difference to itself is then 1e83 and not 0.
        largest = jnp.max(losses)
        far = jnp.abs(largest) > 100 / jnp.finfo(losses.dtype).eps
        return jnp.where(far, largest, logsumexp(jnp.where(far, 0.0, losses)))

    def log_slopes(self, margins: Float[Array, " n"]) -> Float[Array, " n"]:
        """log(−ℓ'(m_i)), up to a common constant the logarithm of a data point's share in −∇ log L."""
        return self.loss(margins) + jnp.log(-jax.vmap(jax.grad(self.loss))(margins))


ProblemT = TypeVar("ProblemT", bound=Problem)


def _with_inputs(problem: ProblemT, X: Float[Array, "n m"]) -> ProblemT:
    return eqx.tree_at(lambda p: p.X, problem, X)


def require_fit(network: Network, problem: Problem) -> None:
    """Raises ValueError if the network cannot take the rows of X, or its outputs do not suit y."""
    shapes = ", ".join(str(v.shape) for v in network.weights)
    named = f"{type(network).__name__} with weights of shapes {shapes}"
    try:
        outputs = jax.eval_shape(lambda X: network(X), problem.X)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            f"{named} cannot be traced by JAX: it looks at values of its weights or inputs, or computes with NumPy. "
            f"Use jax.numpy, and jnp.where in the place of if. ({str(error).splitlines()[0]})"
        ) from error
    except TypeError as error:
        raise ValueError(
            f"{named} cannot take X of shape {problem.X.shape}: "
            f"an input must be as long as the coefficients. ({str(error).splitlines()[0]})"
        ) from error
    if isinstance(problem, Regression | Classification) and outputs.shape != problem.y.shape:
        column = " Pass y[:, 0]." if problem.y.shape == (*outputs.shape, 1) else ""
        raise ValueError(f"{named} has outputs of shape {outputs.shape}, and y has shape {problem.y.shape}.{column}")


def log_loss(weights: tuple[Array, ...], network: Network, problem: Problem) -> Scalar:
    """log L(Θ) as a function of the weights Θ."""
    return problem.log_loss(with_weights(network, weights)(problem.X))


def loss_gradient(weights: tuple[Array, ...], network: Network, problem: Problem) -> tuple[Array, ...]:
    """∇L(Θ) = Σ r_i ∇f(x_i; Θ) as a function of the weights Θ."""
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), weights)
    return pull_back(problem.residual(outputs))[0]


def _check_data(X: Array, y: Array) -> None:
    if X.ndim != 2 or y.ndim not in (1, 2) or X.shape[0] != y.shape[0] or X.size == 0 or y.size == 0:
        raise ValueError(
            f"X must have shape (n, d) and y shape (n,) with n, d ≥ 1; got X {X.shape} and y {y.shape}. "
            "One data point is X[None, :], y[None]."
        )
    require_finite("X", X)
    require_finite("y", y)
