"""A heat strip: white is 0, blue is up and orange is down, and the number stands in its square."""

import math

import matplotlib.pyplot as plt
import pytest
import torch

from minigrpo.config import BadInput
from minigrpo.view.strips import plot_tokens

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def color_of(ax, value):
    (image,) = ax.images
    return image.cmap(image.norm(value))[:3]


def test_of_both_signs_blue_is_above_0_orange_below_and_white_is_0():
    ax = plot_tokens([["a", "b", "c"]], torch.tensor([[-0.5, 0.0, 2.0]]), label="push")
    red, _, blue = color_of(ax, 2.0)
    assert blue > red
    red, _, blue = color_of(ax, -0.5)
    assert red > blue
    assert color_of(ax, 0.0) == pytest.approx((1, 1, 1), abs=0.01)
    assert color_of(ax, -0.5)[2] > color_of(ax, -2.0)[2], "as strong a colour for as large a number, up or down"


@pytest.mark.parametrize("sign", [1, -1])
def test_of_one_sign_the_colour_is_the_size(sign):
    ax = plot_tokens([["a", "b", "c"]], sign * torch.tensor([[0.0, 1.0, 3.0]]), label="nats")
    lightness = [sum(color_of(ax, sign * value)) for value in (0.0, 1.0, 3.0)]
    assert lightness == sorted(lightness, reverse=True)
    assert lightness[0] == pytest.approx(3)


def test_a_long_completion_has_no_room_for_numbers():
    ax = plot_tokens([["a"] * 30], torch.ones(1), label="reward")
    assert [text.get_text() for text in ax.texts] == ["a"] * 30


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64, torch.int64])
def test_a_heat_strip_takes_values_of_any_kind_and_tokens_of_any_text(kind):
    values = torch.tensor([[1, 2, 0], [3, 0, 0]]).to(kind)
    values = values.requires_grad_() if kind.is_floating_point else values
    ax = plot_tokens([["$x", "\n", "\t"], [""]], values, label="nats")
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.texts] == ["$x", "1.00", "\\n", "2.00", "\\t", "0.00", "''", "3.00"]
    plot_tokens([["a", "b"]], torch.tensor([[math.nan, math.nan]]), label="nats").figure.canvas.draw()
    plot_tokens([["a", "b"]], torch.tensor([2.0]), label="advantage")


@pytest.mark.parametrize(("tokens", "values"), [([["a", "b"]], torch.zeros(1, 3)), ([["a"]], [[0.0]]), ([], torch.zeros(0, 0))])
def test_a_heat_strip_of_another_shape_is_refused(tokens, values):
    with pytest.raises(BadInput, match=r"must be a (tensor|list)"):
        plot_tokens(tokens, values, label="nats")
