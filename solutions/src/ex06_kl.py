# %% [markdown]
# # Exercise 6 · KL
#
# Five questions, 11 points, about 38 minutes. Read notebook [06](../notebooks/06_kl.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares values and gradients, and says what differs. `hint("ex06.1")` helps, called again it says
# more. You need only torch.

# %%
import torch

from minigrpo import check, hint

# %% [markdown]
# ## ex06.1 · The log-ratio, k1 (1 point, 5 minutes, difficulty 1)
#
# KL(policy || reference) is the mean of log(policy / reference) over tokens that the policy drew. So the log-ratio of a single
# drawn token is an estimate already: **k1**. Return it for every token. Turned round, it estimates minus the KL, and the
# penalty drives the policy away from the reference.
#
# `kl_k1(logprobs, ref_logprobs)`: (B, C), (B, C) -> (B, C), nats
#
# By hand: policy 0.5, reference 0.25 gives log 2 = 0.6931; the two exchanged give -0.6931.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "One token is enough for an estimate".


# %%
def kl_k1(logprobs, ref_logprobs):
    ### BEGIN SOLUTION
    rows = []
    for policy_row, ref_row in zip(logprobs, ref_logprobs, strict=True):
        # log(p / q) = log p - log q, and the logarithms are what we have
        log_ratios = [log_p - log_q for log_p, log_q in zip(policy_row, ref_row, strict=True)]
        rows.append(torch.stack(log_ratios))
    return torch.stack(rows)
    ### END SOLUTION


# %%
check(kl_k1)

# %% [markdown]
# ## ex06.2 · Half the square, k2 (1 point, 5 minutes, difficulty 1)
#
# **k2** is half the square of the log-ratio. Its value is not the KL, not even on average. Its gradient is worth having: the
# log-ratio times the gradient of the log-prob, the right one for a penalty in the loss. The check looks at both.
#
# `kl_k2(logprobs, ref_logprobs)`: (B, C), (B, C) -> (B, C), nats
#
# By hand: policy 0.5, reference 0.25: the log-ratio is 0.6931, half its square 0.2402. Exchanged: the same.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "One token is enough for an estimate".


# %%
def kl_k2(logprobs, ref_logprobs):
    ### BEGIN SOLUTION
    log_ratio = logprobs - ref_logprobs
    squared = log_ratio * log_ratio
    return squared / 2  # its derivative with respect to logprobs is log_ratio
    ### END SOLUTION


# %%
check(kl_k2)

# %% [markdown]
# ## ex06.3 · The sum itself (3 points, 8 minutes, difficulty 2)
#
# With the logits of the whole vocabulary there is nothing to estimate: **KL(policy || reference)** of the next token is a sum
# over the vocabulary, weighted by the policy's probabilities. The policy is what the tokens are drawn from, which is
# softmax(logits / temperature); so is the reference. Some probabilities are too small for a floating-point number.
#
# `kl_exact(logits, ref_logits, temperature)`: (B, C, V), (B, C, V), a number -> (B, C), nats
#
# By hand, a vocabulary of two: logits [0, log 9] against [0, 0]. At temperature 1 the policy is (0.1, 0.9), and
# 0.1 log 0.2 + 0.9 log 1.8 = 0.3681. At temperature 2 it is (0.25, 0.75), and 0.25 log 0.5 + 0.75 log 1.5 = 0.1308.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "Two KLs".


# %%
def kl_exact(logits, ref_logits, temperature):
    ### BEGIN SOLUTION
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    log_q = torch.log_softmax(ref_logits / temperature, dim=-1)
    total = torch.zeros(logits.shape[:-1], dtype=logits.dtype)
    for token in range(logits.shape[-1]):
        probability = log_p[..., token].exp()  # the policy's: its name stands first
        log_ratio = log_p[..., token] - log_q[..., token]
        total = total + probability * log_ratio
    return total
    ### END SOLUTION


# %%
check(kl_exact)

# %% [markdown]
# ## ex06.4 · The penalty in the reward (3 points, 10 minutes, difficulty 3)
#
# The objective E[R - beta KL] is about whole completions. One way to it: subtract from each completion's reward beta
# times the **sum of k1 over its tokens**. A completion of which no token counts keeps its reward. Rewards are plain numbers:
# whatever gradient the log-probs carry, **none may flow out of the result**.
#
# `kl_penalized_rewards(rewards, old_logprobs, ref_logprobs, completion_mask, beta)`: (B,), (B, C), (B, C), (B, C) bool,
# a number -> (B,)
#
# By hand: reward 1, beta 0.1, k1 of the tokens 0.7, -0.2, and 9.0 on the padding: 1 - 0.1 * (0.7 - 0.2) = 0.95.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "A right value is not a right gradient".


# %%
def kl_penalized_rewards(rewards, old_logprobs, ref_logprobs, completion_mask, beta):
    ### BEGIN SOLUTION
    penalized = rewards.clone()
    for row in range(len(rewards)):
        kl_of_completion = 0.0
        for position in range(completion_mask.shape[1]):
            if completion_mask[row, position]:
                k1 = old_logprobs[row, position] - ref_logprobs[row, position]
                kl_of_completion += k1.item()  # a plain number: no gradient
        penalized[row] = rewards[row] - beta * kl_of_completion
    return penalized
    ### END SOLUTION


# %%
check(kl_penalized_rewards)

# %% [markdown]
# ## ex06.5 · The right gradient (3 points, 10 minutes, difficulty 3)
#
# k3 has the right value, but in the loss the gradient of KL(reference || policy): it leaves out that a changed policy draws
# other tokens. A factor repairs it: **policy / sampler**, with `old_logprobs` from the policy that drew the tokens. Before the
# first update its value is 1; its gradient is not 0. The mean of the product over the draws has the value and
# the gradient of KL(policy || reference). This is the default of minigrpo and of TRL. Values and gradients are checked.
#
# `kl_k3_ratio(logprobs, ref_logprobs, old_logprobs)`: (B, C), (B, C), (B, C) -> (B, C), nats
#
# By hand: policy 0.5, reference 0.25, sampler 0.4: 1.25 * 0.1931 = 0.2414. The slope with respect to the log-prob is
# the ratio times the log-ratio, 1.25 * 0.6931 = 0.8664; that of k3 alone is 1 - r = 0.5.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "A right value is not a right gradient".


# %%
def kl_k3_ratio(logprobs, ref_logprobs, old_logprobs):
    ### BEGIN SOLUTION
    log_r = ref_logprobs - logprobs
    k3 = torch.exp(log_r) - 1 - log_r
    ratio = torch.exp(logprobs - old_logprobs)  # how much more often the policy draws this token than the sampler did
    return ratio * k3  # both factors carry a gradient
    ### END SOLUTION


# %%
check(kl_k3_ratio)

# %% [markdown]
# ## Done
#
# Back to [notebook 07](../notebooks/07_triples.ipynb), or on to [exercise 7](ex07_triples.ipynb).
