"""What a learner has solved, kept beside the notebook."""

import json

import minigrpo
from minigrpo import check, progress
from minigrpo.grading import check as checking
from minigrpo.grading.check import questions
from minigrpo.grading.progress import FILE, OUTSIDE, read, record


def kl_k1_plus(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).detach() * (1 + logprobs - logprobs.detach())


def test_a_check_in_a_notebook_fills_a_square_and_elsewhere_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(kl_k1_plus)
    assert not (tmp_path / FILE).exists()
    before = progress()
    assert before.points == 0
    assert {square.state for square in before.squares} == {"open"}
    assert repr(before) == OUTSIDE
    assert OUTSIDE in before._repr_html_()
    monkeypatch.setattr(checking, "in_notebook", lambda: True)
    assert f"0 of {sum(q.points for q in questions())} points" in repr(progress())
    check(kl_k1_plus)
    asked = next(q for q in questions() if q.name == "kl_k1_plus")
    assert progress().points == asked.points
    assert [square.id for square in progress().squares if square.state == "full"] == [asked.id]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_squares_say_full_part_none_and_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = questions("ex06")[:3]
    for question, points in zip(asked, (question.points for question in asked), strict=True):
        record(question.id, points, tmp_path)
    record(asked[1].id, 0, tmp_path)
    record(asked[2].id, asked[2].points / 2, tmp_path)
    states = {square.id: square.state for square in minigrpo.progress().squares}
    assert [states[question.id] for question in asked] == ["full", "none", "part"]
    assert f"{asked[0].points + asked[2].points / 2:g} of {sum(q.points for q in questions())} points" in repr(progress())
    assert progress()._repr_html_().count("<span") == len(questions())


def test_a_file_that_is_something_else_is_an_empty_one(tmp_path):
    for text in ("", "[1]", "{", '{"ex06.1": "<b>"}', "\x00"):
        (tmp_path / FILE).write_text(text)
        assert read(tmp_path) == {}
    record("ex06.1", 1, tmp_path / "nowhere")  # no folder, no error
    record("ex06.1", 1, tmp_path)
    assert json.loads((tmp_path / FILE).read_text()) == {"ex06.1": 1}
