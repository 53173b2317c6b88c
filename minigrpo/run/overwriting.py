"""A new run in the folder of an old one, which is set aside until the new one works, and comes back if it does not."""

import shutil
from contextlib import suppress
from pathlib import Path

# Inside, so that a folder that is a link, a disk's own or the current one stays where it is.
ASIDE = "overwritten.tmp"


def _own(folder: Path) -> list[Path]:
    """What lies in a run's folder, config.json last: where a kill leaves that behind, not all has been moved."""
    found = [path for path in folder.iterdir() if path.name not in (ASIDE, ".lock")]
    return sorted(found, key=lambda path: path.name == "config.json")


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def set_aside(folder: Path) -> None:
    """Make room in ``folder`` for a new run."""
    (folder / ASIDE).mkdir()
    for path in _own(folder):
        path.rename(folder / ASIDE / path.name)


def forget(folder: Path) -> None:
    """The new run works: the old one goes."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)


def restore(folder: Path) -> None:
    """The new run failed before its first step: the old one, if there was one, comes back."""
    aside = folder / ASIDE
    if not aside.exists():
        return
    if (aside / "config.json").exists():
        for path in _own(folder):
            _delete(path)
    for path in reversed(_own(aside)):
        path.rename(folder / path.name)
    aside.rmdir()


def undo(folder: Path) -> None:
    """A new run failed before its first step: its folder is as it was, and the next try meets nothing of it."""
    if (folder / ASIDE).exists():
        return restore(folder)
    for path in _own(folder):
        _delete(path)
    (folder / ".lock").unlink(missing_ok=True)
    with suppress(OSError):  # a link, a disk's own folder or the current one stays, empty
        folder.rmdir()
