"""The command line: minigrpo train | generate | evaluate | plot ... Flags, files and sentences; no algebra."""

import argparse
import importlib.metadata
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minigrpo.config import BadInput, first_line
from minigrpo.run.asking import evaluation_args, generation_args
from minigrpo.run.flags import (
    COMMANDS,
    fit_args,
    fork_config,
    new_parser,
    reward_model_args,
    train_config,
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what its encoding lacks is written as an escape, and ends no run
            stream.reconfigure(errors="backslashreplace")
    if argv[:1] == ["--version"]:
        print(f"minigrpo {importlib.metadata.version('minigrpo')}")
        return 0
    try:
        return _command(argv)(argv[1:]) or 0
    except (BadInput, FloatingPointError) as error:
        _complain(f"minigrpo: {error}")
    except OSError as error:
        lost = isinstance(error, ConnectionError)  # of another process, and the launcher is about to end this one
        _complain(f"minigrpo: {error.strerror or error}: {error.filename or ''}".rstrip(": ") + ".", at_once=lost)
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        settings = "num_generations, generation_batch_size, max_completion_length"
        _complain(f"minigrpo: There is too little memory for so many tokens at once: {first_line(error)} Lower {settings}.")
    except KeyboardInterrupt:
        print("\nminigrpo: stopped.", file=sys.stderr)
        return 130
    return 2


def _is_of_memory(error: Exception) -> bool:
    """Whether Python, torch on a CPU, or CUDA has run out of it."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _command(argv: list[str]) -> Callable[[list[str]], int | None]:
    """The function of the command that is named first."""
    parser = new_parser(
        usage="minigrpo COMMAND [--help] ...",
        description="Learn GRPO by building it: a GPT-2 learns to think, on a laptop, offline.",
        epilog="commands:\n" + "\n".join(f"  {name:14}{text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    parser.add_argument("--version", action="store_true", help="say which version this is, and exit")
    if argv[:1] == ["resume"]:
        raise BadInput("There is no command resume: minigrpo train --resume --output-dir RUN goes on with a run.")
    command = parser.parse_args(argv[:1] or ["--help"]).command
    return globals()[f"_{command.replace('-', '_')}"]


def _complain(sentence: str, *, at_once: bool = False) -> None:
    """Of several processes that a launcher started all may find the same mistake: the first says so, and by the time that
    the others would, the launcher has ended them. A mistake that only another one has found is said a little later."""
    rank = os.environ.get("RANK", "")
    if rank.isdigit() and int(rank) > 0 and not at_once:
        time.sleep(3)
    print(sentence, file=sys.stderr)


def _quiet() -> None:
    """Of libraries only errors; of this package also where its weights came from."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("minigrpo").setLevel(logging.INFO)
    logging.lastResort.setLevel(logging.INFO)


def _train(argv: list[str]) -> int:
    config, flags = train_config(argv)
    _quiet()
    from minigrpo.run.runner import run

    return run(config, resume=flags.resume, overwrite=flags.overwrite)


def _fork(argv: list[str]) -> int:
    saved, config, flags = fork_config(argv)
    from minigrpo.run import fork

    planned = fork.plan(Path(flags.run), flags.at, saved, config)
    if planned.step != flags.at:
        print(f"There is no checkpoint of step {flags.at}; the nearest before it is that of step {planned.step}.")
    _quiet()
    from minigrpo.run.runner import run

    return run(config, fork=planned)


def _selfcheck(argv: list[str]) -> int:
    new_parser("selfcheck").parse_args(argv)
    from minigrpo.grading.sandbox import isolation
    from minigrpo.run import selfcheck

    return selfcheck.run(isolation, _quiet)


# --- the other commands -------------------------------------------------------------------------------------------


def _generate(argv: list[str]) -> None:
    args, as_the_run = generation_args(argv)
    _quiet()
    from minigrpo.chat import last_words
    from minigrpo.policy import load_policy
    from minigrpo.run import inputs
    from minigrpo.sampling import sample_completions, seeded

    prompts = inputs.prompts_to_complete(args)
    model, tokenizer = load_policy(args.model)
    if note := as_the_run or inputs.template_note(args.model, tokenizer, prompts[0]):
        print(f"minigrpo: {note}", file=sys.stderr)
    rollout = sample_completions(
        model,
        tokenizer,
        prompts,
        num_generations=args.num_generations,
        max_completion_length=args.max_completion_length,
        temperature=args.temperature,
        generator=seeded(args.seed),
    )
    for row, completion in enumerate(rollout.completions):
        if len(prompts) > 1 and row % args.num_generations == 0:
            print(last_words(rollout.prompts[row]))
        print(f"  {completion}" if len(prompts) > 1 else completion)


def _evaluate(argv: list[str]) -> None:
    args, config, own = evaluation_args(argv)
    _quiet()
    from minigrpo.run import evaluate

    evaluate.run(args, config, own)


def _plot(argv: list[str]) -> None:
    parser = new_parser("plot")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, or its metrics.jsonl")
    parser.add_argument("--output", help="the picture; by default curves.png, in the run's folder if there is one run")
    args = parser.parse_args(argv)
    inside = len(args.runs) == 1 and Path(args.runs[0]).is_dir()
    output = Path(args.output or (Path(args.runs[0]) / "curves.png" if inside else "curves.png"))
    from minigrpo.run import folders, fork
    from minigrpo.run.summary import plot_forks_to, plot_to

    folders.check_output(output)
    rows = [folders.read_metrics(run) for run in args.runs]
    name = Path(args.runs[0]).resolve().name
    if (parted := fork.parting([Path(run) for run in args.runs])) is not None:
        plot_forks_to(output, dict(zip(args.runs, rows, strict=True)), parted)
    else:
        for note in fork.what_a_mean_hides(dict(zip(args.runs, rows, strict=True))):
            print(f"minigrpo: {note}", file=sys.stderr)
        plot_to(output, rows, name if len(rows) == 1 else f"{len(rows)} runs: mean, and band from lowest to highest")
    print(output.resolve())


def _report(argv: list[str]) -> None:
    parser = new_parser("report")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run; several are shown side by side")
    parser.add_argument("--output", help="the page; by default report.html, in the run's folder if there is one run")
    args = parser.parse_args(argv)
    folder = Path(args.runs[0]) if len(args.runs) == 1 else Path()
    output = Path(args.output or folder / "report.html")
    from minigrpo.run import folders, report

    if args.output or folder.is_dir():
        folders.check_output(output)
    report.write_report(args.runs, output)
    print(output.resolve())


def _diagnose(argv: list[str]) -> int:
    parser = new_parser("diagnose")
    parser.add_argument(
        "log",
        metavar="RUN_OR_LOG",
        help="a run's folder, trainer_state.json, JSON lines, a console's output, a table as Markdown or CSV; - is the input",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if something is wrong")
    args = parser.parse_args(argv)
    from minigrpo.run.diagnosis.doctor import examine
    from minigrpo.run.diagnosis.logs import as_text, diagnose, parse

    piped = as_text(sys.stdin.buffer.read(), "The input") if args.log == "-" else None
    diagnosis = diagnose(args.log) if piped is None else examine(parse(piped, "The input"))
    print(json.dumps(diagnosis.to_dict(), indent=2) if args.format == "json" else diagnosis)
    return int(args.strict and diagnosis.wrong)


def _fit(argv: list[str]) -> None:
    from minigrpo.run.fit import fit

    asked, timed = fit_args(argv)
    print(fit(**asked), flush=True)
    if timed:
        from minigrpo.run.step_seconds import step_seconds

        seconds = step_seconds(**asked)
        print(f"{seconds:>9.{2 * (seconds < 10)}f} s  a step on this machine, if no completion ends early")


def _reward_model(argv: list[str]) -> None:
    args = reward_model_args(argv)
    _quiet()
    from minigrpo.run import reward_model

    for sentence in reward_model.run(args):
        print(sentence)


def _grade(argv: list[str]) -> int:
    from minigrpo.run import grade

    return grade.run(argv, before=_quiet)
