"""The Markdown of lessons, exercises and solutions, rendered: what was meant as text or as a formula is shown as that."""

import re

import jupytext
import pytest
from markdown_it import MarkdownIt

from tests.tools.build_notebooks import FOLDER, SOLUTIONS

pytestmark = pytest.mark.quick

SOURCES = sorted([*(FOLDER / "src").glob("*.py"), *(SOLUTIONS / "src").glob("*.py")])
MATH = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)


def rendered(path):
    """(source, what stands outside of code and formulas, as HTML) of each Markdown cell."""
    for cell in jupytext.read(path, fmt="py:percent").cells:
        if cell.cell_type == "markdown":
            html = MarkdownIt("commonmark", {"html": True}).enable("table").render(MATH.sub("FORMULA", cell.source))
            yield cell.source, re.sub(r"<(pre|code)\b.*?</\1>", "CODE", html, flags=re.DOTALL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_multiplication_became_emphasis_and_no_markup_is_left_over(path):
    for source, html in rendered(path):
        inside_a_word = re.search(r"\w<(em|strong)>.*?</\1>|<(em|strong)>[^<]*</\2>\w", html)
        assert not inside_a_word, f"{inside_a_word[0]!r} in {source[:80]!r}"
        text = re.sub(r"<[^>]*>", "", html)
        for left_over in ("**", "](", "```", "$", "##"):
            assert left_over not in text, f"{left_over!r} is shown as it is, in {source[:80]!r}"


@pytest.mark.parametrize("text", ["7*3 = 21, and 6*8 = 48", "from $3 on", "**bold **text"])
def test_the_lint_sees_what_it_is_for(text, tmp_path):
    path = tmp_path / "lesson.py"
    path.write_text(f"# %% [markdown]\n# {text}\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        test_no_multiplication_became_emphasis_and_no_markup_is_left_over(path)


@pytest.mark.parametrize("path", sorted((SOLUTIONS / "src").glob("*.py")), ids=lambda path: path.stem)
def test_each_section_that_an_exercise_sends_you_to_is_in_its_lesson(path):
    text = re.sub(r"\n# ", " ", path.read_text(encoding="utf-8"))
    for line in re.findall(r"Read: (.*?)(?:\n|$)", text):
        for name, quoted in re.findall(r"notebooks/(\w+)\.ipynb\)((?:,? (?:and )?\"[^\"]+\")+)", line):
            lesson = (FOLDER / "src" / f"{name}.py").read_text(encoding="utf-8")
            titles = [title.replace('"', "") for title in re.findall(r"^# #+ (.+)$", lesson, re.MULTILINE)]
            for title in re.findall(r"\"([^\"]+)\"", quoted):
                assert any(known.startswith(title) for known in titles), f"{name} has no section {title!r}"
