"""The bundled model in training on somebody's reward: what ex08 judges a reward by.

It trains here, in the grader. The submission is only asked for rewards, and the grader finds out itself what they lead to.
"""

import copy
import random
from collections.abc import Callable
from functools import cache
from itertools import product

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.config import GRPOConfig
from minigrpo.policy import load_policy
from minigrpo.sampling import sample_completions
from minigrpo.threads import suited_threads
from minigrpo.training import train
from minigrpo.update import TrainState

Reward = Callable[[list[str], list[int]], list[float]]  # B completions and answers -> B rewards

SUMS = [(a, b) for a, b in product(range(2, 13), repeat=2)]
STEPS, ROWS, GENERATIONS, RATE, LONGEST = 30, 32, 8, 1e-3, 20
HABIT_STEPS, HABIT_RATE = 64, 1e-3
ASKED = SUMS[::3]  # in the end

# What a policy said, by the seed and all rewards that it was given before: rewards that agree share a run.
KNOWN: dict[tuple, tuple[list[str], list[int]]] = {}
MOST_KNOWN = 20_000


def ways_to_answer(a: int, b: int) -> list[str]:
    """Two that are right, and seven that please a careless reward."""
    total = a + b
    return [f"{a} + {b} = {total}", f"{total}", *3 * [f"{a} + {b} = {total} = {total}", f"{total} {total}"], f"{total}0"]


@cache
def tempted() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The bundled model after a few supervised steps on all ways to answer: a policy that has found them by itself."""
    model, tokenizer = load_policy()
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=HABIT_RATE, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, HABIT_STEPS)
    with suited_threads(model), torch.enable_grad():
        for _ in range(HABIT_STEPS):
            rows = [(f"{a} + {b} = ?", rng.choice(ways_to_answer(a, b))) for a, b in rng.choices(SUMS, k=ROWS)]
            ids, counts = _tokens(tokenizer, rows)
            logits = model(ids).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits[counts[:, 1:]], ids[:, 1:][counts[:, 1:]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return model, tokenizer


def _tokens(tokenizer: PreTrainedTokenizerBase, rows: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids of prompts and answers, padded behind, and which of them are an answer's, its EOS included."""
    prompts, answers = (tokenizer(list(texts), add_special_tokens=False)["input_ids"] for texts in zip(*rows, strict=True))
    width = 1 + max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(rows), width), tokenizer.eos_token_id)
    counts = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        counts[row, len(prompt) : end + 1] = True
    return ids, counts


def practise(reward: Reward, seed: int) -> tuple[list[str], list[int]]:
    """What the policy says in the end, GENERATIONS completions of each of ASKED; and the answers."""
    given: tuple = (seed,)
    while said := KNOWN.get(given):
        if len(given) > STEPS:
            return said
        given = (*given, tuple(reward(*said)))
    return _train(reward, given)


def _train(reward: Reward, known: tuple) -> tuple[list[str], list[int]]:
    """``practise`` from the start: the rewards that are known first, then those that are asked for."""
    given, before = known[:1], list(known[:0:-1])

    def rewards(prompts, completions, answer, **_):
        nonlocal given
        if len(KNOWN) >= MOST_KNOWN:
            KNOWN.clear()
        KNOWN[given] = completions, answer
        given = (*given, before.pop() if before else tuple(reward(completions, answer)))
        return list(given[-1])

    (start, tokenizer), seed = tempted(), known[0]
    model = copy.deepcopy(start)
    config = GRPOConfig(
        max_steps=STEPS, seed=seed, generation_batch_size=ROWS, num_generations=GENERATIONS, learning_rate=RATE,
        max_completion_length=LONGEST,
    )  # fmt: skip
    problems = Dataset.from_list([{"prompt": f"{a} + {b} = ?", "answer": a + b} for a, b in SUMS])
    for _ in train(TrainState.start(model, tokenizer, config), problems, [rewards], config):
        pass
    said = sample_completions(
        model,
        tokenizer,
        [f"{a} + {b} = ?" for a, b in ASKED],
        num_generations=GENERATIONS,
        max_completion_length=LONGEST,
        generator=torch.Generator().manual_seed(seed),
    )
    KNOWN[given] = said.completions, [a + b for a, b in ASKED for _ in range(GENERATIONS)]
    return KNOWN[given]
