"""A worker behind walls: bubblewrap where it is, else another user; limits on time, memory, processes and files.

The parent talks to a worker by lines of JSON, never waits longer than a deadline, and reads no more than a cap.
"""

import contextlib
import ctypes
import json
import math
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from minigrpo.config import BadInput
from minigrpo.grading import walls

WORKER, INSIDE = (Path(__file__).with_name(name) for name in ("worker.py", "inside.py"))
START_SECONDS = 300.0  # for Python and torch to load, which takes long on a busy machine
LONGEST_REPLY = 16_000_000  # bytes
MEMORY = 4_000_000_000  # bytes of address space per process; torch alone takes some two
RESIDENT = 4_000_000_000  # bytes that all processes of a worker take together
LOOK = 0.2  # seconds between two looks at what they take
PROCESSES = 32  # and threads
WRITABLE = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")  # for everybody
# The first cell where nothing but the user keeps a worker in: no program may lend it other rights, and its files are so small
# that they cannot fill a disk quickly.
TIGHTEN = """
assert __import__("ctypes").CDLL(None).prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
__import__("resource").setrlimit(__import__("resource").RLIMIT_FSIZE, (4096, 4096))
__import__("resource").setrlimit(__import__("resource").RLIMIT_MSGQUEUE, (0, 0))
"""


class WorkerDied(Exception):
    """The worker ended, hung past its deadline, or said something that is no reply."""


class TimedOut(WorkerDied):
    """The worker was at work past its deadline."""


class GraderError(Exception):
    """The sandbox itself does not work here: never a learner's fault."""


def isolation(trust: bool) -> str:
    """How strangers' code is kept in: "bubblewrap", "another user", or "none" if ``trust`` allows it.

    Raises:
        BadInput: if there is no way, and no ``trust``.
    """
    if _bubblewrap_works():
        return "bubblewrap"
    if _another_user_works():
        return "another user"
    if trust:
        return "none"
    raise BadInput(
        "Nothing here can keep a stranger's code in: install bubblewrap, 0.7 or later (Debian: apt-get install bubblewrap; who "
        "is not root needs user namespaces for it), or be root with a Python that every user may read, or give --trust for "
        "work that you trust as you trust your own."
    )


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _another_user_works() -> bool:
    """Whether this is root on Linux, and another user may read this Python, and not just go on with what root has loaded."""
    if not _is_root() or not Path("/proc/self/status").exists():
        return False
    become = "import os, sys; os.setgroups([]); os.setgid(200_000); os.setuid(200_000)"
    trial = f"{become}; import statistics, importlib.util as u; sys.exit(u.find_spec('torch') is None)"
    return (
        subprocess.run([sys.executable, "-I", "-c", trial], cwd="/", capture_output=True, timeout=START_SECONDS).returncode == 0
    )


def _bubblewrap_works() -> bool:
    if shutil.which("bwrap") is None:
        return False
    trial = [*walls.bubblewrap(root=_is_root()), sys.executable, "-I", "-c", "pass"]
    return subprocess.run(trial, capture_output=True, timeout=START_SECONDS).returncode == 0


def missing(how: str) -> list[str]:
    """Which walls this machine has not, in words."""
    lacks = ["no filter of system calls (libseccomp is not installed)"] if walls.syscall_filter() is None else []
    group = walls.memory_group(RESIDENT)
    if group is None:
        lacks.append(f"no control group, so memory is looked at every {LOOK} s and not limited")
    else:
        walls.remove_group(group)
    return [] if how == "none" else lacks


def _source() -> str:
    """What the worker runs, as one text: a process that may read no file of ours can still run it."""
    return f"""
import gc, sys, types
gc.disable()  # a good part of what it costs to import torch goes into looking for garbage that is not there
for name in ("minigrpo", "minigrpo.grading", "minigrpo.grading.worker"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__file__ = "worker.py"
exec(compile({WORKER.read_text(encoding="utf-8")!r}, "worker.py", "exec"), sys.modules["minigrpo.grading.worker"].__dict__)
gc.freeze()
gc.enable()
exec(compile({INSIDE.read_text(encoding="utf-8")!r}, "inside.py", "exec"), {{"__name__": "__main__"}})
"""


class Worker:
    """A process that runs a learner's cells and calls the functions they define."""

    def __init__(self, how: str, *, seconds: float = 60.0, hide: tuple[Path, ...] = ()):
        self.deadline, self.count, self.inside, self.namespace = math.inf, 0, None, None
        self.next_look, self.buffer = 0.0, b""
        # A user that is nobody else's, so that all it started can be ended.
        self.uid = random.SystemRandom().randrange(200_000, 1_000_000) if _is_root() and how != "none" else None
        self.group = None if how == "none" else walls.memory_group(RESIDENT)
        self._launch(how, [sys.executable, "-I", "-c", _source()], hide)
        for pipe in (self.process.stdin, self.process.stdout):
            os.set_blocking(pipe.fileno(), False)
        limits = {"memory": MEMORY, "seconds": int(seconds) + 5, "uid": self.uid}
        self._start(how, {**limits, "processes": PROCESSES if self.uid else 512})
        self.deadline = time.monotonic() + seconds  # from here on: that torch loads slowly is not the learner's time

    def _launch(self, how: str, command: list[str], hide: tuple[Path, ...]) -> None:
        program, passed = walls.syscall_filter(), []
        if how == "bubblewrap":
            (info, theirs), bwrap = os.pipe(), walls.bubblewrap(hide, root=_is_root())
            passed = [theirs]
            bwrap += ["--info-fd", str(theirs)]
            if program:
                (reads, writes) = os.pipe()
                os.write(writes, program)  # less than a pipe holds
                os.close(writes)
                passed.append(reads)
                bwrap += ["--seccomp", str(reads)]  # behind the walls; bubblewrap itself needs what it refuses
            command = [*walls.launcher(self.group, None), *bwrap, *command]
        elif how == "another user":
            command = [*walls.launcher(self.group, program), *command]
        environment = {"OMP_NUM_THREADS": "1", "PATH": os.defpath, "HOME": "/nonexistent"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, pass_fds=passed, **pipes)
        for number in passed:
            os.close(number)
        if how == "bubblewrap":
            self.inside = _pid_inside(info)

    def _start(self, how: str, limits: dict) -> None:
        try:
            self._send(limits, START_SECONDS)
            ready = self._receive(START_SECONDS) == {"ready": True}
            if ready and how == "another user":
                ready = self.ask({"cell": TIGHTEN}, START_SECONDS).get("error") is None
        except WorkerDied as error:
            self.close()
            raise GraderError(f"The worker does not start ({how}): {error}.") from error
        if not ready:
            self.close()
            raise GraderError(f"The worker does not start ({how}).")
        if self.inside is not None and self.uid is None:  # all that is in there is of this very user
            with contextlib.suppress(OSError):
                self.namespace = os.readlink(f"/proc/{self.inside}/ns/pid")

    def ask(self, request: dict, seconds: float, note: Callable[[object], None] | None = None) -> dict:
        """One request, one reply. ``note`` gets what the worker says it is at meanwhile.

        Raises WorkerDied, after which only ``close`` may be called.
        """
        self.count += 1
        until = time.monotonic() + seconds
        self._send({**request, "id": self.count}, seconds)
        while True:
            reply = self._receive(seconds, until)
            if not isinstance(reply, dict) or reply.get("id") != self.count:
                raise WorkerDied("it answered something that was not asked")
            if "at" not in reply:
                return reply
            if note is not None:
                note(reply["at"])

    def _send(self, message: dict, seconds: float) -> None:
        """Never waits past the deadline, though the worker need not read."""
        left, until = json.dumps(message).encode() + b"\n", min(time.monotonic() + seconds, self.deadline)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdin, selectors.EVENT_WRITE)
            while left:
                self._wait(selector, until, f"it did not listen for {seconds:.0f} s and was stopped")
                try:
                    left = left[os.write(self.process.stdin.fileno(), left[: 1 << 16]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise WorkerDied(self._end()) from None

    def _receive(self, seconds: float, until: float = math.inf):
        until = min(time.monotonic() + seconds, self.deadline, until)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                self._wait(selector, until, f"it was still running after {seconds:.0f} s and was stopped")
                chunk = self.process.stdout.read(1 << 16)
                if chunk == b"":
                    raise WorkerDied(self._end())
                self.buffer += chunk or b""
                if len(self.buffer) > LONGEST_REPLY:
                    raise WorkerDied("its answer is too long")
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise WorkerDied("it answered something that is no reply") from None

    def _wait(self, selector: selectors.BaseSelector, until: float, late: str) -> None:
        """Until the pipe is ready; by the clock look at the memory of all processes, of which the limit binds each alone."""
        while (now := time.monotonic()) < until:
            if now >= self.next_look:  # however often the pipe is ready
                self._look()
                self.next_look = time.monotonic() + LOOK
            if selector.select(min(until - now, LOOK)):
                return
        raise TimedOut(late if now < self.deadline else "its time was used up while it ran")

    def _look(self) -> None:
        mine = [status for status in _processes() if self._is_mine(status)]
        taken = sum(status.memory for status in mine)
        if taken > RESIDENT:  # what forks share was counted for each, and to look closer takes longer
            taken = sum(_share(status) for status in mine)
        if taken > RESIDENT:
            raise WorkerDied(f"its processes took {taken / 1e9:.1f} GB of memory")
        if self.group and walls.was_full(self.group):
            raise WorkerDied(self._end())

    def _end(self) -> str:
        full = self.group is not None and walls.was_full(self.group)
        return f"its processes took more than {RESIDENT / 1e9:.1f} GB of memory" if full else "it ended"

    def _is_mine(self, status) -> bool:
        if self.uid is not None:
            return self.uid in status.users
        with contextlib.suppress(OSError):
            return self.namespace is not None and os.readlink(f"/proc/{status.pid}/ns/pid") == self.namespace
        return False

    def close(self) -> None:
        """End the worker and whatever it started."""
        if self.inside is not None:  # the first process of its own process space: with it all others end
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.inside, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.uid is not None:
            _end_all_of(self.uid)
            if self.inside is None:  # else all that it wrote was in the sandbox
                _remove_all_of(self.uid)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if self.group is not None:
            walls.remove_group(self.group)


def _pid_inside(info: int) -> int | None:
    """What bwrap says on --info-fd: the process id, seen from here, of the first process inside."""
    with os.fdopen(info, "r") as file:
        try:
            return int(json.loads(file.read())["child-pid"])
        except (ValueError, KeyError):
            return None  # bwrap failed: the worker will not say that it is ready


class Status(NamedTuple):
    """Of a process that is no zombie."""

    pid: int
    users: set[int]  # real, effective, saved
    memory: int  # bytes that are no file's


def _processes() -> Iterator[Status]:
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            text = path.read_text(encoding="utf-8", errors="replace")
            field = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if field["State"].split()[0] not in "ZX":
                memory = sum(int(field.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem"))
                yield Status(int(path.parent.name), set(map(int, field["Uid"].split())), 1024 * memory)


def _share(status: Status) -> int:
    """Bytes of a process's memory that back no file; what it shares with its forks is divided among them."""
    try:
        lines = Path(f"/proc/{status.pid}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    except OSError:  # an old kernel, or it has ended
        return status.memory


def _end_all_of(uid: int) -> None:
    """Kill every process of a user at once: one that forks is faster than looks and signals one after another."""
    own = uid + 1_000_000  # who kills is for the kernel another user than who is killed, and cannot be stopped by them
    kill = f"import os; os.setresuid({own}, {uid}, {own}); os.kill(-1, 9)"
    for _ in range(100):
        subprocess.run([sys.executable, "-I", "-S", "-c", kill], cwd="/", stderr=subprocess.DEVNULL)
        if not any(uid in status.users for status in _processes()):
            return
        time.sleep(0.02)


def _remove_all_of(uid: int) -> None:
    """What outlives the processes that made it: files, shared memory, semaphores and queues."""
    folders = [folder for folder in WRITABLE if Path(folder).is_dir()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {"PATH": os.defpath}}
    others = ["-type", "d", "!", "-perm", "-0002", "!", "-uid", str(uid)]  # nothing of the user's can be below
    its = ["-uid", str(uid), "-prune", "-exec", "rm", "-rf", "{}", "+"]
    subprocess.run(["find", *folders, "-xdev", *others, "-prune", "-o", *its], **quiet)
    for kind, creator in (("shm", 9), ("msg", 9), ("sem", 6)):
        table = Path("/proc/sysvipc", kind)
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if int(fields[creator]) == uid:
                getattr(ctypes.CDLL(None), f"{kind}ctl")(int(fields[1]), 0, 0)  # IPC_RMID
