"""The whole command: its files, killing it, stopping it, going on, and nothing lost."""

import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from minigrpo import tasks
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.run import cli, folders, runner

pytestmark = pytest.mark.usefixtures("drawn_once")
SMALL = ["--generation-batch-size", "16", "--num_generations", "4", "--max-steps", "12", "--save_steps", "4"]
FILES = {"config.json", "metrics.jsonl", "samples.jsonl", "summary.json", "curves.png", "model"}


def train(folder, *flags):
    return cli.main(["train", *SMALL, "--output-dir", str(folder), *flags])


def steps(folder):
    return [row["step"] for row in folders.read_metrics(folder)]


def started(folder, *flags, until, out=os.devnull):
    """The command as a process of its own, a fork of this one, left when ``until`` lines of metrics are there."""

    def command():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.set_lock(threading.RLock())  # the one it has is shared with this process, and a kill would never give it back
        with Path(out).open("w", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
            sys.exit(train(folder, *flags))

    process = multiprocessing.get_context("fork").Process(target=command, daemon=True)
    process.start()
    metrics = folder / "metrics.jsonl"
    while process.is_alive() and (not metrics.exists() or metrics.read_bytes().count(b"\n") < until):
        time.sleep(0.002)
    return process


@pytest.fixture(autouse=True, scope="module")
def few_problems():
    """What a run leaves and survives does not depend on how many problems there are, and most of its time would."""
    split = tasks._split
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_split", lambda rows, size, *, held_out: split(rows, size // 16, held_out=held_out))
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with redirect_stdout(io.StringIO()) as said:
        assert train(folder) == 0
    (folder.parent / "said").write_text(said.getvalue(), encoding="utf-8")
    return folder


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_says_where(uninterrupted):
    said = (uninterrupted.parent / "said").read_text(encoding="utf-8")
    names = {p.name for p in uninterrupted.iterdir()}
    assert names >= FILES | {"checkpoint-4", "checkpoint-8", "checkpoint-12"}
    assert (uninterrupted / "curves.png").stat().st_size > 20_000
    assert all(str(uninterrupted / name) in said for name in FILES)
    assert "thinks first" in said
    assert said.count("  ->  ") == 3
    assert not [name for name in names if name.endswith(".tmp")]
    assert {p.name for p in (uninterrupted / "model").iterdir()} >= {"model.safetensors", "tokenizer.json", "config.json"}


def test_the_summary_and_the_lines_have_what_they_promise(uninterrupted):
    summary = folders.read_json(uninterrupted / "summary.json")
    keys = {"accuracy", "accuracy_greedy", "thinking", "mean_length"}
    assert keys <= summary["before"].keys()
    assert keys <= summary["after"].keys()
    assert summary["steps"] == 12
    assert summary["seconds"] > 0
    assert steps(uninterrupted) == list(range(1, 13))
    assert "thinking" in folders.read_metrics(uninterrupted)[0]
    samples = [json.loads(line) for line in (uninterrupted / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [s["step"] for s in samples] == [1, 10]
    assert {len(samples[0][k]) for k in ("prompts", "completions", "rewards", "advantages")} == {16}
    assert GRPOConfig(**folders.read_json(uninterrupted / "config.json")).max_steps == 12


def test_a_reward_that_is_missing_is_null_in_the_line(tmp_path):
    folders.append_line(tmp_path / "metrics.jsonl", {"step": 1, "reward": float("nan"), "rewards": [float("nan"), 0.5]})
    assert folders.read_metrics(tmp_path) == [{"step": 1, "reward": None, "rewards": [None, 0.5]}]


def test_the_same_command_works_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(2):
        names.append(folders.new_run(GRPOConfig(seed=3)).as_posix())
    assert names == ["runs/clock-3", "runs/clock-3-2"]


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    assert train(tmp_path / "run", "--save-total-limit", "1") == 0
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-12"]


def test_a_run_whose_learning_rate_falls_to_0_is_made_no_longer(capsys):
    saved = GRPOConfig(lr_scheduler_type="linear", max_steps=10)
    with pytest.raises(BadInput, match="max_steps was 10, now 12; start a new run"):
        folders.check_resumable(saved.to_dict(), GRPOConfig(lr_scheduler_type="linear", max_steps=12))


def test_what_is_reported_to_trackio_is_what_stands_in_the_lines_and_stays_here(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "dashboard"))  # read when it is imported
    connected = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    folder, flags = tmp_path / "mine", ("--report-to", "trackio", "--save-steps", "2", "--max-steps", "2")
    assert train(folder, *flags) == 0
    assert cli.main(["train", "--resume", "--output-dir", str(folder), "--max-steps", "3"]) == 0
    from trackio.sqlite_storage import SQLiteStorage

    logged, lines = SQLiteStorage.get_logs("minigrpo", "mine"), folders.read_metrics(folder)
    assert [row["step"] for row in logged] == [1, 2, 3]
    assert [{name: row[name] for name in line} for row, line in zip(logged, lines, strict=True)] == lines
    assert connected == []


def test_without_trackio_one_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr(runner, "load_policy", lambda *args: 1 / 0)
    refused(capsys, ["train", "--report-to", "trackio", "--output-dir", str(tmp_path / "run")], 'pip install -e ".[trackio]"')
    assert not (tmp_path / "run").exists()


# --- killed, and gone on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [2, 7, 11])
def test_a_killed_run_goes_on_to_the_same_weights(uninterrupted, tmp_path, lines):
    folder = tmp_path / "killed"
    process = started(folder, until=lines)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (folder / "summary.json").exists()
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 0
    assert steps(folder) == list(range(1, 13))
    whole, resumed = (load_file(f / "model" / "model.safetensors") for f in (uninterrupted, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    after = [folders.read_json(f / "summary.json")["after"] for f in (uninterrupted, folder)]
    assert after[0] == after[1]


def test_a_half_written_checkpoint_and_a_cut_line_are_left_out(uninterrupted, tmp_path, capsys):
    """As a kill leaves them: a folder with another name, a damaged one, half a line, and steps beyond the checkpoint."""
    folder = tmp_path / "half"
    shutil.copytree(uninterrupted, folder)
    (folder / "summary.json").unlink()
    shutil.copytree(folder / "checkpoint-12", folder / "checkpoint-13.tmp")
    state = folder / "checkpoint-12" / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (folder / name).open("ab") as file:
            file.write('{"step": 13, "prompts": ["等'.encode()[:-1])
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 0
    said = capsys.readouterr()
    assert "checkpoint-12' is damaged" in said.err
    assert "Going on after step 8" in said.out
    assert steps(folder) == list(range(1, 13))
    whole, resumed = (load_file(f / "model" / "model.safetensors") for f in (uninterrupted, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("behind", ["", '{"step": 3}\n', '{"step": 3}\n{"step": 4', '{"step": 3', '{"st'])
def test_what_stands_behind_the_step_is_forgotten_and_what_stands_before_is_kept(behind, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + behind)
    folders.forget_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_ctrl_c_saves_and_says_how_to_go_on(uninterrupted, tmp_path):
    folder = tmp_path / "stopped"
    process = started(folder, "--save_steps", "100", until=3, out=tmp_path / "said")
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert f"minigrpo train --resume --output-dir {folder}" in (tmp_path / "said").read_text(encoding="utf-8")
    reached = steps(folder)[-1]
    assert [p.name for p in folders.checkpoints(folder)] == [f"checkpoint-{reached}"]
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 0
    whole, resumed = (load_file(f / "model" / "model.safetensors") for f in (uninterrupted, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_in_the_last_evaluation_loses_nothing(uninterrupted, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "stopped"
    evaluate, calls = runner.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(runner, "evaluate", interrupted)
    assert train(folder, "--save_steps", "100") == 130
    assert f"Go on with: minigrpo train --resume --output-dir {folder}" in capsys.readouterr().out
    assert [p.name for p in folders.checkpoints(folder)] == ["checkpoint-12"]
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 0
    whole, resumed = (load_file(f / "model" / "model.safetensors") for f in (uninterrupted, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_was_said_at_the_start_may_be_said_again_on_resume(tmp_path):
    """A value that only the saved configuration makes valid: cispo's needs epsilon_high, 20 completions need 4 per prompt."""
    flags = ["--loss-type", "cispo", "--epsilon-high", "5", "--num-generations", "4", "--generation-batch-size", "20"]
    folder = str(tmp_path / "run")
    assert cli.main(["train", "--max-steps", "1", "--output-dir", folder, *flags]) == 0
    again = ["--resume", "--output-dir", folder, "--max-steps", "2", "--loss-type", "cispo", "--generation-batch-size", "20"]
    assert cli.main(["train", *again]) == 0
    assert steps(tmp_path / "run") == [1, 2]


def test_a_model_of_gpt2s_shape_trains_from_a_folder(tmp_path, random_model, tokenizer):
    """As the real GPT-2 would: another context, and pad the same token as EOS."""
    tokenizer.pad_token, kept = tokenizer.eos_token, tokenizer.pad_token
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer.pad_token = kept
    assert train(tmp_path / "run", "--model", str(tmp_path / "model"), "--max-steps", "2") == 0
    assert steps(tmp_path / "run") == [1, 2]


def test_a_finished_run_can_be_made_longer(uninterrupted, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(uninterrupted, folder)
    assert cli.main(["train", "--resume", "--output-dir", str(folder), "--max_steps", "14"]) == 0
    assert steps(folder) == list(range(1, 15))
    assert folders.read_json(folder / "config.json")["max_steps"] == 14
    (folder / "metrics.jsonl").unlink()  # a run whose lines are lost goes on, too
    assert cli.main(["train", "--resume", "--output-dir", str(folder), "--max_steps", "15"]) == 0
    assert steps(folder) == [15]


# --- what is refused, in a sentence, with exit code 2 and nothing lost --------------------------------------------------


def refused(capsys, argv, *parts):
    assert cli.main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "Traceback" not in said
    for part in parts:
        assert part in said


def snapshot(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_resume_with_another_configuration_names_the_fields(uninterrupted, capsys):
    before = snapshot(uninterrupted)
    argv = ["train", "--resume", "--output-dir", str(uninterrupted), "--beta", "0.1", "--loss-type", "dapo"]
    refused(capsys, argv, "beta was 0.04, now 0.1", "loss_type was 'grpo', now 'dapo'")
    refused(capsys, ["train", "--resume", "--output-dir", str(uninterrupted)], "is finished")
    refused(capsys, ["train", "--resume", "--overwrite", "--output-dir", str(uninterrupted)], "give one of the two")
    assert snapshot(uninterrupted) == before


def test_a_named_folder_is_never_written_over_unasked(uninterrupted, tmp_path, capsys):
    before = snapshot(uninterrupted)
    refused(capsys, ["train", "--output-dir", str(uninterrupted)], "is not empty", "--resume", "--overwrite")
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(capsys, ["train", "--output-dir", str(tmp_path), "--overwrite"], "holds no run")
    shutil.copy(uninterrupted / "config.json", tmp_path)
    refused(capsys, ["train", "--output-dir", str(tmp_path), "--overwrite"], "'thesis.txt', no part of a run")
    (tmp_path / "config.json").write_text("{}x")
    refused(capsys, ["train", "--output-dir", str(tmp_path), "--overwrite"], "is not the configuration of a run")
    refused(capsys, ["train", "--output-dir", str(tmp_path / "thesis.txt")], "is a file")
    assert snapshot(uninterrupted) == before
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_overwrite_keeps_the_old_run_until_the_new_one_works(uninterrupted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    late = "def nan(completions, **columns):\n    return [float('nan') if len(completions) > 4 else 1.0] * len(completions)\n"
    (tmp_path / "nan_reward.py").write_text(late)  # passes when it is tried on one prompt
    folder = tmp_path / "kept"
    shutil.copytree(uninterrupted, folder)
    before = snapshot(folder)
    assert train(folder, "--overwrite", "--reward-funcs", "nan_reward.nan") == 2
    assert "returned nan" in capsys.readouterr().err
    assert snapshot(folder) == before
    assert [p.name for p in tmp_path.iterdir() if "overwritten" in p.name] == []


def test_overwrite_starts_afresh(uninterrupted, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(uninterrupted, folder)
    assert train(folder, "--overwrite", "--max-steps", "1") == 0
    assert steps(folder) == [1]
    assert not (folder / "checkpoint-12").exists()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--resume"], ["--resume needs --output_dir"]),
        (["--resume", "--output-dir", "nowhere"], ["holds no run"]),
        (["--resume", "--output-dir"], ["--resume needs --output_dir"]),
        (["--no-such-flag"], ["--no-such-flag", "minigrpo train --help"]),
        (["--max_step", "3"], ["--max_step"]),
        (["--beta", "-1"], ["beta must be 0 or a positive number, got -1.0"]),
        (["--beta", "much"], ["beta", "much"]),
        (["--num_generations", "1"], ["num_generations must be at least 2"]),
        (["--epsilon", "1"], ["epsilon must be"]),
        (["--loss-type", "ppo"], ["loss", "ppo"]),
        (["--model", "no-such-model"], ["There is no model 'no-such-model'"]),
        (["--reward-funcs", "nowhere.nothing"], ["No reward function 'nowhere.nothing'"]),
        (["--reward-funcs", "plain"], ["No reward function 'plain'", "module.function"]),
        (["--reward-weights", "1", "2"], ["one number per reward function, 1, got [1.0, 2.0]"]),
        (["--max-completion-length", "250"], ["has 12 tokens, and with the completion only 6 fit"]),
        (["--max-completion-length", "5000"], ["max_completion_length is 5000, and the model's context takes"]),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(flags, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: 1 / 0)
    refused(capsys, ["train", *flags], *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return [float('nan')] * len(completions)", "returned nan for completion 0"),
        ("return [1.0]", "returned 1 value for 8 completions"),
        ("return ['good'] * len(completions)", "returned 'good' for completion 0"),
    ],
)
def test_a_reward_function_that_misbehaves_is_named(body, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = f"own_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(f"def mine(prompts, completions, **columns):\n    {body}\n")
    assert cli.main(["train", "--reward-funcs", f"{module}.mine"]) == 2
    said = capsys.readouterr().err
    assert f"The reward function mine {part}" in said
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"] == []
    assert "Traceback" not in said


def test_a_reward_function_that_fails_at_the_first_step_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    body = "def late(prompts, completions, **columns):\n    return [1 / (len(completions) < 9)] * len(completions)\n"
    (tmp_path / "late_failure.py").write_text(body)
    assert train(tmp_path / "run", "--reward-funcs", "late_failure.late") == 2
    assert "raised ZeroDivisionError: division by zero (late_failure.py, line 2)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_resume_with_a_changed_reward_file_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "reward_changes.py"
    file.write_text("def short(prompts, completions, **columns):\n    return [-float(len(c)) for c in completions]\n")
    assert train(tmp_path / "run", "--reward-funcs", "reward_changes.short", "--max-steps", "1") == 0
    file.write_text(file.read_text() + "# another\n")
    capsys.readouterr()
    again = ["train", "--resume", "--output-dir", str(tmp_path / "run"), "--max-steps", "2"]
    refused(capsys, again, "the file of the reward function 'reward_changes.short' changed", "inputs.json")
    (tmp_path / "run" / "inputs.json").unlink()
    assert cli.main(again) == 0


@pytest.mark.parametrize(
    ("body", "step", "none"), [("[None] * n", 1, 16), ("[None] + [0.0, 1.0] * (n // 2) + [1.0] * (n % 2)", 1, 1)]
)
def test_completions_without_a_reward_are_said_at_once(tmp_path, monkeypatch, capsys, body, step, none):
    monkeypatch.chdir(tmp_path)
    name = f"abstains_{none}"
    text = f"def f(completions, **columns):\n    n = len(completions)\n    return ({body})[:n]\n"
    (tmp_path / f"{name}.py").write_text(text)
    assert train(tmp_path / "run", "--reward-funcs", f"{name}.f", "--max-steps", "3") == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count(f"Step {step}: {none} of 16 completions got no reward") == 1
    everything = none == 16
    assert (
        folders.read_json(tmp_path / "run" / "summary.json")["verdict"].startswith(
            "There was nothing to learn from: no completion got a reward"
        )
        == everything
    )
    assert said.out.count("No completion got a reward; every reward function returned None. (certain, wrong)") == everything


def test_a_kl_below_0_is_explained_and_no_number_is_minus_0(tmp_path, capsys):
    """Learning that is too slow to move a thing: k1 is a rounding error of either sign."""
    assert train(tmp_path / "run", "--max-steps", "2", "--learning-rate", "1e-6") == 0
    said = capsys.readouterr()
    assert min(row["kl"] for row in folders.read_metrics(tmp_path / "run")) < 0
    assert "kl=0.00" in said.err
    assert "-0.00" not in said.err
    assert "estimated from the samples (k1)" in said.out
    assert train(tmp_path / "free", "--max-steps", "1", "--beta", "0") == 0
    assert "(k1)" not in capsys.readouterr().out


def test_a_run_with_nothing_to_learn_from_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.py").write_text("def same(prompts, completions, **columns):\n    return [0.5] * len(completions)\n")
    assert train(tmp_path / "run", "--reward-funcs", "flat.same") == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count(
        "Every answer scores 0.5: the reward does not tell them apart. The rewards of all groups"
    ) == 1
    assert "1. Every answer scores 0.5: the reward does not tell them apart. (certain, wrong)" in said.out
    assert folders.read_json(tmp_path / "run" / "summary.json")["verdict"].startswith("There was nothing to learn from")
    assert "There was nothing to learn from" in said.out


def test_a_damaged_only_checkpoint_is_an_error_and_not_a_silent_start(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    for name in ("checkpoint-4", "checkpoint-8", "summary.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "checkpoint-12" / "model.safetensors").write_bytes(b"\0" * 100)
    lines = (folder / "metrics.jsonl").read_bytes()
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 2
    assert "No checkpoint in" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == lines


def test_a_damaged_configuration_is_named(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for content in ("{", '{"beta": -1}', '{"colour": 1}', "[]"):
        (folder / "config.json").write_text(content)
        refused(capsys, ["train", "--resume", "--output-dir", str(folder)], "is not the configuration of a run")


def test_a_full_disk_is_seen_before_training(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    assert train(tmp_path / "run") == 2
    assert "has 1 MB free, and the checkpoints of this run need" in capsys.readouterr().err


def test_a_disk_that_fills_up_while_training_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folders, "append_line", full)
    assert train(tmp_path / "run") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("minigrpo: No space left on device: ")


@pytest.mark.parametrize("library", ["safetensors.torch.save_file", "torch.save"])
def test_a_checkpoint_that_the_disk_does_not_take_is_one_sentence_and_leaves_nothing(library, tmp_path, monkeypatch, capsys):
    """What safetensors and torch raise on a full disk are no OSErrors."""

    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device") if "safe" in library else RuntimeError("write failed")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file" if "safe" in library else library, full)
    assert train(tmp_path / "run") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"minigrpo: {tmp_path / 'run' / 'checkpoint-4.tmp'} cannot be written, with ")
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert steps(tmp_path / "run") == [1, 2, 3, 4]


def test_a_read_only_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
    def read_only(self, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    refused(capsys, ["train", "--output-dir", str(tmp_path / "run")], "Read-only file system", str(tmp_path / "run"))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    refused(capsys, ["train", "--output-dir", str(tmp_path / "file" / "below")], "Not a directory", str(tmp_path))


# --- the other commands -------------------------------------------------------------------------------------------------


def test_generate_completes_from_the_bundled_model_and_from_a_run(uninterrupted, capsys):
    assert cli.main(["generate", "7*3+5*8-2+9=", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "5\n"  # greedy, it does not think
    argv = ["generate", "--model", str(uninterrupted), "1 + 1等于几?", "2*2*2*2*2*2=", "--num-generations", "3"]
    assert cli.main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_evaluate_prints_accuracy_and_pass_at_k(capsys):
    assert cli.main(["evaluate", "--num_generations", "2", "--task", "sums"]) == 0
    said = capsys.readouterr().out
    assert "accuracy, sampled" in said
    assert "pass@2" in said
    assert "pass@1" not in said  # the accuracy, under another name
    assert "thinks first" not in said


def test_plot_draws_one_run_and_several(uninterrupted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(uninterrupted, tmp_path / "a")
    (tmp_path / "a" / "curves.png").unlink()
    assert cli.main(["plot", "a"]) == 0
    assert (tmp_path / "a" / "curves.png").stat().st_size > 20_000
    assert cli.main(["plot", "a", str(uninterrupted / "metrics.jsonl"), "--output", "both.png"]) == 0
    assert (tmp_path / "both.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["generate", ""], ["empty prompt"]),
        (["generate", "9" * 300], ["has 300 tokens"]),
        (["generate", "1+1", "--temperature", "-1"], ["temperature must be 0"]),
        (["generate", "1+1", "--temperature", "nan"], ["temperature must be 0"]),
        (["generate", "1+1", "--num-generations", "0"], ["num_generations must be at least 1"]),
        (["generate"], ["PROMPT"]),
        (["evaluate", "--task", "chess"], ["chess"]),
        (["evaluate", "--max-completion-length", "300"], ["max_completion_length"]),
        (["plot", "nowhere"], ["holds no metrics.jsonl"]),
        (["plot", "run", "--output", "curves.abc"], ["'curves.abc' does not end like a picture"]),
        (["dance"], ["dance"]),
    ],
)
def test_the_other_commands_refuse_in_a_sentence(argv, parts, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    monkeypatch.chdir(tmp_path)
    refused(capsys, argv, *parts)


def test_lines_that_are_not_json_are_named_by_number(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nstep 2\n')
    refused(capsys, ["plot", str(tmp_path)], "line 2, is not JSON")
    (tmp_path / "metrics.jsonl").write_text("")
    refused(capsys, ["plot", str(tmp_path)], "has not finished a step")


def test_every_field_is_a_flag_in_both_spellings(capsys):
    from dataclasses import fields

    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for f in fields(GRPOConfig):
        assert f"--{f.name.replace('_', '-')}" in said
        assert f"--{f.name}" in said or "_" in f.name  # once is enough; both are taken


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_bad_input_is_a_value_error():
    assert issubclass(BadInput, ValueError)


# --- what somebody or something else did to the folder ------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_run_that_is_still_going_on_is_left_alone(uninterrupted, tmp_path, capsys, flag):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    before = (folder / "config.json").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    with folders.locked(folder):
        assert cli.main(["train", flag, "--output-dir", str(folder), "--max-steps", "13"]) == 2
    assert "is going on in another process" in capsys.readouterr().err
    assert before == ((folder / "config.json").read_bytes(), (folder / "metrics.jsonl").read_bytes())
    assert cli.main(["train", "--resume", "--output-dir", str(folder), "--max-steps", "13"]) == 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("line", ["x", "[1]", "{}", "", '{"step": "1"}'])
def test_a_line_that_is_no_row_is_named(uninterrupted, tmp_path, capsys, name, line):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    (folder / name).write_text("\n".join([line, *lines[1:]]) + "\n", encoding="utf-8")
    assert cli.main(["train", "--resume", "--output-dir", str(folder), "--max-steps", "13"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{name}', line 1, is" in said


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"steps": null}'])
def test_a_damaged_summary_is_no_summary(uninterrupted, tmp_path, content):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    (folder / "summary.json").write_text(content)
    (folder / "checkpoint-²").mkdir()  # no number, though str.isdigit says so
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 0
    assert folders.read_json(folder / "summary.json")["steps"] == 12


@pytest.mark.parametrize(
    "change", [{"model": 5}, {"reward_funcs": [3]}, {"reward_weights": ["a"]}, {"seed": True}, {"beta": None}, {"triples": []}]
)
def test_a_configuration_of_wrong_kinds_is_refused_by_name(uninterrupted, tmp_path, capsys, change):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    folders.write_json(folder / "config.json", folders.read_json(folder / "config.json") | change)
    assert cli.main(["train", "--resume", "--output-dir", str(folder)]) == 2
    assert f"{next(iter(change))} must be" in capsys.readouterr().err
