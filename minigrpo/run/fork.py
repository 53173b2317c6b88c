"""What would have happened if ...: a run that goes on from a checkpoint of another one, with settings changed.

A step draws from (seed, step) alone and a checkpoint resumes exactly, so whatever differs between the two differs because of
the settings. A fork's folder holds the lines up to that step too, and stands alone.
"""

import math
import os
import shlex
import shutil
import zipfile
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.run import folders

NAME = "fork.json"
FIXED = (
    *("model", "engine", "task", "triples"),
    *("dataset_name", "dataset_config", "dataset_split", "prompt_column", "chat", "system_prompt"),
)
OF_A_TASK = ("task", "dataset_name", "reward_funcs", "reward_model")  # runs that differ in these have no mean
CHANGES_NO_CURVE = (  # but for the seed: what a band is there to show
    *("seed", "output_dir", "max_steps", "save_steps", "save_total_limit", "eval_steps", "report_to", "device"),
    *("per_device_train_batch_size", "gradient_checkpointing"),
)


class Fork(NamedTuple):
    """Where a fork begins."""

    run: Path  # the folder of the run that it comes from
    step: int
    changed: dict[str, list]  # field -> [the run's value, the fork's]

    @property
    def checkpoint(self) -> Path:
        return self.run / f"checkpoint-{self.step}"

    @property
    def folder(self) -> Path:
        """Beside the run, where no other is named."""
        run = self.run if self.run.name.strip(".") else self.run.resolve()
        return run.with_name(f"{run.name}-at-{self.step}")

    def __str__(self) -> str:
        changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in self.changed.items())
        return f"Forked from {self.run} after step {self.step}: {changes or 'nothing changed'}."


def plan(run: Path, at: int, saved: dict, config: GRPOConfig) -> Fork:
    """The fork of ``run`` at its latest checkpoint that is not beyond step ``at``.

    Args:
        saved: the configuration of the run. config: that of the fork.
    Raises:
        BadInput: if it changes what a fork has to share with its run, there is no such checkpoint, or nothing is left to do.
    """
    now = config.to_dict()
    changed = {name: [saved[name], now[name]] for name in saved if saved[name] != now[name] and name != "output_dir"}
    fixed = ", ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items() if name in FIXED)
    if fixed:
        shared = "model, tokenizer, task, data and engine"
        raise BadInput(f"A fork goes on with the {shared} of its run, but {fixed}; start a new run for that.")
    if config.engine == "trl":
        raise BadInput(
            f"{str(run)!r} was trained by the engine trl, whose checkpoints do not resume exactly and keep their own learning "
            "rate, so it cannot be forked; a run of the engine minigrpo can."
        )
    step = _nearest_checkpoint(run, at)
    if config.max_steps <= step:
        raise BadInput(
            f"The fork would begin after step {step}, and max_steps is {config.max_steps}; give a higher --max-steps."
        )
    return Fork(run, step, changed)


def _nearest_checkpoint(run: Path, at: int) -> int:
    steps = [int(path.name.split("-")[1]) for path in folders.checkpoints(run) if zipfile.is_zipfile(path / "state.pt")]
    before = [step for step in steps if step <= at]
    if before:
        return max(before)
    left = f"it has those of steps {', '.join(map(str, sorted(steps)))}" if steps else "it has none at all"
    raise BadInput(
        f"{str(run)!r} has no checkpoint at or before step {at}: {left}. Its save_steps said how often one was kept."
    )


def begin(fork: Fork, folder: Path) -> None:
    """Make the new folder one that ``--resume`` could go on with: the lines up to the step, and the checkpoint."""
    for name in folders.LINES:
        if (fork.run / name).exists():
            shutil.copy(fork.run / name, folder / name)
            folders.forget_after(folder / name, fork.step)
    shutil.copytree(fork.checkpoint, folder / fork.checkpoint.name, copy_function=_link)
    folders.write_json(folder / NAME, {"run": _relative(fork.run, folder), "step": fork.step, "changed": fork.changed})


def _link(source: str, target: str) -> None:
    """No second copy of gigabytes where the disk can do without: a checkpoint is replaced, and never written into."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _relative(run: Path, folder: Path) -> str:
    """So that runs that are moved together still find each other."""
    try:
        return Path(os.path.relpath(run.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive, on Windows
        return str(run.resolve())


# --- forks that are looked at together --------------------------------------------------------------------------------


def origin(folder: Path) -> Fork | None:
    """Where the run in ``folder`` was forked, with the path of the run it comes from; None for a run of its own."""
    try:
        saved = folders.read_json(folder / NAME)
        return Fork((folder / saved["run"]).resolve(), int(saved["step"]), dict(saved["changed"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{str(folder / NAME)!r} does not say where the run was forked: {error}.") from error


def beside_its_run(folder: Path, after: dict[str, float]) -> str:
    """What the run that a fork comes from reached, and the command that draws both; nothing for a run of its own.

    Args:
        after: what ``evaluate`` said of the fork at its end.
    """
    if (fork := origin(folder)) is None:
        return ""
    run = _relative(fork.run, Path.cwd())
    try:
        parent = folders.read_json(fork.run / "summary.json")
        name = next(name for name in ("accuracy", "reward") if name in after and name in parent["after"])
        reached = (
            f"ended with {name} {parent['after'][name]:.3f} after {parent['steps']} steps, this fork with {after[name]:.3f}"
        )
    except (OSError, ValueError, LookupError, TypeError, StopIteration):  # moved, stopped, or of records that nobody scores
        reached = "says no score to compare with"
    return f"The run that it comes from, {run}, {reached}. Both: {shlex.join(['minigrpo', 'plot', run, str(folder)])}"


def parting(runs: list[Path]) -> int | None:
    """The last step that any two of these runs share, one being a fork of the other, or both of a third; None where two have
    nothing to do with each other, or there is one run alone."""
    lines = [_lineage(run if run.is_dir() else run.parent) for run in runs]  # or a file of metrics in a run's folder
    shared = [max((min(a[run], b[run]) for run in a.keys() & b.keys()), default=None) for a, b in combinations(lines, 2)]
    if not shared or None in shared or math.inf in shared:
        return None
    return min(shared)


def _lineage(folder: Path) -> dict[Path, float]:
    """The run itself and those that it comes from -> the last step that it shares with each."""
    folder, step = folder.resolve(), math.inf
    found = {folder: step}
    while (fork := origin(folder)) and fork.run not in found:
        folder, step = fork.run, min(step, fork.step)
        found[folder] = step
    return found


# --- runs that are drawn as their mean ---------------------------------------------------------------------------------


def what_a_mean_hides(runs: dict[str, list[dict]]) -> list[str]:
    """What a person should know of the mean of these runs, name -> rows: that they differ in more than the seed, and where
    the shortest ends. A file of metrics alone does not say what it learnt by.

    Raises:
        BadInput: for folders of runs that learnt different things.
    """
    places = {run: Path(run) if Path(run).is_dir() else Path(run).parent for run in runs}
    saved = [run for run, place in places.items() if len(runs) > 1 and (place / "config.json").is_file()]
    known = {run: folders.saved_config(places[run]) for run in saved}
    for name in OF_A_TASK:
        if listed := _differing(name, known):
            raise BadInput(f"The runs differ in {name} ({listed}), so their mean means nothing; plot them one by one.")
    fields = dict.fromkeys(name for config in known.values() for name in config)
    differ = [f"{name} ({listed})" for name in fields if name not in CHANGES_NO_CURVE and (listed := _differing(name, known))]
    last = {run: rows[-1]["step"] for run, rows in runs.items()}
    shortest, longest = min(last, key=last.get), max(last, key=last.get)
    found = [f"The band shows more than chance, as these runs differ in {', '.join(differ)}."] if differ else []
    if last[shortest] < last[longest]:
        end = f"The curves end at step {last[shortest]}, where {shortest} ends"
        found.append(f"{end}; {longest} goes on to step {last[longest]}, and is drawn whole by itself.")
    return found


def _differing(name: str, known: dict[str, dict]) -> str:
    """Two of the values that a field has, and where; nothing if it has one."""
    values = {repr(config[name]): run for run, config in known.items()}
    return ", ".join(f"{value} in {run!r}" for value, run in list(values.items())[:2]) if len(values) > 1 else ""
