"""The diagnosis: every check, in the order in which to act, causes before what follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from minigrpo.config import BadInput
from minigrpo.run.diagnosis import answers, motion, outcome, signal
from minigrpo.run.diagnosis.evidence import Evidence
from minigrpo.run.diagnosis.findings import FINE, OPEN, WRONG, Diagnosis, Finding
from minigrpo.run.diagnosis.normal import normal
from minigrpo.run.diagnosis.rows import understand

# What comes first is to be mended first: until then the later ones cannot be judged.
CHECKS = (
    signal.no_numbers,
    signal.no_rewards,
    answers.rewards_part,
    motion.falls_apart,
    answers.cut_off,
    motion.collapse,
    answers.endless_after_collapse,
    signal.learning_rate_zero,
    signal.no_gradient,
    signal.silent_groups,
    motion.another_sampler,
    motion.stale_ratios,
    motion.entropy_gone,
    outcome.reward_falls,
    motion.went_silent,
    motion.penalty_without_force,
    outcome.nothing_moves,
    answers.length_without_reward,
    signal.warming_up,
    motion.far_away,
    outcome.too_short,
    outcome.noise_over_trend,
)
SILENT = {"silent", "too_easy", "too_hard", "blind", "between_prompts", "went_silent"}
STILL = {"nothing_moves", "noise_over_trend", "too_short", "no_reward", "gradient_unexplained"}
LENGTH = {"shrinking", "growing"}
FOLLOWS = {  # cause -> what is then no finding of its own
    "not_a_number": SILENT | STILL | LENGTH | {"entropy_gone", "reward_falls", "nothing_trainable", "endless", "collapse"},
    "unrewarded": SILENT | STILL | LENGTH | {"nothing_trainable"},
    "rewards_part": {"paid_unfinished", "endless"} | LENGTH,
    "cut_off": SILENT | STILL | LENGTH | {"nothing_trainable"},
    "collapse": SILENT | STILL | LENGTH | {"entropy_gone", "reward_falls", "endless", "far_from_reference"},
    "falls_apart": SILENT | STILL | LENGTH | {"reward_falls", "endless"},
    "endless": LENGTH | {"reward_falls", "noise_over_trend"},
    "learning_rate_zero": STILL | {"warming_up"},
    "nothing_trainable": STILL,
    **{name: STILL | {"nothing_trainable"} for name in SILENT - {"went_silent"}},
    "entropy_gone": {"went_silent", "reward_falls"} | STILL | LENGTH | SILENT,
    "went_silent": {"reward_falls", "noise_over_trend"},
    "stale_ratios": {"reward_falls", "noise_over_trend"},
    "another_sampler": {"stale_ratios", "reward_falls", "noise_over_trend"},
    "reward_falls": LENGTH | {"noise_over_trend", "went_silent", "nothing_moves"},
    "shrinking": {"noise_over_trend"},
    "growing": {"noise_over_trend"},
    "warming_up": STILL,
    "nothing_moves": {"noise_over_trend"},
    "kl_not_a_number": {"too_short"},
}
BRIEFLY = dict.fromkeys(SILENT, "the rewards of each group are all equal, so advantages are 0 (silent groups)") | {
    "entropy_gone": "the entropy is gone",
    "reward_falls": "the reward falls",
    "nothing_moves": "nothing moves",
    "nothing_trainable": "the gradient is 0",
    "endless": "the answers grow until they are cut off",
    "paid_unfinished": "nearly all answers are cut off",
    "shrinking": "the answers get shorter",
    "growing": "the answers get longer",
    "collapse": "the KL surges",
    "falls_apart": "the entropy explodes",
}


def examine(
    rows: Sequence[Mapping],
    *,
    config: Mapping | None = None,
    samples: Sequence[Mapping] = (),
    scores: tuple[float, float, float] | None = None,
) -> Diagnosis:
    """What a run's metrics show: findings, in the order in which to act on them. A pure function.

    Args:
        rows: a dict of metrics a step, by the names of METRICS, of TRL, or older ones.
        config: what is known of the run's configuration, such as {"beta": 0.04, "max_completion_length": 256}.
        samples: lines of samples.jsonl.
        scores: accuracy on held-out problems, (before, after, how far they may lie apart by chance).
    Raises:
        BadInput: if no row has a number that is known.
    """
    rows, notes = understand(rows)
    if not rows:
        raise BadInput("There is no row with a number of a GRPO run in it, such as reward, loss, kl or grad_norm.")
    run = Evidence(rows, config, samples, scores)
    found = explained([finding for finding in (check(run) for check in CHECKS) if finding])
    if not any(finding.kind == WRONG for finding in found):
        fine, doubts = outcome.healthy(run), any(finding.kind == OPEN for finding in found)
        # A doubt and "looks healthy" in one breath would contradict each other.
        if fine and doubts:
            fine = replace(fine, title=f"Otherwise {fine.title[0].lower()}{fine.title[1:]}")
        found += [fine] if fine else []
    found = sorted(found, key=lambda finding: (WRONG, OPEN, FINE).index(finding.kind)) + list(normal(run))
    return Diagnosis(tuple(found), (rows[0]["step"], run.last_step), len(rows), tuple(run.names), tuple(notes))


def explained(found: list[Finding]) -> list[Finding]:
    """Without those that follow from an earlier one, which names them."""
    kept: list[Finding] = []
    for finding in found:
        cause = next((k for k, former in enumerate(kept) if finding.name in FOLLOWS.get(former.name, ())), None)
        if cause is None:
            kept.append(finding)
        elif finding.kind == WRONG:
            follows = dict.fromkeys([*kept[cause].follows, BRIEFLY.get(finding.name, finding.title.rstrip("."))])
            kept[cause] = replace(kept[cause], follows=tuple(follows))
    return kept
