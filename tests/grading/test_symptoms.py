"""What is said of wrong numbers: a planted symptom is seen, random numbers have none, and every sentence is true."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minigrpo.grading.check import every_question, grade
from minigrpo.grading.compare import as_wanted, run
from minigrpo.grading.questions import Case
from minigrpo.grading.symptoms import clearest
from minigrpo.grading.worker import LARGEST, Outcome
from tests.tools.claims import ADVICE, holds_everywhere, is_true

pytestmark = pytest.mark.quick

quick = settings(max_examples=40, deadline=None)
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=6)


def drawn(shape, seed):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers + 0.01 * numbers.sign()  # none so small that 0 would do for it


def seen_in(*pairs, names=()):
    """What is said of the first of some failing cases, (wanted, got), which must be true of it, and its advice of all."""
    wants, outcomes = zip(*pairs, strict=True)
    numbers = list(range(len(pairs)))
    found = clearest([Case("", {}, gradient=names) for _ in pairs], wants, outcomes, numbers, [0])
    if found is None:
        return None
    together = [(want, as_wanted(want, got)) for want, got in pairs]
    assert is_true(found[1], *together[0]), (found, pairs)
    assert holds_everywhere(found[1], together), (found, pairs)
    return found[1]


def said(want, have):
    """The sentence about one result, where two cases show the same."""
    return seen_in(*[(Outcome([want]), Outcome([have]))] * 2)


def replaced(want, row, value):
    have = want.clone()
    have[row] = value
    return have


PLANTED = {
    "every number is minus the wanted one": lambda want: -want,
    "every number is 3 times the wanted one": lambda want: 3 * want,
    "every number is -1/4 times the wanted one: look for a factor too many or too few, and for": lambda want: -want / 4,
    "every number is 1.3 times": lambda want: want * 1.3,
    "every number is 0, where other numbers are wanted": lambda want: 0 * want,
    "times a number of its own": lambda want: want * torch.arange(2, 2 + len(want)).unsqueeze(1),
    "every number is 0.7 above the wanted one": lambda want: want + 0.7,
    "in each row all numbers are off by the same amount": lambda want: want - want.mean(1, keepdim=True),
    "every number is exp of the wanted one": lambda want: want.exp(),
    "every number is 1 over the wanted one": lambda want: 1 / want,
    "one place too late along axis 1": lambda want: want.roll(1, 1),
    "one place too early along axis 0": lambda want: torch.cat([want[1:], torch.ones_like(want[:1])]),
    "in reverse order along axis 1": lambda want: want.flip(1),
    "all there, but at other places": lambda want: want.flatten()[torch.arange(want.numel()).roll(2)].reshape(want.shape),
    "NaN stands where a number is wanted, only at row 1:": lambda want: replaced(want, 1, torch.nan),
    "infinity stands where a number is wanted, only at the last row:": lambda want: replaced(want, -1, -torch.inf),
    "every number is -0.5, and different ones are wanted": lambda want: torch.full_like(want, -0.5),
    "only at row 0 (too large)": lambda want: replaced(want, 0, want[0] + 1 + torch.rand(len(want[0]))),
    "only at row 1) is 2 times the wanted one": lambda want: replaced(want, 1, 2 * want[1]),
    "an axis is missing": lambda want: want.sum(1),
    "an axis too many": lambda want: want.unsqueeze(0),
    "along axis 1 there are": lambda want: want[:, 1:],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", PLANTED)
@given(shape=shapes, seed=st.integers(0, 2**31))
@quick
def test_a_planted_symptom_is_seen_for_what_it_is(words, shape, seed):
    want = drawn(shape, seed)
    sentence = said(want, PLANTED[words](want))
    assert words in sentence, sentence


@given(shape=shapes, seed=st.integers(0, 2**31))
@quick
def test_random_numbers_have_no_symptom_but_their_count(shape, seed):
    want, have = drawn((2, *shape), seed)
    assert said(want, have).startswith(f"wrong are all {want.numel()} numbers")


def test_what_is_wanted_tells_too():
    want = torch.tensor([[0.5, 0.0, 0.0], [0.25, 1.5, 0.0]], dtype=torch.float64)
    have = torch.where(want == 0, drawn((2, 3), 0), want)
    assert "each wrong number (3 of 6, only at columns 1 and 2) stands where 0 is wanted" in said(want, have)
    assert "1 is wanted everywhere here" in said(torch.ones(2, 3), have)
    assert "infinity is wanted" in said(replaced(want, 0, torch.inf), want)
    assert "NaN is wanted" in said(replaced(want, 0, torch.nan), want)
    assert "rows and columns are exchanged" in said(drawn((3, 3), 1), drawn((3, 3), 1).T)


def test_a_lone_number_is_no_multiple_unless_of_a_simple_one():
    want = torch.tensor([[0.5, 0.3], [0.2, 0.4]], dtype=torch.float64)
    for came in (1.5, 0.7):
        assert said(want, replaced(want, (0, 0), came)).startswith(
            "wrong are 1 of 4 numbers, only at row 0, only at column 0 (too large)"
        )
    thrice = [(Outcome([number]), Outcome([3 * number])) for number in want.flatten()]
    assert seen_in(*thrice) == "the number is 3 times the wanted one: look for a factor too many or too few."
    thrice[1] = (Outcome([want[0, 1]]), Outcome([2.7 * want[0, 1]]))
    assert seen_in(*thrice).startswith("the number is too large, by 1:")
    assert said(want[0, 0], want[0, 0] + 0.2).startswith("the number is too large, by 0.2:")


def test_random_small_numbers_beside_a_large_one_are_not_alike():
    want, have = 1e-2 * drawn((2, 3, 5), 0)
    want[0, 0], have[0, 0] = 100.0, 200.0
    assert said(want, have).startswith("wrong are all 15 numbers")


@pytest.mark.parametrize("words", [w for w in PLANTED if PLANTED[w](drawn((3, 4), 0)).shape == (3, 4)])
def test_what_a_case_shows_is_no_cause_unless_all_failing_cases_show_it(words):
    """Beside a case that looks otherwise, and where a single case fails, it is told what is seen, and nothing to look for."""
    want, other = drawn((2, 4, 4), 0)
    one, others = (Outcome([want]), Outcome([PLANTED[words](want)])), (Outcome([other]), Outcome([drawn((4, 4), 5)]))
    assert not re.search(ADVICE, seen_in(one, others))
    assert not re.search(ADVICE, seen_in(one))
    fact = words.partition(":")[0]
    assert fact in seen_in(one)
    assert fact in seen_in(one, others)


def test_the_gradient_of_a_softmax_over_two_is_no_multiple():
    """g and -g, whatever the loss: a factor there says nothing, and least of all where the value is wrong, too."""
    case = Case("", {"x": drawn((4, 1, 2), 0)}, gradient=("x",))
    right, wrong = (lambda x: x.log_softmax(-1)[..., 0] ** 2), (lambda x: x.log_softmax(-1)[..., 0].exp().sin())
    one = replace(case, args={"x": case.args["x"][:1]})
    pairs = [(run(right, c), run(wrong, c)) for c in (one, case, replace(case, args={"x": 2 * case.args["x"]}))]
    assert "times" not in seen_in(*pairs, names=("x",))
    assert "times" not in seen_in(pairs[0], names=("x",))
    detached = [
        (run(right, c), run(lambda x: right(x).detach() + 0.4 * (right(x) - right(x).detach()), c)) for c in (one, case)
    ]
    assert "times" not in seen_in(detached[0], names=("x",))


def test_a_factor_that_is_another_in_each_case_is_said_so():
    pairs = [(Outcome([want]), Outcome([factor * want])) for want, factor in zip(drawn((2, 4, 4), 0), (0.7, 1.3), strict=True)]
    assert "is 0.7 times the wanted one (in other cases it is another factor): look for" in seen_in(*pairs)


def test_places_along_three_axes_are_told_by_axis():
    want = drawn((2, 3, 7), 0)
    sentence = said(want, replaced(want, (1, slice(2)), 2 * want[1, :2]))
    assert "(14 of 42, only at the last axis-0 place, only at axis-1 places 0 and 1) is 2 times" in sentence


def test_booleans_are_told_in_their_own_words():
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert said(mask, ~mask) == "True and False are exchanged."
    late = torch.tensor([[True, True, True, False], [True, True, False, False]])
    assert "one place too late along axis 1" in said(mask, late)
    assert said(mask, replaced(mask, 0, False)).startswith("False stands where True is wanted, 2 of 8 times, only at row 0")
    both = torch.tensor([[True, False, False, True], [True, False, True, False]])
    assert "True is wanted 1 of these times, and False 2 times" in said(mask, both)


@pytest.mark.parametrize(("part", "words"), [(0.0, "is 0"), (0.5, "is 1/2 times"), (-1.0, "is minus"), (4.0, "is 4 times")])
def test_a_right_value_with_a_wrong_gradient_is_told_apart(part, words):
    case = Case("", {"x": drawn((3, 5), 0)}, gradient=("x",))
    wanted, got = run(lambda x: x**2, case), run(lambda x: (1 - part) * (x**2).detach() + part * x**2, case)
    sentence = seen_in(*[(wanted, got)] * 2, names=("x",))
    assert sentence.startswith(f"the value is right, but in its gradient, every number {words}")


def test_a_right_gradient_with_a_wrong_value_is_said_where_nothing_clearer_is():
    case = Case("", {"x": drawn((3, 5), 0)}, gradient=("x",))
    wanted, got = run(lambda x: x**2, case), run(lambda x: x**2 + drawn((3, 5), 1), case)
    assert "the gradient is right" in seen_in(*[(wanted, got)] * 2, names=("x",))


def test_of_several_results_the_right_ones_are_named():
    a, b, c = drawn((3, 2, 2), 0)
    assert seen_in(*[(Outcome([a, b, c]), Outcome([a, -b, c]))] * 2).startswith(
        "in result 2 (1 and 3 are right), every number is minus"
    )


numbers = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e300, 1e-300])
kinds = st.sampled_from([torch.float64, torch.float32, torch.int64, torch.bool])


@pytest.mark.slow
@given(st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_comes_nothing_raises_and_what_is_said_is_true(data):
    def tensor(shape):
        values = torch.from_numpy(data.draw(hnp.arrays(np.float64, shape, elements=numbers)))
        kind = data.draw(kinds)
        return (values if kind.is_floating_point else values.nan_to_num().clamp(-9, 9)).to(kind)

    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    other = shape if data.draw(st.booleans()) else data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    with np.errstate(all="ignore"):
        said(tensor(shape), tensor(other))


def test_what_rounding_beside_a_large_number_hides_is_not_counted_as_wrong():
    want = torch.tensor([1e300, 6e-5], dtype=torch.float64).view(2, 1, 1)
    assert said(want, torch.zeros_like(want)).startswith("the wrong number (1 of 2")


def test_the_largest_result_and_none_are_no_trouble():
    large = drawn((2, LARGEST // 2), 0)
    assert said(large, large.flip(1)) == "the wanted numbers stand in reverse order along axis 1."
    assert seen_in((Outcome([large]), Outcome(None, error="RuntimeError"))) is None
    assert seen_in((Outcome([large]), Outcome([large, large]))) is None
    assert said(large, large) is None


def test_where_rounding_and_what_is_wrong_are_alike_nothing_is_counted():
    """3 is hardly off, and may be right or wrong: "2 of 4", and "only at place 0 and 2", would be as true as false."""
    want = torch.tensor([1.0, 2.0, 3.0, 4.0])
    got = want + torch.tensor([-4e-4, 0.0, 4e-5, 0.0])
    assert said(want, got).startswith("the largest error is 0.0004, and some are near rounding")
    assert "with all small constants" in said(want, got)
    assert "small constants" not in said(want, got + torch.tensor([0.0, 0.7, 0.0, 0.0]))
    assert "only at place 0" in said(want, want + torch.tensor([-4e-4, 0.0, 0.0, 0.0]))


@pytest.mark.slow
def test_noise_is_no_known_mistake():
    """A wrong version with noise on it is not taken for what it is near to."""
    question = next(question for question in every_question() if question.name == "kl_k3")
    for mistake in question.mistakes:
        result = grade(question, lambda *args, wrong=mistake.function: wrong(*args) * 1.001 + 0.001, 0)
        assert not result.named
        assert result.label == "a closer look"


def test_a_mistake_that_ends_in_nan_is_not_named_by_its_nan_alone():
    question = next(question for question in every_question() if question.name == "kl_k3")
    result = grade(question, lambda p, ref: question.reference(p, ref) * torch.nan, 0)
    assert not result.named
    assert "NaN stands" in result.cause


def test_a_mistake_shows_through_the_nan_of_another_place():
    question = next(question for question in every_question() if question.name == "kl_k3")
    holes = lambda p, ref: question.mistakes[0].function(p, ref) * torch.where(p < -2, torch.nan, 1.0)  # noqa: E731
    result = grade(question, holes, 0)
    assert question.mistakes[0].says in result.cause


def test_an_error_in_the_first_case_is_not_hidden_behind_the_numbers_of_another():
    question = next(question for question in every_question() if question.name == "kl_k3")

    mistake, calls = question.mistakes[0].function, []

    def wrong(logprobs, ref_logprobs):
        calls.append(1)
        return logprobs.nonsense() if len(calls) == 1 else mistake(logprobs, ref_logprobs)

    result = grade(question, wrong, 0)
    assert "AttributeError" in result.difference
    assert result.cause is None


def test_of_kinds_it_is_told_which_came_for_which():
    """A kind is no amount: "too small, by 1" would say nothing."""
    pairs = [(Outcome([torch.tensor(want)]), Outcome([torch.tensor(got)])) for want, got in ((1, 0), (3, 2), (1, 0))]
    assert seen_in(*pairs) == "in 2 cases 0 came where 1 is wanted, in 1 case 2 came where 3 is wanted."
