"""Forty steps with settings of your own, over the band of the recorded runs."""

from collections.abc import Callable

import ipywidgets as widgets
import numpy as np

from minigrpo.config import GRPOConfig
from minigrpo.policy import load_policy
from minigrpo.tasks import clock_task
from minigrpo.training import TrainState, train
from minigrpo.view.controls.picture import picture, png
from minigrpo.view.plots import ORANGE, compare_runs, plot_metric

PANELS = ("reward", "kl", "completions/mean_length")


def run_steps(steps: int = 40, *, on_step: Callable[[int], None] | None = None, **changes) -> list[dict]:
    """Train the bundled model on the clock task for a few steps with some settings changed; the rows of metrics.

    Args:
        on_step: is told the number of each step that is done. changes: fields of GRPOConfig.
    """
    config, task, rows = GRPOConfig(max_steps=steps, **changes), clock_task(), []
    state = TrainState.start(*load_policy("tiny"), config)
    for row in train(state, task.train, [task.reward], config):
        rows.append(row)
        if on_step:
            on_step(row["step"])
    return rows


def plot_over_band(runs: list[list[dict]], rows: list[dict], label: str, *, axes=None) -> np.ndarray:
    """Reward, KL and length of a run (orange) over the band of recorded runs (blue). Three Axes."""
    shown = [[row for row in run if row["step"] <= rows[-1]["step"]] for run in runs]
    axes = compare_runs({f"recorded, {len(runs)} seeds": shown}, PANELS, axes=axes)
    for ax, name in zip(axes, PANELS, strict=True):
        plot_metric([rows], name, ax=ax, color=ORANGE, linestyle="--", label=label)
    lines = [line for line in axes[0].lines if line.get_label() == label]
    axes[0].legend(lines, [label], fontsize=8, frameon=False)
    return axes


def try_settings(runs: list[list[dict]]) -> widgets.Widget:
    """Choose a learning rate, beta and G, press *run 40 steps*, and see the run over the recorded band.

    Args:
        runs: the recorded ones, rows of read_metrics each.
    """
    wide = {"style": {"description_width": "7em"}}
    rate = widgets.SelectionSlider(
        options=[5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3], value=1e-3, description="learning rate", **wide
    )
    beta = widgets.SelectionSlider(options=[0.0, 0.01, 0.04, 0.2, 1.0, 5.0], value=0.04, description="beta", **wide)
    size = widgets.SelectionSlider(options=[2, 4, 8, 16], value=8, description="G", **wide)
    button, shown = widgets.Button(description="run 40 steps", icon="play"), picture(1000)
    shown.layout.display = "none"  # until there is something to show
    progress, said = widgets.IntProgress(max=40), widgets.HTML()

    def run(_) -> None:
        button.disabled, said.value = True, ""
        try:
            changes = {"learning_rate": rate.value, "beta": beta.value, "num_generations": size.value}
            rows = run_steps(on_step=lambda step: setattr(progress, "value", step), **changes)
            label = f"lr {rate.value:g}, beta {beta.value:g}, G {size.value}"
            shown.value, shown.layout.display = png(plot_over_band(runs, rows, label)[0].figure), ""
            last = [row["reward"] for row in rows[-5:]]
            said.value = f"{label}: mean reward of the last {len(last)} steps {sum(last) / len(last):.2f}."
        except (FloatingPointError, ValueError) as error:  # of a button; Jupyter would put it into a log that nobody sees
            said.value = f"The run stopped: {error}"
        finally:
            button.disabled = False

    button.on_click(run)
    return widgets.VBox([rate, beta, size, widgets.HBox([button, progress]), shown, said])
