"""Pages to read: one per person with code, case, numbers, cause and hint, and one of the class with its commonest mistakes."""

import re
import unicodedata
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from minigrpo.grading.cells import Cell
from minigrpo.grading.questions import Question
from minigrpo.grading.reports import counted, handed_in, total
from minigrpo.grading.results import BROKEN, ENDLESS, UNANSWERED, Graded, Report

MOST_LINES = 60  # of an answer's code
NO_RESULT = {UNANSWERED: "blank", BROKEN: "broken", ENDLESS: "endless"}
LONGEST_NAME = 200  # bytes of a file's name; file systems hold 255
NO_NAMES = ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)))  # Windows


def pages(reports: list[Report], how: str) -> dict[str, str]:
    """{file name: HTML}: class.html, and a page per person that has nothing of anybody else's."""
    people: dict[str, list[Report]] = {}
    for report in reports:
        people.setdefault(report.person, []).append(report)
    names = _file_names(list(people))
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    person_page, class_page = templates.get_template("person.html"), templates.get_template("class.html")
    written = {
        names[person]: person_page.render(person=person, exercises=[_exercise(r) for r in counted(mine)], how=how)
        for person, mine in people.items()
    }
    return {**written, "class.html": class_page.render(how=how, **_class(people, names))}


def _file_names(people: list[str]) -> dict[str, str]:
    """A file name for each person in their own script, none of them "class" and no two that any file system takes for one."""
    names, taken = {}, {"class", *NO_NAMES}
    for person in people:
        plain = _plain(person)
        name, number = plain, 1
        while _alike(name) in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(_alike(name))
        names[person] = f"{name}.html"
    return names


def _plain(person: str) -> str:
    """Letters of any script with their marks, and digits; a hyphen for whatever a file system or a link may not take."""
    text = unicodedata.normalize("NFC", person)
    text = "".join(one if unicodedata.category(one)[0] in "LMN" or one in "._-" else " " for one in text)
    text = "-".join(text.split()).encode()[:LONGEST_NAME].decode(errors="ignore")
    return re.sub("-{2,}", "-", text).strip("-.") or "person"


def _alike(name: str) -> str:
    """The same for names that only differ in case, or in how accents are written."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


# --- one person -----------------------------------------------------------------------------------------------------------


def _exercise(report: Report) -> dict:
    return {
        "name": report.exercise or "a notebook of no exercise",
        "file": Path(report.file).name,
        "problem": report.problem,
        "note": report.note,
        "points": report.points,
        "of": report.of,
        "graded": bool(report.graded),
        "questions": [_question(item, report.cells) for item in report.graded],
    }


def _question(item: Graded, cells: list[Cell]) -> dict:
    result, question = item.result, item.question
    wrong = result is not None and result.about is not None
    return {
        "id": question.id,
        "name": question.name,
        "points": item.points,
        "of": question.points,
        "state": state(item),
        "passed": f"{result.passed} of {result.cases} cases pass" if wrong else "",
        "case": result.about if wrong else "",
        "difference": result.difference if wrong else item.says,
        "numbers": _numbers(result.difference) if wrong else None,
        "by_hand": getattr(result, "small", None) if wrong else None,
        "label": result.label if wrong else "",
        "cause": result.cause if wrong else "",
        "hint": question.hints[0] if _helped_by_a_hint(item) else "",
        "read": question.read,
        "code": code_of(question, cells),
    }


def _helped_by_a_hint(item: Graded) -> bool:
    """About the subject; to code that does not run or end it is beside the point."""
    return item.points < item.question.points and (item.result is not None or item.why == UNANSWERED)


def state(item: Graded) -> str:
    """In a word that is also a class of the style sheet: "full", "part", "none", or where there is no result, why."""
    if item.points == item.question.points:
        return "full"
    if item.points:
        return "part"
    return NO_RESULT[item.why] if item.result is None else "none"


def _numbers(difference: str) -> dict | None:
    """The number that came and the one that was wanted, to stand beside each other."""
    found = re.search(r"\bis (\S+?)( at .+?)?, wanted is (\S+?)\.?$", difference)
    return found and {"got": found[1], "where": found[2] or "", "wanted": found[3]}


def code_of(question: Question, cells: list[Cell]) -> str:
    """The last definition of the question's function, found by lines and their indentation: strangers' code is not parsed."""
    begins = re.compile(rf"^([ \t]*)((async\s+)?def\s+{question.name}\b|class\s+{question.name}\b|{question.name}\s*=)")
    found: list[str] = []
    for cell in cells:
        lines = cell.source.splitlines()
        for number, line in enumerate(lines):
            if match := begins.match(line):
                first = number
                while first and lines[first - 1].lstrip().startswith("@"):
                    first -= 1
                found = [*lines[first : number + 1], *_body(lines[number + 1 :], len(match[1]))]
    more = ["..."] if len(found) > MOST_LINES else []
    return "\n".join([line[:200] for line in found[:MOST_LINES]] + more)


def _body(lines: list[str], indent: int) -> list[str]:
    body = []
    for line in lines:
        text = line.lstrip()
        if text and len(line) - len(text) <= indent and text[0] not in ")]}":
            break
        body.append(line)
    while body and not body[-1].strip():
        body.pop()
    return body


# --- the class --------------------------------------------------------------------------------------------------------------


def _class(people: dict[str, list[Report]], names: dict[str, str]) -> dict:
    """Rows of people, columns of questions, and what went wrong under each."""
    reports = counted([report for mine in people.values() for report in mine])
    questions = {item.question.id: item.question for report in reports for item in report.graded}
    exercises = handed_in(reports)
    items = {report.person: {} for report in reports}
    for report in reports:
        items[report.person].update({item.question.id: item for item in report.graded})
    rows = [
        {
            "person": person,
            "page": quote(names[person]),
            "squares": [_square(items[person].get(number)) for number in sorted(questions)],
            "total": total(mine, exercises),
            "problem": " ".join(report.problem for report in mine if report.problem),
        }
        for person, mine in people.items()
    ]
    given = {number: [mine[number] for mine in items.values() if number in mine] for number in sorted(questions)}
    return {
        "rows": rows,
        "exercises": exercises,
        "questions": [_to_discuss(questions[number], given[number]) for number in given],
    }


def _square(item: Graded | None) -> dict:
    if item is None:
        return {"state": "absent", "sign": "–"}
    signs = {"blank": "·", "broken": "!", "endless": "∞"}
    return {"state": state(item), "sign": signs.get(state(item), ""), "points": item.points, "of": item.question.points}


def _why(result) -> tuple[str, str]:
    """(sentence, its label); an error is told as it is, but for its line, so that one of many people is counted once."""
    if result.cause:
        return result.cause, result.label
    error = re.match(r"it raised (\w+: .*?)(?: \(in line \d|$)", result.difference, re.DOTALL)
    return (error[1], "it raised") if error else ("", "")


def _to_discuss(question: Question, items: list[Graded]) -> dict:
    """How a question went, and the causes that were found for it, the commonest first."""
    wrong = [item.result for item in items if item.result is not None and item.result.about is not None]
    causes = Counter(_why(result) for result in wrong)
    unnamed = causes.pop(("", ""), 0)
    return {
        "id": question.id,
        "name": question.name,
        "people": len(items),
        "full": sum(state(item) == "full" for item in items),
        "without": [(why, count) for why in NO_RESULT if (count := sum(state(item) == NO_RESULT[why] for item in items))],
        "causes": [{"count": count, "says": says, "label": label} for (says, label), count in causes.most_common()],
        "unnamed": unnamed,
    }
