"""Zip files as learning platforms give them out, unpacked into a folder that is removed afterwards."""

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from minigrpo.config import BadInput
from minigrpo.grading.cells import LARGEST_FILE, plain

LARGEST = 4_000_000_000  # bytes of all notebooks together
MOST = 50_000  # entries
# Moodle: "Ann Smith_81_assignsubmission_file_ex06.ipynb", or a folder without the last part; Canvas:
# "smithann_LATE_81_4711_ex06-1.ipynb". What they append to a name says nothing to a reader; the number tells namesakes apart.
PLATFORMS = (
    r"(?P<name>.+)_(?P<number>\d+)_assignsubmission_\w+?(?:_.*)?",
    r"(?P<name>[^\W\d_]+)(?:_LATE)?_(?P<number>\d+)_\d+_.+",
)


def is_archive(path: Path) -> bool:
    """Whether a path names a zip file."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack(paths: list[Path], room: Path) -> list[Path]:
    """Each zip file as a folder in ``room``, and all else as it is.

    Raises:
        BadInput: for what is no zip file, is protected by a password, holds a link, a path that leads out of it, or too much.
    """
    return [_unpacked(path, room / str(number)) if is_archive(path) else path for number, path in enumerate(paths)]


def shown(text: str, paths: list[Path], room: Path) -> str:
    """A path in ``room`` as its archive, one of ``paths``, and the path in there."""
    inside = re.match(rf"{re.escape(str(room))}/(\d+)/", text)
    return plain(paths[int(inside[1])].parent / text[inside.end() :]) if inside else text


def person(name: str) -> str:
    """The person's name, from one that a platform made up; any other name as it is."""
    for pattern in PLATFORMS:
        if match := re.fullmatch(pattern, name):
            return f"{match['name']} {match['number']}"
    return name


def _unpacked(path: Path, room: Path) -> Path:
    folder = room / path.name
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check(entries, path)
            for entry in entries:
                _write(archive, entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{plain(path)} cannot be unpacked: {plain(error)}. Download it again.") from error
    except OSError as error:
        raise BadInput(f"{plain(path)} cannot be unpacked: {error.strerror or plain(error)}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check(entries: list[zipfile.ZipInfo], path: Path) -> None:
    """Raises BadInput, before anything is written."""
    if len(entries) > MOST:
        raise BadInput(f"{plain(path)} holds {len(entries)} files; at most {MOST} are unpacked.")
    for entry in entries:
        where = f"{plain(path)} holds {plain(entry.filename)!r}"
        inside = _inside(entry)
        if inside.is_absolute() or ".." in inside.parts or re.match(r"[A-Za-z]:", entry.filename):
            raise BadInput(f"{where}, which leads out of the folder it is unpacked into; nothing was unpacked.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BadInput(f"{where}, a link; nothing was unpacked.")
        if entry.flag_bits & 1:
            raise BadInput(f"{where}, which is protected by a password; unpack it yourself and name the folder.")
    total = sum(entry.file_size for entry in entries if _is_notebook(entry))
    if total > LARGEST:
        raise BadInput(
            f"The notebooks in {plain(path)} are {total / 1e9:.1f} GB large; at most {LARGEST / 1e9:.0f} are unpacked."
        )


def _inside(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where it goes: with the slashes of Windows turned, and no name longer than a file may have."""
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    return PurePosixPath(*(part if len(part.encode()) < 250 else part[:50] + PurePosixPath(part).suffix[:10] for part in parts))


def _is_notebook(entry: zipfile.ZipInfo) -> bool:
    return _inside(entry).suffix.lower() == ".ipynb" and not entry.is_dir()


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """A notebook with what it holds; of anything else there is the name alone, which is all that a report says of it."""
    target = folder.joinpath(*_inside(entry).parts)
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        if _is_notebook(entry) and entry.file_size <= LARGEST_FILE:
            with archive.open(entry) as source:  # no more comes out than its size says
                shutil.copyfileobj(source, file)
        elif _is_notebook(entry):
            file.truncate(LARGEST_FILE + 1)  # takes no room, and is refused for its size
