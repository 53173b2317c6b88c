"""Record the runs that the notebooks read where a claim needs many of them: notebooks/runs/NAME.jsonl and index.json.

    python -m tests.benchmarks.record_runs [NAME ...]

Each file has the metrics of one run, a line a step, to six digits; index.json has each one's configuration and date.
"""

import argparse
import datetime
import json
import time
from pathlib import Path

import torch

from minigrpo.config import GRPOConfig
from minigrpo.policy import load_policy
from minigrpo.tasks import Task, clock_task
from minigrpo.training import TrainState, train

FOLDER = Path(__file__).parents[2] / "notebooks" / "runs"
KEPT = (
    *("step", "loss", "reward", "kl", "entropy", "clip_ratio", "grad_norm", "frac_reward_zero_std"),
    *("completions/mean_length", "completions/clipped_ratio"),
)


def run(config: GRPOConfig, *, reward_fns=None, **functions) -> list[dict]:
    """Train the bundled model on the clock task; the rows that are kept, with the shares that think first and are right."""
    task, rows = clock_task(config.seed), []
    state = TrainState.start(*load_policy("tiny"), config)
    for metrics in train(state, task.train, reward_fns or [task.reward], config, **functions):
        row = {name: metrics[name] for name in KEPT if name in metrics} | true_shares(task, state)
        rows.append({name: round(value, 6) for name, value in row.items()})
    return rows


def true_shares(task: Task, state: TrainState) -> dict[str, float]:
    """Of the latest rollout: the share that thinks first, and the share that is right, whatever the reward function says."""
    rollout = state.batch.rollout
    answers = dict(zip(task.train["prompt"], task.train["answer"], strict=True))
    right = task.reward(rollout.prompts, rollout.completions, answer=[answers[prompt] for prompt in rollout.prompts])
    thinks = list(map(task.thinks, rollout.completions))
    return {"thinking": sum(thinks) / len(thinks), "accuracy": sum(right) / len(right)}


# --- what is recorded: name -> (configuration, what else train is given) --------------------------------------------------

SEEDS = {f"seed-{seed}": (GRPOConfig(seed=seed), {}) for seed in range(5)}  # notebook 05
FAILURES: dict = {}  # notebook 07
VARIANTS: dict = {}  # notebook 08


def main() -> None:
    torch.set_num_threads(1)
    recorded = SEEDS | FAILURES | VARIANTS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *recorded], help="by default all")
    index_path = FOLDER / "index.json"
    for name in parser.parse_args().names or recorded:
        config, kwargs = recorded[name]
        start = time.perf_counter()
        rows = run(config, **kwargs)
        seconds = round(time.perf_counter() - start, 1)
        (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        index = json.loads(index_path.read_text(encoding="utf-8")) if index_path.exists() else {}
        changed = {field: value for field, value in config.to_dict().items() if value != GRPOConfig().to_dict()[field]}
        with_ = sorted(kwargs)
        index[name] = {"date": str(datetime.date.today()), "changed": changed, "with": with_, "seconds": seconds}
        index_path.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{name}: reward {rows[0]['reward']:.2f} -> {rows[-1]['reward']:.2f}, {seconds} s", flush=True)


if __name__ == "__main__":
    main()
