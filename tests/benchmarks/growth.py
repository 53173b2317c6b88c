"""How the cost of a step grows with the group and with the vocabulary, here and in TRL.

    python -m tests.benchmarks.growth [--figure PNG] [--json FILE]

CPU seconds per step on one thread, beta 0, and peak memory above weights, gradients and moments, measured as vs_trl does, of a
GPT-2 of two layers and width 768 with random weights, 4 prompts of 64 tokens, completions of 16. Some six minutes.
"""

import argparse
import json
from pathlib import Path

from tests.benchmarks.vs_trl import Setting, alone, median, peak_memory, race

GROUPS, VOCABULARIES = (2, 4, 8, 16, 32), (1024, 8192, 50257)
NAMES = {"ours": "minigrpo", "trl": "TRL"}


def point(num_generations: int, vocabulary: int) -> dict:
    setting = Setting(4, num_generations, 16, 1e-6, steps=3, vocabulary=vocabulary, prompt_length=64, layers=2)
    row = {"num_generations": num_generations, "vocabulary": vocabulary}
    for who, steps in zip(("ours", "trl"), alone(race, setting, 0.0, 1, setting.steps), strict=True):
        row |= {f"{who}_cpu_s": median(steps, "step cpu"), f"{who}_peak_mb": alone(peak_memory, setting, 0.0, who)}
    print(row, flush=True)
    return row


def draw(by_group: list[dict], by_vocabulary: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    from minigrpo.view.plots import BLUE, ORANGE

    figure, axes = plt.subplots(2, 2, figsize=(8, 5.2), sharex="col", layout="constrained")
    columns = (("num_generations", "completions per prompt, G", by_group), ("vocabulary", "vocabulary", by_vocabulary))
    for column, (key, label, rows) in enumerate(columns):
        for line, (what, unit) in enumerate((("cpu_s", "CPU seconds per step"), ("peak_mb", "peak memory, MB"))):
            ax, where = axes[line, column], [row[key] for row in rows]
            for who, color in (("ours", BLUE), ("trl", ORANGE)):
                values = [row[f"{who}_{what}"] for row in rows]
                ax.plot(where, values, "o-", color=color, label=NAMES[who], markersize=4)
            ax.set(xscale="log", ylim=(0, None))
            ax.xaxis.set_major_locator(FixedLocator(where))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
            if column == 0:
                ax.set_ylabel(unit)
            if line == 1:
                ax.set_xlabel(label)
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path, help="the picture to draw")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    by_group = [point(g, 8192) for g in GROUPS]
    by_vocabulary = [point(8, v) for v in VOCABULARIES]
    if args.json:
        args.json.write_text(
            json.dumps({"by_group": by_group, "by_vocabulary": by_vocabulary}, indent=2) + "\n", encoding="utf-8"
        )
    if args.figure:
        draw(by_group, by_vocabulary, args.figure)


if __name__ == "__main__":
    main()
