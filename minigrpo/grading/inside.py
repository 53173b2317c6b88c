"""The process in the sandbox: a notebook's cells, read as IPython reads them but run a statement at a time, and then calls.

It imports torch and nothing of ours but what calls the functions, and answers on a pipe, a line of JSON per message.
"""

import __future__

import ast
import asyncio
import contextlib
import inspect
import json
import linecache
import os
import re
import sys
import types
from collections.abc import Callable

import torch

from minigrpo.grading.worker import answer

FUTURES = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})
# What a notebook's answers are made of; where time is short, nothing else runs.
DEFINITIONS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AugAssign,
    ast.If, ast.Try,
)  # fmt: skip
# Magics that run Python below or behind them in the notebook's own names: that Python counts.
TRANSPARENT = "time|capture|prun|debug"


def parse(source: str, name: str) -> tuple[str, ast.Module]:
    """A cell's source without magics and shell lines, and its statements. SyntaxError for what is no Python even so."""
    with contextlib.suppress(SyntaxError, ValueError):
        return source, _parsed(source, name)
    while magic := re.match(rf"\s*%%(?:{TRANSPARENT})\b.*", source):
        source = source[magic.end() :].removeprefix("\n")
    source = re.sub(rf"^([ \t]*)%(?:{TRANSPARENT})[ \t]+(?=\S)", r"\1", source, flags=re.MULTILINE)
    with contextlib.suppress(SyntaxError, ValueError):
        return source, _parsed(source, name)
    from IPython.core.inputtransformer2 import TransformerManager  # slow to load, and few cells need it

    source = TransformerManager().transform_cell(source)
    return source, _parsed(source, name)


def _parsed(source: str, name: str) -> ast.Module:
    return compile(source, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


class Shell:
    """What magics and shell lines are sent to: a file that a cell writes is written; the rest does nothing."""

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        if name in ("writefile", "file"):
            with open(line.split()[-1], "a" if "-a" in line.split() else "w", encoding="utf-8") as file:
                file.write(cell)

    def getoutput(self, *args, **kwargs) -> list[str]:
        return []

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


class Notebook:
    """The names that cells define, and what IPython adds to them."""

    def __init__(self):
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        self.names, self.flags, self.count = module.__dict__, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, 0
        shell = Shell()
        self.names |= {"get_ipython": lambda: shell, "display": lambda *a, **k: None, "input": lambda prompt="": ""}
        self.names |= {"In": [""], "Out": {}, "_": "", "__": "", "___": "", "exit": None, "quit": None}
        self.loop = None

    def run(self, request: dict, at: Callable[[int], None]) -> list[str]:
        """Each statement of a cell, whatever became of the one before; ``at`` is told its number first. Returns the errors.

        Of a request, ``leave_out`` names statements that hang, ``slow`` such as run if they define something, and with
        ``definitions`` only those that do run.
        """
        self.count += 1
        name = f"<cell {self.count}>"
        try:
            source, tree = parse(request["cell"], name)
        except BaseException as error:  # also RecursionError and MemoryError
            return [_sentence(error)]
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for inspect.getsource
        errors = []
        for number, statement in enumerate(tree.body):
            defines = isinstance(statement, DEFINITIONS)
            short = request.get("definitions") or number in request.get("slow", ())
            if number in request.get("leave_out", ()) or (short and not defines):
                continue
            at(number)
            try:
                self._run(statement, name, last=number == len(tree.body) - 1)
            except BaseException as error:  # also SystemExit: a cell must not end the worker
                errors.append(_sentence(error, f" (line {statement.lineno})"))
        return errors

    def _run(self, statement: ast.stmt, name: str, last: bool) -> None:
        shown = isinstance(statement, ast.Expr)
        tree = ast.Expression(statement.value) if shown else ast.Module([statement], [])
        code = compile(tree, name, "eval" if shown else "exec", self.flags, dont_inherit=True)
        self.flags |= code.co_flags & FUTURES  # from __future__ import ... holds for the cells below, too
        value = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            self.loop = self.loop or asyncio.new_event_loop()
            value = self.loop.run_until_complete(value)
        if shown and last and value is not None:
            self.names["_"] = value
            with contextlib.suppress(Exception):
                self.names["Out"][self.count] = value


def _sentence(error: BaseException, where: str = "") -> str:
    with contextlib.suppress(BaseException):
        if isinstance(error, SyntaxError) and error.text:
            return f"{type(error).__name__}: {error.msg} (line {error.lineno}: {error.text.strip()})"[:300]
        return f"{type(error).__name__}: {error}"[:300] + where
    return "an error that cannot be printed"


def _limit(memory: int, seconds: int, processes: int, uid: int | None) -> None:
    """Limits that the learner's code cannot lift; as root, become a user of its own, whom the limit on processes binds."""
    import resource

    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))


def _stand_in() -> None:
    """A ``minigrpo`` whose check and hint do nothing, for the real one holds the answers; no trl either."""
    for name in [name for name in sys.modules if name.startswith("minigrpo")]:
        del sys.modules[name]
    module = sys.modules["minigrpo"] = types.ModuleType("minigrpo")
    module.check = module.hint = module.progress = lambda *args, **kwargs: None

    def absent(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"minigrpo.{name} cannot be used in an answer: while it is graded the package is not there")

    module.__getattr__ = absent
    sys.modules["trl"] = None


def main() -> None:
    """Run the cells that come first, then call functions by name until the pipe ends."""
    torch.set_num_threads(1)
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    first = json.loads(requests.readline())
    _limit(first["memory"], first["seconds"], first["processes"], first["uid"])
    _stand_in()
    if os.access(".", os.W_OK):
        sys.path.insert(0, os.getcwd())  # for a module that %%writefile has written

    def say(message: dict) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    notebook = Notebook()
    say({"ready": True})
    for line in requests:
        request = json.loads(line)
        if "cell" in request:
            errors = notebook.run(request, lambda number: say({"id": request["id"], "at": number}))  # noqa: B023
            say({"id": request["id"], "error": errors[0] if errors else None})
            continue
        say({"id": request["id"], **answer(notebook.names.get(request["name"]), request)})


if __name__ == "__main__":
    main()
