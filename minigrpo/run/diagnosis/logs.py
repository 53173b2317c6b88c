"""A file or a folder that people have, read: what a run left, a trainer's state, a console, a table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from minigrpo.config import BadInput
from minigrpo.run.diagnosis.doctor import examine
from minigrpo.run.diagnosis.findings import Diagnosis
from minigrpo.run.diagnosis.rows import TELLING, standard_name, understand
from minigrpo.run.diagnosis.text import readings
from minigrpo.run.verdict import accuracies

NAMES = ("metrics.jsonl", "trainer_state.json", "log_history.json", "metrics.json", "train.log", "log.txt")  # in a folder
SIZE = 500_000_000  # bytes: more is no log of metrics


def diagnose(run, *, config: dict | None = None) -> Diagnosis:
    """What is wrong with a run of GRPO, or that nothing is: findings, in the order in which to act on them.

    In a notebook the result shows itself as a table; ``to_frame()`` makes a pandas data frame of it.

    Args:
        run: rows of metrics (a list of dicts such as ``trainer.state.log_history``, or a data frame), by the names of METRICS,
            of TRL, or older ones; or the path of a run's folder or of a log, see ``read_log``.
        config: what is known of the configuration, such as {"beta": 0.04}; of a run's folder it is read.
    Raises:
        BadInput: if it cannot be read, or holds no number that is known.
    """
    if isinstance(run, str | Path):
        log = read_log(run)
        return examine(log.rows, config={**log.config, **(config or {})}, samples=log.samples, scores=log.scores)
    if hasattr(run, "to_dict"):
        run = _of_a_frame(run)
    if not isinstance(run, list | tuple) or not all(isinstance(row, Mapping) for row in run):
        raise BadInput(f"A run is a list of dicts, a data frame or a path, got {run!r:.60}.")
    return examine(run, config=config)


def _of_a_frame(frame) -> list[dict]:
    """An empty cell of a data frame is a NaN. In a row of the training one that no number follows is the run's own."""
    table = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    found = [{name: value for name, value in row.items() if value == value} for row in table]
    ends = {name: k for k, row in enumerate(found) for name in row}
    for k, (row, kept) in enumerate(zip(table, found, strict=True)):
        trained = {"learning_rate", "reward", "loss", "grad_norm"} & {standard_name(name)[0] for name in kept}
        if trained and not any(name.startswith(("eval", "train_")) for name in kept):
            kept |= {name: value for name, value in row.items() if k > ends.get(name, -1)}
    return found


class Log(NamedTuple):
    """What is known of a run."""

    rows: list[dict]
    config: dict
    samples: list[dict]
    scores: tuple[float, float, float] | None
    source: str


def read_log(path: str | Path) -> Log:
    """The rows of a log, and what lies beside it in the folder of a run.

    Args:
        path: a folder (of ``minigrpo train``, or a trainer's output with its checkpoints) or a file: metrics.jsonl,
            trainer_state.json, JSON or JSON lines, a console's output, a table as Markdown, CSV or HTML, a notebook.
    Raises:
        BadInput: if it is not there, or holds no metrics that are known.
    """
    path = Path(path)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"There is no file or folder {str(path)!r}.")
    if file.stat().st_size > SIZE:
        raise BadInput(f"{str(file)!r} has {file.stat().st_size / 1e6:.0f} MB; a log of metrics is smaller. Name another file.")
    rows = parse(as_text(file.read_bytes(), str(file)), str(file))
    beside = file.parent
    config = _config(beside) if file.name == "metrics.jsonl" else {}
    if not config:
        return Log(rows, {}, [], None, str(file))
    return Log(rows, config, _lines(beside / "samples.jsonl"), _scores(beside / "summary.json"), str(file))


def parse(text: str, source: str = "The text") -> list[dict]:
    """The rows of the reader that understands most of a text. Raises BadInput if none does."""
    best, most = [], 0
    for rows in readings(text):
        understood = understand(rows).rows
        worth = sum(len(TELLING & row.keys()) for row in understood)
        if worth > most:
            best, most = rows, worth
    if not best:
        what = (
            "is empty"
            if not text.strip()
            else "holds no metrics of a GRPO run that are known (reward, loss, kl, grad_norm ...)"
        )
        raise BadInput(
            f"{source} {what}. What is read: metrics.jsonl, trainer_state.json, JSON lines, printed dicts, tables in "
            "Markdown, CSV or HTML."
        )
    return best


def as_text(data: bytes, source: str = "The file") -> str:
    """Text in the encoding that its first bytes show; UTF-8 where they show none, with what is not UTF-8 replaced."""
    for beginning, what in ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip"), (b"PAR1", "Parquet")):
        if data.startswith(beginning):
            raise BadInput(f"{source} is {what}, not text; unpack it, or save its numbers as CSV.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if data[:400].count(b"\0") > len(data[:400]) / 4:  # PowerShell's > writes UTF-16
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", errors="replace")
    return data.decode("utf-8-sig", errors="replace").replace("\0", "")


def _file_in(folder: Path) -> Path:
    """The log in a folder; of a trainer's, the state of its latest checkpoint."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    if states:
        return states[-1]
    others = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in (".log", ".jsonl", ".csv", ".txt", ".out") and path.is_file()
    ]
    if len(others) == 1:
        return others[0]
    held = (
        f"it holds {len(others)} ({', '.join(path.name for path in others[:3])} ...): name one" if others else "name the file"
    )
    raise BadInput(f"The folder {str(folder)!r} has no {NAMES[0]} and no {NAMES[1]}; {held}.")


def _config(folder: Path) -> dict:
    """Of a run of this package; a model's config.json has none of these fields."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "num_generations" in found else {}


def _lines(path: Path) -> list[dict]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # a last line that was cut off
            continue
    return [row for row in rows if isinstance(row, dict)]


def _scores(path: Path) -> tuple[float, float, float] | None:
    """Accuracy before and after, and what chance explains of their difference."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return accuracies(summary["before"]["accuracy"], summary["after"]["accuracy"], summary["samples"])
    except (OSError, ValueError, KeyError, TypeError):  # a run that goes on has none, and neither have records
        return None
