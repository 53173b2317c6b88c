"""Record the runs of notebook 05, three seeds of each failure and of its cure: notebooks/runs/clinic/NAME-SEED.jsonl.

    python -m tests.benchmarks.record_clinic [NAME ...]

Beside the metrics, samples.json keeps ten completions of each run's first and last rollout, and index.json its configuration.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from minigrpo.config import GRPOConfig
from minigrpo.loss import GRPOLoss, grpo_loss
from minigrpo.policy import load_policy
from minigrpo.tasks import clock_task
from minigrpo.training import TrainState, train
from tests.benchmarks.record_runs import FOLDER, KEPT, true_shares

CLINIC = FOLDER / "clinic"
SEEDS = range(3)


def eos_masked_out(logprobs, old_logprobs, advantages, mask, **settings) -> GRPOLoss:
    """The package's loss without the last token of each completion, which is its EOS unless it was cut off."""
    last = mask.sum(1, keepdim=True) - 1
    counted = mask & (torch.arange(mask.shape[1]) < last.clamp(min=1))  # a lone EOS stays, or its row would be empty
    return grpo_loss(logprobs, old_logprobs, advantages, counted, **settings)


def answer_anywhere(prompts: list[str], completions: list[str], answer: list[str], **_) -> list[float]:
    """A leaky reward: 1.0 wherever the right digit occurs, be it in an unfinished thought."""
    return [float(right in completion) for completion, right in zip(completions, answer, strict=True)]


def boxed_answer(prompts: list[str], completions: list[str], answer: list[str], **_) -> list[float]:
    r"""A parser that looks for \boxed{6}, which this model never writes."""
    return [float(f"\\boxed{{{right}}}" in completion) for completion, right in zip(completions, answer, strict=True)]


def config(**changes) -> dict:
    return {"max_steps": 120} | changes


WEAK = {"beta": 1e-4}  # too weak to be felt, and there so that the KL is measured
RUNS: dict[str, tuple[dict, dict]] = {  # name -> (configuration, what else train is given)
    "healthy": (config(**WEAK), {}),
    "leaky": (config(max_completion_length=10), {"reward_fns": [answer_anywhere]}),
    "cut-off": (config(max_completion_length=8), {}),
    "high-rate": (config(learning_rate=2e-3, **WEAK), {}),
    "collapse": (config(learning_rate=5e-3, **WEAK), {}),
    "unpaid": (config(), {"reward_fns": [boxed_answer]}),
    "fork-at-10": (config(max_steps=80, learning_rate=2e-3, **WEAK), {"fork": (10, {"learning_rate": 2e-4})}),
    "fork-at-40": (config(max_steps=80, learning_rate=2e-3, **WEAK), {"fork": (40, {"learning_rate": 2e-4})}),
    "eos-masked-out": (config(max_steps=80), {"loss_fn": eos_masked_out}),
}


def record(seed: int, changes: dict, *, fork=None, reward_fns=None, **functions: Callable) -> tuple[list[dict], dict]:
    """Train the bundled model on the clock task; the rows that are kept, and samples of the first and the last rollout.

    Args:
        fork: (step, changes) of a run that is forked there, and goes on with these changes.
    """
    config, task = GRPOConfig(seed=seed, **changes), clock_task(seed)
    answers = dict(zip(task.train["prompt"], task.train["answer"], strict=True))
    state, rows, samples = TrainState.start(*load_policy("tiny"), config), [], {}

    def go_on(state: TrainState, config: GRPOConfig, until: int) -> TrainState:
        for metrics in train(state, task.train, reward_fns or [task.reward], config, **functions):
            row = {name: metrics[name] for name in KEPT if name in metrics} | true_shares(task, answers, state)
            rows.append({name: round(value, 4) for name, value in row.items()})
            if metrics["step"] in (1, config.max_steps):
                samples[metrics["step"]] = ten(state, answers)
            if metrics["step"] == until:
                break
        return state

    if fork:
        at, others = fork
        state = go_on(state, config, at).fork(config := GRPOConfig(seed=seed, **changes | others))
    go_on(state, config, config.max_steps)
    return rows, samples


def ten(state: TrainState, answers: dict[str, str]) -> list[dict]:
    """Ten completions of the latest rollout, of all its problems."""
    rollout, rewards = state.batch.rollout, state.batch.rewards.tolist()
    return [
        {
            "prompt": rollout.prompts[row],
            "completion": rollout.completions[row],
            "reward": round(rewards[row], 4),
            "answer": answers[rollout.prompts[row]],
        }
        for row in range(0, len(rewards), len(rewards) // 10 + 1)
    ]


def keep(path: Path, name: str, entry: dict) -> None:
    """Put an entry into a JSON file of entries by name."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(found | {name: entry}, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    torch.set_num_threads(1)
    CLINIC.mkdir(exist_ok=True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *RUNS], help="by default all")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    arguments = parser.parse_args()
    for name in arguments.names or RUNS:
        changes, given = RUNS[name]
        for seed in arguments.seeds:
            rows, samples = record(seed, changes, **given)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (CLINIC / f"{name}-{seed}.jsonl").write_text(lines, encoding="utf-8")
            keep(CLINIC / "samples.json", f"{name}-{seed}", samples)
            keep(CLINIC / "index.json", f"{name}-{seed}", {"changed": changes | {"seed": seed}, "with": sorted(given)})
            print(f"{name}-{seed}: {rows[-1]}", flush=True)


if __name__ == "__main__":
    main()
