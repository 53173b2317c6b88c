"""Will it fit? The memory of a run, from the shape of the model, the rows at once and their lengths; nothing is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minigrpo.config import BadInput, GRPOConfig, first_line

FLOAT = 4  # bytes; weights and what is kept of a forward pass are float32 here
LIBRARIES = 0.6e9  # bytes of Python, torch and transformers at work, measured on Linux
GB = 1e9


class Shape(NamedTuple):
    """What of a model decides how much memory it takes."""

    parameters: int
    layers: int
    width: int  # of the hidden states
    mlp: int  # width inside the MLP
    keys: int  # width of all keys of a token: less than that of the hidden states with grouped-query attention
    vocabulary: int
    gated: bool = True  # like Llama: rotary positions, RMSNorm, a gated MLP; else like GPT-2

    @property
    def kept(self) -> int:
        """Numbers that a layer keeps of each token for the backward pass: what goes into and comes out of each operation."""
        if self.gated:
            return 9 * self.width + 3 * self.keys + 4 * self.mlp
        return 6 * self.width + 2 * self.keys + 2 * self.mlp

    @property
    def kept_in_attention(self) -> int:
        """And of each token that a completion attends to: keys and values, with shared ones also spread over all heads."""
        return 2 * self.keys + 2 * self.width * (self.keys < self.width)


SHAPES = {  # from the models' own configurations, where the hub need not be asked
    "tiny": Shape(273_216, 2, 96, 384, 96, 258, gated=False),
    "gpt2": Shape(124_439_808, 12, 768, 3072, 768, 50257, gated=False),
    "smollm2": Shape(134_515_008, 30, 576, 1536, 192, 49152),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(494_032_768, 24, 896, 4864, 128, 151936),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(1_235_814_400, 16, 2048, 8192, 512, 128256),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1_543_714_304, 28, 1536, 8960, 256, 151936),
    "Qwen/Qwen2.5-7B-Instruct": Shape(7_615_616_512, 28, 3584, 18944, 512, 152064),
}


@dataclass(frozen=True)
class Fit:
    """Bytes, part by part; ``total`` is the peak of a training step on the CPU, or on a GPU without the libraries' share."""

    weights: float  # of the policy
    reference: float  # its frozen copy; 0 at beta 0
    moments: float  # AdamW's two
    gradient: float
    sampling: float  # keys and values of all completions, and the logits of a token; beside the gradient of the step before
    update: float  # what a forward pass keeps, and the logits of a chunk
    gradient_beside_update: bool  # there from the first part on, where the rollout is learnt from in parts

    @property
    def total(self) -> float:
        update = self.update + self.gradient * self.gradient_beside_update
        steady = self.weights + self.reference + self.moments + LIBRARIES
        return steady + max(self.gradient + self.sampling, update)

    def __str__(self) -> str:
        after_update = " (gone while the update's forward pass runs)" * (not self.gradient_beside_update)
        lines = {
            "policy": self.weights,
            "reference": self.reference,
            "AdamW's moments": self.moments,
            f"gradient{after_update}": self.gradient,
            "sampling, at its peak": self.sampling,
            "update, at its peak": self.update,
            "libraries": LIBRARIES,
            "at the peak of a step": self.total,
        }
        return "\n".join(f"{_in_words(size):>11}  {name}" for name, size in lines.items())


def _in_words(size: float) -> str:
    return f"{size / GB:.2f} GB" if size >= 0.1 * GB or size == 0 else f"{size / 1e6:.2f} MB"


def fit(model: str = "tiny", *, prompt_length: int = 64, config: GRPOConfig | None = None, **settings) -> Fit:
    """The memory that a run would take, without loading anything: a formula, within 15 % of what was measured.

    For models like GPT-2 and Llama, in float32, with every completion as long as it may be and no two alike; less is taken
    where they are. Seconds depend on the machine: see ``step_seconds``.

    Args:
        model: one of SHAPES, the folder of a model, or a name on the hub, of which only the configuration is fetched.
        prompt_length: tokens. config: of the run; or **settings, its fields, such as generation_batch_size.
    Raises:
        BadInput: for a model whose configuration cannot be had or does not say what is needed, or a length below 1.
    """
    config, shape = config or GRPOConfig(model=model, **settings), shape_of(model)
    check_prompt_length(prompt_length)
    rows = config.generation_batch_size
    part = min(config.per_device_train_batch_size or rows, rows)
    text, weights = prompt_length + config.max_completion_length, FLOAT * shape.parameters
    sampling = FLOAT * rows * text * 2 * shape.keys * shape.layers + 3 * FLOAT * part * shape.vocabulary
    return Fit(
        weights=weights,
        reference=weights * bool(config.beta),
        moments=2 * weights,
        gradient=weights,
        sampling=sampling,
        update=_update(shape, config, part, prompt_length, text) + weights * config.gradient_checkpointing * (part == rows),
        gradient_beside_update=part < rows,
    )


def check_prompt_length(prompt_length: int) -> None:
    if prompt_length < 1:
        raise BadInput(f"prompt_length must be at least 1, got {prompt_length}.")


def _update(shape: Shape, config: GRPOConfig, part: int, prompt_length: int, text: int) -> float:
    """Bytes that are held when the backward pass of a part begins: layers, head, and the logits of a chunk."""
    tokens = part * config.max_completion_length
    read = -(-part // config.num_generations) * prompt_length + tokens  # a prompt is read once for all its completions
    layer = read * shape.kept + part * text * shape.kept_in_attention
    layers = shape.layers * layer
    if config.gradient_checkpointing:  # what goes into each layer, keys and values, which stay, and one layer that runs again
        layers = shape.layers * (read * shape.width + 3 * part * text * 2 * shape.keys) + layer
    logits = 3 * min(2**24, tokens * shape.vocabulary)  # head.LOGITS_AT_ONCE
    return FLOAT * (layers + logits + shape.vocabulary * shape.width)


def shape_of(model: str) -> Shape:
    """The shape of a model by its name or folder. Raises BadInput as ``fit`` does."""
    if model in SHAPES:
        return SHAPES[model]
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from minigrpo.hub import cached_or_fetched

    folder = Path(model) / "model" if (Path(model) / "model").is_dir() else Path(model)
    if folder.is_dir() and not _of_a_model(folder / "config.json"):
        raise BadInput(
            f"The folder {str(folder)!r} holds no config.json of a model; a finished run or save_pretrained makes one."
        )
    if folder.suffix == ".gguf":
        raise BadInput(f"A GGUF file such as {model!r} does not say its shape here; name the model that it was made from.")
    try:
        load = AutoConfig.from_pretrained
        config = load(str(folder), local_files_only=True) if folder.is_dir() else cached_or_fetched(load, model)
        with torch.device("meta"):  # shapes without numbers
            parameters = AutoModelForCausalLM.from_config(config).num_parameters()
        text = config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return Shape(
            parameters=parameters,
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            mlp=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size,
            keys=head * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
            vocabulary=text.vocab_size,
            gated=hasattr(text, "rms_norm_eps"),
        )
    except BadInput:
        raise
    except Exception as error:  # whatever a damaged configuration, or one of another kind, makes a library raise
        raise BadInput(f"The shape of the model {model!r} cannot be told: {first_line(error)}") from error


def _of_a_model(file: Path) -> bool:
    """Whether a config.json is that of a model, and not that of a run that did not finish."""
    try:
        return "model_type" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
