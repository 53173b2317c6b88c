"""What the command line takes: its parsers, and the configuration that the flags of ``minigrpo train`` make."""

import argparse
import dataclasses
import difflib
import re
from pathlib import Path

from minigrpo.config import GROUPS, BadInput, GRPOConfig, first_line
from minigrpo.defaults import dataset_defaults, task_defaults, triples_defaults

COMMANDS = {
    "selfcheck": "say in some seconds whether everything works here, and what to do if not",
    "train": "train a policy with GRPO and show what it learnt",
    "fork": "train on from a step of a run, with settings changed",
    "generate": "complete prompts",
    "evaluate": "score a policy on the held-out problems of a task",
    "plot": "draw the curves of one run, or of several with their band",
    "diagnose": "say what is wrong with a run, from its folder or from a log of TRL's",
    "fit": "say how much memory a run would take",
    "report": "write one page with the findings, curves and tokens of a run, or of several",
    "reward-model": "train a reward model on scored records",
    "grade": "grade exercises, in a sandbox",
}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Each flag once, though underscores serve as well as hyphens, and a default where there is one to know."""

    def _format_action_invocation(self, action):
        spelt = [option for option in action.option_strings if "_" not in option] or action.option_strings
        if not spelt:
            return super()._format_action_invocation(action)
        value = "" if action.nargs == 0 else " " + self._format_args(action, self._get_default_metavar_for_optional(action))
        return ", ".join(spelt) + value

    def _get_help_string(self, action):
        known = action.default in (None, False, argparse.SUPPRESS) or "(default" in (action.help or "")
        return action.help if known else super()._get_help_string(action)


def new_parser(name: str = "", parser_class=argparse.ArgumentParser, **kwargs) -> argparse.ArgumentParser:
    """A parser without abbreviations, whose errors are one sentence."""
    prog = f"minigrpo {name}".strip()

    class Parser(parser_class):
        def parse_known_args(self, args=None, namespace=None):
            self.words = args
            return super().parse_known_args(args, namespace)

        def add_argument(self, *names, group=None, **kwargs):
            """Also for HfArgumentParser, which hands a field's metadata on."""
            return (self.titled(group) if group else super()).add_argument(*names, **kwargs)

        def titled(self, title):
            if not any(group.title == title for group in self._action_groups):
                for group in GROUPS:
                    self.add_argument_group(group)
            return next(group for group in self._action_groups if group.title == title)

        def error(self, message):
            raise BadInput(f"{message}{_likely_flag(self.words, self._option_string_actions)}; see {prog} --help.")

    return Parser(prog=prog, allow_abbrev=False, **{"description": COMMANDS.get(name), "formatter_class": Help, **kwargs})


def _likely_flag(words: list[str], flags) -> str:
    """Which flag was meant by the first that is none, if one is near."""
    unknown = [word.split("=")[0] for word in words if re.match("--[a-z]", word) and word.split("=")[0] not in flags]
    near = difflib.get_close_matches(unknown[0], flags, n=1) if unknown else []
    return f" (for {unknown[0]}, is {near[0]} meant?)" if near else ""


def add_flag(parser: argparse.ArgumentParser, name: str, **kwargs) -> None:
    """A flag with hyphens or underscores alike."""
    parser.add_argument(f"--{name.replace('_', '-')}", *([f"--{name}"] if "_" in name else []), **kwargs)


def seed(text: str) -> int:
    """The type of a flag: what GRPOConfig takes as a seed."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number between 0 and 2147483647, got {text:.40}")
    return number


# --- train --------------------------------------------------------------------------------------------------------


def train_config(argv: list[str]) -> tuple[GRPOConfig, argparse.Namespace]:
    """The configuration of a run, and the flags that are none of its fields: config, resume and overwrite.

    Raises:
        BadInput: for flags that are unknown or out of range, or that a resumed run cannot take.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # where the defaults come from has to be known first
    early.add_argument("--resume", action="store_true")
    add_flag(early, "output_dir", nargs="?")
    early.add_argument("--triples", nargs="?", const="bundled")
    add_flag(early, "dataset_name", nargs="?")
    early.add_argument("--config", nargs="?")
    early.add_argument("--task", nargs="?")
    known, _ = early.parse_known_args(argv)
    in_file = read_config(known.config) if known.config else {}
    if not known.resume:
        triples = known.triples or in_file.get("triples")
        dataset = known.dataset_name or in_file.get("dataset_name")
        of_a_task = dataset_defaults() if dataset else task_defaults(known.task or in_file.get("task"))
        defaults = triples_defaults(triples) if triples else of_a_task
        return _parse_train(argv, defaults | in_file)
    if known.config:
        raise BadInput("--resume goes on with the run as it was configured; leave --config out.")
    if known.output_dir is None:
        raise BadInput("--resume needs --output_dir, the folder of the run to go on with.")
    from minigrpo.run import folders

    saved = folders.saved_config(known.output_dir)
    config, flags = _parse_train(argv, {**saved, "output_dir": known.output_dir})
    if flags.overwrite:
        raise BadInput("--resume goes on with the run, --overwrite deletes it; give one of the two.")
    folders.check_resumable(saved, config)
    return config, flags


def _parse_train(argv: list[str], defaults: dict) -> tuple[GRPOConfig, argparse.Namespace]:
    """What the flags say over these defaults."""
    from transformers import HfArgumentParser

    usage = "minigrpo train [--FLAG VALUE ...]"
    parser = new_parser("train", HfArgumentParser, dataclass_types=GRPOConfig, usage=usage, epilog=_other_defaults())
    start = {"group": GROUPS[0]}
    add_flag(parser, "config", **start, help="A file of such settings (YAML or a run's config.json); flags have the last word.")
    add_flag(parser, "resume", **start, action="store_true", help="Go on with the run in --output_dir, as it was configured.")
    add_flag(parser, "overwrite", **start, action="store_true", help="Delete the run that is in --output_dir first.")
    parser.set_defaults(**defaults)
    config, flags, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    return config, flags


def _other_defaults() -> str:
    """What the last lines of the help say: which flags have another default for another task."""

    def listed(defaults: dict) -> str:
        return ", ".join(f"{name} {value}" for name, value in defaults.items() if name != "task")

    return (
        f"Other defaults come with --task addition ({listed(task_defaults('addition'))}) and words "
        f"({listed(task_defaults('words'))}), with --triples ({listed(triples_defaults('bundled'))}), and with --dataset-name "
        f"({listed(dataset_defaults())}). With one of these, --help shows them where they belong."
    )


def read_config(path: str) -> dict:
    """Fields of GRPOConfig by name, from a YAML file or the config.json of a run; of that one without its output_dir.

    Raises:
        BadInput: if it cannot be read, or has a key that is no field.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"--config {path!r}, line {error.problem_mark.line + 1}, is not YAML: {error.problem}.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"--config {path!r} cannot be read: {first_line(error)}.") from error
    if not isinstance(values, dict):
        raise BadInput(f"--config {path!r} holds {values!r:.60}; wanted is a line per field, such as learning_rate: 1e-4")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    fields = [field.name for field in dataclasses.fields(GRPOConfig)]
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise BadInput(f"--config {path!r} has {name!r}, which is no field{f'; is {near[0]} meant?' if near else '.'}")
    if Path(path).name == "config.json":
        values.pop("output_dir", None)
    return values


def fit_args(argv: list[str]) -> tuple[dict, bool]:
    """What ``fit`` takes: model and configuration, by the flags of train, and the tokens of a prompt; and ``seconds``."""
    parser = new_parser("fit", epilog="Every flag of minigrpo train is taken, too, such as --model and --num-generations.")
    add_flag(parser, "prompt_length", type=int, default=64, help="tokens of a prompt (default %(default)s)")
    add_flag(parser, "seconds", action="store_true", help="time a step, too, on this machine; that takes about as long as one")
    args, of_train = parser.parse_known_args(argv)
    config, _ = train_config(of_train)
    return {"model": config.model, "config": config, "prompt_length": args.prompt_length}, args.seconds


def fork_config(argv: list[str]) -> tuple[dict, GRPOConfig, argparse.Namespace]:
    """The configuration of the run that is forked, that of the fork, and ``run`` and ``at``.

    Raises:
        BadInput: for flags that are unknown or out of range, or a folder that holds no run.
    """
    from transformers import HfArgumentParser

    parser = new_parser("fork", HfArgumentParser, dataclass_types=GRPOConfig)
    parser.add_argument(
        "run", metavar="RUN", help="The folder of the run; its configuration is kept but for what is named here."
    )
    add_flag(parser, "at", type=int, required=True, help="The step to go on from: the latest checkpoint up to it is taken.")
    from minigrpo.run import folders

    saved = folders.saved_config(parser.parse_args(argv).run)
    parser.set_defaults(**{**saved, "output_dir": None})
    config, flags = parser.parse_args_into_dataclasses(argv)
    return saved, config, flags


# --- reward-model -------------------------------------------------------------------------------------------------


def reward_model_args(argv: list[str]) -> argparse.Namespace:
    """The arguments of ``reward-model train``. Raises BadInput for those out of range."""
    parser = new_parser("reward-model")
    parser.add_argument("action", choices=("train",))
    parser.add_argument(
        "--triples", default="bundled", help="a .jsonl, .json, .csv or .parquet file; by default the bundled records"
    )
    parser.add_argument("--model", default="tiny", help="the backbone: tiny, a folder, or a name on the hub")
    objectives = "regression: the scores themselves; bradley_terry: which of two responses to one prompt is better"
    parser.add_argument("--objective", choices=("regression", "bradley_terry"), default="regression", help=objectives)
    add_flag(parser, "max_steps", type=int, default=100, help="optimizer updates (default %(default)s)")
    add_flag(parser, "learning_rate", type=float, help="of AdamW, at the start (default: 3e-3, bradley_terry 1e-3)")
    add_flag(parser, "seed", type=seed, default=0, help="(default %(default)s)")
    add_flag(parser, "output_dir", help="a new folder; by default runs/reward-model")
    args = parser.parse_args(argv)
    if args.max_steps < 1 or not (args.learning_rate is None or 0 < args.learning_rate < float("inf")):
        raise BadInput(f"max_steps and learning_rate must be above 0, got {args.max_steps} and {args.learning_rate}.")
    return args
