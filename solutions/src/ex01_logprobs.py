# %% [markdown]
# # Exercise 1 · Log-probs
#
# Five questions, 12 points, about 30 minutes. Read notebook [01](../notebooks/01_logprobs.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares values and gradients, and says what differs. `hint("ex01.1")` helps; called again it says
# more. You need only torch. Loops are welcome: right comes before short.

# %%
import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex01.1 · The shift (2 points, 5 minutes, difficulty 1)
#
# A causal language model's logits at position t predict token **t + 1**. Given the logits of prompt and completion, return
# those that predict each completion token. If you get this wrong, you train on numbers that belong to other tokens,
# and nothing crashes.
#
# `shift_logits(logits, prompt_length)`: (B, L + C, V), L -> (B, C, V)
#
# By hand: with a prompt of 4 tokens and a completion of 2, six positions 0 to 5, the answer is positions 3 and 4.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb), "The shift: position t predicts token t + 1".


# %%
def shift_logits(logits, prompt_length):
    ### BEGIN SOLUTION
    total_length = logits.shape[1]
    positions = []
    for token_position in range(prompt_length, total_length):
        positions.append(token_position - 1)  # the prediction stands one before the token
    return logits[:, positions]
    ### END SOLUTION


# %%
check(shift_logits)

# %% [markdown]
# ## ex01.2 · What the sampler kept (3 points, 8 minutes, difficulty 3)
#
# Many samplers draw only from the `top_k` likeliest tokens. Then **that** is the policy: the tokens that are not kept have the
# probability 0, and those that are kept sum to 1. Score such a completion under all V tokens, and the ratio of an untouched
# policy isn't 1. Return the log-prob of each token under the policy that drew it: temperature first, then the `top_k` likeliest.
# The tokens given are always among those that are kept.
#
# `top_k_logprobs(logits, token_ids, temperature, top_k)`: (B, C, V), (B, C), a number, an integer -> (B, C) nats; the gradient
# is checked too
#
# By hand: logits (2, 1, 0), token 0, temperature 1, top_k 2. Two tokens are left, one of them e times likelier: -0.3133.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb), "The temperature belongs to the policy".


# %%
def top_k_logprobs(logits, token_ids, temperature, top_k):
    ### BEGIN SOLUTION
    rows = []
    for row in range(token_ids.shape[0]):
        row_logprobs = []
        for place in range(token_ids.shape[1]):
            scaled = logits[row, place] / temperature
            kept = scaled.sort(descending=True).values[:top_k]
            row_logprobs.append(scaled[token_ids[row, place]] - torch.logsumexp(kept, dim=0))
        rows.append(torch.stack(row_logprobs))
    return torch.stack(rows)
    ### END SOLUTION


# %%
check(top_k_logprobs)

# %% [markdown]
# ## ex01.3 · The mask (3 points, 6 minutes, difficulty 2)
#
# Return True for the tokens that count: all up to **and including** the first EOS. That EOS was a decision of the policy, and
# one that is never trained is never learnt. What follows is padding, whatever its value: it may be another id, or the EOS
# again. A completion that was cut off has no EOS; all of it counts.
#
# `completion_mask(completion_ids, eos_token_id)`: (B, C) ids, a number -> (B, C) bool
#
# By hand: with EOS 9, the ids (5, 9, 2, 9, 9) give (True, True, False, False, False).
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb), "The mask: what counts".


# %%
def completion_mask(completion_ids, eos_token_id):
    ### BEGIN SOLUTION
    mask = torch.zeros(completion_ids.shape, dtype=torch.bool)
    for row, ids in enumerate(completion_ids.tolist()):
        for place, token in enumerate(ids):
            mask[row, place] = True
            if token == eos_token_id:
                break  # the EOS has been counted, nothing after it is
    return mask
    ### END SOLUTION


# %%
check(completion_mask)

# %% [markdown]
# ## ex01.4 · Entropy (2 points, 6 minutes, difficulty 2)
#
# How undecided was the policy at each token? The entropy is the mean of minus the log-prob over all tokens that might have
# stood there, each weighted with its probability under softmax(logits / temperature). It is the first number to look at when
# a run stops exploring. A probability that is rounded to 0 adds 0, not NaN.
#
# `token_entropies(logits, temperature=1.0)`: (B, C, V), a number -> (B, C) nats
#
# By hand: logits (log 3, 0) are probabilities 0.75 and 0.25 at temperature 1: 0.5623 nats. At temperature 2 it is 0.6568; the
# most that two tokens can have is log 2 = 0.6931.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb), "Entropy: how undecided is the policy?".


# %%
def token_entropies(logits, temperature=1.0):
    ### BEGIN SOLUTION
    scaled = logits / temperature
    logprobs = scaled - torch.logsumexp(scaled, dim=-1, keepdim=True)
    probabilities = torch.exp(logprobs)
    entropies = torch.zeros_like(logits[:, :, 0])
    for token in range(logits.shape[-1]):
        entropies = entropies - probabilities[:, :, token] * logprobs[:, :, token]
    return entropies
    ### END SOLUTION


# %%
check(token_entropies)

# %% [markdown]
# ## ex01.5 · The ratio at a temperature (2 points, 5 minutes, difficulty 2)
#
# While it sampled, the policy noted `old_logprobs`: log-probs under softmax(logits / temperature), as it was then. Now you have
# its logits as it is today. Return, for each token, today's probability over that of the sampler, **at the same temperature**.
# The loss of notebook 03 is built on this ratio, and where nothing has been trained yet it must be exactly 1.
#
# `tempered_ratio(logits, token_ids, old_logprobs, temperature)`: (B, C, V), (B, C), (B, C), a number -> (B, C)
#
# By hand: logits (log 3, 0), token 0 and temperature 0.5 are a probability of 0.9. If the sampler noted log 0.6, the ratio is
# 1.5.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb), "The temperature belongs to the policy".


# %%
def tempered_ratio(logits, token_ids, old_logprobs, temperature):
    ### BEGIN SOLUTION
    scaled = logits / temperature
    all_logprobs = scaled - torch.logsumexp(scaled, dim=-1, keepdim=True)
    rows = []
    for row in range(token_ids.shape[0]):
        ratios = []
        for place in range(token_ids.shape[1]):
            new_logprob = all_logprobs[row, place, token_ids[row, place]]
            log_ratio = new_logprob - old_logprobs[row, place]  # the sampler's has the temperature in it already
            ratios.append(torch.exp(log_ratio))
        rows.append(torch.stack(ratios))
    return torch.stack(rows)
    ### END SOLUTION


# %%
check(tempered_ratio)

# %% [markdown]
# ## Done
#
# 12 points: 2 + 3 + 3 + 2 + 2. On to [notebook 02](../notebooks/02_policy_gradient.ipynb), or to
# [exercise 2](ex02_advantages.ipynb).

# %%
progress()
