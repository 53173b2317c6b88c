"""JupyterLab in a real browser: notebooks run from the top, figures appear, buttons work.

Needs Chromium (Debian's package ``chromium``); screenshots go to $SCREENSHOTS where that is set.
"""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from ipywidgets import Widget

from minigrpo.view import controls
from tests.tools.build_notebooks import FOLDER, KERNEL

pytestmark = pytest.mark.browser
SECONDS = 240
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # or cells out of sight are not on the page
}
# That all cells of these run is shown elsewhere, without a browser; here run those that move, and what they need.
LIVE = {
    "00_one_picture": [
        "import matplotlib",
        "be_the_reward()",
        "clock_task()",
        "def right_answer",
        "check(",
        "mine =",
        "mg.watch(",
    ],
    "07_triples": ["import minigrpo", 'records = mg.load_triples("bundled")', "mg.rate(records"],
}
# All of it on one page, for one kernel: their cells, one that the other controls need, and one for each of these.
PREPARED = """
import minigrpo as mg
from minigrpo.view.controls import advantages, clinic, clip, settings, temperature
policy, tokenizer = mg.load_policy("tiny")
rollout = mg.sample_completions(policy, tokenizer, ["4*2+9+7*1*4="], num_generations=1, max_completion_length=2)
runs = [mg.read_metrics(f"runs/seed-{seed}.jsonl") for seed in range(2)]
forty_steps = settings.run_steps
settings.run_steps = lambda **changes: forty_steps(3, **changes)  # so that nobody waits
"""
CONTROLS = {
    "try_temperature": "temperature.try_temperature(tokenizer, mg.policy_logits(policy, rollout).detach())",
    "try_rewards": "advantages.try_rewards()",
    "try_group_size": "advantages.try_group_size()",
    "try_the_clip": "clip.try_the_clip(clip.read_clip_study())",
    "try_settings": "settings.try_settings(runs)",
    "open_clinic": "clinic.open_clinic(clinic.read_clinic())",
    "drag_policy": "mg.drag_policy()",
    "choose_seeds": 'mg.choose_seeds({"a": [0.1, 0.12, 0.11, 0.09, 0.1], "b": [0.1, -0.1, 0.2, 0, 0.1]})',
}
DARK = {"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"}}


def live_cells():
    """{word: source} of those code cells of the notebooks that have one of LIVE's words in them, and of all others."""
    found = {}
    for name, words in LIVE.items():
        notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
        sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        chosen = [(word, source) for source in sources for word in words if word in source]
        assert [word for word, _ in chosen] == words, "each word stands in one cell"
        found |= chosen
    assert "max_steps=100" in found["mg.watch("]
    found["mg.watch("] = found["mg.watch("].replace("max_steps=100", "max_steps=30")  # three pictures will do
    return found | {"prepared": PREPARED} | CONTROLS


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a copy of the notebooks, with settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(FOLDER, folder / "notebooks")
    cells = [nbformat.v4.new_code_cell(source) for source in live_cells().values()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), folder / "notebooks" / "live.ipynb")
    settings = folder / "settings"
    for plugin, values in (SETTINGS | (DARK if os.environ.get("DARK") else {})).items():
        package, name = plugin.split(":")
        path = settings / package / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [
        f"--ServerApp.port={port}",
        "--ServerApp.disable_check_xsrf=True",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
    ]
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{url}/api/status", timeout=1)
                break
            except OSError:
                assert server.poll() is None, "JupyterLab ended at its start"
                assert time.monotonic() < deadline, "JupyterLab does not answer"
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def kernel_is_idle(url):
    sessions = json.load(urllib.request.urlopen(f"{url}/api/sessions", timeout=5))
    return bool(sessions) and all(session["kernel"]["execution_state"] == "idle" for session in sessions)


def until(condition, page, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {SECONDS} s"
        page.wait_for_timeout(300)


class Live(NamedTuple):
    page: object
    cells: dict  # by their words
    pictures: set  # lengths of those that were seen where the training is watched


@pytest.fixture(scope="module")
def live(browser, lab):
    """The page after Run All Cells, when every code cell has its number."""
    page = browser.new_page(viewport={"width": 1280, "height": 1800})
    page.goto(f"{lab}/lab/tree/notebooks/live.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    until(lambda: kernel_is_idle(lab), page, "the kernel starts")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    cells = {word: page.locator(".jp-CodeCell").nth(number) for number, word in enumerate(live_cells())}
    pictures = set()

    def done():
        pictures.update(cells["mg.watch("].locator("img").evaluate_all("them => them.map(x => x.src.length)"))
        saved = page.evaluate("() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(x => x.textContent)")
        numbers = [int(n) for text in saved for n in re.findall(r"\[(\d+)\]", text)]
        return kernel_is_idle(lab) and max(numbers, default=0) >= len(cells)

    until(done, page, "all cells have run")
    page.wait_for_timeout(1000)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts() == []
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    yield Live(page, cells, pictures)
    close(page, lab)


def screenshot(page, name):
    """Of what is seen, into $SCREENSHOTS."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")


def close(page, lab):
    page.close()
    for session in json.load(urllib.request.urlopen(f"{lab}/api/sessions", timeout=5)):
        urllib.request.urlopen(urllib.request.Request(f"{lab}/api/sessions/{session['id']}", method="DELETE"), timeout=10)


def test_a_notebook_runs_and_its_live_figure_moves(live):
    screenshot(live.page, "00_one_picture")
    assert live.cells["mg.watch("].locator("img").count() == 1
    assert len(live.pictures) > 2  # it was seen empty, at its end, and between


def test_an_answer_is_called_right_and_a_step_is_taken(live):
    """Then eight new answers are there."""
    cell, step = live.cells["be_the_reward()"], live.cells["be_the_reward()"].locator("button.jupyter-button", has_text="step")
    cell.get_by_role("button", name="right", exact=True).nth(2).click()
    step.click()
    until(lambda: cell.get_by_text("step 1: 1 of 8").count() == 1, live.page, "a step is taken")
    step.scroll_into_view_if_needed()
    screenshot(live.page, "00_be_the_reward")


def test_the_rating_buttons_write_scores(live):
    page, cell = live.page, live.cells["mg.rate(records"]

    def shows(said, what):
        until(lambda: cell.get_by_text(f"{said} of 10 scored, in mine.jsonl").count() == 1, page, what)

    cell.get_by_role("button", name="undo").scroll_into_view_if_needed()
    screenshot(page, "07_triples")
    shows(0, "the widget is shown")
    cell.get_by_role("button", name="5", exact=True).click()
    shows(1, "a button scores")
    cell.get_by_placeholder("1 to 5, or u").press("3")
    shows(2, "a key scores")
    cell.get_by_role("button", name="undo").click()
    shows(1, "undo takes back")
    screenshot(page, "07_rated")


def test_no_control_is_left_out():
    modules = [
        importlib.import_module(f"minigrpo.view.controls.{path.stem}") for path in Path(controls.__path__[0]).glob("*.py")
    ]
    made = {  # what returns a widget
        f.__name__
        for module in modules
        for f in vars(module).values()
        if getattr(f, "__annotations__", {}).get("return") is Widget
    }
    assert made == {*CONTROLS, "be_the_reward"}


def test_the_controls_follow_the_hand(live):
    """Each redraws its picture when it is dragged, and says in words what its buttons are for."""
    page, drive = live.page, Hand(live.page, live.cells)
    broken = page.locator(".jp-OutputArea img").evaluate_all(
        "them => them.filter(x => x.offsetWidth && !x.naturalWidth).length"
    )
    assert broken == 0
    labels = page.locator(".widget-label")
    assert labels.evaluate_all("them => them.filter(x => x.scrollWidth > x.clientWidth).map(x => x.textContent)") == []
    drive.drag("try_temperature", "ArrowRight", slider=0)
    drive.drag("try_rewards", "ArrowUp", slider=2)
    drive.drag("try_group_size", "ArrowLeft", slider=0)
    drive.drag("try_group_size", "ArrowRight", slider=1)
    drive.drag("try_the_clip", "ArrowLeft", slider=0, says="After 59 updates the ratios are")
    drive.press("try_the_clip", "without the clip")
    drive.drag("drag_policy", "ArrowLeft", slider=1)
    drive.drag("choose_seeds", "ArrowRight", slider=0)
    drive.drag("choose_seeds", "ArrowRight", slider=1)
    drive.press("try_settings", "run 40 steps", says="mean reward of the last 3 steps")
    drive.press("open_clinic", "F")
    drive.press("open_clinic", "see the result")
    drive.press("open_clinic", "I am sure", says="No: the learning rate is too high.")


class Hand:
    """Moves what stands below the cells, and waits until the picture there is another one."""

    def __init__(self, page, cells):
        self.page, self.cells, self.moves = page, cells, 0

    def drag(self, name, key, *, slider, says=None):
        self._act(name, lambda: self.cells[name].locator(".noUi-handle").nth(slider).press(key), says)

    def press(self, name, button, *, says=None):
        whole = re.compile(rf"^\s*{button}\s*$")  # an icon brings a space
        self._act(name, self.cells[name].locator("button", has_text=whole).click, says)

    def _act(self, name, act, says):
        def shown():
            return cell.locator("img").evaluate_all("them => them.filter(x => x.offsetWidth).map(x => x.src)")

        cell = self.cells[name]
        cell.scroll_into_view_if_needed()
        before = shown()
        screenshot(self.page, f"control-{self.moves:02d}-{name}-before")
        act()
        if says:
            until(lambda: cell.get_by_text(says).count() == 1, self.page, f"{name} says {says!r}")
        else:
            until(lambda: shown() != before, self.page, f"{name} draws anew")
        screenshot(self.page, f"control-{self.moves:02d}-{name}-then")
        self.moves += 1
