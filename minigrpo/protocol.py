"""TRL's protocol of reward functions: what they get, how they are called, and what they may log."""

import asyncio
import copy
import functools
import inspect
import math
import numbers
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from minigrpo.config import BadInput
from minigrpo.metrics import METRICS

RewardFunction = Callable[..., list[float | None]]  # f(prompts, completions, **columns); it may be async
LARGEST = torch.finfo(torch.float32).max
BESIDES = ("completion_ids", "trainer_state", "log_metric", "log_extra")  # what a function may ask for, besides the columns
SAMPLE_COLUMNS = ("step", "prompts", "completions", "rewards", "advantages")  # a line of samples.jsonl


def is_async(fn: RewardFunction) -> bool:
    """Whether a call gives a coroutine: of a function, a partial of one, or an object with such a __call__."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def short_name(fn: RewardFunction) -> str:
    """What a function is called; a partial is called as its function, an object as its class."""
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__name__", type(fn).__name__)


# --- what they get ------------------------------------------------------------------------------------------------------


@dataclass
class Extras:
    """What TRL gives to reward functions besides prompts, completions and the data set's columns; and what they log by it."""

    completion_ids: list[list[int]]  # B rows: the tokens of each completion, its EOS included
    trainer_state: Any  # transformers.TrainerState: global_step, the updates so far, and max_steps
    logged: dict[str, list[float]] = field(default_factory=dict)  # by log_metric
    columns: dict[str, list] = field(default_factory=dict)  # by log_extra, a value per completion

    def log_metric(self, name: str, value: float) -> None:
        """A number of this batch, for metrics.jsonl; of several under one name the mean."""
        if name in METRICS or str(name).startswith("rewards/"):
            raise BadInput(f"A reward function logs the metric {name!r}, which the run has of its own; take another name.")
        number = finite(value)
        if number is None or value is None:
            raise BadInput(f"A reward function logs {shown(value)} as the metric {name!r}; wanted is a finite number.")
        self.logged.setdefault(str(name), []).append(number)

    def log_extra(self, column: str, values: list) -> None:
        """A value per completion, for samples.jsonl; what JSON does not know is written as its text."""
        values = list(values)
        if column in SAMPLE_COLUMNS or len(values) != len(self.completion_ids):
            raise BadInput(
                f"A reward function logs the column {column!r} with {len(values)} values for {len(self.completion_ids)} "
                f"completions; wanted is one per completion, and another name than {', '.join(SAMPLE_COLUMNS)}."
            )
        self.columns[str(column)] = [v if isinstance(v, str | int | float | None) else str(v) for v in values]

    def metrics(self) -> dict[str, float]:
        """The mean of what was logged under each name."""
        return {name: sum(values) / len(values) for name, values in self.logged.items()}


def in_trls_form(prompts: list, completions: list) -> list:
    """Completions as reward functions get them: the answer to a conversation is a list with the assistant's message."""
    pairs = zip(prompts, completions, strict=True)
    return [[{"role": "assistant", "content": c}] if isinstance(p, list) and isinstance(c, str) else c for p, c in pairs]


def _arguments(
    reward_fn: RewardFunction, prompts: list, completions: list, columns: dict[str, list], extras: Extras | None
) -> dict[str, Any]:
    """What the function is called with: copies, so that what it does to its lists stays with it, and only those of TRL's extras
    that it has a parameter for.

    Raises:
        BadInput: if it does not take them.
    """
    if taken := {"prompts", "completions", *BESIDES} & columns.keys():
        raise BadInput(f"The data set has a column {min(taken)!r}, a name that reward functions have for their own; rename it.")
    given = {"prompts": prompts, "completions": in_trls_form(prompts, completions), **columns}
    functions = {}
    try:
        signature = inspect.signature(reward_fn)
        if extras is not None:
            wanted = signature.parameters.values()
            names = BESIDES if any(p.kind is p.VAR_KEYWORD for p in wanted) else {p.name for p in wanted}
            given |= {name: getattr(extras, name) for name in BESIDES[:2] if name in names}
            functions = {name: getattr(extras, name) for name in BESIDES[2:] if name in names}
        signature.bind(**given, **functions)
    except TypeError as error:
        raise BadInput(
            f"The reward function {short_name(reward_fn)} cannot be called: {error}; it gets prompts, completions and the "
            f"data set's columns ({', '.join(columns) or 'none'}) by name, so its parameters end with **columns."
        ) from error
    except ValueError:
        pass  # what is written in C may not tell its parameters
    return {**copy.deepcopy(given), **functions}


# --- calling them -------------------------------------------------------------------------------------------------------


def call_all(
    reward_fns: Sequence[RewardFunction], prompts: list, completions: list, columns: dict[str, list], extras: Extras | None
) -> list:
    """What each function returns, one after the other; those that are async run at the same time, after the rest.

    Raises:
        BadInput: if one cannot be called with what there is, or calls sys.exit.
    """
    calls = [(fn, _arguments(fn, prompts, completions, columns, extras)) for fn in reward_fns]
    returned = [None if is_async(fn) else _call(fn, arguments) for fn, arguments in calls]
    later = [row for row, fn in enumerate(reward_fns) if is_async(fn)]
    for row, values in zip(later, _at_once([_call_later(*calls[row]) for row in later]), strict=True):
        returned[row] = values
    return returned


def _call(fn: RewardFunction, arguments: dict):
    with _no_exit(fn):
        returned = fn(**arguments)
        # A generator does its work here; one value too many tells enough of one that never ends.
        return list(islice(returned, len(arguments["completions"]) + 1)) if in_order(returned) else returned


async def _call_later(fn: RewardFunction, arguments: dict):
    with _no_exit(fn):  # which would also end the thread of the loop, and the run would wait for ever
        return await fn(**arguments)


@contextmanager
def _no_exit(fn: RewardFunction) -> Iterator[None]:
    """sys.exit would end the run, with the exit code of a success if that is what it says."""
    try:
        yield
    except SystemExit as error:
        raise BadInput(
            f"The reward function {short_name(fn)} called sys.exit; it may raise an error, or return a reward."
        ) from error


def _at_once(coroutines: list[Coroutine]) -> list:
    """What each returns, all of them run together."""

    async def gathered() -> list:
        return await asyncio.gather(*coroutines)

    return asyncio.run_coroutine_threadsafe(gathered(), _event_loop(os.getpid())).result() if coroutines else []


@functools.cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """One for all steps, as in TRL, since a client that a function keeps belongs to its loop; in a thread, since a notebook's
    own loop is running already."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def in_order(returned) -> bool:
    """Whether a list can be made of it, one value per completion: the keys of a dict and the letters of a text are none."""
    if inspect.isawaitable(returned) or isinstance(returned, str | bytes | Mapping | Set):
        return False
    return isinstance(returned, Iterable) and getattr(returned, "ndim", 1) > 0


def finite(value) -> float | None:
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


def shown(value) -> str:
    """A value as a sentence shows it; Python does not even write down the longest of whole numbers."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    return f"{value!r:.60}"
