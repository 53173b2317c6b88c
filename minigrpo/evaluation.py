"""How good a policy is on a task's held-out problems."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.config import BadInput
from minigrpo.metrics import pass_at_k
from minigrpo.rewards import score
from minigrpo.sampling import Rollout, sample_completions
from minigrpo.tasks import Task
from minigrpo.threads import on_suited_threads

ROWS_AT_ONCE = 1024


@on_suited_threads
def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_generations: int = 4,
    temperature: float = 1.0,
    max_completion_length: int = 16,
    seed: int = 0,
) -> dict[str, float]:
    """Sample every held-out problem, always with the same draws, so that two policies are compared on equal terms.

    Returns:
        accuracy: share of samples with the full score, at ``temperature``; like the next two only where a task has a reward.
        accuracy_greedy: the same with the likeliest token each time, one sample per problem.
        pass@k: chance that one of k samples has the full score, for k = 1, 2, 4 ... up to num_generations.
        thinking: share of samples that write steps first (clock task only).
        mean_length: tokens per sample, EOS included.
    """
    if num_generations < 1:
        raise BadInput(f"num_generations must be at least 1, got {num_generations}.")
    sampled = _sample(model, tokenizer, task, num_generations, temperature, max_completion_length, seed)
    completions = [text for rollout in sampled for text in rollout.completions]
    result = {}
    if task.reward is not None:
        greedy = _sample(model, tokenizer, task, 1, 0.0, max_completion_length, seed)
        right = _right(task, sampled, num_generations)
        result = {"accuracy": right.mean().item(), "accuracy_greedy": _right(task, greedy, 1).mean().item()}
    if task.thinks is not None:
        result["thinking"] = sum(map(task.thinks, completions)) / len(completions)
    result["mean_length"] = sum(int(r.completion_mask.sum()) for r in sampled) / len(completions)
    k = 1
    while task.reward is not None and k <= num_generations:
        chances = [pass_at_k(num_generations, int(row.sum()), k) for row in right]
        result[f"pass@{k}"] = sum(chances) / len(chances)
        k *= 2
    return result


def example_completions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, *, temperature: float, max_completion_length: int
) -> list[str]:
    """One completion of each of the first three held-out problems, always with the same draws."""
    return sample_completions(
        model,
        tokenizer,
        task.held_out["prompt"][:3],
        num_generations=1,
        max_completion_length=max_completion_length,
        temperature=temperature,
        generator=torch.Generator(model.device).manual_seed(0),
    ).completions


def _sample(model, tokenizer, task: Task, num_generations, temperature, max_completion_length, seed) -> list[Rollout]:
    generator = torch.Generator(model.device).manual_seed(seed)
    prompts = task.held_out["prompt"]
    size = max(1, ROWS_AT_ONCE // num_generations)
    return [
        sample_completions(
            model,
            tokenizer,
            prompts[start : start + size],
            num_generations=num_generations,
            max_completion_length=max_completion_length,
            temperature=temperature,
            generator=generator,
        )
        for start in range(0, len(prompts), size)
    ]


def _right(task: Task, rollouts: list[Rollout], num_generations: int) -> torch.Tensor:
    """(problems, num_generations): 1.0 where a sample has the full score."""
    completions = [text for rollout in rollouts for text in rollout.completions]
    prompts = [text for rollout in rollouts for text in rollout.prompts]
    answers = [answer for answer in task.held_out["answer"] for _ in range(num_generations)]
    scores = score(task.reward, prompts, completions, {"answer": answers})
    return (scores == task.full_score).float().view(-1, num_generations)
