"""What wrong numbers look like beside the wanted ones: every look that sees something in one tensor says what is so of it.

The numbers may come from anybody: nothing here raises or is slow, whatever their shape, and be they NaN, infinite or none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minigrpo.grading.compare import ABSOLUTE, RELATIVE, wrong_places


class Sight(NamedTuple):
    """What is so of the numbers of one case, and, if it were so of every failing case, what usually makes it so."""

    kind: str  # the same in two cases in which the same is so
    fact: str
    advice: str = ""  # none for what is seen in one case only, and no law
    bears: int = 0  # how many numbers might have spoken against it: none where any number is a multiple of any other
    number: float | None = None  # by how much
    rank: float = -2.5  # the lower the more telling, -1 for a mere count


def look(want: Tensor, have: Tensor) -> list[Sight]:
    """All that is seen in one tensor; nothing where it is right."""
    if want.shape != have.shape:
        return [Sight("shape", _shapes(want, have), rank=-len(LOOKS))]
    wrong, looks = wrong_places(want, have), LOOKS
    if not wrong.any():
        return []
    if want.dtype == have.dtype == torch.bool:
        looks = BOOLEAN_LOOKS
    elif not want.is_floating_point():
        looks = INTEGER_LOOKS  # a difference or a quotient of two token ids means nothing
    want, have = want.to(torch.float64), have.to(torch.float64)
    ranked = enumerate(looks, -len(looks))
    return [sight._replace(rank=rank) for rank, one in ranked for sight in one(want, have, wrong)]


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
            parts.append(f"only at {noun}{'s' * (len(places) > 1)} {listed(places)}")
        elif 1 <= len(others) <= 4:
            parts.append(f"at all {noun}s but {listed(others)}")
    return "".join(f", {part}" for part in parts)


def listed(numbers: list[int]) -> str:
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


# --- looks: (want, have, wrong), float64 or bool of one shape, at least one number wrong -> what is so ------------------------


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
            yield Sight(what, f"{what}{_where(bad & wrong)}: {advice}.")
            return


def _turned(want, have, wrong):
    if _alike(have[wrong], -want[wrong]):
        advice = "look for a wrong sign, or a difference the wrong way round."
        yield Sight("minus", f"{_who(wrong)} is minus the wanted one", advice, int(wrong.sum()))


def _zero_wanted(want, have, wrong):
    if not want[wrong].any():
        advice = "is something counted that should be left out?"
        yield Sight("0 wanted", f"{_who(wrong)} stands where 0 is wanted", advice, int(wrong.sum()))


def _zero_got(want, have, wrong):
    if not have[wrong].any():
        yield Sight("0", f"{_who(wrong)} is 0, where other numbers are wanted.")


def _times(want, have, wrong):
    """Two numbers may be multiples of the wanted ones by what they are, as the gradient of a softmax over two: g and -g."""
    want, have = want[wrong], have[wrong]
    factor = ((have * want).sum() / (want * want).sum()).item()
    if factor and _alike(have, factor * want):
        simple = _is_whole(factor) or _is_whole(1 / factor)
        advice = f"look for a factor too many or too few{', and for a wrong sign' if factor < 0 else ''}."
        advice = "look at small constants." if abs(abs(factor) - 1) < 0.01 else advice
        fact = f"{_who(wrong)} is {_fraction(factor)} times the wanted one"
        yield Sight("times", fact, advice, len(want) - 2 + bool(simple), factor)


def _times_by_row(want, have, wrong):
    rows = wrong.any(-1) if want.dim() == 2 else None
    if rows is None or not want[rows].any(1).all():
        return
    counts, want, have = want[rows].count_nonzero(1), want[rows], have[rows]
    factors = (have * want).sum(1, keepdim=True) / (want * want).sum(1, keepdim=True)
    if _alike(have, factors * want):
        fact = "each wrong row is the wanted row times a number of its own"
        advice = "look at what is multiplied or divided row by row."
        yield Sight("times by row", fact, advice, int((counts - 2).clamp(min=0).sum()) * (len(want) > 1))


def _off(want, have, wrong):
    off = (have - want)[wrong]
    if _alike(off, off[0].expand_as(off)):
        fact = f"{_who(wrong)} is {off[0].abs().item():.4g} {'above' if off[0] > 0 else 'below'} the wanted one"
        yield Sight("off", fact, "look for a term too many, or a missing one.", len(off) - 1, off[0].item())


def _off_by_row(want, have, wrong):
    off = have - want
    if want.dim() == 2 and _alike(off, off[:, :1].expand_as(off)):
        fact = "in each row all numbers are off by the same amount"
        yield Sight("off by row", fact, "look at what is added or subtracted row by row.", len(off) * (want.shape[1] - 1))


def _function(want, have, wrong):
    for what, function, advice in (
        ("exp of the wanted one", torch.exp, "is there an exp too many, or a logarithm missing?"),
        ("the logarithm of the wanted one", torch.log, "is there a logarithm too many, or an exp missing?"),
        ("1 over the wanted one", torch.reciprocal, "is a ratio upside down?"),
        ("the square of the wanted one", torch.square, "is something multiplied by itself?"),
        ("the root of the wanted one", torch.sqrt, "is there a root too many?"),
    ):
        if _alike(have[wrong], function(want[wrong])):
            yield Sight(what, f"{_who(wrong)} is {what}", advice, int(wrong.sum()))


def _shifted(want, have, wrong):
    for axis in range(want.dim()):
        rest = want.shape[axis] - 1
        for shift, when in ((1, "late"), (0, "early")):
            moved, came = want.narrow(axis, 1 - shift, rest), have.narrow(axis, shift, rest)
            if not wrong_places(moved, came).any():
                fact = f"the wanted numbers stand one place too {when} along axis {axis}"
                bears = moved.numel() if rest > 1 and (moved != moved.flatten()[0]).any() else 0
                yield Sight(f"{when} {axis}", fact, "look at where slices begin and end.", bears)


def _moved(want, have, wrong):
    for axis in range(want.dim()):
        if not wrong_places(want.flip(axis), have).any():
            yield Sight(f"reverse {axis}", f"the wanted numbers stand in reverse order along axis {axis}.")
    if want.dim() == 2 and want.shape[0] == want.shape[1] and not wrong_places(want.T, have).any():
        yield Sight("turned", "rows and columns are exchanged.")
    if not wrong_places(want[wrong].sort().values, have[wrong].sort().values).any():
        fact = "the wanted numbers are all there, but at other places"
        yield Sight("moved", fact, "look at the order, or at an index.", int(wrong.sum()) - 1)


def _constant(want, have, wrong):
    first, came = want.flatten()[0], have.flatten()[0]
    if want.numel() > 1 and (want == first).all():
        yield Sight("equal wanted", f"{first.item():.4g} is wanted everywhere here, and other numbers came.")
    elif (have == came).all():
        fact = f"every number is {came.item():.4g}, and different ones are wanted"
        yield Sight("equal", fact, "is something averaged or indexed too early?", want.numel() - 1)


def _exchanged(want, have, wrong):
    if wrong.all():
        yield Sight("exchanged", "True and False are exchanged.")


def _booleans(want, have, wrong):
    wanted, times = want[wrong].bool(), f"{int(wrong.sum())} of {wrong.numel()} times{_where(wrong)}"
    true = int(wanted.sum())
    counts = f"True is wanted {true} of these times, and False {len(wanted) - true} times"
    fact = f"{not wanted[0]} stands where {bool(wanted[0])} is wanted, {times}; never the other way round."
    yield Sight("booleans", f"{times}, the wrong one came: {counts}." if 0 < true < len(wanted) else fact)


def _hardly(want, have, wrong):
    """Where rounding and what is wrong cannot be told apart, neither a count nor a place would be true."""
    if torch.isfinite(want - have).all() and bool((wrong_places(want, have, slack=0.4) != wrong).any()):
        off = (want - have).abs().max().item()
        small = ", with all small constants" if off < 1e-2 * want.abs().max() else ", step by step"
        return f"the largest error is {off:.3g}, and some are near rounding: work it out by hand{small}."
    return None


def _somewhere(want, have, wrong):
    if (where := _where(wrong)) and not _hardly(want, have, wrong):
        count = f"wrong are {int(wrong.sum())} of {wrong.numel()} numbers"
        yield Sight("somewhere", f"{count}{where} ({_sides(want, have, wrong)}): what is special there?")


def _counted(want, have, wrong):
    count, sides = int(wrong.sum()), _sides(want, have, wrong)
    if says := _hardly(want, have, wrong):
        yield Sight("counted", says)
    elif wrong.numel() == 1:
        by = (have - want).abs().item()
        yield Sight("counted", f"the number is {sides}, by {by:.4g}: work it out by hand, step by step.")
    else:
        which = "all" if count == wrong.numel() else f"{count} of"
        yield Sight(
            "counted", f"wrong are {which} {wrong.numel()} numbers, {sides}: work one of them out by hand, step by step."
        )


# The most telling first; the last one always sees something.
LOOKS = (
    *(_not_finite, _turned, _zero_wanted, _zero_got, _times, _times_by_row, _off, _off_by_row),
    *(_function, _shifted, _moved, _constant, _somewhere, _counted),
)
INTEGER_LOOKS = (_not_finite, _moved, _constant, _somewhere, _counted)
BOOLEAN_LOOKS = (_exchanged, _shifted, _booleans)
