"""Log-probs of completions under a model, with nothing computed twice: the fast way to what completion_logits spells out."""

import copy
import inspect
from functools import cache as remember
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from minigrpo.head import ChunkedHead, head_is_all
from minigrpo.logprobs import token_entropies, token_logprobs
from minigrpo.threads import on_suited_threads

WORTH_A_PASS = 16  # tokens; a pass costs time of its own, however short it is
_cache_has_rows: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@remember
def parameters(kind: type[PreTrainedModel]) -> set[str]:
    """What the models of a class take."""
    return set(inspect.signature(kind.forward).parameters)


def cache_name(model: PreTrainedModel) -> str:
    """Of a model's input and output; "past_key_values" is the older one, of which newer versions of transformers warn."""
    return "cache" if "cache" in parameters(type(model)) else "past_key_values"


def read(model: PreTrainedModel, token_ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None):
    """(N, T) tokens and (N, all tokens so far) long mask -> the model's outputs, whose cache goes on from ``cache``."""
    inputs = {"attention_mask": mask, "position_ids": positions, cache_name(model): cache, "use_cache": True}
    if "position_ids" not in parameters(type(model)):  # Bloom and MPT count by the mask
        del inputs["position_ids"]
    return model(token_ids, **inputs)


class Prompts(NamedTuple):
    """P prompts, read but for their last token."""

    cache: Cache | None  # keys and values of P rows; None for prompts of one token
    last_token: Tensor  # (P, 1)
    mask: Tensor  # (P, L) long
    position: Tensor  # (P, 1) of the last token


def read_prompts(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor) -> Prompts:
    """Read each prompt but its last token once; completions go on from there, see ``read_after``.

    Differentiable: the gradients of all completions of a prompt meet in it.

    Args:
        prompt_ids: (P, L), padded on the left. prompt_mask: (P, L) bool, False on padding.
    """
    mask, cache = prompt_mask.long(), None
    # Padding on the left moves a prompt's tokens to the right; absolute positions must not move with them.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    shared = shared_beginning(model, prompt_ids, prompt_mask)
    if shared:  # then padding stands behind it: positions stay, columns do not
        first = prompt_ids[:1][prompt_mask[:1]][None, :shared]
        outputs = read(model.base_model, first, torch.ones_like(first), torch.arange(shared, device=mask.device)[None])
        cache = select_rows(getattr(outputs, cache_name(model.base_model)), mask.new_zeros(len(mask)), 1)
        mask = torch.cat([mask.new_ones(len(mask), shared), (mask.cumsum(1) > shared)[:, shared:].long()], dim=1)
    if prompt_ids.shape[1] > shared + 1:
        outputs = read(model.base_model, prompt_ids[:, shared:-1], mask[:, :-1], positions[:, shared:-1], cache)
        cache = getattr(outputs, cache_name(model.base_model), None)
    return Prompts(cache, prompt_ids[:, -1:], mask, positions[:, -1:])


def shared_beginning(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor) -> int:
    """How many tokens, such as those of a chat template, all prompts begin with, if that is worth a pass of its own; else 0."""
    config = model.config.get_text_config()
    windows = any(getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size"))
    if len(prompt_ids) == 1 or windows or "position_ids" not in parameters(type(model)):  # these count columns
        return 0
    shortest = int(prompt_mask.sum(1).min()) - 1  # the last token is read with the completion
    beginnings = torch.stack([ids[counts][:shortest] for ids, counts in zip(prompt_ids, prompt_mask, strict=True)])
    shared = int((beginnings == beginnings[0]).all(0).cumprod(0).sum())
    return shared if shared >= WORTH_A_PASS else 0


def read_after(model: PreTrainedModel, prompts: Prompts, group_ids: Tensor, completion_ids: Tensor):
    """The model's outputs that predict the tokens of (B, C) completions of the prompts ``group_ids``."""
    num_tokens = completion_ids.shape[1]
    mask = prompts.mask[group_ids]
    return read(
        model,
        # Fed the last prompt token and all completion tokens but the last, the model predicts the completion: the shift.
        torch.cat([prompts.last_token[group_ids], completion_ids[:, :-1]], dim=1),
        # Nothing attends to what comes later, so padding on the right needs no mask.
        torch.cat([mask, mask.new_ones(len(mask), num_tokens - 1)], dim=1),
        prompts.position[group_ids] + torch.arange(num_tokens, device=mask.device),
        select_rows(prompts.cache, group_ids, len(prompts.mask)),
    )


def select_rows(cache: Cache | None, rows: Tensor, num_rows: int) -> Cache | None:
    """A cache of these rows of another, which has ``num_rows`` and stays as it is."""
    if cache is None:
        return None
    selected = copied(cache)
    if not torch.equal(rows, torch.arange(num_rows, device=rows.device)):
        selected.batch_select_indices(rows)
    return selected


def copied(cache: Cache) -> Cache:
    """A cache that goes its own way from here: what it holds so far stays shared, and the other one as it is."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    return selected


@torch.no_grad()
def cache_has_rows(model: PreTrainedModel) -> bool:
    """Whether several completions can go on from a row of the cache; else ``plain_logits`` serves.

    Recurrent models and hybrids (Mamba, LFM2, Qwen 3.5) keep states that have no rows to select. Tried once a model.
    """
    if model not in _cache_has_rows:
        ids = torch.arange(4, device=model.device)[None]
        layers = getattr(read_prompts(model, ids, torch.ones_like(ids)).cache, "layers", [])
        kinds = {type(layer) for layer in layers}
        _cache_has_rows[model] = bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
    return _cache_has_rows[model]


def plain_logits(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, group_ids: Tensor, written_ids: Tensor, keep: int
) -> Tensor:
    """(B, keep, V): the logits at the last tokens of prompts and what follows them, for any model that reads to the right.

    Every text is read whole, together with those whose prompts are as long, so that no padding comes before it.
    """
    lengths = prompt_mask.sum(1)[group_ids]
    last = {"logits_to_keep": keep} if "logits_to_keep" in parameters(type(model)) else {}
    rows, logits = [], []
    for length in lengths.unique():
        alike = (lengths == length).nonzero()[:, 0]
        text = torch.cat([prompt_ids[group_ids[alike], -length:], written_ids[alike]], dim=1)
        outputs = model(text, attention_mask=torch.ones_like(text), use_cache=False, **last)
        rows, logits = [*rows, alike], [*logits, outputs.logits[:, -keep:]]
    return torch.cat(logits)[torch.cat(rows).argsort()]


@on_suited_threads
def completion_logits(
    model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, group_ids: Tensor, completion_ids: Tensor
) -> Tensor:
    """Logits that predict each completion token, with every prompt read once however many completions it has.

    Args:
        model: a causal language model of transformers.
        prompt_ids: (P, L), padded on the left. prompt_mask: (P, L) bool, False on padding.
        group_ids: (B,) the row of prompt_ids that a completion answers.
        completion_ids: (B, C), padded on the right with any tokens.
    Returns:
        (B, C, V); behind a completion's end they mean nothing.
    """
    if not cache_has_rows(model):
        written, keep = completion_ids[:, :-1], completion_ids.shape[1]
        return plain_logits(model, prompt_ids, prompt_mask, group_ids, written, keep)
    return read_after(model, read_prompts(model, prompt_ids, prompt_mask), group_ids, completion_ids).logits


@on_suited_threads
def completion_logprobs(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    group_ids: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """token_logprobs and token_entropies of completion_logits, in nats, (B, C) each and 0 on padding; the first with gradient.

    A prompt is read once, not once per completion; completions of a prompt that are the same token for token are scored once;
    none is padded to more than twice its length; the head is applied only where a token counts, a chunk at a time.

    Args:
        completion_mask: (B, C) bool, the tokens to score. For the others see completion_logits.
    """
    if not (completion_mask.any() and scores_equal_rows_once(model)):
        logits = completion_logits(model, prompt_ids, prompt_mask, group_ids, completion_ids)
        both = token_logprobs(logits, completion_ids, temperature), token_entropies(logits.detach(), temperature)
        return tuple(torch.where(completion_mask, x, 0.0) for x in both)
    width, rows = completion_ids.shape[1], all_there_is_to_score(group_ids, completion_ids, completion_mask)
    rows, row_of = torch.unique(rows, dim=0, return_inverse=True)  # sorted, so by length
    length, group_ids, ids, mask = rows[:, 0], rows[:, 1], rows[:, 2 : 2 + width], rows[:, 2 + width :].bool()
    prompts = read_prompts(model, prompt_ids, prompt_mask)
    hidden, longest = [], 1
    while longest < 2 * width:
        alike = ((length > longest // 2) & (length <= longest)).nonzero()[:, 0]
        if len(alike):
            outputs = read_after(model.base_model, prompts, group_ids[alike], ids[alike, :longest])
            hidden.append(outputs[0][mask[alike, :longest]])
        longest *= 2
    head = model.get_output_embeddings()
    flat = ChunkedHead.apply(torch.cat(hidden), head.weight, head.bias, ids[mask], temperature)
    return tuple(torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_scatter(mask, x)[row_of] for x in flat)


def all_there_is_to_score(group_ids: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """(B, 2 + 2C): of each row its length, its prompt, the tokens up to the last that counts, and which of them count (those of
    a user in a chat are only read)."""
    columns = torch.arange(1, completion_ids.shape[1] + 1, device=completion_ids.device)
    length = (completion_mask * columns).amax(1, keepdim=True)
    return torch.cat([length, group_ids[:, None], torch.where(columns <= length, completion_ids, 0), completion_mask], dim=1)


def in_parts(model: PreTrainedModel, rollout, size: int, *, equal_together: bool = True) -> list[Tensor]:
    """The row numbers of a rollout in parts of ``size`` rows, those of a prompt together as far as they go.

    With ``equal_together``, rows that completion_logprobs scores once are in one part, and count as one there.
    """
    number = torch.arange(len(rollout.group_ids), device=rollout.group_ids.device)
    if equal_together and scores_equal_rows_once(model):
        rows = all_there_is_to_score(rollout.group_ids, rollout.completion_ids, rollout.completion_mask)
        number = torch.unique(rows[:, 1:], dim=0, return_inverse=True)[1]  # sorted, so by prompt
    return [(number // size == part).nonzero()[:, 0] for part in range(int(number.max()) // size + 1)]


def scores_equal_rows_once(model: PreTrainedModel) -> bool:
    """Whether completion_logprobs has its fast way with this model."""
    return cache_has_rows(model) and head_is_all(model)


def policy_logits(model: PreTrainedModel, rollout) -> Tensor:
    """(B, C, V) logits that predict each completion token of a sampling.Rollout."""
    return completion_logits(model, rollout.prompt_ids, rollout.prompt_mask, rollout.group_ids, rollout.completion_ids)


def policy_logprobs(model: PreTrainedModel, rollout, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(B, C) log-probs of a rollout's tokens with gradient, (B, C) entropies without, in nats and 0 on padding."""
    inputs = rollout.prompt_ids, rollout.prompt_mask, rollout.group_ids
    return completion_logprobs(model, *inputs, rollout.completion_ids, rollout.completion_mask, temperature)


@torch.no_grad()
def fixed_logprobs(model: PreTrainedModel, rollout, temperature: float = 1.0, batch_size: int | None = None) -> Tensor:
    """(B, C) nats without gradient, 0 on padding: under the reference, say; ``batch_size`` rows at a time, or all."""
    if batch_size is None:
        return policy_logprobs(model, rollout, temperature)[0]
    parts = in_parts(model, rollout, batch_size)
    scored = [policy_logprobs(model, rollout.rows(rows), temperature)[0] for rows in parts]
    return torch.cat(scored)[torch.cat(parts).argsort()]
