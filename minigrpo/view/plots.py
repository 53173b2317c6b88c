"""Figures: data in, Axes out. Nothing here calls ``show``, and no formula stands here: what is drawn is the package's own."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minigrpo.advantages import compute_advantages
from minigrpo.config import BadInput
from minigrpo.kl import kl_k1, kl_k2, kl_k3
from minigrpo.loss import clipped_objective

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's: told apart by colour-blind eyes too
COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", GREY)
SMOOTHED = 9  # steps
STYLES = ("-", "--", "-.", ":")
PANELS = (
    ("reward", "mean reward", (0, None)),
    ("kl", "KL to the reference (nats a token)", (0, None)),
    ("completions/mean_length", "completion length (tokens)", (0, None)),
    ("thinking", "completions that think first", (0, 1)),
    ("entropy", "entropy (nats a token)", (0, None)),
    ("frac_reward_zero_std", "groups that agree: nothing to learn", (0, 1)),
)
LABELS = {name: label for name, label, _ in PANELS} | {
    "accuracy": "share of right answers",
    "clip_ratio": "tokens held back by the clip",
    "weighted_logprob": "log-prob of good records (nats)",
}
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


def compare_runs(groups: dict[str, list[list[dict]]], names: Iterable[str], *, axes=None) -> np.ndarray:
    """A panel for each metric, a line (and band) for each group of runs, with the groups' names in a legend.

    Args:
        groups: name -> runs, each the rows of its ``metrics.jsonl``. names: of metrics, see metrics.METRICS.
    """
    names = list(names)
    if axes is None:
        _, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3), layout="constrained", squeeze=False)
    axes = np.asarray(axes).ravel()
    for ax, name in zip(axes, names, strict=True):
        for number, (label, runs) in enumerate(groups.items()):
            if any(name in row for rows in runs for row in rows):
                style = {"color": COLORS[number % len(COLORS)], "linestyle": STYLES[number % len(STYLES)]}
                plot_metric(runs, name, ax=ax, label=label, **style)
        ax.set_title(LABELS.get(name, name), fontsize=10, loc="left")
        ax.set_xlabel("step (optimizer updates)")
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(groups)))
    return axes


def plot_metric(
    runs: list[list[dict]],
    name: str,
    *,
    ax: Axes | None = None,
    color: str = BLUE,
    linestyle: str = "-",
    label: str | None = None,
) -> Axes:
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
        window = SMOOTHED * len(steps) // (steps[-1] - steps[0] + 1)  # a metric that was not measured at every step has fewer
        ax.plot(steps, moving_mean(values, window), color=color, linestyle=linestyle, linewidth=2, label=label)
        return ax
    steps = sorted(set.intersection(*map(set, series)))
    curves = np.array([moving_mean(np.array([s[step] for step in steps])) for s in series])
    ax.fill_between(steps, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
    ax.plot(steps, curves.mean(0), color=color, linestyle=linestyle, linewidth=2, label=label)
    return ax


def moving_mean(values: np.ndarray, window: int = SMOOTHED) -> np.ndarray:
    """(N,) -> (N,): the mean over the window centred on each value; at both ends a shorter one, centred too."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(places, places[::-1]))
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


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


def plot_pipeline(*, ax: Axes | None = None) -> Axes:
    """One step of GRPO as boxes and arrows, with the shape of what is handed on and the notebook that explains it."""
    if ax is None:
        _, ax = plt.subplots(figsize=(10, 2.6), layout="constrained")
    steps = (
        ("prompts", "P"),
        ("sample", "P → B = P·G\ncompletions, 01"),
        ("reward", "B numbers\n02"),
        ("advantage", "B numbers\n02"),
        ("log-probs", "(B, C)\n01"),
        ("ratio, clip, KL", "(B, C)\n03, 04"),
        ("loss", "one number\n04"),
        ("update", "backward, step\n05"),
    )
    for place, (name, shape) in enumerate(steps):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": BLUE}
        ax.text(place, 0.65, name, ha="center", va="center", color="black", fontsize=8, bbox=box)
        ax.text(place, 0.3, shape, ha="center", va="top", color=GREY, fontsize=8)
        if place:
            arrow = {"arrowstyle": "->", "color": GREY}
            ax.annotate("", (place - 0.38, 0.65), (place - 0.62, 0.65), arrowprops=arrow, zorder=0)
    arrow = {"arrowstyle": "->", "color": ORANGE, "connectionstyle": "arc3,rad=0.12", "shrinkA": 14, "shrinkB": 14}
    ax.annotate("", (1, 0.75), (len(steps) - 1, 0.75), arrowprops=arrow)
    ax.text(len(steps) / 2, 1.22, "the policy that was updated samples the next step", ha="center", color=ORANGE, fontsize=9)
    ax.set(xlim=(-0.6, len(steps) - 0.4), ylim=(0, 1.35))
    ax.axis("off")
    return ax


def plot_tokens(tokens: list[list[str]], values: Tensor, *, label: str, ax: Axes | None = None) -> Axes:
    """A heat strip: a row a completion, a square a token, coloured by its value (B, C) and with the token written in it."""
    if ax is None:
        _, ax = plt.subplots(figsize=(1.2 + 0.55 * values.shape[1], 0.6 + 0.5 * len(tokens)), layout="constrained")
    grid = np.full(values.shape, np.nan)
    for row, texts in enumerate(tokens):
        grid[row, : len(texts)] = values[row, : len(texts)].detach().numpy()
    image = ax.imshow(grid, cmap="cividis", aspect="auto")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for row, texts in enumerate(tokens):
        for column, text in enumerate(texts):
            color = "black" if grid[row, column] > middle else "white"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    ax.set(xlabel="completion token", ylabel="completion", yticks=range(len(tokens)))
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def plot_advantages(num_generations: int = 8, *, axes=None) -> np.ndarray:
    """Of a group of right (1) and wrong (0) answers: the advantages by the number right, and how often a group is silent."""
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    num_right = torch.arange(1, num_generations)
    groups = (torch.arange(num_generations) < num_right.unsqueeze(1)).float()
    ids = torch.arange(len(groups)).repeat_interleave(num_generations)
    advantages = compute_advantages(groups.flatten(), ids).view(groups.shape)
    axes[0].plot(num_right, advantages[:, 0], "o-", color=BLUE, label="a right answer")
    axes[0].plot(num_right, advantages[:, -1], "s--", color=ORANGE, label="a wrong answer")
    axes[0].set(xlabel=f"right answers in a group of {num_generations}", ylabel="advantage")
    axes[0].legend()
    rate = torch.linspace(0, 1, 101)
    axes[1].plot(rate, rate**num_generations + (1 - rate) ** num_generations, color=BLUE)
    axes[1].set(xlabel="chance that an answer is right", ylabel="share of groups that agree", ylim=(0, 1))
    for ax in axes:
        ax.grid(alpha=0.25)
    return np.asarray(axes)


def plot_kl_estimators(num_samples: int = 20_000, *, axes=None) -> np.ndarray:
    """Mean and spread of k1, k2, k3 against the exact KL, while the policy (a normal of width 1) drifts from the reference."""
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    drift = torch.linspace(0.05, 1.5, 30, dtype=torch.float64)
    noise = torch.randn(num_samples // 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.cat([noise, -noise])  # in pairs, so that what the figure shows is the estimators' bias and not this sample's
    sample = noise + drift  # from the policy N(drift, 1); the reference is N(0, 1), and KL = drift^2 / 2
    logprobs, ref_logprobs = -(noise**2) / 2 + 0 * drift, -(sample**2) / 2
    estimators = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
    for number, (name, estimator) in enumerate(estimators.items()):
        values = estimator(logprobs, ref_logprobs)
        style = {"color": COLORS[number], "linestyle": STYLES[number], "label": name}
        axes[0].plot(drift**2 / 2, values.mean(0) / (drift**2 / 2), **style)
        axes[1].plot(drift**2 / 2, values.std(0) / (drift**2 / 2), **style)
    axes[0].axhline(1, color=GREY, linewidth=0.8)
    axes[0].set(ylabel="mean / exact KL", ylim=(0.8, 1.5))
    axes[1].set(ylabel="spread (std) / exact KL", yscale="log")
    for ax in axes:
        ax.set(xlabel="exact KL (nats)")
        ax.grid(alpha=0.25)
        ax.legend()
    return np.asarray(axes)


def plot_shares(shares: dict[str, dict[str, float]], *, ax: Axes | None = None) -> Axes:
    """Groups of bars: ``{"before": {"full equation": 0.3, ...}, "after": ...}``."""
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    kinds = list(next(iter(shares.values())))
    width = 0.8 / len(shares)
    for number, (name, values) in enumerate(shares.items()):
        places = np.arange(len(kinds)) + (number - (len(shares) - 1) / 2) * width
        bars = ax.bar(places, [values[kind] for kind in kinds], width, label=name, color=COLORS[number])
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

    rows, names = list(earlier), list(names)
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained", squeeze=False)
    plt.close(figure)  # or the cell would show it a second time at its end
    handle = display(figure, display_id=True)

    def draw() -> None:
        for ax, name in zip(axes[0], names, strict=True):
            ax.clear()
            plot_metric([rows], name, ax=ax).set_title(LABELS.get(name, name), fontsize=10, loc="left")
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
    kinds = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.lstrip(".") not in kinds:
        raise BadInput(f"{str(path)!r} does not end like a picture; wanted is one of {', '.join(sorted(kinds))}.")
    figure.savefig(path, dpi=150)
    plt.close(figure)  # else the twentieth run in one process is warned of too many open figures
