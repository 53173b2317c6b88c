"""One optimizer step on a batch: log-probs, KL, loss, backward, step."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.kl import kl_exact
from minigrpo.logprobs import token_entropies, token_logprobs
from minigrpo.metrics import masked_mean
from minigrpo.rewards import short_name
from minigrpo.sampling import Rollout
from minigrpo.scoring import policy_logits, policy_logprobs


@dataclass(frozen=True)
class Batch:
    """Completions and what was made of them: all that updates need, and all that ``samples.jsonl`` shows."""

    rollout: Rollout
    scores: dict[str, Tensor]  # (B,) of each reward function, NaN where it abstained
    rewards: Tensor  # (B,) NaN where every reward function abstained
    advantages: Tensor  # (B,), or (B, C) where steps are scored
    # (B, C) nats under the policy that the ratio compares with. None: the policy as it is at the update, so the ratio is
    # exactly 1, free of the rounding between sampling and scoring.
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None  # (B, C) nats under the reference; None where there is no KL


@dataclass
class TrainState:
    """Everything that changes while training: what a checkpoint holds."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel | None  # frozen; None at beta 0
    optimizer: torch.optim.Optimizer
    step: int = 0
    reference_moved: bool = False  # by sync_ref_model; else the reference is the model of the start
    batch: Batch | None = None  # the latest; updates 2..num_iterations go on with it
    old_policy: PreTrainedModel | None = None  # frozen; of records alone: the policy at the start of this pass over them

    @classmethod
    def start(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: GRPOConfig) -> "TrainState":
        """Step 0: the reference is a frozen copy of the model, which is trained in place, in eval mode (no dropout)."""
        # fused: one pass over the weights, not ten
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, weight_decay=0.0, **rates(config))
        return cls(model.eval(), tokenizer, frozen_copy(model) if config.beta else None, optimizer)

    def fork(self, config: GRPOConfig) -> "TrainState":
        """A copy to be trained on with another configuration: the same weights, moments and draws, from this step on.

        Updates that are still to come on the latest rollout are made on it as it was drawn and scored; what the configuration
        says of sampling and rewards holds from the next one on. Train each with a configuration of its own: a learning rate is
        the state's, and ``train`` does not change it.

        Raises:
            BadInput: for a beta above 0 where the state has no reference.
        """
        if config.beta and self.reference is None:
            raise BadInput(
                f"beta is {config.beta}, but the state was started with beta 0 and has no reference to measure a KL from; "
                "start it with a beta above 0, which a fork can then lower."
            )
        state = copy.deepcopy(self, {id(self.tokenizer): self.tokenizer})
        for group in state.optimizer.param_groups:
            group.update(rates(config))
        state.reference = state.reference if config.beta else None
        state.batch = state.batch and for_further_updates(state.batch, state.reference)
        return state


def rates(config: GRPOConfig) -> dict[str, float]:
    """What the configuration says to the optimizer."""
    return {"lr": config.learning_rate, "eps": config.adam_epsilon}


def for_further_updates(batch: Batch, reference: PreTrainedModel | None) -> Batch:
    """The batch for updates under a configuration that may be another than the one it was made for: where it was drawn for a
    single update, the ratio of a second one compares with the sampler; and without a reference there is no KL."""
    known = batch.old_logprobs is not None or not batch.rollout.logprobs.any()  # of weighted records nobody knows them
    return replace(
        batch,
        old_logprobs=batch.old_logprobs if known else batch.rollout.logprobs,
        ref_logprobs=None if reference is None else batch.ref_logprobs,
    )


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.enable_grad()  # also where a caller, or a reward function with a model of its own, has switched it off
def update(
    state: TrainState, config: GRPOConfig, *, logprobs_fn: Callable, kl_fn: Callable | None, loss_fn: Callable
) -> dict[str, float]:
    """One optimizer update on the state's batch; returns what was measured.

    Args:
        kl_fn: (logprobs, ref_logprobs, old_logprobs) -> (B, C) nats; None for the exact KL, summed over the vocabulary.
    Raises:
        BadInput: if one of the functions returns something that cannot be trained on, with its name.
        FloatingPointError: if the gradient is not finite; the weights are then as they were.
    """
    batch, mask = state.batch, state.batch.rollout.completion_mask
    with mixed_precision(state, config):
        logprobs, entropies, logits = under_the_policy(state, config, logprobs_fn, with_logits=kl_fn is None)
        old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        kl = penalty(state, config, kl_fn, logprobs, old_logprobs, logits)
    result = loss_fn(
        logprobs,
        old_logprobs,
        batch.advantages,
        mask,
        kl=kl,
        beta=0.0 if kl is None else config.beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        loss_type=config.loss_type,
        importance_sampling_level=config.importance_sampling_level,
        max_completion_length=config.max_completion_length,
    )
    check_loss(loss_fn, result)
    grad_norm = descend(state, config, result.loss)
    return {
        "loss": result.loss.item(),
        "clip_ratio": result.clip_fraction.item(),
        "grad_norm": grad_norm,
        "entropy": masked_mean(entropies, mask),
        "learning_rate": config.learning_rate,
    }


def under_the_policy(
    state: TrainState, config: GRPOConfig, logprobs_fn: Callable, with_logits: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probs with gradient and entropies without, (B, C) nats each, of the batch's tokens; and the (B, C, V) logits where a
    learner's function or the exact KL needs them. Otherwise the fast way is taken, which never holds all logits at once."""
    rollout = state.batch.rollout
    if logprobs_fn is token_logprobs and not (with_logits and state.batch.ref_logprobs is not None):
        return *policy_logprobs(state.model, rollout, config.temperature), None
    logits = policy_logits(state.model, rollout)
    logprobs = logprobs_fn(logits, rollout.completion_ids, config.temperature)
    check_result("logprobs_fn", logprobs_fn, logprobs, tuple(rollout.completion_ids.shape))
    return logprobs, token_entropies(logits.detach(), config.temperature), logits


def penalty(
    state: TrainState,
    config: GRPOConfig,
    kl_fn: Callable | None,
    logprobs: Tensor,
    old_logprobs: Tensor,
    logits: Tensor | None,
) -> Tensor | None:
    """(B, C) nats: the KL that the loss weighs; None where there is none, or the reward was charged for it."""
    batch = state.batch
    if batch.ref_logprobs is None or config.kl_in_reward:
        return None
    if kl_fn is None:
        with torch.no_grad():
            ref_logits = policy_logits(state.reference, batch.rollout)
        return kl_exact(logits, ref_logits, config.temperature)
    kl = kl_fn(logprobs, batch.ref_logprobs, old_logprobs)
    check_result("kl_fn", kl_fn, kl, tuple(logprobs.shape))
    return kl


def descend(state: TrainState, config: GRPOConfig, loss: Tensor) -> float:
    """One optimizer step; returns the gradient's norm before it was clipped."""
    state.optimizer.zero_grad()
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.max_grad_norm).item()
    if not math.isfinite(grad_norm):
        largest = state.batch.advantages.abs().max().item()
        cure = "a lower learning_rate" if largest < 1e3 else "smaller rewards"
        raise FloatingPointError(
            f"The gradient norm at step {state.step + 1} is {grad_norm}, the loss {loss.item():.3g} and the largest advantage "
            f"{largest:.3g}; the weights were left as they were. The usual cure is {cure}."
        )
    state.optimizer.step()
    return grad_norm


def mixed_precision(state: TrainState, config: GRPOConfig) -> torch.autocast:
    """Matrix products in bfloat16, if the configuration says so; for forward passes, whose backward passes follow them."""
    return torch.autocast(state.model.device.type, dtype=torch.bfloat16, enabled=config.bf16)


def check_result(argument: str, function: Callable, result, *shapes: tuple[int, ...]) -> None:
    """Raises BadInput unless a learner's function returned a tensor of one of these shapes."""
    if isinstance(result, Tensor) and tuple(result.shape) in shapes:
        return
    got = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"{result!r:.60}"
    wanted = " or ".join(map(str, shapes))
    hint = "; is a return missing?" if result is None else "."
    raise BadInput(f"{short_name(function)}, given as {argument}, returned {got}; wanted is a tensor of shape {wanted}{hint}")


def check_loss(function: Callable, result) -> None:
    """Raises BadInput unless a learner's function returned a loss that something can be learnt from."""
    name = f"{short_name(function)}, given as loss_fn,"
    if not isinstance(getattr(result, "loss", None), Tensor) or not hasattr(result, "clip_fraction"):
        hint = "; is a return missing?" if result is None else "."
        raise BadInput(f"{name} returned {result!r:.60}; wanted is a GRPOLoss, as grpo_loss returns it{hint}")
    if not result.loss.requires_grad:
        raise BadInput(
            f"The loss of {name} carries no gradient, so nothing would be learnt; something on the way to it is detached, "
            "such as the log-probs."
        )
