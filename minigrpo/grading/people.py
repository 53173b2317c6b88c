"""Who handed in what: notebooks found in folders as learning platforms give them out."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from minigrpo.config import BadInput
from minigrpo.grading import archives
from minigrpo.grading.cells import plain
from minigrpo.grading.submission import by_name

DEEPEST = 30  # folders in one another
NOTHING = "nothing"  # stands for what an empty folder holds
IGNORED = ("__MACOSX", "__pycache__")  # besides all whose names begin with a dot


@dataclass(frozen=True)
class Submission:
    """A notebook of a person, or the problem with what is there instead."""

    person: str
    path: Path
    problem: str = ""


def find(paths: list[Path]) -> list[Submission]:
    """Every notebook named, or in a folder that is named, and every person's folder that holds none.

    In a folder, submissions/ann/ex06_kl.ipynb is ann's, and where sections hold people, submissions/monday/ann/ex06_kl.ipynb is
    monday/ann's. A file that lies in the folder itself is its own person. Links are not followed.
    People come by name, upper case aside, and every report keeps this order.

    Raises:
        BadInput: if a path does not exist, or nothing is found.
    """
    found: list[list[Submission]] = []
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise BadInput(f"There is no {plain(path)!r} to grade.")
        folder = path.is_dir() and not path.is_symlink()
        found.append(_in_folder(path, several=len(paths) > 1) if folder else [Submission(path.stem, path)])
    if not any(found):
        raise BadInput(f"There is no notebook (.ipynb) in {', '.join(plain(path) for path in paths)}.")
    return sorted(_apart(paths, found), key=lambda one: (one.person.casefold(), one.person, str(one.path)))


def _apart(paths: list[Path], found: list[list[Submission]]) -> list[Submission]:
    """With plain names, no two people of one name: those of two paths are told apart by these, others by a number."""
    where = Counter(name for group in found for name in {one.person for one in group})
    names: dict[str, tuple] = {}
    apart = []
    for path, group in zip(paths, found, strict=True):
        for one in group:
            folder = path if path != one.path else path.parent
            name = plain(folder / one.person if where[one.person] > 1 else one.person) or "?"
            key, number, free = (path, one.person, one.path.parent == path), 1, name  # bob.ipynb need not be of bob/
            while names.setdefault(free, key) != key:
                number += 1
                free = f"{name} ({number})"
            apart.append(replace(one, person=free))
    return apart


def _in_folder(folder: Path, several: bool) -> list[Submission]:
    notebooks, others, problems = _walk(folder)
    depth = 2 if _has_sections(notebooks) else 1
    found = [Submission(_owner(path, depth), folder / path) for path in notebooks]
    names = [by_name(path) for path in notebooks if len(path.parts) == 1]
    if several and len(names) == len(notebooks) == len(set(names) - {None}):  # ann's folder itself was named
        found = [replace(one, person=folder.resolve().name) for one in found]
    people = {one.person for one in found}
    found += [Submission(_owner(path, depth), folder / path, text) for path, text in problems]
    empty: dict[str, list[Path]] = {}
    for path in others:
        alone = len(path.parts) == 1
        if (".ipynb" in path.name.lower()) if alone else _owner(path, depth) not in people:
            empty.setdefault(path.name if alone else _owner(path, depth), []).append(path)
    for person, files in empty.items():
        names = [plain(path.name) for path in files if path.name != NOTHING]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        holds = f"There is no notebook (.ipynb) here, but {', '.join(names[:3])}{more}." if names else "The folder is empty."
        where = folder if len(files[0].parts) == 1 else folder / person
        found.append(Submission(person, where, holds))
    return sorted(found, key=lambda one: (str(one.person), str(one.path)))


def _owner(path: Path, depth: int) -> str:
    """Of a path below a folder: the folders down to the person, or of a file that lies in the folder its stem."""
    parents = path.parts[:-1]
    return "/".join(map(archives.person, parents[:depth])) if parents else archives.person(path.stem)


def _has_sections(notebooks: list[Path]) -> bool:
    """Whether the folders hold people and not work: in most of them two folders hold the same exercise."""
    tops = {path.parts[0] for path in notebooks if len(path.parts) > 1}
    if any(len(path.parts) == 2 for path in notebooks):
        return False
    held: dict[str, dict[str, set]] = {top: {} for top in tops}
    for path in notebooks:
        if len(path.parts) > 2:
            held[path.parts[0]].setdefault(path.parts[1], set()).add(by_name(path) or path.name)
    twice = [any(n > 1 for n in Counter(e for have in inner.values() for e in have).values()) for inner in held.values()]
    return bool(tops) and 2 * sum(twice) >= len(tops)


def _walk(folder: Path) -> tuple[list[Path], list[Path], list[tuple[Path, str]]]:
    """Notebooks, other files (of an empty folder NOTHING), and folders that cannot be read, with the reason."""
    notebooks, others, problems = [], [], []
    waiting = [Path()]
    while waiting:
        inside = waiting.pop()
        if len(inside.parts) > DEEPEST:
            problems.append((Path(*inside.parts[:2]), f"Its folders lie more than {DEEPEST} deep in one another."))
            continue
        try:
            entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
            entries = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in IGNORED]
            kinds = [entry.is_dir(follow_symlinks=False) for entry in entries]
        except OSError as error:
            problems.append((inside / ".", f"The folder {plain(inside)} cannot be read ({error.strerror})."))
            continue
        for entry, is_folder in zip(entries, kinds, strict=True):
            if is_folder:
                waiting.append(inside / entry.name)
            else:
                (notebooks if entry.name.lower().endswith(".ipynb") else others).append(inside / entry.name)
        if inside.parts and not entries:
            others.append(inside / NOTHING)
    return notebooks, others, problems
