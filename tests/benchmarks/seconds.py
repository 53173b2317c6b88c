"""What ``minigrpo fit --seconds`` says of a step, from some of the layers, beside what a step of all of them takes.

    python -m tests.benchmarks.seconds

By model, rows at once, gradient checkpointing, completion length and G; random weights, each setting in a process of its own,
one thread, in CPU seconds. tests/benchmarks/README.md holds the table.
"""

import time
from unittest import mock

from tests.benchmarks.vs_trl import alone

GPT2 = {"model": "gpt2", "generation_batch_size": 32, "max_completion_length": 32}
SMOLLM2 = {"model": "smollm2", "per_device_train_batch_size": 16}
SETTINGS = (  # tokens of a prompt, and the run
    (128, GPT2),
    (128, GPT2 | {"per_device_train_batch_size": 8}),
    (128, GPT2 | {"per_device_train_batch_size": 8, "gradient_checkpointing": True}),
    (128, GPT2 | {"num_generations": 4}),
    (128, GPT2 | {"max_completion_length": 64}),
    (40, SMOLLM2),
    (40, SMOLLM2 | {"beta": 0.0}),
    (40, SMOLLM2 | {"max_completion_length": 32}),
)


def said_and_taken(prompt_length: int, settings: dict) -> tuple[float, float]:
    """CPU seconds, which are those of a clock where one thread has a core for itself."""
    import torch

    from minigrpo import GRPOConfig
    from minigrpo.run.fit import shape_of
    from minigrpo.run.step_seconds import step_seconds, timed

    torch.set_num_threads(1)
    config, shape = GRPOConfig(**settings), shape_of(settings["model"])
    with mock.patch("minigrpo.training.time.perf_counter", time.process_time):
        said = step_seconds(config.model, prompt_length=prompt_length, config=config)
        return said, timed(shape, shape.layers, prompt_length, config)


def main() -> None:
    print("| model | prompt | settings | said | taken | ratio |\n|---|---|---|---|---|---|")
    for prompt_length, settings in SETTINGS:
        said, taken = alone(said_and_taken, prompt_length, settings)
        rest = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "model")
        print(f"| {settings['model']} | {prompt_length} | {rest} | {said:.1f} | {taken:.1f} | {said / taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
