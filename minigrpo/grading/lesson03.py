"""03, the loss: the question that the lesson asks in its own cells."""

import torch

from minigrpo import loss as package
from minigrpo.grading.ex03 import COLUMNS, EXTREME, ROWS
from minigrpo.grading.questions import Case, Mistake, Question, draw_normal


def _clip_cases(generator):
    signs = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)
    corners = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5], dtype=torch.float64).expand(3, -1).clone()
    drawn = draw_normal(generator, ROWS, COLUMNS, spread=0.4).clamp(-0.2, 0.2).exp() * torch.tensor(
        [0.6, 0.9, 1.0, 1.1, 1.7], dtype=torch.float64
    )
    sizes = 0.5 + torch.rand(ROWS, 1, generator=generator, dtype=torch.float64)
    flipped = draw_normal(generator, 1, COLUMNS, spread=0.4).exp() * EXTREME.exp()
    none = {"epsilon": 0.2, "epsilon_high": 0.0}
    wide = {"epsilon": 0.2, "epsilon_high": 0.28}
    cases = (
        ("ratios on both sides of the band, advantages of both signs", drawn, signs * sizes, {"epsilon": 0.1}),
        ("ratios of 0.5 to 1.5 with the advantages 1, -1 and 0", corners, signs, {"epsilon": 0.2}),
        ("a band that is wider above than below", drawn + 0.003, signs * sizes, wide),
        ("a band that ends at 1: epsilon_high is 0", drawn, signs * sizes, none),
        ("ratios from e^-25 to e^25", flipped.expand(3, -1), signs * sizes, {"epsilon": 0.2, "epsilon_high": None}),
        ("one ratio per completion, the sequence level", drawn[:, 3:4] + 0.3, signs * sizes, {"epsilon": 0.003}),
    )
    return [Case(about, {"ratio": r, "advantages": a} | rest, gradient=("ratio",)) for about, r, a, rest in cases]


def _clip(change):
    """A wrong version made of the ratio times the advantage, with the clip and without, and the advantage."""

    def clipped_objective(ratio, advantages, epsilon, epsilon_high=None):
        upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
        return change(ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages, advantages)

    return clipped_objective


def _same_width(ratio, advantages, epsilon, epsilon_high=None):
    return package.clipped_objective(ratio, advantages, epsilon)


def _band_around_zero(ratio, advantages, epsilon, epsilon_high=None):
    high = epsilon if epsilon_high is None else epsilon_high
    return torch.minimum(ratio * advantages, ratio.clamp(-epsilon, high) * advantages)


QUESTIONS = (
    Question(
        id="03.1",
        name="clipped_objective",
        points=0,
        cases=_clip_cases,
        reference=package.clipped_objective,
        hints=(
            "Compute two candidates, ratio times advantage with the ratio as it is and with the ratio held in the band. "
            "Be pessimistic.",
            "The band goes from 1 - epsilon to 1 + epsilon_high, where epsilon_high is epsilon if it is None.",
            "torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages), for both signs of the advantage.",
        ),
        mistakes=(
            Mistake(
                "maximum",
                "this is the larger of the two. It silences the corrections and lets the pushes go on; the objective is "
                "the smaller.",
                _clip(lambda free, held, advantages: torch.maximum(free, held)),
            ),
            Mistake(
                "the maximum where the advantage is negative",
                "for negative advantages the larger of the two was taken. The advantage's sign turns the order round by "
                "itself: "
                "take the smaller for both signs.",
                _clip(
                    lambda free, held, advantages: torch.where(advantages >= 0, torch.min(free, held), torch.max(free, held))
                ),
            ),
            Mistake(
                "the clip alone",
                "the ratio was clipped and no minimum taken, so a good token that has become rare is not pulled back up. "
                "Take the smaller of this and ratio * advantage.",
                _clip(lambda free, held, advantages: held),
            ),
            Mistake(
                "no clip",
                "nothing was clipped: this is ratio * advantage. Compare it with what the clipped ratio gives, take the "
                "smaller.",
                _clip(lambda free, held, advantages: free),
            ),
            Mistake(
                "epsilon_high not used",
                "the band is right where both sides are the same; where epsilon_high is given, its upper edge is 1 + "
                "epsilon_high.",
                _same_width,
            ),
            Mistake(
                "a band around 0",
                "the ratio was held between -epsilon and epsilon. The band lies around 1, the ratio of a policy that has "
                "not moved.",
                _band_around_zero,
            ),
            Mistake(
                "the loss",
                "this is the loss, with a minus sign. The objective is what should become large; the minus sign comes later.",
                _clip(lambda free, held, advantages: -torch.minimum(free, held)),
            ),
        ),
    ),
)
