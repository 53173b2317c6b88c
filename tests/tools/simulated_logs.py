"""Simulated logs of runs that go well or fail in a known way, to attack the diagnosis with.

    python -m tests.tools.simulated_logs [--count 60] [--seed 0] [--show KIND]

Each run has prompts of different difficulty, groups of answers that are right or wrong, and the curves that its kind has; from
those come the numbers that TRL logs, with the noise that such groups make. Lengths, logging intervals and scales vary. Prints
how often the first finding is right, by kind, and exits with 1 if a healthy run is called wrong or fewer than 95% are right.
"""

import argparse
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy

from minigrpo.run.diagnosis.doctor import examine


@dataclass
class Run:
    """What a run does at a share ``t`` (0 to 1) of its way. The defaults are those of a run that learns."""

    right: Callable[[float], float] = lambda t: 0.25 + 0.55 * _rise(t)  # the mean chance that an answer is right
    contrast: float = 1.0  # 1: prompts are of all difficulties; small: a prompt's answers are all right or all wrong
    kl: Callable[[float], float] | None = lambda t: 0.08 * _rise(t)
    entropy: Callable[[float], float] = lambda t: 0.7 - 0.3 * _rise(t)
    length: Callable[[float], float] = lambda t: 200 + 100 * _rise(t)
    cut: Callable[[float], float] = lambda t: 0.03
    clip: Callable[[float], float] = lambda t: 0.0
    grad: float = 0.4
    rate: Callable[[float], float] = lambda t: 1e-6
    reward: tuple[float, float] = (0.0, 1.0)  # of a wrong answer, of a right one
    accuracy: Callable[[float], float] | None = None
    change: Callable[[dict, float], None] = lambda row, t: None
    config: dict = field(default_factory=dict)


def _rise(t: float, middle: float = 0.35, width: float = 0.12) -> float:
    return 1 / (1 + math.exp(-(t - middle) / width)) - 1 / (1 + math.exp(middle / width))


def _after(t: float, begin: float, over: float = 0.05) -> float:
    return min(1.0, max(0.0, (t - begin) / over))


def flat(value: float) -> Callable[[float], float]:
    return lambda t: value


def log(run: Run, rng: random.Random, *, rows: int, every: int, prompts: int, group: int) -> list[dict]:
    """The rows of a log: each the mean of ``every`` steps, of which ten at most are drawn."""
    draw = numpy.random.default_rng(rng.randrange(2**31))
    found = []
    for k in range(rows):
        t = k / max(1, rows - 1)
        mean = min(1.0, max(0.0, run.right(t)))
        size = (prompts * min(every, 10), 1)
        chance = (
            draw.beta(2 * run.contrast * mean, 2 * run.contrast * (1 - mean), size) if 0 < mean < 1 else numpy.full(size, mean)
        )
        answers = draw.random((len(chance), group)) < (chance if run.contrast > 0.1 else draw.random(size) < mean)
        found.append({"step": (k + 1) * every} | _row(run, rng, t, answers))
    return found


def _row(run: Run, rng: random.Random, t: float, answers: numpy.ndarray) -> dict:
    """answers: (P, G) bool, right or wrong."""
    low, high = run.reward
    mean = low + (high - low) * float(answers.mean())
    silent = float((answers.all(1) | ~answers.any(1)).mean())
    noise = lambda value, share=0.1: value * (1 + share * rng.gauss(0, 1))  # noqa: E731
    row = {
        "loss": 0.0 if run.kl is None else round(0.04 * run.kl(t), 4),
        "grad_norm": noise(run.grad) * (1 - silent) ** 0.5 if silent < 1 else 0.0,
        "learning_rate": run.rate(t),
        "reward": mean,
        "reward_std": abs(high - low) * float(answers.std()),
        "frac_reward_zero_std": silent,
        "entropy": max(0.0, noise(run.entropy(t), 0.05)),
        "clip_ratio/region_mean": max(0.0, noise(run.clip(t))),
        "completions/mean_length": max(1.0, noise(run.length(t), 0.04)),
        "completions/clipped_ratio": min(1.0, max(0.0, run.cut(t) + 0.02 * rng.gauss(0, 1) * (0 < run.cut(t) < 1))),
    }
    if run.kl is not None:
        row["kl"] = noise(run.kl(t), 0.2) + (1.5 * run.kl(t) if rng.random() < 0.01 else 0.0)
    if run.accuracy is not None:
        row["accuracy"] = min(1.0, max(0.0, run.accuracy(t) + 0.03 * rng.gauss(0, 1)))
    run.change(row, t)
    return row


def _with(**fields) -> Callable[[random.Random], Run]:
    return lambda rng: Run(**fields)


def _scaled(rng: random.Random) -> Run:
    low = rng.choice([-5.0, -1.0, 0.0, 2.0])
    return Run(reward=(low, low + rng.choice([0.1, 1.0, 4.0, 20.0])))


def _nan(name: str, begin: float) -> Callable[[random.Random], Run]:
    names = (name, "grad_norm", "kl") if name == "loss" else (name,)

    def change(row: dict, t: float) -> None:
        if t >= begin:
            row |= dict.fromkeys(names, math.nan)

    return _with(change=change)


def _no_gradient(row: dict, t: float) -> None:
    row["grad_norm"] = 0.0


def _without(*names: str) -> Callable[[dict, float], None]:
    def change(row: dict, t: float) -> None:
        for name in names:
            row.pop(name, None)

    return change


STILL = {"right": flat(0.3), "entropy": flat(0.6), "length": flat(240)}
FALLS_APART = {"right": lambda t: (0.3 + 0.4 * _rise(t, 0.25, 0.08)) * (1 - 0.97 * _after(t, 0.6)), "rate": flat(1e-4)}
ENDLESS = {
    "right": lambda t: 0.3 - 0.15 * _after(t, 0.4, 0.4),
    "cut": lambda t: 0.02 + 0.95 * _after(t, 0.3, 0.4),
    "length": lambda t: 200 + 800 * _after(t, 0.2, 0.5),
}
LEARNT = {"right": lambda t: 0.3 + 0.69 * _rise(t), "entropy": lambda t: 0.4 - 0.39 * _rise(t)}
SHORTER = {"length": lambda t: 400 - 250 * _rise(t), "cut": lambda t: 0.2 - 0.19 * _rise(t)}
LONGER = {"length": lambda t: 200 + 500 * _rise(t), "cut": lambda t: 0.01 + 0.12 * _rise(t)}
GONE = {"right": flat(0.3), "contrast": 0.02, "entropy": lambda t: 0.6 * (1 - _after(t, 0.2, 0.3)) + 0.004}
HEALTHY = {"healthy", "ceiling"}
SHORT = {"too_short", "noise_over_trend", "wavering"}  # what may be said of a trend that too few rows show
# kind -> (how it is made, first findings that are right, whether it takes a trend to see it)
KINDS: dict[str, tuple[Callable[[random.Random], Run], set[str], bool]] = {
    "healthy": (_with(), HEALTHY, True),
    "healthy, another scale": (_scaled, HEALTHY, True),
    "healthy, learnt to the end": (_with(**LEARNT), HEALTHY, True),
    "healthy, beta 0": (_with(kl=None), HEALTHY, True),
    "healthy, shorter answers": (_with(**SHORTER), HEALTHY, True),
    "healthy, longer answers": (_with(**LONGER), HEALTHY, True),
    "healthy, warm-up and decay": (_with(rate=lambda t: 1e-6 * min(1, t / 0.1) * (1 - t)), HEALTHY, True),
    "healthy, several updates": (_with(clip=flat(0.03)), HEALTHY, True),
    "noise": (_with(**STILL, kl=lambda t: 0.02 * t), {"noise_over_trend", "too_short"}, False),
    "too hard": (_with(right=flat(0.0)), {"too_hard"}, False),
    "too easy": (_with(right=flat(1.0)), {"too_easy"}, False),
    "blind": (_with(right=flat(1.0), reward=(0.0, 0.7)), {"blind"}, False),
    "spread between prompts": (_with(right=flat(0.5), contrast=0.01), {"between_prompts"}, False),
    "nothing trainable": (_with(**STILL, kl=flat(0.0), change=_no_gradient), {"nothing_trainable"}, False),
    "learning rate 0": (_with(**STILL, kl=flat(0.0), rate=flat(0.0)), {"learning_rate_zero"}, False),
    "learning rate too small": (_with(**STILL, kl=lambda t: 3e-4 * t, rate=flat(1e-9)), {"nothing_moves"}, True),
    "collapse": (_with(**FALLS_APART, kl=lambda t: 0.05 * _rise(t) + 5 * _after(t, 0.6)), {"collapse"}, True),
    "collapse, no KL": (_with(**FALLS_APART, kl=None), {"reward_falls"}, True),
    "entropy gone": (_with(**GONE), {"entropy_gone", "between_prompts"}, True),
    "all cut off": (_with(right=flat(0.0), cut=flat(1.0), length=flat(256), entropy=flat(1.0)), {"cut_off"}, False),
    "many cut off": (_with(right=flat(0.1), cut=flat(0.5)), {"cut_off"}, False),
    "endless": (_with(**ENDLESS), {"endless", "cut_off"}, True),
    "rewards part": (_with(accuracy=lambda t: 0.5 - 0.4 * _rise(t)), {"rewards_part"}, True),
    "stale ratios": (_with(clip=flat(0.5)), {"stale_ratios"}, False),
    "KL is NaN": (_nan("kl", 0.0), {"kl_not_a_number"}, False),
    "NaN": (_nan("loss", 0.5), {"not_a_number"}, False),
    "shorter for nothing": (_with(right=flat(0.3), length=lambda t: 300 - 250 * _rise(t)), {"shrinking"}, True),
    "longer for nothing": (_with(right=flat(0.3), length=lambda t: 200 + 700 * _rise(t)), {"growing"}, True),
    "gets worse": (_with(right=lambda t: 0.6 - 0.4 * _rise(t)), {"reward_falls"}, True),
}  # fmt: skip
ROWS = (5, 8, 12, 20, 30, 60, 120, 300, 1000, 2000)


def simulate(kind: str, rng: random.Random) -> tuple[list[dict], dict]:
    """A log of that kind, and its measures."""
    rows = rng.choice(ROWS)
    every = rng.choice([1, 5, 10, 100]) if rows <= 120 else rng.choice([1, 5])
    measures = {"rows": rows, "every": every, "prompts": rng.choice([4, 8, 16, 32]), "group": rng.choice([4, 8, 16])}
    return log(KINDS[kind][0](rng), rng, **measures), measures


def right(kind: str, first: str, rows: list[dict]) -> bool:
    """Whether the first finding is one that may be said of such a log; a trend takes rows."""
    _, wanted, trend = KINDS[kind]
    steps = rows[-1]["step"] - rows[0]["step"]
    few = len(rows) < 30 or (kind == "learning rate too small" and steps < 50)
    silent = first == "went_silent" and kind.startswith("collapse")  # true too, and the reward's fall takes rows to see
    return first in wanted or (trend and few and (first in SHORT or silent))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60, help="of logs; the kinds take turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", choices=KINDS, help="print one such log's diagnosis")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    if args.show:
        print(examine(simulate(args.show, rng)[0]))
        return 0
    kinds = [list(KINDS)[k % len(KINDS)] for k in range(args.count)]
    outcomes, alarms = [], 0
    for kind in kinds:
        rows, measures = simulate(kind, rng)
        diagnosis = examine(rows)
        good = right(kind, diagnosis.first.name, rows)
        alarms += kind.startswith("healthy") and diagnosis.wrong
        outcomes.append((kind, good))
        if not good:
            print(f"{kind} {measures}: {diagnosis.first.name} ({diagnosis.first.sure}); {diagnosis.first.seen}")
    print("\n| kind | right first finding |\n|---|---|")
    for kind in dict.fromkeys(kinds):
        of = [good for name, good in outcomes if name == kind]
        print(f"| {kind} | {sum(of)} of {len(of)} |")
    correct = sum(good for _, good in outcomes)
    print(f"\n{correct} of {len(outcomes)} right; healthy runs called wrong: {alarms}")
    return int(alarms > 0 or correct < 0.95 * len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
