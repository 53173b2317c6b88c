"""What keeps a worker in: bubblewrap's arguments, a filter of system calls, a limit on memory, and a session of its own."""

import base64
import contextlib
import ctypes
import errno
import functools
import os
import secrets
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DISK = 16_000_000  # bytes in each folder that the sandbox lends
PACKAGE = Path(__file__).resolve().parents[1]
COURSE = ("minigrpo", "solutions", "notebooks", "exercises", "tests", ".git")  # a clone's folders that hold or tell answers

# What starts a worker. If memory runs out the kernel is to end it and not the grader; files in memory count as open files only;
# keys of whoever started the grader stay with the grader.
LAUNCH = """
import base64, ctypes, os, platform, resource, sys
group, program, *command = sys.argv[1:]
libc = ctypes.CDLL(None)
try: open("/proc/self/oom_score_adj", "w").write("1000")
except OSError: pass
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
if group: open(group + "/cgroup.procs", "w").write("0")
if keyctl := {"x86_64": 250, "aarch64": 219}.get(platform.machine()):
    libc.syscall(keyctl, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING, a new one
if program:
    data = base64.b64decode(program)
    class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(Program(len(data) // 8, data)), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(command[0], command)
"""


def launcher(group: Path | None, program: bytes | None) -> list[str]:
    """The command that stands before a worker's, and puts it into a memory group and behind a filter where there are such."""
    text = base64.b64encode(program).decode() if program else ""
    return [sys.executable, "-I", "-S", "-c", LAUNCH, str(group or ""), text]


# --- bubblewrap -----------------------------------------------------------------------------------------------------------


def bubblewrap(hide: tuple[Path, ...] = (), *, root: bool) -> list[str]:
    """bwrap's arguments: the system's libraries and Python, read-only; nothing of this course or of ``hide``."""
    command = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if root:  # the worker makes itself another user, so these two are needed until then
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-all"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        command += ["--perms", "1777", "--size", str(DISK), "--tmpfs", folder]
    system = [Path(path) for path in ("/usr", "/lib", "/lib64", "/bin")]
    for path in system:
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    pythons = _pythons()
    for folder in sorted({above for python in pythons for above in python.parents if len(above.parts) > 1}):
        if not any(folder.is_relative_to(bound) for bound in (*system, *pythons)):
            command += ["--perms", "0755", "--dir", str(folder)]  # else root alone could go through
    for python in pythons:
        command += _open_to_all(python)
    hidden = _hidden((*system, *pythons), hide)
    for folder in hidden:
        command += ["--tmpfs", str(folder)]
    for folder in (*hidden, "/dev", "/"):  # where these are the worker's own they would hold half of the memory
        command += ["--remount-ro", str(folder)]
    return [*command, "--setenv", "HOME", "/tmp", "--setenv", "OMP_NUM_THREADS", "1", "--chdir", "/tmp"]


def _open_to_all(python: Path) -> list[str]:
    """The arguments that bind a folder of Python's; where it is closed to others, all that lies in it, in an open folder."""
    if not python.is_dir() or python.stat().st_mode & 0o005 == 0o005:
        return ["--ro-bind", str(python), str(python)]
    arguments = ["--perms", "0755", "--dir", str(python)]
    for path in sorted(python.iterdir()):
        arguments += ["--symlink", os.readlink(path), str(path)] if path.is_symlink() else ["--ro-bind", str(path), str(path)]
    return arguments


def _pythons() -> list[Path]:
    """The folders, and where a link leads out of them the file, that this Python consists of."""
    prefixes = sorted({Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)})
    link = Path(sys.executable)
    while link.is_symlink():  # a virtual environment's python leads out of it
        link = Path(os.path.join(link.parent, os.readlink(link)))
    return prefixes if any(link.is_relative_to(p) for p in (*prefixes, Path("/usr"))) else [*prefixes, link]


def _hidden(bound: tuple[Path, ...], more: tuple[Path, ...]) -> list[Path]:
    """The folders with answers that can be seen because they lie in a bound one."""
    sites = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    places = {Path(site, name) for site in sites for name in ("minigrpo", "trl")} | {PACKAGE}
    if (PACKAGE.parent / "solutions").is_dir():  # a clone, which may hold the environment or lie in it
        places |= {PACKAGE.parent / name for name in COURSE}
    places |= {folder.resolve() for folder in more}
    seen = sorted(p for p in places if p.is_dir() and any(p != b and p.is_relative_to(b) for b in bound))
    needed = [b for b in bound if b.is_dir()]  # never hide what a bound folder lies in
    seen = [p for p in seen if not any(b.is_relative_to(p) for b in needed)]
    return [p for p in seen if not any(p != other and p.is_relative_to(other) for other in seen)]


# --- system calls -----------------------------------------------------------------------------------------------------------

# Namespaces and mounts, memory that no limit counts, keys, other processes, and interfaces of the kernel that are often broken.
FORBIDDEN = """
unshare setns mount umount2 pivot_root chroot fsopen fsmount open_tree move_mount mount_setattr
shmget shmat shmctl msgget semget memfd_create memfd_secret keyctl add_key request_key
ptrace process_vm_readv process_vm_writev pidfd_getfd bpf perf_event_open userfaultfd
io_uring_setup io_uring_enter io_uring_register
"""
# CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
ALLOW, REFUSE, MASKED_EQUAL = 0x7FFF0000, 0x00050000, 7  # libseccomp's SCMP_ACT_ALLOW, _ACT_ERRNO and _CMP_MASKED_EQ


class _Compare(ctypes.Structure):
    """libseccomp's scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64))


@functools.cache
def syscall_filter() -> bytes | None:
    """libseccomp's program for the kernel that refuses FORBIDDEN; None where that library is not."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    context = ctypes.c_void_p(library.seccomp_init(ALLOW))

    def refuse(name: str, code: int, compare: _Compare | None = None) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else this machine has no such call
            one = None if compare is None else ctypes.byref(compare)
            if library.seccomp_rule_add_array(context, REFUSE | code, number, int(compare is not None), one):
                raise OSError(f"libseccomp takes no rule for {name}")

    for name in FORBIDDEN.split():
        refuse(name, errno.EPERM)
    for flag in NEW_NAMESPACES:
        refuse("clone", errno.EPERM, _Compare(0, MASKED_EQUAL, flag, flag))
    refuse("clone3", errno.ENOSYS)  # its flags lie in memory, where no filter can look; without it clone is tried
    with tempfile.TemporaryFile() as file:
        if library.seccomp_export_bpf(context, file.fileno()):
            return None
        library.seccomp_release(context)
        file.seek(0)
        return file.read()


# --- memory -----------------------------------------------------------------------------------------------------------------


def memory_group(limit: int) -> Path | None:
    """A new control group whose processes take at most ``limit`` bytes together; None where none can be made."""
    for parent, file, more in _group_parents():
        group = parent / f"minigrpo-{secrets.token_hex(8)}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(limit))
            if not os.access(group / "cgroup.procs", os.W_OK):
                raise PermissionError
        except OSError:
            group.rmdir()
            continue
        for name, value in more.items():
            with contextlib.suppress(OSError):
                (group / name).write_text(value.format(limit=limit))
        return group
    return None


def _group_parents() -> Iterator[tuple[Path, str, dict[str, str]]]:
    """(folder, file of the limit, other files) of where a control group may be made: of version 2 first, then of 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        for _, folder, kind, options, *_ in mounts:
            own = Path(folder, path.lstrip("/"))
            if kind == "cgroup2" and number == "0":
                for parent in dict.fromkeys((own.parent, own, Path(folder))):
                    if parent.is_relative_to(folder):
                        yield parent, "memory.max", {"memory.swap.max": "0", "memory.oom.group": "1"}
            elif kind == "cgroup" and "memory" in controllers.split(",") and "memory" in options.split(","):
                yield own, "memory.limit_in_bytes", {"memory.memsw.limit_in_bytes": "{limit}"}


def was_full(group: Path) -> bool:
    """Whether the kernel has ended a process of the group for its memory."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(fields.get("oom_kill", 0)) > 0
    return False


def remove_group(group: Path) -> None:
    """Once its processes have ended, which the kernel says a little later."""
    for _ in range(100):
        try:
            return group.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.02)
    return None
