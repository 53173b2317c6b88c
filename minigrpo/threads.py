"""One thread for small models: their matrix products are too short to be shared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from torch import nn

# A second thread saves a fifth of the time on idle cores, and costs many times as much on busy ones.
FEW_PARAMETERS = 10_000_000


@contextmanager
def suited_threads(model: nn.Module) -> Iterator[None]:
    """One thread inside, if the model is small and on the CPU; afterwards the caller's number again.

    The number is the process's, so no generator may yield inside. A backward pass takes the number of the time when it runs.
    """
    before = torch.get_num_threads()
    if before == 1 or not is_small(model):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_small(model: nn.Module) -> bool:
    """Whether the model is on the CPU and has fewer than FEW_PARAMETERS."""
    count = 0
    for parameter in model.parameters():
        count += parameter.numel()
        if count >= FEW_PARAMETERS or parameter.device.type != "cpu":  # of a large model, known by its first or second
            return False
    return True


def on_suited_threads(function: Callable) -> Callable:
    """A function whose first argument is a model, called inside ``suited_threads``."""

    @wraps(function)
    def inside(model, *args, **kwargs):
        with suited_threads(model):
            return function(model, *args, **kwargs)

    return inside
