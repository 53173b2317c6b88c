# %% [markdown]
# # Exercise 8 · Rewards
#
# Four questions, 10 points, about 45 minutes. Read notebook [05](../notebooks/05_failures.ipynb) first.
#
# A policy does what is paid for, and what is paid for is a few lines of Python that read texts. Here you write these lines. One
# of your answers is not compared with anything: the bundled GPT-2 is trained on it, and counts as what it has become.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it. `hint("ex08.1")`
# helps; called again it says more. You need torch, and Python's `re` and `math`.

# %%
import math
import re

import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex08.1 · Find the answer (3 points, 12 minutes, difficulty 3)
#
# Models think aloud, write units, end sentences. Return the **last number** of a text as a float, and NaN where there is none.
# Numbers are written as people write them: decimals with a point, thousands with commas (a comma and exactly three digits), a
# minus sign directly in front. A minus sign directly behind a digit subtracts, and a full stop at the end of a sentence belongs
# to no number.
#
# `parse_answer(text)`: a str -> a float
#
# By hand: "8 + 12 = 12 = 20" gives 20, "1,250." gives 1250, "10-3" gives 3, "3, 4,5" gives 5, "-5" gives -5.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), on rewards that are gamed.


# %%
def parse_answer(text):
    ### BEGIN SOLUTION
    sign = r"(?:(?<!\d)-)?"
    with_commas, plain = r"\d{1,3}(?:,\d{3})+(?!\d)", r"\d+"
    found = re.findall(rf"{sign}(?:{with_commas}|{plain})(?:\.\d+)?", text)
    if not found:
        return math.nan
    return float(found[-1].replace(",", ""))
    ### END SOLUTION


# %%
check(parse_answer)

# %% [markdown]
# ## ex08.2 · An honest reward (3 points, 15 minutes, difficulty 4)
#
# Write the reward for sums such as 8 + 12. The check trains the bundled GPT-2 on it, on sums of two numbers from 2 to 12, in three
# runs of 30 steps that you have not seen; that takes some ten seconds. The model has picked up a few ways to please a careless
# reward, and at first only three in ten of its answers are right. What counts is how often it is **right in the end**: 70 of
# 100, in every run. A fourth run is of a policy that chooses among ready answers, half of them of kinds that trained models come
# up with: 90 of 100. So your reward is scored on what it makes of a policy, not on what it pays. Where a run fails,
# `check(honest_reward).args` holds what the policy says then: read it.
#
# Right means: behind the first "=" (without one, in the whole text) stands exactly one number, and it is the answer. So
# "8 + 12 = 20", "20." and "It is 20" are right; "8 + 12 = 12 = 20", "19 20 21" and "200" are wrong.
#
# `honest_reward(completions, answers)`: B texts, B integers -> B floats, a list or a tensor
#
# By hand: "8 + 12 = 20" earns more than "20 or 12", "20 20" and "200". Before you check, write down three more wrong answers that
# your reward must not pay.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), on rewards that are gamed.


# %%
def honest_reward(completions, answers):
    ### BEGIN SOLUTION
    number = r"(?:(?<!\d)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    rewards = []
    for text, answer in zip(completions, answers, strict=True):
        behind = text.split("=", 1)[-1]
        found = [float(part.replace(",", "")) for part in re.findall(number, behind)]
        rewards.append(1.0 if found == [answer] else 0.0)
    return rewards
    ### END SOLUTION


# %%
check(honest_reward)

# %% [markdown]
# ## ex08.3 · Who is gaming? (2 points, 8 minutes, difficulty 2)
#
# This reward was shipped, and with it the logged reward rises to 1 while the answers get worse. It shows as soon as somebody
# reads the answers that are paid:


# %%
def shipped_reward(completion, answer):
    return 1.0 if str(answer) in completion else 0.0


# %% [markdown]
# Return True for each completion that is paid by `shipped_reward` and wrong, in the sense of ex08.2.
#
# `gamed(completions, answers)`: B texts, B integers -> (B,) bool
#
# By hand, all for the answer 20: "8 + 12 = 20" no, "8 + 12 = 12 = 20" yes, "19 20 21" yes, "8 + 12 = 21" no (it isn't paid).
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), on rewards that are gamed.


# %%
def gamed(completions, answers):
    ### BEGIN SOLUTION
    number = r"(?:(?<!\d)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    result = []
    for text, answer in zip(completions, answers, strict=True):
        found = [float(part.replace(",", "")) for part in re.findall(number, text.split("=", 1)[-1])]
        paid = str(answer) in text
        result.append(paid and found != [answer])
    return torch.tensor(result)
    ### END SOLUTION


# %%
check(gamed)

# %% [markdown]
# ## ex08.4 · pass@k (2 points, 10 minutes, difficulty 3)
#
# A policy that finds the answer once in ten tries can still learn it. pass@k is the chance that at least one of k answers is
# right. From n answers per problem, n at least k, it is estimated without bias: over **all** choices of k of the n answers,
# the share of choices with at least one right answer; then the mean over problems.
#
# `pass_at_k(correct, k)`: (P, n) bool, an integer -> a number
#
# By hand: one problem, four answers, one of them right, k = 2. Three of the six pairs hold the right one: 0.5.
#
# Read: [notebook 04](../notebooks/04_training.ipynb), on evaluation.


# %%
def pass_at_k(correct, k):
    ### BEGIN SOLUTION
    per_problem = []
    for row in correct.tolist():
        wrong = row.count(False)
        choices, misses = math.comb(len(row), k), math.comb(wrong, k)  # 0 where fewer than k are wrong
        per_problem.append(1 - misses / choices)
    return sum(per_problem) / len(per_problem)
    ### END SOLUTION


# %%
check(pass_at_k)

# %% [markdown]
# ## Done
#
# 10 points: 3 + 3 + 2 + 2. Now give your own reward to `minigrpo train --reward-funcs`, and read the answers that it pays.

# %%
progress()
