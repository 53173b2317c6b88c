# %% [markdown]
# # 07 · Triples: learning from scored records
#
# **You will be able to** repair a training loop that learns nothing, step by step; learn from (prompt, response, reward) triples that
# somebody else wrote; say what off-policy means and what the importance ratio is for; and catch a policy that fools its reward model.
#
# **You need** lessons [02](02_policy_gradient.ipynb), [03](03_loss.ipynb) and [06](06_kl.ipynb). **Time** 40 minutes, with the function
# that you write.
#
# **Worth the trip:** a few plausible lines run, print a loss, and train nothing. You repair them until they learn. Then you use what lesson
# 06 knows of the optimum, and on the same records the share of good answers goes from a third to more than nine tenths.

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
# Our small GPT-2 can also answer sums, in the manner of careless people: with the full equation, the bare number, a guess, or the question
# again. (`等于几` is Chinese for *equals what*.) 400 of its own answers were scored: **5** for the full equation if it is right, **3** for the
# bare number if it is right, **1** for the rest.

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
# This course began with a few lines for such records, here in our words. They are meant to maximise
# $\mathbb{E}[R - \beta\,KL(\pi\,\|\,\pi_{ref})]$. They run, and they print a loss. **Write down:** why do they learn nothing?

# %%
reference, tokenizer = mg.load_policy("tiny")


def snippet(model, batch, beta=0.4):
    inputs = tokenizer(batch["prompt"], return_tensors="pt", padding=True)
    policy_probs = torch.softmax(model(**inputs).logits, dim=-1)
    with torch.no_grad():
        ref_probs = torch.softmax(reference(**inputs).logits, dim=-1)
    # the original says reduce="batchmean": PyTorch takes that old flag for true, and divides by all numbers
    kl = torch.nn.functional.kl_div(policy_probs.log(), ref_probs, reduction="sum") / ref_probs.numel()
    return -torch.tensor(batch["reward"]).mean() + beta * kl


# %% [markdown]
# Do not look at the loss. **Ask what its gradient depends on**, with three tests:
#
# 1. Is there a gradient at the start?
# 2. Does it change if all rewards change their sign?
# 3. Does it change if the responses change places?

# %%
moved = copy.deepcopy(reference)  # at the start the KL has no gradient, so test a little away from it
with torch.no_grad():
    for number, weight in enumerate(moved.parameters()):
        weight.add_(0.02 * torch.randn(weight.shape, generator=mg.seeded(number)))


def gradient(loss_fn, model, batch):
    parts = torch.autograd.grad(loss_fn(model, batch), list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


# %%
# prepare adds the advantages of lesson 02; the records with the same prompt are a group
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
# Three times no. The reward is a plain number that depends on no parameter. The response is never read. Only the KL has a gradient, but it
# starts at its minimum, it is the wrong one of the two (KL(reference ‖ policy), lesson 06), and it is averaged over length *and vocabulary*,
# which makes β hundreds of times too weak.
#
# ## Four repairs
#
# **1. Read the response. 2. Let the reward weigh its log-prob**, as in lesson 02: $\nabla \mathbb{E}[R] = \mathbb{E}[R\, \nabla \log \pi(y|x)]$.


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
# **3. Subtract a baseline.** All scores are positive, so repair 2 pushes *every* record up, the bad ones too. As in lesson 02 the baseline is
# the mean of the group, here of the records with the same prompt. **4. Take the right KL**: KL(policy ‖ reference), summed over the tokens
# that count.


# %%
def repaired_4(model, batch, beta=0.4):
    rollout, logits, logprobs = read(model, batch)
    with torch.no_grad():
        ref_logits = mg.policy_logits(reference, rollout)
    kl = mg.kl_exact(logits, ref_logits) * rollout.completion_mask
    advantage = torch.tensor(batch["advantage"])  # reward minus its group's mean, over the std
    return -(advantage * logprobs.sum(1) - beta * kl.sum(1)).mean()


# %%
# NBVAL_CHECK_OUTPUT
table = pd.DataFrame({f.__name__: three_tests(f) for f in (snippet, repaired_2, repaired_4)}).T
up = {"repaired_2": scores > 0, "repaired_4": torch.tensor(batch["advantage"]) > 0}
table["pushed up"] = ["none", *(f"{share.float().mean():.0%} of records" for share in up.values())]
assert table["sees rewards"].tolist() == table["sees responses"].tolist() == [False, True, True]
table

# %% [markdown]
# Does it learn? The same plain loop takes the snippet and its repair. We measure the share of full and right equations on 80 questions that no
# record asks.

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
learnt = {loss_fn.__name__: learn(loss_fn, rows) for loss_fn in (snippet, repaired_4)}
after = {name: share for name, (_, share) in learnt.items()}
print(f"full equations: {before:.2f} before;", {name: round(share, 2) for name, share in after.items()})
assert abs(after["snippet"] - before) < 0.1 and after["repaired_4"] > before + 0.15

# %% [markdown]
# It learns. Now let it go on for more than 30 steps.
#
# ## Off-policy
#
# **Write down:** you go through the same 400 records for 200 steps. What will happen?
#
# In lesson 02 the mean is over draws of the policy that is *trained*. After a few steps that policy has changed, and the records are still
# those of their **writer**, $\mu$. They are **off-policy**. Importance sampling corrects for it, as in lesson 03:
#
# $$\mathbb{E}_{y \sim \pi}[f(y)] = \mathbb{E}_{y \sim \mu}\Big[\frac{\pi(y)}{\mu(y)} f(y)\Big]$$
#
# Over a whole response that ratio is a product. Here it is, over the 400 records, for the policy that has just learnt for 30 steps:

# %%
with torch.no_grad():
    policy_logprobs, writer_logprobs = (read(m, rows[:])[2] for m in (learnt["repaired_4"][0], reference))
ratios = (policy_logprobs - writer_logprobs).sum(1).exp()
print(f"the ratio of a whole response: from {ratios.min():.0e} to {ratios.max():.1f}")
assert ratios.min() < 1e-6 and ratios.max() > 2

# %% [markdown]
# Some records the policy would hardly write any longer; others count several times.
#
# **Repair 5: take the ratio to the writer per token, and clip it** as in lesson 03. For this you must know the probability that the writer gave
# to each token. Here you do, because the reference wrote the records (`triples_writer="reference"`). If you do not (*writer unknown*), the
# ratio can only compare with the policy at the start of the current pass over the file, and each new pass begins at a ratio of 1.
#
# Both were recorded at two values of β, 200 steps each, three seeds, everything else equal. A *right answer* in the left panel is a full and
# right equation.

# %%
runs = {
    "writer unknown, β = 0.4": "records-unknown-writer-",
    "ratio to the writer, β = 0.4": "records-known-writer-",
    "writer unknown, β = 0.04": "records-unknown-writer-low-beta-",
    "ratio to the writer, β = 0.04": "records-known-writer-low-beta-",
}
for name, file in runs.items():
    runs[name] = [mg.read_metrics(f"runs/{file}{seed}.jsonl") for seed in range(3)]
mg.compare_runs(runs, ["accuracy", "kl"])
plt.show()


# %%
def early_and_late(run):
    shares = [row["accuracy"] for row in run if "accuracy" in row]
    early, late = sum(shares[6:13]) / 7, sum(shares[-7:]) / 7  # steps 30 to 60, and 170 to 200
    kl = sum(row["kl"] for row in run[-40:]) / 40
    return {"steps 30-60": early, "steps 170-200": late, "lost": early - late, "KL at the end": kl}


# %%
# NBVAL_CHECK_OUTPUT
three = {name: pd.DataFrame(map(early_and_late, seeds)) for name, seeds in runs.items()}
low, high = (
    pd.DataFrame({name: getattr(of, end)() for name, of in three.items()}) for end in ("min", "max")
)
for unknown, known in zip(list(runs)[::2], list(runs)[1::2], strict=True):
    assert low[unknown]["lost"] > high[known]["lost"]
    assert low[unknown]["KL at the end"] > 3 * high[known]["KL at the end"]
low, high = (table.T.apply(lambda column: column.map("{:.2f}".format)) for table in (low, high))
low + " to " + high  # the lowest and the highest of three seeds

# %% [markdown]
# **Without the ratio to the writer, the policy goes far and falls back.** At β = 0.4 it loses 0.06 to 0.11, and at β = 0.04 most of what it had
# gained, on each of the three seeds. One reason: a bad answer stays in the file, and each pass pushes it down once more, though the policy
# hardly writes it any longer.
#
# **With the ratio, it stays close, loses less, and stops early.** A token that has become 1.2 times as likely as its writer made it is pushed
# no further, and good answers should become far more likely than that. At β = 0.4 the runs with the ratio even end *below* those without. So
# neither is good enough.
#
# ## The optimum is known, so go there
#
# Lesson 06: the maximum of $\mathbb{E}[R] - \beta\,KL$ is at $\pi^*(y|x) \propto \pi_{ref}(y|x)\, e^{R/\beta}$. The records were drawn from
# $\pi_{ref}$. **So each record counts as a draw from** $\pi^*$ **if you give it the weight** $w = e^{R/\beta}$. Raise the weighted
# log-likelihood, and you imitate the optimum:
#
# $$\text{loss} = -\frac1N \sum_i w_i \log \pi(y_i|x_i)$$
#
# $$w_i = e^{R_i/\beta} \Big/ \tfrac1N \textstyle\sum_j e^{R_j/\beta}$$
#
# No weight is negative, and no clip stands in the way.
#
# ### You write it
#
# Return the weights $w$, with a mean of 1. Rewards may be large: R/β = 1000 must not overflow. By hand: rewards 5 and 3 at β = 2 give 1.4621
# and 0.5379.


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
# `minigrpo train --triples` does the same on the command line. Recorded at β = 0.4, three seeds, beside the others:

# %%
same_beta = {name: runs[name] for name in ("writer unknown, β = 0.4", "ratio to the writer, β = 0.4")}
for name, file in (("sum", "records-weighted-"), ("mean", "records-weighted-mean-")):
    seeds = [mg.read_metrics(f"runs/{file}{seed}.jsonl") for seed in range(3)]
    same_beta[f"weighted, {name} over tokens"] = seeds
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
mg.compare_runs(same_beta, ["accuracy"], axes=ax)
plt.show()
last = [[run[-1]["accuracy"] for run in three] for three in same_beta.values()]
assert min(last[2]) > max(last[3]) and min(last[3]) > max(last[0]) + 0.2 and min(last[0]) > max(last[1])

# %% [markdown]
# The weighted loss is the best by far. Mind the *sum* over tokens: the log-prob of a response is a sum, and with a mean each of the two tokens
# of `2⏎` would weigh five times as much as each of the ten of an equation.
#
# At β = 0.4 the optimum is nearly all full equations. A larger β keeps more of the old mixture of *full*, *bare* and *rest*, and the formula
# says how much. With 4,096 records and β = 2, recorded (one seed):

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
# **The price of offline data:** no record shows what the policy would say *now*, and if somebody else wrote the records, you move towards
# *their* manner. From a few hundred records the policy can also learn by heart which question got which answers.
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
# Score ten answers yourself, with the buttons or the keys 1 to 5. Each score is on disk before the next answer appears, and the file goes
# straight into `load_triples` or `minigrpo train --triples FILE`.

# %%
mg.rate(records.select(range(10)), tempfile.mkdtemp() + "/mine.jsonl")

# %% [markdown]
# ## Scores from a model
#
# People are slow, so a **reward model** learns their scores. It is the same GPT-2 with one number in the place of the vocabulary, fitted to
# the scores (*regression*, as here) or to which of two answers is better (*Bradley-Terry*).

# %%
from minigrpo.reward_model import split_by_prompt

known, unseen = split_by_prompt(records)  # no prompt in both
reward_model, _ = mg.start_reward_model("tiny")
untrained = mg.pair_accuracy(reward_model, tokenizer, unseen)
for _ in mg.train_reward_model(reward_model, tokenizer, known):
    pass
trained = mg.pair_accuracy(reward_model, tokenizer, unseen)
print(f"pairs of unseen prompts in the right order: {untrained:.2f} -> {trained:.2f}")
assert trained > 0.8

# %% [markdown]
# Now let this model be the reward of a run in which the policy writes again, as in lesson 04. **Write down** what the true score will do while
# the model's score rises. Recorded, three seeds, each with a reward model of its own:

# %%
hacked = [mg.read_metrics(f"runs/hacking-{seed}.jsonl") for seed in range(3)]
ax = mg.plot_metric(hacked, "learnt", label="the reward model's score")
mg.plot_metric(hacked, "true", ax=ax, label="the true score", color="#D55E00", linestyle="--")
ax.set(xlabel="step (optimizer updates)", ylabel="mean score of a batch")
ax.set_title("The model's score rises on, the true one falls", loc="left", fontsize=10)
ax.legend()
plt.show()

# %%
for seed, run in enumerate(hacked):
    best = max(sum(row["true"] for row in run[i : i + 10]) / 10 for i in range(190))
    end = sum(row["true"] for row in run[-10:]) / 10
    fooled = run[-1]["fooled/before"], run[-1]["fooled/after"]
    print(f"seed {seed}: true score at best {best:.1f}, at the end {end:.1f};", end=" ")
    # the model's score is above 4, the true one is 1
    print(f"answers that fool the model {fooled[0]:.1%} -> {fooled[1]:.1%}")
    assert fooled[1] > 0.4 > 0.02 > fooled[0]

# %%
# NBVAL_CHECK_OUTPUT
examples = [(seed, *row) for seed, run in enumerate(hacked) for row in run[-1]["examples"]]
pd.DataFrame(examples, columns=["seed", "prompt", "completion", "model's score", "true score"])

# %% [markdown]
# Each has the form of a good answer and the wrong sum, and the reward model gives it about 5. That is **reward hacking**. The model ordered
# the *old* policy's answers correctly, and the new policy goes where the model is wrong. What people do about it (we have run none of it): let
# people score a few answers along the way and stop where this true score is best; train the reward model again on what the policy writes
# now; raise β.
#
# ## In the words of the field
#
# - **Off-policy**: learning from what another policy, the **behaviour policy**, wrote. **Offline**: from a fixed file. **Importance sampling**:
#   the ratio that corrects for it. **Surrogate**: an objective with the right gradient at one point only.
# - The weighted loss is known as **reward-weighted regression**, or advantage-weighted (AWR); with weights of 0 and 1 it is **rejection sampling** and
#   SFT. It minimises a *forward* KL, from the optimum to the policy. **DPO** starts from the same optimum, with pairs in the place of scores.
# - **RLHF**: people's scores, a reward model (often **Bradley-Terry**), then PPO or GRPO with a KL penalty. **Reward hacking**,
#   **over-optimisation**, **Goodhart's law**: the learnt score rises and the true one falls.
#
# ## Questions
#
# 1. A loss goes down for 1,000 steps and the model does not get better. What do you test first?
#    <details><summary>Answer</summary>What the gradient depends on: change the sign of the rewards, swap the responses. If nothing changes, nothing can be learnt from them.</details>
# 2. You double all scores. What must you change to get the same policy from the weighted loss?
#    <details><summary>Answer</summary>Double β: only R / β enters.</details>
# 3. Our reward model orders nine of ten pairs correctly. Why does that not protect you?
#    <details><summary>Answer</summary>Nine of ten holds for answers like those it was trained on. Training moves the policy to where the model's score is highest, and that is where its mistakes are.</details>
#
# **Exercise:** [ex07](../exercises/ex07_triples.ipynb). **Next:** [08 · Variants](08_variants.ipynb), the relatives of GRPO.
