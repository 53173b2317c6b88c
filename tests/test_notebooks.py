"""The notebooks, as committed: built from their sources, executed in order, clean, of a readable size, and leading somewhere.

That they run, and that marked cells still print what is committed, is nbval's part of the suite; tests/conftest.py adds that no
cell writes a warning.
"""

import ast
import base64
import importlib
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import nbformat
import pytest

import minigrpo
from tests import conftest
from tests.tools.build_notebooks import FOLDER, KERNEL, from_source

pytestmark = pytest.mark.quick

ROOT = FOLDER.parent
NAMES = (
    *("00_one_picture", "01_logprobs", "02_policy_gradient", "03_loss", "04_training"),
    *("05_failures", "06_kl", "07_triples", "08_variants", "09_a_real_model"),
)
FIRST_LINES = re.compile(r"\A# \d\d · .+")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def outputs(name):
    return [output for cell in code(name) for output in cell.outputs]


def test_there_are_ten_and_no_stray_ones():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    assert sorted(path.stem for path in (FOLDER / "src").glob("*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_source(name):
    source, built = from_source(FOLDER / "src" / f"{name}.py"), read(name)
    what = [(c.id, c.cell_type, c.source, c.metadata) for c in source.cells]
    assert what == [(c.id, c.cell_type, c.source, c.metadata) for c in built.cells], "run python -m tests.tools.build_notebooks"
    assert built.metadata == KERNEL


def test_one_address_installs_the_course_in_colab_and_the_cell_does_nothing_elsewhere():
    for name in NAMES:
        head, cell = read(name).cells[:2]
        assert head.cell_type == "markdown"
        assert not cell.outputs
        assert re.search(r"depth 1 https://\S+/minigrpo /content/minigrpo$", cell.source, re.MULTILINE)
        assert "nbval-skip" in cell.metadata.tags


@pytest.mark.parametrize("name", NAMES)
def test_it_was_executed_in_order_without_errors_or_noise(name):
    assert [cell.execution_count for cell in code(name)] == list(range(1, len(code(name)) + 1))
    for output in outputs(name):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_cell_that_warns_has_failed(stream):
    """Of a cell that nbval executes, that is: the same hook as for all of them, without a kernel."""
    written = nbformat.v4.new_output("stream", name=stream, text="FutureWarning: this goes away")
    picture = nbformat.v4.new_output("display_data", data={"text/plain": "<Figure>"})
    cell = SimpleNamespace(test_outputs=[picture, written], raise_cell_error=lambda *said: pytest.fail(" ".join(said)))
    around = conftest.pytest_runtest_call(cell)
    next(around)
    with pytest.raises(pytest.fail.Exception if stream == "stderr" else StopIteration):
        next(around)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_says_nothing_of_the_machine_that_built_it(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) <= 500_000
    said = "".join(str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs(name))
    assert not re.search(r"/(home|root|tmp|work|Users)/|[A-Z]:\\\\", said + text.replace(r"\n", "\n"))
    assert not re.search(r"\d it/s|step/s|\bin \d+(\.\d+)? s\b", said)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short(name):
    assert max(len(cell.source.splitlines()) for cell in code(name)) <= 12


@pytest.mark.parametrize("name", NAMES)
def test_at_least_five_cells_are_compared_and_claims_are_asserted(name):
    marked = [cell for cell in code(name) if "# NBVAL_CHECK_OUTPUT" in cell.source]
    assert len(marked) >= 5
    for cell in marked:
        assert cell.outputs
        assert all("image/png" not in output.get("data", {}) for output in cell.outputs)
    assert sum(cell.source.count("assert") for cell in code(name)) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_no_figure_is_blank_or_huge(name):
    for output in outputs(name):
        if "image/png" in output.get("data", {}):
            picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(output.data["image/png"])))
            assert picture[..., :3].std() > 0.02
            assert picture.shape[1] <= 1400


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_what_one_will_be_able_to_do_and_ends_with_questions(name):
    cells = read(name).cells
    first, last = cells[0].source, cells[-1].source
    assert FIRST_LINES.match(first)
    for promise in ("You will be able to", "You need", "Time", "Worth the trip"):
        assert promise in first
    assert 3 <= last.count("<details><summary>Answer</summary>") <= 5
    assert last.count("<details>") == last.count("</details>")
    number = NAMES.index(name)
    if number + 1 < len(NAMES):
        assert f"({NAMES[number + 1]}.ipynb)" in last


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith("http")]
    assert targets
    assert [t for t in targets if not (FOLDER / t.split("#")[0]).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_ours_that_it_imports_is_documented(name):
    tree = ast.parse("\n".join(cell.source for cell in code(name)[1:]))  # the first, for Colab, is IPython
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minigrpo":
            module = importlib.import_module(node.module)
            for alias in node.names:
                thing = getattr(module, alias.name)
                assert node.module != "minigrpo" or alias.name in dir(minigrpo)
                assert not callable(thing) or thing.__doc__, alias.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr != "manual_seed" or "Generator" in ast.dump(node.func), (
                "global seeds hide what depends on them"
            )


def test_the_recorded_runs_have_their_configuration_and_are_all_read():
    runs = FOLDER / "runs"
    index = json.loads((runs / "index.json").read_text(encoding="utf-8"))
    assert set(index) == {path.stem for path in runs.glob("*.jsonl")}
    sources = "".join((FOLDER / "src" / f"{name}.py").read_text(encoding="utf-8") for name in NAMES)
    for name, entry in index.items():
        assert set(entry) == {"date", "changed", "with", "seconds"}
        assert name in sources or re.sub(r"\d+$", "", name) in sources, name


def test_no_notebook_needs_another_folder(tmp_path):
    """Paths are relative to notebooks/, where JupyterLab and nbval run them."""
    for name in NAMES:
        for path in re.findall(r'"(runs/[^"{}]+)"', (FOLDER / "src" / f"{name}.py").read_text(encoding="utf-8")):
            assert (FOLDER / path).exists() or not Path(path).suffix
