"""What grading a submission gives: points and words for each question, or the problem."""

from dataclasses import dataclass, field

from minigrpo.grading.cells import Cell
from minigrpo.grading.check import Result
from minigrpo.grading.questions import Question

# Why there is no result, where no function could be called.
UNANSWERED, BROKEN, ENDLESS = "not answered", "could not be run", "did not end"


@dataclass(frozen=True)
class Graded:
    """One question of one submission."""

    question: Question
    points: int
    says: str  # what was wrong; empty where nothing was
    result: Result | None = None  # where its function could be called
    why: str = UNANSWERED  # there is no result, where there is none


@dataclass(frozen=True)
class Report:
    """One submission, all questions; ``problem`` where it could not be read or run."""

    person: str
    exercise: str | None
    graded: list[Graded]
    problem: str = ""
    failed: bool = False  # whether the grader, not the submission, is why nothing was graded
    cells: list[Cell] = field(default_factory=list)
    file: str = ""
    note: str = ""  # what was left out of a notebook that was graded, and why

    @property
    def points(self) -> int:
        return sum(item.points for item in self.graded)

    @property
    def of(self) -> int:
        return sum(item.question.points for item in self.graded)
