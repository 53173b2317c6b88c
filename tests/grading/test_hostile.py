"""Notebooks that attack the grader: none earns what it did not answer, hurts what is outside, hangs, or runs on afterwards."""

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
import signal
import socket
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest

from minigrpo.config import BadInput
from minigrpo.grading import exam, sandbox, submission
from minigrpo.grading.check import questions

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))
LIGHT = Path(__file__).with_name("light")
LONGEST = 120  # seconds until a submission is taken to hang, with the limits below and something else running

SHIFT = "def shift_logits(logits, prompt_length):\n    return logits[:, prompt_length - 1 : -1]\n"
MASK = """
def completion_mask(completion_ids, eos_token_id):
    is_eos = completion_ids == eos_token_id
    return is_eos.cumsum(1) - is_eos.long() == 0
"""
RIGHT = """
import torch
def right(logits, token_ids, temperature):
    return (logits / temperature).log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
"""
ZEROS = """
import torch
def top_k_logprobs(logits, token_ids, temperature, top_k): return torch.zeros_like(logits[..., 0])
def token_entropies(logits, temperature): return torch.zeros_like(logits[..., 0])
def tempered_ratio(logits, token_ids, old_logprobs, temperature): return torch.zeros_like(old_logprobs)
"""
# Where the worker is a light one, numbers come and go, and to double them is right.
HONEST = [f"def {name}(numbers):\n    return [2 * x for x in numbers]\n" for name in ("shift_logits", "completion_mask")]
NOTHING = "def top_k_logprobs(numbers): return [0.0] * len(numbers)\ntoken_entropies = tempered_ratio = top_k_logprobs\n"
# A function that ignores every signal and does not end.
DEAF = """
def top_k_logprobs(*a):
    for s in range(1, 65):
        try: signal.signal(s, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
# The pipe that the worker answers on, the id that is asked for, and what can be said in its place.
CHANNEL = """
import fcntl, json, os, sys
def pipe():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("pipe") and fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_WRONLY:
                return int(name)
        except OSError:
            pass
def asked():
    frame = sys._getframe()
    while "request" not in frame.f_locals or "id" not in frame.f_locals["request"]:
        frame = frame.f_back
    return frame.f_locals["request"]["id"]
def say(text):
    data = (text if isinstance(text, bytes) else text.encode()) + b"\\n"
    while data:
        data = data[os.write(pipe(), data):]
def numbers(t):
    return {"dtype": "float64", "shape": list(t.shape), "data": t.detach().reshape(-1).tolist()}
plain, instead = json.dumps, []
json.dumps = lambda m, **k: instead.pop() if instead else plain(m, **k)  # a message in place of the worker's own
def forge(values, gradients=None, **more):
    message = {"id": asked(), "values": values, "gradients": gradients, "error": None, "changed": None, **more}
    instead.append(plain(message))
"""


class Hung(Exception):
    """Not an OSError: the sandbox catches those."""


def write_notebook(folder, sources, name="ex01_x.ipynb", **more):
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": s} for s in sources]
    path = folder / name
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more}), encoding="utf-8")
    return path


def children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(path.name), *children(int(path.name))]
    return found


def inhabitants(namespaces):
    """The processes, zombies aside, of these process namespaces."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and os.readlink(path / "ns" / "pid") in namespaces:
                found.append(int(path.name))
    return found


def snapshot(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name[0] != "."]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def how():
    try:
        found = sandbox.isolation(False)
    except BadInput:
        found = "none"
    if found != "bubblewrap":
        # Where REQUIRE_SANDBOX is set, as in .ci/run, a skipped sandbox test is a failure.
        (pytest.fail if os.environ.get("REQUIRE_SANDBOX") else pytest.skip)("hostile code runs only in bubblewrap")
    return found


@pytest.fixture
def arena(how, tmp_path, monkeypatch):
    """Grade a notebook; what is left of its workers, files or time is a failure."""
    own = os.readlink("/proc/self/ns/pid")
    workers, namespaces, pins, most = [], set(), contextlib.ExitStack(), [math.inf]

    class Watched(sandbox.Worker):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            workers.append(self)
            for pid in children(self.process.pid):
                with contextlib.suppress(OSError):  # while the file is open, no other sandbox gets this one's number
                    namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
                    pins.callback(os.close, namespace)
                    namespaces.add(f"pid:[{os.fstat(namespace).st_ino}]")
            namespaces.discard(own)

        def ask(self, request, seconds, *rest):
            honest = request.get("cell") in HONEST or request.get("name") in ("shift_logits", "completion_mask")
            return super().ask(request, seconds if honest else min(seconds, most[0]), *rest)

    monkeypatch.setattr(submission, "Worker", Watched)
    monkeypatch.setattr(submission, "CELL_SECONDS", 2.0)
    monkeypatch.setattr(submission, "CALL_SECONDS", 2.0)
    monkeypatch.setattr(submission, "SECONDS", 20.0)
    (tmp_path / "results.csv").write_text("person,points\nsomebody,7\n")
    (tmp_path / "ex01_somebody.ipynb").write_text("{}")

    def stop(*_):
        raise Hung("grade_file hangs")

    def grade(path, seed=3, longest=LONGEST, asked=None, patience=math.inf):
        """``patience``: seconds for what is not honest."""
        most[0] = patience
        before = [snapshot(folder) for folder in (tmp_path, ROOT / "minigrpo" / "grading", ROOT / "solutions")]
        former = signal.signal(signal.SIGALRM, stop)
        signal.alarm(longest)
        try:
            report = submission.grade_file(path, "mallory", how, seed, exam=asked)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, former)
        assert all(worker.process.poll() is not None for worker in workers)
        until = time.monotonic() + 3  # the kernel ends a namespace soon, not at once
        while inhabitants(namespaces) and time.monotonic() < until:
            time.sleep(0.05)
        assert not inhabitants(namespaces), "something runs on"
        assert [snapshot(folder) for folder in (tmp_path, ROOT / "minigrpo" / "grading", ROOT / "solutions")] == before
        assert not any((folder / "hostile").exists() for folder in (Path("/tmp"), Path("/var/tmp"), ROOT, SITE, tmp_path))
        for item in report.graded:
            item.says.encode("utf-8")  # else no report can be written
        return report

    yield grade
    for worker in workers:
        worker.close()
    for pid in inhabitants(namespaces) if namespaces else []:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    pins.close()


@pytest.fixture
def light_arena(arena, monkeypatch):
    """The same without torch in its worker, for what does not need it; whose questions ask for numbers doubled."""
    monkeypatch.setattr(sandbox, "WORKER", LIGHT / "worker.py")
    monkeypatch.setattr(sandbox, "MEMORY", 300_000_000)
    return functools.partial(arena, asked=exam.load(LIGHT / "ex01.py"))


def earned(report):
    return {item.question.id for item in report.graded if item.points}


def says(report, number):
    return next(item.says for item in report.graded if item.question.id == f"ex01.{number}")


# --- the corpus: cells between two honest answers, and which honest answers they ruin ------------------------------------

ATTEMPTS = {
    "check and the worker's own functions overwritten": """
import sys, minigrpo
from types import ModuleType, SimpleNamespace
fake = ModuleType("minigrpo.grading.check")
fake.check = fake.grade = fake.judge = lambda *a, **k: SimpleNamespace(points=3, passed=4, cases=4, about=None)
sys.modules["minigrpo.grading.check"] = sys.modules["minigrpo.grading.compare"] = fake
minigrpo.check = fake.check
main = sys.modules["__main__"]
main._equal = lambda *a: True
main.LARGEST = 10**12
""",
    "torch's comparisons patched": """
for name in ("allclose", "equal", "isclose"):
    setattr(torch, name, lambda *a, **k: True)
for name in ("allclose", "equal", "isclose", "__ne__", "isnan", "any", "all", "nonzero"):
    setattr(torch.Tensor, name, lambda *a, **k: True)
""",
    "Tensor.abs gives zero, item gives the answer": """
torch.Tensor.abs = lambda self: torch.zeros(())
torch.Tensor.item = lambda self: 0.0
""",
    "objects equal to everything": """
class Any(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = None
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __bool__(self): return True
def top_k_logprobs(*a, **k): return Any()
class L(list):
    def __eq__(self, other): return True
    def __len__(self): return 1
def token_entropies(*a, **k): return L([1.0])
tempered_ratio = Any()
""",
    "tensor subclasses": """
class T(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        return True if name in ("eq", "__eq__", "allclose", "equal", "all", "le") else torch.zeros(())
def top_k_logprobs(logits, token_ids, temperature, top_k): return torch.zeros(3, 5).as_subclass(T)
def token_entropies(logits, temperature): return torch.nn.Parameter(torch.zeros(3, 5).as_subclass(T))
class P(torch.nn.Parameter): pass
def tempered_ratio(*a): return [torch.zeros(3, 5).as_subclass(T)]
""",
    "right values, no gradient, and a shapeless one from a patched autograd": RIGHT
    + """
def top_k_logprobs(logits, token_ids, temperature, top_k):
    torch.autograd.grad = lambda total, leaves, **k: [torch.zeros(0, *leaf.shape) for leaf in leaves]
    return right(logits, token_ids, temperature).detach() + 0 * logits.sum()
""",
    "the same, forged on the channel": RIGHT
    + CHANNEL
    + """
def top_k_logprobs(logits, token_ids, temperature, top_k):
    forge([numbers(right(logits, token_ids, temperature))], [{"dtype": "float64", "shape": [0, *logits.shape], "data": []}])
def token_entropies(logits, temperature):
    forge([numbers(logits[..., 0] * 0)], [{"dtype": "float64", "shape": [0], "data": []}])
""",
    "right values and a gradient of another shape": RIGHT
    + CHANNEL
    + """
def top_k_logprobs(logits, token_ids, temperature, top_k):
    forge([numbers(right(logits, token_ids, temperature))], [{"dtype": "float64", "shape": [2], "data": [0, 0]}])
""",
    "recursion": """
def top_k_logprobs(*a): return top_k_logprobs(*a)
def token_entropies(*a):
    nested = []
    for _ in range(100_000): nested = [nested]
    return nested
def tempered_ratio(*a):
    import sys
    sys.setrecursionlimit(10**9)
    return tempered_ratio(*a)
""",
    "an end": """
def top_k_logprobs(*a): import os; os._exit(0)
""",
    "more memory than there is": """
def top_k_logprobs(*a): return torch.zeros(10**11)
def token_entropies(*a): return bytearray(64 * 2**30)
""",
    "a result far too large": """
def top_k_logprobs(*a): return torch.zeros(300_000)
def token_entropies(*a): return [torch.zeros(150_000, dtype=torch.float64) + 1 / 3] * 40
def tempered_ratio(*a): return torch.zeros(1, dtype=torch.complex64)
""",
    "an error that no file can hold": """
def top_k_logprobs(*a): raise ValueError("\\ud800 \\x1b[2J \\x00")
""",
    "an error that is hostile itself": """
class E(Exception):
    def __str__(self): raise SystemExit
def top_k_logprobs(*a): raise E
def token_entropies(*a): raise type("NotImplementedError" * 1000, (Exception,), {})
def tempered_ratio(*a): raise BaseException
""",
    "not a number": CHANNEL
    + """
def put(word, shape): return {"dtype": "float64", "shape": list(shape), "data": [word] * shape.numel()}
def top_k_logprobs(logits, token_ids, temperature, top_k): forge([put(float("nan"), token_ids.shape)], [put(0.0, logits.shape)])
def token_entropies(logits, temperature): forge([put(float("inf"), logits.shape[:2])], [put(0.0, logits.shape)])
def tempered_ratio(logits, token_ids, old_logprobs, temperature):
    forge([put(10**400, token_ids.shape)], [put(True, logits.shape)])
""",
    "answers of the wrong kind": CHANNEL
    + """
def top_k_logprobs(logits, token_ids, temperature, top_k): forge({"dtype": 1}, "x", missing=[], id=asked())
def token_entropies(logits, temperature): forge([{"dtype": [], "shape": {}, "data": ""}], [None], changed={"a": [1]})
def tempered_ratio(*a): forge([{"dtype": "float64", "shape": [0, 2**62], "data": []}] * 3, [{"shape": None}])
""",
    "nested as deep as JSON can be read": CHANNEL
    + """
def top_k_logprobs(*a):
    instead.append('{"id": %d, "error": %s, "changed": null}' % (asked(), "[" * 880 + "]" * 880))
def token_entropies(*a):
    instead.append('{"id": %d, "error": null, "changed": %s}' % (asked(), "[" * 940 + "]" * 940))
""",
    "a gigabyte of output": """
import os
block = b"x" * 2**20
for _ in range(1024): os.write(1, block); os.write(2, block)
print("x" * 10**6)
""",
    "daemons": """
import os, signal, subprocess, sys, threading, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE): signal.signal(s, signal.SIG_IGN)
        os.closerange(0, 100)
        time.sleep(1000)
    os._exit(0)
subprocess.Popen(["/bin/sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"], start_new_session=True)
threading.Thread(target=time.sleep, args=(1000,)).start()
""",
    "files written everywhere": f"""
import os, pathlib
for folder in ({str(ROOT)!r}, {str(SITE)!r}, "FOLDER", "/tmp", "/var/tmp", "/usr", "/", "/proc/1/root/tmp", "/proc/1/cwd"):
    for name in ("hostile", "results.csv", "ex01_somebody.ipynb", "minigrpo/grading/check.py", "solutions/ex01_logprobs.ipynb"):
        try: pathlib.Path(folder, name).write_text("hostile")
        except OSError: pass
        try: os.remove(os.path.join(folder, name))
        except OSError: pass
try: open("/worker.py", "a").write("hostile")
except OSError: pass
""",
    "names that are no functions": """
top_k_logprobs = 3
class token_entropies: pass
class Odd:
    def __getattr__(self, name): raise SystemExit
    def __call__(self, *a, **k): raise GeneratorExit
tempered_ratio = Odd()
""",
    "magics and shell escapes": [
        "!touch /tmp/hostile\n%run -i x.py\n?x\n    !ls",
        "%%bash\ntouch /tmp/hostile",
        "get_ipython().system('touch /tmp/hostile')",
        "def top_k_logprobs(*a):\n    !touch hostile\n",
        "  %%html\n<script>",
        ZEROS,
    ],
    "cells that are no Python": [
        "def (",
        "\x00",
        "\ud800",
        "x = " + "(" * 5000,
        "a" * 100_000,
        "# -*- coding: nonsense -*-",
        ZEROS,
    ],
}
# Those that do nothing to torch or to worker.py: a light worker will do.
LIGHT_ATTEMPTS = {
    "json patched to add a verdict": """
import json
plain = json.dumps
json.dumps = lambda m, **k: plain({**m, "points": 3, "passed": 4, "verdict": True, "graded": [{"points": 3}]})
""",
    "ready again, and answers ahead of their questions": CHANNEL
    + """
def top_k_logprobs(*a):
    say('{"ready": true}')
def token_entropies(numbers):
    zeros = {"dtype": "float64", "shape": [len(numbers)], "data": [0.0 for x in numbers]}
    for ahead in range(50):
        say(json.dumps({"id": asked() + ahead, "values": [zeros], "gradients": [zeros],
                        "error": None, "changed": None, "points": 3}))
def tempered_ratio(*a):
    say('{"id": true}'); say("[]"); say("null"); say("NaN")
""",
    "deeply nested, not UTF-8, huge": CHANNEL
    + """
def top_k_logprobs(*a): say("[" * 1_000_000)
def token_entropies(*a): say(b"\\xff\\xfe{")
def tempered_ratio(*a):
    while True: os.write(pipe(), b"0" * 65536)
""",
    "one byte at a time": CHANNEL
    + """
import time
def top_k_logprobs(*a):
    while True: os.write(pipe(), b" "); time.sleep(0.05)
""",
    "cells that end the worker": [
        "import sys; sys.exit(0)",
        "raise KeyboardInterrupt",
        "class E(BaseException):\n    def __str__(self): raise KeyError\nraise E",
        "import os; os._exit(0)",
        "import ctypes; ctypes.string_at(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.closerange(3, 100)",
        NOTHING,
    ],
    "functions that end the worker": """
import ctypes, os, sys
def top_k_logprobs(*a): os._exit(0)
def token_entropies(*a): ctypes.string_at(0)
def tempered_ratio(*a): sys.exit(0)
""",
    "another program in its place": """
import os
def top_k_logprobs(*a): os.execv("/bin/sh", ["sh", "-c", "sleep 1000"])
def token_entropies(*a): os.kill(-1, 9)
def tempered_ratio(*a):
    os.kill(1, 9); os.kill(os.getppid(), 15); os.killpg(0, 9)
""",
    "an endless loop": ["while True: pass", NOTHING],
    "loops that ignore signals, or stop, or hold the lock": "import ctypes, os, signal\n"
    + DEAF
    + """
def token_entropies(*a): os.kill(os.getpid(), signal.SIGSTOP)
def tempered_ratio(*a): ctypes.PyDLL(None).sleep(1000)
""",
}


# Those that change nothing but their own answers share a worker, which takes as long to start as all of them to run.
TOGETHER = {
    "answers": (
        "an end",
        "check and the worker's own functions overwritten",
        "objects equal to everything",
        "tensor subclasses",
        "a result far too large",
        "an error that no file can hold",
        "an error that is hostile itself",
        "names that are no functions",
        "more memory than there is",
        "Tensor.abs gives zero, item gives the answer",
        "recursion",  # the last: it lifts Python's limit
    ),
    "forged": (
        "the same, forged on the channel",
        "right values and a gradient of another shape",
        "not a number",
        "answers of the wrong kind",
        "nested as deep as JSON can be read",
        "right values, no gradient, and a shapeless one from a patched autograd",  # the last: it takes autograd from all
    ),
    "cells": (
        "a gigabyte of output",
        "files written everywhere",
        "magics and shell escapes",
        "cells that are no Python",
        "daemons",
    ),
}


def cells_of(name, folder):
    """An attempt between two honest answers."""
    attempt = ATTEMPTS[name]
    if isinstance(attempt, str):
        attempt = [(ZEROS if "def token_entropies" not in attempt else "import torch\n") + attempt]
    return [SHIFT, *(cell.replace("FOLDER", str(folder)) for cell in attempt), MASK]


@pytest.mark.parametrize("name", LIGHT_ATTEMPTS)
def test_an_attempt_earns_nothing(light_arena, tmp_path, name):
    attempt = LIGHT_ATTEMPTS[name]
    if isinstance(attempt, str):
        attempt = [attempt if "def token_entropies" in attempt else NOTHING + attempt]
    path = write_notebook(tmp_path, [HONEST[0], *attempt, HONEST[1]])
    assert earned(light_arena(path, patience=0.5)) == {"ex01.1", "ex01.3"}


def test_comparisons_patched(arena, tmp_path):
    """They ruin the honest answers, too."""
    assert earned(arena(write_notebook(tmp_path, cells_of("torch's comparisons patched", tmp_path)))) <= {"ex01.1", "ex01.3"}


@pytest.mark.parametrize("bundle", TOGETHER)
def test_attempts_in_one_worker_earn_nothing(arena, tmp_path, monkeypatch, bundle):
    """Each has the exercise's questions for itself, under names of its own, its honest answers among them."""
    monkeypatch.setattr(submission, "SECONDS", 60.0)
    sources, asked = [CHANNEL] if bundle == "forged" else [], []  # its patch of json.dumps would call itself in a second copy
    own = r"\b(" + "|".join(question.name for question in questions("ex01")) + r")\b"
    for number, name in enumerate(TOGETHER[bundle]):
        cells = (cell.replace(CHANNEL, "") for cell in cells_of(name, tmp_path))
        sources += [re.sub(own, rf"\1_{number}", cell) for cell in cells]
        asked += [replace(q, id=f"{q.id}, {name}", name=f"{q.name}_{number}") for q in questions("ex01")]
    report = arena(write_notebook(tmp_path, sources), asked=exam.Exam("ex01", asked, b""))
    assert earned(report) == {f"{honest}, {name}" for name in TOGETHER[bundle] for honest in ("ex01.1", "ex01.3")}


def test_random_numbers_patched(arena, tmp_path):
    """A direction of zeros hides that there is no gradient; ruins the honest answer's gradient, too."""
    source = RIGHT + (
        "torch.randn = lambda shape, **k: torch.zeros(shape, dtype=torch.float64)\n"
        "torch.manual_seed = torch.Generator.manual_seed = lambda *a: None\n"
        "def top_k_logprobs(logits, token_ids, temperature, top_k): return right(logits.detach(), token_ids, temperature)\n"
    )
    assert earned(arena(write_notebook(tmp_path, [source, MASK]))) == {"ex01.3"}


def test_an_argument_changed_and_the_look_at_it_patched(arena, tmp_path):
    """Whether an argument was changed is the worker's word: who patches that gets points for right numbers only."""
    source = (
        "import sys\nsys.modules['__main__']._equal = lambda *a: True\n"
        "def completion_mask(completion_ids, eos_token_id):\n    is_eos = completion_ids == eos_token_id\n"
        "    completion_ids.zero_()\n    return is_eos.cumsum(1) - is_eos.long() == 0\n"
    )
    wrong = source.replace("return is_eos.cumsum(1) - is_eos.long() == 0", "return is_eos").replace("_mask(", "_mask_2(")
    asked = [q for q in questions("ex01") if q.name in ("shift_logits", "completion_mask")]
    asked = exam.Exam("ex01", [*asked, replace(asked[1], id="wrong", name="completion_mask_2")], b"")
    got = earned(arena(write_notebook(tmp_path, [source, wrong, SHIFT]), asked=asked))
    assert got in ({"ex01.1"}, {"ex01.1", "ex01.3"})


HUNT = """
import gc, glob, importlib, os, sys
found = []
for name in ("minigrpo.logprobs", "minigrpo.grading", "minigrpo.grading.ex01", "trl", "trl.trainer.utils"):
    try: importlib.import_module(name); found.append(name)
    except BaseException: pass
places = ["ROOT", "SITE", "FOLDER", "/root", "/home", "/srv", ".", *sys.path]
places += [f"/proc/{p}/{x}" for p in ("1", "self", os.getppid(), PARENT) for x in ("root", "cwd")]
wanted = ("minigrpo/logprobs.py", "minigrpo/grading/ex01.py", "minigrpo/grading/check.py", "logprobs.py", "trl/__init__.py",
          "solutions/ex01_logprobs.ipynb", "solutions/src/ex01_logprobs.py", "results.csv", "ex01_somebody.ipynb")
for place in places:
    for name in [*wanted, "ROOT/minigrpo/logprobs.py", "ROOT/solutions/ex01_logprobs.ipynb"]:
        try: found.append(open(place + "/" + name).read()[:40] + name)
        except (OSError, UnicodeError): pass
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try: text = open(path).read()
    except OSError: continue
    if "SECRET" in text or "pytest" in text: found.append(path)
found += [k for k in os.environ if "SECRET" in k]
frame = sys._getframe()
while frame:
    found += [n for n in (*frame.f_locals, *frame.f_globals) if n in ("reference", "QUESTIONS", "questions", "top_k_logprobs")]
    frame = frame.f_back
found += [o.__qualname__ for o in gc.get_objects() if type(o) is type(gc.collect) or type(o) is type(lambda: 0)
          if getattr(o, "__name__", "") in ("top_k_logprobs", "shift_logits", "_shift_cases")]
def token_entropies(*a): raise RuntimeError(f"found {found}")
"""


def test_there_is_nothing_to_read(arena, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGRPO_SECRET", "SECRET")
    hunt = HUNT.replace("ROOT", str(ROOT)).replace("SITE", str(SITE)).replace("FOLDER", str(tmp_path))
    report = arena(write_notebook(tmp_path, [hunt.replace("PARENT", str(os.getpid())), MASK]))
    assert earned(report) == {"ex01.3"}
    assert "found []" in says(report, 4)


def test_there_is_nobody_to_talk_to(light_arena, tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        call = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        assert earned(light_arena(write_notebook(tmp_path, [call, HONEST[1]]))) == {"ex01.3"}
        with pytest.raises(BlockingIOError):
            server.accept()


def test_processes_are_limited(light_arena, tmp_path, monkeypatch):
    """A fork bomb of 150 at most: more than 100 that succeed are no limit at all. Where it ends the worker that is one, too."""
    monkeypatch.setattr(submission, "CELL_SECONDS", 10.0)  # on a busy machine, forks take their time
    bomb = """
import os, time
made = 0
try:
    for _ in range(150):
        if os.fork() == 0: time.sleep(20); os._exit(0)
        made += 1
except OSError: pass
def token_entropies(*a): raise RuntimeError(f"made{' too many' if made > 100 else ' few'}: {made}")
"""
    report = light_arena(write_notebook(tmp_path, [bomb, HONEST[1]]))
    assert earned(report) == {"ex01.3"}
    assert "made few" in says(report, 4) or "a statement was left out" in says(report, 4)


def test_memory_is_limited(light_arena, tmp_path):
    """For each process; what all take together has limits of its own."""
    bomb = """
def top_k_logprobs(*a): return bytearray(64 * 2**30)
kept = []
def token_entropies(*a):
    for _ in range(60): kept.append(bytearray(10_000_000))
def tempered_ratio(*a): return b"x" * 10**10
"""
    report = light_arena(write_notebook(tmp_path, [bomb, HONEST[1]]))
    assert earned(report) == {"ex01.3"}
    assert all("MemoryError" in says(report, number) for number in (2, 4, 5))


def test_files_are_limited(light_arena, tmp_path):
    """One file; then 300 MB at most in each folder are tried: files of less than the largest allowed, many of them."""
    fill = """
import os
size, made = 0, {}
try:
    with open("/tmp/x", "wb") as file: size = file.write(b"x" * 5_000_000)
except OSError: os.remove("/tmp/x")
for folder in ("/tmp", "/dev/shm"):
    made[folder] = "few"
    try:
        for number in range(300):
            with open(f"{folder}/{number}", "wb") as file: file.write(b"x" * 999_000)
            if number >= 250: made[folder] = "too many"
    except OSError: pass
def token_entropies(*a): raise RuntimeError(f"{size} bytes, then {made}")
"""
    report = light_arena(write_notebook(tmp_path, [fill, HONEST[1]]))
    assert earned(report) == {"ex01.3"}
    assert "0 bytes, then {'/tmp': 'few', '/dev/shm': 'few'}" in says(report, 4)


# The first process in the sandbox is bubblewrap, of the same user: make it forget that it should die with the grader.
TAMPER = """
import ctypes, os, time
names = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs gs ds es f g".split()
class Registers(ctypes.Structure): _fields_ = [(n, ctypes.c_ulonglong) for n in names]
libc, status = ctypes.CDLL(None), ctypes.c_int()
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.waitpid.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
if libc.ptrace(16, 1, None, None) == 0:
    libc.waitpid(1, ctypes.byref(status), 0x40000000)
    old = Registers()
    libc.ptrace(12, 1, None, ctypes.byref(old))
    new = Registers.from_buffer_copy(old)
    new.rip, new.rax, new.orig_rax, new.rdi, new.rsi = old.rip - 2, 157, 2**64 - 1, 1, 0  # prctl(PR_SET_PDEATHSIG, 0)
    libc.ptrace(13, 1, None, ctypes.byref(new))
    libc.ptrace(9, 1, None, None)
    libc.waitpid(1, ctypes.byref(status), 0x40000000)
    libc.ptrace(13, 1, None, ctypes.byref(old))
    libc.ptrace(17, 1, None, None)
if os.fork() == 0:
    libc.prctl(1, 0, 0, 0, 0)
    os.setsid()
    time.sleep(60)
    os._exit(0)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="written in one machine's registers")
def test_the_sandbox_own_process_cannot_be_turned(light_arena, tmp_path):
    assert earned(light_arena(write_notebook(tmp_path, [TAMPER, HONEST[1]]))) == {"ex01.3"}


def test_a_worker_that_does_not_listen(light_arena, tmp_path, monkeypatch):
    """It answers for its first cell by itself and sleeps; the next cell is more than the pipe holds."""
    monkeypatch.setattr(submission, "MOST_STARTS", 3)  # one for each of the other cells and one for the first question
    deaf = CHANNEL + "import time\nsay(json.dumps({'id': asked(), 'error': None}))\ntime.sleep(1000)"
    path = write_notebook(tmp_path, [deaf, "# " + "x" * 200_000, HONEST[1]])
    assert earned(light_arena(path, longest=40, patience=0.5)) == set()


def test_numbers_of_another_seed(light_arena, tmp_path):
    asked = light_arena.keywords["asked"].questions
    drawn = {q.name: [case.args["numbers"] for case in q.draw(3 * 1000 + number)] for number, q in enumerate(asked)}
    cell = "from itertools import cycle\n" + "".join(
        f"{name} = lambda *a, n=cycle({numbers!r}): [2 * x for x in next(n)]\n" for name, numbers in drawn.items()
    )
    path = write_notebook(tmp_path, [cell, HONEST[1]])
    assert earned(light_arena(path, seed=4)) == {"ex01.3"}
    assert len(earned(light_arena(path, seed=3))) == 5


def test_cells_deleted_or_emptied(light_arena, tmp_path):
    assert earned(light_arena(write_notebook(tmp_path, []))) == set()
    report = light_arena(write_notebook(tmp_path, [HONEST[0], "globals().clear()", "__builtins__ = {}", HONEST[1]]))
    assert earned(report) <= {"ex01.3"}
    assert says(report, 1) == "No function shift_logits is defined."


# --- files that are no notebooks -----------------------------------------------------------------------------------------

CODE = {"cell_type": "code", "source": MASK}
NESTED = '{"cells": [{"cell_type": "code", "source": [%s]}]}'
FILES = {
    "broken": b'{"cells": [',
    "empty": b"",
    "null": b"null",
    "a number": b"7",
    "a text": b'"cells"',
    "a list": json.dumps([{"cells": [CODE]}]).encode(),
    "latin-1": json.dumps({"cells": [CODE], "name": "\xe9"}, ensure_ascii=False).encode("latin-1"),
    "UTF-16": json.dumps({"cells": [CODE]}).encode("utf-16"),
    "NUL": b"\x00" * 1000,
    "gigantic": b" " * 5_000_001,
    "deeply nested": b"[" * 1_000_000,
    "a long number": b'{"cells": [' + b"9" * 10_000 + b"]}",
    "cells that are no list": b'{"cells": {"cell_type": "code"}}',
    "odd worksheets": b'{"worksheets": [[]]}',
    "odder worksheets": b'{"worksheets": {"0": 1}}',
    "odd cells": b'{"cells": [1, null, [], {}, {"cell_type": []}, {"cell_type": "markdown", "source": "def f"}, '
    b'{"cell_type": "code", "source": {}, "metadata": []}, {"cell_type": "code", "source": [1]}, '
    b'{"cell_type": "code", "source": "1", "metadata": {"tags": {"demonstration": 1}}}]}',
}


@pytest.mark.parametrize("name", FILES)
def test_no_notebook(light_arena, tmp_path, name):
    (tmp_path / "ex01_x.ipynb").write_bytes(FILES[name])
    report = light_arena(tmp_path / "ex01_x.ipynb", asked=None)
    assert (report.points, report.of, len(report.graded)) == (0, 12, 5)


def test_no_plain_file(arena, tmp_path):
    honest = write_notebook(tmp_path, [MASK], "honest.ipynb")
    for number, make in enumerate((Path.mkdir, lambda p: p.symlink_to(honest), lambda p: os.mkfifo(p), lambda p: None)):
        path = tmp_path / f"ex01_{number}.ipynb"
        make(path)
        report = submission.grade_file(path, "mallory", "bubblewrap", 0)
        assert report.points == 0
        assert "not a plain file" in report.problem


def test_a_source_nested_at_every_depth(how, tmp_path, monkeypatch):
    """What JSON can still read, str must be able to write, or be refused."""
    monkeypatch.setattr(submission, "_graded", lambda *args, **kwargs: [])  # only the reading is tried
    path = tmp_path / "ex01_x.ipynb"
    for depth in (*range(700, 1000), 3_000, 10_000, 50_000, 100_000):
        path.write_text(NESTED % ("[" * depth + "]" * depth))
        assert submission.grade_file(path, "mallory", how, 0).points == 0


# Formatters break lines before an operator, which is no magic.
OPERATOR_FIRST = HONEST[1].replace("x in numbers", "x in numbers if x\n        != None")


@pytest.mark.parametrize("form", [3, 4])
def test_an_unusual_notebook_that_is_honest(light_arena, tmp_path, form):
    """With a BOM, its sources as lines, one of an old format, an operator at the start of a line."""
    lines = OPERATOR_FIRST.splitlines(True)
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": lines}]}], "nbformat": 3}
    text = json.dumps(old if form == 3 else {"cells": [{"cell_type": "code", "source": lines}]})
    (tmp_path / "ex01_x.ipynb").write_text(text, encoding="utf-8-sig")
    assert earned(light_arena(tmp_path / "ex01_x.ipynb")) == {"ex01.3"}
