"""09, a real model: the question that the lesson asks in its own cells."""

from minigrpo.grading.questions import Case, Mistake, Question

PROMPTS = ["7 plus 5?", "0 plus 9?", "12 plus 12?", "3 plus 4?", "1 plus 1?"]
ANSWERS = ["12", "9", "24", "7", "2"]


def number_alone(prompts, completions, answer, **columns):
    """1.0 where the completion is the right number and nothing else, save for spaces around it; else 0.0."""
    return [float(text.strip() == number) for text, number in zip(completions, answer, strict=True)]


def _cases(generator):
    def case(about, completions):
        rows = len(completions)
        return Case(about, {"prompts": PROMPTS[:rows], "completions": completions, "answer": ANSWERS[:rows]})

    return [
        case("the bare number, right and wrong", ["12", "8", "24", "77", "2"]),
        case("right, but with more around it", ["7 + 5 = 12", "It is 9.", "24!", "7", "1 + 1 = 2"]),
        case("spaces and line ends around the number", [" 12", "9\n", "2 4", "\t7 ", "2"]),
        case("nothing was written, or the question again", ["", " ", "12 plus 12?", "7", "1"]),
        case("a single completion", ["12"]),
    ]


def _with(rule):
    """A version that asks ``rule(text, number)`` of each completion."""

    def number_alone(prompts, completions, answer, **columns):
        return [float(rule(text, number)) for text, number in zip(completions, answer, strict=True)]

    return number_alone


REWARD = Question(
    id="09.1",
    name="number_alone",
    points=0,
    cases=_cases,
    reference=number_alone,
    hints=(
        "One float per completion. zip(completions, answer) walks through both lists at once.",
        "text.strip() takes the white space off both ends. Compare what is left with the answer; both are texts.",
        "return [float(text.strip() == number) for text, number in zip(completions, answer)]",
    ),
    mistakes=(
        Mistake(
            "the number anywhere",
            "the number is looked for anywhere in the text, so '7 + 5 = 12' earns as much as '12', and nothing is learnt. "
            "Compare the whole text.",
            _with(lambda text, number: number in text),
        ),
        Mistake(
            "the number at the end",
            "a text that ends with the number is enough here, so '7 + 5 = 12' earns as much as '12'. Compare the whole text.",
            _with(lambda text, number: text.strip().endswith(number)),
        ),
        Mistake(
            "any number",
            "every bare number is rewarded, right or wrong. Compare it with the answer.",
            _with(lambda text, number: text.strip().isdigit()),
        ),
        Mistake(
            "spaces count",
            "spaces and line ends around the number are counted as wrong. Take them off with strip() first.",
            _with(lambda text, number: text == number),
        ),
        Mistake(
            "all spaces taken out",
            "the spaces inside were taken out too, so '2 4' counts as 24. strip() takes them off the ends only.",
            _with(lambda text, number: "".join(text.split()) == number),
        ),
        Mistake(
            "one number for all",
            "this is one number for all completions. GRPO compares completions with each other: return a list with one float "
            "per completion.",
            lambda prompts, completions, answer, **columns: sum(number_alone(prompts, completions, answer)) / len(completions),
        ),
        Mistake(
            "the wrong way round",
            "0.0 and 1.0 are the wrong way round: the right number alone earns 1.0.",
            _with(lambda text, number: text.strip() != number),
        ),
    ),
)

QUESTIONS = (REWARD,)
