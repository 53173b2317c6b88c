"""The seed system from end to end: records in, a better policy out, close to the optimum that theory predicts; and the snippet
it came from, as a control that trains nothing."""

import copy
import json
import math
import warnings
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from minigrpo.config import GRPOConfig
from minigrpo.evaluation import evaluate
from minigrpo.kl import kl_exact
from minigrpo.metrics import METRICS
from minigrpo.policy import load_policy
from minigrpo.run import cli, folders
from minigrpo.sampling import sample_completions, seeded
from minigrpo.scoring import policy_logits
from minigrpo.tasks import is_held_out, load_task
from minigrpo.training import train
from minigrpo.triples import load_triples, prepare
from minigrpo.update import TrainState

SCORES = (5.0, 3.0, 1.0)


def learn(records="bundled", **changes):
    """The bundled model after ``train --triples``."""
    config = GRPOConfig.for_triples(**changes)
    state = TrainState.start(*load_policy("tiny"), config)
    rows = list(train(state, prepare(load_triples(records), config), [], config))
    return state, rows


def scored_samples(model, tokenizer, dataset, num_generations):
    """Samples of each question, and their scores, (questions, num_generations)."""
    rollout = sample_completions(
        model,
        tokenizer,
        dataset["prompt"],
        num_generations=num_generations,
        max_completion_length=24,
        generator=seeded(9),
    )
    answers = [answer for answer in dataset["answer"] for _ in range(num_generations)]
    scores = load_task("sums").reward(rollout.prompts, rollout.completions, answer=answers)
    return rollout, torch.tensor(scores).view(-1, num_generations)


def shares(scores):
    """(questions, 3): how often each question's samples got 5, 3 and 1."""
    return torch.stack([(scores == score).float().mean(1) for score in SCORES], dim=1)


def test_no_bundled_record_asks_a_held_out_question():
    records = load_triples("bundled")
    assert len(records) == 400
    assert not any(is_held_out(prompt) for prompt in records["prompt"])
    assert not set(records["prompt"]) & set(load_task("sums").held_out["prompt"])
    assert set(records["reward"]) == set(SCORES)


def test_the_bundled_records_teach_the_full_equation_and_leave_the_clock_task_alone():
    torch.set_num_threads(1)
    model, tokenizer = load_policy("tiny")
    clock = partial(evaluate, tokenizer=tokenizer, task=load_task("clock"), num_generations=16)  # to 0.005, standard error
    clock_before = clock(model)["accuracy"]
    assert evaluate(model, tokenizer, load_task("sums"), max_completion_length=24)["accuracy"] <= 0.45
    state, rows = learn()
    after = evaluate(state.model, tokenizer, load_task("sums"), max_completion_length=24)
    assert after["accuracy"] >= 0.95
    assert after["accuracy_greedy"] == 1.0
    assert clock_before - clock(state.model)["accuracy"] < 0.05
    assert rows[-1]["weighted_logprob"] > rows[0]["weighted_logprob"] + 0.5
    answer = sample_completions(
        state.model, tokenizer, ["1 + 1等于几?"], num_generations=1, max_completion_length=24, temperature=0.0
    ).completions
    assert answer == ["1 + 1 = 2"]
    assert set(rows[0]) <= set(METRICS)


def test_the_policy_comes_to_the_optimum_that_theory_predicts():
    """At beta 2 the optimum is no corner: reference(y|x) exp(R / 2) / Z(x) leaves every manner a share, and has its own KL.

    With 4096 records: of a few hundred the policy also learns by heart which prompt happened to get which answers.
    """
    torch.set_num_threads(1)
    model, tokenizer = load_policy("tiny")
    task = load_task("sums")
    drawn, scores = scored_samples(model, tokenizer, task.train, 8)
    records = [
        {"prompt": p, "response": c, "reward": r}
        for p, c, r in zip(drawn.prompts, drawn.completions, scores.flatten().tolist(), strict=True)
    ]
    before = shares(scored_samples(model, tokenizer, task.held_out, 64)[1])
    unnormalised = before * torch.exp(torch.tensor(SCORES) / 2.0)
    optimum = unnormalised / unnormalised.sum(1, keepdim=True)
    divergence = torch.special.xlogy(optimum, optimum / before.clamp(min=1e-9)).sum(1).mean().item()
    state, _ = learn(records, beta=2.0, generation_batch_size=128, max_steps=64)
    rollout, scores = scored_samples(state.model, tokenizer, task.held_out, 32)
    with torch.no_grad():
        kl = kl_exact(policy_logits(state.model, rollout), policy_logits(state.reference, rollout))
    kl_sequence = torch.where(rollout.completion_mask, kl, 0.0).sum(1).mean().item()
    assert (optimum.mean(0) - before.mean(0)).abs().max() > 0.25
    torch.testing.assert_close(shares(scores).mean(0), optimum.mean(0), rtol=0, atol=0.05)
    assert kl_sequence == pytest.approx(divergence, rel=0.2)


# --- the snippet, as a control ----------------------------------------------------------------------------------------


def snippet_loss(model, reference, tokenizer, records, beta=0.1):
    """What the project started from, in our words: only prompts are read, the reward is a constant, reduce= is "mean"."""
    inputs = tokenizer(records["prompt"], return_tensors="pt", padding=True)
    probs = model(**inputs).logits.softmax(-1)
    with torch.no_grad():
        ref_probs = reference(**inputs).logits.softmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that reduce= is deprecated
        divergence = torch.nn.functional.kl_div(probs.log(), ref_probs, reduce="batchmean")
    return -torch.tensor(records["reward"]).mean() + beta * divergence


def gradient(model, loss):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if g is not None]
    )


def test_the_snippet_has_no_gradient_at_the_start_and_never_one_of_the_reward():
    model, tokenizer = load_policy("tiny")
    reference = copy.deepcopy(model)
    records = load_triples("bundled")[:64]
    assert gradient(model, snippet_loss(model, reference, tokenizer, records)).norm() < 1e-6
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=seeded(1)))
    flipped = records | {"reward": [-7.0 * reward for reward in records["reward"]]}
    one, other = (gradient(model, snippet_loss(model, reference, tokenizer, r)) for r in (records, flipped))
    assert one.norm() > 1e-4
    assert torch.equal(one, other)


def test_the_snippet_learns_nothing_in_the_steps_in_which_the_records_teach():
    torch.set_num_threads(1)
    model, tokenizer = load_policy("tiny")
    reference, records = copy.deepcopy(model), load_triples("bundled")
    before = evaluate(model, tokenizer, load_task("sums"), num_generations=16, max_completion_length=24)["accuracy"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, eps=1e-4, weight_decay=0.0)
    for step in range(60):
        rows = torch.randperm(len(records), generator=seeded(0, step))[:64].tolist()
        optimizer.zero_grad()
        snippet_loss(model, reference, tokenizer, records[rows]).backward()
        optimizer.step()
    after = evaluate(model, tokenizer, load_task("sums"), num_generations=16, max_completion_length=24)["accuracy"]
    assert abs(after - before) < 3 * math.sqrt(2 * 0.35 * 0.65 / 1280)


# --- the command ------------------------------------------------------------------------------------------------------

SHORT = ["--max-steps", "8", "--save-steps", "3", "--generation-batch-size", "100", "--num-generations", "4"]


def command(folder, *flags):
    return cli.main(["train", "--triples", "--output-dir", str(folder), *SHORT, *flags])


def test_the_command_leaves_the_files_of_a_run(tmp_path, capsys):
    assert command(tmp_path / "run") == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "samples.jsonl", "summary.json", "curves.png", "model", "checkpoint-8"}
    summary = folders.read_json(tmp_path / "run" / "summary.json")
    assert {"accuracy", "accuracy_greedy", "mean_length"} <= set(summary["before"]) & set(summary["after"])
    assert "400 records, scored on 80 held-out problems" in capsys.readouterr().out
    for row in folders.read_metrics(tmp_path / "run"):
        assert row["kl"] >= 0
        assert row["clip_ratio"] == 0


@pytest.mark.parametrize("estimator", ["weighted", "policy_gradient"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch, estimator):
    scores = {"accuracy": 0.0, "accuracy_greedy": 0.0, "mean_length": 1.0}  # of no account here, and the slowest part
    monkeypatch.setattr("minigrpo.run.runner.evaluate", lambda *args, **kwargs: scores)
    monkeypatch.setattr("minigrpo.run.summary.plot_to", lambda *args: None)
    load_triples("bundled").select(range(48)).to_json(tmp_path / "few.jsonl")
    flags = ["--triples", str(tmp_path / "few.jsonl"), "--generation-batch-size", "12", "--triples-estimator", estimator]
    assert command(tmp_path / "whole", *flags) == 0
    assert command(tmp_path / "parts", *flags, "--max-steps", "6") == 0  # the middle of the second pass
    assert cli.main(["train", "--resume", "--output-dir", str(tmp_path / "parts"), "--max-steps", "8"]) == 0
    whole, parts = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [row["step"] for row in folders.read_metrics(tmp_path / "parts")] == list(range(1, 9))


def test_policy_gradient_compares_with_the_policy_at_the_start_of_each_pass():
    """Four batches per pass: the first step of each pass has a ratio of 1 everywhere, and so no clip; later ones have not."""
    config = {"triples_estimator": "policy_gradient", "generation_batch_size": 100, "num_generations": 4, "learning_rate": 3e-3}
    _, rows = learn(max_steps=6, epsilon=0.05, **config)
    assert rows[0]["clip_ratio"] == rows[4]["clip_ratio"] == 0
    assert min(rows[i]["clip_ratio"] for i in (1, 2, 3, 5)) > 0


def test_policy_gradient_compares_with_the_writer_where_the_writer_is_known():
    """The ratio is policy / reference from the first pass on, so what has moved past the clip is pushed no further, ever."""
    config = {"triples_estimator": "policy_gradient", "generation_batch_size": 100, "num_generations": 4, "learning_rate": 3e-3}
    state, rows = learn(max_steps=6, epsilon=0.05, triples_writer="reference", **config)
    assert rows[0]["clip_ratio"] == 0
    assert min(row["clip_ratio"] for row in rows[1:]) > 0  # the fifth begins a pass, too
    assert torch.equal(state.batch.old_logprobs, state.batch.ref_logprobs)
    assert state.old_policy is None


def test_records_of_ones_own_are_scored_on_their_own_prompts(tmp_path, capsys):
    path = tmp_path / "mine.jsonl"
    chat = [{"role": "user", "content": "1 + 2 = ?"}, {"role": "assistant", "content": "1 + 2 = 3"}]
    rows = [{"messages": chat, "reward": 5}, {"prompt": "1 + 1 = ?", "response": "1 + 1 = 2", "reward": "4"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 4), encoding="utf-8")
    flags = ["--max-steps", "2", "--generation-batch-size", "4", "--num-generations", "2"]
    assert cli.main(["train", "--triples", str(path), "--output-dir", str(tmp_path / "run"), *flags]) == 0
    summary = folders.read_json(tmp_path / "run" / "summary.json")
    assert set(summary["after"]) == {"mean_length"}
    assert [example["prompt"] for example in summary["examples"]] == ["user: 1 + 2 = ?\nassistant: ", "1 + 1 = ?"]
    assert "scored on 2 prompts of their own" in capsys.readouterr().out


def test_a_few_records_are_learnt_from_too_in_a_smaller_batch(tmp_path, capsys):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": "1 + 1 = ?", "response": f"1 + 1 = {n}", "reward": 5.0 if n == 2 else 1.0} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--max-steps", "4", "--output-dir", str(tmp_path / "run")]
    assert cli.main(["train", "--triples", str(path), *flags]) == 0
    assert "10 records, all of them in each batch" in capsys.readouterr().out
    learnt = folders.read_metrics(tmp_path / "run")
    assert len(learnt) == 4
    assert learnt[-1]["weighted_logprob"] > learnt[0]["weighted_logprob"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--triples", "nowhere.jsonl"], "There is no file 'nowhere.jsonl'"),
        (["--triples", "--beta", "0"], "beta must be above 0 for the weighted estimator"),
        (["--triples", "--reward-funcs", "a.b"], "reward_funcs must be left out with triples"),
        (["--triples", "--reward-model", "x"], "reward_model must be left out with triples"),
        (["--task", "records"], "task must be clock, sums, addition or words, unless there are records"),
        (["--reward-model", "nowhere"], "There is no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_is_written(tmp_path, monkeypatch, capsys, flags, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *flags]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
