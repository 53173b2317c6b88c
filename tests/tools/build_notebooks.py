"""Build the notebooks: notebooks/src/NAME.py (py:percent) is executed and becomes notebooks/NAME.ipynb, outputs included.

    python -m tests.tools.build_notebooks [NAME ...]

On one machine the result is the same to the last byte: ids come from the name and the cell's number, and nothing that changes
from run to run (timings, widget state, the interpreter's version) is kept.
"""

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def from_source(path: Path) -> nbformat.NotebookNode:
    """The notebook of a source, not executed: cells, tags and ids."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem.replace('_', '-')}-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run every cell in ``folder``; nbclient's CellExecutionError if one fails."""
    NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = nbformat.from_dict(KERNEL)  # execution adds the interpreter's version and the widgets' state
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = [clean(output) for output in cell.outputs]
    return notebook


def clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without what refers to a kernel that is gone: where a widget was shown, a sentence says so."""
    if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        output.data = nbformat.from_dict({"text/plain": "(Buttons stand here while the notebook runs in JupyterLab.)"})
    return output


def build(name: str) -> Path:
    """Execute one notebook and write it."""
    notebook = execute(from_source(FOLDER / "src" / f"{name}.py"), FOLDER)
    path = FOLDER / f"{name}.ipynb"
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    return path


def main() -> None:
    names = sorted(path.stem for path in (FOLDER / "src").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; by default all")
    for name in parser.parse_args().names or names:
        if name not in names:
            sys.exit(f"There is no notebooks/src/{name}.py.")
        print(build(name), flush=True)


if __name__ == "__main__":
    main()
