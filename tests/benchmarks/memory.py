"""The peak memory of a step in micro-batches, with and without gradient checkpointing, and its CPU seconds.

    python -m tests.benchmarks.memory [--layers 12] [--vocabulary 50257] [--completions 32] [--tokens 32]

Of GPT-2 small's shape with random weights, 4 prompts of 128 tokens, beta 0.04; above weights (policy and reference), gradients
and AdamW's moments, each setting in a process of its own, one thread. Linux only: /proc tells the peak.
"""

import argparse
import time
from itertools import product

from tests.benchmarks.vs_trl import Setting, alone, load, status

SIZES = (None, 8, 4, 1)


def one_step(setting: Setting, changes: dict) -> tuple[float, float]:
    """MB and CPU seconds."""
    import torch
    import transformers

    from minigrpo import GRPOConfig, TrainState, train

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    before = status("VmRSS")
    model, tokenizer, dataset, reward = load(setting)
    config = GRPOConfig(
        generation_batch_size=setting.num_prompts * setting.num_generations,
        num_generations=setting.num_generations,
        max_completion_length=setting.max_completion_length,
        learning_rate=setting.learning_rate,
        max_steps=2,
        **changes,
    )
    steps = train(TrainState.start(model, tokenizer, config), dataset, [reward], config)
    next(steps)
    start = time.process_time()
    next(steps)
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    return status("VmHWM") - before - 5 * weights, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("layers", 12), ("vocabulary", 50257), ("completions", 32), ("tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    setting = Setting(4, args.completions // 4, args.tokens, 1e-6, 1, args.vocabulary, prompt_length=128, layers=args.layers)
    for size, again in product(SIZES, (False, True)):
        megabytes, seconds = alone(one_step, setting, {"per_device_train_batch_size": size, "gradient_checkpointing": again})
        how = f"per_device_train_batch_size {size or 'all'}{', gradient_checkpointing' if again else ''}"
        print(f"{how}: {megabytes:.0f} MB, {seconds:.1f} CPU s", flush=True)


if __name__ == "__main__":
    main()
