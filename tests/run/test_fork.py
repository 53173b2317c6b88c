"""A run forked from a checkpoint: the same to the last bit where nothing is changed, and what is said where something is."""

import json
import shutil
from collections import namedtuple

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from minigrpo import tasks
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.run import cli, folders, fork
from minigrpo.run.checkpoints import load_checkpoint, save_checkpoint
from minigrpo.training import train
from minigrpo.triples import load_triples, prepare
from minigrpo.update import TrainState

pytestmark = pytest.mark.usefixtures("drawn_once")
SMALL = [
    "--generation-batch-size",
    "8",
    "--num-generations",
    "4",
    "--max-steps",
    "6",
    "--save-steps",
    "2",
    "--num-iterations",
    "2",
]


@pytest.fixture(autouse=True, scope="module")
def few_problems():
    """A fork does not depend on how many problems there are, and most of its time would."""
    split = tasks._split
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_split", lambda rows, size, *, held_out: split(rows, size // 64, held_out=held_out))
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "original"
    assert cli.main(["train", *SMALL, "--output-dir", str(folder)]) == 0
    return folder


def lines(folder, name="metrics.jsonl"):
    """Without seconds, which are never the same."""
    rows = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def said(capsys, argv, code=2):
    assert cli.main(argv) == code
    return " ".join(capsys.readouterr())


# --- the command ------------------------------------------------------------------------------------------------------


def test_an_unchanged_fork_is_the_original_float_for_float(original, tmp_path, capsys):
    out = said(capsys, ["fork", str(original), "--at", "4", "--output-dir", str(tmp_path / "same")], 0)
    assert f"Forked from {original} after step 4: nothing changed." in out
    assert lines(tmp_path / "same") == lines(original)
    assert lines(tmp_path / "same", "samples.jsonl") == lines(original, "samples.jsonl")
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (original, tmp_path / "same"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_changed_fork_shares_what_came_before_and_says_where_it_came_from(original, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(original.parent)
    out = said(capsys, ["fork", "original", "--at", "3", "--learning-rate", "1e-2"], 0)
    assert "There is no checkpoint of step 3; the nearest before it is that of step 2." in out
    assert "Forked from original after step 2: learning_rate 0.0002 -> 0.01." in out
    forked = original.parent / "original-at-2"
    reached, reaches = (folders.read_json(run / "summary.json")["after"]["accuracy"] for run in (original, forked))
    assert f"from, original, ended with accuracy {reached:.3f} after 6 steps, this fork with {reaches:.3f}. Both:" in out
    assert "minigrpo plot original original-at-2\n" in out
    assert fork.beside_its_run(original, {"accuracy": 0.5}) == ""
    assert "says no score" in fork.beside_its_run(forked, {})
    assert folders.read_json(forked / "fork.json") == {
        "run": "../original",
        "step": 2,
        "changed": {"learning_rate": [2e-4, 1e-2]},
    }
    before, after = lines(original), lines(forked)
    assert after[:2] == before[:2]
    # Step 3 samples with the weights of step 2; what differs is how far its update goes.
    same = {"reward", "entropy", "kl", "loss", "grad_norm", "completions/mean_length"}
    assert {name: after[2][name] for name in same} == {name: before[2][name] for name in same}
    assert after[3]["entropy"] != before[3]["entropy"]
    assert [row["learning_rate"] for row in after] == [2e-4, 2e-4, 1e-2, 1e-2, 1e-2, 1e-2]
    assert cli.main(["fork", "original", "--at", "2", "--max-steps", "3"]) == 0  # beside the other one
    assert lines(original.parent / "original-at-2-2")[2] == before[2]


def test_a_fork_that_was_stopped_goes_on_like_any_run(original, tmp_path):
    folder = tmp_path / "forked"
    argv = ["fork", str(original), "--at", "2", "--beta", "0.5", "--output-dir", str(folder)]
    assert cli.main(argv) == 0
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    for name in ("checkpoint-4", "checkpoint-6", "model"):
        shutil.rmtree(again / name)
    (again / "summary.json").unlink()
    assert cli.main(["train", "--resume", "--output-dir", str(again)]) == 0
    assert lines(again) == lines(folder)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--at", "2", "--model", "gpt2"], "model was 'tiny', now 'gpt2'"),
        (["--at", "2", "--task", "sums"], "task was 'clock', now 'sums'"),
        (["--at", "2", "--triples"], "triples was None, now 'bundled'"),
        (["--at", "2", "--chat"], "chat was False, now True"),
        (["--at", "2", "--engine", "trl"], "engine was 'minigrpo', now 'trl'"),
        (["--at", "2", "--tokenizer", "other"], "--tokenizer"),
        (["--at", "1"], "no checkpoint at or before step 1: it has those of steps 2, 4, 6. Its save_steps"),
        (["--at", "9"], "would begin after step 6, and max_steps is 6"),
        (["--at", "2", "--beta", "-1"], "beta must be 0 or a positive number"),
        (["--at", "2", "--learning_rat", "1"], "is --learning_rate meant?"),
        (["--beta", "1"], "--at"),
        (["--at", "4", "--reward-funcs", "nowhere.nothing"], "No reward function 'nowhere.nothing'"),
    ],
)
def test_what_cannot_be_forked_is_refused_before_anything_is_written(original, flags, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert part in said(capsys, ["fork", str(original), *flags, "--output-dir", "new"])
    assert list(tmp_path.iterdir()) == []


def test_no_run_no_folder_and_no_second_use_of_one(original, tmp_path, capsys):
    assert "holds no run" in said(capsys, ["fork", str(tmp_path), "--at", "2"])
    before = {path: path.stat().st_mtime_ns for path in original.rglob("*")}
    assert "is not empty" in said(capsys, ["fork", str(original), "--at", "2", "--output-dir", str(original)])
    assert before == {path: path.stat().st_mtime_ns for path in original.rglob("*")}


def test_a_fork_that_fails_before_its_first_step_leaves_nothing(original, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    body = "def late(prompts, completions, **columns):\n    return [1 / (len(completions) < 8)] * len(completions)\n"
    (tmp_path / "late.py").write_text(body)
    argv = ["fork", str(original), "--at", "4", "--output-dir", "new", "--reward-funcs", "late.py:late"]
    assert "ZeroDivisionError" in said(capsys, argv)
    assert not (tmp_path / "new").exists()


def test_a_fork_that_the_disk_has_no_room_for_leaves_nothing(original, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(10**6))
    argv = ["fork", str(original), "--at", "4", "--output-dir", str(tmp_path / "new")]
    assert "has 1 MB free" in said(capsys, argv)
    assert not (tmp_path / "new").exists()


def test_a_run_whose_configuration_was_edited_is_refused(original, tmp_path, capsys):
    shutil.copytree(original, tmp_path / "run")
    saved = folders.read_json(original / "config.json")
    folders.write_json(tmp_path / "run" / "config.json", {**saved, "beta": 0.5})
    assert "its config.json changed" in said(capsys, ["fork", str(tmp_path / "run"), "--at", "2"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_of_the_engine_trl_is_refused(original, tmp_path, capsys):
    shutil.copytree(original, tmp_path / "run")
    saved = folders.read_json(original / "config.json")
    folders.write_json(tmp_path / "run" / "config.json", {**saved, "engine": "trl"})
    assert "trained by the engine trl" in said(capsys, ["fork", str(tmp_path / "run"), "--at", "2"])


# --- forks together ---------------------------------------------------------------------------------------------------


def made(folder, run=None, step=None):
    folder.mkdir()
    if run:
        folders.write_json(folder / fork.NAME, {"run": f"../{run}", "step": step, "changed": {}})
    return folder


def test_runs_part_after_the_last_step_that_any_two_share(tmp_path):
    a, other = made(tmp_path / "a"), made(tmp_path / "other")
    b, c = made(tmp_path / "b", "a", 20), made(tmp_path / "c", "a", 40)
    d, e = made(tmp_path / "d", "b", 60), made(tmp_path / "e", "b", 10)
    assert [fork.parting(runs) for runs in ([a, b], [a, c], [b, c], [a, d], [b, d], [a, e])] == [20, 40, 20, 20, 60, 10]
    assert fork.parting([a, c, d]) == 20
    assert fork.parting([a / "metrics.jsonl", b / "metrics.jsonl"]) == 20
    assert fork.parting([a / "one.jsonl", a / "two.jsonl"]) is None
    assert fork.parting([b, c, d, e]) == 10
    assert [fork.parting(runs) for runs in ([a], [a, a], [a, other], [a, b, other])] == [None] * 4


def test_a_plot_of_both_begins_where_they_part(original, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("minigrpo.view.plots.compare_runs", lambda groups, names, *, axes: drawn.update(groups) or axes.ravel())
    forked = made(tmp_path / "forked")
    folders.write_json(forked / fork.NAME, {"run": str(original), "step": 4, "changed": {}})
    shutil.copy(original / "metrics.jsonl", forked)
    picture = tmp_path / "both.png"
    assert cli.main(["plot", str(original), str(forked), "--output", str(picture)]) == 0
    assert picture.exists()
    assert {name: [row["step"] for row in rows] for name, (rows,) in drawn.items()} == {
        str(original): [5, 6],
        str(forked): [5, 6],
    }
    folders.forget_after(forked / "metrics.jsonl", 4)
    assert cli.main(["plot", str(original), str(forked), "--output", str(picture)]) == 2


# --- in Python --------------------------------------------------------------------------------------------------------


def rows(state, config, **changes):
    reward = [lambda completions, **columns: [float(len(c)) for c in completions]]
    data = prepare(load_triples("bundled"), config) if config.triples else Dataset.from_dict({"prompt": ["a", "bb", "ccc"]})
    found = []
    for metrics in train(state, data, [] if config.triples else reward, config):
        found.append({name: value for name, value in metrics.items() if "seconds" not in name})
    return found


def settings(triples=False, **changes):
    small = {"generation_batch_size": 4, "num_generations": 2, "max_completion_length": 5, **changes}
    return GRPOConfig.for_triples(**small) if triples else GRPOConfig(**small)


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


@pytest.mark.parametrize("changes", [{}, {"num_iterations": 3}, {"triples": True, "triples_estimator": "policy_gradient"}])
def test_a_copy_of_a_state_goes_on_alone_and_the_same(random_model, tokenizer, changes):
    two, four = settings(max_steps=2, **changes), settings(max_steps=4, **changes)
    state = TrainState.start(random_model, tokenizer, two)
    rows(state, two)
    copied = state.fork(four)
    before = weights(state)
    theirs = rows(copied, four)
    assert torch.equal(weights(state), before)
    assert rows(state, four) == theirs
    assert torch.equal(weights(state), weights(copied))


def test_a_copy_learns_at_its_own_rate_and_a_checkpoint_does_too(random_model, tokenizer, tmp_path):
    slow, fast = settings(max_steps=1), settings(max_steps=2, learning_rate=1e-2, adam_epsilon=1e-3, beta=0.0)
    fresh = TrainState.start(random_model, tokenizer, fast)
    state = TrainState.start(random_model, tokenizer, slow)
    rows(state, slow)
    loaded = load_checkpoint(save_checkpoint(state, tmp_path), fresh.fork(fast))
    copied = state.fork(fast)
    assert copied.reference is loaded.reference is None
    assert rows(copied, fast) == rows(loaded, fast)
    assert torch.equal(weights(copied), weights(loaded))
    group = copied.optimizer.param_groups[0]
    assert (group["lr"], group["eps"]) == (1e-2, 1e-3)
    assert state.optimizer.param_groups[0]["lr"] == slow.learning_rate


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_copy_follows_the_schedule_of_its_own_configuration(random_model, tokenizer, tmp_path, weight_decay):
    """And whichever weights decay, each keeps its own moments."""
    plain = settings(max_steps=2)
    falling = settings(max_steps=4, learning_rate=1e-2, lr_scheduler_type="linear", weight_decay=weight_decay)
    state = TrainState.start(random_model, tokenizer, plain)
    rows(state, plain)
    loaded = load_checkpoint(save_checkpoint(state, tmp_path), TrainState.start(state.fork(plain).model, tokenizer, falling))
    copied = state.fork(falling)
    moments = {name: state.optimizer.state[p]["exp_avg"] for name, p in state.model.named_parameters()}
    for other in (copied, loaded):
        for name, p in other.model.named_parameters():
            assert torch.equal(other.optimizer.state[p]["exp_avg"], moments[name])
        assert [row["learning_rate"] for row in rows(other, falling)] == pytest.approx([5e-3, 2.5e-3])


def test_a_rollout_drawn_for_one_update_is_compared_with_its_sampler_in_a_second(random_model, tokenizer):
    once = settings(max_steps=2, learning_rate=1e-2)
    state = TrainState.start(random_model, tokenizer, once)
    rows(state, once)
    third_of_three = settings(max_steps=3, num_iterations=3)  # the rollout of step 2 gets another update
    copied = state.fork(third_of_three)
    assert torch.equal(copied.batch.old_logprobs, state.batch.rollout.logprobs)
    assert rows(copied, third_of_three)[0]["sampling/tokens"] == 0
    assert state.batch.old_logprobs is None


@pytest.mark.parametrize("estimator", ["k3", "exact"])
def test_a_fork_without_a_penalty_needs_no_reference(random_model, tokenizer, estimator):
    penalized = settings(max_steps=1, num_iterations=3, kl_estimator=estimator)
    state = TrainState.start(random_model, tokenizer, penalized)
    rows(state, penalized)
    free = settings(max_steps=4, num_iterations=3, beta=0.0, kl_estimator=estimator)
    assert not any("kl" in row for row in rows(state.fork(free), free))
    with pytest.raises(BadInput, match="has no reference"):
        state.fork(free).fork(penalized)


def test_records_may_be_forked_into_the_other_estimator_in_the_middle_of_a_pass(random_model, tokenizer):
    weighted = settings(True, max_steps=1)
    state = TrainState.start(random_model, tokenizer, weighted)
    rows(state, weighted)
    gradient = settings(True, max_steps=2, triples_estimator="policy_gradient")
    assert len(rows(state.fork(gradient), gradient)) == 1
