"""Is there anything to learn from, and does it arrive? NaN, silent groups, the gradient, the learning rate."""

from itertools import pairwise
from statistics import fmean, pstdev

from minigrpo.run.diagnosis.evidence import AT_THE_TOP, TINY, Evidence, at_steps, number, percent
from minigrpo.run.diagnosis.findings import LESSONS, OPEN, Finding

MOST = 0.75  # of the groups, from the start: hardly anything to learn from
ALL = 0.97
ENOUGH_ROWS = 10  # of a few groups each, before most of them tell of all


# --- numbers that are none --------------------------------------------------------------------------------------------


def no_numbers(run: Evidence) -> Finding | None:
    """NaN or inf in the log: where it began, and whether the training has failed."""
    broken = {name: run.curve(name).broken for name in run.names if run.curve(name).broken}
    vital = [name for name in ("loss", "grad_norm", "reward", "weighted_logprob") if name in broken]
    lasting = [name for name in vital if broken[name][-1][0] == run.last_step and _mostly(run, name)]
    if lasting:
        return _failed(run, broken, lasting)
    if "reward_std" in broken and _mostly(run, "reward_std"):
        return Finding(
            "group_of_one",
            "The spread of the rewards is NaN: a group seems to hold a single completion.",
            f"reward_std is NaN from step {broken['reward_std'][0][0]:g}, the reward a number.",
            "The standard deviation of one value is 0 / 0, and an advantage made from it is NaN too.",
            "Set num_generations to 2 at least, 8 or more for a baseline worth the name.",
            "likely",
            LESSONS["groups"],
        )
    if "kl" in broken or "entropy" in broken:
        return _of_the_reference(run, broken)
    if vital:
        return _passing(broken, vital)
    return None


def _mostly(run: Evidence, name: str) -> bool:
    """Whether the metric is no number from its first NaN to the end, give or take."""
    curve = run.curve(name)
    return len(curve.since(curve.broken[0][0])) <= 0.2 * len(curve.broken)


def _failed(run: Evidence, broken: dict, lasting: list[str]) -> Finding:
    begun = {name: pairs[0][0] for name, pairs in broken.items() if _mostly(run, name)}
    step = min(begun.values())
    first = [name for name in begun if begun[name] == step]
    before = [
        f"{name} {number(run.curve(name).until(step).part(0.9, 1).median)}"
        for name in ("reward", "kl", "grad_norm", "learning_rate")
        if len(run.curve(name).until(step)) and name not in first
    ]
    at_once = step <= run.rows[0]["step"]
    seen = f"{', '.join(first)} {'are' if len(first) > 1 else 'is'} {broken[first[0]][0][1]} from step {step:g} to the end"
    if lasting == ["reward"]:
        means = "No completion of these steps has a reward: every reward function abstained, or returned NaN itself."
        do = "Run the reward functions by hand on the completions of such a step."
    elif at_once:
        means = "It is so from the first step, before the policy has changed: the numbers come from the model or the data."
        do = "Score one batch by hand in float32: half precision overflows, and a mean over an empty mask is 0 / 0."
    else:
        means = "A NaN in the loss or the gradient gets into every weight at the next update; nothing after it counts."
        do = "Go on from a checkpoint before it, with a lower learning_rate; compute in bf16 or float32, not in fp16."
    seen += f" (before it: {', '.join(before)})." if before and not at_once else "."
    return Finding(
        "not_a_number", f"From step {step:g} on the numbers are NaN.", seen, means, do, "certain", LESSONS["failures"]
    )


def _of_the_reference(run: Evidence, broken: dict) -> Finding:
    name = "kl" if "kl" in broken else "entropy"
    pairs = broken[name]
    share = len(pairs) / (len(pairs) + len(run.curve(name)))
    sound = [other for other in ("loss", "reward", "grad_norm") if len(run.curve(other)) and other not in broken]
    cut = run.curve("completions/clipped_ratio")
    also = f"; {percent(cut.mean)} of the answers are cut off" if len(cut) and cut.mean > 0.2 else ""
    source = "of the reference (half precision, weights that did not load) or " if name == "kl" else ""
    return Finding(
        f"{name}_not_a_number",
        f"The {'KL' if name == 'kl' else name} is {pairs[0][1]}, and the rewards are real.",
        f"{name} is {pairs[0][1]} at {percent(share)} of the steps, from step {pairs[0][0]:g}; {' and '.join(sound)} are "
        f"numbers{also}.",
        f"It comes from numbers {source}of completions with no token that counts (empty, or masked out because they are cut "
        "off), whose mean is 0 / 0. The training has not failed yet: what it learns from is sound.",
        "Score one batch with policy and reference in float32 and look which completions give NaN; leave empty ones out. "
        "With beta 0 the KL is only logged.",
        "certain",
        LESSONS["kl"],
    )


def _passing(broken: dict, vital: list[str]) -> Finding:
    steps = sorted({step for name in vital for step, _ in broken[name]})
    return Finding(
        "passing_nan",
        f"{', '.join(vital)} {'are' if len(vital) > 1 else 'is'} no number at single steps.",
        f"{len(steps)} such steps, the first {steps[0]:g}, the last {steps[-1]:g}; numbers again after each.",
        "An update with such a gradient is skipped by a gradient scaler (fp16), or was lost to a step without rewards.",
        "If it comes more often as training goes on, use bf16 in place of fp16 or a lower learning_rate.",
        "likely",
        LESSONS["failures"],
        OPEN,
    )


def no_rewards(run: Evidence) -> Finding | None:
    """A run of this package, which logs the reward wherever there is one, without any."""
    ours = "num_generations" in run.config and not run.config.get("triples")
    if not ours or len(run.curve("reward")) or not len(run.silence):
        return None
    return Finding(
        "unrewarded",
        "No completion got a reward; every reward function returned None.",
        f"There is no reward at {at_steps(run.rows[0]['step'], run.last_step)}.",
        "None abstains: such a completion takes no part, and where all abstain there is nothing to learn from.",
        "Call the reward function by hand on five completions of samples.jsonl, with the columns of their rows: it may look "
        "for a column that is not there, or lack a return on one of its paths.",
        "certain",
        LESSONS["groups"],
    )


# --- groups -----------------------------------------------------------------------------------------------------------


def silent_groups(run: Evidence) -> Finding | None:
    """Groups whose rewards are all equal from the start, and why."""
    silence = run.silence
    if not len(silence) or silence.mean < MOST or silence.part(0, 0.34).mean < MOST:
        return None
    if silence.mean < ALL and (len(silence) < ENOUGH_ROWS or run.learns or (run.arrived and silence.mean < 0.9)):
        return None
    whole = silence.mean >= ALL
    gone = [name for name in ("loss", "grad_norm") if len(run.curve(name)) and max(map(abs, run.curve(name).values)) <= TINY]
    share = "all groups" if silence.mean == 1 else f"{percent(silence.mean)} of the groups"
    seen = f"The rewards of {share} are equal ({at_steps(silence.steps[0], silence.steps[-1])})"
    seen += ", and so advantage, " + " and ".join(gone) + " are 0" if gone else ""
    name, title, more, means, do = _why_silent(run, whole)
    sure = "certain" if len(silence) >= 10 and whole else "likely" if len(silence) >= 3 else "possible"
    return Finding(name, title, f"{seen}. {more}".strip(), means, do, sure, LESSONS["groups"])


def _why_silent(run: Evidence, whole: bool) -> tuple[str, str, str, str, str]:
    """Name, title, what else is seen, meaning, cure."""
    reward, logged = run.curve("reward"), run.curve("reward_std")
    groups = "All groups" if whole else "Most groups"
    if not len(reward):
        return (
            "silent", f"{groups} get equal rewards: there is nothing to learn from.", "",
            "An advantage compares an answer with its own group; where all score the same it is 0. Which reward they get is "
            "not in the log.", "Log the mean reward: near the top the prompts are too easy, near the bottom too hard.",
        )  # fmt: skip
    level = reward.mean
    between = [n for n in run.names if n.startswith("rewards/") and n.endswith("/std") and run.curve(n).mean > TINY]
    varies = len(reward) > 1 and pstdev(reward.values) > TINY
    constant = not varies and not between and not (len(logged) and logged.mean > TINY)
    if run.top and level >= AT_THE_TOP * run.top and not (constant and run.top != 1):
        return _too_easy(groups, level)
    if abs(level) <= 0.05 * (run.top or 1.0) and (constant or run.top):
        return _too_hard(groups, level)
    return _blind(level) if constant else _between_prompts(run, groups, level, between)


def _blind(level: float) -> tuple[str, str, str, str, str]:
    return (
        "blind", f"Every answer scores {number(level)}: the reward does not tell them apart.", "",
        "A reward that is the same whatever is written has no direction; all advantages are 0. It may look for a format "
        "that no answer has, compare with a column that is not there, or be at its bound for every prompt.",
        "Call the reward function by hand on a good and on a bad answer, and on five completions of this run.",
    )  # fmt: skip


def _between_prompts(run: Evidence, groups: str, level: float, between: list[str]) -> tuple[str, str, str, str, str]:
    parts = " and ".join(f"{name} {number(run.curve(name).mean)}" for name in between)
    spread = f"The spread of {parts} is" if parts else "The reward's changes from step to step are"
    same = run.same_texts or 0.0
    texts = f" In the latest samples {percent(same)} of the groups hold one text only." if same > 0.5 else ""
    return (
        "between_prompts", f"{groups} agree within: the rewards differ between prompts alone.",
        f"The mean reward is {number(level)}. {spread} between prompts, and an advantage never compares those.{texts}",
        "All answers to a prompt get the same score, so none is better than its group: every advantage is 0, whatever the "
        "spread over the batch.",
        "Bring contrast into the groups: a higher temperature or more completions per prompt, prompts that are solved "
        "sometimes, a reward with finer steps.",
    )  # fmt: skip


def _too_easy(groups: str, level: float) -> tuple[str, str, str, str, str]:
    return (
        "too_easy", f"{groups} succeed throughout: the prompts are too easy.", f"The mean reward is {number(level)}.",
        "Where all answers are right, none is better than its group: every advantage is 0.",
        "Take harder prompts, or leave out those that the model always solves; if the answers are not that good, the "
        "reward is too generous.",
    )  # fmt: skip


def _too_hard(groups: str, level: float) -> tuple[str, str, str, str, str]:
    return (
        "too_hard", f"{groups} fail throughout: the prompts are too hard, or the reward never finds the answer.",
        f"The mean reward is {number(level)}.",
        "Where no answer of a group is right, none is better than its group: every advantage is 0.",
        "Read ten completions. If some are right, mend the reward's parser; if none is, take easier prompts, more "
        "completions per prompt, a reward for parts, or teach the format by fine-tuning first.",
    )  # fmt: skip


# --- gradient and learning rate -----------------------------------------------------------------------------------------


def no_gradient(run: Evidence) -> Finding | None:
    """A gradient of 0 though there is something to learn from."""
    grad = run.curve("grad_norm")
    if len(grad) < 3 or fmean(value <= TINY for value in grad.values) < 0.9 or run.groups_differ is False:
        return None
    spread = run.curve("reward_std")
    known = run.groups_differ is True
    if not known and not (len(spread) and spread.median > TINY):
        return Finding(
            "gradient_unexplained",
            "The gradient is 0, and the log does not say whether the groups agree.",
            f"grad_norm is 0 at {at_steps(grad.steps[0], grad.steps[-1])}; neither frac_reward_zero_std nor reward_std is "
            "there.",
            "Either all rewards of each group are equal, or no weight is trained.",
            "Log frac_reward_zero_std; print the rewards of one group, and the parameters with requires_grad.",
            "certain",
            LESSONS["groups"],
            OPEN,
        )
    shown = (
        f"{percent(1 - run.silence.mean)} of the groups have rewards that differ"
        if known
        else f"reward_std is {number(spread.median)} (if that is taken within the groups)"
    )
    return Finding(
        "nothing_trainable",
        "The gradient is 0 though the groups differ: no weight is trained.",
        f"grad_norm is 0 at {at_steps(grad.steps[0], grad.steps[-1])}, while {shown}.",
        "There are advantages, but they do not reach a weight: everything is frozen, an adapter is not attached, log-probs "
        "were made under no_grad or detached, or every token is masked out.",
        "Count the parameters with requires_grad and in the optimizer; after one backward pass, look at .grad of one of them.",
        "certain" if known and len(grad) >= 10 else "likely",
        LESSONS["training"],
    )


def learning_rate_zero(run: Evidence) -> Finding | None:
    rate = run.curve("learning_rate")
    if len(rate) < 3 or max(rate.values) > 0:
        return None
    return Finding(
        "learning_rate_zero",
        "The learning rate is 0: nothing can change.",
        f"learning_rate is 0 at all {len(rate)} rows ({at_steps(rate.steps[0], rate.steps[-1])}).",
        "Every update is multiplied by it. A schedule may have ended, warm-up may be as long as the run, or the value was "
        "rounded away in the configuration.",
        "Set learning_rate (1e-6 for full weights of billions of parameters, 1e-5 for adapters), and look at the schedule.",
        "certain",
        LESSONS["training"],
    )


def warming_up(run: Evidence) -> Finding | None:
    """A log that ends while the learning rate still rises from nearly 0: that nothing moves says nothing yet."""
    rate = run.curve("learning_rate")
    if len(rate) < 3 or run.learns or rate.values[-1] < max(rate.values):
        return None
    rising = all(b >= a for a, b in pairwise(rate.values))
    if not rising or rate.values[-1] < 3 * max(rate.values[0], TINY * rate.values[-1]):
        return None
    return Finding(
        "warming_up",
        "The learning rate is still warming up: too early to judge.",
        f"learning_rate rises from {number(rate.values[0])} to {number(rate.values[-1])} up to the last row, step "
        f"{rate.steps[-1]:g}.",
        "Updates are still smaller than they will be, so a reward that stands still says nothing yet.",
        "Look again some fifty steps after the warm-up has ended.",
        "certain",
        LESSONS["noise"],
        OPEN,
    )
