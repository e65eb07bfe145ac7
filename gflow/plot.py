"""Figures: records in, Axes out. matplotlib is imported when the first figure is drawn."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from .experiments.section_6 import Run
from .measures import angle as angle_between
from .measures import decades_for_angle
from .predict import Saddles, TimeCourse
from .records import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, which colour-blind readers tell apart; markers and lightness serve readers in grey.
STYLES = {
    "fully-connected": {"color": "#0072B2", "marker": "s"},
    "diagonal": {"color": "#D55E00", "marker": "o"},
    "convolutional": {"color": "#5FC9A8", "marker": "^"},
}
_COLOURS = ("#0072B2", "#D55E00", "#5FC9A8", "black", "#CC79A7", "#E69F00", "#56B4E9", "0.55")
FONT: dict = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "pdf.fonttype": 42}


def section_6_figure(runs: list[Run], panels: list[tuple[str, float]], columns: int) -> "Figure":
    """One panel for each (task, α), `columns` side by side, with a common legend.

    Yun et al. 2021, figure 1: the regression at α = 0.01 and 1. Figure 2: the regression at α = 0.5, and
    the classification at α = 0.01, 0.5 and 1.

    ```python
    gflow.plot.section_6_figure(runs, [("regression", 0.01), ("regression", 1.0)], columns=2).savefig("figure_1.png")
    ```
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(FONT):
        rows = -(-len(panels) // columns)
        apart = ConstrainedLayoutEngine(h_pad=0.08)  # a panel's label from the title of the next
        figure = Figure(figsize=(3.3 * columns, 3.3 * rows + 0.6), layout=apart)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (task, alpha) in zip(axes, panels, strict=True):
            draw(ax, [run for run in runs if run.task == task and run.alpha == alpha])
            ax.set_title(f"{task.capitalize()}, initial scale α = {alpha:g}")
        figure.legend(handles=_legend({task for task, _ in panels}), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw(ax: "Axes", runs: list[Run]) -> "Axes":
    """The paths of β(Θ(t)) by descent (broad) and flow (thin), from their starts to the predictions.

    ```python
    gflow.plot.draw(plt.figure().add_subplot(), [run for run in runs if run.alpha == 1.0])
    ```
    """
    points = np.concatenate([path for run in runs for path in (run.descent_path, run.flow_path)])
    low, high = points.min(axis=0), points.max(axis=0)
    centre, reach = (low + high) / 2, 0.58 * np.max(high - low)
    if runs[0].task == "regression":
        x = centre[0] + np.array([-reach, reach])
        ax.plot(x, (1 - x) / 2, **GLOBAL_MINIMA)
    for run in runs:
        style = STYLES[run.network]
        ax.plot(*run.descent_path.T, color=style["color"], **DESCENT)
        ax.plot(*run.flow_path.T, **FLOW)
    for run in runs:
        style = STYLES[run.network]
        if run.task == "regression":
            ax.plot(*run.prediction, marker=style["marker"], mec=style["color"], **LIMIT)
        else:
            far = 10 * reach * run.prediction / np.linalg.norm(run.prediction)
            ax.plot([0, far[0]], [0, far[1]], color=style["color"], **DIRECTION)
            ax.plot(*run.descent_end, marker=style["marker"], color=style["color"], ms=5, zorder=6)
    ax.plot(*np.array([run.start for run in runs]).T, **START)
    ax.set(xlim=(centre[0] - reach, centre[0] + reach), ylim=(centre[1] - reach, centre[1] + reach))
    ax.set(xlabel="β₁", ylabel="β₂", aspect="equal")
    return ax


def angle_against_loss(
    ax: "Axes",
    paths: Path,
    expected: Float[ArrayLike, " d"],
    scales: Float[ArrayLike, " B"],
    *,
    angle: float | None = None,
) -> "Axes":
    """The angle to the `expected` direction against log₁₀(−log L), a curve for each of a batch of initial scales.

    - `paths`: a batch of `gflow.flow`, with a leading axis of length B.
    - `angle`: an angle to mark by a line, in radians.

    As asked by Moroshko et al. 2020.

    ```python
    # paths = jax.lax.map(lambda a: gflow.flow(network, labels, log_alpha=a, save=gflow.Decades(d)), jnp.log(scales))
    expected = gflow.predict.limit(network, labels).coefficients
    gflow.plot.angle_against_loss(plt.figure().add_subplot(), paths, expected, scales, angle=0.01)
    ```
    """
    decades, angles = _angle_curves(paths, expected)
    _draw_curves(ax, decades, angles, scales, angle)
    ax.set_xlabel("log₁₀(−log L)")
    return ax


def angle_against_time(
    ax: "Axes",
    paths: Path,
    expected: Float[ArrayLike, " d"],
    scales: Float[ArrayLike, " B"],
    *,
    angle: float | None = None,
) -> "Axes":
    """As `angle_against_loss`, against log₁₀ log t, of a batch of `gflow.flow`.

    ```python
    gflow.plot.angle_against_time(plt.figure().add_subplot(), paths, jnp.array([0.0, 1.0]), scales)
    ```
    """
    _, angles = _angle_curves(paths, expected)
    log_times = np.asarray(paths.log_times)
    late = np.where(log_times > 0, log_times, np.nan)
    _draw_curves(ax, np.log10(late), angles, scales, angle)
    ax.set_xlabel("log₁₀ log t")
    return ax


def loss_for_angle(
    ax: "Axes",
    paths: Path,
    expected: Float[ArrayLike, " d"],
    scales: Float[ArrayLike, " B"],
    *,
    angles: Sequence[float] = (0.1, 0.01, 0.001),
) -> "Axes":
    """The loss that must be reached to come within each of the `angles` (radians), as a function of the scale.

    A scale whose path does not come so near has no point. See `gflow.measures.decades_for_angle`.

    ```python
    gflow.plot.loss_for_angle(plt.figure().add_subplot(), paths, jnp.array([0.0, 1.0]), scales, angles=(0.1, 0.01))
    ```
    """
    decades, found = map(jnp.asarray, _angle_curves(paths, expected))
    for wanted, style in zip(angles, itertools.cycle(_LEVELS), strict=False):
        needed = jax.vmap(decades_for_angle, (0, 0, None))(decades, found, wanted)
        needed = np.where(np.isfinite(needed), needed, np.nan)
        ax.plot(np.asarray(scales), needed, **style, label=f"{wanted:g} rad")
    ax.set(xscale="log", yscale="log", xlabel="initial scale α", ylabel="log₁₀(−log L) needed")
    ax.legend(title="within", frameon=False)
    _without_box(ax)
    return ax


def staircase(
    ax: "Axes", saddles: Saddles, log_alpha: float, path: Path | None = None, *, beyond: float = 2.0
) -> "Axes":
    """Coefficients against log t: the staircase of `gflow.predict.saddles` (dashed), its jumps (vertical lines), and
    beside it a path of the flow from the same scale e^`log_alpha` (lines).

    A colour for each coefficient that is ever above a thousandth of the largest; `beyond` is by which factor of t the
    figure goes on after the last jump, and begins before the first.

    ```python
    found = gflow.predict.saddles(network, problem)
    path = gflow.flow(network, problem, log_alpha=-50.0, save=gflow.Steps(4096))
    gflow.plot.staircase(plt.figure().add_subplot(), found, -50.0, path)
    ```
    """
    jumps = saddles.log_times(log_alpha)
    low, high = jumps[0] - np.log(beyond), jumps[-1] + np.log(beyond)
    rests, corners = saddles.coefficients, np.concatenate([[low], np.repeat(jumps, 2), [high]])
    seen = np.flatnonzero(np.abs(rests).max(axis=0) > 1e-3 * np.abs(rests).max()).tolist()
    for log_time in jumps:
        ax.axvline(log_time, color="0.75", lw=0.7, zorder=0)
    few = rests.shape[1] <= len(_COLOURS)  # then β_j has the same colour in every figure
    for i, j in enumerate(seen):
        style: dict = {"color": _COLOURS[j if few else i % len(_COLOURS)]}
        if path is not None:
            ax.plot(np.asarray(path.log_times), np.asarray(path.coefficients)[:, j], lw=1.4, label=_beta(j), **style)
        ax.plot(corners, np.repeat(rests[:, j], 2), lw=1.0, ls=(0, (4, 3)), **style)
    ax.set(xlim=(low, high), xlabel="log t", ylabel="coefficients")
    if path is not None:
        ax.legend(frameon=False)
    _without_box(ax)
    return ax


def time_course(ax: "Axes", course: TimeCourse, path: Path | None = None) -> "Axes":
    """Coefficients of `gflow.predict.path` against t (dashed), and those of a computed path beside them (broad).

    ```python
    times = jnp.linspace(0.0, 10.0, 100)
    course = gflow.predict.path(network, problem, times)
    path = gflow.flow(network, problem, save=gflow.Times(times[::10]))
    gflow.plot.time_course(plt.figure().add_subplot(), course, path)
    ```
    """
    for j in range(course.coefficients.shape[1]):
        style: dict = {"color": _COLOURS[j % len(_COLOURS)]}
        if path is not None:
            ax.plot(
                np.exp(path.log_times), path.coefficients[:, j], marker="o", ms=3.5, mfc="white", ls="none", **style
            )
        ax.plot(course.times, course.coefficients[:, j], lw=1.2, **style)
    ax.set(xlabel="t", ylabel="coefficients")
    _without_box(ax)
    return ax


def lasso_path(
    ax: "Axes",
    penalties: Float[ArrayLike, " T"],
    averages: Float[ArrayLike, "T d"],
    reference: Float[ArrayLike, "T d"] | None = None,
) -> "Axes":
    """Time averages of a dual flow (lines) against 1/λ, the inverse of the lasso's penalty, with the lasso itself
    (dots) at the same penalties.

    ```python
    found = gflow.predict.saddles(network, problem)
    path = gflow.flow(network, problem, log_alpha=-50.0, save=gflow.Steps(4096))
    averages = gflow.measures.time_averages(path.log_times, path.coefficients)
    penalties = found.penalties(path.log_times, -50.0)[:, 0, 0]
    gflow.plot.lasso_path(plt.figure().add_subplot(), penalties, averages)
    ```
    """
    inverse = 1 / np.asarray(penalties)
    for j, average in enumerate(np.asarray(averages).T):
        style: dict = {"color": _COLOURS[j % len(_COLOURS)]}
        ax.plot(inverse, average, lw=1.2, **style)
        if reference is not None:
            ax.plot(inverse, np.asarray(reference)[:, j], marker="o", ms=3.5, mfc="white", ls="none", **style)
    ax.set(xlabel="1/λ", ylabel="coefficients")
    _without_box(ax)
    return ax


def against_scale(ax: "Axes", found: Any, name: str, scale: str = "alpha", expected: str | None = None) -> "Axes":
    """A vector of a sweep, as its coefficients, against the initial scale: a colour for each of its entries.

    - `found`: the data set of `gflow.sweep`; a line for each value of its other dimensions.
    - `expected`: the name of a variable of the same shape to be drawn dashed, as a prediction.

    ```python
    gflow.plot.against_scale(plt.figure().add_subplot(), found, "end_coefficients", expected="expected_coefficients")
    ```
    """
    looks: tuple[dict, dict] = ({"lw": 1.2}, {"lw": 1.1, "ls": (0, (4, 3)), "color": "black"})
    for variable, look in zip((name, expected), looks, strict=True):
        if variable is None:
            continue
        (along,), (entries,) = found[scale].dims, _inner(found, variable, 1)
        others = [d for d in found[variable].dims if d not in (along, entries)]
        lines = found[variable].stack(line=others, create_index=False).transpose(entries, "line", along)
        for i, entry in enumerate(lines.values):
            style: dict = {"color": _COLOURS[i % len(_COLOURS)], **look}
            ax.plot(found[scale], entry.T, **style)
    ax.set(xscale="log", xlabel="initial scale α", ylabel=found[name].attrs.get("long_name", name))
    _without_box(ax)
    return ax


def distances(ax: "Axes", found: Any, names: Sequence[str], scale: str = "alpha") -> "Axes":
    """Distances or angles of a sweep against the initial scale, the median over all other dimensions, with the slope
    fitted to the two decades of smallest scales in the legend: distance ~ α^slope.

    ```python
    gflow.plot.distances(plt.figure().add_subplot(), found, ["to_l1", "to_l2"])
    ```
    """
    (along,) = found[scale].dims
    for i, name in enumerate(names):
        style, label = _LEVELS[i % len(_LEVELS)], found[name].attrs.get("long_name", name)
        if label in [found[other].attrs.get("long_name") for other in names if other != name]:
            label = f"{name}: {label}"  # as those of two verbs
        values = found[name].median([d for d in found[name].dims if d != along])
        alpha, y = np.asarray(found[scale]), np.asarray(values)
        near = (alpha <= 100 * alpha.min()) & (y > 0)
        slope = np.polyfit(np.log(alpha[near]), np.log(y[near]), 1)[0] if near.sum() > 1 else np.nan
        ax.plot(alpha, y, **style, label=label if np.isnan(slope) else f"{label}, slope {slope:.2g}")
    ax.set(xscale="log", yscale="log", xlabel="initial scale α", ylabel="distance")
    ax.legend(frameon=False)
    _without_box(ax)
    return ax


def trajectories(ax: "Axes", found: Any, name: str = "coefficients", entries: tuple[int, int] = (0, 1)) -> "Axes":
    """Two entries of the paths of a sweep against each other, from their starts (dots) on.

    ```python
    gflow.plot.trajectories(plt.figure().add_subplot(), found)
    ```
    """
    inner = _inner(found, name, 2)
    rows = found[name].stack(line=[d for d in found[name].dims if d not in inner], create_index=False)
    for path in rows.transpose("line", *inner).values:
        ax.plot(path[:, entries[0]], path[:, entries[1]], color="#0072B2", lw=0.7)
        ax.plot(*path[0, list(entries)], **START)
    ax.set(xlabel=_beta(entries[0]), ylabel=_beta(entries[1]))
    _without_box(ax)
    return ax


def heat_map(ax: "Axes", found: Any, name: str, x: str = "alpha", y: str = "seed") -> "Axes":
    """A variable over two dimensions of a sweep, in logarithms where it is positive and varies a hundredfold.

    One that is positive and all but constant is drawn in one colour, on a scale of decades.

    ```python
    gflow.plot.heat_map(plt.figure().add_subplot(), found, "error")
    ```
    """
    from matplotlib.colors import LogNorm

    found = found.sortby([d for d in (x, y) if d in found.coords and found[d].dtype.kind in "iuf"])
    values = found[name].transpose(y, x).values
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    norm = None
    if low > 0 and high > 100 * low:
        norm = LogNorm()
    elif 0 < high < 1.01 * low:  # else the colours would be those of its round-off
        norm = LogNorm(low / 10, high * 10)
    logarithmic = found[x].dtype.kind in "iuf" and bool(np.all((found[x] > 0) & np.isfinite(found[x])))
    edges = _log_edges(found[x].values.astype(float)) if logarithmic else np.arange(found.sizes[x] + 1) - 0.5
    mesh = ax.pcolormesh(edges, np.arange(found.sizes[y] + 1) - 0.5, values, norm=norm, rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, pad=0.02).set_label(found[name].attrs.get("long_name", name))
    ax.set(xlabel="initial scale α" if x == "alpha" else x, ylabel=y)
    if logarithmic:
        ax.set_xscale("log")
    else:
        _label_by_value(ax.xaxis, found[x].values)
    _label_by_value(ax.yaxis, found[y].values)
    _without_box(ax)
    return ax


def sweep_figure(found: Any, scale: str = "alpha") -> "Figure":
    """What of a sweep can be seen at a glance: vectors against the scale, distances, and maps of scale and another
    dimension.

    ```python
    gflow.plot.sweep_figure(found).savefig("sweep.png")
    ```
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = []
    others = [d for d in found.sizes if d != scale and d in found.coords and found[d].dims == (d,)]
    for name, variable in found.data_vars.items():
        if scale not in variable.dims:
            continue
        if "input" in variable.dims and "row" not in variable.dims and "coefficients" in str(name):
            panels.append((against_scale, (name, scale)))
        if str(name).split("_")[-1] in ("distance", "angle") and np.isfinite(variable).any():
            panels.append((distances, ([name], scale)))
        if others and {*variable.dims} == {scale, others[0]} and str(name).split("_")[-1] in ("error", "distance"):
            panels.append((heat_map, (name, scale, others[0])))
    with matplotlib.rc_context(FONT):
        columns = min(3, max(1, len(panels)))
        rows = max(1, -(-len(panels) // columns))
        figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
        for i, (draw_panel, arguments) in enumerate(panels):
            draw_panel(figure.add_subplot(rows, columns, i + 1), found, *arguments)
    return figure


def _angle_curves(paths: Path, expected: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(paths.decades), np.asarray(angle_between(paths.directions, jnp.asarray(expected)))


def _draw_curves(ax: "Axes", x: np.ndarray, angles: np.ndarray, scales: ArrayLike, angle: float | None) -> None:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm

    # Equal steps in lightness, so that it reads in grey, but for the palest, which vanish on white.
    shades = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, 256)))
    colour = ScalarMappable(LogNorm(float(np.min(scales)), float(np.max(scales))), shades)
    for row, values, scale in zip(x, angles, np.asarray(scales), strict=True):
        ax.plot(row, values, color=colour.to_rgba(scale), lw=1.0)
    if angle is not None:
        ax.axhline(angle, color="black", lw=0.7, ls=(0, (4, 3)))
    ax.set(xscale="log", yscale="log", ylabel="angle to the predicted direction (rad)")
    bar = ax.figure.colorbar(colour, ax=ax, pad=0.02, aspect=30)
    bar.set_label("initial scale α")
    bar.outline.set_visible(False)
    _without_box(ax)


def _inner(found: Any, name: str, count: int) -> list[str]:
    """The axes of a variable of a sweep that are none of its lanes', so many, in whatever order its axes are now."""
    dims = list(found[name].dims)
    named = [d for d in ("row", "input", *(f"{name}_{i}" for i in range(count))) if d in dims]
    values = {f"{n}_{i}" for n, c in found.coords.items() for i in range(c.ndim - 1)}  # axes of an array a lane
    lanes = {d for c in found.coords.values() for d in c.dims} - values
    if len(named) == count:
        return named
    others = [d for d in dims if d not in lanes]
    return others if len(others) == count else dims[-count:]


def _label_by_value(axis: Any, values: np.ndarray) -> None:
    """Names rows, which are drawn at 0, 1, …, by the values of their coordinate."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def label(place: Any, _: Any) -> str:
        i = round(place)
        return _brief(values[i]) if abs(place - i) < 1e-9 and 0 <= i < len(values) else ""

    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter(FuncFormatter(label))


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _log_edges(x: np.ndarray) -> np.ndarray:
    """The edges of cells around x on a logarithmic axis."""
    logs = np.log(x)
    half = np.diff(logs) / 2 if len(x) > 1 else np.array([0.5])
    return np.exp(np.concatenate([logs[:1] - half[:1], logs[:-1] + half[: len(x) - 1], logs[-1:] + half[-1:]]))


def _beta(j: int) -> str:
    """The name of the coefficient of index j, as β₁ of index 0."""
    return "β" + str(j + 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _without_box(ax: "Axes") -> None:
    ax.spines[["top", "right"]].set_visible(False)


_LEVELS: tuple[dict, ...] = (
    {"color": "#0072B2", "marker": "s", "ms": 2.5, "lw": 1.0},
    {"color": "#D55E00", "marker": "o", "ms": 2.5, "lw": 1.0},
    {"color": "#5FC9A8", "marker": "^", "ms": 2.5, "lw": 1.0},
    {"color": "black", "marker": "x", "ms": 2.5, "lw": 1.0},
)

DESCENT: dict = {"lw": 3.2, "alpha": 0.55}
FLOW: dict = {"color": "black", "lw": 0.7}
START: dict = {"marker": "o", "color": "black", "ms": 3.5, "ls": "none", "zorder": 7}
LIMIT: dict = {"mfc": "white", "mew": 1.2, "ms": 5.5, "ls": "none", "zorder": 6}
DIRECTION: dict = {"ls": (0, (4, 3)), "lw": 1.1, "zorder": 1}
GLOBAL_MINIMA: dict = {"color": "#F0E442", "lw": 6, "zorder": 0}


def _legend(tasks: set[str]) -> list["Line2D"]:
    from matplotlib.lines import Line2D

    networks = [
        Line2D([], [], **style, **DESCENT, ms=5, label=f"{network}, descent") for network, style in STYLES.items()
    ]
    common = [Line2D([], [], **FLOW, label="flow at equal times"), Line2D([], [], **START, label="start")]
    regression = [
        Line2D([], [], **GLOBAL_MINIMA, label="global minima, Xβ = y"),
        Line2D([], [], marker="o", mec="black", **LIMIT, label="predicted limit"),
    ]
    classification = [Line2D([], [], color="black", **DIRECTION, label="predicted direction")]
    return (
        networks
        + common
        + (regression if "regression" in tasks else [])
        + (classification if "classification" in tasks else [])
    )
