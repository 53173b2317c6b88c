"""The known mistakes: each fails, each is named, none is taken for another, and no right answer is called one.

In pairs too: each pair whose numbers are not the right ones fails, and what is said about it is true.
"""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from minigrpo.grading import check as checking
from minigrpo.grading.check import exercises, grade, questions
from minigrpo.grading.compare import run, same
from minigrpo.grading.questions import Case
from tests.tools.known_mistakes import pair_of, pairs

pytestmark = pytest.mark.quick

ALL = questions()
MISTAKES = [pytest.param(q, m, id=f"{q.id}-{m.name}") for q in ALL for m in q.mistakes]
SEEDS = (0, 1, 2)


@pytest.mark.parametrize("question", ALL, ids=lambda q: q.id)
def test_the_reference_gets_all_points_on_every_seed(question):
    for seed in range(10):
        assert grade(question, question.reference, seed).points == question.points


@pytest.mark.parametrize(("question", "mistake"), MISTAKES)
def test_a_known_mistake_fails_and_is_named(question, mistake):
    for seed in SEEDS:
        result = grade(question, mistake.function, seed)
        assert result.points == 0
        assert result.cause == mistake.says


@pytest.mark.parametrize("question", ALL, ids=lambda q: q.id)
def test_no_two_mistakes_give_the_same_numbers(question):
    for seed in SEEDS:
        cases = question.cases(torch.Generator().manual_seed(seed))
        for one, other in combinations(question.mistakes, 2):
            assert not all(same(run(one.function, c), run(other.function, c)) for c in cases), (one.name, other.name)


def test_there_are_enough_of_them():
    assert [q.id for q in ALL] == sorted((q.id for q in ALL), key=lambda name: (name[:4], int(name[5:])))
    assert all(q.id.startswith(f"{name}.") for name in exercises() for q in questions(name))
    assert len({q.name for q in ALL}) == len(ALL)  # check finds a question by its function's name
    assert all(2 <= len(q.hints) <= 4 for q in ALL)


# --- two at once ------------------------------------------------------------------------------------------------------


def kinds(question, seed=0):
    return Counter(pair.kind for pair in pairs(question, seed))


@pytest.mark.parametrize("question", [q for q in ALL if q.mistakes], ids=lambda q: q.id)
def test_every_pair_of_mistakes_fails_and_gets_a_true_hint(question):
    found = kinds(question)
    assert found.total() == len(question.mistakes) * (len(question.mistakes) - 1) // 2
    assert set(found) <= {"cancelling", "mistake", "part", "symptom"}, found


def with_mistakes(name, *functions):
    """A question with these wrong versions in place of its own."""
    question = next(question for question in ALL if question.name == name)
    some = question.mistakes[0]
    named = [replace(some, name=str(n), says=f"wrong version {n}.", function=f) for n, f in enumerate(functions)]
    return replace(question, mistakes=tuple(named))


def test_a_pair_changes_the_numbers_and_the_gradient_by_what_both_change():
    question = with_mistakes("kl_k1", lambda p, ref: p - ref + p**2, lambda p, ref: 3 * (p - ref))
    case = question.cases(torch.Generator().manual_seed(0))[0]
    got = run(pair_of(question, *question.mistakes, case), case)
    assert same(got, run(lambda p, ref: 3 * (p - ref) + p**2, case))


def test_a_pair_of_masks_is_wrong_where_one_of_them_is():
    def turned(row):
        rows = torch.arange(3).unsqueeze(1)
        return lambda ids, eos: torch.where(rows == row, ~question.reference(ids, eos), question.reference(ids, eos))

    question = next(question for question in ALL if question.name == "completion_mask")
    case = Case("", {"completion_ids": torch.tensor([[1, 6, 2], [6, 1, 1], [1, 2, 3]]), "eos_token_id": 6})
    pair = pair_of(question, *(replace(question.mistakes[0], function=turned(row)) for row in (0, 2)), case)
    wrong = run(question.reference, case).values[0] != run(pair, case).values[0]
    assert wrong.tolist() == [[True] * 3, [False] * 3, [True] * 3]


def test_two_mistakes_that_cancel_are_right_and_one_that_hides_the_other_is_named():
    up, down, shape = (lambda p, ref: p - ref + 1), (lambda p, ref: p - ref - 1), (lambda p, ref: (p - ref).sum(1))
    assert kinds(with_mistakes("kl_k1", up, down)) == {"cancelling": 1}
    assert kinds(with_mistakes("kl_k1", up, shape)) == {"mistake": 1}
    assert kinds(with_mistakes("kl_k1", up, lambda p, ref: p - ref + p)) == {"symptom": 1}


def test_a_mistake_that_shows_on_a_case_alone_is_named_for_that_case():
    """The one is wrong where policy and reference are equal, the other in two later cases; it explains more, and is named."""
    at_equal = lambda p, ref: p - ref + (p == ref).all()  # noqa: E731
    later = lambda p, ref: (p - ref) * (1 + (p.numel() == 1 or p.min() < -9))  # noqa: E731
    (pair,) = pairs(with_mistakes("kl_k1", at_equal, later), 0)
    assert pair.kind == "part"
    assert pair.result.cause == "on this case: wrong version 1. In 1 other case something else is wrong, too."
    assert pair.result.about == "log-probs that are up to 18 nats apart"
    assert pair.result.passed == 1


def test_two_mistakes_that_agree_on_a_case_are_not_told_apart_by_it():
    """All three add 1 where policy and reference are equal; what came is none of the three elsewhere."""
    added = [lambda p, ref, n=n: p - ref + (1 if (p == ref).all() else n) for n in (2, 3, 4)]
    result = grade(with_mistakes("kl_k1", *added[:2]), added[2], 0)
    assert not result.named


@pytest.mark.parametrize(
    ("say", "kind"),
    [
        (lambda *given: (0, "every number is minus the wanted one: look for a sign."), "UNTRUE"),
        (lambda *given: (0, "on this case: wrong version 0."), "UNTRUE"),
        (lambda *given: None, "NO HINT"),
    ],
)
def test_the_table_finds_hints_that_are_missing_or_untrue(say, kind, monkeypatch):
    question = with_mistakes("kl_k1", lambda p, ref: p - ref + 1, lambda p, ref: p - ref + p)
    monkeypatch.setattr(checking, "clearest", say)
    assert kinds(question) == {kind: 1}


def test_the_table_finds_pairs_that_pass(monkeypatch):
    question = with_mistakes("kl_k1", lambda p, ref: p - ref + 1, lambda p, ref: p - ref + p)
    monkeypatch.setattr(checking, "first_failure", lambda *given: None)
    assert kinds(question) == {"PASSES": 1}
