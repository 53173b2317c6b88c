"""A heat strip: completions as rows of squares, a token and its number in each."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from minigrpo.config import BadInput
from minigrpo.view.plots import BLUE, COLORS, ORANGE
from minigrpo.view.tokens import printable, token_values

UP_AND_DOWN = LinearSegmentedColormap.from_list("up and down", [ORANGE, "white", BLUE])
FROM_ZERO = LinearSegmentedColormap.from_list("from zero", ["white", COLORS[3]])  # as the log-probs in view.group
LONGEST = 20  # with more columns there is no room for numbers


def plot_tokens(tokens: list[list[str]], values: Tensor, *, label: str, ax: Axes | None = None) -> Axes:
    """A heat strip: a row per completion, a square per token, with the token and its value in it, coloured by the value.

    White is 0. Where values have both signs, blue is above 0 and orange below; where they have one, the colour is their size.

    Args:
        tokens: B completions, see tokens.completion_tokens. values: (B, C), or (B,) for one value per completion.
    """
    if not tokens or not all(tokens):
        raise BadInput("tokens must be a list of completions, each a list of at least one token.")
    values = token_values(values, (len(tokens), max(map(len, tokens))))
    if ax is None:
        _, ax = plt.subplots(figsize=(1.2 + 0.55 * values.shape[1], 0.6 + 0.5 * len(tokens)), layout="constrained")
    grid = np.full(values.shape, np.nan)
    for row, texts in enumerate(tokens):
        grid[row, : len(texts)] = values[row, : len(texts)].numpy()
    image = ax.imshow(grid, aspect="auto", **_scale(grid))
    for row, texts in enumerate(tokens):
        for column, text in enumerate(texts):
            value, middle = grid[row, column], {"ha": "center", "va": "center", "parse_math": False}
            red, green, blue, _ = image.cmap(image.norm(value)) if np.isfinite(value) else (1, 1, 1, 1)
            color = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            numbered = np.isfinite(value) and values.shape[1] <= LONGEST
            ax.text(column, row - (0.16 if numbered else 0), printable(text), color=color, fontsize=9, **middle)
            if numbered:
                ax.text(column, row + 0.24, f"{value:z.2f}".replace("-", "−"), color=color, fontsize=6, **middle)
    ax.set(xlabel="completion token", ylabel="completion", yticks=range(len(tokens)))
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def _scale(grid: np.ndarray) -> dict:
    """The colours for imshow, and the values at their ends."""
    measured = grid[np.isfinite(grid)]
    low, high = (measured.min(), measured.max()) if len(measured) else (0.0, 0.0)
    largest = max(-low, high) or 1.0
    if low < 0 < high:
        return {"cmap": UP_AND_DOWN, "vmin": -largest, "vmax": largest}
    return (
        {"cmap": FROM_ZERO.reversed(), "vmin": -largest, "vmax": 0}
        if low < 0
        else {"cmap": FROM_ZERO, "vmin": 0, "vmax": largest}
    )
