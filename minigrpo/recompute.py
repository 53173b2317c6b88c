"""Gradient checkpointing: layers keep only their inputs, and run again in the backward pass. Less memory, and more time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from minigrpo.config import BadInput
from minigrpo.scoring import copied


@contextmanager
def recomputed_layers(model: PreTrainedModel, *, enabled: bool = True) -> Iterator[None]:
    """Inside, forward passes keep of each layer what went in, and make the rest anew in the backward pass (Chen et al. 2016,
    arXiv:1604.06174). The gradient is the same.

    ``gradient_checkpointing_enable`` of transformers works in train mode alone, where dropout would score another policy than
    the one that sampled, and takes away the cache by which the completions of a prompt share its reading.

    Raises:
        BadInput: for a model without layers that say they may be run again.
    """
    layers = layers_to_run_again(model) if enabled else []
    for layer in layers:
        layer.forward = partial(_kept_inputs, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # back to that of its class


def layers_to_run_again(model: PreTrainedModel) -> list[nn.Module]:
    """Those that transformers made for it. Raises BadInput if there are none."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BadInput(f"{type(model).__name__} has no layers that can be run again; leave gradient_checkpointing out.")
    return layers


def _kept_inputs(forward: Callable, *args, **kwargs):
    """``forward(*args, **kwargs)``, whose second run finds the cache as the first one found it, and leaves it alone."""
    given = [*args, *kwargs.values()]
    cache = next((value for value in given if isinstance(value, Cache)), None)
    before, first = None if cache is None else copied(cache), {}

    def run(*args, **kwargs):
        own = None if before is None else first.setdefault("cache", copied(before)) or copied(before)
        args = [own if isinstance(value, Cache) else value for value in args]
        return forward(*args, **{name: own if isinstance(value, Cache) else value for name, value in kwargs.items()})

    result = checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
    if cache is not None:
        cache.layers, first["cache"] = first["cache"].layers, None
    return result
