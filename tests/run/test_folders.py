import json
import os
from dataclasses import replace

import pytest

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.run import folders, fork, inputs, overwriting


def old_run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    folders.write_json(folder / "config.json", GRPOConfig(seed=1).to_dict())
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "checkpoint-1").mkdir()
    return folder


def content(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# --- writing over, and taking it back ---------------------------------------------------------------------------------


def test_a_folder_that_is_a_link_stays_one(tmp_path):
    disk = old_run(tmp_path / "disk" / "run")
    link = tmp_path / "link"
    link.symlink_to(disk)
    folders.new_run(GRPOConfig(output_dir=str(link)), overwrite=True)
    assert link.is_symlink()
    assert content(disk) == ["config.json", "overwritten.tmp"]
    overwriting.forget(link)
    assert content(disk) == ["config.json"]
    assert content(tmp_path / "disk") == ["run"]


def test_the_current_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folders.new_run(GRPOConfig(output_dir="."))
    overwriting.forget(folder)
    overwriting.undo(folder)
    assert content(tmp_path) == []
    assert tmp_path.is_dir()


def test_a_new_run_that_fails_leaves_its_folder_as_it_was(tmp_path):
    folder = folders.new_run(GRPOConfig(output_dir=str(tmp_path / "run")))
    overwriting.undo(folder)
    assert not folder.exists()
    old_run(folder)
    folders.new_run(GRPOConfig(output_dir=str(folder)), overwrite=True)
    overwriting.undo(folder)
    assert content(folder) == ["checkpoint-1", "config.json", "metrics.jsonl"]
    assert folders.saved_config(folder)["seed"] == 1


def test_the_old_run_outlives_two_new_ones_that_were_killed_at_once(tmp_path):
    folder = old_run(tmp_path / "run")
    for _ in range(2):
        folders.new_run(GRPOConfig(output_dir=str(folder)), overwrite=True)
    overwriting.restore(folder)
    assert content(folder) == ["checkpoint-1", "config.json", "metrics.jsonl"]


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_kill_while_it_is_set_aside_loses_nothing(tmp_path, moved):
    folder = old_run(tmp_path / "run")
    (folder / "overwritten.tmp").mkdir()
    for path in overwriting._own(folder)[:moved]:
        path.rename(folder / "overwritten.tmp" / path.name)
    overwriting.restore(folder)
    assert content(folder) == ["checkpoint-1", "config.json", "metrics.jsonl"]


# --- what was written before ------------------------------------------------------------------------------------------

# Every field as it was before a run kept checksums of what it was made from.
OLD = {
    "model": "tiny", "task": "clock", "reward_funcs": None, "reward_weights": None, "reward_model": None, "triples": None,
    "triples_estimator": "weighted", "output_dir": "old", "seed": 0, "engine": "minigrpo", "device": "cpu", "bf16": False,
    "max_steps": 6, "save_steps": 2, "generation_batch_size": 16, "num_generations": 4, "num_iterations": 1,
    "max_completion_length": 16, "temperature": 1.0, "learning_rate": 0.0002, "adam_epsilon": 1e-08, "max_grad_norm": 1.0,
    "beta": 0.04, "kl_estimator": "k3_ratio", "kl_in_reward": False, "sync_ref_model": False, "ref_model_sync_steps": 512,
    "loss_type": "grpo", "importance_sampling_level": "token", "scale_rewards": "group", "epsilon": 0.2, "epsilon_high": None,
}  # fmt: skip


def test_a_run_of_before_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    saved = folders.saved_config(tmp_path)
    assert OLD.items() <= saved.items()
    folders.check_resumable(saved, GRPOConfig(**saved))
    inputs.check_unchanged(tmp_path, {"the model 'm'": "0"})


# --- what it was made from --------------------------------------------------------------------------------------------


def files_of(config):
    found = inputs.checksums(config)
    del found["its config.json"]
    return found


def test_what_changed_since_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "m"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"1")
    (tmp_path / "mine.jsonl").write_text("one")
    (tmp_path / "reward_that_changes.py").write_text("def f(prompts, completions, **_):\n    return [0.0]\n")
    (tmp_path / "run").mkdir()
    records = GRPOConfig.for_triples("mine.jsonl", model="m")
    online = GRPOConfig(model="m", reward_funcs=["reward_that_changes.f"], reward_model="m")
    made_from = files_of(records) | files_of(online)
    folders.write_json(tmp_path / "run" / inputs.NAME, made_from)
    inputs.check_unchanged(tmp_path / "run", files_of(records) | files_of(online))
    (model / "README.md").write_text("words")
    inputs.check_unchanged(tmp_path / "run", files_of(records))
    (tmp_path / "mine.jsonl").write_text("two")
    with pytest.raises(BadInput, match=r"began, the records 'mine.jsonl' changed, .* delete '.*inputs.json' to go on"):
        inputs.check_unchanged(tmp_path / "run", files_of(records))
    (tmp_path / "reward_that_changes.py").write_text("# another\n")
    (model / "model.safetensors").write_bytes(b"2")
    with pytest.raises(
        BadInput, match=r"the model 'm' and the file of .*'reward_that_changes.f' and the reward model 'm' changed"
    ):
        inputs.check_unchanged(tmp_path / "run", files_of(online))


def test_a_configuration_that_was_edited_by_hand_is_another_run(tmp_path):
    """Where the run is, and how far it goes, may change; a field that is not there, or new, has its default's meaning."""
    config = GRPOConfig(beta=0.1, max_steps=3, output_dir="a")
    folders.write_json(tmp_path / inputs.NAME, inputs.checksums(config))
    for same in (config, replace(config, max_steps=9, save_steps=1, output_dir="b"), GRPOConfig(beta=0.1)):
        inputs.check_unchanged(tmp_path, inputs.checksums(same))
    for other in (GRPOConfig(), replace(config, seed=1), replace(config, loss_type="dapo")):
        with pytest.raises(BadInput, match=r"its config.json changed, and it would go on as another run"):
            inputs.check_unchanged(tmp_path, inputs.checksums(other))


@pytest.mark.parametrize("content", ["[", "[1]", "5", "", pytest.param("[" * 100_000, id="deep")])
def test_checksums_that_are_damaged_are_told_so(tmp_path, content):
    (tmp_path / inputs.NAME).write_text(content)
    with pytest.raises(BadInput, match=r"inputs.json', the checksums of what the run was made from, is damaged; delete it"):
        inputs.check_unchanged(tmp_path, {})


@pytest.mark.parametrize("content", ["[1]", "5", "", '{"beta": "x"}', '{"colour": 1}', pytest.param("[" * 100_000, id="deep")])
def test_a_configuration_that_is_none_is_told_so(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadInput, match=r"config.json' is not the configuration of a run: "):
        folders.saved_config(tmp_path)


def test_the_bundled_records_and_a_model_by_name_are_told():
    assert list(files_of(GRPOConfig.for_triples())) == ["the records 'bundled'"]
    assert files_of(GRPOConfig()) == {}


# --- finished or not --------------------------------------------------------------------------------------------------


def test_a_run_that_has_come_further_says_how_far(tmp_path):
    (tmp_path / "checkpoint-40").mkdir()
    folders.check_unfinished(tmp_path, 40)
    with pytest.raises(BadInput, match="has come to step 40 already; max_steps must be at least that"):
        folders.check_unfinished(tmp_path, 39)
    folders.write_json(tmp_path / "summary.json", {"steps": 120})
    for asked in (50, 120):
        with pytest.raises(BadInput, match="finished after 120 steps; a --max_steps above 120"):
            folders.check_unfinished(tmp_path, asked)
    folders.check_unfinished(tmp_path, 121)


# --- lines and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ['{"step": 3, "rew', '{"st', "{"])
def test_a_line_that_is_being_written_is_left_out(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n' + torn)
    assert [row["step"] for row in folders.read_metrics(tmp_path)] == [1, 2]


def test_a_last_line_without_a_break_counts(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\r\n{"step": 2}')
    assert [row["step"] for row in folders.read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('{"step": 2}\n{"step": 1}\n', "line 2, has step 1 after step 2"),
        ('{"step": 1}\n{"step": 1}\n', "line 2, has step 1 after step 1"),
        ('{"step": true}\n', "line 1, is"),
        ('{"step": 1, "reward": "high"}\n', "line 1, has 'high' as its reward"),
        ('{"step": 1, "kl": 1e39}\n', r"line 1, has 1e\+39 as its kl; wanted is a number"),
        ('{"step": 1, "kl": 1' + "0" * 400 + "}\n", "line 1, has 10{57,} as its kl; wanted is a number"),
        ('{"step": 1' + "0" * 400 + "}\n", "line 1, has 10{57,} as its step; wanted is a number"),
        ('{"step": 1}\n{"st\n', "line 2, is not JSON"),
        pytest.param("[" * 100_000 + "\n", "line 1, is not JSON: maximum recursion depth", id="deep"),
        ('{"st', "has not finished a step"),
    ],
)
def test_lines_that_make_no_curve_are_named(tmp_path, lines, sentence):
    (tmp_path / "metrics.jsonl").write_text(lines)
    with pytest.raises(BadInput, match=sentence):
        folders.read_metrics(tmp_path)


def saved_runs(tmp_path, *configs):
    for number, config in enumerate(configs):
        (tmp_path / f"run-{number}").mkdir()
        folders.write_json(tmp_path / f"run-{number}" / "config.json", config.to_dict())
    return [str(tmp_path / f"run-{number}") for number in range(len(configs))]


def test_runs_of_different_tasks_have_no_mean(tmp_path):
    a, b, c = saved_runs(tmp_path, GRPOConfig(), GRPOConfig(task="sums"), GRPOConfig(seed=3))
    same = [{"step": 9}]
    assert fork.what_a_mean_hides({a: same, c: same}) == []
    assert fork.what_a_mean_hides({a: same, str(tmp_path / "nowhere" / "metrics.jsonl"): same}) == []
    with pytest.raises(BadInput, match=r"differ in task \('clock' in .*, 'sums' in .*\)"):
        fork.what_a_mean_hides({a: same, f"{b}/metrics.jsonl": same})


def test_what_a_mean_of_runs_hides_is_said(tmp_path):
    a, b = saved_runs(tmp_path, GRPOConfig(learning_rate=1e-3), GRPOConfig(beta=0.1, seed=1, max_steps=9))
    differ, cut = fork.what_a_mean_hides({a: [{"step": 1}, {"step": 12}], b: [{"step": 9}]})
    assert (
        f"these runs differ in learning_rate (0.001 in {a!r}, 0.0002 in {b!r}), beta (0.04 in {a!r}, 0.1 in {b!r})." in differ
    )
    assert cut.startswith(f"The curves end at step 9, where {b} ends; {a} goes on to step 12")


def test_what_is_no_unicode_is_written_as_an_escape(tmp_path):
    folders.write_json(tmp_path / "a.json", {"output_dir": "r\udcff"})
    assert folders.read_json(tmp_path / "a.json") == {"output_dir": "r\udcff"}
    folders.append_line(tmp_path / "a.jsonl", {"step": 1, "prompts": ["\ud83d"]})
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))["prompts"] == ["\ud83d"]


def test_a_file_behind_a_link_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    folders.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"


def test_where_a_file_cannot_be_written_is_known_before(tmp_path):
    with pytest.raises(BadInput, match="is a folder"):
        folders.check_output(tmp_path)
    with pytest.raises(BadInput, match="in a folder that is not there"):
        folders.check_output(tmp_path / "no" / "x.csv")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="no plain file"):
        folders.check_output(tmp_path / "pipe")
    folders.check_output(tmp_path / "new.csv")
    assert content(tmp_path) == ["pipe"]
