"""Rewards in, advantages out; G and p in, the share of silent groups out."""

import itertools

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

from minigrpo import BadInput, compute_advantages
from minigrpo.view.controls.advantages import plot_rewards, plot_silent, share_silent, try_group_size, try_rewards
from minigrpo.view.plots import BLUE, ORANGE

pytestmark = pytest.mark.quick


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def test_the_bars_are_the_rewards_and_their_advantages():
    left, right = plot_rewards([1, 0, 0, 0, 0, 0, 0, 0])
    assert heights(left) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert heights(right) == pytest.approx([7 / 8**0.5] + [-1 / 8**0.5] * 7, rel=1e-3)
    assert [bar.get_facecolor()[:3] for bar in right.patches[:2]] == [to_rgb(BLUE), to_rgb(ORANGE)]
    plt.close("all")


def test_a_group_without_differences_says_that_there_is_nothing_to_compare():
    _, right = plot_rewards([0.7] * 5)
    assert heights(right) == [0] * 5
    assert "nothing to compare" in right.get_title()
    plt.close("all")


def test_the_share_of_silent_groups_is_what_counting_all_groups_gives():
    """Every group of G answers, each with its probability; those count whose advantages are all 0."""
    for size, rate in ((2, 0.5), (3, 0.2), (5, 0.9)):
        silent = 0.0
        for group in itertools.product([0.0, 1.0], repeat=size):
            if not compute_advantages(torch.tensor(group), torch.zeros(size, dtype=torch.long)).any():
                silent += rate ** sum(group) * (1 - rate) ** (size - sum(group))
        assert share_silent(rate, size) == pytest.approx(silent)


def test_the_marked_point_and_the_title_say_the_share():
    ax = plot_silent(num_generations=4, rate=0.5)
    assert "12% of the groups" in ax.get_title()
    assert list(ax.lines[-1].get_ydata()) == [0.125]
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("control", [try_rewards, try_group_size])
def test_a_slider_draws_anew(control):
    sliders, picture = control().children
    drawn, slider = picture.value, sliders.children[0]
    first = slider.value
    slider.value = slider.min
    assert picture.value != drawn
    slider.value = first
    assert picture.value == drawn


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(BadInput, match="nothing to compare; got 1"):
        plot_rewards([1.0])
    with pytest.raises(BadInput, match="at least 2 answers"):
        plot_silent(num_generations=1)
    with pytest.raises(BadInput, match="from 0 to 1"):
        plot_silent(rate=1.5)
