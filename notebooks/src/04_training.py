# %% [markdown]
# # 04 · Training: one step, and what happens when you repeat it
#
# **You will be able to** write one step of GRPO yourself, train a GPT-2 with it, read the six curves of a run, and stop a run and
# go on with it later as if nothing had happened.
#
# **You need** notebooks [01](01_logprobs.ipynb) to [03](03_loss.ipynb). **Time** 25 minutes.
#
# **Worth the trip:** one update on four completions makes the right digit of a *lucky* guess likelier, and thinking too. The step cannot tell
# luck from thought. A hundred and fifty steps can: sampled, the model goes from 22 right answers in 100 to about 98; greedy, from 15 to more than 99.
# All the while the loss says next to nothing.

# %%
import copy
import tempfile

import matplotlib.pyplot as plt
import torch
from transformers.utils.logging import disable_progress_bar

import minigrpo

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
from minigrpo import (
    GRPOConfig,
    TrainState,
    clock_task,
    evaluate,
    load_policy,
    policy_logits,
    sample_completions,
    seeded,
    train,
)

disable_progress_bar()  # of transformers, over saving a file of a megabyte
policy, tokenizer = load_policy("tiny")
task = clock_task()

# %% [markdown]
# ## The four completions, one last time
#
# The four completions that we have carried along from notebook 01 are now what they always were meant to be: the first rollout of a training run.

# %%
# NBVAL_CHECK_OUTPUT
problem, answer = "4*2+9+7*1*4=", "6"
generator = torch.Generator().manual_seed(192)
first = sample_completions(
    policy, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
)
rewards = minigrpo.score(task.reward, first.prompts, first.completions, {"answer": [answer] * 4})
for completion, reward in zip(first.completions, rewards, strict=True):
    print(f"{completion:14} reward {reward:.0f}")

# %% [markdown]
# ## A step, part by part
#
# **Claim: a step of GRPO has seven parts, and you have written five of them already.** Sample and log-probs are notebook 01, reward and advantage 02, the KL 06, the loss
# 03. Only the last two are new, and these are plain PyTorch.
#
# We cut after the first part, so that we can hand in the four completions above. `reference` is a frozen copy of the model as it was at the start.


# %%
settings = {"beta": 0.04, "epsilon": 0.2}  # GRPOConfig's
settings |= {"loss_type": "grpo", "importance_sampling_level": "token"}


def logprobs_of(model, rollout):
    return minigrpo.token_logprobs(policy_logits(model, rollout), rollout.completion_ids)


# %%
def learn_from(model, reference, optimizer, rollout, answers, config):
    mask, columns = rollout.completion_mask, {"answer": answers}
    rewards = minigrpo.score(task.reward, rollout.prompts, rollout.completions, columns)  # 2 reward
    advantages = minigrpo.compute_advantages(rewards, rollout.group_ids)  # 3 advantage
    logprobs = logprobs_of(model, rollout)  # 4 log-probs
    old = logprobs.detach()  # this policy is the one that sampled
    kl = minigrpo.kl_k3_ratio(logprobs, logprobs_of(reference, rollout), old)
    result = minigrpo.grpo_loss(logprobs, old, advantages, mask, kl=kl, **settings)  # 5 loss
    optimizer.zero_grad()
    result.loss.backward()  # 6 backward
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()  # 7 step
    return result.loss.item(), grad_norm.item()


# %% [markdown]
# Once, then, on the four completions. Which log-probs has the step changed?

# %%
# NBVAL_CHECK_OUTPUT
config = GRPOConfig()
reference = copy.deepcopy(policy).requires_grad_(False)
optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.0)
loss, grad_norm = learn_from(policy, reference, optimizer, first, [answer] * 4, config)
with torch.no_grad():
    change = minigrpo.token_logprobs(policy_logits(policy, first), first.completion_ids) - first.logprobs
print(f"loss {abs(loss):.4f}, gradient norm above 1: {grad_norm > 1}")
print("first token likelier by the factor", [round(x, 2) for x in change[:, 0].exp().tolist()])
assert torch.equal(change[:, 0] > 0, rewards == 1)
assert change[3, 0] > change[0, 0]

# %%
minigrpo.plot_tokens(
    minigrpo.completion_tokens(tokenizer, first), change, label="change of log-prob (nats)"
)
plt.show()

# %% [markdown]
# Thinking has become likelier, and so has the lucky `6`. The wrong guesses have become rarer. **The step knows rewards, not reasons.** It even
# pushes luck harder than thought: both have the advantage 0.866, but the thought shares it among its thirteen tokens, and the guess among two (notebook 03;
# more on this in [05](05_failures.ipynb)).
#
# So why will it learn to think? Because there is a next problem, and luck does not last. Two samples of each of 200 problems, sorted by manner
# (about 6 in 100 are thoughts):

# %%
# NBVAL_CHECK_OUTPUT
fresh, _ = load_policy("tiny")
some = task.train[:200]
drawn = {"num_generations": 2, "max_completion_length": 16, "generator": seeded(0)}
samples = sample_completions(fresh, tokenizer, some["prompt"], **drawn)
columns = {"answer": [answer for answer in some["answer"] for _ in range(2)]}
right = minigrpo.score(task.reward, samples.prompts, samples.completions, columns)
thinks = torch.tensor([task.thinks(completion) for completion in samples.completions])
print(f"thoughts: {right[thinks].mean():.0%} right, guesses: {right[~thinks].mean():.0%} right")
assert right[thinks].mean() > 4 * right[~thinks].mean()

# %% [markdown]
# ## Why is the loss 0?
#
# **Claim: a loss of 0 with a gradient that is not 0 is what a first step must show.** This is the question that people ask most often.
# The ratio is 1, so the objective of a completion is its advantage, and the advantages of a group sum to 0. But the *slope* of the
# objective is advantage times slope of the log-prob, and these do not cancel. The KL is 0 as well, because the policy still is the reference.

# %%
# NBVAL_CHECK_OUTPUT
advantages = minigrpo.compute_advantages(rewards, first.group_ids)
ratio = torch.ones(4, requires_grad=True)
value = -(ratio * advantages).mean()
value.backward()
print("advantages       ", [round(a, 3) for a in advantages.tolist()])
print("loss             ", round(abs(value.item()), 6))
print("slope in each one", [round(g, 3) for g in ratio.grad.tolist()])
assert abs(loss) < 1e-6
assert grad_norm > 1

# %% [markdown]
# So do not read progress off the loss. It would be 0 for a perfect model and for a hopeless one. Read it off the reward.
#
# ## The same step, by `train`
#
# **Claim: `minigrpo.train` does these seven things, and nothing else.** It draws eight problems, and eight completions of each, from a generator
# that depends on the seed and the step alone. We draw the same, take our step, and compare the loss and every weight.

# %%
from minigrpo.training import step_prompts  # the problems of a step

mine, _ = load_policy("tiny")
reference = copy.deepcopy(mine).requires_grad_(False)
optimizer = torch.optim.AdamW(mine.parameters(), lr=config.learning_rate, weight_decay=0.0)
problems = step_prompts(task.train, 0, config)
drawn = {"num_generations": 8, "max_completion_length": 16, "generator": seeded(config.seed, 2, 0)}
rollout = sample_completions(mine, tokenizer, problems["prompt"], **drawn)  # 1 sample
answers = [text for text in problems["answer"] for _ in range(8)]
my_loss, my_grad_norm = learn_from(mine, reference, optimizer, rollout, answers, config)

# %%
state = TrainState.start(*load_policy("tiny"), config)
metrics = next(train(state, task.train, [task.reward], config))
torch.testing.assert_close(my_loss, metrics["loss"], rtol=1e-5, atol=1e-7)
torch.testing.assert_close(my_grad_norm, metrics["grad_norm"], rtol=1e-5, atol=1e-7)
compared, weights = 0, sum(p.numel() for p in mine.parameters())
for ours, theirs in zip(mine.parameters(), state.model.parameters(), strict=True):
    clear = ours.grad.abs() > 1e-7  # more than rounding
    torch.testing.assert_close(ours[clear], theirs[clear], rtol=0, atol=1e-6)
    compared += int(clear.sum())
print(f"{compared / weights:.0%} of the {weights} weights have a gradient, and end up the same")
assert compared > 0.8 * weights

# %% [markdown]
# The others have no gradient (bytes and positions that did not occur), or one that is nothing but rounding, such as the biases of the keys, which a softmax does not see. `train` gets the same log-probs in a shorter way
# ([08](08_variants.ipynb)), which rounds otherwise; and AdamW, which divides each gradient by its own size, makes a whole step even of rounding.
#
# `train` is a generator: it yields a dict of numbers after each update. Progress bars, plots, stopping early: all of that stands in *your* `for` loop.
#
# ## One rollout, several updates: `num_iterations`
#
# Sampling is the slow part, so why not learn from a rollout more than once? **Claim: from the second update on, the policy is no longer the one that
# sampled; the ratio leaves 1, and only then has the clip something to do.** A `clip_ratio` of 0 is therefore right with
# `num_iterations=1`, the default, at every step.

# %%
several = GRPOConfig(num_iterations=4, max_steps=8, generation_batch_size=32, learning_rate=1e-3)
state = TrainState.start(*load_policy("tiny"), several)
clip = [row["clip_ratio"] for row in train(state, task.train, [task.reward], several)]
for rollout_number in range(2):
    print(
        "rollout",
        rollout_number + 1,
        "clipped:",
        [f"{c:.0%}" for c in clip[rollout_number * 4 : rollout_number * 4 + 4]],
    )
assert clip[0] == clip[4] == 0
assert max(clip[1:4]) > 0

# %% [markdown]
# Each first update has exactly 0. The learning rate is five times the usual one here, to make the effect visible within four updates.
# A "step" in the metrics is always an optimizer update, not a rollout.
#
# ## A hundred and fifty steps
#
# First, where do we stand? 500 problems that are never trained on, two samples each.

# %%
before = evaluate(*load_policy("tiny"), task, num_generations=2)
for name, value in before.items():
    print(f"{name:16} {value:.2f}")
assert 0.15 < before["accuracy"] < 0.3
assert before["accuracy_greedy"] < 0.25

# %% [markdown]
# Right in 22 of 100 samples. `accuracy_greedy` is what you get if you always take the *likeliest* token: right in only 15 of 100, because the likeliest first token
# is a digit on every one of these problems, and so the answer is a guess. How to think the model does know. Its supervised training showed it worked answers at first, and
# then made them rare: 6 in 100 ([model card](../minigrpo/assets/tiny-gpt2/README.md)). **The ability is there before training; what GRPO changes is how often it is used.** Keep this in
# mind when you read that reinforcement learning "taught" a model something.
#
# We train with a seed of our own (5), and every fifteen steps ask for `4*2+9+7*1*4=` again: four samples, always from the same generator.


# %%
def ask(model):
    """The probability that the answer starts with a thought, and four samples."""
    generator = torch.Generator().manual_seed(192)
    rollout = sample_completions(
        model, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
    )
    with torch.no_grad():
        first_token = torch.softmax(policy_logits(model, rollout)[0, 0], dim=0)
    return f"P(<) = {first_token[tokenizer.encode('<')[0]]:.2f}   " + "  ".join(rollout.completions)


# %%
config = GRPOConfig(seed=5)  # max_steps is 150
state = TrainState.start(*load_policy("tiny"), config)
live = []
print("step   0 ", ask(state.model))
for metrics in minigrpo.watch(
    train(state, clock_task(5).train, [task.reward], config), ["reward", "kl"], every=15
):
    completions = state.batch.rollout.completions
    live.append(metrics | {"thinking": sum(map(task.thinks, completions)) / len(completions)})
    if metrics["step"] % 15 == 0:
        print(f"step {metrics['step']:3} ", ask(state.model))

# %%
rewards = [row["reward"] for row in live]
start, end = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
print(f"mean reward of the first five steps {start:.2f}, of the last five {end:.2f}")
assert start < 0.4
assert end > 0.9
assert abs(live[0]["kl"]) < 1e-6
assert sum(abs(row["loss"]) < 0.1 for row in live) > 0.9 * len(live)
assert ask(state.model).count("<8,7,4,4,6>6") >= 3

# %% [markdown]
# In these 150 steps the model saw no worked example but its own, and the reward never looks at the thinking: it is right or wrong, at the end. What was planted
# in 6 of 100 answers is now the habit.
#
# Does it hold for problems that it has never been trained on?

# %%
after = evaluate(state.model, tokenizer, task, num_generations=2)
for name in before:
    print(f"{name:16} {before[name]:6.2f} -> {after[name]:6.2f}")
assert after["accuracy"] > 0.93
assert after["accuracy_greedy"] > 0.97
assert after["mean_length"] > 3 * before["mean_length"]

# %% [markdown]
# **The largest change is in `accuracy_greedy`: from 0.15 to more than 0.99.** No temperature would have got you there, not even 0: that is where we started. GRPO has changed what is likeliest.
# Accuracy and length rise together, as DeepSeek-R1 reported of far larger models (arXiv:2501.12948).
#
# ## The dashboard
#
# **Claim: six numbers tell you whether a run is well, and each has a shape that it should have.** What they mean is kept in one place, `METRICS`:

# %%
# NBVAL_CHECK_OUTPUT
panels = ["reward", "kl", "completions/mean_length", "thinking", "entropy", "frac_reward_zero_std"]
for name in panels:
    metric = minigrpo.METRICS[name]
    print(f"{name} ({metric.unit}): {metric.meaning}\n    healthy: {metric.healthy}")

# %% [markdown]
# One run is an anecdote. Which part of a curve is the method, and which is luck? Five runs with seeds 0 to 4 have been recorded. In blue their mean, and the band from
# the lowest to the highest of the five; in orange the run that you have just made.

# %%
runs = [minigrpo.read_metrics(f"runs/seed-{seed}.jsonl") for seed in range(5)]
axes = minigrpo.plot_runs(runs, title="seeds 0 to 4 (blue: mean and range) and this run (orange)")
for ax, name in zip(axes, panels, strict=True):
    minigrpo.plot_metric([live], name, ax=ax, color="#D55E00", linestyle="--").autoscale(axis="y")
    ax.set_ylim(bottom=0)
plt.show()

# %% [markdown]
# How to read it, from top left:
#
# - **Reward** is an S. In the first thirty steps little happens: with 6 thoughts in 100, most groups have none, and what they praise is luck. The more it thinks, the more thoughts there are to praise; between
#   steps 40 and 70 it takes off, in all five runs. If it never does, look at the last panel first.
# - **KL** starts at 0, to rounding: the policy *is* the reference. It rises while the policy changes its mind, and settles when
#   there is little left to gain. As a mean over the tokens drawn it may dip just below 0 at first.
# - **Length** and **thinking** tell *how* the reward was earned. Here they rise together. A length that rises while the reward does not is a warning.
# - **Entropy** falls: the policy makes up its mind. At 0 it tries nothing new, so it should not get there before the reward is high.
# - **Groups that agree** have advantage 0 and teach nothing. Few at the start; most of them at the end, when all eight answers are right. At 1 the run is over, whatever
#   `max_steps` says.
#
# **Claim: our run is one of the family.** Seed 5 was not recorded, so it may leave the range of the five here and there, but not by much:

# %%
from minigrpo.view.plots import moving_mean  # the smoothing of the figure

curves = torch.stack([torch.tensor(moving_mean([row["reward"] for row in rows])) for rows in runs])
mine = torch.tensor(moving_mean(rewards))
assert curves[:, 29].max() < 0.5 and curves[:, 79].min() > 0.9
outside = torch.maximum(curves.min(0).values - mine, mine - curves.max(0).values).clamp(min=0)
print(f"largest distance from the range of the five: {outside.max():.2f}")
assert outside.max() < 0.15

# %% [markdown]
# And how far apart are the five themselves?

# %%
# NBVAL_CHECK_OUTPUT
spread = curves.max(0).values - curves.min(0).values
print(
    f"largest lead of one seed over another: {spread.max():.2f} (step {int(spread.argmax()) + 1}); at step 150: {spread[-1]:.2f}"
)
print(
    "steps until the smoothed reward is above 0.9:",
    [int((curve > 0.9).int().argmax()) + 1 for curve in curves],
)

# %% [markdown]
# If you compare two methods with one run each and find a difference of this size, all you have compared is two seeds.
#
# ## Stop, and go on
#
# A long run is interrupted sooner or later. **Claim: a run that was saved and resumed ends with the same weights, bit for bit, as one that never stopped.** That takes
# more than the weights: the optimizer's averages, the step, and the rollout that updates are still to come on. And the random draws must not
# depend on what was drawn before, which is why step n has a generator of its own.


# %%
def six_steps(state, until=6):
    config = GRPOConfig(max_steps=until, generation_batch_size=32)
    for _ in train(state, task.train, [task.reward], config):
        pass
    return state


config = GRPOConfig()
whole = six_steps(TrainState.start(*load_policy("tiny"), config))
stopped = six_steps(TrainState.start(*load_policy("tiny"), config), until=3)
with tempfile.TemporaryDirectory() as folder:
    checkpoint = minigrpo.save_checkpoint(stopped, folder)
    resumed = minigrpo.load_checkpoint(checkpoint, TrainState.start(*load_policy("tiny"), config))
resumed = six_steps(resumed)


# %%
# NBVAL_CHECK_OUTPUT
def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


assert same(whole, resumed)
assert not same(whole, stopped)
print(checkpoint.name, "resumed; step", resumed.step, "has the same weights:", same(whole, resumed))

# %% [markdown]
# What goes wrong if only the weights are saved? AdamW starts with empty averages, and its first steps are as long as the learning rate allows.

# %%
forgetful = TrainState.start(copy.deepcopy(stopped.model), tokenizer, config)
forgetful.step = 3
forgetful.reference = copy.deepcopy(whole.reference)
forgetful = six_steps(forgetful)
pairs = zip(whole.model.parameters(), forgetful.model.parameters(), strict=True)
off = max((a - b).abs().max().item() for a, b in pairs)
print(
    f"without the optimizer's averages, a weight is off by up to {off / config.learning_rate:.1f} learning rates"
)
assert off > config.learning_rate

# %% [markdown]
# Outside of a notebook, `minigrpo train` does all of this: it writes the metrics, saves a checkpoint every `save_steps`, and `--resume` goes on.
#
# ## Questions
#
# 1. Step 1 has loss 0 and step 60 has loss 0.01. Is the model getting worse?
#    <details><summary>Answer</summary>No. The policy's part is 0 at both, since advantages sum to 0 in each group. What has come is beta times the KL, because the policy
#    has moved away from the reference.</details>
# 2. A colleague reports `clip_ratio` 0 for the whole run and suspects a bug. What do you ask?
#    <details><summary>Answer</summary>How many updates on one rollout. With one the ratio is 1 by construction. With more it is worth looking for a bug: old log-probs
#    that are computed anew before each update.</details>
# 3. Line 4 scores the completions again although the sampler has noted their log-probs. Why not use the sampler's?
#    <details><summary>Answer</summary>They carry no gradient: they were made without one, token by token. The new ones are equal in value and lead back to the weights.</details>
# 4. The last panel says that 95 % of the groups agree. How many completions of a rollout of 64 still teach?
#    <details><summary>Answer</summary>About 3: one group of eight in every second or third rollout. Only harder problems would give the run more to learn from.</details>
# 5. Before training, would a lower temperature have helped as much as GRPO did?
#    <details><summary>Answer</summary>No. It makes what is likeliest still likelier, and that was a guess: at temperature 0 only 15 in 100 were right. GRPO makes likelier what was
#    *rewarded*, however rare. But it must be drawn at times: the task is made so that the ability is there, in 6 of 100 answers; where it never shows, there is no reward to learn from.</details>
#
# **Exercise:** [ex04](../exercises/ex04_training.ipynb). **Next:** [05 · Failures](05_failures.ipynb).
