"""The formula for memory, held to what was measured: here on small models, elsewhere on GPT-2 small's shape and on SmolLM2."""

import re

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import minigrpo
from minigrpo import head, scoring
from minigrpo.config import BadInput
from minigrpo.policy import fuse_gelu
from minigrpo.recompute import recomputed_layers
from minigrpo.run import cli
from minigrpo.run import step_seconds as step_seconds_module
from minigrpo.run.fit import LIBRARIES, SHAPES, Shape, fit, shape_of
from minigrpo.run.step_seconds import step_seconds
from tests.test_recompute import Peak

pytestmark = pytest.mark.quick

ENDS = {"bos_token_id": 0, "eos_token_id": 0}
SIZES = {"hidden_size": 144, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 9}
MODELS = {
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_embd=128, n_layer=6, n_head=4, **ENDS)),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=1000, **SIZES, num_key_value_heads=3, tie_word_embeddings=True)),
}


def saved(make, folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fuse_gelu(make()).eval()
    model.config.save_pretrained(folder)
    return model


def peak_of_an_update(model, prompts, prompt_length, rows, columns, again):
    """Bytes that the forward and backward pass of an update held at a time, no two completions alike."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(1000, size, generator=draw) for size in ((prompts, prompt_length), (rows, columns))]
    masks = [torch.ones_like(x, dtype=torch.bool) for x in ids]
    scoring.scores_equal_rows_once(model)
    model.zero_grad()
    with Peak() as peak, recomputed_layers(model, enabled=again):
        groups = torch.arange(prompts).repeat_interleave(rows // prompts)
        logprobs, _ = scoring.completion_logprobs(model, ids[0], masks[0], groups, ids[1], masks[1])
        logprobs.sum().backward()
    return peak.most


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_an_update_takes_what_the_formula_says(kind, tmp_path, monkeypatch):
    """Short prompts and long ones, layers run again or not."""
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", 2**16)
    model = saved(MODELS[kind], tmp_path)
    for prompts, prompt_length, columns in ((2, 64, 24), (1, 8, 48)):
        for again in (False, True):
            measured = peak_of_an_update(model, prompts, prompt_length, 16, columns, again)
            sizes = {"generation_batch_size": 16, "num_generations": 16 // prompts, "max_completion_length": columns}
            said = fit(str(tmp_path), prompt_length=prompt_length, **sizes, gradient_checkpointing=again).update
            said -= 12 * 16 * columns * 1000 - 12 * 2**16  # fit knows the real size of a chunk
            assert abs(said / measured - 1) < 0.15, (prompt_length, again, said / measured)


# Measured by tests/benchmarks/memory.py: MB above five times the weights (policy, reference, gradient and moments), of 32
# completions of 32 tokens and 4 prompts of 128; the processes held some 0.4 GB before.
OF_GPT2_SMALL = {(None, False): 1723, (None, True): 1975, (8, False): 1112, (8, True): 1219, (4, False): 1002, (4, True): 991}


@pytest.mark.parametrize(("size", "again"), OF_GPT2_SMALL)
def test_a_step_of_gpt2_small_takes_what_was_measured(size, again):
    sizes = {"generation_batch_size": 32, "max_completion_length": 32, "per_device_train_batch_size": size}
    said = fit("gpt2", prompt_length=128, **sizes, gradient_checkpointing=again)
    measured = 5 * said.weights + OF_GPT2_SMALL[size, again] * 1e6 + 0.4e9
    assert abs(said.total / measured - 1) < 0.15


def test_no_reference_at_beta_0_and_nothing_grows_when_less_is_asked():
    plain = fit("smollm2")
    assert plain.total - fit("smollm2", beta=0.0).total == pytest.approx(plain.reference)
    smaller = ({"per_device_train_batch_size": 8}, {"max_completion_length": 8}, {"generation_batch_size": 32})
    for settings in smaller:
        assert fit("smollm2", **settings).total < plain.total
    assert plain.total > 5 * plain.weights + LIBRARIES


def test_the_table_of_shapes_is_that_of_the_models():
    """Of those that are at hand without a network; the others' from their published configurations."""
    tiny, _ = minigrpo.load_policy("tiny")
    found = shape_of(tiny.name_or_path)
    assert found == SHAPES["tiny"]
    assert found.parameters == tiny.num_parameters()
    with torch.device("meta"):
        assert GPT2LMHeadModel(GPT2Config()).num_parameters() == SHAPES["gpt2"].parameters
    assert all(isinstance(shape, Shape) and shape.keys <= shape.width < shape.mlp for shape in SHAPES.values())


def test_the_command_prints_the_parts_and_refuses_in_a_sentence(capsys, tmp_path):
    assert cli.main(["fit", "--model", "smollm2", "--task", "addition", "--prompt-length", "40"]) == 0
    assert "GB  at the peak of a step" in capsys.readouterr().out
    assert cli.main(["fit"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^ +1\.09 MB  policy$", said, re.MULTILINE)
    assert "0.00 GB" not in said
    with pytest.raises(BadInput, match="prompt_length must be at least 1"):
        fit("tiny", prompt_length=0)
    with pytest.raises(BadInput, match=r"holds no config\.json of a model"):
        fit(str(tmp_path))


# --- seconds --------------------------------------------------------------------------------------------------------------


def test_seconds_are_a_straight_line_through_a_layer_and_four(monkeypatch):
    """Whatever the embedding and a layer cost, the model's own number of layers costs what they add up to."""
    asked = []

    def timed(shape, layers, prompt_length, config):
        asked.append((shape.vocabulary, layers, prompt_length))
        return 0.7 + 0.2 * layers

    monkeypatch.setattr(step_seconds_module, "timed", timed)
    assert step_seconds("smollm2", prompt_length=9) == pytest.approx(0.7 + 0.2 * SHAPES["smollm2"].layers)
    assert asked == [(49152, 1, 9), (49152, 4, 9)]
    assert step_seconds("tiny") == pytest.approx(0.7 + 0.2 * 2)  # all of its layers


@pytest.mark.parametrize("gated", [False, True])
def test_what_is_timed_has_the_shape_and_makes_the_steps_of_the_configuration(gated, monkeypatch):
    """Three updates per rollout, two rollouts: the faster one, per update."""
    shape, seen = Shape(0, 9, 96, 200, 48 if gated else 96, 300, gated), []

    def train(state, prompts, reward_fns, config):
        assert shape_of_model(state.model) == shape._replace(parameters=0, layers=2)
        assert len({len(state.tokenizer(text).input_ids) for text in prompts["prompt"]} | {7}) == 1
        assert len(set(prompts["prompt"])) == len(prompts) == config.generation_batch_size // config.num_generations
        seen.append(config.max_steps)
        for seconds in (9.0, 1.0, 2.0, 3.0, 1.0, 2.0):
            yield {"sampling/seconds": seconds / 2, "update/seconds": seconds / 2}

    monkeypatch.setattr(step_seconds_module, "train", train)
    schedule = {"lr_scheduler_type": "linear", "warmup_steps": 40}  # more than the steps that are timed
    config = minigrpo.GRPOConfig(num_iterations=3, generation_batch_size=16, reward_weights=[1.0, 2.0], **schedule)
    assert step_seconds_module.timed(shape, 2, 7, config) == pytest.approx((3 + 1 + 2) / 3)
    assert seen == [6]


def shape_of_model(model):
    config = model.config
    keys = getattr(config, "num_key_value_heads", 0) * getattr(config, "head_dim", 0) or config.hidden_size
    mlp = getattr(config, "intermediate_size", None) or config.n_inner
    gated = config.model_type == "llama"
    return Shape(0, config.num_hidden_layers, config.hidden_size, mlp, keys, config.vocab_size, gated)


def test_the_command_times_a_step_and_leaves_the_callers_draws_alone(capsys):
    state = torch.get_rng_state()
    assert cli.main(["fit", "--seconds", "--generation-batch-size", "16", "--max-completion-length", "4"]) == 0
    assert re.search(r"^ +\d+\.\d\d s  a step on this machine", capsys.readouterr().out, re.MULTILINE)
    assert torch.equal(torch.get_rng_state(), state)
    assert cli.main(["fit", "--triples", "--seconds"]) == 2
    assert "leave --triples out" in capsys.readouterr().err
