"""The head of a large vocabulary: the plain way to log-probs, ours a chunk at a time, and TRL's fused head.

    python -m tests.benchmarks.head [--tokens 8192] [--rounds 3] [--json FILE]

By default 64 completions of 128 tokens, hidden size 768, vocabulary 50257: log-probs and entropies, forward and backward, in
float32 on one thread. CPU seconds are taken in turn in one process; peak memory, above the inputs, each in one of its own.
Exits with 1 unless ours takes at most 1.3 times the plain way's CPU time and a quarter of its memory, and gives the same
log-probs and gradients to 1e-6 of the largest.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from tests.benchmarks.vs_trl import alone, status

HIDDEN, VOCABULARY, TEMPERATURE = 768, 50257, 0.9


def inputs(num_tokens: int):
    """Hidden states, the head's weight, and token ids; of hidden states so large that probabilities differ."""
    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, HIDDEN, requires_grad=True)
    weight = (0.1 * torch.randn(VOCABULARY, HIDDEN)).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (num_tokens,)), torch.randn(num_tokens)


def plain(hidden, weight, ids):
    from minigrpo.logprobs import token_entropies, token_logprobs

    logits = (hidden @ weight.T)[None]
    return token_logprobs(logits, ids[None], TEMPERATURE)[0], token_entropies(logits.detach(), TEMPERATURE)[0]


def ours(hidden, weight, ids):
    from minigrpo.head import ChunkedHead

    return ChunkedHead.apply(hidden, weight, None, ids, TEMPERATURE)


def trl(hidden, weight, ids):
    """As GRPOTrainer calls it."""
    from trl.trainer import utils

    size = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    return utils._ChunkedLogProbFunction.apply(
        hidden, weight, None, ids, TEMPERATURE, size, None, 1.0, ("log_probs", "entropy")
    )


WAYS = {"plain": plain, "ours": ours, "trl": trl}


def once(name: str, tensors) -> tuple[float, list[torch.Tensor]]:
    """CPU seconds of forward and backward; log-probs and both gradients."""
    hidden, weight, ids, pull = tensors
    hidden.grad = weight.grad = None
    start = time.process_time()
    logprobs = WAYS[name](hidden, weight, ids)[0]
    (logprobs * pull).sum().backward()
    return time.process_time() - start, [logprobs.detach(), hidden.grad, weight.grad]


def times(num_tokens: int, rounds: int) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    tensors = inputs(num_tokens)
    return [{name: once(name, tensors)[0] for name in WAYS} for _ in range(rounds)]


def largest_difference(num_tokens: int) -> float:
    """Of log-probs and gradients, plain and ours, as a share of the largest."""
    torch.set_num_threads(1)
    tensors = inputs(num_tokens)
    expected, found = (once(name, tensors)[1] for name in ("plain", "ours"))
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(expected, found, strict=True))


def peak(name: str, num_tokens: int) -> float:
    """MB above the inputs."""
    torch.set_num_threads(1)
    once(name, inputs(8))  # imports, and what torch allocates once
    tensors = inputs(num_tokens)
    before = status("VmRSS")
    once(name, tensors)
    return status("VmHWM") - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64 * 128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()
    rounds = alone(times, args.tokens, args.rounds)
    peaks = {name: alone(peak, name, args.tokens) for name in WAYS}
    rows = []
    print(f"{args.tokens} tokens, vocabulary {VOCABULARY}, one thread\n")
    print("| head | CPU seconds | to the plain way's (min, median, max) | peak above inputs, MB | to the plain way's |")
    print("|---|---|---|---|---|")
    for name in WAYS:
        ratios = [taken[name] / taken["plain"] for taken in rounds]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        memory = peaks[name] / peaks["plain"]
        rows.append({"name": f"head, {name}", "cpu_ratio_median": middle, "memory_ratio": memory})
        seconds = statistics.median(taken[name] for taken in rounds)
        print(f"| {name} | {seconds:.1f} | {low:.2f}, {middle:.2f}, {high:.2f} | {peaks[name]:.0f} | {memory:.2f} |")
    difference = alone(largest_difference, args.tokens)
    print(f"\nOurs and the plain way differ by {difference:.1e} of the largest number.")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    mine = rows[list(WAYS).index("ours")]
    return int(not (mine["cpu_ratio_median"] <= 1.3 and mine["memory_ratio"] <= 0.25 and difference <= 1e-6))


if __name__ == "__main__":
    sys.exit(main())
