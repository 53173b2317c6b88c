"""The walls around a worker: bubblewrap where it is, else another user; limits on time, memory, processes and files.

The parent talks to a worker by lines of JSON, never waits longer than a deadline, and reads no more than a cap.
"""

import contextlib
import json
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from minigrpo.config import BadInput

WORKER = Path(__file__).with_name("worker.py")
LONGEST_REPLY = 16_000_000  # bytes
MEMORY = 4_000_000_000  # bytes of address space a process; torch alone takes some two
DISK = 16_000_000  # bytes
PROCESSES = 32  # and threads


class WorkerDied(Exception):
    """The worker ended, hung past its deadline, or said something that is no reply."""


class GraderError(Exception):
    """The sandbox itself does not work here: never a learner's fault."""


def isolation(trust: bool) -> str:
    """How strangers' code is kept in: "bubblewrap", "another user", or "none" if ``trust`` allows it.

    Raises:
        BadInput: if there is no way, and no ``trust``.
    """
    if _bubblewrap_works():
        return "bubblewrap"
    if _is_root():
        return "another user"
    if trust:
        return "none"
    raise BadInput(
        "Nothing here can keep a stranger's code in: install bubblewrap (Debian: apt-get install bubblewrap), "
        "or give --trust for work that you trust as you trust your own."
    )


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _bubblewrap_works() -> bool:
    if shutil.which("bwrap") is None:
        return False
    trial = [*_walls(), sys.executable, "-I", "-c", "pass"]
    return subprocess.run(trial, capture_output=True, timeout=20).returncode == 0


def _walls() -> list[str]:
    """bwrap's arguments: the system's libraries and Python, read-only, and of the packages none that holds answers."""
    command = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if _is_root():  # the worker makes itself another user, so these two are needed until then
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-all"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        command += ["--size", str(DISK), "--tmpfs", folder]
    prefixes = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    for path in ("/usr", "/lib", "/lib64", "/bin"):
        if Path(path).is_symlink():
            command += ["--symlink", os.readlink(path), path]
        elif Path(path).exists():
            command += ["--ro-bind", path, path]
    for prefix in sorted(prefixes):
        command += ["--ro-bind", str(prefix), str(prefix)]
    link = Path(sys.executable)
    while link.is_symlink():  # a virtual environment's python leads out of it
        link = Path(os.path.join(link.parent, os.readlink(link)))
    if not any(link.is_relative_to(p) for p in (*prefixes, Path("/usr"))):
        command += ["--ro-bind", str(link), str(link)]
    for site in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        for package in ("minigrpo", "trl"):
            folder = Path(site) / package
            command += ["--tmpfs", str(folder)] if folder.is_dir() else []
    command += ["--ro-bind", str(WORKER), "/worker.py"]
    command += ["--setenv", "HOME", "/tmp", "--setenv", "OMP_NUM_THREADS", "1", "--chdir", "/tmp"]
    return command


class Worker:
    """A process that runs a learner's cells and calls the functions they define."""

    def __init__(self, how: str, *, seconds: float = 60.0):
        self.deadline, self.count, self.inside = time.monotonic() + seconds, 0, None
        # A user that is nobody else's, so that all it started can be ended.
        self.uid = random.SystemRandom().randrange(200_000, 1_000_000) if _is_root() and how != "none" else None
        command, options, info = [sys.executable, "-I", str(WORKER)], {}, None
        if how == "bubblewrap":
            info, theirs = os.pipe()
            options = {"pass_fds": (theirs,)}
            command = [*_walls(), "--info-fd", str(theirs), sys.executable, "-I", "/worker.py"]
        elif how == "another user":
            command = [sys.executable, "-I", "-c", WORKER.read_text(encoding="utf-8")]
        environment = {"OMP_NUM_THREADS": "1", "PATH": os.defpath, "HOME": "/nonexistent"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **pipes, **options)
        if info is not None:
            os.close(theirs)
            self.inside = _pid_inside(info)
        self.buffer = b""
        for pipe in (self.process.stdin, self.process.stdout):
            os.set_blocking(pipe.fileno(), False)
        limits = {"memory": MEMORY, "seconds": int(seconds) + 5, "uid": self.uid}
        try:
            self._send({**limits, "processes": PROCESSES if self.uid else 512}, 30)
            ready = self._receive(30)
        except WorkerDied as error:
            self.close()
            raise GraderError(f"The worker does not start ({how}): {error}") from error
        if ready != {"ready": True}:
            self.close()
            raise GraderError(f"The worker does not start ({how}).")

    def ask(self, request: dict, seconds: float) -> dict:
        """One request, one reply. Raises WorkerDied, after which only ``close`` may be called."""
        self.count += 1
        self._send({**request, "id": self.count}, seconds)
        reply = self._receive(seconds)
        if not isinstance(reply, dict) or reply.get("id") != self.count:
            raise WorkerDied("it answered something that was not asked")
        return reply

    def _send(self, message: dict, seconds: float) -> None:
        """Never waits past the deadline, though the worker need not read."""
        left, until = json.dumps(message).encode() + b"\n", min(time.monotonic() + seconds, self.deadline)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdin, selectors.EVENT_WRITE)
            while left:
                if time.monotonic() > until or not selector.select(max(0.0, until - time.monotonic())):
                    raise WorkerDied(f"it did not listen for {seconds:.0f} s")
                try:
                    left = left[os.write(self.process.stdin.fileno(), left[: 1 << 16]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise WorkerDied("it ended") from None

    def _receive(self, seconds: float):
        until = min(time.monotonic() + seconds, self.deadline)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                left = until - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise WorkerDied(f"it did not answer within {seconds:.0f} s")
                chunk = self.process.stdout.read(1 << 16)
                if chunk == b"":
                    raise WorkerDied("it ended")
                self.buffer += chunk or b""
                if len(self.buffer) > LONGEST_REPLY:
                    raise WorkerDied("its answer is too long")
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise WorkerDied("it answered something that is no reply") from None

    def close(self) -> None:
        """End the worker and whatever it started."""
        if self.inside is not None:  # the first process of its own process space: with it all others end
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.inside, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.uid is not None:
            _end_all_of(self.uid)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def _pid_inside(info: int) -> int | None:
    """What bwrap says on --info-fd: the process id, seen from here, of the first process inside."""
    with os.fdopen(info, "r") as file:
        try:
            return int(json.loads(file.read())["child-pid"])
        except (ValueError, KeyError):
            return None  # bwrap failed: the worker will not say that it is ready


def _end_all_of(uid: int) -> None:
    """Kill every process of a user, until none is left: one that forks is faster than one look."""
    for _ in range(100):
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if path.name.isdigit() and path.stat().st_uid == uid:
                    found.append(int(path.name))
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.02)
