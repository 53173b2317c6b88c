"""What a learner has written in the lessons, fetched for training."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from minigrpo.grading.check import Result, check, lessons, questions


def own_functions(*notebooks: str | Path) -> dict[str, Callable]:
    """What lessons ask for, as you have saved it in these notebooks: name -> function, of those that pass their check.

    The cell that defines a function is run by itself, with ``torch`` and ``mg``. A notebook that is not there gives
    nothing, and neither does a cell that does not run.
    """
    import minigrpo as mg

    names, found = [question.name for lesson in lessons() for question in questions(lesson)], {}
    for source in (source for notebook in notebooks for source in code_cells(Path(notebook))):
        for name in (name for name in names if f"def {name}(" in source):
            namespace = {"torch": torch, "mg": mg}
            with contextlib.suppress(Exception):  # a cell in the middle of being written
                exec(compile(source, name, "exec"), namespace)
                result = check(namespace[name])
                if isinstance(result, Result) and result.about is None:
                    found[name] = namespace[name]
    return found


def code_cells(notebook: Path) -> list[str]:
    """The source of each code cell; none of a file that is not there or no notebook."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
