import math

import pytest
import torch

from minigrpo.advantages import compute_advantages, process_advantages

pytestmark = pytest.mark.quick

NAN = float("nan")


def groups(*sizes):
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


@pytest.mark.parametrize(("k", "size"), [(1, 4), (3, 4), (5, 8), (1, 2)])
def test_k_successes_of_g_get_the_closed_form(k, size):
    """With p = k / G the sample std is sqrt(p (1 - p) G / (G - 1)), so a success is sqrt((1 - p) / p) sqrt((G - 1) / G) up."""
    rewards = torch.tensor([1.0] * k + [0.0] * (size - k), dtype=torch.float64)
    p, shrink = k / size, math.sqrt((size - 1) / size)
    advantages = compute_advantages(rewards, groups(size))
    expected = [math.sqrt((1 - p) / p) * shrink] * k + [-math.sqrt(p / (1 - p)) * shrink] * (size - k)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=5e-4, atol=0)  # 5e-4: EPS


def test_a_group_of_two_is_at_plus_and_minus_one_over_root_two():
    advantages = compute_advantages(torch.tensor([3.0, -8.0]), groups(2))
    assert advantages.tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-4)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("value", [0.35, 1 / 3, 1e6 + 0.1])
def test_a_group_that_agrees_gets_exactly_zero(scale, value):
    rewards = torch.tensor([value] * 7 + [0.0, 1.0, 2.0])
    advantages = compute_advantages(rewards, groups(7, 3), scale_rewards=scale)
    assert advantages[:7].tolist() == [0.0] * 7
    assert advantages[7:].abs().sum() > 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_a_group_sum_to_zero_and_do_not_see_other_groups_means(scale):
    rewards = torch.tensor([10.0, 10.0, 10.0, -5.0, -5.0, 1.0, 2.0, 4.0])
    ids = groups(3, 2, 3)
    advantages = compute_advantages(rewards, ids, scale_rewards=scale)
    assert advantages[:5].tolist() == [0.0] * 5  # a reward that is the prompt's own teaches nothing
    for g in range(3):
        assert advantages[ids == g].sum().abs() < 1e-6


def test_row_order_cannot_matter():
    rewards, ids = torch.randn(9, generator=torch.Generator().manual_seed(0)), groups(2, 3, 4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    for scale in ("group", "batch", "none"):
        expected = compute_advantages(rewards, ids, scale_rewards=scale)[order]
        torch.testing.assert_close(compute_advantages(rewards[order], ids[order], scale_rewards=scale), expected)


def test_scales_divide_by_what_they_name():
    rewards, ids = torch.tensor([0.0, 2.0, 0.0, 20.0], dtype=torch.float64), groups(2, 2)
    none = compute_advantages(rewards, ids, scale_rewards="none")
    assert none.tolist() == [-1, 1, -10, 10]
    by_group = compute_advantages(rewards, ids, scale_rewards="group")
    torch.testing.assert_close(by_group, none / torch.tensor([2**0.5, 2**0.5, 200**0.5, 200**0.5]), rtol=1e-4, atol=0)
    by_batch = compute_advantages(rewards, ids, scale_rewards="batch")
    torch.testing.assert_close(by_batch, none / rewards.std(), rtol=1e-4, atol=0)


def test_a_row_without_a_reward_takes_no_part():
    with_gap = compute_advantages(torch.tensor([1.0, NAN, 0.0, 5.0, 6.0]), groups(3, 2))
    without = compute_advantages(torch.tensor([1.0, 0.0, 5.0, 6.0]), groups(2, 2))
    assert with_gap[1] == 0
    torch.testing.assert_close(with_gap[[0, 2, 3, 4]], without)
    assert compute_advantages(torch.tensor([1.0, NAN, NAN, NAN]), groups(2, 2)).tolist() == [0.0] * 4


def test_inputs_are_left_alone():
    rewards, ids = torch.tensor([1.0, NAN, 0.0]), groups(3)
    before = rewards.clone()
    compute_advantages(rewards, ids)
    torch.testing.assert_close(rewards, before, equal_nan=True)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="alone in its group"):
        compute_advantages(torch.tensor([1.0, 2.0, 3.0]), groups(2, 1))
    with pytest.raises(ValueError, match=r"\(B,\), got \(2, 2\)"):
        compute_advantages(torch.zeros(2, 2), groups(2, 2))
    with pytest.raises(ValueError, match="'group', 'batch' or 'none'"):
        compute_advantages(torch.zeros(2), groups(2), scale_rewards="std")


# --- process supervision ------------------------------------------------------------------------------------------


def test_a_token_answers_for_the_steps_that_end_at_it_or_later():
    """By hand: the steps' rewards 1, 0 | 0, 1 | 1 have mean 0.6 and sample std 0.5477."""
    step_rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, NAN]], dtype=torch.float64)
    step_ends = torch.tensor([[1, 4], [0, 2], [3, -1]])
    high, low = 0.4 / math.sqrt(0.3), -0.6 / math.sqrt(0.3)
    both = high + low
    expected = [
        [both, both, low, low, low, 0, 0],
        [both, high, high, 0, 0, 0, 0],
        [high, high, high, high, 0, 0, 0],
    ]
    advantages = process_advantages(step_rewards, step_ends, groups(3), num_tokens=7)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=1e-3, atol=0)


def test_one_step_at_the_end_is_outcome_supervision():
    rewards, ends = torch.tensor([1.0, 0.0, 0.5, 4.0, 2.0]), torch.tensor([2, 0, 3, 1, 3])
    advantages = process_advantages(rewards[:, None], ends[:, None], groups(3, 2), num_tokens=4)
    outcome = compute_advantages(rewards, groups(3, 2))
    for row, end in enumerate(ends):
        torch.testing.assert_close(advantages[row, : end + 1], outcome[row].expand(end + 1))
        assert advantages[row, end + 1 :].tolist() == [0.0] * (3 - end)


def test_steps_that_end_at_one_token_all_count():
    """By hand: rewards 1, 0 | 1 have mean 2/3 and sample std 1 / root 3, so 1 is 1 / root 3 up, and 0 twice that down."""
    advantages = process_advantages(
        torch.tensor([[1.0, 0.0], [1.0, NAN]]), torch.tensor([[2, 2], [2, 0]]), groups(2), num_tokens=4
    )
    up = 1 / math.sqrt(3)
    torch.testing.assert_close(advantages, torch.tensor([[-up] * 3 + [0], [up] * 3 + [0]]), rtol=1e-3, atol=0)


def test_steps_outside_the_completion_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.3"):
        process_advantages(torch.ones(2, 1), torch.tensor([[1], [4]]), groups(2), num_tokens=4)
    with pytest.raises(ValueError, match=r"\(B, S\)"):
        process_advantages(torch.ones(2, 1), torch.ones(2, 2).long(), groups(2), num_tokens=4)


# --- careless input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_rewards_of_any_kind_are_counted_in_float32(kind):
    rewards = torch.tensor([1, 0, 1, 1]).to(kind)
    expected = compute_advantages(rewards.float(), groups(4))
    found = compute_advantages(rewards, groups(4))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    steps = process_advantages(rewards[:, None], torch.zeros(4, 1).long(), groups(4), num_tokens=2)
    torch.testing.assert_close(steps[:, 0], expected)


def test_large_rewards_in_half_precision_do_not_become_zero():
    """1000 squared is beyond float16: the standard deviation would be inf, and every advantage 0."""
    found = compute_advantages(torch.tensor([1000.0, 0.0], dtype=torch.float16), groups(2))
    assert found.tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-4)


@pytest.mark.parametrize("rewards", [[math.inf, 0.0], [-math.inf, 0.0], [math.inf, NAN], [3e38, -3e38]])
def test_rewards_that_are_infinite_or_overflow_are_refused(rewards):
    with pytest.raises(ValueError, match="must be finite numbers"):
        compute_advantages(torch.tensor(rewards), groups(2))
    with pytest.raises(ValueError, match="must be finite numbers"):
        process_advantages(torch.tensor(rewards)[:, None], torch.zeros(2, 1).long(), groups(2), num_tokens=2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: compute_advantages([1.0, 0.0], groups(2)), r"rewards must be a tensor \(B,\), got \[1.0, 0.0\]; torch.tensor"),
        (lambda: compute_advantages(torch.zeros(2), [0, 0]), r"group_ids must be a tensor"),
        (lambda: compute_advantages(torch.zeros(2), groups(3)), r"group_ids must be \(B,\) like rewards, \(2,\), got \(3,\)"),
        (lambda: compute_advantages(torch.zeros(0), torch.zeros(0).long()), "or there is none"),
        (lambda: process_advantages(torch.zeros(2), groups(2), groups(2), 4), r"step_rewards must be \(B, S\), got \(2,\)"),
        (lambda: process_advantages(torch.zeros(2, 1), torch.zeros(2, 1), groups(2), 4), "step_ends must be whole numbers"),
        (lambda: process_advantages(torch.zeros(2, 1), groups(2)[:, None], groups(3), 4), "group_ids must be"),
        (lambda: process_advantages(torch.zeros(2, 1), groups(2)[:, None], groups(1, 1), 4), "alone in its group"),
    ],
)
def test_careless_calls_end_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
