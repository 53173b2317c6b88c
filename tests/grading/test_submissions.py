"""Honest work as people hand it in, whatever it is called and written like; and what one file's worst may cost: that file."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.grading import batch, cache, cells, inside, reports, sandbox, submission, walls
from minigrpo.grading.cells import NoNotebook, read_cells
from minigrpo.grading.check import questions
from minigrpo.grading.pages import pages
from minigrpo.grading.people import find
from minigrpo.grading.questions import Case
from minigrpo.grading.results import BROKEN, ENDLESS, UNANSWERED
from minigrpo.grading.sandbox import GraderError, WorkerDied
from minigrpo.grading.submission import Graded, Report, by_name, outcome_of
from minigrpo.grading.worker import decode, encode
from tests.grading.test_hostile import LIGHT, MASK, SHIFT, how, write_notebook  # noqa: F401

# --- whose is it ------------------------------------------------------------------------------------------------------------


def people(tmp_path, *names, paths=None):
    """{person: files} of notebooks of these names; of a problem the file is in brackets."""
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("{}")
    found = {}
    for one in find([tmp_path / path for path in paths or [""]]):
        found.setdefault(one.person, []).append(f"({one.path.name})" if one.problem else one.path.name)
    return found


def test_a_folder_is_a_person_and_a_file_is_one_too(tmp_path):
    assert people(tmp_path, "ann/ex01_a.ipynb", "ann/work/ex06_a.ipynb", "bob/ex06_a.IPYNB", "cem_123_ex06_kl-1.ipynb") == {
        "ann": ["ex01_a.ipynb", "ex06_a.ipynb"],
        "bob": ["ex06_a.IPYNB"],
        "cem_123_ex06_kl-1": ["cem_123_ex06_kl-1.ipynb"],
    }


def test_people_come_by_name_in_every_report(tmp_path):
    """Upper case aside, and whatever the order of the paths."""
    names = ["ann", "Bob", "cem", "Jürgen", "zoe"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ex01_x.ipynb").write_text("{}")
    assert [one.person for one in find([tmp_path])] == names
    assert [one.person for one in find([tmp_path / name for name in reversed(names)])] == names
    given = [Report(one.person, "ex01", [Graded(questions("ex01")[0], 0, "")]) for one in find([tmp_path])]
    rows = list(csv.reader(io.StringIO(reports.write(given, "none", "csv"))))
    assert [row[0] for row in rows[1:]] == re.findall(r'html">(.*?)</a>', pages(given, "none")["class.html"]) == names


def test_sections_keep_their_people_apart(tmp_path):
    names = [f"{section}/{person}/ex06_kl.ipynb" for section in ("monday", "friday") for person in ("ann", "bob")]
    assert set(people(tmp_path, *names)) == {"monday/ann", "monday/bob", "friday/ann", "friday/bob"}


def test_folders_for_exercises_are_one_persons(tmp_path):
    """As nbgrader collects, and as a clone that was zipped looks."""
    names = ["ann/ex01/ex01_l.ipynb", "ann/ex06/ex06_kl.ipynb", "bob/minigrpo-main/exercises/ex06_kl.ipynb"]
    assert set(people(tmp_path, *names)) == {"ann", "bob"}


def test_two_folders_and_two_files_of_one_name_stay_apart(tmp_path):
    assert set(people(tmp_path, "subs/ann/ex06_k.ipynb", "subs/bob/ex06_k.ipynb", paths=["subs/ann", "subs/bob"])) == {
        "ann",
        "bob",
    }
    assert set(people(tmp_path, "x/bob/ex01_x.ipynb", "x/bob.ipynb", paths=["x"])) == {"bob", "bob (2)"}
    assert len(people(tmp_path, "1/ann/ex01_x.ipynb", "2/ann/ex01_x.ipynb", paths=["1", "2"])) == 2


def test_what_is_no_notebook_has_a_row_and_what_a_mac_adds_has_none(tmp_path):
    names = ["ann/ex06.py", "bob/ex06_kl.ipynb", "cem.ipynb.txt", "dan/", "__MACOSX/ann/._ex06.ipynb", "bob/._ex06_kl.ipynb"]
    names += ["grades.csv", "bob/.ipynb_checkpoints/ex06_kl-checkpoint.ipynb"]
    found = people(tmp_path, *names)
    assert found.pop("bob") == ["ex06_kl.ipynb"]
    assert set(found) == {"ann", "cem.ipynb.txt", "dan"}
    assert all(name.startswith("(") for files in found.values() for name in files)


def test_names_are_made_plain_and_folders_without_end_cost_their_owner(tmp_path):
    hostile = [b"ann\nzoe 100 of 100", b"e\xffvil", b"e\xfevil", "\u202egnp".encode(), "\ufffe".encode(), b"\x1b[2J"]
    for name in hostile:
        folder = Path(os_path(tmp_path, name))
        folder.mkdir()
        (folder / "ex01_x.ipynb").write_text("{}")
    deep = tmp_path / "deep"
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    found = find([tmp_path])
    assert len({one.person for one in found}) == len(found) == len(hostile) + 1
    assert all(one.person.isprintable() and one.person.encode() for one in found)
    assert [one.person for one in found if one.problem] == ["deep"]


def os_path(folder, name):
    return (
        bytes(folder) + b"/" + name
        if isinstance(folder, bytes)
        else (bytes(folder) + b"/" + name).decode("utf-8", "surrogateescape")
    )


@pytest.mark.parametrize(
    ("name", "exercise"),
    [
        ("ex06_kl.ipynb", "ex06"), ("alex01_ex03_kl.ipynb", "ex03"), ("index03_notes.ipynb", None),
        ("EX06-final (2).IPYNB", "ex06"),
        ("smith_LATE_1_2_ex02_adv-1.ipynb", "ex02"), ("ex01_to_ex03.ipynb", None), ("ex012.ipynb", None),
    ],
)  # fmt: skip
def test_the_exercise_that_a_name_speaks_of(name, exercise):
    assert by_name(Path(name)) == exercise


# --- what is in a file --------------------------------------------------------------------------------------------------


def test_outputs_do_not_count_and_what_is_too_large_is_advised(tmp_path, monkeypatch):
    path = write_notebook(tmp_path, [MASK])
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["outputs"] = [{"data": {"image/png": "x" * 6_000_000}}]
    path.write_text(json.dumps(notebook))
    assert [cell.source for cell in read_cells(path)] == [MASK]
    monkeypatch.setattr(cells, "LARGEST_FILE", 1_000_000)
    with pytest.raises(NoNotebook, match="Clear Outputs of All Cells"):
        read_cells(path)
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": "x" * 2_000_000}]}))
    monkeypatch.setattr(cells, "LARGEST_FILE", 10_000_000)
    with pytest.raises(NoNotebook, match="characters of code"):
        read_cells(path)


# --- cells, as IPython would run them -----------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return inside.Notebook()


def run(notebook, *sources, **request):
    return [notebook.run({"cell": source, **request}, lambda number: None) for source in sources]


def test_a_statement_that_fails_costs_itself_alone(notebook):
    errors = run(notebook, "import no_such_package\nraise SystemExit\nx = 1\nassert x == 2\ndef f(): return x")
    assert notebook.names["f"]() == 1
    assert "no_such_package" in errors[0][0]
    assert "(line 1)" in errors[0][0]


@pytest.mark.parametrize(
    "source",
    [
        "%%time\nx = 7", "%%capture out\n%%time\nx = 7", "%time x = 7", "y = !ls\nx = 7 + len(y)", "!pip install x\nx = 7",
        "%matplotlib inline\nx = 7", "import asyncio\nawait asyncio.sleep(0)\nx = 7", "display(3)\nx = 7", "x = 7\nx?",
        "7\n", "input('name')\nx = 7", "from google.colab import drive\ndrive.mount('/x')\nx = 7",
        "async def f(): return 7\nx = await f()",
        "from minigrpo import kl_k1, check\nimport torch\nx = 7", "get_ipython().run_line_magic('load_ext', 'y')\nx = 7",
        "for k in range(3):\n    %time k\nx = 7", "assert check(f).points == 3\nx = 7",
    ],
)  # fmt: skip
def test_what_a_notebook_allows_defines_what_it_should(notebook, source):
    run(notebook, source)
    assert notebook.names.get("x", notebook.names["_"]) == 7


def test_future_flags_hold_for_the_cells_below_and_sources_can_be_seen(notebook):
    run(notebook, "from __future__ import annotations", "import inspect\ndef f(x: Nope): return inspect.getsource(f)")
    assert notebook.names["f"](0).startswith("def f(x: Nope)")
    run(notebook, "import torch\n@torch.jit.script\ndef g(x):\n    return x + 1")
    assert notebook.names["g"](torch.ones(1)).item() == 2


def test_where_time_is_short_definitions_run_alone(notebook):
    source = "import math\nwhile True: pass\ndef f(): return math.pi\nE = math.e\n[print(1)]"
    assert run(notebook, source, definitions=True) == [[]]
    assert {"f", "E"} <= set(notebook.names)
    run(notebook, "a = 1\nb = 2\nc = 3", leave_out=[1])
    assert {"a", "c"} <= set(notebook.names)
    assert "b" not in notebook.names


def test_a_syntax_error_is_quoted(notebook):
    assert run(notebook, "x = 1\n  retrun x")[0][0].startswith("IndentationError")
    assert "retrun x" in run(notebook, "def f(x):\n    retrun x")[0][0]


HONEST = [
    "from __future__ import annotations\nfrom minigrpo import check, hint, kl_k1\nimport torch",
    "%%time\n" + SHIFT + "print(torch.ones(3))\nimport statistics\nassert check(shift_logits).points == 2",
    "import time\ntime.sleep(100)  # a demonstration\n" + MASK,
    "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    f"def {questions('ex01')[1].name}(logits, token_ids, temperature):\n    retrun 1",
    "torch.set_grad_enabled(False)",
]


def test_what_passes_in_the_notebook_passes_in_the_sandbox(how, tmp_path, monkeypatch):  # noqa: F811
    """With this Python, which where root runs the tests lies in a home that only root may enter."""

    class Worker(sandbox.Worker):
        def ask(self, request, seconds, *rest):
            return super().ask(request, 1.0 if "sleep(100)" in request.get("cell", "") else seconds, *rest)

    monkeypatch.setattr(submission, "Worker", Worker)
    report = submission.grade_file(write_notebook(tmp_path, HONEST), "ann", how, 0)
    full = {item.question.id for item in report.graded if item.points == item.question.points}
    assert full == {"ex01.1", "ex01.3"}
    assert "retrun 1" in report.graded[1].says


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="anybody else is nobody else inside")
def test_a_python_that_only_root_may_enter_is_open_inside(how, tmp_path, monkeypatch):  # noqa: F811
    """As an environment made by mktemp is: torch was loaded by root, and what an answer imports later was not found."""
    python = tmp_path / "python"
    (python / "lib").mkdir(parents=True)
    (python / "lib" / "module").write_text("seen")
    (python / "lib64").symlink_to("lib")
    python.chmod(0o700)
    monkeypatch.setattr(walls, "_pythons", lambda: [python])
    command = [*walls.bubblewrap(root=True), "setpriv", "--reuid", "12345", "--clear-groups", "cat", f"{python}/lib64/module"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "seen"


# --- reports that whatever names and texts leave in one piece ------------------------------------------------------------


def test_every_format_stays_whole(tmp_path):
    ask = questions("ex01")[0]
    nasty = ["=1+1", "\t=1", " @x", "a\rb=1", "x\n+1", "\u202e<&>\x1b[2J", "＝1"]
    graded = [Graded(ask, 0, f"it said {text} </testcase>") for text in nasty]
    given = [Report(name, "ex01", graded, problem=name) for name in nasty] + [Report("zoe", "ex01", [], "stopped", failed=True)]
    table = reports.write(given, "bubblewrap", "table")
    assert table.count(" · ex01 · ") == len(given)
    rows = list(csv.reader(io.StringIO(reports.write(given, "bubblewrap", "csv"))))
    assert [len(row) for row in rows] == [len(rows[0])] * (len(given) + 1)
    assert not any(cell.strip()[:1] in tuple("=+-@＝") for row in rows for cell in row if cell)
    assert rows[-1][1] == ""  # what was not graded is no zero
    suites = ElementTree.fromstring(reports.write(given, "bubblewrap", "junit"))
    assert len(suites) == len(given)
    assert json.loads(reports.write(given, "bubblewrap", "json"))["submissions"][-1]["points"] is None


def test_one_files_worst_error_costs_that_file(tmp_path, monkeypatch, capsys):
    names = ("ann", "bob", "cem", "dan")
    for name in names:
        (tmp_path / name).mkdir()
        write_notebook(tmp_path / name, [MASK])
    errors = {"bob": TypeError("only up to 64 dims"), "cem": GraderError("The worker does not start."), "dan": MemoryError()}

    def grade_file(path, person, *_, **options):
        if person in errors:
            raise errors[person]
        return Report(person, "ex01", [Graded(questions("ex01")[0], 2, "")])

    monkeypatch.setattr(batch, "grade_file", grade_file)
    monkeypatch.setattr(batch, "isolation", lambda trust: "none")
    seen = []
    graded, how = batch.grade_paths([tmp_path], seed=0, each=lambda reports, how: seen.append(len(reports)))  # noqa: F811
    assert {report.person: report.points for report in graded if not report.failed} == {"ann": 2}
    assert all("not the submission's fault" in report.problem for report in graded if report.failed)
    assert seen == [1, 2, 3, 4]
    assert how == "none"


def test_gradescopes_result_is_one_persons():
    two = [Report(name, "ex01", [], file=f"subs/{name}/ex01_x.ipynb") for name in ("ann", "bob")]
    with pytest.raises(BadInput, match="one person's"):
        batch.one_person(two)
    batch.one_person([two[0], Report("ann", "ex06", [], file="subs/ann/ex06/ex06_kl.ipynb")])


ENDED = """
def token_logprobs(logits, token_ids, temperature=1.0):
    while True: print("still here")
def replay(*a):
    import os; os._exit(1)
"""


def test_what_does_not_end_is_called_so_and_nobody_is_told_about_the_subject(how, tmp_path, monkeypatch):  # noqa: F811
    """Endless prints, an end of the process, a cell that fails, one that hangs before its function, and nothing."""
    for name in ("CELL_SECONDS", "CALL_SECONDS"):
        monkeypatch.setattr(submission, name, 1.0)
    monkeypatch.setattr(sandbox, "WORKER", LIGHT / "worker.py")
    asked = questions("ex01")
    names = [question.name for question in asked]
    cells = [ENDED.replace("token_logprobs", names[0]).replace("replay", names[1])]
    cells += [f"{names[2]} = undefined", f"while True:\n    def {names[3]}(*a): pass"]
    report = submission.grade_file(write_notebook(tmp_path, cells), "ann", how, 0, kept=tmp_path / "kept")
    items = report.graded
    assert report.note == "A statement of code cell 3 was left out: it was still running after 1 s and was stopped."
    assert report.note in reports.write([report], how, "table")
    assert not (tmp_path / "kept").exists()
    assert [item.why for item in items] == [ENDLESS, BROKEN, BROKEN, ENDLESS, UNANSWERED]
    assert items[0].says == "It was still running after 1 s and was stopped: does a loop never end?"
    assert "it ended" in items[1].says
    assert "code cell 2) fails: NameError" in items[2].says
    assert "a statement was left out: it was still running after 1 s" in items[3].says
    page = pages([report], "bubblewrap")["ann.html"]
    assert report.note in page
    assert page.count("A hint") == 1  # to what was not answered


def test_what_did_not_end_is_not_kept_and_all_else_comes_back(tmp_path):
    """A busy machine may have been the cause."""
    asked = questions("ex01")[:2]
    items = [Graded(asked[0], 0, "It ended.", why=BROKEN), Graded(asked[1], 0, "Not answered.")]
    cache.save(tmp_path, "kept", items)
    assert cache.load(tmp_path, "kept", asked) == items
    cache.save(tmp_path, "late", [items[0], replace(items[1], why=ENDLESS)])
    assert cache.load(tmp_path, "late", asked) is None


@pytest.mark.parametrize(
    ("source", "near"),
    [
        ("def Aggregate(x): pass", "Aggregate"), ("agregate = max", "agregate"), ("def aggregate_2(x): pass", "aggregate_2"),
        ("def aggregates(x): pass", None), ("def mean(x): pass", None), ("print(aggregat)\nx == 1", None),
    ],
)  # fmt: skip
def test_a_function_of_nearly_the_name_is_pointed_at(source, near):
    """But not one that is itself the answer to another question."""
    session = submission._Session([cells.Cell("y = 1"), cells.Cell(source)], "none", (), {"aggregate", "aggregates"})
    there = f"; there is one called {near}" if near else ""
    assert session.missing("aggregate") == (f"No function aggregate is defined{there}.", UNANSWERED)


# --- what comes out of a sandbox -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [1] * 1_000_000, [1] * 65, [-1], [True], [2], "ab", None, [10**400]])
def test_a_shape_is_looked_at_before_anything_is_made_of_it(shape):
    started = time.monotonic()
    tensor = {"dtype": "float64", "shape": shape, "data": [] if shape == [0, 2**62, 2**62] else [0.0]}
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(tensor)
    case = Case("x", {"x": torch.zeros(1)}, ("x",))
    good = {"dtype": "float64", "shape": [1], "data": [0.0]}
    assert outcome_of({"error": None, "changed": None, "values": [good], "gradients": [tensor]}, case).error
    assert time.monotonic() - started < 5


def test_what_the_grader_does_between_two_calls_is_not_the_learners_time(monkeypatch):
    """As long as it trains on a reward, the deadline waits; while the reward itself is computed, it does not."""
    now = [0.0]
    monkeypatch.setattr(submission, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Fake:
        deadline = 60.0

        def ask(self, request, seconds):
            now[0] += 3.0
            return {"values": [encode(torch.ones(2))], "gradients": None, "error": None, "changed": None}

    session, case = submission._Session([], "none", (), set()), Case("", {"completions": ["a", "b"], "answers": [1, 2]})
    session.worker = Fake()
    for _ in range(4):
        assert session.call("reward", case).values[0].tolist() == [1, 1]
        now[0] += 100.0
    assert session.worker.deadline == 60.0 + 3 * 100.0
    assert now[0] - session.since == 4 * 3.0 + 100.0
    for _ in range(7):
        session.call("reward", case)
    with pytest.raises(WorkerDied, match="all calls to it together took more than 30 s"):
        session.call("reward", case)
    session.call("another", case)  # which has time of its own
