"""04, training: the question that the lesson asks in its own cells."""

import torch

from minigrpo.grading.questions import Case, Mistake, Question

EPS = 1e-4


def _step_cases(generator):
    def case(about, vocabulary, rewards, learning_rate, tokens=None):
        rewards = torch.as_tensor(rewards, dtype=torch.float64)
        logits = 1.5 * torch.randn(vocabulary, generator=generator, dtype=torch.float64)
        drawn = torch.randint(vocabulary, (len(rewards),), generator=generator) if tokens is None else torch.tensor(tokens)
        return Case(about, {"logits": logits, "tokens": drawn, "rewards": rewards, "learning_rate": learning_rate})

    graded = 3 + torch.randn(5, generator=generator, dtype=torch.float64)
    return [
        case("four answers, right or wrong", 5, [1.0, 0.0, 0.0, 1.0], 0.5),
        case("five answers with scores between 1 and 5", 7, graded, 0.1),
        case("the same token was drawn three times, and is right once", 4, [1.0, 0.0, 0.0, 0.0], 1.0, [2, 2, 2, 0]),
        case("a group whose rewards are all equal: the logits stay as they are", 5, [1.0, 1.0, 1.0], 0.5),
    ]


def _step(advantages, *, sign=1.0, mean=True):
    """A version that takes ``advantages(rewards)``, and the mean over the group or the sum."""

    def grpo_step(logits, tokens, rewards, learning_rate):
        moving = logits.detach().clone().requires_grad_()
        logprobs = torch.log_softmax(moving, dim=0)[tokens]
        terms = logprobs * advantages(rewards)
        objective = terms.mean() if mean else terms.sum()
        return logits + sign * learning_rate * torch.autograd.grad(objective, moving)[0]

    return grpo_step


def _normalized(rewards, correction=1):
    return (rewards - rewards.mean()) / (rewards.std(correction=correction) + EPS)


def _probabilities(logits, tokens, rewards, learning_rate):
    moving = logits.detach().clone().requires_grad_()
    objective = (torch.softmax(moving, dim=0)[tokens] * _normalized(rewards)).mean()
    return logits + learning_rate * torch.autograd.grad(objective, moving)[0]


def _only_drawn_once(logits, tokens, rewards, learning_rate):
    new = logits.clone()
    new[tokens] += learning_rate * _normalized(rewards) / len(rewards)
    return new


QUESTIONS = (
    Question(
        id="04.1",
        name="grpo_step",
        points=0,
        cases=_step_cases,
        reference=_step(_normalized),
        hints=(
            "Five lines: the advantages of the group, the log-probs of the tokens, the loss, its gradient, the new logits. "
            "Work on logits.clone().requires_grad_(), so that the argument stays as it is.",
            "advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4), as in lesson 02. logprobs = "
            "torch.log_softmax(moving, dim=0)[tokens]. At a first update the ratio is 1, so minus the mean of advantages * "
            "logprobs has the right gradient.",
            "loss = -(advantages * logprobs).mean(); gradient = torch.autograd.grad(loss, moving)[0]; return logits - "
            "learning_rate * gradient.",
        ),
        mistakes=(
            Mistake(
                "uphill on the loss",
                "the step goes in the wrong direction: right answers became less likely. Subtract the gradient of the loss, or "
                "add that of the objective.",
                _step(_normalized, sign=-1.0),
            ),
            Mistake(
                "raw rewards",
                "the rewards were used as they are. Subtract the group's mean and divide by its standard deviation plus 1e-4.",
                _step(lambda rewards: rewards),
            ),
            Mistake(
                "not divided by the standard deviation",
                "the mean was subtracted, but the result was not divided by the group's standard deviation plus 1e-4.",
                _step(lambda rewards: rewards - rewards.mean()),
            ),
            Mistake(
                "population standard deviation",
                "the standard deviation is the population's. rewards.std() of torch is the sample's; take that.",
                _step(lambda rewards: _normalized(rewards, correction=0)),
            ),
            Mistake(
                "the sum over the group",
                "the loss is the sum over the group, so the step grows with its size. Take the mean.",
                _step(_normalized, mean=False),
            ),
            Mistake(
                "probabilities in place of log-probs",
                "the loss is made of probabilities. The policy gradient wants log-probs: torch.log_softmax, not softmax.",
                _probabilities,
            ),
            Mistake(
                "a token that was drawn twice counts once",
                "new[tokens] += ... adds once per token, however often it was drawn. Let autograd do it, or use index_add.",
                _only_drawn_once,
            ),
        ),
    ),
)
