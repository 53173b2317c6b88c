"""ex05: find the bug. Six functions as they were shipped: for each an input on which the bug shows, and the repair."""

import torch

from minigrpo.grading import diagnosis, shipped
from minigrpo.grading.questions import Case, Mistake, Question, draw_id, draw_logprobs

ROWS, COLUMNS = 3, 5


def _normal(generator, *shape, spread=1.0):
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- inputs that show a bug -------------------------------------------------------------------------------------------


def _your_input(generator):
    return [Case("the input that your function returns", {})]


def _shows(number, name, bug, good, read, *hints):
    """The question for an input of ``bug``; ``good`` returns one of the many."""
    return Question(
        id=f"ex05.{number}",
        name=f"shows_{name}",
        points=1,
        read=read,
        cases=_your_input,
        reference=good,
        hints=hints,
        accepts=lambda outcome, case: bug.accepts(outcome.values),
    )


def _wide_ratio():
    return torch.tensor([[1.5]]), torch.tensor([[1.0]]), 0.2


def _two_groups():
    return torch.tensor([1.0, 1.0, 0.0, 0.0]), 2


def _short_prompt():
    return torch.tensor([[False, True, True]])


def _went_on():
    return torch.tensor([0.0]), torch.tensor([[1.0], [1.0]]), torch.tensor([0.9, 0.5])


def _padded_with_eos():
    return torch.tensor([[3, 6, 6]]), 6, 6


def _second_rollout():
    return torch.tensor([-2.0, -1.9, -1.0]).reshape(3, 1, 1), 2


# --- inputs that test a repair ----------------------------------------------------------------------------------------


def _group_cases(generator):
    def case(about, rewards, num_generations):
        return Case(about, {"rewards": rewards, "num_generations": num_generations})

    four = _normal(generator, 12) + torch.arange(4.0, dtype=torch.float64).repeat_interleave(3)
    return [
        case("four prompts of three completions", four, 3),
        case("three prompts of four completions", _normal(generator, 12), 4),
        case("two prompts of two completions, one easy and one hard", torch.tensor([0.9, 1.0, 0.0, 0.1]).double(), 2),
        case("a single prompt", _normal(generator, 5), 5),
        case("the example by hand", torch.tensor([2.0, 0.0, 1.0]).double(), 3),
    ]


def _less(baseline):
    """A wrong repair: rewards less ``baseline`` of the table, a row for each prompt."""
    return lambda rewards, num_generations: rewards - baseline(rewards.reshape(-1, num_generations), num_generations)


def _position_cases(generator):
    width = 6
    lengths = torch.randint(2, width, (ROWS,), generator=generator)
    lengths[0], lengths[1] = width, 1

    def case(about, lengths):
        return Case(about, {"prompt_mask": torch.arange(width) >= width - torch.as_tensor(lengths).unsqueeze(1)})

    return [
        case("three prompts of different length", lengths),
        case("prompts that are all shorter than the batch is wide", [2, 4, 3]),
        case("one prompt, without padding", [width]),
        case("a prompt of a single token", [1]),
        Case("the example by hand", {"prompt_mask": torch.ones(1, 2, dtype=torch.bool)}),
    ]


def _best_cases(generator):
    def case(about, accuracies):
        args = {"weights": _normal(generator, 3), "updates": _normal(generator, len(accuracies), 3)}
        return Case(about, args | {"accuracies": torch.tensor(accuracies).double()})

    by_hand = {"weights": torch.tensor([0.0]), "updates": torch.tensor([[1.0], [2.0]]), "accuracies": torch.tensor([0.5, 0.9])}
    return [
        case("the best step lies in the middle", [0.2, 0.4, 0.7, 0.3, 0.5]),
        case("the first step is the best", [0.8, 0.1, 0.3]),
        case("the last step is the best", [0.1, 0.3, 0.6]),
        case("two steps are equally good", [0.3, 0.7, 0.5, 0.7, 0.1]),
        Case("the example by hand", by_hand),
    ]


def _at(step, before=0):
    """A wrong repair: the weights after ``step`` of the accuracies, or some updates before."""
    return lambda weights, updates, accuracies: weights + updates[: step(accuracies) + 1 - before].sum(0)


def _clip_cases(generator):
    signs = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)
    sizes = 0.5 + torch.rand(ROWS, 1, generator=generator, dtype=torch.float64)
    middle = torch.tensor([0.6, 0.9, 1.0, 1.1, 1.7], dtype=torch.float64)
    drawn = _normal(generator, ROWS, COLUMNS, spread=0.1).clamp(-0.2, 0.2).exp() * middle
    corners = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5], dtype=torch.float64).expand(ROWS, -1).clone()
    cases = (
        ("ratios of 0.5 to 1.5 with the advantages 1, -1 and 0", corners, signs, 0.2),
        ("ratios on both sides of the band, advantages of both signs", drawn, signs * sizes, 0.15),
        ("fresh completions: every ratio is 1", torch.ones_like(drawn), signs * sizes, 0.2),
    )
    by_hand = {"ratio": torch.tensor([[0.9]]), "advantages": torch.tensor([[2.0]]), "epsilon": 0.2}
    several = [Case(about, {"ratio": r, "advantages": a, "epsilon": e}, gradient=("ratio",)) for about, r, a, e in cases]
    return [*several, Case("the example by hand", by_hand, gradient=("ratio",))]


def _pair(change):
    """A wrong repair: change(free, held, advantages), the losses without the clip and with it."""

    def fixed_clip(ratio, advantages, epsilon):
        return change(-ratio * advantages, -ratio.clamp(1 - epsilon, 1 + epsilon) * advantages, advantages)

    return fixed_clip


def _mask_cases(generator):
    eos, other = draw_id(generator), 0

    def case(about, ends, pad):
        """Rows of 5 tokens that end with EOS at these places (5: cut off); a policy may write any token, padding's too."""
        ids = torch.randint(1, 7, (len(ends), COLUMNS), generator=generator)
        ids[-1, 1] = pad if pad != eos else 1
        for row, end in enumerate(ends):
            ids[row, end:] = pad
            ids[row, end : end + 1] = eos
            ids[row, -1] = pad if end == COLUMNS and pad != eos else ids[row, -1]  # cut off, and it looks like one that ended
        return Case(about, {"completion_ids": ids, "eos_token_id": eos, "pad_token_id": pad})

    return [
        case("padding with EOS; one completion is nothing but an EOS", (2, 0, 4), eos),
        case("padding with EOS; a completion that was cut off", (1, 5, 3), eos),
        case("padding with a token of its own, which one completion wrote itself", (1, 4, 3), other),
        case("padding with a token of its own; a completion that was cut off", (5, 2, 3), other),
        Case(
            "the example by hand",
            {"completion_ids": torch.tensor([[3, 6, 0, 0], [3, 1, 2, 4]]), "eos_token_id": 6, "pad_token_id": 0},
        ),
    ]


def _finished(mask):
    """A wrong mask that leaves out what was cut off, as is wanted."""

    def answer(completion_ids, eos_token_id, pad_token_id):
        return mask(completion_ids, eos_token_id, pad_token_id) & (completion_ids == eos_token_id).any(1, keepdim=True)

    return answer


def _one_more(completion_ids, eos_token_id, pad_token_id):
    mask = completion_ids != pad_token_id
    return mask | torch.nn.functional.pad(mask, (1, 0))[:, :-1]


def _first_eos_put_back(completion_ids, eos_token_id, pad_token_id):
    is_eos = completion_ids == eos_token_id
    return (completion_ids != pad_token_id) | (is_eos & (is_eos.cumsum(1) == 1))


def _ratio_cases(generator):
    cases = []
    for about, updates, num_iterations in (
        ("three rollouts, two updates each", 6, 2),
        ("three updates per rollout, the last rollout not used up", 7, 3),
        ("one update per rollout", 3, 1),
        ("a single rollout", 4, 4),
    ):
        rollouts = draw_logprobs(generator, -(-updates // num_iterations), ROWS, COLUMNS)
        logprobs = rollouts.repeat_interleave(num_iterations, 0)[:updates]
        drift = _normal(generator, *logprobs.shape, spread=0.2).exp()  # what the updates did
        cases.append(Case(about, {"logprobs": logprobs * drift, "num_iterations": num_iterations}, gradient=("logprobs",)))
    by_hand = {"logprobs": torch.tensor([-1.0, -1.1]).reshape(2, 1, 1), "num_iterations": 2}
    return [*cases, Case("the example by hand", by_hand, gradient=("logprobs",))]


def _against(old_update, *, detach=True):
    """A wrong repair: the ratio to the log-probs at update ``old_update(update, num_iterations)``."""

    def fixed_ratio(logprobs, num_iterations):
        old = logprobs[[old_update(update, num_iterations) for update in range(len(logprobs))]]
        return torch.exp(logprobs - (old.detach() if detach else old))

    return fixed_ratio


QUESTIONS = (
    *diagnosis.QUESTIONS,
    _shows(
        2,
        "groups",
        shipped.GROUPS,
        _two_groups,
        "notebook 02",
        "With a single prompt there is one mean, and it is right for everybody. Go through it by hand for two prompts.",
        "If all prompts have the same mean, it doesn't matter who gets which. Give one prompt higher rewards than the other.",
        "torch.tensor([1.0, 1.0, 0.0, 0.0]) and 2: everybody is as good as their group, so all four should be 0.",
    ),
    Question(
        id="ex05.3",
        name="fixed_groups",
        points=1,
        read="notebook 02",
        cases=_group_cases,
        reference=shipped.GROUPS.right,
        hints=(
            "Write down for two prompts, A and B, of two completions each what means.repeat(2) is, and what you want.",
            "repeat gives A B A B; the rewards stand as A A B B. Every mean has to come num_generations times in a row.",
            "rewards - means.repeat_interleave(num_generations)",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: repeat gives the means in turn, A B A B, and the rewards stand "
                "together, A A B B.",
                shipped.shipped_groups,
            ),
            Mistake(
                "columns for rows",
                "completions of different prompts share a mean: the table was read as if the rows of a prompt stood "
                "num_prompts apart. They stand together, so reshape(-1, num_generations) has a row for each prompt.",
                lambda rewards, num_generations: ((table := rewards.reshape(num_generations, -1)) - table.mean(0)).reshape(-1),
            ),
            Mistake(
                "one mean for all",
                "everybody is compared with the mean of the whole batch. Compare with the completions of the same prompt.",
                _less(lambda table, num_generations: table.mean()),
            ),
            Mistake(
                "the mean over places",
                "the mean runs over the prompts, for each place in the group. Take it over the completions of a prompt, dim 1.",
                _less(lambda table, num_generations: table.mean(0).repeat(len(table))),
            ),
            Mistake(
                "the group left out",
                "nothing was subtracted, or the mean itself was returned: wanted is the reward less the mean of its group.",
                lambda rewards, num_generations: rewards,
            ),
        ),
    ),
    _shows(
        4,
        "clip",
        shipped.CLIP,
        _wide_ratio,
        'notebook 03, "The clip"',
        "As long as free and held are the same number, it does not matter which of the two is taken.",
        "Take a ratio outside the band from 1 - epsilon to 1 + epsilon. And advantage 0 makes everything 0.",
        "torch.tensor([[1.5]]), torch.tensor([[1.0]]), 0.2: the loss should be -1.2.",
    ),
    Question(
        id="ex05.5",
        name="fixed_clip",
        points=1,
        read='notebook 03, "The clip"',
        cases=_clip_cases,
        reference=shipped.CLIP.right,
        hints=(
            "Take advantage 1 and ratio 1.5, then 0.5. In which of the two should the gradient be 0, and in which is it?",
            "The clip is to be pessimistic: of the two objectives it takes the one that promises less.",
            "-torch.minimum(free, held); or, with the minus sign inside, the maximum of the two losses.",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: it takes the larger objective, and the larger one is the "
                "optimistic "
                "one. The clip takes the smaller.",
                shipped.shipped_clip,
            ),
            Mistake(
                "repaired for positive advantages only",
                "for negative advantages the larger objective is still taken. The sign turns the order round by itself: "
                "the smaller for both.",
                _pair(
                    lambda free, held, advantages: torch.where(advantages >= 0, torch.max(free, held), torch.min(free, held))
                ),
            ),
            Mistake(
                "the clip alone",
                "only the clipped objective is left, so tokens that went the wrong way are not corrected. "
                "Take the smaller of the two.",
                _pair(lambda free, held, advantages: held),
            ),
            Mistake(
                "the minus sign lost",
                "the smaller one is right, but this is the objective; a loss is its negative.",
                _pair(lambda free, held, advantages: -torch.maximum(free, held)),
            ),
        ),
    ),
    _shows(
        6,
        "positions",
        shipped.POSITIONS,
        _short_prompt,
        "notebook 01",
        "Where no prompt is padded, both give 0, 1, 2 ... What must a prompt be so that it is padded?",
        "Padding stands on the left: False first, then True up to the end of the row.",
        "torch.tensor([[False, True, True]]): the two tokens should stand at 0 and 1, and not at 1 and 2.",
    ),
    Question(
        id="ex05.7",
        name="fixed_positions",
        points=1,
        read="notebook 01",
        cases=_position_cases,
        reference=shipped.POSITIONS.right,
        hints=(
            "A token's position is the number of tokens of its prompt that stand before it. How do you count what is True?",
            "prompt_mask.cumsum(1) is 1 at the first token that counts, then 2, 3 ...; on padding it is still 0.",
            "(prompt_mask.cumsum(1) - 1).clamp(min=0)",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: it counts columns, padding among them, so a prompt has other "
                "positions the wider its batch is.",
                shipped.shipped_positions,
            ),
            Mistake(
                "from 1 on",
                "the first token stands at 1. Positions begin at 0: subtract 1.",
                lambda prompt_mask: prompt_mask.cumsum(1),
            ),
            Mistake(
                "-1 on padding",
                "padding has the position -1, which no table of positions has. Clamp at 0.",
                lambda prompt_mask: prompt_mask.cumsum(1) - 1,
            ),
            Mistake(
                "from the end",
                "positions are counted from the end, as if the text ran to the left. The first token that counts is 0.",
                lambda prompt_mask: torch.where(prompt_mask, prompt_mask.flip(1).cumsum(1).flip(1) - 1, 0),
            ),
            Mistake(
                "columns, without padding",
                "padding is at 0 now, but the tokens still have the numbers of their columns. Count the tokens.",
                lambda prompt_mask: torch.where(prompt_mask, torch.arange(prompt_mask.shape[1]), 0),
            ),
        ),
    ),
    _shows(
        8,
        "mask",
        shipped.EOS,
        _padded_with_eos,
        'notebook 05, "EOS is not trained"',
        "GPT-2's tokenizer has no token for padding. Which one do people give it?",
        "Take pad_token_id equal to eos_token_id, and a completion that ends: a token or two, EOS, padding.",
        "torch.tensor([[3, 6, 6]]), 6, 6: the first two tokens should count.",
    ),
    Question(
        id="ex05.9",
        name="fixed_mask",
        points=1,
        read='notebook 05, "EOS is not trained"; notebook 01, "The mask: what counts"',
        cases=_mask_cases,
        reference=_finished(shipped.EOS.right),
        hints=(
            "No token's value says whether it is padding. Its place does. And what tells you that a completion was cut off?",
            "The mask of ex01.3 counts all of a completion that was cut off. Leave out the rows that hold no EOS at all.",
            "finished = (completion_ids == eos_token_id).any(1, keepdim=True), and with it the mask of ex01.3, by &.",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: where pad and EOS are one token, no EOS counts, and stopping is "
                "never learnt. The first EOS counts.",
                shipped.shipped_mask,
            ),
            Mistake(
                "every EOS counts",
                "now every EOS counts, and where EOS is the padding, all padding with it. Only the first one of a completion "
                "was written by the policy.",
                _finished(lambda ids, eos_token_id, pad_token_id: (ids != pad_token_id) | (ids == eos_token_id)),
            ),
            Mistake(
                "one token more",
                "the mask was made one token longer. That is right only where EOS is the padding: elsewhere the EOS "
                "counted already, and a completion that is nothing but an EOS is still lost. Look for the first EOS.",
                _finished(_one_more),
            ),
            Mistake(
                "the first EOS put back",
                "the first EOS counts now, but padding is still told by its value: where the policy itself wrote the padding's "
                "token, it is left out. Go by the place: all that stands before the end counts.",
                _finished(_first_eos_put_back),
            ),
            Mistake(
                "up to EOS, without it",
                "what stands before the first EOS counts, the EOS itself does not, and that was the bug: ending is a decision "
                "of the policy. Up to *and including* the first EOS.",
                _finished(lambda ids, eos_token_id, pad_token_id: (ids == eos_token_id).cumsum(1) == 0),
            ),
            Mistake(
                "what was cut off counts",
                "the first EOS counts, and a completion without any, which was cut off, counts too. Here it is left out: its "
                "reward is one for a text that was never finished.",
                shipped.EOS.right,
            ),
            Mistake(
                "only whether it ended",
                "all of a completion that ended counts, its padding too. The mask ends with the first EOS.",
                _finished(lambda ids, eos_token_id, pad_token_id: torch.ones_like(ids, dtype=torch.bool)),
            ),
        ),
    ),
    _shows(
        10,
        "best",
        shipped.BEST,
        _went_on,
        "notebook 04",
        "best = weights gives a second name to the same tensor. When does it matter that it is the same?",
        "If the last step is the best, there is nothing that could still change. Let a worse step come after the best.",
        "torch.tensor([0.0]), torch.tensor([[1.0], [1.0]]), torch.tensor([0.9, 0.5]): the best weights are 1, not 2.",
    ),
    Question(
        id="ex05.11",
        name="fixed_best",
        points=1,
        read="notebook 04",
        cases=_best_cases,
        reference=shipped.BEST.right,
        hints=(
            "weights += update changes the tensor in place, and best is that tensor.",
            "Keep a copy at the best step, or make a new tensor at each update. And weights as they came in stay as they are.",
            "best, highest = weights.clone(), accuracy",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped, which gives the weights of the last step: best is another name "
                "of the tensor that goes on changing. Keep a copy.",
                _at(lambda accuracies: len(accuracies) - 1),
            ),
            Mistake(
                "one step before",
                "these are the weights before the best step's update. Its accuracy was measured after it.",
                _at(lambda accuracies: int(accuracies.argmax()), before=1),
            ),
            Mistake(
                "the last of equals",
                "of several steps that are equally good this is the last. Only a higher accuracy replaces what is kept: >.",
                _at(lambda accuracies: len(accuracies) - 1 - int(accuracies.flip(0).argmax())),
            ),
            Mistake(
                "the worst",
                "these are the weights of the lowest accuracy.",
                _at(lambda accuracies: int(accuracies.argmin())),
            ),
            Mistake(
                "the start",
                "these are the weights that the run began with: the copy was taken too early.",
                lambda weights, updates, accuracies: weights.clone(),
            ),
            Mistake(
                "its update alone",
                "this is the best step's own update added to the start; those before it are part of its weights, too.",
                lambda weights, updates, accuracies: weights + updates[int(accuracies.argmax())],
            ),
        ),
    ),
    _shows(
        12,
        "ratio",
        shipped.STALE,
        _second_rollout,
        'notebook 04, "One rollout, several updates: `num_iterations`"',
        "Go through the loop by hand, with two updates per rollout. At which updates are old_logprobs set?",
        "The first rollout is right. Go on to the second: more updates than num_iterations, and num_iterations of 2 or more.",
        "Three updates of one token, two per rollout: torch.tensor([-2.0, -1.9, -1.0]).reshape(3, 1, 1) and 2. The last ratio "
        "should be 1.",
    ),
    Question(
        id="ex05.13",
        name="fixed_ratio",
        points=1,
        read='notebook 04, "One rollout, several updates: `num_iterations`"; '
        'notebook 03, "One step, and what it changes", for the opposite mistake',
        cases=_ratio_cases,
        reference=shipped.right_ratio,
        hints=(
            "Write down for num_iterations 2 which updates begin a rollout: 0, 2, 4 ... What have they in common?",
            "At a rollout's first update the policy is still the one that sampled: keep its log-probs for the whole rollout.",
            "if update % num_iterations == 0: old_logprobs = logprobs[update].detach()",
        ),
        mistakes=(
            Mistake(
                "as it was shipped",
                "this is still the function as it was shipped: the old log-probs of the first rollout are kept for ever. "
                "Take new ones whenever a rollout begins.",
                shipped.shipped_ratio,
            ),
            Mistake(
                "made anew before every update",
                "the old log-probs are now taken at every update, so the ratio is 1 for ever and the clip never acts. Take "
                "them once per rollout, at its first update.",
                _against(lambda update, num_iterations: update),
            ),
            Mistake(
                "those of the update before",
                "each update is compared with the one before it. The tokens were drawn by the policy of the rollout's first "
                "update, and the ratio is to that one.",
                _against(lambda update, num_iterations: max(update - 1, 0)),
            ),
            Mistake(
                "one update late",
                "the old log-probs are renewed one update late, at the second of each rollout; the first is compared with the "
                "rollout before. update % num_iterations == 0 is where a rollout begins.",
                _against(lambda update, num_iterations: max((update - 1) // num_iterations * num_iterations + 1, 0)),
            ),
            Mistake(
                "not detached",
                "the values are right, but the old log-probs carry a gradient, which takes away that of the new ones. What the "
                "sampler said is a constant: .detach().",
                _against(lambda update, num_iterations: update // num_iterations * num_iterations, detach=False),
            ),
        ),
    ),
)
