"""What calls a learner's function: given inputs, it gives back plain numbers and gradients, never a verdict.

``check`` runs it in the notebook, and inside.py in the sandbox, where there is torch and nothing of ours.
"""

import contextlib
import inspect
import linecache
import math
import traceback
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
    args: dict | None = None  # of a trial: what it came to, to be seen in place of the case's arguments


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
        values = [_of_known_kind(value) for value in flatten(_call(function, args))]
        gradients = _gradients(values, [leaves[name] for name in gradient], seed) if gradient else None
    except Exception as error:  # whatever a learner's function raises is its answer
        return Outcome(None, error=f"{type(error).__name__}: {error}"[:400] + _line_of(function, error))
    for name, value in before.items():
        if isinstance(value, Tensor) and not _equal(value, args[name].detach()):
            return Outcome(None, changed=name)
    return Outcome([value.detach() for value in values], gradients)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _call(function: Callable, args: dict):
    """By name where the function has these names, else in their order: a learner may call its arguments what they like."""
    if _takes_names(function, args):
        return function(**args)
    if inspect.Parameter.VAR_KEYWORD in dict(_parameters(function)).values():
        try:
            return function(**args)
        except TypeError as error:  # a wrapper that takes anything hands it on to one that calls its arguments otherwise
            if "keyword argument" not in str(error):
                raise
    return function(*args.values())


def _parameters(function: Callable) -> list[tuple[str, object]]:
    function = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return [(name, parameter.kind) for name, parameter in inspect.signature(function).parameters.items()]
    except (TypeError, ValueError):
        return []


def _takes_names(function: Callable, args: dict) -> bool:
    kinds = dict(_parameters(function))
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return bool(kinds) and all(kinds.get(name) in by_name for name in args)


def _line_of(function: Callable, error: Exception) -> str:
    """Where in the learner's own file it was raised, with the line itself; empty where that is not known."""
    code = getattr(function, "__code__", None)
    own = [f for f in traceback.extract_tb(error.__traceback__) if code is not None and f.filename == code.co_filename]
    if not own or code.co_filename == __file__:
        return ""
    line = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    return f" (in line {own[-1].lineno} of the cell{f': {line}' if line else ''})"[:200]


def _copy(value):
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, list) else value


def flatten(result) -> list[Tensor]:
    """A tensor, an array, a number, or a list or tuple of them -> a flat list of tensors. TypeError for anything else."""
    if type(result) in (Tensor, torch.nn.Parameter):
        return [result]
    if type(result) in (bool, int, float):
        return [_numbers(result, {type(result)})]
    if type(result).__module__ == "numpy":
        return [torch.as_tensor(result.copy())]
    if isinstance(result, list | tuple) and len(result):
        kinds = {type(item) for item in result}
        if kinds <= {bool, int, float}:
            return [_numbers(list(result), kinds)]
        if type(result) is list and (kinds := _kinds(result)) <= {bool, int, float}:
            with contextlib.suppress(ValueError):  # rows of uneven length are results of their own
                return [_numbers(result, kinds)]
        return [tensor for item in result for tensor in flatten(item)]
    if result is None:
        raise TypeError("the function returned None; is a return missing?")
    raise TypeError(f"the function returned {type(result).__name__}; wanted is a tensor")


def _kinds(result) -> set[type]:
    """The types that a list of lists is made of."""
    return set().union(*map(_kinds, result)) if type(result) is list else {type(result)}


def _numbers(numbers, kinds: set[type]) -> Tensor:
    """Plain numbers as a tensor of the widest of their kinds; a list of True and False stays one."""
    return torch.tensor(numbers, dtype=torch.float64 if float in kinds else torch.int64 if int in kinds else torch.bool)


def _of_known_kind(value: Tensor) -> Tensor:
    """What can cross the pipe: other floats become float32, other integers int64."""
    if value.dtype in DTYPES.values() or value.is_complex():
        return value
    return value.to(torch.float32 if value.is_floating_point() else torch.int64)


def _gradients(values: list[Tensor], leaves: list[Tensor], seed: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [value.numel() for value in values]
    if sum(sizes) > LARGEST:
        raise ValueError(f"a result of {sum(sizes)} numbers is too large")
    # One direction for all numbers in a row, so that a list of rows has the gradient of the rows in one tensor.
    directions = torch.randn(sum(sizes), generator=generator, dtype=torch.float64).split(sizes)
    total = 0.0
    for value, direction in zip(values, directions, strict=True):
        if value.requires_grad:
            total = total + (value * direction.reshape(value.shape)).sum()
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
