"""Pages of feedback: what a person needs and nobody else's, the class at a glance, and no text that becomes markup."""

import csv
import io
import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from minigrpo.grading import reports
from minigrpo.grading.cells import Cell
from minigrpo.grading.check import grade, judge, questions
from minigrpo.grading.pages import _why, code_of, pages
from minigrpo.grading.results import BROKEN, ENDLESS, UNANSWERED
from minigrpo.grading.submission import Graded, Report
from minigrpo.grading.worker import Outcome
from minigrpo.run import cli

TROUBLES = [BROKEN, ENDLESS, ENDLESS, UNANSWERED, BROKEN]
NASTY = "<img src=x onerror=alert(1)>{{ 7 * 7 }}"


def graded(question, function):
    result = grade(question, function, 0)
    return Graded(question, result.points, "" if result.about is None else "wrong", result)


def plain_k1(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


def submissions():
    """ann has all right, bob and cem k1 with its own gradient, dan a wrong shape, eve none, fay no notebook, gus trouble."""
    asked = questions("ex06")
    k1 = next(question for question in asked if question.name == "kl_k1_plus")

    def report(person, function, source):
        items = [graded(q, function if function and q is k1 else q.reference) for q in asked]
        return Report(person, "ex06", items, cells=[Cell(source)], file=f"/srv/{person}/ex06_kl.ipynb")

    code = "import torch\n\n@once\ndef kl_k1_plus(p, ref):\n    # {}\n    return p - ref\n\nx = 1\n"
    nothing = [Graded(question, 0, "Not answered.") for question in asked]
    return [
        report("ann", None, code.format("right")),
        report("bob", plain_k1, code.format("of bob")),
        report(f"cem {NASTY}", plain_k1, code.format(NASTY)),
        report("dan", lambda logprobs, ref_logprobs: logprobs[0], code.format("of dan")),
        Report("eve", "ex06", nothing, file="/srv/eve/ex06_kl.ipynb"),
        Report(
            "gus",
            "ex06",
            [replace(one, why=why) for one, why in zip(nothing, TROUBLES, strict=True)],
            file="/srv/gus/ex06_kl.ipynb",
        ),
        Report("fay", None, [], "There is no notebook (.ipynb) here, but ex06.py."),
    ]


@pytest.fixture(scope="module")
def written():
    return pages(submissions(), "bubblewrap")


def test_a_person_sees_the_case_the_numbers_the_cause_the_hint_and_where_to_read(written):
    page = written["bob.html"]
    for part in (
        "of bob",
        "The case",
        "What differs",
        "your answer",
        "wanted",
        "likely cause",
        "A hint",
        "notebook 06, &#34;A right value is not a right gradient&#34;",
        f"of {sum(question.points for question in questions('ex06'))} points",
    ):
        assert part in page
    assert "def kl_k1_plus" in page
    assert "x = 1" not in page


def test_a_persons_page_has_nobody_elses_data(written):
    for person in ("ann", "bob", "dan", "eve", "fay", "gus"):
        text = written[f"{person}.html"]
        assert not [
            other
            for other in ("ann", "bob", "cem", "dan", "eve", "fay", "gus")
            if other != person and re.search(rf"\b{other}\b", text)
        ]
        assert "/srv" not in text


def test_the_class_is_seen_with_its_commonest_mistake_first(written):
    page = written["class.html"]
    discuss = page[page.index("What to discuss") :]
    one = discuss[discuss.index("kl_k1_plus") : discuss.index("kl_pulls")]
    assert "1 of 6 have it right" in one
    assert one.index("2 of 6") < one.index("1 of 6</span>")
    assert "ex06.py" in page
    assert page.count("<tr>") == 8


def test_the_class_tells_what_was_not_answered_from_what_could_not_be_run_or_did_not_end(written):
    page = written["class.html"]
    rows = dict(re.findall(r'<tr><th><a href="(\w+)\.html">(.*?)</tr>', page, re.DOTALL))
    assert re.findall(r'<td class="sq (\w+)">(.*?)</td>', rows["gus"]) == [
        ("broken", "!"), ("endless", "∞"), ("endless", "∞"), ("blank", "·"), ("broken", "!"),
    ]  # fmt: skip
    first = page[page.index("What to discuss") :].split("</section>")[0]
    assert re.findall(r'(\d) of 6</span> <span class="soft">(not|could|did) ', first) == [("1", "not"), ("1", "could")]


def test_no_text_becomes_markup_and_every_person_has_a_page(written):
    assert set(written) == {
        "class.html",
        "ann.html",
        "bob.html",
        "cem-img-src-x-onerror-alert-1-7-7.html",
        "dan.html",
        "eve.html",
        "fay.html",
        "gus.html",
    }
    for text in written.values():
        assert "<img" not in text
        assert "49" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    two = [Report(name, None, [], "x") for name in ("Ann", "ann", "class", "../x", "???")]
    assert set(pages(two, "none")) == {"class.html", "Ann.html", "ann-2.html", "class-2.html", "x.html", "person.html"}


def test_totals_are_of_all_exercises_that_anybody_handed_in():
    """ann has one of two, all right; bob both; of cem's second the grader failed at one; dan handed in nothing."""

    def report(person, exercise, share=1):
        return Report(person, exercise, [Graded(q, share and q.points, "") for q in questions(exercise)])

    given = [report("ann", "ex01"), report("bob", "ex01"), report("bob", "ex06", share=0), report("cem", "ex01")]
    given += [Report("cem", "ex06", [], "The sandbox failed.", failed=True), Report("dan", None, [], "There is no notebook.")]
    rows = {row["person"]: row for row in csv.DictReader(io.StringIO(reports.write(given, "none", "csv")))}
    found = {person: (row["points"], row["of"], row["ex06"]) for person, row in rows.items()}
    assert found == {"ann": ("12", "23", ""), "bob": ("12", "23", "0"), "cem": ("12", "12", ""), "dan": ("", "", "")}
    assert "  ann  12 of 23 points, not handed in: ex06\n" in reports.write(given, "none", "table")
    assert "In all" not in reports.write(given[:2], "none", "table")
    page = pages(given, "none")["class.html"]
    totals = re.findall(r'<td class="total">(.*?)</td>', page)
    assert [re.sub("<.*?>", "", total) for total in totals] == ["12 of 23 (ex06 not handed in)", "12 of 23", "12 of 12", ""]
    assert "of all exercises that anybody handed in: ex01, ex06" in page


def test_names_keep_their_letters_and_links_lead_to_them():
    """Composed and decomposed, four scripts, a name as long as can be, one that Windows has for a device, and two alike."""
    names = [
        "Jürgen Groß",
        "JÜRGEN GROSS",
        "Ju\u0308rgen Groß",
        "王小明",
        "Владимир",
        "अनिता शर्मा",
        "𐐨" * 300,
        "con",
        "a%2fb",
        "ﬁn",
        "FIN",
    ]
    written = pages([Report(name, None, [], "x") for name in names], "none")
    files = [name.removesuffix(".html") for name in written if name != "class.html"]
    assert files[:6] == ["Jürgen-Groß", "JÜRGEN-GROSS-2", "Jürgen-Groß-3", "王小明", "Владимир", "अनिता-शर्मा"]
    assert files[7:] == ["con-2", "a-2fb", "ﬁn", "FIN-2"]
    assert max(len(name.encode()) for name in written) < 230
    links = re.findall(r'href="([^"]*)"', written["class.html"])
    assert {unquote(link) for link in links} == written.keys() - {"class.html"}
    assert all(link.isascii() for link in links)


def test_code_is_the_last_definition_with_its_decorators():
    question = questions("ex06")[0]
    name = question.name
    cells = [Cell(f"def {name}(x):\n    return 0"), Cell(f"@a\n@b(\n1)\ndef {name}(\n    x,\n):\n\n    return 1\n\n\ny = 2")]
    assert code_of(question, cells).endswith("return 1")
    assert code_of(question, [Cell(f"{name} = lambda x: 1\ny = 2")]) == f"{name} = lambda x: 1"
    assert code_of(question, [Cell("z = 1")]) == ""


def test_pages_want_a_folder(tmp_path, capsys):
    notebook = tmp_path / "ex06_kl.ipynb"
    notebook.write_text("{}")
    assert cli.main(["grade", str(notebook), "--format", "html"]) == 2
    assert "name a folder" in capsys.readouterr().err
    assert cli.main(["grade", str(notebook), "--format", "html", "--output", str(notebook)]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.browser
def test_the_pages_in_a_browser(browser, written, tmp_path):
    """Light and dark, without scripts or requests, links that lead to pages, and nothing wider than the window."""
    for name, text in written.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1000, "height": 1400}, color_scheme=scheme)
        asked = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("dialog", lambda dialog: pytest.fail("a script ran"))
        for name in ("bob", "class"):
            page.goto((tmp_path / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            if folder := os.environ.get("SCREENSHOTS"):
                page.screenshot(path=str(Path(folder) / f"feedback-{name}-{scheme}.png"), full_page=True)
        colors = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        assert (sum(map(int, re.findall(r"\d+", colors[1])[:3])) < 300) == (scheme == "dark")
        page.get_by_role("link", name="ann").click()
        assert page.locator("h1").inner_text() == "ann"
        assert all(url.startswith("file:") for url in asked)
        page.close()


def test_an_error_names_itself_whatever_line_it_is_in():
    """It stands under a question as a mistake does, and is no wrong answer "with no cause that is known"."""
    question = next(question for question in questions("ex06") if question.name == "kl_exact")
    first, second = (
        judge(
            question,
            question.draw(0),
            [Outcome(None, error=f"NameError: name 'x' is not defined (in line {n} of the cell)")] * 5,
        )
        for n in (3, 17)
    )
    assert _why(first) == _why(second) == ("NameError: name 'x' is not defined", "it raised")
