"""The loop that joins the steps: sample, reward, advantage, log-probs, KL, loss, backward, step."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from datasets import Dataset
from torch import Tensor
from transformers import TrainerState

from minigrpo.advantages import compute_advantages
from minigrpo.checks import check_result, check_takes_counts
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.kl import estimate_kl, kl_k1, kl_penalized_rewards
from minigrpo.logprobs import token_logprobs
from minigrpo.loss import grpo_loss
from minigrpo.metrics import masked_mean, rollout_metrics
from minigrpo.protocol import Extras, RewardFunction
from minigrpo.rewards import check_reward_fns, combine, reward_names, score_all
from minigrpo.sampling import Rollout, draw_rows, sample_completions, seeded
from minigrpo.scoring import fixed_logprobs
from minigrpo.threads import suited_threads
from minigrpo.triples import Records
from minigrpo.update import Batch, TrainState, mixed_precision, update


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
    """Train until ``config.max_steps``; yields one dict of metrics (see metrics.METRICS) per optimizer update.

    A generator: progress bars, plots, checkpoints and stopping early stand in the caller's ``for`` loop, and ``state`` holds
    the policy and the latest batch there. Step n draws from generators seeded by (seed, n) alone, so a state that was
    saved goes on exactly as if it had never stopped.

    Args:
        state: from TrainState.start or load_checkpoint.
        dataset: a column "prompt" of texts or conversations; the others go to the reward functions. Or records, from
            triples.prepare: then nothing is sampled, and completions, rewards and advantages are read from them.
        reward_fns: TRL's protocol, f(prompts, completions, **columns) -> one float or None per completion (protocol.py);
            [] with records.
        advantages_fn, logprobs_fn, loss_fn: in place of compute_advantages, token_logprobs and grpo_loss.
        kl_fn: in place of the estimator that the configuration names, (logprobs, ref_logprobs, old_logprobs) -> (B, C).
    Raises:
        BadInput: for prompts, rewards or functions that cannot be used.
        FloatingPointError: if the gradient is not finite; the weights are then still those of the step before.
    """
    check_inputs(state, dataset, config, kl_fn)
    check_takes_counts(loss_fn, config)
    source = (
        Records(dataset, config) if config.triples else Rollouts(dataset, check_reward_fns(reward_fns), config, advantages_fn)
    )
    while state.step < config.max_steps:
        with suited_threads(state.model):
            metrics = step(state, source, config, logprobs_fn=logprobs_fn, kl_fn=kl_fn or source.kl_fn, loss_fn=loss_fn)
        yield metrics


def step(state: TrainState, source: "Rollouts | Records", config: GRPOConfig, **functions: Callable) -> dict:
    """A batch where a new one is due, one update on it, and what was measured; ``functions`` are those of ``update``."""
    start = time.perf_counter()
    fresh = state.step % config.num_iterations == 0
    if fresh:
        state.batch = source.next_batch(state)
    middle = time.perf_counter()
    metrics = update(state, config, **functions)
    end = time.perf_counter()
    state.step += 1
    move_reference(state, config)
    tokens = int(state.batch.rollout.completion_mask.sum())
    return {
        "step": state.step,
        **metrics,
        **source.metrics(state),
        "sampling/tokens": tokens if fresh else 0,
        "sampling/seconds": middle - start,
        "update/tokens": tokens,
        "update/seconds": end - middle,
    }


@dataclass(frozen=True)
class Rollouts:
    """Batches of completions that the policy has just drawn: sample, reward, advantage."""

    dataset: Dataset
    reward_fns: list[RewardFunction]
    config: GRPOConfig
    advantages_fn: Callable = compute_advantages

    @property
    def kl_fn(self) -> Callable | None:
        """The estimator that the configuration names; None for the exact KL."""
        name = self.config.kl_estimator
        return None if name == "exact" else partial(estimate_kl, estimator=name)

    def next_batch(self, state: TrainState) -> Batch:
        """One rollout of the policy as it is."""
        config = self.config
        columns = step_prompts(self.dataset, state.step // config.num_iterations, config)
        with mixed_precision(state, config):
            rollout = self.sample(state, columns.pop("prompt"))
            how = config.temperature, config.per_device_train_batch_size
            ref_logprobs = state.reference and fixed_logprobs(state.reference, rollout, *how)
        extras = Extras(rollout.token_rows(), TrainerState(global_step=state.step, max_steps=config.max_steps))
        scores, rewards = self.reward(rollout, columns, extras)
        penalized = rewards
        if config.kl_in_reward and config.beta:
            penalized = kl_penalized_rewards(rewards, rollout.logprobs, ref_logprobs, rollout.completion_mask, config.beta)
        advantages = self.advantages_fn(penalized, rollout.group_ids, scale_rewards=config.scale_rewards)
        check_result("advantages_fn", self.advantages_fn, advantages, tuple(rewards.shape), tuple(rollout.completion_ids.shape))
        # With one update per rollout, the policy that is trained is the one that sampled: the ratio is exactly 1.
        old_logprobs = rollout.logprobs if config.num_iterations > 1 else None
        return Batch(rollout, scores, rewards, advantages, old_logprobs, ref_logprobs, extras.metrics(), extras.columns)

    def sample(self, state: TrainState, prompts: list) -> Rollout:
        """G completions of each prompt."""
        return sample_completions(
            state.model,
            state.tokenizer,
            prompts,
            num_generations=self.config.num_generations,
            max_completion_length=self.config.max_completion_length,
            temperature=self.config.temperature,
            generator=seeded(self.config.seed, 2, state.step, device=state.model.device),
            batch_size=self.config.per_device_train_batch_size,
        )

    def reward(self, rollout: Rollout, columns: dict[str, list], extras: Extras) -> tuple[dict[str, Tensor], Tensor]:
        """The scores of each reward function, by name, and their weighted sum: (B,) each."""
        times = range(self.config.num_generations)
        columns = {name: [value for value in column for _ in times] for name, column in columns.items()}
        scores = score_all(self.reward_fns, rollout.prompts, rollout.completions, columns, extras)
        rewards = combine(scores, self.config.reward_weights).to(rollout.completion_ids.device)
        return dict(zip(reward_names(self.reward_fns), scores.unbind(1), strict=True)), rewards

    def metrics(self, state: TrainState) -> dict[str, float]:
        """What the latest rollout shows; its KL is measured at its own draws, so later updates on it log it again."""
        batch = state.batch
        metrics = rollout_metrics(batch.rewards, batch.scores, batch.rollout)
        if batch.ref_logprobs is not None:
            metrics["kl"] = masked_mean(kl_k1(batch.rollout.logprobs, batch.ref_logprobs), batch.rollout.completion_mask)
        return metrics | batch.logged


def step_prompts(dataset: Dataset, index: int, config: GRPOConfig) -> dict[str, list]:
    """The columns of rollout ``index``: P rows of a permutation that is drawn anew each time the data set has been used up.

    Raises:
        BadInput: without a column "prompt", or with fewer rows than a rollout takes.
    """
    num_prompts = config.generation_batch_size // config.num_generations
    if "prompt" not in dataset.column_names:
        raise BadInput(f"The data set has the columns {dataset.column_names}; a column 'prompt' is needed.")
    if len(dataset) < num_prompts:
        raise BadInput(
            f"A rollout takes {num_prompts} prompts, and the data set has {len(dataset)}; generation_batch_size "
            f"{len(dataset) * config.num_generations} takes no more."
        )
    return draw_rows(dataset, index, num_prompts, config.seed)


def move_reference(state: TrainState, config: GRPOConfig) -> None:
    """Make the policy the new reference, every ref_model_sync_steps of a run with sync_ref_model."""
    if config.sync_ref_model and state.reference is not None and state.step % config.ref_model_sync_steps == 0:
        state.reference.load_state_dict(state.model.state_dict())
        state.reference_moved = True


def check_inputs(state: TrainState, dataset: Dataset, config: GRPOConfig, kl_fn: Callable | None) -> None:
    """Raises BadInput for what would otherwise be found out late, or not at all."""
    if not isinstance(dataset, Dataset):
        raise BadInput(f"The data are a {type(dataset).__name__}; wanted is a Dataset, such as Dataset.from_list(rows).")
    if kl_fn is not None and not config.beta:
        raise BadInput("kl_fn was given, but beta is 0, so no KL is ever made; set beta.")
    if kl_fn is not None and config.kl_in_reward:
        raise BadInput("kl_fn was given, but kl_in_reward takes k1 out of the reward and none into the loss; leave one out.")
    if config.beta and state.reference is None:
        raise BadInput(
            f"beta is {config.beta}, but the state was started with beta 0 and has no reference to measure a KL from; start it "
            "with TrainState.start and this configuration."
        )
