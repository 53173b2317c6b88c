"""The known mistakes as a table: does each fail, and is it named? Exits with 1 if not.

python -m tests.tools.known_mistakes [--seed 0]
"""

import argparse
import sys

from minigrpo.grading.check import grade, questions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    print("| question | mistake | failed | named |\n|---|---|---|---|")
    rows = []
    for question in questions():
        for mistake in question.mistakes:
            result = grade(question, mistake.function, seed)
            rows.append((result.points == 0, result.cause == mistake.says))
            marks = ["yes" if right else "NO" for right in rows[-1]]
            print(f"| {question.id} {question.name} | {mistake.name} | {' | '.join(marks)} |")
    failed, named = (sum(row[i] for row in rows) for i in (0, 1))
    print(f"\n{len(rows)} mistakes: {failed} fail, {named} are named")
    return int(not failed == named == len(rows))


if __name__ == "__main__":
    sys.exit(main())
