"""07, triples: the question that the lesson asks in its own cells."""

import torch

from minigrpo import triples as package
from minigrpo.grading.questions import Case, Mistake, Question


def _cases(generator):
    def scores(count, largest=5):
        drawn = torch.randint(1, largest + 1, (count,), generator=generator)
        drawn[:2] = torch.tensor([1, largest])  # two that differ
        return drawn.to(torch.float64)

    inputs = (
        ("eight records with scores from 1 to 5, beta 0.4", scores(8), 0.4),
        ("five records, beta 2", scores(5), 2.0),
        ("the example by hand: rewards 5 and 3, beta 2", torch.tensor([5.0, 3.0], dtype=torch.float64), 2.0),
        ("rewards below 0", scores(6) - 7.5, 1.0),
        ("rewards up to 1000, where exp(R / beta) is too large for a float", scores(6, largest=1000), 0.5),
        ("rewards around -1000, where exp(R / beta) is 0", scores(6) - 1000, 0.5),
    )
    return [Case(about, {"rewards": rewards, "beta": beta}) for about, rewards, beta in inputs]


def _scaled(weights):
    return weights / weights.mean()


QUESTIONS = (
    Question(
        id="07.1",
        name="optimum_weights",
        points=0,
        cases=_cases,
        reference=package.optimum_weights,
        hints=(
            "First exp(R / beta), then divide by the mean of all of them, so that the new mean is 1.",
            "A factor that all weights share is taken out again by the mean. So before exp you may subtract any number from R.",
            "torch.softmax(rewards / beta, dim=0) subtracts the largest for you, and sums to 1. What makes that a mean of 1?",
        ),
        mistakes=(
            Mistake(
                "overflow",
                "right for small rewards. exp(R / beta) alone leaves the range of floats, and inf / inf or 0 / 0 is left. "
                "Subtract the largest reward before exp; the scaling takes that factor out again.",
                lambda rewards, beta: _scaled((rewards / beta).exp()),
            ),
            Mistake(
                "sums to 1",
                "these weights sum to 1. Their mean has to be 1, or the step shrinks as records are added: multiply by N.",
                lambda rewards, beta: (rewards / beta).softmax(0),
            ),
            Mistake(
                "not scaled",
                "the weights were not scaled to a mean of 1.",
                lambda rewards, beta: (rewards / beta).exp(),
            ),
            Mistake(
                "largest is 1",
                "the largest weight is 1 here. Subtracting the largest reward keeps exp finite; then still divide by the mean.",
                lambda rewards, beta: ((rewards - rewards.max()) / beta).exp(),
            ),
            Mistake(
                "times beta",
                "the rewards are multiplied by beta. A large beta is a tight leash and has to make the weights more equal: "
                "divide by it.",
                lambda rewards, beta: (rewards * beta).softmax(0) * len(rewards),
            ),
            Mistake(
                "no exponential",
                "the weights are proportional to the rewards themselves. The optimum has exp(R / beta): adding 10 to all "
                "rewards must change nothing.",
                lambda rewards, beta: _scaled(rewards),
            ),
            Mistake(
                "standardised",
                "the rewards were divided by their standard deviation first. Beta is in units of the reward; leave the reward "
                "as it is.",
                lambda rewards, beta: ((rewards - rewards.mean()) / rewards.std() / beta).softmax(0) * len(rewards),
            ),
        ),
    ),
)
