# %% [markdown]
# # 06 · KL: how far from where it began
#
# **You will be able to** say which of the two KL divergences holds a policy near its reference, and what β buys; estimate the KL from the
# tokens that you have; and tell an estimator whose *value* is right from one whose *gradient* is right.
#
# **You need** lessons [02](02_policy_gradient.ipynb) to [04](04_training.ipynb). **Time** 40 minutes, with the function that you write.
#
# **Worth the trip:** the most obvious estimator of the KL is unbiased, and in the loss it does nothing at all. You will prove it without
# drawing a single sample.

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch

import minigrpo as mg

torch.set_num_threads(1)  # the same numbers on every number of cores

# %%
mg.plot_group(mg.worked_example(), light="first_token")
plt.show()

# %% [markdown]
# On the right is what one step did to the first token. This lesson is about how far those bars may move over a whole run.
#
# ## A policy that has moved
#
# The reward moves a policy towards whatever the reward function likes, mistakes of the function included (lesson [05](05_failures.ipynb)).
# So GRPO adds a second force, which holds the policy near a **reference**: a frozen copy from before training. First train for 40 steps
# without it (β = 0), at 2.5 times the usual learning rate:

# %%
reference, tokenizer = mg.load_policy("tiny")
policy, _ = mg.load_policy("tiny")
config = mg.GRPOConfig(beta=0.0, learning_rate=5e-4, max_steps=40)
task = mg.clock_task()
state = mg.TrainState.start(policy, tokenizer, config)
rewards = [row["reward"] for row in mg.train(state, task.train, [task.reward], config)]
first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
print(f"mean reward: {first:.2f} in the first five steps, {last:.2f} in the last five")
assert last > first + 0.4

# %% [markdown]
# How far has it moved? The **KL divergence** (of Kullback and Leibler, in nats) compares two distributions over the next token. With
# $\pi$ the policy and $\pi_{ref}$ the reference:
#
# $$KL(\pi \,\|\, \pi_{ref}) = \sum_v \pi(v)\, \log \frac{\pi(v)}{\pi_{ref}(v)}$$
#
# In words: by how much the policy's log-prob exceeds the reference's, on average over what the policy would write.
#
# **Write down:** here are our four completions again, drawn by the *reference*. At which token will the two models differ most?

# %%
problem = "4*2+9+7*1*4="
generator = torch.Generator().manual_seed(192)
rollout = mg.sample_completions(
    reference, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
)
with torch.no_grad():
    logits, ref_logits = (mg.policy_logits(model, rollout) for model in (policy, reference))
kl = mg.kl_exact(logits, ref_logits)  # (B, C) nats
mg.plot_tokens(mg.completion_tokens(tokenizer, rollout), kl, label="KL (nats)")
plt.show()
assert kl[0, 0] > kl[0, 1:].max()

# %% [markdown]
# At the first one, where the policy decides whether to think: that decision is what training changed. All four rows agree in the first
# column, because a KL belongs to a *position*: it compares two distributions over the whole vocabulary, whichever token was then drawn.
#
# ## Two KLs
#
# Exchange the two distributions, and the number is another one:

# %%
# NBVAL_CHECK_OUTPUT
p, q = torch.tensor([0.90, 0.05, 0.05]), torch.tensor([1 / 3, 1 / 3, 1 / 3])
forwards, backwards = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
print(f"KL(p || q) = {forwards:.3f} nats, KL(q || p) = {backwards:.3f} nats")
torch.testing.assert_close(mg.kl_exact(p.log(), q.log()), forwards)
torch.testing.assert_close(torch.nn.functional.kl_div(p.log(), q, reduction="sum"), backwards)

# %% [markdown]
# A KL is 0 where the two agree and positive otherwise, but it is **not symmetric**: the name that comes first gives the weights of the sum.
# (Mind the last line: PyTorch's `kl_div(log p, q)` is KL(q ‖ p).) So which of the two should hold a policy?
#
# **Write down:** a reference writes A 60 %, B 39 % and C 1 % of the time. One policy writes C half of the time. Another has given up B.
# Which KL is large for the first, and which for the second? (Look at the left and middle panels. The right ones come at the end of the lesson.)

# %%
_, axes = plt.subplots(2, 3, figsize=(10, 5.4), layout="constrained", width_ratios=(1, 1, 1.5))
mg.plot_two_kls([0.25, 0.25, 0.50], axes=axes[0])
mg.plot_two_kls([0.98, 0.01, 0.01], axes=axes[1])
axes[0, 0].set_title("writes what the reference hardly does", fontsize=9, loc="left")
axes[1, 0].set_title("gives up one of its habits", fontsize=9, loc="left")
plt.show()

# %% [markdown]
# **KL(policy ‖ reference) is large where the policy writes what the reference hardly ever would. KL(reference ‖ policy) is large where the
# policy has given up what the reference does.** Drag the policy yourself (three weights, scaled to a sum of 1) and try to make one KL small
# and the other large:

# %%
mg.drag_policy()

# %% [markdown]
# Now take a reference with two habits, and a policy that is too simple for both: it can only be a single bump. We try 820 bumps and keep
# the nearest one by each KL:

# %%
tokens = torch.arange(21.0)
habits = torch.logsumexp(torch.stack([-((tokens - 5) ** 2) / 3, -((tokens - 15) ** 2) / 3 - 0.4]), 0)
centres, widths = torch.meshgrid(torch.arange(0, 20.5, 0.5), torch.arange(0.5, 10.5, 0.5), indexing="ij")
bumps = -((tokens - centres.reshape(-1, 1)) ** 2) / (2 * widths.reshape(-1, 1) ** 2)  # logits of each
everywhere = habits.expand_as(bumps)
seeking, covering = mg.kl_exact(bumps, everywhere).argmin(), mg.kl_exact(everywhere, bumps).argmin()
assert widths.flatten()[seeking] < 2 < 4 < widths.flatten()[covering]

# %%
_, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
ax.bar(tokens, habits.softmax(0), color="#BBBBBB", label="reference")
ax.plot(tokens, bumps[seeking].softmax(0), "o-", color="#0072B2", label="least KL(policy ‖ reference)")
ax.plot(tokens, bumps[covering].softmax(0), "s--", color="#D55E00", label="least KL(reference ‖ policy)")
ax.set(xlabel="token of a vocabulary of 21", ylabel="probability")
ax.legend()
plt.show()

# %% [markdown]
# The first settles on one habit: it is **mode-seeking**. The second covers both habits and also the gap between them, where the reference
# never goes: it is **mass-covering**. A policy that should not write what its reference never would needs the first. **So GRPO penalises
# KL(policy ‖ reference), the *reverse* KL.** It is also the one that you can estimate, since it is an average over what the *policy* writes.
#
# ## What β buys
#
# With a penalty of β per nat, we want the largest
#
# $$\mathbb{E}[R] - \beta\, KL(\pi \,\|\, \pi_{ref}) \;=\; \beta \log Z - \beta\, KL(\pi \,\|\, \pi^*),
# \qquad \pi^*(y) = \pi_{ref}(y)\, e^{R(y)/\beta} / Z,$$
#
# where $Z$ makes the sum of $\pi^*$ 1. On the right only the last term depends on $\pi$, and it is 0 where $\pi = \pi^*$. So $\pi^*$ is the
# best policy, and you know it without any training. Take our model's one decision: think (6 % of the time, nearly always right) or guess
# (94 %, right 17 times in 100).

# %%
start, R = torch.tensor([0.06, 0.94]).double(), torch.tensor([0.99, 0.17]).double()
beta = torch.logspace(-2, 1, 400).double()
best = (start.log() + R / beta.unsqueeze(1)).softmax(1)  # (400, 2): the optimum for each beta
reward, spent = best @ R, mg.kl_exact(best.log(), start.log().expand_as(best))
log_z = (start.log() + R / beta.unsqueeze(1)).logsumexp(1)
to_best = mg.kl_exact(start.log().expand_as(best), best.log())
torch.testing.assert_close((start @ R).expand(400), beta * (log_z - to_best))  # as above, at the start
slope = torch.gradient(reward, spacing=(spent,))[0]
middle = (beta > 0.1) & (beta < 5)
torch.testing.assert_close(slope[middle], beta[middle], rtol=0.01, atol=0)

# %%
_, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot(spent, reward, color="#0072B2")
for b in (0.04, 0.2, 0.4, 1.0):
    i = (beta - b).abs().argmin()
    ax.plot(spent[i], reward[i], "o", color="#D55E00")
    ax.annotate(f"β = {b}", (spent[i], reward[i]), xytext=(6, -10), textcoords="offset points")
ax.set(xlabel="KL spent (nats)", ylabel="mean reward", xlim=(0, 3.4))
ax.set_title("A smaller β buys more reward, for more KL", loc="left", fontsize=10)
plt.show()

# %% [markdown]
# Each point is the best policy for its β, and **β is the slope of the curve there: you spend KL as long as one more nat buys more than β of
# reward.** (The assert on `slope` checks it.) At DeepSeekMath's β of 0.04 the best policy always thinks. Five recorded runs with this β paid
# that price:

# %%
# NBVAL_CHECK_OUTPUT
print(f"always to think costs log(1 / 0.06) = {math.log(1 / 0.06):.2f} nats")
runs = [mg.read_metrics(f"runs/seed-{seed}.jsonl")[-40:] for seed in range(5)]
nats = [sum(row["kl"] * row["completions/mean_length"] for row in run) / 40 for run in runs]
print("nats per completion, last 40 steps of each run:", [round(x, 1) for x in nats])
assert all(abs(x - math.log(1 / 0.06)) < 0.4 for x in nats)

# %% [markdown]
# Mind the unit: logs show **nats per token**. Multiply by the length, and you have nats per completion.
#
# ## One token is enough for an estimate
#
# `kl_exact` sums over 258 tokens. With a vocabulary of 150,000 you would rather not keep all those logits twice. But an average can be
# estimated from draws, and the log-probs of the drawn tokens are there anyway. With $r = \pi_{ref}/\pi$ for the drawn token (*not* the ratio
# of lesson 03), Schulman (2020) has:
#
# $$k_1 = -\log r \qquad k_2 = \tfrac12 (\log r)^2 \qquad k_3 = r - 1 - \log r$$
#
# k1 is what the KL averages, so its mean over the policy's draws is the KL. k3 adds $r - 1$. That leaves the mean as it is, because
# $\sum_v \pi(v)\, r(v) = \sum_v \pi_{ref}(v) = 1$, and it makes each single value 0 or more. k2 is never negative either, but its mean
# is close to the KL only near the reference.
#
# ### You write it
#
# `k3` is the one in the GRPO paper. Both arguments are (B, C) **log**-probs. By hand: policy 0.5 and reference 0.25 give r = 0.5 and
# k3 = 0.1931; exchanged, r = 2 and k3 = 0.3069.


# %%
def kl_k3(logprobs, ref_logprobs):
    raise NotImplementedError


# %%
# NBVAL_CHECK_OUTPUT
answer = mg.check(kl_k3)
answer

# %% [markdown]
# Stuck? `mg.hint("06.1")` helps, and says more each time.
#
# <details><summary>A solution</summary>
#
# ```python
# def kl_k3(logprobs, ref_logprobs):
#     log_r = ref_logprobs - logprobs
#     return torch.exp(log_r) - 1 - log_r
# ```
# </details>

# %%
mine = kl_k3 if getattr(answer, "about", "") is None else mg.kl_k3  # yours, if it passed
# the first token of our problem: all that could be drawn, each weighed by its probability
log_p, log_q = logits[0, 0].log_softmax(-1), ref_logits[0, 0].log_softmax(-1)
k1, k3 = mg.kl_k1(log_p, log_q), mine(log_p, log_q)
draws = {"the policy": log_p.exp(), "the reference": log_q.exp()}
means = [[(w * k1).sum().item(), (w * k3).sum().item(), kl[0, 0].item()] for w in draws.values()]
print(pd.DataFrame(means, [f"drawn by {name}" for name in draws], ["k1", "k3", "exact"]).round(2))
torch.testing.assert_close(torch.tensor(means[0]), kl[0, 0].expand(3), rtol=1e-3, atol=1e-4)

# %% [markdown]
# Over the policy's own draws, k1 and k3 are **unbiased**: their mean is the KL. Over the reference's draws both are far off, and k1 is even
# negative. **These estimates are right only for tokens that the policy itself has drawn.** In lesson [07](07_triples.ipynb) somebody else
# wrote the tokens.
#
# ## Which one to log
#
# An unbiased estimate can still be noisy, and a log shows you the mean over a few completions. Let the policy write 16 batches of 64:

# %%
own = mg.sample_completions(
    policy, tokenizer, [problem], num_generations=1024, max_completion_length=16, generator=mg.seeded(0)
)
with torch.no_grad():
    own_logits, own_ref = (mg.policy_logits(model, own) for model in (policy, reference))
ref_logprobs = mg.token_logprobs(own_ref, own.completion_ids)
values = {"k1": mg.kl_k1(own.logprobs, ref_logprobs), "k3": mine(own.logprobs, ref_logprobs)}
values["exact"] = mg.kl_exact(own_logits, own_ref)
batches = {k: torch.where(own.completion_mask, v, 0).sum(1).view(16, 64).mean(1) for k, v in values.items()}

# %%
_, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
for (name, batch), marker, color in zip(
    batches.items(), "os_", ("#0072B2", "#009E73", "#777777"), strict=True
):
    ax.plot(range(1, 17), batch, marker, color=color, label=name, markersize=7)
ax.set(xlabel="batch of 64 completions", ylabel="nats per completion", ylim=(0, None))
ax.set_title("Here k1 is steady", loc="left", fontsize=10)
ax.legend(ncols=3)
plt.show()
assert batches["k1"].std() < batches["k3"].std() / 3
assert batches["k3"].median() < batches["exact"].mean() - 0.1 and batches["k3"].max() > 4

# %% [markdown]
# k3 is too low in most batches and far too high in a few. The policy nearly always thinks now, and for such a frequent choice k3 says too
# little. The rest of the KL is in the guesses: they are hardly ever drawn now, and then they count enormously. (Near the reference it is the
# other way round, and k3 is steady.) **minigrpo logs k1, but does not train with it**; you will see why. TRL logs k3, times the ratio that
# comes next.
#
# ## A right value is not a right gradient
#
# Training uses not the value but the gradient. The penalty can stand in two places: **in the loss**, where autograd differentiates the
# estimate, or **in the reward**, where each completion pays it as a plain number and the policy gradient does the rest. And there is a fourth
# estimator, **k3_ratio**: k3 times the ratio $\pi/\pi_{old}$ of lesson 03. Before the first update that ratio is 1, but it has a gradient.
#
# **Write down:** the mean of k1 is right, and in the loss k1 does nothing. Why? (The reason is in lesson 02.)
#
# You need no samples if you go through everything that can be written. Completions of two tokens from a vocabulary of three: there are
# nine. Row 0 of `theta` holds the logits of the first token, and each other row those of the second token, after one of the three.

# %%
theta = torch.randn(4, 3, generator=mg.seeded(17), dtype=torch.float64).requires_grad_()
ref_theta = torch.randn(4, 3, generator=mg.seeded(18), dtype=torch.float64)
rows = torch.tensor([[0, 1 + a] for a in range(3) for _ in range(3)])  # (9, 2)
ids = torch.tensor([[a, b] for a in range(3) for b in range(3)])  # (9, 2)


def gradient(score):
    """Of the sum of score(log-probs, probabilities) over the nine completions, with respect to theta."""
    logprobs = mg.token_logprobs(theta[rows], ids)
    return torch.autograd.grad(score(logprobs, logprobs.sum(1).exp()).sum(), theta)[0]


# %% [markdown]
# What should the gradient be? There are **two yardsticks**:
#
# - The KL of *whole completions*, as in the objective. A policy can lower it by what it writes after a given beginning, and by which
#   beginnings it writes.
# - The KL of the *next token*. It counts only what is written next, and takes the beginnings as they were drawn (`detach`).
#
# In the table below, the first column says what you may log, and the other three what you may train with.

# %%
ref = mg.token_logprobs(ref_theta[rows], ids)
whole = gradient(lambda logp, prob: prob * (logp - ref).sum(1))
next_token = gradient(lambda logp, prob: prob.detach() * mg.kl_exact(theta[rows], ref_theta[rows]).sum(1))


def in_loss(name):
    return gradient(
        lambda logp, prob: prob.detach() * mg.estimate_kl(logp, ref, logp.detach(), estimator=name).sum(1)
    )


# %%
def in_reward(name):
    def score(logp, prob):
        paid = mg.estimate_kl(logp, ref, logp.detach(), estimator=name).sum(1).detach()
        return prob.detach() * paid * logp.sum(1)  # REINFORCE, with the penalty as the reward

    return gradient(score)


# %%
logp = mg.token_logprobs(theta[rows], ids).detach()
prob = logp.sum(1).exp()
exact = (prob * (logp - ref).sum(1)).sum()  # the KL of whole completions, in nats


def value(name):
    return (prob * mg.estimate_kl(logp, ref, logp, estimator=name).sum(1)).sum()


def verdict(found, wanted):
    off = ((found - wanted).norm() / wanted.norm()).item()
    return "right" if off < 1e-9 else "no gradient" if found.norm() < 1e-9 else f"{off:.0%} off"


# %%
# NBVAL_CHECK_OUTPUT
table = {
    name: {
        "value": verdict(value(name), exact),
        "in the loss: next token's KL": verdict(in_loss(name), next_token),
        "in the loss: whole KL": verdict(in_loss(name), whole),
        "in the reward: whole KL": verdict(in_reward(name), whole),
    }
    for name in ("k1", "k2", "k3", "k3_ratio")
}
pd.DataFrame(table).T

# %%
assert in_loss("k1").norm() < 1e-12  # nothing at all
for name in ("k2", "k3_ratio"):
    torch.testing.assert_close(in_loss(name), next_token)
torch.testing.assert_close(in_reward("k1"), whole)
other_way = gradient(lambda logp, prob: prob.detach() * mg.kl_exact(ref_theta[rows], theta[rows]).sum(1))
torch.testing.assert_close(in_loss("k3"), other_way)  # KL(reference || policy)

# %% [markdown]
# **Train with k3_ratio: its value and its gradient are both right.** Why do the others fail? The mean over draws depends on the policy in two
# ways: through the estimate at each token, and through *how often each token is drawn*. Differentiating the estimate sees only the first.
#
# - **k1** in the loss has the gradient of log π, whose mean over the policy's draws is 0: it is the baseline of lesson 02 again. In the
#   reward k1 is exactly right, for whole completions. (There k3_ratio is just k3, since the ratio is 1.)
# - **k3** in the loss pulls towards the *other* KL. Look back at the right panels of the two KLs: in the second row the green bars pull hard
#   towards B, which was given up. (k1 has no bars, because it does not pull.)
# - **k3_ratio** in the loss has the missing part, by the gradient of its ratio. It comes from DeepSeek-V3.2
#   ([arXiv:2512.02556](https://arxiv.org/abs/2512.02556), 3.1), and is the default here and in TRL (`use_bias_correction_kl`).
# - **k2** in the loss has the same gradient, as long as the policy is the one that drew the tokens. Its value is wrong.
#
# In the loss no estimator gets the KL of whole completions right: each token answers for its own position, and not for where it leads. If you
# want that KL, set `kl_in_reward=True`; β then multiplies nats per *completion*. Set `scale_rewards="none"` with it, or the division by the
# group's std would give each group another β.
#
# ### What the wrong gradient costs
#
# One decision with six answers, 0 to 5, of which 3 and 5 are right. We follow the expected gradient for 2,000 steps at β = 0.5, and compare
# with the known optimum:

# %%
six = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04]).double().log()
R = torch.tensor([0, 0, 0, 1, 0, 1]).double()


def train_with(name):
    logits = six.clone().requires_grad_()
    for _ in range(2000):
        logp = logits.log_softmax(0)
        kl = mg.estimate_kl(logp, six, logp.detach(), estimator=name)
        gain = (logp.exp().detach() * (R * logp - 0.5 * kl)).sum()
        logits = (logits + 0.5 * torch.autograd.grad(gain, logits)[0]).detach().requires_grad_()
    return logits.detach().softmax(0)


# %%
# NBVAL_CHECK_OUTPUT
ends = {"optimum": (six + R / 0.5).softmax(0)}
ends |= {name: train_with(name) for name in ("k3_ratio", "k3", "k1")}
table = pd.DataFrame({name: probs.tolist() for name, probs in ends.items()}).T.round(3)
table["KL"] = [round(mg.kl_exact(probs.log(), six).item(), 2) for probs in ends.values()]
torch.testing.assert_close(ends["k3_ratio"], ends["optimum"], rtol=1e-6, atol=0)
assert (ends["k3"] - ends["optimum"]).abs().max() > 0.03
near = (six + 0.1 * R).log_softmax(0)
torch.testing.assert_close(mg.kl_exact(near, six), mg.kl_exact(six, near), rtol=0.05, atol=0)
table

# %% [markdown]
# With k1 in the loss the policy ends in a corner, as if there were no penalty. With `k3_ratio` it ends on the optimum, and with k3 beside it, at
# a third more KL. Near the reference the two KLs hardly differ (the last assert), and DeepSeekMath was trained with k3. But `k3_ratio` costs
# no more, and pulls the right way further out too.
#
# ## In the words of the field
#
# - **Reference model**, **KL penalty**: the frozen copy, and the β · KL that ties the policy to it. **Reverse KL** is KL(policy ‖ reference),
#   *mode-seeking*; **forward KL** is the other, *mass-covering*, which supervised learning minimises.
# - **k1, k2, k3**: Schulman's estimators. **Unbiased**: right on average. **Variance**: how much one batch differs from that average.
# - **On-policy**: the tokens were drawn by the policy that is trained. The ratio in `k3_ratio` is an **importance weight**.
# - **Reward-KL frontier**: the curve of β. A **trust region** (PPO's clip, lesson 03) limits one *update*; the KL penalty limits the whole
#   *run*.
# - To read on: [arXiv:2510.01555](https://arxiv.org/abs/2510.01555) and [arXiv:2512.21852](https://arxiv.org/abs/2512.21852) study these
#   gradients at length.
#
# ## Questions
#
# 1. Your log shows a KL of 0.3, with completions of 200 tokens. A colleague's log of the same run shows 60. Who is right?
#    <details><summary>Answer</summary>Both: 0.3 nats per token times 200 tokens are 60 nats per completion. Always ask for the unit.</details>
# 2. A library adds β · mean(k1) to the loss. The KL curve rises, and rises faster with a larger β. Why does β not help?
#    <details><summary>Answer</summary>The gradient of k1 in the loss is 0 on average. It adds noise to each update and holds nothing back.</details>
# 3. The mean of k1 on your stored answers is negative. May a KL be negative?
#    <details><summary>Answer</summary>A KL may not, but an estimate may, by chance. If it stays negative, other policies wrote these answers.</details>
#
# **Exercise:** [ex06](../exercises/ex06_kl.ipynb). **Next:** [07 · Triples](07_triples.ipynb), where completions and rewards come from a file.
