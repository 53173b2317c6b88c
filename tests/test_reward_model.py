"""The global reward model: what it is trained on, that it orders what it never saw, and what it does as a reward."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from minigrpo.config import BadInput
from minigrpo.policy import load_policy
from minigrpo.reward_model import (
    bradley_terry_loss,
    load_reward_model,
    pair_accuracy,
    preference_pairs,
    score_records,
    split_by_prompt,
    squared_error,
    start_reward_model,
    train_reward_model,
)
from minigrpo.run import cli, folders
from minigrpo.triples import load_triples

RECORDS = Dataset.from_dict(
    {
        "prompt": ["a", "a", "a", "b", "b", "c"],
        "response": ["x", "y", "z", "x", "y", "x"],
        "reward": [1.0, 3.0, 3.0, 5.0, 2.0, 4.0],
        "messages": [None] * 6,
    }
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for objective in ("regression", "bradley_terry"):
        flags = ["--objective", objective, "--max-steps", "40", "--output-dir", str(folder / objective)]
        assert cli.main(["reward-model", "train", *flags]) == 0
    return folder


def test_pairs_are_of_one_prompt_and_of_different_rewards_better_first():
    assert sorted(preference_pairs(RECORDS)) == [(1, 0), (2, 0), (3, 4)]


def test_bradley_terry_is_the_log_of_the_odds_in_closed_form():
    """A lead of log 3 is a probability of 3/4; only differences count."""
    chosen, rejected = torch.tensor([3.0]).log() + 7, torch.tensor([7.0])
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(torch.tensor(4 / 3).log().item())
    assert bradley_terry_loss(rejected, rejected).item() == pytest.approx(torch.tensor(2.0).log().item())


def test_no_prompt_is_trained_on_and_held_out():
    train, held_out = split_by_prompt(load_triples("bundled"))
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert len(train) + len(held_out) == 400
    assert len(held_out) == 80


def test_a_record_scores_the_same_alone_and_in_a_batch_at_its_eos():
    model, tokenizer = start_reward_model("tiny")
    rows = [{"prompt": "1 + 1 = ?", "response": r, "messages": None} for r in ("2", "1 + 1 = 2", "maybe 3")]
    together = score_records(model, tokenizer, rows)
    for row, score in zip(rows, together, strict=True):
        ids = tokenizer(row["prompt"] + row["response"])["input_ids"] + [tokenizer.eos_token_id]
        hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(model.score(hidden)[0], score, rtol=1e-4, atol=1e-5)


def test_it_starts_from_the_policys_backbone():
    model, _ = start_reward_model("tiny")
    policy, _ = load_policy("tiny")
    for name, weight in policy.base_model.state_dict().items():
        assert torch.equal(weight, model.base_model.state_dict()[name])


@pytest.mark.parametrize("objective", ["regression", "bradley_terry"])
def test_it_orders_pairs_of_prompts_that_it_never_saw(trained, objective):
    accuracy = folders.read_json(trained / objective / "summary.json")["held_out_pair_accuracy"]
    assert accuracy["before"] < 0.9
    assert accuracy["after"] >= 0.85  # of 37 pairs, from the answers to 20 questions


def test_as_a_reward_function_it_prefers_what_people_did(trained):
    """Regression brings back the scale of the scores; both order full, bare and none."""
    for objective in ("regression", "bradley_terry"):
        reward = load_reward_model(trained / objective)
        full, bare, none = reward(prompts=["2 + 3 = ?"] * 3, completions=["2 + 3 = 5", "5", "2 + 3 = ?"])
        assert full > bare > none
        if objective == "regression":
            assert [full, bare, none] == pytest.approx([5, 3, 1], abs=1)


def test_a_run_on_its_reward_logs_the_true_one_beside_it_and_raises_it(trained, tmp_path):
    flags = ["--task", "sums", "--max-steps", "40", "--output-dir", str(tmp_path / "run")]
    assert cli.main(["train", "--reward-model", str(trained / "regression"), *flags]) == 0
    summary, rows = folders.read_json(tmp_path / "run" / "summary.json"), folders.read_metrics(tmp_path / "run")
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"] + 0.15
    assert rows[0]["reward"] == pytest.approx(rows[0]["rewards/reward_model/mean"], abs=1e-5)
    assert rows[-1]["rewards/sum_rubric/mean"] > rows[0]["rewards/sum_rubric/mean"]
    assert cli.main(["train", "--resume", "--output-dir", str(tmp_path / "run"), "--max-steps", "41"]) == 0
    assert cli.main(["generate", "--model", str(tmp_path / "run"), "1 + 1 = ?"]) == 0


def test_what_is_no_reward_model_is_said_in_a_sentence(tmp_path, tiny):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    with pytest.raises(BadInput, match="holds a model, but no reward model"):
        load_reward_model(tmp_path / "policy")
    with pytest.raises(BadInput, match="There is no folder"):
        load_reward_model(tmp_path / "nowhere")


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Train on rows, or by flags alone, in a folder of its own; returns the exit code, what was said, and what is there."""
    monkeypatch.chdir(tmp_path)

    def train(*flags, rows=()):
        if rows:
            lines = (json.dumps(dict(zip(("prompt", "response", "reward"), row, strict=True))) + "\n" for row in rows)
            (tmp_path / "mine.jsonl").write_text("".join(lines))
            flags = ("--triples", "mine.jsonl", *flags)
        capsys.readouterr()
        code = cli.main(["reward-model", "train", *flags])
        said = capsys.readouterr()
        return code, said.out + said.err, sorted(path.name for path in tmp_path.glob("runs/*"))

    return train


@pytest.mark.parametrize(
    ("rows", "flags", "sentence"),
    [
        ((), ["--max-steps", "0"], "max_steps and learning_rate must be above 0"),
        ((), ["--triples", "nowhere.jsonl"], "There is no file"),
        ((), ["--output-dir", "/dev/null"], "not an empty folder"),
        ([("a", "b", 1), ("c", "d", 2)], ["--objective", "bradley_terry"], "no pair to order; score a second response"),
        ([("a", "b", 1), ("a", "c", 2)], [], "There is one prompt to learn from, 'a'; score responses to a second one"),
        (
            [("a", "b", 1), ("a", "c", 2), ("b", "b", 1), ("b", "c", 1)],
            ["--objective", "bradley_terry"],
            "There is one prompt to learn from, 'a'",
        ),
        (
            [("a", "b", 1), ("b", "c" * 500, 2)],
            [],
            "mine.jsonl, row 2, has 502 tokens with EOS; the reward model's context takes",
        ),
        ((), ["--learning-rate", "1e30", "--max-steps", "3"], "a lower learning_rate is the usual cure"),
        ((), ["--learning-rate", "1e30", "--max-steps", "1"], "a lower learning_rate is the usual cure"),
    ],
)
def test_what_cannot_be_trained_is_said_and_nothing_is_made(train, rows, flags, sentence):
    code, said, made = train(*flags, rows=rows)
    assert (code, made) == (2, [])
    assert sentence in said


def test_one_response_per_prompt_is_enough_for_regression(train):
    """Then the error is reported, beside that of the mean; 0 and 1 are rewards like others."""
    code, said, _ = train("--max-steps", "2", "--output-dir", "runs/lone", rows=[(f"{n}?", str(n), n % 2) for n in range(10)])
    assert code == 0
    assert "8 records; mean squared error on held-out records: " in said
    error = folders.read_json(Path("runs/lone/summary.json"))["held_out_squared_error"]
    assert f"{error['before']:.3f} before, {error['after']:.3f} after" in said
    assert (Path("runs/lone/model.safetensors").stat().st_mode & 0o777) == (Path("mine.jsonl").stat().st_mode & 0o777)


def test_bradley_terry_measures_on_pairs_wherever_they_are(train):
    """Of 12 prompts the last 2 have pairs: one is trained on, one held out."""
    rows = [(f"{n}?", str(n), n) for n in range(12)] + [("10?", "x", 1), ("11?", "y", 1)]
    code, said, made = train("--max-steps", "1", "--objective", "bradley_terry", rows=rows)
    assert (code, made) == (0, ["reward-model"])
    assert "2 records; pairs of held-out prompts in the right order" in said


def test_what_learnt_nothing_is_not_recommended(train):
    assert "no better than a blind guess" in train("--max-steps", "1", "--learning-rate", "1e-9")[1]
    assert "Use it: " not in train("--max-steps", "5", "--learning-rate", "10")[1]


def test_a_full_disk_is_known_before_the_training_and_leaves_nothing_after_it(train, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
        patch.setattr("minigrpo.reward_model.train_reward_model", None)
        code, said, made = train()
        assert (code, made) == (2, [])
        assert "has 1 MB free, and the reward model needs 1" in said
    for name in ("minigrpo.run.reward_model.save_policy", "minigrpo.run.folders.write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            code, said, made = train("--max-steps", "1")
            assert (code, made) == (2, [])
            assert "No space left on device" in said


def test_ctrl_c_leaves_nothing_behind(train, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("minigrpo.reward_model.train_reward_model", stopped)
    assert train()[::2] == (130, [])


def test_the_folders_of_policies_and_reward_models_are_not_taken_for_one_another(trained, tmp_path):
    for load in (load_policy, start_reward_model):
        with pytest.raises(BadInput, match="such as a reward model: it scores texts and does not go on with them"):
            load(str(trained / "regression"))
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(BadInput, match="is the folder of a run, and holds its policy"):
        load_reward_model(tmp_path / "run")


def test_weights_that_are_no_numbers_give_no_reward(trained, tmp_path):
    shutil.copytree(trained / "regression", tmp_path / "broken")
    model = AutoModelForSequenceClassification.from_pretrained(trained / "regression")
    model.score.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(FloatingPointError, match="scores are not finite numbers: its training diverged"):
        load_reward_model(tmp_path / "broken")(prompts=["1 + 1 = ?"], completions=["2"])


def test_many_records_are_measured_as_each_alone(trained):
    """More than a batch of them; the expected error and order come from one record at a time."""
    reward, records = load_reward_model(trained / "regression"), load_triples("bundled").select(range(70))
    model = AutoModelForSequenceClassification.from_pretrained(trained / "regression").eval()
    tokenizer = load_policy("tiny")[1]
    scores = [reward([row["prompt"]], [row["response"]])[0] for row in records]
    errors = [(score - row["reward"]) ** 2 for score, row in zip(scores, records, strict=True)]
    assert squared_error(model, tokenizer, records) == pytest.approx(sum(errors) / 70, rel=1e-4)
    right = [scores[better] > scores[worse] for better, worse in preference_pairs(records)]
    assert pair_accuracy(model, tokenizer, records) == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("changes", [{"objective": "regresion"}, {"steps": 0}, {"batch_size": 1}])
def test_what_training_cannot_do_is_said_in_python_too(changes):
    with pytest.raises(BadInput, match="Wanted are the objective regression or bradley_terry"):
        next(train_reward_model(*start_reward_model("tiny"), RECORDS, **changes))


def test_the_command_to_go_on_with_can_be_pasted_whatever_the_folder_is_called(train, monkeypatch):
    monkeypatch.setattr("minigrpo.run.reward_model._blind_guess", lambda *_: (-1.0, "pairs"))
    said = train("--max-steps", "1", "--output-dir", "my runs")[1]
    assert "Use it: minigrpo train --task sums --reward-model 'my runs'" in said
