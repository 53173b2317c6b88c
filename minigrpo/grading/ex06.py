"""ex06: the KL. The questions, their inputs, and the mistakes that are known by name."""

import torch

from minigrpo import kl as package
from minigrpo.grading.questions import Case, Mistake, Question, draw_logprobs, draw_mask, draw_normal, exactly


def _extreme(generator, *shape):
    return -0.1 - 18 * torch.rand(*shape, generator=generator, dtype=torch.float64)


def pair_cases(generator):
    both = draw_logprobs(generator, 3, 5)
    inputs = (
        ("three completions of five tokens", draw_logprobs(generator, 3, 5), draw_logprobs(generator, 3, 5)),
        ("a policy that is still equal to the reference", both, both.clone()),
        ("log-probs that are up to 18 nats apart", _extreme(generator, 3, 5), _extreme(generator, 3, 5)),
        ("the example by hand: policy 0.5, reference 0.25", exactly([[0.5]]).log(), exactly([[0.25]]).log()),
    )
    return [Case(about, {"logprobs": p, "ref_logprobs": q}, gradient=("logprobs",)) for about, p, q in inputs]


def _exact_cases(generator):
    def logits(*shape):
        return 1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    far, far_ref = logits(3, 5, 7), logits(3, 5, 7)
    far[1, 2, 3] = -1000.0
    far_ref[:, :, 2] = -1000.0  # a token that the policy still likes
    by_hand = exactly([[[1.0, 9.0]]]).log(), exactly([[[0.0, 0.0]]])
    inputs = (
        (
            "three completions of five tokens, a vocabulary of seven, drawn at temperature 0.7",
            (logits(3, 5, 7), logits(3, 5, 7)),
            0.7,
        ),
        ("the same shapes, temperature 1", (logits(3, 5, 7), logits(3, 5, 7)), 1.0),
        ("a policy that gives one token a logit of -1000", (far, logits(3, 5, 7)), 1.0),
        ("a reference that gives one token a logit of -1000", (logits(3, 5, 7), far_ref), 1.0),
        ("the example by hand, temperature 2", by_hand, 2.0),
    )
    return [Case(about, {"logits": p, "ref_logits": q, "temperature": t}, gradient=("logits",)) for about, (p, q), t in inputs]


def _kl_of(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _unscaled_reference(logits, ref_logits, temperature):
    return _kl_of((logits / temperature).log_softmax(-1), ref_logits.log_softmax(-1))


def _log_of_softmax(logits, ref_logits, temperature):
    p, q = (logits / temperature).softmax(-1), (ref_logits / temperature).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def _log_of_sum(small):
    def answer(logits, ref_logits, temperature):
        p, q = (logits / temperature).softmax(-1), (ref_logits / temperature).softmax(-1)
        return (p * ((p + small).log() - (q + small).log())).sum(-1)

    return answer


def _log_of_quotient(logits, ref_logits, temperature):
    p, q = (logits / temperature).softmax(-1), (ref_logits / temperature).softmax(-1)
    return (p * (p / q).log()).sum(-1)


def _kl_div_of_softmax(logits, ref_logits, temperature):
    p, q = (logits / temperature).softmax(-1), (ref_logits / temperature).softmax(-1)
    return torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)


def _of_distributions(logits, ref_logits, temperature):
    p, q = (torch.distributions.Categorical(logits=one / temperature) for one in (logits, ref_logits))
    return torch.distributions.kl_divergence(p, q)


def _reward_cases(generator):
    def case(about, rows, columns, beta, *, draw=draw_logprobs, mask=None):
        mask = draw_mask(generator, rows, columns) if mask is None else mask
        args = {
            "rewards": torch.randint(6, (rows,), generator=generator).to(torch.float64),
            "old_logprobs": draw(generator, rows, columns),
            "ref_logprobs": draw(generator, rows, columns),
            "completion_mask": mask,
            "beta": beta,
        }
        return Case(about, args, gradient=("old_logprobs", "ref_logprobs"))

    by_hand = {"rewards": exactly([1.0]), "old_logprobs": exactly([[-0.3, -1.2, -1.0]])}
    by_hand |= {"ref_logprobs": exactly([[-1.0, -1.0, -10.0]]), "completion_mask": torch.tensor([[True, True, False]])}
    return [
        case("three completions of uneven length", 3, 5, 0.1),
        case("a completion of which no token counts", 3, 5, 0.5, mask=draw_mask(generator, 3, 5, empty_row=True)),
        case("log-probs that are up to 18 nats apart", 3, 5, 0.04, draw=_extreme),
        case("two completions of one token each, with padding", 2, 4, 1.0, mask=torch.arange(4).expand(2, 4) < 1),
        Case("the example by hand", by_hand | {"beta": 0.1}, gradient=("old_logprobs", "ref_logprobs")),
    ]


def _charge(per_token, reduce):
    """rewards minus beta times whatever ``reduce`` makes of the per-token estimates and the mask."""

    def kl_penalized_rewards(rewards, old_logprobs, ref_logprobs, completion_mask, beta):
        return rewards - beta * reduce(per_token(old_logprobs, ref_logprobs), completion_mask)

    return kl_penalized_rewards


def _k1(old_logprobs, ref_logprobs):
    return (old_logprobs - ref_logprobs).detach()


def _sum_of_row(values, mask):
    return (values * mask).sum(1)


def _ratio_cases(generator):
    def case(about, policy, ref, sampler):
        args = {"logprobs": policy, "ref_logprobs": ref, "old_logprobs": sampler}
        return Case(about, args, gradient=("logprobs",))

    def moved(logprobs):
        return (logprobs + 0.3 * torch.randn(*logprobs.shape, generator=generator, dtype=torch.float64)).clamp(max=0.0)

    first, second, both = (draw_logprobs(generator, 3, 5) for _ in range(3))
    far, far_ref = _extreme(generator, 3, 5) / 3, _extreme(generator, 3, 5) / 3  # further, and float32 loses the gradient
    by_hand = (exactly([[p]]).log() for p in (0.5, 0.25, 0.4))
    return [
        case("after an update: the sampler is an older policy", second, draw_logprobs(generator, 3, 5), moved(second)),
        case("before the first update: the sampler is the policy", first, draw_logprobs(generator, 3, 5), first.clone()),
        case("log-probs that are up to 6 nats apart", far, far_ref, moved(far)),
        case("a policy that is still equal to the reference", both, both.clone(), moved(both)),
        case("the example by hand: policy 0.5, reference 0.25, sampler 0.4", *by_hand),
    ]


def k3(logprobs, ref_logprobs):
    log_r = ref_logprobs - logprobs
    return log_r.exp() - 1 - log_r


def kl_k1_plus(logprobs, ref_logprobs):
    """The value of k1 and the gradient of k2."""
    k1, k2 = logprobs - ref_logprobs, (logprobs - ref_logprobs) ** 2 / 2
    return k1.detach() + k2 - k2.detach()


def _pulling(value):
    """The value of another estimate, and the gradient of k2."""

    def kl_k1_plus(logprobs, ref_logprobs):
        k2 = package.kl_k2(logprobs, ref_logprobs)
        return value(logprobs, ref_logprobs).detach() + k2 - k2.detach()

    return kl_k1_plus


def _pull_cases(generator):
    def logits(tokens, spread=1.5):
        return draw_normal(generator, tokens, spread=spread)

    same = logits(5)
    inputs = (
        ("a vocabulary of five", logits(5), logits(5)),
        ("a vocabulary of three", logits(3), logits(3)),
        ("a policy that has gone far from the reference", logits(6, 3.0), logits(6)),
        ("a policy that is still equal to the reference", same, same - 1.0),  # a constant changes no probability
        ("the example by hand", exactly([0.5, 0.5]).log(), exactly([0.25, 0.75]).log()),
    )
    return [Case(about, {"logits": p, "ref_logits": q}) for about, p, q in inputs]


def kl_pulls(logits, ref_logits):
    """What autograd finds on average, in closed form: nothing, the gradient of KL(p || q), and that of KL(q || p)."""
    log_p, log_q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    p, log_ratio = log_p.exp(), log_p - log_q
    return torch.stack([torch.zeros_like(p), p * (log_ratio - (p * log_ratio).sum()), p - log_q.exp()])


def _pulled(weights, *, of_reference=False, turned=1):
    """kl_pulls by autograd, with other weights of the tokens."""

    def kl_pulls(logits, ref_logits):
        policy, reference = (x.detach().clone().requires_grad_() for x in (logits, ref_logits))
        log_p, log_q = policy.log_softmax(-1), reference.log_softmax(-1)
        log_r = log_q - log_p
        estimates = (-log_r, log_r**2 / 2, (turned * log_r).exp() - 1 - turned * log_r)
        means = [(weights(log_p, log_q) * k).sum() for k in estimates]
        leaf = reference if of_reference else policy
        return torch.stack([torch.autograd.grad(mean, leaf, retain_graph=True)[0] for mean in means])

    return kl_pulls


def _slopes(log_p, log_q):
    """Of the estimates with respect to the log-probs, weighted."""
    return log_p.exp() * torch.stack([torch.ones_like(log_p), log_p - log_q, 1 - (log_q - log_p).exp()])


QUESTIONS = (
    Question(
        id="ex06.1",
        name="kl_k1_plus",
        points=1,
        read='notebook 06, "A right value is not a right gradient"',
        cases=pair_cases,
        reference=kl_k1_plus,
        hints=(
            "Add two parts: one that has the value and no gradient, and one whose value is 0 and that has the gradient.",
            "x.detach() has the value of x and no gradient. What, then, is x - x.detach()?",
            "k1.detach() + k2 - k2.detach(), with k1 = logprobs - ref_logprobs and k2 = k1 ** 2 / 2.",
        ),
        mistakes=(
            Mistake(
                "k1",
                "this is k1 with its own gradient, 1 for every token: on average over the draws it pulls nowhere. Detach k1, "
                "and add what has the gradient of k2 and the value 0.",
                package.kl_k1,
            ),
            Mistake(
                "k2",
                "this is k2: the gradient is right, the value is not the KL, not even on average. Take its value off again, "
                "- k2.detach(), and add k1's.",
                package.kl_k2,
            ),
            Mistake(
                "both gradients",
                "the gradient of k1 is there besides that of k2. Only the value of k1 is wanted: k1.detach().",
                lambda logprobs, ref_logprobs: kl_k1_plus(logprobs, ref_logprobs) + logprobs - logprobs.detach(),
            ),
            Mistake(
                "both values",
                "the value of k2 is there besides that of k1. k2 - k2.detach() has the gradient of k2 and the value 0.",
                lambda logprobs, ref_logprobs: _k1(logprobs, ref_logprobs) + package.kl_k2(logprobs, ref_logprobs),
            ),
            Mistake(
                "log-prob times k1",
                "the gradient is right, but the value is k1 times the log-prob. Make the factor 1 in value: "
                "1 + logprobs - logprobs.detach().",
                lambda logprobs, ref_logprobs: _k1(logprobs, ref_logprobs) * logprobs,
            ),
            Mistake(
                "reversed",
                "k1 is turned round: this is log(reference / policy), whose mean over the policy's draws is minus the KL.",
                _pulling(lambda logprobs, ref_logprobs: ref_logprobs - logprobs),
            ),
            Mistake(
                "the value of k3",
                "the gradient is right, but the value is that of k3; asked is k1's, the plain log-ratio.",
                _pulling(k3),
            ),
        ),
    ),
    Question(
        id="ex06.2",
        name="kl_pulls",
        points=2,
        read='notebook 06, "A right value is not a right gradient"',
        cases=_pull_cases,
        reference=kl_pulls,
        hints=(
            "A mean over draws is a sum over the V tokens, each with its probability as a weight. What does autograd see of a "
            "weight? Nothing: the tokens were drawn already.",
            "Make leaves, logits.detach().requires_grad_(). Then the gradient of (p.detach() * k).sum(), with p the policy's "
            "probabilities and k the V estimates, once for each of k1, k2, k3.",
            "log_p, log_q are the log_softmax of both, log_r = log_q - log_p. For each k of -log_r, log_r ** 2 / 2 and "
            "log_r.exp() - 1 - log_r: torch.autograd.grad((log_p.exp().detach() * k).sum(), leaf, retain_graph=True)[0]. "
            "Then torch.stack.",
        ),
        mistakes=(
            Mistake(
                "the chances have a gradient",
                "the weights were differentiated, too. In a loss the tokens are drawn already, and autograd does not see what "
                "they were drawn with: detach the probabilities that weigh.",
                _pulled(lambda log_p, log_q: log_p.exp()),
            ),
            Mistake(
                "every token counts alike",
                "this is a plain mean over the vocabulary. The mean is over draws of the policy: weigh by its probabilities.",
                _pulled(lambda log_p, log_q: torch.full_like(log_p, 1 / log_p.shape[-1])),
            ),
            Mistake(
                "a sum without weights",
                "this is a plain sum over the vocabulary. The mean is over draws of the policy: weigh by its probabilities.",
                _pulled(lambda log_p, log_q: torch.ones_like(log_p)),
            ),
            Mistake(
                "drawn from the reference",
                "the weights are the reference's probabilities, as if it had drawn the tokens. They are the policy's draws.",
                _pulled(lambda log_p, log_q: log_q.exp()),
            ),
            Mistake(
                "slopes, not gradients",
                "these are slopes with respect to the log-probs. A logit moves the log-probs of all tokens: differentiate "
                "through log_softmax.",
                lambda logits, ref_logits: _slopes(logits.log_softmax(-1), ref_logits.log_softmax(-1)),
            ),
            Mistake(
                "the reference's logits",
                "these are gradients with respect to the reference's logits, and the reference is fixed. Differentiate with "
                "respect to those of the policy.",
                _pulled(lambda log_p, log_q: log_p.exp().detach(), of_reference=True),
            ),
            Mistake(
                "r turned round",
                "the third row takes r for policy / reference. It is reference / policy: log r is minus k1.",
                _pulled(lambda log_p, log_q: log_p.exp().detach(), turned=-1),
            ),
        ),
    ),
    Question(
        id="ex06.3",
        name="kl_exact",
        points=2,
        read='notebook 06, "Two KLs"',
        cases=_exact_cases,
        reference=package.kl_exact,
        hints=(
            "With the whole vocabulary at hand nothing is drawn: the mean over draws becomes a sum with weights. Whose?",
            "Both sets of logits are divided by the temperature, then log_softmax over the last axis.",
            "With log_p and log_q: the sum over the vocabulary of log_p.exp() * (log_p - log_q).",
        ),
        mistakes=(
            Mistake(
                "other direction",
                "this is KL(reference || policy), what PyTorch's kl_div(log p, q) gives too. Weigh by the policy's "
                "probabilities, and subtract the reference's log-probs.",
                lambda logits, ref_logits, temperature: package.kl_exact(ref_logits, logits, temperature),
            ),
            Mistake(
                "no temperature",
                "the temperature was left out. The tokens were drawn from softmax(logits / temperature); that is the policy.",
                lambda logits, ref_logits, temperature: package.kl_exact(logits, ref_logits),
            ),
            Mistake(
                "temperature on the policy only",
                "only the policy's logits were divided by the temperature, so that two equal models are not at 0. Divide both.",
                _unscaled_reference,
            ),
            Mistake(
                "mean over the vocabulary",
                "the vocabulary was averaged. The weights, the probabilities, sum to 1 already; a mean divides once more, by "
                "V.",
                lambda logits, ref_logits, temperature: package.kl_exact(logits, ref_logits, temperature) / logits.shape[-1],
            ),
            Mistake(
                "logarithm of softmax",
                "right until a probability underflows to 0: its logarithm is -inf, and 0 times -inf is NaN. Use log_softmax, "
                "and exp of that for the weights.",
                _log_of_softmax,
            ),
            *(
                Mistake(
                    f"logarithm of p + {small:g}",
                    "right until a probability underflows to 0: what is added to it, or the least that it is held to, then "
                    "stands for it, and a log-prob of -1000 becomes the logarithm of that constant. Use log_softmax, and exp "
                    "of that for the weights.",
                    _log_of_sum(small),
                )
                for small in (1e-12, 1e-10, 1e-9, 1e-8)
            ),
            Mistake(
                "logarithm of a quotient",
                "right until a probability underflows to 0: log(0 / q) is -inf, and p / 0 is inf. Subtract log-probs, those of "
                "log_softmax, and take exp of the policy's for the weights.",
                _log_of_quotient,
            ),
            Mistake(
                "kl_div of probabilities",
                "right until a probability underflows to 0: its logarithm is -inf, in the value or in the gradient. Use "
                "log_softmax, and exp of that for the weights.",
                _kl_div_of_softmax,
            ),
            Mistake(
                "kl_divergence of torch.distributions",
                "right until the reference's probability underflows to 0: there kl_divergence says infinity, though both "
                "log-probs are finite. Use log_softmax, and exp of that for the weights.",
                _of_distributions,
            ),
        ),
    ),
    Question(
        id="ex06.4",
        name="kl_penalized_rewards",
        points=3,
        read='notebook 06, "A right value is not a right gradient"',
        cases=_reward_cases,
        reference=package.kl_penalized_rewards,
        hints=(
            "One number per completion: what do the tokens' k1 add up to, and which tokens count?",
            "A reward is data. If log-probs carry a gradient, it has to end here.",
            "k1 = (old_logprobs - ref_logprobs).detach(); keep it where the mask is True; sum over a row; rewards - beta * "
            "that.",
        ),
        mistakes=(
            Mistake(
                "sign",
                "the penalty has the wrong sign, or the log-ratio was turned round: whoever moves away from the reference is "
                "paid for it. It is rewards minus beta times log(policy / reference).",
                _charge(_k1, lambda k1, mask: -_sum_of_row(k1, mask)),
            ),
            Mistake(
                "mean over tokens",
                "each completion pays the mean over its tokens. The KL of a completion is the sum of them; with a mean, long "
                "detours come cheap.",
                _charge(_k1, lambda k1, mask: _sum_of_row(k1, mask) / mask.sum(1).clamp(min=1)),
            ),
            Mistake(
                "padding counts",
                "all columns were summed, the padding too. Count the tokens where completion_mask is True.",
                _charge(_k1, lambda k1, mask: k1.sum(1)),
            ),
            Mistake(
                "one price for all",
                "the whole batch was summed, so every completion pays for all. Sum along a row: dim 1.",
                _charge(_k1, lambda k1, mask: (k1 * mask).sum()),
            ),
            Mistake(
                "k3",
                "the penalty is k3. In the reward k3 brings the wrong gradient; k1, the plain log-ratio, is right there.",
                _charge(lambda old, ref: k3(old, ref).detach(), _sum_of_row),
            ),
            Mistake(
                "not detached",
                "the numbers are right, but a gradient flows back through the reward. A reward weighs the gradient of the "
                "log-probs and has none of its own: detach the k1.",
                _charge(lambda old, ref: old - ref, _sum_of_row),
            ),
        ),
    ),
    Question(
        id="ex06.5",
        name="kl_k3_ratio",
        points=3,
        read='notebook 06, "A right value is not a right gradient"',
        cases=_ratio_cases,
        reference=package.kl_k3_ratio,
        hints=(
            "When the policy changes, each token's estimate changes, and so does how often the token is drawn. What is "
            "missing?",
            "A factor policy / sampler, exp(logprobs - old_logprobs). Its value is 1 before the first update, its gradient "
            "is not 0.",
            "(logprobs - old_logprobs).exp() times k3 with log r = ref_logprobs - logprobs; detach neither factor.",
        ),
        mistakes=(
            Mistake(
                "k3 alone",
                "this is k3 without the ratio: the value before the first update is right, its gradient is that of "
                "KL(reference || policy). Multiply by exp(logprobs - old_logprobs).",
                lambda logprobs, ref_logprobs, old_logprobs: k3(logprobs, ref_logprobs),
            ),
            Mistake(
                "ratio detached",
                "the ratio was detached, so its value is there and its gradient is not. That gradient is the reason for the "
                "ratio.",
                lambda p, ref, old: (p - old).exp().detach() * k3(p, ref),
            ),
            Mistake(
                "k3 detached",
                "only the ratio carries a gradient, since k3 was detached. Both factors change with the policy: leave both in.",
                lambda p, ref, old: (p - old).exp() * k3(p, ref).detach(),
            ),
            Mistake(
                "ratio upside down",
                "the ratio is sampler / policy here. The tokens came from the sampler, so the weight that makes them the "
                "policy's is policy / sampler: exp(logprobs - old_logprobs).",
                lambda p, ref, old: (old - p).exp() * k3(p, ref),
            ),
            Mistake(
                "ratio with itself",
                "the ratio is exp(logprobs - logprobs.detach()), always 1 in value. That is right before the first update "
                "only; after it, divide by the sampler's probability: old_logprobs.",
                lambda p, ref, old: (p - p.detach()).exp() * k3(p, ref),
            ),
            Mistake(
                "k1 with the ratio",
                "this is k1 times the ratio. Its mean and gradient are right, but single tokens go negative and scatter "
                "widely; asked is the ratio times k3.",
                lambda p, ref, old: (p - old).exp() * (p - ref),
            ),
        ),
    ),
)
