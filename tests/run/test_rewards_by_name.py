from pathlib import Path

import pytest
from datasets import Dataset

from minigrpo.config import BadInput
from minigrpo.rewards import score
from minigrpo.run.rewards_by_name import load_reward_function, source_file, try_out

PLAIN = "def f(prompts, completions, **columns):\n    return [1.0] * len(completions)\n"


@pytest.fixture
def here(tmp_path, monkeypatch, request):
    """A folder with a file of a name of its own; modules are imported once in a process."""
    monkeypatch.chdir(tmp_path)
    name = f"rf_{abs(hash(request.node.nodeid))}"

    def write(body=PLAIN):
        (tmp_path / f"{name}.py").write_text(body, encoding="utf-8")
        return name

    return write


@pytest.mark.parametrize("spelling", ["{}.f", "{}.py:f", "./{}.py:f"])
def test_a_function_is_found_by_module_or_by_file(here, spelling):
    name = here()
    fn = load_reward_function(spelling.format(name))
    assert score(fn, ["a"], ["x"], {}).tolist() == [1.0]
    assert (fn.__name__, fn.__module__) == ("f", name)
    assert source_file(spelling.format(name)).samefile(f"{name}.py")


@pytest.mark.parametrize(
    "spelling", ["{}", "{}.py", "{}.f.py", "./{}.f", "{}:f", "a b.f", ".f", "{}.", "{}.py:", "", "nowhere.f"]
)
def test_another_spelling_is_told_the_right_one(here, spelling):
    with pytest.raises(BadInput, match=r"No reward function .*wanted is module.function, such as brief.brief"):
        load_reward_function(spelling.format(here()))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def f(:\n", r"cannot be imported: SyntaxError: invalid syntax \(rf_\d+.py, line 1\)"),
        ("x = 1\n1 / 0\n", r"cannot be imported: ZeroDivisionError: division by zero \(rf_\d+.py, line 2\)"),
        ("import sys\nsys.exit(0)\n", "cannot be imported: SystemExit: 0"),
        ("import not_there_at_all\n", "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("f = 5\n", "A reward function is 5, which cannot be called"),
        ("class f:\n    pass\n", "The reward function f is a class"),
        (PLAIN.replace(" f(", " ff("), "there is no 'f' in .*; is 'ff' meant?"),
    ],
)
def test_a_file_that_does_not_give_a_function_is_refused_in_a_sentence(here, body, sentence):
    name = here(body)
    for spelling in (f"{name}.f", f"{name}.py:f"):
        with pytest.raises(BadInput, match=sentence):
            load_reward_function(spelling)


def test_a_file_that_is_not_there():
    with pytest.raises(BadInput, match=r"there is no file 'nowhere\.py'"):
        load_reward_function("nowhere.py:f")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def f(prompts, completions):\n    return [1.0]\n", "cannot be called: got an unexpected keyword argument 'answer'"),
        ("def f(completions, **_):\n    return [c[0] for c in completions]\n", r"raised IndexError: string index .*line 2\)"),
        ("def f(completions, **_):\n    return [c[0]['content'] for c in completions]\n", "for messages.* a text: --chat"),
        ("def f(completions, **_):\n    yield int(completions[1])\n", r"raised ValueError: invalid literal .*line 2\)"),
        ("def f(completions, **_):\n    return dict.fromkeys(completions, 1)\n", "not a list"),
        ("def f(completions, **_):\n    raise SystemExit(0)\n", "called sys.exit"),
        ("def f(completions, **_):\n    raise GeneratorExit\n", r"raised GeneratorExit: GeneratorExit .*line 2\)"),
        ("import itertools\ndef f(completions, **_):\n    return itertools.count()\n", "returned more than 4 values"),
    ],
)
def test_what_a_function_does_wrong_shows_when_it_is_tried(here, body, sentence):
    fn = load_reward_function(f"{here(body)}.f")
    with pytest.raises(BadInput, match=sentence):
        try_out([fn], Dataset.from_dict({"prompt": ["1+1="], "answer": ["2"]}), 4)


def test_a_file_that_goes_elsewhere_does_not_take_the_run_along(here, tmp_path):
    """Neither when it is imported nor when it is called: the run's paths are relative to where it was started."""
    body = 'import os\nos.chdir("/")\n' + PLAIN.replace("    return", '    os.chdir("/")\n    return')
    fn = load_reward_function(f"{here(body)}.f")
    assert score(fn, ["a"], ["x"], {}).tolist() == [1.0]
    assert Path.cwd() == tmp_path


def test_a_function_is_tried_on_one_prompt_with_its_columns():
    seen = []

    def f(prompts, completions, answer, **_):
        seen.append((prompts, completions, answer))
        return [0.0] * len(completions)

    try_out([f], Dataset.from_dict({"prompt": ["1+1=", "1+2="], "answer": ["2", "3"]}), 4)
    assert seen == [(["1+1="] * 4, ["2", "?", "", "2"], ["2"] * 4)]
