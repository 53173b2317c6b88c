"""What the README and the guides beside it say, held to what is there."""

import argparse
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

import minigrpo
from minigrpo.config import GRPOConfig
from minigrpo.run import cli, flags, folders
from minigrpo.tasks import clock_steps, exact_answer, is_held_out

ROOT = Path(__file__).parent.parent
NAMES = (
    "README.md",
    ".github/CONTRIBUTING.md",
    *(f"{n}/README.md" for n in ("minigrpo", "notebooks", "exercises", "tests/benchmarks")),
)
GUIDES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
README = GUIDES["README.md"]
each_guide = pytest.mark.parametrize("name", NAMES)


def blocks(name):
    """The commands of the indented blocks, one a line, without their comments."""
    return re.findall(r"^ {4}(\S.*?)(?: +#.*)?$", re.sub(r"```.*?```", "", GUIDES[name], flags=re.DOTALL), re.MULTILINE)


def parts(name):
    """Each command of a guide in words; a line may join several with &&."""
    return [shlex.split(part, comments=True) for line in blocks(name) for part in line.split("&&")]


def test_the_readme_can_be_read_in_five_minutes():
    assert len(README.split()) <= 1500
    assert max(map(len, README.splitlines())) <= 120
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert (ROOT / picture).stat().st_size < 1e6


@each_guide
def test_every_link_leads_somewhere(name):
    headings = {path: re.findall(r"^#+ (.*)", text, re.MULTILINE) for path, text in GUIDES.items()}
    anchors = {
        (ROOT / path).resolve(): {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}
        for path, found in headings.items()
    }
    links = re.findall(r"\]\(([^)\s]*)\)", GUIDES[name])
    assert links or name.endswith("CONTRIBUTING.md")
    for link in links:
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path if path else ROOT / name).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors[target], link


@each_guide
def test_the_rows_of_each_table_have_the_columns_of_its_header(name):
    for table in re.findall(r"(?:^\|.*\n)+", GUIDES[name], re.MULTILINE):
        columns = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert len(set(columns)) == 1, table.splitlines()[columns.index(min(columns))]


def test_every_module_is_in_the_table():
    named = set(re.findall(r"\[(?:\w+/)?(\w+)\.py\]", GUIDES["minigrpo/README.md"]))
    rooms = [ROOT / "minigrpo" / room for room in (".", "run", "run/diagnosis", "view")]
    assert named == {p.stem for room in rooms for p in room.glob("*.py") if not p.stem.startswith("__")} | {"pretrain"}


@each_guide
def test_every_flag_and_field_exists(name):
    flags = {f.replace("-", "_") for f in re.findall(r"--([a-z][\w-]+)", GUIDES[name])}
    parsers = (*(ROOT / "minigrpo" / "run").glob("*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py"))
    text = "".join(path.read_text(encoding="utf-8") for path in parsers)
    known = {f.name for f in fields(GRPOConfig)} | set(re.findall(r'add_argument\(\s*"--(\w+)"', text))
    known |= {"help", "no_deps", "extra_index_url", "no_browser", "no_group", "extra"}  # of pip, JupyterLab and uv
    known |= {"check", "most"}  # of tests.tools
    known |= set(re.findall(r'add_flag\(\w+, "(\w+)"', text))
    launcher = launch_command_parser()
    known |= {option.lstrip("-") for action in launcher._actions for option in action.option_strings}
    assert flags <= known


OTHERS = {"python", "uv", "jupyter", "ruff", "accelerate", "cp"}  # what a block may call besides minigrpo


@each_guide
def test_a_block_is_a_command_and_what_explains_it_stands_behind_a_hash(name):
    for words in parts(name):
        assert words[0] in OTHERS | {"minigrpo"}, words
        if words[:2] == ["python", "-m"]:
            module = words[2]
            assert module in {"pip", "pytest", "venv"} or (ROOT / f"{module.replace('.', '/')}.py").exists(), words
        elif words[0] == "python":
            assert f"Save it as `{words[1]}`" in GUIDES[name] or f"Save this as `{words[1]}`" in GUIDES[name]


class Parsed(Exception):
    pass


@each_guide
def test_every_command_of_ours_can_be_copied_as_it_stands(name, tmp_path, monkeypatch):
    commands = [words[1:] for words in parts(name) if words[0] == "minigrpo"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "clock-0").mkdir(parents=True)
    folders.write_json(tmp_path / "runs" / "clock-0" / "config.json", GRPOConfig().to_dict())
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, argv):
        args = parse(parser, argv)
        if parser.prog == "minigrpo":
            return args
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for words in commands:
        if words[0] == "train":
            flags.train_config(words[1:])
        elif words[0] == "fit":  # takes those flags too, and only computes
            cli.main(words)
        else:
            with pytest.raises(Parsed):
                cli.main(words)


def test_the_two_commands_are_the_first_two():
    install, tests = blocks("README.md")[:2]
    assert install.startswith("python -m pip install -e . ")
    assert install.endswith("minigrpo train")
    assert tests.split("&&")[1].strip() == "python -m pytest"


def test_the_three_examples_are_held_out_and_as_right_or_wrong_as_they_say():
    rows = re.findall(r"\| `([^`]+=)` \| `([^`]+)` \((\w+)\) \| `([^`]+)` \((\w+)\) \|", README)
    assert len(rows) == 3
    for prompt, *answers in rows:
        assert is_held_out(prompt)
        right = [str(clock_steps(prompt)[-1])]
        for completion, said in (answers[:2], answers[2:]):
            assert {"right": [1.0], "wrong": [0.0]}[said] == exact_answer([prompt], [completion], right)


def test_the_python_of_the_guides_runs(capsys, tmp_path, monkeypatch):
    """The reward of minigrpo/README.md is trained on by tests/run/test_own_prompts.py."""
    monkeypatch.chdir(tmp_path)
    reward, loop = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"__name__": "__main__"}
    exec(reward, names)
    assert (tmp_path / "brief.jsonl").read_text().count("\n") == 169
    assert names["number_alone"](["?"] * 2, ["5", "4 + 1 = 5"], answer=["5", "5"]) == [1.0, 0.0]
    exec(loop.replace("max_steps=80", "max_steps=2"), {})
    assert capsys.readouterr().out.count("\n") == 2
    assert set(re.findall(r"^from minigrpo import (.*)$", loop, re.MULTILINE)[0].split(", ")) <= set(minigrpo.__all__)
    conversations, rating = re.findall(r"```python\n(.*?)```", GUIDES["minigrpo/README.md"], re.DOTALL)[1:3]
    exec(conversations.replace("max_steps=60", "max_steps=2"), {})
    assert (tmp_path / "my-model" / "model.safetensors").exists()
    exec(rating, {})
