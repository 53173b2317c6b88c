"""Prompts with checkable answers, and the reward functions that check them.

*clock*: arithmetic on one digit, worked from left to right, keeping only the last digit, as on a clock with ten hours:
``7*3+5*8-2+9=`` is 7*3 -> 1, 1+5 -> 6, 6*8 -> 8, 8-2 -> 6, 6+9 -> 5. A small model cannot do five dependent steps in
one forward pass, but writes them down nearly without a mistake: ``<1,6,8,6,5>5``. If you reward only the right
answer, you reward thinking.

*sums*: questions such as ``1 + 1 = ?`` and ``1 + 1等于几?``, scored 5, 3 or 1 for the manner of the answer.

*addition*: ``What is 14 + 17?`` to a chat model, such as smollm2; right if the last number in the answer is.

*words*: ``Describe the sea in exactly three words.`` to a chat model, with two to five words; right if they are as many.
"""

import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from datasets import Dataset

from minigrpo.config import BadInput

OPERATORS = "+-*"
NUM_OPERATIONS = 5
SUM_QUESTIONS = ("{a} + {b} = ?", "{a} + {b}等于几?", "What is {a} + {b}?", "{a} plus {b}?")
LARGEST_SUMMAND = 12
ADDITION_SUMMANDS = range(1, 21)
WORD_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
WORD_TOPICS = re.split(
    r",\s+",
    """the sea, winter, a dog, a cat, music, bread, a garden, friendship, a train, the moon, a river, the rain, a book,
a mountain, summer, a horse, the wind, a city, coffee, a forest, the sun, a teacher, an apple, a storm, autumn,
a bird, a lake, honey, a market, the night, a bridge, a child, snow, a song, an island, the desert, a clock, spring,
a farmer, a dream, chocolate, a school, the sky, a flower, fire, a ship, a kitchen, silence, a tiger, the morning,
a road, a letter, a circus, football, a doctor, the future, a castle, a bicycle, tea, a museum""",
)


# --- clock arithmetic ---------------------------------------------------------------------------------------------


def clock_problem(rng: random.Random) -> str:
    """One problem, such as ``7*3+5*8-2+9=``: six digits, five operators."""
    digits = [str(rng.randint(1, 9)) for _ in range(NUM_OPERATIONS + 1)]  # no 0: a last "*0" would give the answer away
    operators = [rng.choice(OPERATORS) for _ in range(NUM_OPERATIONS)]
    return digits[0] + "".join(o + d for o, d in zip(operators, digits[1:], strict=True)) + "="


def clock_steps(problem: str) -> list[int]:
    """The last digit after each operation, left to right; the last of them is the answer.

    >>> clock_steps("7*3+5*8-2+9=")
    [1, 6, 8, 6, 5]
    """
    value, steps = int(problem[0]), []
    for operator, digit in re.findall(r"([-+*])(\d)", problem[1:]):
        value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[operator] % 10
        steps.append(value)
    return steps


def clock_thought(problem: str) -> str:
    """The completion of one who thinks first.

    >>> clock_thought("7*3+5*8-2+9=")
    '<1,6,8,6,5>5'
    """
    steps = clock_steps(problem)
    return f"<{','.join(map(str, steps))}>{steps[-1]}"


def thinks_first(completion: str) -> bool:
    """Whether a clock completion writes steps before it answers, right or wrong."""
    return re.fullmatch(r"<[^<>]+>\d", completion) is not None


def exact_answer(prompts: list, completions: list, answer: list[str], **_) -> list[float]:
    """1.0 where the answer is right, else 0.0. The steps in front of it are not looked at.

    A completion that is neither one digit nor ``<...>`` and one digit has no answer, and gets 0.0.
    """
    found = [re.fullmatch(r"(?:<[^<>]+>)?(\d)", text) for text in _texts(completions)]
    return [float(match is not None and match[1] == str(right)) for match, right in zip(found, answer, strict=True)]


# --- sums ---------------------------------------------------------------------------------------------------------


def sum_question(rng: random.Random) -> tuple[str, int, int]:
    """One question and its summands, such as ``("1 + 1 = ?", 1, 1)``."""
    a, b = rng.randint(0, LARGEST_SUMMAND), rng.randint(0, LARGEST_SUMMAND)
    return rng.choice(SUM_QUESTIONS).format(a=a, b=b), a, b


def sum_rubric(prompts: list, completions: list, answer: list[str], **_) -> list[float]:
    """5.0 for the full equation, right (``1 + 1 = 2``); 3.0 for the bare number, right; 1.0 for anything else.

    ``answer`` holds the equations.
    """
    scores = []
    for text, equation in zip(_texts(completions), answer, strict=True):
        if not isinstance(equation, str) or " = " not in equation:
            raise BadInput(f"sum_rubric wants equations such as '1 + 1 = 2' as answers, got {equation!r:.60}.")
        number = equation.split(" = ")[1]
        scores.append(5.0 if text == equation else 3.0 if text == number else 1.0)
    return scores


# --- addition -----------------------------------------------------------------------------------------------------


def last_number(prompts: list, completions: list, answer: list[str], **_) -> list[float]:
    """1.0 where the last number in the completion is the answer, else 0.0, whatever is said around it.

    >>> last_number(["What is 2 + 2?"] * 3, ["2 + 2 equals 4.", "4, I guess. Or 5?", "four"], ["4"] * 3)
    [1.0, 0.0, 0.0]
    """
    found = [re.findall(r"-?[0-9]+(?:\.[0-9]+)?", text) for text in _texts(completions)]
    return [float(bool(numbers) and numbers[-1] == str(right)) for numbers, right in zip(found, answer, strict=True)]


# --- words --------------------------------------------------------------------------------------------------------


def exact_words(prompts: list, completions: list, answer: list[str], **_) -> list[float]:
    """1.0 where the completion has as many words as ``answer`` says, and none twice, else 0.0.

    >>> exact_words(["Describe the sea in exactly two words."] * 3, ["Deep, blue.", "Deep and blue", "Deep deep"], ["2"] * 3)
    [1.0, 0.0, 0.0]
    """
    words = [re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.casefold()) for text in _texts(completions)]
    return [float(len(found) == len(set(found)) == int(number)) for found, number in zip(words, answer, strict=True)]


def _texts(completions: list) -> list[str]:
    """What was written, which stands in a message where the prompt is a conversation."""
    if isinstance(completions, str):
        raise BadInput(f"completions must be a list of texts, one per answer, got {completions!r:.60}.")
    texts = []
    for completion in completions:
        message = completion[0] if isinstance(completion, list) and completion else None
        texts.append(message.get("content") if isinstance(message, dict) else completion)
        if not isinstance(texts[-1], str):
            raise BadInput(f"completions must be a list of texts, one per answer, got {completion!r:.60}.")
    return texts


# --- tasks as data sets -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A name, two data sets with the columns ``prompt`` and ``answer``, and the reward that defines a right answer."""

    name: str
    train: Dataset
    held_out: Dataset
    reward: Callable | None  # None: nobody knows which completions are right
    full_score: float = 1.0
    thinks: Callable[[str], bool] | None = None


def is_held_out(prompt: str) -> bool:
    """One prompt in eight, by its checksum: a rule, so that no list has to be kept and nothing can leak."""
    return zlib.crc32(prompt.encode(errors="surrogatepass")) % 8 == 0


def _clock_rows(rng: random.Random) -> Iterator[dict]:
    while True:
        problem = clock_problem(rng)
        yield {"prompt": problem, "answer": str(clock_steps(problem)[-1])}


def _sum_rows(rng: random.Random) -> Iterator[dict]:
    while True:
        question, a, b = sum_question(rng)
        yield {"prompt": question, "answer": f"{a} + {b} = {a + b}"}


def _split(rows: Iterator[dict], size: int, *, held_out: bool) -> Dataset:
    chosen: dict[str, dict] = {}
    while len(chosen) < size:
        row = next(rows)
        if is_held_out(row["prompt"]) == held_out:
            chosen[row["prompt"]] = row
    return Dataset.from_list(list(chosen.values()))


def clock_task(seed: int = 0) -> Task:
    """8192 problems to train on, drawn with ``seed``, and always the same 500 held-out ones."""
    return Task(
        name="clock",
        train=_split(_clock_rows(random.Random(seed)), 8192, held_out=False),
        held_out=_split(_clock_rows(random.Random(2026)), 500, held_out=True),
        reward=exact_answer,
        thinks=thinks_first,
    )


def sums_task(seed: int = 0) -> Task:
    """512 questions to train on, drawn with ``seed``, and always the same 80 held-out ones."""
    return Task(
        name="sums",
        train=_split(_sum_rows(random.Random(seed)), 512, held_out=False),
        held_out=_split(_sum_rows(random.Random(2026)), 80, held_out=True),
        reward=sum_rubric,
        full_score=5.0,
    )


def addition_task() -> Task:
    """Every sum of two numbers from 1 to 20, asked of a chat model: the prompts are conversations of one user turn.

    Held out is a pair in either order: whoever has learnt 14 + 17 has learnt 17 + 14.
    """
    rows: dict[bool, list[dict]] = {False: [], True: []}
    for a, b in product(ADDITION_SUMMANDS, repeat=2):
        row = {"prompt": [{"role": "user", "content": f"What is {a} + {b}?"}], "answer": str(a + b)}
        rows[is_held_out(f"What is {min(a, b)} + {max(a, b)}?")].append(row)
    return Task("addition", Dataset.from_list(rows[False]), Dataset.from_list(rows[True]), reward=last_number)


def words_task() -> Task:
    """Sixty topics with each number of words, asked of a chat model: the prompts are conversations of one user turn."""
    rows: dict[bool, list[dict]] = {False: [], True: []}
    for topic, (number, count) in product(WORD_TOPICS, WORD_NUMBERS.items()):
        question = f"Describe {topic} in exactly {number} words."
        rows[is_held_out(question)].append({"prompt": [{"role": "user", "content": question}], "answer": str(count)})
    return Task("words", Dataset.from_list(rows[False]), Dataset.from_list(rows[True]), reward=exact_words)


def load_task(name: str, seed: int = 0) -> Task:
    """The task of that name, "clock", "sums", "addition" or "words"."""
    tasks = {
        "clock": clock_task,
        "sums": sums_task,
        "addition": lambda seed: addition_task(),
        "words": lambda seed: words_task(),
    }
    if name not in tasks:
        raise BadInput(f"There is no task {name!r}; wanted is one of {', '.join(tasks)}.")
    return tasks[name](seed)
