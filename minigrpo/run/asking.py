"""The flags of generate and evaluate. Where they name nothing else, a run's model is asked what its run asked it."""

import argparse
import re
from pathlib import Path

from minigrpo.config import BadInput, GRPOConfig, check_temperature
from minigrpo.run import folders
from minigrpo.run.flags import add_flag, new_parser, seed

OF_A_RUN_ALONE = ("metrics.jsonl", "inputs.json")  # the folder of a model has a config.json, too
OF_DATA = ("dataset_config", "dataset_split", "prompt_column", "chat", "system_prompt", "max_completion_length")
REWARDS = ("reward_funcs", "reward_weights", "reward_model")


# --- the flags ----------------------------------------------------------------------------------------------------


def generation_args(argv: list[str]) -> tuple[argparse.Namespace, str]:
    """The arguments of ``generate``, and what to say where prompts are put as the model's run put its own.

    Raises:
        BadInput: for arguments out of range, or neither prompts nor a file of them.
    """
    parser = new_parser("generate")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="a text; or --dataset-name brings the prompts")
    check_prompts(argv)
    args, note = _sampling_args(parser, argv, num_generations=1, max_completion_length=32), ""
    if bool(args.prompts) == bool(args.dataset_name):
        raise BadInput("Wanted is either a PROMPT (or several), or --dataset-name with a file of prompts.")
    run = run_of(args.model)
    if run and args.prompts and args.chat is None and args.system_prompt is None and (run / "config.json").is_file():
        args.system_prompt = (saved := folders.saved_config(run))["system_prompt"]
        args.chat = saved["chat"] or args.system_prompt is not None
        after = f", after the system's {args.system_prompt!r}" if args.system_prompt else ""
        note = f"As in {run}, each prompt is a user's turn{after}; --no-chat makes it a plain text." if args.chat else ""
    defaults = {"dataset_split": "train", "prompt_column": "prompt", "chat": False, "temperature": 1.0}
    vars(args).update({name: value for name, value in defaults.items() if getattr(args, name) is None})
    return args, note


def evaluation_args(argv: list[str]) -> tuple[argparse.Namespace, GRPOConfig, Path | None]:
    """The arguments of ``evaluate``; as a configuration, which problems are scored by what; and the run whose own problems
    these are: the model's, where the flags name no others.

    Raises:
        BadInput: for arguments out of range, or a run that does not say what it was trained on.
    """
    parser = new_parser("evaluate")
    known = "(default: what the model's run was trained on, or clock)"
    parser.add_argument("--task", choices=("clock", "sums", "addition", "words"), help=known)
    add_flag(parser, "reward_funcs", nargs="+", help="what to score by, as for train")
    add_flag(parser, "reward_weights", nargs="+", type=float, help="one per reward function (default: all 1)")
    add_flag(parser, "reward_model", help="a folder of minigrpo reward-model")
    args = _sampling_args(parser, argv, num_generations=4, max_completion_length=None)
    run = None if args.task or args.dataset_name else run_of(args.model)
    if run is None:
        task, length = (args.task or "dataset", 64) if args.dataset_name else (args.task or "clock", 16)
        settings = {"task": task, "dataset_name": args.dataset_name, "max_completion_length": length, "seed": args.seed}
    else:
        settings = what_it_learnt(run)  # with its seed, which says what is held out: --seed is that of the samples
        settings |= dict.fromkeys(REWARDS) if args.reward_funcs or args.reward_model else {}
        settings |= {"system_prompt": None} if args.chat is False else {}
    named = {name: getattr(args, name) for name in (*OF_DATA, *REWARDS) if getattr(args, name) is not None}
    config = GRPOConfig(**{**settings, **named, "model": args.model})
    args.max_completion_length = config.max_completion_length
    args.temperature = config.temperature if args.temperature is None else args.temperature
    return args, config, run


def _sampling_args(
    parser: argparse.ArgumentParser, argv: list[str], *, num_generations: int, max_completion_length: int | None
) -> argparse.Namespace:
    """What both take; None where nothing is said and a run may have a word in it."""
    of_a_run = "" if max_completion_length else "that of the model's run, or "
    parser.add_argument(
        "--model", default="tiny", help="tiny, smollm2, a folder of a run or model, a .gguf file, or a hub name"
    )
    add_flag(parser, "dataset_name", help="prompts of a file, of a data set on the hub, or reasoning_gym:TASK")
    add_flag(parser, "dataset_config", help="which part of a data set on the hub")
    add_flag(parser, "dataset_split", help="which split of it (default train)")
    add_flag(parser, "prompt_column", help="the column of the prompts (default prompt)")
    turns = "make each plain text a user's turn in the chat template (default: as the model's run did)"
    parser.add_argument("--chat", action=argparse.BooleanOptionalAction, help=turns)
    add_flag(parser, "system_prompt", help="a turn of the system in front of each conversation (default: the run's)")
    add_flag(parser, "num_generations", type=int, default=num_generations, help="completions per prompt (default %(default)s)")
    add_flag(parser, "temperature", type=float, help=f"0 is greedy (default {of_a_run}1.0)")
    length = max_completion_length or f"{of_a_run}16, of a data set 64"
    add_flag(parser, "max_completion_length", type=int, default=max_completion_length, help=f"tokens (default {length})")
    add_flag(parser, "seed", type=seed, default=0, help="(default %(default)s)")
    args = parser.parse_args(argv)
    for name in ("num_generations", "max_completion_length"):
        if getattr(args, name) is not None and not 1 <= getattr(args, name) < 2**31:
            raise BadInput(f"{name} must be at least 1 and below 2147483648, got {getattr(args, name)}.")
    if args.temperature is not None:
        check_temperature(args.temperature)
    return args


def check_prompts(argv: list[str]) -> None:
    """Raises BadInput for a prompt that would be taken for a flag, or that is no text."""
    for word in argv[: argv.index("--") if "--" in argv else None]:
        # As argparse sees it: a text with a space is no flag, and neither is a negative number.
        if re.match(r"-(?!-?[a-zA-Z])", word) and not re.fullmatch(r"-+|-\d+|-\d*\.\d+|.* .*", word, re.DOTALL):
            raise BadInput(f"{word!r} begins with a minus and would be a flag; put -- in front of the prompts.")
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise BadInput(f"{word!r} is not UTF-8; save or type it in that encoding.") from None


# --- the run that a model comes from ------------------------------------------------------------------------------


def run_of(model: str) -> Path | None:
    """The folder of the run that ``model`` is, or is the model or a checkpoint of; None for a model of no run."""
    folder = Path(model)
    folder = folder.parent if re.fullmatch(r"model|checkpoint-\d+", folder.name, re.ASCII) else folder
    return folder if any((folder / name).is_file() for name in OF_A_RUN_ALONE) else None


def what_it_learnt(run: Path) -> dict:
    """The configuration of a run. Raises BadInput if it is gone."""
    if not (run / "config.json").is_file():
        raise BadInput(
            f"The run in {str(run)!r} has lost its config.json, which said what it was trained on; name what to score it on by "
            "--task or --dataset-name."
        )
    return folders.saved_config(run)


def steps_behind(model: str, config: GRPOConfig) -> int:
    """How many steps of its run a model has behind it."""
    checkpoint = re.fullmatch(r"checkpoint-(\d+)", Path(model).name, re.ASCII)
    return int(checkpoint[1]) if checkpoint else config.max_steps
