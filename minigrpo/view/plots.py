"""Figures of what was measured: data in, Axes out. Nothing here calls ``show``."""

import difflib
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minigrpo.config import BadInput
from minigrpo.metrics import METRICS

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's: told apart by colour-blind eyes too
COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", GREY)
SMOOTHED = 9  # steps
STYLES = ("-", "--", "-.", ":")
PANELS = (
    ("reward", "mean reward", (0, None)),
    ("kl", "KL to the reference (nats per token)", (0, None)),
    ("completions/mean_length", "completion length (tokens)", (0, None)),
    ("thinking", "completions that think first", (0, 1)),
    ("entropy", "entropy (nats per token)", (0, None)),
    ("frac_reward_zero_std", "groups that agree: nothing to learn", (0, 1)),
)
LABELS = {name: label for name, label, _ in PANELS} | {
    "accuracy": "share of right answers",
    "clip_ratio": "tokens held back by the clip",
    "weighted_logprob": "log-prob of good records (nats)",
}
RECORD_PANELS = (
    ("weighted_logprob", "log-prob of good records (nats)", (None, None)),
    ("kl", "KL, fresh samples (nats per token)", (0, None)),
    ("completions/mean_length", "length, fresh samples (tokens)", (0, None)),
    ("entropy", "entropy at the records (nats per token)", (0, None)),
    ("clip_ratio", "tokens held back by the clip", (0, 1)),
    ("grad_norm", "gradient norm", (0, None)),
)


def plot_runs(runs: list[list[dict]] | list[dict], *, title: str | None = None, axes=None) -> np.ndarray:
    """What happened over time, in six panels: reward, KL, length, thinking, entropy, silent groups.

    Args:
        runs: for each run the rows of its ``metrics.jsonl`` (read_metrics), or those of one run. One run is drawn with its
            moving mean; several as their mean and the band from the lowest to the highest.
        axes: six Axes to draw into; made here by default.
    Returns:
        The six Axes. ``axes[0].figure`` is the figure.
    """
    runs = _runs(runs)
    on_records = {any("weighted_logprob" in row for row in rows) for rows in runs}
    if len(on_records) > 1:
        raise BadInput("Some runs learn from records and some sample: they have other panels; draw them in two figures.")
    panels = RECORD_PANELS if on_records == {True} else PANELS
    if axes is None:
        figure, axes = plt.subplots(2, 3, figsize=(10, 5.2), layout="constrained")
        figure.suptitle(title)
    axes = _axes(axes, len(panels))
    for ax, (name, label, limits) in zip(axes, panels, strict=True):
        _draw(runs, name, ax)
        if name == "reward":
            _mark_held_out(runs, ax)
        ax.set_title(label, fontsize=10, loc="left")
        if ax.lines:  # else there is a sentence in the middle, and no axis
            ax.set_ylim(*limits)
    for ax in axes[-3:]:
        ax.set_xlabel("step (optimizer updates)")
    return axes


def _mark_held_out(runs: list[list[dict]], ax: Axes) -> None:
    """The reward on held-out problems, as points where it was measured."""
    points = [(row["step"], row["eval_reward"]) for rows in runs for row in rows if row.get("eval_reward") is not None]
    if points:
        ax.plot(*zip(*points, strict=True), "o", color=ORANGE, markersize=4, label="held-out problems")
        ax.legend(fontsize=8, frameon=False)


def plot_apart(runs: dict[str, list[dict]], *, title: str | None = None) -> np.ndarray:
    """The six panels of plot_runs, with a line of its own for each run: name -> rows. Returns the six Axes."""
    panels = RECORD_PANELS if any("weighted_logprob" in row for rows in runs.values() for row in rows) else PANELS
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.7), layout="constrained")
    figure.suptitle(title)
    return compare_runs({name: [rows] for name, rows in runs.items()}, [name for name, _, _ in panels], axes=axes)


def compare_runs(groups: dict[str, list[list[dict]]], names: Iterable[str], *, axes=None) -> np.ndarray:
    """A panel for each metric, a line (and band) for each group of runs, with the groups' names in a legend.

    Args:
        groups: name -> runs, as for plot_runs. names: of metrics, see metrics.METRICS.
    Raises:
        BadInput: for a metric that no row has and METRICS does not know.
    """
    if not isinstance(groups, dict) or not groups:
        raise BadInput(f"groups must be a dict of runs by their names, got {groups!r:.60}.")
    groups = {label: _runs(runs) for label, runs in groups.items()}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        _check_name(name, [rows for runs in groups.values() for rows in runs])
    if axes is None:
        _, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3), layout="constrained", squeeze=False)
    axes = _axes(axes, len(names))
    for ax, name in zip(axes, names, strict=True):
        measured = {label: runs for label, runs in groups.items() if any(_series(rows, name) for rows in runs)}
        for number, label in enumerate(groups):
            style = {"color": COLORS[number % len(COLORS)], "linestyle": STYLES[number % len(STYLES)]}
            if label in measured:
                _draw(measured[label], name, ax, label=label, **style)
        if not measured:
            _draw([], name, ax)
        ax.set_title(LABELS.get(name, name), fontsize=10, loc="left")
        ax.set_xlabel("step (optimizer updates)")
    lines = {line.get_label(): line for ax in axes for line in ax.lines if line.get_label() in groups}
    lines = {label: lines[label] for label in groups if label in lines}
    axes[0].figure.legend(lines.values(), lines, loc="outside lower center", ncols=min(4, len(groups)))
    return axes


def plot_metric(
    runs: list[list[dict]] | list[dict],
    name: str,
    *,
    ax: Axes | None = None,
    color: str = BLUE,
    linestyle: str = "-",
    label: str | None = None,
) -> Axes:
    """One metric over the steps of one run (dots and moving mean) or of several (mean and band of their moving means).

    Where no run has the metric, the panel says so: at beta 0, for example, there is no KL.

    Args:
        runs: as for plot_runs. name: of the metric, see metrics.METRICS.
    Raises:
        BadInput: for a metric that no row has and METRICS does not know.
    """
    runs = _runs(runs)
    _check_name(name, runs)
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    return _draw(runs, name, ax, color=color, linestyle=linestyle, label=label)


def _runs(runs: list[list[dict]] | list[dict]) -> list[list[dict]]:
    """A list of runs, be it given as one or as the rows of a single run."""
    runs = list(runs) if isinstance(runs, Iterable) and not isinstance(runs, str | dict) else [runs]
    runs = [runs] if runs and all(isinstance(row, dict) for row in runs) else runs
    for rows in runs or [[]]:
        if not isinstance(rows, list | tuple) or not rows or not all(isinstance(row, dict) and "step" in row for row in rows):
            raise BadInput(f"A run must be a list of rows with a step each, as read_metrics gives them, got {rows!r:.60}.")
    return runs


def _axes(axes, count: int) -> np.ndarray:
    axes = np.asarray(axes).ravel()
    if len(axes) != count:
        raise BadInput(f"axes must be {count} Axes, one per panel, got {len(axes)}.")
    return axes


def _check_name(name: str, runs: list[list[dict]]) -> None:
    known = {*METRICS, *(key for rows in runs for row in rows for key in row)}
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        raise BadInput(f"No run has the metric {name!r}{f'; is {near[0]!r} meant?' if near else '.'}")


def _series(rows: list[dict], name: str) -> dict[int, float]:
    """Step -> value, in the order of steps, where it was measured."""
    measured = {row["step"]: row[name] for row in rows if row.get(name) is not None}
    for step, value in measured.items():
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise BadInput(f"Step {step} has {value!r:.60} as its {name}; wanted is a number.")
    return {step: measured[step] for step in sorted(measured) if math.isfinite(measured[step])}


def _draw(runs: list[list[dict]], name: str, ax: Axes, *, color=BLUE, linestyle="-", label=None) -> Axes:
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    series = [s for rows in runs if (s := _series(rows, name))]
    steps = sorted(set.intersection(*map(set, series))) if series else []
    if not steps:
        absent = "beta is 0: no reference, no KL" if name == "kl" else f"{name} was not measured"
        reason = "these runs have no step in common" if series else absent
        ax.text(0.5, 0.5, reason, ha="center", va="center", color=GREY, transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return ax
    window = SMOOTHED * len(steps) // (steps[-1] - steps[0] + 1)  # a metric that was not measured at every step has fewer
    values = np.array([[s[step] for step in steps] for s in series])
    curves = np.array([moving_mean(row, window) for row in values])
    if len(series) == 1:
        ax.plot(steps, values[0], ".", color=color, alpha=0.3, markersize=4)
    else:
        ax.fill_between(steps, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
    marker = "o" if len(steps) == 1 else None  # a line of one point is not seen
    ax.plot(steps, curves.mean(0), color=color, linestyle=linestyle, linewidth=2, label=label, marker=marker)
    return ax


def moving_mean(values: np.ndarray, window: int = SMOOTHED) -> np.ndarray:
    """(N,) -> (N,): the mean over the window centred on each value; at both ends a shorter one, centred too."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(places, places[::-1]))
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def plot_shares(shares: dict[str, dict[str, float]], *, ax: Axes | None = None) -> Axes:
    """Groups of bars: ``{"before": {"full equation": 0.3, ...}, "after": ...}``."""
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    if not shares:
        raise BadInput("shares must be a dict with at least one group of bars.")
    kinds = list(dict.fromkeys(kind for values in shares.values() for kind in values))
    width = 0.8 / len(shares)
    for number, (name, values) in enumerate(shares.items()):
        places = np.arange(len(kinds)) + (number - (len(shares) - 1) / 2) * width
        bars = ax.bar(places, [values.get(kind, 0.0) for kind in kinds], width, label=name, color=COLORS[number % len(COLORS)])
        ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set(xticks=range(len(kinds)), xticklabels=kinds, ylabel="share of answers", ylim=(0, 1.1))
    ax.legend()
    return ax


def watch(steps: Iterable[dict], names: Iterable[str] = ("reward", "kl"), *, every: int = 5, earlier=()) -> Iterator[dict]:
    """Yield what ``train`` yields, and in a notebook redraw one figure in place, with the step in its title.

    Args:
        steps: dicts of metrics. names: the metrics to draw. every: steps between two drawings; the last is always drawn.
        earlier: rows of the same run from before it was stopped.
    """
    from IPython.display import display

    rows, names = list(earlier), [names] if isinstance(names, str) else list(names)
    if not names or every < 1:
        raise BadInput(f"watch wants the name of at least one metric, and every to be at least 1, got {names} and {every}.")
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained", squeeze=False)
    plt.close(figure)  # or the cell would show it a second time at its end
    handle = display(figure, display_id=True)

    def draw() -> None:
        for ax, name in zip(axes[0], names, strict=True):
            ax.clear()
            _draw([rows], name, ax).set_title(LABELS.get(name, name), fontsize=10, loc="left")
        figure.suptitle(f"step {rows[-1]['step']}", fontsize=10)
        handle.update(figure)

    try:
        for row in steps:
            rows.append(row)
            yield row
            if row["step"] % every == 0:
                draw()
    finally:
        if rows:
            draw()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure at the resolution of a screen, and close it. Raises BadInput for an ending that is no picture's."""
    plt.close(figure)  # it can still be written; else the twentieth run in one process is warned of too many open figures
    kinds = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.lstrip(".").lower() not in kinds:
        raise BadInput(f"{str(path)!r} does not end like a picture; wanted is one of {', '.join(sorted(kinds))}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # in its place stands a box
        figure.savefig(path, dpi=150)
