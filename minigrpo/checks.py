"""What a learner's function must take and return to be trained with."""

import inspect
from collections.abc import Callable

from torch import Tensor

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.protocol import short_name


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


def check_takes_counts(function: Callable, config: GRPOConfig) -> None:
    """Raises BadInput for a learner's loss that cannot be one of several that add up."""
    if config.per_device_train_batch_size is None:
        return
    takes = inspect.signature(function).parameters.values()
    named = {"num_sequences", "num_tokens"} <= {parameter.name for parameter in takes}
    if not named and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
        raise BadInput(
            f"{short_name(function)}, given as loss_fn, takes no num_sequences and num_tokens, the counts of a whole rollout; "
            "divided by them the losses of its micro-batches add up. Without them leave per_device_train_batch_size out."
        )
