"""One picture of one group: what was written, how it was rewarded, how each token is pushed, and what a step changes."""

from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from torch import Tensor

from minigrpo.config import BadInput
from minigrpo.view.plots import BLUE, COLORS, GREY, ORANGE
from minigrpo.view.tokens import printable

PARTS = ("completions", "logprobs", "mask", "rewards", "advantages", "push", "first_token")
SURPRISE, DARK_SURPRISE = COLORS[3], "#7A3B62"  # of a token that was unlikely; blue and orange mean up and down
AFTER_A_STEP = "first token, before → after the step"
DIMMED, LEGIBLE = 0.16, 0.4
REWARD, ADVANTAGE, BESIDE = 1.1, 3.9, 6.0  # in squares, right of the tokens: the middles of the two columns, and their end
LONGEST = 16  # tokens that are drawn of a completion
UNLIKELY = 0.01  # a first token below it has no bar
ROW, ZERO, LANE = 1.75, 1.3, 0.3  # in squares: from row to row, from a row's top to where its push is 0, the longest push


@dataclass(frozen=True)
class Group:
    """The completions of one prompt, and all that GRPO makes of them in one step. See controls.one_step."""

    prompt: str
    tokens: list[list[str]]  # G completions, up to and including EOS, see tokens.completion_tokens
    logprobs: Tensor  # (G, C) nats, when they were drawn
    rewards: Tensor  # (G,)
    advantages: Tensor  # (G,)
    push: Tensor  # (G, C) minus the derivative of the loss with respect to each log-prob
    before: dict[str, float]  # first token -> its probability
    after: dict[str, float]  # the same after the step


def plot_group(group: Group, *, light: str | Iterable[str] | None = None) -> np.ndarray:
    """One group as one picture, a row per completion: tokens, log-probs, reward, advantage, push; beside it the first token.

    Blue is up and orange is down: an advantage above or below 0, a token that is made likelier or less likely.

    Args:
        light: what to show in full, of PARTS; the rest is dimmed. By default everything is shown in full.
    Returns:
        Two Axes: the rows, and the bars of the first token before and after the step.
    """
    lit = set(PARTS if light is None else [light] if isinstance(light, str) else light)
    if not lit or not lit <= set(PARTS):
        raise BadInput(f"light must name parts of the picture, of {', '.join(PARTS)}; got {light!r}.")
    shown = {part: 1.0 if part in lit else DIMMED for part in PARTS}
    width = min(max(map(len, group.tokens)), LONGEST)
    left = width + BESIDE + 0.2  # in squares
    size = 0.33 * left + 2.9, 0.65 + 0.33 * ROW * max(len(group.tokens), 3)
    figure, axes = plt.subplots(1, 2, figsize=size, dpi=140, width_ratios=(0.33 * left, 2.6), layout="constrained")
    rows, bars = axes
    figure.suptitle(printable(group.prompt)[:80], x=0.01, ha="left", family="monospace", fontweight="bold", fontsize=10)
    _draw_headings(rows, width, shown)
    strongest = float(group.push.abs().max()) or 1.0
    for row, tokens in enumerate(group.tokens):
        _draw_tokens(rows, row, tokens[:LONGEST], group.logprobs[row].tolist(), width, shown)
        _draw_push(rows, row, group.push[row, : len(tokens)].tolist()[:LONGEST], strongest, shown["push"])
        _draw_outcome(rows, row, float(group.rewards[row]), float(group.advantages[row]), width, shown)
    rows.set(xlim=(-0.1, left), ylim=(len(group.tokens) * ROW + 0.05, -0.6))
    rows.axis("off")
    draw_first_token(bars, group.before, group.after, alpha=shown["first_token"])
    return axes


def _draw_headings(ax: Axes, width: int, shown: dict[str, float]) -> None:
    style = {"va": "bottom", "fontsize": 8.5}
    ax.text(0.04, -0.2, "completions", alpha=shown["completions"], **style)
    ax.text(3.1, -0.2, "in each square: log-prob", color=DARK_SURPRISE, alpha=shown["logprobs"], **style)
    ax.text(9.0, -0.2, "below: push", alpha=shown["push"], **style)
    ax.text(width + REWARD, -0.2, "reward", ha="center", alpha=shown["rewards"], **style)
    ax.text(width + ADVANTAGE, -0.2, "advantage", ha="center", alpha=shown["advantages"], **style)


def _draw_tokens(ax: Axes, row: int, tokens: list[str], logprobs: list[float], width: int, shown: dict[str, float]) -> None:
    """Squares with the token and its log-prob; the rest of the row is padding, which does not count."""
    top = ROW * row
    for column in range(width):
        place = {"xy": (column + 0.04, top + 0.02), "width": 0.92, "height": 0.92}
        if column >= len(tokens):
            ax.add_patch(Rectangle(**place, fill=False, edgecolor=GREY, linestyle=":", linewidth=0.7, alpha=shown["mask"]))
            continue
        logprob = logprobs[column]
        tint = 0.75 * min(1.0, -logprob / 3) * shown["logprobs"]
        fill = tuple(1 - tint * (1 - channel) for channel in to_rgb(SURPRISE))
        edge = max(shown["completions"], shown["logprobs"], shown["mask"])
        ax.add_patch(Rectangle(**place, facecolor=fill, edgecolor=(0.47, 0.47, 0.47, edge), linewidth=0.7))
        middle = {"x": column + 0.5, "ha": "center", "va": "center", "parse_math": False}
        seen = max(shown["completions"], shown["logprobs"], shown["mask"], LEGIBLE)  # every part is about the tokens
        ax.text(y=top + 0.36, s=printable(tokens[column]), fontsize=9.5, family="monospace", alpha=seen, **middle)
        number = f"{logprob:.1f}".replace("-0.0", "0.0").replace("-", "−")
        ax.text(y=top + 0.75, s=number, fontsize=6, color=DARK_SURPRISE, alpha=shown["logprobs"], **middle)


def _draw_push(ax: Axes, row: int, push: list[float], strongest: float, alpha: float) -> None:
    """Under each token a bar, up or down, as long as its push is strong."""
    zero = ROW * row + ZERO
    ax.plot([0.04, len(push) - 0.04], [zero, zero], color=GREY, linewidth=0.6, alpha=alpha)
    for column, value in enumerate(push):
        height = -LANE * value / strongest  # the axis points down
        ax.add_patch(Rectangle((column + 0.25, zero), 0.5, height, color=_color(value), alpha=alpha, linewidth=0))
    same = max(push) - min(push) < 1e-3 * strongest
    said = f"{push[0]:+.3f} {'each' if same else 'on the first'}".replace("-", "−")
    ax.text(len(push) + 0.2, zero, said, va="center", fontsize=7.5, color=_color(push[0]), alpha=alpha)


def _color(value: float) -> str:
    return BLUE if value > 0 else ORANGE if value < 0 else GREY


def _draw_outcome(ax: Axes, row: int, reward: float, advantage: float, width: int, shown: dict[str, float]) -> None:
    """Right of the tokens: the reward as a number, the advantage as a bar left or right of 0."""
    middle, zero, alpha = ROW * row + 0.48, width + ADVANTAGE, shown["advantages"]
    ax.text(width + REWARD, middle, f"{reward:g}", ha="center", va="center", fontsize=11, alpha=shown["rewards"])
    ax.plot([zero, zero], [middle - 0.46, middle + 0.46], color=GREY, linewidth=0.7, alpha=alpha)
    length, color = float(np.clip(advantage, -2.5, 2.5)) * 0.75, _color(advantage)
    ax.add_patch(Rectangle((zero, middle - 0.2), length, 0.4, color=color, alpha=alpha, linewidth=0))
    beside = {"x": zero - 0.2, "ha": "right"} if advantage > 0 else {"x": zero + 0.2, "ha": "left"}  # where the bar is not
    ax.text(y=middle, s=f"{advantage:+.2f}".replace("-", "−"), va="center", fontsize=9, color=color, alpha=alpha, **beside)


def draw_first_token(
    ax: Axes, before: dict[str, float], after: dict[str, float], *, alpha: float = 1.0, title: str = AFTER_A_STEP
) -> Axes:
    """A bar per first token: grey before, in colour after; blue where it has become likelier, orange where less likely."""
    names = [name for name in before if max(before[name], after[name]) >= UNLIKELY]
    names.sort(key=lambda name: -before[name])
    for place, name in enumerate(names):
        color = _color(after[name] - before[name])
        ax.barh(place - 0.2, before[name], 0.36, color=GREY, alpha=0.45 * alpha)
        ax.barh(place + 0.2, after[name], 0.36, color=color, alpha=alpha)
        said = f"{100 * before[name]:.1f} → {100 * after[name]:.1f} %"
        ax.text(max(before[name], after[name]) + 0.01, place, said, va="center", fontsize=7.5, color=color, alpha=alpha)
    ax.set_yticks(range(len(names)), [printable(name) for name in names], family="monospace", fontsize=9.5, alpha=alpha)
    largest = max((max(before[name], after[name]) for name in names), default=1.0)
    ax.set(xlim=(0, 1.75 * largest), ylim=(len(names) - 0.4, -0.6), xticks=[])
    ax.set_title(title, fontsize=8.5, loc="left", alpha=alpha)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.spines["left"].set_alpha(alpha)
    ax.tick_params(axis="y", length=0)
    return ax
