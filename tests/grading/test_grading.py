"""Feedback in the notebook, and grading from outside: files, reports, exit codes, and what keeps strangers' code in."""

import csv
import io
import json
import os
import re
import shutil
import threading
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from minigrpo import BadInput, check, hint
from minigrpo.grading import batch, sandbox, submission
from minigrpo.grading import check as checking
from minigrpo.grading.check import every_question, grade, lessons, questions
from minigrpo.grading.compare import difference
from minigrpo.grading.worker import Outcome, decode, encode, flatten, run
from minigrpo.run import cli
from tests.tools.build_notebooks import EXERCISES, SOLUTIONS

WALLED = shutil.which("bwrap") is not None
needs_walls = pytest.mark.skipif(not WALLED and not os.environ.get("REQUIRE_SANDBOX"), reason="no bubblewrap on this machine")


def question(name):
    return next(q for q in every_question() if q.name == name)


# --- feedback in the notebook -----------------------------------------------------------------------------------------


def test_a_right_answer_in_another_style_gets_all_points():
    def token_logprobs(logits, token_ids, temperature=1.0):
        one_hot = torch.nn.functional.one_hot(token_ids, logits.shape[-1]).to(logits.dtype)
        scaled = logits / temperature
        return torch.einsum("bcv,bcv->bc", scaled - scaled.logsumexp(-1, keepdim=True), one_hot)

    assert repr(check(token_logprobs)) == "01.1 token_logprobs: all 5 cases pass."


def test_feedback_names_the_case_the_first_difference_and_the_cause():
    def kl_k3(logprobs, ref_logprobs):
        return torch.exp(logprobs - ref_logprobs) - 1 - (logprobs - ref_logprobs)  # upside down

    result = check(kl_k3)
    assert result.points == 0
    text = repr(result)
    assert f"06.1 kl_k3: {result.passed} of {result.cases} cases pass" in text
    assert "points" not in text
    assert result.passed < result.cases
    for part in ("the case:", "what differs:", "wanted is", "the likely cause:", 'hint("06.1")'):
        assert part in text
    assert "<script" not in result._repr_html_()
    assert "likely cause" in result._repr_html_()


def test_a_function_that_changes_its_arguments_is_told_so():
    def kl_k1_plus(logprobs, ref_logprobs):
        logprobs -= ref_logprobs
        return logprobs

    with torch.no_grad():
        result = grade(question("kl_k1_plus"), kl_k1_plus, 0)
    assert result.points == 0
    assert "changed its argument 'logprobs'" in result.difference or "in-place" in result.difference


def test_shapes_errors_and_nothing_returned_are_said_before_any_traceback():
    for wrong, said in (
        (lambda logprobs, ref_logprobs: torch.stack([logprobs, logprobs]), "shape"),
        (lambda logprobs, ref_logprobs: logprobs.nonsense(), "AttributeError"),
        (lambda logprobs, ref_logprobs: None, "is a return missing?"),
        (lambda logprobs, ref_logprobs: "0.5", "returned str"),
        (lambda logprobs, ref_logprobs: (logprobs - ref_logprobs).detach(), "no gradient flows"),
    ):
        assert said in grade(question("kl_k1_plus"), wrong, 0).difference


def test_true_and_false_are_called_so():
    """In the difference and in the call by hand."""
    mask = next(q for q in questions("ex01") if q.name == "completion_mask")
    result = grade(mask, lambda *args: ~mask.reference(*args), 0)
    assert re.search(r"is (True|False) at \S+( \d+\))?, wanted is (True|False)", result.difference), result.difference


def test_what_is_not_answered_is_no_error_and_unknown_names_are():
    def kl_k1_plus(logprobs, ref_logprobs):
        raise NotImplementedError

    assert "not answered yet" in repr(check(kl_k1_plus))
    with pytest.raises(BadInput, match="No question asks for a function 'print'"):
        check(print)

    def kl_K1_plus(logprobs, ref_logprobs):
        return logprobs

    with pytest.raises(BadInput, match=r"did you mean kl_k1_plus\?$"):
        check(kl_K1_plus)
    with pytest.raises(BadInput, match=r"There is no question 'ex9\.9'"):
        hint("ex9.9")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ex1.1", "'ex01.1'"), ("EX06.02", "'ex06.2'"), ("ex06-2", "'ex06.2'"), ("6.1", "'06.1'"), ("1.2", "'ex01.2'"),
        ("kl_k1_plus", "'ex06.1'"), ("ex06", None), ("", None), (6.1, "'06.1'"), (None, None),
    ],
)  # fmt: skip
def test_a_question_that_is_not_there_is_said_in_one_sentence(given, meant):
    with pytest.raises(BadInput) as error:
        hint(given)
    said = str(error.value)
    assert said.endswith(f"did you mean {meant}?" if meant else "a lesson's as in '06.1'.")
    assert len(said) < 120


def test_a_lesson_asks_without_points_and_the_grader_does_not_count_it():
    asked = [q for name in lessons() for q in questions(name)]
    assert {q.id for q in asked} >= {"01.1", "02.1", "03.1", "06.1"}
    assert not any(q.points for q in asked)
    assert all(q.points for q in questions())
    names = [q.name for q in every_question()]
    assert len(set(names)) == len(names), "check finds a question by its function's name"

    def kl_k3(logprobs, ref_logprobs):
        raise NotImplementedError

    assert repr(check(kl_k3)) == '06.1 kl_k3: not answered yet. hint("06.1")'


def test_hints_say_more_each_time(monkeypatch):
    monkeypatch.setattr(checking, "_shown", {})
    hints = question("kl_k3").hints
    seen = [str(hint("06.1")) for _ in range(len(hints) + 1)]
    assert [text.split(": ", 1)[1] for text in seen] == [*hints, hints[-1]]


def test_objects_that_equal_everything_are_no_tensors():
    class Yes(torch.Tensor):
        __eq__ = __le__ = lambda self, other: True

    with pytest.raises(TypeError, match="returned Yes"):
        flatten(torch.zeros(2).as_subclass(Yes))
    assert difference(Outcome([torch.zeros(2)]), Outcome([torch.full((2,), torch.nan)])) is not None
    assert difference(Outcome([torch.zeros(2)], [torch.ones(2)]), Outcome([torch.zeros(2)], None)) is not None


def test_what_crosses_the_pipe_comes_back_as_it_was():
    for value in (torch.randn(2, 3, dtype=torch.float64), torch.tensor(True), torch.zeros(0, 3), 1.5, None, "a", [1, None]):
        back = decode(json.loads(json.dumps(encode(value))))
        assert torch.equal(back, value) if isinstance(value, torch.Tensor) else back == value
    for bad in ({"dtype": "float64", "shape": [1], "data": ["1"]}, {"dtype": "object", "shape": [], "data": [1]}):
        with pytest.raises((ValueError, KeyError)):
            decode(bad)


def test_a_gradient_is_that_of_the_function_and_not_of_its_value():
    args = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    one = run(lambda x: x**2, args, ("x",))
    other = run(lambda x: (x**2).detach() + 0 * x, args, ("x",))
    assert torch.equal(one.values[0], other.values[0])
    assert not torch.equal(one.gradients[0], other.gradients[0])


# --- from outside -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    """ann has everything right in ex06, bob nothing written, eve hands in rubbish."""
    folder = tmp_path_factory.mktemp("submissions")
    for person, source in (("ann", SOLUTIONS), ("bob", EXERCISES)):
        (folder / person).mkdir()
        shutil.copy(source / "ex06_kl.ipynb", folder / person)
    (folder / "eve").mkdir()
    (folder / "eve" / "ex06_kl.ipynb").write_text("rubbish")
    return folder


GRADED, LOCK = {}, threading.Lock()


@pytest.fixture
def once(monkeypatch):
    """Grade a notebook in a sandbox, and take the same report for whoever hands the same in, in whatever format it is asked."""

    def grade_file(path, person, *given, **options):
        with LOCK:
            text = path.read_bytes()
            if text not in GRADED:
                GRADED[text] = submission.grade_file(path, person, *given, **options)
        return replace(GRADED[text], person=person, file=str(path))

    monkeypatch.setattr(batch, "grade_file", grade_file)


@needs_walls
def test_a_folder_gives_a_row_a_person_whatever_was_handed_in(once, submissions, tmp_path):
    out = tmp_path / "grades.csv"
    assert cli.main(["grade", str(submissions), "--format", "csv", "--output", str(out), "--seed", "7"]) == 3
    rows = {row["person"]: row for row in csv.DictReader(io.StringIO(out.read_text(encoding="utf-8")))}
    assert set(rows) == {"ann", "bob", "eve"}
    assert (rows["ann"]["ex06"], rows["bob"]["ex06"], rows["eve"]["ex06"]) == ("11", "0", "0")
    assert "is not JSON" in rows["eve"]["problems"]
    assert rows["ann"]["isolation"] == "bubblewrap"


@needs_walls
def test_every_format_holds_the_same_points(once, submissions, capsys):
    ann = str(submissions / "ann" / "ex06_kl.ipynb")
    texts = {}
    for form in ("table", "json", "junit", "gradescope"):
        assert cli.main(["grade", ann, "--format", form]) == 0
        texts[form] = capsys.readouterr().out
    assert texts["table"].startswith("isolated by: bubblewrap")
    assert "11 of 11 points" in texts["table"]
    assert json.loads(texts["json"])["submissions"][0]["points"] == 11
    assert len(ElementTree.fromstring(texts["junit"]).findall(".//testcase")) == len(questions("ex06"))
    scope = json.loads(texts["gradescope"])
    assert sum(test["score"] for test in scope["tests"]) == scope["score"] == 11
    assert all({"name", "score", "max_score", "output", "status"} <= set(test) for test in scope["tests"])


@needs_walls
def test_the_exit_code_is_that_of_the_bar(once, submissions, capsys):
    bob = str(submissions / "bob" / "ex06_kl.ipynb")
    assert cli.main(["grade", bob]) == 0
    assert cli.main(["grade", bob, "--min-score", "1"]) == 1
    assert cli.main(["grade", str(submissions / "ann"), "--min-score", "11"]) == 0
    assert cli.main(["grade", "nowhere"]) == 2
    assert "There is no 'nowhere' to grade" in capsys.readouterr().err


@needs_walls
def test_a_wrong_answer_is_told_its_cause_from_outside_too(tmp_path, capsys):
    notebook = json.loads((SOLUTIONS / "ex06_kl.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "def kl_k1_plus" in "".join(cell["source"]):
            cell["source"] = "def kl_k1_plus(logprobs, ref_logprobs):\n    return logprobs - ref_logprobs"
    (tmp_path / "ex06_mine.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    assert cli.main(["grade", str(tmp_path / "ex06_mine.ipynb")]) == 0
    said = capsys.readouterr().out
    assert "10 of 11 points" in said
    assert "The likely cause:" in said


def test_without_walls_strangers_work_is_refused_unless_it_is_trusted(monkeypatch, capsys):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    monkeypatch.setattr(sandbox.os, "geteuid", lambda: 1000)
    path = str(EXERCISES / "ex06_kl.ipynb")
    assert cli.main(["grade", path]) == 2
    assert "--trust" in capsys.readouterr().err
    assert cli.main(["grade", path, "--trust"]) == 0
    assert capsys.readouterr().out.startswith("isolated by: none")


def test_a_sandbox_that_does_not_start_is_nobodys_zero(monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "isolation", lambda trust: "none")
    monkeypatch.setattr("minigrpo.grading.batch.isolation", lambda trust: "none")
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    assert cli.main(["grade", str(EXERCISES / "ex06_kl.ipynb")]) == 2
    assert "not the submission's fault" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("REQUIRE_SANDBOX"), reason="set where the sandbox must be there")
def test_the_sandbox_is_there():
    assert sandbox.isolation(False) == "bubblewrap"


@needs_walls
def test_handing_in_twice_earns_nothing(once, tmp_path, capsys):
    """The same right notebook twice in one person's folder; and two people's files of one name, named one by one."""
    for place in ("ann/ex06_kl.ipynb", "ann/ex06_again.ipynb", "bob/ex06_kl.ipynb"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(SOLUTIONS / "ex06_kl.ipynb", tmp_path / place)
    whole = str(sum(q.points for q in questions("ex06")))
    named = [str(tmp_path / person / "ex06_kl.ipynb") for person in ("ann", "bob")]
    assert cli.main(["grade", *named, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["points"] for row in rows] == [whole] * 2
    assert cli.main(["grade", str(tmp_path), "--format", "csv"]) == 0
    rows = {row["person"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert {person: (row["points"], row["of"]) for person, row in rows.items()} == dict.fromkeys(("ann", "bob"), (whole, whole))
    assert cli.main(["grade", str(tmp_path / "ann"), "--format", "gradescope"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == int(whole)
