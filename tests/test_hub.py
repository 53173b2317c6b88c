"""What is said of a model that is nowhere: by load_policy and every command alike, in one sentence that is ours."""

import re

import huggingface_hub
import pytest

from minigrpo.config import BadInput
from minigrpo.policy import load_policy
from minigrpo.run.cli import main
from minigrpo.run.fit import fit

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """No network, and a folder with a broken model, a run and a file."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "mychat").mkdir()
    (tmp_path / "runs" / "clock-0").mkdir(parents=True)
    (tmp_path / "notes.md").write_text("")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mychatt", "is 'mychat' meant?"),
        ("runs/clock0", "is 'runs/clock-0' meant?"),
        ("clock-0", "is 'runs/clock-0' meant?"),
        ("runs/nope", "'runs' has clock-0."),
        ("tinny", "is 'tiny' meant?"),
        ("no-such", "wanted is tiny, smollm2, a folder of a run or of save_pretrained, a .gguf file, or a name on the hub."),
    ],
)
@pytest.mark.parametrize("ask", [load_policy, fit])
def test_a_misspelt_model_is_told_what_may_be_meant(name, meant, ask):
    start = f"There is no model '{name}': no folder here is called that, and HF_HUB_OFFLINE is set, so the hub is not asked; "
    with pytest.raises(BadInput, match=f"^{re.escape(start + meant)}$"):
        ask(name)


def test_every_command_that_takes_a_model_says_the_same(capsys):
    for words in (["train"], ["generate", "hi"], ["evaluate"], ["fit"]):
        assert main([*words, "--model", "TYPO"]) == 2
        assert capsys.readouterr().err.startswith("minigrpo: There is no model 'TYPO': no folder here is called that, and ")


def answer(error):
    def model_info(*args, **kwargs):
        raise error

    return model_info


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("gpt2", OSError("[Errno -2] Name or service not known"), "the hub cannot be reached ([Errno -2] Name or service not"),
        ("gpt2", ValueError("Something\nelse"), "the hub says: Something; "),
        ("notes.md", None, "it is a file and no folder, and HF_HUB_OFFLINE"),
        ("no such/model!", None, "no name on the hub looks like that; "),
        ("org/deep/name", None, "no name on the hub looks like that; "),
    ],
)
def test_why_the_hub_does_not_give_it(name, error, why, monkeypatch):
    if error:
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", answer(error))
    with pytest.raises(BadInput, match=re.escape(why)) as found:
        load_policy(name)
    assert "\n" not in str(found.value)


def test_a_name_that_the_hub_does_not_have(monkeypatch):
    kind = huggingface_hub.errors.RepositoryNotFoundError
    error = kind.__new__(kind)  # its own __init__ wants a response
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", answer(error))
    with pytest.raises(BadInput, match="the hub shows you none of that name; is 'gpt2' meant"):
        load_policy("gpt3")


def test_what_is_a_file_or_folder_is_not_looked_for_on_the_hub():
    with pytest.raises(BadInput, match=r"^The folder 'mychat' holds no model \(config.json and"):
        load_policy("mychat")
    with pytest.raises(BadInput, match=r"^The folder 'mychat' holds no config.json of a model"):
        fit("mychat")
    with pytest.raises(BadInput, match=r"^A GGUF file such as 'small.gguf' does not say its shape here; name the model that"):
        fit("small.gguf")
