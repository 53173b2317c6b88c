"""Human scores: on disk at once, gone on with, taken back; and read by --triples as they are."""

import json

import pytest

from minigrpo.config import BadInput
from minigrpo.triples import load_triples
from minigrpo.view.rating import Ratings, rate

pytestmark = pytest.mark.quick

RECORDS = [{"prompt": "1 + 1等于几?", "response": f"<b>{i}</b>"} for i in range(3)]


def scores(path):
    return [json.loads(line)["reward"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_last_line_without_its_line_break_keeps_its_score(tmp_path, end):
    path = tmp_path / "scores.jsonl"
    records = [{"prompt": f"{n}?", "response": str(n)} for n in range(3)]
    lines = [json.dumps({**record, "reward": 4.0}) for record in records[:2]]
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    ratings = Ratings(records, path)
    assert ratings.done == 2
    ratings.rate(1.0)
    assert [json.loads(line)["reward"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == [4.0, 4.0, 1.0]


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
    assert (tmp_path / "mine.jsonl.cut-off").read_bytes() == b'{"prompt": "1 +\n'


def test_undo_takes_the_last_score_back_and_nothing_else(tmp_path):
    ratings = Ratings(RECORDS, tmp_path / "mine.jsonl")
    ratings.undo()
    ratings.rate(4)
    ratings.rate(2)
    ratings.undo()
    assert ratings.current == RECORDS[1]
    ratings.rate(5)
    assert scores(tmp_path / "mine.jsonl") == [4.0, 5.0]


def test_a_line_that_was_cut_off_anywhere_is_asked_for_again(tmp_path):
    path = tmp_path / "mine.jsonl"
    first, second = ((json.dumps({**r, "reward": 3.5}, ensure_ascii=False) + "\n").encode() for r in RECORDS[:2])
    for place in range(1, len(second)):
        path.write_bytes(first + second[:place])
        again = Ratings(RECORDS, path)
        assert again.done == (2 if place == len(second) - 1 else 1)  # there only the line break is missing
        assert scores(path) == [3.5] * again.done


@pytest.mark.parametrize("text", ["My thesis, without a line break at its end", '{"a": 1}', "4", "\n", "[]\n\nx"])
def test_a_file_of_something_else_without_a_line_break_is_refused_and_left_as_it_was(tmp_path, text):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"mine\.jsonl, row 1, is no scored record"):
        Ratings(RECORDS, path)
    assert path.read_text() == text
    assert [found.name for found in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_file_that_is_opened_is_not_written_and_windows_line_breaks_stay(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"".join(json.dumps({**r, "reward": 2}).encode() + b"\r\n" for r in RECORDS[:2]))
    before = path.read_bytes()
    ratings = Ratings(RECORDS, path)
    assert (ratings.done, path.read_bytes()) == (2, before)
    ratings.rate(5)
    ratings.undo()
    assert path.read_bytes() == before


def test_a_record_that_stands_twice_is_scored_twice(tmp_path):
    twice = [RECORDS[0], RECORDS[0]]
    ratings = Ratings(twice, tmp_path / "mine.jsonl")
    ratings.rate(1)
    ratings.rate(5)
    assert scores(tmp_path / "mine.jsonl") == [1.0, 5.0]
    assert Ratings(twice, tmp_path / "mine.jsonl").current is None
    with pytest.raises(BadInput, match="All 2 records are scored"):
        ratings.rate(3)
    with pytest.raises(BadInput, match="row 2, scores another record"):
        Ratings(RECORDS, tmp_path / "mine.jsonl")
    with pytest.raises(BadInput, match="row 2, scores another record"):
        Ratings(RECORDS[:1], tmp_path / "mine.jsonl")


def test_two_that_write_to_one_file_are_noticed(tmp_path):
    one, other = Ratings(RECORDS, tmp_path / "mine.jsonl"), Ratings(RECORDS, tmp_path / "mine.jsonl")
    one.rate(4)
    with pytest.raises(BadInput, match="was changed by something else"):
        other.rate(1)
    assert scores(tmp_path / "mine.jsonl") == [4.0]


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([RECORDS[0], {"prompt": "a"}], "Record 2 is {'prompt': 'a'}; wanted is a dict with prompt and response"),
        ([{"prompt": "a", "response": None}], "Record 1 is "),
        ([{"prompt": "a", "response": "\ud83d"}], "Record 1 is .* two texts that a file can hold"),
        (["ab"], "Record 1 is 'ab'"),
        ([5], "Record 1 is 5"),
        (RECORDS[0], "records must be rows with a prompt and a response each, got one dict"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(tmp_path, records, sentence):
    with pytest.raises(BadInput, match=sentence):
        Ratings(records, tmp_path / "mine.jsonl")
    assert not list(tmp_path.iterdir())


def test_where_no_file_can_be_is_said_at_once(tmp_path):
    with pytest.raises(BadInput, match="is a folder; name a file in it"):
        Ratings(RECORDS, tmp_path)
    with pytest.raises(BadInput, match="in a folder that is not there; make it first"):
        Ratings(RECORDS, tmp_path / "nowhere" / "mine.jsonl")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    ratings = Ratings(RECORDS, tmp_path / "mine.jsonl")
    ratings.rate(4)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ratings.rate(2)
    monkeypatch.undo()
    assert (ratings.done, scores(tmp_path / "mine.jsonl")) == (1, [4.0])
    ratings.rate(3)
    assert scores(tmp_path / "mine.jsonl") == [4.0, 3.0]


@pytest.mark.parametrize("reward", ['"5"', "NaN", "true", "null", "[]"])
def test_a_line_without_a_number_is_no_score(tmp_path, reward):
    (tmp_path / "mine.jsonl").write_text(json.dumps(RECORDS[0])[:-1] + f', "reward": {reward}}}\n')
    with pytest.raises(BadInput, match=r"row 1, has .* as its reward; a finite number is wanted"):
        Ratings(RECORDS, tmp_path / "mine.jsonl")


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
    for score in (float("nan"), "good", None, True, 10**400):
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
    (tmp_path / "mine.jsonl").unlink()
    undo.click()
    assert progress.value.startswith("Not saved: ")
