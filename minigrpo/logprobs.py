"""Log-probs of completion tokens under a policy. The one place that knows that a model predicts the *next* token."""

import torch
from torch import Tensor, nn


def completion_mask(completion_ids: Tensor, eos_token_id: int) -> Tensor:
    """(B, C) token ids -> (B, C) bool: True up to and including the first EOS.

    The EOS counts: ending there was a decision of the policy, and one that is never trained is never learnt. What follows
    it is padding whatever its value: pad and EOS are often the same token.
    """
    is_eos = completion_ids == eos_token_id
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


def completion_logits(
    model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, group_ids: Tensor, completion_ids: Tensor
) -> Tensor:
    """Logits that predict each completion token, with every prompt read once however many completions it has.

    Args:
        model: a causal language model of transformers.
        prompt_ids: (P, L), padded on the left. prompt_mask: (P, L) bool, False on padding.
        group_ids: (B,) the row of prompt_ids that a completion answers.
        completion_ids: (B, C), padded on the right with anything.
    Returns:
        (B, C, V); behind a completion's end they mean nothing.
    """
    cache, last_token, mask, position = read_prompts(model, prompt_ids, prompt_mask, group_ids)
    num_tokens = completion_ids.shape[1]
    # Fed the last prompt token and all completion tokens but the last, the model predicts the completion: the shift.
    inputs = torch.cat([last_token, completion_ids[:, :-1]], dim=1)
    # Nothing attends to what comes later, so padding on the right needs no mask.
    mask = torch.cat([mask, mask.new_ones(len(mask), num_tokens - 1)], dim=1)
    positions = position + torch.arange(num_tokens, device=position.device)
    return model(inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True).logits


def read_prompts(model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, group_ids: Tensor):
    """Read each prompt but its last token once, and hand its keys and values to every completion that shares it.

    Differentiable: the gradients of all completions of a prompt meet in it.

    Returns:
        The cache of B rows (None for prompts of one token), and of every row the last prompt token (B, 1), the attention
        mask (B, L) and the position of the last prompt token (B, 1).
    """
    mask = prompt_mask.long()
    # Padding on the left moves a prompt's tokens to the right; absolute positions must not move with them.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = None
    if prompt_ids.shape[1] > 1:
        read = {"attention_mask": mask[:, :-1], "position_ids": positions[:, :-1], "use_cache": True}
        cache = model(prompt_ids[:, :-1], logits_to_keep=1, **read).past_key_values
        cache.batch_select_indices(group_ids)
    return cache, prompt_ids[group_ids, -1:], mask[group_ids], positions[group_ids, -1:]


def _float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
