"""Reward functions times weights: one reward per completion."""

import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from minigrpo.config import BadInput
from minigrpo.protocol import LARGEST, Extras, RewardFunction, call_all, finite, in_order, short_name, shown

PROTOCOL = "wanted is a function f(prompts, completions, **columns) that returns one number per completion"


# --- the functions ------------------------------------------------------------------------------------------------------


def check_reward_fns(reward_fns: Iterable[RewardFunction]) -> list[RewardFunction]:
    """The reward functions as a list.

    Raises:
        BadInput: for a bare function, an empty list, or a member that cannot be called as a reward function.
    """
    if callable(reward_fns):
        name = short_name(reward_fns)
        raise BadInput(f"reward_fns is the function {name} itself; wanted is a list of functions: [{name}].")
    if not isinstance(reward_fns, Iterable) or isinstance(reward_fns, str | Mapping):
        raise BadInput(f"reward_fns is {reward_fns!r:.60}; wanted is a list of functions.")
    found = list(reward_fns)
    if not found:
        raise BadInput("reward_fns is empty: without a reward function no completion is better than another.")
    for fn in found:
        if not callable(fn):
            raise BadInput(f"A reward function is {fn!r:.60}, which cannot be called; {PROTOCOL}.")
        if inspect.isclass(fn):
            raise BadInput(f"The reward function {fn.__name__} is a class; {PROTOCOL}, or an instance with __call__.")
    return found


def reward_names(reward_fns: Sequence[RewardFunction]) -> list[str]:
    """A name for each function, all of them different: its own, with the module where two share it, numbered if need be."""
    short = [short_name(fn) for fn in reward_fns]
    long = [name if short.count(name) == 1 else f"{_module(fn)}.{name}" for fn, name in zip(reward_fns, short, strict=True)]
    names: list[str] = []
    for name in long:
        count = 1
        while (unique := name if count == 1 else f"{name}-{count}") in names:
            count += 1
        names.append(unique)
    return names


def _module(fn: RewardFunction) -> str:
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__module__", None) or type(fn).__module__  # a function made by exec has none


# --- what they say ------------------------------------------------------------------------------------------------------


def score(
    reward_fn: RewardFunction, prompts: list, completions: list, columns: dict[str, list], extras: Extras | None = None
) -> Tensor:
    """(B,) float32 rewards of one function, NaN where it abstained with None.

    An error inside it is not caught: a reward that fails silently is the worst bug there is.

    Args:
        prompts: B texts, or conversations as lists of {role, content}. completions: B texts, which the function gets in TRL's
            form. columns: those of the data set, B values each. extras: what TRL gives besides; without, nothing of it.
    Raises:
        BadInput: if it cannot be called so, calls sys.exit, or returns anything but one number or None per completion.
    """
    return score_all([reward_fn], prompts, completions, columns, extras)[:, 0]


def score_all(
    reward_fns: Sequence[RewardFunction],
    prompts: list,
    completions: list,
    columns: dict[str, list],
    extras: Extras | None = None,
) -> Tensor:
    """(B, F): ``score`` of F functions; those that are async run at the same time, after the others."""
    returned = call_all(reward_fns, prompts, completions, columns, extras)
    return torch.stack([_rewards(fn, values, completions) for fn, values in zip(reward_fns, returned, strict=True)], dim=1)


def _rewards(fn: RewardFunction, values, completions: list) -> Tensor:
    """(B,) of what a function returned."""
    name = short_name(fn)
    if not in_order(values):
        if inspect.iscoroutine(values):
            values.close()  # nobody will await it
        raise BadInput(f"The reward function {name} returned {shown(values)}, not a list of rewards.")
    values = list(islice(values, len(completions) + 1))
    if len(values) != len(completions):
        more = len(values) > len(completions)
        count = f"more than {len(completions)}" if more else len(values)
        raise BadInput(
            f"The reward function {name} returned {count} value{'s' * (count != 1)} for {len(completions)} completions."
        )
    rewards = [finite(value) for value in values]
    for row, number in enumerate(rewards):
        if number is None:
            raise BadInput(
                f"The reward function {name} returned {shown(values[row])} for completion {row} ({completions[row]!r:.60}); "
                f"it must return a finite number, at most {LARGEST:.1e}, or None to abstain."
            )
    return torch.tensor(rewards, dtype=torch.float32)


# --- together -----------------------------------------------------------------------------------------------------------


def combine(scores: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """(B, F) scores of F functions -> (B,) their weighted sum, leaving out the NaN of those that abstained.

    NaN where every function abstained: such a row takes no part in the baseline and gets advantage 0.

    Raises:
        BadInput: unless there is one weight per function, or if a sum is beyond float32.
    """
    check_weights(weights, scores.shape[1])
    weights = torch.ones(scores.shape[1]) if weights is None else torch.tensor(weights, dtype=scores.dtype)
    rewards = (scores.nan_to_num(0.0) * weights.to(scores.device)).sum(1)
    if not rewards.isfinite().all():
        raise BadInput(f"Rewards times weights, added up, must stay below {LARGEST:.1e}; make the rewards smaller.")
    return torch.where(scores.isnan().all(1), torch.nan, rewards)


def check_weights(weights: Sequence[float] | None, num_functions: int) -> None:
    """Raises BadInput unless there is one weight per reward function, or none at all."""
    if weights is not None and len(weights) != num_functions:
        raise BadInput(f"reward_weights must have one number per reward function, {num_functions}, got {list(weights)}.")
