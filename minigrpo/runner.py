"""One run from its first line to its last: score the policy, train it, keep the files of its folder, score it again."""

import importlib
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from minigrpo import runs
from minigrpo.checkpoints import load_checkpoint, save_checkpoint, whole_or_nothing
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.evaluation import evaluate, example_completions
from minigrpo.policy import load_policy
from minigrpo.reward_model import load_reward_model
from minigrpo.rewards import RewardFunction, check_weights
from minigrpo.sampling import encode_prompts
from minigrpo.tasks import Task, load_task
from minigrpo.training import TrainState, step_prompts, train
from minigrpo.triples import load_triples, logged_rollout, prepare

SAMPLES_EVERY = 10  # steps
# The matrix products of so small a model are too short to be shared: a second thread saves a fifth of the time on idle cores,
# and costs many times as much on busy ones.
FEW_PARAMETERS = 10_000_000
OWN_PROMPTS = 100  # of a file of records, that are completed before and after training
SILENT_STEPS = 10
NOTHING_TO_LEARN = (
    f"For {SILENT_STEPS} steps all rewards of every group were equal: every advantage is 0 and there is nothing to learn "
    "from (frac_reward_zero_std is 1 in metrics.jsonl). Look into samples.jsonl: are the prompts all too hard or all too "
    "easy, or does the reward never tell completions apart?"
)


def run(config: GRPOConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """The command ``minigrpo train``. Returns 0, or 130 where Ctrl-C stopped it.

    Raises:
        BadInput, OSError: for what cannot be used or written; where it can be known, before anything is written.
    """
    model, tokenizer = load_policy(config.model)
    if sum(p.numel() for p in model.parameters()) < FEW_PARAMETERS:
        torch.set_num_threads(1)
    task = _task(config, tokenizer, model.config.max_position_embeddings)
    reward_fns = [_reward_function(path) for path in config.reward_funcs or []] or [task.reward]
    if config.reward_model:
        reward_fns = [load_reward_model(config.reward_model), *reward_fns]
        config = replace(config, reward_weights=config.reward_weights or [1.0] + [0.0] * (len(reward_fns) - 1))
    check_weights(config.reward_weights, len(reward_fns))
    step_prompts(task.train, 0, config)  # raises if there are too few
    if resume:
        folder = Path(config.output_dir)
        if runs.is_finished(folder, config.max_steps):
            raise BadInput(f"The run in {str(folder)!r} is finished; a --max_steps above {config.max_steps} goes on with it.")
        with runs.locked(folder):  # raises while that run is still going on
            runs.write_json(folder / "config.json", config.to_dict())
    else:
        folder = runs.new_run(config, overwrite=overwrite)
    try:
        with runs.locked(folder):
            _check_space(folder, model, config)
            return _run_in(folder, TrainState.start(model, tokenizer, config), task, reward_fns, config, resume)
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with: minigrpo train --resume --output-dir {folder}")
        return 130
    finally:
        if not (folder / "metrics.jsonl").exists():
            runs.restore_overwritten(folder)


def _run_in(folder: Path, state: TrainState, task: Task, reward_fns: list, config: GRPOConfig, resume: bool) -> int:
    what = f"{len(task.train)} records" if config.triples else task.name
    kind = "held-out problems" if task.reward else "prompts of their own"
    print(f"{config.model} on {what}, scored on {len(task.held_out)} {kind}. Writing to {folder}", flush=True)
    settings = {"temperature": config.temperature, "max_completion_length": config.max_completion_length}
    before = evaluate(state.model, state.tokenizer, task, **settings)
    first = example_completions(state.model, state.tokenizer, task, **settings)
    if resume:
        _load_latest(folder, state)
    seconds = runs.seconds_so_far(folder)
    start = time.perf_counter()
    if not _training_loop(state, task, reward_fns, config, folder):
        print(f"Stopped after step {state.step}. Go on with: minigrpo train --resume --output-dir {folder}")
        return 130
    seconds += time.perf_counter() - start
    after = evaluate(state.model, state.tokenizer, task, **settings)
    last = example_completions(state.model, state.tokenizer, task, **settings)
    examples = [
        {"prompt": prompt, "before": old, "after": new}
        for prompt, old, new in zip(task.held_out["prompt"][: len(first)], first, last, strict=True)
    ]
    summary = {"before": before, "after": after, "seconds": seconds, "steps": state.step, "examples": examples}
    _finish(folder, state, task, summary)
    return 0


def _task(config: GRPOConfig, tokenizer: PreTrainedTokenizerBase, context: int) -> Task:
    """What is trained on, problems or records, and what is scored. Raises BadInput if any of it does not fit the context."""
    task = None if config.task == "records" else load_task(config.task, config.seed)
    if config.triples is not None:
        records = prepare(load_triples(config.triples), config)
        prompts = dict.fromkeys(logged_rollout(tokenizer, records[:], context).prompts)
        own = Dataset.from_dict({"prompt": list(prompts)[:OWN_PROMPTS]})
        task = replace(task, train=records) if task else Task("records", records, own, reward=None)
    for dataset in (task.held_out,) if config.triples is not None else (task.train, task.held_out):
        encode_prompts(tokenizer, dataset["prompt"], context - config.max_completion_length)
    return task


def _reward_function(path: str) -> RewardFunction:
    module, _, name = path.rpartition(".")
    sys.path.insert(0, os.getcwd())  # a module in the current folder, as for python -m
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"No reward function {path!r} ({error}); wanted is module.function, importable from here.") from error


def _check_space(folder: Path, model, config: GRPOConfig) -> None:
    """A checkpoint is the weights and AdamW's two moments; better no run than one that dies at its first checkpoint."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    to_come = 1 + config.max_steps // config.save_steps - len(runs.checkpoints(folder))
    needed = weights * (1 + 3 * max(1, to_come))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(
            f"{str(folder)!r} has {free / 1e6:.0f} MB free, and the checkpoints of this run need {needed / 1e6:.0f} MB; "
            "a larger save_steps makes fewer of them."
        )


def _load_latest(folder: Path, state: TrainState) -> None:
    """The latest checkpoint that can be read; step 0 if the run was stopped before its first."""
    found = runs.checkpoints(folder)
    for checkpoint in found:
        try:
            load_checkpoint(checkpoint, state)
            break
        except BadInput as error:
            print(f"minigrpo: {error} It is skipped.", file=sys.stderr)
    else:
        if found:
            raise BadInput(f"No checkpoint in {str(folder)!r} can be read; delete them to start again from step 0.")
    for name in ("metrics.jsonl", "samples.jsonl"):
        runs.forget_after(folder / name, state.step)
    print(f"Going on after step {state.step}.")


def _training_loop(state: TrainState, task: Task, reward_fns: list, config: GRPOConfig, folder: Path) -> bool:
    """Train to the end and return True, or until Ctrl-C and return False; a checkpoint is there either way."""
    stopping = []

    def stop(signum, frame):
        stopping.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the step to end

    previous = signal.signal(signal.SIGINT, stop)
    silent = 0
    try:
        with tqdm(total=config.max_steps, initial=state.step, unit="step") as bar:
            for metrics in train(state, task.train, reward_fns, config):
                _log(state, task, metrics, folder)
                shown = {"reward": "reward", "logprob": "weighted_logprob", "kl": "kl", "length": "completions/mean_length"}
                bar.set_postfix({label: f"{metrics[name]:.2f}" for label, name in shown.items() if name in metrics})
                bar.update()
                silent = 0 if state.batch.advantages.any() else silent + 1
                if silent == SILENT_STEPS:
                    bar.write(NOTHING_TO_LEARN)
                if stopping or state.step % config.save_steps == 0 or state.step == config.max_steps:
                    save_checkpoint(state, folder)
                if stopping:
                    break
    finally:
        signal.signal(signal.SIGINT, previous)
    return state.step >= config.max_steps


def _log(state: TrainState, task: Task, metrics: dict, folder: Path) -> None:
    batch, completions = state.batch, state.batch.rollout.completions
    if task.thinks is not None:
        metrics["thinking"] = sum(map(task.thinks, completions)) / len(completions)
    runs.append_line(folder / "metrics.jsonl", metrics)
    runs.forget_overwritten(folder)
    if state.step == 1 or state.step % SAMPLES_EVERY == 0:
        samples = {
            "step": state.step,
            "prompts": batch.rollout.prompts,
            "completions": completions,
            "rewards": batch.rewards.tolist(),
            "advantages": batch.advantages.tolist(),
        }
        runs.append_line(folder / "samples.jsonl", samples)


def _finish(folder: Path, state: TrainState, task: Task, summary: dict) -> None:
    """Write the curves, the model and last the summary, and print what a person wants to see."""
    import matplotlib

    matplotlib.use("Agg")  # draws into files, also where there is no screen
    from minigrpo.plots import plot_runs, save_figure

    before, after, examples = summary["before"], summary["after"], summary["examples"]
    title = task.name
    if task.reward:
        title += f": accuracy {before['accuracy']:.2f} before, {after['accuracy']:.2f} after"
    save_figure(plot_runs([runs.read_metrics(folder)], title=title)[0].figure, folder / "curves.png")
    with whole_or_nothing(folder / "model"):
        state.model.save_pretrained(folder / "model")
        state.tokenizer.save_pretrained(folder / "model")
    runs.write_json(folder / "summary.json", summary)

    print_table({"before": before, "after": after})
    width = max(len(example["before"]) for example in examples)
    for example in examples:
        print(f"  {example['prompt']} {example['before']:{width}}  ->  {example['after']}")
    print(f"\n{state.step} steps, {summary['seconds']:.1f} s of training. Written to {folder}:")
    for name in ("curves.png", "metrics.jsonl", "samples.jsonl", "summary.json", "config.json", "model", "checkpoint-*"):
        print(f"  {folder / name}")
    print(f'\nTry it: minigrpo generate --model {folder} "{examples[0]["prompt"]}"')


def print_table(columns: dict[str, dict[str, float]]) -> None:
    """The numbers of ``evaluate``, a column each."""
    names = {
        "accuracy": "accuracy, sampled",
        "accuracy_greedy": "accuracy, greedy",
        "thinking": "thinks first",
        "mean_length": "mean length (tokens)",
    }
    print("\n" + " " * 22 + "".join(f"{title:>9}" for title in columns))
    for key in next(iter(columns.values())):
        print(f"{names.get(key, key):22}" + "".join(f"{numbers[key]:9.3f}" for numbers in columns.values()))
    print()
