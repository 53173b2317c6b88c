"""Fresh healthy runs of the bundled model, with other seeds and settings than the recorded ones, and what the diagnosis says.

    python -m tests.tools.fresh_runs [--count 20] [--max-steps 60]

Prints the first finding of each, and exits with 1 if one of them is called wrong: a false alarm. Ten minutes on one core.
"""

import argparse
import sys

import torch

from minigrpo.config import GRPOConfig
from minigrpo.policy import load_policy
from minigrpo.run.diagnosis.doctor import examine
from minigrpo.tasks import clock_task
from minigrpo.training import train
from minigrpo.update import TrainState

SETTINGS = [  # all learn; what differs is what a log shows of it
    {},
    {"beta": 0.0},
    {"beta": 0.1},
    {"loss_type": "dapo"},
    {"loss_type": "dr_grpo", "scale_rewards": "none"},
    {"loss_type": "bnpo", "learning_rate": 1e-4},
    {"num_iterations": 2},
    {"num_iterations": 4, "loss_type": "cispo", "epsilon_high": 5.0},
    {"num_iterations": 2, "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
    {"num_generations": 16},
    {"num_generations": 4},
    {"generation_batch_size": 128, "learning_rate": 3e-4},
    {"scale_rewards": "batch"},
    {"temperature": 1.2},
    {"kl_estimator": "k3"},
    {"kl_estimator": "exact", "beta": 0.02},
    {"kl_in_reward": True, "kl_estimator": "k1"},
    {"max_completion_length": 24},
    {"learning_rate": 1e-4, "beta": 0.01},
    {"learning_rate": 3e-4, "epsilon_high": 0.28, "num_iterations": 2},
]


def fresh_run(number: int, max_steps: int) -> tuple[dict, list[dict]]:
    """What was set, and the metrics of that run."""
    changes = {"seed": 100 + number, "max_steps": max_steps, **SETTINGS[number % len(SETTINGS)]}
    config = GRPOConfig(**changes)
    task = clock_task(config.seed)
    state = TrainState.start(*load_policy("tiny"), config)
    return config.to_dict(), list(train(state, task.train, [task.reward], config))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--max-steps", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    alarms = 0
    print("| run | first finding | what is seen |\n|---|---|---|")
    for number in range(args.count):
        config, rows = fresh_run(number, args.max_steps)
        # Also as it was on its way, which is what a run that goes on is judged by, and without its configuration.
        seen = [examine(rows[:rows_so_far], config=config) for rows_so_far in range(10, len(rows), 10)]
        seen += [examine(rows), examine(rows, config=config)]
        wrong = [diagnosis.first for diagnosis in seen if diagnosis.wrong]
        alarms += bool(wrong)
        shown = wrong[0] if wrong else seen[-1].first
        setting = ", ".join(f"{name} {value}" for name, value in SETTINGS[number % len(SETTINGS)].items())
        print(f"| seed {config['seed']} {setting} | {shown.kind}: {shown.title} | {shown.seen} |", flush=True)
    print(f"\nFalse alarms: {alarms} of {args.count}")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
