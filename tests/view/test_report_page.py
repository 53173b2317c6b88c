"""The page of minigrpo report in a real browser: no request, no error, and the package's numbers under every switch.

Needs Chromium, as tests/test_browser.py does; screenshots go to $SCREENSHOTS where that is set.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from minigrpo.advantages import compute_advantages
from minigrpo.config import GRPOConfig
from minigrpo.kl import estimate_kl, kl_penalized_rewards
from minigrpo.loss import aggregate, cispo_objective, clipped_objective, grpo_loss, importance_ratio
from minigrpo.run.report import Report
from minigrpo.view.report import Run, render

pytestmark = pytest.mark.browser
P, G, C = 3, 5, 7
NAMES = ("ratio", "objective", "kl", "weight", "loss", "push", "advantage")
SWITCHES = [
    {},
    {"epsilon": 0.05},
    {"epsilon": 0.5},
    {"beta": 0.0},
    {"beta": 1.5},
    *({"loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")),
    *({"scale_rewards": name} for name in ("group", "batch", "none")),
    {"loss_type": "dapo", "epsilon": 0.1, "beta": 0.3, "scale_rewards": "none"},
]
IDS = {"loss_type": "lossType", "scale_rewards": "scaleRewards"}


def line(step=10, *, seed=0, reference=True):
    """A line of tokens.jsonl: ratios on both sides of the clip, a reward that nobody gave, lengths from 1 to C."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, C + 1, (P * G,), generator=generator).tolist()

    def logprobs(like=None, by=0.0):
        rows = like or [(-4 * torch.rand(n, generator=generator)).tolist() for n in lengths]
        moved = [[x + by * torch.randn((), generator=generator).item() for x in row] for row in rows]
        return [[round(min(x, 0.0), 4) for x in row] for row in moved]

    old = logprobs()
    rewards = torch.randint(0, 4, (P * G,), generator=generator).double().tolist()
    mask = [[1] * n for n in lengths]
    longest = lengths.index(max(lengths))
    mask[longest][0] = 0
    ref = logprobs(old, 0.8)
    ref[longest][1] = 0.0
    old[longest][1] = -25.0  # k3 goes on as its tangent
    new = logprobs(old, 0.3)
    rewards[1] = None
    return {
        "step": step,
        "prompts": ["What is 1 + 1?", "<script>alert(1)</script>", "等于\n几"],
        "group_ids": [i // G for i in range(P * G)],
        "rewards": rewards,
        "ended": [1] * (P * G - 1) + [0],
        "tokens": [[f"{i}.{t}" for t in range(n)] for i, n in enumerate(lengths)],
        "completion_mask": mask,
        "old_logprobs": old,
        "ref_logprobs": ref if reference else None,
        "logprobs": new,
    }


def tensors(line):
    """Rewards and group ids (B,), mask, old, reference and new log-probs (B, C), in float64."""

    def padded(rows):
        rows = rows or [[0.0] * len(row) for row in line["completion_mask"]]
        return torch.tensor([row + [0.0] * (C - len(row)) for row in rows], dtype=torch.float64)

    rewards = torch.tensor([float("nan") if r is None else r for r in line["rewards"]], dtype=torch.float64)
    columns = [padded(line[name]) for name in ("completion_mask", "old_logprobs", "ref_logprobs", "logprobs")]
    return rewards, torch.tensor(line["group_ids"]), columns[0].bool(), *columns[1:]


def advantages_of(line, config):
    rewards, group_ids, mask, old, ref, _ = tensors(line)
    if config.kl_in_reward and config.beta and line["ref_logprobs"]:
        rewards = kl_penalized_rewards(rewards, old, ref, mask, config.beta)
    return compute_advantages(rewards, group_ids, scale_rewards=config.scale_rewards)


def by_the_package(line, config, written_down):
    """What the algebra says of every token: name -> (B, C), and the loss."""
    _, _, mask, old, ref, new = tensors(line)
    new.requires_grad_()
    advantages = advantages_of(line, config) if written_down is None else written_down
    kl = estimate_kl(new, ref, old, estimator=config.kl_estimator) if line["ref_logprobs"] else torch.zeros_like(new)
    beta = config.beta if line["ref_logprobs"] and not config.kl_in_reward else 0.0
    same = {
        "loss_type": config.loss_type,
        "max_completion_length": config.max_completion_length,
    }
    result = grpo_loss(
        new,
        old,
        advantages,
        mask,
        kl=kl,
        beta=beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        importance_sampling_level=config.importance_sampling_level,
        **same,
    )
    push = -torch.autograd.grad(result.loss, new)[0]
    with torch.no_grad():
        ratio = importance_ratio(new, old, mask, config.importance_sampling_level).expand_as(new)
        column = advantages.unsqueeze(1)
        if config.loss_type == "cispo":
            objective = cispo_objective(ratio, new, column, config.epsilon_high)
        else:
            objective = clipped_objective(ratio, column, config.epsilon, config.epsilon_high)
        one_hot = torch.eye(mask.numel(), dtype=torch.float64).reshape(-1, *mask.shape)
        weight = torch.stack([aggregate(one, mask, **same) for one in one_hot]).reshape(mask.shape)
    parts = weight * (beta * kl.detach() - objective)
    columns = (ratio, objective, kl.detach(), weight, parts, push, column.expand_as(new))
    return dict(zip(NAMES, columns, strict=True)), result.loss.item(), result.clip_fraction.item()


def run(name="run", lines=None, written_down=False, **settings):
    settings = {"max_completion_length": C, "generation_batch_size": P * G, "num_generations": G, **settings}
    config = GRPOConfig(**settings)
    lines = lines or [line(10), line(20, seed=1)]
    for number, kept in enumerate(lines):
        made = torch.linspace(0.2, 2, P * G, dtype=torch.float64) + number if written_down else advantages_of(kept, config)
        kept["advantages"] = made.tolist()
    metrics = [{"step": k, "reward": k / 7, "kl": None if k == 3 else k**2 / 1000, "loss": 0.0} for k in range(1, 21)]
    return Run(name, config.to_dict(), metrics, lines)


@pytest.fixture(scope="module")
def window(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def opened(window, tmp_path):
    """Opens the page of some runs from disk, every group of it; at the end nothing was asked for and nothing went wrong."""
    wrong, pages = [], []
    listeners = {
        "request": lambda request: request.url == pages[-1].as_uri() or wrong.append(request.url),
        "console": lambda message: wrong.append(message.text),
        "pageerror": lambda error: wrong.append(str(error)),
    }
    for event, listener in listeners.items():
        window.on(event, listener)

    def open_page(runs, max_bytes=3_000_000, width=1280, scheme="light"):
        pages.append(tmp_path / f"report-{len(pages)}.html")
        pages[-1].write_text(render(runs, max_bytes=max_bytes), encoding="utf-8")
        window.set_viewport_size({"width": width, "height": 900})
        window.emulate_media(color_scheme=scheme)
        window.mouse.move(0, 0)
        window.goto(pages[-1].as_uri())
        open_groups(window)
        return window

    yield open_page
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    assert wrong == []


def open_groups(page):
    page.evaluate("document.querySelectorAll('#views details').forEach((group) => (group.open = true))")
    page.wait_for_timeout(60)  # a toggle is told of a moment later


def numbers(page, places, changes=None):
    """Switch from the run's settings to these, choose each token, and read the numbers of its formula."""
    script = """([places, changes]) => {
        document.body.style.display = "none"; // nothing is laid out for each token
        if (changes) document.querySelector("#reset").click();
        for (const [id, value] of Object.entries(changes ?? {})) {
            const field = document.querySelector(`#${id}`);
            field.value = value;
            field.dispatchEvent(new Event("input"));
        }
        const read = (place) => {
            document.querySelector(`[data-at="${place}"]`).click();
            const named = [...document.querySelectorAll("#formula [data-name]")];
            return Object.fromEntries(named.map((data) => [data.dataset.name, Number(data.value)]));
        };
        const found = places.map(read);
        document.body.style.display = "";
        return found;
    }"""
    fields = {IDS.get(name, name): value for name, value in changes.items()} if changes is not None else None
    return page.evaluate(script, [places, fields])


def fact(page, name):
    return float(page.locator(f'[data-name="{name}"]').get_attribute("value"))


def screenshot(page, name):
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")


# --- the numbers ------------------------------------------------------------------------------------------------------

KINDS = {
    "defaults": {},
    "sequence": {"importance_sampling_level": "sequence", "kl_estimator": "k3", "epsilon_high": 0.28},
    "kl in the reward": {"kl_in_reward": True, "beta": 0.1, "scale_rewards": "none"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1, "kl_estimator": "k2"},
    "k1, no reference": {"kl_estimator": "k1", "beta": 0.0, "lines": "without"},
    "advantages of its own": {"written_down": True, "loss_type": "dr_grpo", "kl_estimator": "k1"},
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_fifty_tokens_have_the_packages_numbers_under_every_switch(opened, settings):
    settings = dict(settings)
    lines = [line(10, reference=False)] if settings.pop("lines", None) else [line(10), line(20, seed=1)]
    made = run(lines=lines, **settings)
    page = opened([made])
    last = lines[-1]
    counted = [(i, t) for i, row in enumerate(last["completion_mask"]) for t, counts in enumerate(row) if counts]
    order = torch.randperm(len(counted), generator=torch.Generator().manual_seed(0))[:50].tolist()
    places = [counted[k] for k in order]
    assert len(places) >= 45
    written_down = torch.tensor(last["advantages"], dtype=torch.float64) if settings.pop("written_down", False) else None
    for changes in SWITCHES:
        now = {**made.config, **changes}
        if now["loss_type"] == "cispo" and made.config["loss_type"] != "cispo":
            now["epsilon_high"] = 5.0
        if now["loss_type"] != "cispo" and made.config["loss_type"] == "cispo":
            now["epsilon_high"] = None
        wanted, loss, clipped = by_the_package(last, GRPOConfig(**now), written_down)
        named = [f"0 {i} {t}" for i, t in places]
        for (i, t), found in zip(places, numbers(page, named, changes), strict=True):
            assert found.keys() == {*NAMES} - ({"kl"} if last["ref_logprobs"] is None else set())
            for name, value in found.items():
                assert value == pytest.approx(wanted[name][i, t].item(), rel=1e-6, abs=1e-6), (changes, i, t, name)
        assert fact(page, "loss-0") == pytest.approx(loss, rel=1e-6, abs=1e-6)
        assert fact(page, "clipped-0") == pytest.approx(clipped, abs=1e-6)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_formula_reads_as_in_the_lesson(opened):
    one = line()
    old, new = one["old_logprobs"], one["logprobs"]
    old[0][0], new[0][0], one["rewards"][0] = -0.92, -0.69, 3.0
    one["rewards"][1:5] = [0.0, 1.0, 1.0, 1.0]
    page = opened([run(lines=[one])])
    page.locator('[data-at="0 0 0"]').click()
    said = page.locator("#formula").inner_text()
    assert "(3 − 1.2) / (1.1 + 0.0001) = 1.64" in said
    assert "exp(log-prob now − at sampling) = exp(−0.69 + 0.92) = 1.26" in said
    assert "min(r · A, clip(r, 0.8, 1.2) · A) = min(1.26 · 1.64, 1.2 · 1.64) = 1.97" in said
    assert page.locator("#lines dd").last.inner_text().startswith("0: clipped; of the KL ")
    page.fill("#beta", "0")
    assert page.locator("#lines dd").last.inner_text() == "0: clipped"
    page.click("#reset")
    assert page.locator("#lines dd").last.inner_text().startswith("0: clipped; of the KL ")
    page.keyboard.press("Escape")
    assert page.locator("#formula").is_hidden()


def test_groups_stand_in_the_order_of_their_contrast_and_texts_are_only_texts(opened):
    one = line()
    one["rewards"] = [1.0] * G + [0.0, 1.0] * 2 + [1.0] + [0.0, 2.0] * 2 + [2.0]
    page = opened([run(lines=[one])])
    prompts = page.locator("#views summary code").all_inner_texts()
    assert prompts == ["等于\n几", "<script>alert(1)</script>", "What is 1 + 1?"]
    assert "silent" in page.locator("#views summary").last.inner_text()
    assert "1 of 3 groups silent" in page.locator(".facts").inner_text()
    assert page.locator(".cut").all_inner_texts() == ["cut off"]


def test_each_token_is_seen_and_can_be_chosen_be_it_a_line_break_or_nothing(opened):
    one = line()
    row = next(i for i, tokens in enumerate(one["tokens"]) if len(tokens) >= 5)
    one["tokens"][row][:5] = [" the", "\n\n", r"\xe7\xad", "\x07", ""]
    tokens = opened([run(lines=[one])]).locator(f'[data-at^="0 {row} "]')
    assert tokens.all_text_contents()[:5] == [" the", "\\n\n\\n\n", r"\xe7\xad", r"\x07", "''"]


def test_pointer_and_keys_give_exact_values_and_lead_to_the_step(opened):
    page = opened([run()])
    figure = page.locator("figure").first
    box = figure.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * (44 / 340 + (340 - 52) / 340 * 9 / 19), box["y"] + 50)
    assert figure.locator("output").inner_text() == "step 10: 1.428571"
    assert page.locator("figure").nth(1).locator("output").inner_text() == "step 10: 0.1"  # all panels point at one step
    figure.locator("svg").focus()
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    assert page.locator("figure").nth(1).locator("output").inner_text() == "step 3: –"
    page.keyboard.press("ArrowLeft")
    assert figure.locator("output").inner_text() == "step 2: 0.2857143"
    page.keyboard.press("Enter")
    assert page.locator("#step").inner_text() == "10"  # the first that was kept
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#step").inner_text() == "20"


def test_arrow_keys_move_among_tokens(opened):
    page = opened([run()])
    first = page.locator(".completion").first.locator(".token").first
    first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#formula").is_visible()
    at = page.locator(".selected").get_attribute("data-at")
    page.keyboard.press("ArrowDown")
    below = page.locator(".selected").get_attribute("data-at")
    assert below.split()[1] != at.split()[1]
    page.keyboard.press("ArrowUp")
    assert page.locator(".selected").get_attribute("data-at") == at


def test_runs_stand_side_by_side_each_with_its_own_settings(opened):
    other = run("other", lines=[line(15, seed=3)], beta=0.5, loss_type="dapo")
    page = opened([run("one"), other])
    left, right = (column.bounding_box() for column in page.locator(".run").all())
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]
    assert page.locator("#lossType option").first.inner_text() == "as run: grpo, dapo"
    wanted = by_the_package(other.kept[0], GRPOConfig(**other.config), None)[1]
    assert fact(page, "loss-1") == pytest.approx(wanted, abs=1e-6)
    assert "step 15" in page.locator(".facts").nth(1).inner_text()
    readout = page.locator("figure output").first.inner_text()
    assert readout == "step 20: 2.857143, 2.857143"


def test_a_run_without_tokens_shows_its_completions_whole(opened):
    """As the engine trl leaves it, and runs of the first edition."""
    samples = {
        "step": 10,
        "prompts": ["a"] * 2 + ["b"] * 2,
        "completions": ["x", "y z", "x", "y z"],
        "rewards": [0.0, 1.0, 1.0, 1.0],
    }
    samples["advantages"] = compute_advantages(torch.tensor(samples["rewards"]), torch.tensor([0, 0, 1, 1])).tolist()
    page = opened([Run("trl", GRPOConfig(engine="trl").to_dict(), [{"step": 10, "reward": 0.75}], [samples])])
    assert "this run kept no tokens" in page.locator(".facts").inner_text()
    assert page.locator("#color").is_disabled()
    assert page.input_value("#color") == "advantage"  # which is what the colours are of
    page.get_by_text("y z").first.click()
    assert "(1 − 0.5) / (0.707 + 0.0001) = 0.707" in page.locator("#formula").inner_text()
    page.select_option("#scaleRewards", "none")
    assert fact(page, "advantage") == 0.5


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1280, "dark"), (1920, "light")])
def test_nothing_is_cut_off_on_a_telephone_or_a_projector(opened, width, scheme):
    long = line()
    long["prompts"][0] = "antidisestablishmentarianism" * 8
    long["tokens"][0][0] = "supercalifragilisticexpialidocious" * 4
    page = opened([run(lines=[long]), run("another")], width=width, scheme=scheme)
    page.locator('[data-at="0 0 0"]').click()
    screenshot(page, f"report-{width}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    top = page.locator("#formula").bounding_box()["y"]
    assert page.locator(".selected").bounding_box()["y"] < top
    before = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, 0)")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != before


def test_the_axis_of_a_curve_that_hardly_moves_fits_its_margin(opened):
    one = run()
    one = Run(one.name, one.config, [{**row, "entropy": 5.66334 + 1e-6 * row["step"]} for row in one.metrics], one.kept)
    page = opened([one])
    starts = page.evaluate("[...document.querySelectorAll('figure svg text')].map((text) => text.getBBox().x)")
    assert min(starts) >= 0


def test_in_a_notebook_it_works_inside_its_frame(browser):
    page = browser.new_page()
    page.set_content(Report(render([run()], max_bytes=300_000))._repr_html_())
    frame = page.frames[1]
    frame.locator(".token").first.click()
    assert "min(r · A" in frame.locator("#formula").inner_text()
    page.close()


def test_what_was_found_stands_above_the_curves(opened):
    """One finding as ``minigrpo diagnose`` makes them, and one of less."""
    full = {"title": "Every answer is cut off.", "kind": "wrong", "follows": ["no group differs", "nothing moves"]}
    full |= {"seen": "100% at 16 tokens <b>", "means": "No EOS.", "do": "Raise it.", "sure": "certain", "lesson": "05_failures"}
    less = {"seen": "The loss is 0.", "means": "So it should be.", "do": "", "sure": "certain", "lesson": "", "kind": "normal"}
    page = opened([run()._replace(findings=[full, less])])
    first, second = page.locator(".finding").all()
    assert "Every answer is cut off. certain" in first.inner_text()
    for text in ("100% at 16 tokens <b>", "No EOS.", "Raise it.", "no group differs; nothing moves", "05_failures"):
        assert text in first.locator("dl").inner_text()
    assert "The loss is 0. certain: normal, though it may look alarming" in second.inner_text()
    assert second.locator("dl").is_hidden()


def test_a_page_that_would_be_too_large_leaves_out_steps_and_then_groups_and_says_so(opened):
    many = [line(10 * k, seed=k) for k in range(1, 10)]
    made = run(lines=many)
    frame = len(render([made._replace(kept=[])], max_bytes=10**9).encode())
    a_line = len(json.dumps(made.kept[0], separators=(",", ":")).encode())
    page = opened([made], max_bytes=frame + 6 * a_line)
    assert page.locator("#slider").get_attribute("max") == "4"
    assert "5 of 9 kept steps are here" in page.content()
    page = opened([made], max_bytes=frame + int(1.8 * a_line))
    assert "groups of less contrast are left out" in page.locator(".facts").inner_text()
    assert page.locator("#views details").count() < P
    page.locator(".token").last.click()
    i, t = map(int, page.locator(".selected").get_attribute("data-at").split()[1:])
    wanted = by_the_package(many[-1], GRPOConfig(**made.config), None)[0]
    found = numbers(page, [f"0 {i} {t}"])[0]
    assert found["push"] == pytest.approx(wanted["push"][i, t].item(), abs=1e-6)  # of the whole step, not of what is shown
