"""The tied diagonal network of Woodworth et al. 2020."""

import equinox as eqx
from jaxtyping import Array, Float

from .._checks import as_weights, shapes
from .network import LinearNetwork


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

    @property
    def degree(self) -> int:
        return self.depth
