"""The known mistakes: each fails, each is named, none is taken for another, and no right answer is called one.

In pairs too, and with answers that no question knows of: what is said about them is true.
"""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from minigrpo.grading import causes
from minigrpo.grading.check import every_question, exercises, grade, judge, partial_points, questions
from minigrpo.grading.compare import run, same
from minigrpo.grading.mutations import derived, variants
from minigrpo.grading.questions import Case
from tests.tools.known_mistakes import judged, pair_of, remembered

ALL = every_question()
WITH_MISTAKES = [question for question in ALL if question.mistakes]


def named(name):
    return next(question for question in ALL if question.name == name)


@pytest.mark.parametrize("question", ALL, ids=lambda q: q.id)
def test_the_reference_gets_all_points_on_every_seed(question):
    for seed in range(1 if question.trial else 5):
        assert grade(question, question.reference, seed).about is None


@pytest.mark.parametrize("question", WITH_MISTAKES, ids=lambda q: q.id)
def test_a_known_mistake_fails_and_is_named(question):
    for seed in (0, 1):
        cases = question.draw(seed)
        with remembered():
            for mistake in question.mistakes:
                result = judge(question, cases, [run(mistake.function, case) for case in cases])
                assert result.about is not None
                assert result.points < question.points or not question.points
                assert (result.cause, result.named) == (mistake.says, True)


@pytest.mark.parametrize("question", WITH_MISTAKES, ids=lambda q: q.id)
def test_no_two_mistakes_give_the_same_numbers(question):
    outcomes = [[run(mistake.function, case) for case in question.draw(0)] for mistake in question.mistakes]
    for one, other in combinations(outcomes, 2):
        assert not all(same(a, b) for a, b in zip(one, other, strict=True))


def test_there_are_enough_of_them():
    asked = questions()
    assert [q.id for q in asked] == sorted((q.id for q in asked), key=lambda name: (name[:4], int(name[5:])))
    assert all(q.id.startswith(f"{name}.") for name in exercises() for q in questions(name))
    assert len({q.name for q in ALL}) == len(ALL)  # check finds a question by its function's name
    assert all(2 <= len(q.hints) <= 4 for q in ALL)
    assert all(len(derived(q)) >= 5 for q in WITH_MISTAKES if not isinstance(q.draw(0)[0].args.get("text"), str))


def test_a_source_is_changed_in_one_place_at_a_time():
    """a - b has four variants: plus, and a alone."""
    found = {new for _, new, _ in variants(named("kl_k1_plus").reference)}
    assert "logprobs + ref_logprobs" in found


@pytest.mark.parametrize("name", ["kl_k3", "aggregate", "completion_mask", "parse_answer"])
def test_what_is_said_about_wrong_answers_that_nobody_wrote_down_is_true(name):
    kinds = Counter(one.kind for _, one in judged(named(name), seed=3, most=6))
    assert not any(kind.isupper() for kind in kinds), kinds
    assert kinds["named"] > 0


def with_mistakes(name, *functions):
    """A question with these wrong versions in place of its own."""
    question = named(name)
    some = question.mistakes[0]
    wrong = [replace(some, name=str(n), says=f"wrong version {n}.", function=f) for n, f in enumerate(functions)]
    return replace(question, mistakes=tuple(wrong))


def test_a_pair_changes_the_numbers_and_the_gradient_by_what_both_change():
    k3 = named("kl_k3").reference
    question = with_mistakes("kl_k3", lambda p, ref: k3(p, ref) + p**2, lambda p, ref: 3 * k3(p, ref))
    case = question.draw(0)[0]
    got = run(pair_of(question, *question.mistakes, case), case)
    assert same(got, run(lambda p, ref: 3 * k3(p, ref) + p**2, case))


def test_a_mistake_on_fewer_than_half_of_the_failing_cases_is_said_so():
    """Where policy and reference are equal it adds 1, elsewhere it is something that nobody knows."""
    wrong = lambda p, ref: torch.where(p > -1, p * p, p) - ref * 1.5 + 3 * (p.numel() > 1)  # noqa: E731
    result = grade(named("kl_k1_plus"), wrong, 0)
    assert not result.named
    assert result.label == "a closer look"


def test_half_of_the_failing_cases_do_not_make_a_cause():
    """The first numbers of two cases out of four are a known mistake's, the others nobody's."""
    question = with_mistakes("kl_k1_plus", lambda p, ref: p - ref + p * ref + 1)
    mistake, cases = question.mistakes[0], question.draw(0)
    assert len(cases) == 4
    for fitting, says in ((2, False), (3, True)):
        outcomes = [run(mistake.function, case) for case in cases[:fitting]]
        outcomes += [run(lambda p, ref: p.sin() + ref.cos(), case) for case in cases[fitting:]]
        assert (mistake.says in (judge(question, cases, outcomes).cause or "")) == says


def test_a_lone_number_that_fits_is_no_cause():
    """A hundred known mistakes give a hundred numbers, and by hand they are round ones."""
    question = named("pass_at_k")
    cases, mistake = question.draw(0), question.mistakes[0]
    outcomes = [run(question.reference, case) for case in cases[:-1]] + [run(mistake.function, cases[-1])]
    cause = judge(question, cases, outcomes).cause
    assert "looks like this" not in cause, cause


def test_two_mistakes_at_once_are_not_a_factor():
    """Scored at temperature 1 and upside down: by hand the gradient is a multiple of the wanted one, as g and -g always are."""
    question = named("tempered_ratio")
    for one, other in combinations(question.mistakes, 2):
        cases = question.draw(1)
        result = judge(question, cases, [run(pair_of(question, one, other, case), case) for case in cases])
        assert "factor" not in result.cause, result
        assert "in the gradient, every" not in result.cause, result


def test_a_population_std_in_one_of_two_places_is_seen():
    """Of the group's alone, so that cases with the batch's are right."""

    def compute_advantages(rewards, group_ids, *, scale_rewards="group"):
        right, mistakes = named("compute_advantages").reference, named("compute_advantages").mistakes
        wrong = next(mistake for mistake in mistakes if mistake.name == "the population's std")
        return (wrong.function if scale_rewards == "group" else right)(rewards, group_ids, scale_rewards=scale_rewards)

    assert "divides by n - 1" in grade(named("compute_advantages"), compute_advantages, 0).cause


def test_two_mistakes_that_agree_on_a_case_are_not_told_apart_by_it():
    """All three add 1 on three of four cases; what came is none of the other two on the last."""
    added = [lambda p, ref, n=n: p - ref + (1 if p.numel() > 1 else n) for n in (2, 3, 4)]
    result = grade(with_mistakes("kl_k1_plus", *added[:2]), added[2], 0)
    assert not result.named
    assert "wrong version" not in result.cause


def test_what_failing_cases_alone_have_in_common_is_said():
    question = named("aggregate")

    def wrong(values, completion_mask, loss_type, **counts):
        right = question.reference(values, completion_mask, loss_type, **counts)
        return right + values.sum().sin() if loss_type == "dapo" else right

    result = grade(question, wrong, 0)
    assert result.cause.startswith("it fails only where loss_type is 'dapo'.")


def test_rounding_is_no_mistake():
    """What float32 costs the reference itself it may cost anybody."""
    question = named("kl_k3_ratio")
    for seed in range(5):
        assert grade(question, question.reference, seed).about is None


@pytest.mark.parametrize(("passed", "cases", "points"), [(6, 6, 3), (5, 6, 2), (3, 6, 1), (2, 6, 0), (0, 6, 0)])
def test_points_come_by_the_share_of_cases(passed, cases, points):
    assert partial_points(3, passed, cases) == points


def test_all_or_nothing_gives_no_share():
    question = named("aggregate")
    cases = question.draw(0)
    outcomes = [run(question.mistakes[3].function, case) for case in cases]
    assert 0 < judge(question, cases, outcomes).points < question.points
    assert judge(question, cases, outcomes, all_or_nothing=True).points == 0


def test_inputs_can_be_seen_and_an_error_shows_the_line():
    question = named("kl_k1_plus")
    result = grade(question, lambda p, ref: p - ref + 1, 0)
    assert set(result.args) == {"logprobs", "ref_logprobs"}
    assert result.small.startswith("kl_k1_plus(logprobs=[[-0.693147]], ref_logprobs=[[-1.38629]]): the result is 1.69315")

    def wrong(logprobs, ref_logprobs):
        return logprobs.nonsense

    assert "(in line" in grade(question, wrong, 0).difference
    assert "return logprobs.nonsense" in grade(question, wrong, 0).difference


def test_the_shown_case_is_an_ordinary_one():
    """Where policy and reference are equal, a sign, a factor and a detach all look alike: it is shown last."""
    question = named("kl_k3")
    result = grade(question, lambda p, ref: question.reference(p, ref) * 1.7 + 0.3, 0)
    assert result.about != "a policy that is still equal to the reference"


def test_degenerate_cases_tell_less():
    question = named("kl_k3")
    cases = question.draw(0)
    equal = [case.about for case in cases].index("a policy that is still equal to the reference")
    assert causes.tells(question, cases[equal]) < causes.tells(question, cases[0])


def test_inputs_are_float32_and_what_is_wanted_is_not():
    for question in ALL:
        for case in question.draw(0):
            assert all(v.dtype != torch.float64 for v in case.args.values() if isinstance(v, torch.Tensor))
    assert Case("", {"x": torch.ones(1)}).to(torch.float64).args["x"].dtype == torch.float64
