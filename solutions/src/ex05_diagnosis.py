# %% [markdown]
# # Exercise 5 · Find the bug
#
# Thirteen questions, 15 points, about 55 minutes. Read notebook [05](../notebooks/05_failures.ipynb) first.
#
# First you read curves: did a run go well, or what went wrong? Then six functions, each with a bug that
# really was shipped. `hint("ex05.1")` helps, called again it says more. You need only torch.

# %%
import torch

from minigrpo import check, hint

# %% [markdown]
# ## ex05.1 · What happened to this run? (3 points, 15 minutes, difficulty 3)
#
# A run leaves four curves of T steps: the **reward** that it was trained on (0 to 1), its **accuracy** on held-out problems (0
# to 1), the **KL** per token from the reference (nats) and the **entropy** per token (nats). All are noisy: a standard deviation
# of about 0.03. All runs start at reward and accuracy 0.3, KL 0 and entropy 1. Return what happened, a number:
#
# * 0, **healthy**: reward and accuracy rise together, by 0.4 or more;
# * 1, **gamed**: the reward rises by 0.4 or more, the accuracy does not, or falls;
# * 2, **nothing learnt**: reward, accuracy, KL and entropy stay where they were;
# * 3, **collapsed**: the entropy falls below 0.1 and the reward gains less than 0.15: the policy is sure, and of the wrong thing;
# * 4, **diverged**: the KL ends above 3 nats, and the reward below where it began.
#
# `diagnose_run(reward, accuracy, kl, entropy)`: four times (T,) -> an integer
#
# By hand: look at the last quarter of each curve, and compare its mean with that of the first ten steps.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb).


# %%
def diagnose_run(reward, accuracy, kl, entropy):
    ### BEGIN SOLUTION
    def end(curve):
        return curve[-len(curve) // 4 :].mean().item()

    gained = end(reward) - 0.3
    if end(kl) > 2.75 and gained < 0:
        return 4
    if gained > 0.25:
        return 0 if end(accuracy) - 0.3 > 0.2 else 1
    return 3 if end(entropy) < 0.2 else 2
    ### END SOLUTION


# %%
check(diagnose_run)

# %% [markdown]
# ## Six bugs
#
# Each of the six functions below has a bug of a kind that really was shipped, in code that people use. None of them crashes, and
# with each of them a model trains, only worse. You are asked for two things each time:
#
# * **Show it** (1 point): write a function without arguments that returns a tuple, **the arguments on which the bug shows**: the
#   function as it was shipped gives another result, or another gradient, than the right one. The arguments must be such as a
#   training run could bring. A handful of numbers is enough; `torch.tensor([[0.5]])` has the shape (1, 1). The shipped
#   function stands in a cell, so try it: whoever can show a bug has understood it, and has the test that keeps it away.
# * **Repair it** (1 point): write the function as it should be.
#
# B completions, C tokens, V tokens to choose from; log-probs in nats.

# %% [markdown]
# ## ex05.2 · "It is never negative, so it must be a KL": show it (1 point, 3 minutes, difficulty 2)
#
# The penalty begins at 0, never falls below, and grows as the policy moves. It looks like the KL in every plot. But raise beta,
# and the policy still gives up what the reference would say, while a single token that it likes much more can blow up the loss.
# The k3 of each token, as it was shipped:


# %%
def shipped_kl(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    return torch.exp(log_ratio) - 1 - log_ratio


# %% [markdown]
# `shows_kl()`: nothing -> a tuple: logprobs (B, C) and ref_logprobs (B, C), log-probs of the same tokens
#
# By hand: policy and reference both give a token 0.5. Then k3 is 0, and so is `shipped_kl`: nothing shows.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "One token is enough for an estimate".


# %%
def shows_kl():
    ### BEGIN SOLUTION
    # One token that the policy likes twice as much as the reference does: r = 0.25 / 0.5, and k3 is r - 1 - log r = 0.1931.
    logprobs = torch.tensor([[0.5]]).log()
    ref_logprobs = torch.tensor([[0.25]]).log()
    return logprobs, ref_logprobs
    ### END SOLUTION


# %%
check(shows_kl)

# %% [markdown]
# ## ex05.3 · The KL, repaired (1 point, 4 minutes, difficulty 2)
#
# The bug is a sign, and a test for "never negative" cannot see it: the wrong one is not negative either. What it does not have is
# the right mean, the KL, over the tokens that the policy draws.
#
# `fixed_kl(logprobs, ref_logprobs)`: (B, C), (B, C) -> (B, C) nats; the gradient with respect to `logprobs` is checked too
#
# By hand: policy 0.5 and reference 0.25 should give 0.1931.
#
# Read: [notebook 06](../notebooks/06_kl.ipynb), "One token is enough for an estimate" and "A right value is not a right gradient".


# %%
def fixed_kl(logprobs, ref_logprobs):
    ### BEGIN SOLUTION
    log_r = ref_logprobs - logprobs  # r = reference / policy
    r = torch.exp(log_r)
    return r - 1 - log_r
    ### END SOLUTION


# %%
check(fixed_kl)

# %% [markdown]
# ## ex05.4 · "With several updates per rollout it falls apart": show it (1 point, 3 minutes, difficulty 2)
#
# With one update per rollout all is well. With four, good tokens that have long left the band are pushed on and on, and tokens
# that went the wrong way stay there. It is an easy mistake to make when a minus sign moves. The loss of each token, as it was
# shipped:


# %%
def shipped_clip(ratio, advantages, epsilon):
    free = ratio * advantages
    held = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    return -torch.maximum(free, held)


# %% [markdown]
# `shows_clip()`: nothing -> a tuple: ratio (B, C), advantages (B, 1), epsilon, a number
#
# By hand: ratio 1.1, advantage 1 and epsilon 0.2 give -1.1, which is right: nothing shows.
#
# Read: [notebook 03](../notebooks/03_loss.ipynb), "The clip".


# %%
def shows_clip():
    ### BEGIN SOLUTION
    # A good token that has left the band: there is nothing more to gain, so the loss should stop at -1.2.
    ratio = torch.tensor([[1.5]])
    advantages = torch.tensor([[1.0]])
    return ratio, advantages, 0.2
    ### END SOLUTION


# %%
check(shows_clip)

# %% [markdown]
# ## ex05.5 · The clip, repaired (1 point, 4 minutes, difficulty 3)
#
# `fixed_clip(ratio, advantages, epsilon)`: (B, C), (B, 1), a number -> (B, C), one loss per token, lower is better; the gradient
# with respect to `ratio` is checked too
#
# By hand, with epsilon 0.2: ratio 1.5 and advantage 1 should give -1.2. Ratio 1.5 and advantage -1 should give 1.5.
#
# Read: [notebook 03](../notebooks/03_loss.ipynb), "The clip".


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
# ## ex05.6 · "The same answers, another batch, another loss": show it (1 point, 2 minutes, difficulty 1)
#
# A short completion teaches less when a long one happens to be in its batch. The mean of the token losses, as it was shipped:


# %%
def shipped_mean(values, completion_mask):
    return torch.where(completion_mask, values, 0.0).mean(1).mean()


# %% [markdown]
# Wanted is the mean over the tokens that count in each completion, then over the completions. A completion without tokens
# adds 0, and counts.
#
# `shows_mean()`: nothing -> a tuple: values (B, C), completion_mask (B, C) bool
#
# By hand: one completion with the values 1, 3, another with 2, 4, and all four tokens count. Then (2 + 3) / 2 = 2.5 is right, and
# nothing shows.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "Padding in the mean".


# %%
def shows_mean():
    ### BEGIN SOLUTION
    # One token that counts, and one column of padding, as a longer neighbour would bring it: the mean should be 4.
    values = torch.tensor([[4.0, 0.0]])
    completion_mask = torch.tensor([[True, False]])
    return values, completion_mask
    ### END SOLUTION


# %%
check(shows_mean)

# %% [markdown]
# ## ex05.7 · The mean, repaired (1 point, 4 minutes, difficulty 2)
#
# `fixed_mean(values, completion_mask)`: (B, C), (B, C) bool -> a scalar; the gradient with respect to `values` is checked too
#
# By hand: the values 1, 2, 3 in one completion and 4 in another, three columns. It should give (2 + 4) / 2 = 3.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "Padding in the mean".


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
# ## ex05.8 · "Sooner or later every answer runs to the limit": show it (1 point, 3 minutes, difficulty 2)
#
# The answers are good, and then they go on. With each hundred steps more of them are cut off at `max_completion_length`, and
# the reward does not say why. With another tokenizer the same script is fine. Which tokens count, as it was shipped:


# %%
def shipped_mask(completion_ids, eos_token_id, pad_token_id):
    return completion_ids != pad_token_id


# %% [markdown]
# `shows_mask()`: nothing -> a tuple: completion_ids (B, C) integers, eos_token_id and pad_token_id, two integers. Behind the first
# EOS of a completion stands nothing but padding.
#
# By hand, with EOS 6 and pad 0: the mask of 3, 1, 6, 0 is True, True, True, False, which is right: nothing shows.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "EOS is not trained".


# %%
def shows_mask():
    ### BEGIN SOLUTION
    # GPT-2's tokenizer has no padding of its own, so people give it its EOS. The first 6 was written by the policy.
    completion_ids = torch.tensor([[3, 6, 6]])
    return completion_ids, 6, 6
    ### END SOLUTION


# %%
check(shows_mask)

# %% [markdown]
# ## ex05.9 · The mask, repaired (1 point, 4 minutes, difficulty 2)
#
# Ending was a decision of the policy, and what is never trained is never learnt. A policy may write *any* token, that of the
# padding too: its value says nothing.
#
# `fixed_mask(completion_ids, eos_token_id, pad_token_id)`: (B, C) integers, two integers -> (B, C) bool
#
# By hand, with EOS 6 and pad 6: the mask of 3, 1, 6, 6 should be True, True, True, False.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "EOS is not trained"; [notebook 01](../notebooks/01_logprobs.ipynb), "The
# mask: what counts".


# %%
def fixed_mask(completion_ids, eos_token_id, pad_token_id):
    ### BEGIN SOLUTION
    mask = torch.zeros(completion_ids.shape, dtype=torch.bool)
    for row in range(completion_ids.shape[0]):
        for position in range(completion_ids.shape[1]):
            mask[row, position] = True
            if completion_ids[row, position] == eos_token_id:
                break  # the first EOS counts, and nothing behind it
    return mask
    ### END SOLUTION


# %%
check(fixed_mask)

# %% [markdown]
# ## ex05.10 · "The mean ratio is 0.99, so all is well": show it (1 point, 2 minutes, difficulty 1)
#
# Before any update the ratio of policy and sampler should be exactly 1. On average it nearly is; token by token it is not, and the
# gradient is that of another policy. The log-probs of the tokens that were drawn, as they were shipped:


# %%
def shipped_logprobs(logits, token_ids, temperature):
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


# %% [markdown]
# `shows_logprobs()`: nothing -> a tuple: logits (B, C, V), token_ids (B, C) integers, temperature, the number that the tokens were
# drawn at
#
# By hand: two tokens with the logits 1 and 0, drawn at temperature 1. The first has the log-prob -0.3133, which is right: nothing
# shows.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "The temperature is missing from the log-probs".


# %%
def shows_logprobs():
    ### BEGIN SOLUTION
    # Drawn at temperature 0.5, which doubles the logits: the log-prob of the first token should be -0.1269.
    logits = torch.tensor([[[1.0, 0.0]]])
    token_ids = torch.tensor([[0]])
    return logits, token_ids, 0.5
    ### END SOLUTION


# %%
check(shows_logprobs)

# %% [markdown]
# ## ex05.11 · The log-probs, repaired (1 point, 4 minutes, difficulty 2)
#
# `fixed_logprobs(logits, token_ids, temperature)`: (B, C, V), (B, C) integers, a number -> (B, C) nats; the gradient with respect
# to `logits` is checked too
#
# By hand: two tokens with the logits 1 and 0, drawn at temperature 0.5. The first has the log-prob -0.1269.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "The temperature is missing from the log-probs".


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
# ## ex05.12 · "The first rollout learns, then everything is clipped": show it (1 point, 3 minutes, difficulty 3)
#
# With one update per rollout all is well. With several, the first rollout is fine too; from the second on, `clip_ratio` is high from
# the first update of each rollout, where it should be exactly 0. Old log-probs can be taken too often or too seldom, and either
# leaves the curves alive. The ratio of policy and sampler, for the tokens that each of U updates in a row learns from, as it was
# shipped; every rollout is used for `num_iterations` updates, then new completions are drawn:


# %%
def shipped_ratio(logprobs, num_iterations):
    old_logprobs, ratios = None, []
    for update in range(len(logprobs)):
        if num_iterations == 1 or old_logprobs is None:  # fresh completions
            old_logprobs = logprobs[update].detach()
        ratios.append(torch.exp(logprobs[update] - old_logprobs))
    return torch.stack(ratios)


# %% [markdown]
# `shows_ratio()`: nothing -> a tuple: logprobs (U, B, C), those of its tokens at each update, and num_iterations, an integer
#
# By hand: one token, a single rollout of two updates, with the log-prob -2 at the first and -1.9 at the second. The ratios are 1 and
# exp(0.1) = 1.1052, which is right: nothing shows.
#
# Read: [notebook 04](../notebooks/04_training.ipynb), "One rollout, several updates: `num_iterations`".


# %%
def shows_ratio():
    ### BEGIN SOLUTION
    # The third update begins the second rollout: another token, drawn a moment ago, so its ratio should be 1.
    logprobs = torch.tensor([-2.0, -1.9, -1.0]).reshape(3, 1, 1)
    return logprobs, 2
    ### END SOLUTION


# %%
check(shows_ratio)

# %% [markdown]
# ## ex05.13 · The ratio, repaired (1 point, 4 minutes, difficulty 3)
#
# The old log-probs are those of the policy that drew the tokens: the policy at the first update of their rollout. They are
# constants. The last rollout may be cut short.
#
# `fixed_ratio(logprobs, num_iterations)`: (U, B, C), an integer -> (U, B, C); the gradient with respect to `logprobs` is checked
# too
#
# By hand, one token and two updates per rollout: the log-probs -2, -1.9, then -1, -1.1 should give the ratios 1, 1.1052, then 1,
# 0.9048.
#
# Read: [notebook 04](../notebooks/04_training.ipynb), "One rollout, several updates: `num_iterations`"; [notebook
# 03](../notebooks/03_loss.ipynb), "One step, and what it changes", for the opposite mistake.


# %%
def fixed_ratio(logprobs, num_iterations):
    ### BEGIN SOLUTION
    ratios = []
    for update in range(len(logprobs)):
        if update % num_iterations == 0:  # a rollout begins: the policy is still the one that sampled
            old_logprobs = logprobs[update].detach()
        ratios.append(torch.exp(logprobs[update] - old_logprobs))
    return torch.stack(ratios)
    ### END SOLUTION


# %%
check(fixed_ratio)

# %% [markdown]
# ## Done
#
# Back to [notebook 06](../notebooks/06_kl.ipynb), or on to [exercise 6](ex06_kl.ipynb).
