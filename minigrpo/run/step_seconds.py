"""How long will it take? A step of a few of the model's layers, timed on this machine; the model itself is not loaded."""

import math
import random
from dataclasses import replace

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.policy import fuse_gelu
from minigrpo.run.fit import Shape, check_prompt_length, shape_of
from minigrpo.training import train
from minigrpo.update import TrainState

FEW, MORE = 1, 4  # layers of the models that are timed
HEAD = 64  # width of an attention head, as most models have it


def step_seconds(model: str = "tiny", *, prompt_length: int = 64, config: GRPOConfig | None = None, **settings) -> float:
    """Wall seconds of a training step on this machine, with every completion as long as it may be and no two alike.

    All layers cost the same. So a model with one of them and a model with four, of random weights, make two steps each. The
    faster one of each counts, and a straight line leads to the model's own number. All this takes about as long as one step.

    Args:
        model, prompt_length, config, **settings: as for ``fit``.
    Raises:
        BadInput: as ``fit`` does, and for a run on records, which samples nothing.
    """
    config, shape = config or GRPOConfig(model=model, **settings), shape_of(model)
    check_prompt_length(prompt_length)
    if config.triples:
        raise BadInput("The seconds of a step are those of a run that samples; leave --triples out.")
    if shape.layers <= MORE:
        return timed(shape, shape.layers, prompt_length, config)
    few, more = (timed(shape, layers, prompt_length, config) for layers in (FEW, MORE))
    return more + (shape.layers - MORE) * (more - few) / (MORE - FEW)


def timed(shape: Shape, layers: int, prompt_length: int, config: GRPOConfig) -> float:
    """The faster of two steps; where several updates are made on a rollout, the mean over them."""
    plain = {"lr_scheduler_type": "constant", "warmup_steps": 0, "reward_weights": None}
    config = replace(config, max_steps=2 * config.num_iterations, **plain)
    with torch.random.fork_rng():
        model = _random_model(shape, layers, prompt_length + config.max_completion_length).to(config.device)
    state = TrainState.start(model, _tokenizer(shape.vocabulary), config)
    prompts = _prompts(shape.vocabulary, prompt_length, config.generation_batch_size // config.num_generations)
    steps = train(state, prompts, [_every_other], config)
    times = [metrics["sampling/seconds"] + metrics["update/seconds"] for metrics in steps]
    first, second = times[: config.num_iterations], times[config.num_iterations :]
    return min(sum(first), sum(second)) / config.num_iterations


def _random_model(shape: Shape, layers: int, positions: int) -> PreTrainedModel:
    """Random weights in the widths of ``shape``."""
    head = math.gcd(HEAD, shape.width, shape.keys)
    tokens = {"vocab_size": shape.vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if shape.gated:
        sizes = {"hidden_size": shape.width, "intermediate_size": shape.mlp, "num_hidden_layers": layers, "head_dim": head}
        heads = {"num_attention_heads": shape.width // head, "num_key_value_heads": shape.keys // head}
        return LlamaForCausalLM(
            LlamaConfig(**tokens, **sizes, **heads, max_position_embeddings=positions, tie_word_embeddings=True)
        )
    sizes = {"n_embd": shape.width, "n_inner": shape.mlp, "n_layer": layers, "n_head": shape.width // head}
    return fuse_gelu(GPT2LMHeadModel(GPT2Config(**tokens, **sizes, n_positions=positions)))


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """The words t0, t1, ..., each a token; t0 ends a text."""
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t0", padding_side="left")


def _prompts(vocabulary: int, length: int, count: int) -> Dataset:
    """``count`` prompts of random tokens."""
    draw = random.Random(0)
    return Dataset.from_dict(
        {"prompt": [" ".join(f"t{draw.randrange(1, vocabulary)}" for _ in range(length)) for _ in range(count)]}
    )


def _every_other(prompts: list, completions: list, **_) -> list[float]:
    """A reward that leaves no group without an advantage."""
    return [float(i % 2) for i in range(len(completions))]
