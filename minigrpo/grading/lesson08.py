"""08, variants: the question that the lesson asks in its own cells."""

from minigrpo.grading.questions import Case, Mistake, Question, draw_logprobs, draw_normal
from minigrpo.loss import cispo_objective


def _cases(generator):
    def case(about, cap, *, spread=0.3, columns=5):
        logprobs = draw_logprobs(generator, 4, columns)
        old_logprobs = logprobs + draw_normal(generator, 4, columns, spread=spread)
        advantages = draw_normal(generator, 4, 1)
        advantages[0], advantages[1] = advantages[0].abs() + 0.1, -advantages[1].abs() - 0.1
        args = {"logprobs": logprobs, "old_logprobs": old_logprobs, "advantages": advantages, "cap": cap}
        return Case(about, args, gradient=("logprobs",))

    return [
        case("a policy that has hardly moved, cap 5", 5.0),
        case("a policy that has moved far, cap 1.3", 1.3, spread=1.5),
        case("completions of one token, cap 2", 2.0, spread=1.5, columns=1),
    ]


def cispo_term(logprobs, old_logprobs, advantages, cap):
    """(B, C), (B, C), (B, 1), number -> (B, C): what CISPO maximises, token by token."""
    return cispo_objective((logprobs - old_logprobs).exp(), logprobs, advantages, cap)


def _weighted(weight):
    """A version with another weight of (ratio, advantages, cap)."""

    def cispo_term(logprobs, old_logprobs, advantages, cap):
        ratio = (logprobs - old_logprobs).exp()
        return weight(ratio, advantages, cap).detach() * advantages * logprobs

    return cispo_term


def _with_gradient(logprobs, old_logprobs, advantages, cap):
    return (logprobs - old_logprobs).exp().clamp(max=cap) * advantages * logprobs


def _without_logprobs(logprobs, old_logprobs, advantages, cap):
    return (logprobs - old_logprobs).exp().clamp(max=cap) * advantages


def _loss(*args):
    return -cispo_term(*args)


CISPO = Question(
    id="08.1",
    name="cispo_term",
    points=0,
    cases=_cases,
    reference=cispo_term,
    hints=(
        "Three factors: a weight, the advantage, and the log-prob. Only one of them may carry gradient. Which?",
        "The weight is the ratio, cut off at cap, and then a constant: torch has clamp(max=...) and detach().",
        "weight = (logprobs - old_logprobs).exp().clamp(max=cap).detach(), and return weight * advantages * logprobs.",
    ),
    mistakes=(
        Mistake(
            "the weight carries gradient",
            "the value is right, but the gradient also flows through the weight. Hold it constant: .detach().",
            _with_gradient,
        ),
        Mistake(
            "no log-prob",
            "this is the clipped ratio times the advantage, so where the cap binds there is no gradient. CISPO multiplies by "
            "log p, which carries the gradient, and holds the weight constant.",
            _without_logprobs,
        ),
        Mistake(
            "no cap",
            "the weight is the whole ratio. Cut it off at cap.",
            _weighted(lambda ratio, advantages, cap: ratio),
        ),
        Mistake(
            "1 + cap",
            "the weight was cut off at 1 + cap. Here cap is the largest weight itself.",
            _weighted(lambda ratio, advantages, cap: ratio.clamp(max=1 + cap)),
        ),
        Mistake(
            "cut off below as well",
            "small weights were raised too. CISPO has an upper end only.",
            _weighted(lambda ratio, advantages, cap: ratio.clamp(1 / cap, cap)),
        ),
        Mistake(
            "the ratio upside down",
            "the ratio is old / new. It says how much likelier a token has become since it was drawn: exp(logprobs - "
            "old_logprobs).",
            _weighted(lambda ratio, advantages, cap: (1 / ratio).clamp(max=cap)),
        ),
        Mistake(
            "negated",
            "the sign is that of a loss. What CISPO maximises is asked for, so higher is better; leave the minus out.",
            _loss,
        ),
    ),
)

QUESTIONS = (CISPO,)
