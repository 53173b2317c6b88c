"""Reports of graded submissions as a table, CSV, JSON, JUnit's XML, or Gradescope's results.json."""

import csv
import io
import json
from dataclasses import replace
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


def _table(reports: list[Report], how: str) -> str:
    lines = [f"isolated by: {how}"]
    for report in reports:
        points = f"{report.points:g} of {report.of:g} points" if report.graded else "not graded"
        lines += ["", f"{report.person} · {report.exercise or '?'} · {points}"]
        lines += [f"  {report.problem}"] if report.problem else []
        for item in report.graded:
            lines.append(f"  {item.question.id}  {item.points:4g}/{item.question.points:<2}  {item.question.name}")
            lines += [f"      {item.says}"] if item.says else []
    return "\n".join(lines) + "\n"


def _csv(reports: list[Report], how: str) -> str:
    """A row per person: points by exercise, in all, and what could not be graded."""
    names = sorted({report.exercise for report in reports if report.exercise})
    people = list(dict.fromkeys(report.person for report in reports))
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["person", *names, "points", "of", "problems", "isolation"])
    for person in people:
        mine = [report for report in reports if report.person == person]
        best = {report.exercise: report for report in counted(mine)}
        cells = [best[name].points if name in best and best[name].graded else "" for name in names]
        total, of = sum(r.points for r in best.values()), sum(r.of for r in best.values())
        problems = " ".join(report.problem for report in mine if report.problem)
        graded = any(report.graded for report in best.values())
        rows.writerow([_plain(person), *cells, *((total, of) if graded else ("", "")), _plain(problems), how])
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
