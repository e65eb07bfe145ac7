"""Classification to a log-loss of −1e6, and polished limit directions, beside descent to a loss of 1e-3.

    python -u benchmarks/to_the_end.py        (some five minutes)

Eight separable Gaussian points in ten inputs (matrices 4 × 4), weights of size 0.5. Descent is jitted, at the largest
step of 4, 2, 1, … with which it gets there. The errors of the flow and of descent are by how much the log-loss is
below the one asked for, those of directions are angles to the maximum margin where a theorem names it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import rivals
from harness import UNKNOWN, Contender, contest

import gflow

LOSS, LOG_LOSS = 1e-3, -1e6


def _leaky(weights):
    return gflow.Nonlinear(gflow.FullyConnected(weights), jax.nn.leaky_relu)


NETWORKS = {
    "diagonal, L = 2": (gflow.Diagonal, [(10,)] * 2, 1),
    "diagonal, L = 3": (gflow.Diagonal, [(10,)] * 3, None),
    "fully-connected, L = 2": (gflow.FullyConnected, [(10, 10), (10,)], 2),
    "fully-connected, L = 3": (gflow.FullyConnected, [(10, 10), (10, 10), (10,)], 2),
    "convolution, L = 2": (gflow.Convolutional, [(10,)] * 2, None),
    "short filters, L = 3": (gflow.Convolutional, [(3,), (3,), (10,)], None),
    "matrix product, L = 2": (gflow.MatrixProduct, [(4, 4)] * 2, None),
    "two layers, leaky relu": (_leaky, [(10, 10), (10,)], None),
}


def drawn(kind, shapes, seed=0):
    rng = np.random.default_rng(seed)
    network = kind(tuple(0.5 * rng.normal(size=s) for s in shapes))
    inputs = (4, 4) if len(shapes[-1]) == 2 else (10,)
    X = rng.normal(size=(8, *inputs))
    return network, gflow.Classification(X, np.sign(X.reshape(8, -1) @ rng.normal(size=np.prod(inputs))))


descend = jax.jit(lambda network, problem, step: rivals.descent(network, problem, LOSS, step)[1])


def step_of(network, problem):
    """The largest step with which descent reaches the loss."""
    for step in 4.0 * 0.5 ** np.arange(14):
        if descend(network, problem, step) <= LOSS:
            return step
    raise RuntimeError("descent reaches the loss at no step size")


def main():
    for name, (kind, shapes, p) in NETWORKS.items():
        network, problem = drawn(kind, shapes)
        step = step_of(network, problem)
        margin = UNKNOWN if p is None else gflow.predict.maximum_margin(problem, p).coefficients
        if p is not None:
            margin = (margin / jnp.linalg.norm(margin))[None]

        def flow(network=network, problem=problem):
            return gflow.flow(network, problem, until=gflow.LogLoss(LOG_LOSS), save=gflow.Steps(2)).end.log_loss[None]

        def direction(network=network, problem=problem):
            return gflow.limit(network, problem).direction[None]

        def slow(network=network, problem=problem, step=step):
            return descend(network, problem, step)[None]

        def status(network=network, problem=problem):
            return str(gflow.Status[gflow.limit(network, problem).status])

        contenders = [
            Contender("gflow.flow to −1e6", flow, truth=np.array([LOG_LOSS])),
            Contender("gflow.limit", direction, note=status(), truth=margin),
            Contender(f"gradient descent to 1e-3, step {step:g}", slow, truth=np.array([LOSS])),
        ]
        contest("to the end", {"network": name}, contenders, np.zeros(1))


if __name__ == "__main__":
    main()
