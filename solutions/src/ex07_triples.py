# %% [markdown]
# # Exercise 7 · Triples
#
# Four questions, 12 points, about 45 minutes. Read notebook [07](../notebooks/07_triples.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares values and gradients, and says what differs. `hint("ex07.1")` helps, called again it says
# more. You need only torch.

# %%
import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex07.1 · A baseline for every record (4 points, 15 minutes, difficulty 3)
#
# Scored records do not come in even groups: one prompt has five responses, the next has one. Each reward is compared with a
# **baseline**: a response that shares its prompt with others, with the mean of its group (itself included); a **lone** one,
# with the mean of all *other* rewards of the batch (itself left out, else it would be compared with itself in part). Then
# every difference is divided by the same number, the sample standard deviation of **all** rewards plus 0.0001. Equal group
# ids need not stand side by side. There are at least two rewards.
#
# `baseline_advantages(rewards, group_ids)`: (N,), (N,) integers -> (N,)
#
# By hand: rewards 5, 1, 5 with groups 0, 0, 1. The baselines are 3, 3 and, for the lone one, (5 + 1) / 2 = 3; the standard
# deviation is 2.3094; the advantages are 0.8660, -0.8660, 0.8660.
#
# Read: [notebook 07](../notebooks/07_triples.ipynb), "Four repairs"; on baselines,
# [notebook 02](../notebooks/02_policy_gradient.ipynb), "Why not the reward itself?".


# %%
def baseline_advantages(rewards, group_ids):
    ### BEGIN SOLUTION
    total = len(rewards)
    scale = rewards.std() + 1e-4  # of all records, N - 1 below the sum
    advantages = torch.zeros_like(rewards)
    for row in range(total):
        compared_with = [rewards[other] for other in range(total) if group_ids[other] == group_ids[row]]
        if len(compared_with) == 1:  # alone: all others instead
            compared_with = [rewards[other] for other in range(total) if other != row]
        baseline = sum(compared_with) / len(compared_with)
        advantages[row] = (rewards[row] - baseline) / scale
    return advantages
    ### END SOLUTION


# %%
check(baseline_advantages)

# %% [markdown]
# ## ex07.2 · What the assistant said (3 points, 10 minutes, difficulty 3)
#
# A chat is one long row of tokens, and each token has a role: 0 system, 1 user, 2 assistant, -1 padding. Mark what is learnt
# from: **of each of the assistant's turns the tokens up to and including its first EOS**. A turn is an unbroken run of
# role 2. What the template puts after the EOS, a newline for example, has the role 2 as well and does not count. A turn that
# was cut off has no EOS and counts to its end. Beware: the user's turns may end with EOS too, and padding may look like it.
#
# `assistant_mask(token_ids, role_ids, eos_token_id)`: (B, T) integers, (B, T) integers, an integer -> (B, T) bool
#
# By hand, with EOS = 6 and two turns of the assistant:
#
#     token   3  1  4  6  5  2  0  6
#     role    1  2  2  2  2  1  2  2
#     mask    F  T  T  T  F  F  T  T
#
# Read: [notebook 07](../notebooks/07_triples.ipynb), "Chats, and scores from people".


# %%
def assistant_mask(token_ids, role_ids, eos_token_id):
    ### BEGIN SOLUTION
    mask = torch.zeros(token_ids.shape, dtype=torch.bool)
    for row in range(token_ids.shape[0]):
        ended = False  # has this turn of the assistant met its EOS?
        for position in range(token_ids.shape[1]):
            if role_ids[row, position] != 2:
                ended = False  # the next turn begins anew
                continue
            mask[row, position] = not ended
            if token_ids[row, position] == eos_token_id:
                ended = True
    return mask
    ### END SOLUTION


# %%
check(assistant_mask)

# %% [markdown]
# ## ex07.3 · The global-reward loss (3 points, 12 minutes, difficulty 3)
#
# The optimum of E[R - beta KL] gives each response its old probability times exp(R / beta). So records that were drawn from the
# reference, **weighted by exp(R / beta)**, are draws from the optimum, and the loss raises their log-likelihood:
# minus the mean over records of **weight times summed log-prob**. The weights are scaled over all records to a **mean of 1**.
# Rewards may be large: R / beta = 1000 must not overflow. Sum the tokens of a response, do not average them; only those that
# count belong to it. The gradient with respect to the log-probs is checked too.
#
# `weighted_loss(logprobs, completion_mask, rewards, beta)`: (N, C), (N, C) bool, (N,), a number -> a scalar
#
# By hand: rewards 5 and 3, beta 2: exp(R / beta) stands 2.718 to 1, so the weights are 1.4621 and 0.5379. With summed log-probs
# -2 and -3 the loss is (1.4621 * 2 + 0.5379 * 3) / 2 = 2.2689.
#
# Read: [notebook 07](../notebooks/07_triples.ipynb), "The optimum is known, so go there".


# %%
def weighted_loss(logprobs, completion_mask, rewards, beta):
    ### BEGIN SOLUTION
    number_of_records = len(rewards)
    # exp(R / beta) up to a factor, which the scaling takes out again; the largest is exp(0) = 1
    unscaled = torch.exp((rewards - rewards.max()) / beta)
    weights = unscaled / (unscaled.sum() / number_of_records)
    total = 0.0
    for row in range(number_of_records):
        log_likelihood = logprobs[row][completion_mask[row]].sum()
        total = total + weights[row] * log_likelihood
    return -total / number_of_records
    ### END SOLUTION


# %%
check(weighted_loss)

# %% [markdown]
# ## ex07.4 · Which of two is better (2 points, 8 minutes, difficulty 2)
#
# A reward model can learn from comparisons alone. Bradley and Terry: the chance that a person prefers `chosen` to `rejected` is
# **sigmoid(score of chosen - score of rejected)**. Return minus the mean log-probability of what the people preferred, as the
# loss that the scores are trained with. It must stay finite when a score is 1000 on the wrong side. The gradients with
# respect to both are checked.
#
# `bradley_terry_loss(chosen, rejected)`: (N,), (N,) -> a scalar, nats
#
# By hand: scores 2 and 1: sigmoid(1) = 0.7311, and -log 0.7311 = 0.3133. Equal scores: log 2 = 0.6931.
#
# Read: [notebook 07](../notebooks/07_triples.ipynb), "Scores from a model".


# %%
def bradley_terry_loss(chosen, rejected):
    ### BEGIN SOLUTION
    losses = []
    for better, worse in zip(chosen, rejected, strict=True):
        # -log sigmoid(d) = log(1 + exp(-d)) = log(exp(0) + exp(-d)), without leaving the logarithms
        difference = better - worse
        losses.append(torch.logaddexp(torch.zeros_like(difference), -difference))
    return torch.stack(losses).mean()
    ### END SOLUTION


# %%
check(bradley_terry_loss)

# %% [markdown]
# ## Done
#
# On to [notebook 08](../notebooks/08_variants.ipynb).

# %%
progress()
