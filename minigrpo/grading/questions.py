"""What a question is: a function to write, inputs that tell right from wrong, and the mistakes that are known by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mistake:
    """A wrong version that people really write, and the sentence that helps."""

    name: str
    says: str  # stands behind "the likely cause": what was computed, and what to do instead
    function: Callable


@dataclass(frozen=True)
class Case:
    """One input in words, the arguments, and which of them a gradient is taken of."""

    about: str  # "two completions of different length"
    args: dict[str, object]  # in the order of the signature; tensors, numbers, strings, lists, None
    gradient: tuple[str, ...] = ()  # names of float arguments

    def to(self, dtype: torch.dtype) -> "Case":
        """The same numbers, floats of another width."""
        args = {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in self.args.items()}
        return replace(self, args=args)

    def size(self) -> int:
        """How many numbers a reader would have to look at."""
        return sum(v.numel() if isinstance(v, Tensor) else len(v) if isinstance(v, list) else 1 for v in self.args.values())


@dataclass(frozen=True)
class Question:
    """A function that the learner writes.

    ``cases`` draws inputs from a generator, so that no two checks see the same numbers; ``reference`` is the answer, or one of
    many where ``accepts`` judges them.
    """

    id: str  # "ex06.2"; "06.1" in a lesson
    name: str  # of the function, which no other question has
    points: int  # 0 in a lesson
    cases: Callable[[torch.Generator], list[Case]]
    reference: Callable
    hints: tuple[str, ...]
    read: str = ""  # where its subject is explained, as the exercise's "Read:" line says it
    mistakes: tuple[Mistake, ...] = ()
    # Where many answers are right: what is wrong with an Outcome for a case, or None.
    accepts: Callable[[object, Case], str | None] | None = None
    # Where a case is not one call but many, as of a reward in training: from (a function that calls the answer with a Case and
    # gives back its Outcome, the case) to the Outcome of the whole.
    trial: Callable[[Callable[[Case], object], Case], object] | None = None

    def draw(self, seed: int) -> list[Case]:
        """The inputs of one seed, in float32 as a learner's own tensors are."""
        return [case.to(torch.float32) for case in self.cases(torch.Generator().manual_seed(seed))]


# --- inputs such as a real policy gives -------------------------------------------------------------------------------


def draw_normal(generator: torch.Generator, *shape: int, spread: float = 1.0) -> Tensor:
    """Normal numbers around 0, float64."""
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


def exactly(numbers: list) -> Tensor:
    """The numbers of an example that is worked out by hand, float64."""
    return torch.tensor(numbers, dtype=torch.float64)


def draw_id(generator: torch.Generator, low: int = 7, high: int = 50) -> int:
    """A token id outside of those that texts are made of here, such as EOS."""
    return int(torch.randint(low, high, (), generator=generator))


def draw_number(generator: torch.Generator, low: float, high: float) -> float:
    """A number between two others."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def draw_logprobs(generator: torch.Generator, *shape: int, vocabulary: int = 7, spread: float = 1.5) -> Tensor:
    """Log-probs of tokens drawn at random under random logits, float64."""
    logits = spread * torch.randn(*shape, vocabulary, generator=generator, dtype=torch.float64)
    tokens = torch.randint(vocabulary, (*shape, 1), generator=generator)
    return logits.log_softmax(-1).gather(-1, tokens).squeeze(-1)


def draw_mask(generator: torch.Generator, rows: int, columns: int, *, empty_row: bool = False) -> Tensor:
    """(rows, columns) bool: completions of uneven lengths, one of them as long as can be, one of a single token."""
    lengths = torch.randint(2, columns, (rows,), generator=generator)
    lengths[0], lengths[-1] = columns, 1
    if empty_row:
        lengths[1] = 0
    return torch.arange(columns) < lengths.unsqueeze(1)
