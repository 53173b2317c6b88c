"""How a run went, in one sentence that its numbers bear out. A full diagnosis, with causes and cures, would stand here too."""

import math
from statistics import fmean, median, variance

LAST = 10  # steps, whose mean or median is what a metric was at the end
FAR = 1.0  # nats per token; a healthy run of the course stays below 0.3
ONE_ANSWER = 0.05  # nats per token: hardly anything but the likeliest token is drawn


def verdict(before: dict[str, float], after: dict[str, float], rows: list[dict], samples: int) -> str:
    """What became of the policy.

    Args:
        before, after: what ``evaluate`` said. rows: the run's metrics. samples: how many completions an accuracy was made of.
    """
    if _unrewarded(rows):
        return "There was nothing to learn from: no completion got a reward; every reward function returned None."
    if "accuracy" in before:
        return _by_accuracy(before["accuracy"], after["accuracy"], rows, samples)
    if "reward" in before and "reward" in after:
        return _by_reward(before, after, rows, samples)
    name = "weighted_logprob" if "weighted_logprob" in rows[-1] else "reward"
    what = "the log-prob of what was scored high" if name == "weighted_logprob" else "the reward"
    first, last, noise = _trend(rows, name)
    if first is None:
        return f"Too few steps to tell: {len(rows)}."
    if abs(last - first) <= noise:
        return f"No change that the numbers show: {what} went from {first:.3g} to {last:.3g}; chance explains ± {noise:.2g}."
    word = "It learnt: {} rose" if last > first else "It got worse: {} fell"
    return f"{word.format(what)} from {first:.3g} to {last:.3g}{_far(rows)}."


def _by_reward(before: dict[str, float], after: dict[str, float], rows: list[dict], samples: int) -> str:
    """Of your own prompts, whose best reward nobody knows."""
    noise = _noise_of_rewards(before, after, samples)
    went = f"the reward on held-out prompts went from {before['reward']:.3g} to {after['reward']:.3g}"
    if _always_silent(rows):
        return f"There was nothing to learn from: at every step the rewards of each group were all equal; {went}."
    change = after["reward"] - before["reward"]
    word = "It learnt" if change > noise else "It got worse" if -change > noise else "No change that the numbers show"
    return f"{word}: {went}; chance explains ± {noise:.2g}{_far(rows)}."


def _noise_of_rewards(before: dict[str, float], after: dict[str, float], samples: int) -> float:
    return 2 * math.sqrt((before["reward_std"] ** 2 + after["reward_std"] ** 2) / samples)


def chance(numbers: dict[str, float], samples: int) -> str:
    """How far what ``evaluate`` said may lie from another policy's by chance; nothing where nobody scored."""
    if "accuracy" in numbers:
        *_, noise = accuracies(numbers["accuracy"], numbers["accuracy"], samples)
        return f"Chance explains ± {noise:.3f} between two such accuracies."
    if "reward" in numbers:
        return f"Chance explains ± {_noise_of_rewards(numbers, numbers, samples):.2g} between two such rewards."
    return ""


def _unrewarded(rows: list[dict]) -> bool:
    """Whether there were groups, and never a reward."""
    return bool(_values(rows, "frac_reward_zero_std")) and not _values(rows, "reward")


def _always_silent(rows: list[dict]) -> bool:
    """Whether no group ever had two rewards."""
    silent = _values(rows, "frac_reward_zero_std")
    return bool(silent) and min(silent) == 1


def _by_accuracy(before: float, after: float, rows: list[dict], samples: int) -> str:
    *_, noise = accuracies(before, after, samples)
    went, chance = f"accuracy went from {before:.3f} to {after:.3f}", f"chance explains ± {noise:.3f}"
    first, last, wobble = _trend(rows, "reward")
    rewarded = first is not None and last - first > wobble
    if _always_silent(rows):
        return f"There was nothing to learn from: at every step the rewards of each group were all equal; {went}."
    if after - before > noise:
        return f"It learnt: {went}; {chance}."
    if before - after > noise:
        entropy = _at_the_end(rows, "entropy")
        if rewarded:
            return f"It learnt something else: the reward rose from {first:.3g} to {last:.3g}, but {went}{_far(rows)}."
        if _far(rows):
            return f"It collapsed: {went}{_far(rows)}. A lower learning_rate or a higher beta holds it back."
        if entropy is not None and entropy < ONE_ANSWER:
            return f"It collapsed: {went}, and with an entropy of {entropy:.3f} nats per token it hardly tries anything else."
        return f"It got worse: {went}; {chance}."
    if rewarded:
        return f"It learnt, but not to be right: the reward rose from {first:.3g} to {last:.3g}; {went}, {chance}{_far(rows)}."
    return f"No change that the numbers show: {went}; {chance}{_far(rows)}."


def accuracies(before: float, after: float, samples: int) -> tuple[float, float, float]:
    """Both, and how far they may lie apart by chance."""
    return before, after, 2 * math.sqrt(_variance(before, samples) + _variance(after, samples))


def _variance(share: float, samples: int) -> float:
    """Of a share among so many samples; one of each kind is added, as 0 of 10 does not mean never."""
    share = (share * samples + 1) / (samples + 2)
    return share * (1 - share) / (samples + 2)


def _values(rows: list[dict], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _at_the_end(rows: list[dict], name: str) -> float | None:
    """The median, which single spikes do not move."""
    values = _values(rows, name)[-LAST:]
    return median(values) if values else None


def _trend(rows: list[dict], name: str) -> tuple[float, float, float] | tuple[None, None, None]:
    """The mean of the first steps, of the last, and how far these may lie apart by chance; None for too few steps."""
    values = _values(rows, name)
    count = min(LAST, len(values) // 2)
    if count < 3:
        return None, None, None
    first, last = values[:count], values[-count:]
    return fmean(first), fmean(last), 2 * math.sqrt((variance(first) + variance(last)) / count)


def _far(rows: list[dict]) -> str:
    kl = _at_the_end(rows, "kl")
    return f", with a KL to the reference of {kl:.1f} nats per token" if kl is not None and kl > FAR else ""
