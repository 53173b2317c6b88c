"""The global reward model: it learns from scored triples what people like, then serves as the reward function of a run."""

import copy
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.config import BadInput, first_line
from minigrpo.policy import check_folder, context_length, load_policy, whole_model
from minigrpo.threads import on_suited_threads, suited_threads
from minigrpo.triples import encode_record

LEARNING_RATES = {"regression": 3e-3, "bradley_terry": 1e-3}


def start_reward_model(name: str = "tiny") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy of that name with a fresh head of one number in place of the vocabulary's; see load_policy."""
    policy, tokenizer = load_policy(name)
    config = copy.deepcopy(policy.config)
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    try:
        with torch.random.fork_rng():  # the initialisation draws from the global generator; leave it as it was
            model = AutoModelForSequenceClassification.from_config(config)
        model.base_model.load_state_dict(policy.base_model.state_dict())
        torch.nn.init.normal_(model.score.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    except (ValueError, RuntimeError, AttributeError) as error:  # a kind of model that transformers gives no such head
        raise BadInput(f"A {type(policy).__name__} cannot become a reward model: {first_line(error)}") from error
    return model.eval(), tokenizer


def encode_records(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[dict]) -> list[list[int]]:
    """The tokens of each record, up to its EOS. BadInput, with file and row, for one that the model's context does not take."""
    rows, longest = [], context_length(model)
    for record in records:
        _, prompt, rest, _ = encode_record(tokenizer, record)
        rows.append(prompt + rest)
        if len(rows[-1]) > longest:
            where = record.get("where", "A completion with its prompt")
            raise BadInput(f"{where}, has {len(rows[-1])} tokens with EOS; the reward model's context takes {longest}.")
    return rows


def score_records(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[dict]) -> Tensor:
    """(N,) scores: the head's number at the last token of each record, its EOS; differentiable."""
    return _score(model, encode_records(model, tokenizer, records), tokenizer.pad_token_id)


@on_suited_threads
def _score(model: PreTrainedModel, rows: list[list[int]], pad: int) -> Tensor:
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    hidden = model.base_model(ids, attention_mask=mask.long()).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in rows])
    return model.score(hidden[torch.arange(len(rows)), last]).squeeze(-1).float()


@torch.no_grad()
def _finite_scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: list[dict]) -> Tensor:
    """(N,) scores, in batches: all at once may be more than the memory holds."""
    batches = [records[i : i + 64] for i in range(0, len(records), 64)]
    scores = torch.cat([score_records(model, tokenizer, batch) for batch in batches])
    if not scores.isfinite().all():
        raise FloatingPointError(
            "The reward model's scores are not finite numbers: its training diverged; a lower learning_rate is the usual cure."
        )
    return scores


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(N,), (N,) scores -> a scalar, nats: minus the log-odds model's log-probability that ``chosen`` is preferred.

    Bradley and Terry 1952: P(chosen over rejected) = sigmoid(chosen - rejected). Only differences matter.
    """
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def preference_pairs(records: Dataset) -> list[tuple[int, int]]:
    """(better, worse) row numbers of every two responses to one prompt whose rewards differ."""
    rewards, groups = list(records["reward"]), {}
    for row, prompt in enumerate(records["prompt"]):
        groups.setdefault(prompt, []).append(row)
    pairs = (pair for rows in groups.values() for pair in combinations(rows, 2))
    return [(a, b) if rewards[a] > rewards[b] else (b, a) for a, b in pairs if rewards[a] != rewards[b]]


def paired_records(records: Dataset) -> Dataset:
    """The records that are in a pair: all that bradley_terry learns from. BadInput if there is none."""
    rows = sorted({row for pair in preference_pairs(records) for row in pair})
    if not rows:
        raise BadInput(
            "No prompt has two responses with different rewards, so there is no pair to order; score a second response to a "
            "prompt, or take regression."
        )
    return records.select(rows)


def split_by_prompt(records: Dataset, share: float = 0.2) -> tuple[Dataset, Dataset]:
    """Records to train on and to hold out, with no prompt in both."""
    prompts = list(dict.fromkeys(records["prompt"]))
    if len(prompts) < 2:
        raise BadInput(
            f"There is one prompt to learn from, {prompts[0]!r:.60}; score responses to a second one, which is held out: "
            "a reward model is measured on prompts that it never saw."
        )
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = {prompts[i] for i in order[: max(1, round(share * len(prompts)))]}
    rows = [prompt in held_out for prompt in records["prompt"]]
    return (records.select([i for i, out in enumerate(rows) if out == wanted]) for wanted in (False, True))


@torch.enable_grad()
def train_reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Dataset,
    *,
    objective: str = "regression",
    steps: int = 100,
    learning_rate: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Iterator[dict]:
    """Train in place; yields ``{"step", "loss"}`` after each update.

    Args:
        objective: "regression" fits the rewards themselves; "bradley_terry" fits which of two responses to one prompt is
            better, for scores that mean something only beside each other.
        learning_rate: of AdamW, falling to 0 in a straight line; by default LEARNING_RATES[objective].
    Raises:
        BadInput: for another objective, a record that is too long, or if bradley_terry finds no pair.
        FloatingPointError: if the loss or its gradient is not finite.
    """
    if objective not in LEARNING_RATES or steps < 1 or batch_size < 2:
        raise BadInput(
            f"Wanted are the objective regression or bradley_terry, steps of at least 1 and a batch_size of at least 2, got "
            f"{objective!r}, {steps} and {batch_size}."
        )
    records = paired_records(records) if objective == "bradley_terry" else records
    pairs = preference_pairs(records) if objective == "bradley_terry" else []
    rows, rewards = encode_records(model, tokenizer, records.to_list()), torch.tensor(records["reward"])
    learning_rate = LEARNING_RATES[objective] if learning_rate is None else learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        if objective == "bradley_terry":
            drawn = [pairs[i] for i in torch.randint(len(pairs), (batch_size // 2,), generator=generator)]
            scores = _score(model, [rows[i] for pair in zip(*drawn, strict=True) for i in pair], tokenizer.pad_token_id)
            loss = bradley_terry_loss(*scores.chunk(2))
        else:
            drawn = torch.randint(len(rows), (batch_size,), generator=generator)
            loss = ((_score(model, [rows[i] for i in drawn], tokenizer.pad_token_id) - rewards[drawn]) ** 2).mean()
        _descend(model, optimizer, loss, step)
        schedule.step()
        yield {"step": step, "loss": loss.item()}


def _descend(model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    optimizer.zero_grad()
    with suited_threads(model):
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(grad_norm)):
            raise FloatingPointError(
                f"The loss at step {step} is {loss.item():.3g} and its gradient norm {grad_norm.item():.3g}; "
                "a lower learning_rate is the usual cure."
            )
        optimizer.step()


def squared_error(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Dataset) -> float:
    """Mean of (score - reward)^2 over the records."""
    scores = _finite_scores(model, tokenizer, records.to_list())
    return (scores - torch.tensor(records["reward"])).square().mean().item()


def pair_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Dataset) -> float:
    """Share of pairs (two responses to one prompt, rewards differ) that the model orders as their rewards do."""
    pairs = preference_pairs(records)
    if not pairs:
        raise BadInput("No prompt has two responses with different rewards, so there is no pair to order.")
    better, worse = _finite_scores(model, tokenizer, records.to_list())[torch.tensor(pairs)].T
    return (better > worse).double().mean().item()


def load_reward_model(path: str | Path):
    """A reward function in TRL's protocol from a folder that ``minigrpo reward-model train`` wrote.

    Raises:
        BadInput: if there is no such folder, or no reward model in it.
    """
    if not Path(path).is_dir():
        raise BadInput(f"There is no folder {str(path)!r}; minigrpo reward-model train makes a reward model.")
    if (Path(path) / "model").is_dir():
        raise BadInput(
            f"{str(path)!r} is the folder of a run, and holds its policy; minigrpo reward-model train makes a reward model."
        )
    check_folder(Path(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = whole_model(AutoModelForSequenceClassification, path, local_files_only=True).eval()
    except BadInput:
        raise BadInput(f"{str(path)!r} holds a model, but no reward model; minigrpo reward-model train makes one.") from None
    except Exception as error:  # whatever a damaged file makes a library raise; the cause goes along
        raise BadInput(f"The reward model {str(path)!r} cannot be loaded: {first_line(error)}") from error
    if model.config.num_labels != 1:
        raise BadInput(
            f"The model in {str(path)!r} gives {model.config.num_labels} numbers per text; a reward model gives one."
        )

    def reward_model(prompts: list, completions: list, **_) -> list[float]:
        def record(prompt, completion) -> dict:
            if isinstance(prompt, str):
                return {"prompt": prompt, "response": completion, "messages": None}
            return {"messages": prompt + completion, "where": "A conversation"}

        return _finite_scores(model, tokenizer, list(map(record, prompts, completions))).tolist()

    return reward_model
