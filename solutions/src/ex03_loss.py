# %% [markdown]
# # Exercise 3 · The loss
#
# Four questions, 16 points, about 50 minutes. Read notebook [03](../notebooks/03_loss.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares values and gradients, and says what differs. `hint("ex03.1")` helps, called again it says
# more. You need only torch. B completions, C completion tokens; log-probs in nats; `completion_mask` is True where a token
# counts.

# %%
import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex03.1 · The ratio (3 points, 10 minutes, difficulty 2)
#
# How much likelier has a token become since it was drawn? The ratio of its probability now to that under the policy that
# sampled it. Without it a rollout could be used for one update only.
#
# At the level `"token"` every token has its own ratio. At the level `"sequence"` (GSPO) a completion has one: the **geometric
# mean** of its tokens' ratios, that is exp of the mean log-ratio over the tokens that count. On padding, and for a completion
# without tokens, the ratio is 1. The gradient flows through `logprobs`.
#
# `importance_ratio(logprobs, old_logprobs, completion_mask, level="token")`: (B, C), (B, C), (B, C) bool -> (B, C) for
# `"token"`, (B, 1) for `"sequence"`
#
# By hand: log-probs -1.0 and -2.0, when drawn -1.2 and -1.6. The log-ratios are 0.2 and -0.4, the ratios 1.2214 and 0.6703; at
# the level of the sequence exp(-0.1) = 0.9048.
#
# Read: [notebook 03](../notebooks/03_loss.ipynb), "One step, and what it changes"; GSPO is in
# [notebook 08](../notebooks/08_variants.ipynb).


# %%
def importance_ratio(logprobs, old_logprobs, completion_mask, level="token"):
    ### BEGIN SOLUTION
    difference = logprobs - old_logprobs
    nothing = torch.zeros_like(difference)
    log_ratio = torch.where(completion_mask, difference, nothing)  # exp(0) = 1 on padding
    if level == "token":
        return torch.exp(log_ratio)
    rows = []
    for row in range(len(logprobs)):
        length = max(int(completion_mask[row].sum()), 1)  # a completion without tokens: 0 / 1
        rows.append(torch.exp(log_ratio[row].sum() / length))
    return torch.stack(rows).unsqueeze(1)
    ### END SOLUTION


# %%
check(importance_ratio)

# %% [markdown]
# ## ex03.2 · Who divides by what (5 points, 15 minutes, difficulty 3)
#
# From one value per token to one number. The divisor decides how long and short completions weigh, and the papers differ in it:
#
# * `"grpo"`: the mean over the tokens of each completion, then over the completions. A completion without tokens adds 0, and
#   counts.
# * `"dapo"`: the sum, divided by the number of tokens.
# * `"bnpo"`: the same, but always by the number of tokens of *these* rows.
# * `"dr_grpo"`: the sum, divided by the number of completions times the constant `max_completion_length`.
#
# Where the rows are a part of a larger step, `num_sequences` (for grpo and dr_grpo) and `num_tokens` (for dapo) say how many
# there are in the whole step; divide by those. Values on padding mean nothing and must not count.
#
# `aggregate(values, completion_mask, loss_type, *, max_completion_length=None, num_sequences=None, num_tokens=None)`:
# (B, C), (B, C) bool, a name, numbers -> a scalar
#
# By hand: two completions with the values 1, 2, 3 and 4. grpo gives (2 + 4) / 2 = 3, dapo and bnpo 10 / 4 = 2.5, dr_grpo with
# a `max_completion_length` of 5 gives 10 / (2 * 5) = 1.
#
# Read: [notebook 03](../notebooks/03_loss.ipynb), "Who weighs how much?".


# %%
def aggregate(values, completion_mask, loss_type, *, max_completion_length=None, num_sequences=None, num_tokens=None):
    ### BEGIN SOLUTION
    lengths = [int(counts.sum()) for counts in completion_mask]
    sums = [row[counts].sum() for row, counts in zip(values, completion_mask, strict=True)]  # 0 if no token counts
    sequences = len(values) if num_sequences is None else num_sequences
    if loss_type == "grpo":
        return sum(total / max(length, 1) for total, length in zip(sums, lengths, strict=True)) / sequences
    if loss_type == "dr_grpo":
        return sum(sums) / (sequences * max_completion_length)
    if loss_type == "bnpo" or num_tokens is None:
        return sum(sums) / sum(lengths)
    return sum(sums) / num_tokens
    ### END SOLUTION


# %%
check(aggregate)

# %% [markdown]
# ## ex03.3 · The whole loss (5 points, 15 minutes, difficulty 4)
#
# All of it in one function: the ratio of each token, the clipped objective (the band is `1 - epsilon` to `1 + epsilon`),
# minus that plus `beta` times the KL, averaged over the tokens that count in each completion and then over the completions.
# It is minimised. The KL comes ready made, one number per token, and carries a gradient as `logprobs` does.
#
# `simple_grpo_loss(logprobs, old_logprobs, advantages, completion_mask, kl, beta, epsilon)`: (B, C), (B, C), **(B,)**,
# (B, C) bool, (B, C), two numbers -> a scalar
#
# By hand: one completion of one token, log-prob -1 and when drawn -1.5, advantage 2, KL 0.5, beta 0.1, epsilon 0.2. The ratio
# 1.6487 is above 1.2, so the objective is 1.2 * 2 = 2.4 and the loss -2.4 + 0.1 * 0.5 = -2.35.
#
# Write it without the functions above: every part stands alone. Read: [notebook 03](../notebooks/03_loss.ipynb), "All of it".


# %%
def simple_grpo_loss(logprobs, old_logprobs, advantages, completion_mask, kl, beta, epsilon):
    ### BEGIN SOLUTION
    rows = []
    for row in range(len(logprobs)):
        counts = completion_mask[row]
        ratio = torch.exp(logprobs[row][counts] - old_logprobs[row][counts])
        free = ratio * advantages[row]
        held = torch.clamp(ratio, 1 - epsilon, 1 + epsilon) * advantages[row]
        token_losses = -torch.minimum(free, held) + beta * kl[row][counts]
        rows.append(token_losses.sum() / max(len(token_losses), 1))
    return torch.stack(rows).sum() / len(rows)
    ### END SOLUTION


# %%
check(simple_grpo_loss)

# %% [markdown]
# ## ex03.4 · Micro-batches (3 points, 10 minutes, difficulty 3)
#
# A batch that does not fit into memory goes through the model in parts, and `backward` adds up their gradients. Write the
# loss of one part so that **the sum over the parts has the value and the gradient of the whole batch**, whatever the split.
# Several libraries have shipped this wrong: the result then depends on how much memory the machine has.
#
# There is one update per rollout, so the policy that samples is the one that is trained: take the ratio to your own log-probs,
# held constant. It is 1 everywhere, nothing is clipped, there is no KL; its gradient is what counts. The whole batch's loss is
# minus the mean over completions of the mean over tokens of ratio times advantage, and it has `num_sequences` completions.
#
# `micro_batch_loss(logprobs, advantages, completion_mask, num_sequences)`: (B, C), (B,), (B, C) bool, the number of
# completions of the whole batch -> a scalar
#
# By hand: 2 completions out of a batch of 8, with the advantages 0.5 and -1.5: -(0.5 - 1.5) / 8 = 0.125.
#
# Read: [notebook 03](../notebooks/03_loss.ipynb), "Why is my loss 0?" and "Who weighs how much?".


# %%
def micro_batch_loss(logprobs, advantages, completion_mask, num_sequences):
    ### BEGIN SOLUTION
    constant = logprobs.detach()
    total = 0.0
    for row in range(len(logprobs)):
        counts = completion_mask[row]
        ratio = torch.exp(logprobs[row][counts] - constant[row][counts])  # 1, with a gradient
        length = max(int(counts.sum()), 1)
        total = total - (ratio * advantages[row]).sum() / length
    return total / num_sequences
    ### END SOLUTION


# %%
check(micro_batch_loss)

# %% [markdown]
# ## Done
#
# Back to [notebook 04](../notebooks/04_training.ipynb), or on to [exercise 4](ex04_training.ipynb).

# %%
progress()
