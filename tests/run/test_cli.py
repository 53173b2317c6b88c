"""The command's own words: flags, prompts, encodings, and what is printed at the end."""

import io
import sys

import pytest

from minigrpo.config import BadInput
from minigrpo.run import cli, flags, runner, summary


def refused(capsys, argv, *parts):
    assert cli.main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_the_version_is_the_packages(capsys):
    import importlib.metadata

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"minigrpo {importlib.metadata.version('minigrpo')}\n"


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--verison"], "for --verison, is --version meant?"),
        (["train", "--max-stesp", "3"], "for --max-stesp, is --max-steps meant?"),
        (["train", "--learning_rat=1"], "for --learning_rat, is --learning_rate meant?"),
        (["generate", "--modle", "tiny"], "for --modle, is --model meant?"),
        (["generate", "--hepl"], "for --hepl, is --help meant?"),
        (["evaluate", "--tsak", "sums"], "for --tsak, is --task meant?"),
        (["plot", "run", "--ouput", "a.png"], "for --ouput, is --output meant?"),
        (["grade", "a.ipynb", "--min-scor", "3"], "for --min-scor, is --min-score meant?"),
        (["reward-model", "train", "--objectve", "regression"], "for --objectve, is --objective meant?"),
    ],
)
def test_a_misspelt_flag_is_told_the_right_one(capsys, argv, meant):
    refused(capsys, argv, meant)


@pytest.mark.parametrize("command", [["generate", "1+1="], ["evaluate"], ["grade", "a.ipynb"], ["reward-model", "train"]])
@pytest.mark.parametrize("seed", ["-1", "2147483648", "1" + "0" * 20, "1e20", "9" * 5000, "x"])
def test_a_seed_out_of_range_is_refused_everywhere(capsys, command, seed):
    refused(capsys, [*command, "--seed", seed], "seed", "between 0 and 2147483647")


@pytest.mark.parametrize("temperature", ["1e-45", "-1", "nan", "inf"])
@pytest.mark.parametrize("command", [["train"], ["generate", "1+1="], ["evaluate"]])
def test_a_temperature_that_nothing_can_be_sampled_at_is_refused_everywhere(capsys, command, temperature):
    refused(capsys, [*command, f"--temperature={temperature}"], "temperature must be ", "at least 1e-06, got ", temperature)


@pytest.mark.parametrize("prompt", ["-3+4=", "--3+4=", "-(2)"])
def test_a_prompt_that_begins_with_a_minus_is_told_where_to_stand(capsys, prompt):
    refused(capsys, ["generate", prompt], f"{prompt!r} begins with a minus and would be a flag; put -- in front of the prompts")


def test_prompts_that_are_none_of_that_pass():
    flags.check_prompts(["-3", "- 3 + 4", "1-1=", "--temperature", "-1", "--", "-3+4="])
    with pytest.raises(BadInput, match="is not UTF-8"):
        flags.check_prompts(["\udcff"])


def test_prompts_with_a_minus_and_several_prompts(capsys):
    assert cli.main(["generate", "--temperature", "0", "--num-generations", "2", "--", "-1+2=", "1 + 1 = ?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == ["-1+2=", "1 + 1 = ?"]
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("encoding", "written"), [("ascii", b"\\u7b49\\n"), ("cp1252", b"\\u7b49\\n"), ("utf-8", "等\n".encode())]
)
def test_what_the_output_cannot_hold_is_written_as_an_escape(monkeypatch, encoding, written):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(cli, "_plot", lambda argv: print("等"))
    assert cli.main(["plot"]) == 0
    out.flush()
    assert out.buffer.getvalue() == written.replace(b"\\n", b"\n")


@pytest.mark.parametrize("rank", ["abc", "", "0"])
def test_a_rank_that_is_no_number_is_nobodys(capsys, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: 1 / 0)
    refused(capsys, ["plot", "nowhere"], "holds no metrics.jsonl")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_a_launchers_word_that_is_no_number_is_refused(capsys, monkeypatch, name):
    monkeypatch.setenv(name, "abc")
    monkeypatch.setattr(runner, "load_policy", lambda *args: 1 / 0)
    refused(capsys, ["train"], f"{name} is 'abc' in the environment")


# --- files to write -----------------------------------------------------------------------------------------------------


def test_a_report_never_takes_the_place_of_a_submission(capsys, tmp_path):
    notebook = tmp_path / "ex03_kl.ipynb"
    notebook.write_text("{}")
    (tmp_path / "link.txt").hardlink_to(notebook)
    for output in (notebook, tmp_path / "other.ipynb", tmp_path / "link.txt"):
        refused(capsys, ["grade", str(notebook), "--output", str(output)], "would replace a submission")
    refused(capsys, ["grade", str(notebook), "--output", str(tmp_path)], "is a folder")
    refused(capsys, ["plot", str(tmp_path), "--output", str(tmp_path)], "is a folder")
    assert notebook.read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ex03_kl.ipynb", "link.txt"]


def test_where_nothing_could_be_graded_the_exit_code_says_so(capsys, tmp_path):
    (tmp_path / "ex03_bad.ipynb").write_text("{")
    assert cli.main(["grade", str(tmp_path / "ex03_bad.ipynb"), "--trust", "--output", str(tmp_path / "report.txt")]) == 2
    assert "cannot be graded: it is not JSON" in (tmp_path / "report.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_a_least_score_is_a_number(capsys, score):
    refused(capsys, ["grade", "a.ipynb", f"--min-score={score}"], "min_score must be a number of points")


# --- the end of a run ---------------------------------------------------------------------------------------------------


def test_columns_are_aligned_as_a_terminal_shows_them():
    lines = summary.aligned([["1 + 1等于几?", "2", "->", "1 + 1 = 2"], ["5 plus 12?", "maybe\n17", "->", "e\u0301"]])
    assert lines == ["1 + 1等于几? 2         -> 1 + 1 = 2", "5 plus 12?   maybe\\n17 -> e\u0301"]
    assert summary.display_width("1等e\u0301") == 4


@pytest.mark.parametrize("prompt", ["1 + 1 = ?", "it's $HOME `ls`", "-3+4=", "two\nlines"])
def test_the_command_to_try_is_one_that_a_shell_takes(tmp_path, prompt):
    import shlex

    command, *words = shlex.split(summary.command_to_try(tmp_path / "my run", prompt))[1:]
    assert command == "generate"
    flags.check_prompts(words)
    parser = flags.new_parser("generate")
    parser.add_argument("prompts", nargs="+")
    args = flags.sampling_args(parser, words, num_generations=1, max_completion_length=32)
    assert (args.model, args.prompts) == (str(tmp_path / "my run"), [prompt])


def test_the_accuracy_is_not_said_twice(capsys):
    summary.print_table({"clock": {"accuracy": 0.3695, "pass@1": 0.3695, "pass@2": 0.5}})
    said = capsys.readouterr().out
    assert "accuracy, sampled" in said
    assert "pass@2" in said
    assert "pass@1" not in said
