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

    Args:
        records: rows with "prompt" and "response".
        path: a .jsonl file, made if it is not there.
    Raises:
        BadInput: if the file holds scores of other records.
    """

    def __init__(self, records: Iterable[dict], path: str | Path):
        self.records = [{"prompt": r["prompt"], "response": r["response"]} for r in records]
        self.path = Path(path)
        *lines, last = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        lines += [last] if _is_json(last) else []  # whole without its line break; a line that was cut off is not there
        for row, line in enumerate(lines):
            try:
                rated = json.loads(line)
                same = {"prompt": rated["prompt"], "response": rated["response"]} == self.records[row]
            except (ValueError, KeyError, TypeError, IndexError):
                same = False
            if not same:
                raise BadInput(f"{self.path}, row {row + 1}, scores another record than the one given; name another file.")
        self.done = len(lines)
        self._write(lines)

    @property
    def current(self) -> dict | None:
        """The record to be scored next; None when all are."""
        return self.records[self.done] if self.done < len(self.records) else None

    def rate(self, score: float) -> None:
        """Append the score of the current record and wait until the disk has it. BadInput if it is not a number."""
        if not isinstance(score, float | int) or not math.isfinite(score):
            raise BadInput(f"A score must be a finite number, got {score!r}.")
        line = json.dumps({**self.records[self.done], "reward": float(score)}, ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.done += 1

    def undo(self) -> None:
        """Take the last score back."""
        if self.done:
            self._write(self.path.read_bytes().split(b"\n")[: self.done - 1])
            self.done -= 1

    def _write(self, lines: list[bytes]) -> None:
        """Written beside and renamed, so that no score is lost half-way."""
        beside = self.path.with_name(self.path.name + ".tmp")
        beside.write_bytes(b"".join(line + b"\n" for line in lines))
        os.replace(beside, self.path)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


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
        if key == "u":
            ratings.undo()
        elif ratings.current is not None and key in {f"{score:g}" for score in SCORES}:
            ratings.rate(float(key))
        refresh()

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
