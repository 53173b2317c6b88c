"""One step of GRPO on one group, kept as a picture needs it; and the four completions that run through the course."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.advantages import compute_advantages
from minigrpo.config import GRPOConfig
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import grpo_loss
from minigrpo.policy import load_policy
from minigrpo.sampling import Rollout, sample_completions
from minigrpo.scoring import policy_logits
from minigrpo.tasks import exact_answer
from minigrpo.view.group import Group
from minigrpo.view.tokens import completion_tokens

WORKED_PROBLEM, WORKED_ANSWER, WORKED_SEED = "4*2+9+7*1*4=", "6", 192


def worked_example() -> Group:
    """The four completions of the course: one thinks and is right, two guess wrong, one guesses right by luck."""
    policy, tokenizer = load_policy("tiny")
    generator = torch.Generator().manual_seed(WORKED_SEED)
    lengths = {"num_generations": 4, "max_completion_length": 16}
    rollout = sample_completions(policy, tokenizer, [WORKED_PROBLEM], **lengths, generator=generator)
    rewards = exact_answer(rollout.prompts, rollout.completions, answer=[WORKED_ANSWER] * 4)
    return one_step(policy, tokenizer, rollout, torch.tensor(rewards))[0]


def one_step(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rollout: Rollout,
    rewards: Tensor,
    *,
    learning_rate: float = GRPOConfig.learning_rate,
) -> tuple[Group, PreTrainedModel]:
    """What one update on fresh completions of one prompt does, and a copy of the model after it; ``model`` stays as it is.

    The loss is the default one, without the KL, whose gradient is 0 at a first step.

    Args:
        rewards: (G,) one per completion of the rollout.
    """
    student = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
    advantages = compute_advantages(rewards, rollout.group_ids)
    logits = policy_logits(student, rollout)
    logprobs = token_logprobs(logits, rollout.completion_ids)
    settings = {"beta": 0.0, "epsilon": 0.2, "loss_type": "grpo", "importance_sampling_level": "token"}
    loss = grpo_loss(logprobs, logprobs.detach(), advantages, rollout.completion_mask, **settings).loss
    push = -torch.autograd.grad(loss, logprobs, retain_graph=True)[0]
    loss.backward()
    optimizer.step()
    group = Group(
        prompt=rollout.prompts[0],
        tokens=completion_tokens(tokenizer, rollout),
        logprobs=logprobs.detach(),
        rewards=rewards,
        advantages=advantages,
        push=push,
        before=first_token(tokenizer, logits),
        after=first_token(tokenizer, policy_logits(student, rollout)),
    )
    return group, student


def first_token(tokenizer: PreTrainedTokenizerBase, logits: Tensor) -> dict[str, float]:
    """(B, C, V) logits of completions of one prompt -> the probability of each token that may stand first."""
    chances: dict[str, float] = {}
    for token, chance in enumerate(logits[0, 0].detach().softmax(0).tolist()):
        text = tokenizer.decode([token])  # the same for several, where a token is a part of a character
        chances[text] = chances.get(text, 0.0) + chance
    return chances
