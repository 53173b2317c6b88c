"""What each step leaves behind, whichever engine trains."""

import math
import time
from pathlib import Path

from tqdm import tqdm

from minigrpo.config import GRPOConfig
from minigrpo.run import folders, overwriting, tracking
from minigrpo.run.diagnosis.doctor import examine
from minigrpo.run.diagnosis.findings import WRONG
from minigrpo.tasks import Task

SAMPLES_EVERY = 10  # steps
EXAMINE_EVERY = 10  # steps, later a tenth of those so far: a look at all rows takes longer the more there are


class StepLog:
    """Called after each step: a line of metrics, now and then samples, a move of the bar."""

    def __init__(self, folder: Path, task: Task, config: GRPOConfig, step: int):
        self.folder, self.task, self.step, self.config = folder, task, step, config.to_dict()
        self.rows = folders.rows_so_far(folder)
        self.examine_at = step + EXAMINE_EVERY
        self.before, self.start = folders.seconds_so_far(folder), time.perf_counter()
        self.tracked = tracking.start(config, folder, step)
        self.unrewarded = 0  # the most completions of a step that this was said of
        self.bar = tqdm(total=config.max_steps, initial=step, unit="step")

    def __call__(self, metrics: dict, samples: dict[str, list]) -> None:
        """samples: prompts, completions, rewards, advantages of the rollout, B each."""
        self.step = metrics["step"]
        if self.task.thinks is not None:
            metrics["thinking"] = sum(map(self.task.thinks, samples["completions"])) / len(samples["completions"])
        folders.append_line(self.folder / "metrics.jsonl", metrics)
        if self.tracked:
            self.tracked.log({name: value for name, value in metrics.items() if name != "step"}, step=self.step)
        overwriting.forget(self.folder)
        if self.step == 1 or self.step % SAMPLES_EVERY == 0:
            folders.append_line(self.folder / "samples.jsonl", {"step": self.step, **samples})
        shown = {"reward": "reward", "logprob": "weighted_logprob", "kl": "kl", "length": "completions/mean_length"}
        self.bar.set_postfix(
            {label: f"{metrics[name]:z.2f}" for label, name in shown.items() if name in metrics}
        )  # z: no -0.00
        self.bar.update()
        self.rows.append(metrics)
        self._say_who_got_no_reward(samples["rewards"])
        if self.step == self.examine_at:
            self._examine()

    def _say_who_got_no_reward(self, rewards: list[float]) -> None:
        """Say it once, and once more where it then is all of them. TRL, too, warns of completions that nobody scored."""
        none = sum(map(math.isnan, rewards))
        if none > self.unrewarded and (self.unrewarded == 0 or none == len(rewards)):
            self.unrewarded = none
            self.bar.write(
                f"Step {self.step}: {none} of {len(rewards)} completions got no reward, as every reward function returned "
                "None; they take no part in the training."
            )

    def _examine(self) -> None:
        """Say the first finding, once, as soon as it is certain; the end of the run says all."""
        self.examine_at = self.step + max(EXAMINE_EVERY, self.step // 10)
        first = examine(self.rows, config=self.config).first
        if first.kind == WRONG and first.sure == "certain":
            self.bar.write(f"{first.title} {first.seen}\n{first.do}")
            self.examine_at = 0

    def close(self) -> None:
        """The end of training; ``seconds`` is its time, with what a resumed run had before."""
        self.bar.close()
        if self.tracked:
            self.tracked.finish()
        self.seconds = self.before + time.perf_counter() - self.start
