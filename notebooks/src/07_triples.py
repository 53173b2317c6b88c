# %% [markdown]
# # 07 · Triples: learning from scored records
#
# **You will be able to** train a policy on (prompt, response, reward) records without sampling anything, say what the optimum looks like before you train, tell
# the estimator that works from the one that does not, collect scores from people, and train a reward model on them.
#
# **You need** notebooks [02](02_policy_gradient.ipynb) to [04](04_training.ipynb). **Time** 30 minutes.
#
# **Worth the trip:** the records that the snippet of [notebook 00](00_one_picture.ipynb) learnt nothing from take the share of good answers from 0.3 to 0.95 in 60 updates.

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from transformers.utils import logging

import minigrpo

torch.set_num_threads(1)  # so that this notebook gives the same numbers on every number of cores

# %%
from minigrpo import (
    GRPOConfig,
    TrainState,
    evaluate,
    load_policy,
    load_triples,
    prepare,
    sample_completions,
    sums_task,
    train,
)

logging.disable_progress_bar()  # of saving a file
policy, tokenizer = load_policy("tiny")
task = sums_task()

# %% [markdown]
# ## The records
#
# Often there is no checker, but there are answers that people have scored. The bundled model also answers sums, as careless people do: in full, barely, with a guess, or with the
# question again. 400 of its own answers to 100 questions were scored: **5** for the full equation and right, **3** for the bare number and right, **1** for the rest.

# %%
# NBVAL_CHECK_OUTPUT
records = load_triples("bundled")
for record in records.select(range(4)):
    print(f"{record['prompt']!r:18} {record['response']!r:16} {record['reward']}")
scores = torch.tensor(records["reward"])
print({score: int((scores == score).sum()) for score in (5.0, 3.0, 1.0)})

# %% [markdown]
# A file of your own (JSONL, CSV, Parquet) with the columns prompt, response, reward is read by the same function; what cannot be used is refused by row, never dropped.

# %%
# NBVAL_CHECK_OUTPUT
from minigrpo import BadInput

try:
    load_triples([{"prompt": "1 + 1 = ?", "respons": "2", "reward": 5}])
except BadInput as error:
    print(error)

# %% [markdown]
# ## The batch is the same
#
# **Claim: a batch of records differs from a rollout only in where the completions come from.** `logged_rollout` gives the `Rollout` of notebook 01: ids, masks, groups. Responses that share
# a prompt are a group, of any size; EOS counts.

# %%
# NBVAL_CHECK_OUTPUT
rollout = minigrpo.logged_rollout(tokenizer, records[:6], longest=256)
print(rollout.completions)
print(
    "group_ids", rollout.group_ids.tolist(), " tokens that count", rollout.completion_mask.sum(1).tolist()
)

# %% [markdown]
# ### Of a chat, only what the assistant said
#
# A record may also be a conversation. The reward is for what the assistant wrote; the user's words are context. The mask says which tokens count, and each of the assistant's turns ends with its EOS.

# %%
# NBVAL_CHECK_OUTPUT
chat = [
    {"role": "user", "content": "1 + 1 = ?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 + 3 = ?"},
    {"role": "assistant", "content": "2 + 3 = 5"},
]
pair = load_triples([{"messages": chat, "reward": 5}, {"messages": chat[:2], "reward": 3}])
row = minigrpo.logged_rollout(tokenizer, pair[:1], longest=256)
print(repr(row.prompts[0]))
counted = row.completion_ids[0][row.completion_mask[0]]
print("counts:", repr(tokenizer.decode(counted)))

# %% [markdown]
# ## What is the best that can be reached?
#
# The objective is E[R(y|x) − β KL(π ‖ π_ref)]. **Claim: its optimum is known, before any training: π\*(y|x) = π_ref(y|x) exp(R/β) / Z(x).** Each answer keeps its old probability, times exp(R/β). Check
# it on a reference with three kinds of answers: no other distribution that we try has a higher objective.

# %%
reference, beta = torch.tensor([0.33, 0.25, 0.42]).double(), 2.0
rewards = torch.tensor([5.0, 3.0, 1.0]).double()
optimum = reference * torch.exp(rewards / beta)
optimum = optimum / optimum.sum()


def objective(p):
    return (p * rewards).sum() - beta * (p * (p / reference).log()).sum()


# %%
# NBVAL_CHECK_OUTPUT
others = torch.rand(1000, 3, generator=minigrpo.seeded(0), dtype=torch.float64)
others = others / others.sum(1, keepdim=True)
assert all(objective(p) <= objective(optimum) for p in others)
print("optimum at beta 2:", [round(p, 2) for p in optimum.tolist()])

# %% [markdown]
# β decides how sharply. At β = 0.4, our default for scores from 1 to 5, a bare number is exp(-5) = 0.007 times as likely, beside a full equation, as it was:

# %%
# NBVAL_CHECK_OUTPUT
for beta in (10.0, 2.0, 1.0, 0.4):
    p = reference * torch.exp(rewards / beta)
    print(
        f"beta {beta:4}: full {p[0] / p.sum():.3f}   bare {p[1] / p.sum():.3f}   rest {p[2] / p.sum():.3f}"
    )

# %% [markdown]
# ## Estimator 1, *weighted*: project the policy onto the optimum
#
# The records were drawn from π_ref. Weighted by exp(R/β), they are draws from π\*. So raise their log-likelihood, each with its weight: that moves π towards π\* (it minimises KL(π\* ‖ π)). For
# records from elsewhere, the distribution that wrote them takes π_ref's place.

# %%
# NBVAL_CHECK_OUTPUT
weights = minigrpo.optimum_weights(scores, beta=0.4)
by_hand = torch.exp((scores - 5.0) / 0.4)
torch.testing.assert_close(weights, by_hand / by_hand.mean())
for score in (5.0, 3.0, 1.0):
    print(f"score {score}: weight {weights[scores == score][0]:.4f}")

# %% [markdown]
# `prepare` puts these weights where the advantages go; ratio 1, no clip, and no KL in the loss, since β is in the weights already. Everything else is the loop of notebook 04.

# %%
config = GRPOConfig.for_triples()
state = TrainState.start(*load_policy("tiny"), config)
for metrics in minigrpo.watch(
    train(state, prepare(records, config), [], config), ["weighted_logprob", "kl"], every=10
):
    pass

# %%
before = evaluate(policy, tokenizer, task, max_completion_length=24)
after = evaluate(state.model, tokenizer, task, max_completion_length=24)
print(f"full equations on unseen questions: {before['accuracy']:.2f} -> {after['accuracy']:.2f}")
assert before["accuracy"] < 0.45 and after["accuracy"] > 0.92

# %%
# NBVAL_CHECK_OUTPUT
greedy = {"num_generations": 1, "max_completion_length": 24, "temperature": 0.0}
print(sample_completions(state.model, tokenizer, ["1 + 1等于几?", "1 + 1 = ?"], **greedy).completions)

# %% [markdown]
# The KL in the figure is measured on **fresh samples** of the policy. At the records' tokens it would be another number: they are not what the policy writes now.
#
# ### Before, after, predicted
#
# Sample every held-out question, before and after, and compare with what the formula predicts from the shares before.


# %%
def scored_samples(model, num_generations, seed):
    """Answers to the unseen questions, and their scores by the rubric."""
    drawn = sample_completions(
        model,
        tokenizer,
        task.held_out["prompt"],
        num_generations=num_generations,
        max_completion_length=24,
        generator=minigrpo.seeded(seed),
    )
    answers = [answer for answer in task.held_out["answer"] for _ in range(num_generations)]
    return drawn, task.reward(drawn.prompts, drawn.completions, answer=answers)


# %%
def shares(model):
    _, scored = scored_samples(model, 16, seed=9)
    return {
        name: scored.count(score) / len(scored)
        for name, score in (("full", 5.0), ("bare", 3.0), ("rest", 1.0))
    }


old, new = shares(policy), shares(state.model)

# %%
unnormalised = {
    kind: old[kind] * math.exp(score / 0.4) for kind, score in (("full", 5.0), ("bare", 3.0), ("rest", 1.0))
}
predicted = {kind: value / sum(unnormalised.values()) for kind, value in unnormalised.items()}
minigrpo.plot_shares({"before": old, "after": new, "predicted optimum": predicted})
plt.show()
assert abs(new["full"] - predicted["full"]) < 0.06

# %% [markdown]
# What is missing from the optimum is mostly arithmetic: equations in full with a wrong sum. The optimum takes those for 1s; 400 records are too few to mend them.
#
# ## Length bias
#
# **Claim: the log-likelihood of a response is a *sum* over its tokens; a mean makes short responses too heavy.** Per token, the bare number `2` (2 tokens with EOS) would weigh five times what the equation (10 tokens) weighs.
# Recorded runs, with the same records and steps; the script is [record_runs.py](../tests/benchmarks/record_runs.py).

# %%
runs = {
    "weighted, sum over tokens": [minigrpo.read_metrics("runs/records-weighted.jsonl")],
    "weighted, mean over tokens": [minigrpo.read_metrics("runs/records-weighted-mean.jsonl")],
    "policy gradient, writer unknown": [minigrpo.read_metrics("runs/records-policy-gradient.jsonl")],
    "policy gradient, ratio to the writer": [
        minigrpo.read_metrics("runs/records-policy-gradient-writer.jsonl")
    ],
}
axes = minigrpo.compare_runs(runs, ["accuracy", "kl", "completions/mean_length"])
axes[0].axhline(predicted["full"], color="black", linewidth=0.8)
axes[0].text(110, predicted["full"] - 0.06, "predicted optimum", fontsize=8)
plt.show()
last = {name: rows[0][-1]["accuracy"] for name, rows in runs.items()}
assert last["weighted, sum over tokens"] > last["weighted, mean over tokens"] + 0.01
assert last["weighted, mean over tokens"] > last["policy gradient, ratio to the writer"] + 0.2

# %% [markdown]
# ## Estimator 2, *policy gradient*: off-policy, and what the ratio is for
#
# The obvious thing is to use the online loss on logged responses: advantage times ratio, with the exact KL at every response position. But these responses are **off-policy**: the policy that is trained did not draw them.
# The correction is called **importance sampling**: weigh each token by the ratio policy / *writer*. At the start the two are equal; as the policy moves, the ratio says how far it has come, and the clip ends the push where it leaves 0.8 to 1.2.
#
# Here we know the writer: the bundled model wrote the records, and it is the reference. `triples_writer="reference"` takes the ratio to it: what has been pushed far enough is left alone, in this pass and in all later ones.
# Most of the time you do not know how likely the writer made its answers. Then all you can do is take the ratio to the policy at the start of each pass over the file. It starts at 1 again in each pass, so the clip never acts against the writer.
# A bad answer stays in the file and is pushed down again in every pass, and what resembles it goes down with it: the share of full equations rises a little and then falls, while the KL grows.
#
# **Claim: without the ratio to the writer, the policy moves many times as far from it, and gives up what it had gained.**

# %%
for name in ("policy gradient, writer unknown", "policy gradient, ratio to the writer"):
    rows = runs[name][0]
    best = max(row["accuracy"] for row in rows if "accuracy" in row)
    print(
        f"{name:37} best {best:.2f}, last {rows[-1]['accuracy']:.2f}, KL {rows[-1]['kl']:.2f} nats per token"
    )
unknown, known = (runs[f"policy gradient, {name}"][0] for name in ("writer unknown", "ratio to the writer"))
assert unknown[-1]["kl"] > 4 * known[-1]["kl"]
assert max(row["accuracy"] for row in unknown if "accuracy" in row) > unknown[-1]["accuracy"] + 0.05
assert known[-1]["accuracy"] > unknown[-1]["accuracy"] + 0.05

# %% [markdown]
# *weighted* is still the better one here. The clip that keeps the policy gradient safe also ends it early: no token may become more than 1.2 times as likely as its writer made it, and the optimum wants more. The weights of *weighted*
# hold the whole way to the optimum, and none of them is negative.
#
# **The price of offline data.** No record shows what the policy would say *now*. If the records come from elsewhere, the policy is moved towards *their* writer, weighted. And from 400 records it also learns by heart which question happened to get which
# answers: with β = 2, where the optimum is not a corner, 4096 records come within 0.05 of the predicted shares, 400 do not (`tests/test_seed_system.py`).
#
# ## Scores from people
#
# `rate` shows one prompt and response at a time, with buttons and the keys 1 to 5. Each score is on disk before the next record appears; opening the file again goes on where it stopped; the file feeds
# `load_triples` and `minigrpo train --triples FILE` as it is.

# %%
from minigrpo import Ratings, rate

folder = Path(tempfile.mkdtemp())
rate(records.select(range(5)), folder / "mine.jsonl")

# %%
# NBVAL_CHECK_OUTPUT
ratings = Ratings(records.select(range(5)), folder / "by-hand.jsonl")  # what the widget calls
for score in (5, 1, 3):
    ratings.rate(score)
ratings.undo()
again = Ratings(records.select(range(5)), folder / "by-hand.jsonl")
print("scored:", again.done, "  next:", again.current["prompt"])
print(list(load_triples(folder / "by-hand.jsonl")["reward"]))

# %% [markdown]
# ## Scores from a model
#
# People are slow. A **reward model** learns their scores: the same GPT-2 with one number in place of the vocabulary. Trained by regression (the score itself), or by Bradley-Terry (which of two responses to one prompt is better:
# P(a over b) = sigmoid(score a − score b); `objective="bradley_terry"`).

# %%
from minigrpo import pair_accuracy, start_reward_model, train_reward_model
from minigrpo.reward_model import score_records, split_by_prompt
from minigrpo.view.plots import moving_mean

known, unseen = split_by_prompt(records)  # no prompt in both
reward_model, _ = start_reward_model("tiny")
untrained = pair_accuracy(reward_model, tokenizer, unseen)
for metrics in train_reward_model(reward_model, tokenizer, known, objective="regression"):
    pass
trained = pair_accuracy(reward_model, tokenizer, unseen)
print(f"pairs of unseen prompts in the right order: {untrained:.2f} -> {trained:.2f}")
assert trained > 0.8

# %% [markdown]
# Now it can be the reward of an online run, with the true score logged beside it. **Claim: the policy learns what the reward model *sees*, which is not quite what people meant.** The model knows the right form; it cannot add.


# %%
def learnt_reward(prompts, completions, **columns):
    rows = [
        {"prompt": p, "response": c, "messages": None} for p, c in zip(prompts, completions, strict=True)
    ]
    with torch.no_grad():
        return score_records(reward_model, tokenizer, rows).tolist()


config = GRPOConfig(  # the weight of the true score is 0: it is only logged
    task="sums", max_steps=200, max_completion_length=24, reward_weights=[1.0, 0.0]
)
online = TrainState.start(*load_policy("tiny"), config)
names = ["rewards/learnt_reward/mean", "rewards/sum_rubric/mean"]
rows = list(train(online, task.train, [learnt_reward, task.reward], config))

# %%
ax = minigrpo.plot_metric([rows], names[0], label="the reward model's score")
minigrpo.plot_metric([rows], names[1], ax=ax, label="the true score", color="#D55E00", linestyle="--")
ax.set(xlabel="step (optimizer updates)", ylabel="mean score of a batch")
ax.legend()
plt.show()
true = moving_mean([row[names[1]] for row in rows])
best = max(range(len(true)), key=true.__getitem__)
end = sum(row[names[1]] for row in rows[-10:]) / 10
print(
    f"true score: {true[0]:.1f} at first, {true[best]:.1f} at step {best + 1}, {end:.1f} in the last ten steps"
)
assert true[best] > true[0] + 1
assert end < true[best] - 1

# %% [markdown]
# At first both scores rise: the model learns to write full equations. Then the learnt score goes on rising, and the true one falls. What does the policy write? Sample the unseen questions, and look at the answers that the model scores above 4 and the rubric scores 1:


# %%
def fooled(model):
    """Answers to unseen questions that the reward model takes for good ones: (prompt, completion, its score), and their share."""
    drawn, true = scored_samples(model, 8, seed=4)
    seen = learnt_reward(drawn.prompts, drawn.completions)
    rows = zip(drawn.prompts, drawn.completions, seen, true, strict=True)
    found = [
        (prompt, completion, score) for prompt, completion, score, right in rows if score > 4 and right == 1
    ]
    return found, len(found) / len(true)


# %%
(_, share_before), (examples, share_after) = fooled(policy), fooled(online.model)
print(f"answers that fool it: {share_before:.1%} -> {share_after:.1%}\n")
print(f"{'prompt':18} {'completion':22} model's score   true score")
for prompt, completion, score in examples[:: max(1, len(examples) // 5)][:5]:
    print(f"{prompt:18} {completion:22} {score:13.1f}   {1.0:10.1f}")
assert share_after > 0.2 > 0.05 > share_before

# %% [markdown]
# It writes the right form around any number, because the form is all that the reward model can see, and what looks most like a good answer to it is not a right one. That is **reward hacking**, and it shows only because the
# true score is logged beside the learnt one. What helps: stop at the best true score on answers that people have checked, train the reward model on what the policy writes now, or hold the policy closer with a larger beta.
#
# ## Keep it
#
# A trained policy is an ordinary transformers model: `save_pretrained`, and it loads anywhere. On the command line all of this is
# `minigrpo train --triples`, `minigrpo generate --model runs/triples-0 "1 + 1等于几?"`, `minigrpo reward-model train` and `minigrpo train --task sums --reward-model FOLDER`.

# %%
# NBVAL_CHECK_OUTPUT
state.model.save_pretrained(folder / "policy")
tokenizer.save_pretrained(folder / "policy")
loaded, its_tokenizer = load_policy(str(folder / "policy"))
print(sample_completions(loaded, its_tokenizer, ["What is 2 + 3?"], **greedy).completions)

# %% [markdown]
# ## Questions
#
# 1. All 400 records have the score 4. What does *weighted* learn?
#    <details><summary>Answer</summary>Equal weights: it would imitate all records, which is what the policy already does. There is nothing to prefer, and <code>load_triples</code> refuses.</details>
# 2. You double all scores. What else must you change to get the same policy?
#    <details><summary>Answer</summary>Double beta: only R / beta enters.</details>
# 3. Why may the KL of the records' tokens be large while that of fresh samples is small?
#    <details><summary>Answer</summary>The policy hardly writes the bad records any more; at their tokens it differs much from the reference, but it never goes there.</details>
# 4. A reward model puts 97 % of pairs in the right order. Why can a policy still fool it?
#    <details><summary>Answer</summary>97 % is measured on answers that the old policy wrote. The new policy searches for answers that score high, and finds those where the model is wrong.</details>
#
# **Exercise:** [ex07](../exercises/ex07_triples.ipynb). **Next:** [08 · Further](08_variants.ipynb), the relatives of GRPO.
