"""Prompts to completions, with the log-probs that they were drawn with."""

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.chat import Prompt, knows_conversations, prompt_text
from minigrpo.config import BadInput, check_temperature
from minigrpo.logprobs import completion_mask, token_logprobs
from minigrpo.policy import context_length, eos_token_ids
from minigrpo.scoring import cache_has_rows, cache_name, plain_logits, read, read_prompts, select_rows
from minigrpo.threads import on_suited_threads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """B = P * G completions of P prompts, prompt-major: row p * G + g is completion g of prompt p."""

    prompts: list[Prompt]  # B texts or conversations: each prompt G times
    completions: list[str]  # B texts, without EOS and padding; other special tokens, such as <think>, are part of them
    prompt_ids: Tensor  # (P, L), padded on the left
    prompt_mask: Tensor  # (P, L) bool
    group_ids: Tensor  # (B,) the row of prompt_ids that a completion answers
    completion_ids: Tensor  # (B, C), padded on the right
    completion_mask: Tensor  # (B, C) bool, True up to and including the first EOS
    ended: Tensor  # (B,) bool, False where a completion was cut off at max_completion_length
    logprobs: Tensor  # (B, C) nats, under the policy that sampled, at the temperature of sampling; 0 on padding

    def token_rows(self) -> list[list[int]]:
        """The ids of each completion, its EOS included."""
        return [row[counts].tolist() for row, counts in zip(self.completion_ids, self.completion_mask, strict=True)]

    def rows(self, index: Tensor) -> "Rollout":
        """Some of its completions, and the prompts that they answer."""
        groups, group_ids = torch.unique(self.group_ids[index], return_inverse=True)
        return Rollout(
            prompts=[self.prompts[row] for row in index.tolist()],
            completions=[self.completions[row] for row in index.tolist()],
            prompt_ids=self.prompt_ids[groups],
            prompt_mask=self.prompt_mask[groups],
            group_ids=group_ids,
            completion_ids=self.completion_ids[index],
            completion_mask=self.completion_mask[index],
            ended=self.ended[index],
            logprobs=self.logprobs[index],
        )

    def to(self, device: torch.device) -> "Rollout":
        """The same one with its tensors on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def longest_prompt(context: int, max_completion_length: int) -> int:
    """How many tokens of a model's context are left for a prompt. Raises BadInput if none is."""
    if max_completion_length >= context:
        raise BadInput(
            f"max_completion_length is {max_completion_length}, and the model's context takes {context} tokens, the prompt "
            "among them; lower it."
        )
    return context - max_completion_length


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], longest: int) -> tuple[Tensor, Tensor]:
    """Token ids (P, L) padded on the left, and their mask (P, L) bool. Raises BadInput as ``prompt_tokens`` does."""
    rows = prompt_tokens(tokenizer, prompts, longest)
    width = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return ids, mask


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], longest: int, places: list[str] | None = None
) -> list[list[int]]:
    """The token ids of each prompt, a conversation in the tokenizer's template; without special tokens of the tokenizer's own.

    Args:
        places: what a sentence calls each prompt, such as "mine.jsonl, row 2"; by default its number.
    Raises:
        BadInput: for a prompt that is neither a text nor a conversation that the template takes, has no tokens, or has more
            than ``longest``.
    """
    places = places or [f"the prompts, row {number}" for number in range(1, len(prompts) + 1)]
    texts = [prompt_text(tokenizer, prompt, place) for prompt, place in zip(prompts, places, strict=True)]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for place, text, ids in zip(places, texts, rows, strict=True):
        if not ids:
            raise BadInput(f"{place}, is empty; a model needs at least one token to go on from.")
        if len(ids) > longest:
            raise BadInput(
                f"{place}, has {len(ids)} tokens, and with the completion only {longest} fit into the model's context; "
                f"shorten it ({text[:40]!r}...), or lower max_completion_length."
            )
    return rows


def note_plain_texts(tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> None:
    """Tell the log, once for each tokenizer, where a model of conversations is given plain texts. It may be what is wanted."""
    if knows_conversations(tokenizer) and any(isinstance(prompt, str) for prompt in prompts):
        of = f" of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else ""
        _say_once(
            f"The prompts are plain texts, and the tokenizer{of} has a chat template, so the model was trained on "
            'conversations; a text becomes a user\'s turn by --chat, or in Python as [{"role": "user", "content": text}].'
        )


@cache
def _say_once(sentence: str) -> None:
    logger.warning(sentence)


@torch.no_grad()
@on_suited_threads
def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    *,
    num_generations: int,
    max_completion_length: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Rollout:
    """Draw G completions of each prompt from softmax(logits / temperature) over the whole vocabulary.

    No top-k, no top-p: the log-probs would then belong to another distribution than the one that is trained.

    Args:
        prompts: P texts or conversations (lists of {role, content}), which go through the tokenizer's template.
        temperature: 0 takes the likeliest token each time; the log-probs are then those at temperature 1.
        generator: the only source of randomness, on the model's device.
        batch_size: the most completions that the model reads at a time, where all would not fit into memory. The draws are
            the same, and so the completions, unless the rounding of the logits decides one.
    Raises:
        BadInput: for a prompt that is empty, neither a text nor a conversation, or does not fit into the context together with
            its completion; for numbers that make no sense.
        ValueError: if the model is in train mode.
        FloatingPointError: if its logits are not finite.
    """
    _check(prompts, num_generations, max_completion_length, temperature)
    if model.training:
        raise ValueError("The model is in train mode, where dropout samples from another policy; call model.eval() first.")
    longest = longest_prompt(context_length(model), max_completion_length)
    note_plain_texts(tokenizer, prompts)
    prompt_ids, prompt_mask = (t.to(model.device) for t in encode_prompts(tokenizer, prompts, longest))
    group_ids = torch.arange(len(prompts), device=model.device).repeat_interleave(num_generations)
    ends = eos_token_ids(model, tokenizer)
    ids = torch.full((len(group_ids), max_completion_length), tokenizer.pad_token_id, device=model.device)
    logprobs = torch.zeros(ids.shape, device=ids.device, dtype=torch.promote_types(model.dtype, torch.float32))
    texts = partial(_read_once if cache_has_rows(model) else _read_anew, model, prompt_ids, prompt_mask)
    _decode(texts, group_ids, ids, logprobs, ends, temperature, generator, batch_size)
    mask = completion_mask(ids, ends)
    width = int(mask.any(0).sum())
    ids, mask, logprobs = ids[:, :width], mask[:, :width], logprobs[:, :width]
    return Rollout(
        prompts=[prompt for prompt in prompts for _ in range(num_generations)],
        completions=completion_texts(tokenizer, [row[counts].tolist() for row, counts in zip(ids, mask, strict=True)], ends),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        group_ids=group_ids,
        completion_ids=ids,
        completion_mask=mask,
        ended=torch.isin(ids, torch.tensor(ends, device=ids.device)).any(1),
        logprobs=logprobs,
    )


def _check(prompts: list[str], num_generations: int, max_completion_length: int, temperature: float) -> None:
    for name, number in {"num_generations": num_generations, "max_completion_length": max_completion_length}.items():
        if number < 1:
            raise BadInput(f"{name} must be at least 1, got {number}.")
    check_temperature(temperature)
    if isinstance(prompts, str | dict):
        kind = "a single text" if isinstance(prompts, str) else "a dict of columns"
        raise BadInput(f"prompts must be a list of texts, got {kind}; wanted is [prompt], or the column's list.")
    if len(prompts) == 0:
        raise BadInput("There are no prompts.")


def completion_texts(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], ends: list[int]) -> list[str]:
    """What rewards see of completions: EOS and padding are taken out, and no other special token."""
    silent = {*ends, tokenizer.pad_token_id}
    return tokenizer.batch_decode([[token for token in row if token not in silent] for row in rows])


def _decode(
    texts: Callable, group_ids: Tensor, ids: Tensor, logprobs: Tensor, ends: list[int], temperature, generator, batch_size
) -> None:
    """Token by token from where the prompts end: fills ``ids`` and ``logprobs``, (B, C) each, in.

    All parts draw their token t before any draws the next, so that the draws are the same however many parts there are.
    """
    running = list(torch.arange(len(ids), device=ids.device).split(batch_size or len(ids)))  # of each part
    texts = [texts(group_ids[rows]) for rows in running]
    drawn = [None] * len(texts)  # of each part the last token of its running texts, and which of them went on
    for t in range(ids.shape[1]):
        uniform = _uniform(running, temperature, generator)
        for part, rows in enumerate(running):
            if len(rows):
                logits = texts[part].send(drawn[part])
                tokens, logprobs[rows, t], going_on = _next_token(logits, ends, temperature, uniform[part])
                ids[rows, t], drawn[part], running[part] = tokens, (tokens, going_on), rows[going_on]
        if not any(map(len, running)):
            break


Texts = Generator[Tensor, tuple[Tensor, Tensor], None]


def _read_once(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, group_ids: Tensor) -> Texts:
    """The logits (N, V) that follow N running texts, which are then sent the tokens (N,) drawn and the rows that go on.

    The model runs once for each *different* text so far, a node: first the prompts; completions that begin alike share
    theirs, and those that ended have none.
    """
    groups, node = torch.unique(group_ids, return_inverse=True)
    cache, token, mask, position = read_prompts(model, prompt_ids[groups], prompt_mask[groups])
    while True:
        outputs = read(model, token, mask, position, cache)
        cache, logits = getattr(outputs, cache_name(model)), outputs.logits[:, -1]
        drawn, going_on = yield logits[node]
        # Texts of one more token: each is the node that it goes on from, and that token.
        child, node = torch.unique((node * logits.shape[1] + drawn)[going_on], return_inverse=True)
        parent, token = child // logits.shape[1], child[:, None] % logits.shape[1]
        cache, position = select_rows(cache, parent, len(mask)), position[parent] + 1
        mask = torch.cat([mask[parent], mask.new_ones(len(parent), 1)], dim=1)


def _read_anew(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, group_ids: Tensor) -> Texts:
    """The same for a model whose cache has no rows: each text is read anew for each token."""
    written = group_ids.new_zeros(len(group_ids), 0)
    while True:
        drawn, going_on = yield plain_logits(model, prompt_ids, prompt_mask, group_ids, written, keep=1)[:, -1]
        group_ids, written = group_ids[going_on], torch.cat([written, drawn[:, None]], dim=1)[going_on]


def _uniform(running: list[Tensor], temperature: float, generator: torch.Generator | None) -> list[Tensor | None]:
    """A number between 0 and 1 for each running row of each part; none where nothing is drawn."""
    if temperature == 0:
        return [None] * len(running)
    lengths, device = [len(rows) for rows in running], running[0].device
    return list(torch.rand(sum(lengths), 1, generator=generator, dtype=torch.float64, device=device).split(lengths))


def _next_token(logits: Tensor, ends: list[int], temperature: float, uniform) -> tuple[Tensor, Tensor, Tensor]:
    """(N, V) -> what is drawn (N,), its log-probs (N,), and the rows that it does not end."""
    drawn = _draw(logits, temperature, uniform)
    logprobs = token_logprobs(logits.unsqueeze(1), drawn, temperature or 1.0)[:, 0]
    going_on = (~torch.isin(drawn[:, 0], torch.tensor(ends, device=drawn.device))).nonzero()[:, 0]
    return drawn[:, 0], logprobs, going_on


def _draw(logits: Tensor, temperature: float, uniform: Tensor | None) -> Tensor:
    """(B, V) -> (B, 1) token ids: one uniform number per row, (B, 1), looked up in the cumulated probabilities."""
    if not torch.isfinite(logits).all():
        raise FloatingPointError("The model's logits are not finite, so nothing can be drawn; its weights have blown up.")
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    cumulated = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)


def draw_rows(dataset: Dataset, index: int, num_rows: int, seed: int) -> dict[str, list]:
    """The columns of draw ``index``: the next rows of a permutation that is drawn anew each time the data set is used up."""
    epoch, position = divmod(index, len(dataset) // num_rows)
    order = torch.randperm(len(dataset), generator=seeded(seed, 1, epoch))
    return dataset[order[position * num_rows : (position + 1) * num_rows].tolist()]


def seeded(*numbers: int, device="cpu") -> torch.Generator:
    """A generator of its own for each tuple of numbers, so that no draw depends on what was drawn before."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator(device).manual_seed(seed)
