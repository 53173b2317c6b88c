import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex

from minigrpo.sampling import sample_completions
from minigrpo.view.diagrams import beginnings, plot_chunked_head, plot_prefix_tree
from minigrpo.view.plots import BLUE, ORANGE
from minigrpo.view.tokens import completion_tokens

pytestmark = pytest.mark.quick

TOKENS = [["a", "b", "."], ["d", "."], ["a", "c", "."], ["a", "b", "."]]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_beginnings_are_the_rows_that_the_sampler_runs_on(tiny):
    model, tokenizer = tiny
    rows_read = []
    hook = model.base_model.register_forward_pre_hook(lambda module, args: rows_read.append(len(args[0])))
    settings = {"num_generations": 24, "max_completion_length": 9, "generator": torch.Generator().manual_seed(0)}
    rollout = sample_completions(model, tokenizer, ["7*3+5*8-2+9="], **settings)  # a thought, of 13 tokens, is cut off
    hook.remove()
    assert rows_read[1:] == [len(texts) for texts in beginnings(completion_tokens(tokenizer, rollout))]
    assert max(rows_read) < 24


def test_the_tree_has_a_box_for_each_different_beginning_and_says_what_is_shared():
    ax = plot_prefix_tree("?", TOKENS)
    boxes = {
        (t.get_position()[0], t.get_text()): to_hex(t.get_bbox_patch().get_facecolor()) for t in ax.texts if t.get_bbox_patch()
    }
    blue, white = BLUE.lower(), "#ffffff"
    assert boxes == {
        **{(0.25, "?"): blue, (1, "a"): blue, (2, "b"): blue},
        **{(1, "d"): white, (2, "c"): white, (2, "."): white, (3, "."): white},
    }
    assert [t.get_text() for t in ax.texts if "times" in t.get_text()] == ["2 times"]
    assert len(ax.lines) == 7  # edges: one into each box but the prompt's; a b . and a c . end in different ones


def test_below_the_tree_stand_the_rows_with_and_without_it():
    ax = plot_prefix_tree("?", TOKENS)
    numbers = [t for t in ax.texts if t.get_text().isdigit()]
    assert [int(t.get_text()) for t in numbers if t.get_color() == ORANGE] == [4, 4, 3]
    assert [int(t.get_text()) for t in numbers if t.get_color() == BLUE] == [1, 2, 2]
    assert [t.get_position()[0] for t in numbers if t.get_color() == BLUE] == [0, 1, 2]


def test_a_parent_stands_in_the_middle_of_its_children():
    ax = plot_prefix_tree("?", TOKENS)
    height = {(x, t.get_text()): y for t in ax.texts if t.get_bbox_patch() for x, y in [t.get_position()]}
    assert height[1, "a"] == (height[2, "b"] + height[2, "c"]) / 2
    assert len({y for (x, _), y in height.items() if x == 2}) == 3


def test_the_chunked_head_draws_what_was_measured_beside_what_is_expected():
    held, measured = plot_chunked_head((1000, 32, 2000), {4: 500_001, 1: 2_000_003})
    assert [t.get_text() for t in held.texts].count("held now") == 1
    lines = {line.get_label(): line for line in measured.lines}
    assert lines["measured"].get_xdata().tolist() == [1, 4]
    assert lines["measured"].get_ydata().tolist() == [2_000_003, 500_001]
    assert lines["N · V / chunks"].get_ydata().tolist() == [2_000_000, 500_000]
    assert set(lines["D · V, the head's own gradient"].get_ydata()) == {64_000}
