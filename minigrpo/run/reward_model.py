"""What ``minigrpo reward-model train`` does: look for what could fail, train, measure on other prompts, write."""

import shlex
import shutil
from argparse import Namespace
from pathlib import Path

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from minigrpo import reward_model
from minigrpo.config import BadInput
from minigrpo.policy import save_policy
from minigrpo.run import folders
from minigrpo.run.checkpoints import whole_or_nothing
from minigrpo.triples import load_triples


def run(args: Namespace) -> list[str]:
    """Train by the command's flags; returns the sentences that say how it went.

    Raises:
        BadInput, FloatingPointError, OSError: and then nothing is left behind.
    """
    records = load_triples(args.triples)
    if args.objective == "bradley_terry":
        records = reward_model.paired_records(records)
    train, held_out = reward_model.split_by_prompt(records)
    model, tokenizer = reward_model.start_reward_model(args.model)
    reward_model.encode_records(model, tokenizer, records.to_list())  # raises for a record that is too long
    paired = bool(reward_model.preference_pairs(held_out))
    measure = reward_model.pair_accuracy if paired else reward_model.squared_error
    before = measure(model, tokenizer, held_out)
    settings = {"objective": args.objective, "steps": args.max_steps, "learning_rate": args.learning_rate, "seed": args.seed}
    folder = folders.new_folder(args.output_dir, "reward-model")
    try:
        _check_space(folder, model)
        for row in (bar := tqdm(reward_model.train_reward_model(model, tokenizer, train, **settings), total=args.max_steps)):
            bar.set_postfix(loss=f"{row['loss']:.3f}")
        after = measure(model, tokenizer, held_out)
        summary = {"triples": args.triples, **settings, f"held_out_{measure.__name__}": {"before": before, "after": after}}
        with whole_or_nothing(folder):
            save_policy(model, tokenizer, folder)
            folders.write_json(folder / "summary.json", summary)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it was new or empty
        raise
    blind, what = _blind_guess(train, held_out, paired)
    said = f"{len(train)} records; {what}: {before:.3f} before, {after:.3f} after."
    if after > blind if paired else after < blind:
        return [said, f"Use it: {shlex.join(['minigrpo', 'train', '--task', 'sums', '--reward-model', str(folder)])}"]
    cure = "more records, more steps or a lower learning_rate may help"
    return [
        said,
        f"On prompts that it did not see it does no better than a blind guess ({blind:.3f}); {cure}. It is in {folder}.",
    ]


def _blind_guess(train: Dataset, held_out: Dataset, paired: bool) -> tuple[float, str]:
    """What a coin, or the mean of the other rewards, reaches on what was held out; and what that is a measure of."""
    if paired:
        return 0.5, "pairs of held-out prompts in the right order"
    error = (torch.tensor(held_out["reward"]) - torch.tensor(train["reward"]).mean()).square().mean().item()
    return error, "mean squared error on held-out records"


def _check_space(folder: Path, model: PreTrainedModel) -> None:
    """Raises BadInput if the disk does not take the weights: better now than after the training."""
    needed = sum(p.numel() * p.element_size() for p in model.parameters()) + 10_000_000  # the tokenizer and the rest
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(f"{str(folder)!r} has {free / 1e6:.0f} MB free, and the reward model needs {needed / 1e6:.0f} MB.")
