import math

import pytest
import torch

from minigrpo.logprobs import completion_mask, shift_logits, token_entropies, token_logprobs
from minigrpo.scoring import completion_logits

pytestmark = pytest.mark.quick


def sequences(*rows, pad):
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


# --- mask -----------------------------------------------------------------------------------------------------------


def test_the_first_eos_counts_and_nothing_after_it():
    eos = 9
    ids = torch.tensor([[1, 2, 9, 9, 3], [9, 1, 1, 1, 1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 9]])
    assert completion_mask(ids, eos).tolist() == [
        [True, True, True, False, False],
        [True, False, False, False, False],
        [True] * 5,
        [True] * 5,
    ]


# --- log-probs and entropy ------------------------------------------------------------------------------------------


def test_a_model_that_knows_the_next_token_scores_it_near_zero_and_only_at_the_right_shift():
    """Token t + 1 follows token t for certain: scored at the right shift its log-prob is 0, at any other it is far below."""
    ids = torch.tensor([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]])  # prompts of 2, completions of 3
    logits = 50.0 * torch.nn.functional.one_hot(ids + 1, 8)
    right = token_logprobs(shift_logits(logits, prompt_length=2), ids[:, 2:])
    assert right.shape == (2, 3)
    assert right.abs().max() < 1e-6
    assert token_logprobs(logits[:, 2:], ids[:, 2:]).max() < -40  # one too far: each token by what follows it


def test_temperature_divides_the_logits():
    logits, ids = torch.tensor([[[1.0, 3.0, 0.0]]]), torch.tensor([[1]])
    for temperature in (0.5, 0.7, 1.0, 2.0):
        weights = [math.exp(x / temperature) for x in (1.0, 3.0, 0.0)]
        expected = math.log(weights[1] / sum(weights))
        assert token_logprobs(logits, ids, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_one_hot_minus_probabilities():
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    token_logprobs(logits, ids, temperature=0.5).sum().backward()
    expected = (torch.nn.functional.one_hot(ids, 7) - (logits / 0.5).softmax(-1)) / 0.5
    torch.testing.assert_close(logits.grad, expected.detach())


def test_an_impossible_token_has_a_finite_log_prob():
    logits = torch.tensor([[[120.0, 0.0]]])
    assert token_logprobs(logits, torch.tensor([[1]])).item() == pytest.approx(-120)


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    logprobs = token_logprobs(logits, torch.zeros(2, 3, dtype=torch.long))
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, logits.float().log_softmax(-1)[..., 0])
    assert token_entropies(logits).dtype == torch.float32


def test_entropy_is_log_v_when_undecided_and_0_when_certain():
    assert token_entropies(torch.zeros(3, 5, 7)).flatten().tolist() == pytest.approx([math.log(7)] * 15)
    assert token_entropies(torch.tensor([[[200.0, 0.0, 0.0]]])).item() == pytest.approx(0, abs=1e-6)
    two = token_entropies(torch.tensor([[[0.0, 2.0]]]), temperature=2.0).item()  # p = 1 / (1 + e)
    p = 1 / (1 + math.e)
    assert two == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-5)


def test_logits_of_prompt_and_completion_are_refused_with_the_cause():
    with pytest.raises(ValueError, match="shift_logits first"):
        token_logprobs(torch.zeros(2, 5, 7), torch.zeros(2, 3, dtype=torch.long))


# --- through a model ------------------------------------------------------------------------------------------------

PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8], [9], [10, 11, 12]]  # ragged
COMPLETIONS = [[21, 22, 23], [24], [25, 26, 27, 28], [29, 30], [31, 32, 33], [34], [35, 36]]
GROUP_IDS = torch.tensor([0, 0, 1, 1, 1, 2, 3])  # groups of uneven size


def batch(pad):
    width = max(map(len, PROMPTS))
    prompt_ids = torch.tensor([[pad] * (width - len(p)) + p for p in PROMPTS])
    prompt_mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in PROMPTS])
    ids = sequences(*COMPLETIONS, pad=pad)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(c) for c in COMPLETIONS])[:, None]
    return prompt_ids, prompt_mask, GROUP_IDS, ids, mask


def alone(model, row):
    """The log-probs of one completion, from one pass over its unpadded prompt and itself."""
    prompt, completion = PROMPTS[GROUP_IDS[row]], COMPLETIONS[row]
    logits = model(torch.tensor([prompt + completion])).logits
    return token_logprobs(shift_logits(logits, len(prompt)), torch.tensor([completion]))[0]


@pytest.mark.parametrize("pad", [0, 256])
def test_in_a_ragged_batch_every_completion_scores_as_it_does_alone(random_model, pad):
    """GPT-2 has absolute positions: without position ids, padding on the left would shift every shorter prompt's."""
    *inputs, ids, mask = batch(pad)
    logprobs = token_logprobs(completion_logits(random_model, *inputs, ids), ids)
    for row in range(len(COMPLETIONS)):
        torch.testing.assert_close(logprobs[row][mask[row]], alone(random_model, row), rtol=1e-4, atol=1e-5)


def test_reading_a_prompt_once_gives_the_same_gradient_as_reading_it_for_each_completion(random_model):
    *inputs, ids, mask = batch(0)
    weights = torch.randn(ids.shape, generator=torch.Generator().manual_seed(0))
    logprobs = token_logprobs(completion_logits(random_model, *inputs, ids), ids)
    (logprobs * weights)[mask].sum().backward()
    shared = [p.grad.clone() for p in random_model.parameters()]
    random_model.zero_grad()
    for row in range(len(COMPLETIONS)):
        (alone(random_model, row) * weights[row][mask[row]]).sum().backward()
    for one, other in zip(shared, [p.grad for p in random_model.parameters()], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_prompt_of_one_token_needs_no_cache(random_model):
    ids = torch.tensor([[5, 6, 7]])
    one = torch.tensor([[9]])
    found = completion_logits(random_model, one, torch.ones_like(one, dtype=torch.bool), torch.tensor([0]), ids)
    torch.testing.assert_close(found, shift_logits(random_model(torch.tensor([[9, 5, 6, 7]])).logits, 1))


def test_padding_columns_cannot_change_a_score(random_model):
    *inputs, ids, mask = batch(0)
    wider = torch.cat([ids, torch.full((len(ids), 3), 77)], dim=1)
    narrow, wide = (token_logprobs(completion_logits(random_model, *inputs, x), x) for x in (ids, wider))
    torch.testing.assert_close(narrow[mask], wide[:, : ids.shape[1]][mask])


def test_the_first_of_several_eos_tokens_ends_a_completion():
    ids = torch.tensor([[1, 6, 2, 7], [7, 1, 6, 1], [1, 2, 3, 4]])
    expected = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    for several in ([6, 7], torch.tensor([6, 7])):
        assert torch.equal(completion_mask(ids, several), expected)


# --- tokens that are ruled out, and careless input ------------------------------------------------------------------


def test_a_token_that_is_ruled_out_adds_nothing_to_the_entropy_or_its_gradient():
    """As if the vocabulary had never held it: 0 log 0 is 0."""
    allowed = torch.tensor([[[0.3, -1.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    expected = token_entropies(allowed)
    (slope,) = torch.autograd.grad(expected.sum(), allowed)
    logits = torch.cat([allowed.detach(), torch.full((1, 1, 1), -torch.inf, dtype=torch.float64)], -1).requires_grad_()
    found = token_entropies(logits)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.cat([slope, torch.zeros(1, 1, 1, dtype=torch.float64)], -1))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan])
@pytest.mark.parametrize("function", [lambda x, t: token_logprobs(x, torch.zeros(1, 2).long(), t), token_entropies])
def test_there_is_no_log_prob_at_temperature_0_or_below(function, temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        function(torch.zeros(1, 2, 3), temperature)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: token_logprobs([[[0.0]]], torch.zeros(1, 1).long()), ValueError, "logits must be a tensor"),
        (lambda: token_logprobs(torch.zeros(1, 1, 3), [[0]]), ValueError, "token_ids must be a tensor"),
        (lambda: token_entropies([[[0.0]]]), ValueError, "logits must be a tensor"),
        (lambda: shift_logits(torch.zeros(2, 5, 7), 0), ValueError, "prompt_length must be between 1 and 5"),
        (lambda: shift_logits(torch.zeros(2, 5, 7), 6), ValueError, "prompt_length must be between 1 and 5"),
        (lambda: shift_logits(torch.zeros(5, 7), 2), ValueError, r"logits must be \(B, L \+ C, V\), got \(5, 7\)"),
        (lambda: completion_mask([[1, 2]], 2), ValueError, "completion_ids must be a tensor"),
        (lambda: completion_mask(torch.tensor([1, 2]), 2), ValueError, r"must be \(B, C\), got \(2,\)"),
    ],
)
def test_careless_calls_end_in_a_sentence(call, kind, sentence):
    with pytest.raises(kind, match=sentence):
        call()
