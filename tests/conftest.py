"""Shared by the tests: small models made on the spot, and tensors such as a real policy gives."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from minigrpo.policy import load_policy
from tests.tools.pretrain import byte_tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def tiny():
    """The bundled model, fresh each time: tests train it."""
    return load_policy("tiny")


@pytest.fixture
def random_model(tokenizer):
    """A GPT-2 of random weights whose output depends strongly on every token and on its position."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=40,
        n_layer=2,
        n_embd=16,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()
