"""ex08: rewards. Answers are texts, and a reward is honest if a policy that is trained on it becomes right."""

import math
import re
import zlib

import torch
from torch import Tensor

from minigrpo.grading.questions import Case, Mistake, Question, exactly
from minigrpo.grading.worker import Outcome

NUMBER = re.compile(r"(?:(?<![\d.])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
RUNS, WANTED, WANTED_OF_READY, LARGEST = 3, 0.7, 0.9, 1e6
ANSWERS, STEPS, GENERATIONS, RATE = 8, 150, 8, 1.0  # of the policy that chooses


# --- ex08.1: parse ----------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[float]:
    """All numbers of a text, as people write them."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def parse_answer(text: str) -> float:
    """The last number of a text; NaN where there is none."""
    return (numbers(text) or [math.nan])[-1]


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def _parse_cases(generator):
    a, b, c = (_whole(generator, 11, 99) for _ in range(3))
    texts = (
        ("an equation", f"{a} + {b} = {a + b}"),
        ("a guess that is taken back", f"First I thought {a}, but it is {b + 100}"),
        ("a full stop behind the number", f"The answer is {b}."),
        ("a number below 0", f"The answer is -{a}"),
        ("a subtraction without blanks", f"{a + b}-{a}"),
        ("a number with decimals", f"It costs {a}.{b}, no more."),
        ("a comma between thousands", f"= {a},{b + 100}"),
        ("a list: the comma separates", f"{a}, {b},{c}"),
        ("a unit behind the number", f"x={c}km"),
        ("no number at all", "I do not know."),
        ("an empty text", ""),
        ("the example by hand", "8 + 12 = 12 = 20"),
    )
    return [Case(about, {"text": text}) for about, text in texts]


def _found(pattern: str, which: int = -1, none: float = math.nan, sign: str = ""):
    """A wrong version: one of what a pattern finds."""

    def wrong(text):
        found = [part.replace(",", "") for part in re.findall(pattern, text)]
        try:
            return float(found[which]) if found else none
        except ValueError:
            return none

    return wrong


def _last_word(text):
    words = text.split()
    try:
        return float(words[-1])
    except (IndexError, ValueError):
        return math.nan


PARSE = Question(
    id="ex08.1",
    name="parse_answer",
    points=3,
    read="notebook 05, on rewards that are gamed",
    cases=_parse_cases,
    reference=parse_answer,
    hints=(
        "Write down what you want to find in '-5', '1,250', '3.50.' and '10-3'. What may stand before and behind a digit?",
        "re.findall gives every match of a pattern; take the last. A number is an optional minus sign, digits, perhaps with "
        "groups of a comma and three digits, and perhaps a point and more digits. A minus directly behind a digit subtracts.",
        r"re.findall(r'(?:(?<!\d)-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?', text), then the last match without its commas as a "
        "float; float('nan') for an empty list.",
    ),
    mistakes=(
        Mistake(
            "the first number",
            "this is the first number of the text. Models think aloud; their answer is the last.",
            lambda text: (numbers(text) or [math.nan])[0],
        ),
        Mistake(
            "whole numbers only",
            "only digits were read, so '-5' is 5, '3.50' is 50 and '1,250' is 250. Let the pattern take sign, point, commas.",
            _found(r"\d+"),
        ),
        Mistake(
            "the sign left out",
            "the minus sign was not read. One that stands directly before the digits, and not behind a digit, is a sign.",
            _found(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"),
        ),
        Mistake(
            "every minus is a sign",
            "'10-3' ends in 3, not in -3: a minus sign directly behind a digit subtracts.",
            _found(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"),
        ),
        Mistake(
            "commas cut",
            "the comma of '1,250' ended the number. Take groups of a comma and exactly three digits into the pattern.",
            _found(r"(?:(?<![\d.])-)?\d+(?:\.\d+)?"),
        ),
        Mistake(
            "commas swallowed",
            "'3, 4,5' is a list, and became one number. Only a comma with three digits behind it separates thousands.",
            _found(r"(?:(?<![\d.])-)?\d[\d,]*(?:\.\d+)?"),
        ),
        Mistake(
            "0 for nothing",
            "a text without a number became 0, which may be the right answer somewhere. Give NaN, which equals nothing.",
            lambda text: (numbers(text) or [0.0])[-1],
        ),
        Mistake(
            "the last word",
            "the last word was read as a number. Take the last number wherever it stands: 'It is 7.', 'x=7km'.",
            _last_word,
        ),
    ),
)

# --- ex08.2: an honest reward, judged by what a policy becomes on it ------------------------------------------------------


def is_right(text: str, answer: float) -> bool:
    """Exactly one number stands behind the first "=", or, without one, in the whole text, and it is the answer."""
    return numbers(text.split("=", 1)[-1]) == [answer]


def _answers(generator, a: int, b: int) -> list[str]:
    """Eight answers to a + b: some right, some plainly wrong, some that commit to nothing."""
    total = a + b
    right = (f"{a} + {b} = {total}", f"{total}.", f"It is {total}", f"{b} + {a} ={total}")
    wrong = (
        f"{a} + {b} = {total + 1}",
        f"{total}0",
        f"-{total}",
        f"{total}.5",
        f"1{total}",
        "I do not know",
        f"= {total - 10}",
    )
    gamed = (
        f"{a} + {b} = {b} = {total}",
        f"{total - 1} {total} {total + 1}",
        f"= {total} or {total + 1}",
        f"= {total + 1} or {total}",
        f"{total} {total} {total}",
        f"{total - 1}, no, {total}, no, {total + 2}",
    )
    drawn = []
    for kind, count in ((right, 2), (wrong, 2), (gamed, 4)):
        drawn += [kind[i] for i in torch.randperm(len(kind), generator=generator)[:count].tolist()]
    return [drawn[i] for i in torch.randperm(len(drawn), generator=generator).tolist()]


def _ready_answers(generator, problems: int) -> dict[str, list]:
    """ANSWERS to each of some problems, and what is right for each."""
    completions, answers = [], []
    for _ in range(problems):
        a, b = _whole(generator, 11, 50), _whole(generator, 11, 50)
        completions += _answers(generator, a, b)
        answers += [a + b] * ANSWERS
    return {"completions": completions, "answers": answers}


def _honest_cases(generator):
    from minigrpo.grading import practice  # with transformers, which takes seconds, and no other question needs it

    practice.tempted()  # made here, so that nobody's code runs meanwhile
    runs = [
        Case(f"the bundled model, trained on your reward, run {number}", {"seed": _whole(generator, 0, 2**31)})
        for number in range(1, RUNS + 1)
    ]
    return [*runs, Case("a policy that chooses among ready answers, trained on your reward", _ready_answers(generator, 16))]


class _NoRewards(Exception):
    """What a reward function gave instead; args[0] is the outcome."""


def _trained(ask, case: Case) -> Outcome:
    """Train a policy on a reward; its last answers, and the reward for each."""
    from minigrpo.grading import practice

    def reward(completions, answers):
        args = {"completions": completions, "answers": answers}
        return _checked(ask(Case(case.about, args)), args)

    try:
        if "seed" in case.args:
            completions, answers = practice.practise(reward, case.args["seed"])
        else:
            completions, answers = choose(torch.tensor(reward(**case.args)), **case.args)
        paid = reward(completions, answers)
    except _NoRewards as error:
        return error.args[0]
    return Outcome([torch.tensor(paid)], args={"completions": completions, "answers": answers})


def choose(rewards: Tensor, completions: list[str], answers: list[int]) -> tuple[list[str], list[int]]:
    """What a policy says that GRPO has taught to choose among the ANSWERS to each problem, equally likely at first."""
    generator = torch.Generator().manual_seed(zlib.crc32("".join(completions).encode()))
    table = rewards.double().reshape(-1, ANSWERS)
    logits = torch.zeros_like(table)
    for _ in range(STEPS):
        drawn = torch.multinomial(logits.softmax(1), GENERATIONS, replacement=True, generator=generator)
        group = table.gather(1, drawn)
        advantages = (group - group.mean(1, keepdim=True)) / (group.std(1, keepdim=True) + 1e-4)
        pull = torch.zeros_like(logits).scatter_add(1, drawn, advantages) / GENERATIONS  # advantages of a group sum to 0
        logits = logits + RATE * pull
    said = torch.multinomial(logits.softmax(1), GENERATIONS, replacement=True, generator=generator)
    places = (said + ANSWERS * torch.arange(len(table)).unsqueeze(1)).reshape(-1).tolist()
    return [completions[place] for place in places], [answers[place] for place in places]


def _checked(outcome: Outcome, args: dict) -> list[float]:
    """One finite number per completion, or _NoRewards."""
    values, count = outcome.values, len(args["completions"])
    if values is None:
        raise _NoRewards(outcome)
    rewards = torch.cat([v.reshape(1) for v in values]) if len(values) > 1 and all(v.dim() == 0 for v in values) else values[0]
    if len(values) not in (1, count) or rewards.shape != (count,):
        said = f"wanted is one reward per completion, the shape ({count},), got {tuple(rewards.shape)}"
    elif rewards.is_complex() or not (rewards.double().abs() <= LARGEST).all():
        said = f"one of the rewards is not a number from -{LARGEST:g} to {LARGEST:g}; give every completion such a number"
    else:
        return rewards.double().tolist()
    raise _NoRewards(Outcome(values, args={**args, "said": said}))


def became_right(outcome: Outcome, case: Case) -> str | None:
    """None if the policy is right in WANTED of its answers, of ready ones in nearly all; else what it says instead."""
    if "said" in (outcome.args or {}):
        return outcome.args["said"]
    completions, answers = outcome.args["completions"], outcome.args["answers"]
    right = [is_right(text, answer) for text, answer in zip(completions, answers, strict=True)]
    share, wanted = sum(right) / len(right), WANTED if "seed" in case.args else WANTED_OF_READY
    if share >= wanted:
        return None
    paid = outcome.values[0].tolist()
    worst = max((row for row in range(len(right)) if not right[row]), key=lambda row: paid[row])
    text, answer = completions[worst], answers[worst]
    among = (
        ". The right number stands in it among others: pay for the one that is the answer" if answer in numbers(text) else ""
    )
    return (
        f"in the end {100 * share:.0f} % of the policy's answers are right, and at least {100 * wanted:.0f} % should be. Where "
        f"{answer} is right it says {text!r}, and your reward for it is {paid[worst]:.4g}{among}"
    )


def _honest(completions, answers):
    return [float(is_right(text, answer)) for text, answer in zip(completions, answers, strict=True)]


HONEST = Question(
    id="ex08.2",
    name="honest_reward",
    points=3,
    read="notebook 05, on rewards that are gamed",
    cases=_honest_cases,
    reference=_honest,
    hints=(
        "A policy does what is paid for. Write down five wrong answers to 8 + 12 that your reward would pay, and mend it.",
        "Look at the text behind the first '='; without one, at the whole text. How many numbers may stand there?",
        "numbers = all that your pattern of ex08.1 finds in text.split('=', 1)[-1]; it is 1.0 where numbers == [answer], "
        "else 0.0.",
    ),
    trial=_trained,
    accepts=became_right,
)

# --- ex08.3: who games the shipped reward ---------------------------------------------------------------------------------


def shipped_reward(completion, answer):
    return 1.0 if str(answer) in completion else 0.0


def gamed(completions: list[str], answers: list[int]) -> Tensor:
    """True where the shipped reward pays for a wrong answer."""
    paid = zip(completions, answers, strict=True)
    return torch.tensor([shipped_reward(text, answer) > 0 and not is_right(text, answer) for text, answer in paid])


def _gamed_cases(generator):
    drawn = [Case(f"answers to six problems, draw {number}", _ready_answers(generator, 6)) for number in (1, 2)]
    by_hand = {"completions": ["8 + 12 = 20", "8 + 12 = 12 = 20", "19 20 21", "8 + 12 = 21"], "answers": [20] * 4}
    return [*drawn, Case("the example by hand", by_hand)]


def _each(says):
    return lambda completions, answers: torch.tensor([says(c, a) for c, a in zip(completions, answers, strict=True)])


GAMED = Question(
    id="ex08.3",
    name="gamed",
    points=2,
    read="notebook 05, on rewards that are gamed",
    cases=_gamed_cases,
    reference=gamed,
    hints=(
        "Two questions for each completion: is it paid, and is it right?",
        "Paid: str(answer) in completion. Right: as in ex08.2. Wanted is paid and not right, as a tensor of dtype bool.",
        "torch.tensor([str(a) in c and not right(c, a) for c, a in zip(completions, answers)])",
    ),
    mistakes=(
        Mistake("paid", "these are all that are paid, the right ones too.", _each(lambda c, a: str(a) in c)),
        Mistake(
            "wrong",
            "these are all that are wrong. Only those that are paid game the reward.",
            _each(lambda c, a: not is_right(c, a)),
        ),
        Mistake(
            "the last number decides",
            "an answer counted as right because its last number is. One that names several behind its first '=' commits "
            "to nothing, and is wrong.",
            _each(lambda c, a: str(a) in c and parse_answer(c.split("=", 1)[-1]) != a),
        ),
        Mistake(
            "paid where right",
            "these are the right answers that are paid: the honest ones. Wanted are the others.",
            _each(lambda c, a: str(a) in c and is_right(c, a)),
        ),
    ),
)

# --- ex08.4: pass@k ----------------------------------------------------------------------------------------------------------


def pass_at_k(correct: Tensor, k: int) -> Tensor:
    """(P, n) bool, k -> a scalar: the chance that one of k answers is right, unbiased, averaged over problems."""
    n = correct.shape[1]
    missed = [math.comb(n - right, k) / math.comb(n, k) for right in correct.sum(1).tolist()]
    return 1 - torch.tensor(missed, dtype=torch.float64).mean()


def _pass_cases(generator):
    def drawn(problems, n):
        chance = torch.rand(problems, 1, generator=generator)
        return torch.rand(problems, n, generator=generator) < chance

    some = torch.tensor([[True, False, False, False, False]])
    one = exactly([[1, 0, 0, 0]]).bool()
    return [
        Case(
            "five problems, eight answers each, k = 3",
            {"correct": torch.cat([drawn(4, 8), torch.arange(8).unsqueeze(0) < 2]), "k": 3},
        ),
        Case("k = 1: the plain share of right answers", {"correct": drawn(5, 6), "k": 1}),
        Case("k is the number of answers", {"correct": torch.cat([drawn(2, 5), some, ~(some | True)]), "k": 5}),
        Case("a problem with hardly a wrong answer", {"correct": torch.cat([~some, some]), "k": 3}),
        Case("the example by hand", {"correct": one, "k": 2}),
    ]


def _power(correct, k):
    return (1 - (1 - correct.double().mean(1)) ** k).mean()


PASS = Question(
    id="ex08.4",
    name="pass_at_k",
    points=2,
    read="notebook 04, on evaluation",
    cases=_pass_cases,
    reference=pass_at_k,
    hints=(
        "Draw k of the n answers without putting any back. In how many of the draws is none right?",
        "With c right ones among n: C(n - c, k) of C(n, k) draws miss. math.comb(a, b) is 0 where b is larger than a.",
        "For each problem 1 - math.comb(n - c, k) / math.comb(n, k) with c = int(correct[p].sum()), then their mean.",
    ),
    mistakes=(
        Mistake(
            "with replacement",
            "this is 1 - (1 - c / n) ** k, as if answers were put back, and is too small on average.",
            _power,
        ),
        Mistake(
            "the first k",
            "only the first k answers were looked at. That is unbiased but noisy; average over all choices of k from n.",
            lambda correct, k: correct[:, :k].any(1).double().mean(),
        ),
        Mistake(
            "any of all",
            "this is the share of problems with any right answer, which is pass@n.",
            lambda correct, k: correct.any(1).double().mean(),
        ),
        Mistake("pass@1", "this is the share of right answers, which is pass@1.", lambda correct, k: correct.double().mean()),
        Mistake(
            "missed",
            "this is the chance that none of the k is right. Take 1 minus it.",
            lambda correct, k: 1 - pass_at_k(correct, k),
        ),
        Mistake(
            "all right",
            "this is the chance that all k are right. Wanted is that at least one is.",
            lambda correct, k: 1 - pass_at_k(~correct, k),
        ),
        Mistake(
            "pooled",
            "the problems were pooled into one. An easy problem does not make up for a hard one: one number each, then the "
            "mean.",
            lambda correct, k: pass_at_k(correct.reshape(1, -1), k),
        ),
    ),
)

QUESTIONS = (PARSE, HONEST, GAMED, PASS)
