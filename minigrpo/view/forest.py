"""Differences between methods with their uncertainty, as a forest plot: a row per method, an interval around its mean."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from minigrpo.config import BadInput
from minigrpo.view.plots import BLUE, GREY, ORANGE


class Interval(NamedTuple):
    """The mean of some differences, and how far their true mean may be from it."""

    mean: float
    margin: float

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.margin


def interval(differences: list[float], *, comparisons: int = 1) -> Interval:
    """Student's 95 % interval of a mean; with several ``comparisons`` they share the 5 % (Bonferroni).

    >>> interval([0.1, 0.2, 0.3])  # 4.30 standard errors, with three numbers
    Interval(mean=0.2, margin=0.248)
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all() or comparisons < 1:
        raise BadInput(f"interval wants at least two finite differences and one comparison, got {differences!r:.60}.")
    error = values.std(ddof=1) / len(values) ** 0.5
    factor = student_factor(len(values) - 1, 1 - 0.05 / comparisons)
    return Interval(round(float(values.mean()), 3), round(float(factor * error), 3))


def student_factor(degrees: int, level: float) -> float:
    """How many standard errors hold the share ``level`` of Student's distribution, by summing its density.

    >>> [round(student_factor(degrees, 0.95), 2) for degrees in (2, 4, 9)]
    [4.3, 2.78, 2.26]
    """
    t = np.tan(np.linspace(0, np.pi / 2, 200_001)[:-1])  # out to infinity, close together around 0
    density = (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))])
    return float(np.interp(level, area / area[-1], t))


def plot_forest(
    differences: dict[str, list[float]], *, comparisons: int = 1, label: str = "difference", ax: Axes | None = None
) -> Axes:
    """A row per method: a dot for each seed, the mean, its 95 % interval (thick), and the one that is shared out (thin).

    Blue lies above 0 and orange below it, asked in both ways; grey is what chance can do.

    Args:
        differences: method -> its difference to the baseline, one number per seed. comparisons: see interval.
    """
    if not differences:
        raise BadInput("differences must be a dict with at least one method.")
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 0.9 + 0.42 * len(differences)), layout="constrained")
    for row, values in enumerate(differences.values()):
        (mean, alone), (_, shared) = interval(values), interval(values, comparisons=comparisons)
        color = GREY if abs(mean) <= shared else BLUE if mean > 0 else ORANGE
        ax.plot(values, [row + 0.28] * len(values), ".", color=color, alpha=0.5, markersize=5)
        for margin, width in ((shared, 1.5), (alone, 5)):
            ax.plot([mean - margin, mean + margin], [row, row], color=color, linewidth=width, solid_capstyle="butt")
        ax.plot(mean, row, "o", color="white", markeredgecolor=color, markersize=7)
    ax.axvline(0, color="black", linewidth=1)
    ax.set(yticks=range(len(differences)), yticklabels=differences, xlabel=label)
    ax.set_ylim(len(differences) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
