import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.rewards import combine, score

pytestmark = pytest.mark.quick

NAN = float("nan")


def returns(values):
    return lambda prompts, completions, **columns: values


def test_columns_of_the_data_set_reach_the_function_row_by_row():
    def right(prompts, completions, answer, **_):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert score(right, ["a", "b"], ["1", "2"], {"answer": ["1", "3"]}).tolist() == [1.0, 0.0]


def test_none_abstains():
    scores = torch.stack([score(returns(v), ["a"] * 3, ["x"] * 3, {}) for v in ([1, None, None], [0.5, 2, None])], dim=1)
    combined = combine(scores, [1.0, 10.0])
    assert combined[:2].tolist() == [6.0, 20.0]
    assert combined[2].isnan()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0], "returned 1 values for 2 completions"),
        ([1.0, NAN], "returned nan for completion 1"),
        ([float("inf"), 1.0], "returned inf for completion 0"),
        (["1.0", 1.0], "returned '1.0' for completion 0"),
        ("ab", "returned 'a' for completion 0"),
        (0.5, "returned 0.5, not a list"),
        (None, "returned None, not a list"),
    ],
)
def test_what_is_not_one_number_a_completion_is_refused(values, sentence):
    with pytest.raises(BadInput, match=sentence):
        score(returns(values), ["a", "b"], ["x", "y"], {})


def test_numbers_of_every_kind_are_numbers():
    import numpy as np

    values = [1, True, np.float32(0.5), np.int64(2), torch.tensor(3.0)]
    assert score(returns(values), ["a"] * 5, ["x"] * 5, {}).tolist() == [1.0, 1.0, 0.5, 2.0, 3.0]


def test_a_bug_in_a_reward_is_not_hidden():
    def broken(prompts, completions, **_):
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        score(broken, ["a"], ["x"], {})


def test_a_weight_is_wanted_for_each_function():
    with pytest.raises(BadInput, match=r"one number a reward function, 2, got \[1.0\]"):
        combine(torch.zeros(3, 2), [1.0])
