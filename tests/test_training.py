import copy
import math

import pytest
import torch
from datasets import Dataset

from minigrpo.advantages import compute_advantages
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.head import head_is_all
from minigrpo.kl import estimate_kl, kl_exact
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import grpo_loss
from minigrpo.metrics import METRICS
from minigrpo.policy import load_policy
from minigrpo.run.checkpoints import load_checkpoint, save_checkpoint
from minigrpo.run.folders import checkpoints
from minigrpo.scoring import policy_logits
from minigrpo.tasks import clock_task, exact_answer
from minigrpo.training import step_prompts, train
from minigrpo.triples import load_triples, prepare
from minigrpo.update import TrainState

pytestmark = pytest.mark.quick

TASK = clock_task()


def config(**changes):
    return GRPOConfig(**({"max_steps": 3, "generation_batch_size": 16, "num_generations": 4} | changes))


def start(settings):
    return TrainState.start(*load_policy("tiny"), settings)


def run(settings, state=None, reward_fns=(exact_answer,), **functions):
    """Trains to the end; returns the state and the rows of metrics."""
    state = state or start(settings)
    return state, list(train(state, TASK.train, list(reward_fns), settings, **functions))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- it learns, by the right quantities -------------------------------------------------------------------------------


@pytest.mark.slow
def test_reward_thinking_and_length_rise_within_fifty_steps():
    rows = run(GRPOConfig(max_steps=50, learning_rate=2e-4))[1]
    early, late = ([r["reward"] for r in part] for part in (rows[:10], rows[-10:]))
    assert sum(late) / 10 > sum(early) / 10 + 0.2
    assert rows[-1]["completions/mean_length"] > rows[0]["completions/mean_length"] + 2
    assert rows[-1]["kl"] > 0.02


def test_before_the_first_update_policy_sampler_and_reference_are_one():
    """Ratio exactly 1, KL 0: dropout is off, and one update per rollout takes its old log-probs from its own pass."""
    seen = []

    def spy(logprobs, old_logprobs, *args, **kwargs):
        seen.append((logprobs.detach().clone(), old_logprobs.clone()))
        return grpo_loss(logprobs, old_logprobs, *args, **kwargs)

    rows = run(config(), loss_fn=spy)[1]
    assert all(torch.equal(new, old) for new, old in seen)
    assert abs(rows[0]["kl"]) < 1e-6  # the sampler's rounding against that of a scoring pass
    assert [r["clip_ratio"] for r in rows] == [0, 0, 0]
    assert rows[0]["grad_norm"] > 0.01  # although the loss is near 0


def test_dropout_is_off_in_policy_and_reference_however_the_model_came(random_model, tokenizer):
    state = TrainState.start(random_model.train(), tokenizer, config())
    assert not state.model.training
    assert not state.reference.training


def test_with_several_updates_a_rollout_the_old_log_probs_stay_the_samplers():
    seen = []

    def spy(logprobs, old_logprobs, *args, **kwargs):
        seen.append((logprobs.detach().clone(), old_logprobs.clone(), args[1]))
        return grpo_loss(logprobs, old_logprobs, *args, **kwargs)

    _, rows = run(config(max_steps=5, num_iterations=3, learning_rate=3e-3), loss_fn=spy)
    assert torch.equal(seen[0][1], seen[2][1])
    assert (seen[0][0] - seen[0][1])[seen[0][2]].abs().max() < 1e-5
    assert (seen[2][0] - seen[2][1])[seen[2][2]].abs().max() > 0.05
    assert rows[0]["clip_ratio"] == 0
    assert rows[2]["clip_ratio"] > 0
    assert [r["sampling/tokens"] > 0 for r in rows] == [True, False, False, True, False]
    assert rows[0]["reward"] == rows[2]["reward"]


@pytest.mark.parametrize("own", [{}, {"logprobs_fn": lambda *args: token_logprobs(*args)}], ids=["ours", "a learner's"])
def test_the_temperature_of_sampling_is_that_of_scoring(own):
    """With another temperature in one of them the first ratio would be far from 1."""

    def spy(logprobs, old_logprobs, advantages, mask, **kwargs):
        assert (logprobs - old_logprobs)[mask].abs().max() < 1e-5
        return grpo_loss(logprobs, old_logprobs, advantages, mask, **kwargs)

    run(config(temperature=0.7, num_iterations=2, max_steps=1), loss_fn=spy, **own)


@pytest.mark.parametrize("estimator", ["k3_ratio", "exact"])
def test_at_a_very_high_temperature_every_policy_is_the_uniform_one(estimator):
    """Entropy log V and KL 0, wherever training moves it: they are those of the policy that samples, and so its reference."""

    def alternate(prompts, completions, **_):
        return [float(row % 2) for row in range(len(completions))]

    settings = config(temperature=1e6, kl_estimator=estimator, learning_rate=1e-3)
    state, rows = run(settings, reward_fns=[alternate])
    assert [r["entropy"] for r in rows] == pytest.approx([math.log(258)] * 3)
    assert [r["kl"] for r in rows] == pytest.approx([0.0] * 3, abs=1e-6)
    assert [r["loss"] for r in rows] == pytest.approx([0.0] * 3, abs=1e-6)  # beta times that KL, since the ratios are 1
    assert not torch.equal(weights(state.model), weights(state.reference))


def test_the_update_is_the_gradient_of_the_expected_reward():
    """One prompt, many samples: the step's gradient points where the exact gradient of E[reward] does.

    The reward looks at the first token alone, so its expectation is a sum over the vocabulary.
    """
    settings = GRPOConfig(
        max_steps=1, beta=0, generation_batch_size=4000, num_generations=2000, scale_rewards="none", max_completion_length=1
    )
    prompts = ["7*3+5*8-2+9=", "1*1+1*1-1+1="]
    dataset = Dataset.from_dict({"prompt": prompts})
    state = start(settings)
    model, tokenizer = copy.deepcopy(state.model), state.tokenizer

    def first_is_a_thought(prompts, completions, **_):
        return [float(c.startswith("<")) for c in completions]

    list(train(state, dataset, [first_is_a_thought], settings))
    found = torch.cat([p.grad.flatten() for p in state.model.parameters()])
    ids = torch.tensor([tokenizer(p)["input_ids"] for p in prompts])
    model(ids).logits[:, -1].softmax(-1)[:, ord("<")].mean().neg().backward()
    exact = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.cosine_similarity(found, exact, dim=0) > 0.95


# --- every setting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"])
def test_every_loss_moves_the_policy(loss_type, level):
    settings = config(max_steps=2, loss_type=loss_type, importance_sampling_level=level, epsilon_high=5.0)
    state, rows = run(settings)
    assert not torch.equal(weights(state.model), weights(start(settings).model))
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in rows)


def test_every_setting_reaches_the_function_that_it_is_for():
    loss_settings = {
        "loss_type": "dr_grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 0.1,
        "epsilon_high": 0.3,
        "beta": 0.5,
        "max_completion_length": 9,
    }
    handed = {}

    def spy(function):
        def noting(*args, **kwargs):
            handed.update(kwargs)
            return function(*args, **kwargs)

        return noting

    settings = config(max_steps=1, scale_rewards="none", **loss_settings)
    run(settings, advantages_fn=spy(compute_advantages), loss_fn=spy(grpo_loss))
    assert handed.items() >= {"scale_rewards": "none", **loss_settings}.items()


def test_a_long_gradient_is_scaled_down_and_logged_as_it_was():
    state, rows = run(config(max_steps=1, max_grad_norm=1e-3))
    applied = torch.cat([p.grad.flatten() for p in state.model.parameters()]).norm().item()
    assert applied == pytest.approx(1e-3, rel=1e-3)
    assert rows[0]["grad_norm"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "holds"), [("k1", False), ("k2", True), ("k3", True), ("k3_ratio", True), ("exact", True)]
)
def test_a_strong_penalty_keeps_the_policy_near_the_reference_unless_it_is_k1(estimator, holds):
    """Measured by one yardstick, the exact KL; k1 in the loss has no expected gradient (test_kl.py)."""
    settings = {"max_steps": 12, "kl_estimator": estimator, "learning_rate": 1e-3}

    def distance(beta):
        state, _ = run(config(beta=beta, **settings))
        with torch.no_grad():
            policy, reference = (policy_logits(model, state.batch.rollout) for model in (state.model, state.reference))
        return kl_exact(policy, reference)[state.batch.rollout.completion_mask].mean()

    assert (distance(beta=3.0) < 0.5 * distance(beta=1e-6)) == holds


def test_a_penalty_in_the_reward_is_charged_before_advantages_and_left_out_of_the_loss():
    seen, in_loss = [], []

    def spy(rewards, group_ids, **kwargs):
        seen.append(rewards)
        return compute_advantages(rewards, group_ids, **kwargs)

    def loss_spy(*args, **kwargs):
        in_loss.append((kwargs["kl"], kwargs["beta"]))
        return grpo_loss(*args, **kwargs)

    settings = config(kl_in_reward=True, beta=0.5, learning_rate=1e-3)
    state, rows = run(settings, advantages_fn=spy, loss_fn=loss_spy)
    batch = state.batch
    k1 = ((batch.rollout.logprobs - batch.ref_logprobs) * batch.rollout.completion_mask).sum(1)
    torch.testing.assert_close(seen[-1], batch.rewards - 0.5 * k1)
    assert in_loss == [(None, 0.0)] * 3
    assert rows[-1]["kl"] == pytest.approx((k1.sum() / batch.rollout.completion_mask.sum()).item())
    assert rows[-1]["reward"] == pytest.approx(batch.rewards.mean().item())  # logged without the penalty


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["k1", "k3_ratio", "exact"])
def test_the_logged_kl_is_the_mean_of_k1_at_a_rollouts_own_draws(estimator):
    """Whatever the loss weighs: unbiased for the exact KL, and of later updates on a rollout that of the first."""
    settings = config(kl_estimator=estimator, num_iterations=2, max_steps=2, generation_batch_size=512, learning_rate=1e-3)
    state = start(settings)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for p in state.model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    moved = copy.deepcopy(state.model)
    rows = run(settings, state)[1]
    rollout = state.batch.rollout
    with torch.no_grad():
        exact = kl_exact(policy_logits(moved, rollout), policy_logits(state.reference, rollout))
    error = (rollout.logprobs - state.batch.ref_logprobs - exact)[rollout.completion_mask]  # a martingale: uncorrelated
    mean = exact[rollout.completion_mask].mean().item()
    assert mean > 0.02
    assert abs(rows[0]["kl"] - mean) < 3 * error.std().item() / len(error) ** 0.5 < 0.5 * mean
    assert rows[1]["kl"] == rows[0]["kl"]


def test_without_beta_there_is_no_reference_and_no_kl():
    state, rows = run(config(beta=0.0))
    assert state.reference is None
    assert all("kl" not in row for row in rows)


def test_the_reference_stays_and_moves_only_when_told_to():
    settings = config(learning_rate=1e-3, ref_model_sync_steps=2)
    state, _ = run(settings)
    assert torch.equal(weights(state.reference), weights(start(settings).model))
    state, rows = run(config(learning_rate=1e-3, sync_ref_model=True, ref_model_sync_steps=2, max_steps=4))
    assert torch.equal(weights(state.reference), weights(state.model))
    assert not torch.equal(weights(state.reference), weights(start(settings).model))
    assert abs(rows[2]["kl"]) < 1e-6 < abs(rows[1]["kl"])


def test_all_metrics_are_documented_and_those_not_measured_are_absent():
    rows = run(config())[1]
    of_other_runs = {"thinking", "weighted_logprob", "eval_reward", "eval_accuracy"}
    assert set(rows[0]) - {"rewards/exact_answer/mean"} == set(METRICS) - of_other_runs
    assert [r["step"] for r in rows] == [1, 2, 3]


def test_several_rewards_are_weighed():
    def brief(prompts, completions, **_):
        return [-float(len(c)) for c in completions]

    _, rows = run(config(reward_weights=[1.0, 0.1]), reward_fns=(exact_answer, brief))
    assert rows[0]["reward"] == pytest.approx(
        rows[0]["rewards/exact_answer/mean"] + 0.1 * rows[0]["rewards/brief/mean"], abs=1e-6
    )


@pytest.mark.filterwarnings("error")
def test_a_rollout_that_nobody_scores_teaches_nothing():
    state, rows = run(config(beta=0.0, max_steps=1), reward_fns=[lambda completions, **_: [None] * len(completions)])
    assert "reward" not in rows[0]  # there is no mean of nothing
    assert (rows[0]["frac_reward_zero_std"], rows[0]["grad_norm"]) == (1, 0)
    assert torch.equal(weights(state.model), weights(start(config()).model))


def test_groups_that_agree_leave_the_policy_alone():
    settings = config(beta=0.0)
    state, rows = run(settings, reward_fns=[lambda prompts, completions, **_: [0.35] * len(completions)])
    assert [r["frac_reward_zero_std"] for r in rows] == [1, 1, 1]
    assert [r["grad_norm"] for r in rows] == [0, 0, 0]
    assert torch.equal(weights(state.model), weights(start(settings).model))


# --- a learner's own functions ----------------------------------------------------------------------------------------


def test_functions_of_the_learner_take_the_place_of_ours():
    called = set()

    def wrap(name, function):
        def own(*args, **kwargs):
            called.add(name)
            return function(*args, **kwargs)

        return own

    ours = {"advantages_fn": compute_advantages, "logprobs_fn": token_logprobs, "kl_fn": estimate_kl, "loss_fn": grpo_loss}
    state, _ = run(config(), **{name: wrap(name, function) for name, function in ours.items()})
    assert called == set(ours)
    plain, rows = run(config(), logprobs_fn=lambda *args: token_logprobs(*args))
    assert torch.equal(weights(state.model), weights(plain.model))
    # A function of logits is given them; ours takes the fast way, to the same numbers but for rounding.
    for name in ("loss", "grad_norm", "entropy", "kl"):
        assert rows[0][name] == pytest.approx(run(config())[1][0][name], rel=1e-4, abs=1e-6)


def test_a_learners_kl_is_used_whatever_the_estimator_and_refused_where_there_is_no_kl():
    def own(logprobs, ref_logprobs, old_logprobs):
        return torch.full_like(logprobs, 7.0) + 0 * logprobs

    def spy(*args, kl, **kwargs):
        assert (kl == 7.0).all()
        return grpo_loss(*args, kl=kl, **kwargs)

    run(config(kl_estimator="exact", max_steps=1), kl_fn=own, loss_fn=spy)
    with pytest.raises(BadInput, match="kl_fn was given, but beta is 0"):
        run(config(beta=0.0), kl_fn=own)
    with pytest.raises(BadInput, match="kl_fn was given, but kl_in_reward"):
        run(config(kl_in_reward=True), kl_fn=own)


@pytest.mark.parametrize("name", ["advantages_fn", "logprobs_fn", "kl_fn", "loss_fn"])
def test_a_function_without_a_return_is_named(name):
    def mine(*args, **kwargs):
        pass

    with pytest.raises(BadInput, match=rf"mine, given as {name}, returned None; wanted is .*; is a return missing\?"):
        run(config(), **{name: mine})


def test_a_function_whose_result_has_another_shape_is_named():
    with pytest.raises(BadInput, match=r"given as advantages_fn, returned a tensor of shape \(\); wanted .* \(16,\)"):
        run(config(), advantages_fn=lambda rewards, ids, **_: rewards.mean())
    with pytest.raises(BadInput, match=r"given as logprobs_fn, returned a tensor of shape \(16,\)"):
        run(config(), logprobs_fn=lambda *args: token_logprobs(*args).sum(1))


def test_detached_log_probs_are_an_error_and_not_a_run_that_learns_nothing():
    with pytest.raises(BadInput, match=r"carries no gradient.*the log-probs"):
        run(config(beta=0.0), logprobs_fn=lambda *args: token_logprobs(*args).detach())


def test_it_learns_where_gradients_were_switched_off():
    """As a notebook does, or a reward function's file with a model of its own."""
    state, other = start(config()), start(config())
    with torch.no_grad():
        run(config(max_steps=1), state)
        assert not torch.is_grad_enabled()
    run(config(max_steps=1), other)
    assert torch.equal(weights(state.model), weights(other.model))


def test_a_state_without_a_reference_is_not_trained_with_beta():
    state = start(config(beta=0.0))
    with pytest.raises(BadInput, match="started with beta 0 and has no reference"):
        run(config(beta=5.0), state)


def test_reward_functions_of_one_name_are_logged_apart():
    def brief(completions, **_):
        return [-float(len(text)) for text in completions]

    _, rows = run(config(max_steps=1), reward_fns=[brief, lambda completions, **_: [1.0] * len(completions), brief])
    logged = {name: value for name, value in rows[0].items() if name.startswith("rewards/")}
    assert len(logged) == 3
    assert sum(logged.values()) == pytest.approx(rows[0]["reward"])


@pytest.mark.parametrize("reward_fns", [[], exact_answer])
def test_reward_functions_are_a_list_that_is_not_empty(reward_fns):
    with pytest.raises(BadInput, match="reward_fns is"):
        next(train(start(config()), TASK.train, reward_fns, config()))


def test_small_models_train_on_one_thread_and_the_callers_number_comes_back():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def spy(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return grpo_loss(*args, **kwargs)

    try:
        for _ in train(start(config()), TASK.train, [exact_answer], config(), loss_fn=spy):
            seen.append(torch.get_num_threads())
        assert seen == [1, 2] * 3
    finally:
        torch.set_num_threads(before)


def test_rows_that_are_no_data_set_are_refused():
    with pytest.raises(BadInput, match=r"The data are a list; wanted is a Dataset, such as Dataset.from_list\(rows\)"):
        next(train(start(config()), [{"prompt": "1+1="}], [exact_answer], config()))


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_every_prompt_comes_once_an_epoch_in_a_new_order():
    dataset = Dataset.from_dict({"prompt": [str(n) for n in range(14)], "answer": list(range(14))})
    settings = config(generation_batch_size=12, num_generations=4)  # 3 prompts per rollout, 4 rollouts per epoch
    rollouts = [step_prompts(dataset, index, settings)["prompt"] for index in range(8)]
    for epoch in (rollouts[:4], rollouts[4:]):
        assert len({p for r in epoch for p in r}) == 12
    assert rollouts[:4] != rollouts[4:]
    assert rollouts == [step_prompts(dataset, index, settings)["prompt"] for index in range(8)]


def test_rollouts_take_the_prompts_in_turn_and_each_completion_the_columns_of_its_own():
    asked = []

    def spy(prompts, completions, answer, **_):
        asked.append(list(zip(prompts, answer, strict=True)))
        return [0.0] * len(completions)

    settings = config(max_steps=4, num_iterations=2)  # two rollouts of two updates each
    run(settings, reward_fns=[spy])
    rollouts = [step_prompts(TASK.train, index, settings) for index in range(2)]
    rows = [list(zip(columns["prompt"], columns["answer"], strict=True)) for columns in rollouts]
    assert asked == [[row for row in rollout for _ in range(4)] for rollout in rows]


def test_every_step_and_every_seed_draws_anew():
    """One prompt, and a reward that leaves the policy alone: only the draws can differ."""
    drawn = []

    def spy(prompts, completions, **_):
        drawn.append(tuple(completions))
        return [0.0] * len(completions)

    for seed in (0, 1):
        settings = config(max_steps=2, num_generations=16, beta=0.0, seed=seed)
        list(train(start(settings), Dataset.from_dict({"prompt": ["7*3+5*8-2+9="]}), [spy], settings))
    assert len(set(drawn)) == 4


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="a column 'prompt' is needed"):
        step_prompts(Dataset.from_dict({"question": ["a"]}), 0, config())
    with pytest.raises(
        BadInput, match="A rollout takes 4 prompts, and the data set has 1; generation_batch_size 4 takes no more"
    ):
        step_prompts(Dataset.from_dict({"prompt": ["a"]}), 0, config())


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were():
    settings = config(beta=0.0)
    state = start(settings)

    def broken(*args, **kwargs):
        result = grpo_loss(*args, **kwargs)
        return result._replace(loss=result.loss * float("nan"))

    before = weights(state.model)
    with pytest.raises(FloatingPointError, match="The gradient norm at step 1 is nan"):
        run(settings, state, loss_fn=broken)
    assert torch.equal(weights(state.model), before)


def test_the_learning_rate_logged_is_that_of_the_step():
    settings = config(max_steps=5, lr_scheduler_type="linear", warmup_steps=2, learning_rate=1e-3, beta=0.0)
    state, before, moved = start(settings), None, []
    rows = []
    for row in train(state, TASK.train, [exact_answer], settings):
        rows.append(row["learning_rate"])
        moved.append(before is None or not torch.equal(before, weights(state.model)))
        before = weights(state.model)
    assert rows == pytest.approx([0.0, 5e-4, 1e-3, 1e-3 * 2 / 3, 1e-3 / 3])
    assert torch.equal(weights(start(settings).model), weights(state.model)) is False
    assert moved[1:] == [True] * 4


def test_matrices_decay_and_biases_and_norms_do_not():
    """Where nothing is learnt, AdamW's decay alone moves the weights: by learning rate times weight decay."""
    settings = config(beta=0.0, max_steps=1, learning_rate=0.1, weight_decay=0.5)
    state, _ = run(settings, reward_fns=[lambda completions, **_: [0.35] * len(completions)])
    before = dict(start(settings).model.named_parameters())
    for name, after in state.model.named_parameters():
        decays = not name.endswith("bias") and "ln_" not in name
        torch.testing.assert_close(after, before[name] * (0.95 if decays else 1.0), msg=name)


# --- going on exactly -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_iterations": 3, "learning_rate": 1e-3},
        {"sync_ref_model": True, "ref_model_sync_steps": 2, "beta": 0.1},
        {"beta": 0.0, "loss_type": "dapo"},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "per_device_train_batch_size": 4},
    ],
)
def test_a_checkpoint_goes_on_to_the_last_bit(tmp_path, changes, stop_at):
    settings = config(max_steps=6, **changes)
    uninterrupted, expected = run(settings)
    state = start(settings)
    for row in train(state, TASK.train, [exact_answer], settings):
        if row["step"] == stop_at:
            break
    saved = save_checkpoint(state, tmp_path)
    assert saved.name == f"checkpoint-{stop_at}"
    resumed, rows = run(settings, load_checkpoint(saved, start(settings)))
    assert torch.equal(weights(resumed.model), weights(uninterrupted.model))
    timeless = [{k: v for k, v in row.items() if "seconds" not in k} for row in expected[stop_at:]]
    assert [{k: v for k, v in row.items() if "seconds" not in k} for row in rows] == timeless


def test_a_checkpoint_of_the_first_edition_goes_on_too(tmp_path):
    """It had no old_logprobs beside the rollout's own, and pass_start for what is old_policy now."""
    settings = config(num_iterations=3, max_steps=6, learning_rate=3e-3)
    whole, _ = run(settings)
    state = start(settings)
    steps = train(state, TASK.train, [exact_answer], settings)
    next(steps), next(steps)  # in the middle of a rollout's updates
    saved = torch.load(save_checkpoint(state, tmp_path) / "state.pt", weights_only=True)
    del saved["batch"]["old_logprobs"], saved["old_policy"]
    torch.save({**saved, "pass_start": None}, tmp_path / "checkpoint-2" / "state.pt")
    state, _ = run(settings, load_checkpoint(tmp_path / "checkpoint-2", start(settings)))
    assert torch.equal(weights(state.model), weights(whole.model))


def test_a_checkpoint_is_a_model_that_can_be_loaded(tmp_path):
    settings = config(max_steps=1)
    state, _ = run(settings)
    model, _ = load_policy(str(save_checkpoint(state, tmp_path)))
    assert torch.equal(weights(model), weights(state.model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "rubbish", "empty"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path, name, damage):
    settings = config(max_steps=1)
    state, _ = run(settings)
    file = save_checkpoint(state, tmp_path) / name
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes({"cut": content[: len(content) // 2], "rubbish": b"\x80\x04rubbish" * 100, "empty": b""}[damage])
    with pytest.raises(BadInput, match=r"The checkpoint .*checkpoint-1' is damaged"):
        load_checkpoint(tmp_path / "checkpoint-1", start(settings))


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_save_that_is_cut_short_leaves_the_checkpoints_that_are_whole(tmp_path, monkeypatch, error):
    settings = config(max_steps=1)
    state, _ = run(settings)
    whole = save_checkpoint(state, tmp_path)

    def cut_short(*args):
        raise error("here")

    monkeypatch.setattr(torch, "save", cut_short)
    for state.step in (1, 2):
        with pytest.raises(error, match="here"):
            save_checkpoint(state, tmp_path)
    assert checkpoints(tmp_path) == [whole]
    assert load_checkpoint(whole, start(settings)).step == 1


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path):
    settings = config(max_steps=1)
    state, _ = run(settings)
    folder = save_checkpoint(state, tmp_path)

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"step": 1, "optimizer": Attack(), "batch": None, "reference": None}, folder / "state.pt")
    with pytest.raises(BadInput, match=r"holds more than tensors and numbers, as no run writes\.$"):  # and no advice of torch's
        load_checkpoint(folder, start(settings))
    assert not (tmp_path / "owned").exists()


@pytest.mark.slow
@pytest.mark.parametrize("triples", [None, "bundled"])
def test_in_bf16_products_are_bfloat16_and_weights_float32(triples):
    settings = GRPOConfig.for_triples(bf16=True, max_steps=1) if triples else config(bf16=True)
    state, seen = start(settings), set()
    head_is_all(state.model)  # tried once, in float32
    for layer in state.model.transformer.h:
        layer.mlp.c_fc.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    data = prepare(load_triples(triples), settings) if triples else TASK.train
    rows = list(train(state, data, [] if triples else [exact_answer], settings))
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)


def test_bf16_follows_float32_to_its_rounding():
    rough, exact = (run(config(bf16=bf16, max_steps=1))[1][0] for bf16 in (True, False))
    assert rough["entropy"] == pytest.approx(exact["entropy"], rel=0.05)
    assert rough["entropy"] != exact["entropy"]
