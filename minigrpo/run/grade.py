"""The command ``minigrpo grade``: what it is given, where its report goes, and what its exit code says."""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minigrpo.config import BadInput
from minigrpo.run import folders
from minigrpo.run.flags import add_flag, new_parser, seed

EVERY = 2.0  # seconds between two writings of a report that is not yet whole


def run(argv: list[str], before: Callable[[], None]) -> int:
    """Grade, write the report as it grows, and return the exit code.

    0: all was graded; 1: with fewer points than --min-score; 2: nothing could be graded; 3: something could not. ``before`` is
    called when the arguments are known to be good.
    """
    args = _args(argv)
    paths, output = [Path(path) for path in args.paths], args.output and Path(args.output)
    if output:
        _check_output(output, paths, args.format)
    elif args.format == "html":
        raise BadInput("--format html writes a page per person and class.html: name a folder for them with --output.")
    before()
    from minigrpo.grading import batch, exam, pages, reports

    asked = exam.load(Path(args.questions)) if args.questions else None
    settings = {"exam": asked, "hide": (Path(args.questions).parent,) if asked else (), "kept": args.cache and Path(args.cache)}
    settings["all_or_nothing"] = args.all_or_nothing
    written = [time.monotonic()]

    def each(graded: list, how: str) -> None:
        if output and time.monotonic() - written[0] > EVERY:
            write(graded, how)
            written[0] = time.monotonic()

    def write(graded: list, how: str) -> None:
        if args.format == "html":
            for name, text in pages.pages(graded, how).items():
                folders.write_text(output / name, text)
            return
        text = reports.write(graded, how, args.format)
        if output:
            folders.write_text(output, text)
        else:
            sys.stdout.write(text)

    graded, how = batch.grade_paths(paths, trust=args.trust, seed=args.seed, each=each, **settings)
    if args.format == "gradescope":
        batch.one_person(graded)
    write(graded, how)
    return _exit_code(graded, reports.counted(graded), args.min_score)


def _exit_code(graded: list, counted: list, min_score: float | None) -> int:
    problems = [report for report in graded if report.problem]
    for report in [report for report in problems if report.failed][:1]:
        sys.stderr.write(f"minigrpo: {report.person}: {report.problem}\n")
    if len(problems) == len(graded):
        return 2
    if problems:
        sys.stderr.write(f"minigrpo: {len(problems)} of {len(graded)} could not be graded; the report says why.\n")
        return 3
    return 1 if min_score is not None and sum(report.points for report in counted) < min_score else 0


def _args(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("grade")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="notebooks, folders of them, or the zip files of a learning platform"
    )
    parser.add_argument("--format", choices=("table", "csv", "json", "junit", "gradescope", "html"), default="table")
    parser.add_argument("--output", help="the file to write, for html the folder; by default what is printed")
    parser.add_argument("--seed", type=seed, help="of the random inputs; by default other ones each time")
    parser.add_argument("--questions", metavar="FILE.py", help="questions of your own (exercises/README.md)")
    parser.add_argument("--cache", metavar="FOLDER", help="keep results there, and grade again only what changed; needs --seed")
    add_flag(parser, "min_score", type=float, help="points below which the exit code is 1")
    add_flag(parser, "all_or_nothing", action="store_true", help="no points where a case fails; else by the share of cases")
    parser.add_argument(
        "--trust", action="store_true", help="run without a sandbox where there is none: for your own work only"
    )
    args = parser.parse_args(argv)
    if args.min_score is not None and not math.isfinite(args.min_score):
        raise BadInput(f"min_score must be a number of points, got {args.min_score}.")
    if args.cache and args.seed is None:
        raise BadInput("--cache needs --seed: with other random inputs each time, nothing that was kept would hold.")
    return args


def _check_output(output: Path, paths: list[Path], form: str) -> None:
    if form == "html":
        if output.exists() and not output.is_dir():
            raise BadInput(f"--output {str(output)!r} is a file; --format html wants a folder for its pages.")
        output.mkdir(parents=True, exist_ok=True)
    else:
        folders.check_output(output)
    if output.suffix == ".ipynb" or any(output.exists() and path.exists() and output.samefile(path) for path in paths):
        raise BadInput(f"--output {str(output)!r} would replace a submission with its report; name another file.")
