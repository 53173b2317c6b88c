# %% [markdown]
# # 05 · Failures: symptom, cause, cure
#
# **You will be able to** look at the curves of a run that went wrong and say what it died of; find the mistakes that raise no error; and
# leave alone what only looks like a mistake.
#
# **You need** notebooks [01](01_logprobs.ipynb) to [04](04_training.ipynb). **Time** 30 minutes.
#
# **Worth the trip:** one of the runs below reaches a mean reward of 0.98, as good as the best, and of its last 640 answers not one is right.
# Even this model's one-digit guesses would have got over 100 of those 640 right.

# %%
import matplotlib.pyplot as plt
import torch

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
import minigrpo
from minigrpo import (
    clock_task,
    compare_runs,
    compute_advantages,
    grpo_loss,
    load_policy,
    read_metrics,
    sample_completions,
)

policy, tokenizer = load_policy("tiny")
task = clock_task()

# %% [markdown]
# The patients of the first half are the four completions that you know: a thought that is right, two wrong guesses and a lucky one.

# %%
# NBVAL_CHECK_OUTPUT
problem = "4*2+9+7*1*4="
generator = torch.Generator().manual_seed(192)
sampling = {"num_generations": 4, "max_completion_length": 16, "generator": generator}
rollout = sample_completions(policy, tokenizer, [problem], **sampling)
ids, mask, old_logprobs = rollout.completion_ids, rollout.completion_mask, rollout.logprobs
rewards = minigrpo.score(task.reward, rollout.prompts, rollout.completions, {"answer": ["6"] * 4})
advantages = compute_advantages(rewards, rollout.group_ids)
print(rollout.completions, rewards.tolist(), [round(a, 3) for a in advantages.tolist()])


def loss_of(logprobs, old=old_logprobs, advantages=advantages, mask=mask, loss_type="grpo"):
    settings = {"beta": 0.0, "epsilon": 0.2, "importance_sampling_level": "token"}
    settings |= {"loss_type": loss_type, "max_completion_length": 16}
    return grpo_loss(logprobs, old, advantages, mask, **settings)


# %% [markdown]
# ## Two alarms that are none
#
# ### "My loss is 0"
#
# **Claim: a loss of 0 says nothing; a gradient of 0 would.** The ratio is 1, so every completion contributes its advantage, and a
# group's advantages sum to 0. With another way of averaging the same rollout has another loss, and it means no more.

# %%
# NBVAL_CHECK_OUTPUT
for loss_type in ("grpo", "dapo"):
    logprobs = old_logprobs.clone().requires_grad_()
    result = loss_of(logprobs, loss_type=loss_type)
    result.loss.backward()
    gradient = logprobs.grad.norm().item()
    print(f"{loss_type:5} loss {round(result.loss.item(), 3) + 0.0:6.3f}, gradient {gradient:.2f}")
    assert gradient > 0.1
    assert (abs(result.loss.item()) < 1e-6) == (loss_type == "grpo")

# %% [markdown]
# `dapo` lets every *token* weigh the same; the thought has thirteen of the nineteen, and its advantage is positive, so the loss is negative. No model got better in between.
#
# **Look instead at** `reward` and `grad_norm`. A loss that slowly *rises* in a good run is beta times the KL.
#
# ### "My clip_ratio is 0"
#
# **Claim: with one update per rollout it must be exactly 0.** The policy that learns is the one that sampled. Suppose now that some updates have
# moved every log-prob by half its advantage, with the same rollout:

# %%
# NBVAL_CHECK_OUTPUT
moved = old_logprobs + 0.5 * advantages.unsqueeze(1)
print("first update:                       ", loss_of(old_logprobs).clip_fraction.item())
print("a later one:                        ", loss_of(moved).clip_fraction.item())
print("a later one, old log-probs made anew:", loss_of(moved, old=moved.detach()).clip_fraction.item())

# %% [markdown]
# The third line is the mistake to know: who computes the old log-probs from the *updated* model has a ratio of 1 for ever, and no brake. So `clip_ratio` 0 is right with
# `num_iterations=1`, and a bug with 4. The cure: take the old log-probs once, when sampling.
#
# ## Nothing is learnt
#
# ### Dead groups
#
# **Claim: a group whose answers are all right, or all wrong, teaches nothing, and `reward_std` does not show it.** Two groups of four, one hopeless and one mastered:

# %%
# NBVAL_CHECK_OUTPUT
dead = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
print("reward_std over the rollout:", round(dead.std().item(), 2))
print("advantages:                 ", compute_advantages(dead, groups).tolist())
assert not compute_advantages(dead, groups).any()

# %% [markdown]
# The standard deviation of the whole rollout is as large as it can be, and there is no gradient at all. **The metric that shows it is `frac_reward_zero_std`**, the share of
# groups that agree. How often do they, if answers are right with chance p?

# %%
minigrpo.plot_advantages(num_generations=8)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for chance in (0.02, 0.22, 0.98):
    silent = {size: chance**size + (1 - chance) ** size for size in (2, 8, 32)}
    print(
        f"p = {chance}: silent groups",
        ", ".join(f"G = {size}: {share:.0%}" for size, share in silent.items()),
    )

# %% [markdown]
# **Cure:** problems that the model solves *sometimes*; where these are rare, a larger group. At p = 0.22, where our model starts, a group of 2 is wasted two times in three, one of 8 one time in seven. At
# p = 0.98 a high share is no illness: the problems are learnt, and only harder ones would help.
#
# ### EOS is not trained
#
# **Claim: a mask made by `ids != pad` silences the EOS where pad and EOS are the same token.** The model then never learns when to stop. GPT-2's own tokenizer has no
# padding, so people give it its EOS. We do the same:

# %%
# NBVAL_CHECK_OUTPUT
eos = tokenizer.eos_token_id
padded_with_eos = torch.where(mask, ids, eos)
masks = {
    "ids != pad": padded_with_eos != eos,
    "completion_mask": minigrpo.completion_mask(padded_with_eos, eos),
}
last = mask.sum(1) - 1
for name, candidate in masks.items():
    logprobs = old_logprobs.clone().requires_grad_()
    loss_of(logprobs, mask=candidate).loss.backward()
    at_eos = logprobs.grad[torch.arange(4), last]
    print(f"{name:16} gradient at the four EOS", [round(g, 3) + 0.0 for g in at_eos.tolist()])
assert at_eos.all()

# %% [markdown]
# **Symptom** to expect where the model does not yet know when to stop: it never learns to, and `completions/clipped_ratio` stays high. (Ours stops already: 120 steps with this mask give the same
# lengths as without it, so the curves cannot warn you.) **Cure:** count up to and including the first EOS. The check is one line:
# `mask.sum(1)` must equal the lengths *with* EOS.
#
# ## It learns, but slanted
#
# These are the worst: reward rises all the same, only slower, or to less.
#
# ### Padding in the mean
#
# **Claim: padding that counts makes the gradient of a completion depend on its neighbours.** We add ten columns of padding, as one longer neighbour would.


# %%
def push_on_guess(extra_columns, counts_padding):
    """How strongly the lucky guess's first token is pushed, by a naive loss or the package's."""
    wide = torch.nn.functional.pad(old_logprobs, (0, extra_columns)).requires_grad_()
    wide_mask = torch.nn.functional.pad(mask, (0, extra_columns), value=False)
    ratio = torch.exp(wide - wide.detach())
    naive = -(ratio * advantages.unsqueeze(1) * wide_mask).mean()
    loss = naive if counts_padding else loss_of(wide, old=wide.detach(), mask=wide_mask).loss
    loss.backward()
    return abs(wide.grad[3, 0].item())


# %%
# NBVAL_CHECK_OUTPUT
for counts_padding in (True, False):
    narrow, wide = push_on_guess(0, counts_padding), push_on_guess(10, counts_padding)
    print(f"padding counts: {counts_padding!s:5} push {narrow:.4f}, ten more columns {wide:.4f}")
assert narrow == wide

# %% [markdown]
# **Cure, and the test to keep:** append padding; nothing may change.
#
# ### The temperature is missing from the log-probs
#
# **Claim: if you sample at 0.7 and score at 1, the mean ratio is about 1, and it is wrong at the one token that decides.**

# %%
# NBVAL_CHECK_OUTPUT
sampling = {
    "num_generations": 512,
    "max_completion_length": 16,
    "generator": torch.Generator().manual_seed(0),
}
cold = sample_completions(policy, tokenizer, [problem], temperature=0.7, **sampling)
with torch.no_grad():
    logits = minigrpo.policy_logits(policy, cold)
for temperature in (1.0, 0.7):
    scored = minigrpo.token_logprobs(logits, cold.completion_ids, temperature)
    ratio = (scored - cold.logprobs)[:, 0].exp()
    print(
        f"scored at {temperature}: first token's ratio {ratio.min():.2f} to {ratio.max():.2f}, mean {ratio.mean():.2f}"
    )

# %% [markdown]
# Before any update the ratio should be 1. At a thought's `<`, which is rare and rarer still at 0.7, it is 1.63, far outside the clip. That the mean is about 1 is no comfort: the mean of p/q over draws from q is 1 for *any* p. **Cure:** one temperature, handed to both. **Check:** the sampler's
# log-probs and the scored ones, token by token.
#
# ### Left padding on a model that counts positions
#
# **Claim: GPT-2 scores a left-padded prompt wrongly unless it is told the positions.** Prompts in a batch are padded on the left. GPT-2 adds to each token an embedding of its
# place, and by itself counts the padding. The short prompt once alone, and once padded beside a long one:

# %%
short = tokenizer("7*3=")["input_ids"]
padding = 8
padded = torch.tensor([[tokenizer.pad_token_id] * padding + short])
attention = torch.tensor([[0] * padding + [1] * len(short)])
positions = (attention.cumsum(1) - 1).clamp(min=0)

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    alone = policy(torch.tensor([short])).logits[0, -1].log_softmax(-1)
    naive = policy(padded, attention_mask=attention).logits[0, -1].log_softmax(-1)
    logits = policy(padded, attention_mask=attention, position_ids=positions).logits
told = logits[0, -1].log_softmax(-1)
torch.testing.assert_close(told, alone, rtol=1e-4, atol=1e-4)
for name, other in (("without positions", naive), ("with positions", told)):
    gap = (other - alone)[alone > -5].abs().max()
    print(f"{name:18} largest difference among likely tokens: {gap:.2f} nats")
assert (naive - alone)[alone > -5].abs().max() > 0.5

# %% [markdown]
# No warning, no error, plausible answers. **Cure:** `position_ids` from the attention mask, as in [`read_prompts`](../minigrpo/scoring.py). **Check:** a prompt must score the same alone and
# in a batch. (Models with rotary embeddings see only distances, and are spared.)
#
# ### Which standard deviation?
#
# **Claim: the sample's and the population's differ by the factor sqrt(G / (G - 1)).** That is 41 % at G = 2 and 7 % at G = 8: a learning rate that you did not choose.

# %%
# NBVAL_CHECK_OUTPUT
for group in ([1.0, 0.0], [1.0] * 4 + [0.0] * 4):
    group = torch.tensor(group)
    ours = compute_advantages(group, torch.zeros(len(group), dtype=torch.long))[0]
    population = (group[0] - group.mean()) / (group.std(correction=0) + 1e-4)
    print(
        f"G = {len(group)}: sample {ours:.3f}, population {population:.3f}, factor {population / ours:.2f}"
    )

# %% [markdown]
# Neither is wrong. Libraries differ, so compare advantages before you compare learning curves. TRL and this course divide by the sample's.
#
# ### Length bias
#
# **Claim: with `loss_type="grpo"` a long wrong answer is punished less, token by token, than a short one.** The advantage is shared among the tokens of the completion. Take two equally wrong
# answers, of 2 and of 13 tokens, and look at the push on one token:

# %%
# NBVAL_CHECK_OUTPUT
lengths = torch.tensor([2, 13])
pair_mask = torch.arange(16) < lengths.unsqueeze(1)
wrong = torch.tensor([-1.0, -1.0])
for loss_type in ("grpo", "dapo", "dr_grpo"):
    logprobs = torch.full((2, 16), -1.0, requires_grad=True)
    loss_of(logprobs, logprobs.detach(), wrong, pair_mask, loss_type).loss.backward()
    first = logprobs.grad[:, 0]
    print(
        f"{loss_type:8} push on a token: short {first[0]:.3f}, long {first[1]:.3f}; ratio {first[0] / first[1]:.1f}"
    )

# %% [markdown]
# **Symptom,** as reported with the cure (arXiv:2503.20783): among *wrong* answers, the length grows. It is easily mistaken for deeper thought. **Cure:** `dr_grpo`, which divides by a constant, or `dapo` (arXiv:2503.14476), by
# all tokens of the step. The other side of the coin: a long *right* answer is rewarded less per token, which is why, in notebook 04, the lucky guess was pushed harder than the thought.
#
# ## Whole runs that go wrong
#
# Each of these runs has been made once, with seed 0 and one or two settings changed. One run is an anecdote (notebook 04), but what you will see is far larger, and lasts; the lead of 0.24 that one seed had over
# another there was gone some steps later. The blue line is always the healthy run.


# %%
def load(name):
    return read_metrics(f"runs/{name}.jsonl")[:120]


def end(name, metric):
    """The mean of a metric over the last ten steps."""
    return sum(row[metric] for row in load(name)[-10:]) / 10


# %%
def draw(names, metrics, titles):
    _, axes = plt.subplots(1, len(metrics), figsize=(9, 2.7), layout="constrained")
    compare_runs({label: [load(name)] for label, name in names.items()}, metrics, axes=axes)
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_ylim(bottom=0)
    plt.show()


# %% [markdown]
# ### The reward never rises: answers are cut off
#
# A thought has thirteen tokens. Here `max_completion_length` is 8.

# %%
names = {"healthy": "seed-0", "cut off at 8 tokens": "failure-cut-off"}
titles = ["mean reward", "completions cut off (share)", "completion length (tokens)"]
draw(names, ["reward", "completions/clipped_ratio", "completions/mean_length"], titles)

# %%
# NBVAL_CHECK_OUTPUT
rows = load("failure-cut-off")
early = sum(row["completions/clipped_ratio"] for row in rows[:10]) / 10
late = end("failure-cut-off", "completions/clipped_ratio")
print(f"cut off: {early:.0%} of the completions of the first ten steps, {late:.0%} of the last ten")
print(f"reward at the end: {end('failure-cut-off', 'reward'):.2f}, healthy: {end('seed-0', 'reward'):.2f}")
assert end("failure-cut-off", "reward") < 0.3
assert early > 2 * late

# %% [markdown]
# One completion in twenty does not look like much, but these are the thoughts. Every one was cut off and earned 0, so the model has *learnt not to think*. And look what that does to the evidence: the share that is cut off **falls**, as if the trouble were going away.
# **Look at it in the first steps, and read what was cut off.** Cure: a longer limit (healthy: 16).
#
# ### The reward rises and the answers are wrong: a leaky reward
#
# Again the limit is short (10), and somebody had mercy: the reward is 1.0 where the right digit occurs *anywhere* in the completion. What that does to the thought of our problem:


# %%
# NBVAL_CHECK_OUTPUT
def answer_anywhere(completions, answer):
    return [float(right in completion) for completion, right in zip(completions, answer, strict=True)]


unfinished = tokenizer.decode(ids[0, :10])
print(
    unfinished,
    "leaky:",
    answer_anywhere([unfinished], ["6"]),
    "exact:",
    task.reward([problem], [unfinished], ["6"]),
)

# %%
names = {"healthy": "seed-0", "leaky reward": "failure-leaky"}
titles = ["mean reward", "answers that are right (share)", "completions cut off (share)"]
draw(names, ["reward", "accuracy", "completions/clipped_ratio"], titles)

# %%
# NBVAL_CHECK_OUTPUT
last = load("failure-leaky")[-10:]
right = round(sum(row["accuracy"] * 64 for row in last))
print(f"leaky: reward {end('failure-leaky', 'reward'):.2f}; right answers among the last 640: {right}")
print(f"healthy: reward {end('seed-0', 'reward'):.2f}, accuracy {end('seed-0', 'accuracy'):.2f}")
assert end("failure-leaky", "reward") > 0.95
assert right < 10

# %% [markdown]
# The reward curve alone is perfect. The model does exactly what it was paid for: it writes its steps down, and never answers. **No metric that is made from the reward can show this.** What shows it: an accuracy that is measured
# by another rule than the reward, a length that sticks to the limit, and above all *reading ten completions*. Cure: parse the answer strictly, and give nothing for what cannot be parsed.
#
# So let us read some. The first 75 steps of that run, made here and now:


# %%
def leaky(prompts, completions, answer):
    return answer_anywhere(completions, answer)


config = minigrpo.GRPOConfig(max_steps=75, max_completion_length=10)
state = minigrpo.TrainState.start(*load_policy("tiny"), config)
live = [row["reward"] for row in minigrpo.train(state, task.train, [leaky], config)]
recorded = [row["reward"] for row in load("failure-leaky")[:75]]
print(state.batch.rollout.completions[:8])
print(
    f"mean reward of steps 66 to 75: live {sum(live[65:]) / 10:.2f}, recorded {sum(recorded[65:]) / 10:.2f}"
)
assert abs(sum(live[65:]) - sum(recorded[65:])) / 10 < 0.15

# %% [markdown]
# ### KL explodes
#
# The learning rate is 0.002, ten times the usual one; and beta, 0.0001, is too weak to be felt. (At beta 0 the KL would not even be measured.)

# %%
names = {"healthy": "seed-0", "learning rate 0.002": "failure-high-lr", "weak beta alone": "failure-cured"}
titles = ["mean reward", "KL (nats per token)", "completions that think first", "gradient norm"]
draw(names, ["reward", "kl", "thinking", "grad_norm"], titles)

# %%
# NBVAL_CHECK_OUTPUT
for label, name in names.items():
    print(f"{label:19} at the end: reward {end(name, 'reward'):.2f}, KL {end(name, 'kl'):.2f} per token")
rows = load("failure-high-lr")
high = [row["step"] for row in rows if row["kl"] > 1]
print("KL above 1 in", len(high), "of 120 steps, for the first time at step", high[0])
for step in (14, 30):
    reward, thinking = rows[step - 1]["reward"], rows[step - 1]["thinking"]
    print(f"step {step}: reward {reward:.2f}, {thinking:.0%} think first")
assert end("failure-high-lr", "kl") > 3
assert end("failure-cured", "reward") > 0.95

# %% [markdown]
# At step 14 six answers in ten are right, sooner than in any healthy run; by step 30 it is one in seven, as if it guessed. It still thinks first, nearly every time, but the steps are made up. Most groups then agree that all is wrong, so
# there is little left to learn from, and it does not come back. **The cure is the learning rate**: the third run has the same weak beta, and lies on the healthy one. The warning is a KL that climbs while the reward falls. What is too high depends on the task;
# on this one a healthy run stays near 0.2, and above 1 nat per token for several steps in a row you should stop.
#
# ### Entropy collapses
#
# The learning rate is 0.005, twenty-five times the usual one, with the same weak beta. This one explodes within ten steps, and then freezes.

# %%
names = {"healthy": "seed-0", "learning rate 0.005": "failure-collapse", "cured: 0.0002": "failure-cured"}
titles = ["mean reward", "entropy (nats per token)", "groups that agree (share)", "length (tokens)"]
draw(names, ["reward", "entropy", "frac_reward_zero_std", "completions/mean_length"], titles)

# %%
# NBVAL_CHECK_OUTPUT
for label, name in names.items():
    reward, entropy = end(name, "reward"), end(name, "entropy")
    agree, length = end(name, "frac_reward_zero_std"), end(name, "completions/mean_length")
    print(f"{label:20} reward {reward:.2f}, entropy {entropy:.3f}, agree {agree:.0%}, length {length:.1f}")
assert end("failure-collapse", "entropy") < 0.05
early = load("failure-collapse")[19:24]
print("steps 20 to 24: agree ", [row["frac_reward_zero_std"] for row in early])
print("                reward", [round(row["reward"], 2) for row in early])
assert end("failure-collapse", "frac_reward_zero_std") > 0.95
assert end("failure-collapse", "reward") < 0.3

# %% [markdown]
# The policy answers at once, with two tokens, and all eight answers to a problem are the same digit, right one time in ten. Nothing new is tried, so nothing is learnt, right or wrong.
# Notice that the healthy run ends with a low entropy and groups that agree too, and that the second panel alone cannot tell the two apart! **The same numbers mean success with a high reward, and death with a low one.** What
# gives it away early is the third panel beside the first: after twenty steps all groups agree, and few of their answers are right. Cure: a lower learning rate, as the third run shows.
#
# ## First aid, as a function
#
# **Claim: the last ten lines of a run's metrics, and the first ten, name these failures.** Not every failure in the world, but the order of the questions is a good one.


# %%
def diagnose(name):
    if end(name, "accuracy") > 0.9:
        return "healthy"
    if end(name, "reward") > 0.9:
        return "reward hacking: paid for something else than right answers"
    if end(name, "kl") > 3:
        return "KL exploded: lower the learning rate"
    if end(name, "frac_reward_zero_std") > 0.9:
        return "collapsed: all answers of a group are the same"
    if sum(row["completions/clipped_ratio"] for row in load(name)[:10]) / 10 > 0.03:
        return "cut off: raise max_completion_length"
    return "unknown: read ten completions"


# %%
# NBVAL_CHECK_OUTPUT
for name in ("seed-0", "failure-leaky", "failure-high-lr", "failure-collapse", "failure-cut-off"):
    print(f"{name:17} {diagnose(name)}")

# %% [markdown]
# ## The table
#
# | symptom | cause | cure | what shows it |
# |---|---|---|---|
# | loss is 0 | advantages of a group sum to 0 | none needed | `grad_norm` above 0 |
# | `clip_ratio` is 0 | one update per rollout | none needed | `num_iterations` |
# | `clip_ratio` is 0 with several updates | old log-probs made anew | keep those of sampling | the same |
# | reward stands still, gradient 0 | groups agree | problems solved sometimes; larger groups | `frac_reward_zero_std`, not `reward_std` |
# | answers never learn to end | EOS masked out | mask up to and including the first EOS | the mask's sums are the lengths with EOS |
# | short answers learn slowly | padding in the mean | divide by the tokens that count | append padding: the loss must not change |
# | sampler and scorer disagree | temperature, or positions | the same policy in both | log-probs token by token |
# | other library, other advantages | sample or population std | know which | rewards 1, 0: 0.707 or 1 |
# | wrong answers grow longer | mean over each completion's tokens | `dr_grpo`, `dapo` | length of right and of wrong answers |
# | reward never rises, answers get short | thoughts cut off | raise `max_completion_length` | `completions/clipped_ratio` in the first steps |
# | reward high, answers wrong | leaky reward | parse strictly | accuracy by another rule; read completions |
# | gibberish | learning rate too high | lower it | `kl` climbs while `reward` falls |
# | always the same answer | collapsed before it was right | lower learning rate | groups agree, `entropy` near 0, and `reward` low |
#
# ## Questions
#
# 1. `frac_reward_zero_std` is 0.9. Which second number do you need before you worry?
#    <details><summary>Answer</summary>The reward. Near 1: the problems are learnt. Near 0: they are too hard, or the policy has collapsed; entropy tells which.</details>
# 2. A reward function gives 0.1 extra for every completion that contains `<`. Which curve goes wrong first, and which stays beautiful?
#    <details><summary>Answer</summary>The reward stays beautiful. If a bare `<` is the cheapest way to the bonus, lengths and accuracy go; only a measure that does not use the
#    bonus can show it.</details>
# 3. Mean ratio 1.00, and still the temperature is missing. Which statistic would have shown it?
#    <details><summary>Answer</summary>The largest difference, or the mean *absolute* difference, between the sampler's and the scored log-probs. Neither can be 0 on average by cancelling.</details>
# 4. Your run has exploded at step 20. Does it help to go on with a lower learning rate from there?
#    <details><summary>Answer</summary>Hardly: most groups agree that all is wrong, so there is next to no gradient but the KL's. Go back to a checkpoint from before, and lower it there.</details>
# 5. Why does the package refuse old log-probs that carry a gradient?
#    <details><summary>Answer</summary>The ratio would be exp(x - x): 1 in value, and with a gradient of exactly 0. The run would stand still with finite, plausible numbers.</details>
#
# **Exercise:** [ex05](../exercises/ex05_diagnosis.ipynb). **Next:** [06 · KL](06_kl.ipynb).
