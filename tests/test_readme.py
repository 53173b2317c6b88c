"""What the README says, held to what is there."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_leads_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 10
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_the_rows_of_each_table_have_the_columns_of_its_header():
    tables = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
    assert len(tables) > 5
    for table in tables:
        columns = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert len(set(columns)) == 1, table.splitlines()[columns.index(min(columns))]


def test_every_module_is_in_the_table():
    named = set(re.findall(r"\[(\w+)\.py\]", README))
    rooms = [ROOT / "minigrpo" / room for room in (".", "run", "run/diagnosis", "view")]
    assert named == {p.stem for room in rooms for p in room.glob("*.py") if not p.stem.startswith("__")} | {"pretrain"}


def test_every_flag_and_field_exists():
    flags = {f.replace("-", "_") for f in re.findall(r"--([a-z][\w-]+)", README)}
    parsers = (*(ROOT / "minigrpo" / "run").glob("*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py"))
    text = "".join(path.read_text(encoding="utf-8") for path in parsers)
    known = {f.name for f in fields(GRPOConfig)} | {"help", "no_deps"} | set(re.findall(r'add_argument\(\s*"--(\w+)"', text))
    known |= set(re.findall(r'add_flag\(\w+, "(\w+)"', text))
    launcher = launch_command_parser()
    known |= {option.lstrip("-") for action in launcher._actions for option in action.option_strings}
    assert flags <= known


class Parsed(Exception):
    pass


def test_every_command_can_be_copied_as_it_stands(tmp_path, monkeypatch):
    commands = re.findall(r"^    (minigrpo .*)$", README, re.MULTILINE)
    assert len(commands) > 12
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
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        if words[0] == "train":
            flags.train_config(words[1:])
        else:
            with pytest.raises(Parsed):
                cli.main(words)


def test_the_three_examples_are_held_out_and_as_right_or_wrong_as_they_say():
    rows = re.findall(r"\| `([^`]+=)` \| `([^`]+)` \((\w+)\) \| `([^`]+)` \((\w+)\) \|", README)
    assert len(rows) == 3
    for prompt, *answers in rows:
        assert is_held_out(prompt)
        right = [str(clock_steps(prompt)[-1])]
        for completion, said in (answers[:2], answers[2:]):
            assert {"right": [1.0], "wrong": [0.0]}[said] == exact_answer([prompt], [completion], right)


def test_the_python_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    reward, block, rating = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(reward, names)
    assert names["brief"](["?"] * 2, ["<1>5", "6"], answer=["5", "5"]) == [0.92, -0.02]
    exec(block.replace("max_steps=80", "max_steps=2"), {})
    assert capsys.readouterr().out.count("\n") == 2
    monkeypatch.chdir(tmp_path)
    exec(rating, {})
    assert set(re.findall(r"^from minigrpo import (.*)$", block, re.MULTILINE)[0].split(", ")) <= set(minigrpo.__all__)
