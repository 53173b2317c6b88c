import functools
import itertools
import types

import numpy as np
import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.rewards import check_reward_fns, combine, reward_names, score

pytestmark = pytest.mark.quick

NAN = float("nan")


def returns(values):
    return lambda prompts, completions, **columns: values


# --- one function ---------------------------------------------------------------------------------------------------------


def test_columns_of_the_data_set_reach_the_function_row_by_row():
    def right(prompts, completions, answer, **_):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert score(right, ["a", "b"], ["1", "2"], {"answer": ["1", "3"]}).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0], "returned 1 value for 2 completions"),
        (itertools.count(), "returned more than 2 values for 2 completions"),
        ([1.0, NAN], "returned nan for completion 1"),
        ([float("inf"), 1.0], "returned inf for completion 0"),
        ([1.0, 10**400], "returned a whole number of 1329 bits for completion 1"),
        ([1.0, 10**5000], "returned a whole number of 16610 bits for completion 1"),
        ([1.0, 1e300], r"returned 1e\+300 for completion 1 .* at most 3.4e\+38"),
        (["1.0", 1.0], "returned '1.0' for completion 0"),
        ([1.0, 1j], "returned 1j for completion 1"),
        ([1.0, np.array([1.0, 2.0])], r"returned array\(\[1., 2.\]\) for completion 1"),
        ("ab", "returned 'ab', not a list"),
        ({"a": 1.0, "b": 0.0}, "returned {'a': 1.0, 'b': 0.0}, not a list"),
        ({1.0, 0.0}, "returned {0.0, 1.0}, not a list"),
        (torch.tensor(0.5), r"returned tensor\(0.5000\), not a list"),
        (0.5, "returned 0.5, not a list"),
        (None, "returned None, not a list"),
    ],
)
def test_what_is_not_one_number_per_completion_is_refused(values, sentence):
    with pytest.raises(BadInput, match=sentence):
        score(returns(values), ["a", "b"], ["x", "y"], {})


def test_numbers_of_every_kind_are_numbers():
    values = [1, True, np.True_, np.float32(0.5), np.int64(2), np.array([4.0]), torch.tensor(3.0), torch.tensor([True])]
    assert score(returns(values), ["a"] * 8, ["x"] * 8, {}).tolist() == [1.0, 1.0, 1.0, 0.5, 2.0, 4.0, 3.0, 1.0]


@pytest.mark.parametrize("values", [(1, 0.5), np.array([1.0, 0.5]), torch.tensor([1.0, 0.5]), range(1, 3)])
def test_what_holds_one_number_per_completion_in_order_is_a_list(values):
    assert score(returns(values), ["a", "b"], ["x", "y"], {}).tolist() == list(map(float, values))
    assert score(returns(v for v in values), ["a", "b"], ["x", "y"], {}).tolist() == list(map(float, values))


def test_a_bug_in_a_reward_is_not_hidden():
    def broken(prompts, completions, **_):
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        score(broken, ["a"], ["x"], {})


def test_a_reward_that_exits_does_not_end_the_run_as_a_success():
    def leaves(prompts, completions, **_):
        raise SystemExit(0)

    with pytest.raises(BadInput, match=r"The reward function leaves called sys.exit"):
        score(leaves, ["a"], ["x"], {})


@pytest.mark.parametrize(
    ("fn", "sentence"),
    [
        (lambda prompts, completions: [0.0], "unexpected keyword argument 'answer'; .* end with \\*\\*columns"),
        (lambda completions, **columns: [0.0], None),
        (lambda prompts, completions, solution, **columns: [0.0], r"missing a required argument: 'solution'; .*\(answer\)"),
        (lambda text, **columns: [0.0], "missing a required argument: 'text'"),
    ],
)
def test_a_function_is_called_by_name_or_refused(fn, sentence):
    if sentence is None:
        assert score(fn, ["a"], ["x"], {"answer": ["5"]}).tolist() == [0.0]
    else:
        with pytest.raises(BadInput, match=sentence):
            score(fn, ["a"], ["x"], {"answer": ["5"]})


def test_a_type_error_inside_the_function_is_no_wrong_call():
    def broken(prompts, completions, **_):
        return [c + 1 for c in completions]

    with pytest.raises(TypeError, match="concatenate"):
        score(broken, ["a"], ["x"], {})


def test_a_column_cannot_be_called_completions():
    with pytest.raises(BadInput, match="has a column 'completions'"):
        score(returns([0.0]), ["a"], ["x"], {"completions": ["y"]})


def test_what_a_function_does_to_its_lists_stays_with_it():
    def greedy(prompts, completions, messages, **_):
        messages[0][0]["content"] = "gone"
        for values in (prompts, completions, messages):
            values.clear()
        return [1.0]

    prompts, completions, columns = ["a"], ["x"], {"messages": [[{"role": "user", "content": "a"}]]}
    score(greedy, prompts, completions, columns)
    assert (prompts, completions, columns) == (["a"], ["x"], {"messages": [[{"role": "user", "content": "a"}]]})


# --- several --------------------------------------------------------------------------------------------------------------


def test_none_abstains():
    scores = torch.stack([score(returns(v), ["a"] * 3, ["x"] * 3, {}) for v in ([1, None, None], [0.5, 2, None])], dim=1)
    combined = combine(scores, [1.0, 10.0])
    assert combined[:2].tolist() == [6.0, 20.0]
    assert combined[2].isnan()


def test_a_weight_is_wanted_for_each_function():
    with pytest.raises(BadInput, match=r"one number per reward function, 2, got \[1.0\]"):
        combine(torch.zeros(3, 2), [1.0])


@pytest.mark.parametrize(
    ("scores", "weights"), [([[3e38, 3e38]], None), ([[1.0, 1.0]], [1e39, 1.0]), ([[1e30, 0.0]], [1e30, 1.0])]
)
def test_a_sum_beyond_float32_is_refused(scores, weights):
    with pytest.raises(BadInput, match="Rewards times weights"):
        combine(torch.tensor(scores), weights)


def in_module(name, module):
    fn = types.FunctionType((lambda prompts, completions, **_: [0.0]).__code__, {}, name)
    fn.__module__ = module
    return fn


class Judge:
    def __call__(self, prompts, completions, **_):
        return [0.0] * len(completions)


def test_functions_of_one_name_are_told_apart():
    one, other, lone = in_module("reward", "fmt"), in_module("reward", "acc"), in_module("brief", "brief")
    assert reward_names([one, other, lone]) == ["fmt.reward", "acc.reward", "brief"]
    assert reward_names([one, one]) == ["fmt.reward", "fmt.reward-2"]
    here = __name__
    assert reward_names([lambda: 0, lambda: 1]) == [f"{here}.<lambda>", f"{here}.<lambda>-2"]
    assert reward_names([functools.partial(one, a=1), functools.partial(lone)]) == ["reward", "brief"]
    assert reward_names([functools.partial(one, a=1), functools.partial(one, a=2)]) == ["fmt.reward", "fmt.reward-2"]
    assert reward_names([Judge(), Judge()]) == [f"{here}.Judge", f"{here}.Judge-2"]
    awkward = [in_module("f", "m"), in_module("f", "m"), in_module("m.f-2", "m")]
    assert len(set(reward_names(awkward))) == 3


async def later(prompts, completions, **_):
    return [0.0]


class LaterJudge:
    async def __call__(self, prompts, completions, **_):
        return [0.0]


@pytest.mark.parametrize(
    ("reward_fns", "sentence"),
    [
        ([], "reward_fns is empty"),
        (score, r"the function score itself; wanted is a list of functions: \[score\]"),
        ("brief.brief", "reward_fns is 'brief.brief'; wanted is a list"),
        (None, "reward_fns is None; wanted is a list"),
        (["brief.brief"], "'brief.brief', which cannot be called"),
        ([Judge], "Judge is a class"),
    ],
)
def test_what_is_no_list_of_reward_functions_is_refused(reward_fns, sentence):
    with pytest.raises(BadInput, match=sentence):
        check_reward_fns(reward_fns)


def test_what_is_async_unawares_is_refused():
    with pytest.raises(BadInput, match="returned <coroutine object later"):
        score(lambda **columns: later(**columns), ["a"], ["x"], {})


def test_a_tuple_of_functions_and_objects_will_do():
    judge = Judge()
    assert check_reward_fns((score, judge)) == [score, judge]
