"""Why numbers are wrong: the mistake that gives the same ones, as surely as the cases bear it; else what they look like."""

from dataclasses import dataclass
from functools import cached_property

import torch

from minigrpo.grading.compare import as_wanted, difference, gradient_pairs, run, same, wanted, wrong_places
from minigrpo.grading.mutations import derived
from minigrpo.grading.questions import Case, Mistake, Question
from minigrpo.grading.symptoms import clearest
from minigrpo.grading.worker import Outcome


@dataclass(frozen=True)
class Cause:
    """A sentence, the case that shows it, and whether it holds on all cases."""

    says: str
    case: int
    certain: bool = False


@dataclass(frozen=True, eq=False)
class Attempt:
    """A question's cases, and what a learner's function gave for them."""

    question: Question
    cases: list[Case]
    outcomes: list[Outcome]
    failing: list[int]

    @cached_property
    def known(self) -> list[tuple[Mistake, list[Outcome]]]:
        """Every known mistake, those written by hand first, and what it gives."""
        mistakes = [*self.question.mistakes, *derived(self.question)]
        return [(mistake, [run(mistake.function, case) for case in self.cases]) for mistake in mistakes]

    @cached_property
    def wants(self) -> list[Outcome]:
        return [wanted(self.question, case) for case in self.cases]

    def tells(self, number: int) -> int:
        """On how many mistakes a case would show. Where policy and reference are equal, or every advantage is 0, few do."""
        return sum(difference(self.wants[number], gives[number]) is not None for _, gives in self.known)

    @cached_property
    def ordinary(self) -> list[int]:
        """The failing cases on which mistakes show, the most telling first."""
        tells = {number: self.tells(number) for number in self.failing}
        most = max(tells.values())
        return sorted((n for n in self.failing if tells[n] >= 0.7 * most), key=lambda n: -tells[n])


def find(question: Question, cases: list[Case], outcomes: list[Outcome], failing: list[int]) -> Cause | None:
    """The cause of what fails, or None: an error says more than any cause, and so does a question that accepts many answers."""
    if question.accepts or outcomes[failing[0]].values is None:
        return None
    attempt = Attempt(question, cases, outcomes, failing)
    return _certain(attempt) or _in_part(attempt) or _by_looks(attempt)


def _certain(attempt: Attempt) -> Cause | None:
    for mistake, gives in attempt.known:
        if all(_like(want, one, got) for want, one, got in zip(attempt.wants, gives, attempt.outcomes, strict=True)):
            return Cause(mistake.says, attempt.ordinary[0], certain=True)
    return None


def _in_part(attempt: Attempt) -> Cause | None:
    """The one mistake whose numbers came on some of the failing cases, where no other explains these."""
    explained: dict[str, list[int]] = {}
    for number in attempt.failing:
        got, want = as_wanted(attempt.wants[number], attempt.outcomes[number]), attempt.wants[number]
        if not _says_something(want, got):
            continue
        fitting = [(m, gives) for m, gives in attempt.known if same(gives[number], got)]
        if fitting and all(_equal_everywhere(fitting[0][1], gives) for _, gives in fitting[1:]):
            explained.setdefault(fitting[0][0].says, []).append(number)
    if not explained:
        return None
    says, numbers = max(explained.items(), key=lambda item: len(item[1]))
    shown = next((number for number in attempt.ordinary if number in numbers), None)
    if shown is None:  # it fits odd cases only, where much would
        return None
    count, of = len(numbers), len(attempt.failing)
    if of == 1:
        return Cause(f"on this case it looks like this: {says}", shown)
    return Cause(f"{count} of {of} failing cases look{'s' if count == 1 else ''} like this: {says}", shown)


def _by_looks(attempt: Attempt) -> Cause | None:
    seen = clearest(attempt.question, attempt.outcomes, attempt.cases, attempt.ordinary)
    return Cause(seen[1], seen[0]) if seen else None


def _equal_everywhere(one: list[Outcome], other: list[Outcome]) -> bool:
    return all(same(a, b) for a, b in zip(one, other, strict=True))


def _like(want: Outcome, mistake: Outcome, got: Outcome) -> bool:
    """Whether a mistake's numbers came. Any may end in NaN, and what ends there hides nothing of the rest."""
    got = as_wanted(want, got)
    if same(mistake, got):
        return True
    if not _says_something(want, got) or mistake.values is None or len(mistake.values) != len(got.values):
        return False
    pairs = [*zip(mistake.values, got.values, strict=True), *gradient_pairs(mistake, got)]
    return all(m.shape == g.shape and not (wrong_places(m, g) & ~g.isnan()).any() for m, g in pairs)


def _says_something(want: Outcome, got: Outcome) -> bool:
    """Whether a number is clearly wrong, and not only NaN or hardly wrong."""
    if got.values is None or len(got.values) != len(want.values):
        return False
    pairs = [*zip(want.values, got.values, strict=True), *gradient_pairs(want, got)]
    return any(w.shape != g.shape or (wrong_places(w, g, slack=10) & torch.isfinite(g)).any() for w, g in pairs)
