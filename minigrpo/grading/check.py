"""Feedback in the notebook: ``check(function)`` and ``hint("ex06.2")``."""

import html
import importlib
import pkgutil
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import minigrpo.grading
from minigrpo.config import BadInput
from minigrpo.grading.compare import diagnose, diagnose_in_part, first_failure, run
from minigrpo.grading.progress import Progress, Square, in_notebook, read, record
from minigrpo.grading.questions import Question
from minigrpo.grading.symptoms import clearest

_shown: dict[str, int] = {}  # how many hints of a question have been seen in this session


def exercises() -> list[str]:
    """The names of the exercises: "ex01", "ex02" ..."""
    return sorted(m.name for m in pkgutil.iter_modules(minigrpo.grading.__path__) if m.name.startswith("ex0"))


def questions(exercise: str | None = None) -> list[Question]:
    """The questions of one exercise, or of all, in order."""
    names = exercises() if exercise is None else [exercise]
    return [q for name in names for q in importlib.import_module(f"minigrpo.grading.{name}").QUESTIONS]


@dataclass(frozen=True)
class Result:
    """What a check found: points, and where it failed a case in words, the first difference there, and what it comes from."""

    question: Question
    points: int
    passed: int  # cases
    cases: int
    about: str | None = None
    difference: str | None = None
    cause: str | None = None
    named: bool = True  # the cause is a mistake that is known; else what the numbers look like

    @property
    def label(self) -> str:
        return "the likely cause" if self.named else "a closer look"

    def __repr__(self) -> str:
        head = f"{self.question.id} {self.question.name}: {self.points} of {self.question.points} points"
        if self.about is None:
            return f"{head}, all {self.cases} cases pass." if self.cases > 1 else f"{head}."
        head += f", {self.passed} of {self.cases} cases pass"
        lines = [head, f"  the case:  {self.about}", f"  what differs:  {self.difference}"]
        lines += [f"  {self.label}:  {self.cause}"] if self.cause else []
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
        question, points = self.question, "1 point" if self.question.points == 1 else f"{self.question.points} points"
        return f'{question.id} {question.name}: not answered yet ({points}). hint("{question.id}")'


def check(function: Callable) -> Result | Unanswered:
    """Try a function that the exercises ask for, by its name, on random inputs; values and gradients are compared.

    Returns:
        What to show: a Result, or Unanswered while the function still raises NotImplementedError.
    Raises:
        BadInput: if no question asks for a function of that name.
    """
    name = getattr(function, "__name__", repr(function))
    found = [question for question in questions() if question.name == name]
    if not found:
        raise BadInput(f"No question asks for a function {name!r}; check takes the function, under the exercise's name for it.")
    result = grade(found[0], function, secrets.randbits(32))
    if isinstance(result, Result) and in_notebook():
        record(result.question.id, result.points, Path())
    return result


def grade(question: Question, function: Callable, seed: int) -> Result | Unanswered:
    """Check on the inputs of one seed, in this process."""
    cases = question.cases(torch.Generator().manual_seed(seed))
    outcomes = [run(function, case) for case in cases]
    if all((outcome.error or "").startswith("NotImplementedError") for outcome in outcomes):
        return Unanswered(question)
    return judge(question, cases, outcomes)


def judge(question: Question, cases: list, outcomes: list) -> Result:
    """Points for outcomes that all agree with the reference; else the case that shows most, what differs there, and why."""
    found = [first_failure(question, [outcome], [case]) for outcome, case in zip(outcomes, cases, strict=True)]
    failing = [number for number, failure in enumerate(found) if failure]
    if not failing:
        return Result(question, question.points, len(cases), len(cases))
    named = seen = None
    if not question.accepts:  # which has said it
        given = question, outcomes, cases, failing
        named = diagnose(*given) or diagnose_in_part(*given)
        seen = named or clearest(*given)
    shown, cause = seen or (failing[0], None)
    case, sentence = found[shown]
    return Result(question, 0, len(cases) - len(failing), len(cases), case.about, sentence, cause, named is not None)


def progress() -> Progress:
    """The questions as squares with the points of their last ``check`` in notebooks of this folder: filled ones are solved."""
    kept = read(Path())
    return Progress([Square(q.id, q.name, q.points, kept.get(q.id)) for q in questions()])


class Hint(str):
    """A text that a notebook shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def hint(question_id: str) -> Hint:
    """The next hint of a question, such as ``hint("ex06.2")``; called again, one that says more.

    Raises:
        BadInput: if there is no such question.
    """
    found = [question for question in questions() if question.id == question_id]
    if not found:
        raise BadInput(f"There is no question {question_id!r}; they are called {', '.join(q.id for q in questions())}.")
    hints = found[0].hints
    shown = _shown.get(question_id, 0)
    _shown[question_id] = min(shown + 1, len(hints) - 1)
    return Hint(f"{question_id}, hint {shown + 1} of {len(hints)}: {hints[shown]}")
