"""Every family of models that minigrpo/README.md names: tiny ones of random weights, held to one text at a time."""

import re
from pathlib import Path

import pytest
import torch
import transformers

from minigrpo import scoring
from minigrpo.config import BadInput
from minigrpo.policy import check_reading, context_length
from minigrpo.sampling import sample_completions
from minigrpo.scoring import policy_logprobs

README = Path(__file__).parents[1] / "minigrpo" / "README.md"
PROMPTS = ["7*3+5=", "1", "2*"]
ALIKE = ["A beginning of 26 tokens: " + prompt for prompt in PROMPTS]
SIZES = {
    "vocab_size": 258,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
    "bos_token_id": 257,
    "eos_token_id": 257,
    "pad_token_id": 256,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
HEADS = GROUPED | {"head_dim": 8}
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}  # much shorter than the texts
OLD = {"vocab_size": 258, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.4}
BLOOM = {"vocab_size": 258, "hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
OPT = {"ffn_dim": 24, "word_embed_proj_dim": 8, "init_std": 0.4}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MAMBA = {"vocab_size": 258, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.4}
# As the package's README calls it: the class, its configuration, the settings.
SHARED = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", OLD),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "Mistral": ("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 4}),
    "Qwen 2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "Qwen 3": ("Qwen3ForCausalLM", "Qwen3Config", HEADS),
    "Gemma 2": ("Gemma2ForCausalLM", "Gemma2Config", HEADS | WINDOW),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", HEADS | WINDOW),
    "Gemma 3 with images": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {"text_config": HEADS | WINDOW, "vision_config": VISION, "mm_tokens_per_image": 4},
    ),
    "Phi-3": ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    "GPT-NeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES),
    "OPT": ("OPTForCausalLM", "OPTConfig", {k: v for k, v in SIZES.items() if k[:3] not in ("int", "ini")} | OPT),
    "SmolLM3": ("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED),
    "Bloom": ("BloomForCausalLM", "BloomConfig", BLOOM),
    "MPT": (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": 258, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 40, "initializer_range": 0.4},
    ),
}
PLAIN = {
    "Mamba": ("MambaForCausalLM", "MambaConfig", MAMBA),
    "Mamba 2": ("Mamba2ForCausalLM", "Mamba2Config", MAMBA | {"num_heads": 4, "head_dim": 8, "n_groups": 1}),
    "LFM2": ("Lfm2ForCausalLM", "Lfm2Config", GROUPED | {"layer_types": ["conv", "full_attention"]}),
    "Qwen3-Next": ("Qwen3NextForCausalLM", "Qwen3NextConfig", HEADS | LINEAR | EXPERTS),
    "Qwen 3.5": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", HEADS | LINEAR),
}
NO_LANGUAGE_MODEL = {
    "BERT": ("BertLMHeadModel", "BertConfig", SIZES),  # reads what comes later too
    "RoBERTa": (
        "RobertaForCausalLM",
        "RobertaConfig",
        SIZES | {"is_decoder": True, "pad_token_id": 1},
    ),  # counts positions its own way
}


def build(kind: str, config: str, settings: dict):
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()


def alone(model, rollout, row: int):
    """(C,) log-probs by the model's own logits for one text: no padding, no cache, no shared prompt."""
    group = rollout.group_ids[row]
    prompt = rollout.prompt_ids[group][rollout.prompt_mask[group]]
    text = torch.cat([prompt, rollout.completion_ids[row]])[None]
    logits = model(text, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, rollout.completion_ids[row][:, None])[:, 0]


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE], ids=["different", "alike"])
@pytest.mark.parametrize("family", SHARED | PLAIN)
def test_it_is_sampled_and_scored_as_one_text_at_a_time_would_be(tokenizer, family, prompts):
    model = build(*(SHARED | PLAIN)[family])
    check_reading(model, family)
    assert scoring.cache_has_rows(model) == (family in SHARED)
    assert context_length(model) >= 40
    settings = {"num_generations": 3, "max_completion_length": 8, "generator": torch.Generator().manual_seed(0)}
    rollout = sample_completions(model, tokenizer, prompts, **settings)
    mask = rollout.completion_mask
    assert mask.sum(1).max() == 8
    with torch.no_grad():
        plain = torch.stack([alone(model, rollout, row) for row in range(len(mask))])
    torch.testing.assert_close(rollout.logprobs[mask], plain[mask], rtol=1e-4, atol=1e-4)
    scored, _ = policy_logprobs(model, rollout)
    torch.testing.assert_close(scored[mask], plain[mask], rtol=1e-4, atol=1e-4)
    scored.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("family", NO_LANGUAGE_MODEL)
def test_what_does_not_read_from_left_to_right_is_refused_in_a_sentence(family):
    with pytest.raises(BadInput, match=r"from left to right\.$"):
        check_reading(build(*NO_LANGUAGE_MODEL[family]), "name")


def test_the_readme_has_a_row_for_each():
    text = README.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| `(\w+)` \| (once|anew)", text, re.MULTILINE)
    assert {name: (kind, how == "once") for name, kind, how in rows} == {
        name: (kind, name in SHARED) for name, (kind, *_) in (SHARED | PLAIN).items()
    }
