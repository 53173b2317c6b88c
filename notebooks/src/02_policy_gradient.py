# %% [markdown]
# # 02 · Advantages: better than what?
#
# **You will be able to** turn rewards into advantages by hand, say when a group of answers teaches nothing, and choose between
# the three ways of scaling.
#
# **You need** notebook [01](01_logprobs.ipynb). **Time** 25 minutes.
#
# **Worth the trip:** in a recorded run of this course, over the last 40 of its 150 steps, more than four fifths of the groups of answers have an
# advantage of exactly 0 at every token. You paid to generate all those answers, and the model learns nothing from them. You will predict the share with one formula, and see
# where the formula is too kind.

# %%
import math
import re

import matplotlib.pyplot as plt
import torch

import minigrpo
from minigrpo import completion_tokens, compute_advantages, exact_answer, load_policy, sample_completions

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores
policy, tokenizer = load_policy("tiny")

# %% [markdown]
# ## Where a reward comes from
#
# We draw the four completions of notebook 01 again. To learn from them we need one number for each: how good was it?
#
# **Claim: where an answer can be checked, a reward function is a few lines of Python.** This is called a *verifiable reward*. It looks at the text and at what
# the data set knows of the problem, here the answer, and nothing in it is learnt. First by hand:

# %%
# NBVAL_CHECK_OUTPUT
problem, answer = "4*2+9+7*1*4=", "6"
generator = torch.Generator().manual_seed(192)
rollout = sample_completions(
    policy, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
)

by_hand = []
for completion in rollout.completions:
    found = re.fullmatch(
        r"(<[^<>]+>)?(\d)", completion
    )  # thoughts in <...> if there are any, then one digit
    by_hand.append(1.0 if found and found[2] == answer else 0.0)
    print(f"{completion:14} reward {by_hand[-1]:.0f}")
assert by_hand == exact_answer(rollout.prompts, rollout.completions, answer=[answer] * 4) == [1, 0, 0, 1]

# %% [markdown]
# [`exact_answer`](../minigrpo/tasks.py) has the signature of every reward function of this course, and of TRL's, Hugging Face's library for this kind of training:
# `f(prompts, completions, **columns)`, one number per completion; the columns of the data set come as keywords, each repeated for every completion.
#
# Completion 3 was right by luck, and gets the same 1 as the one that worked it out. The function cannot see the difference. Keep that in mind;
# we come back to it.
#
# **Another source: a reward model.** "Was the tone right?" cannot be checked by a regular expression. Then a second network is trained on answers that people have scored,
# and reads prompt and answer and returns a number. It covers every text, and it is wrong where its data were thin; a policy
# finds those places. Notebook [07](07_triples.ipynb) trains one.
#
# **And the source of that: people.** Somebody reads an answer and gives it 1 to 5. That is the truth one is after, but slow, so such scores
# come as a fixed file of (prompt, response, reward) and not while the policy samples. Notebook [07](07_triples.ipynb) learns from them and has a widget to make them.
#
# From here on it does not matter where a reward came from. It is a plain number without a gradient, so it cannot be differentiated. It can only
# be a *weight*: each completion's log-prob is pushed up by a weight that says how good it was. This notebook makes the weight.
#
# ## Why not the reward itself?
#
# **Claim: subtracting a constant from all rewards leaves the expected gradient as it is, and can make it far less noisy.** Take a
# policy with one decision, right with probability p, which is the sigmoid of one parameter. A generous person scores 4 for wrong and 5 for right. The gradient from one
# draw is (reward - baseline) times the derivative of the log-prob. With two outcomes we need not sample; we can weigh both.

# %%
# NBVAL_CHECK_OUTPUT
p = 1 / 3
probability = torch.tensor([p, 1 - p], dtype=torch.float64)  # right, wrong
score_function = torch.tensor(
    [1 - p, -p], dtype=torch.float64
)  # d log(probability) / d parameter, for each outcome
rewards = torch.tensor([5.0, 4.0], dtype=torch.float64)
mean_reward = (probability * rewards).sum()
assert (probability * score_function).sum().abs() < 1e-12
for baseline in (0.0, 4.0, mean_reward.item()):
    gradients = (rewards - baseline) * score_function
    mean = (probability * gradients).sum()
    spread = (probability * (gradients - mean) ** 2).sum().sqrt()
    print(f"baseline {baseline:.2f}: mean gradient {mean:.3f}, spread {spread:.3f}")
    assert torch.isclose(mean, torch.tensor(p * (1 - p), dtype=torch.float64))

# %% [markdown]
# The mean is the same in every row; that is no accident, because the derivative of the log-prob is 0 on average (0.33 · 0.67 - 0.67 · 0.33). The
# spread falls from 2.2 to 0.16. With baseline 0 *every* answer is pushed up, good ones a little more, and learning lives in the small difference.
# With the mean as baseline, what was better than usual goes up and what was worse goes down.
#
# But what is usual? It depends on the prompt: half of the answers right is good on a hard problem and poor on an easy one. PPO, the older method, trains a second network to guess it. The
# idea of GRPO (Shao et al. 2024, [arXiv:2402.03300](https://arxiv.org/abs/2402.03300)) is cheaper: **sample several answers to the same prompt, a group, and let the group's mean be the baseline.**
#
# ## The formula, by hand
#
# advantage = (reward - mean of the group) / (standard deviation of the group + 0.0001)

# %%
# NBVAL_CHECK_OUTPUT
rewards = [1.0, 0.0, 0.0, 1.0]
mean = sum(rewards) / len(rewards)
squares = [(reward - mean) ** 2 for reward in rewards]
std = math.sqrt(sum(squares) / (len(rewards) - 1))  # the sample's: over n - 1
slow = [(reward - mean) / (std + 1e-4) for reward in rewards]
print("mean", mean, " std", round(std, 4), " advantages", [round(a, 4) for a in slow])

# %%
group_ids = torch.zeros(4, dtype=torch.long)  # all four answer prompt 0
advantages = compute_advantages(torch.tensor(rewards), group_ids)
torch.testing.assert_close(advantages, torch.tensor(slow))
others = [(sum(rewards) - reward) / 3 for reward in rewards]  # the mean of the other three
assert all(
    math.isclose(reward - other, 4 / 3 * (reward - mean))
    for reward, other in zip(rewards, others, strict=True)
)

# %% [markdown]
# The mean contains the completion itself, so it is not quite a constant. No harm: compared with the mean of the *others*, every difference would be 4/3 as large, for all alike (the last line).
#
# **Why 0.866 and not 1?** Each reward is 0.5 away from the mean, so you may have expected 0.5 / 0.5 = 1. That is the standard deviation of a
# *population*, over n. GRPO code in use (TRL, verl, and so this package) takes that of a *sample*, over n - 1, which is larger: 0.577. With more completions the difference
# goes away, but with two it is large. And 0.0001 stands outside the root; it is there for groups without any spread, and elsewhere costs the fourth digit.

# %%
# NBVAL_CHECK_OUTPUT
for size in (2, 4, 8, 64):
    rewards_of_size = torch.tensor([1.0, 0.0] * (size // 2))
    sample, population = rewards_of_size.std(correction=1), rewards_of_size.std(correction=0)
    print(
        f"group of {size:2}: {0.5 / sample:.3f} by the sample's std, {0.5 / population:.3f} by the population's"
    )
    assert torch.isclose(population / sample, torch.tensor((size - 1) / size).sqrt())

# %% [markdown]
# ## What the tokens get
#
# A completion has one advantage, and **every token of it gets that same number**: thirteen times 0.866 for the thinker. Nobody knows which token earned it.

# %%
minigrpo.plot_tokens(
    completion_tokens(tokenizer, rollout), advantages.unsqueeze(1).expand(4, 13), label="advantage"
)
plt.show()

# %% [markdown]
# Thinking and lucky guessing get the same push. Then why should GRPO make thinking this model's habit? **Because luck does not repeat.** One group cannot tell
# the two apart; the average over many groups can. 64 other problems, eight answers each:

# %%
problems = minigrpo.clock_task().train[:64]
many = sample_completions(
    policy,
    tokenizer,
    problems["prompt"],
    num_generations=8,
    max_completion_length=16,
    generator=torch.Generator().manual_seed(0),
)
many_rewards = torch.tensor(
    exact_answer(many.prompts, many.completions, [a for a in problems["answer"] for _ in range(8)])
)

# %%
many_advantages = compute_advantages(many_rewards, many.group_ids)
thinks = torch.tensor([minigrpo.thinks_first(completion) for completion in many.completions])
for name, rows in (("think first", thinks), ("answer at once", ~thinks)):
    right, mean = many_rewards[rows].mean(), many_advantages[rows].mean()
    print(f"{int(rows.sum()):3} {name:14}: {right:4.0%} right, mean advantage {mean:+.2f}")
assert many_advantages[thinks].mean() > 0.7
assert many_advantages[~thinks].mean() < -0.05

# %% [markdown]
# Not even a fifth of the guesses are lucky and pushed up; the others are pushed down, or belong to a group without any right answer and get 0. A thought is rare, but nearly
# always right, and mostly in a group where little else is: its push is large. On average the token `<` wins. That is the whole mechanism, and the rewards never
# mention thinking. It does need thoughts to push: those 6 in 100 answers were [planted](../minigrpo/assets/tiny-gpt2/README.md).
#
# ## What an advantage does not see
#
# **Claim: only the order and the relative distances *within* a group count.** Not the level of the rewards, not their unit, not the order of the rows, and not what happens at other prompts.

# %%
rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
torch.testing.assert_close(compute_advantages(rewards + 100, group_ids), advantages)  # the level
five_times = compute_advantages(rewards * 5, group_ids)  # the unit
torch.testing.assert_close(five_times, advantages, rtol=1e-3, atol=0)

# %%
# NBVAL_CHECK_OUTPUT
neighbour = torch.tensor([7.0, -2.0, 30.0, 0.0])  # four answers to another prompt, before ours
both = compute_advantages(torch.cat([neighbour, rewards]), torch.tensor([0] * 4 + [1] * 4))
torch.testing.assert_close(both[4:], advantages)

# the same eight rows, shuffled together with their group ids
mixed = torch.tensor([4, 0, 5, 1, 6, 2, 7, 3])
shuffled = compute_advantages(
    torch.cat([neighbour, rewards])[mixed], torch.tensor([0] * 4 + [1] * 4)[mixed]
)
torch.testing.assert_close(shuffled, both[mixed])
print("sum over the group:", abs(round(advantages.sum().item(), 6)))

# %% [markdown]
# A test that finds most mistakes in somebody's grouping: let the reward be the number of the prompt. Every answer is then exactly as good as the others of its group, so
# every advantage must be 0. Here is a common bug, a reshape in the wrong order:

# %%
# NBVAL_CHECK_OUTPUT
prompt_number = torch.arange(3).repeat_interleave(4)  # 3 prompts, 4 answers each, prompt by prompt
as_reward = prompt_number.float()
print("right:", compute_advantages(as_reward, prompt_number).abs().max().item())
wrong_groups = torch.arange(12) % 3  # what .view(4, 3) instead of .view(3, 4) amounts to
print("wrong:", round(compute_advantages(as_reward, wrong_groups).abs().max().item(), 2))

# %% [markdown]
# Nothing crashes, and the reward would even rise, slowly: that is why this bug lives long.
#
# ## Groups that teach nothing
#
# **Claim: a group whose rewards are all equal has advantage 0, all right as much as all wrong.** There is nothing to compare, so it is called
# *silent*. If an answer is right with probability p, independently of the others, then all G of a group are right with probability p^G and all wrong with
# (1 - p)^G. Let us not trust the formula before we have counted.

# %%
# NBVAL_CHECK_OUTPUT
coins = torch.Generator().manual_seed(0)
for p in (0.05, 0.22, 0.9, 0.97):
    groups = (torch.rand(20_000, 8, generator=coins) < p).float()
    ids = torch.arange(20_000).repeat_interleave(8)
    silent = (compute_advantages(groups.flatten(), ids).view(20_000, 8) == 0).all(1).float().mean().item()
    formula = p**8 + (1 - p) ** 8
    print(f"p = {p:.2f}: {formula:.2f} of the groups are silent")
    assert abs(silent - formula) < 0.015  # four standard errors of 20,000 groups

# %% [markdown]
# With eight answers and p = 0.22, where the bundled model begins, 14 % are silent, nearly all of them all wrong. At 0.97 it is 78 %. The left panel shows what the other groups
# get, the right one the formula.

# %%
minigrpo.plot_advantages(num_generations=8)
plt.show()

# %% [markdown]
# Does a real run follow the formula? Below, one dot for each step of a recorded run ([seed 0](runs/seed-0.jsonl), eight groups of eight a step, so
# the share moves in eighths). **Before you read on: will the dots lie on the curve, above or below?**

# %%
run = minigrpo.read_metrics("runs/seed-0.jsonl")
accuracy, silent = (
    torch.tensor([row[name] for row in run]) for name in ("accuracy", "frac_reward_zero_std")
)
predicted = accuracy**8 + (1 - accuracy) ** 8
rate = torch.linspace(0.1, 1, 181)
_, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
ax.plot(rate, rate**8 + (1 - rate) ** 8, color="#777777", label="formula: all prompts equally hard")
ax.plot(accuracy, silent, "o", color="#0072B2", alpha=0.4, label="a step of the run")
ax.set(xlabel="share of answers right in the step", ylabel="share of silent groups")
ax.legend()
plt.show()

# %%
hard = (accuracy > 0.5) & (accuracy < 0.95)
print(
    f"between 50 % and 95 % right: {silent[hard].mean():.2f} silent, by the formula {predicted[hard].mean():.2f}"
)
print(f"the last 40 steps: {silent[-40:].mean():.2f} silent")
assert silent[hard].mean() > predicted[hard].mean() + 0.05
assert silent[-40:].mean() > 0.8

# %% [markdown]
# On average above. The formula takes one p for all prompts; in truth some are easy (nearly always right, so silent) and some hard, and both kinds agree more
# often than the average prompt does. Given the true share of right answers, the formula is a lower bound. A share that is measured on 64 answers scatters,
# and that alone raises the formula a little, so the gap that you see is not too large but too small:

# %%
# NBVAL_CHECK_OUTPUT
right = torch.arange(65.0)  # how many of a step's 64 answers may be right, each with p = 0.9
chance = torch.distributions.Binomial(64, torch.tensor(0.9)).log_prob(right).exp()
measured = (chance * ((right / 64) ** 8 + (1 - right / 64) ** 8)).sum()
print(f"by the formula, at 0.9: {0.9**8 + 0.1**8:.2f}; at the share measured, on average: {measured:.2f}")
assert measured > 0.9**8 + 0.1**8 + 0.015

# %% [markdown]
# What can be done? Larger groups, prompts that are neither too easy nor too hard, or sampling until enough groups disagree (DAPO,
# [arXiv:2503.14476](https://arxiv.org/abs/2503.14476), calls it dynamic sampling). Do watch `frac_reward_zero_std`: a flat reward together with a value near 1
# means that there is nothing left to compare.
#
# ## Exactly 0, not nearly 0
#
# **Claim: the obvious code gives silent groups an advantage that is pure rounding.** Add up eight rewards of 0.35 in float32 and divide by 8: the
# mean is not 0.35. The difference is tiny, but so is the standard deviation that it is divided by.

# %%
# NBVAL_CHECK_OUTPUT
equal, one_group = torch.full((8,), 0.35), torch.zeros(8, dtype=torch.long)
total = torch.tensor(0.0)
for reward in equal:
    total = total + reward
difference = (equal - total / 8)[0]
std = ((8 * difference**2) / 7).sqrt()
for eps in (1e-4, 1e-8):
    print(f"off by {difference:.0e}; with eps {eps:.0e} the advantage is {difference / (std + eps):.4f}")
ours = compute_advantages(equal, one_group)
print("the package:", ours.tolist())
assert (ours == 0).all()

# %% [markdown]
# With an eps of 1e-8, as other code has it, eight equal answers get an advantage of 0.71 each: full-size pushes made of the last bit of a float. With 1e-4 it is
# hardly more than 0, as long as rewards are about 1. The package measures rewards from the group's smallest one, so that equal rewards differ by exactly 0
# whatever their size; see `_statistics` in [advantages.py](../minigrpo/advantages.py).
#
# ## The closed form: rare successes are loud
#
# **Claim: if k of G answers are right and p = k / G, a right one gets sqrt((1 - p) / p) · sqrt((G - 1) / G), and a wrong one
# -sqrt(p / (1 - p)) · sqrt((G - 1) / G).** It is the formula with std = sqrt(p (1 - p) G / (G - 1)) put in.

# %%
# NBVAL_CHECK_OUTPUT
size = 8
for k in (1, 2, 4, 7):
    p, shrink = k / size, math.sqrt((size - 1) / size)
    found = compute_advantages(torch.tensor([1.0] * k + [0.0] * (size - k)), one_group)
    right, wrong = math.sqrt((1 - p) / p) * shrink, -math.sqrt(p / (1 - p)) * shrink
    torch.testing.assert_close(found[[0, -1]], torch.tensor([right, wrong]), rtol=1e-3, atol=0)
    print(
        f"{k} of 8 right: a right one {found[0]:+.2f}, a wrong one {found[-1]:+.2f}, sum of sizes {found.abs().sum():.2f}"
    )

# %% [markdown]
# One success among eight gets 2.47; one failure among eight gets -2.47. This is what the left panel above draws. Rare events are the informative ones, so this seems right. But look at the last column: dividing by the group's standard deviation
# also decides **how much a whole prompt weighs**, and that is a choice.
#
# ## Three scales
#
# **Claim: `scale_rewards` decides how much whole prompts weigh, and in which unit; within a group nothing changes but a common factor.** "group" is the formula of the paper. "none" only subtracts the mean; Dr. GRPO
# ([arXiv:2503.20783](https://arxiv.org/abs/2503.20783)) argues that a division by the group's own spread favours problems that are very easy or very hard. "batch" keeps the mean of the group
# and divides by the standard deviation of all rewards of the rollout. Two prompts: one right answer of eight, and four of eight.

# %%
# NBVAL_CHECK_OUTPUT
rewards = torch.tensor([1.0] + [0.0] * 7 + [1.0] * 4 + [0.0] * 4)
ids = torch.arange(2).repeat_interleave(8)
for scale in ("group", "batch", "none"):
    found = compute_advantages(rewards, ids, scale_rewards=scale)
    sizes = [found[ids == group].abs().sum().item() for group in (0, 1)]
    factor = found / compute_advantages(rewards, ids, scale_rewards="none")
    torch.testing.assert_close(factor, factor[[0, 8]].repeat_interleave(8))  # one factor a group
    print(
        f"{scale:6} right: {found[0]:+.3f} and {found[8]:+.3f}; the prompts weigh {sizes[0] / sizes[1]:.2f} to 1"
    )
plain = compute_advantages(rewards, ids, scale_rewards="none")
torch.testing.assert_close(
    compute_advantages(rewards, ids, scale_rewards="batch"), plain / (rewards.std() + 1e-4)
)

# %% [markdown]
# Without the division by its own spread, the harder prompt weighs 0.44 of the other one; with it, 0.66. "batch" and "none" differ only in a factor that is common to all, here 2.07:
# with "none" the advantages keep the unit of the reward. Scores from 1 to 5 then give advantages up to four times as large as scores of 0 and 1, and the
# weight of the KL, in the next notebook, has to be chosen to match.
#
# What about rewards that are noise, such as 0.50 and 0.51 from a reward model that is unsure? "group" turns them into full-size advantages:

# %%
# NBVAL_CHECK_OUTPUT
unsure = torch.tensor([0.51, 0.50, 0.50, 0.51, 1.0, 0.0, 0.0, 1.0])
ids = torch.arange(2).repeat_interleave(4)
for scale in ("group", "batch", "none"):
    found = compute_advantages(unsure, ids, scale_rewards=scale)
    print(f"{scale:6}", [round(value, 3) for value in found[[0, 1, 4, 5]].tolist()])
    assert (found[0] > 0.8) == (scale == "group")

# %% [markdown]
# The first two numbers belong to the group of 0.51 and 0.50. "group" magnifies a difference of 0.01 as if it were a difference of 1.
#
# ## No opinion: None
#
# A reward function may abstain: it returns `None`, which becomes NaN. **Claim: a row without a reward takes no part in the group's statistics and gets
# advantage 0.** That is not the same as a reward of 0. Suppose that our checker times out at completion 3, the lucky one:


# %%
# NBVAL_CHECK_OUTPUT
def with_timeout(prompts, completions, answer, **_):
    rewards = exact_answer(prompts, completions, answer)
    return [None if row == 3 else reward for row, reward in enumerate(rewards)]


rewards = minigrpo.score(with_timeout, rollout.prompts, rollout.completions, {"answer": [answer] * 4})
found = compute_advantages(rewards, group_ids)
print("rewards", rewards.tolist(), " advantages", [round(value, 3) for value in found.tolist()])
torch.testing.assert_close(
    found[:3], compute_advantages(rewards[:3], group_ids[:3])
)  # as if only three had been sampled

# %%
# NBVAL_CHECK_OUTPUT
as_zero = compute_advantages(rewards.nan_to_num(0.0), group_ids)
print("counted as 0:          advantages", [round(value, 3) for value in as_zero.tolist()])
assert found[3] == 0
assert as_zero[3] < 0

# %% [markdown]
# Counted as 0, a right answer is pushed down for a fault of the checker, and lowers the mean that the others are compared with.
#
# ## One reward per step: process supervision
#
# All tokens of a completion share one advantage because there is one reward. If somebody scores the *steps*, tokens can differ. The paper (4.1.3) normalises all step rewards of a group together; then
# **a token gets the sum of the steps that end at it or after it**: it answers for what follows it, never for what came before.
#
# Suppose that the thinking completion had made a mistake in its third step, `<8,7,5,5,0>0`. Steps 1 and 2 are right, the rest and the answer wrong. The other three completions are one step each.

# %%
# NBVAL_CHECK_OUTPUT
steps = [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0], [0.0], [1.0]]
ends = [[1, 3, 5, 7, 9, 12], [1], [1], [1]]  # the token with which each step ends; the answer ends with EOS
values = torch.tensor([value for row in steps for value in row])
slow = torch.zeros(4, 13)
for row in range(4):
    for token in range(13):
        for value, end in zip(steps[row], ends[row], strict=True):
            if end >= token:
                slow[row, token] += (value - values.mean()) / (values.std() + 1e-4)
print([round(value, 2) + 0.0 for value in slow[0].tolist()])
print([round(rows[0], 2) for rows in slow[1:].tolist()], "for the other three")

# %%
nan = float("nan")
step_rewards = torch.tensor([row + [nan] * (6 - len(row)) for row in steps])
step_ends = torch.tensor([row + [0] * (6 - len(row)) for row in ends])
found = minigrpo.process_advantages(step_rewards, step_ends, group_ids, num_tokens=13)
torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)

tokens = [list("<8,7,5,5,0>0⏎"), *completion_tokens(tokenizer, rollout)[1:]]
minigrpo.plot_tokens(tokens, found, label="advantage of the token")
plt.show()

# %% [markdown]
# The first token, the decision to think, is at 0 here: two good steps and four bad ones cancel. The blame is greatest at the wrong `5` and the comma before it, and shrinks after them. But a token
# answers for all that follows, so the right second step is blamed too: -1.33, where one bad outcome would have given every token -0.50.
#
# Two things to know. With a single step at the end this is exactly what we had before. And sums grow with the number of steps: with all six steps right, the thinker gets six times
# the advantage of the lucky guess, which is welcome here, and an invitation to write many small steps elsewhere.

# %%
# NBVAL_CHECK_OUTPUT
ends_only = torch.tensor([[12], [1], [1], [1]])
outcome = minigrpo.process_advantages(
    torch.tensor([[1.0], [0.0], [0.0], [1.0]]), ends_only, group_ids, num_tokens=13
)
torch.testing.assert_close(outcome[:, 0], advantages)

step_rewards[0] = 1.0
found = minigrpo.process_advantages(step_rewards, step_ends, group_ids, num_tokens=13)
print(
    f"all six steps right: {found[0, 0]:.2f} for the thinker's first token, {found[3, 0]:.2f} for the lucky guess"
)
assert torch.isclose(found[0, 0], 6 * found[3, 0])

# %% [markdown]
# The rest of the course uses one reward per completion; notebook [08](08_variants.ipynb) returns to steps.
#
# ## Questions
#
# 1. Two completions per prompt, rewards 3 and -8. What are the advantages?
#    <details><summary>Answer</summary>+0.707 and -0.707. In a group of two it matters only which one is better: the sample's standard deviation is their
#    difference over the root of 2, and each lies half their difference away from the mean.</details>
# 2. A model is right once in a hundred tries, and G is 8. How many groups teach something? And with G = 64?
#    <details><summary>Answer</summary>1 - 0.99^8 - 0.01^8 = 8 %; with 64, 1 - 0.99^64 = 47 %. But count the cost: of 512 completions, 64 groups of 8 give about 5 groups that
#    teach, and 8 groups of 64 about 4. On tasks this hard, easier prompts help more than larger groups.</details>
# 3. The mean advantage in your log is 0.000 at every step. Is something broken?
#    <details><summary>Answer</summary>No. Within each group advantages sum to 0, so their mean does. Look at the spread, or at the share of silent groups.</details>
# 4. You add 0.1 to the reward of every completion that ends properly, and in each group all of them do. What changes?
#    <details><summary>Answer</summary>Nothing. A constant within the group is subtracted again. It acts only in groups where some end and some do not.</details>
# 5. Why is a time-out better reported as None than as 0?
#    <details><summary>Answer</summary>0 says that the answer was bad: it pushes the completion down and lowers the baseline for the others. None says that nothing is known.</details>
#
# **Exercise:** [ex02](../exercises/ex02_advantages.ipynb). **Next:** [03 · The loss](03_loss.ipynb), which they go into.
