"""The rewards of a group and the advantages that they become; how many groups are silent."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from minigrpo.advantages import compute_advantages
from minigrpo.config import BadInput
from minigrpo.view.controls.picture import picture, png, side_by_side
from minigrpo.view.plots import BLUE, GREY, ORANGE

START = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def plot_rewards(rewards=START, *, axes=None) -> np.ndarray:
    """Left the rewards of a group and their mean, right the advantages: blue above 0, orange below. Returns two Axes.

    Args:
        rewards: two or more numbers. axes: two Axes to draw into; made here by default.
    """
    if len(rewards) < 2:
        raise BadInput(f"rewards must be at least two numbers, or there is nothing to compare; got {len(rewards)}.")
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(8.5, 2.5), layout="constrained")
    values = torch.tensor(rewards, dtype=torch.float32)
    advantages = compute_advantages(values, torch.zeros(len(values), dtype=torch.long))
    places = np.arange(1, len(rewards) + 1)
    axes[0].bar(places, values.tolist(), 0.6, color=GREY)
    axes[0].axhline(values.mean().item(), color="black", linestyle="--", linewidth=1)
    axes[0].set(
        title=f"rewards, mean {values.mean():.2f}, std {values.std():.2f}", ylim=(min(0, *rewards), max(1.05, *rewards))
    )
    bars = axes[1].bar(places, advantages.tolist(), 0.6, color=[BLUE if a > 0 else ORANGE for a in advantages])
    axes[1].bar_label(bars, labels=[f"{a:+.2f}".replace("-", "−") for a in advantages.tolist()], fontsize=8)
    axes[1].axhline(0, color=GREY, linewidth=0.8)
    axes[1].set(title="advantages: nothing to compare" if not advantages.any() else "advantages", ylim=(-3, 3))
    for ax in axes:
        ax.title.set_fontsize(10)
        ax.set(xlabel="answer", xticks=places)
        ax.spines[["top", "right"]].set_visible(False)
    return np.asarray(axes)


def try_rewards(rewards=START) -> widgets.Widget:
    """A slider for the reward of each answer of a group; ``plot_rewards`` is drawn anew on each change."""
    layout = widgets.Layout(height="12em", width="4em")  # in a lower one the numbers are cut off
    tall = {"orientation": "vertical", "readout_format": ".1f", "layout": layout}
    sliders = [widgets.FloatSlider(value=reward, min=0, max=1, step=0.1, **tall) for reward in rewards]
    shown = picture()

    def draw(_=None) -> None:
        shown.value = png(plot_rewards([slider.value for slider in sliders])[0].figure)

    for slider in sliders:
        slider.observe(draw, names="value")
    draw()
    return widgets.VBox([side_by_side(*sliders), shown])


def share_silent(rate, num_generations: int):
    """The chance that all of a group are right or all wrong: p^G + (1 - p)^G. ``rate`` is a number, or a tensor of them."""
    return rate**num_generations + (1 - rate) ** num_generations


def plot_silent(num_generations: int = 8, rate: float = 0.22, *, ax: Axes | None = None) -> Axes:
    """The share of silent groups against the chance that an answer is right, for a group size; one point of it is marked."""
    if num_generations < 2 or not 0 <= rate <= 1:
        raise BadInput(f"Wanted are at least 2 answers and a chance from 0 to 1, got {num_generations} and {rate}.")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 2.9), layout="constrained")
    rates = torch.linspace(0, 1, 201)
    if num_generations != 8:
        ax.plot(rates, share_silent(rates, 8), color=GREY, linestyle="--", linewidth=1, label="G = 8")
    ax.plot(rates, share_silent(rates, num_generations), color=BLUE, linewidth=2, label=f"G = {num_generations}")
    silent = share_silent(rate, num_generations)
    ax.plot([rate], [silent], "o", color=ORANGE)
    ax.set(xlabel="p, the chance that an answer is right", ylabel="share of silent groups", ylim=(0, 1.02))
    ax.set_title(f"p = {rate:.2f}, G = {num_generations}: {silent:.0%} of the groups teach nothing", fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="upper center")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def try_group_size() -> widgets.Widget:
    """Sliders for the group's size and the chance to be right; ``plot_silent`` is drawn anew on each change."""
    size = widgets.IntSlider(value=8, min=2, max=64, description="G")
    rate = widgets.FloatSlider(value=0.22, min=0, max=1, step=0.01, description="p")
    shown = picture(640)

    def draw(_=None) -> None:
        shown.value = png(plot_silent(size.value, rate.value).figure)

    for slider in (size, rate):
        slider.observe(draw, names="value")
    draw()
    return widgets.VBox([side_by_side(size, rate), shown])
