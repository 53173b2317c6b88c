"""No warning comes from what a user runs: neither Python's, nor those that transformers and its like write to their log."""

import logging
import warnings

import pytest
import torch
import transformers

from minigrpo.config import GRPOConfig
from minigrpo.evaluation import evaluate
from minigrpo.policy import load_policy, save_policy
from minigrpo.reward_model import load_reward_model, pair_accuracy, start_reward_model, train_reward_model
from minigrpo.sampling import sample_completions
from minigrpo.scoring import policy_logits, policy_logprobs
from minigrpo.tasks import Task, clock_task, exact_answer
from minigrpo.training import TrainState, train
from minigrpo.triples import load_triples

PROMPTS = ["7*3+5*8-2+9=", "1 + 1 = ?"]
SMALL = {"generation_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "max_steps": 2}


@pytest.fixture(autouse=True)
def every_warning_counts():
    """Warnings of libraries that are logged once are said again, whatever ran before."""
    said = []

    class Note(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    note = Note(logging.WARNING)
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.warning_once.cache_clear()
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "accelerate", "datasets", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(note)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    for logger in loggers:
        logger.removeHandler(note)
    transformers.logging.set_verbosity(before)
    assert said == []


def test_loading_sampling_scoring_evaluating_and_saving(tmp_path):
    model, tokenizer = load_policy("tiny")
    save_policy(model, tokenizer, tmp_path / "model")
    model, tokenizer = load_policy(str(tmp_path / "model"))
    rollout = sample_completions(model, tokenizer, PROMPTS, num_generations=2, max_completion_length=4)
    policy_logits(model, rollout)
    policy_logprobs(model, rollout)[0].sum().backward()
    task = clock_task()
    few = Task("few", task.train, task.held_out.select(range(2)), exact_answer, full_score=1.0)
    evaluate(model, tokenizer, few, num_generations=2, max_completion_length=4)


@pytest.mark.parametrize("change", [{}, {"kl_estimator": "exact"}, {"bf16": True}])
def test_training(change):
    state = TrainState.start(*load_policy("tiny"), GRPOConfig(**SMALL, **change))
    assert len(list(train(state, clock_task().train, [exact_answer], GRPOConfig(**SMALL, **change)))) == 2


def test_a_reward_model(tmp_path):
    model, tokenizer = start_reward_model()
    records = load_triples("bundled").select(range(8))
    assert len(list(train_reward_model(model, tokenizer, records, steps=2, batch_size=4))) == 2
    pair_accuracy(model, tokenizer, records)
    save_policy(model, tokenizer, tmp_path / "model")
    assert len(load_reward_model(tmp_path / "model")(["1 + 1 = ?"], ["2"])) == 1


def test_the_engine_trl(tmp_path):
    from minigrpo.run import trl_engine

    transformers.logging.set_verbosity_error()  # as the command does, which alone runs this engine
    model, tokenizer = load_policy("tiny")
    trl_engine.train(GRPOConfig(**SMALL), model, tokenizer, clock_task().train, [exact_answer], folder=tmp_path)
    assert torch.isfinite(load_policy(str(tmp_path))[0].lm_head.weight).all()
