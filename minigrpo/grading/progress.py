"""What a learner has solved so far: written by ``check`` beside the notebook, shown by ``progress``."""

import contextlib
import html
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

FILE = ".minigrpo-progress.json"  # in the notebook's folder, which all exercises there share
OUTSIDE = "Outside of a notebook, check() keeps no points, and no notebook in this folder has kept any yet."
LOOKS = {
    "full": "background:#007a5a;border:2px solid #007a5a;color:#fff",
    "part": "border:2px solid #E69F00",
    "none": "border:2px solid #D55E00",
    "open": "border:2px dashed #8b949e",
}


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel; only there is something written."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and hasattr(sys.modules["IPython"].get_ipython(), "kernel")


def record(question_id: str, points: float, folder: Path) -> None:
    """Keep the points of the last check of a question. A folder that cannot be written is no error: nothing is kept then."""
    kept = read(folder) | {question_id: points}
    with contextlib.suppress(OSError):
        beside = folder / f"{FILE}.{os.getpid()}"
        beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        os.replace(beside, folder / FILE)


def read(folder: Path) -> dict[str, float]:
    """{question: points} of a folder; empty where there is no such file, or what is in it is something else."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {name: points for name, points in kept.items() if type(points) in (int, float)}
    return {}


@dataclass(frozen=True)
class Square:
    """A question, its points, and those of the last check; None if it was never checked."""

    id: str
    name: str
    of: int
    points: float | None

    @property
    def state(self) -> str:
        if self.points is None:
            return "open"
        return "full" if self.points >= self.of else "part" if self.points > 0 else "none"


@dataclass(frozen=True)
class Progress:
    """The questions as squares, a row per exercise; or a sentence in their place."""

    squares: list[Square]
    instead: str = ""

    @property
    def points(self) -> float:
        return sum(min(square.points or 0, square.of) for square in self.squares)

    def _rows(self) -> dict[str, list[Square]]:
        rows: dict[str, list[Square]] = {}
        for square in self.squares:
            rows.setdefault(square.id.split(".")[0], []).append(square)
        return rows

    def __repr__(self) -> str:
        if self.instead:
            return self.instead
        signs = {"full": "■", "part": "◧", "none": "□", "open": "·"}
        lines = [f"{name}  {' '.join(signs[square.state] for square in row)}" for name, row in self._rows().items()]
        return "\n".join([*lines, f"{self.points:g} of {sum(square.of for square in self.squares)} points"])

    def _repr_html_(self) -> str:
        if self.instead:
            return f"<div>{html.escape(self.instead)}</div>"
        cell = (
            "display:inline-block;box-sizing:border-box;min-width:2.6em;height:1.9em;line-height:1.5em;margin:2px;padding:0 4px"
        )
        rows = []
        for name, row in self._rows().items():
            squares = "".join(
                f"<span style='{cell};border-radius:4px;text-align:center;font-family:monospace;{LOOKS[square.state]}' "
                f"title='{html.escape(f'{square.id} {square.name}')}'>{_shown(square)}</span>"
                for square in row
            )
            rows.append(f"<div><b style='display:inline-block;min-width:4em'>{html.escape(name)}</b>{squares}</div>")
        total = f"<div style='margin-top:4px'>{self.points:g} of {sum(square.of for square in self.squares)} points</div>"
        return "".join([*rows, total])


def _shown(square: Square) -> str:
    return f"{square.of}" if square.points is None else f"{square.points:g}/{square.of}"
