"""minigrpo against TRL's GRPOTrainer: the same model, prompts, reward, sizes and optimizer, a step of one, a step of the other.

    python -m tests.benchmarks.vs_trl [--setting bundled small real] [--threads 1 2] [--steps N] [--json FILE]

Prints CPU and wall seconds per step, split into sampling (reward, reference and advantages go with it) and update, completion
tokens a CPU second, the peak memory above weights, gradients and optimizer (of processes of their own), and the ratio of CPU
seconds, ours / TRL's, with its minimum, median and maximum over the pairs of steps. Linux only: /proc tells the peak memory.

TRL is given what is fastest for it here: one batch per rollout, no gradient checkpointing, no logging, no saving, no dropout,
the fused AdamW, and the model as load_policy gives it, with GELU in one operation. Both are in float32. The setting "real"
is SmolLM2 on the task addition; it takes minutes, and 10 GB.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"


class Setting(NamedTuple):
    """P prompts x G completions of at most C tokens; ``steps`` pairs are timed after a first one that is not."""

    num_prompts: int
    num_generations: int
    max_completion_length: int
    learning_rate: float
    steps: int
    vocabulary: int | None = None  # of GPT-2 small's shape with random weights; None for the bundled GPT-2
    prompt_length: int | None = None
    layers: int = 12
    model: str | None = None  # or a real one, on the task addition
    # Completions that are updated on at once here, as train --task addition does; TRL has all at once, which is faster for it.
    rows: int | None = None


SETTINGS = {
    "bundled": Setting(16, 8, 16, 2e-4, steps=40),
    "small": Setting(4, 8, 32, 1e-6, steps=3, vocabulary=50257, prompt_length=128),
    "real": Setting(8, 8, 16, 1e-5, steps=2, model="smollm2", rows=16),
}


def variety(prompts, completions, **columns):
    """A reward that random weights can have: the share of different characters."""
    return [len(set(completion)) / max(len(completion), 1) for completion in completions]


def load(setting: Setting):
    """The model (which TRL also loads by its path, as its reference), tokenizer, data set and reward function."""
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from minigrpo import addition_task, clock_task, load_policy

    if setting.model is not None:
        model, tokenizer = load_policy(setting.model)
        task = addition_task()
        return model, tokenizer, task.train, task.reward
    if setting.vocabulary is None:
        task = clock_task()
        return *load_policy("tiny"), task.train, task.reward
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(setting.vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    last = f"w{setting.vocabulary - 1}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=last, pad_token=last, padding_side="left")
    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    sizes = GPT2Config(vocab_size=setting.vocabulary, n_layer=setting.layers, eos_token_id=tokenizer.eos_token_id)
    GPT2LMHeadModel(sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    draw = random.Random(0)
    prompts = [" ".join(f"w{draw.randrange(setting.vocabulary - 1)}" for _ in range(setting.prompt_length)) for _ in range(64)]
    return *load_policy(folder), Dataset.from_dict({"prompt": prompts}), variety


class Clock:
    """CPU and wall seconds of the parts of each step."""

    def __init__(self):
        self.steps: list[dict[str, float]] = []
        self.part = {}

    def timed(self, name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            cpu, wall = time.process_time(), time.perf_counter()
            result = function(*args, **kwargs)
            self.part[f"{name} cpu"] = time.process_time() - cpu
            self.part[f"{name} wall"] = time.perf_counter() - wall
            return result

        return call

    def end_step(self, tokens: int, batch=None) -> None:
        """A step is what ``timed("step", ...)`` saw; what is not sampling in it is the update."""
        for kind in ("cpu", "wall"):
            self.part[f"update {kind}"] = self.part[f"step {kind}"] - self.part[f"sampling {kind}"]
        self.part |= {"tokens": tokens}
        if batch is not None:
            teaching = batch.rollout.rows(batch.advantages.nonzero()[:, 0])  # the others have no gradient, without a KL
            self.part |= {"drawn": different_beginnings(batch.rollout), "learnt": different_beginnings(teaching)}
        self.steps.append(self.part)
        self.part = {}


def our_steps(setting: Setting, beta: float, steps: int, clock: Clock):
    """A function that takes one step, on one thread if the model is as small as those that ``minigrpo train`` gives one."""

    from minigrpo import GRPOConfig, TrainState, train, training
    from minigrpo.threads import suited_threads

    model, tokenizer, dataset, reward = load(setting)
    config = GRPOConfig(
        beta=beta,
        generation_batch_size=setting.num_prompts * setting.num_generations,
        num_generations=setting.num_generations,
        max_completion_length=setting.max_completion_length,
        per_device_train_batch_size=setting.rows,
        learning_rate=setting.learning_rate,
        max_steps=steps,
    )
    training.Rollouts.next_batch = clock.timed("sampling", training.Rollouts.next_batch)
    state = TrainState.start(model, tokenizer, config)
    step = clock.timed("step", train(state, dataset, [reward], config).__next__)

    def one() -> None:
        with suited_threads(model):
            clock.end_step(step()["update/tokens"], state.batch)

    return one


def is_product(module) -> bool:
    """Whether it multiplies by a weight matrix: Linear, or GPT-2's own Conv1D."""
    return type(module).__name__ in ("Linear", "Conv1D")


def different_beginnings(rollout) -> tuple[int, list[int]]:
    """What nobody can avoid reading: how many different beginnings the prompts have, up to their last token but one; and how
    many different texts have t completion tokens, and go on, for t = 0, 1 ..."""
    rows = zip(
        rollout.group_ids.tolist(), rollout.completion_ids.tolist(), rollout.completion_mask.sum(1).tolist(), strict=True
    )
    texts = [(group, *ids[:length]) for group, ids, length in rows]
    begun = [len({text[: t + 1] for text in texts if len(text) > t + 1}) for t in range(max(map(len, texts), default=1) - 1)]
    prompts = [ids[mask].tolist() for ids, mask in zip(rollout.prompt_ids, rollout.prompt_mask, strict=True)]
    return len({tuple(ids[:length]) for ids in prompts for length in range(1, len(ids))}), begun


def their_trainer(setting: Setting, beta: float, steps: int, clock: Clock, after_step: Callable = lambda: None):
    """TRL's trainer, which calls ``after_step`` between its own steps; run it by ``train()``."""
    import transformers
    import trl

    from minigrpo.policy import fuse_gelu
    from minigrpo.run.trl_engine import CHECKPOINTING, without_its_own_warning

    model, tokenizer, dataset, reward = load(setting)
    args = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        **{CHECKPOINTING: False},
        disable_dropout=True,
        per_device_train_batch_size=setting.num_prompts * setting.num_generations,
        gradient_accumulation_steps=1,
        num_generations=setting.num_generations,
        max_completion_length=setting.max_completion_length,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        loss_type="grpo",
        beta=beta,
        max_steps=steps,
        dataloader_pin_memory=False,
    )

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.cpu, self.wall = time.process_time(), time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            clock.part["step cpu"] = time.process_time() - self.cpu
            clock.part["step wall"] = time.perf_counter() - self.wall
            clock.end_step(int(trainer._buffered_inputs[0]["completion_mask"].sum()))
            after_step()

    trainer = trl.GRPOTrainer(model, reward, args, processing_class=tokenizer, train_dataset=dataset, callbacks=[Watch()])
    trainer.remove_callback(transformers.PrinterCallback)
    if trainer.ref_model is not None:
        fuse_gelu(trainer.ref_model)
    trainer.train = without_its_own_warning()(trainer.train)
    trainer._generate_and_score_completions = clock.timed("sampling", trainer._generate_and_score_completions)
    return trainer


def race(setting: Setting, beta: float, threads: int, steps: int) -> tuple[list[dict], list[dict]]:
    """The timed steps of both, TRL's and ours in turn, in one process."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    ours, theirs = Clock(), Clock()
    their_trainer(setting, beta, steps + 1, theirs, our_steps(setting, beta, steps + 1, ours)).train()
    return ours.steps[1:], theirs.steps[1:]


def peak_memory(setting: Setting, beta: float, who: str) -> float:
    """MB at the peak of two steps, above imports and weights (with a reference: twice), gradients and moments."""
    import torch
    import transformers
    import trl  # noqa: F401

    from minigrpo import training  # noqa: F401

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    before = status("VmRSS")
    if who == "ours":
        step = our_steps(setting, beta, 2, Clock())
        step()
        step()
    else:
        their_trainer(setting, beta, 2, Clock()).train()
    peak = status("VmHWM")
    weights = sum(p.numel() * p.element_size() for p in load(setting)[0].parameters()) / 1e6
    return peak - before - weights * (5 if beta else 4)


def status(name: str) -> float:
    """MB, of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def unavoidable(setting: Setting, step: dict, threads: int) -> float:
    """CPU seconds of the products with the weights alone, of a step at beta 0, see ``different_beginnings``.

    Each beginning of a prompt is read once to sample, however many begin so, each beginning of a completion too. What has an
    advantage is read once more to learn, and each product there has two more in its backward pass. The head is multiplied
    where a completion token is predicted. Attention is left out.
    """
    import torch

    torch.set_num_threads(threads)
    model, (read, begun), (read_again, learnt) = load(setting)[0], step["drawn"], step["learnt"]
    matrices = [m.weight.T if isinstance(m, torch.nn.Linear) else m.weight for m in model.modules() if is_product(m)]
    *layers, head = [tuple(matrix.shape) for matrix in matrices]  # (in, out), in the order in which a text goes through them
    products = [(read, shape) for shape in layers] + [(rows, shape) for rows in begun for shape in [*layers, head]]
    products += 3 * [*((read_again + sum(learnt), shape) for shape in layers), (sum(learnt), head)]
    matrices = {shape: torch.randn(shape) for _, shape in products}
    seconds = []
    for _ in range(5 if setting.vocabulary is None else 2):
        total = 0.0
        for rows, shape in products:
            left = torch.randn(rows, shape[0])
            start = time.process_time()
            left @ matrices[shape]
            total += time.process_time() - start
        seconds.append(total)
    return min(seconds)


# --- what is printed ------------------------------------------------------------------------------------------------------


def alone(function: Callable, *args):
    """Run it in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def median(steps: list[dict], name: str) -> float:
    return statistics.median(step[name] for step in steps)


def compare(name: str, beta: float, threads: int, steps: int | None) -> dict:
    """One row of the table."""
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        if setting.model is not None:
            setting = setting._replace(model=alone(saved, setting.model, folder))
        return measure(name, setting, beta, threads, steps)


def saved(model: str, folder: str) -> str:
    """The model in an ordinary folder, since TRL loads its reference by the model's path."""
    from minigrpo.policy import load_policy, save_policy

    save_policy(*load_policy(model), folder)
    return folder


def measure(name: str, setting: Setting, beta: float, threads: int, steps: int | None) -> dict:
    ours, theirs = alone(race, setting, beta, threads, steps or setting.steps)
    row = {"name": f"{name}, beta {beta:g}, {threads} thread{'s' if threads > 1 else ''}"}
    for who, taken in (("ours", ours), ("trl", theirs)):
        for part in ("sampling", "update", "step"):
            row |= {f"{who}_{part}_{kind}_s": median(taken, f"{part} {kind}") for kind in ("cpu", "wall")}
        row[f"{who}_tokens_per_cpu_s"] = sum(s["tokens"] for s in taken) / sum(s["step cpu"] for s in taken)
    for kind in ("cpu", "wall"):
        ratios = [one[f"step {kind}"] / other[f"step {kind}"] for one, other in zip(ours, theirs, strict=True)]
        row |= {f"{kind}_ratio_min": min(ratios), f"{kind}_ratio_median": statistics.median(ratios)}
        row |= {f"{kind}_ratio_max": max(ratios)}
    row |= {f"{who}_peak_mb": alone(peak_memory, setting, beta, who) for who in ("ours", "trl")} if threads == 1 else {}
    if "ours_peak_mb" in row:
        row["memory_ratio"] = row["ours_peak_mb"] / row["trl_peak_mb"]
    if not beta:
        middle = sorted(ours, key=lambda step: step["step cpu"])[len(ours) // 2]
        row["matrix_products_share"] = alone(unavoidable, setting, middle, threads) / middle["step cpu"]
    return row


def print_row(row: dict) -> None:
    low, middle, high = (row[f"cpu_ratio_{name}"] for name in ("min", "median", "max"))
    print(f"\n{row['name']}: CPU ratio {middle:.3f} ({low:.3f} to {high:.3f}), wall ratio {row['wall_ratio_median']:.3f}")
    print(f"{'':10}{'sampling':>18}{'update':>18}{'step':>18}{'tokens / CPU s':>16}{'peak above, MB':>16}")
    for who in ("ours", "trl"):
        cells = [
            f"{row[f'{who}_{part}_cpu_s']:.4f} / {row[f'{who}_{part}_wall_s']:.4f}" for part in ("sampling", "update", "step")
        ]
        peak = f"{row[f'{who}_peak_mb']:.0f}" if f"{who}_peak_mb" in row else "-"
        print(f"{who:10}" + "".join(f"{cell:>18}" for cell in cells) + f"{row[f'{who}_tokens_per_cpu_s']:>16.0f}{peak:>16}")
    if "matrix_products_share" in row:
        print(f"Products with the weights, which nobody can avoid: {row['matrix_products_share']:.0%} of our step.")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=["bundled", "small"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--beta", nargs="+", type=float, default=[0.0, 0.04])
    parser.add_argument("--steps", type=int, help="pairs of steps; by default 40, 3 and 2")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()
    print("CPU / wall seconds per step, medians")
    rows = []
    for name in args.setting:
        for threads in args.threads:
            for beta in args.beta:
                rows.append(compare(name, beta, threads, args.steps))
                print_row(rows[-1])
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
