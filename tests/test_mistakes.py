"""The known mistakes: each fails, each is named, none is taken for another, and no right answer is called one."""

from itertools import combinations

import pytest
import torch

from minigrpo.grading.check import exercises, grade, questions
from minigrpo.grading.compare import run, same

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
    assert [q.id for q in ALL] == sorted(q.id for q in ALL)
    assert all(q.id.startswith(f"{name}.") for name in exercises() for q in questions(name))
    assert len({q.name for q in ALL}) == len(ALL)  # check finds a question by its function's name
    assert all(2 <= len(q.hints) <= 4 for q in ALL)
