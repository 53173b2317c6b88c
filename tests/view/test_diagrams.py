import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from minigrpo.config import BadInput
from minigrpo.sampling import sample_completions
from minigrpo.view.diagrams import (
    beginnings,
    plot_clipping,
    plot_prefix_tree,
    plot_shift,
)
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


def test_the_clip_is_drawn_by_the_function_that_trains():
    axes = plot_clipping(epsilon=0.2)
    for ax, flat_from, level in ((axes[0], 1.2, 1.2), (axes[1], 0.0, -0.8)):
        line = ax.lines[1]
        at = np.abs(line.get_xdata() - (flat_from + 0.3)).argmin()
        assert line.get_ydata()[at] == pytest.approx(level)


def test_the_shift_puts_each_completion_token_above_the_input_before_it():
    ax = plot_shift(["2", "="], ["<", "$x$", "⏎"])
    above = {text.get_position()[0]: text.get_text() for text in ax.texts if text.get_position()[1] == 1.5}
    scored = {text.get_position()[0] for text in ax.texts if text.get_fontweight() == "bold"}
    assert above == {0: "=", 1: "<", 2: "$x$", 3: "⏎", 4: "–", -0.8: "target"}
    assert scored == {1, 2, 3}, "as many as the completion has tokens, from the last of the prompt on"
    with pytest.raises(BadInput, match="at least one token each"):
        plot_shift([], ["4"])


def test_a_tree_takes_tokens_of_any_text_and_refuses_none():
    ax = plot_prefix_tree("a $ b\n", [["$x", "\n"], [""]])
    ax.figure.canvas.draw()
    assert {"a $ b\\n", "$x", "\\n", "''"} <= {text.get_text() for text in ax.texts}
    with pytest.raises(BadInput, match="at least one token"):
        plot_prefix_tree("?", [])
