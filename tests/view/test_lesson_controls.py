"""The controls of lessons 03 to 05, driven through their widgets' Python objects; and what a learner wrote, fetched for 04."""

import json
import re

import ipywidgets as widgets
import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.grading.check import grade, questions
from minigrpo.grading.own import own_functions
from minigrpo.view.controls import clinic as clinic_control
from minigrpo.view.controls import settings as settings_control
from minigrpo.view.controls.clinic import ANSWERS, GUESSES, PATIENTS, open_clinic, plot_patient, read_clinic, ten_completions
from minigrpo.view.controls.clip import plot_clip_study, read_clip_study, try_the_clip
from tests.benchmarks.record_clinic import RUNS, SEEDS
from tests.tools.build_notebooks import FOLDER


def inside(widget, kind, **traits):
    """The first widget of a kind in a box, with these traits."""
    found = [widget] if isinstance(widget, kind) else []
    for child in getattr(widget, "children", ()):
        found += [inside(child, kind, **traits)]
    found = [w for w in found if w is not None and all(getattr(w, name) == value for name, value in traits.items())]
    return found[0] if found else None


def said(widget):
    """All that its HTML says."""
    own = widget.value if isinstance(widget, widgets.HTML) else ""
    return own + "".join(map(said, getattr(widget, "children", ())))


def test_the_clip_can_be_switched_off_and_the_ratios_are_those_that_were_recorded():
    study = read_clip_study(FOLDER / "runs" / "clip" / "groups.json")
    control = try_the_clip(study)
    picture = inside(control, widgets.Image)
    with_clip, before = picture.value, said(control)
    inside(control, widgets.ToggleButtons).value = "without the clip"
    assert picture.value != with_clip
    assert said(control) != before
    inside(control, widgets.IntSlider).value = 7
    shown = [float(number) for number in re.findall(r"\d+\.\d\d", said(control))]
    assert shown == pytest.approx(study["groups"][0]["free"]["ratios"][7], abs=0.006)


def test_the_clip_keeps_ratios_where_they_do_not_run_away():
    """What the lesson says of the recorded study, whatever the picture shows."""
    study = read_clip_study(FOLDER / "runs" / "clip" / "groups.json")
    for group in study["groups"]:
        assert group["clip"]["ratios"][0] == pytest.approx([1.0] * 4)
        assert min(group["clip"]["ratios"][-1]) > 100 * min(group["free"]["ratios"][-1])
    left, right = plot_clip_study(study, group=1, updates=10)
    assert left.get_xlabel() == right.get_xlabel() == "updates on the same four answers"
    assert len(right.lines) >= len(study["groups"])


def test_a_patient_is_tested_and_guessed():
    control = open_clinic(read_clinic(FOLDER / "runs" / "clinic"))
    picture, last = inside(control, widgets.Image).value, said(control)
    inside(control, widgets.ToggleButtons).value = "F"
    assert inside(control, widgets.Image).value != picture
    assert said(control) != last
    test, guess = (inside(control, widgets.Dropdown, description=name) for name in ("order", "diagnosis"))
    test.value = "ten completions of the first rollout"
    inside(control, widgets.Button, description="see the result").click()
    assert "The first rollout" in said(control)
    sure = inside(control, widgets.Button, description="I am sure")
    for guess.value, verdict in (("nothing is wrong", "No: the learning rate"), ("the learning rate is too high", "Yes: ")):
        sure.click()
        assert verdict in said(control)


def test_every_patient_has_an_answer_that_can_be_chosen_and_three_seeds():
    clinic = read_clinic(FOLDER / "runs" / "clinic")
    assert set(ANSWERS) == set(PATIENTS.values()) <= set(RUNS)
    assert {name for name, _ in ANSWERS.values()} <= set(GUESSES)
    assert set(clinic.runs) == set(RUNS)
    assert {len(runs) for runs in clinic.runs.values()} == {len(SEEDS)}
    index = json.loads((FOLDER / "runs" / "clinic" / "index.json").read_text(encoding="utf-8"))
    assert set(index) == set(clinic.samples) == {f"{name}-{seed}" for name in RUNS for seed in SEEDS}
    assert all(len(lines.splitlines()) == 10 for lines in (ten_completions(clinic, patient) for patient in PATIENTS))
    with pytest.raises(BadInput, match="A, B, C, D, E, F"):
        plot_patient(clinic, "G")


def test_a_clinic_without_runs_says_where_to_start(tmp_path):
    with pytest.raises(BadInput, match="in the folder of the notebooks"):
        read_clinic(tmp_path)


def test_the_button_trains_with_the_settings_that_were_chosen(monkeypatch):
    asked = {}

    def run_steps(steps=40, *, on_step, **changes):
        asked.update(changes)
        on_step(3)
        if changes["beta"] == 5.0:
            raise FloatingPointError("the gradient is not finite")
        return [{"step": step, "reward": 0.5, "kl": 0.1, "completions/mean_length": 3.0} for step in (1, 2, 3)]

    monkeypatch.setattr(settings_control, "run_steps", run_steps)
    recorded = [[{"step": step, "reward": 0.2, "kl": 0.0, "completions/mean_length": 2.0} for step in (1, 2, 3, 4)]] * 2
    control = settings_control.try_settings(recorded)
    inside(control, widgets.SelectionSlider, description="G").value = 4
    button = inside(control, widgets.Button)
    button.click()
    assert asked == {"learning_rate": 1e-3, "beta": 0.04, "num_generations": 4}
    assert inside(control, widgets.Image).value
    assert "0.50" in said(control)
    inside(control, widgets.SelectionSlider, description="beta").value = 5.0
    button.click()
    assert "The run stopped" in said(control)
    assert not button.disabled


def test_two_steps_with_other_settings_are_a_run():
    rows = settings_control.run_steps(2, generation_batch_size=8, num_generations=4, max_completion_length=3)
    assert [row["step"] for row in rows] == [1, 2]


def test_what_passes_its_check_is_fetched_and_nothing_else(tmp_path):
    cells = [
        "def clipped_objective(ratio, advantages, epsilon, epsilon_high=None):\n"
        "    upper = 1 + (epsilon if epsilon_high is None else epsilon_high)\n"
        "    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages)",
        "def kl_k3(logprobs, ref_logprobs):\n    return logprobs - ref_logprobs",  # k1
        "def token_logprobs(logits, token_ids, temperature=1.0):\n    raise NotImplementedError",
        "def group_advantages(rewards, group_ids)\n    return 0",  # being written
    ]
    notebook = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    path = tmp_path / "03_loss.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    found = own_functions(path, tmp_path / "absent.ipynb")
    assert list(found) == ["clipped_objective"]
    assert found["clipped_objective"](torch.tensor(1.5), torch.tensor(1.0), 0.2) == pytest.approx(1.2)


SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", ["03_loss", "04_training", "05_failures"])
def test_the_folded_solution_of_a_lesson_passes_its_check(name, tmp_path):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    (solution,) = SOLUTION.findall(text)
    cells = [{"cell_type": "code", "source": solution}]
    (tmp_path / "answered.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (function,) = own_functions(tmp_path / "answered.ipynb").values()
    assert f"check({function.__name__})" in json.dumps(notebook)


@pytest.mark.parametrize("name", ["lesson04", "lesson05"])
def test_each_mistake_in_a_lesson_is_named_and_the_reference_passes(name):
    (question,) = questions(name)
    assert grade(question, question.reference, seed=1).about is None
    assert [grade(question, m.function, seed=1).cause for m in question.mistakes] == [m.says for m in question.mistakes]


def test_the_clinic_shows_no_true_accuracy_unasked():
    assert "accuracy" not in clinic_control.PANELS
