# %% [markdown]
# # 08 · Variants: which line does a paper change, and does it help?
#
# **You will be able to** read a paper that changes GRPO and point at the line of your code that it changes; tell from several seeds whether the change helped
# or was luck; give each *step* of an answer its own reward; and read a KL whose reference moves.
#
# **You need** lesson [03](03_loss.ipynb); [04](04_training.ipynb) and [06](06_kl.ipynb) help. **Time** 40 minutes, with the function that you write.
#
# **Worth the trip:** we trained the bundled model with GRPO and four of its relatives, five seeds each. Three of the four learn faster than GRPO, and
# they share one line that none of them is named after. That line alone does nearly as much, and so does a larger learning rate for plain GRPO.

# %%
import statistics

import matplotlib.pyplot as plt
import torch

import minigrpo as mg

torch.set_num_threads(1)  # the same numbers on every number of cores

# %% [markdown]
# Here is the group that you know, four answers of 13, 2, 2 and 2 tokens. What changes in this lesson is lit: the **advantage** of a completion, and the **push** on each of its tokens.

# %%
group = mg.worked_example()
mg.plot_group(group, light=("advantages", "push"))
plt.show()

# %% [markdown]
# ## Four papers, four changes
#
# GRPO takes, for each token, the ratio $r = \pi(y_t) / \pi_\text{old}(y_t)$ and the advantage $\hat A = (R - \text{mean}) / \text{std}$ of its completion, and then averages
#
# $$\min\bigl(r \hat A,\ \text{clip}(r, 1-\varepsilon, 1+\varepsilon)\,\hat A\bigr)$$
#
# over each completion's tokens, then over completions. We call this last part the **token average**. Each relative replaces one or two parts:
#
# | name | part | what it becomes | in our configuration |
# |---|---|---|---|
# | Dr. GRPO ([2503.20783](https://arxiv.org/abs/2503.20783)) | advantage, token average | $\hat A = R - \text{mean}$; sum over tokens divided by a constant | `scale_rewards="none"`, `loss_type="dr_grpo"` |
# | DAPO ([2503.14476](https://arxiv.org/abs/2503.14476)) | clip, token average | clip(r, 0.8, 1.28); every token weighs the same | `epsilon_high=0.28`, `loss_type="dapo"` |
# | GSPO ([2507.18071](https://arxiv.org/abs/2507.18071)) | ratio | one per completion | `importance_sampling_level="sequence"` |
# | CISPO ([2506.13585](https://arxiv.org/abs/2506.13585)) | clip, token average | a capped weight in place of the clip; every token weighs the same | `loss_type="cispo"`, `epsilon_high=5.0` |
#
# **Write down:** you make *one* update per rollout. Which of the four then give another gradient than GRPO, up to a constant factor, and why?
#
# **Claim: with one update per rollout, ratios and clips make no difference.** The ratio is exactly 1 and no clip acts. What is left is the token average, and the advantage. Here is the push
# on the first token of each of our four completions, with the same advantages for all:

# %%
mask = torch.arange(13) < torch.tensor([len(tokens) for tokens in group.tokens])[:, None]
old = torch.where(mask, group.logprobs, 0.0)


def push(loss_type="grpo", level="token", high=None, advantages=group.advantages):
    """Minus the gradient of the loss with respect to each log-prob, while the ratio is 1."""
    now = old.clone().requires_grad_()
    settings = {"beta": 0.0, "epsilon": 0.2, "epsilon_high": high, "max_completion_length": 16}
    settings |= {"loss_type": loss_type, "importance_sampling_level": level}
    return -torch.autograd.grad(mg.grpo_loss(now, old, advantages, mask, **settings).loss, now)[0]


# %%
# NBVAL_CHECK_OUTPUT
same = torch.testing.assert_close
same(push(level="sequence"), push())  # GSPO's ratio
same(push(high=0.28), push())  # DAPO's clip
same(push("cispo", high=5.0), push("dapo"))  # CISPO is DAPO
same(push("dr_grpo"), push("dapo") * 19 / 64)  # 19 tokens; 4 rows of at most 16
assert (push("dapo") - push()).abs().max() > 0.01  # only the token average differs
for name in ("grpo", "dapo", "dr_grpo"):
    print(f"{name:8}", [round(x, 3) for x in push(name)[:, 0].tolist()])

# %% [markdown]
# So at one update per rollout GSPO *is* GRPO. The other three give another gradient, because every token weighs the same in their token average; with equal advantages they differ among themselves by a constant factor only.
# (Dr. GRPO also has other advantages.) Now one change at a time.
#
# ### Dr. GRPO: no standard deviation
#
# **Claim: dividing by the standard deviation makes every group equally loud.** Take groups of eight in which 1, 2 or 4 answers are right, and add up the squares of their advantages:

# %%
# NBVAL_CHECK_OUTPUT
for right in (1, 2, 4):
    rewards, ids = (torch.arange(8) < right).float(), torch.zeros(8, dtype=torch.long)
    scaled, plain = (mg.compute_advantages(rewards, ids, scale_rewards=how) for how in ("group", "none"))
    sums = scaled.square().sum(), plain.square().sum()
    print(f"{right} of 8 right: {sums[0]:.1f} with the std, {sums[1]:.2f} without")

# %% [markdown]
# With the division, a group with a single right answer counts as much as one that is split in half. Without it, the split group counts for more. Which is better is an open question. The
# authors of Dr. GRPO call the first a bias towards very hard and very easy questions. (The other half of Dr. GRPO, the constant in the token average, is in lesson [03](03_loss.ipynb).)
#
# ### DAPO: clip higher, and more
#
# **Claim: a symmetric clip hardly lets a rare token grow.** The clip bounds the *ratio*. A token of probability 0.5 may rise to 0.60, which is a large step. One of 0.01 may rise only to 0.012,
# and with DAPO's upper edge of 1.28 to 0.0128. The lower edge stays at 0.8: a wider one would let tokens be pushed to zero sooner, and what is never drawn is never learnt.
#
# The paper changes more than the clip and the token average. Our runs below leave out the following four:
#
# - **No KL.** (Our runs keep it.)
# - **Dynamic sampling:** silent groups are thrown away, and further prompts are drawn until the batch is full.
# - **Overlong filtering** (TRL: `mask_truncated_completions`): an answer that was cut off is left out of the loss, because it is unfinished and not wrong. Its reward still counts in the mean and std of its group.
# - **Overlong punishment** (TRL: `get_soft_overlong_punishment`): the *reward* falls over the last stretch before the limit, so that answers learn to be brief.
#
# People often confuse the last two. **Write down:** which of them changes the advantages of the other answers?

# %%
# NBVAL_CHECK_OUTPUT
rewards, ids = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
ended = torch.tensor([True, True, True, False])  # the last answer was cut off
punished = rewards - 1.0 * ~ended
plain, punished = (mg.compute_advantages(r, ids) for r in (rewards, punished))
for name, advantages in {"plain": plain, "filtered": plain * ended, "punished": punished}.items():
    print(f"{name:9}", [round(a, 2) + 0.0 for a in advantages.tolist()])

# %% [markdown]
# Filtering silences one row and leaves the others alone. Punishment pushes the cut-off answer down harder, and *changes the push on the whole group*: the wrong answer that did end is now blamed less than a third as hard.
#
# How many more prompts would dynamic sampling draw? The recorded GRPO runs tell:

# %%
# NBVAL_CHECK_OUTPUT
RUNS = ["variant-grpo-", "variant-dr_grpo-", "variant-dapo-", "variant-gspo-", "variant-cispo-"]
RUNS += ["variant-by_token-", "variant-grpo_fast-", "variant-cispo_fast-"]  # explained further down
recorded = {run[8:-1]: [mg.read_metrics(f"runs/{run}{seed}.jsonl") for seed in range(5)] for run in RUNS}
METHODS = list(recorded)
silent = statistics.mean(row["frac_reward_zero_std"] for rows in recorded["grpo"] for row in rows[-20:])
print(f"late in the recorded GRPO runs {silent:.0%} of the groups are silent:")
print(f"a full batch would take {1 / (1 - silent):.1f} times as many prompts")

# %% [markdown]
# ### GSPO: one ratio per completion
#
# $$s = \Bigl(\frac{\pi(y)}{\pi_\text{old}(y)}\Bigr)^{1/|y|}$$
#
# $$= \exp\Bigl(\frac{1}{|y|}\sum_t \log r_t\Bigr)$$
#
# **Write down:** the first token of every completion has become 1.5 times as likely, and nothing else has changed. What is $s$ for 13 tokens, and for 2?

# %%
# NBVAL_CHECK_OUTPUT
moved = old.clone()
moved[:, 0] += torch.tensor(1.5).log()
ratio = mg.importance_ratio(moved, old, mask, level="sequence")
print([(length, round(s, 3)) for length, s in zip(mask.sum(1).tolist(), ratio[:, 0].tolist(), strict=True)])
assert abs(ratio[0, 0] - 1.5 ** (1 / 13)) < 1e-5

# %% [markdown]
# It is the geometric mean of the tokens' ratios, so the longer the answer, the less one decision moves it. GSPO's epsilons must therefore be small: the paper has 3e-4 and 4e-4, for answers of thousands of tokens. For ours of 2 to 13 tokens
# we take 0.02 and 0.03.
#
# ### CISPO: you write it
#
# PPO's clip *silences* a token: past the edge its gradient is 0. CISPO never does. It takes the plain policy gradient, $\hat A \log \pi$, and weighs it by the ratio, cut off at a cap and held constant (sg is *stop gradient*):
#
# $$\text{sg}\bigl[\min(r, \text{cap})\bigr]\ \hat A\ \log \pi(y_t)$$
#
# Fill in the function; `check` tells you what is wrong, and `mg.hint("08.1")` helps.


# %%
def cispo_term(logprobs, old_logprobs, advantages, cap):
    """(B, C), (B, C), (B, 1), number -> (B, C): what CISPO maximises. Gradient flows through logprobs, not the weight."""
    raise NotImplementedError


# %%
# NBVAL_CHECK_OUTPUT
answer = mg.check(cispo_term)
answer

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def cispo_term(logprobs, old_logprobs, advantages, cap):
#     weight = (logprobs - old_logprobs).exp().clamp(max=cap).detach()
#     return weight * advantages * logprobs
# ```
#
# </details>
#
# **Write down** the gradient on a token with advantage 1 at the ratios 0.5, 1.5 and 10, with PPO's clip (ε = 0.2) and with CISPO (cap 5). The cell takes your function once it passes, and the package's until then:

# %%
# NBVAL_CHECK_OUTPUT
one, passed = torch.ones(1, 1), getattr(answer, "about", "") is None
for r in (0.5, 1.5, 10.0):
    now = (one * r).log().requires_grad_()
    package = mg.cispo_objective(now.exp(), now, one, cap=5.0)
    capped = cispo_term(now, 0 * one, one, 5.0) if passed else package
    clipped = mg.clipped_objective(now.exp(), one, 0.2)
    ppo, cispo = (torch.autograd.grad(x.sum(), now)[0].item() for x in (clipped, capped))
    print(f"ratio {r:4}: gradient {ppo:.1f} with the clip, {cispo:.1f} with CISPO")

# %% [markdown]
# ## Does it help? Five seeds each
#
# Each method was trained for 100 updates, with *four* updates per rollout so that ratios move and clips act, and everything else equal: learning rate 2e-4, beta 0.04, and the same problems for the same seed
# (each configuration is in the [index](runs/index.json)). One number stands for a run: its mean reward over all updates, which is high if the run learns fast *and* ends high. From it we subtract the number of the GRPO run *of the same seed*.
#
# Five differences have a mean, and around it a 95 % interval. It reaches 2.78 standard errors to each side (Student's t with four degrees of freedom):
#
# $$\bar d \pm 2.78 \cdot \frac{\text{std}(d_1, \ldots, d_5)}{\sqrt 5}$$
#
# That is for one comparison. **If you test four methods that are in truth no better than GRPO, there is a chance of up to 19 % that at least one looks different** (1 - 0.95⁴, if the tests were independent). The simplest repair shares the 5 % among the four (Bonferroni), and the factor becomes 4.31.
#
# The plot below is a *forest plot*: a dot for each seed, the mean, the plain interval as a thick line and the wider, shared one as a thin line. **A row is grey where chance alone could explain it.**
#
# **Write down** which of the four you expect above zero, and why.

# %%
score = {
    name: [statistics.mean(row["reward"] for row in rows) for rows in recorded[name]] for name in recorded
}


def minus(name, other="grpo"):
    return [a - b for a, b in zip(score[name], score[other], strict=True)]


# %%
# NBVAL_CHECK_OUTPUT
four = {name: minus(name) for name in METHODS[1:5]}
for name, differences in four.items():
    mean, margin = mg.interval(differences, comparisons=4)
    print(f"{name:8} {mean:+.3f} ± {margin:.3f}   {'a difference' if abs(mean) > margin else 'noise'}")
    assert (mean > margin) == (name != "gspo")

# %%
LABEL = "mean reward minus GRPO's (five seeds)"
ax = mg.plot_forest(four, comparisons=4, label=LABEL)
ax.set_title("Three of four learn faster than GRPO", loc="left", fontsize=10)
plt.show()

# %% [markdown]
# Three methods learn faster than GRPO, even with the wider intervals. **GSPO's difference is noise.** (That does not refute GSPO: its epsilons were *our* choice.)
#
# How many seeds does that take? With two, the width of the interval is itself a matter of luck:

# %%
# NBVAL_CHECK_OUTPUT
for name in ("dapo", "cispo"):
    print(name, {seeds: f"± {mg.interval(four[name][:seeds]).margin:.3f}" for seeds in (2, 3, 5)})

# %% [markdown]
# Drag *seeds* from 2 to 5 and *comparisons* up, and watch which rows turn grey.

# %%
mg.choose_seeds(four, label=LABEL)

# %% [markdown]
# ### What do the three have in common?
#
# A token average in which **every token weighs the same**. To test whether that is the cause, `by_token` is GRPO with DAPO's token average and nothing else changed. For comparison, `grpo_fast` is
# GRPO with a learning rate of 5e-4 in place of 2e-4, and `cispo_fast` is CISPO with that learning rate.

# %%
# NBVAL_CHECK_OUTPUT
further = {name: minus(name) for name in ("by_token", "grpo_fast", "cispo_fast")}
further["dapo − by_token"] = minus("dapo", "by_token")
for name, differences in further.items():
    mean, margin = mg.interval(differences)
    print(f"{name:15} {mean:+.3f} ± {margin:.3f}")
    assert (mean > margin) == (name in ("by_token", "grpo_fast"))

# %%
# NBVAL_CHECK_OUTPUT
late = {
    name: [statistics.mean(row["reward"] for row in rows[-10:]) for rows in recorded[name]]
    for name in METHODS
}
for name in ("grpo", "by_token", "grpo_fast", "cispo_fast"):
    ends = ", ".join(f"{x:.2f}" for x in late[name])
    print(f"{name:10} last ten updates: {ends}; mean {statistics.mean(late[name]):.2f}")
assert max(late["grpo_fast"]) < statistics.mean(late["grpo"])
assert sum(end < 0.7 for end in late["cispo_fast"]) == 3

# %%
ax = mg.plot_forest(further, label="difference in mean reward (five seeds)")
ax.set_title("DAPO's token average alone leads; so does a higher learning rate", loc="left", fontsize=10)
plt.show()

# %% [markdown]
# **The token average alone explains nearly all of the lead**, and what DAPO has beyond it is noise. The likely reason is our task: what is to be learnt is one rare first token, `<`, and the thought that it opens has thirteen tokens. With GRPO's token average that token gets a
# thirteenth of its completion's push, while the digit of a guess gets half. That costs time here; on another task it may help.
#
# **A larger learning rate does as much as the best change of formula**, though each of its five runs ends below the mean of GRPO's five. So if you compare two methods, tune the learning rate of both. With that same rate, CISPO's reward over all updates still looks harmless, but three of its five runs end below 0.7.
# A mean over seeds hides that, so look at each seed.
#
# A named method seldom changes one thing only. Without the standard deviation, the advantages of a group that is split in half are about half as large (see above), so the KL of `dr_grpo` weighs twice as much beside them.
#
# ## When every step is scored: process supervision
#
# So far a completion had one reward. Suppose that a program, or a model, can check each *step*. DeepSeekMath (section 4.1.3) takes all step rewards of a group together, subtracts their mean and divides by their std, which gives $\tilde r_k$ for step $k$. A token at place $t$ gets the sum of those
# steps that have not ended before it, with $e_k$ the place where step $k$ ends. This sum is called **reward-to-go**:
#
# $$\hat A_t = \sum_{k\,:\;e_k \ge t} \tilde r_k$$
#
# A token cannot change what was written before it, so earlier rewards are left out. It can change everything after it, so those count in full. Take three thoughts about our problem: the first is right, the second slips in its third step (7 + 7 is 4, not 5) and
# goes on correctly, the third slips in its first step.
#
# **Write down:** in the second thought, are the two right steps *before* the slip praised or blamed?

# %%
# NBVAL_CHECK_OUTPUT
thoughts = ["<8,7,4,4,6>6", "<8,7,5,5,0>0", "<9,8,5,5,0>0"]
step_rewards = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 1, 1, 1, 1]])
step_ends = torch.tensor([[1, 3, 5, 7, 9]]).expand(3, -1)  # where the digits stand
ids = torch.zeros(3, dtype=torch.long)
per_token = mg.process_advantages(step_rewards, step_ends, ids, num_tokens=13)
outcome = mg.compute_advantages(torch.tensor([1.0, 0.0, 0.0]), ids)
right, wrong = per_token[0, 9], per_token[1, 5] - per_token[1, 7]
print(f"normalised, a right step is worth {right:+.2f} and a wrong one {wrong:+.2f}")
print("the second thought's five steps:", [round(a, 2) for a in per_token[1, step_ends[1]].tolist()])
print(f"with one reward for the answer, every token: {outcome[1]:.2f}")

# %%
mg.plot_tokens([[*thought, "⏎"] for thought in thoughts], per_token, label="advantage")
plt.show()

# %% [markdown]
# They are blamed, and harder than with one reward for the answer: the first step gets +0.38 four times and −2.46 once. Only the steps *after* the slip are praised. That is the price of reward-to-go: a step answers for all that follows it, even if it was right itself. Mind two more things. A thought with
# more steps has sums of more terms, so its length changes its advantages. And the answer itself gets 0 unless a last step scores it.
#
# [`grpo_loss`](../minigrpo/loss.py) takes advantages of shape (B, C) as they are, so nothing else changes.
#
# ## A reference that follows: iterative GRPO
#
# The KL holds the policy near the reference, and in a long run that can hold it back. DeepSeekMath therefore makes the policy the new reference every so often. Here that is `sync_ref_model` and `ref_model_sync_steps`. **Write down:** what does the KL in the log look like over 24 updates, if the reference moves after every eighth?


# %%
def kl_from(model, state):
    """The exact KL of the policy from a model, in nats per token, on the latest rollout."""
    rollout = state.batch.rollout
    with torch.no_grad():
        kl = mg.kl_exact(mg.policy_logits(state.model, rollout), mg.policy_logits(model, rollout))
    return kl[rollout.completion_mask].mean().item()


# %%
config = mg.GRPOConfig(max_steps=24, learning_rate=1e-3, sync_ref_model=True, ref_model_sync_steps=8)
task, (start, _) = mg.clock_task(), mg.load_policy("tiny")
state = mg.TrainState.start(*mg.load_policy("tiny"), config)
logged, near, far = [], [0.0], [0.0]
for metrics in mg.train(state, task.train, [task.reward], config):
    logged.append(metrics["kl"])  # of the policy before this update
    near.append(kl_from(state.reference, state))
    far.append(kl_from(start, state))

# %%
_, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(far, "--", color="#D55E00", label="from the model of the start")
ax.plot(near, color="#0072B2", label="from the latest reference")
ax.plot(logged, ".", color="#777777", label="the same, as logged (k1)")
ax.set(xlabel="updates done", ylabel="KL (nats per token)")
ax.set_title("Each new reference sets the KL back to zero", loc="left", fontsize=10)
ax.legend()
plt.show()
assert near[8] == near[16] == 0 and max(logged[0], logged[8], logged[16]) < 1e-5
assert near[1:8] == far[1:8] and sum(far[-4:]) > 2 * sum(logged[-4:])

# %% [markdown]
# The KL from the reference is a sawtooth: it drops to zero each time the reference is replaced. The log estimates it from 64 completions, so its dots scatter around the line. The dashed line is how far the model has really gone. So if a log shows a small KL, ask from which reference.
#
# ## In the words of the field
#
# *Clip-higher*, *dynamic sampling*, *token-level loss* (the token average) and *overlong reward shaping* (filtering and *soft overlong punishment*): the four parts that DAPO's paper names. *Token-mean* and *sequence-mean* aggregation: the token average. *Length bias*, *difficulty bias*: what Dr. GRPO removes. *Sequence-level importance sampling*: GSPO's ratio. *Stop gradient*: `detach`.
# *Process supervision* scores steps, often with a *process reward model* (PRM); *outcome supervision* scores answers. *Credit assignment*: which step or token deserves what. *Ablation*: an experiment that changes one thing, as `by_token` does. *Multiple comparisons*, *Bonferroni*, *forest plot*, *paired* differences (same seed, same problems).
#
# ## Questions
#
# 1. A paper reports that GSPO beats GRPO, with one update per rollout on one machine. What do you ask?
#    <details><summary>Answer</summary>What else was different. With one update per rollout the ratio is 1 in both, and so the gradients are the same. (Unless another program drew the completions: that is in lesson 09.)</details>
# 2. A method gains 0.02 over GRPO in five seeds, and the standard error of the difference is 0.008. You also tried three others. Do you switch?
#    <details><summary>Answer</summary>Alone its interval is ± 2.78 · 0.008 = ± 0.022: not yet. As the best of four it is ± 4.31 · 0.008 = ± 0.034. Run more seeds, and tune the learning rate of both.</details>
# 3. In an iterative run the logged KL stays below 0.05. Has the model stayed near where it began?
#    <details><summary>Answer</summary>The log cannot tell. Its KL is measured from a reference that moves along. Measure it from the first model.</details>
# 4. Half of your answers are cut off, and you use overlong filtering. What do you watch?
#    <details><summary>Answer</summary>Length and <code>completions/clipped_ratio</code>. A filtered answer is neither praised nor blamed, so nothing teaches the model to finish; if it keeps writing longer, ever fewer rows are learnt from.</details>
#
# **Next:** [09](09_a_real_model.ipynb), a real language model, and your own task. Each of the four methods is a flag or two away: `minigrpo train --loss-type dr_grpo --scale-rewards none`.
