"""The configuration of a run: one frozen dataclass with the names of TRL's GRPOConfig. Imports no torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from numbers import Real
from typing import Literal, get_args, get_origin, get_type_hints

from minigrpo.defaults import task_defaults, triples_defaults


class BadInput(ValueError):
    """Something that came from the user cannot be used. The message is one sentence: what came, what was wanted."""


FLOAT32_MAX = 3.4028234e38
LOWEST_TEMPERATURE = 1e-6  # below it logits / temperature leave float32


def plain(value):
    """A number of numpy's or torch's as Python's own; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def check_temperature(temperature: float, *, greedy: bool = True) -> None:
    """Raises BadInput for a temperature that cannot be sampled at. Greedy is 0, where training has nothing to learn from."""
    number = plain(temperature)
    number = number if isinstance(number, Real) and not isinstance(number, bool) else -1
    if not (LOWEST_TEMPERATURE <= number < float("inf") or (greedy and number == 0)):
        wanted = f"{'0 (greedy), or ' if greedy else ''}at least {LOWEST_TEMPERATURE}"
        raise BadInput(f"temperature must be {wanted}, got {temperature!r:.60}.")


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing, or fails to."""
    try:
        said = str(error).splitlines()
    except Exception:
        said = []
    line = (said or [type(error).__name__])[0]
    return line if len(line) <= 200 else line[:200].rsplit(" ", 1)[0] + " ..."


GROUPS = ("start here", "for the lessons", "rarely")  # of the flags in train --help


def _field(default, help, group=None, **flag):  # noqa: A002 - HfArgumentParser's word
    return field(default=default, metadata={"help": help, "group": group, **flag})


_start, _lesson, _rarely = (partial(_field, group=group) for group in GROUPS)


@dataclass(frozen=True)
class GRPOConfig:
    """What a run of GRPO needs to know. Every field is also a flag of ``minigrpo train``.

    Letters: P prompts per rollout, G completions per prompt, B = P * G completions per rollout.

    Raises:
        BadInput: for a value out of range, with the range.
    """

    model: str = _start("tiny", "The policy: 'tiny' (bundled), 'smollm2', a name on the hub, a folder, or a .gguf file.")
    task: Literal["clock", "sums", "addition", "words", "records", "dataset"] = _start(
        "clock",
        "The problems to train on and to be scored on, see tasks.py; records and dataset: a file's own prompts (--triples, "
        "--dataset-name).",
    )
    dataset_name: str | None = _start(
        None,
        "Your own prompts: a .jsonl, .json, .csv or .parquet file, a data set on the hub, or reasoning_gym:TASK; other columns "
        "go to the reward functions. One prompt in eight is held out, to be scored on.",
    )
    dataset_config: str | None = _rarely(None, "Which part of a data set on the hub, such as main for openai/gsm8k.")
    dataset_split: str = _rarely("train", "Which split of a data set on the hub.")
    prompt_column: str = _rarely("prompt", "The column that holds the prompts: texts, or conversations of {role, content}.")
    chat: bool = _rarely(False, "Make each prompt that is a plain text a user's turn, in the tokenizer's chat template.")
    system_prompt: str | None = _rarely(None, "A turn of the system in front of each conversation.")
    reward_funcs: list[str] | None = _start(
        None, "Reward functions as module.function or FILE.py:function, in TRL's protocol; by default the task's own."
    )
    reward_weights: list[float] | None = _rarely(None, "One weight per reward function; by default all 1.")
    reward_model: str | None = _lesson(
        None, "A folder of minigrpo reward-model: the reward; what other reward functions say is then only logged."
    )
    triples: str | None = _start(
        None,
        "Learn from scored records instead of sampling: a .jsonl, .csv or .parquet file; the bundled ones without.",
        nargs="?",
        const="bundled",
    )
    triples_estimator: Literal["weighted", "policy_gradient"] = _lesson(
        "weighted", "How records are learnt from; see triples.py."
    )
    triples_writer: Literal["unknown", "reference"] = _lesson(
        "unknown",
        "Who wrote the records. If the reference did, policy_gradient compares with it: the ratio and its clip are then those "
        "to the writer. The bundled records were written by the bundled model.",
    )
    output_dir: str | None = _start(None, "The folder of the run; by default runs/TASK-SEED.")
    seed: int = _rarely(0, "Decides which prompts and completions are drawn.")  # TRL has 42
    report_to: Literal["none", "trackio"] = _rarely(
        "none",
        "Where the metrics go besides metrics.jsonl: trackio's dashboard on this machine (pip install 'minigrpo[trackio]').",
    )
    engine: Literal["minigrpo", "trl"] = _rarely(
        "minigrpo", "Who trains: this package, in one process; or TRL, under accelerate launch (pip install 'minigrpo[scale]')."
    )
    device: str = _rarely("cpu", "Where the model is: cpu, to the same last bit each time, or cuda, cuda:1.")
    bf16: bool = _rarely(False, "Compute in bfloat16 where autocast deems it safe; the weights stay float32.")

    # TRL trains for epochs and saves every 500 steps; here a run is done within 150.
    max_steps: int = _start(150, "How many optimizer updates; each gives one line of metrics.")
    save_steps: int = _rarely(50, "How many steps lie between two checkpoints.")
    save_total_limit: int | None = _rarely(None, "How many checkpoints are kept, the latest; by default all.")
    eval_steps: int | None = _rarely(
        None, "How many steps lie between two scorings on the held-out problems; by default before and after training alone."
    )
    generation_batch_size: int = _start(64, "B, completions in a rollout; a multiple of num_generations.")
    num_generations: int = _start(8, "G, completions per prompt: the group that an answer is compared with.")
    # TRL has 8, which nothing here needs to fit into memory.
    per_device_train_batch_size: int | None = _rarely(
        None, "Completions in one forward and backward pass, whose gradients add up; by default all of a rollout."
    )
    # TRL has True.
    gradient_checkpointing: bool = _rarely(
        False, "Keep the inputs of the layers alone, and run them again in the backward pass, to save memory."
    )
    num_iterations: int = _lesson(1, "mu, updates on one rollout; from the second on the ratio differs from 1.")
    # TRL has 512. On the clock task nobody needs more than 13 tokens.
    max_completion_length: int = _start(16, "The number of tokens after which a completion is cut off.")
    temperature: float = _lesson(1.0, "Temperature of sampling, and so of the policy whose log-probs are scored.")

    # TRL has 1e-6, right for models of billions of parameters; the bundled one has 0.3 million.
    learning_rate: float = _start(2e-4, "Learning rate of AdamW, where the schedule has its top.")
    # TRL has linear, which ends at 0 and so makes of a longer run another one.
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = _rarely(
        "constant", "How the learning rate goes on from there: linear and cosine fall to 0 at max_steps."
    )
    warmup_steps: int = _rarely(0, "How many steps the learning rate takes to rise from 0.")
    weight_decay: float = _rarely(
        0.0, "Share of the learning rate by which matrices shrink at each step; biases and norms do not."
    )
    # TRL's. A gradient far below it moves its weight hardly at all, one far above by the whole learning rate.
    adam_epsilon: float = _rarely(1e-8, "Epsilon of AdamW.")
    max_grad_norm: float = _rarely(1.0, "The gradient is scaled down to this norm where it is longer.")
    # TRL has 0: no reference model. Here the KL is a lesson, so it is there and shown; 0.04 is DeepSeekMath's.
    beta: float = _start(0.04, "Weight of the KL penalty towards the reference; 0 leaves reference and KL out.")
    kl_estimator: Literal["k1", "k2", "k3", "k3_ratio", "exact"] = _lesson(
        "k3_ratio", "How the KL of a token is estimated; see kl.py. k3_ratio is TRL's default."
    )
    kl_in_reward: bool = _lesson(False, "Subtract the KL (k1) from the reward, as PPO does, and not in the loss.")
    sync_ref_model: bool = _lesson(False, "Make the policy the new reference every ref_model_sync_steps.")
    ref_model_sync_steps: int = _lesson(512, "How many steps lie between two new references; see sync_ref_model.")

    # TRL has dapo; grpo is the formula of the paper, and the one that the lessons derive.
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = _lesson(
        "grpo", "How the tokens' losses are averaged; cispo also clips differently. See loss.py."
    )
    importance_sampling_level: Literal["token", "sequence"] = _lesson(
        "token", "Whether a token has a ratio of its own, or its completion's (GSPO)."
    )
    scale_rewards: Literal["group", "batch", "none"] = _lesson(
        "group", "Whose standard deviation the advantages are divided by."
    )
    epsilon: float = _lesson(0.2, "How far the ratio may profitably fall below 1.")
    epsilon_high: float | None = _lesson(
        None, "How far above 1; by default epsilon. For cispo it is required: the cap of the weight, about 5."
    )

    def __post_init__(self):
        for name, value in vars(self).copy().items():  # from a sweep over np.linspace, say
            object.__setattr__(self, name, [plain(item) for item in value] if isinstance(value, list) else plain(value))

        def check(valid: bool, name: str, wanted: str) -> None:
            if not valid:
                raise BadInput(f"{name} must be {wanted}, got {getattr(self, name)!r}.")

        self._check_kinds(check)
        self._check_ranges(check)
        self._check_counts(check)
        self._check_together(check)

    def _check_kinds(self, check: Callable[[bool, str, str], None]) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, kinds = getattr(self, name), get_args(kind)
            if get_origin(kind) is Literal:
                check(value in kinds, name, f"one of {', '.join(kinds)}")
            elif kind is int or (int in kinds and value is not None):
                check(type(value) is int, name, "a whole number")
                check(value < 2**31, name, "below 2147483648")  # which all libraries take
            elif kind is bool:
                check(type(value) is bool, name, "true or false")
            elif kind is str or (str in kinds and value is not None):
                check(isinstance(value, str), name, "a text")
                check(value == value.encode(errors="ignore").decode(), name, "UTF-8, as files and the hub have it")
            elif list[str] in kinds and value is not None:
                check(isinstance(value, list) and all(isinstance(v, str) for v in value), name, "a list of texts")
            elif list[float] in kinds and value is not None:
                check(isinstance(value, list) and all(type(v) in (int, float) for v in value), name, "a list of numbers")
            elif kind is float or (float in kinds and value is not None):
                check(type(value) in (int, float), name, "a number")

    def _check_ranges(self, check: Callable[[bool, str, str], None]) -> None:
        for name in ("max_steps", "save_steps", "num_iterations", "max_completion_length", "ref_model_sync_steps"):
            check(getattr(self, name) >= 1, name, "at least 1")
        check(self.eval_steps is None or self.eval_steps >= 1, "eval_steps", "at least 1")
        check_temperature(self.temperature, greedy=False)
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm"):
            check(0 < getattr(self, name) < float("inf"), name, "a positive number")
        check(self.save_total_limit is None or self.save_total_limit >= 1, "save_total_limit", "at least 1")
        check(0 <= self.weight_decay < float("inf"), "weight_decay", "0 or a positive number")
        check(self.warmup_steps >= 0, "warmup_steps", "at least 0")
        warms_up = self.warmup_steps == 0 or self.lr_scheduler_type != "constant"
        check(warms_up, "warmup_steps", "0 with lr_scheduler_type constant; constant_with_warmup, linear and cosine take it")
        weights = self.reward_weights or []
        check(all(abs(weight) <= FLOAT32_MAX for weight in weights), "reward_weights", "finite numbers, at most 3.4e38")
        check(0 <= self.seed < 2**31, "seed", "between 0 and 2147483647")
        check(0 <= self.beta < float("inf"), "beta", "0 or a positive number")
        check(0 <= self.epsilon < 1, "epsilon", "at least 0 and below 1, since the ratio is clipped to 1 - epsilon")
        check(self.epsilon_high is None or 0 <= self.epsilon_high < float("inf"), "epsilon_high", "at least 0")
        if self.loss_type == "cispo":
            check(
                self.epsilon_high is not None,
                "epsilon_high",
                "given with loss_type cispo, where it is the cap of the weight itself (about 5)",
            )

    def _check_counts(self, check: Callable[[bool, str, str], None]) -> None:
        check(
            self.num_generations >= 2,
            "num_generations",
            "at least 2, since an answer is compared with the others of its group",
        )
        check(
            self.generation_batch_size >= 1 and self.generation_batch_size % self.num_generations == 0,
            "generation_batch_size",
            f"a positive multiple of num_generations ({self.num_generations}), since it counts completions",
        )
        part = self.per_device_train_batch_size
        check(
            part is None or (part >= 1 and self.generation_batch_size % part == 0),
            "per_device_train_batch_size",
            f"a divisor of generation_batch_size ({self.generation_batch_size}), the completions that it takes in parts",
        )

    def _check_together(self, check: Callable[[bool, str, str], None]) -> None:
        """What one field asks of another."""
        triples, dataset = self.triples is not None, self.dataset_name is not None
        check(not (triples and dataset), "dataset_name", "left out with triples, which bring prompts of their own")
        bundled = "clock, sums, addition or words"
        wanted = "left out with dataset_name, which brings the problems" if dataset else f"{bundled}, without a dataset_name"
        check((self.task == "dataset") == dataset, "task", wanted)
        for name, default in (("dataset_config", None), ("dataset_split", "train"), ("prompt_column", "prompt")):
            check(dataset or getattr(self, name) == default, name, "left out without a dataset_name")
        check(self.task != "records" or triples, "task", f"{bundled}, unless there are records (triples)")
        for name in ("reward_funcs", "reward_weights", "reward_model") if triples else ():
            check(getattr(self, name) is None, name, "left out with triples, whose rewards stand in the records")
        for name in ("chat", "system_prompt") if triples else ():
            check(not getattr(self, name), name, "left out with triples, where conversations stand in the records (messages)")
        check(self.system_prompt is None or self.system_prompt.strip() != "", "system_prompt", "a text that is not empty")
        check(not (self.task == "records" and self.eval_steps), "eval_steps", "left out where nothing scores the completions")
        if dataset and not self.dataset_name.startswith("reasoning_gym:"):
            scored = bool(self.reward_funcs or self.reward_model)
            check(scored, "reward_funcs", f"given for {self.dataset_name!r}: which of its completions are good, you alone know")
        if triples and self.triples_estimator == "weighted":
            check(self.beta > 0, "beta", "above 0 for the weighted estimator, which divides the rewards by it")
        if self.triples_writer == "reference":
            ratio = self.triples is not None and self.triples_estimator == "policy_gradient"
            check(ratio, "triples_writer", "unknown, unless triples_estimator is policy_gradient, which alone has a ratio")
            check(self.beta > 0, "beta", "above 0 where the reference is the writer, since at 0 there is no reference")

    @classmethod
    def for_task(cls, task: str, **changes) -> "GRPOConfig":
        """The defaults of ``minigrpo train --task``, with changes."""
        return cls(**{**task_defaults(task), "task": task, **changes})

    @classmethod
    def for_triples(cls, triples: str = "bundled", **changes) -> "GRPOConfig":
        """The defaults of ``minigrpo train --triples``, with changes."""
        return cls(**{**triples_defaults(triples), "triples": triples, **changes})

    def to_dict(self) -> dict:
        return asdict(self)
