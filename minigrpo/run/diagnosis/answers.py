"""What the answers show: cut off or endless, longer or shorter for nothing, paid for something else than being right."""

import re

from minigrpo.run.diagnosis.curves import FEWEST, Curve
from minigrpo.run.diagnosis.evidence import Evidence, at_steps, number, percent
from minigrpo.run.diagnosis.findings import LESSONS, OPEN, WRONG, Finding
from minigrpo.run.diagnosis.motion import surge

NEARLY_ALL = 0.9
ENOUGH_ROWS = 20  # before a length that moves without the reward means anything: the reward is noisier, and follows later
MANY = 0.2  # of the answers: enough to hold a run back
RIGHT = re.compile(r"acc|correct|exact|answer|right|solve|success|pass|result|outcome|verif|math|truth|quality", re.I)
SECONDARY = re.compile(r"format|length|len|penalt|tag|xml|style|repetition|brev|concise|language|structure|overlong", re.I)


# --- cut off ----------------------------------------------------------------------------------------------------------


def cut_off(run: Evidence) -> Finding | None:
    """Answers that reach the limit: all, more and more, or so many in the first steps that the task cannot be learnt."""
    cut = run.curve("completions/clipped_ratio")
    if not len(cut):
        return _all_of_one_length(run)
    if _after_a_surge(run, cut):
        return None
    early, late = cut.part(0, 0.2).mean, cut.part(0.8, 1).mean
    change = run.change(run.goal)
    gain = change.size if run.learns else 0.0
    learnt = run.learns and gain > 0.4 * (run.spread or 0)
    if cut.mean >= NEARLY_ALL or (late >= NEARLY_ALL and run.learns and late > early):
        return _paid_unfinished(run, cut) if run.learns else _all_cut_off(run, cut)
    if late > 0.4 and late - early > 0.25 and len(cut) >= 2 * FEWEST:
        return _endless(run, cut, early, late)
    if max(early, cut.mean) >= (2 * MANY if run.learns and late > 0.5 * early else MANY) and not learnt and not run.arrived:
        return _many_cut_off(run, cut, early, late)
    gone = run.change("completions/clipped_ratio")
    if gone and gone.falls and early >= 0.03 and late < 0.5 * early and not run.learns and not run.arrived:
        return _learnt_to_be_short(run, early, late)
    return None


def endless_after_collapse(run: Evidence) -> Finding | None:
    """Answers that are cut off since the KL surged: the policy fell apart, and the limit is not to blame."""
    cut = run.curve("completions/clipped_ratio")
    if not len(cut) or not _after_a_surge(run, cut):
        return None
    return _endless(run, cut, cut.values[0], cut.part(0.8, 1).mean)


def _after_a_surge(run: Evidence, cut: Curve) -> bool:
    away = surge(run.curve("kl")) if len(run.curve("kl")) >= FEWEST else None
    begun = next((step for step, value in zip(cut.steps, cut.smooth().values, strict=True) if value >= MANY), None)
    return away is not None and begun is not None and begun > away[2]


def _limit(run: Evidence) -> str:
    limit = run.config.get("max_completion_length")
    longest = run.curve("completions/max_length").values or run.curve("completions/mean_length").values
    return f" at {limit} tokens" if limit else f" at about {max(longest):.0f} tokens" if longest else ""


def _all_cut_off(run: Evidence, cut: Curve) -> Finding:
    ended = run.curve("completions/mean_terminated_length")
    never = cut.mean == 1 or (len(ended) > 0 and max(ended.values) == 0)
    reward = run.curve("reward")
    which = "Every answer" if cut.mean == 1 else "Nearly every answer"
    seen = f"{percent(cut.mean)} of the completions are cut off{_limit(run)} ({at_steps(cut.steps[0], cut.steps[-1])})"
    seen += ", none ends by itself" if never else ""
    seen += f"; the mean reward is {number(reward.mean)}." if len(reward) else "."
    return Finding(
        "cut_off",
        f"{which} is cut off.",
        seen,
        "An answer that does not come to its end cannot be scored for what it would have said, and its end is never "
        "learnt: EOS is not reached, so nothing rewards it.",
        "Raise max_completion_length until most answers end; or take a prompt, a chat template or a model that comes to an "
        "end (check that the tokenizer's eos_token is the one that the model writes).",
        "certain" if len(cut) >= 3 else "likely",
        LESSONS["length"],
    )


def _paid_unfinished(run: Evidence, cut: Curve) -> Finding:
    change = run.change(run.goal)
    return Finding(
        "paid_unfinished",
        "Nearly all answers are cut off, and the reward rises all the same.",
        f"Cut off: {percent(cut.part(0, 0.2).mean)} at first, {percent(cut.part(0.8, 1).mean)} at the end, while the reward "
        f"rose from {number(change.first)} to {number(change.last)}.",
        "The reward pays for answers that are not finished: what it measures is not what you want.",
        "Read ten completions and score them by hand; give nothing for an answer that has no end. Then raise "
        "max_completion_length.",
        "likely",
        LESSONS["true score"],
    )


def _endless(run: Evidence, cut: Curve, early: float, late: float) -> Finding:
    length = run.curve("completions/mean_length")
    longer = f"; mean length {number(length.start)} -> {number(length.end)} tokens" if len(length) else ""
    return Finding(
        "endless",
        "The answers grow until they are cut off.",
        f"Cut off: {percent(early)} at first, {percent(late)} at the end{_limit(run)}{longer}.",
        "The policy forgets to end. Its EOS gets no gradient (masked out with the padding, where pad and EOS are one "
        "token), or length is what is paid: a mean over each completion's tokens (loss_type grpo) punishes long wrong "
        "answers less.",
        "Check that the mask holds the first EOS; take loss_type dr_grpo or dapo; give nothing for what is cut off.",
        "likely",
        LESSONS["length"],
        OPEN if run.learns else WRONG,
    )


def _many_cut_off(run: Evidence, cut: Curve, early: float, late: float) -> Finding:
    length = run.change("completions/mean_length")
    shorter = bool(length and length.falls and length.last < 0.8 * length.first)
    means = "A reward that looks for an answer at the end finds none in what is cut off"
    if shorter and late < early:
        means += ", and the policy learns to be short instead of right. The share falls as if the trouble went away: "
        means += "look at the first steps."
    else:
        means += ", whatever it would have said; a reward for length pays most for it. These groups are judged by their length."
    seen = f"Cut off: {percent(early)} at first, {percent(late)} at the end{_limit(run)}"
    seen += f"; mean length {number(length.first)} -> {number(length.last)} tokens." if length else "."
    return Finding(
        "cut_off",
        "Many answers are cut off before their end.",
        seen,
        means,
        "Raise max_completion_length until few answers reach it in the first steps, or ask for shorter ones in the prompt.",
        "likely",
        LESSONS["length"],
        OPEN if run.learns and not shorter else WRONG,
    )


def _learnt_to_be_short(run: Evidence, early: float, late: float) -> Finding:
    return Finding(
        "cut_off",
        "Some answers were cut off at first, and then no longer; the reward does not rise.",
        f"Cut off: {percent(early)} at first, {percent(late)} at the end{_limit(run)}, with a reward that stands still.",
        "If the answers that reach the limit are those that work the problem out, most rewards find nothing in them, and "
        "the policy learns not to try. The log alone does not say which they are.",
        "Read what was cut off in the first steps. If those are the better attempts, raise max_completion_length.",
        "possible",
        LESSONS["length"],
        OPEN,
    )


def _all_of_one_length(run: Evidence) -> Finding | None:
    """Where no share of cut-off answers was logged: a mean length that never changes is the limit's."""
    length, longest = run.curve("completions/mean_length"), run.curve("completions/max_length")
    limit = run.config.get("max_completion_length")
    if len(length) < 5 or run.learns or run.arrived:
        return None
    same = max(length.values) - min(length.values) <= 0.005 * max(length.values) and length.mean >= 8
    full = bool(limit and length.mean >= 0.99 * limit)
    if not (full or (same and (not len(longest) or longest.mean <= 1.005 * length.mean))):
        return None
    return Finding(
        "cut_off",
        "All answers have the same length: they seem to be cut off.",
        f"The mean length is {number(length.mean)} tokens at all {len(length)} rows"
        + (f", the limit {limit}." if limit else "."),
        "Answers that end by themselves differ in length. What reaches the limit has no end and cannot be scored.",
        "Look whether completions end with EOS; raise max_completion_length.",
        "certain" if full else "likely",
        LESSONS["length"],
    )


# --- length -----------------------------------------------------------------------------------------------------------


def length_without_reward(run: Evidence) -> Finding | None:
    """Answers that become much shorter or longer while the reward does not rise."""
    length = run.change("completions/mean_length")
    if not length or not length.real or run.learns or run.arrived or length.first <= 0:
        return None
    ratio = length.last / length.first
    reward = run.change(run.goal)
    if 0.6 < ratio < 1.6 or len(run) < ENOUGH_ROWS or (reward and reward.size > 0.08 * (run.spread or reward.spread)):
        return None
    shorter = ratio < 1
    # Whether the noise could hide a rise that counts.
    certain = not reward or reward.size + reward.error < 0.3 * (run.spread or reward.spread)
    seen = f"Mean length {number(length.first)} -> {number(length.last)} tokens (chance explains {number(length.error)})"
    seen += f", reward {number(reward.first)} -> {number(reward.last)}." if reward else "."
    return Finding(
        "shrinking" if shorter else "growing",
        f"The answers get {'shorter' if shorter else 'longer'}, and no rise of the reward shows.",
        seen,
        "Length moves by itself: short answers are the safe ones where long ones are cut off or penalised, or where trying "
        "earns nothing."
        if shorter
        else "A mean over each completion's tokens (loss_type grpo) punishes a long wrong answer less, token by token, "
        "than a short one: wrong answers grow. It is easily taken for deeper thought.",
        "Look at the lengths of right and of wrong answers apart, and whether a reward or the limit pays for being short."
        if shorter
        else "Take loss_type dr_grpo or dapo, and compare the lengths of right and of wrong answers.",
        "likely" if certain else "possible",
        LESSONS["length"],
        WRONG if certain else OPEN,
    )


# --- two rewards that part --------------------------------------------------------------------------------------------


def rewards_part(run: Evidence) -> Finding | None:
    """The reward rises and what it stands for falls."""
    rise = run.change(run.goal)
    if not rise or not run.learns:
        return None
    witness = _true_score(run) or _component(run)
    if witness is None:
        return None
    name, first, last, sure = witness
    return Finding(
        "rewards_part",
        "The reward rises and the true score falls." if sure != "possible" else "Two rewards part: one rises, one falls.",
        f"{run.goal} {number(rise.first)} -> {number(rise.last)}, while {name} fell from {number(first)} to {number(last)}.",
        "The policy does what it is paid for, and that is something else than being right: the reward has a leak, or a "
        "part that is cheaper to earn outweighs the rest. No number made from the reward alone can show it.",
        "Read ten completions with a high reward. Then close the leak (parse strictly, give nothing for what cannot be "
        "parsed) or change reward_weights; go on from a checkpoint before the two parted.",
        sure,
        LESSONS["true score"],
        OPEN if sure == "possible" else WRONG,
    )


def _true_score(run: Evidence) -> tuple[str, float, float, str] | None:
    if run.scores and run.scores[0] - run.scores[1] > run.scores[2]:
        return "accuracy on held-out problems", run.scores[0], run.scores[1], "certain"
    for name in ("accuracy", *(name for name in run.names if name.startswith("eval/"))):
        change = run.change(name)
        if change and change.falls and -change.size > 0.15 * abs(change.first):
            return name, change.first, change.last, "certain"
    return None


def _component(run: Evidence) -> tuple[str, float, float, str] | None:
    """A reward function whose score falls; those that measure rightness first, those that measure form never."""
    for name in sorted(run.rewards, key=lambda name: not RIGHT.search(name)):
        change, function = run.change(name), name.split("/")[1]
        if not change or not change.falls or (SECONDARY.search(function) and not RIGHT.search(function)):
            continue
        scale = run.curve(name.removesuffix("mean") + "std")
        large = -change.size > 0.2 * abs(change.first) or (len(scale) > 0 and -change.size > 0.5 * scale.median)
        if large and -change.size > 2 * change.spread / len(run.curve(name)) ** 0.5:
            return function, change.first, change.last, "likely" if RIGHT.search(function) else "possible"
    return None
