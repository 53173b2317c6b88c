"""Many submissions, some at a time: every file gets a report, and what the grader fails at costs nobody points."""

import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from minigrpo.config import BadInput
from minigrpo.grading.archives import is_archive, shown, unpack
from minigrpo.grading.cells import plain
from minigrpo.grading.exam import Exam
from minigrpo.grading.people import Submission, find
from minigrpo.grading.results import Report
from minigrpo.grading.sandbox import GraderError, isolation, missing
from minigrpo.grading.submission import by_name, grade_file

WORKERS = 2  # at a time
GIVE_UP = 3  # sandboxes in a row that do not start
FAULT = "This is not the submission's fault."


def grade_paths(
    paths: list[Path],
    *,
    trust: bool = False,
    seed: int | None = None,
    exam: Exam | None = None,
    hide: tuple[Path, ...] = (),
    kept: Path | None = None,
    all_or_nothing: bool = False,
    each: Callable[[list[Report], str], None] = lambda reports, how: None,
) -> tuple[list[Report], str]:
    """Grade notebooks, folders and zip files; the reports, and what kept the code in. ``each`` gets these as they come.

    ``exam``, ``hide`` and ``kept`` are grade_file's.

    Raises:
        BadInput: if nothing is there, a zip file cannot be unpacked, or nothing keeps the code in and ``trust`` is not given.
    """
    with TemporaryDirectory(prefix="minigrpo-") as name:
        room = Path(name)
        folders = unpack(paths, room)
        hidden = tuple(path.parent for path in paths if is_archive(path))
        options = {"hide": (*hide, *hidden), "exam": exam, "kept": kept, "all_or_nothing": all_or_nothing}

        def as_given(reports: list[Report]) -> list[Report]:
            return [replace(one, person=shown(one.person, paths, room), file=shown(one.file, paths, room)) for one in reports]

        reports, walls = _grade(folders, trust, seed, options, lambda reports, how: each(as_given(reports), how))
        return as_given(reports), walls


def _grade(
    paths: list[Path], trust: bool, seed: int | None, options: dict, each: Callable[[list[Report], str], None]
) -> tuple[list[Report], str]:
    submissions, how = find(paths), isolation(trust)
    walls = "; ".join([how, *missing(how)])
    seed = secrets.randbits(31) if seed is None else seed
    options |= {"hide": (*{path if path.is_dir() else path.parent for path in paths}, *options["hide"])}
    reports: dict[int, Report] = {}
    failures = [0]  # sandboxes in a row
    bar = tqdm(total=len(submissions), unit="file", disable=None, leave=False)
    pool = ThreadPoolExecutor(WORKERS)
    waiting = {pool.submit(_report, one, how, seed, options, failures): number for number, one in enumerate(submissions)}
    try:
        for done in as_completed(waiting):
            reports[waiting[done]] = done.result()
            bar.update()
            each([reports[number] for number in sorted(reports)], walls)
    except KeyboardInterrupt:
        _stop(waiting)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    for number, one in enumerate(submissions):
        reports.setdefault(number, _failed(one, f"Grading was stopped before it. {FAULT}"))
    return [reports[number] for number in range(len(submissions))], walls


def _stop(waiting: dict[Future, int]) -> None:
    for future in waiting:
        future.cancel()


def _report(one: Submission, how: str, seed: int, options: dict, failures: list[int]) -> Report:
    """Whatever happens, a report: an error of one submission is kept to it."""
    if one.problem:
        return Report(one.person, by_name(one.path), [], one.problem, file=plain(one.path))
    if failures[0] >= GIVE_UP:
        return _failed(one, f"It was not tried, since the sandbox did not start {GIVE_UP} times in a row. {FAULT}")
    try:
        report = grade_file(one.path, one.person, how, seed, **options)
        failures[0] = 0
    except GraderError as error:
        failures[0] += 1
        return _failed(one, f"{error} {FAULT}")
    except Exception as error:  # of the grader's own: nobody else's report may be lost with it
        return _failed(one, f"The grader failed at it ({type(error).__name__}: {plain(error)}). {FAULT}")
    return report


def _failed(one: Submission, problem: str) -> Report:
    return Report(one.person, by_name(one.path), [], problem, failed=True, file=plain(one.path))


def one_person(submissions: list[Report]) -> None:
    """Raises BadInput if folders of several people are in what has room for one person's points."""
    folders: dict[str, set[Path]] = {}
    for report in submissions:
        if report.exercise:
            folders.setdefault(report.exercise, set()).add(Path(report.file).parent)
    people = sorted({report.person for report in submissions})
    if any(len(found) > 1 for found in folders.values()):
        raise BadInput(f"Gradescope's results are one person's, and here are {len(people)}: {', '.join(people[:3])} ...")
