"""Wrong answers as a table: does each fail, and is what is said about it true and of use?

python -m tests.tools.known_mistakes [NAME ...] [--seed 0] [--most 40] [--show]

Three kinds are judged: the mistakes that are written by hand, alone; two of them at once; and unseen variants, the long-way
answers of solutions/src with one piece of their source changed, which no question knows of. The rule by which a row counts:

* named: a mistake is stated for all cases, and gives the same numbers on the inputs of four other seeds, too; or the function
  raises on every case, and its error is shown with the learner's line: nothing could name it more surely;
* useful: an error on some of the cases, a wrong shape or kind, a mistake for some of the failing cases, or a sentence about the
  numbers that is true and says more than how many are wrong, or what all failing cases, and they alone, have in common;
* by hand: the sentence only counts what is wrong, but a call of a few numbers is shown with its result and the wanted one;
* vague: it only counts what is wrong, or says where, or there is none, and no such call is shown;
* MISLEADING: what is said is not so, or its advice ("look for a factor") is not borne by every failing case, or the mistake
  that is named does not give these numbers on four other seeds;
* ACCEPTED: all points, and wrong on another seed. What is right on all seeds is no wrong answer ("equal").

Exits with 1 if anything is accepted or misleading, or more than a tenth is vague.
"""

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import jupytext
import torch

from minigrpo.grading import causes, compare, worker
from minigrpo.grading.check import Result, every_question, judge
from minigrpo.grading.mutations import derived, variants_of_tree
from minigrpo.grading.questions import Case, Mistake, Question
from minigrpo.grading.worker import Outcome
from tests.tools.claims import holds_everywhere, is_true

SOLUTIONS = Path(__file__).parents[2] / "solutions" / "src"
OTHER_SEEDS = 4
VAGUE = ("what is special there?", "work it out by hand", "work one of them out")


def pair_of(question: Question, one: Mistake, other: Mistake, case: Case) -> Callable:
    """A function with both mistakes, for one case: what each changes in the right numbers, added up, and so with gradients."""

    def both(*values):
        wide = (v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in values)
        args = dict(zip(case.args, wide, strict=True))  # so that no rounding comes in between
        right, first, second = (_results(f, args) for f in (question.reference, one.function, other.function))
        for wrong in (first, second):
            if [r.shape for r in wrong] != [r.shape for r in right]:
                return wrong  # the shapes of one mistake leave nothing to add the other to
        return [_added(*tensors) for tensors in zip(right, first, second, strict=True)]

    return both


def _results(function: Callable, args: dict) -> list[torch.Tensor]:
    args = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    return worker.flatten(function(**args) if worker._takes_names(function, args) else function(*args.values()))


def _added(right: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    if right.dtype == first.dtype == second.dtype == torch.bool:
        return first ^ second ^ right
    right, first, second = (r.to(torch.float64) if r.dtype == torch.bool else r for r in (right, first, second))
    both = first + (second - right)
    # Where a sum has no value (NaN is wanted, or infinity less infinity), the one that is wrong.
    return torch.where(both.isnan(), torch.where(_equal(first, right), second, first), both)


def _equal(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.isclose(one.double(), other.double(), rtol=3e-5, atol=1e-5, equal_nan=True)


class Judged(NamedTuple):
    """What became of a wrong answer."""

    question: Question
    names: str
    kind: str
    result: Result


@contextmanager
def remembered() -> Iterator[None]:
    """What the reference and the known mistakes give for a case is computed once, and not anew for every wrong answer."""
    known: dict = {}

    def once(function):
        def call(key, case):
            if (function, key, id(case)) not in known:
                known[function, key, id(case)] = (case, function(key, case))  # the case is kept, so that its id stays its own
            return known[function, key, id(case)][1]

        return call

    run, wanted = once(compare.run), once(compare.wanted)
    with (
        patch.object(causes, "run", run),
        patch.object(causes, "wanted", wanted),
        patch.object(causes, "tells", once(causes.tells)),
        patch.object(compare, "wanted", wanted),
    ):
        yield


def wrong_answers(question: Question, most: int) -> Iterator[tuple[str, str, Callable]]:
    """(kind, name, case -> function) of all that is tried."""
    for mistake in question.mistakes:
        yield "alone", mistake.name, lambda case, mistake=mistake: mistake.function
    for one, other in list(combinations(question.mistakes, 2))[:most]:
        yield "two", f"{one.name} + {other.name}", lambda case, one=one, other=other: pair_of(question, one, other, case)
    for old, new, function in _spread(unseen(question), most):
        yield "unseen", f"{old} -> {new}", lambda case, function=function: function


def _spread(found: list, most: int) -> list:
    return found[:: max(1, -(-len(found) // most))]


def unseen(question: Question) -> list[tuple[str, str, Callable]]:
    """The long-way answer of solutions/src, with every single change."""
    if question.accepts or not question.id.startswith("ex"):
        return []
    (path,) = SOLUTIONS.glob(f"{question.id[:4]}_*.py")
    for cell in jupytext.read(path, fmt="py:percent").cells:
        if cell.cell_type == "code" and f"def {question.name}(" in cell.source:
            return list(variants_of_tree(ast.parse(cell.source), question.name, {"torch": torch, "math": __import__("math")}))
    raise LookupError(f"{path} does not define {question.name}")


def judged(question: Question, seed: int, most: int) -> Iterator[tuple[str, Judged]]:
    """Every wrong answer of a question, judged."""
    cases, others = question.draw(seed), [question.draw(seed + 1000 + n) for n in range(OTHER_SEEDS)]
    with remembered():
        for kind, name, make in wrong_answers(question, most):
            outcomes = [worker.run(make(case), case.args, case.gradient) for case in cases]
            result = judge(question, cases, outcomes)
            yield kind, Judged(question, name, _kind(result, cases, outcomes, make, others), result)


def _kind(result: Result, cases: list[Case], outcomes: list[Outcome], make: Callable, others: list[list[Case]]) -> str:
    question = result.question
    if result.about is None:
        always = all(compare.failure(question, c, worker.run(make(c), c.args, c.gradient)) is None for cs in others for c in cs)
        return "equal" if always else "ACCEPTED"
    number = [case.about for case in cases].index(result.about)
    case, got = cases[number], outcomes[number]
    if compare.failure(question, case, got) is None:
        return "MISLEADING"  # nothing is wrong in the case that is shown
    if result.cause is None:
        if all("(in line" in (outcome.error or "") for outcome in outcomes):
            return "named"
        clear = question.accepts or got.values is None or " has the " in result.difference
        return "useful" if clear else "by hand" if result.small else "vague"
    return _of_cause(result, cases, outcomes, make, others)


def _of_cause(result: Result, cases: list[Case], outcomes: list[Outcome], make: Callable, others: list[list[Case]]) -> str:
    question, cause = result.question, result.cause
    pairs = [(want := compare.wanted(question, c), compare.as_wanted(want, o)) for c, o in zip(cases, outcomes, strict=True)]
    shown = [case.about for case in cases].index(result.about)
    named = [m for m in (*question.mistakes, *derived(question)) if m.says in cause]
    if not named or not (result.named or "like this: " in cause):
        failing = [p for c, o, p in zip(cases, outcomes, pairs, strict=True) if compare.failure(question, c, o)]
        if not is_true(cause, *pairs[shown]) or not holds_everywhere(cause, failing):
            return "MISLEADING"
        counts = any(words in cause for words in VAGUE) and "only where" not in cause
        return "useful" if not counts else "by hand" if result.small else "vague"
    if result.named:
        return "named" if any(all(_always(m, make, drawn) for drawn in others) for m in named) else "MISLEADING"
    return "useful" if any(_ever(question, m, make, others) for m in named) else "MISLEADING"


def _always(mistake: Mistake, make: Callable, cases: list[Case]) -> bool:
    return all(_same(compare.run(mistake.function, case), worker.run(make(case), case.args, case.gradient)) for case in cases)


def _ever(question: Question, mistake: Mistake, make: Callable, others: list[list[Case]]) -> bool:
    """Whether a mistake's numbers come again on a case that fails."""
    for case in (case for cases in others for case in cases):
        got = worker.run(make(case), case.args, case.gradient)
        if compare.failure(question, case, got) and _same(compare.run(mistake.function, case), got):
            return True
    return False


def _same(one: Outcome, other: Outcome) -> bool:
    """Equality again, by another route than the grader's, in values and gradients; NaN may stand for anything."""
    other = compare.as_wanted(one, other)
    if one.values is None or other.values is None or len(one.values) != len(other.values):
        return False
    ones, others = ([*o.values, *(o.gradients or [])] for o in (one, other))
    zeros = torch.zeros((), dtype=torch.float64)
    filled = [(zeros if a is None else a, zeros if b is None else b) for a, b in zip(ones, others, strict=True)]
    return all((a.shape == b.shape or 0 in (a.dim(), b.dim())) and bool((_equal(a, b) | b.isnan()).all()) for a, b in filled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="ids of questions; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=40, help="pairs, and unseen variants, of a question")
    parser.add_argument("--show", action="store_true", help="what is said about each that is vague, or equal")
    options = parser.parse_args()
    kinds = ("named", "useful", "by hand", "vague", "MISLEADING", "ACCEPTED", "equal")
    print(__doc__)
    print(f"| question | wrong answers | {' | '.join(kinds)} |\n|---{'|---' * (len(kinds) + 1)}|")
    by_kind: dict[str, Counter] = {"alone": Counter(), "two": Counter(), "unseen": Counter()}
    for question in (q for q in every_question() if not options.names or q.id in options.names):
        row = Counter()
        for kind, one in judged(question, options.seed, options.most):
            row[one.kind] += 1
            by_kind[kind][one.kind] += 1
            if one.kind.isupper() or (options.show and one.kind in ("vague", "equal")):
                print(f"\n{one.kind}, {kind}: {one.names}\n{one.result!r}\n", flush=True)
        _print_row(f"{question.id} {question.name}", row, kinds)
    for kind, row in by_kind.items():
        _print_row(kind, row, kinds)
    total = sum(by_kind.values(), Counter())
    _print_row("all", total, kinds)
    wrong = total.total() - total["equal"]
    return int(total["MISLEADING"] + total["ACCEPTED"] > 0 or total["vague"] > 0.1 * wrong)


def _print_row(name: str, row: Counter, kinds: tuple[str, ...]) -> None:
    print(f"| {name} | {row.total() - row['equal']} | {' | '.join(str(row[kind]) for kind in kinds)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
