"""How good a policy is on a task's held-out problems."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState

from minigrpo.config import BadInput
from minigrpo.metrics import pass_at_k
from minigrpo.protocol import Extras, RewardFunction
from minigrpo.rewards import combine, reward_names, score, score_all
from minigrpo.sampling import Rollout, sample_completions
from minigrpo.tasks import Task
from minigrpo.threads import is_small, on_suited_threads

ROWS_AT_ONCE = 1024
ROWS_OF_A_LARGE_MODEL = 64  # as many as a rollout has by default: the scores must not take more memory than the training


@on_suited_threads
def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    reward_fns: Sequence[RewardFunction] = (),
    reward_weights: Sequence[float] | None = None,
    num_generations: int = 4,
    temperature: float = 1.0,
    max_completion_length: int = 16,
    seed: int = 0,
    trainer_state: TrainerState | None = None,
) -> dict[str, float]:
    """Sample every held-out problem, always with the same draws, so that two policies are compared on equal terms.

    Args:
        reward_fns: to score the samples by, as in training. trainer_state: for those that ask how far the training is.
    Returns:
        reward, reward_greedy: the mean of the reward, sampled and with the likeliest token each time; reward_std: the standard
            deviation over the samples; rewards/NAME/mean: of each function, where there are several. With reward_fns only.
        accuracy: share of samples with the full score, at ``temperature``; like the next two only where a task has a reward.
        accuracy_greedy: the same with the likeliest token each time, one sample per problem.
        pass@k: chance that one of k samples has the full score, for k = 1, 2, 4 ... up to num_generations.
        thinking: share of samples that write steps first (clock task only).
        mean_length: tokens per sample, EOS included.
    Raises:
        BadInput: for a number of samples below 1, or a reward function that cannot be used.
    """
    if num_generations < 1:
        raise BadInput(f"num_generations must be at least 1, got {num_generations}.")
    sampled = _sample(model, tokenizer, task, num_generations, temperature, max_completion_length, seed)
    completions = [text for rollout in sampled for text in rollout.completions]
    result = {}
    if task.reward is not None or reward_fns:
        greedy = _sample(model, tokenizer, task, 1, 0.0, max_completion_length, seed)
    if task.reward is not None:
        right = _right(task, sampled, num_generations)
        result = {"accuracy": right.mean().item(), "accuracy_greedy": _right(task, greedy, 1).mean().item()}
    if reward_fns:
        state = trainer_state or TrainerState()
        result |= _rewards(task, sampled, reward_fns, reward_weights, state)
        likeliest = _rewards(task, greedy, reward_fns, reward_weights, state)
        result |= {"reward_greedy": likeliest["reward"]} if "reward" in likeliest else {}
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
    size = max(1, (ROWS_AT_ONCE if is_small(model) else ROWS_OF_A_LARGE_MODEL) // num_generations)
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
    scores = score(task.reward, *_asked_and_answered(task, rollouts))
    return (scores == task.full_score).float().view(-1, num_generations)


def _rewards(task: Task, rollouts: list[Rollout], reward_fns, reward_weights, trainer_state: TrainerState) -> dict[str, float]:
    """Means over the samples that were scored; what nobody scored is left out."""
    extras = Extras([ids for rollout in rollouts for ids in rollout.token_rows()], trainer_state)
    scores = score_all(reward_fns, *_asked_and_answered(task, rollouts), extras)
    rewards = combine(scores, reward_weights)
    rewards = rewards[~rewards.isnan()]
    result = {"reward": rewards.mean().item(), "reward_std": rewards.std(correction=0).item()} if len(rewards) else {}
    named = zip(reward_names(reward_fns), scores.unbind(1), strict=True)
    several = {f"rewards/{name}/mean": x.nanmean().item() for name, x in named if not x.isnan().all()}
    return result | (several if len(reward_fns) > 1 else {})


def _asked_and_answered(task: Task, rollouts: list[Rollout]) -> tuple[list, list[str], dict[str, list]]:
    """Prompts, completions, and the columns of each completion's problem."""
    prompts = [prompt for rollout in rollouts for prompt in rollout.prompts]
    completions = [text for rollout in rollouts for text in rollout.completions]
    times = range(len(completions) // len(task.held_out))
    columns = {
        name: [value for value in task.held_out[name] for _ in times] for name in task.held_out.column_names if name != "prompt"
    }
    return prompts, completions, columns
