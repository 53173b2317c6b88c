"""00, one picture: the question that the lesson asks in its own cells."""

import torch

from minigrpo.grading.questions import Case, Mistake, Question


def _reward_cases(generator):
    def case(about, completions, answers):
        prompts = ["4*2+9+7*1*4="] * len(completions)
        return Case(about, {"prompts": prompts, "completions": completions, "answer": answers})

    right, wrong = (str(digit) for digit in torch.randperm(10, generator=generator)[:2].tolist())
    thought = f"<{right},{wrong},{wrong},{right},{wrong}>"
    return [
        case("the four completions of the course", ["<8,7,4,4,6>6", "4", "8", "6"], ["6"] * 4),
        case("each prompt has its own right answer", [right, wrong, wrong], [right, right, wrong]),
        case("thoughts: only the digit behind them is the answer", [thought + right, thought + wrong], [right, right]),
        case("thoughts that are all wrong, and an answer that is right", [f"<{wrong},{wrong}>{right}"], [right]),
        case(
            "no answer in the form that was asked for",
            [f"maybe {right}", wrong + right, thought, f"?>{right}", ""],
            [right] * 5,
        ),
    ]


def _exact_answer(prompts, completions, answer):
    from minigrpo.tasks import exact_answer  # which loads the library of data sets, and check need not wait for that

    return exact_answer(prompts, completions, answer)


def _each(judge):
    def reward(prompts, completions, answer):
        return [float(judge(text, right)) for text, right in zip(completions, answer, strict=True)]

    return reward


REWARD = Question(
    id="00.1",
    name="right_answer",
    points=0,
    cases=_reward_cases,
    reference=_exact_answer,
    hints=(
        "Return a list with a 1.0 or a 0.0 for each completion. Go through completions and answer together, with zip. When is "
        "a completion right?",
        "There are two forms: one digit, or thoughts in <...> and then one digit. re.fullmatch fits a whole text to a pattern; "
        'parentheses with ? behind them, "(...)?", may be missing.',
        'found = re.fullmatch(r"(<[^<>]+>)?(\\d)", text); the completion is right if found is not None and found[2] == right.',
    ),
    mistakes=(
        Mistake(
            "the whole completion compared",
            "the completion as a whole was compared with the answer, so one that thinks first can never be right. Take away "
            "the thoughts in <...>.",
            _each(lambda text, right: text == right),
        ),
        Mistake(
            "the last character",
            "it was enough that the completion ends with the right digit, so 'maybe 6' and '16' count too. Fit the whole text: "
            "<...> if there is any, then one digit.",
            _each(lambda text, right: text.endswith(right)),
        ),
        Mistake(
            "anywhere in the text",
            "it was enough that the right digit stands somewhere in the completion, so a thought that comes across it counts "
            "too. Only the digit behind the thoughts is the answer.",
            _each(lambda text, right: right in text),
        ),
        Mistake(
            "one answer for all",
            "all completions were compared with the first right answer. Each completion has its own: go through both lists "
            "together, with zip.",
            lambda prompts, completions, answer: _exact_answer(prompts, completions, [answer[0]] * len(answer)),
        ),
        Mistake(
            "one number for all",
            "this is the share of right completions, one number. Each completion gets its own reward: return a list.",
            lambda prompts, completions, answer: (
                sum(_exact_answer(prompts, completions, answer)) / len(completions) if completions else 0.0
            ),
        ),
        Mistake(
            "thinking rewarded",
            "completions that think first were rewarded, whatever their answer. Here the answer alone counts.",
            _each(lambda text, right: text.startswith("<")),
        ),
    ),
)

QUESTIONS = (REWARD,)
