"""tokens.jsonl: every tenth step, the tokens of a rollout and every number that the loss made of them, for ``minigrpo report``.

It takes one more scoring pass every tenth step. tests/benchmarks/README.md says what that costs.
"""

from dataclasses import replace

import torch

from minigrpo.config import GRPOConfig
from minigrpo.scoring import fixed_logprobs
from minigrpo.threads import suited_threads
from minigrpo.update import TrainState, for_further_updates, mixed_precision
from minigrpo.view.tokens import completion_tokens

EVERY = 10  # steps
DIGITS = 4  # of a log-prob, behind the point: a ratio is then right to 0.01%, and a line half as long as with all of them


def due(step: int, num_iterations: int) -> bool:
    """After the last update on a rollout: on the first one, and on each in which a tenth step lies."""
    first = step == num_iterations
    return step % num_iterations == 0 and (first or step // EVERY > (step - num_iterations) // EVERY)


def token_line(state: TrainState, config: GRPOConfig) -> dict:
    """What the latest rollout was learnt from, with its tokens scored again by the policy as it is now.

    Returns:
        One line: ``prompts`` (P texts); ``group_ids``, ``rewards``, ``advantages`` and ``ended``, a number per completion;
        ``tokens`` (texts), ``completion_mask`` (0 or 1), ``old_logprobs`` (at sampling), ``ref_logprobs`` and ``logprobs``
        (now), a list per completion up to its last token that counts, in nats. None in place of log-probs that nobody knows.
    """
    batch, rollout = for_further_updates(state.batch, state.reference), state.batch.rollout
    with suited_threads(state.model), mixed_precision(state, config):
        logprobs = fixed_logprobs(state.model, rollout, config.temperature)
    mask = rollout.completion_mask
    reach = mask.flip(1).cumsum(1).flip(1) > 0  # up to the last that counts; in a chat, a user's tokens lie between

    def lists(values: torch.Tensor | None) -> list[list[float]] | None:
        if values is None:
            return None
        return [[round(x, DIGITS) for x in row[inside].tolist()] for row, inside in zip(values, reach, strict=True)]

    return {
        "step": state.step,
        "prompts": [rollout.prompts[row] for row in _first_rows(rollout.group_ids.tolist())],
        "group_ids": rollout.group_ids.tolist(),
        "rewards": batch.rewards.tolist(),
        "advantages": batch.advantages.tolist(),
        "ended": rollout.ended.int().tolist(),
        "tokens": completion_tokens(state.tokenizer, replace(rollout, completion_mask=reach)),
        "completion_mask": lists(mask.int()),
        "old_logprobs": lists(batch.old_logprobs),
        "ref_logprobs": lists(batch.ref_logprobs),
        "logprobs": lists(logprobs),
    }


def _first_rows(group_ids: list[int]) -> list[int]:
    return [group_ids.index(group) for group in range(max(group_ids) + 1)]
