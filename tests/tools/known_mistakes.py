"""The known mistakes as a table: does each fail, and is it named? Then in pairs: does each pair fail, with a true hint?

python -m tests.tools.known_mistakes [--seed 0] [--show]

Exits with 1 if not. A pair is a function with two mistakes of a question at once; ``--show`` prints what is said about each.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import NamedTuple
from unittest.mock import patch

import torch

from minigrpo.grading import compare, symptoms, worker
from minigrpo.grading.check import Result, grade, judge, questions
from minigrpo.grading.questions import Case, Mistake, Question
from minigrpo.grading.worker import Outcome
from tests.tools.claims import is_true


def pair_of(question: Question, one: Mistake, other: Mistake, case: Case) -> Callable:
    """A function with both mistakes, for one case: what each changes in the right numbers, added up, and so with gradients."""

    def both(*values):
        args = dict(zip(case.args, values, strict=True))
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
    return torch.isclose(one.double(), other.double(), rtol=1e-5, atol=2e-6, equal_nan=True)


class Pair(NamedTuple):
    """What became of two mistakes at once."""

    question: Question
    names: str
    kind: str  # cancelling, mistake, part, symptom; PASSES, NO HINT, UNTRUE
    result: Result


@contextmanager
def remembered() -> Iterator[None]:
    """What the reference and the known mistakes give for a case is computed once, and not anew for every pair."""
    known: dict = {}

    def run(function, case):
        key = (function, id(case))
        if key not in known:
            known[key] = (case, compare_run(function, case))  # the case is kept, so that its id stays its own
        return known[key][1]

    compare_run = compare.run
    with patch.object(compare, "run", run), patch.object(symptoms, "run", run):
        yield


def pairs(question: Question, seed: int) -> Iterator[Pair]:
    """Every two known mistakes of a question, judged together."""
    cases = question.cases(torch.Generator().manual_seed(seed))
    with remembered():
        for one, other in combinations(question.mistakes, 2):
            outcomes = [worker.run(pair_of(question, one, other, case), case.args, case.gradient) for case in cases]
            result = judge(question, cases, outcomes)
            yield Pair(question, f"{one.name} + {other.name}", _kind(result, cases, outcomes), result)


def _kind(result: Result, cases: list[Case], outcomes: list[Outcome]) -> str:
    question, cause = result.question, result.cause
    if all(_same(compare.run(question.reference, case), got) for case, got in zip(cases, outcomes, strict=True)):
        return "cancelling" if result.points else "UNTRUE"
    if result.points:
        return "PASSES"
    if cause is None:
        return "NO HINT"
    number = [case.about for case in cases].index(result.about)
    case, got = cases[number], outcomes[number]
    if _same(compare.run(question.reference, case), got):
        return "UNTRUE"  # nothing is wrong in the case that is shown
    named = [m for m in question.mistakes if m.says in cause]
    if not named:
        return "symptom" if is_true(cause, compare.run(question.reference, case), got) else "UNTRUE"
    if not all(_same(compare.run(m.function, case), got) for m in named):
        return "UNTRUE"
    return "mistake" if cause == named[0].says else "part"


def _same(one: Outcome, other: Outcome) -> bool:
    """Equality again, by another route than the grader's, in values and gradients."""
    if one.values is None or other.values is None or len(one.values) != len(other.values):
        return False
    ones, others = ([*o.values, *(o.gradients or [])] for o in (one, other))
    zeros = torch.zeros((), dtype=torch.float64)
    filled = [(zeros if a is None else a, zeros if b is None else b) for a, b in zip(ones, others, strict=True)]
    return all((a.shape == b.shape or 0 in (a.dim(), b.dim())) and bool(_equal(a, b).all()) for a, b in filled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="what is said about each pair")
    options = parser.parse_args()
    singles = _single_mistakes(options.seed)
    return int(not (singles & _in_pairs(options.seed, options.show)))


def _single_mistakes(seed: int) -> bool:
    print("| question | mistake | failed | named |\n|---|---|---|---|")
    rows = []
    for question in questions():
        for mistake in question.mistakes:
            result = grade(question, mistake.function, seed)
            rows.append((result.points == 0, result.cause == mistake.says))
            marks = ["yes" if right else "NO" for right in rows[-1]]
            print(f"| {question.id} {question.name} | {mistake.name} | {' | '.join(marks)} |")
    failed, named = (sum(row[i] for row in rows) for i in (0, 1))
    print(f"\n{len(rows)} mistakes: {failed} fail, {named} are named\n")
    return failed == named == len(rows)


def _in_pairs(seed: int, show: bool) -> bool:
    print("| question | pairs | cancelling | failed | named | named on a case | symptom | wrong |\n" + "|---" * 8 + "|")
    total = Counter()
    for question in questions():
        found = list(pairs(question, seed))
        for pair in found:
            if show or pair.kind.isupper():
                print(f"\n{pair.kind}: {pair.names}\n{pair.result!r}")
        _print_row(f"{question.id} {question.name}", kinds := Counter(pair.kind for pair in found))
        total += kinds
    _print_row("all", total)
    return not any(kind.isupper() for kind in total)


def _print_row(name: str, kinds: Counter) -> None:
    pairs, bad = kinds.total(), sum(count for kind, count in kinds.items() if kind.isupper())
    failed = pairs - kinds["cancelling"] - kinds["PASSES"]
    counts = (pairs, kinds["cancelling"], failed, kinds["mistake"], kinds["part"], kinds["symptom"], bad)
    print(f"| {name} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    sys.exit(main())
