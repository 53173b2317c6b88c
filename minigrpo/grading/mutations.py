"""Mistakes derived from a reference: one argument changed, the result changed, or one piece of its source changed.

The sentence of each says what came out, not what the learner wrote: that the numbers are those of the changed answer is true by
construction, however they were computed.
"""

import ast
import copy
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minigrpo.grading.questions import Mistake, Question

LONGEST = 60  # characters of a piece of code in a sentence
MOST = 150  # mistakes of one question


@functools.cache
def derived(question: Question) -> tuple[Mistake, ...]:
    """What goes wrong most easily first: arguments, then the result, then the source."""
    if question.accepts:
        return ()
    cases = question.draw(0)
    args = {name: value for case in reversed(cases) for name, value in case.args.items()}
    found = [*_of_arguments(question, args, cases[0].gradient), *_of_result(question), *_of_source(question.reference)]
    return tuple(found[:MOST])


# --- arguments ------------------------------------------------------------------------------------------------------------


def _ones(value):
    return torch.ones_like(value)


CHANGES: dict[str, tuple[tuple[str, Callable], ...]] = {
    "temperature": (
        ("these are the numbers of temperature 1: the temperature is not used.", lambda t: 1.0),
        ("these are the numbers of 1 / temperature: divide by it where you multiply.", lambda t: 1 / t),
    ),
    "beta": (
        ("these are the numbers of beta = 0: the term with beta is missing.", lambda b: 0.0),
        ("these are the numbers of beta = 1: beta is not used.", lambda b: 1.0),
        ("these are the numbers of -beta: the term with beta has the wrong sign.", lambda b: -b),
        ("these are the numbers of 1 / beta: multiplied and divided are exchanged.", lambda b: 1 / b if b else b),
    ),
    "completion_mask": (
        ("these are the numbers without the mask: the padding counts too.", _ones),
        ("these are the numbers of the inverted mask: only the padding counts.", torch.logical_not),
    ),
    "advantages": (
        ("these are the numbers of the negated advantages: a sign is wrong.", torch.neg),
        ("these are the numbers of the absolute advantages: their sign is lost.", torch.abs),
    ),
    "rewards": (("these are the numbers of the negated rewards: a sign is wrong.", torch.neg),),
    "group_ids": (("these are the numbers of one single group: the groups are not told apart.", torch.zeros_like),),
    "epsilon": (("these are the numbers without any clip.", lambda e: 1e6),),
    "learning_rate": (
        ("these are the numbers of a learning rate of 1: it is not used.", lambda x: 1.0),
        ("these are the numbers of a step uphill: subtract the gradient.", lambda x: -x),
    ),
}


def _of_arguments(question: Question, args: dict, gradient: tuple[str, ...]) -> Iterator[Mistake]:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(question.reference).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for name in args:
        for says, change in CHANGES.get(name, ()):
            yield _with(question, says, {name: change})
        if name in defaults and name != "temperature":
            yield _with(
                question, f"these are the numbers without {name}: it is not used.", {name: lambda _, d=defaults[name]: d}
            )
        if name in gradient:
            says = f"the numbers are right, but no gradient flows through {name} (detach, no_grad, item or tolist)."
            yield _with(question, says, {name: lambda x: x.detach()})
    for one, other in _alike(args):
        yield Mistake(f"{one} for {other}", f"{one} and {other} are exchanged.", _swapped(question.reference, one, other))


def _with(question: Question, says: str, changes: dict[str, Callable]) -> Mistake:
    def changed(**args):
        return question.reference(**{n: changes[n](v) if n in changes and v is not None else v for n, v in args.items()})

    return Mistake(says, says, changed)


def _alike(args: dict) -> Iterator[tuple[str, str]]:
    """Pairs of float tensors of one shape, which are easily exchanged."""
    floats = [n for n, v in args.items() if isinstance(v, Tensor) and v.is_floating_point()]
    return ((a, b) for i, a in enumerate(floats) for b in floats[i + 1 :] if args[a].shape == args[b].shape)


def _swapped(reference: Callable, one: str, other: str) -> Callable:
    return lambda **args: reference(**args | {one: args[other], other: args[one]})


# --- the result -------------------------------------------------------------------------------------------------------------

RESULTS = (
    ("this is minus what is wanted: look for a wrong sign, or a difference the wrong way round.", torch.neg),
    ("these are the absolute values of what is wanted: the sign is lost.", torch.abs),
    ("this is the square of what is wanted.", torch.square),
    ("this is exp of what is wanted: is there an exp too many, or a logarithm missing?", torch.exp),
    ("this is the logarithm of what is wanted: is there a logarithm too many, or an exp missing?", torch.log),
    ("the numbers are right, but no gradient flows (detach, no_grad, item or tolist).", torch.detach),
)


def _of_result(question: Question) -> Iterator[Mistake]:
    for says, change in RESULTS:
        yield Mistake(says, says, lambda change=change, **args: _floats(change, question.reference(**args)))


def _floats(change: Callable, result):
    if isinstance(result, tuple | list):
        return [_floats(change, item) for item in result]
    return change(result) if isinstance(result, Tensor) and result.is_floating_point() else result


# --- the source -------------------------------------------------------------------------------------------------------------

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
RELATIONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
CALLS = {
    **{"mean": "sum", "sum": "mean", "minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min"},
    **{"log_softmax": "softmax", "softmax": "log_softmax", "logsigmoid": "sigmoid", "expm1": "exp", "cumsum": "cumprod"},
}
DROPPED = ("exp", "log", "clamp", "detach", "abs", "sqrt", "square", "flip", "expm1", "softmax", "log_softmax", "cumsum")
REDUCTIONS = ("mean", "sum", "softmax", "log_softmax", "cumsum", "std", "logsumexp", "max", "min", "any", "all")


def _of_source(reference: Callable) -> Iterator[Mistake]:
    """The reference with one piece of its source in another form; nothing where its source cannot be had."""
    for old, new, function in variants(reference):
        if max(len(old), len(new)) <= LONGEST:
            says = f"these are the numbers of the right answer with `{new}` in the place of `{old}`."
            yield Mistake(f"{old} -> {new}", says, function)


def variants(function: Callable) -> Iterator[tuple[str, str, Callable]]:
    """(piece, what stands in its place, the function so changed), for every single change."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        around = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    except (OSError, TypeError, SyntaxError, AttributeError):
        return
    if isinstance(tree.body[0], ast.FunctionDef):
        yield from variants_of_tree(tree, function.__name__, around)


def variants_of_tree(tree: ast.Module, name: str, around: dict) -> Iterator[tuple[str, str, Callable]]:
    """The same for a module of one function, which is run among the names ``around`` it."""
    definition = tree.body[0]
    definition.decorator_list, definition.returns = [], None
    for argument in [*definition.args.args, *definition.args.kwonlyargs]:
        argument.annotation = None
    for number, node in enumerate(ast.walk(tree)):
        for new in _instead_of(node):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[number]
            changed = ast.fix_missing_locations(_Put(target, new).visit(changed))
            names = dict(around)
            exec(compile(changed, "<mutation>", "exec"), names)
            yield _text(node), _text(new), names[name]


def _text(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))


class _Put(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _instead_of(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        yield node.left
        if not isinstance(node.op, ast.Sub):
            yield node.right
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in RELATIONS:
        yield ast.Compare(node.left, [RELATIONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert | ast.Not):
        yield node.operand
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _instead_of_call(node)
    elif isinstance(node, ast.Slice):
        yield from _instead_of_slice(node)
    elif isinstance(node, ast.Constant) and type(node.value) is float and 0 < node.value < 0.01:
        yield ast.Constant(0.0)
        yield ast.Constant(node.value**2)


def _instead_of_call(node: ast.Call) -> Iterator[ast.AST]:
    called, of = node.func.attr, node.func.value
    is_function = (isinstance(of, ast.Name) and of.id == "torch") or (isinstance(of, ast.Attribute) and of.attr == "functional")
    if called in CALLS:
        yield ast.Call(ast.Attribute(of, CALLS[called], ast.Load()), node.args, node.keywords)
    if called in DROPPED:
        yield node.args[0] if is_function else of
    if called == "clamp":
        yield from (ast.Call(node.func, node.args, [k]) for k in node.keywords if len(node.keywords) > 1)
        if len(node.args) == 2 and not is_function:
            yield ast.Call(node.func, [], [ast.keyword("min", node.args[0])])
            yield ast.Call(node.func, [], [ast.keyword("max", node.args[1])])
    if called == "where" and len(node.args) == 3:
        yield node.args[1]
        yield ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], [])
    if called == "std":
        yield ast.Call(node.func, node.args, [ast.keyword("correction", ast.Constant(0))])
    if called in REDUCTIONS:
        yield from _other_axes(node, is_function)


def _other_axes(node: ast.Call, is_function: bool) -> Iterator[ast.AST]:
    rest = node.args[1:] if is_function else node.args
    axes = [a for a in [*rest, *(k.value for k in node.keywords if k.arg == "dim")] if _axis(a) is not None]
    for axis in axes:
        other = ast.Constant({0: 1, 1: 0, -1: 0, 2: 1}.get(_axis(axis), 0))
        args = [other if a is axis else a for a in node.args]
        yield ast.Call(node.func, args, [ast.keyword(k.arg, other) if k.value is axis else k for k in node.keywords])


def _axis(node: ast.AST) -> int | None:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return None
    return value if type(value) is int else None


def _instead_of_slice(node: ast.Slice) -> Iterator[ast.AST]:
    for bound in ("lower", "upper"):
        old = getattr(node, bound)
        for step in (1, -1) if old is not None else ():
            new = ast.Slice(node.lower, node.upper, node.step)
            setattr(new, bound, ast.BinOp(old, ast.Add() if step > 0 else ast.Sub(), ast.Constant(1)))
            yield new
        if old is not None:
            new = ast.Slice(node.lower, node.upper, node.step)
            setattr(new, bound, None)
            yield new
