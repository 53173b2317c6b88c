"""The benchmarks' own arithmetic. That they run, and what they measure, is for whoever runs them: no test asserts a time."""

import json
import os

import torch

from minigrpo.policy import load_policy
from minigrpo.sampling import sample_completions
from tests.benchmarks import regressions, vs_trl


def test_what_is_worse_by_more_than_a_tenth_is_said():
    last = {"a: cpu_ratio_median": 0.30, "b: cpu_ratio_median": 0.30, "c: memory_ratio": 0.2}
    new = {"a: cpu_ratio_median": 0.32, "b: cpu_ratio_median": 0.36, "d: memory_ratio": 9.0}
    assert regressions.worse(last, new) == [
        "b: cpu_ratio_median was 0.300 and is 0.360, 20% worse.",
        "c: memory_ratio was 0.200 and was not measured.",
    ]


def test_the_last_figures_reach_the_goals():
    """On one thread: of TRL's CPU time a third with the bundled model, 0.4 with GPT-2 small's shape; half of its memory."""
    last = json.loads(regressions.LAST.read_text(encoding="utf-8"))
    for setting, goal in {"bundled": 1 / 3, "small": 0.4}.items():
        for beta in ("0", "0.04"):
            assert last[f"{setting}, beta {beta}, 1 thread: cpu_ratio_median"] <= goal
            assert last[f"{setting}, beta {beta}, 1 thread: memory_ratio"] <= 0.5
    assert last["head, ours: cpu_ratio_median"] <= 1.3
    assert last["head, ours: memory_ratio"] <= 0.25


def test_beginnings_are_counted_once():
    rollout = sample_completions(
        *load_policy("tiny"),
        ["1+1="] * 2,
        num_generations=8,
        max_completion_length=6,
        generator=torch.Generator().manual_seed(0),
    )
    rows = zip(rollout.group_ids.tolist(), rollout.completion_ids.tolist(), rollout.completion_mask.sum(1), strict=True)
    texts = [(group, *ids[:length]) for group, ids, length in rows]
    of_prompts, counted = vs_trl.different_beginnings(rollout)
    assert of_prompts == len("1+1")  # the last token's row is that of a completion's first
    assert counted[0] == 2
    assert sum(counted) == len({text[:cut] for text in texts for cut in range(1, len(text))})
    assert vs_trl.different_beginnings(rollout.rows(torch.tensor([], dtype=torch.int64))) == (0, [])


def test_a_step_of_each_is_timed():
    """One pair of steps of the smallest shape, here, where TRL is loaded: the clock has all parts of both, and they add up."""
    setting = vs_trl.Setting(2, 2, 4, 1e-6, steps=1, vocabulary=300, prompt_length=3, layers=1)
    for steps in vs_trl.race(setting, 0.04, 1, 1):
        (step,) = steps
        assert step["step cpu"] > step["sampling cpu"] > 0
        assert step["step wall"] == step["sampling wall"] + step["update wall"]
        assert step["tokens"] == 16


def test_what_is_measured_has_a_process_of_its_own():
    assert vs_trl.alone(os.getpid) != os.getpid()
