"""A real language model learns, measured and recorded: SmolLM2 on its tasks, three seeds each, each run a process of its own.

    python -m tests.benchmarks.record_real [NAME ...] [--table]

Writes into notebooks/runs/real what a run was: TASK-SEED.jsonl (a line of metrics per step; every twentieth has what share of
the held-out problems is right), TASK-SEED-samples.jsonl (two groups every fifth step: each token, and the log-prob that it
was drawn with) and an entry in index.json (configuration, cost, what became of it). Ends with the table of all runs in
index.json, which tests/benchmarks/README.md holds too; ``--table`` measures nothing. Unix only, for the peak of memory.
"""

import argparse
import datetime
import json
import platform
import resource
import time
from pathlib import Path

import torch

from minigrpo.config import GRPOConfig
from minigrpo.evaluation import evaluate
from minigrpo.policy import load_policy
from minigrpo.tasks import Task, load_task
from minigrpo.training import TrainState, train
from minigrpo.view.tokens import completion_tokens
from tests.benchmarks.record_runs import FOLDER, KEPT
from tests.benchmarks.vs_trl import alone

HERE = FOLDER / "real"
INDEX = HERE / "index.json"
EVALUATE_EVERY, SAMPLES_EVERY, GROUPS = 20, 5, 2
RUNS = {f"{task}-{seed}": GRPOConfig.for_task(task, seed=seed) for task in ("addition", "words") for seed in range(3)}


# --- one run ------------------------------------------------------------------------------------------------------------


def run(config: GRPOConfig) -> tuple[list[dict], list[dict], dict]:
    """Train on one thread; the rows of metrics, those of samples, and what goes into the index."""
    torch.set_num_threads(1)
    model, tokenizer = load_policy(config.model)
    task = load_task(config.task, config.seed)
    loaded, before = time.process_time(), held_out(model, tokenizer, task, config)
    rows, samples, taken = [], [], []
    state = TrainState.start(model, tokenizer, config)
    steps = train(state, task.train, [task.reward], config)
    while state.step < config.max_steps:
        start = time.process_time()
        metrics = next(steps)
        taken.append(time.process_time() - start)
        row = {name: metrics[name] for name in KEPT if name in metrics}
        if state.step % EVALUATE_EVERY == 0 or state.step == config.max_steps:
            row |= held_out(model, tokenizer, task, config)
        rows.append({name: round(value, 6) for name, value in row.items()})
        if state.step == 1 or state.step % SAMPLES_EVERY == 0:
            samples.append({"step": state.step, "groups": groups(state)})
        print(rows[-1], f"{taken[-1]:.1f} CPU s", repr(state.batch.rollout.completions[0]), flush=True)
    unit = 1 if platform.system() == "Darwin" else 1024  # ru_maxrss is in bytes there, in kilobytes elsewhere
    return rows, samples, {
        "weights": Path(model.name_or_path).name,
        "before": before,
        "after": {name: rows[-1][name] for name in before},
        "entropy": rows[-1]["entropy"],
        "loading_cpu_s": round(loaded, 1),
        "training_cpu_s": round(sum(taken), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2),
    }  # fmt: skip


def held_out(model, tokenizer, task: Task, config: GRPOConfig) -> dict[str, float]:
    """What share is right, sampled as in training and greedily."""
    settings = {"temperature": config.temperature, "max_completion_length": config.max_completion_length}
    result = evaluate(model, tokenizer, task, num_generations=4, **settings)
    return {name: round(result[name], 4) for name in ("accuracy", "accuracy_greedy")}


def groups(state: TrainState) -> list[dict]:
    """The first groups of the latest rollout: each completion's tokens with their log-probs, its reward and advantage."""
    batch, rollout = state.batch, state.batch.rollout
    tokens, found = completion_tokens(state.tokenizer, rollout), []
    for g in range(GROUPS):
        rows = (rollout.group_ids == g).nonzero()[:, 0].tolist()
        completions = [
            {
                "tokens": tokens[i],
                "logprobs": [round(x, 2) for x in rollout.logprobs[i][rollout.completion_mask[i]].tolist()],
                "reward": batch.rewards[i].item(),
                "advantage": round(batch.advantages[i].item(), 3),
            }
            for i in rows
        ]
        found.append({"prompt": rollout.prompts[rows[0]], "completions": completions})
    return found


# --- the table ----------------------------------------------------------------------------------------------------------


def table(index: dict[str, dict]) -> list[str]:
    """The lines of the table in the README."""
    lines = [
        "| run | sampled | greedy | entropy at the end | CPU seconds, training | the same, per step | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in sorted(index.items()):
        shares = [f"{run['before'][key]:.2f} → {run['after'][key]:.2f}" for key in ("accuracy", "accuracy_greedy")]
        costs = f"{run['training_cpu_s']:.0f} | {run['training_cpu_s'] / run['steps']:.1f} | {run['peak_gb']:.1f} GB"
        lines.append(f"| {name} | {' | '.join(shares)} | {run['entropy']:.2f} | {costs} |")
    return lines


def write(name: str, config: GRPOConfig, rows: list[dict], samples: list[dict], entry: dict) -> None:
    for suffix, written in (("", rows), ("-samples", samples)):
        text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in written)
        (HERE / f"{name}{suffix}.jsonl").write_text(text, encoding="utf-8")
    changed = {field: value for field, value in config.to_dict().items() if value != GRPOConfig().to_dict()[field]}
    index = json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.exists() else {}
    index[name] = {"date": str(datetime.date.today()), "changed": changed, "steps": len(rows), **entry}
    INDEX.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *RUNS], help="by default all")
    parser.add_argument("--table", action="store_true", help="only print the table of what is recorded")
    args = parser.parse_args()
    HERE.mkdir(parents=True, exist_ok=True)
    for name in [] if args.table else args.names or RUNS:
        write(name, RUNS[name], *alone(run, RUNS[name]))
    print("\n".join(table(json.loads(INDEX.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
