"""What calls a learner's function: given inputs, it gives back plain numbers and gradients, never a verdict.

``check`` runs it in the notebook, and inside.py in the sandbox, where there is torch and nothing of ours.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLOATS, INTEGERS = ("float64", "float32", "float16", "bfloat16"), ("int64", "int32", "int16", "int8", "uint8", "bool")
DTYPES = {name: getattr(torch, name) for name in (*FLOATS, *INTEGERS)}
LARGEST = 200_000  # numbers in a result
DIMENSIONS = 8  # of one


@dataclass(frozen=True)
class Outcome:
    """What a function gave for a case: plain tensors and gradients, or the sentence of its error."""

    values: list[Tensor] | None
    gradients: list[Tensor | None] | None = None
    error: str | None = None
    changed: str | None = None  # the name of an argument that was changed in place


def run(function: Callable, args: dict, gradient: tuple[str, ...] = (), seed: int = 0) -> Outcome:
    """Call ``function`` on copies of its arguments, and take the gradient of its result in a random direction."""
    with torch.inference_mode(False), torch.enable_grad():  # whatever a cell has switched off
        return _run(function, args, gradient, seed)


def _run(function: Callable, args: dict, gradient: tuple[str, ...], seed: int) -> Outcome:
    before = {name: _copy(value) for name, value in args.items()}
    leaves = {name: args[name].detach().clone().requires_grad_() for name in gradient}
    # Clones of the leaves, so that a change in place is no error of autograd's, but found and named below.
    args = {name: leaves[name].clone() if name in leaves else _copy(value) for name, value in args.items()}
    try:
        result = function(**args) if _takes_names(function, args) else function(*args.values())
        values = flatten(result)
        gradients = _gradients(values, [leaves[name] for name in gradient], seed) if gradient else None
    except Exception as error:  # whatever a learner's function raises is its answer
        return Outcome(None, error=f"{type(error).__name__}: {error}"[:500])
    for name, value in before.items():
        if isinstance(value, Tensor) and not _equal(value, args[name].detach()):
            return Outcome(None, changed=name)
    return Outcome([value.detach() for value in values], gradients)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _takes_names(function: Callable, args: dict) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return set(parameters) >= set(args) or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _copy(value):
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, list) else value


def flatten(result) -> list[Tensor]:
    """A tensor, a number, or a list or tuple of them -> a flat list of tensors. TypeError for anything else."""
    if type(result) in (Tensor, torch.nn.Parameter):
        return [result]
    if type(result) in (bool, int, float):
        return [torch.tensor(result, dtype=torch.float64)]
    if type(result) in (list, tuple) and result:
        if all(type(item) in (bool, int, float) for item in result):
            return [torch.tensor(result, dtype=torch.float64)]
        return [tensor for item in result for tensor in flatten(item)]
    if result is None:
        raise TypeError("the function returned None; is a return missing?")
    raise TypeError(f"the function returned {type(result).__name__}; wanted is a tensor")


def _gradients(values: list[Tensor], leaves: list[Tensor], seed: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for value in values:
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.requires_grad:
            total = total + (value * direction).sum()
    if not isinstance(total, Tensor):
        return [None] * len(leaves)
    return list(torch.autograd.grad(total, leaves, allow_unused=True))


# --- what crosses the pipe: tensors as lists, and nothing that can run ----------------------------------------------------


def encode(value):
    """A tensor, number, text, None, or a list of them -> what JSON can say. ValueError if it is too large."""
    if isinstance(value, Tensor):
        if value.numel() > LARGEST:
            raise ValueError(f"a result of {value.numel()} numbers is too large")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"a result of dtype {dtype} cannot be compared")
        return {"dtype": dtype, "shape": list(value.shape), "data": value.detach().reshape(-1).tolist()}
    return [encode(item) for item in value] if isinstance(value, list | tuple) else value


def decode(value):
    """What encode wrote, back. Raises ValueError, KeyError or TypeError for anything else."""
    if isinstance(value, dict):
        shape, data = value["shape"], value["data"]
        if len(shape) > DIMENSIONS or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
            raise ValueError("no shape of a tensor")  # checked before torch makes anything of it
        if math.prod(max(n, 1) for n in shape) > LARGEST or math.prod(shape) != len(data):
            raise ValueError("not as many numbers as its shape says")
        if not all(type(x) in (bool, int, float) for x in data):
            raise ValueError("not a tensor")
        return torch.tensor(data, dtype=DTYPES[value["dtype"]]).reshape(shape)
    return [decode(item) for item in value] if isinstance(value, list) else value


def answer(function, request: dict) -> dict:
    """What a function gives for a request's case, as JSON can say it; whatever it raises is its answer."""
    if not callable(function):
        return {"missing": True}
    try:
        args = {name: decode(value) for name, value in request["args"].items()}
        outcome = run(function, args, tuple(request["gradient"]), request["seed"])
        return {
            "values": encode(outcome.values),
            "gradients": encode(outcome.gradients),
            "error": outcome.error,
            "changed": outcome.changed,
        }
    except BaseException as raised:  # SystemExit, or a result too large
        return {"values": None, "gradients": None, "error": f"{type(raised).__name__}: {raised}"[:300], "changed": None}
