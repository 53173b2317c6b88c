"""Your own prompts: from files, the hub and reasoning-gym, held out by a rule, refused with the row."""

import json
import sys

import pytest
from datasets import Dataset

from minigrpo import prompts
from minigrpo.config import BadInput
from minigrpo.prompts import in_conversations, own_task, read_prompts
from minigrpo.rewards import score
from minigrpo.tasks import is_held_out, sums_task
from tests.tools.pretrain import byte_tokenizer

pytestmark = pytest.mark.quick

ROWS = [{"prompt": f"{a} + {b} = ?", "answer": str(a + b), "level": a} for a in range(7) for b in range(7)]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Rows in a file of the current folder; its name."""
    monkeypatch.chdir(tmp_path)

    def write(rows, name="mine.jsonl"):
        if name.endswith(".jsonl"):
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            getattr(Dataset.from_list(rows), {"csv": "to_csv", "parquet": "to_parquet"}[name.split(".")[-1]])(name)
        return name

    return write


def task_of(name, longest=100, column="prompt", **changes):
    return own_task(read_prompts(name, prompt_column=column), byte_tokenizer(), longest, **changes)


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv", "mine.parquet"])
def test_a_file_is_parted_by_the_rule_and_no_row_is_lost(written, name):
    task = task_of(written(ROWS, name))
    assert set(task.train["prompt"]) == {row["prompt"] for row in ROWS if not is_held_out(row["prompt"])}
    assert set(task.held_out["prompt"]) == {row["prompt"] for row in ROWS if is_held_out(row["prompt"])}
    assert 0 < len(task.held_out) < 15
    assert set(task.train.column_names) == {"prompt", "answer", "level"}
    assert task.reward is None


def test_a_prompt_that_stands_twice_is_in_one_part_and_the_parts_do_not_depend_on_the_others(written):
    many, few = task_of(written(ROWS * 2, "many.jsonl")), task_of(written(ROWS[:30], "few.jsonl"))
    assert not set(many.train["prompt"]) & set(many.held_out["prompt"])
    assert set(few.held_out["prompt"]) == set(many.held_out["prompt"]) & {row["prompt"] for row in ROWS[:30]}


def test_of_few_prompts_one_is_held_out(written):
    task = task_of(written([row for row in ROWS if not is_held_out(row["prompt"])][:2]))
    assert (len(task.train), len(task.held_out)) == (1, 1)
    with pytest.raises(BadInput, match="a single prompt, and one has to be held out"):
        task_of(written(ROWS[:1] * 3))


def test_held_out_prompts_that_are_not_scored_are_not_trained_on_either(written, monkeypatch):
    monkeypatch.setattr(prompts, "SCORED", 2)
    task = task_of(written(ROWS))
    assert len(task.held_out) == 2
    assert not any(map(is_held_out, task.train["prompt"]))


def test_conversations_are_prompts_and_a_system_prompt_moves_none_to_the_other_part(written):
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    rows[0]["prompt"][0]["content"] = [{"type": "text", "text": rows[0]["prompt"][0]["content"]}]
    plain, changed = task_of(written(rows)), task_of("mine.jsonl", system_prompt="Be brief.")
    assert changed.train[0]["prompt"] == [{"role": "system", "content": "Be brief."}, *plain.train[0]["prompt"]]
    assert [p[-1] for p in changed.held_out["prompt"]] == [p[-1] for p in plain.held_out["prompt"]]
    assert isinstance(plain.train[0]["prompt"][0]["content"], str)


def test_texts_and_conversations_mix_where_chat_makes_all_of_them_conversations(written):
    rows = [{"prompt": "1 + 1 = ?"}, {"prompt": [{"role": "user", "content": "1 + 2 = ?"}]}]
    with pytest.raises(BadInput, match=r"mine.jsonl, row 2, is a conversation, and mine.jsonl, row 1, a text; --chat"):
        task_of(written(rows))
    task = task_of("mine.jsonl", chat=True)
    assert {p[0]["content"] for part in (task.train, task.held_out) for p in part["prompt"]} == {"1 + 1 = ?", "1 + 2 = ?"}


def test_the_prompts_may_stand_in_another_column_and_answers_of_others_are_not_handed_over(written):
    rows = [{"question": row["prompt"], "completion": "x", "n": row["level"] or None} for row in ROWS]
    assert set(task_of(written(rows), column="question").train.column_names) == {"prompt", "n"}
    with pytest.raises(BadInput, match=r"row 1, has no 'prompt', only 'question, completion, n'; --prompt-column names"):
        task_of("mine.jsonl")
    with pytest.raises(BadInput, match="has no 'questions', is 'question' it"):
        task_of("mine.jsonl", column="questions")
    with pytest.raises(BadInput, match="has a column 'prompt' besides 'question'"):
        task_of(written([row | {"prompt": "1"} for row in rows]), column="question")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": ""}, "row 3, has an empty prompt"),
        ({"prompt": 5}, "row 3, is 5; a prompt is a text or a list"),
        ({"prompt": "9" * 101}, "row 3, has 101 tokens, and with the completion only 100 fit"),
        ({"prompt": [{"role": "user", "content": ""}]}, "row 3, has a message of the user without content"),
        ({"answer": "2"}, "row 3, has no 'prompt'"),
        ([1], r"row 3, is \[1\]; wanted is an object"),
        ({"prompt": "1", "answer": 2}, "The column 'answer' of mine.jsonl holds values of several kinds"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_row(written, row, words):
    with pytest.raises(BadInput, match=words):
        task_of(written([*ROWS[:2], row]))


def test_what_is_no_file_is_asked_of_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, subset, split):
        asked.append((name, subset, split))
        return Dataset.from_list([{"question": "1 + 1 = ?", "answer": "2"}, {"question": "1 + 2 = ?", "answer": "3"}])

    monkeypatch.setattr(prompts.datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(prompts.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    read = read_prompts("openai/gsm8k", split="test", subset="main", prompt_column="question")
    assert asked == [("openai/gsm8k", "main", "test")]
    assert own_task(read, byte_tokenizer(), 100).name == "gsm8k"


def test_without_a_network_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(prompts.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        BadInput, match=r"There is no data set 'no/such': no file here is called that, and .* A file is \.jsonl"
    ):
        read_prompts("no/such")
    with pytest.raises(BadInput, match="There is no file 'nowhere"):
        read_prompts("nowhere.csv")


def test_a_task_of_ours_can_be_asked_in_conversations():
    task = in_conversations(sums_task(), chat=True, system_prompt="Be brief.")
    prompt = task.held_out[0]["prompt"]
    assert [m["role"] for m in prompt] == ["system", "user"]
    right = score(
        task.reward, task.held_out["prompt"], list(task.held_out["answer"]), {"answer": list(task.held_out["answer"])}
    )
    assert set(right.tolist()) == {5.0}


# --- reasoning-gym --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gym(monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr(prompts, "GYM_PROBLEMS", 24)


def test_reasoning_gym_brings_problems_and_their_scorer(gym):
    read = read_prompts("reasoning_gym:chain_sum", seed=3)
    task = own_task(read, byte_tokenizer(), 200)
    assert len(task.train) + len(task.held_out) == 24
    columns = {name: list(task.train[name]) for name in ("answer", "index")}
    asked = list(task.train["prompt"])
    for said in (columns["answer"], [f"so <answer> {a} </answer>." for a in columns["answer"]]):
        assert score(task.reward, asked, said, columns).tolist() == [task.full_score] * len(asked)
    assert score(task.reward, asked, ["?"] * len(asked), columns).max() < 0.1
    assert read_prompts("reasoning_gym:chain_sum", seed=3).rows == read.rows
    assert read_prompts("reasoning_gym:chain_sum", seed=4).rows != read.rows


@pytest.mark.parametrize("name", ["boxnet", "game_of_life", "graph_color"])
def test_an_answer_of_another_shape_than_a_scorer_looks_for_is_wrong(gym, name):
    """Some of them raise: KeyError, AttributeError."""
    task = own_task(read_prompts(f"reasoning_gym:{name}"), byte_tokenizer(), sys.maxsize)
    said = ["", "[1, 2]", "{}", "[[1]]", '{"a": 1}', "null"]
    columns = {"index": [task.train[0]["index"]] * len(said)}
    assert score(task.reward, [task.train[0]["prompt"]] * len(said), said, columns).max() < 0.1


@pytest.mark.parametrize(("name", "words"), [("chain_sm", "is 'chain_sum' meant"), ("composite", "cannot make problems of")])
def test_what_reasoning_gym_does_not_make_is_refused(gym, name, words):
    with pytest.raises(BadInput, match=words):
        read_prompts(f"reasoning_gym:{name}")


def test_without_reasoning_gym_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(BadInput, match=r'pip install -e "\.\[real\]" brings it'):
        read_prompts("reasoning_gym:chain_sum")
