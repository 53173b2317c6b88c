"""ex07: find the bug. Three functions that were shipped with a bug, their inputs, and the repairs that miss it."""

import torch

from minigrpo.grading.questions import Case, Mistake, Question, draw_mask
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import aggregate, clipped_objective

ROWS, COLUMNS, VOCABULARY = 3, 5, 7


def _normal(generator, *shape, spread=1.0):
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _clip_cases(generator):
    signs = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)
    sizes = 0.5 + torch.rand(ROWS, 1, generator=generator, dtype=torch.float64)
    middle = torch.tensor([0.6, 0.9, 1.0, 1.1, 1.7], dtype=torch.float64)
    drawn = _normal(generator, ROWS, COLUMNS, spread=0.1).clamp(-0.2, 0.2).exp() * middle
    corners = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5], dtype=torch.float64).expand(ROWS, -1).clone()
    cases = (
        ("ratios of 0.5 to 1.5 with the advantages 1, -1 and 0", corners, signs, 0.2),
        ("ratios on both sides of the band, advantages of both signs", drawn, signs * sizes, 0.15),
        ("fresh completions: every ratio is 1", torch.ones_like(drawn), signs * sizes, 0.2),
    )
    return [Case(about, {"ratio": r, "advantages": a, "epsilon": e}, gradient=("ratio",)) for about, r, a, e in cases]


def _pair(change):
    """A wrong repair: change(free, held, advantages), the losses without the clip and with it."""

    def fixed_clip(ratio, advantages, epsilon):
        return change(-ratio * advantages, -ratio.clamp(1 - epsilon, 1 + epsilon) * advantages, advantages)

    return fixed_clip


def _mean_cases(generator):
    cases = (("completions of different length", ROWS, False), ("one completion has no token that counts", 4, True))
    drawn = [
        Case(
            about,
            {
                "values": _normal(generator, rows, COLUMNS),
                "completion_mask": draw_mask(generator, rows, COLUMNS, empty_row=empty),
            },
            gradient=("values",),
        )
        for about, rows, empty in cases
    ]
    values, mask = drawn[0].args["values"], drawn[0].args["completion_mask"]
    padded = {"values": torch.cat([values, values[:, :2]], 1), "completion_mask": torch.cat([mask, mask[:, :2] & False], 1)}
    return [*drawn, Case("the first case with two more columns of padding", padded, gradient=("values",))]


def _logprobs_cases(generator):
    cases = []
    for about, temperature, spread in (
        ("a low temperature, 0.6", 0.6, 1.5),
        ("a high temperature, 2", 2.0, 1.5),
        ("temperature 1", 1.0, 1.5),
        ("logits of up to a thousand and more, temperature 0.8", 0.8, 600.0),
    ):
        logits = _normal(generator, ROWS, COLUMNS, VOCABULARY, spread=spread)
        token_ids = torch.randint(VOCABULARY, (ROWS, COLUMNS), generator=generator)
        token_ids[0, 0] = logits[0, 0].argmin()
        args = {"logits": logits, "token_ids": token_ids, "temperature": temperature}
        cases.append(Case(about, args, gradient=("logits",) if spread < 2 else ()))
    return cases


def _gathered(values, token_ids):
    return values.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


QUESTIONS = (
    Question(
        id="ex07.1",
        name="fixed_clip",
        points=3,
        cases=_clip_cases,
        reference=lambda ratio, advantages, epsilon: -clipped_objective(ratio, advantages, epsilon),
        hints=(
            "Take advantage 1 and ratio 1.5, then 0.5. In which of the two should the gradient be 0, and in which is it?",
            "The clip is to be pessimistic: of the two objectives it takes the one that promises less.",
            "-torch.minimum(free, held); or, with the minus sign inside, the maximum of the two losses.",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: it takes the larger objective, and the larger one is the "
                "optimistic "
                "one. The clip takes the smaller.",
                _pair(lambda free, held, advantages: torch.minimum(free, held)),
            ),
            Mistake(
                "repaired for positive advantages only",
                "for negative advantages the larger objective is still taken. The sign turns the order round by itself: "
                "the smaller for both.",
                _pair(
                    lambda free, held, advantages: torch.where(advantages >= 0, torch.max(free, held), torch.min(free, held))
                ),
            ),
            Mistake(
                "the clip alone",
                "only the clipped objective is left, so tokens that went the wrong way are not corrected. "
                "Take the smaller of the two.",
                _pair(lambda free, held, advantages: held),
            ),
            Mistake(
                "the minus sign lost",
                "the smaller one is right, but this is the objective; a loss is its negative.",
                _pair(lambda free, held, advantages: -torch.maximum(free, held)),
            ),
        ),
    ),
    Question(
        id="ex07.2",
        name="fixed_mean",
        points=2,
        cases=_mean_cases,
        reference=lambda values, completion_mask: aggregate(values, completion_mask, "grpo"),
        hints=(
            "Padding adds 0 to the sum. What does it add to the number by which the sum is divided?",
            "Divide each row by the number of its own tokens that count, then average the rows.",
            "(torch.where(completion_mask, values, 0.0).sum(1) / completion_mask.sum(1).clamp(min=1)).mean()",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: it divides by all columns, padding among them, so short "
                "completions "
                "count for less.",
                lambda values, mask: torch.where(mask, values, 0.0).mean(1).mean(),
            ),
            Mistake(
                "a token mean",
                "padding is out, but long completions now weigh more: this is a mean over all tokens at once. "
                "Average each row first.",
                lambda values, mask: aggregate(values, mask, "bnpo"),
            ),
            Mistake(
                "the values on padding",
                "the divisor is right, but the sum now holds the values on padding. Only tokens that count belong into either.",
                lambda values, mask: (values.sum(1) / mask.sum(1).clamp(min=1)).mean(),
            ),
            Mistake(
                "an empty row divided by 0",
                "a completion without tokens is 0 / 0, and NaN spreads over the whole loss. Divide by lengths.clamp(min=1).",
                lambda values, mask: (torch.where(mask, values, 0.0).sum(1) / mask.sum(1)).mean(),
            ),
        ),
    ),
    Question(
        id="ex07.3",
        name="fixed_logprobs",
        points=3,
        cases=_logprobs_cases,
        reference=token_logprobs,
        hints=(
            "Which distribution were the tokens drawn from? Look for an argument that is never used.",
            "The policy is softmax(logits / temperature). Where must the division stand, before the normalisation or after it?",
            "torch.log_softmax(logits / temperature, dim=-1), gathered at token_ids.",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: the temperature is not used, so these are log-probs of "
                "another policy "
                "than the one that sampled.",
                lambda logits, token_ids, temperature: token_logprobs(logits, token_ids),
            ),
            Mistake(
                "divided afterwards",
                "the log-probs were divided, not the logits: exp of them does not sum to 1. Divide before log_softmax.",
                lambda logits, token_ids, temperature: token_logprobs(logits, token_ids) / temperature,
            ),
            Mistake(
                "times the temperature",
                "the logits were multiplied by the temperature; the sampler divided them by it.",
                lambda logits, token_ids, temperature: token_logprobs(logits, token_ids, 1 / temperature),
            ),
            Mistake(
                "the log of softmax",
                "the temperature is right, but log(softmax(x)) is -inf where softmax rounds to 0. Use log_softmax.",
                lambda logits, token_ids, temperature: _gathered(torch.log(torch.softmax(logits / temperature, -1)), token_ids),
            ),
        ),
    ),
)
