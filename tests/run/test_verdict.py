import json
import re
from pathlib import Path

import pytest

from minigrpo.run.verdict import verdict

RUNS = Path(__file__).parents[2] / "notebooks" / "runs"


def rows(steps=40, **metrics):
    """A metric is a number, or (first, last) of a line."""
    line = {name: value if isinstance(value, tuple) else (value, value) for name, value in metrics.items()}
    return [{"step": k + 1, **{name: a + (b - a) * k / (steps - 1) for name, (a, b) in line.items()}} for k in range(steps)]


def by_accuracy(before, after, **metrics):
    return verdict({"accuracy": before}, {"accuracy": after}, rows(**metrics), samples=2000)


@pytest.mark.parametrize(
    ("before", "after", "metrics", "said"),
    [
        (0.37, 0.988, {"kl": 0.1, "entropy": 0.01}, "It learnt: accuracy went from 0.370 to 0.988"),
        (0.37, 0.41, {}, "It learnt: accuracy went from 0.370 to 0.410; chance explains ± 0.031"),
        (0.37, 0.39, {"kl": 0.1}, "No change that the numbers show: accuracy went from 0.370 to 0.390; chance"),
        (0.37, 0.35, {"kl": 6.9}, "No change that the numbers show: .* with a KL to the reference of 6.9 nats per token"),
        (0.37, 0.30, {"kl": 0.2, "entropy": 0.5}, "It got worse: accuracy went from 0.370 to 0.300"),
        (0.37, 0.30, {"entropy": 0.5}, "It got worse"),  # beta 0: no KL
        (0.37, 0.09, {"kl": (0, 7.0), "entropy": 0.2}, "It collapsed: accuracy .* 0.090, with a KL .* of 6.2 nats"),
        (0.37, 0.09, {"kl": 0.3, "entropy": 0.01}, "It collapsed: .* entropy of 0.010"),
        (0.37, 0.09, {"entropy": 0.01}, "It collapsed: .* entropy of 0.010"),
        (0.37, 0.01, {"reward": (0.2, 0.98), "kl": 0.2}, "It learnt something else: the reward rose from 0.29 to 0.89"),
        (0.37, 0.37, {"reward": (0.2, 0.98)}, "It learnt, but not to be right: the reward rose"),
        (0.37, 0.38, {"frac_reward_zero_std": 1.0, "reward": 0.0}, "nothing to learn from: .*; accuracy went from 0.37"),
        (0.37, 0.60, {"frac_reward_zero_std": (0.5, 1.0), "reward": 0.5}, "It learnt"),
    ],
)  # fmt: skip
def test_the_sentence_is_what_the_numbers_bear_out(before, after, metrics, said):
    assert re.match(f".*{said}", by_accuracy(before, after, **metrics))


def test_a_few_samples_show_less():
    assert "learnt" in verdict({"accuracy": 0.4}, {"accuracy": 0.5}, rows(), samples=2000)
    assert "No change" in verdict({"accuracy": 0.4}, {"accuracy": 0.5}, rows(), samples=20)
    assert "No change" in verdict({"accuracy": 0.0}, {"accuracy": 0.0}, rows(), samples=20)


def test_records_that_nobody_can_score():
    none = {"mean_length": 5.0}
    assert verdict(none, none, rows(weighted_logprob=(-12.0, -4.0)), 0).startswith(
        "It learnt: the log-prob of what was scored high rose from -11.1 to -4.92"
    )
    assert verdict(none, none, rows(weighted_logprob=(-4.0, -12.0)), 0).startswith("It got worse")
    assert verdict(none, none, rows(weighted_logprob=-4.0), 0).startswith("No change")
    assert verdict(none, none, rows(steps=4, weighted_logprob=-4.0), 0) == "Too few steps to tell: 4."


def test_a_run_without_any_reward_is_called_one():
    for numbers in ({"accuracy": 0.4}, {"mean_length": 5.0}):
        said = verdict(numbers, numbers, rows(frac_reward_zero_std=1.0), 400)
        assert said.endswith("no completion got a reward; every reward function returned None.")


def test_a_spike_is_no_distance_and_a_missing_number_none():
    spiky = rows(kl=0.1, reward=0.5)
    spiky[-3] |= {"kl": 50.0, "reward": None}
    assert "KL" not in verdict({"accuracy": 0.5}, {"accuracy": 0.1}, spiky, 2000)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("clinic/collapse-0", "collapsed"),
        ("clinic/high-rate-0", "collapsed"),
        ("clinic/leaky-0", "something else"),
        ("seed-0", "It learnt:"),
    ],
)
def test_recorded_runs_are_called_what_they_are(name, word):
    recorded = [json.loads(line) for line in (RUNS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    last = sum(row["accuracy"] for row in recorded[-10:]) / 10
    assert word in verdict({"accuracy": 0.37}, {"accuracy": last}, recorded, 2000)
