"""What people hand in, read as data: the cells of a notebook, whatever else is in the file."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LARGEST_FILE = 200_000_000  # bytes, with outputs
QUICKLY = 5_000_000  # bytes that are read right here
CLEAR = "clear its outputs (in JupyterLab: Edit, Clear Outputs of All Cells)"
LARGEST_CODE = 1_000_000  # characters of all cells

# Reading for a file in which pictures take much room: by a process of its own, since JSON can be made to take all memory.
READ = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
notebook = json.loads(sys.stdin.buffer.read().decode("utf-8-sig"))
def without_outputs(thing):
    cells = thing.get("cells") if isinstance(thing, dict) else None
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict):
            for name in [*cell]:
                if name not in ("cell_type", "source", "input", "metadata"): del cell[name]
    for sheet in thing.get("worksheets") or () if isinstance(thing, dict) else (): without_outputs(sheet)
without_outputs(notebook)
text = json.dumps(notebook)
sys.stdout.write(text if len(text) <= {QUICKLY} else "null")
"""


@dataclass(frozen=True)
class Cell:
    """The source of a code cell; a demonstration's calls need not run."""

    source: str
    demonstration: bool = False


class NoNotebook(ValueError):
    """What a file is instead, in a sentence that begins with "it"."""


def plain(text) -> str:
    """A text from a stranger, without what could move a terminal's cursor, break a line of a report, or be no UTF-8."""
    return "".join(character if character.isprintable() else " " for character in str(text)[:300])


def read_cells(path: Path) -> list[Cell]:
    """The code cells of a notebook.

    Raises:
        NoNotebook: in a sentence, for what is no notebook.
    """
    try:
        notebook = _read_json(path)
    except UnicodeDecodeError:
        raise NoNotebook("it is not UTF-8") from None
    except OSError as error:
        raise NoNotebook(f"it cannot be read ({error.strerror})") from None
    except NoNotebook:
        raise
    except (ValueError, RecursionError, MemoryError):
        raise NoNotebook("it is not JSON") from None
    if not isinstance(notebook, dict):
        raise NoNotebook("it is JSON, but no notebook")
    cells = notebook.get("cells")
    if cells is None:  # notebooks of before 2015 have worksheets
        sheets = notebook.get("worksheets") or [{}]
        cells = sheets[0].get("cells") if isinstance(sheets, list) and isinstance(sheets[0], dict) else None
    if not isinstance(cells, list):
        raise NoNotebook("it has no cells")
    found = [code for cell in cells if (code := _code(cell))]
    if sum(len(cell.source) for cell in found) > LARGEST_CODE:
        raise NoNotebook(f"its cells hold more than {LARGEST_CODE:,} characters of code")
    return found


def _read_json(path: Path):
    if path.is_symlink() or not path.is_file():
        raise NoNotebook("it is not a plain file")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise NoNotebook(f"it has more than {LARGEST_FILE // 1_000_000} MB; {CLEAR}")
    if size <= QUICKLY:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    with path.open("rb") as file:
        command = [sys.executable, "-I", "-S", "-c", READ]
        try:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=120, env={"PATH": os.defpath}, cwd="/")
        except subprocess.TimeoutExpired:
            raise NoNotebook(f"it cannot be read within 120 s; {CLEAR}") from None
    if done.returncode:
        raise NoNotebook("it is not JSON" if b"JSONDecodeError" in done.stderr else f"it is too large to be read; {CLEAR}")
    notebook = json.loads(done.stdout)
    if notebook is None:
        raise NoNotebook("without its outputs it is still too large")
    return notebook


def _code(cell) -> Cell | None:
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return None
    metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
    tags = metadata.get("tags")
    source = cell.get("source", cell.get("input", ""))
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    return Cell(source, isinstance(tags, list) and "demonstration" in tags) if source.strip() else None
