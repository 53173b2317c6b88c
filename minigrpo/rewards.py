"""Reward functions times weights: one reward per completion."""

import copy
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice

import torch
from torch import Tensor

from minigrpo.config import BadInput

RewardFunction = Callable[..., list[float | None]]  # f(prompts, completions, **columns): TRL's protocol
LARGEST = torch.finfo(torch.float32).max
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
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
            raise BadInput(f"The reward function {short_name(fn)} is async, and nothing here awaits it; make it a plain def.")
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


def short_name(fn: RewardFunction) -> str:
    """What a function is called; a partial is called as its function, an object as its class."""
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__name__", type(fn).__name__)


def _module(fn: RewardFunction) -> str:
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__module__", None) or type(fn).__module__  # a function made by exec has none


# --- what they say ------------------------------------------------------------------------------------------------------


def score(reward_fn: RewardFunction, prompts: list[str], completions: list[str], columns: dict[str, list]) -> Tensor:
    """(B,) float32 rewards of one function, NaN where it abstained with None.

    The function gets copies, so that what it does to its lists stays with it. An error inside it is not caught: a reward that
    fails silently is the worst bug there is.

    Raises:
        BadInput: if it cannot be called so, calls sys.exit, or returns anything but one number or None per completion.
    """
    name = short_name(reward_fn)
    _check_call(reward_fn, columns)
    try:
        returned = reward_fn(**copy.deepcopy({"prompts": prompts, "completions": completions, **columns}))
        # A generator does its work here; one value too many tells enough of one that never ends.
        values = list(islice(returned, len(completions) + 1)) if _in_order(returned) else None
    except SystemExit as error:  # which would end the run, with the exit code of a success if that is what it says
        raise BadInput(f"The reward function {name} called sys.exit; it may raise an error, or return a reward.") from error
    if values is None:
        if inspect.iscoroutine(returned):
            returned.close()  # nobody will await it
        raise BadInput(f"The reward function {name} returned {_shown(returned)}, not a list of rewards.")
    if len(values) != len(completions):
        more = len(values) > len(completions)
        count = f"more than {len(completions)}" if more else len(values)
        raise BadInput(f"The reward function {name} returned {count} values for {len(completions)} completions.")
    rewards = [_number(value) for value in values]
    for row, number in enumerate(rewards):
        if number is None:
            raise BadInput(
                f"The reward function {name} returned {_shown(values[row])} for completion {row} ({completions[row]!r:.60}); "
                f"it must return a finite number, at most {LARGEST:.1e}, or None to abstain."
            )
    return torch.tensor(rewards, dtype=torch.float32)


def _check_call(reward_fn: RewardFunction, columns: dict[str, list]) -> None:
    """Raises BadInput if the function does not take the arguments that it will get."""
    taken = {"prompts", "completions"} & columns.keys()
    if taken:
        raise BadInput(f"The data set has a column {min(taken)!r}, a name that reward functions have for their own; rename it.")
    try:
        inspect.signature(reward_fn).bind(prompts=None, completions=None, **columns)
    except TypeError as error:
        raise BadInput(
            f"The reward function {short_name(reward_fn)} cannot be called: {error}; it gets prompts, completions and the "
            f"data set's columns ({', '.join(columns) or 'none'}) by name, so its parameters end with **columns."
        ) from error
    except ValueError:
        pass  # what is written in C may not tell its parameters


def _in_order(returned) -> bool:
    """Whether a list can be made of it, one value per completion: the keys of a dict and the letters of a text are none."""
    if inspect.isawaitable(returned) or isinstance(returned, str | bytes | Mapping | Set):
        return False
    return isinstance(returned, Iterable) and getattr(returned, "ndim", 1) > 0


def _number(value) -> float | None:
    """A finite float32, or NaN for None; None for what is no such number."""
    if value is None:
        return math.nan
    if callable(getattr(value, "item", None)):  # a scalar of torch's, on any device, or of numpy's
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):
            return None
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST else None


def _shown(value) -> str:
    """A value as a sentence shows it; Python does not even write down the longest of whole numbers."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    return f"{value!r:.60}"


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
