"""The experiments of Yun et al. 2021, section 6: gradient descent, gradient flow and theory side by side."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from .. import predict
from .._descend import descend
from .._flow import flow
from .._limit import limit
from .._sweep import sweep
from ..flows.stopping import LogLoss
from ..measures import angle, distance
from ..methods import Times
from ..networks import LinearTensorNetwork, initial, scale
from ..problems import Classification, Problem, Regression

if TYPE_CHECKING:
    import xarray as xr

SCALES = (0.01, 0.5, 1.0)
NETWORKS = {
    "fully-connected": initial.fully_connected,
    "diagonal": initial.diagonal,
    "convolutional": initial.convolutional,
}
FAR_LOG_LOSS = -1e6  # where the direction of a classification flow is read


@dataclasses.dataclass(frozen=True)
class Task:
    """A problem of section 6 and the gradient descent that the paper runs on it."""

    name: str
    problem: Problem
    step_size: float
    saved_steps: np.ndarray


def tasks() -> tuple[Task, Task]:
    """The regression and the classification of section 6."""
    regression = Regression(X=[[1.0, 2.0]], y=[1.0])
    classification = Classification(X=[[1.0, 2.0], [0.0, -3.0]], y=[1.0, -1.0])
    return (
        Task("regression", regression, 1e-3, np.arange(0, 5001, 10)),
        Task("classification", classification, 5e-4, np.unique(np.geomspace(1, 2_000_001, 400).astype(int)) - 1),
    )


def directions() -> Float[np.ndarray, "4 2"]:
    """Four random directions z_j: the networks start at the coefficients α² z_j."""
    return np.asarray(jax.random.normal(jax.random.key(25), (4, 2), float))


@dataclasses.dataclass(frozen=True)
class Run:
    """One network, scale and direction, three ways.

    `flow_end` is the limit for regression, and the coefficients at log-loss −10⁶ for classification.
    `…_error` is the distance to the predicted point, relative to its norm, or the angle to the predicted
    direction in radians; `descent_to_flow` is the same between descent and flow at equal time.
    """

    task: str
    network: str
    alpha: float
    direction: int
    start: Float[np.ndarray, "2"]
    descent_end: Float[np.ndarray, "2"]
    flow_end: Float[np.ndarray, "2"]
    prediction: Float[np.ndarray, "2"]
    theorem: str
    prediction_residual: float
    flow_error: float
    descent_error: float
    descent_to_flow: float
    descent_log_loss: float
    flow_log_loss: float
    flow_status: str
    descent_path: Float[np.ndarray, "T 2"]
    flow_path: Float[np.ndarray, "T 2"]

    @property
    def agrees(self) -> bool:
        """Whether theory, flow and descent agree in this run, to the accuracy that each can have, from its start."""
        start = self.alpha**2 * directions()[self.direction]
        if self.flow_status != "converged" or not np.max(np.abs(self.start - start)) <= 1e-12:
            return False
        if self.task == "regression":
            return self.flow_error <= 1e-9 and self.descent_error <= 1e-2
        return self.descent_to_flow <= 1e-3 and self.flow_error < self.descent_error

    def row(self) -> dict[str, Any]:
        """The run as a row of a table: no paths, vectors in two columns."""
        row = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("path"):
                continue
            if isinstance(value, np.ndarray):
                row |= {f"{field.name}_{i + 1}": float(v) for i, v in enumerate(value)}
            else:
                row[field.name] = value
        return row | {"agrees": self.agrees}


def experiment(task: Task, networks: Iterable[str] = tuple(NETWORKS), store: Path | None = None) -> list[Run]:
    """All scales and directions of `networks`, as one `gflow.sweep`, kept in the directory `store` if there is one.

    **Raises** what `gflow.sweep` raises.
    """
    networks, z = list(networks), directions()
    found = sweep(
        functools.partial(_start, task.problem),
        _verbs(task),
        {"network": networks, "alpha": np.array(SCALES), "z": ("direction", z)},
        chunk=len(SCALES) * len(z),  # those of one network
        store=store,
    )
    lanes = itertools.product(networks, SCALES, range(len(z)))
    return [_run(task, *lane, found.sel(network=lane[0], alpha=lane[1]).isel(direction=lane[2])) for lane in lanes]


def _start(problem: Problem, network: str, alpha: Any, z: Any) -> tuple[LinearTensorNetwork, Problem]:
    return scale(NETWORKS[network](z), alpha), problem


def _verbs(task: Task) -> dict[str, Callable]:
    """Descent, the flow at the same times, the flow's end, and the theory."""
    steps, optimizer = jnp.asarray(task.saved_steps), optax.sgd(task.step_size)
    save = Times(task.step_size * steps)
    is_regression = isinstance(task.problem, Regression)
    return {
        "descent": lambda start, problem: descend(start, problem, optimizer, steps=steps),
        "flow": lambda start, problem: flow(start, problem, save=save),
        "end": limit if is_regression else lambda *start: flow(*start, until=LogLoss(FAR_LOG_LOSS)).end,
        "predicted": predict.limit,
    }


def _run(task: Task, network: str, alpha: float, direction: int, lane: "xr.Dataset") -> Run:
    descent, path = lane.descent_coefficients.values, lane.flow_coefficients.values
    predicted, is_direction = lane.predicted_coefficients.values, bool(lane.predicted_is_direction)
    apart = angle if is_direction else distance
    end = lane.end_direction if is_direction else lane.end_coefficients
    return Run(
        task=task.name,
        network=network,
        alpha=alpha,
        direction=direction,
        start=descent[0],
        descent_end=descent[-1],
        flow_end=lane.end_coefficients.values,
        prediction=predicted,
        theorem=str(lane.predicted_theorem.values),
        prediction_residual=float(lane.predicted_residual),
        flow_error=float(apart(end.values, predicted)),
        descent_error=float(apart(descent[-1], predicted)),
        descent_to_flow=float(apart(descent[-1], path[-1])),
        descent_log_loss=float(lane.descent_log_loss),
        flow_log_loss=float(lane.end_log_loss),
        flow_status=lane.end_status.attrs["flag_meanings"]
        .split()[lane.end_status.attrs["flag_values"].index(int(lane.end_status))]
        .replace("_", " "),
        descent_path=descent,
        flow_path=path,
    )


WHAT_TO_LOOK_AT = """\
figure_1: three networks start at the same dots, and end at different minima on
  the yellow line. Every path meets its open marker, the limit that Theorem 6
  predicts. At α = 0.01 the start hardly matters, at α = 1 it decides.
figure_2: top left the same at α = 0.5. Elsewhere the paths of classifications
  turn to the dashed directions of Corollaries 1 to 3; where descent stops, at
  the filled markers, they have not arrived.
runs.csv, runs.json: the table above with all digits."""


def findings(runs: list[Run]) -> str:
    """How well theory, flow and descent agree, in lines of at most 80 characters."""
    regression = [run for run in runs if run.task == "regression"]
    classification = [run for run in runs if run.task == "classification"]

    def worst(runs: list[Run], figure: str) -> str:
        return f"{max(getattr(run, figure) for run in runs):.0e}"

    apart = worst(classification, "descent_to_flow")
    return f"""\
{len(regression)} regressions: the flow's limit is within {worst(regression, "flow_error")} of Theorem 6,
  and descent's end within {worst(regression, "descent_error")}.
{len(classification)} classifications: flow and descent at equal time are within {apart} rad;
  the angle to the predicted direction falls from at most {worst(classification, "descent_error")} to at most
  {worst(classification, "flow_error")} rad as the flow goes on to a log-loss of {FAR_LOG_LOSS:.0e}."""


def verdict(runs: list[Run]) -> str:
    """One line: whether theory, flow and descent agree."""
    failed = [run for run in runs if not run.agrees]
    if failed:
        return f"Theory, flow and descent DISAGREE in {len(failed)} of {len(runs)} runs."
    return f"Theory, flow and descent agree in all {len(runs)} runs."
