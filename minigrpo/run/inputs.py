"""What a run learns from: its problems and its reward functions; and as checksums, so that a resumed run goes on with the same,
or says what changed."""

import hashlib
import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from minigrpo.chat import Prompt, prompt_text
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.effective import weight_warning
from minigrpo.prompts import Rows, in_conversations, own_task, prompts_of, read_prompts
from minigrpo.protocol import RewardFunction
from minigrpo.reward_model import load_reward_model
from minigrpo.rewards import check_weights
from minigrpo.run import folders
from minigrpo.run.rewards_by_name import load_reward_function, source_file, try_out
from minigrpo.sampling import longest_prompt, prompt_tokens
from minigrpo.tasks import Task, load_task
from minigrpo.triples import BUNDLED, load_triples, logged_rollout, prepare

CONFIG = "its config.json"
NAME = "inputs.json"  # not in config.json, whose fields are GRPOConfig's
OWN_PROMPTS = 100  # of a file of records, that are completed before and after training
COMPLETED = 100  # prompts of a data set at most, by the command generate
OF_A_MODEL = (".safetensors", ".json", ".txt", ".model", ".jinja")


# --- problems and rewards -----------------------------------------------------------------------------------------------


def own_rows(config: GRPOConfig | Namespace) -> Rows | None:
    """What ``dataset_name`` names, if it names anything. Raises BadInput if it cannot be read."""
    if config.dataset_name is None:
        return None
    return read_prompts(
        config.dataset_name,
        split=config.dataset_split,
        subset=config.dataset_config,
        prompt_column=config.prompt_column,
        seed=config.seed,
    )


def prompts_to_complete(args: Namespace) -> list[Prompt]:
    """Of the command ``generate``: those that were typed, or the first of a data set. Raises BadInput with the row."""
    rows = own_rows(args) or Rows("", [(f"prompt {n}", {"prompt": text}) for n, text in enumerate(args.prompts, 1)])
    return prompts_of(rows._replace(rows=rows.rows[:COMPLETED]), chat=args.chat, system_prompt=args.system_prompt)


def load_problems(config: GRPOConfig, rows: Rows | None, tokenizer: PreTrainedTokenizerBase, context: int) -> Task:
    """What is trained on, prompts or records, and what is scored. Raises BadInput if any of it does not fit the context."""
    longest = longest_prompt(context, config.max_completion_length)
    if rows is not None:
        return own_task(rows, tokenizer, longest, chat=config.chat, system_prompt=config.system_prompt)
    task = None if config.task == "records" else load_task(config.task, config.seed)
    if config.triples is not None:
        records = prepare(load_triples(config.triples), config)
        prompts = dict.fromkeys(logged_rollout(tokenizer, records[:], context).prompts)
        own = Dataset.from_dict({"prompt": list(prompts)[:OWN_PROMPTS]})
        task = replace(task, train=records) if task else Task("records", records, own, reward=None)
    elif config.chat or config.system_prompt:
        task = in_conversations(task, chat=config.chat, system_prompt=config.system_prompt)
    for dataset in (task.held_out,) if config.triples is not None else (task.train, task.held_out):
        prompt_tokens(tokenizer, dataset["prompt"], longest)
    return task


def reward_functions(config: GRPOConfig, task: Task) -> tuple[list[RewardFunction], GRPOConfig]:
    """Those that the configuration names, else the task's own; with a reward model, also the weights that make it the one that
    counts. What is named is tried out. Raises BadInput for what is not there or does not work."""
    named = [load_reward_function(name) for name in config.reward_funcs or []]
    try_out(named, task.train, config.num_generations)
    reward_fns = named or [task.reward] * (task.reward is not None)
    if config.reward_model:
        reward_fns = [load_reward_model(config.reward_model), *reward_fns]
        config = replace(config, reward_weights=config.reward_weights or [1.0] + [0.0] * (len(reward_fns) - 1))
    check_weights(config.reward_weights, len(reward_fns))
    return reward_fns, config


def fit_to(config: GRPOConfig, task: Task) -> GRPOConfig:
    """With rollouts of fewer prompts where your own are few."""
    few, part = task.train.num_rows * config.num_generations, config.per_device_train_batch_size
    if not config.dataset_name or few >= config.generation_batch_size:
        return config
    part = part if part and few % part == 0 else None
    return replace(config, generation_batch_size=few, per_device_train_batch_size=part)


def description(config: GRPOConfig, task: Task) -> str:
    """What is trained on, in a few words."""
    if config.dataset_name:
        return f"{task.train.num_rows} prompts of {task.name}"
    everything = ", all of them in each batch" if task.train.num_rows < config.generation_batch_size else ""
    return f"{task.train.num_rows} records{everything}" if config.triples else task.name


def notes(config: GRPOConfig, asked: GRPOConfig, task: Task, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a person should know of a run before it begins. ``asked``: the configuration before it was made to fit."""
    found = []
    if config.generation_batch_size < asked.generation_batch_size:
        found.append(
            f"There are {task.train.num_rows} prompts to train on: a rollout takes all of them, {config.generation_batch_size} "
            f"completions and not {asked.generation_batch_size}."
        )
    chats = [messages for messages in task.train["messages"] if messages] if config.triples is not None else []
    prompt = chats[0] if chats else task.held_out[0]["prompt"]
    if config.triples is None or chats:
        found.append(template_note(config.model, tokenizer, prompt))
    if config.triples is not None and config.triples_estimator == "weighted":
        found.append(weight_warning(torch.tensor(task.train["reward"]), config.beta))
    if config.beta and config.engine != "trl" and config.triples is None:
        found.append("The kl beside the bar is estimated from the samples (k1): right on average, at first often below 0.")
    return [note for note in found if note]


def template_note(model: str, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """What to say where a model without a chat template is given a conversation; of the opposite, sampling.py tells the log."""
    if isinstance(prompt, str) or tokenizer.chat_template:
        return ""
    lines = prompt_text(tokenizer, [{"role": "user", "content": "..."}], "a turn")
    return f"The tokenizer of {model!r} has no chat template, so each turn is written as a plain line: {lines!r}."


# --- checksums ----------------------------------------------------------------------------------------------------------


def checksums(config: GRPOConfig, loaded_from: str = "") -> dict[str, str]:
    """What it is -> SHA-256, of the files that the configuration names (records, reward functions, reward model, model), and of
    the configuration: an editor may change in config.json what a flag may not.

    Args:
        loaded_from: the policy's name_or_path: what "smollm2" stood for, a file or a name on the hub.
    """
    found = {CONFIG: _of_settings(config)}
    if config.model == "smollm2":
        found["what smollm2 stands for"] = _of_file(Path(loaded_from)) if Path(loaded_from).is_file() else loaded_from
    if config.triples is not None:
        records = BUNDLED if config.triples == "bundled" else Path(config.triples)
        found[f"the records {config.triples!r}"] = _of_file(records)
    if config.dataset_name is not None and Path(config.dataset_name).is_file():
        found[f"the prompts {config.dataset_name!r}"] = _of_file(Path(config.dataset_name))
    for name in config.reward_funcs or []:
        if path := source_file(name):
            found[f"the file of the reward function {name!r}"] = _of_file(path)
    for what, name in (("reward model", config.reward_model), ("model", config.model)):
        if name is not None and Path(name).exists():
            found[f"the {what} {name!r}"] = _of_model(Path(name)) if Path(name).is_dir() else _of_file(Path(name))
    return found


def check_unchanged(folder: Path, now: dict[str, str]) -> None:
    """Raises BadInput if the run in ``folder`` was made from something else. Older runs have no checksums, and go on."""
    if changed := changed_since(folder, now):
        raise BadInput(
            f"Since the run in {str(folder)!r} began, {' and '.join(changed)} changed, and it would go on as another run; "
            f"bring back what was there, or delete {str(folder / NAME)!r} to go on with what is there now."
        )


def changed_since(folder: Path, now: dict[str, str]) -> list[str]:
    """What the run in ``folder`` was made from and is another now. Raises BadInput if its checksums are damaged."""
    path = folder / NAME
    try:
        then = dict(folders.read_json(path)) if path.exists() else {}
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{str(path)!r}, the checksums of what the run was made from, is damaged; delete it to go on."
        ) from error
    return [what for what, checksum in then.items() if now.get(what, checksum) != checksum]


def check_forkable(folder: Path, now: dict[str, str]) -> None:
    """check_unchanged for a fork, whose configuration is another one: that of the run has to be as it was all the same."""
    check_unchanged(folder, {**now, CONFIG: _of_settings(GRPOConfig(**folders.saved_config(folder)))})


def _of_settings(config: GRPOConfig) -> str:
    """Of what differs from the defaults, so that a field that a later version brings makes no other run of it."""
    defaults = GRPOConfig().to_dict()
    fixed = {name: value for name, value in config.to_dict().items() if name not in folders.MAY_CHANGE_ON_RESUME}
    changed = json.dumps({name: value for name, value in fixed.items() if value != defaults[name]}, sort_keys=True)
    return hashlib.sha256(changed.encode()).hexdigest()


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_model(folder: Path) -> str:
    folder = folder / "model" if (folder / "model").is_dir() else folder  # of a run
    files = sorted(path for path in folder.iterdir() if path.suffix in OF_A_MODEL and path.is_file())
    return hashlib.sha256("".join(path.name + _of_file(path) for path in files).encode()).hexdigest()
