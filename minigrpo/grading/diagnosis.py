"""ex05.1: runs that went well or wrong, drawn as curves, and what happened to them."""

import torch

from minigrpo.grading.questions import Case, Mistake, Question

HEALTHY, GAMED, NOTHING, COLLAPSED, DIVERGED = range(5)
NOISE = 0.03


def _draw(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _curve(generator: torch.Generator, start: float, end: float, steps: int, late: bool) -> torch.Tensor:
    """An S from start to end, done after two thirds of the steps, with noise."""
    turn, width = 0.45 if late else _draw(generator, 0.25, 0.45), 0.06
    rise = torch.sigmoid((torch.linspace(0, 1, steps, dtype=torch.float64) - turn) / width)
    return start + (end - start) * rise + NOISE * torch.randn(steps, generator=generator, dtype=torch.float64)


def run_of(generator: torch.Generator, kind: int, *, edge: bool = False, stays: bool = False) -> dict[str, torch.Tensor]:
    """Four curves of a run of this kind, drawn so that a wrong threshold or mean shows each time.

    One in three is on an ``edge``: it turns late; gamed, its KL is large and its accuracy falls; diverged, its KL ends just
    above 3. One in three ``stays``: gamed, its accuracy is what it was.
    """
    steps = int(torch.randint(60, 200, (), generator=generator))
    rise, fall = _draw(generator, 0.75, 0.95), _draw(generator, 0.0, 0.15)
    ends = {
        HEALTHY: (rise, rise - 0.03, _draw(generator, 0.3, 1.2), _draw(generator, 0.3, 0.6)),
        GAMED: (
            rise,
            0.3 if stays else _draw(generator, 0.05, 0.12 if edge else 0.32),
            _draw(generator, 3.2, 4.5) if edge else _draw(generator, 0.5, 2.5),
            _draw(generator, 0.05, 0.6),
        ),
        NOTHING: (0.3, 0.3, 0.0, 1.0),
        COLLAPSED: (_draw(generator, 0.2, 0.42), _draw(generator, 0.1, 0.4), _draw(generator, 0.5, 2.5), 0.0),
        DIVERGED: (fall, fall, _draw(generator, *((3.2, 3.6) if edge else (3.5, 9.0))), _draw(generator, 0.4, 4.0)),
    }[kind]
    names, starts = ("reward", "accuracy", "kl", "entropy"), (0.3, 0.3, 0.0, 1.0)
    curves = {n: _curve(generator, a, b, steps, edge) for n, a, b in zip(names, starts, ends, strict=True)}
    return {name: curve.clamp(min=0.0) for name, curve in curves.items()}


def _cases(generator):
    order = torch.randperm(15, generator=generator).tolist()  # three runs of each kind
    return [
        Case(f"run {number} of 15", run_of(generator, kind % 5, edge=kind < 5, stays=5 <= kind < 10))
        for number, kind in enumerate(order, 1)
    ]


def _end(curve: torch.Tensor) -> float:
    return curve[-len(curve) // 4 :].mean().item()


def diagnose_run(reward, accuracy, kl, entropy):
    """Which of the five kinds a run is, by the last quarter of its curves."""
    if _end(reward) > 0.55:
        return HEALTHY if _end(accuracy) > 0.5 else GAMED
    if _end(kl) > 2.75 and _end(reward) < 0.3:
        return DIVERGED
    return COLLAPSED if _end(entropy) < 0.2 else NOTHING


def _reward_alone(reward, accuracy, kl, entropy):
    kind = diagnose_run(reward, accuracy, kl, entropy)
    return HEALTHY if kind == GAMED else kind


def _without_entropy(reward, accuracy, kl, entropy):
    kind = diagnose_run(reward, accuracy, kl, entropy)
    return NOTHING if kind == COLLAPSED else kind


def _kl_alone(reward, accuracy, kl, entropy):
    return DIVERGED if _end(kl) > 2.75 else diagnose_run(reward, accuracy, kl, entropy)


QUESTIONS = (
    Question(
        id="ex05.1",
        name="diagnose_run",
        points=3,
        read="notebook 05",
        cases=_cases,
        reference=diagnose_run,
        hints=(
            "Which curve tells a gamed run from a healthy one? Which one a collapsed run from one that learnt nothing?",
            "Take the mean of the last quarter of each curve, so that noise hardly matters, and ask in order: did the reward "
            "rise? If so, did the accuracy? If not, did it fall with a large KL? If not, is the entropy gone?",
            "end = curve[-len(curve) // 4 :].mean(). Reward above 0.55: 0 if the accuracy is above 0.5, else 1. Else, KL above "
            "2.75 and reward below 0.3: 4. Else entropy below 0.2: 3, else 2.",
        ),
        mistakes=(
            Mistake(
                "the reward is believed",
                "a run whose reward rises while its held-out accuracy does not is called healthy. It is gamed.",
                _reward_alone,
            ),
            Mistake(
                "the entropy is not looked at",
                "a collapsed run is called one that learnt nothing. Its entropy is gone.",
                _without_entropy,
            ),
            Mistake(
                "any large KL diverges",
                "every run with a large KL is called diverged. A gamed one may be as far away; look at the reward, too.",
                _kl_alone,
            ),
        ),
    ),
)
