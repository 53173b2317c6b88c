"""What a task sets differently from the defaults of GRPOConfig, and why. Imports nothing."""


def task_defaults(task: str) -> dict:
    """What ``train --task`` sets differently from ``train``."""
    # Learning rates are less than a tenth of the bundled model's: AdamW moves every weight by about this much a step,
    # whatever its size, and a model of 135 million of them needs that much less for the same change of what it says.
    of_task = {
        # A number is right or wrong, and no KL is needed to keep it one: without the reference a run takes 0.5 GB less and
        # three quarters of the time. The rate falls, or the entropy would be gone before the end.
        "addition": {"learning_rate": 1.5e-5, "lr_scheduler_type": "linear", "beta": 0.0},
        # Words are counted and not understood, so the KL has to keep them near those of a chat model.
        "words": {"learning_rate": 1e-5, "beta": 0.02},
    }
    if task not in of_task:
        return {}
    return {
        "model": "smollm2",
        **of_task[task],
        "per_device_train_batch_size": 16,  # two prompts' groups: half the memory, and hardly more work
        "max_steps": 40,
        "save_steps": 40,  # a checkpoint is 1.6 GB
    }


def triples_defaults(triples: str) -> dict:
    """What ``train --triples`` sets differently from ``train``."""
    return {
        "task": "sums" if triples == "bundled" else "records",
        "beta": 0.4,  # of a reward from 1 to 5: the optimum writes a 3 exp(-2 / 0.4) = 0.007 times as often, for a 5, as before
        "learning_rate": 5e-4,
        # AdamW divides by the size of a gradient, and so moves even the weights of tokens that no record holds, a whole
        # learning rate at a time: with 1e-8 the bundled model forgets to think on clock problems. See tests/benchmarks.
        "adam_epsilon": 1e-4,
        "max_steps": 60,
        "save_steps": 20,
        "max_completion_length": 24,
        # Summed over a response's tokens: a mean would let a short response weigh more than a long one.
        "loss_type": "dr_grpo",
    }


def dataset_defaults() -> dict:
    """What ``train --dataset-name`` sets differently from ``train``."""
    return {"task": "dataset", "max_completion_length": 64}  # nobody knows how long its answers are; short ones cost no more
