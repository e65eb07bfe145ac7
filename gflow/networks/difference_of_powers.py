"""The tied diagonal network of Woodworth et al. 2020."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearNetwork, Modes


class DifferenceOfPowers(LinearNetwork):
    """The tied network f = xᵀ(w_+^{⊙L} − w_−^{⊙L}) of Woodworth et al. 2020.

    `weights`: the two vectors (w_+, w_−) of length d; `depth`: L ≥ 1. It is linear in x and homogeneous
    of degree L, but not multilinear in its weights: it has coefficients, but no data tensor.

    ```python
    network = gflow.DifferenceOfPowers((jnp.ones(5), jnp.ones(5)), depth=2)
    ```
    """

    weights: tuple[Float[Array, " d"], ...] = eqx.field(converter=as_weights)
    depth: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if len(self.weights) != 2 or self.weights[0].ndim != 1 or self.weights[0].shape != self.weights[1].shape:
            raise ValueError(
                f"DifferenceOfPowers needs two vectors (w_+, w_-) of one length; got shapes {shapes(self.weights)}."
            )
        if not isinstance(self.depth, int) or self.depth < 1:
            raise ValueError(f"depth must be an integer of at least 1; got {self.depth!r}.")

    def coefficients(self) -> Float[Array, " d"]:
        """The linear coefficients w_+^{⊙L} − w_−^{⊙L}."""
        positive, negative = self.weights
        return positive**self.depth - negative**self.depth

    def modes(self) -> Modes:
        """2d products of L equal layers, on inputs (x, −x)."""
        return _Difference(None, (jnp.concatenate(self.weights),) * self.depth, copies=self.depth)

    @property
    def degree(self) -> int:
        return self.depth


class _Difference(Modes):
    """β = ρ_+ − ρ_−, that is S = (I, −I)ᵀ, which is never written out."""

    def inputs(self, X: Float[Array, "n d"]) -> Float[Array, "n m"]:
        return jnp.concatenate([X, -X], axis=1)

    def coefficients(self, rho: Float[Array, " m"]) -> Float[Array, " d"]:
        positive, negative = jnp.split(rho, 2)
        return positive - negative

    def bound(self, errors: Float[Array, " m"]) -> Float[Array, " d"]:
        positive, negative = jnp.split(errors, 2)
        return positive + negative

    def matrix(self) -> Float[Array, "m d"]:
        identity = jnp.eye(self.eta[0].size // 2, dtype=self.eta[0].dtype)
        return jnp.concatenate([identity, -identity])
