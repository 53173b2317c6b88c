"""Build the notebooks: notebooks/src/NAME.py (py:percent) is executed and becomes notebooks/NAME.ipynb, outputs included.

    python -m tests.tools.build_notebooks [NAME ...]

Names that begin with ex are exercises: solutions/src/NAME.py becomes solutions/NAME.ipynb, executed, and
exercises/NAME.ipynb, where each solution is replaced by ``raise NotImplementedError``, not executed.

Each lesson begins with a cell that installs the course in Colab, from the address that stands in pyproject.toml, and does
nothing elsewhere. It is no part of the sources. The minutes in notebooks/README.md are renewed as well.

On one machine the result is the same to the last byte: ids come from the name and the cell's number, and nothing that changes
from run to run (timings, widget state, the interpreter's version) is kept.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
FOLDER, SOLUTIONS, EXERCISES = ROOT / "notebooks", ROOT / "solutions", ROOT / "exercises"
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n?", re.DOTALL | re.MULTILINE)
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}

COLAB = """import sys

if "google.colab" in sys.modules:  # installs the course in Colab; anywhere else this cell does nothing
    !git clone --quiet --depth 1 {repository} /content/minigrpo
    %cd /content/minigrpo/notebooks
    %pip install --quiet .."""


def from_source(path: Path) -> nbformat.NotebookNode:
    """The notebook of a source, not executed: cells, tags and ids; a lesson has its cell for Colab behind the head."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem.replace('_', '-')}-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    if path.is_relative_to(FOLDER):
        notebook.cells.insert(1, colab(path.stem))
    return notebook


def exercise_of(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook with each solution taken out, not executed."""
    exercise = nbformat.from_dict(solution)
    for cell in exercise.cells:
        cell.source = SOLUTION.sub(r"\1raise NotImplementedError", cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return exercise


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run every cell in ``folder``; nbclient's CellExecutionError if one fails."""
    NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = nbformat.from_dict(KERNEL)  # execution adds the interpreter's version and the widgets' state
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            kept = cell.source == "progress()"  # shows the points of whoever builds, of all exercises
            cell.outputs = [] if kept else [clean(output) for output in joined(cell.outputs)]
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs in which what a cell printed is one text: a busy machine hands it over in pieces, and never in the same ones."""
    whole = []
    for output in outputs:
        if whole and output.output_type == "stream" == whole[-1].output_type and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without what refers to a kernel that is gone: where a widget was shown, a sentence says so."""
    if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        output.data = nbformat.from_dict({"text/plain": "(Buttons stand here while the notebook runs in JupyterLab.)"})
    return output


def colab(name: str) -> nbformat.NotebookNode:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = COLAB.format(repository=setup["project"]["urls"]["Repository"])
    return nbformat.v4.new_code_cell(source, id=f"{name.replace('_', '-')}-colab", metadata={"tags": ["colab", "nbval-skip"]})


def build(name: str) -> Path:
    """Execute one notebook and write it; of an exercise, both notebooks."""
    folder = SOLUTIONS if name.startswith("ex") else FOLDER
    source = from_source(folder / "src" / f"{name}.py")
    if folder == SOLUTIONS:
        write(EXERCISES / f"{name}.ipynb", exercise_of(source))
    return write(folder / f"{name}.ipynb", execute(source, folder))


def write(path: Path, notebook: nbformat.NotebookNode) -> Path:
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    return path


def renew_minutes() -> None:
    """The minutes of each lesson in notebooks/README.md, as its own head promises them."""
    table = FOLDER / "README.md"
    text = table.read_text(encoding="utf-8")
    for path in (FOLDER / "src").glob("[0-9]*.py"):
        if minutes := re.search(r"\*\*Time\*\* (\d+) minutes", path.read_text(encoding="utf-8")):
            text = re.sub(rf"(\({path.stem}\.ipynb\) \| )\d+ ", rf"\g<1>{minutes[1]} ", text)
    table.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    names = sorted(path.stem for folder in (FOLDER, SOLUTIONS) for path in (folder / "src").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; by default all")
    args = parser.parse_args()
    renew_minutes()
    for name in args.names or names:
        if name not in names:
            sys.exit(f"There is no source of {name!r}, in notebooks/src or solutions/src.")
        print(build(name), flush=True)


if __name__ == "__main__":
    main()
