"""An instructor's own questions, as exercises/README.md shows them, and results that are kept."""

import json
import re
from pathlib import Path

import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.grading import exam as exams
from minigrpo.grading import submission
from minigrpo.grading.check import grade
from minigrpo.grading.reports import counted
from minigrpo.grading.results import Graded, Report
from minigrpo.run import cli
from tests.grading.test_hostile import MASK, write_notebook

EXAMPLE = re.search(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "exercises/README.md").read_text(encoding="utf-8"), re.S
)[1]
RIGHT = "def perplexity(logprobs, mask):\n    n = mask.sum(1).clamp(min=1)\n    return (-(logprobs * mask).sum(1) / n).exp()\n"


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam" / "my_exam.py"
    path.parent.mkdir()
    path.write_text(EXAMPLE)
    return path


def test_the_example_of_the_readme_is_short_and_grades(exam):
    assert len(EXAMPLE.splitlines()) <= 45
    (question,) = exams.load(exam).questions
    right = grade(question, question.reference, 0)
    assert right.points == 4
    wrong = grade(question, lambda logprobs, mask: torch.exp(-logprobs.mean(1)), 0)
    assert wrong.points < 4
    assert "only those where the mask is True count" in wrong.cause


def test_somebodys_notebook_is_graded_by_it_whatever_it_is_called(exam, tmp_path):
    report = submission.grade_file(write_notebook(tmp_path, [RIGHT], "ex06_x.ipynb"), "ann", "none", 0, exam=exams.load(exam))
    assert (report.exercise, report.points, report.of) == ("my_exam", 4, 4)


def test_of_somebodys_notebooks_without_a_point_the_one_that_answers_counts(exam):
    """With an exam of one's own an exercise in the same folder is graded by it too, and answers nothing."""
    (question,) = exams.load(exam).questions
    wrong = grade(question, lambda logprobs, mask: torch.exp(logprobs.sum(1)), 0)
    reports = [
        Report("ann", "my_exam", [Graded(question, 0, "No function perplexity is defined.")], file="ex06_kl.ipynb"),
        Report("ann", "my_exam", [Graded(question, 0, wrong.cause, wrong)], file="exam.ipynb"),
    ]
    for order in (reports, reports[::-1]):
        assert [report.file for report in counted(order)] == ["exam.ipynb"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("QUESTIONS = [", "OTHERS = ["), "has no list QUESTIONS"),
        (("import torch", "import torhc"), "cannot be run: ModuleNotFoundError"),
        (("mask.sum(1).clamp", "mask.sum(9).clamp"), "the reference fails with rows of 5"),
        (("torch.exp(-torch.where", "torch.rand(3) + torch.exp(-torch.where"), "the reference "),
        (("torch.exp(-logprobs.mean(1))", "perplexity(logprobs, mask)"), "add one that shows it"),
        (("points=4", "points=0"), "at least 1 point"),
        (("return [\n", "return [] and [\n"), "and at least one"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(exam, tmp_path, capsys, change, said):
    assert change[0] in EXAMPLE
    exam.write_text(EXAMPLE.replace(*change))
    notebook = write_notebook(tmp_path, [RIGHT])
    assert cli.main(["grade", str(notebook), "--questions", str(exam)]) == 2
    assert said in capsys.readouterr().err


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(BadInput, match="There is no file"):
        exams.load(tmp_path / "nowhere.py")
    (tmp_path / "exam.txt").write_text("QUESTIONS = []")
    with pytest.raises(BadInput, match="takes a Python file"):
        exams.load(tmp_path / "exam.txt")


def test_what_did_not_change_is_not_graded_again(tmp_path, monkeypatch):
    runs = []

    def graded(asked, session, seed, all_or_nothing):
        runs.append(seed)
        first = grade(asked[0], lambda *args: args[0][:1], 0)
        return [Graded(asked[0], 0, "wrong", first), *(Graded(question, question.points, "") for question in asked[1:])]

    monkeypatch.setattr(submission, "_graded", graded)
    path = write_notebook(tmp_path, [MASK])

    def again(seed=0):
        return submission.grade_file(path, "ann", "none", seed, kept=tmp_path / "kept")

    one, two = again(), again()
    assert runs == [0]
    assert [(i.points, i.says, repr(i.result)) for i in one.graded] == [(i.points, i.says, repr(i.result)) for i in two.graded]
    again(seed=1)
    write_notebook(tmp_path, [MASK, "x = 1"])
    again()
    assert runs == [0, 1, 0]
    for kept in (tmp_path / "kept").iterdir():
        kept.write_text(json.dumps([{"id": "ex01.1"}]))
    again()
    assert runs == [0, 1, 0, 0]
    assert cli.main(["grade", str(path), "--cache", str(tmp_path / "kept")]) == 2
