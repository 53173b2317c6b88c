"""The same run by TRL: every field of the configuration, one process and two, a killed one, the same files.

Two processes are real ones, on the CPU, over gloo. accelerate's launcher starts them once; elsewhere they are forked from one
that has imported TRL, which takes seconds.
"""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file

from minigrpo import exact_answer, load_policy, to_trl
from minigrpo.config import BadInput, GRPOConfig
from minigrpo.metrics import METRICS
from minigrpo.policy import eos_token_ids
from minigrpo.run import cli, folders, trl_engine
from minigrpo.tasks import clock_task, sum_rubric, sums_task
from minigrpo.training import TrainState, train
from tests.tools.pretrain import byte_tokenizer

ROOT = Path(__file__).parents[2]
# --multi_gpu is accelerate's word for several processes on one machine; without it and without GPUs it starts a single one.
TWO = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def launch(*argv):
    """Two processes of ``python -m ARGV``, as accelerate starts them."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*TWO, "-m", *argv], cwd=ROOT, env=environment, **pipes)


def one_of_two(rank: int, port: int, said: Path, function: Callable, argv: tuple) -> None:
    """What a launcher tells a process, and where that one writes; its exit code is what ``function`` returns."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in launched.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(function(*argv))


def in_two_processes(said: Path, function: Callable, *argv) -> tuple[list[int], str]:
    """Their exit codes and all that they say; like a launcher, this ends the other one when one fails."""
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["minigrpo.run.runner", "minigrpo.run.trl_engine"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [fork.Process(target=one_of_two, args=(rank, port, said, function, argv)) for rank in (0, 1)]
    for process in both:
        process.start()
    wait([process.sentinel for process in both], timeout=120)
    failed = any(process.exitcode for process in both)
    for process in both:
        process.join(0.1 if failed else 120)
    for process in both:
        process.terminate()
        process.join()
    return [process.exitcode for process in both], said.read_text()


# --- the configuration --------------------------------------------------------------------------------------------------

TRANSLATED = {  # field: (value that is not the default, TRL's field, TRL's value)
    "kl_estimator": ("k3", "use_bias_correction_kl", False),
    "sync_ref_model": (True, "sync_ref_model", True),
    "output_dir": ("there", "output_dir", "there"),
    "per_device_train_batch_size": (16, "gradient_accumulation_steps", 4),
    "gradient_checkpointing": (True, trl_engine.CHECKPOINTING, True),
}
OTHER_VALUES = {
    "bf16": True, "seed": 7, "max_steps": 3, "save_steps": 2, "generation_batch_size": 24, "num_generations": 4,
    "num_iterations": 3, "max_completion_length": 9, "temperature": 0.7, "learning_rate": 1e-3, "adam_epsilon": 1e-5,
    "max_grad_norm": 0.5, "beta": 0.1, "ref_model_sync_steps": 11, "loss_type": "dr_grpo",
    "importance_sampling_level": "sequence", "scale_rewards": "none", "epsilon": 0.1, "epsilon_high": 0.28,
    "reward_weights": [2.0], "save_total_limit": 2, "lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1,
}  # fmt: skip
NEEDS = {"importance_sampling_level": {"beta": 0.0}, "warmup_steps": {"lr_scheduler_type": "linear"}}
REFUSED = {
    "triples": ({"triples": "bundled"}, "no training on records"),
    "triples_writer": (
        {"triples": "bundled", "triples_estimator": "policy_gradient", "triples_writer": "reference"},
        "no training on records",
    ),
    "triples_estimator": ({"triples": "bundled", "triples_estimator": "policy_gradient"}, "no training on records"),
    "kl_in_reward": ({"kl_in_reward": True}, "no kl_in_reward"),
    "kl_estimator": ({"kl_estimator": "k1"}, "no kl_estimator k1: k3 or k3_ratio"),
    "importance_sampling_level": ({"importance_sampling_level": "sequence"}, "take k3 or beta 0"),
    "device": ({"device": "cuda:1"}, "accelerate gives each process its own"),
    "eval_steps": ({"eval_steps": 5}, "no eval_steps: a run by it is scored before and after"),
}
HANDED_OVER = {  # to the trainer, by the runner
    "model", "task", "dataset_name", "dataset_config", "dataset_split", "prompt_column", "chat", "system_prompt",
    "reward_funcs", "reward_model", "engine", "report_to",
}  # fmt: skip


def test_no_field_is_forgotten():
    assert set(OTHER_VALUES) == set(trl_engine.SAME_NAME)
    ours = {field.name for field in dataclasses.fields(GRPOConfig)}
    assert ours == set(OTHER_VALUES) | set(TRANSLATED) | set(REFUSED) | HANDED_OVER


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_field_that_has_its_name_there_arrives(name):
    assert getattr(GRPOConfig(), name) != OTHER_VALUES[name]
    assert getattr(to_trl(GRPOConfig(**{name: OTHER_VALUES[name]}, **NEEDS.get(name, {}))), name) == OTHER_VALUES[name]
    assert getattr(to_trl(GRPOConfig()), name) == getattr(GRPOConfig(), name)


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_field_that_is_called_otherwise_there_arrives(name):
    value, theirs, wanted = TRANSLATED[name]
    assert getattr(to_trl(GRPOConfig(**{name: value})), theirs) == wanted
    assert getattr(to_trl(GRPOConfig()), theirs) != wanted


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_trl_has_nothing_for_is_refused_in_a_sentence(name):
    change, sentence = REFUSED[name]
    with pytest.raises(BadInput, match=sentence):
        to_trl(GRPOConfig(**change))


def test_what_has_no_field_here_is_what_this_package_does():
    args = to_trl(GRPOConfig())
    assert (args.adam_beta1, args.adam_beta2) == (0.9, 0.999)  # torch's
    assert args.disable_dropout
    assert (args.top_p, args.top_k, args.min_p, args.repetition_penalty) == (1.0, 0, None, 1.0)
    assert args.steps_per_generation == args.gradient_accumulation_steps == 1  # a rollout is one batch
    assert args.per_device_train_batch_size == 64
    assert args.ref_model_mixup_alpha == 1.0
    assert args.report_to == []
    assert args.use_cpu


def test_trls_own_fields_have_the_last_word():
    args = to_trl(GRPOConfig(), per_device_train_batch_size=16, gradient_accumulation_steps=4, top_p=0.9)
    assert (args.steps_per_generation, args.top_p) == (4, 0.9)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "a multiple of the number of processes, 3,"),
        ({"loss_type": "bnpo", "generation_batch_size": 24}, "dapo divides by"),
        ({"generation_batch_size": 24, "per_device_train_batch_size": 6}, "a divisor of the 8 completions of each"),
    ],
)
def test_what_three_processes_cannot_share_is_refused(monkeypatch, change, sentence):
    to_trl(GRPOConfig(**change))
    monkeypatch.setattr(trl_engine, "num_processes", lambda config: 3)
    with pytest.raises(BadInput, match=sentence):
        to_trl(GRPOConfig(**change))


def test_without_trl_one_sentence_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(sys.modules, "minigrpo.run.trl_engine")
    monkeypatch.delattr("minigrpo.run.trl_engine")
    monkeypatch.setitem(sys.modules, "trl", None)
    assert cli.main(["train", "--engine", "trl", "--output-dir", str(tmp_path / "run")]) == 2
    assert 'python -m pip install -e ".[scale]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- what TRL's trainer does differently ------------------------------------------------------------------------------------


@pytest.fixture
def trainer_of(tmp_path, tokenizer):
    """A trainer as the engine builds it, around a model that was saved (TRL reads its reference from there)."""

    def build(model, monkeypatch):
        model.save_pretrained(tmp_path / "start")
        tokenizer.save_pretrained(tmp_path / "start")
        model, tokens = load_policy(str(tmp_path / "start"))
        built = []
        monkeypatch.setattr(trl_engine.Trainer, "train", lambda self, **_: built.append(self))
        config = GRPOConfig(generation_batch_size=8, num_generations=2)
        trl_engine.train(config, model, tokens, clock_task().train, [exact_answer], folder=tmp_path)
        return built[0]

    return build


def scored(trainer, model, prompts, completions):
    """(B, C) log-probs as TRL scores them, prompts padded on the left."""
    rows = [torch.tensor(trainer.processing_class(p)["input_ids"]) for p in prompts]
    answers = [torch.tensor(trainer.processing_class(c)["input_ids"]) for c in completions]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True, padding_side="left")
    ids, mask = torch.cat([ids, torch.stack(answers)], 1), torch.cat([mask, torch.ones(len(rows), len(answers[0]))], 1)
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(model, ids, mask.long(), len(answers[0]))[0]


def test_padding_on_the_left_does_not_change_what_a_token_is_worth(trainer_of, random_model, monkeypatch):
    trainer = trainer_of(random_model, monkeypatch)
    prompts, completions = ["1+2=", "4*2+9+7*1*4="], ["345", "678"]
    for model in (trainer.model, trainer.ref_model):
        together = scored(trainer, model, prompts, completions)
        alone = [scored(trainer, model, [p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
        torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-5)
    kept = trainer.model._forward_pre_hooks.copy()
    trainer.model._forward_pre_hooks.clear()
    assert (scored(trainer, trainer.model, prompts, completions)[0] - alone[0]).abs().max() > 0.1  # so TRL by itself is off
    trainer.model._forward_pre_hooks.update(kept)


def test_the_saved_model_is_a_plain_one(trainer_of, random_model, monkeypatch, tmp_path):
    trainer_of(random_model, monkeypatch)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rewards_see_the_texts_that_they_see_here(trainer_of, tiny, monkeypatch):
    """EOS and padding apart, special tokens too; and any EOS of the generation_config ends."""
    model, tokenizer = tiny
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 43]
    trainer = trainer_of(model, monkeypatch)
    assert set(trainer.eos_token_ids) == set(eos_token_ids(trainer.model, trainer.processing_class))
    trainer.processing_class.add_special_tokens({"additional_special_tokens": ["1"]})
    rows = [[49, 50, 43], [50, 49, tokenizer.eos_token_id]]  # 12+ and 21, of which 1 is now special
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *args, **kwargs: (rows, None))
    trainer.model.train()
    assert trainer._generate(["1+1=", "2+2="])[3] == ["12", "21"]


def test_there_is_no_dropout_although_trl_trains_in_train_mode(trainer_of, random_model, monkeypatch):
    assert random_model.config.resid_pdrop > 0
    trainer = trainer_of(random_model, monkeypatch)
    trainer.model.train()
    once, again = (scored(trainer, trainer.model, ["1+2="], ["345"]) for _ in range(2))
    assert torch.equal(once, again)


def test_a_gradient_that_is_not_finite_ends_the_run(trainer_of, random_model, monkeypatch):
    trainer = trainer_of(random_model, monkeypatch)
    with pytest.raises(FloatingPointError, match="gradient norm at step 0 is nan"):
        trainer.log({"loss": 1.0, "grad_norm": math.nan})


def test_a_policy_that_nothing_can_change_ends_the_run(trainer_of, random_model, monkeypatch):
    """As after a learning rate of 10: our own loop ends there by a gradient that is not finite."""
    trainer = trainer_of(random_model, monkeypatch)
    with pytest.raises(FloatingPointError, match=r"gradient norm at step 0 is 0.0, the entropy 0.0 .*lower learning_rate"):
        trainer.log({"loss": 1.0, "grad_norm": 0.0, "entropy": 0.0})


# --- one update, three ways ---------------------------------------------------------------------------------------------------


def settings(loss_type, **changes):
    """Two updates on one rollout, so that ratio and KL count; an epsilon under which AdamW does not blow up rounding."""
    sizes = {"generation_batch_size": 16, "num_generations": 4, "num_iterations": 2, "max_steps": 2, "save_steps": 100}
    high = 5.0 if loss_type == "cispo" else None
    rates = {"learning_rate": 1e-2, "adam_epsilon": 1e-3, "temperature": 2.0}  # at 1 hardly any completion is a long one
    return GRPOConfig(**{"loss_type": loss_type, "epsilon_high": high, **rates, **sizes, **changes})


def even_tokens(completions, completion_ids, **_):
    """Of a conversation's answers, by what TRL gives besides: even tokens are good, and short texts."""
    texts = [completion[0]["content"] for completion in completions]
    even = [sum(token % 2 == 0 for token in ids) for ids in completion_ids]
    return [count / len(ids) - 0.01 * len(text) for count, ids, text in zip(even, completion_ids, texts, strict=True)]


def reward_of(prompts):
    return sum_rubric if isinstance(prompts[0], str) else even_tokens


# Three updates: the first while the learning rate is still 0, the last on its way down again.
SCHEDULED = {"lr_scheduler_type": "linear", "warmup_steps": 1, "weight_decay": 0.1, "num_iterations": 3, "max_steps": 3}
IN_PARTS = {"per_device_train_batch_size": 4, "gradient_checkpointing": True}


def replay(folder: Path):
    """TRL's updates on the rollouts in ``folder``, in however many processes this is one of."""
    saved = json.loads((folder / "rollouts.json").read_text())
    config, dataset = GRPOConfig(**saved["config"]), Dataset.from_list(saved["rows"])
    rollouts = [{} for _ in saved["rollouts"]]
    for answers, rollout in zip(rollouts, saved["rollouts"], strict=True):
        for prompt_ids, ids in rollout:
            answers.setdefault(tuple(prompt_ids), []).append(ids)
    answers = [{prompt: itertools.cycle(ids) for prompt, ids in rollout.items()} for rollout in rollouts]

    def written_before(self, prompt_ids, *args, **kwargs):
        return [next(answers[self.state.global_step // config.num_iterations][tuple(ids)]) for ids in prompt_ids], None

    trl_engine.Trainer._generate_single_turn = written_before
    out = folder / f"processes-{trl_engine.num_processes(config)}"
    trl_engine.train(config, *load_policy(config.model), dataset, [reward_of(dataset["prompt"])], folder=out)


def replay_all(folders: list[Path]):
    Accelerator.end_training = lambda self: None  # it parts the processes, and there is more than one training here
    for folder in folders:
        replay(folder)


def written(folder: Path, config: GRPOConfig, dataset: Dataset) -> dict[str, torch.Tensor]:
    """Our own rollouts into ``folder``; the weights after our own updates on them."""
    state, rollouts = TrainState.start(*load_policy(config.model), config), []
    for metrics in train(state, dataset, [reward_of(dataset["prompt"])], config):
        rollout = state.batch.rollout
        prompts = [rollout.prompt_ids[g][rollout.prompt_mask[g]].tolist() for g in rollout.group_ids]
        if metrics["sampling/tokens"]:
            rollouts.append(list(zip(prompts, rollout.token_rows(), strict=True)))
    assert len({len(ids) for rollout in rollouts for _, ids in rollout}) > 1  # so the processes have unlike many tokens
    folder.mkdir(exist_ok=True)
    saved = {"config": config.to_dict(), "rows": dataset.to_list(), "rollouts": rollouts}
    (folder / "rollouts.json").write_text(json.dumps(saved))
    return state.model.state_dict()


def four_problems() -> Dataset:
    """Sums, which the model answers at greater and lesser length."""
    return sums_task().train.select(range(4))


def assert_the_same_step(one: dict, other: dict, model="tiny"):
    start = load_policy(model)[0].state_dict()
    names = [name for name in one if name in other]
    assert len(names) > 20
    assert max((one[name] - start[name]).abs().max() for name in names) > 5e-3  # the step is a thousand times the tolerance
    for name in names:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"])
def test_trls_update_is_ours(loss_type, tmp_path, monkeypatch):
    monkeypatch.setattr(trl_engine.Trainer, "_generate_single_turn", None)  # put back at the end
    ours = written(tmp_path, settings(loss_type), four_problems())
    replay(tmp_path)
    assert_the_same_step(ours, load_file(tmp_path / "processes-1" / "model" / "model.safetensors"))


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo"])
def test_trls_updates_in_parts_with_a_schedule_and_weight_decay_are_ours(loss_type, tmp_path, monkeypatch):
    """A part is a prompt's completions here and there, once TRL does not shuffle them; only bnpo depends on it."""
    monkeypatch.setattr(trl_engine.Trainer, "_generate_single_turn", None)  # put back at the end
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    ours = written(tmp_path, settings(loss_type, **SCHEDULED, **IN_PARTS), four_problems())
    replay(tmp_path)
    assert_the_same_step(ours, load_file(tmp_path / "processes-1" / "model" / "model.safetensors"))


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture
def chat_run(random_model, tmp_path):
    """Three steps on four conversations with a model of random weights and a chat template: configuration and data set."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    random_model.save_pretrained(tmp_path / "chat-model")
    tokenizer.save_pretrained(tmp_path / "chat-model")
    chats = [[{"role": "system", "content": "Add."}, {"role": "user", "content": f"{a}+{a * a}="}] for a in (1, 2, 3, 7)]
    changes = {"num_iterations": 1, "max_steps": 3, "max_completion_length": 8, "model": str(tmp_path / "chat-model")}
    return settings("grpo", **changes), Dataset.from_dict({"prompt": chats, "level": [1, 2, 3, 4]})


def test_three_steps_on_conversations_are_trls(chat_run, tmp_path, monkeypatch):
    """A rollout each, drawn by us and by TRL in its own order; completions and rewards as the protocol has them."""
    monkeypatch.setattr(trl_engine.Trainer, "_generate_single_turn", None)
    config, dataset = chat_run
    ours = written(tmp_path / "chat", config, dataset)
    replay(tmp_path / "chat")
    theirs = load_file(tmp_path / "chat" / "processes-1" / "model" / "model.safetensors")
    assert_the_same_step(ours, theirs, config.model)


def test_two_processes_make_the_update_of_one(chat_run, tmp_path, monkeypatch):
    """A mean of the processes' means, as grpo has it; a division by the tokens of all, as dapo has it; and conversations."""
    monkeypatch.setattr(trl_engine.Trainer, "_generate_single_turn", None)
    runs = {name: (settings(name), four_problems()) for name in ("grpo", "dapo")} | {"chat": chat_run}
    folders = [tmp_path / name for name in runs]
    for folder, (config, dataset) in zip(folders, runs.values(), strict=True):
        written(folder, config, dataset)
        replay(folder)
    codes, said = in_two_processes(tmp_path / "said", replay_all, folders)
    assert codes == [0, 0], said
    for folder, (config, _) in zip(folders, runs.values(), strict=True):
        one, two = (load_file(folder / f"processes-{n}" / "model" / "model.safetensors") for n in (1, 2))
        assert_the_same_step(one, two, config.model)


# --- a run ------------------------------------------------------------------------------------------------------------------


def run(folder, *flags):
    return cli.main(["train", "--engine", "trl", "--output-dir", str(folder), *flags])


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl") / "run"
    assert run(folder, "--max-steps", "5", "--save-steps", "3", "--num-iterations", "2", "--temperature", "0.9") == 0
    return folder


def test_a_run_leaves_the_files_of_a_run(short, capsys):
    assert {path.name for path in short.iterdir()} == {
        "config.json", "metrics.jsonl", "samples.jsonl", "summary.json", "curves.png", "model", "checkpoint-3", "checkpoint-5",
        ".lock", "inputs.json",
    }  # fmt: skip
    assert cli.main(["generate", "--model", str(short), "1+2+3*4-5+6="]) == 0
    assert cli.main(["plot", str(short)]) == 0


def test_other_users_may_read_the_weights(short):
    rights = (short / "metrics.jsonl").stat().st_mode
    weights = list(short.rglob("*.safetensors"))
    assert len(weights) == 3
    assert {path.stat().st_mode for path in weights} == {rights}


def test_metrics_have_our_names_and_our_meaning(short):
    rows = folders.read_metrics(short)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    elsewhere = {"weighted_logprob", "eval_reward", "eval_accuracy"}
    assert all(set(row) - {"rewards/exact_answer/mean"} == set(METRICS) - elsewhere for row in rows)
    assert all(row["rewards/exact_answer/mean"] == row["reward"] for row in rows)
    for first, second in ((0, 1), (2, 3)):  # two updates on one rollout
        assert rows[first]["reward"] == rows[second]["reward"]
        assert rows[first]["clip_ratio"] == 0
        assert rows[first]["sampling/tokens"] == rows[first]["update/tokens"] == rows[second]["update/tokens"]
        assert rows[second]["sampling/tokens"] == rows[second]["sampling/seconds"] == 0
    assert all(row["update/seconds"] > 0 for row in rows)
    samples = json.loads((short / "samples.jsonl").read_text().splitlines()[0])
    assert samples["step"] == 1
    assert {len(samples[name]) for name in ("prompts", "completions", "rewards", "advantages")} == {64}
    assert sum(samples["rewards"]) / 64 == rows[0]["reward"]
    lengths = [len(text) + 1 for text in samples["completions"]]  # a byte a token, and EOS
    assert sum(lengths) == rows[0]["update/tokens"]
    groups = torch.tensor(samples["advantages"]).view(8, 8)
    torch.testing.assert_close(groups.sum(1), torch.zeros(8), rtol=0, atol=1e-4)
    assert all(len(set(samples["prompts"][i : i + 8])) == 1 for i in range(0, 64, 8))


def test_a_run_keeps_its_engine(short, capsys):
    assert cli.main(["train", "--resume", "--output-dir", str(short), "--engine", "minigrpo", "--max-steps", "9"]) == 2
    assert "engine was 'trl', now 'minigrpo'" in capsys.readouterr().err


def test_a_run_can_be_written_over_and_a_reward_function_needs_no_room_for_what_trl_adds(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "def longer(prompts, completions, answer):\n    return [float(len(c)) if len(c) > 1 else None for c in completions]\n"
        "def exact_answer(prompts, completions, answer):\n    return [0.0] * len(completions)\n"
        "def junk(prompts, completions, answer):\n    return ['1'] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    flags = ("--max-steps", "1", "--generation-batch-size", "16", "--reward-funcs", "minigrpo.tasks.exact_answer")
    assert run("run", *flags, "mine.longer", "mine.exact_answer", "--reward-weights", "1", "0.5", "1") == 0
    row = folders.read_metrics("run")[0]
    samples = json.loads(Path("run/samples.jsonl").read_text())
    assert set(row) >= {
        "rewards/minigrpo.tasks.exact_answer/mean", "rewards/longer/mean", "rewards/mine.exact_answer/mean"
    }  # fmt: skip
    long = [0.5 * len(c) * (len(c) > 1) for c in samples["completions"]]
    assert all(0 <= reward - extra <= 1 for reward, extra in zip(samples["rewards"], long, strict=True))
    assert run("run", *flags, "mine.longer", "--overwrite") == 0
    assert run("run", *flags, "mine.junk", "--overwrite") == 2
    assert "The reward function junk returned '1' for completion 0" in capsys.readouterr().err


def test_conversations_and_rewards_of_trls_protocol_go_along(tmp_path, monkeypatch):
    (tmp_path / "asked.py").write_text(
        "def short(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, answer, **_):\n"
        "    log_metric('seen', trainer_state.global_step)\n"
        "    log_extra('wanted', answer)\n"
        "    return [-len(c[0]['content']) - len(p) / 4 for c, p in zip(completions, prompts)]\n"
        "async def tokens(completion_ids, **_):\n    return [len(ids) for ids in completion_ids]\n"
    )
    rows = [{"prompt": [{"role": "user", "content": f"{a} + 1 = ?"}], "answer": a + 1} for a in range(9)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset-name", "chats.jsonl", "--reward-funcs", "asked.short", "asked.tokens", "--reward-weights", "1", "0"]
    sizes = ["--generation-batch-size", "16", "--num-generations", "4", "--max-steps", "2", "--max-completion-length", "8"]
    assert run("run", *flags, *sizes, "--system-prompt", "Be brief.") == 0
    assert [row["seen"] for row in folders.read_metrics("run")] == [0, 1]
    assert folders.read_metrics("run")[0]["rewards/tokens/mean"] > 0
    samples = json.loads(Path("run/samples.jsonl").read_text())
    assert [m["role"] for m in samples["prompts"][0]] == ["system", "user"]
    assert samples["rewards"] == [-len(text) - 0.5 for text in samples["completions"]]
    assert samples["wanted"] == [int(prompt[1]["content"].split()[0]) + 1 for prompt in samples["prompts"]]


def test_a_reference_that_has_moved_is_not_in_a_checkpoint(short, tmp_path):
    config = GRPOConfig(engine="trl", sync_ref_model=True, ref_model_sync_steps=3, max_steps=9)
    with pytest.raises(BadInput, match="such a run cannot be resumed"):
        trl_engine.latest_checkpoint(short, config)


@pytest.mark.parametrize(("rank", "waited"), [("0", []), ("1", [3])])
def test_what_every_process_finds_the_first_says_before_the_others(rank, waited, monkeypatch, capsys):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setenv("RANK", rank)
    assert cli.main(["train", "--engine", "trl", "--beta", "-1"]) == 2
    assert capsys.readouterr().err.startswith("minigrpo: beta must be 0 or a positive number")
    assert slept == waited


# --- two processes ------------------------------------------------------------------------------------------------------------


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_two_processes_learn_one_is_killed_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    sizes = ("--max-steps", "20", "--save-steps", "3", "--learning-rate", "1e-3")
    flags = ["train", "--engine", "trl", "--output-dir", str(folder)]
    process = launch("minigrpo", *flags, *sizes)
    while process.poll() is None and lines(folder) < 7:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if child.environ().get("RANK") == "1").send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "processes: 2" in said
    assert said.count("minigrpo: Another process of this run has ended") == 1
    assert f"with --resume --output-dir {folder} goes on" in said
    done = lines(folder)
    assert 7 <= done < 20

    codes, said = in_two_processes(tmp_path / "refused", cli.main, flags)
    assert codes[0] == 2
    assert codes[1] != 0
    assert said.count("minigrpo: ") == said.count("minigrpo: The folder") == 1  # one sentence, although two processes end
    assert "Traceback" not in said

    codes, said = in_two_processes(tmp_path / "resumed", cli.main, [*flags, "--resume"])
    assert codes == [0, 0], said
    after = int(re.search(r"Going on after step (\d+)", said)[1])
    assert after % 3 == 0  # the last checkpoint, or the one before if the process was killed while it was written
    assert done - 6 < after <= done
    assert [row["step"] for row in folders.read_metrics(folder)] == list(range(1, 21))
    summary = folders.read_json(folder / "summary.json")
    assert summary["steps"] == 20
    assert summary["before"]["accuracy_greedy"] < 0.3
    assert summary["after"]["accuracy_greedy"] >= 0.7
    assert (folder / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("error", [ValueError("MASTER_ADDR expected, but not set"), RuntimeError("address already in use")])
def test_processes_that_cannot_meet_are_told_so(monkeypatch, error):
    def alone(**kwargs):
        raise error

    monkeypatch.setattr(trl_engine, "PartialState", alone)
    with pytest.raises(BadInput, match=f"cannot meet: {error} .accelerate launch"):
        to_trl(GRPOConfig())


def test_a_device_that_accelerate_does_not_find_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadInput, match="device is cuda, but accelerate finds none here; it would take cpu"):
        trl_engine.join(GRPOConfig(engine="trl", device="cuda"))


def test_several_processes_of_the_same_run_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", "--output-dir", str(tmp_path / "run")]) == 2
    assert "--engine trl shares one among them" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
