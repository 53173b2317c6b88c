# %% [markdown]
# # 07 · Triples: learning from scored records
#
# **You will be able to** turn a training loop that learns nothing into one that does, line by line; learn from (prompt, response, reward) triples that somebody else wrote; say what
# off-policy means and what the importance ratio is for; and catch a policy that fools its reward model.
#
# **You need** notebooks [02](02_policy_gradient.ipynb), [03](03_loss.ipynb) and [06](06_kl.ipynb). **Time** 35 minutes.
#
# **Worth the trip:** a few plausible lines run, print a falling loss, and train nothing. Five repairs later the same objective, on the same records, takes the share of good answers from 0.3 to 0.95.

# %%
import copy
import tempfile

import matplotlib.pyplot as plt
import pandas as pd
import torch

import minigrpo as mg

torch.set_num_threads(1)  # the same numbers on every number of cores

# %%
mg.plot_group(mg.worked_example(), light=("completions", "rewards"))
plt.show()

# %% [markdown]
# Until now the policy wrote the completions, and a function scored them. In this lesson both come **from a file**.
#
# ## The records
#
# The bundled model also answers sums, as careless people do: the full equation, the bare number, a guess, or the question again. 400 of its own answers were scored: **5** for the full equation
# and right, **3** for the bare number and right, **1** for the rest.

# %%
# NBVAL_CHECK_OUTPUT
records = mg.load_triples("bundled")  # or your own file: JSONL, CSV, Parquet
scores = torch.tensor(records["reward"])
print({score: int((scores == score).sum()) for score in (5.0, 3.0, 1.0)})
shown = [i for score in (5.0, 3.0, 1.0) for i in (scores == score).nonzero().flatten()[[0, -1]].tolist()]
pd.DataFrame(records[shown])[["prompt", "response", "reward"]]

# %% [markdown]
# ## The snippet that trains nothing
#
# This course began with a few lines for such records, here in our words. They are meant to maximise $\mathbb{E}[R - \beta\,KL(\pi\,\|\,\pi_{ref})]$. They run, and the loss moves.
#
# **Write down:** what will they learn? (Where we divide by all the numbers there are, it had `reduce="batchmean"`. `reduce` is an old flag, any true value of which means just that.)

# %%
reference, tokenizer = mg.load_policy("tiny")


def snippet(model, batch, beta=0.4):
    inputs = tokenizer(batch["prompt"], return_tensors="pt", padding=True)
    policy_probs = torch.softmax(model(**inputs).logits, dim=-1)
    with torch.no_grad():
        ref_probs = torch.softmax(reference(**inputs).logits, dim=-1)
    kl = torch.nn.functional.kl_div(policy_probs.log(), ref_probs, reduction="sum") / ref_probs.numel()
    return -torch.tensor(batch["reward"]).mean() + beta * kl


# %% [markdown]
# Do not look at the loss. **Ask what its gradient depends on.** Three tests: is there a gradient at the start? Does it change if we turn all rewards around? If we swap the responses?

# %%
moved = copy.deepcopy(reference)  # at the start the KL has no gradient, so test a little away from it
with torch.no_grad():
    for number, weight in enumerate(moved.parameters()):
        weight.add_(0.02 * torch.randn(weight.shape, generator=mg.seeded(number)))


def gradient(loss_fn, model, batch):
    parts = torch.autograd.grad(loss_fn(model, batch), list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


# %%
batch = mg.prepare(records, mg.GRPOConfig.for_triples(triples_estimator="policy_gradient"))[:64]
turned = batch | {name: [-x for x in batch[name]] for name in ("reward", "advantage")}
swapped = batch | {"response": batch["response"][::-1]}


def three_tests(loss_fn):
    before = gradient(loss_fn, moved, batch)
    changes = [not torch.allclose(before, gradient(loss_fn, moved, b)) for b in (turned, swapped)]
    at_start = gradient(loss_fn, reference, batch).norm().item()
    seen = dict(zip(("sees rewards", "sees responses"), changes, strict=True))
    return {"gradient at start": round(at_start, 1), **seen}


# %%
# NBVAL_CHECK_OUTPUT
found = three_tests(snippet)
assert found == {"gradient at start": 0.0, "sees rewards": False, "sees responses": False}
found

# %% [markdown]
# Three times no. The reward is a plain number: no path leads from it to a weight. The response is never read. And the KL, the one thing with a gradient, starts at its minimum, points the wrong way (KL(reference ‖ policy), lesson 06), and is
# averaged over length *and vocabulary*, which makes β hundreds of times too weak.
#
# ## Four repairs
#
# **1. Read the response. 2. Let the reward weigh its log-prob**, which is the log-derivative trick of lesson 02: $\nabla \mathbb{E}[R] = \mathbb{E}[R\, \nabla \log \pi(y|x)]$.


# %%
def read(model, batch):
    """The rollout of lesson 01, from a file; its logits; the log-probs of its tokens, 0 where none counts."""
    rollout = mg.logged_rollout(tokenizer, batch, longest=256)
    logits = mg.policy_logits(model, rollout)
    logprobs = mg.token_logprobs(logits, rollout.completion_ids)
    return rollout, logits, logprobs * rollout.completion_mask


def repaired_2(model, batch):
    _, _, logprobs = read(model, batch)
    return -(torch.tensor(batch["reward"]) * logprobs.sum(1)).mean()


# %% [markdown]
# **3. Subtract a baseline.** All scores are positive, so repair 2 pushes *every* record up, the bad ones too. **4. The right KL**: KL(policy ‖ reference), per token that counts, made from log-probs.


# %%
def repaired_4(model, batch, beta=0.4):
    rollout, logits, logprobs = read(model, batch)
    with torch.no_grad():
        ref_logits = mg.policy_logits(reference, rollout)
    kl = mg.kl_exact(logits, ref_logits) * rollout.completion_mask
    advantage = torch.tensor(batch["advantage"])  # reward minus its prompt's mean, over the std
    return -(advantage * logprobs.sum(1) - beta * kl.sum(1)).mean()


# %%
# NBVAL_CHECK_OUTPUT
table = pd.DataFrame({f.__name__: three_tests(f) for f in (snippet, repaired_2, repaired_4)}).T
up = {"repaired_2": scores > 0, "repaired_4": torch.tensor(batch["advantage"]) > 0}
table["pushed up"] = ["none", *(f"{share.float().mean():.0%} of records" for share in up.values())]
assert table["sees rewards"].tolist() == table["sees responses"].tolist() == [False, True, True]
table

# %% [markdown]
# Does it learn? The same plain loop for the snippet and for its repair; the score is the share of full and right equations on 80 questions that no record asks.

# %%
task = mg.sums_task()


def learn(loss_fn, rows, steps=30):
    model = copy.deepcopy(reference)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, eps=1e-4, weight_decay=0.0)
    for step in range(steps):
        chosen = torch.randperm(len(rows), generator=mg.seeded(0, step))[:64]
        optimizer.zero_grad()
        loss_fn(model, rows[chosen.tolist()]).backward()
        optimizer.step()
    return model, mg.evaluate(model, tokenizer, task, max_completion_length=24)["accuracy"]


# %%
before = mg.evaluate(reference, tokenizer, task, max_completion_length=24)["accuracy"]
rows = mg.prepare(records, mg.GRPOConfig.for_triples(triples_estimator="policy_gradient"))
after = {loss_fn.__name__: learn(loss_fn, rows)[1] for loss_fn in (snippet, repaired_4)}
print(f"full equations: {before:.2f} before;", {name: round(share, 2) for name, share in after.items()})
assert abs(after["snippet"] - before) < 0.1 and after["repaired_4"] > before + 0.15

# %% [markdown]
# It learns. Now do not stop at 30 steps.
#
# ## Off-policy
#
# **Write down:** the same 400 records, over and over, for 200 steps. What will happen?
#
# The mean in the log-derivative trick is over draws of the policy that is *trained*. After a few steps the policy is another one; the records are still what the **writer** wrote. They are **off-policy**. The correction is called **importance sampling**:
#
# $$\mathbb{E}_{y \sim \pi}[f(y)] = \mathbb{E}_{y \sim \mu}\Big[\frac{\pi(y)}{\mu(y)} f(y)\Big], \qquad \mu \text{ the writer}$$
#
# A product of such ratios over a whole response swings wildly, so in practice it is taken per token and clipped: the ratio and clip of lesson 03, with the *writer* in the place of the sampler. **That is repair 5.** It needs to know how likely the
# writer made each token. Here we do: the reference wrote the records (`triples_writer="reference"`). Mostly you do not; then the ratio is taken to the policy at the start of each pass over the file, and starts again at 1 in every pass.
# Recorded, 200 steps each, one seed, everything else equal:

# %%
runs = {
    "writer unknown, β = 0.4": "records-unknown-writer",
    "ratio to the writer, β = 0.4": "records-known-writer",
    "writer unknown, β = 0.04": "records-unknown-writer-low-beta",
    "ratio to the writer, β = 0.04": "records-known-writer-low-beta",
}
runs = {name: [mg.read_metrics(f"runs/{file}.jsonl")] for name, file in runs.items()}
mg.compare_runs(runs, ["accuracy", "kl"])
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
table = {}
for name, (run,) in runs.items():
    shares = [row["accuracy"] for row in run if "accuracy" in row]
    early, late = sum(shares[6:13]) / 7, sum(shares[-7:]) / 7  # steps 30 to 60, and 170 to 200
    kl = sum(row["kl"] for row in run[-40:]) / 40
    table[name] = {"steps 30-60": early, "steps 170-200": late, "lost": early - late, "KL at the end": kl}
table = pd.DataFrame(table).T.round(2)
assert (table["lost"].iloc[[0, 2]] > table["lost"].iloc[[1, 3]].tolist()).all()
assert (table["KL at the end"].iloc[[0, 2]] > 3 * table["KL at the end"].iloc[[1, 3]].to_numpy()).all()
table

# %% [markdown]
# It started at 0.39. Without the ratio to the writer the policy moves several times as far and then loses again: a quarter of what it had gained at β = 0.4, all of it at β = 0.04. A bad answer stays in the file, is pushed down once more in every pass, and takes its neighbours with it.
# With the ratio nothing runs away. But the clip that makes it safe also ends it early: a token that has become 1.2 times as likely as its writer made it is pushed no further, and good answers want to be far more likely than that. At β = 0.4 the safe run even ends *below* the other one.
#
# ## The optimum is known, so go there
#
# Lesson 06: the maximum of $\mathbb{E}[R] - \beta\,KL$ is $\pi^*(y|x) \propto \pi_{ref}(y|x)\, e^{R/\beta}$. The records were drawn from $\pi_{ref}$. **So each record, weighted by** $w = e^{R/\beta}$, **is a draw from** $\pi^*$. Raise the weighted log-likelihood and you imitate the optimum:
#
# $$\text{loss} = -\frac1N \sum_i w_i \log \pi(y_i|x_i), \qquad w_i = e^{R_i/\beta} \Big/ \tfrac1N \textstyle\sum_j e^{R_j/\beta}$$
#
# No weight is negative, and no clip stands in the way.
#
# ### You write it
#
# The weights $w$, with a mean of 1. Rewards may be large: R/β = 1000 must not overflow. By hand: rewards 5 and 3 at β = 2 give 1.4621 and 0.5379.


# %%
def optimum_weights(rewards, beta):
    raise NotImplementedError


# %%
# NBVAL_CHECK_OUTPUT
answer = mg.check(optimum_weights)
answer

# %% [markdown]
# Stuck? `mg.hint("07.1")` helps, and says more each time.
#
# <details><summary>A solution</summary>
#
# ```python
# def optimum_weights(rewards, beta):
#     weights = torch.exp((rewards - rewards.max()) / beta)
#     return weights / weights.mean()
# ```
# </details>

# %%
mine = optimum_weights if getattr(answer, "about", "") is None else mg.optimum_weights  # yours, if so
weighted_records = rows.remove_columns("advantage").add_column("weight", mine(scores, 0.4).tolist())


def weighted(model, batch):
    _, _, logprobs = read(model, batch)
    return -(torch.tensor(batch["weight"]) * logprobs.sum(1)).mean()


student, share = learn(weighted, weighted_records, steps=45)
print(f"full equations: {before:.2f} -> {share:.2f}")
assert share > 0.9

# %% [markdown]
# `minigrpo train --triples` does the same on the command line. Recorded, at one β, beside the others:

# %%
same_beta = {name: runs[name] for name in ("writer unknown, β = 0.4", "ratio to the writer, β = 0.4")}
same_beta["weighted, sum over tokens"] = [mg.read_metrics("runs/records-weighted.jsonl")]
same_beta["weighted, mean over tokens"] = [mg.read_metrics("runs/records-weighted-mean.jsonl")]
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
mg.compare_runs(same_beta, ["accuracy"], axes=ax)
plt.show()
last = [run[-1]["accuracy"] for (run,) in same_beta.values()]
assert last[2] > last[3] > last[0] + 0.2 > last[1] + 0.2

# %% [markdown]
# *Weighted* is the best by far. Note the *sum* over tokens: the log-prob of a response is a sum, and a mean would let the two tokens of `2⏎` weigh five times what the ten of an equation do.
#
# At β = 0.4 the optimum is a corner: nearly all full equations. A larger β keeps more of the old mixture, and the formula says how much. With 4,096 records and β = 2, recorded:

# %%
last = mg.read_metrics("runs/records-beta-2.jsonl")[-1]
bars = {
    label: {kind: last[f"{when}/{kind}"] for kind in ("full", "bare", "rest")}
    for label, when in (("before", "before"), ("after", "after"), ("predicted optimum", "predicted"))
}
mg.plot_shares(bars)
plt.show()
assert all(abs(bars["after"][kind] - bars["predicted optimum"][kind]) < 0.05 for kind in bars["after"])

# %% [markdown]
# **The price of offline data**: no record shows what the policy would say *now*; if somebody else wrote the records, you are moved towards *their* manner; and from a few hundred records the policy also learns by heart which question happened to get which answers.
#
# ## Chats, and scores from people
#
# A record may be a conversation. The reward is for what the assistant wrote, so only that counts:

# %%
# NBVAL_CHECK_OUTPUT
chat = [
    {"role": "user", "content": "1 + 1 = ?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 + 3 = ?"},
    {"role": "assistant", "content": "2 + 3 = 5"},
]
pair = mg.load_triples([{"messages": chat, "reward": 5}, {"messages": chat[:2], "reward": 3}])
row = mg.logged_rollout(tokenizer, pair[:1], longest=256)
print("counts:", repr(tokenizer.decode(row.completion_ids[0][row.completion_mask[0]])))

# %% [markdown]
# Score ten answers yourself: buttons, or the keys 1 to 5. Each score is on disk before the next answer appears, and the file goes straight into `load_triples` or `minigrpo train --triples FILE`.

# %%
mg.rate(records.select(range(10)), tempfile.mkdtemp() + "/mine.jsonl")

# %% [markdown]
# ## Scores from a model
#
# People are slow. A **reward model** learns their scores: the same GPT-2 with one number in the place of the vocabulary, fitted to the score (regression), or to which of two answers is better (Bradley-Terry).

# %%
from minigrpo.reward_model import split_by_prompt

known, unseen = split_by_prompt(records)  # no prompt in both
judge, _ = mg.start_reward_model("tiny")
untrained = mg.pair_accuracy(judge, tokenizer, unseen)
for _ in mg.train_reward_model(judge, tokenizer, known):
    pass
trained = mg.pair_accuracy(judge, tokenizer, unseen)
print(f"pairs of unseen prompts in the right order: {untrained:.2f} -> {trained:.2f}")
assert trained > 0.8

# %% [markdown]
# Good enough to be the reward of an online run? **Write down** what the true score will do while the policy climbs the model's score. Recorded, three seeds, each with a reward model of its own:

# %%
hacked = [mg.read_metrics(f"runs/hacking-{seed}.jsonl") for seed in range(3)]
ax = mg.plot_metric(hacked, "learnt", label="the reward model's score")
mg.plot_metric(hacked, "true", ax=ax, label="the true score", color="#D55E00", linestyle="--")
ax.set(xlabel="step (optimizer updates)", ylabel="mean score of a batch")
ax.legend()
plt.show()

# %%
for seed, run in enumerate(hacked):
    best = max(sum(row["true"] for row in run[i : i + 10]) / 10 for i in range(190))
    end = sum(row["true"] for row in run[-10:]) / 10
    fooled = run[-1]["fooled/before"], run[-1]["fooled/after"]
    print(f"seed {seed}: true score at best {best:.1f}, at the end {end:.1f};", end=" ")
    print(f"answers that fool the model {fooled[0]:.1%} -> {fooled[1]:.1%}")
    assert fooled[1] > 0.4 > 0.02 > fooled[0]

# %%
# NBVAL_CHECK_OUTPUT
examples = [(seed, *row) for seed, run in enumerate(hacked) for row in run[-1]["examples"]]
pd.DataFrame(examples, columns=["seed", "prompt", "completion", "model's score", "true score"])

# %% [markdown]
# These look like good answers to a model that knows the form and cannot add. That is **reward hacking**: the pairs were ordered correctly among answers of the *old* policy, and the new one searches for where the model is wrong. What helps: log a true score beside it on a few
# answers that people check, stop at its best; train the reward model again on what the policy writes now; a larger β.
#
# ## In the words of the field
#
# - **Off-policy**: learning from what another policy, the **behaviour policy**, wrote. **Offline**: from a fixed file. **Importance sampling**: the ratio that corrects for it. **Surrogate**: an objective with the right gradient at one point only.
# - *Weighted* is known as **reward-weighted regression**, or advantage-weighted (AWR); with weights of 0 and 1 it is **rejection sampling** and SFT. Its KL is a *forward* one: it covers the optimum. **DPO** starts from the same optimum, with pairs in the place of scores.
# - **RLHF**: people's scores, a reward model (often **Bradley-Terry**), then PPO or GRPO with a KL penalty. **Reward hacking**, **over-optimisation**, **Goodhart's law**: the learnt score rises and the true one falls.
#
# ## Questions
#
# 1. A loss goes down for 1,000 steps and the model does not get better. What do you test first?
#    <details><summary>Answer</summary>What the gradient depends on: turn the rewards around, swap the responses. If nothing changes, nothing can be learnt from them.</details>
# 2. You double all scores. What must you change to get the same policy from <i>weighted</i>?
#    <details><summary>Answer</summary>Double β: only R / β enters.</details>
# 3. Our reward model orders nine of ten pairs correctly. Why does that not protect you?
#    <details><summary>Answer</summary>Nine of ten holds for answers like those it was trained on. Training moves the policy to where the model's score is highest, and that is where its mistakes are.</details>
#
# **Exercise:** [ex07](../exercises/ex07_triples.ipynb). **Next:** [08 · Variants](08_variants.ipynb), the relatives of GRPO.
