# %% [markdown]
# # 02 · Policy gradient: from a reward to a push
#
# **You will be able to** derive the policy gradient on one token, say what a baseline is for, turn rewards into GRPO's advantages, and tell
# which groups teach nothing.
#
# **You need** lesson [01](01_logprobs.ipynb). **Time** 35 minutes, with the function that you write.
#
# **Worth the trip:** you will predict, with one formula, that a model which is right 97 times out of 100 learns nothing from
# three quarters of its answers. And you will see why that formula is still too optimistic.

# %%
import matplotlib.pyplot as plt
import torch

import minigrpo as mg
from minigrpo.view.controls.advantages import plot_rewards, plot_silent, try_group_size, try_rewards

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
example = mg.worked_example()
mg.plot_group(example, light=("completions", "rewards", "advantages"))
plt.show()

# %% [markdown]
# ## A reward has no gradient
#
# We want the **expected reward** $\mathbb{E}[R]$ to rise: the mean over all answers, each weighed by its probability. But a
# reward is a number that a program gave to a text, or a person, or a reward model ([07](07_triples.ipynb)), and you cannot
# backpropagate through it. So where does a gradient come from?
#
# Take a single token $y$, drawn with probability $\pi(y)$ and rewarded with $R(y)$. The reward does not depend on the weights, but the
# probability does. With $\nabla$ for the gradient with respect to the weights:
#
# $$\nabla\, \mathbb{E}[R] \;=\; \nabla \sum_y \pi(y)\, R(y) \;=\; \sum_y R(y)\, \nabla \pi(y)$$
#
# This is a sum over all tokens, and we only have samples. The trick: $\nabla \log \pi = \nabla \pi / \pi$, so
# $\nabla \pi(y) = \pi(y)\, \nabla \log \pi(y)$. Now every term is weighed by $\pi(y)$, so samples can estimate the sum:
#
# $$\nabla\, \mathbb{E}[R] \;=\; \sum_y \pi(y)\, R(y)\, \nabla \log \pi(y) \;=\; \mathbb{E}\big[\, R\; \nabla \log \pi(y)\, \big]$$
#
# **To estimate the gradient, draw, and average reward times the gradient of the log-prob.** We check the formula on the first
# token of our problem, where we need not draw, as we know the probability of every token. Say that `6` and `<` earn 1 and
# everything else earns 0. We take the gradient at the logits; from there backpropagation carries it to the weights.

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = mg.load_policy("tiny")
draw = {"num_generations": 4, "max_completion_length": 16, "generator": torch.Generator().manual_seed(192)}
rollout = mg.sample_completions(policy, tokenizer, ["4*2+9+7*1*4="], **draw)
print(rollout.completions)

# %%
# NBVAL_CHECK_OUTPUT
logits = mg.policy_logits(policy, rollout)[0, 0].detach().double().requires_grad_()  # (V,)
reward = torch.zeros(len(logits), dtype=torch.float64)
reward[tokenizer.encode("6<")] = 1.0
direct = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)[0]
pi, logprob = logits.softmax(0).detach(), logits.log_softmax(0)  # pi: how often each is drawn
trick = torch.autograd.grad((pi * reward * logprob).sum(), logits)[0]
for token in "6<4":
    place = tokenizer.encode(token)[0]
    print(f"logit of '{token}': {direct[place]:+.4f} directly, {trick[place]:+.4f} by the trick")
torch.testing.assert_close(direct, trick)

# %% [markdown]
# The two agree. In the second, the reward is only a *weight* on a log-prob. For a completion, add up the log-probs of its
# tokens. The recipe is called **REINFORCE** (Williams 1992), and its loss is one line:
#
# ```python
# loss = -(rewards * (logprobs * mask).sum(1)).mean()        # minus, because optimizers go downhill
# ```
#
# ## Why not the reward itself?
#
# **Write down:** a generous teacher gives 5 points for a right answer and 4 for a wrong one. Is the gradient larger, smaller or the same
# as with 1 and 0? And if you estimate it from a few draws, will the estimate be more or less noisy?
#
# You may subtract any constant $b$, called a **baseline**, from the rewards. The expected gradient stays the same, because the
# probabilities sum to 1 whatever the weights are:
#
# $$\mathbb{E}\big[\, b\, \nabla \log \pi \,\big] = b \sum_y \nabla \pi(y) = b\, \nabla 1 = 0 \qquad\text{so}\qquad
# \nabla\, \mathbb{E}[R] = \mathbb{E}\big[\, (R - b)\, \nabla \log \pi \,\big]$$

# %%
# NBVAL_CHECK_OUTPUT
slopes = torch.eye(len(pi)) - pi  # (V, V): row y is the gradient of log pi(y) with respect to the logits
generous = 4 + reward
for baseline in (0.0, 4.0, (pi * generous).sum().item()):  # the last is the mean reward
    each = (generous - baseline).unsqueeze(1) * slopes  # the gradient that a draw of y gives
    mean = (pi.unsqueeze(1) * each).sum(0)
    spread = (pi * (each - mean).square().sum(1)).sum().sqrt()  # of a single draw
    print(f"baseline {baseline:.2f}: spread {spread:.2f}, mean as before: {torch.allclose(mean, direct)}")
    assert torch.allclose(mean, direct)
assert spread < 0.5

# %% [markdown]
# So the generous teacher gives the same gradient on average, but a much noisier one, because *every* answer is pushed up, good
# ones a little more. With the mean as baseline, the noise is down to a tenth: answers that are better than usual are pushed up
# and worse ones down. Reward minus baseline is called the **advantage**.
#
# ## The group is the baseline
#
# What is usual depends on the problem, so each prompt needs a baseline of its own. PPO, the older method, trains a second
# network, the *critic*, to guess it. GRPO's idea is cheaper: **draw several answers to the same prompt, and take their mean.**
# Then it divides by their standard deviation, so that rewards in any unit give advantages of the same size ("Three scales"
# below shows a drawback).
#
# $$A_i = \frac{R_i - \mathrm{mean}(R_1 \dots R_G)}{\mathrm{std}(R_1 \dots R_G) + 10^{-4}}$$
#
# The std is the *sample's*, over $G - 1$, as in the libraries TRL and verl: for rewards 1, 0, 0, 1 it is 0.577 and the
# advantages are ±0.866. The $10^{-4}$ only prevents a division by zero.
#
# ### You write it
#
# `rewards` is (B,), `group_ids` (B,): rows with the same id answer the same prompt. Ids are any integers, and the rows of a
# group need not stand together. Groups may differ in size, from two rows up. Return (B,), each advantage in the row of its
# reward. By hand: rewards `[3., -8.]` in one group give `[0.707, -0.707]`.


# %%
def group_advantages(rewards, group_ids):
    raise NotImplementedError


# %%
found = mg.check(group_advantages)
found

# %% [markdown]
# Stuck? Run `mg.hint("02.1")`. It says more each time.
#
# <details><summary>Solution</summary>
#
# ```python
# def group_advantages(rewards, group_ids):
#     advantages = torch.zeros_like(rewards)
#     for group in group_ids.unique():
#         rows = group_ids == group
#         values = rewards[rows]
#         advantages[rows] = (values - values.mean()) / (values.std() + 1e-4)
#     return advantages
# ```
#
# </details>

# %%
# yours, once it passes
mine = group_advantages if getattr(found, "about", "") is None else mg.compute_advantages
print("Goes on with", "your function." if mine is group_advantages else "the package's function.")

# %% [markdown]
# Here are our four completions. Every token of a completion will get the completion's advantage, because nobody knows which token
# earned it:

# %%
# NBVAL_CHECK_OUTPUT
rewards = torch.tensor(mg.exact_answer(rollout.prompts, rollout.completions, answer=["6"] * 4))
advantages = mine(rewards, rollout.group_ids)
for completion, reward_of, advantage in zip(rollout.completions, rewards, advantages, strict=True):
    print(f"{completion:13}  reward {reward_of:.0f}  advantage {advantage:+.3f}")
torch.testing.assert_close(advantages, example.advantages)

# %% [markdown]
# ## Luck does not repeat
#
# The thinker and the lucky guess get the same advantage. **Write down:** why should the model then learn to think, and not to guess `6`?
# Here are 64 other problems, eight answers each:

# %%
# NBVAL_CHECK_OUTPUT
problems = mg.clock_task().train[:64]
answers = [answer for answer in problems["answer"] for _ in range(8)]
many_draws = {"num_generations": 8, "max_completion_length": 16, "generator": mg.seeded(0)}
many = mg.sample_completions(policy, tokenizer, problems["prompt"], **many_draws)
right = torch.tensor(mg.exact_answer(many.prompts, many.completions, answer=answers))
many_advantages = mine(right, many.group_ids)
thinks = torch.tensor([mg.thinks_first(completion) for completion in many.completions])
for name, rows in (("think first", thinks), ("answer at once", ~thinks)):
    print(f"{name:14}: {right[rows].mean():4.0%} right, mean advantage {many_advantages[rows].mean():+.1f}")
assert many_advantages[thinks].mean() > 0.7 and many_advantages[~thinks].mean() < -0.05

# %% [markdown]
# A guess is pushed up on one problem and down on the next. An answer that thinks is nearly always right, and mostly in a group where few
# others are, so its advantage is large. On average `<` is pushed up and the digits are pushed down, although the rewards never mention
# thinking.
#
# ## Rewards in, advantages out
#
# **Write down:** of eight answers one is right. What are the advantages? And with seven right?

# %%
axes = plot_rewards([1, 0, 0, 0, 0, 0, 0, 0])
axes[1].set_title("advantages: the only success counts most", fontsize=10)
plt.show()

# %%
try_rewards()

# %% [markdown]
# Drag the sliders. Halve all rewards: hardly anything changes. Then add 0.3 to each: nothing changes. Make all equal: all
# advantages become 0.
#
# For $k$ right answers of $G$, with $p = k / G$, there is a closed form, up to the $10^{-4}$:
#
# $$A_{\text{right}} = \sqrt{\tfrac{1-p}{p}}\,\sqrt{\tfrac{G-1}{G}}, \qquad A_{\text{wrong}} = -\sqrt{\tfrac{p}{1-p}}\,\sqrt{\tfrac{G-1}{G}}$$

# %%
# NBVAL_CHECK_OUTPUT
one_group = torch.zeros(8, dtype=torch.long)
for k in (1, 4, 7):
    p, shrink = torch.tensor(k / 8), (7 / 8) ** 0.5
    found_here = mine((torch.arange(8) < k).float(), one_group)[[0, -1]]
    closed = torch.stack([((1 - p) / p).sqrt(), -(p / (1 - p)).sqrt()]) * shrink
    torch.testing.assert_close(found_here, closed, rtol=1e-3, atol=0)
    print(f"{k} of 8 right: a right one {found_here[0]:+.2f}, a wrong one {found_here[1]:+.2f}")
halved_and_raised = mine((torch.arange(8) < k).float() / 2 + 0.3, one_group)[[0, -1]]
torch.testing.assert_close(halved_and_raised, found_here, rtol=1e-3, atol=0)

# %% [markdown]
# The rarer an outcome is in its group, the larger its advantage: the only success among eight gets +2.47, the only failure −2.47.
#
# ## Groups that teach nothing
#
# If all rewards of a group are equal, all its advantages are 0. Such a group is **silent**, whether all its answers are right or all are
# wrong. If each answer is right with probability $p$, independently, the share of silent groups is
#
# $$p^G + (1-p)^G$$
#
# **Write down** the share for G = 8 and p = 0.22, where our model begins. And for p = 0.97, towards the end of its training.

# %%
# NBVAL_CHECK_OUTPUT
for p in (0.05, 0.22, 0.5, 0.97):
    print(f"p = {p:.2f}: {p**8 + (1 - p) ** 8:.0%} of the groups are silent")

# %%
plot_silent(num_generations=8, rate=0.97)
plt.show()

# %%
try_group_size()

# %% [markdown]
# So at the end of a run the model learns nothing from most of its answers. Does a real run follow the formula? Each dot of the
# next figure is a step of a recorded run ([seed 0](runs/seed-0.jsonl)), with the share of its 64 answers that were right.
# **Write down:** will the dots lie on the curve, above or below?

# %%
run = mg.read_metrics("runs/seed-0.jsonl")
accuracy = torch.tensor([row["accuracy"] for row in run])
silent = torch.tensor([row["frac_reward_zero_std"] for row in run])
rate = torch.linspace(0, 1, 201)
_, ax = plt.subplots(figsize=(5.6, 2.9), layout="constrained")
ax.plot(rate, rate**8 + (1 - rate) ** 8, label="the formula, G = 8")
ax.plot(accuracy, silent, ".", color="#777777", alpha=0.5, label="one step of the run")
ax.set(xlabel="p; for a step, the share that was right", ylabel="share of silent groups")
ax.set_title("more groups are silent than the formula says", fontsize=10)
ax.legend(frameon=False, fontsize=8, loc="upper center")
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
middle = (accuracy > 0.5) & (accuracy < 0.95)
formula = accuracy[middle] ** 8 + (1 - accuracy[middle]) ** 8
print(f"from 50 to 95 % right: {silent[middle].mean():.2f} silent, formula {formula.mean():.2f}")
assert silent[middle].mean() > formula.mean() + 0.05

# %% [markdown]
# Above, on average, because prompts differ. The formula takes one p for all. But on easy prompts and on hard ones the answers
# agree more often than on a middling one.
#
# **What helps:** larger groups, prompts that are neither too easy nor too hard, or drawing more groups until enough of them
# disagree (*dynamic sampling* in DAPO, [arXiv:2503.14476](https://arxiv.org/abs/2503.14476), see [08](08_variants.ipynb)). In
# your own logs the share of silent groups is called `frac_reward_zero_std`.
#
# The true gap is even larger than the one in the figure, because p was *measured*, on 64 answers. That raises the formula's
# result: the curve bends upwards, so measuring p too high adds more than measuring it too low takes away. Suppose that the
# true p is 0.9, for every prompt:

# %%
# NBVAL_CHECK_OUTPUT
count = torch.arange(65.0)  # how many of 64 answers may be right, each with probability 0.9
chance = torch.distributions.Binomial(64, torch.tensor(0.9)).log_prob(count).exp()
measured = (chance * ((count / 64) ** 8 + (1 - count / 64) ** 8)).sum()
print(f"formula at the true 0.9: {0.9**8 + 0.1**8:.3f}; at what is measured, on average: {measured:.3f}")
assert abs(measured - 0.452) < 1e-3 and abs(0.9**8 + 0.1**8 - 0.431) < 1e-3

# %% [markdown]
# ## Three scales
#
# What you divide by decides how much a whole *prompt* counts beside the others. `scale_rewards` is "group" (the group's own
# std, as in the paper), "none" (no division: Dr. GRPO, [arXiv:2503.20783](https://arxiv.org/abs/2503.20783)) or "batch" (the
# std of all rewards of the rollout). Take a group with rewards 0.51 and 0.50, from a reward model that is unsure, and one with
# 1 and 0:

# %%
# NBVAL_CHECK_OUTPUT
unsure = torch.tensor([0.51, 0.50, 0.50, 0.51, 1.0, 0.0, 0.0, 1.0])
ids = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
for scale in ("group", "batch", "none"):
    unsure_advantages = mg.compute_advantages(unsure, ids, scale_rewards=scale)
    print(f"{scale:6}", [round(value, 3) for value in unsure_advantages[[0, 1, 4, 5]].tolist()])
    assert (unsure_advantages[0] > 0.8) == (scale == "group")

# %% [markdown]
# With "group", a difference of 0.01 counts as much as a difference of 1. "none" keeps the unit of the reward: rewards of 1 and
# 5 then push four times as hard as rewards of 0 and 1.
#
# ## No opinion: None
#
# A reward function may abstain: a row with `None`, which becomes NaN, takes no part in its group's mean and std, and gets
# advantage 0. Suppose that the program which checks answers timed out on our last completion, the lucky one:

# %%
# NBVAL_CHECK_OUTPUT
for name, last in (("None", float("nan")), ("0   ", 0.0)):
    timed_out = mg.compute_advantages(torch.tensor([1.0, 0.0, 0.0, last]), rollout.group_ids)
    print(f"reported as {name}:", [round(value, 2) for value in timed_out.tolist()])
    assert (timed_out[3] == 0) == (name == "None")

# %% [markdown]
# Reported as 0, a right answer is pushed down for a fault of that program, and it lowers the mean with which the others are compared.
#
# ## In the words of the field
#
# The trick is the **log-derivative trick**, or *score-function estimator*; what it estimates is the
# **policy gradient**. Comparing an answer with the mean of the *others* is **RLOO** (*leave one out*); GRPO's mean includes the answer
# itself, which only shrinks all differences by (G − 1)/G. PPO's learnt baseline is a **critic**, or *value function*. That all tokens share
# one advantage is the crudest answer to the problem of **credit assignment**; scoring every step is **process supervision**
# ([08](08_variants.ipynb)). All of it is **on-policy**: the draws must come from the policy whose gradient you want.
#
# ## Questions
#
# 1. The mean advantage in your log is 0.000 at every step. Is something broken?
#    <details><summary>Answer</summary>No. Within each group advantages sum to 0, so their mean is 0. Look at the share of silent groups.</details>
# 2. A model is right once in a hundred tries. How many groups of 8 teach something? And of 64?
#    <details><summary>Answer</summary>1 − 0.99^8 = 8 %; 1 − 0.99^64 = 47 %. But count the cost: 512 completions make 64 groups of 8, of which about 5 teach, or 8 groups of 64, of which about 4 teach.</details>
# 3. You add 0.1 to the reward of each completion that ends properly, and in each group all of them do. What changes?
#    <details><summary>Answer</summary>Nothing. What all answers of a group have in common is subtracted again.</details>
#
# **Exercise:** [ex02](../exercises/ex02_advantages.ipynb). **Next:** [03 · The loss](03_loss.ipynb), where the advantages become a push on
# every token.
