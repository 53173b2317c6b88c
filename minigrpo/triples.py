"""(prompt, response, reward) records, from people or a reward model -> the same batch that sampling makes.

The objective is E[R(y|x) - beta KL(policy || reference)], and its optimum is known: reference(y|x) exp(R / beta) / Z(x).
Records drawn from the reference, weighted by exp(R / beta), are draws from that optimum; *weighted* maximises their
log-likelihood and so projects the policy onto it. *policy_gradient* treats the records as if the policy had just drawn them.
For records from elsewhere, the distribution that wrote them takes the reference's place in all of this.
"""

import difflib
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from minigrpo.chat import encode_chat
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.files import read_rows
from minigrpo.sampling import Rollout

EPS = 1e-4
BUNDLED = Path(__file__).parent / "assets" / "sums.jsonl"
ROLES = ("system", "user", "assistant")


# --- records ----------------------------------------------------------------------------------------------------------


def load_triples(source: str | Path | Dataset | Iterable[dict]) -> Dataset:
    """Records with the columns prompt, response, reward, or messages (a chat) and reward.

    Args:
        source: "bundled", a file (.jsonl, .csv, .parquet), a Dataset, or rows. Rewards may be integers or numeric strings.
    Returns:
        A Dataset with ``prompt`` (of a chat: all of it but for what the assistant said last), ``response``, ``reward`` (float),
        ``messages`` (None, or a list of {role, content}) and ``where`` (file and row, for those who have to complain of it).
    Raises:
        BadInput: with file and row, for whatever is missing, misspelt, empty, not a number or not readable; no row is dropped.
    """
    source = BUNDLED if isinstance(source, str) and source == "bundled" else source
    name = str(source) if isinstance(source, str | Path) else "the records"
    rows = list(read_rows(Path(source)) if isinstance(source, str | Path) else enumerate(source, 1))
    if not rows:
        raise BadInput(f"{name} has no records.")
    records = [_checked(row, f"{name}, row {number}") for number, row in rows]
    if len({record["reward"] for record in records}) == 1:
        raise BadInput(f"All {len(records)} rewards in {name} are {records[0]['reward']}: there is nothing to prefer.")
    return Dataset.from_list(records)


def _checked(row: dict, where: str) -> dict:
    """One record in its final form."""
    if not isinstance(row, dict):
        raise BadInput(f"{where}, is {row!r:.60}; wanted is an object with prompt, response and reward.")
    chat = "messages" in row and row["messages"] is not None
    for column in ("messages", "reward") if chat else ("prompt", "response", "reward"):
        if row.get(column) is None:
            near = difflib.get_close_matches(column, [str(key) for key in row], n=1)
            hint = f"; is {near[0]!r} it?" if near and near[0] != column else "."
            raise BadInput(f"{where}, has no {column!r}{hint}")
    reward = _number(row["reward"], where)
    if chat:
        messages = _chat(row["messages"], where)
        *before, last = messages
        prompt = "\n".join(f"{m['role']}: {m['content']}" for m in before)
        return {"prompt": prompt, "response": last["content"], "reward": reward, "messages": messages, "where": where}
    for column in ("prompt", "response"):
        if not isinstance(row[column], str) or not row[column].strip():
            raise BadInput(f"{where}, has {row[column]!r:.60} as its {column}; wanted is a text that is not empty.")
    return {"prompt": row["prompt"], "response": row["response"], "reward": reward, "messages": None, "where": where}


def _number(value, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{where}, has {value!r:.60} as its reward; wanted is a finite number.")
    return number


def _chat(messages, where: str) -> list[dict]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadInput(f"{where}, has {messages!r:.60} as its messages; wanted is a list of objects with role and content.")
    for m in messages:
        if m.get("role") not in ROLES:
            raise BadInput(f"{where}, has a message with the role {m.get('role')!r:.40}; wanted is one of {', '.join(ROLES)}.")
        if not isinstance(m.get("content"), str) or not m["content"].strip():
            raise BadInput(f"{where}, has a message of the {m['role']} without content.")
    if not messages or messages[-1]["role"] != "assistant":
        raise BadInput(f"{where}, does not end with a turn of the assistant: there is nothing that the reward is for.")
    if messages[0]["role"] == "assistant":
        raise BadInput(f"{where}, begins with the assistant: there is nothing that it answers.")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


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
    return encode_chat(tokenizer, record["messages"])


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
