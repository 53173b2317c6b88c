"""ex05's functions, each as it was shipped, with a bug, and as it should be; and whether an input tells the two apart.

Such an input is a learner's answer: data from a stranger, so all of it is checked before anything is computed with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minigrpo.config import BadInput
from minigrpo.grading.worker import DTYPES, Outcome, run
from minigrpo.logprobs import completion_mask
from minigrpo.loss import clipped_objective

LARGEST = 1000  # numbers in an argument; every one of these bugs shows on a handful
CLEAR = 1e-3  # results closer than this could be rounding


@dataclass(frozen=True)
class Kind:
    """What the numbers of an argument must be."""

    wanted: str
    holds: Callable[[Tensor], Tensor]  # float64 -> bool
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)  # the last is what is computed with


INTEGERS = (torch.int32, torch.int64)
ANY = Kind("finite floats", torch.isfinite)
NATS = Kind("log-probs (floats, none above 0; of a probability take .log())", lambda x: x <= 0)
RATIO = Kind("ratios of probabilities (floats above 0)", lambda x: x > 0)
EPSILON = Kind("a number between 0 and 1", lambda x: (x > 0) & (x < 1))
MASK = Kind("True and False (dtype bool)", torch.isfinite, (torch.bool,))
IDS = Kind("token ids (integers from 0 to 2**31 - 1)", lambda x: (x >= 0) & (x < 2**31) & (x == x.floor()), INTEGERS)
SHARE = Kind("shares (floats from 0 to 1)", lambda x: (x >= 0) & (x <= 1))
COUNT = Kind("an integer from 1 on", lambda x: (x >= 1) & (x < 2**31) & (x == x.floor()), INTEGERS)


@dataclass(frozen=True)
class Bug:
    """A function as it was shipped, the right one, and the inputs that it may get."""

    shipped: Callable
    right: Callable
    args: dict[str, tuple[str, Kind]]  # name: its axes, a letter each ("" for a number), and what it holds
    take: str  # where the two differ
    gradient: tuple[str, ...] = ()
    fits: Callable[..., str | None] = lambda *args: None  # what is wrong between arguments whose shapes agree

    def accepts(self, values: list[Tensor]) -> str | None:
        """None for an input that the function may get and on which the bug shows; else what is wrong, in a sentence."""
        try:
            args = self._arguments(values)
        except BadInput as error:
            return str(error)
        shipped, right = (run(function, args, self.gradient) for function in (self.shipped, self.right))
        results = _numbers(shipped), _numbers(right)
        if not all(result.isfinite().all() for result in results):
            return "on this input a result is not finite: take smaller numbers"
        if not torch.allclose(*results, rtol=CLEAR, atol=CLEAR):
            return None
        values = right.values[0].reshape(-1).tolist()
        both = ", ".join(f"{value:.4g}" for value in values[:4]) + (" ..." if len(values) > 4 else "")
        return f"on this input the function as it was shipped and the right one both give {both}: take {self.take}"

    def _arguments(self, values: list[Tensor]) -> dict:
        if len(values) != len(self.args):
            names = ", ".join(self.args)
            raise BadInput(
                f"the result holds {len(values)} arguments, wanted are {len(self.args)}, a tuple of {names}: numbers where "
                "the signature says so, tensors elsewhere"
            )
        sizes = {"1": 1}
        args = {n: _argument(n, value, *self.args[n], sizes) for n, value in zip(self.args, values, strict=True)}
        if sentence := self.fits(*args.values()):
            raise BadInput(sentence)
        return args


def _argument(name: str, value: Tensor, axes: str, kind: Kind, sizes: dict[str, int]):
    """A learner's value as an argument; ``sizes`` of the axes met so far. BadInput if it is not one."""
    if value.dtype not in DTYPES.values() or value.layout != torch.strided or value.device.type != "cpu":
        raise BadInput(f"{name} is a tensor of {value.dtype} on {value.device}; wanted: {kind.wanted}, on the CPU")
    shape, wanted = tuple(value.shape), f"({', '.join(axes)})" if axes else "a number"
    if len(shape) != len(axes):
        raise BadInput(f"{name} has the shape {shape}, wanted is {wanted}")
    for axis, size in zip(axes, shape, strict=True):
        if size != sizes.setdefault(axis, size):
            known = "" if axis == "1" else f" with {axis} = {sizes[axis]}, as before it"
            raise BadInput(f"{name} has the shape {shape}, wanted is {wanted}{known}")
    if not 0 < value.numel() <= LARGEST:
        raise BadInput(f"{name} holds {value.numel()} numbers; wanted are some, and at most {LARGEST}: a handful shows it")
    if axes and value.dtype not in kind.dtypes:
        raise BadInput(f"{name} has the dtype {str(value.dtype).removeprefix('torch.')}; wanted: {kind.wanted}")
    numbers = value.to(torch.float64)
    wrong = ~(numbers.isfinite() & kind.holds(numbers))
    if wrong.any():
        raise BadInput(f"{name} holds {numbers[wrong][0].item():g}; wanted: {kind.wanted}")
    value = value.to(kind.dtypes[-1])
    return value if axes else value.item()


def _numbers(outcome: Outcome) -> Tensor:
    """Values and gradients in one row; NaN if there are none."""
    tensors = [t for t in [*(outcome.values or []), *(outcome.gradients or [])] if t is not None]
    return torch.cat([t.reshape(-1).to(torch.float64) for t in tensors] or [torch.tensor([torch.nan])])


# --- as they were shipped: the text of the notebook's cells ---------------------------------------------------------------


def shipped_groups(rewards, num_generations):
    means = rewards.reshape(-1, num_generations).mean(1)
    return rewards - means.repeat(num_generations)


def shipped_clip(ratio, advantages, epsilon):
    free = ratio * advantages
    held = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    return -torch.maximum(free, held)


def shipped_positions(prompt_mask):
    return torch.arange(prompt_mask.shape[1]).expand(prompt_mask.shape)


def shipped_mask(completion_ids, eos_token_id, pad_token_id):
    return completion_ids != pad_token_id


def shipped_best(weights, updates, accuracies):
    weights, best, highest = weights.clone(), weights, -1.0
    for update, accuracy in zip(updates, accuracies.tolist(), strict=True):
        weights += update
        if accuracy > highest:
            best, highest = weights, accuracy
    return best


def shipped_ratio(logprobs, num_iterations):
    old_logprobs, ratios = None, []
    for update in range(len(logprobs)):
        if num_iterations == 1 or old_logprobs is None:  # fresh completions
            old_logprobs = logprobs[update].detach()
        ratios.append(torch.exp(logprobs[update] - old_logprobs))
    return torch.stack(ratios)


# --- as they should be, and what they may get -----------------------------------------------------------------------------


def right_groups(rewards: Tensor, num_generations: int) -> Tensor:
    """(B,) prompt-major: all completions of a prompt stand together -> (B,): each less the mean of its prompt's."""
    means = rewards.reshape(-1, num_generations).mean(1)
    return rewards - means.repeat_interleave(num_generations)


def right_positions(prompt_mask: Tensor) -> Tensor:
    """(P, L) bool, padded on the left -> (P, L): 0 at the first token that counts, then 1, 2 ...; 0 on padding."""
    return (prompt_mask.long().cumsum(1) - 1).clamp(min=0)


def right_best(weights: Tensor, updates: Tensor, accuracies: Tensor) -> Tensor:
    """(N,), (S, N), (S,) -> (N,): the weights after the step of the highest accuracy, the first of several."""
    return weights + updates[: int(accuracies.argmax()) + 1].sum(0)


def right_ratio(logprobs: Tensor, num_iterations: int) -> Tensor:
    """(U, B, C) nats at each of U updates -> (U, B, C): policy / sampler, which is the policy of the rollout's first update."""
    starts = torch.arange(len(logprobs)) // num_iterations * num_iterations
    return torch.exp(logprobs - logprobs[starts].detach())


def _only_padding_behind(completion_ids, eos_token_id, pad_token_id):
    wrong = ~completion_mask(completion_ids, eos_token_id) & (completion_ids != pad_token_id)
    if wrong.any():
        what = f"{completion_ids[wrong][0]} stands behind the first EOS ({eos_token_id})"
        return f"in completion_ids {what}; wanted there: nothing but padding, pad_token_id is {pad_token_id}"
    return None


def _whole_groups(rewards, num_generations):
    if len(rewards) % num_generations:
        return f"rewards holds {len(rewards)}, which is no multiple of num_generations = {num_generations}"
    return None


def _padded_on_the_left(prompt_mask):
    if not prompt_mask[:, -1].all() or (prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any():
        return "in prompt_mask a row is not padded on the left: wanted is any number of False, then True up to the end"
    return None


GROUPS = Bug(
    shipped_groups,
    right_groups,
    {"rewards": ("B", ANY), "num_generations": ("", COUNT)},
    "two prompts or more, whose groups have different means.",
    fits=_whole_groups,
)
CLIP = Bug(
    shipped_clip,
    lambda ratio, advantages, epsilon: -clipped_objective(ratio, advantages, epsilon),
    {"ratio": ("BC", RATIO), "advantages": ("B1", ANY), "epsilon": ("", EPSILON)},
    "a ratio at which the clip bites, outside 1 - epsilon to 1 + epsilon, and an advantage that is not 0.",
    gradient=("ratio",),
)
POSITIONS = Bug(
    shipped_positions,
    right_positions,
    {"prompt_mask": ("PL", MASK)},
    "a prompt that is shorter than another, so that padding stands in front of it.",
    fits=_padded_on_the_left,
)
EOS = Bug(
    shipped_mask,
    lambda ids, eos_token_id, pad_token_id: completion_mask(ids, eos_token_id),
    {"completion_ids": ("BC", IDS), "eos_token_id": ("", IDS), "pad_token_id": ("", IDS)},
    "a completion that ends, and a tokenizer without a padding of its own: pad is EOS.",
    fits=_only_padding_behind,
)
BEST = Bug(
    shipped_best,
    right_best,
    {"weights": ("N", ANY), "updates": ("SN", ANY), "accuracies": ("S", SHARE)},
    "a run that goes on after its best step.",
)
STALE = Bug(
    shipped_ratio,
    right_ratio,
    {"logprobs": ("UBC", NATS), "num_iterations": ("", COUNT)},
    "two updates per rollout or more, and updates enough for a second rollout, whose log-probs are others.",
    gradient=("logprobs",),
)
