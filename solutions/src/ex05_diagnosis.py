# %% [markdown]
# # Exercise 5 · Find the bug
#
# Thirteen questions, 15 points, about 55 minutes. Read notebook [05](../notebooks/05_failures.ipynb) first.
#
# First you read curves: did a run go well, or what went wrong? Then six functions, each with a bug that
# really was shipped. `hint("ex05.1")` helps, called again it says more. You need only torch.

# %%
import torch

from minigrpo import check, hint, progress

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
# By hand: look at the last quarter of each curve, and compare its mean with that of the first ten steps. Every run is clearly
# one of the five, so leave some slack for the noise.
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
# * **Show it** (1 point): write a function without arguments that returns **the arguments on which the bug shows** (a tuple,
#   if there are several): the function as it was shipped gives another result, or another gradient, than the right one. They
#   must be such as a training run could bring. A handful of numbers is enough; `torch.tensor([[0.5]])` has the shape (1, 1).
#   The shipped function stands in a cell, so try it: whoever can show a bug has understood it, and has the test that keeps it
#   away.
# * **Repair it** (1 point): write the function as it should be. The number by hand is one that the shipped function gets right,
#   so that it does not show the bug for you; yours must go on getting it right.
#
# B completions, C tokens, V tokens to choose from; log-probs in nats.

# %% [markdown]
# ## ex05.2 · "With one prompt per batch it learns": show it (1 point, 3 minutes, difficulty 2)
#
# One prompt per batch, and the policy learns. Eight, and it learns slowly or not at all; the advantages look healthy, with mean 0
# and a decent spread. An easy prompt's answers are praised when all of them are right, a hard one's are blamed for being hard.
# The rewards of B completions, those of a prompt standing together, less the mean of their group, as it was shipped:


# %%
def shipped_groups(rewards, num_generations):
    means = rewards.reshape(-1, num_generations).mean(1)
    return rewards - means.repeat(num_generations)


# %% [markdown]
# `shows_groups()`: nothing -> a tuple: rewards (B,), num_generations, an integer that divides B
#
# By hand: one prompt with the rewards 1, 0 and num_generations 2. The result is 0.5, -0.5, which is right: nothing shows.
#
# Read: [notebook 02](../notebooks/02_policy_gradient.ipynb).


# %%
def shows_groups():
    ### BEGIN SOLUTION
    # An easy prompt and a hard one: everybody is as good as their group, so all four should be 0.
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
    return rewards, 2
    ### END SOLUTION


# %%
check(shows_groups)

# %% [markdown]
# ## ex05.3 · The groups, repaired (1 point, 4 minutes, difficulty 2)
#
# `fixed_groups(rewards, num_generations)`: (B,), an integer -> (B,), each reward less the mean of the num_generations rewards of
# its own prompt
#
# By hand: the rewards 2, 0, 1 of one prompt with three completions give 1, -1, 0.
#
# Read: [notebook 02](../notebooks/02_policy_gradient.ipynb).


# %%
def fixed_groups(rewards, num_generations):
    ### BEGIN SOLUTION
    parts = []
    for start in range(0, len(rewards), num_generations):
        group = rewards[start : start + num_generations]
        parts.append(group - group.mean())
    return torch.cat(parts)
    ### END SOLUTION


# %%
check(fixed_groups)

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
# By hand, with epsilon 0.2: ratio 0.9 and advantage 2 give -1.8.
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
# ## ex05.6 · "The same prompt, another batch, another answer": show it (1 point, 3 minutes, difficulty 2)
#
# Alone in its batch a prompt is answered well. Beside a longer one its answers get worse, and the log-probs of the same tokens
# are others. To stand in one tensor, prompts are padded **on the left**, so that all of them end where sampling begins. A model
# with a table of positions, such as GPT-2, has to be told where each token stands. The positions, as they were shipped:


# %%
def shipped_positions(prompt_mask):
    return torch.arange(prompt_mask.shape[1]).expand(prompt_mask.shape)


# %% [markdown]
# `shows_positions()`: nothing -> prompt_mask (P, L) bool: in each row False where padding stands, then True up to the end
#
# By hand: one prompt of three tokens. The positions are 0, 1, 2, which is right: nothing shows.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb).


# %%
def shows_positions():
    ### BEGIN SOLUTION
    # Two tokens beside a prompt of three: alone in their batch they would stand at 0 and 1.
    return torch.tensor([[False, True, True], [True, True, True]])
    ### END SOLUTION


# %%
check(shows_positions)

# %% [markdown]
# ## ex05.7 · The positions, repaired (1 point, 4 minutes, difficulty 2)
#
# The first token of a prompt stands at 0, whatever the width of its batch. Nobody looks at padding, but it needs a number that is
# in the table: 0.
#
# `fixed_positions(prompt_mask)`: (P, L) bool -> (P, L) integers
#
# By hand: a prompt of two tokens without padding gives 0, 1.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb).


# %%
def fixed_positions(prompt_mask):
    ### BEGIN SOLUTION
    positions = torch.zeros(prompt_mask.shape, dtype=torch.long)
    for row in range(prompt_mask.shape[0]):
        count = 0
        for column in range(prompt_mask.shape[1]):
            if prompt_mask[row, column]:
                positions[row, column] = count
                count += 1
    return positions
    ### END SOLUTION


# %%
check(fixed_positions)

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
# ## ex05.9 · The mask, repaired, without what was cut off (1 point, 4 minutes, difficulty 2)
#
# Repair it, and leave out what was cut off: a completion that reached the limit of its length holds no EOS. Its reward is one for
# a text that was never finished, so **none of its tokens count**. Of the others those of ex01.3 do. A policy may write *any*
# token, that of the padding too.
#
# `fixed_mask(completion_ids, eos_token_id, pad_token_id)`: (B, C) integers, two integers -> (B, C) bool
#
# By hand, with EOS 6 and pad 0: the mask of 3, 6, 0, 0 is True, True, False, False, and that of 3, 1, 2, 4 False throughout.
#
# Read: [notebook 05](../notebooks/05_failures.ipynb), "EOS is not trained"; [notebook 01](../notebooks/01_logprobs.ipynb), "The
# mask: what counts".


# %%
def fixed_mask(completion_ids, eos_token_id, pad_token_id):
    ### BEGIN SOLUTION
    mask = torch.zeros(completion_ids.shape, dtype=torch.bool)
    for row in range(completion_ids.shape[0]):
        for position in range(completion_ids.shape[1]):
            if completion_ids[row, position] == eos_token_id:
                mask[row, : position + 1] = True  # up to the first EOS; without one, nothing
                break
    return mask
    ### END SOLUTION


# %%
check(fixed_mask)

# %% [markdown]
# ## ex05.10 · "We kept the best checkpoint, and it scores like the last": show it (1 point, 3 minutes, difficulty 2)
#
# The accuracy on held-out problems had its top at step 90, and then the run went bad. No harm, for the best weights were kept.
# Loaded again, they score like those of the last step. The weights after the step of the highest accuracy, as it was shipped;
# `updates` are what each step adds to the weights, `accuracies` are measured after each step:


# %%
def shipped_best(weights, updates, accuracies):
    weights, best, highest = weights.clone(), weights, -1.0
    for update, accuracy in zip(updates, accuracies.tolist(), strict=True):
        weights += update
        if accuracy > highest:
            best, highest = weights, accuracy
    return best


# %% [markdown]
# `shows_best()`: nothing -> a tuple: weights (N,), updates (S, N), accuracies (S,), floats from 0 to 1
#
# By hand: the weight 0, two updates of 1, the accuracies 0.5 and 0.9. The best weight is 2, which is right: nothing shows.
#
# Read: [notebook 04](../notebooks/04_training.ipynb).


# %%
def shows_best():
    ### BEGIN SOLUTION
    # The first step is the best, and the run goes on: the best weight is 1.
    weights = torch.tensor([0.0])
    updates = torch.tensor([[1.0], [1.0]])
    return weights, updates, torch.tensor([0.9, 0.5])
    ### END SOLUTION


# %%
check(shows_best)

# %% [markdown]
# ## ex05.11 · The best checkpoint, repaired (1 point, 4 minutes, difficulty 2)
#
# `fixed_best(weights, updates, accuracies)`: (N,), (S, N), (S,) -> (N,), the weights after the step of the highest accuracy, of
# several equal ones the first; the arguments stay as they are
#
# By hand: the weight 0, the updates 1 and 2, the accuracies 0.5 and 0.9 give 3.
#
# Read: [notebook 04](../notebooks/04_training.ipynb).


# %%
def fixed_best(weights, updates, accuracies):
    ### BEGIN SOLUTION
    weights = weights.clone()
    best, highest = weights.clone(), -1.0
    for step in range(len(updates)):
        weights += updates[step]
        if accuracies[step] > highest:
            best = weights.clone()  # a copy, which the next update does not change
            highest = accuracies[step]
    return best
    ### END SOLUTION


# %%
check(fixed_best)

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
# By hand: one token and a rollout of two updates, with the log-probs -1 and -1.1: the ratios are 1 and exp(-0.1) = 0.9048.
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

# %%
progress()
