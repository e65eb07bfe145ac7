"""Figures: records in, Axes out. matplotlib is imported when the first figure is drawn.

Imports the records of reproduce.
"""

from typing import TYPE_CHECKING

import numpy as np

from .reproduce import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; markers and lightness serve readers in grey.
STYLES = {
    "fully-connected": {"color": "#0072B2", "marker": "s"},
    "diagonal": {"color": "#D55E00", "marker": "o"},
    "convolutional": {"color": "#5FC9A8", "marker": "^"},
}
FONT: dict = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "pdf.fonttype": 42}


def section_6_figure(runs: list[Run], panels: list[tuple[str, float]], columns: int) -> "Figure":
    """One panel for each (task, α), `columns` side by side, with a common legend.

    Yun et al. 2021, figure 1: the regression at α = 0.01 and 1. Figure 2: the regression at α = 0.5, and
    the classification at α = 0.01, 0.5 and 1.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(FONT):
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(3.4 * columns, 3.1 * rows + 0.7), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (task, alpha) in zip(axes, panels, strict=True):
            draw(ax, [run for run in runs if run.task == task and run.alpha == alpha])
            ax.set_title(f"{task.capitalize()}, initial scale α = {alpha:g}")
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw(ax: "Axes", runs: list[Run]) -> "Axes":
    """The paths of β(Θ(t)) by descent (broad) and flow (thin), from their starts to the predictions."""
    starts = np.array([run.start for run in runs])
    points = np.concatenate([path for run in runs for path in (run.descent_path, run.flow_path)])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.08 * np.max(high - low)
    low, high = low - margin, high + margin
    if runs[0].task == "regression":
        _line_of_global_minima(ax, low, high)
    for run in runs:
        style = STYLES[run.network]
        ax.plot(*run.descent_path.T, color=style["color"], lw=3.2, alpha=0.55, label=f"{run.network}: descent")
        ax.plot(*run.flow_path.T, color="black", lw=0.7, label="gradient flow at the same times")
    for run in runs:
        _prediction(ax, run, float(np.max(np.abs([low, high]))))
    ax.plot(*starts.T, "o", color="black", ms=3.5, label="starts", zorder=5)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="β₁", ylabel="β₂")
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def _line_of_global_minima(ax: "Axes", low: np.ndarray, high: np.ndarray) -> None:
    x = np.array([2 * low[0] - high[0], 2 * high[0] - low[0]])
    ax.plot(x, (1 - x) / 2, color="#F0E442", lw=6, zorder=0, label="global minima, Xβ = y")


def _prediction(ax: "Axes", run: Run, reach: float) -> None:
    style = STYLES[run.network]
    marks = {"marker": style["marker"], "mfc": "white", "mec": style["color"], "mew": 1.2, "ms": 5.5, "ls": "none"}
    if run.task == "regression":
        ax.plot(*run.prediction, **marks, zorder=6, label=f"{run.network}: predicted limit")
        return
    direction = run.prediction / np.linalg.norm(run.prediction)
    ray = np.outer([0.0, 3 * reach], direction)
    ax.plot(*ray.T, color=style["color"], ls=(0, (4, 3)), lw=1.1, zorder=1, label=f"{run.network}: predicted direction")
