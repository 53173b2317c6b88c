"""A submission: a notebook that somebody handed in, read as data, run in a worker, and judged here."""

import re
import time
from collections import Counter
from pathlib import Path

import torch

from minigrpo.grading import cache, compare
from minigrpo.grading.cells import Cell, NoNotebook, plain, read_cells
from minigrpo.grading.check import Result, exercises, judge, nearest, questions
from minigrpo.grading.exam import Exam
from minigrpo.grading.questions import Case, Question
from minigrpo.grading.results import BROKEN, ENDLESS, UNANSWERED, Graded, Report
from minigrpo.grading.sandbox import TimedOut, Worker, WorkerDied
from minigrpo.grading.worker import Outcome, decode, encode

CELL_SECONDS, CALL_SECONDS, SECONDS = 10.0, 10.0, 60.0
ANSWER_SECONDS = 30.0  # of all calls to one answer, so that a slow one leaves time for those behind it
LEAST_SECONDS = 5.0  # that are worth starting a worker for
SLOW_SECONDS = 2.0  # of a statement that defines nothing: where cells run again, it does not
MOST_STARTS = 10  # of workers for one submission
MOST_STATEMENTS = 100_000  # of a cell
MOST_VALUES = 1000  # tensors in a result
LONGEST = 1500  # characters of what is said to an answer
NAME = re.compile(r"(?<![A-Za-z0-9])ex\d\d(?!\d)", re.IGNORECASE)


def which_exercise(path: Path, cells: list[Cell]) -> str | None:
    """By the file's name, else by the functions that its cells define."""
    if named := by_name(path):
        return named
    defined = set(re.findall(r"^def (\w+)", "\n".join(cell.source for cell in cells), re.MULTILINE))
    counts = {name: sum(q.name in defined for q in questions(name)) for name in exercises()}
    best = max(counts, key=counts.get, default=None)
    return best if best and counts[best] else None


def by_name(path: Path) -> str | None:
    """The one exercise that a file's name speaks of."""
    named = {name.lower() for name in NAME.findall(path.name)} & set(exercises())
    return named.pop() if len(named) == 1 else None


def grade_file(
    path: Path,
    person: str,
    how: str,
    seed: int,
    *,
    hide: tuple[Path, ...] = (),
    exam: Exam | None = None,
    kept: Path | None = None,
    all_or_nothing: bool = False,
) -> Report:
    """Grade one notebook; whatever is in it, a report comes back. Raises GraderError if the sandbox does not start.

    ``hide``: folders that a submission must not see, besides its own; ``exam``: an instructor's questions in place of the
    exercise's; ``kept``: the folder of results that need not be found again.
    """
    file, exercise = plain(str(path)), exam.name if exam else by_name(path)
    try:
        cells = read_cells(path)
    except NoNotebook as error:
        asked = exam.questions if exam else questions(exercise) if exercise else []
        nothing = [Graded(question, 0, "", why=BROKEN) for question in asked]
        return Report(person, exercise, nothing, f"{plain(path.name)} cannot be graded: {error}.", file=file)
    exercise = exam.name if exam else which_exercise(path, cells)
    if exercise is None:
        sentence = f"{plain(path.name)} belongs to no exercise: its name should begin with {exercises()[0]} ... ."
        return Report(person, None, [], sentence, file=file)
    asked = exam.questions if exam else questions(exercise)
    name = kept and cache.key(exercise, cells, seed, f"{how} {all_or_nothing}", exam.text if exam else b"")
    graded = cache.load(kept, name, asked) if kept else None
    session = _Session(cells, how, (*hide, path.parent), {question.name for question in asked})
    if graded is None:
        graded = _graded(asked, session, seed, all_or_nothing)
        if kept and not session.left_out_because:  # a busy machine may have been the cause
            cache.save(kept, name, graded)
    return Report(person, exercise, graded, cells=cells, file=file, note=session.note())


class _Missing(Exception):
    """There is no function of that name."""


class _OutOfTime(WorkerDied):
    """So much was used before that nothing is left for this call."""


class _Session:
    """A worker with the cells run, made anew where the learner's code ended the one before."""

    def __init__(self, cells: list[Cell], how: str, hide: tuple[Path, ...], asked: set[str]):
        self.cells, self.how, self.hide, self.worker = dict(enumerate(cells)), how, hide, None
        self.sources, self.asked = [cell.source for cell in cells], asked
        self.left_out = {number: set() for number in self.cells}  # statements that hung or ended the worker
        self.slow = {number: set() for number in self.cells}
        self.errors: dict[int, str] = {}
        self.endless: set[int] = set()  # cells of which a statement had to be stopped
        self.left_out_because: dict[int, str] = {}  # of cells that were run without a statement
        self.left, self.since, self.starts = SECONDS, time.monotonic(), 0
        self.called: float | None = None  # when this worker last answered
        self.took: Counter[str] = Counter()  # seconds, all calls to each answer

    def ready(self) -> Worker:
        while self.worker is None:
            if self.left < LEAST_SECONDS or self.starts == MOST_STARTS:
                raise _OutOfTime(f"the {SECONDS:.0f} s of this submission are used up")
            worker = Worker(self.how, seconds=self.left, hide=self.hide)
            self.starts += 1
            self.since = time.monotonic()  # that torch loads slowly is not the learner's time
            if self._runs_cells(worker):
                self.worker, self.called = worker, None
        return self.worker

    def _runs_cells(self, worker: Worker) -> bool:
        """Whether all cells ran. A statement that hangs or ends the worker costs itself, and the next worker leaves it out."""
        for number, cell in list(self.cells.items()):
            short = cell.demonstration or self.left - (time.monotonic() - self.since) < SECONDS / 2
            left_out, slow = sorted(self.left_out[number]), sorted(self.slow[number])
            request = {"cell": cell.source, "leave_out": left_out, "slow": slow, "definitions": short}
            clock = _Clock()
            try:
                error = worker.ask(request, CELL_SECONDS, clock)["error"]
                if error or not left_out:  # what was left out, and why, is worth saying still
                    self.errors[number] = plain(error or "")
                    self.endless.discard(number)
            except (WorkerDied, KeyError) as error:
                self._end(worker)
                if clock.at is None:
                    del self.cells[number]  # it could not even be read
                else:
                    self.left_out[number] |= {clock.at}
                self.errors[number] = f"a statement was left out: {error}"
                self.left_out_because[number] = str(error)
                self.endless |= {number} if isinstance(error, TimedOut) else set()
                return False
            finally:
                self.slow[number] |= clock.slow
        return True

    def call(self, name: str, case: Case) -> Outcome:
        """What the function of that name gives for a case. Raises _Missing, and WorkerDied."""
        worker, now = self.ready(), time.monotonic()
        if self.called is not None:  # what the grader did since then is not the learner's time
            worker.deadline += now - self.called
            self.since += now - self.called
        args = {name: encode(value) for name, value in case.args.items()}
        request = {"name": name, "args": args, "gradient": list(case.gradient), "seed": 0}
        if self.took[name] > ANSWER_SECONDS:
            raise _OutOfTime(f"all calls to it together took more than {ANSWER_SECONDS:.0f} s")
        reply = worker.ask(request, CALL_SECONDS)
        self.called = time.monotonic()
        self.took[name] += self.called - now
        if reply.get("missing"):
            raise _Missing
        return outcome_of(reply, case)

    def missing(self, name: str) -> tuple[str, str]:
        """That there is no such function, in words, and why, as far as the cells' errors tell."""
        errors = {number: error for number, error in self.errors.items() if error}
        defining = [n for n in errors if re.search(rf"\b(def|class)\s+{name}\b|^{name}\s*=", self.sources[n], re.MULTILINE)]
        for number in defining:
            says = f"No function {name} is defined, for its cell (code cell {number + 1}) fails: {errors[number]}."
            return says, ENDLESS if number in self.endless else BROKEN
        if near := nearest(name, [one for one in self._defined() if one not in self.asked]):
            return f"No function {name} is defined; there is one called {near}.", UNANSWERED
        for number in errors:
            return (
                f"No function {name} is defined. The first cell that fails is code cell {number + 1}: {errors[number]}.",
                UNANSWERED,
            )
        return f"No function {name} is defined.", UNANSWERED

    def _defined(self) -> list[str]:
        """Names that the cells define as they lie there: strangers' code is not parsed."""
        text = "\n".join(self.sources)
        return [one[1] or one[2] for one in re.finditer(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=(?!=)", text, re.MULTILINE)]

    def note(self) -> str:
        """What all cells were run without; empty where nothing was left out."""
        found = sorted(self.left_out_because.items())
        return " ".join(f"A statement of code cell {number + 1} was left out: {why}." for number, why in found)

    def close(self) -> None:
        if self.worker is not None:
            self._end(self.worker)
        self.worker = None

    def _end(self, worker: Worker) -> None:
        self.left -= time.monotonic() - self.since
        worker.close()


class _Clock:
    """At which statement a cell is, and which took long. What the worker says is checked, not believed."""

    def __init__(self):
        self.at, self.since, self.slow = None, time.monotonic(), set()

    def __call__(self, number) -> None:
        now = time.monotonic()
        if type(number) is not int or not 0 <= number < MOST_STATEMENTS:
            raise WorkerDied("it answered something that was not asked")
        if self.at is not None and now - self.since > SLOW_SECONDS:
            self.slow.add(self.at)
        self.at, self.since = number, now


def _graded(asked: list[Question], session: _Session, seed: int, all_or_nothing: bool) -> list[Graded]:
    graded = []
    drawn = [question.draw(seed * 1000 + number) for number, question in enumerate(asked)]  # before anybody's code runs
    try:
        for question, cases in zip(asked, drawn, strict=True):
            try:
                graded.append(_one(question, cases, session, all_or_nothing))
            except WorkerDied as error:
                session.close()
                graded.append(_stopped(question, error))
    finally:
        session.close()
    return graded


def _stopped(question: Question, error: WorkerDied) -> Graded:
    if isinstance(error, TimedOut):
        return Graded(question, 0, f"{str(error).capitalize()}: does a loop never end?", why=ENDLESS)
    if isinstance(error, _OutOfTime):
        return Graded(question, 0, f"It was not called: {error}.", why=ENDLESS)
    return Graded(question, 0, f"The process that ran it is gone: {error}.", why=BROKEN)


def _one(question: Question, cases: list[Case], session: _Session, all_or_nothing: bool) -> Graded:
    try:
        outcomes = [compare.outcome_of(question, case, lambda one: session.call(question.name, one)) for case in cases]
    except _Missing:
        says, why = session.missing(question.name)
        return Graded(question, 0, says, why=why)
    if all((outcome.error or "").startswith("NotImplementedError") for outcome in outcomes):
        return Graded(question, 0, "Not answered.")
    result = judge(question, cases, outcomes, all_or_nothing=all_or_nothing)
    return Graded(question, result.points, "" if result.about is None else _short(_sentence(result)), result)


def _sentence(result: Result) -> str:
    cause = f" {result.label.capitalize()}: {result.cause}" if result.cause else ""
    return f"With {result.about}: {result.difference}.{cause}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def outcome_of(reply: dict, case: Case) -> Outcome:
    """A reply as an Outcome, believing nothing: whatever is not plain numbers of the right kind is an error."""
    try:
        if reply["error"] is not None or reply["changed"] is not None:
            changed = None if reply["changed"] is None else plain(reply["changed"])
            return Outcome(None, error=None if changed else (plain(reply["error"]) or "an error"), changed=changed)
        values = reply["values"]
        if not values or len(values) > MOST_VALUES:
            raise ValueError("no results, or too many")
        values = [_tensor(value) for value in values]
        return Outcome(values, _gradients(reply["gradients"], case) if case.gradient else None)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        return Outcome(None, error=f"its result cannot be read ({type(error).__name__})")


def _gradients(given, case: Case) -> list[torch.Tensor | None]:
    if not isinstance(given, list) or len(given) != len(case.gradient):
        raise ValueError("gradients are missing")
    for name, gradient in zip(case.gradient, given, strict=True):
        if gradient is not None and gradient["shape"] != list(case.args[name].shape):
            raise ValueError("a gradient has another shape than its argument")
    return [None if gradient is None else _tensor(gradient) for gradient in given]


def _tensor(value) -> torch.Tensor:
    if not isinstance(value, dict):  # decode checks all else
        raise ValueError("not a tensor")
    return decode(value)
