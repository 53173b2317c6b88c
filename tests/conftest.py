"""Shared by the tests: how they are shared out and in which order they run; small models made on the spot."""

import os
import shutil

import pytest
from hypothesis import settings

# The same examples each time: what fails here fails elsewhere, and what passes does not fail by chance in a CI run.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")

# torch and transformers are imported where they are needed: the process that only shares the tests out does without them.

FIRST = ("advantages", "logprobs", "kl", "loss", "against_trl", "metrics", "rewards", "scoring", "sampling")  # the algebra

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync"]
FLAGS = [f"--{flag}" for flag in (*FLAGS, "disable-component-update")]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # here, in the workers and in all that they start: a second thread is no gain


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist, all tests run in this process
def pytest_xdist_auto_num_workers(config):
    """One process per core; none for files that were named: they have ended before another process has imported torch."""
    return 0 if config.getoption("file_or_dir") else min(4, os.cpu_count())


def pytest_ignore_collect(collection_path, config):
    """For ``-m quick``, what has no quick test need not be imported, nor a notebook read."""
    if config.getoption("markexpr") == "quick" and collection_path.suffix in (".py", ".ipynb"):
        source = collection_path.read_text(encoding="utf-8")
        return True if "mark.quick" not in source and ">>> " not in source else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """The algebra first: what is wrong there makes everything else fail, too. Doctests are quick, and slow tests are not."""
    if config.getoption("markexpr") == "quick":
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    order = {f"test_{name}": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Around each test; of a notebook's cell, nbval has kept what it wrote."""
    result = yield
    said = "".join(output.text for output in getattr(item, "test_outputs", None) or [] if output.get("name") == "stderr")
    if said:
        item.raise_cell_error("The cell wrote to stderr, as a warning does", said)
    return result


@pytest.fixture(scope="session", autouse=True)
def quiet():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, by playwright; a test that wants it is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def drawn_once():
    """Curves take most of a second, and few tests look at them: a module's first run draws its own, the others get a copy."""
    from minigrpo.run import runner, summary

    finish, draw, first = summary.finish, summary.plot_to, []

    def draw_or_copy(output, *args):
        if first:
            output.write_bytes(first[0])
        else:
            draw(output, *args)
            first.append(output.read_bytes())

    def finish_undrawn(*args, **kwargs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(summary, "plot_to", draw_or_copy)
            finish(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "finish", finish_undrawn)
        yield


@pytest.fixture(scope="session")
def tokenizer():
    from tests.tools.pretrain import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture
def tiny():
    """The bundled model, fresh each time: tests train it."""
    from minigrpo.policy import load_policy

    return load_policy("tiny")


@pytest.fixture
def random_model(tokenizer):
    """A GPT-2 of random weights whose output depends strongly on every token and on its position."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=40,
        n_layer=2,
        n_embd=16,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()
