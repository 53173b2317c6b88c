"""Checkpoints that resume exactly: policy, optimizer, step, and the rollout where updates on it are still to come.

A checkpoint is a folder ``checkpoint-N`` that ``load_policy`` reads too. It is written beside and renamed, so that a folder
of that name is always whole; nothing in it is unpickled.
"""

import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError

from minigrpo.config import BadInput, first_line
from minigrpo.policy import save_policy, whole_model
from minigrpo.sampling import Rollout
from minigrpo.update import Batch, TrainState, for_further_updates, frozen_copy, parameter_groups


def save_checkpoint(state: TrainState, folder: str | Path) -> Path:
    """Write ``folder/checkpoint-STEP``; an earlier one of that step is replaced. OSError if the disk does not take it."""
    final = Path(folder) / f"checkpoint-{state.step}"
    beside = final.with_name(final.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    batch = None if state.batch is None else asdict(state.batch)
    reference = state.reference.state_dict() if state.reference_moved else None  # else it is the model of the start
    old_policy = None if state.old_policy is None else state.old_policy.state_dict()
    saved = {
        "step": state.step,
        "optimizer": state.optimizer.state_dict(),
        "batch": batch,
        "reference": reference,
        "old_policy": old_policy,
    }
    with whole_or_nothing(beside):
        save_policy(state.model, state.tokenizer, beside)
        torch.save(saved, beside / "state.pt")
    shutil.rmtree(final, ignore_errors=True)
    return beside.rename(final)


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise on a full disk into an OSError, and leave nothing half-written behind."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder.parent).free
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"{folder} cannot be written, with {free / 1e6:.1f} MB free there: {first_line(error)}") from error


def load_checkpoint(folder: str | Path, state: TrainState) -> TrainState:
    """Bring a state that TrainState.start made to where ``folder`` (a ``checkpoint-N``) left off; what the configuration
    says to the optimizer stays.

    Raises:
        BadInput: if a file is missing, damaged, or of another model; ``state`` may then be half changed, and another
            checkpoint has to be loaded into it.
    """
    folder = Path(folder)
    if not zipfile.is_zipfile(folder / "state.pt"):  # which torch would take for an older format, and advise to unpickle
        raise BadInput(f"The checkpoint {str(folder)!r} is damaged: its state.pt is missing or cut off.")
    try:
        saved = torch.load(folder / "state.pt", map_location=state.model.device, weights_only=True)
        state.model.load_state_dict(whole_model(type(state.model), folder).state_dict())
        if saved["reference"] is not None and state.reference is not None:
            state.reference.load_state_dict(saved["reference"])
            state.reference_moved = True
        old_policy = saved.get("old_policy", saved.get("pass_start"))  # its name in the first edition
        if old_policy is not None:
            state.old_policy = frozen_copy(state.model)
            state.old_policy.load_state_dict(old_policy)
        saved_groups = saved["optimizer"]["param_groups"]
        then = torch.optim.AdamW(parameter_groups(state.model, saved_groups[0]["weight_decay"]), fused=True)
        then.load_state_dict(saved["optimizer"])
        state.go_on(then.state, saved["step"])
        state.batch = None if saved["batch"] is None else for_further_updates(_batch(saved["batch"]), state.reference)
    except pickle.UnpicklingError as error:  # torch advises to unpickle it all the same
        raise BadInput(
            f"The checkpoint {str(folder)!r} is not used: its state.pt holds more than tensors and numbers, as no run writes."
        ) from error
    except Exception as error:  # a damaged file can make a reader raise anything; the cause goes along
        raise BadInput(f"The checkpoint {str(folder)!r} is damaged: {first_line(error)}") from error
    return state


def _batch(saved: dict) -> Batch:
    # The first edition kept no old_logprobs beside the rollout's own.
    return Batch(**{"old_logprobs": None, **saved, "rollout": Rollout(**saved["rollout"])})
