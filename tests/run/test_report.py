"""tokens.jsonl, and what minigrpo report gathers from the folder of a run."""

import json
import shutil

import pytest
import torch
from datasets import Dataset

from minigrpo.advantages import compute_advantages
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.policy import load_policy
from minigrpo.run import cli, folders, report, token_log
from minigrpo.scoring import fixed_logprobs
from minigrpo.training import train
from minigrpo.triples import load_triples, prepare
from minigrpo.update import TrainState

COLUMNS = ("tokens", "completion_mask", "old_logprobs", "ref_logprobs", "logprobs")


def trained(policy, steps=1, **changes):
    """A state after some steps on completions of uneven lengths, and its configuration."""
    small = {"generation_batch_size": 6, "num_generations": 3, "max_completion_length": 12, "max_steps": steps}
    config = GRPOConfig(**{**small, "learning_rate": 1e-3, **changes})
    state = TrainState.start(*policy, config)
    data = Dataset.from_dict({"prompt": ["1 + 1 = ?", "2 + 3 = ?", "What is 4 + 4?"]})
    for _ in train(state, data, [lambda completions, **columns: [float(len(c) % 3) for c in completions]], config):
        pass
    return state, config


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


# --- tokens.jsonl -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_iterations", "kept"), [(1, [1, 10, 20, 30]), (2, [2, 10, 20, 30]), (4, [4, 12, 20, 32]), (16, [16, 32])]
)
def test_tokens_are_kept_after_the_last_update_on_every_tenth_step(num_iterations, kept):
    assert [step for step in range(1, 33) if token_log.due(step, num_iterations)] == kept


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_a_line_holds_what_the_tokens_were_learnt_from(tiny, num_iterations):
    state, config = trained(tiny, 2, num_iterations=num_iterations)
    line, rollout = json.loads(json.dumps(token_log.token_line(state, config))), state.batch.rollout
    mask = rollout.completion_mask
    lengths = mask.sum(1).tolist()
    assert len(set(lengths)) > 1
    for name in COLUMNS:
        assert [len(row) for row in line[name]] == lengths
    for name, wanted in {
        "old_logprobs": rollout.logprobs,
        "ref_logprobs": state.batch.ref_logprobs,
        "logprobs": fixed_logprobs(state.model, rollout, config.temperature),
    }.items():
        torch.testing.assert_close(padded(line[name]), wanted * mask, atol=6e-5, rtol=0)
    assert (padded(line["logprobs"]) - padded(line["old_logprobs"])).abs().max() > 0.001  # the update shows
    assert [line["prompts"][g] for g in line["group_ids"]] == rollout.prompts
    made = compute_advantages(torch.tensor(line["rewards"]), torch.tensor(line["group_ids"]))
    assert torch.equal(made, torch.tensor(line["advantages"]))
    for text, tokens in zip(rollout.completions, line["tokens"], strict=True):
        if text.isascii():  # else a character may be several tokens
            assert "".join(tokens).removesuffix("⏎") == text


def test_without_a_reference_or_a_sampler_there_is_null(tiny):
    state, config = trained(tiny, beta=0.0)
    assert token_log.token_line(state, config)["ref_logprobs"] is None
    chat = [
        {"role": role, "content": text}
        for role, text in (("user", "1"), ("assistant", "22"), ("user", "3"), ("assistant", "4"))
    ]
    rows = [{"messages": chat, "reward": 1.0}, {"prompt": "a", "response": "b", "reward": 2.0}]
    config = GRPOConfig.for_triples(max_steps=1, task="records")
    state = TrainState.start(*tiny, config)
    list(train(state, prepare(load_triples(rows), config), [], config))
    line = token_log.token_line(state, config)
    assert line["old_logprobs"] is line["ref_logprobs"] is None
    assert {0, 1} == {counts for row in line["completion_mask"] for counts in row}
    assert [len(row) for row in line["tokens"]] == [len(row) for row in line["completion_mask"]]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder, without what a report does not look at."""
    state, config = trained(load_policy("tiny"))
    folder = tmp_path_factory.mktemp("runs") / "made"
    folder.mkdir()
    folders.write_json(folder / "config.json", config.to_dict())
    folders.append_line(folder / "metrics.jsonl", {"step": 1, "reward": 0.5, "kl": float("inf")})
    folders.append_line(folder / "tokens.jsonl", token_log.token_line(state, config))
    return folder


def page_data(path):
    text = path.read_text(encoding="utf-8") if hasattr(path, "read_text") else path
    return json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])


def test_a_report_holds_the_lines_and_names_nobody_elses_server(folder, tmp_path, capsys):
    assert cli.main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for address in ("http:", "https:", "//cdn", "src=", "@import", "url("):
        assert address not in text.replace("http://www.w3.org/2000/svg", "")  # a name, which nothing is asked of
    (run,) = page_data(tmp_path / "page.html")["runs"]
    (line,) = folders.read_lines(folder / "tokens.jsonl")
    assert {name: run["kept"][0][name] for name in COLUMNS} == {name: line[name] for name in COLUMNS}
    assert run["kept"][0]["from_rewards"]
    assert run["curves"] == {"step": [1], "reward": [0.5], "kl": [None]}


def test_the_page_lies_in_the_runs_folder_and_a_new_run_may_overwrite_it(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "run")
    assert cli.main(["report", str(copied)]) == 0
    assert (copied / "report.html").exists()
    assert folders.OF_A_RUN.fullmatch("report.html")
    assert folders.OF_A_RUN.fullmatch("tokens.jsonl")


def test_a_run_without_tokens_shows_its_samples_and_one_without_either_its_curves(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "run")
    (copied / "tokens.jsonl").unlink()
    report.write_report([str(copied)], tmp_path / "page.html")
    assert page_data(tmp_path / "page.html")["runs"][0]["kept"] == []
    rewards, advantages = [0.0, 1.0, 1.0, 1.0], [-0.706, 0.706, 0.0, 0.0]
    chats = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}] for question in "aabb"]
    samples = {"prompts": chats, "completions": list("wxyz"), "rewards": rewards, "advantages": advantages}
    folders.append_line(copied / "samples.jsonl", {"step": 1, **samples})
    report.write_report([str(copied)], tmp_path / "page.html")
    (kept,) = page_data(tmp_path / "page.html")["runs"][0]["kept"]
    assert kept["tokens"] == [["w"], ["x"], ["y"], ["z"]]
    assert kept["group_ids"] == [0, 0, 1, 1]
    assert kept["prompts"] == ["system: Be brief.\nuser: a", "system: Be brief.\nuser: b"]
    assert kept["logprobs"] is None
    assert kept["from_rewards"]


def test_advantages_that_no_rewards_made_are_shown_as_they_were_written_down(folder, tmp_path):
    """Those of records, and of an advantages_fn of one's own: the switch of scale_rewards would make them others."""
    copied = shutil.copytree(folder, tmp_path / "run")
    (line,) = folders.read_lines(copied / "tokens.jsonl")
    line["advantages"][0] += 0.1
    (copied / "tokens.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    report.write_report([str(copied)], tmp_path / "page.html")
    (kept,) = page_data(tmp_path / "page.html")["runs"][0]["kept"]
    assert not kept["from_rewards"]
    assert kept["advantages"] == line["advantages"]


def test_a_fork_says_where_it_comes_from_and_nothing_of_other_folders(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "run")
    folders.write_json(copied / "fork.json", {"run": "../secret/made", "step": 7, "changed": {"beta": [0.04, 0.1]}})
    text = report.show_report(copied).html
    assert "Forked from made after step 7: beta 0.04 -&gt; 0.1." in text
    assert "secret" not in text
    assert str(tmp_path) not in text


def test_a_notebook_shows_a_page_in_a_frame(folder):
    shown = report.show_report(folder)._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count("<") == 2  # all else is the attribute's
    assert len(shown) < 2 * report.IN_A_NOTEBOOK
    assert "report of" in repr(report.show_report(folder))


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no run"),
        (lambda f: (f / "metrics.jsonl").unlink(), "holds no metrics.jsonl"),
        (lambda f: (f / "tokens.jsonl").write_text("{}\n"), "wanted is an object with a step"),
        (lambda f: (f / "tokens.jsonl").write_text('{"step": 1}\n'), "tokens.jsonl', line 1, has no 'prompts'"),
        (lambda f: (f / "fork.json").write_text("[]"), "does not say where the run was forked"),
        (lambda f: shutil.rmtree(f), "is no folder"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_writes_nothing(folder, spoil, part, tmp_path, capsys):
    copied = shutil.copytree(folder, tmp_path / "run")
    spoil(copied)
    assert cli.main(["report", str(copied), "--output", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err.strip()
    assert part in said
    assert "\n" not in said
    assert not (tmp_path / "page.html").exists()


def test_a_run_named_twice_is_refused(folder):
    with pytest.raises(BadInput, match="named twice"):
        report.show_report(folder, folder)
