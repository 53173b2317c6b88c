import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from minigrpo.config import GROUPS, BadInput, GRPOConfig, first_line

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_generations": 1}, "num_generations must be at least 2"),
        ({"generation_batch_size": 20}, r"a positive multiple of num_generations \(8\)"),
        ({"generation_batch_size": 0}, "a positive multiple"),
        ({"per_device_train_batch_size": 0}, r"per_device_train_batch_size must be a divisor of generation_batch_size \(64\)"),
        ({"per_device_train_batch_size": 24}, "per_device_train_batch_size must be a divisor"),
        ({"per_device_train_batch_size": 8.0}, "per_device_train_batch_size must be a whole number"),
        ({"beta": -0.1}, "beta must be 0 or a positive number, got -0.1"),
        ({"beta": float("nan")}, "beta must be"),
        ({"epsilon": 1.0}, "epsilon must be at least 0 and below 1"),
        ({"epsilon": -0.1}, "epsilon must be"),
        ({"epsilon_high": -1.0}, "epsilon_high must be"),
        ({"loss_type": "cispo"}, "epsilon_high must be given with loss_type cispo"),
        ({"temperature": 0.0}, "temperature must be at least 1e-06, got 0.0"),
        ({"temperature": 1e-45}, "temperature must be at least 1e-06, got 1e-45"),
        ({"learning_rate": float("inf")}, "learning_rate must be a positive number"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"save_total_limit": 0}, "save_total_limit must be at least 1"),
        ({"lr_scheduler_type": "sine"}, "lr_scheduler_type must be one of constant"),
        ({"warmup_steps": 3}, "warmup_steps must be 0 with lr_scheduler_type constant; constant_with_warmup"),
        ({"warmup_steps": -1, "lr_scheduler_type": "linear"}, "warmup_steps must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or a positive number"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"save_steps": 0}, "save_steps must be at least 1"),
        ({"num_iterations": 0}, "num_iterations must be"),
        ({"max_completion_length": 0}, "max_completion_length must be"),
        ({"seed": -1}, "seed must be between"),
        ({"loss_type": "ppo"}, "loss_type must be one of grpo, bnpo"),
        ({"scale_rewards": "std"}, "scale_rewards must be one of"),
        ({"task": "chess"}, "task must be one of clock, sums"),
        ({"reward_weights": [1.0, float("nan")]}, "reward_weights must be finite numbers"),
        ({"reward_weights": [1e39]}, "reward_weights must be finite numbers, at most 3.4e38"),
        ({"num_generations": 10**23}, "num_generations must be below 2147483648"),
        ({"max_steps": 2.5}, "max_steps must be a whole number"),
        ({"beta": "0.1"}, "beta must be a number"),
        ({"output_dir": "r\udcff"}, "output_dir must be UTF-8"),
        ({"triples_writer": "me"}, "triples_writer must be one of unknown, reference"),
        ({"triples_writer": "reference"}, "triples_writer must be unknown, unless triples_estimator is policy_gradient"),
        ({"triples": "bundled", "triples_writer": "reference"}, "triples_writer must be unknown, unless triples_estimator"),
        (
            {"triples": "bundled", "triples_estimator": "policy_gradient", "triples_writer": "reference", "beta": 0.0},
            "beta must be above 0 where the reference is the writer",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change, sentence):
    with pytest.raises(BadInput, match=sentence):
        GRPOConfig(**change)


def test_numbers_of_a_sweep_become_plain_ones():
    config = GRPOConfig(
        beta=np.linspace(0, 1, 5)[1], max_steps=np.int64(3), learning_rate=torch.tensor(0.5), reward_weights=[np.float32(2)]
    )
    assert config.to_dict() == GRPOConfig(beta=0.25, max_steps=3, learning_rate=0.5, reward_weights=[2.0]).to_dict()
    assert type(config.max_steps) is int
    assert type(config.beta) is type(config.learning_rate) is type(config.reward_weights[0]) is float
    with pytest.raises(BadInput, match=r"beta must be a number, got array\(\[0., 1.\]\)"):
        GRPOConfig(beta=np.linspace(0, 1, 2))


def test_the_first_line_of_an_error_is_there_whatever_the_error_says():
    class Speechless(Exception):
        def __str__(self):
            raise RuntimeError

    said = [first_line(error) for error in (ValueError("a\nb"), KeyError(), Speechless())]
    assert said == ["a", "KeyError", "Speechless"]


def test_the_configuration_is_frozen_and_survives_a_dictionary():
    config = GRPOConfig(beta=0.1, reward_weights=[1.0])
    assert GRPOConfig(**config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.beta = 1.0


def test_names_are_those_of_trl_but_for_our_own():
    from trl import GRPOConfig as TRLConfig

    ours = {f.name for f in dataclasses.fields(GRPOConfig)}
    assert ours - {f.name for f in dataclasses.fields(TRLConfig)} == {
        "model",
        "task",
        "reward_funcs",
        "kl_estimator",
        "kl_in_reward",
        "dataset_name",  # these three TRL has, in its ScriptArguments
        "dataset_config",
        "dataset_split",
        "prompt_column",
        "chat",
        "system_prompt",
        "triples",
        "triples_estimator",
        "triples_writer",
        "reward_model",
        "engine",
        "device",
    }


def test_every_flag_of_train_stands_in_a_group_of_its_help():
    assert [f.name for f in dataclasses.fields(GRPOConfig) if f.metadata["group"] not in GROUPS] == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import minigrpo", ["torch", "transformers", "matplotlib", "datasets"]),
        ("import minigrpo.config", ["torch", "transformers"]),
        ("import minigrpo.run.cli, minigrpo.run.flags; minigrpo.run.flags.GRPOConfig()", ["torch", "transformers"]),
        ("import minigrpo; minigrpo.grpo_loss", ["transformers", "matplotlib", "datasets"]),
    ],
)
def test_an_import_brings_nothing_that_it_does_not_use(code, absent):
    check = f"{code}\nimport sys\nprint([m for m in {absent} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"
