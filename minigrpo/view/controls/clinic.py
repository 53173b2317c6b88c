"""The clinic: six runs by their curves and ten completions, without a name; tests to order, and a diagnosis to guess."""

import html
import json
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np

from minigrpo.config import BadInput
from minigrpo.view.controls.picture import picture, png, side_by_side
from minigrpo.view.plots import compare_runs

PANELS = ("reward", "kl", "completions/mean_length", "frac_reward_zero_std")
TITLES = dict(zip(PANELS, ("reward", "KL (nats per token)", "length (tokens)", "groups that agree"), strict=True))
PATIENTS = {"A": "leaky", "B": "unpaid", "C": "healthy", "D": "high-rate", "E": "cut-off", "F": "collapse"}
LEAK, UNPAID, FINE = "the reward has a leak", "right answers are not paid", "nothing is wrong"
RATE, CUT = "the learning rate is too high", "the good answers are cut off"
GUESSES = (FINE, RATE, "beta is too high", UNPAID, CUT, LEAK, "the problems are too hard")
ANSWERS = {
    "leaky": (LEAK, "The curve that is paid for is perfect, and no answer is right."),
    "unpaid": (UNPAID, "Some of the ten answers are right, and all rewards are 0: the parser looks for another form."),
    "healthy": (FINE, "Low entropy and groups that agree, with a high reward: that is success."),
    "high-rate": (RATE, "A quick rise, then the KL climbs while the reward falls, and it does not come back."),
    "cut-off": (CUT, "A few answers in a hundred reached the limit at first. They were the thoughts."),
    "collapse": (RATE, "The policy was thrown far away in a few steps, and gives the same answer again and again."),
}
TESTS = {
    "the share of right answers": "accuracy",
    "the share that thinks first": "thinking",
    "the share that was cut off": "completions/clipped_ratio",
    "the entropy": "entropy",
    "the gradient norm": "grad_norm",
    "ten completions of the first rollout": None,
}


class Clinic(NamedTuple):
    """Recorded runs of notebook 05."""

    runs: dict[str, list[list[dict]]]  # name -> three seeds, each a list of rows
    samples: dict[str, dict[str, list[dict]]]  # name-seed -> step -> ten rows of prompt, completion, reward, answer


def read_clinic(folder: str | Path = "runs/clinic") -> Clinic:
    """What tests/benchmarks/record_clinic.py has recorded. BadInput if nothing is there."""
    folder, runs = Path(folder), {}
    for path in sorted(folder.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        runs.setdefault(path.stem.rsplit("-", 1)[0], []).append(rows)
    if not runs:
        raise BadInput(f"The folder {str(folder)!r} holds no recorded runs; start Jupyter in the folder of the notebooks.")
    return Clinic(runs, json.loads((folder / "samples.json").read_text(encoding="utf-8")))


def plot_patient(clinic: Clinic, patient: str, panels=PANELS, *, axes=None) -> np.ndarray:
    """The curves of patient A to F, three seeds, beside three healthy runs."""
    groups = {"healthy": clinic.runs["healthy"], f"patient {patient}": clinic.runs[_name(patient)]}
    if axes is None:
        width = max(2.6 * len(panels), 4)  # inches
        _, axes = plt.subplots(1, len(panels), figsize=(width, 2.6), layout="constrained", squeeze=False)
    axes = compare_runs(groups, panels, axes=axes)
    for ax, name in zip(axes, panels, strict=True):
        ax.set_title(TITLES.get(name, ax.get_title(loc="left")), fontsize=10, loc="left")
        ax.set_xlabel("step")
    return axes


def ten_completions(clinic: Clinic, patient: str, *, first: bool = False) -> str:
    """Ten lines of a patient's last rollout, or of its first: reward, prompt and completion."""
    by_step = clinic.samples[f"{_name(patient)}-0"]
    step = min(by_step, key=int) if first else max(by_step, key=int)
    return "\n".join(f"{one['reward']:.0f}   {one['prompt']} {one['completion']}" for one in by_step[step])


def _name(patient: str) -> str:
    if patient not in PATIENTS:
        raise BadInput(f"The patients are called {', '.join(PATIENTS)}; got {patient!r}.")
    return PATIENTS[patient]


def open_clinic(clinic: Clinic) -> widgets.Widget:
    """Choose a patient, order tests, guess what is wrong, and be told."""
    patient = widgets.ToggleButtons(options=list(PATIENTS))
    patient.style.button_width = "3em"
    test = widgets.Dropdown(options=list(TESTS), description="order", layout=widgets.Layout(width="24em"))
    order = widgets.Button(description="see the result")
    guess = widgets.Dropdown(options=GUESSES, description="diagnosis", layout=widgets.Layout(width="24em"))
    decide = widgets.Button(description="I am sure", button_style="primary")
    curves, result = picture(1000), picture(400)
    texts, said = widgets.HTML(), widgets.HTML()

    def admit(_=None) -> None:
        curves.value = png(plot_patient(clinic, patient.value)[0].figure)
        texts.value, said.value = _block("The last rollout", ten_completions(clinic, patient.value)), ""
        result.layout.display = "none"

    def examine(_) -> None:
        metric = TESTS[test.value]
        if metric is None:
            texts.value = _block("The first rollout", ten_completions(clinic, patient.value, first=True))
        else:
            result.value = png(plot_patient(clinic, patient.value, [metric])[0].figure)
            result.layout.display = ""

    def answer(_) -> None:
        name, means = ANSWERS[_name(patient.value)]
        said.value = f"<b>{'Yes' if guess.value == name else 'No'}: {name}.</b> {means}"

    patient.observe(admit, names="value")
    order.on_click(examine)
    decide.on_click(answer)
    admit()
    return widgets.VBox([patient, curves, texts, side_by_side(test, order), result, side_by_side(guess, decide), said])


def _block(title: str, text: str) -> str:
    return f"{title} (reward, prompt, completion):<pre style='line-height:1.3'>{html.escape(text)}</pre>"
