"""What a user would write instead: the weights' flow by SciPy, plain diffrax, torchdiffeq, and descent.

Gradients are spelled out in NumPy, so that SciPy pays for no dispatch. Every flow ends where the relative residual is
1e-7, or at the times asked for.
"""

import time
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import gflow

RESIDUAL = 1e-7  # a tenth of the error at which rivals are compared; steps of a looser tolerance stall above it
LONGEST = 1e9  # the time at which a flow that has not ended is given up


class Numpy:
    """A network's flow on squares in NumPy: flat weights, `residual` and `velocity`."""

    def __init__(self, network: Any, problem: Any):
        self.kind = type(network)
        self.weights = [np.asarray(v) for v in network.weights]
        self.X, self.y = np.asarray(problem.X), np.asarray(problem.y)
        self.splits = np.cumsum([v.size for v in self.weights])[:-1]
        self.start = np.concatenate([v.ravel() for v in self.weights])
        self.size = np.linalg.norm(self.y)

    def layers(self, flat: np.ndarray) -> list[np.ndarray]:
        return [part.reshape(v.shape) for part, v in zip(np.split(flat, self.splits), self.weights, strict=True)]

    def coefficients(self, flat: np.ndarray) -> np.ndarray:
        weights = self.layers(flat)
        if self.kind is gflow.Diagonal:
            return np.prod(weights, axis=0)
        if self.kind is gflow.Convolutional:
            return _correlate(weights[:-1], weights[-1])
        product = weights[0]
        for v in weights[1:]:
            product = product @ v
        return product.ravel()

    def residual(self, flat: np.ndarray) -> np.ndarray:
        if self.kind is gflow.FullyConnected:  # from the left: n rows, and never a product of two matrices of d rows
            rows = self.X
            for v in self.layers(flat):
                rows = rows @ v
            return rows - self.y
        return self.X.reshape(len(self.y), -1) @ self.coefficients(flat) - self.y

    def velocity(self, flat: np.ndarray) -> np.ndarray:
        weights, r = self.layers(flat), self.residual(flat)
        if self.kind is gflow.FullyConnected:
            left, parts = -(r @ self.X), []
            right = [np.ones(())]
            for v in weights[:0:-1]:
                right.append(v @ right[-1] if right[-1].ndim else v)
            for v, after in zip(weights, right[::-1], strict=True):
                parts.append(np.multiply.outer(left, after).ravel())
                left = left @ v
            return np.concatenate(parts)
        back = -(r @ self.X.reshape(len(self.y), -1))
        if self.kind is gflow.Diagonal:
            others = [np.prod(weights[:k] + weights[k + 1 :], axis=0) for k in range(len(weights))]
            return np.concatenate([back * v for v in others])
        if self.kind is gflow.Convolutional:
            return np.concatenate(_pulled_back(weights, back))
        A, B = weights  # a product of two matrices
        G = back.reshape(A.shape[0], B.shape[1])
        return np.concatenate([(G @ B.T).ravel(), (A.T @ G).ravel()])


def _correlate(filters: list[np.ndarray], v: np.ndarray) -> np.ndarray:
    """β of a convolutional network with filters as long as its input."""
    transform = np.fft.rfft(v)
    for w in filters:
        transform = transform * np.fft.rfft(w, v.size)
    return np.fft.irfft(transform, v.size)


def _pulled_back(weights: list[np.ndarray], back: np.ndarray) -> list[np.ndarray]:
    transforms = [np.fft.rfft(v, back.size) for v in weights]
    b = np.fft.rfft(back)
    others = [np.prod([t for j, t in enumerate(transforms) if j != k], axis=0) for k in range(len(weights))]
    return [np.fft.irfft(b * np.conj(o), back.size)[: v.size] for o, v in zip(others, weights, strict=True)]


def scipy_limit(
    network: Any, problem: Any, method: str, rtol: float, jacobian: Any = None, residual: float = RESIDUAL
) -> np.ndarray:
    """The coefficients where the relative residual is `residual`; NaN where that is not reached.

    `jacobian(v)`: of the velocity, for LSODA.
    """
    flow = Numpy(network, problem)

    def near(t: float, v: np.ndarray) -> float:
        return np.linalg.norm(flow.residual(v)) - residual * flow.size

    near.terminal = True  # type: ignore[attr-defined]
    atol = 1e-3 * rtol * np.max(np.abs(flow.start))
    run = solve_ivp(
        lambda t, v: flow.velocity(v), (0, LONGEST), flow.start, method, events=near, rtol=rtol, atol=atol,
        **(_for_lsoda(jacobian) if method == "LSODA" else {"first_step": 1e-3 / (1 + np.max(flow.start**2))}),
    )  # fmt: skip
    end = flow.coefficients(run.y[:, -1])
    return end if run.status == 1 else np.full_like(end, np.nan)


def _for_lsoda(jacobian: Any) -> dict[str, Any]:
    return {} if jacobian is None else {"jac": lambda t, v: jacobian(v)}


def scipy_path(
    network: Any, problem: Any, times: np.ndarray, method: str, rtol: float, jacobian: Any = None
) -> np.ndarray:
    flow = Numpy(network, problem)
    atol = 1e-3 * rtol * np.max(np.abs(flow.start))
    run = solve_ivp(
        lambda t, v: flow.velocity(v), (0, times[-1]), flow.start, method, t_eval=times, rtol=rtol, atol=atol,
        **_for_lsoda(jacobian),
    )  # fmt: skip
    return np.array([flow.coefficients(v) for v in run.y.T])


def best_of_scipy(network: Any, problem: Any, expected: np.ndarray, target: float) -> tuple[str, float]:
    """The quickest of its methods at the loosest tolerance with which the error is within `target`."""
    quickest = ("", 0.0, np.inf)
    small = sum(v.size for v in network.weights) < 20_000  # LSODA asks for the square of that in memory
    for method in ("DOP853", "RK45", "LSODA") if small else ("DOP853", "RK45"):
        for rtol in (1e-7, 1e-8, 1e-10, 1e-12):
            start = time.perf_counter()
            found = scipy_limit(network, problem, method, rtol)
            seconds = time.perf_counter() - start
            if np.linalg.norm(found - expected) <= target * np.linalg.norm(expected):
                if seconds < quickest[2]:
                    quickest = (method, rtol, seconds)
                break
            if seconds > 4 * quickest[2]:
                break
    return quickest[:2]


def _plain(network: Any, problem: Any, rtol: float, solver: Any, *, last: Any, **how: Any) -> Any:
    """Plain diffrax as its FAQ advises: a short explicit method, no checkpoints, one flat state."""
    flat, unravel = jax.flatten_util.ravel_pytree(network.weights)

    def outputs(v: Any) -> Any:
        return gflow.with_weights(network, unravel(v))(problem.X)

    def loss(v: Any, data: Any) -> Any:
        return 0.5 * jnp.sum((outputs(v) - data.y) ** 2)

    run = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, v, data: -jax.grad(loss)(v, data)),
        diffrax.Tsit5() if solver is None else solver, 0.0, last, None, flat, problem,
        stepsize_controller=diffrax.PIDController(rtol, 1e-3 * rtol * jnp.max(jnp.abs(flat)), pcoeff=0.4, icoeff=0.3),
        adjoint=diffrax.ForwardMode(), max_steps=2**17, throw=False, **how,
    )  # fmt: skip

    def near(v: Any) -> Any:
        return jnp.linalg.norm(outputs(v) - problem.y) < 1.1 * RESIDUAL * jnp.linalg.norm(problem.y)

    return run, near, lambda v: gflow.with_weights(network, unravel(v)).coefficients().ravel()


def diffrax_limit(network: Any, problem: Any, rtol: float, solver: Any = None) -> Any:
    def stop(t: Any, v: Any, data: Any, **_: Any) -> Any:
        _, unravel = jax.flatten_util.ravel_pytree(network.weights)
        off = gflow.with_weights(network, unravel(v))(data.X) - data.y
        return jnp.linalg.norm(off) < RESIDUAL * jnp.linalg.norm(data.y)

    run, near, read = _plain(network, problem, rtol, solver, last=LONGEST, event=diffrax.Event(stop))
    return jnp.where(near(run.ys[-1]), read(run.ys[-1]), jnp.nan)


def diffrax_path(network: Any, problem: Any, times: Any, rtol: float, solver: Any = None) -> Any:
    run, _, read = _plain(network, problem, rtol, solver, last=times[-1], saveat=diffrax.SaveAt(ts=times))
    return jax.vmap(read)(run.ys)


def torch_limits(z: np.ndarray, X: np.ndarray, y: np.ndarray, last: float, rtol: float) -> Callable[[], np.ndarray]:
    """Two-layer diagonal networks, a lane a row of `z` (lanes, 2, d), by torchdiffeq as one batch, until t = `last`."""
    import torch
    import torchdiffeq

    torch.set_num_threads(2)
    X_, y_ = torch.tensor(X), torch.tensor(y)

    def field(t: Any, v: Any) -> Any:
        back = (y_ - (v[:, 0] * v[:, 1]) @ X_.T) @ X_
        return torch.stack([back * v[:, 1], back * v[:, 0]], dim=1)

    start, times = torch.tensor(z), torch.tensor([0.0, last], dtype=torch.float64)

    def call() -> np.ndarray:
        with torch.no_grad():
            end = torchdiffeq.odeint(field, start, times, method="dopri5", rtol=rtol, atol=1e-3 * rtol)[-1]
        return (end[:, 0] * end[:, 1]).numpy()

    return call


def descent(network: Any, problem: Any, loss: float, step: Any, most: int = 200_000) -> tuple[Any, Any]:
    """(steps, log-loss) of gradient descent on a classification until the loss is below `loss`; to be jitted."""

    def value(v: Any) -> Any:
        return jnp.exp(problem.log_loss(gflow.with_weights(network, v)(problem.X)))

    def body(state: Any) -> Any:
        v, _, count = state
        now, slope = jax.value_and_grad(value)(v)
        return jax.tree.map(lambda a, g: a - step * g, v, slope), now, count + 1

    start = network.weights, jnp.asarray(jnp.inf), 0
    _, now, count = jax.lax.while_loop(lambda s: (s[1] > loss) & (s[2] < most), body, start)
    return count, now
