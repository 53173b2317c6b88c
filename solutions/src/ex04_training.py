# %% [markdown]
# # Exercise 4 · Training
#
# Four questions, 14 points, about 55 minutes; then your own functions train the GPT-2. Read notebook
# [04](../notebooks/04_training.ipynb) first.
#
# Write each function in the place of `raise NotImplementedError`, run the cell, then run the check below it: it tries your
# function on random inputs, compares the results, and says what differs. `hint("ex04.1")` helps, called again it says more.
# You need only torch.

# %%
import torch

from minigrpo import check, hint, progress

# %% [markdown]
# ## ex04.1 · Draw a token (2 points, 8 minutes, difficulty 2)
#
# A step of training begins with sampling. Lay the probabilities softmax(logits / temperature) side by side on a line from 0
# to 1; a uniform random number is a place on that line, and the token whose stretch it hits is drawn: **the first token at
# which the summed probabilities exceed the number**. The random numbers come as an argument, so the same ones give the same
# tokens.
#
# Rounding may leave the sum of all probabilities just below 1, and the number above it: then it is the last token.
#
# `sample_step(logits, temperature, uniforms)`: (B, V), a number, (B,) in [0, 1) -> (B,) token ids
#
# By hand: four equal logits have the sums 0.25, 0.5, 0.75, 1. The number 0 draws token 0, 0.25 token 1, 0.5 token 2.
#
# Read: [notebook 01](../notebooks/01_logprobs.ipynb), "The temperature belongs to the policy".


# %%
def sample_step(logits, temperature, uniforms):
    ### BEGIN SOLUTION
    probabilities = torch.softmax(logits / temperature, dim=1)
    token_ids = []
    for row in range(len(logits)):
        token, summed = 0, probabilities[row, 0].item()
        last = probabilities.shape[1] - 1
        while summed <= uniforms[row].item() and token < last:
            token += 1
            summed += probabilities[row, token].item()
        token_ids.append(token)
    return torch.tensor(token_ids)
    ### END SOLUTION


# %%
check(sample_step)

# %% [markdown]
# ## ex04.2 · One update (5 points, 15 minutes, difficulty 3)
#
# The policy is as small as can be: the logits of a token are `features @ weights`, one matrix. Take one policy-gradient step:
# the log-probs of the tokens that were drawn (temperature 1), the loss, its gradient, and the weights after one plain step of
# gradient descent, `weights - learning_rate * gradient`. No optimizer is needed. A GPT-2 learns in the same way; it only has
# more weights.
#
# The loss is minus advantage times log-prob, averaged over the tokens that count in each completion, then over the completions.
# A completion without tokens adds 0, and counts.
#
# `training_step(weights, features, token_ids, completion_mask, advantages, learning_rate)`: (D, V), (B, C, D), (B, C), (B, C)
# bool, (B,), a number -> a tuple: the loss, a scalar; its gradient, (D, V); the new weights, (D, V). The argument `weights`
# stays as it is.
#
# By hand: weights (0, 0), one feature 1, one token, token 0, advantage 1, learning rate 0.5. Both tokens have the probability
# 0.5: the loss is -log 0.5 = 0.6931, the gradient (-0.5, 0.5), the new weights (0.25, -0.25). Token 0 has become likelier.
#
# Read: [notebook 04](../notebooks/04_training.ipynb), "A step, part by part".


# %%
def training_step(weights, features, token_ids, completion_mask, advantages, learning_rate):
    ### BEGIN SOLUTION
    moving = weights.detach().clone().requires_grad_()
    loss = 0.0
    for row in range(len(features)):
        length = int(completion_mask[row].sum())
        for position in range(length):  # the tokens that count stand in front
            logits = features[row, position] @ moving
            logprob = torch.log_softmax(logits, dim=0)[token_ids[row, position]]
            loss = loss - advantages[row] * logprob / length / len(features)
    loss.backward()
    gradient = moving.grad
    return loss.detach(), gradient, weights - learning_rate * gradient
    ### END SOLUTION


# %%
check(training_step)

# %% [markdown]
# ## ex04.3 · Two updates on one rollout (4 points, 15 minutes, difficulty 4)
#
# Sampling is slow, so one would like to learn from a rollout twice. At the second update the policy is no longer the one that
# sampled. So the loss is now minus the clipped objective, that of ex03.3 without a KL, with the ratio to **the log-probs of the
# start**, averaged as before. Do two updates of plain gradient descent. At the first the ratio is 1.
#
# `two_steps(weights, features, token_ids, completion_mask, advantages, learning_rate, epsilon)`: as before, and a number
# -> (D, V) the weights after both updates. The argument `weights` stays as it is.
#
# By hand: the example above, learning rate 0.5, epsilon 0.2. After the first update the weights are (0.25, -0.25) and token 0
# has the probability 0.6225, a ratio of 1.2449. This is above 1.2: the second gradient is 0, and the answer (0.25, -0.25).
# With epsilon 0.3 it is (0.485, -0.485).
#
# Read: [notebook 04](../notebooks/04_training.ipynb), "One rollout, several updates"; [notebook
# 03](../notebooks/03_loss.ipynb), "The clip".


# %%
def two_steps(weights, features, token_ids, completion_mask, advantages, learning_rate, epsilon):
    ### BEGIN SOLUTION
    def logprobs_under(matrix):
        return torch.log_softmax(features @ matrix, dim=-1).gather(2, token_ids.unsqueeze(2)).squeeze(2)  # (B, C)

    current, scale = weights.detach().clone(), advantages.unsqueeze(1)
    old_logprobs = logprobs_under(current)  # once, before the first update
    for _ in range(2):
        moving = current.clone().requires_grad_()
        ratio = torch.exp(logprobs_under(moving) - old_logprobs)
        objective = torch.minimum(ratio * scale, ratio.clamp(1 - epsilon, 1 + epsilon) * scale)
        means = torch.where(completion_mask, objective, 0.0).sum(1) / completion_mask.sum(1).clamp(min=1)
        current = current + learning_rate * torch.autograd.grad(means.mean(), moving)[0]
    return current
    ### END SOLUTION


# %%
check(two_steps)

# %% [markdown]
# ## ex04.4 · A loop of your own (3 points, 15 minutes, difficulty 4)
#
# Now the whole of it: sample, reward, advantages, update, and again. There are P problems, and a completion is a single token.
# The policy of problem p is softmax(features[p] @ weights). At step t it draws G tokens for each problem with `uniforms[t]`, as
# in ex04.1 at temperature 1. A token is rewarded with 1 if it is the problem's target, else 0. Advantages are those of the
# group, one group per problem: minus the mean, over the sample's standard deviation plus 1e-4. The loss is minus advantage times
# log-prob, averaged over all P * G completions; then one plain step of gradient descent.
#
# `own_loop(weights, features, targets, uniforms, learning_rate)`: (D, V), (P, D), (P,), (T, P, G), a number -> (D, V), the
# weights after T steps. The argument `weights` stays as it is. A target of V is a problem that no token solves.
#
# By hand: where no token of a group is right, or all are, every advantage is 0. If that is so in every step, the weights stay
# what they were.
#
# Read: [notebook 04](../notebooks/04_training.ipynb), "A step, part by part".


# %%
def own_loop(weights, features, targets, uniforms, learning_rate):
    ### BEGIN SOLUTION
    for uniform in uniforms:
        moving = weights.detach().clone().requires_grad_()
        logprobs = torch.log_softmax(features @ moving, dim=1)
        sums = logprobs.detach().exp().cumsum(1)[:, None]  # (P, 1, V)
        tokens = (sums <= uniform[..., None]).sum(2).clamp(max=logprobs.shape[1] - 1)  # (P, G)
        rewards = (tokens == targets[:, None]).to(weights.dtype)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        loss = -(advantages * logprobs.gather(1, tokens)).mean()
        loss.backward()
        weights = weights - learning_rate * moving.grad
    return weights
    ### END SOLUTION


# %%
check(own_loop)

# %% [markdown]
# ## The GPT-2 learns, on your functions
#
# No points here. `minigrpo.train` takes functions in the place of its own: the advantages, the KL, the loss. The next cell
# fetches yours from the exercises as you have saved them. A function that is not written yet, or does not pass its check,
# is replaced by the package's, and a sentence says so.

# %% tags=["demonstration"]
import contextlib
import json
from pathlib import Path

import matplotlib.pyplot as plt

import minigrpo


# %% tags=["demonstration"]
def fetch(name, exercise, package_function):
    """Your function from another exercise's notebook, if it passes its check there; else the package's."""
    file, yours = Path(f"{exercise}.ipynb"), None
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else []
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        if f"def {name}(" in source:
            namespace = {"torch": torch}
            with contextlib.suppress(SyntaxError):  # a cell in the middle of being written
                exec(source, namespace)
                yours = namespace[name]
    if yours is not None and getattr(check(yours), "about", "not answered") is None:
        print(f"{name}: yours")
        return yours
    print(f"{name}: not written yet or not right yet in {exercise}, so the package's trains")
    return package_function


# %% [markdown]
# `train` hands the loss more than yours asks for, and wants to know the share of clipped tokens. With one update per rollout it
# is 0.

# %% tags=["demonstration"]
my_loss = fetch("simple_grpo_loss", "ex03_loss", None)
my_advantages = fetch("compute_advantages", "ex02_advantages", minigrpo.compute_advantages)
my_kl = fetch("kl_k3_ratio", "ex06_kl", minigrpo.kl_k3_ratio)


def loss_for_train(logprobs, old_logprobs, advantages, mask, *, kl, beta, epsilon, **settings):
    loss = my_loss(logprobs, old_logprobs, advantages, mask, kl, beta, epsilon)
    return minigrpo.GRPOLoss(loss, loss.detach(), None, torch.zeros(()))


# %% [markdown]
# Eighty steps, some fifteen seconds. The model starts with some 2 right answers in 10 and ends with 9, most of them gained after
# step 30.

# %% tags=["demonstration"]
torch.set_num_threads(1)
task, config = minigrpo.clock_task(), minigrpo.GRPOConfig(max_steps=80)
state = minigrpo.TrainState.start(*minigrpo.load_policy("tiny"), config)
loss_fn = minigrpo.grpo_loss if my_loss is None else loss_for_train
functions = {"advantages_fn": my_advantages, "kl_fn": my_kl, "loss_fn": loss_fn}
rows = list(minigrpo.train(state, task.train, [task.reward], config, **functions))
ax = minigrpo.plot_metric([rows], "reward")
ax.set(xlabel="step", ylabel="reward: share of right answers", title="GPT-2 on your functions")
plt.show()

# %% [markdown]
# If the curve rises, you have written GRPO. Before, this model thought first in about 6 of 100 answers; your reward only said which ones were right. Read a few
# answers:

# %% tags=["demonstration"]
rollout = state.batch.rollout
for prompt, completion in list(zip(rollout.prompts, rollout.completions, strict=True))[::8]:
    print(prompt, completion)

# %% [markdown]
# ## Done
#
# Back to [notebook 05](../notebooks/05_failures.ipynb), or on to [exercise 5](ex05_diagnosis.ipynb).

# %%
progress()
