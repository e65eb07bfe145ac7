"""Networks that decouple over the reals on the data at hand, though not on all data.

Whether a convolution's data are even, or sensors commute, is a matter of values. So it is looked at once, eagerly, and
the answer is a network whose type says it.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from ._checks import all_concrete
from .networks import Convolutional, MatrixProduct, Modes, Network, Orthogonal
from .problems import Problem, require_fit

# Relative violation that counts as round-off, in units of it: 2e-12 in float64.
_ROUND_OFF = 1e4


def orthogonal_form(network: Network, problem: Problem) -> Orthogonal:
    """The `Orthogonal` network with real S and U_l that on this problem flows exactly as `network` does.

    Besides networks with real `modes` there is one for a full-length convolution where all inputs and filters are even,
    x[j] = x[−j mod d] (Corollary 6), and for a product of square matrices where sensors are symmetric and
    commute, and weights are diagonal in their eigenbasis (Corollary 7). Its weights are those of `network`, matrices
    row by row, so that `end.network.weights` of the one can be read as those of the other; and it takes the dual route.

    **Raises** ValueError where there is none, with the condition that fails and by how much; and inside jit, vmap or
    grad, where values cannot be looked at.

    ```python
    even = gflow.Regression(X=[[1.0, 2.0, 2.0]], y=[1.0])
    convolution = gflow.Convolutional(([1.0, 0.5, 0.5], [0.0, 0.0, 0.0]))
    form = gflow.orthogonal_form(convolution, even)
    assert form.modes().is_real and jnp.allclose(form(even.X), convolution(even.X))
    ```

    Yun et al. 2021, Assumption 1 and appendix D.
    """
    if not isinstance(network, Network) or not isinstance(problem, Problem):
        kinds = f"{type(network).__name__} and {type(problem).__name__}"
        raise ValueError(f"orthogonal_form needs a network first and a problem second; got {kinds}.")
    if not all_concrete((network, problem)):
        raise ValueError("orthogonal_form looks at values; call it outside jit, vmap and grad, and pass its result in.")
    require_fit(network, problem)
    found = real_form(network, problem)
    if found is None:
        raise ValueError(
            f"{type(network).__name__} has no orthogonal decomposition over the reals: convolutions need filters of "
            "full length, matrix products square matrices. Use gflow.limit and gflow.flow as they are, which integrate "
            "the weights."
        )
    form, errors = found
    failing = [f"{condition} (off by {float(error):.1e})" for condition, error in errors.items() if not vanishes(error)]
    if failing:
        raise ValueError(
            f"{type(network).__name__} on this problem does not decouple over the reals. What fails, relative to the "
            f"size of each row: {'; '.join(failing)}. Use gflow.limit and gflow.flow as they are, which integrate the "
            "weights."
        )
    return form


def real_modes(network: Network, problem: Problem) -> tuple[Modes, dict[str, Scalar]] | None:
    """The modes of the real form, and every condition that it rests on with its relative violation; None without
    one."""
    modes = network.modes()
    if modes is not None and modes.is_real:
        return modes, {}
    found = real_form(network, problem)
    return None if found is None else (found[0].modes(), found[1])


@functools.singledispatch
def real_form(network: Network, problem: Problem) -> tuple[Orthogonal, dict[str, Scalar]] | None:
    """A real `Orthogonal` network, and the conditions under which it flows as `network` does with their violations."""
    modes = network.modes()
    if modes is None or not modes.is_real:
        return None
    if isinstance(network, Orthogonal):
        return network, {}
    identity = jnp.eye(modes.eta[0].size, dtype=modes.eta[0].dtype)
    return Orthogonal(modes.eta, modes.matrix(), (identity,) * len(modes.eta)), {}


@real_form.register
def _(network: Convolutional, problem: Problem) -> tuple[Orthogonal, dict[str, Scalar]] | None:
    d = network.weights[-1].size
    if any(w.size != d for w in network.weights):
        return None
    # An even vector is a sum of cosines, of size √(d/2), but √d for frequencies 0 and d/2. With unit vectors c_j its
    # unitary transform is [Fw]_j = (size_j / √d) c_jᵀw. So Fβ = d^{(L−1)/2} Π_l F w_l reads c_jᵀβ = size_j^{L−1} Π_l
    # c_jᵀw_l.
    cosines = np.cos(2 * np.pi * np.outer(np.arange(d), np.arange(d // 2 + 1)) / d)
    size = np.linalg.norm(cosines, axis=0)
    dtype = network.weights[-1].dtype
    U = jnp.asarray(cosines / size, dtype)
    S = jnp.asarray(size[:, None] ** (network.depth - 2) * cosines.T, dtype)
    errors = {
        "every input is even, x[j] = x[−j mod d]": _unevenness(problem.X),
        "every filter is even, w_l[j] = w_l[−j mod d]": _unevenness(jnp.stack(network.weights)),
    }
    return Orthogonal(network.weights, S, (U,) * network.depth), errors


@real_form.register
def _(network: MatrixProduct, problem: Problem) -> tuple[Orthogonal, dict[str, Scalar]] | None:
    k = network.weights[0].shape[0]
    if any(W.shape != (k, k) for W in network.weights):
        return None
    sensors = problem.X.reshape(-1, k, k)
    # A generic combination of commuting symmetric matrices, each of unit size, has their common eigenvectors.
    every = jnp.concatenate([sensors, jnp.stack(network.weights)])
    sizes = jnp.linalg.norm(every, axis=(1, 2), keepdims=True)
    generic = jnp.asarray(np.random.default_rng(0).normal(size=len(every)), problem.X.dtype)
    mixed = jnp.tensordot(generic, every / jnp.where(sizes > 0, sizes, 1.0), 1)
    _, Q = jnp.linalg.eigh((mixed + mixed.T) / 2)
    rotated = jnp.stack([Q.T @ W @ Q for W in network.weights])
    errors = {
        "every sensor matrix A_i is symmetric": _relative(sensors - sensors.mT, sensors),
        "the sensor matrices commute": _off_diagonal(Q.T @ sensors @ Q),
        "every W_l is diagonal in their eigenbasis": _off_diagonal(rotated),
    }
    U = jnp.einsum("aj,bj->abj", Q, Q).reshape(k * k, k)
    return Orthogonal(tuple(W.ravel() for W in network.weights), U.T, (U,) * network.depth), errors


def vanishes(error: Scalar) -> bool:
    """Whether a relative violation is round-off."""
    return bool(error <= _ROUND_OFF * float(jnp.finfo(error.dtype).eps))


def _unevenness(X: Float[Array, "n d"]) -> Scalar:
    return _relative(X - jnp.roll(X[:, ::-1], 1, axis=1), X)


def _off_diagonal(matrices: Float[Array, "n k k"]) -> Scalar:
    return _relative(matrices * (1 - jnp.eye(matrices.shape[-1], dtype=matrices.dtype)), matrices)


def _relative(errors: Array, of: Array) -> Scalar:
    """The largest error of a row relative to that row's own size."""
    n = len(of)
    size = jnp.abs(of).reshape(n, -1).max(axis=1)
    return jnp.max(jnp.abs(errors).reshape(n, -1).max(axis=1) / jnp.where(size > 0, size, 1.0))
