"""Layers that are run again: the same gradient to the last digits, with less memory, and no trace left in the model."""

import copy
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.recompute import layers_to_run_again, recomputed_layers
from minigrpo.sampling import sample_completions
from minigrpo.scoring import policy_logits, policy_logprobs, scores_equal_rows_once
from minigrpo.tasks import clock_task, exact_answer
from minigrpo.training import train
from minigrpo.update import TrainState

pytestmark = pytest.mark.quick

SIZES = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "initializer_range": 0.4}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_dropout": 0.5}
FAMILIES = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "Gemma 3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, **HEADS, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
    ),
    "Mamba": lambda: MambaForCausalLM(MambaConfig(**SIZES, state_size=4)),
}


def model_of(family, random_model):
    if family == "GPT-2":
        return random_model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILIES[family]().eval()


def rollout_of(model, tokenizer, prompts=("1+2=", "4*2+9+7*1="), **changes):
    settings = {"num_generations": 3, "max_completion_length": 6, "generator": torch.Generator().manual_seed(0)}
    return sample_completions(model, tokenizer, list(prompts), **settings | changes)


def gradient(model, scored, **kwargs):
    model.zero_grad()
    with recomputed_layers(model, **kwargs):
        values = scored(model)
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(0), dtype=values.dtype)
    (values * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("family", ["GPT-2", *FAMILIES])
def test_the_gradient_is_the_same(family, random_model, tokenizer):
    """Through the completions and through the prompts that they share; dropout is configured, and off."""
    model = model_of(family, random_model)
    rollout = rollout_of(model, tokenizer)
    model.double()
    for scored in (lambda m: policy_logprobs(m, rollout)[0], lambda m: policy_logits(m, rollout)):
        plain, again = (gradient(model, scored, enabled=enabled) for enabled in (False, True))
        assert (again - plain).abs().max() < 1e-9 * plain.abs().max()


def test_a_layer_keeps_what_went_in(random_model, tokenizer):
    """Each layer runs twice, forward and backward; without, once."""
    rollout = rollout_of(random_model, tokenizer, num_generations=1)
    scores_equal_rows_once(random_model)  # it reads a text of its own, once
    runs, layer = [], layers_to_run_again(random_model)[0]
    layer.mlp.register_forward_pre_hook(lambda module, args: runs.append(len(args[0])))
    gradient(random_model, lambda m: policy_logprobs(m, rollout)[0], enabled=False)
    once = list(runs)
    gradient(random_model, lambda m: policy_logprobs(m, rollout)[0], enabled=True)
    assert sorted(runs) == sorted(3 * once)  # and the two of this time


def test_the_model_is_left_as_it_was(random_model):
    before = {name: dict(vars(module)) for name, module in random_model.named_modules()}
    with pytest.raises(KeyError), recomputed_layers(random_model):
        raise KeyError
    assert {name: dict(vars(module)) for name, module in random_model.named_modules()} == before
    assert not any(module.training for module in random_model.modules())


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(BadInput, match="Linear has no layers that can be run again; leave gradient_checkpointing out"):
        layers_to_run_again(torch.nn.Linear(1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"bf16": True}, {"kl_estimator": "exact", "per_device_train_batch_size": 4}])
def test_a_run_is_the_same_to_rounding(tiny, changes):
    model, tokenizer = tiny
    found = []
    for again in (False, True):
        sizes = {"generation_batch_size": 8, "num_generations": 4, "max_steps": 2, "adam_epsilon": 1e-3}
        settings = GRPOConfig(**sizes, **changes, learning_rate=1e-2, gradient_checkpointing=again)
        state = TrainState.start(copy.deepcopy(model), tokenizer, settings)
        list(train(state, clock_task().train, [exact_answer], settings))
        found.append(torch.cat([p.flatten() for p in state.model.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


# --- memory -----------------------------------------------------------------------------------------------------------------


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.forget, storage.nbytes())
        return result

    def forget(self, size):
        self.now -= size


def peak_of_an_update(model, tokenizer, rollout, **changes):
    from minigrpo.logprobs import token_logprobs
    from minigrpo.loss import grpo_loss
    from minigrpo.update import Batch, update

    settings = GRPOConfig(generation_batch_size=16, num_generations=8, beta=0.0, **changes)
    state = TrainState.start(model, tokenizer, settings)
    advantages = torch.linspace(-1, 1, 16)
    state.batch = Batch(rollout, {}, advantages, advantages, None, None)
    with Peak() as peak:
        update(state, settings, logprobs_fn=token_logprobs, kl_fn=None, loss_fn=grpo_loss)
    return peak.most


@pytest.mark.slow
def test_micro_batches_and_recomputed_layers_take_less_memory(tokenizer):
    """Eight layers and no vocabulary to speak of, so that what is kept for the backward pass is what counts."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"hidden_size": 32, "num_hidden_layers": 8}, num_attention_heads=2)).eval()
    rollout = rollout_of(model, tokenizer, num_generations=8, max_completion_length=24)
    assert len(rollout.completion_ids.unique(dim=0)) == 16
    kept = 3 * sum(p.numel() * p.element_size() for p in model.parameters())  # the gradient and AdamW's moments
    settings = {"plain": {}, "parts": {"per_device_train_batch_size": 4}, "again": {"gradient_checkpointing": True}}
    settings["both"] = settings["parts"] | settings["again"]
    peaks = {name: peak_of_an_update(model, tokenizer, rollout, **changes) - kept for name, changes in settings.items()}
    assert peaks["parts"] < 0.3 * peaks["plain"]  # a quarter
    assert peaks["again"] < 0.5 * peaks["plain"]
    assert peaks["both"] < 0.5 * peaks["parts"]
