"""Padding on the left, for a model with a table of positions that TRL scores."""

import inspect

from torch import nn


def follow_padding(model: nn.Module) -> None:
    """Make a model with a table of positions (GPT-2's) count them from its first real token, where it is told nothing else.

    TRL pads prompts on the left and passes an attention mask alone. GPT-2 would then count the padding, and TRL would score a
    padded completion under another distribution than the one that it was drawn from. Relative positions need no help.
    """
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()]
    if tables and "position_ids" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)


def _count_positions(model, args, kwargs):
    mask = kwargs.get("attention_mask")
    goes_on = kwargs.get("cache") is not None or kwargs.get("past_key_values") is not None  # the one or the other name
    if mask is not None and kwargs.get("position_ids") is None and not goes_on:
        kwargs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return args, kwargs
