"""Reward functions by name, as --reward-funcs has them: found, or why not; and tried out before anything is written."""

import ast
import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType

from datasets import Dataset
from transformers import TrainerState

from minigrpo.config import BadInput, first_line
from minigrpo.protocol import Extras, RewardFunction, is_async, short_name
from minigrpo.rewards import check_reward_fns, score

SPELLING = "wanted is module.function, such as brief.brief for the function brief in the file brief.py of this folder"
CALLED = re.compile(r"(.*?)\((.*)\)", re.DOTALL)


def load_reward_function(name: str) -> RewardFunction:
    """The function that ``module.function`` or ``FILE.py:function`` names; what it raises becomes a sentence.

    With arguments behind the name, what that function makes of them: trl.rewards.get_soft_overlong_punishment(64, 16).

    Raises:
        BadInput: if there is no such module or function, the module cannot be imported, or it is no reward function.
    """
    place, function = _parts(name)
    module = _module(name)
    if not hasattr(module, function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(function, own, n=1)
        hint = f"is {near[0]!r} meant?" if near else f"{SPELLING}."
        raise BadInput(f"No reward function {name!r}: there is no {function!r} in {_file(module)}; {hint}")
    fn = check_reward_fns([_made(getattr(module, function), name)])[0]

    def told(**given):
        with _told(name):
            values = fn(**given)
            # A generator does its work here, and one that never ends no more than tells of it.
            return list(islice(values, len(given["completions"]) + 1)) if isinstance(values, Iterator) else values

    async def told_later(**given):
        with _told(name):
            return await fn(**given)

    told = told_later if is_async(fn) else told
    told.__name__, told.__module__, told.__wrapped__ = short_name(fn), Path(place).stem if ".py" in place else place, fn
    return told


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        with chdir(os.getcwd()):  # wherever it goes, the run stays where it was started
            yield
    except (KeyboardInterrupt, SystemExit):
        raise  # a user's, and one that score refuses
    except BaseException as error:  # GeneratorExit and its like are no Exception
        wants_messages = isinstance(error, TypeError) and "string indices must be integers" in str(error)
        hint = " It looks for messages, and what it got is a text: --chat makes conversations of the prompts."
        raise BadInput(f"The reward function {name} raised {_says(error)}.{hint if wants_messages else ''}") from error


def _made(fn, name: str):
    """The function itself, or what it makes of the arguments in its name, which are numbers, texts and the like."""
    called = CALLED.fullmatch(name)
    if called is None:
        return fn
    try:
        call = ast.parse(f"f({called[2]})", mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("one call is wanted")
        arguments = [ast.literal_eval(argument) for argument in call.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        return fn(*arguments, **named)
    except Exception as error:  # no arguments, or ones that it does not take
        raise BadInput(f"The reward function {name!r} cannot be made: {_says(error)}.") from error


def source_file(name: str) -> Path | None:
    """The file that a reward function was named in; None for a module that is none."""
    path = Path(_file(_module(name)))
    return path if path.is_file() else None


def try_out(reward_fns: list[RewardFunction], dataset: Dataset, num_generations: int) -> None:
    """Call each for one prompt of the data set, with completions that are made up: right, wrong and empty.

    Raises:
        BadInput: for whatever a reward function must not do or return.
    """
    row = dataset[0]
    texts = [str(row.get("answer", "1")), "?", ""]
    completions = [texts[k % len(texts)] for k in range(num_generations)]
    columns = {name: [value] * num_generations for name, value in row.items() if name != "prompt"}
    extras = Extras([list(text.encode()) for text in completions], TrainerState())  # tokens that are made up, too
    for fn in reward_fns:
        score(fn, [row["prompt"]] * num_generations, completions, columns, extras)


def _parts(name: str) -> tuple[str, str]:
    """Module or file, and function. Raises BadInput for any other spelling."""
    name = called[1] if (called := CALLED.fullmatch(name)) else name
    module, colon, function = name.rpartition(":") if ".py:" in name else name.rpartition(".")
    path = colon == ":" or all(part.isidentifier() for part in module.split("."))
    if not path or not function.isidentifier():
        raise BadInput(f"No reward function {name!r}; {SPELLING}.")
    return module, function


def _module(name: str) -> ModuleType:
    module, _ = _parts(name)
    if module.endswith(".py") and not Path(module).is_file():
        raise BadInput(f"No reward function {name!r}: there is no file {module!r}.")
    if os.getcwd() != sys.path[0]:
        sys.path.insert(0, os.getcwd())  # a module in the current folder, as for python -m
    try:
        with chdir(os.getcwd()):
            return _from_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module != error.name and not module.startswith(f"{error.name}."):
            raise BadInput(f"The file of the reward function {name!r} cannot be imported: {_says(error)}.") from error
        raise BadInput(f"No reward function {name!r}: there is no module {error.name!r} here; {SPELLING}.") from error
    except (Exception, SystemExit) as error:
        raise BadInput(f"The file of the reward function {name!r} cannot be imported: {_says(error)}.") from error


def _from_file(path: Path) -> ModuleType:
    """The module in a file, imported once, under the whole path as its name: it may be called as another module is."""
    name = str(path.resolve())
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _says(error: BaseException) -> str:
    """What an error is, what it says, and where in which file."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, SyntaxError) else f" ({Path(where.filename).name}, line {where.lineno})"
    return f"{type(error).__name__}: {first_line(error)}{place}"
