"""What the clip saves: ratios and held-out accuracy after so many updates on one group of four answers."""

import json
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from minigrpo.view.controls.picture import picture, png, side_by_side
from minigrpo.view.plots import BLUE, COLORS, GREY, STYLES

LEAST = 1e-3  # smaller ratios are drawn at the edge
SETTINGS = {"with the clip": "clip", "without the clip": "free"}


def read_clip_study(path: str | Path = "runs/clip/groups.json") -> dict:
    """What tests/benchmarks/record_clip.py has recorded: five groups, each trained on with the clip and without it."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def plot_clip_study(study: dict, *, group: int = 0, updates: int = 60, clip: bool = True, axes=None) -> np.ndarray:
    """Left the ratios of one group's first tokens, right the held-out accuracy of all groups, over the updates on one rollout.

    Args:
        study: see read_clip_study. group: which of them the left side shows. updates: where both sides are marked.
        axes: two Axes to draw into; made here by default.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained")
    name, which = ("with the clip", "clip") if clip else ("without the clip", "free")
    _draw_ratios(study, study["groups"][group], which, updates, axes[0])
    for number, one in enumerate(study["groups"]):
        accuracy = one[which]["accuracy"]
        chosen = {"color": BLUE, "linewidth": 2.2} if number == group else {"color": GREY, "linewidth": 1.2}
        axes[1].plot([int(step) for step in accuracy], accuracy.values(), ".-", **chosen)
    axes[1].axhline(study["groups"][group][which]["accuracy"]["0"], color=GREY, linestyle=":", linewidth=1)
    axes[1].set(ylim=(0, 1), ylabel="held-out accuracy", title=f"{name}: one line per group")
    axes[0].set(ylabel="ratio of the first token", title=f"{name}: {study['groups'][group]['prompt']}", ylim=(LEAST, 40))
    for ax in axes:
        ax.title.set_fontsize(10)
        ax.axvline(updates, color=GREY, linewidth=1, alpha=0.6)
        ax.set_xlabel("updates on the same four answers")
        ax.spines[["top", "right"]].set_visible(False)
    return np.asarray(axes)


def _draw_ratios(study: dict, group: dict, which: str, updates: int, ax: Axes) -> None:
    ratios = np.maximum(group[which]["ratios"], LEAST)
    ax.axhspan(1 - study["epsilon"], 1 + study["epsilon"], color=GREY, alpha=0.2, linewidth=0)
    for row, (text, reward) in enumerate(zip(group["completions"], group["rewards"], strict=True)):
        color, style = COLORS[row], STYLES[row % len(STYLES)]
        ax.plot(ratios[: updates + 1, row], style, color=color, linewidth=2, label=f"{text} {'right' if reward else 'wrong'}")
        ax.plot(range(updates, len(ratios)), ratios[updates:, row], style, color=color, linewidth=0.8, alpha=0.4)
    ax.set_yscale("log")
    ax.legend(fontsize=7, frameon=False, loc="lower left")


def try_the_clip(study: dict) -> widgets.Widget:
    """The clip on or off, the number of updates, the group: ``plot_clip_study`` is drawn anew on each change."""
    setting = widgets.ToggleButtons(options=list(SETTINGS))
    updates = widgets.IntSlider(value=60, min=1, max=60, description="updates", continuous_update=False)
    groups = {f"{one['prompt']} {', '.join(one['completions'])}": number for number, one in enumerate(study["groups"])}
    group = widgets.Dropdown(options=groups, description="group", layout=widgets.Layout(width="38em"))
    shown, said = picture(940), widgets.HTML()

    def draw(_=None) -> None:
        clip = SETTINGS[setting.value] == "clip"
        axes = plot_clip_study(study, group=group.value, updates=updates.value, clip=clip)
        shown.value = png(axes[0].figure)
        ratios = study["groups"][group.value]["clip" if clip else "free"]["ratios"][updates.value]
        said.value = f"After {updates.value} updates the ratios are {', '.join(f'{ratio:.2f}' for ratio in ratios)}."

    for control in (setting, updates, group):
        control.observe(draw, names="value")
    draw()
    return widgets.VBox([setting, side_by_side(updates, group), shown, said])
