# %% [markdown]
# # 04 · Training: one step, repeated
#
# **You will be able to** write a step of GRPO and the loop around it, train a GPT-2 on functions that you wrote yourself, read the curves of
# a run, stop a run and resume it, and ask what would have happened with another setting.
#
# **You need** lessons [01](01_logprobs.ipynb) to [03](03_loss.ipynb). **Time** 40 minutes, with the function that you write.
#
# **Worth the trip:** when this model always takes its likeliest token, it gets 15 of 100 problems right. After training it
# gets more than 95, on problems that it was not trained on, and no solution was shown to it. The functions that do it may be
# yours.

# %%
import copy
import tempfile

import matplotlib.pyplot as plt
import torch
from transformers.utils.logging import disable_progress_bar

import minigrpo as mg
from minigrpo.training import step_prompts
from minigrpo.view.controls.settings import plot_over_band, run_steps, try_settings
from minigrpo.view.plots import moving_mean

# %%
plt.rcParams["figure.dpi"] = 75
torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores
disable_progress_bar()  # transformers would show one for each checkpoint
runs = [mg.read_metrics(f"runs/seed-{seed}.jsonl") for seed in range(5)]  # 150 steps each

# %% [markdown]
# One step is this picture, from left to right. Training repeats it with other problems:

# %%
mg.plot_group(mg.worked_example())
plt.show()

# %% [markdown]
# This step makes thinking likelier, and the lucky `6` as well. Lesson 02 measured that on average `<` wins. Now watch it win.
#
# ## The loop in miniature
#
# Take the smallest policy there is: one logit per possible first token, $z$. A step draws G tokens, gets G rewards, and
# changes the logits:
#
# $$A_i = \frac{R_i - \bar R}{s + 10^{-4}}, \qquad L = -\frac{1}{G}\sum_i A_i \log \pi(y_i), \qquad z \leftarrow z - \eta\, \nabla_z L$$
#
# That is GRPO with one update per rollout and no KL penalty: by lesson 03, minus advantage times log-prob then has the right
# gradient.
#
# ### You write it
#
# `logits` is (V,), `tokens` (G,) holds their ids, `rewards` is (G,), and `learning_rate` is the number $\eta$. Return new
# logits (V,), and leave the tensor `logits` as it was. $s$ is the sample standard deviation, torch's default. By hand: logits
# (0, 0), tokens (0, 1), rewards (1, 0) and $\eta = 1$ give advantages $\pm 0.707$ and new logits $(0.3535, -0.3535)$.


# %%
def grpo_step(logits, tokens, rewards, learning_rate):
    raise NotImplementedError


# %%
# NBVAL_CHECK_OUTPUT
answer = mg.check(grpo_step)
answer

# %% [markdown]
# Stuck? Run `mg.hint("04.1")`. It says more each time.
#
# <details><summary>Solution</summary>
#
# ```python
# def grpo_step(logits, tokens, rewards, learning_rate):
#     advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
#     moving = logits.detach().clone().requires_grad_()
#     logprobs = torch.log_softmax(moving, dim=0)[tokens]
#     loss = -(advantages * logprobs).mean()
#     return logits - learning_rate * torch.autograd.grad(loss, moving)[0]
# ```
#
# </details>
#
# Now the loop. Token 0 stands for `<`, which is right 97 times in 100. Tokens 1 to 10 are guesses, and each problem draws the
# digit that is right. At first `<` comes 6 times in 100. **Write down:** will `P(<)` rise steadily, rise in the shape of an S,
# or not at all?

# %%
from minigrpo.grading.lesson04 import QUESTIONS

right = getattr(answer, "about", "") is None
step = grpo_step if right else QUESTIONS[0].reference  # yours, once it passes


# %%
def miniature(seed, steps=120):
    generator, thinks = torch.Generator().manual_seed(seed), []
    logits = torch.tensor([0.06] + [0.094] * 10).log()
    for _ in range(steps * 8):  # eight problems per step, here with an update after each
        tokens = torch.multinomial(logits.softmax(0), 8, replacement=True, generator=generator)
        luck, digit = torch.rand(8, generator=generator), torch.randint(1, 11, (), generator=generator)
        rewards = torch.where(tokens == 0, luck < 0.97, tokens == digit).float()
        logits = step(logits, tokens, rewards, 0.03)
        thinks.append(logits.softmax(0)[0].item())
    return thinks[7::8]


# %%
curves = torch.tensor([miniature(seed) for seed in range(3)])
_, axes = plt.subplots(1, 2, figsize=(8.5, 2.8), layout="constrained", sharey=True)
axes[0].plot(curves.T, color="#0072B2", alpha=0.6)
axes[0].set(title="miniature, three seeds: P(<) rises as an S", xlabel="step", ylim=(0, 1))
for rows in runs:
    axes[1].plot(moving_mean([row["thinking"] for row in rows]), color="#0072B2", alpha=0.6)
axes[1].set(title="GPT-2, five seeds: so does thinking", xlabel="step")
plt.show()

# %%
halfway = [int((curve > 0.5).int().argmax()) + 1 for curve in curves]
print(f"half of the answers think from steps {halfway} on; at the end {curves[:, -1].min():.2f} or more")
assert curves[:, -1].min() > 0.9

# %% [markdown]
# An S, both times. A digit that is right on one problem is wrong on most others, so its pushes largely cancel. A thought is
# right nearly every time, so its pushes add up. Growth is slow at first, because only a thought that is drawn can be rewarded.
# The rest of this lesson is the same loop around a network of 270,000 weights.
#
# ## A step, part by part
#
# **Claim: a step of `mg.train` does the following and nothing else.** A rollout has 64 answers: eight problems, eight answers to each.


# %%
task, config = mg.clock_task(), mg.GRPOConfig()
settings = {"beta": 0.04, "epsilon": 0.2, "loss_type": "grpo", "importance_sampling_level": "token"}


def logprobs_of(model, rollout):
    return mg.token_logprobs(mg.policy_logits(model, rollout), rollout.completion_ids)


# %%
def one_step(model, reference, optimizer, problems, drawn):
    rollout = mg.sample_completions(model, tokenizer, problems["prompt"], **drawn)  # sample
    columns = {"answer": [text for text in problems["answer"] for _ in range(8)]}
    rewards = mg.score(task.reward, rollout.prompts, rollout.completions, columns)  # reward
    advantages = mg.compute_advantages(rewards, rollout.group_ids)  # advantage
    new, ref = logprobs_of(model, rollout), logprobs_of(reference, rollout)  # log-probs
    kl = mg.kl_k3_ratio(new, ref, new.detach())  # KL: lesson 06 takes this line apart
    loss = mg.grpo_loss(new, new.detach(), advantages, rollout.completion_mask, kl=kl, **settings).loss
    loss.backward()  # backward
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()  # step
    return loss.item(), norm.item()


# %% [markdown]
# `train` takes its problems, and the random numbers that it samples with, from the seed and the number of the step alone. So you can draw
# what it draws (the 2 below is the package's number for sampling), take your own step, and compare the loss, the gradient and the weights:

# %%
model, tokenizer = mg.load_policy("tiny")
reference = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
drawn = {"num_generations": 8, "max_completion_length": 16, "generator": mg.seeded(config.seed, 2, 0)}
by_hand = one_step(model, reference, optimizer, step_prompts(task.train, 0, config), drawn)

# %%
# NBVAL_CHECK_OUTPUT
state = mg.TrainState.start(*mg.load_policy("tiny"), config)
row = next(mg.train(state, task.train, [task.reward], config))
torch.testing.assert_close(by_hand, (row["loss"], row["grad_norm"]), rtol=1e-5, atol=1e-7)
for ours, theirs in zip(model.parameters(), state.model.parameters(), strict=True):
    clear = ours.grad.abs() > 1e-7  # the rest is rounding, of which AdamW would still make a full step
    torch.testing.assert_close(ours[clear], theirs[clear], rtol=0, atol=1e-6)
print(
    f"loss {abs(row['loss']):.4f}, grad_norm {row['grad_norm']:.3f}: the same by hand, and so are the weights"
)

# %% [markdown]
# `train` is a generator: it yields a dict of numbers after each update. So progress bars, plots and stopping early belong in *your* `for` loop.
#
# ## The GPT-2 learns, on your functions
#
# Before training, on the 500 held-out problems:

# %%
before = mg.evaluate(*mg.load_policy("tiny"), task, num_generations=1)
print(f"sampled {before['accuracy']:.2f}, always the likeliest token {before['accuracy_greedy']:.2f}")
print(f"thinks first {before['thinking']:.2f}, mean length {before['mean_length']:.1f} tokens")
assert before["accuracy"] < 0.3 and before["accuracy_greedy"] < 0.25

# %% [markdown]
# **Save your notebooks of lessons 01 to 03**, then run the next cell: it fetches your functions from them. Those that pass
# their check are used in training; the package's stand in for the rest.

# %%
# NBVAL_CHECK_OUTPUT
yours = mg.own_functions("01_logprobs.ipynb", "02_policy_gradient.ipynb", "03_loss.ipynb")
score_tokens = yours.get("token_logprobs", mg.token_logprobs)
advantages_of = yours.get("group_advantages", mg.compute_advantages)
clip = yours.get("clipped_objective", mg.clipped_objective)
print(f"Yours: {', '.join(yours) or 'none yet; the package trains'}.")


# %%
def my_loss(logprobs, old_logprobs, advantages, mask, *, kl, beta, epsilon, **_):
    per_token = beta * kl - clip(torch.exp(logprobs - old_logprobs), advantages.unsqueeze(1), epsilon)
    loss = (torch.where(mask, per_token, 0.0).sum(1) / mask.sum(1)).mean()
    return mg.GRPOLoss(loss, loss.detach(), kl=None, clip_fraction=torch.zeros(()))  # for the log


functions = {"logprobs_fn": score_tokens, "loss_fn": my_loss}
functions["advantages_fn"] = lambda rewards, group_ids, **_: advantages_of(rewards, group_ids)


# %% [markdown]
# Ninety steps, about fifteen seconds. Each dot is a step, and the line is a moving mean. Every fifteen steps the model answers
# our old problem four times, always with the same random numbers, so an answer changes only when the probabilities have.


# %%
def ask(model):
    drawn = {
        "num_generations": 4,
        "max_completion_length": 16,
        "generator": torch.Generator().manual_seed(192),
    }
    return "  ".join(mg.sample_completions(model, tokenizer, ["4*2+9+7*1*4="], **drawn).completions)


# %%
config, live = mg.GRPOConfig(max_steps=90), []
state = mg.TrainState.start(*mg.load_policy("tiny"), config)
steps = mg.train(state, task.train, [task.reward], config, **functions)
print("step  0 ", ask(state.model))
for row in mg.watch(steps, ["reward", "kl"], every=15):
    thinks = [task.thinks(text) for text in state.batch.rollout.completions]
    live.append(row | {"thinking": sum(thinks) / len(thinks)})
    if row["step"] % 15 == 0:
        print(f"step {row['step']:2} ", ask(state.model))

# %%
after = mg.evaluate(state.model, tokenizer, task, num_generations=1)
for name in ("accuracy", "accuracy_greedy", "thinking", "mean_length"):
    print(f"{name:16} {before[name]:5.2f} -> {after[name]:5.2f}")
assert after["accuracy"] > 0.85 and after["accuracy_greedy"] > 0.9 and after["thinking"] > 0.85

# %% [markdown]
# Look at `accuracy_greedy`, which always takes the likeliest token. It was 0.15 before training, so a low temperature would
# not have helped: GRPO has changed what is *likeliest*.
#
# ## Five seeds, six panels
#
# One run may be lucky. Blue: five recorded runs, their mean and the range from lowest to highest. Orange: the run that you
# have just made. It has seed 0 too, so it begins with the same draws.

# %%
panels = ["reward", "kl", "completions/mean_length", "thinking", "entropy", "frac_reward_zero_std"]
axes = mg.plot_runs(runs, title="seeds 0 to 4 (blue: mean and range) and your run (orange)")
for ax, name in zip(axes, panels, strict=True):
    mg.plot_metric([live], name, ax=ax, color="#D55E00", linestyle="--")
plt.show()
gaps = [abs(mine["reward"] - row["reward"]) for mine, row in zip(live, runs[0], strict=False)]
assert sum(gaps) / len(gaps) < 0.08  # the same draws; rounding tells two runs apart only later

# %% [markdown]
# - **Reward** is the S that you know. If it never takes off, look at the last panel first.
# - **KL** starts at 0, because the policy *is* the reference. It rises while the policy comes to prefer thinking, and settles.
# - **Length** and **thinking** say *how* the reward is earned. Length that rises while reward does not is a warning.
# - **Entropy** falls as the policy makes up its mind. It should not get to 0 before the reward is high.
# - **Groups that agree** (*silent* groups) have advantage 0 and teach nothing. At 1 nothing more is learnt, whatever
#   `max_steps` says.
#
# How much of a curve is luck? **Write down:** what is the largest gap between the rewards of two seeds, at any step?

# %%
# NBVAL_CHECK_OUTPUT
curves = torch.stack([torch.tensor(moving_mean([row["reward"] for row in rows])) for rows in runs])
spread = curves.max(0).values - curves.min(0).values
print(
    f"largest lead: {spread.max():.2f}, at step {int(spread.argmax()) + 1}; at step 150: {spread[-1]:.2f}"
)
print("reward above 0.9 from step", [int((curve > 0.9).int().argmax()) + 1 for curve in curves])
assert spread.max() > 0.15 and spread[-1] < 0.05

# %% [markdown]
# So if you compare two methods with one run each and find a gap of that size, it may be nothing but the seeds.
#
# ## Change a setting
#
# **Write down:** the learning rate is 2e-4. What happens in forty steps at 1e-3, five times as much?

# %%
fast = run_steps(40, learning_rate=1e-3)
plot_over_band(runs, fast, "learning rate 1e-3")
plt.show()
reward, kl = (sum(row[name] for row in fast[-10:]) / 10 for name in ("reward", "kl"))
assert reward > 0.7 and kl > max(sum(row["kl"] for row in rows[30:40]) / 10 for rows in runs)

# %% [markdown]
# It learns faster, and its KL is far above the band. But there is a limit: at 2e-3 and at 5e-3 the run breaks, as lesson
# [05](05_failures.ipynb) shows.
#
# Now choose settings of your own and press *run 40 steps* (some ten seconds). With beta = 5 the KL penalty holds the reward
# near 0.25. With G = 2 (32 problems, 2 answers to each) it learns as fast as with 8.

# %%
try_settings(runs)

# %% [markdown]
# ## One rollout, several updates: `num_iterations`
#
# With `num_iterations=4` each rollout is used for four updates. From the second on the ratio leaves 1, and the clip can act.
# `clip_ratio` is the share of tokens whose push it stops. A "step" in the metrics is always an update, so eight steps are two
# rollouts, here of 32 answers each.

# %%
several = mg.GRPOConfig(num_iterations=4, max_steps=8, generation_batch_size=32, learning_rate=1e-3)
state = mg.TrainState.start(*mg.load_policy("tiny"), several)
share = [row["clip_ratio"] for row in mg.train(state, task.train, [task.reward], several)]
print("clipped:", [f"{c:.0%}" for c in share[:4]], [f"{c:.0%}" for c in share[4:]])
assert share[0] == share[4] == 0 < max(share[1:4])

# %% [markdown]
# ## Stop, resume, fork
#
# **Claim: saved and resumed, a run ends with the same weights, to the last bit.** For that a checkpoint also holds the state
# of the optimizer and the number of the step. The random draws depend on the seed and the step alone.
#
# Resuming goes on with the same settings. A **fork** goes on from the same step with other settings, and leaves the original as it is.


# %%
def go_on(state, until, **changes):
    config = mg.GRPOConfig(max_steps=until, generation_batch_size=32, **changes)
    for _ in mg.train(state, task.train, [task.reward], config):
        pass
    return state


def same(one, other):
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# %%
# NBVAL_CHECK_OUTPUT
whole, stopped, fresh = (mg.TrainState.start(*mg.load_policy("tiny"), mg.GRPOConfig()) for _ in range(3))
go_on(whole, 6), go_on(stopped, 3)
with tempfile.TemporaryDirectory() as folder:
    resumed = mg.load_checkpoint(mg.save_checkpoint(stopped, folder), fresh)
twin, other = stopped.fork(mg.GRPOConfig()), stopped.fork(mg.GRPOConfig(learning_rate=1e-3))
print("resumed at step 3, the same weights at 6:", same(whole, go_on(resumed, 6)))
print("a fork that changes nothing:             ", same(whole, go_on(twin, 6)))
print("a fork with another learning rate:       ", same(whole, go_on(other, 6, learning_rate=1e-3)))
assert same(whole, resumed) and same(whole, twin) and not same(whole, other)

# %% [markdown]
# So if your fork differs, that is due to what you changed, and not to other random numbers. In a terminal:
#
#     minigrpo train --output-dir runs/mine                                  # metrics, samples, checkpoints
#     minigrpo train --resume --output-dir runs/mine                         # after Ctrl-C or a crash
#     minigrpo fork runs/mine --at 50 --learning-rate 1e-3                   # from step 50 on, another rate
#     minigrpo plot runs/mine runs/mine-at-50                                # both, from where they part
#
# ## In the words of the field
#
# A batch of sampled answers is a **rollout**, and so is the sampling; training on what the current policy has just drawn is
# **on-policy**. Which of a completion's tokens earned the reward is the **credit assignment** problem; GRPO answers "all of
# them, equally". Taking the likeliest token each time is **greedy decoding**. The chance that at least one of k sampled
# answers is right is **pass@k**; `mg.evaluate` estimates it when it draws several answers per problem.
#
# ## Questions
#
# 1. Step 1 has loss 0 and step 60 has loss 0.01. Is the model getting worse?
#    <details><summary>Answer</summary>No. The policy's part is 0 both times. What was added is beta times the KL, because the policy has moved.</details>
# 2. 95 % of the groups agree. How many completions of a rollout of 64 still teach?
#    <details><summary>Answer</summary>About 3: one group of eight in every second or third rollout. Harder problems would give the run more to learn
#    from.</details>
# 3. Would a lower temperature have helped as much as GRPO did?
#    <details><summary>Answer</summary>No. It makes what is likeliest still likelier, and that was a guess. GRPO makes likelier what was <i>rewarded</i>, even if it is
#    rare, as long as it is drawn now and then.</details>
#
# **Exercise:** [ex04](../exercises/ex04_training.ipynb). **Next:** [05 · Failures](05_failures.ipynb).
