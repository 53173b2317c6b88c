"""The GRPO loss: ratio, clip, penalty, aggregation."""

from typing import NamedTuple

import torch
from torch import Tensor

from minigrpo.logprobs import check_alike


class GRPOLoss(NamedTuple):
    """Scalars; only ``loss`` carries gradient."""

    loss: Tensor
    policy_loss: Tensor  # without the penalty
    kl: Tensor | None  # nats per token, mean over the tokens that count
    clip_fraction: Tensor  # share of those tokens that the clip keeps from being pushed further


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, completion_mask: Tensor, level: str = "token") -> Tensor:
    """How much likelier a token has become since it was drawn: policy / sampler, from (B, C) nats.

    Args:
        level: "token" gives each token its own, (B, C); "sequence" each completion the geometric mean of its tokens'
            (GSPO, arXiv:2507.18071), (B, 1), with the gradient through the mean. 1 on padding.
    """
    check_alike("(B, C)", logprobs=logprobs, old_logprobs=old_logprobs, completion_mask=completion_mask)
    log_ratio = torch.where(completion_mask, logprobs - old_logprobs, 0.0)
    if level == "token":
        return log_ratio.exp()
    if level == "sequence":
        return (log_ratio.sum(1, keepdim=True) / completion_mask.sum(1, keepdim=True).clamp(min=1)).exp()
    raise ValueError(f"importance_sampling_level must be 'token' or 'sequence', got {level!r}.")


def clipped_objective(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None) -> Tensor:
    """min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A), higher is better; shapes broadcast (PPO, arXiv:1707.06347, eq. 7).

    The minimum is pessimistic: past the edge there is no more to gain, but a step in the wrong direction still costs.
    """
    if ratio.ndim == 2 and torch.as_tensor(advantages).ndim == 1:
        raise ValueError("advantages (B,) would be laid along the tokens of ratio (B, C); make them (B, 1) with unsqueeze(1).")
    upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages)


def cispo_objective(ratio: Tensor, logprobs: Tensor, advantages: Tensor, cap: float) -> Tensor:
    """min(r, cap) A log p, the weight held constant (CISPO, arXiv:2506.13585): a clip that never silences a token."""
    if ratio.ndim == 2 and torch.as_tensor(advantages).ndim == 1:
        raise ValueError("advantages (B,) would be laid along the tokens of ratio (B, C); make them (B, 1) with unsqueeze(1).")
    return ratio.clamp(max=cap).detach() * advantages * logprobs


def aggregate(
    values: Tensor, completion_mask: Tensor, loss_type: str, *, max_completion_length=None, num_sequences=None, num_tokens=None
) -> Tensor:
    """(B, C) values of tokens -> a scalar. The divisor decides how long and short completions weigh:

        grpo         mean over the tokens of each completion, then over completions: every completion weighs the same
        bnpo         mean over the tokens of these rows, whatever step they are a part of
        dr_grpo      sum divided by num_sequences * max_completion_length, a constant: length changes nothing
        dapo, cispo  sum divided by num_tokens, the tokens of the whole step: every token weighs the same

    ``num_sequences`` and ``num_tokens`` count the whole step where these rows are a part of it: the parts then sum to the
    whole. A row without any token adds 0, and counts among the sequences; a batch without any is a ValueError.
    """
    check_alike("(B, C)", values=values, completion_mask=completion_mask)
    if not completion_mask.any():
        raise ValueError("completion_mask is False everywhere: there is no token to learn from.")
    totals = torch.where(completion_mask, values, 0.0).sum(1)
    lengths = completion_mask.sum(1)
    num_sequences = len(values) if num_sequences is None else num_sequences
    if loss_type == "grpo":
        return (totals / lengths.clamp(min=1)).sum() / num_sequences
    if loss_type == "bnpo":
        return totals.sum() / lengths.sum()
    if loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("dr_grpo divides by max_completion_length, which was not given.")
        return totals.sum() / (num_sequences * max_completion_length)
    if loss_type in ("dapo", "cispo"):
        return totals.sum() / (lengths.sum() if num_tokens is None else num_tokens)
    raise ValueError(f"loss_type must be grpo, bnpo, dr_grpo, dapo or cispo, got {loss_type!r}.")


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    kl: Tensor | None = None,
    beta: float,
    epsilon: float,
    epsilon_high: float | None = None,
    loss_type: str,
    importance_sampling_level: str,
    max_completion_length: int | None = None,
    num_sequences: int | None = None,
    num_tokens: int | None = None,
) -> GRPOLoss:
    """GRPO objective (Shao et al. 2024, arXiv:2402.03300, eq. 3), negated so that lower is better.

    Per token:  -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta * kl,   r = exp(logprobs - old_logprobs),
    then averaged as ``loss_type`` says (see aggregate; cispo has an objective of its own).

    Args:
        logprobs: (B, C) nats, under the policy being trained.
        old_logprobs: (B, C) nats, under the policy that sampled; without gradient.
        advantages: (B,) one per completion, shared by its tokens, or (B, C); without gradient.
        completion_mask: (B, C) bool, True up to and including EOS.
        kl: (B, C) nats from kl.py, or None where beta is 0; with logprobs the only input that carries gradient.
        beta: weight of kl. epsilon, epsilon_high: the clip, see clipped_objective; for cispo epsilon_high is the cap.
        importance_sampling_level: "token" or "sequence" (GSPO).
        max_completion_length, num_sequences, num_tokens: see aggregate.
    Raises:
        ValueError: on a mismatch of shapes, a gradient where none belongs, or if no token counts.
    """
    _check(logprobs, old_logprobs, advantages, completion_mask, kl, beta, loss_type, epsilon_high)
    advantages = advantages.unsqueeze(1) if advantages.ndim == 1 else advantages
    ratio = importance_ratio(logprobs, old_logprobs, completion_mask, importance_sampling_level)
    if loss_type == "cispo":
        objective = cispo_objective(ratio, logprobs, advantages, epsilon_high)
        clipped = (ratio > epsilon_high) & (advantages > 0)
    else:
        objective = clipped_objective(ratio, advantages, epsilon, epsilon_high)
        clipped = objective < ratio * advantages
    counts = {"num_sequences": num_sequences, "num_tokens": num_tokens, "max_completion_length": max_completion_length}
    policy_loss = -aggregate(objective.expand_as(logprobs), completion_mask, loss_type, **counts)
    loss = policy_loss if kl is None else policy_loss + beta * aggregate(kl, completion_mask, loss_type, **counts)
    return GRPOLoss(
        loss=loss,
        policy_loss=policy_loss.detach(),
        kl=None if kl is None else kl.detach()[completion_mask].mean(),
        clip_fraction=clipped.expand_as(logprobs)[completion_mask].float().mean(),
    )


def _check(logprobs, old_logprobs, advantages, completion_mask, kl, beta, loss_type, epsilon_high) -> None:
    check_alike("(B, C)", logprobs=logprobs, old_logprobs=old_logprobs, completion_mask=completion_mask)
    check_alike("(B, C)", logprobs=logprobs, kl=logprobs if kl is None else kl)
    check_alike(advantages=advantages)
    if advantages.shape not in (logprobs.shape, logprobs.shape[:1]):
        raise ValueError(f"advantages must be (B,) or (B, C) like {tuple(logprobs.shape)}, got {tuple(advantages.shape)}.")
    for name, tensor in (("old_logprobs", old_logprobs), ("advantages", advantages)):
        if tensor.requires_grad:  # it would cancel the gradient of logprobs, or train the reward
            raise ValueError(f"{name} carries a gradient, and only logprobs and kl may; pass it through .detach().")
    if kl is None and beta != 0:
        raise ValueError(f"beta is {beta}, but there is no kl to weigh: pass one from kl.py, or beta=0.")
    if loss_type == "cispo" and epsilon_high is None:
        raise ValueError("cispo needs epsilon_high, the cap of the weight itself (about 5).")
