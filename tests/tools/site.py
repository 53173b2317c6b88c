"""Build the site: lessons with their outputs, exercises, guides, the API from docstrings, and the report of a run.

    python -m pip install -e ".[site]"
    python -m tests.tools.site            # into site/public; the sources that it gathers lie in site/docs
    python -m tests.tools.site --check    # and then visits every page in Chromium; screenshots in site/screens

The site asks nothing of any other server: mathematics is rendered by a copy of MathJax, which npm fetches while it is built.
"""

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import nbformat
import yaml

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
DOCS = SITE / "docs"
MATHJAX = "mathjax@3.2.2"
GUIDES = {  # where a page of the repository stands in the site
    "README.md": "README.md",
    "notebooks/README.md": "notebooks/README.md",
    "exercises/README.md": "exercises/README.md",
    "minigrpo/README.md": "minigrpo/README.md",
    "tests/benchmarks/README.md": "measurements.md",
    ".github/CONTRIBUTING.md": "contributing.md",
}
API = (
    *("config", "tasks", "prompts", "policy", "chat", "sampling", "rewards", "protocol", "advantages", "logprobs", "scoring"),
    *("kl", "loss", "update", "training", "triples", "effective", "reward_model", "metrics", "evaluation"),
    *("view.plots", "view.diagrams", "view.tokens", "view.rating"),
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
STYLE = """
.md-typeset .output img { background: #fff; border-radius: 4px; padding: 4px }
.md-typeset .output { overflow-x: auto; margin: -.4em 0 1em; padding-left: .6rem }
.md-typeset .output { border-left: .15rem solid var(--md-default-fg-color--lightest) }
.md-typeset .output pre { margin: 0 }
.md-typeset .output pre > code { background: transparent; padding: 0 }
mjx-container { overflow-x: auto; overflow-y: hidden; max-width: 100% }
"""
MATH = """
window.MathJax = {
  tex: { inlineMath: [["\\\\(", "\\\\)"]], displayMath: [["\\\\[", "\\\\]"]] },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex", enableMenu: false },
};
"""


# --- pages --------------------------------------------------------------------------------------------------------


def place(path: str) -> str | None:
    """Where a file or folder of the repository stands in the site; None where it is left out, as solutions are."""
    path = path.rstrip("/")
    if path in GUIDES:
        return GUIDES[path]
    if f"{path}/README.md" in GUIDES:
        return GUIDES[f"{path}/README.md"]
    if re.fullmatch(r"(notebooks|exercises)/\w+\.(ipynb|md|html)", path):
        return re.sub(r"\.ipynb$", ".md", path)
    if path.startswith(".github/") and path.endswith((".png", ".gif")):
        return path.replace(".github", "pictures")
    module = path.removeprefix("minigrpo/").removesuffix(".py").replace("/", ".")
    return f"api/{module}.md" if module in API else None


def relinked(text: str, path: str) -> str:
    """A page with its links led to where things stand in the site; what is not in the site becomes plain text."""
    here = PurePosixPath(place(path)).parent

    def lead(found: re.Match) -> str:
        words, link = found[1], found[2]
        if link.startswith(("http", "#", "mailto", "data:")):
            return found[0]
        target, _, anchor = link.partition("#")
        there = place(os.path.normpath(PurePosixPath(path).parent / target))
        if there is None:
            return words.removeprefix("!")[1:-1]
        anchor = f"#{anchor}" if anchor and there.endswith(".md") and not target.endswith(".ipynb") else ""
        return f"{words}({os.path.relpath(there, here)}{anchor})"

    return re.sub(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)", lead, text)


def as_markdown(text: str) -> str:
    """A cell as Python-Markdown wants it: a blank line before lists and tables, and Markdown inside of HTML."""
    text = re.sub(r"^(?!\s*(?:[-*] |\d+\. ))(\S.*)\n(?=(?:[-*]|\d+\.) )", r"\1\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(?!\|)(\S.*)\n(?=\|.*\|\n\|[ :|-]+\|)", r"\1\n\n", text, flags=re.MULTILINE)
    text = re.sub(
        r"^( +)(?=[-*] )", lambda spaces: spaces[1] * 2 if len(spaces[1]) == 2 else spaces[1], text, flags=re.MULTILINE
    )
    text = re.sub(r"<details( open)?>\s*<summary>(.*?)</summary>", r'<details\1 markdown="1"><summary>\2</summary>\n\n', text)
    return text.replace("</details>", "\n\n</details>\n")


def page(path: Path) -> str:
    """A notebook as Markdown, its pictures beside it."""
    name, pieces = path.relative_to(ROOT).as_posix(), []
    folder = DOCS / path.parent.name / path.stem
    for cell in nbformat.read(path, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            pieces.append(as_markdown(relinked(cell.source, name)))
        elif cell.cell_type == "code" and "colab" not in tags:
            pieces.append(f"```python\n{cell.source}\n```")
            outputs = [output(each, folder, f"{cell.id}-{number}") for number, each in enumerate(cell.outputs)]
            if any(outputs):
                pieces.append('<div class="output" markdown="1">\n\n' + "\n\n".join(filter(None, outputs)) + "\n\n</div>")
    return "\n\n".join(pieces) + "\n"


def output(each: nbformat.NotebookNode, folder: Path, name: str) -> str:
    """One output of a cell: its picture, its HTML, or its text."""
    data = each.get("data", {"text/plain": each.get("text", "")})
    for kind, ending in (("image/png", "png"), ("image/svg+xml", "svg")):
        if kind in data:
            folder.mkdir(parents=True, exist_ok=True)
            content = "".join(data[kind])
            picture = folder / f"{name}.{ending}"
            picture.write_bytes(base64.b64decode(content) if ending == "png" else content.encode())
            return f"![Figure]({folder.name}/{picture.name})"
    if "text/html" in data:
        return "<div>" + re.sub(r"\n\s*\n", "\n", "".join(data["text/html"])) + "</div>"
    text = "".join(data["text/plain"]).rstrip()
    return f"````text\n{text}\n````" if text else ""


def reference(module: str) -> str:
    """The page of a module: mkdocstrings puts its docstrings there."""
    return f"# {module}\n\n::: minigrpo.{module}\n"


# --- the site -----------------------------------------------------------------------------------------------------


def gather() -> None:
    """Everything that mkdocs reads, into site/docs."""
    shutil.rmtree(DOCS, ignore_errors=True)
    for source, target in GUIDES.items():
        write(target, relinked((ROOT / source).read_text(encoding="utf-8"), source))
    for folder in ("notebooks", "exercises"):
        for path in sorted((ROOT / folder).glob("*.ipynb")):
            write(place(path.relative_to(ROOT).as_posix()), page(path))
        for path in sorted((ROOT / folder).glob("*.html")):
            write(place(path.relative_to(ROOT).as_posix()), path.read_text(encoding="utf-8"))
        for path in set((ROOT / folder).glob("*.md")) - {ROOT / folder / "README.md"}:
            name = path.relative_to(ROOT).as_posix()
            write(place(name), relinked(path.read_text(encoding="utf-8"), name))
    for picture in (*(ROOT / ".github").glob("*.png"), *(ROOT / ".github").glob("*.gif")):
        (DOCS / "pictures").mkdir(exist_ok=True)
        shutil.copy(picture, DOCS / "pictures")
    for module in API:
        if (ROOT / "minigrpo" / f"{module.replace('.', '/')}.py").exists():
            write(f"api/{module}.md", reference(module))
    write("style.css", STYLE)
    write("mathjax/config.js", MATH)
    mathjax()
    report()


def write(target: str, text: str) -> None:
    path = DOCS / target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def mathjax() -> None:
    """One file, which draws formulas as SVG and needs no fonts."""
    kept = SITE / "tex-svg.js"
    if not kept.exists():
        if shutil.which("npm") is None:
            sys.exit("npm is needed, to fetch MathJax.")
        subprocess.run([shutil.which("npm"), "pack", "--silent", MATHJAX], cwd=SITE, check=True, stdout=subprocess.DEVNULL)
        (packed,) = SITE.glob("mathjax-*.tgz")
        with tarfile.open(packed) as archive:
            kept.write_bytes(archive.extractfile("package/es5/tex-svg.js").read())
        packed.unlink()
    shutil.copy(kept, DOCS / "mathjax")


def report() -> None:
    """The page of one run of the default configuration, which is trained once."""
    run, ours = SITE / "clock-0", [sys.executable, "-m", "minigrpo"]
    if not (run / "summary.json").exists():
        subprocess.run([*ours, "train", "--overwrite", "--output-dir", run], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*ours, "report", run, "--output", DOCS / "report.html"], check=True, stdout=subprocess.DEVNULL)


def titled(folder: str) -> list[dict]:
    """The pages of a folder under the headings that they begin with."""
    pages = sorted(path for path in (DOCS / folder).glob("*.md") if path.name != "README.md")
    return [
        {re.search(r"^# (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)[1]: f"{folder}/{path.name}"} for path in pages
    ]


def settings() -> dict:
    look = {"primary": "custom", "accent": "indigo"}
    schemes = (("default", "slate", "weather-night"), ("slate", "default", "weather-sunny"))
    toggles = [
        {"scheme": scheme, "primary": "indigo", "accent": look["accent"], "media": f"(prefers-color-scheme: {light})",
         "toggle": {"icon": f"material/{icon}", "name": f"To {other}"}}
        for (scheme, other, icon), light in zip(schemes, ("light", "dark"), strict=True)
    ]  # fmt: skip
    options = {"show_root_heading": False, "show_root_toc_entry": False, "members_order": "source", "heading_level": 2}
    python = {"options": options | {"docstring_style": "google", "separate_signature": True}, "paths": [str(ROOT)]}
    api = [{module: f"api/{module}.md"} for module in API if (DOCS / f"api/{module}.md").exists()]
    return {
        "site_name": "minigrpo",
        "docs_dir": str(DOCS),
        "site_dir": str(SITE / "public"),
        "theme": {
            "name": "material", "font": False, "palette": toggles,
            "features": ["navigation.tabs", "navigation.top", "navigation.footer", "content.code.copy", "search.highlight"],
        },
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": python}}}],
        "markdown_extensions": [
            "md_in_html", "tables", "attr_list", {"toc": {"permalink": True}}, {"pymdownx.arithmatex": {"generic": True}},
            "pymdownx.superfences", {"pymdownx.highlight": {"anchor_linenums": False}},
        ],
        "extra_css": ["style.css"],
        "extra_javascript": ["mathjax/config.js", "mathjax/tex-svg.js"],
        "validation": {"links": {"anchors": "warn", "unrecognized_links": "warn"}},
        "nav": [
            {"Start": "README.md"},
            {"Lessons": ["notebooks/README.md", *titled("notebooks")]},
            {"Exercises": ["exercises/README.md", *titled("exercises")]},
            {"Package": [{"Guide": "minigrpo/README.md"}, {"API": api}]},
            {"A run": "report.html"},
            {"Measurements": "measurements.md"},
            {"Contributing": "contributing.md"},
        ],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="visit every page in Chromium afterwards")
    arguments = parser.parse_args()
    SITE.mkdir(exist_ok=True)
    gather()
    (SITE / "mkdocs.yml").write_text(yaml.safe_dump(settings(), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", SITE / "mkdocs.yml"]
    built = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    if built.returncode:
        return built.returncode
    size = sum(path.stat().st_size for path in (SITE / "public").rglob("*") if path.is_file()) / 1e6
    print(f"{SITE / 'public'}: {len(list((SITE / 'public').rglob('*.html')))} pages, {size:.1f} MB")
    if size > 25:
        print("That is more than 25 MB.")
        return 1
    if arguments.check:
        from tests.tools import site_check

        return site_check.visit(SITE / "public", SITE / "screens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
