"""The folder of a run: config.json, metrics.jsonl, samples.jsonl, checkpoints, and at the end summary.json and the model."""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from filelock import FileLock, Timeout

from minigrpo.config import FLOAT32_MAX, BadInput, GRPOConfig
from minigrpo.run import overwriting

OF_A_RUN = re.compile(
    r"(config|summary|inputs|fork)\.json|(metrics|samples|tokens)\.jsonl|curves\.png|report\.html|model|checkpoint-\d+|.*\.tmp|\.lock",
    re.ASCII,
)
LINES = ("metrics.jsonl", "samples.jsonl", "tokens.jsonl")  # a line per step: cut back to the step that a run goes on from
MAY_CHANGE_ON_RESUME = ("max_steps", "save_steps", "save_total_limit", "report_to", "output_dir")


def new_run(config: GRPOConfig, *, overwrite: bool = False, default: Path | None = None) -> Path:
    """Make the folder of a new run, write ``config.json`` into it, and return it.

    Without ``config.output_dir`` it is ``default``, or else runs/TASK-SEED (runs/triples-SEED, runs/DATASET-SEED), then
    runs/TASK-SEED-2 ... A run that is to be overwritten is set aside first, until ``overwriting.forget``.

    Raises:
        BadInput: if the folder was named, is not empty, and may not be overwritten.
        OSError: if it cannot be written.
    """
    kind = "triples" if config.triples else config.task
    if config.dataset_name:  # a name for a folder is what is left of prompts.jsonl, org/name and reasoning_gym:chain_sum
        kind = re.split(r"[/\\:]", config.dataset_name.removesuffix(Path(config.dataset_name).suffix))[-1] or kind
    default = default or Path("runs") / f"{kind}-{config.seed}"
    folder = Path(config.output_dir) if config.output_dir else free_folder(default)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"output_dir {str(folder)!r} is a file; a folder is wanted.")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise BadInput(
                f"The folder {str(folder)!r} is not empty; go on with the run in it by --resume, "
                "write over it by --overwrite, or name another."
            )
        overwriting.restore(folder)  # a run before this one was killed before its first step
        saved_config(folder)  # raises if it is not a run's
        foreign = sorted(path.name for path in folder.iterdir() if not OF_A_RUN.fullmatch(path.name))
        if foreign:
            raise BadInput(f"{str(folder)!r} holds {foreign[0]!r}, no part of a run, which --overwrite would delete.")
        with locked(folder):  # raises while that run is still going on
            overwriting.set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.to_dict())
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run in ``folder`` for this process; the operating system lets go when the process ends, however it ends.

    Raises:
        BadInput: if another process holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"The run in {str(folder)!r} is going on in another process; wait for it, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def new_folder(output_dir: str | None, name: str) -> Path:
    """``output_dir``, made, or runs/NAME (-2 ...). Raises BadInput if ``output_dir`` is a file or not empty."""
    if output_dir is None:
        return free_folder(Path("runs") / name)
    folder = Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"output_dir {output_dir!r} is there and not an empty folder; name a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def free_folder(wanted: Path) -> Path:
    """``wanted``, or the first of wanted-2, wanted-3 ... that is not there; made at once, so that two runs never share one."""
    folder, count = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            count += 1
            folder = wanted.with_name(f"{wanted.name}-{count}")


def saved_config(folder: str | Path) -> dict:
    """The configuration that the run in ``folder`` was started with.

    Raises:
        BadInput: if there is none, or it cannot be read.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise BadInput(f"{str(folder)!r} holds no run (no config.json): check the path; minigrpo train makes such a folder.")
    try:
        saved = read_json(path)
        if not isinstance(saved, dict):
            raise ValueError(f"wanted is an object, got {saved!r:.60}.")
        return GRPOConfig(**saved).to_dict()
    except (TypeError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is not the configuration of a run: {error}") from error


def check_resumable(saved: dict, config: GRPOConfig) -> None:
    """Raises BadInput, by name, for every field that differs and would make the run another run."""
    now = config.to_dict()
    falls = config.lr_scheduler_type in ("linear", "cosine")  # to 0 at max_steps, which decides every learning rate before
    may_change = set(MAY_CHANGE_ON_RESUME) - ({"max_steps"} if falls else set())
    changed = [name for name in saved if saved[name] != now[name] and name not in may_change]
    if changed:
        listed = ", ".join(f"{name} was {saved[name]!r}, now {now[name]!r}" for name in changed)
        raise BadInput(f"A resumed run keeps its configuration, but {listed}; start a new run for that.")


def checkpoints(folder: str | Path) -> list[Path]:
    """Finished checkpoints, latest first. One that was being written has another name."""
    found = [p for p in Path(folder).iterdir() if p.is_dir() and re.fullmatch(r"checkpoint-\d+", p.name, re.ASCII)]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]), reverse=True)


def keep_latest(folder: Path, count: int | None) -> None:
    """Delete all checkpoints but the latest; None keeps them all. One that is being deleted has another name."""
    for checkpoint in checkpoints(folder)[count:] if count else ():
        going = checkpoint.with_name(checkpoint.name + ".tmp")
        shutil.rmtree(going, ignore_errors=True)
        shutil.rmtree(checkpoint.rename(going))


def write_json(path: Path, value: dict) -> None:
    """See write_text."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Written beside and renamed, so that the file is never half there; of a link what it leads to. What UTF-8 lacks, such as a
    name whose bytes are none, is written as an escape, which is JSON's own."""
    path = path.resolve()
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(beside, path)


def check_output(path: Path) -> None:
    """Raises BadInput, before there is anything to write, unless a file can be written there."""
    if path.is_dir():
        raise BadInput(f"--output {str(path)!r} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise BadInput(f"--output {str(path)!r} is no plain file.")
    if not path.parent.is_dir():
        raise BadInput(f"--output {str(path)!r} is in a folder that is not there; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"--output {str(path)!r} is in a folder that cannot be written.")


def read_json(path: Path) -> dict:
    """Raises ValueError for a file that is not JSON, or nested so deeply that nobody can read it."""
    return _from_json(path.read_text(encoding="utf-8"))


def _from_json(text: str | bytes):
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def check_unfinished(folder: Path, max_steps: int) -> None:
    """Raises BadInput if the run got to the end of that many steps, summary and all, or beyond it."""
    try:
        finished = read_json(folder / "summary.json")["steps"] if (folder / "summary.json").exists() else 0
    except (ValueError, KeyError, TypeError):
        finished = 0  # it is written last, so a damaged one is no summary
    if type(finished) is int and finished >= max_steps:
        raise BadInput(
            f"The run in {str(folder)!r} is finished after {finished} steps; a --max_steps above {finished} goes on with it."
        )
    latest = max((int(path.name.split("-")[1]) for path in checkpoints(folder)), default=0)
    if latest > max_steps:
        raise BadInput(f"The run in {str(folder)!r} has come to step {latest} already; max_steps must be at least that.")


def seconds_so_far(folder: Path) -> float:
    """The seconds of sampling and updates that a run's lines tell of; 0 before its first."""
    return sum(row.get(f"{part}/seconds", 0.0) for row in rows_so_far(folder) for part in ("sampling", "update"))


def rows_so_far(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.exists() and path.stat().st_size else []


def append_line(path: Path, value: dict, *, separators: tuple[str, str] = (", ", ": ")) -> None:
    """One line of JSON, flushed. NaN becomes null: JSON has no NaN."""

    def clean(x):
        if isinstance(x, list):
            return [clean(item) for item in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    cleaned = {key: clean(x) for key, x in value.items()}
    line = json.dumps(cleaned, ensure_ascii=False, allow_nan=False, separators=separators)
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(line + "\n")


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that was cut off, so that a resumed run has every step once."""
    if not path.exists():
        return
    kept = b""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # what follows the last break was cut off
        if _row(line, path, number)["step"] > step:
            break
        kept += line + b"\n"
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(kept)
    os.replace(beside, path)


def read_metrics(run: str | Path) -> list[dict]:
    """The lines of a run's ``metrics.jsonl``, from its folder or from the file itself. A last line that is cut off is left out:
    a run that is going on may be writing it.

    Raises:
        BadInput: if there is none, or a line cannot be read, has words for numbers, or does not come after the one before.
    """
    path = Path(run) / "metrics.jsonl" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise BadInput(f"{str(run)!r} holds no metrics.jsonl; name the folder of a run.")
    rows = read_lines(path)
    if not rows:
        raise BadInput(f"{str(path)!r} is empty: the run has not finished a step.")
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if not (isinstance(value, list) or _is_number(value)):
                raise BadInput(f"{str(path)!r}, line {number}, has {value!r:.60} as its {name}; wanted is a number.")
    for number, (former, row) in enumerate(pairwise(rows), 2):
        if row["step"] <= former["step"]:
            raise BadInput(
                f"{str(path)!r}, line {number}, has step {row['step']} after step {former['step']}; steps must rise."
            )
    return rows


def _is_number(value) -> bool:
    """Null, or what a run can have written: NaN and inf too, which ended an old one."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return True
    return isinstance(value, int | float) and abs(value) <= FLOAT32_MAX


def read_lines(path: Path) -> list[dict]:
    """The lines of one of a run's files; a last one that is cut off is left out: a run that is going on may be writing it.

    Raises:
        BadInput: if a line is not an object with a step.
    """
    *lines, last = path.read_bytes().split(b"\n")
    if last.rstrip().endswith(b"}"):
        lines.append(last)
    return [_row(line, path, number) for number, line in enumerate(lines, 1)]


def _row(line: bytes, path: Path, number: int) -> dict:
    """One line of metrics or samples. Raises BadInput if it is not an object with a step."""
    try:
        row = _from_json(line)
    except ValueError as error:
        raise BadInput(f"{str(path)!r}, line {number}, is not JSON: {error}.") from error
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise BadInput(f"{str(path)!r}, line {number}, is {row!r:.60}; wanted is an object with a step.")
    return row
