"""Two results, compared: shapes, values, and the gradients that flow back from them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minigrpo.grading import worker
from minigrpo.grading.questions import Case, Question
from minigrpo.grading.worker import Outcome

# The absolute part lets through what was right but computed in float32, as a learner may.
RELATIVE, ABSOLUTE = 1e-5, 2e-6


def run(function: Callable, case: Case) -> Outcome:
    """What ``function`` gives for a case, in this process."""
    return worker.run(function, case.args, case.gradient)


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are equal in values and gradients."""
    return one.values is not None and other.values is not None and difference(one, other) is None


def difference(wanted: Outcome, got: Outcome) -> str | None:
    """The first difference in a sentence; None where there is none."""
    if got.changed is not None:
        return f"the function changed its argument {got.changed!r}; work on a copy ({got.changed}.clone())"
    if got.error is not None:
        return f"it raised {got.error}"
    if len(got.values) != len(wanted.values):
        return f"it returned {len(got.values)} results, wanted are {len(wanted.values)}"
    for number, (want, have) in enumerate(zip(wanted.values, got.values, strict=True), 1):
        which = f"result {number}" if len(wanted.values) > 1 else "the result"
        if want.shape != have.shape:
            return f"{which} has the shape {tuple(have.shape)}, wanted is {tuple(want.shape)}"
        sentence = _first_difference(want, have)
        if sentence:
            return f"{which} {sentence}"
    wants = wanted.gradients or []
    for want, have in zip(wants, got.gradients or [None] * len(wants), strict=True):
        if want is None and have is None:
            continue
        missing = have is None  # no gradient is a gradient of 0
        want = torch.zeros_like(have) if want is None else want
        have = torch.zeros_like(want) if have is None else have
        shapes = f"has the shape {tuple(have.shape)}, wanted is {tuple(want.shape)}"
        sentence = shapes if want.shape != have.shape else _first_difference(want, have)
        if sentence:
            none = " (no gradient flows at all)" if missing else ""
            return f"the value is right, but the gradient is not{none}: it {sentence}"
    return None


def _first_difference(want: Tensor, have: Tensor) -> str | None:
    wrong = wrong_places(want, have)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f" at {place if len(place) > 1 else place[0]}" if place else ""
    return f"is {_number(have[place])}{where}, wanted is {_number(want[place])}"


def wrong_places(want: Tensor, have: Tensor, slack: float = 1.0) -> Tensor:
    """Two tensors of one shape -> bool of that shape, True where they differ by more than ``slack`` times rounding."""
    want, have = want.to(torch.float64), have.to(torch.float64)
    tolerance = slack * (ABSOLUTE + RELATIVE * want.abs())
    near = want.isfinite() & ((want - have).abs() <= tolerance)  # everything is within an infinite tolerance
    return ~(near | (want.isnan() & have.isnan()) | (want == have))


def _number(value: Tensor) -> str:
    number = value.item()
    return f"{number:.6g}" if math.isfinite(number) else str(number)


def first_failure(question: Question, outcomes: list[Outcome], cases: list[Case]) -> tuple[Case, str] | None:
    """The first case that fails, and why."""
    for case, got in zip(cases, outcomes, strict=True):
        if question.accepts and got.values is not None:
            sentence = question.accepts(got.values)
        else:
            sentence = difference(run(question.reference, case), got)
        if sentence:
            return case, sentence
    return None


def diagnose(question: Question, outcomes: list[Outcome], cases: list[Case], failing: list[int]) -> tuple[int, str] | None:
    """What a known mistake says, if its outcomes are these on *all* cases, with the first case that fails."""
    for mistake in question.mistakes:
        if all(same(run(mistake.function, case), got) for case, got in zip(cases, outcomes, strict=True)):
            return failing[0], mistake.says
    return None


def diagnose_in_part(
    question: Question, outcomes: list[Outcome], cases: list[Case], failing: list[int]
) -> tuple[int, str] | None:
    """The known mistake whose outcomes came on most of the failing cases, alone, with the first of these cases."""
    explained: dict[str, list[int]] = {}
    for number in failing:
        got, wanted = outcomes[number], run(question.reference, cases[number])
        if not _says_something(wanted, got):
            continue
        named = [m for m in question.mistakes if same(run(m.function, cases[number]), got)]
        if len(named) == 1:  # two that agree on this case cannot be told apart by it
            explained.setdefault(named[0].says, []).append(number)
    if not explained:
        return None
    says, numbers = max(explained.items(), key=lambda item: len(item[1]))
    others = len(failing) - len(numbers)
    elsewhere = f" In {others} other {'case' if others == 1 else 'cases'} something else is wrong, too." if others else ""
    return numbers[0], f"on this case: {says}{elsewhere}"


def _says_something(wanted: Outcome, got: Outcome) -> bool:
    """Whether a number is clearly wrong. Any mistake can end in NaN, and any may come near in what is hardly wrong."""
    if got.values is None or len(got.values) != len(wanted.values):
        return False
    pairs = [*zip(wanted.values, got.values, strict=True), *gradient_pairs(wanted, got)]
    return any(w.shape != g.shape or (wrong_places(w, g, slack=10) & g.isfinite()).any() for w, g in pairs)


def gradient_pairs(wanted: Outcome, got: Outcome) -> list[tuple[Tensor, Tensor]]:
    """The wanted gradients beside those that came; where none flows, that is a gradient of 0."""
    wants, pairs = wanted.gradients or [], []
    for want, have in zip(wants, got.gradients or [None] * len(wants), strict=False):
        zero = torch.zeros_like(next((one for one in (want, have) if one is not None), torch.zeros(())))
        pairs.append((zero if want is None else want, zero if have is None else have))
    return pairs
