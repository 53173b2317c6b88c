"""Pictures of how it works: the shift, the clip, advantages, KL estimators; what completions share; logits in chunks.

No formula stands here: what is drawn is the package's own."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from minigrpo.advantages import compute_advantages
from minigrpo.config import BadInput
from minigrpo.kl import kl_k1, kl_k2, kl_k3
from minigrpo.loss import clipped_objective
from minigrpo.view.plots import BLUE, COLORS, GREY, ORANGE, STYLES
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


def plot_chunked_head(shape: tuple[int, int, int], largest: dict[int, int], *, axes=None) -> np.ndarray:
    """Left, how the head goes through the tokens a chunk at a time; right, what it held at once, by the number of chunks.

    Args:
        shape: (N, D, V) tokens, width of the hidden states, vocabulary.
        largest: number of chunks -> numbers in the largest tensor that was made, as measured.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", width_ratios=(1.25, 1))
    num_tokens, width, vocabulary = shape
    _draw_chunks(axes[0], num_tokens, width, vocabulary)
    chunks = np.array(sorted(largest))
    axes[1].plot(chunks, num_tokens * vocabulary / chunks, "--", color=GREY, label="N · V / chunks")
    axes[1].axhline(width * vocabulary, color=ORANGE, linestyle=":", label="D · V, the head's own gradient")
    axes[1].plot(chunks, [largest[k] for k in chunks], "o", color=BLUE, label="measured")
    axes[1].set_xscale("log", base=2)
    axes[1].set(xticks=chunks, xticklabels=chunks, xlabel="chunks", ylabel="numbers in the largest tensor", ylim=(0, None))
    axes[1].yaxis.set_major_formatter("{x:,.0f}")
    axes[1].grid(alpha=0.25)
    axes[1].legend(fontsize=9)
    return np.asarray(axes)


def _draw_chunks(ax: Axes, num_tokens: int, width: int, vocabulary: int, chunks: int = 6, now: int = 2) -> None:
    """Hidden states, the chunks of logits of which one is there now, and the log-probs that have come out."""
    for chunk in range(chunks):
        held, done = chunk == now, chunk < now
        rows = {"height": 0.94, "linewidth": 1.2}
        ax.add_patch(Rectangle((0, chunk + 0.03), 0.9, **rows, facecolor=BLUE, alpha=1.0 if held else 0.35, edgecolor=BLUE))
        fill, style = (BLUE, "-") if held else ("none", ":")
        ax.add_patch(Rectangle((2, chunk + 0.03), 4, **rows, facecolor=fill, edgecolor=BLUE if held else GREY, linestyle=style))
        said = "held now" if held else "made, used, forgotten" if done else "not yet made"
        ax.text(4, chunk + 0.5, said, ha="center", va="center", color="white" if held else GREY, fontsize=9)
        out = BLUE if held or done else "none"
        ax.add_patch(Rectangle((7.2, chunk + 0.03), 0.3, **rows, facecolor=out, edgecolor=BLUE if out == BLUE else GREY))
    for start, end in ((1.0, 1.9), (6.1, 7.1)):
        ax.annotate("", (end, now + 0.5), (start, now + 0.5), arrowprops={"arrowstyle": "->", "color": BLUE})
    columns = ((0.45, "hidden states", (num_tokens, width)), (4, "logits", (num_tokens, vocabulary)))
    for x, name, size in (*columns, (7.35, "log-probs", (num_tokens,))):
        ax.text(x, -0.25, f"{name}\n({', '.join(f'{n:,}' for n in size)})", ha="center", va="bottom", fontsize=9)
    ax.text(4, chunks + 0.2, "backward: the same once more, chunk by chunk", ha="center", va="top", color=GREY, fontsize=9)
    ax.set(xlim=(-0.7, 8.4), ylim=(chunks + 0.8, -1.5))
    ax.axis("off")
