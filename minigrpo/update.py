"""One optimizer step on a batch: log-probs, KL, loss, backward, step."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from minigrpo.checks import check_loss, check_result
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.kl import kl_exact
from minigrpo.logprobs import token_entropies, token_logprobs
from minigrpo.loss import GRPOLoss, grpo_loss
from minigrpo.recompute import recomputed_layers
from minigrpo.sampling import Rollout
from minigrpo.scoring import in_parts, policy_logits, policy_logprobs


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
    logged: dict[str, float] = field(default_factory=dict)  # metrics that reward functions logged
    extra: dict[str, list] = field(default_factory=dict)  # B values of each column that they logged

    def rows(self, index: Tensor) -> "Batch":
        """A micro-batch: of some rows, all that an update needs."""
        tensors = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, rollout=self.rollout.rows(index), scores={}, **tensors)


@dataclass
class TrainState:
    """Everything that changes while training: what a checkpoint holds."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel | None  # frozen; None at beta 0
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler  # of the learning rate; what it makes depends on the step alone
    step: int = 0
    reference_moved: bool = False  # by sync_ref_model; else the reference is the model of the start
    batch: Batch | None = None  # the latest; updates 2..num_iterations go on with it
    old_policy: PreTrainedModel | None = None  # frozen; of records alone: the policy at the start of this pass over them

    @classmethod
    def start(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: GRPOConfig) -> "TrainState":
        """Step 0: the reference is a frozen copy of the model, which is trained in place, in eval mode (no dropout)."""
        return cls(model.eval(), tokenizer, frozen_copy(model) if config.beta else None, *start_optimizer(model, config))

    def go_on(self, moments: dict, step: int) -> None:
        """Set the step and the moments that an optimizer of this model had there; its settings stay the configuration's."""
        self.optimizer.state = moments
        self.step = self.scheduler.last_epoch = step
        groups = self.optimizer.param_groups
        for group, rate, factor in zip(groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True):
            group["lr"] = rate * factor(step)

    def fork(self, config: GRPOConfig) -> "TrainState":
        """A copy to be trained on with another configuration: the same weights, moments and draws, from this step on.

        Updates that are still to come on the latest rollout are made on it as it was drawn and scored; what the configuration
        says of sampling and rewards holds from the next one on. BadInput for a beta above 0 where there is no reference.
        """
        if config.beta and self.reference is None:
            raise BadInput(f"beta is {config.beta}, but the state was started with beta 0 and has no reference for a KL.")
        state = copy.deepcopy(self, {id(shared): shared for shared in (self.tokenizer, self.scheduler)})
        moments = state.optimizer.state
        state.optimizer, state.scheduler = start_optimizer(state.model, config)
        state.go_on(moments, self.step)
        state.reference = state.reference if config.beta else None
        state.batch = state.batch and for_further_updates(state.batch, state.reference)
        return state


def start_optimizer(model: PreTrainedModel, config: GRPOConfig) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """AdamW and the schedule of its learning rate, at step 0."""
    groups, rates = parameter_groups(model, config.weight_decay), {"lr": config.learning_rate, "eps": config.adam_epsilon}
    optimizer = torch.optim.AdamW(groups, fused=True, **rates)  # fused: one pass over the weights, not ten
    return optimizer, get_scheduler(config.lr_scheduler_type, optimizer, config.warmup_steps, config.max_steps)


def parameter_groups(model: PreTrainedModel, weight_decay: float) -> list[dict]:
    """The parameters, and which of them decay: matrices, but no bias and no weight of a norm, which have a single axis."""
    if weight_decay == 0:
        return [{"params": list(model.parameters()), "weight_decay": 0.0}]
    parts = [[p for p in model.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    return [{"params": parts[0], "weight_decay": weight_decay}, {"params": parts[1], "weight_decay": 0.0}]


def for_further_updates(batch: Batch, reference: PreTrainedModel | None) -> Batch:
    """The batch under another configuration: a second update compares with the sampler; without a reference there is no KL."""
    drawn_with = batch.rollout.logprobs if batch.rollout.logprobs.any() else None  # of records nobody knows them
    old = drawn_with if batch.old_logprobs is None else batch.old_logprobs
    return replace(batch, old_logprobs=old, ref_logprobs=None if reference is None else batch.ref_logprobs)


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
    state.optimizer.zero_grad()
    parts = micro_batches(state, config, logprobs_fn, kl_fn, loss_fn)
    sums = [accumulate(state, part, config, logprobs_fn=logprobs_fn, kl_fn=kl_fn, loss_fn=loss_fn) for part in parts]
    loss, clipped, entropy, tokens = map(sum, zip(*sums, strict=True))
    learning_rate = state.optimizer.param_groups[0]["lr"]  # of this step; descend goes on to that of the next
    return {
        "loss": loss,
        "clip_ratio": clipped / tokens,
        "grad_norm": descend(state, config, loss),
        "entropy": entropy / tokens,
        "learning_rate": learning_rate,
    }


def accumulate(
    state: TrainState, part: Batch, config: GRPOConfig, *, logprobs_fn: Callable, kl_fn: Callable | None, loss_fn: Callable
) -> tuple[float, float, float, int]:
    """One forward and backward pass, which adds the gradient of a part of the batch to what is there.

    A silent part, whose gradient is 0, is read for its entropies alone. A batch that is silent as a whole gets its 0 made, so
    that AdamW goes on by its momentum.

    Returns:
        What the part adds to the loss; how many tokens the clip held back; their entropies in nats, summed; and their number.
    """
    mask = part.rollout.completion_mask
    teaches = bool(silent(state.batch, config, loss_fn).all() or not silent(part, config, loss_fn).all())
    recomputed = recomputed_layers(state.model, enabled=config.gradient_checkpointing and teaches)
    with torch.set_grad_enabled(teaches), mixed_precision(state, config), recomputed:
        logprobs, entropies, logits = under_the_policy(state, part, config, logprobs_fn, kl_fn)
        old_logprobs = logprobs.detach() if part.old_logprobs is None else part.old_logprobs
        kl = penalty(state, part, config, kl_fn, logprobs, old_logprobs, logits)
    result = share_of_loss(state.batch, part, config, loss_fn, logprobs, old_logprobs, kl)
    if teaches:
        check_loss(loss_fn, result)
        result.loss.backward()
    tokens = int(mask.sum())
    return result.loss.item(), result.clip_fraction.item() * tokens, entropies[mask].sum().item(), tokens


def micro_batches(
    state: TrainState, config: GRPOConfig, logprobs_fn: Callable, kl_fn: Callable | None, loss_fn: Callable
) -> list[Batch]:
    """The batch in parts of per_device_train_batch_size rows, whose losses and gradients add up to those of the whole.

    Silent rows have parts of their own, and equal completions that are scored once count as one row. Neither with bnpo, whose
    mean depends on who shares a part.
    """
    batch, size = state.batch, config.per_device_train_batch_size
    if size is None:
        return [batch]
    together = config.loss_type != "bnpo" and not needs_logits(batch, config, logprobs_fn, kl_fn)
    kinds = [batch]
    if config.loss_type != "bnpo":
        quiet = silent(batch, config, loss_fn)
        kinds = [batch.rows(rows.nonzero()[:, 0]) for rows in (~quiet, quiet) if rows.any()]
    return [kind.rows(rows) for kind in kinds for rows in in_parts(state.model, kind.rollout, size, equal_together=together)]


def penalized(batch: Batch, config: GRPOConfig) -> bool:
    """Whether the loss weighs a KL."""
    return batch.ref_logprobs is not None and not config.kl_in_reward


def silent(batch: Batch, config: GRPOConfig, loss_fn: Callable) -> Tensor:
    """(B,) whether a row has no gradient: no advantage and no KL. What a learner's own loss makes of such a row is unknown."""
    advantage = batch.advantages.reshape(len(batch.advantages), -1).any(1)
    return ~advantage & (loss_fn is grpo_loss and not penalized(batch, config))


def needs_logits(batch: Batch, config: GRPOConfig, logprobs_fn: Callable, kl_fn: Callable | None) -> bool:
    """Whether a learner's function or the exact KL takes (B, C, V) logits; the fast way never holds all of them at once."""
    return logprobs_fn is not token_logprobs or (kl_fn is None and penalized(batch, config))


def under_the_policy(
    state: TrainState, batch: Batch, config: GRPOConfig, logprobs_fn: Callable, kl_fn: Callable | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probs with gradient and entropies without, (B, C) nats each, of the batch's tokens; and the logits if needed."""
    rollout = batch.rollout
    if not needs_logits(batch, config, logprobs_fn, kl_fn):
        return *policy_logprobs(state.model, rollout, config.temperature), None
    logits = policy_logits(state.model, rollout)
    logprobs = logprobs_fn(logits, rollout.completion_ids, config.temperature)
    check_result("logprobs_fn", logprobs_fn, logprobs, tuple(rollout.completion_ids.shape))
    return logprobs, token_entropies(logits.detach(), config.temperature), logits


def penalty(
    state: TrainState,
    batch: Batch,
    config: GRPOConfig,
    kl_fn: Callable | None,
    logprobs: Tensor,
    old_logprobs: Tensor,
    logits: Tensor | None,
) -> Tensor | None:
    """(B, C) nats: the KL that the loss weighs; None where there is none, or the reward was charged for it."""
    if not penalized(batch, config):
        return None
    if kl_fn is None:
        with torch.no_grad():
            ref_logits = policy_logits(state.reference, batch.rollout)
        return kl_exact(logits, ref_logits, config.temperature)
    kl = kl_fn(logprobs, batch.ref_logprobs, old_logprobs)
    check_result("kl_fn", kl_fn, kl, tuple(logprobs.shape))
    return kl


def share_of_loss(
    whole: Batch,
    part: Batch,
    config: GRPOConfig,
    loss_fn: Callable,
    logprobs: Tensor,
    old_logprobs: Tensor,
    kl: Tensor | None,
) -> GRPOLoss:
    """The loss of a part, divided by the counts of the whole, so that the parts' losses add up.

    bnpo divides by the part's own tokens, so there each part weighs as its share of the rows; TRL has it so, in even parts.
    """
    num_tokens = int(whole.rollout.completion_mask.sum())
    counts = {} if part is whole else {"num_sequences": len(whole.advantages), "num_tokens": num_tokens}
    result = loss_fn(
        logprobs,
        old_logprobs,
        part.advantages,
        part.rollout.completion_mask,
        kl=kl,
        beta=0.0 if kl is None else config.beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        loss_type=config.loss_type,
        importance_sampling_level=config.importance_sampling_level,
        max_completion_length=config.max_completion_length,
        **counts,
    )
    if config.loss_type == "bnpo":
        result = result._replace(loss=result.loss * len(part.advantages) / len(whole.advantages))
    return result


def descend(state: TrainState, config: GRPOConfig, loss: float) -> float:
    """One optimizer step by the gradient that is there; returns the gradient's norm before it was clipped."""
    grad_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.max_grad_norm).item()
    if not math.isfinite(grad_norm):
        largest = state.batch.advantages.abs().max().item()
        cure = "a lower learning_rate" if largest < 1e3 else "smaller rewards"
        raise FloatingPointError(
            f"The gradient norm at step {state.step + 1} is {grad_norm}, the loss {loss:.3g} and the largest advantage "
            f"{largest:.3g}; the weights were left as they were. The usual cure is {cure}."
        )
    state.optimizer.step()
    state.scheduler.step()
    return grad_norm


def mixed_precision(state: TrainState, config: GRPOConfig) -> torch.autocast:
    """Matrix products in bfloat16, if the configuration says so; for forward passes, whose backward passes follow them."""
    return torch.autocast(state.model.device.type, dtype=torch.bfloat16, enabled=config.bf16)
