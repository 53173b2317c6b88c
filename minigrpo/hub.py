"""The hub: whether it has what a name says, asked once and quickly; where it has not, one sentence of what may be meant."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

from minigrpo.config import BadInput, first_line

BY_NAME = ("tiny", "smollm2", "gpt2")


def cached_or_fetched(load: Callable[..., Any], name: str) -> Any:
    """What ``load(name, **kwargs)`` makes of a model: from the hub's local cache if all of it is there, else over the network.

    Raises:
        BadInput: if the hub has no such model, or cannot be asked; with what else the name may mean.
    """
    try:
        return load(name, local_files_only=True)
    except BadInput:
        raise
    except (OSError, ValueError):
        pass  # Is there a network? One quick question first, instead of half a minute of retries.
    try:
        huggingface_hub.HfApi().model_info(name, timeout=10)
    except Exception as error:  # offline, unknown, private, misspelt, or a proxy in between
        what = "it is a file and no folder" if Path(name).is_file() else "no folder here is called that"
        raise BadInput(f"There is no model {name!r}: {what}, and {why_not(error)}; {_meant(name)}") from error
    return load(name)


def why_not(error: Exception) -> str:
    """In half a sentence, why the hub did not give something."""
    if isinstance(error, RepositoryNotFoundError):
        return "the hub shows you none of that name"
    if isinstance(error, HFValidationError):
        return "no name on the hub looks like that"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    if isinstance(error, HfHubHTTPError | ValueError):
        return f"the hub says: {first_line(error).rstrip('.')}"
    return f"the hub cannot be reached ({first_line(error).rstrip('.')})"


def _meant(name: str) -> str:
    """What a name of no model may stand for: what is spelt nearly so, or what lies in the folder that it names."""
    parent = Path(name).parent
    beside = {path.name: str(path) for path in sorted(parent.glob("*")) if path.is_dir()}
    if parent == Path():
        beside |= {path.name: str(path) for path in sorted(Path("runs").glob("*")) if path.is_dir()}
        beside |= dict(zip(BY_NAME, BY_NAME, strict=True))
    if near := difflib.get_close_matches(Path(name).name, beside, n=1):
        return f"is {beside[near[0]]!r} meant?"
    if parent != Path() and beside:
        return f"{str(parent)!r} has {', '.join(list(beside)[:5])}."
    return "wanted is tiny, smollm2, a folder of a run or of save_pretrained, a .gguf file, or a name on the hub."
