from dataclasses import replace

import pytest
import torch
from torch import nn

from minigrpo import threads
from minigrpo.evaluation import evaluate
from minigrpo.reward_model import pair_accuracy, score_records, start_reward_model, train_reward_model
from minigrpo.sampling import sample_completions
from minigrpo.scoring import completion_logits, completion_logprobs, fixed_logprobs, policy_logits, policy_logprobs
from minigrpo.tasks import load_task
from minigrpo.threads import on_suited_threads, suited_threads
from minigrpo.triples import load_triples

SMALL = nn.Linear(3, 5)


@pytest.fixture(autouse=True)
def caller_has_three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_a_small_model_has_one_thread_inside_and_the_caller_its_own_afterwards():
    with suited_threads(SMALL):
        assert torch.get_num_threads() == 1
        with suited_threads(SMALL):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_also_after_an_exception():
    with pytest.raises(KeyError), suited_threads(SMALL):
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("parameters", "inside"), [(threads.FEW_PARAMETERS - 1, 1), (threads.FEW_PARAMETERS, 3)])
def test_a_large_model_keeps_the_callers(parameters, inside):
    model = nn.ParameterList([torch.empty(1), torch.empty(parameters - 1)])
    with suited_threads(model):
        assert torch.get_num_threads() == inside


def test_a_model_on_another_device_keeps_the_callers():
    with suited_threads(nn.Linear(3, 5, device="meta")):
        assert torch.get_num_threads() == 3


def test_a_function_of_a_model_keeps_its_name_and_its_arguments():
    @on_suited_threads
    def area(model, height, *, width):
        """Words."""
        return torch.get_num_threads(), model, height * width

    assert area(SMALL, 5, width=7) == area(model=SMALL, height=5, width=7) == (1, SMALL, 35)
    assert (area.__name__, area.__doc__) == ("area", "Words.")


def test_sampling_scoring_and_training_take_one_thread_and_leave_the_callers(tiny):
    model, tokenizer = tiny
    seen, calls = set(), 0

    def note(*_):
        nonlocal calls
        calls += 1
        seen.add(torch.get_num_threads())

    def each(function):
        nonlocal calls
        calls = 0
        result = function()
        assert calls
        assert seen == {1}
        assert torch.get_num_threads() == 3
        return result

    model.base_model.register_forward_hook(note)
    rollout = each(lambda: sample_completions(*tiny, ["1*1+1*1-1+1="], num_generations=2, max_completion_length=3))
    read = rollout.prompt_ids, rollout.prompt_mask, rollout.group_ids, rollout.completion_ids
    each(lambda: completion_logits(model, *read))
    each(lambda: completion_logprobs(model, *read, rollout.completion_mask))
    for score in (policy_logits, policy_logprobs, fixed_logprobs):
        each(lambda score=score: score(model, rollout))
    task = load_task("clock")
    few = replace(task, held_out=task.held_out.select(range(2)))
    each(lambda: evaluate(*tiny, few, num_generations=1, max_completion_length=2))

    reward_model, tokenizer = start_reward_model()
    reward_model.base_model.register_forward_hook(note)
    reward_model.score.weight.register_hook(note)  # called while the backward pass runs
    records = load_triples("bundled").select(range(8))
    each(lambda: score_records(reward_model, tokenizer, records.to_list()))
    each(lambda: pair_accuracy(reward_model, tokenizer, records))
    steps = train_reward_model(reward_model, tokenizer, records, batch_size=2)
    each(lambda: next(steps))
