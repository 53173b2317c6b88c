"""You are the reward: eight answers of the bundled model, two buttons each, and what a step makes of the first token."""

import html
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch

from minigrpo.config import BadInput
from minigrpo.policy import load_policy
from minigrpo.sampling import sample_completions, seeded
from minigrpo.view.controls.one_step import WORKED_ANSWER, WORKED_PROBLEM, first_token, one_step
from minigrpo.view.controls.picture import picture, png
from minigrpo.view.group import Group, draw_first_token
from minigrpo.view.plots import COLORS, GREY, STYLES

GREEN, AMBER = COLORS[2], COLORS[4]  # of the right digit, and of thinking
NUM_GENERATIONS, SEED = 8, 20  # of this seed's first eight answers one thinks
LEARNING_RATE = 5e-4  # 2.5 times that of a run, so that a few clicks show


class Game:
    """A policy that you reward by hand: eight answers to one problem at a time.

    Attributes:
        completions: the eight answers that wait for their rewards.
        start: the probability of each first token before any step. groups: what each step did, see view.group.Group.
    """

    def __init__(self, seed: int = SEED):
        self.seed, self.groups = seed, []
        self.model, self.tokenizer = load_policy("tiny")
        self._ask()
        self.start = first_token(self.tokenizer, self._logits())

    @property
    def completions(self) -> list[str]:
        return self._rollout.completions

    @property
    def now(self) -> dict[str, float]:
        """The probability of each first token after the latest step."""
        return self.groups[-1].after if self.groups else self.start

    def step(self, rewards: list[float]) -> Group:
        """One update on the eight answers, then eight new ones. BadInput for another number of rewards."""
        if len(rewards) != NUM_GENERATIONS:
            raise BadInput(f"rewards must be {NUM_GENERATIONS} numbers, one per answer, got {len(rewards)}.")
        given = self.model, self.tokenizer, self._rollout, torch.tensor(rewards, dtype=torch.float32)
        group, self.model = one_step(*given, learning_rate=LEARNING_RATE)
        self.groups.append(group)
        self._ask()
        return group

    def _ask(self) -> None:
        lengths = {"num_generations": NUM_GENERATIONS, "max_completion_length": 16}
        generator = seeded(self.seed, len(self.groups))
        self._rollout = sample_completions(self.model, self.tokenizer, [WORKED_PROBLEM], **lengths, generator=generator)

    def _logits(self) -> torch.Tensor:
        inputs = self.tokenizer([WORKED_PROBLEM], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            return self.model(**inputs).logits[:, -1:]


def play(reward: Callable[[str], float], steps: int = 12, *, seed: int = SEED) -> Game:
    """The game with a rule in your place: ``reward(completion)`` is what each answer gets."""
    game = Game(seed)
    for _ in range(steps):
        game.step([float(reward(completion)) for completion in game.completions])
    return game


def plot_game(game: Game, *, axes=None) -> np.ndarray:
    """The first token at the start and now, and the probability of each over the steps. Returns two Axes."""
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(9, 2.7), layout="constrained", width_ratios=(1, 1.2))
    draw_first_token(axes[0], game.start, game.now, title="first token, at the start → now")
    over_time = [game.start, *(group.after for group in game.groups)]
    for name, style in zip("0248", STYLES, strict=True):
        axes[1].plot([chances[name] for chances in over_time], style, color=GREY, linewidth=1.2, label=name)
    for name, color in ((WORKED_ANSWER, GREEN), ("<", AMBER)):
        axes[1].plot([chances[name] for chances in over_time], ".-", color=color, linewidth=2.4, label=name)
    axes[1].set(ylim=(0, 1), xlabel="steps", ylabel="probability", xlim=(0, max(5, len(over_time) - 1)))
    axes[1].set_title("probability of each first token", fontsize=8.5, loc="left")
    axes[1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), prop={"family": "monospace"})
    axes[1].spines[["top", "right"]].set_visible(False)
    axes[1].grid(color=GREY, alpha=0.2)
    return np.asarray(axes)


def be_the_reward(seed: int = SEED) -> widgets.Widget:
    """Eight answers with the buttons *wrong* and *right*; *step* makes one update and asks for eight new ones."""
    game = Game(seed)
    buttons = [widgets.ToggleButtons(options=[("wrong", 0.0), ("right", 1.0)]) for _ in range(NUM_GENERATIONS)]
    for choice in buttons:
        choice.style.button_width = "4.5em"
    answers = [widgets.HTML(layout=widgets.Layout(width="12em")) for _ in buttons]
    shown, said = picture(), widgets.HTML()
    step = widgets.Button(description="step", button_style="primary", icon="play")
    again = widgets.Button(description="start again", icon="undo")

    def refresh(text: str) -> None:
        for answer, completion, choice in zip(answers, game.completions, buttons, strict=True):
            answer.value = f"<code style='font-size:115%'>{html.escape(completion)}</code>"
            choice.value = 0.0
        shown.value, said.value = png(plot_game(game)[0].figure), text

    def take_step(_) -> None:
        rewards = [choice.value for choice in buttons]
        game.step(rewards)
        moved = f"step {len(game.groups)}: {sum(rewards):.0f} of {len(rewards)} were right for you."
        silent = (
            " All had the same reward, so there was nothing to compare, and nothing moved." if len(set(rewards)) == 1 else ""
        )
        refresh(moved + silent)

    def start_again(_) -> None:
        game.__init__(seed)
        refresh(opening)

    opening = (
        f"<code>{WORKED_PROBLEM}</code> &nbsp; The right answer is {WORKED_ANSWER}. Reward what you like, then <i>step</i>."
    )
    step.on_click(take_step)
    again.on_click(start_again)
    refresh(opening)
    rows = [widgets.HBox([answer, choice]) for answer, choice in zip(answers, buttons, strict=True)]
    return widgets.VBox([said, *rows, widgets.HBox([step, again]), shown])
