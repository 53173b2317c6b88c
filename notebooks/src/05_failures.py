# %% [markdown]
# # 05 · Failures: a clinic
#
# **You will be able to** look at the curves of a run and ten of its completions, order the one test that decides, and say what is wrong;
# find mistakes that no curve shows; and leave a healthy run alone.
#
# **You need** notebooks [01](01_logprobs.ipynb) to [04](04_training.ipynb). **Time** 30 minutes, with the function that you write.
#
# **Worth the trip:** one of the six patients earns nearly the highest reward there is, on all three seeds, and of its last 1,920 answers almost none
# is right. Another one is perfectly well.

# %%
import matplotlib.pyplot as plt
import torch

import minigrpo as mg
from minigrpo.view.controls.clinic import PATIENTS, open_clinic, plot_patient, read_clinic, ten_completions

plt.rcParams["figure.dpi"] = 66
torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores
clinic = read_clinic()  # each run three times, seeds 0, 1 and 2, 120 steps

# %% [markdown]
# ## Six patients
#
# Each patient is a run like those of notebook 04 with **one or two settings changed**, or none. You see the mean and the range of three seeds
# (orange) beside three healthy runs (blue), and below them ten completions of the last rollout of seed 0 with their rewards.
#
# Do it in this order: look at the reward; ask *how* it was earned (length, completions); ask whether there is anything left to learn from (groups that
# agree); then say **what you would test next**, and only then what is wrong. Write down a guess for each patient before you unfold anything.
#
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
# **The reward has a leak.** It pays 1 wherever the right digit occurs *anywhere* in the completion, and completions end after 10 tokens. So the model
# writes steps until it is cut off, one of which is the digit it is paid for, and never answers. No number made from the reward can show this. An accuracy
# measured by another rule does, and so do ten completions, *read*. **Cure:** parse strictly, pay nothing for what cannot be parsed, and give a thought the
# thirteen tokens that it takes.
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
# A reward of 0 throughout has two possible causes: the answers are all wrong, or they are not recognised. Is any of the ten right? Work out `2*1-6-1-4+1=` from left to right.
#
# </details>
# <details><summary>What is wrong</summary>
#
# **Right answers are not paid.** The reward's parser looks for `\\boxed{6}`, and this model writes `6`. Every reward is 0, every group agrees, every advantage is 0: there
# is no gradient at all, and the policy of step 120 is the one of step 1. **Cure:** a parser that knows the form in which the model answers, or a prompt that asks for the parser's. Print the
# rewards of ten right answers *before* you train.
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
# **Nothing.** Nearly all groups agree at the end, and the entropy is close to 0. **The same two numbers mean success with a high reward, and death with a low one.**
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
# **The learning rate is too high**: 0.002, ten times the usual one. At first the reward rises, on two seeds faster than in any healthy run. Then updates throw the policy further than
# their rollouts can vouch for, and the skill itself is damaged: two seeds go on thinking in steps that are made up, the third stops thinking. The warning is a **KL that climbs while the reward falls**. **Cure:** a lower rate, from a checkpoint *before* the fall.
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
# **The good answers are cut off.** A thought has thirteen tokens, and `max_completion_length` is 8. One completion in twenty does not look like much, but these were the thoughts, and
# every one of them earned 0. So the model *learnt not to think*, and the share that is cut off **falls**, as if the trouble were going away. **Cure:** a longer limit.
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
# **The learning rate is far too high**: 0.005, twenty-five times the usual one. The KL explodes within ten steps, and what is left says much the same to every
# problem: **policy collapse**. All groups agree, so nothing is learnt any more, and it does not recover. **Cure:** a lower rate, from the start.
#
# </details>
#
# Here you can order any test for any patient, guess, and be told:

# %%
open_clinic(clinic)

# %% [markdown]
# ## The answers, three seeds each
#
# (Do not scroll down before you have guessed.) Means of the last ten steps, the lowest and the highest of three seeds. *Right* is measured by the strict rule, whatever the
# patient was paid for.


# %%
def end(name, metric):
    """The mean of a metric over the last ten steps, lowest and highest of the seeds."""
    means = [sum(row[metric] for row in rows[-10:]) / 10 for rows in clinic.runs[name]]
    return min(means), max(means)


def table(names, metrics):
    print(f"{'':22}" + "".join(f"{metric.split('/')[-1]:>22}" for metric in metrics))
    for name in names:
        ranges = [end(name, metric) for metric in metrics]
        print(f"{name:22}" + "".join(f"{low:13.2f} to {high:5.2f}" for low, high in ranges))


# %%
# NBVAL_CHECK_OUTPUT
print("patients:", PATIENTS)
table(PATIENTS.values(), ["reward", "accuracy", "kl", "frac_reward_zero_std"])
assert end("leaky", "reward")[0] > 0.9 and end("leaky", "accuracy")[1] < 0.1
assert all(end(name, "accuracy")[1] < 0.4 for name in PATIENTS.values() if name != "healthy")
assert end("healthy", "accuracy")[0] > 0.9  # and this is the cure of every other one

# %% [markdown]
# The cure of each patient is the setting of the healthy run: a limit of 16 tokens, the strict reward, a learning rate of 2e-4. Its three seeds are the
# row *healthy*.
#
# ## Silent groups
#
# B never learns and F has stopped, because their groups agree. `reward_std`, the spread over the whole rollout, does not show it. **Write down:** two groups of four, one all wrong, one all
# right. What is the standard deviation of the eight rewards, and what are the eight advantages?

# %%
# NBVAL_CHECK_OUTPUT
rewards = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
advantages = mg.compute_advantages(rewards, groups)
print(f"reward_std {rewards.std():.2f}, advantages {advantages.tolist()}")
assert not advantages.any()

# %% [markdown]
# As large as it can be, and no gradient at all. So you need another number:
#
# ### You write it
#
# `silent_share(rewards, group_ids)`: (B,), (B,) -> the share of *groups* whose rewards are all equal. Groups may differ in size, and their rows come in any order. By hand: the eight
# rewards above give 1; if one of the wrong answers were right, 0.5.


# %%
def silent_share(rewards, group_ids):
    raise NotImplementedError


# %%
answer = mg.check(silent_share)
answer

# %% [markdown]
# `mg.hint("05.1")` helps.
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
# In the log it is called `frac_reward_zero_std`. How large is it to be expected, if each answer is right with chance p? A group of G is silent with chance $p^G + (1-p)^G$:

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
# **Cure** for groups that are all wrong: problems that the model solves *sometimes*; where these are rare, a larger group. At p = 0.98 a high share is no illness: the problems are learnt.
#
# ## `minigrpo diagnose`
#
# You need not do this alone. `mg.diagnose` reads the metrics of a run, of this package or of TRL, and says what it sees, what that means and what to do. Here it sees what the
# trainer logs, without the strict accuracy:

# %%
# NBVAL_CHECK_OUTPUT
for letter, name in PATIENTS.items():  # of seed 0
    logged = [
        {key: value for key, value in row.items() if key != "accuracy"} for row in clinic.runs[name][0]
    ]
    print(f"{letter} {name:10} {mg.diagnose(logged).first.title}")

# %% [markdown]
# From the curves alone it names A, B, D and F, and it leaves C alone. E it only suspects, because someone has to read what was cut off. **What it cannot do is read**: give it
# a true score as well, such as the strict accuracy, and it says of A that the reward rises while the true score falls. It also lists what looks alarming and is
# normal, such as a loss of 0, or a `clip_ratio` of 0 with one update per rollout.
#
# The whole finding of patient D:

# %%
print(mg.diagnose(clinic.runs["high-rate"][0]).text)

# %% [markdown]
# ## Too late to cure?
#
# Patient D breaks after step 15 or so. **Write down:** you notice at step 40, lower the learning rate to the healthy value and go on from there. Does it recover? And what if you go back to step 10? Both
# are a *fork* of the run, and both were made, with three seeds:

# %%
groups = {"as it was": "high-rate", "fork at step 10": "fork-at-10", "fork at step 40": "fork-at-40"}
mg.compare_runs(
    {label: clinic.runs[name] for label, name in groups.items()}, ["reward", "kl", "frac_reward_zero_std"]
)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
table(groups.values(), ["accuracy", "kl", "frac_reward_zero_std"])
recovered = [sum(row["accuracy"] for row in rows[-10:]) > 9 for rows in clinic.runs["fork-at-10"]]
assert recovered == [True, True, False] and end("fork-at-40", "accuracy")[1] < 0.4
assert [rows[4]["kl"] > 1 for rows in clinic.runs["high-rate"]] == [False, False, True]

# %% [markdown]
# From step 40 none recovers: most groups agree that all is wrong, so next to nothing is left to learn from. From step 10 two seeds recover completely. The third has not by step 80, and its KL says
# why: it was above 1 nat per token at step 5 already. **Go back to before the KL climbs, not to before the reward falls.**
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
# These raise no error. The first was trained with, three seeds, 80 steps, beside the same run done right: the mask leaves out the EOS, so nobody trains it. **Write down** what you expect of
# the length and of the share that is cut off.

# %%
# NBVAL_CHECK_OUTPUT
clinic.runs["all right"] = [mg.read_metrics(f"runs/seed-{seed}.jsonl")[:80] for seed in range(3)]
columns = ["accuracy", "completions/mean_length", "completions/clipped_ratio"]
table(["all right", "eos-masked-out"], columns)
assert end("eos-masked-out", columns[2])[1] < 0.05 and end("eos-masked-out", columns[1])[1] < 13

# %% [markdown]
# The length is the same, hardly anything is cut off, and the accuracy lags by a few hundredths, for which you would never have blamed a mask. This model has known when to stop since its
# supervised training, so it does not miss the lesson. A model that does not know gets no gradient to learn it from.
#
# So do not look for such mistakes in curves. Test for them, on one small batch, before you train.
#
# ### EOS is not trained
#
# Many tokenizers pad with EOS, and a mask made by `ids != pad` then drops the EOS as well. The test: the mask's sums must be the lengths *with* EOS.

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = mg.load_policy("tiny")
lengths, generator = {"num_generations": 256, "max_completion_length": 16}, torch.Generator().manual_seed(0)
drawn = lengths | {"generator": generator, "temperature": 0.7}
rollout = mg.sample_completions(policy, tokenizer, ["4*2+9+7*1*4="], **drawn)
ids, counts = rollout.completion_ids[:6], rollout.completion_mask[:6]
padded = torch.where(counts, ids, tokenizer.eos_token_id)
print("lengths with EOS:", counts.sum(1).tolist())
print("ids != pad:      ", (padded != tokenizer.eos_token_id).sum(1).tolist())
assert torch.equal(mg.completion_mask(padded, tokenizer.eos_token_id), counts)

# %% [markdown]
# ### Padding in the mean
#
# If padding counts, the gradient of a completion depends on how long its neighbours are. The test: append ten columns of padding; the loss must not change.

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
# The rollout above was sampled at temperature 0.7. Before any update, the ratio of every token must be 1:

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
# Scored at 1, the *mean* is nearly right all the same: the mean of p/q over draws from q is 1 for any p. The test is to compare the sampler's log-probs with the scored
# ones **token by token**.
#
# Exercise [ex05](../exercises/ex05_diagnosis.ipynb) has six such mistakes, as they were shipped.
#
# ## The table
#
# | you see | it is | what decides | cure |
# |---|---|---|---|
# | reward high, answers wrong | a leaky reward | accuracy by another rule; ten completions | parse strictly |
# | reward 0, groups agree, gradient 0 | rewards that are never paid, or problems too hard | are some of ten completions right? | mend the parser; easier problems |
# | entropy 0, groups agree, reward high | success | the reward | stop; harder problems |
# | reward falls, KL climbs | learning rate too high | `kl` and `grad_norm` around the fall | lower it, from a checkpoint before the fall |
# | always the same answer | collapse | entropy near 0 *and* a low reward | lower it, from the start |
# | reward flat, answers get shorter | the good answers are cut off | `clipped_ratio` in the first steps | a longer limit |
# | nothing, only slower or worse | a silent mistake in mask, temperature or mean | a test on one batch | the test, kept |
#
# ## In the words of the field
#
# A policy that is paid for something else than what you meant, and does it, shows **reward hacking** or **specification gaming**; "when a measure becomes a target, it ceases to be a good measure" is
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
# **Exercise:** [ex05](../exercises/ex05_diagnosis.ipynb). **Next:** [06 · KL](06_kl.ipynb).
