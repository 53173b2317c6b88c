"""Pictures of what the package saves itself: beginnings that completions share, and logits that are never all there."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from minigrpo.view.plots import BLUE, GREY, ORANGE


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
        tokens: a list of tokens a completion. A completion's last token is not read: nothing is drawn after it.
    """
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
        ax.text(len(node) if node else 0.25, y, name, ha=side, va="center", color=color, fontsize=9, bbox=box)
        if node:
            ax.plot([len(node) - 1, len(node)], [height[node[:-1]], y], color=GREY, linewidth=1, zorder=0)
        if last and several:
            times = sum(tuple(row) == node for row in tokens)
            ax.text(len(node) + 0.45, y, f"{times} times", va="center", color=GREY, fontsize=9)
    for t, different in enumerate(beginnings(tokens)):
        each = sum(len(row) > t for row in tokens)
        for line, (number, color) in enumerate(((each, ORANGE), (len(different), BLUE))):
            ax.text(t, bottom + 0.7 * line, number, ha="center", va="center", color=color, fontsize=9)
    for line, (label, color) in enumerate((("a row a completion", ORANGE), ("a row a beginning", BLUE))):
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
