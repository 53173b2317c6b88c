"""What a run learns from besides its configuration, as checksums: a resumed run goes on with the same, or says what changed."""

import hashlib
import json
from pathlib import Path

from minigrpo.config import BadInput, GRPOConfig
from minigrpo.run import folders
from minigrpo.run.rewards_by_name import source_file
from minigrpo.triples import BUNDLED

CONFIG = "its config.json"
NAME = "inputs.json"  # not in config.json, whose fields are GRPOConfig's
OF_A_MODEL = (".safetensors", ".json", ".txt", ".model", ".jinja")


def checksums(config: GRPOConfig) -> dict[str, str]:
    """What it is -> SHA-256, of the files that the configuration names (records, reward functions, reward model, model), and of
    the configuration: an editor may change in config.json what a flag may not."""
    found = {CONFIG: _of_settings(config)}
    if config.triples is not None:
        records = BUNDLED if config.triples == "bundled" else Path(config.triples)
        found[f"the records {config.triples!r}"] = _of_file(records)
    for name in config.reward_funcs or []:
        if path := source_file(name):
            found[f"the file of the reward function {name!r}"] = _of_file(path)
    for what, name in (("reward model", config.reward_model), ("model", config.model)):
        if name is not None and Path(name).is_dir():
            found[f"the {what} {name!r}"] = _of_model(Path(name))
    return found


def check_unchanged(folder: Path, now: dict[str, str]) -> None:
    """Raises BadInput if the run in ``folder`` was made from something else. Older runs have no checksums, and go on."""
    path = folder / NAME
    try:
        then = dict(folders.read_json(path)) if path.exists() else {}
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{str(path)!r}, the checksums of what the run was made from, is damaged; delete it to go on."
        ) from error
    changed = [what for what, checksum in then.items() if now.get(what, checksum) != checksum]
    if changed:
        raise BadInput(
            f"Since the run in {str(folder)!r} began, {' and '.join(changed)} changed, and it would go on as another run; "
            f"bring back what was there, or delete {str(path)!r} to go on with what is there now."
        )


def check_forkable(folder: Path, now: dict[str, str]) -> None:
    """check_unchanged for a fork, whose configuration is another one: that of the run has to be as it was all the same."""
    check_unchanged(folder, {**now, CONFIG: _of_settings(GRPOConfig(**folders.saved_config(folder)))})


def _of_settings(config: GRPOConfig) -> str:
    """Of what differs from the defaults, so that a field that a later version brings makes no other run of it."""
    defaults = GRPOConfig().to_dict()
    fixed = {name: value for name, value in config.to_dict().items() if name not in folders.MAY_CHANGE_ON_RESUME}
    changed = json.dumps({name: value for name, value in fixed.items() if value != defaults[name]}, sort_keys=True)
    return hashlib.sha256(changed.encode()).hexdigest()


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_model(folder: Path) -> str:
    folder = folder / "model" if (folder / "model").is_dir() else folder  # of a run
    files = sorted(path for path in folder.iterdir() if path.suffix in OF_A_MODEL and path.is_file())
    return hashlib.sha256("".join(path.name + _of_file(path) for path in files).encode()).hexdigest()
