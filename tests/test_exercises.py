"""The exercises: written from the solutions, complete, running untouched, and worth 100 points."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from minigrpo.grading.check import exercises, grade, questions
from tests.tools.build_notebooks import EXERCISES, SOLUTIONS, exercise_of, from_source

NAMES = sorted(path.stem for path in (SOLUTIONS / "src").glob("*.py"))


def read(folder, name):
    return nbformat.read(folder / f"{name}.ipynb", as_version=4)


def cells(notebook):
    return [(cell.id, cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def test_there_is_a_notebook_for_each_exercise_and_nothing_else():
    assert [name[:4] for name in NAMES] == exercises() == [f"ex0{k}" for k in range(1, 8)]
    for folder in (EXERCISES, SOLUTIONS):
        assert sorted(path.stem for path in folder.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_exercise_and_solution_are_in_step_with_their_source(name):
    source = from_source(SOLUTIONS / "src" / f"{name}.py")
    assert cells(read(SOLUTIONS, name)) == cells(source), "run python -m tests.tools.build_notebooks"
    assert cells(read(EXERCISES, name)) == cells(exercise_of(source)), "run python -m tests.tools.build_notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_holds_no_solution_and_asks_every_question_with_its_points(name):
    text = (EXERCISES / f"{name}.ipynb").read_text(encoding="utf-8")
    asked = questions(name[:4])
    assert "SOLUTION" not in text
    assert text.count("raise NotImplementedError") >= len(asked)
    markdown = "\n".join(c.source for c in read(EXERCISES, name).cells if c.cell_type == "markdown")
    for question in asked:
        heading = re.search(rf"## {re.escape(question.id)} · .+\((\d+) points?, \d+ minutes, difficulty [1-5]\)", markdown)
        assert heading, question.id
        assert int(heading[1]) == question.points
        assert f"check({question.name})" in text
        assert 2 <= len(question.hints) <= 4
    assert f"{sum(q.points for q in asked)} points" in markdown
    for target in re.findall(r"\]\(([^)\s#]+)\)", markdown):
        assert target.startswith("http") or (EXERCISES / target).exists(), target


def test_all_together_are_a_hundred_points_and_at_least_eighty_known_mistakes():
    assert sum(question.points for question in questions()) == 100
    assert sum(len(question.mistakes) for question in questions()) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_get_all_points(name):
    notebook = read(SOLUTIONS, name)
    namespace: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "demonstration" not in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    for question in questions(name[:4]):
        for seed in range(3):
            result = grade(question, namespace[question.name], seed)
            assert result.points == question.points, result


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_exercise_runs_from_top_to_bottom_and_says_what_is_missing(name):
    notebook = read(EXERCISES, name)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXERCISES)}}).execute()
    said = json.dumps([cell.get("outputs", []) for cell in notebook.cells], ensure_ascii=False)
    for question in questions(name[:4]):
        assert f"{question.id} {question.name}: not answered yet" in said


def test_the_learners_notebook_needs_only_torch_and_check():
    for name in NAMES:
        code = "\n".join(
            cell.source
            for cell in read(EXERCISES, name).cells
            if cell.cell_type == "code" and "demonstration" not in cell.metadata.get("tags", [])
        )
        imported = set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE))
        assert imported <= {"torch", "minigrpo", "math"}
        for line in re.findall(r"^from minigrpo.*$", code, re.MULTILINE):
            assert line == "from minigrpo import check, hint"


def test_no_path_leads_out_of_the_course():
    assert all(not Path(p).is_symlink() for folder in (EXERCISES, SOLUTIONS) for p in folder.rglob("*"))


def test_the_readme_counts_rightly():
    readme = (EXERCISES.parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(questions())} questions, 100 points" in readme
    assert f"({sum(len(q.mistakes) for q in questions())} mistakes are known by name" in readme
