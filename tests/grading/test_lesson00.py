"""Lesson 00 asks for a reward function: its folded solution passes, and each known mistake is told by name."""

import re

import pytest

from minigrpo.grading.check import grade, questions
from tests.tools.build_notebooks import FOLDER

pytestmark = pytest.mark.quick

(REWARD,) = questions("lesson00")


def folded(name):
    """The function in the solution that stands folded in a lesson."""
    source = re.sub(r"^# ?", "", (FOLDER / "src" / f"{name}.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    namespace = {}
    exec(f"import torch\n{re.search(r'<summary>Solution</summary>.*?```python(.*?)```', source, re.DOTALL)[1]}", namespace)
    return namespace


@pytest.mark.parametrize("lesson", ["00_one_picture", "01_logprobs", "02_policy_gradient"])
def test_the_folded_solution_passes(lesson):
    (question,) = questions(f"lesson{lesson[:2]}")
    assert grade(question, folded(lesson)[question.name], seed=1).about is None


@pytest.mark.parametrize("mistake", REWARD.mistakes, ids=lambda mistake: mistake.name)
def test_a_known_mistake_is_named(mistake):
    assert [grade(REWARD, mistake.function, seed).cause for seed in range(5)] == [mistake.says] * 5
