import random
import re

import pytest

from minigrpo.config import BadInput
from minigrpo.tasks import (
    addition_task,
    clock_problem,
    clock_steps,
    clock_task,
    clock_thought,
    exact_answer,
    exact_words,
    is_held_out,
    last_number,
    load_task,
    sum_rubric,
    sums_task,
    thinks_first,
    words_task,
)

pytestmark = pytest.mark.quick


def test_the_clock_by_hand():
    """7*3 -> 1, 1+5 -> 6, 6*8 -> 8, 8-2 -> 6, 6+9 -> 5."""
    assert clock_steps("7*3+5*8-2+9=") == [1, 6, 8, 6, 5]
    assert clock_thought("7*3+5*8-2+9=") == "<1,6,8,6,5>5"
    assert clock_steps("3-5+1-1*9+4=") == [8, 9, 8, 2, 6]  # 3 - 5 is 8


def test_keeping_the_last_digit_at_every_step_or_only_at_the_end_is_the_same():
    rng = random.Random(0)
    for _ in range(200):
        problem = clock_problem(rng)
        value = int(problem[0])
        for operator, digit in zip(problem[1:-1:2], problem[2::2], strict=True):
            value = value + int(digit) if operator == "+" else value - int(digit) if operator == "-" else value * int(digit)
        assert clock_steps(problem)[-1] == value % 10


@pytest.mark.parametrize(
    ("completion", "reward", "thinks"),
    [
        ("5", 1.0, False),
        ("<1,6,8,6,5>5", 1.0, True),
        ("<who knows>5", 1.0, True),
        ("<1,6,8,6,5>6", 0.0, True),
        ("4", 0.0, False),
        ("", 0.0, False),
        ("55", 0.0, False),
        ("5 5", 0.0, False),
        ("<5", 0.0, False),
        ("<5>", 0.0, False),
        ("<>5", 0.0, False),
        ("<1><2>5", 0.0, False),
        ("5\n", 0.0, False),
        ("٥", 0.0, False),
        ("0123456789", 0.0, False),
    ],
)
def test_only_one_digit_or_steps_and_one_digit_is_an_answer(completion, reward, thinks):
    """Adversarial completions too: a list of all digits, a second answer, an Arabic five."""
    assert exact_answer(["7*3+5*8-2+9="], [completion], ["5"]) == [reward]
    assert thinks_first(completion) == thinks


def test_the_rubric_of_sums():
    answers = ["1 + 1 = 2", "2", "maybe 2", "1 + 1 = ?", "1 + 1 = 3", "1 + 1 = 2 ", ""]
    assert sum_rubric(["?"] * 7, answers, ["1 + 1 = 2"] * 7) == [5, 3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("task", "held_out"), [(clock_task, 500), (sums_task, 80)])
def test_training_never_sees_a_held_out_problem(task, held_out):
    tasks = [task(seed) for seed in range(3)]
    prompts = [set(one.held_out["prompt"]) for one in tasks]
    assert all(p == prompts[0] for p in prompts)
    assert len(prompts[0]) == held_out
    for one in tasks:
        train = one.train["prompt"]
        assert len(set(train)) == len(train)
        assert not prompts[0] & set(train)
        assert not any(map(is_held_out, train))


def test_seeds_give_other_problems():
    assert clock_task(0).train["prompt"][:5] != clock_task(1).train["prompt"][:5]


@pytest.mark.parametrize("task", [clock_task(), sums_task()])
def test_the_right_answer_gets_the_full_score(task):
    prompts, answers = task.held_out["prompt"], task.held_out["answer"]
    assert set(task.reward(prompts, answers, answers)) == {task.full_score}


def test_answers_may_be_numbers():
    assert exact_answer(["?", "?"], ["5", "6"], [5, 5]) == [1.0, 0.0]


def test_an_answer_may_stand_in_a_message():
    messages = [[{"role": "assistant", "content": text}] for text in ("<1>5", "6")]
    assert exact_answer([], messages, ["5", "5"]) == [1.0, 0.0]
    assert sum_rubric([], messages[1:], ["3 + 3 = 6"]) == [3.0]
    assert last_number([], messages, ["5", "7"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("31", True),
        ("14 + 17 equals 31.", True),
        ("It is 31!", True),
        ("31 is what 14 + 17 makes", False),  # the last number is 17
        ("31 or 32", False),
        ("-31", False),
        ("31.5", False),
        ("131", False),
        ("3 1", False),
        ("٣١", False),
        ("thirty-one", False),
        ("", False),
    ],
)
def test_the_last_number_is_the_answer(completion, right):
    assert last_number(["?"], [completion], ["31"]) == [float(right)]


def test_no_held_out_sum_is_trained_on_in_either_order():
    def pairs(dataset):
        return [tuple(sorted(re.findall(r"\d+", turns[0]["content"]))) for turns in dataset["prompt"]]

    task = addition_task()
    assert not set(pairs(task.train)) & set(pairs(task.held_out))
    assert len(task.train) + len(task.held_out) == 400
    assert len(task.held_out) == 48
    assert task.held_out[0] == {"prompt": [{"role": "user", "content": "What is 1 + 2?"}], "answer": "3"}


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Cold, wet, grey.", True),
        ("Cold, wet, grey, wide.", False),
        ("Cold, wet.", False),
        ("Cold, cold, wet.", False),  # else one word said three times would do
        ("COLD, cold, wet.", False),
        ("Ever-changing, l’eau, don't", True),
        ("Cold 3 wet - grey!", True),  # numbers and dashes are no words
        ("冷, 湿, 灰", True),
        ("", False),
        ([{"role": "assistant", "content": "Cold, wet, grey."}], True),
    ],
)
def test_as_many_words_as_were_asked_for(completion, right):
    assert exact_words(["?"], [completion], ["3"]) == [float(right)]


def test_always_as_many_words_are_right_a_quarter_of_the_time():
    task = words_task()
    assert (len(task.train), len(task.held_out)) == (212, 28)
    assert not {turns[0]["content"] for turns in task.train["prompt"]} & {
        turns[0]["content"] for turns in task.held_out["prompt"]
    }
    assert sorted(task.held_out["answer"]) == sorted("2345" * 7)


@pytest.mark.parametrize("reward", [exact_answer, exact_words, last_number, sum_rubric])
@pytest.mark.parametrize("completions", [[None], [[]], [[{"role": "assistant"}]], [["5"]], "5"])
def test_completions_that_are_no_texts_are_refused_in_a_sentence(reward, completions):
    with pytest.raises(BadInput, match="completions must be a list of texts"):
        reward(["?"], completions, ["1 + 1 = 2"])


def test_the_rubric_of_sums_wants_equations():
    with pytest.raises(BadInput, match="wants equations such as"):
        sum_rubric(["?"], ["2"], ["2"])


def test_a_lone_surrogate_is_held_out_or_not_like_any_prompt():
    assert is_held_out("\ud83d") in (True, False)


def test_an_unknown_task_is_refused_in_a_sentence():
    with pytest.raises(BadInput, match="no task 'chess'; wanted is one of clock, sums, addition, words"):
        load_task("chess")
