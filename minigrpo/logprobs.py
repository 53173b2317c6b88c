"""Log-probs of completion tokens under a policy. The one place that knows that a model predicts the *next* token."""

import torch
from torch import Tensor


def completion_mask(completion_ids: Tensor, eos_token_id: int | list[int]) -> Tensor:
    """(B, C) token ids -> (B, C) bool: True up to and including the first EOS.

    The EOS counts: ending there was a decision of the policy, and one that is never trained is never learnt. What follows
    it is padding whatever its value: pad and EOS are often the same token. A model may have several EOS tokens: a list.
    """
    check_alike("(B, C)", completion_ids=completion_ids)
    is_eos = torch.isin(completion_ids, torch.as_tensor(eos_token_id, device=completion_ids.device))
    return is_eos.cumsum(1) - is_eos.long() == 0


def shift_logits(logits: Tensor, prompt_length: int) -> Tensor:
    """(B, L + C, V) logits of prompt and completion -> (B, C, V), the logits that predict each completion token.

    Position t predicts token t + 1: the distribution over the first completion token sits on the last prompt token, and
    what the last completion token predicts was never written.
    """
    check_alike("(B, L + C, V)", logits=logits)
    if not 1 <= prompt_length <= logits.shape[1]:
        raise ValueError(f"prompt_length must be between 1 and {logits.shape[1]}, all tokens, got {prompt_length}.")
    return logits[:, prompt_length - 1 : -1]


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, C, V) logits that predict each token and (B, C) ids -> (B, C) nats: the log-prob of each token that was drawn.

    Args:
        temperature: the one that the tokens were sampled with; the policy is softmax(logits / temperature).
    Raises:
        ValueError: if the shapes do not belong together, or the temperature is not above 0.
    """
    check_alike(token_ids=token_ids)
    logprobs = vocabulary_logprobs(logits, temperature)
    if logits.ndim != 3 or logits.shape[:2] != token_ids.shape:
        came = f"{tuple(logits.shape)} and {tuple(token_ids.shape)}"
        raise ValueError(f"logits must be (B, C, V) for token_ids (B, C), got {came}; whole sequences need shift_logits first.")
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def token_entropies(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, C, V) -> (B, C) nats: how undecided the policy was at each token; log V if it had no idea."""
    logprobs = vocabulary_logprobs(logits, temperature)
    probs = logprobs.exp()
    return -(probs * torch.where(probs > 0, logprobs, 0.0)).sum(-1)  # 0 log 0 is 0, where a token is ruled out


def vocabulary_logprobs(logits: Tensor, temperature: float) -> Tensor:
    """(..., V) -> (..., V) nats: log softmax(logits / temperature), in float32 at least."""
    check_alike(logits=logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; what was taken greedily is scored at 1.")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # log_softmax subtracts the largest logit first; log(softmax(...)) would be -inf wherever softmax rounds to 0.
    return torch.log_softmax(logits / temperature, dim=-1)


def check_alike(axes: str = "", **tensors: Tensor) -> None:
    """Raises ValueError unless all have one shape, such as "(B, C)"; broadcasting would give a wrong number without a word."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor {axes}, got {tensor!r:.60}; torch.tensor() makes one of a list.")
        if tensor.shape != first.shape or (axes and tensor.ndim != axes.count(", ") + 1):
            like = "" if tensor is first else f" like {next(iter(tensors))}, {tuple(first.shape)}"
            raise ValueError(f"{name} must be {axes or 'of one shape'}{like}, got {tuple(tensor.shape)}.")
        if name == "completion_mask" and tensor.dtype != torch.bool:
            raise ValueError(f"completion_mask must be bool, got {tensor.dtype}.")
