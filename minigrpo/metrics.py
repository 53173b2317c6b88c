"""Every number that a run logs: its unit, what it means, what a healthy run shows. Names are TRL's where TRL has them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Metric(NamedTuple):
    unit: str
    meaning: str
    healthy: str


METRICS = {
    "step": Metric("updates", "Optimizer updates so far.", "Counts up by one."),
    "loss": Metric(
        "-",
        "What is minimised.",
        "No sign of progress: with loss_type grpo it stays near 0, since a group's advantages sum to 0.",
    ),
    "reward": Metric("reward", "Mean over the completions of the rollout, weights applied, without any KL.", "Rises."),
    "weighted_logprob": Metric(
        "nats per completion",
        "Log-prob of the batch's responses, each weighed by exp(reward / beta); records only.",
        "Rises towards minus the entropy of the optimum.",
    ),
    "reward_std": Metric(
        "reward", "Standard deviation over all scored completions of the rollout; absent where there are not two.", "Above 0."
    ),
    "frac_reward_zero_std": Metric(
        "share", "Groups whose rewards are all equal: they teach nothing.", "Low at first, near 1 once the task is learnt."
    ),
    "kl": Metric(
        "nats per token",
        "Distance from the reference: mean of k1 over the rollout's tokens (of records: the exact KL); absent at beta 0.",
        "Rises from 0, where it may be slightly negative, then settles.",
    ),
    "entropy": Metric("nats per token", "How undecided the policy is, mean over tokens.", "Falls; at 0 nothing new is tried."),
    "clip_ratio": Metric(
        "share",
        "Tokens that the clip keeps from being pushed further (TRL: clip_ratio/region_mean).",
        "Exactly 0 with one update per rollout; some percent with more.",
    ),
    "grad_norm": Metric(
        "-", "Length of the gradient before it is clipped.", "Finite; falls as groups agree, to what the KL alone brings."
    ),
    "learning_rate": Metric("-", "Of the optimizer.", "As configured."),
    "completions/mean_length": Metric("tokens", "Mean over completions, EOS included.", "Moves towards what the task needs."),
    "completions/clipped_ratio": Metric("share", "Completions cut off at max_completion_length.", "Near 0."),
    "eval_reward": Metric(
        "reward",
        "Mean reward of samples of the held-out problems, by the functions of training; every eval_steps.",
        "Rises with the reward; where it falls behind, the training problems are learnt by heart.",
    ),
    "eval_accuracy": Metric("share", "Of these samples the right ones, where the task knows which.", "Rises with the reward."),
    "thinking": Metric("share", "Completions that write steps first (minigrpo train, clock task).", "Rises with the reward."),
    "sampling/tokens": Metric(
        "tokens", "Completion tokens drawn for this step (of records: read); 0 where a rollout is used again.", "-"
    ),
    "sampling/seconds": Metric("s", "Time to sample and score them.", "-"),
    "update/tokens": Metric("tokens", "Completion tokens that the update learnt from.", "-"),
    "update/seconds": Metric("s", "Time of the update.", "-"),
}  # and rewards/<function>/mean for each reward function


def rollout_metrics(rewards: Tensor, scores: dict[str, Tensor], rollout) -> dict[str, float]:
    """What a rollout shows, whatever is learnt from it; a mean of nothing, where every function abstained, is left out.

    Args:
        rewards: (B,), NaN where every reward function abstained. scores: (B,) of each function. rollout: a sampling.Rollout.
    """
    lengths = rollout.completion_mask.sum(1)
    scored = rewards[~rewards.isnan()]
    groups = [rewards[rollout.group_ids == g] for g in rollout.group_ids.unique()]
    silent = [len(group[~group.isnan()].unique()) <= 1 for group in groups]
    return {
        **({"reward": scored.mean().item()} if len(scored) else {}),
        **({"reward_std": scored.std().item()} if len(scored) > 1 else {}),
        "frac_reward_zero_std": sum(silent) / len(silent),
        **{f"rewards/{name}/mean": x.nanmean().item() for name, x in scores.items() if not x.isnan().all()},
        "completions/mean_length": lengths.float().mean().item(),
        "completions/clipped_ratio": (~rollout.ended).float().mean().item(),
    }


def masked_mean(values: Tensor, completion_mask: Tensor) -> float:
    """(B, C) -> the mean over the tokens that count.

    Raises:
        ValueError: if none counts, or the mask is not (B, C) bool.
    """
    if completion_mask.dtype != torch.bool or completion_mask.shape != values.shape or not completion_mask.any():
        came = f"{tuple(values.shape)} and {tuple(completion_mask.shape)} of {completion_mask.dtype}"
        raise ValueError(f"values and completion_mask must be (B, C), the mask bool with a token that counts, got {came}.")
    return values.detach()[completion_mask].mean().item()


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of k samples is right, unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374).

    >>> pass_at_k(num_samples=4, num_correct=1, k=2)
    0.5

    Raises:
        ValueError: unless 1 <= k <= num_samples and 0 <= num_correct <= num_samples.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct must be between 0 and the number of samples {num_samples}, got {num_correct}.")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be between 1 and the number of samples {num_samples}, got {k}.")
    misses = torch.arange(num_samples - num_correct - k + 1, num_samples - num_correct + 1, dtype=torch.float64)
    draws = torch.arange(num_samples - k + 1, num_samples + 1, dtype=torch.float64)
    return 1.0 - (misses.clamp(min=0) / draws).prod().item()
