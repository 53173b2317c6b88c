# %% [markdown]
# # 01 · Log-probs: what the policy thinks of its own words
#
# **You will be able to** compute the log-probability of every token of a completion, and to avoid the three mistakes that nearly everybody
# makes: the shift by one, the mask, the temperature.
#
# **You need** PyTorch; lesson [00](00_one_picture.ipynb) helps. **Time** 25 minutes, with the function that you write.
#
# **Worth the trip:** of the thirteen tokens of `<8,7,4,4,6>6` and its end, the model has *decided* only one. You will see
# which, and why it is enough to reward the completion as a whole.

# %%
import matplotlib.pyplot as plt
import torch

import minigrpo as mg
from minigrpo.view.controls.temperature import plot_temperature, try_temperature

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
mg.plot_group(mg.worked_example(), light=("completions", "logprobs"))
plt.show()

# %% [markdown]
# This lesson is about the squares: each token, and under it its **log-prob**, the natural logarithm of the probability that the policy
# gave it. The unit is the *nat*. A log-prob of 0 means "certain"; −0.7 is a coin toss; −2.9 is 6 in 100.
#
# ## The four completions that we follow through the course
#
# The answer to `4*2+9+7*1*4=` is 6. We let the model answer four times, and the next lessons reward and push these four.
# Shapes have the same letters throughout: P prompts of L tokens, B completions of at most C tokens, V tokens in the vocabulary
# (here 258: all bytes, the end, and padding).

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = mg.load_policy("tiny")
problem = "4*2+9+7*1*4="
draw = {"num_generations": 4, "max_completion_length": 16, "generator": torch.Generator().manual_seed(192)}
rollout = mg.sample_completions(policy, tokenizer, [problem], **draw)
print(rollout.completions)
print("prompt_ids    ", tuple(rollout.prompt_ids.shape), " (P, L): 1 prompt of 12 tokens")
print("completion_ids", tuple(rollout.completion_ids.shape), "(B, C): 4, the longest of 13 tokens")
print(rollout.completion_ids[1].tolist())

# %% [markdown]
# The last line is the second answer: 52 is the digit `4`, 256 is EOS (*end of sequence*), and 257 is padding, because all rows of a tensor
# have the same length.
#
# ## The shift: position t predicts token t + 1
#
# A causal language model reads tokens and gives, at each position, a distribution over what comes **next**. Let $x$ be the prompt, $y_t$
# token $t$ of the completion, $y_{<t}$ the tokens before it, and $\pi$ the probability under the policy. Then
#
# $$\pi(y_t \mid x, y_{<t}) = \mathrm{softmax}(\text{logits at the position before } y_t)$$
#
# **Write down:** the prompt has 12 tokens, positions 0 to 11. At which position do you find the distribution over the first completion
# token? And what do you do with the logits at the very last position?

# %%
tokens = mg.completion_tokens(tokenizer, rollout)
ax = mg.plot_shift(list(problem), tokens[0])
ax.set_title("above each token, the one it predicts; blue: the completion", fontsize=10)
plt.show()

# %% [markdown]
# At position 11, on the `=`, the last token of the *prompt*. The logits at the last position are thrown away, since nothing
# was written after the end. In code that is one slice, from `prompt_length - 1` to `-1`:

# %%
# NBVAL_CHECK_OUTPUT
thinker = torch.cat([rollout.prompt_ids[0], rollout.completion_ids[0]]).unsqueeze(0)  # (1, L + C)
with torch.no_grad():
    all_logits = policy(thinker).logits  # (1, L + C, V)
logits = all_logits[:, 12 - 1 : -1]  # (1, C, V): the distribution over each completion token
print(tuple(all_logits.shape), "->", tuple(logits.shape))

# %% [markdown]
# In the package, `mg.policy_logits(policy, rollout)` runs the policy over a rollout and then shifts
# ([`shift_logits`](../minigrpo/logprobs.py)).
#
# ## You write it: the gather
#
# At each position you have V logits and need one number: the log-prob of the token that was drawn there. Picking it out is a *gather*.
#
# $$\log \pi(y_t) \;=\; \frac{z_{y_t}}{T} - \log \sum_{v=1}^{V} e^{z_v / T}, \qquad z = \text{logits},\; T = \text{temperature}$$
#
# Divide by the temperature T first; what it means comes below, and 1 changes nothing. `logits` is (B, C, V), `token_ids` (B,
# C), the result (B, C). By hand: logits `[0, 0]` give −0.6931 for either token. One trap: `log` after `softmax` gives minus
# infinity where a probability is too small for a float. `torch.log_softmax` stays finite.


# %%
def token_logprobs(logits, token_ids, temperature=1.0):
    raise NotImplementedError


# %%
found = mg.check(token_logprobs)
found

# %% [markdown]
# Stuck? Run `mg.hint("01.1")`. It says more each time.
#
# <details><summary>Solution</summary>
#
# ```python
# def token_logprobs(logits, token_ids, temperature=1.0):
#     logprobs = torch.log_softmax(logits / temperature, dim=-1)                 # (B, C, V)
#     return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)            # (B, C)
# ```
#
# </details>

# %%
# yours, once it passes: found.about names the case that failed, and is None if all passed
mine = token_logprobs if getattr(found, "about", "") is None else mg.token_logprobs
print("Goes on with", "your function." if mine is token_logprobs else "the package's function.")

# %% [markdown]
# **Write down:** the sampler noted each token's log-prob as it drew it, token by token. You now **score** the whole text, that
# is, compute all its log-probs in one pass. Will the numbers agree? And what do they look like if you forget the shift?

# %%
# NBVAL_CHECK_OUTPUT
scored = mine(logits, rollout.completion_ids[:1])  # below, + 0.0 makes 0.0 of -0.0
print("the sampler's ", [round(x, 1) + 0.0 for x in rollout.logprobs[0].tolist()])
print("yours         ", [round(x, 1) + 0.0 for x in scored[0].tolist()])
unshifted = mine(all_logits[:, 12:], rollout.completion_ids[:1])
print("without shift ", [round(x, 1) for x in unshifted[0].tolist()])
torch.testing.assert_close(scored[0], rollout.logprobs[0], rtol=1e-4, atol=1e-5)
assert unshifted.mean() < scored.mean() - 2

# %% [markdown]
# They agree, up to rounding. If they ever differ in your own training, look at padding, dropout, precision and temperature.
# Without the shift nothing crashes; the model only seems to find its own text absurd.
#
# ## One decision in thirteen tokens
#
# The log-prob of a whole completion is the sum of its tokens' log-probs, because the chances multiply:
#
# $$\log \pi(y \mid x) = \sum_{t} \log \pi(y_t \mid x, y_{<t})$$

# %%
# NBVAL_CHECK_OUTPUT
first, whole = scored[0, 0], scored.sum()
print(f"the first token  log-prob {first:.2f}, probability {first.exp():.3f}")
print(f"the other twelve log-prob {whole - first:.2f}")
print(f"all of it        log-prob {whole:.2f}, probability {whole.exp():.3f}")
assert scored[0, 1:].exp().min() > 0.99

# %% [markdown]
# After `<`, each token has more than 99 %. **The only real decision is the first token**: think, or guess a digit. So to
# reward the whole completion is to reward that decision. This is why, in the picture, all the colour is in the first column.
#
# ## The mask: what counts
#
# **A token counts up to and including the first EOS.** What follows is padding. A token that does not count is not trained, so
# without EOS a model gets no gradient that tells it *when* to stop. (Ours knows that already, as lesson
# [05](05_failures.ipynb) shows.)

# %%
# NBVAL_CHECK_OUTPUT
mask = mg.completion_mask(rollout.completion_ids, tokenizer.eos_token_id)  # (B, C) bool
right = (rollout.logprobs * mask).sum(1) / mask.sum(1)  # over each completion's own tokens
diluted = (rollout.logprobs * mask).mean(1)  # over all 13 columns
print("tokens that count                  ", mask.sum(1).tolist())
print("mean log-prob, over its own tokens ", [round(x, 2) for x in right.tolist()])
print("mean log-prob, over all columns    ", [round(x, 2) for x in diluted.tolist()])
assert torch.allclose(right[1] / diluted[1], torch.tensor(13 / 2))

# %% [markdown]
# Over all columns, the mean of the second answer shrinks to 2/13 of what it should be, only because *another* answer is
# thirteen tokens long. In this course every mask is True where a token counts.
#
# ## The temperature belongs to the policy
#
# If you sample at temperature T, your policy is softmax(logits / T). **So score at the temperature at which you sampled.**
# First see what T does. **Write down:** at T = 0.5, does the share of `<` rise or fall? (At T = 1, in grey, it is 6 %, and
# five digits have between 16 and 23 % each. The entropy in the title comes in the next section.)

# %%
first_logits = mg.policy_logits(policy, rollout).detach()
plot_temperature(tokenizer, first_logits, 0.5)
plt.show()

# %%
try_temperature(tokenizer, first_logits)

# %% [markdown]
# It falls: a low temperature favours what is likely already. Does a high one make the model think more often? Try it with the
# slider, or read on:

# %%
# NBVAL_CHECK_OUTPUT
think, digits = tokenizer.encode("<"), tokenizer.encode("0123456789")
for temperature in (0.1, 0.5, 1.0, 2.0, 10.0):
    chances = torch.softmax(first_logits[0, 0] / temperature, dim=-1)
    thought, digit = chances[think].sum(), chances[digits].sum()
    other = (1 - thought - digit).abs()
    print(f"T = {temperature:4}   '<' {thought:.2f}   a digit {digit:.2f}   anything else {other:.2f}")
assert thought < 0.02 and other > 0.8

# %% [markdown]
# Up to a point. At T = 2 the share of `<` is 9 %. But at T = 10 the 258 tokens differ so little that `<` is rarer than at T =
# 1, and about nine of ten answers begin with nonsense.
#
# Now sample at 0.5 and score at 0.5 and at 1. The second scores belong to another policy than the one that wrote the text:

# %%
# NBVAL_CHECK_OUTPUT
cold_draw = draw | {"temperature": 0.5, "generator": torch.Generator().manual_seed(192)}
cold = mg.sample_completions(policy, tokenizer, [problem], **cold_draw)
cold_logits = mg.policy_logits(policy, cold).detach()
for temperature in (0.5, 1.0):
    scored_at = mine(cold_logits, cold.completion_ids, temperature)
    gap = (scored_at - cold.logprobs)[cold.completion_mask].abs().max()
    print(f"scored at {temperature}: off by up to {gap:.2f} nats")
    assert (gap < 1e-3) == (temperature == 0.5)

# %% [markdown]
# ## Entropy: how undecided is the policy?
#
# The **entropy** at a position is the average of minus the log-prob, over all tokens that could stand there:
#
# $$H = -\sum_{v=1}^{V} \pi(v) \log \pi(v)$$
#
# It is 0 if one token is certain, and log V if all are equally likely. **Write down:** the first token has five digits of about equal
# chance, and a rare `<`. Is its entropy nearer to 0, 1.7 or 5.5 nats? (log 6 is 1.8; log 258 is 5.6.)

# %%
# NBVAL_CHECK_OUTPUT
entropies = mg.token_entropies(first_logits)
print(f"at the first token {entropies[0, 0]:.2f} nats; later {entropies[0, 1:].max():.2f} at most")
assert 1.5 < entropies[0, 0] < 1.8 and entropies[0, 1:].max() < 0.1

# %% [markdown]
# In training this number falls, as the policy makes up its mind. Lesson [05](05_failures.ipynb) tells success from collapse.
#
# ## In the words of the field
#
# Scoring a given text in one pass is **teacher forcing**. Minus the mean log-prob is the
# **cross-entropy**, or *negative log-likelihood*, the loss of pretraining and of SFT; its exp is the **perplexity**. The numbers before the
# softmax are **logits**. TRL calls these log-probs `per_token_logps`. The **completion mask** here is not the **attention mask**, which
# says what a token may look at.
#
# ## Questions
#
# 1. The log-prob of the first token of the first completion is −2.86. What is its probability?
#    <details><summary>Answer</summary>exp(−2.86) = 0.057. The digits share the other 0.94.</details>
# 2. You score at temperature 1 what you sampled at 0.5. Nothing crashes. How do you notice?
#    <details><summary>Answer</summary>Compare your log-probs with those that the sampler noted, token by token. They should agree up to rounding; here they are off by up to 0.22 nats.</details>
# 3. A batch has completions of 2 and of 200 tokens, and you average over all columns. What becomes of the short ones?
#    <details><summary>Answer</summary>Their sums are divided by 200 instead of 2, so they weigh a hundredth of what they should.</details>
#
# **Exercise:** [ex01](../exercises/ex01_logprobs.ipynb). **Next:** [02 · Policy gradient](02_policy_gradient.ipynb), where these four
# completions are rewarded.
