"""The main job, measured: ``minigrpo train`` with five seeds, one after the other, each a process of its own.

    python -m tests.benchmarks.main_job [--seeds 0 1 2 3 4] [--curves PNG]

Prints the table of README.md here, draws its picture with ``--curves``, and exits with 1 if a seed misses its goals: what GOALS
says, a KL, 30 s of training, 60 s in all on two idle cores, 1.5 GB. Unix only: peak memory is the operating system's figure for
the finished process.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOALS = {"accuracy": (0.30, 0.97), "accuracy_greedy": (0.30, 0.99), "thinking": (0.10, 0.97)}  # at most before, at least after


def run(seed: int, folder: Path) -> dict:
    """One run of the command; its summary, with the wall time in seconds and the peak memory in GB of the whole process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "minigrpo", "train", "--seed", str(seed), "--output-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    unit = 1 if platform.system() == "Darwin" else 1024  # ru_maxrss is in bytes there, in kilobytes elsewhere
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    kl = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["kl"]
    return summary | {"wall": time.perf_counter() - start, "peak_gb": usage.ru_maxrss * unit / 1e9, "kl": kl}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--curves", help="the picture to draw of all runs")
    args = parser.parse_args()
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| seed | accuracy | greedy | thinks first | mean length | training | whole command | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    missed, folders = 0, []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in args.seeds:
            folders.append(Path(temporary) / f"seed-{seed}")
            result = run(seed, folders[-1])
            before, after = result["before"], result["after"]
            cells = [f"{before[name]:.3f} → {after[name]:.3f}" for name in ("accuracy", "accuracy_greedy", "thinking")]
            cells.append(f"{before['mean_length']:.1f} → {after['mean_length']:.1f}")
            cells += [f"{result['seconds']:.1f} s", f"{result['wall']:.1f} s", f"{result['peak_gb']:.2f} GB"]
            print(f"| {seed} | " + " | ".join(cells) + " |", flush=True)
            learnt = all(before[name] <= low and after[name] >= high for name, (low, high) in GOALS.items())
            missed += not (
                learnt and result["kl"] > 0 and result["seconds"] <= 30 and result["wall"] <= 60 and result["peak_gb"] <= 1.5
            )
        if args.curves:
            subprocess.run([sys.executable, "-m", "minigrpo", "plot", *folders, "--output", args.curves], check=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
