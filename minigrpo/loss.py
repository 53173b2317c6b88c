"""The GRPO loss: ratio, clip, penalty, aggregation."""

from typing import NamedTuple

import torch
from torch import Tensor


class GRPOLoss(NamedTuple):
    """Scalars; only ``loss`` carries gradient."""

    loss: Tensor
    policy_loss: Tensor  # without the penalty
    kl: Tensor | None  # nats a token, mean over the tokens that count
    clip_fraction: Tensor  # share of those tokens that the clip keeps from being pushed further


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, completion_mask: Tensor, level: str = "token") -> Tensor:
    """How much likelier a token has become since it was drawn: policy / sampler.

    Args:
        logprobs, old_logprobs: (B, C) nats. completion_mask: (B, C) bool.
        level: "token" gives each token its own; "sequence" each completion the geometric mean of its tokens'
            (GSPO, arXiv:2507.18071), with the gradient through the mean.
    Returns:
        (B, C) or (B, 1), 1 on padding.
    Raises:
        ValueError: on another level.
    """
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
    upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages)


def cispo_objective(ratio: Tensor, logprobs: Tensor, advantages: Tensor, cap: float) -> Tensor:
    """min(r, cap) A log p with the weight held constant, higher is better (CISPO, MiniMax-M1, arXiv:2506.13585).

    The clip limits how much a token weighs but never silences it. ``cap`` is that of the weight itself, about 5.
    """
    return ratio.clamp(max=cap).detach() * advantages * logprobs


def aggregate(
    values: Tensor,
    completion_mask: Tensor,
    loss_type: str,
    *,
    max_completion_length: int | None = None,
    num_sequences: int | None = None,
    num_tokens: int | None = None,
) -> Tensor:
    """(B, C) values of tokens -> a scalar. Who divides by what decides how long and short completions weigh:

        grpo         mean over the tokens of each completion, then over completions: every completion weighs the same
        bnpo         mean over the tokens of these rows, whatever step they are a part of
        dr_grpo      sum over num_sequences * max_completion_length: a constant, so that length changes nothing
        dapo, cispo  sum over num_tokens, the tokens of the whole step: every token weighs the same

    ``num_sequences`` and ``num_tokens`` count the whole step where these rows are a part of it: the parts then sum to the
    whole. A row without any token adds 0, and counts among the sequences.
    """
    totals = torch.where(completion_mask, values, 0.0).sum(1)
    lengths = completion_mask.sum(1)
    num_sequences = len(values) if num_sequences is None else num_sequences
    num_tokens = lengths.sum() if num_tokens is None else num_tokens
    if loss_type == "grpo":
        return (totals / lengths.clamp(min=1)).sum() / num_sequences
    if loss_type == "bnpo":
        return totals.sum() / lengths.sum()
    if loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("dr_grpo divides by max_completion_length, which was not given.")
        return totals.sum() / (num_sequences * max_completion_length)
    if loss_type in ("dapo", "cispo"):
        return totals.sum() / num_tokens
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
        advantages: (B,) one a completion, shared by its tokens, or (B, C); without gradient.
        completion_mask: (B, C) bool, True up to and including EOS.
        kl: (B, C) nats from kl.py, or None where beta is 0; with logprobs the only input that carries gradient.
        beta: weight of kl. epsilon, epsilon_high: the clip, see clipped_objective; for cispo epsilon_high is the cap.
        importance_sampling_level: "token" or "sequence" (GSPO).
        max_completion_length, num_sequences, num_tokens: see aggregate.
    Returns:
        GRPOLoss of scalars.
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
        upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
        clipped = ((ratio < 1 - epsilon) & (advantages < 0)) | ((ratio > upper) & (advantages > 0))

    def mean(values: Tensor) -> Tensor:
        counts = {"num_sequences": num_sequences, "num_tokens": num_tokens, "max_completion_length": max_completion_length}
        return aggregate(values, completion_mask, loss_type, **counts)

    policy_loss = -mean(objective.expand_as(logprobs))
    loss = policy_loss if kl is None else policy_loss + beta * mean(kl)
    return GRPOLoss(
        loss=loss,
        policy_loss=policy_loss.detach(),
        kl=None if kl is None else kl.detach()[completion_mask].mean(),
        clip_fraction=clipped.expand_as(logprobs)[completion_mask].float().mean(),
    )


def _check(logprobs, old_logprobs, advantages, completion_mask, kl, beta, loss_type, epsilon_high) -> None:
    shape = tuple(logprobs.shape)
    for name, tensor in (("old_logprobs", old_logprobs), ("completion_mask", completion_mask), ("kl", kl)):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be (B, C) like logprobs, {shape}, got {tuple(tensor.shape)}.")
    if tuple(advantages.shape) not in (shape, shape[:1]):
        raise ValueError(f"advantages must be (B,) or (B, C) for logprobs {shape}, got {tuple(advantages.shape)}.")
    if completion_mask.dtype != torch.bool:
        raise ValueError(f"completion_mask must be bool, got {completion_mask.dtype}.")
    if not completion_mask.any():
        raise ValueError("completion_mask is False everywhere: there is no token to learn from.")
    if old_logprobs.requires_grad:
        raise ValueError("old_logprobs carries a gradient, which would cancel that of logprobs; pass it through .detach().")
    if advantages.requires_grad:
        raise ValueError("advantages carry a gradient; they are weights, not something to differentiate: .detach() them.")
    if kl is None and beta != 0:
        raise ValueError(f"beta is {beta}, but there is no kl to weigh: pass one from kl.py, or beta=0.")
    if loss_type == "cispo" and epsilon_high is None:
        raise ValueError("cispo needs epsilon_high, the cap of the weight itself (about 5).")
