# %% [markdown]
# # 00 · One picture: a model learns to think
#
# **You will be able to** say what GRPO does in one sentence, run it, read its curves, and tell a training loop that learns from one that
# only looks as if it did.
#
# **You need** Python and a little PyTorch. No network, no GPU. **Time** 20 minutes.
#
# **Worth the trip:** in a few seconds on your laptop, a GPT-2 that hardly ever thinks first makes it a habit, because it is rewarded for being right.
#
# | lesson | idea |
# |---|---|
# | **00** | one picture, and a snippet that trains nothing |
# | [01](01_logprobs.ipynb) | log-probs: what the policy thinks of its own words |
# | [02](02_policy_gradient.ipynb) | advantages: better than the others of its group |
# | [03](03_loss.ipynb) | the loss: ratio, clip, penalty, average |
# | [04](04_training.ipynb) | the loop |
# | [05](05_failures.ipynb) | what goes wrong, and what it looks like |
# | [06](06_kl.ipynb) | KL: how far from where it began |
# | [07](07_triples.ipynb) | learning from scored records |
# | [08](08_variants.ipynb) | variants, the real GPT-2, and on to TRL |

# %%
import copy

import matplotlib.pyplot as plt
import torch

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
from minigrpo import (
    GRPOConfig,
    TrainState,
    clock_task,
    evaluate,
    load_policy,
    load_triples,
    plot_pipeline,
    sample_completions,
    seeded,
    sums_task,
    thinks_first,
    train,
    watch,
)

# %% [markdown]
# ## A problem that is easy in steps and hard at once
#
# *Clock arithmetic*: work from left to right and keep only the last digit, as on a clock with ten hours. `7*3+5*8-2+9=` is `7*3` = 21, so 1; `1+5` = 6;
# `6*8` = 48, so 8; `8-2` = 6; `6+9` = 15, so **5**. Five easy steps, each of which needs the one before it.
#
# The bundled policy is a real GPT-2 with two layers and 0.27 million weights. It was pretrained on right answers: most came at once
# (`5`), and some wrote down their steps first (`<1,6,8,6,5>5`): one in four while it learnt how, then only 6 in 100. That skill was planted, and so was its being rare. Let the model answer the same problem eight times.

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = load_policy("tiny")
rollout = sample_completions(
    policy, tokenizer, ["7*3+5*8-2+9="], num_generations=8, max_completion_length=16, generator=seeded(28)
)
print(rollout.completions)

# %% [markdown]
# **Claim: when it answers at once it mostly guesses; when it thinks it is nearly always right.** Measured on 100 problems that it has never seen, eight samples each:

# %%
# NBVAL_CHECK_OUTPUT
task = clock_task()
problems = task.held_out.select(range(100))
rollout = sample_completions(
    policy, tokenizer, problems["prompt"], num_generations=8, max_completion_length=16, generator=seeded(0)
)
answers = [answer for answer in problems["answer"] for _ in range(8)]
right = torch.tensor(task.reward(rollout.prompts, rollout.completions, answer=answers))
thinks = torch.tensor([thinks_first(completion) for completion in rollout.completions])
print(f"thinks first: {thinks.float().mean():.2f}")
print(f"right when it thinks:  {right[thinks].mean():.1f}")
print(f"right when it does not: {right[~thinks].mean():.1f}")
assert right[thinks].mean() > 0.95 and right[~thinks].mean() < 0.25

# %% [markdown]
# So the model *can* do it, and hardly ever does. If you take its likeliest token each time (greedy decoding), it never does. We shall not tell it to. We shall only say, of each answer, **right (1) or wrong (0)**.
#
# ## What GRPO does, in one sentence
#
# > Let the model answer each question several times, and make the answers that were better than the average of their group likelier, the others
# > less likely, in small steps, without going far from where it began.
#
# As a picture, with the notebook that explains each box:

# %%
plot_pipeline()
plt.show()

# %% [markdown]
# P questions, G answers to each, B = P·G answers in all; each answer has up to C tokens. *Group Relative* Policy Optimization is named after the advantage: an
# answer is compared with the other answers to the same question ([DeepSeekMath](https://arxiv.org/abs/2402.03300), 2024).
#
# ## Train it
#
# `train` yields one dict of numbers for each update. The figure below is redrawn while it runs. Watch the reward (the share of right answers), and how many completions think first.

# %%
# NBVAL_CHECK_OUTPUT
config = GRPOConfig(max_steps=100)
print(
    "G =",
    config.num_generations,
    "answers to each of P =",
    config.generation_batch_size // config.num_generations,
    "questions",
)

# %%
state = TrainState.start(*load_policy("tiny"), config)
rows, thinking = [], []
for metrics in watch(
    train(state, task.train, [task.reward], config), ["reward", "completions/mean_length", "kl"]
):
    rows.append(metrics)
    completions = state.batch.rollout.completions
    thinking.append(sum(map(thinks_first, completions)) / len(completions))

# %% [markdown]
# Reward and length rise *together*: the model writes more, because those who write more are right more often. That is what was reported of
# [DeepSeek-R1](https://arxiv.org/abs/2501.12948), here in a few seconds. The KL says how far the policy has moved from its beginning.

# %%
before, after = sum(thinking[:5]) / 5, sum(thinking[-5:]) / 5
print(f"thinks first: {before:.0%} of the first five batches, {after:.0%} of the last five")
assert after > 0.8 > 0.5 > before
assert sum(row["reward"] for row in rows[-5:]) / 5 > 0.85

# %% [markdown]
# On problems that it never saw, the same policy before and after:

# %%
for name, model in (("before", policy), ("after", state.model)):
    scores = evaluate(model, tokenizer, task, num_generations=2)
    print(
        f"{name:7} right {scores['accuracy']:.2f}   greedy {scores['accuracy_greedy']:.2f}   thinks first {scores['thinking']:.2f}   length {scores['mean_length']:.1f}"
    )
assert min(scores["accuracy"], scores["accuracy_greedy"]) > 0.9

# %% [markdown]
# So GRPO has not taught the model to think. It found a skill that was there and rare, because the answers that used it were rewarded, and made it the habit: in samples, and greedy too.
# (Answers given at once are wrong because five dependent steps do not fit into two layers; the corpus has no wrong answers to clock problems.)
#
# ## The snippet that trains nothing
#
# This course began with a few lines that were meant to do something like it. The data were (prompt, response, reward) records, the objective was "reward minus beta times KL". Here they
# are in our words. They run, they print a loss, and the loss moves. Read them and predict: what will they learn?


# %%
def snippet_loss(model, reference, tokenizer, records, beta=0.1):
    inputs = tokenizer(records["prompt"], return_tensors="pt", padding=True)
    policy_probs = torch.softmax(model(**inputs).logits, dim=-1)
    with torch.no_grad():
        ref_probs = torch.softmax(reference(**inputs).logits, dim=-1)
    divergence = (
        torch.nn.functional.kl_div(torch.log(policy_probs), ref_probs, reduction="sum") / ref_probs.numel()
    )
    rewards = torch.tensor(records["reward"])
    return -rewards.mean() + beta * divergence


# %% [markdown]
# (Where we divide by all the numbers there are, it had `reduce="batchmean"`. `reduce` is an old flag, any true value of which means just that: one more of its faults.)
#
# **Claim: at the start its gradient is zero.** The reward is a plain number: no path leads from it to a weight. And the KL between two equal policies is at its minimum.

# %%
# NBVAL_CHECK_OUTPUT
records = load_triples("bundled")  # questions such as "1 + 1 = ?", answers, and scores from 1 to 5
model = copy.deepcopy(policy)


def gradient(model, records):
    loss = snippet_loss(model, policy, tokenizer, records)
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


at_start = gradient(model, records[:64])
assert at_start.norm() < 1e-6
print("gradient norm below one millionth:", bool(at_start.norm() < 1e-6))

# %% [markdown]
# **Claim: the reward never has a say.** Move the model away from its start, so that there is a gradient at all, and turn every reward into its opposite:

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=seeded(1)))
batch = records[:64]
opposite = batch | {"reward": [-reward for reward in batch["reward"]]}
one, other = gradient(model, batch), gradient(model, opposite)
print(
    "a gradient is there:",
    bool(one.norm() > 1e-4),
    "  the same for opposite rewards:",
    torch.equal(one, other),
)
assert torch.equal(one, other)

# %% [markdown]
# Nor does the response: the function never looks at it. What the records ask for (the full equation, scored 5) and what the snippet does in 60 steps:

# %%
model, sums = copy.deepcopy(policy), sums_task()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, eps=1e-4, weight_decay=0.0)
for step in range(60):
    chosen = torch.randperm(len(records), generator=seeded(0, step))[:64].tolist()
    optimizer.zero_grad()
    snippet_loss(model, policy, tokenizer, records[chosen]).backward()
    optimizer.step()

scores = [
    evaluate(m, tokenizer, sums, num_generations=8, max_completion_length=24)["accuracy"]
    for m in (policy, model)
]
print(f"full equations: {scores[0]:.2f} before, {scores[1]:.2f} after")
assert abs(scores[1] - scores[0]) < 0.08  # within the noise of 640 samples

# %% [markdown]
# | the snippet | what it does | where we repair it |
# |---|---|---|
# | tokenizes the prompt alone | the response is never seen | [01](01_logprobs.ipynb): log-probs of the response's tokens |
# | `-rewards.mean()` | a constant | [03](03_loss.ipynb): each token's log-prob times its advantage |
# | `kl_div(log(policy), ref)` | KL(reference, policy), the other direction, and zero at the start | [06](06_kl.ipynb) |
# | `reduce="batchmean"` | a mean over batch, length *and vocabulary*: beta is hundreds of times too weak | [06](06_kl.ipynb): nats per token |
# | `log(softmax(x))` | minus infinity where a probability underflows | [01](01_logprobs.ipynb): `log_softmax` |
#
# On the same records, with the same optimizer and steps, [notebook 07](07_triples.ipynb) takes the share of full equations from 0.3 to 0.95.
#
# **The moral: a loss that goes down is no evidence.** Ask what the gradient depends on. Turn the reward around; if nothing changes, nothing is learnt.
#
# ## Questions
#
# 1. The model is rewarded only for the answer. Why does it write the steps?
#    <details><summary>Answer</summary>Completions that happen to think are right more often, so they are above the average of their group; making them likelier makes their first token, <code>&lt;</code>, likelier.</details>
# 2. Would it have learnt to think if it had never thought before training?
#    <details><summary>Answer</summary>No. What is never sampled is never rewarded. GRPO moves probability among things that the policy already does now and then.</details>
# 3. One answer in sixteen thinks. Why does greedy decoding never do, before training?
#    <details><summary>Answer</summary>Greedy decoding takes the likeliest first token. With 0.06, <code>&lt;</code> is behind most of the ten digits, which share the other 0.94.</details>
# 4. Name a change of the data that the snippet's gradient does not notice.
#    <details><summary>Answer</summary>Any change of rewards or responses: shuffle them, negate them, delete them.</details>
#
# **Next:** [01 · Log-probs](01_logprobs.ipynb).
