"""01, log-probs: the question that the lesson asks in its own cells."""

import torch

from minigrpo import logprobs as package
from minigrpo.grading.questions import Case, Mistake, Question, draw_normal, draw_number, exactly


def _token_cases(generator):
    def case(about, logits, temperature):
        ids = torch.randint(7, logits.shape[:2], generator=generator)
        ids[0, 0] = 1  # in the case of the favoured token 0: a token that was drawn against all odds
        args = {"logits": logits, "token_ids": ids} | ({"temperature": temperature} if temperature else {})
        return Case(about, args, gradient=("logits",))

    by_hand = {"logits": exactly([[[2.0, 0.0, 0.0]]]), "token_ids": torch.tensor([[0]]), "temperature": 0.5}

    favoured = draw_normal(generator, 3, 5, 7, spread=1.5)
    favoured[..., 0] += 800.0
    return [
        case("a temperature below 1", draw_normal(generator, 3, 5, 7, spread=1.5), draw_number(generator, 0.4, 0.8)),
        case(
            "a temperature above 1, completions of one token",
            draw_normal(generator, 3, 1, 7, spread=1.5),
            draw_number(generator, 1.3, 2.0),
        ),
        case("no temperature is given: 1", draw_normal(generator, 3, 5, 7, spread=1.5), None),
        case("a token so likely that the probabilities of the others round to 0", favoured, 1.0),
        Case("the example by hand: the logits 2, 0, 0, token 0, temperature 0.5", by_hand, gradient=("logits",)),
    ]


def _gather(values, token_ids):
    return values.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


TOKENS = Question(
    id="01.1",
    name="token_logprobs",
    points=0,
    cases=_token_cases,
    reference=package.token_logprobs,
    hints=(
        "Two steps: make log-probs of the logits, then pick one number out of the V at each place. Where does the temperature "
        "go?",
        "The policy is softmax(logits / temperature), over the last dimension. torch.log_softmax is safe where log(softmax) "
        "is not. To pick, torch.gather wants an index with as many dimensions as the logits.",
        "torch.log_softmax(logits / temperature, dim=-1), then .gather(-1, token_ids.unsqueeze(-1)).squeeze(-1).",
    ),
    mistakes=(
        Mistake(
            "temperature ignored",
            "these are log-probs at temperature 1. The tokens were drawn from softmax(logits / temperature), so score them "
            "under that policy.",
            lambda logits, token_ids, temperature=1.0: _gather(logits.log_softmax(-1), token_ids),
        ),
        Mistake(
            "temperature after the softmax",
            "the log-probs were divided by the temperature, so their probabilities no longer add up to 1. Divide the logits, "
            "and normalise afterwards.",
            lambda logits, token_ids, temperature=1.0: _gather(logits.log_softmax(-1) / temperature, token_ids),
        ),
        Mistake(
            "times the temperature",
            "the logits were multiplied by the temperature. Divide: a low temperature makes differences between logits larger.",
            lambda logits, token_ids, temperature=1.0: _gather((logits * temperature).log_softmax(-1), token_ids),
        ),
        Mistake(
            "log of softmax",
            "softmax first and log afterwards: a probability too small for a float becomes 0, and its log minus infinity. "
            "log_softmax does both at once and stays finite.",
            lambda logits, token_ids, temperature=1.0: _gather((logits / temperature).softmax(-1).log(), token_ids),
        ),
        Mistake(
            "not normalised",
            "these are the logits of the drawn tokens. A log-prob is the logit minus the logsumexp of all V; log_softmax "
            "subtracts it.",
            lambda logits, token_ids, temperature=1.0: _gather(logits / temperature, token_ids),
        ),
        Mistake(
            "normalised over the positions",
            "the softmax ran over the positions of the completion (dim=1). Tokens compete with the other tokens of the "
            "vocabulary at the same position: dim=-1.",
            lambda logits, token_ids, temperature=1.0: _gather((logits / temperature).log_softmax(1), token_ids),
        ),
        Mistake(
            "minus sign",
            "this is minus the log-prob, as cross_entropy gives it. A log-prob is at most 0; turn the sign.",
            lambda logits, token_ids, temperature=1.0: -_gather((logits / temperature).log_softmax(-1), token_ids),
        ),
        Mistake(
            "no gradient",
            "the numbers were taken out of the graph (detach, no_grad, item or tolist), so training could not move the policy. "
            "Stay with tensors; put results together with torch.stack.",
            lambda logits, token_ids, temperature=1.0: package.token_logprobs(logits.detach(), token_ids, temperature),
        ),
    ),
)

QUESTIONS = (TOKENS,)
