import json
import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrpo import triples
from minigrpo.config import BadInput
from minigrpo.logprobs import token_logprobs
from minigrpo.scoring import completion_logits
from minigrpo.triples import (
    baseline_advantages,
    encode_record,
    group_ids,
    load_triples,
    logged_rollout,
    optimum_weights,
)

pytestmark = pytest.mark.quick

ROWS = [
    {"prompt": "1 + 1 = ?", "response": "1 + 1 = 2", "reward": 5},
    {"prompt": "1 + 1 = ?", "response": "maybe 3", "reward": "1.0"},
    {"prompt": "1 + 1等于几?", "response": "2", "reward": 3.0},
]


def written(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        Dataset.from_list([{**row, "reward": str(row["reward"])} for row in rows]).to_csv(path)
    else:
        Dataset.from_list([{**row, "reward": float(row["reward"])} for row in rows]).to_parquet(path)
    return path


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_records(tmp_path, suffix):
    loaded = load_triples(written(tmp_path / f"mine{suffix}", ROWS))
    assert loaded["reward"] == [5.0, 1.0, 3.0]
    assert loaded["prompt"] == [row["prompt"] for row in ROWS]
    assert loaded["response"] == [row["response"] for row in ROWS]


def test_rows_and_data_sets_are_records_too():
    assert load_triples(ROWS)["reward"] == [5.0, 1.0, 3.0]
    same_types = Dataset.from_dict({k: [str(row[k]) for row in ROWS] for k in ROWS[0]})
    assert load_triples(same_types)["reward"] == [5.0, 1.0, 3.0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a": "b", "c": 1}', "row 1, has no 'prompt', only 'a, c'"),
        ('{"prompt": "a", "response": "b", "reward": "1_000"}', "row 1, has '1_000' as its reward"),
        ('{"prompt": "a", "response": "b", "reward": 1e39}', r"row 1, has 1e\+39 as its reward; .* at most 3.4e38"),
        (r'{"prompt": "a", "response": "b \ud83d", "reward": 1}', "row 1, holds .*ud83d', half of a character"),
        (r'{"messages": [{"role": "user", "content": "\ud83d"}], "reward": 1}', "row 1, holds .*ud83d', half of a character"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "reward": 1}',
            "row 1, has a message of the user with a part 'image_url'; only parts",
        ),
        ('{"messages": [{"role": "user", "content": []}], "reward": 1}', "row 1, has a message of the user without content"),
        ('{"messages": [{"role": "user", "content": ["a"]}], "reward": 1}', "row 1, has a message of the user with a part 'a'"),
        ('{"prompt": [{"role": "user"}], "response": "b", "reward": 1}', "row 1, .* A chat belongs in a column 'messages'"),
        ('{"prompt": "a", "response": "b", "reward": 1}', "has one record, and nothing to compare it with; add one"),
        ('{"prompt": "a", "respons": "b", "reward": 1}', "row 1, has no 'response'; is 'respons' it"),
        ('{"prompt": "a", "response": "b"}', "row 1, has no 'reward'"),
        ('{"prompt": "a", "response": "b", "reward": null}', "row 1, has null as its reward; fill it in"),
        (
            '{"prompt": "a", "response": "b", "reward": 1}\n{"prompt": "a", "response": "", "reward": 2}',
            "row 2, has '' as its resp",
        ),
        ('{"prompt": " ", "response": "b", "reward": 1}', "row 1, has ' ' as its prompt"),
        ('{"prompt": 7, "response": "b", "reward": 1}', "row 1, has 7 as its prompt"),
        ('{"prompt": "a", "response": "b", "reward": NaN}', "row 1, has nan as its reward"),
        ('{"prompt": "a", "response": "b", "reward": 1e999}', "row 1, has inf as its reward"),
        ('{"prompt": "a", "response": "b", "reward": true}', "row 1, has True as its reward"),
        ('{"prompt": "a", "response": "b", "reward": "good"}', "row 1, has 'good' as its reward"),
        ('{"prompt": "a", "response": "b", "reward": [1]}', r"row 1, has \[1\] as its reward"),
        ('{"prompt": "a", "response": "b", "reward": 1}\n{"prompt": "a"', "row 2, is not JSON"),
        ("[1, 2]", r"row 1, is \[1, 2\]; wanted is an object"),
        ("", "has no records"),
        ("\n\n", "has no records"),
        ('{"prompt": "a", "response": "b", "reward": 2}\n{"prompt": "c", "response": "d", "reward": "2"}', "All 2 rewards"),
        ('{"messages": [{"role": "user", "content": "a"}], "reward": 1}', "row 1, does not end with a turn of the assistant"),
        ('{"messages": [], "reward": 1}', "row 1, does not end with a turn of the assistant"),
        ('{"messages": "hello", "reward": 1}', "row 1, has 'hello' as its messages"),
        ('{"messages": [{"role": "robot", "content": "a"}], "reward": 1}', "row 1, has a message with the role 'robot'"),
        ('{"messages": [{"role": "user", "content": ""}], "reward": 1}', "row 1, has a message of the user without content"),
        ('{"messages": [{"role": "assistant", "content": "a"}], "reward": 1}', "row 1, begins with the assistant"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused_by_row(tmp_path, content, sentence):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(BadInput, match=sentence) as error:
        load_triples(path)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name, content, sentence in (
        ("nowhere.jsonl", None, "There is no file"),
        ("mine.txt", b"a", "ends with '.txt'"),
        ("latin.jsonl", '{"prompt": "a"}\n{"prompt": "é"}'.encode("latin-1"), "row 2, is not UTF-8"),
        ("mine.parquet", b"PAR1 rubbish", "is not a Parquet file"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=sentence):
            load_triples(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,response,reward\na,b,1\na,c,2\n", encoding="utf-8-sig")
    assert load_triples(tmp_path / "mine.csv")["reward"] == [1.0, 2.0]


def test_content_in_parts_is_their_text(tmp_path):
    parts = [{"type": "text", "text": "1 + 1"}, {"type": "text", "text": " = ?"}]
    answers = [[{"role": "user", "content": parts}, {"role": "assistant", "content": [{**parts[0], "text": a}]}] for a in "23"]
    for name in ("chats.jsonl", "chats.parquet"):
        written(tmp_path / name, [{"messages": chat, "reward": reward} for chat, reward in zip(answers, (5, 1), strict=True)])
        loaded = load_triples(tmp_path / name)
        assert loaded["prompt"] == ["user: 1 + 1 = ?"] * 2
        assert loaded["response"] == ["2", "3"]
        assert loaded[0]["messages"] == [{"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "2"}]


def test_a_json_file_may_hold_an_array(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(ROWS, indent=2))
    assert load_triples(tmp_path / "mine.json")["response"] == [row["response"] for row in ROWS]


def test_two_records_are_enough_and_rewards_are_compared_as_they_are_used():
    """In float32, where 1 and 1 + 1e-9 are one number."""
    assert len(load_triples(ROWS[:2])) == 2
    with pytest.raises(BadInput, match=r"All 2 rewards in the records are 1.0: .* add a record that is scored higher or lower"):
        load_triples([{**ROWS[0], "reward": 1.0}, {**ROWS[1], "reward": 1 + 1e-9}])


@pytest.mark.parametrize("source", [ROWS[0], None, 5])
def test_what_holds_no_records_is_said(source):
    with pytest.raises(BadInput, match="Records are a file, a Dataset or a list of dicts, one per record; got a"):
        load_triples(source)


def test_every_record_is_looked_at_once(monkeypatch):
    """The work grows as the records do: each is checked once, and no check sees the others."""
    looked_at = []
    monkeypatch.setattr(triples, "check_characters", lambda text, where: looked_at.append(where))
    load_triples([{**ROWS[0], "reward": row} for row in range(50)])
    assert len(looked_at) == 2 * 50


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2)
)
columns = st.sampled_from(["prompt", "response", "reward", "messages", "rewards", "Prompt", ""])
messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": values}), max_size=3)
lines = st.one_of(
    st.dictionaries(columns, st.one_of(values, messages), max_size=4).map(json.dumps),
    st.fixed_dictionaries({"prompt": st.just("a"), "response": st.text(max_size=3), "reward": values}).map(json.dumps),
    st.text(max_size=20),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(lines, max_size=5))
def test_garbage_is_refused_or_read_whole_and_never_a_traceback_or_a_dropped_row(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("garbage") / "mine.jsonl"
    path.write_bytes("\n".join(garbage).encode("utf-8", "surrogatepass"))
    try:
        loaded = load_triples(path)
    except BadInput:
        return
    assert len(loaded) == sum(1 for line in "\n".join(garbage).split("\n") if line.strip())


# --- advantages and weights ---------------------------------------------------------------------------------------------


def test_a_group_is_its_own_baseline_and_a_lone_response_has_the_others():
    """Rewards 5, 1 of one prompt, 3 and 7 alone: baselines 3, 3, (5+1+7)/3 and (5+1+3)/3."""
    rewards = torch.tensor([5.0, 1.0, 3.0, 7.0], dtype=torch.float64)
    advantages = baseline_advantages(rewards, torch.tensor([0, 0, 1, 2]))
    expected = torch.tensor([2.0, -2.0, 3 - 13 / 3, 7 - 3.0], dtype=torch.float64) / rewards.std()
    torch.testing.assert_close(advantages, expected, rtol=1e-4, atol=0)


def test_the_weights_turn_draws_from_the_reference_into_draws_from_the_optimum():
    """Enumerated: E_ref[w f] = E_optimum[f], with optimum = ref exp(R / beta) / Z, and the optimum maximises the objective."""
    ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    rewards, beta, f = torch.tensor([1.0, 3.0, 5.0, 2.0]).double(), 0.7, torch.tensor([3.0, -1.0, 2.0, 7.0]).double()
    counts = (ref * 10).long()
    drawn = torch.repeat_interleave(torch.arange(4), counts)  # as many draws as the reference would give of ten
    weights = optimum_weights(rewards[drawn], beta)

    def objective(p):
        return (p * rewards).sum() - beta * (p * (p / ref).log()).sum()

    policy = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = torch.optim.LBFGS([policy], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -objective(policy.softmax(0))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close((weights * f[drawn]).mean(), (policy.softmax(0).detach() * f).sum(), rtol=1e-4, atol=0)
    assert weights.mean().item() == pytest.approx(1.0)


# --- the batch ----------------------------------------------------------------------------------------------------------


def test_records_in_a_batch_score_as_they_do_alone(random_model, tokenizer):
    records = load_triples(ROWS)
    rollout = logged_rollout(tokenizer, records[:], longest=40)
    logits = completion_logits(random_model, rollout.prompt_ids, rollout.prompt_mask, rollout.group_ids, rollout.completion_ids)
    logprobs = token_logprobs(logits, rollout.completion_ids)
    assert len(rollout.prompt_ids) == 2  # two prompts, three responses
    for row, record in enumerate(records):
        _, prompt, rest, _ = encode_record(tokenizer, record)
        alone = random_model(torch.tensor([prompt + rest])).logits[:, len(prompt) - 1 : -1]
        expected = token_logprobs(alone, torch.tensor([rest]))[0]
        torch.testing.assert_close(logprobs[row][rollout.completion_mask[row]], expected, rtol=1e-4, atol=1e-5)


def test_groups_are_prompts():
    assert group_ids(load_triples(ROWS)).tolist() == [0, 0, 1]


def test_a_record_that_does_not_fit_is_refused(tokenizer):
    records = load_triples([{"prompt": "a" * 30, "response": "b" * 20, "reward": r} for r in (1, 2)])
    with pytest.raises(BadInput, match="row 1, has 30 tokens of prompt and 21 of response"):
        logged_rollout(tokenizer, records[:], longest=50)


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1])
def test_equal_rewards_are_exactly_at_their_baseline(value):
    """And not a rounding away from it, which EPS would magnify to 0.9 at a million."""
    assert baseline_advantages(torch.full((7,), value), torch.zeros(7).long()).tolist() == [0.0] * 7


def test_whole_numbers_are_rewards_too():
    rewards, ids = torch.tensor([1, 0, 3, 5]), torch.tensor([0, 0, 1, 1])
    assert torch.equal(baseline_advantages(rewards, ids), baseline_advantages(rewards.float(), ids))
    assert torch.equal(optimum_weights(rewards, 0.4), optimum_weights(rewards.float(), 0.4))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: optimum_weights(torch.ones(2), 0.0), "beta must be a positive number"),
        (lambda: optimum_weights(torch.ones(2), -1.0), "beta must be a positive number"),
        (lambda: optimum_weights(torch.tensor([1.0, math.inf]), 1.0), "finite numbers"),
        (lambda: optimum_weights([1.0, 2.0], 1.0), "finite numbers"),
        (lambda: baseline_advantages(torch.tensor([1.0, math.nan]), torch.zeros(2)), "finite numbers"),
        (lambda: baseline_advantages(torch.ones(2), torch.zeros(3)), "one number per reward"),
    ],
)
def test_careless_rewards_and_betas_end_in_a_sentence(call, sentence):
    with pytest.raises(BadInput, match=sentence):
        call()
