"""From dicts as they stand in logs to rows in the words of metrics.METRICS: older names, texts for numbers, steps, runs."""

import math
import re
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

# What other programs and earlier versions call a metric, the likeliest first. TRL's own names today are this package's.
OTHER_NAMES = {
    "step": ("global_step", "training/global_step", "global_step/max_steps", "iteration", "iter", "steps", "_step"),
    "loss": ("training loss", "train_loss", "actor/loss", "actor/pg_loss", "policy_loss", "pg_loss", "loss/policy"),
    "reward": (
        "rewards", "mean_reward", "reward_mean", "reward/mean", "avg_reward", "average_reward", "critic/score/mean",
        "critic/rewards/mean", "objective/scores", "score", "rewards/mean", "rewards/total", "reward/total",
        "env/all/reward/total",
    ),
    "reward_std": ("std_reward", "reward/std", "rewards/std", "rewards_std"),
    "frac_reward_zero_std": ("frac_zero_reward_std", "frac_zero_std", "reward/frac_zero_std", "zero_std_ratio"),
    "kl": (
        "kl_divergence", "mean_kl", "kl_mean", "kl_div", "actor/kl_loss", "objective/kl", "kl_loss", "actor/kl", "kl/mean",
        "kl_to_reference", "ref_kl",
    ),
    "entropy": ("actor/entropy", "actor/entropy_loss", "policy_entropy", "mean_entropy", "entropy/mean", "policy/entropy"),
    "clip_ratio": (
        "clip_ratio/region_mean", "actor/pg_clipfrac", "pg_clipfrac", "clip_fraction", "clipfrac", "clip_frac",
        "policy/clipfrac_avg",
    ),
    "grad_norm": ("actor/grad_norm", "gradient_norm", "grad norm", "gradnorm", "optim/grad_norm"),
    "learning_rate": ("lr", "actor/lr", "actor_lr", "learning rate", "optim/lr"),
    "completions/mean_length": (
        "completion_length", "response_length/mean", "response_length", "mean_length", "completion_length/mean",
        "mean_completion_length", "completion length", "response length", "gen_length", "output_length",
    ),
    "completions/min_length": ("response_length/min",),
    "completions/max_length": ("response_length/max",),
    "completions/clipped_ratio": (
        "response_length/clip_ratio", "clipped_ratio", "truncated_ratio", "truncation_ratio", "truncated_rate",
        "response/aborted_ratio",
    ),
    "completions/mean_terminated_length": (),
    "weighted_logprob": (),
    "accuracy": ("acc", "true_accuracy", "train_accuracy"),
    "advantages/max": ("critic/advantages/max",),
    "advantages/min": ("critic/advantages/min",),
    "sampling/ratio": ("sampling/importance_sampling_ratio/mean",),
    "sampling/difference": ("sampling/sampling_logp_difference/mean", "training/rollout_probs_diff_mean"),
    "beta": ("kl_coef", "actor/kl_coef"),
    "thinking": (), "epoch": (), "num_tokens": (), "bar": (), "bar_of": (),
}  # fmt: skip
KNOWN = {name: (name, 0) for name in OTHER_NAMES} | {
    other: (name, rank) for name, others in OTHER_NAMES.items() for rank, other in enumerate(others, 1)
}
TELLING = {  # a row that has none of these is no step of a training
    "loss", "reward", "reward_std", "frac_reward_zero_std", "kl", "grad_norm", "entropy", "completions/mean_length",
    "completions/clipped_ratio", "weighted_logprob", "clip_ratio",
}  # fmt: skip
HELD_OUT = re.compile(
    r"^(eval|val|valid|validation|test|val-core|val-aux)([_/-].*)?(reward|acc|score|pass|mean@|correct)", re.I
)
PREFIX = re.compile(r"^(train|metrics|trainer|grpo|rl|logs?)[/_. ]", re.I)
FIXED = re.compile(r"-?0\.(0{2,})")  # a number that a printer rounded to 0
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)


class Rows(NamedTuple):
    """What a log says, step by step."""

    rows: list[dict[str, float]]  # each with a step, rising; nan and inf where the log has them
    notes: list[str]  # what the reader should know about how it was read


def understand(dicts: Iterable[dict]) -> Rows:
    """Rows of the last run in a log, each metric under its name here, and what does not belong to a step left out."""
    runs = _runs([row for row in map(_row, dicts) if TELLING & row.keys() or any(name.startswith("eval/") for name in row)])
    if not runs:
        return Rows([], [])
    rows, notes = _with_steps(_last_worth_reading(runs))
    if len(runs) > 1:
        lengths = ", ".join(str(len(run)) for run in runs)
        number = runs.index(_last_worth_reading(runs)) + 1
        notes.append(f"The log holds {len(runs)} runs (of {lengths} rows); this is about number {number} alone.")
    return Rows(rows if any(TELLING & row.keys() for row in rows) else [], notes)


# --- a row ------------------------------------------------------------------------------------------------------------


def _row(raw: dict) -> dict[str, float]:
    """One dict in our words; {} for what is no step, such as the summary at a training's end."""
    names = {str(name).strip().lower() for name in raw}
    if any("train_runtime" in name or "train_samples_per_second" in name for name in names):
        return {}
    # A trainer's evaluation is a dict of its own, in which some names of the training stand again.
    evaluation = any(re.match(r"(eval|test)[_/](runtime|loss|samples)", name) for name in names) and "grad_norm" not in names
    row, ranks = {}, {}
    for raw_name, value in raw.items():
        name, rank = standard_name(str(raw_name))
        if name is None or (evaluation and not name.startswith("eval/") and name not in ("step", "epoch")):
            continue
        number = as_number(value, name)
        if number is not None and rank <= ranks.get(name, rank):
            row[name], ranks[name] = number, rank
    sides = [as_number(raw.get(f"clip_ratio/{side}_mean"), "clip_ratio") for side in ("low", "high")]
    if "clip_ratio" not in row and None not in sides:
        row["clip_ratio"] = sum(sides)
    low, high = row.pop("advantages/min", None), row.pop("advantages/max", None)
    if low == high == 0:
        row.setdefault("frac_reward_zero_std", 1.0)  # verl logs no share of silent groups, but this says it
    return row


def standard_name(name: str) -> tuple[str | None, int]:
    """The name of a metric here, and how good a witness for it the log's name is (0 is best); None for what is none of ours.

    >>> standard_name("train/completion_length")
    ('completions/mean_length', 1)
    >>> standard_name("rewards / format")
    ('rewards/format/mean', 1)
    """
    name = re.sub(r"\s*/\s*", "/", name.strip())
    if name.endswith(("__MIN", "__MAX")):  # beside each curve in a CSV of W&B
        return None, 0
    name = name.rsplit(" - ", 1)[-1]
    if HELD_OUT.match(name) and not name.endswith("std"):
        return "eval/" + re.split(r"[_/-]", name, maxsplit=1)[-1], 0
    low = PREFIX.sub("", name).lower()
    low = low if low in KNOWN else low.replace(" ", "_")
    if low in KNOWN:
        return KNOWN[low]
    parts = PREFIX.sub("", name).split("/")
    if parts[0].lower() == "rewards" and len(parts) > 1:
        kind = parts[-1].lower() if parts[-1].lower() in ("mean", "std") and len(parts) > 2 else None
        function = "/".join(parts[1:-1] if kind else parts[1:])
        return f"rewards/{function}/{kind or 'mean'}", int(kind is None)
    return None, 0


def as_number(value, name: str = "") -> float | None:
    """A float, which may be nan or inf; None for what was not measured: null, an empty cell, "No Log".

    A text of zeros such as 0.000 is a number that a printer rounded, and for what is small by nature it says nothing.
    """
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, str):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return None
    text = value.strip().strip("'\"").replace("\u2212", "-")
    rounded = FIXED.fullmatch(text)
    if rounded and (name == "learning_rate" or (name in ("grad_norm", "kl") and len(rounded[1]) < 6)):
        return None
    if re.fullmatch(r"[-+]?(nan|inf|infinity)", text, re.I):
        return float(text)
    if name == "step" and re.fullmatch(r"\d+/\d+", text):  # ms-swift's global_step/max_steps
        text = text.split("/")[0]
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return float(text) if NUMBER.fullmatch(text) else None


# --- steps, and the runs of a log -------------------------------------------------------------------------------------


def _runs(rows: list[dict]) -> list[list[dict]]:
    """The rows of each run, in order. What goes back to the beginning is another run; what goes back some way is this one,
    resumed, and its later words count."""
    clock = next((name for name in ("step", "num_tokens", "epoch") if sum(name in row for row in rows) > len(rows) / 2), None)
    runs: list[list[dict]] = []
    for row in rows:
        time = row.get(clock, math.nan)
        former = runs[-1] if runs else []
        last = former[-1].get(clock, math.nan) if former else math.nan
        if not former or (time < last and time <= former[0].get(clock, math.nan)):
            runs.append([row])
            continue
        if time < last:
            former[:] = [kept for kept in former if not kept.get(clock, math.nan) >= time]
        if clock == "step" and former and former[-1].get("step") == time:  # an evaluation's numbers, or a second process
            former[-1] = former[-1] | row
        else:
            former.append(row)
    return runs


def _last_worth_reading(runs: list[list[dict]]) -> list[dict]:
    """The last run, unless it is a fragment beside a longer one."""
    longest = max(map(len, runs))
    return next(run for run in reversed(runs) if len(run) >= longest / 5)


def _with_steps(rows: list[dict]) -> tuple[list[dict], list[str]]:
    """The rows with a step each: the log's, else what its progress bar shows, else their number."""
    notes = []
    if sum("step" in row for row in rows) > len(rows) / 2:
        rows = [row for row in rows if "step" in row]
    else:
        shown = [(k, row["bar"]) for k, row in enumerate(rows, 1) if "bar" in row]
        every = max(1, round(median(bar / k for k, bar in shown))) if shown else 1
        if any(abs(bar - k * every) > every for k, bar in shown):  # the bar counts something else
            every = 1
        rows = [{**row, "step": float(k * every)} for k, row in enumerate(rows, 1)]
        notes = ["The log has no step numbers: its rows are counted as steps."]
        if every > 1:
            notes = [f"The log has no step numbers; by its progress bar there is a row every {every} steps."]
    return [{name: value for name, value in row.items() if name not in ("bar", "bar_of")} for row in rows], notes
