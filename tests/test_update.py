"""One update in parts: whatever the parts, the gradient and the metrics are those of the whole rollout."""

import copy

import pytest
import torch
from transformers import get_scheduler

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.kl import estimate_kl
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import grpo_loss
from minigrpo.sampling import sample_completions
from minigrpo.scoring import fixed_logprobs, policy_logprobs, scores_equal_rows_once
from minigrpo.tasks import clock_task, exact_answer
from minigrpo.training import train
from minigrpo.triples import Records, load_triples, prepare
from minigrpo.update import Batch, TrainState, update

pytestmark = pytest.mark.quick

TASK = clock_task()
ROWS, PART = 12, 4


@pytest.fixture
def state(random_model, tokenizer):
    """In the middle of a rollout's updates, in float64: the policy is neither the one that sampled nor the reference. The rows
    of a prompt are G = 6, so that a part ends amid a group, and some of them are equal."""
    generator, model = torch.Generator().manual_seed(0), random_model.double()
    sampler, reference = copy.deepcopy(model), copy.deepcopy(model)
    for other in (sampler, reference):
        for weights in other.parameters():
            weights.data += 0.02 * torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
    prompts = ["1+2=", "4*2+9+7*1="]
    rollout = sample_completions(
        sampler, tokenizer, prompts, num_generations=6, max_completion_length=7, temperature=0.7, generator=generator
    )
    ids, mask = rollout.completion_ids, rollout.completion_mask
    ids[3], ids[9], mask[3], mask[9] = ids[0], ids[6], mask[0], mask[6]
    mask[4, 2:] = mask[5, 1:] = mask[10, 4:] = False
    advantages = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    state = TrainState(model, tokenizer, reference.requires_grad_(False), optimizer, get_scheduler("constant", optimizer))
    old, ref = (fixed_logprobs(model, rollout, 0.7) for model in (sampler, reference))
    state.batch = Batch(rollout, {}, advantages, advantages, old, ref)
    return state


def config(**changes):
    sizes = {"generation_batch_size": ROWS, "num_generations": 6, "max_completion_length": 7}
    return GRPOConfig(**sizes, **{"temperature": 0.7, "beta": 0.3, "max_grad_norm": 1e9, "epsilon_high": 0.3} | changes)


def gradient_of(state, settings, kl_fn=None, **functions):
    if kl_fn is None and settings.kl_estimator != "exact":
        kl_fn = lambda *args: estimate_kl(*args, estimator=settings.kl_estimator)  # noqa: E731
    metrics = update(state, settings, **{"logprobs_fn": token_logprobs, "kl_fn": kl_fn, "loss_fn": grpo_loss} | functions)
    return torch.cat([p.grad.flatten() for p in state.model.parameters()]), metrics


def assert_parts_make_the_whole(state, changes=None, size=PART, **functions):
    changes = changes or {}
    whole, expected = gradient_of(state, config(**changes), **functions)
    found, metrics = gradient_of(state, config(**changes, per_device_train_batch_size=size), **functions)
    assert (found - whole).abs().max() < 1e-6 * whole.abs().max()
    assert metrics == pytest.approx(expected, rel=1e-6)
    return whole


@pytest.mark.parametrize(
    ("level", "estimator"),
    [*(("token", name) for name in ("k1", "k2", "k3", "k3_ratio", "exact")), ("sequence", "k3"), ("sequence", "exact")],
)
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_parts_make_the_gradient_and_the_metrics_of_the_whole(state, loss_type, level, estimator):
    settings = {"loss_type": loss_type, "importance_sampling_level": level, "kl_estimator": estimator}
    assert_parts_make_the_whole(state, settings)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("changes", [{}, {"kl_in_reward": True}, {"kl_estimator": "exact"}])
def test_whatever_their_size(state, size, changes):
    assert_parts_make_the_whole(state, changes, size)


@pytest.mark.parametrize("what", ["no KL", "no old log-probs", "advantages of tokens"])
def test_whatever_the_batch_has(state, what):
    batch = vars(state.batch)
    advantages = torch.randn(batch["old_logprobs"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    changes = {"no KL": {"ref_logprobs": None}, "no old log-probs": {"old_logprobs": None}}
    state.batch = Batch(**batch | changes.get(what, {"advantages": advantages}))
    assert_parts_make_the_whole(state)


def of_silent_rows(state, rows, kl=None):
    """No advantage in these rows, and no KL."""
    batch = vars(state.batch)
    advantages = batch["advantages"].clone()
    advantages[rows] = 0.0
    state.batch = Batch(**batch | {"ref_logprobs": kl, "advantages": advantages})


def backward_passes(monkeypatch):
    """The losses that are taken back, in a list that grows."""
    seen, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss, *args: (seen.append(loss), backward(loss, *args))[1])
    return seen


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo", "bnpo"])
def test_rows_without_advantage_are_not_taken_back_and_change_nothing(state, loss_type, monkeypatch):
    """Rows 0 to 5 are a group that agrees, in two parts of at most 4, and row 8 is like them."""
    of_silent_rows(state, [0, 1, 2, 3, 4, 5, 8])
    passes = backward_passes(monkeypatch)
    if loss_type == "bnpo":  # its rows stay in their order, and its parts are no parts of a whole
        gradient_of(state, config(loss_type="bnpo", per_device_train_batch_size=PART))
        assert len(passes) == 2  # of the parts 0..3, 4..7, 8..11
        return
    assert_parts_make_the_whole(state, {"loss_type": loss_type})
    assert len(passes) == 1 + 1  # as a whole; and the five rows with an advantage, of which two are equal


def test_rows_without_advantage_still_feel_the_kl(state, monkeypatch):
    of_silent_rows(state, range(6), kl=state.batch.ref_logprobs)
    passes = backward_passes(monkeypatch)
    assert_parts_make_the_whole(state)
    assert len(passes) == 1 + 3


def test_a_silent_part_of_a_learners_own_loss_is_taken_back(state, monkeypatch):
    """Such as one with a bonus for entropy, which needs no advantage."""

    def bonus(logprobs, *args, **kwargs):
        result = grpo_loss(logprobs, *args, **kwargs)
        return result._replace(loss=result.loss + 0.01 * logprobs.sum())

    of_silent_rows(state, range(6))
    passes = backward_passes(monkeypatch)
    assert_parts_make_the_whole(state, loss_fn=bonus)
    assert len(passes) == 1 + 3


def test_a_batch_that_is_silent_as_a_whole_goes_on_by_momentum(state):
    """A gradient of 0, which is not the same to AdamW as none."""
    of_silent_rows(state, range(ROWS))
    gradient, metrics = gradient_of(state, config(per_device_train_batch_size=PART))
    assert not gradient.any()
    assert metrics["grad_norm"] == metrics["loss"] == 0
    assert metrics["entropy"] > 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_bnpo_is_the_mean_of_its_parts_token_means(state, level):
    """So TRL has it: each part divides by its own tokens, and all parts weigh the same; rows stay in their order."""
    settings = config(loss_type="bnpo", importance_sampling_level=level, per_device_train_batch_size=PART)
    found, metrics = gradient_of(state, settings)
    batch, losses = state.batch, []
    logprobs, _ = policy_logprobs(state.model, batch.rollout, 0.7)
    kl = estimate_kl(logprobs, batch.ref_logprobs, batch.old_logprobs, estimator=settings.kl_estimator)
    sizes = {"beta": 0.3, "epsilon": 0.2, "epsilon_high": 0.3, "loss_type": "bnpo", "importance_sampling_level": level}
    for start in range(0, ROWS, PART):
        rows = slice(start, start + PART)
        tensors = logprobs, batch.old_logprobs, batch.advantages, batch.rollout.completion_mask
        losses.append(grpo_loss(*(x[rows] for x in tensors), kl=kl[rows], **sizes).loss)
    state.model.zero_grad()
    torch.stack(losses).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in state.model.parameters()])
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()
    assert metrics["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["logprobs_fn", "kl_fn", "loss_fn"])
def test_a_learners_function_is_called_for_each_part(state, name):
    rows = []

    def own(function):
        def call(*args, **kwargs):
            rows.append(len(args[0]))
            return function(*args, **kwargs)

        return call

    ours = {"logprobs_fn": token_logprobs, "kl_fn": estimate_kl, "loss_fn": grpo_loss}
    assert_parts_make_the_whole(state, {"kl_estimator": "k3_ratio"}, **{name: own(ours[name])})
    assert rows == ([12, 4, 4, 4] if name == "logprobs_fn" else [12, 5, 5, 2])  # of 10 different ones 4, 4 and 2


def test_a_learners_loss_that_takes_no_counts_is_refused_before_the_first_rollout(state):
    def mine(logprobs, old_logprobs, advantages, completion_mask, *, kl, beta, epsilon, num_tokens):
        raise AssertionError

    steps = train(state, TASK.train, [lambda **_: 1 / 0], config(per_device_train_batch_size=PART), loss_fn=mine)
    with pytest.raises(BadInput, match="mine, given as loss_fn, takes no num_sequences and num_tokens"):
        next(steps)


@pytest.mark.parametrize("estimator", ["weighted", "policy_gradient"])
def test_records_are_learnt_from_in_parts_too(tiny, estimator):
    settings = {"triples_estimator": estimator, "generation_batch_size": 24, "max_grad_norm": 1e9}
    model, tokenizer = tiny
    found = []
    for size in (None, 8):
        ours = GRPOConfig.for_triples(**settings, per_device_train_batch_size=size)
        state = TrainState.start(copy.deepcopy(model).double(), tokenizer, ours)
        state.batch = Records(prepare(load_triples("bundled"), ours), ours).next_batch(state)
        found.append(gradient_of(state, ours, kl_fn=None))
    (whole, expected), (parts, metrics) = found
    assert (parts - whole).abs().max() < 1e-6 * whole.abs().max()
    assert metrics == pytest.approx(expected, rel=1e-5)


# --- what goes through the model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exact", "rows"), [(False, [4, 4, 2]), (True, [4, 4, 4])])
def test_no_pass_has_more_rows_and_equal_completions_are_read_once(state, exact, rows):
    """Of 12 completions 10 are different; where the logits of all are wanted, all are read, as without parts."""
    scores_equal_rows_once(state.model)  # it reads a text of its own, once
    read, passes = [], []

    def note(module, args, inputs):
        read.append(len(args[0] if args else inputs["input_ids"]))

    def loss_fn(*args, **kwargs):
        prompts, *completions = read
        assert prompts <= 2
        passes.append(sum(completions))
        read.clear()
        return grpo_loss(*args, **kwargs)

    state.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    settings = config(kl_estimator="exact" if exact else "k3", per_device_train_batch_size=4)
    gradient_of(state, settings, loss_fn=loss_fn)
    assert passes == rows


def test_the_reference_is_read_in_parts(state):
    whole = fixed_logprobs(state.reference, state.batch.rollout, 0.7)
    read = []
    hook = lambda module, args, inputs: read.append(len(args[0] if args else inputs["input_ids"]))  # noqa: E731
    state.reference.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    torch.testing.assert_close(
        fixed_logprobs(state.reference, state.batch.rollout, 0.7, batch_size=3), whole, rtol=1e-9, atol=0
    )
    assert max(read) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"num_iterations": 2, "kl_in_reward": True, "scale_rewards": "none"}])
def test_a_whole_run_in_parts_is_the_run(tiny, changes):
    """Its gradients differ by rounding alone, which an epsilon of AdamW's keeps from being blown up; so would, with the KL in
    the reward, a group's standard deviation of which only rounding is left."""
    model, tokenizer = tiny
    found = []
    for size in (None, 2):
        sizes = {"generation_batch_size": 16, "num_generations": 4, "max_steps": 3, "adam_epsilon": 1e-3}
        settings = GRPOConfig(**sizes, **changes, learning_rate=1e-3, per_device_train_batch_size=size)
        state = TrainState.start(copy.deepcopy(model), tokenizer, settings)
        rows = list(train(state, TASK.train, [exact_answer], settings))
        found.append((torch.cat([p.flatten() for p in state.model.parameters()]), rows))
    (whole, expected), (parts, rows) = found
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    for name in ("loss", "clip_ratio", "kl", "entropy", "grad_norm"):
        assert rows[-1][name] == pytest.approx(expected[-1][name], rel=1e-3, abs=1e-5)
