"""Build the wheel and try it in an empty environment, in an empty folder, without the repository.

    python -m tests.tools.wheel            # installs every dependency anew: minutes
    python -m tests.tools.wheel --borrow   # its dependencies are copied from this environment: seconds

Each command has to end with 0 and to say or leave what it promises.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Every name but to_trl, which wants the extra [scale] and says so.
NAMES = "from minigrpo import *; print(len(dir()), 'names')"
NO_TRL = (
    "import importlib.util, minigrpo\ntry: minigrpo.to_trl\n"
    "except minigrpo.BadInput as error: print(error)\nelse: print(importlib.util.find_spec('trl'), '[scale]')"
)
CHECK = "from minigrpo import check, kl_k3; print(check(kl_k3))"
# What is run, what it says, and which file it leaves.
TRIALS = (
    (("python", "-c", NAMES), "names", None),
    (("python", "-c", NO_TRL), "[scale]", None),
    (("minigrpo", "--version"), "minigrpo 0.", None),
    (("minigrpo", "selfcheck"), "Ready", None),
    (("minigrpo", "train", "--max-steps", "12"), "", "runs/clock-0/tokens.jsonl"),
    (("minigrpo", "train", "--triples", "--max-steps", "2"), "", "runs/triples-0/model/model.safetensors"),
    (("minigrpo", "generate", "--model", "runs/triples-0", "1 + 1 = ?"), "", None),
    (("minigrpo", "diagnose", "runs/clock-0"), "", None),
    (("minigrpo", "report", "runs/clock-0"), "report.html", "runs/clock-0/report.html"),
    (("minigrpo", "grade", "ex06_kl.ipynb"), "ex06", None),
    (("python", "-c", CHECK), "kl_k3", None),
)


def build(folder: Path) -> Path:
    """The wheel, made from a copy, so that nothing is left in the repository."""
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "minigrpo"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(path, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source], check=True)
    shutil.rmtree(source)
    (wheel,) = folder.glob("minigrpo-*.whl")
    return wheel


def environment(folder: Path, wheel: Path, *, borrow: bool) -> Path:
    """The folder of its commands."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [bin_folder / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *(["--no-deps"] if borrow else []), wheel], check=True)
    if borrow:
        where = [bin_folder / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        theirs = Path(subprocess.check_output(where, text=True).strip())
        for package in Path(sysconfig.get_path("purelib")).iterdir():
            if not (theirs / package.name).exists() and not re.match(r"minigrpo|__editable__|.*\.pth$", package.name):
                shutil.copytree(package, theirs / package.name, copy_function=link) if package.is_dir() else link(
                    package, theirs / package.name
                )
    return bin_folder


def link(source, target) -> None:
    """A second name of a file where the disk allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--borrow", action="store_true", help="install no dependencies, take those of this environment")
    borrow = parser.parse_args().borrow
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build(Path(temporary))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        commands, empty = environment(Path(temporary) / "venv", wheel, borrow=borrow), Path(temporary) / "empty"
        empty.mkdir()
        shutil.copy(ROOT / "exercises" / "ex06_kl.ipynb", empty)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path, "HF_HUB_OFFLINE": "1"}
        for (program, *arguments), says, leaves in TRIALS:
            done = subprocess.run([commands / program, *arguments], cwd=empty, env=env, capture_output=True, text=True)
            right = done.returncode == 0 and says in done.stdout and (leaves is None or (empty / leaves).exists())
            failed += not right
            print("ok    " if right else "FAILED", program, *arguments, flush=True)
            if not right:
                print(f"exit code {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
