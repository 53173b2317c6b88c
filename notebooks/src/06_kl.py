# %% [markdown]
# # 06 · KL: how far from home?
#
# **You will be able to** say which of the two KL divergences GRPO uses and why, estimate it from sampled tokens in four ways, and
# choose the estimator whose *gradient* is right.
#
# **You need** notebook [02](02_policy_gradient.ipynb). **Time** 30 minutes.
#
# **Worth the trip:** the most obvious estimator of the KL has the right value, and put into the loss it does nothing: its expected
# gradient is exactly 0. Another, the one in the GRPO paper (DeepSeekMath, [arXiv:2402.03300](https://arxiv.org/abs/2402.03300)), pulls towards a different KL. You will see both in a table that is computed without any
# sampling, and then see where a policy ends up that was trained with each.

# %%
import math

import matplotlib.pyplot as plt
import torch

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
import minigrpo
from minigrpo import (
    completion_tokens,
    estimate_kl,
    kl_exact,
    kl_k1,
    kl_k2,
    kl_k3,
    show_tokens,
    token_logprobs,
)

# %% [markdown]
# ## What it is for
#
# The advantage pulls the policy towards whatever the reward function likes, mistakes of the reward function included. A second force, a leash, holds it near a
# *reference*: a frozen copy of the model from before the training. Its measure is the Kullback-Leibler divergence, the KL, in nats. By hand, for a vocabulary of three:

# %%
# NBVAL_CHECK_OUTPUT
policy_probs, ref_probs = [0.90, 0.05, 0.05], [1 / 3, 1 / 3, 1 / 3]
slow = sum(p * math.log(p / q) for p, q in zip(policy_probs, ref_probs, strict=True))
reverse = sum(q * math.log(q / p) for p, q in zip(policy_probs, ref_probs, strict=True))
print(f"KL(policy || reference) {slow:.3f} nats;  KL(reference || policy) {reverse:.3f} nats")

p, q = torch.tensor(policy_probs).log(), torch.tensor(ref_probs).log()
torch.testing.assert_close(kl_exact(p, q), torch.tensor(slow))
trap = torch.nn.functional.kl_div(p, q.exp(), reduction="sum")  # looks like KL(p || q)
torch.testing.assert_close(trap, torch.tensor(reverse))

# %% [markdown]
# It is 0 where the two agree and positive otherwise, and it is **not symmetric**. The name in front of the bars is the one whose probabilities
# weigh the sum. The last two lines are a trap worth knowing: PyTorch's `kl_div(log p, q)` is KL(q || p).
#
# ## Which direction?
#
# **Claim: KL(policy || reference) punishes what the reference would never write; KL(reference || policy) punishes giving up anything that it would write.**
# Take a reference with two habits, and a policy that can only have one shape, a single bump. Which bump is nearest, in each sense? We try all of them.

# %%
tokens = torch.arange(21.0)
reference_bumps = torch.logsumexp(
    torch.stack([-((tokens - 5) ** 2) / 3, -((tokens - 15) ** 2) / 3 - 0.4]), dim=0
)
centres, widths = torch.meshgrid(torch.arange(0, 20.5, 0.5), torch.arange(0.5, 10.5, 0.5), indexing="ij")
# logits of every candidate
bumps = -((tokens - centres.reshape(-1, 1)) ** 2) / (2 * widths.reshape(-1, 1) ** 2)
all_references = reference_bumps.expand_as(bumps)

# %%
# NBVAL_CHECK_OUTPUT
found = {
    "KL(policy || reference)": kl_exact(bumps, all_references).argmin(),
    "KL(reference || policy)": kl_exact(all_references, bumps).argmin(),
}
for name, best in found.items():
    assert (widths.flatten()[best] < 2) == name.startswith("KL(policy")
    print(f"least {name}: centre {centres.flatten()[best]:.1f}, width {widths.flatten()[best]:.1f}")

# %%
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.bar(tokens, reference_bumps.softmax(0), color="#BBBBBB", label="reference")
for (name, best), style, color in zip(found.items(), ("o-", "s--"), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(tokens, bumps[best].softmax(0), style, color=color, label=f"least {name}")
ax.set(xlabel="token of a vocabulary of 21", ylabel="probability")
ax.legend()
plt.show()

# %% [markdown]
# The first keeps one habit and drops the other; the second spreads over both and over the gap between them, where the reference never is. For text the gap is
# nonsense, so the first is the one to have: **GRPO uses KL(policy || reference)**. There is a practical reason too: it is a mean over the *policy's* draws, and those we have.
#
# ## The four completions, forty steps later
#
# At the start of training policy and reference are the same, and the KL is 0. To see it we need a policy that has moved. So we train the bundled model for 40 steps without any KL
# (`beta=0`) and with more than twice the default learning rate. How `train` works is notebook [04](04_training.ipynb); here we just need a policy that has moved.

# %%
reference, tokenizer = minigrpo.load_policy("tiny")
policy, _ = minigrpo.load_policy("tiny")
config = minigrpo.GRPOConfig(beta=0.0, learning_rate=5e-4, max_steps=40)
task = minigrpo.clock_task()
state = minigrpo.TrainState.start(policy, tokenizer, config)
rewards = [metrics["reward"] for metrics in minigrpo.train(state, task.train, [task.reward], config)]
print(
    f"mean reward of the first five steps {sum(rewards[:5]) / 5:.2f}, of the last five {sum(rewards[-5:]) / 5:.2f}"
)
assert sum(rewards[-5:]) > sum(rewards[:5]) + 1

# %% [markdown]
# The four completions come from the bundled model, which is now called the reference. We ask both models for their distribution at each token. With the whole
# vocabulary at hand, the KL of the next token is a sum, and no estimate: `kl_exact`.

# %%
problem = "4*2+9+7*1*4="
generator = torch.Generator().manual_seed(192)
rollout = minigrpo.sample_completions(
    reference, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
)
with torch.no_grad():
    logits, ref_logits = (minigrpo.policy_logits(model, rollout) for model in (policy, reference))

# %%
# the first token of completion 0
log_p, log_q = logits[0, 0].log_softmax(-1), ref_logits[0, 0].log_softmax(-1)
by_hand = sum(p.exp() * (p - q) for p, q in zip(log_p, log_q, strict=True))
exact = kl_exact(logits, ref_logits)
torch.testing.assert_close(exact[0, 0], by_hand)
assert logits.shape[-1] == 258
assert exact[0, 0] > exact[0, 1:].max()
print(f"at the first token {exact[0, 0]:.2f} nats, at the other twelve together {exact[0, 1:].sum():.2f}")

# %%
minigrpo.plot_tokens(completion_tokens(tokenizer, rollout), exact, label="exact KL (nats)")
plt.show()

# %% [markdown]
# All four completions have the same value in the first column, because the KL belongs to the *position*, here the `=`, and not to the token that was drawn. The policy has changed its
# mind about how to begin, which the reward asked for. At the tokens after it the two models differ by less, and at most of them hardly at all.
#
# ## Three estimates from one token
#
# A vocabulary of 258 makes the sum cheap. With 150,000 tokens, 16 completions of 1,000 tokens are 2.4 billion numbers, 9.6 GB in float32, and that twice. **Claim: the
# two log-probs of the token that was drawn are enough for an estimate.** With r = reference / policy, three are in use (Schulman 2020, "Approximating KL divergence"):
#
#     k1 = -log r        k2 = (log r)² / 2        k3 = r - 1 - log r
#
# By hand for a token to which the policy gives 0.5 and the reference 0.25, then for one with the two exchanged:

# %%
# NBVAL_CHECK_OUTPUT
for policy_prob, ref_prob in ((0.5, 0.25), (0.25, 0.5)):
    r = ref_prob / policy_prob
    slow = torch.tensor([-math.log(r), math.log(r) ** 2 / 2, r - 1 - math.log(r)])
    logprob, ref_logprob = torch.tensor(policy_prob).log(), torch.tensor(ref_prob).log()
    fast = torch.stack([estimator(logprob, ref_logprob) for estimator in (kl_k1, kl_k2, kl_k3)])
    torch.testing.assert_close(fast, slow)
    print(
        f"policy {policy_prob:.2f}, reference {ref_prob:.2f}:  k1 {fast[0]:+.4f}  k2 {fast[1]:.4f}  k3 {fast[2]:.4f}"
    )

# %% [markdown]
# k1 is simply the log-ratio, and negative wherever the policy likes the token less than the reference does. k2 and k3 are never negative. Here are k1, by which blue tokens became likelier and orange ones less likely, and k3, on the four completions:

# %%
logprobs, ref_logprobs = (token_logprobs(x, rollout.completion_ids) for x in (logits, ref_logits))
show_tokens(tokenizer, rollout, kl_k1(logprobs, ref_logprobs), label="k1 (nats)")

# %%
show_tokens(tokenizer, rollout, kl_k3(logprobs, ref_logprobs), label="k3 (nats)")

# %% [markdown]
# Hover over the first tokens. The thinking completion has become likelier, the three guesses much less likely. For them k1 is far below 0 and k3 far above the exact value. Are the estimators
# broken? **No: these are the wrong tokens.** The four were drawn by the reference, and the mean that makes an estimate right is over draws of the *policy*. We can take both means without
# sampling, by weighing every token that might come first:

# %%
k1, k3 = (
    kl_k1(log_p, log_q),
    kl_k3(log_p, log_q),
)  # at the first token of our problem, for each token of the vocabulary
for name, weights in (("policy", log_p.exp()), ("reference", log_q.exp())):
    print(f"drawn by the {name:9}: mean k1 {(weights * k1).sum():+.3f}, mean k3 {(weights * k3).sum():.3f}")
torch.testing.assert_close((log_p.exp() * k1).sum(), exact[0, 0], rtol=1e-3, atol=1e-4)
torch.testing.assert_close((log_p.exp() * k3).sum(), exact[0, 0], rtol=1e-3, atol=1e-4)
torch.testing.assert_close((log_q.exp() * k1).sum(), -kl_exact(log_q, log_p), rtol=1e-3, atol=1e-4)

# %% [markdown]
# Over the policy's own draws both have the right mean. Over the reference's, k1 is minus the *other* KL. Learning from stored answers therefore needs care, and notebook [07](07_triples.ipynb) takes it.
#
# How do they compare as the policy drifts? The policy is a normal distribution that moves away from the reference, and the exact KL is known:

# %%
minigrpo.plot_kl_estimators()
plt.show()

# %% [markdown]
# Left: k1 and k3 are right on average at every distance (the last percent is the chance of 20,000 draws), k2 is not. Right: near the reference, k1 scatters far more than the others; beyond some 0.6 nats
# it scatters least. There a rare token that the policy has nearly given up has a huge r, and k3 and k2 jump.
#
# ## A token or a completion?
#
# **Claim: the KL of whole completions is the sum of the KL of their tokens.** The log-prob of a completion is the sum over its tokens, so k1 adds up; and on average so does
# the exact KL of each next token. We let the policy write 512 completions of its own:

# %%
own = minigrpo.sample_completions(
    policy,
    tokenizer,
    [problem],
    num_generations=512,
    max_completion_length=16,
    generator=torch.Generator().manual_seed(0),
)
with torch.no_grad():
    own_logits, own_ref_logits = (minigrpo.policy_logits(model, own) for model in (policy, reference))
own_ref = token_logprobs(own_ref_logits, own.completion_ids)

# %%
estimates = {
    name: estimate_kl(own.logprobs, own_ref, own.logprobs, estimator=name) for name in ("k1", "k2", "k3")
}
estimates["exact"] = kl_exact(own_logits, own_ref_logits)
sums = {}
for name, values in estimates.items():
    sums[name] = torch.where(own.completion_mask, values, 0.0).sum(1)
    error = sums[name].std() / 512**0.5
    per_token = values[own.completion_mask].mean()
    print(f"{name:5} {sums[name].mean():.2f} ± {error:.2f} nats per completion, {per_token:.3f} per token")
difference = sums["k1"] - sums["exact"]
assert difference.mean().abs() < 5 * difference.std() / 512**0.5

# %% [markdown]
# k1 and the exact KL agree within their errors; summing over the vocabulary only takes noise away. k3 has the same mean, but here the widest error: a few guesses carry large values. Both columns are the same KL in two units. Logs, TRL's as well as ours, show **nats per token**: a mean over tokens. Ten times the length at the
# same nats per token is ten times the distance.
#
# ## An unbiased value is not an unbiased gradient
#
# So k1 and k3 have the right value. Training needs the right *gradient*. There are two places for the penalty: in the loss, where autograd differentiates the
# estimate; or in the reward, where it is a plain number that weighs the gradient of the log-prob, like any reward. **Before you read on: k1 is unbiased. What does it do in the loss?**
#
# We settle it by enumeration, in float64, on a vocabulary of six. The gradient with which an estimate trains is the mean, over the policy's draws, of the gradient of the estimate. The draws are data: autograd does not see
# how they came about, so below their probabilities are detached.

# %%
ref = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04], dtype=torch.float64).log()
start = torch.tensor([1.0, -0.5, 0.7, -1.2, 0.3, 2.0], dtype=torch.float64)


def gradient(objective):
    """The gradient of objective(log-probs, probabilities of the draws) with respect to the policy's six logits."""
    theta = start.clone().requires_grad_()
    logprobs = theta.log_softmax(0)
    return torch.autograd.grad(objective(logprobs, logprobs.exp().detach()), theta)[0]


# %%
def in_loss(name):
    return gradient(
        lambda log_p, draws: (draws * estimate_kl(log_p, ref, log_p.detach(), estimator=name)).sum()
    )


def in_reward(name):
    return gradient(
        lambda log_p, draws: (draws * estimate_kl(log_p, ref, log_p, estimator=name).detach() * log_p).sum()
    )


# %% [markdown]
# A fourth estimator comes along: `k3_ratio` is k3 times policy / sampler, a ratio whose value is 1 but whose gradient is not 0. (As a plain number, in the reward, it is k3.)

# %%
# NBVAL_CHECK_OUTPUT
true = gradient(lambda log_p, draws: (log_p.exp() * (log_p - ref)).sum())  # of KL(policy || reference)
other = gradient(lambda log_p, draws: (ref.exp() * (ref - log_p)).sum())  # of KL(reference || policy)
log_p = start.log_softmax(0)
value = kl_exact(start, ref)
print(f"true value {value:.3f}, length of the true gradient {true.norm():.3f}; how far each is from them:")

# %%
# NBVAL_CHECK_OUTPUT
print("           value   gradient in the loss   gradient in the reward")
off = {}
for name in ("k1", "k2", "k3", "k3_ratio"):
    mean = (log_p.exp() * estimate_kl(log_p, ref, log_p, estimator=name)).sum()
    off[name] = [
        (mean - value).abs().item(),
        (in_loss(name) - true).norm().item(),
        (in_reward(name) - true).norm().item(),
    ]
    cells = ["right" if x < 1e-12 else f"{x:.3f}" for x in off[name]]
    print(f"{name:9} {cells[0]:>6} {cells[1]:>22} {cells[2] if name != 'k3_ratio' else '-':>24}")
assert in_loss("k1").norm() < 1e-12  # nothing at all
torch.testing.assert_close(in_loss("k3"), other)  # the other direction

# %% [markdown]
# | | value | gradient in the loss | gradient in the reward |
# |---|---|---|---|
# | k1 | right | **0: no penalty at all** | right |
# | k2 | wrong | right | wrong |
# | k3 | right | that of KL(reference ‖ policy) | wrong |
# | k3_ratio | right | right | - |
# | exact | right | right | - |
#
# There are two yardsticks. In the loss, "right" is the gradient of the next token's KL, at the prefixes that were visited; in the reward it is that of the whole completion's. Here, with a single token, they are the same.
#
# This is the table at the top of [`kl.py`](../minigrpo/kl.py); [arXiv:2512.21852](https://arxiv.org/abs/2512.21852) studies the same question at length. Why? A true mean over draws changes in two ways when the policy changes: the estimate at each token changes, and *how often each token is drawn* changes. Differentiating the
# estimate catches only the first.
#
# - **k1** is log policy - log reference. Its gradient is that of log policy, whose mean over the policy's draws is 0, as notebook 02 found. All of the true gradient is in the second part.
# - **k2** has the gradient (log-ratio) · (gradient of log policy). This is what a reward of minus the log-ratio would bring, so it is right, though the value is not.
# - **k3** has (1 - r) · (gradient of log policy). The 1 is 0 on average, as before. What is left, -r times it, weighs by the reference's probabilities: the other KL.
# - **k3_ratio** lets the ratio carry the second part: k3 + (1 - r) = -log r. Before the first update that is k2's gradient, token by token:


# %%
def slope(name, log_r):
    """The derivative of the estimate with respect to the policy's log-prob, for a token with that log r."""
    logprob = torch.zeros_like(log_r, requires_grad=True)
    return torch.autograd.grad(
        estimate_kl(logprob, log_r, logprob.detach(), estimator=name).sum(), logprob
    )[0]


# %%
# NBVAL_CHECK_OUTPUT
log_r = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])
print("log(reference / policy)", log_r.tolist())
for name in ("k1", "k2", "k3", "k3_ratio"):
    print(f"slope of {name:14}", [round(x, 2) + 0.0 for x in slope(name, log_r).tolist()])
torch.testing.assert_close(slope("k2", log_r), slope("k3_ratio", log_r), rtol=1e-5, atol=1e-5)
near = torch.tensor([-0.01, 0.01])
torch.testing.assert_close(
    slope("k2", near), slope("k3", near), rtol=0.01, atol=0
)  # near the reference k3 agrees too

# %% [markdown]
# k3 alone hardly pulls at all where the policy does too much of something (left: a slope that never exceeds 1) and enormously where it has nearly given something up (right: -53.6). `k3_ratio` pulls
# evenly. It comes from DeepSeek-V3.2 ([arXiv:2512.02556](https://arxiv.org/abs/2512.02556), 3.1). It is the default here, and since July 2026 in TRL, under the name `use_bias_correction_kl`.
#
# ## What does the wrong gradient cost?
#
# **Claim: with the wrong gradient training ends somewhere else.** For one decision, the policy that maximises E[reward] - beta · KL(policy || reference) is known: reference · exp(reward / beta), scaled to a sum of 1. We reward tokens 3 and 5 with 1 and climb, 2,000 steps with
# each estimator's expected gradient, from the reference.

# %%
reward, beta = torch.tensor([0, 0, 0, 1, 0, 1], dtype=torch.float64), 0.5
optimum = (ref + reward / beta).softmax(0)


def train_with(name, place, beta=0.5):
    theta = ref.clone().requires_grad_()
    for _ in range(2000):
        log_p = theta.log_softmax(0)
        draws, kl = log_p.exp().detach(), estimate_kl(log_p, ref, log_p.detach(), estimator=name)
        penalty = kl.detach() * log_p if place == "reward" else kl
        (step,) = torch.autograd.grad((draws * (reward * log_p - beta * penalty)).sum(), theta)
        theta = (theta + 0.5 * step).detach().requires_grad_()
    return theta.detach().softmax(0)


# %%
# NBVAL_CHECK_OUTPUT
tries = (("k1", "loss"), ("k2", "loss"), ("k3", "loss"), ("k3_ratio", "loss"), ("k1", "reward"))
ends = {f"{name} in the {place}": train_with(name, place) for name, place in tries}
for name, probs in {"reference": ref.exp(), "optimum": optimum, **ends}.items():
    print(f"{name:20}", "  ".join(f"{x:.3f}" for x in probs), f"  KL {kl_exact(probs.log(), ref):.3f}")

# %%
for name in ("k2 in the loss", "k3_ratio in the loss", "k1 in the reward"):
    torch.testing.assert_close(ends[name], optimum, rtol=1e-6, atol=0)
assert (ends["k3 in the loss"] - optimum).abs().max() > 0.03
torch.testing.assert_close(
    ends["k1 in the loss"], train_with("k1", "loss", beta=0.0)
)  # as if there were no penalty

# %% [markdown]
# With k1 in the loss the policy ends exactly where it would end without any penalty: it puts everything on one token, with a KL of 2.3 nats that the log shows faithfully while nothing holds it back. With k3 it ends near the
# optimum but not on it. That is a fair picture: DeepSeekMath was trained with k3 in the loss, and it worked; near the reference the slopes of k2 and k3 are the same. But `k3_ratio`
# costs no more, and ends on the optimum.
#
# ## The penalty is a correction of the advantage
#
# **Claim: with k2 or k3_ratio, each token is pushed by advantage - beta · log(policy / reference), and by nothing else.** The policy term pushes a log-prob by its advantage;
# the penalty's slope is beta times the log-ratio. Here is the loss of notebook [03](03_loss.ipynb), on our four completions:

# %%
advantages = minigrpo.compute_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), rollout.group_ids)
mask = rollout.completion_mask
push = {}
for name in ("k3_ratio", "k3"):
    leaf = logprobs.clone().requires_grad_()
    kl = estimate_kl(leaf, ref_logprobs, leaf.detach(), estimator=name)
    options = {"epsilon": 0.2, "loss_type": "dapo", "importance_sampling_level": "token"}
    minigrpo.grpo_loss(leaf, leaf.detach(), advantages, mask, kl=kl, beta=0.04, **options).loss.backward()
    push[name] = -leaf.grad * mask.sum()  # dapo divides by the number of tokens; undo that
expected = (advantages.unsqueeze(1) - 0.04 * (logprobs - ref_logprobs)) * mask
torch.testing.assert_close(push["k3_ratio"], expected, rtol=1e-4, atol=1e-5)
assert push["k3"][3, 0] > 2 * push["k3_ratio"][3, 0] and push["k3"][2, 0] > 0 > push["k3_ratio"][2, 0]
print("advantages         ", [round(x, 2) for x in advantages.tolist()])
for name in ("k3_ratio", "k3"):
    print(f"with {name:9} first token", [round(x, 2) for x in push[name][:, 0].tolist()])

# %% [markdown]
# The first row of pushes is the advantages with a small correction: the leash takes a little from the thinker, who has become likelier, and gives a little to the guesses, which have become
# rarer. With k3 alone the correction is as lopsided as its slopes: the lucky `6`, which has become rare, is pushed up with about four times its advantage, and so is the `8`, which was wrong.
#
# ## What beta means
#
# The correction says it: **beta is how much advantage one nat costs.** With an advantage of 0.866 and DeepSeekMath's beta of 0.04, push and pull balance when a token has become

# %%
# NBVAL_CHECK_OUTPUT
balance = 0.866 / 0.04
print(
    f"{balance:.1f} nats, that is e^{balance:.1f} = {math.exp(balance):.0e} times as likely as in the reference"
)
print(f"possible only where the reference gives it less than {math.exp(-balance):.0e}")

# %% [markdown]
# Probabilities end at 1, so no token that the reference ever writes can get there. This leash does not hold back a clear reward. It works where no advantage speaks: in silent groups, and on tokens
# that were dragged along without need.
#
# And how far does a policy go on such a leash? Five runs with beta 0.04 were recorded. Their loss has `k3_ratio`; what is logged is the mean of k1, here multiplied by the length:

# %%
runs = [minigrpo.read_metrics(f"runs/seed-{seed}.jsonl")[-40:] for seed in range(5)]
nats = torch.tensor([row["kl"] * row["completions/mean_length"] for run in runs for row in run])
print(
    f"last 40 steps, nats per completion: median {nats.median():.1f}, mean {nats.mean():.1f}, largest {nats.max():.1f}"
)
r = ref_logits[0, 0].softmax(-1)[
    tokenizer.convert_tokens_to_ids("<")
]  # reference / policy, for a policy that always thinks
guess = (1 - r) / 0.01  # the same, for the guesses of a policy that guesses in 1 of 100 answers
print(f"always to think, where the reference does so in {r:.0%}: KL {-r.log():.2f}")
print(f"k3 at the token '<' {r - 1 - r.log():.2f}, at a guess {guess - 1 - guess.log():.0f}")
assert (nats.median() + r.log()).abs() < 0.2
assert (nats.mean() - nats.median()).abs() < 0.2

# %% [markdown]
# Two lessons in three lines. The decision always to think is worth log(1 / 0.06) = 2.9 nats. A run must spend about that much, and k1 shows it at nearly every step. k3 would not: at the token `<`, which is drawn nearly every time, it shows only two thirds
# of it. The last third, 1 - r, sits in the tokens that were given up: drawn hardly ever, and then with a huge value. **A log of k3 shows too little KL at most steps and far too much at a few; so we train with `k3_ratio` and log k1.** (TRL logs k3.)
#
# And in the reward? There a whole completion pays for its sum of k1, before advantages are made, so **beta multiplies nats per completion, not nats per token**:

# %%
rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
penalized = minigrpo.kl_penalized_rewards(rewards, logprobs, ref_logprobs, mask, beta=0.04)
slow = []
for row in range(4):
    k1 = [p - q for p, q, counts in zip(logprobs[row], ref_logprobs[row], mask[row], strict=True) if counts]
    slow.append(rewards[row] - 0.04 * sum(k1))
torch.testing.assert_close(penalized, torch.stack(slow))
print("rewards with the penalty", [round(x, 2) for x in penalized.tolist()])

# %% [markdown]
# In this form the first token pays for all that follows it. In the loss a token answers only for its own position: what is minimised is the KL of the next token at the prefixes that were visited, not the KL of whole
# completions ([test_kl.py](../tests/test_kl.py) proves both on sequences of two tokens). The loss has a practical merit: there beta competes with advantages, whose size is about 1 whatever the unit of the rewards. In the
# reward, a division by the group's standard deviation would change beta from group to group, so `kl_in_reward=True` goes best with `scale_rewards="none"`.
#
# ## When a token was given up
#
# **Claim: k3 overflows, and even a token that is masked out then ruins the gradient.** A token that the reference finds natural and to which the policy gives e^-100 has r = e^99.9, too
# large for float32. Backwards, the mask multiplies infinity by 0. (Who draws such a token? Not the present policy, but an earlier one may have: with several updates on one rollout, or with stored answers.)

# %%
# NBVAL_CHECK_OUTPUT
ref_logprob, counts = torch.tensor([-0.1]), torch.tensor([False])
for name in ("naive", "kl_k3"):
    logprob = torch.tensor([-100.0], requires_grad=True)
    log_r = ref_logprob - logprob
    k3 = torch.exp(log_r) - 1 - log_r if name == "naive" else kl_k3(logprob, ref_logprob)
    torch.where(counts, k3, 0.0).sum().backward()
    print(f"{name}: value {k3.item():.2e}, gradient when masked out {logprob.grad.item() + 0.0}")

tangent = math.exp(20) * (99.9 - 20) + math.exp(20) - 1 - 99.9
assert math.isclose(k3.item(), tangent, rel_tol=1e-5)

# %% [markdown]
# Beyond a log r of 20, `kl_k3` goes on as a straight line, its tangent. It stays finite and still pulls upwards, and up to 20 it is k3 as it stands in the paper. A value of 4e10 is nothing to train on, but
# it is a number: the gradient is scaled down to `max_grad_norm`, and `grad_norm` in the log shows a spike instead of NaN.
#
# Near 0 there is the opposite danger, the loss of digits. `torch.expm1` is exact there, where exp(x) - 1 is not:

# %%
x = torch.tensor(1e-4)
torch.testing.assert_close(kl_k3(torch.tensor(0.0), x), torch.tensor(5e-9), rtol=1e-2, atol=0)
assert (torch.exp(x) - 1 - x - 5e-9).abs() > 5e-9  # off by more than the value itself

# %% [markdown]
# ## Questions
#
# 1. Your log shows a KL of 0.3 with completions of 200 tokens, and a colleague's 60. You have the same run. Who is right?
#    <details><summary>Answer</summary>Both: 0.3 nats per token times 200 tokens are 60 nats per completion. Always ask for the unit.</details>
# 2. A library adds beta · mean(k1) to the loss. Its KL curve rises in spite of a beta ten times larger. Why?
#    <details><summary>Answer</summary>k1 in the loss has an expected gradient of 0. The penalty is logged and adds noise, and nothing holds the policy.</details>
# 3. Why is the first update of a run the same with and without KL penalty?
#    <details><summary>Answer</summary>Policy and reference are equal, so every log-ratio is 0, and so are all the slopes in the table of slopes (the column of 0) but k1's. With k1 the update is the same only on average over draws.</details>
# 4. The mean of k1 over your stored answers is negative. May a KL be negative?
#    <details><summary>Answer</summary>A KL may not; an estimate of it may, through chance. Systematically negative values mean that the answers were not drawn by the present policy.</details>
# 5. Which estimator for a policy with 150,000 tokens of vocabulary, penalty in the loss?
#    <details><summary>Answer</summary>k3_ratio, or k2 if nobody reads the value. Both have the right gradient from two log-probs per token. The exact KL has it too, without noise, if both
#    distributions fit into memory.</details>
#
# **Exercise:** [ex06](../exercises/ex06_kl.ipynb). **Next:** [07 · Triples](07_triples.ipynb), where completions and rewards come from a file instead of the model.
