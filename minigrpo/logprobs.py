"""Log-probs of completion tokens under a policy. The one place that knows that a model predicts the *next* token."""

import torch
from torch import Tensor


def completion_mask(completion_ids: Tensor, eos_token_id: int | list[int]) -> Tensor:
    """(B, C) token ids -> (B, C) bool: True up to and including the first EOS.

    The EOS counts: ending there was a decision of the policy, and one that is never trained is never learnt. What follows
    it is padding whatever its value: pad and EOS are often the same token.

    Args:
        eos_token_id: one, or several for a model that may end with any of them.
    """
    is_eos = torch.isin(completion_ids, torch.as_tensor(eos_token_id, device=completion_ids.device))
    return is_eos.cumsum(1) - is_eos.long() == 0


def shift_logits(logits: Tensor, prompt_length: int) -> Tensor:
    """(B, L + C, V) logits of prompt and completion -> (B, C, V), the logits that predict each completion token.

    Position t predicts token t + 1: the distribution over the first completion token sits on the last prompt token, and
    what the last completion token predicts was never written.
    """
    return logits[:, prompt_length - 1 : -1]


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, C, V) logits that predict each token and (B, C) ids -> (B, C) nats: the log-prob of each token that was drawn.

    Args:
        temperature: the one that the tokens were sampled with; the policy is softmax(logits / temperature).
    Raises:
        ValueError: if the shapes do not belong together.
    """
    if logits.shape[:2] != token_ids.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(token_ids.shape)}"
        raise ValueError(
            f"logits must be (B, C, V) for token_ids (B, C), got {shapes}; whole sequences need shift_logits first."
        )
    # log_softmax subtracts the largest logit first; log(softmax(...)) would be -inf wherever softmax rounds to 0.
    logprobs = torch.log_softmax(_float(logits) / temperature, dim=-1)
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def token_entropies(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, C, V) -> (B, C) nats: how undecided the policy was at each token; log V if it had no idea."""
    logprobs = torch.log_softmax(_float(logits) / temperature, dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
