"""How many records count: the weights exp(R / beta) of scored records can leave a handful, which is then learnt by heart."""

import math

from torch import Tensor

from minigrpo.triples import optimum_weights


def effective_records(weights: Tensor) -> float:
    """(N,) -> how many of N records count (Kish's effective sample size): N for equal weights, 1 if one has all the weight."""
    weights = weights.double()
    return (weights.sum() ** 2 / (weights**2).sum()).item()


def proposed_beta(rewards: Tensor, beta: float) -> float:
    """The smallest of ..., 0.5, 1, 2, 5, 10, ... from ``beta`` on at which as many records count as ``wanted_records`` says.

    There is one: the larger beta, the more records count, and in the end all do.
    """
    for power in range(math.floor(math.log10(beta)), 40):
        for digit in (1, 2, 5):
            nice = float(f"{digit}e{power}")
            if nice >= beta and effective_records(optimum_weights(rewards.double(), nice)) >= wanted_records(len(rewards)):
                return nice
    raise ValueError("rewards must be finite float32 numbers.")


def wanted_records(count: int) -> float:
    """A tenth of all, and at least 2; of fewer than 8 a quarter: below that, the policy learns single records by heart."""
    return max(count / 10, min(2.0, count / 4))


def weight_warning(rewards: Tensor, beta: float) -> str | None:
    """(N,) -> a sentence, if exp(R / beta) leaves fewer records than ``wanted_records``; else None."""
    effective = effective_records(optimum_weights(rewards.double(), beta))
    if effective >= wanted_records(len(rewards)):
        return None
    better = proposed_beta(rewards, beta)
    then = effective_records(optimum_weights(rewards.double(), better))
    return (
        f"Of {len(rewards)} records only {effective:.1f} count ({effective / len(rewards):.1%}): with rewards from "
        f"{rewards.min():g} to {rewards.max():g} and beta {beta:g}, exp(reward / beta) gives the others next to no weight, and "
        f"the policy learns a few by heart; with beta {better:g}, {then:.1f} would count."
    )
