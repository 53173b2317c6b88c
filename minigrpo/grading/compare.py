"""Two results, compared: kinds, shapes, values, and the gradients that flow back from them."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from minigrpo.grading import worker
from minigrpo.grading.questions import Case, Question
from minigrpo.grading.worker import Outcome

# What float32 earns: inputs are float32, the reference computes with the same numbers in float64. The third part lets through
# what small numbers lose beside large ones in a sum.
RELATIVE, ABSOLUTE, BESIDE = 2e-5, 5e-6, 3e-7
LARGE = 1e3  # beside anything larger, numbers would hide


def run(function: Callable, case: Case) -> Outcome:
    """What ``function`` gives for a case, in this process."""
    return worker.run(function, case.args, case.gradient)


def outcome_of(question: Question, case: Case, ask: Callable[[Case], Outcome]) -> Outcome:
    """What an answer comes to on a case; ``ask`` calls it."""
    return question.trial(ask, case) if question.trial else ask(case)


def wanted(question: Question, case: Case) -> Outcome:
    """What the reference gives for the same numbers, in float64."""
    return run(question.reference, case.to(torch.float64))


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are equal in values and gradients."""
    return one.values is not None and other.values is not None and difference(one, other) is None


def as_wanted(want: Outcome, got: Outcome) -> Outcome:
    """Rows, or single numbers, of what is wanted as one tensor, put together."""
    if not got.values or len(want.values or ()) != 1 or got.values[0].shape == want.values[0].shape:
        return got
    shape, parts = want.values[0].shape, got.values
    rows = math.prod(shape[: len(shape) - parts[0].dim()]) == len(parts) and parts[0].dim() < len(shape)
    if not rows or any(p.shape != shape[len(shape) - p.dim() :] or p.dim() != parts[0].dim() for p in parts):
        return got
    return replace(got, values=[torch.stack([p.to(parts[0].dtype) for p in parts]).reshape(shape)])


def difference(want: Outcome, got: Outcome) -> str | None:
    """The first difference in a sentence; None where there is none."""
    if got.changed is not None:
        return f"the function changed its argument {got.changed!r}; work on a copy ({got.changed}.clone())"
    if got.error is not None:
        return f"it raised {got.error}"
    got = as_wanted(want, got)
    if len(got.values) != len(want.values):
        return f"it returned {_results(len(got.values))}, wanted {'is' if len(want.values) == 1 else 'are'} {len(want.values)}"
    for number, (one, have) in enumerate(zip(want.values, got.values, strict=True), 1):
        which = f"result {number}" if len(want.values) > 1 else "the result"
        if sentence := _shape(one, have) or _kind(one, have) or _first_difference(one, have):
            return f"{which} {sentence}"
    wants = want.gradients or []
    for one, have in zip(wants, got.gradients or [None] * len(wants), strict=True):
        if one is None and have is None:
            continue
        missing = have is None  # no gradient is a gradient of 0
        one = torch.zeros_like(have) if one is None else one
        have = torch.zeros_like(one) if have is None else have
        if sentence := _shape(one, have) or _first_difference(one, have):
            none = " (no gradient flows at all)" if missing else ""
            return f"the value is right, but the gradient is not{none}: it {sentence}"
    return None


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"


def _shape(want: Tensor, have: Tensor) -> str | None:
    return None if want.shape == have.shape else f"has the shape {tuple(have.shape)}, wanted is {tuple(want.shape)}"


def _kind(want: Tensor, have: Tensor) -> str | None:
    """Masks are bool and ids integers, since what they go into wants them so; among floats the width is free."""
    kind = str(have.dtype).removeprefix("torch.")
    if want.dtype == torch.bool and have.dtype != torch.bool:
        return f"has the dtype {kind}, wanted is bool: True and False"
    if not (want.is_floating_point() or want.dtype == torch.bool) and (have.is_floating_point() or have.dtype == torch.bool):
        return f"has the dtype {kind}, wanted are integers"
    return None


def _first_difference(want: Tensor, have: Tensor) -> str | None:
    wrong = wrong_places(want, have)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f" at {place if len(place) > 1 else place[0]}" if place else ""
    return f"is {number_of(have[place])}{where}, wanted is {number_of(want[place])}"


def wrong_places(want: Tensor, have: Tensor, slack: float = 1.0) -> Tensor:
    """Two tensors of one shape -> bool of that shape, True where they differ by more than ``slack`` times rounding."""
    want, have = want.to(torch.float64), have.to(torch.float64)
    finite = want.isfinite()
    largest = torch.where(finite, want, 0.0).abs().max().clamp(max=LARGE) if want.numel() else 0.0
    tolerance = slack * (ABSOLUTE + RELATIVE * want.abs() + BESIDE * largest)
    near = finite & ((want - have).abs() <= tolerance)  # everything is within an infinite tolerance
    return ~(near | (want.isnan() & have.isnan()) | (want == have))


def number_of(value: Tensor) -> str:
    """One number, True or False as a person reads it."""
    number = value.item()
    if type(number) is bool:
        return str(number)
    return f"{number:.6g}" if math.isfinite(number) else str(number)


def failure(question: Question, case: Case, got: Outcome) -> str | None:
    """Why a case fails, in a sentence; None where it passes."""
    if question.accepts and got.values is not None:
        return question.accepts(got, case)
    sentence = difference(wanted(question, case), got)
    # What float32 costs the reference itself it may cost anybody.
    return sentence and (None if same(run(question.reference, case), got) else sentence)


def gradient_pairs(want: Outcome, got: Outcome) -> list[tuple[Tensor, Tensor]]:
    """The wanted gradients beside those that came; where none flows, that is a gradient of 0."""
    wants, pairs = want.gradients or [], []
    for one, have in zip(wants, got.gradients or [None] * len(wants), strict=False):
        zero = torch.zeros_like(next((tensor for tensor in (one, have) if tensor is not None), torch.zeros(())))
        pairs.append((zero if one is None else one, zero if have is None else have))
    return pairs
