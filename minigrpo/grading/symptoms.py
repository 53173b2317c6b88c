"""What wrong numbers look like: where a mistake has no name, a sentence that is true of them, and no surer than the cases bear.

One case proves little: any number is a multiple of any other, and the gradient of a softmax over two is g and -g, whatever was
done. So what usually makes numbers look so is said only where all failing cases look so; else what is seen, and no more.
"""

from collections import Counter

import torch

from minigrpo.grading.compare import as_wanted, gradient_pairs
from minigrpo.grading.looks import Sight, listed, look
from minigrpo.grading.questions import Case
from minigrpo.grading.worker import Outcome

NOUNS = {"times": "factor", "off": "amount"}
Sights = dict[tuple[str, str], Sight]  # by the tensor, and what is so of it


def clearest(
    cases: list[Case], wants: list[Outcome], outcomes: list[Outcome], failing: list[int], shown: list[int]
) -> tuple[int, str] | None:
    """Which of the cases ``shown``, some of the failing ones, shows most, and what; None where no numbers came."""
    if confused := _confused([(wants[n], outcomes[n]) for n in failing]):
        return shown[0], confused
    seen = {n: sights(wants[n], outcomes[n], cases[n].gradient) for n in failing}
    stated = [(*one, n) for n in shown for key, sight in seen[n].items() if (one := _stated(key, sight, seen))]
    if not stated:
        return None
    _, sentence, number = min(stated, key=lambda one: one[0])
    return number, sentence


def _confused(pairs: list[tuple[Outcome, Outcome]]) -> str | None:
    """Where each result is one of a few numbers that stand for something: how often which came for which."""
    if not all(_is_kind(outcome) for pair in pairs for outcome in pair):
        return None
    counts = Counter((got.values[0].item(), want.values[0].item()) for want, got in pairs)
    most = counts.most_common(4)
    told = [f"in {n} case{'s' * (n > 1)} {got} came where {want} is wanted" for (got, want), n in most]
    return f"{', '.join(told)}{', and others' * (len(counts) > 4)}."


def _is_kind(outcome: Outcome) -> bool:
    """Whether a result is one integer, as of a class."""
    values = outcome.values or []
    return len(values) == 1 and values[0].numel() == 1 and values[0].dtype == torch.int64


def sights(want: Outcome, got: Outcome, names: tuple[str, ...] = ()) -> Sights:
    """All that is so of the results of a case, and of their gradients with respect to ``names``."""
    got = as_wanted(want, got)
    if got.values is None or len(got.values) != len(want.values):
        return {}
    values = [look(one, have) for one, have in zip(want.values, got.values, strict=True)]
    gradients = [look(one, have) for one, have in gradient_pairs(want, got)]
    found = {}
    for number, one in enumerate(values):
        which = _which(values, number)
        found |= {(f"result {number}", s.kind): s._replace(fact=f"{which}{s.fact}") for s in one}
    wrong, flows = any(values), any(g is not None and g.any() for g in want.gradients or [])
    if wrong and not any(gradients):
        fact = "the gradient is right, the value is not"
        found["all", "gradient right"] = Sight("gradient right", fact, "what is wrong carries no gradient.", int(flows))
    start = "in the gradient" if wrong else "the value is right, but in its gradient"
    for name, one in zip(names, gradients, strict=False):
        of = f", with respect to {name}" if len(gradients) > 1 else ""
        found |= {(f"{start} {name}", s.kind): s._replace(fact=f"{start}{of}, {s.fact}") for s in one}
    return found


def _which(values: list, number: int) -> str:
    """Where there are several results: "in result 2 (1 is right), "."""
    right = [other + 1 for other, one in enumerate(values) if not one]
    others = f" ({listed(right)} {'is' if len(right) == 1 else 'are'} right)" if right else ""
    return f"in result {number + 1}{others}, " if len(values) > 1 else ""


def _stated(key: tuple[str, str], sight: Sight, seen: dict[int, Sights]) -> tuple[float, str] | None:
    """(rank, sentence): what is seen in one case, with what usually makes it so only if every failing case bears it."""
    if not sight.advice:
        return sight.rank, sight.fact
    everywhere = [one[key] for one in seen.values() if key in one]
    always, numbers = len(everywhere) == len(seen), [one.number for one in everywhere]
    alike = None not in numbers and max(numbers) - min(numbers) <= 1e-4 * abs(sight.number)
    beside = key[0].startswith("in the gradient")  # the value is wrong as well, and this says nothing of it
    if always and (sum(one.bears > 0 for one in everywhere) >= 2 or (alike and len(seen) > 2)):
        varies = f" (in other cases it is another {NOUNS[sight.kind]})" if sight.kind in NOUNS and not alike else ""
        return sight.rank, f"{sight.fact}{varies}{'.' if beside else f': {sight.advice}'}"
    if beside or sight.bears < 2:
        return None
    fact = sight.fact if len(seen) == 1 else f"in this case, {sight.fact}{'' if always else ', but not in every failing case'}"
    return -2.5 + sight.rank / 1000, f"{fact}."
