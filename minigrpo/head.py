"""The language model's head, from hidden states to log-probs, without ever holding all logits."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**24  # 64 MB in float32
_head_is_all: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def head_is_all(model: PreTrainedModel) -> bool:
    """Whether the head alone makes the logits of what base_model gives; some models cap, scale or transform there.

    Tried on four tokens, once a model. Where it is all, the arithmetic is the same, and so are the bits.
    """
    if model not in _head_is_all:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            text, head = torch.arange(4, device=model.device)[None], model.get_output_embeddings()
            hidden = model.base_model(text, use_cache=False)[0]
            fits = isinstance(head, nn.Linear) and hidden.shape[-1] == head.in_features
            _head_is_all[model] = fits and torch.equal(head(hidden), model(text, use_cache=False).logits)
    return _head_is_all[model]


class ChunkedHead(torch.autograd.Function):
    """(N, D) hidden states and (N,) ids -> (N,) log-probs and (N,) entropies, without ever holding (N, V) logits.

    The logits are made a chunk at a time, once forward and once more backward: a third more work for the head, whose memory
    no longer grows with the number of tokens. The entropies carry no gradient. Autocast or not, products are of the weight's
    precision, and what follows is at least float32.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, token_ids, temperature):
        logprobs, entropies = [], []
        for part in _chunks(len(hidden), len(weight)):
            chunk = torch.log_softmax(_logits(hidden[part], weight, bias, temperature), dim=-1)
            logprobs.append(chunk.gather(1, token_ids[part, None])[:, 0])
            # A token that is ruled out has a log-prob of -inf, and 0 log 0 is 0; the least finite number makes it so.
            entropies.append(-torch.linalg.vecdot(chunk.exp(), chunk.clamp_(min=torch.finfo(chunk.dtype).min)))
        ctx.save_for_backward(hidden, weight, bias, token_ids)
        ctx.temperature, entropies = temperature, torch.cat(entropies)
        ctx.mark_non_differentiable(entropies)
        return torch.cat(logprobs), entropies

    @staticmethod
    def backward(ctx, gradient, _):
        """d log p(token) / d logits = onehot(token) - p."""
        hidden, weight, bias, token_ids = ctx.saved_tensors
        for_hidden, for_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for_bias = None if bias is None else torch.zeros_like(bias)
        for part in _chunks(len(hidden), len(weight)):
            pull = gradient[part, None] / ctx.temperature
            for_logits = torch.softmax(_logits(hidden[part], weight, bias, ctx.temperature), dim=-1).mul_(-pull)
            for_logits = for_logits.scatter_add_(1, token_ids[part, None], pull).to(weight.dtype)
            for_hidden[part] = for_logits @ weight
            for_weight.addmm_(for_logits.T, hidden[part].to(weight.dtype))
            if bias is not None:
                for_bias += for_logits.sum(0)
        return for_hidden, for_weight, for_bias, None, None


def _chunks(num_tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return [slice(start, start + size) for start in range(0, num_tokens, size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = nn.functional.linear(hidden.to(weight.dtype), weight, bias)
    return (logits if logits.dtype == torch.float64 else logits.float()).div_(temperature)
