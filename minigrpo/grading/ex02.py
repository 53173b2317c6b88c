"""ex02: advantages. The questions, their inputs, and the mistakes that are known by name."""

import torch

from minigrpo import advantages as package
from minigrpo import rewards as package_rewards
from minigrpo.grading.questions import Case, Mistake, Question, draw_normal, exactly

EPS = 1e-4


def mixed_groups(generator, *sizes):
    """Rows of groups of these sizes, mixed; their ids are any whole numbers, one of them negative, and not in order."""
    names = (torch.randperm(len(sizes), generator=generator)) * 400 - 7
    ids = torch.cat([names[i].repeat(size) for i, size in enumerate(sizes)])
    ids = ids[torch.randperm(len(ids), generator=generator)]
    ids[ids == ids[0]] = ids.max() + 3  # the first row's group has the largest number, so the rows are never in order
    return ids


def per_group(rewards, group_ids, function):
    """``function`` of each group's rewards, put back in the rows where they came from."""
    result = torch.zeros_like(rewards)
    for group in group_ids.unique():
        result[group_ids == group] = function(rewards[group_ids == group])
    return result


def centred(x):
    return x - x.mean()


# --- ex02.1 -----------------------------------------------------------------------------------------------------------


def _scale_cases(generator):
    def case(about, scale, nan=False):
        ids = mixed_groups(generator, 4, 5, 6)  # two NaN leave at least two rewards in a group
        rewards = 2 + ids * draw_normal(generator, len(ids)) / 4  # every group has its own spread
        if nan:
            rewards[[(ids == ids[0]).nonzero()[0].item(), (ids == ids[-1]).nonzero()[-1].item()]] = torch.nan
        return Case(about, {"rewards": rewards, "group_ids": ids} | ({"scale_rewards": scale} if scale else {}))

    by_hand = {"rewards": exactly([1.0, 0.0, 5.0, 3.0]), "group_ids": torch.tensor([0, 0, 1, 1])}
    equal = case('scale_rewards="batch", a group whose rewards are all equal', "batch")
    ids, rewards = equal.args["group_ids"], equal.args["rewards"]
    rewards[ids == ids[0]] = 0.5
    return [
        case('scale_rewards="group"', "group"),
        case('scale_rewards="none"', "none"),
        case('scale_rewards="batch"', "batch"),
        equal,
        case('two rows whose reward is NaN, scale_rewards="group"', "group", nan=True),
        case('two rows whose reward is NaN, scale_rewards="batch"', "batch", nan=True),
        case('two rows whose reward is NaN, scale_rewards="none"', "none", nan=True),
        case("scale_rewards is not given", None),
        Case('the example by hand, scale_rewards="batch"', by_hand | {"scale_rewards": "batch"}),
    ]


def _scaled(rewards, group_ids, scale_rewards, *, mean=None, batch_std=None, none_scale=1.0, correction=1):
    """The right answer, with the parts given that a mistake replaces."""
    valid = ~rewards.isnan()
    x, ids = rewards[valid], group_ids[valid]
    centre = per_group(x, ids, lambda y: y.mean().expand_as(y)) if mean is None else mean(x)
    std = per_group(x, ids, lambda y: y.std(correction=correction).expand_as(y))
    if scale_rewards == "batch":
        std = x.std(correction=correction) if batch_std is None else batch_std(x, ids)
    advantages = torch.zeros_like(rewards)
    advantages[valid] = (x - centre) / (none_scale if scale_rewards == "none" else std + EPS)
    return advantages


def _batch_mean_too(rewards, group_ids, *, scale_rewards="group"):
    mean = torch.mean if scale_rewards == "batch" else None
    return _scaled(rewards, group_ids, scale_rewards, mean=mean)


def _raw_rewards(rewards, group_ids, *, scale_rewards="group"):
    mean = torch.zeros_like if scale_rewards == "none" else None
    return _scaled(rewards, group_ids, scale_rewards, mean=mean)


def _std_of_centred(rewards, group_ids, *, scale_rewards="group"):
    return _scaled(rewards, group_ids, scale_rewards, batch_std=lambda x, ids: per_group(x, ids, centred).std())


def _mean_of_stds(rewards, group_ids, *, scale_rewards="group"):
    def mean_std(x, ids):
        return torch.stack([x[ids == group].std() for group in ids.unique()]).mean()

    return _scaled(rewards, group_ids, scale_rewards, batch_std=mean_std)


def _nan_spreads(rewards, group_ids, *, scale_rewards="group"):
    mean = per_group(rewards, group_ids, lambda x: x.mean().expand_as(x))
    std = per_group(rewards, group_ids, lambda x: x.std().expand_as(x))
    std = rewards.std() if scale_rewards == "batch" else std
    return (rewards - mean) / (1.0 if scale_rewards == "none" else std + EPS)


def _kept_nan(rewards, group_ids, *, scale_rewards="group"):
    advantages = _scaled(rewards, group_ids, scale_rewards)
    return advantages.where(~rewards.isnan(), torch.nan)


SCALE = Question(
    id="ex02.1",
    name="compute_advantages",
    points=4,
    read='notebook 02, "Three scales" and "No opinion: None"',
    cases=_scale_cases,
    reference=package.compute_advantages,
    hints=(
        "The three ways differ only in what the difference from the group's mean is divided by. What is it in each?",
        '"group": the group\'s standard deviation + 1e-4. "batch": that of all rewards + 1e-4. "none": nothing, not even 1e-4. '
        "For NaN: do all of it with the rewards that are there, rewards[~rewards.isnan()].",
        "valid = ~rewards.isnan(); for each group rows = (group_ids == number) & valid, x = rewards[rows], the divisor is "
        "x.std() + 1e-4, or rewards[valid].std() + 1e-4, or 1; advantages[rows] = (x - x.mean()) / divisor; the rest stays 0.",
    ),
    mistakes=(
        Mistake(
            "always by the group",
            "scale_rewards was not looked at: every case is divided by the group's standard deviation.",
            lambda rewards, group_ids, *, scale_rewards="group": _scaled(rewards, group_ids, "group"),
        ),
        Mistake(
            "the population's std",
            "the standard deviation divides by n. Wanted is the sample's, which divides by n - 1, as torch.std does by itself.",
            lambda rewards, group_ids, *, scale_rewards="group": _scaled(rewards, group_ids, scale_rewards, correction=0),
        ),
        Mistake(
            "the batch's mean too",
            'with "batch" the mean of all rewards was subtracted as well. Only the standard deviation is the batch\'s; the '
            "baseline stays the mean of the group.",
            _batch_mean_too,
        ),
        Mistake(
            "the mean of the groups' stds",
            'with "batch" the groups\' standard deviations were averaged. Wanted is one standard deviation of all rewards '
            "together.",
            _mean_of_stds,
        ),
        Mistake(
            "the std of what is left",
            'with "batch" the standard deviation is that of the differences from the group means. Take that of the rewards '
            "themselves.",
            _std_of_centred,
        ),
        Mistake(
            "none without a mean",
            'with "none" the rewards came back as they are. Nothing is divided there, but the mean of the group is subtracted.',
            _raw_rewards,
        ),
        Mistake(
            "none over 1 + eps",
            'with "none" the difference was divided by 1 + 1e-4. The 1e-4 belongs to the standard deviation; where there is '
            "none, divide by nothing.",
            lambda rewards, group_ids, *, scale_rewards="group": _scaled(rewards, group_ids, scale_rewards, none_scale=1 + EPS),
        ),
        Mistake(
            "NaN as 0",
            "a missing reward was counted as a reward of 0: it is pushed down, and lowers the mean for the others. Leave such "
            "rows out of the mean and the standard deviation, and give them advantage 0.",
            lambda rewards, group_ids, *, scale_rewards="group": _scaled(rewards.nan_to_num(0.0), group_ids, scale_rewards),
        ),
        Mistake(
            "NaN spreads",
            "one NaN in a mean makes the mean NaN, and with it everything compared with it. Work with the rewards that are "
            "there: rewards[~rewards.isnan()].",
            _nan_spreads,
        ),
        Mistake(
            "NaN kept",
            "the statistics are right, but a row without a reward still has advantage NaN, and so would the loss. Give it 0.",
            _kept_nan,
        ),
    ),
)

# --- ex02.2 -----------------------------------------------------------------------------------------------------------


def _combine_cases(generator):
    def case(about, scores, weights):
        return Case(about, {"scores": scores, "weights": weights})

    nothing = exactly([[1.0, 1.0], [0.0, 0.0], [torch.nan, 0.0]])  # totals of 0, which are not "no opinion"

    some, silent = draw_normal(generator, 5, 3), draw_normal(generator, 5, 3)
    some[0, 1] = some[3, 0] = some[3, 2] = torch.nan
    silent[2] = silent[4, 1] = torch.nan
    weights = [0.5 + eighths / 8 for eighths in torch.randperm(8, generator=generator)[:3].tolist()]  # exact in float32
    return [
        case("every function gave every row a score", draw_normal(generator, 5, 3), weights),
        case("functions that abstained in some rows", some, weights),
        case("a row in which every function abstained", silent, weights),
        case("no weights (None): every function counts once", some.flip(0), None),
        Case("no weights are given", {"scores": draw_normal(generator, 2, 3)}),
        case("a penalty: a weight below 0", some, [weights[0], -weights[1], weights[2]]),
        case("totals of exactly 0", nothing, [1.0, -1.0]),
        case("the example by hand", exactly([[1.0, torch.nan, 0.5]]), [1.0, 2.0, -0.4]),
    ]


def _weights(scores, weights):
    return torch.ones(scores.shape[1], dtype=scores.dtype) if weights is None else torch.tensor(weights, dtype=scores.dtype)


def _mean_of_those_that_spoke(scores, weights=None):
    spoke = _weights(scores, weights) * ~scores.isnan()
    return (scores.nan_to_num(0.0) * spoke).sum(1) / spoke.sum(1)  # 0 / 0 is the NaN of a silent row


COMBINE = Question(
    id="ex02.2",
    name="combine",
    points=2,
    read='notebook 02, "No opinion: None"',
    cases=_combine_cases,
    reference=package_rewards.combine,
    hints=(
        "Go through a row. Which terms does the sum have, and what is it if there are none?",
        "Skip scores that are NaN; NaN is not equal to itself, so ask with isnan. A sum of no terms is not 0 here but NaN: "
        "nobody had an opinion.",
        "(scores.nan_to_num(0.0) * weights).sum(1), then torch.where(scores.isnan().all(1), torch.nan, that sum); weights is a "
        "tensor, of ones if None was given.",
    ),
    mistakes=(
        Mistake(
            "NaN spreads",
            "a single function that abstained makes the whole row NaN. Leave its term out and sum the others.",
            lambda scores, weights=None: (scores * _weights(scores, weights)).sum(1),
        ),
        Mistake(
            "silence is 0",
            "a row in which every function abstained got the reward 0, as if it had been judged bad. It must stay NaN, so "
            "that it takes no part in the baseline.",
            lambda scores, weights=None: (scores.nan_to_num(0.0) * _weights(scores, weights)).sum(1),
        ),
        Mistake(
            "a weighted mean",
            "the sum was divided by the weights of the functions that spoke. Wanted is the weighted sum, undivided.",
            _mean_of_those_that_spoke,
        ),
        Mistake(
            "divided by F",
            "the weighted scores were averaged over the functions. Wanted is their sum.",
            lambda scores, weights=None: package_rewards.combine(scores, weights) / scores.shape[1],
        ),
        Mistake(
            "weights ignored",
            "the scores were summed without their weights. Multiply each column by the weight of its function.",
            lambda scores, weights=None: package_rewards.combine(scores),
        ),
    ),
)

# --- ex02.3 -----------------------------------------------------------------------------------------------------------


def _process_cases(generator):
    def case(about, lengths, ids, tokens):
        """``lengths``: how many steps each row has. Its last step ends at a random token, the others before it."""
        rewards = torch.full((len(lengths), max(lengths)), torch.nan, dtype=torch.float64)
        ends = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        for row, steps in enumerate(lengths):
            rewards[row, :steps] = draw_normal(generator, steps)
            ends[row, :steps] = torch.randperm(tokens, generator=generator)[:steps].sort().values
        args = {"step_rewards": rewards, "step_ends": ends, "group_ids": torch.tensor(ids), "num_tokens": tokens}
        return Case(about, args)

    equal = case("a group whose step rewards are all equal", (2, 3, 1, 2, 3), (0, 0, 1, 1, 1), 9)
    first = equal.args["step_rewards"][:2]
    first[~first.isnan()] = 1.0
    by_hand = {"step_rewards": exactly([[1.0, 0.0], [1.0, torch.nan]]), "step_ends": torch.tensor([[1, 3], [2, 0]])}
    return [
        case("one group, completions of two steps", (2, 2, 2), (0, 0, 0), 7),
        case("two groups, their rows mixed, different numbers of steps", (3, 1, 2, 3, 2), (400, -3, 400, -3, -3), 9),
        equal,
        case("one step per completion", (1, 1, 1), (0, 0, 0), 5),
        Case("the example by hand", by_hand | {"group_ids": torch.tensor([0, 0]), "num_tokens": 4}),
    ]


def _steps(step_rewards, step_ends, num_tokens, normalised, counts):
    """Sum, at every token, of the normalised rewards of the steps for which ``counts(ends, token, step)`` says so."""
    result = step_rewards.new_zeros(len(step_rewards), num_tokens)
    for row, step in (~step_rewards.isnan()).nonzero().tolist():
        ends = [e for e, r in zip(step_ends[row].tolist(), step_rewards[row].tolist(), strict=True) if r == r]
        for token in range(num_tokens):
            if counts(ends, token, step):
                result[row, token] += normalised[row, step]
    return result


def _normalise(step_rewards, rows_of):
    """Each step reward normalised with all of the rows that ``rows_of(row)`` selects."""
    result = torch.zeros_like(step_rewards)
    for row in range(len(step_rewards)):
        x = step_rewards[rows_of(row)]
        x = x[~x.isnan()]
        result[row] = (step_rewards[row] - x.mean()) / ((x.std() if len(x) > 1 else 0.0) + EPS)
    return result


def _process_with(counts=lambda ends, token, step: ends[step] >= token, rows_of=None):
    def process_advantages(step_rewards, step_ends, group_ids, num_tokens):
        by_group = (lambda row: group_ids == group_ids[row]) if rows_of is None else (lambda row: rows_of(group_ids, row))
        return _steps(step_rewards, step_ends, num_tokens, _normalise(step_rewards, by_group), counts)

    return process_advantages


def _own_step(ends, token, step):
    return (ends[step - 1] if step else -1) < token <= ends[step]


def _padding_as_zero(step_rewards, step_ends, group_ids, num_tokens):
    normalised = _normalise(step_rewards.nan_to_num(0.0), lambda row: group_ids == group_ids[row])
    return _steps(step_rewards, step_ends, num_tokens, normalised, lambda ends, token, step: ends[step] >= token)


def _summed_first(step_rewards, step_ends, group_ids, num_tokens):
    totals = package.compute_advantages(step_rewards.nan_to_num(0.0).sum(1), group_ids)
    last = torch.where(step_rewards.isnan(), -1, step_ends).amax(1, keepdim=True)
    return totals.unsqueeze(1) * (torch.arange(num_tokens) <= last)


PROCESS = Question(
    id="ex02.3",
    name="process_advantages",
    points=4,
    read="notebook 08, on process supervision",
    cases=_process_cases,
    reference=package.process_advantages,
    hints=(
        "Two parts: first make every step reward comparable within its group, then hand them out to the tokens. Who answers "
        "for a step: the tokens before its end, or those after it?",
        "Mean and standard deviation are over all steps of all completions of a group (without NaN), as in lesson 02. Token t "
        "then gets the sum of the normalised rewards of the steps with step_end >= t.",
        "Loops are fine: for every row, for every step that is not NaN, result[row, : step_ends[row, step] + 1] += "
        "(step_rewards[row, step] - mean) / (std + 1e-4).",
    ),
    mistakes=(
        Mistake(
            "normalised within the completion",
            "the steps of each completion were normalised by themselves, so a good completion looks like a bad one. Use the "
            "mean and standard deviation of all steps of the group.",
            _process_with(rows_of=lambda group_ids, row: [row]),
        ),
        Mistake(
            "groups ignored",
            "the steps of all groups were normalised together. Only completions of the same prompt are compared.",
            _process_with(rows_of=lambda group_ids, row: slice(None)),
        ),
        Mistake(
            "the steps before",
            "each token got the sum of the steps that ended before it or at it: a cumulative sum in the wrong direction. A "
            "token answers for what follows: steps with step_end >= token.",
            _process_with(lambda ends, token, step: ends[step] <= token),
        ),
        Mistake(
            "its own step only",
            "each token got the reward of the step that it belongs to. It gets those of all later steps too: it led to them.",
            _process_with(_own_step),
        ),
        Mistake(
            "the last token of a step left out",
            "a step's last token does not get the step's reward. step_ends is that token's index, and it counts: step_end >= "
            "token, not >.",
            _process_with(lambda ends, token, step: ends[step] > token),
        ),
        Mistake(
            "missing steps as 0",
            "places where a completion has no step (NaN) were counted as rewards of 0 in the mean and the standard deviation. "
            "Leave them out.",
            _padding_as_zero,
        ),
        Mistake(
            "summed first",
            "the step rewards of a completion were added up and then normalised, so all its tokens share one number. "
            "Normalise the steps, and sum for each token those that end at it or after it.",
            _summed_first,
        ),
    ),
)

QUESTIONS = (SCALE, COMBINE, PROCESS)
