"""Figures: data in, Axes out. Nothing here calls ``show``, and no formula stands here: what is drawn is the package's own."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minigrpo.config import BadInput
from minigrpo.loss import clipped_objective

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's: told apart by colour-blind eyes too
PANELS = (
    ("reward", "mean reward", (0, None)),
    ("kl", "KL to the reference (nats a token)", (0, None)),
    ("completions/mean_length", "completion length (tokens)", (0, None)),
    ("thinking", "completions that think first", (0, 1)),
    ("entropy", "entropy (nats a token)", (0, None)),
    ("frac_reward_zero_std", "groups that agree: nothing to learn", (0, 1)),
)
RECORD_PANELS = (
    ("weighted_logprob", "log-prob of good records (nats)", (None, None)),
    ("kl", "KL, fresh samples (nats a token)", (0, None)),
    ("completions/mean_length", "length, fresh samples (tokens)", (0, None)),
    ("entropy", "entropy at the records (nats a token)", (0, None)),
    ("clip_ratio", "tokens held back by the clip", (0, 1)),
    ("grad_norm", "gradient norm", (0, None)),
)


def plot_runs(runs: list[list[dict]], *, title: str | None = None, axes=None) -> np.ndarray:
    """What happened over time, in six panels: reward, KL, length, thinking, entropy, silent groups.

    Args:
        runs: for each run the rows of its ``metrics.jsonl`` (runs.read_metrics). One run is drawn with its moving mean;
            several as their mean and the band from the lowest to the highest.
        axes: six Axes to draw into; made here by default.
    Returns:
        The six Axes. ``axes[0].figure`` is the figure.
    """
    if axes is None:
        figure, axes = plt.subplots(2, 3, figsize=(10, 5.2), layout="constrained")
        figure.suptitle(title)
    axes = np.asarray(axes).ravel()
    panels = RECORD_PANELS if "weighted_logprob" in runs[0][0] else PANELS
    for ax, (name, label, limits) in zip(axes, panels, strict=True):
        plot_metric(runs, name, ax=ax)
        ax.set_title(label, fontsize=10, loc="left")
        ax.set_ylim(*limits) if ax.lines else None
    for ax in axes[-3:]:
        ax.set_xlabel("step (optimizer updates)")
    return axes


def plot_metric(runs: list[list[dict]], name: str, *, ax: Axes | None = None, color: str = BLUE, label=None) -> Axes:
    """One metric over the steps of one run (dots and moving mean) or of several (mean and band of their moving means).

    Where no run has the metric, the panel says so: at beta 0, for example, there is no KL.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    series = [{row["step"]: row[name] for row in rows if row.get(name) is not None} for rows in runs]
    series = [s for s in series if s]
    if not series:
        reason = "beta is 0: no reference, no KL" if name == "kl" else f"{name} was not measured"
        ax.text(0.5, 0.5, reason, ha="center", va="center", color=GREY, transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return ax
    if len(series) == 1:
        steps, values = list(series[0]), np.array(list(series[0].values()))
        ax.plot(steps, values, ".", color=color, alpha=0.3, markersize=4)
        ax.plot(steps, moving_mean(values), color=color, linewidth=2, label=label)
        return ax
    steps = sorted(set.intersection(*map(set, series)))
    curves = np.array([moving_mean(np.array([s[step] for step in steps])) for s in series])
    ax.fill_between(steps, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
    ax.plot(steps, curves.mean(0), color=color, linewidth=2, label=label)
    return ax


def moving_mean(values: np.ndarray, window: int = 9) -> np.ndarray:
    """(N,) -> (N,): the mean over the window centred on each value, shorter at both ends."""
    weights = np.ones(window)
    counts = np.convolve(np.ones(len(values)), weights, mode="full")
    sums = np.convolve(values, weights, mode="full")
    start = window // 2
    return (sums / counts)[start : start + len(values)]


def plot_clipping(epsilon: float = 0.2, epsilon_high: float | None = None, *, axes=None) -> np.ndarray:
    """The clipped objective against the ratio, for a good and for a bad completion."""
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharex=True, layout="constrained")
    ratio = torch.linspace(0, 2, 201)
    for ax, advantage in zip(axes, (+1.0, -1.0), strict=True):
        ax.plot(ratio, ratio * advantage, "--", color=GREY, linewidth=1, label="not clipped")
        ax.plot(ratio, clipped_objective(ratio, torch.tensor(advantage), epsilon, epsilon_high), color=BLUE, linewidth=2)
        ax.axvline(1, color=GREY, linewidth=0.8)
        ax.set(title=f"advantage {advantage:+.0f}", xlabel="ratio r = π / π_old", ylabel="objective (higher is better)")
        ax.grid(alpha=0.25)
    return np.asarray(axes)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure at the resolution of a screen. Raises BadInput for an ending that is no picture's."""
    kinds = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.lstrip(".") not in kinds:
        raise BadInput(f"{str(path)!r} does not end like a picture; wanted is one of {', '.join(sorted(kinds))}.")
    figure.savefig(path, dpi=150)
