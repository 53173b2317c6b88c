"""The fast way to log-probs against the plain one: values and gradients, whatever is left out."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from minigrpo import head, scoring
from minigrpo.head import ChunkedHead
from minigrpo.logprobs import completion_mask, shift_logits, token_entropies, token_logprobs
from minigrpo.scoring import completion_logits, completion_logprobs

pytestmark = pytest.mark.quick

EOS = 256
PROMPTS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]
# Of each prompt some; the second and the fourth are the same but for what stands behind the end.
COMPLETIONS = {
    0: [[11, 12, 13, 14, 15, 16, 17, 18, 19], [11, EOS, 1, 1, 1, 1, 1, 1, 1], [20, 21, 22, EOS, 0, 0, 0, 0, 0]],
    1: [[11, EOS, 9, 9, 9, 9, 9, 9, 9], [11, 12, 13, 14, 15, 16, 17, 18, 19], [11, 12, 13, 14, 15, 16, 17, 18, 19]],
    2: [[EOS, 5, 5, 5, 5, 5, 5, 5, 5], [20, 21, 22, 23, EOS, 0, 0, 0, 0]],
}
REPEATED = ([11, EOS, 77, 77, 77, 77, 77, 77, 77], 0)


@pytest.fixture
def batch():
    """prompt_ids, prompt_mask, group_ids, completion_ids and their mask; the rows of a prompt do not stand together."""
    width = max(map(len, PROMPTS))
    prompt_ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    prompt_mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in PROMPTS])
    rows = [(ids, group) for group, several in COMPLETIONS.items() for ids in several] + [REPEATED]
    ids = torch.tensor([ids for ids, _ in rows])
    mask = completion_mask(ids, EOS)
    mask[5, 2:5] = False  # a chat's other voice: read, but not scored
    return prompt_ids, prompt_mask, torch.tensor([group for _, group in rows]), ids, mask


def gradient(model, total):
    model.zero_grad()
    total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("cells", [2**24, 257 * 3])
def test_fast_is_plain_in_value_and_gradient(random_model, batch, temperature, cells, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", cells)
    model, (*inputs, ids, mask) = random_model.double(), batch
    logits = completion_logits(model, *inputs, ids)
    plain = torch.where(mask, token_logprobs(logits, ids, temperature), 0.0)
    logprobs, entropies = completion_logprobs(model, *inputs, ids, mask, temperature)
    torch.testing.assert_close(logprobs, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(entropies[mask], token_entropies(logits.detach(), temperature)[mask], rtol=1e-6, atol=0)
    assert not entropies.requires_grad
    weights = torch.randn(ids.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = gradient(model, (plain * weights).sum()), gradient(model, (logprobs * weights).sum())
    torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-12)


def test_what_is_left_out(random_model, batch):
    """Repeated rows, padding beyond twice a completion's length, and the head on padding."""
    *_, mask = batch
    head.head_is_all(random_model), scoring.cache_has_rows(random_model)  # each reads a text of its own, once
    read, scored = [], []

    def note(module, args, inputs):
        read.append(tuple((args[0] if args else inputs["input_ids"]).shape))

    hook = random_model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    original = ChunkedHead.apply
    ChunkedHead.apply = lambda hidden, *rest: scored.append(len(hidden)) or original(hidden, *rest)
    try:
        completion_logprobs(random_model, *batch)
    finally:
        ChunkedHead.apply = original
        hook.remove()
    prompts, *groups = read
    assert prompts == (3, 4)  # all but the last token
    assert groups == [(1, 1), (2, 2), (1, 4), (1, 8), (3, 9)]  # one token; two; four; five, of at most 8; nine
    assert scored == [int(mask.sum()) - 2]  # without those of the row that is there twice


def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(random_model, batch, monkeypatch):
    """Behind it stands the padding of the shorter prompts."""
    model, (prompt_ids, prompt_mask, *completions) = random_model.double(), batch
    beginning = torch.arange(30, 47)
    texts = [torch.cat([beginning, ids[counts]]) for ids, counts in zip(prompt_ids, prompt_mask, strict=True)]
    pads = [len(texts[0]) - len(text) for text in texts]
    prompt_ids = torch.stack([torch.cat([text.new_zeros(pad), text]) for pad, text in zip(pads, texts, strict=True)])
    prompt_mask = torch.arange(prompt_ids.shape[1]) >= torch.tensor(pads)[:, None]
    head.head_is_all(model), scoring.cache_has_rows(model)
    read, found = [], []
    hook = model.base_model.register_forward_pre_hook(lambda module, args: read.append(tuple(args[0].shape)))
    for worth in (17, 18):
        monkeypatch.setattr(scoring, "WORTH_A_PASS", worth)
        logprobs, _ = completion_logprobs(model, prompt_ids, prompt_mask, *completions)
        weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found.append((logprobs, gradient(model, (logprobs * weights).sum())))
    hook.remove()
    assert read[:2] == [(1, 17), (3, 4)]  # the beginning once, and the rest but for the last token
    assert read[len(read) // 2 + 1] == (3, 21)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-12)


def test_the_chunked_head_has_the_gradient_that_finite_differences_have():
    generator = torch.Generator().manual_seed(0)
    shapes = (7, 4), (11, 4), (11,)
    hidden, weight, bias = (torch.randn(*s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    ids = torch.randint(11, (7,), generator=generator)
    for offset in (bias, None):
        assert torch.autograd.gradcheck(lambda h, w, b=offset: ChunkedHead.apply(h, w, b, ids, 0.7)[0], (hidden, weight))
    assert torch.autograd.gradcheck(lambda b: ChunkedHead.apply(hidden, weight, b, ids, 0.7)[0], (bias,))


def test_it_holds_one_chunk_of_logits_at_a_time(monkeypatch):
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", 50)
    sizes = []
    original = head._logits
    monkeypatch.setattr(head, "_logits", lambda *args: sizes.append(original(*args).numel()) or original(*args))
    hidden, weight = torch.randn(23, 4, requires_grad=True), torch.randn(11, 4)
    ChunkedHead.apply(hidden, weight, None, torch.zeros(23, dtype=torch.long), 1.0)[0].sum().backward()
    assert max(sizes) <= 50
    assert sum(sizes) == 2 * 23 * 11  # once forward, once backward


def test_where_a_model_changes_the_logits_behind_its_head_they_are_taken_from_the_model(batch):
    *inputs, ids, mask = batch
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=257, num_key_value_heads=1, final_logit_softcapping=0.1, initializer_range=2.0, **sizes)
    ).eval()
    row = 3
    text = torch.tensor([PROMPTS[1] + ids[row].tolist()])
    plain = token_logprobs(shift_logits(model(text).logits, len(PROMPTS[1])), ids[row : row + 1])[0]
    torch.testing.assert_close(completion_logprobs(model, *inputs, ids, mask)[0][row][mask[row]], plain[mask[row]])


SIZES = {
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
}
FAMILIES = {
    "a window of 4 tokens": lambda: MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=4)),
    "a window in every second layer": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES, num_key_value_heads=1, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
        )
    ),
    "a head with a bias": lambda: PhiForCausalLM(PhiConfig(**SIZES, pad_token_id=0)),
    "positions from 2, a head of other width": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=257,
            hidden_size=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=40,
            word_embed_proj_dim=8,
            init_std=0.4,
        )
    ),
    "a transform before the head": lambda: ModernBertDecoderForCausalLM(
        ModernBertDecoderConfig(**SIZES, local_attention=8, pad_token_id=0, cls_token_id=1, sep_token_id=2)
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_scored_as_one_text_at_a_time_would_be(batch, family):
    """Against the model's own logits for a text alone: no padding, no cache, no shared prompt; value and gradient."""
    *inputs, ids, mask = batch
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family]().double().eval()
    rows = []
    for row, group in zip(ids, inputs[2].tolist(), strict=True):
        text = torch.tensor([PROMPTS[group] + row.tolist()])
        logits = shift_logits(model(text, use_cache=False).logits, len(PROMPTS[group]))
        rows.append(token_logprobs(logits.double(), row[None], 0.7)[0])
    plain = torch.where(mask, torch.stack(rows), 0.0)
    logprobs, _ = completion_logprobs(model, *inputs, ids, mask, 0.7)
    torch.testing.assert_close(logprobs, plain, rtol=1e-5, atol=0, check_dtype=False)
    weights = torch.randn(ids.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = gradient(model, (plain * weights).sum()), gradient(model, (logprobs * weights).sum())
    assert (other - one).abs().max() < 1e-5 * one.abs().max()


def test_log_probs_are_float32_whatever_the_weights_are(random_model, batch):
    *inputs, ids, mask = batch
    model = random_model.bfloat16()
    logprobs, _ = completion_logprobs(model, *inputs, ids, mask)
    plain = token_logprobs(completion_logits(model, *inputs, ids), ids)
    assert logprobs.dtype == plain.dtype == torch.float32


def test_where_nothing_is_scored_all_is_zero(random_model, batch):
    *inputs, ids, mask = batch
    assert not completion_logprobs(random_model, *inputs, ids, torch.zeros_like(mask))[0].any()


def test_a_token_that_the_heads_bias_rules_out_adds_nothing_to_the_entropy():
    """0 log 0 is 0: the chunked head, the plain way and a vocabulary without that token agree."""
    hidden, weight = torch.randn(5, 4), torch.randn(7, 4)
    bias = torch.zeros(7).index_fill(0, torch.tensor([2]), -torch.inf)
    ids, others = torch.zeros(5, dtype=torch.long), [0, 1, 3, 4, 5, 6]
    logprobs, entropies = ChunkedHead.apply(hidden, weight.requires_grad_(), bias, ids, 0.7)
    torch.testing.assert_close(entropies, token_entropies(hidden @ weight[others].T, 0.7).detach())
    torch.testing.assert_close(entropies, token_entropies(hidden @ weight.T + bias, 0.7).detach())
    logprobs.sum().backward()
    assert weight.grad.isfinite().all()
