# %% [markdown]
# # 03 · The loss: from one line of calculus to `grpo_loss`
#
# **You will be able to** derive the GRPO loss line by line, say for every token how hard it is pushed and when the push stops,
# and answer the question that is asked most about GRPO: *why is my loss 0?*
#
# **You need** notebooks [01](01_logprobs.ipynb) (log-probs), [02](02_policy_gradient.ipynb) (advantages) and [06](06_kl.ipynb) (KL).
# **Time** 30 minutes.
#
# **Worth the trip:** on our four completions the loss is 0 to six digits, and its gradient makes the model better in one step. At the end TRL's
# own trainer is handed the same tensors, and returns the same loss and the same gradient.

# %%
import copy
import importlib.util
import tempfile
import warnings

import matplotlib.pyplot as plt
import torch

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
import minigrpo
from minigrpo import (
    aggregate,
    completion_tokens,
    grpo_loss,
    importance_ratio,
    load_policy,
    plot_tokens,
    token_logprobs,
)

policy, tokenizer = load_policy("tiny")
problem = "4*2+9+7*1*4="

# %% [markdown]
# The four completions of notebook 01, with their rewards and advantages from notebook 02:

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(192)
rollout = minigrpo.sample_completions(
    policy, tokenizer, [problem], num_generations=4, max_completion_length=16, generator=generator
)
rewards = minigrpo.exact_answer(rollout.prompts, rollout.completions, answer=["6"] * 4)
advantages = minigrpo.compute_advantages(torch.tensor(rewards), rollout.group_ids)
mask, tokens = rollout.completion_mask, completion_tokens(tokenizer, rollout)
lengths = mask.sum(1)
for row, text in enumerate(rollout.completions):
    print(
        f"{text:13} {lengths[row]:2} tokens   reward {rewards[row]:.0f}   advantage {advantages[row]:+.4f}"
    )

# %% [markdown]
# ## The problem: a reward has no gradient
#
# We want a larger expected reward. But the reward is a number that a program computed from a text; autograd finds no way from it back to the
# weights. **Claim: the gradient of an expected reward is the expectation of reward times the gradient of the log-prob.** One line of calculus says
# why: the gradient of p is p times the gradient of log p. So
#
# $$\nabla \sum_y p(y)\,R(y) \;=\; \sum_y p(y)\,R(y)\,\nabla \log p(y).$$
#
# On the right stands an average over draws of the model, and draws are what we have. The first token has few enough outcomes to check it exactly: say that
# `<` and `6` earn 1 and everything else 0.

# %%
first_logits = minigrpo.policy_logits(policy, rollout)[0, 0].detach().double().requires_grad_()
reward_of = torch.zeros(len(first_logits), dtype=torch.float64)
reward_of[tokenizer("<6", add_special_tokens=False)["input_ids"]] = 1.0

logprobs = torch.log_softmax(first_logits, dim=0)
expected_reward = (logprobs.exp() * reward_of).sum()
direct = torch.autograd.grad(expected_reward, first_logits, retain_graph=True)[0]

draws = logprobs.exp().detach()  # how often each token is drawn: a constant, like a sample
by_draws = torch.autograd.grad((draws * reward_of * logprobs).sum(), first_logits)[0]
torch.testing.assert_close(by_draws, direct)

# %% [markdown]
# The same holds with the advantage in the reward's place. What is subtracted does not depend on the answer (nearly: the mean of a group includes
# the answer itself, see 02), and a constant times the gradient of log p averages to 0.
#
# The log-prob of a completion is the sum of its tokens', so every token gets the advantage of its completion. The first version of the loss, by loops: the mean over
# each completion's tokens and then over the four (why a mean, and which, is a later section), with a minus sign because optimizers go downhill:


# %%
# NBVAL_CHECK_OUTPUT
def scored(model):
    return token_logprobs(minigrpo.policy_logits(model, rollout), rollout.completion_ids)


logprobs = scored(policy)
simple = torch.zeros(())
for row in range(4):
    n = lengths[row]
    simple = simple - advantages[row] * logprobs[row, :n].sum() / n / 4
print(f"loss {simple.item():.4f}")

# %% [markdown]
# The number means nothing: it is a mean of log-probs with signs, and it may be of either sign. Only its gradient is of use.
#
# ## Why is my loss 0?
#
# **Claim: the loss of GRPO is 0 on fresh completions, and its gradient is not.** GRPO writes the *ratio* in the log-prob's place: the probability of the
# token now over that when it was drawn. Before the first update both are the same policy, so the ratio is 1, and the loss is minus the mean advantage. A
# group's advantages sum to 0. So the value is 0, every time, at the start of training and at its end (the KL penalty, still to come, adds
# a little).

# %%
# NBVAL_CHECK_OUTPUT
old_logprobs = logprobs.detach()  # a number, not a function of the weights
ratio = importance_ratio(logprobs, old_logprobs, mask)
assert (ratio == 1).all()
per_token = -ratio * advantages.unsqueeze(1)
loss = ((per_token * mask).sum(1) / lengths).mean()

simple_gradient = torch.autograd.grad(simple, policy.parameters(), retain_graph=True)
gradient = torch.autograd.grad(loss, policy.parameters(), retain_graph=True)
norm = torch.stack([g.norm() for g in gradient]).norm().item()
print(f"loss {abs(loss.item()):.6f}, length of its gradient {norm:.2f}")
assert abs(loss.item()) < 1e-6 and norm > 1
torch.testing.assert_close(gradient, simple_gradient, rtol=1e-3, atol=1e-5)

# %% [markdown]
# The last line: the gradient is the one of the simple loss, since the derivative of exp(x - constant) at x = constant is 1. **A loss of
# 0 is no sign that nothing is learnt, and a falling loss no sign of learning.** Watch the reward, and the length of the gradient.
#
# Where both logs are differentiated, the ratio is still 1 and the gradient really is 0. This is the bug behind some of the questions:

# %%
wrong_ratio = torch.exp(logprobs - logprobs)  # detach forgotten
wrong_loss = -((wrong_ratio * advantages.unsqueeze(1) * mask).sum(1) / lengths).mean()
nothing = torch.autograd.grad(wrong_loss, policy.parameters(), retain_graph=True)
assert all((g == 0).all() for g in nothing)

# %% [markdown]
# ## What the gradient pushes
#
# Minus the gradient with respect to each log-prob is the push that the token gets. Blue is down, yellow up.

# %%
push = -torch.autograd.grad(loss, logprobs, retain_graph=True)[0]
plot_tokens(tokens, push, label="push on the log-prob")
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for row in range(4):
    print(
        f"{tokens[row][0]}  {push[row, 0]:+.4f} on each of {lengths[row]:2} tokens, "
        f"in all {push[row].sum():+.4f}"
    )
torch.testing.assert_close(push.sum(1), advantages / 4)

# %% [markdown]
# Each completion gets the same total, a quarter of its advantage, spread over its tokens. The thinking one spreads it over thirteen. Keep that in mind for
# the section on averaging.
#
# ## One step, and what it changes
#
# **Claim: one update makes right completions likelier and wrong ones less likely.** The optimizer and learning rate are those of the course's training
# runs. Compare the probability of each first token before and after:

# %%
student = copy.deepcopy(policy)
optimizer = torch.optim.AdamW(student.parameters(), lr=2e-4, weight_decay=0.0)
ratio = importance_ratio(scored(student), old_logprobs, mask)
loss = -((ratio * advantages.unsqueeze(1) * mask).sum(1) / lengths).mean()
loss.backward()
optimizer.step()

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    after = scored(student)
for row in range(4):
    before, factor = old_logprobs[row, 0].exp(), (after - old_logprobs)[row, 0].exp()
    print(
        f"{tokens[row][0]}  advantage {advantages[row]:+.2f}   probability {before:.2f}, "
        f"after the step {factor:.2f} times that"
    )
assert ((after[:, 0] - old_logprobs[:, 0]).sign() == advantages.sign()).all()

# %% [markdown]
# Sampling is the expensive part of reinforcement learning, so we would like a second update from the same four completions. But they were drawn by the *old*
# policy, and the student is another one by now. That is what the ratio is for.
#
# **Claim: the ratio turns an average over the old policy's draws into one over the new policy's.** Old probability times (new over old) is new
# probability. Exactly, over all first tokens:

# %%
with torch.no_grad():
    new_p = minigrpo.policy_logits(student, rollout)[0, 0].double().softmax(0)
old_p = draws
torch.testing.assert_close((old_p * (new_p / old_p) * reward_of).sum(), (new_p * reward_of).sum())

# %%
ratio = importance_ratio(after, old_logprobs, mask)
plot_tokens(tokens, ratio, label="ratio: policy / sampler")
plt.show()
assert (ratio[:, 0] - 1).abs().min() > 0.03 and (ratio[:, 1:] - 1).abs().max() < 0.001

# %% [markdown]
# The decisions have moved, everything else has stayed: the same first column as in notebook 01. `old_logprobs` must stay what they were when the
# tokens were drawn. If they are computed again after each update, the ratio is 1 for ever, and what comes next never acts.
#
# ## The clip
#
# **Claim: without a limit, repeated updates on the same four answers run away.** Four answers are little evidence. The ratio of the old draws gets less and
# less reliable the further the policy goes. So PPO, and GRPO after it, takes per token
#
# $$\min\big(r A,\; \mathrm{clip}(r,\, 1-\epsilon,\, 1+\epsilon)\, A\big), \qquad \epsilon = 0.2.$$

# %%
axes = minigrpo.plot_clipping(epsilon=0.2)
axes[0].legend()
plt.show()

# %% [markdown]
# Left: the token was part of a good completion. Once it is 1.2 times as likely as when it was drawn, the curve is flat: nothing more to gain. Right: of a bad
# completion, and flat below 0.8. The minimum makes each curve flat on *one* side only. Before you run the cell: in which of the four cases
# below is the gradient 0?

# %%
# NBVAL_CHECK_OUTPUT
for advantage in (+1.0, -1.0):
    for r in (0.5, 1.5):
        logprob = torch.tensor(r).log().requires_grad_()  # against 0 when it was drawn: ratio r
        minigrpo.clipped_objective(logprob.exp(), torch.tensor(advantage), 0.2).backward()
        flows = (advantage, r) in [(+1.0, 0.5), (-1.0, 1.5)]
        expected = advantage * r if flows else 0.0
        assert abs(logprob.grad.item() - expected) < 1e-6
        note = "" if flows else "  stopped"
        print(f"advantage {advantage:+.0f}, ratio {r}: gradient {logprob.grad.item():+.1f}{note}")

# %% [markdown]
# A good token that has become *less* likely (ratio 0.5) is still pulled back up, and a bad one that has become likelier is pushed down, with 1.5
# times the force. The clip stops only pushes that go on in a direction in which the policy has already gone far. Who clips the ratio alone, without
# the minimum, silences the corrections too:

# %%
logprob = torch.tensor(0.5).log().requires_grad_()
clamped_only = logprob.exp().clamp(0.8, 1.2) * 1.0
clamped_only.backward()
assert logprob.grad == 0  # a good token has become half as likely, and nobody corrects it

# %% [markdown]
# Now train on the same four completions for 24 updates, with the clip and without, and follow the ratio of each first token.


# %%
def ratios_while_training(objective, updates=24):
    model, seen = copy.deepcopy(policy), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0)
    for _ in range(updates):
        ratio = importance_ratio(scored(model), old_logprobs, mask)
        seen.append(ratio[:, 0].detach())
        loss = -aggregate(objective(ratio, advantages.unsqueeze(1)), mask, "grpo")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack(seen)


free = ratios_while_training(lambda ratio, advantages: ratio * advantages)
held = ratios_while_training(lambda ratio, advantages: minigrpo.clipped_objective(ratio, advantages, 0.2))

# %%
_, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
titles, styles = ("without the clip", "with the clip"), ("-", "--", ":", "-.")
for ax, ratios, title in zip(axes, (free, held), titles, strict=True):
    for row, style in enumerate(styles):
        label = f"'{tokens[row][0]}'  A = {advantages[row]:+.2f}"
        ax.plot(ratios[:, row], style, color=minigrpo.view.plots.COLORS[row], label=label)
    ax.axhspan(0.8, 1.2, color="grey", alpha=0.15)
    ax.set(title=title, xlabel="updates on the same rollout")
axes[0].set_ylabel("ratio of the first token")
axes[0].legend(fontsize=8)
plt.show()

# %%
first = old_logprobs[:, 0].exp()
for name, ratios in (("before", free[0]), ("without the clip", free[-1]), ("with the clip", held[-1])):
    now = ratios * first
    print(f"{name:16}: '<' has probability {now[0]:.2f}, the lucky '6' {now[3]:.2f}")
assert first[3] * free[-1, 3] > 0.9 and free[-1, 0] < 0.5  # '6' has taken all, from '<' too
assert held[-1, 0] > 1.3 and held[-1].log().abs().max().exp() < 3

# %% [markdown]
# The grey band is 1 ± 0.2. The ratios do leave it: **the clip holds nobody back, it only stops pushing.** The optimizer's momentum goes on for a
# while, and tokens share weights. But see what becomes of the evidence of four answers. Without the clip the lucky `6` runs away until the model says hardly anything else here, and `<`, which was
# just as right, is crushed on the way, since probabilities sum to 1. With the clip `6` is stopped early, and `<` rises beside it.
#
# With one update per rollout, the setting of notebook 04, the ratio is 1 and the clip never acts: `clip_ratio`
# is then exactly 0, and that is no fault.
#
# ## The KL penalty
#
# The last part per token: beta times the KL from notebook 06. **Claim: at the very start it has neither value nor gradient, and later it has both.** At the start the policy
# *is* the reference, and a distance has its minimum, 0, with slope 0.

# %%
# NBVAL_CHECK_OUTPUT
ref_logprobs = old_logprobs  # the reference is the policy of the start; so is, here, the sampler
for name, model in (("at the start", policy), ("after one step", student)):
    new = scored(model).detach().requires_grad_()
    penalty = aggregate(minigrpo.kl_k3_ratio(new, ref_logprobs, old_logprobs), mask, "grpo")
    slope = torch.autograd.grad(penalty, new)[0].abs().max()
    print(f"{name:15} KL {penalty.item():.3f}, largest gradient {slope:.3f}")
    assert (slope == 0) == (model is policy)

# %% [markdown]
# This is one half of why the snippet in notebook 00 trained nothing: its reward had no gradient ever, and its KL none at the start.
#
# ## Who weighs how much?
#
# We have one number per token, (B, C), and need one number. **Claim: the choice of the mean decides how long and short completions weigh, and papers differ in it.**
# The weight of a token in a mean is the gradient of the mean with respect to that token. So we need not read formulas; autograd tells us.


# %%
# NBVAL_CHECK_OUTPUT
def weights(loss_type):
    values = torch.zeros(mask.shape, requires_grad=True)
    mean = aggregate(values, mask, loss_type, max_completion_length=16)
    return torch.autograd.grad(mean, values)[0]


print("          a token of        the whole completion")
print("          13     2          13     2 tokens")
for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
    w = weights(loss_type)
    print(f"{loss_type:8} {w[0, 0]:.4f} {w[1, 0]:.4f}     {w[0].sum():.3f}  {w[1].sum():.3f}")
    assert (w[~mask] == 0).all()  # padding never weighs anything
torch.testing.assert_close(weights("grpo")[:, 0], 1 / (4 * lengths))
torch.testing.assert_close(weights("dapo")[mask], torch.full((19,), 1 / 19))

# %% [markdown]
# * **grpo**, the paper's: mean over a completion's tokens, then over completions. Every *completion* weighs the same, so a token of a long one weighs less: here
#   6.5 times less.
# * **dapo**: the sum over the number of tokens of the whole step. Every *token* weighs the same, so a long completion weighs more.
# * **dr_grpo**: the sum over a constant, completions times `max_completion_length`. As dapo, but the weight does not depend on what else is in the batch.
# * **bnpo**: the mean over the tokens of the rows at hand. The same as dapo, until a step is split.

# %%
values = -advantages.unsqueeze(1).expand(mask.shape)
parts = (slice(0, 1), slice(1, 4))  # a large batch goes through in parts; here 13 and 6 tokens
bnpo = sum(aggregate(values[part], mask[part], "bnpo") for part in parts) / 2
dapo = sum(aggregate(values[part], mask[part], "dapo", num_tokens=19) for part in parts)
whole = aggregate(values, mask, "dapo")
torch.testing.assert_close(dapo, whole)
assert abs(bnpo - whole) > 0.05
print(f"whole {whole.item():.3f}; in two parts: dapo {dapo.item():.3f}, bnpo {bnpo.item():.3f}")

# %% [markdown]
# With dapo the loss is not 0 on fresh completions: tokens with a positive advantage are in the majority, 15 of 19, so the mean over tokens is -0.50. Zero at the
# start belongs to means over completions.
#
# **Length bias.** Take two wrong completions of one group, one of 2 tokens and one of 13. Both have the same advantage. With `grpo`
# the short one is pushed down 6.5 times as hard per token. Being wrong at length is cheaper per token than being wrong in short; being right in short pays more per token than
# being right at length. Dr. GRPO ([arXiv:2503.20783](https://arxiv.org/abs/2503.20783)) takes this for a cause of ever longer wrong answers, and divides by a constant. On our four
# completions, look at the decisions, the first tokens:

# %%
# NBVAL_CHECK_OUTPUT
for loss_type in ("grpo", "dr_grpo", "dapo"):
    push = advantages.unsqueeze(1) * weights(loss_type)
    print(f"{loss_type:8} push on '<' {push[0, 0]:+.4f}, on the lucky '6' {push[3, 0]:+.4f}")
torch.testing.assert_close(weights("grpo")[3, 0] / weights("grpo")[0, 0], torch.tensor(6.5))

# %% [markdown]
# With the paper's mean the lucky guess is rewarded 6.5 times as hard as the thought that led there. Why does the model come to think all the same? Think
# before you open the second question below.
#
# ## All of it
#
# Everything above in a dozen lines:


# %%
def my_grpo_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta=0.04, epsilon=0.2):
    advantages = advantages.unsqueeze(1)  # (B,) -> (B, 1): every token of a completion shares it
    ratio = torch.exp(logprobs - old_logprobs)
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    log_r = ref_logprobs - logprobs
    kl = ratio * (torch.exp(log_r) - log_r - 1)
    per_token = -objective + beta * kl
    per_token = torch.where(mask, per_token, 0.0)
    return (per_token.sum(1) / mask.sum(1)).mean()


# %% [markdown]
# **Claim: it is [`grpo_loss`](../minigrpo/loss.py), in value and in gradient.** To make the comparison hard, nothing may be 1 or 0 by accident: the current policy has made
# six free updates on the rollout, so some tokens are past the clip on either side; and the reference is neither it nor the sampler.

# %%
noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
ref_logprobs = torch.where(mask, old_logprobs - 0.3 * noise.abs(), 0.0)  # still log-probs, below 0
current = torch.where(mask, old_logprobs, 0.0)
current[:, 0] += free[6].log()
assert free[6].min() < 0.8 and free[6].max() > 1.2  # past the clip on either side
settings = {"beta": 0.04, "epsilon": 0.2, "importance_sampling_level": "token", "max_completion_length": 16}


# %%
def ours(loss_type, dtype=torch.float32):
    new = current.to(dtype).requires_grad_()
    old, ref = old_logprobs.to(dtype), ref_logprobs.to(dtype)
    kl = minigrpo.kl_k3_ratio(new, ref, old)
    result = grpo_loss(new, old, advantages.to(dtype), mask, kl=kl, loss_type=loss_type, **settings)
    return result, torch.autograd.grad(result.loss, new)[0]


# %%
new = current.clone().requires_grad_()
mine = my_grpo_loss(new, old_logprobs, ref_logprobs, advantages, mask)
result, gradient = ours("grpo")
torch.testing.assert_close(mine, result.loss)
torch.testing.assert_close(torch.autograd.grad(mine, new)[0], gradient, rtol=1e-4, atol=1e-6)
print(
    f"loss {result.loss.item():.4f}, KL {result.kl.item():.4f} nats per token, "
    f"held by the clip {result.clip_fraction.item():.0%}"
)
assert result.clip_fraction > 0

# %% [markdown]
# ## The same as TRL
#
# TRL is the library with which people train large models with GRPO. Its loss is a method of its trainer, which wants a model, rewards and a data set. We give it those, and
# then put our log-probs in the place of the model's, so that value and gradient can be compared on the same tensors.

# %%
HAS_TRL = importlib.util.find_spec("trl") is not None
if HAS_TRL:
    warnings.simplefilter("ignore")
    import datasets
    import trl

    arguments = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=16, epsilon=0.2, beta=0.0,
    )  # fmt: skip
else:
    print("TRL is not installed, so the comparison is left out (pip install trl).")

# %%
if HAS_TRL:
    rows = datasets.Dataset.from_dict({"prompt": [problem], "answer": ["6"]})
    trainer = trl.GRPOTrainer(
        copy.deepcopy(policy), minigrpo.exact_answer, arguments, rows, processing_class=tokenizer
    )
    trainer.model.train()  # the mode decides what TRL divides by
    trainer.current_gradient_accumulation_steps = 1


# %%
inputs = {  # as TRL names them
    "prompt_ids": rollout.prompt_ids.expand(4, -1),
    "prompt_mask": rollout.prompt_mask.long().expand(4, -1),
    "completion_ids": rollout.completion_ids,
    "completion_mask": mask.long(),
    "old_per_token_logps": old_logprobs.double(),
    "ref_per_token_logps": ref_logprobs.double(),
    "advantages": advantages.double(),
    "num_items_in_batch": mask.sum(),
}


# %%
def theirs(loss_type):
    new = current.double().requires_grad_()
    trainer.loss_type = loss_type
    trainer.beta = 0.04  # only now: the constructor would have loaded a reference model
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss.detach(), torch.autograd.grad(loss, new)[0]


# %%
for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo") if HAS_TRL else ():
    (result, gradient), (loss, trl_gradient) = ours(loss_type, torch.float64), theirs(loss_type)
    torch.testing.assert_close(result.loss.detach(), loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, trl_gradient, rtol=0, atol=1e-12)
    print(
        f"{loss_type:8} ours {result.loss.item():+.6f}   TRL's {loss.item():+.6f}   "
        "gradients equal to 1e-12"
    )

# %% [markdown]
# You have built the loss that the field uses. More cases, such as sequence ratios, CISPO and gradient accumulation, are compared in
# [`tests/test_against_trl.py`](../tests/test_against_trl.py).
#
# ## Questions
#
# 1. Your loss is 0.0000 for a hundred steps while the reward rises. Is something broken?
#    <details><summary>Answer</summary>No. With one update per rollout and a mean over completions the loss is minus the mean advantage, plus beta times the KL: 0 and a little.
#    Something is broken if the <i>length of the gradient</i> is 0 too: then all groups agree, or a detach is missing.</details>
# 2. The lucky '6' is pushed 6.5 times as hard as '<'. Why does the model come to think all the same?
#    <details><summary>Answer</summary>Over many problems a guess is right about one time in six, and a thought nearly always. A guess is mostly pushed down, '<' is
#    mostly pushed up; luck averages out, and the advantage does not.</details>
# 3. A token of a bad completion has ratio 0.7, epsilon is 0.2. What is its gradient, and what if the ratio is 1.3?
#    <details><summary>Answer</summary>At 0.7 it is 0: it has already been pushed down far. At 1.3 it is not clipped: minus 1.3 times the size of the advantage,
#    pushing it down.</details>
# 4. Your `clip_ratio` is exactly 0 in every step. When is that fine, and when is it a bug?
#    <details><summary>Answer</summary>Fine with one update per rollout. With more it is a sign that old log-probs are computed anew after each update, so that the ratio
#    is always 1.</details>
# 5. You split a step into two micro-batches and use the mean over tokens in each. What goes wrong?
#    <details><summary>Answer</summary>Tokens in the part with fewer of them weigh more: that is bnpo. Divide by the tokens of the whole step instead, as
#    <code>num_tokens</code> does.</details>
#
# **Exercise:** [ex03](../exercises/ex03_loss.ipynb). **Next:** [04 · Training](04_training.ipynb), where the loss meets the loop.
