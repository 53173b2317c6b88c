"""How long it takes to start: ``minigrpo --help``, ``import minigrpo``, and ``minigrpo train`` up to its first step.

    python -m tests.benchmarks.startup [--rounds 5]

Wall seconds of whole processes, in turn, median and range. The last two lines are what an import of transformers' GPT-2 takes
on this machine, and how much later the first step is done; before it ``minigrpo train`` scores the policy on 500 problems.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def until_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        start = time.perf_counter()
        command = [sys.executable, "-m", "minigrpo", "train", "--output-dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not metrics.exists() and process.poll() is None:
            time.sleep(0.01)
        taken = time.perf_counter() - start
        process.kill()
        process.wait()
        if not metrics.exists():
            raise SystemExit("minigrpo train ended before its first step.")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ways = {
        "minigrpo --help": lambda: seconds("-m", "minigrpo", "--help"),
        "import minigrpo": lambda: seconds("-c", "import minigrpo"),
        "minigrpo train, first step": until_first_step,
        "import of transformers' GPT-2": lambda: seconds("-c", "from transformers import GPT2LMHeadModel"),
    }
    taken = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
    later = zip(taken["minigrpo train, first step"], taken["import of transformers' GPT-2"], strict=True)
    taken["first step, after such an import"] = [first - gpt2 for first, gpt2 in later]
    for name, values in taken.items():
        print(f"{name:36}{statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
