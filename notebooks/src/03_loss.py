# %% [markdown]
# # 03 · The loss: ratio, clip, mean
#
# **You will be able to** build `grpo_loss` line by line, say for each token how hard it is pushed and when the push stops, and
# answer the question that is asked most often about GRPO: *why is my loss 0?*
#
# **You need** lessons [01](01_logprobs.ipynb) (log-probs) and [02](02_policy_gradient.ipynb) (policy gradient, advantages).
# **Time** 45 minutes, with the function that you write.
#
# **Worth the trip:** you see a model trained sixty times over on the same four answers. Without the *clip*, a limit that you
# will write, those four draws decide what becomes of it. At the end your loss and TRL's get the same tensors, and return the
# same number and the same gradient.

# %%
import copy
import importlib.util
import tempfile
import warnings

import matplotlib.pyplot as plt
import torch

import minigrpo as mg
from minigrpo.view.controls.clip import plot_clip_study, read_clip_study, try_the_clip

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %% [markdown]
# This lesson is about the **push** on every token. The loss is the function whose gradient gives these pushes, and by the end
# you can recompute each of them by hand.

# %%
mg.plot_group(mg.worked_example(), light=("push", "first_token"))
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = mg.load_policy("tiny")
draw = {"num_generations": 4, "max_completion_length": 16, "generator": torch.Generator().manual_seed(192)}
rollout = mg.sample_completions(policy, tokenizer, ["4*2+9+7*1*4="], **draw)
rewards = torch.tensor(mg.exact_answer(rollout.prompts, rollout.completions, answer=["6"] * 4))
advantages = mg.compute_advantages(rewards, rollout.group_ids)[:, None]  # (B, 1): one per completion
mask, lengths = rollout.completion_mask, rollout.completion_mask.sum(1)
for text, length, advantage in zip(rollout.completions, lengths, advantages, strict=True):
    print(f"{text:13} {length:2} tokens   advantage {advantage.item():+.4f}")

# %% [markdown]
# ## Why is my loss 0?
#
# In [02](02_policy_gradient.ipynb) the loss was minus reward, or better advantage, times log-prob. GRPO writes the **ratio** where the
# log-prob stood: the token's probability now, over its probability when it was drawn. (The next section says what that is good for.)
#
# $$r_t = \frac{\pi(y_t)}{\pi_{\mathrm{old}}(y_t)} = \exp\big(\log \pi(y_t) - \log \pi_{\mathrm{old}}(y_t)\big)$$
#
# **Write down:** the model has just drawn these four answers. What is the loss, and what is the norm of its gradient?


# %%
# NBVAL_CHECK_OUTPUT
def scored(model):
    return mg.token_logprobs(mg.policy_logits(model, rollout), rollout.completion_ids)


logprobs = scored(policy)
old_logprobs = logprobs.detach()  # a number, not a function of the weights
ratio = torch.exp(logprobs - old_logprobs)
loss = -mg.aggregate(ratio * advantages, mask, "grpo")  # mean over tokens, then over completions
print(f"ratio {ratio.min().item()}, loss {abs(loss.item()):.6f}")
assert abs(loss) < 1e-6

# %%
# NBVAL_CHECK_OUTPUT
gradient = torch.autograd.grad(loss, policy.parameters(), retain_graph=True)
norm = torch.stack([g.norm() for g in gradient]).norm()
print(f"norm of the gradient {norm:.2f}")
assert norm > 1

# %% [markdown]
# The policy has not changed since it sampled, so every ratio is 1, and the loss is minus the mean advantage. The advantages of
# a group sum to 0, so the loss is 0. With this mean and one update per rollout, that holds at every step of a run (plus a
# little from the KL penalty, which comes below).
#
# The gradient is not 0. The derivative of $e^{x-c}$ at $x = c$ is 1, so the ratio has the same slope as the log-prob, and the gradient is
# the policy gradient of 02:

# %%
simple = -mg.aggregate(logprobs * advantages, mask, "grpo")
policy_gradient = torch.autograd.grad(simple, policy.parameters(), retain_graph=True)
torch.testing.assert_close(gradient, policy_gradient, rtol=1e-3, atol=1e-5)
print(f"loss of lesson 02: {simple.item():.4f}; the same gradient")

# %% [markdown]
# **So a loss of 0 does not mean that nothing is learnt.** Watch the reward, and the norm of the gradient (`grad_norm`). If
# *that* is 0, look for a forgotten `detach`: `exp(x - x)` is 1 too, but its gradient is 0. The next cell shows it. Then it
# takes the right gradient with respect to each log-prob, and minus that is the push:

# %%
forgotten = -mg.aggregate(torch.exp(logprobs - logprobs) * advantages, mask, "grpo")
assert not torch.autograd.grad(forgotten, logprobs, retain_graph=True)[0].any()
push = -torch.autograd.grad(loss, logprobs, retain_graph=True)[0]
for row in range(4):
    print(
        f"{rollout.completions[row]:13} push {push[row, 0]:+.4f} per token, {push[row].sum():+.4f} in all"
    )
torch.testing.assert_close(push.sum(1), advantages.squeeze(1) / 4)

# %% [markdown]
# These are the pushes in the picture. Each completion gets a quarter of its advantage, divided among its tokens: thirteen for the answer
# that thinks, two for a guess.
#
# ## One step, and what it changes
#
# Sampling is the slow part, so you want more than one update from the same answers. But after the first one the policy has
# changed, and the answers are draws from an older policy: they are **off-policy**. The ratio repairs that: old probability
# times (new over old) is new probability. So an average over old draws, each weighed by its ratio, stands for the new policy.
# This is **importance sampling**. First one update:

# %%
student = copy.deepcopy(policy)
optimizer = torch.optim.AdamW(student.parameters(), lr=2e-4, weight_decay=0.0)
ratio = torch.exp(scored(student) - old_logprobs)
(-mg.aggregate(ratio * advantages, mask, "grpo")).backward()
optimizer.step()

# %% [markdown]
# Say that `6` earns 1 and everything else 0. The expected reward of the new policy should then be the sum of old probability
# times ratio times reward:

# %%
with torch.no_grad():
    old_p = mg.policy_logits(policy, rollout)[0, 0].double().softmax(0)
    new_p = mg.policy_logits(student, rollout)[0, 0].double().softmax(0)
    ratio = mg.importance_ratio(scored(student), old_logprobs, mask)  # exp of the difference; 1 on padding
earns = (torch.arange(len(old_p)) == tokenizer.encode("6")[0]).double()  # (V,)
torch.testing.assert_close((old_p * (new_p / old_p) * earns).sum(), (new_p * earns).sum())
ax = mg.plot_tokens(mg.completion_tokens(tokenizer, rollout), ratio.log(), label="log of the ratio")
ax.set_title("after one update only the first tokens have moved", fontsize=10)
plt.show()
assert (ratio[:, 0] - 1).abs().min() > 0.02 and (ratio[:, 1:] - 1).abs().max() < 0.01

# %% [markdown]
# The first tokens have moved, because the decision is made there.
#
# **Keep `old_logprobs` as they were when the tokens were drawn.** If you recompute them before every update, the ratio is
# always 1, and the clip, which comes next, never acts.
#
# ## The clip
#
# Importance sampling is right on average over many draws. With four answers you must not move far from the policy that drew
# them. So PPO, and GRPO after it, maximises a **surrogate** in place of the expected reward. It stops growing once a token's
# ratio has moved far enough:
#
# $$\min\big(r A,\; \mathrm{clip}(r,\, 1-\epsilon,\, 1+\epsilon)\, A\big), \qquad \epsilon = 0.2.$$
#
# Here clip holds $r$ in the **band** from $1-\epsilon$ to $1+\epsilon$: what lies outside becomes the nearer end.
#
# ### You write it
#
# `ratio` is (B, C), `advantages` (B, 1), the result (B, C). The upper end of the band may have a width of its own,
# $1+\epsilon_{\text{high}}$; where `epsilon_high` is None it equals `epsilon`. By hand: ratio 1.5 and advantage 1 give 1.2; ratio 1.5 and
# advantage −1 give −1.5.


# %%
def clipped_objective(ratio, advantages, epsilon, epsilon_high=None):
    raise NotImplementedError


# %%
found = mg.check(clipped_objective)
found

# %% [markdown]
# Stuck? Run `mg.hint("03.1")`. It says more each time.
#
# <details><summary>Solution</summary>
#
# ```python
# def clipped_objective(ratio, advantages, epsilon, epsilon_high=None):
#     upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
#     return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages)
# ```
#
# </details>

# %%
# yours, once it passes
mine = clipped_objective if getattr(found, "about", "") is None else mg.clipped_objective
print("Goes on with", "your function." if mine is clipped_objective else "the package's function.")

# %% [markdown]
# **Write down:** in which of these four cases is the gradient 0? Advantage +1 with ratio 0.5 and with 1.5; advantage −1 with ratio 0.5
# and with 1.5.

# %%
# NBVAL_CHECK_OUTPUT
for advantage in (+1.0, -1.0):
    for r in (0.5, 1.5):
        logprob = torch.tensor(r).log().requires_grad_()  # against 0 when it was drawn: ratio r
        mine(logprob.exp(), torch.tensor(advantage), 0.2).backward()
        note = "" if logprob.grad else "   stopped"
        print(f"advantage {advantage:+.0f}, ratio {r}: gradient {logprob.grad.item():+.1f}{note}")
        assert (logprob.grad == 0) == ((advantage, r) in [(+1.0, 1.5), (-1.0, 0.5)])

# %%
axes = mg.plot_clipping(epsilon=0.2)
axes[0].set_title("advantage +1: no push above 1.2", fontsize=10)
axes[1].set_title("advantage −1: no push below 0.8", fontsize=10)
axes[0].legend()
plt.show()

# %% [markdown]
# The minimum makes each curve flat on *one* side only, where the ratio has already gone far in the direction of the push.
# Corrections stay. A token with a positive advantage that has become rarer (ratio 0.5) is still pulled back up, and one with a
# negative advantage that has become likelier is pushed down with 1.5 times the force. With the clip alone, without the
# minimum, they would be lost:

# %%
logprob = torch.tensor(0.5).log().requires_grad_()
(logprob.exp().clamp(0.8, 1.2) * 1.0).backward()
assert logprob.grad == 0  # advantage +1, half as likely as before, and nothing corrects it

# %% [markdown]
# ## What the clip saves
#
# Now make sixty updates on one group of four answers, and nothing else. This was [recorded](runs/clip/groups.json) for five
# groups, with the clip and without, at the learning rate used above. Now and then the model was tested on the 500 held-out
# problems. **Write down:** it starts with about 0.2 right. Where does it end with the clip, and where without?
#
# On the left are the ratios of the four first tokens in the group that you know (below 0.001 they are drawn at the edge); the grey band is
# 0.8 to 1.2. On the right is the accuracy for all five groups, with the one from the left in blue.

# %%
study = read_clip_study()
_, axes = plt.subplots(2, 2, figsize=(8.5, 5.8), layout="constrained")
plot_clip_study(study, clip=False, axes=axes[0])
plot_clip_study(study, clip=True, axes=axes[1])
axes[0, 1].set_title("without the clip: the four draws decide", fontsize=10)
axes[1, 1].set_title("with the clip: no group gets far", fontsize=10)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for group in study["groups"]:
    right = " and ".join(t for t, r in zip(group["completions"], group["rewards"], strict=True) if r)
    free, held = group["free"]["accuracy"]["60"], group["clip"]["accuracy"]["60"]
    print(f"right was {right:20} held-out accuracy: without the clip {free:.2f}, with it {held:.2f}")
    assert max(group["free"]["ratios"][-1]) > 1.5 and min(group["free"]["ratios"][-1]) < 0.001
    assert abs(held - group["clip"]["accuracy"]["0"]) < 0.02
thoughts = [study["groups"][0]["free"]["ratios"][-1][0], study["groups"][3]["free"]["ratios"][-1][3]]
assert max(thoughts) < 0.001  # right, beside a guess that was right
ends = [group["free"]["accuracy"]["60"] for group in study["groups"]]
assert max(ends) > 0.6 and sorted(ends)[-2] < group["free"]["accuracy"]["0"]

# %% [markdown]
# **Without the clip, four draws decide what becomes of the model.** One right answer takes nearly all of the probability on
# its problem, and others fall below a thousandth of what they had.
#
# - In four groups that answer is a guess, and the model learns nothing of use. In two of the four an answer that thinks was
#   right as well, but each token of the guess is pushed harder.
# - In one group the only right answer thinks. Then the model comes to think on other problems as well: guesses are right one
#   time in five, so to be right on 0.65 it must think on more than half of them.
#
# With the clip, all five end within 0.02 of where they began. That is as it should be: take a **small** step from four
# answers, then draw new ones.
#
# Try it: switch the clip on and off, drag the number of updates, choose a group.

# %%
try_the_clip(study)

# %% [markdown]
# With the clip the ratios leave the grey band too. **The clip cannot hold a ratio in the band; it only stops the push on that token.** The
# optimizer's momentum carries it on for a while, and pushes on other tokens move the same weights.
#
# With one update per rollout, the setting of lesson [04](04_training.ipynb), the ratio is always 1 and the clip never acts. `clip_ratio`,
# the logged share of clipped tokens, is then exactly 0.
#
# ## The KL penalty, in one line
#
# The clip limits a single rollout. To limit the whole run, GRPO adds to each token's loss a penalty for moving away from the
# model that training began with, the **reference**: `beta * kl`. Lesson [06](06_kl.ipynb) is about it. At the very start,
# where policy and reference are the same, its value and gradient are 0.
#
# ## Who weighs how much?
#
# We have one number per token, (B, C), and need a single one. Papers differ in how they average. Compare the weight of a token
# in each mean: it is the mean's *gradient* with respect to that token. Of our four completions one has 13 tokens and three
# have 2.


# %%
# NBVAL_CHECK_OUTPUT
def weights(loss_type):
    values = torch.zeros(mask.shape, requires_grad=True)
    mean = mg.aggregate(values, mask, loss_type, max_completion_length=16)
    return torch.autograd.grad(mean, values)[0]


print("          each token, if of   whole completion, if of\n          13 tokens  2        13 tokens  2")
for loss_type in ("grpo", "dapo", "dr_grpo", "bnpo"):
    w = weights(loss_type)
    print(f"{loss_type:8}  {w[0, 0]:.4f}     {w[1, 0]:.4f}   {w[0].sum():.3f}      {w[1].sum():.3f}")
    assert not w[~mask].any()  # padding never counts

# %% [markdown]
# * **grpo**, the paper's: mean over a completion's tokens, then over completions. Each *completion* weighs the same.
# * **dapo**: the sum, divided by the number of tokens in the whole step. Each *token* weighs the same.
# * **dr_grpo**: the sum, divided by the number of completions times `max_completion_length`. A token's weight does not depend on any length.
# * **bnpo**: the mean over the tokens of one forward pass. It differs from dapo only where a step is split into several, to save memory.
#
# With grpo the lucky `6` is pushed 6.5 times as hard as `<`, and each token of a wrong answer is pushed down 6.5 times less if the answer has
# 13 tokens than if it has 2. [Dr. GRPO](https://arxiv.org/abs/2503.20783) blames this **length bias** for wrong answers that grow longer and
# longer.
#
# ## All of it
#
# This is the whole loss, with your function in it:


# %%
def my_grpo_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, beta=0.04, epsilon=0.2):
    ratio = torch.exp(logprobs - old_logprobs)  # importance sampling
    per_token = -mine(ratio, advantages, epsilon)  # surrogate, negated: optimizers go downhill
    log_r = ref_logprobs - logprobs  # r here is reference over policy, not the ratio above
    per_token = per_token + beta * ratio * (torch.exp(log_r) - log_r - 1)  # the KL penalty, lesson 06
    return (torch.where(mask, per_token, 0.0).sum(1) / mask.sum(1)).mean()


# %% [markdown]
# **Claim: it equals [`grpo_loss`](../minigrpo/loss.py), and TRL's, in value and gradient.** For a hard test, ratios must
# differ from 1 and the KL from 0. So we change the first tokens' log-probs, some of them beyond the band on either side, and
# take a reference that is neither the policy nor the sampler.

# %%
noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).double()
old, ref = old_logprobs.double(), old_logprobs.double() - 0.3 * noise.abs()
current = old.clone()
current[:, 0] += torch.tensor([0.6, -0.5, -0.1, 0.4])
settings = {"beta": 0.04, "epsilon": 0.2, "importance_sampling_level": "token", "max_completion_length": 16}


def value_and_gradient(loss_of):
    new = current.clone().requires_grad_()
    loss = loss_of(new)
    return loss.detach(), torch.autograd.grad(loss, new)[0]


# %%
def ours(new, loss_type="grpo"):
    kl = mg.kl_k3_ratio(new, ref, old)
    return mg.grpo_loss(new, old, advantages.squeeze(1), mask, kl=kl, loss_type=loss_type, **settings).loss


one = value_and_gradient(lambda new: my_grpo_loss(new, old, ref, advantages, mask))
torch.testing.assert_close(one, value_and_gradient(ours), rtol=1e-9, atol=1e-12)
print(f"my_grpo_loss {one[0].item():+.6f}, the package's {ours(current).item():+.6f}; gradients equal")

# %% [markdown]
# [TRL](https://huggingface.co/docs/trl/grpo_trainer) is Hugging Face's library for training large models with GRPO. Its loss
# is a method of a trainer, so we build a trainer and put our log-probs in the place of the model's. You may skip to the last
# output.

# %%
HAS_TRL = importlib.util.find_spec("trl") is not None
if HAS_TRL:
    warnings.simplefilter("ignore")
    import datasets
    import trl

    quiet = {"output_dir": tempfile.mkdtemp(), "use_cpu": True, "bf16": False, "report_to": "none"}
    sizes = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 16}
    arguments = trl.GRPOConfig(**quiet, **sizes, epsilon=0.2, beta=0.0, gradient_checkpointing=False)
    rows = datasets.Dataset.from_dict({"prompt": rollout.prompts[:1], "answer": ["6"]})
    copied = copy.deepcopy(policy)

# %%
if HAS_TRL:
    trainer = trl.GRPOTrainer(copied, mg.exact_answer, arguments, rows, processing_class=tokenizer)
    trainer.model.train()  # the mode decides what TRL divides by
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = 0.04  # only now: the constructor would have loaded a reference model
inputs = {
    "prompt_ids": rollout.prompt_ids.expand(4, -1),
    "prompt_mask": rollout.prompt_mask.long().expand(4, -1),
}
inputs |= {"completion_ids": rollout.completion_ids, "completion_mask": mask.long()}
inputs |= {"old_per_token_logps": old, "ref_per_token_logps": ref, "num_items_in_batch": mask.sum()}
inputs |= {"advantages": advantages.squeeze(1).double()}


# %%
def theirs(new, loss_type):
    trainer.loss_type = loss_type
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
    return trainer._compute_loss(trainer.model, inputs)


for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo") if HAS_TRL else ():
    mg_value, mg_gradient = value_and_gradient(lambda new, kind=loss_type: ours(new, kind))
    value, gradient = value_and_gradient(lambda new, kind=loss_type: theirs(new, kind))
    torch.testing.assert_close((mg_value, mg_gradient), (value, gradient), rtol=0, atol=1e-12)
    print(f"{loss_type:8} ours {mg_value:+.6f}   TRL's {value:+.6f}   gradients equal to 1e-12")

# %% [markdown]
# ## In the words of the field
#
# The minimum above is PPO's **clipped surrogate objective**. **Importance sampling** reweights draws of one distribution so that they stand for
# another. Data drawn by the current policy are **on-policy**, older ones **off-policy**. A **trust region** is how far you let the policy move
# before you draw again; TRPO enforces it, PPO and GRPO imitate it with the clip. $\pi_{\mathrm{old}}$ is the **behaviour policy**, the one that
# sampled; $\pi_{\mathrm{ref}}$ is the **reference**, the one that training began with. Averages over completions and over tokens are called
# *sequence-mean* and *token-mean* aggregation.
#
# ## Questions
#
# 1. Your loss is 0.0000 for a hundred steps while the reward rises. Is something broken?
#    <details><summary>Answer</summary>No. With one update per rollout and a mean over completions, the loss is minus the mean advantage, plus beta times the KL.
#    Something is broken if <code>grad_norm</code> is 0 as well: then all groups agree, or a detach is missing.</details>
# 2. The lucky '6' is pushed 6.5 times as hard as '<'. Why does the model come to think all the same?
#    <details><summary>Answer</summary>Over many problems a guess is right about one time in five, and an answer that thinks nearly always. So a guess is
#    mostly pushed down, and '<' is mostly pushed up.</details>
# 3. Your <code>clip_ratio</code> is exactly 0 in every step. When is that fine, and when is it a bug?
#    <details><summary>Answer</summary>It is fine with one update per rollout. With more, the old log-probs are probably recomputed before each update, so that the
#    ratio is always 1.</details>
#
# **Exercise:** [ex03](../exercises/ex03_loss.ipynb). **Next:** [04 · Training](04_training.ipynb), where the loss meets the loop.
