"""Data and loss.

Imports networks.
"""

import abc
from collections.abc import Callable

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

    A problem may be batched by `vmap` like any pytree. Values are checked when they can be seen, that
    is outside jit and vmap.
    """

    X: eqx.AbstractVar[Float[Array, "n d"]]
    y: eqx.AbstractVar[Float[Array, " n"]]

    @abc.abstractmethod
    def log_loss(self, outputs: Float[Array, " n"]) -> Scalar:
        """log L as a function of the network's outputs f(x_i), without overflow or underflow."""

    @abc.abstractmethod
    def residual(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """r = ∂L/∂f, so that −∇L = −Σ r_i ∇f(x_i)."""


class Regression(Problem):
    """Linear regression with the loss L = ½ Σ (f(x_i) − y_i)².

    `X` of shape (n, d), `y` of shape (n,).

    **Raises** ValueError for wrong shapes and for entries that are not finite.

    ```python
    problem = gflow.Regression(X=[[1.0, 2.0]], y=[1.0])
    ```
    """

    X: Float[Array, "n d"] = eqx.field(converter=to_float)
    y: Float[Array, " n"] = eqx.field(converter=to_float)

    def __check_init__(self) -> None:
        _check_data(self.X, self.y)

    def residual(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        return outputs - self.y

    def log_loss(self, outputs: Float[Array, " n"]) -> Scalar:
        r = self.residual(outputs)
        largest = jnp.max(jnp.abs(r))
        exact = largest == 0  # false for NaN, which must stay NaN
        unit = jnp.where(exact, 1.0, largest)  # keeps squares from underflow, and derivatives finite at r = 0
        log_sum = jnp.log(jnp.sum(jnp.where(exact, 1.0, r / unit) ** 2) / 2) + 2 * jnp.log(unit)
        return jnp.where(exact, -jnp.inf, log_sum)


def exponential(margin: Float[Array, "..."]) -> Float[Array, "..."]:
    """The logarithm of the exponential loss exp(−m)."""
    return -margin


def logistic(margin: Float[Array, "..."]) -> Float[Array, "..."]:
    """The logarithm of the logistic loss log(1 + exp(−m)), exact to round-off for every margin."""
    far = margin > 40.0  # there log(1 + e) = e (1 − e/2 + …) with e = exp(−m) < 1e-17
    near = jnp.where(far, 0.0, margin)
    return jnp.where(far, -margin, jnp.log(jnp.logaddexp(0.0, -near)))


class Classification(Problem):
    """Binary classification with the loss L = Σ ℓ(y_i f(x_i)).

    `X` of shape (n, d); `y` of shape (n,), each +1 or −1; `log_of_loss` maps margins m to log ℓ(m):
    `gflow.exponential` (the default) or `gflow.logistic`.

    **Raises** ValueError for wrong shapes, for entries that are not finite and for other labels.

    ```python
    problem = gflow.Classification(X=[[1.0, 2.0], [0.0, -3.0]], y=[1, -1])
    ```
    """

    X: Float[Array, "n d"] = eqx.field(converter=to_float)
    y: Float[Array, " n"] = eqx.field(converter=to_float)
    log_of_loss: Callable[[Array], Array] = eqx.field(static=True, default=exponential)

    def __check_init__(self) -> None:
        _check_data(self.X, self.y)
        if not callable(self.log_of_loss):
            raise ValueError(f"log_of_loss must be gflow.exponential or gflow.logistic; got {self.log_of_loss!r}.")
        if is_concrete(self.y) and not (np.abs(self.y) == 1).all():
            wrong = np.asarray(self.y)[np.abs(self.y) != 1][0]
            raise ValueError(
                f"Classification needs labels +1 and −1; y holds {wrong}. For labels 0 and 1 pass 2 * y - 1."
            )

    def margins(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        """m_i = y_i f(x_i)."""
        return self.y * outputs

    def log_loss(self, outputs: Float[Array, " n"]) -> Scalar:
        return logsumexp(self.log_of_loss(self.margins(outputs)))

    def log_slopes(self, margins: Float[Array, " n"]) -> Float[Array, " n"]:
        """log(−ℓ'(m_i)), up to a common constant the logarithm of a data point's share in −∇ log L."""
        return self.log_of_loss(margins) + jnp.log(-jax.vmap(jax.grad(self.log_of_loss))(margins))

    def residual(self, outputs: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.exp(self.log_loss(outputs)) * jax.grad(self.log_loss)(outputs)


def require_fit(network: Network, problem: Problem) -> None:
    """Raises ValueError if the network cannot take the rows of X."""
    try:
        jax.eval_shape(lambda X: network(X), problem.X)
    except TypeError as error:
        shapes = ", ".join(str(v.shape) for v in network.weights)
        raise ValueError(
            f"{type(network).__name__} with weights of shapes {shapes} cannot take X of shape {problem.X.shape}: "
            f"an input must be as long as the coefficients. ({str(error).splitlines()[0]})"
        ) from error


def log_loss(weights: tuple[Array, ...], network: Network, problem: Problem) -> Scalar:
    """log L(Θ) as a function of the weights Θ."""
    return problem.log_loss(with_weights(network, weights)(problem.X))


def loss_gradient(weights: tuple[Array, ...], network: Network, problem: Problem) -> tuple[Array, ...]:
    """∇L(Θ) = Σ r_i ∇f(x_i; Θ) as a function of the weights Θ."""
    outputs, pull_back = jax.vjp(lambda v: with_weights(network, v)(problem.X), weights)
    return pull_back(problem.residual(outputs))[0]


def _check_data(X: Array, y: Array) -> None:
    if X.ndim != 2 or y.ndim != 1 or X.shape[0] != y.shape[0] or X.size == 0:
        raise ValueError(
            f"X must have shape (n, d) and y shape (n,) with n, d ≥ 1; got X {X.shape} and y {y.shape}. "
            "One data point is X[None, :], y[None]."
        )
    if jnp.iscomplexobj(X) or jnp.iscomplexobj(y):
        raise ValueError(f"X and y must be real; got {X.dtype} and {y.dtype}. Stack real and imaginary parts.")
    require_finite("X", X)
    require_finite("y", y)
