"""TRL's reward protocol: what functions get and log, async ones, and every reward that TRL ships."""

import asyncio
import functools

import pytest
import torch
import trl.rewards
from transformers import TrainerState

from minigrpo.config import BadInput
from minigrpo.protocol import Extras, is_async
from minigrpo.rewards import score, score_all
from minigrpo.run.rewards_by_name import load_reward_function

pytestmark = pytest.mark.quick

PROMPT = [{"role": "user", "content": "1 + 1 = ?"}]
ROWS = {"prompts": [PROMPT, PROMPT], "completions": ["2", "maybe 3"], "columns": {"answer": ["2", "2"]}}


def extras(completion_ids=((50, 257), (109, 51, 257)), step=7):
    return Extras([list(ids) for ids in completion_ids], TrainerState(global_step=step, max_steps=9))


def test_a_function_gets_messages_tokens_and_the_state_of_training():
    seen = {}

    def f(prompts, completions, **rest):
        seen.update(rest, prompts=prompts, completions=completions)
        return [1.0, None]

    assert score(f, **ROWS, extras=extras()).isnan().tolist() == [False, True]
    assert seen["prompts"] == ROWS["prompts"]
    assert seen["completions"] == [[{"role": "assistant", "content": text}] for text in ROWS["completions"]]
    assert seen["completion_ids"] == [[50, 257], [109, 51, 257]]
    assert (seen["trainer_state"].global_step, seen["trainer_state"].max_steps) == (7, 9)
    assert seen["answer"] == ["2", "2"]


def test_completions_of_plain_texts_are_texts():
    assert score(lambda completions, **_: [float(c == "2") for c in completions], ["1", "1"], ["2", "3"], {}).tolist() == [1, 0]


def test_a_function_that_asks_for_less_gets_less():
    assert score(lambda prompts, completions, answer: [1.0, 2.0], **ROWS, extras=extras()).tolist() == [1, 2]
    assert (
        score(lambda completion_ids, prompts, completions, answer: list(map(len, completion_ids)), **ROWS, extras=extras())[1]
        == 3
    )
    with pytest.raises(BadInput, match="missing a required argument: 'completion_ids'"):
        score(lambda completion_ids, **_: [0.0], **ROWS)


def test_each_function_has_copies_of_its_own():
    def spoils(prompts, completions, completion_ids, trainer_state, answer, **_):
        prompts[0][0]["content"] = completions[0][0]["content"] = answer[0] = "gone"
        completion_ids[0].clear()
        trainer_state.global_step = -1
        return [0.0, 0.0]

    def looks(prompts, completions, completion_ids, trainer_state, answer, **_):
        texts = prompts[0][0]["content"], completions[0][0]["content"], answer[0]
        assert texts == ("1 + 1 = ?", "2", "2")
        assert (len(completion_ids[0]), trainer_state.global_step) == (2, 7)
        return [1.0, 1.0]

    assert score_all([spoils, looks], **ROWS, extras=extras()).tolist() == [[0, 1], [0, 1]]


def test_what_functions_log_is_kept():
    def logs(completions, log_metric, log_extra, **_):
        log_metric("length", 2)
        log_metric("length", torch.tensor(4.0))
        log_extra("parsed", ["2", {3}])
        return [0.0, 0.0]

    given = extras()
    score(logs, **ROWS, extras=given)
    assert given.metrics() == {"length": 3.0}
    assert given.columns == {"parsed": ["2", "{3}"]}


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (lambda log_metric, **_: log_metric("loss", 1.0), "the metric 'loss', which the run has of its own"),
        (lambda log_metric, **_: log_metric("rewards/f/mean", 1.0), "which the run has of its own"),
        (lambda log_metric, **_: log_metric("x", "1"), "logs '1' as the metric 'x'; wanted is a finite number"),
        (lambda log_metric, **_: log_metric("x", None), "logs None as the metric"),
        (lambda log_extra, **_: log_extra("rewards", [1, 2]), "the column 'rewards'"),
        (lambda log_extra, **_: log_extra("x", [1]), "with 1 values for 2 completions"),
    ],
)
def test_what_cannot_be_logged_is_refused(log, words):
    with pytest.raises(BadInput, match=words):
        score(log, **ROWS, extras=extras())


class Later:
    async def __call__(self, completions, **_):
        await asyncio.sleep(0)
        return [2.0] * len(completions)


async def now(completions, factor=1, **_):
    return [factor * 1.0, None]


def test_async_functions_run_at_the_same_time_and_one_loop_serves_all_steps():
    both, loops = asyncio.Event(), []

    async def waits(completions, **_):
        loops.append(asyncio.get_running_loop())
        await asyncio.wait_for(both.wait(), timeout=20)
        return [0.0, 0.0]

    async def wakes(completions, **_):
        both.set()
        return [1.0, 1.0]

    functions = [waits, lambda completions, **_: [3.0, 3.0], wakes, Later(), functools.partial(now, factor=5)]
    assert [is_async(fn) for fn in functions] == [True, False, True, True, True]
    for _ in range(2):
        scores = score_all(functions, **ROWS, extras=extras())
        assert scores[0].tolist() == [0, 3, 1, 2, 5]
    assert scores[1].isnan().tolist() == [False] * 4 + [True]
    assert loops[0] is loops[1]


def test_async_functions_can_be_called_where_a_loop_is_running():
    """As in a notebook."""

    async def cell():
        return score(now, **ROWS)

    assert asyncio.run(cell())[0] == 1


async def leaves(completions, **_):
    raise SystemExit(0)


async def fails(completions, **_):
    raise ZeroDivisionError("here")


def test_an_async_function_that_fails_is_heard():
    with pytest.raises(ZeroDivisionError, match="here"):
        score(fails, **ROWS)
    with pytest.raises(BadInput, match=r"leaves called sys.exit"):
        score(leaves, **ROWS)
    assert score(now, **ROWS)[0] == 1  # the loop is still there


# --- the rewards that TRL ships -------------------------------------------------------------------------------------------

TEXTS = [
    r"<think>half of 1</think>\(\boxed{\frac{1}{2}}\)",
    r"<think>a guess</think>\(\boxed{\frac{1}{3}}\)",
    "1 2 1 2 1 2 1 2",
]
SHIPPED = {  # name, with its arguments where it makes a reward: what the three texts get
    "accuracy_reward": [1, 0, 0],
    "reasoning_accuracy_reward": [1, 0, 0],
    "think_format_reward": [1, 1, 0],
    "get_cosine_scaled_reward(max_len=100)": None,
    "get_repetition_penalty_reward(ngram_size=2)": None,
    "get_soft_overlong_punishment(max_completion_len=60, soft_punish_cache=20)": [0, -0.25, -1],
}
IDS = [list(range(40)), list(range(45)), [1, 2] * 31]


def test_none_is_forgotten():
    assert {name.split("(")[0] for name in SHIPPED} == {
        name for name in trl.rewards.__all__ if not name.endswith("_rewards")
    }  # modules


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reward_that_trl_ships_says_here_what_it_says_there(name):
    """Called as TRL calls it; by name, as --reward-funcs has it."""
    if "accuracy" in name or "cosine" in name:
        pytest.importorskip("math_verify")
    theirs = eval(f"trl.rewards.{name}")
    contents = [[{"role": "assistant", "content": text}] for text in TEXTS]
    solution = [r"$\frac{1}{2}$"] * 3
    given = {"prompts": [PROMPT] * 3, "completions": contents, "completion_ids": IDS, "solution": solution}
    said = theirs(**given, trainer_state=TrainerState(), log_extra=lambda *_: None, log_metric=lambda *_: None)
    kept = extras(IDS)
    ours = score(load_reward_function(f"trl.rewards.{name}"), [PROMPT] * 3, TEXTS, {"solution": solution}, kept)
    assert ours.tolist() == pytest.approx(said)
    assert SHIPPED[name] is None or ours.tolist() == pytest.approx(SHIPPED[name])
    assert len(set(ours.tolist())) > 1
    if "accuracy" in name:
        assert set(kept.columns) == {"solution", "gold_parsed", "answer_parsed"}


def test_a_solution_that_cannot_be_parsed_abstains():
    pytest.importorskip("math_verify")
    scores = score(
        load_reward_function("trl.rewards.accuracy_reward"), [PROMPT], [TEXTS[0]], {"solution": ["-"]}, extras(IDS[:1])
    )
    assert scores.isnan().all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("get_soft_overlong_punishment", "cannot be called: .*unexpected keyword argument|missing a required argument"),
        ("get_soft_overlong_punishment(1)", "cannot be made: TypeError"),
        ("get_soft_overlong_punishment(x, y)", "cannot be made: ValueError: malformed node"),
        ("get_soft_overlong_punishment(1, 2) + (3)", "cannot be made: ValueError: one call is wanted"),
    ],
)
def test_a_reward_that_wants_arguments_says_so(name, words):
    with pytest.raises(BadInput, match=words):
        score(load_reward_function(f"trl.rewards.{name}"), ["1"], ["2"], {}, extras(IDS[:1]))
