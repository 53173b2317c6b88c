"""ex04: one step of training. The questions, their inputs, and the mistakes that are known by name."""

import torch

from minigrpo.advantages import compute_advantages
from minigrpo.grading.questions import Case, Mistake, Question, draw_mask, exactly
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import aggregate, clipped_objective

ROWS, COLUMNS, FEATURES, VOCABULARY = 3, 5, 4, 7
BY_HAND = {
    "weights": exactly([[0.0, 0.0]]),
    "features": exactly([[[1.0]]]),
    "token_ids": torch.tensor([[0]]),
    "completion_mask": torch.tensor([[True]]),
    "advantages": exactly([1.0]),
}


def _normal(generator, *shape, spread=1.0):
    return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- ex04.1 -----------------------------------------------------------------------------------------------------------


def _sample_cases(generator):
    cases = []
    for about, temperature in (("a low temperature, 0.6", 0.6), ("a high temperature, 2.5", 2.5), ("temperature 1", 1.0)):
        logits = _normal(generator, 60, VOCABULARY, spread=1.5)  # so many rows that no mistake draws the same by luck
        sums = torch.softmax(logits / temperature, dim=1).cumsum(1)
        uniforms = torch.rand(60, generator=generator, dtype=torch.float64)
        clear = (sums - uniforms.unsqueeze(1)).abs().amin(1) > 1e-4  # rounding must not decide which token it is
        cases.append(Case(about, {"logits": logits[clear], "temperature": temperature, "uniforms": uniforms[clear]}))
    large = _normal(generator, ROWS, VOCABULARY) + exactly([0.0, 0.0, 0.0, 900.0, 900.0, 0.0, 0.0])
    equal = {"logits": torch.zeros(4, 4, dtype=torch.float64), "temperature": 1.0, "uniforms": exactly([0.0, 0.25, 0.5, 0.75])}
    return [
        *cases,
        Case("logits of 900, a uniform of 0.001", {"logits": large, "temperature": 0.9, "uniforms": exactly([0.001] * ROWS)}),
        Case("the example by hand: four equal logits", equal),
        _rounded(generator),
    ]


def _rounded(generator):
    """Rows whose summed probabilities round to less than 1 in float32, and the largest float32 below 1."""
    logits = torch.randn(400, VOCABULARY, generator=generator).sort(1, descending=True).values
    short = torch.softmax(logits, 1).cumsum(1)[:, -1] < 1
    uniforms = torch.full((int(short.sum()),), 1 - 2.0**-24, dtype=torch.float64)
    args = {"logits": logits[short].double(), "temperature": 1.0, "uniforms": uniforms}
    return Case("uniforms just below 1, above the rounded sum", args)


def _draw(probabilities, uniforms):
    """The first token at which the summed probabilities exceed the uniform."""
    below = probabilities.cumsum(1) <= uniforms.unsqueeze(1)
    return below.sum(1).clamp(max=probabilities.shape[1] - 1)  # rounding may leave the last sum just below 1


def _sample(logits, temperature, uniforms):
    return _draw(torch.softmax(logits / temperature, dim=1), uniforms)


# --- ex04.2 and ex04.3 ------------------------------------------------------------------------------------------------


def _policy_case(generator, about, *, rows=ROWS, empty_row=False, equal=False, **numbers):
    advantages = _normal(generator, rows)
    args = {
        "weights": _normal(generator, FEATURES, VOCABULARY, spread=0.7),
        "features": _normal(generator, rows, COLUMNS, FEATURES),
        "token_ids": torch.randint(VOCABULARY, (rows, COLUMNS), generator=generator),
        "completion_mask": draw_mask(generator, rows, COLUMNS, empty_row=empty_row),
        "advantages": (advantages - advantages.mean()) * (not equal),
    }
    return Case(about, args | numbers)


def _step_cases(generator):
    return [
        _policy_case(generator, "completions of different length", learning_rate=0.1),
        _policy_case(generator, "a learning rate of 2", learning_rate=2.0),
        _policy_case(generator, "a group whose rewards are all equal: every advantage is 0", equal=True, learning_rate=0.5),
        _policy_case(generator, "one completion has no token that counts", rows=6, empty_row=True, learning_rate=0.5),
        Case("the example by hand", BY_HAND | {"learning_rate": 0.5}),
    ]


def _step(weights, features, token_ids, completion_mask, advantages, learning_rate, *, score=token_logprobs, mean="grpo"):
    moving = weights.detach().clone().requires_grad_()
    values = -advantages.unsqueeze(1) * score(features @ moving, token_ids)
    loss = values.where(completion_mask, 0.0).mean() if mean == "all" else aggregate(values, completion_mask, mean)
    gradient = torch.autograd.grad(loss, moving)[0]
    return loss.detach(), gradient, weights - learning_rate * gradient


def _logits_of_tokens(logits, token_ids):
    return logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def _uphill(weights, *rest):
    loss, gradient, stepped = _step(weights, *rest)
    return loss, gradient, 2 * weights - stepped


def _without_rate(weights, *rest):
    loss, gradient, _ = _step(weights, *rest)
    return loss, gradient, weights - gradient


def _not_negated(weights, features, token_ids, mask, advantages, learning_rate):
    return _step(weights, features, token_ids, mask, -advantages, learning_rate)


def _two_cases(generator):
    wide, narrow = {"learning_rate": 4.0, "epsilon": 0.2}, {"learning_rate": 2.0, "epsilon": 0.1}
    # One rare token everywhere: it becomes likelier also where its advantage is negative, so a correction is due there.
    rare = _policy_case(generator, "a good completion and a bad one of the same tokens", learning_rate=1.0, epsilon=0.2)
    rare.args["features"] = torch.ones_like(rare.args["features"])
    rare.args["token_ids"] = rare.args["weights"].sum(0).argmin().expand(ROWS, COLUMNS).clone()
    rare.args["advantages"] = torch.tensor([2.0, -0.5, 0.2], dtype=torch.float64)
    return [
        rare,
        _policy_case(generator, "steps so small that nothing is clipped", learning_rate=0.05, epsilon=0.2),
        _policy_case(generator, "steps so large that tokens leave the band", **wide),
        _policy_case(generator, "a narrow band, one completion without a token that counts", rows=6, empty_row=True, **narrow),
        _policy_case(generator, "a group whose rewards are all equal: every advantage is 0", equal=True, **wide),
        Case("the example by hand, epsilon 0.2", BY_HAND | {"learning_rate": 0.5, "epsilon": 0.2}),
        Case("the example by hand, epsilon 0.3", BY_HAND | {"learning_rate": 0.5, "epsilon": 0.3}),
    ]


def _clipped(ratio, advantages, epsilon):
    return clipped_objective(ratio, advantages, epsilon)


def _two(objective=_clipped, *, steps=2, fresh_ratio=False, mean="grpo"):
    """(weights, ...) -> weights after ``steps`` updates; ``fresh_ratio`` scores the old log-probs anew before each."""

    def two_steps(weights, features, token_ids, completion_mask, advantages, learning_rate, epsilon):
        old_logprobs = token_logprobs(features @ weights, token_ids)
        for _ in range(steps):
            moving = weights.detach().clone().requires_grad_()
            logprobs = token_logprobs(features @ moving, token_ids)
            ratio = torch.exp(logprobs - (logprobs.detach() if fresh_ratio else old_logprobs))
            values = -objective(ratio, advantages.unsqueeze(1), epsilon)
            loss = values.where(completion_mask, 0.0).mean() if mean == "all" else aggregate(values, completion_mask, mean)
            weights = weights - learning_rate * torch.autograd.grad(loss, moving)[0]
        return weights

    return two_steps


def _twice_the_first(weights, *rest):
    return 2 * _two(steps=1)(weights, *rest) - weights


# --- ex04.4: a loop of one's own ------------------------------------------------------------------------------------------

STEPS, GENERATIONS = 10, 4


def _loop_cases(generator):
    return [
        _loop_case(generator, "two problems, four completions each, ten steps", 2, 0.5),
        _loop_case(generator, "a large learning rate: the policy is soon sure", 2, 5.0),
        _loop_case(generator, "three problems, a small learning rate", 3, 0.05),
        _loop_case(generator, "a problem that is never solved: its groups teach nothing", 2, 0.5, solved=False),
    ]


def _loop_case(generator, about, problems, learning_rate, *, solved=True):
    """Drawn again until no uniform is so near to a summed probability that rounding would decide which token it draws."""
    while True:
        targets = torch.randint(VOCABULARY, (problems,), generator=generator)
        args = {
            "weights": _normal(generator, FEATURES, VOCABULARY, spread=0.7),
            "features": _normal(generator, problems, FEATURES),
            "targets": targets if solved else torch.where(torch.arange(problems) == 0, VOCABULARY, targets),
            "uniforms": torch.rand(STEPS, problems, GENERATIONS, generator=generator, dtype=torch.float64),
            "learning_rate": learning_rate,
        }
        if _loop(**args, margin=1e-4) is not None:
            return Case(about, args)


def _loop(weights, features, targets, uniforms, learning_rate, *, margin=0.0, change=None):
    """Sample, reward, advantages, update; ``change`` replaces one of these parts. None if a draw is within the margin."""
    change = change or {}
    for uniform in uniforms:
        moving = weights.detach().clone().requires_grad_()
        logprobs = torch.log_softmax(features @ moving, dim=1)  # (P, V)
        sums = logprobs.detach().exp().cumsum(1)
        if margin and (sums.unsqueeze(1) - uniform.unsqueeze(2)).abs().min() < margin:
            return None
        tokens = (sums.unsqueeze(1) <= uniform.unsqueeze(2)).sum(2).clamp(max=logprobs.shape[1] - 1)  # (P, G)
        rewards = (tokens == targets.unsqueeze(1)).to(weights.dtype)
        advantages = change.get("advantages", _group_advantages)(rewards)
        loss = -(advantages * logprobs.gather(1, tokens)).mean()
        weights = weights - change.get("rate", lambda rate: rate)(learning_rate) * torch.autograd.grad(loss, moving)[0]
    return weights


def _group_advantages(rewards):
    return compute_advantages(rewards.flatten(), torch.arange(rewards.numel()) // rewards.shape[1]).reshape(rewards.shape)


def _own_loop(weights, features, targets, uniforms, learning_rate):
    return _loop(weights, features, targets, uniforms, learning_rate)


def _loop_with(**change):
    return lambda *args: _loop(*args, change=change)


def _never_sampled_anew(weights, features, targets, uniforms, learning_rate):
    return _loop(weights, features, targets, uniforms[:1].expand_as(uniforms), learning_rate)


QUESTIONS = (
    Question(
        id="ex04.1",
        name="sample_step",
        points=2,
        read='notebook 01, "The temperature belongs to the policy"',
        cases=_sample_cases,
        reference=_sample,
        hints=(
            "Lay the probabilities of a row side by side from 0 to 1. The uniform number is a place on that line: whose "
            "stretch is it?",
            "softmax(logits / temperature), then cumsum over the vocabulary. "
            "How many of these sums lie at or below the uniform?",
            "(cdf <= uniforms.unsqueeze(1)).sum(1), and .clamp(max=V - 1), since rounding may leave the last sum just below 1.",
        ),
        mistakes=(
            Mistake(
                "no temperature",
                "these are the draws of temperature 1. Divide the logits by the temperature before softmax.",
                lambda logits, temperature, uniforms: _sample(logits, 1.0, uniforms),
            ),
            Mistake(
                "times the temperature",
                "the logits were multiplied by the temperature, so a low one makes the draws wilder. Divide by it.",
                lambda logits, temperature, uniforms: _sample(logits, 1 / temperature, uniforms),
            ),
            Mistake(
                "the temperature divides the probabilities",
                "the probabilities were divided by the temperature, and no longer sum to 1. "
                "Divide the logits, and take softmax afterwards.",
                lambda logits, temperature, uniforms: _draw(logits.softmax(1) / temperature, uniforms),
            ),
            Mistake(
                "the likeliest token",
                "this is the likeliest token of every row, whatever the uniform. "
                "Without chance a group of completions would be one completion.",
                lambda logits, temperature, uniforms: logits.argmax(1),
            ),
            Mistake(
                "one token early",
                "this is the last token whose sum is still below the uniform. "
                "Take the one after it, the first whose sum exceeds the uniform.",
                lambda logits, temperature, uniforms: (
                    ((logits / temperature).softmax(1).cumsum(1) <= uniforms.unsqueeze(1)).sum(1) - 1
                ).clamp(min=0),
            ),
            Mistake(
                "one uniform for all",
                "every row used the first uniform, so the rows are not drawn independently. Row b has uniforms[b].",
                lambda logits, temperature, uniforms: _sample(logits, temperature, uniforms[:1]),
            ),
        ),
    ),
    Question(
        id="ex04.2",
        name="training_step",
        points=5,
        read='notebook 04, "A step, part by part"',
        cases=_step_cases,
        reference=_step,
        hints=(
            "Make a copy of the weights that wants a gradient: weights.detach().clone().requires_grad_(). "
            "The rest is the loss, "
            "and torch.autograd.grad(loss, copy)[0].",
            "Log-probs: log_softmax of features @ copy, gathered at token_ids. "
            "Loss: -advantage times log-prob, mean over the tokens "
            "that count in a row, then over the rows.",
            "Return loss, gradient, weights - learning_rate * gradient, all three detached; weights itself stays as it is.",
        ),
        mistakes=(
            Mistake(
                "uphill",
                "loss and gradient are right, but the step goes uphill. Subtract the gradient: the loss is to become smaller.",
                _uphill,
            ),
            Mistake(
                "no minus sign in the loss",
                "the loss lacks its minus sign, so good completions become rarer. It is -advantage times log-prob.",
                _not_negated,
            ),
            Mistake(
                "no learning rate",
                "loss and gradient are right, but the whole gradient was subtracted; multiply it by learning_rate.",
                _without_rate,
            ),
            Mistake(
                "logits instead of log-probs",
                "the logits of the tokens were used. They say nothing about the other tokens: take log_softmax over the "
                "vocabulary "
                "before you gather.",
                lambda *args: _step(*args, score=_logits_of_tokens),
            ),
            Mistake(
                "padding in the mean",
                "the mean is over all columns, padding among them. Divide each row by its own number of tokens.",
                lambda *args: _step(*args, mean="all"),
            ),
            Mistake(
                "a token mean",
                "the mean is over all tokens at once, so long completions weigh more. Average each row first, then the rows.",
                lambda *args: _step(*args, mean="bnpo"),
            ),
        ),
    ),
    Question(
        id="ex04.3",
        name="two_steps",
        points=4,
        read='notebook 04, "One rollout, several updates"; notebook 03, "The clip"',
        cases=_two_cases,
        reference=_two(),
        hints=(
            "Two log-probs are needed: those of the start, computed once and held constant, and those of the weights as "
            "they are now.",
            "In each of the two updates: new log-probs, ratio to those of the start, the smaller of free and clipped "
            "objective, its "
            "mean, minus sign, gradient, step.",
            "Before the loop: old = log-probs(weights).detach(). In the loop: w = "
            "weights.detach().clone().requires_grad_(), and at its "
            "end weights = weights - learning_rate * gradient (a new tensor, not in place).",
        ),
        mistakes=(
            Mistake(
                "the old log-probs made anew",
                "the old log-probs were computed again before the second update, so the ratio was 1 and nothing was ever "
                "clipped. "
                "Compute them once, before the first.",
                _two(fresh_ratio=True),
            ),
            Mistake(
                "no clip",
                "the ratio is right, but nothing was clipped. In the second update take the smaller of the free and the "
                "clipped "
                "objective.",
                _two(lambda ratio, advantages, epsilon: ratio * advantages),
            ),
            Mistake(
                "maximum",
                "the larger of the two objectives was taken: it silences the corrections and lets the pushes go on. "
                "Take the smaller.",
                _two(lambda ratio, advantages, epsilon: -clipped_objective(ratio, -advantages, epsilon)),
            ),
            Mistake(
                "one update",
                "these are the weights after one update. Do the second one with the new weights, on the same tokens.",
                _two(steps=1),
            ),
            Mistake(
                "the first gradient twice",
                "the gradient of the first update was used again for the second. "
                "Compute log-probs, loss and gradient anew with the new weights.",
                _twice_the_first,
            ),
            Mistake(
                "padding in the mean",
                "the mean is over all columns, padding among them. Divide each row by its own number of tokens.",
                _two(mean="all"),
            ),
        ),
    ),
    Question(
        id="ex04.4",
        name="own_loop",
        points=3,
        read='notebook 04, "A step, part by part"',
        cases=_loop_cases,
        reference=_own_loop,
        hints=(
            "Each pass of the loop has four parts: sample, reward, advantages, update. Write four lines, then the loop "
            "around them.",
            "Sample as in ex04.1 from softmax(features @ weights), for each problem and each of its uniforms. Reward 1.0 "
            "where the token is the problem's target. Advantages by problem, with the sample's standard deviation plus 1e-4.",
            "loss = -(advantages * logprobs.gather(1, tokens)).mean() with logprobs = log_softmax(features @ moving, dim=1); "
            "weights = weights - learning_rate * torch.autograd.grad(loss, moving)[0], and the next uniforms.",
        ),
        mistakes=(
            Mistake(
                "the same draws every step",
                "every step used the first uniforms. Each step draws anew: step t has uniforms[t].",
                _never_sampled_anew,
            ),
            Mistake(
                "one step",
                "these are the weights after a single step. Loop over all of uniforms, and go on from the new weights.",
                lambda weights, features, targets, uniforms, rate: _loop(weights, features, targets, uniforms[:1], rate),
            ),
            Mistake(
                "the reward itself",
                "the rewards were used in the place of advantages, so nothing is ever pushed down.",
                _loop_with(advantages=lambda rewards: rewards),
            ),
            Mistake(
                "not scaled",
                "the mean of the group was subtracted, and nothing divided. Divide by its standard deviation plus 1e-4.",
                _loop_with(advantages=lambda rewards: rewards - rewards.mean(1, keepdim=True)),
            ),
            Mistake(
                "one group",
                "all completions were taken as one group. Each problem has a group of its own.",
                _loop_with(advantages=lambda rewards: _group_advantages(rewards.reshape(1, -1)).reshape(rewards.shape)),
            ),
            Mistake("uphill", "the step goes against the advantages: a sign is wrong.", _loop_with(rate=lambda rate: -rate)),
            Mistake(
                "a sum for a mean",
                "the loss was summed over completions; it is their mean.",
                lambda w, features, targets, uniforms, rate: _loop(w, features, targets, uniforms, rate * uniforms[0].numel()),
            ),
        ),
    ),
)
