"""A submission: a notebook that somebody handed in, read as data, run in a worker, and judged here."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from IPython.core.inputtransformer2 import TransformerManager

from minigrpo.grading.check import Result, exercises, judge, questions
from minigrpo.grading.questions import Question
from minigrpo.grading.sandbox import Worker, WorkerDied
from minigrpo.grading.worker import Outcome, decode, encode

LARGEST_FILE = 5_000_000  # bytes
CELL_SECONDS, CALL_SECONDS, SECONDS = 10.0, 10.0, 60.0
LEAST_SECONDS = 5.0  # that are worth starting a worker for
NAME = re.compile(r"ex0\d")


@dataclass(frozen=True)
class Graded:
    """One question of one submission."""

    question: Question
    points: int
    says: str  # what was wrong; empty where nothing was


@dataclass(frozen=True)
class Report:
    """One submission, all questions; ``problem`` where it could not be read or run."""

    person: str
    exercise: str | None
    graded: list[Graded]
    problem: str = ""

    @property
    def points(self) -> int:
        return sum(item.points for item in self.graded)

    @property
    def of(self) -> int:
        return sum(item.question.points for item in self.graded)


def read_cells(path: Path) -> list[str]:
    """The code of a notebook's cells, without IPython's magics and without demonstrations.

    Raises:
        ValueError: in a sentence, for what is no notebook.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is not a plain file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE // 1_000_000} MB")
    try:
        notebook = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(notebook, dict):
        raise ValueError("it is JSON, but no notebook")
    cells = notebook.get("cells")
    if cells is None:  # notebooks of before 2015 have worksheets
        sheets = notebook.get("worksheets") or [{}]
        cells = sheets[0].get("cells") if isinstance(sheets, list) and isinstance(sheets[0], dict) else None
    if not isinstance(cells, list):
        raise ValueError("it has no cells")
    return [source for cell in cells if (source := _code(cell))]


def _code(cell) -> str:
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return ""
    metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
    tags = metadata.get("tags")
    if isinstance(tags, list) and "demonstration" in tags:
        return ""
    source = cell.get("source", cell.get("input", ""))
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    try:  # IPython's own reading of magics and shell lines: they become calls that do nothing in the worker
        return TransformerManager().transform_cell(source)
    except Exception:  # what it cannot read, Python cannot either: the cell fails there
        return source


def which_exercise(path: Path, cells: list[str]) -> str | None:
    """By the file's name, else by the functions that its cells define."""
    if named := _by_name(path):
        return named
    defined = set(re.findall(r"^def (\w+)", "\n".join(cells), re.MULTILINE))
    counts = {name: sum(q.name in defined for q in questions(name)) for name in exercises()}
    best = max(counts, key=counts.get, default=None)
    return best if best and counts[best] else None


def grade_file(path: Path, person: str, how: str, seed: int, *, all_or_nothing: bool = False) -> Report:
    """Grade one notebook; whatever is in it, a report comes back. Raises GraderError if the sandbox does not start."""
    try:
        cells = read_cells(path)
    except ValueError as error:
        named = _by_name(path)
        nothing = [Graded(question, 0, "") for question in questions(named)] if named else []
        return Report(person, named, nothing, f"{path.name} cannot be graded: {error}.")
    exercise = which_exercise(path, cells)
    if exercise is None:
        return Report(person, None, [], f"{path.name} belongs to no exercise: its name should begin with ex01 ... .")
    return Report(person, exercise, _graded(exercise, cells, how, seed, all_or_nothing))


def _by_name(path: Path) -> str | None:
    named = NAME.search(path.name)
    return named[0] if named and named[0] in exercises() else None


class _Session:
    """A worker with the cells run, made anew where the learner's code ended the one before."""

    def __init__(self, cells: list[str], how: str):
        self.cells, self.how, self.worker = dict(enumerate(cells)), how, None
        self.until = time.monotonic() + SECONDS

    def ready(self) -> Worker:
        while self.worker is None:
            left = self.until - time.monotonic()
            if left < LEAST_SECONDS:
                raise WorkerDied(f"the {SECONDS:.0f} s of this submission are used up")
            worker = Worker(self.how, seconds=left)
            if self._runs_cells(worker):
                self.worker = worker
        return self.worker

    def _runs_cells(self, worker: Worker) -> bool:
        for number, cell in list(self.cells.items()):
            try:
                worker.ask({"cell": cell}, CELL_SECONDS)
            except WorkerDied:
                worker.close()
                del self.cells[number]  # a cell that hangs or dies costs only what it defines
                return False
        return True

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
        self.worker = None


def _graded(exercise: str, cells: list[str], how: str, seed: int, all_or_nothing: bool) -> list[Graded]:
    session, graded = _Session(cells, how), []
    try:
        for number, question in enumerate(questions(exercise)):
            try:
                graded.append(_one(question, session, seed * 1000 + number, all_or_nothing))
            except WorkerDied as error:
                session.close()
                graded.append(Graded(question, 0, f"The process that ran it is gone: {error}."))
    finally:
        session.close()
    return graded


def _one(question: Question, session: _Session, seed: int, all_or_nothing: bool) -> Graded:
    cases = question.draw(seed)
    outcomes = []
    for case in cases:
        args = {name: encode(value) for name, value in case.args.items()}
        request = {"name": question.name, "args": args, "gradient": list(case.gradient), "seed": 0}
        reply = session.ready().ask(request, CALL_SECONDS)
        if reply.get("missing"):
            return Graded(question, 0, f"No function {question.name} is defined.")
        outcomes.append(outcome_of(reply, len(case.gradient)))
    if all((outcome.error or "").startswith("NotImplementedError") for outcome in outcomes):
        return Graded(question, 0, "Not answered.")
    result = judge(question, cases, outcomes, all_or_nothing=all_or_nothing)
    return Graded(question, result.points, "" if result.about is None else _sentence(result))


def _sentence(result: Result) -> str:
    cause = f" {result.label.capitalize()}: {result.cause}" if result.cause else ""
    return f"With {result.about}: {result.difference}.{cause}"


def outcome_of(reply: dict, num_gradients: int) -> Outcome:
    """A reply as an Outcome, believing nothing: whatever is not plain numbers of the right kind is an error."""
    try:
        if reply["error"] is not None or reply["changed"] is not None:
            changed = None if reply["changed"] is None else _plain(reply["changed"])
            return Outcome(None, error=None if changed else (_plain(reply["error"]) or "an error"), changed=changed)
        values = [_tensor(value) for value in reply["values"]]
        gradients = reply["gradients"] if num_gradients else []
        if not values or len(gradients) != num_gradients:
            raise ValueError("results are missing")
        return Outcome(values, [None if g is None else _tensor(g) for g in gradients] if num_gradients else None)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        return Outcome(None, error=f"its result cannot be read ({type(error).__name__})")


def _plain(text) -> str:
    """What a learner's code said, without what could move a terminal's cursor or break a line of a report."""
    return "".join(character if character.isprintable() else " " for character in str(text)[:300])


def _tensor(value) -> torch.Tensor:
    if not isinstance(value, dict):  # decode checks all else
        raise ValueError("not a tensor")
    return decode(value)
