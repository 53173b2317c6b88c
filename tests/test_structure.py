"""The house, held to its plan: who may import whom, how long things may be, and that every public name is documented."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import minigrpo
from tests.tools.planted_bugs import BUGS

pytestmark = pytest.mark.quick

PACKAGE = Path(minigrpo.__file__).parent
FILES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in PACKAGE.rglob("*.py")
    if "grading" not in path.parts and "assets" not in path.parts
}
MODULES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

# The front room in the order in which data flow, then the rooms behind it. What stands behind a module is all that it may
# import of ours.
MAY_IMPORT = {
    "defaults": set(),
    "config": {"defaults"},
    "files": {"config"},
    "tasks": {"config"},
    "prompts": {"chat", "config", "files", "hub", "sampling", "tasks"},
    "hub": {"config"},
    "policy": {"config", "hub", "scoring"},
    "threads": set(),
    "chat": {"config", "files"},
    "sampling": {"chat", "config", "logprobs", "policy", "scoring", "threads"},
    "protocol": {"config", "metrics"},
    "rewards": {"config", "protocol"},
    "advantages": {"logprobs"},
    "logprobs": set(),
    "head": set(),
    "scoring": {"head", "logprobs", "threads"},
    "recompute": {"config", "scoring"},
    "kl": {"logprobs"},
    "loss": {"logprobs"},
    "checks": {"config", "protocol"},
    "update": {"checks", "config", "kl", "logprobs", "loss", "recompute", "sampling", "scoring"},
    "triples": {"chat", "config", "files", "kl", "metrics", "policy", "sampling", "scoring", "update"},
    "effective": {"triples"},
    "reward_model": {"config", "policy", "threads", "triples"},
    "training": {
        "checks", "config", "advantages", "kl", "logprobs", "loss", "metrics", "protocol", "rewards", "sampling", "scoring",
        "threads", "triples", "update",
    },
    "metrics": set(),
    "evaluation": {"config", "metrics", "protocol", "rewards", "sampling", "tasks", "threads"},
    # run knows the front room and view.
    "run/__init__": set(),
    "run/flags": {"config", "defaults", "run/folders"},
    "run/asking": {"config", "run/flags", "run/folders"},
    "run/evaluate": {
        "config", "evaluation", "policy", "tasks", "run/asking", "run/inputs", "run/summary", "run/verdict",
    },
    "run/fork": {"config", "run/folders"},
    "run/overwriting": set(),
    "run/folders": {"config", "run/overwriting"},
    "run/fit": {"config", "hub"},
    "run/step_seconds": {"config", "policy", "training", "update", "run/fit"},
    "run/checkpoints": {"config", "policy", "sampling", "update"},
    "run/rewards_by_name": {"config", "protocol", "rewards"},
    "run/inputs": {
        "chat", "config", "effective", "prompts", "protocol", "reward_model", "rewards", "sampling", "tasks", "triples",
        "run/folders", "run/rewards_by_name",
    },
    "run/step_log": {
        "config", "tasks", "run/diagnosis/doctor", "run/diagnosis/findings", "run/folders", "run/overwriting", "run/tracking",
    },
    "run/token_log": {"config", "scoring", "threads", "update", "view/tokens"},
    "run/report": {"config", "run/diagnosis/logs", "run/folders", "run/fork", "view/report"},
    "run/verdict": set(),
    "run/summary": {
        "chat", "config", "rewards", "tasks", "run/diagnosis/logs", "run/folders", "run/fork", "run/verdict", "view/plots",
    },
    # The diagnosis: rows in, findings out; logs alone touches a file.
    "run/diagnosis/__init__": set(),
    "run/diagnosis/text": set(),
    "run/diagnosis/rows": set(),
    "run/diagnosis/curves": set(),
    "run/diagnosis/findings": set(),
    "run/diagnosis/evidence": {"run/diagnosis/curves"},
    "run/diagnosis/signal": {"run/diagnosis/evidence", "run/diagnosis/findings"},
    "run/diagnosis/motion": {"run/diagnosis/curves", "run/diagnosis/evidence", "run/diagnosis/findings"},
    "run/diagnosis/answers": {
        "run/diagnosis/curves", "run/diagnosis/evidence", "run/diagnosis/findings", "run/diagnosis/motion",
    },
    "run/diagnosis/outcome": {
        "run/diagnosis/curves", "run/diagnosis/evidence", "run/diagnosis/findings", "run/diagnosis/motion",
    },
    "run/diagnosis/normal": {
        "run/diagnosis/curves", "run/diagnosis/evidence", "run/diagnosis/findings", "run/diagnosis/motion",
    },
    "run/diagnosis/doctor": {
        "config", "run/diagnosis/answers", "run/diagnosis/evidence", "run/diagnosis/findings", "run/diagnosis/motion",
        "run/diagnosis/normal", "run/diagnosis/outcome", "run/diagnosis/rows", "run/diagnosis/signal",
    },
    "run/diagnosis/logs": {
        "config", "run/diagnosis/doctor", "run/diagnosis/findings", "run/diagnosis/rows", "run/diagnosis/text", "run/verdict",
    },
    "run/processes": set(),
    "run/selfcheck": {"config", "policy", "tasks", "training"},
    "run/tracking": {"config"},
    "run/trl_engine": {"config", "policy", "protocol", "rewards", "threads", "run/folders", "run/processes", "run/trl_trainer"},
    "run/trl_trainer": {"policy", "protocol", "rewards", "sampling"},
    "run/runner": {
        "config", "evaluation", "policy", "recompute", "tasks", "training", "update", "run/checkpoints", "run/folders",
        "run/fork", "run/inputs", "run/overwriting", "run/step_log", "run/summary", "run/token_log", "run/tracking",
        "run/trl_engine",
    },
    "run/reward_model": {"config", "policy", "reward_model", "triples", "run/checkpoints", "run/folders"},
    # These two alone know grading, which has its own table below.
    "run/cli": {
        "chat", "config", "policy", "sampling", "run/asking", "run/diagnosis/doctor", "run/diagnosis/logs", "run/evaluate",
        "run/fit", "run/flags", "run/folders", "run/fork", "run/inputs", "run/report", "run/reward_model", "run/runner",
        "run/selfcheck", "run/step_seconds", "run/summary", "run/grade", "grading",
    },
    "run/grade": {"config", "run/flags", "run/folders", "grading"},
    # view draws what it is given, and calls the algebra.
    "view/__init__": set(),
    "view/plots": {"config", "metrics"},
    "view/strips": {"config", "view/plots", "view/tokens"},
    "view/diagrams": {"config", "loss", "view/plots", "view/tokens"},
    "view/tokens": {"config"},
    "view/forest": {"config", "view/plots"},
    "view/group": {"config", "view/plots", "view/tokens"},
    "view/rating": {"config"},
    "view/report": {"advantages", "config", "kl", "metrics"},
    # view/controls alone may call the whole front room.
    "view/controls/__init__": set(),
    "view/controls/clip": {"view/controls/picture", "view/plots"},
    "view/controls/seeds": {"view/controls/picture", "view/forest"},
    "view/controls/clinic": {"config", "view/controls/picture", "view/plots"},
    "view/controls/settings": {"config", "policy", "tasks", "training", "view/controls/picture", "view/plots"},
    "view/controls/picture": set(),
    "view/controls/advantages": {"advantages", "config", "view/controls/picture", "view/plots"},
    "view/controls/be_the_reward": {
        "config", "policy", "sampling", "view/controls/one_step", "view/controls/picture", "view/group", "view/plots",
    },
    "view/controls/temperature": {"config", "logprobs", "view/controls/one_step", "view/controls/picture", "view/group"},
    "view/controls/one_step": {
        "advantages", "config", "logprobs", "loss", "policy", "sampling", "scoring", "tasks", "view/group", "view/tokens",
    },
    "view/controls/kl": {"config", "kl", "view/controls/picture", "view/plots"},
    "__init__": set(),
    "__main__": {"run/cli"},
}  # fmt: skip
ROOMS = ("", ".run", ".run.diagnosis", ".view", ".view.controls", ".grading")  # packages, so that a module may be imported from
ALGEBRA = ("advantages", "logprobs", "kl", "loss")


def imports(tree):
    """Every module that is imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            room = (node.module or "").removeprefix("minigrpo") in ROOMS
            yield from ([f"{node.module}.{a.name}" for a in node.names] if room else [node.module])


def test_every_module_has_its_place():
    assert set(MODULES) == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_the_plan_gives_it(name):
    ours = {module.removeprefix("minigrpo.").replace(".", "/") for module in imports(MODULES[name]) if "minigrpo." in module}
    ours = {"grading" if module.startswith("grading/") else module for module in ours}
    assert ours <= MAY_IMPORT[name]


@pytest.mark.parametrize("name", ALGEBRA)
def test_the_algebra_needs_torch_and_nothing_else(name):
    found = imports(MODULES[name])
    ours = {f"minigrpo.{algebra}" for algebra in ALGEBRA}
    assert {module if module in ours else module.split(".")[0] for module in found} <= {"torch", "typing", *ours}


def lines(*names):
    return sum(len(FILES[name].read_text(encoding="utf-8").splitlines()) for name in names)


def test_small_is_a_feature():
    assert lines(*ALGEBRA) <= 400
    assert lines("sampling", "training") <= 500
    assert max(lines(name) for name in MODULES) <= 300


def length(function) -> int:
    """In lines, without the docstring."""
    docstring = function.body[0].end_lineno - function.body[0].lineno + 1 if ast.get_docstring(function) else 0
    return function.end_lineno - function.lineno + 1 - docstring


@pytest.mark.parametrize("name", MODULES)
def test_a_function_has_at_most_forty_lines_besides_its_docstring(name):
    functions = [node for node in ast.walk(MODULES[name]) if isinstance(node, ast.FunctionDef)]
    assert not [f"{node.name}: {length(node)}" for node in functions if length(node) > 40]


@pytest.mark.parametrize("name", dir(minigrpo))
def test_every_public_name_loads_and_says_what_it_is(name):
    thing = getattr(minigrpo, name)
    assert name in minigrpo.__all__ or name == "to_trl"  # ``from minigrpo import *`` must not need TRL
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
        assert thing.__module__.startswith("minigrpo.")


def test_the_stub_and_its_marker_travel_in_the_wheel():
    """And every name of the stub stands in the module that it is imported from; editors and mypy read no more than that."""
    setup = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert {"*.pyi", "py.typed"} <= set(setup["package-data"]["minigrpo"])
    assert (PACKAGE / "py.typed").is_file()
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    named = {alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(named) == set(dir(minigrpo))
    for name, module in named.items():
        defined = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body
        assert any(name in (getattr(node, "name", None), *_targets(node)) for node in defined), f"{module} has no {name}"


def _targets(node):
    return [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="grpo_los"):
        minigrpo.grpo_los  # noqa: B018


def test_no_library_function_seeds_the_global_generator_prints_or_shows():
    """Randomness enters by generator or seed; only the command prints."""
    for name in set(MODULES) - {"run/cli", "run/evaluate", "run/runner", "run/selfcheck", "run/summary"}:
        text = FILES[name].read_text(encoding="utf-8")
        assert "torch.manual_seed" not in text
        assert not re.search(r"^\s*print\(", text, re.MULTILINE)
        assert ".show()" not in text


# --- grading ------------------------------------------------------------------------------------------------------------

GRADING = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in (PACKAGE / "grading").glob("*.py")}
GRADING_MAY_IMPORT = {
    "__init__": set(),
    "worker": set(),  # runs alone, in the sandbox
    "questions": set(),
    "compare": {"questions", "worker"},
    "looks": {"compare"},
    "symptoms": {"compare", "looks", "questions", "worker"},
    "mutations": {"questions"},
    "causes": {"compare", "mutations", "questions", "symptoms", "worker"},
    "check": {"causes", "compare", "progress", "questions"},
    "progress": set(),
    "inside": {"worker"},  # the process in there
    "walls": set(),
    "sandbox": {"walls"},
    "cells": set(),
    "results": {"cells", "check", "questions"},
    "exam": {"compare", "questions"},
    "cache": {"cells", "check", "questions", "results"},
    "submission": {"cache", "cells", "check", "compare", "exam", "questions", "results", "sandbox", "worker"},
    "archives": {"cells"},
    "people": {"archives", "cells", "submission"},
    "batch": {"archives", "cells", "exam", "people", "results", "sandbox", "submission"},
    "reports": {"results"},
    "pages": {"cells", "questions", "reports", "results"},
    "shipped": {"worker"},
    **{f"ex0{k}": {"questions"} for k in range(1, 9)},
    "ex05": {"diagnosis", "questions", "shipped"},
    "ex08": {"practice", "questions", "worker"},
    "practice": set(),  # of grading; it alone trains
    "diagnosis": {"questions"},
    # A lesson's question shares the inputs of its exercise.
    "lesson00": {"questions"},
    "lesson01": {"questions"},
    "lesson02": {"ex02", "questions"},
    "lesson03": {"ex03", "questions"},
    "lesson04": {"questions"},
    "lesson05": {"questions"},
    "lesson06": {"ex06", "questions"},
    "lesson07": {"questions"},
    "lesson08": {"questions"},
    "lesson09": {"questions"},
    "own": {"check"},
}


@pytest.mark.parametrize("name", GRADING_MAY_IMPORT)
def test_grading_keeps_to_its_own_table(name):
    assert set(GRADING) == set(GRADING_MAY_IMPORT)
    inside = {
        m.removeprefix("minigrpo.grading").lstrip(".") for m in imports(GRADING[name]) if m.startswith("minigrpo.grading")
    }
    inside |= {
        alias.name
        for node in ast.walk(GRADING[name])
        if isinstance(node, ast.ImportFrom) and node.module == "minigrpo.grading"
        for alias in node.names
    }
    assert inside - {""} <= GRADING_MAY_IMPORT[name]


def test_the_worker_imports_nothing_of_ours():
    """What calls the functions is all that goes with the process in the sandbox."""
    assert not any(module.startswith("minigrpo") for module in imports(GRADING["worker"]))
    assert {module for module in imports(GRADING["inside"]) if module.startswith("minigrpo")} == {"minigrpo.grading.worker"}


# --- the planted bugs -------------------------------------------------------------------------------------------------------


def test_each_bug_can_be_planted_and_has_its_test():
    """Whoever changes such a line or renames such a test hears of it here, and not when the whole list is run."""
    for bug in BUGS:
        assert (PACKAGE / bug.file).read_text(encoding="utf-8").count(bug.find) == 1, bug.name
        path, test = bug.test.split("::")
        assert f"def {test.partition('[')[0]}(" in (Path(__file__).parents[1] / path).read_text(encoding="utf-8"), bug.name
