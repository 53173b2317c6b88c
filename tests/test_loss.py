import pytest
import torch

from minigrpo.kl import kl_k3
from minigrpo.loss import aggregate, cispo_objective, clipped_objective, grpo_loss, importance_ratio

pytestmark = pytest.mark.quick

B, C, V = 5, 7, 11
LENGTHS = torch.tensor([7, 1, 3, 5, 2])
MASK = torch.arange(C) < LENGTHS[:, None]
ADVANTAGES = torch.tensor([1.2, -0.7, 0.4, -1.5, 1.6], dtype=torch.float64)  # of mean 0.2: at 0 a sign would not show
LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]


def draw(seed):
    """(B, C) log-probs of tokens under a random policy over V tokens."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, C, V, generator=generator, dtype=torch.float64)
    ids = torch.randint(V, (B, C, 1), generator=torch.Generator().manual_seed(99))
    return logits.log_softmax(-1).gather(-1, ids)[..., 0]


def loss(logprobs, old_logprobs, advantages=ADVANTAGES, mask=MASK, **changes):
    settings = {
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 2.0 if changes.get("loss_type") == "cispo" else None,
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "max_completion_length": 9,
    }
    return grpo_loss(logprobs, old_logprobs, advantages, mask, **(settings | changes))


def gradient(logprobs, *args, **kwargs):
    logprobs = logprobs.clone().requires_grad_()
    loss(logprobs, *args, **kwargs).loss.backward()
    return logprobs.grad


# --- the clip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "ratio", "flows"), [(+1, 1.5, False), (+1, 0.5, True), (-1, 1.5, True), (-1, 0.5, False)]
)
def test_clipping_stops_the_gradient_only_past_the_profitable_side(advantage, ratio, flows):
    logprobs = torch.tensor(ratio).log().requires_grad_()
    clipped_objective(logprobs.exp(), torch.tensor(float(advantage)), 0.2).backward()
    assert logprobs.grad.item() == pytest.approx(advantage * ratio if flows else 0.0)


def test_the_upper_edge_moves_with_epsilon_high_and_the_lower_does_not():
    ratio, up = torch.tensor([0.75, 1.25, 1.5]), torch.tensor(1.0)
    assert clipped_objective(ratio, up, 0.2, 0.28).tolist() == pytest.approx([0.75, 1.25, 1.28])
    assert clipped_objective(ratio, up, 0.2).tolist() == pytest.approx([0.75, 1.2, 1.2])
    assert clipped_objective(ratio, -up, 0.2, 0.28).tolist() == pytest.approx([-0.8, -1.25, -1.5])


def test_cispo_caps_the_weight_but_never_silences_a_token():
    logprobs = torch.tensor([0.5, 3.0, 8.0]).log().requires_grad_()
    cispo_objective(logprobs.exp(), logprobs, torch.tensor(2.0), cap=5.0).sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([2 * 0.5, 2 * 3.0, 2 * 5.0])


def test_only_the_token_whose_own_ratio_is_too_high_is_clipped():
    """Ratios 1.1, 0.9, 1.5 of one completion: clipped one by one only the third is, whatever their product (1.485)."""
    old = torch.tensor([[-1.0, -1.0, -1.0]])
    logprobs = old + torch.tensor([[1.1, 0.9, 1.5]]).log()
    grad = gradient(logprobs, old, torch.ones(1), torch.ones(1, 3, dtype=torch.bool))
    assert grad[0].tolist() == pytest.approx([-1.1 / 3, -0.9 / 3, 0.0])


def test_the_clip_fraction_counts_the_tokens_whose_policy_gradient_is_gone():
    logprobs, old = draw(0), draw(1)
    counted = loss(logprobs, old).clip_fraction.item()
    silent = (gradient(logprobs, old) == 0) & MASK
    assert counted == pytest.approx((silent.sum() / MASK.sum()).item())
    assert 0.2 < counted < 0.8


# --- the ratio ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_the_ratio_is_one_and_the_gradient_is_reinforces(level):
    """REINFORCE with the mean over tokens, then rows: d loss / d logprob = -A / (length * B)."""
    logprobs = draw(0)
    expected = -(ADVANTAGES / LENGTHS / B)[:, None] * MASK
    torch.testing.assert_close(gradient(logprobs, logprobs, importance_sampling_level=level), expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_the_expected_gradient_is_that_of_the_expected_reward(level):
    """Enumerated over all sequences of two tokens out of three, each weighed by its probability; nothing is sampled."""
    theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    rewards = torch.arange(9, dtype=torch.float64) ** 2 % 7
    steps = theta.log_softmax(-1)  # row 0 the first step, row 1 + a the step after a
    logprobs = torch.stack([torch.stack([steps[0, a], steps[1 + a, b]]) for a in range(3) for b in range(3)])
    probability = logprobs.sum(1).exp()
    (expected,) = torch.autograd.grad((probability * rewards).sum(), theta, retain_graph=True)
    found = torch.zeros_like(theta)
    for row in range(9):
        one = logprobs[row : row + 1]
        mask = torch.ones(1, 2, dtype=torch.bool)
        settings = {"loss_type": "dr_grpo", "max_completion_length": 1}
        scalar = loss(one, one.detach(), rewards[row : row + 1], mask, importance_sampling_level=level, **settings).loss
        (gradient_of_row,) = torch.autograd.grad(scalar, theta, retain_graph=True)
        found -= probability[row].detach() * gradient_of_row
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_loss_on_policy_is_minus_the_mean_advantage(level):
    result = loss(draw(0), draw(0), importance_sampling_level=level)
    assert result.loss.item() == pytest.approx(-ADVANTAGES.mean().item())
    assert result.clip_fraction == 0


def test_a_sequence_ratio_is_the_geometric_mean_of_its_tokens():
    logprobs, old = (
        torch.tensor([[0.9, 0.2, 0.5], [0.3, 0.8, 0.1]]).log(),
        torch.tensor([[0.3, 0.4, 0.1], [0.6, 0.1, 0.1]]).log(),
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    ratio = importance_ratio(logprobs, old, mask, "sequence")
    assert ratio.shape == (2, 1)
    assert ratio[:, 0].tolist() == pytest.approx([(3 * 0.5) ** 0.5, (0.5 * 8 * 1) ** (1 / 3)])


def test_a_sequence_ratio_spreads_its_gradient_evenly_over_the_tokens():
    logprobs = draw(0)
    grad = gradient(logprobs, logprobs - 0.01, importance_sampling_level="sequence")
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(grad[row, :length], grad[row, 0].expand(length))


# --- aggregation ----------------------------------------------------------------------------------------------------


def test_each_loss_type_divides_by_what_it_says():
    """Rows of 1, 1, 1, 1 and of 9: means 1 and 9, sums 4 and 9, 5 tokens."""
    values = torch.tensor([[1.0, 1, 1, 1], [9, 70, 70, 70]])
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    found = {name: aggregate(values, mask, name, max_completion_length=10).item() for name in LOSS_TYPES}
    assert found == pytest.approx({"grpo": 5.0, "bnpo": 13 / 5, "dr_grpo": 13 / 20, "dapo": 13 / 5, "cispo": 13 / 5})


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_padding_cannot_change_the_loss(loss_type, level):
    logprobs, old = draw(0), draw(1)
    changes = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.1}
    expected = loss(logprobs, old, kl=kl_k3(logprobs, draw(2)), **changes)
    rubbish = torch.full((B, 3), float("nan"), dtype=torch.float64)
    wide = [torch.cat([t.masked_fill(~MASK, float("nan")), rubbish], 1) for t in (logprobs, old, kl_k3(logprobs, draw(2)))]
    mask = torch.cat([MASK, torch.zeros(B, 3, dtype=torch.bool)], 1)
    found = loss(wide[0], wide[1], mask=mask, kl=wide[2], **changes)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_row_order_cannot_change_the_loss(loss_type):
    logprobs, old, order = draw(0), draw(1), [3, 0, 4, 2, 1]
    expected = loss(logprobs, old, loss_type=loss_type)
    found = loss(logprobs[order], old[order], ADVANTAGES[order], MASK[order], loss_type=loss_type)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", [t for t in LOSS_TYPES if t != "bnpo"])
def test_the_gradient_is_fixed_whatever_the_split_into_micro_batches(loss_type, level):
    logprobs, old, ref = draw(0), draw(1), draw(2)
    changes = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.3}

    def part(rows, **counts):
        x = logprobs[rows].clone().requires_grad_()
        kl = kl_k3(x, ref[rows])
        result = loss(x, old[rows], ADVANTAGES[rows], MASK[rows], kl=kl, **changes, **counts)
        result.loss.backward()
        return result.loss.detach(), x.grad

    whole_loss, whole_grad = part(slice(0, B))
    parts = [part(rows, num_sequences=B, num_tokens=int(MASK.sum())) for rows in (slice(0, 1), slice(1, B))]
    torch.testing.assert_close(sum(p[0] for p in parts), whole_loss)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole_grad)


def test_bnpo_depends_on_the_split_by_definition():
    logprobs, old = draw(0), draw(1)
    whole = loss(logprobs, old, loss_type="bnpo").loss
    halves = [loss(logprobs[r], old[r], ADVANTAGES[r], MASK[r], loss_type="bnpo").loss for r in (slice(0, 1), slice(1, B))]
    assert abs(sum(halves) / 2 - whole) > 0.01


def test_a_fully_masked_row_adds_nothing_and_counts_as_a_sequence():
    logprobs, old = draw(0), draw(1)
    mask = MASK.clone()
    mask[2] = False
    others = [0, 1, 3, 4]
    for loss_type, share in (("grpo", 4 / 5), ("dr_grpo", 4 / 5), ("dapo", 1.0)):
        found = loss(logprobs, old, mask=mask, loss_type=loss_type).loss
        without = loss(logprobs[others], old[others], ADVANTAGES[others], mask[others], loss_type=loss_type).loss
        torch.testing.assert_close(found, without * share)
    assert gradient(logprobs, old, mask=mask)[2].abs().sum() == 0


def test_length_bias_short_completions_weigh_more_a_token_in_grpo_and_the_same_in_dr_grpo():
    logprobs = draw(0)
    ones = torch.ones(B, dtype=torch.float64)
    grpo = gradient(logprobs, logprobs, ones)[:, 0]
    assert (grpo[1] / grpo[0]).item() == pytest.approx(7.0)  # lengths 1 and 7
    dr_grpo = gradient(logprobs, logprobs, ones, loss_type="dr_grpo")[:, 0]
    assert (dr_grpo[1] / dr_grpo[0]).item() == pytest.approx(1.0)


# --- penalty, advantages, and what is handed in ---------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_beta_adds_the_kl_in_the_same_average_and_pulls_towards_the_reference(loss_type):
    logprobs, ref = draw(0), draw(2)
    zero = torch.zeros(B, dtype=torch.float64)  # only the penalty acts
    x = logprobs.clone().requires_grad_()
    result = loss(x, logprobs, zero, kl=kl_k3(x, ref), beta=0.5, loss_type=loss_type)
    result.loss.backward()
    average = aggregate(kl_k3(logprobs, ref), MASK, loss_type, max_completion_length=9)
    torch.testing.assert_close(result.loss.detach(), 0.5 * average)
    torch.testing.assert_close(result.kl, kl_k3(logprobs, ref)[MASK].mean())
    moved = logprobs - 1e-3 * x.grad
    closer = kl_k3(moved, ref)[MASK] <= kl_k3(logprobs, ref)[MASK]
    assert closer.all()


def test_advantages_of_tokens_and_of_completions_agree():
    logprobs, old = draw(0), draw(1)
    torch.testing.assert_close(loss(logprobs, old, ADVANTAGES[:, None].expand(B, C)), loss(logprobs, old))
    per_token = draw(5)
    by_hand = -(torch.minimum((logprobs - old).exp() * per_token, (logprobs - old).exp().clamp(0.8, 1.2) * per_token))
    expected = sum(by_hand[row, :n].mean() for row, n in enumerate(LENGTHS)) / B
    torch.testing.assert_close(loss(logprobs, old, per_token).loss, expected)


def test_two_rewards_give_two_gradients():
    """The bug this course started from: a reward that is a constant to autograd gives the same gradient whatever it is."""
    logprobs = draw(0)
    assert not torch.allclose(gradient(logprobs, logprobs), gradient(logprobs, logprobs, ADVANTAGES.flip(0)))


def test_inputs_are_left_alone():
    tensors = [draw(0), draw(1), ADVANTAGES.clone(), MASK.clone(), kl_k3(draw(0), draw(2))]
    before = [t.clone() for t in tensors]
    loss(*tensors[:4], kl=tensors[4], beta=0.1)
    for now, then in zip(tensors, before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": MASK & False}, "no token to learn from"),
        ({"mask": MASK.long()}, "must be bool"),
        ({"mask": MASK[:, :3]}, r"completion_mask must be \(B, C\) like logprobs"),
        ({"advantages": ADVANTAGES[:3]}, r"advantages must be \(B,\) or \(B, C\)"),
        ({"advantages": ADVANTAGES.clone().requires_grad_()}, "advantages carries a gradient"),
        ({"beta": 0.1}, "no kl to weigh"),
        ({"kl": draw(2)[:1]}, "kl must be"),
        ({"loss_type": "cispo", "epsilon_high": None}, "cispo needs epsilon_high"),
        ({"loss_type": "ppo"}, "grpo, bnpo, dr_grpo, dapo or cispo"),
        ({"loss_type": "dr_grpo", "max_completion_length": None}, "max_completion_length, which was not given"),
        ({"importance_sampling_level": "word"}, "'token' or 'sequence'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        loss(draw(0), draw(1), **change)


def test_old_log_probs_with_a_gradient_are_refused_since_they_would_cancel_it():
    logprobs = draw(0).requires_grad_()
    with pytest.raises(ValueError, match="old_logprobs carries a gradient"):
        loss(logprobs, logprobs)


def test_an_average_of_nothing_is_refused_and_not_nan():
    for loss_type in LOSS_TYPES:
        with pytest.raises(ValueError, match="no token to learn from"):
            aggregate(draw(0), MASK & False, loss_type, max_completion_length=9)


@pytest.mark.parametrize("objective", [clipped_objective, lambda r, a, cap: cispo_objective(r, r, a, cap)])
def test_advantages_of_completions_are_not_laid_along_the_tokens(objective):
    """With as many rows as tokens nothing else would tell."""
    with pytest.raises(ValueError, match=r"make them \(B, 1\)"):
        objective(torch.ones(3, 3), torch.ones(3), 0.2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: importance_ratio(draw(0), draw(1)[:, :1], MASK), r"old_logprobs must be \(B, C\) like logprobs"),
        (lambda: importance_ratio(draw(0), draw(1), MASK.float()), "must be bool"),
        (lambda: aggregate(draw(0)[:, :1], MASK, "grpo"), r"completion_mask must be \(B, C\) like values"),
        (lambda: aggregate(draw(0), MASK.long(), "grpo"), "must be bool"),
        (lambda: loss(draw(0).tolist(), draw(1)), "logprobs must be a tensor"),
        (lambda: loss(draw(0), None), "old_logprobs must be a tensor"),
        (lambda: loss(draw(0), draw(1), [1.0] * B), "advantages must be a tensor"),
        (lambda: loss(draw(0), draw(1), kl=0.1, beta=0.1), "kl must be a tensor"),
        (lambda: loss(draw(0)[0], draw(1)[0], mask=MASK[0]), r"logprobs must be \(B, C\), got \(7,\)"),
    ],
)
def test_careless_calls_end_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
