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
MEMORY = 6_000_000_000  # bytes of address space; torch alone takes some two
NOBODY = 65534


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
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return "another user"
    if trust:
        return "none"
    raise BadInput(
        "Nothing here can keep a stranger's code in: install bubblewrap (Debian: apt-get install bubblewrap), "
        "or give --trust for work that you trust as you trust your own."
    )


def _bubblewrap_works() -> bool:
    if shutil.which("bwrap") is None:
        return False
    trial = [*_walls(), sys.executable, "-I", "-c", "pass"]
    return subprocess.run(trial, capture_output=True, timeout=20).returncode == 0


def _walls() -> list[str]:
    """bwrap's arguments: the system's libraries and Python, read-only, and of the packages none that holds answers."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
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
        self.deadline, self.count, self.uid = time.monotonic() + seconds, 0, None
        command, options = [sys.executable, "-I", str(WORKER)], {}
        if how == "bubblewrap":
            command = [*_walls(), sys.executable, "-I", "/worker.py"]
        elif how == "another user":
            self.uid = random.SystemRandom().randrange(200_000, 1_000_000)  # nobody else's, so that all of it can be ended
            options = {"user": self.uid, "group": NOBODY, "extra_groups": []}
            command = [sys.executable, "-I", "-c", WORKER.read_text(encoding="utf-8")]
        environment = {"OMP_NUM_THREADS": "1", "PATH": os.defpath, "HOME": "/nonexistent"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **pipes, **options)
        self.buffer = b""
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            self._send({"memory": MEMORY, "seconds": int(seconds) + 5})
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
        self._send({**request, "id": self.count})
        reply = self._receive(seconds)
        if not isinstance(reply, dict) or reply.get("id") != self.count:
            raise WorkerDied("it answered something that was not asked")
        return reply

    def _send(self, message: dict) -> None:
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
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
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.uid is not None:
            _end_all_of(self.uid)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


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
