"""Many submissions: every file gets a report, whatever is in it."""

import secrets
from pathlib import Path

from minigrpo.config import BadInput
from minigrpo.grading.sandbox import GraderError, isolation
from minigrpo.grading.submission import Report, grade_file


def find(paths: list[Path]) -> list[tuple[str, Path]]:
    """(person, notebook) of every notebook named, or in a folder that is named.

    In a folder, submissions/ann/ex06_kl.ipynb is ann's; a file that lies in the folder itself, or is named, is its own person.
    Links are not followed.

    Raises:
        BadInput: if a path does not exist, or no notebook is found.
    """
    found = []
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise BadInput(f"There is no {str(path)!r} to grade.")
        if path.is_dir() and not path.is_symlink():
            inside = sorted(p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
            found += [(_person(p, path), p) for p in inside]
        else:
            found.append((path.stem if sum(p.stem == path.stem for p in paths) == 1 else str(path.with_suffix("")), path))
    if not found:
        raise BadInput(f"There is no notebook (.ipynb) in {', '.join(map(str, paths))}.")
    return found


def _person(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder)
    return inside.parts[0] if len(inside.parts) > 1 else path.stem


def grade_paths(
    paths: list[Path], *, trust: bool = False, seed: int | None = None, all_or_nothing: bool = False
) -> tuple[list[Report], str]:
    """Grade them all; the reports, and what kept the code in.

    Raises:
        BadInput: if nothing is there, or nothing can keep the code in and ``trust`` is not given.
    """
    submissions, how = find(paths), isolation(trust)
    seed = secrets.randbits(31) if seed is None else seed
    try:
        return [grade_file(path, person, how, seed, all_or_nothing=all_or_nothing) for person, path in submissions], how
    except GraderError as error:
        raise BadInput(f"{error} This is not the submission's fault; nothing was graded.") from error
