"""Why numbers are wrong: the mistake that gives the same ones, as surely as the cases bear it; else what they look like."""

from dataclasses import dataclass
from functools import cached_property

import torch

from minigrpo.grading.compare import as_wanted, difference, gradient_pairs, run, same, wanted, wrong_places
from minigrpo.grading.mutations import derived
from minigrpo.grading.questions import Case, Mistake, Question
from minigrpo.grading.symptoms import clearest
from minigrpo.grading.worker import Outcome

FEW = 4  # wrong numbers that some known mistake gives by chance, as there are a hundred of them


@dataclass(frozen=True)
class Cause:
    """A sentence, the case that shows it, and whether it holds on all cases."""

    says: str
    case: int
    certain: bool = False


def known(question: Question) -> tuple[Mistake, ...]:
    """The mistakes written by hand, and behind them those derived from the reference."""
    return (*question.mistakes, *derived(question))


def tells(question: Question, case: Case) -> int:
    """On how many mistakes a case would show. Where policy and reference are equal, or every advantage is 0, few do."""
    want = wanted(question, case)
    return sum(difference(want, run(mistake.function, case)) is not None for mistake in known(question))


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
        return [(mistake, [run(mistake.function, case) for case in self.cases]) for mistake in known(self.question)]

    @cached_property
    def wants(self) -> list[Outcome]:
        return [wanted(self.question, case) for case in self.cases]

    @cached_property
    def ordinary(self) -> list[int]:
        """The failing cases on which most mistakes show."""
        shown = {number: tells(self.question, self.cases[number]) for number in self.failing}
        return [number for number in self.failing if shown[number] >= 0.7 * max(shown.values())]

    def is_right_elsewhere(self, says: str) -> bool:
        """Whether a mistake, by its sentence, passes the cases that the learner's function passes."""
        gives = next(gives for mistake, gives in self.known if mistake.says == says)
        passing = set(range(len(self.cases))) - set(self.failing)
        return all(same(self.wants[number], gives[number]) for number in passing)


def find(question: Question, cases: list[Case], outcomes: list[Outcome], failing: list[int]) -> Cause | None:
    """The cause of what fails, or None: an error says more than any cause, and so does a question that accepts many answers."""
    if question.accepts or outcomes[failing[0]].values is None:
        return None
    attempt = Attempt(question, cases, outcomes, failing)
    if certain := _certain(attempt):
        return certain
    found, only = _in_part(attempt) or _by_looks(attempt), _only_where(cases, failing)
    if only and found:
        return Cause(f"{only} {found.says[0].upper()}{found.says[1:]}", found.case)
    return found


def _only_where(cases: list[Case], failing: list[int]) -> str | None:
    """What all failing cases have in common, and no passing one has."""
    common = set.intersection(*(_features(cases[number]) for number in failing))
    elsewhere = set().union(*(_features(case) for number, case in enumerate(cases) if number not in failing))
    only = sorted(common - elsewhere) if len(failing) < len(cases) else []
    # Two things that always come together cannot be told apart, so both are said; of many, none says anything.
    return f"it fails only where {' and '.join(only)}." if 1 <= len(only) <= 2 else None


def _features(case: Case) -> set[str]:
    """What may be special about a case, in words."""
    found = set()
    for name, value in case.args.items():
        if isinstance(value, str):
            found.add(f"{name} is {value!r}")
        elif isinstance(value, torch.Tensor):
            found |= _features_of(name, value)
        else:
            found.add(f"{name} is {'given' if value is not None else 'None'}")
            found |= {f"{name} is 0"} if value == 0 else {f"{name} is below 0"} if type(value) is float and value < 0 else set()
    return found


def _features_of(name: str, value: torch.Tensor) -> set[str]:
    if value.dtype == torch.bool:
        rows = value.flatten(1).any(1) if value.dim() > 1 else value
        return {f"a row of {name} is False throughout"} if not rows.all() else {f"every row of {name} has a True"}
    special = {
        f"{name} holds NaN": value.isnan().any(),
        f"{name} has one single row": len(value) == 1 if value.dim() else False,
        f"{name} holds a number below 0": not value.is_floating_point() and bool((value < 0).any()),
        f"the numbers of {name} are all equal": value.numel() > 1 and bool((value == value.flatten()[0]).all()),
    }
    return {what for what, so in special.items() if so}


def _certain(attempt: Attempt) -> Cause | None:
    for alike in (lambda want, one, got: same(one, got), _like):  # a mistake that ends in NaN likewise says more
        for mistake, gives in attempt.known:
            if all(alike(want, one, got) for want, one, got in zip(attempt.wants, gives, attempt.outcomes, strict=True)):
                return Cause(mistake.says, attempt.ordinary[0], certain=True)
    return None


def _in_part(attempt: Attempt) -> Cause | None:
    """The one mistake whose numbers came on more than half of the failing cases, where no other explains these.

    On fewer it is false more often than true. And where it leaves failing cases open, it may speak against no other either.
    """
    explained: dict[str, list[int]] = {}
    for number in attempt.failing:
        got, want = as_wanted(attempt.wants[number], attempt.outcomes[number]), attempt.wants[number]
        if not _wrong_numbers(want, got):
            continue
        fitting = [(m, gives) for m, gives in attempt.known if _like(want, gives[number], got)]
        if fitting and all(_equal_everywhere(fitting[0][1], gives) for _, gives in fitting[1:]):
            explained.setdefault(fitting[0][0].says, []).append(number)
    if not explained:
        return None
    says, numbers = max(explained.items(), key=lambda item: len(item[1]))
    shown = next((number for number in attempt.ordinary if number in numbers), None)
    count, of = len(numbers), len(attempt.failing)
    if shown is None or 2 * count <= of or (count < of and not attempt.is_right_elsewhere(says)):
        return None
    if count == 1 and _wrong_numbers(attempt.wants[shown], attempt.outcomes[shown]) < FEW:
        return None
    where = "on this case" if of == 1 else f"on all {of} failing cases" if count == of else f"on {count} of {of} failing cases"
    return Cause(f"{where} it looks like this: {says}", shown)


def _by_looks(attempt: Attempt) -> Cause | None:
    seen = clearest(attempt.cases, attempt.wants, attempt.outcomes, attempt.failing, attempt.ordinary)
    return Cause(seen[1], seen[0]) if seen else None


def _equal_everywhere(one: list[Outcome], other: list[Outcome]) -> bool:
    return all(same(a, b) for a, b in zip(one, other, strict=True))


def _like(want: Outcome, mistake: Outcome, got: Outcome) -> bool:
    """Whether a mistake's numbers came. Any may end in NaN, and what ends there hides nothing of the rest."""
    mistake, got = as_wanted(want, mistake), as_wanted(want, got)
    if same(mistake, got):
        return True
    if not _wrong_numbers(want, got) or mistake.values is None or len(mistake.values) != len(got.values):
        return False
    pairs = [*zip(mistake.values, got.values, strict=True), *gradient_pairs(mistake, got)]
    return all(m.shape == g.shape and not (wrong_places(m, g) & ~g.isnan()).any() for m, g in pairs)


def _wrong_numbers(want: Outcome, got: Outcome) -> int:
    """How many numbers are clearly wrong, and not only NaN or hardly wrong; all of a wrong shape."""
    got = as_wanted(want, got)
    if got.values is None or len(got.values) != len(want.values):
        return 0
    pairs = [*zip(want.values, got.values, strict=True), *gradient_pairs(want, got)]
    return sum(
        g.numel() if w.shape != g.shape else int((wrong_places(w, g, slack=10) & torch.isfinite(g)).sum()) for w, g in pairs
    )
