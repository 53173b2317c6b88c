"""The loop that joins the steps: sample, reward, advantage, log-probs, loss, backward, step."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigrpo.advantages import compute_advantages
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.kl import estimate_kl, kl_exact, kl_penalized_rewards
from minigrpo.logprobs import token_entropies, token_logprobs
from minigrpo.loss import grpo_loss
from minigrpo.metrics import masked_mean, rollout_metrics
from minigrpo.policy import context_length
from minigrpo.rewards import RewardFunction, combine, score
from minigrpo.sampling import Rollout, sample_completions
from minigrpo.scoring import fixed_logprobs, policy_logits, policy_logprobs
from minigrpo.triples import logged_rollout, optimum_weights


@dataclass(frozen=True)
class Batch:
    """A rollout and what was made of it: all that updates need, and all that ``samples.jsonl`` shows."""

    rollout: Rollout
    scores: dict[str, Tensor]  # (B,) of each reward function, NaN where it abstained
    rewards: Tensor  # (B,) NaN where every reward function abstained
    advantages: Tensor  # (B,)
    ref_logprobs: Tensor | None  # (B, C) nats; None at beta 0


@dataclass
class TrainState:
    """Everything that changes while training: what a checkpoint holds."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel | None  # frozen; None at beta 0
    pass_start: PreTrainedModel | None  # frozen; the policy at the start of this pass over records, for their ratios
    optimizer: torch.optim.Optimizer
    step: int = 0
    reference_moved: bool = False  # by sync_ref_model; else the reference is the model of the start
    batch: Batch | None = None  # the latest; updates 2..num_iterations go on with it

    @classmethod
    def start(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: GRPOConfig) -> "TrainState":
        """Step 0: the reference is a frozen copy of the model, which is trained in place, in eval mode (no dropout)."""
        reference = copy.deepcopy(model).eval().requires_grad_(False) if config.beta else None
        rates = {"lr": config.learning_rate, "eps": config.adam_epsilon, "weight_decay": 0.0}
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, **rates)  # fused: one pass over the weights, not ten
        ratios = config.triples is not None and config.triples_estimator == "policy_gradient"
        pass_start = copy.deepcopy(model).eval().requires_grad_(False) if ratios else None
        return cls(model.eval(), tokenizer, reference, pass_start, optimizer)


def train(
    state: TrainState,
    dataset: Dataset,
    reward_fns: list[RewardFunction],
    config: GRPOConfig,
    *,
    advantages_fn: Callable = compute_advantages,
    logprobs_fn: Callable = token_logprobs,
    kl_fn: Callable | None = None,
    loss_fn: Callable = grpo_loss,
) -> Iterator[dict]:
    """Train until ``config.max_steps``; yields one dict of metrics (see metrics.METRICS) an optimizer update.

    A generator: progress bars, plots, checkpoints and stopping early stand in the caller's ``for`` loop, and ``state`` holds
    the policy and the latest batch there. Step n draws from generators seeded by (seed, n) alone, so a state that was
    saved goes on exactly as if it had never stopped.

    Args:
        state: from TrainState.start or load_checkpoint.
        dataset: a column "prompt"; the others are handed to the reward functions. Or records, from triples.prepare: then
            nothing is sampled, and completions, rewards and advantages are read from them.
        reward_fns: TRL's protocol, f(prompts, completions, **columns) -> one float or None a completion; [] with records.
        advantages_fn, logprobs_fn, loss_fn: in place of compute_advantages, token_logprobs and grpo_loss.
        kl_fn: in place of the estimator that the configuration names, (logprobs, ref_logprobs, old_logprobs) -> (B, C).
    Raises:
        BadInput: for prompts or rewards that cannot be used.
        FloatingPointError: if the gradient is not finite; the weights are then still those of the step before.
    """
    if kl_fn is not None and not config.beta:
        raise BadInput("kl_fn was given, but beta is 0, so no KL is ever made; set beta.")
    while state.step < config.max_steps:
        start = time.perf_counter()
        fresh = state.step % config.num_iterations == 0
        if fresh:
            index = state.step // config.num_iterations
            with mixed_precision(state, config):
                if config.triples:
                    state.batch = read_batch(state, dataset, index, config)
                else:
                    state.batch = make_batch(state, step_prompts(dataset, index, config), reward_fns, config, advantages_fn)
        middle = time.perf_counter()
        metrics = update(state, config, logprobs_fn, kl_fn, loss_fn)
        end = time.perf_counter()
        state.step += 1
        if config.sync_ref_model and state.reference is not None and state.step % config.ref_model_sync_steps == 0:
            state.reference.load_state_dict(state.model.state_dict())
            state.reference_moved = True
        tokens = int(state.batch.rollout.completion_mask.sum())
        yield {
            "step": state.step,
            **metrics,
            **batch_metrics(state, config),
            "sampling/tokens": tokens if fresh else 0,
            "sampling/seconds": middle - start,
            "update/tokens": tokens,
            "update/seconds": end - middle,
        }


def mixed_precision(state: TrainState, config: GRPOConfig) -> torch.autocast:
    """Matrix products in bfloat16, if the configuration says so; for forward passes, whose backward passes follow them."""
    return torch.autocast(state.model.device.type, dtype=torch.bfloat16, enabled=config.bf16)


def step_prompts(dataset: Dataset, index: int, config: GRPOConfig) -> dict[str, list]:
    """The columns of rollout ``index``: P rows of a permutation drawn anew each time the data set has been used up.

    Raises:
        BadInput: without a column "prompt", or with fewer rows than a rollout takes.
    """
    num_prompts = config.generation_batch_size // (1 if config.triples else config.num_generations)
    if "prompt" not in dataset.column_names:
        raise BadInput(f"The data set has the columns {dataset.column_names}; a column 'prompt' is needed.")
    if len(dataset) < num_prompts:
        what, whole = ("records", "batch") if config.triples else ("prompts", "rollout")
        raise BadInput(f"There are {len(dataset)} {what}, a {whole} takes {num_prompts}; a lower generation_batch_size helps.")
    epoch, position = divmod(index, len(dataset) // num_prompts)
    order = torch.randperm(len(dataset), generator=seeded(config.seed, 1, epoch))
    return dataset[order[position * num_prompts : (position + 1) * num_prompts].tolist()]


def seeded(*numbers: int, device="cpu") -> torch.Generator:
    """A generator of its own for each tuple of numbers, so that no draw depends on what was drawn before."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator(device).manual_seed(seed)


def make_batch(
    state: TrainState, columns: dict[str, list], reward_fns: list[RewardFunction], config: GRPOConfig, advantages_fn: Callable
) -> Batch:
    """Sample, reward, advantage: one rollout of the policy as it is."""
    rollout = sample_completions(
        state.model,
        state.tokenizer,
        columns["prompt"],
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        generator=seeded(config.seed, 2, state.step, device=state.model.device),
    )
    times = range(config.num_generations)
    columns = {name: [value for value in column for _ in times] for name, column in columns.items() if name != "prompt"}
    scores = torch.stack([score(fn, rollout.prompts, rollout.completions, columns) for fn in reward_fns], dim=1)
    rewards = combine(scores, config.reward_weights).to(state.model.device)
    ref_logprobs = None
    if state.reference is not None:
        ref_logprobs = fixed_logprobs(state.reference, rollout, config.temperature)
    penalized = rewards
    if config.kl_in_reward and config.beta:
        penalized = kl_penalized_rewards(rewards, rollout.logprobs, ref_logprobs, rollout.completion_mask, config.beta)
    advantages = advantages_fn(penalized, rollout.group_ids, scale_rewards=config.scale_rewards)
    names = [getattr(fn, "__name__", type(fn).__name__) for fn in reward_fns]
    return Batch(rollout, dict(zip(names, scores.T, strict=True)), rewards, advantages, ref_logprobs)


def read_batch(state: TrainState, records: Dataset, index: int, config: GRPOConfig) -> Batch:
    """The same batch from records: responses that others wrote, with the advantages that triples.prepare gave them."""
    columns = step_prompts(records, index, config)
    device = state.model.device
    rollout = logged_rollout(state.tokenizer, columns, context_length(state.model)).to(device)
    if state.pass_start is not None:
        if index % (len(records) // config.generation_batch_size) == 0:
            state.pass_start.load_state_dict(state.model.state_dict())
        rollout = replace(rollout, logprobs=fixed_logprobs(state.pass_start, rollout, config.temperature))
    rewards, advantages = (torch.tensor(columns[name], device=device) for name in ("reward", "advantage"))
    return Batch(rollout, {}, rewards, advantages, None)


def update(
    state: TrainState, config: GRPOConfig, logprobs_fn: Callable, kl_fn: Callable | None, loss_fn: Callable
) -> dict[str, float]:
    """Log-probs, loss, backward, step: one optimizer update on the state's batch."""
    mask = state.batch.rollout.completion_mask
    with mixed_precision(state, config):
        logprobs, old_logprobs, kl, entropies = _under_the_policy(state, config, logprobs_fn, kl_fn)
    in_loss = kl is not None and not config.kl_in_reward
    result = loss_fn(
        logprobs,
        old_logprobs,
        state.batch.advantages,
        mask,
        kl=kl if in_loss else None,
        beta=config.beta if in_loss else 0.0,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        loss_type=config.loss_type,
        importance_sampling_level=config.importance_sampling_level,
        max_completion_length=config.max_completion_length,
    )
    grad_norm = _descend(state, config, result.loss)
    metrics = {"loss": result.loss.item(), "clip_ratio": result.clip_fraction.item(), "grad_norm": grad_norm}
    metrics |= {"kl": masked_mean(kl, mask)} if kl is not None else {}
    return metrics | {"entropy": masked_mean(entropies, mask), "learning_rate": config.learning_rate}


def _under_the_policy(
    state: TrainState, config: GRPOConfig, logprobs_fn: Callable, kl_fn: Callable | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """What the loss needs of the batch's tokens: log-probs, old log-probs, KL; and entropies. (B, C) nats each."""
    rollout = state.batch.rollout
    weighted = config.triples is not None and config.triples_estimator == "weighted"
    penalized = state.reference is not None and not weighted  # the weights of weighted records hold the KL
    # Records hold no draws of the policy to estimate a KL from.
    exact = penalized and kl_fn is None and (config.kl_estimator == "exact" or config.triples is not None)
    logits, kl = None, None
    if exact or logprobs_fn is not token_logprobs:
        logits = policy_logits(state.model, rollout)
        logprobs = logprobs_fn(logits, rollout.completion_ids, config.temperature)
        entropies = token_entropies(logits.detach(), config.temperature)
    else:
        logprobs, entropies = policy_logprobs(state.model, rollout, config.temperature)
    # With one update a rollout the policy that is trained is the one that sampled: a ratio of exactly 1, free of the
    # rounding between sampling and scoring. Weighted records have no other policy either.
    on_policy = weighted or (config.num_iterations == 1 and state.pass_start is None)
    old_logprobs = logprobs.detach() if on_policy else rollout.logprobs
    if penalized:
        kl = _penalty(state, config, kl_fn, logits if exact else None, logprobs, old_logprobs)
    return logprobs, old_logprobs, kl, entropies


def _descend(state: TrainState, config: GRPOConfig, loss: Tensor) -> float:
    """One optimizer step; returns the gradient's norm before it was clipped."""
    state.optimizer.zero_grad()
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.max_grad_norm).item()
    if not math.isfinite(grad_norm):
        raise FloatingPointError(
            f"The gradient norm at step {state.step + 1} is {grad_norm} and the loss {loss.item()}; "
            "the weights were left as they were. A lower learning_rate is the usual cure."
        )
    state.optimizer.step()
    return grad_norm


def _penalty(
    state: TrainState, config: GRPOConfig, kl_fn: Callable | None, logits: Tensor | None, logprobs: Tensor, old_logprobs: Tensor
) -> Tensor:
    """(B, C) nats: the KL that the loss weighs, or that is only logged where the reward was charged for it."""
    if logits is None:
        kl_fn = kl_fn or partial(estimate_kl, estimator=config.kl_estimator)
        return kl_fn(logprobs, state.batch.ref_logprobs, old_logprobs)
    with torch.no_grad():
        ref_logits = policy_logits(state.reference, state.batch.rollout)
    return kl_exact(logits, ref_logits, config.temperature)


def batch_metrics(state: TrainState, config: GRPOConfig) -> dict[str, float]:
    """What the batch shows: of a rollout its rewards; of records how likely the policy makes what was scored high."""
    rollout = state.batch.rollout
    if not config.triples:
        return rollout_metrics(state.batch.rewards, state.batch.scores, rollout)
    weights = optimum_weights(state.batch.rewards, config.beta or 1.0) / len(state.batch.rewards)
    with mixed_precision(state, config):
        logprobs = fixed_logprobs(state.model, rollout)
        metrics = {"weighted_logprob": (weights * logprobs.sum(1)).sum().item()}
        return metrics | (fresh_metrics(state, config) if state.reference is not None else {})


def fresh_metrics(state: TrainState, config: GRPOConfig, num_prompts: int = 32) -> dict[str, float]:
    """KL(policy || reference) at tokens that the policy writes now (at those of the records it would be another number), and
    the length of what it writes."""
    prompts = list(dict.fromkeys(state.batch.rollout.prompts))[:num_prompts]
    longest = context_length(state.model) - state.batch.rollout.prompt_ids.shape[1]
    fresh = sample_completions(
        state.model,
        state.tokenizer,
        prompts,
        num_generations=1,
        max_completion_length=min(config.max_completion_length, longest),
        generator=seeded(config.seed, 3, state.step, device=state.model.device),
    )
    with torch.no_grad():
        kl = kl_exact(policy_logits(state.model, fresh), policy_logits(state.reference, fresh))
    lengths = fresh.completion_mask.sum(1).float()
    return {"kl": masked_mean(kl, fresh.completion_mask), "completions/mean_length": lengths.mean().item()}
