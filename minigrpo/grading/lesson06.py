"""06, KL: the question that the lesson asks in its own cells."""

from minigrpo import kl as package
from minigrpo.grading.ex06 import k3, pair_cases
from minigrpo.grading.questions import Mistake, Question

QUESTIONS = (
    Question(
        id="06.1",
        name="kl_k3",
        points=0,
        cases=pair_cases,
        reference=package.kl_k3,
        hints=(
            "In k3 = r - 1 - log r, the letter r is reference / policy. Which sign has its logarithm, beside that of k1?",
            "log r = ref_logprobs - logprobs: name it once, then use it twice.",
            "log_r.exp() - 1 - log_r; torch.expm1(log_r) is the first two terms without rounding.",
        ),
        mistakes=(
            Mistake(
                "r upside down",
                "r is policy / reference here; k3 wants reference / policy. This one's mean over the policy's draws is not "
                "the KL, and explodes where the policy has left the reference.",
                lambda logprobs, ref_logprobs: k3(ref_logprobs, logprobs),
            ),
            Mistake(
                "sign of the logarithm",
                "this is r - 1 + log r, which is negative for r below 1. The logarithm is subtracted; it is what keeps k3 "
                "positive.",
                lambda logprobs, ref_logprobs: (ref_logprobs - logprobs).exp() - 1 + (ref_logprobs - logprobs),
            ),
            Mistake(
                "r upside down in exp only",
                "exp was taken of log(policy / reference) while the last term belongs to reference / policy. Give log r a "
                "name, and use that name in both places.",
                lambda logprobs, ref_logprobs: (logprobs - ref_logprobs).exp() - 1 - (ref_logprobs - logprobs),
            ),
            Mistake(
                "log-probs divided",
                "one log-prob was divided by the other. The ratio is of probabilities, so its logarithm is the difference of "
                "the log-probs.",
                lambda logprobs, ref_logprobs: ref_logprobs / logprobs - 1 - (ref_logprobs / logprobs).log(),
            ),
            Mistake(
                "no minus one",
                "the 1 is missing, so k3 is 1 where policy and reference agree, and must be 0.",
                lambda logprobs, ref_logprobs: (ref_logprobs - logprobs).exp() - (ref_logprobs - logprobs),
            ),
            Mistake(
                "r detached",
                "the value is right, but r was detached, so only the logarithm has a slope, and that is k1's. Let both terms "
                "carry their gradient.",
                lambda logprobs, ref_logprobs: (ref_logprobs - logprobs).exp().detach() - 1 - (ref_logprobs - logprobs),
            ),
        ),
    ),
)
