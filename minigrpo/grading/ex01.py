"""ex01: log-probs. The questions, their inputs, and the mistakes that are known by name."""

import torch

from minigrpo import logprobs as package
from minigrpo.grading.questions import Case, Mistake, Question, draw_id, draw_normal, draw_number, exactly


def _ids(generator, *shape):
    return torch.randint(7, shape, generator=generator)


# --- ex01.1 -----------------------------------------------------------------------------------------------------------


def _shift_cases(generator):
    sizes = (
        ("a prompt of 4 tokens, a completion of 5", 4, 5),
        ("a completion of one token", 4, 1),
        ("a prompt shorter than the completion", 2, 6),
        ("a prompt of one token", 1, 4),
    )
    by_hand = {"logits": exactly([[[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]]), "prompt_length": 4}
    return [
        Case(
            about,
            {"logits": draw_normal(generator, 3, prompt + length, 7, spread=1.5), "prompt_length": prompt},
            gradient=("logits",),
        )
        for about, prompt, length in sizes
    ] + [Case("the example by hand: six positions, whose logits are 0 to 5", by_hand, gradient=("logits",))]


SHIFT = Question(
    id="ex01.1",
    name="shift_logits",
    points=2,
    read='notebook 01, "The shift: position t predicts token t + 1"',
    cases=_shift_cases,
    reference=package.shift_logits,
    hints=(
        "The logits at position t are the prediction of token t + 1. At which position does the first completion token stand?",
        "It stands at prompt_length, so it is predicted at prompt_length - 1. What predicts the last one?",
        "logits[:, prompt_length - 1 : -1]: the last position predicts a token that nobody has written yet.",
    ),
    mistakes=(
        Mistake(
            "no shift",
            "these are the logits at the completion's own positions; each of them predicts the token after it. Start one "
            "earlier, and end one earlier.",
            lambda logits, prompt_length: logits[:, prompt_length:],
        ),
        Mistake(
            "the last position kept",
            "the first position is right, but the last one predicts a token that is not there; leave it out.",
            lambda logits, prompt_length: logits[:, prompt_length - 1 :],
        ),
        Mistake(
            "the first position lost",
            "the last position is right, but the first completion token has no prediction: it is made at the last prompt "
            "token, position prompt_length - 1.",
            lambda logits, prompt_length: logits[:, prompt_length:-1],
        ),
        Mistake(
            "shifted twice",
            "these logits start and end one position too early: they predict the last prompt token and miss the last "
            "completion token. Shift once.",
            lambda logits, prompt_length: logits[:, prompt_length - 2 : -2],
        ),
        Mistake(
            "the prompt kept",
            "the shift is right, but the predictions of the prompt's own tokens are still there. Nobody chose those tokens; "
            "start at prompt_length - 1.",
            lambda logits, prompt_length: logits[:, :-1],
        ),
    ),
)

# --- ex01.2 -----------------------------------------------------------------------------------------------------------


def _top_cases(generator):
    def case(about, columns, top_k, temperature):
        logits = draw_normal(generator, 3, columns, 7, spread=1.5)
        kept = logits.topk(top_k).indices  # only these can have been drawn
        ids = kept.gather(-1, torch.randint(top_k, (3, columns, 1), generator=generator)).squeeze(-1)
        args = {"logits": logits, "token_ids": ids, "temperature": temperature, "top_k": top_k}
        return Case(about, args, gradient=("logits",))

    by_hand = {"logits": exactly([[[2.0, 1.0, 0.0]]]), "token_ids": torch.tensor([[0]]), "temperature": 1.0, "top_k": 2}
    return [
        case("the three likeliest of seven tokens, a temperature below 1", 5, 3, draw_number(generator, 0.4, 0.8)),
        case("the two likeliest, a temperature above 1", 5, 2, draw_number(generator, 1.3, 2.0)),
        case("completions of one token, four are kept", 1, 4, draw_number(generator, 0.4, 0.8)),
        case("all tokens are kept", 5, 7, 1.0),
        Case("the example by hand", by_hand, gradient=("logits",)),
    ]


def _top(logits, token_ids, temperature, top_k):
    least = logits.topk(top_k).values[..., -1:]
    kept = torch.where(logits >= least, logits / temperature, -torch.inf)
    return package.token_logprobs(kept, token_ids)


def _renormalised(logits, token_ids, temperature, top_k):
    return package.token_logprobs(logits, token_ids, temperature) / logits.softmax(-1).topk(top_k).values.sum(-1)


def _kept_at_zero(logits, token_ids, temperature, top_k):
    kept = torch.where(logits >= logits.topk(top_k).values[..., -1:], logits / temperature, 0.0)
    return package.token_logprobs(kept, token_ids)


TOP = Question(
    id="ex01.2",
    name="top_k_logprobs",
    points=3,
    read='notebook 01, "The temperature belongs to the policy"',
    cases=_top_cases,
    reference=_top,
    hints=(
        "Which policy drew these tokens? Its probabilities sum to 1 over the tokens that it may draw, and are 0 elsewhere.",
        "Find the smallest logit that is kept (torch.topk), put minus infinity in the place of all below it, and normalise "
        "afterwards.",
        "kept = torch.where(logits >= logits.topk(top_k).values[..., -1:], logits / temperature, -torch.inf), then "
        "log_softmax and gather.",
    ),
    mistakes=(
        Mistake(
            "all tokens",
            "these are log-probs under all V tokens. The sampler kept top_k of them, and their probabilities sum to 1.",
            lambda logits, token_ids, temperature, top_k: package.token_logprobs(logits, token_ids, temperature),
        ),
        Mistake(
            "the temperature left out",
            "these are log-probs at temperature 1. The tokens that are kept were drawn at the temperature.",
            lambda logits, token_ids, temperature, top_k: _top(logits, token_ids, 1.0, top_k),
        ),
        Mistake(
            "zeros for the others",
            "the tokens that are not kept have the logit 0, not minus infinity, and still take probability.",
            _kept_at_zero,
        ),
        Mistake(
            "one token too many",
            "one token more than top_k was kept.",
            lambda logits, token_ids, temperature, top_k: _top(
                logits, token_ids, temperature, min(top_k + 1, logits.shape[-1])
            ),
        ),
        Mistake(
            "a log-prob divided by a probability",
            "the log-probs were divided by the probability of what is kept. Of a log-prob the log of it is subtracted.",
            _renormalised,
        ),
    ),
)

# --- ex01.3 -----------------------------------------------------------------------------------------------------------


def _mask_cases(generator):
    eos = draw_id(generator)

    def case(about, endings, padding):
        """Rows of 5 tokens with the first EOS at the given places (5: none), and what stands behind it."""
        ids = torch.randint(1, 6, (len(endings), 5), generator=generator)
        for row, end in enumerate(endings):
            ids[row, end:] = padding
            ids[row, end : end + 1] = eos
        return ids, Case(about, {"completion_ids": ids, "eos_token_id": eos})

    middle = int(torch.randint(1, 3, (), generator=generator))
    _, same = case("padding with the EOS id itself", (middle, 3, 0), eos)
    _, other = case("padding with another id; one completion is nothing but an EOS", (middle, 4, 0), 0)
    _, none = case("a completion that was cut off: no EOS", (5, middle, 5), 0)
    ids, tail = case("text and a second EOS behind the first", (1, 0, 5), 2)
    ids[0, 3] = ids[1, 2] = eos
    by_hand = {"completion_ids": torch.tensor([[5, 9, 2, 9, 9]]), "eos_token_id": 9}
    return [other, same, none, tail, Case("the example by hand", by_hand)]


def _up_to_the_last(completion_ids, eos_token_id):
    is_eos = completion_ids == eos_token_id
    return (is_eos.flip(1).cumsum(1).flip(1) > 0) | ~is_eos.any(1, keepdim=True)


def _argmax_mask(completion_ids, eos_token_id):
    end = (completion_ids == eos_token_id).long().argmax(1, keepdim=True)
    return torch.arange(completion_ids.shape[1]) <= end


def _no_eos(completion_ids, eos_token_id):
    return (completion_ids == eos_token_id).cumsum(1) == 0


MASK = Question(
    id="ex01.3",
    name="completion_mask",
    points=3,
    read='notebook 01, "The mask: what counts"',
    cases=_mask_cases,
    reference=package.completion_mask,
    hints=(
        "Go through a row from the left. A token counts as long as no EOS stands before it.",
        "Count the EOS tokens *before* each place: a cumulative sum of (ids == eos) counts the place itself as well, so "
        "subtract it.",
        "is_eos = completion_ids == eos_token_id, and then is_eos.cumsum(1) - is_eos.long() == 0.",
    ),
    mistakes=(
        Mistake(
            "the EOS left out",
            "everything before the first EOS counts, but not the EOS itself. Stopping was a decision of the policy; an EOS "
            "that is never trained is never learnt.",
            _no_eos,
        ),
        Mistake(
            "by the value of the token",
            "a place was left out if its token is the EOS, and counted otherwise. So the EOS is not trained, and padding with "
            "another id is. What matters is the place: up to and including the first EOS.",
            lambda completion_ids, eos_token_id: completion_ids != eos_token_id,
        ),
        Mistake(
            "up to the last EOS",
            "the mask ends at the last EOS. Everything after the first is padding, later EOS tokens too (pad and EOS often "
            "have the same id).",
            _up_to_the_last,
        ),
        Mistake(
            "up to the second EOS",
            "a cumulative sum of at most 1 holds from the first EOS on until the second, so what follows the first one counts. "
            "Count only the EOS tokens before each place, and want 0 of them.",
            lambda completion_ids, eos_token_id: (completion_ids == eos_token_id).cumsum(1) <= 1,
        ),
        Mistake(
            "argmax of a row without EOS",
            "argmax gives 0 for a row that has no EOS, so of a completion that was cut off only the first token counts. Such "
            "a row counts entirely.",
            _argmax_mask,
        ),
        Mistake(
            "upside down",
            "this mask is True on the padding. Here True always means: this token counts.",
            lambda completion_ids, eos_token_id: ~package.completion_mask(completion_ids, eos_token_id),
        ),
    ),
)

# --- ex01.4 -----------------------------------------------------------------------------------------------------------


def _entropy_cases(generator):
    def case(about, logits, temperature=None):
        return Case(about, {"logits": logits} | ({"temperature": temperature} if temperature else {}), gradient=("logits",))

    favoured = draw_normal(generator, 3, 5, 7, spread=1.5)
    favoured[:, 1:, 0] += 800.0
    return [
        case("a temperature below 1", draw_normal(generator, 3, 5, 7, spread=1.5), draw_number(generator, 0.4, 0.8)),
        case("no temperature is given: 1", draw_normal(generator, 3, 5, 7, spread=1.5)),
        case(
            "equal logits: a policy without any idea",
            torch.zeros(3, 1, 7, dtype=torch.float64),
            draw_number(generator, 1.3, 2.0),
        ),
        case("a token so likely that the probabilities of the others round to 0", favoured, 1.0),
        case("the example by hand, temperature 2", exactly([[[3.0, 1.0]]]).log(), 2.0),
    ]


def _log_of_softmax_entropy(logits, temperature=1.0):
    probs = (logits / temperature).softmax(-1)
    return -(probs * probs.log()).sum(-1)


ENTROPIES = Question(
    id="ex01.4",
    name="token_entropies",
    points=2,
    read='notebook 01, "Entropy: how undecided is the policy?"',
    cases=_entropy_cases,
    reference=package.token_entropies,
    hints=(
        "The entropy is the mean of minus the log-prob. Over which tokens is that mean, and with which weights?",
        "Over all V tokens of the vocabulary, each weighted with its own probability: minus the sum of p log p. No token "
        "needs to have been drawn. Which function gives log p without ever being minus infinity?",
        "logprobs = torch.log_softmax(logits / temperature, dim=-1), then -(logprobs.exp() * logprobs).sum(-1).",
    ),
    mistakes=(
        Mistake(
            "unweighted",
            "this is the plain mean of minus the log-probs over the vocabulary. Weight each with its probability and sum: "
            "unlikely tokens hardly count.",
            lambda logits, temperature=1.0: -(logits / temperature).log_softmax(-1).mean(-1),
        ),
        Mistake(
            "divided by V",
            "p log p was averaged over the vocabulary, not summed. The probabilities are the weights of the mean already; "
            "with equal logits the result must be log V.",
            lambda logits, temperature=1.0: package.token_entropies(logits, temperature) / logits.shape[-1],
        ),
        Mistake(
            "negative",
            "this is the sum of p log p, which is never positive. An entropy is minus that.",
            lambda logits, temperature=1.0: -package.token_entropies(logits, temperature),
        ),
        Mistake(
            "temperature ignored",
            "this is the entropy at temperature 1. The policy that sampled is softmax(logits / temperature); its entropy is "
            "wanted.",
            lambda logits, temperature=1.0: package.token_entropies(logits),
        ),
        Mistake(
            "log of softmax",
            "the log was taken of a probability that is rounded to 0, and 0 times minus infinity is not a number. Take "
            "log_softmax, and its exp for the probabilities.",
            _log_of_softmax_entropy,
        ),
        Mistake(
            "in bits",
            "this entropy is in bits: the logarithm has base 2. All log-probs of this course are in nats, so use the natural "
            "one.",
            lambda logits, temperature=1.0: package.token_entropies(logits, temperature) / torch.tensor(2.0).double().log(),
        ),
    ),
)

# --- ex01.5 -----------------------------------------------------------------------------------------------------------


def _ratio_cases(generator):
    def case(about, temperature, moved, columns=5):
        logits, ids = draw_normal(generator, 3, columns, 7, spread=1.5), _ids(generator, 3, columns)
        noise = 2 * torch.rand(3, columns, generator=generator, dtype=torch.float64) - 1
        old = package.token_logprobs(logits, ids, temperature) + moved * noise
        args = {"logits": logits, "token_ids": ids, "old_logprobs": old, "temperature": temperature}
        return Case(about, args, gradient=("logits",))

    by_hand = {"logits": exactly([[[3.0, 1.0]]]).log(), "token_ids": torch.tensor([[0]])}
    by_hand |= {"old_logprobs": exactly([[0.6]]).log(), "temperature": 0.5}

    return [
        case("a policy that has moved a little", draw_number(generator, 0.4, 0.8), 0.5),
        case("completions of one token, at a temperature above 1", draw_number(generator, 1.3, 2.0), 0.5, columns=1),
        case("a policy that has not moved since it sampled: every ratio is 1", draw_number(generator, 0.4, 0.8), 0.0),
        case("a policy that has moved far: log-ratios up to 30", draw_number(generator, 0.4, 0.8), 30.0),
        Case("the example by hand", by_hand, gradient=("logits",)),
    ]


def _ratio(logits, token_ids, old_logprobs, temperature):
    return (package.token_logprobs(logits, token_ids, temperature) - old_logprobs).exp()


def _ratio_to_itself(logits, token_ids, old_logprobs, temperature):
    logprobs = package.token_logprobs(logits, token_ids, temperature)
    return (logprobs - logprobs.detach()).exp()


RATIO = Question(
    id="ex01.5",
    name="tempered_ratio",
    points=2,
    read='notebook 01, "The temperature belongs to the policy"',
    cases=_ratio_cases,
    reference=_ratio,
    hints=(
        "A ratio of two probabilities of the same token: above the line the policy as it is now, below it as it was when it "
        "sampled.",
        "Score the tokens as in lesson 01, with the temperature. The sampler's log-probs have it in them already. How does a "
        "difference of logs become a ratio?",
        "logprobs at that temperature by log_softmax and gather, then torch.exp(logprobs - old_logprobs).",
    ),
    mistakes=(
        Mistake(
            "scored at temperature 1",
            "the tokens were sampled at one temperature and scored at another, so the ratio is not 1 even where nothing has "
            "moved. Divide the logits by the temperature.",
            lambda logits, token_ids, old_logprobs, temperature: _ratio(logits, token_ids, old_logprobs, 1.0),
        ),
        Mistake(
            "temperature used twice",
            "the sampler's log-probs were divided by the temperature, but they were noted at that temperature. Only the raw "
            "logits need it.",
            lambda logits, token_ids, old_logprobs, temperature: _ratio(
                logits, token_ids, old_logprobs / temperature, temperature
            ),
        ),
        Mistake(
            "upside down",
            "this is the old probability over the new one. The policy that is trained stands above the line: "
            "exp(logprobs - old_logprobs).",
            lambda logits, token_ids, old_logprobs, temperature: 1 / _ratio(logits, token_ids, old_logprobs, temperature),
        ),
        Mistake(
            "no exp",
            "this is the difference of the log-probs, the log of the ratio. Take exp of it: a policy that has not moved has "
            "the ratio 1.",
            lambda logits, token_ids, old_logprobs, temperature: _ratio(logits, token_ids, old_logprobs, temperature).log(),
        ),
        Mistake(
            "a quotient of logs",
            "one log-prob was divided by the other. Logs of probabilities are subtracted, and exp of the difference is the "
            "ratio.",
            lambda logits, token_ids, old_logprobs, temperature: (
                package.token_logprobs(logits, token_ids, temperature) / old_logprobs
            ),
        ),
        Mistake(
            "a ratio to itself",
            "the new log-probs were compared with themselves, so the ratio is 1 whatever has happened. Compare with "
            "old_logprobs, which the sampler noted.",
            _ratio_to_itself,
        ),
    ),
)

QUESTIONS = (SHIFT, TOP, MASK, ENTROPIES, RATIO)
