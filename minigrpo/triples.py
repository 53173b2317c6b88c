"""(prompt, response, reward) records, from people or a reward model -> the same batch that sampling makes.

The objective is E[R(y|x) - beta KL(policy || reference)], and its optimum is known: reference(y|x) exp(R / beta) / Z(x).
Records drawn from the reference, weighted by exp(R / beta), are draws from that optimum; *weighted* maximises their
log-likelihood and so projects the policy onto it. *policy_gradient* raises what was scored above its baseline. The records are
off-policy, so it needs the ratio policy / writer. Where the writer is the reference, that ratio is known, and its clip holds
the policy near it; where the writer is unknown, the ratio is to the policy at the start of each pass over the records, as if
that one had written them. For records from elsewhere, their writer takes the reference's place in the optimum, too.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from minigrpo.chat import check_chat, encode_chat
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.files import check_characters, check_number, read_rows
from minigrpo.kl import kl_exact
from minigrpo.metrics import masked_mean
from minigrpo.policy import context_length
from minigrpo.sampling import Rollout, draw_rows, sample_completions, seeded
from minigrpo.scoring import fixed_logprobs, in_parts, policy_logits
from minigrpo.update import Batch, TrainState, frozen_copy, mixed_precision

EPS = 1e-4
BUNDLED = Path(__file__).parent / "assets" / "sums.jsonl"


# --- records ----------------------------------------------------------------------------------------------------------


def load_triples(source: str | Path | Dataset | Iterable[dict]) -> Dataset:
    """Records with the columns prompt, response, reward, or messages (a chat) and reward.

    Args:
        source: "bundled", a file (.jsonl, .json, .csv, .parquet), a Dataset, or rows. Rewards may be integers or numeric
            strings; a message's content a text or a list of parts of the type "text".
    Returns:
        A Dataset with ``prompt`` (of a chat: all of it but for what the assistant said last), ``response``, ``reward`` (float),
        ``messages`` (None, or a list of {role, content}) and ``where`` (file and row, for those who have to complain of it).
    Raises:
        BadInput: with file and row, for whatever is missing, misspelt, empty, not a number or not readable; no row is dropped.
            And where there is nothing to compare: a single record, or the same reward everywhere.
    """
    source = BUNDLED if isinstance(source, str) and source == "bundled" else source
    if isinstance(source, dict) or not isinstance(source, str | Path | Iterable):
        raise BadInput(f"Records are a file, a Dataset or a list of dicts, one per record; got a {type(source).__name__}.")
    file = isinstance(source, str | Path)
    name = str(source).encode(errors="backslashreplace").decode() if file else "the records"
    rows = read_rows(Path(source)) if file else ((f"row {number}", row) for number, row in enumerate(source, 1))
    records = [_checked(row, f"{name}, {place}") for place, row in rows]
    if not records:
        raise BadInput(f"{name} has no records.")
    if len(records) == 1:
        raise BadInput(f"{name} has one record, and nothing to compare it with; add one that is scored higher or lower.")
    if len(torch.tensor([record["reward"] for record in records]).unique()) == 1:
        raise BadInput(
            f"All {len(records)} rewards in {name} are {records[0]['reward']}: there is nothing to prefer; add a record "
            "that is scored higher or lower."
        )
    return Dataset.from_list(records)


def _checked(row: dict, where: str) -> dict:
    """One record in its final form."""
    if not isinstance(row, dict):
        raise BadInput(f"{where}, is {row!r:.60}; wanted is an object with prompt, response and reward.")
    chat = "messages" in row and row["messages"] is not None
    for column in ("messages", "reward") if chat else ("prompt", "response", "reward"):
        if row.get(column) is None:
            if column in row:
                raise BadInput(f"{where}, has null as its {column}; fill it in, or delete the row.")
            names = [str(key) for key in row]
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"; is {near[0]!r} it?" if near else f", only {', '.join(names)[:60]!r}."
            raise BadInput(f"{where}, has no {column!r}{hint}")
    reward = check_number(row["reward"], where, "reward")
    if chat:
        messages = check_chat(row["messages"], where)
        *before, last = messages
        prompt = "\n".join(f"{m['role']}: {m['content']}" for m in before)
        return {"prompt": prompt, "response": last["content"], "reward": reward, "messages": messages, "where": where}
    for column in ("prompt", "response"):
        if not isinstance(row[column], str) or not row[column].strip():
            hint = " A chat belongs in a column 'messages'." if isinstance(row[column], list) else ""
            raise BadInput(f"{where}, has {row[column]!r:.60} as its {column}; wanted is a text that is not empty.{hint}")
        check_characters(row[column], where)
    return {"prompt": row["prompt"], "response": row["response"], "reward": reward, "messages": None, "where": where}


# --- advantages and weights, over all records at once -------------------------------------------------------------------


def group_ids(records: Dataset) -> Tensor:
    """(N,): responses with the same prompt have the same number."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt in records["prompt"]])


def baseline_advantages(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """(N,), (N,) -> (N,): each reward minus its baseline, over the standard deviation of all.

    A response that shares its prompt is compared with its group's mean; a lone one has only the others of the batch, so its
    baseline is their mean (leave-one-out: its own reward in its own baseline would shrink every difference).

    Raises:
        BadInput: for fewer than two rewards, one that is not finite, or a mismatch of shapes.
    """
    rewards = _real(rewards)
    if not isinstance(group_ids, Tensor) or group_ids.shape != rewards.shape:
        raise BadInput(f"group_ids must be a tensor of one number per reward, got {group_ids!r:.60}.")
    if len(rewards) < 2:
        raise BadInput(f"At least two scored responses are needed for a baseline, got {len(rewards)}.")
    rewards = rewards - rewards.min()  # or equal rewards would differ from their mean by a rounding, which EPS magnifies
    _, index, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)
    group_mean = (rewards.new_zeros(len(counts)).index_add(0, index, rewards) / counts)[index]
    others_mean = (rewards.sum() - rewards) / (len(rewards) - 1)
    baseline = torch.where(counts[index] > 1, group_mean, others_mean)
    return (rewards - baseline) / (rewards.std() + EPS)


def optimum_weights(rewards: Tensor, beta: float) -> Tensor:
    """(N,) -> (N,) exp(R / beta), scaled to a mean of 1: what turns draws from the reference into draws from the optimum.

    Normalised over all records and not prompt by prompt: Z(x) of a few responses is too noisy, and a prompt without a single
    good response would otherwise teach its least bad one.

    Raises:
        BadInput: for a beta that is not above 0, or a reward that is not finite.
    """
    rewards = _real(rewards)
    if not 0 < beta < math.inf:
        raise BadInput(f"beta must be a positive number, since the rewards are divided by it, got {beta!r}.")
    return torch.softmax(rewards / beta, dim=0) * len(rewards)


def _real(rewards: Tensor) -> Tensor:
    """(N,) finite rewards as floats; -inf, inf and NaN would make every weight NaN."""
    if not isinstance(rewards, Tensor) or rewards.ndim != 1 or not len(rewards) or not rewards.isfinite().all():
        raise BadInput(f"rewards must be a tensor (N,) of finite numbers, got {rewards!r:.60}.")
    return rewards if rewards.is_floating_point() else rewards.float()


def prepare(records: Dataset, config: GRPOConfig) -> Dataset:
    """The records with a column "advantage", which is all that the two estimators differ in before the loss."""
    rewards = torch.tensor(records["reward"])
    if config.triples_estimator == "weighted":
        advantages = optimum_weights(rewards, config.beta)
    else:
        advantages = baseline_advantages(rewards, group_ids(records))
    return records.add_column("advantage", advantages.tolist())


# --- the batch ----------------------------------------------------------------------------------------------------------


def encode_record(tokenizer: PreTrainedTokenizerBase, record: dict) -> tuple[str, list[int], list[int], list[bool]]:
    """The prompt as text and ids, what follows it, and which of that counts: the response with its EOS; of a chat see
    ``encode_chat``."""
    if record["messages"] is None:
        prompt, response = (tokenizer(record[name], add_special_tokens=False)["input_ids"] for name in ("prompt", "response"))
        return record["prompt"], prompt, [*response, tokenizer.eos_token_id], [True] * (len(response) + 1)
    try:
        return encode_chat(tokenizer, record["messages"])
    except BadInput as error:
        raise BadInput(f"{record['where']}: {error}") from error


def logged_rollout(tokenizer: PreTrainedTokenizerBase, columns: dict[str, list], longest: int) -> Rollout:
    """A rollout whose completions were not sampled but read from B records; its log-probs are 0, for nobody knows them.

    Raises:
        BadInput: for a record with more than ``longest`` tokens.
    """
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    encoded = [encode_record(tokenizer, row) for row in rows]
    for row, (_, prompt, rest, _) in zip(rows, encoded, strict=True):
        if not prompt or len(prompt) + len(rest) > longest:
            raise BadInput(
                f"{row['where']}, has {len(prompt)} tokens of prompt and {len(rest)} of response with EOS; the model's context "
                f"takes {longest} together, of them at least 1 of prompt."
            )
    texts = list(dict.fromkeys(text for text, *_ in encoded))
    prompts = {text: prompt for text, prompt, *_ in encoded}
    length, width = max(map(len, prompts.values())), max(len(rest) for _, _, rest, _ in encoded)
    pad = tokenizer.pad_token_id

    def left(row: list, fill) -> list:
        return [fill] * (length - len(row)) + row

    def right(row: list, fill) -> list:
        return row + [fill] * (width - len(row))

    return Rollout(
        prompts=[text for text, *_ in encoded],
        completions=[row["response"] for row in rows],
        prompt_ids=torch.tensor([left(prompts[text], pad) for text in texts]),
        prompt_mask=torch.tensor([left([True] * len(prompts[text]), False) for text in texts]),
        group_ids=torch.tensor([texts.index(text) for text, *_ in encoded]),
        completion_ids=torch.tensor([right(rest, pad) for _, _, rest, _ in encoded]),
        completion_mask=torch.tensor([right(counts, False) for *_, counts in encoded]),
        ended=torch.ones(len(rows), dtype=torch.bool),
        logprobs=torch.zeros(len(rows), width),
    )


# --- training on records --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """Batches of responses that others wrote, with the advantages that ``prepare`` gave them."""

    records: Dataset
    config: GRPOConfig
    kl_fn = None  # the exact KL: records hold no draws of the policy to estimate one from

    @property
    def batch_size(self) -> int:
        """The configuration's, or fewer records where there are fewer."""
        return min(self.config.generation_batch_size, len(self.records))

    def next_batch(self, state: TrainState) -> Batch:
        index = state.step // self.config.num_iterations
        columns = draw_rows(self.records, index, self.batch_size, self.config.seed)
        device = state.model.device
        rollout = logged_rollout(state.tokenizer, columns, context_length(state.model)).to(device)
        old_logprobs = ref_logprobs = None  # the weights of weighted records hold the KL, and they have no other policy
        if self.config.triples_estimator == "policy_gradient":
            with mixed_precision(state, self.config):
                how = self.config.temperature, self.config.per_device_train_batch_size
                ref_logprobs = state.reference and fixed_logprobs(state.reference, rollout, *how)
                old_logprobs = ref_logprobs
                if self.config.triples_writer == "unknown":
                    begins = index % (len(self.records) // self.batch_size) == 0
                    if begins or state.old_policy is None:  # a fork may begin within a pass
                        state.old_policy = frozen_copy(state.model)
                    old_logprobs = fixed_logprobs(state.old_policy, rollout, *how)
        rewards, advantages = (torch.tensor(columns[name], device=device) for name in ("reward", "advantage"))
        return Batch(rollout, {}, rewards, advantages, old_logprobs, ref_logprobs)

    def metrics(self, state: TrainState) -> dict[str, float]:
        """How likely the policy makes what was scored high, and what it writes now."""
        rewards = state.batch.rewards
        weights = optimum_weights(rewards, self.config.beta or 1.0) / len(rewards)
        with mixed_precision(state, self.config):
            logprobs = fixed_logprobs(state.model, state.batch.rollout, batch_size=self.config.per_device_train_batch_size)
            metrics = {"weighted_logprob": (weights * logprobs.sum(1)).sum().item()}
            return metrics | (fresh_metrics(state, self.config) if state.reference is not None else {})


def fresh_metrics(state: TrainState, config: GRPOConfig, num_prompts: int = 32) -> dict[str, float]:
    """KL(policy || reference) at tokens that the policy writes now (at those of the records it would be another number), and
    the length of what it writes."""
    prompts = list(dict.fromkeys(state.batch.rollout.prompts))[:num_prompts]
    longest = context_length(state.model) - state.batch.rollout.prompt_ids.shape[1]
    fresh = sample_completions(
        state.model,
        state.tokenizer,
        prompts,
        num_generations=1,
        max_completion_length=min(config.max_completion_length, longest),
        generator=seeded(config.seed, 3, state.step, device=state.model.device),
        batch_size=config.per_device_train_batch_size,
    )
    size = config.per_device_train_batch_size or len(prompts)
    parts = [fresh.rows(rows) for rows in in_parts(state.model, fresh, size, equal_together=False)]
    with torch.no_grad():
        kl = torch.cat([kl_exact(policy_logits(state.model, part), policy_logits(state.reference, part)) for part in parts])
    lengths = fresh.completion_mask.sum(1).float()
    return {"kl": masked_mean(kl, fresh.completion_mask), "completions/mean_length": lengths.mean().item()}
