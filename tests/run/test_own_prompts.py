"""--dataset-name, --chat and --eval-steps through the whole command, and the 20 lines of minigrpo/README.md."""

import copy
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.policy import save_policy
from minigrpo.run import asking, cli, folders, inputs, summary
from minigrpo.run.verdict import verdict

pytestmark = pytest.mark.usefixtures("drawn_once")
ROOT = Path(__file__).parents[2]
SMALL = ["--generation-batch-size", "16", "--num-generations", "4", "--max-steps", "4", "--max-completion-length", "8"]
REWARDS = """
def texts(prompts, completions, answer, log_metric, log_extra, **columns):
    log_metric("long", max(map(len, completions)))
    log_extra("wanted", answer)
    return [float(c == a) - 0.1 * (len(c) > 3) for c, a in zip(completions, answer)]

async def messages(prompts, completions, completion_ids, trainer_state, **columns):
    assert all(p[0] == {"role": "system", "content": "Be brief."} and p[1]["role"] == "user" for p in prompts)
    assert trainer_state.global_step <= trainer_state.max_steps
    return [len(c[0]["content"]) / 10 + len(ids) / 100 for c, ids in zip(completions, completion_ids)]
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with prompts and rewards, the current one for all of these tests."""
    folder = tmp_path_factory.mktemp("own")
    rows = [{"prompt": f"{a} + {b} = ?", "answer": str(a + b)} for a in range(6) for b in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    (folder / "own_rewards.py").write_text(REWARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def train(*flags):
    return cli.main(["train", *SMALL, *flags])


@pytest.fixture(scope="module")
def trained(here):
    assert train("--dataset-name", "sums.jsonl", "--reward-funcs", "own_rewards.texts", "--eval-steps", "2") == 0
    return Path("runs/sums-0")


def test_a_run_on_a_file_leaves_what_a_run_leaves(trained):
    rows = folders.read_metrics(trained)
    assert [row["step"] for row in rows if "eval_reward" in row] == [2, 4]
    assert all("long" in row and "eval_accuracy" not in row for row in rows)
    sample = json.loads((trained / "samples.jsonl").read_text().splitlines()[0])
    assert len(sample["wanted"]) == len(sample["completions"]) == 16
    said = folders.read_json(trained / "summary.json")
    assert {"reward", "reward_greedy", "reward_std", "mean_length"} == set(said["before"]) == set(said["after"])
    assert said["best"]["step"] in (2, 4)
    assert said["best"]["eval_reward"] == max(row["eval_reward"] for row in rows if "eval_reward" in row)
    assert said["after"]["reward"] == rows[-1]["eval_reward"]  # the same samples, the same rewards
    assert folders.read_json(trained / "config.json")["task"] == "dataset"
    assert (trained / "curves.png").stat().st_size > 10_000


def test_it_goes_on_with_the_same_file_alone(trained, here, capsys):
    assert cli.main(["train", "--resume", "--output-dir", str(trained), "--max-steps", "6"]) == 0
    kept = (here / "sums.jsonl").read_text()
    (here / "sums.jsonl").write_text(kept + kept.splitlines()[0].replace("0 + 0", "9 + 9") + "\n")
    assert cli.main(["train", "--resume", "--output-dir", str(trained), "--max-steps", "8"]) == 2
    assert "the prompts 'sums.jsonl' changed" in capsys.readouterr().err
    (here / "sums.jsonl").write_text(kept)


def test_generate_and_evaluate_take_the_same_flags(trained, capsys):
    data = ["--dataset-name", "sums.jsonl", "--model", str(trained), "--max-completion-length", "8"]
    assert cli.main(["evaluate", *data, "--reward-funcs", "own_rewards.texts", "--num-generations", "2"]) == 0
    assert re.search(r"^reward, greedy +-?[0-9.]+$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["generate", *data]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 72
    assert cli.main(["generate", *data, "1 + 1 = ?"]) == 2
    assert cli.main(["generate"]) == 2
    assert capsys.readouterr().err.count("Wanted is either a PROMPT") == 2


def numbers(said):
    return {name.strip(): float(x) for name, x in re.findall(r"^([a-z@1-9, ()]+?) +(-?[0-9.]+)$", said, re.MULTILINE)}


def test_a_runs_model_is_scored_on_the_runs_own_task(trained, here, capsys):
    """The numbers after training, from the folder alone: its data, rewards, lengths and draws."""
    after = folders.read_json(trained / "summary.json")["after"]
    for model in (trained, trained / "model", trained / "checkpoint-4"):
        assert cli.main(["evaluate", "--model", str(model)]) == 0
        said = capsys.readouterr().out
        assert f"{trained}'s own task, sums.jsonl: 6 held-out problems, 4 samples each, by own_rewards.texts" in said
        assert re.search(r"^Chance explains ± [0-9.]+ between two such rewards\.$", said, re.MULTILINE)
        if model != trained / "checkpoint-4" or not (trained / "checkpoint-6").exists():
            assert numbers(said)["reward, sampled"] == pytest.approx(after["reward"], abs=5e-4)
            assert numbers(said)["mean length (tokens)"] == pytest.approx(after["mean_length"], abs=5e-4)


def test_flags_have_the_last_word_over_a_runs_own_task(trained, capsys):
    assert cli.main(["evaluate", "--model", str(trained), "--task", "clock", "--num-generations", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("clock: ")
    assert "1 sample each\n" in said
    args, config, own = asking.evaluation_args(["--model", str(trained), "--reward-funcs", "a.b", "--temperature", "0"])
    assert (own, args.temperature, config.reward_funcs, config.dataset_name) == (trained, 0, ["a.b"], "sums.jsonl")
    assert asking.evaluation_args(["--model", "tiny"])[2] is None


def test_what_a_run_was_made_from_has_to_be_there_still(trained, here, capsys, monkeypatch):
    monkeypatch.chdir(here / "runs")  # where its file is not
    assert cli.main(["evaluate", "--model", "sums-0"]) == 2
    said = capsys.readouterr().err
    assert "There is no file 'sums.jsonl'" in said
    assert "its run's own task; --task and --dataset-name name another" in said
    monkeypatch.chdir(here)
    kept = (here / "sums.jsonl").read_text()
    (here / "sums.jsonl").write_text(kept + kept.splitlines()[0].replace("0 + 0", "9 + 9") + "\n")
    assert cli.main(["evaluate", "--model", str(trained)]) == 0
    assert "began, the prompts 'sums.jsonl' changed." in capsys.readouterr().err
    (here / "sums.jsonl").write_text(kept)
    (trained / "config.json").rename(here / "aside.json")
    assert cli.main(["evaluate", "--model", str(trained)]) == 2
    assert "has lost its config.json" in capsys.readouterr().err
    (here / "aside.json").rename(trained / "config.json")


def test_texts_are_turns_with_chat_and_rewards_see_messages(here, capsys):
    flags = ["--chat", "--system-prompt", "Be brief."]
    rewards = ["--reward-funcs", "own_rewards.messages", "own_rewards.messages", "--max-steps", "1"]
    assert train("--dataset-name", "few.jsonl", *flags, *rewards, "--output-dir", "chat") == 0
    said = capsys.readouterr().out
    assert "There are 2 prompts to train on: a rollout takes all of them, 8 completions and not 16" in said
    assert "generate --model chat --chat --system-prompt 'Be brief.' '" in said
    row = folders.read_metrics("chat")[0]
    assert (
        row["rewards/own_rewards.messages/mean"]
        == row["rewards/own_rewards.messages-2/mean"]
        == pytest.approx(row["reward"] / 2)
    )
    sample = json.loads(Path("chat/samples.jsonl").read_text())
    assert sample["prompts"][0][0]["role"] == "system"
    assert all(isinstance(text, str) for text in sample["completions"])
    assert folders.read_json(Path("chat/config.json"))["generation_batch_size"] == 8
    assert cli.main(["train", "--resume", "--output-dir", "chat", "--max-steps", "2"]) == 0
    capsys.readouterr()
    same = []
    for asked in (flags, [], ["--no-chat"]):
        assert cli.main(["generate", "--model", "chat", *asked, "--num-generations", "4", "1 + 1 = ?"]) == 0
        same.append(capsys.readouterr())
    assert same[0].out == same[1].out != same[2].out  # as in its run, unless told otherwise
    assert "As in chat, each prompt is a user's turn, after the system's 'Be brief.'" in same[1].err
    assert "As in chat" not in same[0].err + same[2].err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--dataset-name", "sums.jsonl"], "reward_funcs must be given for 'sums.jsonl'"),
        (["--dataset-name", "sums.jsonl", "--task", "clock"], "task must be left out with dataset_name"),
        (["--dataset-name", "sums.jsonl", "--triples"], "dataset_name must be left out with triples"),
        (["--prompt-column", "q"], "prompt_column must be left out without a dataset_name"),
        (["--task", "dataset"], "task must be clock, sums, addition or words, without a dataset_name"),
        (["--triples", "--chat"], "chat must be left out with triples"),
        (["--eval-steps", "0"], "eval_steps must be at least 1"),
        (["--system-prompt", " ", "--chat"], "system_prompt must be a text that is not empty"),
        (["--dataset-name", "none.csv", "--reward-funcs", "own_rewards.texts"], "There is no file 'none.csv'"),
        (
            ["--dataset-name", "sums.jsonl", "--reward-funcs", "own_rewards.texts", "--system-prompt", "x"],
            "row 1, is a plain text",
        ),
        (
            ["--dataset-name", "sums.jsonl", "--reward-funcs", "trl.rewards.accuracy_reward"],
            "missing a required argument: 'solution'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(here, flags, sentence, capsys):
    before = sorted(path.name for path in here.rglob("*"))
    assert train(*flags, "--output-dir", "refused") == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in here.rglob("*") if path.name != "refused") == before
    assert not Path("refused").exists()


def test_conversations_without_a_template_are_noted(tiny, here, capsys, tmp_path):
    model, tokenizer = tiny
    conversation = [{"role": "user", "content": "1"}]
    assert inputs.template_note("tiny", tokenizer, conversation) == ""  # which knows the plain lines
    without = copy.deepcopy(tokenizer)
    without.chat_template = None
    said = inputs.template_note("gpt2", without, conversation)
    assert said.startswith("The tokenizer of 'gpt2' has no chat template, so each turn is written as a plain line: 'user: ...")
    save_policy(model, without, tmp_path / "bare")
    flags = ["--model", str(tmp_path / "bare"), "--chat"]
    assert cli.main(["generate", *flags, "1 + 1 = ?"]) == 0
    assert train(*flags, "--reward-funcs", "own_rewards.texts", "--max-steps", "1", "--dataset-name", "few.jsonl") == 0
    said = capsys.readouterr()
    assert "has no chat template" in said.out
    assert "has no chat template" in said.err


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a/my.prompts.jsonl", "my.prompts"), ("openai/gsm8k", "gsm8k"), ("reasoning_gym:chain_sum", "chain_sum")],
)
def test_a_folder_is_called_as_the_data_set(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    config = GRPOConfig(task="dataset", dataset_name=name, reward_funcs=["a.b"])
    assert folders.new_run(config).as_posix() == f"runs/{folder}-0"


@pytest.mark.parametrize(
    ("after", "metrics", "said"),
    [
        (0.9, {}, "It learnt: the reward on held-out prompts went from 0.3 to 0.9; chance explains ± 0.071"),
        (0.2, {"kl": 3.0}, "It got worse: .*, with a KL"),
        (0.35, {}, "No change that the numbers show"),
        (0.3, {"frac_reward_zero_std": 1.0}, "There was nothing to learn from"),
    ],
)
def test_the_verdict_goes_by_the_reward_where_nobody_knows_what_is_right(after, metrics, said):
    one, other = {"reward": 0.3, "reward_std": 0.5}, {"reward": after, "reward_std": 0.5}
    assert re.match(said, verdict(one, other, [{"step": 1, **metrics}], samples=400))


def test_a_measure_that_is_missing_on_one_side_is_a_dash(capsys):
    summary.print_table({"before": {"mean_length": 1.0}, "after": {"reward": 2.0, "mean_length": 1.0}})
    assert re.search(r"^reward, sampled +- +2.000$", capsys.readouterr().out, re.MULTILINE)


def test_the_twenty_lines_of_the_readme_train_the_model_to_something_new(tmp_path, monkeypatch):
    text = (ROOT / "minigrpo" / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    write, command = re.search(r"    (python brief\.py)\n    (minigrpo train .*)\n", text).groups()
    assert len([line for line in block.splitlines() if line]) + 2 <= 20
    monkeypatch.chdir(tmp_path)
    Path("brief.py").write_text(block)
    monkeypatch.setattr(sys, "argv", write.split()[1:])
    runpy.run_path("brief.py", run_name="__main__")
    monkeypatch.delitem(sys.modules, "brief", raising=False)
    words = command.split()[1:]
    words[words.index("--max-steps") + 1] = "30"  # half of it: the way is clear by then
    assert cli.main([*words, "--output-dir", "run"]) == 0
    said = folders.read_json(Path("run/summary.json"))
    assert said["before"]["reward"] < 0.5
    assert said["after"]["reward"] > said["before"]["reward"] + 0.2
    assert said["verdict"].startswith("It learnt")
    rows = folders.read_metrics("run")
    assert rows[-1]["wordy"] < rows[0]["wordy"]


def test_a_configuration_of_prompts_is_read_back(tmp_path):
    config = GRPOConfig(task="dataset", dataset_name="reasoning_gym:chain_sum", eval_steps=5, chat=True)
    folders.write_json(tmp_path / "config.json", config.to_dict())
    assert folders.saved_config(tmp_path) == config.to_dict()
    with pytest.raises(BadInput, match="prompt_column must be a text"):
        GRPOConfig(prompt_column=5)
