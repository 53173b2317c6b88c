"""05, failures: the question that the lesson asks in its own cells."""

import torch

from minigrpo.grading.questions import Case, Mistake, Question


def silent_share(rewards, group_ids):
    """(B,), (B,) -> a scalar: the share of groups whose rewards are all equal."""
    groups = group_ids.unique()
    silent = [bool((rewards[group_ids == group] == rewards[group_ids == group][0]).all()) for group in groups]
    return torch.tensor(sum(silent) / len(silent), dtype=torch.float64)


def _share_cases(generator):
    def case(about, rewards, sizes):
        names = 3 + torch.randperm(len(sizes), generator=generator) * 2
        ids = torch.cat([name.repeat(size) for name, size in zip(names, sizes, strict=True)])
        order = torch.randperm(len(ids), generator=generator)
        return Case(about, {"rewards": torch.tensor(rewards, dtype=torch.float64)[order], "group_ids": ids[order]})

    wrong, right, mixed = [0.0] * 4, [1.0] * 4, [1.0, 0.0, 0.0, 1.0]
    return [
        case("one group all wrong, one all right, one mixed, their rows in any order", wrong + right + mixed, (4, 4, 4)),
        case("two mixed groups", mixed + mixed, (4, 4)),
        case("every group agrees: two on 0, one on 1, one on 0.5", wrong + wrong + right + [0.5] * 4, (4, 4, 4, 4)),
        case("a large group that agrees and three small ones that do not", [0.35] * 9 + [1.0, 0.0] * 3, (9, 2, 2, 2)),
    ]


def _by_group(decide):
    """A version that asks ``decide(rewards of the group)`` of each group."""

    def silent_share(rewards, group_ids):
        said = [float(decide(rewards[group_ids == group])) for group in group_ids.unique()]
        return torch.tensor(sum(said) / len(said), dtype=torch.float64)

    return silent_share


def _agree(rewards):
    return (rewards == rewards[0]).all()


def _of_rows(rewards, group_ids):
    agree = torch.stack([_agree(rewards[group_ids == group]) for group in group_ids])
    return agree.double().mean()


def _of_the_batch(rewards, group_ids):
    return torch.tensor(float(_agree(rewards)), dtype=torch.float64)


def _number(rewards, group_ids):
    return silent_share(rewards, group_ids) * len(group_ids.unique())


QUESTIONS = (
    Question(
        id="05.1",
        name="silent_share",
        points=0,
        cases=_share_cases,
        reference=silent_share,
        hints=(
            "Go through group_ids.unique(). When do the rewards of a group give an advantage of 0 to every row?",
            "rows = rewards[group_ids == group]; the group is silent if (rows == rows[0]).all().",
            "Count the silent groups, divide by the number of groups, and return torch.tensor of the quotient (or a float).",
        ),
        mistakes=(
            Mistake(
                "the share that differs",
                "this is the share of groups that differ; 1 minus it is wanted.",
                _by_group(lambda rewards: not _agree(rewards)),
            ),
            Mistake(
                "only groups that are all wrong",
                "only groups with a reward of 0 throughout were counted. A group that is all right teaches nothing either.",
                _by_group(lambda rewards: (rewards == 0).all()),
            ),
            Mistake(
                "only groups that are all right",
                "only groups with a reward of 1 throughout were counted. A group that is all wrong teaches nothing either.",
                _by_group(lambda rewards: (rewards == 1).all()),
            ),
            Mistake(
                "only groups of 0 or 1",
                "groups that agree on another reward than 0 or 1 were not counted. Compare the rewards with one another.",
                _by_group(lambda rewards: (rewards == 0).all() or (rewards == 1).all()),
            ),
            Mistake(
                "a share of completions",
                "this is the share of *completions* that stand in silent groups. Each group counts once, whatever its size.",
                _of_rows,
            ),
            Mistake(
                "the whole batch",
                "all rewards were compared with one another, whatever their group. That is what reward_std does, and why it "
                "misses silent groups: compare within each group.",
                _of_the_batch,
            ),
            Mistake(
                "a standard deviation of exactly 0",
                "a group of equal rewards was not counted: rounding gives it a standard deviation of 1e-17, which is not 0. "
                "Compare the rewards themselves.",
                _by_group(lambda rewards: rewards.std() == 0),
            ),
            Mistake("a number, not a share", "this is how many groups are silent. Divide by the number of groups.", _number),
        ),
    ),
)
