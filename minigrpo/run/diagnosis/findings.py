"""What the doctor says: one finding, all of them, and how they are shown in a terminal, a notebook, or as JSON."""

import html
import shutil
import textwrap
from dataclasses import asdict, dataclass, field

# The notebook that shows it. The one place that names them.
LESSONS = {
    "loss is 0": "03_loss",
    "clip": "03_loss",
    "groups": "02_policy_gradient",
    "kl": "06_kl",
    "noise": "04_training",
    "training": "04_training",
    "true score": "05_failures",
    "failures": "05_failures",
    "length": "05_failures",
    "real models": "09_a_real_model",
}
WRONG, OPEN, FINE, NORMAL = "wrong", "open", "fine", "normal"
KINDS = {WRONG: "wrong", OPEN: "cannot be told", FINE: "fine", NORMAL: "normal"}


@dataclass(frozen=True)
class Finding:
    """One thing that a log shows."""

    name: str  # for programs, such as "cut_off"
    title: str  # a sentence
    seen: str  # numbers and steps
    means: str
    do: str  # "" where nothing is to be done
    sure: str  # certain, likely, possible
    lesson: str  # the notebook that shows it
    kind: str = WRONG  # wrong, open (the log cannot tell), fine, normal (looks alarming, and is not)
    follows: tuple[str, ...] = ()  # what else is seen, and follows from this

    def to_dict(self) -> dict:
        return {**asdict(self), "follows": list(self.follows)}


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order in which to act on them, and what was read.

    In a notebook it shows itself as a table; ``to_frame()`` gives it as a pandas data frame, ``to_dict()`` as plain data.
    """

    findings: tuple[Finding, ...]
    steps: tuple[float, float]  # first and last
    rows: int
    metrics: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def wrong(self) -> bool:
        """Whether anything is."""
        return any(finding.kind == WRONG for finding in self.findings)

    @property
    def first(self) -> Finding:
        return self.findings[0]

    @property
    def read(self) -> str:
        """A sentence: how many steps, which metrics."""
        steps = f"{self.steps[0]:g} to {self.steps[1]:g}" if self.rows > 1 else f"{self.steps[0]:g}"
        rows = f"{self.rows} rows" if self.rows != 1 else "1 row"
        step = "steps" if self.rows > 1 else "step"
        return f"Read {rows} ({step} {steps}) with {', '.join(self.metrics)}."

    def to_dict(self) -> dict:
        findings = [finding.to_dict() for finding in self.findings]
        read = {"rows": self.rows, "steps": list(self.steps), "metrics": list(self.metrics), "notes": list(self.notes)}
        return {"wrong": self.wrong, "findings": findings, "read": read}

    def to_frame(self):
        """A pandas data frame, a row per finding."""
        import pandas

        return pandas.DataFrame([finding.to_dict() for finding in self.findings])

    def __str__(self) -> str:
        normal = [finding for finding in self.findings if finding.kind == NORMAL]
        lines = [*_wrapped(" ".join((self.read, *self.notes))), "", self.text]
        lines += ["", "Normal, though it may look alarming:"] if normal else []
        for finding in normal:
            lines += _wrapped(f"{finding.title} {finding.seen} {finding.means}", "- ", "  ")
        return "\n".join(lines)

    @property
    def text(self) -> str:
        """The findings alone, without what is normal."""
        said = [finding for finding in self.findings if finding.kind != NORMAL]
        return "\n\n".join("\n".join(_said(f"{number}. ", finding)) for number, finding in enumerate(said, 1))

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th style='text-align:left'>{name}</th>" for name in ("finding", "seen", "means", "do", "how sure", "lesson")
        )
        rows = ""
        for finding in self.findings:
            follows = f" From this follows: {'; '.join(finding.follows)}." if finding.follows else ""
            cells = (finding.title, finding.seen + follows, finding.means, finding.do, _sure(finding), finding.lesson)
            rows += (
                "<tr>"
                + "".join(f"<td style='text-align:left;vertical-align:top'>{html.escape(c)}</td>" for c in cells)
                + "</tr>"
            )
        notes = " ".join(html.escape(note) for note in (self.read, *self.notes))
        return f"<p>{notes}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _sure(finding: Finding) -> str:
    return f"{finding.sure}, {KINDS[finding.kind]}" if finding.kind in (WRONG, OPEN) else KINDS[finding.kind]


def _said(number: str, finding: Finding) -> list[str]:
    """A finding in a terminal."""
    parts = {"seen": finding.seen, "means": finding.means, "do": finding.do, "follows": "; ".join(finding.follows)}
    lines = [f"{number}{finding.title} ({_sure(finding)})"]
    for label, text in {**parts, "lesson": finding.lesson}.items():
        if text:
            lines += _wrapped(text, f"   {label:8}", " " * 11)
    return lines


def _wrapped(text: str, first: str = "", later: str = "") -> list[str]:
    width = min(110, max(50, shutil.get_terminal_size((100, 24)).columns))
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
