"""How far the policy has moved from the reference: KL(policy || reference), estimated on the policy's own tokens.

Each is right for something, in expectation over the policy's draws: its value; the gradient it has in the loss, against that
of the next token's KL; the gradient it brings when subtracted from the reward, against that of the whole completion's KL:

    estimator   value   gradient in the loss         gradient in the reward
    k1          right   0: no penalty at all         right
    k2          wrong   right                        wrong
    k3          right   that of KL(ref || policy)    wrong
    k3_ratio    right   right                        -
    exact       right   right                        -

tests/test_kl.py proves each entry by enumeration. Source: Schulman 2020, "Approximating KL divergence"; arXiv:2512.21852.
"""

import torch
from torch import Tensor

from minigrpo.logprobs import check_alike, vocabulary_logprobs

LARGEST_LOG = 20.0  # beyond it k3 goes on as its tangent: e^100 is inf in float32, and inf * 0 is NaN


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(B, C), (B, C) nats -> (B, C) nats: log(policy / reference). Unbiased, negative at times, of high variance."""
    check_alike(logprobs=logprobs, ref_logprobs=ref_logprobs)
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(B, C), (B, C) nats -> (B, C) nats: half the squared log-ratio. Biased in value, right in gradient."""
    return 0.5 * kl_k1(logprobs, ref_logprobs) ** 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(B, C), (B, C) nats -> (B, C) nats: r - 1 - log r with r = reference / policy. Unbiased, never negative."""
    log_r = -kl_k1(logprobs, ref_logprobs)
    capped = log_r.clamp(max=LARGEST_LOG)  # expm1 keeps precision where the two are close
    return torch.expm1(capped) + capped.detach().exp() * torch.relu(log_r - LARGEST_LOG) - log_r


def kl_k3_ratio(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """k3 weighted by policy / sampler, which carries the gradient that k3 alone leaves out.

    Differentiating E[k3] also differentiates the probabilities that E is over; the ratio, 1 in value before the first
    update, brings exactly that part. TRL's ``use_bias_correction_kl``. All (B, C) nats; only ``logprobs`` carries gradient.
    """
    check_alike(logprobs=logprobs, old_logprobs=old_logprobs)
    return torch.exp(logprobs - old_logprobs) * kl_k3(logprobs, ref_logprobs)


def kl_exact(logits: Tensor, ref_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, C, V), (B, C, V) -> (B, C) nats: the KL of the next token, summed over the vocabulary instead of estimated.
    A token that the policy rules out (a logit of -inf) adds 0; one that the reference alone rules out makes the KL inf."""
    check_alike(logits=logits, ref_logits=ref_logits)
    log_p, log_q = vocabulary_logprobs(logits, temperature), vocabulary_logprobs(ref_logits, temperature)
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(-1)


def estimate_kl(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor, *, estimator: str = "k3_ratio") -> Tensor:
    """The estimator of that name: "k1", "k2", "k3" or "k3_ratio"; all tensors (B, C), nats. "exact" is ``kl_exact``."""
    if estimator == "k3_ratio":
        return kl_k3_ratio(logprobs, ref_logprobs, old_logprobs)
    simple = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
    if not isinstance(estimator, str) or estimator not in simple:
        raise ValueError(f"estimator must be k1, k2, k3 or k3_ratio, got {estimator!r}; exact needs logits: kl_exact.")
    return simple[estimator](logprobs, ref_logprobs)


def kl_penalized_rewards(
    rewards: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, completion_mask: Tensor, beta: float
) -> Tensor:
    """(B,) rewards minus beta times each completion's summed k1: the penalty in the reward, as PPO has it.

    Here beta multiplies nats per completion, in the loss nats per token. It is that of E[R - beta KL] if scale_rewards is
    "none".
    """
    check_alike("(B, C)", old_logprobs=old_logprobs, ref_logprobs=ref_logprobs, completion_mask=completion_mask)
    check_alike("(B,)", completion_mask=completion_mask.any(1), rewards=rewards)
    k1 = kl_k1(old_logprobs, ref_logprobs).detach()
    return rewards - beta * torch.where(completion_mask, k1, 0.0).sum(1)
