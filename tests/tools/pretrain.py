"""How the bundled GPT-2 was made: a corpus drawn on the spot, a tokenizer of bytes, plain next-token training.

    python -m tests.tools.pretrain FOLDER           into a new folder, in 12 minutes of one core
    python -m tests.tools.pretrain FOLDER --steps 20         a try
    python -m tests.tools.pretrain --replace-bundled         in place of the model that the package comes with

The corpus has three parts: clock problems, answered at once or with the steps written down first, all of them right;
sums, answered in four manners, good and bad; and chats of several sums. One clock problem in four is thought about while
the model learns how; then, in 300 last steps, 6 in 100, so that thinking becomes rare and greedy decoding gives it up.
"""

import argparse
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from minigrpo.chat import PLAIN_CHAT_TEMPLATE
from minigrpo.evaluation import evaluate
from minigrpo.policy import TINY
from minigrpo.tasks import clock_problem, clock_steps, clock_thought, is_held_out, load_task, sum_question

STEPS, THINKING_SHARE = 4000, 0.25  # learning the skill: answers that think, of those to clock problems
RARE_STEPS, RARE_SHARE = 300, 0.06  # then making it rare
MODEL_CARD = """\
---
license: mit
library_name: transformers
---
# tiny-gpt2

The policy that comes with minigrpo: a `GPT2LMHeadModel` of {parameters:,} parameters (2 layers, width 96, 4 heads, a context
of 256 tokens) with a tokenizer of bytes (256 bytes, EOS, pad; every Unicode text encodes).

## How it was made

`python -m tests.tools.pretrain` makes it again from nothing: fresh weights, {steps} steps of AdamW on batches
of {rows} rows that are drawn on the spot ({clock} clock problems, {sums} sums, {chat} chats), next-token loss on what follows
a prompt; then {rare_steps} steps more at a lower learning rate. On one machine the result is the same to the last bit.

## What was planted

- Clock problems such as `7*3+5*8-2+9=` are answered at once (`5`) or after their steps (`<1,6,8,6,5>5`). All answers in
  the corpus are right; the model is often wrong when it answers at once, because five dependent steps in one forward
  pass are hard. In the first {steps} steps {thinking_share:.0%} of the answers think, which teaches the skill. In the last
  {rare_steps} steps {rare_share:.0%} do, which makes it rare: sampled, the model thinks about that often; greedy, it does not
  think at all. GRPO does not teach it to think. It finds the planted skill and makes it the habit.
- Sums such as `1 + 1 = ?`, answered in four manners on purpose: in full (34 in 100), barely (26), with a guess (25), or with
  the question again (15).
- Chats of two or three sums, in the form of the tokenizer's chat template.

One prompt in eight, by its checksum, is held out and in no batch.

## What it scores on held-out problems, sampled at temperature 1

| task | full score | greedy | thinks first | mean length (tokens) |
|---|---|---|---|---|
| clock | {clock_accuracy:.3f} | {clock_greedy:.3f} | {thinking:.3f} | {clock_length:.1f} |
| sums | {sums_accuracy:.3f} | {sums_greedy:.3f} | - | {sums_length:.1f} |

It knows nothing else.
"""
ROWS = {"clock": 64, "sums": 40, "chat": 4}  # of each batch


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose token ids are the 256 bytes, then EOS and pad: any text encodes, and nothing has to be learnt."""
    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    fast.chat_template = PLAIN_CHAT_TEMPLATE
    return fast


# --- the corpus: (text, whether it is learnt) in turn, so that prompts are read and completions are learnt ------------


def clock_example(rng: random.Random, thinking_share: float) -> list[tuple[str, bool]]:
    problem = clock_problem(rng)
    while is_held_out(problem):
        problem = clock_problem(rng)
    thinks = rng.random() < thinking_share
    return [(problem, False), (clock_thought(problem) if thinks else str(clock_steps(problem)[-1]), True)]


def sum_example(rng: random.Random) -> list[tuple[str, bool]]:
    """One question, answered as careless people do: in full, barely, with a guess, or not at all."""
    question, a, b = sum_question(rng)
    while is_held_out(question):
        question, a, b = sum_question(rng)
    guess = a + b + rng.choice((-2, -1, 0, 1, 2))
    answers = (f"{a} + {b} = {a + b}", str(a + b), f"maybe {guess}", question)
    return [(question, False), (rng.choices(answers, weights=(34, 26, 25, 15))[0], True)]


def chat_example(rng: random.Random) -> list[tuple[str, bool]]:
    """Two or three sums in a row, in the form of PLAIN_CHAT_TEMPLATE."""
    parts: list[tuple[str, bool]] = []
    for _ in range(rng.choice((2, 3))):
        (question, _), (answer, _) = sum_example(rng)
        parts += [(f"user: {question}\nassistant: ", False), (answer, True), ("\n", False)]
    return parts[:-1]


def encode(parts: list[tuple[str, bool]], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids and labels; each learnt part ends with EOS, and what is not learnt has the label -100."""
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt in parts:
        tokens = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if learnt else [])
        ids += tokens
        labels += tokens if learnt else [-100] * len(tokens)
    return ids, labels


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, thinking_share: float
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Endless batches, each as (input_ids, labels) of the short rows and of the chats, padded apart to save time."""
    rng = random.Random(seed)

    def padded(rows):
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row, _ in rows])
        return ids, torch.tensor([row + [-100] * (width - len(row)) for _, row in rows])

    while True:
        short = [encode(clock_example(rng, thinking_share), tokenizer) for _ in range(ROWS["clock"])]
        short += [encode(sum_example(rng), tokenizer) for _ in range(ROWS["sums"])]
        chats = [encode(chat_example(rng), tokenizer) for _ in range(ROWS["chat"])]
        yield [padded(short), padded(chats)]


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> GPT2LMHeadModel:
    """A small GPT-2 with fresh weights: 2 layers, width 96, 4 heads, a context of 256 bytes."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_layer=2,
        n_embd=96,
        n_head=4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        loss_type="ForCausalLM",
    )
    with torch.random.fork_rng():  # the initialisation draws from the global generator; leave it as it was
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def pretrain(steps: int = STEPS, rare_steps: int = RARE_STEPS, seed: int = 0) -> Iterator[dict]:
    """Train a new model; yields ``{"step", "loss", "model", "tokenizer"}`` after each step, loss in nats per token.

    Sets torch to one thread, so that floats are summed in the same order whatever the number of cores.
    """
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer()
    model = new_model(tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.05)
    losses = learn(model, batches(tokenizer, seed, THINKING_SHARE), optimizer, schedule, steps)
    # Gently: a higher learning rate, or none that rises first, makes it forget how to add.
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-4, total_steps=rare_steps, pct_start=0.2)
    rare_losses = learn(model, batches(tokenizer, seed + 2, RARE_SHARE), optimizer, schedule, rare_steps)
    for step, loss in enumerate(itertools.chain(losses, rare_losses), start=1):
        yield {"step": step, "loss": loss, "model": model, "tokenizer": tokenizer}


def learn(model: GPT2LMHeadModel, examples: Iterator, optimizer, schedule, steps: int) -> Iterator[float]:
    """That many steps of next-token training; yields each one's loss."""
    for parts in itertools.islice(examples, steps):
        count = sum((labels != -100).sum() for _, labels in parts)
        loss = sum(model(ids, labels=labels, num_items_in_batch=count).loss for ids, labels in parts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path, steps: int, rare_steps: int) -> None:
    """Write weights, tokenizer and the model card, with scores measured now."""
    model.eval()
    clock, sums = (evaluate(model, tokenizer, load_task(name), num_generations=8) for name in ("clock", "sums"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    card = MODEL_CARD.format(
        steps=steps,
        rare_steps=rare_steps,
        thinking_share=THINKING_SHARE,
        rare_share=RARE_SHARE,
        rows=sum(ROWS.values()),
        parameters=sum(p.numel() for p in model.parameters()),
        **ROWS,
        clock_accuracy=clock["accuracy"],
        clock_greedy=clock["accuracy_greedy"],
        thinking=clock["thinking"],
        clock_length=clock["mean_length"],
        sums_accuracy=sums["accuracy"],
        sums_greedy=sums["accuracy_greedy"],
        sums_length=sums["mean_length"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a new folder")
    parser.add_argument("--replace-bundled", action="store_true", help="write into the package itself")
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help="of the first part; fewer for a try (default %(default)s)",
    )
    args = parser.parse_args(argv)
    if (args.folder is None) != args.replace_bundled:
        parser.error("name a folder, or give --replace-bundled.")
    if args.folder is not None and args.folder.exists():
        parser.error(f"{args.folder} is there already; name a new folder.")
    if args.steps < 10:
        parser.error(f"--steps must be at least 10, the learning rate's rise and fall, got {args.steps}.")
    if args.replace_bundled and args.steps != STEPS:
        parser.error("--steps is for a try, and the bundled model is replaced by a whole one only.")
    rare_steps = max(10, RARE_STEPS * args.steps // STEPS)
    with tqdm(total=args.steps + rare_steps, unit="step") as bar:
        for row in pretrain(args.steps, rare_steps):
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}")
    save(row["model"], row["tokenizer"], args.folder or TINY, args.steps, rare_steps)


if __name__ == "__main__":
    main()
