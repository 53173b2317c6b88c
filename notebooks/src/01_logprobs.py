# %% [markdown]
# # 01 · Log-probs: what the policy thinks of its own words
#
# **You will be able to** compute the log-probability of every token of a completion, without the three mistakes that nearly
# everybody makes: the shift by one, the mask, the temperature.
#
# **You need** PyTorch; notebook [00](00_one_picture.ipynb) is helpful. **Time** 20 minutes.
#
# **Worth the trip:** of the completion `<8,7,4,4,6>6`, thirteen tokens long, the model has *decided* one. The other twelve follow
# from it, each with a probability of more than 99 %. You will see that in a picture, and it is the reason why GRPO can teach this model to think.

# %%
import matplotlib.pyplot as plt
import torch

import minigrpo
from minigrpo import (
    completion_tokens,
    load_policy,
    plot_tokens,
    sample_completions,
    show_tokens,
    token_logprobs,
)

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores
policy, tokenizer = load_policy("tiny")

# %% [markdown]
# ## The four completions that we follow through the course
#
# Clock arithmetic is worked from left to right and keeps only the last digit: 4*2 is 8, +9 is 17 so 7, +7 is 14 so 4, *1 is 4,
# *4 is 16 so **6**. We let the bundled GPT-2 answer four times. From here to notebook 04, rewards, advantages, ratios and the loss are
# always about these four.

# %%
# NBVAL_CHECK_OUTPUT
problem = "4*2+9+7*1*4="
generator = torch.Generator().manual_seed(192)
rollout = sample_completions(
    policy, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
)
for completion in rollout.completions:
    print(problem, completion)

# %% [markdown]
# One of them thinks first and is right; three answer at once, and one of the three is lucky. Completions have different lengths, so
# the tensor of token ids is padded on the right. The prompt is read once for all four.

# %%
# NBVAL_CHECK_OUTPUT
print("prompt_ids     ", tuple(rollout.prompt_ids.shape), " (P, L): 1 prompt of 12 tokens")
print(
    "completion_ids ",
    tuple(rollout.completion_ids.shape),
    "(B, C): 4 completions, the longest of 13 tokens",
)
print(rollout.completion_ids[1].tolist(), "is the digit 4, then EOS, then padding")

# %% [markdown]
# ## The shift: position t predicts token t + 1
#
# **Claim: the distribution over a token stands one position *before* the token.** A causal language model reads `4*2+9+7*1*4=` and
# gives, at each position, a distribution over what comes *next*. So the distribution over the first completion token is at
# the last prompt token, the `=`. Let us write it the slow way first, for the thinking completion.

# %%
# NBVAL_CHECK_OUTPUT
prompt = rollout.prompt_ids[0].tolist()
completion = rollout.completion_ids[0].tolist()
with torch.no_grad():
    logits = policy(torch.tensor([prompt + completion])).logits[0]

slow = []
for place, token in enumerate(completion):
    position = len(prompt) + place - 1  # one before the token
    probabilities = torch.softmax(logits[position], dim=0)
    slow.append(torch.log(probabilities[token]).item())
print([round(value, 2) + 0.0 for value in slow])
assert min(slow[1:]) > torch.tensor(0.99).log()  # each of the other twelve has more than 99 %

# %% [markdown]
# The first token, `<`, has a log-prob of -2.9: a probability of 6 %. Everything after it is nearly certain. What does the mistake look
# like? Without the `- 1` we would ask, at each position, for the probability of a token that has just been read.

# %%
# NBVAL_CHECK_OUTPUT
wrong = torch.log_softmax(logits[len(prompt) : len(prompt) + len(completion)], dim=-1)
wrong = wrong[torch.arange(len(completion)), torch.tensor(completion)]
print(
    "shifted wrongly:",
    round(wrong.mean().item(), 1),
    "nats per token; rightly:",
    round(sum(slow) / len(slow), 1),
)
assert wrong.mean() < sum(slow) / len(slow) - 2

# %% [markdown]
# Nothing crashes. The numbers are merely those of a model that finds its own text absurd. In the package, the shift is
# [`shift_logits`](../minigrpo/logprobs.py); the fast way of notebook [08](08_variants.ipynb) gets the same effect by feeding inputs that are already one token behind, in [`inputs_after`](../minigrpo/scoring.py); and the rest of the code never shifts.
#
# ## The gather, and why not `log(softmax(x))`
#
# **Claim: one line replaces the loop, and it must use `log_softmax`.** The loop above takes the log of a probability. Where a
# probability is below the smallest float, that log is minus infinity, and so is the loss.

# %%
# NBVAL_CHECK_OUTPUT
gap = torch.tensor([120.0, 0.0])
print("log(softmax):", torch.log(torch.softmax(gap, dim=0))[1].item())
print("log_softmax: ", torch.log_softmax(gap, dim=0)[1].item())

# %%
shifted = minigrpo.shift_logits(logits.unsqueeze(0), len(prompt))
fast = token_logprobs(shifted, rollout.completion_ids[:1])
torch.testing.assert_close(fast[0], torch.tensor(slow), rtol=1e-4, atol=1e-5)
torch.testing.assert_close(fast[0], rollout.logprobs[0], rtol=1e-4, atol=1e-5)

# %% [markdown]
# The second line says more than it seems: the numbers from this one pass over the whole text are those that the sampler noted while it drew token
# by token. Where they differ, training is wrong: padding, dropout, another precision, another temperature.
#
# ## A picture
#
# Each row is a completion, each square a token (⏎ is EOS), and its colour is the log-prob.

# %%
plot_tokens(completion_tokens(tokenizer, rollout), rollout.logprobs, label="log-prob (nats)")
plt.show()

# %%
show_tokens(tokenizer, rollout, rollout.logprobs)

# %% [markdown]
# All the colour is in the first column. **The only real decision is the first token**: think (`<`) or which digit to guess. To
# reward a completion is therefore to reward that decision. Hover over a token for its exact value.
#
# ## The mask: what counts
#
# **Claim: a token counts up to and including the first EOS.** EOS counts because stopping is a decision too: a model whose EOS is never trained never learns to stop.
# What comes after is padding. The slow way, then the package's:

# %%
# NBVAL_CHECK_OUTPUT
rows = []
for ids in rollout.completion_ids.tolist():
    row, ended = [], False
    for token in ids:
        row.append(not ended)
        ended = ended or token == tokenizer.eos_token_id
    rows.append(row)
mask = torch.tensor(rows)
assert torch.equal(mask, minigrpo.completion_mask(rollout.completion_ids, tokenizer.eos_token_id))
print("tokens that count:", mask.sum(1).tolist(), "of", mask.shape[1])

# %% [markdown]
# And if padding is counted in a mean? The mean log-prob of a short completion is then watered down by its padding, the more the longer its *neighbours* are:

# %%
# NBVAL_CHECK_OUTPUT
logprobs = rollout.logprobs
right = (logprobs * mask).sum(1) / mask.sum(1)
watered = (logprobs * mask).mean(1)
print("over its own tokens:", [round(x, 2) for x in right.tolist()])
print("over all columns:   ", [round(x, 2) for x in watered.tolist()])

# %% [markdown]
# Completion 1 has lost five sixths of its weight, only because another completion of the batch is thirteen tokens long.
#
# ## The temperature belongs to the policy
#
# **Claim: who samples at temperature T has the policy softmax(logits / T), and must score with the same T.** At T = 0.5 the model is surer of itself
# than at 1. Scored at 1, the numbers belong to another policy, and the ratio that notebook 03 builds on is wrong.

# %%
cold = sample_completions(
    policy,
    tokenizer,
    [problem],
    num_generations=4,
    max_completion_length=16,
    temperature=0.5,
    generator=torch.Generator().manual_seed(192),
)

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    logits = minigrpo.policy_logits(policy, cold)
for temperature in (0.5, 1.0):
    scored = token_logprobs(logits, cold.completion_ids, temperature)
    gap = (scored - cold.logprobs)[cold.completion_mask].abs().max().item()
    print(f"scored at {temperature}: largest difference from the sampler {gap:.2f} nats")

# %% [markdown]
# ## Entropy: how undecided is the policy?
#
# The entropy of a position is the mean of minus the log-prob over *all* tokens that might have stood there, in nats: 0 if one
# token is certain, log V if all V are equally likely. It needs the whole distribution; minus the log-prob of the token that was drawn is only a sample of it.

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    logits = minigrpo.policy_logits(policy, rollout)
entropies = minigrpo.token_entropies(logits)
print(
    "at the first token:",
    round(entropies[0, 0].item(), 2),
    "nats; after it:",
    round(entropies[0, 1:].max().item(), 2),
    "at most",
)
uniform = minigrpo.token_entropies(torch.zeros(1, 1, 10))
assert torch.isclose(uniform, torch.tensor(10.0).log()).all()

# %% [markdown]
# ## Questions
#
# 1. The log-prob of the first token of completion 1 is -2.86. What is its probability?
#    <details><summary>Answer</summary>exp(-2.86) = 0.06. The ten digits together have the other 0.94.</details>
# 2. Why does a model whose EOS is masked out of the loss never learn to stop, even if stopping is rewarded?
#    <details><summary>Answer</summary>The reward reaches the weights only through the log-probs of tokens that count. If EOS never counts, its log-prob gets
#    no gradient, whatever the reward.</details>
# 3. You score at temperature 1 what you sampled at 0.7. The *mean* ratio of the two policies is close to 1. Is all well?
#    <details><summary>Answer</summary>No. A mean near 1 holds for any two distributions when one samples from the second of them; look at the difference token by
#    token, as above.</details>
# 4. A batch has completions of 2 and of 200 tokens. Which mistake of this notebook does most harm?
#    <details><summary>Answer</summary>Padding in the mean: the short completions would weigh a hundredth of what they should.</details>
#
# **Exercise:** [ex01](../exercises/ex01_logprobs.ipynb). **Next:** [02 · Advantages](02_policy_gradient.ipynb), where these four completions are rewarded.
