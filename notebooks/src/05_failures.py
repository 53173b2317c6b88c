# %% [markdown]
# # 05 · Failures: a clinic
#
# **You will be able to** look at the curves of a run and ten of its completions, choose the one test that decides, and say what is wrong;
# find mistakes that no curve shows; and leave a healthy run alone.
#
# **You need** lessons [01](01_logprobs.ipynb) to [04](04_training.ipynb). **Time** 40 minutes, with the function that you write.
#
# **Worth the trip:** one of the six patients earns nearly the highest reward there is, on all three seeds, and almost none of its last 1,920
# answers is right. Another one is perfectly well.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

import minigrpo as mg
from minigrpo.view.controls.clinic import PATIENTS, open_clinic, plot_patient, read_clinic, ten_completions

plt.rcParams["figure.dpi"] = 65
torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores
clinic = read_clinic()  # each run three times, seeds 0, 1 and 2, 120 steps

# %% [markdown]
# ## Six patients
#
# Each patient is a run like those of lesson 04 with **one or two settings changed**, or none. You see the mean and the range of three seeds
# (orange) beside three healthy runs (blue), and below them ten completions of the last rollout of seed 0, each as reward, prompt,
# completion. *Groups that agree* are groups whose **rewards** are all equal; their answers may differ.
#
# **Write down a guess for each patient before you unfold anything:**
#
# 1. How was the reward earned? Look at the length and the completions.
# 2. Is anything left to learn from? Look at the groups that agree.
# 3. What would you test next? Only then: what is wrong?
#
# Here you can choose a patient, look at further tests, and check your guess. The same patients follow, one by one, without the buttons.

# %%
open_clinic(clinic)

# %% [markdown]
# ### Patient A

# %%
plot_patient(clinic, "A")
plt.show()
print(ten_completions(clinic, "A"))

# %% [markdown]
# <details><summary>A test, if you want one</summary>
#
# Work out one of the problems yourself. Is the answer right? Is there an answer at all?
#
# </details>
# <details><summary>What is wrong</summary>
#
# **The reward has a leak.** It pays 1 if the right digit occurs *anywhere* in the completion, and completions end after 10 tokens. So the model
# writes steps until it is cut off. One of them is the digit that it is paid for, and it never answers. No number made from the reward can show
# this. An accuracy measured by another rule can, and so can ten completions. **Cure:** pay only for an answer in the right place, and give a
# thought the thirteen tokens that it takes.
#
# </details>
#
# ### Patient B

# %%
plot_patient(clinic, "B")
plt.show()
print(ten_completions(clinic, "B"))

# %% [markdown]
# <details><summary>A test, if you want one</summary>
#
# Either the answers are all wrong, or they are not recognised. Is any of the ten right? Work out `2*1-6-1-4+1=` from left to right.
#
# </details>
# <details><summary>What is wrong</summary>
#
# **Right answers are not paid.** The reward's parser looks for `\boxed{6}`, and this model writes `6`. Every reward is 0, every group agrees, and
# every advantage is 0. So there is no gradient, and the policy is the same at step 120 as at step 1. **Cure:** a parser that knows the model's
# form, or a prompt that asks for the parser's form. Print the rewards of ten right answers *before* you train.
#
# </details>
#
# ### Patient C

# %%
plot_patient(clinic, "C")
plt.show()
print(ten_completions(clinic, "C"))

# %% [markdown]
# <details><summary>What is wrong</summary>
#
# **Nothing.** These are the healthy runs themselves. Nearly all groups agree at the end, and with a high reward that means that the problems are
# learnt. **With a low reward, as in B, the same number means that the run is dead.**
#
# </details>
#
# ### Patient D

# %%
plot_patient(clinic, "D")
plt.show()
print(ten_completions(clinic, "D"))

# %% [markdown]
# <details><summary>A test, if you want one</summary>
#
# Check one thought by hand: `4+9` is 13, so the first step must be 3. It still thinks. Does it still think *right*?
#
# </details>
# <details><summary>What is wrong</summary>
#
# **The learning rate is too high**: 0.002, ten times the usual one. At first the reward rises, on two seeds faster than in any healthy run. Then
# the updates, too large for what one rollout can tell, damage the skill itself: two seeds go on thinking, but in wrong steps, and the third
# stops thinking. The warning is a **KL that climbs while the reward falls**. **Cure:** a lower rate, from an earlier checkpoint. How much
# earlier, you will see below.
#
# </details>
#
# ### Patient E

# %%
plot_patient(clinic, "E")
plt.show()
print(ten_completions(clinic, "E"))

# %% [markdown]
# <details><summary>A test, if you want one</summary>
#
# Look at the *first* rollout, and at the share of completions that reached the length limit there.
#
# </details>
# <details><summary>What is wrong</summary>
#
# **The good answers are cut off.** A thought has thirteen tokens, and `max_completion_length` is 8. At first only one completion in twenty is
# cut off. But these were the thoughts, and every one of them earned 0. So the model *learnt not to think*, and the share that is cut off
# **falls**, as if the trouble were going away. **Cure:** a longer limit.
#
# </details>
#
# ### Patient F

# %%
plot_patient(clinic, "F")
plt.show()
print(ten_completions(clinic, "F"))

# %% [markdown]
# <details><summary>What is wrong</summary>
#
# **The learning rate is far too high**: 0.005, twenty-five times the usual one. The KL explodes within ten steps. After that this seed answers `4` to
# everything, and the other two fill all 16 tokens with the same few digits: **policy collapse**. Nearly all groups agree, so next to nothing is
# learnt any more, and the run does not recover. **Cure:** a lower rate, from the start.
#
# </details>
#
# ## The answers, three seeds each
#
# Means of the last ten steps, the lowest and the highest of three seeds. *accuracy* is the reward of lesson 04, whatever the patient was paid for.


# %%
def means(name, metric, steps=slice(-10, None)):
    """The mean of a metric over some steps, the last ten by default: one number per seed."""
    shown = [rows[steps] for rows in clinic.runs[name]]
    return [sum(row[metric] for row in rows) / len(rows) for rows in shown]


def end(name, metric):
    return min(means(name, metric)), max(means(name, metric))


# %%
def table(runs, metrics):
    """``runs``: what stands in front of a row -> the run's name."""
    rows = [["{:.2f} to {:.2f}".format(*end(name, metric)) for metric in metrics] for name in runs.values()]
    return pd.DataFrame(rows, runs, [metric.split("/")[-1] for metric in metrics])


# %%
# NBVAL_CHECK_OUTPUT
assert end("leaky", "reward")[0] > 0.9 and end("leaky", "accuracy")[1] < 0.1
assert all(end(name, "accuracy")[1] < 0.4 for name in PATIENTS.values() if name != "healthy")
assert end("healthy", "accuracy")[0] > 0.9
named = {f"{letter}: {name}": name for letter, name in PATIENTS.items()}
table(named, ["reward", "accuracy", "kl", "frac_reward_zero_std"])

# %% [markdown]
# The row *healthy* shows what the cure does: a limit of 16 tokens, the reward of lesson 04, a learning rate of 2e-4. And here is what the
# panels of D, E and F did not show, a number for each seed:

# %%
# NBVAL_CHECK_OUTPUT
unseen = [
    ("D: reward in steps 11 to 15", "high-rate", "reward", slice(10, 15)),
    ("C: the same", "healthy", "reward", slice(10, 15)),
    ("D: share that thinks, last ten steps", "high-rate", "thinking", slice(-10, None)),
    ("E: share cut off, first ten steps", "cut-off", "completions/clipped_ratio", slice(10)),
    ("E: share cut off, last ten steps", "cut-off", "completions/clipped_ratio", slice(-10, None)),
    ("F: length, last ten steps", "collapse", "completions/mean_length", slice(-10, None)),
]
for text, *which in unseen:
    print(f"{text:36}" + "".join(f"{mean:8.2f}" for mean in means(*which)))

# %%
early, healthy, _, first, last, _ = (means(*which) for _, *which in unseen)
assert sorted(early)[1] > max(healthy) and min(first) > max(last)  # on two of three seeds; on each

# %% [markdown]
# ## Silent groups
#
# B never learns and F has stopped, because in their groups all rewards agree. Such groups are **silent** (lesson 02). The `reward_std` of a
# log, taken over the whole rollout, need not show them. **Write down:** two groups of four, one all wrong, one all right. What are the standard deviation of the eight rewards and
# the eight advantages?

# %%
# NBVAL_CHECK_OUTPUT
rewards = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
advantages = mg.compute_advantages(rewards, groups)
print(f"reward_std {rewards.std():.2f}, advantages {advantages.tolist()}")
assert not advantages.any()

# %% [markdown]
# The standard deviation is as large as it can be, and there is no gradient. So you need another number:
#
# ### You write it
#
# Both arguments are (B,). Return the share of *groups* whose rewards are all equal.
#
# - Groups may differ in size, their rows come in any order, and their ids may be any numbers.
# - The standard deviation of equal floats need not be exactly 0, so compare the rewards themselves.
# - By hand: the eight rewards above give 1; if one of the wrong answers were right, 0.5.


# %%
def silent_share(rewards, group_ids):
    raise NotImplementedError


# %%
answer = mg.check(silent_share)
answer

# %% [markdown]
# Stuck? `mg.hint("05.1")` helps, and says more each time you call it.
#
# <details><summary>Solution</summary>
#
# ```python
# def silent_share(rewards, group_ids):
#     groups = [rewards[group_ids == group] for group in group_ids.unique()]
#     silent = [(group == group[0]).all() for group in groups]
#     return sum(silent) / len(silent)
# ```
#
# </details>
#
# A log calls it `frac_reward_zero_std`. Lesson 02 expected $p^G + (1-p)^G$, if each answer is right with probability $p$. Drawn and counted,
# with 500 groups each:

# %%
# NBVAL_CHECK_OUTPUT
from minigrpo.grading.lesson05 import silent_share as package_version

share = silent_share if getattr(answer, "about", "") is None else package_version  # yours, once it passes
generator = torch.Generator().manual_seed(0)
for chance in (0.02, 0.22, 0.98):
    for size in (2, 8):
        drawn = (torch.rand(500 * size, generator=generator) < chance).float()
        measured = float(share(drawn, torch.arange(500).repeat_interleave(size)))
        expected = chance**size + (1 - chance) ** size
        print(f"p = {chance:.2f}, G = {size}: {measured:.2f}, expected {expected:.2f}")
        assert abs(measured - expected) < 0.05

# %% [markdown]
# **Cure** for groups that are all wrong: problems that the model solves *sometimes*, and where these are rare, a larger group. At p = 0.98 a high
# share is no illness: the problems are learnt.
#
# ## `minigrpo diagnose`
#
# `mg.diagnose` reads the metrics of a run, of this package or of TRL, and says what it sees, what that means and what to do. First it gets what
# a trainer logs, without the accuracy; in the last line it gets the accuracy of A as well:

# %%
# NBVAL_CHECK_OUTPUT
for letter, name in PATIENTS.items():  # of seed 0
    logged = [
        {key: value for key, value in row.items() if key != "accuracy"} for row in clinic.runs[name][0]
    ]
    print(f"{letter} {name:10} {mg.diagnose(logged).first.title}")
told = mg.diagnose(clinic.runs["leaky"][0]).first.title
print("A, its accuracy logged too:", told)
assert told == "The reward rises and the true score falls."

# %% [markdown]
# From the curves alone it names the fault of D and F, says of A and B where to look, and leaves C alone. E it only suspects: it cannot read what
# was cut off. **It knows more if you log a true score as well**, as the last line shows.
#
# The whole finding of patient D. In brackets: how sure it is, and whether something is wrong or the log alone cannot tell.

# %%
print(mg.diagnose(clinic.runs["high-rate"][0]).text)

# %% [markdown]
# ## Too late to cure?
#
# Patient D breaks after step 15 or so. **Write down:** you notice at step 40, lower the learning rate to the healthy value and go on from there.
# Does it recover? And if you go back to step 10? Both forks were made, with three seeds and up to step 80:

# %%
groups = {"as it was": "high-rate", "fork at step 10": "fork-at-10", "fork at step 40": "fork-at-40"}
mg.compare_runs(
    {label: clinic.runs[name] for label, name in groups.items()}, ["reward", "kl", "frac_reward_zero_std"]
)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
recovered = [accuracy > 0.9 for accuracy in means("fork-at-10", "accuracy")]
assert recovered == [True, True, False] and end("fork-at-40", "accuracy")[1] < 0.4
assert [rows[4]["kl"] > 1 for rows in clinic.runs["high-rate"]] == [False, False, True]
table(groups, ["accuracy", "kl", "frac_reward_zero_std"])

# %% [markdown]
# From step 40 none recovers: in most groups all answers are wrong, so next to nothing is left to learn from. From step 10 two seeds recover.
# The third has not by step 80, and its KL suggests why: at step 5 it was above 1 nat per token already. **So go back to before the KL climbs,
# not just to before the reward falls.**
#
# With a run of your own, in a terminal (a minute in all):
#
#     minigrpo train --learning-rate 2e-3 --max-steps 40 --save-steps 10 --output-dir runs/ill
#     minigrpo diagnose runs/ill                           # the findings, as above
#     minigrpo report runs/ill                             # one page: each token of a rollout, step by step
#     minigrpo fork runs/ill --at 10 --learning-rate 2e-4  # what if
#     minigrpo plot runs/ill runs/ill-at-10
#
# ## Mistakes that no curve shows
#
# Three mistakes that raise no error follow. Take the first: the mask leaves out the EOS, so it gets no gradient. Three seeds were trained like
# that for 80 steps. **Write down** what you expect of the length and of the share that is cut off, beside the same run done right.

# %%
# NBVAL_CHECK_OUTPUT
clinic.runs["all right"] = [mg.read_metrics(f"runs/seed-{seed}.jsonl")[:80] for seed in range(3)]
columns = ["accuracy", "completions/mean_length", "completions/clipped_ratio"]
assert end("eos-masked-out", columns[2])[1] < 0.05 and end("eos-masked-out", columns[1])[1] < 13
table({"done right": "all right", "EOS masked out": "eos-masked-out"}, columns)

# %% [markdown]
# The lengths are nearly the same, hardly anything is cut off, and the accuracy is only a few hundredths lower. This model knew when to stop
# before GRPO began. A model that does not know would get no gradient to learn it from.
#
# **So do not look for such mistakes in curves. Test for them, on one small batch, before you train.**
#
# ### EOS is not trained
#
# Many tokenizers pad with EOS, and a mask made by `ids != pad` then drops the EOS as well. **The test:** the mask's sums must be the lengths
# *with* EOS. (The answers are drawn at temperature 0.7, for the third test.)

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = mg.load_policy("tiny")
drawn = {"num_generations": 256, "max_completion_length": 16, "temperature": 0.7}
drawn |= {"generator": torch.Generator().manual_seed(0)}
rollout = mg.sample_completions(policy, tokenizer, ["4*2+9+7*1*4="], **drawn)
ids, counts = rollout.completion_ids[:6], rollout.completion_mask[:6]
padded = torch.where(counts, ids, tokenizer.eos_token_id)
print("lengths with EOS:", counts.sum(1).tolist())
print("ids != pad:      ", (padded != tokenizer.eos_token_id).sum(1).tolist())
assert torch.equal(mg.completion_mask(padded, tokenizer.eos_token_id), counts)

# %% [markdown]
# ### Padding in the mean
#
# If padding counts, the gradient of a completion depends on how long its neighbours are. **The test:** append ten columns of padding; the loss
# must not change.

# %%
# NBVAL_CHECK_OUTPUT
values, mask = torch.ones(4, 5), torch.arange(5) < torch.tensor([[5], [2], [2], [1]])
wide, wide_mask = (torch.nn.functional.pad(x, (0, 10)) for x in (values, mask))
print(
    f"mean over all places: {(values * mask).mean():.2f}, with more padding {(wide * wide_mask).mean():.2f}"
)
package = mg.aggregate(values, mask, "grpo"), mg.aggregate(wide, wide_mask, "grpo")
print(f"the package's mean:   {package[0]:.2f}, with more padding {package[1]:.2f}")
assert package[0] == package[1]

# %% [markdown]
# ### The temperature is missing from the log-probs
#
# The answers above were sampled at temperature 0.7. **The test:** before any update, the ratio of every token must be 1.

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    logits = mg.policy_logits(policy, rollout)
for temperature in (1.0, 0.7):
    scored = mg.token_logprobs(logits, rollout.completion_ids, temperature)
    ratio = (scored - rollout.logprobs)[:, 0].exp()
    print(
        f"scored at {temperature}: first token's ratio {ratio.min():.2f} to {ratio.max():.2f}, mean {ratio.mean():.2f}"
    )

# %% [markdown]
# Scored at 1, the *mean* is nearly right all the same: over draws from q, the mean of p/q is 1 for any p. So compare the sampler's log-probs with
# the scored ones **token by token**.
#
# Exercise [ex05](../exercises/ex05_diagnosis.ipynb) has six mistakes of this kind that were shipped in code that people use.
#
# ## The table
#
# | you see | it is | what decides | cure |
# |---|---|---|---|
# | reward high, answers wrong | a leaky reward | accuracy by another rule; ten completions | parse strictly |
# | reward 0, groups agree, gradient 0 | right answers that are not paid, or problems too hard | are some of ten completions right? | mend the parser; easier problems |
# | entropy 0, groups agree, reward high | success | the reward | stop; harder problems |
# | reward falls, KL climbs | learning rate too high | `kl` around the fall | a lower rate, from a checkpoint before the KL climbs |
# | nearly the same answer to everything | collapse; here the learning rate is far too high | groups that agree *and* a low reward; ten completions | a lower rate, from the start |
# | reward flat, answers get shorter | the good answers are cut off | `clipped_ratio` in the first steps | a longer limit |
# | nothing, or a run that is a little worse | a mistake in mask, temperature or mean | a test on one batch | mend it, and keep the test |
#
# ## In the words of the field
#
# A policy that earns its reward by something other than what you meant shows **reward hacking** or **specification gaming**; "when a measure becomes a target, it ceases to be a good measure" is
# **Goodhart's law**. One that has stopped exploring has suffered **entropy collapse** or **mode collapse**. Silent groups are the **zero-variance** (or *zero-advantage*) groups that DAPO's **dynamic sampling** throws
# away and draws again. The loss of a skill that was there before is **catastrophic forgetting**.
#
# ## Questions
#
# 1. `frac_reward_zero_std` is 0.9. Which second number do you need before you worry?
#    <details><summary>Answer</summary>The reward. Near 1: the problems are learnt. Near 0: they are too hard, the answers are not recognised, or the policy has collapsed; ten completions
#    tell which.</details>
# 2. A reward gives 0.1 extra for every completion that contains '<'. Which curve will look fine, whatever happens?
#    <details><summary>Answer</summary>The reward. If a bare '<' is the cheapest way to the bonus, accuracy suffers, and only a measure that leaves the bonus out can show it.</details>
# 3. The mean ratio is 1.00, and still the temperature is missing. Which statistic would have shown it?
#    <details><summary>Answer</summary>The largest difference, or the mean <i>absolute</i> difference, between the sampler's and the scored log-probs. Neither can cancel to 0.</details>
#
# **Exercises:** [ex05](../exercises/ex05_diagnosis.ipynb) and [ex08](../exercises/ex08_rewards.ipynb). **Next:** [06 · KL](06_kl.ipynb).
