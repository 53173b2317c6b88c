"""Record the runs that the notebooks read where a claim needs many of them: notebooks/runs/NAME.jsonl and index.json.

    python -m tests.benchmarks.record_runs [NAME ...]

Each file has the metrics of one run, a line per step, to six digits; index.json has each one's configuration and date.
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
    answers = dict(zip(task.train["prompt"], task.train["answer"], strict=True))
    state = TrainState.start(*load_policy("tiny"), config)
    for metrics in train(state, task.train, reward_fns or [task.reward], config, **functions):
        row = {name: metrics[name] for name in KEPT if name in metrics} | true_shares(task, answers, state)
        rows.append({name: round(value, 6) for name, value in row.items()})
    return rows


def true_shares(task: Task, answers: dict[str, str], state: TrainState) -> dict[str, float]:
    """Of the latest rollout: the share that thinks first, and the share that is right, whatever the reward function says."""
    rollout = state.batch.rollout
    right = task.reward(rollout.prompts, rollout.completions, answer=[answers[prompt] for prompt in rollout.prompts])
    thinks = list(map(task.thinks, rollout.completions))
    return {"thinking": sum(thinks) / len(thinks), "accuracy": sum(right) / len(right)}


# --- what is recorded: name -> (configuration, what else train is given) --------------------------------------------------

SEEDS = {f"seed-{seed}": (GRPOConfig(seed=seed), {}) for seed in range(5)}  # notebook 04


def answer_anywhere(prompts: list[str], completions: list[str], answer: list[str], **_) -> list[float]:
    """A leaky reward: 1.0 wherever the right digit occurs, be it in an unfinished thought."""
    return [float(right in completion) for completion, right in zip(completions, answer, strict=True)]


FAILURES: dict = {  # notebook 05; beta 1e-4 is too weak to be felt, and there so that the KL is measured
    "failure-leaky": (GRPOConfig(max_steps=120, max_completion_length=10), {"reward_fns": [answer_anywhere]}),
    "failure-cut-off": (GRPOConfig(max_steps=120, max_completion_length=8), {}),
    "failure-high-lr": (GRPOConfig(max_steps=120, learning_rate=2e-3, beta=1e-4), {}),
    "failure-collapse": (GRPOConfig(max_steps=120, learning_rate=5e-3, beta=1e-4), {}),
    "failure-cured": (GRPOConfig(max_steps=120, beta=1e-4), {}),
}
# Notebook 08. Four updates per rollout, or the ratio is 1 and all clips agree. GSPO's paper has epsilons of 3e-4 and 4e-4,
# for answers of thousands of tokens: the geometric mean over 2 to 13 moves further.
CHANGES = {
    "grpo": {},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "by_token": {"loss_type": "dapo"},  # of DAPO, and of Dr. GRPO and CISPO, nothing but that every token weighs the same
    "gspo": {"importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
}
CHANGES |= {f"{name}_fast": CHANGES[name] | {"learning_rate": 5e-4} for name in ("grpo", "cispo")}
VARIANTS: dict = {
    f"variant-{name}-{seed}": (GRPOConfig(max_steps=100, num_iterations=4, seed=seed, **changes), {})
    for name, changes in CHANGES.items()
    for seed in range(5)
}


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
        print(f"{name}: {len(rows)} steps, {rows[-1]}, {seconds} s", flush=True)


if __name__ == "__main__":
    main()
