"""Runs as one page of HTML that needs no network: findings, curves, and tokens with the numbers that they were learnt from."""

import json
import math
from collections.abc import Sequence
from statistics import stdev
from typing import NamedTuple, get_args, get_type_hints

import jinja2
import torch

from minigrpo.advantages import compute_advantages
from minigrpo.config import GRPOConfig
from minigrpo.kl import kl_penalized_rewards
from minigrpo.metrics import METRICS

MAIN = ("reward", "weighted_logprob", "kl", "completions/mean_length", "entropy", "frac_reward_zero_std", "thinking")
SWITCHES = ("epsilon", "beta", "loss_type", "scale_rewards")
ALGEBRA = (*SWITCHES, "epsilon_high", "importance_sampling_level", "kl_estimator", "kl_in_reward", "max_completion_length")
ROOM_FOR_NOTES = 500  # bytes, on what was left out of a run
SWATCHES = ("var(--blue)", "var(--orange)", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777")
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("minigrpo", "view"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


class Run(NamedTuple):
    """What a page shows of a run."""

    name: str
    config: dict  # GRPOConfig's fields
    metrics: list[dict]  # lines of metrics.jsonl
    kept: list[dict]  # lines of tokens.jsonl; of a run that has none, of samples.jsonl
    about: Sequence[str] = ()  # sentences
    findings: Sequence = ()  # each with title, seen, means, do, sure, lesson, kind, follows; all texts but the last, a list


def render(runs: list[Run], *, max_bytes: int) -> str:
    """The page. Where it would be larger than ``max_bytes``, kept steps are left out evenly, then groups of little contrast,
    then rows of the curves; the page says so."""
    whole = [_data(run) for run in runs]
    frame = len(_page(runs, [], _notes(runs, whole)).encode()) + ROOM_FOR_NOTES * len(runs)
    data = _within(whole, max_bytes - frame)
    return _page(runs, data, _notes(runs, data))


def _page(runs: list[Run], data: list[dict], notes: list[str]) -> str:
    names = list(dict.fromkeys(name for run in runs for row in run.metrics for name in row if name != "step"))
    names = sorted(names, key=lambda name: [*MAIN, *METRICS, *names].index(name))
    about = [METRICS[name]._asdict() if name in METRICS else {"unit": "", "meaning": "", "healthy": ""} for name in names]
    metrics = [{"name": name, "main": name in MAIN, **text} for name, text in zip(names, about, strict=True)]
    hints = get_type_hints(GRPOConfig)
    loader = ENVIRONMENT.loader
    return ENVIRONMENT.get_template("report.html").render(
        title=" and ".join(run.name for run in runs),
        runs=[{**run._asdict(), "swatch": SWATCHES[k % len(SWATCHES)]} for k, run in enumerate(runs)],
        as_run={name: _as_run(runs, name) for name in SWITCHES},
        loss_types=get_args(hints["loss_type"]),
        scales=get_args(hints["scale_rewards"]),
        any_kept=any(run.kept for run in runs),
        notes=notes,
        style=loader.get_source(ENVIRONMENT, "report.css")[0],
        script=loader.get_source(ENVIRONMENT, "report.js")[0],
        data=_json({"runs": data, "metrics": metrics}),
    )


def _json(value) -> str:
    """As it may stand in a page: no "<" that could end the element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _as_run(runs: list[Run], name: str) -> str:
    return ", ".join(dict.fromkeys(str(run.config[name]) for run in runs))


def _notes(runs: list[Run], data: list[dict]) -> list[str]:
    notes = []
    for run, shown in zip(runs, data, strict=True):
        if len(shown["kept"]) < len(run.kept):
            notes.append(
                f"{run.name}: {len(shown['kept'])} of {len(run.kept)} kept steps are here, so that the file stays small."
            )
        if len(shown["curves"]["step"]) < len(run.metrics):
            notes.append(f"{run.name}: the curves have {len(shown['curves']['step'])} of {len(run.metrics)} steps.")
        exact = run.config["kl_estimator"] == "exact" or run.config["triples"] is not None
        if exact and any(step.get("ref_logprobs") for step in run.kept):
            notes.append(f"{run.name} used the exact KL, which no list of tokens holds; k3 with the ratio stands in its place.")
    return notes


# --- data -------------------------------------------------------------------------------------------------------------


def _data(run: Run) -> dict:
    names = dict.fromkeys(name for row in run.metrics for name in row)
    curves = {name: [_number(row.get(name)) for row in run.metrics] for name in names}
    config = {name: run.config[name] for name in ALGEBRA}
    if run.config["triples"] is not None:
        config["kl_estimator"] = "exact"
    return {"name": run.name, "config": config, "curves": curves, "kept": [_step(line, run.config) for line in run.kept]}


def _number(value) -> float | int | None:
    """Seven digits, which is what float32 has; JSON knows neither NaN nor infinity."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _step(line: dict, config: dict) -> dict:
    """A line of tokens.jsonl, or one of samples.jsonl made like it, each completion a single token without log-probs."""
    line = {**line, "prompts": [_as_text(prompt) for prompt in line["prompts"]]}
    if "tokens" not in line:
        prompts = list(dict.fromkeys(line["prompts"]))
        line = {
            **{name: line[name] for name in ("step", "rewards", "advantages")},
            "prompts": prompts,
            "group_ids": [prompts.index(prompt) for prompt in line["prompts"]],
            "tokens": [[completion] for completion in line["completions"]],
            "completion_mask": [[1] for _ in line["completions"]],
            **dict.fromkeys(("old_logprobs", "ref_logprobs", "logprobs", "ended")),
        }
    num_tokens = sum(map(sum, line["completion_mask"]))
    return {**line, "num_tokens": num_tokens, "from_rewards": _made_from_rewards(line, config)}


def _as_text(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _made_from_rewards(line: dict, config: dict) -> bool:
    """Whether compute_advantages gives the advantages that were written down: not for records, or a function of one's own."""
    rewards = torch.tensor([math.nan if reward is None else reward for reward in line["rewards"]], dtype=torch.float64)
    group_ids = torch.tensor(line["group_ids"])
    if config["kl_in_reward"] and config["beta"]:
        if line["ref_logprobs"] is None:
            return False
        old, ref, mask = (_padded(line[name]) for name in ("old_logprobs", "ref_logprobs", "completion_mask"))
        rewards = kl_penalized_rewards(rewards, old, ref, mask.bool(), config["beta"])
    try:
        made = compute_advantages(rewards, group_ids, scale_rewards=config["scale_rewards"])
    except ValueError:  # a completion that is alone in its group
        return False
    return torch.allclose(made, torch.tensor(line["advantages"], dtype=torch.float64), rtol=0, atol=2e-3)


def _padded(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float64) for row in rows], batch_first=True)


# --- small enough to be mailed ----------------------------------------------------------------------------------------


def _within(data: list[dict], max_bytes: int) -> list[dict]:
    for fewer in (_fewer_steps, _fewer_groups, _fewer_rows):
        while len(_json(data).encode()) > max_bytes:
            less = [fewer(run) for run in data]
            if less == data:
                break
            data = less
    return data


def _fewer_steps(run: dict) -> dict:
    """Every second one, with the first and the last."""
    kept = run["kept"]
    return run if len(kept) <= 2 else {**run, "kept": kept[:-1:2] + kept[-1:]}


def _fewer_groups(run: dict) -> dict:
    """Half of the groups, those of the greatest contrast; of the others rewards and advantages alone."""
    kept = []
    for step in run["kept"]:
        shown = [i for i, tokens in enumerate(step["tokens"]) if tokens]
        groups = dict.fromkeys(step["group_ids"][i] for i in shown)
        chosen = sorted(groups, key=lambda group: -_contrast(step, group))[: max(1, len(groups) // 2)]
        columns = ("tokens", "completion_mask", "old_logprobs", "ref_logprobs", "logprobs")
        inside = [step["group_ids"][i] in chosen for i in range(len(step["group_ids"]))]
        cut = {
            name: [row if stays else None for row, stays in zip(step[name], inside, strict=True)]
            for name in columns
            if step[name]
        }
        # Where the KL is in the reward, advantages cannot be made anew without all tokens.
        kept.append({**step, **cut, "from_rewards": step["from_rewards"] and not run["config"]["kl_in_reward"]})
    return {**run, "kept": kept}


def _contrast(step: dict, group: int) -> float:
    rewards = [r for r, g in zip(step["rewards"], step["group_ids"], strict=True) if g == group and r is not None]
    return stdev(rewards) if len(rewards) > 1 else 0.0


def _fewer_rows(run: dict) -> dict:
    if len(run["curves"]["step"]) <= 2:
        return run
    return {**run, "curves": {name: values[::2] for name, values in run["curves"].items()}}
