"""Human scores: one prompt and response at a time, in JupyterLab, each score on disk before the next is shown."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import ipywidgets as widgets

from minigrpo.config import BadInput

SCORES = (1.0, 2.0, 3.0, 4.0, 5.0)


class Ratings:
    """The scores given so far, in a file that ``--triples`` reads as it is; closing and opening it goes on where it stopped.

    Nothing in the file is ever lost: a score is appended, and only ``undo`` takes away, one line. A last line that a crash
    cut off goes to FILE.cut-off, and its record is asked for again.

    Args:
        records: rows with "prompt" and "response".
        path: a .jsonl file, made if it is not there.
    Raises:
        BadInput: for a row without the two texts; and if the file holds anything but scores of these records, in their order,
            or cannot be written.
    """

    def __init__(self, records: Iterable[dict], path: str | Path):
        if isinstance(records, dict | str):
            raise BadInput(f"records must be rows with a prompt and a response each, got one {type(records).__name__}.")
        self.records = [_checked(record, number) for number, record in enumerate(records, 1)]
        self.path = Path(path)
        if self.path.is_dir() or not self.path.parent.is_dir():
            what = "is a folder; name a file in it" if self.path.is_dir() else "is in a folder that is not there; make it first"
            raise BadInput(f"{str(self.path)!r} {what}.")
        try:
            self._open()
        except OSError as error:
            raise BadInput(f"{str(self.path)!r} cannot be read and written: {error.strerror}.") from error

    def _open(self) -> None:
        """Find where each score ends in the file; put an end to a last line that has none."""
        data = self.path.read_bytes() if self.path.exists() else b""
        *lines, last = data.split(b"\n")
        self._ends = []  # byte offsets
        for row, line in enumerate(lines, 1):
            self._check(line, row)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(line) + 1)
        with self.path.open("ab") as file:
            if last and not self._cut_off(last):
                self._check(last, len(lines) + 1)
                self._ends.append(file.write(b"\n") + len(data))
        if last and len(self._ends) == len(lines):
            with self.path.with_name(self.path.name + ".cut-off").open("ab") as file:
                file.write(last + b"\n")
            os.truncate(self.path, self._end)

    def _check(self, line: bytes, row: int) -> None:
        try:
            rated = json.loads(line)
            record = {"prompt": rated["prompt"], "response": rated["response"]}
            reward = rated["reward"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"{self.path}, row {row}, is no scored record; name another file.") from error
        if row > len(self.records) or record != self.records[row - 1]:
            raise BadInput(f"{self.path}, row {row}, scores another record than the one given; name another file.")
        if not _is_score(reward):
            raise BadInput(f"{self.path}, row {row}, has {reward!r:.60} as its reward; a finite number is wanted.")

    def _cut_off(self, line: bytes) -> bool:
        """Whether it is the beginning of the line that scores the next record."""
        if self.current is None:
            return False
        start = json.dumps(self.current, ensure_ascii=False)[:-1].encode()
        return start.startswith(line) or (line.startswith(start) and not line.rstrip().endswith(b"}"))

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def done(self) -> int:
        """How many records have a score."""
        return len(self._ends)

    @property
    def current(self) -> dict | None:
        """The record to be scored next; None when all are."""
        return self.records[self.done] if self.done < len(self.records) else None

    def rate(self, score: float) -> None:
        """Append the score of the current record and wait until the disk has it.

        Raises:
            BadInput: if it is not a number, all records have their score, or something else has written to the file.
            OSError: if the disk does not take it; the file is then as it was.
        """
        if not _is_score(score):
            raise BadInput(f"A score must be a finite number, got {score!r}.")
        if self.current is None:
            raise BadInput(f"All {self.done} records are scored.")
        self._check_unchanged()
        line = (json.dumps({**self.current, "reward": float(score)}, ensure_ascii=False) + "\n").encode()
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, self._end)
            raise
        self._ends.append(self._end + len(line))

    def undo(self) -> None:
        """Take the last score back. BadInput if something else has written to the file."""
        if self.done:
            self._check_unchanged()
            self._ends.pop()
            os.truncate(self.path, self._end)

    def _check_unchanged(self) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._end:
            raise BadInput(f"{self.path} was changed by something else since it was opened; open it again.")


def _is_score(score) -> bool:
    try:
        return isinstance(score, float | int) and not isinstance(score, bool) and math.isfinite(score)
    except OverflowError:  # an integer that no float holds
        return False


def _checked(record: dict, number: int) -> dict:
    try:
        texts = {name: record[name] for name in ("prompt", "response")}
        "".join(texts.values()).encode()
    except (KeyError, TypeError, UnicodeEncodeError) as error:
        raise BadInput(
            f"Record {number} is {record!r:.60}; wanted is a dict with prompt and response, two texts that a file can hold."
        ) from error
    return texts


def rate(records: Iterable[dict], path: str | Path) -> widgets.Widget:
    """Show the records one by one with a button for each score; typing 1 to 5 into the field, or u to undo, does the same.

    Args:
        records: rows with "prompt" and "response", such as a rollout's. path: where the scores go, see Ratings.
    """
    ratings = Ratings(records, path)
    shown, progress = widgets.HTML(), widgets.Label()
    keys = widgets.Text(placeholder="1 to 5, or u", continuous_update=True, layout=widgets.Layout(width="8em"))
    buttons = [widgets.Button(description=f"{score:g}", layout=widgets.Layout(width="4em")) for score in SCORES]
    undo = widgets.Button(description="undo", icon="undo", layout=widgets.Layout(width="6em"))

    def refresh() -> None:
        record = ratings.current
        progress.value = f"{ratings.done} of {len(ratings.records)} scored, in {ratings.path.name}"
        for button in buttons:
            button.disabled = record is None
        undo.disabled = ratings.done == 0
        shown.value = "<p>All scored.</p>" if record is None else _html(record)

    def act(key: str) -> None:
        try:
            if key == "u":
                ratings.undo()
            elif ratings.current is not None and key in {f"{score:g}" for score in SCORES}:
                ratings.rate(float(key))
            refresh()
        except (BadInput, OSError) as error:  # of a button; Jupyter would put it into a log that nobody sees
            progress.value = f"Not saved: {error}"

    def typed(change: dict) -> None:
        if change["new"]:
            keys.value = ""
            act(change["new"][-1].lower())

    for button in buttons:
        button.on_click(lambda clicked: act(clicked.description))
    undo.on_click(lambda clicked: act("u"))
    keys.observe(typed, names="value")
    refresh()
    return widgets.VBox([progress, shown, widgets.HBox([*buttons, undo, keys])])


def _html(record: dict) -> str:
    from html import escape

    box = "<pre style='white-space:pre-wrap;padding:.5em;border:1px solid #999;border-radius:4px'>{}</pre>"
    return f"<b>prompt</b>{box.format(escape(record['prompt']))}<b>response</b>{box.format(escape(record['response']))}"
