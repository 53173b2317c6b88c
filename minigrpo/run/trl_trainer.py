"""TRL's trainer as a run here wants it: the same prompts, texts, positions and rewards, and a word to the runner each step.

What is overridden was read in TRL 1.16.
"""

import inspect
import math
import sys
import time
from collections.abc import Callable

import torch
import trl
from accelerate.utils import gather
from torch import nn

from minigrpo.policy import share_weights
from minigrpo.protocol import Extras, in_trls_form
from minigrpo.rewards import combine, score_all
from minigrpo.sampling import completion_texts, prompt_tokens


class Trainer(trl.GRPOTrainer):
    """TRL's trainer, which tells the runner of each step, in this package's words."""

    to_runner: Callable[[dict, dict], None] | None = None
    _start = _sampling_seconds = 0.0
    _rollout: dict = {}  # noqa: RUF012 - replaced, never changed
    _own_metrics: frozenset[str] = frozenset()  # the names of what reward functions logged

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A checkpoint's model, or the one at the end, which others may read like all that a run writes."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # the first process, which has written it
            share_weights(output_dir or self.args.output_dir)

    def create_model_card(self, *args, **kwargs) -> None:
        """A run's folder has no README of TRL's."""

    def _tokenize_prompts(self, prompts: list):
        """As here: without the tokenizer's special tokens (a BOS would make the prompt another than the one that is scored),
        and conversations in its template."""
        return prompt_tokens(self.processing_class, prompts, sys.maxsize), None, {}

    def _generate(self, prompts: list):
        """With the texts that rewards see here: TRL would drop every special token, and not EOS and padding alone."""
        prompt_ids, completion_ids, tool_mask, _, *rest = super()._generate(prompts)
        completions = in_trls_form(prompts, completion_texts(self.processing_class, completion_ids, self.eos_token_ids))
        return prompt_ids, completion_ids, tool_mask, completions, *rest

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
        """(B, F) rewards, called and checked as here; what the functions log goes TRL's way."""
        columns = {name: [row[name] for row in inputs] for name in inputs[0] if name != "prompt"}
        extras = Extras(completion_ids, self.state)
        scores = score_all(self.reward_fns, prompts, completions, columns, extras)
        for name, values in extras.logged.items():
            for value in values:
                self._log_metric(name, value)
        for column, values in extras.columns.items():
            self._log_completion_extra(column, values)
        self._own_metrics = self._own_metrics | extras.logged.keys()
        return gather(scores.to(self.accelerator.device))

    def _generate_and_score_completions(self, inputs):
        start = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        self._sampling_seconds += time.perf_counter() - start
        return batch

    def training_step(self, *args, **kwargs):
        self._start = self._start or time.perf_counter()
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """Called after each update, and once more at the end."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        gone = logs["grad_norm"] == logs.get("entropy") == 0  # one token has all probability: nothing can change any more
        if gone or not math.isfinite(logs["grad_norm"]):
            raise FloatingPointError(
                f"The gradient norm at step {self.state.global_step} is {logs['grad_norm']}, the entropy {logs.get('entropy')} "
                f"and the loss {logs['loss']}; the last checkpoint is from before. A lower learning_rate is the usual cure."
            )
        metrics = self._in_our_words(logs)
        if self.to_runner is not None:
            self.to_runner(metrics, self._samples())
        self._start = self._sampling_seconds = 0.0

    def _in_our_words(self, logs: dict) -> dict[str, float]:
        """metrics.METRICS from what TRL logged. What TRL tells of a rollout only once holds for all updates on it."""
        fresh = "reward" in logs
        if fresh:
            own = {name: logs[name] for name in logs if name.startswith("rewards/") and name.endswith("/mean")}
            own |= {name: logs[name] for name in logs if name in self._own_metrics}
            names = ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio")
            self._rollout = {name: logs[name] for name in names} | own
        tokens = round(self._rollout["completions/mean_length"] * self.args.generation_batch_size)
        clip = "cispo_clip_ratio" if self.loss_type == "cispo" else "clip_ratio/region_mean"
        seconds = time.perf_counter() - self._start
        return {
            "step": self.state.global_step,
            "loss": logs["loss"],
            "clip_ratio": logs[clip],
            **{name: logs[name] for name in ("grad_norm", "entropy", "kl", "learning_rate") if name in logs},
            **self._rollout,
            "sampling/tokens": tokens if fresh else 0,
            "sampling/seconds": self._sampling_seconds,
            "update/tokens": tokens,
            "update/seconds": seconds - self._sampling_seconds,
        }

    def _samples(self) -> dict[str, list]:
        """The latest rollout of all processes together."""
        scores = torch.tensor(list(self._logs["rewards"].values())).T
        return {
            "prompts": list(self._logs["prompt"]),
            "completions": [text if isinstance(text, str) else text[0]["content"] for text in self._logs["completion"]],
            "rewards": combine(scores, self.args.reward_weights).tolist(),
            "advantages": list(self._logs["advantages"]),
            **{column: list(values) for column, values in self._logs["extra"].items()},
        }


def follow_padding(model: nn.Module) -> None:
    """Make a model with a table of positions (GPT-2's) count them from its first real token, where it is told nothing else.

    TRL pads prompts on the left and passes an attention mask alone. GPT-2 would then count the padding, and TRL would score a
    padded completion under another distribution than the one that it was drawn from. Relative positions need no help.
    """
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()]
    if tables and "position_ids" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)


def _count_positions(model, args, kwargs):
    mask = kwargs.get("attention_mask")
    goes_on = kwargs.get("cache") is not None or kwargs.get("past_key_values") is not None  # the one or the other name
    if mask is not None and kwargs.get("position_ids") is None and not goes_on:
        kwargs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return args, kwargs
