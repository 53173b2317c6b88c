"""Reports of graded submissions as a table, CSV, JSON, JUnit's XML, or Gradescope's results.json."""

import csv
import io
import json
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from minigrpo.grading.results import Report

FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # what spreadsheets begin one with, full-width too
FORMATS = ("table", "csv", "json", "junit", "gradescope")


def write(reports: list[Report], how: str, form: str) -> str:
    """The text of a report. ``how``: what kept the code in, said first where the format has room for it."""
    return {"table": _table, "csv": _csv, "json": _json, "junit": _junit, "gradescope": _gradescope}[form](reports, how)


def counted(reports: list[Report]) -> list[Report]:
    """Of each person's notebooks of an exercise the best: handing one in twice earns nothing.

    Of those with the same points the one that answers most: with questions of your own every notebook counts as an answer.
    """
    best: dict[tuple, Report] = {}
    for report in reports:
        key = (report.person, report.exercise)
        if key not in best or rank(report) > rank(best[key]):
            best[key] = report
    return list(best.values())


def rank(report: Report) -> tuple[bool, int, int]:
    """Of two notebooks of one person the greater one counts."""
    return bool(report.graded), report.points, sum(item.result is not None for item in report.graded)


@dataclass(frozen=True)
class Total:
    """A person's points in all; ``of`` is 0 where nothing was graded."""

    points: int
    of: int
    absent: list[str]  # exercises of others that this person did not hand in


def handed_in(reports: list[Report]) -> dict[str, int]:
    """Exercises that anybody handed in, and their points."""
    return dict(sorted({report.exercise: report.of for report in reports if report.exercise and report.graded}.items()))


def total(mine: list[Report], exercises: dict[str, int]) -> Total:
    """Of all exercises that anybody handed in: who hands in one good notebook of three has not the best total.

    What the grader failed at is not counted.
    """
    best = counted(mine)
    if not any(report.graded for report in best):
        return Total(0, 0, [])
    failed = {report.exercise for report in best if report.failed}
    of = sum(points for name, points in exercises.items() if name not in failed)
    absent = [name for name in exercises if name not in {report.exercise for report in mine}]
    return Total(sum(report.points for report in best), of, absent)


def _totals(reports: list[Report]) -> list[str]:
    """A line per person, where people may have handed in different exercises."""
    exercises = handed_in(reports)
    if len(exercises) < 2:
        return []
    lines = ["", f"In all, of {' and '.join(exercises)}:"]
    for person in dict.fromkeys(report.person for report in reports):
        one = total([report for report in reports if report.person == person], exercises)
        absent = f", not handed in: {', '.join(one.absent)}" if one.absent else ""
        lines += [f"  {person}  {one.points:g} of {one.of:g} points{absent}"] if one.of else []
    return lines


def _table(reports: list[Report], how: str) -> str:
    lines = [f"isolated by: {how}"]
    for report in reports:
        points = f"{report.points:g} of {report.of:g} points" if report.graded else "not graded"
        lines += ["", f"{report.person} · {report.exercise or '?'} · {points}"]
        lines += [f"  {text}" for text in (report.problem, report.note) if text]
        for item in report.graded:
            lines.append(f"  {item.question.id}  {item.points:4g}/{item.question.points:<2}  {item.question.name}")
            lines += [f"      {item.says}"] if item.says else []
    return "\n".join([*lines, *_totals(reports)]) + "\n"


def _csv(reports: list[Report], how: str) -> str:
    """A row per person: points by exercise (empty where none was handed in), in all, and what could not be graded."""
    names = sorted({report.exercise for report in reports if report.exercise})
    people, exercises = list(dict.fromkeys(report.person for report in reports)), handed_in(reports)
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["person", *names, "points", "of", "problems", "isolation"])
    for person in people:
        mine = [report for report in reports if report.person == person]
        best = {report.exercise: report for report in counted(mine)}
        cells = [best[name].points if name in best and best[name].graded else "" for name in names]
        whole = total(mine, exercises)
        problems = " ".join(report.problem for report in mine if report.problem)
        rows.writerow([_plain(person), *cells, *((whole.points, whole.of) if whole.of else ("", "")), _plain(problems), how])
    return out.getvalue()


def _plain(text: str) -> str:
    """A text that no spreadsheet takes for a formula, on whatever line of a cell or behind whatever space."""
    text = _xml(text)
    return f"'{text}" if text.lstrip()[:1] in FORMULA else text


def _json(reports: list[Report], how: str) -> str:
    rows = [
        {
            "person": report.person,
            "exercise": report.exercise,
            "file": report.file,
            "points": report.points if report.graded else None,
            "of": report.of if report.graded else None,
            "failed": report.failed,
            "problem": report.problem,
            "questions": [
                {"id": i.question.id, "name": i.question.name, "points": i.points, "of": i.question.points, "says": i.says}
                for i in report.graded
            ],
        }
        for report in reports
    ]
    return json.dumps({"isolation": how, "submissions": rows}, indent=2, ensure_ascii=False) + "\n"


def _junit(reports: list[Report], how: str) -> str:
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(
            root, "testsuite", name=_xml(f"{report.person} {report.exercise or report.file}"), tests=str(len(report.graded))
        )
        for item in report.graded:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(report.person), name=f"{item.question.id} {item.question.name}"
            )
            if item.points < item.question.points:
                ElementTree.SubElement(case, "failure", message=_xml(item.says or report.problem))
        if report.problem:
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(report.person), name="reading the notebook")
            ElementTree.SubElement(case, "error", message=_xml(report.problem))
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _gradescope(reports: list[Report], how: str) -> str:
    """One test per question; what has no field there goes under extra_data."""
    tests = [
        {
            "name": f"{item.question.id} {item.question.name}",
            "score": item.points,
            "max_score": item.question.points,
            "status": "passed" if item.points == item.question.points else "failed",
            "output": item.says or report.problem,
        }
        for report in counted([replace(report, person="") for report in reports])  # a folder there is one person's
        for item in report.graded
    ]
    problems = [report.problem for report in reports if report.problem]
    result = {"score": sum(test["score"] for test in tests), "output": "\n".join(problems), "tests": tests}
    return json.dumps(result | {"extra_data": {"isolation": how}}, indent=2, ensure_ascii=False) + "\n"
