"""The grader's other walls: another user where there is no bubblewrap, bubblewrap where there is no root; and its templates.

What is graded runs as a person would run it: from the command line, with a Python that every user may read.
"""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import yaml

import minigrpo
from minigrpo.grading import sandbox
from minigrpo.grading.check import questions
from tests.grading.test_hostile import DEAF, HONEST, snapshot, write_notebook

ROOT = Path(__file__).parents[2]
TEMPLATES = Path(minigrpo.__file__).parent / "grading" / "templates"
SITE = f"python/lib/python{sysconfig.get_python_version()}/site-packages"
IGNORE = shutil.ignore_patterns("__pycache__")
NOBODY = 65534
BOTH = {"ex01.1", "ex01.3"}  # the honest answers
MARK = f"wall{secrets.randbits(32):x}"  # stands in the name of all that the attempts start or write
SIZE = 3_000_000 + secrets.randbits(20)  # of the shared memory that they leave

# The command with less patience than the real one, and without the slow import that keeps transformers quiet.
SETTINGS = """
import pathlib, sys
from minigrpo.run import cli
cli._quiet = lambda: None
from minigrpo.grading import sandbox, submission
submission.CELL_SECONDS = submission.CALL_SECONDS = 4.0
submission.SECONDS = 30.0
"""
COMMAND = "sys.exit(cli.main(sys.argv[1:]))"
# With a worker that does without torch, and so starts at once and takes little memory.
LIGHT = """
sandbox.WORKER, sandbox.RESIDENT = pathlib.Path("PLACE/light/worker.py"), 400_000_000
submission.CALL_SECONDS = 2.0
"""
# Behind one wall less, a light worker is asked about its rights.
UNFILTERED = r"""
import pathlib
from minigrpo.grading import sandbox
sandbox.walls.syscall_filter = lambda: None
sandbox.WORKER = pathlib.Path("PLACE/light/worker.py")
worker = sandbox.Worker("another user")
print(worker.ask({"cell": "assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()"}, 10.0)["error"])
worker.close()
"""
# The walls alone, and a worker with torch behind them.
WALLS = """
import sys
from minigrpo.config import BadInput
from minigrpo.grading import sandbox
try: how = sandbox.isolation(sys.argv[1:] == ["--trust"])
except BadInput as error: sys.exit(str(error))
worker = sandbox.Worker(how)
print(how, worker.ask({"cell": "import torch; assert torch.ones(2).sum() == 2"}, 60.0)["error"])
worker.close()
"""


@pytest.fixture(scope="module")
def place():
    """A folder that everybody may read, for a Python that may lie in a home, and in it a package that only root may read."""
    tools = all(map(shutil.which, ("bwrap", "unshare", "mount", "setpriv")))
    if not tools or os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        # Where REQUIRE_SANDBOX is set, as in .ci/run, a skipped sandbox test is a failure.
        (pytest.fail if os.environ.get("REQUIRE_SANDBOX") else pytest.skip)("only root on Linux, with bubblewrap, can try this")
    folder = Path(tempfile.mkdtemp(prefix="minigrpo-walls-"))
    folder.chmod(0o755)
    for name in ("python/base", "python/bin", SITE):
        (folder / name).mkdir(parents=True)
    version = f"python{sysconfig.get_python_version()}"
    (folder / "python" / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    (folder / "python" / "bin" / "python").symlink_to(f"{sys.base_prefix}/bin/{version}")
    shutil.copytree(Path(minigrpo.__file__).parent, folder / "package" / "minigrpo", ignore=IGNORE)
    (folder / "package").chmod(0o700)
    shutil.copytree(Path(__file__).with_name("light"), folder / "light", ignore=IGNORE)
    yield folder
    shutil.rmtree(folder)
    for found in left_behind():  # where a test failed
        with contextlib.suppress(AttributeError, OSError):
            if found.parent == Path("/proc"):
                os.kill(int(found.name), signal.SIGKILL)
            else:
                subprocess.run(["rm", "-rf", found])  # shutil would not come down from as deep as they are


def command(place, *arguments, path="/nonexistent", user=None, program=SETTINGS + COMMAND):
    """``program``, minigrpo's command line, in ``place``, by default as root and where no bubblewrap is found."""
    old, new = sys.base_prefix, f"{place}/python/base"
    mounts = [("--bind", sysconfig.get_path("purelib"), f"{place}/{SITE}")]
    if closed := [folder for folder in reversed(Path(old).parents) if not folder.stat().st_mode & 0o001]:
        mounts += [("--bind", old, new), ("-t", "tmpfs", "-o", "mode=755", "none", closed[0]), ("--bind", new, old)]
    steps = [f"mkdir -p {mount[-1]} && mount {' '.join(map(str, mount))}" for mount in mounts]
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    settings = [f"PATH={path}", f"PYTHONPATH={place}/package", "OMP_NUM_THREADS=1", "MINIGRPO_SECRET=SECRET"]
    python = [f"{place}/python/bin/python", "-B", "-c", program, *map(str, arguments)]
    script = " && ".join([*steps, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh", *drop, "env", "-i", *settings, *python]


def run(*arguments, **options):
    return subprocess.run(command(*arguments, **options), cwd="/", capture_output=True, text=True, timeout=120)


# --- the corpus -----------------------------------------------------------------------------------------------------------

START = f"""
import ctypes, os, signal, socket, sys, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
libc.prctl(15, b"{MARK}")  # the name that forks inherit
found = []
def attempt(name, action):
    try: found.append(name) if action() else None
    except BaseException: pass
def token_entropies(*a): raise RuntimeError(f"found {{found}}")
"""
ATTEMPTS = {
    "reach": """
def says(pid, name):
    try: return open(f"/proc/{pid}/{name}").read()
    except OSError: return ""
processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
graders = [pid for pid in processes if "FOLDER/submissions" in says(pid, "cmdline")]
attempt("environment", lambda: "SECRET" in str(os.environ) or any("SECRET" in says(pid, "environ") for pid in processes))
for grader in graders:
    attempt("memory", lambda: open(f"/proc/{grader}/mem", "rb"))
    attempt("files", lambda: os.listdir(f"/proc/{grader}/fd"))
    attempt("ptrace", lambda: libc.ptrace(16, grader, None, None) == 0)
    for number in (0, signal.SIGSTOP, signal.SIGKILL):
        attempt("signal", lambda: os.kill(grader, number) is None)
    attempt("a file as large as bubblewrap allows", lambda: open("/tmp/MARK-large", "wb", 0).write(b"x" * 99_000) > 9_000)
attempt("answers", lambda: open("PACKAGE/minigrpo/kl.py"))
for name in ("FOLDER/submissions/zoe/ex01_x.ipynb", "FOLDER/out.json", "FOLDER/MARK", "PACKAGE/minigrpo/kl.py",
             "HIDDEN/MARK", "/usr/MARK", "/dev/MARK", "/MARK"):
    attempt(name, lambda: open(name, "a").write("hostile"))
    attempt(name, lambda: os.remove(name) is None)
attempt("memory of others first", lambda: int(says("self", "oom_score_adj")) < 1000)
attempt("rights", lambda: "NoNewPrivs:\t1" not in says("self", "status"))
attempt("another user", lambda: os.setuid(0) is None)
try: os.kill(-1, signal.SIGKILL)
except OSError: pass
def tempered_ratio(*a): raise RuntimeError(f"{len(graders)} seen")
""",
    "leave": """
block = b"x" * 2**20
for k in range(1024): os.write(1, block); os.write(2, block)
def detached(action):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE): signal.signal(s, signal.SIG_IGN)
            os.closerange(3, 64)
            action()
        os._exit(0)
def waits_for_a_password():
    hears, never = os.pipe()
    os.dup2(hears, 0)
    os.set_inheritable(never, True)
    os.execv("/bin/su", ["su", "-c", "MARK"])  # would run as root
detached(lambda: time.sleep(300))
detached(waits_for_a_password)
for folder in ("/tmp", "/var/tmp", "/dev/shm"):
    try:
        os.mkdir(f"{folder}/MARK", 0o700)
        os.symlink("FOLDER/submissions", f"{folder}/MARK/link")
        for k in range(500): open(f"{folder}/MARK/{k}", "wb").write(b"x" * 999_000)
    except OSError: pass
try:
    os.chdir("/tmp/MARK")
    for k in range(2000): os.mkdir("d"); os.chdir("d")
except OSError: pass
os.chdir("/")
held = libc.shmget(0, SIZE, 0o1600)
ctypes.memset(libc.shmat(held, None, 0), 1, SIZE)
""",
    "fork": """
for k in range(20):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                if os.fork(): os._exit(0)
                os.kill(-1, signal.SIGSTOP if k % 2 else signal.SIGCONT)
            except OSError: pass
""",
    "take": DEAF
    + """
def tempered_ratio(*a):
    kept = []
    for k in range(8):
        if os.fork() == 0: kept.append(b"x" * 60_000_000); time.sleep(60); os._exit(0)
    time.sleep(60)
def token_entropies(*a):
    attempt("more memory than there is", lambda: bytearray(64 * 2**30))
    files = []
    try:
        for k in range(5000): files.append(os.memfd_create("x")); os.write(files[-1], b"x" * 4000)
    except OSError: pass
    attempt("files in memory", lambda: len(files) > 100)
    raise RuntimeError(f"found {found}")
""",
}


def left_behind():
    """What bears the mark: processes that are no zombies, files, shared memory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            named = MARK in (path / "comm").read_text() or MARK in (path / "cmdline").read_text()
            if named and (path / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(path)
    found += [p for f in ("/tmp", "/var/tmp", "/dev/shm", "/usr", "/") for p in Path(f).glob(f"{MARK}*")]
    return found + [line for line in Path("/proc/sysvipc/shm").read_text().splitlines() if str(SIZE) in line.split()]


def outcome_of_a_batch(place, names, **options):
    """{person: {question: (points, what is said)}} of attempts between two honest people; nothing else may have changed."""
    folder = Path(tempfile.mkdtemp(dir=place))
    folder.chmod(0o755)
    for name in ("ann", *names, "zoe"):
        (folder / "submissions" / name).mkdir(parents=True)
        cell = START + ATTEMPTS.get(name, "")
        words = {"FOLDER": folder, "PACKAGE": place / "package", "HIDDEN": place / SITE / "trl", "MARK": MARK, "SIZE": SIZE}
        for word, value in words.items():
            cell = cell.replace(word, str(value))
        write_notebook(folder / "submissions" / name, [HONEST[0], cell, HONEST[1]] if name in ATTEMPTS else HONEST)
    (folder / "out.json").write_text("{}")
    before = snapshot(place)
    program = SETTINGS + LIGHT.replace("PLACE", str(place)) + COMMAND
    asked = ["--questions", place / "light" / "ex01.py"]
    done = run(place, "grade", folder / "submissions", "--format", "json", *asked, program=program, **options)
    assert (done.returncode, left_behind()) == (0, []), done.stderr
    assert snapshot(place) == before
    said = json.loads(done.stdout)
    people = {row["person"]: {q["id"]: (q["points"], q["says"]) for q in row["questions"]} for row in said["submissions"]}
    assert set(people) == {"ann", "zoe", *names}
    return said["isolation"], people


def check_batch(people, sees_the_grader):
    """Everybody has the points of the two honest answers, the attempts found nothing, and were ended for what they took."""
    earned = {person: {name for name, (points, _) in rows.items() if points} for person, rows in people.items()}
    assert earned.pop("fork", set()) <= BOTH  # how far it comes before its forks take too much memory is up to the scheduler
    assert earned == dict.fromkeys(people.keys() - {"fork"}, BOTH)
    for person in ("reach", "take"):
        assert "found []" in people[person]["ex01.4"][1], person
    assert f"{int(sees_the_grader)} seen" in people["reach"]["ex01.5"][1]
    assert "still running after 2 s" in people["take"]["ex01.2"][1]
    assert "GB of memory" in people["take"]["ex01.5"][1]


# --- the three ways ---------------------------------------------------------------------------------------------------------


def test_another_user_keeps_attempts_in_and_ends_with_a_row_a_person(place):
    isolation, people = outcome_of_a_batch(place, list(ATTEMPTS))
    assert isolation == "another user"
    check_batch(people, sees_the_grader=True)


@pytest.fixture
def readable(place):
    """A package that everybody may read, as who is not root needs it; bubblewrap hides it from the worker."""
    (place / "package").chmod(0o755)
    yield place
    (place / "package").chmod(0o700)


def test_bubblewrap_keeps_attempts_in_without_root(readable):
    """Or, where the system gives user namespaces to root only, nothing is graded."""
    trial = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    if subprocess.run(trial, capture_output=True).returncode:
        refused = run(readable, path=os.environ["PATH"], user=NOBODY, program=WALLS)
        assert (refused.returncode, "user namespaces" in refused.stderr) == (1, True)
        return
    loaded = run(readable, path=os.environ["PATH"], user=NOBODY, program=WALLS)
    assert (loaded.returncode, loaded.stdout) == (0, "bubblewrap None\n"), loaded.stderr
    isolation, people = outcome_of_a_batch(readable, ["reach", "leave", "take"], path=os.environ["PATH"], user=NOBODY)
    assert isolation.split(";")[0] == "bubblewrap"
    check_batch(people, sees_the_grader=False)


def test_with_neither_nothing_runs_unless_it_is_trusted(readable):
    refused = run(readable, user=NOBODY, program=WALLS)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--trust" in refused.stderr
    trusted = run(readable, "--trust", user=NOBODY, program=WALLS)
    assert (trusted.returncode, trusted.stdout) == (0, "none None\n"), trusted.stderr


def test_a_python_that_another_user_cannot_read_is_no_wall(place):
    """An honest cell that imports what is not yet loaded would fail."""
    (place / "python").chmod(0o700)
    try:
        refused = run(place, program=WALLS)
    finally:
        (place / "python").chmod(0o755)
    assert refused.returncode == 1
    assert "a Python that every user may read" in refused.stderr


def test_no_program_lends_a_worker_other_rights(place):
    """Nor where libseccomp is missing, whose filter of system calls says so as well."""
    done = run(place, program=UNFILTERED.replace("PLACE", str(place)))
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_the_time_in_which_torch_loads_is_not_the_submissions(tmp_path, monkeypatch):
    slow = tmp_path / "worker.py"
    light = Path(__file__).with_name("light") / "worker.py"
    slow.write_text("import time\ntime.sleep(1.5)\n" + light.read_text(encoding="utf-8"))
    monkeypatch.setattr(sandbox, "WORKER", slow)
    worker = sandbox.Worker("none", seconds=1.0)
    try:
        assert worker.ask({"cell": "1"}, 1.0)["error"] is None
    finally:
        worker.close()


# --- the templates ----------------------------------------------------------------------------------------------------------


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def autograder(place, tmp_path):
    """Gradescope's folder, laid out as its documentation says; apt-get and Python only say that they were called."""
    for name in ("source/course/minigrpo", "source/grader/lib/python3.11/site-packages/minigrpo", "submission", "results"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("source/setup.sh", "source/run_autograder", "run_autograder"):
        shutil.copy(TEMPLATES / "gradescope" / Path(name).name, tmp_path / name)
    log = f'echo "$(basename "$0") $*" >> {tmp_path}/log'
    for name in ("stubs/apt-get", "stubs/python3.11", "source/grader/bin/python"):
        script(tmp_path / name, log)
    script(tmp_path / "stubs" / "python3", f'[ "$1" = -c ] && exit "$OLD"; {log}')  # it is asked whether it is new enough
    script(tmp_path / "source" / "grader" / "bin" / "minigrpo", f'exec {shlex.join(command(place))} "$@"')
    return tmp_path


@pytest.mark.parametrize("python", ["python3", "python3.11"])
def test_gradescope_is_set_up_with_a_python_that_is_new_enough(autograder, python):
    """Gradescope's default image has 3.10."""
    environment = {"PATH": f"{autograder}/stubs:{os.environ['PATH']}", "OLD": "01"[python == "python3.11"]}
    subprocess.run(["bash", autograder / "source" / "setup.sh"], env=environment, cwd="/", check=True)
    assert (autograder / "log").read_text().splitlines() == [
        "apt-get update",
        f"apt-get install --yes --no-install-recommends bubblewrap {python} {python}-venv",
        f"{python} -m venv grader",
        "python -m pip install ./course",
    ]
    for closed in ("source/course", "source/grader/lib/python3.11/site-packages/minigrpo", "results"):
        assert not (autograder / closed).stat().st_mode & 0o007, closed


def test_gradescope_gets_the_results_that_it_documents(autograder):
    """https://gradescope-autograders.readthedocs.io/en/latest/specs/; what else is handed in adds nothing."""
    for name in ("ex06_kl.ipynb", "ex06_again.ipynb", "ex01_logprobs.ipynb"):
        shutil.copy(ROOT / "solutions" / name.replace("again", "kl"), autograder / "submission" / name)
    done = subprocess.run([autograder / "run_autograder"], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    said = json.loads((autograder / "results" / "results.json").read_text(encoding="utf-8"))
    assert said["extra_data"] == {"isolation": "another user"}
    assert set(said) <= {"score", "execution_time", "output", "visibility", "stdout_visibility", "extra_data", "tests"}
    scores, most = ([test[name] for test in said["tests"]] for name in ("score", "max_score"))
    assert said["score"] == sum(scores) == sum(most) == sum(question.points for question in questions("ex06"))
    fields = {"score", "max_score", "status", "name", "number", "output", "tags", "visibility", "extra_data"}
    for test in said["tests"]:
        assert set(test) <= fields
        assert (test["status"], type(test["output"]), type(test["score"])) == ("passed", str, int)


def test_gradescope_gets_a_result_where_nothing_was_handed_in(autograder):
    subprocess.run([autograder / "run_autograder"], cwd="/", check=True)
    said = json.loads((autograder / "results" / "results.json").read_text(encoding="utf-8"))
    assert said == {"score": 0, "output": "There is no ex06_kl.ipynb in what was handed in."}


# What the two actions document as inputs, as far as a course may need them.
INPUTS = {
    "actions/checkout@v4": {"repository", "ref", "token", "persist-credentials", "path", "clean", "fetch-depth", "submodules"},
    "actions/setup-python@v5": {"python-version", "python-version-file", "cache", "architecture", "check-latest", "token"},
}


def test_the_classrooms_workflow_runs_and_takes_nothing_from_the_submission(place, tmp_path):
    """Its own commands in the places that GitHub runs them in; what would install says only that it was called."""
    workflow = yaml.safe_load((TEMPLATES / "classroom.yml").read_text(encoding="utf-8"))
    assert (workflow[True], workflow["permissions"]) == (["push"], {"contents": "read"})  # YAML takes "on" for a boolean
    steps = workflow["jobs"]["grade"]["steps"]
    used = {step["uses"]: step.get("with", {}) for step in steps if "uses" in step}
    assert used.keys() == INPUTS.keys()
    assert all(set(given) <= INPUTS[action] for action, given in used.items())
    handed_in = tmp_path / used["actions/checkout@v4"].get("path", ".")
    handed_in.mkdir(exist_ok=True)
    (handed_in / "pip.py").write_text("raise SystemExit('taken')")
    script(tmp_path / "bin" / "sudo", f'echo "$*" >> {tmp_path}/log')
    script(tmp_path / "bin" / "python", f'[ -e pip.py ] || echo "$*" >> {tmp_path}/log')  # -m takes pip.py for pip
    script(tmp_path / "bin" / "minigrpo", f'exec {shlex.join(command(place))} "$@"')
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": f"{tmp_path}/summary"}
    shutil.copy(ROOT / "solutions" / "ex06_kl.ipynb", handed_in)
    for code in (0, 1):
        for step in (step for step in steps if "run" in step):
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if step.get("shell") == "bash" else ["bash", "-e"]
            done = subprocess.run([*shell, "-c", step["run"]], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert (tmp_path / "summary").read_text(encoding="utf-8").startswith("    isolated by: ")
        script(tmp_path / "bin" / "minigrpo", "echo isolated by: bubblewrap; exit 1")  # as below --min-score
    said = (tmp_path / "log").read_text()
    assert "apt-get install --yes bubblewrap" in said
    assert "sysctl --write kernel.apparmor_restrict_unprivileged_userns=0" in said
    assert "-m pip install minigrpo @ git+https://" in said
