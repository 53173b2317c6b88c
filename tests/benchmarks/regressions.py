"""What got slower or larger: the ratios of a new measurement against the last ones, which stand in ratios.json.

    python -m tests.benchmarks.vs_trl --json new.json
    python -m tests.benchmarks.regressions new.json [--keep]

Ratios only (ours to TRL's, ours to the plain way's), for seconds differ from machine to machine. Prints a row per figure, and
exits with 1 if one is worse by more than a tenth, or is no longer measured; with ``--keep`` the new figures replace the old
ones. Files of several benchmarks may be given at once.
"""

import argparse
import json
import sys
from pathlib import Path

LAST = Path(__file__).parent / "ratios.json"
RATIOS = ("cpu_ratio_median", "memory_ratio")  # lower is better
A_TENTH = 1.1


def ratios(rows: list[dict]) -> dict[str, float]:
    return {f"{row['name']}: {ratio}": row[ratio] for row in rows for ratio in RATIOS if ratio in row}


def worse(last: dict[str, float], new: dict[str, float]) -> list[str]:
    """A sentence for each figure that is worse by more than a tenth, or missing."""
    sentences = []
    for name, before in last.items():
        if name not in new:
            sentences.append(f"{name} was {before:.3f} and was not measured.")
        elif new[name] > A_TENTH * before:
            sentences.append(f"{name} was {before:.3f} and is {new[name]:.3f}, {new[name] / before - 1:.0%} worse.")
    return sentences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="what vs_trl --json and head --json wrote")
    parser.add_argument("--keep", action="store_true", help="these are the last figures from now on")
    args = parser.parse_args()
    new = ratios([row for path in args.files for row in json.loads(path.read_text(encoding="utf-8"))])
    last = json.loads(LAST.read_text(encoding="utf-8")) if LAST.exists() else {}
    for name, value in new.items():
        print(f"{name:60}{last.get(name, float('nan')):8.3f} ->{value:8.3f}")
    sentences = worse(last, new)
    print("\n".join(["", *sentences]) if sentences else "\nNothing is worse by more than a tenth.")
    if args.keep:
        LAST.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    return int(bool(sentences) and not args.keep)


if __name__ == "__main__":
    sys.exit(main())
