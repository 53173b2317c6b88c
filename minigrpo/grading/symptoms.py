"""What wrong numbers look like beside the wanted ones: where a mistake has no name, a sentence that is true of the numbers.

The numbers may come from anybody: nothing here raises or is slow, whatever their shape, and be they NaN, infinite or none.
"""

import torch
from torch import Tensor

from minigrpo.grading.compare import ABSOLUTE, RELATIVE, as_wanted, gradient_pairs, wanted, wrong_places
from minigrpo.grading.questions import Case, Question
from minigrpo.grading.worker import Outcome

GRADIENT_RIGHT = "the gradient is right, the value is not: what is wrong carries no gradient."


def clearest(question: Question, outcomes: list[Outcome], cases: list[Case], failing: list[int]) -> tuple[int, str] | None:
    """Which of the failing cases shows most, and what it shows; None where the first one ended in an error, which says more."""
    if outcomes[failing[0]].values is None:
        return None
    seen = [symptom(wanted(question, cases[i]), outcomes[i], cases[i].gradient) for i in failing]
    found = [(*one, number) for one, number in zip(seen, failing, strict=True) if one]
    if not found:
        return None
    _, sentence, number = min(found, key=lambda one: one[0])
    return number, sentence


def symptom(want: Outcome, got: Outcome, names: tuple[str, ...] = ()) -> tuple[float, str] | None:
    """(rank, sentence) about one case, the lower the more telling; None where no numbers came, or all are right."""
    got = as_wanted(want, got)
    if got.values is None or len(got.values) != len(want.values):
        return None
    values = [_look(one, have) for one, have in zip(want.values, got.values, strict=True)]
    gradients = [_look(one, have) for one, have in gradient_pairs(want, got)]
    found = [(one[0], f"{_which(values, number)}{one[1]}") for number, one in enumerate(values) if one]
    if found and not any(gradients) and any(g is not None and g.any() for g in want.gradients or []):
        found.append((LOOKS.index(_somewhere) - len(LOOKS) - 0.5, GRADIENT_RIGHT))
    start = "in the gradient" if found else "the value is right, but in its gradient"
    for name, one in zip(names, gradients, strict=False):
        of = f", with respect to {name}" if len(gradients) > 1 else ""
        found += [(one[0], f"{start}{of}, {one[1]}")] if one else []
    return min(found, key=lambda one: one[0], default=None)


def _which(values: list, number: int) -> str:
    """Where there are several results: "in result 2 (1 is right), "."""
    right = [other + 1 for other, one in enumerate(values) if not one]
    others = f" ({_and(right)} {'is' if len(right) == 1 else 'are'} right)" if right else ""
    return f"in result {number + 1}{others}, " if len(values) > 1 else ""


def _look(want: Tensor, have: Tensor) -> tuple[float, str] | None:
    """What the first look that sees something sees in one tensor, and the rank of that look."""
    if want.shape != have.shape:
        return -len(LOOKS), _shapes(want, have)
    wrong, looks = wrong_places(want, have), LOOKS
    if not wrong.any():
        return None
    if want.dtype == have.dtype == torch.bool:
        looks = BOOLEAN_LOOKS
    elif not want.is_floating_point():
        looks = INTEGER_LOOKS  # a difference or a quotient of two token ids means nothing
    want, have = want.to(torch.float64), have.to(torch.float64)
    return next((rank, says) for rank, look in enumerate(looks, -len(looks)) if (says := look(want, have, wrong)))


def _shapes(want: Tensor, have: Tensor) -> str:
    if want.dim() > have.dim():
        return "an axis is missing: was it summed, averaged or indexed away?"
    if want.dim() < have.dim():
        return "there is an axis too many: is a sum, a mean or an index missing?"
    axis = next(i for i in range(want.dim()) if want.shape[i] != have.shape[i])
    return f"along axis {axis} there are {have.shape[axis]} numbers, wanted are {want.shape[axis]}: look at slices and sums."


# --- words ------------------------------------------------------------------------------------------------------------------


def _where(wrong: Tensor) -> str:
    """The rows, columns ... outside of which nothing is wrong, as ", only at row 2"; empty where no short list says it."""
    nouns = {1: ("place",), 2: ("row", "column"), 3: ("axis-0 place", "axis-1 place", "axis-2 place")}.get(wrong.dim(), ())
    parts = []
    for axis, noun in enumerate(nouns):
        here = wrong.transpose(0, axis).reshape(len(wrong.transpose(0, axis)), -1).any(1)
        places, others = (which.nonzero().flatten().tolist() for which in (here, ~here))
        if others and places == [len(here) - 1]:
            parts.append(f"only at the last {noun}")
        elif others and len(places) <= 4:
            parts.append(f"only at {noun}{'s' * (len(places) > 1)} {_and(places)}")
        elif 1 <= len(others) <= 4:
            parts.append(f"at all {noun}s but {_and(others)}")
    return "".join(f", {part}" for part in parts)


def _and(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def _who(wrong: Tensor) -> str:
    count = int(wrong.sum())
    if count == wrong.numel():
        return "every number" if count > 1 else "the number"
    return f"{'each' if count > 1 else 'the'} wrong number ({count} of {wrong.numel()}{_where(wrong)})"


def _sides(want: Tensor, have: Tensor, wrong: Tensor) -> str:
    large = int((have > want)[wrong].sum())
    small = int(wrong.sum()) - large
    return f"{large} too large and {small} too small" if large and small else f"too {'large' if large else 'small'}"


def _fraction(number: float) -> str:
    part = round(1 / number) if _is_whole(1 / number) else 1
    if abs(part) > 1:
        return f"{'-' * (part < 0)}1/{abs(part)}"
    return f"{number:.7g}" if abs(abs(number) - 1) < 0.01 else f"{number:.4g}"


# --- claims -----------------------------------------------------------------------------------------------------------------


def _alike(have: Tensor, claim: Tensor) -> bool:
    """Equal but for rounding in float32. Measured against the claim alone, so that small numbers are not all alike."""
    tolerance = RELATIVE * claim.abs() + (1e-7 * claim.abs().max()).clamp(max=ABSOLUTE)
    return bool((claim.isfinite() & ((have - claim).abs() <= tolerance)).all())


def _is_whole(number: float) -> bool:
    return 0.9 < abs(number) < 100 and abs(number - round(number)) < 1e-5


def _factor(want: Tensor, have: Tensor) -> float | None:
    """What all wanted numbers were multiplied by. A lone number is a multiple of any: there only a simple factor counts."""
    factor = ((have * want).sum() / (want * want).sum()).item()
    simple = factor and (_is_whole(factor) or _is_whole(1 / factor))
    return factor if (len(want) > 1 or simple) and _alike(have, factor * want) else None


# --- looks: (want, have, wrong), float64 or bool of one shape, at least one number wrong -> a sentence or None ----------------


def _not_finite(want, have, wrong):
    for bad, what, advice in (
        (
            have.isnan() & want.isfinite(),
            "NaN stands where a number is wanted",
            "0 / 0, inf - inf, or the logarithm or root of a negative number makes it",
        ),
        (have.isinf() & want.isfinite(), "infinity stands where a number is wanted", "x / 0, log(0) or a large exp makes it"),
        (want.isnan(), "NaN is wanted where something else stands", "what has no value must not be given one"),
        (want.isinf(), "infinity is wanted where something else stands", "look for what is cut off or replaced"),
    ):
        if (bad & wrong).any():
            return f"{what}{_where(bad & wrong)}: {advice}."
    return None


def _turned(want, have, wrong):
    if _alike(have[wrong], -want[wrong]):
        return f"{_who(wrong)} is minus the wanted one: look for a wrong sign, or a difference the wrong way round."
    return None


def _zero_wanted(want, have, wrong):
    if not want[wrong].any():
        return f"{_who(wrong)} stands where 0 is wanted: is something counted that should be left out?"
    return None


def _zero_got(want, have, wrong):
    if not have[wrong].any():
        return f"{_who(wrong)} is 0, where other numbers are wanted."
    return None


def _times(want, have, wrong):
    factor = _factor(want[wrong], have[wrong])
    if factor:
        sign = ", and for a wrong sign" if factor < 0 else ""
        if abs(abs(factor) - 1) < 0.01:
            return f"{_who(wrong)} is {_fraction(factor)} times the wanted one: look at small constants."
        return f"{_who(wrong)} is {_fraction(factor)} times the wanted one: look for a factor too many or too few{sign}."
    return None


def _times_by_row(want, have, wrong):
    rows = wrong.any(-1)
    if want.dim() != 2 or want[rows].count_nonzero(1).lt(2).any():  # a lone number is a multiple of any
        return None
    want, have = want[rows], have[rows]
    factors = (have * want).sum(1, keepdim=True) / (want * want).sum(1, keepdim=True)
    if len(want) > 1 and _alike(have, factors * want):
        return "each wrong row is the wanted row times a number of its own: look at what is multiplied or divided row by row."
    return None


def _off(want, have, wrong):
    off = (have - want)[wrong]
    if len(off) > 1 and _alike(off, off[0].expand_as(off)):
        side = "above" if off[0] > 0 else "below"
        return f"{_who(wrong)} is {off[0].abs().item():.4g} {side} the wanted one: look for a term too many, or a missing one."
    return None


def _off_by_row(want, have, wrong):
    off = have - want
    if want.dim() == 2 and want.shape[1] > 1 and _alike(off, off[:, :1].expand_as(off)):
        return "in each row all numbers are off by the same amount: look at what is added or subtracted row by row."
    return None


def _function(want, have, wrong):
    for what, function, advice in (
        ("exp of the wanted one", torch.exp, "is there an exp too many, or a logarithm missing?"),
        ("the logarithm of the wanted one", torch.log, "is there a logarithm too many, or an exp missing?"),
        ("1 over the wanted one", torch.reciprocal, "is a ratio upside down?"),
        ("the square of the wanted one", torch.square, "is something multiplied by itself?"),
        ("the root of the wanted one", torch.sqrt, "is there a root too many?"),
    ):
        if _alike(have[wrong], function(want[wrong])):
            return f"{_who(wrong)} is {what}: {advice}"
    return None


def _constant(want, have, wrong):
    first, came = want.flatten()[0], have.flatten()[0]
    if want.numel() > 1 and (want == first).all():
        return f"{first.item():.4g} is wanted everywhere here, and other numbers came: what should cancel, and does not?"
    if want.numel() > 1 and (have == came).all():
        return f"every number is {came.item():.4g}, and different ones are wanted: is something averaged or indexed too early?"
    return None


def _shifted(want, have, wrong):
    for axis in range(want.dim()):
        rest = want.shape[axis] - 1
        for shift, when in ((1, "late"), (0, "early")):
            moved, came = want.narrow(axis, 1 - shift, rest), have.narrow(axis, shift, rest)
            if rest > 1 and (moved != moved.flatten()[0]).any() and not wrong_places(moved, came).any():
                return f"the wanted numbers stand one place too {when} along axis {axis}: look at where slices begin and end."
    return None


def _moved(want, have, wrong):
    for axis in range(want.dim()):
        if not wrong_places(want.flip(axis), have).any():
            return f"the wanted numbers stand in reverse order along axis {axis}."
    if want.dim() == 2 and want.shape[0] == want.shape[1] and not wrong_places(want.T, have).any():
        return "rows and columns are exchanged."
    if not wrong_places(want[wrong].sort().values, have[wrong].sort().values).any():
        return "the wanted numbers are all there, but at other places: look at the order, or at an index."
    return None


def _exchanged(want, have, wrong):
    return "True and False are exchanged." if wrong.all() else None


def _booleans(want, have, wrong):
    wanted, times = want[wrong].bool(), f"{int(wrong.sum())} of {wrong.numel()} times{_where(wrong)}"
    if wanted.any() and not wanted.all():
        true = int(wanted.sum())
        return f"{times}, the wrong one came: True is wanted {true} of these times, and False {len(wanted) - true} times."
    return f"{not wanted[0]} stands where {bool(wanted[0])} is wanted, {times}; never the other way round."


def _hardly(want, have, wrong):
    """Where rounding and what is wrong cannot be told apart, neither a count nor a place would be true."""
    if torch.isfinite(want - have).all() and bool((wrong_places(want, have, slack=0.4) != wrong).any()):
        off = (want - have).abs().max().item()
        return f"nothing is off by more than {off:.3g}, some of it hardly: work it out by hand, with all small constants."
    return None


def _somewhere(want, have, wrong):
    where, count = _where(wrong), f"wrong are {int(wrong.sum())} of {wrong.numel()} numbers"
    return (
        f"{count}{where} ({_sides(want, have, wrong)}): what is special there?"
        if where and not _hardly(want, have, wrong)
        else None
    )


def _counted(want, have, wrong):
    if says := _hardly(want, have, wrong):
        return says
    count, sides = int(wrong.sum()), _sides(want, have, wrong)
    if wrong.numel() == 1:
        return f"the number is {sides}, by {(have - want).abs().item():.4g}: work it out by hand, step by step."
    which = "all" if count == wrong.numel() else f"{count} of"
    return f"wrong are {which} {wrong.numel()} numbers, {sides}: work one of them out by hand, step by step."


# The most telling first; the last one always sees something.
LOOKS = (
    *(_not_finite, _turned, _zero_wanted, _zero_got, _times, _times_by_row, _off, _off_by_row),
    *(_function, _shifted, _moved, _constant, _somewhere, _counted),
)
INTEGER_LOOKS = (_not_finite, _moved, _constant, _somewhere, _counted)
BOOLEAN_LOOKS = (_exchanged, _shifted, _booleans)
