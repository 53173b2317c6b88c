"""Advantages: how much better a completion was than the others of its group."""

import torch
from torch import Tensor

from minigrpo.logprobs import check_alike

EPS = 1e-4  # added to the standard deviation, outside the root, as TRL and verl do


def compute_advantages(rewards: Tensor, group_ids: Tensor, *, scale_rewards: str = "group") -> Tensor:
    """Each reward minus the mean of its group, over a standard deviation (Shao et al. 2024, arXiv:2402.03300, 4.1.2).

    The standard deviation is the sample's (over n - 1): a group of two with different rewards gets +-0.707, where the
    population's would give +-1. A group whose rewards are all equal gets exactly 0: it teaches nothing.

    Args:
        rewards: (B,) one per completion, counted in float32 at least; NaN where no reward function had an opinion.
        group_ids: (B,) rows with the same number answer the same prompt; groups may differ in size.
        scale_rewards: "group" divides by the group's standard deviation, "batch" by that of all rewards (the mean stays the
            group's), "none" by nothing (Dr. GRPO, arXiv:2503.20783).
    Returns:
        (B,) without unit; 0 where the reward is NaN.
    Raises:
        ValueError: on a shape mismatch, an unknown scale, an infinite reward, or a completion that is alone in its group.
    """
    check_alike("(B,)", rewards=rewards, group_ids=group_ids)  # a table (P, G) of rewards wants flatten()
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(f"scale_rewards must be 'group', 'batch' or 'none', got {scale_rewards!r}.")
    _check_groups(group_ids)
    rewards = rewards if rewards.dtype == torch.float64 else rewards.float()
    valid = ~rewards.isnan()
    mean, std = _statistics(rewards[valid], group_ids[valid])
    if scale_rewards == "batch":
        std = _statistics(rewards[valid], torch.zeros_like(group_ids[valid]))[1]
    scale = torch.ones_like(std) if scale_rewards == "none" else std + EPS
    advantages = torch.zeros_like(rewards)
    advantages[valid] = (rewards[valid] - mean) / scale
    return advantages


def process_advantages(step_rewards: Tensor, step_ends: Tensor, group_ids: Tensor, num_tokens: int) -> Tensor:
    """Advantages where every step of a completion is scored (Shao et al. 2024, arXiv:2402.03300, 4.1.3).

    All step rewards of a group are normalised together; the advantage of a token is the sum of those of the steps that end
    at it or after it: it is answerable for what follows, not for what went before.

    Args:
        step_rewards: (B, S), NaN where a completion has fewer steps.
        step_ends: (B, S) index in the completion of each step's last token; ignored where step_rewards is NaN.
        group_ids: (B,).
        num_tokens: C, the width of the completions.
    Returns:
        (B, C), 0 behind the last step.
    Raises:
        ValueError: on a shape mismatch, a step that ends outside the completion, an infinite reward, or a completion alone.
    """
    check_alike("(B, S)", step_rewards=step_rewards, step_ends=step_ends)
    check_alike("(B,)", step_rewards=step_rewards.sum(1), group_ids=group_ids)
    _check_groups(group_ids)
    step_rewards = step_rewards if step_rewards.dtype == torch.float64 else step_rewards.float()
    valid = ~step_rewards.isnan()
    if step_ends.is_floating_point() or not ((step_ends[valid] >= 0) & (step_ends[valid] < num_tokens)).all():
        raise ValueError(f"step_ends must be whole numbers in 0..{num_tokens - 1}, the tokens of a completion.")
    rows, steps = valid.nonzero(as_tuple=True)
    mean, std = _statistics(step_rewards[valid], group_ids[rows])
    normalised = (step_rewards[valid] - mean) / (std + EPS)
    at_step_ends = step_rewards.new_zeros(len(group_ids), num_tokens)
    at_step_ends.index_put_((rows, step_ends[rows, steps].long()), normalised, accumulate=True)
    return at_step_ends.flip(1).cumsum(1).flip(1)


def _check_groups(group_ids: Tensor) -> None:
    if not len(group_ids) or (torch.unique(group_ids, return_counts=True)[1] == 1).any():
        raise ValueError("A completion is alone in its group, or there is none: give every prompt at least 2 to compare.")


def _statistics(values: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """(N,), (N,) -> each row's group mean and sample standard deviation (0 in a group of one), both (N,)."""
    groups, index = torch.unique(group_ids, return_inverse=True)

    def group_sum(x: Tensor) -> Tensor:
        return x.new_zeros(len(groups)).index_add(0, index, x)

    # Measured from the group's least value, equal values differ by exactly 0, and not by a rounding that EPS would magnify.
    least = values.new_zeros(len(groups)).scatter_reduce(0, index, values, "amin", include_self=False)[index]
    count = group_sum(torch.ones_like(values))
    deviation = values - least
    mean = (group_sum(deviation) / count)[index]
    variance = group_sum((deviation - mean) ** 2) / (count - 1).clamp(min=1)
    if not variance.isfinite().all():
        raise ValueError("A reward is infinite, or so large that its square is; rewards must be finite numbers.")
    return least + mean, variance.sqrt()[index]
