"""How minigrpo/assets/sums.jsonl was made: the bundled model answers 100 questions four times each, the rubric scores it.

python -m tests.tools.sample_records [FILE]
"""

import json
import sys
from pathlib import Path

from minigrpo.policy import load_policy
from minigrpo.sampling import sample_completions, seeded
from minigrpo.tasks import sums_task
from minigrpo.triples import BUNDLED

NUM_QUESTIONS, NUM_RESPONSES = 100, 4


def main(path: Path) -> None:
    task = sums_task()
    questions, answers = task.train["prompt"][:NUM_QUESTIONS], task.train["answer"][:NUM_QUESTIONS]
    rollout = sample_completions(
        *load_policy("tiny"), questions, num_generations=NUM_RESPONSES, max_completion_length=24, generator=seeded(0)
    )
    answers = [answer for answer in answers for _ in range(NUM_RESPONSES)]
    scores = task.reward(rollout.prompts, rollout.completions, answer=answers)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for prompt, response, reward in zip(rollout.prompts, rollout.completions, scores, strict=True):
            record = {"prompt": prompt, "response": response, "reward": reward}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED)
