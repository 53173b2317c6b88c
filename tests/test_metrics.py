from itertools import combinations

import pytest
import torch

from minigrpo.metrics import masked_mean, pass_at_k, rollout_metrics
from minigrpo.sampling import Rollout

pytestmark = pytest.mark.quick

NAN = float("nan")


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 1), (4, 1, 4), (7, 3, 5)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, c, k):
    samples = [1] * c + [0] * (n - c)
    draws = list(combinations(samples, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="between 1 and the number of samples 4, got 5"):
        pass_at_k(4, 1, 5)


def test_a_masked_mean_counts_tokens_once():
    values, mask = torch.tensor([[1.0, 2.0, 90.0], [6.0, 90.0, 90.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert masked_mean(values, mask) == 3.0


def test_what_a_rollout_shows():
    """Four groups of two: agree, differ, one abstained, all abstained."""
    mask = torch.arange(4) < torch.tensor([1, 2, 3, 4, 4, 4, 2, 4])[:, None]
    rollout = Rollout(
        prompts=[], completions=[], prompt_ids=None, prompt_mask=None, completion_ids=None, logprobs=None,
        group_ids=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
        completion_mask=mask,
        ended=torch.tensor([True] * 6 + [False] * 2),
    )  # fmt: skip
    rewards = torch.tensor([1.0, 1.0, 0.0, 2.0, 1.0, NAN, NAN, NAN])
    shown = rollout_metrics(rewards, {"right": rewards, "short": torch.full((8,), 0.5)}, rollout)
    assert shown == pytest.approx(
        {
            "reward": 1.0,
            "reward_std": 0.5**0.5,  # of 1, 1, 0, 2, 1
            "frac_reward_zero_std": 0.75,
            "rewards/right/mean": 1.0,
            "rewards/short/mean": 0.5,
            "completions/mean_length": 3.0,
            "completions/clipped_ratio": 0.25,
        }
    )


def test_what_no_function_scored_is_absent_and_not_nan():
    rollout = Rollout(
        prompts=[], completions=[], prompt_ids=None, prompt_mask=None, completion_ids=None, logprobs=None,
        group_ids=torch.tensor([0, 0]), completion_mask=torch.ones(2, 3).bool(), ended=torch.tensor([True, True]),
    )  # fmt: skip
    shown = rollout_metrics(torch.tensor([NAN, NAN]), {"right": torch.tensor([NAN, NAN])}, rollout)
    assert set(shown) == {"frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio"}
    assert "reward_std" not in rollout_metrics(torch.tensor([1.0, NAN]), {}, rollout)  # of one number there is none


@pytest.mark.parametrize("mask", [torch.zeros(2, 3).bool(), torch.ones(2, 3), torch.ones(2).bool(), torch.ones(2, 3).long()])
def test_a_masked_mean_of_nothing_or_under_another_mask_is_refused(mask):
    with pytest.raises(ValueError, match="the mask bool with a token that counts"):
        masked_mean(torch.zeros(2, 3), mask)


@pytest.mark.parametrize("correct", [-1, 5])
def test_more_right_samples_than_samples_are_refused(correct):
    with pytest.raises(ValueError, match="num_correct must be between 0"):
        pass_at_k(4, correct, 2)
