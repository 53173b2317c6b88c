"""The command line: minigrpo train | generate | evaluate | plot ... Flags, files and sentences; no algebra."""

import argparse
import os
import sys
import time
from pathlib import Path

from minigrpo.config import BadInput, GRPOConfig, triples_defaults

COMMANDS = {
    "train": "train a policy with GRPO and show what it learnt",
    "generate": "complete prompts",
    "evaluate": "score a policy on the held-out problems of a task",
    "plot": "draw the curves of one run, or of several with their band",
    "reward-model": "train a reward model on scored records",
    "grade": "grade exercises, in a sandbox",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        parser = _parser(
            usage="minigrpo COMMAND [--help] ...",
            description="Learn GRPO by building it: a GPT-2 learns to think, on a laptop, offline.",
            epilog="commands:\n" + "\n".join(f"  {name:14}{text}" for name, text in COMMANDS.items()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
        command = parser.parse_args(argv[:1] or ["--help"]).command
        return globals()[f"_{command.replace('-', '_')}"](argv[1:]) or 0
    except (BadInput, FloatingPointError) as error:
        _complain(f"minigrpo: {error}")
    except OSError as error:
        lost = isinstance(error, ConnectionError)  # of another process, and the launcher is about to end this one
        _complain(f"minigrpo: {error.strerror or error}: {error.filename or ''}".rstrip(": ") + ".", at_once=lost)
    except KeyboardInterrupt:
        print("\nminigrpo: stopped.", file=sys.stderr)
        return 130
    return 2


def _complain(sentence: str, *, at_once: bool = False) -> None:
    """Of several processes that a launcher started all may find the same mistake: the first says so, and by the time that
    the others would, the launcher has ended them. A mistake that only another one has found is said a little later."""
    if int(os.environ.get("RANK", 0)) > 0 and not at_once:
        time.sleep(3)
    print(sentence, file=sys.stderr)


def _parser(name: str = "", parser_class=argparse.ArgumentParser, **kwargs) -> argparse.ArgumentParser:
    """A parser without abbreviations, whose errors are one sentence."""
    prog = f"minigrpo {name}".strip()

    class Parser(parser_class):
        def error(self, message):
            raise BadInput(f"{message}; see {prog} --help.")

    return Parser(prog=prog, allow_abbrev=False, **{"description": COMMANDS.get(name), **kwargs})


def _add(parser: argparse.ArgumentParser, name: str, **kwargs) -> None:
    """A flag with hyphens or underscores alike."""
    parser.add_argument(f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else []), **kwargs)


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


# --- train --------------------------------------------------------------------------------------------------------


def _train_config(argv: list[str]) -> tuple[GRPOConfig, argparse.Namespace]:
    from transformers import HfArgumentParser

    def parse(defaults: dict) -> tuple[GRPOConfig, argparse.Namespace]:
        parser = _parser("train", HfArgumentParser, dataclass_types=GRPOConfig)
        _add(parser, "resume", action="store_true", help="Go on with the run in --output_dir; its configuration is kept.")
        _add(parser, "overwrite", action="store_true", help="Delete the run that is in --output_dir first.")
        parser.set_defaults(**defaults)
        config, flags, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        if unknown:
            parser.error(f"unknown: {' '.join(unknown)}")
        return config, flags

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # where the defaults come from has to be known first
    early.add_argument("--resume", action="store_true")
    _add(early, "output_dir", nargs="?")
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


def _train(argv: list[str]) -> int:
    config, flags = _train_config(argv)
    _quiet()
    from minigrpo.run.runner import run

    return run(config, resume=flags.resume, overwrite=flags.overwrite)


# --- the other commands -------------------------------------------------------------------------------------------


def _generate(argv: list[str]) -> None:
    parser = _parser("generate")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    _sampling_flags(parser, num_generations=1, max_completion_length=32)
    args = parser.parse_args(argv)
    _check_sampling(args)
    _quiet()
    from minigrpo.policy import load_policy
    from minigrpo.sampling import sample_completions, seeded

    model, tokenizer = load_policy(args.model)
    rollout = sample_completions(
        model,
        tokenizer,
        args.prompts,
        num_generations=args.num_generations,
        max_completion_length=args.max_completion_length,
        temperature=args.temperature,
        generator=seeded(args.seed),
    )
    for completion in rollout.completions:
        print(completion)


def _evaluate(argv: list[str]) -> None:
    parser = _parser("evaluate")
    parser.add_argument("--task", choices=("clock", "sums"), default="clock")
    _sampling_flags(parser, num_generations=8, max_completion_length=16)
    args = parser.parse_args(argv)
    _check_sampling(args)
    _quiet()
    from minigrpo.evaluation import evaluate
    from minigrpo.policy import load_policy
    from minigrpo.run.runner import print_table
    from minigrpo.tasks import load_task

    model, tokenizer = load_policy(args.model)
    settings = {k: getattr(args, k) for k in ("num_generations", "temperature", "max_completion_length", "seed")}
    print_table({args.task: evaluate(model, tokenizer, load_task(args.task), **settings)})


def _sampling_flags(parser: argparse.ArgumentParser, *, num_generations: int, max_completion_length: int) -> None:
    parser.add_argument("--model", default="tiny", help="tiny, the folder of a run or model, or a name on the hub")
    _add(parser, "num_generations", type=int, default=num_generations, help="completions a prompt (default %(default)s)")
    _add(parser, "temperature", type=float, default=1.0, help="0 is greedy (default %(default)s)")
    _add(parser, "max_completion_length", type=int, default=max_completion_length, help="tokens (default %(default)s)")
    _add(parser, "seed", type=int, default=0, help="(default %(default)s)")


def _check_sampling(args: argparse.Namespace) -> None:
    for name in ("num_generations", "max_completion_length"):
        if getattr(args, name) < 1:
            raise BadInput(f"{name} must be at least 1, got {getattr(args, name)}.")
    if not 0 <= args.temperature < float("inf"):
        raise BadInput(f"temperature must be 0 (greedy) or a positive number, got {args.temperature}.")


def _plot(argv: list[str]) -> None:
    parser = _parser("plot")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, or its metrics.jsonl")
    parser.add_argument("--output", help="the picture; by default curves.png, in the run's folder if there is one run")
    args = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    from minigrpo.run.folders import read_metrics
    from minigrpo.view.plots import plot_runs, save_figure

    rows = [read_metrics(run) for run in args.runs]
    inside = len(args.runs) == 1 and Path(args.runs[0]).is_dir()
    output = Path(args.output or (Path(args.runs[0]) / "curves.png" if inside else "curves.png"))
    title = Path(args.runs[0]).name if len(rows) == 1 else f"{len(rows)} runs: mean, and band from lowest to highest"
    save_figure(plot_runs(rows, title=title)[0].figure, output)
    print(output)


def _reward_model(argv: list[str]) -> None:
    parser = _parser("reward-model")
    parser.add_argument("action", choices=("train",))
    parser.add_argument("--triples", default="bundled", help="a .jsonl, .csv or .parquet file; by default the bundled records")
    parser.add_argument("--model", default="tiny", help="the backbone: tiny, a folder, or a name on the hub")
    objectives = "regression: the scores themselves; bradley_terry: which of two responses to one prompt is better"
    parser.add_argument("--objective", choices=("regression", "bradley_terry"), default="regression", help=objectives)
    _add(parser, "max_steps", type=int, default=100, help="optimizer updates (default %(default)s)")
    _add(parser, "learning_rate", type=float, help="of AdamW, at the start (default: 3e-3, bradley_terry 1e-3)")
    _add(parser, "seed", type=int, default=0, help="(default %(default)s)")
    _add(parser, "output_dir", help="a new folder; by default runs/reward-model")
    args = parser.parse_args(argv)
    if args.max_steps < 1 or not (args.learning_rate is None or 0 < args.learning_rate < float("inf")):
        raise BadInput(f"max_steps and learning_rate must be above 0, got {args.max_steps} and {args.learning_rate}.")
    _quiet()
    from tqdm import tqdm

    from minigrpo import reward_model
    from minigrpo.policy import save_policy
    from minigrpo.run import folders
    from minigrpo.triples import load_triples

    train, held_out = reward_model.split_by_prompt(load_triples(args.triples))
    model, tokenizer = reward_model.start_reward_model(args.model)
    before = reward_model.pair_accuracy(model, tokenizer, held_out)
    folder = folders.new_folder(args.output_dir, "reward-model")
    settings = {"objective": args.objective, "steps": args.max_steps, "learning_rate": args.learning_rate, "seed": args.seed}
    for row in (bar := tqdm(reward_model.train_reward_model(model, tokenizer, train, **settings), total=args.max_steps)):
        bar.set_postfix(loss=f"{row['loss']:.3f}")
    after = reward_model.pair_accuracy(model, tokenizer, held_out)
    save_policy(model, tokenizer, folder)
    summary = {"triples": args.triples, **settings, "held_out_pair_accuracy": {"before": before, "after": after}}
    folders.write_json(folder / "summary.json", summary)
    print(f"{len(train)} records; pairs of held-out prompts in the right order: {before:.3f} before, {after:.3f} after.")
    print(f"Use it: minigrpo train --task sums --reward-model {folder}")


def _grade(argv: list[str]) -> int:
    parser = _parser("grade")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="notebooks, or folders of them")
    parser.add_argument("--format", choices=("table", "csv", "json", "junit", "gradescope"), default="table")
    parser.add_argument("--output", help="the file to write; by default what is printed")
    parser.add_argument("--seed", type=int, help="of the random inputs; by default other ones each time")
    _add(parser, "min_score", type=float, help="points below which the exit code is 1")
    parser.add_argument(
        "--trust", action="store_true", help="run without a sandbox where there is none: for your own work only"
    )
    args = parser.parse_args(argv)
    _quiet()
    from minigrpo.grading import batch, reports

    graded, how = batch.grade_paths([Path(path) for path in args.paths], trust=args.trust, seed=args.seed)
    text = reports.write(graded, how, args.format)
    if args.output is None:
        print(text, end="")
    else:
        from minigrpo.run.folders import write_text

        write_text(Path(args.output), text)
    points = sum(report.points for report in reports.counted(graded))
    return 1 if args.min_score is not None and points < args.min_score else 0
