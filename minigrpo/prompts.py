"""Your own prompts: the rows of a file, of a data set on the hub, or of reasoning-gym, as a task with a held-out part."""

import difflib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import datasets
import huggingface_hub
import pyarrow
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from minigrpo.chat import Prompt, as_conversation, check_prompt
from minigrpo.config import BadInput, first_line
from minigrpo.files import TEXT_FORMATS, read_rows
from minigrpo.hub import why_not
from minigrpo.sampling import prompt_tokens
from minigrpo.tasks import Task, is_held_out

GYM = "reasoning_gym:"
GYM_PROBLEMS = 512
SCORED = 100  # held-out prompts at most; those beyond are not trained on either
NOT_HANDED_OVER = ("completion", "completion_ids")  # to reward functions, as in TRL: answers that others gave


class Rows(NamedTuple):
    """What was read, and not yet looked into."""

    name: str
    rows: list[tuple[str, dict]]  # (place, row), the place as a sentence has it: "mine.jsonl, row 2"
    reward: Callable | None = None  # reasoning-gym's scorer
    prompt_column: str = "prompt"


# --- where rows come from -----------------------------------------------------------------------------------------------


def read_prompts(
    name: str,
    *,
    split: str = "train",
    subset: str | None = None,
    prompt_column: str = "prompt",
    seed: int = 0,
) -> Rows:
    """The rows of a file (.jsonl, .json, .csv, .parquet), of a data set on the hub, or of ``reasoning_gym:TASK``.

    Args:
        split, subset: of a data set on the hub, such as "train" and "main". seed: of reasoning-gym's problems.
    Raises:
        BadInput: if there is no such thing, or it cannot be read.
    """
    if name.startswith(GYM):
        return _gym_rows(name, seed)
    path = Path(name)
    if path.exists() or path.suffix.lower() in (*TEXT_FORMATS, ".parquet"):
        found = [(f"{name}, {place}", row) for place, row in read_rows(path)]
    else:
        found = [(f"{name}, row {number}", row) for number, row in enumerate(_hub_rows(name, split, subset), 1)]
    if not found:
        raise BadInput(f"{name} has no rows.")
    return Rows(path.name, found, prompt_column=prompt_column)


def _hub_rows(name: str, split: str, subset: str | None) -> list[dict]:
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:  # one quick question first, instead of half a minute of retries
            huggingface_hub.HfApi().dataset_info(name, timeout=10)
        return datasets.load_dataset(name, subset, split=split).to_list()
    except Exception as error:  # offline, unknown, private, without that split: the libraries' own words say which
        raise BadInput(
            f"There is no data set {name!r}: no file here is called that, and {why_not(error)}. A file is .jsonl, .json, .csv "
            "or .parquet; without a network, HF_HUB_OFFLINE=1 takes what was loaded before."
        ) from error


def _gym_rows(name: str, seed: int) -> Rows:
    try:
        import reasoning_gym
    except ImportError as error:
        raise BadInput(f'{name!r} needs reasoning-gym, and {error}; python -m pip install -e ".[real]" brings it.') from error
    task = name.removeprefix(GYM)
    known = reasoning_gym.factory.DATASETS
    if task not in known:
        near = difflib.get_close_matches(task, known, n=1)
        raise BadInput(f"reasoning-gym has no task {task!r}; {f'is {near[0]!r} meant?' if near else 'its gallery lists them.'}")
    try:
        made = reasoning_gym.create_dataset(task, size=GYM_PROBLEMS, seed=seed)
        entries = [made[index] for index in range(GYM_PROBLEMS)]
    except Exception as error:  # a few want settings of their own, or data from elsewhere
        raise BadInput(f"reasoning-gym cannot make problems of {task!r} as they are: {first_line(error)}") from error

    def scorer(completions: list, index: list[int], **_) -> list[float]:
        return [_gym_score(made, completion, entries[row]) for completion, row in zip(completions, index, strict=True)]

    scorer.__name__ = task
    rows = [{"prompt": entry["question"], "answer": entry["answer"], "index": row} for row, entry in enumerate(entries)]
    return Rows(name, [(f"{name}, problem {row['index']}", row) for row in rows], scorer)


def _gym_score(made, completion: str | list[dict], entry: dict) -> float:
    """By reasoning-gym, of what stands last between <answer> and </answer>, where it looks; else of all that was written."""
    from reasoning_gym.utils import extract_answer

    text = completion if isinstance(completion, str) else completion[0]["content"]
    tagged = extract_answer(text)
    try:
        return float(made.score_answer(text.strip() if tagged is None else tagged, entry))
    except Exception:  # a few scorers (boxnet's, game_of_life's) trip over JSON of another shape than they look for
        return 0.0


# --- a task of them -----------------------------------------------------------------------------------------------------


def own_task(
    read: Rows, tokenizer: PreTrainedTokenizerBase, longest: int, *, chat: bool = False, system_prompt: str | None = None
) -> Task:
    """The rows as data sets with a column ``prompt``: one to train on, and one that is held out by a rule.

    One prompt in eight is held out, by its checksum (``is_held_out``, of a conversation by that of its JSON, before chat and
    system_prompt), so that no prompt is in both. Where the rule finds none, the prompt of the smallest checksum is.

    Raises:
        BadInput: with the row, for what is no prompt, is refused by the tokenizer's template, or has more than ``longest``
            tokens; for columns that are none; if there is a single prompt.
    """
    places, rows = zip(*read.rows, strict=True)
    prompts = prompts_of(read, chat=chat, system_prompt=system_prompt)
    for prompt, place in zip(prompts, places, strict=True):
        if isinstance(prompt, str) != isinstance(prompts[0], str):
            kinds = [("conversation", "text")[isinstance(p, str)] for p in (prompt, prompts[0])]
            raise BadInput(f"{place}, is a {kinds[0]}, and {places[0]}, a {kinds[1]}; --chat makes each text a conversation.")
    prompt_tokens(tokenizer, prompts, longest, list(places))
    dataset = _dataset(read, prompts, rows)
    written = prompts_of(read)
    out = _held_out(read.name, [p if isinstance(p, str) else json.dumps(p, ensure_ascii=False) for p in written])
    parts = [dataset.select([row for row, is_out in enumerate(out) if is_out == wanted]) for wanted in (False, True)]
    return Task(read.name, parts[0], parts[1].select(range(min(SCORED, len(parts[1])))), read.reward)


def prompts_of(read: Rows, *, chat: bool = False, system_prompt: str | None = None) -> list[Prompt]:
    """The prompt of each row, checked; see chat.as_conversation. Raises BadInput with the row."""
    return [
        as_conversation(_prompt(row, read.prompt_column, place), chat=chat, system_prompt=system_prompt, where=place)
        for place, row in read.rows
    ]


def in_conversations(task: Task, *, chat: bool, system_prompt: str | None) -> Task:
    """A task of plain texts with its prompts as conversations; see chat.as_conversation."""

    def changed(dataset: Dataset) -> Dataset:
        settings = {"chat": chat, "system_prompt": system_prompt, "where": f"a prompt of {task.name}"}
        prompts = [as_conversation(prompt, **settings) for prompt in dataset["prompt"]]
        return dataset.remove_columns("prompt").add_column("prompt", prompts)

    return replace(task, train=changed(task.train), held_out=changed(task.held_out))


def _prompt(row, column: str, place: str) -> Prompt:
    """The prompt of a row, checked, and a text only if it is not empty."""
    if not isinstance(row, dict):
        raise BadInput(f"{place}, is {row!r:.60}; wanted is an object with the column {column!r}.")
    if row.get(column) is None:
        names = [str(name) for name in row]
        near = difflib.get_close_matches(column, names, n=1)
        hint = f"is {near[0]!r} it?" if near and near[0] != column else f"only {', '.join(names)[:80]!r};"
        raise BadInput(f"{place}, has no {column!r}, {hint} --prompt-column names the column of the prompts.")
    prompt = check_prompt(row[column], place)
    if isinstance(prompt, str) and not prompt.strip():
        raise BadInput(f"{place}, has an empty prompt.")
    return prompt


def _dataset(read: Rows, prompts: list[Prompt], rows: tuple[dict, ...]) -> Dataset:
    """The prompts and all other columns of the rows, None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row if name not in (read.prompt_column, *NOT_HANDED_OVER))
    if "prompt" in names:
        raise BadInput(f"{read.name} has a column 'prompt' besides {read.prompt_column!r}, its prompts; rename or delete one.")
    columns = {"prompt": prompts, **{name: [row.get(name) for row in rows] for name in names}}
    for name, values in columns.items():
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, TypeError, OverflowError) as error:
            raise BadInput(
                f"The column {name!r} of {read.name} holds values of several kinds, such as texts and numbers: "
                f"{first_line(error)}"
            ) from error
    return Dataset.from_dict(columns)


def _held_out(name: str, keys: list[str]) -> list[bool]:
    """Of each row, by the checksum of its prompt, whether it is held out; of those with one prompt all or none."""
    out = [is_held_out(key) for key in keys]
    if all(out) or not any(out):
        smallest = min(keys, key=lambda key: zlib.crc32(key.encode()))
        out = [key == smallest for key in keys]
    if all(out):
        raise BadInput(f"{name} has a single prompt, and one has to be held out, to be scored on; add another.")
    return out
