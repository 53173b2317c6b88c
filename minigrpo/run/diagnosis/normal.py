"""What looks alarming and is normal."""

from collections.abc import Iterator
from statistics import fmean

from minigrpo.run.diagnosis.curves import FEWEST
from minigrpo.run.diagnosis.evidence import Evidence, number, percent
from minigrpo.run.diagnosis.findings import LESSONS, NORMAL, Finding
from minigrpo.run.diagnosis.motion import FAR, surge


def normal(run: Evidence) -> Iterator[Finding]:
    """Each of these that the log shows."""
    for check in (
        small_loss,
        rising_loss,
        no_clipping,
        kl_spikes,
        negative_kl,
        low_entropy,
        late_silence,
        decayed,
        negative_reward,
    ):
        said = check(run)
        if said:
            title, seen, means, lesson = said
            yield Finding(check.__name__, title, seen, means, "", "certain", LESSONS[lesson], NORMAL)


def _flows(run: Evidence) -> bool:
    grad = run.curve("grad_norm")
    return len(grad) > 0 and grad.median > 0


def small_loss(run: Evidence) -> tuple[str, str, str, str] | None:
    loss = run.curve("loss")
    if not len(loss) or not _flows(run):
        return None
    if abs(loss.median) < 1e-3 and fmean(abs(v) < 0.01 for v in loss.values) > 0.6:
        return (
            "A loss near 0 is normal.", f"Loss {number(loss.median)}, gradient norm {number(run.curve('grad_norm').median)}.",
            "The ratio is 1 and a group's advantages sum to 0, so the value is 0, but its gradient is not. The loss says "
            "nothing of progress.", "loss is 0",
        )  # fmt: skip
    small = [value for value in loss.values if abs(value) < 1]
    if min(loss.values) < 0 and abs(loss.median) < 1:
        value, step = max(zip(loss.values, loss.steps, strict=True), key=lambda pair: abs(pair[0]))
        more = len(loss) - len(small)
        spikes = f" at {len(small)} of {len(loss)} rows, and spikes up to {number(value)} (step {step:g})" if more else ""
        return (
            "A small loss of either sign is normal.", f"Loss {number(min(small))} to {number(max(small))}{spikes}.",
            "Advantages cancel only where every answer weighs the same, and the KL penalty comes on top; a token that the "
            "policy has nearly given up can make it spike. The loss is not to be read as progress.", "loss is 0",
        )  # fmt: skip
    return None


def rising_loss(run: Evidence) -> tuple[str, str, str, str] | None:
    loss, kl = run.change("loss"), run.change("kl")
    if not loss or not kl or not loss.rises or not kl.rises or not (run.learns or run.arrived):
        return None
    return (
        "A loss that rises with the KL is normal.", f"Loss {number(loss.first)} -> {number(loss.last)}, KL "
        f"{number(kl.first)} -> {number(kl.last)}.",
        "Its policy part stays near 0; what is left is beta times the KL, which grows as the policy learns.", "loss is 0",
    )  # fmt: skip


def no_clipping(run: Evidence) -> tuple[str, str, str, str] | None:
    clip = run.curve("clip_ratio")
    if len(clip) < FEWEST or any(clip.values) or run.config.get("num_iterations", 1) > 1:
        return None
    return (
        "A clip ratio of 0 is normal.", f"clip_ratio is 0 at all {len(clip)} rows.",
        "With one update per rollout the ratio is exactly 1, and nothing can be clipped. With several (num_iterations "
        "above 1) it would mean that the old log-probs are made anew at each.", "clip",
    )  # fmt: skip


def kl_spikes(run: Evidence) -> tuple[str, str, str, str] | None:
    kl = run.curve("kl")
    high = [(value, step) for step, value in zip(kl.steps, kl.values, strict=True) if value > max(0.5, 10 * abs(kl.median))]
    if len(kl) < 2 * FEWEST or not high or surge(kl) or kl.end > FAR:
        return None
    value, step = max(high)
    return (
        "Single spikes of the KL are normal.", f"{len(high)} of {len(kl)} rows, up to {number(value)} at step {step:g}; "
        f"the median is {number(kl.median)}.",
        "k3 weighs a token heavily that the policy has nearly given up. Several such steps in a row would not be normal.",
        "kl",
    )  # fmt: skip


def negative_kl(run: Evidence) -> tuple[str, str, str, str] | None:
    kl = run.curve("kl")
    if not len(kl) or min(kl.values) >= 0 or min(kl.values) < -0.1:
        return None
    return (
        "A KL slightly below 0 is normal.", f"As low as {number(min(kl.values))}.",
        "k1 is an estimate from the sampled tokens: right on average, and near the reference at times negative.", "kl",
    )  # fmt: skip


def low_entropy(run: Evidence) -> tuple[str, str, str, str] | None:
    entropy = run.curve("entropy")
    if len(entropy) < 2 * FEWEST or entropy.end > 0.3 * entropy.start or not (run.arrived or run.learns):
        return None
    return (
        "An entropy that falls as the reward rises is normal.",
        f"Entropy {number(entropy.start)} -> {number(entropy.end)} nats per token.",
        "The policy has decided, and for what is rewarded.", "failures",
    )  # fmt: skip


def late_silence(run: Evidence) -> tuple[str, str, str, str] | None:
    silence = run.silence
    if len(silence) < 2 * FEWEST or silence.part(0.8, 1).mean < 0.7 or silence.part(0, 0.25).mean > 0.7 or not run.learns:
        return None
    return (
        "Groups that agree late in a run are normal.",
        f"{percent(silence.part(0, 0.25).mean)} at first, {percent(silence.part(0.8, 1).mean)} at the end, with a reward of "
        f"{number(run.curve(run.goal).end)}.",
        "They agree that all answers are right: there is little left to learn.", "groups",
    )  # fmt: skip


def decayed(run: Evidence) -> tuple[str, str, str, str] | None:
    rate = run.curve("learning_rate")
    if len(rate) < 2 * FEWEST or rate.values[-1] > 0.1 * max(rate.values) or max(rate.values) <= 0:
        return None
    return (
        "A learning rate that decays to 0 is a schedule.", f"{number(max(rate.values))} -> {number(rate.values[-1])}.",
        "The last steps move little, as they are meant to.", "training",
    )  # fmt: skip


def negative_reward(run: Evidence) -> tuple[str, str, str, str] | None:
    reward = run.curve("reward")
    if not len(reward) or reward.mean >= 0 or not run.learns:
        return None
    return (
        "A reward below 0 is normal.", f"Mean reward {number(reward.mean)}.",
        "Only differences within a group count; a constant that is added changes no advantage.", "groups",
    )  # fmt: skip
