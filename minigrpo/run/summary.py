"""What a run says and draws at its end."""

import os
import shlex
import unicodedata
from pathlib import Path

from minigrpo.chat import Prompt, last_words
from minigrpo.config import BadInput
from minigrpo.rewards import score
from minigrpo.run import folders, fork
from minigrpo.run.diagnosis.logs import diagnose
from minigrpo.run.verdict import verdict
from minigrpo.tasks import Task

SHOWN = 60  # characters of a prompt or completion in the table at the end; samples.jsonl has all of them


def finish(folder: Path, task: Task, summary: dict, samples: int) -> None:
    """Write the curves and last the summary, and print what a person wants to see.

    Args:
        samples: how many completions each accuracy was made of.
    """
    before, after, examples = summary["before"], summary["after"], summary["examples"]
    title, rows = task.name, folders.read_metrics(folder)
    if known := [name for name in ("accuracy", "reward") if name in before and name in after]:
        title += f": {known[0]} {before[known[0]]:.2f} before, {after[known[0]]:.2f} after"
    plot_to(folder / "curves.png", [rows], title)
    summary = {**summary, "samples": samples, "verdict": verdict(before, after, rows, samples), **_best(rows)}
    folders.write_json(folder / "summary.json", summary)

    print_table({"before": before, "after": after})
    rows_of_text = [[last_words(example["prompt"]), example["before"], " -> ", example["after"]] for example in examples]
    for line in aligned([[text if len(text) <= SHOWN else text[: SHOWN - 3] + "..." for text in row] for row in rows_of_text]):
        print(f"  {line}")
    print(f"\n{summary['steps']} steps, {summary['seconds']:.1f} s of training. Written to {folder}:")
    names = ("curves.png", "metrics.jsonl", "samples.jsonl", "tokens.jsonl", "summary.json", "config.json", "model")
    for name in [name for name in names if (folder / name).exists()] + ["checkpoint-*"]:
        print(f"  {folder / name}")
    if "best" in summary:
        (_, step), (name, value) = summary["best"].items()
        print(f"Best on the held-out problems: step {step}, {name} {value:.3f}.")
    print(f"\n{summary['verdict']}")
    if compared := fork.beside_its_run(folder, after):
        print(compared)
    print(f"\n{diagnose(folder).text}\n\nTry it: {command_to_try(folder, worth_trying(task, examples))}")


def _best(rows: list[dict]) -> dict[str, dict]:
    """Where --eval-steps was given, the step that did best on the held-out problems, and how well."""
    for name in ("eval_accuracy", "eval_reward"):
        if scored := [row for row in rows if row.get(name) is not None]:
            best = max(scored, key=lambda row: row[name])
            return {"best": {"step": best["step"], name: best[name]}}
    return {}


def worth_trying(task: Task, examples: list[dict]) -> Prompt:
    """The prompt of the first example that training made right; where nobody can say, of the first that it changed."""
    better = [example["before"] != example["after"] for example in examples]
    if task.reward is not None:
        columns = {name: task.held_out[name][: len(examples)] for name in task.held_out.column_names if name != "prompt"}
        prompts = [example["prompt"] for example in examples]
        sides = [[example[side] for example in examples] for side in ("before", "after")]
        before, after = [score(task.reward, prompts, texts, columns) == task.full_score for texts in sides]
        better = (after & ~before).tolist()
    return examples[better.index(True) if True in better else 0]["prompt"]


def command_to_try(folder: Path, prompt: Prompt) -> str:
    """A command that a shell takes as it stands; of a longer conversation with its last turn alone."""
    words = ["minigrpo", "generate", "--model", str(folder)]
    if not isinstance(prompt, str):
        words += ["--chat"]
        words += ["--system-prompt", prompt[0]["content"]] if prompt[0]["role"] == "system" else []
    text = last_words(prompt)
    return shlex.join([*words, *(["--"] if text.startswith("-") else []), text])


def plot_to(output: Path, runs: list[list[dict]], title: str) -> None:
    """Draw runs into a file. BadInput for a file that is no picture's."""
    _without_a_screen()
    from minigrpo.view.plots import plot_runs, save_figure

    title = title.encode(errors="backslashreplace").decode().replace("$", r"\$")  # it holds a folder's name, and no formula
    save_figure(plot_runs(runs, title=title)[0].figure, output)


def plot_forks_to(output: Path, runs: dict[str, list[dict]], parted: int) -> None:
    """Draw runs that share their steps up to ``parted`` into a file, a line each, from there on. BadInput as for plot_to."""
    _without_a_screen()
    from minigrpo.view.plots import plot_apart, save_figure

    after = {name: [row for row in rows if row["step"] > parted] for name, rows in runs.items()}
    for name, rows in after.items():
        if not rows:
            raise BadInput(f"{name!r} has no step after step {parted}, where these runs part.")
    save_figure(plot_apart(after, title=f"After step {parted}, where the runs part")[0].figure, output)


def _without_a_screen() -> None:
    named = os.environ.pop("MPLBACKEND", None)  # matplotlib does not even load with a name there that it does not know
    import matplotlib

    if named is not None:
        os.environ["MPLBACKEND"] = named  # for what this process starts, such as a JupyterLab
    matplotlib.use("agg")


def aligned(rows: list[list[str]]) -> list[str]:
    """A line per row, in columns as a terminal shows them. What would break a line is written as an escape."""
    rows = [["".join(c if c.isprintable() else repr(c)[1:-1] for c in cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    padded = [[cell + " " * (w - display_width(cell)) for cell, w in zip(row, widths, strict=True)] for row in rows]
    return [" ".join(row).rstrip() for row in padded]


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes: two for 等 and its like, none for an accent that is put on a letter."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def print_table(columns: dict[str, dict[str, float]]) -> None:
    """The numbers of ``evaluate``, a column each. pass@1 is the accuracy, and not said twice."""
    names = {
        "accuracy": "accuracy, sampled",
        "accuracy_greedy": "accuracy, greedy",
        "thinking": "thinks first",
        "reward": "reward, sampled",
        "reward_greedy": "reward, greedy",
        "mean_length": "mean length (tokens)",
    }
    print("\n" + " " * 22 + "".join(f"{title:>9}" for title in columns))
    for key in dict.fromkeys(key for numbers in columns.values() for key in numbers):
        if key not in ("pass@1", "reward_std"):
            cells = [f"{numbers[key]:9.3f}" if key in numbers else f"{'-':>9}" for numbers in columns.values()]
            print(f"{names.get(key, key):22}" + "".join(cells))
    print()
