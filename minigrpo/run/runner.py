"""One run from its first line to its last: score the policy, train it, keep the files of its folder, score it again."""

import os
import shlex
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from transformers import TrainerState

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.evaluation import evaluate, example_completions
from minigrpo.policy import context_length, load_policy, save_policy
from minigrpo.recompute import layers_to_run_again
from minigrpo.run import folders, inputs, overwriting, token_log, tracking
from minigrpo.run.checkpoints import load_checkpoint, save_checkpoint, whole_or_nothing
from minigrpo.run.fork import Fork, begin
from minigrpo.run.step_log import StepLog
from minigrpo.run.summary import finish
from minigrpo.tasks import Task
from minigrpo.training import step_prompts, train
from minigrpo.update import Batch, TrainState

SAMPLES = 4  # per held-out problem


def run(config: GRPOConfig, *, resume: bool = False, overwrite: bool = False, fork: Fork | None = None) -> int:
    """The commands ``minigrpo train`` and ``minigrpo fork``. Returns 0, or 130 where Ctrl-C stopped it.

    Raises:
        BadInput, OSError: for what cannot be used or written; where it can be known, before anything is written.
    """
    _check_launch(config)
    tracking.check(config)
    first = config.engine != "trl" or _trl().join(config)
    rows = inputs.own_rows(config)
    model, tokenizer = _policy(config)
    if config.gradient_checkpointing:
        layers_to_run_again(model)  # raises if there are none
    task, asked = inputs.load_problems(config, rows, tokenizer, context_length(model)), config
    reward_fns, config = inputs.reward_functions(inputs.fit_to(config, task), task)
    if config.triples is None:
        step_prompts(task.train, 0, config)  # raises if there are too few
    if not first:  # of several processes; the first alone has a folder and writes
        _trl().train(config, model, tokenizer, task.train, reward_fns)
        return 0
    made_from = inputs.checksums(config, model.name_or_path)
    if fork:
        inputs.check_forkable(fork.run, made_from)
    if resume:
        folder = _go_on_in(Path(config.output_dir), config, made_from)
    else:
        folder = folders.new_run(config, overwrite=overwrite, default=fork and fork.folder)
    keep = partial(_worth_keeping, folder, resume, fork)
    try:
        with folders.locked(folder):
            if fork:
                print(fork)
                begin(fork, folder)
            folders.write_json(folder / inputs.NAME, made_from)
            _check_space(folder, model, config)
            notes = inputs.notes(config, asked, task, tokenizer)
            return _run_in(folder, model, tokenizer, task, reward_fns, config, resume or fork is not None, notes)
    except KeyboardInterrupt:
        kept = f"Stopped. Go on with: {_to_go_on(folder)}"
        print(f"\n{kept}" if keep() else "\nStopped before the first step; nothing was kept.")
        return 130
    finally:
        if not keep():
            overwriting.undo(folder)


def _policy(config: GRPOConfig):
    # TRL's processes each have a device of their own, which accelerate gives them.
    return load_policy(config.model, "cpu" if config.engine == "trl" else config.device)


def _go_on_in(folder: Path, config: GRPOConfig, made_from: dict[str, str]) -> Path:
    """The folder of the run that is resumed. Raises BadInput if it is finished, made from something else, or still going on."""
    folders.check_unfinished(folder, config.max_steps)
    inputs.check_unchanged(folder, made_from)
    with folders.locked(folder):
        folders.write_json(folder / "config.json", config.to_dict())
    return folder


def _worth_keeping(folder: Path, resume: bool, fork: Fork | None) -> bool:
    """Whether there is a step of its own."""
    return resume or any(row["step"] > (fork.step if fork else 0) for row in folders.rows_so_far(folder))


def _to_go_on(folder: Path) -> str:
    return shlex.join(["minigrpo", "train", "--resume", "--output-dir", str(folder)])


def _check_launch(config: GRPOConfig) -> None:
    """Raises BadInput for what a launcher said, or seems to have said, that this run cannot use."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not os.environ.get(name, "1").isdecimal():
            raise BadInput(f"{name} is {os.environ[name]!r} in the environment, where a launcher writes a number; unset it.")
    if config.engine != "trl" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise BadInput(
            "Several processes were launched, each of which would do the same run; --engine trl shares one among them."
        )


def _trl():
    from minigrpo.run import trl_engine  # TRL is an extra, and takes seconds to import

    return trl_engine


def _run_in(
    folder: Path, model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, resume: bool, notes: list[str]
) -> int:
    what = inputs.description(config, task)
    kind = "prompts of their own" if config.task == "records" else f"held-out problem{'s' * (len(task.held_out) > 1)}"
    by = f" by TRL, processes: {_trl().num_processes(config)}" if config.engine == "trl" else ""
    print(f"{config.model} on {what}{by}, scored on {len(task.held_out)} {kind}. Writing to {folder}", flush=True)
    for note in notes:
        print(note, flush=True)
    settings = {"temperature": config.temperature, "max_completion_length": config.max_completion_length}
    by_reward = reward_fns if config.dataset_name else []  # of the other tasks it is known what is right
    before = _scored(model, tokenizer, task, by_reward, config, step=0)
    first = example_completions(model, tokenizer, task, **settings)
    engine = _train_with_trl if config.engine == "trl" else _train
    log = engine(folder, model, tokenizer, task, reward_fns, config, resume)
    if log.step < config.max_steps:
        print(f"Stopped after step {log.step}. Go on with: {_to_go_on(folder)}")
        return 130
    if config.engine == "trl":
        model, tokenizer = load_policy(str(folder))  # it may have been trained in shards; the first process's copy is of no use
    after = _scored(model, tokenizer, task, by_reward, config, step=config.max_steps)
    last = example_completions(model, tokenizer, task, **settings)
    examples = [
        {"prompt": prompt, "before": old, "after": new}
        for prompt, old, new in zip(task.held_out["prompt"][: len(first)], first, last, strict=True)
    ]
    summary = {"before": before, "after": after, "seconds": log.seconds, "steps": log.step, "examples": examples}
    finish(folder, task, summary, samples=SAMPLES * len(task.held_out))
    return 0


def _scored(model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, step: int) -> dict[str, float]:
    """What ``evaluate`` says of the held-out problems, by the run's own reward functions too where they are given."""
    return evaluate(
        model,
        tokenizer,
        task,
        reward_fns=reward_fns,
        reward_weights=config.reward_weights,
        num_generations=SAMPLES,
        temperature=config.temperature,
        max_completion_length=config.max_completion_length,
        trainer_state=TrainerState(global_step=step, max_steps=config.max_steps),
    )


def _check_space(folder: Path, model, config: GRPOConfig) -> None:
    """A checkpoint is the weights and AdamW's two moments; better no run than one that dies at its first checkpoint."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    in_all = 1 + config.max_steps // config.save_steps
    at_a_time = min(in_all, 1 + (config.save_total_limit or in_all))  # the oldest goes when the new one is whole
    to_come = at_a_time - len(folders.checkpoints(folder))
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
    for name in folders.LINES:
        folders.forget_after(folder / name, step)
    print(f"Going on after step {step}.")


def _train(folder: Path, model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, resume: bool) -> StepLog:
    """Train to the end, or until Ctrl-C; a checkpoint is there either way, and at the end the model."""
    state = TrainState.start(model, tokenizer, config)
    if resume:
        _load_latest(folder, state)
    stopping = []

    def stop(signum, frame):
        stopping.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the step to end

    previous = signal.signal(signal.SIGINT, stop)
    log = StepLog(folder, task, config, state.step)
    try:
        for metrics in train(state, task.train, reward_fns, config):
            if config.eval_steps and state.step % config.eval_steps == 0:
                held_out = _scored(model, tokenizer, task, reward_fns, config, state.step)
                metrics |= {f"eval_{name}": held_out[name] for name in ("reward", "accuracy") if name in held_out}
            log(metrics, _samples(state.batch))
            if token_log.due(state.step, config.num_iterations):
                folders.append_line(folder / "tokens.jsonl", token_log.token_line(state, config), separators=(",", ":"))
            if stopping or state.step % config.save_steps == 0 or state.step == config.max_steps:
                save_checkpoint(state, folder)
                folders.keep_latest(folder, config.save_total_limit)
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
    return {"prompts": batch.rollout.prompts, "completions": batch.rollout.completions, **lists, **batch.extra}


def _train_with_trl(folder: Path, model, tokenizer, task: Task, reward_fns: list, config: GRPOConfig, resume: bool) -> StepLog:
    """The same by TRL, in as many processes as the launcher started; this is the first of them."""
    checkpoint, step = _trl().latest_checkpoint(folder, config) if resume else (None, 0)
    if resume:
        _go_on_after(step, folder)
    log = StepLog(folder, task, config, step)
    try:
        _trl().train(config, model, tokenizer, task.train, reward_fns, folder=folder, checkpoint=checkpoint, log=log)
    finally:
        log.close()
    return log
