"""Our algebra against TRL's own code: TRL's GRPOTrainer is built once, and handed the same tensors as our functions.

Nothing of TRL's is copied here. Its `_compute_loss` runs with log-probs that are given to it, so that the gradient with
respect to them can be compared; its advantages come out of `_generate_and_score_completions` with only the sampling and the
rewards replaced. All but a model's own pass in float64, which TRL keeps: agreement then is no luck with a tolerance.
"""

from typing import NamedTuple

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from trl import GRPOConfig, GRPOTrainer

from minigrpo import exact_answer
from minigrpo.advantages import compute_advantages
from minigrpo.kl import kl_exact, kl_k3, kl_k3_ratio
from minigrpo.logprobs import shift_logits, token_entropies, token_logprobs
from minigrpo.loss import grpo_loss, importance_ratio
from minigrpo.rewards import combine, score
from minigrpo.run.trl_engine import CHECKPOINTING

B, C, V = 6, 7, 11
MAX_COMPLETION_LENGTH = 9  # of the configuration, more than any row has
EPSILON, BETA, TEMPERATURE = 0.2, 0.04, 0.7
LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]
LEVELS = ["token", "sequence"]
PENALTIES = ["no_kl", "k3", "k3_ratio"]
NAN = float("nan")

pytestmark = pytest.mark.quick
every_loss_type = pytest.mark.parametrize("loss_type", LOSS_TYPES)
every_level = pytest.mark.parametrize("level", LEVELS)
every_penalty = pytest.mark.parametrize("penalty", PENALTIES)
every_epsilon_high = pytest.mark.parametrize("wide", [False, True], ids=["epsilon_high_off", "epsilon_high_on"])


def assert_same(ours, trl, atol=1e-12):
    """To 1e-12, where 1e-6 would do: float64 leaves nothing to be generous about."""
    torch.testing.assert_close(ours, trl, rtol=0, atol=atol)


# --- inputs ---------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What a loss is computed from. Log-probs (B, C) nats, advantages (B,), mask (B, C) bool."""

    logprobs: Tensor
    old: Tensor
    ref: Tensor
    advantages: Tensor
    mask: Tensor

    def rows(self, start, stop):
        return Batch(*(tensor[start:stop] for tensor in self))


def make_batch():
    """Tokens drawn from an old policy, which the policy has since left by far: each row in its own direction, plus noise.

    The rows' ratios are high, low, low, high and twice near 1, under advantages of both signs: every branch of the clip is
    taken, by single tokens and by whole sequences.
    """
    generator = torch.Generator().manual_seed(0)
    old_logits = torch.randn(B, C, V, generator=generator, dtype=torch.float64)
    ids = torch.multinomial(old_logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(B, C)
    drift = torch.tensor([0.9, -1.1, -0.7, 0.7, 0.0, 0.1])[:, None, None] * torch.nn.functional.one_hot(ids, V)
    logits = old_logits + drift + 0.35 * torch.randn(B, C, V, generator=generator, dtype=torch.float64)
    ref_logits = old_logits + 0.5 * torch.randn(B, C, V, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 3, 5, 6, 4])  # 11 tokens in the first half of the rows, 15 in the second
    return Batch(
        *(token_logprobs(x, ids) for x in (logits, old_logits, ref_logits)),
        advantages=torch.tensor([1.2, -0.7, 0.4, -1.5, 0.6, -0.9], dtype=torch.float64),
        mask=torch.arange(C) < lengths[:, None],
    )


BATCH = make_batch()


@every_level
def test_the_inputs_reach_both_clips_and_the_free_middle_with_advantages_of_both_signs(level):
    ratio = importance_ratio(BATCH.logprobs, BATCH.old, BATCH.mask, level).expand(B, C)[BATCH.mask]
    advantages = BATCH.advantages[:, None].expand(B, C)[BATCH.mask]
    for sign in (-1, 1):
        seen = ratio[advantages.sign() == sign]
        assert (seen < 0.6).any()
        assert ((seen > 1 - EPSILON) & (seen < 1 + EPSILON)).any()
        assert (seen > 1.6).any()
    assert 0.2 < ratio.min() < ratio.max() < 4


# --- TRL ------------------------------------------------------------------------------------------------------------


def thinking_bonus(prompts, completions, **_):
    """Has no opinion on a completion of one character."""
    return [None if len(completion) == 1 else 0.5 for completion in completions]


@pytest.fixture(scope="module")
def trainer(tokenizer, tmp_path_factory):
    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to="none",
        **{CHECKPOINTING: False},
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=MAX_COMPLETION_LENGTH,
        temperature=TEMPERATURE,
        epsilon=EPSILON,
        beta=0.0,  # any other value would have it load a reference model by name
    )
    # Large weights: a policy whose every token is as likely as the next would agree with many a mistake.
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_layer=2, n_embd=16, n_head=2, initializer_range=0.4)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    with torch.random.fork_rng():  # the model draws its weights from the global generator, and TRL seeds that
        torch.manual_seed(0)
        trainer = GRPOTrainer(
            GPT2LMHeadModel(config),
            [exact_answer, thinking_bonus],
            args,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": ["1+1="], "answer": ["2"]}),  # must be there; is not read
        )
    trainer.model.train()  # TRL's mode, which decides what it divides by
    return trainer


class TRLLoss(NamedTuple):
    loss: Tensor
    gradient: Tensor  # (B, C), with respect to the log-probs
    metrics: dict[str, float]


@pytest.fixture
def trl_loss(trainer, monkeypatch):
    """TRL's `_compute_loss` on a batch of given log-probs, under given settings, which are taken back afterwards."""

    def run(batch, loss_type, level, penalty="no_kl", epsilon_high=None, accumulation=1, num_tokens=None):
        logprobs = batch.logprobs.clone().requires_grad_()
        settings = {
            "loss_type": loss_type,
            "importance_sampling_level": level,
            "beta": 0.0 if penalty == "no_kl" else BETA,
            "current_gradient_accumulation_steps": accumulation,
            "_get_per_token_logps_and_entropies": lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        }
        if epsilon_high is not None:  # else TRL's own default for the epsilon it was built with
            settings["epsilon_high"] = epsilon_high
        prompt = torch.ones(len(batch.mask), 2, dtype=torch.long)
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(trainer, name, value, raising=False)
            patch.setattr(trainer.args, "use_bias_correction_kl", penalty == "k3_ratio")
            patch.setattr(trainer.args, "steps_per_generation", accumulation)
            trainer._metrics["train"].clear()
            inputs = {
                "prompt_ids": prompt,
                "prompt_mask": prompt,
                "completion_ids": torch.zeros_like(batch.mask, dtype=torch.long),
                "completion_mask": batch.mask.long(),
                "old_per_token_logps": batch.old,
                "ref_per_token_logps": batch.ref,
                "advantages": batch.advantages,
                "num_items_in_batch": batch.mask.sum() if num_tokens is None else num_tokens,
            }
            loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        return TRLLoss(loss.detach(), logprobs.grad, {name: values[-1] for name, values in trainer._metrics["train"].items()})

    return run


# --- ours -----------------------------------------------------------------------------------------------------------


def penalty_of(logprobs, batch, penalty, ratio_level):
    """(B, C) nats, or None. With sequence ratios TRL weighs k3 by the sequence's, a choice that is ours to hand in."""
    if penalty == "no_kl":
        return None
    if penalty == "k3":
        return kl_k3(logprobs, batch.ref)
    if ratio_level == "token":
        return kl_k3_ratio(logprobs, batch.ref, batch.old)
    return kl_k3(logprobs, batch.ref) * importance_ratio(logprobs, batch.old, batch.mask, ratio_level)


def our_loss(batch, loss_type, level, penalty="no_kl", epsilon_high=None, kl_ratio_level=None, **counts):
    """GRPOLoss, and the gradient with respect to the log-probs."""
    logprobs = batch.logprobs.clone().requires_grad_()
    result = grpo_loss(
        logprobs,
        batch.old,
        batch.advantages,
        batch.mask,
        kl=penalty_of(logprobs, batch, penalty, kl_ratio_level or level),
        beta=0.0 if penalty == "no_kl" else BETA,
        epsilon=EPSILON,
        epsilon_high=epsilon_high,
        loss_type=loss_type,
        importance_sampling_level=level,
        max_completion_length=MAX_COMPLETION_LENGTH,
        **counts,
    )
    result.loss.backward()
    return result, logprobs.grad


def epsilon_high_of(loss_type, wide):
    """For cispo it is the cap of the weight itself, and not to be left out: one below and one above most of the ratios."""
    if loss_type == "cispo":
        return 2.0 if wide else 0.9
    return 0.5 if wide else None


# --- the loss -------------------------------------------------------------------------------------------------------


@every_epsilon_high
@every_penalty
@every_level
@every_loss_type
def test_the_loss_and_its_gradient_are_trls(trl_loss, loss_type, level, penalty, wide):
    settings = (loss_type, level, penalty, epsilon_high_of(loss_type, wide))
    ours, gradient = our_loss(BATCH, *settings)
    trl = trl_loss(BATCH, *settings)
    assert_same(ours.loss.detach(), trl.loss)
    assert_same(gradient, trl.gradient)
    assert (trl.gradient != 0).any(1).sum() >= 4  # the clip silences two rows at most; a gradient of zeros would prove nothing


@every_epsilon_high
@every_loss_type
def test_the_clip_fraction_is_the_one_trl_logs(trl_loss, loss_type, wide):
    settings = (loss_type, "token", "no_kl", epsilon_high_of(loss_type, wide))
    ours, _ = our_loss(BATCH, *settings)
    logged = trl_loss(BATCH, *settings).metrics["cispo_clip_ratio" if loss_type == "cispo" else "clip_ratio/region_mean"]
    assert 0 < logged < 1
    assert ours.clip_fraction.item() == pytest.approx(logged, abs=1e-6)


@pytest.mark.parametrize("penalty", ["k3", "k3_ratio"])
@every_level
def test_the_kl_is_the_one_trl_logs(trl_loss, level, penalty):
    ours, _ = our_loss(BATCH, "grpo", level, penalty)
    logged = trl_loss(BATCH, "grpo", level, penalty).metrics["kl"]
    assert logged > 0.05
    assert ours.kl.item() == pytest.approx(logged, abs=1e-12)


@pytest.mark.parametrize("penalty", ["no_kl", "k3", "k3_ratio"])
@every_level
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_two_uneven_micro_batches_are_trls_each_and_sum_to_the_whole(trl_loss, loss_type, level, penalty):
    settings = (loss_type, level, penalty, epsilon_high_of(loss_type, True))
    num_tokens = BATCH.mask.sum()
    parts = [BATCH.rows(0, 3), BATCH.rows(3, 6)]
    assert parts[0].mask.sum() != parts[1].mask.sum()
    ours = [our_loss(part, *settings, num_sequences=B, num_tokens=int(num_tokens)) for part in parts]
    for part, (result, gradient) in zip(parts, ours, strict=True):
        trl = trl_loss(part, *settings, accumulation=2, num_tokens=num_tokens)
        assert_same(result.loss.detach(), trl.loss)
        assert_same(gradient, trl.gradient)
    whole, whole_gradient = our_loss(BATCH, *settings)
    assert_same(sum(result.loss.detach() for result, _ in ours), whole.loss.detach())
    assert_same(torch.cat([gradient for _, gradient in ours]), whole_gradient)


@every_level
def test_bnpo_is_trls_once_the_caller_has_divided_by_the_number_of_micro_batches(trl_loss, level):
    """Its mean is that of each micro-batch, so no count makes the parts sum to the whole; TRL averages the parts."""
    for part in (BATCH.rows(0, 3), BATCH.rows(3, 6)):
        result, gradient = our_loss(part, "bnpo", level)
        trl = trl_loss(part, "bnpo", level, accumulation=2, num_tokens=BATCH.mask.sum())
        assert_same(result.loss.detach() / 2, trl.loss)
        assert_same(gradient / 2, trl.gradient)


# --- where we differ on purpose -------------------------------------------------------------------------------------


@every_loss_type
def test_under_sequence_ratios_our_k3_ratio_keeps_the_token_ratio_and_is_not_trls(trl_loss, loss_type):
    """TRL weighs k3 by whatever ratio the policy term has; k3_ratio by the token's always.

    The ratio is there to bring the gradient of the probability that the token is drawn with. That is the token's own; the
    geometric mean over the sequence brings 1/n of it, and 1/n of its neighbours' (next test). In value the two differ as
    soon as the policy has moved; in gradient they always do.
    """
    settings = (loss_type, "sequence", "k3_ratio", epsilon_high_of(loss_type, True))
    ours, gradient = our_loss(BATCH, *settings, kl_ratio_level="token")
    trl = trl_loss(BATCH, *settings)
    assert abs(ours.loss.detach() - trl.loss) > 1e-4
    assert (gradient - trl.gradient).abs().max() > 1e-4
    on_policy = BATCH._replace(old=BATCH.logprobs)
    ours, gradient = our_loss(on_policy, *settings, kl_ratio_level="token")
    trl = trl_loss(on_policy, *settings)
    assert_same(ours.loss.detach(), trl.loss)
    assert (gradient - trl.gradient).abs().max() > 1e-4


def test_the_token_ratio_gives_the_gradient_of_the_kl_and_the_sequence_ratio_does_not(trl_loss):
    """By enumeration. All 9 sequences of two of 3 tokens are equally likely, so their mean is the expectation, exactly.

    The advantages are 0: all that is left of the loss is the penalty, beta times the mean over both positions of the KL of
    the next token. Row 0 of theta is the first step, row 1 + y the step after y.
    """
    theta = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    ref_theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T

    def logprobs_of(parameters):
        steps = parameters.log_softmax(-1)
        return torch.stack([steps[0, first], steps[1 + first, second]], dim=1)

    def gradient_of(gradient):
        return torch.autograd.grad(logprobs_of(theta), theta, gradient)[0]

    next_token_kl = kl_exact(theta, ref_theta)
    true = torch.autograd.grad(BETA * (next_token_kl[0] + next_token_kl[1:].mean()) / 2, theta)[0]
    logprobs = logprobs_of(theta).detach()
    mask = torch.ones(9, 2, dtype=torch.bool)
    batch = Batch(logprobs, logprobs, logprobs_of(ref_theta), torch.zeros(9, dtype=torch.float64), mask)
    assert_same(gradient_of(our_loss(batch, "grpo", "sequence", "k3_ratio", kl_ratio_level="token")[1]), true)
    assert_same(gradient_of(trl_loss(batch, "grpo", "token", "k3_ratio").gradient), true)
    error = gradient_of(trl_loss(batch, "grpo", "sequence", "k3_ratio").gradient) - true
    assert error.norm() > 0.2 * true.norm()


# --- advantages and rewards -----------------------------------------------------------------------------------------

GROUP_SIZE = 4
SCORES = torch.tensor(
    [
        *[(1.0, 0.4), (0.0, 0.1), (0.0, NAN), (1.0, -3.0)],  # one function abstains: the other still counts
        *[(0.35, 0.1)] * 4,  # all equal
        *[(NAN, NAN), (5.0, 1.0), (NAN, -1.0), (2.0, NAN)],  # one row that no function scored
        *[(NAN, NAN), (NAN, NAN), (3.0, 0.5), (NAN, NAN)],  # a single row that one did
        *[(NAN, NAN)] * 4,
    ],
    dtype=torch.float64,
)


def trl_advantages(trainer, patch, scores, weights, scale_rewards):
    """The advantages in what TRL makes of a generation, with only the sampling and the rewards replaced."""
    size = len(scores)
    sampled = ([[1, 2]] * size, [[3, 4, 5]] * size, None, ["?"] * size, None, {}, None, None)
    patch.setattr(trainer, "_generate", lambda prompts: sampled)
    patch.setattr(trainer, "_calculate_rewards", lambda *_: scores.clone())
    patch.setattr(trainer, "reward_weights", torch.tensor(weights))
    patch.setattr(trainer, "scale_rewards", scale_rewards)
    return trainer._generate_and_score_completions([{"prompt": "1+1=", "answer": "2"}] * size)["advantages"]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_advantages_are_trls_with_a_group_that_agrees_and_rewards_that_are_missing(
    trainer, monkeypatch, scale_rewards, weights
):
    group_ids = torch.arange(len(SCORES)) // GROUP_SIZE
    ours = compute_advantages(combine(SCORES, weights), group_ids, scale_rewards=scale_rewards)
    trl = trl_advantages(trainer, monkeypatch, SCORES, weights, scale_rewards)
    assert trl[:GROUP_SIZE].abs().min() > 0.01
    assert_same(ours, trl, atol=1e-7)  # TRL's n / (n - 1) is float32, whatever the rewards are
    # Exactly: TRL's mean of equal rewards can be off by a rounding, which it divides by 1e-4 (in float32 that shows).
    assert ours[GROUP_SIZE : 2 * GROUP_SIZE].tolist() == [0.0] * GROUP_SIZE


def test_reward_functions_run_under_trls_protocol_and_score_the_same(trainer):
    prompts = ["7*3+5*8-2+9="] * 3 + ["1+1+1+1+1+1="] * 3
    completions = ["5", "<1,6,8,6,5>5", "4", "6", "<2,3", ""]
    answers = ["5"] * 3 + ["6"] * 3
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    trl = trainer._calculate_rewards(rows, prompts, completions, [[1]] * len(rows))
    for column, function in enumerate([exact_answer, thinking_bonus]):
        ours = score(function, prompts, completions, {"answer": answers})
        torch.testing.assert_close(ours, trl[:, column], rtol=0, atol=0, equal_nan=True)
    assert trl[:, 0].tolist() == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert trl[:, 1].isnan().tolist() == [True, False, True, True, False, False]


# --- log-probs ------------------------------------------------------------------------------------------------------


def test_log_probs_and_entropies_are_trls_through_a_gpt2_at_temperature_0_7(trainer):
    prompt_length = 4
    ids = torch.randint(trainer.model.config.vocab_size, (B, prompt_length + C), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logprobs, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), logits_to_keep=C, compute_entropy=True
        )
        logits = shift_logits(trainer.model(ids).logits, prompt_length)
    # Float32, as the model's weights are: log-probs below -8 have a last place of 1e-6.
    torch.testing.assert_close(token_logprobs(logits, ids[:, prompt_length:], TEMPERATURE), logprobs, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(token_entropies(logits, TEMPERATURE), entropies, rtol=5e-6, atol=1e-6)
    assert (token_logprobs(logits, ids[:, prompt_length:]) - logprobs).abs().max() > 0.1  # the temperature matters here
