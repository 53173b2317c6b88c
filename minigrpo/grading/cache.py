"""What was graded before, so that a rerun grades only what changed: code, questions, seed, or the grader itself."""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

from minigrpo.grading.cells import Cell
from minigrpo.grading.check import Result
from minigrpo.grading.questions import Question
from minigrpo.grading.results import ENDLESS, Graded

PACKAGE = Path(__file__).resolve().parents[1]
KEPT = [field.name for field in dataclasses.fields(Result) if field.name not in ("question", "args")]


def key(exercise: str, cells: list[Cell], seed: int, how: str, more: bytes = b"") -> str:
    """What a result depends on, in one word; ``more``: the text of an instructor's own questions."""
    found = hashlib.sha256(json.dumps([exercise, seed, how, [dataclasses.astuple(cell) for cell in cells]]).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.read_bytes())
    found.update(more)
    return found.hexdigest()


def load(folder: Path, name: str, asked: list[Question]) -> list[Graded] | None:
    """What ``save`` wrote, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        rows = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        by_id = {question.id: question for question in asked}
        if [row["id"] for row in rows] != [question.id for question in asked]:
            return None
        return [_graded(by_id[row["id"]], row) for row in rows]
    return None


def _graded(question: Question, row: dict) -> Graded:
    result = row["result"] and Result(question, **row["result"])
    return Graded(question, row["points"], row["says"], result, row["why"])


def save(folder: Path, name: str, graded: list[Graded]) -> None:
    """Beside and renamed, so that no file is half there. Not what a busy machine may have spoilt: that is tried again."""
    if any(item.result is None and item.why == ENDLESS for item in graded):
        return
    rows = [
        {
            "id": item.question.id,
            "points": item.points,
            "says": item.says,
            "why": item.why,
            "result": item.result and {name: getattr(item.result, name) for name in KEPT},
        }
        for item in graded
    ]
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{name}.{os.getpid()}"
    beside.write_text(json.dumps(rows), encoding="utf-8")
    os.replace(beside, folder / f"{name}.json")
