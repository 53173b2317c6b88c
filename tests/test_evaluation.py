import pytest
import torch
from datasets import Dataset
from transformers import TrainerState

from minigrpo import evaluation
from minigrpo.config import BadInput
from minigrpo.evaluation import evaluate
from minigrpo.sampling import sample_completions
from minigrpo.tasks import Task

pytestmark = pytest.mark.quick

PROMPTS = ["7*3+5*8-2+9=", "1*1+1*1-1+1=", "2*2*2*2*2*2="]


def task(reward):
    """Three held-out problems, each the answer to itself."""
    train = Dataset.from_dict({"prompt": ["1 + 1 = ?"] * 3, "answer": ["2"] * 3})
    return Task("toy", train, Dataset.from_dict({"prompt": PROMPTS, "answer": PROMPTS}), reward, full_score=1.0)


def test_every_sample_is_scored_with_the_answer_of_its_own_held_out_problem(tiny, monkeypatch):
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 8)  # two problems of four samples, then one

    def own(prompts, completions, answer):
        return [float(prompt == right) for prompt, right in zip(prompts, answer, strict=True)]

    result = evaluate(*tiny, task(own))
    assert (result["accuracy"], result["accuracy_greedy"], result["pass@4"]) == (1, 1, 1)
    assert "thinking" not in result


def test_a_large_model_reads_no_more_rows_at_once_than_in_a_rollout(tiny, monkeypatch):
    seen = []

    def watched(model, tokenizer, prompts, *, num_generations, **settings):
        seen.append(len(prompts) * num_generations)
        return sample_completions(model, tokenizer, prompts, num_generations=num_generations, **settings)

    monkeypatch.setattr(evaluation, "sample_completions", watched)
    monkeypatch.setattr(evaluation, "is_small", lambda model: False)
    evaluate(*tiny, task(lambda prompts, completions, answer: [1.0] * len(prompts)), num_generations=32)
    assert seen == [64, 32, 3]  # sampled: two problems and the third; then each once, greedily


def test_greedy_accuracy_is_that_of_the_likeliest_completion(tiny):
    likeliest = sample_completions(*tiny, PROMPTS, num_generations=1, max_completion_length=16, temperature=0.0)
    texts = dict(zip(PROMPTS, likeliest.completions, strict=True))

    def is_likeliest(prompts, completions, answer):
        return [texts[prompt] == completion for prompt, completion in zip(prompts, completions, strict=True)]

    result = evaluate(*tiny, task(is_likeliest))
    assert result["accuracy_greedy"] == 1
    assert result["accuracy"] < 1


def test_pass_at_k_counts_every_choice_of_k_samples(tiny):
    """One right of four, and not among the first: the chance that k of them hold it is k / 4."""
    result = evaluate(*tiny, task(lambda prompts, completions, answer: [row % 4 == 3 for row in range(len(prompts))]))
    assert [result[f"pass@{k}"] for k in (1, 2, 4)] == pytest.approx([0.25, 0.5, 1.0])
    assert result["accuracy"] == 0.25


def test_by_its_reward_functions_a_policy_gets_their_weighted_mean(tiny):
    seen = []

    def length(completions, completion_ids, trainer_state, **_):
        seen.append(trainer_state.global_step)
        assert [len(ids) - 1 for ids in completion_ids] == list(map(len, completions))  # a byte a token, and EOS
        return [float(len(c)) for c in completions]

    def sometimes(prompts, answer, **_):
        return [1.0 if prompt == answer == PROMPTS[0] else None for prompt, answer in zip(prompts, answer, strict=True)]

    settings = {"reward_fns": [length, sometimes], "reward_weights": [1.0, 10.0], "trainer_state": TrainerState(global_step=7)}
    result = evaluate(*tiny, task(None), **settings, max_completion_length=32)
    assert result["reward"] == pytest.approx(result["rewards/length/mean"] + 10 / 3)
    assert result["rewards/sometimes/mean"] == 1
    assert result["mean_length"] == pytest.approx(result["rewards/length/mean"] + 1)
    assert result["reward_std"] > 0
    assert "accuracy" not in result
    assert set(seen) == {7}


def test_two_policies_are_given_the_same_draws(tiny):
    drawn = []

    def spy(prompts, completions, answer):
        if len(completions) > len(PROMPTS):  # else the greedy ones, which are nobody's draw
            drawn.append(completions)
        return [0.0] * len(completions)

    global_state = torch.get_rng_state()
    for seed in (0, 0, 1):
        evaluate(*tiny, task(spy), seed=seed)
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), global_state)


def test_no_sample_a_problem_is_refused(tiny):
    with pytest.raises(BadInput, match="num_generations must be at least 1, got 0"):
        evaluate(*tiny, task(None), num_generations=0)
