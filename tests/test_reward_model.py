"""The global reward model: what it is trained on, that it orders what it never saw, and what it does as a reward."""

import json

import pytest
import torch
from datasets import Dataset

from minigrpo.config import BadInput
from minigrpo.policy import load_policy
from minigrpo.reward_model import (
    bradley_terry_loss,
    load_reward_model,
    preference_pairs,
    score_records,
    split_by_prompt,
    start_reward_model,
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
        assert cli.main(["reward-model", "train", "--objective", objective, "--output-dir", str(folder / objective)]) == 0
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
    assert accuracy["after"] >= 0.95


def test_as_a_reward_function_it_prefers_what_people_did(trained):
    """Regression brings back the scale of the scores; both order full, bare and none."""
    for objective in ("regression", "bradley_terry"):
        reward = load_reward_model(trained / objective)
        full, bare, none = reward(prompts=["2 + 3 = ?"] * 3, completions=["2 + 3 = 5", "5", "2 + 3 = ?"])
        assert full > bare > none
        if objective == "regression":
            assert [full, bare, none] == pytest.approx([5, 3, 1], abs=1)


def test_a_run_on_its_reward_logs_the_true_one_beside_it_and_raises_it(trained, tmp_path):
    flags = ["--task", "sums", "--max-steps", "60", "--output-dir", str(tmp_path / "run")]
    assert cli.main(["train", "--reward-model", str(trained / "regression"), *flags]) == 0
    summary, rows = folders.read_json(tmp_path / "run" / "summary.json"), folders.read_metrics(tmp_path / "run")
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"] + 0.15
    assert rows[0]["reward"] == pytest.approx(rows[0]["rewards/reward_model/mean"], abs=1e-5)
    assert rows[-1]["rewards/sum_rubric/mean"] > rows[0]["rewards/sum_rubric/mean"]
    assert cli.main(["train", "--resume", "--output-dir", str(tmp_path / "run"), "--max-steps", "61"]) == 0
    assert cli.main(["generate", "--model", str(tmp_path / "run"), "1 + 1 = ?"]) == 0


def test_what_is_no_reward_model_is_said_in_a_sentence(tmp_path, tiny):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    with pytest.raises(BadInput, match="holds a model, but no reward model"):
        load_reward_model(tmp_path / "policy")
    with pytest.raises(BadInput, match="There is no folder"):
        load_reward_model(tmp_path / "nowhere")


def test_bad_flags_are_refused_and_nothing_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text(
        '{"prompt": "a", "response": "b", "reward": 1}\n{"prompt": "c", "response": "d", "reward": 2}\n'
    )
    for flags, sentence in (
        (["--max-steps", "0"], "max_steps and learning_rate must be above 0"),
        (["--triples", "nowhere.jsonl"], "There is no file"),
        (["--triples", "mine.jsonl", "--objective", "bradley_terry"], "no pair to order"),
        (["--learning-rate", "1e30", "--max-steps", "3"], "a lower learning_rate is the usual cure"),
        (["--output-dir", "mine.jsonl"], "not an empty folder"),
    ):
        assert cli.main(["reward-model", "train", *flags]) == 2
        assert sentence in capsys.readouterr().err
        assert [path.name for path in tmp_path.glob("*") if path.name != "runs" or any(path.iterdir())] == ["mine.jsonl"]


def test_one_response_per_prompt_is_enough_for_regression_and_one_prompt_is_too_few(tmp_path, capsys):
    def train(prompts):
        rows = [{"prompt": prompt, "response": str(n), "reward": n} for n, prompt in enumerate(prompts)]
        (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = ["--triples", str(tmp_path / "mine.jsonl"), "--output-dir", str(tmp_path / "model"), "--max-steps", "3"]
        return cli.main(["reward-model", "train", *flags])

    assert train(["a", "a", "a"]) == 2
    assert "All records answer one prompt, 'a'" in capsys.readouterr().err
    assert train(["a", "b", "c"]) == 0
    assert "mean squared error on held-out records" in capsys.readouterr().out
