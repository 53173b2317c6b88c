"""Feedback in the notebook: ``check(function)`` and ``hint("ex06.2")``."""

import difflib
import html
import importlib
import inspect
import linecache
import pkgutil
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

import minigrpo.grading
from minigrpo.config import BadInput
from minigrpo.grading import causes
from minigrpo.grading.compare import failure, number_of, outcome_of, run
from minigrpo.grading.progress import OUTSIDE, Progress, Square, in_notebook, read, record
from minigrpo.grading.questions import Case, Question

SMALL = 16  # numbers that a person looks at

_shown: dict[str, int] = {}  # how many hints of a question have been seen in this session


def exercises() -> list[str]:
    """The names of the exercises: "ex01", "ex02" ..."""
    return _modules("ex0")


def lessons() -> list[str]:
    """The names of the lessons that ask a question in their own cells: "lesson01", "lesson02" ... No points are given there."""
    return _modules("lesson0")


def _modules(start: str) -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(minigrpo.grading.__path__) if m.name.startswith(start))


def questions(name: str | None = None) -> list[Question]:
    """The questions of one exercise or lesson, or of all exercises, in order."""
    names = exercises() if name is None else [name]
    return [q for name in names for q in importlib.import_module(f"minigrpo.grading.{name}").QUESTIONS]


def every_question() -> list[Question]:
    """Those of the exercises, and behind them those of the lessons."""
    return [q for name in [*exercises(), *lessons()] for q in questions(name)]


@dataclass(frozen=True)
class Result:
    """What a check found: points, and where it failed a case in words, the first difference there, and what it comes from.

    ``args`` are the inputs of that case, to try by yourself: ``f(**check(f).args)``.
    """

    question: Question
    points: int
    passed: int  # cases
    cases: int
    about: str | None = None
    difference: str | None = None
    cause: str | None = None
    named: bool = True  # the cause is a mistake that gives these numbers on all cases; else what they look like
    small: str | None = None  # the smallest failing case, a call that can be worked out by hand
    args: dict[str, object] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        return "the likely cause" if self.named else "a closer look"

    def __repr__(self) -> str:
        name = f"{self.question.id} {self.question.name}: "
        points = f"{self.points} of {self.question.points} points" if self.question.points else ""  # none in a lesson
        if self.about is None:
            cases = f"all {self.cases} cases pass" if self.cases > 1 or not points else ""
            return name + ", ".join(filter(None, (points, cases))) + "."
        head = name + ", ".join(filter(None, (points, f"{self.passed} of {self.cases} cases pass")))
        lines = [head, f"  the case:  {self.about}", f"  what differs:  {self.difference}"]
        lines += [f"  {self.label}:  {self.cause}"] if self.cause else []
        lines += [f"  by hand:  {self.small}"] if self.small else []
        return "\n".join([*lines, f'  more:  hint("{self.question.id}")'])

    def _repr_html_(self) -> str:
        color = "#009E73" if self.about is None else "#D55E00"
        first, *lines = repr(self).splitlines()
        rows = "".join(f"<div style='margin-left:1em'>{html.escape(line.strip())}</div>" for line in lines)
        return f"<div style='border-left:4px solid {color};padding:4px 10px'><b>{html.escape(first)}</b>{rows}</div>"


@dataclass(frozen=True)
class Unanswered:
    """A question whose function still raises NotImplementedError."""

    question: Question

    def __repr__(self) -> str:
        question = self.question
        points = {0: "", 1: " (1 point)"}.get(question.points, f" ({question.points} points)")
        return f'{question.id} {question.name}: not answered yet{points}. hint("{question.id}")'


def check(function: Callable) -> Result | Unanswered:
    """Try a function that an exercise or a lesson asks for, by its name, on random inputs; values and gradients are compared.

    Returns:
        What to show: a Result, or Unanswered while the function still raises NotImplementedError.
    Raises:
        BadInput: if no question asks for a function of that name.
    """
    frame = inspect.currentframe().f_back
    found = _asked_for(
        function, {**frame.f_globals, **frame.f_locals}, linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    )
    result = grade(found, function, secrets.randbits(32))
    if isinstance(result, Result) and found.points and in_notebook():  # a lesson's question has no points
        record(found.id, result.points, Path())
    return result


def _asked_for(function: Callable, names: dict[str, object], line: str) -> Question:
    """The question by the name that the function has where check is called: a lambda or a module has no other."""
    every = {question.name: question for question in every_question()}
    bound = [name for name, value in names.items() if value is function and name in every]
    called = getattr(function, "__name__", None)
    here = re.search(r"check\(\s*(\w+)", line)
    for name in (here and here[1], called, *bound):
        if name in every and (name in bound or name == called):
            return every[name]
    shown = called or type(function).__name__
    near = nearest(shown, list(every))
    raise BadInput(
        f"No question asks for a function {shown!r}; "
        + (f"did you mean {near}?" if near else "check takes the function, under the name that the notebook gives it.")
    )


def nearest(name: str, names: list[str]) -> str | None:
    """That of some names which somebody may have meant; upper case does not count."""
    folded = {one.casefold(): one for one in names}
    return next((folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.85)), None)


def grade(question: Question, function: Callable, seed: int) -> Result | Unanswered:
    """Check on the inputs of one seed, in this process."""
    cases = question.draw(seed)
    outcomes = [outcome_of(question, case, lambda one: run(function, one)) for case in cases]
    if all((outcome.error or "").startswith("NotImplementedError") for outcome in outcomes):
        return Unanswered(question)
    return judge(question, cases, outcomes)


def judge(question: Question, cases: list[Case], outcomes: list, *, all_or_nothing: bool = False) -> Result:
    """All points for outcomes that agree with the reference; else a share, the case that shows most, what differs, and why."""
    found = [failure(question, case, outcome) for case, outcome in zip(cases, outcomes, strict=True)]
    failing = [number for number, sentence in enumerate(found) if sentence]
    if not failing:
        return Result(question, question.points, len(cases), len(cases))
    cause = causes.find(question, cases, outcomes, failing)
    shown = cause.case if cause else failing[0]
    passed = len(cases) - len(failing)
    return Result(
        question,
        0 if all_or_nothing else partial_points(question.points, passed, len(cases)),
        passed,
        len(cases),
        cases[shown].about,
        found[shown],
        cause and cause.says,
        bool(cause and cause.certain),
        _smallest(question, cases, found, failing),
        outcomes[shown].args or cases[shown].args,
    )


def partial_points(points: int, passed: int, cases: int) -> int:
    """By the share of cases, rounded down; nothing for fewer than half of them, which an answer passes that does nothing."""
    return points * passed // cases if 2 * passed >= cases else 0


def _smallest(question: Question, cases: list[Case], found: list[str | None], failing: list[int]) -> str | None:
    number = min(failing, key=lambda number: cases[number].size())
    args = cases[number].args
    if cases[number].size() > SMALL or not args or question.trial:
        return None
    call = ", ".join(f"{name}={_written(value)}" for name, value in args.items())
    return f"{question.name}({call}): {found[number]}"


def _written(value) -> str:
    if isinstance(value, Tensor):
        return number_of(value) if value.dim() == 0 else f"[{', '.join(map(_written, value))}]"
    return f"{value:.6g}" if type(value) is float else repr(value)


def progress() -> Progress:
    """The questions as squares with the points of their last ``check`` in notebooks of this folder: filled ones are solved."""
    kept = read(Path())
    squares = [Square(q.id, q.name, q.points, kept.get(q.id)) for q in questions()]
    return Progress(squares, "" if kept or in_notebook() else OUTSIDE)


def _meant(given: object) -> str | None:
    """The id that was meant by one with other zeros or letters ("ex1.1", "EX01.1"), or by a function or its name."""
    every = every_question()
    if number := re.fullmatch(r"\s*(ex|)\D*0*(\d+)\D0*(\d+)\s*", str(given).lower()):
        wanted = f"{number[1]}{int(number[2]):02}.{number[3]}"
        return next((one for one in (wanted, f"ex{wanted}") if one in {question.id for question in every}), None)
    name = getattr(given, "__name__", given)
    return next((question.id for question in every if question.name == name), None)


class Hint(str):
    """A text that a notebook shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def hint(question_id: str) -> Hint:
    """The next hint of a question, such as ``hint("ex06.2")``; called again, one that says more.

    Raises:
        BadInput: if there is no such question.
    """
    every = {question.id: question for question in every_question()}
    if question_id not in every:
        meant = _meant(question_id)
        told = f"did you mean {meant!r}?" if meant else "an exercise's are called as in 'ex06.2', a lesson's as in '06.1'."
        raise BadInput(f"There is no question {question_id!r}; {told}")
    hints = every[question_id].hints
    shown = _shown.get(question_id, 0)
    _shown[question_id] = min(shown + 1, len(hints) - 1)
    return Hint(f"{question_id}, hint {shown + 1} of {len(hints)}: {hints[shown]}")
