"""The walls one by one, with small limits and a bare Python: system calls, keys, memory, and what can be seen."""

import contextlib
import os
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

from minigrpo.grading import reports, sandbox, walls
from minigrpo.grading.sandbox import Worker, WorkerDied

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the walls are Linux's")


def bare(code, *, group=None, program=None, before=()):
    command = [*before, *walls.launcher(group, program), sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def program():
    found = walls.syscall_filter()
    if found is None:
        (pytest.fail if os.environ.get("REQUIRE_SANDBOX") else pytest.skip)("libseccomp is not installed")
    return found


ATTEMPTS = """
import ctypes, os, platform, signal, threading
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (56, 250), "aarch64": (220, 219)}[platform.machine()]
tried = {
    "unshare": lambda: libc.unshare(0x10000000), "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None),
    "shmget": lambda: libc.shmget(0, 4096, 0o1600), "memfd": lambda: libc.memfd_create(b"x", 0),
    "user": lambda: libc.syscall(numbers[0], 0x10000000 | signal.SIGCHLD, None, None, None, None),
    "pids": lambda: libc.syscall(numbers[0], 0x20000000 | signal.SIGCHLD, None, None, None, None),
    "keys": lambda: libc.syscall(numbers[1], 0, -3, 0), "ptrace": lambda: libc.ptrace(0, 0, None, None),
    "queue": lambda: libc.msgget(0, 0o1600),
}
for name, call in tried.items():
    got = call()
    if got == 0 and name in ("user", "pids"): os._exit(0) if os.getpid() == 1 else None
    print(name, got, ctypes.get_errno(), sep=":")
thread = threading.Thread(target=print, args=("a thread",)); thread.start(); thread.join()
if os.fork() == 0: os._exit(0)
os.wait()
print("a child", os.system("true"))
"""


def test_what_makes_room_that_no_limit_counts_is_refused_and_what_programs_need_is_not(program):
    said = bare(ATTEMPTS, program=program).stdout.splitlines()
    assert len(said) == 11
    assert {line.split(":", 1)[1] for line in said[:9]} == {"-1:1"}  # EPERM
    assert said[9:] == ["a thread", "a child 0"]


TEACHER = """
import ctypes, os, platform, sys
add, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
libc = ctypes.CDLL(None)
if len(sys.argv) > 1:
    libc.syscall(keyctl, 1, None)
    assert libc.syscall(add, b"user", b"teacher", b"secret", 6, -3) > 0
    os.execv(sys.argv[1], sys.argv[1:])
print(libc.syscall(keyctl, 10, -3, b"user", b"teacher", 0) > 0)
"""


def test_files_in_memory_count_as_open_files_where_no_filter_refuses_them():
    made = (
        "import os\nmade = 0\ntry:\n  while made < 100: os.memfd_create('x'); made += 1\nexcept OSError: pass\nprint(made < 64)"
    )
    assert bare(made).stdout == "True\n"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user")
def test_shared_memory_is_removed_with_the_user_that_made_it():
    uid, table = 654_321, Path("/proc/sysvipc/shm")
    made = "import ctypes, os\nos.setuid(654321)\nprint(ctypes.CDLL(None).shmget(0, 12345, 0o1600))"
    kept = bare(made).stdout.strip()
    if kept == "-1":
        pytest.skip("this kernel shares no memory")
    assert [line for line in table.read_text().splitlines()[1:] if line.split()[1] == kept]
    sandbox._remove_all_of(uid)
    assert not [line for line in table.read_text().splitlines()[1:] if line.split()[1] == kept]


def test_the_teachers_keys_stay_with_the_teacher():
    """In a session of keys of its own, as whoever logs in has one."""
    teacher = [sys.executable, "-I", "-S", "-c", TEACHER]
    kept = subprocess.run([*teacher, sys.executable, "-I", "-S", "-c", TEACHER], capture_output=True, text=True, timeout=60)
    if kept.returncode:
        pytest.skip("this kernel keeps no keys")
    assert kept.stdout == "True\n"
    assert bare(TEACHER, before=teacher).stdout == "False\n"


def test_all_processes_together_have_one_limit_on_memory():
    group = walls.memory_group(150_000_000)
    if group is None:
        pytest.skip("no control group can be made here")
    try:
        hog = "import os, time\nfor k in range(4):\n  if os.fork() == 0: kept = b'x' * 80_000_000; time.sleep(1); os._exit(0)\n"
        assert not walls.was_full(group)
        bare(hog + "for k in range(4): os.wait()", group=group)
        assert walls.was_full(group)
    finally:
        walls.remove_group(group)
    assert not group.exists()


@pytest.mark.parametrize(("own", "too_much"), [(False, False), (True, True)])
def test_what_forks_share_counts_once(monkeypatch, own, too_much):
    """Three forks of a process that holds 80 MB: they take 80 MB together, until each writes into it."""
    hog = f"""
import os, time
kept = bytearray(os.urandom(1000) * 80_000)
for k in range(3):
    if os.fork() == 0:
        if {own}: kept[:] = bytes(len(kept))
        os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", hog], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            pids = {process.pid, *(int(process.stdout.readline()) for _ in range(3))}
            worker = object.__new__(Worker)
            worker.group = None
            monkeypatch.setattr(sandbox, "RESIDENT", 200_000_000)
            worker._is_mine = lambda status: status.pid in pids
            with pytest.raises(WorkerDied, match=r"0\.3 GB") if too_much else contextlib.nullcontext():
                worker._look()
        finally:
            os.killpg(process.pid, 9)


def test_memory_is_looked_at_by_the_clock_and_not_when_nothing_comes(monkeypatch):
    """A byte every 0.1 s keeps the pipe ready."""
    worker = object.__new__(Worker)
    worker.next_look, looks = 0.0, []

    def look():
        looks.append(1)
        if len(looks) == 2:
            raise WorkerDied("seen")

    worker._look = look
    monkeypatch.setattr(sandbox, "LOOK", 0.05)
    reads, writes = os.pipe()
    os.write(writes, b"x")
    with selectors.DefaultSelector() as selector:
        selector.register(reads, selectors.EVENT_READ)
        with pytest.raises(WorkerDied, match="seen"):
            [worker._wait(selector, float("inf"), "late") for _ in range(10**9)]
    os.close(reads)
    os.close(writes)


def test_answers_below_a_bound_folder_are_hidden_and_what_python_needs_is_not(tmp_path, monkeypatch):
    """An editable install in VENV/src, a clone that is the environment, submissions in it, a clone that only holds it."""
    for name in ("minigrpo", "solutions", "exercises"):
        (tmp_path / "venv" / "src" / "minigrpo" / name).mkdir(parents=True)
    (tmp_path / "venv" / "subs").mkdir()
    clone = tmp_path / "venv" / "src" / "minigrpo"
    monkeypatch.setattr(walls, "PACKAGE", clone / "minigrpo")
    hidden = walls._hidden((tmp_path / "venv",), (tmp_path / "venv" / "subs", tmp_path))
    assert {clone / "minigrpo", clone / "solutions", clone / "exercises", tmp_path / "venv" / "subs"} <= set(hidden)
    assert tmp_path not in hidden
    assert {clone / "minigrpo", clone / "solutions"} <= set(walls._hidden((clone,), ()))
    (clone / ".venv").mkdir()
    assert not [path for path in walls._hidden((clone / ".venv",), ()) if path.is_relative_to(tmp_path)]


def test_the_first_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(walls, "syscall_filter", lambda: None)
    monkeypatch.setattr(walls, "memory_group", lambda limit: None)
    how = "; ".join(["bubblewrap", *sandbox.missing("bubblewrap")])
    first = reports.write([], how, "table").splitlines()[0]
    assert first.startswith(
        "isolated by: bubblewrap; no filter of system calls (libseccomp is not installed); no control group"
    )
