"""How far and how fast the policy moves: a KL that surges, entropy that is gone, stale ratios, a penalty without force."""

import math
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

from minigrpo.run.diagnosis.curves import FEWEST, Curve
from minigrpo.run.diagnosis.evidence import Evidence, number, percent
from minigrpo.run.diagnosis.findings import LESSONS, OPEN, WRONG, Finding

FAR = 1.0  # nats per token; a healthy run of the course stays below 0.3
ONE_ANSWER = 0.05  # nats per token: hardly anything but the likeliest token is drawn


class Fall(NamedTuple):
    """The reward, from its best stretch to the last."""

    best: float
    best_step: float
    end: float
    step: float  # where it is half lost


def jumpiness(curve: Curve) -> float:
    """Standard deviation of a row, from neighbours, so that neither a slope nor a cliff counts."""
    jumps = sorted(abs(b - a) for a, b in pairwise(curve.values))
    most = jumps[: math.ceil(0.9 * len(jumps))]
    return max(1.05 * median(jumps), 0.5 * math.sqrt(fmean(jump * jump for jump in most)))


def fall(run: Evidence) -> Fall | None:
    """A loss of reward that is far beyond chance and no trifle; the noise is that between neighbours."""
    whole = run.curve(run.goal).fresh
    if len(whole) < 3 * FEWEST:
        return None
    spread, blocks = jumpiness(whole), whole.blocks()
    best = max(range(len(blocks) - 1), key=lambda k: blocks[k].mean)
    end = blocks[-1].mean
    lost = blocks[best].mean - end
    chance = 4 * spread * math.sqrt(1 / len(blocks[best]) + 1 / len(blocks[-1]))
    trifle = 0.3 * (run.spread or (max(b.mean for b in blocks) - min(b.mean for b in blocks)))
    since = whole.since(blocks[best].steps[0])
    if lost <= trifle or (lost <= chance and since.slope_by_chance > -6):
        return None
    after = whole.since(blocks[best].steps[-1]).smooth()
    step = next((s for s, v in zip(after.steps, after.values, strict=True) if v < end + lost / 2), after.steps[-1])
    return Fall(blocks[best].mean, blocks[best].steps[0], end, step)


def surge(kl: Curve) -> tuple[float, float, float, float] | None:
    """From which KL to which it went, and between which steps; None where it stays near or only single spikes leave."""
    first, last, rows = kl.stretch(lambda value: value > FAR)
    if rows < max(FEWEST, min(8, len(kl) / 12) if last == kl.steps[-1] else len(kl) / 12):
        return None
    smooth = kl.smooth()
    top = max(v for s, v in zip(smooth.steps, smooth.values, strict=True) if first <= s <= last)
    reached = next(s for s, v in zip(smooth.steps, smooth.values, strict=True) if s >= first and v >= 0.8 * top)
    low = kl.until(first).values[:-1] or kl.values[:1]
    calm = median(low)
    left = max(
        (s for s, v in zip(kl.steps, kl.values, strict=True) if s <= first and v <= calm + 0.1 * (top - calm)),
        default=kl.steps[0],
    )
    return calm, top, left, reached


def collapse(run: Evidence) -> Finding | None:
    """The KL surges, and the reward falls or never rises: too large steps."""
    kl = run.curve("kl")
    away = surge(kl) if len(kl) >= FEWEST else None
    if away is None or run.arrived:
        return None
    lost = fall(run)
    if not lost and run.learns:
        return None
    low, high, left, reached = away
    went = f"KL {number(low)} -> {number(high)} nats per token between steps {left:g} and {reached:g}"
    reward = run.curve(run.goal)
    if lost:
        seen = f"{went}, while the reward fell from {number(lost.best)} to {number(lost.end)}"
        seen += f" (half of it lost by step {lost.step:g})"
    else:
        seen = f"{went}; the reward ends at {number(reward.end)}" if len(reward) else went
    rate = run.curve("learning_rate")
    seen += f"; learning_rate {number(max(rate.values))}." if len(rate) else "."
    back = "Start again, and" if left <= kl.steps[0] else f"Go back to a checkpoint before step {left:g}, and from there"
    return Finding(
        "collapse",
        "The KL surged and the policy collapsed: the learning rate is too large.",
        seen,
        "A few updates that were too large took the policy to where its answers score badly; what it draws there is all "
        "alike, so there is no contrast to bring it back.",
        f"{back} divide the learning_rate by 3 to 10; a higher beta or a lower max_grad_norm holds it back too. Going on "
        "from here does not help.",
        "certain" if lost else "likely",
        LESSONS["failures"],
    )


def falls_apart(run: Evidence) -> Finding | None:
    """The entropy explodes while the reward falls: gibberish, also where no KL was logged."""
    entropy, reward = run.curve("entropy"), run.change(run.goal)
    if len(entropy) < 2 * FEWEST or entropy.end < 3 * entropy.start or entropy.end < entropy.start + 1 or run.arrived:
        return None
    kl = run.curve("kl")
    if not reward or not (fall(run) or reward.falls) or (len(kl) >= FEWEST and surge(kl)):  # then the KL says it better
        return None
    grown = entropy.stretch(lambda value: value > entropy.start + 1)[0]
    return Finding(
        "falls_apart",
        "The policy falls apart: its entropy explodes.",
        f"Entropy {number(entropy.start)} -> {number(entropy.end)} nats per token, a nat above its beginning since step "
        f"{grown:g}; {run.goal} {number(reward.first)} -> {number(reward.last)}.",
        "What is drawn comes ever nearer to random tokens. Updates that are too large do that, and so does a push on what "
        "is rare: an entropy bonus, a temperature above 1, punished answers that outweigh the rewarded.",
        "Go back to a checkpoint before it; lower the learning_rate or the temperature, take out an entropy bonus, or "
        "raise beta.",
        "certain" if fall(run) else "likely",
        LESSONS["failures"],
    )


def far_away(run: Evidence) -> Finding | None:
    """A large KL while the reward is well: worth a look, no more."""
    kl = run.curve("kl")
    away = surge(kl) if len(kl) >= FEWEST else None
    if away is None or kl.end < FAR or not (run.arrived or run.learns):
        return None
    return Finding(
        "far_from_reference",
        "The policy has gone far from the reference, with a good reward.",
        f"KL {number(away[0])} -> {number(away[1])} nats per token by step {away[3]:g}, {number(kl.end)} at the end.",
        "At such a distance the text may have changed in ways that the reward does not see.",
        "Read ten completions, and score them by a measure that is not the reward; a higher beta keeps it nearer.",
        "possible",
        LESSONS["kl"],
        OPEN,
    )


def entropy_gone(run: Evidence) -> Finding | None:
    """Hardly anything but one answer is drawn, and it is not the right one."""
    entropy, silence, reward = run.curve("entropy"), run.silence, run.curve("reward")
    if len(entropy) < 2 * FEWEST or entropy.end > min(ONE_ANSWER, 0.3 * entropy.start) or run.arrived or not len(reward):
        return None
    agree = silence.part(0.8, 1).mean if len(silence) else None
    lost = fall(run)
    if run.top and run.learns and reward.part(0.8, 1).median > 0.7 * run.top and not lost:
        return None
    if agree is not None and agree < 0.8 and not lost:
        return None  # there is still something to choose from
    if run.top is None and run.learns and not lost:
        return None  # the reward may well be at its highest
    if agree is None and run.learns and not lost:
        return None
    step = entropy.stretch(lambda value: value <= ONE_ANSWER)[0]
    seen = f"Entropy {number(entropy.start)} -> {number(entropy.end)} nats per token, below {ONE_ANSWER} since step {step:g}"
    seen += f"; {percent(agree)} of the groups agree at the end" if agree is not None else ""
    seen += f"; the reward ends at {number(reward.end)}"
    return Finding(
        "entropy_gone",
        "The entropy is gone before the task was learnt.",
        seen + ".",
        "The policy draws the same answer again and again. Nothing new is tried, so groups agree and nothing is learnt. A "
        "low entropy with a high reward would be success; with this reward it is the end.",
        "Go back to a checkpoint before it, and lower the learning_rate or raise beta; epsilon_high above epsilon (0.28) "
        "or a higher temperature keeps more alternatives alive.",
        "certain" if agree is not None and agree > 0.95 else "likely",
        LESSONS["failures"],
    )


def went_silent(run: Evidence) -> Finding | None:
    """Groups that differed at first agree at the end, far from the highest reward."""
    silence, reward = run.silence, run.curve("reward")
    if len(silence) < 2 * FEWEST or silence.part(0, 0.25).mean > 0.7 or silence.part(0.8, 1).mean < 0.95 or run.arrived:
        return None
    if not len(reward) or (run.top is None and not fall(run)):
        return None
    step = silence.stretch(lambda value: value >= 0.95)[0]
    return Finding(
        "went_silent",
        f"The groups agree since step {step:g}, and the reward is not high.",
        f"Groups with equal rewards: {percent(silence.part(0, 0.25).mean)} at first, {percent(silence.part(0.8, 1).mean)} "
        f"at the end; the reward ends at {number(reward.end)}" + (f" of {number(run.top)}." if run.top else "."),
        "The answers to a prompt have become alike, so advantages are 0 and the rest of the task is out of reach.",
        "Read the completions of one group. If they are the same text, go back to an earlier checkpoint with a lower "
        "learning_rate or a higher temperature; if they differ, the prompts that are left are too hard.",
        "likely",
        LESSONS["failures"],
    )


def stale_ratios(run: Evidence) -> Finding | None:
    """Too many tokens are clipped: the rollouts are too old for the policy that learns from them."""
    clip = run.curve("clip_ratio")
    sequence = run.config.get("importance_sampling_level") == "sequence"
    if len(clip) < FEWEST or max(block.mean for block in clip.blocks(5)) < (0.6 if sequence else 0.3):
        return None
    worst = max(clip.blocks(5), key=lambda block: block.mean)
    updates = run.config.get("num_iterations")
    return Finding(
        "stale_ratios",
        "Too many tokens are clipped: the rollouts are too old.",
        f"clip_ratio is {percent(worst.mean)} at steps {worst.steps[0]:g} to {worst.steps[-1]:g}"
        + (f", with num_iterations {updates}." if updates else "."),
        "A clipped token gets no gradient. So many mean that the policy has moved far from the one that drew the "
        "completions: too many updates per rollout, a learning rate too large, or a sampler that is not the policy (stale "
        "weights, another temperature).",
        "Make fewer updates on a rollout (num_iterations, steps_per_generation) or lower the learning_rate. If there is "
        "one update per rollout, compare the sampler's log-probs with the trainer's, token by token.",
        "certain" if not sequence else "likely",
        LESSONS["clip"],
    )


def another_sampler(run: Evidence) -> Finding | None:
    """The program that samples gives tokens other probabilities than the one that learns."""
    ratio, gap = run.curve("sampling/ratio"), run.curve("sampling/difference")
    off = len(ratio) >= FEWEST and not 0.7 < ratio.median < 1.4
    apart = len(gap) >= FEWEST and gap.median > 0.3
    if not off and not apart:
        return None
    seen = [f"importance_sampling_ratio {number(ratio.median)}"] if off else []
    seen += [f"sampling_logp_difference {number(gap.median)} nats per token"] if apart else []
    return Finding(
        "another_sampler",
        "The sampler is not the policy that is trained.",
        f"Over the run {' and '.join(seen)} (the same policy would give 1 and nearly 0).",
        "Completions are drawn from other probabilities than the update believes: stale weights in the sampler, "
        "temperature or top-p in one of the two alone, or other precision.",
        "Sample and score one prompt with both, and compare log-probs token by token.",
        "likely",
        LESSONS["failures"],
    )


def penalty_without_force(run: Evidence) -> Finding | None:
    """A KL penalty that does nothing: beta times the KL is a trifle although the KL is large, or the KL is always 0."""
    kl, beta, entropy = run.curve("kl"), run.beta, run.change("entropy")
    if len(kl) >= 10 and not any(kl.values) and beta != 0:
        moved = run.learns or bool(entropy and entropy.real and abs(entropy.size) > 0.2 * abs(entropy.first))
        if not moved:
            return None
        return Finding(
            "reference_is_policy",
            "The KL is exactly 0 though the policy moves: the penalty does nothing.",
            f"kl is 0 at all {len(kl)} rows, while the {'reward rises' if run.learns else 'entropy changes'}.",
            "The reference is the policy itself: the same object, or the same adapters, or it is made anew at every step.",
            "Keep a frozen copy of the first weights as the reference (with adapters: switch them off for its pass).",
            "likely",
            LESSONS["kl"],
        )
    spread = run.spread
    if not len(kl) or not beta or not spread or kl.end < 0.5 or kl.end < 3 * abs(kl.start) or beta * kl.end > 0.02 * spread:
        return None
    return Finding(
        "weak_penalty",
        "The KL penalty is too weak to be felt.",
        f"beta {number(beta)} x KL {number(kl.end)} = {number(beta * kl.end)}, where rewards differ by {number(spread)}.",
        "The KL is measured but costs nothing, so it holds nothing back.",
        f"For a penalty that counts, beta is nearer to {number(0.1 * spread / kl.end)}; or set it to 0 and save the "
        "reference's pass.",
        "likely",
        LESSONS["kl"],
        OPEN if run.learns or run.arrived else WRONG,
    )
