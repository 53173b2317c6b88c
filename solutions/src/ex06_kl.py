# %% [markdown]
# # Exercise 6 · KL
#
# Five questions, 11 points, about 44 minutes. Read notebook [06](../notebooks/06_kl.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares values and gradients, and says what differs. `hint("ex06.1")` helps, called again it says
# more. You need only torch.

# %%
import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex06.1 · A number to log that also pulls (1 point, 6 minutes, difficulty 3)
#
# KL(policy || reference) is the mean of log(policy / reference) over tokens that the policy drew. So the log-ratio of a single
# drawn token, **k1**, is an estimate already, and its value is the one to log. In the loss it does nothing: its slope is 1 for
# every token, and on average over the draws that pulls nowhere. **k2**, half the square of the log-ratio, is the other way
# round: its value is not the KL, not even on average, and its gradient, the log-ratio times that of the log-prob, is the right
# one. Return for every token one number with the **value of k1** and the **gradient of k2**. (Libraries call it k1+.)
#
# `kl_k1_plus(logprobs, ref_logprobs)`: (B, C), (B, C) -> (B, C), nats; values and gradients are checked
#
# By hand: policy 0.5, reference 0.25 gives the value 0.6931, and the slope with respect to the log-prob is 0.6931, too.
# Exchanged, both are -0.6931.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "A right value is not a right gradient".


# %%
def kl_k1_plus(logprobs, ref_logprobs):
    ### BEGIN SOLUTION
    k1 = logprobs - ref_logprobs
    one = 1 + logprobs - logprobs.detach()  # the value 1, and the gradient of the log-prob
    return k1.detach() * one  # the value is k1, the gradient k1 times that of the log-prob, which is k2's
    ### END SOLUTION


# %%
check(kl_k1_plus)

# %% [markdown]
# ## ex06.2 · What pulls where (2 points, 10 minutes, difficulty 4)
#
# Put an estimate into the loss. The tokens are drawn already; autograd differentiates their estimates, and does not see that a
# changed policy would draw others. What it finds *on average* can be had without drawing: for each of the V tokens the gradient
# of its estimate with respect to the policy's logits, weighted by the policy's probability of that token, and the V added up.
# Return it for **k1** = log p - log q, **k2** = half the square of k1, and **k3** = r - 1 - log r with r = q / p, where p is the
# policy and q the reference.
#
# `kl_pulls(logits, ref_logits)`: (V,), (V,) -> (3, V), a row for each estimate
#
# By hand: the policy (0.5, 0.5), the reference (0.25, 0.75). The rows are (0, 0), (0.2747, -0.2747) and (0.25, -0.25): k1 pulls
# nowhere. Which of the other two is the gradient of KL(policy || reference)?
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "A right value is not a right gradient".


# %%
def kl_pulls(logits, ref_logits):
    ### BEGIN SOLUTION
    leaf = logits.detach().clone().requires_grad_()
    log_p, log_q = torch.log_softmax(leaf, -1), torch.log_softmax(ref_logits, -1)
    chances = log_p.exp().detach()  # drawn already: no gradient
    k1 = log_p - log_q
    k2 = k1 * k1 / 2
    k3 = torch.exp(-k1) - 1 + k1
    rows = []
    for estimate in (k1, k2, k3):
        mean = (chances * estimate).sum()
        (pull,) = torch.autograd.grad(mean, leaf, retain_graph=True)
        rows.append(pull)
    return torch.stack(rows)
    ### END SOLUTION


# %%
check(kl_pulls)

# %% [markdown]
# ## ex06.3 · The sum itself (2 points, 8 minutes, difficulty 2)
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

# %%
progress()
