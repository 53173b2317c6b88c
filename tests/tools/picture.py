"""Draw the README's moving picture: what the bundled model answers while it trains.

    python -m tests.tools.picture [--output .github/learning.gif]

One run of the default configuration (seed 0, some 40 seconds). Before the first step and after every fifth it shows, of
problems that no training saw, the likeliest answers, the distribution of an answer's first token, and how many are right.
"""

import argparse
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image

from minigrpo.config import GRPOConfig
from minigrpo.evaluation import evaluate
from minigrpo.policy import load_policy
from minigrpo.sampling import sample_completions
from minigrpo.scoring import policy_logits
from minigrpo.tasks import clock_task, exact_answer
from minigrpo.training import TrainState, train

OUTPUT = Path(__file__).parents[2] / ".github" / "learning.gif"
SHOWN, EVERY = 7, 5  # problems on the board; steps from one frame to the next
RIGHT, WRONG, INK, FAINT = "#0a7d4b", "#c2410c", "#1f2937", "#9ca3af"
FIRST_TOKENS = [str(digit) for digit in range(10)] + ["<"]


def look(state: TrainState, task) -> dict:
    """What a frame shows of the policy as it is now."""
    model, tokenizer = state.model, state.tokenizer
    problems = task.held_out.select(range(SHOWN))
    rollout = sample_completions(
        model, tokenizer, problems["prompt"], num_generations=1, max_completion_length=16, temperature=0.0
    )
    with torch.no_grad():
        first = policy_logits(model, rollout)[:, 0].softmax(-1).mean(0)
    result = evaluate(model, tokenizer, task, num_generations=1)
    return {
        "problems": list(problems["prompt"]),
        "answers": rollout.completions,
        "right": exact_answer(rollout.prompts, rollout.completions, list(problems["answer"])),
        "first": [first[tokenizer.convert_tokens_to_ids(token)].item() for token in FIRST_TOKENS],
        "sampled": result["accuracy"],
        "greedy": result["accuracy_greedy"],
    }


def record(max_steps: int | None = None) -> list[dict]:
    """A look per frame, over one run."""
    config = GRPOConfig() if max_steps is None else GRPOConfig(max_steps=max_steps)
    task = clock_task()
    task = type(task)(**{**vars(task), "held_out": task.held_out.select(range(100))})
    state = TrainState.start(*load_policy("tiny"), config)
    looks = [look(state, task) | {"step": 0}]
    for metrics in train(state, task.train, [task.reward], config):
        if metrics["step"] % EVERY == 0:
            looks.append(look(state, task) | {"step": metrics["step"]})
    return looks


def draw(looks: list[dict], last_step: int) -> Image.Image:
    """The frame of the last look; the curves show all of them."""
    now = looks[-1]
    figure = plt.figure(figsize=(9, 3.9), dpi=160, facecolor="white")
    board = figure.add_axes([0.02, 0.03, 0.52, 0.94])
    board.axis("off")
    board.set(xlim=(0, 1), ylim=(0, 1))
    board.text(0, 0.94, f"step {now['step']} of {last_step}", fontsize=15, weight="bold", color=INK)
    board.text(1, 0.94, "likeliest answer", fontsize=10, color=FAINT, ha="right")
    for row, (problem, answer, right) in enumerate(zip(now["problems"], now["answers"], now["right"], strict=True)):
        y, color, mark = 0.82 - row * 0.123, RIGHT if right else WRONG, "\N{CHECK MARK}" if right else "\N{BALLOT X}"
        board.text(0, y, problem, family="DejaVu Sans Mono", fontsize=12, color=INK)
        board.text(0.95, y, answer, family="DejaVu Sans Mono", fontsize=12, color=color, ha="right", weight="bold")
        board.text(1, y, mark, family="DejaVu Sans", fontsize=12, color=color, ha="right")
    curve = figure.add_axes([0.63, 0.56, 0.35, 0.34])
    steps = [look["step"] for look in looks]
    for name, color in (("sampled", "#0072b2"), ("greedy", RIGHT)):
        curve.plot(steps, [look[name] for look in looks], color=color, lw=2.2)
    curve.set(
        xlim=(0, last_step),
        ylim=(0, 1.03),
        xticks=range(0, last_step + 1, 50),
        yticks=[0, 0.5, 1],
        yticklabels=["0", "50%", "100%"],
    )
    curve.set_title("right answers: sampled (blue), greedy (green)", fontsize=10, color=INK, loc="left")
    bars = figure.add_axes([0.63, 0.11, 0.35, 0.27])
    colors = [FAINT] * 10 + ["#7c3aed"]
    bars.bar(range(11), now["first"], color=colors)
    bars.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50%", "100%"], xticks=range(11))
    bars.set_xticklabels(FIRST_TOKENS, family="DejaVu Sans Mono", fontsize=11)
    bars.set_title("first token: a digit at once, or < to think first", fontsize=10, color=INK, loc="left")
    for axes in (curve, bars):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, colors=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return Image.open(file).convert("RGB")


def save(looks: list[dict], output: Path) -> None:
    """The frames as one picture that moves; it rests on the first and the last."""
    frames = [draw(looks[: number + 1], looks[-1]["step"]) for number in range(len(looks))]
    palette = frames[len(frames) // 2].quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [2000] + [180] * (len(frames) - 2) + [6000]
    frames[0].save(output, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    print(f"{output}: {output.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    save(record(), parser.parse_args().output)


if __name__ == "__main__":
    main()
