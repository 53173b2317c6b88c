# %% [markdown]
# # 00 · One picture: you are the reward
#
# **You will be able to** say what GRPO does in one sentence, show it in one picture, run it, and explain why a model that is only told
# *right* or *wrong* begins to think.
#
# **You need** Python and a little PyTorch. No network, no GPU. **Time** 25 minutes, with the function that you write.
#
# **Worth the trip:** first *you* are the reward, and a few clicks change a language model's mind. Then a function of yours takes your
# place, and in a few seconds a GPT-2 that hardly ever thinks before it answers does so nearly always.

# %%
from collections import Counter

import matplotlib.pyplot as plt
import torch

import minigrpo as mg
from minigrpo.view.controls.be_the_reward import be_the_reward, play, plot_game

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %% [markdown]
# ## One group in one picture
#
# The task is *clock arithmetic*: work from left to right and keep only the last digit, as on a clock with ten hours. `4*2` is 8;
# `8+9` is 17, so 7; `7+7` is 14, so 4; `4*1` is 4; `4*4` is 16, so **6**. The model, a small GPT-2, answered `4*2+9+7*1*4=` four times:

# %%
example = mg.worked_example()
mg.plot_group(example)
plt.show()
assert sum(example.before[digit] for digit in "13579") < 0.001  # after *4 only even digits can be right

# %% [markdown]
# You will know every part of this picture by lesson 03. For now, read it from left to right:
#
# - **Completions.** One row per answer, one square per token; ⏎ is the end. The first answer **thinks**: it shows its working,
#   in `<...>`, before its digit. The other three guess at once. (The small numbers are lesson 01.)
# - **Reward.** 1 if the answer is right, 0 if not. The first worked it out; the last was lucky.
# - **Advantage.** Better (blue) or worse (orange) than the average of this group.
# - **Push.** How hard each token is made likelier (up) or less likely (down). The tokens of an answer share its push, so each
#   token of a long answer gets less.
# - **First token.** The chance of each first token before the step and after it. `6` and `<` have become likelier, `4` and `8`
#   less likely. (`2` and `0` were not drawn; they gain a share of what `4` and `8` lose. The model has learnt that after `*4`
#   no odd digit is right.)
#
# On this one problem the guess `6` gains more than thinking does. Over many problems it is the other way round, as you will
# see.
#
# That is one step of GRPO, *Group Relative Policy Optimization* ([DeepSeekMath](https://arxiv.org/abs/2402.03300), 2024). In
# one sentence:
#
# > Let the model answer each problem several times; make the answers that were better than the average of their group likelier
# > and the others less likely, in small steps.
#
# The model that is trained is called the **policy**, and the answers that it has just written a **rollout**.
#
# ## You are the reward
#
# Below are eight answers to the same problem. Mark those that you want to reward as *right*, then press **step**: the policy's
# weights are updated once, and it gives eight new answers. Watch the bars of the first token.
#
# **Write down** first what will come of each of these tries. Press *start again* between them.
#
# 1. For a dozen steps, reward every right answer (it is 6).
# 2. For a dozen steps, reward only answers that begin with `<`.
# 3. Press *step* with all eight wrong.

# %%
be_the_reward()

# %% [markdown]
# In case no buttons are shown here, this is what comes of the first try (upper row) and of the second (lower row):

# %%
right = play(lambda completion: completion.endswith("6"))
thinks = play(lambda completion: completion.startswith("<"))
_, axes = plt.subplots(2, 2, figsize=(9, 5), layout="constrained", width_ratios=(1, 1.2))
for row, game, rule, winner in zip(axes, (right, thinks), ("right answers", "thinking"), "6<", strict=True):
    plot_game(game, axes=row)
    row[0].set_title(f"{rule} rewarded: first token, start → now", fontsize=8.5, loc="left")
    row[1].set_title(f"{rule} rewarded: {winner} wins", fontsize=8.5, loc="left")
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for name, game in (("right", right), ("thinking", thinks)):
    print(f"rewarded for {name:8}: '6' {game.now['6']:.2f}, '<' {game.now['<']:.2f}")
assert right.now["6"] > 0.9 and thinks.now["<"] > 0.9

# %% [markdown]
# Each time the model learnt what it was rewarded for. But **on a single problem, rewarding right answers teaches the model the
# answer, not the method.** Thinking is right as well and earns the same, but `6` is three times as frequent as `<` at the
# start, so it wins.
#
# (All eight wrong? Then there is nothing to compare, and nothing moves.)
#
# On other problems `6` is mostly wrong. How often is the best single guess right, over many problems?

# %%
# NBVAL_CHECK_OUTPUT
task = mg.clock_task()
(digit, count), *_ = Counter(task.train["answer"]).most_common()
share = count / len(task.train)
print(f"the best single guess is {digit}: right on {share:.0%} of {len(task.train)} problems")
assert share < 0.2

# %% [markdown]
# So a fixed guess earns little. If thinking is right more often, it is enough to reward right answers on *many* problems. Is
# it, and how often does the model think?
#
# ## What was planted
#
# The model is a real GPT-2 with two layers and 0.27 million weights, pretrained on clock problems with right answers. At first
# a quarter of those answers showed their working, so that the model learnt how. Towards the end only **6 of 100** did, so that
# it now rarely thinks ([model card](../minigrpo/assets/tiny-gpt2/README.md)). Here is what came of it, on 500 **held-out**
# problems, which are kept apart from training:

# %%
# NBVAL_CHECK_OUTPUT
policy, tokenizer = mg.load_policy("tiny")
before = mg.evaluate(policy, tokenizer, task, num_generations=4)
print(f"right when sampled           {before['accuracy']:.2f}")
print(f"right when greedy            {before['accuracy_greedy']:.2f}")
print(f"thinks first, when sampled   {before['thinking']:.2f}")
assert abs(before["accuracy"] - 0.22) < 0.02 and abs(before["thinking"] - 0.06) < 0.02

# %% [markdown]
# *Sampled* means that each token is drawn with the model's own probabilities; *greedy* takes the likeliest token each time. Does the model
# think when it is greedy?

# %%
# NBVAL_CHECK_OUTPUT
problems = task.held_out.select(range(100))
once = {"num_generations": 1, "temperature": 0, "max_completion_length": 16}
greedy = mg.sample_completions(policy, tokenizer, problems["prompt"], **once)
print("greedy, of 100 problems it thinks first on", sum(map(mg.thinks_first, greedy.completions)))
assert not any(map(mg.thinks_first, greedy.completions))

# %% [markdown]
# No. And what is the skill worth? The same problems, eight samples each:

# %%
# NBVAL_CHECK_OUTPUT
draw = {"num_generations": 8, "max_completion_length": 16, "generator": mg.seeded(0)}
rollout = mg.sample_completions(policy, tokenizer, problems["prompt"], **draw)
answers = [answer for answer in problems["answer"] for _ in range(8)]
earned = torch.tensor(mg.exact_answer(rollout.prompts, rollout.completions, answer=answers))
thought = torch.tensor([mg.thinks_first(completion) for completion in rollout.completions])
print(f"right when it thinks {earned[thought].mean():.1f}, when it does not {earned[~thought].mean():.1f}")
assert earned[thought].mean() > 0.95 and earned[~thought].mean() < 0.25

# %% [markdown]
# Thinking is rare, but nearly always right. Guesses are common, but mostly wrong: a guess must do all five operations at once,
# in one pass through two layers.
#
# ## You write it: the reward
#
# Now hand your job to a function. A **reward function** takes lists and returns one number per completion, as in TRL, Hugging
# Face's library for such training, so what you write here runs there too. `answer` holds the right digit, as a text, for each
# completion. (You need neither `prompts` nor `columns`, the other columns of the data set.)
#
# A completion is right if it is that digit, or thoughts in `<...>` and then that digit. `"<8,7,4,4,6>6"` and `"6"` earn 1.0
# where the answer is `"6"`; `"16"`, `"maybe 6"` and `"<6>"` earn 0.0. Python's `re` is a help.
#
# Replace the line with `raise`, run the cell, then the check below it, until all cases pass.


# %%
def right_answer(prompts, completions, answer, **columns):
    raise NotImplementedError


# %%
found = mg.check(right_answer)
found

# %% [markdown]
# Stuck? Run `mg.hint("00.1")` in a new cell. It says more each time.
#
# <details><summary>Solution</summary>
#
# ```python
# import re
#
# def right_answer(prompts, completions, answer, **columns):
#     matches = [re.fullmatch(r"(<[^<>]+>)?(\d)", completion) for completion in completions]
#     return [float(match is not None and match[2] == right) for match, right in zip(matches, answer)]
# ```
#
# </details>

# %%
# yours, once it passes: found.about names the case that failed, and is None if all passed
mine = right_answer if getattr(found, "about", "") is None else mg.exact_answer
print("Rewarded by", "your function." if mine is right_answer else "the package's function.")

# %% [markdown]
# ## Train it
#
# Each step takes 8 problems and draws 8 answers to each; your function rewards all 64, and one update follows. The left curve
# is the mean reward, which is the share of right answers. Each dot is one step, and the line is a running mean. **Write
# down:** will the answers become shorter or longer?

# %%
config = mg.GRPOConfig(max_steps=100)
state = mg.TrainState.start(*mg.load_policy("tiny"), config)
steps = mg.train(state, task.train, [mine], config)
rows = list(mg.watch(steps, ["reward", "completions/mean_length"], every=10))
assert len(state.batch.rollout.completions) == 8 * 8

# %% [markdown]
# Reward and length rise *together*, because the long answers, those that think, are right more often. The same was reported of
# [DeepSeek-R1](https://arxiv.org/abs/2501.12948), which was trained in this way.
#
# On the held-out problems, before and after:

# %%
after = mg.evaluate(state.model, tokenizer, task, num_generations=2)
for name, scores in (("before", before), ("after ", after)):
    sampled, greedy, thinking = (scores[key] for key in ("accuracy", "accuracy_greedy", "thinking"))
    print(f"{name}   sampled {sampled:.2f}   greedy {greedy:.2f}   thinks first {thinking:.2f}")
assert min(after["accuracy"], after["accuracy_greedy"], after["thinking"]) > 0.9

# %% [markdown]
# And on the problem of our picture? There too the first token is now `<`:

# %%
from minigrpo.view.controls.one_step import first_token

prompt = tokenizer([example.prompt], return_tensors="pt")
with torch.no_grad():
    trained = first_token(tokenizer, state.model(**prompt).logits[:, -1:])
_, ax = plt.subplots(figsize=(6, 2.7), layout="constrained")
mg.draw_first_token(
    ax, example.before, trained, title="after 100 steps on many problems it thinks here too"
)
plt.show()
assert trained["<"] > 0.9 > 0.1 > example.before["<"]

# %% [markdown]
# **GRPO has not taught the model to think. It found a skill that was there and rare, because the answers that used it were rewarded, and
# made it the habit.**
#
# One warning: a loss that moves is no evidence that a model learns. In [07](07_triples.ipynb) you take apart a few lines of
# code that print such a loss and train nothing, whatever the rewards are.
#
# ## The course
#
# | lesson | what you learn | lit in the picture |
# |---|---|---|
# | **00** | one picture, and you are the reward | everything |
# | [01](01_logprobs.ipynb) | log-probs: what the policy thinks of its own words | the squares |
# | [02](02_policy_gradient.ipynb) | policy gradient: from rewards to advantages | reward and advantage |
# | [03](03_loss.ipynb) | the loss: ratio, clip, mean | push |
# | [04](04_training.ipynb) | the loop: train, stop, resume, compare seeds | first token, step by step |
# | [05](05_failures.ipynb) | the clinic: tell from its curves what goes wrong | the run as a whole |
# | [06](06_kl.ipynb) | KL: how far from where it began | first token against its start |
# | [07](07_triples.ipynb) | learning from scored records, and a reward model | reward |
# | [08](08_variants.ipynb) | Dr. GRPO, DAPO, GSPO, CISPO | push |
# | [09](09_a_real_model.ipynb) | a real language model, and on to TRL | everything, with words for tokens |
#
# ## In the words of the field
#
# Reinforcement learning from rewards that a program can check is **RLVR** (*verifiable rewards*); from
# rewards that people give, by way of a model of their taste, **RLHF**. Pretraining followed by examples of what is wanted is **SFT**,
# *supervised fine-tuning*. What you did with the buttons is **on-policy** learning: every answer came from the policy as it was at
# that moment. That a skill must be sampled before it can be rewarded is the problem of **exploration**.
#
# ## Questions
#
# 1. The model is rewarded only for the answer. Why does it come to think?
#    <details><summary>Answer</summary>Answers that think are right more often, so they are above the average of their group. Making them likelier makes their first token, <code>&lt;</code>, likelier.</details>
# 2. Why did rewarding right answers teach `6` on one problem, and thinking on thousands?
#    <details><summary>Answer</summary>On one problem a guess that is right once is right always. Over many problems even the best fixed guess is right one time in seven, and thinking is right nearly always.</details>
# 3. Would it have learnt to think if its pretraining had never shown it?
#    <details><summary>Answer</summary>Not in this way. An answer that is never sampled is never rewarded; GRPO moves probability among things that the policy already does now and then.</details>
#
# **Next:** [01 · Log-probs](01_logprobs.ipynb). **Exercises** begin with [ex01](../exercises/ex01_logprobs.ipynb), after lesson 01.
