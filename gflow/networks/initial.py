"""Initial directions v̄_l: networks to be scaled by `gflow.scale`.

`random_directions` and `last_layer_zero` change the weights of a network that is given. `diagonal`,
`convolutional` and `fully_connected` make a network whose coefficients are a given z, dominated by its
first layers as the theorems assume: per coordinate of the network's own basis the first L − 1 layers
are p = (1 + |z|^{2/L})^{1/2} and the last is q = z / p^{L−1}, so p^{L−1} q = z and p² − q² ≥ 1. `balanced` makes two
random matrices whose difference of squares is a multiple of the identity.
"""

import itertools
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Scalar

from .._checks import is_concrete, to_float
from .convolutional import Convolutional
from .diagonal import Diagonal
from .fully_connected import FullyConnected
from .matrix_product import MatrixProduct
from .network import Network, with_weights

NetworkT = TypeVar("NetworkT", bound=Network)


def random_directions(key: PRNGKeyArray, network: NetworkT) -> NetworkT:
    """The same architecture with independent standard normal weights.

    ```python
    network = gflow.initial.random_directions(jax.random.key(0), gflow.Diagonal((jnp.zeros(5),) * 3))
    ```
    """
    keys = jax.random.split(key, len(network.weights))
    return with_weights(
        network, tuple(jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, network.weights, strict=True))
    )


def last_layer_zero(network: NetworkT) -> NetworkT:
    """The same network with v_L = 0, so that it starts from β = 0 (Yun et al. 2021, Theorem 5).

    ```python
    assert not gflow.initial.last_layer_zero(network).coefficients().any()
    ```
    """
    *others, last = network.weights
    return with_weights(network, (*others, jnp.zeros_like(last)))


def diagonal(z: Float[ArrayLike, " d"], depth: int = 2) -> Diagonal:
    """A diagonal network with coefficients z and v_{l,j}² − v_{L,j}² ≥ 1 for every l < L and j.

    Satisfies the hypothesis of Yun et al. 2021, Corollary 2.

    ```python
    network = gflow.initial.diagonal(jnp.array([0.3, -0.1]))
    assert jnp.allclose(network.coefficients(), jnp.array([0.3, -0.1]))
    ```
    """
    z = to_float(z)
    first, last = _dominated(jnp.abs(z), depth)
    return Diagonal((first,) * (depth - 1) + (last * jnp.sign(z),))


def convolutional(z: Float[ArrayLike, " d"], depth: int = 2) -> Convolutional:
    """A full-length convolutional network with coefficients z, dominated in the Fourier domain.

    With the unitary DFT matrix F, |[F w_l]_j|² − |[F w_L]_j|² ≥ 1/d: the hypothesis of Yun et al. 2021,
    Corollary 3. The first L − 1 filters are even.

    ```python
    network = gflow.initial.convolutional(jnp.array([0.3, -0.1]))
    assert jnp.allclose(network.coefficients(), jnp.array([0.3, -0.1]))
    ```
    """
    z = to_float(z)
    z_hat = jnp.fft.rfft(z)
    first, last = _dominated(jnp.abs(z_hat), depth)
    phase = jnp.where(z_hat == 0, 1.0, z_hat / jnp.where(z_hat == 0, 1.0, jnp.abs(z_hat)))
    filters = (jnp.fft.irfft(first, z.size),) * (depth - 1)
    return Convolutional((*filters, jnp.fft.irfft(last * phase, z.size)))


def fully_connected(z: Float[ArrayLike, " d"], widths: tuple[int, ...] | None = None) -> FullyConnected:
    """A fully-connected network with coefficients z and hidden layers of the given `widths`.

    The default is one hidden layer as wide as the input. With an orthogonal Q whose first column is
    z/‖z‖, all the matrices but Q are diagonal, and where widths do not grow W_lᵀW_l − W_{l+1}W_{l+1}ᵀ ⪰ 0
    and W_{L−1}ᵀW_{L−1} − w_L w_Lᵀ ⪰ I: the hypothesis of Yun et al. 2021, Theorem 7.

    ```python
    network = gflow.initial.fully_connected(jnp.array([0.3, -0.1]))
    assert jnp.allclose(network.coefficients(), jnp.array([0.3, -0.1]))
    ```
    """
    z = to_float(z)
    sizes = (z.size, *((z.size,) if widths is None else widths))
    first, last = _dominated(jnp.linalg.norm(z), len(sizes))
    matrices = [jnp.eye(m, k, dtype=z.dtype).at[0, 0].set(first) for m, k in itertools.pairwise(sizes)]
    end = jnp.zeros(sizes[-1], z.dtype).at[0].set(last)
    return FullyConnected((_rotation_to(z) @ matrices[0], *matrices[1:], end))


def balanced(key: PRNGKeyArray, widths: tuple[int, int, int], lambda_: float | Scalar = 0.0) -> MatrixProduct:
    """Two random matrices of shapes (a, h) and (h, b), `widths` = (a, h, b), with W_1ᵀW_1 − W_2W_2ᵀ = λI.

    The singular values of the smaller layer are |z| with standard normal z, as far as its rank goes, and its singular
    vectors are uniform. The flow keeps λ.

    **Raises** ValueError for λ > 0 with h > a, and for λ < 0 with h > b: W_1ᵀW_1 − W_2W_2ᵀ is then singular or not of
    that sign. It is not checked where λ is traced.

    ```python
    start = gflow.initial.balanced(jax.random.key(0), (4, 3, 5), lambda_=1.0)
    ```

    Dominé et al. 2025.
    """
    if len(widths) != 3 or any(width < 1 for width in widths):
        raise ValueError(f"widths must be three positive integers (a, h, b), for two matrices; got {widths}.")
    a, h, b = widths
    lambda_ = to_float(lambda_)
    if is_concrete(lambda_) and ((lambda_ > 0 and h > a) or (lambda_ < 0 and h > b)):
        outer = a if lambda_ > 0 else b
        raise ValueError(
            f"λ = {float(lambda_):g} needs a hidden layer of at most {outer} units; got widths {widths}. Take a "
            "smaller hidden layer, λ = 0 or the other sign."
        )
    left, inner, right, values = jax.random.split(key, 4)
    U, V, R = (jnp.linalg.qr(jax.random.normal(k, (m, m)))[0] for k, m in ((left, a), (right, b), (inner, h)))
    unit = jnp.arange(h)
    z = jnp.where(unit < min(widths), jnp.abs(jax.random.normal(values, (h,))), 0.0)
    first, second = (jnp.sqrt(z**2 + jnp.maximum(sign * lambda_, 0.0)) for sign in (1, -1))
    W_1 = (U[:, : min(a, h)] * first[: min(a, h)]) @ R[:, : min(a, h)].T
    W_2 = (R[:, : min(b, h)] * second[: min(b, h)]) @ V[:, : min(b, h)].T
    return MatrixProduct((W_1, W_2))


def _dominated(size: Float[Array, "..."], depth: int) -> tuple[Array, Array]:
    """p and q ≥ 0 with p^{L−1} q = `size` and p² − q² ≥ 1."""
    if depth < 2:
        raise ValueError(
            f"prescribed coefficients need a depth of at least 2; got {depth}. For L = 1 the weights are z."
        )
    p = jnp.sqrt(1 + size ** (2 / depth))
    return p, size / p ** (depth - 1)


def _rotation_to(z: Float[Array, " d"]) -> Float[Array, "d d"]:
    """An orthogonal matrix whose first column is z/‖z‖ (a reflection, with the sign free of cancellation)."""
    size = jnp.linalg.norm(z)
    unit = jnp.where(size > 0, z / jnp.where(size > 0, size, 1.0), jnp.eye(z.size, dtype=z.dtype)[0])
    sign = jnp.where(unit[0] < 0, -1.0, 1.0)
    normal = unit.at[0].add(sign)
    return -sign * (jnp.eye(z.size, dtype=z.dtype) - 2 * jnp.outer(normal, normal) / (normal @ normal))
