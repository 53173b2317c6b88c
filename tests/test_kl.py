"""KL estimators by exact enumeration: every outcome is weighed by its probability, and nothing is sampled.

The outcomes of one token settle which estimator is right where; sequences of two tokens settle what "right" means when
what is drawn first decides what can come next.
"""

import math

import pytest
import torch

from minigrpo.kl import LARGEST_LOG, estimate_kl, kl_exact, kl_k1, kl_k2, kl_k3, kl_k3_ratio, kl_penalized_rewards

pytestmark = pytest.mark.quick

REF = torch.tensor([0.1, 0.2, 0.05, 0.4, 0.15, 0.1], dtype=torch.float64).log()


def logits():
    return torch.tensor([1.0, -0.5, 0.7, -1.2, 0.3, 2.0], dtype=torch.float64, requires_grad=True)


def kl_of(theta):
    log_p = theta.log_softmax(-1)
    return (log_p.exp() * (log_p - REF)).sum()


def estimator(name):
    return lambda log_p: estimate_kl(log_p, REF, log_p.detach(), estimator=name)


def gradient(scalar, theta):
    return torch.autograd.grad(scalar, theta)[0]


def gradient_in_loss(name):
    """E over the policy's draws (their probability is data, not differentiated) of the estimate's gradient."""
    theta = logits()
    log_p = theta.log_softmax(-1)
    return gradient((log_p.exp().detach() * estimator(name)(log_p)).sum(), theta)


def gradient_in_reward(name):
    """The policy gradient of the expected penalty: the estimate is a number that weighs the score function."""
    theta = logits()
    log_p = theta.log_softmax(-1)
    return gradient((log_p.exp().detach() * estimator(name)(log_p).detach() * log_p).sum(), theta)


TRUE_GRADIENT = gradient(kl_of(t := logits()), t)


@pytest.mark.parametrize(("name", "unbiased"), [("k1", True), ("k2", False), ("k3", True), ("k3_ratio", True)])
def test_which_estimators_have_the_right_value(name, unbiased):
    log_p = logits().detach().log_softmax(-1)
    expected = (log_p.exp() * estimator(name)(log_p)).sum()
    exact = kl_of(logits()).detach()
    reverse = (REF.exp() * (REF - log_p)).sum()
    assert abs(exact - reverse) > 0.1  # the direction matters here
    assert torch.isclose(expected, exact, rtol=1e-12) == unbiased


@pytest.mark.parametrize(("name", "right"), [("k1", False), ("k2", True), ("k3", False), ("k3_ratio", True)])
def test_which_estimators_have_the_right_gradient_in_the_loss(name, right):
    assert (
        (gradient_in_loss(name) - TRUE_GRADIENT).norm() < 1e-12
        if right
        else (gradient_in_loss(name) - TRUE_GRADIENT).norm() > 0.05
    )


def test_k1_in_the_loss_has_no_expected_gradient_at_all():
    assert gradient_in_loss("k1").norm() < 1e-12


def test_k3_in_the_loss_has_the_gradient_of_the_other_direction():
    theta = logits()
    reverse = (REF.exp() * (REF - theta.log_softmax(-1))).sum()
    torch.testing.assert_close(gradient_in_loss("k3"), gradient(reverse, theta))


@pytest.mark.parametrize(("name", "right"), [("k1", True), ("k2", False), ("k3", False)])
def test_which_estimators_have_the_right_gradient_in_the_reward(name, right):
    error = (gradient_in_reward(name) - TRUE_GRADIENT).norm()
    assert error < 1e-12 if right else error > 0.05


def test_exact_kl_is_the_expectation_of_k1_at_every_position_and_temperature():
    generator = torch.Generator().manual_seed(0)
    policy, ref = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    log_p, log_q = (policy / 0.7).log_softmax(-1), (ref / 0.7).log_softmax(-1)
    expected = (log_p.exp() * kl_k1(log_p, log_q)).sum(-1)
    torch.testing.assert_close(kl_exact(policy, ref, temperature=0.7), expected)
    assert kl_exact(policy, ref).shape == (3, 5)


@pytest.mark.parametrize(("shift", "steadier"), [(0.1, "k3"), (8.0, "k1")])
def test_near_the_reference_k3_is_the_steadier_estimate_and_far_from_it_k1(shift, steadier):
    """Both have the same mean, so the one with the larger mean square scatters more. Far: all but one token are given up."""
    log_p = (REF + shift * torch.nn.functional.one_hot(torch.tensor(2), 6)).log_softmax(0)
    squares = {name: (log_p.exp() * estimator(name)(log_p) ** 2).sum() for name in ("k1", "k3")}
    assert squares[steadier] < 0.5 * squares["k1" if steadier == "k3" else "k3"]


# --- sequences of two tokens ----------------------------------------------------------------------------------------

V = 3


def two_token_policy():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1 + V, V, generator=generator, dtype=torch.float64, requires_grad=True)


REF_2 = torch.randn(1 + V, V, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def sequence_logprobs(theta):
    """(V * V, 2): the log-probs of both tokens of every sequence; row 0 of theta is the first step, 1 + y the step after y."""
    steps = theta.log_softmax(-1)
    return torch.stack([torch.stack([steps[0, a], steps[1 + a, b]]) for a in range(V) for b in range(V)])


def sequence_kl(theta, ref):
    log_p, log_q = sequence_logprobs(theta).sum(1), sequence_logprobs(ref).sum(1)
    return (log_p.exp() * (log_p - log_q)).sum()


def test_k1_and_k3_summed_over_the_tokens_have_the_value_of_the_kl_of_whole_sequences():
    theta = two_token_policy()
    logprobs, ref_logprobs = sequence_logprobs(theta), sequence_logprobs(REF_2)
    probability = logprobs.sum(1).exp()
    for estimate in (kl_k1, kl_k3):
        torch.testing.assert_close((probability * estimate(logprobs, ref_logprobs).sum(1)).sum(), sequence_kl(theta, REF_2))


def test_k1_in_the_reward_is_the_gradient_of_the_kl_of_whole_sequences():
    theta = two_token_policy()
    logprobs, ref_logprobs = sequence_logprobs(theta), sequence_logprobs(REF_2)
    mask = torch.ones(V * V, 2, dtype=torch.bool)
    penalty = -kl_penalized_rewards(torch.zeros(V * V, dtype=torch.float64), logprobs.detach(), ref_logprobs, mask, beta=1.0)
    probability = logprobs.sum(1).exp().detach()
    torch.testing.assert_close((probability * penalty).sum(), sequence_kl(theta, REF_2).detach())
    found = gradient((probability * penalty * logprobs.sum(1)).sum(), theta)
    torch.testing.assert_close(found, gradient(sequence_kl(theta, REF_2), theta))


@pytest.mark.parametrize("name", ["k2", "k3_ratio", "exact"])
def test_in_the_loss_the_gradient_is_that_of_the_next_tokens_kl_at_the_prefixes_visited(name):
    """The estimate of a token carries no gradient for the tokens before it, which led to where it was drawn."""
    theta = two_token_policy()
    logprobs, ref_logprobs = sequence_logprobs(theta), sequence_logprobs(REF_2)
    probability = logprobs.sum(1).exp().detach()
    if name == "exact":
        visited = torch.tensor([[0, 1 + a] for a in range(V) for _ in range(V)])
        kl = kl_exact(theta[visited], REF_2[visited])
    else:
        kl = estimate_kl(logprobs, ref_logprobs, logprobs.detach(), estimator=name)
    found = gradient((probability[:, None] * kl).sum(), theta)

    theta = two_token_policy()
    steps, ref_steps = theta.log_softmax(-1), REF_2.log_softmax(-1)
    next_token_kl = (steps.exp() * (steps - ref_steps)).sum(-1)
    visits = torch.cat([torch.ones(1, dtype=torch.float64), steps[0].exp().detach()])
    torch.testing.assert_close(found, gradient((visits * next_token_kl).sum(), theta))
    whole = gradient(sequence_kl(two := two_token_policy(), REF_2), two)
    assert (found - whole).norm() > 0.05  # not the same thing: only the penalty in the reward sees the whole sequence


# --- numbers --------------------------------------------------------------------------------------------------------


def test_k3_by_hand():
    """Policy 0.5, reference 0.25: r = 0.5, so 0.5 - 1 - log 0.5 = 0.1931."""
    assert kl_k3(torch.tensor(0.5).log(), torch.tensor(0.25).log()).item() == pytest.approx(0.1931, abs=1e-4)


def test_k3_is_never_negative_and_keeps_precision_where_the_policies_are_close():
    close = torch.tensor([-1.0], dtype=torch.float32)
    assert kl_k3(close, close + 1e-4).item() == pytest.approx(0.5e-8, rel=1e-2)
    logprobs, ref = -5 * torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert (kl_k3(logprobs, ref) >= 0).all()


def test_a_token_the_policy_has_given_up_stays_finite():
    logprobs = torch.tensor([-200.0], requires_grad=True)
    kl = kl_k3_ratio(logprobs, torch.tensor([-0.1]), logprobs.detach())
    kl.sum().backward()
    assert torch.isfinite(kl).all()
    assert torch.isfinite(logprobs.grad).all()


def test_far_away_k3_goes_on_as_its_tangent_where_trls_overflows():
    """On purpose unlike TRL: exp(ref - logp) - (ref - logp) - 1 is inf in float32 from a difference of 89 on. Up to
    LARGEST_LOG the two agree, and beyond it the gradient still pulls the token back up."""
    logprobs = torch.tensor([-5.0, -LARGEST_LOG, -LARGEST_LOG - 1, -100.0], dtype=torch.float64, requires_grad=True)
    kl = kl_k3(logprobs, torch.zeros(4).double())
    kl.sum().backward()
    steep = math.exp(LARGEST_LOG)
    expected = [math.expm1(5) - 5, steep - 1 - LARGEST_LOG, 2 * steep - 2 - LARGEST_LOG, 81 * steep - 101]
    assert kl.tolist() == pytest.approx(expected)
    assert logprobs.grad.tolist() == pytest.approx([1 - math.exp(5), *[1 - steep] * 3])


def test_the_ratio_in_k3_ratio_is_policy_over_sampler():
    logprobs, ref, old = torch.tensor([0.5, 0.25, 0.8]).log()
    r = 0.25 / 0.5
    assert kl_k3_ratio(logprobs, ref, old).item() == pytest.approx(0.5 / 0.8 * (r - 1 - torch.tensor(r).log().item()), rel=1e-5)


def test_the_penalty_in_the_reward_sums_over_the_completion_and_skips_padding():
    old = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -0.5, -0.5]])
    ref = torch.tensor([[-2.0, -2.5, -1.0], [-0.5, -1.0, -2.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    penalized = kl_penalized_rewards(torch.tensor([1.0, 2.0]), old, ref, mask, beta=0.1)
    torch.testing.assert_close(penalized, torch.tensor([1.0 - 0.1 * 1.5, 2.0 - 0.1 * 2.0]))


def test_unknown_estimators_are_refused():
    with pytest.raises(ValueError, match="k3_ratio, got 'exact'"):
        estimate_kl(*torch.zeros(3, 2), estimator="exact")


def test_k2_by_hand():
    assert kl_k2(torch.tensor(-1.0), torch.tensor(-3.0)).item() == 2.0


# --- tokens that are ruled out, and careless input ------------------------------------------------------------------


def test_what_both_rule_out_adds_nothing_to_the_exact_kl_or_its_gradient():
    shut = torch.full((1, 1), -torch.inf, dtype=torch.float64)
    allowed, ref = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64), torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    narrow = allowed.clone().requires_grad_()
    expected = kl_exact(narrow, ref)
    wide = torch.cat([allowed, shut], 1).requires_grad_()
    found = kl_exact(wide, torch.cat([ref, shut], 1))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found.sum(), wide)[:, :3], gradient(expected.sum(), narrow))
    assert gradient(kl_exact(wide, torch.cat([ref, shut], 1)).sum(), wide)[0, 3] == 0


def test_what_the_policy_alone_rules_out_is_0_log_0_and_what_the_reference_alone_rules_out_is_infinitely_far():
    one, both = torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, 0.0]])
    assert kl_exact(one, both).item() == pytest.approx(math.log(2))
    assert kl_exact(both, one).item() == math.inf


def test_the_exact_kl_of_bfloat16_logits_is_counted_in_float32():
    policy, ref = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = kl_exact(policy, ref)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kl_exact(policy.double(), ref.double()).float())


def test_k3_of_a_token_that_the_reference_rules_out_is_inf():
    assert kl_k3(torch.tensor([-1.0]), torch.tensor([-torch.inf])).item() == math.inf


@pytest.mark.parametrize("shape", [(2, 1), (3,), (1, 3)])
@pytest.mark.parametrize("estimate", [kl_k1, kl_k2, kl_k3, kl_exact])
def test_shapes_that_would_be_broadcast_are_refused(estimate, shape):
    with pytest.raises(ValueError, match=r"must be of one shape like log\w+, \(2, 3\), got"):
        estimate(torch.zeros(2, 3), torch.zeros(shape))
    with pytest.raises(ValueError, match="old_logprobs must be of one shape"):
        kl_k3_ratio(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rewards": torch.zeros(2, 1)}, r"rewards must be \(B,\)"),
        ({"rewards": torch.zeros(1)}, r"rewards must be \(B,\)"),
        ({"rewards": [0.0, 0.0]}, "rewards must be a tensor"),
        ({"ref_logprobs": torch.zeros(2, 1)}, r"ref_logprobs must be \(B, C\)"),
        ({"completion_mask": torch.ones(3).bool()}, r"completion_mask must be \(B, C\)"),
        ({"completion_mask": torch.ones(2, 3)}, "completion_mask must be bool"),
    ],
)
def test_the_penalty_in_the_reward_refuses_what_would_be_broadcast(change, sentence):
    args = {"rewards": torch.zeros(2), "old_logprobs": torch.zeros(2, 3), "ref_logprobs": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=sentence):
        kl_penalized_rewards(**(args | {"completion_mask": torch.ones(2, 3).bool()} | change), beta=0.1)
