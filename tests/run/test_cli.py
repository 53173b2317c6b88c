"""The command's own words: flags, prompts, encodings, and what is printed at the end."""

import dataclasses
import io
import sys

import pytest

from minigrpo.config import GROUPS, BadInput, GRPOConfig
from minigrpo.run import asking, cli, flags, folders, runner, summary
from minigrpo.tasks import sums_task

CHOICES = ("triples", "dataset_name")


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
        (["resume", "runs/clock-0"], "minigrpo train --resume --output-dir RUN"),
        (["evaluate", "--tsak", "sums"], "for --tsak, is --task meant?"),
        (["plot", "run", "--ouput", "a.png"], "for --ouput, is --output meant?"),
        (["grade", "a.ipynb", "--min-scor", "3"], "for --min-scor, is --min-score meant?"),
        (["reward-model", "train", "--objectve", "regression"], "for --objectve, is --objective meant?"),
    ],
)
def test_a_misspelt_flag_is_told_the_right_one(capsys, argv, meant):
    refused(capsys, argv, meant)


def test_a_task_brings_its_defaults_and_flags_come_after_them():
    assert flags.train_config(["--task", "addition"])[0] == GRPOConfig.for_task("addition")
    config, _ = flags.train_config(["--task=addition", "--model", "tiny", "--beta", "0.1"])
    assert config == GRPOConfig.for_task("addition", model="tiny", beta=0.1)
    assert flags.train_config(["--task", "clock"])[0] == GRPOConfig()


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
    asking.check_prompts(["-3", "- 3 + 4", "1-1=", "--temperature", "-1", "--", "-3+4="])
    with pytest.raises(BadInput, match="is not UTF-8"):
        asking.check_prompts(["\udcff"])


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


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory.")]
)
def test_too_little_memory_is_one_sentence(capsys, monkeypatch, error):
    def greedy(argv):
        raise error

    monkeypatch.setattr(cli, "_plot", greedy)
    refused(capsys, ["plot"], "There is too little memory", "Lower num_generations")


def test_any_other_error_of_torch_keeps_its_traceback(monkeypatch):
    def broken(argv):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(cli, "_plot", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        cli.main(["plot"])


@pytest.mark.parametrize("number", ["0", "2147483648", "9" * 30])
def test_numbers_that_no_library_takes_are_refused(capsys, number):
    refused(capsys, ["generate", "--num-generations", number, "1"], "num_generations must be at least 1 and below 2147483648")


# --- train: its help, and a file of settings ----------------------------------------------------------------------------


def test_the_help_of_train_comes_in_three_groups_and_has_every_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    said = capsys.readouterr().out
    places = [said.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    start = said[places[0] : places[1]]
    assert all(f"--{name}" in start for name in ("model", "max-steps", "config", "resume", "overwrite"))
    assert "default: None" not in said
    for field in dataclasses.fields(GRPOConfig):
        place = said.index(f"\n  --{field.name.replace('_', '-')}")
        assert places[GROUPS.index(field.metadata["group"])] == max(p for p in places if p < place)


@pytest.mark.parametrize("argv", [["--task", "addition"], ["--task", "words"], ["--triples"], ["--dataset-name", "q.jsonl"]])
def test_the_help_of_train_says_what_a_task_changes(capsys, argv):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    end = said[said.index("Other defaults come with") :]
    config, _ = flags.train_config([*argv, *(["--reward-funcs", "a.b"] if "q.jsonl" in argv else [])])
    changed = {name: value for name, value in config.to_dict().items() if value != GRPOConfig().to_dict()[name]}
    assert all(f"{name} {value}" in end for name, value in changed.items() if name not in ("task", "reward_funcs", *CHOICES))


def written(tmp_path, text, name="run.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def config_of(*argv):
    return flags.train_config(list(argv))[0]


def test_a_file_of_settings_is_read_and_flags_have_the_last_word(tmp_path):
    text = "max-steps: 3  # a remark\nlearning_rate: 1e-5\nbf16: yes\nloss_type: dapo\nreward_funcs: [mine.a, mine.b]\n"
    path = written(tmp_path, text)
    config = config_of("--config", path)
    assert (config.max_steps, config.learning_rate, config.bf16, config.loss_type) == (3, 1e-5, True, "dapo")
    assert config.reward_funcs == ["mine.a", "mine.b"]
    assert config_of("--max-steps", "7", "--config", path, "--loss_type=grpo") == dataclasses.replace(
        config, max_steps=7, loss_type="grpo"
    )


def test_the_configuration_of_a_run_is_such_a_file(tmp_path):
    saved = GRPOConfig.for_triples(learning_rate=2e-5, output_dir=str(tmp_path), seed=3)
    folders.write_json(tmp_path / "config.json", saved.to_dict())
    again = config_of("--config", str(tmp_path / "config.json"), "--output-dir", "elsewhere")
    assert again == dataclasses.replace(saved, output_dir="elsewhere")
    assert config_of("--config", str(tmp_path / "config.json")).output_dir is None


def test_a_file_that_names_records_brings_their_defaults(tmp_path):
    config = config_of("--config", written(tmp_path, "triples: bundled\nbeta: 0.7\n"))
    assert config == GRPOConfig.for_triples(beta=0.7)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("learning_rte: 1", "has 'learning_rte', which is no field; is learning_rate meant?"),
        ("colour: red", "has 'colour', which is no field."),
        ("", "holds None; wanted is a line per field"),
        ("- a\n- b", "holds ['a', 'b']; wanted is"),
        ("beta: [", "line 1, is not YAML"),
        ("beta: much", "invalid float value: 'much'"),
        ("beta: -1", "beta must be 0 or a positive number, got -1"),
        ("max_steps: null", "max_steps must be a whole number, got None"),
        ("loss_type: [grpo]", "loss_type must be one of grpo"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(capsys, tmp_path, text, part):
    refused(capsys, ["train", "--config", written(tmp_path, text)], part)


def test_a_file_that_is_not_there_and_one_beside_a_resume_are_refused(capsys, tmp_path):
    refused(capsys, ["train", "--config", str(tmp_path / "no.yaml")], "cannot be read", "No such file")
    refused(capsys, ["train", "--config", str(tmp_path)], "cannot be read", "Is a directory")
    argv = ["train", "--resume", "--output-dir", "run", "--config", written(tmp_path, "beta: 1")]
    refused(capsys, argv, "leave --config out")
    (tmp_path / "latin.yaml").write_bytes(b"task: \xe9")
    refused(capsys, ["train", "--config", str(tmp_path / "latin.yaml")], "cannot be read", "utf-8")


# --- files to write -----------------------------------------------------------------------------------------------------


def test_a_report_never_takes_the_place_of_a_submission(capsys, tmp_path):
    notebook = tmp_path / "ex06_kl.ipynb"
    notebook.write_text("{}")
    (tmp_path / "link.txt").hardlink_to(notebook)
    for output in (notebook, tmp_path / "other.ipynb", tmp_path / "link.txt"):
        refused(capsys, ["grade", str(notebook), "--output", str(output)], "would replace a submission")
    refused(capsys, ["grade", str(notebook), "--output", str(tmp_path)], "is a folder")
    refused(capsys, ["plot", str(tmp_path), "--output", str(tmp_path)], "is a folder")
    assert notebook.read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ex06_kl.ipynb", "link.txt"]


def test_where_nothing_could_be_graded_the_exit_code_says_so(capsys, tmp_path):
    (tmp_path / "ex06_bad.ipynb").write_text("{")
    assert cli.main(["grade", str(tmp_path / "ex06_bad.ipynb"), "--trust", "--output", str(tmp_path / "report.txt")]) == 2
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
    args, _ = asking.generation_args(words)
    assert (args.model, args.prompts) == (str(tmp_path / "my run"), [prompt])


def test_what_is_worth_trying_is_what_training_made_right():
    task = sums_task(0)
    (wrong, right, too), answers = task.held_out["prompt"][:3], task.held_out["answer"][:3]
    texts = [str(answer) for answer in answers]
    examples = [
        {"prompt": wrong, "before": texts[0], "after": texts[0]},  # right before
        {"prompt": right, "before": "?", "after": "??"},
        {"prompt": too, "before": "?", "after": texts[2]},
    ]
    assert summary.worth_trying(task, examples) == too
    assert summary.worth_trying(task, examples[:2]) == wrong  # none: the first
    assert summary.worth_trying(dataclasses.replace(task, reward=None), examples) == right  # nobody knows: the first changed


def test_the_accuracy_is_not_said_twice(capsys):
    summary.print_table({"clock": {"accuracy": 0.3695, "pass@1": 0.3695, "pass@2": 0.5}})
    said = capsys.readouterr().out
    assert "accuracy, sampled" in said
    assert "pass@2" in said
    assert "pass@1" not in said
