"""Learning from the bundled records, measured: ``minigrpo train --triples`` with five seeds, and the variants of lesson 07.

    python -m tests.benchmarks.triples_job [--seeds 0 1 2 3 4] [--variants] [--keep FOLDER]

Prints the table of README.md here, and exits with 1 if a seed misses its goals: at most 0.45 before and at least 0.95 after at
temperature 1, every greedy answer right, the clock task down by less than 0.05, 30 s. ``--keep`` copies each run's metrics.
"""

import argparse
import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minigrpo.evaluation import evaluate
from minigrpo.policy import load_policy
from minigrpo.run.folders import read_json, read_metrics
from minigrpo.tasks import load_task

PG = ["--triples-estimator", "policy_gradient", "--beta", "0.04"]
LONG = ["--max-steps", "200", "--save-steps", "200"]
VARIANTS = {
    "weighted, summed over tokens (default)": [],
    "weighted, mean over tokens": ["--loss-type", "grpo"],
    "weighted, adam_epsilon 1e-8": ["--adam-epsilon", "1e-8"],
    "policy_gradient, beta 0.04": PG,
    "policy_gradient, beta 0.4": ["--triples-estimator", "policy_gradient"],
    "policy_gradient, beta 0.04, 200 steps": [*PG, *LONG],
    "the same, ratio to the writer": [*PG, *LONG, "--triples-writer", "reference"],
}


def run(folder: Path, *flags: str) -> dict:
    """One run of the command: its summary, the wall time in seconds, and what is left of the clock task."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "minigrpo", "train", "--triples", "--output-dir", str(folder), *flags]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - start
    clock = evaluate(*load_policy(str(folder)), load_task("clock"), num_generations=16)["accuracy"]
    return read_json(folder / "summary.json") | {"wall": wall, "clock": clock, "kl": read_metrics(folder)[-1]["kl"]}


def row(name: str, clock_before: float, result: dict) -> str:
    before, after = result["before"], result["after"]
    cells = [f"{before[key]:.3f} → {after[key]:.3f}" for key in ("accuracy", "accuracy_greedy")]
    cells += [f"{clock_before:.3f} → {result['clock']:.3f}", f"{result['kl']:.2f}"]
    return f"| {name} | " + " | ".join([*cells, f"{result['seconds']:.1f} s", f"{result['wall']:.1f} s"]) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--variants", action="store_true", help="also the variants, with the first seed")
    parser.add_argument("--keep", type=Path, help="a folder for each run's metrics.jsonl")
    args = parser.parse_args()
    clock_before = evaluate(*load_policy("tiny"), load_task("clock"), num_generations=16)["accuracy"]
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| | full score | greedy | clock task | KL (nats per token) | training | whole command |")
    print("|---|---|---|---|---|---|---|")
    seeded = {f"seed {seed}": ["--seed", str(seed)] for seed in args.seeds}
    variants = {name: ["--seed", str(args.seeds[0]), *flags] for name, flags in VARIANTS.items()} if args.variants else {}
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, flags) in enumerate((seeded | variants).items()):
            folder = Path(temporary) / str(number)
            result = run(folder, *flags)
            print(row(name, clock_before, result), flush=True)
            if name in seeded:
                right = result["before"]["accuracy"] <= 0.45 and result["after"]["accuracy"] >= 0.95
                right = right and result["after"]["accuracy_greedy"] == 1.0 and clock_before - result["clock"] < 0.05
                missed += not (right and result["wall"] <= 30)
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / "metrics.jsonl", args.keep / f"{name.replace(' ', '-')}.jsonl")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
