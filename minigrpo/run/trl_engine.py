"""The same run by TRL's GRPOTrainer, for what one process is too small for: DDP, FSDP, DeepSpeed, vLLM, through accelerate.

A launcher (``accelerate launch``, ``torchrun``) starts the same command several times. The first process is the run as the
runner knows it: it has the folder, scores the policy and writes every file. The others join in training and end.
"""

import dataclasses
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, ProgressCallback

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.rewards import RewardFunction, combine, reward_names, score
from minigrpo.run import folders
from minigrpo.sampling import completion_texts
from minigrpo.threads import suited_threads

try:
    import trl
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from minigrpo.run.processes import one_sentence_if_another_process_ends
except ImportError as error:
    raise BadInput(f'TRL and accelerate are needed, and {error}; python -m pip install -e ".[scale]" brings them.') from error

SAME_NAME = (
    "bf16", "seed", "max_steps", "save_steps", "generation_batch_size", "num_generations", "num_iterations",
    "max_completion_length", "temperature", "learning_rate", "adam_epsilon", "max_grad_norm", "beta", "ref_model_sync_steps",
    "loss_type", "importance_sampling_level", "scale_rewards", "epsilon", "epsilon_high", "reward_weights",
)  # fmt: skip
# Its name in transformers; from about 5.20 on they warn of the older one.
CHECKPOINTING = "activation_checkpointing"
if CHECKPOINTING not in {field.name for field in dataclasses.fields(trl.GRPOConfig)}:
    CHECKPOINTING = "gradient_checkpointing"
OURS_ALONE = {  # what this package does and has no field for
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "optim": "adamw_torch",
    "disable_dropout": True,  # TRL trains in train mode, where dropout would score another policy than the one that sampled
    "ref_model_mixup_alpha": 1.0,  # the new reference is the policy, not a mixture
    "gradient_accumulation_steps": 1,
    CHECKPOINTING: False,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "report_to": "none",
}


def to_trl(config: GRPOConfig, **changes) -> trl.GRPOConfig:
    """The same configuration for ``trl.GRPOTrainer``, in a run of as many processes as were launched.

    Args:
        changes: fields of TRL's that have no name here, such as use_vllm=True; they have the last word.
    Raises:
        BadInput: for a field that TRL has nothing for, or a rollout that the processes cannot share evenly.
    """
    processes = num_processes(config)
    _refuse(config, processes)
    same = {name: getattr(config, name) for name in SAME_NAME}
    translated = {
        "output_dir": config.output_dir,
        "use_cpu": config.device == "cpu",
        "dataloader_pin_memory": config.device != "cpu",
        # A rollout is one batch, as here; TRL counts its rows in each process.
        "per_device_train_batch_size": config.generation_batch_size // processes,
        "use_bias_correction_kl": config.kl_estimator == "k3_ratio",
        "sync_ref_model": config.sync_ref_model and config.beta > 0,  # at 0 there is none, here as there
    }
    return trl.GRPOConfig(**{**same, **translated, **OURS_ALONE, **changes})


def _refuse(config: GRPOConfig, processes: int) -> None:
    def refuse(unusable: bool, what: str) -> None:
        if unusable:
            raise BadInput(f"The engine trl has no {what}.")

    penalty = config.beta > 0
    refuse(config.triples is not None, "training on records (triples): it samples; the engine minigrpo learns from records")
    refuse(penalty and config.kl_in_reward, "kl_in_reward: its KL is in the loss")
    refuse(penalty and config.kl_estimator not in ("k3", "k3_ratio"), f"kl_estimator {config.kl_estimator}: k3 or k3_ratio")
    refuse(
        penalty and config.importance_sampling_level == "sequence" and config.kl_estimator == "k3_ratio",
        "k3_ratio with importance_sampling_level sequence: it would weigh the KL with the sequence's ratio; take k3 or beta 0",
    )
    kinds = ("cpu", "cuda", "mps")
    refuse(config.device not in kinds, f"device {config.device!r}: accelerate gives each process its own; cpu, cuda or mps")
    refuse(
        processes > 1 and config.loss_type == "bnpo",
        f"loss_type bnpo in {processes} processes, each of which would divide by its own tokens; dapo divides by those of all, "
        "and is the same where a rollout is one batch",
    )
    if config.generation_batch_size % processes:
        got = f"which share a rollout; got {config.generation_batch_size}"
        raise BadInput(f"generation_batch_size must be a multiple of the number of processes, {processes}, {got}.")


def num_processes(config: GRPOConfig) -> int:
    """How many a launcher started; 1 without one."""
    return PartialState(cpu=config.device == "cpu").num_processes


def join(config: GRPOConfig) -> bool:
    """Meet the other processes of this run; True for the first. Raises BadInput for what to_trl refuses, or no such device."""
    to_trl(config)
    if (found := PartialState().device.type) != config.device:
        raise BadInput(f"device is {config.device}, but accelerate finds none here; it would take {found}.")
    return PartialState().is_main_process


def latest_checkpoint(folder: Path, config: GRPOConfig) -> tuple[Path | None, int]:
    """The latest that is whole and not of the last step, and its step; None and 0 if there is none.

    Raises:
        BadInput: if what it would go on with is not in it.
    """
    for checkpoint in folders.checkpoints(folder):
        try:
            step = folders.read_json(checkpoint / "trainer_state.json")["global_step"]  # TRL writes it last
        except (OSError, ValueError, KeyError):
            continue
        if config.sync_ref_model and config.beta and step >= config.ref_model_sync_steps:
            raise BadInput("TRL's checkpoints lack the reference that sync_ref_model has moved; such a run cannot be resumed.")
        if step < config.max_steps:  # TRL would do another step after the last one
            return checkpoint, step
    return None, 0


@contextmanager
def without_its_own_warning() -> Iterator[None]:
    """TRL 1.16 asks for is_gradient_checkpointing, which transformers 5.24 calls activation checkpointing and warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        yield


@without_its_own_warning()
def train(
    config: GRPOConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    reward_fns: list[RewardFunction],
    *,
    folder: Path | None = None,
    checkpoint: Path | None = None,
    log: Callable[[dict, dict], None] | None = None,
) -> None:
    """Train to the end, and write ``folder/model``. Every process calls this; the first alone says where, from where, and logs.

    Args:
        checkpoint: to go on from. log: called after each update with metrics and samples, named and shaped as the runner's.
    Raises:
        ConnectionError: if another process has ended, with what to do.
        FloatingPointError: if the gradient is not finite.
    """
    with one_sentence_if_another_process_ends(folder):
        folder, checkpoint = broadcast_object_list([(folder, checkpoint)])[0]
    args = to_trl(config, output_dir=str(folder), log_level_replica="passive", ddp_find_unused_parameters=False)
    with one_sentence_if_another_process_ends(folder):
        follow_padding(model)
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=dataset,
            reward_funcs=list(map(_in_trls_protocol, reward_fns, reward_names(reward_fns))),
            processing_class=tokenizer,
        )
        trainer.to_runner = log
        if trainer.ref_model is not None:
            follow_padding(trainer.accelerator.unwrap_model(trainer.ref_model))
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        with suited_threads(model):
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        trainer.save_model(str(folder / "model"))
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()


class Trainer(trl.GRPOTrainer):
    """TRL's trainer, which tells the runner of each step, in this package's words."""

    to_runner: Callable[[dict, dict], None] | None = None
    _start = _sampling_seconds = 0.0
    _rollout: dict = {}  # noqa: RUF012 - replaced, never changed

    def create_model_card(self, *args, **kwargs) -> None:
        """A run's folder has no README of TRL's."""

    def _tokenize_prompts(self, prompts: list[str]):
        """Without the tokenizer's special tokens, as here: a BOS would make the prompt another than the one that is scored."""
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _generate(self, prompts: list):
        """With the texts that rewards see here: TRL would drop every special token, and not EOS and padding alone."""
        prompt_ids, completion_ids, tool_mask, completions, *rest = super()._generate(prompts)
        if isinstance(completions[0], str):
            completions = completion_texts(self.processing_class, completion_ids, self.eos_token_ids)
        return prompt_ids, completion_ids, tool_mask, completions, *rest

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
            rewards = {name: logs[name] for name in logs if name.startswith("rewards/") and name.endswith("/mean")}
            names = ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio")
            self._rollout = {name: logs[name] for name in names} | rewards
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
            "completions": list(self._logs["completion"]),
            "rewards": combine(scores, self.args.reward_weights).tolist(),
            "advantages": list(self._logs["advantages"]),
        }


def _in_trls_protocol(fn: RewardFunction, name: str) -> RewardFunction:
    """A reward function that is called and checked as here, with the data set's columns alone; TRL logs it by ``name``."""

    def reward(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, **columns):
        return score(fn, prompts, completions, columns).tolist()

    reward.__name__ = name
    return reward


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
