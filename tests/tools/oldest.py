"""Run a selection of the tests with the oldest versions that pyproject.toml allows: ``python -m tests.tools.oldest``.

It makes an environment in which every dependency with a lower bound has exactly that version, and this takes minutes. torch
alone is the newest that is allowed: for Linux, PyPI has its older versions with gigabytes of CUDA only. --torch names another.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TESTS = [
    "tests/test_policy.py",
    "tests/test_families.py",
    "tests/test_sampling.py",
    "tests/test_scoring.py",
    "tests/test_logprobs.py",
    "tests/test_threads.py",
    "tests/test_evaluation.py",
    "tests/test_triples.py",
    "tests/test_reward_model.py",
    "tests/test_warnings.py",
    "tests/test_against_trl.py",
    "tests/run/test_trl_engine.py",
    "tests/view",
]
SLOW = "pretrain or process or launch or resum or killed"


def lower_bounds(project: dict, torch: str | None = None) -> list[str]:
    """What pip is asked for: each requirement of the package and of its extras at its lower bound.

    >>> lower_bounds({"dependencies": ["torch>=2,<3", "tqdm>=4.6"], "optional-dependencies": {"test": ["ruff", "x[test]"]}})
    ['torch<3,>=2', 'tqdm==4.6']
    """
    extras = project["optional-dependencies"].values()
    wanted = []
    for requirement in map(Requirement, [*project["dependencies"], *(text for texts in extras for text in texts)]):
        lowest = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        if requirement.name == "torch":
            wanted.append(f"torch=={torch}" if torch else str(requirement))
        elif lowest:
            wanted.append(f"{requirement.name}=={lowest[0]}")
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", metavar="VERSION", help="by default the newest that is allowed")
    args = parser.parse_args()
    wanted = lower_bounds(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"], args.torch)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if os.name == "nt" else "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        command = [python, "-m", "pytest", "-q", "-o", "addopts=--strict-markers", "-k", f"not ({SLOW})", *TESTS]
        return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
