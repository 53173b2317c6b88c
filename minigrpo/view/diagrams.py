"""Pictures of how it works: the shift, the clip, what completions share.

No formula stands here: what is drawn is the package's own."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from minigrpo.config import BadInput
from minigrpo.loss import clipped_objective
from minigrpo.view.plots import BLUE, GREY, ORANGE
from minigrpo.view.tokens import printable


def plot_shift(prompt: list[str], completion: list[str], *, ax: Axes | None = None) -> Axes:
    """What the model reads, and above each token the one that it predicts there: blue where that is a token of the completion.

    Args:
        prompt, completion: tokens as texts. The completion's last token is read too, but predicts nothing that was written.
    """
    if not prompt or not completion:
        raise BadInput("prompt and completion must have at least one token each.")
    texts, start = [*prompt, *completion], len(prompt) - 1
    if ax is None:
        _, ax = plt.subplots(figsize=(1.4 + 0.42 * len(texts), 1.9), layout="constrained")
    style = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 10, "parse_math": False}
    for place, text in enumerate(texts):
        written = place > start
        ax.add_patch(Rectangle((place - 0.45, -0.4), 0.9, 0.8, facecolor="#DDEBF5" if written else "white", edgecolor=GREY))
        ax.text(place, 0, printable(text), color="black", **style)
        target = texts[place + 1] if place + 1 < len(texts) else ""
        scored = start <= place < len(texts) - 1
        color = BLUE if scored else GREY
        ax.text(place, 1.5, printable(target) if target else "–", color=color, fontweight="bold" if scored else None, **style)
        ax.annotate(
            "", (place, 1.2), (place, 0.5), arrowprops={"arrowstyle": "->", "color": color, "alpha": 1 if scored else 0.4}
        )
    for place in range(len(texts)):
        ax.text(place, -0.65, place, ha="center", va="center", fontsize=7, color=GREY)
    for height, name in ((1.5, "target"), (0, "input"), (-0.65, "position")):
        ax.text(-0.8, height, name, ha="right", va="center", fontsize=9, color=GREY)
    ax.set(xlim=(-2.6, len(texts) - 0.4), ylim=(-0.95, 1.95))
    ax.axis("off")
    return ax


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


def beginnings(tokens: list[list[str]]) -> list[set[tuple[str, ...]]]:
    """For each position the different texts that a token is drawn after there: what the model has to read, each once.

    Args:
        tokens: the completions of one prompt, see tokens.completion_tokens; () stands for the prompt alone.
    """
    longest = max(map(len, tokens))
    return [{tuple(row[:t]) for row in tokens if len(row) > t} for t in range(longest)]


def plot_prefix_tree(prompt: str, tokens: list[list[str]], *, ax: Axes | None = None) -> Axes:
    """The completions of one prompt as a tree, and below each token how many rows the model runs on with and without it.

    Args:
        tokens: a list of tokens per completion. A completion's last token is not read: nothing is drawn after it.
    """
    if not tokens or not all(tokens):
        raise BadInput("tokens must be a list of completions, each a list of at least one token.")
    texts = sorted(set(map(tuple, tokens)))  # sorted, those that begin alike stand together
    if ax is None:
        size = 2.2 + 0.52 * max(map(len, texts)), 1.3 + 0.34 * len(texts)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    height, bottom = _heights(texts), len(texts) + 0.2
    for node, y in height.items():
        several = sum(tuple(row[: len(node)]) == node for row in tokens) > 1
        last = node in texts
        fill, edge, color = ("white", GREY, GREY) if last else (BLUE, BLUE, "white") if several else ("white", BLUE, "black")
        box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": edge}
        name, side = (node[-1], "center") if node else (prompt, "right")
        x, style = len(node) if node else 0.25, {"color": color, "fontsize": 9, "bbox": box, "parse_math": False}
        ax.text(x, y, printable(name), ha=side, va="center", **style)
        if node:
            ax.plot([len(node) - 1, len(node)], [height[node[:-1]], y], color=GREY, linewidth=1, zorder=0)
        if last and several:
            times = sum(tuple(row) == node for row in tokens)
            ax.text(len(node) + 0.45, y, f"{times} times", va="center", color=GREY, fontsize=9)
    for t, different in enumerate(beginnings(tokens)):
        each = sum(len(row) > t for row in tokens)
        for line, (number, color) in enumerate(((each, ORANGE), (len(different), BLUE))):
            ax.text(t, bottom + 0.7 * line, number, ha="center", va="center", color=color, fontsize=9)
    for line, (label, color) in enumerate((("a row per completion", ORANGE), ("a row per beginning", BLUE))):
        ax.text(-0.6, bottom + 0.7 * line, label, ha="right", va="center", color=color, fontsize=9)
    kinds = (("of several completions", BLUE, BLUE), ("of one", "white", BLUE), ("last: not read", "white", GREY))
    handles = [Patch(facecolor=fill, edgecolor=edge, label=label) for label, fill, edge in kinds]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9, frameon=False)
    ax.set(xlim=(-4.2, max(map(len, texts)) + 1.6), ylim=(bottom + 1.1, -0.6))
    ax.axis("off")
    return ax


def _heights(texts: list[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Every beginning of the sorted texts, whole texts too, and the mean row of the texts that begin so."""
    nodes = dict.fromkeys(text[:t] for text in texts for t in range(len(text) + 1))
    return {node: float(np.mean([row for row, text in enumerate(texts) if text[: len(node)] == node])) for node in nodes}
