"""Human scores: on disk at once, gone on with, taken back; and read by --triples as they are."""

import json

import pytest

from minigrpo.config import BadInput
from minigrpo.triples import load_triples
from minigrpo.view.rating import Ratings, rate

pytestmark = pytest.mark.quick

RECORDS = [{"prompt": "1 + 1等于几?", "response": f"<b>{i}</b>"} for i in range(3)]


def scores(path):
    return [json.loads(line)["reward"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_last_line_without_its_line_break_keeps_its_score(tmp_path, end):
    path = tmp_path / "scores.jsonl"
    records = [{"prompt": f"{n}?", "response": str(n)} for n in range(3)]
    lines = [json.dumps({**record, "reward": 4.0}) for record in records[:2]]
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    ratings = Ratings(records, path)
    assert ratings.done == 2
    ratings.rate(1.0)
    assert [json.loads(line)["reward"] for line in path.read_text(encoding="utf-8").splitlines()] == [4.0, 4.0, 1.0]


def test_each_score_is_in_the_file_before_the_next_is_asked_for(tmp_path):
    ratings = Ratings(RECORDS, tmp_path / "mine.jsonl")
    for done, score in enumerate((5, 1, 3), 1):
        assert ratings.current == RECORDS[done - 1]
        ratings.rate(score)
        assert len(scores(tmp_path / "mine.jsonl")) == done
    assert ratings.current is None
    assert load_triples(tmp_path / "mine.jsonl")["reward"] == [5.0, 1.0, 3.0]


def test_opening_the_file_again_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "mine.jsonl"
    Ratings(RECORDS, path).rate(4)
    again = Ratings(RECORDS, path)
    assert (again.done, again.current) == (1, RECORDS[1])
    again.rate(2)
    assert scores(path) == [4.0, 2.0]


def test_a_line_that_was_cut_off_is_asked_for_again(tmp_path):
    path = tmp_path / "mine.jsonl"
    Ratings(RECORDS, path).rate(4)
    with path.open("ab") as file:
        file.write(b'{"prompt": "1 +')
    again = Ratings(RECORDS, path)
    again.rate(2)
    assert scores(path) == [4.0, 2.0]


def test_undo_takes_the_last_score_back_and_nothing_else(tmp_path):
    ratings = Ratings(RECORDS, tmp_path / "mine.jsonl")
    ratings.undo()
    ratings.rate(4)
    ratings.rate(2)
    ratings.undo()
    assert ratings.current == RECORDS[1]
    ratings.rate(5)
    assert scores(tmp_path / "mine.jsonl") == [4.0, 5.0]


@pytest.mark.parametrize("line", ['{"prompt": "other", "response": "x", "reward": 1}', '{"a": 1}', "[1]", "rubbish", "\udcff"])
def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"mine\.jsonl, row 1"):
        Ratings(RECORDS, path)
    assert path.read_bytes() == before


def test_a_score_that_is_no_number_is_refused(tmp_path):
    ratings = Ratings(RECORDS, tmp_path / "mine.jsonl")
    for score in (float("nan"), "good", None):
        with pytest.raises(BadInput, match="a finite number"):
            ratings.rate(score)
    assert ratings.done == 0


def widgets(box):
    progress, shown, row = box.children
    *buttons, undo, keys = row.children
    return progress, shown, buttons, undo, keys


def test_the_widget_shows_a_record_and_takes_buttons_and_keys(tmp_path):
    progress, shown, buttons, undo, keys = widgets(rate(RECORDS, tmp_path / "mine.jsonl"))
    assert "&lt;b&gt;0&lt;/b&gt;" in shown.value  # a response is text, and never runs as HTML
    assert undo.disabled
    buttons[4].click()
    keys.value = "2"
    keys.value = "9"  # no score
    assert scores(tmp_path / "mine.jsonl") == [5.0, 2.0]
    assert keys.value == ""
    undo.click()
    keys.value = "u"
    assert scores(tmp_path / "mine.jsonl") == []
    for _ in RECORDS:
        buttons[0].click()
    assert progress.value.startswith("3 of 3 scored")
    assert "All scored" in shown.value
    assert all(button.disabled for button in buttons)
    keys.value = "3"
    assert scores(tmp_path / "mine.jsonl") == [1.0, 1.0, 1.0]
