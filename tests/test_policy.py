import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MambaConfig,
    MptConfig,
)

from minigrpo.chat import PLAIN_CHAT_TEMPLATE
from minigrpo.config import BadInput
from minigrpo.policy import TINY, context_length, load_policy, save_policy
from minigrpo.reward_model import start_reward_model
from minigrpo.tasks import load_task
from tests.tools import pretrain as tool
from tests.tools.pretrain import batches, byte_tokenizer, chat_example, encode, pretrain

pytestmark = pytest.mark.quick


def test_the_bundled_model_is_a_gpt2_of_a_megabyte(tiny):
    model, tokenizer = tiny
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert sum(f.stat().st_size for f in TINY.iterdir()) < 1.3e6
    assert not model.training
    assert model.dtype == torch.float32
    assert len(tokenizer) == 258
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert "tiny-gpt2" in (TINY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(n_positions=40), 40),
        (LlamaConfig(max_position_embeddings=50), 50),
        (Gemma3Config(text_config={"max_position_embeddings": 60}), 60),  # of several kinds of input: in the text's part
        (MptConfig(max_seq_len=70), 70),
        (BloomConfig(), sys.maxsize),
        (MambaConfig(), sys.maxsize),
    ],
)
def test_the_context_is_what_the_configuration_says_or_without_limit(config, expected):
    assert context_length(SimpleNamespace(config=config)) == expected


@pytest.fixture
def folder(tmp_path, random_model, tokenizer):
    random_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_loads(folder, random_model):
    model, tokenizer = load_policy(str(folder))
    ids = torch.tensor([tokenizer("1+1")["input_ids"]])
    torch.testing.assert_close(model(ids).logits, random_model(ids).logits)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(BadInput, match="holds a model but no tokenizer"):
        load_policy(str(folder))


def test_a_tokenizer_without_eos_is_refused(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="has no EOS token"):
        load_policy(str(folder))


def test_a_tokenizer_without_a_pad_token_pads_with_eos(folder):
    """As that of the real GPT-2."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load_policy(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_reward_model_is_no_policy(tmp_path):
    """Its own head is left out where a language model is loaded from it, and the embeddings would serve as one."""
    model, tokenizer = start_reward_model()
    save_policy(model, tokenizer, tmp_path)
    with pytest.raises(BadInput, match=r"holds a GPT2ForSequenceClassification, such as a reward model: it scores texts"):
        load_policy(str(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="rights are POSIX's")
@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o027, 0o640)])
def test_what_is_saved_may_be_read_by_those_that_the_umask_lets(tiny, tmp_path, umask, rights):
    before = os.umask(umask)
    try:
        save_policy(*tiny, tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        os.listdir(tmp_path), rights
    )


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not str(path).endswith(".safetensors"))
    with pytest.raises(BadInput, match=r"model\.safetensors' may not be read by this user; .* chmod a\+r"):
        load_policy(str(folder))


def test_a_tokenizer_of_another_model_is_refused(folder, tokenizer):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match="has 260 tokens, the model only 258"):
        load_policy(str(folder))


def test_a_damaged_model_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_policy(str(folder))


def test_a_model_that_lacks_a_weight_is_refused_and_not_filled_in_at_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks the weights transformer.h.1.mlp.c_fc.weight"):
        load_policy(str(folder))


def test_a_folder_that_is_no_model_names_its_checkpoints(tmp_path):
    with pytest.raises(BadInput, match="holds no model"):
        load_policy(str(tmp_path))
    (tmp_path / "checkpoint-50").mkdir()
    with pytest.raises(BadInput, match="its checkpoints are checkpoint-50"):
        load_policy(str(tmp_path))


# --- how the bundled model was made -----------------------------------------------------------------------------------


def test_the_chats_of_the_corpus_are_what_the_chat_template_writes():
    import random

    tokenizer = byte_tokenizer()
    ids, labels = encode(chat_example(random.Random(0)), tokenizer)
    lines = tokenizer.decode(ids).replace(tokenizer.eos_token, "").split("\n")
    roles = [line.split(": ", 1) for line in lines]
    messages = [{"role": role, "content": content} for role, content in roles]
    assert [m["role"] for m in messages[:2]] == ["user", "assistant"]
    assert tokenizer.chat_template == PLAIN_CHAT_TEMPLATE
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert encoded["input_ids"][:-1] == ids  # the template ends with a line break
    assert [label != -100 for label in labels] == [bool(m) for m in encoded["assistant_masks"]][:-1]


@pytest.mark.slow
def test_pretraining_learns_and_is_the_same_twice():
    losses = [[row["loss"] for row in pretrain(steps=5, rare_steps=10)] for _ in range(2)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.5
    assert len(losses[0]) == 15


@pytest.mark.slow
def test_pretraining_never_sees_a_held_out_problem(tokenizer):
    from minigrpo.tasks import clock_task, is_held_out, sums_task

    held_out = {*clock_task().held_out["prompt"], *sums_task().held_out["prompt"]}
    stream = batches(tokenizer, seed=0, thinking_share=0.25)
    for _ in range(40):
        (short, labels), _ = next(stream)
        for ids, label in zip(short, labels, strict=True):
            prompt = tokenizer.decode(ids[: int((label != -100).nonzero()[0])])
            assert prompt not in held_out
            assert not is_held_out(prompt)  # of the other problems too: two draws of a clock problem hardly ever meet


def test_a_device_that_is_not_there_is_refused_in_a_sentence():
    for device in ("cuda:99", "abacus", "meta"):
        with pytest.raises(BadInput, match=f"The device '{device}' cannot be used: .* A CPU is always there"):
            load_policy(device=device)


def test_gelu_in_one_operation_is_gelu(folder):
    """The model that transformers makes of the same files, with its own GELU: outputs to rounding, and the same files again."""
    ours, tokenizer = load_policy(str(folder))
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = tokenizer("7*3+5*8", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert isinstance(ours.transformer.h[0].mlp.act, torch.nn.GELU)
    ours.save_pretrained(folder / "again")
    assert (folder / "again" / "config.json").read_text() == (folder / "config.json").read_text()


@pytest.mark.slow
def test_the_pretraining_command_writes_a_model_with_its_card(tmp_path, monkeypatch):
    few = {name: replace(task := load_task(name), held_out=task.held_out.select(range(20))) for name in ("clock", "sums")}
    monkeypatch.setattr(tool, "load_task", few.get)
    tool.main([str(tmp_path / "new"), "--steps", "10"])
    card = (tmp_path / "new" / "README.md").read_text(encoding="utf-8")
    assert "10 steps of AdamW" in card
    assert "| sums | 0.000 | 0.000 | - |" in card
    load_policy(str(tmp_path / "new"))


@pytest.mark.parametrize(
    "argv", [[], ["taken"], ["new", "--steps", "9"], ["--replace-bundled", "--steps", "10"], ["new", "--replace-bundled"]]
)
def test_the_pretraining_command_replaces_nothing_unasked(argv, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        tool.main(argv)
    assert ended.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
