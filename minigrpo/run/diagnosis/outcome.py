"""What came of it, where nothing has broken: learnt, not yet to be told, nothing moves, got worse."""

import math

from minigrpo.run.diagnosis.curves import FEWEST, Curve, noise, steps_to_see
from minigrpo.run.diagnosis.evidence import Evidence, at_steps, number, percent
from minigrpo.run.diagnosis.findings import FINE, LESSONS, OPEN, Finding
from minigrpo.run.diagnosis.motion import FAR, fall, jumpiness

STILL = 1e-3  # nats per token of KL: the policy is where it was
ENOUGH_STEPS = 50  # before a policy that stands still means anything


def nothing_moves(run: Evidence) -> Finding | None:
    """Groups differ and gradients flow, yet neither the policy nor the reward goes anywhere."""
    reward, kl, grad = run.change("reward"), run.curve("kl"), run.curve("grad_norm")
    steps = run.last_step - run.rows[0]["step"]
    if not reward or steps < ENOUGH_STEPS or len(run) < 4 * FEWEST or run.arrived or run.groups_differ is False:
        return None
    if reward.real and abs(reward.size) > 1.5 * reward.spread:
        return None
    if len(grad) and grad.median <= 0:
        return None
    if len(kl):
        top = max(kl.smooth().values)
        if top >= STILL or max(map(abs, kl.values)) == 0:  # a KL of exactly 0 says that there is no reference apart
            return None
        evidence, sure = f"KL stays below {_above(top)} nats per token", "certain"
    else:
        still = [run.change(name) for name in ("entropy", "completions/mean_length")]
        if None in still or steps < 2 * ENOUGH_STEPS or any(c.real and abs(c.size) > 0.03 * abs(c.first) for c in still):
            return None
        evidence, sure = "neither entropy nor length has changed (no KL was logged)", "likely"
    rate = run.curve("learning_rate")
    at = f", with learning_rate {number(max(rate.values))}" if len(rate) else ""
    flows = f"The gradient flows (norm {number(grad.median)})" if len(grad) else "No gradient was logged"
    return Finding(
        "nothing_moves",
        "Nothing moves: the learning rate is too small for this run.",
        f"{flows}, but in {steps:g} steps {evidence}, and the reward goes from {number(reward.first)} to "
        f"{number(reward.last)}, where single rows differ by {number(reward.spread)}{at}.",
        "There is something to learn from, and the updates are too small to show. Half precision does the same: a bf16 "
        "weight rounds small updates away.",
        "Raise the learning_rate three- to tenfold (1e-6 is for full weights of billions of parameters, adapters take 1e-5 "
        "to 1e-4), and keep the weights in float32. The KL should reach some 0.01 within a hundred steps.",
        sure,
        LESSONS["training"],
    )


def _above(value: float) -> str:
    return next(number(bound) for bound in (1e-6, 1e-5, 1e-4, 5e-4, STILL) if value < bound)


def reward_falls(run: Evidence) -> Finding | None:
    """The reward was better before, and no KL says why."""
    lost, change = fall(run), run.change(run.goal)
    slow = change and change.falls and -change.size > 0.15 * (run.spread or abs(change.first))
    if not lost and not slow:
        return None
    grad, kl, entropy = run.curve("grad_norm"), run.curve("kl"), run.change("entropy")
    if lost:
        seen = f"{run.goal} {number(lost.best)} around step {lost.best_step:g}, {number(lost.end)} at the end"
        seen += f" (half lost by step {lost.step:g})"
    else:
        seen = f"{run.goal} {number(change.first)} -> {number(change.last)}; chance explains {number(change.error)}"
    if len(grad) and grad.smooth().until(run.last_step).values and max(grad.smooth().values) > 5 * max(grad.median, 1e-12):
        seen += f"; grad_norm up to {number(max(grad.values))}, usually {number(grad.median)}"
    if len(kl):
        seen += f"; KL {number(kl.start)} -> {number(kl.end)}"
    if entropy and entropy.real:
        seen += f"; entropy {number(entropy.first)} -> {number(entropy.last)}"
    return Finding(
        "reward_falls",
        "The run gets worse: the reward falls.",
        seen + ".",
        "What was learnt is being lost. The usual cause is steps that are too large: a learning rate too high, or too many "
        "updates on a rollout; harder prompts later in the data set would look alike.",
        "Go back to the best checkpoint and go on with a lower learning_rate, a higher beta, or fewer updates per rollout. "
        "Score an early and a late checkpoint on the same held-out problems.",
        "certain" if lost else "likely",
        LESSONS["failures"],
    )


def too_short(run: Evidence) -> Finding | None:
    if len(run.curve(run.goal)) >= 2 * FEWEST:
        return None
    count = len(run.curve(run.goal))
    what = f"{count} row{'s' * (count > 1)} with a {run.goal}" if count else "no reward"
    return Finding(
        "too_short" if count else "no_reward",
        "Too few rows to see a trend." if count else "The log has no reward: what was learnt cannot be told.",
        f"The log has {what}.",
        "A mean of a few noisy numbers does not tell a rise from chance."
        if count
        else "Loss and gradient say nothing of progress.",
        f"Look again after {2 * FEWEST} rows at least, better 50." if count else "Log the mean reward.",
        "certain",
        LESSONS["noise"],
        OPEN,
    )


def noise_over_trend(run: Evidence) -> Finding | None:
    """No trend beyond the noise, and how long it would take to see one of a stated size."""
    curve, change = run.curve(run.goal), run.change(run.goal)
    if not change or run.learns or run.arrived or fall(run) or len(curve) < 2 * FEWEST:
        return None
    scale = run.spread or (max(curve.values) - min(curve.values)) or abs(curve.mean)
    size = 0.05 if run.top == 1 else float(f"{0.1 * scale:.1g}") if scale else 0.0
    spread, slow = noise(curve.values)
    rows = max(2 * FEWEST, steps_to_see(size, spread, slow))
    every = (curve.steps[-1] - curve.steps[0]) / max(1, len(curve) - 1)
    needed = f"about {float(f'{rows * every:.2g}'):g} steps" if spread else "no more steps than these"
    best = max(curve.blocks(), key=lambda block: block.mean)
    if best.mean - curve.part(0, 0.1).mean > 4 * jumpiness(curve.fresh) / math.sqrt(FEWEST):
        return _wavering(run, best)
    kl = run.curve("kl")
    moves = f" The policy does move (KL {number(kl.end)})." if len(kl) and kl.end > 0.01 else ""
    return Finding(
        "noise_over_trend",
        "The reward shows no trend beyond its noise.",
        f"{run.goal} {number(change.first)} -> {number(change.last)} over {len(curve)} rows; chance explains "
        f"{number(change.error)}, single rows differ by {number(spread)}.{moves}",
        f"So many rows cannot tell a small trend from none. A rise of {number(size)} from a run's first quarter to its last "
        f"would show in {needed} with this noise.",
        "Train longer, or lower the noise: more prompts per step (generation_batch_size), or an evaluation on the same "
        "held-out problems every so often. If it is flat after that many steps, raise the learning_rate.",
        "certain",
        LESSONS["noise"],
        OPEN,
    )


def _wavering(run: Evidence, best: Curve) -> Finding:
    curve = run.curve(run.goal)
    return Finding(
        "wavering",
        "The reward rose, and has not stayed there.",
        f"{run.goal} {number(curve.start)} at first, {number(best.mean)} at {at_steps(best.steps[0], best.steps[-1])}, "
        f"{number(curve.end)} at the end.",
        "It may be losing what it had learnt, or the last prompts were harder; so few rows do not tell.",
        "Score the checkpoints on the same held-out problems. A lower learning_rate steadies a run.",
        "likely",
        LESSONS["noise"],
        OPEN,
    )


def healthy(run: Evidence) -> Finding | None:
    """Learnt, or learning; said with what makes it so."""
    change, reward = run.change(run.goal), run.curve("reward")
    agree = run.silence.part(0.8, 1).mean if len(run.silence) else 0.0
    differed = run.silence.part(0, 0.25).mean < 0.7 if len(run.silence) else False
    done = run.arrived or (run.learns and run.top is None and agree > 0.9 and differed)
    if not change or not (done or run.learns) or fall(run):
        return None
    signs = [
        f"{run.goal} {number(change.first)} -> {number(change.last)} (chance explains {number(change.error)})",
        *_signs(run),
    ]
    if not done:
        return Finding(
            "healthy",
            "The run looks healthy.",
            "; ".join(signs) + ".",
            "The reward rises by more than its noise, and nothing else in the log speaks against it.",
            "Go on; check on held-out problems that the true score rises too.",
            "likely" if len(reward) < 20 else "certain",
            LESSONS["training"],
            FINE,
        )
    level = 0.95 * run.curve(run.goal).end
    since = run.curve(run.goal).stretch(lambda value: value >= level)[0]
    return Finding(
        "ceiling",
        "The run looks healthy: the task is learnt, the reward is at its ceiling.",
        "; ".join(signs) + f"; at its ceiling since about step {since:g}.",
        "Most groups agree that all is right, so later steps teach little. That is success, and not a fault."
        if agree > 0.7
        else "There is little left to learn from these prompts.",
        "Stop here, or take harder prompts; check the true score on held-out problems.",
        "certain" if run.top is not None else "likely",
        LESSONS["training"],
        FINE,
    )


def _signs(run: Evidence) -> list[str]:
    """What speaks for a run, of what was logged."""
    kl, cut, grad = run.curve("kl"), run.curve("completions/clipped_ratio"), run.curve("grad_norm")
    signs = [f"KL {number(kl.end)} nats per token"] if len(kl) and kl.end < FAR else []
    differ = f"{percent(1 - run.silence.part(0.8, 1).mean)} of the groups differ at the end" if len(run.silence) else ""
    signs += [differ] if len(run.curve("frac_reward_zero_std")) else []
    signs += [f"{percent(cut.end)} of the answers are cut off"] if len(cut) else []
    return signs + ([f"the gradient flows (norm {number(grad.median)})"] if len(grad) and grad.median > 0 else [])
