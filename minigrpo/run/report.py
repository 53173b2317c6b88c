"""``minigrpo report``: what the folders of runs hold, gathered for the page that view/report.py makes of them."""

import html
from dataclasses import dataclass
from pathlib import Path

from minigrpo.config import BadInput
from minigrpo.run import folders, fork
from minigrpo.run.diagnosis.logs import diagnose
from minigrpo.view.report import Run, render

MAILED = 3_000_000  # bytes
IN_A_NOTEBOOK = 300_000  # which keeps what it shows, for as long as it lives
COLUMNS = {
    "tokens.jsonl": (
        *("prompts", "group_ids", "rewards", "advantages", "ended"),
        *("tokens", "completion_mask", "old_logprobs", "ref_logprobs", "logprobs"),
    ),
    "samples.jsonl": ("prompts", "completions", "rewards", "advantages"),
}


@dataclass(frozen=True)
class Report:
    """A page of HTML. A notebook shows it in a frame of its own."""

    html: str

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html)}" style="width:100%;height:85vh;border:0"></iframe>'

    def __repr__(self) -> str:
        return (
            f"<report of {len(self.html.encode()) / 1000:.0f} kB; a notebook shows it, minigrpo report writes it into a file>"
        )


def show_report(run: str | Path, *more: str | Path) -> Report:
    """Findings, curves and tokens of a run, or of several side by side, to look at and to play with in a notebook.

    Args:
        run, more: folders of runs.
    Raises:
        BadInput: for a folder that holds no run, or whose files cannot be read.
    """
    return Report(render(_gathered([run, *more]), max_bytes=IN_A_NOTEBOOK))


def write_report(runs: list[str], output: Path) -> None:
    """The same as a file of at most 3 MB. Raises BadInput as show_report does."""
    folders.write_text(output, render(_gathered(runs), max_bytes=MAILED))


def _gathered(runs: list[str | Path]) -> list[Run]:
    paths = [Path(run) for run in runs]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise BadInput(f"The run {next(name for name in names if names.count(name) > 1)!r} is named twice.")
    return [_gather(path, name) for path, name in zip(paths, names, strict=True)]


def _gather(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is no folder; wanted is the folder of a run.")
    config, metrics = folders.saved_config(folder), folders.read_metrics(folder)
    return Run(name, config, metrics, _kept(folder), _about(folder, config, metrics), diagnose(folder).findings)


def _kept(folder: Path) -> list[dict]:
    """The lines of tokens.jsonl; of samples.jsonl where there is none: the engine trl writes none, nor did older versions."""
    for name, columns in COLUMNS.items():
        path = folder / name
        lines = folders.read_lines(path) if path.exists() else []
        for number, line in enumerate(lines, 1):
            if missing := [column for column in columns if column not in line]:
                raise BadInput(f"{str(path)!r}, line {number}, has no {missing[0]!r}.")
        if lines:
            return lines
    return []


def _about(folder: Path, config: dict, metrics: list[dict]) -> list[str]:
    what = f"records ({config['triples']})" if config["triples"] else config["dataset_name"] or config["task"]
    numbers = ("loss_type", "learning_rate", "beta", "epsilon", "num_iterations", "num_generations", "scale_rewards", "seed")
    settings = ", ".join(f"{name} {config[name]}" for name in numbers)
    engine = " by TRL" if config["engine"] == "trl" else ""
    sentences = [f"{config['model']} on {what}{engine}, {metrics[-1]['step']} of {config['max_steps']} steps: {settings}."]
    if forked := fork.origin(folder):
        sentences.append(str(forked._replace(run=Path(forked.run.name))))  # a page that is mailed says nothing of folders
    summary = folder / "summary.json"
    return [*sentences, folders.read_json(summary)["verdict"]] if summary.exists() else sentences
