"""An instructor's own questions: a Python file with a list ``QUESTIONS``, tried on itself before anybody is graded by it."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from minigrpo.config import BadInput
from minigrpo.grading.compare import difference, run
from minigrpo.grading.questions import Case, Question


@dataclass(frozen=True)
class Exam:
    """The questions of a file that is called ``name``.py, and its text."""

    name: str
    questions: list[Question]
    text: bytes


def load(path: Path) -> Exam:
    """The questions of a file. Its code runs here, with all rights: it is the instructor's.

    Raises:
        BadInput: for a file that cannot be run, or whose questions cannot be used, with the reason.
    """
    if not path.is_file():
        raise BadInput(f"There is no file {str(path)!r} with questions.")
    spec = importlib.util.spec_from_file_location(f"minigrpo_questions_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"--questions takes a Python file (.py), got {str(path)!r}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    asked = getattr(module, "QUESTIONS", None)
    if not isinstance(asked, list | tuple) or not asked or not all(isinstance(one, Question) for one in asked):
        raise BadInput(f"{path} has no list QUESTIONS of minigrpo.grading.questions.Question.")
    for field in ("id", "name"):
        values = [getattr(one, field) for one in asked]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise BadInput(f"{path} has two questions with the {field} {twice[0]!r}.")
    for question in asked:
        _try(question, path)
    return Exam(path.stem, list(asked), path.read_bytes())


def _try(question: Question, path: Path) -> None:
    """A reference has to answer its own cases, twice alike, and no mistake may be right."""
    where = f"{path}, question {question.id}"
    if not re.fullmatch(r"[^\W\d]\w*", question.name) or question.points < 1 or not question.hints:
        raise BadInput(f"{where}: wanted are the name of a function, at least 1 point, and at least one hint.")
    try:
        cases = question.draw(0)
    except Exception as error:
        raise BadInput(f"{where}: its cases cannot be drawn: {type(error).__name__}: {error}") from error
    if not cases or not all(isinstance(case, Case) for case in cases):
        raise BadInput(f"{where}: cases must return a list of Case, and at least one.")
    if question.accepts:
        return
    wanted = [run(question.reference, case) for case in cases]
    for case, one in zip(cases, wanted, strict=True):
        if one.values is None:
            raise BadInput(f"{where}: the reference fails with {case.about}: {difference(one, one)}.")
        if sentence := difference(one, run(question.reference, case)):
            raise BadInput(f"{where}: the reference gives something else each time: {sentence}.")
    for mistake in question.mistakes:
        pairs = zip(cases, wanted, strict=True)
        if all(difference(one, run(mistake.function, case)) is None for case, one in pairs):
            raise BadInput(
                f"{where}: on no case the mistake {mistake.name!r} differs from the reference; add one that shows it."
            )
