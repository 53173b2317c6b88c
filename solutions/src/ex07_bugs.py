# %% [markdown]
# # Exercise 7 · Find the bug
#
# Three questions, 8 points, about 25 minutes. Read notebook [07](../notebooks/07_failures.ipynb) first.
#
# Each function below has a bug of a kind that really was shipped, in code that many people use. None of them crashes, and with
# each of them a model trains, only worse. Find the bug and write the function as it should be. `hint("ex07.1")` helps, called
# again it says more. You need only torch.

# %%
import torch

from minigrpo import check, hint

# %% [markdown]
# ## ex07.1 · "With several updates a rollout it falls apart" (3 points, 8 minutes, difficulty 3)
#
# With one update a rollout all is well. With four, good tokens that have long left the band are pushed on and on, and tokens
# that went the wrong way stay there. The loss of each token, as it was shipped:
#
# ```python
# def fixed_clip(ratio, advantages, epsilon):
#     free = ratio * advantages
#     held = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
#     return -torch.maximum(free, held)
# ```
#
# `fixed_clip(ratio, advantages, epsilon)`: (B, C), (B, 1), a number -> (B, C), one loss a token, lower is better
#
# By hand, with epsilon 0.2: ratio 1.5 and advantage 1 should give -1.2, and gives -1.5. Ratio 1.5 and advantage -1 should give
# 1.5, and gives 1.2.
#
# Read: [notebook 04](../notebooks/04_loss.ipynb), "The clip".


# %%
def fixed_clip(ratio, advantages, epsilon):
    ### BEGIN SOLUTION
    free = ratio * advantages
    held = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    pessimistic = torch.where(free < held, free, held)  # the smaller of the two objectives
    return -pessimistic
    ### END SOLUTION


# %%
check(fixed_clip)

# %% [markdown]
# ## ex07.2 · "The same answers, another batch, another loss" (2 points, 7 minutes, difficulty 2)
#
# A short completion teaches less when a long one happens to be in its batch. The mean of the token losses, as it was shipped:
#
# ```python
# def fixed_mean(values, completion_mask):
#     return torch.where(completion_mask, values, 0.0).mean(1).mean()
# ```
#
# Wanted is the mean over the tokens that count in each completion, then over the completions. A completion without tokens
# adds 0, and counts.
#
# `fixed_mean(values, completion_mask)`: (B, C), (B, C) bool -> a scalar
#
# By hand: the values 1, 2, 3 in one completion and 4 in another, three columns. It should give (2 + 4) / 2 = 3, and gives
# (2 + 1.3333) / 2 = 1.6667.
#
# Read: [notebook 07](../notebooks/07_failures.ipynb), "Padding in the mean".


# %%
def fixed_mean(values, completion_mask):
    ### BEGIN SOLUTION
    means = []
    for row in range(len(values)):
        counted = values[row][completion_mask[row]]
        means.append(counted.sum() / max(len(counted), 1))
    return torch.stack(means).mean()
    ### END SOLUTION


# %%
check(fixed_mean)

# %% [markdown]
# ## ex07.3 · "The mean ratio is 0.99, so all is well" (3 points, 10 minutes, difficulty 3)
#
# Before any update the ratio of policy and sampler should be exactly 1. On average it nearly is; token by token it is not. The
# log-probs of the tokens that were drawn, as they were shipped:
#
# ```python
# def fixed_logprobs(logits, token_ids, temperature):
#     logprobs = torch.log_softmax(logits, dim=-1)
#     return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
# ```
#
# `fixed_logprobs(logits, token_ids, temperature)`: (B, C, V), (B, C), a number -> (B, C) nats
#
# By hand: two tokens with the logits 1 and 0, drawn at temperature 0.5. The first has the log-prob -0.1269; the function gives
# -0.3133.
#
# Read: [notebook 07](../notebooks/07_failures.ipynb), "The temperature is missing from the log-probs".


# %%
def fixed_logprobs(logits, token_ids, temperature):
    ### BEGIN SOLUTION
    scaled = logits / temperature  # what the sampler drew from
    largest = scaled.max(dim=-1, keepdim=True).values
    shifted = scaled - largest  # so that exp cannot overflow
    log_total = shifted.exp().sum(-1, keepdim=True).log()
    logprobs = shifted - log_total
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    ### END SOLUTION


# %%
check(fixed_logprobs)

# %% [markdown]
# ## Done
#
# Back to [notebook 07](../notebooks/07_failures.ipynb), or on to [notebook 08](../notebooks/08_further.ipynb).
