"""Reward functions times weights: one reward a completion."""

import numbers
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minigrpo.config import BadInput

RewardFunction = Callable[..., list[float | None]]  # f(prompts, completions, **columns): TRL's protocol


def score(reward_fn: RewardFunction, prompts: list[str], completions: list[str], columns: dict[str, list]) -> Tensor:
    """(B,) float32 rewards of one function, NaN where it abstained with None.

    An error inside the function is not caught: a reward that fails silently is the worst bug there is.

    Raises:
        BadInput: if it returns anything but one number or None a completion.
    """
    name = getattr(reward_fn, "__name__", type(reward_fn).__name__)
    values = reward_fn(prompts=prompts, completions=completions, **columns)
    try:
        values = list(values)
    except TypeError:
        raise BadInput(f"The reward function {name} returned {values!r}, not a list of rewards.") from None
    if len(values) != len(completions):
        raise BadInput(f"The reward function {name} returned {len(values)} values for {len(completions)} completions.")
    for row, value in enumerate(values):
        number = value is None or isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)
        if not number or (value is not None and not -float("inf") < float(value) < float("inf")):
            raise BadInput(
                f"The reward function {name} returned {value!r} for completion {row} ({completions[row]!r}); "
                "it must return a finite number, or None to abstain."
            )
    return torch.tensor([float("nan") if value is None else float(value) for value in values])


def combine(scores: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """(B, F) scores of F functions -> (B,) their weighted sum, leaving out the NaN of those that abstained.

    NaN where every function abstained: such a row takes no part in the baseline and gets advantage 0.
    """
    check_weights(weights, scores.shape[1])
    weights = torch.ones(scores.shape[1]) if weights is None else torch.tensor(weights, dtype=scores.dtype)
    rewards = (scores.nan_to_num(0.0) * weights.to(scores.device)).sum(1)
    return torch.where(scores.isnan().all(1), torch.nan, rewards)


def check_weights(weights: Sequence[float] | None, num_functions: int) -> None:
    """Raises BadInput unless there is one weight a reward function, or none at all."""
    if weights is not None and len(weights) != num_functions:
        raise BadInput(f"reward_weights must have one number a reward function, {num_functions}, got {list(weights)}.")
