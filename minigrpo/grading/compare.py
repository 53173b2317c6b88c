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
    want, have = want.to(torch.float64), have.to(torch.float64)
    tolerance = ABSOLUTE + RELATIVE * want.abs()
    wrong = ~((want - have).abs() <= tolerance) & ~(want.isnan() & have.isnan()) & ~(want == have)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f" at {place if len(place) > 1 else place[0]}" if place else ""
    return f"is {_number(have[place])}{where}, wanted is {_number(want[place])}"


def _number(value: Tensor) -> str:
    number = value.item()
    return f"{number:.6g}" if math.isfinite(number) else str(number)


def first_failure(question: Question, outcomes: list[Outcome], cases: list[Case]) -> tuple[Case, str] | None:
    """The first case that fails, and why."""
    for case, got in zip(cases, outcomes, strict=True):
        sentence = difference(run(question.reference, case), got)
        if sentence:
            return case, sentence
    return None


def diagnose(question: Question, outcomes: list[Outcome], cases: list[Case]) -> str | None:
    """What a known mistake says, if its outcomes are these on *all* cases."""
    for mistake in question.mistakes:
        if all(same(run(mistake.function, case), got) for case, got in zip(cases, outcomes, strict=True)):
            return mistake.says
    return None
