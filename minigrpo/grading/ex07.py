"""ex07: scored triples. The questions, their inputs, and the mistakes that are known by name."""

import torch

from minigrpo import reward_model, triples
from minigrpo.grading.questions import Case, Mistake, Question, draw_id, draw_logprobs, draw_mask, exactly

SYSTEM, USER, ASSISTANT, PADDING = 0, 1, 2, -1
NEWLINE, LARGE = 5, 1000.0


# --- ex07.1: baselines ------------------------------------------------------------------------------------------------


def _scores(generator, rows):
    return 1 + 4 * torch.rand(rows, generator=generator, dtype=torch.float64)


def _baseline_cases(generator):
    equal = _scores(generator, 7)
    equal[[0, 3, 4]] = equal[0].clone()
    inputs = (
        ("groups of three, two and one response, out of order", _scores(generator, 6), [400, -3, 400, 2, -3, 400]),
        ("a group whose rewards are all equal, and two lone responses", equal, [1, 0, 2, 1, 1, 3, 2]),
        ("no two responses to one prompt", _scores(generator, 5), [3, 1, 0, 4, 2]),
        ("rewards that are all equal", torch.full((4,), 2.5, dtype=torch.float64), [0, 0, 1, 2]),
        ("the example by hand", exactly([5.0, 1.0, 5.0]), [0, 0, 1]),
    )
    return [Case(about, {"rewards": rewards, "group_ids": torch.tensor(ids)}) for about, rewards, ids in inputs]


def _group_sizes_and_means(rewards, group_ids):
    together = (group_ids.unsqueeze(0) == group_ids.unsqueeze(1)).to(rewards.dtype)
    return together.sum(1), together @ rewards / together.sum(1)


def _baseline(rewards, group_ids):
    size, group_mean = _group_sizes_and_means(rewards, group_ids)
    return torch.where(size > 1, group_mean, (rewards.sum() - rewards) / (len(rewards) - 1))


def _own_reward_included(rewards, group_ids):
    size, group_mean = _group_sizes_and_means(rewards, group_ids)
    return (rewards - torch.where(size > 1, group_mean, rewards.mean())) / (rewards.std() + 1e-4)


def _leave_one_out_everywhere(rewards, group_ids):
    size, group_mean = _group_sizes_and_means(rewards, group_ids)
    others = (size * group_mean - rewards) / (size - 1).clamp(min=1)
    baseline = torch.where(size > 1, others, (rewards.sum() - rewards) / (len(rewards) - 1))
    return (rewards - baseline) / (rewards.std() + 1e-4)


# --- ex07.2: the mask of a chat ---------------------------------------------------------------------------------------


def _chat(generator, turns, eos):
    """Tokens and roles of a list of (role, how often its turn has an EOS): text, EOS and what follows it, a newline."""
    tokens, roles = [], []
    for role, endings in turns:
        length = int(torch.randint(1, 4, (), generator=generator))
        turn = torch.randint(NEWLINE, (length,), generator=generator).tolist()
        for ending in range(endings):
            turn += [eos] if ending + 1 == endings else [eos, *torch.randint(NEWLINE, (2,), generator=generator).tolist()]
        turn.append(NEWLINE)
        tokens, roles = tokens + turn, roles + [role] * len(turn)
    return tokens, roles


def _batch_of_chats(generator, about, chats):
    eos = draw_id(generator)
    rows = [_chat(generator, turns, eos) for turns in chats]
    width = max(len(tokens) for tokens, _ in rows) + 1
    padded = [(t + [eos] * (width - len(t)), r + [PADDING] * (width - len(r))) for t, r in rows]
    token_ids, role_ids = (torch.tensor(column) for column in zip(*padded, strict=True))
    return Case(about, {"token_ids": token_ids, "role_ids": role_ids, "eos_token_id": eos})


def _mask_cases(generator):
    one = [(USER, 0), (ASSISTANT, 1)]
    two = [(SYSTEM, 0), *one, *one]
    question = [(SYSTEM, 0), (USER, 0)]
    marked = [(USER, 1), (ASSISTANT, 1), (USER, 1), (ASSISTANT, 1)]
    cut = [*one, (USER, 0), (ASSISTANT, 0)]
    runs_on = [(USER, 0), (ASSISTANT, 3), (USER, 0), (ASSISTANT, 2)]
    by_system = [*one, (SYSTEM, 0), (ASSISTANT, 1), (USER, 0), (ASSISTANT, 1)]
    by_hand = {"token_ids": torch.tensor([[3, 1, 4, 6, 5, 2, 0, 6]]), "role_ids": torch.tensor([[1, 2, 2, 2, 2, 1, 2, 2]])}
    return [
        _batch_of_chats(generator, "chats with one, two and three answers; the padding has the id of EOS", [one, two, one * 3]),
        _batch_of_chats(generator, "a chat in which the user's turns end with EOS too", [marked, two]),
        _batch_of_chats(generator, "a last answer that was cut off before its EOS", [cut, one]),
        _batch_of_chats(generator, "answers that run on behind their EOS, to another EOS", [runs_on, one]),
        _batch_of_chats(generator, "a system message between two answers", [by_system, one]),
        _batch_of_chats(generator, "a chat without any answer: no token of it counts", [two, question]),
        Case("the example by hand", by_hand | {"eos_token_id": 6}),
    ]


def _eos_before(token_ids, role_ids, eos_token_id, *, within_turn=True):
    """How many EOS of the assistant stand before each token, in its turn or in the whole row."""
    said = role_ids == ASSISTANT
    ends = (said & (token_ids == eos_token_id)).long()
    before = ends.cumsum(1) - ends
    if not within_turn:
        return before
    starts = said & ~torch.nn.functional.pad(said, (1, 0))[:, :-1]
    return before - torch.where(starts, before, 0).cummax(1).values


def assistant_mask(token_ids, role_ids, eos_token_id):
    """(B, T) ids, (B, T) roles -> (B, T) bool: the assistant's tokens, of each turn up to and including its first EOS."""
    return (role_ids == ASSISTANT) & (_eos_before(token_ids, role_ids, eos_token_id) == 0)


def _last_turn_only(token_ids, role_ids, eos_token_id):
    said = role_ids == ASSISTANT
    turn = (said & ~torch.nn.functional.pad(said, (1, 0))[:, :-1]).cumsum(1)
    return assistant_mask(token_ids, role_ids, eos_token_id) & (turn == turn[:, -1:])


def _from_the_first_answer_on(token_ids, role_ids, eos_token_id):
    return ((role_ids == ASSISTANT).cumsum(1) > 0) & (role_ids != PADDING)


# --- ex07.3: the weighted loss ----------------------------------------------------------------------------------------


def _weighted_cases(generator):
    def case(about, rewards, beta, mask):
        args = {"logprobs": draw_logprobs(generator, *mask.shape), "completion_mask": mask, "rewards": rewards, "beta": beta}
        return Case(about, args, gradient=("logprobs",))

    large = exactly([0.0, 400.0, 399.75])
    by_hand = {"logprobs": exactly([[-1.5, -0.5], [-3.0, -9.0]]), "completion_mask": exactly([[1, 1], [1, 0]]).bool()}
    by_hand |= {"rewards": exactly([5.0, 3.0]), "beta": 2.0}
    return [
        case("three responses of uneven length, scores from 1 to 5", _scores(generator, 3), 2.0, draw_mask(generator, 3, 5)),
        case("the default beta of records, 0.4", _scores(generator, 3), 0.4, draw_mask(generator, 3, 5)),
        case("rewards that are all equal", torch.full((3,), 2.0, dtype=torch.float64), 1.5, draw_mask(generator, 3, 5)),
        case("a response of which no token counts", _scores(generator, 3), 2.0, draw_mask(generator, 3, 5, empty_row=True)),
        case("scores up to 400, divided by a beta of 0.4", large, 0.4, draw_mask(generator, 3, 5)),
        Case("the example by hand", by_hand, gradient=("logprobs",)),
    ]


def _optimum_weights(rewards, beta):
    return torch.softmax(rewards / beta, dim=0) * len(rewards)


def _weighted(weights, log_likelihood=lambda logprobs, mask: (logprobs * mask).sum(1)):
    def weighted_loss(logprobs, completion_mask, rewards, beta):
        return -(weights(rewards, beta) * log_likelihood(logprobs, completion_mask)).mean()

    return weighted_loss


# --- ex07.4: pairs ----------------------------------------------------------------------------------------------------


def _pair_cases(generator):
    def scores(rows):
        return 2 * torch.randn(rows, generator=generator, dtype=torch.float64)

    tied = scores(3)
    far = scores(3)
    inputs = (
        ("five pairs", scores(5), scores(5)),
        ("pairs with equal scores", tied, tied.clone()),
        ("the example by hand: scores 2 and 1", exactly([2.0]), exactly([1.0])),
        ("scores 1000 apart, in the wrong order", far, far + torch.tensor([0.0, LARGE, 1.0], dtype=torch.float64)),
    )
    return [Case(about, {"chosen": a, "rejected": b}, gradient=("chosen", "rejected")) for about, a, b in inputs]


_logsigmoid = torch.nn.functional.logsigmoid


QUESTIONS = (
    Question(
        id="ex07.1",
        name="baseline_advantages",
        points=4,
        read='notebook 07, "Four repairs"; on baselines, notebook 02, "Why not the reward itself?"',
        cases=_baseline_cases,
        reference=triples.baseline_advantages,
        hints=(
            "For each response ask first: is there another one with the same group id? Baselines differ, the scale does not.",
            "With company: the mean of the group, itself included. Alone: the mean of all the others, itself left out.",
            "(rewards - baseline) / (rewards.std() + 1e-4); for a lone row, (rewards.sum() - its reward) / (N - 1) is the "
            "baseline.",
        ),
        mistakes=(
            Mistake(
                "own reward in a lone baseline",
                "a lone response is compared with the mean of all, itself included, which shrinks every difference. Leave "
                "its own reward out: (sum - own) / (N - 1).",
                _own_reward_included,
            ),
            Mistake(
                "lone responses get 0",
                "a lone response was compared with its own group, that is with itself, so it is always 0 and teaches "
                "nothing. Its baseline is the mean of the other rewards of the batch.",
                lambda r, ids: (r - _group_sizes_and_means(r, ids)[1]) / (r.std() + 1e-4),
            ),
            Mistake(
                "mean of the batch for all",
                "every response was compared with the whole batch. Where a prompt has several responses, their own mean is the "
                "baseline: an easy prompt must not make all its answers look good.",
                lambda r, ids: (r - r.mean()) / (r.std() + 1e-4),
            ),
            Mistake(
                "leave-one-out in groups too",
                "the own reward was left out in the groups as well. Here a group's baseline is its plain mean; leaving out "
                "is for lone responses only.",
                _leave_one_out_everywhere,
            ),
            Mistake(
                "population std",
                "the standard deviation divides by N; here it is the sample's, which divides by N - 1 (torch's default).",
                lambda r, ids: (r - _baseline(r, ids)) / (r.std(correction=0) + 1e-4),
            ),
            Mistake(
                "not scaled",
                "the baseline is right, the scale is missing: divide by the standard deviation of all rewards plus 1e-4.",
                lambda r, ids: r - _baseline(r, ids),
            ),
        ),
    ),
    Question(
        id="ex07.2",
        name="assistant_mask",
        points=3,
        read='notebook 07, "Chats, and scores from people"',
        cases=_mask_cases,
        reference=assistant_mask,
        hints=(
            "Walk along a row and remember one thing: has this turn of the assistant already ended?",
            "A token counts if its role is 2 and no EOS has come before it in this turn; the EOS itself counts.",
            "ended = False whenever the role is not 2. For role 2: mask = not ended, and then ended = ended or token == EOS.",
        ),
        mistakes=(
            Mistake(
                "what follows EOS counts",
                "every token of the assistant's turns counts, the template's newline after EOS too, which the policy never "
                "writes. Stop each turn after its first EOS.",
                lambda token_ids, role_ids, eos: role_ids == ASSISTANT,
            ),
            Mistake(
                "EOS left out",
                "each answer ends just before its EOS, so the policy would never learn to stop. Its EOS counts.",
                lambda t, r, eos: assistant_mask(t, r, eos) & (t != eos),
            ),
            Mistake(
                "the row ends at its first EOS",
                "after the first answer nothing counts any more. Every turn has an EOS of its own: begin anew with each turn.",
                lambda t, r, eos: (r == ASSISTANT) & (_eos_before(t, r, eos, within_turn=False) == 0),
            ),
            Mistake(
                "the last answer only",
                "only the last turn of the assistant counts. The reward is for the chat: all its turns are learnt from.",
                _last_turn_only,
            ),
            Mistake(
                "the user's words count",
                "everything from the first answer on counts, later questions of the user included. The policy would learn to "
                "speak for the user; keep the role 2 alone.",
                _from_the_first_answer_on,
            ),
        ),
    ),
    Question(
        id="ex07.3",
        name="weighted_loss",
        points=3,
        read='notebook 07, "The optimum is known, so go there"',
        cases=_weighted_cases,
        reference=_weighted(_optimum_weights),
        hints=(
            "Three steps: a weight per record, a log-likelihood per record, minus the mean of their product.",
            "The weights are exp(R / beta) over all records, divided by their mean. torch.softmax sums to 1; you want a mean "
            "of 1.",
            "weights = torch.softmax(rewards / beta, dim=0) * N; minus the mean of weights * (logprobs over the mask, summed).",
        ),
        mistakes=(
            Mistake(
                "mean over tokens",
                "each response's log-likelihood was divided by its length, which makes short responses too heavy. The "
                "log-prob of a response is the sum over its tokens.",
                _weighted(_optimum_weights, lambda p, mask: (p * mask).sum(1) / mask.sum(1).clamp(min=1)),
            ),
            Mistake(
                "mean over tokens, NaN where none counts",
                "each response's log-likelihood was divided by its length, which makes short responses too heavy, and one "
                "without tokens 0 / 0. The log-prob of a response is the sum over its tokens: divide by nothing.",
                _weighted(_optimum_weights, lambda p, mask: (p * mask).sum(1) / mask.sum(1)),
            ),
            Mistake(
                "padding counts",
                "the padding was summed too. Only the tokens with completion_mask True belong to the response.",
                _weighted(_optimum_weights, lambda p, mask: p.sum(1)),
            ),
            Mistake(
                "weights with a sum of 1",
                "softmax makes the weights sum to 1, and the mean divides by N once more: a loss N times too small. Multiply "
                "by N.",
                _weighted(lambda rewards, beta: torch.softmax(rewards / beta, dim=0)),
            ),
            Mistake(
                "beta multiplied",
                "the rewards were multiplied by beta. They are divided by it: a small beta is a long leash, with sharp "
                "weights.",
                _weighted(lambda rewards, beta: _optimum_weights(rewards, 1 / beta)),
            ),
            Mistake(
                "rewards as weights",
                "the rewards themselves are the weights. The optimum of E[R - beta KL] weighs by exp(R / beta), scaled to "
                "mean 1.",
                _weighted(lambda rewards, beta: rewards),
            ),
            Mistake(
                "exp overflows",
                "right for small rewards, but exp of a large R / beta is inf, and inf / inf is NaN. Subtract the largest "
                "before exp, which changes nothing else, or use torch.softmax.",
                _weighted(lambda rewards, beta: (rewards / beta).exp() / (rewards / beta).exp().mean()),
            ),
        ),
    ),
    Question(
        id="ex07.4",
        name="bradley_terry_loss",
        points=2,
        read='notebook 07, "Scores from a model"',
        cases=_pair_cases,
        reference=reward_model.bradley_terry_loss,
        hints=(
            "P(chosen is preferred) = sigmoid(chosen - rejected), pair by pair. What does maximum likelihood make of it?",
            "Minus the logarithm of that probability, averaged over the pairs.",
            "-torch.nn.functional.logsigmoid(chosen - rejected).mean(); log of sigmoid breaks down when the sigmoid is 0.",
        ),
        mistakes=(
            Mistake(
                "pair reversed",
                "this rewards the model for scoring the rejected response higher. The difference is chosen - rejected.",
                lambda chosen, rejected: -_logsigmoid(rejected - chosen).mean(),
            ),
            Mistake(
                "no minus sign",
                "this is the mean log-probability, which is to be raised; a loss is lowered, so it takes a minus sign.",
                lambda chosen, rejected: _logsigmoid(chosen - rejected).mean(),
            ),
            Mistake(
                "sum over pairs",
                "the pairs were summed, so the step grows with their number. Take the mean.",
                lambda chosen, rejected: -_logsigmoid(chosen - rejected).sum(),
            ),
            Mistake(
                "probability for its logarithm",
                "this is minus the probability, without its logarithm. Its gradient vanishes for the pairs that are most "
                "wrong, which are those to learn from.",
                lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean(),
            ),
            Mistake(
                "logarithm of sigmoid",
                "right until the sigmoid underflows to 0, whose logarithm is -inf. torch.nn.functional.logsigmoid takes the "
                "difference of the scores and stays finite.",
                lambda chosen, rejected: -torch.sigmoid(chosen - rejected).log().mean(),
            ),
        ),
    ),
)
