"""Record the runs of lesson 07: notebooks/runs/records-*.jsonl and hacking-*.jsonl, with their entries in index.json.

    python -m tests.benchmarks.record_triples [NAME ...]

*records-*: learning from scored records; every fifth row has the share of full equations on held-out questions, and
``records-beta-2`` ends with the shares of all manners. *hacking-*: a policy that is trained on a reward model's scores; the
last row has the share of its answers that fool the model, and examples.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable

import torch

from minigrpo.config import GRPOConfig
from minigrpo.evaluation import evaluate
from minigrpo.policy import load_policy
from minigrpo.reward_model import score_records, split_by_prompt, start_reward_model, train_reward_model
from minigrpo.sampling import sample_completions, seeded
from minigrpo.tasks import sums_task
from minigrpo.training import TrainState, train
from minigrpo.triples import load_triples, prepare
from tests.benchmarks.record_runs import FOLDER, KEPT

SCORES = {"full": 5.0, "bare": 3.0, "rest": 1.0}


def rounded(row: dict) -> dict:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def answers(model, tokenizer, questions, num_generations: int, seed: int):
    """A rollout of the sums task's questions, and its scores by the rubric."""
    drawn = sample_completions(
        model,
        tokenizer,
        questions["prompt"],
        num_generations=num_generations,
        max_completion_length=24,
        generator=seeded(seed),
    )
    answer = [right for right in questions["answer"] for _ in range(num_generations)]
    return drawn, sums_task().reward(drawn.prompts, drawn.completions, answer=answer)


def run_records(config: GRPOConfig) -> list[dict]:
    """Train the bundled model on the bundled records."""
    task, rows = sums_task(), []
    model, tokenizer = load_policy("tiny")
    state = TrainState.start(model, tokenizer, config)
    for metrics in train(state, prepare(load_triples("bundled"), config), [], config):
        row = {name: metrics[name] for name in (*KEPT, "weighted_logprob") if name in metrics}
        if metrics["step"] % 5 == 0 or metrics["step"] == 1:
            row["accuracy"] = evaluate(model, tokenizer, task, max_completion_length=24)["accuracy"]
        rows.append(rounded(row))
    return rows


def run_many_records(config: GRPOConfig) -> list[dict]:
    """The same with 4096 records that the bundled model writes itself; the last row has each manner's share, then and now."""
    task = sums_task()
    model, tokenizer = load_policy("tiny")
    drawn, scores = answers(model, tokenizer, task.train, 8, seed=9)
    columns = zip(drawn.prompts, drawn.completions, scores, strict=True)
    records = load_triples([{"prompt": p, "response": c, "reward": r} for p, c, r in columns])
    before = answers(model, tokenizer, task.held_out, 64, seed=9)[1]
    predicted = optimum_shares(before, config.beta)
    state = TrainState.start(model, tokenizer, config)
    rows = [
        rounded({name: metrics[name] for name in (*KEPT, "weighted_logprob") if name in metrics})
        for metrics in train(state, prepare(records, config), [], config)
    ]
    after = answers(state.model, tokenizer, task.held_out, 64, seed=9)[1]
    for when, scores in (("before", before), ("after", after)):
        rows[-1] |= rounded({f"{when}/{name}": scores.count(score) / len(scores) for name, score in SCORES.items()})
    rows[-1] |= rounded({f"predicted/{name}": share for name, share in zip(SCORES, predicted, strict=True)})
    return rows


def optimum_shares(scores: list[float], beta: float) -> list[float]:
    """Scores of 64 samples per question -> each manner's share at the optimum, question by question, then averaged."""
    grid, kinds = torch.tensor(scores).view(-1, 64), torch.tensor(list(SCORES.values()))
    shares = (grid.unsqueeze(1) == kinds.unsqueeze(1)).float().mean(2)
    weighted = shares * torch.exp(kinds / beta)
    return (weighted / weighted.sum(1, keepdim=True)).mean(0).tolist()


def run_hacking(config: GRPOConfig) -> list[dict]:
    """Train a reward model on four fifths of the bundled records' prompts, and a policy on its scores."""
    task = sums_task()
    judge, tokenizer = start_reward_model("tiny")
    known, _ = split_by_prompt(load_triples("bundled"))
    for _ in train_reward_model(judge, tokenizer, known, seed=config.seed):
        pass

    @torch.no_grad()
    def learnt(prompts: list[str], completions: list[str], **_) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return score_records(judge, tokenizer, [{"prompt": p, "response": c, "messages": None} for p, c in pairs]).tolist()

    rows = []
    state = TrainState.start(*load_policy("tiny"), config)
    for metrics in train(state, task.train, [learnt, task.reward], config):
        row = {name: metrics[name] for name in KEPT if name in metrics}
        row |= {"learnt": metrics["rewards/learnt/mean"], "true": metrics["rewards/sum_rubric/mean"]}
        rows.append(rounded(row))
    models = {"before": load_policy("tiny")[0], "after": state.model}
    for when, model in models.items():
        drawn, true = answers(model, tokenizer, task.held_out, 8, seed=4)
        seen = learnt(drawn.prompts, drawn.completions)
        columns = zip(drawn.prompts, drawn.completions, seen, true, strict=True)
        fooled = [[p, c, round(s, 2), t] for p, c, s, t in columns if s > 4 and t == 1.0]
        rows[-1][f"fooled/{when}"] = round(len(fooled) / len(true), 6)
    rows[-1]["examples"] = fooled[:: max(1, len(fooled) // 4)][:4]
    return rows


LONG = {"max_steps": 200, "save_steps": 200}
UNKNOWN = LONG | {"triples_estimator": "policy_gradient"}
OFF_POLICY: dict[str, dict] = {
    "weighted": {},
    "weighted-mean": {"loss_type": "grpo"},
    "unknown-writer": UNKNOWN,
    "known-writer": UNKNOWN | {"triples_writer": "reference"},
    "unknown-writer-low-beta": UNKNOWN | {"beta": 0.04},
    "known-writer-low-beta": UNKNOWN | {"triples_writer": "reference", "beta": 0.04},
}
RECORDED: dict[str, tuple[Callable, GRPOConfig]] = {
    f"records-{name}-{seed}": (run_records, GRPOConfig.for_triples(seed=seed, **changes))
    for name, changes in OFF_POLICY.items()
    for seed in range(3)
}
RECORDED["records-beta-2"] = (
    run_many_records,
    GRPOConfig.for_triples(beta=2.0, generation_batch_size=128, max_steps=64),
)
RECORDED |= {
    f"hacking-{seed}": (
        run_hacking,
        GRPOConfig(task="sums", max_steps=200, max_completion_length=24, reward_weights=[1.0, 0.0], seed=seed),
    )
    for seed in range(3)
}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *RECORDED], help="by default all")
    for name in parser.parse_args().names or RECORDED:
        record, config = RECORDED[name]
        start = time.process_time()
        write(name, record(config), config, round(time.process_time() - start, 1))


def write(name: str, rows: list[dict], config: GRPOConfig, seconds: float) -> None:
    """The run's file, and its entry in index.json."""
    (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    index_path = FOLDER / "index.json"
    index = json.loads(index_path.read_text(encoding="utf-8"))
    changed = {field: value for field, value in config.to_dict().items() if value != GRPOConfig().to_dict()[field]}
    index[name] = {"date": str(datetime.date.today()), "changed": changed, "with": [], "seconds": seconds}
    index_path.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{name}: {len(rows)} steps, {rows[-1]}, {seconds} s", flush=True)


if __name__ == "__main__":
    main()
