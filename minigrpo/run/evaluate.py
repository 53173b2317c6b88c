"""The command ``minigrpo evaluate``: a policy on a task's held-out problems, or a run's model on the run's own."""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from transformers import TrainerState

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.evaluation import evaluate
from minigrpo.policy import context_length, load_policy
from minigrpo.run import inputs
from minigrpo.run.asking import steps_behind
from minigrpo.run.summary import print_table
from minigrpo.run.verdict import chance
from minigrpo.tasks import Task


def run(args: Namespace, config: GRPOConfig, own: Path | None) -> None:
    """Args: what ``evaluation_args`` made of the command line. Raises BadInput for what is not there or does not fit."""
    try:
        rows = inputs.own_rows(config)
        model, tokenizer = load_policy(config.model)
        task = inputs.load_problems(config, rows, tokenizer, context_length(model))
        reward_fns, config = inputs.reward_functions(config, task)
    except BadInput as error:
        hint = " It was to be scored on its run's own task; --task and --dataset-name name another." if own else ""
        raise BadInput(f"{error}{hint}") from error
    settings = {name: getattr(args, name) for name in ("num_generations", "temperature", "max_completion_length", "seed")}
    if config.dataset_name or config.reward_funcs or config.reward_model:
        settings |= {"reward_fns": reward_fns, "reward_weights": config.reward_weights}
    if own:
        settings["trainer_state"] = TrainerState(global_step=steps_behind(config.model, config), max_steps=config.max_steps)
        now = inputs.checksums(replace(config, model="tiny"))  # the model is the trained one now
        changed = inputs.changed_since(own, {what: checksum for what, checksum in now.items() if what != inputs.CONFIG})
        if changed:
            print(f"minigrpo: Since the run in {str(own)!r} began, {' and '.join(changed)} changed.", file=sys.stderr)
    if note := inputs.template_note(config.model, tokenizer, task.held_out[0]["prompt"]):
        print(f"minigrpo: {note}", file=sys.stderr)
    print(_what(args, config, own, task))
    numbers = evaluate(model, tokenizer, task, **settings)
    print_table({"held out" if config.dataset_name else task.name: numbers})
    if said := chance(numbers, args.num_generations * len(task.held_out)):
        print(said)


def _what(args: Namespace, config: GRPOConfig, own: Path | None, task: Task) -> str:
    """What is scored, in a line."""
    whose = f"{own}'s own task, {task.name}" if own else task.name
    kind = "prompt" if config.task == "records" else "held-out problem"
    counts = [(len(task.held_out), kind), (args.num_generations, "sample")]
    problems, samples = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts]
    by = f", by {' and '.join(config.reward_funcs)}" if config.reward_funcs else ""
    return f"{whose}: {problems}, {samples} each{by}"
