"""What the clip saves (notebook 03): sixty updates on one group of four, with it and without; runs/clip/groups.json.

    python -m tests.benchmarks.record_clip

Five groups with some right answers and some wrong; after each update the ratio of every completion's first token, and now
and then the share of right answers to held-out problems.
"""

import json

import torch

from minigrpo.advantages import compute_advantages
from minigrpo.evaluation import evaluate
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import aggregate, clipped_objective, importance_ratio
from minigrpo.policy import load_policy
from minigrpo.sampling import sample_completions
from minigrpo.scoring import policy_logits
from minigrpo.tasks import clock_task, exact_answer
from tests.benchmarks.record_runs import FOLDER

UPDATES, LEARNING_RATE, EPSILON, GROUPS = 60, 2e-4, 0.2, 5
MEASURED = (0, 2, 4, 8, 16, 30, 45, 60)  # updates after which the held-out problems are sampled


def mixed_groups():
    """The course's own group, and the first problems whose four answers are not all right or all wrong."""
    model, tokenizer = load_policy("tiny")
    problems = clock_task().train.select(range(40))
    drawn = [("4*2+9+7*1*4=", "6", 192), *((row["prompt"], row["answer"], k) for k, row in enumerate(problems))]
    found = []
    for prompt, answer, seed in drawn:
        lengths = {"num_generations": 4, "max_completion_length": 16}
        rollout = sample_completions(model, tokenizer, [prompt], **lengths, generator=torch.Generator().manual_seed(seed))
        rewards = torch.tensor(exact_answer(rollout.prompts, rollout.completions, answer=[answer] * 4))
        if 0 < rewards.sum() < 4:
            found.append((rollout, rewards))
        if len(found) == GROUPS:
            return found
    raise RuntimeError("too few groups are mixed")


def follow(rollout, rewards, clip: bool) -> dict:
    """Train on the group alone: ratios after each update, and held-out accuracy."""
    (model, tokenizer), task = load_policy("tiny"), clock_task()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    mask, advantages = rollout.completion_mask, compute_advantages(rewards, rollout.group_ids).unsqueeze(1)
    old, ratios, accuracy = None, [], {}
    for update in range(UPDATES + 1):
        logprobs = token_logprobs(policy_logits(model, rollout), rollout.completion_ids)
        old = logprobs.detach() if old is None else old
        ratio = importance_ratio(logprobs, old, mask)
        ratios.append([round(r, 4) for r in ratio[:, 0].tolist()])
        if update in MEASURED:
            accuracy[update] = round(evaluate(model, tokenizer, task, num_generations=1)["accuracy"], 4)
        objective = clipped_objective(ratio, advantages, EPSILON) if clip else ratio * advantages
        optimizer.zero_grad()
        (-aggregate(objective, mask, "grpo")).backward()
        optimizer.step()
    return {"ratios": ratios, "accuracy": accuracy, "first": [round(p, 4) for p in old[:, 0].exp().tolist()]}


def main() -> None:
    torch.set_num_threads(1)
    groups = []
    for rollout, rewards in mixed_groups():
        group = {"prompt": rollout.prompts[0], "completions": list(rollout.completions), "rewards": rewards.tolist()}
        group |= {"clip": follow(rollout, rewards, True), "free": follow(rollout, rewards, False)}
        groups.append(group)
        print(group["prompt"], group["completions"], group["clip"]["accuracy"], group["free"]["accuracy"], flush=True)
    path = FOLDER / "clip" / "groups.json"
    path.parent.mkdir(exist_ok=True)
    recorded = {"epsilon": EPSILON, "learning_rate": LEARNING_RATE, "groups": groups}
    path.write_text(json.dumps(recorded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
