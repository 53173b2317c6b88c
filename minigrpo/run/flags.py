"""What the command line takes: its parsers, and the configuration that the flags of ``minigrpo train`` make."""

import argparse
import difflib
import re

from minigrpo.config import BadInput, GRPOConfig, check_temperature, triples_defaults

COMMANDS = {
    "train": "train a policy with GRPO and show what it learnt",
    "fork": "train on from a step of a run, with settings changed",
    "generate": "complete prompts",
    "evaluate": "score a policy on the held-out problems of a task",
    "plot": "draw the curves of one run, or of several with their band",
    "report": "write one page with the findings, curves and tokens of a run, or of several",
    "reward-model": "train a reward model on scored records",
    "grade": "grade exercises, in a sandbox",
}


def new_parser(name: str = "", parser_class=argparse.ArgumentParser, **kwargs) -> argparse.ArgumentParser:
    """A parser without abbreviations, whose errors are one sentence."""
    prog = f"minigrpo {name}".strip()

    class Parser(parser_class):
        def parse_known_args(self, args=None, namespace=None):
            self.words = args
            return super().parse_known_args(args, namespace)

        def error(self, message):
            raise BadInput(f"{message}{_likely_flag(self.words, self._option_string_actions)}; see {prog} --help.")

    return Parser(prog=prog, allow_abbrev=False, **{"description": COMMANDS.get(name), **kwargs})


def _likely_flag(words: list[str], flags) -> str:
    """Which flag was meant by the first that is none, if one is near."""
    unknown = [word.split("=")[0] for word in words if re.match("--[a-z]", word) and word.split("=")[0] not in flags]
    near = difflib.get_close_matches(unknown[0], flags, n=1) if unknown else []
    return f" (for {unknown[0]}, is {near[0]} meant?)" if near else ""


def add_flag(parser: argparse.ArgumentParser, name: str, **kwargs) -> None:
    """A flag with hyphens or underscores alike."""
    parser.add_argument(f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else []), **kwargs)


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
    """The configuration of a run, and the flags that are none of its fields: resume and overwrite.

    Raises:
        BadInput: for flags that are unknown or out of range, or that a resumed run cannot take.
    """
    from transformers import HfArgumentParser

    def parse(defaults: dict) -> tuple[GRPOConfig, argparse.Namespace]:
        parser = new_parser("train", HfArgumentParser, dataclass_types=GRPOConfig)
        add_flag(parser, "resume", action="store_true", help="Go on with the run in --output_dir; its configuration is kept.")
        add_flag(parser, "overwrite", action="store_true", help="Delete the run that is in --output_dir first.")
        parser.set_defaults(**defaults)
        config, flags, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        if unknown:
            parser.error(f"unknown: {' '.join(unknown)}")
        return config, flags

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # where the defaults come from has to be known first
    early.add_argument("--resume", action="store_true")
    add_flag(early, "output_dir", nargs="?")
    early.add_argument("--triples", nargs="?", const="bundled")
    known, _ = early.parse_known_args(argv)
    if not known.resume:
        return parse(triples_defaults(known.triples) if known.triples else {})
    if known.output_dir is None:
        raise BadInput("--resume needs --output_dir, the folder of the run to go on with.")
    from minigrpo.run import folders

    saved = folders.saved_config(known.output_dir)
    config, flags = parse({**saved, "output_dir": known.output_dir})
    if flags.overwrite:
        raise BadInput("--resume goes on with the run, --overwrite deletes it; give one of the two.")
    folders.check_resumable(saved, config)
    return config, flags


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


# --- generate and evaluate ----------------------------------------------------------------------------------------


def sampling_args(parser: argparse.ArgumentParser, argv: list[str], *, num_generations: int, max_completion_length: int):
    """The arguments of a command that samples. Raises BadInput for those out of range."""
    parser.add_argument("--model", default="tiny", help="tiny, the folder of a run or model, or a name on the hub")
    add_flag(parser, "num_generations", type=int, default=num_generations, help="completions per prompt (default %(default)s)")
    add_flag(parser, "temperature", type=float, default=1.0, help="0 is greedy (default %(default)s)")
    add_flag(parser, "max_completion_length", type=int, default=max_completion_length, help="tokens (default %(default)s)")
    add_flag(parser, "seed", type=seed, default=0, help="(default %(default)s)")
    args = parser.parse_args(argv)
    for name in ("num_generations", "max_completion_length"):
        if getattr(args, name) < 1:
            raise BadInput(f"{name} must be at least 1, got {getattr(args, name)}.")
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
