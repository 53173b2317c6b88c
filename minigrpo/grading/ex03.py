"""ex03: the loss. The questions, their inputs, and the mistakes that are known by name."""

import torch

from minigrpo import loss as package
from minigrpo.grading.questions import Case, Mistake, Question, draw_logprobs, draw_mask, draw_normal, exactly

ROWS, COLUMNS = 3, 5
EXTREME = torch.tensor([-25.0, -5.0, 0.0, 5.0, 25.0], dtype=torch.float64)


def _advantages(generator, rows):
    """(rows,) centred: what a group of completions with different rewards gets."""
    drawn = torch.randn(rows, generator=generator, dtype=torch.float64)
    return drawn - drawn.mean()


def _batch(generator, rows=ROWS, *, empty_row=False, extreme=False):
    """Log-probs now and when the tokens were drawn, and which tokens count; on padding stand numbers that mean nothing."""
    logprobs = draw_logprobs(generator, rows, COLUMNS)
    ratio = EXTREME.roll(int(torch.randint(5, (1,), generator=generator))).expand(rows, -1)
    old_logprobs = logprobs - (ratio if extreme else draw_normal(generator, rows, COLUMNS, spread=0.4))
    mask = draw_mask(generator, rows, COLUMNS, empty_row=empty_row)
    return {"logprobs": logprobs, "old_logprobs": old_logprobs, "completion_mask": mask}


# --- ex03.1 -----------------------------------------------------------------------------------------------------------


def _ratio_cases(generator):
    drawn = (
        ("a ratio for each token, completions of different length", {}, {}),
        ("the level is named: token, and one completion has no token that counts", {"rows": 4, "empty_row": True}, "token"),
        ("log-probs that are up to 25 nats apart", {"extreme": True}, "token"),
        ("the level of the sequence, completions of different length", {}, "sequence"),
        ("the level of the sequence, one completion has no token that counts", {"rows": 4, "empty_row": True}, "sequence"),
    )
    by_hand = {"logprobs": exactly([[-1.0, -2.0]]), "old_logprobs": exactly([[-1.2, -1.6]])}
    by_hand |= {"completion_mask": torch.tensor([[True, True]])}
    return [
        *(
            Case(about, _batch(generator, **how) | ({"level": level} if level else {}), gradient=("logprobs",))
            for about, how, level in drawn
        ),
        Case("the example by hand, for each token", by_hand, gradient=("logprobs",)),
        Case("the example by hand, the level of the sequence", by_hand | {"level": "sequence"}, gradient=("logprobs",)),
    ]


def _ratio(change):
    """A wrong version: token level from change(log_ratio, mask, level)."""

    def importance_ratio(logprobs, old_logprobs, completion_mask, level="token"):
        return change(logprobs - old_logprobs, completion_mask, level)

    return importance_ratio


def _mean(values, mask, level, *, over=None):
    """The values themselves, or their mean over the tokens that count; ``over`` divides in place of their number."""
    values = torch.where(mask, values, 0.0)
    if level == "token":
        return values
    return values.sum(1, keepdim=True) / (mask.sum(1, keepdim=True).clamp(min=1) if over is None else over)


def _quotient_of_logs(logprobs, old_logprobs, completion_mask, level="token"):
    quotient = torch.where(completion_mask, logprobs / old_logprobs, 1.0)
    return quotient if level == "token" else _mean(quotient, completion_mask, level)


def _mean_of_ratios(log_ratio, mask, level):
    return torch.where(mask, log_ratio, 0.0).exp() if level == "token" else _mean(log_ratio.exp(), mask, level)


# --- ex03.2 -----------------------------------------------------------------------------------------------------------


def _aggregate_cases(generator):
    cases = (
        ("grpo, one completion without any token", {"loss_type": "grpo"}),
        ("grpo, 4 completions of a step of 11", {"loss_type": "grpo", "num_sequences": 11}),
        ("dapo, all tokens of the step", {"loss_type": "dapo"}),
        ("dapo, some tokens of a step of 47", {"loss_type": "dapo", "num_tokens": 47}),
        ("bnpo, rows of a step of 47 tokens", {"loss_type": "bnpo", "num_sequences": 11, "num_tokens": 47}),
        ("dr_grpo, completions of at most 16 tokens", {"loss_type": "dr_grpo", "max_completion_length": 16}),
        ("dr_grpo, 4 completions of a step of 11", {"loss_type": "dr_grpo", "max_completion_length": 16, "num_sequences": 11}),
    )
    by_hand = {"values": exactly([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), "completion_mask": exactly([[1, 1, 1], [1, 0, 0]]).bool()}
    kinds = ({"loss_type": "grpo"}, {"loss_type": "dapo"}, {"loss_type": "dr_grpo", "max_completion_length": 5})
    return [
        Case(
            about,
            {"values": draw_normal(generator, 4, COLUMNS, spread=1.0), "completion_mask": mask} | _in_order(how),
            gradient=("values",),
        )
        for about, how in cases
        for mask in [draw_mask(generator, 4, COLUMNS, empty_row=True)]
    ] + [Case(f"the example by hand, {how['loss_type']}", by_hand | _in_order(how), gradient=("values",)) for how in kinds]


def _in_order(how):
    """Nothing is left out before what is given, so that a function with other names for its arguments can be called."""
    names = ("loss_type", "max_completion_length", "num_sequences", "num_tokens")
    last = max(names.index(name) for name in how)
    return {name: how.get(name) for name in names[: last + 1]}


def _aggregate(change):
    """A wrong version: change(values, mask, loss_type, counts) where it is a tensor, the package's number where it is "
    "None."""

    def aggregate(values, completion_mask, loss_type, max_completion_length=None, num_sequences=None, num_tokens=None):
        counts = {"max_completion_length": max_completion_length, "num_sequences": num_sequences, "num_tokens": num_tokens}
        wrong = change(values, completion_mask, loss_type, counts)
        return package.aggregate(values, completion_mask, loss_type, **counts) if wrong is None else wrong

    return aggregate


def _rows(values, mask, counts, *, lengths=None, rows=None):
    """grpo's mean with other lengths or another number of rows than it should have."""
    lengths = mask.sum(1).clamp(min=1) if lengths is None else lengths
    return (torch.where(mask, values, 0.0).sum(1) / lengths).sum() / (rows or counts["num_sequences"] or len(values))


# --- ex03.3 and ex03.4 ------------------------------------------------------------------------------------------------


def _loss_cases(generator):
    cases = []
    for about, how, beta, epsilon in (
        ("completions of different length, some tokens outside the band", {}, 0.1, 0.2),
        ("fresh completions: the policy is still the one that sampled", {}, 0.04, 0.2),
        ("a group whose rewards are all equal: every advantage is 0", {}, 0.1, 0.2),
        ("log-probs that are up to 25 nats apart", {"extreme": True}, 0.1, 0.2),
        ("one completion has no token that counts", {"rows": 4, "empty_row": True}, 0.5, 0.1),
    ):
        batch = _batch(generator, **how)
        if about.startswith("fresh"):
            batch["old_logprobs"] = batch["logprobs"].clone()
        advantages = _advantages(generator, len(batch["logprobs"])) * (not about.startswith("a group"))
        mask, kl = batch.pop("completion_mask"), draw_normal(generator, *batch["logprobs"].shape, spread=1.0) ** 2
        args = batch | {"advantages": advantages, "completion_mask": mask, "kl": kl, "beta": beta, "epsilon": epsilon}
        cases.append(Case(about, args, gradient=("logprobs", "kl")))
    by_hand = {"logprobs": exactly([[-1.0]]), "old_logprobs": exactly([[-1.5]]), "advantages": exactly([2.0])}
    by_hand |= {"completion_mask": torch.tensor([[True]]), "kl": exactly([[0.5]]), "beta": 0.1, "epsilon": 0.2}
    return [*cases, Case("the example by hand", by_hand, gradient=("logprobs", "kl"))]


def _package_loss(logprobs, old_logprobs, advantages, completion_mask, kl, beta, epsilon, level="token", loss_type="grpo"):
    kinds = {"loss_type": loss_type, "importance_sampling_level": level}
    return package.grpo_loss(
        logprobs, old_logprobs, advantages, completion_mask, kl=kl, beta=beta, epsilon=epsilon, **kinds
    ).loss


def _not_negated(logprobs, old_logprobs, advantages, mask, kl, beta, epsilon):
    objective = package.clipped_objective(torch.exp(logprobs - old_logprobs), advantages.unsqueeze(1), epsilon)
    return package.aggregate(objective + beta * kl, mask, "grpo")


def _minimum_of_losses(logprobs, old_logprobs, advantages, mask, kl, beta, epsilon):
    ratio, signed = torch.exp(logprobs - old_logprobs), -advantages.unsqueeze(1)
    return package.aggregate(package.clipped_objective(ratio, signed, epsilon) + beta * kl, mask, "grpo")


def _summed_ratio(logprobs, old_logprobs, advantages, mask, kl, beta, epsilon):
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).sum(1, keepdim=True).exp().expand_as(kl)
    values = -package.clipped_objective(ratio, advantages.unsqueeze(1), epsilon) + beta * kl
    return package.aggregate(values, mask, "grpo")


def _padded_mean(logprobs, old_logprobs, advantages, mask, kl, beta, epsilon):
    values = -package.clipped_objective(torch.exp(logprobs - old_logprobs), advantages.unsqueeze(1), epsilon) + beta * kl
    return torch.where(mask, values, 0.0).mean()


def _micro_cases(generator):
    cases = []
    for about, rows, empty_row, num_sequences in (
        ("3 completions of a batch of 12", 3, False, 12),
        ("a batch that is one micro-batch: 3 of 3 completions", 3, False, 3),
        ("4 completions of 8, one without a token that counts", 4, True, 8),
        ("a micro-batch of one completion of one token, of a batch of 6", 1, False, 6),
    ):
        batch = _batch(generator, rows, empty_row=empty_row)
        advantages = torch.randn(rows, generator=generator, dtype=torch.float64)  # part of a group does not sum to 0
        args = {"logprobs": batch["logprobs"], "advantages": advantages, "completion_mask": batch["completion_mask"]}
        cases.append(Case(about, args | {"num_sequences": num_sequences}, gradient=("logprobs",)))
    by_hand = {"logprobs": exactly([[-1.0], [-2.0]]), "advantages": exactly([0.5, -1.5])}
    by_hand |= {"completion_mask": torch.tensor([[True], [True]]), "num_sequences": 8}
    return [*cases, Case("the example by hand, completions of one token", by_hand, gradient=("logprobs",))]


def _micro(logprobs, advantages, completion_mask, num_sequences):
    ratio = torch.exp(logprobs - logprobs.detach())
    return -package.aggregate(ratio * advantages.unsqueeze(1), completion_mask, "grpo", num_sequences=num_sequences)


QUESTIONS = (
    Question(
        id="ex03.1",
        name="importance_ratio",
        points=3,
        read='notebook 03, "One step, and what it changes"; GSPO is in notebook 08',
        cases=_ratio_cases,
        reference=package.importance_ratio,
        hints=(
            "A quotient of probabilities is a difference of log-probs. Which of the two policies stands above the line?",
            "exp(logprobs - old_logprobs), with the difference set to 0 where the mask is False: then the ratio there is 1. "
            "The level 'sequence' averages the differences before exp.",
            "Sequence: log_ratio.sum(1, keepdim=True) / completion_mask.sum(1, keepdim=True).clamp(min=1), then .exp().",
        ),
        mistakes=(
            Mistake(
                "upside down",
                "this is sampler / policy. A token that has become likelier must get more than 1: exp(logprobs - "
                "old_logprobs).",
                _ratio(lambda log_ratio, mask, level: _mean(-log_ratio, mask, level).exp()),
            ),
            Mistake(
                "a quotient of logs",
                "the log-probs were divided. They are logarithms: subtract them and take exp of the difference.",
                _quotient_of_logs,
            ),
            Mistake(
                "padding not masked",
                "padding got into it. What stands there means nothing: set its log-ratio to 0, which also makes its ratio 1.",
                _ratio(lambda log_ratio, mask, level: _mean(log_ratio, torch.ones_like(mask), level).exp()),
            ),
            Mistake(
                "the product of the ratios",
                "at the level of the sequence the log-ratios were summed; such a ratio explodes with the length. "
                "GSPO takes their mean: divide the sum by the number of tokens that count.",
                _ratio(lambda log_ratio, mask, level: _mean(log_ratio, mask, level, over=1).exp()),
            ),
            Mistake(
                "divided by the width",
                "at the level of the sequence the sum was divided by all columns, padding among them; "
                "divide by completion_mask.sum(1), the completion's own length.",
                _ratio(lambda log_ratio, mask, level: _mean(log_ratio, mask, level, over=mask.shape[1]).exp()),
            ),
            Mistake(
                "the mean of the ratios",
                "at the level of the sequence the ratios were averaged. "
                "Average the log-ratios and take exp last: that is the geometric mean.",
                _ratio(_mean_of_ratios),
            ),
        ),
    ),
    Question(
        id="ex03.2",
        name="aggregate",
        points=5,
        read='notebook 03, "Who weighs how much?"',
        cases=_aggregate_cases,
        reference=package.aggregate,
        hints=(
            "All four share the row sums of the values that count, and differ in what these are divided by. "
            "Write the row sums first.",
            "grpo divides each row by its own length and the sum of those by the number of rows; dapo and bnpo divide "
            "everything by "
            "a number of tokens; dr_grpo by rows times max_completion_length.",
            "Where num_sequences (grpo, dr_grpo) or num_tokens (dapo) is given, it stands in place of the number counted "
            "here; "
            "bnpo always counts its own tokens. lengths.clamp(min=1) makes an empty row 0.",
        ),
        mistakes=(
            Mistake(
                "padding in the mean",
                "grpo divided each row by the width of the batch, so short completions count for less. "
                "Divide by the row's own number of tokens.",
                _aggregate(lambda v, m, kind, counts: _rows(v, m, counts, lengths=m.shape[1]) if kind == "grpo" else None),
            ),
            Mistake(
                "a token mean for grpo",
                "grpo was averaged over all tokens at once, so long completions weigh more. "
                "Average each row first, then the rows.",
                _aggregate(lambda v, m, kind, counts: package.aggregate(v, m, "bnpo", **counts) if kind == "grpo" else None),
            ),
            Mistake(
                "a mean of rows for dapo",
                "dapo was averaged over each row first. There every token weighs the same: one sum, divided by the number "
                "of tokens.",
                _aggregate(lambda v, m, kind, counts: _rows(v, m, counts) if kind == "dapo" else None),
            ),
            Mistake(
                "dr_grpo over the width",
                "dr_grpo was divided by rows times the width of this batch. "
                "Its constant is max_completion_length, the same in every batch.",
                _aggregate(lambda v, m, kind, counts: _rows(v, m, counts, lengths=m.shape[1]) if kind == "dr_grpo" else None),
            ),
            Mistake(
                "dr_grpo over the lengths",
                "dr_grpo was divided by the tokens that are there. It divides by rows times max_completion_length, "
                "so that length changes nothing.",
                _aggregate(lambda v, m, kind, counts: package.aggregate(v, m, "bnpo") if kind == "dr_grpo" else None),
            ),
            Mistake(
                "empty rows left out",
                "grpo left the completion without tokens out of the count of rows. It adds 0, and counts: "
                "divide by all rows (or by num_sequences).",
                _aggregate(
                    lambda v, m, kind, counts: (
                        _rows(v, m, counts, rows=counts["num_sequences"] or m.any(1).sum()) if kind == "grpo" else None
                    )
                ),
            ),
            Mistake(
                "an empty row divided by 0",
                "a completion without tokens was divided by its length, 0 / 0 is NaN, and the whole loss with it. "
                "Use lengths.clamp(min=1).",
                _aggregate(lambda v, m, kind, counts: _rows(v, m, counts, lengths=m.sum(1)) if kind == "grpo" else None),
            ),
            Mistake(
                "the counts of the step not used",
                "num_sequences and num_tokens were not used. They count the whole step of which these rows are a part; "
                "where they are given, divide by them, or the parts do not sum to the whole.",
                _aggregate(
                    lambda v, m, kind, counts: package.aggregate(
                        v, m, kind, max_completion_length=counts["max_completion_length"]
                    )
                ),
            ),
        ),
    ),
    Question(
        id="ex03.3",
        name="simple_grpo_loss",
        points=5,
        read='notebook 03, "All of it"',
        cases=_loss_cases,
        reference=_package_loss,
        hints=(
            "Four steps: ratio, clipped objective, penalty, mean. The shape of each but the last is (B, C); which shape "
            "has an advantage?",
            "Per token: -min(r A, clip(r) A) + beta kl, with advantages.unsqueeze(1). "
            "Then the mean of the tokens that count in each "
            "row, then the mean of the rows.",
            "values = -torch.minimum(r * A, r.clamp(1 - epsilon, 1 + epsilon) * A) + beta * kl; "
            "rows = torch.where(completion_mask, values, 0.0).sum(1) / completion_mask.sum(1).clamp(min=1); return "
            "rows.mean().",
        ),
        mistakes=(
            Mistake(
                "no minus sign",
                "the objective is not negated, so the optimizer makes good completions rarer. Only the penalty keeps its sign.",
                _not_negated,
            ),
            Mistake(
                "the minimum of two losses",
                "the minus sign went inside the minimum. The smaller objective is the larger loss: negate after the minimum, "
                "or take the maximum of the losses.",
                _minimum_of_losses,
            ),
            Mistake(
                "the penalty is rewarded",
                "the KL has the wrong sign: moving away from the reference makes this loss smaller. Add beta * kl to the loss.",
                (lambda new, old, a, mask, kl, beta, eps: _package_loss(new, old, a, mask, kl, -beta, eps)),
            ),
            Mistake(
                "the ratio to itself",
                "the ratio is taken to logprobs.detach(), so it is always 1 and the clip never acts. "
                "Take it to old_logprobs, those of the policy that sampled.",
                (lambda new, old, *rest: _package_loss(new, new.detach(), *rest)),
            ),
            Mistake(
                "padding in the mean",
                "the mean is over all columns, padding among them. Divide each row by its own number of tokens.",
                _padded_mean,
            ),
            Mistake(
                "a token mean",
                "the mean is over all tokens at once, so long completions weigh more. Average each row first, then the rows.",
                (lambda *args: _package_loss(*args, loss_type="bnpo")),
            ),
            Mistake(
                "one ratio per completion",
                "the log-ratios of a completion were summed into one ratio, which explodes with the length. "
                "In GRPO every token has a ratio of its own.",
                _summed_ratio,
            ),
        ),
    ),
    Question(
        id="ex03.4",
        name="micro_batch_loss",
        points=3,
        read='notebook 03, "Why is my loss 0?" and "Who weighs how much?"',
        cases=_micro_cases,
        reference=_micro,
        hints=(
            "Gradients of micro-batches are added. By what must each part be divided, if the sum is to be a mean over the "
            "batch?",
            "The ratio exp(logprobs - logprobs.detach()) is 1 and has the gradient of logprobs. "
            "Average each row over its own tokens, sum the rows.",
            "-(torch.where(completion_mask, ratio * A, 0.0).sum(1) / lengths.clamp(min=1)).sum() / num_sequences, "
            "with A = advantages.unsqueeze(1).",
        ),
        mistakes=(
            Mistake(
                "a mean of its own",
                "this is divided by the rows of the micro-batch. With four equal parts the sum is four times too large, "
                "and unequal "
                "parts weigh differently: divide by num_sequences.",
                lambda logprobs, advantages, mask, num_sequences: _micro(logprobs, advantages, mask, len(logprobs)),
            ),
            Mistake(
                "not divided",
                "the rows are summed and not divided, so the step grows with the batch. Divide by num_sequences.",
                lambda logprobs, advantages, mask, num_sequences: _micro(logprobs, advantages, mask, 1),
            ),
            Mistake(
                "detach forgotten",
                "the value is right, but both log-probs of the ratio carry gradient and it cancels. "
                "The second one is a constant: logprobs.detach().",
                lambda logprobs, advantages, mask, num_sequences: (
                    _micro(logprobs.detach(), advantages, mask, num_sequences) + 0 * logprobs.sum()
                ),
            ),
            Mistake(
                "no ratio",
                "the gradient is right, but the value is a mean of log-probs. "
                "Put the ratio exp(logprobs - logprobs.detach()) in the place of logprobs.",
                lambda logprobs, advantages, mask, num_sequences: (
                    -package.aggregate(logprobs * advantages.unsqueeze(1), mask, "grpo", num_sequences=num_sequences)
                ),
            ),
            Mistake(
                "a token mean",
                "this is divided by the tokens of the micro-batch. A mean of parts is no mean of the whole where they "
                "differ in "
                "length: average each row, sum, divide by num_sequences.",
                lambda logprobs, advantages, mask, num_sequences: _micro(
                    logprobs, advantages * mask.sum(1), mask, int(mask.sum())
                ),
            ),
            Mistake(
                "no minus sign",
                "the sign is that of the objective. The optimizer goes downhill: negate it.",
                lambda logprobs, advantages, mask, num_sequences: _micro(logprobs, -advantages, mask, num_sequences),
            ),
        ),
    ),
)
