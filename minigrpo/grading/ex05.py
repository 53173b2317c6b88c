"""ex05: find the bug. Six functions as they were shipped: for each an input on which the bug shows, and the repair."""

import torch

from minigrpo import kl
from minigrpo.grading import diagnosis, shipped
from minigrpo.grading.questions import Case, Mistake, Question, draw_id, draw_logprobs, draw_mask
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import aggregate

ROWS, COLUMNS, VOCABULARY = 3, 5, 7


def _normal(generator, *shape, spread=1.0):
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- inputs that show a bug -------------------------------------------------------------------------------------------


def _your_input(generator):
    return [Case("the input that your function returns", {})]


def _shows(number, name, bug, good, *hints):
    """The question for an input of ``bug``; ``good`` returns one of the many."""
    return Question(
        id=f"ex05.{number}",
        name=f"shows_{name}",
        points=1,
        cases=_your_input,
        reference=good,
        hints=hints,
        accepts=lambda outcome, case: bug.accepts(outcome.values),
    )


def _wide_ratio():
    return torch.tensor([[1.5]]), torch.tensor([[1.0]]), 0.2


def _short_completion():
    return torch.tensor([[4.0, 0.0]]), torch.tensor([[True, False]])


def _padded_with_eos():
    return torch.tensor([[3, 6, 6]]), 6, 6


def _low_temperature():
    return torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0]]), 0.5


def _second_rollout():
    return torch.tensor([-2.0, -1.9, -1.0]).reshape(3, 1, 1), 2


# --- inputs that test a repair ----------------------------------------------------------------------------------------


def _kl_cases(generator):
    logprobs, ref_logprobs = (draw_logprobs(generator, ROWS, COLUMNS) for _ in range(2))
    near = logprobs * torch.exp(_normal(generator, ROWS, COLUMNS, spread=0.1))
    cases = (
        ("policy and reference that have parted", logprobs, ref_logprobs),
        ("tokens that the policy has nearly given up", logprobs - 6, logprobs),
        ("policy and reference close together", logprobs, near),
        ("the reference itself", logprobs, logprobs.clone()),
    )
    return [Case(about, {"logprobs": p, "ref_logprobs": ref}, gradient=("logprobs",)) for about, p, ref in cases]


def _k3(exp_of, subtracted):
    """A wrong repair: exp of one log-ratio, minus 1, minus another; each from log(policy / reference)."""
    return lambda p, ref: torch.exp(exp_of(p - ref)) - 1 - subtracted(p - ref)


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


def _mask_cases(generator):
    eos, other = draw_id(generator), 0

    def case(about, ends, pad):
        """Rows of 5 tokens that end with EOS at these places (5: cut off); a policy may write any token, padding's too."""
        ids = torch.randint(1, 7, (len(ends), COLUMNS), generator=generator)
        ids[-1, 1] = pad if pad != eos else 1
        for row, end in enumerate(ends):
            ids[row, end:] = pad
            ids[row, end : end + 1] = eos
        return Case(about, {"completion_ids": ids, "eos_token_id": eos, "pad_token_id": pad})

    return [
        case("padding with EOS; one completion is nothing but an EOS", (2, 0, 4), eos),
        case("padding with EOS; a completion that was cut off", (1, 5, 3), eos),
        case("padding with a token of its own, which one completion wrote itself", (1, 4, 3), other),
    ]


def _one_more(completion_ids, eos_token_id, pad_token_id):
    mask = completion_ids != pad_token_id
    return mask | torch.nn.functional.pad(mask, (1, 0))[:, :-1]


def _first_eos_put_back(completion_ids, eos_token_id, pad_token_id):
    is_eos = completion_ids == eos_token_id
    return (completion_ids != pad_token_id) | (is_eos & (is_eos.cumsum(1) == 1))


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


def _ratio_cases(generator):
    cases = []
    for about, updates, num_iterations in (
        ("three rollouts, two updates each", 6, 2),
        ("three updates per rollout, the last rollout not used up", 7, 3),
        ("one update per rollout", 3, 1),
        ("a single rollout", 4, 4),
    ):
        rollouts = draw_logprobs(generator, -(-updates // num_iterations), ROWS, COLUMNS)
        logprobs = rollouts.repeat_interleave(num_iterations, 0)[:updates]
        drift = _normal(generator, *logprobs.shape, spread=0.2).exp()  # what the updates did
        cases.append(Case(about, {"logprobs": logprobs * drift, "num_iterations": num_iterations}, gradient=("logprobs",)))
    return cases


def _against(old_update, *, detach=True):
    """A wrong repair: the ratio to the log-probs at update ``old_update(update, num_iterations)``."""

    def fixed_ratio(logprobs, num_iterations):
        old = logprobs[[old_update(update, num_iterations) for update in range(len(logprobs))]]
        return torch.exp(logprobs - (old.detach() if detach else old))

    return fixed_ratio


QUESTIONS = (
    *diagnosis.QUESTIONS,
    _shows(
        2,
        "kl",
        shipped.KL,
        lambda: (torch.tensor([[0.5]]).log(), torch.tensor([[0.25]]).log()),
        "Work k3 out for one token, with pencil and paper, and compare with shipped_kl. If the two agree, try another one.",
        "Where policy and reference give a token the same log-prob, any k3 is 0. So give it different ones.",
        "torch.tensor([[0.5]]).log() and torch.tensor([[0.25]]).log(): k3 is 0.1931, and shipped_kl says 0.3069.",
    ),
    Question(
        id="ex05.3",
        name="fixed_kl",
        points=1,
        cases=_kl_cases,
        reference=kl.kl_k3,
        hints=(
            "k3 is r - 1 - log r. Which of the two, policy or reference, stands on top in r?",
            "r = reference / policy, because its mean over the policy's draws is 1. So log r = ref_logprobs - logprobs.",
            "Turn the difference round in the line that defines it, and leave the formula as it is.",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: r is policy / reference. With it, a token that the policy gave "
                "up costs little, and one that it likes costs without bound. r is reference / policy.",
                shipped.shipped_kl,
            ),
            Mistake(
                "only exp turned round",
                "exp has the right log-ratio now, the last term still has the other one. Both terms are of the same r.",
                _k3(lambda log_ratio: -log_ratio, lambda log_ratio: log_ratio),
            ),
            Mistake(
                "only the last term turned round",
                "the last term has the right log-ratio now, exp still has the other one. Both terms are of the same r.",
                _k3(lambda log_ratio: log_ratio, lambda log_ratio: -log_ratio),
            ),
            Mistake(
                "the size of the log-ratio",
                "both directions now cost the same: the sign of the log-ratio is lost. k3 is not symmetric; it needs the sign "
                "of reference minus policy.",
                _k3(lambda log_ratio: log_ratio.abs(), lambda log_ratio: log_ratio.abs()),
            ),
            Mistake(
                "k1 for k3",
                "this is the log-ratio itself, k1: right on average, but negative at times, and as a loss without effect. "
                "Keep k3 and turn its r round.",
                kl.kl_k1,
            ),
        ),
    ),
    _shows(
        4,
        "clip",
        shipped.CLIP,
        _wide_ratio,
        "As long as free and held are the same number, it does not matter which of the two is taken.",
        "Take a ratio outside the band from 1 - epsilon to 1 + epsilon. And advantage 0 makes everything 0.",
        "torch.tensor([[1.5]]), torch.tensor([[1.0]]), 0.2: the loss should be -1.2.",
    ),
    Question(
        id="ex05.5",
        name="fixed_clip",
        points=1,
        cases=_clip_cases,
        reference=shipped.CLIP.right,
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
                shipped.shipped_clip,
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
    _shows(
        6,
        "mean",
        shipped.MEAN,
        _short_completion,
        "Where every token counts, both means are the same. What must the batch have for the mask to do something?",
        "A completion that is shorter than the batch is wide: True at its tokens, False on its padding.",
        "torch.tensor([[4.0, 0.0]]) and torch.tensor([[True, False]]): the mean of the one token that counts is 4.",
    ),
    Question(
        id="ex05.7",
        name="fixed_mean",
        points=1,
        cases=_mean_cases,
        reference=shipped.MEAN.right,
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
                shipped.shipped_mean,
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
    _shows(
        8,
        "mask",
        shipped.EOS,
        _padded_with_eos,
        "GPT-2's tokenizer has no token for padding. Which one do people give it?",
        "Take pad_token_id equal to eos_token_id, and a completion that ends: a token or two, EOS, padding.",
        "torch.tensor([[3, 6, 6]]), 6, 6: the first two tokens should count.",
    ),
    Question(
        id="ex05.9",
        name="fixed_mask",
        points=1,
        cases=_mask_cases,
        reference=shipped.EOS.right,
        hints=(
            "No token's value says whether it is padding. Its place does: padding is what stands behind the end.",
            "A token counts if no EOS stands *before* it. Then the first EOS itself counts, and nothing behind it.",
            "is_eos = completion_ids == eos_token_id, then is_eos.cumsum(1) - is_eos.long() == 0, whatever pad_token_id is.",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: where pad and EOS are one token, no EOS counts, and stopping is "
                "never learnt. The first EOS counts.",
                shipped.shipped_mask,
            ),
            Mistake(
                "every EOS counts",
                "now every EOS counts, and where EOS is the padding, all padding with it. Only the first one of a completion "
                "was written by the policy.",
                lambda ids, eos_token_id, pad_token_id: (ids != pad_token_id) | (ids == eos_token_id),
            ),
            Mistake(
                "one token more",
                "the mask was made one token longer. That is right only where EOS is the padding: elsewhere the EOS "
                "counted already, and a completion that is nothing but an EOS is still lost. Look for the first EOS.",
                _one_more,
            ),
            Mistake(
                "the first EOS put back",
                "the first EOS counts now, but padding is still told by its value: where the policy itself wrote the padding's "
                "token, it is left out. Go by the place: all that stands before the end counts.",
                _first_eos_put_back,
            ),
            Mistake(
                "up to EOS, without it",
                "what stands before the first EOS counts, the EOS itself does not, and that was the bug: ending is a decision "
                "of the policy. Up to *and including* the first EOS.",
                lambda ids, eos_token_id, pad_token_id: (ids == eos_token_id).cumsum(1) == 0,
            ),
        ),
    ),
    _shows(
        10,
        "logprobs",
        shipped.TEMPERED,
        _low_temperature,
        "Which argument is never used? At which value of it would nobody notice?",
        "At temperature 1 nothing is missing. Take another one, and two tokens with different logits.",
        "torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0]]), 0.5: the log-prob should be -0.1269.",
    ),
    Question(
        id="ex05.11",
        name="fixed_logprobs",
        points=1,
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
                shipped.shipped_logprobs,
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
    _shows(
        12,
        "ratio",
        shipped.STALE,
        _second_rollout,
        "Go through the loop by hand, with two updates per rollout. At which updates are old_logprobs set?",
        "The first rollout is right. Go on to the second: more updates than num_iterations, and num_iterations of 2 or more.",
        "Three updates of one token, two per rollout: torch.tensor([-2.0, -1.9, -1.0]).reshape(3, 1, 1) and 2. The last ratio "
        "should be 1.",
    ),
    Question(
        id="ex05.13",
        name="fixed_ratio",
        points=1,
        cases=_ratio_cases,
        reference=shipped.right_ratio,
        hints=(
            "Write down for num_iterations 2 which updates begin a rollout: 0, 2, 4 ... What have they in common?",
            "At a rollout's first update the policy is still the one that sampled: keep its log-probs for the whole rollout.",
            "if update % num_iterations == 0: old_logprobs = logprobs[update].detach()",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: the old log-probs of the first rollout are kept for ever. "
                "Take new ones whenever a rollout begins.",
                shipped.shipped_ratio,
            ),
            Mistake(
                "made anew before every update",
                "the old log-probs are now taken at every update, so the ratio is 1 for ever and the clip never acts. Take "
                "them once per rollout, at its first update.",
                _against(lambda update, num_iterations: update),
            ),
            Mistake(
                "those of the update before",
                "each update is compared with the one before it. The tokens were drawn by the policy of the rollout's first "
                "update, and the ratio is to that one.",
                _against(lambda update, num_iterations: max(update - 1, 0)),
            ),
            Mistake(
                "one update late",
                "the old log-probs are renewed one update late, at the second of each rollout; the first is compared with the "
                "rollout before. update % num_iterations == 0 is where a rollout begins.",
                _against(lambda update, num_iterations: max((update - 1) // num_iterations * num_iterations + 1, 0)),
            ),
            Mistake(
                "not detached",
                "the values are right, but the old log-probs carry a gradient, which takes away that of the new ones. What the "
                "sampler said is a constant: .detach().",
                _against(lambda update, num_iterations: update // num_iterations * num_iterations, detach=False),
            ),
        ),
    ),
)
