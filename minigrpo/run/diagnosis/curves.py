"""One metric over the steps of a run: windows, noise, and which changes are more than noise. Pure Python, no plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

FEWEST = 3  # rows in a window


@dataclass(frozen=True)
class Change:
    """From the first quarter of a curve to its last."""

    first: float  # the mean of the first window
    last: float
    error: float  # how far the two may lie apart by chance, at about 99%
    spread: float  # standard deviation of a single row about the curve

    @property
    def size(self) -> float:
        return self.last - self.first

    @property
    def real(self) -> bool:
        return abs(self.size) > self.error

    @property
    def rises(self) -> bool:
        return self.real and self.size > 0

    @property
    def falls(self) -> bool:
        return self.real and self.size < 0


@dataclass(frozen=True)
class Curve:
    """The values of a metric where it is a number; ``broken`` are the steps at which it is nan or inf."""

    steps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    broken: tuple[tuple[float, float], ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def part(self, begin: float, end: float) -> "Curve":
        """The rows from one share of the curve to another: part(0, 0.25) is the first quarter, of FEWEST rows or more."""
        low, high = round(begin * len(self)), round(end * len(self))
        if high - low < FEWEST:
            low, high = (0, FEWEST) if begin == 0 else (max(0, len(self) - FEWEST), len(self)) if end == 1 else (low, high)
        return Curve(self.steps[low:high], self.values[low:high])

    def since(self, step: float) -> "Curve":
        kept = [k for k, at in enumerate(self.steps) if at >= step]
        return Curve(tuple(self.steps[k] for k in kept), tuple(self.values[k] for k in kept))

    def until(self, step: float) -> "Curve":
        kept = [k for k, at in enumerate(self.steps) if at <= step]
        return Curve(tuple(self.steps[k] for k in kept), tuple(self.values[k] for k in kept))

    @property
    def mean(self) -> float:
        return fmean(self.values) if self.values else math.nan

    @property
    def median(self) -> float:
        return median(self.values) if self.values else math.nan

    @property
    def start(self) -> float:
        """The median of the first tenth, which single spikes do not move."""
        return self.part(0, 0.1).median

    @property
    def end(self) -> float:
        return self.part(0.9, 1).median

    def change(self) -> Change | None:
        """None where there are too few rows to tell noise from change."""
        if len(self) < 2 * FEWEST:
            return None
        fresh = self.fresh
        if fresh is not self and len(fresh) >= 2 * FEWEST:
            return fresh.change()
        count = max(FEWEST, len(self) // 4)
        spread, slow = noise(self.values)
        free = max(1.0, (len(self) - 4) / slow)
        error = (2.6 + 8 / free) * spread * math.sqrt(2 * slow / count)  # about Student's 99% at so many degrees of freedom
        return Change(fmean(self.values[:count]), fmean(self.values[-count:]), error, spread)

    def blocks(self, count: int = 20) -> list["Curve"]:
        """At most so many pieces of FEWEST rows or more."""
        size = max(FEWEST, math.ceil(len(self) / count))
        cut = [(k, min(k + size, len(self))) for k in range(0, len(self), size)]
        if len(cut) > 1 and cut[-1][1] - cut[-1][0] < size / 2:
            cut[-2:] = [(cut[-2][0], len(self))]
        return [Curve(self.steps[low:high], self.values[low:high]) for low, high in cut]

    @property
    def fresh(self) -> "Curve":
        """Without the values that a rollout says again at each further update on it; the curve itself where that is not so."""
        new = [k for k, value in enumerate(self.values) if k == 0 or value != self.values[k - 1]]
        if not 1 < len(new) < 0.7 * len(self):
            return self
        return Curve(tuple(self.steps[k] for k in new), tuple(self.values[k] for k in new))

    @property
    def slope_by_chance(self) -> float:
        """Of a straight line through the values, in standard errors."""
        if len(self) < 5:
            return 0.0
        residuals = _about_a_line(self.values)
        middle = (len(self) - 1) / 2
        square = sum((k - middle) ** 2 for k in range(len(self)))
        slope = sum((k - middle) * value for k, value in enumerate(self.values)) / square
        error = math.sqrt(sum(r * r for r in residuals) / (len(self) - 2) / square)
        return slope / error if error > 1e-12 * abs(slope) else math.copysign(math.inf, slope) if slope else 0.0

    def smooth(self, width: int | None = None) -> "Curve":
        """The running median, which has no single spikes."""
        half = (width or (3 if len(self) < 30 else 5 if len(self) < 100 else 9)) // 2
        values = tuple(median(self.values[max(0, k - half) : k + half + 1]) for k in range(len(self)))
        return Curve(self.steps, values)

    def stretch(self, condition) -> tuple[float, float, int]:
        """First step, last step and rows of the longest stretch in which the smooth curve fulfils the condition."""
        best, run = (math.nan, math.nan, 0), 0
        for k, value in enumerate(self.smooth().values):
            run = run + 1 if condition(value) else 0
            if run > best[2]:
                best = (self.steps[k - run + 1], self.steps[k], run)
        return best


def noise(values: Sequence[float]) -> tuple[float, float]:
    """Standard deviation of a row about the curve, and by how much its variance counts for more as neighbours are alike.

    Rows are alike where a rollout is used for several updates, or where the prompts of some steps are harder. Residuals are
    taken from straight lines through quarters of the curve, so that a curve that rises is not taken for noise.
    """
    if len(values) < 8:
        steps = [b - a for a, b in pairwise(values)]
        return math.sqrt(fmean(d * d for d in steps) / 2), 1.0
    size = max(5, len(values) // 4)
    cuts = list(range(0, len(values) - size + 1, size))
    pieces = [values[low : low + size if low != cuts[-1] else len(values)] for low in cuts]
    residuals = [_about_a_line(piece) for piece in pieces]
    free = sum(len(piece) - 2 for piece in pieces)
    square = sum(r * r for piece in residuals for r in piece)
    if square == 0:
        return 0.0, 1.0
    together = sum(a * b for piece in residuals for a, b in pairwise(piece))
    alike = min(0.9, max(0.0, together / square + 1 / size)) if len(values) >= 12 else 0.0
    return math.sqrt(square / free), (1 + alike) / (1 - alike)


def _about_a_line(values: Sequence[float]) -> list[float]:
    middle, mean = (len(values) - 1) / 2, fmean(values)
    slope = sum((k - middle) * (v - mean) for k, v in enumerate(values)) / sum((k - middle) ** 2 for k in range(len(values)))
    return [v - mean - slope * (k - middle) for k, v in enumerate(values)]


def steps_to_see(size: float, spread: float, slow: float = 1.0) -> int:
    """Rows after which a rise of ``size`` from a run's first quarter to its last would stand out of noise of that spread."""
    return math.ceil(8 * slow * (2.7 * spread / size) ** 2) if size > 0 else 0
