"""02, policy gradient: the question that the lesson asks in its own cells."""

import torch

from minigrpo import advantages as package
from minigrpo.grading.ex02 import EPS, centred, mixed_groups, per_group
from minigrpo.grading.questions import Case, Mistake, Question, draw_normal


def _group_cases(generator):
    def case(about, rewards, ids):
        return Case(about, {"rewards": rewards, "group_ids": ids})

    right_or_wrong = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    equal = draw_normal(generator, 9)
    ids = mixed_groups(generator, 4, 5)
    equal[ids == ids[0]] = 0.5
    mixed = mixed_groups(generator, 2, 3, 5)
    return [
        case("three groups of different sizes, their rows mixed", draw_normal(generator, len(mixed)), mixed),
        case("one group, right or wrong", right_or_wrong, torch.zeros(4, dtype=torch.long)),
        case("a group whose rewards are all equal", equal, ids),
        case("scores between 1 and 5, of groups of two", 3 + draw_normal(generator, 6), mixed_groups(generator, 2, 2, 2)),
    ]


def _in_group_order(rewards, group_ids):
    parts = [rewards[group_ids == group] for group in group_ids.unique()]
    return torch.cat([centred(x) / (x.std() + EPS) for x in parts])


GROUP = Question(
    id="02.1",
    name="group_advantages",
    points=0,
    cases=_group_cases,
    reference=package.compute_advantages,
    hints=(
        "Who is compared with whom? Take the rows of one group, work out their advantages, write them back in the same rows.",
        "For every number in group_ids.unique(): rows = group_ids == number. Mean and standard deviation are those of "
        "rewards[rows]; x.std() of torch is the sample's. What keeps an all-equal group from dividing by 0?",
        "advantages[rows] = (x - x.mean()) / (x.std() + 1e-4) with x = rewards[rows], into a tensor made by "
        "torch.zeros_like(rewards).",
    ),
    mistakes=(
        Mistake(
            "population std",
            "the standard deviation was divided by n; here it is the sample's, divided by n - 1 (torch's std does that by "
            "itself). In a group of two that is +-0.707, not +-1.",
            lambda rewards, group_ids: per_group(rewards, group_ids, lambda x: centred(x) / (x.std(correction=0) + EPS)),
        ),
        Mistake(
            "eps inside the root",
            "1e-4 was added to the variance. Add it to the standard deviation, after the root.",
            lambda rewards, group_ids: per_group(rewards, group_ids, lambda x: centred(x) / (x.var() + EPS).sqrt()),
        ),
        Mistake(
            "eps of 1e-8",
            "the number added to the standard deviation is 1e-8. Here it is 1e-4: so small a number lets the rounding of "
            "nearly equal rewards grow into large advantages.",
            lambda rewards, group_ids: per_group(rewards, group_ids, lambda x: centred(x) / (x.std() + 1e-8)),
        ),
        Mistake(
            "no eps",
            "nothing was added to the standard deviation, so a group whose rewards are all equal divides 0 by 0. Add 1e-4 to "
            "it.",
            lambda rewards, group_ids: per_group(rewards, group_ids, lambda x: centred(x) / x.std()),
        ),
        Mistake(
            "groups ignored",
            "all rewards were compared with the mean and standard deviation of the batch. A completion is compared with those "
            "that answer the same prompt, so take each group by itself.",
            lambda rewards, group_ids: centred(rewards) / (rewards.std() + EPS),
        ),
        Mistake(
            "not divided",
            "the mean was subtracted, and nothing else. Divide by the group's standard deviation plus 1e-4.",
            lambda rewards, group_ids: per_group(rewards, group_ids, centred),
        ),
        Mistake(
            "in the order of the groups",
            "the advantages are right but stand in the wrong rows: they were put together group by group. Write each group's "
            "back to the rows it came from.",
            _in_group_order,
        ),
    ),
)

QUESTIONS = (GROUP,)
