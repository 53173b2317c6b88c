"""Right answers in the styles that people write: each gets all points, on every seed."""

import functools
import inspect
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from minigrpo import check
from minigrpo.grading.check import Result, every_question, grade, questions
from tests.tools.build_notebooks import SOLUTIONS

pytestmark = pytest.mark.quick


@functools.cache
def solutions(exercise):
    """The long-way answers of an exercise's notebook, by name."""
    (path,) = Path(SOLUTIONS / "src").glob(f"{exercise}_*.py")
    names: dict = {}
    for cell in jupytext.read(path, fmt="py:percent").cells:
        if (
            cell.cell_type == "code"
            and not cell.source.startswith("check(")
            and "demonstration" not in cell.metadata.get("tags", [])
        ):
            exec(cell.source, names)
    return names


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def decorated(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def rows(result):
    """A list of rows, or of numbers that carry a gradient."""
    return list(result) if isinstance(result, torch.Tensor) and result.dim() else result


def plain(result):
    """Lists and numbers, as loops in plain Python give them."""
    if isinstance(result, tuple):
        return tuple(plain(part) for part in result)
    return result.tolist() if isinstance(result, torch.Tensor) else result


def array(result):
    if isinstance(result, tuple):
        return tuple(array(part) for part in result)
    return result.numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


STYLES = {
    "as it is": lambda f: f,
    "keywords": lambda f: lambda **args: f(**args),
    "a decorator without wraps": decorated,
    "rows": lambda f: lambda *args, **more: rows(f(*args, **more)),
}
NO_GRADIENT = {
    "plain numbers": lambda f: lambda *args, **more: plain(f(*args, **more)),
    "numpy": lambda f: lambda *args, **more: array(f(*args, **more)),
    "in float64": lambda f: lambda *args: f(*(a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args)),
}
KEYWORD_ONLY = {"compute_advantages": {"scale_rewards"}}


def answers(question):
    """(style, function) of a question: its reference and its solution, in every style that fits."""
    case = question.draw(0)[0]
    styles = STYLES | ({} if case.gradient or question.accepts else NO_GRADIENT)
    if question.name in KEYWORD_ONLY or question.accepts:
        styles = {name: styles[name] for name in ("as it is", "keywords", "a decorator without wraps") if name in styles}
    bases = {"reference": question.reference}
    if question.id.startswith("ex"):
        bases["solution"] = solutions(question.id[:4])[question.name]
    named = {base: set(inspect.signature(function).parameters) >= set(case.args) for base, function in bases.items()}
    return [
        (f"{base}, {style}", styles[style](function))
        for base, function in bases.items()
        for style in styles
        if named[base] or style != "keywords"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("question", every_question(), ids=lambda q: q.id)
def test_a_right_answer_gets_all_points_in_any_style(question):
    for seed, (style, function) in enumerate(answers(question)):
        result = grade(question, function, 0 if question.trial else seed)
        assert isinstance(result, Result), style
        assert result.about is None, (style, seed, result)


def test_there_are_a_hundred_and_two_styles_for_every_question():
    counts = [len(answers(question)) for question in every_question()]
    assert sum(counts) >= 100
    assert min(counts) >= 2


def test_the_question_is_found_by_the_name_that_the_learner_gave():
    kl_k1_plus = lambda p, q: (p - q).detach() * (1 + p - p.detach())  # noqa: E731
    assert check(kl_k1_plus).about is None

    def mine(p, q):
        return (q - p).exp() - 1 - (q - p)

    kl_k3 = decorated(mine)
    assert check(kl_k3).about is None
    aggregate = Module(next(q for q in questions() if q.name == "aggregate").reference)
    assert check(aggregate).question.name == "aggregate"


def test_masks_are_bool_and_ids_are_integers():
    mask = next(q for q in questions() if q.name == "completion_mask")
    draw = next(q for q in questions() if q.name == "sample_step")
    for question, change, said in (
        (mask, lambda x: x.float(), "has the dtype float32, wanted is bool"),
        (mask, lambda x: x.long(), "has the dtype int64, wanted is bool"),
        (draw, lambda x: x.float(), "has the dtype float32, wanted are integers"),
    ):
        result = grade(question, lambda *args, q=question, change=change: change(q.reference(*args)), 0)
        assert (result.points, said in result.difference) == (0, True)
