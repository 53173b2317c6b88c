# %% [markdown]
# # Exercise 2 · Advantages
#
# Three questions, 10 points, about 28 minutes. Read notebook [02](../notebooks/02_policy_gradient.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares the values, and says what differs. `hint("ex02.1")` helps; called again it says more.
# You need only torch. Loops are welcome: right comes before short. Advantages are plain numbers, so no gradients are asked for.

# %%
import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex02.1 · Three scales, and no opinion (4 points, 10 minutes, difficulty 3)
#
# Turn rewards into group advantages: rows with the same group id answer the same prompt, and each reward is compared with the
# mean of its group. `scale_rewards` says what the difference is divided by: "group" is the group's standard deviation plus
# 1e-4; "batch" is that of all rewards together plus 1e-4; "none" is nothing at all. Both are the sample's, which divides by
# n - 1, as `torch.std` does by itself. And where a reward is NaN nobody had an opinion: that row gets advantage 0 and takes no
# part in any mean or standard deviation. (In every group at least two rewards are not NaN.)
#
# `compute_advantages(rewards, group_ids, *, scale_rewards="group")`: (B,), (B,) -> (B,). It has the package's signature, so
# `train(..., advantages_fn=compute_advantages)` will run on yours.
#
# By hand: rewards (1, 0, 5, 3), groups (0, 0, 1, 1). "none" gives (0.5, -0.5, 1, -1); "group" gives +-0.7070 and +-0.7071;
# "batch" divides by 2.2174 + 0.0001 and gives (0.2255, -0.2255, 0.4510, -0.4510).
#
# Read: [notebook 02](../notebooks/02_policy_gradient.ipynb), "Three scales" and "No opinion: None".


# %%
def compute_advantages(rewards, group_ids, *, scale_rewards="group"):
    ### BEGIN SOLUTION
    def std(values):
        mean = sum(values) / len(values)
        return (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5

    known = [row for row in range(len(rewards)) if not torch.isnan(rewards[row])]
    batch = [rewards[row].item() for row in known]
    advantages = torch.zeros_like(rewards)
    for row in known:
        group = [rewards[other].item() for other in known if group_ids[other] == group_ids[row]]
        divisor = {"group": std(group) + 1e-4, "batch": std(batch) + 1e-4, "none": 1.0}[scale_rewards]
        advantages[row] = (rewards[row] - sum(group) / len(group)) / divisor
    return advantages
    ### END SOLUTION


# %%
check(compute_advantages)

# %% [markdown]
# ## ex02.2 · Several reward functions (2 points, 6 minutes, difficulty 2)
#
# F reward functions have scored B completions. Return one reward per completion: the weighted sum of its scores. A score of NaN
# means that this function abstained; leave its term out. Where **every** function abstained the reward is NaN, not 0: 0 would
# say that the answer was bad. `weights` is a list of F numbers, or None, which counts every function once.
#
# `combine(scores, weights=None)`: (B, F), F numbers -> (B,)
#
# By hand: the scores (1, NaN, 0.5) with the weights (1, 2, -0.4) give 1 - 0.2 = 0.8.
#
# Read: [notebook 02](../notebooks/02_policy_gradient.ipynb), "No opinion: None".


# %%
def combine(scores, weights=None):
    ### BEGIN SOLUTION
    num_rows, num_functions = scores.shape
    if weights is None:
        weights = [1.0] * num_functions
    rewards = torch.full_like(scores[:, 0], float("nan"))
    for row in range(num_rows):
        terms = []
        for function in range(num_functions):
            if not torch.isnan(scores[row, function]):
                terms.append(weights[function] * scores[row, function])
        if terms:
            rewards[row] = sum(terms)
    return rewards
    ### END SOLUTION


# %%
check(combine)

# %% [markdown]
# ## ex02.3 · A reward for every step (4 points, 12 minutes, difficulty 4)
#
# Now every step of a completion has a reward. Two parts. First, normalise each step reward with the mean and the standard
# deviation (the sample's, plus 1e-4) of **all** step rewards of its group. Then give each token the sum of the normalised
# rewards of the steps that end at it or after it: a token answers for what follows, never for what came before.
# Where a completion has fewer steps than S, `step_rewards` is NaN, and `step_ends` means nothing.
#
# `process_advantages(step_rewards, step_ends, group_ids, num_tokens)`: (B, S), (B, S), (B,), C -> (B, C);
# `step_ends[b, s]` is the index of the last token of step s, and behind the last step the result is 0.
#
# By hand, with C = 4 and one group of two: a completion whose steps end at tokens 1 and 3 with rewards 1 and 0, and one whose
# only step ends at token 2 with reward 1. The mean is 2/3, the standard deviation 0.57735; a 1 becomes 0.57725 and the 0
# becomes -1.15450. The first row is (-0.57725, -0.57725, -1.15450, -1.15450), the second (0.57725, 0.57725, 0.57725, 0).
#
# Read: [notebook 08](../notebooks/08_variants.ipynb), on process supervision.


# %%
def process_advantages(step_rewards, step_ends, group_ids, num_tokens):
    ### BEGIN SOLUTION
    num_rows, num_steps = step_rewards.shape
    result = torch.zeros(num_rows, num_tokens, dtype=step_rewards.dtype)
    for row in range(num_rows):
        of_the_group = step_rewards[group_ids == group_ids[row]].flatten().tolist()
        known = [x for x in of_the_group if x == x]  # NaN is not equal to itself
        mean = sum(known) / max(len(known), 1)
        std = (sum((x - mean) ** 2 for x in known) / max(len(known) - 1, 1)) ** 0.5
        for step in range(num_steps):
            for token in range(num_tokens):
                if step_ends[row, step] >= token and not torch.isnan(step_rewards[row, step]):
                    result[row, token] += (step_rewards[row, step] - mean) / (std + 1e-4)
    return result
    ### END SOLUTION


# %%
check(process_advantages)

# %% [markdown]
# ## Done
#
# 10 points: 4 + 2 + 4. On to [notebook 03](../notebooks/03_loss.ipynb), or to [exercise 3](ex03_loss.ipynb).

# %%
progress()
