"""One run from its first line to its last: score the policy, train it, keep the files of its folder, score it again."""

import importlib
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.evaluation import evaluate, example_completions
from minigrpo.policy import context_length, load_policy, save_policy
from minigrpo.reward_model import load_reward_model
from minigrpo.rewards import RewardFunction, check_weights
from minigrpo.run import folders
from minigrpo.run.checkpoints import load_checkpoint, save_checkpoint, whole_or_nothing
from minigrpo.sampling import encode_prompts
from minigrpo.tasks import Task, load_task
from minigrpo.training import step_prompts, train
from minigrpo.triples import load_triples, logged_rollout, prepare
from minigrpo.update import Batch, TrainState

SAMPLES_EVERY = 10  # steps
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
    if config.engine != "trl" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise BadInput(
            "Several processes were launched, each of which would do the same run; --engine trl shares one among them."
        )
    first = config.engine != "trl" or _trl().join(config)
    # TRL's processes each have a device of their own, which accelerate gives them.
    model, tokenizer = load_policy(config.model, "cpu" if config.engine == "trl" else config.device)
    task = _task(config, tokenizer, context_length(model))
    reward_fns = [_reward_function(path) for path in config.reward_funcs or []] or [task.reward]
    if config.reward_model:
        reward_fns = [load_reward_model(config.reward_model), *reward_fns]
        config = replace(config, reward_weights=config.reward_weights or [1.0] + [0.0] * (len(reward_fns) - 1))
    check_weights(config.reward_weights, len(reward_fns))
    if config.triples is None:
        step_prompts(task.train, 0, config)  # raises if there are too few
    if not first:  # of several processes; the first alone has a folder and writes
        _trl().train(config, model, tokenizer, task.train, reward_fns)
        return 0
    if resume:
        folder = Path(config.output_dir)
        if folders.is_finished(folder, config.max_steps):
            raise BadInput(f"The run in {str(folder)!r} is finished; a --max_steps above {config.max_steps} goes on with it.")
        with folders.locked(folder):  # raises while that run is still going on
            folders.write_json(folder / "config.json", config.to_dict())
    else:
        folder = folders.new_run(config, overwrite=overwrite)
    try:
        with folders.locked(folder):
            _check_space(folder, model, config)
            return _run_in(folder, model, tokenizer, task, reward_fns, config, resume)
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with: minigrpo train --resume --output-dir {folder}")
        return 130
    finally:
        if not (folder / "metrics.jsonl").exists():
            folders.restore_overwritten(folder)


def _trl():
    from minigrpo.run import trl_engine  # TRL is an extra, and takes seconds to import

    return trl_engine


def _run_in(folder: Path, model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, resume: bool) -> int:
    what = f"{len(task.train)} records" if config.triples else task.name
    what += ", all of them in each batch" if len(task.train) < config.generation_batch_size and config.triples else ""
    kind = "held-out problems" if task.reward else "prompts of their own"
    by = f" by TRL, processes: {_trl().num_processes(config)}" if config.engine == "trl" else ""
    print(f"{config.model} on {what}{by}, scored on {len(task.held_out)} {kind}. Writing to {folder}", flush=True)
    settings = {"temperature": config.temperature, "max_completion_length": config.max_completion_length}
    before = evaluate(model, tokenizer, task, **settings)
    first = example_completions(model, tokenizer, task, **settings)
    engine = _train_with_trl if config.engine == "trl" else _train
    log = engine(folder, model, tokenizer, task, reward_fns, config, resume)
    if log.step < config.max_steps:
        print(f"Stopped after step {log.step}. Go on with: minigrpo train --resume --output-dir {folder}")
        return 130
    if config.engine == "trl":
        model, tokenizer = load_policy(str(folder))  # it may have been trained in shards; the first process's copy is of no use
    after = evaluate(model, tokenizer, task, **settings)
    last = example_completions(model, tokenizer, task, **settings)
    examples = [
        {"prompt": prompt, "before": old, "after": new}
        for prompt, old, new in zip(task.held_out["prompt"][: len(first)], first, last, strict=True)
    ]
    _finish(folder, task, {"before": before, "after": after, "seconds": log.seconds, "steps": log.step, "examples": examples})
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
    to_come = 1 + config.max_steps // config.save_steps - len(folders.checkpoints(folder))
    needed = weights * (1 + 3 * max(1, to_come))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(
            f"{str(folder)!r} has {free / 1e6:.0f} MB free, and the checkpoints of this run need {needed / 1e6:.0f} MB; "
            "a larger save_steps makes fewer of them."
        )


def _load_latest(folder: Path, state: TrainState) -> None:
    """The latest checkpoint that can be read; step 0 if the run was stopped before its first."""
    found = folders.checkpoints(folder)
    for checkpoint in found:
        try:
            load_checkpoint(checkpoint, state)
            break
        except BadInput as error:
            print(f"minigrpo: {error} It is skipped.", file=sys.stderr)
    else:
        if found:
            raise BadInput(f"No checkpoint in {str(folder)!r} can be read; delete them to start again from step 0.")
    _go_on_after(state.step, folder)


def _go_on_after(step: int, folder: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        folders.forget_after(folder / name, step)
    print(f"Going on after step {step}.")


class _Log:
    """What each step leaves behind, whichever engine trains: a line of metrics, now and then samples, a move of the bar."""

    def __init__(self, folder: Path, task: Task, config: GRPOConfig, step: int):
        self.folder, self.task, self.step, self.silent = folder, task, step, 0
        self.before, self.start = folders.seconds_so_far(folder), time.perf_counter()
        self.bar = tqdm(total=config.max_steps, initial=step, unit="step")

    def __call__(self, metrics: dict, samples: dict[str, list]) -> None:
        """samples: prompts, completions, rewards, advantages of the rollout, B each."""
        self.step = metrics["step"]
        if self.task.thinks is not None:
            metrics["thinking"] = sum(map(self.task.thinks, samples["completions"])) / len(samples["completions"])
        folders.append_line(self.folder / "metrics.jsonl", metrics)
        folders.forget_overwritten(self.folder)
        if self.step == 1 or self.step % SAMPLES_EVERY == 0:
            folders.append_line(self.folder / "samples.jsonl", {"step": self.step, **samples})
        shown = {"reward": "reward", "logprob": "weighted_logprob", "kl": "kl", "length": "completions/mean_length"}
        self.bar.set_postfix({label: f"{metrics[name]:.2f}" for label, name in shown.items() if name in metrics})
        self.bar.update()
        self.silent = 0 if any(samples["advantages"]) else self.silent + 1
        if self.silent == SILENT_STEPS:
            self.bar.write(NOTHING_TO_LEARN)

    def close(self) -> None:
        """The end of training; ``seconds`` is its time, with what a resumed run had before."""
        self.bar.close()
        self.seconds = self.before + time.perf_counter() - self.start


def _train(folder: Path, model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, resume: bool) -> _Log:
    """Train to the end, or until Ctrl-C; a checkpoint is there either way, and at the end the model."""
    state = TrainState.start(model, tokenizer, config)
    if resume:
        _load_latest(folder, state)
    stopping = []

    def stop(signum, frame):
        stopping.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the step to end

    previous = signal.signal(signal.SIGINT, stop)
    log = _Log(folder, task, config, state.step)
    try:
        for metrics in train(state, task.train, reward_fns, config):
            log(metrics, _samples(state.batch))
            if stopping or state.step % config.save_steps == 0 or state.step == config.max_steps:
                save_checkpoint(state, folder)
            if stopping:
                break
    finally:
        signal.signal(signal.SIGINT, previous)
        log.close()
    if state.step >= config.max_steps:
        with whole_or_nothing(folder / "model"):
            save_policy(model, tokenizer, folder / "model")
    return log


def _samples(batch: Batch) -> dict[str, list]:
    lists = {"rewards": batch.rewards.tolist(), "advantages": batch.advantages.tolist()}
    return {"prompts": batch.rollout.prompts, "completions": batch.rollout.completions, **lists}


def _train_with_trl(folder: Path, model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, resume: bool) -> _Log:
    """The same by TRL, in as many processes as the launcher started; this is the first of them."""
    checkpoint, step = _trl().latest_checkpoint(folder, config) if resume else (None, 0)
    if resume:
        _go_on_after(step, folder)
    log = _Log(folder, task, config, step)
    try:
        _trl().train(config, model, tokenizer, task.train, reward_fns, folder=folder, checkpoint=checkpoint, log=log)
    finally:
        log.close()
    return log


def _finish(folder: Path, task: Task, summary: dict) -> None:
    """Write the curves and last the summary, and print what a person wants to see."""
    import matplotlib

    matplotlib.use("Agg")  # draws into files, also where there is no screen
    from minigrpo.view.plots import plot_runs, save_figure

    before, after, examples = summary["before"], summary["after"], summary["examples"]
    title = task.name
    if task.reward:
        title += f": accuracy {before['accuracy']:.2f} before, {after['accuracy']:.2f} after"
    save_figure(plot_runs([folders.read_metrics(folder)], title=title)[0].figure, folder / "curves.png")
    folders.write_json(folder / "summary.json", summary)

    print_table({"before": before, "after": after})
    width = max(len(example["before"]) for example in examples)
    for example in examples:
        print(f"  {example['prompt']} {example['before']:{width}}  ->  {example['after']}")
    print(f"\n{summary['steps']} steps, {summary['seconds']:.1f} s of training. Written to {folder}:")
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
