"""The same run by TRL's GRPOTrainer, for what one process is too small for: DDP, FSDP, DeepSpeed, vLLM, through accelerate.

A launcher (``accelerate launch``, ``torchrun``) starts the same command several times. The first process is the run as the
runner knows it: it has the folder, scores the policy and writes every file. The others join in training and end.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, ProgressCallback

from minigrpo.config import BadInput, GRPOConfig, first_line
from minigrpo.policy import with_a_folder
from minigrpo.protocol import RewardFunction
from minigrpo.rewards import reward_names
from minigrpo.run import folders
from minigrpo.threads import suited_threads

try:
    import trl
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from minigrpo.run.processes import one_sentence_if_another_process_ends
    from minigrpo.run.trl_trainer import Trainer, follow_padding
except ImportError as error:
    raise BadInput(f'TRL and accelerate are needed, and {error}; python -m pip install -e ".[scale]" brings them.') from error

SAME_NAME = (
    "bf16", "seed", "max_steps", "save_steps", "generation_batch_size", "num_generations", "num_iterations",
    "max_completion_length", "temperature", "learning_rate", "adam_epsilon", "max_grad_norm", "beta", "ref_model_sync_steps",
    "save_total_limit", "lr_scheduler_type", "warmup_steps", "weight_decay",
    "loss_type", "importance_sampling_level", "scale_rewards", "epsilon", "epsilon_high", "reward_weights",
)  # fmt: skip
# Its name in transformers from 5.23 on, which warns of the older one.
CHECKPOINTING = "activation_checkpointing"
if CHECKPOINTING not in {field.name for field in dataclasses.fields(trl.GRPOConfig)}:
    CHECKPOINTING = "gradient_checkpointing"
OURS_ALONE = {  # what this package does and has no field for
    "optim": "adamw_torch",
    "disable_dropout": True,  # TRL trains in train mode, where dropout would score another policy than the one that sampled
    "ref_model_mixup_alpha": 1.0,  # the new reference is the policy, not a mixture
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
    rows = config.generation_batch_size // processes  # of a rollout, in each process
    micro = min(rows, config.per_device_train_batch_size or rows)
    translated = {
        "output_dir": config.output_dir,
        "use_cpu": config.device == "cpu",
        "dataloader_pin_memory": config.device != "cpu",
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,  # a rollout is one batch, as here
        CHECKPOINTING: config.gradient_checkpointing,
        "use_bias_correction_kl": config.kl_estimator == "k3_ratio",
        "sync_ref_model": config.sync_ref_model and config.beta > 0,  # at 0 there is none, here as there
    }
    return trl.GRPOConfig(**{**same, **translated, **OURS_ALONE, **changes})


def _refuse(config: GRPOConfig, processes: int) -> None:
    def refuse(unusable: bool, what: str) -> None:
        if unusable:
            raise BadInput(f"The engine trl has no {what}.")

    penalty = config.beta > 0
    refuse(config.eval_steps is not None, "eval_steps: a run by it is scored before and after training")
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
    rows = config.generation_batch_size // processes
    if config.generation_batch_size % processes:
        got = f"which share a rollout; got {config.generation_batch_size}"
        raise BadInput(f"generation_batch_size must be a multiple of the number of processes, {processes}, {got}.")
    if rows % min(rows, config.per_device_train_batch_size or rows):
        raise BadInput(f"per_device_train_batch_size must be a divisor of the {rows} completions of each process.")


def num_processes(config: GRPOConfig) -> int:
    """How many a launcher started; 1 without one. Raises BadInput if they cannot meet."""
    try:
        return PartialState(cpu=config.device == "cpu").num_processes
    except (ValueError, RuntimeError) as error:  # as an address or a port is missing, is none, or is taken
        what = "accelerate launch and torchrun say where, in environment variables"
        raise BadInput(f"The processes that were launched cannot meet: {first_line(error)} ({what}).") from error


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
        with with_a_folder(model):
            trainer = Trainer(
                model=model,
                args=args,
                train_dataset=dataset,
                reward_funcs=list(reward_fns),  # to be counted; _calculate_rewards calls them
                processing_class=tokenizer,
            )
        trainer.reward_fns, trainer.reward_func_names, trainer.to_runner = reward_fns, reward_names(reward_fns), log
        if trainer.ref_model is not None:
            follow_padding(trainer.accelerator.unwrap_model(trainer.ref_model))
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        with suited_threads(model):
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        trainer.save_model(str(folder / "model"))
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
