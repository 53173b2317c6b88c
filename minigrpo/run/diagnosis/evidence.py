"""What the findings are made from: the curves of a run, and what else is known of it."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby

from minigrpo.run.diagnosis.curves import Change, Curve

AT_THE_TOP = 0.9  # of the highest reward there is
TINY = 1e-6  # what is no larger is 0 but for rounding


class Evidence:
    """A run as its log shows it.

    Args:
        rows: from rows.understand. config: fields of GRPOConfig, as far as they are known.
        samples: lines of samples.jsonl, prompts, completions and rewards of a step. scores: of held-out problems, (before,
        after, how far they may lie apart by chance).
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, float]],
        config: Mapping | None = None,
        samples: Sequence[Mapping] = (),
        scores: tuple[float, float, float] | None = None,
    ):
        self.rows, self.config, self.samples, self.scores = rows, dict(config or {}), samples, scores
        self._curves: dict[str, Curve] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def curve(self, name: str) -> Curve:
        """The metric's numbers, an empty curve where it was not logged."""
        if name not in self._curves:
            pairs = [(row["step"], row[name]) for row in self.rows if row.get(name) is not None]
            good = [(step, value) for step, value in pairs if math.isfinite(value)]
            steps, values = zip(*good, strict=True) if good else ((), ())
            self._curves[name] = Curve(steps, values, tuple(pair for pair in pairs if not math.isfinite(pair[1])))
        return self._curves[name]

    def change(self, name: str) -> Change | None:
        return self.curve(name).change()

    @cached_property
    def names(self) -> list[str]:
        found = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in found if name not in ("step", "epoch", "num_tokens")]

    @property
    def last_step(self) -> float:
        return self.rows[-1]["step"]

    # --- rewards ------------------------------------------------------------------------------------------------------

    @cached_property
    def goal(self) -> str:
        """What is to rise: the reward; of a run that learns from records the accuracy, or the log-prob of what scored high."""
        weighted = self.config.get("triples_estimator") != "policy_gradient"  # which raises another mean than that
        for name in ("reward", "accuracy", *(["weighted_logprob"] if weighted else [])):
            if len(self.curve(name)):
                return name
        return "reward"

    @cached_property
    def rewards(self) -> list[str]:
        """The reward functions' means."""
        return [name for name in self.names if name.startswith("rewards/") and name.endswith("/mean")]

    @cached_property
    def sampled_rewards(self) -> list[float]:
        return [r for line in self.samples for r in line.get("rewards", []) if isinstance(r, int | float)]

    @cached_property
    def top(self) -> float | None:
        """The highest reward there is, where that can be known: 1 if all mean rewards lie within 0 and 1."""
        if self.sampled_rewards:
            return max(self.sampled_rewards)
        values = self.curve(self.goal).values
        return 1.0 if values and min(values) >= 0 and 0 < max(values) <= 1 + TINY else None

    @cached_property
    def spread(self) -> float | None:
        """How far the rewards of single completions lie apart: the scale on which a change of the mean is large or small."""
        logged = self.curve("reward_std")
        if len(logged) and logged.part(0, 0.5).median > 0:
            return logged.part(0, 0.5).median
        if len(set(self.sampled_rewards)) > 1:
            mean = sum(self.sampled_rewards) / len(self.sampled_rewards)
            return math.sqrt(sum((r - mean) ** 2 for r in self.sampled_rewards) / len(self.sampled_rewards))
        reward = self.curve(self.goal)
        if self.top == 1.0 and len(reward):  # as if every reward were 0 or 1
            mean = min(0.95, max(0.05, reward.mean))
            return math.sqrt(mean * (1 - mean))
        return None

    @cached_property
    def learns(self) -> bool:
        """Whether the reward rises by more than chance and more than a trifle, or the accuracy on held-out problems does."""
        change = self.change(self.goal)
        scored = bool(self.scores and self.scores[1] - self.scores[0] > self.scores[2])
        return bool(change and (scored or (change.rises and change.size > 0.08 * (self.spread or 0))))

    @cached_property
    def arrived(self) -> bool:
        """Whether the reward ends near the highest there is, as far as that is known."""
        reward = self.curve(self.goal)
        return bool(len(reward) and self.top and self.top > 0 and reward.part(0.8, 1).median >= AT_THE_TOP * self.top)

    # --- groups -------------------------------------------------------------------------------------------------------

    @cached_property
    def silence(self) -> Curve:
        """The share of groups whose rewards are all equal, by step. Where it was not logged, a spread of 0 says that all are,
        whether it was taken per group or per batch; a larger one counts as 0 here, though some may be."""
        logged = self.curve("frac_reward_zero_std")
        spread = self.curve("reward_std")
        return logged if len(logged) else Curve(spread.steps, tuple(float(value <= TINY) for value in spread.values))

    @cached_property
    def groups_differ(self) -> bool | None:
        """Whether there is something to learn from; None where the log does not say."""
        if not len(self.curve("frac_reward_zero_std")):
            return False if len(self.silence) and self.silence.mean == 1 else None
        return self.silence.mean < 0.9

    @cached_property
    def beta(self) -> float | None:
        """The weight of the KL: configured, or logged, or what the loss is of the KL wherever they are proportional."""
        if self.config.get("beta") is not None:
            return float(self.config["beta"])
        if len(self.curve("beta")):
            return self.curve("beta").end
        both = [(row["loss"], row["kl"]) for row in self.rows if row.get("loss") and row.get("kl", 0) > 1e-3]
        ratios = sorted(loss / kl for loss, kl in both)
        if len(ratios) < 8 or ratios[0] <= 0:
            return None
        low, middle, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.1, 0.5, 0.9))
        return middle if high - low < 0.1 * middle else None

    @cached_property
    def same_texts(self) -> float | None:
        """The share of groups in the latest samples whose completions are all the same text."""
        if not self.samples:
            return None
        line = self.samples[-1]
        groups = groupby(zip(line.get("prompts", []), line.get("completions", []), strict=False), key=lambda pair: pair[0])
        same = [len({text for _, text in group}) == 1 for _, group in groups]
        return sum(same) / len(same) if same else None


def number(value: float) -> str:
    """Three digits, and no more than that.

    >>> number(0.123456), number(1e-06), number(12345.6)
    ('0.123', '1e-06', '12346')
    """
    if abs(value) >= 1000 and math.isfinite(value):
        return f"{value:.0f}" if abs(value) < 1e7 else f"{value:.2g}"
    return f"{value:.3g}"


def at_steps(first: float, last: float) -> str:
    return f"step {first:g}" if first == last else f"steps {first:g} to {last:g}"


def percent(share: float) -> str:
    """0.996 is 99%, and 1 alone is all."""
    return f"{100 * share:.0f}%" if share in (0, 1) else f"{min(99, max(1, round(100 * share)))}%"
